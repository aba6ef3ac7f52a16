/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mem-file.h"

#include <errno.h>

#include "block/block-int.h"
#include "fuzz.h"
#include "util/iov.h"

#define BLOCK 512 /* of which status is told */

static struct {
    uint8_t *data; /* of MEM_FILE_MAX bytes; zero beyond length */
    int64_t length;
    unsigned fail;
    bool failed;
} file;

static int file_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       const struct iovec *iov, int niov, int flags)
{
    fuzz_assert(offset >= 0 && bytes >= 0 && offset + bytes <= file.length);
    iov_from_buf(iov, niov, 0, file.data + offset, bytes);
    return 0;
}

/* 0 if what is there may be overwritten up to @end */
static int begin_write(int64_t offset, int64_t bytes)
{
    fuzz_assert(offset >= 0 && bytes >= 0);
    if (file.fail > 0 && --file.fail == 0) {
        file.failed = true;
        return -EIO;
    }
    if (offset > MEM_FILE_MAX || bytes > MEM_FILE_MAX - offset) {
        file.failed = true;
        return -EFBIG;
    }
    file.length = MAX(file.length, offset + bytes);
    return 0;
}

static int file_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        const struct iovec *iov, int niov, int flags)
{
    int ret = begin_write(offset, bytes);

    if (ret == 0) {
        iov_to_buf(iov, niov, 0, file.data + offset, bytes);
    }
    return ret;
}

static int file_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                              int64_t bytes, int flags)
{
    int ret = begin_write(offset, bytes);

    if (ret == 0) {
        memset(file.data + offset, 0, bytes);
    }
    return ret;
}

/* Whoever reads it afterwards sees that it is gone. */
static int file_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    fuzz_assert(offset >= 0 && bytes >= 0 && offset + bytes <= file.length);
    memset(file.data + offset, 0xdd, bytes);
    return 0;
}

static int file_flush(BlockDriverState *bs)
{
    return 0;
}

static int64_t file_getlength(BlockDriverState *bs)
{
    return file.length;
}

static int file_truncate(BlockDriverState *bs, int64_t length, GError **errp)
{
    fuzz_assert(length >= 0);
    if (length > MEM_FILE_MAX) {
        file.failed = true;
        g_set_error(errp, G_FILE_ERROR, G_FILE_ERROR_FAILED, "too long");
        return -EFBIG;
    }
    if (length < file.length) {
        memset(file.data + length, 0, file.length - length);
    }
    file.length = length;
    return 0;
}

static bool is_zero(int64_t block)
{
    const uint8_t *p = file.data + block * BLOCK;

    return p[0] == 0 && memcmp(p, p + 1, BLOCK - 1) == 0;
}

static int file_block_status(BlockDriverState *bs, unsigned want,
                             int64_t offset, int64_t bytes, int64_t *pnum,
                             int64_t *map, BlockDriverState **node)
{
    int64_t block = offset / BLOCK;
    bool zero = is_zero(block);

    while (++block * BLOCK < file.length && is_zero(block) == zero) {
    }
    *pnum = MIN(block * BLOCK, file.length) - offset;
    *map = offset;
    *node = bs;
    return BDRV_BLOCK_OFFSET_VALID | (zero ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA);
}

static const BlockDriver driver = {
    .format_name = "mem-file",
    .kind = BLOCK_DRIVER_PROTOCOL,
    .preadv = file_preadv,
    .pwritev = file_pwritev,
    .pwrite_zeroes = file_pwrite_zeroes,
    .pdiscard = file_pdiscard,
    .flush = file_flush,
    .getlength = file_getlength,
    .truncate = file_truncate,
    .block_status = file_block_status,
};

void mem_file_open(const uint8_t *data, size_t size)
{
    BlockDriverState *bs;

    if (!file.data) {
        file.data = g_malloc0(MEM_FILE_MAX);
    }
    fuzz_assert(size <= MEM_FILE_MAX);
    memcpy(file.data, data, size);
    memset(file.data + size, 0, MAX(file.length - (int64_t)size, 0));
    file.length = size;
    file.fail = 0;
    file.failed = false;
    bs = bdrv_new_internal(&driver, MEM_FILE_NODE, NULL);
    fuzz_assert(bs != NULL);
    bs->monitor_owned = true; /* which nobody waits for */
}

void mem_file_close(void)
{
    fuzz_assert(bdrv_monitor_del(MEM_FILE_NODE, NULL));
}

void mem_file_fail(unsigned n)
{
    file.fail = n;
}

int mem_file_failed(void)
{
    return file.failed;
}
