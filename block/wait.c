/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Waits that somebody else can put an end to.
 *
 * A waiter comes with a mutex of its own, and bdrv_cancel() (as well as
 * bdrv_hurry_begin(), below as above) has to take that mutex before it broadcasts, or the wake-up could fall between the waiter's
 * last look and its sleep. The waiter takes the token's lock inside its mutex
 * (to enter itself in the list), so the canceller cannot take them in the other
 * order: it pins the entry, lets go of the token's lock and only then takes the
 * waiter's mutex. Each waiter that was there is told once: those that come
 * later, or that have been told by somebody later, have seen the news. A pinned waiter does not return from bdrv_wait(), which keeps
 * its mutex and condition alive; it lets go of its mutex while it waits for
 * the pin to go, so that the canceller gets it.
 */
#include "block/wait.h"

typedef struct Waiter Waiter;
struct Waiter {
    Waiter *prev, *next;
    Cond *cond;
    Mutex *mutex;
    unsigned told; /* the latest news it has got */
    unsigned pins; /* how many cancellers use cond and mutex */
};

struct BdrvCancel {
    int refcnt;    /* atomic */
    int cancelled; /* atomic; set under lock */
    int hurry;     /* the same */
    unsigned news; /* lock: counts the changes of these two to be told */
    Mutex lock;
    Cond unpinned;
    Waiter *waiters; /* lock, and what is in them */
};

/* That of the request around the one that this thread is in, or NULL */
static __thread BdrvCancel *outer_cancel;

BdrvCancel *bdrv_cancel_new(void)
{
    BdrvCancel *cancel = g_new0(BdrvCancel, 1);

    cancel->refcnt = 1;
    mutex_init(&cancel->lock);
    cond_init(&cancel->unpinned);
    return cancel;
}

BdrvCancel *bdrv_cancel_ref(BdrvCancel *cancel)
{
    g_atomic_int_inc(&cancel->refcnt);
    return cancel;
}

void bdrv_cancel_unref(BdrvCancel *cancel)
{
    if (!g_atomic_int_dec_and_test(&cancel->refcnt)) {
        return;
    }
    g_assert(cancel->waiters == NULL);
    cond_destroy(&cancel->unpinned);
    mutex_destroy(&cancel->lock);
    g_free(cancel);
}

static Waiter *next_untold(BdrvCancel *cancel, unsigned news)
{
    Waiter *w = cancel->waiters;

    while (w && w->told >= news) {
        w = w->next;
    }
    return w;
}

/* Lock held; it is released in between. */
static void tell_waiters(BdrvCancel *cancel)
{
    unsigned news = ++cancel->news;
    Waiter *w;

    while ((w = next_untold(cancel, news))) {
        w->told = news;
        w->pins++;
        mutex_unlock(&cancel->lock);

        mutex_lock(w->mutex);
        cond_broadcast(w->cond);
        mutex_unlock(w->mutex);

        mutex_lock(&cancel->lock);
        w->pins--;
        cond_broadcast(&cancel->unpinned);
    }
}

void bdrv_cancel(BdrvCancel *cancel)
{
    MUTEX_GUARD(&cancel->lock);

    g_atomic_int_set(&cancel->cancelled, 1);
    tell_waiters(cancel);
}

void bdrv_hurry_begin(BdrvCancel *cancel)
{
    MUTEX_GUARD(&cancel->lock);

    g_assert(!cancel->hurry);
    g_atomic_int_set(&cancel->hurry, 1);
    tell_waiters(cancel);
}

void bdrv_hurry_end(BdrvCancel *cancel)
{
    MUTEX_GUARD(&cancel->lock);

    g_atomic_int_set(&cancel->hurry, 0);
}

bool bdrv_cancelled(BdrvCancel *cancel)
{
    return g_atomic_int_get(&cancel->cancelled);
}

/* What puts an end to a wait, whether it is for a turn or not; or 0 */
static int verdict(BdrvCancel *cancel, bool for_turn)
{
    if (bdrv_cancelled(cancel)) {
        return -ECANCELED;
    }
    return for_turn && g_atomic_int_get(&cancel->hurry) ? -EAGAIN : 0;
}

static int waiter_enter(BdrvCancel *cancel, Waiter *w, bool for_turn)
{
    int ret;

    MUTEX_GUARD(&cancel->lock);

    ret = verdict(cancel, for_turn);
    if (ret < 0) {
        return ret;
    }
    w->told = cancel->news;
    w->next = cancel->waiters;
    if (w->next) {
        w->next->prev = w;
    }
    cancel->waiters = w;
    return 0;
}

/* w->mutex is held on entry and on return, but perhaps not in between. */
static void waiter_leave(BdrvCancel *cancel, Waiter *w)
{
    bool unlocked = false;

    mutex_lock(&cancel->lock);
    while (w->pins > 0) {
        if (!unlocked) {
            mutex_unlock(w->mutex);
            unlocked = true;
        }
        cond_wait(&cancel->unpinned, &cancel->lock);
    }
    if (w->prev) {
        w->prev->next = w->next;
    } else {
        cancel->waiters = w->next;
    }
    if (w->next) {
        w->next->prev = w->prev;
    }
    mutex_unlock(&cancel->lock);
    if (unlocked) {
        mutex_lock(w->mutex);
    }
}

BdrvCancel *bdrv_wait_within(BdrvCancel *outer)
{
    BdrvCancel *before = outer_cancel;

    outer_cancel = outer;
    return before;
}

static int wait_for(Cond *cond, Mutex *mutex, int64_t deadline_us,
                    BdrvCancel *cancel, bool for_turn)
{
    Waiter w = { .cond = cond, .mutex = mutex }, within = w;
    BdrvCancel *outer = for_turn ? outer_cancel : NULL;
    bool in_time;
    int ret;

    if (!cancel) {
        return cond_wait_until(cond, mutex, deadline_us) ? 0 : -ETIMEDOUT;
    }
    ret = waiter_enter(cancel, &w, for_turn);
    if (ret < 0) {
        return ret;
    }
    if (outer && waiter_enter(outer, &within, true) < 0) {
        waiter_leave(cancel, &w);
        return -EAGAIN;
    }
    in_time = cond_wait_until(cond, mutex, deadline_us);
    if (outer) {
        waiter_leave(outer, &within);
    }
    waiter_leave(cancel, &w);
    ret = verdict(cancel, for_turn);
    if (ret == 0 && outer && verdict(outer, true) < 0) {
        ret = -EAGAIN;
    }
    return ret == 0 && !in_time ? -ETIMEDOUT : ret;
}

int bdrv_wait(Cond *cond, Mutex *mutex, int64_t deadline_us, BdrvCancel *cancel)
{
    return wait_for(cond, mutex, deadline_us, cancel, false);
}

int bdrv_wait_turn(Cond *cond, Mutex *mutex, int64_t deadline_us,
                   BdrvCancel *cancel)
{
    return wait_for(cond, mutex, deadline_us, cancel, true);
}
