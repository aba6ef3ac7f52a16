/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzes what the NBD server does with a client's bytes. The first byte says
 * whether they begin after the greeting, or in the transmission phase with or
 * without structured replies or extended headers; how much memory there is for
 * requests; whether the disk fails; and whether its zeroes are known.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../unit/fake-block.h"
#include "block/export/nbd-int.h"
#include "monitor/qmp.h"
#include "fuzz.h"
#include "util/json-text.h"
#include "util/socket.h"

#define SIZE (1 << 20)

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
static void talk(int fd, const uint8_t *data, size_t size)
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
static GByteArray *preamble(bool structured, bool extended)
{
    static const uint8_t flags[] = { 0, 0, 0, 3 };
    static const uint8_t sr[] = "IHAVEOPT\0\0\0\10\0\0\0\0";
    static const uint8_t eh[] = "IHAVEOPT\0\0\0\13\0\0\0\0";
    static const uint8_t context[] =
        "IHAVEOPT\0\0\0\12\0\0\0\60\0\0\0\1x\0\0\0\2"
        "\0\0\0\17base:allocation\0\0\0\14qemu:nothing";
    static const uint8_t go[] = "IHAVEOPT\0\0\0\7\0\0\0\7\0\0\0\1x\0\0";
    GByteArray *bytes = g_byte_array_new();

    g_byte_array_append(bytes, flags, sizeof(flags));
    if (extended) {
        g_byte_array_append(bytes, eh, sizeof(eh) - 1);
    } else if (structured) {
        g_byte_array_append(bytes, sr, sizeof(sr) - 1);
    }
    if (structured || extended) {
        g_byte_array_append(bytes, context, sizeof(context) - 1);
    }
    return g_byte_array_append(bytes, go, sizeof(go) - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) bytes = NULL;
    int fds[2];
    uint8_t how;

    if (!socket_path) {
        start_server();
    }
    if (size < 1 || socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0) {
        return 0;
    }
    how = data[0];
    nbd_limits.small_buffer = 65536;
    nbd_limits.memory = how & 4 ? 0 : 512 << 20;
    fake.holes = how & 32;
    for (int op = 0; op < FAKE_OPS; op++) {
        fake_fail(op, how & 8 ? EIO : 0, SIZE / 2);
    }
    bytes = how & 2 ? preamble(how & 1, how & 16) : g_byte_array_new();
    g_byte_array_append(bytes, data + 1, size - 1);

    if (!nbd_conn_start(fds[0], nbd_limits.handshake_us, NULL)) {
        abort();
    }
    talk(fds[1], bytes->data, bytes->len);
    close(fds[1]);
    nbd_conn_wait_all(INT64_MAX);
    return 0;
}
