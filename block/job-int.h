/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of jobs share */
#ifndef BLOCK_JOB_INT_H
#define BLOCK_JOB_INT_H

#include "block/job.h"
#include "util/thread.h"

/*
 * A rate limit: who charges it gets into debt, and pays it off at @speed. Time
 * that passes without a debt is not saved up.
 */
typedef struct RateLimit {
    int64_t speed;   /* bytes per second; 0: no limit */
    uint64_t debt;   /* bytes times microseconds per second */
    int64_t last_us; /* when debt was right */
} RateLimit;

/* At most that much (a request) may be charged at once. */
#define RATE_LIMIT_MAX_CHARGE (UINT64_C(1) << 40)

void rate_limit_set_speed(RateLimit *limit, int64_t speed, int64_t now_us);
/* Microseconds until there is no debt any more, rounded up */
int64_t rate_limit_delay(RateLimit *limit, int64_t now_us);
void rate_limit_charge(RateLimit *limit, uint64_t bytes, int64_t now_us);

/* Protects the list of jobs and whatever may change in them. A leaf: events
 * are sent under it, so that their order is that of the changes. */
extern Mutex job_mutex;
extern GPtrArray *job_list;  /* job_mutex; NULL: no jobs */
extern Cond job_any_changed; /* some status, or job_threads; broadcast */
extern unsigned job_threads; /* job_mutex; started and not joined yet */

/* Jobs that end together. job_mutex, but for arrived */
struct JobTxn {
    int refcnt;
    GPtrArray *jobs; /* those that have not ended, in order of creation */
    /* Those of them whose Conclusions wait for the others'; management thread */
    GPtrArray *arrived;
};

struct Job {
    const JobDriver *drv;
    void *opaque;
    char *id;
    bool auto_finalize, auto_dismiss;
    Cond changed; /* broadcast; the coordinator waits for it */
    pthread_t thread;

    /* job_mutex; changed by the management thread only. NULL: it ends by itself,
     * or has ended */
    JobTxn *txn;

    /* job_mutex */
    int refcnt; /* the list's, and that of the creator, then the thread */
    JobStatus status;
    GPtrArray *nodes, *blks; /* none after they were let go */
    bool kicked;
    bool user_paused; /* by a verb, or an error and the policy "stop" */
    bool no_pause;    /* job_end_pauses() */
    JobIoStatus io_status;
    bool cancelled; /* by force */
    bool complete_requested, soft_cancelled;
    bool work_done; /* of a txn: run() has succeeded */
    bool finalize_requested;
    bool committed;
    bool hurry; /* there is no time for waits between tries */
    bool busy;
    int ret;
    char *error;
    uint64_t progress_current, progress_remaining; /* at most INT64_MAX */
    RateLimit limit;
};

/* All with job_mutex held. The status must be allowed to follow. */
void job_set_status(Job *job, JobStatus status);
bool job_is_ready(const Job *job); /* READY or STANDBY */
/* What was done and what remains; at most INT64_MAX */
int64_t job_progress_total(const Job *job);
/* Wakes the coordinator. */
void job_kick_locked(Job *job);
/* Back from PAUSED or STANDBY, whatever the reason was; wakes the coordinator. */
void job_unpause(Job *job);
/* CONCLUDED becomes NULL, and the list gives up its reference. */
void job_dismiss(Job *job);

/* The caller's reference is gone. */
void job_unref(Job *job);
/* BLOCK_JOB_READY, _COMPLETED, _CANCELLED, of block jobs */
void job_send_event(Job *job, const char *name, const char *error);
/* BLOCK_JOB_PENDING, of those that wait for job-finalize */
void job_send_pending(Job *job);
/* By force, and with it all that end together with it; or only these */
void job_cancel_locked(Job *job);
void job_cancel_others(Job *job);
/* It may take its last step, and so may all that end together with it. */
void job_finalize_locked(Job *job);
void job_txn_join(JobTxn *txn, Job *job);
/* It has ended, or was never begun. */
void job_txn_leave(Job *job);

/* Without job_mutex: what the job used it uses no more. Graph mutex held. */
void job_clean(Job *job);

#endif
