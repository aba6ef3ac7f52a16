/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Jobs: long operations with QEMU's states, events and verbs. A job has a
 * coordinator thread, which runs JobDriver.run(), and as many workers as that
 * starts. What changes the graph happens on the management thread.
 *
 *   created -> running <-> paused
 *                 |
 *                 v
 *               ready <-> standby      (jobs that go on until told to end)
 *                 |
 *                 v
 *      waiting -> pending              (until job-finalize, or at once)
 *                 |
 *                 v
 *   aborting -> concluded -> null      (until job-dismiss, or at once)
 *
 * Every state before pending may turn into aborting, and so may pending.
 *
 * All state is behind one short lock that is never held over I/O; functions
 * of this header may be called from any thread unless they say otherwise.
 */
#ifndef BLOCK_JOB_H
#define BLOCK_JOB_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "block/block.h"

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

/* QMP's names of the states, in this order, NULL-terminated */
extern const char *const job_status_names[];

/* What the user wants done about a request that fails */
typedef enum JobErrorPolicy {
    JOB_ON_ERROR_REPORT, /* the job fails */
    JOB_ON_ERROR_IGNORE, /* it goes on, and tries again later */
    JOB_ON_ERROR_ENOSPC, /* STOP if there is no space, else REPORT */
    JOB_ON_ERROR_STOP,   /* it pauses until it is resumed, and tries again */
    JOB_ON_ERROR_AUTO,   /* as ENOSPC */
} JobErrorPolicy;

/* What is done about it */
typedef enum JobErrorAction {
    JOB_ERROR_IGNORE,
    JOB_ERROR_REPORT,
    JOB_ERROR_STOP,
} JobErrorAction;

/* Which error a job was stopped by */
typedef enum JobIoStatus {
    JOB_IO_OK, /* none */
    JOB_IO_FAILED,
    JOB_IO_NOSPACE,
} JobIoStatus;

/* QMP's names, in these orders, NULL-terminated */
extern const char *const job_error_policy_names[];
extern const char *const job_error_action_names[];
extern const char *const job_io_status_names[];

typedef struct Job Job;

/* What prepare() returns when run() must go on */
#define JOB_AGAIN 1

typedef struct JobDriver {
    const char *type;     /* "mirror", "create" */
    size_t instance_size; /* of the driver's own state */
    bool block_job;       /* listed by query-block-jobs, BLOCK_JOB_* events */
    bool can_complete;    /* takes job-complete once READY */

    /*
     * The work, on the coordinator thread. 0, or -errno, perhaps with
     * job_set_error(). Watches job_pause_point() and job_is_cancelled() if it
     * takes long. Called again if prepare() returned JOB_AGAIN.
     */
    int (*run)(Job *job);
    /*
     * After run(), on the management thread with the graph mutex held.
     * prepare() may still fail, or return JOB_AGAIN: not now.
     * What cannot be undone comes after a successful job_commit_point(). Then
     * exactly one of commit() and abort(); abort() also if run() failed. Each
     * may be NULL.
     */
    int (*prepare)(Job *job, GError **errp);
    void (*commit)(Job *job);
    void (*abort)(Job *job);
    /*
     * After commit() or abort(), likewise: let go of what takes a drain, which
     * may not succeed while a guest's request hangs. 0, or the time (monotonic
     * microseconds) from which on to call it again: the graph mutex is given
     * back meanwhile, and the job keeps its nodes and its state. May be NULL.
     * Not called for jobs that were not started.
     */
    int64_t (*let_go)(Job *job);
    /*
     * Last, exactly once for every job that was created, started or not:
     * management thread, graph mutex held. Waits for no guest.
     */
    void (*clean)(Job *job);
} JobDriver;

/*
 * Jobs that end together. Those whose work is done are WAITING for the others. Then
 * all are PENDING, until job-finalize of any of them if one is not told to finalize
 * by itself; all are prepared, and then all committed. If one fails or is cancelled
 * before, all others are cancelled, and abort() is called of all, prepared or not.
 *
 * Their drivers call neither job_may_finalize() nor job_commit_point().
 */
typedef struct JobTxn JobTxn;

/*
 * Any thread; the caller's reference. Jobs have references of their own. All are
 * created before the first of them is started.
 */
JobTxn *job_txn_new(void);
void job_txn_unref(JobTxn *txn);

typedef struct JobOptions {
    const char *id;
    JobTxn *txn;   /* or NULL: it ends for itself */
    int64_t speed; /* bytes per second; 0: no limit */
    bool auto_finalize, auto_dismiss;
} JobOptions;

/* ---- making one: management thread, graph mutex held -------------------- */

/* CREATED: start or abandon it. NULL and @errp if the id cannot be had. */
Job *job_create(const JobDriver *drv, const JobOptions *options, GError **errp);
void job_start(Job *job);
/* Instead of job_start(): it is cleaned up and gone. */
void job_abandon(Job *job);

/*
 * Until clean() is called, @job uses node @bs, which the caller keeps a
 * reference of: see job_uses_node().
 */
void job_add_node(Job *job, BlockDriverState *bs);
/*
 * Requests of @blk that wait (at the gate, for a server) give up when the job
 * is cancelled. Until clean() is called.
 */
void job_add_blk(Job *job, BlockBackend *blk);

/* ---- for the driver ----------------------------------------------------- */

void *job_opaque(Job *job);
const char *job_id(Job *job); /* valid as long as the job */

/* Stop as soon as possible, the result is not wanted. */
bool job_is_cancelled(Job *job);
/*
 * Is a READY job to come to its end? *@soft (may be NULL): by a cancellation
 * without force, which wants a consistent result but no switch to it. Once true
 * neither changes any more.
 */
bool job_should_complete(Job *job, bool *soft);
void job_set_ready(Job *job);
/*
 * For a run() that has work to do until the very end: its work is done, for
 * now. Announces WAITING and PENDING if the user wants to finalize by hand, and
 * tells whether run() may return 0; false: job_wait() and ask again.
 */
bool job_may_finalize(Job *job);
/*
 * From here on the job cannot be cancelled any more. 0, or -ECANCELED if it
 * was already. For prepare(); jobs whose prepare() does not call it pass this
 * point after it.
 */
int job_commit_point(Job *job);

/*
 * Progress has no unit of its own; that of block jobs is bytes. What is done
 * never decreases; what there is to do is that plus what remains.
 */
void job_progress_set_remaining(Job *job, uint64_t remaining);
void job_progress_update(Job *job, uint64_t done);
/* Are requests in flight? For query-block-jobs. */
void job_set_busy(Job *job, bool busy);

/* Does the user want a pause? Then let the workers come to rest and call
 * job_pause_point(), which waits until it is over. 0 or -ECANCELED */
bool job_wants_pause(Job *job);
int job_pause_point(Job *job);
/* run() is going to fail: the job is not paused any more, and will not be. */
void job_end_pauses(Job *job);
/*
 * The coordinator waits until job_kick() or a verb, or @deadline_us (monotonic
 * time; INT64_MAX: none). Returns at once if either came since the last time.
 */
void job_wait(Job *job, int64_t deadline_us);
void job_kick(Job *job);

/* Bytes per second, 0: no limit. Verbs that change it kick the coordinator. */
int64_t job_speed(Job *job);
/* How long (microseconds) until the limit lets another request start */
int64_t job_ratelimit_delay(Job *job);
/* A request of @bytes starts. */
void job_ratelimit_charge(Job *job, uint64_t bytes);

/* Why run() is about to return @ret; the first call counts. */
void job_set_error(Job *job, int ret, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
/*
 * A request of a block job failed with @ret, a read (its status included) or
 * anything else: tells by BLOCK_JOB_ERROR what the policy makes of it. REPORT:
 * the caller has the job fail with @ret. Otherwise what failed is the caller's
 * to be done again: with IGNORE not at once, and with STOP after
 * job_pause_point(), which job_wants_pause() asks for from now on, unless the
 * user has resumed the job before. A cancelled job gets REPORT, without an event.
 */
JobErrorAction job_error_action(Job *job, JobErrorPolicy policy, bool is_read,
                                int ret);

/* ---- verbs and queries -------------------------------------------------- */

/* Which jobs a verb finds: block-job-* commands find block jobs only. */
typedef enum JobFamily {
    JOB_FAMILY_ALL,
    JOB_FAMILY_BLOCK,
} JobFamily;

/*
 * Each is false with @errp if there is no such job or it does not accept the
 * verb in its state. What they ask for happens soon after; events tell.
 */
bool job_verb_cancel(JobFamily family, const char *id, bool force,
                     GError **errp);
bool job_verb_complete(JobFamily family, const char *id, GError **errp);
bool job_verb_pause(JobFamily family, const char *id, GError **errp);
bool job_verb_resume(JobFamily family, const char *id, GError **errp);
bool job_verb_set_speed(const char *id, int64_t speed, GError **errp);
bool job_verb_finalize(JobFamily family, const char *id, GError **errp);
bool job_verb_dismiss(JobFamily family, const char *id, GError **errp);

/* Arrays of JobInfo, of BlockJobInfo */
JsonArray *job_query(void);
JsonArray *job_query_block(void);

/*
 * SIGTERM: cancel all jobs and wait until they and their threads are gone. Not
 * on the management thread, which must be running, and without the graph mutex.
 * let_go() is called again without waits: that takes as long as a guest's
 * request hangs, if there still are guests.
 */
void job_cancel_all_sync(void);
/*
 * Does any job use @bs? Then @errp tells by which: "Node 'disk0' is busy: block
 * device is in use by block job: mirror".
 */
bool job_uses_node(BlockDriverState *bs, GError **errp);

#endif
