/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory of requests: a buffer a thread. Its first part may be data of
 * replies that wait to be sent (nbd-out.c), the rest is the request's.
 */
#include "block/export/nbd-int.h"

#include <sys/mman.h>

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

static bool buffer_map(NbdThread *t, size_t capacity)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void *p;

    /* cppcheck-suppress invalidFunctionArg */
    p = mmap(NULL, capacity, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED) {
        return false;
    }
    __atomic_fetch_add(&buffer_total, capacity, __ATOMIC_RELAXED);
    t->buffer = p;
    t->capacity = capacity;
    return true;
}

/* Its large part stays reserved. */
static void buffer_unmap(NbdThread *t)
{
    if (t->buffer) {
        munmap(t->buffer, t->capacity);
        __atomic_fetch_sub(&buffer_total, t->capacity, __ATOMIC_RELAXED);
    }
    t->buffer = NULL;
    t->capacity = 0;
}

void nbd_buffer_free(NbdThread *t)
{
    /* Who has left his crew has none, and maybe no connection either. */
    if (t->buffer) {
        if (nbd_out_held(t) > 0) {
            nbd_out_send(t->conn);
        }
        large_release(t->conn, large_part(t->capacity));
        buffer_unmap(t);
    }
}

size_t nbd_buffer_want(NbdThread *t, size_t bytes)
{
    size_t held = nbd_out_held(t);
    size_t capacity, more;

    if (held > 0 && bytes > t->capacity - held) {
        nbd_out_send(t->conn);
        held = 0;
    }
    if (bytes > t->capacity && bytes > nbd_limits.small_buffer) {
        /* Powers of two, lest slowly growing requests map anew each time */
        capacity = (size_t)1 << g_bit_storage(bytes - 1);
        more = large_part(capacity) - large_part(t->capacity);
        if (large_reserve(t->conn, more)) {
            buffer_unmap(t);
            if (!buffer_map(t, capacity)) {
                large_release(t->conn, large_part(capacity));
            }
        }
    }
    if (!t->buffer && !buffer_map(t, nbd_limits.small_buffer)) {
        g_error("cannot allocate %zu bytes", nbd_limits.small_buffer);
    }
    t->data = t->buffer + held;
    return MIN(bytes, t->capacity - held);
}

bool nbd_buffer_has_room(NbdThread *t, size_t bytes)
{
    size_t held = nbd_out_held(t);

    return held == 0 || bytes <= t->capacity - held;
}

void nbd_buffer_relax(NbdThread *t)
{
    size_t used = __atomic_load_n(&large_total, __ATOMIC_RELAXED);

    if (t->capacity > nbd_limits.kept_buffer ||
        (large_part(t->capacity) > 0 && used > large_limit() / 4 * 3)) {
        nbd_buffer_free(t);
    }
}

size_t nbd_buffer_total(void)
{
    return __atomic_load_n(&buffer_total, __ATOMIC_RELAXED);
}
