/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Status cache: the counters. */
#include "status-cache-int.h"

const uint64_t status_cache_histogram_ns[STATUS_CACHE_HISTOGRAM - 1] = {
    5000, 10000, 20000, 50000, 100000, 250000, 1000000, 10000000, 100000000,
};

void status_cache_account_probe(StatusCache *c, const StatusCacheStats *delta)
{
    StatusCacheStats *s = &c->stats;
    int i;
    MUTEX_GUARD_SHORT(&c->lock);

    s->probes += delta->probes;
    for (i = 0; i < STATUS_PROBE_KINDS; i++) {
        s->probe_calls[i] += delta->probe_calls[i];
    }
    s->extents += delta->extents;
    s->max_extents = MAX(s->max_extents, delta->max_extents);
    s->probe_wall_ns += delta->probe_wall_ns;
    s->probe_wall_max_ns = MAX(s->probe_wall_max_ns, delta->probe_wall_max_ns);
    s->probe_cpu_ns += delta->probe_cpu_ns;
    s->probe_cpu_max_ns = MAX(s->probe_cpu_max_ns, delta->probe_cpu_max_ns);
    for (i = 0; i < STATUS_CACHE_HISTOGRAM; i++) {
        s->histogram[i] += delta->histogram[i];
    }
    s->probe_errors += delta->probe_errors;
}

/* Bytes of all blocks set in @bitmap; the last block ends with the disk. */
static uint64_t bytes_set(const StatusCache *c, const SparseBitmap *bitmap)
{
    uint64_t bytes = sparse_bitmap_count(bitmap) << c->shift;

    if (c->blocks && sparse_bitmap_test(bitmap, c->blocks - 1)) {
        bytes -= ((uint64_t)c->blocks << c->shift) - c->length;
    }
    return bytes;
}

void status_cache_get_stats(StatusCache *c, StatusCacheStats *stats)
{
    uint64_t known, zero;
    MUTEX_GUARD_SHORT(&c->lock);

    *stats = c->stats;
    stats->mode = c->mode;
    stats->distrusted = c->distrusted;
    stats->granularity = c->granularity;
    stats->length = c->length;
    known = bytes_set(c, c->known);
    zero = bytes_set(c, c->zero);
    stats->bytes_zero = zero;
    stats->bytes_data = known - zero;
    stats->bytes_unknown = c->length - known;
    stats->reads_skipped = __atomic_load_n(&c->reads_skipped, __ATOMIC_RELAXED);
    stats->bytes_not_read =
        __atomic_load_n(&c->bytes_not_read, __ATOMIC_RELAXED);
    stats->memory = status_map_memory(c);
    stats->memory_max = MAX(stats->memory_max, stats->memory);
}
