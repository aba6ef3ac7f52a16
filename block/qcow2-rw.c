/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: reads, the frame of writes, and flushes.
 */
#include <errno.h>

#include "block/qcow2-data-int.h"
#include "util/iov.h"

/* ---- vectors and ranges ------------------------------------------------- */

void qcow2_slice_init(Qcow2Slice *slice, const struct iovec *iov, int niov)
{
    slice->iov = iov;
    slice->niov = niov;
    slice->part = slice->local;
    if (niov + 2 > (int)G_N_ELEMENTS(slice->local)) {
        slice->part = g_new(struct iovec, niov + 2);
    }
}

void qcow2_slice_free(Qcow2Slice *slice)
{
    if (slice->part != slice->local) {
        g_free(slice->part);
    }
}

int qcow2_hold(Qcow2State *s, RangeHold *hold, int64_t offset, int64_t bytes,
               bool exclusive)
{
    int64_t start = offset - qcow2_in_cluster(s, offset);
    int64_t end = qcow2_round_up(s, offset + bytes);

    return range_lock_acquire(s->ranges, hold, start, end - start, exclusive,
                              bdrv_request_cancel());
}

int qcow2_may_write(Qcow2State *s, int64_t end)
{
    if (qcow2_is_corrupt(s) ||
        __atomic_load_n(&s->bitmaps_unmarked, __ATOMIC_RELAXED)) {
        return -EIO;
    }
    return end > s->length ? -ENOSPC : 0;
}

/* ---- reads -------------------------------------------------------------- */

/*
 * From the image's file; zeroes behind its end, where the last cluster may go on
 * and nothing was ever written.
 */
static int read_host(Qcow2State *s, uint64_t host, int64_t bytes,
                     const struct iovec *iov, int niov, int flags)
{
    BdrvChild *file = s->bs->file;
    int64_t length = bdrv_child_getlength(file);
    g_autofree struct iovec *part = NULL;
    int64_t n;

    if (length < 0) {
        return length;
    }
    if ((int64_t)host + bytes <= length) {
        return bdrv_preadv(file->bs, host, bytes, iov, niov, flags);
    }
    n = MAX(length - (int64_t)host, 0);
    iov_zero(iov, niov, n, bytes - n);
    if (n == 0) {
        return 0;
    }
    part = g_new(struct iovec, niov);
    niov = iov_slice(iov, niov, 0, n, part);
    return bdrv_preadv(file->bs, host, n, part, niov, flags);
}

bool qcow2_reads_as_zero(const Qcow2State *s, Qcow2ClusterType type)
{
    return type == QCOW2_CLUSTER_ZERO_PLAIN ||
           type == QCOW2_CLUSTER_ZERO_ALLOC ||
           (type == QCOW2_CLUSTER_UNALLOCATED && !s->bs->backing);
}

int qcow2_read_old(Qcow2State *s, Qcow2ClusterType type, uint64_t host,
                   int64_t offset, int64_t bytes, const struct iovec *iov,
                   int niov, int flags)
{
    switch (type) {
    case QCOW2_CLUSTER_NORMAL:
        return read_host(s, host, bytes, iov, niov, flags);
    case QCOW2_CLUSTER_COMPRESSED:
        return qcow2_preadv_compressed(s, host, qcow2_in_cluster(s, offset),
                                       iov, niov);
    case QCOW2_CLUSTER_UNALLOCATED:
        if (s->bs->backing) {
            return bdrv_read_backing(s->bs, offset, bytes, iov, niov);
        }
        break;
    default:
        break;
    }
    iov_zero(iov, niov, 0, bytes);
    return 0;
}

/* One run of clusters; how many bytes, or -errno. Where it may have waited, or has
 * worked, what comes after it does not send the request back: it would do so again. */
static int64_t read_run(Qcow2State *s, int64_t offset, int64_t bytes,
                        Qcow2Slice *slice, int64_t skip, int64_t total,
                        int *flags)
{
    const struct iovec *iov = slice->iov;
    int niov = slice->niov;
    Qcow2ClusterType type;
    uint64_t host;
    int64_t n;
    bool copied;
    int ret;

    ret = qcow2_map(s, offset, bytes, &type, &host, &n, &copied);
    if (ret < 0) {
        return ret;
    }
    if (n < total) {
        niov = iov_slice(iov, niov, skip, n, slice->part);
        iov = slice->part;
    }
    ret = qcow2_read_old(s, type, host, offset, n, iov, niov, *flags);
    if (type != QCOW2_CLUSTER_NORMAL && !qcow2_reads_as_zero(s, type)) {
        *flags &= ~BDRV_REQ_NOWAIT;
    }
    return ret < 0 ? ret : n;
}

int qcow2_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 const struct iovec *iov, int niov, int flags)
{
    Qcow2State *s = bs->opaque;
    int64_t in_disk = MAX(MIN(bytes, s->length - offset), 0);
    int64_t done = 0, n = 0;
    Qcow2Slice slice;
    RangeHold hold;
    int ret;

    if (in_disk < bytes) {
        iov_zero(iov, niov, in_disk, bytes - in_disk);
    }
    if (in_disk == 0) {
        return 0;
    }
    ret = qcow2_hold(s, &hold, offset, in_disk, false);
    if (ret < 0) {
        return ret;
    }
    qcow2_slice_init(&slice, iov, niov);
    while (n >= 0 && done < in_disk) {
        n = read_run(s, offset + done, in_disk - done, &slice, done, bytes,
                     &flags);
        done += n;
    }
    qcow2_slice_free(&slice);
    range_lock_release(s->ranges, &hold);
    return MIN(n, 0);
}

/* ---- writes ------------------------------------------------------------- */

int qcow2_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                  const struct iovec *iov, int niov, int flags)
{
    Qcow2State *s = bs->opaque;
    Qcow2Slice slice;
    RangeHold hold;
    int64_t done;
    int ret;

    if (flags & BDRV_REQ_WRITE_COMPRESSED) {
        return qcow2_pwritev_compressed(s, offset, bytes, iov, niov);
    }
    ret = qcow2_may_write(s, offset + bytes);
    if (ret == 0 && bytes > 0) {
        ret = qcow2_hold(s, &hold, offset, bytes, false);
    }
    if (ret < 0 || bytes == 0) {
        return ret;
    }
    qcow2_slice_init(&slice, iov, niov);
    done = qcow2_write_own(s, offset, bytes, &slice, 0);
    range_lock_release(s->ranges, &hold);
    if (done < 0) {
        ret = done;
    } else if (done < bytes) {
        ret = qcow2_hold(s, &hold, offset + done, bytes - done, true);
        if (ret == 0) {
            ret = qcow2_write_any(s, offset + done, bytes - done, &slice, done);
            range_lock_release(s->ranges, &hold);
        }
    }
    qcow2_slice_free(&slice);
    return ret;
}

/* ---- flushes ------------------------------------------------------------ */

/*
 * io.c flushes the file afterwards, whatever is done here: that makes tables
 * stable that are written last. What became free needs a flush between.
 */
int qcow2_flush(BlockDriverState *bs)
{
    Qcow2State *s = bs->opaque;
    MUTEX_GUARD(&s->lock);

    if (s->freed_bytes == 0 && !qcow2_cache_is_dirty(s->l2_cache) &&
        !qcow2_cache_is_dirty(s->refblock_cache)) {
        return 0;
    }
    return qcow2_write_tables(s, s->freed_bytes > 0);
}
