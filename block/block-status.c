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

/* @bs has said: ask *@file about *@pnum bytes at *@map. */
static int raw_status(BlockDriverState *bs, unsigned want, int64_t *pnum,
                      int64_t *map, BlockDriverState **file)
{
    int64_t offset = *map, bytes = *pnum;
    int ret;

    if (bs->drv->kind == BLOCK_DRIVER_FILTER) {
        /* What is not allocated there, is not allocated here. */
        ret = bdrv_block_status(*file, want, offset, bytes, pnum, map, file);
    } else {
        ret = bdrv_block_status_above(*file, NULL, want, offset, bytes, pnum,
                                      map, file, NULL);
    }
    if (ret >= 0 && *pnum == 0) {
        if (!bs->drv->supports_backing) {
            return -EIO; /* the disk has just shrunk */
        }
        /* The last cluster of an image may go on beyond the end of its file. */
        *pnum = bytes;
        *map = offset;
        return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID;
    }
    /* The end below need not be the end here. */
    return ret < 0 ? ret : ret & ~BDRV_BLOCK_EOF;
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
        ret = raw_status(bs, want, pnum, map, file);
        if (ret < 0) {
            return ret;
        }
    }
    if (ret & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO)) {
        ret |= BDRV_BLOCK_ALLOCATED;
    }
    if (offset + *pnum == length) {
        ret |= BDRV_BLOCK_EOF;
    }
    return ret;
}

/* ---- chains ------------------------------------------------------------- */

/* What has the contents that @bs passes through: @bs itself, if it is no
 * filter; @base, if that comes before; or NULL */
static BlockDriverState *skip_filters(BlockDriverState *bs,
                                      BlockDriverState *base)
{
    while (bs && bs != base && bs->drv->kind == BLOCK_DRIVER_FILTER) {
        bs = bs->file ? bs->file->bs : NULL;
    }
    return bs;
}

static BlockDriverState *next_below(BlockDriverState *bs,
                                    BlockDriverState *base)
{
    return bs->backing ? skip_filters(bs->backing->bs, base) : NULL;
}

/*
 * Is what the uppermost @levels nodes said true still: they have nothing of their
 * own there? *@pnum: how far. 1, or 0, or -errno
 */
static int still_below(BlockDriverState *bs, BlockDriverState *base, int levels,
                       int64_t offset, int64_t *pnum)
{
    BlockDriverState *p = skip_filters(bs, base);

    for (; p && p != base && levels > 0; levels--) {
        BlockDriverState *file;
        int64_t n, map;
        int ret = bdrv_block_status(p, 0, offset, *pnum, &n, &map, &file);

        if (ret < 0 || (ret & BDRV_BLOCK_ALLOCATED)) {
            return MIN(ret, 0);
        }
        /* What is not there any more has nothing. */
        *pnum = n > 0 ? n : *pnum;
        p = next_below(p, base);
    }
    return 1;
}

/* Does somebody write to a node below @bs, of those that were asked? */
static bool written_below(BlockDriverState *bs, BlockDriverState *base,
                          int levels)
{
    BlockDriverState *p = skip_filters(bs, base);

    while (p && p != base && --levels > 0) {
        p = next_below(p, base);
        if (p &&
            (__atomic_load_n(&p->perm, __ATOMIC_RELAXED) & BLK_PERM_WRITE)) {
            return true;
        }
    }
    return false;
}

/*
 * One look at a chain, from above. *@levels: how many nodes were asked; *@found: the
 * one that has it, counted from 1, or 0
 */
static int look_down(BlockDriverState *bs, BlockDriverState *base,
                     unsigned want, int64_t offset, int64_t bytes,
                     int64_t *pnum, int64_t *map, BlockDriverState **file,
                     int *levels, int *found)
{
    BlockDriverState *p = skip_filters(bs, base);

    *levels = *found = 0;
    for (; p && p != base; p = next_below(p, base)) {
        int ret = bdrv_block_status(p, want, offset, bytes, pnum, map, file);

        ++*levels;
        if (ret < 0) {
            return ret;
        }
        if (*pnum == 0) {
            if (*levels == 1) {
                return -EIO; /* the disk has just shrunk */
            }
            /* Too short: what is not there is zero, and that is all of it. */
            ret = BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED;
            *pnum = bytes;
            *file = p;
        }
        if (ret & BDRV_BLOCK_ALLOCATED) {
            *found = *levels;
            return ret;
        }
        bytes = *pnum;
    }
    *pnum = bytes;
    *map = 0;
    *file = NULL;
    return base ? 0 : BDRV_BLOCK_ZERO;
}

/*
 * Where a node below is written to, what it had may be copied to a node above first,
 * so that it is read there from then on (backups, copy-before-write). Zeroes that it has
 * are those of the chain only if that has not happened by the time they were seen.
 */
int bdrv_block_status_above(BlockDriverState *bs, BlockDriverState *base,
                            unsigned want, int64_t offset, int64_t bytes,
                            int64_t *pnum, int64_t *map,
                            BlockDriverState **file, int *depth)
{
    int64_t length = bdrv_driver_getlength(bs);
    int levels, found, ret, same;

    *pnum = 0;
    *map = 0;
    *file = NULL;
    if (depth) {
        *depth = 0;
    }
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
    do {
        ret = look_down(bs, base, want, offset, bytes, pnum, map, file, &levels,
                        &found);
        same = 1;
        if (ret >= 0 && !(ret & BDRV_BLOCK_DATA) &&
            written_below(bs, base, levels)) {
            same =
                still_below(bs, base, found ? found - 1 : levels, offset, pnum);
        }
    } while (same == 0);
    if (ret < 0 || same < 0) {
        return MIN(ret, same);
    }
    if (depth) {
        *depth = found;
    }
    /* The end of a node below need not be the end here. */
    return (ret & ~BDRV_BLOCK_EOF) |
           (offset + *pnum == length ? BDRV_BLOCK_EOF : 0);
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
