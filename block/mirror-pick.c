/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a mirror job copies next. Workers take turns to find out, and the one
 * whose turn it is asks for the block status of what it has picked. The rules
 * stand in mirror-copy.c.
 *
 * Everything is done in whole granules, but for the end of the disk: a granule
 * that is not zero from its start to its end is data.
 */
#include "block/mirror-int.h"

/* Zeroes are picked in runs so long at most, and given back where the target
 * takes its time. A disk of 16 TiB that is one hole is 16,384 of them. */
#define MAX_ZERO_BYTES BDRV_REQUEST_MAX_BYTES
/* What is picked becomes so many times as long when it turned out to be zero. */
#define ZERO_GROWTH 16
/* Where guests may wait for them */
#define MAX_BLOCKING_ZERO_BYTES (INT64_C(16) << 20)
/* How long the picker stands in line where guests write, and those who come
 * after it wait, too, before it looks elsewhere */
#define LINE_US (100 * 1000)
/* A mirror that has caught up lets marks gather for so long: guests write to
 * the same granule again and again. */
#define GATHER_US (100 * 1000)
/* Requests are no longer than this part of a second takes by the speed. */
#define SPEED_SLICES 10

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

static int source_status(MirrorJob *s, const MirrorOp *op, int64_t offset,
                         int64_t bytes, int64_t *pnum)
{
    BlockDriverState *file;
    int64_t map;

    if (op->past_gate) {
        return bdrv_block_status_above(
            s->source_bs, NULL, BDRV_WANT_ZERO, offset,
            MIN(bytes, BDRV_REQUEST_MAX_BYTES), pnum, &map, &file, NULL);
    }
    return blk_block_status(s->source, offset, bytes, BDRV_WANT_ZERO, pnum);
}

/* The first dirty range in [@from, @end) that is free, which @w holds then; or
 * *@taken, if not -1 already, is where one is that is not. Lock held */
static bool next_dirty_in(MirrorJob *s, MirrorWorker *w, int64_t from,
                          int64_t end, int64_t max, int64_t *taken)
{
    int64_t offset, bytes;

    while (bdrv_dirty_bitmap_next_area(s->dirty, from, end, max, &offset,
                                       &bytes)) {
        w->op.offset = offset;
        w->op.bytes = range_lock_try_acquire(s->ranges, &w->hold, offset, bytes,
                                             s->granularity, &from);
        if (w->op.bytes > 0) {
            return true;
        }
        *taken = *taken < 0 ? offset : *taken;
    }
    return false;
}

/* Lock held */
static bool next_dirty(MirrorJob *s, MirrorWorker *w, int64_t max,
                       int64_t *taken)
{
    *taken = -1;
    if (next_dirty_in(s, w, s->cursor, s->length, max, taken)) {
        return true;
    }
    if (!next_dirty_in(s, w, 0, s->cursor, max, taken)) {
        return false;
    }
    if (++s->rounds == MIRROR_MANY_ROUNDS) {
        job_kick(s->job);
    }
    return true;
}

int64_t mirror_max_data_bytes(MirrorJob *s)
{
    int64_t speed = job_speed(s->job);
    int64_t max = s->buf_bytes;

    if (!s->drained) {
        max = job_pace_request(&s->pace, g_get_monotonic_time());
    }
    if (speed > 0) {
        max = MIN(max, speed / SPEED_SLICES);
    }
    return MAX(round_down(max, s->granularity), s->granularity);
}

void mirror_charge(MirrorJob *s, MirrorWorker *w, int64_t bytes)
{
    g_assert(w->op.paced == 0);
    job_ratelimit_charge(s->job, bytes);
    /* No more than a buffer of it is at a disk at a time. */
    w->op.paced = MIN(bytes, s->buf_bytes);
    job_pace_begin(&s->pace, w->op.paced, g_get_monotonic_time());
}

/* Rule 2. Lock held, and so is the range. */
static void claim(MirrorJob *s, int64_t offset, int64_t bytes)
{
    bdrv_reset_dirty_bitmap(s->dirty, offset, bytes);
    s->in_flight_bytes += bytes;
}

/* Rule 3 */
void mirror_unclaim(MirrorJob *s, MirrorWorker *w, int64_t keep)
{
    MirrorOp *op = &w->op;

    bdrv_set_dirty_bitmap(s->dirty, op->offset + keep, op->bytes - keep);
    s->in_flight_bytes -= op->bytes - keep;
    op->bytes = keep;
    if (keep > 0) {
        range_lock_shrink(s->ranges, &w->hold, keep);
    }
}

/*
 * Is all of the granule at @offset zero, and how far does it go on like that,
 * in whole granules, within @bytes? 0 if it is not. *@next: where to look next.
 */
static int64_t zero_bytes(MirrorJob *s, const MirrorOp *op, int64_t offset,
                          int64_t bytes, int64_t *next)
{
    int64_t pnum = 0;
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
static void extend_zero(MirrorJob *s, MirrorWorker *w)
{
    MirrorOp *op = &w->op;
    int64_t most = s->write_blocking ? MAX_BLOCKING_ZERO_BYTES : MAX_ZERO_BYTES;

    while (op->bytes < most) {
        int64_t end = op->offset + op->bytes;
        int64_t offset, bytes, next, zero;

        if (!bdrv_dirty_bitmap_next_area(
                s->dirty, end, s->length,
                MIN((ZERO_GROWTH - 1) * op->bytes, most - op->bytes), &offset,
                &bytes) ||
            offset != end ||
            !range_lock_try_extend(s->ranges, &w->hold, bytes)) {
            return;
        }
        claim(s, offset, bytes);
        op->bytes += bytes;
        mutex_unlock(&s->lock);
        zero = zero_bytes(s, op, offset, bytes, &next);
        mutex_lock(&s->lock);
        if (zero < bytes) {
            mirror_unclaim(s, w, end - op->offset + zero);
            return;
        }
    }
}

/* Decide what to do with what is claimed. Lock held, released in between */
static void classify(MirrorJob *s, MirrorWorker *w)
{
    MirrorOp *op = &w->op;
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
    mirror_unclaim(s, w, pos - op->offset);
    if (op->zero && pos == end) {
        extend_zero(s, w);
    }
    if (!op->zero) {
        /* Rule 4 */
        target_zero_clear(&s->target_zero, op->offset, op->bytes);
        mirror_charge(s, w, op->bytes);
    }
}

/* Lock held */
static bool may_pick(MirrorJob *s)
{
    return !s->quit && !s->hold && s->ret == 0;
}

/*
 * Where guests wait for ranges, a worker is inside the source's gate before it
 * takes one: a guest that waits for it is inside a gate, too, and a drain that
 * closes both waits for the guest. False: the lock was released, to wait at the
 * gate; look again. Lock held
 */
static bool enter_source(MirrorJob *s, MirrorWorker *w)
{
    int ret;

    if (!s->write_blocking || s->drained || w->inside) {
        return true;
    }
    s->entering = true;
    mutex_unlock(&s->lock);
    ret = blk_enter(s->source);
    mutex_lock(&s->lock);
    s->entering = false;
    cond_broadcast(&s->quiet);
    w->inside = ret == 0;
    if (ret < 0 && s->ret == 0) {
        /* Cancelled */
        s->ret = ret;
        job_kick(s->job);
    }
    return false;
}

void mirror_leave_source(MirrorJob *s, MirrorWorker *w)
{
    if (w->inside) {
        blk_leave(s->source);
        w->inside = false;
    }
}

/*
 * All that is dirty is in others' hands, the granule at @offset, too: get in
 * line for it, or guests who write there again and again would keep it dirty
 * for ever. Lock held, released in between
 */
static bool wait_for_turn(MirrorJob *s, MirrorWorker *w, int64_t offset)
{
    int64_t until = g_get_monotonic_time() + LINE_US;
    int64_t bytes = MIN(s->granularity, s->length - offset);
    bool in_time = true;

    range_lock_line_up(s->ranges, &w->hold, offset, bytes);
    while (may_pick(s) && in_time) {
        if (range_lock_is_mine(s->ranges, &w->hold)) {
            if (!bdrv_dirty_bitmap_next_area(s->dirty, offset, offset + bytes,
                                             bytes, &offset, &bytes)) {
                break;
            }
            w->op.offset = offset;
            w->op.bytes = bytes;
            return true;
        }
        in_time = cond_wait_until(&s->picker, &s->lock, until);
    }
    range_lock_release(s->ranges, &w->hold);
    return false;
}

/*
 * Something to copy that may be copied now: @w holds it. False: where all that
 * is dirty is, somebody else stands or stood. Lock held, released in between
 */
static bool find_work(MirrorJob *s, MirrorWorker *w, bool *none)
{
    int64_t taken;
    bool found;

    /* Before the look: what is marked or given up after it wakes us. */
    g_atomic_int_set(&s->starving, 1);
    g_atomic_int_set(&s->blocked, s->write_blocking);
    found = next_dirty(s, w, mirror_max_data_bytes(s), &taken);
    *none = !found && (taken < 0 || !s->write_blocking);
    if (!found && !*none) {
        found = wait_for_turn(s, w, taken);
    }
    if (found) {
        g_atomic_int_set(&s->starving, 0);
    }
    g_atomic_int_set(&s->blocked, 0);
    return found;
}

/*
 * Wait until there is something to pick and it may be picked. False: no more
 * picking for now. Lock held, released in between
 */
static bool wait_for_work(MirrorJob *s, MirrorWorker *w)
{
    while (may_pick(s)) {
        int64_t delay = job_ratelimit_delay(s->job);
        int64_t now = g_get_monotonic_time();
        int64_t until = s->gather ? s->gather_until_us : 0;
        bool none;

        if (!s->drained) {
            until = MAX(until, s->pick_us);
        }
        if (delay > 0 && !s->drained) {
            until = MAX(until, now + delay);
        }
        if (until > now) {
            mirror_leave_source(s, w);
            cond_wait_until(&s->picker, &s->lock, until);
            continue;
        }
        if (!enter_source(s, w)) {
            continue;
        }
        if (find_work(s, w, &none)) {
            return true;
        }
        mirror_leave_source(s, w);
        if (none) {
            cond_wait(&s->picker, &s->lock);
        }
    }
    mirror_leave_source(s, w);
    return false;
}

void mirror_source_marked(void *opaque)
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

bool mirror_pick(MirrorJob *s, MirrorWorker *w)
{
    MirrorOp *op = &w->op;

    if (!wait_for_work(s, w)) {
        return false;
    }
    op->zero = false;
    op->paced = 0;
    op->past_gate = s->drained || w->inside;
    if (s->in_flight++ == 0) {
        job_set_busy(s->job, true);
    }
    claim(s, op->offset, op->bytes);
    s->cursor = op->offset;
    classify(s, w);
    /* Unless somebody has given back what is before it. */
    if (s->cursor == op->offset) {
        s->cursor = op->offset + op->bytes;
    }
    return true;
}
