/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Jobs: their states, how they are made, and what their drivers ask of them */
#include "block/job-int.h"

#include <string.h>

#include "monitor/qmp.h"
#include "util/id.h"
#include "util/limits.h"
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
    [JOB_WAITING] = BIT_OF(PENDING) | BIT_OF(ABORTING),
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

void job_send_pending(Job *job)
{
    JsonObject *data;

    if (job->auto_finalize || !job->drv->block_job) {
        return;
    }
    data = json_object_new();

    json_object_set_string_member(data, "type", job->drv->type);
    json_object_set_string_member(data, "id", job->id);
    qmp_event_send("BLOCK_JOB_PENDING", data);
}

void job_send_event(Job *job, const char *name, const char *error)
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
    if (options->txn) {
        job_txn_join(options->txn, job);
    }
    return job;
}

Job *job_create(const JobDriver *drv, const JobOptions *options, GError **errp)
{
    const char *id = options->id ? options->id : "";
    Job *job;

    if (!limit_length(id, NAME_MAX_BYTES, "Job ID", errp)) {
        return NULL;
    }
    if (!id_wellformed(id)) {
        error_setg(errp, "Invalid job ID '%s'", id);
        return NULL;
    }
    MUTEX_GUARD(&job_mutex);
    if (id_is_taken(id)) {
        error_setg(errp, "Job ID '%s' already in use", id);
        return NULL;
    }
    if (!limit_allows(job_list ? job_list->len : 0, limits.jobs, "jobs",
                      errp)) {
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

void job_unref(Job *job)
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

void job_clean(Job *job)
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
    job_txn_leave(job);
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
    job_send_event(job, "BLOCK_JOB_READY", NULL);
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
    return job->user_paused && !job->no_pause;
}

int job_pause_point(Job *job)
{
    MUTEX_GUARD(&job_mutex);

    while (job->user_paused && !job->no_pause && !job->cancelled) {
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

void job_end_pauses(Job *job)
{
    MUTEX_GUARD(&job_mutex);
    job->no_pause = true;
    job_unpause(job);
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
