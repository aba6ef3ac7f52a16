/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rules of the status cache for the disk as a whole: its size, failed flushes,
 * who else writes, and the limit of memory; and look-ups. See test-status-cache.c.
 */
#include "status-cache-fixture.h"

/* ---- rule 5 -------------------------------------------------------------- */

/* Rule 5: a write beyond the end has ended, while others that reach further are
 * under way. */
START_TEST(growth_keeps_what_lies_beyond)
{
    StatusOp far, near;

    status_cache_write_begin(cache, &far, LEN + 8 * B, B);
    status_cache_write_begin(cache, &near, LEN + B, B);
    status_cache_write_end(cache, &near, true);
    status_cache_grow(cache, LEN + 2 * B);
    ck_assert_int_eq(status_cache_length(cache), LEN + 9 * B);
    assert_data(LEN + 8 * B);
    status_cache_write_end(cache, &far, true);
    status_cache_grow(cache, LEN + 9 * B);
    assert_data(LEN + 8 * B);
    assert_unknown(LEN + 2 * B);
    status_cache_grow(cache, LEN + 10 * B + 1);
    ck_assert_int_eq(status_cache_length(cache), LEN + 10 * B + 1);
}
END_TEST

START_TEST(resize_drops_what_lies_beyond)
{
    do_write(0, LEN);
    status_cache_resize(cache, 4 * B);
    status_cache_resize(cache, LEN);
    assert_data(3 * B);
    assert_unknown(4 * B);
    assert_unknown(63 * B);
}
END_TEST

START_TEST(last_block_is_covered_up_to_the_end)
{
    status_cache_resize(cache, 3 * B + 100);
    do_zero(2 * B, B + 99);
    assert_zero(2 * B);
    assert_unknown(3 * B);
    do_zero(3 * B, 100);
    assert_zero(3 * B);
}
END_TEST

START_TEST(growth_joins_unknown_bytes_to_the_last_block)
{
    StatusOp p;

    status_cache_resize(cache, 3 * B + 100);
    do_zero(2 * B, B + 100);
    assert_zero(3 * B);
    status_cache_resize(cache, 4 * B);
    assert_zero(2 * B);
    assert_unknown(3 * B);

    status_cache_resize(cache, 3 * B + 100);
    do_zero(3 * B, 100);
    do_write(5 * B, 10);
    assert_unknown(3 * B);

    status_cache_resize(cache, 3 * B + 100);
    status_cache_probe_begin(cache, &p, 0, 3 * B + 100);
    status_cache_set_looked(cache, &p, 3 * B, 100);
    status_cache_probe_end(cache, &p);
    ck_assert(looked(3 * B));
    status_cache_resize(cache, 4 * B);
    ck_assert(!looked(3 * B));

    status_cache_resize(cache, 3 * B + 100);
    do_write(3 * B, 100);
    status_cache_resize(cache, 4 * B);
    assert_data(3 * B);
}
END_TEST

START_TEST(end_is_the_end_when_the_zero_ends)
{
    StatusOp z;

    status_cache_resize(cache, 3 * B + 100);
    status_cache_zero_begin(cache, &z, 0, 3 * B + 100, false);
    do_write(3 * B + 200, 100); /* grows the disk */
    status_cache_zero_end(cache, &z, true);
    assert_zero(2 * B);
    ck_assert_int_ne(at(3 * B), BLOCK_STATE_ZERO);
}
END_TEST

START_TEST(write_past_the_end_grows)
{
    do_write(LEN + B, 10);
    ck_assert_int_eq(status_cache_length(cache), LEN + B + 10);
    assert_unknown(LEN);
    assert_data(LEN + B);
}
END_TEST

START_TEST(ops_in_flight_survive_a_shrink)
{
    StatusOp w, z, d, p;

    status_cache_write_begin(cache, &w, 40 * B, 20 * B);
    status_cache_zero_begin(cache, &z, 10 * B, 20 * B, false);
    status_cache_discard_begin(cache, &d, 30 * B, 5 * B);
    status_cache_probe_begin(cache, &p, 0, LEN);
    status_cache_resize(cache, 15 * B);
    do_fill(&p, 10 * B, 20 * B, BLOCK_STATE_ZERO);
    do_fill(&p, 20 * B, B, BLOCK_STATE_DATA);
    status_cache_probe_end(cache, &p);
    status_cache_discard_end(cache, &d);
    status_cache_zero_end(cache, &z, true);
    status_cache_write_end(cache, &w, false);
    assert_zero(14 * B);
    status_cache_resize(cache, LEN);
    assert_unknown(15 * B);
    assert_unknown(45 * B);
}
END_TEST

/* ---- rules 6, 7, 8 ------------------------------------------------------- */

START_TEST(failed_flush_forgets_zeroes)
{
    StatusOp p;

    do_zero(0, 4 * B);
    do_write(8 * B, B);
    status_cache_probe_begin(cache, &p, 10 * B, B);
    status_cache_flush_failed(cache);
    do_fill(&p, 10 * B, B, BLOCK_STATE_ZERO);
    status_cache_probe_end(cache, &p);
    assert_unknown(0);
    assert_data(8 * B);
    assert_unknown(10 * B);
}
END_TEST

START_TEST(failed_flush_taints_zero_in_flight)
{
    StatusOp z;

    status_cache_zero_begin(cache, &z, 0, 4 * B, false);
    /* zeroed, in part by way of pages; the flush loses them */
    status_cache_flush_failed(cache);
    status_cache_zero_end(cache, &z, true);
    assert_unknown(0);
    do_zero(0, B); /* what begins later is told as ever */
    assert_zero(0);
}
END_TEST

START_TEST(data_only_keeps_no_zero)
{
    do_zero(0, 4 * B);
    do_write(8 * B, 2 * B);
    status_cache_set_mode(cache, STATUS_CACHE_DATA_ONLY);
    assert_unknown(0);
    assert_data(8 * B);
    do_zero(8 * B, B);
    assert_unknown(8 * B);
    assert_data(9 * B);
    ck_assert_int_eq(do_probe(20 * B, B, BLOCK_STATE_ZERO), BLOCK_STATE_ZERO);
    assert_unknown(20 * B);
    do_probe(21 * B, B, BLOCK_STATE_DATA);
    assert_data(21 * B);
}
END_TEST

START_TEST(probe_across_a_mode_change_proves_nothing)
{
    StatusOp p;

    status_cache_set_mode(cache, STATUS_CACHE_DATA_ONLY);
    status_cache_probe_begin(cache, &p, 0, 4 * B); /* looks: a hole */
    /* the other writer writes, and goes away */
    status_cache_set_mode(cache, STATUS_CACHE_ON);
    do_fill(&p, 0, 4 * B, BLOCK_STATE_ZERO);
    status_cache_probe_end(cache, &p);
    assert_unknown(0);
}
END_TEST

START_TEST(zero_across_a_mode_change_proves_nothing)
{
    StatusOp z;

    status_cache_set_mode(cache, STATUS_CACHE_DATA_ONLY);
    status_cache_zero_begin(cache, &z, 0, 4 * B, false);
    /* the other writer writes over what is zeroed already, and goes away */
    status_cache_set_mode(cache, STATUS_CACHE_ON);
    status_cache_zero_end(cache, &z, true);
    assert_unknown(0);
}
END_TEST

START_TEST(many_zero_runs_are_forgotten_too)
{
    int64_t i, n = 20000;

    status_cache_unref(cache);
    cache = new_cache(n * B, 0, STATUS_CACHE_ON);
    for (i = 0; i < n; i += 2) {
        do_zero(i * B, B);
    }
    status_cache_set_mode(cache, STATUS_CACHE_DATA_ONLY);
    for (i = 0; i < n; i++) {
        ck_assert_int_ne(at(i * B), BLOCK_STATE_ZERO);
    }
}
END_TEST

START_TEST(off_remembers_nothing)
{
    status_cache_set_mode(cache, STATUS_CACHE_OFF);
    do_write(0, B);
    do_zero(B, B);
    do_probe(2 * B, B, BLOCK_STATE_DATA);
    assert_unknown(0);
    assert_unknown(B);
    assert_unknown(2 * B);
}
END_TEST

START_TEST(memory_limit_is_kept)
{
    StatusCacheStats s;
    uint64_t limit = 64 * KIB;
    int64_t length = 1024 * 1024 * B, i;

    status_cache_unref(cache);
    cache = new_cache(length, limit, STATUS_CACHE_ON);
    for (i = 0; i < length; i += 4 * B) {
        do_write(i, B);
        do_zero(i + 2 * B, B);
    }
    status_cache_get_stats(cache, &s);
    ck_assert_uint_le(s.memory, limit);
    /* one operation may add a path of nodes before something is evicted */
    ck_assert_uint_le(s.memory_max, limit + 16 * KIB);
    ck_assert_uint_gt(s.evictions, 100);
    ck_assert_uint_gt(s.bytes_zero, 0);
    ck_assert_uint_gt(s.bytes_unknown, 0);
    /* what it still says must be true */
    for (i = 0; i < length; i += 4 * B) {
        ck_assert_int_ne(at(i), BLOCK_STATE_ZERO);
        ck_assert_int_ne(at(i + 2 * B), BLOCK_STATE_DATA);
    }
}
END_TEST

/* ---- answers, statistics, options --------------------------------------- */

/* What a leaf of the bitmaps stands for */
#define LEAF (4096 * B)

/* Odd blocks of data in two leaves, one of which needs words; and a page look */
static uint64_t fill_two_leaves(uint64_t limit)
{
    StatusCacheStats s;
    StatusOp p;

    status_cache_unref(cache);
    cache = new_cache(64 * LEAF, limit, STATUS_CACHE_ON);
    do_write(B, B);
    do_write(3 * B, B);
    do_write(LEAF + 3 * B, B);
    status_cache_probe_begin(cache, &p, 8 * LEAF, LEAF);
    status_cache_set_looked(cache, &p, 8 * LEAF, B);
    status_cache_probe_end(cache, &p);
    status_cache_get_stats(cache, &s);
    return s.memory;
}

/* Long parts that are all alike have no leaves, but the nodes above them */
START_TEST(memory_limit_counts_inner_nodes)
{
    const uint64_t limit = 16 * KIB;
    StatusCacheStats s;
    int64_t i;

    status_cache_unref(cache);
    cache = new_cache(64 * 64 * LEAF, limit, STATUS_CACHE_ON);
    for (i = 0; i < 64 * 64; i += 2) {
        do_zero(i * LEAF, LEAF);
        do_write((i + 1) * LEAF, LEAF);
    }
    status_cache_get_stats(cache, &s);
    ck_assert_uint_le(s.memory, limit);
    ck_assert_uint_gt(s.evictions, 0);
    /* one that is all alike stays, whatever the limit */
    status_cache_unref(cache);
    cache = new_cache(64 * 64 * LEAF, 1, STATUS_CACHE_ON);
    do_zero(0, 64 * 64 * LEAF);
    ck_assert_int_eq(at(LEAF), BLOCK_STATE_ZERO);
    do_write(LEAF, LEAF);
    assert_unknown(0);
}
END_TEST

START_TEST(what_is_given_back_evicts_nothing)
{
    uint64_t limit = fill_two_leaves(0);
    StatusCacheStats s;

    ck_assert_uint_eq(fill_two_leaves(limit), limit);
    /* detaches a leaf and needs one: never more than the limit in use */
    do_write(0, LEAF + B);
    status_cache_get_stats(cache, &s);
    ck_assert_uint_eq(s.memory, limit);
    ck_assert_uint_eq(s.evictions, 0);
    ck_assert(looked(8 * LEAF));
    do_write(2 * LEAF, B);
    do_write(2 * LEAF + 2 * B, B); /* one more */
    ck_assert(!looked(8 * LEAF));
}
END_TEST

START_TEST(lookup_tells_how_far)
{
    int64_t pnum;
    StatusCacheStats s;

    do_write(0, 4 * B);
    do_zero(4 * B, 4 * B);
    ck_assert_int_eq(status_cache_lookup(cache, 100, LEN - 100, &pnum),
                     BLOCK_STATE_DATA);
    ck_assert_int_eq(pnum, 4 * B - 100);
    ck_assert_int_eq(status_cache_lookup(cache, 4 * B, B, &pnum),
                     BLOCK_STATE_ZERO);
    ck_assert_int_eq(pnum, B);
    ck_assert_int_eq(status_cache_lookup(cache, 8 * B, LEN, &pnum),
                     BLOCK_STATE_UNKNOWN);
    ck_assert_int_eq(pnum, LEN - 8 * B);
    status_cache_get_stats(cache, &s);
    ck_assert_uint_eq(s.lookups, 3);
    ck_assert_uint_eq(s.hits, 2);
    ck_assert_uint_eq(s.misses, 1);
    ck_assert_uint_eq(s.bytes_data, 4 * B);
    ck_assert_uint_eq(s.bytes_zero, 4 * B);
    ck_assert_uint_eq(s.bytes_unknown, LEN - 8 * B);
    ck_assert_uint_eq(s.learned_writes, 4 * B);
    ck_assert_uint_eq(s.learned_zeroes, 4 * B);
}
END_TEST

START_TEST(bytes_end_with_the_disk)
{
    StatusCacheStats s;

    status_cache_resize(cache, 2 * B + 5);
    do_zero(0, 2 * B + 5);
    status_cache_get_stats(cache, &s);
    ck_assert_uint_eq(s.bytes_zero, 2 * B + 5);
    ck_assert_uint_eq(s.bytes_data, 0);
    ck_assert_uint_eq(s.bytes_unknown, 0);
    do_write(2 * B, 1);
    status_cache_get_stats(cache, &s);
    ck_assert_uint_eq(s.bytes_zero, 2 * B);
    ck_assert_uint_eq(s.bytes_data, 5);
}
END_TEST

START_TEST(largest_disk)
{
    int64_t pnum;
    StatusCacheOptions o = {
        .length = INT64_MAX,
        .granularity = 512,
        .mode = STATUS_CACHE_ON,
    };

    status_cache_unref(cache);
    cache = status_cache_new(&o, NULL);
    do_zero(0, INT64_MAX);
    do_write(INT64_MAX - 1, 1);
    assert_zero(INT64_MAX - 600);
    assert_data(INT64_MAX - 1);
    ck_assert_int_eq(status_cache_lookup(cache, 0, INT64_MAX, &pnum),
                     BLOCK_STATE_ZERO);
    ck_assert_int_eq(pnum, INT64_MAX - 511);
}
END_TEST

START_TEST(bad_options_are_refused)
{
    StatusCacheOptions o = { .length = LEN, .granularity = 4096 };
    uint32_t bad[] = { 0, 256, 513, 12288, 1u << 31 };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(bad); i++) {
        GError *err = NULL;

        o.granularity = bad[i];
        ck_assert_ptr_null(status_cache_new(&o, &err));
        ck_assert_ptr_nonnull(err);
        ck_assert_ptr_nonnull(strstr(err->message, "power of two"));
        g_error_free(err);
    }
    o.granularity = 4096;
    o.length = -1;
    ck_assert_ptr_null(status_cache_new(&o, NULL));
}
END_TEST

START_TEST(empty_requests_are_harmless)
{
    StatusOp op;

    do_zero(0, LEN);
    do_write(B, 0);
    status_cache_probe_begin(cache, &op, B, 0);
    status_cache_probe_end(cache, &op);
    status_cache_discard_begin(cache, &op, 5 * B, 0);
    status_cache_discard_end(cache, &op);
    assert_zero(B);
    assert_zero(5 * B);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("status-cache-disk");
    TCase *tc = tcase_create("rules");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, growth_keeps_what_lies_beyond);
    tcase_add_test(tc, resize_drops_what_lies_beyond);
    tcase_add_test(tc, last_block_is_covered_up_to_the_end);
    tcase_add_test(tc, growth_joins_unknown_bytes_to_the_last_block);
    tcase_add_test(tc, end_is_the_end_when_the_zero_ends);
    tcase_add_test(tc, write_past_the_end_grows);
    tcase_add_test(tc, ops_in_flight_survive_a_shrink);
    tcase_add_test(tc, failed_flush_forgets_zeroes);
    tcase_add_test(tc, failed_flush_taints_zero_in_flight);
    tcase_add_test(tc, data_only_keeps_no_zero);
    tcase_add_test(tc, probe_across_a_mode_change_proves_nothing);
    tcase_add_test(tc, zero_across_a_mode_change_proves_nothing);
    tcase_add_test(tc, many_zero_runs_are_forgotten_too);
    tcase_add_test(tc, off_remembers_nothing);
    tcase_add_test(tc, memory_limit_is_kept);
    tcase_add_test(tc, memory_limit_counts_inner_nodes);
    tcase_add_test(tc, what_is_given_back_evicts_nothing);
    tcase_add_test(tc, lookup_tells_how_far);
    tcase_add_test(tc, bytes_end_with_the_disk);
    tcase_add_test(tc, largest_disk);
    tcase_add_test(tc, bad_options_are_refused);
    tcase_add_test(tc, empty_requests_are_harmless);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
