/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Block status between nodes: from a question at any offset to one that a
 * driver takes, and from the answers of a chain of nodes to one.
 *
 * Nothing is remembered here: what is worth remembering is known to the node
 * that was asked, with the question it was asked.
 */
#include "block/graph-int.h"

static int64_t align_down(int64_t n, int64_t align)
{
    return n - n % align;
}

static int64_t align_up(int64_t n, int64_t align)
{
    return n > INT64_MAX - align ? INT64_MAX : align_down(n + align - 1, align);
}

/* What a node says for which its driver has no answer of its own */
static int default_status(BlockDriverState *bs, int64_t offset, int64_t bytes,
                          int64_t *pnum, int64_t *map, BlockDriverState **file)
{
    *pnum = bytes;
    *map = offset;
    if (bs->drv->kind == BLOCK_DRIVER_FILTER && bs->file) {
        *file = bs->file->bs;
        return BDRV_BLOCK_RAW | BDRV_BLOCK_OFFSET_VALID;
    }
    *file = bs;
    return BDRV_BLOCK_DATA |
           (bs->drv->kind == BLOCK_DRIVER_PROTOCOL ? BDRV_BLOCK_OFFSET_VALID
                                                   : 0);
}

/* Ask the driver about what surrounds [@offset, @offset + @bytes). */
static int driver_status(BlockDriverState *bs, unsigned want, int64_t offset,
                         int64_t bytes, int64_t length, int64_t *pnum,
                         int64_t *map, BlockDriverState **file)
{
    int64_t align = MAX(bs->limits.request_alignment, 1);
    int64_t start = align_down(offset, align);
    int64_t end = MIN(align_up(offset + bytes, align), length);
    int ret;

    if (bs->drv->block_status) {
        ret = bs->drv->block_status(bs, want, start, end - start, pnum, map,
                                    file);
    } else {
        ret = default_status(bs, start, end - start, pnum, map, file);
    }
    if (ret < 0) {
        return ret;
    }
    /* An answer covers at least one block; else the disk has just shrunk. */
    if (*pnum <= offset - start) {
        return -EIO;
    }
    *pnum = MIN(*pnum - (offset - start), bytes);
    *map += offset - start;
    return ret;
}

int bdrv_block_status(BlockDriverState *bs, unsigned want, int64_t offset,
                      int64_t bytes, int64_t *pnum, int64_t *map,
                      BlockDriverState **file)
{
    int64_t length = bdrv_driver_getlength(bs);
    int ret;

    *pnum = 0;
    *map = 0;
    *file = NULL;
    if (length < 0) {
        return length;
    }
    if (offset >= length) {
        return BDRV_BLOCK_EOF;
    }
    bytes = MIN(bytes, length - offset);
    if (bytes == 0) {
        return 0;
    }
    ret = driver_status(bs, want, offset, bytes, length, pnum, map, file);
    if (ret < 0) {
        *pnum = 0;
        return ret;
    }
    if (ret & BDRV_BLOCK_RAW) {
        g_assert((ret & BDRV_BLOCK_OFFSET_VALID) && *file && *file != bs);
        ret = bdrv_block_status(*file, want, *map, *pnum, pnum, map, file);
        if (ret >= 0 && *pnum == 0) {
            ret = -EIO;
        }
        if (ret < 0) {
            return ret;
        }
        /* The end below need not be the end here. */
        ret &= ~BDRV_BLOCK_EOF;
    }
    if (ret & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO)) {
        ret |= BDRV_BLOCK_ALLOCATED;
    }
    if (offset + *pnum == length) {
        ret |= BDRV_BLOCK_EOF;
    }
    return ret;
}

/* ---- the cache that answers -------------------------------------------- */

/* Short graph lock held */
static StatusCache *find_status_cache(BlockDriverState *bs)
{
    if (bs->drv->get_status_cache) {
        return bs->drv->get_status_cache(bs);
    }
    if ((bs->drv->kind == BLOCK_DRIVER_FILTER || bs->drv->transparent) &&
        bs->file && bs->file->bs) {
        return find_status_cache(bs->file->bs);
    }
    return NULL;
}

StatusCache *bdrv_get_status_cache(BlockDriverState *bs)
{
    StatusCache *cache;

    graph_short_rdlock();
    cache = find_status_cache(bs);
    graph_short_rdunlock();
    return cache;
}
