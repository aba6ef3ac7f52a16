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
#include "util/sparse-bitmap.h"

/*
 * An empty bitmap. @granularity: bytes, a power of two from 512 to 2 GiB. @name
 * is unique among those of @bs, or NULL. May ask the driver for the length of
 * the disk.
 */
BdrvDirtyBitmap *bdrv_create_dirty_bitmap(BlockDriverState *bs,
                                          uint32_t granularity,
                                          const char *name, GError **errp);
/* Can that be one? */
bool bdrv_check_bitmap_granularity(uint32_t granularity, GError **errp);
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

/* ---- bitmaps that users have -------------------------------------------- */

/*
 * They have names, and come and go with the graph mutex held; so whoever holds
 * that may use what bdrv_find_dirty_bitmap() returns, and others only while they
 * keep it busy.
 */

/* A bitmap of @bs itself; NULL and @errp if there is none of that name */
BdrvDirtyBitmap *bdrv_find_dirty_bitmap(BlockDriverState *bs, const char *name,
                                        GError **errp);

/* How users name bitmaps: BlockDirtyBitmap; an array of BlockDirtyBitmapOrStr */
extern const SchemaType bitmap_of_node_type;
extern const SchemaType bitmap_ref_list_type;
/*
 * The bitmap that @ref names, one of @bs if it names no node, and its node (a
 * reference for the caller). NULL and @errp. Graph mutex held
 */
BdrvDirtyBitmap *bdrv_find_bitmap_ref(BlockDriverState *bs, JsonNode *ref,
                                      BlockDriverState **bitmap_bs,
                                      GError **errp);
/* That of node @node, likewise */
BdrvDirtyBitmap *bdrv_find_bitmap_of(const char *node, const char *name,
                                     BlockDriverState **bs, GError **errp);
/* That of @bs or of the first node below that has one of that name, down through
 * filters and backing files; likewise */
BdrvDirtyBitmap *bdrv_find_bitmap_below(BlockDriverState *bs, const char *name,
                                        BlockDriverState **bitmap_bs,
                                        GError **errp);
/* For a new one on @bs, bytes: the image's clusters, if they are of some size.
 * Management thread */
uint32_t bdrv_default_bitmap_granularity(BlockDriverState *bs);

/* Why a bitmap may not be used, as far as the caller minds */
enum {
    BDRV_BITMAP_BUSY = 0x1,         /* a job or an export uses it */
    BDRV_BITMAP_READ_ONLY = 0x2,    /* its image cannot be written */
    BDRV_BITMAP_INCONSISTENT = 0x4, /* it was not stored at the end */
    BDRV_BITMAP_DEFAULT = 0x7,
    BDRV_BITMAP_ALLOW_RO = 0x5,
};
/* False and @errp if one of @flags holds */
bool bdrv_dirty_bitmap_check(BdrvDirtyBitmap *bitmap, unsigned flags,
                             GError **errp);
/* The same of all that @bs has. Graph mutex held */
bool bdrv_check_all_bitmaps(BlockDriverState *bs, unsigned flags,
                            GError **errp);
/* Nests. */
void bdrv_dirty_bitmap_set_busy(BdrvDirtyBitmap *bitmap, bool busy);

/* Does it mark writes? All do at first. */
bool bdrv_dirty_bitmap_enabled(BdrvDirtyBitmap *bitmap);
void bdrv_dirty_bitmap_set_enabled(BdrvDirtyBitmap *bitmap, bool enabled);
/* Is it to be stored in the image when the node is closed? */
bool bdrv_dirty_bitmap_persistent(BdrvDirtyBitmap *bitmap);
void bdrv_dirty_bitmap_set_persistent(BdrvDirtyBitmap *bitmap, bool persistent);
bool bdrv_dirty_bitmap_inconsistent(BdrvDirtyBitmap *bitmap);
void bdrv_dirty_bitmap_set_inconsistent(BdrvDirtyBitmap *bitmap);
void bdrv_dirty_bitmap_set_read_only(BdrvDirtyBitmap *bitmap, bool read_only);

/*
 * Clear all; or mark all that is marked in @src, of any granularity, of a node of
 * the same length (false and @errp otherwise, see below). With @backup the bits as
 * they were are kept there, to be put back or dropped. The last change is undone
 * first. A merge is done in steps, and nobody clears any of @src meanwhile.
 */
void bdrv_clear_dirty_bitmap(BdrvDirtyBitmap *bitmap, SparseBitmap **backup);
bool bdrv_merge_dirty_bitmap(BdrvDirtyBitmap *dest, BdrvDirtyBitmap *src,
                             SparseBitmap **backup, GError **errp);
/* Is there no such error, as it is now? Rounded up to sectors, as QEMU's disks are, the
 * lengths may be different. */
bool bdrv_can_merge_dirty_bitmap(BdrvDirtyBitmap *dest, BdrvDirtyBitmap *src,
                                 GError **errp);
/* Both take @backup. What writes have marked since stays marked. */
void bdrv_restore_dirty_bitmap(BdrvDirtyBitmap *bitmap, SparseBitmap *backup);
void bdrv_drop_dirty_backup(BdrvDirtyBitmap *bitmap, SparseBitmap *backup);

/* Is @offset dirty, and how far (at most @bytes, and the disk) does the same
 * hold? What lies beyond the disk is not. Any thread */
bool bdrv_dirty_bitmap_status(BdrvDirtyBitmap *bitmap, int64_t offset,
                              int64_t bytes, int64_t *pnum);

/*
 * For jobs that copy what is marked: freeze sets that aside, and what is written
 * from now on is marked anew (if the bitmap is enabled). It is busy from then on
 * until thaw, which either adds what was set aside to what was marked since, or
 * drops it. No write is in flight at freeze, but at thaw.
 */
void bdrv_dirty_bitmap_freeze(BdrvDirtyBitmap *bitmap);
void bdrv_dirty_bitmap_thaw(BdrvDirtyBitmap *bitmap, bool merge);
/* As bdrv_dirty_bitmap_next_area() and bdrv_reset_dirty_bitmap(), of what was set
 * aside */
bool bdrv_dirty_bitmap_next_frozen(BdrvDirtyBitmap *bitmap, int64_t offset,
                                   int64_t end, int64_t max_bytes,
                                   int64_t *dirty_offset, int64_t *dirty_bytes);
void bdrv_dirty_bitmap_reset_frozen(BdrvDirtyBitmap *bitmap, int64_t offset,
                                    int64_t bytes);

/*
 * For image formats that store bitmaps: @n_bits from @first_bit on, eight in a
 * byte, the lowest bit of the first byte first. get: 0 if all are clear, 1 if all
 * are set, and then @buf is untouched; otherwise -1. set: those bits are as in
 * @buf.
 */
int bdrv_dirty_bitmap_get_bits(BdrvDirtyBitmap *bitmap, uint64_t first_bit,
                               uint64_t n_bits, uint8_t *buf);
void bdrv_dirty_bitmap_set_bits(BdrvDirtyBitmap *bitmap, uint64_t first_bit,
                                uint64_t n_bits, const uint8_t *buf);
uint64_t bdrv_dirty_bitmap_n_bits(BdrvDirtyBitmap *bitmap);
/* All bitmaps of @bs that have names, in order of creation. (transfer container)
 * Graph mutex held */
GPtrArray *bdrv_named_dirty_bitmaps(BlockDriverState *bs);

/* For block.c: the node goes. */
void bdrv_release_named_dirty_bitmaps(BlockDriverState *bs);

/* For io.c: [@offset, @offset + @bytes) of @bs was or may have been written. */
void bdrv_set_dirty(BlockDriverState *bs, int64_t offset, int64_t bytes);
/* JSON rows for query-named-block-nodes, the last one made first; any thread */
JsonArray *bdrv_query_dirty_bitmaps(BlockDriverState *bs);

#endif
