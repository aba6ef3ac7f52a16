/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The one way to wait for something that is not a system call on the disk:
 * with a deadline, and so that somebody else can put an end to it.
 */
#ifndef BLOCK_WAIT_H
#define BLOCK_WAIT_H

#include <stdbool.h>
#include <stdint.h>

#include "util/thread.h"

/* Waits that are ended together: those of one export, one job */
typedef struct BdrvCancel BdrvCancel;

BdrvCancel *bdrv_cancel_new(void);
BdrvCancel *bdrv_cancel_ref(BdrvCancel *cancel);
void bdrv_cancel_unref(BdrvCancel *cancel);
/* All waits with @cancel, now and later, return -ECANCELED. Any thread; the
 * caller holds none of the mutexes that are waited with. */
void bdrv_cancel(BdrvCancel *cancel);
bool bdrv_cancelled(BdrvCancel *cancel);

/*
 * cond_wait_until() that also returns when @cancel (may be NULL) is fired. 0 if
 * woken (look at the predicate again), -ETIMEDOUT, or -ECANCELED. @mutex is
 * held on entry and on return, and was released in between. @cond must be one
 * that wakers broadcast.
 */
int bdrv_wait(Cond *cond, Mutex *mutex, int64_t deadline_us,
              BdrvCancel *cancel);

/*
 * The same for those who wait only to let others go first, as throttled
 * requests do: -EAGAIN, too, when somebody waits for them to get done.
 */
int bdrv_wait_turn(Cond *cond, Mutex *mutex, int64_t deadline_us,
                   BdrvCancel *cancel);
/*
 * This thread begins a request within another one, whose token is @outer
 * (borrowed), as where a guest's write goes to two disks; or ends it, with what
 * this returned. Who waits for the outer request, or gives it up, waits for the
 * inner one, too: bdrv_wait_turn() does not wait then, and is -EAGAIN: the
 * inner one does get done.
 */
BdrvCancel *bdrv_wait_within(BdrvCancel *outer);
/*
 * In between, bdrv_wait_turn() with @cancel does not wait. The pair does not
 * nest. Any thread; the caller of the first holds none of the mutexes that are
 * waited with.
 */
void bdrv_hurry_begin(BdrvCancel *cancel);
void bdrv_hurry_end(BdrvCancel *cancel);

#endif
