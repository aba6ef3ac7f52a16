/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Status cache: is what is called zero really zero (rule 11)?
 */
#include "status-cache-int.h"

bool status_cache_verify_begin(StatusCache *c, StatusOp *op, int64_t offset,
                               int64_t max, int64_t *start, int64_t *bytes)
{
    int64_t from, to, stop;
    MUTEX_GUARD_SHORT(&c->lock);

    g_assert(offset >= 0 && max > 0);
    if (offset >= c->length) {
        return false;
    }
    from = sparse_bitmap_next_set(c->zero, block_floor(c, offset), c->blocks);
    if (from == c->blocks) {
        return false;
    }
    *start = MAX(from << c->shift, offset);
    stop = *start + MIN(max, c->length - *start);
    to = sparse_bitmap_next_clear(c->zero, from, block_ceil(c, stop));
    *bytes = run_bytes(c, *start, stop, to);
    status_op_begin(c, op, OP_VERIFY, *start, *bytes);
    return true;
}

/* Lock held */
static void distrust(StatusCache *c)
{
    c->distrusted = true;
    if (c->mode == STATUS_CACHE_ON) {
        status_map_forget_zeroes(c);
        c->mode = STATUS_CACHE_DATA_ONLY;
    }
}

/*
 * The untainted parts of [@start, @end) bytes: how many bytes they have; of those
 * that there is room for, where they are.
 */
static int64_t untainted(const StatusCache *c, const StatusOp *op,
                         int64_t start, int64_t end, StatusCut *parts, int *n,
                         int max)
{
    int64_t block = block_floor(c, start), last = block_ceil(c, end);
    int64_t run_end, bytes = 0;

    for (; block < last; block = run_end) {
        StatusCut part;

        if (status_op_tainted(op, block, last, &run_end)) {
            continue;
        }
        part.start = MAX(block << c->shift, start);
        part.end = run_end < last ? run_end << c->shift : end;
        bytes += part.end - part.start;
        if (*n < max) {
            parts[(*n)++] = part;
        }
    }
    return bytes;
}

int status_cache_verify_end(StatusCache *c, StatusOp *op, int64_t read,
                            const StatusCut *found, int n, StatusCut *lies,
                            int max)
{
    int64_t verified, lied = 0;
    int none = 0, n_lies = 0, i;
    CACHE_SECTION(c);

    status_op_end(c, op);
    g_assert(read >= 0 && read <= op->bytes);
    for (i = 0; i < n; i++) {
        g_assert(found[i].start >= op->offset &&
                 found[i].end <= op->offset + read);
        lied +=
            untainted(c, op, found[i].start, found[i].end, lies, &n_lies, max);
    }
    verified =
        untainted(c, op, op->offset, op->offset + read, NULL, &none, 0) - lied;
    c->stats.verified_bytes += verified;
    c->stats.verify_mismatches += n_lies;
    if (n_lies > 0) {
        distrust(c);
    }
    for (i = 0; i < n_lies; i++) {
        status_map_mark_data(c, block_floor(c, lies[i].start),
                             block_ceil(c, lies[i].end));
    }
    return n_lies;
}

uint64_t status_cache_zeroes_left(StatusCache *c, int64_t offset)
{
    int64_t block;
    uint64_t bytes;
    MUTEX_GUARD_SHORT(&c->lock);

    block = block_floor(c, offset);
    if (offset >= c->length) {
        return 0;
    }
    bytes = sparse_bitmap_count_range(c->zero, block, c->blocks - block)
            << c->shift;
    /* the parts of the first and the last block that do not count */
    if (bytes > 0 && sparse_bitmap_test(c->zero, block)) {
        bytes -= offset - (block << c->shift);
    }
    if (bytes > 0 && sparse_bitmap_test(c->zero, c->blocks - 1)) {
        bytes -= (c->blocks << c->shift) - c->length;
    }
    return bytes;
}

void status_cache_distrust(StatusCache *c)
{
    CACHE_SECTION(c);

    distrust(c);
}

bool status_cache_is_distrusted(StatusCache *c)
{
    MUTEX_GUARD_SHORT(&c->lock);

    return c->distrusted;
}
