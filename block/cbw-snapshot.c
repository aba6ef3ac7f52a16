/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a disk was when a node copy-before-write was put on it, as the driver
 * snapshot-access reads it: what has been copied, in the target, and what has not,
 * in the file, where it still is.
 *
 *  1. Who reads in the file holds the range in snap->readers, shared, from before it
 *     is found that it is not copied until the data is there.
 *  2. Who is about to write to the file has it copied first, and then waits for those
 *     who hold the range. Who comes later finds that it is copied.
 *  3. If something was not copied and is overwritten all the same, the snapshot is
 *     broken before step 2's wait: who is reading then has still read what was there.
 *
 * Readers never wait for a copy, and writers wait for no more than reads of the file,
 * and those only that overlap.
 *
 * What is not part of the snapshot, or was discarded, is not copied either, and can be
 * read by nobody: -EACCES, as in QEMU.
 */
#include <errno.h>

#include "block/cbw-int.h"
#include "block/range-lock.h"
#include "util/iov.h"
#include "util/sparse-bitmap.h"

struct CbwSnapshot {
    BlockCopy *bc;
    int64_t cluster;
    RangeLock *readers;
    int broken; /* atomic */
    Mutex lock;
    SparseBitmap *access; /* lock; clusters that can be read */
};

/* ---- for the filter ----------------------------------------------------- */

CbwSnapshot *cbw_snapshot_new(BlockCopy *bc)
{
    CbwSnapshot *snap = g_new0(CbwSnapshot, 1);
    int64_t length = block_copy_length(bc);
    int64_t pos = 0, start, bytes;

    snap->bc = bc;
    snap->cluster = block_copy_cluster(bc);
    snap->readers = range_lock_new();
    mutex_init(&snap->lock);
    snap->access = sparse_bitmap_new(length / snap->cluster +
                                     (length % snap->cluster != 0));
    while (block_copy_next_left(bc, pos, &start, &bytes)) {
        uint64_t first = start / snap->cluster;

        pos = start + bytes;
        sparse_bitmap_set(snap->access, first,
                          (pos + snap->cluster - 1) / snap->cluster - first);
    }
    return snap;
}

void cbw_snapshot_free(CbwSnapshot *snap)
{
    if (snap) {
        range_lock_free(snap->readers);
        sparse_bitmap_free(snap->access);
        mutex_destroy(&snap->lock);
        g_free(snap);
    }
}

int cbw_snapshot_wait_readers(CbwSnapshot *snap, int64_t offset, int64_t bytes)
{
    RangeHold hold;
    int ret = range_lock_acquire(snap->readers, &hold, offset, bytes, true,
                                 bdrv_request_cancel());

    if (ret == 0) {
        range_lock_release(snap->readers, &hold);
    }
    return ret;
}

void cbw_snapshot_break(CbwSnapshot *snap)
{
    g_atomic_int_set(&snap->broken, 1);
}

bool cbw_snapshot_is_broken(CbwSnapshot *snap)
{
    return g_atomic_int_get(&snap->broken);
}

/* ---- where something is ------------------------------------------------- */

/* A part of the snapshot that is in one place */
typedef struct Place {
    BlockDriverState *bs;
    int64_t bytes;
    bool held; /* it is the file, and @hold is in snap->readers */
    RangeHold hold;
} Place;

/* How far of [@offset, @offset + @bytes) can be read; 0: not at all. It may lie
 * beyond the end, if the reader stood on another snapshot when it was opened. */
static int64_t readable(CbwSnapshot *snap, int64_t offset, int64_t bytes)
{
    uint64_t first = offset / snap->cluster;
    uint64_t stop = (offset + bytes - 1) / snap->cluster + 1;
    uint64_t end;

    MUTEX_GUARD(&snap->lock);
    stop = MIN(stop, sparse_bitmap_size(snap->access));
    if (first >= stop) {
        return 0;
    }
    end = sparse_bitmap_next_clear(snap->access, first, stop);
    if (end == first) {
        return 0;
    }
    return MIN(bytes, (int64_t)end * snap->cluster - offset);
}

/* What is copied is in the target: nobody changes it there, and so it needs no hold. */
static bool is_copied(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      Place *place)
{
    CopyBeforeWrite *s = bs->opaque;

    place->held = block_copy_is_left(s->bc, offset, bytes, &place->bytes);
    place->bs = place->held ? bs->file->bs : s->target->bs;
    return !place->held;
}

/* Find the place of @offset, and how far (at most @bytes, not 0) it goes. 0, or
 * -errno; then release_place() must not follow. */
static int find_place(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      Place *place)
{
    CopyBeforeWrite *s = bs->opaque;
    CbwSnapshot *snap = s->snapshot;
    int ret;

    bytes = readable(snap, offset, bytes);
    if (bytes == 0) {
        return -EACCES;
    }
    if (is_copied(bs, offset, bytes, place)) {
        /* Before it was broken: a copy that was late for who broke it may have
         * read what was written since. */
        return cbw_snapshot_is_broken(snap) ? -EACCES : 0;
    }
    ret = range_lock_acquire(snap->readers, &place->hold, offset, place->bytes,
                             false, bdrv_request_cancel());
    if (ret < 0) {
        return ret;
    }
    if (cbw_snapshot_is_broken(snap)) {
        range_lock_release(snap->readers, &place->hold);
        return -EACCES;
    }
    if (is_copied(bs, offset, place->bytes, place)) {
        range_lock_release(snap->readers, &place->hold);
    } else {
        range_lock_shrink(snap->readers, &place->hold, place->bytes);
    }
    return 0;
}

static void release_place(BlockDriverState *bs, Place *place)
{
    CopyBeforeWrite *s = bs->opaque;

    if (place->held) {
        range_lock_release(s->snapshot->readers, &place->hold);
    }
}

/* ---- for snapshot-access ------------------------------------------------ */

BlockDriverState *cbw_find_snapshot(BlockDriverState *bs)
{
    while (bs && bs->drv->kind == BLOCK_DRIVER_FILTER) {
        CopyBeforeWrite *s = bs->opaque;

        if (bs->drv == &bdrv_copy_before_write && s->snapshot) {
            return bs;
        }
        bs = bs->file ? bs->file->bs : NULL;
    }
    return NULL;
}

int64_t cbw_snapshot_length(BlockDriverState *bs)
{
    CopyBeforeWrite *s = bs->opaque;

    return block_copy_length(s->bc);
}

int cbw_snapshot_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        const struct iovec *iov, int niov)
{
    g_autofree struct iovec *slice = g_new(struct iovec, niov);
    int64_t done = 0;
    int ret = 0;

    while (ret == 0 && done < bytes) {
        Place place;

        ret = find_place(bs, offset + done, bytes - done, &place);
        if (ret == 0) {
            int n = iov_slice(iov, niov, done, place.bytes, slice);

            ret =
                bdrv_preadv(place.bs, offset + done, place.bytes, slice, n, 0);
            release_place(bs, &place);
            done += place.bytes;
        }
    }
    return ret;
}

int cbw_snapshot_status(BlockDriverState *bs, unsigned want, int64_t offset,
                        int64_t bytes, int64_t *pnum)
{
    BlockDriverState *file;
    int64_t map;
    Place place;
    int ret = find_place(bs, offset, bytes, &place);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_block_status_above(place.bs, NULL, want, offset, place.bytes,
                                  pnum, &map, &file, NULL);
    release_place(bs, &place);
    if (ret >= 0 && *pnum == 0) {
        /* It is too short; reading tells. */
        *pnum = place.bytes;
        ret = BDRV_BLOCK_DATA;
    }
    return ret;
}

int cbw_snapshot_discard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    CopyBeforeWrite *s = bs->opaque;
    CbwSnapshot *snap = s->snapshot;
    int64_t length = block_copy_length(s->bc);
    uint64_t first = (offset + snap->cluster - 1) / snap->cluster;
    uint64_t stop = (offset + bytes) / snap->cluster;
    int64_t start = first * snap->cluster;
    int ret;

    if (offset + bytes >= length) {
        stop = sparse_bitmap_size(snap->access);
    }
    if (first >= stop) {
        return 0;
    }
    bytes = MIN((int64_t)stop * snap->cluster, length) - start;
    mutex_lock(&snap->lock);
    sparse_bitmap_clear(snap->access, first, stop - first);
    mutex_unlock(&snap->lock);
    ret = block_copy_forget(s->bc, start, bytes);
    return ret < 0 ? ret : bdrv_pdiscard(s->target->bs, start, bytes);
}
