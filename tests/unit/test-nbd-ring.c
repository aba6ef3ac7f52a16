/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests that have no thread of their own (block/export/nbd-ring.c) */
#include <check.h>
#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/submit.h"
#include "fake-block.h"
#include "nbd-peer.h"
#include "unit-main.h"
#include "util/uring.h"

#define SIZE (8 << 20)
#define BLOCK 4096
#define DEPTH 64
#define LONG BLK_SUBMIT_MAX

static NbdLimits usual_limits;

static void setup(void)
{
    usual_limits = nbd_limits;
    peer_server_start(SIZE);
    for (int i = 0; i < SIZE; i += 4) {
        memcpy(fake.data + i, &i, 4);
    }
    fake.submits = true;
}

static void teardown(void)
{
    fake_hold(false);
    peer_server_stop();
    nbd_limits.helpers = usual_limits.helpers;
    nbd_limits.memory = usual_limits.memory;
}

static void set_submits(bool submits)
{
    MUTEX_GUARD(&fake.lock);

    fake.submits = submits;
}

static unsigned submitted(void)
{
    MUTEX_GUARD(&fake.lock);

    return fake.submitted;
}

/* What is said by way of the ring ThreadSanitizer does not hear: all accesses to the
 * disk are locked. */
static void assert_on_disk(uint64_t offset, const uint8_t *data, uint32_t bytes)
{
    MUTEX_GUARD(&fake.lock);

    ck_assert_mem_eq(data, fake.data + offset, bytes);
}

static void make_hole(int block)
{
    MUTEX_GUARD(&fake.lock);

    fake.holes = true;
    memset(fake.status, BDRV_BLOCK_DATA, SIZE / FAKE_BLOCK);
    fake.status[block] = BDRV_BLOCK_ZERO;
    memset(fake.data + block * BLOCK, 0, BLOCK);
}

/* READs of block 0, 1, 2..., with these cookies */
static void send_reads(int fd, int n)
{
    for (int i = 0; i < n; i++) {
        peer_request(fd, 0, NBD_CMD_READ, i, i * BLOCK, BLOCK);
    }
}

/* Each once, in any order */
static void expect_reads(int fd, int n)
{
    g_autofree bool *seen = g_new0(bool, n);
    uint8_t data[BLOCK];

    for (int i = 0; i < n; i++) {
        uint64_t cookie = peer_simple_reply(fd, NBD_SUCCESS);

        ck_assert_uint_lt(cookie, n);
        ck_assert(!seen[cookie]);
        seen[cookie] = true;
        peer_recv(fd, data, BLOCK);
        assert_on_disk(cookie * BLOCK, data, BLOCK);
    }
}

static void send_write(int fd, uint64_t cookie, uint64_t offset, uint32_t bytes)
{
    g_autofree uint8_t *data = g_malloc(bytes);

    memset(data, cookie, bytes);
    peer_request(fd, 0, NBD_CMD_WRITE, cookie, offset, bytes);
    peer_send(fd, data, bytes);
}

static void assert_written(uint64_t offset, uint32_t bytes, int byte)
{
    MUTEX_GUARD(&fake.lock);

    for (uint32_t i = 0; i < bytes; i++) {
        ck_assert_int_eq(fake.data[offset + i], byte);
    }
}

/* ---- requests ------------------------------------------------------------- */

START_TEST(test_reads)
{
    int fd = peer_open("rw", false);

    send_reads(fd, 500);
    expect_reads(fd, 500);
    ck_assert_uint_eq(submitted(), 500);
    close(fd);
}
END_TEST

/* More at once than there are threads in a crew */
START_TEST(test_depth)
{
    int fd = peer_open("rw", false);

    fake_hold(true);
    send_reads(fd, 100);
    fake_wait_in_flight(DEPTH);
    /* The next waits for one of them. */
    fake_answer(1);
    while (submitted() <= DEPTH) {
        g_thread_yield();
    }
    fake_wait_in_flight(DEPTH);
    fake_hold(false);
    fake_answer(DEPTH);
    expect_reads(fd, 100);
    ck_assert_uint_eq(submitted(), 100);
    close(fd);
}
END_TEST

START_TEST(test_writes)
{
    static const uint32_t lengths[] = { 512, 4096, 20000, LONG, 1 };
    int fd = peer_open("rw", false);

    for (int i = 0; i < 100; i++) {
        send_write(fd, i, i * 65536, lengths[i % 5]);
    }
    for (int i = 0; i < 100; i++) {
        ck_assert_uint_lt(peer_simple_reply(fd, NBD_SUCCESS), 100);
    }
    for (int i = 0; i < 100; i++) {
        assert_written(i * 65536, lengths[i % 5], i);
    }
    ck_assert_uint_eq(submitted(), 100);
    close(fd);
}
END_TEST

START_TEST(test_structured)
{
    g_autofree uint8_t *data = g_malloc(LONG);
    int fd = peer_open("rw", true);
    bool done;

    make_hole(1);
    peer_request(fd, 0, NBD_CMD_READ, 1, 65536, LONG);
    peer_read_reply(fd, 1, 65536, data, LONG);
    assert_on_disk(65536, data, LONG);
    /* A hole, unless data is asked for */
    peer_request(fd, 0, NBD_CMD_READ, 2, BLOCK, BLOCK);
    ck_assert_uint_eq(peer_chunk(fd, 2, NBD_REPLY_TYPE_OFFSET_HOLE, &done), 12);
    ck_assert(done);
    peer_recv(fd, data, 12);
    peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 3, BLOCK, BLOCK);
    ck_assert_uint_eq(peer_chunk(fd, 3, NBD_REPLY_TYPE_OFFSET_DATA, &done),
                      8 + BLOCK);
    ck_assert(done);
    peer_recv(fd, data, 8 + BLOCK);
    assert_on_disk(BLOCK, data + 8, BLOCK);
    send_write(fd, 4, 0, BLOCK);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 4);
    ck_assert_uint_eq(submitted(), 2);
    close(fd);
}
END_TEST

START_TEST(test_extended)
{
    uint8_t data[8 + BLOCK];
    int fd = peer_open_extended("rw");
    bool done;

    peer_request_extended(fd, 0, NBD_CMD_READ, 1, 65536, BLOCK);
    ck_assert_uint_eq(
        peer_chunk_extended(fd, 1, 65536, NBD_REPLY_TYPE_OFFSET_DATA, &done),
        8 + BLOCK);
    peer_recv(fd, data, 8 + BLOCK);
    assert_on_disk(65536, data + 8, BLOCK);
    memset(data, 'x', BLOCK);
    peer_request_extended(fd, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_WRITE, 2, BLOCK,
                          BLOCK);
    peer_send(fd, data, BLOCK);
    ck_assert_uint_eq(
        peer_chunk_extended(fd, 2, BLOCK, NBD_REPLY_TYPE_NONE, &done), 0);
    assert_written(BLOCK, BLOCK, 'x');
    ck_assert_uint_eq(submitted(), 2);
    close(fd);
}
END_TEST

/* Nobody knows whether data follows. */
START_TEST(test_write_without_payload)
{
    int fd = peer_open_extended("rw");

    peer_request_extended(fd, 0, NBD_CMD_WRITE, 1, BLOCK, BLOCK);
    peer_expect_eof(fd);
    ck_assert_uint_eq(submitted(), 0);
}
END_TEST

START_TEST(test_zero_as_data)
{
    uint8_t data[BLOCK];
    int fd = peer_open("rw", false);

    make_hole(0);
    peer_request(fd, 0, NBD_CMD_READ, 1, 0, BLOCK);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 1);
    peer_recv(fd, data, BLOCK);
    for (int i = 0; i < BLOCK; i++) {
        ck_assert_uint_eq(data[i], 0);
    }
    ck_assert_uint_eq(submitted(), 0);
    close(fd);
}
END_TEST

/* More than there is room for, and nothing for the kernel to do */
START_TEST(test_many_zeroes)
{
    g_autofree uint8_t *data = g_malloc0(BLOCK);
    int fd = peer_open("rw", false);
    NbdRequestHeader reads[300];

    make_hole(0);
    for (int i = 0; i < 300; i++) {
        reads[i] = (NbdRequestHeader){
            .magic = GUINT32_TO_BE(NBD_REQUEST_MAGIC),
            .cookie = GUINT64_TO_BE(i),
            .length = GUINT32_TO_BE(512),
        };
    }
    peer_send(fd, reads, sizeof(reads));
    for (int i = 0; i < 300; i++) {
        peer_simple_reply(fd, NBD_SUCCESS);
        peer_recv(fd, data, 512);
        assert_on_disk(0, data, 512);
    }
    close(fd);
}
END_TEST

START_TEST(test_errors)
{
    int fd = peer_open("rw", false), structured = peer_open("rw", true);

    fake_fail(FAKE_READ, EIO, 0);
    fake_fail(FAKE_WRITE, ENOSPC, 0);
    peer_request(fd, 0, NBD_CMD_READ, 1, 0, BLOCK);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_EIO), 1);
    peer_request(structured, 0, NBD_CMD_READ, 2, 0, BLOCK);
    peer_error_chunk(structured, 2, NBD_EIO);
    fake_fail(FAKE_WRITE, ENOSPC, 0);
    send_write(fd, 3, 0, BLOCK);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_ENOSPC), 3);
    ck_assert_uint_eq(submitted(), 3);
    close(fd);
    close(structured);
}
END_TEST

/* ---- requests that go the plain way ---------------------------------------- */

START_TEST(test_plain_among_them)
{
    g_autofree uint8_t *data = g_malloc(100000);
    int fd = peer_open("rw", false);
    unsigned plain = 0;

    for (int i = 0; i < 64; i++) {
        send_write(fd, i, i * BLOCK, BLOCK);
        switch (i % 16) {
        case 3:
            peer_request(fd, 0, NBD_CMD_FLUSH, 100, 0, 0);
            plain++;
            break;
        case 7:
            peer_request(fd, 0, NBD_CMD_READ, 101, SIZE / 2, 100000);
            plain++;
            break;
        case 11:
            send_write(fd, 102, SIZE / 2, 65536);
            plain++;
            break;
        default:
            break;
        }
        /* Else they would be among too few. */
        for (int j = 0; j < 1 + (i % 16 % 4 == 3 && i % 16 < 15); j++) {
            if (peer_simple_reply(fd, NBD_SUCCESS) == 101) {
                peer_recv(fd, data, 100000);
                assert_on_disk(SIZE / 2 + 65536, data + 65536, 100000 - 65536);
            }
        }
    }
    for (int i = 0; i < 64; i++) {
        assert_written(i * BLOCK, BLOCK, i);
    }
    ck_assert_uint_gt(submitted(), 0);
    ck_assert_uint_eq(plain, 12);
    close(fd);
}
END_TEST

/* What is to be stable goes the plain way, which sees to that. */
START_TEST(test_stable)
{
    int fd = peer_open("rw", false);
    uint8_t data[BLOCK] = { 0 };

    peer_request(fd, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, 1, 0, BLOCK);
    peer_send(fd, data, BLOCK);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 1);
    ck_assert_int_eq(fake.last_flags, BDRV_REQ_FUA);
    close(fd);
    peer_export_add("{\"type\": \"nbd\", \"id\": \"e2\", \"name\": \"wt\","
                    " \"node-name\": \"disk0\", \"writable\": true,"
                    " \"writethrough\": true}",
                    NULL);
    fd = peer_open("wt", false);
    send_write(fd, 2, 0, BLOCK);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 2);
    ck_assert_uint_eq(submitted(), 0);
    close(fd);
}
END_TEST

/* A FLUSH does not wait for what is in the kernel, nor do requests behind it. */
START_TEST(test_flush_overtakes)
{
    uint8_t data[BLOCK];
    int fd = peer_open("rw", false);

    fake_hold(true);
    send_reads(fd, 20);
    fake_wait_in_flight(20);
    fake_hold(false);
    peer_request(fd, 0, NBD_CMD_FLUSH, 100, 0, 0);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 100);
    peer_request(fd, 0, NBD_CMD_READ, 101, 0, BLOCK);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 101);
    peer_recv(fd, data, BLOCK);
    fake_answer(20);
    expect_reads(fd, 20);
    close(fd);
}
END_TEST

/* If there is no other thread, it waits. */
START_TEST(test_flush_without_helpers)
{
    int fd;

    nbd_limits.helpers = 0;
    fd = peer_open("rw", false);
    fake_hold(true);
    send_reads(fd, 20);
    fake_wait_in_flight(20);
    fake_hold(false);
    peer_request(fd, 0, NBD_CMD_FLUSH, 100, 0, 0);
    fake_answer(20);
    expect_reads(fd, 20);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 100);
    close(fd);
}
END_TEST

/* A drain begins: the next request waits for it, those in the kernel do not. */
START_TEST(test_no_longer)
{
    int fd = peer_open("rw", false);

    fake_hold(true);
    send_reads(fd, 10);
    fake_wait_in_flight(10);
    set_submits(false);
    peer_request(fd, 0, NBD_CMD_FLUSH, 100, 0, 0);
    fake_wait_in_flight(11);
    fake_answer(10);
    fake_wait_in_flight(1);
    expect_reads(fd, 10);
    fake_hold(false);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 100);
    send_reads(fd, 100);
    expect_reads(fd, 100);
    ck_assert_uint_eq(submitted(), 10);
    set_submits(true);
    send_reads(fd, 200);
    expect_reads(fd, 200);
    ck_assert_uint_gt(submitted(), 10);
    close(fd);
}
END_TEST

/* What cannot be among requests */
START_TEST(test_out_of_step)
{
    uint8_t junk[28] = { 'x' };
    int fd = peer_open("rw", false);

    send_reads(fd, 20);
    expect_reads(fd, 20);
    peer_send(fd, junk, sizeof(junk));
    peer_expect_eof(fd);
    close(fd);
}
END_TEST

START_TEST(test_wrong_requests)
{
    int fd = peer_open("rw", false);

    peer_request(fd, 0, NBD_CMD_READ, 1, SIZE, BLOCK);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_EINVAL), 1);
    peer_request(fd, 0, 99, 2, 0, BLOCK);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_EINVAL), 2);
    peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 3, 0, BLOCK);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_EINVAL), 3);
    close(fd);
    fd = peer_open("ro", false);
    send_write(fd, 4, 0, BLOCK);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_EPERM), 4);
    ck_assert_uint_eq(submitted(), 0);
    close(fd);
}
END_TEST

START_TEST(test_halves)
{
    uint8_t data[BLOCK] = { 'y' };
    NbdRequestHeader head = {
        .magic = GUINT32_TO_BE(NBD_REQUEST_MAGIC),
        .type = GUINT16_TO_BE(NBD_CMD_WRITE),
        .cookie = GUINT64_TO_BE(7),
        .length = GUINT32_TO_BE(BLOCK),
    };
    int fd = peer_open("rw", false);

    send_reads(fd, 20);
    expect_reads(fd, 20);
    peer_send(fd, &head, 10);
    /* The other half comes later. */
    g_usleep(1000);
    peer_send(fd, (uint8_t *)&head + 10, sizeof(head) - 10);
    g_usleep(1000);
    peer_send(fd, data, 1000);
    g_usleep(1000);
    peer_send(fd, data + 1000, BLOCK - 1000);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 7);
    assert_on_disk(0, data, BLOCK);
    ck_assert_uint_eq(submitted(), 21);
    close(fd);
}
END_TEST

/* ---- clients that are slow, deaf, or gone ----------------------------------- */

static void send_long_reads(int fd, int n)
{
    for (int i = 0; i < n; i++) {
        peer_request(fd, 0, NBD_CMD_READ, i, i * LONG, LONG);
    }
}

static void expect_long_reads(int fd, int n)
{
    g_autofree uint8_t *data = g_malloc(LONG);

    for (int i = 0; i < n; i++) {
        uint64_t cookie = peer_simple_reply(fd, NBD_SUCCESS);

        peer_recv(fd, data, LONG);
        ck_assert_uint_lt(cookie, n);
        assert_on_disk(cookie * LONG, data, LONG);
    }
}

/* What is in the kernel ends though the client takes no replies. */
START_TEST(test_deaf)
{
    int fd;

    nbd_limits.helpers = 0;
    fd = peer_open("rw", false);
    fake_hold(true);
    send_long_reads(fd, 32);
    fake_wait_in_flight(32);
    /* More replies than the socket takes */
    fake_answer(24);
    fake_wait_in_flight(8);
    fake_answer(8);
    fake_wait_in_flight(0);
    fake_hold(false);
    expect_long_reads(fd, 32);
    close(fd);
}
END_TEST

START_TEST(test_deaf_with_helpers)
{
    int fd = peer_open("rw", false);

    send_long_reads(fd, 100);
    fake_wait_in_flight(0);
    expect_long_reads(fd, 100);
    close(fd);
}
END_TEST

START_TEST(test_gone)
{
    int fd = peer_open("rw", false);

    fake_hold(true);
    send_reads(fd, 30);
    fake_wait_in_flight(30);
    close(fd);
    fake_answer(30);
    fake_wait_in_flight(0);
}
END_TEST

/* Who leaves with a word has done all that it has asked for before. */
START_TEST(test_leaves)
{
    int fd = peer_open("rw", false);

    fake_hold(true);
    for (int i = 0; i < 100; i++) {
        send_write(fd, i, i * BLOCK, 512);
    }
    peer_request(fd, 0, NBD_CMD_DISC, 0, 0, 0);
    shutdown(fd, SHUT_WR);
    fake_wait_in_flight(DEPTH);
    fake_hold(false);
    fake_answer(DEPTH);
    peer_drain(fd);
    for (int i = 0; i < 100; i++) {
        assert_written(i * BLOCK, 512, i);
    }
    close(fd);
}
END_TEST

START_TEST(test_thrown_out)
{
    int fd = peer_open("rw", false);

    fake_hold(true);
    send_reads(fd, 30);
    fake_wait_in_flight(30);
    nbd_conn_abort_all(NULL);
    fake_answer(30);
    fake_wait_in_flight(0);
    peer_expect_eof(fd);
    close(fd);
}
END_TEST

/* Without the memory for more, fewer are under way. */
START_TEST(test_little_memory)
{
    int fd;

    nbd_limits.memory = 0;
    fd = peer_open("rw", false);
    fake_hold(true);
    send_long_reads(fd, 32);
    fake_wait_in_flight(8);
    ck_assert_uint_eq(nbd_buffer_total(), nbd_limits.small_buffer);
    fake_hold(false);
    fake_answer(8);
    expect_long_reads(fd, 32);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nbd-ring");
    TCase *tc = tcase_create("requests");

    if (uring_check() < 0) {
        puts("1..0 # SKIP no io_uring here");
        return 0;
    }
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_reads);
    tcase_add_test(tc, test_depth);
    tcase_add_test(tc, test_writes);
    tcase_add_test(tc, test_structured);
    tcase_add_test(tc, test_extended);
    tcase_add_test(tc, test_write_without_payload);
    tcase_add_test(tc, test_zero_as_data);
    tcase_add_test(tc, test_many_zeroes);
    tcase_add_test(tc, test_errors);
    tcase_add_test(tc, test_plain_among_them);
    tcase_add_test(tc, test_stable);
    tcase_add_test(tc, test_flush_overtakes);
    tcase_add_test(tc, test_flush_without_helpers);
    tcase_add_test(tc, test_no_longer);
    tcase_add_test(tc, test_out_of_step);
    tcase_add_test(tc, test_wrong_requests);
    tcase_add_test(tc, test_halves);
    tcase_add_test(tc, test_deaf);
    tcase_add_test(tc, test_deaf_with_helpers);
    tcase_add_test(tc, test_gone);
    tcase_add_test(tc, test_leaves);
    tcase_add_test(tc, test_thrown_out);
    tcase_add_test(tc, test_little_memory);
    suite_add_tcase(suite, tc);
    return unit_main(suite);
}
