/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What else may be asked of a mirror: sync, replaces; targets of all makings */
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

/* ---- replaces ----------------------------------------------------------- */

static int pass_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       const struct iovec *iov, int niov, int flags)
{
    return bdrv_preadv(bs->file->bs, offset, bytes, iov, niov, flags);
}

static int pass_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        const struct iovec *iov, int niov, int flags)
{
    return bdrv_pwritev(bs->file->bs, offset, bytes, iov, niov, flags);
}

static const BlockDriver pass_driver = {
    .format_name = "pass",
    .kind = BLOCK_DRIVER_FILTER,
    .preadv = pass_preadv,
    .pwritev = pass_pwritev,
};

/* Between the guest and the source */
static BlockDriverState *above;

static void insert_above(void *opaque)
{
    above = bdrv_new_internal(&pass_driver, "above", NULL);
    ck_assert(bdrv_insert_filter(above, source, NULL));
}

static void remove_above(void *opaque)
{
    ck_assert(bdrv_remove_filter(above, NULL));
    bdrv_unref(above);
}

static void make_above(void)
{
    make_filled(4 * MiB);
    on_management(insert_above, NULL);
}

static void unmake_above(void)
{
    on_management(remove_above, NULL);
    unmake();
}

static Start replace_below(void)
{
    Start start = defaults();

    start.options.device = "above";
    start.options.replaces = "src";
    return start;
}

/* Bytes are written by turns, all over the disk; which were acknowledged */
static int over; /* atomic */
static uint8_t acknowledged[4 * MiB / GRANULE];

static void *writer(void *opaque)
{
    int n = 0;

    while (!g_atomic_int_get(&over)) {
        int i = n * 7 % (int)G_N_ELEMENTS(acknowledged);
        uint8_t byte = 1 + n++ % 255;

        ck_assert_int_eq(blk_pwrite(guest, i * GRANULE, 1, &byte, 0), 0);
        acknowledged[i] = byte;
    }
    return NULL;
}

START_TEST(test_replaces)
{
    Start start = replace_below();
    uint8_t *have;
    pthread_t thread;
    uint8_t byte = 1;
    size_t i;

    memset(acknowledged, 0, sizeof(acknowledged));
    g_atomic_int_set(&over, 0);
    make_above();
    start_with(&start);
    wait_event("m:READY");
    pthread_create(&thread, NULL, writer, NULL);
    if (_i) {
        complete();
    } else {
        soft_cancel();
    }
    wait_event("m:null");
    check_events("m:created m:running m:ready m:READY m:waiting m:pending "
                 "m:COMPLETED m:concluded m:null");
    g_atomic_int_set(&over, 1);
    pthread_join(thread, NULL);
    check_home(above);
    ck_assert(above->file->bs == (_i ? target : source));
    have = mem_disk_data(mem_disk_of(above->file->bs));
    for (i = 0; i < G_N_ELEMENTS(acknowledged); i++) {
        ck_assert(!acknowledged[i] || acknowledged[i] == have[i * GRANULE]);
    }
    ck_assert_int_eq(blk_pwrite(guest, 4 * MiB - 1, 1, &byte, 0), 0);
    ck_assert_int_eq(have[4 * MiB - 1], 1);
    unmake_above();
}
END_TEST

START_TEST(test_replaces_device)
{
    Start start = defaults();

    make_filled(MiB);
    start.options.replaces = "src";
    start_with(&start);
    wait_event("m:READY");
    complete();
    wait_event("m:null");
    check_home(target);
    unmake();
}
END_TEST

START_TEST(test_replaces_refused)
{
    Start start = replace_below();

    make_above();
    start.options.replaces = "nope";
    refused(&start, "Failed to find node with node-name='nope'");
    start.options.replaces = "dst";
    refused(&start, "Cannot replace 'dst' by a node mirrored from 'above', "
                    "because it cannot be guaranteed that doing so would not "
                    "lead to an abrupt change of visible data");
    unmake_above();
}
END_TEST

/* ---- targets that zero slowly ------------------------------------------- */

#define LONG (64 * MiB)

static void make_zero(void)
{
    make(LONG);
    memset(mem_disk_data(mem_disk_of(target)), 3, LONG);
    mem_disk_hide_zeroes(mem_disk_of(target));
}

/* One request at a time, of 1 MiB of data */
static Start one_worker(void)
{
    Start start = defaults();

    start.options.buf_size = MiB;
    return start;
}

/* Zeroes that must be written are written like data: in pieces, after each of
 * which the job can be cancelled. */
START_TEST(test_plain_zeroes)
{
    Start start = one_worker();
    MemDisk *dst;

    start.options.granularity = _i ? 64 * MiB : 64 * KiB;
    make_zero();
    dst = mem_disk_of(target);
    mem_disk_no_zeroes(dst);
    start_with(&start);
    wait_event("m:READY");
    ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE), LONG);
    ck_assert_int_eq(mem_disk_count(dst, MEM_WRITE), LONG / MiB);
    ck_assert_int_eq(event_int("m:READY", "len"), LONG);
    finish_and_compare();
    unmake();

    make_zero();
    dst = mem_disk_of(target);
    mem_disk_no_zeroes(dst);
    mem_disk_hold(dst, MEM_WRITE, 2);
    start_with(&start);
    mem_disk_wait_held(dst);
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
    mem_disk_let_go(dst);
    wait_event("m:null");
    ck_assert_int_eq(mem_disk_count(dst, MEM_WRITE), 3);
    unmake();
}
END_TEST

/* They count by the speed, too. */
START_TEST(test_plain_speed)
{
    Start start = defaults();
    MemDisk *dst;

    start.options.job.speed = 1;
    make_zero();
    dst = mem_disk_of(target);
    mem_disk_no_zeroes(dst);
    mem_disk_hold(dst, MEM_WRITE, 0);
    start_with(&start);
    mem_disk_wait_held(dst);
    mem_disk_let_go(dst);
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:paused");
    ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE), GRANULE);
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    verb_ok(job_verb_set_speed("m", 0, errp));
    wait_event("m:READY");
    finish_and_compare();
    unmake();
}
END_TEST

/* Zero-writes become longer where they are fast, and shorter where not. */
START_TEST(test_pace)
{
    static const int64_t limits[] = { 60 * G_USEC_PER_SEC, -1 };
    /* 4, 8, 16, 32 and 4 MiB; 4, 2, 1, 1, ... MiB */
    static const int64_t counts[] = { 5, 60 };
    Start start = one_worker();

    mirror_limits.zero_write = limits[_i];
    make_zero();
    start_with(&start);
    wait_event("m:READY");
    ck_assert_int_eq(mem_disk_bytes(mem_disk_of(target), MEM_ZERO), LONG);
    ck_assert_int_eq(mem_disk_count(mem_disk_of(target), MEM_ZERO), counts[_i]);
    if (_i) {
        /* What is left after each was given back, and looked at again. */
        ck_assert_int_ge(mem_disk_count(mem_disk_of(source), MEM_STATUS),
                         counts[_i]);
    }
    finish_and_compare();
    unmake();
}
END_TEST

/* A granule of data is given up in the middle, too. */
START_TEST(test_cancel_granule)
{
    Start start = one_worker();
    MemDisk *dst;

    start.options.granularity = 64 * MiB;
    make(LONG);
    mem_disk_hide_zeroes(mem_disk_of(source));
    dst = mem_disk_of(target);
    mem_disk_hold(dst, MEM_WRITE, 2);
    start_with(&start);
    mem_disk_wait_held(dst);
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
    mem_disk_let_go(dst);
    wait_event("m:null");
    ck_assert_int_eq(mem_disk_count(dst, MEM_WRITE), 3);
    unmake();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("mirror-options");
    TCase *t = tcase_create("mirror-options");

    tcase_add_checked_fixture(t, mirror_set_up, mirror_tear_down);
    tcase_add_loop_test(t, test_none, 0, 2);
    tcase_add_test(t, test_none_target_is_zero);
    tcase_add_test(t, test_top);
    tcase_add_loop_test(t, test_replaces, 0, 2);
    tcase_add_test(t, test_replaces_device);
    tcase_add_test(t, test_replaces_refused);
    tcase_add_loop_test(t, test_plain_zeroes, 0, 2);
    tcase_add_test(t, test_plain_speed);
    tcase_add_loop_test(t, test_pace, 0, 2);
    tcase_add_test(t, test_cancel_granule);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
