/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mirroring with copy-mode=write-blocking: what guests write goes to the source
 * and to the target before they are told that it is done. So nothing becomes
 * dirty by it, and once the workers have copied what was dirty at first, both
 * disks are the same whenever no guest's write is in flight.
 *
 * Each such write holds its bytes in s->ranges over both steps: against writes
 * that overlap it, or the two disks could see them in different orders, and
 * against the workers (rule 1 in mirror-copy.c). Two that only meet in a granule
 * do not wait for each other. For dirty bits this means:
 *  5. What a write covers is cleared before it goes to the source (rule 2), and
 *     the write does not mark it by itself. Whoever writes to the source past
 *     the filter does, so what came in between is copied again.
 *  6. What has not got to both disks in the end is marked before the range is
 *     given up. A granule that is covered in part stays as it is: dirty if
 *     it was.
 *
 * Guests wait for workers here, so workers never wait for guests, nor for a gate
 * that may be closed until guests are out of theirs, while they hold a range:
 * mirror-pick.c sees to that.
 *
 * Before the job copies and after it was cancelled or has failed writes go to
 * the source only, and mark what they write as in any mirror. Their hold makes
 * sure that the workers, who begin when all new writes go to both, wait for what
 * began before.
 *
 * A write that fails on the target is none of the guest's business. It is the
 * job's, by its policy; as long as that lets it go on it goes on here, too.
 */
#include <stdlib.h>

#include "block/mirror-int.h"

/* Of a discard no more is written to the target while the guest waits. */
#define MAX_WRITTEN_DISCARD (INT64_C(1) << 20)

typedef struct ActiveWrite {
    MirrorJob *s;
    int64_t offset, bytes;
    int64_t cleared; /* bytes, which are in flight meanwhile */
    RangeHold hold;
    BdrvDirtySkip skip;
} ActiveWrite;

bool mirror_is_active(MirrorJob *s)
{
    return g_atomic_int_get(&s->active) && !job_is_cancelled(s->job);
}

/* ---- the frame ---------------------------------------------------------- */

static int take(ActiveWrite *w, MirrorJob *s, int64_t offset, int64_t bytes)
{
    *w = (ActiveWrite){ .s = s, .offset = offset, .bytes = bytes };
    return range_lock_acquire(s->ranges, &w->hold, offset, bytes, true,
                              bdrv_request_cancel());
}

/* Rule 5 */
static void clear_dirty(ActiveWrite *w)
{
    MirrorJob *s = w->s;

    /* Both at once: it must not look as if nothing was left. */
    MUTEX_GUARD(&s->lock);
    w->cleared = bdrv_reset_dirty_bitmap(s->dirty, w->offset, w->bytes);
    s->in_flight_bytes += w->cleared;
}

/* Rule 6 */
static void mark(MirrorJob *s, int64_t offset, int64_t bytes)
{
    if (bytes > 0) {
        bdrv_set_dirty_bitmap(s->dirty, offset, bytes);
        mirror_source_marked(s);
    }
}

static void give_up(ActiveWrite *w, bool copied)
{
    MirrorJob *s = w->s;

    if (w->cleared > 0) {
        MUTEX_GUARD(&s->lock);
        mirror_settle(s, w->cleared, copied ? w->cleared : 0);
    }
    range_lock_release(s->ranges, &w->hold);
    if (g_atomic_int_get(&s->blocked)) {
        MUTEX_GUARD(&s->lock);
        cond_signal(&s->picker);
    }
}

/* All of the range has got to the target: granules that failed are mended. */
static void succeeded(MirrorJob *s, int64_t offset, int64_t bytes)
{
    int64_t rest = offset % s->granularity;
    MirrorOp op = { .offset = offset, .bytes = bytes };

    if (rest > 0) {
        op.offset += MIN(s->granularity - rest, bytes);
    }
    op.bytes -= op.offset - offset;
    if (offset + bytes < s->length) {
        op.bytes -= (offset + bytes) % s->granularity;
    }
    if (op.bytes > 0) {
        mirror_op_succeeded(s, &op);
    }
}

/* @ret: what the target said. True: it is there. */
static bool target_done(MirrorJob *s, int64_t offset, int64_t bytes, int ret)
{
    MUTEX_GUARD(&s->lock);

    if (ret < 0) {
        MirrorOp op = { .offset = offset, .bytes = bytes };
        int64_t pick_us = s->pick_us;

        mirror_op_failed(s, &op, false, ret);
        /* Guests fail as often as they like, which must not keep the workers
         * from what there is to copy. */
        s->pick_us = pick_us;
        job_kick(s->job);
        cond_broadcast(&s->quiet);
        cond_signal(&s->picker);
    } else {
        succeeded(s, offset, bytes);
    }
    return ret == 0;
}

/* ---- the target --------------------------------------------------------- */

/* Rule 4. -ENOTSUP if @flags has NO_FALLBACK: nothing has happened. */
static int zero_target(MirrorJob *s, int64_t offset, int64_t bytes, int flags)
{
    uint64_t first = offset / s->granularity;
    uint64_t end = mirror_granules(s, offset + bytes);
    int ret;

    if (flags & BDRV_REQ_MAY_UNMAP) {
        MUTEX_GUARD(&s->lock);
        if (sparse_bitmap_next_clear(s->target_zero.bits, first, end) == end) {
            return 0;
        }
    }
    ret = blk_pwrite_zeroes(s->target, offset, bytes, flags);
    if (ret == 0) {
        MUTEX_GUARD(&s->lock);
        target_zero_set(&s->target_zero, offset, bytes);
    }
    return ret;
}

static int write_target(MirrorJob *s, int64_t offset, int64_t bytes,
                        const struct iovec *iov, int niov, int flags)
{
    mutex_lock(&s->lock);
    target_zero_clear(&s->target_zero, offset, bytes);
    mutex_unlock(&s->lock);
    return blk_pwritev(s->target, offset, bytes, iov, niov, flags);
}

/* ---- writes and zero-writes --------------------------------------------- */

/* NULL @iov: zeroes */
static int write_source(MirrorJob *s, int64_t offset, int64_t bytes,
                        const struct iovec *iov, int niov, int flags)
{
    if (iov) {
        return bdrv_pwritev(s->source_bs, offset, bytes, iov, niov, flags);
    }
    return bdrv_pwrite_zeroes(s->source_bs, offset, bytes, flags);
}

static int write_both(MirrorJob *s, int64_t offset, int64_t bytes,
                      const struct iovec *iov, int niov, int flags)
{
    bool copied = false;
    ActiveWrite w;
    int ret;

    ret = take(&w, s, offset, bytes);
    if (ret < 0) {
        return ret;
    }
    if (!mirror_is_active(s)) {
        ret = write_source(s, offset, bytes, iov, niov, flags);
        give_up(&w, false);
        return ret;
    }
    clear_dirty(&w);
    bdrv_dirty_skip_begin(&w.skip, s->dirty);
    ret = write_source(s, offset, bytes, iov, niov, flags);
    bdrv_dirty_skip_end(&w.skip);
    if (ret == 0 && mirror_is_active(s)) {
        /* Who wants fast zeroes or none wants to know of the source only. */
        int r =
            iov ? write_target(s, offset, bytes, iov, niov, flags)
                : zero_target(s, offset, bytes, flags & ~BDRV_REQ_NO_FALLBACK);

        copied = target_done(s, offset, bytes, r);
    }
    /* Where nothing has happened nothing becomes dirty. */
    if (!copied && (ret != -ENOTSUP || w.cleared > 0)) {
        mark(s, offset, bytes);
    }
    give_up(&w, copied);
    return ret;
}

int mirror_active_pwritev(MirrorJob *s, int64_t offset, int64_t bytes,
                          const struct iovec *iov, int niov, int flags)
{
    return write_both(s, offset, bytes, iov, niov, flags);
}

int mirror_active_pwrite_zeroes(MirrorJob *s, int64_t offset, int64_t bytes,
                                int flags)
{
    return write_both(s, offset, bytes, NULL, 0, flags);
}

/* ---- discards ----------------------------------------------------------- */

/* -ENOTSUP: the target has not got it; other errors are the target's. */
static int copy_little(MirrorJob *s, int64_t offset, int64_t bytes)
{
    size_t align =
        MAX(blk_mem_alignment(s->source), blk_mem_alignment(s->target));
    struct iovec iov = { .iov_len = bytes };
    int ret = -ENOTSUP;

    if (bytes > MAX_WRITTEN_DISCARD ||
        posix_memalign(&iov.iov_base, MAX(align, 4096), bytes) != 0) {
        return -ENOTSUP;
    }
    if (bdrv_preadv(s->source_bs, offset, bytes, &iov, 1, 0) == 0) {
        ret = write_target(s, offset, bytes, &iov, 1, 0);
    }
    free(iov.iov_base);
    return ret;
}

/*
 * What the source's discard has done to [@pos, @end) is up to its driver. The
 * target gets zeroes where there are zeroes now, and a copy where there may be
 * something else. What is too much, and what the target cannot zero fast, is
 * left to the workers.
 */
static void copy_discarded(MirrorJob *s, int64_t pos, int64_t end)
{
    while (pos < end) {
        int64_t pnum = 0, map;
        BlockDriverState *file;
        int ret =
            bdrv_block_status_above(s->source_bs, NULL, BDRV_WANT_ZERO, pos,
                                    end - pos, &pnum, &map, &file, NULL);
        bool zero = ret >= 0 && (ret & BDRV_BLOCK_ZERO);
        int64_t n = ret < 0 || pnum <= 0 ? end - pos : MIN(pnum, end - pos);
        int flags = BDRV_REQ_MAY_UNMAP;

        if (n > MAX_WRITTEN_DISCARD) {
            flags |= BDRV_REQ_NO_FALLBACK;
        }
        ret = -ENOTSUP;
        if (mirror_is_active(s)) {
            ret = zero ? zero_target(s, pos, n, flags) : copy_little(s, pos, n);
        }
        if (ret < 0) {
            mark(s, pos, n);
        }
        if (ret != -ENOTSUP) {
            target_done(s, pos, n, ret);
        }
        pos += n;
    }
}

int mirror_active_pdiscard(MirrorJob *s, int64_t offset, int64_t bytes)
{
    ActiveWrite w;
    int ret;

    ret = take(&w, s, offset, bytes);
    if (ret < 0) {
        return ret;
    }
    bdrv_dirty_skip_begin(&w.skip, s->dirty);
    ret = bdrv_pdiscard(s->source_bs, offset, bytes);
    bdrv_dirty_skip_end(&w.skip);
    if (ret < 0) {
        mark(s, w.skip.start, w.skip.end - w.skip.start);
    } else {
        copy_discarded(s, w.skip.start, w.skip.end);
    }
    give_up(&w, ret == 0);
    return ret;
}
