/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Protocol driver "host_device": a block device. It is the driver "file" but for
 * these:
 *
 * - Nobody can be asked which blocks of a device are zero. The status cache
 *   knows what was written through it, and the rest is data.
 * - Zero-writes and discards are the device's. BLKZEROOUT makes zeroes, if
 *   need be by writing them; a hole that is punched does so only if the device
 *   has a fast way, and gives the space back. BLKDISCARD promises nothing: its
 *   range is unknown from its beginning on and again at its end (rule 2 of
 *   status-cache.c), whatever the device is said to do.
 * - A device that ends early has been taken away: nothing is zero there.
 * - Of a device that does not end with a logical block, the kernel itself cannot
 *   reach the rest: the disk ends before it.
 *
 * The kernel splits requests into what the device takes, so the device's own
 * limits of transfers and discards are of no interest here. It throws the pages
 * of a range out of its cache before it zeroes or discards the range, and keeps
 * readers out meanwhile (since Linux 5.16), and buffered writers (since 6.15;
 * inode_lock() in blk_ioctl_zeroout()). Before that, who writes one half of a page
 * while the other half is zeroed may bring the old contents of that half back into
 * the cache: so only whole pages are zeroed this way. And it throws them out before
 * it finds out whether the device can: so what they hold is written to the device
 * first, or a refusal that "changes nothing" would lose it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "block/file-posix-int.h"
#include "util/error.h"

#define MIN_DEFAULT_GRANULARITY 4096

/* ---- open --------------------------------------------------------------- */

/* What BLKSSZGET or BLKPBSZGET tells; at least 512 */
static uint32_t block_size(int fd, unsigned long request)
{
    unsigned block;

    if (ioctl(fd, request, &block) < 0 || block < 512 ||
        (block & (block - 1))) {
        return 512;
    }
    return block;
}

static bool measure(BlockDriverState *bs, const struct stat *st,
                    int64_t *length, uint32_t *granularity, GError **errp)
{
    FileState *s = bs->opaque;
    uint64_t size;
    off_t end;

    if (ioctl(s->fd, BLKGETSIZE64, &size) < 0) {
        error_setg_errno(errp, errno, "Could not get the size of '%s'",
                         s->filename);
        return false;
    }
    end = lseek(s->fd, 0, SEEK_END);
    if (end < 0) {
        error_setg_errno(errp, errno, "Could not find the end of '%s'",
                         s->filename);
        return false;
    }
    if (size > INT64_MAX || end != (int64_t)size) {
        error_setg(errp,
                   "Could not get the size of '%s': it is %" PRIu64
                   ", but the end is at %jd",
                   s->filename, size, (intmax_t)end);
        return false;
    }
    *length = size - size % block_size(s->fd, BLKSSZGET);
    *granularity = CLAMP(block_size(s->fd, BLKPBSZGET), MIN_DEFAULT_GRANULARITY,
                         STATUS_CACHE_MAX_GRANULARITY);
    return true;
}

/*
 * A device has the size it has. But that may have changed since it was opened,
 * and here is where a user can say so: what it is now counts.
 */
static int host_device_truncate(BlockDriverState *bs, int64_t length,
                                GError **errp)
{
    FileState *s = bs->opaque;
    uint32_t granularity;
    int64_t now;

    if (!measure(bs, NULL, &now, &granularity, errp)) {
        return -EIO;
    }
    if (length > now) {
        error_setg(errp, "Cannot grow device files");
        return -EINVAL;
    }
    if (now != file_end(s)) {
        status_disk_resize(&s->user, now);
    }
    return 0;
}

static void set_limits(const FileState *s, BlockLimits *limits)
{
    uint32_t block = block_size(s->fd, BLKSSZGET);

    limits->pwrite_zeroes_alignment = MAX(block, sysconf(_SC_PAGESIZE));
    limits->pdiscard_alignment = block;
}

/* ---- zeroes and discards ------------------------------------------------ */

/* What @err, of a call that changes a range, means: 0, -ENOTSUP if another way
 * must be found (nothing has changed then), or another -errno. */
static int classify(FileState *s, int err, unsigned flag)
{
    switch (err) {
    case EOPNOTSUPP:
    case ENOSYS:
    case ENOTTY:
        file_set_found(s, flag);
        return -ENOTSUP;
    case EINVAL: /* not this range */
    case EFBIG:  /* too far out for the file system that has the node */
    case EBUSY: /* somebody has claimed the device: pages stay where they are */
        return -ENOTSUP;
    default:
        return -err;
    }
}

static int range_ioctl(FileState *s, unsigned long request, unsigned flag,
                       int64_t offset, int64_t bytes)
{
    uint64_t range[2] = { offset, bytes };
    int r;

    do {
        r = ioctl(s->fd, request, range);
    } while (r < 0 && errno == EINTR);
    return classify(s, r < 0 ? errno : 0, flag);
}

/* Write to the device what the kernel has cached of the range. If that fails,
 * or failed lately, it is rule 6: a passed description has but one report of it. */
static int write_back(FileState *s, int64_t offset, int64_t bytes)
{
    int r;

    do {
        r = sync_file_range(s->fd, offset, bytes,
                            SYNC_FILE_RANGE_WAIT_BEFORE |
                                SYNC_FILE_RANGE_WRITE |
                                SYNC_FILE_RANGE_WAIT_AFTER);
    } while (r < 0 && errno == EINTR);
    if (r < 0) {
        r = -errno;
        file_flush_failed(s);
    }
    return r;
}

static int write_zeroes(FileState *s, int64_t offset, int64_t bytes, int flags)
{
    int ret = write_back(s, offset, bytes);

    if (ret < 0) {
        return ret;
    }
    if (flags & BDRV_REQ_MAY_UNMAP) {
        ret = file_try_fallocate(s, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 FILE_NO_PUNCH_HOLE, offset, bytes);
        ret = classify(s, -ret, 0);
        if (ret != -ENOTSUP) {
            return ret;
        }
    }
    /* BLKZEROOUT does not tell whether it is fast. */
    if ((flags & BDRV_REQ_NO_FALLBACK) || file_found(s, FILE_NO_ZEROOUT)) {
        return -ENOTSUP;
    }
    return range_ioctl(s, BLKZEROOUT, FILE_NO_ZEROOUT, offset, bytes);
}

static int host_device_pdiscard(BlockDriverState *bs, int64_t offset,
                                int64_t bytes)
{
    FileState *s = bs->opaque;
    StatusOp op;
    int ret;

    if (file_found(s, FILE_NO_DISCARD)) {
        ret = -ENOTSUP;
    } else {
        status_cache_discard_begin(s->cache, &op, offset, bytes);
        ret = range_ioctl(s, BLKDISCARD, FILE_NO_DISCARD, offset, bytes);
        status_cache_discard_end(s->cache, &op);
    }
    file_account_discard(s, bytes, ret);
    return ret;
}

/* ---- the driver --------------------------------------------------------- */

static const FileKind kind = {
    .driver = "host_device",
    .type = S_IFBLK,
    .type_name = "a block device",
    .measure = measure,
    .set_limits = set_limits,
    .write_zeroes = write_zeroes,
};

static int host_device_open(BlockDriverState *bs, JsonObject *options,
                            GError **errp)
{
    return file_open_as(bs, &kind, options, errp);
}

const BlockDriver bdrv_host_device = {
    .format_name = "host_device",
    .kind = BLOCK_DRIVER_PROTOCOL,
    .instance_size = sizeof(FileState),
    .exact_end = true,
    .supported_write_flags = BDRV_REQ_FUA,
    .options = &host_device_options_type,
    .open = host_device_open,
    .reopen_options = file_reopen_options,
    .reopen_prepare = file_reopen_prepare,
    .reopen_commit = file_reopen_commit,
    .reopen_abort = file_reopen_abort,
    .close = file_close,
    .preadv = file_preadv,
    .pwritev = file_pwritev,
    .pwrite_zeroes = file_pwrite_zeroes,
    .pdiscard = host_device_pdiscard,
    .flush = file_flush,
    .may_submit = file_may_submit,
    .submit_begin = file_submit_begin,
    .submit_end = file_submit_end,
    .getlength = file_getlength,
    .truncate = host_device_truncate,
    .block_status = file_block_status,
    .check_perm = file_check_perm,
    .set_perm = file_set_perm,
    .abort_perm = file_abort_perm,
    .get_info = file_get_info,
    .get_specific_stats = file_get_specific_stats,
    .get_status_cache = file_get_status_cache,
};
