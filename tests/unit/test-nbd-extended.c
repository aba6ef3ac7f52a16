/* SPDX-License-Identifier: GPL-2.0-or-later */
/* NBD with extended headers: 64-bit lengths, and replies that are all chunks */
#include <check.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "fake-block.h"
#include "nbd-peer.h"
#include "unit-main.h"

#define SIZE (4 << 20)
#define GIB (INT64_C(1) << 30)
#define LONG_SIZE (6 * GIB + 4096)

static NbdLimits usual_limits;

static void setup(void)
{
    usual_limits = nbd_limits;
    peer_server_start(SIZE);
}

static void setup_long(void)
{
    usual_limits = nbd_limits;
    peer_server_start(LONG_SIZE);
}

static void teardown(void)
{
    peer_server_stop();
    nbd_limits = usual_limits;
}

static void expect_ok(int fd, uint64_t cookie, uint64_t offset)
{
    bool done;

    ck_assert_uint_eq(
        peer_chunk_extended(fd, cookie, offset, NBD_REPLY_TYPE_NONE, &done), 0);
    ck_assert(done);
}

static void expect_error(int fd, uint64_t cookie, uint64_t offset,
                         uint32_t error)
{
    bool done;
    uint64_t length =
        peer_chunk_extended(fd, cookie, offset, NBD_REPLY_TYPE_ERROR, &done);

    ck_assert(done);
    peer_error_fields(fd, length, error);
}

/* Both are still in step. */
static void flush(int fd)
{
    peer_request_extended(fd, 0, NBD_CMD_FLUSH, 99, 0, 0);
    expect_ok(fd, 99, 0);
}

/* ---- the handshake ------------------------------------------------------ */

START_TEST(test_takes_no_data)
{
    int fd = peer_connect();

    peer_client_flags(fd, NBD_FLAG_FIXED_NEWSTYLE);
    peer_simple_option(fd, NBD_OPT_EXTENDED_HEADERS, "x", 1,
                       NBD_REP_ERR_INVALID);
    /* It was not agreed on. */
    peer_simple_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    close(fd);
}
END_TEST

START_TEST(test_goes_before_structured)
{
    int fd = peer_connect();

    peer_client_flags(fd, NBD_FLAG_FIXED_NEWSTYLE);
    peer_simple_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    peer_simple_option(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
    peer_simple_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0,
                       NBD_REP_ERR_EXT_HEADER_REQD);
    /* Without a context there is none that a request could name. */
    ck_assert(!(peer_go(fd, "rw") & NBD_FLAG_BLOCK_STATUS_PAYLOAD));
    flush(fd);
    close(fd);
}
END_TEST

START_TEST(test_flags)
{
    g_autoptr(GByteArray) data = g_byte_array_new();
    g_autofree char *context = NULL, *ack = NULL;
    int fd = peer_connect();
    uint16_t flags;

    peer_client_flags(fd, NBD_FLAG_FIXED_NEWSTYLE);
    peer_simple_option(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
    peer_put_string(data, "rw");
    peer_put_u32(data, 1);
    peer_put_string(data, "base:allocation");
    peer_option(fd, NBD_OPT_SET_META_CONTEXT, data->data, data->len);
    context = peer_option_reply(fd, NBD_OPT_SET_META_CONTEXT,
                                NBD_REP_META_CONTEXT, NULL);
    ack = peer_option_reply(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, NULL);
    flags = peer_go(fd, "rw");
    ck_assert(flags & NBD_FLAG_SEND_DF);
    ck_assert(flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
    close(fd);
}
END_TEST

START_TEST(test_export_name)
{
    int fd = peer_connect();

    peer_client_flags(fd, NBD_FLAG_FIXED_NEWSTYLE);
    peer_simple_option(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
    peer_option(fd, NBD_OPT_EXPORT_NAME, "rw", 2);
    peer_expect_eof(fd);
}
END_TEST

/* ---- requests ----------------------------------------------------------- */

START_TEST(test_read_write)
{
    int fd = peer_open_extended("rw");
    uint8_t data[12288], got[12288];
    uint64_t offset;
    bool done;

    memset(data, 0x5a, sizeof(data));
    peer_request_extended(fd, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_WRITE, 1, 4096,
                          sizeof(data));
    peer_send(fd, data, sizeof(data));
    expect_ok(fd, 1, 4096);
    ck_assert_mem_eq(fake.data + 4096, data, sizeof(data));
    peer_request_extended(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 2, 4096,
                          sizeof(got));
    ck_assert_uint_eq(
        peer_chunk_extended(fd, 2, 4096, NBD_REPLY_TYPE_OFFSET_DATA, &done),
        sizeof(offset) + sizeof(got));
    ck_assert(done);
    peer_recv(fd, &offset, sizeof(offset));
    ck_assert_uint_eq(GUINT64_FROM_BE(offset), 4096);
    peer_recv(fd, got, sizeof(got));
    ck_assert_mem_eq(got, data, sizeof(got));
    peer_request_extended(fd, 0, NBD_CMD_READ, 3, 0, 0);
    expect_ok(fd, 3, 0);
    close(fd);
}
END_TEST

/* In pieces, the head tells the request's offset, the fields each piece's. */
START_TEST(test_read_pieces)
{
    g_autofree uint8_t *got = g_malloc(65536);
    uint64_t offset, want;
    bool done = false;
    int fd;

    nbd_limits.small_buffer = 65536;
    nbd_limits.memory = 0;
    fd = peer_open_extended("rw");
    peer_request_extended(fd, 0, NBD_CMD_READ, 2, 512, 3 * 65536);
    for (want = 512; !done; want += 65536) {
        ck_assert_uint_eq(
            peer_chunk_extended(fd, 2, 512, NBD_REPLY_TYPE_OFFSET_DATA, &done),
            sizeof(offset) + 65536);
        peer_recv(fd, &offset, sizeof(offset));
        ck_assert_uint_eq(GUINT64_FROM_BE(offset), want);
        peer_recv(fd, got, 65536);
    }
    ck_assert_uint_eq(want, 512 + 3 * 65536);
    close(fd);
}
END_TEST

typedef struct Refusal {
    uint16_t flags, type;
    uint64_t offset, length;
    uint32_t error;
} Refusal;

#define P NBD_CMD_FLAG_PAYLOAD_LEN

static const Refusal refusals[] = {
    { 0, NBD_CMD_READ, 0, UINT64_C(1) << 32, NBD_EINVAL },
    { 0, NBD_CMD_READ, 0, UINT64_MAX, NBD_EINVAL },
    { 0, NBD_CMD_TRIM, 4096, UINT64_MAX - 4095, NBD_EINVAL },
    { 0, NBD_CMD_TRIM, 0, SIZE + 1, NBD_EINVAL },
    { 0, NBD_CMD_WRITE_ZEROES, 0, UINT64_C(1) << 63, NBD_ENOSPC },
    { 0, NBD_CMD_BLOCK_STATUS, 0, UINT64_C(1) << 32, NBD_EINVAL },
    { 0, 77, 0, 512, NBD_EINVAL },
    /* data that nobody asked for is taken off the socket */
    { P, NBD_CMD_READ, 0, 512, NBD_EINVAL },
    { P, NBD_CMD_TRIM, 0, 512, NBD_EINVAL },
    { P, NBD_CMD_WRITE_ZEROES, 0, 300000, NBD_EINVAL },
    { P, NBD_CMD_FLUSH, 0, 1, NBD_EINVAL },
    { P, 77, 0, 512, NBD_EINVAL },
    { P, NBD_CMD_WRITE, SIZE - 1, 2, NBD_ENOSPC },
    { P | NBD_CMD_FLAG_DF, NBD_CMD_WRITE, 0, 512, NBD_EINVAL },
    /* no list of contexts: none, half an id, too many */
    { P, NBD_CMD_BLOCK_STATUS, 0, 0, NBD_EINVAL },
    { P, NBD_CMD_BLOCK_STATUS, 0, 7, NBD_EINVAL },
    { P, NBD_CMD_BLOCK_STATUS, 0, 8, NBD_EINVAL },
    { P, NBD_CMD_BLOCK_STATUS, 0, 10, NBD_EINVAL },
    { P, NBD_CMD_BLOCK_STATUS, 0, 20, NBD_EINVAL },
};

START_TEST(test_refusals)
{
    const Refusal *c = &refusals[_i];
    g_autofree uint8_t *data = g_malloc0(NBD_MAX_REQUEST);
    int fd = peer_open_extended("rw");

    peer_request_extended(fd, c->flags, c->type, 7, c->offset, c->length);
    if (c->flags & P) {
        peer_send(fd, data, c->length);
    }
    expect_error(fd, 7, c->offset, c->error);
    flush(fd);
    close(fd);
}
END_TEST

/* What follows cannot be told from requests, or never ends. */
START_TEST(test_hangs_up)
{
    static const struct {
        uint16_t flags, type;
        uint64_t length;
    } cases[] = {
        { 0, NBD_CMD_WRITE, 512 },
        { 0, NBD_CMD_WRITE, 0 },
        { P, NBD_CMD_WRITE, NBD_MAX_REQUEST + 1 },
        { P, NBD_CMD_READ, UINT64_MAX },
        { P, NBD_CMD_BLOCK_STATUS, NBD_MAX_REQUEST + 1 },
    };
    int fd;

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        fd = peer_open_extended("rw");
        peer_request_extended(fd, cases[i].flags, cases[i].type, 1, 0,
                              cases[i].length);
        peer_expect_eof(fd);
    }
    fd = peer_open_extended("rw");
    peer_request(fd, 0, NBD_CMD_FLUSH, 1, 0, 0);
    peer_send(fd, "\0\0\0", 4); /* a compact head is shorter */
    peer_expect_eof(fd);
    ck_assert_uint_eq(fake.count[FAKE_WRITE] + fake.count[FAKE_FLUSH], 0);
}
END_TEST

/* A structured client must not use what goes with extended headers. */
START_TEST(test_not_for_others)
{
    int fd = peer_open("rw", true);

    peer_request(fd, P, NBD_CMD_TRIM, 1, 0, 512);
    peer_error_chunk(fd, 1, NBD_EINVAL);
    peer_request(fd, P, NBD_CMD_BLOCK_STATUS, 2, 0, 512);
    peer_error_chunk(fd, 2, NBD_EINVAL);
    close(fd);
}
END_TEST

/* ---- longer than 32 bits ------------------------------------------------ */

/* The extents of one chunk as "length:flags" */
static char *read_extents(int fd, uint64_t offset, uint32_t context, bool *done)
{
    GString *text = g_string_new(NULL);
    NbdExtendedStatusFields fields;
    NbdExtendedExtent extent;
    uint64_t bytes = peer_chunk_extended(fd, 3, offset,
                                         NBD_REPLY_TYPE_BLOCK_STATUS_EXT, done);

    peer_recv(fd, &fields, sizeof(fields));
    ck_assert_uint_eq(GUINT32_FROM_BE(fields.context), context);
    bytes -= sizeof(fields);
    ck_assert_uint_eq(bytes, GUINT32_FROM_BE(fields.count) * sizeof(extent));
    for (; bytes > 0; bytes -= sizeof(extent)) {
        peer_recv(fd, &extent, sizeof(extent));
        g_string_append_printf(
            text, "%s%" PRIu64 ":%" PRIu64, text->len ? " " : "",
            GUINT64_FROM_BE(extent.length), GUINT64_FROM_BE(extent.flags));
    }
    return g_string_free(text, FALSE);
}

static void check_status(int fd, uint16_t flags, uint64_t offset,
                         uint64_t length, const char *want)
{
    g_autofree char *got = NULL;
    bool done;

    peer_request_extended(fd, flags, NBD_CMD_BLOCK_STATUS, 3, offset, length);
    got = read_extents(fd, offset, 0, &done);
    ck_assert(done);
    ck_assert_str_eq(got, want);
}

START_TEST(test_long_status)
{
    int fd = peer_open_extended("rw");

    fake.status[5 * GIB / FAKE_BLOCK] = BDRV_BLOCK_DATA;
    check_status(fd, 0, 0, LONG_SIZE, "5368709120:3 4096:0 1073741824:3");
    check_status(fd, NBD_CMD_FLAG_REQ_ONE, 0, LONG_SIZE, "5368709120:3");
    check_status(fd, 0, 5 * GIB, 512, "512:0");
    close(fd);
}
END_TEST

/* As many extents as fit into 512 KiB, or into what memory there is */
START_TEST(test_many_extents)
{
    int fd = peer_open_extended("rw");
    g_autofree char *got = NULL, *less = NULL;
    bool done;

    for (int64_t i = 0; i < 100000; i += 2) {
        fake.status[i] = BDRV_BLOCK_DATA;
    }
    peer_request_extended(fd, 0, NBD_CMD_BLOCK_STATUS, 3, 0, LONG_SIZE);
    got = read_extents(fd, 0, 0, &done);
    ck_assert_uint_eq(strlen(got), 32768 * strlen("4096:0 ") - 1);
    close(fd);

    /* Limits may change only while nobody heeds them. */
    nbd_conn_wait_all(INT64_MAX);
    nbd_limits.memory = 0;
    fd = peer_open_extended("rw");
    peer_request_extended(fd, 0, NBD_CMD_BLOCK_STATUS, 3, 0, LONG_SIZE);
    less = read_extents(fd, 0, 0, &done);
    ck_assert_uint_eq(strlen(less), 16384 * strlen("4096:0 ") - 1);
    close(fd);
}
END_TEST

START_TEST(test_long_trim)
{
    int fd = peer_open_extended("rw");

    peer_request_extended(fd, 0, NBD_CMD_TRIM, 1, 0, LONG_SIZE);
    expect_ok(fd, 1, 0);
    ck_assert_uint_eq(fake.count[FAKE_DISCARD], 7);
    ck_assert_uint_eq(fake.count[FAKE_FLUSH], 0);
    peer_request_extended(fd, NBD_CMD_FLAG_FUA, NBD_CMD_TRIM, 2, 4096, 5 * GIB);
    expect_ok(fd, 2, 4096);
    ck_assert_uint_eq(fake.count[FAKE_DISCARD], 7 + 5);
    ck_assert_uint_eq(fake.count[FAKE_FLUSH], 1);
    close(fd);
}
END_TEST

/* When the client is thrown out, what it asked for is not done to the end. */
START_TEST(test_long_trim_given_up)
{
    int fd = peer_open_extended("rw");

    fake_hold(true);
    peer_request_extended(fd, 0, NBD_CMD_TRIM, 1, 0, LONG_SIZE);
    fake_wait_in_flight(1);
    nbd_conn_abort_all(NULL);
    fake_hold(false);
    nbd_conn_wait_all(INT64_MAX);
    ck_assert_uint_eq(fake.count[FAKE_DISCARD], 1);
    peer_drain(fd);
}
END_TEST

/* ---- contexts that a request names -------------------------------------- */

static int open_two_contexts(const char *export, const char *one,
                             const char *other)
{
    g_autoptr(GByteArray) data = g_byte_array_new();
    int fd = peer_connect();

    peer_client_flags(fd, NBD_FLAG_FIXED_NEWSTYLE);
    peer_simple_option(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
    peer_put_string(data, export);
    peer_put_u32(data, 2);
    peer_put_string(data, one);
    peer_put_string(data, other);
    peer_option(fd, NBD_OPT_SET_META_CONTEXT, data->data, data->len);
    for (int i = 0; i < 3; i++) {
        g_free(peer_option_reply(fd, NBD_OPT_SET_META_CONTEXT,
                                 i < 2 ? NBD_REP_META_CONTEXT : NBD_REP_ACK,
                                 NULL));
    }
    peer_go(fd, export);
    return fd;
}

static int open_depth_and_allocation(void)
{
    return open_two_contexts("ro", "qemu:allocation-depth", "base:allocation");
}

/* Ask for the first 8192 bytes in the contexts of @ids. */
static void ask_contexts(int fd, uint64_t length, int n, uint32_t *ids)
{
    uint64_t effect = GUINT64_TO_BE(length);

    peer_request_extended(fd, P, NBD_CMD_BLOCK_STATUS, 3, 0,
                          sizeof(effect) + n * sizeof(*ids));
    peer_send(fd, &effect, sizeof(effect));
    for (int i = 0; i < n; i++) {
        uint32_t id = GUINT32_TO_BE(ids[i]);

        peer_send(fd, &id, sizeof(id));
    }
}

START_TEST(test_contexts_named)
{
    int fd = open_depth_and_allocation();
    g_autofree char *depth = NULL, *first = NULL, *second = NULL;
    bool done;

    ask_contexts(fd, 8192, 1, (uint32_t[]){ NBD_CONTEXT_DEPTH });
    depth = read_extents(fd, 0, NBD_CONTEXT_DEPTH, &done);
    ck_assert(done);
    ck_assert_str_eq(depth, "8192:1");

    ask_contexts(fd, 8192, 2,
                 (uint32_t[]){ NBD_CONTEXT_DEPTH, NBD_CONTEXT_ALLOCATION });
    first = read_extents(fd, 0, NBD_CONTEXT_ALLOCATION, &done);
    ck_assert(!done);
    ck_assert_str_eq(first, "8192:3");
    second = read_extents(fd, 0, NBD_CONTEXT_DEPTH, &done);
    ck_assert(done);
    close(fd);
}
END_TEST

/* The first and the last of as many bitmaps as there can be */
START_TEST(test_bitmap_contexts)
{
    g_autoptr(GString) export = g_string_new(
        "{\"type\": \"nbd\", \"id\": \"e2\", \"name\": \"bits\","
        " \"node-name\": \"disk0\", \"writable\": true, \"bitmaps\": [\"b0\"");
    uint32_t ids[] = { NBD_CONTEXTS - 1, NBD_CONTEXT_BITMAPS };
    int fd, i;

    for (i = 1; i < NBD_MAX_BITMAPS; i++) {
        g_string_append_printf(export, ", \"b%d\"", i);
    }
    g_string_append(export, "]}");
    peer_export_add(export->str, NULL);
    fake.dirty = 5000;
    fd = open_two_contexts("bits", "qemu:dirty-bitmap:b61",
                           "qemu:dirty-bitmap:b0");
    for (i = 0; i < 2; i++) {
        g_autofree char *one = NULL, *first = NULL, *second = NULL;
        bool done;

        ask_contexts(fd, 8192, 1, &ids[i]);
        one = read_extents(fd, 0, ids[i], &done);
        ck_assert(done);
        ck_assert_str_eq(one, "5000:1 3192:0");

        peer_request_extended(fd, i ? NBD_CMD_FLAG_REQ_ONE : 0,
                              NBD_CMD_BLOCK_STATUS, 3, 0, 8192);
        first = read_extents(fd, 0, NBD_CONTEXT_BITMAPS, &done);
        ck_assert(!done);
        second = read_extents(fd, 0, NBD_CONTEXTS - 1, &done);
        ck_assert(done);
        ck_assert_str_eq(first, i ? "5000:1" : "5000:1 3192:0");
        ck_assert_str_eq(second, first);
    }
    close(fd);
}
END_TEST

START_TEST(test_contexts_refused)
{
    int fd = open_depth_and_allocation();

    ask_contexts(fd, 8192, 1, (uint32_t[]){ NBD_CONTEXTS });
    expect_error(fd, 3, 0, NBD_EINVAL);
    ask_contexts(fd, 8192, 1, (uint32_t[]){ UINT32_MAX });
    expect_error(fd, 3, 0, NBD_EINVAL);
    ask_contexts(fd, 8192, 2,
                 (uint32_t[]){ NBD_CONTEXT_DEPTH, NBD_CONTEXT_DEPTH });
    expect_error(fd, 3, 0, NBD_EINVAL);
    ask_contexts(fd, UINT64_MAX, 1, (uint32_t[]){ NBD_CONTEXT_DEPTH });
    expect_error(fd, 3, 0, NBD_EINVAL);
    ask_contexts(fd, 0, 1, (uint32_t[]){ NBD_CONTEXT_DEPTH });
    expect_error(fd, 3, 0, NBD_EINVAL);
    flush(fd);
    close(fd);
    /* one that there is, but that was not chosen */
    fd = peer_open_extended("ro");
    ask_contexts(fd, 8192, 1, (uint32_t[]){ NBD_CONTEXT_DEPTH });
    expect_error(fd, 3, 0, NBD_EINVAL);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("nbd-extended");
    TCase *tc = tcase_create("extended"), *longer = tcase_create("long");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_takes_no_data);
    tcase_add_test(tc, test_goes_before_structured);
    tcase_add_test(tc, test_flags);
    tcase_add_test(tc, test_export_name);
    tcase_add_test(tc, test_read_write);
    tcase_add_test(tc, test_read_pieces);
    tcase_add_loop_test(tc, test_refusals, 0, G_N_ELEMENTS(refusals));
    tcase_add_test(tc, test_hangs_up);
    tcase_add_test(tc, test_not_for_others);
    tcase_add_test(tc, test_contexts_named);
    tcase_add_test(tc, test_bitmap_contexts);
    tcase_add_test(tc, test_contexts_refused);
    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(longer, setup_long, teardown);
    tcase_add_test(longer, test_long_status);
    tcase_add_test(longer, test_many_extents);
    tcase_add_test(longer, test_long_trim);
    tcase_add_test(longer, test_long_trim_given_up);
    suite_add_tcase(s, longer);
    return unit_main(s);
}
