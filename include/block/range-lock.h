/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Locks on byte ranges of a node, for operations that must not interleave with
 * others that overlap them: read-modify-write, copy before write, writes that
 * go to two places.
 *
 * Served strictly in order of arrival where ranges conflict (overlap, and at
 * least one of the two is exclusive), so nobody starves and, as one only ever
 * waits for those that came before, nobody waits in a circle. Who waits holds
 * none of that lock, nor of a node further down.
 */
#ifndef BLOCK_RANGE_LOCK_H
#define BLOCK_RANGE_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "block/wait.h"

typedef struct RangeLock RangeLock;

/* One holder or waiter; the caller's memory, from acquire to release */
typedef struct RangeHold RangeHold;
struct RangeHold {
    RangeHold *prev, *next;
    int64_t start, end;
    bool exclusive;
};

RangeLock *range_lock_new(void);
/* Nobody holds or waits. NULL is fine. */
void range_lock_free(RangeLock *lock);

/*
 * Wait for [@offset, @offset + @bytes), shared with other shared holders or
 * exclusively. 0, or -ECANCELED by @cancel (may be NULL): then nothing is held.
 */
int range_lock_acquire(RangeLock *lock, RangeHold *hold, int64_t offset,
                       int64_t bytes, bool exclusive, BdrvCancel *cancel);
void range_lock_release(RangeLock *lock, RangeHold *hold);

/*
 * Take [@offset, @offset + @bytes) shared, if range_lock_acquire() would not wait.
 * For who holds any number of ranges at once: such a one must never wait for another.
 */
bool range_lock_try_share(RangeLock *lock, RangeHold *hold, int64_t offset,
                          int64_t bytes);

/*
 * For those who do not wait. All of it is exclusive; a range is free if nobody
 * holds it and nobody waits for it.
 *
 * Take what is free of [@offset, @offset + @bytes), from its start on: all, or a
 * multiple of @align bytes. Returns how much; 0: nothing, and *@next is where,
 * counted from @offset in steps of @align, it may be free again.
 */
int64_t range_lock_try_acquire(RangeLock *lock, RangeHold *hold, int64_t offset,
                               int64_t bytes, int64_t align, int64_t *next);
/* Hold the @bytes after its end, too, if all of them are free. */
bool range_lock_try_extend(RangeLock *lock, RangeHold *hold, int64_t bytes);
/* Keep only the first @bytes, not 0, of what is held. */
void range_lock_shrink(RangeLock *lock, RangeHold *hold, int64_t bytes);
/*
 * Get in line and do not wait: others wait for it from now on, until
 * range_lock_release(). It is held when range_lock_is_mine() says so.
 */
void range_lock_line_up(RangeLock *lock, RangeHold *hold, int64_t offset,
                        int64_t bytes);
bool range_lock_is_mine(RangeLock *lock, RangeHold *hold);
/* How many threads wait in range_lock_acquire() */
unsigned range_lock_waiting(RangeLock *lock);

#endif
