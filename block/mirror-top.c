/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The node that stands between a mirrored disk and its users. It passes
 * everything on; what it is good for is that its users can be moved to the
 * target in one step, and that they are not the job itself, which stays below.
 */
#include "block/mirror-int.h"

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
    return bdrv_pwritev(bs->file->bs, offset, bytes, iov, niov, flags);
}

static int mirror_top_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, int flags)
{
    return bdrv_pwrite_zeroes(bs->file->bs, offset, bytes, flags);
}

static int mirror_top_pdiscard(BlockDriverState *bs, int64_t offset,
                               int64_t bytes)
{
    return bdrv_pdiscard(bs->file->bs, offset, bytes);
}

const BlockDriver bdrv_mirror_top = {
    .format_name = "mirror_top",
    .kind = BLOCK_DRIVER_FILTER,
    .supported_write_flags = BDRV_REQ_FUA,
    .supported_zero_flags = BDRV_REQ_FUA,
    .preadv = mirror_top_preadv,
    .pwritev = mirror_top_pwritev,
    .pwrite_zeroes = mirror_top_pwrite_zeroes,
    .pdiscard = mirror_top_pdiscard,
};
