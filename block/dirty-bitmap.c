/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dirty bitmaps: which parts of a node were written since.
 *
 * Writers find the bitmaps of their node in bs->dirty_bitmaps, which
 * bs->dirty_lock protects; it keeps a bitmap alive while they mark it. Inside
 * that lock, or without it for those who own the bitmap, the bitmap's own lock
 * protects its bits. A node without bitmaps, the usual one, costs a writer one
 * load of bs->n_dirty_bitmaps.
 *
 * That load cannot miss a bitmap that matters: the number is raised before
 * bdrv_create_dirty_bitmap() returns, and a writer looks at it after its data
 * went out.
 */
#include "block/dirty-bitmap.h"

#include <string.h>

#include "util/error.h"
#include "util/sparse-bitmap.h"

#define MIN_GRANULARITY 512
#define MAX_GRANULARITY (UINT32_C(1) << 31)
#define MAX_NAME_BYTES 1023

struct BdrvDirtyBitmap {
    char *name;
    uint32_t granularity;
    unsigned shift; /* log2 of granularity */
    Mutex lock;
    SparseBitmap *bits; /* lock */
    int64_t length;     /* lock; of the disk, bytes */
    /* bs->dirty_lock */
    void (*notify)(void *opaque);
    void *notify_opaque;
};

static uint64_t granules(const BdrvDirtyBitmap *bitmap, int64_t bytes)
{
    return ((uint64_t)bytes + bitmap->granularity - 1) >> bitmap->shift;
}

/* Called with bs->dirty_lock held. */
static bool have_name(BlockDriverState *bs, const char *name)
{
    guint i;

    for (i = 0; bs->dirty_bitmaps && i < bs->dirty_bitmaps->len; i++) {
        const BdrvDirtyBitmap *bitmap = bs->dirty_bitmaps->pdata[i];

        if (g_strcmp0(bitmap->name, name) == 0) {
            return true;
        }
    }
    return false;
}

static void dirty_bitmap_free(BdrvDirtyBitmap *bitmap)
{
    g_free(bitmap->name);
    sparse_bitmap_free(bitmap->bits);
    mutex_destroy(&bitmap->lock);
    g_free(bitmap);
}

static bool check_parameters(uint32_t granularity, const char *name,
                             GError **errp)
{
    if (granularity < MIN_GRANULARITY || granularity > MAX_GRANULARITY ||
        (granularity & (granularity - 1)) != 0) {
        error_setg(errp,
                   "Granularity must be a power of 2 from 512 to 2147483648,"
                   " not %" G_GUINT32_FORMAT,
                   granularity);
        return false;
    }
    if (name && *name == '\0') {
        error_setg(errp, "Bitmap name cannot be empty");
        return false;
    }
    if (name && strlen(name) > MAX_NAME_BYTES) {
        error_setg(errp, "Bitmap name too long: %zu bytes, at most %d",
                   strlen(name), MAX_NAME_BYTES);
        return false;
    }
    return true;
}

BdrvDirtyBitmap *bdrv_create_dirty_bitmap(BlockDriverState *bs,
                                          uint32_t granularity,
                                          const char *name, GError **errp)
{
    BdrvDirtyBitmap *bitmap;
    int64_t length;

    if (!check_parameters(granularity, name, errp)) {
        return NULL;
    }
    length = bdrv_getlength(bs);
    if (length < 0) {
        error_setg_errno(errp, -length, "Could not get the length of node '%s'",
                         bs->node_name);
        return NULL;
    }

    bitmap = g_new0(BdrvDirtyBitmap, 1);
    mutex_init(&bitmap->lock);
    bitmap->name = g_strdup(name);
    bitmap->granularity = granularity;
    bitmap->shift = __builtin_ctz(granularity);
    bitmap->length = length;
    bitmap->bits = sparse_bitmap_new(granules(bitmap, length));

    mutex_lock(&bs->dirty_lock);
    if (name && have_name(bs, name)) {
        mutex_unlock(&bs->dirty_lock);
        error_setg(errp, "Bitmap already exists: %s", name);
        dirty_bitmap_free(bitmap);
        return NULL;
    }
    if (!bs->dirty_bitmaps) {
        bs->dirty_bitmaps = g_ptr_array_new();
    }
    g_ptr_array_add(bs->dirty_bitmaps, bitmap);
    __atomic_add_fetch(&bs->n_dirty_bitmaps, 1, __ATOMIC_SEQ_CST);
    mutex_unlock(&bs->dirty_lock);
    return bitmap;
}

void bdrv_release_dirty_bitmap(BlockDriverState *bs, BdrvDirtyBitmap *bitmap)
{
    bool found;

    mutex_lock(&bs->dirty_lock);
    found = g_ptr_array_remove(bs->dirty_bitmaps, bitmap);
    g_assert(found);
    __atomic_sub_fetch(&bs->n_dirty_bitmaps, 1, __ATOMIC_SEQ_CST);
    mutex_unlock(&bs->dirty_lock);
    dirty_bitmap_free(bitmap);
}

void bdrv_resize_dirty_bitmaps(BlockDriverState *bs, int64_t length)
{
    SparseBitmapGarbage *garbage;
    guint i;
    MUTEX_GUARD(&bs->dirty_lock);

    for (i = 0; bs->dirty_bitmaps && i < bs->dirty_bitmaps->len; i++) {
        BdrvDirtyBitmap *bitmap = bs->dirty_bitmaps->pdata[i];

        mutex_lock(&bitmap->lock);
        bitmap->length = length;
        sparse_bitmap_resize(bitmap->bits, granules(bitmap, length));
        garbage = sparse_bitmap_take_garbage(bitmap->bits);
        mutex_unlock(&bitmap->lock);
        sparse_bitmap_garbage_free(garbage);
    }
}

void bdrv_dirty_bitmap_set_notify(BlockDriverState *bs, BdrvDirtyBitmap *bitmap,
                                  void (*func)(void *opaque), void *opaque)
{
    MUTEX_GUARD(&bs->dirty_lock);
    bitmap->notify = func;
    bitmap->notify_opaque = opaque;
}

uint32_t bdrv_dirty_bitmap_granularity(const BdrvDirtyBitmap *bitmap)
{
    return bitmap->granularity;
}

const char *bdrv_dirty_bitmap_name(const BdrvDirtyBitmap *bitmap)
{
    return bitmap->name;
}

/* Lock held */
static int64_t dirty_count(const BdrvDirtyBitmap *bitmap)
{
    uint64_t n, last;
    int64_t bytes;

    n = sparse_bitmap_count(bitmap->bits);
    if (n == 0) {
        return 0;
    }
    last = sparse_bitmap_size(bitmap->bits) - 1;
    if (sparse_bitmap_test(bitmap->bits, last)) {
        bytes = (int64_t)((n - 1) << bitmap->shift);
        return bytes + (bitmap->length - (int64_t)(last << bitmap->shift));
    }
    return (int64_t)(n << bitmap->shift);
}

int64_t bdrv_get_dirty_count(BdrvDirtyBitmap *bitmap)
{
    MUTEX_GUARD(&bitmap->lock);
    return dirty_count(bitmap);
}

void bdrv_set_dirty_bitmap(BdrvDirtyBitmap *bitmap, int64_t offset,
                           int64_t bytes)
{
    SparseBitmapGarbage *garbage;
    uint64_t first, end;

    g_assert(offset >= 0 && bytes >= 0 && bytes <= INT64_MAX - offset);
    if (bytes == 0) {
        return;
    }
    first = (uint64_t)offset >> bitmap->shift;
    end = granules(bitmap, offset + bytes);
    mutex_lock(&bitmap->lock);
    /* A format's writes may have made its file longer than it was. */
    if (offset + bytes > bitmap->length) {
        bitmap->length = offset + bytes;
        sparse_bitmap_resize(bitmap->bits, end);
    }
    sparse_bitmap_set(bitmap->bits, first, end - first);
    garbage = sparse_bitmap_take_garbage(bitmap->bits);
    mutex_unlock(&bitmap->lock);
    sparse_bitmap_garbage_free(garbage);
}

/* Whole granules: what was not all copied stays dirty. */
int64_t bdrv_reset_dirty_bitmap(BdrvDirtyBitmap *bitmap, int64_t offset,
                                int64_t bytes)
{
    SparseBitmapGarbage *garbage;
    uint64_t first, end;
    int64_t were_dirty;

    g_assert(offset >= 0 && bytes >= 0 && bytes <= INT64_MAX - offset);
    mutex_lock(&bitmap->lock);
    first = granules(bitmap, offset);
    end = (uint64_t)(offset + bytes) >> bitmap->shift;
    if (offset + bytes >= bitmap->length) {
        end = sparse_bitmap_size(bitmap->bits);
    }
    were_dirty = dirty_count(bitmap);
    if (first < end) {
        sparse_bitmap_clear(bitmap->bits, first, end - first);
    }
    were_dirty -= dirty_count(bitmap);
    garbage = sparse_bitmap_take_garbage(bitmap->bits);
    mutex_unlock(&bitmap->lock);
    sparse_bitmap_garbage_free(garbage);
    return were_dirty;
}

bool bdrv_dirty_bitmap_next_area(BdrvDirtyBitmap *bitmap, int64_t offset,
                                 int64_t end, int64_t max_bytes,
                                 int64_t *dirty_offset, int64_t *dirty_bytes)
{
    uint64_t first, stop;

    g_assert(offset >= 0 && max_bytes > 0);
    MUTEX_GUARD(&bitmap->lock);
    end = MIN(end, bitmap->length);
    if (offset >= end) {
        return false;
    }
    stop = granules(bitmap, end);
    first = sparse_bitmap_next_set(bitmap->bits,
                                   (uint64_t)offset >> bitmap->shift, stop);
    if (first == stop) {
        return false;
    }
    *dirty_offset = MAX(offset, (int64_t)(first << bitmap->shift));
    if (max_bytes < end - *dirty_offset) {
        end = *dirty_offset + max_bytes;
        stop = granules(bitmap, end);
    }
    stop = sparse_bitmap_next_clear(bitmap->bits, first, stop);
    if (stop <= (uint64_t)INT64_MAX >> bitmap->shift) {
        end = MIN(end, (int64_t)(stop << bitmap->shift));
    }
    *dirty_bytes = end - *dirty_offset;
    return true;
}

static __thread BdrvDirtySkip *skipping;

void bdrv_dirty_skip_begin(BdrvDirtySkip *skip, BdrvDirtyBitmap *bitmap)
{
    *skip = (BdrvDirtySkip){ .outer = skipping, .bitmap = bitmap };
    skipping = skip;
}

void bdrv_dirty_skip_end(BdrvDirtySkip *skip)
{
    g_assert(skipping == skip);
    skipping = skip->outer;
}

/* Somebody else sees to @bitmap. */
static bool skip(const BdrvDirtyBitmap *bitmap, int64_t offset, int64_t bytes)
{
    BdrvDirtySkip *s = skipping;

    while (s && s->bitmap != bitmap) {
        s = s->outer;
    }
    if (!s) {
        return false;
    }
    s->start = s->end ? MIN(s->start, offset) : offset;
    s->end = MAX(s->end, offset + bytes);
    return true;
}

void bdrv_set_dirty(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    guint i;

    if (__atomic_load_n(&bs->n_dirty_bitmaps, __ATOMIC_SEQ_CST) == 0) {
        return;
    }
    MUTEX_GUARD(&bs->dirty_lock);
    for (i = 0; i < bs->dirty_bitmaps->len; i++) {
        BdrvDirtyBitmap *bitmap = bs->dirty_bitmaps->pdata[i];

        if (skip(bitmap, offset, bytes)) {
            continue;
        }
        bdrv_set_dirty_bitmap(bitmap, offset, bytes);
        if (bitmap->notify) {
            bitmap->notify(bitmap->notify_opaque);
        }
    }
}

JsonArray *bdrv_query_dirty_bitmaps(BlockDriverState *bs)
{
    JsonArray *rows = json_array_new();
    guint i;

    MUTEX_GUARD(&bs->dirty_lock);
    for (i = 0; bs->dirty_bitmaps && i < bs->dirty_bitmaps->len; i++) {
        BdrvDirtyBitmap *bitmap = bs->dirty_bitmaps->pdata[i];
        JsonObject *row = json_object_new();

        if (bitmap->name) {
            json_object_set_string_member(row, "name", bitmap->name);
        }
        json_object_set_int_member(row, "count", bdrv_get_dirty_count(bitmap));
        json_object_set_int_member(row, "granularity", bitmap->granularity);
        json_object_set_boolean_member(row, "recording", TRUE);
        json_object_set_boolean_member(row, "busy", FALSE);
        json_object_set_boolean_member(row, "persistent", FALSE);
        json_array_add_object_element(rows, row);
    }
    return rows;
}
