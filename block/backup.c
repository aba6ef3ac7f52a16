/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The backup job: a copy of a disk as it is when the job starts, while the disk is
 * written to.
 *
 * A filter (copy-before-write.c) stands between the disk and its users from that
 * moment on. What they are about to overwrite they copy first; workers copy the
 * rest in the background; and the copier that they share (block-copy.c) sees to it
 * that each cluster is copied once. With sync "none" there are no workers.
 *
 * Workers take turns to choose what to copy next, so that the speed is kept to. They
 * are inside the filter's gate while they hold something, and wait outside. While
 * the job is paused, by its user or by an error, guests go on to copy what they
 * overwrite.
 *
 * A copy that fails with a guest's write waiting for it cannot be tried again later:
 * the moment is lost, and so is the backup. The guest's write goes on, and the job
 * fails, whatever its policy for errors of the target is: that is about workers.
 *
 * The filter goes in a drain, which may take as long as some guest's request hangs;
 * until then the job is ABORTING, or PENDING, and guests' writes pass through it.
 */
#include "block/backup-int.h"

#include "block/copy-before-write.h"
#include "block/mirror-int.h"
#include "util/error.h"

/* Requests are no longer than this part of a second takes by the speed. */
#define SPEED_SLICES 10

/* ---- errors ------------------------------------------------------------- */

/* Lock held */
static void fail(BackupJob *s, int ret)
{
    if (s->ret == 0) {
        s->ret = ret;
    }
    block_copy_stop(s->bc);
    /* Nobody is to wait, or to make space, for what is lost. */
    job_end_pauses(s->job);
}

/* Of a worker. Lock held */
static void op_failed(BackupJob *s, bool is_read, int ret)
{
    JobErrorPolicy policy = is_read ? s->on_source_error : s->on_target_error;

    if (s->ret < 0) {
        return;
    }
    switch (job_error_action(s->job, policy, is_read, ret)) {
    case JOB_ERROR_REPORT:
        fail(s, ret);
        break;
    case JOB_ERROR_STOP:
        s->stopped = true;
        s->hold = true;
        break;
    case JOB_ERROR_IGNORE:
        s->retry_us = g_get_monotonic_time() + mirror_limits.error_wait;
        break;
    }
    job_kick(s->job);
}

int backup_guest_failed(void *opaque, int ret, bool is_read)
{
    BackupJob *s = opaque;

    MUTEX_GUARD(&s->lock);
    if (s->ret == 0) {
        job_error_action(s->job, JOB_ON_ERROR_REPORT, is_read, ret);
        fail(s, ret);
    }
    return 0;
}

/* ---- the workers -------------------------------------------------------- */

void backup_changed(void *opaque, int64_t done)
{
    BackupJob *s = opaque;
    int64_t left;

    MUTEX_GUARD(&s->lock);
    s->changes++;
    job_progress_update(s->job, done);
    /* Inside the lock: what is told last is told of the last change. */
    left = block_copy_left(s->bc);
    job_progress_set_remaining(s->job, left);
    cond_broadcast(&s->chooser);
    if (left == 0) {
        job_kick(s->job);
    }
}

/* Lock held */
static bool may_choose(BackupJob *s)
{
    return !s->quit && !s->hold && s->ret == 0;
}

/* Lock held */
static int64_t max_data(BackupJob *s, int64_t now_us)
{
    int64_t speed = job_speed(s->job);
    int64_t max = job_pace_request(&s->pace, now_us);

    return speed > 0 ? MIN(MAX(speed / SPEED_SLICES, 1), max) : max;
}

/* What the filter stands on. Inside its gate */
static BlockDriverState *source(BackupJob *s)
{
    return s->filter->file->bs;
}

/*
 * Something to copy, at most @max bytes of data; @w is inside the gate then. False:
 * there is nothing that nobody has in hand, or -errno by *@ret.
 */
static bool choose(BackupJob *s, BackupWorker *w, int64_t max, int64_t *cursor,
                   int *ret)
{
    BlockCopyOp *op = &w->op;

    *ret = blk_enter(s->blk);
    if (*ret < 0) {
        return false;
    }
    if (!block_copy_pick(s->bc, op, cursor)) {
        blk_leave(s->blk);
        return false;
    }
    block_copy_look(s->bc, source(s), op, max);
    *cursor = op->offset + op->bytes;
    return true;
}

/* Lock held, and so is w->op, by @w */
static void charge(BackupJob *s, BackupWorker *w)
{
    const BlockCopyOp *op = &w->op;

    if (op->kind == BLOCK_COPY_DATA ||
        (op->kind == BLOCK_COPY_ZERO && op->plain)) {
        job_ratelimit_charge(s->job, op->bytes);
        w->paced = op->bytes;
        job_pace_begin(&s->pace, op->bytes, g_get_monotonic_time());
    }
}

/* Lock held */
static void finish(BackupJob *s, BackupWorker *w)
{
    if (w->paced > 0) {
        job_pace_end(&s->pace, w->paced, g_get_monotonic_time());
        w->paced = 0;
    }
    if (--s->in_flight == 0) {
        job_set_busy(s->job, false);
        cond_broadcast(&s->quiet);
    }
}

/* It is @w's turn. False: for now nothing may be chosen. Lock held, released in
 * between */
static bool take_turn(BackupJob *s, BackupWorker *w)
{
    while (may_choose(s)) {
        int64_t now = g_get_monotonic_time();
        int64_t delay = job_ratelimit_delay(s->job);
        int64_t until = MAX(s->retry_us, delay > 0 ? now + delay : 0);
        unsigned changes = s->changes;
        int64_t cursor = s->cursor;
        int64_t max;
        bool chosen;
        int ret;

        if (until > now) {
            cond_wait_until(&s->chooser, &s->lock, until);
            continue;
        }
        max = max_data(s, now);
        /* In flight from before it holds something: a pause waits for it. */
        s->in_flight++;
        mutex_unlock(&s->lock);
        chosen = choose(s, w, max, &cursor, &ret);
        mutex_lock(&s->lock);
        s->cursor = cursor;
        if (chosen) {
            charge(s, w);
            job_set_busy(s->job, true);
            return true;
        }
        finish(s, w);
        if (ret < 0) {
            /* Cancelled */
            fail(s, ret);
        }
        while (may_choose(s) && s->changes == changes) {
            cond_wait(&s->chooser, &s->lock);
        }
    }
    return false;
}

/* Lock held */
static bool may_begin(BackupJob *s)
{
    return job_pace_may_begin(&s->pace, g_get_monotonic_time());
}

static void *worker(void *opaque)
{
    BackupWorker *w = opaque;
    BackupJob *s = w->s;

    pthread_setname_np(pthread_self(), "backup");
    mutex_lock(&s->lock);
    while (!s->quit) {
        bool chosen;
        int ret;

        /* Who waits for others' requests to end is woken by who begins one and
         * finds that there is room for more. */
        if (s->choosing || !may_choose(s) || !may_begin(s)) {
            cond_wait(&s->turn, &s->lock);
            continue;
        }
        s->choosing = true;
        chosen = take_turn(s, w);
        s->choosing = false;
        if (!chosen) {
            continue;
        }
        if (may_begin(s)) {
            cond_signal(&s->turn);
        }
        mutex_unlock(&s->lock);
        ret = block_copy_do(s->bc, source(s), &w->op);
        if (ret < 0) {
            /* Before somebody else has it */
            MUTEX_GUARD(&s->lock);
            op_failed(s, w->op.is_read, ret);
        }
        block_copy_give_up(s->bc, &w->op);
        blk_leave(s->blk);
        mutex_lock(&s->lock);
        finish(s, w);
    }
    mutex_unlock(&s->lock);
    block_copy_op_destroy(&w->op);
    return NULL;
}

void backup_init(BackupJob *s)
{
    mutex_init(&s->lock);
    cond_init(&s->turn);
    cond_init(&s->chooser);
    cond_init(&s->quiet);
}

static void *worker_item(void *opaque, unsigned i)
{
    BackupJob *s = opaque;

    s->workers[i].s = s;
    return &s->workers[i];
}

static void stop_workers(BackupJob *s)
{
    mutex_lock(&s->lock);
    s->quit = true;
    cond_broadcast(&s->turn);
    cond_broadcast(&s->chooser);
    mutex_unlock(&s->lock);
    job_workers_join(&s->threads);
}

/* ---- the coordinator ---------------------------------------------------- */

/* Until no worker has anything in hand. Lock held */
static void wait_quiet(BackupJob *s)
{
    while (s->in_flight > 0) {
        cond_wait(&s->quiet, &s->lock);
    }
}

/* Workers come to rest; guests do not. */
static void rest(BackupJob *s)
{
    mutex_lock(&s->lock);
    s->hold = true;
    cond_broadcast(&s->chooser);
    wait_quiet(s);
    mutex_unlock(&s->lock);
    job_pause_point(s->job);
    mutex_lock(&s->lock);
    s->hold = s->stopped = false;
    cond_broadcast(&s->turn);
    mutex_unlock(&s->lock);
}

/* What guests have just written to the target is flushed with the rest. */
static int flush_target(BackupJob *s)
{
    int ret = blk_enter(s->blk);

    if (ret == 0) {
        ret = bdrv_flush(s->target_bs);
        blk_leave(s->blk);
    }
    if (ret < 0 && ret != -ECANCELED) {
        MUTEX_GUARD(&s->lock);
        op_failed(s, false, ret);
    }
    return ret;
}

/* How it stands: 0, -errno, or JOB_AGAIN: it is to rest */
static int state(BackupJob *s)
{
    MUTEX_GUARD(&s->lock);

    /* It may have waited for another speed. */
    cond_broadcast(&s->chooser);
    if (job_is_cancelled(s->job)) {
        return -ECANCELED;
    }
    if (s->ret < 0) {
        return s->ret;
    }
    return s->stopped || job_wants_pause(s->job) ? JOB_AGAIN : 0;
}

/* Until all is copied, and on stable storage: 0, or -errno */
static int follow(BackupJob *s)
{
    for (;;) {
        int64_t deadline_us = INT64_MAX;
        int ret = state(s);

        if (ret < 0) {
            return ret;
        }
        if (ret == JOB_AGAIN) {
            rest(s);
            continue;
        }
        if (s->sync != BACKUP_SYNC_NONE && block_copy_left(s->bc) == 0) {
            /* Who copied the last has yet to leave: the job is busy till then. */
            mutex_lock(&s->lock);
            wait_quiet(s);
            mutex_unlock(&s->lock);
            if (flush_target(s) == 0) {
                return 0;
            }
            mutex_lock(&s->lock);
            deadline_us = s->stopped || s->ret < 0 ? 0 : s->retry_us;
            mutex_unlock(&s->lock);
        }
        job_wait(s->job, deadline_us);
    }
}

static int ask_target(void *opaque, int64_t offset, int64_t bytes,
                      int64_t *pnum)
{
    BackupJob *s = opaque;
    BlockDriverState *file;
    int64_t map;
    int ret = job_is_cancelled(s->job) ? -ECANCELED : blk_enter(s->blk);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_block_status_above(s->target_bs, NULL, BDRV_WANT_ZERO, offset,
                                  bytes, pnum, &map, &file, NULL);
    blk_leave(s->blk);
    return ret;
}

static int backup_run(Job *job)
{
    BackupJob *s = job_opaque(job);
    int ret = 0;

    if (s->learn_target) {
        block_copy_learn_target(s->bc, ask_target, s);
    }
    if (s->sync != BACKUP_SYNC_NONE) {
        ret = job_workers_start(&s->threads, s->n_workers, worker, worker_item,
                                s);
    }
    if (ret < 0) {
        job_set_error(job, ret, "Could not start threads: %s",
                      g_strerror(-ret));
    } else {
        ret = follow(s);
    }
    if (ret < 0) {
        block_copy_stop(s->bc);
    }
    stop_workers(s);
    return ret;
}

/* ---- the end ------------------------------------------------------------ */

/* Drained */
static void drop_filter(BackupJob *s)
{
    g_autoptr(GError) err = NULL;

    if (s->blk) {
        blk_detach(s->blk);
    }
    /* Its users need the same of what is below as they needed through it. */
    if (s->filter->file && !bdrv_remove_filter(s->filter, &err)) {
        g_error("Could not remove node '%s': %s", bdrv_node_name(s->filter),
                err->message);
    }
    cbw_drop_target(s->filter);
}

/*
 * The bitmap marks what was written since the start, if the job's user gets to know
 * what was copied by that; or that and what it marked before.
 */
static void thaw_bitmap(BackupJob *s, bool ok)
{
    bool anew = s->bitmap_mode != BACKUP_BITMAP_NEVER &&
                (ok || s->bitmap_mode == BACKUP_BITMAP_ALWAYS);
    int64_t start, bytes, pos;

    if (!s->bitmap) {
        return;
    }
    /* What is not copied it goes on to mark; of guests that still copy, too. */
    for (pos = 0;
         anew && !ok && block_copy_next_left(s->bc, pos, &start, &bytes);
         pos = start + bytes) {
        bdrv_set_dirty_bitmap(s->bitmap, start, bytes);
    }
    bdrv_dirty_bitmap_thaw(s->bitmap, !anew);
    s->bitmap = NULL;
}

static void backup_commit(Job *job)
{
    thaw_bitmap(job_opaque(job), true);
}

static void backup_abort(Job *job)
{
    BackupJob *s = job_opaque(job);

    block_copy_stop(s->bc);
    thaw_bitmap(s, false);
}

static int64_t backup_let_go(Job *job)
{
    BackupJob *s = job_opaque(job);
    int64_t now = g_get_monotonic_time();
    int64_t deadline_us =
        now + CLAMP(s->backoff_us / 2, mirror_limits.min_drain,
                    mirror_limits.max_drain);

    if (!bdrv_try_drained_begin(s->filter, deadline_us)) {
        s->backoff_us = CLAMP(2 * s->backoff_us, mirror_limits.min_backoff,
                              mirror_limits.max_backoff);
        return g_get_monotonic_time() + s->backoff_us;
    }
    drop_filter(s);
    bdrv_drained_end(s->filter);
    return 0;
}

static void backup_clean(Job *job)
{
    BackupJob *s = job_opaque(job);

    if (s->filter && s->filter->file) {
        /* It was not started, and what is below is drained. */
        bdrv_drained_begin(s->filter);
        drop_filter(s);
        bdrv_drained_end(s->filter);
    }
    if (s->bitmap) {
        /* Neither: nothing has happened. */
        bdrv_dirty_bitmap_thaw(s->bitmap, true);
    }
    blk_free(s->blk);
    if (s->filter) {
        bdrv_unref(s->filter);
    }
    bdrv_unref(s->source_bs);
    bdrv_unref(s->target_bs);
    if (s->base) {
        bdrv_unref(s->base);
    }
    cond_destroy(&s->turn);
    cond_destroy(&s->chooser);
    cond_destroy(&s->quiet);
    mutex_destroy(&s->lock);
}

const JobDriver backup_job_driver = {
    .type = "backup",
    .instance_size = sizeof(BackupJob),
    .block_job = true,
    .run = backup_run,
    .commit = backup_commit,
    .abort = backup_abort,
    .let_go = backup_let_go,
    .clean = backup_clean,
};
