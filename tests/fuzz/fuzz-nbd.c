/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzes what the NBD server does with a client's bytes. The first byte says
 * whether they begin after the greeting, or in the transmission phase with or
 * without structured replies or extended headers; how many metadata contexts
 * there are, and how much memory for requests; whether the disk fails; and whether its
 * zeroes are known. The lowest bit of the last one: whether the disk takes requests in
 * two halves (nbd-ring.c). Or the rest is requests of five bytes each: type, flags,
 * where, and how long. These are sent as they have to be, and then all that comes
 * must be their replies (nbd-replies.h).
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../unit/fake-block.h"
#include "block/export/nbd-int.h"
#include "monitor/qmp.h"
#include "nbd-replies.h"
#include "util/json-text.h"
#include "util/socket.h"

#define SIZE (1 << 20)
#define MAX_SENT 64

enum { /* the first byte */
    HOW_STRUCTURED = 0x1,
    HOW_PREAMBLE = 0x2,
    HOW_NO_MEMORY = 0x4,
    HOW_FAILS = 0x8,
    HOW_EXTENDED = 0x10,
    HOW_HOLES = 0x20,
    HOW_CONTEXTS = 0x40, /* four of them, not one */
    HOW_REQUESTS = 0x80,
};

static JsonObject *parse(const char *text)
{
    g_autoptr(JsonNode) node = json_text_parse(text, strlen(text), NULL);

    return json_node_dup_object(node);
}

static char *socket_path;

static void at_exit(void)
{
    nbd_server_stop(INT64_MAX, NULL);
    fake_run_management();
    g_free(socket_path);
}

static void start_server(void)
{
    g_autofree char *text = NULL;
    g_autoptr(JsonObject) server = NULL, rw = NULL, ro = NULL;

    fake_reset(SIZE);
    socket_path = g_strdup_printf("/tmp/fuzz-nbd-%d", getpid());
    text = g_strdup_printf("{'addr': {'type': 'unix', 'path': '%s'}}",
                           socket_path);
    server = parse(text);
    rw = parse("{'type': 'nbd', 'id': 'e0', 'node-name': 'disk0', 'name': 'x',"
               " 'writable': true, 'allocation-depth': true,"
               " 'bitmaps': ['b0', 'b1', 'b0']}");
    fake.dirty = SIZE / 3;
    ro = parse("{'type': 'nbd', 'id': 'e1', 'node-name': 'disk0', 'name': '',"
               " 'description': 'a disk'}");
    if (!nbd_server_start(server, NULL) || !block_export_add(rw, NULL) ||
        !block_export_add(ro, NULL)) {
        abort();
    }
    atexit(at_exit);
}

/* Send @data, and take whatever comes, until the server hangs up. */
static void talk(int fd, const uint8_t *data, size_t size, GByteArray *came)
{
    struct pollfd pfd = { .fd = fd };
    char buf[65536];
    ssize_t n;

    for (;;) {
        if (size == 0) {
            shutdown(fd, SHUT_WR);
        }
        pfd.events = POLLIN | (size > 0 ? POLLOUT : 0);
        poll(&pfd, 1, -1);
        if (pfd.revents & (POLLIN | POLLHUP | POLLERR)) {
            n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN)) {
                return;
            }
            g_byte_array_append(came, (uint8_t *)buf, MAX(n, 0));
        }
        if (pfd.revents & POLLOUT) {
            n = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (n < 0 && errno != EAGAIN) {
                return;
            }
            data += MAX(n, 0);
            size -= MAX(n, 0);
        }
    }
}

/* What a well-behaved client says before the first request */
static GByteArray *preamble(bool structured, bool extended, bool many)
{
    static const uint8_t flags[] = { 0, 0, 0, 3 };
    static const uint8_t sr[] = "IHAVEOPT\0\0\0\10\0\0\0\0";
    static const uint8_t eh[] = "IHAVEOPT\0\0\0\13\0\0\0\0";
    static const uint8_t context[] =
        "IHAVEOPT\0\0\0\12\0\0\0\54\0\0\0\1x\0\0\0\2"
        "\0\0\0\17base:allocation\0\0\0\14qemu:nothing";
    static const uint8_t contexts[] =
        "IHAVEOPT\0\0\0\12\0\0\0\145\0\0\0\1x\0\0\0\4"
        "\0\0\0\17base:allocation\0\0\0\25qemu:allocation-depth"
        "\0\0\0\24qemu:dirty-bitmap:b0\0\0\0\24qemu:dirty-bitmap:b1";
    static const uint8_t go[] = "IHAVEOPT\0\0\0\7\0\0\0\7\0\0\0\1x\0\0";
    GByteArray *bytes = g_byte_array_new();

    g_byte_array_append(bytes, flags, sizeof(flags));
    if (extended) {
        g_byte_array_append(bytes, eh, sizeof(eh) - 1);
    } else if (structured) {
        g_byte_array_append(bytes, sr, sizeof(sr) - 1);
    }
    if ((structured || extended) && many) {
        g_byte_array_append(bytes, contexts, sizeof(contexts) - 1);
    } else if (structured || extended) {
        g_byte_array_append(bytes, context, sizeof(context) - 1);
    }
    return g_byte_array_append(bytes, go, sizeof(go) - 1);
}

/* ---- requests -------------------------------------------------------------- */

static void put(GByteArray *out, uint64_t n, size_t bytes)
{
    n = GUINT64_TO_BE(n << (64 - 8 * bytes));
    g_byte_array_append(out, (uint8_t *)&n, bytes);
}

/* What comes behind the head of @sent, which has number @n */
static void put_payload(GByteArray *out, const NbdSent *sent, unsigned n)
{
    g_autofree uint8_t *data = g_malloc(sent->length + 8);
    uint64_t length = GUINT64_TO_BE(SIZE / 2);
    uint64_t i;

    if (sent->type == NBD_CMD_BLOCK_STATUS) {
        /* a length, and numbers of contexts */
        for (i = 8; i < sent->length; i++) {
            data[i] = i % 4 == 3 ? (n + i / 4) % 5 : 0;
        }
        memcpy(data, &length, 8);
    } else {
        memset(data, n, sent->length);
    }
    g_byte_array_append(out, data, sent->length);
}

static void put_request(GByteArray *out, const NbdTalk *talk,
                        const NbdSent *sent, unsigned n)
{
    put(out, talk->extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC,
        4);
    put(out, sent->flags, 2);
    put(out, sent->type, 2);
    put(out, n, 8);
    put(out, sent->offset, 8);
    put(out, sent->length, talk->extended ? 8 : 4);
    if (sent->type == NBD_CMD_WRITE || sent->flags & NBD_CMD_FLAG_PAYLOAD_LEN) {
        put_payload(out, sent, n);
    }
}

/* Where a client would send them so that both know what comes next */
static NbdSent parse_request(FuzzInput *in, const NbdTalk *talk)
{
    NbdSent sent;

    sent.type = fuzz_u8(in) % 10;
    sent.flags = fuzz_u8(in);
    sent.offset = fuzz_u8(in) * (SIZE / 240);
    sent.length = fuzz_u8(in);
    sent.length = sent.length * (fuzz_u8(in) + 1);
    if (sent.type == NBD_CMD_DISC) {
        sent.type = NBD_CMD_FLUSH;
    }
    sent.flags &= talk->extended ? 0xff : ~NBD_CMD_FLAG_PAYLOAD_LEN;
    if (talk->extended && sent.type == NBD_CMD_WRITE) {
        sent.flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
    }
    return sent;
}

static void put_requests(GByteArray *out, NbdTalk *talk, NbdSent *sent,
                         FuzzInput *in)
{
    while (in->left > 0 && talk->n_sent < MAX_SENT) {
        sent[talk->n_sent] = parse_request(in, talk);
        put_request(out, talk, &sent[talk->n_sent], talk->n_sent);
        talk->n_sent++;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) bytes = NULL, came = g_byte_array_new();
    FuzzInput in = { data, size };
    NbdSent sent[MAX_SENT];
    uint8_t how = fuzz_u8(&in);
    bool requests = (how & HOW_REQUESTS) && (how & HOW_PREAMBLE);
    NbdTalk t = {
        .structured = how & HOW_STRUCTURED,
        .extended = how & HOW_EXTENDED,
        .n_contexts = how & HOW_CONTEXTS ? 4 : 1,
        .sent = sent,
    };
    int fds[2];

    if (!socket_path) {
        start_server();
    }
    if (size < 1 || socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0) {
        return 0;
    }
    memset(fake.data, 0, SIZE);
    memset(fake.status, BDRV_BLOCK_ZERO, SIZE / FAKE_BLOCK + 1);
    nbd_limits.small_buffer = 65536;
    nbd_limits.memory = how & HOW_NO_MEMORY ? 0 : 512 << 20;
    fake.holes = how & HOW_HOLES;
    fake.submits = data[size - 1] & 1;
    for (int op = 0; op < FAKE_OPS; op++) {
        fake_fail(op, how & HOW_FAILS ? EIO : 0, SIZE / 2);
    }
    bytes = how & HOW_PREAMBLE
                ? preamble(how & HOW_STRUCTURED, how & HOW_EXTENDED,
                           how & HOW_CONTEXTS)
                : g_byte_array_new();
    if (requests) {
        put_requests(bytes, &t, sent, &in);
    } else {
        g_byte_array_append(bytes, in.data, in.left);
    }

    if (!nbd_conn_start(fds[0], nbd_limits.handshake_us, NULL)) {
        abort();
    }
    talk(fds[1], bytes->data, bytes->len, came);
    close(fds[1]);
    nbd_conn_wait_all(INT64_MAX);
    if (requests && g_getenv("FUZZ_VERBOSE")) {
        for (unsigned i = 0; i < t.n_sent; i++) {
            g_printerr("request %u: type %d, flags %#x, %d at %d\n", i,
                       sent[i].type, sent[i].flags, (int)sent[i].length,
                       (int)sent[i].offset);
        }
        g_printerr("%u bytes came\n", came->len);
    }
    if (requests) {
        nbd_replies_check(&t, came->data, came->len);
    }
    return 0;
}
