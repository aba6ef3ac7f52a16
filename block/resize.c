/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Disks are made longer or shorter on demand (block_resize). */
#include <errno.h>
#include <inttypes.h>

#include "block/dirty-bitmap.h"
#include "block/graph-int.h"
#include "util/error.h"

/* A request that hangs shall not hold up the management thread for good. */
int64_t bdrv_resize_drain_us = 10 * G_USEC_PER_SEC;

int bdrv_truncate(BlockDriverState *bs, int64_t length, GError **errp)
{
    if (length > BDRV_MAX_LENGTH) {
        error_setg(errp, "offset(%" PRId64 ") exceeds maximum(%" PRId64 ")",
                   length, BDRV_MAX_LENGTH);
        return -EFBIG;
    }
    if (bdrv_is_read_only(bs)) {
        error_setg(errp, "Image is read-only");
        return -EACCES;
    }
    if (bs->drv->truncate) {
        return bs->drv->truncate(bs, length, errp);
    }
    if (bs->drv->kind == BLOCK_DRIVER_FILTER && bs->file) {
        return bdrv_truncate(bs->file->bs, length, errp);
    }
    error_setg(errp, "Image format driver does not support resize");
    return -ENOTSUP;
}

/* The length of all that stands on @bs may have changed with that of @bs. */
static void resize_bitmaps_above(BlockDriverState *bs)
{
    int64_t length = bdrv_driver_getlength(bs);
    guint i;

    if (length >= 0) {
        bdrv_resize_dirty_bitmaps(bs, length);
    }
    for (i = 0; i < bs->parents->len; i++) {
        const BdrvChild *c = bs->parents->pdata[i];

        if (c->parent) {
            resize_bitmaps_above(c->parent);
        }
    }
}

/* With the permission to do so. What is drained is the node that has the data:
 * all that stands on it sees the new size. */
int bdrv_truncate_drained(BlockDriverState *bs, int64_t length, GError **errp)
{
    int64_t deadline_us = g_get_monotonic_time() + bdrv_resize_drain_us;
    BlockDriverState *bottom = bs;
    int ret;

    while (bottom->file) {
        bottom = bottom->file->bs;
    }
    if (!bdrv_try_drained_begin(bottom, deadline_us)) {
        error_setg(errp, "Node '%s' is busy: a request does not end",
                   bottom->node_name);
        return -EBUSY;
    }
    ret = bdrv_truncate(bs, length, errp);
    if (ret == 0) {
        resize_bitmaps_above(bottom);
    }
    bdrv_drained_end(bottom);
    return ret;
}

int bdrv_resize(BlockDriverState *bs, int64_t length, GError **errp)
{
    BlockBackend *blk;
    int ret = -EPERM;

    g_assert(bdrv_graph_locked());
    if (length < 0) {
        error_setg(errp, "Image size cannot be negative: %" PRId64, length);
        return -EINVAL;
    }
    blk = blk_new("block_resize", false, BLK_PERM_RESIZE, BLK_PERM_ALL);
    if (blk_attach(blk, bs, errp)) {
        ret = bdrv_truncate_drained(bs, length, errp);
    }
    blk_free(blk);
    return ret;
}
