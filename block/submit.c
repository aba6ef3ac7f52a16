/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests in two halves. They are those of block-backend.c and io.c, where these
 * need not do anything but pass them on: to a disk itself, or to one below "raw"
 * without a window, aligned, within the disk, not longer than the driver takes.
 *
 * Who has begun some holds their gate and their ranges, and must not wait for anybody
 * before they have ended: so where the plain way would wait, here it is not now.
 * Without waits nobody asks whose request it is that this thread is in, so it is in
 * none (bdrv_request_cancel()).
 */
#include "block/submit.h"

#include "block/block-stats.h"
#include "block/graph-int.h"

/* The nodes that a request to @bs goes through; false: it cannot be submitted. */
static bool find_nodes(BlkSubmit *s, BlockDriverState *bs)
{
    s->n_nodes = 0;
    while (s->n_nodes < BLK_SUBMIT_NODES) {
        s->nodes[s->n_nodes++] = bs;
        if (bs->drv->submit_begin) {
            return true;
        }
        if (!bs->drv->passes_on || !bs->drv->passes_on(bs)) {
            return false;
        }
        bs = bs->file->bs;
    }
    return false;
}

static RequestKind kind_of(const BlkSubmit *s)
{
    return s->is_write ? REQ_WRITE : REQ_READ;
}

/* The last @n of the nodes' frames of a write, in io.c's order; upwards */
static void end_frames(BlkSubmit *s, int n, bool touched)
{
    while (n-- > 0) {
        bdrv_write_end(s->nodes[n], &s->holds[n], s->offset, s->iov.iov_len,
                       touched);
    }
}

static bool begin_frames(BlkSubmit *s)
{
    int i;

    for (i = 0; i < s->n_nodes; i++) {
        if (!bdrv_try_write_begin(s->nodes[i], &s->holds[i], s->offset,
                                  &s->iov)) {
            end_frames(s, i, false);
            return false;
        }
    }
    return true;
}

static BlkSubmitted begin_read(BlkSubmit *s)
{
    BlockDriverState *bs = s->nodes[s->n_nodes - 1];
    int i;

    for (i = 0; i < s->n_nodes; i++) {
        if (!bdrv_fits_driver(s->nodes[i], s->offset, &s->iov)) {
            return BLK_SUBMIT_NOT;
        }
    }
    return bs->drv->submit_begin(bs, s);
}

static BlkSubmitted begin_write(BlkSubmit *s)
{
    BlockDriverState *bs = s->nodes[s->n_nodes - 1];
    BlkSubmitted begun = BLK_SUBMIT_NOT;

    if (begin_frames(s)) {
        begun = bs->drv->submit_begin(bs, s);
        if (begun == BLK_SUBMIT_NOT) {
            end_frames(s, s->n_nodes, false);
        }
    }
    return begun;
}

bool blk_may_submit(BlockBackend *blk)
{
    BlockDriverState *bs = blk_try_enter(blk, REQ_READ, 0, 0);
    BlkSubmit s;
    bool may;

    if (!bs) {
        return false;
    }
    may = find_nodes(&s, bs) &&
          s.nodes[s.n_nodes - 1]->drv->may_submit(s.nodes[s.n_nodes - 1]);
    blk_leave_entered(blk);
    return may;
}

BlkSubmitted blk_submit_begin(BlkSubmit *s, BlockBackend *blk, bool is_write,
                              int64_t offset, void *buf, int64_t bytes)
{
    BlkSubmitted begun = BLK_SUBMIT_NOT;
    BlockDriverState *bs;

    s->is_write = is_write;
    s->offset = offset;
    s->iov = (struct iovec){ buf, bytes };
    s->blk = blk;
    s->start_ns = blk_note_use(blk);
    if (bytes <= 0 || bytes > BLK_SUBMIT_MAX) {
        return BLK_SUBMIT_NOT;
    }
    bs = blk_try_enter(blk, kind_of(s), offset, bytes);
    if (!bs) {
        return BLK_SUBMIT_NOT;
    }
    if (find_nodes(s, bs)) {
        begun = is_write ? begin_write(s) : begin_read(s);
    }
    if (begun == BLK_SUBMIT_ZERO) {
        blk_account(blk, REQ_READ, offset, bytes, s->start_ns, 0);
    }
    if (begun != BLK_SUBMIT_BEGUN) {
        blk_leave_entered(blk);
    }
    return begun;
}

int blk_submit_end(BlkSubmit *s, ssize_t result)
{
    BlockDriverState *bs = s->nodes[s->n_nodes - 1];
    int ret = bs->drv->submit_end(bs, s, result);

    if (s->is_write) {
        end_frames(s, s->n_nodes, true);
    }
    blk_account(s->blk, kind_of(s), s->offset, s->iov.iov_len, s->start_ns,
                ret);
    blk_leave_entered(s->blk);
    return ret;
}
