/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Range locks: one list, in order of arrival, of those who hold a range and
 * those who wait for one. A newcomer waits while any earlier entry conflicts
 * with it, whether that entry still waits itself or not. The list is as long as
 * there are requests in flight on the node, so it is searched linearly.
 */
#include "block/range-lock.h"
#include "util/trace.h"

struct RangeLock {
    Mutex lock;
    Cond released;
    unsigned waiting; /* threads in range_lock_acquire() */
    RangeHold *head, *tail;
};

RangeLock *range_lock_new(void)
{
    RangeLock *lock = g_new0(RangeLock, 1);

    mutex_init(&lock->lock);
    cond_init(&lock->released);
    return lock;
}

void range_lock_free(RangeLock *lock)
{
    if (!lock) {
        return;
    }
    g_assert(lock->head == NULL);
    cond_destroy(&lock->released);
    mutex_destroy(&lock->lock);
    g_free(lock);
}

static bool must_wait(const RangeHold *hold)
{
    const RangeHold *h;

    for (h = hold->prev; h; h = h->prev) {
        if (h->start < hold->end && hold->start < h->end &&
            (h->exclusive || hold->exclusive)) {
            return true;
        }
    }
    return false;
}

static void append(RangeLock *lock, RangeHold *hold)
{
    hold->next = NULL;
    hold->prev = lock->tail;
    if (lock->tail) {
        lock->tail->next = hold;
    } else {
        lock->head = hold;
    }
    lock->tail = hold;
}

static void remove_and_wake(RangeLock *lock, RangeHold *hold)
{
    if (hold->prev) {
        hold->prev->next = hold->next;
    } else {
        lock->head = hold->next;
    }
    if (hold->next) {
        hold->next->prev = hold->prev;
    } else {
        lock->tail = hold->prev;
    }
    if (lock->waiting) {
        cond_broadcast(&lock->released);
    }
}

static void enter(RangeLock *lock, RangeHold *hold, int64_t offset,
                  int64_t bytes, bool exclusive)
{
    g_assert(offset >= 0 && bytes >= 0 && bytes <= INT64_MAX - offset);
    hold->start = offset;
    hold->end = offset + bytes;
    hold->exclusive = exclusive;
    append(lock, hold);
}

/* @waited_us: for so long, if at all; else -1 */
static int enter_and_wait(RangeLock *lock, RangeHold *hold, int64_t offset,
                          int64_t bytes, bool exclusive, BdrvCancel *cancel,
                          int64_t *waited_us)
{
    MUTEX_GUARD(&lock->lock);
    int64_t since_us;
    int ret = 0;

    *waited_us = -1;
    enter(lock, hold, offset, bytes, exclusive);
    if (must_wait(hold)) {
        since_us = g_get_monotonic_time();
        lock->waiting++;
        do {
            ret = bdrv_wait(&lock->released, &lock->lock, INT64_MAX, cancel);
        } while (ret == 0 && must_wait(hold));
        lock->waiting--;
        *waited_us = g_get_monotonic_time() - since_us;
    }
    if (ret < 0) {
        remove_and_wake(lock, hold);
    }
    return ret;
}

int range_lock_acquire(RangeLock *lock, RangeHold *hold, int64_t offset,
                       int64_t bytes, bool exclusive, BdrvCancel *cancel)
{
    int64_t waited_us;
    int ret = enter_and_wait(lock, hold, offset, bytes, exclusive, cancel,
                             &waited_us);

    if (waited_us >= 0) {
        trace_range_lock_wait(offset, bytes, waited_us);
    }
    return ret;
}

void range_lock_release(RangeLock *lock, RangeHold *hold)
{
    MUTEX_GUARD(&lock->lock);

    remove_and_wake(lock, hold);
}

/* ---- without waiting ---------------------------------------------------- */

/* The first entry that overlaps [@start, @end), by its start; or NULL */
static const RangeHold *first_in(const RangeLock *lock, int64_t start,
                                 int64_t end)
{
    const RangeHold *first = NULL;
    const RangeHold *h;

    for (h = lock->head; h; h = h->next) {
        if (h->start < end && start < h->end &&
            (!first || h->start < first->start)) {
            first = h;
        }
    }
    return first;
}

bool range_lock_try_share(RangeLock *lock, RangeHold *hold, int64_t offset,
                          int64_t bytes)
{
    MUTEX_GUARD(&lock->lock);

    enter(lock, hold, offset, bytes, false);
    if (must_wait(hold)) {
        /* Nobody has seen it. */
        remove_and_wake(lock, hold);
        return false;
    }
    return true;
}

int64_t range_lock_try_acquire(RangeLock *lock, RangeHold *hold, int64_t offset,
                               int64_t bytes, int64_t align, int64_t *next)
{
    MUTEX_GUARD(&lock->lock);
    const RangeHold *h = first_in(lock, offset, offset + bytes);

    if (h) {
        int64_t unaligned = (h->end - offset) % align;

        bytes = MAX(h->start - offset, 0);
        bytes -= bytes % align;
        *next = h->end;
        if (unaligned > 0) {
            *next += MIN(align - unaligned, INT64_MAX - h->end);
        }
    }
    if (bytes > 0) {
        enter(lock, hold, offset, bytes, true);
    }
    return bytes;
}

bool range_lock_try_extend(RangeLock *lock, RangeHold *hold, int64_t bytes)
{
    MUTEX_GUARD(&lock->lock);

    if (first_in(lock, hold->end, hold->end + bytes)) {
        return false;
    }
    hold->end += bytes;
    return true;
}

void range_lock_shrink(RangeLock *lock, RangeHold *hold, int64_t bytes)
{
    MUTEX_GUARD(&lock->lock);

    g_assert(bytes > 0 && bytes <= hold->end - hold->start);
    hold->end = hold->start + bytes;
    if (lock->waiting) {
        cond_broadcast(&lock->released);
    }
}

void range_lock_line_up(RangeLock *lock, RangeHold *hold, int64_t offset,
                        int64_t bytes)
{
    MUTEX_GUARD(&lock->lock);
    enter(lock, hold, offset, bytes, true);
}

bool range_lock_is_mine(RangeLock *lock, RangeHold *hold)
{
    MUTEX_GUARD(&lock->lock);
    return !must_wait(hold);
}

unsigned range_lock_waiting(RangeLock *lock)
{
    MUTEX_GUARD(&lock->lock);
    return lock->waiting;
}
