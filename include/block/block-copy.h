/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A copy of a disk as it was at one moment, made while it is written to: what is
 * still to be copied, in clusters, and who copies it. Shared by the filter
 * copy-before-write, where a guest copies what it is about to overwrite, and the
 * workers of a backup job.
 *
 * Any thread, inside a gate above the filter: all of its functions that copy are
 * given the node to read from, which is what the filter stands on at the time.
 */
#ifndef BLOCK_BLOCK_COPY_H
#define BLOCK_BLOCK_COPY_H

#include "block/block-int.h"
#include "block/range-lock.h"

/* Clusters are at least that long: what the target allocates as a whole is copied as
 * a whole. Bytes */
#define BLOCK_COPY_MIN_CLUSTER 65536

typedef struct BlockCopy BlockCopy;

typedef struct BlockCopyOptions {
    BlockDriverState *target; /* the caller's, as long as the copier */
    BlockDriverState *base;   /* what it has is not copied; or NULL */
    int64_t length;           /* of source and target, bytes */
    int64_t max_chunk;        /* bytes of data at once; 0: no limit but ours */
    bool compress;
    /* Each time something was copied, or turned out not to be part of the copy, or
     * failed: @done bytes are copied. By who did it, without locks. May be NULL */
    void (*changed)(void *opaque, int64_t done);
    void *opaque;
} BlockCopyOptions;

/* Nothing is to be copied yet. NULL and @errp if a value does not do. */
BlockCopy *block_copy_new(const BlockCopyOptions *options, GError **errp);
/* Nobody copies any more. NULL is fine. */
void block_copy_free(BlockCopy *bc);
int64_t block_copy_cluster(const BlockCopy *bc);
int64_t block_copy_length(const BlockCopy *bc);
/* The longest request of data, bytes */
int64_t block_copy_max_data(const BlockCopy *bc);

/* All clusters that the range touches are to be copied. */
void block_copy_add(BlockCopy *bc, int64_t offset, int64_t bytes);
/* How many bytes are still to be copied. What others copy just now counts. */
int64_t block_copy_left(BlockCopy *bc);
/* The first range from @offset on that is to be copied; false: none */
bool block_copy_next_left(BlockCopy *bc, int64_t offset, int64_t *start,
                          int64_t *bytes);
/* Is what is at @offset still to be copied? *@pnum: how far the same holds, at most
 * @bytes (not 0). What is not stays so. */
bool block_copy_is_left(BlockCopy *bc, int64_t offset, int64_t bytes,
                        int64_t *pnum);
/* Is any of it? */
bool block_copy_any_left(BlockCopy *bc, int64_t offset, int64_t bytes);
/* Clusters that the range touches need not be copied any more. Waits for those who do.
 * 0 or -ECANCELED */
int block_copy_forget(BlockCopy *bc, int64_t offset, int64_t bytes);
/* Nothing is copied any more, and nobody waits for it. */
void block_copy_stop(BlockCopy *bc);

/*
 * [@offset, @offset + @bytes) of @source is going to be overwritten: when this
 * returns 0 all of it is copied that was to be. Waits for those who copy the same
 * place. -errno: it is not, and *@is_read tells which disk failed; -ECANCELED if
 * that is the request.
 */
int block_copy(BlockCopy *bc, BlockDriverState *source, int64_t offset,
               int64_t bytes, bool *is_read);

/*
 * Which parts of the target are zero as it is, as far as a few questions tell. Those
 * who copy at the same time do no harm.
 */
void block_copy_learn_target(BlockCopy *bc,
                             int (*ask)(void *opaque, int64_t offset,
                                        int64_t bytes, int64_t *pnum),
                             void *opaque);

/* How many guests wait for somebody else who copies */
unsigned block_copy_waiting(BlockCopy *bc);

/* ---- for workers -------------------------------------------------------- */

/* One who copies; zeroed at first */
typedef struct BlockCopyOp {
    int64_t offset, bytes;
    enum {
        BLOCK_COPY_DATA,
        BLOCK_COPY_ZERO,   /* to be written as such */
        BLOCK_COPY_THERE,  /* zeroes that the target has */
        BLOCK_COPY_NOTHING /* not part of the copy */
    } kind;
    bool plain;   /* it is zeroes, which are written like data */
    int64_t done; /* bytes of it that are copied */
    bool is_read; /* the request that failed was one of the source */
    RangeHold hold;
    void *buf; /* its own, from the first data on */
} BlockCopyOp;

/*
 * Something to copy from *@cursor on, and around the disk's end, that nobody else
 * has in hand: @op holds it. Does not wait; false: there is nothing.
 */
bool block_copy_pick(BlockCopy *bc, BlockCopyOp *op, int64_t *cursor);
/* What it is, and how much of it: what is written like data is at most @max_data bytes,
 * or one cluster. Asks about block status */
void block_copy_look(BlockCopy *bc, BlockDriverState *source, BlockCopyOp *op,
                     int64_t max_data);
/* 0, or -errno: it is still to be copied. */
int block_copy_do(BlockCopy *bc, BlockDriverState *source, BlockCopyOp *op);
/* What @op holds others may have. */
void block_copy_give_up(BlockCopy *bc, BlockCopyOp *op);
/* Frees the buffer. */
void block_copy_op_destroy(BlockCopyOp *op);

#endif
