/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rule 11 of the status cache: verifications find lies, take nothing else for one,
 * and a cache that has lied is not believed again. See test-status-cache.c.
 */
#include "status-cache-fixture.h"

static StatusOp op;
static int64_t start, bytes;
static StatusCut lies[8];
static int n_lies;

static bool begin(int64_t offset, int64_t max)
{
    return status_cache_verify_begin(cache, &op, offset, max, &start, &bytes);
}

/* [@from, @to) was read, and is all data */
static void end_with_data(int64_t from, int64_t to)
{
    StatusCut found = { from, to };

    n_lies = status_cache_verify_end(cache, &op, bytes, &found, 1, lies,
                                     G_N_ELEMENTS(lies));
}

static void end_with_zeroes(void)
{
    n_lies = status_cache_verify_end(cache, &op, bytes, NULL, 0, lies,
                                     G_N_ELEMENTS(lies));
}

static StatusCacheStats stats(void)
{
    StatusCacheStats s;

    status_cache_get_stats(cache, &s);
    return s;
}

#define assert_range(from, to)                                                 \
    do {                                                                       \
        ck_assert_int_eq(start, from);                                         \
        ck_assert_int_eq(start + bytes, to);                                   \
    } while (0)

#define assert_no_lie()                                                        \
    do {                                                                       \
        ck_assert_int_eq(n_lies, 0);                                           \
        ck_assert(!stats().distrusted);                                        \
        ck_assert_uint_eq(stats().verify_mismatches, 0);                       \
    } while (0)

#define assert_lie(i, from, to)                                                \
    do {                                                                       \
        ck_assert_int_lt(i, n_lies);                                           \
        ck_assert_int_eq(lies[i].start, from);                                 \
        ck_assert_int_eq(lies[i].end, to);                                     \
        ck_assert(stats().distrusted);                                         \
        ck_assert_int_eq(stats().mode, STATUS_CACHE_DATA_ONLY);                \
    } while (0)

/* ---- what is to be read ------------------------------------------------- */

START_TEST(runs_of_zeroes_are_found)
{
    ck_assert(!begin(0, LEN));
    do_write(0, LEN);
    ck_assert(!begin(0, LEN));
    do_zero(2 * B, 2 * B);
    do_zero(8 * B, 20 * B);
    ck_assert(begin(0, LEN));
    assert_range(2 * B, 4 * B);
    end_with_zeroes();
    ck_assert(begin(2 * B + 100, LEN));
    assert_range(2 * B + 100, 4 * B);
    end_with_zeroes();
    ck_assert(begin(4 * B, 3 * B));
    assert_range(8 * B, 11 * B);
    end_with_zeroes();
    ck_assert(begin(8 * B, B + 512));
    assert_range(8 * B, 9 * B + 512);
    end_with_zeroes();
    ck_assert(!begin(28 * B, LEN));
    ck_assert(!begin(LEN, LEN));
    ck_assert(!begin(2 * LEN, LEN));
    assert_no_lie();
    ck_assert_uint_eq(stats().verified_bytes,
                      2 * B + 2 * B - 100 + 3 * B + B + 512);
}
END_TEST

START_TEST(they_end_with_the_disk)
{
    status_cache_resize(cache, 3 * B + 100);
    do_zero(0, 3 * B + 100);
    ck_assert(begin(0, LEN));
    assert_range(0, 3 * B + 100);
    end_with_zeroes();
    ck_assert_uint_eq(stats().verified_bytes, 3 * B + 100);
    ck_assert(begin(3 * B + 99, LEN));
    assert_range(3 * B + 99, 3 * B + 100);
    end_with_data(3 * B + 99, 3 * B + 100);
    assert_lie(0, 3 * B + 99, 3 * B + 100);
    assert_data(3 * B);
}
END_TEST

START_TEST(what_is_left_is_counted)
{
    ck_assert_uint_eq(status_cache_zeroes_left(cache, 0), 0);
    status_cache_resize(cache, 10 * B + 100);
    do_zero(2 * B, 2 * B);
    do_zero(8 * B, 2 * B + 100);
    ck_assert_uint_eq(status_cache_zeroes_left(cache, 0), 4 * B + 100);
    ck_assert_uint_eq(status_cache_zeroes_left(cache, 2 * B + 1),
                      4 * B + 100 - 1);
    ck_assert_uint_eq(status_cache_zeroes_left(cache, 4 * B), 2 * B + 100);
    ck_assert_uint_eq(status_cache_zeroes_left(cache, 5 * B + 7), 2 * B + 100);
    ck_assert_uint_eq(status_cache_zeroes_left(cache, 10 * B + 40), 60);
    ck_assert_uint_eq(status_cache_zeroes_left(cache, 10 * B + 100), 0);
    ck_assert_uint_eq(status_cache_zeroes_left(cache, LEN), 0);
}
END_TEST

/* ---- lies --------------------------------------------------------------- */

START_TEST(a_lie_ends_all_belief)
{
    do_zero(0, 32 * B);
    do_write(40 * B, B);
    ck_assert(begin(0, LEN));
    end_with_data(5 * B, 7 * B);
    ck_assert_int_eq(n_lies, 1);
    assert_lie(0, 5 * B, 7 * B);
    assert_unknown(0);
    assert_unknown(4 * B);
    assert_data(5 * B);
    assert_data(6 * B);
    assert_unknown(7 * B);
    assert_unknown(31 * B);
    assert_data(40 * B);
    ck_assert_uint_eq(stats().verify_mismatches, 1);
    ck_assert_uint_eq(stats().verified_bytes, 30 * B);
    ck_assert(status_cache_is_distrusted(cache));
}
END_TEST

START_TEST(all_lies_of_a_read_are_told)
{
    StatusCut found[] = { { B, 2 * B },
                          { 4 * B, 6 * B },
                          { 8 * B, 8 * B + 10 } };

    do_zero(0, 16 * B);
    ck_assert(begin(0, LEN));
    ck_assert_int_eq(
        status_cache_verify_end(cache, &op, bytes, found, 3, lies, 8), 3);
    n_lies = 3;
    assert_lie(0, B, 2 * B);
    assert_lie(1, 4 * B, 6 * B);
    assert_lie(2, 8 * B, 8 * B + 10);
    assert_data(4 * B);
    assert_data(8 * B);
    assert_unknown(9 * B);
    ck_assert_uint_eq(stats().verified_bytes, 13 * B - 10);
}
END_TEST

/* There is room for two: the third place is no longer zero all the same. */
START_TEST(lies_without_room_are_no_zeroes)
{
    StatusCut found[] = { { 0, B }, { 2 * B, 3 * B }, { 4 * B, 5 * B } };

    do_zero(0, 16 * B);
    ck_assert(begin(0, LEN));
    ck_assert_int_eq(
        status_cache_verify_end(cache, &op, bytes, found, 3, lies, 2), 2);
    assert_data(2 * B);
    assert_unknown(4 * B);
    ck_assert_uint_eq(stats().verified_bytes, 13 * B);
}
END_TEST

START_TEST(what_was_not_read_is_not_verified)
{
    do_zero(0, 16 * B);
    ck_assert(begin(0, LEN));
    ck_assert_int_eq(status_cache_verify_end(cache, &op, 0, NULL, 0, lies, 8),
                     0);
    ck_assert_uint_eq(stats().verified_bytes, 0);
    ck_assert(begin(0, LEN));
    ck_assert_int_eq(
        status_cache_verify_end(cache, &op, 3 * B, NULL, 0, lies, 8), 0);
    ck_assert_uint_eq(stats().verified_bytes, 3 * B);
    assert_zero(0);
    ck_assert(!stats().distrusted);
}
END_TEST

/* A block that is read in parts */
START_TEST(parts_of_a_block)
{
    do_zero(0, 4 * B);
    ck_assert(begin(B, 512));
    assert_range(B, B + 512);
    end_with_zeroes();
    ck_assert(begin(B + 512, 512));
    do_write(2 * B - 1, 1);
    end_with_data(B + 512, B + 1024);
    assert_no_lie();
    ck_assert_uint_eq(stats().verified_bytes, 512);
    ck_assert(begin(2 * B + 512, 512));
    end_with_data(2 * B + 600, 2 * B + 700);
    assert_lie(0, 2 * B + 600, 2 * B + 700);
    assert_data(2 * B);
    assert_unknown(3 * B);
}
END_TEST

/* Who zeroes zeroes again does not hide what is there. */
START_TEST(zero_writes_taint_nothing)
{
    StatusOp z;

    do_zero(0, 16 * B);
    ck_assert(begin(0, LEN));
    do_zero(0, 16 * B);
    status_cache_zero_begin(cache, &z, 0, 16 * B, true);
    end_with_data(2 * B, 3 * B);
    assert_lie(0, 2 * B, 3 * B);
    status_cache_zero_end(cache, &z, true);
    assert_unknown(0);
    assert_unknown(2 * B);
}
END_TEST

/* ---- what is none ------------------------------------------------------- */

static void write_and_zero(void)
{
    do_write(4 * B, B);
    do_zero(4 * B, B);
}

static void write_in_flight(void)
{
    static StatusOp w;

    status_cache_write_begin(cache, &w, 4 * B, B);
    end_with_data(4 * B, 5 * B);
    assert_no_lie();
    status_cache_write_end(cache, &w, true);
}

static void failed_write(void)
{
    StatusOp w;

    status_cache_write_begin(cache, &w, 4 * B, B);
    status_cache_write_end(cache, &w, false);
    do_zero(4 * B, B);
}

static void discard(void)
{
    StatusOp d;

    status_cache_discard_begin(cache, &d, 4 * B, B);
    status_cache_discard_end(cache, &d);
    do_zero(4 * B, B);
}

static void forget_and_probe(void)
{
    status_cache_forget(cache, 4 * B, B);
    do_probe(4 * B, B, BLOCK_STATE_ZERO);
}

static void flush(void)
{
    status_cache_flush(cache);
    do_zero(0, 16 * B);
}

static void failed_flush(void)
{
    status_cache_flush_failed(cache);
    do_zero(0, 16 * B);
}

static void other_writers(void)
{
    status_cache_set_mode(cache, STATUS_CACHE_DATA_ONLY);
    status_cache_set_mode(cache, STATUS_CACHE_ON);
    do_zero(0, 16 * B);
}

static void off_and_on(void)
{
    status_cache_set_mode(cache, STATUS_CACHE_OFF);
    do_write(4 * B, B);
    status_cache_set_mode(cache, STATUS_CACHE_ON);
    do_zero(0, 16 * B);
}

static void new_size(void)
{
    status_cache_resize(cache, 4 * B);
    status_cache_resize(cache, LEN);
    do_zero(0, 16 * B);
}

static const struct {
    void (*func)(void);
    bool all; /* it touches all of the disk; else block 4 alone */
} crossings[] = {
    { write_and_zero, false }, { failed_write, false },
    { discard, false },        { forget_and_probe, false },
    { flush, true },           { failed_flush, true },
    { other_writers, true },   { off_and_on, true },
    { new_size, true },
};

/* All of it is zero before and afterwards; in between there may be data. */
START_TEST(what_crosses_is_no_lie)
{
    do_zero(0, 16 * B);
    ck_assert(begin(0, LEN));
    crossings[_i].func();
    assert_zero(4 * B);
    assert_zero(15 * B);
    end_with_data(4 * B, 5 * B);
    assert_no_lie();
    assert_zero(4 * B);
    ck_assert_uint_eq(stats().verified_bytes, !crossings[_i].all ? 15 * B
                                              : crossings[_i].func == new_size
                                                  ? 4 * B
                                                  : 0);
    /* The next one sees what is there now. */
    ck_assert(begin(4 * B, B));
    end_with_data(4 * B, 5 * B);
    assert_lie(0, 4 * B, 5 * B);
}
END_TEST

START_TEST(a_write_in_flight_is_no_lie)
{
    do_zero(0, 16 * B);
    ck_assert(begin(0, LEN));
    write_in_flight();
    assert_data(4 * B);
}
END_TEST

/* Around what was crossed a lie is one. */
START_TEST(lies_around_a_write)
{
    do_zero(0, 16 * B);
    ck_assert(begin(0, LEN));
    write_and_zero();
    do_write(8 * B + 1, 1);
    end_with_data(3 * B, 12 * B);
    ck_assert_int_eq(n_lies, 3);
    assert_lie(0, 3 * B, 4 * B);
    assert_lie(1, 5 * B, 8 * B);
    assert_lie(2, 9 * B, 12 * B);
    assert_data(3 * B);
    assert_unknown(4 * B);
    assert_data(8 * B);
    assert_unknown(13 * B);
    ck_assert_uint_eq(stats().verified_bytes, 7 * B);
}
END_TEST

/* ---- belief does not come back ------------------------------------------ */

static void lie(void)
{
    do_zero(0, 16 * B);
    ck_assert(begin(0, LEN));
    end_with_data(0, B);
    ck_assert_int_eq(n_lies, 1);
}

START_TEST(nothing_brings_belief_back)
{
    StatusOp r, z;

    do_zero(32 * B, B);
    status_cache_zero_begin(cache, &z, 40 * B, B, false);
    lie();
    status_cache_zero_end(cache, &z, true);
    assert_unknown(40 * B);
    status_cache_set_mode(cache, STATUS_CACHE_ON);
    ck_assert_int_eq(status_cache_get_mode(cache), STATUS_CACHE_DATA_ONLY);
    status_cache_set_mode(cache, STATUS_CACHE_OFF);
    ck_assert_int_eq(status_cache_get_mode(cache), STATUS_CACHE_OFF);
    status_cache_set_mode(cache, STATUS_CACHE_ON);
    ck_assert_int_eq(status_cache_get_mode(cache), STATUS_CACHE_DATA_ONLY);
    do_zero(0, 4 * B);
    assert_unknown(0);
    ck_assert_int_eq(do_probe(0, B, BLOCK_STATE_ZERO), BLOCK_STATE_ZERO);
    assert_unknown(0);
    ck_assert(!status_cache_read_begin(cache, &r, 0, 4 * B));
    do_probe(0, B, BLOCK_STATE_DATA);
    assert_data(0);
    ck_assert(!begin(0, LEN));
    ck_assert(stats().distrusted);
    ck_assert(status_cache_is_distrusted(cache));
}
END_TEST

/* Nobody else's verification lies by what the first has found. */
START_TEST(two_verifications)
{
    StatusCut found = { 0, B };
    int64_t from, n;
    StatusOp other;

    do_zero(0, 16 * B);
    ck_assert(status_cache_verify_begin(cache, &other, 0, 16 * B, &from, &n));
    lie();
    ck_assert_int_eq(
        status_cache_verify_end(cache, &other, n, &found, 1, lies, 8), 0);
    ck_assert_uint_eq(stats().verify_mismatches, 1);
}
END_TEST

START_TEST(it_can_be_told)
{
    do_zero(0, B);
    do_write(B, B);
    status_cache_distrust(cache);
    assert_unknown(0);
    assert_data(B);
    ck_assert(stats().distrusted);
    ck_assert_int_eq(status_cache_get_mode(cache), STATUS_CACHE_DATA_ONLY);
    status_cache_set_mode(cache, STATUS_CACHE_OFF);
    status_cache_distrust(cache);
    ck_assert_int_eq(status_cache_get_mode(cache), STATUS_CACHE_OFF);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("status-cache-verify");
    TCase *tc = tcase_create("verify");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, runs_of_zeroes_are_found);
    tcase_add_test(tc, they_end_with_the_disk);
    tcase_add_test(tc, what_is_left_is_counted);
    tcase_add_test(tc, a_lie_ends_all_belief);
    tcase_add_test(tc, all_lies_of_a_read_are_told);
    tcase_add_test(tc, lies_without_room_are_no_zeroes);
    tcase_add_test(tc, what_was_not_read_is_not_verified);
    tcase_add_test(tc, parts_of_a_block);
    tcase_add_test(tc, zero_writes_taint_nothing);
    tcase_add_loop_test(tc, what_crosses_is_no_lie, 0, G_N_ELEMENTS(crossings));
    tcase_add_test(tc, a_write_in_flight_is_no_lie);
    tcase_add_test(tc, lies_around_a_write);
    tcase_add_test(tc, nothing_brings_belief_back);
    tcase_add_test(tc, two_verifications);
    tcase_add_test(tc, it_can_be_told);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
