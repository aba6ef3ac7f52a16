/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Counting requests. The counters of one request are added one by one, so a
 * reader may see some of them before the others.
 */
#include "block/block-stats.h"

static void counter_add(uint64_t *counter, uint64_t n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

void request_counters_add(RequestCounters *counters, RequestKind kind,
                          int64_t bytes, int64_t time_ns, bool ok)
{
    counter_add(&counters->kinds[kind].time_ns, time_ns);
    if (ok) {
        counter_add(&counters->kinds[kind].operations, 1);
        counter_add(&counters->kinds[kind].bytes, bytes);
    } else {
        counter_add(&counters->kinds[kind].failed, 1);
    }
}

#define SUM(kind, name)                                                        \
    do {                                                                       \
        stats->name##_operations +=                                            \
            counter_get(&counters->kinds[kind].operations);                    \
        stats->failed_##name##_operations +=                                   \
            counter_get(&counters->kinds[kind].failed);                        \
        stats->name##_total_time_ns +=                                         \
            counter_get(&counters->kinds[kind].time_ns);                       \
    } while (0)

void request_counters_sum(const RequestCounters *counters, BlockStats *stats)
{
    SUM(REQ_READ, rd);
    SUM(REQ_WRITE, wr);
    SUM(REQ_FLUSH, flush);
    SUM(REQ_UNMAP, unmap);
    SUM(REQ_ZERO, zero);
    stats->rd_bytes += counter_get(&counters->kinds[REQ_READ].bytes);
    stats->wr_bytes += counter_get(&counters->kinds[REQ_WRITE].bytes);
    stats->unmap_bytes += counter_get(&counters->kinds[REQ_UNMAP].bytes);
    stats->zero_bytes += counter_get(&counters->kinds[REQ_ZERO].bytes);
}
