/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bytes in and out of an NBD connection, and the memory they need.
 *
 * The socket is a blocking one; whoever is blocked in it is freed by
 * nbd_conn_abort(). Only during the handshake there is a deadline, and every
 * call is preceded by a poll().
 */
#include "block/export/nbd-int.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
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

/* At least one byte; or a negative errno */
static ssize_t recv_some(NbdConn *conn, void *buf, size_t bytes)
{
    ssize_t n;
    int ret;

    do {
        ret = wait_ready(conn, POLLIN);
        if (ret < 0) {
            return ret;
        }
        n = recv(conn->fd, buf, bytes, conn->deadline ? MSG_DONTWAIT : 0);
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
        if (bytes >= sizeof(conn->in)) {
            n = recv_some(conn, p, bytes);
            p += MAX(n, 0);
            bytes -= MAX(n, 0);
        } else {
            n = recv_some(conn, conn->in, sizeof(conn->in));
            conn->in_start = 0;
            conn->in_end = MAX(n, 0);
        }
        if (n < 0) {
            return n;
        }
    }
}

int nbd_conn_send(NbdConn *conn, struct iovec *iov, int niov)
{
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = niov };
    int flags = MSG_NOSIGNAL | (conn->deadline ? MSG_DONTWAIT : 0);
    ssize_t n;
    int ret;

    while (msg.msg_iovlen > 0) {
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
        while (msg.msg_iovlen > 0 && (size_t)n >= msg.msg_iov->iov_len) {
            n -= msg.msg_iov->iov_len;
            msg.msg_iov++;
            msg.msg_iovlen--;
        }
        if (msg.msg_iovlen > 0) {
            msg.msg_iov->iov_base = (uint8_t *)msg.msg_iov->iov_base + n;
            msg.msg_iov->iov_len -= n;
        }
    }
    return 0;
}

/* ---- buffers ------------------------------------------------------------ */

static size_t buffer_total; /* atomic: bytes of all buffers */
static size_t large_total;  /* atomic: the sum of their large_part() */

/* What is left when every thread that may exist has its small buffer */
static size_t large_limit(void)
{
    size_t small =
        nbd_limits.small_buffer * (nbd_limits.connections + nbd_limits.helpers);

    return nbd_limits.memory > small ? nbd_limits.memory - small : 0;
}

/* What of a buffer counts against large_limit() */
static size_t large_part(size_t capacity)
{
    return capacity - MIN(capacity, nbd_limits.small_buffer);
}

/*
 * A connection gets no more than it leaves to others: one that does not take its
 * replies keeps half of the memory at most, two keep three quarters.
 */
static bool large_reserve(NbdConn *conn, size_t bytes)
{
    size_t mine = __atomic_load_n(&conn->large, __ATOMIC_RELAXED) + bytes;
    size_t limit = large_limit();
    size_t old = __atomic_load_n(&large_total, __ATOMIC_RELAXED);

    do {
        if (mine > limit - MIN(old + bytes, limit)) {
            return false;
        }
    } while (!__atomic_compare_exchange_n(&large_total, &old, old + bytes, true,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    __atomic_fetch_add(&conn->large, bytes, __ATOMIC_RELAXED);
    return true;
}

static void large_release(NbdConn *conn, size_t bytes)
{
    __atomic_fetch_sub(&conn->large, bytes, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&large_total, bytes, __ATOMIC_RELAXED);
}

static bool buffer_map(NbdThread *thread, size_t capacity)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void *p;

    /* cppcheck-suppress invalidFunctionArg */
    p = mmap(NULL, capacity, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED) {
        return false;
    }
    __atomic_fetch_add(&buffer_total, capacity, __ATOMIC_RELAXED);
    thread->buffer = p;
    thread->capacity = capacity;
    return true;
}

/* Its large part stays reserved. */
static void buffer_unmap(NbdThread *thread)
{
    if (thread->buffer) {
        munmap(thread->buffer, thread->capacity);
        __atomic_fetch_sub(&buffer_total, thread->capacity, __ATOMIC_RELAXED);
    }
    thread->buffer = NULL;
    thread->capacity = 0;
}

void nbd_buffer_free(NbdThread *thread)
{
    /* Who has left his crew has none, and maybe no connection either. */
    if (thread->buffer) {
        large_release(thread->conn, large_part(thread->capacity));
        buffer_unmap(thread);
    }
}

size_t nbd_buffer_want(NbdThread *thread, size_t bytes)
{
    size_t capacity, more;

    if (bytes > thread->capacity && bytes > nbd_limits.small_buffer) {
        /* Powers of two, lest slowly growing requests map anew each time */
        capacity = (size_t)1 << g_bit_storage(bytes - 1);
        more = large_part(capacity) - large_part(thread->capacity);
        if (large_reserve(thread->conn, more)) {
            buffer_unmap(thread);
            if (!buffer_map(thread, capacity)) {
                large_release(thread->conn, large_part(capacity));
            }
        }
    }
    if (!thread->buffer && !buffer_map(thread, nbd_limits.small_buffer)) {
        g_error("cannot allocate %zu bytes", nbd_limits.small_buffer);
    }
    return MIN(bytes, thread->capacity);
}

void nbd_buffer_relax(NbdThread *thread)
{
    size_t used = __atomic_load_n(&large_total, __ATOMIC_RELAXED);

    if (thread->capacity > nbd_limits.kept_buffer ||
        (large_part(thread->capacity) > 0 && used > large_limit() / 4 * 3)) {
        nbd_buffer_free(thread);
    }
}

size_t nbd_buffer_total(void)
{
    return __atomic_load_n(&buffer_total, __ATOMIC_RELAXED);
}
