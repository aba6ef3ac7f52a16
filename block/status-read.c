/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads of a disk that has a status cache: what is known to be zero is filled
 * in, and the rest is read. Why that is right stands in status-cache-read.c.
 *
 * A read that is all zero does not touch the disk at all. Of others, only long
 * runs are left out: where a few pages are missing between one read and the next,
 * the kernel no longer takes them for sequential and reads nothing ahead. With
 * direct I/O, a run in the middle makes two reads, one after the other, of one
 * that the kernel would have had under way as a whole; and holes cost it next to
 * nothing.
 *
 * Of what is left out the kernel's readahead knows nothing, and it is the half of
 * the rate from a disk, or more. So where reads in a row leave something out, we
 * tell the kernel of the data that comes next, as far ahead as the row is long
 * already, up to some limit. (64 KiB of data and zeroes in turn, 64 KiB reads: as
 * fast from the disk as if all was read, 3 times slower without; twice as fast
 * from the page cache.)
 *
 * Learning costs a look at what was read: the first and last bytes of each block
 * of data, all bytes of a block that is zero.
 */
#include "block/status-read.h"

#include <fcntl.h>

#include "util/iov.h"

#define MIN_END (INT64_C(64) << 10)
#define MIN_INNER_BUFFERED (INT64_C(64) << 10)
#define MIN_INNER_DIRECT (INT64_C(1) << 20)
#define MAX_AHEAD (INT64_C(8) << 20)
#define MAX_CUTS_AHEAD 64 /* zeroes in that; what comes after is not left out */
#define MAX_CUTS 8 /* that one read is cut by; so 9 pieces of it are read */

void status_reader_init(StatusReader *r, StatusCache *cache, int fd,
                        const BlockLimits *l, bool direct)
{
    *r = (StatusReader){
        .cache = cache,
        .fd = direct ? -1 : fd,
        .next = -1,
        .limits = {
            .align = MAX(MAX(l->request_alignment, l->mem_alignment), 1),
            .min_end = MIN_END,
            .min_inner = direct ? MIN_INNER_DIRECT : MIN_INNER_BUFFERED,
        },
    };
}

/* The slices of a request that is cut are aligned as it was itself. */
static bool may_cut(const StatusReader *r, int64_t offset,
                    const struct iovec *iov, int niov)
{
    int64_t align = r->limits.align;

    return (offset & (align - 1)) == 0 &&
           (niov == 1 || iov_is_aligned(iov, niov, 1, align));
}

typedef int ReadFunc(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     const struct iovec *iov, int niov);

/* A place in a list of buffers */
typedef struct Cursor {
    const struct iovec *iov;
    size_t done; /* of the first of them */
} Cursor;

/* Are the next @bytes all zero? Goes on behind them. */
static bool next_is_zero(Cursor *c, size_t bytes)
{
    bool zero = true;

    while (bytes > 0) {
        size_t n = MIN(bytes, c->iov->iov_len - c->done);

        zero =
            zero && buffer_is_zero((const char *)c->iov->iov_base + c->done, n);
        c->done += n;
        bytes -= n;
        if (c->done == c->iov->iov_len) {
            c->iov++;
            c->done = 0;
        }
    }
    return zero;
}

/* Look for whole blocks of zeroes in what was read, and tell them by the run. */
static void teach(const StatusReader *r, StatusOp *op, int64_t offset,
                  int64_t bytes, const struct iovec *iov)
{
    int64_t granularity = status_cache_granularity(r->cache);
    int64_t end = offset + bytes, start = offset, pos, next;
    Cursor c = { iov, 0 };

    for (pos = offset; pos < end; pos = next) {
        next = MIN(pos - pos % granularity + granularity, end);
        if (!next_is_zero(&c, next - pos)) {
            if (start < pos) {
                status_cache_read_fill(r->cache, op, start, pos - start);
            }
            start = next;
        }
    }
    if (start < end) {
        status_cache_read_fill(r->cache, op, start, end - start);
    }
}

static int read_piece(const StatusReader *r, BlockDriverState *bs,
                      int64_t offset, int64_t bytes, const struct iovec *iov,
                      int niov, ReadFunc *read)
{
    StatusOp op;
    bool learn =
        r->learn && status_cache_read_begin(r->cache, &op, offset, bytes);
    int ret = read(bs, offset, bytes, iov, niov);

    if (learn) {
        if (ret == 0) {
            teach(r, &op, offset, bytes, iov);
        }
        status_cache_read_end(r->cache, &op);
    }
    return ret;
}

/* ---- reading ahead ------------------------------------------------------ */

/* The read at @offset, which was taken for one of a row, has not been done: it is
 * going to come again. */
static void not_read(StatusReader *r, int64_t offset, int64_t bytes)
{
    int64_t end = offset + bytes;

    __atomic_compare_exchange_n(&r->next, &end, offset, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED);
}

/* How many bytes, this read included, were read one after the other? */
static int64_t row_length(StatusReader *r, int64_t offset, int64_t bytes)
{
    int64_t end = offset + bytes;

    if (__atomic_exchange_n(&r->next, end, __ATOMIC_RELAXED) != offset) {
        __atomic_store_n(&r->row, offset, __ATOMIC_RELAXED);
        return bytes;
    }
    /* it may be another thread's row: then this is but a bad guess */
    return MAX(end - __atomic_load_n(&r->row, __ATOMIC_RELAXED), bytes);
}

/*
 * A read that ends at @end leaves out zeroes, and is one of several in a row, of
 * @row bytes: have as much of the data read that comes next.
 */
static void read_ahead(StatusReader *r, int64_t end, int64_t row)
{
    int64_t distance = MIN(row, MAX_AHEAD);
    int64_t ahead = __atomic_load_n(&r->ahead, __ATOMIC_RELAXED);
    int64_t pos = ahead > end && ahead <= end + distance ? ahead : end;
    int64_t stop = end + distance;
    StatusCut cuts[MAX_CUTS_AHEAD];
    int n, i;

    if (stop - pos < distance / 4) {
        return;
    }
    __atomic_store_n(&r->ahead, stop, __ATOMIC_RELAXED);
    n = status_cache_cut_read(r->cache, pos, stop - pos, &r->limits, cuts,
                              MAX_CUTS_AHEAD);
    for (i = 0; i <= n; i++) {
        int64_t next = i < n ? cuts[i].start : stop;

        if (pos < next) {
            posix_fadvise(r->fd, pos, next - pos, POSIX_FADV_WILLNEED);
        }
        pos = i < n ? cuts[i].end : stop;
    }
}

/* ---- reads -------------------------------------------------------------- */

/* What is around the @n of @cuts is read, they themselves are zero. */
static int read_around(const StatusReader *r, BlockDriverState *bs,
                       int64_t offset, int64_t bytes, const struct iovec *iov,
                       int niov, const StatusCut *cuts, int n, ReadFunc *read)
{
    g_autofree struct iovec *slice = g_new(struct iovec, niov);
    int64_t pos = offset;
    int i, ret = 0;

    for (i = 0; ret == 0 && i <= n; i++) {
        int64_t next = i < n ? cuts[i].start : offset + bytes;
        int n_slice;

        if (pos < next) {
            n_slice = iov_slice(iov, niov, pos - offset, next - pos, slice);
            ret = read_piece(r, bs, pos, next - pos, slice, n_slice, read);
        }
        if (i < n) {
            iov_zero(iov, niov, next - offset, cuts[i].end - next);
            pos = cuts[i].end;
        }
    }
    for (i = 0; ret == 0 && i < n; i++) {
        status_cache_account_cut(r->cache, cuts[i].end - cuts[i].start);
    }
    return ret;
}

int status_read(StatusReader *r, BlockDriverState *bs, int64_t offset,
                int64_t bytes, const struct iovec *iov, int niov, int flags,
                int (*read)(BlockDriverState *bs, int64_t offset, int64_t bytes,
                            const struct iovec *iov, int niov))
{
    StatusCut cuts[MAX_CUTS];
    int64_t row;
    int n = 0, ret;

    if (bytes > 0 && !(flags & BDRV_REQ_CUT) && may_cut(r, offset, iov, niov)) {
        n = status_cache_cut_read(r->cache, offset, bytes, &r->limits, cuts,
                                  MAX_CUTS);
    }
    if (r->fd >= 0) {
        row = row_length(r, offset, bytes);
        if (n > 0 && row > bytes) {
            read_ahead(r, offset + bytes, row);
        }
    }
    ret = n == 0 ? read_piece(r, bs, offset, bytes, iov, niov, read)
                 : read_around(r, bs, offset, bytes, iov, niov, cuts, n, read);
    if (ret == -EAGAIN && r->fd >= 0) {
        not_read(r, offset, bytes);
    }
    return ret;
}

BlkSubmitted status_read_submit(const StatusReader *r, int64_t offset,
                                int64_t bytes)
{
    StatusCut cut;

    if (r->learn) {
        return BLK_SUBMIT_NOT;
    }
    if (!status_cache_cut_read(r->cache, offset, bytes, &r->limits, &cut, 1)) {
        return BLK_SUBMIT_BEGUN;
    }
    if (cut.start > offset || cut.end < offset + bytes) {
        return BLK_SUBMIT_NOT;
    }
    status_cache_account_cut(r->cache, bytes);
    return BLK_SUBMIT_ZERO;
}

bool status_read_cut(const StatusReader *r, int64_t offset, int64_t bytes,
                     int64_t *pnum)
{
    StatusCut cut;

    *pnum = bytes;
    if (!status_cache_cut_read(r->cache, offset, bytes, &r->limits, &cut, 1)) {
        return false;
    }
    if (cut.start > offset) {
        *pnum = cut.start - offset;
        return false;
    }
    *pnum = cut.end - offset;
    status_cache_account_cut(r->cache, *pnum);
    return true;
}

BlockState status_align_answer(BlockDriverState *bs, BlockState state,
                               int64_t offset, int64_t end, int64_t *pnum)
{
    int64_t excess = *pnum % bs->limits.request_alignment;

    if (excess == 0 || offset + *pnum >= end) {
        return state;
    }
    *pnum -= excess;
    if (state == BLOCK_STATE_DATA || *pnum == 0) {
        *pnum = MIN(*pnum + bs->limits.request_alignment, end - offset);
        return BLOCK_STATE_DATA;
    }
    return state;
}
