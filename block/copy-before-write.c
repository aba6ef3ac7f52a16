/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * copy-before-write: a filter that has what its users overwrite copied first
 * (block-copy.c). Reads and flushes are those of the node below. Users write to
 * that alone, so what is written to the target is none of their business, but for
 * the time it takes: it is flushed by whoever wants the copy.
 */
#include "block/copy-before-write.h"

#include <inttypes.h>

#include "block/dirty-bitmap.h"
#include "util/error.h"

typedef struct CopyBeforeWrite {
    BlockCopy *bc;
    BdrvChild *target;
    CbwFailed *failed; /* or NULL: writes fail with what the copy fails with */
    void *opaque;
} CopyBeforeWrite;

/* ---- requests ----------------------------------------------------------- */

static int copy_first(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    CopyBeforeWrite *s = bs->opaque;
    bool is_read;
    int ret = block_copy(s->bc, bs->file->bs, offset, bytes, &is_read);

    /* Cancelled is the write itself. */
    if (ret < 0 && ret != -ECANCELED && s->failed) {
        ret = s->failed(s->opaque, ret, is_read);
    }
    return ret;
}

static int cbw_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      const struct iovec *iov, int niov, int flags)
{
    return bdrv_preadv(bs->file->bs, offset, bytes, iov, niov, flags);
}

static int cbw_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       const struct iovec *iov, int niov, int flags)
{
    int ret = copy_first(bs, offset, bytes);

    return ret < 0
               ? ret
               : bdrv_pwritev(bs->file->bs, offset, bytes, iov, niov, flags);
}

static int cbw_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                             int64_t bytes, int flags)
{
    int ret = copy_first(bs, offset, bytes);

    return ret < 0 ? ret
                   : bdrv_pwrite_zeroes(bs->file->bs, offset, bytes, flags);
}

static int cbw_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    int ret = copy_first(bs, offset, bytes);

    return ret < 0 ? ret : bdrv_pdiscard(bs->file->bs, offset, bytes);
}

/* ---- permissions -------------------------------------------------------- */

/*
 * The target may be written to by others, too: it may stand on the very disk whose
 * users write here. What is below must change by way of this node only, as soon as
 * it has users.
 */
static void cbw_child_perm(BlockDriverState *bs, BdrvChild *child,
                           uint64_t perm, uint64_t shared, uint64_t *nperm,
                           uint64_t *nshared)
{
    const CopyBeforeWrite *s = bs->opaque;

    if (child != bs->file) {
        g_assert(!s->target || child == s->target);
        *nperm = BLK_PERM_WRITE;
        *nshared = BLK_PERM_ALL & ~BLK_PERM_RESIZE;
        return;
    }
    *nperm = perm;
    *nshared = shared;
    if (perm & BLK_PERM_WRITE) {
        *nperm |= BLK_PERM_CONSISTENT_READ;
    }
    if (bs->parents->len > 0) {
        *nshared &= ~(uint64_t)(BLK_PERM_WRITE | BLK_PERM_RESIZE);
    }
}

/* ---- open and close ----------------------------------------------------- */

/* The moment is now: whoever uses the node gets what it holds from now on. */
static int open_copy(BlockDriverState *bs, GError **errp)
{
    CopyBeforeWrite *s = bs->opaque;
    BlockCopyOptions options = { .target = s->target->bs };
    int64_t target_length = bdrv_getlength(s->target->bs);

    options.length = bdrv_getlength(bs->file->bs);
    if (options.length < 0 || target_length < 0) {
        error_setg_errno(errp, -MIN(options.length, target_length),
                         "Could not get the length of the child '%s'",
                         options.length < 0 ? "file" : "target");
        return -EINVAL;
    }
    if (target_length < options.length) {
        error_setg(errp,
                   "Target node '%s' is too short: %" PRId64
                   " bytes, node '%s' has %" PRId64,
                   bdrv_node_name(s->target->bs), target_length,
                   bdrv_node_name(bs->file->bs), options.length);
        return -EINVAL;
    }
    s->bc = block_copy_new(&options, errp);
    if (!s->bc) {
        return -EINVAL;
    }
    block_copy_add(s->bc, 0, options.length);
    return 0;
}

static int cbw_open(BlockDriverState *bs, JsonObject *options, GError **errp)
{
    CopyBeforeWrite *s = bs->opaque;

    if (!schema_has(options, "file")) {
        return 0; /* cbw_new() */
    }
    if (!bdrv_open_child(bs, options, "file", errp)) {
        return -EINVAL;
    }
    s->target = bdrv_open_child(bs, options, "target", errp);
    return s->target ? open_copy(bs, errp) : -EINVAL;
}

static void cbw_close(BlockDriverState *bs)
{
    CopyBeforeWrite *s = bs->opaque;

    block_copy_free(s->bc);
}

BlockDriverState *cbw_new(const char *node_name, BlockDriverState *target,
                          const BlockCopyOptions *options, CbwFailed *failed,
                          GError **errp)
{
    BlockDriverState *bs =
        bdrv_new_internal(&bdrv_copy_before_write, node_name, errp);
    BlockCopyOptions with = *options;
    CopyBeforeWrite *s;

    if (!bs) {
        g_prefix_error(errp, "Could not create node: ");
        return NULL;
    }
    s = bs->opaque;
    s->failed = failed;
    s->opaque = options->opaque;
    with.target = target;
    s->bc = block_copy_new(&with, errp);
    if (s->bc) {
        s->target = bdrv_attach_child(bs, target, "target", errp);
    }
    if (!s->target) {
        bdrv_unref(bs);
        return NULL;
    }
    return bs;
}

BlockCopy *cbw_block_copy(BlockDriverState *filter)
{
    const CopyBeforeWrite *s = filter->opaque;

    return s->bc;
}

void cbw_drop_target(BlockDriverState *filter)
{
    CopyBeforeWrite *s = filter->opaque;

    if (s->target) {
        bdrv_detach_child(s->target);
        s->target = NULL;
    }
}

static const SchemaType cbw_options = {
    .name = "BlockdevOptionsCbw",
    .kind = SCHEMA_OBJECT,
    .doc = "The contents of another node, of which what is about to be "
           "overwritten is copied to a third one first. So that gets to hold "
           "what the other one held when this node was made: all of it, if it "
           "has that as its backing file.",
    .members =
        (const SchemaMember[]){
            { "file", &blockdev_ref_type, .doc = "The node below." },
            { "target", &blockdev_ref_type,
              .doc = "The node to copy to, at least as long." },
            { NULL },
        },
};

const BlockDriver bdrv_copy_before_write = {
    .format_name = "copy-before-write",
    .kind = BLOCK_DRIVER_FILTER,
    .instance_size = sizeof(CopyBeforeWrite),
    .supported_write_flags = BDRV_REQ_FUA,
    .supported_zero_flags = BDRV_REQ_FUA,
    .options = &cbw_options,
    .open = cbw_open,
    .close = cbw_close,
    .preadv = cbw_preadv,
    .pwritev = cbw_pwritev,
    .pwrite_zeroes = cbw_pwrite_zeroes,
    .pdiscard = cbw_pdiscard,
    .child_perm = cbw_child_perm,
};
