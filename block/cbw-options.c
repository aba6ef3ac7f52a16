/* SPDX-License-Identifier: GPL-2.0-or-later */
/* copy-before-write: nodes that blockdev-add makes, and what is said of them */
#include <errno.h>
#include <inttypes.h>

#include "block/cbw-int.h"
#include "block/dirty-bitmap.h"
#include "util/error.h"

/* Copies that are under way at once, where there is a timeout */
#define MAX_THREADS 64

typedef enum OnCbwError {
    ON_CBW_ERROR_BREAK_GUEST_WRITE,
    ON_CBW_ERROR_BREAK_SNAPSHOT,
} OnCbwError;

static const SchemaType on_cbw_error_type = {
    .name = "OnCbwError",
    .kind = SCHEMA_ENUM,
    .doc = "What happens if what is to be overwritten cannot be copied first: "
           "the write fails; or it is done, and nobody can read the snapshot "
           "any more.",
    .values =
        (const char *const[]){ "break-guest-write", "break-snapshot", NULL },
};

const SchemaType cbw_options_type = {
    .name = "BlockdevOptionsCbw",
    .kind = SCHEMA_OBJECT,
    .doc =
        "The contents of another node. What is about to be overwritten there "
        "is copied to a third one first, once. So the two together hold what "
        "was there when this was put between the node and its users, and a "
        "node of driver \"snapshot-access\" reads it.",
    .members =
        (const SchemaMember[]){
            { "file", &blockdev_ref_type, .doc = "The node below." },
            { "target", &blockdev_ref_type,
              .doc = "The node to copy to, at least as long." },
            { "bitmap", &bitmap_of_node_type, .optional = true,
              .doc = "Copy only what this bitmap marks now; only that can be "
                     "read later." },
            { "on-cbw-error", &on_cbw_error_type, .optional = true,
              .doc = "Default: \"break-guest-write\"." },
            { "cbw-timeout", &schema_uint, .optional = true,
              .doc = "Seconds that a write waits for the copy at most; then "
                     "that has failed. Default: 0, no limit." },
            { NULL },
        },
};

/* ---- what is to be copied ----------------------------------------------- */

static int add_bitmap(CopyBeforeWrite *s, JsonObject *which, GError **errp)
{
    int64_t length = block_copy_length(s->bc);
    int64_t pos = 0, start, bytes, other;
    BdrvDirtyBitmap *bitmap;
    BlockDriverState *bs;
    int ret = -EINVAL;

    bitmap =
        bdrv_find_bitmap_of(schema_get_str(which, "node", NULL),
                            schema_get_str(which, "name", NULL), &bs, errp);
    if (!bitmap) {
        return -ENOENT;
    }
    if (!bdrv_dirty_bitmap_check(bitmap, BDRV_BITMAP_ALLOW_RO, errp)) {
        bdrv_unref(bs);
        return -EINVAL;
    }
    other = bdrv_getlength(bs);
    if (other != length) {
        error_setg(errp,
                   "Bitmap '%s' is about %" PRId64 " bytes, and the source has "
                   "%" PRId64,
                   bdrv_dirty_bitmap_name(bitmap), other, length);
    } else {
        while (bdrv_dirty_bitmap_next_area(bitmap, pos, length, INT64_MAX,
                                           &start, &bytes)) {
            block_copy_add(s->bc, start, bytes);
            pos = start + bytes;
        }
        ret = 0;
    }
    bdrv_unref(bs);
    return ret;
}

static bool get_length(BlockDriverState *bs, const char *child, int64_t *length,
                       GError **errp)
{
    *length = bdrv_getlength(bs);
    if (*length < 0) {
        error_setg_errno(errp, -*length,
                         "Could not get the length of the child '%s'", child);
    }
    return *length >= 0;
}

static bool check_nodes(BlockDriverState *source, BlockDriverState *target,
                        int64_t *length, GError **errp)
{
    int64_t there;

    if (!get_length(source, "file", length, errp) ||
        !get_length(target, "target", &there, errp)) {
        return false;
    }
    if (source == target) {
        error_setg(errp, "Source and target cannot be the same");
        return false;
    }
    if (there < *length) {
        error_setg(errp,
                   "Target node '%s' is too short: %" PRId64
                   " bytes, node '%s' has %" PRId64,
                   bdrv_node_name(target), there, bdrv_node_name(source),
                   *length);
        return false;
    }
    return true;
}

int cbw_open_options(BlockDriverState *bs, CopyBeforeWrite *s,
                     JsonObject *options, GError **errp)
{
    int64_t timeout = schema_get_int(options, "cbw-timeout", 0);
    BlockCopyOptions with = { .base = NULL };
    int ret = 0;

    if (timeout < 0 || timeout > UINT32_MAX) {
        error_setg(errp, "Parameter 'cbw-timeout' expects uint32_t");
        return -EINVAL;
    }
    if (!bdrv_open_child(bs, options, "file", errp) ||
        !(s->target = bdrv_open_child(bs, options, "target", errp)) ||
        !check_nodes(bs->file->bs, s->target->bs, &with.length, errp)) {
        return -EINVAL;
    }
    with.target = s->target->bs;
    s->bc = block_copy_new(&with, errp);
    if (!s->bc) {
        return -EINVAL;
    }
    if (schema_has(options, "bitmap")) {
        ret = add_bitmap(s, schema_get_object(options, "bitmap"), errp);
    } else {
        block_copy_add(s->bc, 0, with.length);
    }
    s->snapshot = cbw_snapshot_new(s->bc);
    s->break_snapshot =
        schema_get_enum(options, "on-cbw-error", &on_cbw_error_type,
                        ON_CBW_ERROR_BREAK_GUEST_WRITE) ==
        ON_CBW_ERROR_BREAK_SNAPSHOT;
    if (timeout > 0) {
        s->timeout_us = timeout * G_USEC_PER_SEC;
        s->threads = other_threads_new(MAX_THREADS);
    }
    return ret;
}
