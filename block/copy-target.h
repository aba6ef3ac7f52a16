/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What jobs that copy a disk want to know of the node that they copy to */
#ifndef BLOCK_COPY_TARGET_H
#define BLOCK_COPY_TARGET_H

#include "block/block-int.h"
#include "util/sparse-bitmap.h"

/* Bytes that @bs, or the format that it passes through, allocates as a whole; 0:
 * any. Graph mutex held */
int64_t copy_target_cluster(BlockDriverState *bs);

/*
 * All of @iov to @bs: 0 or -errno. Compressed data overwrites nothing, but fails with
 * EIO; so if a write of the copy has failed before (@again), which may have been this one
 * with some of it there now, it is written uncompressed then. In a request's gate
 */
int copy_target_write(BlockDriverState *bs, int64_t offset,
                      const struct iovec *iov, bool compress, bool again);

/*
 * Which parts of a copy read as zeroes already, so that none need be written
 * there. Kept in the granules that are copied; not locked.
 */
typedef struct TargetZero {
    SparseBitmap *bits;
    int64_t length, granularity;
} TargetZero;

/* Nothing is known at first. Bytes; @granularity: any */
void target_zero_init(TargetZero *z, int64_t length, int64_t granularity);
void target_zero_destroy(TargetZero *z);
/* How many granules @bytes from the disk's start take */
int64_t target_zero_granules(const TargetZero *z, int64_t bytes);
/* The range reads as zeroes, or is not known to any more: rounded inward, and
 * outward. */
void target_zero_set(TargetZero *z, int64_t offset, int64_t bytes);
void target_zero_clear(TargetZero *z, int64_t offset, int64_t bytes);
/*
 * Are zeroes known at @offset, where a granule begins? *@pnum: how far, at most
 * @bytes, the same holds.
 */
bool target_zero_test(const TargetZero *z, int64_t offset, int64_t bytes,
                      int64_t *pnum);

/*
 * Does what @bs reads as zeroes stay so whatever is done to the nodes below it?
 * Not if it has a backing file, or is to have one. Graph mutex held
 */
bool target_zero_is_its_own(BlockDriverState *bs);

/*
 * A few questions about block status from @offset 0 on, and more, for a moment,
 * where the answers are nothing but zeroes: ask() is blk_block_status() with
 * BDRV_WANT_ZERO, and found() is told where zeroes are, or -errno by ask() ends it.
 */
typedef struct TargetZeroLearner {
    int (*ask)(void *opaque, int64_t offset, int64_t bytes, int64_t *pnum);
    void (*found)(void *opaque, int64_t offset, int64_t bytes);
    void *opaque;
} TargetZeroLearner;
void target_zero_learn(const TargetZeroLearner *learner, int64_t length);

#endif
