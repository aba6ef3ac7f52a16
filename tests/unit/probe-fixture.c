/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "probe-fixture.h"

#include <check.h>
#include <string.h>

StatusCache *cache;
StatusProbe *probe;

void start_with(StatusProbeStrategy strategy, uint32_t granularity,
                StatusCacheMode mode, int64_t length)
{
    StatusCacheOptions options = {
        .length = length,
        .granularity = granularity,
        .mode = mode,
    };

    cache = status_cache_new(&options, NULL);
    probe = status_probe_new_with_ops(-1, strategy, &fake_ops);
}

void start(StatusProbeStrategy strategy)
{
    start_with(strategy, FAKE_BLOCK, STATUS_CACHE_ON, fake.size);
}

void stop(void)
{
    g_clear_pointer(&probe, status_probe_free);
    g_clear_pointer(&cache, status_cache_unref);
}

int query(int64_t offset, int64_t *pnum)
{
    return status_query(cache, probe, offset, 1, pnum, NULL);
}

const char *read_map(void)
{
    static char map[FAKE_BLOCKS + 1];
    int64_t length = status_cache_length(cache), offset, pnum;

    for (offset = 0; offset < length; offset += pnum) {
        int r = query(offset, &pnum);

        ck_assert_int_ge(r, 0);
        ck_assert_int_gt(pnum, 0);
        ck_assert_int_le(offset + pnum, length);
        ck_assert(offset + pnum == length || (offset + pnum) % FAKE_BLOCK == 0);
        memset(map + offset / FAKE_BLOCK, r == BLOCK_STATE_ZERO ? 'z' : 'd',
               (pnum + FAKE_BLOCK - 1) / FAKE_BLOCK);
    }
    map[(length + FAKE_BLOCK - 1) / FAKE_BLOCK] = 0;
    return map;
}

void check_exact(void)
{
    const char *map = read_map();
    int i;

    for (i = 0; map[i]; i++) {
        ck_assert_msg((map[i] == 'd') == (fake.map[i] == 'd'),
                      "block %d is %c but called %c", i, fake.map[i], map[i]);
    }
}

void check_no_more_calls(void)
{
    fake_count();
    read_map();
    ck_assert_int_eq(fake.calls, 0);
}

StatusCacheStats get_stats(void)
{
    StatusCacheStats stats;

    status_cache_get_stats(cache, &stats);
    return stats;
}

void start_any(int i)
{
    start(i & 1 ? STATUS_PROBE_USE_SEEK : STATUS_PROBE_USE_FIEMAP);
    if (i & 2) {
        status_probe_disable_cachestat(probe);
    }
}

void make_alternating(void)
{
    int i;

    for (i = 0; i < FAKE_BLOCKS; i += 16) {
        fake_map(i, i + 8, 'd');
    }
}
