/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The handshake of the NBD server */
#include <check.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake-block.h"
#include "nbd-peer.h"
#include "unit-main.h"

#define FIXED (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)

static NbdLimits usual_limits;

static void setup(void)
{
    usual_limits = nbd_limits;
    peer_server_start(1 << 20);
}

static void teardown(void)
{
    peer_server_stop();
    nbd_limits = usual_limits;
}

static int connect_fixed(void)
{
    int fd = peer_connect();

    peer_client_flags(fd, FIXED);
    return fd;
}

/* ---- the client's first words ------------------------------------------- */

START_TEST(test_unknown_client_flags)
{
    int fd = peer_connect();

    peer_client_flags(fd, FIXED | 4);
    peer_expect_eof(fd);
}
END_TEST

START_TEST(test_bad_option_magic)
{
    int fd = connect_fixed();
    NbdOption option = { .magic = GUINT64_TO_BE(NBD_OPTION_MAGIC + 1),
                         .option = GUINT32_TO_BE(NBD_OPT_LIST) };

    peer_send(fd, &option, sizeof(option));
    peer_expect_eof(fd);
}
END_TEST

START_TEST(test_client_leaves_early)
{
    int fd = peer_connect();

    close(fd);
    fd = connect_fixed();
    peer_send(fd, "IHAVE", 5);
    close(fd);
    nbd_conn_wait_all(INT64_MAX);
}
END_TEST

START_TEST(test_not_fixed)
{
    int fd = peer_connect();

    peer_client_flags(fd, NBD_FLAG_NO_ZEROES);
    peer_option(fd, NBD_OPT_LIST, NULL, 0);
    peer_expect_eof(fd);
}
END_TEST

START_TEST(test_silence_has_an_end)
{
    int fd;

    nbd_limits.handshake_us = 20000;
    peer_drain(peer_connect_raw());
    /* Nor does it help to begin a sentence. */
    fd = peer_connect_raw();
    (void)!send(fd, "\0\0\0\3IHAVE", 9, MSG_NOSIGNAL);
    peer_drain(fd);
}
END_TEST

/* A client that asks and asks but never reads */
START_TEST(test_deafness_has_an_end)
{
    NbdOption option = { .magic = GUINT64_TO_BE(NBD_OPTION_MAGIC),
                         .option = GUINT32_TO_BE(NBD_OPT_LIST) };
    int fd;

    nbd_limits.handshake_us = 100000;
    fd = peer_connect_raw();
    (void)!send(fd, "\0\0\0\3", 4, MSG_NOSIGNAL);
    while (send(fd, &option, sizeof(option), MSG_NOSIGNAL) > 0) {
    }
    close(fd);
    nbd_conn_wait_all(INT64_MAX);
}
END_TEST

/* ---- options ------------------------------------------------------------ */

START_TEST(test_refused_options)
{
    static const struct {
        uint32_t option;
        const char *data;
        uint32_t bytes;
        uint32_t reply;
    } cases[] = {
        { 0, "", 0, NBD_REP_ERR_UNSUP },
        { 4, "x", 1, NBD_REP_ERR_UNSUP },
        { 0xffffffff, "xyz", 3, NBD_REP_ERR_UNSUP },
        { NBD_OPT_STARTTLS, "", 0, NBD_REP_ERR_UNSUP },
        { NBD_OPT_LIST, "x", 1, NBD_REP_ERR_INVALID },
        { NBD_OPT_STRUCTURED_REPLY, "x", 1, NBD_REP_ERR_INVALID },
        /* GO: no length, name too long for the data, no count, too few and
         * too many requests, NUL in the name, not UTF-8 */
        { NBD_OPT_GO, "", 0, NBD_REP_ERR_INVALID },
        { NBD_OPT_GO, "\0\0\0", 3, NBD_REP_ERR_INVALID },
        { NBD_OPT_GO, "\0\0\0\3rw", 6, NBD_REP_ERR_INVALID },
        { NBD_OPT_GO, "\377\377\377\377rw\0\0", 8, NBD_REP_ERR_INVALID },
        { NBD_OPT_GO, "\0\0\0\2rw", 6, NBD_REP_ERR_INVALID },
        { NBD_OPT_GO, "\0\0\0\2rw\0", 7, NBD_REP_ERR_INVALID },
        { NBD_OPT_GO, "\0\0\0\2rw\0\1", 8, NBD_REP_ERR_INVALID },
        { NBD_OPT_GO, "\0\0\0\2rw\0\0\0", 9, NBD_REP_ERR_INVALID },
        { NBD_OPT_GO, "\0\0\0\2r\0\0\0", 8, NBD_REP_ERR_INVALID },
        { NBD_OPT_GO, "\0\0\0\2r\377\0\0", 8, NBD_REP_ERR_INVALID },
        { NBD_OPT_INFO, "\0\0\0\3rw\0\0", 8, NBD_REP_ERR_INVALID },
        { NBD_OPT_GO, "\0\0\0\2xy\0\0", 8, NBD_REP_ERR_UNKNOWN },
        { NBD_OPT_INFO, "\0\0\0\0\0\0", 6, NBD_REP_ERR_UNKNOWN },
        /* metadata contexts without structured replies */
        { NBD_OPT_LIST_META_CONTEXT, "\0\0\0\2rw\0\0\0\0", 10,
          NBD_REP_ERR_INVALID },
        { NBD_OPT_SET_META_CONTEXT, "\0\0\0\2rw\0\0\0\0", 10,
          NBD_REP_ERR_INVALID },
    };
    int fd = connect_fixed();

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        peer_simple_option(fd, cases[i].option, cases[i].data, cases[i].bytes,
                           cases[i].reply);
    }
    /* None of them has done harm. */
    peer_go(fd, "rw");
    close(fd);
}
END_TEST

START_TEST(test_option_too_long)
{
    g_autofree char *data = g_malloc0(1 << 20);
    int fd = connect_fixed();

    peer_simple_option(fd, NBD_OPT_GO, data, NBD_MAX_OPTION + 1,
                       NBD_REP_ERR_TOO_BIG);
    peer_simple_option(fd, 77, data, 1 << 20, NBD_REP_ERR_TOO_BIG);
    peer_go(fd, "rw");
    close(fd);
}
END_TEST

START_TEST(test_name_too_long)
{
    g_autofree char *name = g_strnfill(NBD_MAX_STRING + 1, 'x');
    g_autoptr(GByteArray) data = g_byte_array_new();
    int fd = connect_fixed();

    peer_put_string(data, name);
    peer_put_u16(data, 0);
    peer_simple_option(fd, NBD_OPT_GO, data->data, data->len,
                       NBD_REP_ERR_INVALID);
    close(fd);
}
END_TEST

START_TEST(test_abort)
{
    int fd = connect_fixed();

    peer_simple_option(fd, NBD_OPT_ABORT, "whatever", 8, NBD_REP_ACK);
    peer_expect_eof(fd);
}
END_TEST

START_TEST(test_list)
{
    g_autofree char *first = NULL, *second = NULL, *ack = NULL;
    int fd = connect_fixed();
    uint32_t bytes;

    peer_option(fd, NBD_OPT_LIST, NULL, 0);
    first = peer_option_reply(fd, NBD_OPT_LIST, NBD_REP_SERVER, &bytes);
    ck_assert_uint_eq(bytes, 4 + strlen("rwto write"));
    ck_assert_mem_eq(first, "\0\0\0\2rwto write", bytes);
    second = peer_option_reply(fd, NBD_OPT_LIST, NBD_REP_SERVER, &bytes);
    ck_assert_uint_eq(bytes, 4 + strlen("ro"));
    ck_assert_mem_eq(second, "\0\0\0\2ro", bytes);
    ack = peer_option_reply(fd, NBD_OPT_LIST, NBD_REP_ACK, NULL);
    close(fd);
}
END_TEST

START_TEST(test_info)
{
    g_autoptr(GByteArray) data = g_byte_array_new();
    g_autofree char *name = NULL, *text = NULL, *export = NULL, *ack = NULL;
    g_autofree NbdInfoBlockSize *sizes = NULL;
    int fd = connect_fixed();
    uint32_t bytes;

    peer_put_string(data, "rw");
    peer_put_u16(data, 4);
    peer_put_u16(data, NBD_INFO_NAME);
    peer_put_u16(data, NBD_INFO_DESCRIPTION);
    peer_put_u16(data, NBD_INFO_BLOCK_SIZE);
    peer_put_u16(data, 0xffff);
    peer_option(fd, NBD_OPT_INFO, data->data, data->len);

    name = peer_option_reply(fd, NBD_OPT_INFO, NBD_REP_INFO, &bytes);
    ck_assert_uint_eq(bytes, 4);
    ck_assert_mem_eq(name, "\0\1rw", bytes);
    text = peer_option_reply(fd, NBD_OPT_INFO, NBD_REP_INFO, &bytes);
    ck_assert_uint_eq(bytes, 10);
    ck_assert_mem_eq(text, "\0\2to write", bytes);
    sizes = (void *)peer_option_reply(fd, NBD_OPT_INFO, NBD_REP_INFO, &bytes);
    ck_assert_uint_eq(bytes, sizeof(*sizes));
    ck_assert_uint_eq(GUINT16_FROM_BE(sizes->type), NBD_INFO_BLOCK_SIZE);
    ck_assert_uint_eq(GUINT32_FROM_BE(sizes->minimum), 1);
    ck_assert_uint_eq(GUINT32_FROM_BE(sizes->preferred), 4096);
    ck_assert_uint_eq(GUINT32_FROM_BE(sizes->maximum), 32 << 20);
    export = peer_option_reply(fd, NBD_OPT_INFO, NBD_REP_INFO, &bytes);
    ck_assert_uint_eq(bytes, sizeof(NbdInfoExport));
    ack = peer_option_reply(fd, NBD_OPT_INFO, NBD_REP_ACK, NULL);
    /* INFO makes nobody a client. */
    ck_assert(block_export_del("e0", BLOCK_EXPORT_SAFE, NULL));
    peer_go(fd, "ro");
    close(fd);
}
END_TEST

START_TEST(test_transmission_flags)
{
    int fd = connect_fixed();

    ck_assert_uint_eq(peer_go(fd, "rw"),
                      NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH |
                          NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |
                          NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO |
                          NBD_FLAG_CAN_MULTI_CONN);
    close(fd);
    fd = connect_fixed();
    peer_simple_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    ck_assert_uint_eq(peer_go(fd, "ro"),
                      NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH |
                          NBD_FLAG_SEND_FUA | NBD_FLAG_READ_ONLY |
                          NBD_FLAG_SEND_DF | NBD_FLAG_CAN_MULTI_CONN);
    close(fd);
}
END_TEST

START_TEST(test_export_name)
{
    NbdExportNameReply reply = { 0 };
    uint8_t zeroes[124] = { 0 };
    int fd = peer_connect();

    peer_client_flags(fd, 0);
    peer_option(fd, NBD_OPT_EXPORT_NAME, "rw", 2);
    peer_recv(fd, &reply, sizeof(reply));
    ck_assert_uint_eq(GUINT64_FROM_BE(reply.size), 1 << 20);
    ck_assert_mem_eq(reply.zeroes, zeroes, sizeof(zeroes));
    peer_request(fd, 0, NBD_CMD_FLUSH, 5, 0, 0);
    ck_assert_uint_eq(peer_simple_reply(fd, 0), 5);
    close(fd);

    fd = connect_fixed();
    peer_option(fd, NBD_OPT_EXPORT_NAME, "rw", 2);
    peer_recv(fd, &reply, 10);
    peer_request(fd, 0, NBD_CMD_FLUSH, 6, 0, 0);
    ck_assert_uint_eq(peer_simple_reply(fd, 0), 6);
    close(fd);
}
END_TEST

START_TEST(test_export_name_unknown)
{
    g_autofree char *name = g_strnfill(NBD_MAX_OPTION + 1, 'x');
    int fd = connect_fixed();

    peer_option(fd, NBD_OPT_EXPORT_NAME, "nope", 4);
    peer_expect_eof(fd);
    fd = connect_fixed();
    peer_option(fd, NBD_OPT_EXPORT_NAME, name, NBD_MAX_OPTION + 1);
    peer_expect_eof(fd);
}
END_TEST

/* ---- metadata contexts -------------------------------------------------- */

/* The contexts that @option answers to @queries, by name, space-separated */
static char *ask_contexts(int fd, uint32_t option, const char *export,
                          const char *const *queries)
{
    g_autoptr(GByteArray) data = g_byte_array_new();
    GString *names = g_string_new(NULL);
    NbdOptionReply head;

    peer_put_string(data, export);
    peer_put_u32(data, g_strv_length((char **)queries));
    for (guint i = 0; queries[i]; i++) {
        peer_put_string(data, queries[i]);
    }
    peer_option(fd, option, data->data, data->len);
    for (;;) {
        char name[64] = { 0 };
        uint32_t id, bytes;

        peer_recv(fd, &head, sizeof(head));
        if (GUINT32_FROM_BE(head.type) == NBD_REP_ACK) {
            return g_string_free(names, FALSE);
        }
        ck_assert_uint_eq(GUINT32_FROM_BE(head.type), NBD_REP_META_CONTEXT);
        bytes = GUINT32_FROM_BE(head.length);
        peer_recv(fd, &id, sizeof(id));
        ck_assert_uint_lt(bytes - sizeof(id), sizeof(name));
        peer_recv(fd, name, bytes - sizeof(id));
        g_string_append_printf(names, "%s%s", names->len ? " " : "", name);
    }
}

START_TEST(test_contexts)
{
    static const struct {
        uint32_t option;
        const char *export;
        const char *queries[4];
        const char *names;
    } cases[] = {
        { NBD_OPT_LIST_META_CONTEXT, "rw", { NULL }, "base:allocation" },
        { NBD_OPT_LIST_META_CONTEXT,
          "ro",
          { NULL },
          "base:allocation qemu:allocation-depth" },
        { NBD_OPT_LIST_META_CONTEXT, "ro", { "base:" }, "base:allocation" },
        { NBD_OPT_LIST_META_CONTEXT,
          "ro",
          { "qemu:", "base:", "base:allocation" },
          "base:allocation qemu:allocation-depth" },
        { NBD_OPT_LIST_META_CONTEXT, "rw", { "qemu:" }, "" },
        { NBD_OPT_LIST_META_CONTEXT,
          "ro",
          { "base", "x-y:", "base:alloc" },
          "" },
        { NBD_OPT_SET_META_CONTEXT, "ro", { NULL }, "" },
        { NBD_OPT_SET_META_CONTEXT, "ro", { "base:", "qemu:" }, "" },
        { NBD_OPT_SET_META_CONTEXT,
          "ro",
          { "base:allocation", "x-y:z", "base:nope" },
          "base:allocation" },
        { NBD_OPT_SET_META_CONTEXT,
          "rw",
          { "qemu:allocation-depth", "qemu:dirty-bitmap:b" },
          "" },
        { NBD_OPT_SET_META_CONTEXT,
          "ro",
          { "qemu:allocation-depth" },
          "qemu:allocation-depth" },
    };
    int fd = connect_fixed();

    peer_simple_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *names = ask_contexts(
            fd, cases[i].option, cases[i].export, cases[i].queries);

        ck_assert_str_eq(names, cases[i].names);
    }
    close(fd);
}
END_TEST

/* Bitmaps: their names may be like anything else's. */
START_TEST(test_bitmap_contexts)
{
    static const struct {
        uint32_t option;
        const char *queries[3];
        const char *names;
    } cases[] = {
        { NBD_OPT_LIST_META_CONTEXT,
          { NULL },
          "base:allocation qemu:dirty-bitmap:a qemu:dirty-bitmap:a:b"
          " qemu:dirty-bitmap:a:" },
        { NBD_OPT_LIST_META_CONTEXT,
          { "qemu:" },
          "qemu:dirty-bitmap:a qemu:dirty-bitmap:a:b qemu:dirty-bitmap:a:" },
        { NBD_OPT_LIST_META_CONTEXT,
          { "qemu:dirty-bitmap:" },
          "qemu:dirty-bitmap:a qemu:dirty-bitmap:a:b qemu:dirty-bitmap:a:" },
        { NBD_OPT_LIST_META_CONTEXT,
          { "qemu:dirty-bitmap:a:" },
          "qemu:dirty-bitmap:a:" },
        { NBD_OPT_LIST_META_CONTEXT,
          { "qemu:dirty-bitmap", "qemu:dirty-bitmap:b", "a" },
          "" },
        { NBD_OPT_SET_META_CONTEXT,
          { "qemu:", "qemu:dirty-bitmap:", "base:" },
          "" },
        { NBD_OPT_SET_META_CONTEXT,
          { "qemu:dirty-bitmap:a:b", "base:allocation", "qemu:dirty-bitmap:c" },
          "base:allocation qemu:dirty-bitmap:a:b" },
    };
    int fd = connect_fixed();

    peer_export_add("{\"type\": \"nbd\", \"id\": \"e2\", \"name\": \"bits\","
                    " \"node-name\": \"disk0\", \"writable\": true,"
                    " \"bitmaps\": [\"a\", \"a:b\", \"a:\"]}",
                    NULL);
    peer_simple_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        const char *queries[4] = { NULL };
        g_autofree char *names = NULL;

        memcpy(queries, cases[i].queries, sizeof(cases[i].queries));
        names = ask_contexts(fd, cases[i].option, "bits", queries);
        ck_assert_str_eq(names, cases[i].names);
    }
    close(fd);
}
END_TEST

START_TEST(test_bad_contexts)
{
    static const struct {
        const char *data;
        uint32_t bytes;
        uint32_t reply;
    } cases[] = {
        { "", 0, NBD_REP_ERR_INVALID },
        { "\0\0\0\2rw", 6, NBD_REP_ERR_INVALID },
        { "\0\0\0\2rw\0\0\0\1", 10, NBD_REP_ERR_INVALID },
        { "\0\0\0\2rw\377\377\377\377", 10, NBD_REP_ERR_INVALID },
        { "\0\0\0\2rw\0\0\0\1\0\0\0\6base:", 19, NBD_REP_ERR_INVALID },
        { "\0\0\0\2rw\0\0\0\0x", 11, NBD_REP_ERR_INVALID },
        { "\0\0\0\2xy\0\0\0\0", 10, NBD_REP_ERR_UNKNOWN },
    };
    int fd = connect_fixed();

    peer_simple_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        peer_simple_option(fd, NBD_OPT_LIST_META_CONTEXT, cases[i].data,
                           cases[i].bytes, cases[i].reply);
        peer_simple_option(fd, NBD_OPT_SET_META_CONTEXT, cases[i].data,
                           cases[i].bytes, cases[i].reply);
    }
    close(fd);
}
END_TEST

/* Contexts count only for the export they were chosen for, and a later choice
 * that fails undoes an earlier one. */
START_TEST(test_contexts_forgotten)
{
    static const char *const query[] = { "base:allocation", NULL };
    g_autofree char *first = NULL, *second = NULL;
    int fd = connect_fixed();

    peer_simple_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    first = ask_contexts(fd, NBD_OPT_SET_META_CONTEXT, "ro", query);
    peer_go(fd, "rw");
    peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 4096);
    peer_error_chunk(fd, 1, NBD_EINVAL);
    close(fd);

    fd = connect_fixed();
    peer_simple_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
    second = ask_contexts(fd, NBD_OPT_SET_META_CONTEXT, "rw", query);
    peer_simple_option(fd, NBD_OPT_SET_META_CONTEXT, NULL, 0,
                       NBD_REP_ERR_INVALID);
    peer_go(fd, "rw");
    peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 2, 0, 4096);
    peer_error_chunk(fd, 2, NBD_EINVAL);
    close(fd);
}
END_TEST

/* Noise of all lengths, with and without a good beginning */
START_TEST(test_noise)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1912224);
    uint8_t noise[512];

    for (int i = 0; i < 200; i++) {
        int fd = i % 2 ? connect_fixed() : peer_connect();
        size_t bytes = g_rand_int_range(rand, 0, sizeof(noise));

        for (size_t j = 0; j < bytes; j++) {
            noise[j] = g_rand_int(rand);
        }
        if (i % 4 == 3) {
            NbdOption option = {
                .magic = GUINT64_TO_BE(NBD_OPTION_MAGIC),
                .option = GUINT32_TO_BE(g_rand_int_range(rand, 0, 12)),
                .length = GUINT32_TO_BE(g_rand_int_range(rand, 0, 64)),
            };

            memcpy(noise, &option, sizeof(option));
        }
        /* It is as well if the server hangs up before all is sent. */
        (void)!send(fd, noise, bytes, MSG_NOSIGNAL);
        close(fd);
    }
    nbd_conn_wait_all(INT64_MAX);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("nbd-negotiate");
    TCase *tc = tcase_create("handshake");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_unknown_client_flags);
    tcase_add_test(tc, test_bad_option_magic);
    tcase_add_test(tc, test_client_leaves_early);
    tcase_add_test(tc, test_not_fixed);
    tcase_add_test(tc, test_silence_has_an_end);
    tcase_add_test(tc, test_deafness_has_an_end);
    tcase_add_test(tc, test_refused_options);
    tcase_add_test(tc, test_option_too_long);
    tcase_add_test(tc, test_name_too_long);
    tcase_add_test(tc, test_abort);
    tcase_add_test(tc, test_list);
    tcase_add_test(tc, test_info);
    tcase_add_test(tc, test_transmission_flags);
    tcase_add_test(tc, test_export_name);
    tcase_add_test(tc, test_export_name_unknown);
    tcase_add_test(tc, test_contexts);
    tcase_add_test(tc, test_bitmap_contexts);
    tcase_add_test(tc, test_bad_contexts);
    tcase_add_test(tc, test_contexts_forgotten);
    tcase_add_test(tc, test_noise);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
