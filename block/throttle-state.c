/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The arithmetic of throttling: leaky buckets, as QEMU documents them
 * (docs/throttle.txt).
 *
 * A limit has a bucket that leaks avg units a second. A request pours its units
 * in when it goes, and goes only if the bucket is not over its mark by then, so
 * a large request goes when there is room for any, and those behind it wait the
 * longer. How much the bucket takes is what may come in a burst: max units a
 * second for length seconds; without max, a tenth of avg.
 *
 * Where a burst may last several seconds, a second bucket leaks max units a
 * second and has its mark at a tenth of them: it spreads the burst, which else
 * might come all at once.
 */
#include "block/throttle-state.h"

#include <time.h>

#define NS_PER_SECOND 1e9
/* No request waits longer, so that nobody's sums overflow. A year */
#define WAIT_MAX_NS (INT64_C(365) * 86400 * 1000000000)

int64_t throttle_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

void throttle_state_init(ThrottleState *s, const ThrottleLimits *limits,
                         int64_t now_ns)
{
    *s = (ThrottleState){ .limits = *limits, .now_ns = now_ns };
}

static void leak(ThrottleState *s, int64_t now_ns)
{
    double seconds = (now_ns - s->now_ns) / NS_PER_SECOND;
    int i;

    if (now_ns <= s->now_ns) {
        return;
    }
    s->now_ns = now_ns;
    for (i = 0; i < THROTTLE_KINDS; i++) {
        const ThrottleLimit *l = &s->limits.limit[i];
        ThrottleBuckets *b = &s->buckets[i];

        b->level = MAX(b->level - l->avg * seconds, 0);
        b->burst_level = MAX(b->burst_level - l->max * seconds, 0);
    }
}

/* Until @rate a second have made @excess good */
static double seconds_until(double excess, int64_t rate)
{
    return excess > 0 ? excess / rate : 0;
}

static double limit_wait(const ThrottleLimit *l, const ThrottleBuckets *b)
{
    double mark = l->max ? (double)l->max * l->length : l->avg / 10.0;
    double wait;

    if (l->avg == 0) {
        return 0;
    }
    wait = seconds_until(b->level - mark, l->avg);
    if (l->length > 1) {
        wait = MAX(wait, seconds_until(b->burst_level - l->max / 10.0, l->max));
    }
    return wait;
}

/* Is a request in this direction one of @kind? */
static bool concerns(int kind, bool is_write)
{
    switch (kind) {
    case THROTTLE_BPS_READ:
    case THROTTLE_IOPS_READ:
        return !is_write;
    case THROTTLE_BPS_WRITE:
    case THROTTLE_IOPS_WRITE:
        return is_write;
    default:
        return true;
    }
}

int64_t throttle_state_wait(ThrottleState *s, bool is_write, int64_t now_ns)
{
    double wait = 0;
    int64_t wait_ns;
    int i;

    leak(s, now_ns);
    for (i = 0; i < THROTTLE_KINDS; i++) {
        if (concerns(i, is_write)) {
            wait = MAX(wait, limit_wait(&s->limits.limit[i], &s->buckets[i]));
        }
    }
    if (wait * NS_PER_SECOND >= WAIT_MAX_NS) {
        return WAIT_MAX_NS;
    }
    /* Rounded up, lest it be too early */
    wait_ns = wait * NS_PER_SECOND;
    return wait_ns + (wait_ns < wait * NS_PER_SECOND);
}

void throttle_state_account(ThrottleState *s, bool is_write, int64_t bytes)
{
    double requests = 1;
    int i;

    if (s->limits.iops_size && bytes > s->limits.iops_size) {
        requests = (double)bytes / s->limits.iops_size;
    }
    for (i = 0; i < THROTTLE_KINDS; i++) {
        double units = i < THROTTLE_IOPS_TOTAL ? bytes : requests;

        if (concerns(i, is_write)) {
            s->buckets[i].level += units;
            s->buckets[i].burst_level += units;
        }
    }
}
