/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dirty bitmaps: which parts of a node were written since. A write marks them
 * after the status cache is settled and before it is acknowledged, whether it
 * succeeded or not. Any thread; each bitmap has a lock of its own.
 *
 * A write that is acknowledged after bdrv_create_dirty_bitmap() returned is
 * marked. Whoever needs "every write that began after" has it with that, and
 * who needs "no write that began before" drains the node around the creation.
 */
#ifndef BLOCK_DIRTY_BITMAP_H
#define BLOCK_DIRTY_BITMAP_H

#include "block/block-int.h"

/*
 * An empty bitmap. @granularity: bytes, a power of two from 512 to 2 GiB. @name
 * is unique among those of @bs, or NULL. May ask the driver for the length of
 * the disk.
 */
BdrvDirtyBitmap *bdrv_create_dirty_bitmap(BlockDriverState *bs,
                                          uint32_t granularity,
                                          const char *name, GError **errp);
/* The node has a new length: what is new is clean. Nobody writes meanwhile. */
void bdrv_resize_dirty_bitmaps(BlockDriverState *bs, int64_t length);
/* Nobody else may be using @bitmap; writes to @bs may be in flight. */
void bdrv_release_dirty_bitmap(BlockDriverState *bs, BdrvDirtyBitmap *bitmap);

/*
 * @func is called after each bdrv_set_dirty() that marked @bitmap, by the writer
 * and inside bs->dirty_lock: it must be short, and must not wait.
 */
void bdrv_dirty_bitmap_set_notify(BlockDriverState *bs, BdrvDirtyBitmap *bitmap,
                                  void (*func)(void *opaque), void *opaque);

uint32_t bdrv_dirty_bitmap_granularity(const BdrvDirtyBitmap *bitmap);
const char *bdrv_dirty_bitmap_name(const BdrvDirtyBitmap *bitmap);
/* Bytes marked, counted in whole granules but not beyond the disk's end */
int64_t bdrv_get_dirty_count(BdrvDirtyBitmap *bitmap);
/* Marks every granule that the range touches. */
void bdrv_set_dirty_bitmap(BdrvDirtyBitmap *bitmap, int64_t offset,
                           int64_t bytes);
/* Clears the granules that the range covers up to their end or the disk's.
 * Returns how many bytes of them were marked. */
int64_t bdrv_reset_dirty_bitmap(BdrvDirtyBitmap *bitmap, int64_t offset,
                                int64_t bytes);
/*
 * The first dirty area in [@offset, @end): stores it, at most @max_bytes of it,
 * and returns true; false if there is none.
 */
bool bdrv_dirty_bitmap_next_area(BdrvDirtyBitmap *bitmap, int64_t offset,
                                 int64_t end, int64_t max_bytes,
                                 int64_t *dirty_offset, int64_t *dirty_bytes);

/*
 * From begin to end the writes of this thread do not mark @bitmap: who asks for
 * that does it, if it has to be done. What they would have marked lies within
 * [@start, @end), nothing if @end is 0.
 */
typedef struct BdrvDirtySkip BdrvDirtySkip;
struct BdrvDirtySkip {
    BdrvDirtySkip *outer;
    BdrvDirtyBitmap *bitmap;
    int64_t start, end;
};
void bdrv_dirty_skip_begin(BdrvDirtySkip *skip, BdrvDirtyBitmap *bitmap);
void bdrv_dirty_skip_end(BdrvDirtySkip *skip);

/* For io.c: [@offset, @offset + @bytes) of @bs was or may have been written. */
void bdrv_set_dirty(BlockDriverState *bs, int64_t offset, int64_t bytes);
/* JSON rows for query-named-block-nodes; any thread */
JsonArray *bdrv_query_dirty_bitmaps(BlockDriverState *bs);

#endif
