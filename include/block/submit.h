/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests in two halves, for who has many under way on one thread: begin does all
 * that comes before the system call, the caller has the kernel do that, and end does
 * what follows. Neither waits for anybody.
 */
#ifndef BLOCK_SUBMIT_H
#define BLOCK_SUBMIT_H

#include <sys/uio.h>

#include "block/block.h"
#include "block/range-lock.h"
#include "block/status-cache.h"

/* The longest request, bytes: of longer ones, what they hold is better sent by many */
#define BLK_SUBMIT_MAX 32768
/* A raw disk, and what it lies on */
#define BLK_SUBMIT_NODES 2

typedef enum BlkSubmitted {
    BLK_SUBMIT_NOT, /* nothing has happened: do it by blk_pread(), blk_pwrite() */
    BLK_SUBMIT_BEGUN,
    BLK_SUBMIT_ZERO, /* of a read: it is done, and would have read zeroes */
} BlkSubmitted;

/* The caller's memory, which stays where it is from begin to end */
typedef struct BlkSubmit {
    /* What the kernel is to do: read, or write, all of @iov at @offset of @fd */
    bool is_write;
    int fd;
    int64_t offset;
    struct iovec iov;

    /* The block layer's: */
    BlockBackend *blk;
    int64_t start_ns;
    BlockDriverState *nodes[BLK_SUBMIT_NODES]; /* from the top down */
    RangeHold holds[BLK_SUBMIT_NODES];         /* of a write */
    int n_nodes;
    StatusOp op; /* of a write */
} BlkSubmit;

/* Is it likely that requests can be begun? Any thread, waits for nothing */
bool blk_may_submit(BlockBackend *blk);
/*
 * Begin to read @bytes into @buf, or to write them. If that is BEGUN, the caller has
 * it done and calls blk_submit_end(), soon and whatever happens: who drains waits for
 * that. In between he waits for nothing but the kernel's answers to what he has
 * begun; but he may begin more. Any thread, which is in no request
 */
BlkSubmitted blk_submit_begin(BlkSubmit *s, BlockBackend *blk, bool is_write,
                              int64_t offset, void *buf, int64_t bytes);
/*
 * The kernel has answered @result: so many bytes, or -errno. 0 or -errno as of
 * blk_pread() or blk_pwrite(). What was not done for no fault of the disk's is done
 * now, by system calls of this thread.
 */
int blk_submit_end(BlkSubmit *s, ssize_t result);

#endif
