/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a protocol driver reads from a disk that has a status cache: around what
 * is known to be zero; and, if it is to learn, looking for zeroes in the rest.
 */
#ifndef BLOCK_STATUS_READ_H
#define BLOCK_STATUS_READ_H

#include "block/block-int.h"

typedef struct StatusReader {
    StatusCache *cache;
    /* Its align is a multiple of what requests and memory have to have. */
    StatusCutLimits limits;
    bool learn; /* rule 10 of status-cache.c */
    int fd;     /* of the page cache that reads ahead; or -1 */

    /* atomic, and only a guess when several read */
    int64_t next;  /* where the last read ended */
    int64_t row;   /* where those began of which each began there */
    int64_t ahead; /* so far the kernel was told what comes next */
} StatusReader;

/*
 * @fd is read from, and reads are aligned to @l; @direct: they pass by the page
 * cache. The reader does not learn until it is told to.
 */
void status_reader_init(StatusReader *r, StatusCache *cache, int fd,
                        const BlockLimits *l, bool direct);

/*
 * Do what BlockDriver.preadv has to do, with @read for what has to be read:
 * nothing, all at once, or a few pieces in order. Any thread. 0 or -errno; then
 * the buffers' contents are undefined.
 */
int status_read(StatusReader *r, BlockDriverState *bs, int64_t offset,
                int64_t bytes, const struct iovec *iov, int niov, int flags,
                int (*read)(BlockDriverState *bs, int64_t offset, int64_t bytes,
                            const struct iovec *iov, int niov));

/*
 * The same in two halves, if @read is to read all of it and nothing is to be learned:
 * BLK_SUBMIT_BEGUN, and nothing follows. ZERO: it is all zero (and accounted).
 */
BlkSubmitted status_read_submit(const StatusReader *r, int64_t offset,
                                int64_t bytes);

/* Is [@offset, ...) left out of a read of @bytes (accounted then), and how far
 * does the answer hold, of which *@pnum is at least 1? For BDRV_WANT_READ */
bool status_read_cut(const StatusReader *r, int64_t offset, int64_t bytes,
                     int64_t *pnum);

/*
 * Make an answer about the disk, which ends at @end, end at a multiple of
 * request_alignment, or with the disk: data may grow for that, zeroes must not.
 */
BlockState status_align_answer(BlockDriverState *bs, BlockState state,
                               int64_t offset, int64_t end, int64_t *pnum);

#endif
