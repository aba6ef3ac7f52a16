/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The backup job (block/backup.c), and what guests do meanwhile: the target gets what
 * the source held when the job started, each cluster once.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "block/backup.h"
#include "block/copy-before-write.h"
#include "block/dirty-bitmap.h"
#include "block/mirror-int.h"
#include "job-harness.h"
#include "mirror-fixture.h"
#include "unit-main.h"

#define CLUSTER (64 * KiB)
#define LENGTH (8 * MiB + 5000)

static MemDisk *src, *dst;
static uint8_t *moment; /* what the source held */
static BlockCopy *copier;

/* ---- the job ------------------------------------------------------------ */

typedef struct BackupStart {
    BackupOptions options;
    BdrvDirtyBitmap *bitmap;
    bool abandon;
    GError *err;
    bool ok;
} BackupStart;

static BackupOptions options(BackupSync sync)
{
    return (BackupOptions){
        .job = { .id = "m", .auto_finalize = true, .auto_dismiss = true },
        .device = "src",
        .target = "dst",
        .filter_node_name = "filter",
        .sync = sync,
        .max_workers = 64,
    };
}

static void start_now(void *opaque)
{
    BackupStart *start = opaque;
    BlockDriverState *filter;
    Job *job;

    bdrv_drained_begin(source);
    memcpy(moment, mem_disk_data(src), LENGTH);
    job = backup_create(&start->options, &start->err);
    start->ok = job != NULL;
    if (job && start->abandon) {
        job_abandon(job);
    } else if (job) {
        filter = bdrv_find_node("filter", NULL);
        copier = cbw_block_copy(filter);
        bdrv_unref(filter);
        job_start(job);
    }
    bdrv_drained_end(source);
}

static void start_with_options(const BackupOptions *with)
{
    BackupStart start = { .options = *with };

    forget_events();
    on_management(start_now, &start);
    ck_assert_msg(start.ok, "%s", start.err ? start.err->message : "no error");
}

static void start_backup(BackupSync sync)
{
    BackupOptions with = options(sync);

    start_with_options(&with);
}

static void make_backup_disks(void)
{
    make_filled(LENGTH);
    src = mem_disk_of(source);
    dst = mem_disk_of(target);
    moment = g_malloc(LENGTH);
    mem_disk_forbid_overlap(dst);
}

static void unmake_backup_disks(void)
{
    unmake();
    g_free(moment);
}

/* The target holds the moment in [@offset, @offset + @bytes). */
static void assert_copied(int64_t offset, int64_t bytes)
{
    const uint8_t *have = mem_disk_data(dst);

    if (memcmp(have + offset, moment + offset, bytes) == 0) {
        return;
    }
    while (have[offset] == moment[offset]) {
        offset++;
    }
    ck_abort_msg("at %" G_GINT64_FORMAT ": %d, not %d", offset, have[offset],
                 moment[offset]);
}

/* How many bytes of clusters are not all zero at the moment, from @start on */
static int64_t data_bytes(int64_t start)
{
    int64_t n = 0;
    int64_t pos;

    for (pos = start; pos < LENGTH; pos += CLUSTER) {
        int64_t bytes = MIN(CLUSTER, LENGTH - pos);
        int64_t i;

        for (i = 0; i < bytes && moment[pos + i] == 0; i++) {
        }
        n += i < bytes ? bytes : 0;
    }
    return n;
}

static bool is_zero_cluster(int64_t at)
{
    int64_t i;

    for (i = 0; i < CLUSTER && mem_disk_data(src)[at + i] == 0; i++) {
    }
    return i == CLUSTER;
}

/* The first cluster from @at on that is data, or all zeroes */
static int64_t find_cluster(int64_t at, bool zero)
{
    at = at / CLUSTER * CLUSTER;
    while (is_zero_cluster(at) != zero) {
        at += CLUSTER;
        ck_assert_int_lt(at + CLUSTER, LENGTH);
    }
    return at;
}

/* ---- guests ------------------------------------------------------------- */

typedef enum Kind {
    WRITE,
    ZERO,
    DISCARD
} Kind;

typedef struct Request {
    Kind kind;
    int64_t offset, bytes;
    pthread_t thread;
    int done; /* atomic */
    int ret;
} Request;

static void *request(void *opaque)
{
    Request *r = opaque;
    g_autofree uint8_t *buf = g_malloc(r->bytes);

    memset(buf, 0xee, r->bytes);
    switch (r->kind) {
    case WRITE:
        r->ret = blk_pwrite(guest, r->offset, r->bytes, buf, 0);
        break;
    case ZERO:
        r->ret =
            blk_pwrite_zeroes(guest, r->offset, r->bytes, BDRV_REQ_MAY_UNMAP);
        break;
    case DISCARD:
        r->ret = blk_pdiscard(guest, r->offset, r->bytes);
        break;
    }
    g_atomic_int_set(&r->done, 1);
    return NULL;
}

static void request_start(Request *r)
{
    pthread_create(&r->thread, NULL, request, r);
}

static int request_end(Request *r)
{
    pthread_join(r->thread, NULL);
    return r->ret;
}

static void guest_does(Kind kind, int64_t offset, int64_t bytes)
{
    Request r = { .kind = kind, .offset = offset, .bytes = bytes };

    request(&r);
    ck_assert_int_eq(r.ret, 0);
}

/* Until it waits for somebody who copies; it must not get any further. */
static void request_must_wait(Request *r)
{
    while (block_copy_waiting(copier) == 0) {
        ck_assert(!g_atomic_int_get(&r->done));
        sched_yield();
    }
}

/* ---- copies ------------------------------------------------------------- */

/* Each cluster of data is written once, and no zero at all to a fresh target. */
START_TEST(test_full)
{
    make_backup_disks();
    start_backup(BACKUP_SYNC_FULL);
    wait_event("m:null");
    check_events("m:created m:running m:waiting m:pending m:COMPLETED "
                 "m:concluded m:null");
    ck_assert_int_eq(event_int("m:COMPLETED", "len"), LENGTH);
    ck_assert_int_eq(event_int("m:COMPLETED", "offset"), LENGTH);
    assert_copied(0, LENGTH);
    ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE), data_bytes(0));
    ck_assert_int_eq(mem_disk_bytes(src, MEM_READ), data_bytes(0));
    ck_assert_int_eq(mem_disk_count(dst, MEM_ZERO), 0);
    ck_assert_int_ge(mem_disk_count(dst, MEM_FLUSH), 1);
    unmake_backup_disks();
}
END_TEST

/* What is not known to be zero there is zeroed, by a fast way or not. */
START_TEST(test_old_target)
{
    make_backup_disks();
    memset(mem_disk_data(dst), 0xdd, LENGTH);
    mem_disk_hide_zeroes(dst);
    if (_i) {
        mem_disk_no_zeroes(dst);
    }
    start_backup(BACKUP_SYNC_FULL);
    wait_event("m:null");
    assert_copied(0, LENGTH);
    ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE),
                     _i ? LENGTH : data_bytes(0));
    ck_assert_int_eq(mem_disk_bytes(dst, MEM_ZERO),
                     _i ? 0 : LENGTH - data_bytes(0));
    unmake_backup_disks();
}
END_TEST

/* Runs of zeroes that begin and end anywhere, on both: what little of a cluster is
 * known to be zero does not count. */
START_TEST(test_mixed_target)
{
    make_backup_disks();
    mem_disk_fill(dst, 7 + _i);
    start_backup(BACKUP_SYNC_FULL);
    wait_event("m:null");
    assert_copied(0, LENGTH);
    ck_assert_int_lt(mem_disk_bytes(dst, MEM_ZERO), LENGTH - data_bytes(0));
    unmake_backup_disks();
}
END_TEST

/* With "none" guests copy what they overwrite, in whole clusters, and once; and
 * zeroes too, whatever the target holds: it may stand on something. */
START_TEST(test_guests_copy)
{
    int64_t data, zero;

    make_backup_disks();
    data = find_cluster(0, false);
    zero = find_cluster(MiB, true);
    memset(mem_disk_data(dst), 0xdd, LENGTH);
    start_backup(BACKUP_SYNC_NONE);
    guest_does(_i, data + 5000, 100);
    assert_copied(data, CLUSTER);
    guest_does(_i, data, CLUSTER);
    assert_copied(data, CLUSTER);
    guest_does(_i, zero + CLUSTER - 1, 1);
    assert_copied(zero, CLUSTER);
    guest_does(_i, LENGTH - 1, 1);
    assert_copied(LENGTH / CLUSTER * CLUSTER, LENGTH % CLUSTER);
    ck_assert_int_le(mem_disk_bytes(dst, MEM_WRITE),
                     CLUSTER + LENGTH % CLUSTER);
    ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE) +
                         mem_disk_bytes(dst, MEM_ZERO),
                     2 * CLUSTER + LENGTH % CLUSTER);
    ck_assert_int_eq(mem_disk_data(dst)[(data + 3 * CLUSTER) % (4 * MiB)],
                     0xdd);
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", false, errp));
    wait_event("m:CANCELLED");
    ck_assert_int_eq(event_int("m:CANCELLED", "offset"),
                     2 * CLUSTER + LENGTH % CLUSTER);
    wait_event("m:null");
    unmake_backup_disks();
}
END_TEST

/* A cluster that a worker has in hand is not overwritten meanwhile, others are. */
START_TEST(test_guest_waits_for_worker)
{
    BackupOptions with = options(BACKUP_SYNC_FULL);
    Request same = { .kind = WRITE, .bytes = 512 };
    int64_t other;

    make_backup_disks();
    same.offset = find_cluster(0, false) + 1000;
    other = find_cluster(4 * MiB, false);
    with.max_workers = 1;
    with.max_chunk = CLUSTER;
    mem_disk_hold(dst, MEM_WRITE, 0);
    start_with_options(&with);
    mem_disk_wait_held(dst);
    request_start(&same);
    request_must_wait(&same);
    guest_does(WRITE, other, 100);
    ck_assert(!g_atomic_int_get(&same.done));
    mem_disk_let_go(dst);
    ck_assert_int_eq(request_end(&same), 0);
    wait_event("m:null");
    assert_copied(0, LENGTH);
    ck_assert_int_eq(mem_disk_data(src)[same.offset], 0xee);
    ck_assert_int_eq(mem_disk_data(src)[other], 0xee);
    ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE), data_bytes(0));
    unmake_backup_disks();
}
END_TEST

/* What a guest has in hand no worker copies, nor other guests; and the job does not
 * end before. */
START_TEST(test_worker_leaves_guests_alone)
{
    Request first = { .kind = WRITE, .bytes = 512 };
    Request second = { .kind = ZERO, .bytes = 512 };
    BackupOptions with = options(BACKUP_SYNC_FULL);

    make_backup_disks();
    first.offset = find_cluster(4 * MiB, false);
    second.offset = first.offset + 4096;
    with.job.speed = 1;
    with.max_workers = 2;
    /* Both are held up by the speed after the first request, if not before. */
    mem_disk_hold(src, MEM_READ, 1);
    start_with_options(&with);
    mem_disk_wait_count(src, MEM_READ, 1);
    request_start(&first);
    mem_disk_wait_held(src);
    request_start(&second);
    request_must_wait(&second);
    verb_ok(job_verb_set_speed("m", 0, errp));
    mem_disk_wait_count(src, MEM_READ, 4);
    ck_assert(!g_atomic_int_get(&first.done));
    mem_disk_let_go(src);
    ck_assert_int_eq(request_end(&first), 0);
    ck_assert_int_eq(request_end(&second), 0);
    wait_event("m:null");
    assert_copied(0, LENGTH);
    ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE), data_bytes(0));
    unmake_backup_disks();
}
END_TEST

typedef struct Load {
    pthread_t thread;
    int ending; /* atomic */
} Load;

static void *load(void *opaque)
{
    Load *l = opaque;
    GRand *rand = g_rand_new_with_seed(GPOINTER_TO_UINT(l));

    while (!g_atomic_int_get(&l->ending)) {
        int64_t offset = g_rand_int_range(rand, 0, LENGTH);
        int64_t bytes = g_rand_int_range(rand, 1, 300000);

        guest_does(g_rand_int_range(rand, 0, 3), offset,
                   MIN(bytes, LENGTH - offset));
    }
    g_rand_free(rand);
    return NULL;
}

/* Guests write wherever they like, and the target is of the moment all the same. */
START_TEST(test_load)
{
    Load loads[4] = { 0 };
    int round, i;

    make_backup_disks();
    for (i = 0; i < 4; i++) {
        pthread_create(&loads[i].thread, NULL, load, &loads[i]);
    }
    for (round = 0; round < 20; round++) {
        int64_t before = mem_disk_bytes(dst, MEM_WRITE);

        start_backup(BACKUP_SYNC_FULL);
        wait_event("m:null");
        assert_copied(0, LENGTH);
        ck_assert_int_le(mem_disk_bytes(dst, MEM_WRITE) - before, LENGTH);
    }
    for (i = 0; i < 4; i++) {
        g_atomic_int_set(&loads[i].ending, 1);
        pthread_join(loads[i].thread, NULL);
    }
    unmake_backup_disks();
}
END_TEST

/* ---- pause, drain, cancel ----------------------------------------------- */

/* While the job is paused guests copy what they overwrite, and nobody else does. */
START_TEST(test_pause)
{
    BackupOptions with = options(BACKUP_SYNC_FULL);
    int64_t at, reads;

    make_backup_disks();
    at = find_cluster(6 * MiB, false);
    with.job.speed = 1;
    start_with_options(&with);
    mem_disk_wait_count(dst, MEM_WRITE, 1);
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:paused");
    reads = mem_disk_count(src, MEM_READ);
    verb_ok(job_verb_set_speed("m", 0, errp));
    guest_does(WRITE, at, CLUSTER);
    ck_assert_int_eq(mem_disk_count(src, MEM_READ), reads + 1);
    assert_copied(at, CLUSTER);
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:null");
    assert_copied(0, LENGTH);
    unmake_backup_disks();
}
END_TEST

static void drain(void *opaque)
{
    bdrv_drained_begin(opaque);
    bdrv_drained_end(opaque);
}

static void drain_must_wait(void *opaque)
{
    int64_t deadline_us = g_get_monotonic_time() + 10000;

    ck_assert(!bdrv_try_drained_begin(opaque, deadline_us));
}

/* Who drains the source or the target waits for what workers have in hand, and for
 * no more: neither for the speed nor for the next. */
START_TEST(test_drain)
{
    BackupOptions with = options(BACKUP_SYNC_FULL);

    make_backup_disks();
    with.job.speed = 1;
    with.max_workers = 2;
    mem_disk_hold(dst, MEM_WRITE, 0);
    start_with_options(&with);
    mem_disk_wait_held(dst);
    on_management(drain_must_wait, source);
    on_management(drain_must_wait, target);
    mem_disk_let_go(dst);
    on_management(drain, source);
    on_management(drain, target);
    verb_ok(job_verb_set_speed("m", 0, errp));
    wait_event("m:null");
    assert_copied(0, LENGTH);
    unmake_backup_disks();
}
END_TEST

/* A guest whose request hangs keeps the filter, but not the job's workers, and no
 * other guest. */
START_TEST(test_cancel_while_guest_hangs)
{
    MirrorLimits before = mirror_limits;
    Request r = { .kind = WRITE, .bytes = 512 };

    mirror_limits.min_drain = mirror_limits.min_backoff = 1000;
    make_backup_disks();
    start_backup(BACKUP_SYNC_NONE);
    mem_disk_hold(src, MEM_WRITE, 0);
    request_start(&r);
    mem_disk_wait_held(src);
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
    wait_event("m:aborting");
    mem_disk_let_go(src);
    ck_assert_int_eq(request_end(&r), 0);
    wait_event("m:null");
    check_events("m:created m:running m:aborting m:CANCELLED m:concluded "
                 "m:null");
    mirror_limits = before;
    unmake_backup_disks();
}
END_TEST

/* Once it is cancelled guests copy nothing any more, and wait for nobody. */
START_TEST(test_cancelled_copies_nothing)
{
    Request first = { .kind = WRITE, .bytes = 512 };
    Request second = { .kind = WRITE, .bytes = 512 };
    int64_t writes;

    make_backup_disks();
    second.offset = find_cluster(CLUSTER, false);
    start_backup(BACKUP_SYNC_NONE);
    mem_disk_hold(src, MEM_WRITE, 0);
    request_start(&first);
    mem_disk_wait_held(src);
    writes = mem_disk_count(dst, MEM_WRITE);
    block_copy_stop(copier);
    request_start(&second);
    ck_assert_int_eq(request_end(&second), 0);
    ck_assert_int_eq(mem_disk_count(dst, MEM_WRITE), writes);
    mem_disk_let_go(src);
    ck_assert_int_eq(request_end(&first), 0);
    unmake_backup_disks();
}
END_TEST

/* ---- errors ------------------------------------------------------------- */

START_TEST(test_error_reported)
{
    make_backup_disks();
    mem_disk_fail(_i ? src : dst, _i ? MEM_READ : MEM_WRITE, 2, EIO);
    start_backup(BACKUP_SYNC_FULL);
    wait_event(_i ? "m:ERROR(read)" : "m:ERROR(write)");
    wait_event("m:COMPLETED(Input/output error)");
    wait_event("m:null");
    unmake_backup_disks();
}
END_TEST

START_TEST(test_error_ignored)
{
    MirrorLimits before = mirror_limits;
    BackupOptions with = options(BACKUP_SYNC_FULL);

    mirror_limits.error_wait = 1000;
    make_backup_disks();
    with.on_source_error = with.on_target_error = JOB_ON_ERROR_IGNORE;
    mem_disk_fail(src, MEM_READ, 1, EIO);
    mem_disk_fail(dst, MEM_WRITE, 1, ENOSPC);
    mem_disk_fail(dst, MEM_FLUSH, 0, EIO);
    start_with_options(&with);
    wait_event("m:ERROR(read,ignore)");
    wait_event("m:null");
    assert_copied(0, LENGTH);
    mirror_limits = before;
    unmake_backup_disks();
}
END_TEST

START_TEST(test_error_stops)
{
    BackupOptions with = options(BACKUP_SYNC_FULL);

    make_backup_disks();
    with.max_workers = 1;
    with.on_target_error = JOB_ON_ERROR_STOP;
    /* All fail, but only one is tried. */
    mem_disk_break(dst, _i ? MEM_FLUSH : MEM_WRITE, -1, EIO);
    start_with_options(&with);
    wait_event("m:ERROR(write,stop)");
    wait_event("m:paused");
    mem_disk_break(dst, _i ? MEM_FLUSH : MEM_WRITE, -1, 0);
    guest_does(WRITE, 6 * MiB, 1000);
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:null");
    check_events("m:created m:running m:ERROR(write,stop) m:paused m:running "
                 "m:waiting m:pending m:COMPLETED m:concluded m:null");
    assert_copied(0, LENGTH);
    unmake_backup_disks();
}
END_TEST

/* A guest whose copy fails writes all the same; the job has failed. */
START_TEST(test_guest_fails)
{
    BackupOptions with = options(BACKUP_SYNC_NONE);
    int64_t at;

    make_backup_disks();
    at = find_cluster(0, false);
    with.on_source_error = with.on_target_error = JOB_ON_ERROR_IGNORE;
    mem_disk_fail(_i ? src : dst, _i ? MEM_READ : MEM_WRITE, 0, EIO);
    start_with_options(&with);
    guest_does(WRITE, at, 100);
    ck_assert_int_eq(mem_disk_data(src)[at], 0xee);
    wait_event("m:null");
    if (_i) {
        check_events("m:created m:running m:ERROR(read) m:aborting "
                     "m:COMPLETED(Input/output error) m:concluded m:null");
    }
    unmake_backup_disks();
}
END_TEST

/* A paused job whose copy is lost does not wait to be resumed. */
START_TEST(test_guest_fails_paused_job)
{
    BackupOptions with = options(BACKUP_SYNC_NONE);
    int64_t at;

    make_backup_disks();
    at = find_cluster(0, false);
    start_with_options(&with);
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:paused");
    mem_disk_fail(dst, MEM_WRITE, 0, ENOSPC);
    guest_does(WRITE, at, 100);
    wait_event("m:null");
    check_events("m:created m:running m:paused m:ERROR(write) m:running "
                 "m:aborting m:COMPLETED(No space left on device) "
                 "m:concluded m:null");
    unmake_backup_disks();
}
END_TEST

/* ---- bitmaps ------------------------------------------------------------ */

static BdrvDirtyBitmap *marks;

static void add_bitmap(void *opaque)
{
    marks = bdrv_create_dirty_bitmap(source, 4096, "marks", NULL);
    ck_assert(marks != NULL);
}

static void remove_bitmap(void *opaque)
{
    ck_assert(bdrv_dirty_bitmap_check(marks, BDRV_BITMAP_DEFAULT, NULL));
    bdrv_release_dirty_bitmap(source, marks);
}

static bool is_marked(int64_t offset)
{
    int64_t pnum;

    return bdrv_dirty_bitmap_status(marks, offset, 1, &pnum);
}

/* Marked before, and copied; marked before, and not copied; marked since. */
typedef struct Marks {
    bool copied, failed, since;
} Marks;

static void run_with_bitmap(BackupSync sync, BackupBitmapMode mode, bool fail,
                            const Marks *expected)
{
    BackupOptions with = options(sync);
    int64_t first, second, third;

    make_backup_disks();
    on_management(add_bitmap, NULL);
    first = find_cluster(0, false);
    second = find_cluster(3 * MiB, false);
    third = find_cluster(6 * MiB, false);
    guest_does(WRITE, first, 1);
    guest_does(WRITE, second, 1);
    with.bitmap = "marks";
    with.have_bitmap_mode = true;
    with.bitmap_mode = mode;
    with.max_workers = 1;
    mem_disk_hold(dst, MEM_WRITE, 0);
    if (fail) {
        mem_disk_break(dst, MEM_WRITE, second, EIO);
    }
    start_with_options(&with);
    mem_disk_wait_held(dst);
    ck_assert(!bdrv_dirty_bitmap_check(marks, BDRV_BITMAP_BUSY, NULL));
    guest_does(WRITE, third, 1);
    mem_disk_let_go(dst);
    wait_event("m:null");
    ck_assert_int_eq(is_marked(first), expected->copied);
    ck_assert_int_eq(is_marked(second), expected->failed);
    ck_assert_int_eq(is_marked(third), expected->since);
    ck_assert(!is_marked(LENGTH - 1) || sync == BACKUP_SYNC_FULL);
    if (!fail) {
        assert_copied(first, CLUSTER);
        assert_copied(second, CLUSTER);
    }
    if (sync != BACKUP_SYNC_FULL) {
        ck_assert_int_le(mem_disk_bytes(dst, MEM_WRITE), 2 * CLUSTER);
    }
    on_management(remove_bitmap, NULL);
    unmake_backup_disks();
}

static const struct {
    BackupSync sync;
    BackupBitmapMode mode;
    bool fail;
    Marks expected;
} bitmap_runs[] = {
    { BACKUP_SYNC_INCREMENTAL, BACKUP_BITMAP_ON_SUCCESS, false, { 0, 0, 1 } },
    { BACKUP_SYNC_INCREMENTAL, BACKUP_BITMAP_ON_SUCCESS, true, { 1, 1, 1 } },
    { BACKUP_SYNC_BITMAP, BACKUP_BITMAP_NEVER, false, { 1, 1, 1 } },
    { BACKUP_SYNC_BITMAP, BACKUP_BITMAP_NEVER, true, { 1, 1, 1 } },
    { BACKUP_SYNC_BITMAP, BACKUP_BITMAP_ALWAYS, false, { 0, 0, 1 } },
    { BACKUP_SYNC_BITMAP, BACKUP_BITMAP_ALWAYS, true, { 0, 1, 1 } },
    { BACKUP_SYNC_FULL, BACKUP_BITMAP_ALWAYS, false, { 0, 0, 1 } },
    { BACKUP_SYNC_FULL, BACKUP_BITMAP_ALWAYS, true, { 0, 1, 1 } },
    { BACKUP_SYNC_FULL, BACKUP_BITMAP_ON_SUCCESS, true, { 1, 1, 1 } },
};

START_TEST(test_bitmap)
{
    run_with_bitmap(bitmap_runs[_i].sync, bitmap_runs[_i].mode,
                    bitmap_runs[_i].fail, &bitmap_runs[_i].expected);
}
END_TEST

/* What a worker had in hand when the job was cancelled guests may have overwritten
 * before it was read, so it is not copied. The bitmap marks no writes. */
START_TEST(test_bitmap_cancelled_in_hand)
{
    BackupOptions with = options(BACKUP_SYNC_BITMAP);
    int64_t first;

    make_backup_disks();
    on_management(add_bitmap, NULL);
    first = find_cluster(0, false);
    guest_does(WRITE, first, 1);
    bdrv_dirty_bitmap_set_enabled(marks, false);
    with.bitmap = "marks";
    with.have_bitmap_mode = true;
    with.bitmap_mode = BACKUP_BITMAP_ALWAYS;
    mem_disk_hold(src, MEM_READ, 0);
    start_with_options(&with);
    mem_disk_wait_held(src);
    block_copy_stop(copier); /* as when it is being cancelled */
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
    guest_does(WRITE, first, 1);
    mem_disk_let_go(src);
    wait_event("m:null");
    ck_assert(is_marked(first));
    on_management(remove_bitmap, NULL);
    unmake_backup_disks();
}
END_TEST

/* ---- the start ---------------------------------------------------------- */

/* A transaction may give up a job that is not started: all is as it was. */
START_TEST(test_abandon)
{
    BackupStart start = { .options = options(BACKUP_SYNC_INCREMENTAL),
                          .abandon = true };

    make_backup_disks();
    on_management(add_bitmap, NULL);
    guest_does(WRITE, 0, 1);
    start.options.bitmap = "marks";
    on_management(start_now, &start);
    ck_assert(start.ok);
    check_home(source);
    ck_assert(is_marked(0));
    ck_assert(!is_marked(MiB));
    on_management(remove_bitmap, NULL);
    unmake_backup_disks();
}
END_TEST

/* What cannot be begun leaves nothing behind; the node's name is taken last. */
START_TEST(test_refused)
{
    BackupStart start = { .options = options(BACKUP_SYNC_FULL) };

    make_backup_disks();
    start.options.filter_node_name = "src";
    on_management(start_now, &start);
    ck_assert(!start.ok);
    ck_assert_str_eq(
        start.err->message,
        "Could not create node: Duplicate nodes with node-name='src'");
    g_error_free(start.err);
    check_home(source);
    unmake_backup_disks();
}
END_TEST

static BlockDriverState *second_target;

static void add_second_target(void *opaque)
{
    second_target = mem_disk_new("dst2", LENGTH);
}

static void remove_second_target(void *opaque)
{
    bdrv_unref(second_target);
}

/* Several of one source: each is of its moment, however they end. */
START_TEST(test_two)
{
    BackupOptions with = options(BACKUP_SYNC_FULL);
    g_autofree uint8_t *first = NULL;
    int64_t at;

    make_backup_disks();
    on_management(add_second_target, NULL);
    at = find_cluster(2 * MiB, false);
    start_backup(BACKUP_SYNC_NONE);
    guest_does(WRITE, at, 1);
    first = g_memdup2(moment, LENGTH);
    with.job.id = "n";
    with.target = "dst2";
    with.filter_node_name = "outer";
    with.job.speed = 1;
    start_with_options(&with);
    guest_does(WRITE, at + CLUSTER, CLUSTER);
    ck_assert(memcmp(mem_disk_data(dst) + at, first + at, 2 * CLUSTER) == 0);
    verb_ok(job_verb_set_speed("n", 0, errp));
    wait_event("n:null");
    dst = mem_disk_of(second_target);
    assert_copied(0, LENGTH);
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
    wait_event("m:null");
    on_management(remove_second_target, NULL);
    unmake_backup_disks();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("backup");
    TCase *tc = tcase_create("copies");

    tcase_set_timeout(tc, 60);

    tcase_add_checked_fixture(tc, harness_start, harness_stop);
    tcase_add_test(tc, test_full);
    tcase_add_loop_test(tc, test_old_target, 0, 2);
    tcase_add_loop_test(tc, test_mixed_target, 0, 10);
    tcase_add_loop_test(tc, test_guests_copy, 0, 3);
    tcase_add_test(tc, test_guest_waits_for_worker);
    tcase_add_test(tc, test_worker_leaves_guests_alone);
    tcase_add_test(tc, test_load);
    suite_add_tcase(s, tc);

    tc = tcase_create("standstill");
    tcase_add_checked_fixture(tc, harness_start, harness_stop);
    tcase_add_test(tc, test_pause);
    tcase_add_test(tc, test_drain);
    tcase_add_test(tc, test_cancel_while_guest_hangs);
    tcase_add_test(tc, test_cancelled_copies_nothing);
    suite_add_tcase(s, tc);

    tc = tcase_create("errors");
    tcase_add_checked_fixture(tc, harness_start, harness_stop);
    tcase_add_loop_test(tc, test_error_reported, 0, 2);
    tcase_add_test(tc, test_error_ignored);
    tcase_add_loop_test(tc, test_error_stops, 0, 2);
    tcase_add_loop_test(tc, test_guest_fails, 0, 2);
    suite_add_tcase(s, tc);

    tc = tcase_create("bitmaps");
    tcase_add_checked_fixture(tc, harness_start, harness_stop);
    tcase_add_loop_test(tc, test_bitmap, 0, G_N_ELEMENTS(bitmap_runs));
    tcase_add_test(tc, test_bitmap_cancelled_in_hand);
    suite_add_tcase(s, tc);

    tc = tcase_create("start");
    tcase_add_checked_fixture(tc, harness_start, harness_stop);
    tcase_add_test(tc, test_guest_fails_paused_job);
    tcase_add_test(tc, test_abandon);
    tcase_add_test(tc, test_refused);
    tcase_add_test(tc, test_two);
    suite_add_tcase(s, tc);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
