/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Jobs: states, verbs, events, and that nothing is left of them */
#include <string.h>

#include "block/block-int.h"
#include "block/job-int.h"
#include "job-harness.h"
#include "unit-main.h"
#include "util/error.h"
#include "util/schema.h"

/* ---- a job that does what it is told ------------------------------------ */

typedef struct Toy {
    int prepared; /* how often */
} Toy;

/* The test says when run() goes on, and what it returns. */
static int toy_go; /* atomic */
static bool toy_ready;
static int toy_ret, toy_prepare_ret;
static int toy_refusals; /* how often let_go() is yet to refuse */
static int64_t toy_retry_us;
/* How often each was called; management thread */
static int toy_commits, toy_aborts, toy_cleans;

static int toy_run(Job *job)
{
    job_progress_set_remaining(job, 100);
    if (toy_ready) {
        job_set_ready(job);
    }
    while (!g_atomic_int_get(&toy_go) && !job_should_complete(job, NULL)) {
        if (job_pause_point(job) < 0) {
            return -ECANCELED;
        }
        job_wait(job, INT64_MAX);
        if (job_is_cancelled(job)) {
            return -ECANCELED;
        }
    }
    job_progress_update(job, 60);
    if (toy_ret < 0 && toy_ret != -EIO) {
        job_set_error(job, toy_ret, "the toy broke");
    }
    return toy_ret;
}

static int toy_prepare(Job *job, GError **errp)
{
    Toy *toy = job_opaque(job);

    if (toy->prepared++ == 0 && toy_prepare_ret == JOB_AGAIN) {
        return JOB_AGAIN;
    }
    if (toy_prepare_ret < 0) {
        error_setg(errp, "no good end");
        return toy_prepare_ret;
    }
    return 0;
}

static void toy_commit(Job *job)
{
    toy_commits++;
}

static void toy_abort(Job *job)
{
    toy_aborts++;
}

static int64_t toy_let_go(Job *job)
{
    ck_assert_int_eq(toy_commits + toy_aborts, 1);
    ck_assert_int_eq(toy_cleans, 0);
    if (toy_refusals == 0) {
        return 0;
    }
    toy_refusals--;
    return g_get_monotonic_time() + toy_retry_us;
}

static void toy_clean(Job *job)
{
    toy_cleans++;
}

static const JobDriver toy_driver = {
    .type = "toy",
    .instance_size = sizeof(Toy),
    .block_job = true,
    .can_complete = true,
    .run = toy_run,
    .prepare = toy_prepare,
    .commit = toy_commit,
    .abort = toy_abort,
    .clean = toy_clean,
};

/* One that does not get rid of its guests at once */
static const JobDriver clinging_driver = {
    .type = "toy",
    .instance_size = sizeof(Toy),
    .block_job = true,
    .run = toy_run,
    .prepare = toy_prepare,
    .commit = toy_commit,
    .abort = toy_abort,
    .let_go = toy_let_go,
    .clean = toy_clean,
};

/* As blockdev-create's: no block job */
static int plain_run(Job *job)
{
    job_progress_set_remaining(job, 1);
    job_progress_update(job, 1);
    return toy_ret;
}

static const JobDriver plain_driver = {
    .type = "create",
    .run = plain_run,
};

typedef struct Creation {
    const JobDriver *drv;
    JobOptions options;
    bool start;
    GError *err;
    Job *job;
} Creation;

static void create(void *opaque)
{
    Creation *c = opaque;

    c->job = job_create(c->drv, &c->options, &c->err);
    if (c->job && c->start) {
        job_start(c->job);
    }
}

static void abandon(void *opaque)
{
    job_abandon(opaque);
}

static void start_job(const JobDriver *drv, const char *id, bool auto_finalize,
                      bool auto_dismiss)
{
    Creation c = { .drv = drv,
                   .options = { .id = id,
                                .auto_finalize = auto_finalize,
                                .auto_dismiss = auto_dismiss },
                   .start = true };

    on_management(create, &c);
    ck_assert(c.job != NULL);
}

static void start_toy(bool auto_finalize, bool auto_dismiss)
{
    start_job(&toy_driver, "t", auto_finalize, auto_dismiss);
}

static void let_toy_go(void)
{
    Job *job;

    g_atomic_int_set(&toy_go, 1);
    mutex_lock(&job_mutex);
    job = job_list->pdata[0];
    job_kick_locked(job);
    mutex_unlock(&job_mutex);
}

static void check_calls(int commits, int aborts, int cleans)
{
    ck_assert_int_eq(toy_commits, commits);
    ck_assert_int_eq(toy_aborts, aborts);
    ck_assert_int_eq(toy_cleans, cleans);
}

static void set_up(void)
{
    toy_go = 0;
    toy_ready = false;
    toy_ret = toy_prepare_ret = 0;
    toy_commits = toy_aborts = toy_cleans = 0;
    toy_refusals = 0;
    toy_retry_us = 0;
    harness_start();
}

static void tear_down(void)
{
    job_cancel_all_sync();
    ck_assert_uint_eq(job_threads, 0);
    harness_stop();
}

/* ---- tests -------------------------------------------------------------- */

START_TEST(test_names)
{
    static const char *const bad[] = { "",    "1",        "-a", "a b",
                                       "a/b", "\xc3\xa4", NULL };
    const char *const *p;
    Creation c = { .drv = &toy_driver };
    Creation again = { .drv = &toy_driver };

    for (p = bad; *p; p++) {
        g_autofree char *message = g_strdup_printf("Invalid job ID '%s'", *p);

        c.options.id = *p;
        on_management(create, &c);
        ck_assert(c.job == NULL);
        ck_assert_str_eq(c.err->message, message);
        g_clear_error(&c.err);
    }
    c.options.id = NULL;
    on_management(create, &c);
    ck_assert_str_eq(c.err->message, "Invalid job ID ''");
    g_clear_error(&c.err);

    c.options.id = "a-b._1";
    on_management(create, &c);
    ck_assert(c.job != NULL);
    again.options = c.options;
    on_management(create, &again);
    ck_assert(again.job == NULL);
    ck_assert_str_eq(again.err->message, "Job ID 'a-b._1' already in use");
    g_clear_error(&again.err);
    on_management(abandon, c.job);
    check_calls(0, 0, 1);
    check_events("a-b._1:created a-b._1:null");
}
END_TEST

START_TEST(test_success)
{
    start_toy(true, true);
    let_toy_go();
    wait_event("t:null");
    check_events("t:created t:running t:waiting t:pending t:COMPLETED "
                 "t:concluded t:null");
    ck_assert_int_eq(event_int("t:COMPLETED", "len"), 100);
    ck_assert_int_eq(event_int("t:COMPLETED", "offset"), 60);
    check_calls(1, 0, 1);
}
END_TEST

START_TEST(test_plain)
{
    g_autoptr(JsonObject) row = NULL;

    start_job(&plain_driver, "c", true, false);
    wait_event("c:concluded");
    check_events("c:created c:running c:waiting c:pending c:concluded");
    ck_assert(job_row("c", true) == NULL);
    row = job_row("c", false);
    ck_assert_str_eq(schema_get_str(row, "type", ""), "create");
    ck_assert_str_eq(schema_get_str(row, "status", ""), "concluded");
    ck_assert_int_eq(schema_get_int(row, "current-progress", -1), 1);
    ck_assert_int_eq(schema_get_int(row, "total-progress", -1), 1);
    ck_assert(!schema_has(row, "error"));
    verb_refused(job_verb_dismiss(JOB_FAMILY_BLOCK, "c", errp),
                 "Block job 'c' not found");
    verb_ok(job_verb_dismiss(JOB_FAMILY_ALL, "c", errp));
    wait_event("c:null");
}
END_TEST

START_TEST(test_failures)
{
    g_autoptr(JsonObject) row = NULL;

    toy_ret = -EIO;
    start_toy(true, true);
    let_toy_go();
    wait_event("t:null");
    check_events("t:created t:running t:aborting "
                 "t:COMPLETED(Input/output error) t:concluded t:null");
    check_calls(0, 1, 1);

    /* Its own words; and an errno that means nothing to the machinery */
    toy_ret = -EAGAIN;
    forget_events();
    start_toy(false, false);
    let_toy_go();
    wait_event("t:concluded");
    check_events("t:created t:running t:aborting t:COMPLETED(the toy broke) "
                 "t:concluded");
    row = job_row("t", true);
    ck_assert_str_eq(schema_get_str(row, "error", ""), "the toy broke");
    verb_ok(job_verb_dismiss(JOB_FAMILY_ALL, "t", errp));
}
END_TEST

START_TEST(test_prepare_fails)
{
    toy_prepare_ret = -EPERM;
    start_toy(true, true);
    let_toy_go();
    wait_event("t:null");
    check_events("t:created t:running t:aborting t:COMPLETED(no good end) "
                 "t:concluded t:null");
    check_calls(0, 1, 1);
}
END_TEST

START_TEST(test_prepare_again)
{
    toy_prepare_ret = JOB_AGAIN;
    start_toy(true, true);
    let_toy_go();
    wait_event("t:null");
    check_events("t:created t:running t:waiting t:pending t:COMPLETED "
                 "t:concluded t:null");
    /* run() was called twice. */
    ck_assert_int_eq(event_int("t:COMPLETED", "offset"), 120);
}
END_TEST

START_TEST(test_finalize_by_hand)
{
    start_toy(false, false);
    verb_refused(job_verb_finalize(JOB_FAMILY_ALL, "t", errp),
                 "Job 't' in state 'running' cannot accept command verb "
                 "'finalize'");
    let_toy_go();
    wait_event("t:PENDING");
    check_events("t:created t:running t:waiting t:pending t:PENDING");
    check_calls(0, 0, 0);
    verb_refused(job_verb_pause(JOB_FAMILY_ALL, "t", errp),
                 "Job 't' in state 'pending' cannot accept command verb "
                 "'pause'");
    verb_refused(job_verb_resume(JOB_FAMILY_ALL, "t", errp),
                 "Can't resume a job that was not paused");
    verb_refused(job_verb_set_speed("t", 1, errp),
                 "Job 't' in state 'pending' cannot accept command verb "
                 "'set-speed'");
    verb_refused(job_verb_dismiss(JOB_FAMILY_BLOCK, "t", errp),
                 "Job 't' in state 'pending' cannot accept command verb "
                 "'dismiss'");
    verb_ok(job_verb_finalize(JOB_FAMILY_BLOCK, "t", errp));
    wait_event("t:concluded");
    verb_refused(job_verb_cancel(JOB_FAMILY_ALL, "t", true, errp),
                 "Job 't' in state 'concluded' cannot accept command verb "
                 "'cancel'");
    verb_refused(job_verb_complete(JOB_FAMILY_ALL, "t", errp),
                 "Job 't' in state 'concluded' cannot accept command verb "
                 "'complete'");
    verb_ok(job_verb_dismiss(JOB_FAMILY_ALL, "t", errp));
    check_events("t:created t:running t:waiting t:pending t:PENDING "
                 "t:COMPLETED t:concluded t:null");
    check_calls(1, 0, 1);
}
END_TEST

START_TEST(test_cancel_pending)
{
    start_toy(false, true);
    let_toy_go();
    wait_event("t:PENDING");
    /* Without force, too: only ready jobs have anything to keep. */
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "t", false, errp));
    wait_event("t:null");
    check_events("t:created t:running t:waiting t:pending t:PENDING "
                 "t:aborting t:CANCELLED t:concluded t:null");
    check_calls(0, 1, 1);
}
END_TEST

START_TEST(test_cancel_running)
{
    g_autoptr(JsonObject) row = NULL;

    start_toy(true, false);
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "t", false, errp));
    wait_event("t:concluded");
    check_events("t:created t:running t:aborting t:CANCELLED t:concluded");
    row = job_row("t", false);
    ck_assert_str_eq(schema_get_str(row, "error", ""), "Operation canceled");
    verb_ok(job_verb_dismiss(JOB_FAMILY_ALL, "t", errp));
}
END_TEST

/* The commit point: a cancellation that comes before it counts. */
START_TEST(test_cancel_between)
{
    start_toy(true, true);
    management_halt();
    let_toy_go();
    management_wait_queued();
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "t", true, errp));
    management_go();
    wait_event("t:null");
    check_events("t:created t:running t:aborting t:CANCELLED t:concluded "
                 "t:null");
    check_calls(0, 1, 1);
}
END_TEST

START_TEST(test_pause)
{
    g_autoptr(JsonObject) row = NULL;

    start_toy(true, true);
    verb_refused(job_verb_resume(JOB_FAMILY_ALL, "t", errp),
                 "Can't resume a job that was not paused");
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "t", errp));
    verb_refused(job_verb_pause(JOB_FAMILY_BLOCK, "t", errp),
                 "Job is already paused");
    wait_event("t:paused");
    row = job_row("t", true);
    ck_assert(schema_get_bool(row, "paused", false));
    verb_refused(job_verb_cancel(JOB_FAMILY_BLOCK, "t", false, errp),
                 "The block job for device 't' is currently paused");
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "t", errp));
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "t", errp));
    wait_event("t:paused");
    /* Work that is done meanwhile does not count before the job goes on. */
    let_toy_go();
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "t", errp));
    wait_event("t:null");
    check_events("t:created t:running t:paused t:running t:paused t:running "
                 "t:waiting t:pending t:COMPLETED t:concluded t:null");
}
END_TEST

START_TEST(test_cancel_paused)
{
    start_toy(true, true);
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "t", errp));
    wait_event("t:paused");
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "t", true, errp));
    wait_event("t:null");
    check_events("t:created t:running t:paused t:running t:aborting "
                 "t:CANCELLED t:concluded t:null");
}
END_TEST

START_TEST(test_ready)
{
    g_autoptr(JsonObject) row = NULL;

    toy_ready = true;
    start_toy(true, true);
    wait_event("t:READY");
    row = job_row("t", true);
    ck_assert(schema_get_bool(row, "ready", false));
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "t", errp));
    wait_event("t:standby");
    verb_ok(job_verb_complete(JOB_FAMILY_ALL, "t", errp));
    verb_ok(job_verb_complete(JOB_FAMILY_BLOCK, "t", errp));
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "t", errp));
    wait_event("t:null");
    check_events("t:created t:running t:ready t:READY t:standby t:ready "
                 "t:waiting t:pending t:COMPLETED t:concluded t:null");
}
END_TEST

START_TEST(test_soft_cancel)
{
    toy_ready = true;
    start_toy(false, true);
    verb_refused(job_verb_complete(JOB_FAMILY_ALL, "nope", errp),
                 "Job not found");
    verb_refused(job_verb_complete(JOB_FAMILY_BLOCK, "nope", errp),
                 "Block job 'nope' not found");
    wait_event("t:READY");
    verb_refused(job_verb_set_speed("t", -1, errp),
                 "Parameter 'speed' expects a non-negative value");
    verb_ok(job_verb_set_speed("t", 12345, errp));
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "t", false, errp));
    wait_event("t:PENDING");
    verb_ok(job_verb_finalize(JOB_FAMILY_ALL, "t", errp));
    wait_event("t:null");
    check_events("t:created t:running t:ready t:READY t:waiting t:pending "
                 "t:PENDING t:COMPLETED t:concluded t:null");
    ck_assert_int_eq(event_int("t:COMPLETED", "speed"), 12345);
}
END_TEST

START_TEST(test_complete_running)
{
    start_toy(true, true);
    verb_refused(job_verb_complete(JOB_FAMILY_ALL, "t", errp),
                 "Job 't' in state 'running' cannot accept command verb "
                 "'complete'");
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "t", true, errp));
    wait_event("t:null");
}
END_TEST

START_TEST(test_error_classes)
{
    g_autoptr(GError) all = NULL;
    g_autoptr(GError) block = NULL;

    job_verb_dismiss(JOB_FAMILY_ALL, "nope", &all);
    job_verb_dismiss(JOB_FAMILY_BLOCK, "nope", &block);
    ck_assert_str_eq(error_class_name(all), "GenericError");
    ck_assert_str_eq(error_class_name(block), "DeviceNotActive");
}
END_TEST

/* At exit, whatever state a job is in */
START_TEST(test_cancel_all)
{
    start_job(&toy_driver, "running", true, true);
    start_job(&toy_driver, "paused", true, false);
    start_job(&plain_driver, "concluded", true, false);
    start_job(&plain_driver, "pending", false, false);
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "paused", errp));
    wait_event("concluded:concluded");
    job_cancel_all_sync();
    ck_assert(job_list == NULL);
    ck_assert_uint_eq(job_threads, 0);
}
END_TEST

/* What a job cannot let go of now it lets go of later, and ends then. */
START_TEST(test_let_go_later)
{
    const int rets[] = { 0, -EPERM };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(rets); i++) {
        forget_events();
        toy_go = 0;
        toy_commits = toy_aborts = toy_cleans = 0;
        toy_prepare_ret = rets[i];
        toy_refusals = 3;
        toy_retry_us = 1000;
        start_job(&clinging_driver, "t", true, true);
        let_toy_go();
        wait_event("t:null");
        check_events(i == 0 ? "t:created t:running t:waiting t:pending "
                              "t:COMPLETED t:concluded t:null"
                            : "t:created t:running t:aborting "
                              "t:COMPLETED(no good end) t:concluded t:null");
        ck_assert_int_eq(toy_refusals, 0);
        check_calls(i == 0, i == 1, 1);
    }
}
END_TEST

static void nothing(void *opaque)
{
}

/* Between two tries others are served, and at exit nobody waits for the next. */
START_TEST(test_let_go_at_exit)
{
    g_autoptr(JsonObject) row = NULL;

    toy_refusals = 2;
    toy_retry_us = G_TIME_SPAN_DAY;
    start_job(&clinging_driver, "t", true, true);
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "t", true, errp));
    wait_event("t:aborting");
    on_management(nothing, NULL);
    on_management(nothing, NULL);
    row = job_row("t", false);
    ck_assert_str_eq(schema_get_str(row, "status", ""), "aborting");
    verb_refused(job_verb_cancel(JOB_FAMILY_ALL, "t", true, errp),
                 "Job 't' in state 'aborting' cannot accept command verb "
                 "'cancel'");
    check_events("t:created t:running t:aborting");
    job_cancel_all_sync();
    check_events("t:created t:running t:aborting t:CANCELLED t:concluded "
                 "t:null");
    check_calls(0, 1, 1);
}
END_TEST

START_TEST(test_nodes)
{
    BlockDriverState used = { .node_name = (char *)"used" };
    BlockDriverState unused = { .node_name = (char *)"unused" };
    Creation c = { .drv = &toy_driver, .options = { .id = "t" } };
    g_autoptr(GError) err = NULL;

    on_management(create, &c);
    job_add_node(c.job, &used);
    ck_assert(job_uses_node(&used, &err));
    ck_assert_str_eq(err->message, "Node 'used' is busy: block device is in "
                                   "use by block job: toy");
    ck_assert(!job_uses_node(&unused, NULL));
    on_management(abandon, c.job);
    ck_assert(!job_uses_node(&used, NULL));
}
END_TEST

/* The sum of what was done and what remains may be more than can be told. */
START_TEST(test_progress_without_end)
{
    Creation c = { .drv = &plain_driver, .options = { .id = "t" } };
    g_autoptr(JsonObject) row = NULL;

    on_management(create, &c);
    job_progress_set_remaining(c.job, INT64_MAX);
    job_progress_update(c.job, INT64_MAX);
    job_progress_update(c.job, 7);
    job_progress_set_remaining(c.job, (uint64_t)INT64_MAX + 7);
    row = job_row("t", false);
    ck_assert_int_eq(schema_get_int(row, "current-progress", -1), INT64_MAX);
    ck_assert_int_eq(schema_get_int(row, "total-progress", -1), INT64_MAX);
    on_management(abandon, c.job);
}
END_TEST

/* Threads that ask for everything all the time, while jobs come and go */
static int storm_over;

static void *storm(void *opaque)
{
    GRand *rand = g_rand_new_with_seed(GPOINTER_TO_UINT(opaque));

    while (!g_atomic_int_get(&storm_over)) {
        JobFamily family = g_rand_int_range(rand, 0, 2);

        switch (g_rand_int_range(rand, 0, 9)) {
        case 0:
            job_verb_pause(family, "t", NULL);
            break;
        case 1:
        case 2:
        case 3:
            job_verb_resume(family, "t", NULL);
            break;
        case 4:
            job_verb_complete(family, "t", NULL);
            break;
        case 5:
            job_verb_cancel(family, "t", g_rand_int_range(rand, 0, 8) == 0,
                            NULL);
            break;
        case 6:
            job_verb_finalize(family, "t", NULL);
            break;
        case 7:
            job_verb_dismiss(family, "t", NULL);
            break;
        default:
            json_array_unref(job_query());
            json_array_unref(job_query_block());
        }
    }
    g_rand_free(rand);
    return NULL;
}

START_TEST(test_storm)
{
    pthread_t threads[3];
    unsigned i;

    toy_ready = true;
    g_atomic_int_set(&storm_over, 0);
    for (i = 0; i < G_N_ELEMENTS(threads); i++) {
        pthread_create(&threads[i], NULL, storm, GUINT_TO_POINTER(i));
    }
    for (i = 0; i < 100; i++) {
        start_toy(i & 1, i & 2);
        wait_event("t:null");
        forget_events();
    }
    g_atomic_int_set(&storm_over, 1);
    for (i = 0; i < G_N_ELEMENTS(threads); i++) {
        pthread_join(threads[i], NULL);
    }
    /* Each was cleaned up once. */
    ck_assert_int_eq(toy_commits + toy_aborts, 100);
    ck_assert_int_eq(toy_cleans, 100);
}
END_TEST

/* ---- the rate limit ----------------------------------------------------- */

START_TEST(test_rate_limit)
{
    RateLimit limit = { 0 };
    int64_t now = 1000000;
    int i;

    rate_limit_set_speed(&limit, 0, now);
    rate_limit_charge(&limit, RATE_LIMIT_MAX_CHARGE, now);
    ck_assert_int_eq(rate_limit_delay(&limit, now), 0);

    rate_limit_set_speed(&limit, 1000000, now);
    ck_assert_int_eq(rate_limit_delay(&limit, now), 0);
    rate_limit_charge(&limit, 500000, now);
    ck_assert_int_eq(rate_limit_delay(&limit, now), 500000);
    now += 200000;
    ck_assert_int_eq(rate_limit_delay(&limit, now), 300000);
    /* The debt is in bytes: it takes half the time at twice the speed. */
    rate_limit_set_speed(&limit, 2000000, now);
    ck_assert_int_eq(rate_limit_delay(&limit, now), 150000);
    now += 150000;
    ck_assert_int_eq(rate_limit_delay(&limit, now), 0);
    /* Idle time is not saved up. */
    now += 100 * G_USEC_PER_SEC;
    rate_limit_charge(&limit, 2000000, now);
    ck_assert_int_eq(rate_limit_delay(&limit, now), G_USEC_PER_SEC);
    rate_limit_set_speed(&limit, 0, now);
    ck_assert_int_eq(rate_limit_delay(&limit, now), 0);

    /* Slow enough for fractions to count, however often one looks */
    rate_limit_set_speed(&limit, 3, now);
    rate_limit_charge(&limit, 6, now);
    for (i = 0; i < 1999999; i++) {
        now++;
        ck_assert_int_gt(rate_limit_delay(&limit, now), 0);
    }
    now++;
    ck_assert_int_eq(rate_limit_delay(&limit, now), 0);
}
END_TEST

START_TEST(test_rate_limit_extremes)
{
    RateLimit limit = { 0 };
    int64_t now = 0;
    int i;

    rate_limit_set_speed(&limit, INT64_MAX, now);
    rate_limit_charge(&limit, RATE_LIMIT_MAX_CHARGE, now);
    ck_assert_int_eq(rate_limit_delay(&limit, now), 1);
    ck_assert_int_eq(rate_limit_delay(&limit, now + 1), 0);
    rate_limit_set_speed(&limit, 1, now);
    for (i = 0; i < 100; i++) {
        rate_limit_charge(&limit, RATE_LIMIT_MAX_CHARGE, now);
    }
    ck_assert_int_gt(rate_limit_delay(&limit, now), 0);
    ck_assert_int_gt(rate_limit_delay(&limit, INT64_MAX / 2), 0);
    rate_limit_set_speed(&limit, INT64_MAX, now);
    ck_assert_int_le(rate_limit_delay(&limit, now), 3);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("job");
    TCase *t = tcase_create("job");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, test_progress_without_end);
    tcase_add_test(t, test_names);
    tcase_add_test(t, test_success);
    tcase_add_test(t, test_plain);
    tcase_add_test(t, test_failures);
    tcase_add_test(t, test_prepare_fails);
    tcase_add_test(t, test_prepare_again);
    tcase_add_test(t, test_finalize_by_hand);
    tcase_add_test(t, test_cancel_pending);
    tcase_add_test(t, test_cancel_running);
    tcase_add_test(t, test_cancel_between);
    tcase_add_test(t, test_pause);
    tcase_add_test(t, test_cancel_paused);
    tcase_add_test(t, test_ready);
    tcase_add_test(t, test_soft_cancel);
    tcase_add_test(t, test_complete_running);
    tcase_add_test(t, test_error_classes);
    tcase_add_test(t, test_cancel_all);
    tcase_add_test(t, test_let_go_later);
    tcase_add_test(t, test_let_go_at_exit);
    tcase_add_test(t, test_nodes);
    tcase_add_test(t, test_storm);
    suite_add_tcase(s, t);

    t = tcase_create("rate-limit");
    tcase_add_test(t, test_rate_limit);
    tcase_add_test(t, test_rate_limit_extremes);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
