/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirror job with copy-mode=write-blocking (block/mirror-active.c): what
 * guests write is on both disks when they are told so.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "block/job-workers.h"
#include "block/mirror-int.h"
#include "job-harness.h"
#include "mirror-fixture.h"
#include "unit-main.h"

#define GRANULE (64 * KiB)

static MirrorJob *job;
static MemDisk *src, *dst;

static void find_job(void *opaque)
{
    BlockDriverState *filter = bdrv_find_node("filter", NULL);

    ck_assert(filter != NULL);
    job = ((MirrorTop *)filter->opaque)->job;
    bdrv_unref(filter);
}

static void start_with_policy(JobErrorPolicy policy)
{
    Start start = defaults();

    start.options.write_blocking = true;
    start.options.on_target_error = policy;
    src = mem_disk_of(source);
    dst = mem_disk_of(target);
    start_with(&start);
    on_management(find_job, NULL);
}

static void start_active(void)
{
    start_with_policy(JOB_ON_ERROR_REPORT);
}

/* Ready, and nobody has seen a byte that is not the same on both since. */
static void make_active(int64_t length)
{
    make_filled(length);
    start_active();
    wait_event("m:READY");
    assert_mirrored();
}

static int64_t dirty_bytes(void)
{
    return bdrv_get_dirty_count(job->dirty);
}

static void pwrite_ok(int64_t offset, int64_t bytes, uint8_t value)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    memset(buf, value, bytes);
    ck_assert_int_eq(blk_pwrite(guest, offset, bytes, buf, 0), 0);
}

/* A request of a guest on a thread of its own */
typedef enum Kind {
    WRITE,
    ZERO,
    DISCARD,
    READ
} Kind;

typedef struct Request {
    Kind kind;
    int64_t offset, bytes;
    uint8_t value;
    pthread_t thread;
    int done; /* atomic */
    int ret;
} Request;

static void *request(void *opaque)
{
    Request *r = opaque;
    g_autofree uint8_t *buf = g_malloc(r->bytes);

    memset(buf, r->value, r->bytes);
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
    case READ:
        r->ret = blk_pread(guest, r->offset, r->bytes, buf, 0);
        break;
    }
    g_atomic_int_set(&r->done, 1);
    return NULL;
}

static void request_start(Request *r)
{
    pthread_create(&r->thread, NULL, request, r);
}

static void request_end(Request *r)
{
    pthread_join(r->thread, NULL);
    ck_assert_int_eq(r->ret, 0);
}

/* Until it waits for a range; it must not get any further. */
static void request_must_wait(Request *r)
{
    while (range_lock_waiting(job->ranges) == 0) {
        ck_assert(!g_atomic_int_get(&r->done));
        sched_yield();
    }
}

/* ---- both disks --------------------------------------------------------- */

/* At any alignment; no worker has anything to do with it. */
START_TEST(test_both)
{
    static const struct {
        int64_t offset, bytes;
    } ranges[] = {
        { 0, 1 },
        { 5000, 70000 },
        { GRANULE, GRANULE },
        { 3 * GRANULE - 1, 2 },
        { 4 * MiB + 100, 134 },
        { 0, 4 * MiB + 234 },
    };
    size_t i;

    make_active(4 * MiB + 234);
    for (i = 0; i < G_N_ELEMENTS(ranges); i++) {
        int64_t offset = ranges[i].offset, bytes = ranges[i].bytes;
        int64_t reads = mem_disk_count(src, MEM_READ);

        pwrite_ok(offset, bytes, 100 + i);
        assert_mirrored();
        ck_assert_int_eq(blk_pwrite_zeroes(guest, offset, bytes, 0), 0);
        assert_mirrored();
        pwrite_ok(offset, bytes, 200 + i);
        ck_assert_int_eq(mem_disk_count(src, MEM_READ), reads);
        ck_assert_int_eq(blk_pdiscard(guest, offset, bytes), 0);
        ck_assert_int_eq(mem_disk_data(dst)[offset], 0);
        assert_mirrored();
        ck_assert_int_eq(dirty_bytes(), 0);
    }
    complete();
    wait_event("m:null");
    check_home(target);
    unmake();
}
END_TEST

/* Overlapping writes go to both disks in the same order. */
START_TEST(test_same_order)
{
    Request one = { .offset = 100, .bytes = 1000, .value = 1 };
    Request two = { .offset = 600, .bytes = 1000, .value = 2 };
    Request other = { .offset = 2000, .bytes = 1000, .value = 3 };

    make_active(MiB);
    mem_disk_hold(dst, MEM_WRITE, 0);
    request_start(&one);
    mem_disk_wait_held(dst);
    request_start(&two);
    request_must_wait(&two);
    /* In the same granule, but not the same bytes */
    request_start(&other);
    request_end(&other);
    mem_disk_let_go(dst);
    request_end(&one);
    request_end(&two);
    ck_assert_int_eq(mem_disk_data(dst)[700], 2);
    assert_mirrored();
    finish_and_compare();
    unmake();
}
END_TEST

/* ---- guests and workers ------------------------------------------------- */

/* When the workers are about to start */
static void (*before_workers)(void);

int __real_job_workers_start(JobWorkers *w, unsigned n, void *(*run)(void *),
                             JobWorkerOpaque *item, void *opaque);
int __wrap_job_workers_start(JobWorkers *w, unsigned n, void *(*run)(void *),
                             JobWorkerOpaque *item, void *opaque);

int __wrap_job_workers_start(JobWorkers *w, unsigned n, void *(*run)(void *),
                             JobWorkerOpaque *item, void *opaque)
{
    if (before_workers) {
        before_workers();
    }
    return __real_job_workers_start(w, n, run, item, opaque);
}

static void write_before_workers(void)
{
    before_workers = NULL;
    pwrite_ok(0, 512, 9);
    ck_assert_int_eq(mem_disk_data(dst)[511], 9);
}

/* A write that got to the source only could come after the worker's copy of the
 * same granule, and be missing on the target when the job is ready. */
START_TEST(test_first_write)
{
    make(MiB);
    before_workers = write_before_workers;
    start_active();
    wait_event("m:READY");
    ck_assert(before_workers == NULL);
    finish_and_compare();
    unmake();
}
END_TEST

/* A worker has read and is about to write: the guest waits for it. Whatever the
 * guest does then is newer. */
START_TEST(test_after_worker)
{
    Kind kind;

    for (kind = WRITE; kind <= DISCARD; kind++) {
        Request r = { .kind = kind, .offset = 0, .bytes = GRANULE, .value = 9 };

        make(MiB);
        memset(mem_disk_data(mem_disk_of(source)), 1, MiB);
        mem_disk_hide_zeroes(mem_disk_of(source));
        mem_disk_hold(mem_disk_of(target), MEM_WRITE, 0);
        start_active();
        mem_disk_wait_held(dst);
        request_start(&r);
        request_must_wait(&r);
        mem_disk_let_go(dst);
        request_end(&r);
        wait_event("m:READY");
        ck_assert_int_eq(mem_disk_data(dst)[5], kind == WRITE ? 9 : 0);
        finish_and_compare();
        unmake();
    }
}
END_TEST

/*
 * Two guests that write to one granule all the time: the one's write does not
 * end before the other's is in flight. It is copied nevertheless.
 */
static int in_flight, no_more; /* atomic; the former: how many were so far */

static void until_the_other_writes(void *opaque)
{
    int mine = g_atomic_int_add(&in_flight, 1) + 1;

    while (!g_atomic_int_get(&no_more) &&
           g_atomic_int_get(&in_flight) == mine &&
           range_lock_waiting(job->ranges) == 0) {
        sched_yield();
    }
}

static void *keep_writing(void *opaque)
{
    int64_t offset = 1000 * (1 + GPOINTER_TO_INT(opaque));
    uint8_t byte;

    for (byte = 0; !g_atomic_int_get(&no_more); byte++) {
        ck_assert_int_eq(blk_pwrite(guest, offset, 1, &byte, 0), 0);
    }
    return NULL;
}

START_TEST(test_never_free)
{
    pthread_t threads[2];
    int i;

    make(GRANULE);
    memset(mem_disk_data(mem_disk_of(source)), 1, GRANULE);
    mem_disk_hide_zeroes(mem_disk_of(source));
    /* The target is not known yet, so nothing is copied. */
    mem_disk_hold(mem_disk_of(target), MEM_STATUS, 0);
    start_active();
    mem_disk_wait_held(dst);
    mem_disk_after_write(src, until_the_other_writes);
    for (i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, keep_writing, GINT_TO_POINTER(i));
    }
    while (g_atomic_int_get(&in_flight) < 10) {
        sched_yield();
    }
    mem_disk_let_go(dst);
    wait_event("m:READY");
    g_atomic_int_set(&no_more, 1);
    for (i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_mirrored();
    finish_and_compare();
    unmake();
}
END_TEST

/* A drain waits for a guest that waits for a worker that goes on past the gate
 * that the drain has closed. */
static void drain_source(void *opaque)
{
    bdrv_drained_begin(source);
    bdrv_drained_end(source);
}

static void *drain_by_management(void *opaque)
{
    on_management(drain_source, NULL);
    return NULL;
}

/* Somebody who tells whether the gates above the source are closed, as he does
 * not wait there */
static void attach_probe(void *opaque)
{
    BlockBackend **probe = opaque;
    BlockDriverState *bs = bdrv_find_node("filter", NULL);

    *probe = blk_new("probe", false, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    ck_assert(blk_attach(*probe, bs, NULL));
    bdrv_unref(bs);
    blk_cancel_waits(*probe);
}

static void free_probe(void *opaque)
{
    blk_free(*(BlockBackend **)opaque);
}

START_TEST(test_drain)
{
    Request r = { .offset = 0, .bytes = 10, .value = 9 };
    BlockBackend *probe;
    pthread_t thread;
    uint8_t byte;

    make(MiB);
    memset(mem_disk_data(mem_disk_of(source)), 1, MiB);
    mem_disk_hide_zeroes(mem_disk_of(source));
    mem_disk_hold(mem_disk_of(source), MEM_STATUS, 0);
    start_active();
    mem_disk_wait_held(src);
    request_start(&r);
    request_must_wait(&r);
    on_management(attach_probe, &probe);
    pthread_create(&thread, NULL, drain_by_management, NULL);
    while (blk_pread(probe, 0, 1, &byte, 0) != -ECANCELED) {
        sched_yield();
    }
    mem_disk_let_go(src);
    request_end(&r);
    pthread_join(thread, NULL);
    wait_event("m:READY");
    on_management(free_probe, &probe);
    finish_and_compare();
    unmake();
}
END_TEST

/* A guest that hangs does not keep the workers from the rest, nor the job from
 * being cancelled. */
START_TEST(test_hung_guest)
{
    Request r = { .offset = 0, .bytes = 10, .value = 9 };
    int64_t before;

    make(4 * MiB);
    memset(mem_disk_data(mem_disk_of(source)), 1, 4 * MiB);
    mem_disk_hide_zeroes(mem_disk_of(source));
    mem_disk_hold(mem_disk_of(target), MEM_STATUS, 0);
    start_active();
    mem_disk_wait_held(dst);
    /* It is not mirrored before the target is known. */
    mem_disk_let_go(dst);
    while (!mirror_is_active(job)) {
        sched_yield();
    }
    before = mem_disk_count(src, MEM_WRITE);
    mem_disk_hold(src, MEM_WRITE, 0);
    request_start(&r);
    mem_disk_wait_count(src, MEM_WRITE, before + 1);
    while (dirty_bytes() > GRANULE) {
        sched_yield();
    }
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
    wait_event("m:aborting");
    mem_disk_let_go(src);
    request_end(&r);
    wait_event("m:null");
    check_home(source);
    unmake();
}
END_TEST

/* The status of the target is asked for while guests write. */
START_TEST(test_learning)
{
    make(MiB);
    mem_disk_hold(mem_disk_of(target), MEM_STATUS, 0);
    start_active();
    mem_disk_wait_held(dst);
    pwrite_ok(0, GRANULE, 7);
    mem_disk_let_go(dst);
    wait_event("m:READY");
    assert_mirrored();
    ck_assert_int_eq(blk_pwrite_zeroes(guest, 0, GRANULE, BDRV_REQ_MAY_UNMAP),
                     0);
    assert_mirrored();
    finish_and_compare();
    unmake();
}
END_TEST

/* ---- what is known of the target ---------------------------------------- */

/* What is zero there is not zeroed again; what a guest wrote is not zero. */
START_TEST(test_target_zero)
{
    int64_t zeroes;

    make(MiB);
    start_active();
    wait_event("m:READY");
    zeroes = mem_disk_count(dst, MEM_ZERO);
    ck_assert_int_eq(blk_pwrite_zeroes(guest, 100, 300000, BDRV_REQ_MAY_UNMAP),
                     0);
    ck_assert_int_eq(mem_disk_count(dst, MEM_ZERO), zeroes);
    /* Zeroes that are to be allocated */
    ck_assert_int_eq(blk_pwrite_zeroes(guest, 100, 300000, 0), 0);
    ck_assert_int_eq(mem_disk_count(dst, MEM_ZERO), zeroes + 1);
    pwrite_ok(GRANULE + 5, 1, 3);
    ck_assert_int_eq(
        blk_pwrite_zeroes(guest, GRANULE, GRANULE, BDRV_REQ_MAY_UNMAP), 0);
    ck_assert_int_eq(mem_disk_count(dst, MEM_ZERO), zeroes + 2);
    assert_mirrored();
    /* By a worker, too: the source was written past the filter. */
    pwrite_ok(2 * GRANULE + 5, 1, 3);
    memset(mem_disk_data(src) + 2 * GRANULE, 0, GRANULE);
    bdrv_set_dirty(source, 2 * GRANULE, GRANULE);
    finish_and_compare();
    unmake();
}
END_TEST

/* ---- dirty bits --------------------------------------------------------- */

/* What a guest covers need not be copied any more, what it touches has to be. */
START_TEST(test_dirty)
{
    const int64_t length = 8 * GRANULE + 100;
    Start start = defaults();

    make(length);
    memset(mem_disk_data(mem_disk_of(source)), 1, length);
    mem_disk_hide_zeroes(mem_disk_of(source));
    /* Paused before it has copied anything, with the target known */
    mem_disk_hold(mem_disk_of(target), MEM_STATUS, 0);
    start.options.write_blocking = true;
    src = mem_disk_of(source);
    dst = mem_disk_of(target);
    start_with(&start);
    on_management(find_job, NULL);
    mem_disk_wait_held(dst);
    mem_disk_hold(src, MEM_STATUS, 0);
    mem_disk_let_go(dst);
    mem_disk_wait_held(src);
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "m", errp));
    mem_disk_let_go(src);
    wait_event("m:paused");
    /* One operation may have been done: all of it */
    bdrv_set_dirty(source, 0, length);
    ck_assert_int_eq(dirty_bytes(), length);
    pwrite_ok(GRANULE - 1, GRANULE + 2, 2);
    ck_assert_int_eq(dirty_bytes(), length - GRANULE);
    pwrite_ok(8 * GRANULE, 100, 3);
    ck_assert_int_eq(dirty_bytes(), length - GRANULE - 100);
    ck_assert_int_eq(blk_pwrite_zeroes(guest, 4 * GRANULE, 2 * GRANULE, 0), 0);
    ck_assert_int_eq(dirty_bytes(), length - 3 * GRANULE - 100);
    /* Zeroes that cannot be had fast: nothing has happened. */
    mem_disk_fail(src, MEM_ZERO, 0, ENOTSUP);
    ck_assert_int_eq(
        blk_pwrite_zeroes(guest, 6 * GRANULE, GRANULE, BDRV_REQ_NO_FALLBACK),
        -ENOTSUP);
    mem_disk_fail(src, MEM_ZERO, 0, ENOTSUP);
    ck_assert_int_eq(
        blk_pwrite_zeroes(guest, 4 * GRANULE, GRANULE, BDRV_REQ_NO_FALLBACK),
        -ENOTSUP);
    ck_assert_int_eq(dirty_bytes(), length - 3 * GRANULE - 100);
    /* A guest can do what is left by itself. */
    pwrite_ok(0, length, 4);
    ck_assert_int_eq(dirty_bytes(), 0);
    assert_mirrored();
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:READY");
    finish_and_compare();
    unmake();
}
END_TEST

/* Somebody writes to the source itself, while a guest writes the same. */
START_TEST(test_beside)
{
    Request r = { .offset = 0, .bytes = GRANULE, .value = 9 };

    make_active(MiB);
    mem_disk_hold(dst, MEM_WRITE, 0);
    request_start(&r);
    mem_disk_wait_held(dst);
    mem_disk_data(src)[100] = 55;
    bdrv_set_dirty(source, 100, 1);
    mem_disk_let_go(dst);
    request_end(&r);
    finish_and_compare();
    ck_assert_int_eq(mem_disk_data(dst)[100], 55);
    unmake();
}
END_TEST

/* ---- errors ------------------------------------------------------------- */

/* The target fails: the guest is not told, what failed is dirty, and from then
 * on nothing goes to the target. */
START_TEST(test_target_errors)
{
    static const MemRequest kinds[] = { MEM_WRITE, MEM_ZERO, MEM_ZERO };
    MirrorLimits limits = mirror_limits;
    Kind kind;

    /* The drain that the hung read holds up is tried again at once. */
    mirror_limits.min_drain = mirror_limits.min_backoff = 1000;
    for (kind = WRITE; kind <= DISCARD; kind++) {
        Request r = { .kind = kind, .offset = 10, .bytes = 2 * GRANULE };
        Request hung = { .kind = READ, .offset = 0, .bytes = 1 };
        int64_t written;

        make_active(MiB);
        pwrite_ok(0, MiB, 1);
        /* It holds the filter back. */
        mem_disk_hold(src, MEM_READ, 0);
        request_start(&hung);
        mem_disk_wait_held(src);
        mem_disk_fail(dst, kinds[kind], 0, ENOSPC);
        request_start(&r);
        request_end(&r);
        ck_assert_int_eq(dirty_bytes(), 3 * GRANULE);
        wait_event("m:aborting");
        written = mem_disk_bytes(dst, MEM_WRITE);
        pwrite_ok(100, 1000, 5);
        ck_assert_int_eq(mem_disk_data(src)[100], 5);
        ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE), written);
        mem_disk_let_go(src);
        request_end(&hung);
        wait_event("m:null");
        check_events("m:created m:running m:ready m:READY m:ERROR(write) "
                     "m:aborting m:COMPLETED(No space left on device) "
                     "m:concluded m:null");
        check_home(source);
        unmake();
    }
    mirror_limits = limits;
}
END_TEST

static bool has_failed(void)
{
    MUTEX_GUARD(&job->lock);
    return mirror_has_failed(job);
}

/* A job that stops for it: writes go on to both disks, and mend what failed if
 * they cover it. The rest is copied when the job goes on. */
START_TEST(test_stop)
{
    make_filled(MiB);
    start_with_policy(JOB_ON_ERROR_STOP);
    wait_event("m:READY");
    mem_disk_fail(dst, MEM_WRITE, 0, ENOSPC);
    pwrite_ok(GRANULE - 10, GRANULE + 20, 5);
    wait_event("m:standby");
    ck_assert_int_eq(dirty_bytes(), 3 * GRANULE);
    pwrite_ok(5 * GRANULE, 10, 6);
    ck_assert_int_eq(mem_disk_data(dst)[5 * GRANULE], 6);
    pwrite_ok(0, 2 * GRANULE, 7);
    ck_assert_int_eq(dirty_bytes(), GRANULE);
    ck_assert(has_failed());
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    soft_cancel();
    wait_event("m:null");
    assert_mirrored();
    unmake();
}
END_TEST

/* All is mended by guests: nothing is left that keeps the job from its end. */
START_TEST(test_mended)
{
    make_filled(MiB + 10);
    start_with_policy(JOB_ON_ERROR_STOP);
    wait_event("m:READY");
    mem_disk_fail(dst, MEM_WRITE, 0, EIO);
    pwrite_ok(MiB - 10, 20, 5);
    wait_event("m:standby");
    ck_assert(has_failed());
    ck_assert_int_eq(blk_pwrite_zeroes(guest, 0, MiB + 10, 0), 0);
    ck_assert_int_eq(dirty_bytes(), 0);
    ck_assert(!has_failed());
    assert_mirrored();
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    finish_and_compare();
    unmake();
}
END_TEST

/* What guests fail to write the workers try at once, however long they would
 * wait after an error of their own. */
START_TEST(test_ignore)
{
    int64_t error_wait = mirror_limits.error_wait;
    int i;

    mirror_limits.error_wait = INT64_C(3600) * G_USEC_PER_SEC;
    make_filled(MiB);
    start_with_policy(JOB_ON_ERROR_IGNORE);
    wait_event("m:READY");
    /* The errors are to be the guest's, not those of a worker after it. */
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:standby");
    for (i = 0; i < 5; i++) {
        mem_disk_fail(dst, i % 2 ? MEM_ZERO : MEM_WRITE, 0, EIO);
        if (i % 2) {
            ck_assert_int_eq(blk_pwrite_zeroes(guest, 100, 70000, 0), 0);
        } else {
            pwrite_ok(100, 70000, i);
        }
    }
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    finish_and_compare();
    mirror_limits.error_wait = error_wait;
    unmake();
}
END_TEST

/* The source fails: who knows what it did. The guest is told, and whatever is
 * there now is copied. */
START_TEST(test_source_errors)
{
    static const MemRequest kinds[] = { MEM_WRITE, MEM_ZERO, MEM_DISCARD };
    Kind kind;

    for (kind = WRITE; kind <= DISCARD; kind++) {
        Request r = { .kind = kind, .offset = 4096, .bytes = 2 * GRANULE };

        make_active(MiB);
        pwrite_ok(0, MiB, 1);
        mem_disk_data(src)[GRANULE + 1] = 55;
        mem_disk_fail(src, kinds[kind], 0, EIO);
        request_start(&r);
        pthread_join(r.thread, NULL);
        ck_assert_int_eq(r.ret, -EIO);
        finish_and_compare();
        ck_assert_int_eq(mem_disk_data(dst)[GRANULE + 1], 55);
        unmake();
    }
}
END_TEST

/* A cancelled job leaves the target alone, while its filter is still there. */
START_TEST(test_cancelled)
{
    Request hung = { .kind = READ, .offset = 0, .bytes = 1 };
    int64_t written;

    make_active(MiB);
    mem_disk_hold(src, MEM_READ, 0);
    request_start(&hung);
    mem_disk_wait_held(src);
    written = mem_disk_bytes(dst, MEM_WRITE);
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
    pwrite_ok(100, 1000, 5);
    ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE), written);
    mem_disk_let_go(src);
    request_end(&hung);
    wait_event("m:null");
    check_home(source);
    unmake();
}
END_TEST

/* A discard that the source does not heed, or that leaves it nobody knows how */
START_TEST(test_discards)
{
    int64_t reads, zeroes;

    make_active(4 * MiB);
    pwrite_ok(0, 4 * MiB, 1);
    mem_disk_fail(src, MEM_DISCARD, 0, ENOTSUP);
    ck_assert_int_eq(blk_pdiscard(guest, 0, MiB), 0);
    ck_assert_int_eq(dirty_bytes(), 0);
    assert_mirrored();
    /* A long one that the target can only do by writing is left to a worker. */
    zeroes = mem_disk_count(dst, MEM_ZERO);
    mem_disk_fail(dst, MEM_ZERO, 0, ENOTSUP);
    ck_assert_int_eq(blk_pdiscard(guest, 0, 2 * MiB), 0);
    mem_disk_wait_count(dst, MEM_ZERO, zeroes + 2);
    /* What may not be zero is copied, by the guest if it is not much. */
    mem_disk_hide_zeroes(src);
    reads = mem_disk_count(src, MEM_READ);
    pwrite_ok(2 * MiB, 1, 2);
    ck_assert_int_eq(blk_pdiscard(guest, 2 * MiB, 3 * GRANULE + 1), 0);
    ck_assert_int_eq(mem_disk_data(dst)[2 * MiB], 0);
    ck_assert_int_eq(mem_disk_count(src, MEM_READ), reads + 1);
    ck_assert_int_eq(blk_pdiscard(guest, 2 * MiB, 2 * MiB), 0);
    mem_disk_wait_count(src, MEM_READ, reads + 2);
    finish_and_compare();
    ck_assert_int_eq(mem_disk_data(dst)[4 * MiB - 1], 0);
    unmake();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("mirror-active");
    TCase *t = tcase_create("mirror-active");

    tcase_add_checked_fixture(t, harness_start, harness_stop);
    tcase_add_test(t, test_both);
    tcase_add_test(t, test_same_order);
    tcase_add_test(t, test_first_write);
    tcase_add_test(t, test_after_worker);
    tcase_add_test(t, test_never_free);
    tcase_add_test(t, test_drain);
    tcase_add_test(t, test_hung_guest);
    tcase_add_test(t, test_learning);
    tcase_add_test(t, test_target_zero);
    tcase_add_test(t, test_dirty);
    tcase_add_test(t, test_beside);
    tcase_add_test(t, test_target_errors);
    tcase_add_test(t, test_stop);
    tcase_add_test(t, test_mended);
    tcase_add_test(t, test_ignore);
    tcase_add_test(t, test_source_errors);
    tcase_add_test(t, test_cancelled);
    tcase_add_test(t, test_discards);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
