/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests between nodes: from what a caller asks, at any alignment and of any
 * size, to what a driver can do.
 *
 * A request that a driver cannot take as it is goes through a bounce buffer,
 * piece by piece, so that its memory is bounded. A write that does not fill its
 * first or last block reads that block before; nobody else may write to it in
 * between, so it holds its range exclusively, and all other writes of the
 * node hold theirs shared. Readers need no hold: they see a block before or
 * after.
 *
 * Every write ends in the same order: the driver has settled its status cache,
 * the dirty bitmaps are marked (whether it succeeded or not), then the range is
 * given up and the caller is told.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "block/block-stats.h"
#include "block/dirty-bitmap.h"
#include "block/graph-int.h"
#include "block/range-lock.h"
#include "util/iov.h"

#define BOUNCE_MAX (INT64_C(1) << 20)
#define ZERO_BUFFER_SIZE 65536
#define ZERO_BUFFER_ALIGNMENT 4096

/* What plain zeroes are written from; never written to */
static uint8_t zero_buffer[ZERO_BUFFER_SIZE]
    __attribute__((aligned(ZERO_BUFFER_ALIGNMENT)));

static int64_t align_down(int64_t n, int64_t align)
{
    return n - n % align;
}

/* Not beyond INT64_MAX, where no disk reaches */
static int64_t align_up(int64_t n, int64_t align)
{
    int64_t rest = n % align;

    if (rest == 0) {
        return n;
    }
    return n > INT64_MAX - (align - rest) ? INT64_MAX : n + (align - rest);
}

static int64_t request_alignment(BlockDriverState *bs)
{
    return MAX(bs->limits.request_alignment, 1);
}

static bool is_aligned(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    return ((offset | bytes) & (request_alignment(bs) - 1)) == 0;
}

/* ---- what drivers get --------------------------------------------------- */

static int64_t max_transfer(BlockDriverState *bs)
{
    int64_t max = bs->limits.max_transfer;

    if (max == 0) {
        return BDRV_REQUEST_MAX_BYTES;
    }
    return MAX(align_down(max, request_alignment(bs)), request_alignment(bs));
}

static int driver_rw_piece(BlockDriverState *bs, bool is_write, int64_t offset,
                           int64_t bytes, const struct iovec *iov, int niov,
                           int flags)
{
    const BlockDriver *drv = bs->drv;

    if (is_write) {
        return drv->pwritev(bs, offset, bytes, iov, niov,
                            flags & drv->supported_write_flags);
    }
    return drv->preadv(bs, offset, bytes, iov, niov, flags);
}

/* Aligned in every respect; split where it is too much at once */
static int driver_rw(BlockDriverState *bs, bool is_write, int64_t offset,
                     int64_t bytes, const struct iovec *iov, int niov,
                     int flags)
{
    g_autofree struct iovec *slice = NULL;
    int64_t max = max_transfer(bs);
    int64_t done = 0;
    int ret = 0;

    if (bytes <= max) {
        return driver_rw_piece(bs, is_write, offset, bytes, iov, niov, flags);
    }
    slice = g_new(struct iovec, niov);
    while (ret == 0 && done < bytes) {
        int64_t n = MIN(bytes - done, max);
        int n_slice = iov_slice(iov, niov, done, n, slice);

        ret = driver_rw_piece(bs, is_write, offset + done, n, slice, n_slice,
                              flags);
        done += n;
    }
    return ret;
}

/* ---- bouncing ----------------------------------------------------------- */

/* Whole blocks that a write is going to fill in; beyond the disk are zeroes. */
static int read_blocks(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       uint8_t *buf)
{
    int64_t length = bdrv_driver_getlength(bs);
    struct iovec iov = { .iov_base = buf, .iov_len = bytes };

    if (length < 0) {
        return length;
    }
    length = align_up(length, request_alignment(bs));
    if (offset + bytes > length) {
        int64_t n = MAX(length - offset, 0);

        memset(buf + n, 0, bytes - n);
        bytes = iov.iov_len = n;
    }
    if (bytes == 0) {
        return 0;
    }
    return driver_rw(bs, false, offset, bytes, &iov, 1, 0);
}

/*
 * [@start, @end) is aligned and is to be written from @buf, where [@from, @to)
 * is going to be filled in: get the rest of its first and last block. The last
 * one is read with as many before it as the alignment of memory asks for.
 */
static int read_edges(BlockDriverState *bs, int64_t start, int64_t end,
                      int64_t from, int64_t to, uint8_t *buf)
{
    int64_t align = request_alignment(bs);
    int64_t last =
        align_down(end - align - start, MAX(bs->limits.mem_alignment, 1));
    int ret = 0;

    if (to < end) {
        ret = read_blocks(bs, start + last, end - start - last, buf + last);
    }
    if (ret == 0 && from > start && !(to < end && last == 0)) {
        ret = read_blocks(bs, start, align, buf);
    }
    return ret;
}

/*
 * Any alignment, through a buffer of ours. NULL @iov: write zeroes. A write
 * that is not aligned holds its range exclusively.
 */
static int bounce_rw(BlockDriverState *bs, bool is_write, int64_t offset,
                     int64_t bytes, const struct iovec *iov, int niov,
                     int flags)
{
    int64_t align = request_alignment(bs);
    int64_t piece =
        MAX(MIN(align_down(BOUNCE_MAX, align), max_transfer(bs)), align);
    int64_t total = align_up(offset + bytes, align) - align_down(offset, align);
    int64_t done = 0;
    void *mem;
    uint8_t *buf;
    int ret;

    ret = posix_memalign(&mem, MAX(bs->limits.mem_alignment, sizeof(void *)),
                         MIN(piece, total));
    if (ret) {
        return -ret;
    }
    buf = mem;
    while (ret == 0 && done < bytes) {
        int64_t from = offset + done;
        int64_t start = align_down(from, align);
        int64_t end = MIN(align_up(offset + bytes, align), start + piece);
        int64_t to = MIN(offset + bytes, end);
        struct iovec bounce = { .iov_base = buf, .iov_len = end - start };

        int64_t n = end - start;

        if (is_write) {
            ret = read_edges(bs, start, end, from, to, buf);
            if (ret < 0) {
                break;
            }
            if (bs->drv->exact_end) {
                n = to - start;
            }
            if (iov) {
                iov_to_buf(iov, niov, done, buf + (from - start), to - from);
            } else {
                memset(buf + (from - start), 0, to - from);
            }
        }
        ret = driver_rw(bs, is_write, start, n, &bounce, 1, flags);
        if (ret == 0 && !is_write) {
            iov_from_buf(iov, niov, done, buf + (from - start), to - from);
        }
        done += to - from;
    }
    free(mem);
    return ret;
}

static bool must_bounce(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        const struct iovec *iov, int niov)
{
    return !is_aligned(bs, offset, bytes) || niov > IOV_MAX ||
           !iov_is_aligned(iov, niov, MAX(bs->limits.mem_alignment, 1),
                           niov > 1 ? request_alignment(bs) : 1);
}

static int any_rw(BlockDriverState *bs, bool is_write, int64_t offset,
                  int64_t bytes, const struct iovec *iov, int niov, int flags)
{
    if (flags & BDRV_REQ_WRITE_COMPRESSED) {
        return driver_rw_piece(bs, is_write, offset, bytes, iov, niov, flags);
    }
    if (must_bounce(bs, offset, bytes, iov, niov)) {
        return bounce_rw(bs, is_write, offset, bytes, iov, niov, flags);
    }
    return driver_rw(bs, is_write, offset, bytes, iov, niov, flags);
}

/* ---- the frame of every write ------------------------------------------- */

/*
 * Who may resize, may write beyond the end of a disk that can be made longer,
 * which makes it longer. 0, or what is wrong with a write up to @end
 */
static int check_end(BlockDriverState *bs, int64_t end)
{
    int64_t length = bdrv_driver_getlength(bs);

    if (length < 0) {
        return length;
    }
    if (end <= length) {
        return 0;
    }
    if (!(__atomic_load_n(&bs->perm, __ATOMIC_RELAXED) & BLK_PERM_RESIZE) ||
        (bs->drv->kind == BLOCK_DRIVER_PROTOCOL && !bs->drv->truncate &&
         end > align_up(length, request_alignment(bs)))) {
        return -ENOSPC;
    }
    return end > BDRV_MAX_LENGTH ? -EFBIG : 0;
}

/* What is left of @flags when the node ignores flushes */
static int write_flags(BlockDriverState *bs, int flags)
{
    if (bs->drv->kind == BLOCK_DRIVER_PROTOCOL && bs->cache_no_flush) {
        flags &= ~BDRV_REQ_FUA;
    }
    return flags;
}

bool bdrv_fits_driver(BlockDriverState *bs, int64_t offset,
                      const struct iovec *iov)
{
    int64_t bytes = iov->iov_len;

    return bytes <= max_transfer(bs) && !must_bounce(bs, offset, bytes, iov, 1);
}

bool bdrv_try_write_begin(BlockDriverState *bs, RangeHold *hold, int64_t offset,
                          const struct iovec *iov)
{
    int64_t bytes = iov->iov_len;

    return !bdrv_is_read_only(bs) &&
           bs->detect_zeroes == BDRV_DETECT_ZEROES_OFF &&
           offset + bytes <= bdrv_driver_getlength(bs) &&
           bdrv_fits_driver(bs, offset, iov) &&
           (!bs->range_lock ||
            range_lock_try_share(bs->range_lock, hold, offset, bytes));
}

static int write_begin(BlockDriverState *bs, RangeHold *hold, int64_t offset,
                       int64_t bytes)
{
    int64_t align = request_alignment(bs);
    int64_t start = align_down(offset, align);

    int ret;

    if (bdrv_is_read_only(bs)) {
        return -EPERM;
    }
    ret = check_end(bs, offset + bytes);
    if (ret < 0 || !bs->range_lock) {
        return ret;
    }
    return range_lock_acquire(
        bs->range_lock, hold, start, align_up(offset + bytes, align) - start,
        !is_aligned(bs, offset, bytes), bdrv_request_cancel());
}

/* @touched: something was asked of the disk, successfully or not. */
static void write_end(BlockDriverState *bs, RangeHold *hold, int64_t offset,
                      int64_t bytes, bool touched)
{
    if (touched) {
        bdrv_set_dirty(bs, offset, bytes);
    }
    if (bs->range_lock) {
        range_lock_release(bs->range_lock, hold);
    }
}

void bdrv_write_end(BlockDriverState *bs, RangeHold *hold, int64_t offset,
                    int64_t bytes, bool touched)
{
    if (touched) {
        counter_max(&bs->wr_highest_offset, offset + bytes);
    }
    write_end(bs, hold, offset, bytes, touched);
}

static int finish_fua(BlockDriverState *bs, int flags, int supported, int ret)
{
    if (ret == 0 && (flags & BDRV_REQ_FUA & ~supported)) {
        ret = bdrv_flush(bs);
    }
    return ret;
}

/* ---- reads and writes --------------------------------------------------- */

int bdrv_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                const struct iovec *iov, int niov, int flags)
{
    if (bytes == 0) {
        return 0;
    }
    return any_rw(bs, false, offset, bytes, iov, niov, flags);
}

/*
 * A write at a node with the option detect-zeroes, as a zero-write if it can be
 * one: otherwise -ENOTSUP, and nothing has happened. Not where it would grow
 * the disk, as zero-writes do not.
 */
static int write_detected_zeroes(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes, const struct iovec *iov,
                                 int niov, int flags)
{
    if (bs->detect_zeroes == BDRV_DETECT_ZEROES_OFF || bytes == 0 ||
        !bs->drv->pwrite_zeroes || offset + bytes > bdrv_driver_getlength(bs) ||
        !iov_is_zero(iov, niov)) {
        return -ENOTSUP;
    }
    if (bs->detect_zeroes == BDRV_DETECT_ZEROES_UNMAP) {
        flags |= BDRV_REQ_MAY_UNMAP;
    }
    /* No slower than a write, even where zeroes have to be written. */
    return bdrv_pwrite_zeroes(bs, offset, bytes,
                              flags & ~BDRV_REQ_WRITE_COMPRESSED);
}

bool bdrv_can_compress(BlockDriverState *bs)
{
    while ((bs->drv->supported_write_flags & BDRV_REQ_WRITE_COMPRESSED) &&
           bs->drv->kind == BLOCK_DRIVER_FILTER) {
        bs = bs->file->bs;
    }
    return bs->drv->supported_write_flags & BDRV_REQ_WRITE_COMPRESSED;
}

int bdrv_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 const struct iovec *iov, int niov, int flags)
{
    RangeHold hold;
    int ret;

    if ((flags & BDRV_REQ_WRITE_COMPRESSED) && !bdrv_can_compress(bs)) {
        return bdrv_is_read_only(bs) ? -EPERM : -ENOTSUP;
    }
    ret = write_detected_zeroes(bs, offset, bytes, iov, niov, flags);
    if (ret != -ENOTSUP) {
        return ret;
    }
    flags = write_flags(bs, flags);
    ret = write_begin(bs, &hold, offset, bytes);
    if (ret < 0) {
        return ret;
    }
    if (bytes > 0) {
        ret = any_rw(bs, true, offset, bytes, iov, niov, flags);
    }
    bdrv_write_end(bs, &hold, offset, bytes, bytes > 0);
    return finish_fua(bs, flags, bs->drv->supported_write_flags, ret);
}

/* ---- zero-writes -------------------------------------------------------- */

/* Aligned to request_alignment */
static int write_zero_buffers(BlockDriverState *bs, int64_t offset,
                              int64_t bytes, int flags)
{
    struct iovec iov[BOUNCE_MAX / ZERO_BUFFER_SIZE];
    int64_t done = 0;
    int ret = 0;
    size_t i;

    if (bs->limits.mem_alignment > ZERO_BUFFER_ALIGNMENT ||
        request_alignment(bs) > ZERO_BUFFER_SIZE) {
        return bounce_rw(bs, true, offset, bytes, NULL, 0, flags);
    }
    for (i = 0; i < G_N_ELEMENTS(iov); i++) {
        iov[i].iov_base = zero_buffer;
        iov[i].iov_len = ZERO_BUFFER_SIZE;
    }
    while (ret == 0 && done < bytes) {
        int64_t n = MIN(bytes - done, BOUNCE_MAX);
        struct iovec slice[G_N_ELEMENTS(iov)];
        int n_slice = iov_slice(iov, G_N_ELEMENTS(iov), 0, n, slice);

        ret = driver_rw(bs, true, offset + done, n, slice, n_slice, flags);
        done += n;
    }
    return ret;
}

static int plain_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        int flags)
{
    if (bytes == 0) {
        return 0;
    }
    if (is_aligned(bs, offset, bytes)) {
        return write_zero_buffers(bs, offset, bytes, flags);
    }
    return bounce_rw(bs, true, offset, bytes, NULL, 0, flags);
}

/* Aligned as pwrite_zeroes wants it. *@touched: as for write_end() */
static int fast_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       int flags, bool *touched)
{
    const BlockDriver *drv = bs->drv;
    int drv_flags = flags & (BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK |
                             drv->supported_zero_flags);
    int64_t done = 0;
    int ret = 0;

    while (ret == 0 && done < bytes) {
        int64_t n = MIN(bytes - done, BDRV_REQUEST_MAX_BYTES);

        ret = drv->pwrite_zeroes
                  ? drv->pwrite_zeroes(bs, offset + done, n, drv_flags)
                  : -ENOTSUP;
        if (ret == -ENOTSUP && !(flags & BDRV_REQ_NO_FALLBACK)) {
            ret = plain_zeroes(bs, offset + done, n, flags);
            *touched = true;
        } else if (ret != -ENOTSUP) {
            *touched = true;
        }
        done += n;
    }
    return ret;
}

int bdrv_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       int flags)
{
    int64_t align =
        MAX(request_alignment(bs), bs->limits.pwrite_zeroes_alignment);
    int64_t end = offset + bytes;
    int64_t fast_start = MIN(align_up(offset, align), end);
    int64_t fast_end = MAX(align_down(end, align), fast_start);
    bool touched = false;
    RangeHold hold;
    int ret;

    flags = write_flags(bs, flags);
    if (!bs->discard_unmap) {
        flags &= ~BDRV_REQ_MAY_UNMAP;
    }
    if ((flags & BDRV_REQ_NO_FALLBACK) && fast_start == fast_end && bytes > 0) {
        return bdrv_is_read_only(bs) ? -EPERM : -ENOTSUP;
    }
    ret = write_begin(bs, &hold, offset, bytes);
    if (ret < 0) {
        return ret;
    }
    /* The middle first: where it says -ENOTSUP, nothing has happened yet. */
    ret = fast_zeroes(bs, fast_start, fast_end - fast_start, flags, &touched);
    if (ret == 0 && fast_start > offset) {
        touched = true;
        ret = plain_zeroes(bs, offset, fast_start - offset, flags);
    }
    if (ret == 0 && fast_end < end) {
        touched = true;
        ret = plain_zeroes(bs, fast_end, end - fast_end, flags);
    }
    bdrv_write_end(bs, &hold, offset, bytes, touched);
    return finish_fua(
        bs, flags,
        bs->drv->supported_zero_flags & bs->drv->supported_write_flags, ret);
}

/* ---- discards ----------------------------------------------------------- */

int bdrv_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    int64_t align = MAX(request_alignment(bs), bs->limits.pdiscard_alignment);
    int64_t start = align_up(offset, align);
    int64_t end = align_down(offset + bytes, align);
    bool touched = false;
    RangeHold hold;
    int ret;

    if (bdrv_is_read_only(bs)) {
        return -EPERM;
    }
    /* It is advice only: what is too small for it goes unheeded. */
    if (!bs->discard_unmap || !bs->drv->pdiscard || start >= end) {
        return 0;
    }
    ret = write_begin(bs, &hold, start, end - start);
    if (ret < 0) {
        return ret;
    }
    for (offset = start; ret == 0 && offset < end;) {
        int64_t n = MIN(end - offset, BDRV_REQUEST_MAX_BYTES);

        ret = bs->drv->pdiscard(bs, offset, n);
        touched = touched || ret != -ENOTSUP;
        offset += n;
    }
    write_end(bs, &hold, start, end - start, touched);
    return ret == -ENOTSUP ? 0 : ret;
}

/* ---- flush -------------------------------------------------------------- */

/* A backing file is not written to from @bs, and a filter's users wrote to nothing
 * but its file. */
static bool flush_reaches(const BlockDriverState *bs, const BdrvChild *c)
{
    if (bs->drv->kind == BLOCK_DRIVER_FILTER) {
        return c == bs->file;
    }
    return c != bs->backing;
}

int bdrv_flush(BlockDriverState *bs)
{
    bool ignored = bs->drv->kind == BLOCK_DRIVER_PROTOCOL && bs->cache_no_flush;
    int ret = 0;
    guint i;

    if (bs->drv->flush && !ignored) {
        ret = bs->drv->flush(bs);
    }
    for (i = 0; ret == 0 && i < bs->children->len; i++) {
        BdrvChild *c = bs->children->pdata[i];

        if (c->bs && flush_reaches(bs, c)) {
            ret = bdrv_flush(c->bs);
        }
    }
    return ret;
}
