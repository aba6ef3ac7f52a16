/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * snapshot-access: what a disk was when the filter copy-before-write, which this
 * stands on, was put on it. It can be read, asked about, and discarded, which says
 * that it need not be kept any longer; not written to.
 */
#include <errno.h>

#include "block/copy-before-write.h"
#include "util/error.h"

typedef struct SnapshotAccess {
    int64_t length;
} SnapshotAccess;

static int access_open(BlockDriverState *bs, JsonObject *options, GError **errp)
{
    SnapshotAccess *s = bs->opaque;
    BlockDriverState *cbw;

    if (!bdrv_open_child(bs, options, "file", errp)) {
        return -EINVAL;
    }
    cbw = cbw_find_snapshot(bs->file->bs);
    if (!cbw) {
        error_setg(errp,
                   "Node '%s' keeps no snapshot: a node of driver "
                   "'copy-before-write' does",
                   bs->file->bs->node_name);
        return -EINVAL;
    }
    s->length = cbw_snapshot_length(cbw);
    return 0;
}

static int64_t access_getlength(BlockDriverState *bs)
{
    const SnapshotAccess *s = bs->opaque;

    return s->length;
}

static int access_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                         const struct iovec *iov, int niov, int flags)
{
    BlockDriverState *cbw = cbw_find_snapshot(bs->file->bs);

    return cbw ? cbw_snapshot_preadv(cbw, offset, bytes, iov, niov) : -ENOTSUP;
}

static int access_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                          const struct iovec *iov, int niov, int flags)
{
    return -ENOTSUP;
}

static int access_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    BlockDriverState *cbw = cbw_find_snapshot(bs->file->bs);

    return cbw ? cbw_snapshot_discard(cbw, offset, bytes) : -ENOTSUP;
}

static int access_block_status(BlockDriverState *bs, unsigned want,
                               int64_t offset, int64_t bytes, int64_t *pnum,
                               int64_t *map, BlockDriverState **file)
{
    BlockDriverState *cbw = cbw_find_snapshot(bs->file->bs);
    int ret;

    if (!cbw) {
        return -ENOTSUP;
    }
    ret = cbw_snapshot_status(cbw, want, offset, bytes, pnum);
    *map = offset;
    *file = bs;
    if (ret < 0) {
        return ret;
    }
    ret &= BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO | BDRV_BLOCK_PROBED;
    return ret & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO) ? ret
                                                     : ret | BDRV_BLOCK_DATA;
}

/* What it needs it has of the filter, which is asked for nothing else. */
static void access_child_perm(BlockDriverState *bs, BdrvChild *child,
                              uint64_t perm, uint64_t shared, uint64_t *nperm,
                              uint64_t *nshared)
{
    *nperm = perm & BLK_PERM_CONSISTENT_READ;
    *nshared = BLK_PERM_ALL;
}

static const SchemaType access_options = {
    .name = "BlockdevOptionsSnapshotAccess",
    .kind = SCHEMA_OBJECT,
    .doc =
        "What a disk was when a node of driver \"copy-before-write\" was put "
        "on it. Discards say that a part need not be kept any longer; writes "
        "fail.",
    .members =
        (const SchemaMember[]){
            { "file", &blockdev_ref_type,
              .doc = "The node of driver \"copy-before-write\"." },
            { NULL },
        },
};

const BlockDriver bdrv_snapshot_access = {
    .format_name = "snapshot-access",
    .kind = BLOCK_DRIVER_FORMAT,
    .instance_size = sizeof(SnapshotAccess),
    .options = &access_options,
    .open = access_open,
    .preadv = access_preadv,
    .pwritev = access_pwritev,
    .pdiscard = access_pdiscard,
    .getlength = access_getlength,
    .block_status = access_block_status,
    .child_perm = access_child_perm,
};
