/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dirty bitmaps that users have: what QMP, exports, backups and image formats do
 * with them.
 *
 * A change that may have to be undone gives a backup, the bits as they were. Writes
 * may go on meanwhile; what they mark is kept in bitmap->since as well, so that
 * putting the backup back loses none of it, and yet undoes a merge exactly.
 *
 * Nobody holds the locks of two bitmaps.
 */
#include <string.h>

#include "block/dirty-bitmap-int.h"
#include "util/error.h"

BdrvDirtyBitmap *bdrv_find_dirty_bitmap(BlockDriverState *bs, const char *name,
                                        GError **errp)
{
    BdrvDirtyBitmap *bitmap;

    mutex_lock(&bs->dirty_lock);
    bitmap = dirty_bitmap_named(bs, name);
    mutex_unlock(&bs->dirty_lock);
    if (!bitmap) {
        error_setg(errp, "Dirty bitmap '%s' not found", name);
    }
    return bitmap;
}

GPtrArray *bdrv_named_dirty_bitmaps(BlockDriverState *bs)
{
    GPtrArray *named = g_ptr_array_new();
    guint i;

    MUTEX_GUARD(&bs->dirty_lock);
    for (i = 0; bs->dirty_bitmaps && i < bs->dirty_bitmaps->len; i++) {
        BdrvDirtyBitmap *bitmap = bs->dirty_bitmaps->pdata[i];

        if (bitmap->name) {
            g_ptr_array_add(named, bitmap);
        }
    }
    return named;
}

void bdrv_release_named_dirty_bitmaps(BlockDriverState *bs)
{
    g_autoptr(GPtrArray) named = bdrv_named_dirty_bitmaps(bs);
    guint i;

    for (i = 0; i < named->len; i++) {
        bdrv_release_dirty_bitmap(bs, named->pdata[i]);
    }
}

/* ---- what they are, and whether they may be used ------------------------ */

bool bdrv_dirty_bitmap_check(BdrvDirtyBitmap *bitmap, unsigned flags,
                             GError **errp)
{
    MUTEX_GUARD(&bitmap->lock);

    if ((flags & BDRV_BITMAP_BUSY) && bitmap->n_busy > 0) {
        error_setg(errp,
                   "Bitmap '%s' is currently in use by another operation and"
                   " cannot be used",
                   bitmap->name);
        return false;
    }
    if ((flags & BDRV_BITMAP_READ_ONLY) && bitmap->read_only) {
        error_setg(errp, "Bitmap '%s' is readonly and cannot be modified",
                   bitmap->name);
        return false;
    }
    if ((flags & BDRV_BITMAP_INCONSISTENT) && bitmap->inconsistent) {
        error_setg(errp, "Bitmap '%s' is inconsistent and cannot be used",
                   bitmap->name);
        return false;
    }
    return true;
}

bool bdrv_check_all_bitmaps(BlockDriverState *bs, unsigned flags, GError **errp)
{
    g_autoptr(GPtrArray) named = bdrv_named_dirty_bitmaps(bs);
    guint i;

    for (i = 0; i < named->len; i++) {
        if (!bdrv_dirty_bitmap_check(named->pdata[i], flags, errp)) {
            return false;
        }
    }
    return true;
}

void bdrv_dirty_bitmap_set_busy(BdrvDirtyBitmap *bitmap, bool busy)
{
    MUTEX_GUARD(&bitmap->lock);
    g_assert(busy || bitmap->n_busy > 0);
    bitmap->n_busy += busy ? 1 : -1;
}

bool bdrv_dirty_bitmap_enabled(BdrvDirtyBitmap *bitmap)
{
    MUTEX_GUARD(&bitmap->lock);
    return bitmap->enabled;
}

void bdrv_dirty_bitmap_set_enabled(BdrvDirtyBitmap *bitmap, bool enabled)
{
    MUTEX_GUARD(&bitmap->lock);
    g_assert(!enabled || !bitmap->inconsistent);
    bitmap->enabled = enabled;
}

bool bdrv_dirty_bitmap_persistent(BdrvDirtyBitmap *bitmap)
{
    MUTEX_GUARD(&bitmap->lock);
    return bitmap->persistent;
}

void bdrv_dirty_bitmap_set_persistent(BdrvDirtyBitmap *bitmap, bool persistent)
{
    MUTEX_GUARD(&bitmap->lock);
    bitmap->persistent = persistent;
}

bool bdrv_dirty_bitmap_inconsistent(BdrvDirtyBitmap *bitmap)
{
    MUTEX_GUARD(&bitmap->lock);
    return bitmap->inconsistent;
}

void bdrv_dirty_bitmap_set_inconsistent(BdrvDirtyBitmap *bitmap)
{
    MUTEX_GUARD(&bitmap->lock);
    bitmap->inconsistent = true;
    bitmap->enabled = false;
}

void bdrv_dirty_bitmap_set_read_only(BdrvDirtyBitmap *bitmap, bool read_only)
{
    MUTEX_GUARD(&bitmap->lock);
    bitmap->read_only = read_only;
}

/* ---- all bits at once --------------------------------------------------- */

/* All that is set in @src, in @dest of the same size */
static void set_all_of(SparseBitmap *dest, const SparseBitmap *src)
{
    uint64_t n = sparse_bitmap_size(src);
    uint64_t start, end;

    for (start = sparse_bitmap_next_set(src, 0, n); start < n;
         start = sparse_bitmap_next_set(src, end, n)) {
        end = sparse_bitmap_next_clear(src, start, n);
        sparse_bitmap_set(dest, start, end - start);
    }
}

/*
 * Where many runs are to be set, they are in steps, and nobody has to wait for
 * longer than one takes: not writers, nor queries.
 */
#define RUNS_AT_ONCE 1024

typedef struct Runs {
    size_t n; /* RUNS_AT_ONCE: there may be more */
    uint64_t pos;
    struct {
        uint64_t start, end;
    } run[RUNS_AT_ONCE];
} Runs;

/* The next runs of @bits, from @runs->pos on */
static void take_runs(Runs *runs, const SparseBitmap *bits)
{
    uint64_t size = sparse_bitmap_size(bits);

    for (runs->n = 0; runs->n < RUNS_AT_ONCE && runs->pos < size; runs->n++) {
        uint64_t start = sparse_bitmap_next_set(bits, runs->pos, size);

        if (start == size) {
            return;
        }
        runs->pos = sparse_bitmap_next_clear(bits, start, size);
        runs->run[runs->n].start = start;
        runs->run[runs->n].end = runs->pos;
    }
}

/* Granules of 1 << @shift bytes, in those of @dest */
static void set_runs(BdrvDirtyBitmap *dest, const Runs *runs, unsigned shift)
{
    SparseBitmapGarbage *garbage;
    uint64_t size;
    size_t i;

    mutex_lock(&dest->lock);
    size = sparse_bitmap_size(dest->bits);
    for (i = 0; i < runs->n; i++) {
        uint64_t first = (runs->run[i].start << shift) >> dest->shift;
        uint64_t last = ((runs->run[i].end << shift) - 1) >> dest->shift;

        last = MIN(last + 1, size);
        if (first < last) {
            sparse_bitmap_set(dest->bits, first, last - first);
        }
    }
    garbage = sparse_bitmap_take_garbage(dest->bits);
    mutex_unlock(&dest->lock);
    sparse_bitmap_garbage_free(garbage);
}

/* All that is set in *@bits of @src, which does not lose any meanwhile */
static void set_all_scaled(BdrvDirtyBitmap *dest, BdrvDirtyBitmap *src,
                           SparseBitmap *const *bits)
{
    g_autofree Runs *runs = g_new0(Runs, 1);

    do {
        mutex_lock(&src->lock);
        take_runs(runs, *bits);
        mutex_unlock(&src->lock);
        set_runs(dest, runs, src->shift);
    } while (runs->n == RUNS_AT_ONCE);
}

/* The bits as they are, to be kept by the caller. Lock held */
static SparseBitmap *make_backup(BdrvDirtyBitmap *bitmap)
{
    if (bitmap->n_backups++ == 0) {
        bitmap->since = sparse_bitmap_new(sparse_bitmap_size(bitmap->bits));
    }
    return sparse_bitmap_copy(bitmap->bits);
}

/* One backup less: what has to be freed, outside the lock. Lock held */
static SparseBitmap *end_backup(BdrvDirtyBitmap *bitmap)
{
    g_assert(bitmap->n_backups > 0);
    return --bitmap->n_backups == 0 ? g_steal_pointer(&bitmap->since) : NULL;
}

void bdrv_clear_dirty_bitmap(BdrvDirtyBitmap *bitmap, SparseBitmap **backup)
{
    SparseBitmap *old;

    mutex_lock(&bitmap->lock);
    if (backup) {
        *backup = make_backup(bitmap);
    }
    old = bitmap->bits;
    bitmap->bits = sparse_bitmap_new(sparse_bitmap_size(old));
    mutex_unlock(&bitmap->lock);
    sparse_bitmap_free(old);
}

/* Are disks of these lengths of the same size? */
static bool same_size(int64_t dest, int64_t src, GError **errp)
{
    const uint64_t sector = 512;
    uint64_t dest_size = ((uint64_t)dest + sector - 1) / sector * sector;
    uint64_t src_size = ((uint64_t)src + sector - 1) / sector * sector;

    if (dest_size == src_size) {
        return true;
    }
    error_setg(
        errp,
        "Bitmaps are of different sizes (destination size is %" G_GUINT64_FORMAT
        ", source size is %" G_GUINT64_FORMAT ") and can't be merged",
        dest_size, src_size);
    return false;
}

static int64_t length_of(BdrvDirtyBitmap *bitmap)
{
    MUTEX_GUARD(&bitmap->lock);
    return bitmap->length;
}

bool bdrv_can_merge_dirty_bitmap(BdrvDirtyBitmap *dest, BdrvDirtyBitmap *src,
                                 GError **errp)
{
    return same_size(length_of(dest), length_of(src), errp);
}

bool bdrv_merge_dirty_bitmap(BdrvDirtyBitmap *dest, BdrvDirtyBitmap *src,
                             SparseBitmap **backup, GError **errp)
{
    int64_t src_length = length_of(src);

    mutex_lock(&dest->lock);
    if (!same_size(dest->length, src_length, errp)) {
        mutex_unlock(&dest->lock);
        return false;
    }
    if (backup) {
        *backup = make_backup(dest);
    }
    mutex_unlock(&dest->lock);
    set_all_scaled(dest, src, &src->bits);
    return true;
}

void bdrv_restore_dirty_bitmap(BdrvDirtyBitmap *bitmap, SparseBitmap *backup)
{
    SparseBitmap *old, *since;

    mutex_lock(&bitmap->lock);
    sparse_bitmap_resize(backup, sparse_bitmap_size(bitmap->bits));
    set_all_of(backup, bitmap->since);
    old = bitmap->bits;
    bitmap->bits = backup;
    since = end_backup(bitmap);
    mutex_unlock(&bitmap->lock);
    sparse_bitmap_free(old);
    sparse_bitmap_free(since);
}

void bdrv_drop_dirty_backup(BdrvDirtyBitmap *bitmap, SparseBitmap *backup)
{
    SparseBitmap *since;

    mutex_lock(&bitmap->lock);
    since = end_backup(bitmap);
    mutex_unlock(&bitmap->lock);
    sparse_bitmap_free(backup);
    sparse_bitmap_free(since);
}

bool bdrv_dirty_bitmap_status(BdrvDirtyBitmap *bitmap, int64_t offset,
                              int64_t bytes, int64_t *pnum)
{
    uint64_t stop, end;
    bool dirty;

    g_assert(offset >= 0 && bytes > 0);
    MUTEX_GUARD(&bitmap->lock);
    *pnum = bytes;
    if (offset >= bitmap->length) {
        return false;
    }
    *pnum = bytes = MIN(bytes, bitmap->length - offset);
    end = dirty_bitmap_granules(bitmap, offset + bytes);
    stop = sparse_bitmap_next_change(
        bitmap->bits, (uint64_t)offset >> bitmap->shift, end, &dirty);
    if (stop < end) {
        *pnum = (int64_t)(stop << bitmap->shift) - offset;
    }
    return dirty;
}

/* ---- what is set aside -------------------------------------------------- */

void bdrv_dirty_bitmap_freeze(BdrvDirtyBitmap *bitmap)
{
    MUTEX_GUARD(&bitmap->lock);
    g_assert(!bitmap->frozen);
    bitmap->frozen = bitmap->bits;
    bitmap->bits = sparse_bitmap_new(sparse_bitmap_size(bitmap->frozen));
    bitmap->n_busy++;
}

void bdrv_dirty_bitmap_thaw(BdrvDirtyBitmap *bitmap, bool merge)
{
    SparseBitmap *frozen;

    if (merge) {
        set_all_scaled(bitmap, bitmap, &bitmap->frozen);
    }
    mutex_lock(&bitmap->lock);
    g_assert(bitmap->frozen && bitmap->n_busy > 0);
    frozen = g_steal_pointer(&bitmap->frozen);
    bitmap->n_busy--;
    mutex_unlock(&bitmap->lock);
    sparse_bitmap_free(frozen);
}

bool bdrv_dirty_bitmap_next_frozen(BdrvDirtyBitmap *bitmap, int64_t offset,
                                   int64_t end, int64_t max_bytes,
                                   int64_t *dirty_offset, int64_t *dirty_bytes)
{
    return dirty_bitmap_next(bitmap, &bitmap->frozen, offset, end, max_bytes,
                             dirty_offset, dirty_bytes);
}

void bdrv_dirty_bitmap_reset_frozen(BdrvDirtyBitmap *bitmap, int64_t offset,
                                    int64_t bytes)
{
    dirty_bitmap_reset(bitmap, &bitmap->frozen, offset, bytes);
}

/* ---- as image formats store them ---------------------------------------- */

uint64_t bdrv_dirty_bitmap_n_bits(BdrvDirtyBitmap *bitmap)
{
    MUTEX_GUARD(&bitmap->lock);
    return sparse_bitmap_size(bitmap->bits);
}

/* Bits [@start, @end) of @buf are set. */
static void fill_bits(uint8_t *buf, uint64_t start, uint64_t end)
{
    for (; start < end && start % 8 != 0; start++) {
        buf[start / 8] |= 1 << start % 8;
    }
    memset(buf + start / 8, 0xff, (end - start) / 8);
    for (start += (end - start) / 8 * 8; start < end; start++) {
        buf[start / 8] |= 1 << start % 8;
    }
}

int bdrv_dirty_bitmap_get_bits(BdrvDirtyBitmap *bitmap, uint64_t first_bit,
                               uint64_t n_bits, uint8_t *buf)
{
    uint64_t limit = first_bit + n_bits;
    uint64_t start, end;

    MUTEX_GUARD(&bitmap->lock);
    g_assert(limit >= first_bit && limit <= sparse_bitmap_size(bitmap->bits));
    start = sparse_bitmap_next_set(bitmap->bits, first_bit, limit);
    if (start == limit) {
        return 0;
    }
    if (sparse_bitmap_next_clear(bitmap->bits, first_bit, limit) == limit) {
        return 1;
    }
    memset(buf, 0, n_bits / 8 + (n_bits % 8 != 0));
    for (; start < limit;
         start = sparse_bitmap_next_set(bitmap->bits, end, limit)) {
        end = sparse_bitmap_next_clear(bitmap->bits, start, limit);
        fill_bits(buf, start - first_bit, end - first_bit);
    }
    return -1;
}

static bool bit_of(const uint8_t *buf, uint64_t bit)
{
    return buf[bit / 8] >> bit % 8 & 1;
}

/* The first bit in [@start, @n) that is @value, or @n */
static uint64_t next_bit(const uint8_t *buf, uint64_t start, uint64_t n,
                         bool value)
{
    const uint8_t other = value ? 0 : 0xff;

    while (start < n && bit_of(buf, start) != value) {
        start +=
            start % 8 == 0 && n - start >= 8 && buf[start / 8] == other ? 8 : 1;
    }
    return start;
}

void bdrv_dirty_bitmap_set_bits(BdrvDirtyBitmap *bitmap, uint64_t first_bit,
                                uint64_t n_bits, const uint8_t *buf)
{
    SparseBitmapGarbage *garbage;
    uint64_t start, end;

    mutex_lock(&bitmap->lock);
    g_assert(first_bit + n_bits >= first_bit &&
             first_bit + n_bits <= sparse_bitmap_size(bitmap->bits));
    sparse_bitmap_clear(bitmap->bits, first_bit, n_bits);
    for (start = next_bit(buf, 0, n_bits, true); start < n_bits;
         start = next_bit(buf, end, n_bits, true)) {
        end = next_bit(buf, start, n_bits, false);
        sparse_bitmap_set(bitmap->bits, first_bit + start, end - start);
    }
    garbage = sparse_bitmap_take_garbage(bitmap->bits);
    mutex_unlock(&bitmap->lock);
    sparse_bitmap_garbage_free(garbage);
}
