/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How mirror jobs end when not all goes well: errors, cancellations, pauses, and
 * guests whose requests hang. Whatever happens, nothing is left of them.
 */
#include <inttypes.h>
#include <string.h>

#include "block/mirror-int.h"
#include "job-harness.h"
#include "mirror-fixture.h"
#include "unit-main.h"

/* ---- errors ------------------------------------------------------------- */

typedef struct Failure {
    bool on_source;
    MemRequest kind;
    int n;
    const char *operation; /* NULL: it must not matter */
} Failure;

START_TEST(test_errors)
{
    static const Failure failures[] = {
        { true, MEM_READ, 0, "read" },    { true, MEM_READ, 3, "read" },
        { false, MEM_WRITE, 0, "write" }, { false, MEM_WRITE, 5, "write" },
        { false, MEM_ZERO, 0, "write" },  { false, MEM_FLUSH, 0, "write" },
        { true, MEM_STATUS, 0, NULL },    { true, MEM_STATUS, 2, NULL },
        { false, MEM_STATUS, 0, NULL },
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(failures); i++) {
        const Failure *f = &failures[i];
        g_autofree char *expected = NULL;

        make_filled(8 * MiB);
        mem_disk_fill(mem_disk_of(target), 2);
        mem_disk_fail(mem_disk_of(f->on_source ? source : target), f->kind,
                      f->n, ENOSPC);
        start_mirror();
        if (f->operation) {
            wait_event("m:null");
            expected = g_strdup_printf(
                "m:created m:running m:ERROR(%s) m:aborting "
                "m:COMPLETED(No space left on device) m:concluded m:null",
                f->operation);
            check_events(expected);
        } else {
            wait_event("m:READY");
            assert_mirrored();
            soft_cancel();
            wait_event("m:null");
        }
        check_home(source);
        unmake();
    }
}
END_TEST

/* Errors after READY: while it follows, and in the last flushes */
START_TEST(test_late_errors)
{
    uint8_t byte = 1;
    int n;

    make_filled(MiB);
    start_mirror();
    wait_event("m:READY");
    mem_disk_fail(mem_disk_of(target), MEM_WRITE, 0, EIO);
    ck_assert_int_eq(blk_pwrite(guest, 0, 1, &byte, 0), 0);
    wait_event("m:null");
    check_events("m:created m:running m:ready m:READY m:ERROR(write) "
                 "m:aborting m:COMPLETED(Input/output error) m:concluded "
                 "m:null");
    check_home(source);
    unmake();
    for (n = 0; n < 2; n++) {
        make_filled(MiB);
        start_mirror();
        wait_event("m:READY");
        mem_disk_fail(mem_disk_of(target), MEM_FLUSH, n, EIO);
        complete();
        wait_event("m:null");
        check_events("m:created m:running m:ready m:READY m:ERROR(write) "
                     "m:aborting m:COMPLETED(Input/output error) m:concluded "
                     "m:null");
        check_home(source);
        unmake();
    }
}
END_TEST

/* A guest's failed write is mirrored, too: who knows what it did. */
START_TEST(test_guest_error)
{
    uint8_t byte = 9;

    make_filled(MiB);
    start_mirror();
    wait_event("m:READY");
    mem_disk_fail(mem_disk_of(source), MEM_WRITE, 0, EIO);
    mem_disk_data(mem_disk_of(source))[70001] = 55;
    ck_assert_int_eq(blk_pwrite(guest, 70000, 1, &byte, 0), -EIO);
    soft_cancel();
    wait_event("m:null");
    assert_mirrored();
    unmake();
}
END_TEST

/* The pivot is refused: somebody else has come to use the target's disk. */
static void spoil_pivot(void *opaque)
{
    BlockBackend **blk = opaque;

    *blk =
        blk_new("spoiler", true, 0, BLK_PERM_ALL & ~BLK_PERM_CONSISTENT_READ);
    ck_assert(blk_attach(*blk, target, NULL));
}

static void unspoil(void *opaque)
{
    blk_free(*(BlockBackend **)opaque);
}

START_TEST(test_pivot_refused)
{
    BlockBackend *blk;
    g_autofree char *have = NULL;

    make_filled(MiB);
    start_mirror();
    wait_event("m:READY");
    on_management(spoil_pivot, &blk);
    complete();
    wait_event("m:null");
    have = events();
    ck_assert(strstr(have, "m:aborting m:COMPLETED(Permission conflict on "
                           "node 'dst'"));
    check_home(source);
    on_management(unspoil, &blk);
    unmake();
}
END_TEST

/* ---- cancellation, pauses, speed ---------------------------------------- */

typedef struct Phase {
    bool on_source;
    MemRequest kind;
    int n;
    bool after_ready;
} Phase;

/* Cancel while some request is on its way; also by the end of the daemon. */
START_TEST(test_cancel_anywhere)
{
    static const Phase phases[] = {
        { false, MEM_STATUS, 0, false }, { true, MEM_STATUS, 0, false },
        { true, MEM_READ, 0, false },    { true, MEM_READ, 7, false },
        { false, MEM_WRITE, 2, false },  { false, MEM_ZERO, 1, false },
        { false, MEM_FLUSH, 0, false },  { false, MEM_FLUSH, 0, true },
        { false, MEM_FLUSH, 1, true },
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(phases); i++) {
        const Phase *p = &phases[i];
        MemDisk *disk;
        g_autofree char *have = NULL;

        make_filled(8 * MiB);
        mem_disk_fill(mem_disk_of(target), 2);
        disk = mem_disk_of(p->on_source ? source : target);
        if (!p->after_ready) {
            mem_disk_hold(disk, p->kind, p->n);
            start_mirror();
        } else {
            start_mirror();
            wait_event("m:READY");
            mem_disk_hold(disk, p->kind, p->n);
            complete();
        }
        mem_disk_wait_held(disk);
        verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
        mem_disk_let_go(disk);
        wait_event("m:null");
        have = events();
        ck_assert_msg(g_str_has_suffix(have, "m:aborting m:CANCELLED "
                                             "m:concluded m:null"),
                      "%s", have);
        check_home(source);
        unmake();
    }
}
END_TEST

START_TEST(test_cancel_ready)
{
    make_filled(MiB);
    start_mirror();
    wait_event("m:READY");
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "m", true, errp));
    wait_event("m:null");
    check_events("m:created m:running m:ready m:READY m:aborting m:CANCELLED "
                 "m:concluded m:null");
    check_home(source);
    unmake();
}
END_TEST

START_TEST(test_pending)
{
    Start start = defaults();
    uint8_t byte = 5;

    start.options.job.auto_finalize = false;
    start.options.job.auto_dismiss = false;
    make_filled(MiB);
    start_with(&start);
    wait_event("m:READY");
    complete();
    wait_event("m:PENDING");
    /* Guests are not held up, and what they write is not forgotten. */
    ck_assert_int_eq(blk_pwrite(guest, 99999, 1, &byte, 0), 0);
    verb_ok(job_verb_finalize(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:concluded");
    check_events("m:created m:running m:ready m:READY m:waiting m:pending "
                 "m:PENDING m:COMPLETED m:concluded");
    assert_mirrored();
    check_home(target);
    verb_ok(job_verb_dismiss(JOB_FAMILY_BLOCK, "m", errp));
    unmake();

    make_filled(MiB);
    start_with(&start);
    wait_event("m:READY");
    complete();
    wait_event("m:PENDING");
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
    wait_event("m:CANCELLED");
    wait_event("m:concluded");
    check_home(source);
    unmake();
}
END_TEST

START_TEST(test_pause)
{
    MemDisk *dst;
    int64_t writes;
    uint8_t byte = 5;

    make_filled(8 * MiB);
    dst = mem_disk_of(target);
    mem_disk_hold(dst, MEM_WRITE, 0);
    start_mirror();
    mem_disk_wait_held(dst);
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "m", errp));
    mem_disk_let_go(dst);
    wait_event("m:paused");
    writes = mem_disk_count(dst, MEM_WRITE);
    ck_assert_int_eq(blk_pwrite(guest, 1, 1, &byte, 0), 0);
    ck_assert_int_eq(mem_disk_count(dst, MEM_WRITE), writes);
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:READY");
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:standby");
    complete();
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:null");
    check_home(target);
    assert_mirrored();
    unmake();
}
END_TEST

/* So slow that only the first request gets through */
START_TEST(test_speed)
{
    Start start = defaults();
    MemDisk *dst;

    start.options.job.speed = 1;
    make_filled(8 * MiB);
    dst = mem_disk_of(target);
    memset(mem_disk_data(mem_disk_of(source)), 1, 8 * MiB);
    mem_disk_hide_zeroes(mem_disk_of(source));
    mem_disk_hold(dst, MEM_WRITE, 0);
    start_with(&start);
    mem_disk_wait_held(dst);
    mem_disk_let_go(dst);
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:paused");
    ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE), 64 * KiB);
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    verb_ok(job_verb_set_speed("m", 0, errp));
    wait_event("m:READY");
    assert_mirrored();
    unmake();
}
END_TEST

/* What workers have not got to, because they may not, is copied while the guest
 * stands still: before a pivot, and before a copy is left. */
START_TEST(test_rest)
{
    uint8_t byte = 77;
    MemDisk *dst;
    int64_t writes;

    make_filled(4 * MiB);
    dst = mem_disk_of(target);
    start_mirror();
    wait_event("m:READY");
    writes = mem_disk_count(dst, MEM_WRITE);
    verb_ok(job_verb_set_speed("m", 1, errp));
    ck_assert_int_eq(blk_pwrite(guest, 0, 1, &byte, 0), 0);
    mem_disk_wait_count(dst, MEM_WRITE, writes + 1);
    /* From now on it has to wait for most of a day. */
    ck_assert_int_eq(blk_pwrite(guest, 2 * MiB + 5, 1, &byte, 0), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(guest, 3 * MiB, MiB, 0), 0);
    if (_i) {
        complete();
    } else {
        soft_cancel();
    }
    wait_event("m:null");
    ck_assert_int_eq(mem_disk_data(dst)[2 * MiB + 5], 77);
    ck_assert_int_eq(mem_disk_data(dst)[3 * MiB], 0);
    assert_mirrored();
    check_home(_i ? target : source);
    unmake();
}
END_TEST

/* A guest's request hangs: the job stays READY, and goes on when it does. */
static void *hung_write(void *opaque)
{
    uint8_t byte = 123;

    ck_assert_int_eq(blk_pwrite(guest, 4711, 1, &byte, 0), 0);
    return NULL;
}

START_TEST(test_drain_not_reached)
{
    pthread_t thread;
    uint8_t byte = 1;
    MemDisk *src;

    mirror_limits.min_drain = 50000;
    mirror_limits.min_backoff = 1000;
    make_filled(MiB);
    start_mirror();
    wait_event("m:READY");
    src = mem_disk_of(source);
    mem_disk_hold(src, MEM_WRITE, 0);
    pthread_create(&thread, NULL, hung_write, NULL);
    mem_disk_wait_held(src);
    complete();
    /* The management thread comes back from its try, and others can write. */
    mem_disk_hold(mem_disk_of(target), MEM_FLUSH, 1);
    mem_disk_wait_held(mem_disk_of(target));
    ck_assert_int_eq(blk_pwrite(guest, 8000, 1, &byte, 0), 0);
    check_events("m:created m:running m:ready m:READY");
    mem_disk_let_go(mem_disk_of(target));
    mem_disk_let_go(src);
    wait_event("m:null");
    pthread_join(thread, NULL);
    check_home(target);
    assert_mirrored();
    ck_assert_int_eq(mem_disk_data(mem_disk_of(target))[4711], 123);
    unmake();
}
END_TEST

/* The same at the start: there is no job then, and all goes on. */
START_TEST(test_start_with_hung_request)
{
    Start start = defaults();
    pthread_t thread;
    uint8_t byte = 1;
    MemDisk *src;

    mirror_limits.start_drain = 1000;
    make_filled(MiB);
    src = mem_disk_of(source);
    mem_disk_hold(src, MEM_WRITE, 0);
    pthread_create(&thread, NULL, hung_write, NULL);
    mem_disk_wait_held(src);
    refused(&start, "Node 'src' is busy: a request does not end");
    ck_assert_int_eq(blk_pwrite(guest, 8000, 1, &byte, 0), 0);
    mem_disk_let_go(src);
    pthread_join(thread, NULL);
    mirror_limits.start_drain = 60 * G_USEC_PER_SEC;
    start_mirror();
    wait_event("m:READY");
    complete();
    wait_event("m:null");
    check_home(target);
    assert_mirrored();
    unmake();
}
END_TEST

/* A guest that is not waited for any more is waited for longer the next time. */
START_TEST(test_patience)
{
    pthread_t thread;
    int64_t stall = 0;
    uint8_t byte;

    mirror_limits.min_drain = 20000;
    mirror_limits.min_backoff = 10000;
    make_filled(MiB);
    start_mirror();
    wait_event("m:READY");
    mem_disk_hold(mem_disk_of(source), MEM_WRITE, 0);
    pthread_create(&thread, NULL, hung_write, NULL);
    mem_disk_wait_held(mem_disk_of(source));
    complete();
    /* Who reads meanwhile stands still with the drains. */
    while (stall < 10 * mirror_limits.min_drain) {
        int64_t start = g_get_monotonic_time();

        ck_assert_int_eq(blk_pread(guest, 8000, 1, &byte, 0), 0);
        stall = g_get_monotonic_time() - start;
    }
    mem_disk_let_go(mem_disk_of(source));
    wait_event("m:null");
    pthread_join(thread, NULL);
    check_home(target);
    unmake();
}
END_TEST

static void look_for_filter(void *opaque)
{
    BlockDriverState *bs = bdrv_find_node("filter", NULL);

    ck_assert(bs != NULL);
    ck_assert(job_uses_node(source, NULL));
    bdrv_unref(bs);
}

/* A job that was cancelled is there until the guest's request has ended, and
 * hinders nobody. */
START_TEST(test_cancel_with_hung_request)
{
    pthread_t thread;
    uint8_t byte = 1;
    MemDisk *src;
    int i;

    mirror_limits.min_drain = 1000;
    mirror_limits.min_backoff = 1000;
    make_filled(MiB);
    start_mirror();
    wait_event("m:READY");
    src = mem_disk_of(source);
    mem_disk_hold(src, MEM_WRITE, 0);
    pthread_create(&thread, NULL, hung_write, NULL);
    mem_disk_wait_held(src);
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
    wait_event("m:aborting");
    for (i = 0; i < 5; i++) {
        on_management(look_for_filter, NULL);
        ck_assert_int_eq(blk_pwrite(guest, 8000, 1, &byte, 0), 0);
    }
    check_events("m:created m:running m:ready m:READY m:aborting");
    mem_disk_let_go(src);
    wait_event("m:null");
    check_events("m:created m:running m:ready m:READY m:aborting m:CANCELLED "
                 "m:concluded m:null");
    pthread_join(thread, NULL);
    check_home(source);
    unmake();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("mirror-end");
    TCase *t = tcase_create("mirror");

    tcase_add_checked_fixture(t, mirror_set_up, mirror_tear_down);
    tcase_add_test(t, test_errors);
    tcase_add_test(t, test_late_errors);
    tcase_add_test(t, test_guest_error);
    tcase_add_test(t, test_pivot_refused);
    tcase_add_test(t, test_cancel_anywhere);
    tcase_add_test(t, test_cancel_ready);
    tcase_add_test(t, test_pending);
    tcase_add_test(t, test_pause);
    tcase_add_test(t, test_speed);
    tcase_add_loop_test(t, test_rest, 0, 2);
    tcase_add_test(t, test_drain_not_reached);
    tcase_add_test(t, test_start_with_hung_request);
    tcase_add_test(t, test_patience);
    tcase_add_test(t, test_cancel_with_hung_request);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
