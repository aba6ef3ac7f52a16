/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A block driver for tests: a disk in memory that is as picky about requests as
 * it is told to be, notes what it is asked and fails when it is told to.
 */
#ifndef TESTS_MEM_DRIVER_H
#define TESTS_MEM_DRIVER_H

#include <check.h>
#include <sched.h>
#include <string.h>

#include "block/block-int.h"
#include "util/iov.h"

typedef enum MemOp {
    MEM_READ,
    MEM_WRITE,
    MEM_ZERO,
    MEM_DISCARD,
    MEM_FLUSH,
    MEM_STATUS,
    MEM_OPS,
} MemOp;

typedef struct MemDisk {
    int64_t length;
    BlockLimits limits;
    bool no_zeroes, no_discard; /* -ENOTSUP */
    int64_t zero_max;           /* more at once is -ENOTSUP; 0: no limit */
    /* Called first by every request; what is not 0 is its result. */
    int (*hook)(struct MemDisk *disk, MemOp op, int64_t offset, int64_t bytes);
    void *opaque;

    Mutex lock;
    uint8_t *data;
    int count[MEM_OPS];
    int flags[MEM_OPS]; /* of the last one */
} MemDisk;

static inline MemDisk *mem_disk(BlockDriverState *bs)
{
    return *(MemDisk **)bs->opaque;
}

static inline int mem_begin(BlockDriverState *bs, MemOp op, int64_t offset,
                            int64_t bytes, int flags)
{
    MemDisk *disk = mem_disk(bs);
    int64_t align = MAX(disk->limits.request_alignment, 1);
    int64_t end = (disk->length + align - 1) / align * align;

    ck_assert_int_ge(offset, 0);
    ck_assert_int_ge(bytes, 0);
    ck_assert_int_le(offset + bytes, end);
    if (op != MEM_STATUS) {
        ck_assert_int_eq((offset | bytes) % align, 0);
    }
    mutex_lock(&disk->lock);
    disk->count[op]++;
    disk->flags[op] = flags;
    mutex_unlock(&disk->lock);
    return disk->hook ? disk->hook(disk, op, offset, bytes) : 0;
}

static inline void mem_check_iov(MemDisk *disk, int64_t bytes,
                                 const struct iovec *iov, int niov)
{
    ck_assert_int_eq(iov_size(iov, niov), bytes);
    ck_assert(iov_is_aligned(iov, niov, MAX(disk->limits.mem_alignment, 1),
                             MAX(disk->limits.request_alignment, 1)));
    if (disk->limits.max_transfer) {
        ck_assert_int_le(bytes, disk->limits.max_transfer);
    }
}

static inline int mem_preadv(BlockDriverState *bs, int64_t offset,
                             int64_t bytes, const struct iovec *iov, int niov,
                             int flags)
{
    MemDisk *disk = mem_disk(bs);
    int ret = mem_begin(bs, MEM_READ, offset, bytes, flags);

    mem_check_iov(disk, bytes, iov, niov);
    if (ret == 0) {
        MUTEX_GUARD(&disk->lock);
        iov_from_buf(iov, niov, 0, disk->data + offset, bytes);
    }
    return ret;
}

static inline int mem_pwritev(BlockDriverState *bs, int64_t offset,
                              int64_t bytes, const struct iovec *iov, int niov,
                              int flags)
{
    MemDisk *disk = mem_disk(bs);
    int ret = mem_begin(bs, MEM_WRITE, offset, bytes, flags);

    mem_check_iov(disk, bytes, iov, niov);
    if (ret == 0) {
        MUTEX_GUARD(&disk->lock);
        iov_to_buf(iov, niov, 0, disk->data + offset, bytes);
    }
    return ret;
}

static inline int mem_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, int flags)
{
    MemDisk *disk = mem_disk(bs);
    int ret = mem_begin(bs, MEM_ZERO, offset, bytes, flags);

    if (disk->limits.pwrite_zeroes_alignment) {
        ck_assert_int_eq(
            (offset | bytes) % disk->limits.pwrite_zeroes_alignment, 0);
    }
    if (ret == 0 &&
        (disk->no_zeroes || (disk->zero_max && bytes > disk->zero_max))) {
        ret = -ENOTSUP;
    }
    if (ret == 0) {
        MUTEX_GUARD(&disk->lock);
        memset(disk->data + offset, 0, bytes);
    }
    return ret;
}

static MemDisk *mem_next; /* what the node that is being opened is to have */

static inline int mem_open(BlockDriverState *bs, JsonObject *options,
                           GError **errp)
{
    *(MemDisk **)bs->opaque = mem_next;
    bs->limits = mem_next->limits;
    return 0;
}

/* Leaves a mark, so that tests see what was discarded */
#define MEM_DISCARDED 0xdd

static inline int mem_pdiscard(BlockDriverState *bs, int64_t offset,
                               int64_t bytes)
{
    MemDisk *disk = mem_disk(bs);
    int ret = mem_begin(bs, MEM_DISCARD, offset, bytes, 0);

    if (disk->limits.pdiscard_alignment) {
        ck_assert_int_eq((offset | bytes) % disk->limits.pdiscard_alignment, 0);
    }
    if (ret == 0 && disk->no_discard) {
        ret = -ENOTSUP;
    }
    if (ret == 0) {
        MUTEX_GUARD(&disk->lock);
        memset(disk->data + offset, MEM_DISCARDED, bytes);
    }
    return ret;
}

static inline int mem_flush(BlockDriverState *bs)
{
    return mem_begin(bs, MEM_FLUSH, 0, 0, 0);
}

static inline int64_t mem_getlength(BlockDriverState *bs)
{
    return mem_disk(bs)->length;
}

/* Byte by byte: runs of the same status, found in the data itself */
static inline int mem_block_status(BlockDriverState *bs, unsigned want,
                                   int64_t offset, int64_t bytes, int64_t *pnum,
                                   int64_t *map, BlockDriverState **file)
{
    MemDisk *disk = mem_disk(bs);
    int64_t align = MAX(disk->limits.request_alignment, 1);
    int64_t pos = offset;
    bool zero = true;
    int ret = mem_begin(bs, MEM_STATUS, offset, bytes, want);

    ck_assert_int_eq(offset % align, 0);
    ck_assert(bytes % align == 0 || offset + bytes == disk->length);
    MUTEX_GUARD(&disk->lock);
    *map = offset;
    *file = bs;
    while (ret == 0 && pos < disk->length) {
        int64_t n = MIN(align, disk->length - pos);
        bool block_zero = true;
        int64_t i;

        for (i = 0; i < n; i++) {
            block_zero = block_zero && disk->data[pos + i] == 0;
        }
        if (pos > offset && block_zero != zero) {
            break;
        }
        zero = block_zero;
        pos += n;
    }
    *pnum = pos - offset;
    return ret < 0 ? ret
                   : BDRV_BLOCK_OFFSET_VALID |
                         (zero ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA);
}

#define MEM_DRIVER(driver_name, fua)                                           \
    {                                                                          \
        .format_name = driver_name, .kind = BLOCK_DRIVER_PROTOCOL,             \
        .instance_size = sizeof(MemDisk *), .supported_write_flags = fua,      \
        .supported_zero_flags = fua, .open = mem_open, .preadv = mem_preadv,   \
        .pwritev = mem_pwritev, .pwrite_zeroes = mem_pwrite_zeroes,            \
        .pdiscard = mem_pdiscard, .flush = mem_flush,                          \
        .getlength = mem_getlength, .block_status = mem_block_status,          \
    }

static const BlockDriver mem_driver = MEM_DRIVER("mem", 0);
static const BlockDriver mem_fua_driver G_GNUC_UNUSED =
    MEM_DRIVER("mem-fua", BDRV_REQ_FUA);

static inline MemDisk *mem_disk_new(int64_t length, uint32_t align)
{
    MemDisk *disk = g_new0(MemDisk, 1);

    disk->length = length;
    disk->limits.request_alignment = align;
    disk->data = g_malloc0((length + align - 1) / align * align);
    mutex_init(&disk->lock);
    return disk;
}

/* After the node is gone */
static inline void mem_disk_free(MemDisk *disk)
{
    mutex_destroy(&disk->lock);
    g_free(disk->data);
    g_free(disk);
}

static inline int mem_count(MemDisk *disk, MemOp op)
{
    MUTEX_GUARD(&disk->lock);

    return disk->count[op];
}

/* Graph mutex held; the caller owns the reference. */
static inline BlockDriverState *mem_node_new(const BlockDriver *drv,
                                             const char *name, MemDisk *disk)
{
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs;

    mem_next = disk;
    bs = bdrv_new_internal(drv, name, &err);
    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    return bs;
}

#endif
