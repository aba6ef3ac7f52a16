/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bytes in and out of an NBD connection.
 *
 * What is received beyond what somebody wants is kept for the next: a client with
 * many requests under way sends them faster than one by one.
 *
 * The socket is a blocking one; whoever is blocked in it is freed by
 * nbd_conn_abort(). Only during the handshake there is a deadline, and every
 * call is preceded by a poll().
 */
#include "block/export/nbd-int.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* 0 when the socket is ready or has no deadline, or a negative errno */
static int wait_ready(NbdConn *conn, short events)
{
    struct pollfd pfd = { .fd = conn->fd, .events = events };
    int64_t left;
    int r;

    if (!conn->deadline) {
        return 0;
    }
    do {
        left = (conn->deadline - g_get_monotonic_time() + 999) / 1000;
        if (left <= 0) {
            return -ETIMEDOUT;
        }
        r = poll(&pfd, 1, MIN(left, G_MAXINT));
    } while (r == 0 || (r < 0 && errno == EINTR));
    return r < 0 ? -errno : 0;
}

/* ---- receiving ---------------------------------------------------------- */

/* At least one byte, up to @bytes to @buf, and more to conn->in, which is empty:
 * how many in all; or a negative errno */
static ssize_t recv_some(NbdConn *conn, void *buf, size_t bytes)
{
    struct iovec iov[] = { { buf, bytes }, { conn->in, sizeof(conn->in) } };
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = G_N_ELEMENTS(iov) };
    ssize_t n;
    int ret;

    do {
        ret = wait_ready(conn, POLLIN);
        if (ret < 0) {
            return ret;
        }
        n = recvmsg(conn->fd, &msg, conn->deadline ? MSG_DONTWAIT : 0);
    } while (n < 0 && (errno == EINTR || (errno == EAGAIN && conn->deadline)));
    return n > 0 ? n : n == 0 ? -EPIPE : -errno;
}

int nbd_conn_recv(NbdConn *conn, void *buf, size_t bytes)
{
    uint8_t *p = buf;
    size_t ready;
    ssize_t n;

    for (;;) {
        ready = MIN(bytes, conn->in_end - conn->in_start);
        memcpy(p, conn->in + conn->in_start, ready);
        conn->in_start += ready;
        p += ready;
        bytes -= ready;
        if (bytes == 0) {
            return 0;
        }
        n = recv_some(conn, p, bytes);
        if (n < 0) {
            return n;
        }
        ready = MIN(bytes, (size_t)n);
        conn->in_start = 0;
        conn->in_end = n - ready;
        p += ready;
        bytes -= ready;
    }
}

/* ---- sending ------------------------------------------------------------ */

int nbd_conn_send_on(NbdConn *conn, struct iovec **iov, int *niov, int flags)
{
    ssize_t n;
    int ret;

    flags |= MSG_NOSIGNAL | (conn->deadline ? MSG_DONTWAIT : 0);
    while (*niov > 0) {
        struct msghdr msg = { .msg_iov = *iov, .msg_iovlen = *niov };

        ret = wait_ready(conn, POLLOUT);
        if (ret < 0) {
            return ret;
        }
        n = sendmsg(conn->fd, &msg, flags);
        if (n < 0) {
            if (errno == EINTR || (errno == EAGAIN && conn->deadline)) {
                continue;
            }
            return -errno;
        }
        while (*niov > 0 && (size_t)n >= (*iov)->iov_len) {
            n -= (*iov)->iov_len;
            (*iov)++;
            (*niov)--;
        }
        if (*niov > 0) {
            (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + n;
            (*iov)->iov_len -= n;
        }
    }
    return 0;
}

int nbd_conn_send(NbdConn *conn, struct iovec *iov, int niov)
{
    return nbd_conn_send_on(conn, &iov, &niov, 0);
}
