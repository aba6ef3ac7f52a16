/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Connecting stream sockets, unix and TCP */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include "util/error.h"
#include "util/fdset.h"
#include "util/socket-int.h"
#include "util/socket.h"

char *socket_address_text(JsonObject *addr)
{
    const char *type = schema_get_str(addr, "type", "");

    if (g_str_equal(type, "unix")) {
        return g_strdup(schema_get_str(addr, "path", NULL));
    }
    if (g_str_equal(type, "fd")) {
        return g_strdup(schema_get_str(addr, "str", NULL));
    }
    return g_strdup_printf("%s:%s", schema_get_str(addr, "host", NULL),
                           schema_get_str(addr, "port", NULL));
}

/* Until @fd is connected or has failed. 0 or -errno */
static int wait_connected(int fd, int64_t deadline_us, int stop_fd)
{
    struct pollfd fds[] = { { fd, POLLOUT, 0 }, { stop_fd, POLLIN, 0 } };
    socklen_t len = sizeof(int);
    int err, n;

    do {
        int64_t left_us = deadline_us - g_get_monotonic_time();

        if (left_us <= 0) {
            return -ETIMEDOUT;
        }
        n = poll(fds, 2, MIN(left_us / 1000 + 1, G_MAXINT));
    } while (n == 0 || (n < 0 && errno == EINTR));
    if (n < 0) {
        return -errno;
    }
    if (fds[1].revents) {
        return -ECANCELED;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0) {
        return -errno;
    }
    return -err;
}

/* How often to try where too many wait to be accepted: nobody tells when there
 * is room */
#define FULL_MS 20

/* connect(2), as soon as there is room in the listener's queue. 0 or -errno */
static int connect_queued(int fd, const struct sockaddr *sa, socklen_t len,
                          int64_t deadline_us, int stop_fd)
{
    struct pollfd stop = { stop_fd, POLLIN, 0 };

    while (connect(fd, sa, len) < 0) {
        if (errno != EAGAIN || sa->sa_family != AF_UNIX ||
            g_get_monotonic_time() >= deadline_us) {
            return -errno;
        }
        if (poll(&stop, 1, FULL_MS) > 0) {
            return -ECANCELED;
        }
    }
    return 0;
}

/* The socket, or -errno */
static int connect_to(const struct sockaddr *sa, socklen_t len,
                      int64_t deadline_us, int stop_fd)
{
    int fd =
        socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int ret;

    if (fd < 0) {
        return -errno;
    }
    ret = connect_queued(fd, sa, len, deadline_us, stop_fd);
    if (ret == -EINPROGRESS) {
        ret = wait_connected(fd, deadline_us, stop_fd);
    }
    if (ret < 0) {
        close(fd);
        return ret;
    }
    return fd;
}

static int connect_unix(JsonObject *addr, int64_t deadline_us, int stop_fd,
                        GError **errp)
{
    struct sockaddr_un un;

    if (!socket_unix_address(schema_get_str(addr, "path", NULL), &un, errp)) {
        return -EINVAL;
    }
    return connect_to((struct sockaddr *)&un, sizeof(un), deadline_us, stop_fd);
}

static int connect_inet(JsonObject *addr, int64_t deadline_us, int stop_fd,
                        GError **errp)
{
    struct addrinfo *list = socket_resolve(addr, false, errp);
    int fd = -EADDRNOTAVAIL, one = 1;

    if (!list) {
        return -EINVAL;
    }
    for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        fd = connect_to(ai->ai_addr, ai->ai_addrlen, deadline_us, stop_fd);
        if (fd == -ECANCELED) {
            break;
        }
    }
    freeaddrinfo(list);
    if (fd >= 0) {
        /* Requests wait for their replies, not for company. */
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    return fd;
}

/* What is not taken is closed with the array. */
static int connected_fd(JsonObject *addr, GError **errp)
{
    const char *name = schema_get_str(addr, "str", NULL);
    g_autoptr(GArray) fds = named_fd_take(name, errp);
    struct sockaddr_storage peer;
    socklen_t len = sizeof(peer);
    int fd;

    if (!fds) {
        return -ENOENT;
    }
    fd = g_array_index(fds, int, 0);
    if (fds->len != 1 || getpeername(fd, (struct sockaddr *)&peer, &len) < 0 ||
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
        error_setg(errp, "File descriptor '%s' is not a connected socket",
                   name);
        return -EINVAL;
    }
    fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return fd < 0 ? -errno : fd;
}

int socket_connect(JsonObject *addr, int64_t deadline_us, int stop_fd,
                   GError **errp)
{
    const char *type = schema_get_str(addr, "type", "");
    g_autofree char *text = socket_address_text(addr);
    g_autoptr(GError) err = NULL;
    int fd;

    if (g_str_equal(type, "unix")) {
        fd = connect_unix(addr, deadline_us, stop_fd, &err);
    } else if (g_str_equal(type, "fd")) {
        fd = connected_fd(addr, &err);
    } else {
        fd = connect_inet(addr, deadline_us, stop_fd, &err);
    }
    if (fd >= 0) {
        return fd;
    }
    if (err) {
        g_propagate_error(errp, g_steal_pointer(&err));
    } else {
        error_setg_errno(errp, -fd, "Failed to connect to '%s'", text);
    }
    return -1;
}
