/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the status cache costs: memory of its bitmaps for an all-data and for a
 * worst-case disk, and nanoseconds per operation. Prints one JSON object.
 *
 * usage: bench-status-cache [DISK-SIZE-IN-GIB [GRANULARITY]]   (1024, 4096)
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "block/status-cache.h"

#define GIB (INT64_C(1) << 30)

static double now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1e9 + ts.tv_nsec;
}

static StatusCache *new_cache(int64_t length, uint32_t granularity)
{
    StatusCacheOptions options = {
        .length = length,
        .granularity = granularity,
        .mode = STATUS_CACHE_ON,
    };

    return status_cache_new(&options, NULL);
}

static uint64_t memory(StatusCache *cache)
{
    StatusCacheStats stats;

    status_cache_get_stats(cache, &stats);
    return stats.memory;
}

static void write_range(StatusCache *cache, int64_t offset, int64_t bytes)
{
    StatusOp op;

    status_cache_write_begin(cache, &op, offset, bytes);
    status_cache_write_end(cache, &op, true);
}

/* Nanoseconds of one look-up, at random offsets of a disk as it is */
static double time_lookups(StatusCache *cache, int64_t bytes)
{
    int64_t blocks = status_cache_length(cache) / bytes, pnum, i, n = 2000000;
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    g_autofree int64_t *at = g_new(int64_t, 4096);
    double start;

    for (i = 0; i < 4096; i++) {
        at[i] = (int64_t)(g_rand_double(rand) * blocks) * bytes;
    }
    start = now_ns();
    for (i = 0; i < n; i++) {
        status_cache_lookup(cache, at[i % 4096], bytes, &pnum);
    }
    return (now_ns() - start) / n;
}

static void zero_every_other(StatusCache *cache)
{
    int64_t granularity = status_cache_granularity(cache), offset;
    int64_t length = status_cache_length(cache);
    StatusOp op;

    for (offset = 0; offset < length; offset += 2 * granularity) {
        status_cache_zero_begin(cache, &op, offset, granularity, false);
        status_cache_zero_end(cache, &op, true);
    }
}

int main(int argc, char **argv)
{
    int64_t length = (argc > 1 ? atoll(argv[1]) : 1024) * GIB;
    int64_t granularity = argc > 2 ? atoll(argv[2]) : 4096;
    int64_t offset, n = length / granularity;
    StatusCache *cache = new_cache(length, granularity);
    double start, begin_end, fill;
    double uniform_lookup, alternating_lookup, long_lookup;
    uint64_t empty = memory(cache), all_data, alternating;

    write_range(cache, 0, length);
    all_data = memory(cache);
    uniform_lookup = time_lookups(cache, granularity);
    start = now_ns();
    for (offset = 0; offset < 1000000; offset++) {
        write_range(cache, offset % n * granularity, granularity);
    }
    begin_end = (now_ns() - start) / 1000000;

    start = now_ns();
    zero_every_other(cache);
    fill = (now_ns() - start) / (n / 2);

    alternating = memory(cache);
    alternating_lookup = time_lookups(cache, granularity);
    long_lookup = time_lookups(cache, MAX(granularity, INT64_C(1) << 20));

    status_cache_flush(cache);
    zero_every_other(cache);
    printf("{\"length\": %" PRId64 ", \"granularity\": %" PRId64
           ", \"memory\": {\"empty\": %" PRIu64 ", \"all-data\": %" PRIu64
           ", \"data-zero-alternating\": %" PRIu64
           ", \"unknown-zero-alternating\": %" PRIu64
           "}, \"ns\": {\"write\": %.1f, \"zero-write-alternating\": %.1f, "
           "\"lookup-uniform\": %.1f, \"lookup-alternating\": %.1f, "
           "\"lookup-1MiB-alternating\": %.1f}}\n",
           length, granularity, empty, all_data, alternating, memory(cache),
           begin_end, fill, uniform_lookup, alternating_lookup, long_lookup);
    status_cache_unref(cache);
    return 0;
}
