/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests to the NBD server, and its replies */
#include <check.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "fake-block.h"
#include "nbd-peer.h"
#include "unit-main.h"

#define SIZE (4 << 20)

static NbdLimits usual_limits;
static uint8_t *pattern; /* SIZE bytes */

static void setup(void)
{
    usual_limits = nbd_limits;
    pattern = g_malloc(SIZE);
    for (int i = 0; i < SIZE; i++) {
        pattern[i] = i * 7 + (i >> 9);
    }
    peer_server_start(SIZE);
}

static void teardown(void)
{
    peer_server_stop();
    g_free(pattern);
    nbd_limits = usual_limits;
}

/* Buffers of 64 KiB, and nothing beyond that: requests are done in pieces. */
static void scarce_memory(void)
{
    nbd_limits.small_buffer = 65536;
    nbd_limits.memory = 0;
}

static void write_all(int fd, uint64_t cookie, uint64_t offset, uint32_t length,
                      uint16_t flags)
{
    peer_request(fd, flags, NBD_CMD_WRITE, cookie, offset, length);
    peer_send(fd, pattern + offset, length);
}

/* ---- what is refused ---------------------------------------------------- */

typedef struct Refusal {
    const char *export;
    uint16_t flags, type;
    uint64_t offset;
    uint32_t length;
    uint32_t error;
} Refusal;

static const Refusal refusals[] = {
    { "rw", 0, 5, 0, 512, NBD_EINVAL },
    { "rw", 0, 8, 0, 512, NBD_EINVAL },
    { "rw", 0, 0xffff, 0, 512, NBD_EINVAL },
    { "rw", 0x20, NBD_CMD_READ, 0, 512, NBD_EINVAL },
    { "rw", NBD_CMD_FLAG_NO_HOLE, NBD_CMD_READ, 0, 512, NBD_EINVAL },
    { "rw", NBD_CMD_FLAG_REQ_ONE, NBD_CMD_WRITE, 0, 512, NBD_EINVAL },
    { "rw", NBD_CMD_FLAG_NO_HOLE, NBD_CMD_TRIM, 0, 512, NBD_EINVAL },
    { "rw", NBD_CMD_FLAG_DF, NBD_CMD_FLUSH, 0, 0, NBD_EINVAL },
    { "rw", NBD_CMD_FLAG_DF, NBD_CMD_BLOCK_STATUS, 0, 512, NBD_EINVAL },
    { "rw", 0, NBD_CMD_READ, SIZE, 1, NBD_EINVAL },
    { "rw", 0, NBD_CMD_READ, SIZE - 1, 2, NBD_EINVAL },
    { "rw", 0, NBD_CMD_READ, UINT64_MAX, 2, NBD_EINVAL },
    { "rw", 0, NBD_CMD_READ, UINT64_C(1) << 63, 0, NBD_EINVAL },
    { "rw", 0, NBD_CMD_READ, 0, UINT32_MAX, NBD_EINVAL },
    { "rw", 0, NBD_CMD_WRITE, SIZE - 1, 2, NBD_ENOSPC },
    { "rw", 0, NBD_CMD_WRITE, UINT64_MAX, 2, NBD_ENOSPC },
    { "rw", 0, NBD_CMD_WRITE, 0, NBD_MAX_REQUEST + 1, NBD_EINVAL },
    { "rw", 0, NBD_CMD_WRITE_ZEROES, SIZE - 1, 2, NBD_ENOSPC },
    { "rw", 0, NBD_CMD_WRITE_ZEROES, 0, UINT32_MAX, NBD_ENOSPC },
    { "rw", 0, NBD_CMD_TRIM, SIZE - 1, 2, NBD_EINVAL },
    { "rw", 0, NBD_CMD_BLOCK_STATUS, SIZE - 1, 2, NBD_EINVAL },
    { "rw", 0, NBD_CMD_BLOCK_STATUS, 0, 0, NBD_EINVAL },
    { "ro", 0, NBD_CMD_WRITE, 0, 512, NBD_EPERM },
    { "ro", 0, NBD_CMD_WRITE, 0, 0, NBD_EPERM },
    { "ro", 0, NBD_CMD_TRIM, 0, 512, NBD_EPERM },
    { "ro", 0, NBD_CMD_WRITE_ZEROES, 0, 512, NBD_EPERM },
    { "ro", NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 0, 512, NBD_EPERM },
};

static void check_refusal(const Refusal *c, bool structured)
{
    int fd = peer_open(c->export, structured);
    g_autofree uint8_t *data = g_malloc0(NBD_MAX_REQUEST + 1);

    peer_request(fd, c->flags, c->type, 77, c->offset, c->length);
    if (c->type == NBD_CMD_WRITE) {
        peer_send(fd, data, c->length);
    }
    if (structured) {
        peer_error_chunk(fd, 77, c->error);
    } else {
        ck_assert_uint_eq(peer_simple_reply(fd, c->error), 77);
    }
    /* Both are still in step. */
    peer_request(fd, 0, NBD_CMD_FLUSH, 78, 0, 0);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 78);
    close(fd);
}

START_TEST(test_refusals)
{
    check_refusal(&refusals[_i], true);
    check_refusal(&refusals[_i], false);
}
END_TEST

START_TEST(test_bad_magic)
{
    int fd = peer_open("rw", true);
    uint8_t noise[28] = { 0 };

    peer_send(fd, noise, sizeof(noise));
    peer_expect_eof(fd);
}
END_TEST

START_TEST(test_block_status_needs_context)
{
    int fd = peer_open("rw", false);

    peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 512);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_EINVAL), 1);
    peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 2, 0, 512);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_EINVAL), 2);
    close(fd);
}
END_TEST

START_TEST(test_disc)
{
    int fd = peer_open("rw", true);

    write_all(fd, 1, 4096, 4096, 0);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 1);
    peer_request(fd, 0, NBD_CMD_DISC, 0, 0, 0);
    peer_expect_eof(fd);
}
END_TEST

/* What came before DISC is still answered. */
START_TEST(test_disc_waits)
{
    int fd = peer_open("rw", true);
    uint64_t seen = 0;

    fake_hold(true);
    for (uint64_t i = 0; i < 3; i++) {
        write_all(fd, i, i * 4096, 4096, 0);
    }
    peer_request(fd, 0, NBD_CMD_DISC, 0, 0, 0);
    fake_wait_in_flight(3);
    fake_hold(false);
    for (int i = 0; i < 3; i++) {
        seen |= 1u << peer_simple_reply(fd, NBD_SUCCESS);
    }
    ck_assert_uint_eq(seen, 7);
    peer_expect_eof(fd);
}
END_TEST

/* ---- READ and WRITE ----------------------------------------------------- */

static void check_read(int fd, bool structured, uint16_t flags, uint64_t offset,
                       uint32_t length)
{
    g_autofree uint8_t *data = g_malloc(length + 1);

    peer_request(fd, flags, NBD_CMD_READ, offset, offset, length);
    if (structured && length == 0) {
        bool done;

        peer_chunk(fd, offset, NBD_REPLY_TYPE_NONE, &done);
        ck_assert(done);
    } else if (structured) {
        peer_read_reply(fd, offset, offset, data, length);
    } else {
        ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), offset);
        peer_recv(fd, data, length);
    }
    ck_assert(memcmp(data, pattern + offset, length) == 0);
}

static void check_read_write(bool structured)
{
    int fd = peer_open("rw", structured);

    write_all(fd, 9, 0, SIZE, 0);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 9);
    ck_assert(memcmp(fake.data, pattern, SIZE) == 0);
    check_read(fd, structured, 0, 0, 1);
    check_read(fd, structured, 0, SIZE - 1, 1);
    check_read(fd, structured, 0, SIZE, 0);
    check_read(fd, structured, 0, 12345, 54321);
    check_read(fd, structured, 0, 0, SIZE);
    check_read(fd, structured, NBD_CMD_FLAG_FUA, 4096, 4095);
    if (structured) {
        check_read(fd, structured, NBD_CMD_FLAG_DF, 4095, 65536);
    }
    write_all(fd, 10, 0, 0, 0);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 10);
    close(fd);
}

START_TEST(test_read_write)
{
    check_read_write(true);
    check_read_write(false);
    ck_assert_uint_eq(fake.count[FAKE_WRITE], 2);
}
END_TEST

START_TEST(test_read_write_pieces)
{
    scarce_memory();
    check_read_write(true);
    check_read_write(false);
    ck_assert_uint_eq(fake.count[FAKE_WRITE], 2 * SIZE / 65536);
    ck_assert_uint_le(nbd_buffer_total(), 65536 * nbd_limits.crew * 2);
}
END_TEST

START_TEST(test_df_needs_memory)
{
    int fd;

    scarce_memory();
    fd = peer_open("rw", true);
    peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 1, 0, 65537);
    peer_error_chunk(fd, 1, NBD_EOVERFLOW);
    close(fd);
}
END_TEST

START_TEST(test_read_error)
{
    int fd = peer_open("rw", true);

    fake_fail(FAKE_READ, EIO, 0);
    peer_request(fd, 0, NBD_CMD_READ, 1, 0, 4096);
    peer_error_chunk(fd, 1, NBD_EIO);
    close(fd);
    fd = peer_open("rw", false);
    peer_request(fd, 0, NBD_CMD_READ, 2, 0, 4096);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_EIO), 2);
    peer_request(fd, 0, NBD_CMD_FLUSH, 3, 0, 0);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 3);
    close(fd);
}
END_TEST

/* An error behind the first piece: an error chunk, or the end. */
START_TEST(test_read_error_late)
{
    uint8_t data[65536];
    uint64_t offset;
    bool done;
    int fd;

    scarce_memory();
    fake_fail(FAKE_READ, EIO, 65536 + 1);
    fd = peer_open("rw", true);
    peer_request(fd, 0, NBD_CMD_READ, 1, 0, SIZE);
    ck_assert_uint_eq(peer_chunk(fd, 1, NBD_REPLY_TYPE_OFFSET_DATA, &done),
                      sizeof(offset) + sizeof(data));
    ck_assert(!done);
    peer_recv(fd, &offset, sizeof(offset));
    peer_recv(fd, data, sizeof(data));
    peer_error_chunk(fd, 1, NBD_EIO);
    close(fd);

    fd = peer_open("rw", false);
    peer_request(fd, 0, NBD_CMD_READ, 2, 0, SIZE);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 2);
    peer_recv(fd, data, sizeof(data));
    peer_expect_eof(fd);
}
END_TEST

START_TEST(test_write_error_late)
{
    int fd;

    scarce_memory();
    fake_fail(FAKE_WRITE, ENOSPC, 65536 + 1);
    fd = peer_open("rw", true);
    write_all(fd, 1, 0, SIZE, 0);
    peer_error_chunk(fd, 1, NBD_ENOSPC);
    ck_assert_uint_eq(fake.count[FAKE_WRITE], 2);
    peer_request(fd, 0, NBD_CMD_FLUSH, 3, 0, 0);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 3);
    close(fd);
}
END_TEST

START_TEST(test_errors)
{
    static const struct {
        int error;
        uint32_t nbd;
    } cases[] = {
        { EPERM, NBD_EPERM },
        { EROFS, NBD_EPERM },
        { EIO, NBD_EIO },
        { EREMOTEIO, NBD_EIO },
        { ENOMEM, NBD_ENOMEM },
        { EINVAL, NBD_EINVAL },
        { ENOSPC, NBD_ENOSPC },
        { EDQUOT, NBD_ENOSPC },
        { EFBIG, NBD_ENOSPC },
        { ENOTSUP, NBD_EINVAL },
        { ECANCELED, NBD_ESHUTDOWN },
        { EOVERFLOW, NBD_EOVERFLOW },
    };
    int fd = peer_open("rw", true);

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        fake_fail(FAKE_FLUSH, cases[i].error, -1);
        peer_request(fd, 0, NBD_CMD_FLUSH, i, 0, 0);
        peer_error_chunk(fd, i, cases[i].nbd);
    }
    close(fd);
}
END_TEST

/* Asserts a hole, the next chunk of the reply to request @cookie. */
static bool read_hole(int fd, uint64_t cookie, uint64_t offset, uint32_t bytes)
{
    NbdHoleFields fields;
    bool done;

    ck_assert_uint_eq(peer_chunk(fd, cookie, NBD_REPLY_TYPE_OFFSET_HOLE, &done),
                      sizeof(fields));
    peer_recv(fd, &fields, sizeof(fields));
    ck_assert_uint_eq(GUINT64_FROM_BE(fields.offset), offset);
    ck_assert_uint_eq(GUINT32_FROM_BE(fields.length), bytes);
    return done;
}

START_TEST(test_holes)
{
    uint8_t data[3 * FAKE_BLOCK];
    uint64_t at;
    bool done;
    int fd = peer_open("rw", true);

    write_all(fd, 1, FAKE_BLOCK, FAKE_BLOCK, 0);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 1);
    fake.holes = true;
    peer_request(fd, 0, NBD_CMD_READ, 2, 512, 3 * FAKE_BLOCK - 512);
    ck_assert(!read_hole(fd, 2, 512, FAKE_BLOCK - 512));
    ck_assert_uint_eq(peer_chunk(fd, 2, NBD_REPLY_TYPE_OFFSET_DATA, &done),
                      sizeof(at) + FAKE_BLOCK);
    ck_assert(!done);
    peer_recv(fd, &at, sizeof(at));
    ck_assert_uint_eq(GUINT64_FROM_BE(at), FAKE_BLOCK);
    peer_recv(fd, data, FAKE_BLOCK);
    ck_assert_mem_eq(data, pattern + FAKE_BLOCK, FAKE_BLOCK);
    ck_assert(read_hole(fd, 2, 2 * FAKE_BLOCK, FAKE_BLOCK));
    ck_assert_uint_eq(fake.count[FAKE_READ], 1);
    ck_assert_uint_eq(fake.count[FAKE_STATUS], 0);

    /* in one piece, it is data */
    peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 3, 0, sizeof(data));
    peer_read_reply(fd, 3, 0, data, sizeof(data));
    ck_assert_mem_eq(data, fake.data, sizeof(data));
    peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 4, 0, 512);
    peer_read_reply(fd, 4, 0, data, 512);
    close(fd);
    /* as it is without chunks */
    fd = peer_open("rw", false);
    peer_request(fd, 0, NBD_CMD_READ, 5, 0, sizeof(data));
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 5);
    peer_recv(fd, data, sizeof(data));
    ck_assert_mem_eq(data, fake.data, sizeof(data));
    close(fd);
}
END_TEST

/* An error behind a hole */
START_TEST(test_hole_and_error)
{
    int fd = peer_open("rw", true);

    fake.status[1] = BDRV_BLOCK_DATA;
    fake.holes = true;
    fake_fail(FAKE_READ, EIO, 0);
    peer_request(fd, 0, NBD_CMD_READ, 2, 0, 2 * FAKE_BLOCK);
    ck_assert(!read_hole(fd, 2, 0, FAKE_BLOCK));
    peer_error_chunk(fd, 2, NBD_EIO);
    close(fd);
}
END_TEST

/* ---- FUA, zeroes, TRIM -------------------------------------------------- */

static void command(int fd, uint16_t flags, uint16_t type)
{
    peer_request(fd, flags, type, 5, 0, 8192);
    if (type == NBD_CMD_WRITE) {
        peer_send(fd, pattern, 8192);
    }
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 5);
}

START_TEST(test_flags_of_writes)
{
    int fd = peer_open("rw", true);

    command(fd, 0, NBD_CMD_WRITE);
    ck_assert_int_eq(fake.last_flags, 0);
    command(fd, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE);
    ck_assert_int_eq(fake.last_flags, BDRV_REQ_FUA);
    command(fd, 0, NBD_CMD_WRITE_ZEROES);
    ck_assert_int_eq(fake.last_flags, BDRV_REQ_MAY_UNMAP);
    command(fd, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE_ZEROES);
    ck_assert_int_eq(fake.last_flags, 0);
    command(fd, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_FAST_ZERO,
            NBD_CMD_WRITE_ZEROES);
    ck_assert_int_eq(fake.last_flags,
                     BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK);
    command(fd, 0, NBD_CMD_TRIM);
    ck_assert_uint_eq(fake.count[FAKE_FLUSH], 0);
    command(fd, NBD_CMD_FLAG_FUA, NBD_CMD_TRIM);
    ck_assert_uint_eq(fake.count[FAKE_FLUSH], 1);

    fake_fail(FAKE_ZERO, ENOTSUP, 0);
    peer_request(fd, NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 6, 0, 512);
    peer_error_chunk(fd, 6, NBD_ENOTSUP);
    close(fd);
}
END_TEST

START_TEST(test_writethrough)
{
    int fd;

    peer_export_add("{\"type\": \"nbd\", \"id\": \"e2\", \"name\": \"wt\","
                    " \"node-name\": \"disk0\", \"writable\": true,"
                    " \"writethrough\": true}",
                    NULL);
    fd = peer_open("wt", true);
    command(fd, 0, NBD_CMD_WRITE);
    ck_assert_int_eq(fake.last_flags, BDRV_REQ_FUA);
    command(fd, 0, NBD_CMD_WRITE_ZEROES);
    ck_assert_int_eq(fake.last_flags, BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP);
    command(fd, 0, NBD_CMD_TRIM);
    ck_assert_uint_eq(fake.count[FAKE_FLUSH], 1);
    close(fd);
}
END_TEST

/* FUA holds for all pieces of a WRITE. */
START_TEST(test_fua_pieces)
{
    int fd;

    scarce_memory();
    fd = peer_open("rw", true);
    write_all(fd, 1, 0, SIZE, NBD_CMD_FLAG_FUA);
    ck_assert_uint_eq(peer_simple_reply(fd, NBD_SUCCESS), 1);
    ck_assert_uint_eq(fake.count[FAKE_FLUSH], 1);
    close(fd);
}
END_TEST

/* ---- BLOCK_STATUS ------------------------------------------------------- */

/* The extents of one chunk as "length:flags" */
static char *read_extents(int fd, uint64_t cookie, uint32_t context, bool *done)
{
    GString *text = g_string_new(NULL);
    uint32_t bytes, id;
    NbdExtent extent;

    bytes = peer_chunk(fd, cookie, NBD_REPLY_TYPE_BLOCK_STATUS, done);
    peer_recv(fd, &id, sizeof(id));
    ck_assert_uint_eq(GUINT32_FROM_BE(id), context);
    for (bytes -= sizeof(id); bytes > 0; bytes -= sizeof(extent)) {
        peer_recv(fd, &extent, sizeof(extent));
        g_string_append_printf(text, "%s%u:%u", text->len ? " " : "",
                               GUINT32_FROM_BE(extent.length),
                               GUINT32_FROM_BE(extent.flags));
    }
    return g_string_free(text, FALSE);
}

static void check_status(int fd, uint16_t flags, uint64_t offset,
                         uint32_t length, const char *want)
{
    g_autofree char *got = NULL;
    bool done;

    peer_request(fd, flags, NBD_CMD_BLOCK_STATUS, 3, offset, length);
    got = read_extents(fd, 3, 0, &done);
    ck_assert(done);
    ck_assert_str_eq(got, want);
}

START_TEST(test_block_status)
{
    int fd = peer_open("rw", true);

    memset(fake.status + 2, BDRV_BLOCK_DATA, 2);
    fake.status[4] = 0;
    fake.status[5] = BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO;
    check_status(fd, 0, 0, 32768, "8192:3 8192:0 4096:1 4096:2 8192:3");
    check_status(fd, NBD_CMD_FLAG_REQ_ONE, 0, 32768, "8192:3");
    check_status(fd, 0, 100, 8192, "8092:3 100:0");
    check_status(fd, 0, SIZE - 1, 1, "1:3");
    close(fd);
}
END_TEST

START_TEST(test_block_status_limit)
{
    g_autofree char *got = NULL;
    int fd = peer_open("rw", true);
    bool done;

    for (int i = 0; i < SIZE / FAKE_BLOCK; i += 2) {
        fake.status[i] = BDRV_BLOCK_DATA;
    }
    nbd_limits.small_buffer = 4096; /* 512 extents, of 1024 */
    peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 3, 0, SIZE);
    got = read_extents(fd, 3, 0, &done);
    ck_assert(g_str_has_prefix(got, "4096:0 4096:3 "));
    ck_assert(g_str_has_suffix(got, " 4096:3"));
    ck_assert_uint_eq(strlen(got), 512 * strlen("4096:x ") - 1);
    close(fd);
}
END_TEST

START_TEST(test_block_status_error)
{
    int fd = peer_open("rw", true);

    fake_fail(FAKE_STATUS, EIO, 0);
    peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 8192);
    peer_error_chunk(fd, 1, NBD_EIO);
    close(fd);
}
END_TEST

START_TEST(test_two_contexts)
{
    g_autoptr(GByteArray) data = g_byte_array_new();
    g_autofree char *a = NULL, *b = NULL, *ack = NULL;
    g_autofree char *status = NULL, *depth = NULL;
    int fd = peer_connect();
    bool done;

    peer_client_flags(fd, NBD_FLAG_FIXED_NEWSTYLE);
    peer_simple_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    peer_put_string(data, "ro");
    peer_put_u32(data, 2);
    peer_put_string(data, "qemu:allocation-depth");
    peer_put_string(data, "base:allocation");
    peer_option(fd, NBD_OPT_SET_META_CONTEXT, data->data, data->len);
    a = peer_option_reply(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT,
                          NULL);
    b = peer_option_reply(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT,
                          NULL);
    ack = peer_option_reply(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, NULL);
    peer_go(fd, "ro");
    fake.status[1] = BDRV_BLOCK_DATA;
    peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 3, 0, 8192);
    status = read_extents(fd, 3, 0, &done);
    ck_assert(!done);
    ck_assert_str_eq(status, "4096:3 4096:0");
    depth = read_extents(fd, 3, 1, &done);
    ck_assert(done);
    ck_assert_str_eq(depth, "8192:1");
    close(fd);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("nbd-request");
    TCase *tc = tcase_create("requests");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, test_refusals, 0, G_N_ELEMENTS(refusals));
    tcase_add_test(tc, test_bad_magic);
    tcase_add_test(tc, test_block_status_needs_context);
    tcase_add_test(tc, test_disc);
    tcase_add_test(tc, test_disc_waits);
    tcase_add_test(tc, test_read_write);
    tcase_add_test(tc, test_read_write_pieces);
    tcase_add_test(tc, test_df_needs_memory);
    tcase_add_test(tc, test_read_error);
    tcase_add_test(tc, test_read_error_late);
    tcase_add_test(tc, test_write_error_late);
    tcase_add_test(tc, test_holes);
    tcase_add_test(tc, test_hole_and_error);
    tcase_add_test(tc, test_errors);
    tcase_add_test(tc, test_flags_of_writes);
    tcase_add_test(tc, test_writethrough);
    tcase_add_test(tc, test_fua_pieces);
    tcase_add_test(tc, test_block_status);
    tcase_add_test(tc, test_block_status_limit);
    tcase_add_test(tc, test_block_status_error);
    tcase_add_test(tc, test_two_contexts);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
