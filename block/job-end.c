/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How jobs run and end, by themselves or together.
 *
 * The coordinator thread calls run(), again and again if prepare() says so, and
 * then has the job concluded on the management thread. It ends by asking the
 * management thread to join it. So whoever reads a job's state never waits for
 * its work, and nothing of a job is left when its id is free again, but the
 * thread on its last steps.
 *
 * Coordinators of jobs that end together (JobTxn) wait for each other when their
 * work is done, and then for job-finalize if one of them is told to. Only then do
 * they go to the management thread, where each Conclusion waits until all have
 * arrived: then all jobs are prepared, pass the commit point in one step, and are
 * committed. Nobody waits there for long: the others are on their way, or run once
 * more because prepare() was too early. A job that fails, at any time before, cancels
 * the others, so that all of them come to their ends.
 */
#include "block/job-int.h"
#include "monitor/qmp.h"

/* Something to be done by the management thread while the coordinator waits */
typedef struct Conclusion {
    Job *job;
    int ret;
    bool prepared;    /* prepare() has succeeded */
    bool ended;       /* commit() or abort() was called */
    int64_t retry_us; /* let_go() wants to be called again then; or 0 */
    bool done;        /* job_mutex */
} Conclusion;

/* ---- jobs that end together --------------------------------------------- */

JobTxn *job_txn_new(void)
{
    JobTxn *txn = g_new0(JobTxn, 1);

    txn->refcnt = 1;
    txn->jobs = g_ptr_array_new();
    txn->arrived = g_ptr_array_new();
    return txn;
}

static void txn_unref(JobTxn *txn)
{
    if (--txn->refcnt == 0) {
        g_ptr_array_unref(txn->jobs);
        g_ptr_array_unref(txn->arrived);
        g_free(txn);
    }
}

void job_txn_unref(JobTxn *txn)
{
    MUTEX_GUARD(&job_mutex);

    if (txn) {
        txn_unref(txn);
    }
}

void job_txn_join(JobTxn *txn, Job *job)
{
    txn->refcnt++;
    job->txn = txn;
    g_ptr_array_add(txn->jobs, job);
}

void job_txn_leave(Job *job)
{
    if (job->txn) {
        g_ptr_array_remove(job->txn->jobs, job);
        txn_unref(g_steal_pointer(&job->txn));
    }
}

void job_finalize_locked(Job *job)
{
    guint i;

    job->finalize_requested = true;
    job_kick_locked(job);
    for (i = 0; job->txn && i < job->txn->jobs->len; i++) {
        Job *other = job->txn->jobs->pdata[i];

        other->finalize_requested = true;
        job_kick_locked(other);
    }
}

/* ---- towards the end; job_mutex held ------------------------------------ */

static void announce_waiting(Job *job)
{
    if (job->status != JOB_PENDING) {
        job_unpause(job);
        job_set_status(job, JOB_WAITING);
    }
}

static void announce_pending(Job *job)
{
    if (job->status == JOB_WAITING) {
        job_set_status(job, JOB_PENDING);
        job_send_pending(job);
    }
}

/* If the work of all is done: @job was the last one. */
static void announce_all(Job *job)
{
    bool by_hand = false;
    guint i;

    for (i = 0; i < job->txn->jobs->len; i++) {
        const Job *other = job->txn->jobs->pdata[i];

        if (!other->work_done) {
            return;
        }
        by_hand |= !other->auto_finalize;
    }
    for (i = 0; i < job->txn->jobs->len; i++) {
        announce_pending(job->txn->jobs->pdata[i]);
    }
    if (!by_hand) {
        job_finalize_locked(job);
    }
}

/* All of @jobs or none: false if one was cancelled. */
static bool pass_commit_point(Job **jobs, guint n)
{
    guint i;

    for (i = 0; i < n; i++) {
        if (jobs[i]->cancelled) {
            return false;
        }
    }
    for (i = 0; i < n; i++) {
        announce_waiting(jobs[i]);
        announce_pending(jobs[i]);
        jobs[i]->committed = true;
    }
    return true;
}

/* ---- towards the end ---------------------------------------------------- */

int job_commit_point(Job *job)
{
    MUTEX_GUARD(&job_mutex);

    g_assert(!job->txn);
    return pass_commit_point(&job, 1) ? 0 : -ECANCELED;
}

bool job_may_finalize(Job *job)
{
    MUTEX_GUARD(&job_mutex);

    g_assert(!job->txn);
    if (job->auto_finalize) {
        return true;
    }
    announce_waiting(job);
    announce_pending(job);
    return job->finalize_requested;
}

/* run() has succeeded. 0 or -ECANCELED */
static int wait_for_finalize(Job *job)
{
    MUTEX_GUARD(&job_mutex);

    if (job->cancelled) {
        return -ECANCELED;
    }
    if (job->txn) {
        job->work_done = true;
        announce_waiting(job);
        announce_all(job);
    } else if (!job->auto_finalize) {
        announce_waiting(job);
        announce_pending(job);
    } else {
        return 0;
    }
    while (!job->finalize_requested && !job->cancelled) {
        cond_wait(&job->changed, &job_mutex);
    }
    return job->cancelled ? -ECANCELED : 0;
}

/* A cancelled job was cancelled, whatever else happened meanwhile. */
static void job_fail(Job *job, int ret, const char *message)
{
    MUTEX_GUARD(&job_mutex);

    if (job->cancelled) {
        job->ret = -ECANCELED;
        g_free(job->error);
        job->error = g_strdup("Operation canceled");
    } else if (job->ret == 0) {
        job->ret = ret;
        job->error = g_strdup(message ? message : g_strerror(-ret));
    }
    job_unpause(job);
    job_set_status(job, JOB_ABORTING);
    job_cancel_others(job);
}

/* ---- the end; management thread ----------------------------------------- */

static void conclusion_done(Conclusion *c)
{
    MUTEX_GUARD(&job_mutex);
    c->done = true;
    cond_broadcast(&c->job->changed);
}

static void job_conclude(Job *job)
{
    MUTEX_GUARD(&job_mutex);

    job->busy = false;
    if (job->cancelled) {
        job_send_event(job, "BLOCK_JOB_CANCELLED", NULL);
    } else {
        job_send_event(job, "BLOCK_JOB_COMPLETED", job->error);
    }
    job_set_status(job, JOB_CONCLUDED);
    if (job->auto_dismiss) {
        job_dismiss(job);
    }
}

static void let_go(Conclusion *c)
{
    Job *job = c->job;

    c->retry_us = job->drv->let_go ? job->drv->let_go(job) : 0;
    if (c->retry_us == 0) {
        job_clean(job);
        job_conclude(job);
    }
    conclusion_done(c);
}

/* 0, JOB_AGAIN, or -errno, and it has failed then. */
static int job_prepare(Conclusion *c)
{
    const JobDriver *drv = c->job->drv;
    g_autoptr(GError) err = NULL;
    int ret = 0;

    if (!c->prepared && drv->prepare) {
        ret = drv->prepare(c->job, &err);
    }
    c->prepared = ret == 0;
    if (ret < 0) {
        job_fail(c->job, ret, err ? err->message : NULL);
    }
    return ret;
}

/* Has it been before, or are all now? Nobody of @all has failed. */
static bool commit_point(Conclusion **all, guint n)
{
    g_autofree Job **jobs = g_new(Job *, n);
    guint i;

    MUTEX_GUARD(&job_mutex);
    for (i = 0; i < n; i++) {
        jobs[i] = all[i]->job;
    }
    return jobs[0]->committed || pass_commit_point(jobs, n);
}

/*
 * Stores in each of @all how it ends. False if that is not to be told yet: one goes
 * on, whose ret is JOB_AGAIN.
 */
static bool decide(Conclusion **all, guint n)
{
    bool ok = true;
    guint i;

    for (i = 0; i < n; i++) {
        ok &= all[i]->ret == 0;
    }
    for (i = 0; ok && i < n; i++) {
        all[i]->ret = job_prepare(all[i]);
        if (all[i]->ret == JOB_AGAIN) {
            return false;
        }
        ok = all[i]->ret == 0;
    }
    ok = ok && commit_point(all, n);
    for (i = 0; !ok && i < n; i++) {
        if (all[i]->ret == 0) {
            all[i]->ret = -ECANCELED;
            job_fail(all[i]->job, -ECANCELED, NULL);
        }
    }
    return true;
}

static void end(Conclusion *c)
{
    const JobDriver *drv = c->job->drv;
    void (*func)(Job *) = c->ret == 0 ? drv->commit : drv->abort;

    if (func) {
        func(c->job);
    }
    c->ended = true;
    MUTEX_GUARD(&job_mutex);
    job_txn_leave(c->job);
}

static void end_all(Conclusion **all, guint n)
{
    guint i;

    for (i = 0; i < n; i++) {
        end(all[i]);
    }
    for (i = 0; i < n; i++) {
        let_go(all[i]);
    }
}

/* In the order in which they were created */
static int compare_arrived(gconstpointer a, gconstpointer b)
{
    const Conclusion *const *x = a, *const *y = b;
    const GPtrArray *jobs = (*x)->job->txn->jobs;
    guint i, j;

    g_ptr_array_find((GPtrArray *)jobs, (*x)->job, &i);
    g_ptr_array_find((GPtrArray *)jobs, (*y)->job, &j);
    return i < j ? -1 : i > j;
}

static void arrive(Conclusion *c)
{
    JobTxn *txn = c->job->txn;
    g_autoptr(GPtrArray) all = NULL;
    guint i;

    g_ptr_array_add(txn->arrived, c);
    if (c->ret == 0 && txn->arrived->len < txn->jobs->len) {
        return;
    }
    g_ptr_array_sort(txn->arrived, compare_arrived);
    all = g_ptr_array_copy(txn->arrived, NULL, NULL);
    if (decide((Conclusion **)all->pdata, all->len)) {
        g_ptr_array_set_size(txn->arrived, 0);
        end_all((Conclusion **)all->pdata, all->len);
        return;
    }
    for (i = 0; i < all->len; i++) {
        Conclusion *other = all->pdata[i];

        if (other->ret == JOB_AGAIN) {
            g_ptr_array_remove(txn->arrived, other);
            conclusion_done(other);
        }
    }
}

/* Again while c->retry_us tells so */
static void conclude(void *opaque)
{
    Conclusion *c = opaque;

    if (c->ended) {
        let_go(c);
    } else if (c->job->txn) {
        arrive(c);
    } else if (decide(&c, 1)) {
        end_all(&c, 1);
    } else {
        conclusion_done(c);
    }
}

/* ---- the coordinator ---------------------------------------------------- */

static int conclude_and_wait(Job *job, int ret)
{
    Conclusion c = { .job = job, .ret = ret };

    do {
        c.done = false;
        management_queue(conclude, &c);
        MUTEX_GUARD(&job_mutex);
        while (!c.done) {
            cond_wait(&job->changed, &job_mutex);
        }
        while (c.retry_us && !job->hurry &&
               cond_wait_until(&job->changed, &job_mutex, c.retry_us)) {
        }
    } while (c.retry_us);
    return c.ret;
}

/* The same for a job without a thread, which the management thread is then */
static void conclude_alone(void *opaque)
{
    Conclusion *c = opaque;

    conclude(c);
    if (c->retry_us) {
        management_queue(conclude_alone, c);
        return;
    }
    MUTEX_GUARD(&job_mutex);
    job_unref(c->job);
    g_free(c);
}

/* Management thread: the coordinator has nothing left to do. */
static void join_coordinator(void *opaque)
{
    Job *job = opaque;

    pthread_join(job->thread, NULL);
    MUTEX_GUARD(&job_mutex);
    job_threads--;
    cond_broadcast(&job_any_changed);
    job_unref(job);
}

static void *coordinator(void *opaque)
{
    Job *job = opaque;
    int ret;

    pthread_setname_np(pthread_self(), "job");
    do {
        ret = job_pause_point(job);
        if (ret == 0) {
            ret = job->drv->run(job);
        }
        if (ret == 0) {
            ret = wait_for_finalize(job);
        }
        if (ret < 0) {
            job_fail(job, ret, NULL);
        }
        ret = conclude_and_wait(job, ret);
    } while (ret == JOB_AGAIN);
    management_queue(join_coordinator, job);
    return NULL;
}

void job_start(Job *job)
{
    int r;

    mutex_lock(&job_mutex);
    job_set_status(job, JOB_RUNNING);
    r = pthread_create(&job->thread, NULL, coordinator, job);
    if (r == 0) {
        job_threads++;
    }
    mutex_unlock(&job_mutex);
    if (r != 0) {
        Conclusion *c = g_new0(Conclusion, 1);

        c->job = job;
        c->ret = -r;
        job_fail(job, -r, "Could not start a thread");
        conclude_alone(c);
    }
}
