/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Waits that somebody else can put an end to.
 *
 * A waiter comes with a mutex of its own, and bdrv_cancel() has to take that
 * mutex before it broadcasts, or the wake-up could fall between the waiter's
 * last look and its sleep. The waiter takes the token's lock inside its mutex
 * (to enter itself in the list), so the canceller cannot take them in the other
 * order: it pins the entry, lets go of the token's lock and only then takes the
 * waiter's mutex. A pinned waiter does not return from bdrv_wait(), which keeps
 * its mutex and condition alive; it lets go of its mutex while it waits for
 * the pin to go, so that the canceller gets it.
 */
#include "block/wait.h"

typedef struct Waiter Waiter;
struct Waiter {
    Waiter *prev, *next;
    Cond *cond;
    Mutex *mutex;
    bool told;   /* by bdrv_cancel() */
    bool pinned; /* the canceller uses cond and mutex */
};

struct BdrvCancel {
    int refcnt;    /* atomic */
    int cancelled; /* atomic; set under lock */
    Mutex lock;
    Cond unpinned;
    Waiter *waiters; /* lock, and what is in them */
};

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

static Waiter *next_untold(BdrvCancel *cancel)
{
    Waiter *w = cancel->waiters;

    while (w && w->told) {
        w = w->next;
    }
    return w;
}

void bdrv_cancel(BdrvCancel *cancel)
{
    Waiter *w;

    mutex_lock(&cancel->lock);
    g_atomic_int_set(&cancel->cancelled, 1);
    while ((w = next_untold(cancel))) {
        w->told = true;
        w->pinned = true;
        mutex_unlock(&cancel->lock);

        mutex_lock(w->mutex);
        cond_broadcast(w->cond);
        mutex_unlock(w->mutex);

        mutex_lock(&cancel->lock);
        w->pinned = false;
        cond_broadcast(&cancel->unpinned);
    }
    mutex_unlock(&cancel->lock);
}

bool bdrv_cancelled(BdrvCancel *cancel)
{
    return g_atomic_int_get(&cancel->cancelled);
}

static bool waiter_enter(BdrvCancel *cancel, Waiter *w)
{
    MUTEX_GUARD(&cancel->lock);

    if (bdrv_cancelled(cancel)) {
        return false;
    }
    w->next = cancel->waiters;
    if (w->next) {
        w->next->prev = w;
    }
    cancel->waiters = w;
    return true;
}

/* w->mutex is held on entry and on return, but perhaps not in between. */
static void waiter_leave(BdrvCancel *cancel, Waiter *w)
{
    bool unlocked = false;

    mutex_lock(&cancel->lock);
    while (w->pinned) {
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

int bdrv_wait(Cond *cond, Mutex *mutex, int64_t deadline_us, BdrvCancel *cancel)
{
    Waiter w = { .cond = cond, .mutex = mutex };
    bool in_time;

    if (!cancel) {
        return cond_wait_until(cond, mutex, deadline_us) ? 0 : -ETIMEDOUT;
    }
    if (!waiter_enter(cancel, &w)) {
        return -ECANCELED;
    }
    in_time = cond_wait_until(cond, mutex, deadline_us);
    waiter_leave(cancel, &w);
    if (bdrv_cancelled(cancel)) {
        return -ECANCELED;
    }
    return in_time ? 0 : -ETIMEDOUT;
}
