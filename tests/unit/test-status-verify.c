/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The job "status-cache-verify" on files whose zero-writes may say that they have
 * zeroed, and have not; and with others who write while the job reads. The linker
 * puts functions of this file in place of the system calls (--wrap), so all of that
 * happens where it should.
 */
#include <glib/gstdio.h>
#include <linux/falloc.h>

#include "block/status-verify.h"
#include "file-node.h"
#include "job-harness.h"
#include "reopen-options.h"
#include "test-fs.h"
#include "unit-main.h"
#include "util/iov.h"
#include "wrapped-calls.h"

#define LENGTH (8 * MIB)
#define SUCCESS                                                                \
    "v:created v:running v:waiting v:pending v:COMPLETED v:concluded v:null"

static BlockDriverState *node;
static bool zeroing_lies; /* FALLOC_FL_ZERO_RANGE does nothing, successfully */

/* Of the job's reads; lock */
static Mutex lock = MUTEX_INIT;
static Cond changed;
static int reads;
static int64_t bytes_read, bytes_dropped, longest_read, first_read,
    end_of_reads;
static bool held, let_go;

/* Before test has begun the job, and before each of its reads; by number */
static struct {
    int number; /* from 0 on; -1: none */
    void (*before)(void), (*after)(void);
    bool hold; /* after the first function */
    int err;
} plan;

static void wait_let_go(void)
{
    MUTEX_GUARD(&lock);

    held = true;
    cond_broadcast(&changed);
    while (!let_go) {
        cond_wait(&changed, &lock);
    }
}

static void wait_held(void)
{
    MUTEX_GUARD(&lock);

    while (!held) {
        cond_wait(&changed, &lock);
    }
}

static void go_on(void)
{
    MUTEX_GUARD(&lock);

    let_go = true;
    cond_broadcast(&changed);
}

/* The number of this read */
static int count_read(int64_t offset, int64_t bytes)
{
    MUTEX_GUARD(&lock);

    if (reads == 0) {
        first_read = offset;
    }
    bytes_read += bytes;
    longest_read = MAX(longest_read, bytes);
    end_of_reads = offset + bytes;
    return reads++;
}

static int count_reads(void)
{
    MUTEX_GUARD(&lock);

    return reads;
}

ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int niov,
                          off_t offset, int flags)
{
    bool now = count_read(offset, iov_size(iov, niov)) == plan.number;
    ssize_t n;

    if (now && plan.before) {
        plan.before();
    }
    if (now && plan.hold) {
        wait_let_go();
    }
    if (now && plan.err) {
        errno = plan.err;
        return -1;
    }
    n = __real_preadv64v2(fd, iov, niov, offset, flags);
    if (now && plan.after) {
        plan.after();
    }
    return n;
}

int __wrap_posix_fadvise64(int fd, off_t offset, off_t bytes, int advice)
{
    if (advice == POSIX_FADV_DONTNEED) {
        MUTEX_GUARD(&lock);

        ck_assert_int_eq(offset + bytes, end_of_reads);
        bytes_dropped += bytes;
    }
    return __real_posix_fadvise64(fd, offset, bytes, advice);
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes)
{
    if (zeroing_lies && (mode & FALLOC_FL_ZERO_RANGE)) {
        return 0;
    }
    return __real_fallocate64(fd, mode, offset, bytes);
}

/* ---- the disk: data and zeroes ------------------------------------------ */

static void do_zero(int64_t offset, int64_t bytes)
{
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, offset, bytes, 0), 0);
}

/* Called zero, but it is data. */
static void pretend_zero(int64_t offset, int64_t bytes)
{
    ASSERT_WRITES(node, offset, bytes, 'x');
    zeroing_lies = true;
    do_zero(offset, bytes);
    zeroing_lies = false;
    ASSERT_KNOWN(node, offset, ZERO);
}

static void open_disk(const char *options)
{
    node = open_node("disk", options);
    do_zero(0, LENGTH);
    ASSERT_WRITES(node, 0, 64 * KIB, 'x');
    ASSERT_WRITES(node, 3 * MIB, MIB, 'x');
    ck_assert_uint_eq(status_cache_zeroes_left(state(node)->cache, 0),
                      LENGTH - MIB - 64 * KIB);
}

static void setup(void)
{
    cond_init(&changed);
    plan.number = -1;
    path = g_strdup_printf("%s/disk", test_fs[0].dir);
    make_file(LENGTH);
    harness_start();
    open_disk("");
}

static void teardown(void)
{
    job_cancel_all_sync(); /* and their threads have ended */
    harness_stop();
    g_remove(path);
    g_free(path);
    cond_destroy(&changed);
}

static StatusCacheStats stats(void)
{
    StatusCacheStats s;

    status_cache_get_stats(state(node)->cache, &s);
    return s;
}

/* ---- the job ------------------------------------------------------------ */

typedef struct Start {
    const char *node_name, *id;
    int64_t speed;
    GError *err;
    bool ok;
} Start;

static void start_now(void *opaque)
{
    Start *start = opaque;
    JobOptions options = { .id = start->id,
                           .speed = start->speed,
                           .auto_finalize = true,
                           .auto_dismiss = true };

    start->ok = status_verify_start(start->node_name, &options, &start->err);
}

static void start_job(const char *id, int64_t speed)
{
    Start start = { "disk", id, speed, NULL, false };

    on_management(start_now, &start);
    ck_assert_msg(start.ok, "%s", start.err ? start.err->message : "no error");
}

static void assert_refused(const char *node_name, int64_t speed,
                           const char *message)
{
    Start start = { node_name, "v", speed, NULL, false };

    on_management(start_now, &start);
    ck_assert(!start.ok);
    ck_assert_str_eq(start.err->message, message);
    g_error_free(start.err);
}

static void run_job(void)
{
    start_job("v", 0);
    wait_event("v:null");
}

/* It is told that a job found the bytes at @offset. */
static void assert_fails(const char *lies, int64_t offset, int64_t bytes,
                         int64_t total)
{
    g_autofree char *expected = g_strdup_printf(
        "v:created v:running %s v:aborting v:COMPLETED(Node 'disk' has data "
        "where its status cache knew zeroes: %jd bytes at offset %jd, at "
        "least %jd bytes in all; the cache is not believed any more) "
        "v:concluded v:null",
        lies, (intmax_t)bytes, (intmax_t)offset, (intmax_t)total);

    check_events(expected);
    ck_assert(stats().distrusted);
    ck_assert_int_eq(stats().mode, STATUS_CACHE_DATA_ONLY);
    ck_assert_uint_eq(stats().bytes_zero, 0);
}

static void assert_succeeds(int64_t verified)
{
    check_events(SUCCESS);
    ck_assert(!stats().distrusted);
    ck_assert_uint_eq(stats().verified_bytes, verified);
    ck_assert_uint_eq(stats().verify_mismatches, 0);
}

/* ---- what is read ------------------------------------------------------- */

START_TEST(test_zeroes_are_read)
{
    run_job();
    assert_succeeds(LENGTH - MIB - 64 * KIB);
    ck_assert_int_eq(bytes_read, LENGTH - MIB - 64 * KIB);
    ck_assert_int_eq(longest_read, MIB);
    ck_assert_int_eq(first_read, 64 * KIB);
    ck_assert_int_eq(end_of_reads, LENGTH);
    ck_assert_int_eq(event_int("v:COMPLETED", "len"), LENGTH - MIB - 64 * KIB);
    ck_assert_int_eq(event_int("v:COMPLETED", "offset"),
                     LENGTH - MIB - 64 * KIB);
    /* That was nobody's read, and nobody will read it again. */
    ck_assert_int_eq(bytes_dropped, bytes_read);
    ck_assert_uint_eq(stats().bytes_not_read, 0);
}
END_TEST

START_TEST(test_no_zeroes)
{
    status_cache_set_mode(state(node)->cache, _i);
    run_job();
    assert_succeeds(0);
    ck_assert_int_eq(count_reads(), 0);
    ck_assert_int_eq(event_int("v:COMPLETED", "len"), 0);
}
END_TEST

START_TEST(test_lies)
{
    pretend_zero(5 * MIB + 4 * KIB, 8 * KIB);
    pretend_zero(5 * MIB + 64 * KIB, 4 * KIB);
    assert_reads(node, 5 * MIB + 4 * KIB, 4 * KIB, 0);
    run_job();
    assert_fails("v:MISMATCH(5246976+8192) v:MISMATCH(5308416+4096)", 5246976,
                 8192, 12288);
    ck_assert_str_eq(job_row("v", true) ? "there" : "gone", "gone");
    ASSERT_KNOWN(node, 5 * MIB + 4 * KIB, DATA);
    ASSERT_KNOWN(node, 5 * MIB, UNKNOWN);
    ck_assert_uint_eq(stats().verify_mismatches, 2);
    ck_assert_uint_eq(stats().verified_bytes,
                      (3 * MIB - 64 * KIB) + 2 * MIB - 12 * KIB);
    assert_reads(node, 5 * MIB + 4 * KIB, 4 * KIB, 'x');
    assert_refused("disk", 0,
                   "Node 'disk' had data where its status cache knew zeroes: "
                   "there are no zeroes to verify any more");
}
END_TEST

/* Every other block: as many events as one job sends */
START_TEST(test_many_lies)
{
    int64_t i;
    int n = 0;
    g_autofree char *all = NULL;
    char *found;

    ASSERT_WRITES(node, 5 * MIB, MIB, 'x');
    for (i = 0; i < MIB; i += 8 * KIB) {
        do_zero(5 * MIB + i, 8 * KIB);
        pretend_zero(5 * MIB + i, 4 * KIB);
    }
    run_job();
    ck_assert_int_lt(event_int("v:COMPLETED", "offset"),
                     event_int("v:COMPLETED", "len"));
    all = events();
    for (found = strstr(all, "MISMATCH"); found;
         found = strstr(found + 1, "MISMATCH")) {
        n++;
    }
    ck_assert_int_eq(n, 64);
    ck_assert_ptr_nonnull(strstr(all, "at least 262144 bytes in all"));
    ck_assert_uint_eq(stats().verify_mismatches, 64);
    /* what came after the last place was not looked at */
    ck_assert_uint_eq(stats().verified_bytes,
                      (3 * MIB - 64 * KIB) + MIB + 256 * KIB);
    ASSERT_KNOWN(node, 5 * MIB + 63 * 8 * KIB, DATA);
    ASSERT_KNOWN(node, 5 * MIB + 64 * 8 * KIB, UNKNOWN);
}
END_TEST

/* The last byte of the last block, with the page cache and without */
START_TEST(test_last_byte)
{
    close_node(node);
    make_file(MIB + 513);
    node = open_node("disk", _i ? "'cache':{'direct':true}" : "");
    ASSERT_STATUS(node, 0, MIB + 513, ZERO, MIB + 513);
    run_job();
    assert_succeeds(MIB + 513);
    forget_events();
    fill_file(MIB + 512, 1, 'x');
    run_job();
    assert_fails("v:MISMATCH(1048576+513)", MIB, 513, 513);
}
END_TEST

START_TEST(test_through_filters)
{
    g_autoptr(JsonNode) options = json_from_string(
        "{\"driver\":\"raw\",\"node-name\":\"raw\",\"offset\":1048576,"
        "\"size\":1048576,\"file\":{\"driver\":\"raw\",\"node-name\":\"r\","
        "\"file\":\"disk\"}}",
        NULL);
    Start start = { "raw", "v", 0, NULL, false };

    bdrv_graph_lock();
    ck_assert_ptr_nonnull(bdrv_open(json_node_get_object(options), NULL));
    bdrv_graph_unlock();
    pretend_zero(5 * MIB, 4 * KIB);
    on_management(start_now, &start);
    ck_assert(start.ok);
    wait_event("v:null");
    assert_fails("v:MISMATCH(5242880+4096)", 5 * MIB, 4096, 4096);
}
END_TEST

START_TEST(test_refused)
{
    g_autoptr(JsonNode) options = json_from_string(
        "{\"driver\":\"null-co\",\"node-name\":\"null\"}", NULL);

    bdrv_graph_lock();
    ck_assert_ptr_nonnull(bdrv_open(json_node_get_object(options), NULL));
    bdrv_graph_unlock();
    assert_refused("null", 0, "Node 'null' has no status cache");
    assert_refused("none", 0, "Cannot find device='none' nor node-name='none'");
    assert_refused("disk", -1,
                   "Parameter 'speed' expects a non-negative value");
}
END_TEST

/* ---- who writes meanwhile ----------------------------------------------- */

static void write_some(void)
{
    ASSERT_WRITES(node, 5 * MIB + 100, 10, 'y');
}

static void zero_some(void)
{
    do_zero(5 * MIB, 4 * KIB);
    ASSERT_KNOWN(node, 5 * MIB, ZERO);
}

/* Zero before and after, and data just when the job reads it */
START_TEST(test_write_during_read)
{
    plan.number = 4; /* 5 MiB: 3 reads to 3 MiB, then from 4 MiB on */
    plan.before = write_some;
    plan.after = zero_some;
    run_job();
    assert_succeeds(LENGTH - MIB - 64 * KIB - 4 * KIB);
    ASSERT_KNOWN(node, 5 * MIB, ZERO);
}
END_TEST

/* It reads zeroes, or data, but then they are called data. */
START_TEST(test_write_stays)
{
    plan.number = 4;
    *(_i ? &plan.before : &plan.after) = write_some;
    run_job();
    assert_succeeds(LENGTH - MIB - 64 * KIB - 4 * KIB);
    ASSERT_KNOWN(node, 5 * MIB, DATA);
    assert_reads(node, 5 * MIB + 100, 10, 'y');
}
END_TEST

/* A lie beside it is still one. */
START_TEST(test_lie_beside_a_write)
{
    pretend_zero(5 * MIB + 4 * KIB, 4 * KIB);
    plan.number = 4;
    plan.before = write_some;
    plan.after = zero_some;
    run_job();
    assert_fails("v:MISMATCH(5246976+4096)", 5 * MIB + 4 * KIB, 4096, 4096);
}
END_TEST

static void write_here_and_there(void)
{
    int64_t i;

    for (i = 0; i < 70; i++) {
        ASSERT_WRITES(node, 5 * MIB + i * 8 * KIB, 4 * KIB, 'y');
    }
}

/* However many have written: what comes behind them is looked at, too. */
START_TEST(test_lie_behind_writes)
{
    pretend_zero(6 * MIB - 4 * KIB, 4 * KIB);
    plan.number = 4;
    plan.before = write_here_and_there;
    run_job();
    assert_fails("v:MISMATCH(6287360+4096)", 6 * MIB - 4 * KIB, 4096, 4096);
}
END_TEST

/* ---- errors ------------------------------------------------------------- */

START_TEST(test_read_error)
{
    plan.number = 4;
    plan.err = EIO;
    run_job();
    check_events("v:created v:running v:ERROR(read) v:aborting "
                 "v:COMPLETED(Could not read 1048576 bytes from offset 5242880 "
                 "on of node 'disk': Input/output error) v:concluded v:null");
    ck_assert(!stats().distrusted);
    ck_assert_int_eq(count_reads(), 5);
    ASSERT_KNOWN(node, 5 * MIB, ZERO);
    ck_assert_uint_eq(stats().verified_bytes, 4 * MIB - 64 * KIB);
}
END_TEST

static void shrink(void)
{
    status_disk_resize(&state(node)->user, 5 * MIB + 1);
    ck_assert_int_eq(truncate(path, 5 * MIB + 1), 0);
}

/* What is no longer there cannot be read, and need not. */
START_TEST(test_shrinks_during_read)
{
    plan.number = 4;
    plan.err = _i ? EIO : 0;
    plan.before = shrink;
    run_job();
    assert_succeeds(4 * MIB - 64 * KIB);
    ck_assert_int_le(end_of_reads, 6 * MIB);
}
END_TEST

/* ---- verbs, and what others do with the node ---------------------------- */

static void start_and_hold(int read)
{
    plan.number = read;
    plan.hold = true;
    start_job("v", 0);
    wait_held();
}

static void pause_it(int read)
{
    start_and_hold(read);
    verb_ok(job_verb_pause(JOB_FAMILY_BLOCK, "v", errp));
    go_on();
    wait_event("v:paused");
    ck_assert_int_eq(count_reads(), read + 1);
}

static void resume_it(void)
{
    verb_ok(job_verb_resume(JOB_FAMILY_BLOCK, "v", errp));
    wait_event("v:null");
}

START_TEST(test_pause)
{
    g_autoptr(JsonObject) row = NULL;

    pause_it(4);
    row = job_row("v", true);
    ck_assert_str_eq(schema_get_str(row, "type", ""), "status-cache-verify");
    ck_assert_int_eq(schema_get_int(row, "len", 0), LENGTH - MIB - 64 * KIB);
    ck_assert_int_eq(schema_get_int(row, "offset", 0), 5 * MIB - 64 * KIB);
    ck_assert(!schema_get_bool(row, "busy", true));
    /* What is data now is done; a zero that comes is to be done. */
    ASSERT_WRITES(node, 7 * MIB, 512 * KIB, 'x');
    do_zero(0, 64 * KIB);
    resume_it();
    ck_assert_int_eq(event_int("v:COMPLETED", "len"), LENGTH - MIB - 64 * KIB);
    ck_assert_int_eq(event_int("v:COMPLETED", "offset"),
                     LENGTH - MIB - 64 * KIB);
    ck_assert_uint_eq(stats().verified_bytes,
                      LENGTH - MIB - 64 * KIB - 512 * KIB);
}
END_TEST

START_TEST(test_busy)
{
    g_autoptr(JsonObject) row = NULL;

    start_and_hold(2);
    row = job_row("v", true);
    ck_assert(schema_get_bool(row, "busy", false));
    go_on();
    wait_event("v:null");
}
END_TEST

START_TEST(test_cancel)
{
    start_and_hold(2);
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "v", false, errp));
    go_on();
    wait_event("v:null");
    check_events("v:created v:running v:aborting v:CANCELLED v:concluded "
                 "v:null");
    ck_assert_int_eq(count_reads(), 3);
    ck_assert_int_eq(stats().mode, STATUS_CACHE_ON);
}
END_TEST

/* It waits at a closed gate, and stops waiting. */
START_TEST(test_drained)
{
    pause_it(1);
    bdrv_graph_lock();
    bdrv_drained_begin(node);
    verb_ok(job_verb_resume(JOB_FAMILY_BLOCK, "v", errp));
    wait_event("v:running");
    ASSERT_WRITES(node, 5 * MIB, 4 * KIB, 'y');
    do_zero(5 * MIB, 4 * KIB);
    ck_assert_int_eq(count_reads(), 2);
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "v", false, errp));
    wait_event("v:aborting");
    bdrv_drained_end(node);
    bdrv_graph_unlock();
    wait_event("v:null");
}
END_TEST

/* Who drains waits for its read. */
START_TEST(test_drain_waits)
{
    start_and_hold(1);
    bdrv_graph_lock();
    ck_assert(!bdrv_try_drained_begin(node, g_get_monotonic_time()));
    bdrv_graph_unlock();
    go_on();
    wait_event("v:null");
    assert_succeeds(LENGTH - MIB - 64 * KIB);
}
END_TEST

START_TEST(test_node_is_in_use)
{
    g_autoptr(GError) err = NULL;

    pause_it(0);
    bdrv_graph_lock();
    ck_assert(!bdrv_monitor_del("disk", &err));
    ck_assert_str_eq(err->message, "Node disk is in use by job 'v'");
    bdrv_graph_unlock();
    resume_it();
    close_node(node);
    assert_refused("disk", 0, "Cannot find device='disk' nor node-name='disk'");
}
END_TEST

/* Nobody is kept from anything. */
START_TEST(test_others_use_it)
{
    BlockBackend *blk = blk_new("export 'e'", false, BLK_PERM_ALL, 0);
    g_autoptr(GError) err = NULL;
    bool ok;

    pause_it(0);
    bdrv_graph_lock();
    ok = blk_attach(blk, node, &err);
    ck_assert_msg(ok, "%s", err ? err->message : "");
    ck_assert_int_eq(blk_pwrite(blk, 6 * MIB, 4, "data", 0), 0);
    blk_free(blk);
    ck_assert_int_eq(bdrv_resize(node, 7 * MIB, &err), 0);
    bdrv_graph_unlock();
    resume_it();
    check_events("v:created v:running v:paused v:running v:waiting v:pending "
                 "v:COMPLETED v:concluded v:null");
    ck_assert_uint_eq(stats().verified_bytes,
                      LENGTH - 2 * MIB - 64 * KIB - 4 * KIB);
}
END_TEST

START_TEST(test_reopened)
{
    static const char *const options[] = { "'status-cache':'data-only'",
                                           "'status-cache':'off'",
                                           "'cache':{'direct':true}" };
    g_autofree char *text = g_strdup_printf(
        "[{'driver':'file','node-name':'disk','filename':'%s',%s}]", path,
        options[_i]);

    pause_it(2);
    must_reopen(text);
    resume_it();
    check_events("v:created v:running v:paused v:running v:waiting v:pending "
                 "v:COMPLETED v:concluded v:null");
    ck_assert(_i == 2 ? count_reads() > 3 : count_reads() == 3);
    ck_assert_int_eq(event_int("v:COMPLETED", "len"), LENGTH - MIB - 64 * KIB);
    ck_assert_int_eq(event_int("v:COMPLETED", "offset"),
                     LENGTH - MIB - 64 * KIB);
}
END_TEST

/* What was found wrong is not believed again with other options. */
START_TEST(test_reopened_distrusted)
{
    static const char *const options[] = { "off", "on", "data-only", "on" };
    size_t i;

    pretend_zero(5 * MIB, 4 * KIB);
    run_job();
    for (i = 0; i < G_N_ELEMENTS(options); i++) {
        g_autofree char *text = g_strdup_printf(
            "[{'driver':'file','node-name':'disk','filename':'%s',"
            "'status-cache':'%s'}]",
            path, options[i]);

        must_reopen(text);
        do_zero(0, 64 * KIB);
        ck_assert_int_ne(known(node, 0), BLOCK_STATE_ZERO);
        ck_assert(i == 0 || stats().distrusted);
    }
    close_node(node);
    node = open_node("disk", "");
    ck_assert(!stats().distrusted);
    do_zero(0, 64 * KIB);
    ASSERT_KNOWN(node, 0, ZERO);
}
END_TEST

/* One of two finds it: the other one has nothing to praise. */
START_TEST(test_two_jobs)
{
    pause_it(0);
    pretend_zero(5 * MIB, 4 * KIB);
    start_job("w", 0);
    wait_event("w:null");
    forget_events();
    resume_it();
    check_events("v:running v:aborting v:COMPLETED(Another job found data on "
                 "node 'disk' where its status cache knew zeroes) v:concluded "
                 "v:null");
}
END_TEST

/* ---- speed -------------------------------------------------------------- */

START_TEST(test_speed)
{
    int64_t since = g_get_monotonic_time(), speed = 8 * MIB, us;

    start_job("v", speed);
    wait_event("v:null");
    us = g_get_monotonic_time() - since;
    assert_succeeds(LENGTH - MIB - 64 * KIB);
    ck_assert_int_le(longest_read, speed / 10);
    /* The last request has not been waited for. */
    ck_assert_int_ge(us * (speed / 1000) / 1000, bytes_read - speed / 10);
}
END_TEST

START_TEST(test_slow)
{
    start_job("v", 1);
    wait_event("v:running");
    while (count_reads() == 0) {
        g_usleep(1000);
    }
    verb_ok(job_verb_set_speed("v", 0, errp));
    wait_event("v:null");
    assert_succeeds(LENGTH - MIB - 64 * KIB);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("status-verify");
    TCase *tc = tcase_create("verify");
    int failed;

    test_fs_set_up_plain();
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_zeroes_are_read);
    tcase_add_loop_test(tc, test_no_zeroes, STATUS_CACHE_OFF, STATUS_CACHE_ON);
    tcase_add_test(tc, test_lies);
    tcase_add_test(tc, test_many_lies);
    tcase_add_loop_test(tc, test_last_byte, 0, 2);
    tcase_add_test(tc, test_through_filters);
    tcase_add_test(tc, test_refused);
    tcase_add_test(tc, test_write_during_read);
    tcase_add_loop_test(tc, test_write_stays, 0, 2);
    tcase_add_test(tc, test_lie_beside_a_write);
    tcase_add_test(tc, test_lie_behind_writes);
    tcase_add_test(tc, test_read_error);
    tcase_add_loop_test(tc, test_shrinks_during_read, 0, 2);
    tcase_add_test(tc, test_pause);
    tcase_add_test(tc, test_busy);
    tcase_add_test(tc, test_cancel);
    tcase_add_test(tc, test_drained);
    tcase_add_test(tc, test_drain_waits);
    tcase_add_test(tc, test_node_is_in_use);
    tcase_add_test(tc, test_others_use_it);
    tcase_add_loop_test(tc, test_reopened, 0, 3);
    tcase_add_test(tc, test_reopened_distrusted);
    tcase_add_test(tc, test_two_jobs);
    tcase_add_test(tc, test_speed);
    tcase_add_test(tc, test_slow);
    suite_add_tcase(s, tc);
    failed = unit_main(s);
    test_fs_tear_down();
    return failed;
}
