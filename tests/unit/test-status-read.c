/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads and the status cache (block/status-cache-read.c): what is left out of a
 * read, and what a read may teach, with the race that each taint is there for.
 */
#include <check.h>
#include <stdlib.h>

#include "block/status-cache.h"
#include "unit-main.h"

#define B INT64_C(4096) /* a block */
#define LEN (64 * B)

static StatusCache *cache;

static StatusCache *new_cache(int64_t length)
{
    StatusCacheOptions o = { .length = length,
                             .granularity = B,
                             .mode = STATUS_CACHE_ON };

    return status_cache_new(&o, NULL);
}

static void setup(void)
{
    cache = new_cache(LEN);
}

static void teardown(void)
{
    status_cache_unref(cache);
}

static BlockState at(int64_t offset)
{
    int64_t pnum;

    return status_cache_peek(cache, offset, 1, &pnum);
}

#define assert_unknown(offset) ck_assert_int_eq(at(offset), BLOCK_STATE_UNKNOWN)
#define assert_data(offset) ck_assert_int_eq(at(offset), BLOCK_STATE_DATA)
#define assert_zero(offset) ck_assert_int_eq(at(offset), BLOCK_STATE_ZERO)

static void do_write(int64_t offset, int64_t bytes)
{
    StatusOp op;

    status_cache_write_begin(cache, &op, offset, bytes);
    status_cache_write_end(cache, &op, true);
}

static void do_zero(int64_t offset, int64_t bytes)
{
    StatusOp op;

    status_cache_zero_begin(cache, &op, offset, bytes, false);
    status_cache_zero_end(cache, &op, true);
}

static StatusCacheStats stats(void)
{
    StatusCacheStats s;

    status_cache_get_stats(cache, &s);
    return s;
}

/* ---- what is left out --------------------------------------------------- */

/* What is left out of a read, as "start-end" in bytes */
static void check_cuts(int64_t offset, int64_t bytes, StatusCutLimits limits,
                       const char *want)
{
    g_autoptr(GString) got = g_string_new(NULL);
    StatusCut cuts[8];
    int n = status_cache_cut_read(cache, offset, bytes, &limits, cuts, 8);

    for (int i = 0; i < n; i++) {
        g_string_append_printf(got, "%s%d-%d", i ? " " : "", (int)cuts[i].start,
                               (int)cuts[i].end);
    }
    ck_assert_str_eq(got->str, want);
}

#define ANY ((StatusCutLimits){ 1, 1, 1 })

START_TEST(nothing_is_left_out_of_what_is_not_known)
{
    check_cuts(0, LEN, ANY, "");
    do_write(0, LEN);
    check_cuts(0, LEN, ANY, "");
}
END_TEST

START_TEST(zeroes_are_left_out)
{
    do_write(0, LEN);
    do_zero(2 * B, 4 * B);
    do_zero(8 * B, B);
    check_cuts(0, LEN, ANY, "8192-24576 32768-36864");
    check_cuts(3 * B + 5, 10, ANY, "12293-12303");
    check_cuts(B, B, ANY, "");
    check_cuts(B + 1, B, ANY, "8192-8193");
    check_cuts(5 * B + 1, B, ANY, "20481-24576");
    check_cuts(6 * B, 2 * B, ANY, "");
}
END_TEST

START_TEST(short_runs_are_read)
{
    StatusCutLimits inner = { 1, 1, 2 * B }, both = { 1, 2 * B, 2 * B };

    do_write(0, LEN);
    do_zero(0, B);
    do_zero(2 * B, 2 * B);
    do_zero(6 * B, 2 * B - 1);
    do_zero(9 * B, B);
    /* in the middle from two blocks on; at the ends what there is */
    check_cuts(0, 10 * B, inner, "0-4096 8192-16384 36864-40960");
    check_cuts(0, 10 * B, both, "8192-16384");
    /* the whole of it, short as it is */
    check_cuts(9 * B + 7, 9, both, "36871-36880");
}
END_TEST

START_TEST(cuts_are_aligned_but_at_the_ends)
{
    StatusCutLimits limits = { 4 * B, 1, 1 };

    do_write(0, LEN);
    do_zero(5 * B, 8 * B);
    check_cuts(0, LEN, limits, "32768-49152");
    check_cuts(6 * B, 6 * B, limits, "24576-49152");
    check_cuts(6 * B, 20 * B, limits, "24576-49152");
    check_cuts(0, 10 * B, limits, "32768-40960");
    do_write(8 * B, B);
    check_cuts(0, 11 * B, limits, "");
}
END_TEST

/* A read may go beyond the end of the disk; there are zeroes, too. */
START_TEST(cuts_reach_beyond_the_end)
{
    status_cache_unref(cache);
    cache = new_cache(LEN - 100);
    do_zero(LEN - 2 * B, 2 * B - 100);
    check_cuts(LEN - 4 * B, 4 * B, (StatusCutLimits){ B, 1, 1 },
               "253952-262144");
    check_cuts(LEN - 50, 10, ANY, "262094-262104");
    check_cuts(LEN, B, ANY, "");
    do_write(LEN - B, 1);
    check_cuts(LEN - 4 * B, 4 * B, ANY, "253952-258048");
}
END_TEST

/* The time and the pieces are bounded: what comes after is read. */
START_TEST(cuts_are_few)
{
    StatusCut cuts[3];
    int n;

    do_write(0, LEN);
    for (int i = 1; i < 64; i += 2) {
        do_zero(i * B, B);
    }
    n = status_cache_cut_read(cache, 0, LEN, &ANY, cuts, 3);
    ck_assert_int_eq(n, 3);
    ck_assert_int_eq(cuts[2].end, 6 * B);
    status_cache_unref(cache);
    cache = new_cache(1024 * B);
    do_write(0, 1024 * B);
    for (int i = 1; i < 400; i += 2) {
        do_zero(i * B, B);
    }
    do_zero(500 * B, 100 * B);
    check_cuts(0, 1024 * B, (StatusCutLimits){ 1, 1, 2 * B }, "");
    check_cuts(300 * B, 724 * B, (StatusCutLimits){ 1, 1, 2 * B },
               "2048000-2457600");
}
END_TEST

START_TEST(nothing_is_left_out_while_others_write)
{
    do_zero(0, LEN);
    status_cache_set_mode(cache, STATUS_CACHE_DATA_ONLY);
    check_cuts(0, LEN, ANY, "");
    do_zero(0, LEN);
    check_cuts(0, LEN, ANY, "");
}
END_TEST

/* From its beginning on, no read takes what a write covers for zero. */
START_TEST(a_write_is_seen_by_reads)
{
    StatusOp w;

    do_zero(0, LEN);
    status_cache_write_begin(cache, &w, 3 * B + 7, 1);
    check_cuts(0, 5 * B, ANY, "0-12288 16384-20480");
    status_cache_write_end(cache, &w, true);
    check_cuts(0, 5 * B, ANY, "0-12288 16384-20480");
}
END_TEST

START_TEST(cuts_are_counted)
{
    status_cache_account_cut(cache, 5);
    status_cache_account_cut(cache, B);
    ck_assert_uint_eq(stats().reads_skipped, 2);
    ck_assert_uint_eq(stats().bytes_not_read, B + 5);
    ck_assert_uint_eq(stats().lookups, 0);
}
END_TEST

/* ---- what reads teach --------------------------------------------------- */

static StatusOp r; /* the read under test */

static void begin(int64_t offset, int64_t bytes)
{
    ck_assert(status_cache_read_begin(cache, &r, offset, bytes));
}

/* It has found zeroes only. */
static void end(void)
{
    status_cache_read_fill(cache, &r, r.offset, r.bytes);
    status_cache_read_end(cache, &r);
}

START_TEST(a_read_teaches)
{
    do_write(4 * B, B);
    begin(0, 8 * B);
    end();
    assert_zero(0);
    assert_zero(4 * B);
    assert_zero(7 * B);
    assert_unknown(8 * B);
    ck_assert_uint_eq(stats().learned_reads, 8 * B);
    /* there is nothing more to learn there */
    ck_assert(!status_cache_read_begin(cache, &r, 0, 8 * B));
    begin(7 * B, 2 * B);
    end();
    ck_assert_uint_eq(stats().learned_reads, 9 * B);
}
END_TEST

START_TEST(a_read_teaches_what_it_covers_whole)
{
    begin(1, 3 * B);
    end();
    assert_unknown(0);
    assert_zero(B);
    assert_zero(2 * B);
    assert_unknown(3 * B);
    ck_assert(!status_cache_read_begin(cache, &r, 8 * B, B - 1));
    ck_assert(!status_cache_read_begin(cache, &r, 8 * B + 1, B));
}
END_TEST

START_TEST(a_read_teaches_only_what_was_zero)
{
    begin(0, 8 * B);
    status_cache_read_fill(cache, &r, 2 * B + 1, 3 * B);
    status_cache_read_end(cache, &r);
    assert_unknown(0);
    assert_unknown(2 * B);
    assert_zero(3 * B);
    assert_zero(4 * B);
    assert_unknown(5 * B);
}
END_TEST

/* The last block is covered by what reaches the end of the disk, and beyond. */
START_TEST(a_read_teaches_the_end)
{
    status_cache_unref(cache);
    cache = new_cache(LEN - 100);
    begin(LEN - B, B);
    end();
    assert_zero(LEN - B);
    ck_assert_uint_eq(stats().learned_reads, B - 100);
    ck_assert(!status_cache_read_begin(cache, &r, LEN, B));
}
END_TEST

/* It has read before the write, or pages that the write had not reached. */
START_TEST(a_write_in_flight_taints_at_the_beginning)
{
    StatusOp w;

    status_cache_write_begin(cache, &w, 2 * B, B);
    begin(0, 4 * B);
    status_cache_write_end(cache, &w, true);
    end();
    assert_zero(B);
    assert_data(2 * B);
    assert_zero(3 * B);
}
END_TEST

/* Before and after it the block is data: only the taint tells. */
START_TEST(a_write_during_the_read_taints)
{
    do_write(0, 4 * B);
    begin(0, 4 * B);
    do_write(2 * B, B);
    end();
    assert_zero(B);
    assert_data(2 * B);
    assert_zero(3 * B);
}
END_TEST

START_TEST(a_write_that_goes_on_taints)
{
    StatusOp w;

    begin(0, 4 * B);
    status_cache_write_begin(cache, &w, 2 * B, 1);
    end();
    assert_data(2 * B);
    assert_zero(3 * B);
    status_cache_write_end(cache, &w, true);
    assert_data(2 * B);
}
END_TEST

START_TEST(a_failed_write_taints)
{
    StatusOp w;

    begin(0, 4 * B);
    status_cache_write_begin(cache, &w, 2 * B, B);
    status_cache_write_end(cache, &w, false);
    end();
    assert_zero(B);
    assert_unknown(2 * B);
}
END_TEST

START_TEST(a_zero_write_taints)
{
    StatusOp z;

    do_write(0, 8 * B);
    begin(0, 4 * B);
    status_cache_zero_begin(cache, &z, 2 * B, B, false);
    status_cache_zero_end(cache, &z, false);
    end();
    assert_zero(B);
    assert_data(2 * B);

    status_cache_zero_begin(cache, &z, 4 * B, B, true);
    begin(4 * B, 4 * B);
    end();
    assert_data(4 * B);
    assert_zero(5 * B);
    status_cache_zero_end(cache, &z, false);
    assert_data(4 * B);
}
END_TEST

START_TEST(a_discard_taints)
{
    StatusOp d;

    begin(0, 4 * B);
    status_cache_discard_begin(cache, &d, 2 * B, B);
    end();
    assert_unknown(2 * B);
    assert_zero(3 * B);
    status_cache_discard_end(cache, &d);
    /* The device may read as zeroes now, and not later. */
    ck_assert(!status_cache_read_begin(cache, &r, 0, 4 * B));
}
END_TEST

START_TEST(what_is_forgotten_taints)
{
    begin(0, 4 * B);
    status_cache_forget(cache, 2 * B, B);
    end();
    assert_zero(B);
    assert_unknown(2 * B);
    begin(0, 4 * B);
    status_cache_flush(cache);
    end();
    assert_unknown(B);
}
END_TEST

/* It was cut off and came back, or the end of the disk was elsewhere. */
START_TEST(a_new_size_taints)
{
    begin(LEN - 4 * B, 4 * B);
    status_cache_resize(cache, LEN - 2 * B);
    status_cache_resize(cache, LEN);
    end();
    assert_zero(LEN - 3 * B);
    assert_unknown(LEN - 2 * B);
    assert_unknown(LEN - B);
}
END_TEST

/* Whoever wrote until now may have done so since the read. */
START_TEST(a_new_mode_taints)
{
    begin(0, 4 * B);
    status_cache_set_mode(cache, STATUS_CACHE_DATA_ONLY);
    status_cache_set_mode(cache, STATUS_CACHE_ON);
    end();
    assert_unknown(0);
}
END_TEST

START_TEST(reads_teach_nothing_while_others_write)
{
    begin(0, 4 * B);
    status_cache_set_mode(cache, STATUS_CACHE_DATA_ONLY);
    end();
    assert_unknown(0);
    ck_assert(!status_cache_read_begin(cache, &r, 0, 4 * B));
    status_cache_set_mode(cache, STATUS_CACHE_OFF);
    ck_assert(!status_cache_read_begin(cache, &r, 0, 4 * B));
}
END_TEST

/* Pages that read as zeroes may be of a writeback that failed. */
START_TEST(reads_teach_nothing_after_a_failed_flush)
{
    begin(0, 4 * B);
    status_cache_flush_failed(cache);
    end();
    assert_unknown(0);
    ck_assert(!status_cache_read_begin(cache, &r, 0, 4 * B));
    /* zero-writes do */
    do_zero(0, 4 * B);
    assert_zero(0);
}
END_TEST

/* A probe of that time knows less. */
START_TEST(what_a_read_taught_is_newer_than_a_probe)
{
    StatusOp p;
    int64_t pnum;

    status_cache_probe_begin(cache, &p, 0, 4 * B);
    begin(0, 4 * B);
    end();
    ck_assert_int_eq(
        status_cache_probe_fill(cache, &p, 0, 4 * B, BLOCK_STATE_DATA, &pnum),
        BLOCK_STATE_ZERO);
    status_cache_probe_end(cache, &p);
    assert_zero(0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("status-read");
    TCase *tc = tcase_create("cuts"), *learn = tcase_create("learn");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, nothing_is_left_out_of_what_is_not_known);
    tcase_add_test(tc, zeroes_are_left_out);
    tcase_add_test(tc, short_runs_are_read);
    tcase_add_test(tc, cuts_are_aligned_but_at_the_ends);
    tcase_add_test(tc, cuts_reach_beyond_the_end);
    tcase_add_test(tc, cuts_are_few);
    tcase_add_test(tc, nothing_is_left_out_while_others_write);
    tcase_add_test(tc, a_write_is_seen_by_reads);
    tcase_add_test(tc, cuts_are_counted);
    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(learn, setup, teardown);
    tcase_add_test(learn, a_read_teaches);
    tcase_add_test(learn, a_read_teaches_what_it_covers_whole);
    tcase_add_test(learn, a_read_teaches_only_what_was_zero);
    tcase_add_test(learn, a_read_teaches_the_end);
    tcase_add_test(learn, a_write_in_flight_taints_at_the_beginning);
    tcase_add_test(learn, a_write_during_the_read_taints);
    tcase_add_test(learn, a_write_that_goes_on_taints);
    tcase_add_test(learn, a_failed_write_taints);
    tcase_add_test(learn, a_zero_write_taints);
    tcase_add_test(learn, a_discard_taints);
    tcase_add_test(learn, what_is_forgotten_taints);
    tcase_add_test(learn, a_new_size_taints);
    tcase_add_test(learn, a_new_mode_taints);
    tcase_add_test(learn, reads_teach_nothing_while_others_write);
    tcase_add_test(learn, reads_teach_nothing_after_a_failed_flush);
    tcase_add_test(learn, what_a_read_taught_is_newer_than_a_probe);
    suite_add_tcase(s, learn);
    return unit_main(s);
}
