/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Jobs whose requests fail: what each policy makes of it, and who may go on */
#include <string.h>

#include "block/job-int.h"
#include "job-harness.h"
#include "unit-main.h"
#include "util/schema.h"

#define MAX_ERRORS 4

/* What the job of this test is to do, and what came of it */
static struct {
    JobErrorPolicy policy;
    int errors[MAX_ERRORS + 1]; /* of its requests; 0: the last */
    bool ready;                 /* it is, before the first */
    bool late;                  /* they fail after job_may_finalize() */
    bool cancel;                /* it is, before the first */
} plan;
static JobErrorAction actions[MAX_ERRORS];

static int run(Job *job)
{
    int i;

    if (plan.ready) {
        job_set_ready(job);
    }
    if (plan.cancel) {
        verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "t", true, errp));
    }
    while (plan.late && !job_may_finalize(job)) {
        job_wait(job, INT64_MAX);
    }
    for (i = 0; plan.errors[i]; i++) {
        actions[i] = job_error_action(job, plan.policy, i % 2, plan.errors[i]);
        if (actions[i] == JOB_ERROR_REPORT) {
            return plan.errors[i];
        }
        if (job_pause_point(job) < 0) {
            return -ECANCELED;
        }
    }
    return 0;
}

static const JobDriver driver = {
    .type = "toy",
    .block_job = true,
    .can_complete = true,
    .run = run,
};

static void start_now(void *opaque)
{
    JobOptions options = { .id = "t",
                           .auto_finalize = !plan.late,
                           .auto_dismiss = true };

    job_start(job_create(&driver, &options, NULL));
}

static void start(JobErrorPolicy policy, int first, int second)
{
    plan.policy = policy;
    plan.errors[0] = first;
    plan.errors[1] = second;
    forget_events();
    on_management(start_now, NULL);
}

static void resume(void)
{
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "t", errp));
}

static void check_row(bool paused, const char *io_status)
{
    g_autoptr(JsonObject) row = job_row("t", true);

    ck_assert(schema_get_bool(row, "paused", !paused) == paused);
    ck_assert_str_eq(schema_get_str(row, "io-status", ""), io_status);
}

START_TEST(test_report)
{
    static const JobErrorPolicy policies[] = { JOB_ON_ERROR_REPORT,
                                               JOB_ON_ERROR_ENOSPC,
                                               JOB_ON_ERROR_AUTO };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(policies); i++) {
        start(policies[i], -EIO, -EIO);
        wait_event("t:null");
        ck_assert_int_eq(actions[0], JOB_ERROR_REPORT);
        check_events("t:created t:running t:ERROR(write) t:aborting "
                     "t:COMPLETED(Input/output error) t:concluded t:null");
    }
    start(JOB_ON_ERROR_REPORT, -ENOSPC, 0);
    wait_event("t:null");
    ck_assert_int_eq(actions[0], JOB_ERROR_REPORT);
}
END_TEST

START_TEST(test_ignore)
{
    start(JOB_ON_ERROR_IGNORE, -EIO, -ENOSPC);
    wait_event("t:null");
    ck_assert_int_eq(actions[0], JOB_ERROR_IGNORE);
    ck_assert_int_eq(actions[1], JOB_ERROR_IGNORE);
    check_events("t:created t:running t:ERROR(write,ignore) "
                 "t:ERROR(read,ignore) t:waiting t:pending t:COMPLETED "
                 "t:concluded t:null");
}
END_TEST

START_TEST(test_stop)
{
    start(JOB_ON_ERROR_STOP, -EIO, -ENOSPC);
    wait_event("t:paused");
    check_row(true, "failed");
    verb_refused(job_verb_pause(JOB_FAMILY_ALL, "t", errp),
                 "Job is already paused");
    verb_refused(job_verb_cancel(JOB_FAMILY_BLOCK, "t", false, errp),
                 "The block job for device 't' is currently paused");
    resume();
    wait_event("t:paused");
    check_row(true, "nospace");
    resume();
    wait_event("t:null");
    check_events("t:created t:running t:ERROR(write,stop) t:paused t:running "
                 "t:ERROR(read,stop) t:paused t:running t:waiting t:pending "
                 "t:COMPLETED t:concluded t:null");
}
END_TEST

START_TEST(test_no_space)
{
    static const JobErrorPolicy policies[] = { JOB_ON_ERROR_ENOSPC,
                                               JOB_ON_ERROR_AUTO };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(policies); i++) {
        start(policies[i], -ENOSPC, -EIO);
        wait_event("t:paused");
        check_row(true, "nospace");
        resume();
        wait_event("t:null");
        check_events("t:created t:running t:ERROR(write,stop) t:paused "
                     "t:running t:ERROR(read) t:aborting "
                     "t:COMPLETED(Input/output error) t:concluded t:null");
    }
}
END_TEST

/* While it does its last work */
START_TEST(test_stop_pending)
{
    plan.late = true;
    start(JOB_ON_ERROR_STOP, -EIO, 0);
    wait_event("t:PENDING");
    check_row(false, "ok");
    /* Where no other pause is possible; it can be resumed all the same. */
    verb_ok(job_verb_finalize(JOB_FAMILY_ALL, "t", errp));
    wait_event("t:ERROR(write,stop)");
    check_row(true, "failed");
    resume();
    wait_event("t:null");
    check_events("t:created t:running t:waiting t:pending t:PENDING "
                 "t:ERROR(write,stop) t:COMPLETED t:concluded t:null");
}
END_TEST

START_TEST(test_stop_ready)
{
    plan.ready = true;
    start(JOB_ON_ERROR_STOP, -ENOSPC, 0);
    wait_event("t:standby");
    check_row(true, "nospace");
    verb_ok(job_verb_complete(JOB_FAMILY_ALL, "t", errp));
    resume();
    wait_event("t:null");
    check_events("t:created t:running t:ready t:READY t:ERROR(write,stop) "
                 "t:standby t:ready t:waiting t:pending t:COMPLETED "
                 "t:concluded t:null");
}
END_TEST

static void *cancel_all(void *opaque)
{
    job_cancel_all_sync();
    return NULL;
}

START_TEST(test_cancel)
{
    pthread_t thread;

    start(JOB_ON_ERROR_STOP, -EIO, 0);
    wait_event("t:paused");
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "t", true, errp));
    wait_event("t:null");
    check_events("t:created t:running t:ERROR(write,stop) t:paused t:running "
                 "t:aborting t:CANCELLED t:concluded t:null");

    /* By the end of the daemon */
    start(JOB_ON_ERROR_STOP, -EIO, 0);
    wait_event("t:paused");
    pthread_create(&thread, NULL, cancel_all, NULL);
    wait_event("t:null");
    pthread_join(thread, NULL);

    /* What fails after that stops nobody. */
    plan.cancel = true;
    start(JOB_ON_ERROR_STOP, -EIO, 0);
    wait_event("t:null");
    ck_assert_int_eq(actions[0], JOB_ERROR_REPORT);
    check_events("t:created t:running t:aborting t:CANCELLED t:concluded "
                 "t:null");
}
END_TEST

static void set_up(void)
{
    memset(&plan, 0, sizeof(plan));
    harness_start();
}

static void tear_down(void)
{
    job_cancel_all_sync();
    harness_stop();
}

static Suite *suite(void)
{
    Suite *s = suite_create("job-error");
    TCase *t = tcase_create("job-error");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, test_report);
    tcase_add_test(t, test_ignore);
    tcase_add_test(t, test_stop);
    tcase_add_test(t, test_no_space);
    tcase_add_test(t, test_stop_pending);
    tcase_add_test(t, test_stop_ready);
    tcase_add_test(t, test_cancel);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
