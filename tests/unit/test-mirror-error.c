/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirror job and disks that fail: what each policy does at each place, that
 * nothing is lost by it, and that nobody waits who need not.
 */
#include <sched.h>
#include <string.h>

#include "block/mirror-int.h"
#include "job-harness.h"
#include "mirror-fixture.h"
#include "unit-main.h"
#include "util/schema.h"

/* One worker: one request at a time */
#define ONE (64 * KiB)

typedef struct Place {
    bool on_source;
    MemRequest kind;
    const char *operation;
} Place;

static const Place places[] = {
    { true, MEM_READ, "read" },
    { false, MEM_WRITE, "write" },
    { false, MEM_ZERO, "write" },
    { false, MEM_FLUSH, "write" },
};

static MemDisk *disk_at(const Place *p)
{
    return mem_disk_of(p->on_source ? source : target);
}

static Start with_policy(JobErrorPolicy policy)
{
    Start start = defaults();

    start.options.on_source_error = policy;
    start.options.on_target_error = policy;
    return start;
}

static void start_policy(JobErrorPolicy policy)
{
    Start start = with_policy(policy);

    start_with(&start);
}

/* Data and zeroes, all of which must be written */
static void make_disks(int64_t length)
{
    make_filled(length);
    mem_disk_fill(mem_disk_of(target), 2);
}

static void guest_writes(int64_t offset, uint8_t byte)
{
    ck_assert_int_eq(blk_pwrite(guest, offset, 1, &byte, 0), 0);
}

static void resume(void)
{
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
}

static void check_row(bool paused, const char *io_status)
{
    g_autoptr(JsonObject) row = job_row("m", true);

    ck_assert(schema_get_bool(row, "paused", !paused) == paused);
    ck_assert_str_eq(schema_get_str(row, "io-status", ""), io_status);
}

/* Of events that are repeated, as requests in flight fail together, one */
static void check_steps(const char *expected)
{
    g_autofree char *have = events();
    g_auto(GStrv) words = g_strsplit(have, " ", -1);
    g_autoptr(GString) steps = g_string_new(NULL);
    int i;

    for (i = 0; words[i]; i++) {
        if (i == 0 || strcmp(words[i], words[i - 1])) {
            g_string_append_printf(steps, "%s%s", i ? " " : "", words[i]);
        }
    }
    ck_assert_str_eq(steps->str, expected);
}

static void wait_error(const Place *p, const char *action)
{
    g_autofree char *word =
        g_strdup_printf("m:ERROR(%s,%s)", p->operation, action);

    wait_event(word);
}

/* ---- stop --------------------------------------------------------------- */

/* Before it is ready; twice, as it may be resumed too early */
START_TEST(test_stop)
{
    const Place *p = &places[_i];
    g_autofree char *expected = NULL;

    make_disks(8 * MiB);
    mem_disk_break(disk_at(p), p->kind, -1, EIO);
    start_policy(JOB_ON_ERROR_STOP);
    wait_event("m:paused");
    check_row(true, "failed");
    resume();
    wait_event("m:paused");
    guest_writes(MiB, 99);
    mem_disk_break(disk_at(p), p->kind, -1, 0);
    resume();
    wait_event("m:READY");
    check_row(false, "ok");
    expected = g_strdup_printf(
        "m:created m:running m:ERROR(%s,stop) m:paused m:running "
        "m:ERROR(%s,stop) m:paused m:running m:ready m:READY",
        p->operation, p->operation);
    check_steps(expected);
    assert_mirrored();
    complete();
    wait_event("m:null");
    check_home(target);
    unmake();
}
END_TEST

/* Nothing but what failed is done again. */
START_TEST(test_again)
{
    Start start = with_policy(JOB_ON_ERROR_STOP);
    MemDisk *src, *dst;
    int i;

    start.options.buf_size = ONE;
    for (i = 0; i < 2; i++) {
        make(MiB);
        src = mem_disk_of(source);
        dst = mem_disk_of(target);
        memset(mem_disk_data(src), 1, MiB);
        mem_disk_hide_zeroes(src);
        mem_disk_fail(i ? src : dst, i ? MEM_READ : MEM_WRITE, 3, EIO);
        start_with(&start);
        wait_event("m:paused");
        ck_assert_int_eq(mem_disk_count(src, MEM_READ), 4);
        resume();
        wait_event("m:READY");
        ck_assert_int_eq(mem_disk_bytes(src, MEM_READ), MiB + ONE);
        ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE), MiB + (1 - i) * ONE);
        ck_assert_int_eq(event_int("m:READY", "len"), MiB);
        finish_and_compare();
        unmake();
    }
}
END_TEST

/* One request fails while another is in flight: that one counts. */
START_TEST(test_stop_in_flight)
{
    MemDisk *dst;

    make_disks(8 * MiB);
    dst = mem_disk_of(target);
    mem_disk_hold(dst, MEM_WRITE, 0);
    mem_disk_fail(dst, MEM_WRITE, 1, ENOSPC);
    start_policy(JOB_ON_ERROR_STOP);
    mem_disk_wait_held(dst);
    wait_event("m:ERROR(write,stop)");
    check_steps("m:created m:running m:ERROR(write,stop)");
    mem_disk_let_go(dst);
    wait_event("m:paused");
    check_row(true, "nospace");
    resume();
    wait_event("m:READY");
    finish_and_compare();
    unmake();
}
END_TEST

/* The user is faster than what is in flight: it goes on without a pause. */
START_TEST(test_resume_at_once)
{
    MemDisk *dst;

    make_disks(8 * MiB);
    dst = mem_disk_of(target);
    mem_disk_hold(dst, MEM_WRITE, 0);
    mem_disk_fail(dst, MEM_WRITE, 1, ENOSPC);
    start_policy(JOB_ON_ERROR_STOP);
    mem_disk_wait_held(dst);
    wait_event("m:ERROR(write,stop)");
    resume();
    mem_disk_let_go(dst);
    wait_event("m:READY");
    check_steps("m:created m:running m:ERROR(write,stop) m:ready m:READY");
    finish_and_compare();
    unmake();
}
END_TEST

/* While it follows; guests go on, and it may be told to complete meanwhile. */
START_TEST(test_stop_ready)
{
    const Place *p = &places[_i];
    MemDisk *disk;

    make_disks(2 * MiB);
    start_policy(JOB_ON_ERROR_STOP);
    wait_event("m:READY");
    disk = disk_at(p);
    mem_disk_break(disk, p->kind, -1, EIO);
    if (p->kind == MEM_FLUSH) {
        complete();
    } else {
        guest_writes(0, 1);
        ck_assert_int_eq(blk_pwrite_zeroes(guest, MiB, MiB, 0), 0);
    }
    wait_error(p, "stop");
    wait_event("m:standby");
    guest_writes(123, 4);
    mem_disk_break(disk, p->kind, -1, 0);
    complete();
    resume();
    wait_event("m:null");
    assert_mirrored();
    ck_assert_int_eq(mem_disk_data(mem_disk_of(target))[123], 4);
    check_home(target);
    unmake();
}
END_TEST

/* Something is left that is copied while the guest stands still. */
static void leave_rest(void)
{
    MemDisk *dst = mem_disk_of(target);
    int64_t writes = mem_disk_count(dst, MEM_WRITE);

    verb_ok(job_verb_set_speed("m", 1, errp));
    guest_writes(0, 77);
    mem_disk_wait_count(dst, MEM_WRITE, writes + 1);
    guest_writes(MiB, 78);
}

/* It is given back to the guest, and all that failed is there later. */
START_TEST(test_stop_drained)
{
    const Place *p = &places[_i];
    bool flush = p->kind == MEM_FLUSH;

    make_disks(2 * MiB);
    start_policy(JOB_ON_ERROR_STOP);
    wait_event("m:READY");
    leave_rest();
    if (p->kind == MEM_ZERO) {
        ck_assert_int_eq(blk_pwrite_zeroes(guest, MiB, MiB, 0), 0);
    }
    /* The first flush is done before the drain. */
    mem_disk_fail(disk_at(p), p->kind, flush, EIO);
    complete();
    wait_error(p, "stop");
    wait_event("m:standby");
    guest_writes(123, 4);
    check_row(true, "failed");
    resume();
    verb_ok(job_verb_set_speed("m", 0, errp));
    wait_event("m:null");
    assert_mirrored();
    check_home(target);
    unmake();
}
END_TEST

/* Where a job cannot pause it stops all the same. */
START_TEST(test_stop_pending)
{
    Start start = with_policy(JOB_ON_ERROR_STOP);
    MemDisk *dst;

    start.options.job.auto_finalize = false;
    make_disks(2 * MiB);
    dst = mem_disk_of(target);
    start_with(&start);
    wait_event("m:READY");
    complete();
    wait_event("m:PENDING");
    mem_disk_break(dst, MEM_WRITE, -1, EIO);
    guest_writes(0, 9);
    wait_event("m:ERROR(write,stop)");
    check_row(true, "failed");
    guest_writes(MiB, 9);
    verb_ok(job_verb_finalize(JOB_FAMILY_ALL, "m", errp));
    mem_disk_break(dst, MEM_WRITE, -1, 0);
    resume();
    wait_event("m:null");
    assert_mirrored();
    check_home(target);
    unmake();
}
END_TEST

static void *cancel_all(void *opaque)
{
    job_cancel_all_sync();
    return NULL;
}

/* A stopped job can be cancelled: by force, and by the end of the daemon. */
START_TEST(test_cancel_stopped)
{
    const Place *p = &places[_i % G_N_ELEMENTS(places)];
    bool at_exit = _i >= (int)G_N_ELEMENTS(places);
    pthread_t thread;

    make_disks(2 * MiB);
    mem_disk_break(disk_at(p), p->kind, -1, EIO);
    start_policy(JOB_ON_ERROR_STOP);
    wait_event("m:paused");
    verb_refused(job_verb_pause(JOB_FAMILY_ALL, "m", errp),
                 "Job is already paused");
    verb_refused(job_verb_cancel(JOB_FAMILY_BLOCK, "m", false, errp),
                 "The block job for device 'm' is currently paused");
    verb_refused(job_verb_complete(JOB_FAMILY_ALL, "m", errp),
                 "Job 'm' in state 'paused' cannot accept command verb "
                 "'complete'");
    if (at_exit) {
        pthread_create(&thread, NULL, cancel_all, NULL);
        pthread_join(thread, NULL);
    } else {
        verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
    }
    wait_event("m:null");
    check_home(source);
    unmake();
}
END_TEST

/* ---- the others --------------------------------------------------------- */

START_TEST(test_no_space)
{
    MemDisk *dst;

    make_disks(2 * MiB);
    dst = mem_disk_of(target);
    mem_disk_break(dst, MEM_WRITE, -1, ENOSPC);
    start_policy(JOB_ON_ERROR_ENOSPC);
    wait_event("m:paused");
    check_row(true, "nospace");
    mem_disk_break(dst, MEM_WRITE, -1, EIO);
    resume();
    wait_event("m:null");
    check_steps("m:created m:running m:ERROR(write,stop) m:paused m:running "
                "m:ERROR(write) m:aborting m:COMPLETED(Input/output error) "
                "m:concluded m:null");
    unmake();
}
END_TEST

/* Each disk has its own policy. */
START_TEST(test_two_policies)
{
    Start start = defaults();

    start.options.on_target_error = JOB_ON_ERROR_STOP;
    make_disks(2 * MiB);
    mem_disk_break(mem_disk_of(source), MEM_READ, -1, EIO);
    start_with(&start);
    wait_event("m:null");
    check_steps("m:created m:running m:ERROR(read) m:aborting "
                "m:COMPLETED(Input/output error) m:concluded m:null");
    unmake();

    start = defaults();
    start.options.on_source_error = JOB_ON_ERROR_STOP;
    make_disks(2 * MiB);
    mem_disk_break(mem_disk_of(target), MEM_WRITE, -1, EIO);
    start_with(&start);
    wait_event("m:null");
    check_steps("m:created m:running m:ERROR(write) m:aborting "
                "m:COMPLETED(Input/output error) m:concluded m:null");
    unmake();
}
END_TEST

/* A bad spot: all else is copied, and it is tried again, but not as fast as it
 * can fail, and the job is not ready before, however little is left. */
START_TEST(test_ignore)
{
    Start start = with_policy(JOB_ON_ERROR_IGNORE);
    const Place *p = &places[_i];
    g_autofree char *expected = NULL;
    int64_t start_us;
    MemDisk *disk;
    int n;

    mirror_limits.error_wait = 10000;
    start.options.buf_size = 4 * ONE;
    make(2 * MiB);
    /* The spot is data, or it is zero. */
    ck_assert_int_eq(blk_pwrite_zeroes(guest, 0, 2 * MiB, 0), 0);
    memset(mem_disk_data(mem_disk_of(target)), 3, 2 * MiB);
    mem_disk_hide_zeroes(mem_disk_of(target));
    guest_writes(0, 5);
    if (p->kind != MEM_ZERO) {
        guest_writes(MiB, 6);
    }
    disk = disk_at(p);
    mem_disk_break(disk, p->kind, p->kind == MEM_FLUSH ? -1 : MiB, EIO);
    start_us = g_get_monotonic_time();
    start_with(&start);
    for (n = 0; n < 6; n++) {
        wait_error(p, "ignore");
    }
    ck_assert_int_ge(g_get_monotonic_time() - start_us,
                     5 * mirror_limits.error_wait);
    ck_assert_int_eq(mem_disk_data(mem_disk_of(target))[0], 5);
    expected =
        g_strdup_printf("m:created m:running m:ERROR(%s,ignore)", p->operation);
    check_steps(expected);
    mem_disk_break(disk, p->kind, -1, 0);
    wait_event("m:READY");
    check_row(false, "ok");
    finish_and_compare();
    unmake();
}
END_TEST

/* A ready job that cannot copy something does not stop its guests for it. */
START_TEST(test_ignore_ready)
{
    int64_t flushes;
    MemDisk *dst;
    int n;

    mirror_limits.error_wait = 1000;
    make_disks(2 * MiB);
    dst = mem_disk_of(target);
    start_policy(JOB_ON_ERROR_IGNORE);
    wait_event("m:READY");
    mem_disk_break(dst, MEM_WRITE, MiB, EIO);
    guest_writes(MiB, 9);
    wait_event("m:ERROR(write,ignore)");
    flushes = mem_disk_count(dst, MEM_FLUSH);
    complete();
    for (n = 0; n < 10; n++) {
        wait_event("m:ERROR(write,ignore)");
        guest_writes(123, n);
    }
    /* There would have been one before each drain. */
    ck_assert_int_eq(mem_disk_count(dst, MEM_FLUSH), flushes);
    check_steps("m:created m:running m:ready m:READY m:ERROR(write,ignore)");
    mem_disk_break(dst, MEM_WRITE, -1, 0);
    wait_event("m:null");
    assert_mirrored();
    check_home(target);
    unmake();
}
END_TEST

START_TEST(test_ignore_drained)
{
    const Place *p = &places[_i];

    mirror_limits.error_wait = 1000;
    make_disks(2 * MiB);
    start_policy(JOB_ON_ERROR_IGNORE);
    wait_event("m:READY");
    leave_rest();
    if (p->kind == MEM_ZERO) {
        ck_assert_int_eq(blk_pwrite_zeroes(guest, MiB, MiB, 0), 0);
    }
    mem_disk_fail(disk_at(p), p->kind, p->kind == MEM_FLUSH, EIO);
    complete();
    wait_error(p, "ignore");
    guest_writes(123, 4);
    verb_ok(job_verb_set_speed("m", 0, errp));
    wait_event("m:null");
    assert_mirrored();
    check_home(target);
    unmake();
}
END_TEST

START_TEST(test_ignore_cancelled)
{
    make_disks(2 * MiB);
    mem_disk_break(mem_disk_of(target), MEM_WRITE, -1, EIO);
    start_policy(JOB_ON_ERROR_IGNORE);
    wait_event("m:ERROR(write,ignore)");
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
    wait_event("m:null");
    check_home(source);
    unmake();
}
END_TEST

/* A guest writes all over the disk while requests of all kinds fail. */
static int over; /* atomic */

static bool is_ready(void)
{
    g_autoptr(JsonObject) row = job_row("m", true);

    return schema_get_bool(row, "ready", false);
}

static void *writer(void *opaque)
{
    GRand *rand = g_rand_new_with_seed(7);
    int n = 0;

    while (!g_atomic_int_get(&over)) {
        guest_writes(g_rand_int_range(rand, 0, 4 * MiB), n++ % 251);
    }
    g_rand_free(rand);
    return NULL;
}

START_TEST(test_storm)
{
    bool stop = _i & 1;
    /* Then the guest's writes fail on the target, and nothing else reads. */
    bool blocking = _i & 2;
    Start start = with_policy(stop ? JOB_ON_ERROR_STOP : JOB_ON_ERROR_IGNORE);
    pthread_t thread;
    int round;

    start.options.write_blocking = blocking;
    mirror_limits.error_wait = 100;
    g_atomic_int_set(&over, 0);
    make_disks(4 * MiB);
    mem_disk_forbid_overlap(mem_disk_of(target));
    start_with(&start);
    pthread_create(&thread, NULL, writer, NULL);
    for (round = 0; round < 30; round++) {
        const Place *p = &places[blocking ? 1 : round % 2];

        mem_disk_fail(disk_at(p), p->kind, round % 3, EIO);
        wait_error(p, stop ? "stop" : "ignore");
        if (stop) {
            resume();
        }
    }
    g_atomic_int_set(&over, 1);
    pthread_join(thread, NULL);
    while (!is_ready()) {
        sched_yield();
    }
    finish_and_compare();
    unmake();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("mirror-error");
    TCase *t = tcase_create("mirror-error");
    int n = G_N_ELEMENTS(places);

    tcase_add_checked_fixture(t, mirror_set_up, mirror_tear_down);
    tcase_add_loop_test(t, test_stop, 0, n);
    tcase_add_test(t, test_again);
    tcase_add_test(t, test_stop_in_flight);
    tcase_add_test(t, test_resume_at_once);
    tcase_add_loop_test(t, test_stop_ready, 0, n);
    tcase_add_loop_test(t, test_stop_drained, 0, n);
    tcase_add_test(t, test_stop_pending);
    tcase_add_loop_test(t, test_cancel_stopped, 0, 2 * n);
    tcase_add_test(t, test_no_space);
    tcase_add_test(t, test_two_policies);
    tcase_add_loop_test(t, test_ignore, 0, n);
    tcase_add_test(t, test_ignore_ready);
    tcase_add_loop_test(t, test_ignore_drained, 0, n);
    tcase_add_test(t, test_ignore_cancelled);
    tcase_add_loop_test(t, test_storm, 0, 4);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
