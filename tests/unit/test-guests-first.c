/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What mirrors and backups have in flight while guests use disks, and while nobody
 * does (block/job-pace.c).
 */
#include <sched.h>
#include <string.h>

#include "block/backup.h"
#include "block/guest-use.h"
#include "block/mirror-int.h"
#include "job-harness.h"
#include "mirror-fixture.h"
#include "unit-main.h"

#define LENGTH (40 * MiB)

static MemDisk *src, *dst;

/* All of it is data. Guests are there, or not: for the whole test */
static void make_full(bool guests)
{
    g_autofree uint8_t *buf = g_malloc(LENGTH);

    memset(buf, 0xaa, LENGTH);
    make(LENGTH);
    ck_assert_int_eq(blk_pwrite(guest, 0, LENGTH, buf, 0), 0);
    src = mem_disk_of(source);
    dst = mem_disk_of(target);
    mem_disk_freeze(dst, MEM_WRITE);
    guest_use_forget();
    if (guests) {
        guest_use_note(INT64_MAX / 2);
    }
}

static void start_backup_now(void *opaque)
{
    BackupOptions with = {
        .job = { .id = "m", .auto_finalize = true, .auto_dismiss = true },
        .device = "src",
        .target = "dst",
        .filter_node_name = "filter",
        .sync = BACKUP_SYNC_FULL,
        .max_workers = 64,
    };
    Job *job;

    bdrv_drained_begin(source);
    job = backup_create(&with, NULL);
    ck_assert(job != NULL);
    job_start(job);
    bdrv_drained_end(source);
}

/* @n writes of @bytes together are in flight, and no more. */
static void check_in_flight(int64_t n, int64_t bytes)
{
    mem_disk_wait_count(dst, MEM_WRITE, n);
    ck_assert(!mem_disk_await_count(dst, MEM_WRITE, n + 1));
    ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE), bytes);
}

static void finish_mirror(void)
{
    mem_disk_thaw(dst, MEM_WRITE);
    wait_event("m:READY");
    finish_and_compare();
    unmake();
}

static void finish_backup(void)
{
    mem_disk_thaw(dst, MEM_WRITE);
    wait_event("m:null");
    assert_mirrored();
    unmake();
}

START_TEST(test_mirror)
{
    make_full(true);
    start_mirror();
    check_in_flight(2, MiB);
    finish_mirror();
}
END_TEST

START_TEST(test_mirror_alone)
{
    make_full(false);
    start_mirror();
    check_in_flight(16, 16 * MiB);
    finish_mirror();
}
END_TEST

/* Guests leave while all but two workers wait. */
START_TEST(test_mirror_left_alone)
{
    make_full(true);
    start_mirror();
    check_in_flight(2, MiB);
    mem_disk_freeze(src, MEM_READ);
    guest_use_forget();
    mem_disk_thaw(dst, MEM_WRITE);
    mem_disk_wait_count(src, MEM_READ, 2 + 16);
    ck_assert_int_eq(mem_disk_bytes(src, MEM_READ), MiB + 16 * MiB);
    mem_disk_thaw(src, MEM_READ);
    finish_mirror();
}
END_TEST

/* Two requests, one of which is read while the other is written */
START_TEST(test_mirror_granularity)
{
    Start with = defaults();

    with.options.granularity = 2 * MiB;
    make_full(true);
    start_with(&with);
    check_in_flight(2, 2 * MiB);
    finish_mirror();
}
END_TEST

/* buf-size is still as much as there may be. */
START_TEST(test_mirror_buffer)
{
    Start with = defaults();

    with.options.buf_size = 256 * KiB;
    make_full(true);
    start_with(&with);
    check_in_flight(1, 256 * KiB);
    finish_mirror();
}
END_TEST

/* Where zeroes have to be written like data they count as such. */
START_TEST(test_mirror_plain_zeroes)
{
    make_full(true);
    ck_assert_int_eq(blk_pwrite_zeroes(guest, 0, LENGTH, 0), 0);
    mem_disk_hide_zeroes(dst);
    mem_disk_no_zeroes(dst);
    start_mirror();
    mem_disk_wait_count(dst, MEM_WRITE, 2);
    /* Who has picked zeroes meanwhile does not know yet. */
    ck_assert(!mem_disk_await_count(dst, MEM_WRITE, 2 + 2));
    finish_mirror();
}
END_TEST

static bool is_on_hold(void)
{
    BlockDriverState *filter = bdrv_find_node("filter", NULL);
    MirrorTop *top = filter->opaque;
    bool hold;

    mutex_lock(&top->job->lock);
    hold = top->job->hold;
    mutex_unlock(&top->job->lock);
    bdrv_unref_later(filter);
    return hold;
}

/* While guests stand still, for the rest of the copy, there is nobody to step back
 * for. */
START_TEST(test_mirror_rest)
{
    g_autofree uint8_t *buf = g_malloc0(8 * MiB);

    make_full(true);
    mem_disk_thaw(dst, MEM_WRITE);
    start_mirror();
    wait_event("m:READY");
    mem_disk_freeze(dst, MEM_WRITE);
    ck_assert_int_eq(blk_pwrite(guest, 0, 8 * MiB, buf, 0), 0);
    mem_disk_wait_count(dst, MEM_WRITE, 2 * LENGTH / MiB + 2);
    complete();
    while (!is_on_hold()) {
        sched_yield();
    }
    mem_disk_freeze(src, MEM_READ);
    mem_disk_thaw(dst, MEM_WRITE);
    mem_disk_wait_count(src, MEM_READ, 2 * LENGTH / MiB + 2 + 7);
    ck_assert_int_eq(mem_disk_bytes(src, MEM_READ), LENGTH + 8 * MiB);
    mem_disk_thaw(src, MEM_READ);
    wait_event("m:null");
    unmake();
}
END_TEST

START_TEST(test_backup)
{
    make_full(true);
    on_management(start_backup_now, NULL);
    check_in_flight(2, MiB);
    finish_backup();
}
END_TEST

START_TEST(test_backup_alone)
{
    make_full(false);
    on_management(start_backup_now, NULL);
    check_in_flight(16, 16 * MiB);
    finish_backup();
}
END_TEST

static bool was_noted(void)
{
    bool noted = guest_use_last() > 0;

    guest_use_forget();
    return noted;
}

/* Whatever guests do with a disk, it is noted. */
START_TEST(test_noted)
{
    g_autofree uint8_t *buf = g_malloc0(4 * KiB);

    make_filled(MiB);
    was_noted();
    ck_assert_int_eq(blk_pread(guest, 0, 4 * KiB, buf, 0), 0);
    ck_assert(was_noted());
    ck_assert_int_eq(blk_pwrite(guest, 0, 4 * KiB, buf, 0), 0);
    ck_assert(was_noted());
    ck_assert_int_eq(blk_pwrite_zeroes(guest, 0, 4 * KiB, 0), 0);
    ck_assert(was_noted());
    ck_assert_int_eq(blk_pdiscard(guest, 0, 4 * KiB), 0);
    ck_assert(was_noted());
    ck_assert_int_eq(blk_flush(guest), 0);
    ck_assert(was_noted());
    unmake();
}
END_TEST

static void *read_a_block(void *opaque)
{
    uint8_t buf[4096];

    ck_assert_int_eq(blk_pread(guest, 0, sizeof(buf), buf, 0), 0);
    return NULL;
}

/* Both when it begins and when it ends, as it may take long */
START_TEST(test_noted_twice)
{
    pthread_t thread;

    make_filled(MiB);
    src = mem_disk_of(source);
    was_noted();
    mem_disk_hold(src, MEM_READ, 0);
    pthread_create(&thread, NULL, read_a_block, NULL);
    mem_disk_wait_held(src);
    ck_assert(was_noted());
    mem_disk_let_go(src);
    pthread_join(thread, NULL);
    ck_assert(was_noted());
    unmake();
}
END_TEST

/* Jobs do not step back for each other, nor for themselves. */
START_TEST(test_jobs_not_noted)
{
    make_filled(MiB);
    was_noted();
    start_mirror();
    wait_event("m:READY");
    finish_and_compare();
    ck_assert(!was_noted());
    unmake();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("guests-first");
    TCase *t = tcase_create("guests-first");

    tcase_add_checked_fixture(t, mirror_set_up, mirror_tear_down);
    tcase_add_test(t, test_mirror);
    tcase_add_test(t, test_mirror_alone);
    tcase_add_test(t, test_mirror_left_alone);
    tcase_add_test(t, test_mirror_granularity);
    tcase_add_test(t, test_mirror_buffer);
    tcase_add_test(t, test_mirror_plain_zeroes);
    tcase_add_test(t, test_mirror_rest);
    tcase_add_test(t, test_backup);
    tcase_add_test(t, test_backup_alone);
    tcase_add_test(t, test_noted);
    tcase_add_test(t, test_noted_twice);
    tcase_add_test(t, test_jobs_not_noted);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
