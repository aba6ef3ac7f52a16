/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Counting requests: any thread, no lock. Private to the block layer. */
#ifndef BLOCK_BLOCK_STATS_H
#define BLOCK_BLOCK_STATS_H

#include "block/block.h"

typedef enum RequestKind {
    REQ_READ,
    REQ_WRITE,
    REQ_FLUSH,
    REQ_UNMAP,
    REQ_ZERO,
    REQ_KINDS,
} RequestKind;

/* All atomic */
typedef struct RequestCounters {
    struct {
        uint64_t operations, bytes, failed, time_ns;
    } kinds[REQ_KINDS];
} RequestCounters;

static inline uint64_t counter_get(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* Raise a counter that holds a maximum. */
static inline void counter_max(uint64_t *counter, uint64_t value)
{
    uint64_t old = counter_get(counter);

    while (old < value &&
           !__atomic_compare_exchange_n(counter, &old, value, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

/* One request has ended. The bytes of those that failed do not count. */
void request_counters_add(RequestCounters *counters, RequestKind kind,
                          int64_t bytes, int64_t time_ns, bool ok);
/* Add to @stats what was counted. */
void request_counters_sum(const RequestCounters *counters, BlockStats *stats);

#endif
