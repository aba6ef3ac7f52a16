/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The workers of a mirror job. They take turns: one picks what to copy next
 * (mirror-pick.c), and lets the next one pick before it starts to copy.
 *
 * What keeps the copy true:
 *  1. A range is copied by one at a time, who holds it in s->ranges from before
 *     its dirty bits are cleared until it is written: else an older copy could
 *     overwrite a newer one. That is a worker or, where guests write to both
 *     disks (mirror-active.c), a guest.
 *  2. Dirty bits are cleared before the source is looked at, be it for its
 *     status or its data. Guests set them after their write is done, so what a
 *     worker has not seen is marked again.
 *  3. What is not copied in the end (an error, a status that does not reach as
 *     far as was claimed) is marked again before the range is given up.
 *  4. Granules of the target leave target_zero before data is written to them,
 *     and enter it after a zero-write has succeeded, both by who holds them.
 *     As nobody but this job and those guests write to the target, nothing else
 *     changes it.
 */
#include <stdlib.h>

#include "block/mirror-int.h"
#include "util/error.h"

/* Zero-writes are so long at first. */
#define FIRST_ZERO_BYTES (INT64_C(4) << 20)
/* A target that has a fast way has it for that much. */
#define MIN_FAST_ZERO_BYTES 65536

int64_t mirror_granules(MirrorJob *s, int64_t bytes)
{
    return target_zero_granules(&s->target_zero, bytes);
}

/* ---- the target --------------------------------------------------------- */

static int ask_target(void *opaque, int64_t offset, int64_t bytes,
                      int64_t *pnum)
{
    MirrorJob *s = opaque;

    if (job_is_cancelled(s->job)) {
        return -ECANCELED;
    }
    return blk_block_status(s->target, offset, bytes, BDRV_WANT_ZERO, pnum);
}

static void found_zeroes(void *opaque, int64_t offset, int64_t bytes)
{
    MirrorJob *s = opaque;

    MUTEX_GUARD(&s->lock);
    target_zero_set(&s->target_zero, offset, bytes);
}

void mirror_learn_target(MirrorJob *s)
{
    TargetZeroLearner learner = { ask_target, found_zeroes, s };

    target_zero_learn(&learner, s->length);
}

/* ---- zeroes ------------------------------------------------------------- */

/*
 * What of @op is to be written from @offset on, which is moved there: no more
 * than the target does fast. False: nothing
 */
static bool next_to_zero(MirrorJob *s, const MirrorOp *op, int64_t *offset,
                         int64_t *bytes)
{
    int64_t op_end = op->offset + op->bytes;
    uint64_t end = mirror_granules(s, op_end);
    uint64_t pos, stop;

    MUTEX_GUARD(&s->lock);
    pos = sparse_bitmap_next_clear(s->target_zero.bits,
                                   mirror_granules(s, *offset), end);
    stop = MIN(end, pos + MAX(s->zero_max / s->granularity, 1));
    stop = sparse_bitmap_next_set(s->target_zero.bits, pos, stop);
    *offset = pos * s->granularity;
    *bytes = MIN((int64_t)stop * s->granularity, op_end) - *offset;
    return pos < end;
}

/* Does the target read as zeroes where @op is? Lock held */
static bool is_zero_already(MirrorJob *s, const MirrorOp *op)
{
    int64_t pnum;

    return target_zero_test(&s->target_zero, op->offset, op->bytes, &pnum) &&
           pnum >= op->bytes;
}

/* A zero-write of @bytes took @us microseconds: those to come are as long as
 * the target does fast. Lock held */
static void pace_zeroes(MirrorJob *s, int64_t bytes, int64_t us)
{
    if (us > mirror_limits.zero_write) {
        s->zero_max =
            CLAMP(bytes / 2, MIN(s->buf_bytes, s->zero_max), s->zero_max);
    } else if (us < mirror_limits.zero_write / 4 && bytes >= s->zero_max) {
        s->zero_max *= 2;
    }
}

/* -ENOTSUP if the target has no fast way; it is not tried again then. */
static int write_fast_zeroes(MirrorJob *s, int64_t offset, int64_t bytes)
{
    int64_t start_us = g_get_monotonic_time();
    int ret = -ENOTSUP;

    if (!g_atomic_int_get(&s->zero_plain)) {
        ret = blk_pwrite_zeroes(s->target, offset, bytes,
                                BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK);
    }
    if (ret == 0) {
        MUTEX_GUARD(&s->lock);
        pace_zeroes(s, bytes, g_get_monotonic_time() - start_us);
    } else if (ret == -ENOTSUP && bytes >= MIN_FAST_ZERO_BYTES) {
        /* What is smaller may only be too small for its way. */
        g_atomic_int_set(&s->zero_plain, 1);
    }
    return ret;
}

/* Of its range @w writes nothing from @end on: that is what is picked next, so that
 * rounds remain rounds. Lock held */
static void give_back(MirrorJob *s, MirrorWorker *w, int64_t end)
{
    mirror_unclaim(s, w, end - w->op.offset);
    s->cursor = MIN(s->cursor, end);
}

/*
 * The target has no fast way for *@bytes at @offset: then that is data like any
 * other, and all of its range that @w writes.
 */
static void make_plain(MirrorJob *s, MirrorWorker *w, int64_t offset,
                       int64_t *bytes)
{
    MUTEX_GUARD(&s->lock);

    *bytes = MIN(*bytes, mirror_max_data_bytes(s));
    give_back(s, w, offset + *bytes);
    mirror_charge(s, w, *bytes);
}

/* A request as long as one of data at a time, as long as anybody wants it */
static int write_plain_zeroes(MirrorJob *s, int64_t offset, int64_t bytes)
{
    int64_t done = 0;
    int ret = 0;

    while (ret == 0 && done < bytes) {
        int64_t n = MIN(bytes - done, s->buf_bytes);

        ret = job_is_cancelled(s->job)
                  ? -ECANCELED
                  : blk_pwrite_zeroes(s->target, offset + done, n,
                                      BDRV_REQ_MAY_UNMAP);
        done += n;
    }
    return ret;
}

/* What of its range takes too long is given back. */
static int write_zeroes(MirrorWorker *w)
{
    MirrorJob *s = w->s;
    const MirrorOp *op = &w->op;
    int64_t until_us = g_get_monotonic_time() + mirror_limits.zero_write;
    int64_t offset = op->offset;
    int64_t bytes;

    for (; next_to_zero(s, op, &offset, &bytes); offset += bytes) {
        int ret = write_fast_zeroes(s, offset, bytes);

        if (ret == -ENOTSUP) {
            make_plain(s, w, offset, &bytes);
            ret = write_plain_zeroes(s, offset, bytes);
        }
        if (ret < 0) {
            return ret;
        }
        MUTEX_GUARD(&s->lock);
        target_zero_set(&s->target_zero, offset, bytes);
        if (g_get_monotonic_time() > until_us) {
            give_back(s, w, offset + bytes);
        }
    }
    return 0;
}

/* ---- data --------------------------------------------------------------- */

static int copy_data(MirrorWorker *w, const MirrorOp *op, bool *is_read)
{
    MirrorJob *s = w->s;
    int64_t done = 0;
    int ret = 0;

    while (done < op->bytes) {
        int64_t n = MIN(op->bytes - done, s->buf_bytes);
        int64_t offset = op->offset + done;
        struct iovec iov = { .iov_base = w->buf, .iov_len = n };

        if (job_is_cancelled(s->job)) {
            return -ECANCELED;
        }
        *is_read = true;
        if (op->past_gate) {
            ret = bdrv_preadv(s->source_bs, offset, n, &iov, 1, 0);
        } else {
            ret = blk_preadv(s->source, offset, n, &iov, 1, 0);
        }
        if (ret < 0) {
            return ret;
        }
        *is_read = false;
        ret = blk_pwritev(s->target, offset, n, &iov, 1, 0);
        if (ret < 0) {
            return ret;
        }
        done += n;
    }
    return 0;
}

/* ---- the workers -------------------------------------------------------- */

/* Lock held */
static int64_t remaining(MirrorJob *s)
{
    int64_t dirty = bdrv_get_dirty_count(s->dirty);

    /* What is dirty again while it is in flight counts twice. */
    return MIN(dirty, INT64_MAX - s->in_flight_bytes) + s->in_flight_bytes;
}

void mirror_settle(MirrorJob *s, int64_t held, int64_t done)
{
    int64_t left;

    s->in_flight_bytes -= held;
    job_progress_update(s->job, done);
    left = remaining(s);
    job_progress_set_remaining(s->job, left);
    if (left <= s->kick_at) {
        job_kick(s->job);
        cond_broadcast(&s->quiet);
    }
}

/* Lock held */
static void finish(MirrorJob *s, MirrorWorker *w, int ret, bool is_read)
{
    int64_t done = w->op.bytes;

    if (ret < 0) {
        mirror_op_failed(s, &w->op, is_read, ret);
        mirror_unclaim(s, w, 0);
        done = 0;
    } else {
        mirror_op_succeeded(s, &w->op);
    }
    range_lock_release(s->ranges, &w->hold);
    mirror_leave_source(s, w);
    if (w->op.paced > 0) {
        job_pace_end(&s->pace, w->op.paced, g_get_monotonic_time());
    }
    mirror_settle(s, done, done);
    if (--s->in_flight == 0) {
        job_set_busy(s->job, false);
        cond_broadcast(&s->quiet);
    }
    if (ret < 0) {
        job_kick(s->job);
        cond_broadcast(&s->quiet);
    }
    /* What was dirty in our range may be picked now. */
    cond_signal(&s->picker);
}

/* Lock held */
static bool may_begin(MirrorJob *s)
{
    return s->drained || job_pace_may_begin(&s->pace, g_get_monotonic_time());
}

static void *worker(void *opaque)
{
    MirrorWorker *w = opaque;
    MirrorJob *s = w->s;

    pthread_setname_np(pthread_self(), "mirror");
    mutex_lock(&s->lock);
    while (!s->quit) {
        bool is_read = false;
        bool picked;
        int ret;

        /* Who waits for others' requests to end is woken by who begins one and
         * finds that there is room for more. */
        if (s->picking || s->hold || s->ret < 0 || !may_begin(s)) {
            cond_wait(&s->pickers, &s->lock);
            continue;
        }
        s->picking = true;
        picked = mirror_pick(s, w);
        s->picking = false;
        if (!picked) {
            continue;
        }
        if (w->op.zero && is_zero_already(s, &w->op)) {
            /* Nothing to do meanwhile that another could pick. */
            finish(s, w, 0, false);
            continue;
        }
        if (may_begin(s)) {
            cond_signal(&s->pickers);
        }
        mutex_unlock(&s->lock);
        ret = w->op.zero ? write_zeroes(w) : copy_data(w, &w->op, &is_read);
        mutex_lock(&s->lock);
        finish(s, w, ret, is_read);
    }
    mutex_unlock(&s->lock);
    return NULL;
}

void mirror_copy_init(MirrorJob *s)
{
    mutex_init(&s->lock);
    cond_init(&s->pickers);
    cond_init(&s->picker);
    cond_init(&s->quiet);
    s->kick_at = -1;
    s->ranges = range_lock_new();
    s->zero_max = FIRST_ZERO_BYTES;
    target_zero_init(&s->target_zero, s->length, s->granularity);
    s->failed = sparse_bitmap_new(mirror_granules(s, s->length));
    bdrv_dirty_bitmap_set_notify(s->source_bs, s->dirty, mirror_source_marked,
                                 s);
}

void mirror_copy_destroy(MirrorJob *s)
{
    unsigned i;

    g_assert(s->threads.n == 0);
    for (i = 0; i < s->n_workers; i++) {
        free(s->workers[i].buf);
    }
    target_zero_destroy(&s->target_zero);
    sparse_bitmap_free(s->failed);
    range_lock_free(s->ranges);
    cond_destroy(&s->pickers);
    cond_destroy(&s->picker);
    cond_destroy(&s->quiet);
    mutex_destroy(&s->lock);
}

bool mirror_alloc_buffers(MirrorJob *s, GError **errp)
{
    size_t align =
        MAX(blk_mem_alignment(s->source), blk_mem_alignment(s->target));
    unsigned i;

    align = MAX(align, 4096);
    for (i = 0; i < s->n_workers; i++) {
        void *buf;
        int r = posix_memalign(&buf, align, s->buf_bytes);

        if (r != 0) {
            error_setg_errno(errp, r,
                             "Could not allocate buf-size=%" G_GINT64_FORMAT,
                             s->buf_size);
            return false;
        }
        s->workers[i].buf = buf;
    }
    return true;
}

static void *worker_item(void *opaque, unsigned i)
{
    MirrorJob *s = opaque;

    s->workers[i].s = s;
    return &s->workers[i];
}

int mirror_start_workers(MirrorJob *s)
{
    return job_workers_start(&s->threads, s->n_workers, worker, worker_item, s);
}

bool mirror_hold(MirrorJob *s, int64_t deadline_us)
{
    bool in_time = true;

    MUTEX_GUARD(&s->lock);
    s->hold = true;
    cond_signal(&s->picker);
    while ((s->in_flight > 0 || s->entering) && in_time) {
        in_time = cond_wait_until(&s->quiet, &s->lock, deadline_us);
    }
    return s->in_flight == 0 && !s->entering;
}

void mirror_release(MirrorJob *s)
{
    MUTEX_GUARD(&s->lock);

    s->hold = s->stopped = false;
    cond_broadcast(&s->pickers);
}

void mirror_stop_workers(MirrorJob *s)
{
    mirror_hold(s, INT64_MAX);
    mutex_lock(&s->lock);
    s->quit = true;
    cond_broadcast(&s->pickers);
    cond_broadcast(&s->picker);
    mutex_unlock(&s->lock);
    job_workers_join(&s->threads);
}

int mirror_copy_rest(MirrorJob *s)
{
    int ret;

    mutex_lock(&s->lock);
    if (!mirror_has_failed(s)) {
        s->drained = true;
        s->gather = false;
        s->hold = false;
        cond_broadcast(&s->pickers);
    }
    while (s->ret == 0 && !mirror_has_failed(s) && remaining(s) > 0) {
        cond_wait(&s->quiet, &s->lock);
    }
    mutex_unlock(&s->lock);

    mirror_hold(s, INT64_MAX);
    mutex_lock(&s->lock);
    s->drained = false;
    ret = s->ret == 0 && mirror_has_failed(s) ? JOB_AGAIN : s->ret;
    mutex_unlock(&s->lock);
    return ret;
}

void mirror_watch(MirrorJob *s, int64_t kick_at, bool gather,
                  MirrorState *state)
{
    MUTEX_GUARD(&s->lock);

    s->kick_at = kick_at;
    s->gather = gather;
    /* It may have waited for marks to gather, or for another speed. */
    cond_signal(&s->picker);
    state->remaining = remaining(s);
    state->rounds = s->rounds;
    state->failed = mirror_has_failed(s);
    state->stopped = s->stopped;
    state->ret = s->ret;
}
