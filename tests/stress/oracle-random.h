/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pseudo-random numbers (xorshift64*), the same for the same seed anywhere. */
#ifndef TESTS_ORACLE_RANDOM_H
#define TESTS_ORACLE_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct Random {
    uint64_t state;
} Random;

static inline uint64_t random_next(Random *r)
{
    r->state ^= r->state >> 12;
    r->state ^= r->state << 25;
    r->state ^= r->state >> 27;
    return r->state * UINT64_C(0x2545f4914f6cdd1d);
}

static inline void random_seed(Random *r, uint64_t seed)
{
    /* never zero, and different for seeds that are near each other */
    r->state =
        seed * UINT64_C(0x9e3779b97f4a7c15) + UINT64_C(0xd1b54a32d192ed03);
    if (r->state == 0) {
        r->state = 1;
    }
    random_next(r);
    random_next(r);
}

/* [0, @end) */
static inline int64_t random_below(Random *r, int64_t end)
{
    return (random_next(r) >> 11) % end;
}

static inline bool random_one_in(Random *r, int n)
{
    return random_below(r, n) == 0;
}

#endif
