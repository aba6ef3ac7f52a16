/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of the status cache's rules have in common: a cache of 64 blocks, and
 * whole requests in a line */
#ifndef TESTS_UNIT_STATUS_CACHE_FIXTURE_H
#define TESTS_UNIT_STATUS_CACHE_FIXTURE_H

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "block/status-cache.h"
#include "unit-main.h"

#define KIB INT64_C(1024)
#define B (4 * KIB) /* a block */
#define LEN (64 * B)

static StatusCache *cache;

static inline StatusCache *new_cache(int64_t length, uint64_t max_memory,
                                     StatusCacheMode mode)
{
    StatusCacheOptions o = {
        .length = length,
        .granularity = B,
        .max_memory = max_memory,
        .mode = mode,
    };
    GError *err = NULL;
    StatusCache *c = status_cache_new(&o, &err);

    ck_assert_ptr_nonnull(c);
    ck_assert_ptr_null(err);
    return c;
}

static inline void setup(void)
{
    cache = new_cache(LEN, 0, STATUS_CACHE_ON);
}

static inline void teardown(void)
{
    status_cache_unref(cache);
}

static inline BlockState at(int64_t offset)
{
    int64_t pnum;

    return status_cache_peek(cache, offset, 1, &pnum);
}

#define assert_unknown(offset) ck_assert_int_eq(at(offset), BLOCK_STATE_UNKNOWN)
#define assert_data(offset) ck_assert_int_eq(at(offset), BLOCK_STATE_DATA)
#define assert_zero(offset) ck_assert_int_eq(at(offset), BLOCK_STATE_ZERO)

static inline void do_write(int64_t offset, int64_t bytes)
{
    StatusOp op;

    status_cache_write_begin(cache, &op, offset, bytes);
    status_cache_write_end(cache, &op, true);
}

static inline void do_zero(int64_t offset, int64_t bytes)
{
    StatusOp op;

    status_cache_zero_begin(cache, &op, offset, bytes, false);
    status_cache_zero_end(cache, &op, true);
}

static inline BlockState do_fill(StatusOp *op, int64_t offset, int64_t bytes,
                                 BlockState state)
{
    int64_t pnum;
    BlockState told =
        status_cache_probe_fill(cache, op, offset, bytes, state, &pnum);

    ck_assert_int_gt(pnum, 0);
    ck_assert_int_le(pnum, bytes);
    return told;
}

static inline BlockState do_probe(int64_t offset, int64_t bytes,
                                  BlockState state)
{
    StatusOp op;
    BlockState told;

    status_cache_probe_begin(cache, &op, offset, bytes);
    told = do_fill(&op, offset, bytes, state);
    status_cache_probe_end(cache, &op);
    return told;
}

static inline bool looked(int64_t offset)
{
    int64_t pnum;

    return status_cache_has_looked(cache, offset, 1, &pnum);
}

#endif
