/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Listening sockets (util/socket.c) */
#include <check.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "unit-main.h"
#include "util/fdset.h"
#include "util/json-text.h"
#include "util/socket.h"

static JsonNode *parse(const char *text)
{
    JsonNode *node = json_text_parse(text, strlen(text), NULL);

    ck_assert_msg(node != NULL, "%s", text);
    return node;
}

static SocketListener *listen_at(const char *text, GError **errp)
{
    g_autoptr(JsonNode) node = parse(text);

    if (!schema_check(&socket_address_type, node, "addr", false, errp)) {
        return NULL;
    }
    return socket_listener_new(json_node_get_object(node), 0600, errp);
}

static void expect_error(const char *text, const char *error)
{
    g_autoptr(GError) err = NULL;

    ck_assert_msg(!listen_at(text, &err), "%s", text);
    ck_assert_str_eq(err->message, error);
}

START_TEST(test_errors)
{
    g_autofree char *name = g_strnfill(108, 'x');
    g_autofree char *path =
        g_strdup_printf("{'type': 'unix', 'path': '%s'}", name);
    g_autofree char *too_long =
        g_strdup_printf("UNIX socket path '%s' is too long", name);

    expect_error("{'type': 'vsock', 'str': '7'}",
                 "Parameter 'addr.type' does not accept value 'vsock'");
    expect_error("{'type': 'unix'}", "Parameter 'addr.path' is missing");
    expect_error("{'type': 'unix', 'path': 'x', 'port': '1'}",
                 "Parameter 'addr.port' is unexpected");
    expect_error("{'type': 'unix', 'path': ''}",
                 "UNIX socket path '' is too short");
    expect_error(path, too_long);
    expect_error("{'type': 'unix', 'path': '/nonexistent/x'}",
                 "Failed to bind socket to /nonexistent/x: No such file or "
                 "directory");
    expect_error("{'type': 'inet', 'host': '', 'port': '0', 'ipv4': false,"
                 " 'ipv6': false}",
                 "Cannot disable IPv4 and IPv6 at same time");
    expect_error("{'type': 'inet', 'host': '127.0.0.1', 'port': '65536'}",
                 "Port '65536' is not between 0 and 65535");
    expect_error("{'type': 'inet', 'host': '127.0.0.1', 'port': 'nope'}",
                 "address resolution failed for 127.0.0.1:nope: Servname not "
                 "supported for ai_socktype");
    expect_error("{'type': 'inet', 'host': '127.0.0.1', 'port': '0',"
                 " 'ipv6': true}",
                 "address resolution failed for 127.0.0.1:0: Address family "
                 "for hostname not supported");
    expect_error("{'type': 'inet', 'host': '127.0.0.1', 'port': '10',"
                 " 'to': 9}",
                 "Parameter 'to' must lie between port 10 and 65535");
    /* Of the documentation's network: no machine has it. */
    expect_error(
        "{'type': 'inet', 'host': '192.0.2.1', 'port': '0'}",
        "Failed to bind socket to 192.0.2.1:0: Cannot assign requested "
        "address");
}
END_TEST

START_TEST(test_flatten)
{
    g_autoptr(JsonNode) node =
        parse("{'type': 'inet', 'data': {'host': 'h', 'port': '1', 'to': 2}}");
    g_autoptr(JsonNode) bad = parse("{'type': 'inet', 'path': 'x'}");
    g_autoptr(JsonNode) flat = NULL;
    g_autoptr(GError) err = NULL;

    ck_assert(
        !schema_check(&socket_address_legacy_type, bad, "addr", false, &err));
    ck_assert(
        schema_check(&socket_address_legacy_type, node, "addr", false, NULL));
    flat = json_node_new(JSON_NODE_OBJECT);
    json_node_take_object(flat,
                          socket_address_flatten(json_node_get_object(node)));
    ck_assert(schema_check(&socket_address_type, flat, "addr", false, NULL));
    ck_assert_int_eq(schema_get_int(json_node_get_object(flat), "to", 0), 2);
}
END_TEST

static int connect_to(const struct sockaddr *addr, socklen_t len)
{
    int fd = socket(addr->sa_family, SOCK_STREAM, 0);
    int ret = connect(fd, addr, len);

    close(fd);
    return ret;
}

static int connect_unix(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    return connect_to((struct sockaddr *)&addr, sizeof(addr));
}

START_TEST(test_unix)
{
    g_autofree char *dir = g_dir_make_tmp("test-socket-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    g_autofree char *kept = g_build_filename(dir, "kept", NULL);
    g_autofree char *text =
        g_strdup_printf("{'type': 'unix', 'path': '%s'}", path);
    g_autofree char *in_the_way =
        g_strdup_printf("Failed to bind socket to %s: a file that is no "
                        "socket is in the way",
                        path);
    g_autofree char *in_use = g_strdup_printf(
        "Failed to bind socket to %s: Address already in use", path);
    SocketListener *listener;
    struct stat st;

    listener = listen_at(text, NULL);
    ck_assert(listener != NULL);
    ck_assert_uint_eq(socket_listener_count(listener), 1);
    ck_assert_int_eq(connect_unix(path), 0);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0600);
    expect_error(text, in_use);
    /* It goes with the listener; one left behind by a crash is replaced. */
    ck_assert_int_eq(link(path, kept), 0);
    socket_listener_free(listener);
    ck_assert_int_lt(stat(path, &st), 0);
    ck_assert_int_eq(g_rename(kept, path), 0);
    ck_assert_int_lt(connect_unix(path), 0);
    listener = listen_at(text, NULL);
    ck_assert(listener != NULL);
    ck_assert_int_eq(connect_unix(path), 0);
    /* What somebody else has put there stays. */
    ck_assert_int_eq(g_unlink(path), 0);
    ck_assert(g_file_set_contents(path, "mine", -1, NULL));
    socket_listener_free(listener);
    expect_error(text, in_the_way);
    ck_assert_int_eq(g_unlink(path), 0);
    ck_assert_int_eq(g_rmdir(dir), 0);
}
END_TEST

static int port_of(SocketListener *listener)
{
    struct sockaddr_in addr;
    socklen_t len = sizeof(addr);

    ck_assert_int_eq(getsockname(socket_listener_fd(listener, 0),
                                 (struct sockaddr *)&addr, &len),
                     0);
    return ntohs(addr.sin_port);
}

START_TEST(test_inet)
{
    g_autoptr(SocketListener) first = NULL, second = NULL;
    g_autofree char *text = NULL, *in_use = NULL, *range = NULL;
    struct sockaddr_in addr = { .sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int port;

    first =
        listen_at("{'type': 'inet', 'host': '127.0.0.1', 'port': '0'}", NULL);
    ck_assert(first != NULL);
    port = port_of(first);
    addr.sin_port = htons(port);
    ck_assert_int_eq(connect_to((struct sockaddr *)&addr, sizeof(addr)), 0);

    text = g_strdup_printf(
        "{'type': 'inet', 'host': '127.0.0.1', 'port': '%d'}", port);
    in_use = g_strdup_printf(
        "Failed to bind socket to 127.0.0.1:%d: Address already in use", port);
    expect_error(text, in_use);
    range = g_strdup_printf("{'type': 'inet', 'host': 'localhost', 'port':"
                            " '%d', 'to': 65535, 'ipv4': true}",
                            port);
    second = listen_at(range, NULL);
    ck_assert(second != NULL);
    ck_assert_int_gt(port_of(second), port);
}
END_TEST

/* ---- type fd ------------------------------------------------------------ */

static void expect_fd_error(int fd, const char *error)
{
    ck_assert(named_fd_add("x", fd, NULL));
    expect_error("{'type': 'fd', 'str': 'x'}", error);
    /* It is closed, and the name is free. */
    ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
    ck_assert(!named_fd_close("x", NULL));
}

START_TEST(test_fd_errors)
{
    g_autoptr(GError) err = NULL;
    int fds[2];

    expect_error("{'type': 'fd', 'str': 'absent'}",
                 "File descriptor named 'absent' has not been found: neither "
                 "passed by getfd, nor by a service manager, nor open when "
                 "the daemon was started");
    /* One of ours, maybe */
    ck_assert(!listen_at("{'type': 'fd', 'str': '0'}", &err));
    expect_fd_error(open("/dev/null", O_RDONLY),
                    "File descriptor 'x' is not a socket");
    expect_fd_error(socket(AF_UNIX, SOCK_DGRAM, 0),
                    "File descriptor 'x' is not a stream socket of type unix "
                    "or inet");
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    expect_fd_error(fds[0], "File descriptor 'x' is a connection, not a socket "
                            "to listen at");
    close(fds[1]);
}
END_TEST

START_TEST(test_fd_listens)
{
    g_autoptr(GError) err = NULL;
    SocketListener *listener;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in sin = { .sin_family = AF_INET };
    int listens = 0;
    socklen_t len = sizeof(listens);

    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
    ck_assert(named_fd_add("x", fd, NULL));
    listener = listen_at("{'type': 'fd', 'str': 'x'}", &err);
    ck_assert(listener != NULL);
    ck_assert_int_eq(socket_listener_count(listener), 1);
    ck_assert_int_eq(socket_listener_fd(listener, 0), fd);
    ck_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len);
    ck_assert_int_eq(listens, 1);
    socket_listener_free(listener);
    ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
    fdset_close_all();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("socket");
    TCase *tc = tcase_create("socket");

    tcase_add_test(tc, test_errors);
    tcase_add_test(tc, test_flatten);
    tcase_add_test(tc, test_unix);
    tcase_add_test(tc, test_inet);
    tcase_add_test(tc, test_fd_errors);
    tcase_add_test(tc, test_fd_listens);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
