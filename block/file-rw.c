/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads, writes and flushes of the driver "file": system calls on the caller's
 * thread, told to the status cache (rules 1 and 6 of status-cache.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file-posix-int.h"
#include "util/aio.h"
#include "util/iov.h"

/* ---- transfers ---------------------------------------------------------- */

typedef struct Transfer {
    int fd;
    bool write;
    bool aio;     /* a write that is submitted */
    int flags;    /* RWF_ */
    size_t align; /* of offsets and lengths, as the file system wants them */
    const struct iovec *iov;
    int niov; /* IOV_MAX at most: io.c sees to that */
} Transfer;

/* One system call; the number of bytes or -errno */
static ssize_t transfer_once(const Transfer *t, size_t skip, size_t bytes,
                             int64_t offset)
{
    g_autofree struct iovec *part = NULL;
    const struct iovec *iov = t->iov;
    int niov = t->niov;
    ssize_t n;

    if (skip || bytes < iov_size(iov, niov)) {
        part = g_new(struct iovec, niov);
        niov = iov_slice(iov, niov, skip, bytes, part);
        iov = part;
    }
    do {
        n = t->aio     ? aio_pwritev(t->fd, iov, niov, offset)
            : t->write ? pwritev2(t->fd, iov, niov, offset, t->flags)
                       : preadv2(t->fd, iov, niov, offset, t->flags);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/*
 * Transfer bytes [@skip, @skip + @bytes) of the vector; byte 0 belongs at
 * @offset of the file. Returns how many, less than @bytes only at the end of
 * the file, or -errno.
 */
static ssize_t transfer(const Transfer *t, size_t skip, size_t bytes,
                        int64_t offset)
{
    size_t done = 0;

    while (done < bytes) {
        ssize_t n =
            transfer_once(t, skip + done, bytes - done, offset + skip + done);

        if (n < 0) {
            return n;
        }
        /* Direct I/O goes on at a block, and repeats what it had of it. */
        if (done + n < bytes && n % t->align) {
            if ((size_t)n < t->align) {
                return done + n;
            }
            n -= n % t->align;
        }
        if (n == 0) {
            break;
        }
        done += n;
    }
    return done;
}

/* ---- reads -------------------------------------------------------------- */

/*
 * Where the disk ends: a regular file may have been cut off meanwhile, and what
 * was there is zero; but a device that ends early has been taken away. Or -errno
 */
static int64_t find_end(FileState *s)
{
    struct stat st;

    if (s->kind->type == S_IFBLK) {
        return file_end(s);
    }
    return fstat(s->fd, &st) < 0 ? -errno : st.st_size;
}

/* @rwf: RWF_ flags of preadv2() */
static int read_with(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     const struct iovec *iov, int niov, int rwf)
{
    FileState *s = bs->opaque;
    Transfer t = {
        .fd = s->fd,
        .flags = rwf,
        .align = bs->limits.request_alignment,
        .iov = iov,
        .niov = niov,
    };
    int64_t end = -1, seen;
    ssize_t n = 0;

    do {
        n = transfer(&t, 0, bytes, offset);
        if (n < 0 || n == bytes) {
            return MIN(n, 0);
        }
        /* Zeroes stand for what is not there, never for what was not read: if
         * the file has grown since, there may be something. */
        seen = end;
        end = find_end(s);
        if (end < 0) {
            return end;
        }
    } while (offset + n < end && end > seen);
    if (offset + n < end) {
        /* Linux 5.9 and 5.10 return 0, not EAGAIN, for what they would wait for. */
        return rwf & RWF_NOWAIT ? -EAGAIN : -EIO;
    }
    iov_zero(iov, niov, n, bytes - n);
    return 0;
}

static int do_read(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   const struct iovec *iov, int niov)
{
    return read_with(bs, offset, bytes, iov, niov, 0);
}

/* -EAGAIN: not all of it is in the page cache. */
static int do_read_nowait(BlockDriverState *bs, int64_t offset, int64_t bytes,
                          const struct iovec *iov, int niov)
{
    int ret = read_with(bs, offset, bytes, iov, niov, RWF_NOWAIT);

    if (ret == -EOPNOTSUPP || ret == -ENOSYS) {
        file_set_found(bs->opaque, FILE_NO_NOWAIT);
        ret = do_read(bs, offset, bytes, iov, niov);
    }
    return ret;
}

int file_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                const struct iovec *iov, int niov, int flags)
{
    FileState *s = bs->opaque;
    bool nowait = (flags & BDRV_REQ_NOWAIT) && !s->direct &&
                  !file_found(s, FILE_NO_NOWAIT);
    int ret = status_read(&s->reader, bs, offset, bytes, iov, niov, flags,
                          nowait ? do_read_nowait : do_read);

    if ((flags & BDRV_REQ_ONCE) && !s->direct) {
        posix_fadvise(s->fd, offset, bytes, POSIX_FADV_DONTNEED);
    }
    return ret;
}

/* ---- writes ------------------------------------------------------------- */

/* Write bytes [@skip, @skip + @bytes) of the vector, all of them. */
static int write_all(const Transfer *t, int64_t skip, int64_t bytes,
                     int64_t offset)
{
    ssize_t n = bytes ? transfer(t, skip, bytes, offset) : 0;

    if (n < 0) {
        return n;
    }
    return n < bytes ? -EIO : 0;
}

/*
 * Write to the disk. With @fua the data is to be stable afterwards;
 * *@need_flush tells whether that takes a flush.
 */
static int do_write(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    const struct iovec *iov, int niov, bool fua, bool submitted,
                    bool *need_flush)
{
    FileState *s = bs->opaque;
    int64_t head = bytes - bytes % bs->limits.request_alignment;
    Transfer t = {
        .fd = s->fd,
        .write = true,
        .align = bs->limits.request_alignment,
        .iov = iov,
        .niov = niov,
    };
    int ret;

    if (fua && !file_found(s, FILE_NO_DSYNC)) {
        t.flags = RWF_DSYNC;
    }
    t.aio = submitted && !t.flags;
    ret = write_all(&t, 0, head, offset);
    if ((ret == -EOPNOTSUPP || ret == -ENOSYS) && t.flags) {
        file_set_found(s, FILE_NO_DSYNC);
        t.flags = 0;
        ret = write_all(&t, 0, head, offset);
    }
    if (ret < 0 && t.flags) {
        /* Maybe all was written, but writeback failed (rule 6). */
        status_cache_flush_failed(s->cache);
    }
    *need_flush = fua && (!t.flags || head < bytes);
    if (ret == 0 && head < bytes) {
        t.fd = s->sync_fd;
        t.align = 1;
        t.flags = 0;
        t.aio = false;
        ret = write_all(&t, head, bytes - head, offset);
    }
    return ret;
}

/*
 * How much is to be written: whole blocks, the last of which io.c has filled up,
 * but not beyond the end of the disk if only what was filled up is there.
 */
static int64_t fill_up(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    int64_t align = bs->limits.request_alignment;
    int64_t whole = bytes + (align - bytes % align) % align;

    return MAX(bytes, MIN(whole, file_end(bs->opaque) - offset));
}

/*
 * Submitted writes are to keep the disk busy, and no more: whoever else wants something
 * of it, of another file as well, waits for all that it has before. Large ones do
 * that one after the other. (A mirror of full disks, 16 writes of 1 MiB at once, had 8 %
 * more with no limit, and a client's reads took 4 ms, not 0.7.)
 */
#define MAX_SUBMITTED (2 * 1024 * 1024)

static bool begin_alone(FileState *s, int64_t bytes)
{
    if (__atomic_add_fetch(&s->submitted, bytes, __ATOMIC_RELAXED) <=
            MAX_SUBMITTED &&
        status_disk_begin_alone(&s->user)) {
        return true;
    }
    __atomic_sub_fetch(&s->submitted, bytes, __ATOMIC_RELAXED);
    return false;
}

static void end_submitted(FileState *s, int64_t bytes)
{
    status_disk_end_alone(&s->user);
    __atomic_sub_fetch(&s->submitted, bytes, __ATOMIC_RELAXED);
}

/* Is it within a disk that ends with a block? */
static bool is_within_blocks(BlockDriverState *bs, int64_t offset,
                             int64_t bytes)
{
    int64_t end = file_end(bs->opaque);

    return offset + bytes <= end && end % bs->limits.request_alignment == 0;
}

/*
 * Is it a direct write that may have to allocate? Then it is submitted, as ext4 would
 * let nobody else in until it has ended. Where data was seen there is something.
 *
 * Nobody may write there through the page cache meanwhile, and the file's lock does
 * not see to that any more: a page that is dirty when a direct write ends is told to
 * the next fsync as EIO. We do so ourselves at an end within a block, and file systems
 * have pages of any size, so that of a disk with such an end nothing is submitted.
 * fallocate() and ftruncate() wait for what was.
 */
static bool begin_submitted(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    FileState *s = bs->opaque;
    int64_t pnum;

    return s->exclusive_holes && s->direct && bytes > 0 &&
           is_within_blocks(bs, offset, bytes) &&
           (status_cache_peek(s->cache, offset, bytes, &pnum) !=
                BLOCK_STATE_DATA ||
            pnum < bytes) &&
           begin_alone(s, bytes);
}

int file_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 const struct iovec *iov, int niov, int flags)
{
    FileState *s = bs->opaque;
    bool fua = flags & BDRV_REQ_FUA;
    bool need_flush = false;
    bool locked = file_lock_tail(s, offset + bytes);
    bool submitted;
    StatusOp op;
    int ret;

    bytes = fill_up(bs, offset, bytes);
    submitted = begin_submitted(bs, offset, bytes);
    status_cache_write_begin(s->cache, &op, offset, bytes);
    ret = do_write(bs, offset, bytes, iov, niov, fua, submitted, &need_flush);
    status_cache_write_end(s->cache, &op, ret == 0);
    if (submitted) {
        end_submitted(s, bytes);
    }
    if (offset + bytes > file_end(s)) {
        file_grew(s, offset + bytes, ret);
    }
    file_unlock_tail(s, locked);
    if (ret == 0 && need_flush) {
        ret = file_flush(bs);
    }
    return ret;
}

/* ---- in two halves ------------------------------------------------------- */

bool file_may_submit(BlockDriverState *bs)
{
    const FileState *s = bs->opaque;

    return s->submits && s->direct;
}

static BlkSubmitted submit_write(BlockDriverState *bs, BlkSubmit *r)
{
    FileState *s = bs->opaque;
    int64_t bytes = r->iov.iov_len;

    if (file_is_near_tail(s, r->offset + bytes) || !s->exclusive_holes ||
        !is_within_blocks(bs, r->offset, bytes) || !begin_alone(s, bytes)) {
        return BLK_SUBMIT_NOT;
    }
    status_cache_write_begin(s->cache, &r->op, r->offset, bytes);
    return BLK_SUBMIT_BEGUN;
}

BlkSubmitted file_submit_begin(BlockDriverState *bs, BlkSubmit *r)
{
    FileState *s = bs->opaque;

    if (!file_may_submit(bs)) {
        return BLK_SUBMIT_NOT;
    }
    r->fd = s->fd;
    return r->is_write
               ? submit_write(bs, r)
               : status_read_submit(&s->reader, r->offset, r->iov.iov_len);
}

/* Is that the disk's answer? Otherwise it is asked again, and plainly: a request was
 * cut short, or given up, or the kernel has no such way. */
static bool is_answer(ssize_t result, int64_t bytes)
{
    return result == bytes ||
           (result < 0 && result != -EAGAIN && result != -EINTR &&
            result != -ECANCELED && result != -EINVAL && result != -EOPNOTSUPP);
}

int file_submit_end(BlockDriverState *bs, BlkSubmit *r, ssize_t result)
{
    FileState *s = bs->opaque;
    int64_t bytes = r->iov.iov_len;
    bool need_flush;
    int ret = MIN(result, 0);

    if (!is_answer(result, bytes)) {
        ret = r->is_write ? do_write(bs, r->offset, bytes, &r->iov, 1, false,
                                     false, &need_flush)
                          : do_read(bs, r->offset, bytes, &r->iov, 1);
    }
    if (r->is_write) {
        status_cache_write_end(s->cache, &r->op, ret == 0);
        end_submitted(s, bytes);
    }
    return ret;
}

/* ---- flushes ------------------------------------------------------------ */

/* One fdatasync(), with flush_lock held before and after. 0 or -errno */
static int run_flush(FileState *s)
{
    int ret;

    s->flushing = true;
    s->flush_started++;
    mutex_unlock(&s->flush_lock);
    do {
        ret = fdatasync(s->sync_fd) < 0 ? -errno : 0;
    } while (ret == -EINTR);
    if (ret < 0) {
        status_cache_flush_failed(s->cache);
    }
    mutex_lock(&s->flush_lock);
    s->flushing = false;
    s->flush_ended = s->flush_started;
    s->flush_failed |= ret < 0;
    cond_broadcast(&s->flush_cond);
    return ret;
}

void file_flush_failed(FileState *s)
{
    status_cache_flush_failed(s->cache);
    MUTEX_GUARD(&s->flush_lock);
    s->flush_failed = true;
}

/*
 * One flush at a time: the kernel reports a failed writeback to one caller only,
 * and all must hear of it. Who comes while one runs shares the next with the
 * others who came. After a failure nobody knows which data is lost, and the
 * kernel may call the pages clean: flushes fail until the node is closed.
 */
int file_flush(BlockDriverState *bs)
{
    FileState *s = bs->opaque;
    uint64_t mine;
    int ret = 0;
    MUTEX_GUARD(&s->flush_lock);

    if (s->sync_fd < 0) {
        return 0;
    }
    mine = s->flush_started + 1;
    while (ret == 0 && !s->flush_failed && s->flush_ended < mine) {
        if (s->flushing) {
            cond_wait(&s->flush_cond, &s->flush_lock);
        } else {
            ret = run_flush(s);
        }
    }
    return ret == 0 && s->flush_failed ? -EIO : ret;
}
