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
#include <string.h>

#include "block/dirty-bitmap-int.h"
#include "util/error.h"

#define MIN_GRANULARITY 512
#define MAX_GRANULARITY (UINT32_C(1) << 31)
#define MAX_NAME_BYTES 1023

BdrvDirtyBitmap *dirty_bitmap_named(BlockDriverState *bs, const char *name)
{
    guint i;

    for (i = 0; bs->dirty_bitmaps && i < bs->dirty_bitmaps->len; i++) {
        BdrvDirtyBitmap *bitmap = bs->dirty_bitmaps->pdata[i];

        if (g_strcmp0(bitmap->name, name) == 0) {
            return bitmap;
        }
    }
    return NULL;
}

static void dirty_bitmap_free(BdrvDirtyBitmap *bitmap)
{
    g_free(bitmap->name);
    sparse_bitmap_free(bitmap->bits);
    sparse_bitmap_free(bitmap->frozen);
    sparse_bitmap_free(bitmap->since);
    mutex_destroy(&bitmap->lock);
    g_free(bitmap);
}

bool bdrv_check_bitmap_granularity(uint32_t granularity, GError **errp)
{
    if (granularity < MIN_GRANULARITY || granularity > MAX_GRANULARITY ||
        (granularity & (granularity - 1)) != 0) {
        error_setg(errp, "Granularity must be power of 2 and at least %d",
                   MIN_GRANULARITY);
        return false;
    }
    return true;
}

static bool check_name(const char *name, GError **errp)
{
    if (name && *name == '\0') {
        error_setg(errp, "Bitmap name cannot be empty");
        return false;
    }
    if (name && strlen(name) > MAX_NAME_BYTES) {
        error_setg(errp, "Bitmap name too long: %s", name);
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

    if (!bdrv_check_bitmap_granularity(granularity, errp) ||
        !check_name(name, errp)) {
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
    bitmap->enabled = true;
    bitmap->bits = sparse_bitmap_new(dirty_bitmap_granules(bitmap, length));

    mutex_lock(&bs->dirty_lock);
    if (name && dirty_bitmap_named(bs, name)) {
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

/* Lock held; what is new is clean. */
static void set_length(BdrvDirtyBitmap *bitmap, int64_t length)
{
    SparseBitmap *const all[] = { bitmap->bits, bitmap->frozen, bitmap->since };
    uint64_t n = dirty_bitmap_granules(bitmap, length);
    size_t i;

    bitmap->length = length;
    for (i = 0; i < G_N_ELEMENTS(all); i++) {
        if (all[i]) {
            sparse_bitmap_resize(all[i], n);
        }
    }
}

void bdrv_resize_dirty_bitmaps(BlockDriverState *bs, int64_t length)
{
    guint i;
    MUTEX_GUARD(&bs->dirty_lock);

    for (i = 0; bs->dirty_bitmaps && i < bs->dirty_bitmaps->len; i++) {
        BdrvDirtyBitmap *bitmap = bs->dirty_bitmaps->pdata[i];
        SparseBitmapGarbage *garbage;

        mutex_lock(&bitmap->lock);
        set_length(bitmap, length);
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

/* Of @bits, which are of @bitmap. Lock held */
static int64_t dirty_count(const BdrvDirtyBitmap *bitmap,
                           const SparseBitmap *bits)
{
    uint64_t n, last;
    int64_t bytes;

    n = sparse_bitmap_count(bits);
    if (n == 0) {
        return 0;
    }
    last = sparse_bitmap_size(bits) - 1;
    if (sparse_bitmap_test(bits, last)) {
        bytes = (int64_t)((n - 1) << bitmap->shift);
        return bytes + (bitmap->length - (int64_t)(last << bitmap->shift));
    }
    return (int64_t)(n << bitmap->shift);
}

int64_t bdrv_get_dirty_count(BdrvDirtyBitmap *bitmap)
{
    MUTEX_GUARD(&bitmap->lock);
    return dirty_count(bitmap, bitmap->bits);
}

/* Lock held, @bytes > 0 */
static void mark(BdrvDirtyBitmap *bitmap, int64_t offset, int64_t bytes)
{
    uint64_t first, n;

    g_assert(offset >= 0 && bytes <= INT64_MAX - offset);
    first = (uint64_t)offset >> bitmap->shift;
    n = dirty_bitmap_granules(bitmap, offset + bytes) - first;
    /* A format's writes may have made its file longer than it was. */
    if (offset + bytes > bitmap->length) {
        set_length(bitmap, offset + bytes);
    }
    sparse_bitmap_set(bitmap->bits, first, n);
    if (bitmap->since) {
        sparse_bitmap_set(bitmap->since, first, n);
    }
}

void bdrv_set_dirty_bitmap(BdrvDirtyBitmap *bitmap, int64_t offset,
                           int64_t bytes)
{
    SparseBitmapGarbage *garbage;

    g_assert(bytes >= 0);
    if (bytes == 0) {
        return;
    }
    mutex_lock(&bitmap->lock);
    mark(bitmap, offset, bytes);
    garbage = sparse_bitmap_take_garbage(bitmap->bits);
    mutex_unlock(&bitmap->lock);
    sparse_bitmap_garbage_free(garbage);
}

/* Whole granules: what was not all copied stays dirty. */
int64_t dirty_bitmap_reset(BdrvDirtyBitmap *bitmap, SparseBitmap **bits,
                           int64_t offset, int64_t bytes)
{
    SparseBitmapGarbage *garbage;
    uint64_t first, end;
    int64_t were_dirty;

    g_assert(offset >= 0 && bytes >= 0 && bytes <= INT64_MAX - offset);
    mutex_lock(&bitmap->lock);
    first = dirty_bitmap_granules(bitmap, offset);
    end = (uint64_t)(offset + bytes) >> bitmap->shift;
    if (offset + bytes >= bitmap->length) {
        end = sparse_bitmap_size(*bits);
    }
    were_dirty = dirty_count(bitmap, *bits);
    if (first < end) {
        sparse_bitmap_clear(*bits, first, end - first);
    }
    were_dirty -= dirty_count(bitmap, *bits);
    garbage = sparse_bitmap_take_garbage(*bits);
    mutex_unlock(&bitmap->lock);
    sparse_bitmap_garbage_free(garbage);
    return were_dirty;
}

int64_t bdrv_reset_dirty_bitmap(BdrvDirtyBitmap *bitmap, int64_t offset,
                                int64_t bytes)
{
    return dirty_bitmap_reset(bitmap, &bitmap->bits, offset, bytes);
}

bool dirty_bitmap_next(BdrvDirtyBitmap *bitmap, SparseBitmap **bits,
                       int64_t offset, int64_t end, int64_t max_bytes,
                       int64_t *dirty_offset, int64_t *dirty_bytes)
{
    uint64_t first, stop;

    g_assert(offset >= 0 && max_bytes > 0);
    MUTEX_GUARD(&bitmap->lock);
    end = MIN(end, bitmap->length);
    if (offset >= end) {
        return false;
    }
    stop = dirty_bitmap_granules(bitmap, end);
    first =
        sparse_bitmap_next_set(*bits, (uint64_t)offset >> bitmap->shift, stop);
    if (first == stop) {
        return false;
    }
    *dirty_offset = MAX(offset, (int64_t)(first << bitmap->shift));
    if (max_bytes < end - *dirty_offset) {
        end = *dirty_offset + max_bytes;
        stop = dirty_bitmap_granules(bitmap, end);
    }
    stop = sparse_bitmap_next_clear(*bits, first, stop);
    if (stop <= (uint64_t)INT64_MAX >> bitmap->shift) {
        end = MIN(end, (int64_t)(stop << bitmap->shift));
    }
    *dirty_bytes = end - *dirty_offset;
    return true;
}

bool bdrv_dirty_bitmap_next_area(BdrvDirtyBitmap *bitmap, int64_t offset,
                                 int64_t end, int64_t max_bytes,
                                 int64_t *dirty_offset, int64_t *dirty_bytes)
{
    return dirty_bitmap_next(bitmap, &bitmap->bits, offset, end, max_bytes,
                             dirty_offset, dirty_bytes);
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

/* By a write; false if it records none. */
static bool mark_if_enabled(BdrvDirtyBitmap *bitmap, int64_t offset,
                            int64_t bytes)
{
    SparseBitmapGarbage *garbage = NULL;
    bool enabled;

    mutex_lock(&bitmap->lock);
    enabled = bitmap->enabled;
    if (enabled && bytes > 0) {
        mark(bitmap, offset, bytes);
        garbage = sparse_bitmap_take_garbage(bitmap->bits);
    }
    mutex_unlock(&bitmap->lock);
    sparse_bitmap_garbage_free(garbage);
    return enabled;
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

        if (skip(bitmap, offset, bytes) ||
            !mark_if_enabled(bitmap, offset, bytes)) {
            continue;
        }
        if (bitmap->notify) {
            bitmap->notify(bitmap->notify_opaque);
        }
    }
}

/* As QEMU counts: all granules are whole, even the last. */
static JsonObject *query(BdrvDirtyBitmap *bitmap)
{
    JsonObject *row = json_object_new();
    uint64_t n;

    MUTEX_GUARD(&bitmap->lock);
    n = sparse_bitmap_count(bitmap->frozen ? bitmap->frozen : bitmap->bits);
    if (bitmap->name) {
        json_object_set_string_member(row, "name", bitmap->name);
    }
    json_object_set_int_member(row, "count",
                               MIN(n << bitmap->shift, INT64_MAX));
    json_object_set_int_member(row, "granularity", bitmap->granularity);
    json_object_set_boolean_member(row, "recording", bitmap->enabled);
    json_object_set_boolean_member(row, "busy", bitmap->n_busy > 0);
    json_object_set_boolean_member(row, "persistent", bitmap->persistent);
    if (bitmap->inconsistent) {
        json_object_set_boolean_member(row, "inconsistent", TRUE);
    }
    return row;
}

JsonArray *bdrv_query_dirty_bitmaps(BlockDriverState *bs)
{
    JsonArray *rows = json_array_new();
    guint i;

    MUTEX_GUARD(&bs->dirty_lock);
    for (i = bs->dirty_bitmaps ? bs->dirty_bitmaps->len : 0; i > 0; i--) {
        json_array_add_object_element(rows,
                                      query(bs->dirty_bitmaps->pdata[i - 1]));
    }
    return rows;
}
