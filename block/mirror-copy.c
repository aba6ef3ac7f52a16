/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The workers of a mirror job. They take turns: one picks what to copy next,
 * which includes asking for its block status, and lets the next one pick
 * before it starts to copy.
 *
 * What keeps the copy true:
 *  1. A range is copied by one worker at a time, from before its dirty bits are
 *     cleared until it is written: else an older copy could overwrite a newer
 *     one.
 *  2. Dirty bits are cleared before the source is looked at, be it for its
 *     status or its data. Guests set them after their write is done, so what a
 *     worker has not seen is marked again.
 *  3. What is not copied in the end (an error, a status that does not reach as
 *     far as was claimed) is marked again before the range is given up.
 *  4. Granules of the target leave target_zero before data is written to them,
 *     and enter it after a zero-write has succeeded. As nobody but this job
 *     writes to the target, nothing else changes it.
 *
 * Everything is done in whole granules, but for the end of the disk: a granule
 * that is not zero from its start to its end is data.
 */
#include <stdlib.h>

#include "block/mirror-int.h"
#include "util/error.h"

/* Zero-writes are this long at most: a target that cannot do them fast gets
 * that many bytes in one go. */
#define MAX_ZERO_BYTES (INT64_C(256) << 20)
/* So many answers about a target that may be fresh, and no more */
#define MAX_TARGET_ANSWERS 64
/* A mirror that has caught up lets marks gather for so long: guests write to
 * the same granule again and again. */
#define GATHER_US (100 * 1000)
/* Requests are no longer than this part of a second takes by the speed. */
#define SPEED_SLICES 10

static int64_t granules_of(MirrorJob *s, int64_t bytes)
{
    return bytes / s->granularity + (bytes % s->granularity != 0);
}

static int64_t round_down(int64_t n, int64_t granularity)
{
    return n - n % granularity;
}

/* Where the granule ends that ends at @end or holds it */
static int64_t round_up(MirrorJob *s, int64_t end)
{
    int64_t rest = end % s->granularity;

    if (rest == 0) {
        return end;
    }
    return end + MIN(s->granularity - rest, s->length - end);
}

static bool ends_granule(MirrorJob *s, int64_t end)
{
    return end % s->granularity == 0 || end == s->length;
}

/* ---- the target --------------------------------------------------------- */

/* [@offset, @offset + @bytes) of the target reads as zeroes. */
static void set_target_zero(MirrorJob *s, int64_t offset, int64_t bytes)
{
    int64_t end = offset + bytes;
    int64_t first = granules_of(s, offset);
    int64_t last =
        end == s->length ? granules_of(s, end) : end / s->granularity;

    if (first < last) {
        sparse_bitmap_set(s->target_zero, first, last - first);
    }
}

void mirror_learn_target(MirrorJob *s)
{
    int64_t offset = 0;
    int answers;

    for (answers = 0; offset < s->length && answers < MAX_TARGET_ANSWERS &&
                      !job_is_cancelled(s->job);
         answers++) {
        int64_t pnum;
        int ret = blk_block_status(s->target, offset, s->length - offset,
                                   BDRV_WANT_ZERO, &pnum);

        if (ret < 0 || pnum == 0) {
            return;
        }
        if (ret & BDRV_BLOCK_ZERO) {
            MUTEX_GUARD(&s->lock);
            set_target_zero(s, offset, pnum);
        }
        offset += pnum;
    }
}

static int write_zeroes(MirrorJob *s, const MirrorOp *op)
{
    uint64_t pos = op->offset / s->granularity;
    uint64_t end = granules_of(s, op->offset + op->bytes);

    while (pos < end) {
        int64_t offset, bytes;
        uint64_t stop;
        int ret;

        mutex_lock(&s->lock);
        pos = sparse_bitmap_next_clear(s->target_zero, pos, end);
        stop = sparse_bitmap_next_set(s->target_zero, pos, end);
        mutex_unlock(&s->lock);
        if (pos == end) {
            break;
        }
        offset = pos * s->granularity;
        bytes = stop == end ? op->offset + op->bytes - offset
                            : (int64_t)(stop - pos) * s->granularity;
        ret = blk_pwrite_zeroes(s->target, offset, bytes, BDRV_REQ_MAY_UNMAP);
        if (ret < 0) {
            return ret;
        }
        MUTEX_GUARD(&s->lock);
        sparse_bitmap_set(s->target_zero, pos, stop - pos);
        pos = stop;
    }
    return 0;
}

/* ---- the source --------------------------------------------------------- */

static int source_status(MirrorJob *s, const MirrorOp *op, int64_t offset,
                         int64_t bytes, int64_t *pnum)
{
    BlockDriverState *file;
    int64_t map;

    if (op->drained) {
        return bdrv_block_status(s->source_bs, BDRV_WANT_ZERO, offset,
                                 MIN(bytes, BDRV_REQUEST_MAX_BYTES), pnum, &map,
                                 &file);
    }
    return blk_block_status(s->source, offset, bytes, BDRV_WANT_ZERO, pnum);
}

static int copy_data(MirrorWorker *w, const MirrorOp *op, bool *is_read)
{
    MirrorJob *s = w->s;
    int64_t done = 0;
    int ret = 0;

    while (done < op->bytes) {
        int64_t n = MIN(op->bytes - done, s->buf_bytes);
        int64_t offset = op->offset + done;
        struct iovec iov = { .iov_base = w->buf, .iov_len = n };

        *is_read = true;
        if (op->drained) {
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

/* ---- picking ------------------------------------------------------------ */

/*
 * How much of [@offset, @offset + @bytes), from its start, is in nobody's
 * hands. Lock held
 */
static int64_t unclaimed(MirrorJob *s, int64_t offset, int64_t bytes)
{
    unsigned i;

    for (i = 0; i < s->n_started; i++) {
        const MirrorWorker *w = &s->workers[i];

        if (w->active && w->op.offset < offset + bytes &&
            offset < w->op.offset + w->op.bytes) {
            bytes = MAX(w->op.offset - offset, 0);
        }
    }
    return bytes;
}

/* Where the operation ends that holds @offset. Lock held */
static int64_t claim_end(MirrorJob *s, int64_t offset)
{
    unsigned i;

    for (i = 0; i < s->n_started; i++) {
        const MirrorWorker *w = &s->workers[i];

        if (w->active && w->op.offset <= offset &&
            offset < w->op.offset + w->op.bytes) {
            return w->op.offset + w->op.bytes;
        }
    }
    g_assert_not_reached();
}

/* The first dirty range in [@from, @end) that nobody holds. Lock held */
static bool next_dirty_in(MirrorJob *s, int64_t from, int64_t end, int64_t max,
                          int64_t *offset, int64_t *bytes)
{
    while (
        bdrv_dirty_bitmap_next_area(s->dirty, from, end, max, offset, bytes)) {
        *bytes = unclaimed(s, *offset, *bytes);
        if (*bytes > 0) {
            return true;
        }
        from = claim_end(s, *offset);
    }
    return false;
}

/* Lock held */
static bool next_dirty(MirrorJob *s, int64_t max, int64_t *offset,
                       int64_t *bytes)
{
    return next_dirty_in(s, s->cursor, s->length, max, offset, bytes) ||
           next_dirty_in(s, 0, s->cursor, max, offset, bytes);
}

/* The longest data request, in whole granules. Lock held */
static int64_t max_data_bytes(MirrorJob *s)
{
    int64_t speed = job_speed(s->job);
    int64_t max = s->buf_bytes;

    if (speed > 0) {
        max = MIN(max, speed / SPEED_SLICES);
    }
    return MAX(round_down(max, s->granularity), s->granularity);
}

/* Rules 1 and 2. Lock held */
static void claim(MirrorJob *s, MirrorOp *op, int64_t bytes)
{
    bdrv_reset_dirty_bitmap(s->dirty, op->offset + op->bytes, bytes);
    op->bytes += bytes;
    s->in_flight_bytes += bytes;
}

/* Rule 3: only @keep bytes of what was claimed are. Lock held */
static void unclaim(MirrorJob *s, MirrorOp *op, int64_t keep)
{
    bdrv_set_dirty_bitmap(s->dirty, op->offset + keep, op->bytes - keep);
    s->in_flight_bytes -= op->bytes - keep;
    op->bytes = keep;
}

/*
 * Is all of the granule at @offset zero, and how far does it go on like that,
 * in whole granules, within @bytes? 0 if it is not. *@next: where to look next.
 */
static int64_t zero_bytes(MirrorJob *s, const MirrorOp *op, int64_t offset,
                          int64_t bytes, int64_t *next)
{
    int64_t pnum;
    int ret = source_status(s, op, offset, bytes, &pnum);
    int64_t end = offset + MIN(pnum, bytes);

    if (ret < 0 || pnum <= 0) {
        /* Reading tells if it matters. */
        end = offset + bytes;
    } else if ((ret & BDRV_BLOCK_ZERO) && ends_granule(s, end)) {
        return end - offset;
    } else if ((ret & BDRV_BLOCK_ZERO) && end - offset > s->granularity) {
        return round_down(end, s->granularity) - offset;
    }
    *next = MIN(round_up(s, end), offset + bytes);
    return 0;
}

/*
 * What is claimed turned out to be zero to its end: claim more as long as that
 * goes on. Lock held, released in between.
 */
static void extend_zero(MirrorJob *s, MirrorOp *op)
{
    while (op->bytes < MAX_ZERO_BYTES) {
        int64_t end = op->offset + op->bytes;
        int64_t offset, bytes, next, zero;

        if (!bdrv_dirty_bitmap_next_area(
                s->dirty, end, s->length,
                MIN(op->bytes, MAX_ZERO_BYTES - op->bytes), &offset, &bytes) ||
            offset != end || unclaimed(s, offset, bytes) < bytes) {
            return;
        }
        claim(s, op, bytes);
        mutex_unlock(&s->lock);
        zero = zero_bytes(s, op, offset, bytes, &next);
        mutex_lock(&s->lock);
        if (zero < bytes) {
            unclaim(s, op, end - op->offset + zero);
            return;
        }
    }
}

/* Decide what to do with what is claimed. Lock held, released in between */
static void classify(MirrorJob *s, MirrorOp *op)
{
    int64_t end = op->offset + op->bytes;
    int64_t pos = op->offset;
    int64_t zero;

    mutex_unlock(&s->lock);
    zero = zero_bytes(s, op, pos, end - pos, &pos);
    op->zero = zero > 0;
    if (op->zero) {
        pos += zero;
    }
    while (!op->zero && pos < end &&
           zero_bytes(s, op, pos, end - pos, &pos) == 0) {
    }
    mutex_lock(&s->lock);
    unclaim(s, op, pos - op->offset);
    if (op->zero && pos == end) {
        extend_zero(s, op);
    }
    if (!op->zero) {
        int64_t first = op->offset / s->granularity;
        int64_t last = granules_of(s, op->offset + op->bytes);

        /* Rule 4 */
        sparse_bitmap_clear(s->target_zero, first, last - first);
        job_ratelimit_charge(s->job, op->bytes);
    }
}

/*
 * Wait until there is something to pick and it may be picked. False: no more
 * picking for now. Lock held, released in between
 */
static bool wait_for_work(MirrorJob *s, MirrorOp *op, int64_t *max)
{
    while (!s->quit && !s->hold && s->ret == 0) {
        int64_t delay = job_ratelimit_delay(s->job);
        int64_t now = g_get_monotonic_time();
        int64_t until = s->gather ? s->gather_until_us : 0;

        if (delay > 0 && !s->drained) {
            until = MAX(until, now + delay);
        }
        if (until > now) {
            cond_wait_until(&s->picker, &s->lock, until);
            continue;
        }
        /* Before the look: what is marked after it wakes us. */
        g_atomic_int_set(&s->starving, 1);
        *max = max_data_bytes(s);
        if (next_dirty(s, *max, &op->offset, &op->bytes)) {
            g_atomic_int_set(&s->starving, 0);
            return true;
        }
        cond_wait(&s->picker, &s->lock);
    }
    return false;
}

/* The guests have written to the source. */
static void source_marked(void *opaque)
{
    MirrorJob *s = opaque;

    if (!g_atomic_int_get(&s->starving)) {
        return;
    }
    MUTEX_GUARD(&s->lock);
    g_atomic_int_set(&s->starving, 0);
    if (s->gather) {
        s->gather_until_us = g_get_monotonic_time() + GATHER_US;
    }
    cond_signal(&s->picker);
}

/* It is @w's turn. Lock held, released in between */
static bool pick(MirrorJob *s, MirrorWorker *w)
{
    MirrorOp *op = &w->op;
    int64_t offset, bytes, max;

    if (!wait_for_work(s, op, &max)) {
        return false;
    }
    bytes = op->bytes;
    offset = op->offset;
    *op = (MirrorOp){ .offset = offset, .drained = s->drained };
    w->active = true;
    if (s->in_flight++ == 0) {
        job_set_busy(s->job, true);
    }
    claim(s, op, bytes);
    classify(s, op);
    s->cursor = op->offset + op->bytes;
    return true;
}

/* ---- the workers -------------------------------------------------------- */

static int64_t remaining(MirrorJob *s)
{
    return bdrv_get_dirty_count(s->dirty) + s->in_flight_bytes;
}

/* Lock held */
static void finish(MirrorJob *s, MirrorWorker *w, int ret, bool is_read)
{
    int64_t done = w->op.bytes;
    int64_t left;

    if (ret < 0) {
        unclaim(s, &w->op, 0);
        if (s->ret == 0) {
            s->ret = ret;
            if (!job_is_cancelled(s->job)) {
                job_report_io_error(s->job, is_read);
            }
        }
    } else {
        s->in_flight_bytes -= done;
        job_progress_update(s->job, done);
    }
    w->active = false;
    left = remaining(s);
    job_progress_set_remaining(s->job, left);
    if (--s->in_flight == 0) {
        job_set_busy(s->job, false);
        cond_broadcast(&s->quiet);
    }
    if (s->ret < 0 || left <= s->kick_at) {
        job_kick(s->job);
        cond_broadcast(&s->quiet);
    }
    /* What was dirty in our range may be picked now. */
    cond_signal(&s->picker);
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

        if (s->picking || s->hold || s->ret < 0) {
            cond_wait(&s->pickers, &s->lock);
            continue;
        }
        s->picking = true;
        picked = pick(s, w);
        s->picking = false;
        if (!picked) {
            continue;
        }
        cond_signal(&s->pickers);
        mutex_unlock(&s->lock);
        ret = w->op.zero ? write_zeroes(s, &w->op)
                         : copy_data(w, &w->op, &is_read);
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
    s->target_zero = sparse_bitmap_new(granules_of(s, s->length));
    bdrv_dirty_bitmap_set_notify(s->source_bs, s->dirty, source_marked, s);
}

void mirror_copy_destroy(MirrorJob *s)
{
    unsigned i;

    g_assert(s->n_started == 0);
    for (i = 0; i < s->n_workers; i++) {
        free(s->workers[i].buf);
    }
    sparse_bitmap_free(s->target_zero);
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

int mirror_start_workers(MirrorJob *s)
{
    MUTEX_GUARD(&s->lock);

    while (s->n_started < s->n_workers) {
        MirrorWorker *w = &s->workers[s->n_started];
        int r;

        w->s = s;
        r = pthread_create(&w->thread, NULL, worker, w);
        if (r != 0) {
            /* Fewer will do. */
            return s->n_started > 0 ? 0 : -r;
        }
        s->n_started++;
    }
    return 0;
}

bool mirror_hold(MirrorJob *s, int64_t deadline_us)
{
    bool in_time = true;

    MUTEX_GUARD(&s->lock);
    s->hold = true;
    cond_signal(&s->picker);
    while (s->in_flight > 0 && in_time) {
        in_time = cond_wait_until(&s->quiet, &s->lock, deadline_us);
    }
    return s->in_flight == 0;
}

void mirror_release(MirrorJob *s)
{
    MUTEX_GUARD(&s->lock);

    s->hold = false;
    cond_broadcast(&s->pickers);
}

void mirror_stop_workers(MirrorJob *s)
{
    unsigned i;

    mirror_hold(s, INT64_MAX);
    mutex_lock(&s->lock);
    s->quit = true;
    cond_broadcast(&s->pickers);
    cond_broadcast(&s->picker);
    mutex_unlock(&s->lock);
    for (i = 0; i < s->n_started; i++) {
        pthread_join(s->workers[i].thread, NULL);
    }
    s->n_started = 0;
}

int mirror_copy_rest(MirrorJob *s)
{
    int ret;

    mutex_lock(&s->lock);
    s->drained = true;
    s->gather = false;
    s->hold = false;
    cond_broadcast(&s->pickers);
    while (s->ret == 0 && remaining(s) > 0) {
        cond_wait(&s->quiet, &s->lock);
    }
    mutex_unlock(&s->lock);

    mirror_hold(s, INT64_MAX);
    mutex_lock(&s->lock);
    s->drained = false;
    ret = s->ret;
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
    state->ret = s->ret;
}
