/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads, limits and the life of NBD connections and exports */
#include <check.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake-block.h"
#include "nbd-peer.h"
#include "unit-main.h"
#include "util/json-text.h"

#define SIZE (4 << 20)

static NbdLimits usual_limits;

static void setup(void)
{
    usual_limits = nbd_limits;
    peer_server_start(SIZE);
}

static void teardown(void)
{
    fake_hold(false);
    peer_server_stop();
    /* What tests change: a helper may still be on its way out, with the rest */
    nbd_limits.helpers = usual_limits.helpers;
    nbd_limits.idle_us = usual_limits.idle_us;
    nbd_limits.patience_us = usual_limits.patience_us;
}

/* @n READs of 512 bytes from @offset on, with cookies 0, 1, 2... */
static void send_reads(int fd, int n, uint64_t offset)
{
    for (int i = 0; i < n; i++) {
        peer_request(fd, 0, NBD_CMD_READ, i, offset, 512);
    }
}

/* Replies to these, each once, in any order */
static void expect_reads(int fd, int n)
{
    uint8_t data[512];
    uint64_t seen = 0, cookie;

    for (int i = 0; i < n; i++) {
        cookie = peer_simple_reply(fd, NBD_SUCCESS);
        peer_recv(fd, data, sizeof(data));
        ck_assert_uint_lt(cookie, n);
        ck_assert(!(seen & UINT64_C(1) << cookie));
        seen |= UINT64_C(1) << cookie;
    }
}

/* ---- crews -------------------------------------------------------------- */

START_TEST(test_sixteen_in_flight)
{
    int fd = peer_open("rw", false);

    fake_hold(true);
    send_reads(fd, 40, 0);
    fake_wait_in_flight(16);
    /* The next waits for one of them. */
    fake_let_one_pass();
    fake_wait_in_flight(16);
    ck_assert_uint_eq(fake_count(FAKE_READ), 17);
    fake_hold(false);
    expect_reads(fd, 40);
    close(fd);
}
END_TEST

START_TEST(test_connections_at_once)
{
    int fds[8];

    fake_hold(true);
    for (guint i = 0; i < G_N_ELEMENTS(fds); i++) {
        fds[i] = peer_open(i % 2 ? "ro" : "rw", false);
        send_reads(fds[i], 16, 0);
    }
    fake_wait_in_flight(16 * G_N_ELEMENTS(fds));
    fake_hold(false);
    for (guint i = 0; i < G_N_ELEMENTS(fds); i++) {
        expect_reads(fds[i], 16);
        close(fds[i]);
    }
}
END_TEST

/* All helpers there may be are in the crew of one client. While it is idle they
 * go home, and so another can have all of them. */
START_TEST(test_idle_helpers_leave)
{
    int idle = peer_open("rw", false);
    int busy;

    nbd_limits.helpers = 15;
    nbd_limits.idle_us = 1000;
    fake_hold(true);
    send_reads(idle, 16, 0);
    fake_wait_in_flight(16);
    fake_hold(false);
    expect_reads(idle, 16);

    fake_hold(true);
    busy = peer_open("rw", false);
    send_reads(busy, 16, 0);
    fake_wait_in_flight(16);
    /* The one thread that the idle client keeps reads its next request. */
    send_reads(idle, 16, 0);
    fake_wait_in_flight(17);
    fake_hold(false);
    expect_reads(busy, 16);
    expect_reads(idle, 16);
    close(busy);
    close(idle);
}
END_TEST

/* A thread that keeps the turn during a request learns that it was slow, even
 * if nobody takes the turn from it. */
START_TEST(test_slow_requests_in_parallel)
{
    int fd;

    nbd_limits.patience_us = G_TIME_SPAN_DAY;
    fake_hold(true);
    fd = peer_open("rw", false);
    send_reads(fd, 40, 0);
    fake_wait_in_flight(1);
    g_usleep(1000);
    fake_let_one_pass();
    fake_wait_in_flight(16);
    fake_hold(false);
    expect_reads(fd, 40);
    close(fd);
}
END_TEST

/* Reads that say beforehand that they have to wait give the turn away at once. */
START_TEST(test_reads_that_wait)
{
    int fd;

    nbd_limits.patience_us = G_TIME_SPAN_DAY;
    fake.cached = 0;
    fake_hold(true);
    fd = peer_open("rw", _i);
    for (int i = 0; i < 40; i++) {
        peer_request(fd, 0, NBD_CMD_READ, i, 0, 512);
    }
    fake_wait_in_flight(16);
    fake_hold(false);
    if (_i) {
        nbd_conn_abort_all(NULL);
        nbd_conn_wait_all(INT64_MAX);
    } else {
        expect_reads(fd, 40);
    }
    close(fd);
}
END_TEST

/* So do flushes, and writes that include one. */
START_TEST(test_flushes_wait)
{
    uint8_t data[512] = { 0 };
    int fd;

    nbd_limits.patience_us = G_TIME_SPAN_DAY;
    fake_hold(true);
    fd = peer_open("rw", false);
    peer_request(fd, 0, NBD_CMD_FLUSH, 0, 0, 0);
    peer_request(fd, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, 1, 0, sizeof(data));
    peer_send(fd, data, sizeof(data));
    peer_request(fd, 0, NBD_CMD_READ, 2, 0, 512);
    fake_wait_in_flight(3);
    fake_hold(false);
    for (int i = 0; i < 3; i++) {
        if (peer_simple_reply(fd, NBD_SUCCESS) == 2) {
            peer_recv(fd, data, sizeof(data));
        }
    }
    close(fd);
}
END_TEST

/* Let a request pass, and send another in its place. */
static void one_step(const int fds[2], const uint64_t offsets[2])
{
    struct pollfd pfds[2] = { { fds[0], POLLIN, 0 }, { fds[1], POLLIN, 0 } };
    uint8_t data[512];
    int i;

    fake_let_one_pass();
    ck_assert_int_eq(poll(pfds, 2, -1), 1);
    i = pfds[0].revents ? 0 : 1;
    peer_simple_reply(fds[i], NBD_SUCCESS);
    peer_recv(fds[i], data, sizeof(data));
    send_reads(fds[i], 1, offsets[i]);
    fake_wait_in_flight(8);
}

/* One connection has taken all helpers; another gets its share of them. */
START_TEST(test_helpers_are_shared)
{
    const uint64_t offsets[] = { 0, SIZE / 2 };
    int fds[2], steps = 0;

    nbd_limits.helpers = 6;
    nbd_limits.idle_us = G_TIME_SPAN_DAY;
    fake.half = SIZE / 2;
    fake_hold(true);
    fds[0] = peer_open("rw", false);
    send_reads(fds[0], 16, offsets[0]);
    fake_wait_in_flight(7);
    fds[1] = peer_open("rw", false);
    send_reads(fds[1], 16, offsets[1]);
    fake_wait_in_flight(8);
    ck_assert_int_eq(fake_in_far_half(), 1);
    /* Threads go over one by one, as their requests end. */
    while (fake_in_far_half() < 4) {
        one_step(fds, offsets);
        ck_assert_int_lt(steps++, 1000000);
    }
    /* And then they stay. */
    for (int i = 0; i < 20; i++) {
        one_step(fds, offsets);
        ck_assert_int_eq(fake_in_far_half(), 4);
    }
    close(fds[0]);
    close(fds[1]);
}
END_TEST

/* Without any helper to be had, every connection gets on. */
START_TEST(test_no_helpers)
{
    int fds[4];

    nbd_limits.helpers = 0;
    fake_hold(true);
    for (guint i = 0; i < G_N_ELEMENTS(fds); i++) {
        fds[i] = peer_open("rw", false);
        send_reads(fds[i], 16, 0);
    }
    fake_wait_in_flight(G_N_ELEMENTS(fds));
    fake_hold(false);
    for (guint i = 0; i < G_N_ELEMENTS(fds); i++) {
        expect_reads(fds[i], 16);
        close(fds[i]);
    }
}
END_TEST

/* ---- difficult clients -------------------------------------------------- */

START_TEST(test_client_vanishes)
{
    int fd = peer_open("rw", true);
    uint8_t half[2048] = { 0 };

    fake_hold(true);
    send_reads(fd, 5, 0);
    peer_request(fd, 0, NBD_CMD_WRITE, 9, 0, 4096);
    peer_send(fd, half, sizeof(half));
    fake_wait_in_flight(5);
    close(fd);
    fake_hold(false);
    nbd_conn_wait_all(INT64_MAX);
    /* Half a WRITE is none. */
    ck_assert_uint_eq(fake.count[FAKE_WRITE], 0);
}
END_TEST

/* A client that takes no replies holds up nobody else. */
START_TEST(test_client_does_not_read)
{
    int deaf = peer_open("rw", true), fd;

    for (int i = 0; i < 32; i++) {
        peer_request(deaf, 0, NBD_CMD_READ, i, 0, SIZE);
    }
    fd = peer_open("rw", false);
    for (int i = 0; i < 4; i++) {
        send_reads(fd, 16, 0);
        expect_reads(fd, 16);
    }
    close(fd);
    /* teardown() stops the server while the deaf one is there. */
}
END_TEST

START_TEST(test_noise)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);

    for (int i = 0; i < 300; i++) {
        int fd = peer_open("rw", i % 2);

        for (int j = g_rand_int_range(rand, 1, 6); j > 0; j--) {
            NbdRequestHeader head = {
                .magic = GUINT32_TO_BE(NBD_REQUEST_MAGIC),
                .flags = GUINT16_TO_BE(g_rand_int_range(rand, 0, 64)),
                .type = GUINT16_TO_BE(g_rand_int_range(rand, 0, 10)),
                .cookie = j,
                .offset = GUINT64_TO_BE(g_rand_int_range(rand, 0, SIZE + 99)),
                .length = GUINT32_TO_BE(g_rand_int_range(rand, 0, 9000)),
            };

            (void)!send(fd, &head, sizeof(head), MSG_NOSIGNAL);
        }
        close(fd);
    }
    nbd_conn_wait_all(INT64_MAX);
}
END_TEST

/* ---- exports ------------------------------------------------------------ */

static const char *query(void)
{
    static char *text;
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_ARRAY);
    GString *out = g_string_new(NULL);

    g_free(text);
    json_node_take_array(node, block_export_query());
    json_text_append(out, node, false);
    text = g_string_free(out, FALSE);
    return text;
}

START_TEST(test_export_options)
{
    g_autofree char *name = g_strnfill(4097, 'x');
    g_autofree char *description = g_strdup_printf(
        "{\"type\": \"nbd\", \"id\": \"e\", \"name\": \"e\", \"description\": "
        "\"%s\", \"node-name\": \"disk0\"}",
        name);
    g_autofree char *long_name =
        g_strdup_printf("{\"type\": \"nbd\", \"id\": \"e\", \"name\": \"%s\","
                        " \"node-name\": \"disk0\"}",
                        name);
    g_autofree char *head = g_strndup(name, 64);
    g_autofree char *name_error = g_strdup_printf(
        "export name '%s...' is too long: 4097 bytes, at most 4096", head);
    g_autofree char *description_error = g_strdup_printf(
        "description '%s...' is too long: 4097 bytes, at most 4096", head);

    peer_export_add("{\"type\": \"nbd\", \"id\": \"e0\", \"name\": \"other\","
                    " \"node-name\": \"disk0\"}",
                    "Block export id 'e0' is already in use");
    peer_export_add("{\"type\": \"nbd\", \"id\": \"e\", \"name\": \"rw\","
                    " \"node-name\": \"disk0\"}",
                    "NBD server already has export named 'rw'");
    peer_export_add("{\"type\": \"nbd\", \"id\": \"0e\","
                    " \"node-name\": \"disk0\"}",
                    "Invalid block export id '0e'");
    peer_export_add("{\"type\": \"nbd\", \"id\": \"a/b\","
                    " \"node-name\": \"disk0\"}",
                    "Invalid block export id 'a/b'");
    peer_export_add("{\"type\": \"nbd\", \"id\": \"e\","
                    " \"node-name\": \"disk1\"}",
                    "Cannot find device='' nor node-name='disk1'");
    peer_export_add("{\"type\": \"fuse\", \"id\": \"e\","
                    " \"node-name\": \"disk0\"}",
                    "Parameter 'type' does not accept value 'fuse'");
    peer_export_add("{\"type\": \"nbd\", \"id\": \"e\", \"iothread\": \"t\","
                    " \"node-name\": \"disk0\"}",
                    "Parameter 'iothread' is unexpected");
    peer_export_add("{\"type\": \"nbd\", \"id\": \"e\", \"tls-creds\": \"t\","
                    " \"node-name\": \"disk0\"}",
                    "Parameter 'tls-creds' is unexpected");
    peer_export_add(long_name, name_error);
    peer_export_add(description, description_error);
    ck_assert_int_eq(fake.backends, 2);
    /* The node's name is the default. */
    peer_export_add("{\"type\": \"nbd\", \"id\": \"e.2_x-Y\","
                    " \"node-name\": \"disk0\"}",
                    NULL);
    close(peer_open("disk0", true));
    ck_assert_str_eq(
        query(),
        "[{\"id\": \"e0\", \"type\": \"nbd\", \"node-name\": \"disk0\", "
        "\"shutting-down\": false}, "
        "{\"id\": \"e1\", \"type\": \"nbd\", \"node-name\": \"disk0\", "
        "\"shutting-down\": false}, "
        "{\"id\": \"e.2_x-Y\", \"type\": \"nbd\", \"node-name\": \"disk0\", "
        "\"shutting-down\": false}]");
}
END_TEST

/* An export of @n bitmaps */
static char *with_bitmaps(const char *name, unsigned n, bool writable)
{
    GString *s = g_string_new(NULL);

    g_string_printf(s,
                    "{\"type\": \"nbd\", \"id\": \"%s\", \"name\": \"%s\","
                    " \"node-name\": \"disk0\", \"writable\": %s,"
                    " \"bitmaps\": [",
                    name, name, writable ? "true" : "false");
    while (n-- > 0) {
        g_string_append_printf(s, "\"b%u\"%s", n, n ? ", " : "");
    }
    g_string_append(s, "]}");
    return g_string_free(s, FALSE);
}

/* Those of exports are busy, from then until it is gone. */
START_TEST(test_export_bitmaps)
{
    g_autofree char *most = with_bitmaps("most", 62, true);
    g_autofree char *too_many = with_bitmaps("more", 63, true);
    g_autofree char *frozen = with_bitmaps("frozen", 2, false);

    peer_export_add(too_many, "Too many bitmaps: 63, at most 62");
    peer_export_add("{\"type\": \"nbd\", \"id\": \"e\", \"writable\": true,"
                    " \"bitmaps\": [\"b0\", \"missing\"],"
                    " \"node-name\": \"disk0\"}",
                    "Bitmap 'missing' is not found");
    peer_export_add(frozen,
                    "Enabled bitmap 'b1' incompatible with readonly export");
    ck_assert_int_eq(fake.busy, 0);
    ck_assert_int_eq(fake.backends, 2);
    peer_export_add(most, NULL);
    ck_assert_int_eq(fake.busy, 62);
    fake.recording = false;
    peer_export_add(frozen, NULL);
    ck_assert_int_eq(fake.busy, 64);
    ck_assert(block_export_del("most", BLOCK_EXPORT_SAFE, NULL));
    ck_assert_int_eq(fake.busy, 2);
}
END_TEST

START_TEST(test_del_safe)
{
    g_autoptr(GError) in_use = NULL;
    g_autoptr(GError) unknown = NULL;
    int fd = peer_open("rw", true);

    ck_assert(!block_export_del("e0", BLOCK_EXPORT_SAFE, &in_use));
    ck_assert_str_eq(in_use->message, "export 'e0' still in use");
    ck_assert(!block_export_del("e9", BLOCK_EXPORT_SAFE, &unknown));
    ck_assert_str_eq(unknown->message, "Export 'e9' is not found");
    ck_assert(block_export_del("e1", BLOCK_EXPORT_SAFE, NULL));
    ck_assert_str_eq(fake.events, "BLOCK_EXPORT_DELETED e1\n");

    close(fd);
    nbd_conn_wait_all(INT64_MAX);
    ck_assert(block_export_del("e0", BLOCK_EXPORT_SAFE, NULL));
    ck_assert_str_eq(query(), "[]");
}
END_TEST

/* Clients are thrown out; the export goes when the last has left. */
START_TEST(test_del_hard)
{
    int fd = peer_open("rw", true), other = peer_open("ro", false);

    ck_assert(block_export_del("e0", BLOCK_EXPORT_HARD, NULL));
    peer_expect_eof(fd);
    fake_wait_management();
    ck_assert_str_eq(fake.events, "BLOCK_EXPORT_DELETED e0\n");
    /* The other export's client is still there. */
    send_reads(other, 1, 0);
    expect_reads(other, 1);
    close(other);
    fd = peer_connect();
    peer_client_flags(fd, NBD_FLAG_FIXED_NEWSTYLE);
    peer_simple_option(fd, NBD_OPT_GO, "\0\0\0\2rw\0\0", 8,
                       NBD_REP_ERR_UNKNOWN);
    close(fd);
}
END_TEST

/* Requests that wait somewhere are told to give up. */
START_TEST(test_del_hard_in_flight)
{
    int fd = peer_open("rw", true);

    fake_hold(true);
    send_reads(fd, 8, 0);
    fake_wait_in_flight(8);
    ck_assert(block_export_del("e0", BLOCK_EXPORT_HARD, NULL));
    fake_wait_management();
    ck_assert_str_eq(fake.events, "BLOCK_EXPORT_DELETED e0\n");
    close(fd);
}
END_TEST

START_TEST(test_stop_in_flight)
{
    int fd = peer_open("rw", true), early = peer_connect();

    fake_hold(true);
    send_reads(fd, 8, 0);
    fake_wait_in_flight(8);
    fake_hold(false);
    nbd_server_stop(INT64_MAX, NULL);
    ck_assert_str_eq(query(), "[]");
    ck_assert_str_eq(fake.events,
                     "BLOCK_EXPORT_DELETED e0\nBLOCK_EXPORT_DELETED e1\n");
    peer_export_add("{\"type\": \"nbd\", \"id\": \"e\","
                    " \"node-name\": \"disk0\"}",
                    "NBD server not running");
    close(fd);
    close(early);
}
END_TEST

/* What hangs is not waited for; it takes its export with it when it ends. */
START_TEST(test_stop_with_hung_request)
{
    g_autoptr(GError) err = NULL;
    int fd = peer_open("rw", true);

    ck_assert(block_export_del("e1", BLOCK_EXPORT_SAFE, NULL));
    fake.hang = true;
    fake_hold(true);
    send_reads(fd, 1, 0);
    fake_wait_in_flight(1);
    ck_assert(!nbd_server_stop(g_get_monotonic_time() + 1000, &err));
    ck_assert_str_eq(err->message, "NBD server stopped, but a request of a "
                                   "client does not end");
    ck_assert(!nbd_server_is_running());
    ck_assert_str_eq(fake.events, "BLOCK_EXPORT_DELETED e1\n");
    fake_hold(false);
    fake_wait_management();
    ck_assert_str_eq(query(), "[]");
    close(fd);
}
END_TEST

/* At exit, when the graph mutex is not to be had: as far as that goes without */
START_TEST(test_throw_out)
{
    int fd = peer_open("rw", true), early = peer_connect();
    g_autoptr(GPtrArray) before = NULL, after = NULL;

    fake_hold(true);
    send_reads(fd, 8, 0);
    fake_wait_in_flight(8);
    before = block_export_in_use();
    ck_assert_uint_eq(before->len, 1);
    ck_assert_str_eq(before->pdata[0], "e0");
    block_export_throw_out_all();
    ck_assert(!nbd_server_is_running());
    peer_expect_eof(fd);
    nbd_conn_wait_all(INT64_MAX);
    after = block_export_in_use();
    ck_assert_uint_eq(after->len, 0);
    ck_assert_str_eq(fake.events, "");
    fake_run_management();
    ck_assert_str_eq(query(), "[]");
    /* Again, when there is nothing left. */
    block_export_throw_out_all();
    close(fd);
    close(early);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("nbd-crew");
    TCase *crews = tcase_create("crews");
    TCase *exports = tcase_create("exports");

    tcase_add_checked_fixture(crews, setup, teardown);
    tcase_add_test(crews, test_sixteen_in_flight);
    tcase_add_test(crews, test_connections_at_once);
    tcase_add_test(crews, test_idle_helpers_leave);
    tcase_add_test(crews, test_slow_requests_in_parallel);
    tcase_add_loop_test(crews, test_reads_that_wait, 0, 2);
    tcase_add_test(crews, test_flushes_wait);
    tcase_add_test(crews, test_helpers_are_shared);
    tcase_add_test(crews, test_no_helpers);
    tcase_add_test(crews, test_client_vanishes);
    tcase_add_test(crews, test_client_does_not_read);
    tcase_add_test(crews, test_noise);
    suite_add_tcase(s, crews);

    tcase_add_checked_fixture(exports, setup, teardown);
    tcase_add_test(exports, test_export_options);
    tcase_add_test(exports, test_export_bitmaps);
    tcase_add_test(exports, test_del_safe);
    tcase_add_test(exports, test_del_hard);
    tcase_add_test(exports, test_del_hard_in_flight);
    tcase_add_test(exports, test_stop_in_flight);
    tcase_add_test(exports, test_stop_with_hung_request);
    tcase_add_test(exports, test_throw_out);
    suite_add_tcase(s, exports);

    return unit_main(s);
}
