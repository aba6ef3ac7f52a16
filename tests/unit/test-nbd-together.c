/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests that come together: which of their replies may wait, and for what */
#include <check.h>
#include <string.h>
#include <unistd.h>

#include "fake-block.h"
#include "nbd-peer.h"
#include "unit-main.h"

#define SIZE (4 << 20)
#define BLOCK 4096

static NbdLimits usual_limits;

static void setup(void)
{
    usual_limits = nbd_limits;
    peer_server_start(SIZE);
    for (int i = 0; i < SIZE; i += 4) {
        memcpy(fake.data + i, &i, 4);
    }
}

static void teardown(void)
{
    fake_hold(false);
    peer_server_stop();
    nbd_limits.helpers = usual_limits.helpers;
    nbd_limits.patience_us = usual_limits.patience_us;
    nbd_limits.small_buffer = usual_limits.small_buffer;
}

/* ---- requests in one piece ---------------------------------------------- */

static void put_request(GByteArray *out, uint16_t type, uint64_t cookie,
                        uint64_t offset, uint32_t length)
{
    NbdRequestHeader head = {
        .magic = GUINT32_TO_BE(NBD_REQUEST_MAGIC),
        .type = GUINT16_TO_BE(type),
        .cookie = GUINT64_TO_BE(cookie),
        .offset = GUINT64_TO_BE(offset),
        .length = GUINT32_TO_BE(length),
    };

    g_byte_array_append(out, (uint8_t *)&head, sizeof(head));
}

/* READs of block 0, 1, 2..., with these cookies */
static void put_reads(GByteArray *out, int n)
{
    for (int i = 0; i < n; i++) {
        put_request(out, NBD_CMD_READ, i, i * BLOCK, BLOCK);
    }
}

static void send_all(int fd, const GByteArray *out)
{
    peer_send(fd, out->data, out->len);
}

/* A simple reply to one of @n READs, with the data of that block */
static uint64_t expect_read(int fd, int n)
{
    uint8_t data[BLOCK];
    uint64_t cookie = peer_simple_reply(fd, NBD_SUCCESS);

    ck_assert_uint_lt(cookie, n);
    peer_recv(fd, data, sizeof(data));
    ck_assert_mem_eq(data, fake.data + cookie * BLOCK, BLOCK);
    return cookie;
}

/* Each once, in any order */
static void expect_reads(int fd, int n)
{
    g_autofree bool *seen = g_new0(bool, n);

    for (int i = 0; i < n; i++) {
        uint64_t cookie = expect_read(fd, n);

        ck_assert(!seen[cookie]);
        seen[cookie] = true;
    }
}

START_TEST(test_many_at_once)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    int fd = peer_open("rw", false);

    put_reads(out, 200);
    send_all(fd, out);
    expect_reads(fd, 200);
    close(fd);
}
END_TEST

/* Chunks that all are data and holes in turns, of 8 blocks */
static void expect_chunks(int fd, uint64_t cookie, int first)
{
    uint8_t fields[12], data[BLOCK];
    bool done;

    for (int i = first; i < first + 8; i++) {
        if (i % 2 == 0) {
            ck_assert_uint_eq(
                peer_chunk(fd, cookie, NBD_REPLY_TYPE_OFFSET_HOLE, &done), 12);
            peer_recv(fd, fields, 12);
        } else {
            ck_assert_uint_eq(
                peer_chunk(fd, cookie, NBD_REPLY_TYPE_OFFSET_DATA, &done),
                8 + BLOCK);
            peer_recv(fd, fields, 8);
            peer_recv(fd, data, BLOCK);
            ck_assert_mem_eq(data, fake.data + i * BLOCK, BLOCK);
        }
        ck_assert(done == (i == first + 7));
    }
}

/* Replies of several chunks with data, that wait for each other */
START_TEST(test_chunks)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    int fd = peer_open("rw", true);

    fake.holes = true;
    for (int i = 0; i < SIZE / BLOCK; i++) {
        fake.status[i] = i % 2 ? BDRV_BLOCK_DATA : BDRV_BLOCK_ZERO;
        if (i % 2 == 0) {
            memset(fake.data + i * BLOCK, 0, BLOCK);
        }
    }
    for (int i = 0; i < 20; i++) {
        put_request(out, NBD_CMD_READ, i, i * BLOCK, 8 * BLOCK);
    }
    /* In order, if nobody takes the turn away */
    nbd_limits.helpers = 0;
    send_all(fd, out);
    for (int i = 0; i < 20; i++) {
        expect_chunks(fd, i, i);
    }
    close(fd);
}
END_TEST

/* WRITEs among READs use the same buffer as data that waits to be sent. */
START_TEST(test_writes_between)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    uint8_t block[BLOCK];
    int fd = peer_open("rw", false);

    for (int i = 0; i < 64; i++) {
        put_request(out, NBD_CMD_READ, i, i * BLOCK, BLOCK);
        put_request(out, NBD_CMD_WRITE, 1000 + i, SIZE / 2 + i * BLOCK, BLOCK);
        memset(block, i, BLOCK);
        g_byte_array_append(out, block, BLOCK);
    }
    send_all(fd, out);
    for (int i = 0; i < 128; i++) {
        uint64_t cookie = peer_simple_reply(fd, NBD_SUCCESS);

        if (cookie < 64) {
            peer_recv(fd, block, BLOCK);
            ck_assert_mem_eq(block, fake.data + cookie * BLOCK, BLOCK);
        }
    }
    for (int i = 0; i < 64; i++) {
        memset(block, i, BLOCK);
        ck_assert_mem_eq(fake.data + SIZE / 2 + i * BLOCK, block, BLOCK);
    }
    close(fd);
}
END_TEST

/* Longer than what is sent at once, and than a thread's buffer */
START_TEST(test_long_between)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autofree uint8_t *data = g_malloc(SIZE);
    static const uint32_t lengths[] = { 4096, 60000, 70000, 300000, 100, SIZE };
    int fd = peer_open("rw", false);

    for (guint i = 0; i < 4 * G_N_ELEMENTS(lengths); i++) {
        put_request(out, NBD_CMD_READ, i, 0,
                    lengths[i % G_N_ELEMENTS(lengths)]);
    }
    send_all(fd, out);
    for (guint i = 0; i < 4 * G_N_ELEMENTS(lengths); i++) {
        uint64_t cookie = peer_simple_reply(fd, NBD_SUCCESS);
        uint32_t length = lengths[cookie % G_N_ELEMENTS(lengths)];

        peer_recv(fd, data, length);
        ck_assert_mem_eq(data, fake.data, length);
    }
    close(fd);
}
END_TEST

/* What waits to be sent leaves no room for a WRITE's data. */
START_TEST(test_little_memory)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autofree uint8_t *data = g_malloc(60000);
    int fd;

    nbd_limits.small_buffer = NBD_IN_BYTES;
    fd = peer_open("rw", false);
    for (int i = 0; i < 4; i++) {
        g_byte_array_set_size(out, 0);
        put_reads(out, 8);
        put_request(out, NBD_CMD_WRITE, 8, SIZE / 2, 60000);
        memset(data, i, 60000);
        g_byte_array_append(out, data, 60000);
        put_reads(out, 8);
        send_all(fd, out);
        for (int j = 0; j < 17; j++) {
            uint64_t cookie = peer_simple_reply(fd, NBD_SUCCESS);

            if (cookie < 8) {
                peer_recv(fd, data, BLOCK);
                ck_assert_mem_eq(data, fake.data + cookie * BLOCK, BLOCK);
            }
        }
        memset(data, i, 60000);
        ck_assert_mem_eq(fake.data + SIZE / 2, data, 60000);
    }
    close(fd);
}
END_TEST

/* ---- replies that must not wait ----------------------------------------- */

/* Half a request follows: the replies are there all the same. */
START_TEST(test_half_a_header)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    int fd = peer_open("rw", false);
    guint whole;

    put_reads(out, 9);
    whole = out->len;
    put_request(out, NBD_CMD_READ, 9, 9 * BLOCK, BLOCK);
    peer_send(fd, out->data, whole + 10);
    expect_reads(fd, 9);
    peer_send(fd, out->data + whole + 10, out->len - whole - 10);
    ck_assert_uint_eq(expect_read(fd, 10), 9);
    close(fd);
}
END_TEST

/* The same with a WRITE whose data does not come */
START_TEST(test_half_a_write)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    uint8_t half[BLOCK / 2] = { 0 };
    int fd = peer_open("rw", false);

    put_reads(out, 9);
    put_request(out, NBD_CMD_WRITE, 9, 0, BLOCK);
    g_byte_array_append(out, half, sizeof(half));
    send_all(fd, out);
    expect_reads(fd, 9);
    peer_send(fd, half, sizeof(half));
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 9);
    close(fd);
}
END_TEST

/* A request hangs, and the replies to those before it wait to be sent. There is
 * nobody else who could send them but the watch. */
START_TEST(test_a_request_hangs)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    int fd;

    nbd_limits.helpers = 0;
    fd = peer_open("rw", false);
    fake_hold(true);
    fake.permits = 6;
    put_reads(out, 12);
    send_all(fd, out);
    for (int i = 0; i < 6; i++) {
        ck_assert_uint_eq(expect_read(fd, 12), i);
    }
    fake_wait_in_flight(1);
    fake_hold(false);
    for (int i = 6; i < 12; i++) {
        ck_assert_uint_eq(expect_read(fd, 12), i);
    }
    close(fd);
}
END_TEST

/* One hangs, and those behind it are done by others. */
START_TEST(test_others_overtake)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    int fd = peer_open("rw", false);

    fake_hold(true);
    fake.permits = 3;
    put_reads(out, 8);
    send_all(fd, out);
    for (int i = 0; i < 3; i++) {
        expect_read(fd, 8);
    }
    fake_wait_in_flight(5);
    for (int i = 0; i < 3; i++) {
        fake_let_one_pass();
        expect_read(fd, 8);
    }
    fake_hold(false);
    expect_read(fd, 8);
    expect_read(fd, 8);
    close(fd);
}
END_TEST

/* A request takes its time, but not so long that the watch would look at it (which
 * never comes here), and the next one hangs: the reply does not wait for that. */
START_TEST(test_behind_one_that_took_long)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    int64_t end;
    int fd;

    nbd_limits.helpers = 0;
    nbd_limits.patience_us = G_TIME_SPAN_DAY;
    fd = peer_open("rw", false);
    /* One slow request does not change the opinion of this client. */
    put_reads(out, 1);
    for (int i = 0; i < 50; i++) {
        send_all(fd, out);
        expect_read(fd, 1);
    }
    g_byte_array_set_size(out, 0);
    fake_hold(true);
    put_reads(out, 4);
    send_all(fd, out);
    fake_wait_in_flight(1);
    end = g_get_monotonic_time() + 1000;
    while (g_get_monotonic_time() < end) {
    }
    fake_let_one_pass();
    ck_assert_uint_eq(expect_read(fd, 4), 0);
    fake_hold(false);
    for (int i = 1; i < 4; i++) {
        ck_assert_uint_eq(expect_read(fd, 4), i);
    }
    close(fd);
}
END_TEST

/* A read says beforehand that it has to wait: what is done before it is told before,
 * even where there is nobody else, and no watch. */
START_TEST(test_before_one_that_waits)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    int fd;

    nbd_limits.helpers = 0;
    nbd_limits.patience_us = G_TIME_SPAN_DAY;
    fake.cached = 3 * BLOCK;
    fake_hold(true);
    fd = peer_open("rw", false);
    put_reads(out, 8);
    send_all(fd, out);
    for (int i = 0; i < 3; i++) {
        ck_assert_uint_eq(expect_read(fd, 8), i);
    }
    fake_wait_in_flight(1);
    fake_hold(false);
    for (int i = 3; i < 8; i++) {
        ck_assert_uint_eq(expect_read(fd, 8), i);
    }
    close(fd);
}
END_TEST

/* A flush may take long: what is done before it is told before. (Where that was not
 * done at once, another thread may be faster with the flush.) */
START_TEST(test_flush_waits_for_nobody)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    uint8_t data[BLOCK];
    int fd;

    nbd_limits.patience_us = G_TIME_SPAN_DAY;
    fd = peer_open("rw", false);
    fake_hold(true);
    fake.permits = 3;
    put_reads(out, 3);
    put_request(out, NBD_CMD_FLUSH, 3, 0, 0);
    send_all(fd, out);
    for (int i = 0; i < 4; i++) {
        if (i == 3) {
            fake_hold(false);
        }
        if (peer_simple_reply(fd, NBD_SUCCESS) < 3) {
            peer_recv(fd, data, BLOCK);
        }
    }
    close(fd);
}
END_TEST

/* The client's last word is DISC, behind requests. */
START_TEST(test_disconnect_behind_requests)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    int fd = peer_open("rw", false);

    put_reads(out, 9);
    put_request(out, NBD_CMD_DISC, 0, 0, 0);
    send_all(fd, out);
    expect_reads(fd, 9);
    peer_expect_eof(fd);
    close(fd);
}
END_TEST

/* The client reads nothing until it has sent it all: more than sockets hold, in
 * both directions, but no more than may be in flight. */
START_TEST(test_sends_before_it_reads)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autofree uint8_t *data = g_malloc0(SIZE / 4);
    int fd = peer_open("rw", false);

    for (int i = 0; i < 5; i++) {
        put_request(out, NBD_CMD_READ, i, 0, SIZE / 4);
    }
    for (int i = 5; i < 10; i++) {
        put_request(out, NBD_CMD_READ, i, 0, BLOCK);
    }
    put_request(out, NBD_CMD_WRITE, 10, SIZE / 2, SIZE / 4);
    g_byte_array_append(out, data, SIZE / 4);
    send_all(fd, out);
    for (int i = 0; i < 11; i++) {
        uint64_t cookie = peer_simple_reply(fd, NBD_SUCCESS);

        if (cookie < 10) {
            peer_recv(fd, data, cookie < 5 ? SIZE / 4 : BLOCK);
        }
    }
    close(fd);
}
END_TEST

/* It vanishes with replies unsent, some of which have data. */
START_TEST(test_vanishes)
{
    g_autoptr(GByteArray) out = g_byte_array_new();

    put_reads(out, 40);
    for (int i = 0; i < 200; i++) {
        int fd = peer_open("rw", i % 2);

        send_all(fd, out);
        close(fd);
    }
    nbd_conn_wait_all(INT64_MAX);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("nbd-together");
    TCase *together = tcase_create("together");
    TCase *at_once = tcase_create("at once");

    tcase_add_checked_fixture(together, setup, teardown);
    tcase_add_test(together, test_many_at_once);
    tcase_add_test(together, test_chunks);
    tcase_add_test(together, test_writes_between);
    tcase_add_test(together, test_long_between);
    tcase_add_test(together, test_little_memory);
    suite_add_tcase(s, together);

    tcase_add_checked_fixture(at_once, setup, teardown);
    tcase_add_test(at_once, test_half_a_header);
    tcase_add_test(at_once, test_half_a_write);
    tcase_add_test(at_once, test_a_request_hangs);
    tcase_add_test(at_once, test_others_overtake);
    tcase_add_test(at_once, test_behind_one_that_took_long);
    tcase_add_test(at_once, test_before_one_that_waits);
    tcase_add_test(at_once, test_flush_waits_for_nobody);
    tcase_add_test(at_once, test_disconnect_behind_requests);
    tcase_add_test(at_once, test_sends_before_it_reads);
    tcase_add_test(at_once, test_vanishes);
    suite_add_tcase(s, at_once);

    return unit_main(s);
}
