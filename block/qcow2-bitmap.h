/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: what the files about stored bitmaps share.
 *
 * A header extension says where their directory is, that where each bitmap's table
 * is, and that where its bits are, but those of a cluster of bits that are all clear
 * or all set. Nothing of it counts unless the autoclear feature is set.
 *
 * While a node is written to, its bitmaps are in memory, and those in the image are
 * out of date. So each says that it is in use: that is written in place, and is on
 * stable storage, before the first write. At the end bits, tables and a new directory
 * go where nothing is, and are on stable storage before the header refers to them;
 * only then what was there before becomes free. Whenever that stops, a bitmap in the
 * image is as it was before anything was written, or in use, or as it is to be.
 */
#ifndef BLOCK_QCOW2_BITMAP_H
#define BLOCK_QCOW2_BITMAP_H

#include "block/dirty-bitmap.h"
#include "block/qcow2.h"

#define QCOW2_BITMAPS_EXT_BYTES 24
#define QCOW2_BITMAP_ENTRY_BYTES 24 /* without extra data, name and padding */
#define QCOW2_MAX_BITMAPS 65535
#define QCOW2_MAX_BITMAP_NAME 1023
#define QCOW2_MAX_BITMAP_DIRECTORY (INT64_C(1024) * QCOW2_MAX_BITMAPS)
#define QCOW2_MAX_BITMAP_BYTES (INT64_C(512) << 20) /* of clusters of bits */
#define QCOW2_MIN_BITMAP_GRANULARITY 9
#define QCOW2_MAX_BITMAP_GRANULARITY 31

enum { /* of a bitmap in the directory */
    QCOW2_BITMAP_IN_USE = 0x1,
    QCOW2_BITMAP_AUTO = 0x2, /* it marks writes */
    QCOW2_BITMAP_EXTRA_COMPATIBLE = 0x4,
};

/* Entries of bitmap tables */
#define QCOW2_BITMAP_ALL_ONES UINT64_C(1) /* where there is no offset */
#define QCOW2_BITMAP_RESERVED UINT64_C(0xff000000000001fe)

/* A bitmap, as the directory has it */
typedef struct Qcow2Bitmap {
    char *name;      /* in UTF-8, whatever it is in the image; unique */
    GBytes *written; /* as it is there */
    GBytes *extra;   /* data that nobody here knows of; or NULL */
    uint64_t table_offset;
    uint32_t table_entries;
    uint32_t flags;
    unsigned granularity_bits;
} Qcow2Bitmap;

/* ---- qcow2-bitmap-directory.c ---- */

void qcow2_bitmap_free(Qcow2Bitmap *b); /* NULL is fine. */
/* Clusters that the bits of a disk of @length take */
uint64_t qcow2_bitmap_clusters(const Qcow2State *s, int64_t length,
                               unsigned granularity_bits);
/* Bytes of the directory's entry */
uint64_t qcow2_bitmap_entry_bytes(uint64_t name_bytes, uint64_t extra_bytes);
/*
 * For open: s->bitmaps and where their directory is, as the extension in the header
 * says; one that does not count is dropped from s->extensions. 0, or -errno
 * and @errp.
 */
int qcow2_bitmaps_read_directory(Qcow2State *s, GError **errp);
/* All that are in the image say there that they are in use, on stable storage. 0, or
 * -errno and @errp. Takes s->lock. */
int qcow2_bitmaps_mark(Qcow2State *s, GError **errp);
/*
 * The image is to have these (of Qcow2Bitmap) from now on, whose tables are written:
 * rules 1, 2 and 4. The array is s->bitmaps afterwards; the old one goes, but what it has is the
 * caller's. 0, or -errno and @errp. Then all is as before, but if *@unknown that
 * is not sure for what the file has: what only @bitmaps refer to must not become
 * free. s->lock held
 */
int qcow2_bitmaps_replace(Qcow2State *s, GPtrArray *bitmaps, bool *unknown,
                          GError **errp);

/* ---- qcow2-bitmap-table.c ---- */

/*
 * Memory that bits take, and time, are bounded by the length of the file: *@budget,
 * of bytes that all bitmaps together may have there.
 */
int qcow2_bitmap_load(Qcow2State *s, const Qcow2Bitmap *b,
                      BdrvDirtyBitmap *bitmap, uint64_t *budget, GError **errp);
/* The bits and their table go to clusters that @b refers to then. 0, or -errno, and
 * nothing is left. s->lock held */
int qcow2_bitmap_store(Qcow2State *s, Qcow2Bitmap *b, BdrvDirtyBitmap *bitmap);
/* Nothing on stable storage refers to the table: it becomes free, and so does what
 * it refers to. What cannot be read, or makes no sense, leaks. s->lock held */
void qcow2_bitmap_free_clusters(Qcow2State *s, const Qcow2Bitmap *b);

/* ---- qcow2-bitmap-store.c ---- */

/*
 * Store all that are to be stored and are not read-only. Of one that cannot be
 * the image keeps what it had, in use; its reason is warned of, or, with
 * @all, is the error. 0, or -errno and @errp. *@unknown as above. Takes s->lock.
 */
int qcow2_bitmaps_store(Qcow2State *s, bool all, bool *unknown, GError **errp);
/* Tells of those that would have to be stored now, in an image that is read-only */
void qcow2_bitmaps_warn_lost(Qcow2State *s);
/* Is there room for what is stored of a bitmap? False and @errp */
bool qcow2_bitmap_check(const Qcow2State *s, const char *name,
                        unsigned granularity_bits, int64_t length,
                        GError **errp);

#endif
