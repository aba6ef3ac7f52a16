/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Jobs: long operations with QEMU's states, events and verbs. A job has a
 * coordinator thread, which runs JobDriver.run(), and as many workers as that
 * starts.
 */
#ifndef BLOCK_JOB_H
#define BLOCK_JOB_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "block/block.h"
#include "block/wait.h"

typedef enum JobStatus {
    JOB_CREATED,
    JOB_RUNNING,
    JOB_PAUSED,
    JOB_READY,
    JOB_STANDBY,
    JOB_WAITING,
    JOB_PENDING,
    JOB_ABORTING,
    JOB_CONCLUDED,
    JOB_NULL,
} JobStatus;

typedef struct Job Job;

typedef struct JobDriver {
    const char *type;     /* "mirror", "create" */
    size_t instance_size; /* of the driver's own state */
    bool block_job;       /* listed by query-block-jobs, BLOCK_JOB_* events */
    bool can_complete;    /* takes job-complete once READY */

    /*
     * The work, on the coordinator thread. 0 or -errno with job_set_error().
     * Must watch job_pause_point() and job_is_cancelled().
     */
    int (*run)(Job *job);
    /*
     * After run(), on the management thread with the graph mutex held.
     * prepare() may still fail (a pivot); then exactly one of commit() and
     * abort(), then clean(). Each may be NULL.
     */
    int (*prepare)(Job *job, GError **errp);
    void (*commit)(Job *job);
    void (*abort)(Job *job);
    void (*clean)(Job *job);
    /* set-speed while running, bytes per second, 0: no limit; any thread */
    void (*set_speed)(Job *job, int64_t speed);
} JobDriver;

typedef struct JobOptions {
    const char *id; /* NULL: @default_id */
    const char *default_id;
    int64_t speed; /* bytes per second; 0: no limit */
    bool auto_finalize, auto_dismiss;
} JobOptions;

/* Management thread. The job is CREATED; start or unref it. */
Job *job_create(const JobDriver *drv, const JobOptions *options, GError **errp);
void job_start(Job *job);
void job_unref(Job *job);
void *job_opaque(Job *job);
const char *job_id(Job *job);

/* For run(), any of the job's threads */
bool job_is_cancelled(Job *job); /* stop as soon as possible, abort */
/*
 * What ended the READY phase: false while nothing did. *@soft: cancelled
 * without force: end with a consistent copy, no pivot.
 */
bool job_should_complete(Job *job, bool *soft);
void job_set_ready(Job *job);
void job_progress_set_remaining(Job *job, uint64_t remaining);
void job_progress_update(Job *job, uint64_t done);
/* Waits while the job is paused. 0 or -ECANCELED. Workers must be idle. */
int job_pause_point(Job *job);
bool job_wants_pause(Job *job);
/*
 * Wait until job_kick(), a verb, or the deadline (monotonic microseconds).
 */
void job_wait(Job *job, int64_t deadline_us);
void job_kick(Job *job);
int64_t job_speed(Job *job);
/* How long (microseconds) to wait before the next @bytes may go: rate limit */
int64_t job_ratelimit(Job *job, uint64_t bytes);
void job_set_error(Job *job, int ret, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
BdrvCancel *job_cancel_token(Job *job);

/* SIGTERM: cancel all jobs and wait until they are gone. */
void job_cancel_all_sync(void);
/* Does any job use @bs? For blockdev-del, resize and the like. */
bool job_uses_node(BlockDriverState *bs, char **job_id);

#endif
