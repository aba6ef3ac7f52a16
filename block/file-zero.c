/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Zero-writes and discards of the driver "file", by fallocate(2), told to the
 * status cache (rule 2 of status-cache.c).
 *
 * Which of its modes a file system has is found out by trying: what it refuses
 * once as not supported is not tried again on this node. EINVAL only means that
 * it cannot do this very range (some want whole blocks).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

#include "block/file-posix-int.h"

int file_try_fallocate(FileState *s, int mode, unsigned flag, int64_t offset,
                       int64_t bytes)
{
    int r;

    if (file_found(s, flag)) {
        return -ENOTSUP;
    }
    do {
        r = fallocate(s->fd, mode, offset, bytes);
    } while (r < 0 && errno == EINTR);
    if (r == 0) {
        return 0;
    }
    if (errno == EOPNOTSUPP || errno == ENOSYS) {
        file_set_found(s, flag);
        return -ENOTSUP;
    }
    return errno == EINVAL ? -ENOTSUP : -errno;
}

static int punch_hole(FileState *s, int64_t offset, int64_t bytes)
{
    return file_try_fallocate(s, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              FILE_NO_PUNCH_HOLE, offset, bytes);
}

static int allocate(FileState *s, int64_t offset, int64_t bytes)
{
    return file_try_fallocate(s, 0, FILE_NO_ALLOCATE, offset, bytes);
}

int file_zero_by_fallocate(FileState *s, int64_t offset, int64_t bytes,
                           int flags)
{
    int ret;

    if (flags & BDRV_REQ_MAY_UNMAP) {
        ret = punch_hole(s, offset, bytes);
        if (ret != -ENOTSUP) {
            return ret;
        }
    }
    ret = file_try_fallocate(s, FALLOC_FL_ZERO_RANGE, FILE_NO_ZERO_RANGE,
                             offset, bytes);
    if (ret != -ENOTSUP) {
        return ret;
    }
    /*
     * A hole that is then allocated. Allocating alone changes no contents, so
     * it can show first that it works: -ENOTSUP must have changed nothing.
     */
    if (!file_found(s, FILE_ALLOCATES)) {
        ret = allocate(s, offset, bytes);
        if (ret < 0) {
            return ret;
        }
        file_set_found(s, FILE_ALLOCATES);
    }
    ret = punch_hole(s, offset, bytes);
    return ret < 0 ? ret : allocate(s, offset, bytes);
}

int file_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       int flags)
{
    FileState *s = bs->opaque;
    bool grows = offset + bytes > file_end(s);
    bool locked = grows && file_lock_tail(s, offset + bytes);
    StatusOp op;
    int ret;

    if (grows) {
        flags &= ~BDRV_REQ_MAY_UNMAP; /* a hole is punched where a file is */
    }
    status_cache_zero_begin(s->cache, &op, offset, bytes, false);
    ret = s->kind->write_zeroes(s, offset, bytes, flags);
    status_cache_zero_end(s->cache, &op, ret == 0);
    if (grows) {
        file_grew(s, offset + bytes, ret);
    }
    file_unlock_tail(s, locked);
    return ret;
}

void file_account_discard(FileState *s, int64_t bytes, int ret)
{
    if (ret == 0) {
        __atomic_add_fetch(&s->discard_nb_ok, 1, __ATOMIC_RELAXED);
        __atomic_add_fetch(&s->discard_bytes_ok, bytes, __ATOMIC_RELAXED);
    } else {
        __atomic_add_fetch(&s->discard_nb_failed, 1, __ATOMIC_RELAXED);
    }
}

int file_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    FileState *s = bs->opaque;
    StatusOp op;
    int ret;

    status_cache_zero_begin(s->cache, &op, offset, bytes, true);
    ret = punch_hole(s, offset, bytes);
    status_cache_zero_end(s->cache, &op, ret == 0);
    file_account_discard(s, bytes, ret);
    return ret;
}
