/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What block/dirty-bitmap*.c share */
#ifndef BLOCK_DIRTY_BITMAP_INT_H
#define BLOCK_DIRTY_BITMAP_INT_H

#include "block/dirty-bitmap.h"

struct BdrvDirtyBitmap {
    char *name;
    uint32_t granularity;
    unsigned shift; /* log2 of granularity */
    Mutex lock;
    SparseBitmap *bits;   /* lock */
    SparseBitmap *frozen; /* lock; what was set aside, or NULL */
    /* lock; what writes have marked while there are backups, or NULL */
    SparseBitmap *since;
    unsigned n_backups;                       /* lock */
    int64_t length;                           /* lock; of the disk, bytes */
    unsigned n_busy;                          /* lock */
    bool enabled;                             /* lock */
    bool persistent, inconsistent, read_only; /* lock */
    /* bs->dirty_lock */
    void (*notify)(void *opaque);
    void *notify_opaque;
};

static inline uint64_t dirty_bitmap_granules(const BdrvDirtyBitmap *bitmap,
                                             int64_t bytes)
{
    return ((uint64_t)bytes + bitmap->granularity - 1) >> bitmap->shift;
}

/* That of @bs, or NULL. Called with bs->dirty_lock held. */
BdrvDirtyBitmap *dirty_bitmap_named(BlockDriverState *bs, const char *name);
/* Of *@bits, which is &bitmap->bits or &bitmap->frozen */
int64_t dirty_bitmap_reset(BdrvDirtyBitmap *bitmap, SparseBitmap **bits,
                           int64_t offset, int64_t bytes);
bool dirty_bitmap_next(BdrvDirtyBitmap *bitmap, SparseBitmap **bits,
                       int64_t offset, int64_t end, int64_t max_bytes,
                       int64_t *dirty_offset, int64_t *dirty_bytes);

#endif
