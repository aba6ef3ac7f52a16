/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rules of the status cache (block/status-cache.c) for requests and probes, each
 * with the race that makes it necessary. Begin and end are called in the order that
 * the race needs, so that every test is deterministic; scripts/break-rules takes the
 * rules out one by one and expects a failure here. test-status-cache-disk.c has those
 * for the disk as a whole.
 */
#include "status-cache-fixture.h"

/* ---- rule 1 -------------------------------------------------------------- */

START_TEST(write_is_data_before_the_data_goes_out)
{
    StatusOp w;

    do_zero(0, LEN);
    status_cache_write_begin(cache, &w, 3 * B + 7, 10);
    assert_zero(2 * B);
    assert_data(3 * B);
    assert_zero(4 * B);
    status_cache_write_end(cache, &w, true);
    assert_data(3 * B);
}
END_TEST

START_TEST(write_rounds_outward)
{
    do_zero(0, LEN);
    do_write(2 * B - 1, 2);
    assert_zero(0);
    assert_data(B);
    assert_data(2 * B);
    assert_zero(3 * B);
}
END_TEST

START_TEST(write_taints_zero_in_flight)
{
    StatusOp z, w;

    status_cache_zero_begin(cache, &z, 0, 8 * B, false);
    status_cache_write_begin(cache, &w, 2 * B, B);
    status_cache_write_end(cache, &w, true);
    status_cache_zero_end(cache, &z, true);
    assert_zero(B);
    assert_unknown(2 * B);
    assert_zero(3 * B);
}
END_TEST

START_TEST(zero_that_met_a_write_leaves_unknown)
{
    StatusOp z, w;

    status_cache_zero_begin(cache, &z, 0, 8 * B, false);
    status_cache_write_begin(cache, &w, 2 * B, B);
    assert_data(2 * B);
    status_cache_zero_end(cache, &z, true);
    assert_unknown(2 * B);
    status_cache_write_end(cache, &w, true);
    assert_unknown(2 * B);
}
END_TEST

START_TEST(failed_write_leaves_unknown)
{
    StatusOp w;

    do_zero(0, LEN);
    status_cache_write_begin(cache, &w, B, 2 * B);
    assert_data(B);
    status_cache_write_end(cache, &w, false);
    assert_zero(0);
    assert_unknown(B);
    assert_unknown(2 * B);
    assert_zero(3 * B);
}
END_TEST

/* ---- rule 2 -------------------------------------------------------------- */

START_TEST(zero_changes_nothing_until_it_ends)
{
    StatusOp z;

    do_write(0, 2 * B);
    status_cache_zero_begin(cache, &z, 0, 4 * B, false);
    assert_data(0);
    assert_data(B);
    assert_unknown(2 * B);
    status_cache_zero_end(cache, &z, true);
    assert_zero(0);
    assert_zero(3 * B);
}
END_TEST

START_TEST(zero_rounds_inward)
{
    do_write(0, LEN);
    do_zero(B - 1, 2 * B + 2);
    assert_data(0);
    assert_zero(B);
    assert_zero(2 * B);
    assert_data(3 * B);
    do_zero(5 * B + 1, B - 1);
    assert_data(5 * B);
}
END_TEST

START_TEST(zero_starts_tainted_under_a_write)
{
    StatusOp z, w;

    status_cache_write_begin(cache, &w, 2 * B, B);
    status_cache_zero_begin(cache, &z, 0, 8 * B, false);
    status_cache_zero_end(cache, &z, true);
    assert_zero(B);
    assert_unknown(2 * B); /* either may have come last */
    assert_zero(3 * B);
    status_cache_write_end(cache, &w, true);
    assert_unknown(2 * B);
}
END_TEST

/* The probe saw what the write left, and then the zero-write took it away. */
START_TEST(tainted_zero_spoils_what_was_seen_before)
{
    StatusOp z, w, p;
    int64_t n;

    status_cache_write_begin(cache, &w, 2 * B, B);
    status_cache_zero_begin(cache, &z, 0, 8 * B, false);
    status_cache_write_end(cache, &w, false);
    status_cache_probe_begin(cache, &p, 0, 8 * B);
    status_cache_zero_end(cache, &z, true);
    status_cache_probe_fill(cache, &p, 2 * B, B, BLOCK_STATE_DATA, &n);
    status_cache_probe_end(cache, &p);
    assert_zero(B);
    assert_unknown(2 * B);
}
END_TEST

/* Nor is a zero believed of a write under way whose mark it took away. */
START_TEST(zero_that_takes_a_mark_away_makes_no_room_for_zeroes)
{
    StatusOp z, w, p, q;
    int64_t n;

    status_cache_probe_begin(cache, &p, 0, 8 * B);
    status_cache_zero_begin(cache, &z, 0, 8 * B, false);
    status_cache_write_begin(cache, &w, 2 * B, B);
    status_cache_zero_end(cache, &z, true);
    status_cache_probe_begin(cache, &q, 0, 8 * B);
    ck_assert_int_eq(
        status_cache_probe_fill(cache, &p, 2 * B, B, BLOCK_STATE_ZERO, &n),
        BLOCK_STATE_DATA);
    ck_assert_int_eq(
        status_cache_probe_fill(cache, &q, 2 * B, B, BLOCK_STATE_ZERO, &n),
        BLOCK_STATE_DATA);
    status_cache_probe_end(cache, &p);
    status_cache_probe_end(cache, &q);
    assert_unknown(2 * B);
    status_cache_write_end(cache, &w, true);
    assert_unknown(2 * B);
}
END_TEST

START_TEST(failed_zero_changes_nothing)
{
    StatusOp z;

    do_write(0, B);
    do_zero(B, B);
    status_cache_zero_begin(cache, &z, 0, 3 * B, false);
    status_cache_zero_end(cache, &z, false);
    assert_data(0);
    assert_zero(B);
    assert_unknown(2 * B);
}
END_TEST

START_TEST(punched_hole_is_a_zero)
{
    StatusOp p;
    StatusCacheStats s;

    do_write(0, 4 * B);
    status_cache_zero_begin(cache, &p, B, 2 * B, true);
    status_cache_zero_end(cache, &p, true);
    assert_data(0);
    assert_zero(B);
    assert_zero(2 * B);
    assert_data(3 * B);
    status_cache_get_stats(cache, &s);
    ck_assert_uint_eq(s.learned_discards, 2 * B);
    ck_assert_uint_eq(s.learned_zeroes, 0);
}
END_TEST

START_TEST(discard_without_promise_is_unknown)
{
    StatusOp d, z;

    do_zero(0, LEN);
    status_cache_discard_begin(cache, &d, B + 1, B);
    assert_zero(0);
    assert_unknown(B);
    assert_unknown(2 * B);
    assert_zero(3 * B);
    /* it may still undo a zero-write that began and ended within it */
    status_cache_zero_begin(cache, &z, 0, 4 * B, false);
    status_cache_zero_end(cache, &z, true);
    assert_unknown(B);
    status_cache_discard_end(cache, &d);
    assert_unknown(B);
    assert_zero(0);
}
END_TEST

START_TEST(discard_taints_zero_in_flight)
{
    StatusOp d, z;

    status_cache_zero_begin(cache, &z, 0, 4 * B, false);
    status_cache_discard_begin(cache, &d, B, B);
    status_cache_discard_end(cache, &d);
    status_cache_zero_end(cache, &z, true);
    assert_zero(0);
    assert_unknown(B);
    assert_zero(2 * B);
}
END_TEST

START_TEST(discard_end_forgets_a_write_within_it)
{
    StatusOp d;

    status_cache_discard_begin(cache, &d, 0, 4 * B);
    do_write(B, B);
    status_cache_discard_end(cache, &d);
    assert_unknown(B);
}
END_TEST

/* ---- rule 3 -------------------------------------------------------------- */

START_TEST(probe_fills_unknown_only)
{
    StatusOp p;

    status_cache_probe_begin(cache, &p, 0, 8 * B);
    do_write(2 * B, B); /* after the probe looked */
    do_zero(3 * B, B);
    ck_assert_int_eq(do_fill(&p, 0, 3 * B, BLOCK_STATE_ZERO), BLOCK_STATE_ZERO);
    ck_assert_int_eq(do_fill(&p, 2 * B, B, BLOCK_STATE_ZERO), BLOCK_STATE_DATA);
    do_fill(&p, 3 * B, 5 * B, BLOCK_STATE_DATA);
    status_cache_probe_end(cache, &p);
    assert_zero(B);
    assert_data(2 * B);
    assert_zero(3 * B);
    assert_data(4 * B);
}
END_TEST

START_TEST(probe_starts_tainted_under_a_write)
{
    StatusOp w, p;
    StatusCacheStats s;

    status_cache_write_begin(cache, &w, B, B);
    status_cache_flush(cache); /* the mark is lost, the write goes on */
    status_cache_probe_begin(cache, &p, 0, 4 * B);
    ck_assert_int_eq(do_fill(&p, B, B, BLOCK_STATE_ZERO), BLOCK_STATE_DATA);
    do_fill(&p, 0, 4 * B, BLOCK_STATE_ZERO);
    status_cache_probe_end(cache, &p);
    status_cache_write_end(cache, &w, true);
    assert_zero(0);
    assert_unknown(B);
    assert_zero(2 * B);
    status_cache_get_stats(cache, &s);
    ck_assert_uint_eq(s.tainted_probes, 1);
}
END_TEST

START_TEST(failed_write_taints_probe)
{
    StatusOp w, p;

    status_cache_probe_begin(cache, &p, 0, 4 * B); /* looks: a hole */
    status_cache_write_begin(cache, &w, B, B);
    status_cache_write_end(cache, &w, false); /* half of it is there */
    ck_assert_int_eq(do_fill(&p, B, B, BLOCK_STATE_ZERO), BLOCK_STATE_DATA);
    status_cache_probe_end(cache, &p);
    assert_unknown(B);
}
END_TEST

START_TEST(forgetting_taints_probe)
{
    int how;

    for (how = 0; how < 5; how++) {
        StatusOp p, d;

        status_cache_probe_begin(cache, &p, 0, 4 * B); /* looks: a hole */
        do_write(B, B);
        switch (how) {
        case 0:
            status_cache_flush(cache);
            break;
        case 1:
            status_cache_forget(cache, B, B);
            break;
        case 2:
            status_cache_discard_begin(cache, &d, B, B);
            status_cache_discard_end(cache, &d);
            break;
        case 3:
            status_cache_resize(cache, B);
            status_cache_resize(cache, LEN);
            break;
        case 4:
            status_cache_set_mode(cache, STATUS_CACHE_OFF);
            status_cache_set_mode(cache, STATUS_CACHE_ON);
            break;
        }
        ck_assert_int_eq(do_fill(&p, B, B, BLOCK_STATE_ZERO), BLOCK_STATE_DATA);
        status_cache_probe_end(cache, &p);
        ck_assert_msg(at(B) == BLOCK_STATE_UNKNOWN, "case %d", how);
        status_cache_flush(cache);
    }
}
END_TEST

START_TEST(eviction_taints_probe)
{
    StatusOp p;
    StatusCacheStats s;
    int64_t length = 64 * 1024 * B, i;

    status_cache_unref(cache);
    cache = new_cache(length, 6 * KIB, STATUS_CACHE_ON);
    status_cache_probe_begin(cache, &p, 0, length);
    for (i = 0; i < length; i += 2 * B) {
        do_write(i, B);
    }
    status_cache_get_stats(cache, &s);
    ck_assert_uint_gt(s.evictions, 0);
    /* no block may be called a hole by the look before all these writes */
    for (i = 0; i < length; i += 2 * B) {
        do_fill(&p, i, B, BLOCK_STATE_ZERO);
        ck_assert_int_ne(at(i), BLOCK_STATE_ZERO);
    }
    status_cache_probe_end(cache, &p);
}
END_TEST

START_TEST(probe_rounds)
{
    StatusOp p;

    status_cache_probe_begin(cache, &p, 0, 8 * B);
    do_fill(&p, 2 * B + 512, 512, BLOCK_STATE_DATA);
    /* true of the bytes that were asked for, but not of a whole block */
    ck_assert_int_eq(do_fill(&p, 4 * B + 512, 3 * B - 512, BLOCK_STATE_ZERO),
                     BLOCK_STATE_ZERO);
    do_fill(&p, 7 * B, 512, BLOCK_STATE_ZERO);
    status_cache_probe_end(cache, &p);
    assert_unknown(B);
    assert_data(2 * B);
    assert_unknown(3 * B);
    assert_unknown(4 * B);
    assert_zero(5 * B);
    assert_zero(6 * B);
    assert_unknown(7 * B);
}
END_TEST

START_TEST(write_taints_probe_where_nothing_is_remembered)
{
    StatusOp p, w;

    status_cache_set_mode(cache, STATUS_CACHE_OFF);
    status_cache_probe_begin(cache, &p, 0, 4 * B);
    status_cache_write_begin(cache, &w, B, B);
    ck_assert_int_eq(do_fill(&p, B, B, BLOCK_STATE_ZERO), BLOCK_STATE_DATA);
    ck_assert_int_eq(do_fill(&p, 2 * B, B, BLOCK_STATE_ZERO), BLOCK_STATE_ZERO);
    status_cache_write_end(cache, &w, true);
    status_cache_probe_end(cache, &p);
    assert_unknown(2 * B);
}
END_TEST

START_TEST(many_taints_are_merged_not_lost)
{
    StatusOp z;
    int i;

    status_cache_zero_begin(cache, &z, 0, LEN, false);
    for (i = 1; i < 60; i += 2) {
        do_write(i * B, B);
    }
    status_cache_zero_end(cache, &z, true);
    for (i = 1; i < 60; i += 2) {
        ck_assert_int_ne(at(i * B), BLOCK_STATE_ZERO);
    }
    assert_zero(0);
    assert_zero(62 * B);
}
END_TEST

/* ---- rule 4 -------------------------------------------------------------- */

START_TEST(page_look_ends_with_a_write)
{
    StatusOp p, w;
    int64_t pnum;

    status_cache_probe_begin(cache, &p, 0, 8 * B);
    status_cache_set_looked(cache, &p, 0, 8 * B);
    status_cache_probe_end(cache, &p);
    ck_assert(status_cache_has_looked(cache, B, LEN, &pnum));
    ck_assert_int_eq(pnum, 7 * B);
    status_cache_write_begin(cache, &w, 2 * B + 5, 1);
    ck_assert(!looked(2 * B));
    status_cache_write_end(cache, &w, true);
    ck_assert(!looked(2 * B));
    ck_assert(looked(B));
    ck_assert(looked(3 * B));
}
END_TEST

START_TEST(page_look_under_a_write_does_not_count)
{
    StatusOp p, w;

    status_cache_write_begin(cache, &w, 2 * B, B);
    status_cache_probe_begin(cache, &p, 0, 8 * B);
    status_cache_write_end(cache, &w, true);
    status_cache_set_looked(cache, &p, 0, 8 * B);
    status_cache_probe_end(cache, &p);
    ck_assert(looked(B));
    ck_assert(!looked(2 * B));
}
END_TEST

START_TEST(page_look_ends_with_a_write_during_the_probe)
{
    StatusOp p;

    status_cache_probe_begin(cache, &p, 0, 8 * B); /* looks: no pages */
    do_write(2 * B, B);
    status_cache_set_looked(cache, &p, 0, 8 * B);
    status_cache_probe_end(cache, &p);
    ck_assert(looked(B));
    ck_assert(!looked(2 * B));
}
END_TEST

START_TEST(page_looks_end_with_mode_size_and_flush)
{
    int how;

    for (how = 0; how < 4; how++) {
        StatusOp p;

        status_cache_probe_begin(cache, &p, 0, LEN);
        status_cache_set_looked(cache, &p, 0, LEN);
        status_cache_probe_end(cache, &p);
        ck_assert(looked(10 * B));
        switch (how) {
        case 0:
            status_cache_set_mode(cache, STATUS_CACHE_DATA_ONLY);
            status_cache_set_mode(cache, STATUS_CACHE_ON);
            break;
        case 1:
            status_cache_resize(cache, 5 * B);
            status_cache_resize(cache, LEN);
            break;
        case 2:
            status_cache_flush(cache);
            break;
        case 3:
            status_cache_flush_failed(cache);
            break;
        }
        ck_assert_msg(!looked(10 * B), "case %d", how);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("status-cache");
    TCase *tc = tcase_create("rules");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, write_is_data_before_the_data_goes_out);
    tcase_add_test(tc, write_rounds_outward);
    tcase_add_test(tc, write_taints_zero_in_flight);
    tcase_add_test(tc, zero_that_met_a_write_leaves_unknown);
    tcase_add_test(tc, failed_write_leaves_unknown);
    tcase_add_test(tc, zero_changes_nothing_until_it_ends);
    tcase_add_test(tc, zero_rounds_inward);
    tcase_add_test(tc, zero_starts_tainted_under_a_write);
    tcase_add_test(tc, tainted_zero_spoils_what_was_seen_before);
    tcase_add_test(tc, zero_that_takes_a_mark_away_makes_no_room_for_zeroes);
    tcase_add_test(tc, failed_zero_changes_nothing);
    tcase_add_test(tc, punched_hole_is_a_zero);
    tcase_add_test(tc, discard_without_promise_is_unknown);
    tcase_add_test(tc, discard_taints_zero_in_flight);
    tcase_add_test(tc, discard_end_forgets_a_write_within_it);
    tcase_add_test(tc, probe_fills_unknown_only);
    tcase_add_test(tc, probe_starts_tainted_under_a_write);
    tcase_add_test(tc, failed_write_taints_probe);
    tcase_add_test(tc, forgetting_taints_probe);
    tcase_add_test(tc, eviction_taints_probe);
    tcase_add_test(tc, probe_rounds);
    tcase_add_test(tc, write_taints_probe_where_nothing_is_remembered);
    tcase_add_test(tc, many_taints_are_merged_not_lost);
    tcase_add_test(tc, page_look_ends_with_a_write);
    tcase_add_test(tc, page_look_under_a_write_does_not_count);
    tcase_add_test(tc, page_look_ends_with_a_write_during_the_probe);
    tcase_add_test(tc, page_looks_end_with_mode_size_and_flush);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
