/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What else may be asked of a mirror: sync */
#include <string.h>

#include "block/mirror-int.h"
#include "job-harness.h"
#include "mirror-fixture.h"
#include "unit-main.h"

#define GRANULE (64 * KiB)

/* ---- sync --------------------------------------------------------------- */

/* The target has what was written, in whole granules, and its own otherwise. */
static void check_granules(const uint8_t *before, const bool *written)
{
    const uint8_t *have = mem_disk_data(mem_disk_of(target));
    const uint8_t *src = mem_disk_data(mem_disk_of(source));
    int64_t i;

    for (i = 0; i < 4 * MiB / GRANULE; i++) {
        const uint8_t *expected = written[i] ? src : before;

        ck_assert_msg(
            memcmp(have + i * GRANULE, expected + i * GRANULE, GRANULE) == 0,
            "granule %d", (int)i);
    }
}

START_TEST(test_none)
{
    bool written[4 * MiB / GRANULE] = { false };
    g_autofree uint8_t *before = NULL;
    Start start = defaults();
    MemDisk *src, *dst;
    uint8_t byte = 200;

    make_filled(4 * MiB);
    src = mem_disk_of(source);
    dst = mem_disk_of(target);
    memset(mem_disk_data(dst), 3, 4 * MiB);
    mem_disk_hide_zeroes(dst);
    before = g_memdup2(mem_disk_data(dst), 4 * MiB);
    start.options.sync = MIRROR_SYNC_NONE;
    start_with(&start);
    wait_event("m:READY");
    check_events("m:created m:running m:ready m:READY");
    ck_assert_int_eq(event_int("m:READY", "len"), 0);
    ck_assert_int_eq(event_int("m:READY", "offset"), 0);
    check_granules(before, written);
    ck_assert_int_eq(mem_disk_count(src, MEM_READ), 0);
    ck_assert_int_eq(mem_disk_count(dst, MEM_STATUS), 0);

    ck_assert_int_eq(blk_pwrite(guest, GRANULE - 1, 1, &byte, 0), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(guest, MiB, GRANULE, 0), 0);
    ck_assert_int_eq(blk_pdiscard(guest, 2 * MiB, 2 * GRANULE), 0);
    written[0] = written[MiB / GRANULE] = true;
    written[2 * MiB / GRANULE] = written[2 * MiB / GRANULE + 1] = true;
    if (_i) {
        complete();
    } else {
        soft_cancel();
    }
    wait_event("m:null");
    ck_assert_int_eq(event_int("m:COMPLETED", "len"), 4 * GRANULE);
    check_granules(before, written);
    check_home(_i ? target : source);
    unmake();
}
END_TEST

/* What is written is zero, and so is said to be what the target has. */
START_TEST(test_none_target_is_zero)
{
    Start start = defaults();
    MemDisk *dst;

    make_filled(4 * MiB);
    dst = mem_disk_of(target);
    start.options.sync = MIRROR_SYNC_NONE;
    start.options.target_is_zero = true;
    start_with(&start);
    wait_event("m:READY");
    ck_assert_int_eq(blk_pwrite_zeroes(guest, MiB, MiB, 0), 0);
    soft_cancel();
    wait_event("m:null");
    ck_assert_int_eq(mem_disk_count(dst, MEM_ZERO), 0);
    ck_assert_int_eq(mem_disk_count(dst, MEM_WRITE), 0);
    unmake();
}
END_TEST

START_TEST(test_top)
{
    Start start = defaults();

    make_filled(4 * MiB);
    start.options.sync = MIRROR_SYNC_TOP;
    start_with(&start);
    wait_event("m:READY");
    ck_assert_int_eq(event_int("m:READY", "len"), 4 * MiB);
    finish_and_compare();
    unmake();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("mirror-options");
    TCase *t = tcase_create("mirror-options");

    tcase_add_checked_fixture(t, harness_start, harness_stop);
    tcase_add_loop_test(t, test_none, 0, 2);
    tcase_add_test(t, test_none_target_is_zero);
    tcase_add_test(t, test_top);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
