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

/* Zero-writes are this long at most: a target that cannot do them fast gets
 * that many bytes in one go. */
#define MAX_ZERO_BYTES (INT64_C(256) << 20)
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

    if (op->drained) {
        return bdrv_block_status(s->source_bs, BDRV_WANT_ZERO, offset,
                                 MIN(bytes, BDRV_REQUEST_MAX_BYTES), pnum, &map,
                                 &file);
    }
    return blk_block_status(s->source, offset, bytes, BDRV_WANT_ZERO, pnum);
}

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
    if (next_dirty_in(s, s->cursor, s->length, max, offset, bytes)) {
        return true;
    }
    if (!next_dirty_in(s, 0, s->cursor, max, offset, bytes)) {
        return false;
    }
    if (++s->rounds == MIRROR_MANY_ROUNDS) {
        job_kick(s->job);
    }
    return true;
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

/* Rule 3 */
void mirror_unclaim(MirrorJob *s, MirrorOp *op, int64_t keep)
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
            mirror_unclaim(s, op, end - op->offset + zero);
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
    mirror_unclaim(s, op, pos - op->offset);
    if (op->zero && pos == end) {
        extend_zero(s, op);
    }
    if (!op->zero) {
        int64_t first = op->offset / s->granularity;
        int64_t last = mirror_granules(s, op->offset + op->bytes);

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

        if (!s->drained) {
            until = MAX(until, s->pick_us);
        }
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
