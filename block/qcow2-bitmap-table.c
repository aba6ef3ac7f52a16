/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: the bits of a stored bitmap, and the table that says where they are */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2-bitmap.h"
#include "util/error.h"

/* Bits in a cluster */
static uint64_t bits_per_cluster(const Qcow2State *s)
{
    return (uint64_t)s->cluster_size * 8;
}

/* ---- from the image ------------------------------------------------------- */

/* Host order; NULL: -errno is in *@ret. Its length was checked. */
static uint64_t *read_table(Qcow2State *s, const Qcow2Bitmap *b, int *ret)
{
    uint64_t bytes = b->table_entries * sizeof(uint64_t);
    uint64_t *table = g_try_malloc(bytes);
    uint32_t i;

    *ret = table ? qcow2_read_file(s, b->table_offset, bytes, table) : -ENOMEM;
    if (*ret < 0) {
        g_free(table);
        return NULL;
    }
    for (i = 0; i < b->table_entries; i++) {
        table[i] = GUINT64_FROM_BE(table[i]);
    }
    return table;
}

static bool entry_makes_sense(const Qcow2State *s, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    return !(entry & QCOW2_BITMAP_RESERVED) &&
           !(offset && entry & QCOW2_BITMAP_ALL_ONES) &&
           qcow2_in_cluster(s, offset) == 0;
}

/* Bits [@first, @first + @n), as @entry says */
static int load_entry(Qcow2State *s, BdrvDirtyBitmap *bitmap, uint64_t entry,
                      uint64_t first, uint64_t n, uint8_t *buf)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    int ret;

    if (offset) {
        ret = qcow2_read_file(s, offset, (n + 7) / 8, buf);
        if (ret < 0) {
            return ret;
        }
    } else if (entry & QCOW2_BITMAP_ALL_ONES) {
        memset(buf, 0xff, (n + 7) / 8);
    } else {
        return 0;
    }
    bdrv_dirty_bitmap_set_bits(bitmap, first, n, buf);
    return 0;
}

/* What the table and the clusters that it refers to take of the file */
static bool take_from_budget(const Qcow2State *s, const Qcow2Bitmap *b,
                             const uint64_t *table, uint64_t *budget)
{
    uint64_t bytes = b->table_entries * sizeof(uint64_t);
    uint32_t i;

    for (i = 0; i < b->table_entries; i++) {
        if (table[i] & QCOW2_OFFSET_MASK) {
            bytes += s->cluster_size;
        }
    }
    if (bytes > *budget) {
        return false;
    }
    *budget -= bytes;
    return true;
}

static int load_table(Qcow2State *s, const Qcow2Bitmap *b,
                      const uint64_t *table, BdrvDirtyBitmap *bitmap,
                      GError **errp)
{
    g_autofree uint8_t *buf = g_malloc(s->cluster_size);
    uint64_t n_bits = bdrv_dirty_bitmap_n_bits(bitmap);
    uint64_t first = 0;
    uint32_t i;

    for (i = 0; i < b->table_entries; i++) {
        uint64_t n = MIN(n_bits - first, bits_per_cluster(s));
        int ret;

        if (!entry_makes_sense(s, table[i])) {
            error_setg(errp,
                       "Bitmap '%s': invalid entry %" PRIu32
                       " of its table: %#" PRIx64,
                       b->name, i, table[i]);
            return -EINVAL;
        }
        ret = load_entry(s, bitmap, table[i], first, n, buf);
        if (ret < 0) {
            error_setg_errno(errp, -ret,
                             "Could not read bits of bitmap '%s' at offset "
                             "%" PRIu64,
                             b->name, (uint64_t)(table[i] & QCOW2_OFFSET_MASK));
            return ret;
        }
        first += n;
    }
    return 0;
}

int qcow2_bitmap_load(Qcow2State *s, const Qcow2Bitmap *b,
                      BdrvDirtyBitmap *bitmap, uint64_t *budget, GError **errp)
{
    uint64_t want = qcow2_bitmap_clusters(s, s->length, b->granularity_bits);
    g_autofree uint64_t *table = NULL;
    int ret;

    if (b->table_entries != want) {
        error_setg(errp,
                   "Bitmap '%s': its table has %" PRIu32
                   " entries, not the %" PRIu64 " of a disk of %" PRId64
                   " bytes",
                   b->name, b->table_entries, want, s->length);
        return -EINVAL;
    }
    table = read_table(s, b, &ret);
    if (!table) {
        error_setg_errno(errp, -ret,
                         "Could not read the table of bitmap '%s' at offset "
                         "%" PRIu64,
                         b->name, b->table_offset);
        return ret;
    }
    if (!take_from_budget(s, b, table, budget)) {
        error_setg(errp,
                   "Bitmap '%s': the bitmaps together are longer than the file",
                   b->name);
        return -EINVAL;
    }
    return load_table(s, b, table, bitmap, errp);
}

/* ---- to the image --------------------------------------------------------- */

/* In whole clusters, where nothing is. Where, or -errno */
static int64_t write_new(Qcow2State *s, const void *buf, uint64_t bytes,
                         const char *what)
{
    int64_t offset = qcow2_alloc_clusters(s, bytes);
    int ret = -EIO;

    if (offset < 0) {
        return offset;
    }
    s->data_unflushed = true;
    if (qcow2_check_overlap(s, offset, bytes, what)) {
        ret = qcow2_write_file(s, offset, bytes, buf);
    }
    if (ret < 0) {
        qcow2_free_now(s, offset, bytes);
        return ret;
    }
    return offset;
}

/* What a table (host order) refers to is free again. */
static void free_bits(Qcow2State *s, const uint64_t *table, uint32_t entries)
{
    uint32_t i;

    for (i = 0; i < entries; i++) {
        if (table[i] & QCOW2_OFFSET_MASK && entry_makes_sense(s, table[i])) {
            qcow2_free_now(s, table[i], s->cluster_size);
        }
    }
}

/* The entry for @n bits from @first on, which are written where they must be */
static int store_entry(Qcow2State *s, BdrvDirtyBitmap *bitmap, uint64_t first,
                       uint64_t n, uint8_t *buf, uint64_t *entry)
{
    int64_t offset;

    *entry = 0;
    switch (bdrv_dirty_bitmap_get_bits(bitmap, first, n, buf)) {
    case 0:
        return 0;
    case 1:
        *entry = QCOW2_BITMAP_ALL_ONES;
        return 0;
    }
    memset(buf + (n + 7) / 8, 0, s->cluster_size - (n + 7) / 8);
    offset = write_new(s, buf, s->cluster_size, "bits of a bitmap");
    if (offset < 0) {
        return offset;
    }
    *entry = offset;
    return 0;
}

/* @table, in host order, becomes one as on the disk. */
static int64_t write_table(Qcow2State *s, uint64_t *table, uint32_t entries)
{
    uint64_t bytes = qcow2_round_up(s, entries * sizeof(uint64_t));
    g_autofree uint64_t *buf = g_malloc0(bytes);
    uint32_t i;

    for (i = 0; i < entries; i++) {
        buf[i] = GUINT64_TO_BE(table[i]);
    }
    return write_new(s, buf, bytes, "bitmap table");
}

int qcow2_bitmap_store(Qcow2State *s, Qcow2Bitmap *b, BdrvDirtyBitmap *bitmap)
{
    uint64_t n_bits = bdrv_dirty_bitmap_n_bits(bitmap);
    uint32_t entries = qcow2_bitmap_clusters(s, s->length, b->granularity_bits);
    g_autofree uint64_t *table = g_new0(uint64_t, entries);
    g_autofree uint8_t *buf = g_malloc(s->cluster_size);
    uint64_t first = 0;
    int64_t offset = 0;
    uint32_t i;

    for (i = 0; offset == 0 && i < entries; i++) {
        uint64_t n = MIN(n_bits - first, bits_per_cluster(s));

        offset = store_entry(s, bitmap, first, n, buf, &table[i]);
        first += n;
    }
    if (offset == 0) {
        offset = write_table(s, table, entries);
    }
    if (offset < 0) {
        free_bits(s, table, entries);
        return offset;
    }
    b->table_offset = offset;
    b->table_entries = entries;
    return 0;
}

void qcow2_bitmap_free_clusters(Qcow2State *s, const Qcow2Bitmap *b)
{
    g_autofree uint64_t *table = NULL;
    int ret;

    table = read_table(s, b, &ret);
    if (table) {
        free_bits(s, table, b->table_entries);
    }
    qcow2_free_now(s, b->table_offset, b->table_entries * sizeof(uint64_t));
}
