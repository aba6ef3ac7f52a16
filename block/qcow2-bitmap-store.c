/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: the bitmaps of a node are stored in its image */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2-bitmap.h"
#include "util/error.h"

bool qcow2_bitmap_check(const Qcow2State *s, const char *name,
                        unsigned granularity_bits, int64_t length,
                        GError **errp)
{
    uint64_t clusters;

    if (granularity_bits < QCOW2_MIN_BITMAP_GRANULARITY ||
        granularity_bits > QCOW2_MAX_BITMAP_GRANULARITY) {
        error_setg(errp, "Granularity must be from %d to %" PRIu32 " bytes",
                   1 << QCOW2_MIN_BITMAP_GRANULARITY,
                   UINT32_C(1) << QCOW2_MAX_BITMAP_GRANULARITY);
        return false;
    }
    clusters = qcow2_bitmap_clusters(s, length, granularity_bits);
    if (strlen(name) > QCOW2_MAX_BITMAP_NAME) {
        error_setg(errp, "Name length exceeds maximum (%d characters)",
                   QCOW2_MAX_BITMAP_NAME);
        return false;
    }
    if (clusters > (uint64_t)QCOW2_MAX_BITMAP_BYTES >> s->cluster_bits) {
        error_setg(errp,
                   "Too much space will be occupied by the bitmap, over "
                   "%" PRId64 " bytes. Use larger granularity",
                   QCOW2_MAX_BITMAP_BYTES);
        return false;
    }
    if (clusters == 0) {
        error_setg(errp, "A bitmap of a disk of 0 bytes cannot be stored");
        return false;
    }
    return true;
}

static Qcow2Bitmap *find(const Qcow2State *s, const char *name)
{
    guint i;

    for (i = 0; s->bitmaps && i < s->bitmaps->len; i++) {
        Qcow2Bitmap *b = s->bitmaps->pdata[i];

        if (!strcmp(b->name, name)) {
            return b;
        }
    }
    return NULL;
}

static bool is_to_be_stored(BdrvDirtyBitmap *bitmap)
{
    return bdrv_dirty_bitmap_persistent(bitmap) &&
           bdrv_dirty_bitmap_check(
               bitmap, BDRV_BITMAP_READ_ONLY | BDRV_BITMAP_INCONSISTENT, NULL);
}

/* As it is to be; what @old (may be NULL) has that nobody knows of stays. */
static Qcow2Bitmap *new_entry(BdrvDirtyBitmap *bitmap, const Qcow2Bitmap *old)
{
    Qcow2Bitmap *b = g_new0(Qcow2Bitmap, 1);
    const char *name = bdrv_dirty_bitmap_name(bitmap);

    b->name = g_strdup(name);
    b->written =
        old ? g_bytes_ref(old->written) : g_bytes_new(name, strlen(name));
    b->flags = old ? old->flags & QCOW2_BITMAP_EXTRA_COMPATIBLE : 0;
    b->extra = old && old->extra ? g_bytes_ref(old->extra) : NULL;
    b->granularity_bits =
        g_bit_nth_lsf(bdrv_dirty_bitmap_granularity(bitmap), -1);
    if (bdrv_dirty_bitmap_enabled(bitmap)) {
        b->flags |= QCOW2_BITMAP_AUTO;
    }
    return b;
}

static Qcow2Bitmap *store_one(Qcow2State *s, BdrvDirtyBitmap *bitmap,
                              const Qcow2Bitmap *old, GError **errp)
{
    Qcow2Bitmap *b = new_entry(bitmap, old);
    int ret;

    if (!qcow2_bitmap_check(s, b->name, b->granularity_bits, s->length, errp)) {
        g_prefix_error(errp, "Bitmap '%s': ", b->name);
        qcow2_bitmap_free(b);
        return NULL;
    }
    ret = qcow2_bitmap_store(s, b, bitmap);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not store bitmap '%s'", b->name);
        qcow2_bitmap_free(b);
        return NULL;
    }
    return b;
}

void qcow2_bitmaps_warn_lost(Qcow2State *s)
{
    g_autoptr(GPtrArray) named = bdrv_named_dirty_bitmaps(s->bs);
    guint i;

    for (i = 0; i < named->len; i++) {
        if (is_to_be_stored(named->pdata[i])) {
            g_warning("Bitmap '%s' is lost: node '%s' is read-only",
                      bdrv_dirty_bitmap_name(named->pdata[i]),
                      s->bs->node_name);
        }
    }
}

/* Those that the image is to have, of which some take the place of others */
typedef struct Change {
    GPtrArray *bitmaps; /* all, as in the directory */
    GPtrArray *new;     /* of these, those whose tables are new */
    GPtrArray *old;     /* those that these take the place of */
} Change;

static void put_entry(Change *c, Qcow2Bitmap *b, Qcow2Bitmap *old)
{
    guint i;

    g_ptr_array_add(c->new, b);
    if (!old) {
        g_ptr_array_add(c->bitmaps, b);
        return;
    }
    g_ptr_array_add(c->old, old);
    if (g_ptr_array_find(c->bitmaps, old, &i)) {
        c->bitmaps->pdata[i] = b;
    }
}

static bool store_all(Qcow2State *s, Change *c, bool all, GError **errp)
{
    g_autoptr(GPtrArray) named = bdrv_named_dirty_bitmaps(s->bs);
    guint i;

    for (i = 0; i < named->len; i++) {
        BdrvDirtyBitmap *bitmap = named->pdata[i];
        Qcow2Bitmap *old = find(s, bdrv_dirty_bitmap_name(bitmap));
        g_autoptr(GError) err = NULL;
        Qcow2Bitmap *b;

        if (!is_to_be_stored(bitmap)) {
            continue;
        }
        b = store_one(s, bitmap, old, &err);
        if (b) {
            put_entry(c, b, old);
        } else if (all) {
            g_propagate_error(errp, g_steal_pointer(&err));
            return false;
        } else {
            g_warning("Node '%s': %s", s->bs->node_name, err->message);
        }
    }
    return true;
}

static void free_entries(Qcow2State *s, GPtrArray *entries, bool clusters)
{
    guint i;

    for (i = 0; i < entries->len; i++) {
        if (clusters) {
            qcow2_bitmap_free_clusters(s, entries->pdata[i]);
        }
        qcow2_bitmap_free(entries->pdata[i]);
    }
}

static int store_locked(Qcow2State *s, Change *c, bool all, bool *unknown,
                        GError **errp)
{
    int ret;

    *unknown = false;
    if (!store_all(s, c, all, errp)) {
        free_entries(s, c->new, true);
        return -EIO;
    }
    if (c->new->len == 0) {
        return 0;
    }
    ret = qcow2_bitmaps_replace(s, c->bitmaps, unknown, errp);
    if (ret < 0) {
        free_entries(s, c->new, !*unknown);
        return ret;
    }
    g_ptr_array_ref(c->bitmaps);
    free_entries(s, c->old, true);
    return 0;
}

int qcow2_bitmaps_store(Qcow2State *s, bool all, bool *unknown, GError **errp)
{
    Change c = { g_ptr_array_new(), g_ptr_array_new(), g_ptr_array_new() };
    int ret;
    guint i;

    mutex_lock(&s->lock);
    for (i = 0; s->bitmaps && i < s->bitmaps->len; i++) {
        g_ptr_array_add(c.bitmaps, s->bitmaps->pdata[i]);
    }
    ret = store_locked(s, &c, all, unknown, errp);
    mutex_unlock(&s->lock);
    g_ptr_array_unref(c.bitmaps);
    g_ptr_array_unref(c.new);
    g_ptr_array_unref(c.old);
    return ret;
}

/* ---- BlockDriver's -------------------------------------------------------- */

/* Will the directory have room for one more? */
static bool check_directory(BlockDriverState *bs, const char *name,
                            GError **errp)
{
    const Qcow2State *s = bs->opaque;
    g_autoptr(GPtrArray) named = bdrv_named_dirty_bitmaps(bs);
    uint64_t bytes = qcow2_bitmap_entry_bytes(strlen(name), 0);
    guint n = 1;
    guint i;

    for (i = 0; i < named->len; i++) {
        const char *other = bdrv_dirty_bitmap_name(named->pdata[i]);
        const Qcow2Bitmap *b = find(s, other);

        if (bdrv_dirty_bitmap_persistent(named->pdata[i])) {
            bytes += qcow2_bitmap_entry_bytes(
                b ? g_bytes_get_size(b->written) : strlen(other),
                b && b->extra ? g_bytes_get_size(b->extra) : 0);
            n++;
        }
    }
    if (n > QCOW2_MAX_BITMAPS) {
        error_setg(errp,
                   "Maximum number of persistent bitmaps is already reached");
        return false;
    }
    if (bytes > (uint64_t)QCOW2_MAX_BITMAP_DIRECTORY) {
        error_setg(errp, "Not enough space in the bitmap directory");
        return false;
    }
    return true;
}

bool qcow2_can_store_bitmap(BlockDriverState *bs, const char *name,
                            uint32_t granularity, GError **errp)
{
    const Qcow2State *s = bs->opaque;
    bool ok = false;

    if (s->version < 3) {
        error_setg(errp, "Cannot store dirty bitmaps in qcow2 v2 files");
    } else {
        ok = qcow2_bitmap_check(s, name, g_bit_nth_lsf(granularity, -1),
                                s->length, errp) &&
             check_directory(bs, name, errp);
    }
    if (!ok) {
        g_prefix_error(errp,
                       "Can't make bitmap '%s' persistent in '%s': ", name,
                       bs->node_name);
    }
    return ok;
}

int qcow2_remove_stored_bitmap(BlockDriverState *bs, const char *name,
                               GError **errp)
{
    Qcow2State *s = bs->opaque;
    GPtrArray *rest;
    Qcow2Bitmap *b;
    bool unknown;
    guint i;
    int ret;
    MUTEX_GUARD(&s->lock);

    b = find(s, name);
    if (!b) {
        return 0;
    }
    if (bdrv_is_read_only(bs)) {
        error_setg(errp, "Node '%s' is read-only", bs->node_name);
        return -EACCES;
    }
    rest = g_ptr_array_new();
    for (i = 0; i < s->bitmaps->len; i++) {
        if (s->bitmaps->pdata[i] != b) {
            g_ptr_array_add(rest, s->bitmaps->pdata[i]);
        }
    }
    ret = qcow2_bitmaps_replace(s, rest, &unknown, errp);
    if (ret < 0) {
        g_ptr_array_unref(rest);
        g_prefix_error(errp,
                       "Failed to remove bitmap '%s' from node '%s': ", name,
                       bs->node_name);
        return ret;
    }
    qcow2_bitmap_free_clusters(s, b);
    qcow2_bitmap_free(b);
    return 0;
}
