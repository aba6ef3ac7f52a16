/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Range locks: one list, in order of arrival, of those who hold a range and
 * those who wait for one. A newcomer waits while any earlier entry conflicts
 * with it, whether that entry still waits itself or not. The list is as long as
 * there are requests in flight on the node, so it is searched linearly.
 */
#include "block/range-lock.h"

struct RangeLock {
    Mutex lock;
    Cond released;
    unsigned waiting;
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

int range_lock_acquire(RangeLock *lock, RangeHold *hold, int64_t offset,
                       int64_t bytes, bool exclusive, BdrvCancel *cancel)
{
    MUTEX_GUARD(&lock->lock);
    int ret = 0;

    g_assert(offset >= 0 && bytes >= 0 && bytes <= INT64_MAX - offset);
    hold->start = offset;
    hold->end = offset + bytes;
    hold->exclusive = exclusive;
    append(lock, hold);

    lock->waiting++;
    while (ret == 0 && must_wait(hold)) {
        ret = bdrv_wait(&lock->released, &lock->lock, INT64_MAX, cancel);
    }
    lock->waiting--;
    if (ret < 0) {
        remove_and_wake(lock, hold);
    }
    return ret;
}

void range_lock_release(RangeLock *lock, RangeHold *hold)
{
    MUTEX_GUARD(&lock->lock);

    remove_and_wake(lock, hold);
}
