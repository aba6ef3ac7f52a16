/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-peer.h"

#include <check.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake-block.h"
#include "util/json-text.h"

static char *folder;

static JsonObject *parse(const char *text)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = json_text_parse(text, strlen(text), &err);

    ck_assert_msg(node != NULL, "%s", err ? err->message : "");
    return json_node_dup_object(node);
}

void peer_export_add(const char *json, const char *error)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = json_text_parse(json, strlen(json), &err);
    bool ok;

    ck_assert_msg(node != NULL, "%s", err ? err->message : "");
    ok = schema_check(&block_export_options_type, node, "", false, &err) &&
         block_export_add(json_node_get_object(node), &err);
    if (error) {
        ck_assert(!ok);
        ck_assert_str_eq(err->message, error);
    } else {
        ck_assert_msg(ok, "%s", err ? err->message : "");
    }
}

void peer_server_start(int64_t size)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonObject) options = NULL;
    g_autofree char *text = NULL;
    bool ok;

    /* However busy the machine is */
    nbd_limits.handshake_us = G_TIME_SPAN_DAY;
    fake_reset(size);
    folder = g_dir_make_tmp("test-nbd-XXXXXX", NULL);
    text = g_strdup_printf(
        "{\"addr\": {\"type\": \"unix\", \"path\": \"%s/nbd\"}}", folder);
    options = parse(text);
    ok = nbd_server_start(options, &err);
    ck_assert_msg(ok, "%s", err ? err->message : "");
    peer_export_add("{\"type\": \"nbd\", \"id\": \"e0\", \"name\": \"rw\","
                    " \"node-name\": \"disk0\", \"writable\": true,"
                    " \"description\": \"to write\"}",
                    NULL);
    peer_export_add("{\"type\": \"nbd\", \"id\": \"e1\", \"name\": \"ro\","
                    " \"node-name\": \"disk0\", \"allocation-depth\": true}",
                    NULL);
}

void peer_server_stop(void)
{
    nbd_server_stop(INT64_MAX, NULL);
    fake_run_management();
    ck_assert_uint_eq(nbd_conn_count(), 0);
    ck_assert_uint_eq(nbd_buffer_total(), 0);
    ck_assert_int_eq(fake.backends, 0);
    ck_assert_int_eq(fake.busy, 0);
    ck_assert_int_eq(g_rmdir(folder), 0);
    g_clear_pointer(&folder, g_free);
}

int peer_connect_raw(void)
{
    g_autoptr(GError) err = NULL;
    int fds[2];
    bool ok;

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds),
                     0);
    ok = nbd_conn_start(fds[0], nbd_limits.handshake_us, &err);
    ck_assert_msg(ok, "%s", err ? err->message : "");
    return fds[1];
}

int peer_connect(void)
{
    NbdGreeting greeting;
    int fd = peer_connect_raw();

    peer_recv(fd, &greeting, sizeof(greeting));
    ck_assert_mem_eq(&greeting, "NBDMAGICIHAVEOPT\0\3", sizeof(greeting));
    return fd;
}

void peer_send(int fd, const void *buf, size_t bytes)
{
    const uint8_t *p = buf;
    ssize_t n;

    while (bytes > 0) {
        n = send(fd, p, bytes, MSG_NOSIGNAL);
        ck_assert_int_gt(n, 0);
        p += n;
        bytes -= n;
    }
}

void peer_recv(int fd, void *buf, size_t bytes)
{
    uint8_t *p = buf;
    ssize_t n;

    while (bytes > 0) {
        n = recv(fd, p, bytes, 0);
        ck_assert_int_gt(n, 0);
        p += n;
        bytes -= n;
    }
}

void peer_expect_eof(int fd)
{
    char byte;

    /* A reset counts as well: the server left data unread. */
    ck_assert_int_le(recv(fd, &byte, 1, 0), 0);
    close(fd);
}

void peer_drain(int fd)
{
    char buf[4096];

    while (recv(fd, buf, sizeof(buf), 0) > 0) {
    }
    close(fd);
}

/* ---- handshake ---------------------------------------------------------- */

void peer_client_flags(int fd, uint32_t flags)
{
    flags = GUINT32_TO_BE(flags);
    peer_send(fd, &flags, sizeof(flags));
}

void peer_option(int fd, uint32_t option, const void *data, uint32_t bytes)
{
    NbdOption head = { .magic = GUINT64_TO_BE(NBD_OPTION_MAGIC),
                       .option = GUINT32_TO_BE(option),
                       .length = GUINT32_TO_BE(bytes) };

    peer_send(fd, &head, sizeof(head));
    peer_send(fd, data, bytes);
}

char *peer_option_reply(int fd, uint32_t option, uint32_t type, uint32_t *bytes)
{
    NbdOptionReply head;
    uint32_t length;
    char *data;

    peer_recv(fd, &head, sizeof(head));
    ck_assert_uint_eq(GUINT64_FROM_BE(head.magic), NBD_REP_MAGIC);
    ck_assert_uint_eq(GUINT32_FROM_BE(head.option), option);
    ck_assert_uint_eq(GUINT32_FROM_BE(head.type), type);
    length = GUINT32_FROM_BE(head.length);
    data = g_malloc0(length + 1);
    peer_recv(fd, data, length);
    if (bytes) {
        *bytes = length;
    }
    return data;
}

void peer_simple_option(int fd, uint32_t option, const void *data,
                        uint32_t bytes, uint32_t reply)
{
    g_autofree char *text = NULL;

    peer_option(fd, option, data, bytes);
    text = peer_option_reply(fd, option, reply, NULL);
    /* An error says what is wrong. */
    ck_assert(!text[0] == (reply == NBD_REP_ACK));
}

void peer_put_u16(GByteArray *out, uint16_t value)
{
    value = GUINT16_TO_BE(value);
    g_byte_array_append(out, (uint8_t *)&value, sizeof(value));
}

void peer_put_u32(GByteArray *out, uint32_t value)
{
    value = GUINT32_TO_BE(value);
    g_byte_array_append(out, (uint8_t *)&value, sizeof(value));
}

void peer_put_string(GByteArray *out, const char *s)
{
    peer_put_u32(out, strlen(s));
    g_byte_array_append(out, (const uint8_t *)s, strlen(s));
}

uint16_t peer_go(int fd, const char *name)
{
    g_autoptr(GByteArray) data = g_byte_array_new();
    g_autofree char *sizes = NULL, *ack = NULL;
    g_autofree NbdInfoExport *info = NULL;
    uint32_t bytes;

    peer_put_string(data, name);
    peer_put_u16(data, 0);
    peer_option(fd, NBD_OPT_GO, data->data, data->len);
    sizes = peer_option_reply(fd, NBD_OPT_GO, NBD_REP_INFO, &bytes);
    ck_assert_uint_eq(bytes, sizeof(NbdInfoBlockSize));
    info = (void *)peer_option_reply(fd, NBD_OPT_GO, NBD_REP_INFO, &bytes);
    ck_assert_uint_eq(bytes, sizeof(*info));
    ck_assert_uint_eq(GUINT64_FROM_BE(info->size), (uint64_t)fake.size);
    ack = peer_option_reply(fd, NBD_OPT_GO, NBD_REP_ACK, NULL);
    return GUINT16_FROM_BE(info->flags);
}

/* Choose base:allocation. */
static void choose(int fd, const char *name)
{
    g_autoptr(GByteArray) data = g_byte_array_new();
    g_autofree char *context = NULL, *ack = NULL;

    peer_put_string(data, name);
    peer_put_u32(data, 1);
    peer_put_string(data, "base:allocation");
    peer_option(fd, NBD_OPT_SET_META_CONTEXT, data->data, data->len);
    context = peer_option_reply(fd, NBD_OPT_SET_META_CONTEXT,
                                NBD_REP_META_CONTEXT, NULL);
    ack = peer_option_reply(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, NULL);
}

int peer_open(const char *name, bool structured)
{
    int fd = peer_connect();

    peer_client_flags(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    if (structured) {
        peer_simple_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
        choose(fd, name);
    }
    peer_go(fd, name);
    return fd;
}

int peer_open_extended(const char *name)
{
    int fd = peer_connect();

    peer_client_flags(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    peer_simple_option(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
    choose(fd, name);
    peer_go(fd, name);
    return fd;
}

/* ---- transmission ------------------------------------------------------- */

void peer_request(int fd, uint16_t flags, uint16_t type, uint64_t cookie,
                  uint64_t offset, uint32_t length)
{
    NbdRequestHeader head = { .magic = GUINT32_TO_BE(NBD_REQUEST_MAGIC),
                              .flags = GUINT16_TO_BE(flags),
                              .type = GUINT16_TO_BE(type),
                              .cookie = GUINT64_TO_BE(cookie),
                              .offset = GUINT64_TO_BE(offset),
                              .length = GUINT32_TO_BE(length) };

    peer_send(fd, &head, sizeof(head));
}

uint64_t peer_simple_reply(int fd, uint32_t error)
{
    NbdSimpleReply reply;

    peer_recv(fd, &reply, sizeof(reply));
    ck_assert_uint_eq(GUINT32_FROM_BE(reply.magic), NBD_SIMPLE_REPLY_MAGIC);
    ck_assert_uint_eq(GUINT32_FROM_BE(reply.error), error);
    return GUINT64_FROM_BE(reply.cookie);
}

uint32_t peer_chunk(int fd, uint64_t cookie, uint16_t type, bool *done)
{
    NbdChunk head;

    peer_recv(fd, &head, sizeof(head));
    ck_assert_uint_eq(GUINT32_FROM_BE(head.magic), NBD_STRUCTURED_REPLY_MAGIC);
    ck_assert_uint_eq(GUINT64_FROM_BE(head.cookie), cookie);
    ck_assert_uint_eq(GUINT16_FROM_BE(head.type), type);
    if (done) {
        *done = GUINT16_FROM_BE(head.flags) & NBD_REPLY_FLAG_DONE;
    }
    return GUINT32_FROM_BE(head.length);
}

void peer_request_extended(int fd, uint16_t flags, uint16_t type,
                           uint64_t cookie, uint64_t offset, uint64_t length)
{
    NbdExtendedRequestHeader head = {
        .magic = GUINT32_TO_BE(NBD_EXTENDED_REQUEST_MAGIC),
        .flags = GUINT16_TO_BE(flags),
        .type = GUINT16_TO_BE(type),
        .cookie = GUINT64_TO_BE(cookie),
        .offset = GUINT64_TO_BE(offset),
        .length = GUINT64_TO_BE(length),
    };

    peer_send(fd, &head, sizeof(head));
}

uint64_t peer_chunk_extended(int fd, uint64_t cookie, uint64_t offset,
                             uint16_t type, bool *done)
{
    NbdExtendedChunk head;

    peer_recv(fd, &head, sizeof(head));
    ck_assert_uint_eq(GUINT32_FROM_BE(head.magic), NBD_EXTENDED_REPLY_MAGIC);
    ck_assert_uint_eq(GUINT64_FROM_BE(head.cookie), cookie);
    ck_assert_uint_eq(GUINT64_FROM_BE(head.offset), offset);
    ck_assert_uint_eq(GUINT16_FROM_BE(head.type), type);
    if (done) {
        *done = GUINT16_FROM_BE(head.flags) & NBD_REPLY_FLAG_DONE;
    }
    return GUINT64_FROM_BE(head.length);
}

void peer_error_fields(int fd, uint64_t length, uint32_t error)
{
    g_autofree char *message = NULL;
    uint16_t message_length;
    uint32_t value;

    peer_recv(fd, &value, sizeof(value));
    ck_assert_uint_eq(GUINT32_FROM_BE(value), error);
    peer_recv(fd, &message_length, sizeof(message_length));
    message_length = GUINT16_FROM_BE(message_length);
    ck_assert_uint_gt(message_length, 0);
    ck_assert_uint_eq(message_length + 6, length);
    message = g_malloc(message_length);
    peer_recv(fd, message, message_length);
    ck_assert(g_utf8_validate(message, message_length, NULL));
}

void peer_error_chunk(int fd, uint64_t cookie, uint32_t error)
{
    uint32_t length;
    bool done;

    length = peer_chunk(fd, cookie, NBD_REPLY_TYPE_ERROR, &done);
    ck_assert(done);
    peer_error_fields(fd, length, error);
}

void peer_read_reply(int fd, uint64_t cookie, uint64_t offset, void *buf,
                     uint32_t length)
{
    uint32_t got = 0, bytes;
    uint64_t at;
    bool done = false;

    while (!done) {
        bytes = peer_chunk(fd, cookie, NBD_REPLY_TYPE_OFFSET_DATA, &done);
        ck_assert_uint_gt(bytes, sizeof(at));
        bytes -= sizeof(at);
        peer_recv(fd, &at, sizeof(at));
        at = GUINT64_FROM_BE(at);
        ck_assert(at >= offset && at - offset <= length &&
                  bytes <= length - (at - offset));
        peer_recv(fd, (uint8_t *)buf + (at - offset), bytes);
        got += bytes;
    }
    ck_assert_uint_eq(got, length);
}
