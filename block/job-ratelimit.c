/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rate limit of jobs. Debts are kept in bytes times microseconds per
 * second, so that no fraction of a byte is lost however often one looks.
 */
#include "block/job-int.h"

/* Ages; still far enough from overflow to be added to a time */
#define RATE_LIMIT_MAX_DELAY (UINT64_MAX / 8)

static void pay(RateLimit *limit, int64_t now_us)
{
    uint64_t elapsed = MAX(now_us - limit->last_us, 0);

    limit->last_us = now_us;
    if (limit->speed == 0 || elapsed > limit->debt / limit->speed) {
        limit->debt = 0;
    } else {
        limit->debt -= elapsed * limit->speed;
    }
}

void rate_limit_set_speed(RateLimit *limit, int64_t speed, int64_t now_us)
{
    g_assert(speed >= 0);
    pay(limit, now_us);
    limit->speed = speed;
    if (speed == 0) {
        limit->debt = 0;
    }
}

int64_t rate_limit_delay(RateLimit *limit, int64_t now_us)
{
    pay(limit, now_us);
    if (limit->debt == 0) {
        return 0;
    }
    return MIN((limit->debt - 1) / limit->speed + 1, RATE_LIMIT_MAX_DELAY);
}

void rate_limit_charge(RateLimit *limit, uint64_t bytes, int64_t now_us)
{
    g_assert(bytes <= RATE_LIMIT_MAX_CHARGE);
    pay(limit, now_us);
    if (limit->speed == 0) {
        return;
    }
    if (limit->debt > UINT64_MAX - bytes * G_USEC_PER_SEC) {
        limit->debt = UINT64_MAX;
    } else {
        limit->debt += bytes * G_USEC_PER_SEC;
    }
}
