/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What users may ask of jobs. A verb looks whether the job's state accepts it,
 * notes what is wanted and wakes the coordinator; it never waits.
 */
#include "block/job-int.h"

#include <string.h>

#include "util/error.h"

typedef enum JobVerb {
    VERB_CANCEL,
    VERB_PAUSE,
    VERB_RESUME,
    VERB_SET_SPEED,
    VERB_COMPLETE,
    VERB_FINALIZE,
    VERB_DISMISS,
} JobVerb;

#define BIT_OF(status) (1u << JOB_##status)
#define ALIVE                                                                  \
    (BIT_OF(CREATED) | BIT_OF(RUNNING) | BIT_OF(PAUSED) | BIT_OF(READY) |      \
     BIT_OF(STANDBY))

static const struct {
    const char *name;
    unsigned states; /* that accept it */
} verbs[] = {
    [VERB_CANCEL] = { "cancel", ALIVE | BIT_OF(WAITING) | BIT_OF(PENDING) },
    [VERB_PAUSE] = { "pause", ALIVE },
    /* A job that does its last work PENDING may be stopped by an error there. */
    [VERB_RESUME] = { "resume", ALIVE | BIT_OF(PENDING) },
    [VERB_SET_SPEED] = { "set-speed", ALIVE },
    [VERB_COMPLETE] = { "complete", BIT_OF(READY) | BIT_OF(STANDBY) },
    [VERB_FINALIZE] = { "finalize", BIT_OF(PENDING) },
    [VERB_DISMISS] = { "dismiss", BIT_OF(CONCLUDED) },
};

/* job_mutex held */
static Job *find_job(JobFamily family, const char *id, GError **errp)
{
    guint i;

    for (i = 0; job_list && i < job_list->len; i++) {
        Job *job = job_list->pdata[i];

        if (!strcmp(job->id, id) &&
            (family == JOB_FAMILY_ALL || job->drv->block_job)) {
            return job;
        }
    }
    if (family == JOB_FAMILY_BLOCK) {
        error_set_class(errp, ERROR_DEVICE_NOT_ACTIVE,
                        "Block job '%s' not found", id);
    } else {
        error_setg(errp, "Job not found");
    }
    return NULL;
}

/* Past the commit point a job is on its last steps, whatever they are called. */
static bool accepts(const Job *job, JobVerb verb, GError **errp)
{
    if (!(verbs[verb].states & (1u << job->status)) ||
        (job->committed && verb != VERB_DISMISS)) {
        error_setg(errp,
                   "Job '%s' in state '%s' cannot accept command verb "
                   "'%s'",
                   job->id, job_status_names[job->status], verbs[verb].name);
        return false;
    }
    return true;
}

static void cancel_one(Job *job)
{
    guint i;

    job->cancelled = true;
    for (i = 0; i < job->blks->len; i++) {
        blk_cancel_waits(job->blks->pdata[i]);
    }
    job_unpause(job);
}

void job_cancel_others(Job *job)
{
    guint i;

    for (i = 0; job->txn && i < job->txn->jobs->len; i++) {
        Job *other = job->txn->jobs->pdata[i];

        if (other != job && other->status != JOB_ABORTING) {
            cancel_one(other);
        }
    }
}

void job_cancel_locked(Job *job)
{
    cancel_one(job);
    job_cancel_others(job);
}

bool job_verb_cancel(JobFamily family, const char *id, bool force,
                     GError **errp)
{
    MUTEX_GUARD(&job_mutex);
    Job *job = find_job(family, id, errp);

    if (!job) {
        return false;
    }
    if (job->user_paused && !force) {
        error_setg(errp, "The block job for device '%s' is currently paused",
                   id);
        return false;
    }
    if (!accepts(job, VERB_CANCEL, errp)) {
        return false;
    }
    if (force || !job_is_ready(job)) {
        job_cancel_locked(job);
    } else if (!job->complete_requested) {
        job->soft_cancelled = true;
    }
    job_kick_locked(job);
    return true;
}

bool job_verb_complete(JobFamily family, const char *id, GError **errp)
{
    MUTEX_GUARD(&job_mutex);
    Job *job = find_job(family, id, errp);

    if (!job || !accepts(job, VERB_COMPLETE, errp)) {
        return false;
    }
    if (job->cancelled || job->soft_cancelled || !job->drv->can_complete) {
        error_setg(errp, "The active block job '%s' cannot be completed", id);
        return false;
    }
    job->complete_requested = true;
    job_kick_locked(job);
    return true;
}

bool job_verb_pause(JobFamily family, const char *id, GError **errp)
{
    MUTEX_GUARD(&job_mutex);
    Job *job = find_job(family, id, errp);

    if (!job || !accepts(job, VERB_PAUSE, errp)) {
        return false;
    }
    if (job->user_paused) {
        error_setg(errp, "Job is already paused");
        return false;
    }
    job->user_paused = true;
    job_kick_locked(job);
    return true;
}

bool job_verb_resume(JobFamily family, const char *id, GError **errp)
{
    MUTEX_GUARD(&job_mutex);
    Job *job = find_job(family, id, errp);

    if (!job) {
        return false;
    }
    if (!job->user_paused) {
        error_setg(errp, "Can't resume a job that was not paused");
        return false;
    }
    if (!accepts(job, VERB_RESUME, errp)) {
        return false;
    }
    job_unpause(job);
    return true;
}

bool job_verb_set_speed(const char *id, int64_t speed, GError **errp)
{
    MUTEX_GUARD(&job_mutex);
    Job *job = find_job(JOB_FAMILY_BLOCK, id, errp);

    if (!job || !accepts(job, VERB_SET_SPEED, errp)) {
        return false;
    }
    if (speed < 0) {
        error_setg(errp, "Parameter 'speed' expects a non-negative value");
        return false;
    }
    rate_limit_set_speed(&job->limit, speed, g_get_monotonic_time());
    job_kick_locked(job);
    return true;
}

bool job_verb_finalize(JobFamily family, const char *id, GError **errp)
{
    MUTEX_GUARD(&job_mutex);
    Job *job = find_job(family, id, errp);

    if (!job || !accepts(job, VERB_FINALIZE, errp)) {
        return false;
    }
    job_finalize_locked(job);
    return true;
}

bool job_verb_dismiss(JobFamily family, const char *id, GError **errp)
{
    MUTEX_GUARD(&job_mutex);
    Job *job = find_job(family, id, errp);

    if (!job || !accepts(job, VERB_DISMISS, errp)) {
        return false;
    }
    job_dismiss(job);
    return true;
}

/* ---- queries ------------------------------------------------------------ */

static JsonObject *job_info(const Job *job)
{
    JsonObject *info = json_object_new();

    json_object_set_string_member(info, "id", job->id);
    json_object_set_string_member(info, "type", job->drv->type);
    json_object_set_string_member(info, "status",
                                  job_status_names[job->status]);
    json_object_set_int_member(info, "current-progress", job->progress_current);
    json_object_set_int_member(info, "total-progress", job_progress_total(job));
    if (job->error) {
        json_object_set_string_member(info, "error", job->error);
    }
    return info;
}

static JsonObject *block_job_info(const Job *job)
{
    JsonObject *info = json_object_new();

    json_object_set_string_member(info, "type", job->drv->type);
    json_object_set_string_member(info, "device", job->id);
    json_object_set_int_member(info, "len", job_progress_total(job));
    json_object_set_int_member(info, "offset", job->progress_current);
    json_object_set_boolean_member(info, "busy", job->busy);
    json_object_set_boolean_member(info, "paused", job->user_paused);
    json_object_set_int_member(info, "speed", job->limit.speed);
    json_object_set_string_member(info, "io-status",
                                  job_io_status_names[job->io_status]);
    json_object_set_boolean_member(info, "ready", job_is_ready(job));
    json_object_set_string_member(info, "status",
                                  job_status_names[job->status]);
    json_object_set_boolean_member(info, "auto-finalize", job->auto_finalize);
    json_object_set_boolean_member(info, "auto-dismiss", job->auto_dismiss);
    if (job->error) {
        json_object_set_string_member(info, "error", job->error);
    }
    return info;
}

JsonArray *job_query(void)
{
    JsonArray *rows = json_array_new();
    guint i;

    MUTEX_GUARD(&job_mutex);
    for (i = 0; job_list && i < job_list->len; i++) {
        json_array_add_object_element(rows, job_info(job_list->pdata[i]));
    }
    return rows;
}

JsonArray *job_query_block(void)
{
    JsonArray *rows = json_array_new();
    guint i;

    MUTEX_GUARD(&job_mutex);
    for (i = 0; job_list && i < job_list->len; i++) {
        const Job *job = job_list->pdata[i];

        if (job->drv->block_job) {
            json_array_add_object_element(rows, block_job_info(job));
        }
    }
    return rows;
}

bool job_uses_node(BlockDriverState *bs, GError **errp)
{
    guint i;

    MUTEX_GUARD(&job_mutex);
    for (i = 0; job_list && i < job_list->len; i++) {
        const Job *job = job_list->pdata[i];

        if (g_ptr_array_find(job->nodes, bs, NULL)) {
            error_setg(errp,
                       "Node '%s' is busy: block device is in use by block "
                       "job: %s",
                       bdrv_node_name(bs), job->drv->type);
            return true;
        }
    }
    return false;
}

/* ---- at exit ------------------------------------------------------------ */

void job_cancel_all_sync(void)
{
    MUTEX_GUARD(&job_mutex);

    while (job_list || job_threads > 0) {
        guint i;

        /* From the end: dismissing one takes it off the list. */
        for (i = job_list ? job_list->len : 0; i-- > 0;) {
            Job *job = job_list->pdata[i];

            if (!job->hurry) {
                job->hurry = true;
                cond_broadcast(&job->changed);
            }
            if (job->status == JOB_CONCLUDED) {
                job_dismiss(job);
            } else if (!job->cancelled && accepts(job, VERB_CANCEL, NULL)) {
                job_cancel_locked(job);
            }
        }
        if (job_list || job_threads > 0) {
            cond_wait(&job_any_changed, &job_mutex);
        }
    }
}
