/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The drivers "file" and "host_device" open their file again: for other options
 * (blockdev-reopen), or because with auto-read-only somebody is going to write.
 *
 * A file that is opened again has a second description, and that has to have the
 * image locks before the first one gives them up, or another process might get in
 * between. Image locks are read locks, so both may have them; but each sees those
 * of the other, so nobody looks for conflicts from then on (image-lock.h):
 *
 * 1. open the file; it must be the same;
 * 2. tell the registry that there is going to be a writer: other nodes must not
 *    guard the disk against us;
 * 3. take what is needed in addition, and look, on the first description;
 * 4. lock on the second what is locked on the first;
 * 5. nothing can fail any more: unlock the first, and give its number to the
 *    second (dup3), so that whoever uses the number meets one or the other.
 *
 * What is decided when a writer comes happens without a drain, and requests may be
 * in flight: those that the kernel has go on with the first description.
 *
 * With auto-read-only a node stays open for writing until it is reopened.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file-posix-int.h"
#include "util/error.h"

#define ANY_WRITE (BLK_PERM_WRITE | BLK_PERM_WRITE_UNCHANGED)

/* ---- descriptors -------------------------------------------------------- */

static void close_descriptors(FileDescriptors *d)
{
    if (d->fd >= 0) {
        file_close_fd(d->fd);
    }
    if (d->sync_fd >= 0) {
        file_close_fd(d->sync_fd);
    }
    d->fd = d->sync_fd = -1;
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino &&
           a->st_rdev == b->st_rdev;
}

static bool check_same(FileState *s, const struct stat *st, GError **errp)
{
    struct stat mine;

    if (fstat(s->fd, &mine) < 0) {
        error_setg_errno(errp, errno, "Could not look at '%s'", s->filename);
        return false;
    }
    if (!is_same(&mine, st)) {
        error_setg(errp, "'%s' is another file than the one that is open",
                   s->filename);
        return false;
    }
    return true;
}

/*
 * There is but one description, so sync_fd must be another name of it: then no
 * write may report a failed writeback, lest fdatasync() does not.
 */
static int share_descriptor(FileState *s, int fd, GError **errp)
{
    int sync_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);

    file_set_found(s, FILE_NO_DSYNC);
    if (sync_fd < 0) {
        error_setg_errno(errp, errno, "Could not duplicate '%s'", s->filename);
    }
    return sync_fd;
}

bool file_open_descriptors(BlockDriverState *bs, bool writable, bool direct,
                           bool again, FileDescriptors *d, struct stat *st,
                           GError **errp)
{
    FileState *s = bs->opaque;
    int flags = (writable ? O_RDWR : O_RDONLY) | (direct ? O_DIRECT : 0);
    struct stat other;

    *d = (FileDescriptors){ .sync_fd = -1, .writable = writable };
    d->fd = file_open_kind(s->kind, s->filename, flags, st, errp);
    if (d->fd < 0 || (again && !check_same(s, st, errp))) {
        close_descriptors(d);
        return false;
    }
    if (!writable || (again && s->sync_fd >= 0)) {
        return true;
    }
    if (file_is_adopted(d->fd) && !direct) {
        other = *st;
        d->sync_fd = share_descriptor(s, d->fd, errp);
    } else {
        d->sync_fd = file_open_kind(s->kind, s->filename, O_RDWR, &other, errp);
    }
    if (d->sync_fd >= 0 && !is_same(&other, st)) {
        error_setg(errp, "'%s' was replaced while it was opened", s->filename);
        close_descriptors(d);
    }
    if (d->sync_fd < 0) {
        close_descriptors(d);
        return false;
    }
    return true;
}

static bool will_be_writable(const FileState *s)
{
    return s->have_next ? s->next.writable : s->writable;
}

static void drop_next(FileState *s)
{
    if (s->have_next) {
        image_lock_part(&s->lock);
        close_descriptors(&s->next);
        s->have_next = false;
        status_disk_set_writable(&s->user, s->writable);
    }
}

static bool open_next(BlockDriverState *bs, bool writable, bool direct,
                      GError **errp)
{
    FileState *s = bs->opaque;
    FileDescriptors next;
    struct stat st;

    if (!file_open_descriptors(bs, writable, direct, true, &next, &st, errp)) {
        return false;
    }
    drop_next(s);
    s->next = next;
    s->have_next = true;
    if (writable) {
        status_disk_set_writable(&s->user, true);
    }
    return true;
}

/* @fd's number gets the description of @next, which is no more. */
static void replace(int fd, int next)
{
    int r;

    do {
        r = dup3(next, fd, O_CLOEXEC);
    } while (r < 0 && (errno == EINTR || errno == EBUSY));
    g_assert(r == fd);
    file_moved_fd(next, fd);
    close(next);
}

/* Nothing is flushed that would use the old one: it is read-only from now on. */
static void set_sync_fd(FileState *s, int sync_fd)
{
    int old;

    mutex_lock(&s->flush_lock);
    old = s->sync_fd;
    s->sync_fd = sync_fd;
    mutex_unlock(&s->flush_lock);
    if (old >= 0) {
        file_close_fd(old);
    }
}

static void use_next(BlockDriverState *bs)
{
    FileState *s = bs->opaque;

    image_lock_hand_over(&s->lock);
    replace(s->fd, s->next.fd);
    if (s->next.sync_fd >= 0 || !s->next.writable) {
        set_sync_fd(s, s->next.sync_fd);
    }
    s->writable = s->next.writable;
    s->have_next = false;
    status_disk_set_writable(&s->user, s->writable);
    if (file_is_adopted(s->fd)) {
        status_disk_change(&s->user, MIN(s->user.want, STATUS_CACHE_DATA_ONLY),
                           s->user.max_memory, NULL);
    }
    if (bs->auto_read_only) {
        bdrv_set_read_only(bs, !s->writable);
    }
}

/* ---- permissions -------------------------------------------------------- */

static bool lock_next(FileState *s, GError **errp)
{
    if (s->have_next && !image_lock_join(&s->lock, s->next.fd, errp)) {
        image_lock_abort(&s->lock);
        return false;
    }
    return true;
}

/*
 * What the users of this node share with each other, they do not all share with
 * other processes: of a new size that somebody else gives to the file nobody
 * here would know.
 */
static uint64_t share_with_others(BlockDriverState *bs, uint64_t perm,
                                  uint64_t shared)
{
    return perm && !bs->force_share ? shared & ~BLK_PERM_RESIZE : shared;
}

bool file_check_perm(BlockDriverState *bs, uint64_t perm, uint64_t shared,
                     GError **errp)
{
    FileState *s = bs->opaque;

    if ((perm & ANY_WRITE) && !will_be_writable(s)) {
        bool direct =
            s->have_next ? fcntl(s->next.fd, F_GETFL) & O_DIRECT : s->direct;

        g_assert(bs->auto_read_only);
        if (!open_next(bs, true, direct, errp)) {
            return false;
        }
    }
    if (image_lock_check(&s->lock, perm, share_with_others(bs, perm, shared),
                         errp) &&
        lock_next(s, errp)) {
        return true;
    }
    if (!bs->reopening) {
        drop_next(s);
    }
    return false;
}

void file_set_perm(BlockDriverState *bs, uint64_t perm, uint64_t shared)
{
    FileState *s = bs->opaque;

    if (s->have_next) {
        use_next(bs);
    } else if (bs->auto_read_only) {
        bdrv_set_read_only(bs, !s->writable);
    }
    image_lock_set(&s->lock, perm, share_with_others(bs, perm, shared));
    status_disk_refresh(&s->user);
}

void file_abort_perm(BlockDriverState *bs)
{
    FileState *s = bs->opaque;

    image_lock_abort(&s->lock);
    if (!bs->reopening) {
        drop_next(s);
    }
}

/* ---- blockdev-reopen ---------------------------------------------------- */

typedef struct FileReopen {
    FileOptions o;
    BlockLimits limits;
    StatusCache *cache; /* if it is to be another one */
} FileReopen;

/* Granularity cannot change, so that of a node without a cache is the default. */
static bool prepare_cache(FileState *s, FileReopen *f, GError **errp)
{
    if (file_is_adopted(s->have_next ? s->next.fd : s->fd)) {
        f->o.mode = MIN(f->o.mode, STATUS_CACHE_DATA_ONLY);
    }
    f->o.disk.length = file_end(s);
    if (!f->o.disk.granularity_given) {
        f->o.disk.granularity = status_cache_granularity(s->cache);
    }
    return status_disk_prepare(&s->user, f->o.mode, &f->o.disk, &f->cache,
                               errp);
}

int file_reopen_prepare(BdrvReopen *r, GError **errp)
{
    BlockDriverState *bs = r->bs;
    FileState *s = bs->opaque;
    bool direct = r->common.cache_direct;
    bool writable = r->common.auto_read_only
                        ? s->writable && (bs->perm & ANY_WRITE)
                        : !r->common.read_only;
    g_autofree FileReopen *f = g_new0(FileReopen, 1);

    if (!file_parse_options(r->options, direct, &f->o, errp)) {
        return -EINVAL;
    }
    if ((writable != s->writable || direct != s->direct) &&
        !open_next(bs, writable, direct, errp)) {
        return -EINVAL;
    }
    if (!prepare_cache(s, f, errp)) {
        drop_next(s);
        return -EINVAL;
    }
    file_find_limits(s, s->have_next ? s->next.fd : s->fd, file_end(s), direct,
                     &f->limits);
    r->opaque = g_steal_pointer(&f);
    return 0;
}

void file_reopen_commit(BdrvReopen *r)
{
    FileReopen *f = r->opaque;
    BlockDriverState *bs = r->bs;
    FileState *s = bs->opaque;
    StatusCache *cache;

    cache =
        status_disk_change(&s->user, f->o.mode, f->o.disk.max_memory, f->cache);
    if (cache) {
        StatusCache *old = s->cache;

        mutex_lock(&s->cache_lock);
        s->cache = cache;
        mutex_unlock(&s->cache_lock);
        status_cache_unref(old);
    }
    if (s->kind->probes) {
        status_probe_set_strategy(s->probe, f->o.strategy);
    }
    bdrv_change_begin();
    bs->limits = f->limits;
    s->direct = r->common.cache_direct;
    bdrv_change_end();
    status_reader_init(&s->reader, s->cache, s->fd, &bs->limits, s->direct);
    s->reader.learn = f->o.learn_reads;
    g_free(f);
}

void file_reopen_abort(BdrvReopen *r)
{
    FileReopen *f = r->opaque;

    drop_next(r->bs->opaque);
    status_cache_unref(f->cache);
    g_free(f);
}

const char *const file_reopen_options[] = {
    "status-cache",
    "status-cache-size",
    "status-cache-learn-reads",
    "status-probe",
    NULL,
};
