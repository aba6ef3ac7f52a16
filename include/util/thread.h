/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mutexes, conditions and scope-bound locking.
 *
 * These wrap pthreads rather than GLib's GMutex: GMutex is built on futexes
 * inside an uninstrumented library, which ThreadSanitizer cannot see, and a
 * daemon whose threads share bitmaps must be checkable with it.
 *
 * Conditions use CLOCK_MONOTONIC; deadlines are absolute, in microseconds of
 * g_get_monotonic_time(), as everywhere in the project.
 */
#ifndef UTIL_THREAD_H
#define UTIL_THREAD_H

#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef pthread_mutex_t Mutex;
typedef pthread_cond_t Cond;

#define MUTEX_INIT PTHREAD_MUTEX_INITIALIZER

static inline void mutex_init(Mutex *m)
{
    int r = pthread_mutex_init(m, NULL);
    g_assert(r == 0);
}

static inline void mutex_destroy(Mutex *m)
{
    int r = pthread_mutex_destroy(m);
    g_assert(r == 0);
}

static inline void mutex_lock(Mutex *m)
{
    int r = pthread_mutex_lock(m);
    g_assert(r == 0);
}

/* False if somebody has it */
static inline bool mutex_trylock(Mutex *m)
{
    int r = pthread_mutex_trylock(m);
    g_assert(r == 0 || r == EBUSY);
    return r == 0;
}

static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/*
 * Of a mutex that is nearly always held for some 100 ns only: who finds it taken
 * had better try again for a moment, less and less often, than sleep and be woken.
 * In the end it sleeps nevertheless, for the holder may have lost its processor.
 */
static inline void mutex_lock_short(Mutex *m)
{
    unsigned pauses, i;

    for (pauses = 1; pauses <= 512; pauses *= 2) {
        if (mutex_trylock(m)) {
            return;
        }
        for (i = 0; i < pauses; i++) {
            cpu_pause();
        }
    }
    mutex_lock(m);
}

static inline void mutex_unlock(Mutex *m)
{
    int r = pthread_mutex_unlock(m);
    g_assert(r == 0);
}

static inline void cond_init(Cond *c)
{
    pthread_condattr_t attr;
    int r;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    r = pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
    g_assert(r == 0);
}

static inline void cond_destroy(Cond *c)
{
    int r = pthread_cond_destroy(c);
    g_assert(r == 0);
}

static inline void cond_signal(Cond *c)
{
    pthread_cond_signal(c);
}

static inline void cond_broadcast(Cond *c)
{
    pthread_cond_broadcast(c);
}

static inline void cond_wait(Cond *c, Mutex *m)
{
    int r = pthread_cond_wait(c, m);
    g_assert(r == 0);
}

/*
 * Wait until signalled or until @deadline_us (monotonic time, microseconds;
 * INT64_MAX: no deadline). Returns false when the deadline has passed. As with
 * every condition, the caller must look at its predicate again.
 */
static inline bool cond_wait_until(Cond *c, Mutex *m, int64_t deadline_us)
{
    struct timespec ts;
    int r;

    if (deadline_us == INT64_MAX) {
        cond_wait(c, m);
        return true;
    }
    ts.tv_sec = deadline_us / G_USEC_PER_SEC;
    ts.tv_nsec = (deadline_us % G_USEC_PER_SEC) * 1000;
    r = pthread_cond_timedwait(c, m, &ts);
    g_assert(r == 0 || r == ETIMEDOUT);
    return r == 0;
}

static inline void mutex_guard_release(Mutex **m)
{
    mutex_unlock(*m);
}

/*
 * Hold @mutex until the end of the enclosing scope. May stand after statements,
 * where the house rules allow no other declaration.
 */
/* clang-format off */
#define MUTEX_GUARD_BY(lock, mutex)                                            \
    _Pragma("GCC diagnostic push")                                             \
    _Pragma("GCC diagnostic ignored \"-Wdeclaration-after-statement\"")        \
    __attribute__((cleanup(mutex_guard_release), unused)) Mutex *              \
        G_PASTE(mutex_guard_, __LINE__) = (lock(mutex), (mutex));              \
    _Pragma("GCC diagnostic pop")                                              \
    _Static_assert(1, "for the semicolon")
#define MUTEX_GUARD(mutex) MUTEX_GUARD_BY(mutex_lock, mutex)
#define MUTEX_GUARD_SHORT(mutex) MUTEX_GUARD_BY(mutex_lock_short, mutex)
/* clang-format on */

#endif
