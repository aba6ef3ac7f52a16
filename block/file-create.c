/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * blockdev-create for the driver "file".
 *
 * An existing file is emptied first, as QEMU does. Two things keep that from
 * happening to a file in use: the image locks, held while it lasts, keep off
 * other processes, and the status registry keeps off nodes of this one, whose
 * length and status cache would be wrong at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "block/file-posix-int.h"
#include "util/error.h"

#define FULL_CHUNK (1 << 20)

const SchemaType file_create_options_type = {
    .name = "BlockdevCreateOptionsFile",
    .kind = SCHEMA_OBJECT,
    .doc = "A regular file. One that exists is emptied, unless it is in use.",
    .members =
        (const SchemaMember[]){
            { "filename", &schema_str,
              .doc = "Its path; a prefix \"file:\" is not part of it." },
            { "size", &schema_size, .doc = "Its length in bytes." },
            { "preallocation", &prealloc_mode_type, .optional = true,
              .doc = "What to allocate of it; default \"off\"." },
            { NULL },
        },
};

static int write_zeroes(int fd, int64_t length, const BdrvStop *stop)
{
    g_autofree char *buf = g_malloc0(FULL_CHUNK);
    int64_t done = 0;
    int ret;

    while (done < length) {
        ssize_t n;

        if (bdrv_should_stop(stop)) {
            return -ECANCELED;
        }
        n = pwrite(fd, buf, MIN(FULL_CHUNK, length - done), done);
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        if (n == 0) {
            return -EIO;
        }
        done += MAX(n, 0);
    }
    do {
        ret = fsync(fd) < 0 ? -errno : 0;
    } while (ret == -EINTR);
    return ret;
}

static int set_length(int fd, int64_t length)
{
    int ret;

    do {
        ret = ftruncate(fd, length) < 0 ? -errno : 0;
    } while (ret == -EINTR);
    return ret;
}

static int preallocate(int fd, int64_t length, BdrvPrealloc prealloc,
                       const BdrvStop *stop)
{
    int ret = 0;

    if (prealloc == BDRV_PREALLOC_FULL) {
        return write_zeroes(fd, length, stop);
    }
    if (prealloc == BDRV_PREALLOC_FALLOC && length > 0) {
        do {
            ret = fallocate(fd, 0, 0, length) < 0 ? -errno : 0;
        } while (ret == -EINTR);
    }
    return ret;
}

static int fill_file(int fd, const char *filename, int64_t length,
                     BdrvPrealloc prealloc, const BdrvStop *stop, GError **errp)
{
    int ret = set_length(fd, 0);
    int emptied;

    if (ret == 0) {
        ret = set_length(fd, length);
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not resize '%s' to %" PRId64,
                         filename, length);
        return ret;
    }
    ret = preallocate(fd, length, prealloc, stop);
    if (ret < 0) {
        error_setg_errno(errp, -ret,
                         "Could not preallocate %" PRId64 " bytes for '%s'",
                         length, filename);
        /* Give back what was allocated so far. */
        emptied = set_length(fd, 0);
        if (emptied < 0) {
            g_warning("Could not empty '%s': %s", filename,
                      g_strerror(-emptied));
        }
    }
    return ret;
}

int file_create(JsonObject *options, const BdrvStop *stop, GError **errp)
{
    const char *filename =
        file_strip_protocol(schema_get_str(options, "filename", NULL));
    uint64_t size = schema_get_int(options, "size", 0);
    BdrvPrealloc prealloc = schema_get_enum(
        options, "preallocation", &prealloc_mode_type, BDRV_PREALLOC_OFF);
    const uint64_t perm = BLK_PERM_WRITE | BLK_PERM_RESIZE;
    ImageLock lock;
    struct stat st;
    int fd, ret = -EBUSY;

    if (size > INT64_MAX) {
        error_setg(errp, "Size %" PRIu64 " of '%s' is too large", size,
                   filename);
        return -EINVAL;
    }
    if (prealloc == BDRV_PREALLOC_METADATA) {
        error_setg(errp, "Unsupported preallocation mode 'metadata'");
        return -ENOTSUP;
    }
    fd = file_open_kind(&file_kind_regular, filename, O_RDWR | O_CREAT, &st,
                        errp);
    if (fd < 0) {
        return fd;
    }
    image_lock_init(&lock, fd, filename, image_lock_supported(fd));
    if (status_disk_reserve(&st, filename, errp)) {
        if (image_lock_check(&lock, perm, BLK_PERM_ALL & ~BLK_PERM_RESIZE,
                             errp)) {
            ret = fill_file(fd, filename, size, prealloc, stop, errp);
        }
        image_lock_destroy(&lock);
        status_disk_release(&st);
    } else {
        image_lock_destroy(&lock);
    }
    if (file_close_fd(fd) < 0 && ret == 0) {
        ret = -errno;
        error_setg_errno(errp, -ret, "Could not close '%s'", filename);
    }
    return ret;
}
