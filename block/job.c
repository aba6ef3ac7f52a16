/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Jobs: their states, and the way of one from its creation to its end.
 *
 * The coordinator thread calls run(), again and again if prepare() says so, and
 * then has the job concluded on the management thread. It ends by asking the
 * management thread to join it. So whoever reads a job's state never waits for
 * its work, and nothing of a job is left when its id is free again, but the
 * thread on its last steps.
 */
#include "block/job-int.h"

#include <string.h>

#include "monitor/qmp.h"
#include "util/id.h"
#include "util/trace.h"

Mutex job_mutex = MUTEX_INIT;
GPtrArray *job_list;
Cond job_any_changed;
unsigned job_threads;

const char *const job_status_names[] = {
    [JOB_CREATED] = "created",
    [JOB_RUNNING] = "running",
    [JOB_PAUSED] = "paused",
    [JOB_READY] = "ready",
    [JOB_STANDBY] = "standby",
    [JOB_WAITING] = "waiting",
    [JOB_PENDING] = "pending",
    [JOB_ABORTING] = "aborting",
    [JOB_CONCLUDED] = "concluded",
    [JOB_NULL] = "null",
    NULL,
};

static void __attribute__((constructor)) job_init(void)
{
    cond_init(&job_any_changed);
}

/* ---- states ------------------------------------------------------------- */

#define BIT_OF(status) (1u << JOB_##status)

/* What may follow each state */
static const unsigned next_states[] = {
    [JOB_CREATED] = BIT_OF(RUNNING) | BIT_OF(NULL),
    [JOB_RUNNING] =
        BIT_OF(PAUSED) | BIT_OF(READY) | BIT_OF(WAITING) | BIT_OF(ABORTING),
    [JOB_PAUSED] = BIT_OF(RUNNING),
    [JOB_READY] = BIT_OF(STANDBY) | BIT_OF(WAITING) | BIT_OF(ABORTING),
    [JOB_STANDBY] = BIT_OF(READY),
    [JOB_WAITING] = BIT_OF(PENDING),
    [JOB_PENDING] = BIT_OF(ABORTING) | BIT_OF(CONCLUDED),
    [JOB_ABORTING] = BIT_OF(CONCLUDED),
    [JOB_CONCLUDED] = BIT_OF(NULL),
    [JOB_NULL] = 0,
};

static void send_status(Job *job)
{
    JsonObject *data = json_object_new();

    json_object_set_string_member(data, "id", job->id);
    json_object_set_string_member(data, "status",
                                  job_status_names[job->status]);
    qmp_event_send("JOB_STATUS_CHANGE", data);
    cond_broadcast(&job_any_changed);
}

void job_set_status(Job *job, JobStatus status)
{
    g_assert(next_states[job->status] & (1u << status));
    trace_job_status(job->id, job_status_names[job->status],
                     job_status_names[status]);
    job->status = status;
    send_status(job);
}

bool job_is_ready(const Job *job)
{
    return job->status == JOB_READY || job->status == JOB_STANDBY;
}

static void send_pending(Job *job)
{
    JsonObject *data = json_object_new();

    json_object_set_string_member(data, "type", job->drv->type);
    json_object_set_string_member(data, "id", job->id);
    qmp_event_send("BLOCK_JOB_PENDING", data);
}

/* BLOCK_JOB_READY, _COMPLETED, _CANCELLED */
static void send_block_event(Job *job, const char *name, const char *error)
{
    JsonObject *data;

    if (!job->drv->block_job) {
        return;
    }
    data = json_object_new();
    json_object_set_string_member(data, "type", job->drv->type);
    json_object_set_string_member(data, "device", job->id);
    json_object_set_int_member(data, "len", job_progress_total(job));
    json_object_set_int_member(data, "offset", job->progress_current);
    json_object_set_int_member(data, "speed", job->limit.speed);
    if (error) {
        json_object_set_string_member(data, "error", error);
    }
    qmp_event_send(name, data);
}

void job_kick_locked(Job *job)
{
    job->kicked = true;
    cond_broadcast(&job->changed);
}

void job_unpause(Job *job)
{
    job->user_paused = false;
    job->io_status = JOB_IO_OK;
    if (job->status == JOB_PAUSED) {
        job_set_status(job, JOB_RUNNING);
    } else if (job->status == JOB_STANDBY) {
        job_set_status(job, JOB_READY);
    }
    job_kick_locked(job);
}

/* ---- creation and end --------------------------------------------------- */

static bool id_is_taken(const char *id)
{
    guint i;

    for (i = 0; job_list && i < job_list->len; i++) {
        const Job *job = job_list->pdata[i];

        if (!strcmp(job->id, id)) {
            return true;
        }
    }
    return false;
}

/* A new job of the caller's and the list's */
static Job *job_new(const JobDriver *drv, const JobOptions *options)
{
    Job *job = g_new0(Job, 1);

    job->drv = drv;
    job->opaque = g_malloc0(drv->instance_size);
    job->id = g_strdup(options->id);
    job->auto_finalize = options->auto_finalize;
    job->auto_dismiss = options->auto_dismiss;
    cond_init(&job->changed);
    job->refcnt = 2;
    job->nodes = g_ptr_array_new();
    job->blks = g_ptr_array_new();
    rate_limit_set_speed(&job->limit, options->speed, g_get_monotonic_time());
    return job;
}

Job *job_create(const JobDriver *drv, const JobOptions *options, GError **errp)
{
    const char *id = options->id ? options->id : "";
    Job *job;

    if (!id_wellformed(id)) {
        error_setg(errp, "Invalid job ID '%s'", id);
        return NULL;
    }
    MUTEX_GUARD(&job_mutex);
    if (id_is_taken(id)) {
        error_setg(errp, "Job ID '%s' already in use", id);
        return NULL;
    }
    job = job_new(drv, options);
    if (!job_list) {
        job_list = g_ptr_array_new();
    }
    g_ptr_array_add(job_list, job);
    send_status(job);
    return job;
}

/* job_mutex held */
static void job_unref(Job *job)
{
    if (--job->refcnt > 0) {
        return;
    }
    g_ptr_array_unref(job->nodes);
    g_ptr_array_unref(job->blks);
    cond_destroy(&job->changed);
    g_free(job->error);
    g_free(job->id);
    g_free(job->opaque);
    g_free(job);
}

void job_dismiss(Job *job)
{
    job_set_status(job, JOB_NULL);
    g_ptr_array_remove(job_list, job);
    if (job_list->len == 0) {
        g_clear_pointer(&job_list, g_ptr_array_unref);
    }
    job_unref(job);
}

/* What the job used it uses no more. */
static void job_clean(Job *job)
{
    mutex_lock(&job_mutex);
    g_ptr_array_set_size(job->nodes, 0);
    g_ptr_array_set_size(job->blks, 0);
    mutex_unlock(&job_mutex);
    if (job->drv->clean) {
        job->drv->clean(job);
    }
}

void job_abandon(Job *job)
{
    job_clean(job);
    MUTEX_GUARD(&job_mutex);
    job_dismiss(job);
    job_unref(job);
}

void job_add_node(Job *job, BlockDriverState *bs)
{
    MUTEX_GUARD(&job_mutex);
    g_ptr_array_add(job->nodes, bs);
}

void job_add_blk(Job *job, BlockBackend *blk)
{
    MUTEX_GUARD(&job_mutex);
    g_ptr_array_add(job->blks, blk);
    if (job->cancelled) {
        blk_cancel_waits(blk);
    }
}

/* ---- the coordinator ---------------------------------------------------- */

/* Something to be done by the management thread while the coordinator waits */
typedef struct Conclusion {
    Job *job;
    int ret;
    bool ended;       /* commit() or abort() was called */
    int64_t retry_us; /* let_go() wants to be called again then; or 0 */
    bool done;        /* job_mutex */
} Conclusion;

/* job_mutex held */
static void announce_pending(Job *job)
{
    if (job->status == JOB_PENDING) {
        return;
    }
    job_unpause(job);
    job_set_status(job, JOB_WAITING);
    job_set_status(job, JOB_PENDING);
    if (!job->auto_finalize && job->drv->block_job) {
        send_pending(job);
    }
}

int job_commit_point(Job *job)
{
    MUTEX_GUARD(&job_mutex);

    if (job->cancelled) {
        return -ECANCELED;
    }
    announce_pending(job);
    job->committed = true;
    return 0;
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
}

static int job_prepare(Job *job)
{
    g_autoptr(GError) err = NULL;
    int ret = job->drv->prepare ? job->drv->prepare(job, &err) : 0;

    if (ret == 0 && !job->committed) {
        ret = job_commit_point(job);
    }
    if (ret < 0) {
        job_fail(job, ret, err ? err->message : NULL);
    }
    return ret;
}

static void job_conclude(Job *job)
{
    MUTEX_GUARD(&job_mutex);

    job->busy = false;
    if (job->cancelled) {
        send_block_event(job, "BLOCK_JOB_CANCELLED", NULL);
    } else {
        send_block_event(job, "BLOCK_JOB_COMPLETED", job->error);
    }
    job_set_status(job, JOB_CONCLUDED);
    if (job->auto_dismiss) {
        job_dismiss(job);
    }
}

/* Once; false: the job goes on. */
static bool job_end(Conclusion *c)
{
    const JobDriver *drv = c->job->drv;
    void (*end)(Job *);

    if (c->ret == 0) {
        c->ret = job_prepare(c->job);
    }
    if (c->ret == JOB_AGAIN) {
        return false;
    }
    end = c->ret == 0 ? drv->commit : drv->abort;
    if (end) {
        end(c->job);
    }
    c->ended = true;
    return true;
}

/* Management thread; again while c->retry_us tells so */
static void conclude(void *opaque)
{
    Conclusion *c = opaque;
    Job *job = c->job;

    if (c->ended || job_end(c)) {
        c->retry_us = job->drv->let_go ? job->drv->let_go(job) : 0;
        if (c->retry_us == 0) {
            job_clean(job);
            job_conclude(job);
        }
    }
    MUTEX_GUARD(&job_mutex);
    c->done = true;
    cond_broadcast(&job->changed);
}

bool job_may_finalize(Job *job)
{
    MUTEX_GUARD(&job_mutex);

    if (job->auto_finalize) {
        return true;
    }
    announce_pending(job);
    return job->finalize_requested;
}

/* For jobs that have nothing more to do. 0 or -ECANCELED */
static int wait_for_finalize(Job *job)
{
    if (!job_may_finalize(job)) {
        MUTEX_GUARD(&job_mutex);

        while (!job->finalize_requested && !job->cancelled) {
            cond_wait(&job->changed, &job_mutex);
        }
    }
    return job_is_cancelled(job) ? -ECANCELED : 0;
}

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

/* ---- for the driver ----------------------------------------------------- */

void *job_opaque(Job *job)
{
    return job->opaque;
}

const char *job_id(Job *job)
{
    return job->id;
}

bool job_is_cancelled(Job *job)
{
    MUTEX_GUARD(&job_mutex);
    return job->cancelled;
}

bool job_should_complete(Job *job, bool *soft)
{
    MUTEX_GUARD(&job_mutex);

    if (soft) {
        *soft = job->soft_cancelled;
    }
    return job->complete_requested || job->soft_cancelled;
}

void job_set_ready(Job *job)
{
    MUTEX_GUARD(&job_mutex);

    job_set_status(job, JOB_READY);
    send_block_event(job, "BLOCK_JOB_READY", NULL);
}

int64_t job_progress_total(const Job *job)
{
    return MIN(job->progress_current + job->progress_remaining, INT64_MAX);
}

void job_progress_set_remaining(Job *job, uint64_t remaining)
{
    MUTEX_GUARD(&job_mutex);
    job->progress_remaining = MIN(remaining, INT64_MAX);
}

void job_progress_update(Job *job, uint64_t done)
{
    MUTEX_GUARD(&job_mutex);
    job->progress_current += MIN(done, INT64_MAX - job->progress_current);
    job->progress_remaining -= MIN(done, job->progress_remaining);
}

void job_set_busy(Job *job, bool busy)
{
    MUTEX_GUARD(&job_mutex);
    job->busy = busy;
}

bool job_wants_pause(Job *job)
{
    MUTEX_GUARD(&job_mutex);
    return job->user_paused;
}

int job_pause_point(Job *job)
{
    MUTEX_GUARD(&job_mutex);

    while (job->user_paused && !job->cancelled) {
        /* Again after each wait: resumed and paused may be one wake-up. */
        if (job->status == JOB_READY) {
            job_set_status(job, JOB_STANDBY);
        } else if (job->status == JOB_RUNNING) {
            job_set_status(job, JOB_PAUSED);
        }
        cond_wait(&job->changed, &job_mutex);
    }
    return job->cancelled ? -ECANCELED : 0;
}

void job_wait(Job *job, int64_t deadline_us)
{
    MUTEX_GUARD(&job_mutex);

    while (!job->kicked &&
           cond_wait_until(&job->changed, &job_mutex, deadline_us)) {
    }
    job->kicked = false;
}

void job_kick(Job *job)
{
    MUTEX_GUARD(&job_mutex);
    job_kick_locked(job);
}

int64_t job_speed(Job *job)
{
    MUTEX_GUARD(&job_mutex);
    return job->limit.speed;
}

int64_t job_ratelimit_delay(Job *job)
{
    MUTEX_GUARD(&job_mutex);
    return rate_limit_delay(&job->limit, g_get_monotonic_time());
}

void job_ratelimit_charge(Job *job, uint64_t bytes)
{
    MUTEX_GUARD(&job_mutex);
    rate_limit_charge(&job->limit, bytes, g_get_monotonic_time());
}

void job_set_error(Job *job, int ret, const char *fmt, ...)
{
    va_list ap;

    MUTEX_GUARD(&job_mutex);
    if (job->ret != 0) {
        return;
    }
    va_start(ap, fmt);
    job->error = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    job->ret = ret;
}
