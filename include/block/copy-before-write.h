/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The filter copy-before-write: what is about to be overwritten in the node below,
 * "file", is copied to another one first, "target", which so gets to hold what the
 * first one held at one moment.
 */
#ifndef BLOCK_COPY_BEFORE_WRITE_H
#define BLOCK_COPY_BEFORE_WRITE_H

#include "block/block-copy.h"

extern const BlockDriver bdrv_copy_before_write;

/*
 * A copy has failed, and a guest is about to overwrite what was not copied: 0 if it
 * may do so, or what its write returns. In a guest's request
 */
typedef int CbwFailed(void *opaque, int ret, bool is_read);

/*
 * A filter for a job, still without a child "file": bdrv_insert_filter() is to
 * follow. @options: what to copy with, but for the target, which becomes a child.
 * Nothing is to be copied yet. NULL and @errp on error. Graph mutex held. The
 * reference is the caller's.
 */
BlockDriverState *cbw_new(const char *node_name, BlockDriverState *target,
                          const BlockCopyOptions *options, CbwFailed *failed,
                          GError **errp);
/* That lives as long as the filter. */
BlockCopy *cbw_block_copy(BlockDriverState *filter);
/* The target is not its child any more. It is drained and has no child "file". */
void cbw_drop_target(BlockDriverState *filter);

/*
 * What the disk was when a node that blockdev-add made was opened. find: in @bs or what
 * it is a filter of; or NULL. The others are about that node, inside a gate; reads and status
 * are -EACCES where nothing is kept, or nothing any more. status: as bdrv_block_status_above() to the
 * end of all. discard: whole clusters need not be kept any longer.
 */
BlockDriverState *cbw_find_snapshot(BlockDriverState *bs);
int64_t cbw_snapshot_length(BlockDriverState *bs);
int cbw_snapshot_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        const struct iovec *iov, int niov);
int cbw_snapshot_status(BlockDriverState *bs, unsigned want, int64_t offset,
                        int64_t bytes, int64_t *pnum);
int cbw_snapshot_discard(BlockDriverState *bs, int64_t offset, int64_t bytes);

#endif
