/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * raw: the contents of another node as they are, or a window of it.
 */
#include "block/block-int.h"
#include "util/error.h"

typedef struct RawState {
    int64_t offset; /* where the window begins in the child */
    int64_t size;   /* of the window; only if has_size */
    bool has_size;
} RawState;

/* The window that @options tell; it must lie within @file. */
static int set_window(RawState *s, JsonObject *options, BlockDriverState *file,
                      GError **errp)
{
    int64_t length = bdrv_getlength(file);

    s->offset = schema_get_int(options, "offset", 0);
    s->size = schema_get_int(options, "size", 0);
    s->has_size = schema_has(options, "size");
    if (length < 0) {
        error_setg_errno(errp, -length, "Could not get the size of node '%s'",
                         file->node_name);
        return length;
    }
    if (s->offset > length) {
        error_setg(errp,
                   "Offset (%" G_GINT64_FORMAT ") cannot be greater than size "
                   "of the containing file (%" G_GINT64_FORMAT ")",
                   s->offset, length);
        return -EINVAL;
    }
    if (s->has_size && s->size > length - s->offset) {
        error_setg(errp,
                   "The sum of offset (%" G_GINT64_FORMAT
                   ") and size (%" G_GINT64_FORMAT
                   ") has to be smaller or equal to the actual "
                   "size of the containing file (%" G_GINT64_FORMAT ")",
                   s->offset, s->size, length);
        return -EINVAL;
    }
    return 0;
}

static int raw_open(BlockDriverState *bs, JsonObject *options, GError **errp)
{
    if (!bdrv_open_child(bs, options, "file", errp)) {
        return -EINVAL;
    }
    return set_window(bs->opaque, options, bs->file->bs, errp);
}

/* Another child may have another length, too: reopen.c has asked for it. */
static int raw_reopen_prepare(BdrvReopen *r, GError **errp)
{
    const RawState *s = r->bs->opaque;
    RawState *new = g_new0(RawState, 1);
    int ret = set_window(new, r->options, r->file, errp);

    if (ret == 0 && (new->offset != s->offset || new->has_size != s->has_size ||
                     new->size != s->size)) {
        ret = bdrv_reopen_check_contents(r->bs, "window", errp);
    }
    if (ret < 0) {
        g_free(new);
        return ret;
    }
    r->opaque = new;
    return 0;
}

static void raw_reopen_commit(BdrvReopen *r)
{
    RawState *s = r->bs->opaque;

    bdrv_change_begin();
    *s = *(RawState *)r->opaque;
    bdrv_change_end();
    g_free(r->opaque);
}

static void raw_reopen_abort(BdrvReopen *r)
{
    g_free(r->opaque);
}

static const char *const raw_reopen_options[] = { "offset", "size", NULL };

static int64_t raw_getlength(BlockDriverState *bs)
{
    RawState *s = bs->opaque;
    int64_t length;

    if (s->has_size) {
        return s->size;
    }
    length = bdrv_child_getlength(bs->file);
    return length < 0 ? length : MAX(length - s->offset, 0);
}

static int raw_truncate(BlockDriverState *bs, int64_t length, GError **errp)
{
    RawState *s = bs->opaque;

    if (s->has_size) {
        error_setg(errp, "Cannot resize fixed-size raw disks");
        return -ENOTSUP;
    }
    if (length > INT64_MAX - s->offset) {
        error_setg(errp, "Disk size too large for the chosen offset");
        return -EINVAL;
    }
    return bdrv_truncate(bs->file->bs, s->offset + length, errp);
}

/* Requests from other nodes may reach beyond the window: not from here on. */
static bool in_window(RawState *s, int64_t offset, int64_t bytes)
{
    return !s->has_size || (offset <= s->size && bytes <= s->size - offset);
}

static bool raw_passes_on(BlockDriverState *bs)
{
    const RawState *s = bs->opaque;

    return !s->has_size && s->offset == 0;
}

static int raw_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      const struct iovec *iov, int niov, int flags)
{
    RawState *s = bs->opaque;

    if (!in_window(s, offset, bytes)) {
        return -EINVAL;
    }
    return bdrv_preadv(bs->file->bs, s->offset + offset, bytes, iov, niov,
                       flags);
}

static int raw_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       const struct iovec *iov, int niov, int flags)
{
    RawState *s = bs->opaque;

    if (!in_window(s, offset, bytes)) {
        return -ENOSPC;
    }
    return bdrv_pwritev(bs->file->bs, s->offset + offset, bytes, iov, niov,
                        flags);
}

static int raw_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                             int64_t bytes, int flags)
{
    RawState *s = bs->opaque;

    if (!in_window(s, offset, bytes)) {
        return -ENOSPC;
    }
    return bdrv_pwrite_zeroes(bs->file->bs, s->offset + offset, bytes, flags);
}

static int raw_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    RawState *s = bs->opaque;

    if (!in_window(s, offset, bytes)) {
        return -ENOSPC;
    }
    return bdrv_pdiscard(bs->file->bs, s->offset + offset, bytes);
}

static int raw_block_status(BlockDriverState *bs, unsigned want, int64_t offset,
                            int64_t bytes, int64_t *pnum, int64_t *map,
                            BlockDriverState **file)
{
    RawState *s = bs->opaque;

    *pnum = bytes;
    *map = s->offset + offset;
    *file = bs->file->bs;
    return BDRV_BLOCK_RAW | BDRV_BLOCK_OFFSET_VALID;
}

static const SchemaType raw_options = {
    .name = "BlockdevOptionsRaw",
    .kind = SCHEMA_OBJECT,
    .doc = "The contents of another node, or a window of it.",
    .members =
        (const SchemaMember[]){
            { "file", &blockdev_ref_type, .doc = "The node below." },
            { "offset", &schema_size, .optional = true,
              .doc = "Where the window begins, in bytes. Default: 0." },
            { "size", &schema_size, .optional = true,
              .doc = "The window's size in bytes. Default: all that follows." },
            { NULL },
        },
};

const BlockDriver bdrv_raw = {
    .format_name = "raw",
    .kind = BLOCK_DRIVER_FORMAT,
    .instance_size = sizeof(RawState),
    .transparent = true,
    .supported_write_flags = BDRV_REQ_FUA,
    .supported_zero_flags = BDRV_REQ_FUA,
    .options = &raw_options,
    .open = raw_open,
    .reopen_options = raw_reopen_options,
    .reopen_prepare = raw_reopen_prepare,
    .reopen_commit = raw_reopen_commit,
    .reopen_abort = raw_reopen_abort,
    .preadv = raw_preadv,
    .pwritev = raw_pwritev,
    .pwrite_zeroes = raw_pwrite_zeroes,
    .pdiscard = raw_pdiscard,
    .passes_on = raw_passes_on,
    .getlength = raw_getlength,
    .truncate = raw_truncate,
    .block_status = raw_block_status,
};
