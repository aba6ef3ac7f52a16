/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The node that stands between a mirrored disk and its users. It passes
 * everything on, or to both disks (mirror-active.c). Its users can be moved to
 * the target in one step, and they are not the job itself, which stays below.
 */
#include "block/mirror-int.h"

/* The job, if it wants to see this write; or NULL */
static MirrorJob *blocking_job(BlockDriverState *bs, int64_t bytes)
{
    MirrorTop *top = bs->opaque;

    return bytes > 0 && top->job->write_blocking ? top->job : NULL;
}

static int mirror_top_preadv(BlockDriverState *bs, int64_t offset,
                             int64_t bytes, const struct iovec *iov, int niov,
                             int flags)
{
    return bdrv_preadv(bs->file->bs, offset, bytes, iov, niov, flags);
}

static int mirror_top_pwritev(BlockDriverState *bs, int64_t offset,
                              int64_t bytes, const struct iovec *iov, int niov,
                              int flags)
{
    MirrorJob *s = blocking_job(bs, bytes);

    if (s) {
        return mirror_active_pwritev(s, offset, bytes, iov, niov, flags);
    }
    return bdrv_pwritev(bs->file->bs, offset, bytes, iov, niov, flags);
}

static int mirror_top_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, int flags)
{
    MirrorJob *s = blocking_job(bs, bytes);

    if (s) {
        return mirror_active_pwrite_zeroes(s, offset, bytes, flags);
    }
    return bdrv_pwrite_zeroes(bs->file->bs, offset, bytes, flags);
}

static int mirror_top_pdiscard(BlockDriverState *bs, int64_t offset,
                               int64_t bytes)
{
    MirrorJob *s = blocking_job(bs, bytes);

    if (s) {
        return mirror_active_pdiscard(s, offset, bytes);
    }
    return bdrv_pdiscard(bs->file->bs, offset, bytes);
}

/*
 * While a commit writes to the base, what is read at the nodes between changes,
 * but not what is read here. So the nodes below need not read consistently for
 * those above, nor be left alone.
 */
static void mirror_top_child_perm(BlockDriverState *bs, BdrvChild *child,
                                  uint64_t perm, uint64_t shared,
                                  uint64_t *nperm, uint64_t *nshared)
{
    MirrorTop *top = bs->opaque;

    *nperm = perm;
    *nshared = shared;
    if (top->job->commits) {
        *nperm &= ~BLK_PERM_CONSISTENT_READ;
        *nshared |= BLK_PERM_WRITE;
    }
}

const BlockDriver bdrv_mirror_top = {
    .format_name = "mirror_top",
    .kind = BLOCK_DRIVER_FILTER,
    .instance_size = sizeof(MirrorTop),
    .supported_write_flags = BDRV_REQ_FUA,
    .supported_zero_flags = BDRV_REQ_FUA,
    .preadv = mirror_top_preadv,
    .pwritev = mirror_top_pwritev,
    .pwrite_zeroes = mirror_top_pwrite_zeroes,
    .pdiscard = mirror_top_pdiscard,
    .child_perm = mirror_top_child_perm,
};
