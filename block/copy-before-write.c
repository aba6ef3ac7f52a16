/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * copy-before-write: a filter that has what its users overwrite copied first
 * (block-copy.c). Reads and flushes are those of the node below. Users write to
 * that alone, so what is written to the target is none of their business, but for
 * the time it takes: it is flushed by whoever wants the copy.
 */
#include "block/cbw-int.h"
#include "util/error.h"

/* ---- requests ----------------------------------------------------------- */

/* A copy that another thread makes */
typedef struct Copy {
    BlockCopy *bc;
    BlockDriverState *source;
    int64_t offset, bytes;
} Copy;

static int do_copy(void *opaque)
{
    Copy *copy = opaque;
    bool is_read;

    return block_copy(copy->bc, copy->source, copy->offset, copy->bytes,
                      &is_read);
}

/* A target that hangs does not hang who writes: not longer than the timeout. */
static int copy_in_time(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    CopyBeforeWrite *s = bs->opaque;
    Copy *copy;

    if (!block_copy_any_left(s->bc, offset, bytes)) {
        return 0;
    }
    copy = g_new(Copy, 1);
    *copy = (Copy){ s->bc, bs->file->bs, offset, bytes };
    return other_threads_do(s->threads, g_get_monotonic_time() + s->timeout_us,
                            do_copy, copy, g_free);
}

static int copy_first(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    CopyBeforeWrite *s = bs->opaque;
    bool is_read = false;
    int ret = s->threads
                  ? copy_in_time(bs, offset, bytes)
                  : block_copy(s->bc, bs->file->bs, offset, bytes, &is_read);

    /* Cancelled is the write itself. */
    if (ret < 0 && ret != -ECANCELED && s->failed) {
        return s->failed(s->opaque, ret, is_read);
    }
    if (ret < 0 && ret != -ECANCELED && s->break_snapshot) {
        cbw_snapshot_break(s->snapshot);
        block_copy_stop(s->bc);
        ret = 0;
    }
    return ret < 0 || !s->snapshot
               ? ret
               : cbw_snapshot_wait_readers(s->snapshot, offset, bytes);
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
        if (s->snapshot) {
            *nperm |= perm & BLK_PERM_CONSISTENT_READ;
        }
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

static void free_state(CopyBeforeWrite *s)
{
    other_threads_free(s->threads);
    cbw_snapshot_free(s->snapshot);
    block_copy_free(s->bc);
}

static void cbw_close(BlockDriverState *bs)
{
    free_state(bs->opaque);
}

static int cbw_open(BlockDriverState *bs, JsonObject *options, GError **errp)
{
    CopyBeforeWrite *s = bs->opaque;
    int ret = 0;

    if (schema_has(options, "file")) { /* else it is cbw_new() */
        ret = cbw_open_options(bs, s, options, errp);
    }
    if (ret < 0) {
        free_state(s);
    }
    return ret;
}

/* What is copied is known by its length. */
static int cbw_truncate(BlockDriverState *bs, int64_t length, GError **errp)
{
    error_setg(errp, "Node '%s' cannot be resized: it keeps what is below it",
               bs->node_name);
    return -ENOTSUP;
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

const BlockDriver bdrv_copy_before_write = {
    .format_name = "copy-before-write",
    .kind = BLOCK_DRIVER_FILTER,
    .instance_size = sizeof(CopyBeforeWrite),
    .supported_write_flags = BDRV_REQ_FUA,
    .supported_zero_flags = BDRV_REQ_FUA,
    .options = &cbw_options_type,
    .open = cbw_open,
    .close = cbw_close,
    .preadv = cbw_preadv,
    .pwritev = cbw_pwritev,
    .pwrite_zeroes = cbw_pwrite_zeroes,
    .pdiscard = cbw_pdiscard,
    .truncate = cbw_truncate,
    .child_perm = cbw_child_perm,
};
