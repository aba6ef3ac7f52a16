/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads, writes, zero-writes, discards and flushes of the driver "nbd", told to the
 * status cache as status-cache.c has it. A trim promises nothing about what is
 * read later.
 *
 * libnbd takes one buffer a request. What comes in several is copied, in pieces of
 * 1 MiB, so that the memory is bounded.
 */
#include <errno.h>
#include <string.h>

#include "block/nbd-client-int.h"
#include "util/iov.h"

#define BOUNCE_MAX (INT64_C(1) << 20)

static const NbdExportInfo *info_of(const NbdClient *s)
{
    return &s->conn->info;
}

static int run(NbdClient *s, NbdCommand command, int64_t offset, int64_t bytes,
               void *buf, uint32_t flags)
{
    NbdRequest req = {
        .command = command,
        .offset = offset,
        .bytes = bytes,
        .buf = buf,
        .flags = flags,
    };

    return nbd_conn_run(s->conn, &req);
}

/* ---- transfers ---------------------------------------------------------- */

static int transfer_bounced(NbdClient *s, NbdCommand command, int64_t offset,
                            int64_t bytes, const struct iovec *iov, int niov,
                            uint32_t flags)
{
    g_autofree void *buf = g_try_malloc(MIN(bytes, BOUNCE_MAX));
    int64_t done = 0;
    int ret = 0;

    if (!buf) {
        return -ENOMEM;
    }
    while (ret == 0 && done < bytes) {
        int64_t n = MIN(bytes - done, BOUNCE_MAX);

        if (command == NBD_COMMAND_WRITE) {
            iov_to_buf(iov, niov, done, buf, n);
        }
        ret = run(s, command, offset + done, n, buf, flags);
        if (ret == 0 && command == NBD_COMMAND_READ) {
            iov_from_buf(iov, niov, done, buf, n);
        }
        done += n;
    }
    return ret;
}

static int transfer(NbdClient *s, NbdCommand command, int64_t offset,
                    int64_t bytes, const struct iovec *iov, int niov,
                    uint32_t flags)
{
    if ((int64_t)iov[0].iov_len >= bytes) {
        return run(s, command, offset, bytes, iov[0].iov_base, flags);
    }
    return transfer_bounced(s, command, offset, bytes, iov, niov, flags);
}

/* What of @bytes lies within the disk, which need not end with a block */
static int64_t within(const NbdClient *s, int64_t offset, int64_t bytes)
{
    return CLAMP(info_of(s)->size - offset, 0, bytes);
}

static int do_read(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   const struct iovec *iov, int niov)
{
    NbdClient *s = bs->opaque;
    int64_t n = within(s, offset, bytes);
    int ret = 0;

    if (n > 0) {
        ret = transfer(s, NBD_COMMAND_READ, offset, n, iov, niov, 0);
    }
    if (ret == 0 && n < bytes) {
        iov_zero(iov, niov, n, bytes - n);
    }
    return ret;
}

int nbd_client_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      const struct iovec *iov, int niov, int flags)
{
    NbdClient *s = bs->opaque;

    return status_read(&s->reader, bs, offset, bytes, iov, niov, flags,
                       do_read);
}

/* ---- writes ------------------------------------------------------------- */

/* The flag for the server if it does FUA; otherwise a flush follows. */
static uint32_t fua_flag(const NbdClient *s, int flags)
{
    return (flags & BDRV_REQ_FUA) && info_of(s)->fua ? LIBNBD_CMD_FLAG_FUA : 0;
}

/* Something was written, or half written. */
static int finish_write(BlockDriverState *bs, int flags, int ret)
{
    NbdClient *s = bs->opaque;

    __atomic_add_fetch(&s->writes, 1, __ATOMIC_RELEASE);
    if (ret == 0 && (flags & BDRV_REQ_FUA) && !info_of(s)->fua) {
        ret = nbd_client_flush(bs);
    }
    return ret;
}

int nbd_client_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       const struct iovec *iov, int niov, int flags)
{
    NbdClient *s = bs->opaque;
    StatusOp op;
    int ret;

    if (offset >= info_of(s)->size) {
        return -ENOSPC;
    }
    bytes = within(s, offset, bytes);
    status_cache_write_begin(s->cache, &op, offset, bytes);
    ret = transfer(s, NBD_COMMAND_WRITE, offset, bytes, iov, niov,
                   fua_flag(s, flags));
    status_cache_write_end(s->cache, &op, ret == 0);
    return finish_write(bs, flags, ret);
}

/*
 * Pieces are as long as those of writes, as some servers write them. -ENOTSUP to who
 * allows no fallback says that nothing has happened: so if the first was fast,
 * the others may be slow.
 */
static int write_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        uint32_t flags)
{
    const uint32_t fast = LIBNBD_CMD_FLAG_FAST_ZERO;
    NbdClient *s = bs->opaque;
    int64_t done = 0;
    int ret = 0;

    while (ret == 0 && done < bytes) {
        int64_t n = MIN(bytes - done, bs->limits.max_transfer);

        ret = run(s, NBD_COMMAND_ZERO, offset + done, n, NULL, flags);
        if (ret == -ENOTSUP && done > 0 && (flags & fast)) {
            flags &= ~fast;
            ret = run(s, NBD_COMMAND_ZERO, offset + done, n, NULL, flags);
            ret = ret == -ENOTSUP ? -EIO : ret;
        }
        done += n;
    }
    return ret;
}

int nbd_client_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                             int64_t bytes, int flags)
{
    NbdClient *s = bs->opaque;
    uint32_t nbd_flags = fua_flag(s, flags);
    StatusOp op;
    int ret;

    if (!info_of(s)->zero ||
        ((flags & BDRV_REQ_NO_FALLBACK) && !info_of(s)->fast_zero)) {
        return -ENOTSUP;
    }
    if (offset >= info_of(s)->size) {
        return -ENOSPC;
    }
    bytes = within(s, offset, bytes);
    if (!(flags & BDRV_REQ_MAY_UNMAP)) {
        nbd_flags |= LIBNBD_CMD_FLAG_NO_HOLE;
    }
    if (flags & BDRV_REQ_NO_FALLBACK) {
        nbd_flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
    }
    status_cache_zero_begin(s->cache, &op, offset, bytes, false);
    ret = write_zeroes(bs, offset, bytes, nbd_flags);
    status_cache_zero_end(s->cache, &op, ret == 0);
    return ret == -ENOTSUP ? ret : finish_write(bs, flags, ret);
}

int nbd_client_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    NbdClient *s = bs->opaque;
    StatusOp op;
    int ret;

    bytes = within(s, offset, bytes);
    if (!info_of(s)->trim || bytes == 0) {
        return -ENOTSUP;
    }
    status_cache_discard_begin(s->cache, &op, offset, bytes);
    ret = run(s, NBD_COMMAND_TRIM, offset, bytes, NULL, 0);
    status_cache_discard_end(s->cache, &op);
    return finish_write(bs, 0, ret);
}

/*
 * Only if something was written since the last one, as in QEMU: so a server that
 * was only read from is not waited for at the end. A flush that failed has proved
 * nothing, so the next one is sent, too.
 */
int nbd_client_flush(BlockDriverState *bs)
{
    NbdClient *s = bs->opaque;
    uint64_t writes = __atomic_load_n(&s->writes, __ATOMIC_ACQUIRE);
    uint64_t flushed = __atomic_load_n(&s->flushed, __ATOMIC_RELAXED);
    int ret;

    if (!info_of(s)->flush || flushed == writes) {
        return 0;
    }
    ret = run(s, NBD_COMMAND_FLUSH, 0, 0, NULL, 0);
    if (ret < 0) {
        status_cache_flush_failed(s->cache);
        return ret;
    }
    while (flushed < writes &&
           !__atomic_compare_exchange_n(&s->flushed, &flushed, writes, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return 0;
}
