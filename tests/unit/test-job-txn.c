/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Jobs that end together */
#include <string.h>

#include "block/job-int.h"
#include "job-harness.h"
#include "unit-main.h"
#include "util/error.h"

/* ---- jobs that do what they are told ------------------------------------ */

#define N_TOYS 3

/* Toy n has the name 'a' + n. */
typedef struct Toy {
    Job *job;
    int go;                    /* atomic: run() may return */
    int ret, prepare_ret;      /* what it and prepare() are to return */
    int again;                 /* how often prepare() is to say JOB_AGAIN */
    int refusals;              /* how often let_go() is to refuse */
    bool by_hand;              /* not auto-finalize */
    int runs;                  /* atomic: how often run() was called */
    int commits, aborts, ends; /* and others; management thread */
} Toy;

static Toy toys[N_TOYS];
static GString *calls; /* "pa ca xa": prepare, commit, abort (u), clean (x) */
static bool no_calls;  /* too many to note */

static Toy *toy_of(Job *job)
{
    return &toys[job_id(job)[0] - 'a'];
}

static void called(Job *job, char what)
{
    if (!no_calls) {
        g_string_append_printf(calls, "%s%c%s", calls->len ? " " : "", what,
                               job_id(job));
    }
}

static int toy_run(Job *job)
{
    Toy *toy = toy_of(job);

    g_atomic_int_inc(&toy->runs);
    while (!g_atomic_int_get(&toy->go)) {
        job_wait(job, INT64_MAX);
        if (job_pause_point(job) < 0) {
            return -ECANCELED;
        }
    }
    g_atomic_int_set(&toy->go, 0);
    return toy->ret;
}

static int toy_prepare(Job *job, GError **errp)
{
    Toy *toy = toy_of(job);

    called(job, 'p');
    ck_assert_int_eq(toy->commits + toy->aborts, 0);
    if (toy->again > 0) {
        toy->again--;
        return JOB_AGAIN;
    }
    if (toy->prepare_ret < 0) {
        error_setg(errp, "no good end");
    }
    return toy->prepare_ret;
}

static void toy_commit(Job *job)
{
    called(job, 'c');
    toy_of(job)->commits++;
}

static void toy_abort(Job *job)
{
    called(job, 'u');
    toy_of(job)->aborts++;
}

static int64_t toy_let_go(Job *job)
{
    Toy *toy = toy_of(job);

    return toy->refusals-- > 0 ? g_get_monotonic_time() + 1000 : 0;
}

static void toy_clean(Job *job)
{
    called(job, 'x');
    toy_of(job)->ends++;
}

static const JobDriver toy_driver = {
    .type = "toy",
    .block_job = true,
    .run = toy_run,
    .prepare = toy_prepare,
    .commit = toy_commit,
    .abort = toy_abort,
    .let_go = toy_let_go,
    .clean = toy_clean,
};

/* ---- what tests do ------------------------------------------------------ */

typedef struct Group {
    int n;
    bool start;
} Group;

static void create_group(void *opaque)
{
    const Group *group = opaque;
    JobTxn *txn = job_txn_new();
    int i;

    for (i = 0; i < group->n; i++) {
        const char id[] = { 'a' + i, 0 };
        const JobOptions options = {
            .id = id,
            .txn = txn,
            .auto_finalize = !toys[i].by_hand,
            .auto_dismiss = true,
        };

        toys[i].job = job_create(&toy_driver, &options, NULL);
        ck_assert_ptr_nonnull(toys[i].job);
    }
    job_txn_unref(txn);
    for (i = 0; group->start && i < group->n; i++) {
        job_start(toys[i].job);
    }
}

static void start(int n)
{
    Group group = { n, true };

    on_management(create_group, &group);
}

/* It may run to its end at once, and there is no job then to be woken. */
static void let_go(int i)
{
    MUTEX_GUARD(&job_mutex);
    g_atomic_int_set(&toys[i].go, 1);
    job_kick_locked(toys[i].job);
}

static void check_calls(const char *expected)
{
    ck_assert_str_eq(calls->str, expected);
}

static void nothing(void *opaque)
{
}

/*
 * Events of jobs that run at the same time come in any order: those of @id alone,
 * without their errors
 */
static void check_events_of(const char *id, const char *expected)
{
    g_autofree char *all = events();
    g_auto(GStrv) words = g_strsplit_set(all, " (", -1);
    g_autoptr(GString) found = g_string_new(NULL);
    int i;

    for (i = 0; words[i]; i++) {
        if (words[i][0] == id[0] && words[i][1] == ':') {
            g_string_append_printf(found, "%s%s", found->len ? " " : "",
                                   words[i] + 2);
        }
    }
    ck_assert_str_eq(found->str, expected);
}

/* Both orders are fine. */
static void wait_for_both(const char *event_a, const char *event_b)
{
    for (;;) {
        g_autofree char *all = events();

        if (strstr(all, event_a) && strstr(all, event_b)) {
            return;
        }
        sched_yield();
    }
}

static void set_up(void)
{
    memset(toys, 0, sizeof(toys));
    calls = g_string_new(NULL);
    no_calls = false;
    harness_start();
}

static void tear_down(void)
{
    job_cancel_all_sync();
    ck_assert_uint_eq(job_threads, 0);
    harness_stop();
    g_string_free(calls, TRUE);
}

#define BEGIN "created running "
#define GOOD BEGIN "waiting pending COMPLETED concluded null"

/* ---- tests -------------------------------------------------------------- */

/* Whoever is done first waits; what is done at the end has the order of creation. */
START_TEST(test_success)
{
    start(2);
    let_go(1);
    wait_event("b:waiting");
    on_management(nothing, NULL);
    check_calls("");
    verb_refused(job_verb_finalize(JOB_FAMILY_ALL, "b", errp),
                 "Job 'b' in state 'waiting' cannot accept command verb "
                 "'finalize'");
    verb_refused(job_verb_pause(JOB_FAMILY_ALL, "b", errp),
                 "Job 'b' in state 'waiting' cannot accept command verb "
                 "'pause'");
    let_go(0);
    wait_event("b:null");
    check_events("a:created b:created a:running b:running b:waiting a:waiting "
                 "a:pending b:pending a:COMPLETED a:concluded a:null "
                 "b:COMPLETED b:concluded b:null");
    check_calls("pa pb ca cb xa xb");
}
END_TEST

START_TEST(test_alone)
{
    start(1);
    let_go(0);
    wait_event("a:null");
    check_events("a:created a:running a:waiting a:pending a:COMPLETED "
                 "a:concluded a:null");
    check_calls("pa ca xa");
}
END_TEST

START_TEST(test_one_fails)
{
    toys[1].ret = -EIO;
    start(3);
    let_go(0);
    wait_event("a:waiting");
    let_go(1);
    wait_for_both("a:null", "c:null");
    wait_for_both("b:null", "b:null");
    check_events_of("a", BEGIN "waiting aborting CANCELLED concluded null");
    check_events_of("b", BEGIN "aborting COMPLETED concluded "
                               "null");
    check_events_of("c", BEGIN "aborting CANCELLED concluded null");
    ck_assert_ptr_null(strstr(calls->str, "p"));
    ck_assert_int_eq(toys[0].aborts + toys[1].aborts + toys[2].aborts, 3);
}
END_TEST

START_TEST(test_prepare_fails)
{
    toys[1].prepare_ret = -EPERM;
    start(3);
    let_go(0);
    let_go(1);
    let_go(2);
    wait_event("c:null");
    check_calls("pa pb ua ub uc xa xb xc");
    check_events_of("a", BEGIN "waiting pending aborting CANCELLED concluded "
                               "null");
    check_events_of("b", BEGIN "waiting pending aborting COMPLETED "
                               "concluded null");
    check_events_of("c", BEGIN "waiting pending aborting CANCELLED concluded "
                               "null");
}
END_TEST

START_TEST(test_cancel_waiting)
{
    start(2);
    let_go(0);
    wait_event("a:waiting");
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "a", false, errp));
    wait_for_both("a:null", "b:null");
    check_events_of("a", BEGIN "waiting aborting CANCELLED concluded null");
    check_events_of("b", BEGIN "aborting CANCELLED concluded null");
}
END_TEST

START_TEST(test_cancel_paused)
{
    start(2);
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "b", errp));
    wait_event("b:paused");
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "a", true, errp));
    wait_for_both("a:null", "b:null");
    check_events_of("a", BEGIN "aborting CANCELLED concluded null");
    check_events_of("b", BEGIN "paused running aborting CANCELLED concluded "
                               "null");
}
END_TEST

/* One of them is told to wait for the user, and so all do. */
START_TEST(test_finalize_by_hand)
{
    toys[1].by_hand = true;
    start(2);
    let_go(0);
    let_go(1);
    wait_event("b:PENDING");
    mutex_lock(&job_mutex);
    ck_assert(!toys[0].job->finalize_requested);
    ck_assert(!toys[1].job->finalize_requested);
    mutex_unlock(&job_mutex);
    check_calls("");
    verb_refused(job_verb_dismiss(JOB_FAMILY_ALL, "a", errp),
                 "Job 'a' in state 'pending' cannot accept command verb "
                 "'dismiss'");
    verb_ok(job_verb_finalize(JOB_FAMILY_ALL, "a", errp));
    wait_event("b:null");
    check_calls("pa pb ca cb xa xb");
    check_events_of("a", GOOD);
    check_events_of("b", BEGIN "waiting pending PENDING COMPLETED concluded "
                               "null");
}
END_TEST

START_TEST(test_cancel_pending)
{
    toys[0].by_hand = toys[1].by_hand = true;
    start(2);
    let_go(0);
    let_go(1);
    wait_event("b:PENDING");
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "a", false, errp));
    wait_for_both("a:null", "b:null");
    check_events_of("a", BEGIN "waiting pending PENDING aborting CANCELLED "
                               "concluded null");
    check_events_of("b", BEGIN "waiting pending PENDING aborting CANCELLED "
                               "concluded null");
    ck_assert_ptr_null(strstr(calls->str, "p"));
}
END_TEST

/* Those that are prepared stay so while another one goes on. */
START_TEST(test_again)
{
    toys[1].again = 1;
    start(3);
    let_go(0);
    let_go(1);
    let_go(2);
    while (g_atomic_int_get(&toys[1].runs) < 2) {
        sched_yield();
    }
    let_go(1);
    wait_event("c:null");
    check_calls("pa pb pb pc ca cb cc xa xb xc");
    check_events_of("b", GOOD);
}
END_TEST

static void again(void)
{
    toys[1].again = 1;
    start(3);
    let_go(0);
    let_go(1);
    let_go(2);
    while (g_atomic_int_get(&toys[1].runs) < 2) {
        sched_yield();
    }
}

START_TEST(test_again_fails)
{
    again();
    toys[1].ret = -ENOSPC;
    let_go(1);
    wait_event("c:null");
    check_calls("pa pb ua ub uc xa xb xc");
    check_events_of("a", BEGIN "waiting pending aborting CANCELLED concluded "
                               "null");
}
END_TEST

START_TEST(test_cancel_again)
{
    again();
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "a", true, errp));
    wait_event("c:null");
    check_calls("pa pb ua ub uc xa xb xc");
    check_events_of("b", BEGIN "waiting pending aborting CANCELLED concluded "
                               "null");
}
END_TEST

/* A cancellation that comes before the commit point counts for all. */
START_TEST(test_cancel_between)
{
    start(2);
    management_halt();
    let_go(0);
    let_go(1);
    management_wait_queued();
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "b", true, errp));
    management_go();
    wait_for_both("a:null", "b:null");
    ck_assert_int_eq(toys[0].aborts + toys[1].aborts, 2);
    check_events_of("a", BEGIN "waiting pending aborting CANCELLED concluded "
                               "null");
}
END_TEST

START_TEST(test_let_go_later)
{
    toys[0].refusals = 3;
    start(2);
    let_go(0);
    let_go(1);
    wait_for_both("a:null", "b:null");
    check_calls("pa pb ca cb xb xa");
    check_events_of("a", GOOD);
    check_events_of("b", GOOD);
}
END_TEST

static void abandon_all(void *opaque)
{
    job_abandon(toys[1].job);
    job_abandon(toys[0].job);
}

START_TEST(test_abandon)
{
    Group group = { 2, false };

    on_management(create_group, &group);
    on_management(abandon_all, NULL);
    check_events("a:created b:created b:null a:null");
    check_calls("xb xa");
}
END_TEST

/* Whatever state they are in at exit */
START_TEST(test_cancel_all)
{
    toys[2].by_hand = true;
    start(3);
    let_go(0);
    wait_event("a:waiting");
    job_cancel_all_sync();
    ck_assert(job_list == NULL);
    ck_assert_int_eq(toys[0].aborts + toys[1].aborts + toys[2].aborts, 3);
}
END_TEST

/* ---- races -------------------------------------------------------------- */

static int storm_over;

static void *storm(void *opaque)
{
    GRand *rand = g_rand_new_with_seed(GPOINTER_TO_UINT(opaque));

    while (!g_atomic_int_get(&storm_over)) {
        const char id[] = { 'a' + g_rand_int_range(rand, 0, N_TOYS), 0 };

        switch (g_rand_int_range(rand, 0, 40)) {
        case 0:
            job_verb_cancel(JOB_FAMILY_ALL, id, true, NULL);
            break;
        case 1:
            job_verb_pause(JOB_FAMILY_ALL, id, NULL);
            break;
        case 2 ... 9:
            job_verb_resume(JOB_FAMILY_ALL, id, NULL);
            break;
        case 10 ... 19:
            job_verb_finalize(JOB_FAMILY_ALL, id, NULL);
            break;
        default:
            json_array_unref(job_query());
        }
    }
    g_rand_free(rand);
    return NULL;
}

static void wait_until_gone(void)
{
    MUTEX_GUARD(&job_mutex);

    while (job_list) {
        cond_wait(&job_any_changed, &job_mutex);
    }
}

START_TEST(test_storm)
{
    GRand *rand = g_rand_new_with_seed(1);
    pthread_t threads[2];
    int good = 0;
    int round, i;

    no_calls = true;
    g_atomic_int_set(&storm_over, 0);
    for (i = 0; i < (int)G_N_ELEMENTS(threads); i++) {
        pthread_create(&threads[i], NULL, storm, GUINT_TO_POINTER(i));
    }
    for (round = 0; round < 300; round++) {
        int commits = 0;

        for (i = 0; i < N_TOYS; i++) {
            toys[i] = (Toy){
                .go = 1,
                .by_hand = g_rand_int_range(rand, 0, 4) == 0,
                .ret = g_rand_int_range(rand, 0, 16) == 0 ? -EIO : 0,
                .prepare_ret = g_rand_int_range(rand, 0, 16) == 0 ? -EIO : 0,
                .refusals = g_rand_int_range(rand, 0, 2),
            };
        }
        start(N_TOYS);
        wait_until_gone();
        on_management(nothing, NULL);
        for (i = 0; i < N_TOYS; i++) {
            ck_assert_int_eq(toys[i].commits + toys[i].aborts, 1);
            ck_assert_int_eq(toys[i].ends, 1);
            commits += toys[i].commits;
        }
        ck_assert(commits == 0 || commits == N_TOYS);
        good += commits > 0;
        forget_events();
    }
    g_atomic_int_set(&storm_over, 1);
    for (i = 0; i < (int)G_N_ELEMENTS(threads); i++) {
        pthread_join(threads[i], NULL);
    }
    g_rand_free(rand);
    /* Both happened. */
    ck_assert_int_gt(good, 0);
    ck_assert_int_lt(good, 300);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("job-txn");
    TCase *t = tcase_create("job-txn");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, test_success);
    tcase_add_test(t, test_alone);
    tcase_add_test(t, test_one_fails);
    tcase_add_test(t, test_prepare_fails);
    tcase_add_test(t, test_cancel_waiting);
    tcase_add_test(t, test_cancel_paused);
    tcase_add_test(t, test_finalize_by_hand);
    tcase_add_test(t, test_cancel_pending);
    tcase_add_test(t, test_again);
    tcase_add_test(t, test_again_fails);
    tcase_add_test(t, test_cancel_again);
    tcase_add_test(t, test_cancel_between);
    tcase_add_test(t, test_let_go_later);
    tcase_add_test(t, test_abandon);
    tcase_add_test(t, test_cancel_all);
    tcase_add_test(t, test_storm);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
