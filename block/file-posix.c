/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Protocol driver "file": a regular file. Requests are system calls on the
 * thread that makes them; block status comes from the status cache, and only
 * what that does not know, from the file system.
 *
 * The driver "host_device" (host-device.c) is the same but for what its
 * FileKind says.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "block/file-posix-int.h"
#include "block/status-json.h"
#include "util/error.h"
#include "util/fdset.h"
#include "util/uring.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

/* Between these lies what st_blksize is taken for: file systems also use it to
 * tell the best size of transfers. */
#define MIN_DEFAULT_GRANULARITY 4096
#define MAX_DEFAULT_GRANULARITY 65536

/* ---- open --------------------------------------------------------------- */

static bool check_type(const FileKind *kind, const char *filename,
                       const struct stat *st, GError **errp)
{
    const char *what = S_ISREG(st->st_mode)    ? "a regular file"
                       : S_ISBLK(st->st_mode)  ? "a block device"
                       : S_ISCHR(st->st_mode)  ? "a character device"
                       : S_ISDIR(st->st_mode)  ? "a directory"
                       : S_ISFIFO(st->st_mode) ? "a FIFO"
                       : S_ISSOCK(st->st_mode) ? "a socket"
                                               : "something else";

    if ((st->st_mode & S_IFMT) == kind->type) {
        return true;
    }
    error_setg(errp, "'%s' driver requires '%s' to be %s, but it is %s",
               kind->driver, filename, kind->type_name, what);
    return false;
}

static bool is_write_protected(int fd)
{
    int read_only;

    return ioctl(fd, BLKROGET, &read_only) == 0 && read_only;
}

int file_check_opened(const FileKind *kind, const char *filename, int fd,
                      int flags, struct stat *st, GError **errp)
{
    int err;

    if (fstat(fd, st) < 0) {
        err = errno;
        error_setg_errno(errp, err, "Could not look at '%s'", filename);
        return -err;
    }
    if (!check_type(kind, filename, st, errp)) {
        return -EINVAL;
    }
    if (S_ISBLK(st->st_mode) && (flags & O_ACCMODE) != O_RDONLY &&
        is_write_protected(fd)) {
        /* Opening it does not tell. */
        error_setg_errno(errp, EACCES, "The device '%s' is not writable",
                         filename);
        return -EACCES;
    }
    return 0;
}

/*
 * Opening devices and FIFOs may have side effects or wait: so the file is
 * looked at first, and again afterwards, as it may have been replaced.
 */
int file_open_path(const FileKind *kind, const char *filename, const char *path,
                   int flags, struct stat *st, GError **errp)
{
    const char *what = flags & O_CREAT ? "create" : "open";
    int fd, err;

    if (stat(path, st) == 0) {
        if (!check_type(kind, filename, st, errp)) {
            return -EINVAL;
        }
    } else if (errno != ENOENT || !(flags & O_CREAT)) {
        err = errno;
        error_setg_errno(errp, err, "Could not %s '%s'", what, filename);
        return -err;
    }
    fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644);
    if (fd < 0) {
        err = errno;
        if (err == EINVAL && (flags & O_DIRECT)) {
            error_setg(errp,
                       "Could not open '%s': its file system does not "
                       "support cache.direct=on",
                       filename);
        } else {
            error_setg_errno(errp, err, "Could not %s '%s'", what, filename);
        }
        return -err;
    }
    err = -file_check_opened(kind, filename, fd, flags, st, errp);
    if (err == 0 && fcntl(fd, F_SETFL, flags & O_DIRECT) < 0) {
        err = errno;
        error_setg_errno(errp, err, "Could not set flags of '%s'", filename);
    }
    if (err) {
        close(fd);
        return -err;
    }
    return fd;
}

int file_open_kind(const FileKind *kind, const char *filename, int flags,
                   struct stat *st, GError **errp)
{
    return fdset_is_path(filename)
               ? file_open_fdset(kind, filename, flags, st, errp)
               : file_open_path(kind, filename, filename, flags, st, errp);
}

/*
 * With auto-read-only, it is opened for writing when somebody is going to; or at
 * once, if a set of descriptors has none for reading only.
 */
static bool open_first(BlockDriverState *bs, struct stat *st, GError **errp)
{
    FileState *s = bs->opaque;
    bool direct = bs->cache_direct;
    FileDescriptors d;

    if (!bs->auto_read_only) {
        if (!file_open_descriptors(bs, !bdrv_is_read_only(bs), direct, false,
                                   &d, st, errp)) {
            return false;
        }
    } else if (!file_open_descriptors(bs, false, direct, false, &d, st, errp)) {
        if (!s->holds_fdset ||
            !file_open_descriptors(bs, true, direct, false, &d, st, NULL)) {
            return false;
        }
        g_clear_error(errp);
    }
    s->fd = d.fd;
    s->sync_fd = d.sync_fd;
    s->writable = d.writable;
    bdrv_set_read_only(bs, !d.writable);
    return true;
}

static bool set_up_locks(FileState *s, int locking, GError **errp)
{
    bool supported = locking != LOCKING_OFF && image_lock_supported(s->fd);

    if (locking == LOCKING_ON && !supported) {
        error_setg(errp,
                   "locking=on was specified, but the file system of "
                   "'%s' does not support open file description locks",
                   s->filename);
        return false;
    }
    image_lock_init(&s->lock, s->fd, s->filename, supported);
    return true;
}

static bool measure(BlockDriverState *bs, const struct stat *st,
                    int64_t *length, uint32_t *granularity, GError **errp)
{
    uint32_t block = st->st_blksize & (st->st_blksize - 1) ? 0 : st->st_blksize;

    *length = st->st_size;
    *granularity =
        CLAMP(block, MIN_DEFAULT_GRANULARITY, MAX_DEFAULT_GRANULARITY);
    return true;
}

void file_find_limits(const FileState *s, int fd, int64_t length, bool direct,
                      BlockLimits *limits)
{
    *limits = (BlockLimits){ .request_alignment = 1, .mem_alignment = 1 };
    if (direct) {
        file_find_alignment(fd, length, limits);
    }
    limits->opt_alignment = MAX(limits->request_alignment, 4096);
    if (s->kind->set_limits) {
        s->kind->set_limits(s, limits);
    }
}

/*
 * Are all direct writes direct? Into holes of a file without extents ext4 writes
 * through the page cache, and so it may where there is encryption and the like.
 */
static bool is_plain_ext4(int fd)
{
    unsigned flags; /* of this size, whatever the name of the request says */

    return ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 &&
           (flags & (FS_EXTENT_FL | FS_ENCRYPT_FL | FS_INLINE_DATA_FL |
                     FS_JOURNAL_DATA_FL)) == FS_EXTENT_FL;
}

/* What is known of the file system by its kind */
static void find_file_system(FileState *s)
{
    static const uint32_t magics[] = { EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC,
                                       BTRFS_SUPER_MAGIC, TMPFS_MAGIC,
                                       F2FS_SUPER_MAGIC };
    struct statfs fs;
    size_t i;

    if (fstatfs(s->fd, &fs) < 0) {
        return;
    }
    for (i = 0; i < G_N_ELEMENTS(magics); i++) {
        s->local |= (uint32_t)fs.f_type == magics[i];
    }
    s->exclusive_holes =
        (uint32_t)fs.f_type == EXT4_SUPER_MAGIC && is_plain_ext4(s->fd);
}

static bool set_up_aio(FileState *s, int aio, GError **errp)
{
    int ret = aio == FILE_AIO_THREADS ? 0 : uring_check();

    if (ret < 0 && aio == FILE_AIO_IO_URING) {
        error_setg_errno(errp, -ret, "Unable to use io_uring for '%s'",
                         s->filename);
        return false;
    }
    s->submits = aio != FILE_AIO_THREADS && ret == 0;
    return true;
}

static bool join_disk(BlockDriverState *bs, FileOptions *o,
                      const struct stat *st, GError **errp)
{
    FileState *s = bs->opaque;

    s->user.name = bs->node_name;
    s->user.writable = s->writable;
    s->user.share_write = bs->force_share;
    s->user.want = o->mode;
    s->user.lock = &s->lock;
    s->cache = status_disk_attach(&s->user, st, &o->disk, errp);
    return s->cache != NULL;
}

void file_close(BlockDriverState *bs)
{
    FileState *s = bs->opaque;

    if (s->user.disk) {
        status_disk_detach(&s->user);
    }
    image_lock_destroy(&s->lock);
    status_probe_free(s->probe);
    status_cache_unref(s->cache);
    if (s->sync_fd >= 0) {
        file_close_fd(s->sync_fd);
    }
    if (s->fd >= 0) {
        file_close_fd(s->fd);
    }
    if (s->holds_fdset) {
        fdset_release(s->filename);
    }
    cond_destroy(&s->flush_cond);
    mutex_destroy(&s->flush_lock);
    mutex_destroy(&s->cache_lock);
    mutex_destroy(&s->tail_lock);
    g_free(s->filename);
}

int file_open_as(BlockDriverState *bs, const FileKind *kind,
                 JsonObject *options, GError **errp)
{
    FileState *s = bs->opaque;
    FileOptions o = { 0 };
    uint32_t granularity;
    struct stat st;

    if (!file_parse_options(options, bs->cache_direct, &o, errp)) {
        return -EINVAL;
    }
    s->kind = kind;
    s->fd = s->sync_fd = -1;
    s->filename = g_strdup(o.filename);
    mutex_init(&s->tail_lock);
    mutex_init(&s->cache_lock);
    mutex_init(&s->flush_lock);
    cond_init(&s->flush_cond);
    s->holds_fdset = fdset_hold(s->filename);
    if (open_first(bs, &st, errp) && set_up_locks(s, o.locking, errp) &&
        set_up_aio(s, o.aio, errp) &&
        kind->measure(bs, &st, &o.disk.length, &granularity, errp)) {
        s->direct = bs->cache_direct;
        s->page = MAX(sysconf(_SC_PAGESIZE), st.st_blksize);
        file_find_limits(s, s->fd, o.disk.length, s->direct, &bs->limits);
        find_file_system(s);
        s->probe = status_probe_new(s->fd, kind->probes ? o.strategy
                                                        : STATUS_PROBE_NONE);
        if (!o.disk.granularity_given) {
            o.disk.granularity = granularity;
        }
        if (file_is_adopted(s->fd)) {
            /* Whoever has it, too, is not kept out by locks. */
            o.mode = MIN(o.mode, STATUS_CACHE_DATA_ONLY);
        }
        if (join_disk(bs, &o, &st, errp)) {
            status_reader_init(&s->reader, s->cache, s->fd, &bs->limits,
                               s->direct);
            s->reader.learn = o.learn_reads;
            return 0;
        }
    }
    file_close(bs);
    return -EINVAL;
}

/* ---- status and information --------------------------------------------- */

int64_t file_getlength(BlockDriverState *bs)
{
    FileState *s = bs->opaque;

    return file_end(s);
}

int file_block_status(BlockDriverState *bs, unsigned want, int64_t offset,
                      int64_t bytes, int64_t *pnum, int64_t *map,
                      BlockDriverState **file)
{
    FileState *s = bs->opaque;
    int flags = BDRV_BLOCK_OFFSET_VALID;
    int64_t end = file_end(s);
    bool probed;
    int state;

    *map = offset;
    *file = bs;
    if (want & BDRV_WANT_READ) {
        return flags | (status_read_cut(&s->reader, offset, bytes, pnum)
                            ? BDRV_BLOCK_ZERO
                            : BDRV_BLOCK_DATA);
    }
    if (!(want & BDRV_WANT_ZERO)) {
        *pnum = bytes;
        return flags | BDRV_BLOCK_DATA;
    }
    if (offset >= end) {
        *pnum = 0; /* through another node it was just made shorter */
        return flags | BDRV_BLOCK_DATA;
    }
    if (want & BDRV_WANT_KNOWN) {
        state =
            status_cache_peek(s->cache, offset, MIN(bytes, end - offset), pnum);
        probed = state == BLOCK_STATE_UNKNOWN;
    } else {
        state = status_query(s->cache, s->probe, offset,
                             MIN(bytes, end - offset), pnum, &probed);
    }
    if (state < 0) {
        return state;
    }
    state = status_align_answer(bs, state, offset, end, pnum);
    flags |= probed ? BDRV_BLOCK_PROBED : 0;
    return flags |
           (state == BLOCK_STATE_ZERO ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA);
}

StatusCache *file_get_status_cache(BlockDriverState *bs)
{
    FileState *s = bs->opaque;

    MUTEX_GUARD(&s->cache_lock);

    return status_cache_ref(s->cache);
}

static JsonObject *cache_info(FileState *s)
{
    JsonObject *info = json_object_new();
    StatusCacheMode mode;
    MUTEX_GUARD(&s->cache_lock);

    mode = status_cache_get_mode(s->cache);

    json_object_set_string_member(info, "mode",
                                  status_cache_mode_type.values[mode]);
    json_object_set_int_member(info, "granularity",
                               status_cache_granularity(s->cache));
    json_object_set_int_member(
        info, "size", __atomic_load_n(&s->user.max_memory, __ATOMIC_RELAXED));
    json_object_set_string_member(
        info, "strategy",
        status_probe_strategy_name(status_probe_strategy(s->probe)));
    return info;
}

void file_get_info(BlockDriverState *bs, JsonObject *image)
{
    FileState *s = bs->opaque;
    JsonObject *specific = json_object_new();
    JsonObject *data = json_object_new();
    struct stat st;

    json_object_set_string_member(image, "filename", s->filename);
    /* Elsewhere it might have to wait for a server. */
    if (s->local && fstat(s->fd, &st) == 0) {
        json_object_set_int_member(image, "actual-size",
                                   (int64_t)st.st_blocks * 512);
    }
    json_object_set_string_member(
        data, "aio",
        file_aio_type.values[file_may_submit(bs) ? FILE_AIO_IO_URING
                                                 : FILE_AIO_THREADS]);
    json_object_set_boolean_member(data, "locking", s->lock.enabled);
    json_object_set_object_member(data, "status-cache", cache_info(s));
    json_object_set_string_member(specific, "type", s->kind->driver);
    json_object_set_object_member(specific, "data", data);
    json_object_set_object_member(image, "format-specific", specific);
}

JsonObject *file_get_specific_stats(BlockDriverState *bs)
{
    FileState *s = bs->opaque;
    g_autoptr(StatusCache) cache = file_get_status_cache(bs);
    JsonObject *stats = json_object_new();

    json_object_set_string_member(stats, "driver", s->kind->driver);
    json_object_set_int_member(
        stats, "discard-nb-ok",
        __atomic_load_n(&s->discard_nb_ok, __ATOMIC_RELAXED));
    json_object_set_int_member(
        stats, "discard-nb-failed",
        __atomic_load_n(&s->discard_nb_failed, __ATOMIC_RELAXED));
    json_object_set_int_member(
        stats, "discard-bytes-ok",
        __atomic_load_n(&s->discard_bytes_ok, __ATOMIC_RELAXED));
    json_object_set_object_member(stats, "status-cache",
                                  status_cache_to_json(cache, s->probe));
    return stats;
}

const FileKind file_kind_regular = {
    .driver = "file",
    .type = S_IFREG,
    .type_name = "a regular file",
    .probes = true,
    .measure = measure,
    .write_zeroes = file_zero_by_fallocate,
};

static int file_open(BlockDriverState *bs, JsonObject *options, GError **errp)
{
    return file_open_as(bs, &file_kind_regular, options, errp);
}

const BlockDriver bdrv_file = {
    .format_name = "file",
    .kind = BLOCK_DRIVER_PROTOCOL,
    .instance_size = sizeof(FileState),
    .exact_end = true,
    .supported_write_flags = BDRV_REQ_FUA,
    .options = &file_options_type,
    .open = file_open,
    .reopen_options = file_reopen_options,
    .reopen_prepare = file_reopen_prepare,
    .reopen_commit = file_reopen_commit,
    .reopen_abort = file_reopen_abort,
    .close = file_close,
    .preadv = file_preadv,
    .pwritev = file_pwritev,
    .pwrite_zeroes = file_pwrite_zeroes,
    .pdiscard = file_pdiscard,
    .flush = file_flush,
    .may_submit = file_may_submit,
    .submit_begin = file_submit_begin,
    .submit_end = file_submit_end,
    .getlength = file_getlength,
    .truncate = file_truncate,
    .block_status = file_block_status,
    .check_perm = file_check_perm,
    .set_perm = file_set_perm,
    .abort_perm = file_abort_perm,
    .get_info = file_get_info,
    .get_specific_stats = file_get_specific_stats,
    .get_status_cache = file_get_status_cache,
    .create_options = &file_create_options_type,
    .create = file_create,
};
