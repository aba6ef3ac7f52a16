/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: the dirty bitmaps of a node come from its image, and go there.
 *
 * While a node is read-only, so are its bitmaps: they are as the image has them.
 * They are marked there before the node becomes writable, and stored when it becomes
 * read-only, or is closed. If they cannot be marked, nothing is written to
 * the disk: the image would say of them what is not true any more.
 */
#include "block/qcow2-bitmap.h"

#include <errno.h>
#include <inttypes.h>

#include "util/error.h"

/* ---- open and close ------------------------------------------------------- */

static int make_bitmap(Qcow2State *s, const Qcow2Bitmap *b, uint64_t *budget,
                       GError **errp)
{
    BdrvDirtyBitmap *bitmap = bdrv_create_dirty_bitmap(
        s->bs, UINT32_C(1) << b->granularity_bits, b->name, errp);

    if (!bitmap) {
        return -EINVAL;
    }
    bdrv_dirty_bitmap_set_persistent(bitmap, true);
    if (b->flags & QCOW2_BITMAP_IN_USE) {
        bdrv_dirty_bitmap_set_inconsistent(bitmap);
        return 0;
    }
    bdrv_dirty_bitmap_set_enabled(bitmap, b->flags & QCOW2_BITMAP_AUTO);
    bdrv_dirty_bitmap_set_read_only(bitmap, bdrv_is_read_only(s->bs));
    return qcow2_bitmap_load(s, b, bitmap, budget, errp);
}

int qcow2_bitmaps_open(Qcow2State *s, GError **errp)
{
    int64_t length = bdrv_child_getlength(s->bs->file);
    uint64_t budget = MAX(length, 0);
    int ret = qcow2_bitmaps_read_directory(s, errp);
    guint i;

    for (i = 0; ret == 0 && s->bitmaps && i < s->bitmaps->len; i++) {
        ret = make_bitmap(s, s->bitmaps->pdata[i], &budget, errp);
    }
    if (ret == 0 && !bdrv_is_read_only(s->bs)) {
        ret = qcow2_bitmaps_mark(s, errp);
    }
    return ret;
}

void qcow2_bitmaps_close(Qcow2State *s)
{
    g_autoptr(GError) err = NULL;
    bool unknown;

    if (bdrv_is_read_only(s->bs)) {
        qcow2_bitmaps_warn_lost(s);
        return;
    }
    if (qcow2_is_corrupt(s)) {
        return; /* They are in use in the image for good. */
    }
    if (qcow2_bitmaps_store(s, false, &unknown, &err) < 0) {
        g_warning("The bitmaps of node '%s' are lost: %s", s->bs->node_name,
                  err->message);
    }
}

void qcow2_bitmaps_free(Qcow2State *s)
{
    guint i;

    for (i = 0; s->bitmaps && i < s->bitmaps->len; i++) {
        qcow2_bitmap_free(s->bitmaps->pdata[i]);
    }
    g_clear_pointer(&s->bitmaps, g_ptr_array_unref);
}

/* ---- read-only and writable ----------------------------------------------- */

/* The image may say of its bitmaps that they are right, and something is
 * going to be written: the header that says where they were is the one that counts. */
static void go_back(Qcow2State *s)
{
    g_autoptr(GError) err = NULL;
    MUTEX_GUARD(&s->lock);

    if (qcow2_update_header(s, &err) < 0) {
        qcow2_signal_corruption(s, -1, -1,
                                "Which bitmaps the header refers to is not "
                                "known: %s",
                                err->message);
    }
}

int qcow2_bitmaps_prepare_read_only(Qcow2State *s, GError **errp)
{
    g_autoptr(GPtrArray) named = bdrv_named_dirty_bitmaps(s->bs);
    bool unknown;
    guint i;
    int ret;

    for (i = 0; i < named->len; i++) {
        /* What a job has set aside is not among what would be stored. */
        if (bdrv_dirty_bitmap_persistent(named->pdata[i]) &&
            !bdrv_dirty_bitmap_check(named->pdata[i], BDRV_BITMAP_BUSY, errp)) {
            return -EBUSY;
        }
    }
    ret = qcow2_bitmaps_store(s, true, &unknown, errp);
    if (ret < 0 && unknown) {
        go_back(s);
    }
    return ret;
}

static void set_read_only(BlockDriverState *bs, bool read_only)
{
    g_autoptr(GPtrArray) named = bdrv_named_dirty_bitmaps(bs);
    guint i;

    for (i = 0; i < named->len; i++) {
        if (bdrv_dirty_bitmap_persistent(named->pdata[i])) {
            bdrv_dirty_bitmap_set_read_only(named->pdata[i], read_only);
        }
    }
}

void qcow2_bitmaps_reopened(Qcow2State *s)
{
    bool read_only = bdrv_is_read_only(s->bs);
    g_autoptr(GError) err = NULL;

    if (!read_only && qcow2_bitmaps_mark(s, &err) < 0) {
        g_warning("%s: nothing can be written to it", err->message);
        __atomic_store_n(&s->bitmaps_unmarked, true, __ATOMIC_RELAXED);
        set_read_only(s->bs, true);
        return;
    }
    __atomic_store_n(&s->bitmaps_unmarked, false, __ATOMIC_RELAXED);
    set_read_only(s->bs, read_only);
}

/* ---- and else ------------------------------------------------------------- */

bool qcow2_bitmaps_check_resize(Qcow2State *s, int64_t length, GError **errp)
{
    g_autoptr(GPtrArray) named = bdrv_named_dirty_bitmaps(s->bs);
    guint i;

    for (i = 0; i < named->len; i++) {
        BdrvDirtyBitmap *bitmap = named->pdata[i];
        const char *name = bdrv_dirty_bitmap_name(bitmap);
        uint32_t granularity = bdrv_dirty_bitmap_granularity(bitmap);

        if (!bdrv_dirty_bitmap_persistent(bitmap)) {
            continue;
        }
        if (!bdrv_dirty_bitmap_check(bitmap, BDRV_BITMAP_DEFAULT, errp)) {
            return false;
        }
        if (!qcow2_bitmap_check(s, name, g_bit_nth_lsf(granularity, -1), length,
                                errp)) {
            g_prefix_error(errp, "Bitmap '%s': ", name);
            return false;
        }
    }
    return true;
}

static JsonObject *bitmap_info(const Qcow2Bitmap *b)
{
    JsonObject *info = json_object_new();
    JsonArray *flags = json_array_new();

    if (b->flags & QCOW2_BITMAP_IN_USE) {
        json_array_add_string_element(flags, "in-use");
    }
    if (b->flags & QCOW2_BITMAP_AUTO) {
        json_array_add_string_element(flags, "auto");
    }
    json_object_set_array_member(info, "flags", flags);
    json_object_set_string_member(info, "name", b->name);
    json_object_set_int_member(info, "granularity",
                               INT64_C(1) << b->granularity_bits);
    return info;
}

JsonArray *qcow2_bitmaps_info(Qcow2State *s)
{
    JsonArray *all;
    guint i;
    MUTEX_GUARD(&s->bitmaps_lock);

    if (!s->bitmaps || s->bitmaps->len == 0) {
        return NULL;
    }
    all = json_array_new();
    for (i = 0; i < s->bitmaps->len; i++) {
        json_array_add_object_element(all, bitmap_info(s->bitmaps->pdata[i]));
    }
    return all;
}
