/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Status cache: reads, what of them need not be read, and what they teach.
 *
 * What is known to be zero is not read from the disk: whoever reads fills in
 * zeroes. The cache is asked at one moment, and at the next a write may put data
 * there. That this is as good a read as any other, has three steps.
 *
 *  - The moment of the look-up lies between the read's beginning and its end.
 *    If a block was all zero on the disk at that moment, then zeroes are what a
 *    reader might have seen who was there at that moment; and no more is asked
 *    of a read, which has a moment of its own for each block, anyway.
 *  - A block called zero is zero at that very moment, for any reader: that is
 *    what the rules in status-cache.c are for. Namely, no write that was
 *    acknowledged before the read began can be missed. It called its blocks data
 *    before its data went out (rule 1). For one of them to be zero again, it
 *    takes a zero-write, a probe or a read (rules 2, 3, 10), untainted: and
 *    those that overlapped the write are tainted there, so it began after the
 *    write had ended, and saw or made zeroes that are newer than the data.
 *  - Nobody can see new data first, and then zeroes that are older. Data can be
 *    seen only after its write had begun, and from then on the block is not
 *    called zero, until something newer than that write says so, as above.
 *
 * Who writes behind the cache's back is excluded as for all zeroes (rule 7).
 */
#include "status-cache-int.h"

/* Runs of zeroes that are looked at for one read; what comes then is read. */
#define MAX_LOOKS 64

/* @bytes of zeroes, with so many bytes of the read before and after them */
static bool is_worth(const StatusCutLimits *limits, int64_t before,
                     int64_t bytes, int64_t after)
{
    if (bytes <= 0) {
        return false;
    }
    if (before > 0 && after > 0) {
        return bytes >= limits->min_inner;
    }
    return before + after == 0 || bytes >= limits->min_end;
}

int status_cache_cut_read(StatusCache *c, int64_t offset, int64_t bytes,
                          const StatusCutLimits *limits, StatusCut *cuts,
                          int max)
{
    int64_t end = offset + bytes;
    int64_t block, stop;
    int looks, n = 0;
    MUTEX_GUARD_SHORT(&c->lock);

    g_assert(offset >= 0 && bytes > 0 && offset <= INT64_MAX - bytes);
    block = block_floor(c, offset);
    stop = MIN(block_ceil(c, end), c->blocks);
    for (looks = 0; block < stop && n < max && looks < MAX_LOOKS; looks++) {
        int64_t from, to;

        from = sparse_bitmap_next_set(c->zero, block, stop);
        if (from == stop) {
            break;
        }
        block = sparse_bitmap_next_clear(c->zero, from, stop);
        from = MAX(from << c->shift, offset);
        /* beyond the end of the disk there are zeroes as well */
        to = block == stop ? end : block << c->shift;
        if (from > offset) {
            from += -from & (limits->align - 1);
        }
        if (to < end) {
            to -= to & (limits->align - 1);
        }
        if (is_worth(limits, from - offset, to - from, end - to)) {
            cuts[n++] = (StatusCut){ from, to };
        }
    }
    return n;
}

void status_cache_account_cut(StatusCache *c, int64_t bytes)
{
    __atomic_fetch_add(&c->reads_skipped, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&c->bytes_not_read, bytes, __ATOMIC_RELAXED);
}

/* ---- what reads teach: rule 10 ------------------------------------------ */

bool status_cache_read_begin(StatusCache *c, StatusOp *op, int64_t offset,
                             int64_t bytes)
{
    int64_t start, end;
    StatusOp *w;
    MUTEX_GUARD_SHORT(&c->lock);

    if (c->mode != STATUS_CACHE_ON || c->distrust_reads ||
        offset >= c->length) {
        return false;
    }
    round_inward(c, offset, bytes, &start, &end);
    if (start >= end ||
        sparse_bitmap_next_clear(c->zero, start, end) == (uint64_t)end) {
        return false;
    }
    status_op_begin(c, op, OP_READ, offset, bytes);
    for (w = c->writes; w; w = w->next) {
        status_op_taint(op, w->start, w->end);
    }
    for (w = c->zeroes; w; w = w->next) {
        status_op_taint(op, w->start, w->end);
    }
    return true;
}

void status_cache_read_fill(StatusCache *c, StatusOp *op, int64_t offset,
                            int64_t bytes)
{
    int64_t start, end, clean_end, run_end;
    CACHE_SECTION(c);

    /* What would speak against it altogether has tainted all of @op. */
    round_inward(c, offset, bytes, &start, &end);
    start = MAX(start, op->start);
    end = MIN(end, op->end);
    for (; start < end; start = clean_end) {
        if (status_op_tainted(op, start, end, &clean_end)) {
            continue;
        }
        for (; start < clean_end; start = run_end) {
            if (status_map_state(c, start, clean_end, &run_end) !=
                BLOCK_STATE_ZERO) {
                status_map_mark_zero(c, start, run_end);
                c->stats.learned_reads +=
                    MIN(run_end << c->shift, c->length) - (start << c->shift);
            }
        }
    }
}

void status_cache_read_end(StatusCache *c, StatusOp *op)
{
    MUTEX_GUARD_SHORT(&c->lock);

    status_op_end(c, op);
}
