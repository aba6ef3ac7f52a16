/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What mirror.c (the job), mirror-start.c, commit.c, mirror-copy.c (its workers),
 * mirror-pick.c and mirror-active.c (guests' writes to both disks), and
 * mirror-error.c share */
#ifndef BLOCK_MIRROR_INT_H
#define BLOCK_MIRROR_INT_H

#include "block/block-int.h"
#include "block/copy-target.h"
#include "block/dirty-bitmap.h"
#include "block/job-pace.h"
#include "block/job-workers.h"
#include "block/mirror.h"
#include "block/range-lock.h"
#include "util/sparse-bitmap.h"
#include "util/thread.h"

/* After so many rounds there will not be a moment when nothing is left. */
#define MIRROR_MANY_ROUNDS 3

/* What one worker is doing. It holds [offset, offset + bytes) meanwhile. */
typedef struct MirrorOp {
    int64_t offset, bytes;
    bool zero;
    bool past_gate; /* of the source: it is drained, or the worker inside */
    int64_t paced;  /* bytes that count at s->pace */
} MirrorOp;

/*
 * How long a drain may take before it is given up, and how long to wait then
 * before the next. Waits double, and a drain may take half as long as the wait
 * before it: 1 s, wait 1 s, 1 s, wait 2 s, 1 s, wait 4 s, 2 s, wait 8 s, ...,
 * 10 s, wait 30 s. So guests whose requests take long are waited for, in the
 * end, and those that stand behind one that hangs do so for a fourth of the
 * time at most.
 * After an error that is ignored nothing is tried for error_wait. A zero-write
 * should take zero_write at most: whoever cancels waits for it.
 * Microseconds; only tests change them.
 */
typedef struct MirrorLimits {
    int64_t start_drain; /* the start's: it has no next */
    int64_t min_drain, max_drain;
    int64_t min_backoff, max_backoff;
    int64_t error_wait;
    int64_t zero_write;
} MirrorLimits;
extern MirrorLimits mirror_limits;

typedef struct MirrorJob MirrorJob;

typedef struct MirrorWorker {
    MirrorJob *s;
    uint8_t *buf;
    bool inside; /* the source's gate */
    MirrorOp op;
    RangeHold hold; /* op's range, in s->ranges */
} MirrorWorker;

struct MirrorJob {
    Job *job;
    BlockDriverState *source_bs, *target_bs, *filter;
    BlockDriverState *replaced_bs; /* source_bs, or below it by filters only */
    /* At first only what the nodes above it hold is copied; or NULL */
    BlockDriverState *base;
    bool commits; /* the target is the base */
    BlockBackend *source, *target;
    BdrvDirtyBitmap *dirty;
    int64_t length;
    int64_t granularity;
    int64_t buf_size;  /* of all workers */
    int64_t buf_bytes; /* of one */
    JobErrorPolicy on_source_error, on_target_error;
    bool write_blocking;

    /* Who copies what: workers, and guests whose writes go to both disks */
    RangeLock *ranges;
    int active;  /* atomic: guests' writes go to both disks */
    int blocked; /* atomic: the picker found others' holds in its way */

    MirrorWorker workers[JOB_MAX_WORKERS];
    unsigned n_workers;
    JobWorkers threads;

    Mutex lock;
    Cond pickers; /* workers that wait for their turn to pick; signal */
    Cond picker;  /* the one whose turn it is; signal */
    Cond quiet;   /* in_flight has become 0; broadcast */

    /* lock */
    bool picking;  /* somebody's turn */
    bool entering; /* the source's gate: whose turn it is */
    bool hold;     /* pick nothing */
    bool stopped;  /* the hold is for an error; the coordinator is to rest */
    bool quit;
    bool drained; /* the source is, by us */
    bool gather;  /* let marks gather before they are copied */
    int starving; /* atomic too: the picker waits for marks */
    int64_t gather_until_us;
    int64_t pick_us; /* pick nothing before: an error was ignored */
    int64_t
        kick_at; /* remaining bytes from which on the job is kicked; or -1 */
    int64_t cursor;
    uint64_t rounds;
    unsigned in_flight;
    int64_t in_flight_bytes;
    JobPace pace;         /* of what is read and written */
    int ret;              /* the first error that is reported */
    SparseBitmap *failed; /* granules; and they have not been copied since */
    /* Granules of the target that read as zeroes */
    TargetZero target_zero;
    int64_t zero_max; /* bytes of a zero-write, by how long they have taken */

    int zero_plain; /* atomic: the target has no fast zero-writes */

    /* management thread; of a job that commits */
    GPtrArray *between; /* of BlockBackend: on the nodes above the base */
    bool was_read_only; /* the base */
    /* What stands on the source, which is not the active layer then, and is to
     * stand on the base; and how its header is to name that. Or NULL */
    BlockDriverState *overlay;
    char *backing_file;
    const char *backing_format;

    /* coordinator and management thread, one after the other */
    bool base_known;   /* what is above it is dirty */
    bool target_known; /* mirror_learn_target() is done */
    bool ready;
    bool flushed; /* since the job is to complete */
    int64_t retry_us, backoff_us;
};

/* What there is to do, and how it stands */
typedef struct MirrorState {
    int64_t remaining; /* bytes dirty or in flight */
    uint64_t rounds;   /* how often the disk was gone through, so far */
    bool failed;       /* something did, and has not been copied since */
    bool stopped;      /* on hold because of that */
    int ret;
} MirrorState;

/* ---- mirror.c ----------------------------------------------------------- */

extern const JobDriver mirror_job_driver, commit_job_driver,
    commit_below_job_driver;

/* ---- mirror-start.c ----------------------------------------------------- */

typedef struct MirrorNodes {
    BlockDriverState *source, *target, *replaced;
    BlockDriverState *base; /* or NULL */
    bool commits, was_read_only;
    BlockDriverState *overlay; /* or NULL; and then these */
    const char *backing_file, *backing_format;
} MirrorNodes;

/* Of @options, what does not name nodes, and the filter's name. Takes references
 * of its own. False and @errp: nothing has changed. Graph mutex held */
bool mirror_start_with(const MirrorOptions *options, const MirrorNodes *nodes,
                       GError **errp);
/* False and @errp if a value does not do */
bool mirror_check_options(const MirrorOptions *options, GError **errp);
/* Does no node stand on @bs? */
bool mirror_is_root(const BlockDriverState *bs);

/* ---- commit.c ----------------------------------------------------------- */

/*
 * With the filter in its place and the source drained: nobody else may use the
 * nodes between, and the base becomes as long as the source and may be written
 * to. False and @errp; then commit_give_back() is still to be called.
 */
bool commit_take(MirrorJob *s, GError **errp);
/* The reverse, before the source's users come back to it: the job writes no more.
 * Drained */
void commit_give_back(MirrorJob *s);
/* The job writes no more, and nobody else has gone to the base to write there. */
void commit_settle(MirrorJob *s);
/* The overlay's header names the base. Drained; 0, or -errno and @errp */
int commit_tell_overlay(MirrorJob *s, GError **errp);
/* Last; the nodes between are free. */
void commit_clean(MirrorJob *s);

/* ---- mirror-copy.c ------------------------------------------------------ */

/* s->dirty and what is above it in the struct is set. */
void mirror_copy_init(MirrorJob *s);
void mirror_copy_destroy(MirrorJob *s);
/* Buffers for @s->n_workers; false and @errp if there is no memory */
bool mirror_alloc_buffers(MirrorJob *s, GError **errp);
/* Which parts of the target are zero as it is, as far as a few questions tell */
void mirror_learn_target(MirrorJob *s);
/* Once; at least one worker runs then, or -errno */
int mirror_start_workers(MirrorJob *s);
/*
 * Let nothing new start, and wait for what is in flight; false if that has not
 * ended in time. And the reverse
 */
bool mirror_hold(MirrorJob *s, int64_t deadline_us);
void mirror_release(MirrorJob *s);
/* Holds, and ends the threads. */
void mirror_stop_workers(MirrorJob *s);
/* With the source drained, the workers on hold: copy all that is dirty. 0,
 * -errno, or JOB_AGAIN: something failed and is to be tried again. */
int mirror_copy_rest(MirrorJob *s);
/* Of bytes in flight @held are not any more, and @done are copied. Lock held */
void mirror_settle(MirrorJob *s, int64_t held, int64_t done);
/* Kick the job when @remaining bytes are left or fewer (-1: never), or if it
 * fails or is stopped by an error; look at the state at once. */
void mirror_watch(MirrorJob *s, int64_t remaining, bool gather,
                  MirrorState *state);

/* ---- mirror-pick.c ------------------------------------------------------ */

/* The longest request that is written like data, in whole granules. Lock held */
int64_t mirror_max_data_bytes(MirrorJob *s);
/* @w copies, or writes like data, so many @bytes: they count for the job's speed and
 * its pace. Lock held */
void mirror_charge(MirrorJob *s, MirrorWorker *w, int64_t bytes);
/* How many granules @bytes from the disk's start take */
int64_t mirror_granules(MirrorJob *s, int64_t bytes);
/*
 * It is @w's turn: w->op says what it is to do, and is in flight; or false, for
 * now nothing may be picked. Lock held, released in between
 */
bool mirror_pick(MirrorJob *s, MirrorWorker *w);
/* Of what @w holds it copies only the first @keep bytes. Lock held. If that is
 * 0 the range is still to be given up. */
void mirror_unclaim(MirrorJob *s, MirrorWorker *w, int64_t keep);
/* @w is in no hurry to be inside the source's gate. Lock held */
void mirror_leave_source(MirrorJob *s, MirrorWorker *w);
/* @opaque: a MirrorJob. The guests have written to its source. */
void mirror_source_marked(void *opaque);

/* ---- mirror-error.c ----------------------------------------------------- */

/* What was to be copied was not, with @ret; or it was. Lock held. */
void mirror_op_failed(MirrorJob *s, const MirrorOp *op, bool is_read, int ret);
void mirror_op_succeeded(MirrorJob *s, const MirrorOp *op);
/* Is anything left that failed? Lock held. */
bool mirror_has_failed(MirrorJob *s);
/* 0, -errno, or JOB_AGAIN: it failed and is to be tried again. */
int mirror_flush_target(MirrorJob *s);

/* ---- mirror-active.c ---------------------------------------------------- */

/*
 * Requests through the filter if s->write_blocking: to the source, and then, if
 * the job is active, to the target. They return what the source says.
 */
int mirror_active_pwritev(MirrorJob *s, int64_t offset, int64_t bytes,
                          const struct iovec *iov, int niov, int flags);
int mirror_active_pwrite_zeroes(MirrorJob *s, int64_t offset, int64_t bytes,
                                int flags);
int mirror_active_pdiscard(MirrorJob *s, int64_t offset, int64_t bytes);
/* The job still copies: neither cancelled nor failed. Any thread */
bool mirror_is_active(MirrorJob *s);

/* ---- mirror-top.c ------------------------------------------------------- */

typedef struct MirrorTop {
    MirrorJob *job;
} MirrorTop;

extern const BlockDriver bdrv_mirror_top;

#endif
