/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Does anybody use disks but jobs? Guests and other clients of exports, of any disk:
 * what they share with a job is not only a disk, but what disks lie on, which nobody
 * knows, and the processors.
 *
 * Any thread; nobody waits.
 */
#ifndef BLOCK_GUEST_USE_H
#define BLOCK_GUEST_USE_H

#include <stdint.h>

/* What is nearer to the last time noted is not noted: all who make requests look
 * at that, and it is to stay in their caches. */
#define GUEST_USE_STEP_US 10000

extern int64_t guest_use_us; /* atomic; only for what follows */

/* A guest's request begins or ends. Monotonic microseconds, here and below */
static inline void guest_use_note(int64_t now_us)
{
    int64_t last_us = __atomic_load_n(&guest_use_us, __ATOMIC_RELAXED);

    if (now_us - last_us >= GUEST_USE_STEP_US) {
        __atomic_store_n(&guest_use_us, now_us, __ATOMIC_RELAXED);
    }
}

/* When one last did; up to GUEST_USE_STEP_US too early. Long ago: never */
static inline int64_t guest_use_last(void)
{
    return __atomic_load_n(&guest_use_us, __ATOMIC_RELAXED);
}

/* Forget it: for tests */
static inline void guest_use_forget(void)
{
    __atomic_store_n(&guest_use_us, INT64_MIN / 2, __ATOMIC_RELAXED);
}

#endif
