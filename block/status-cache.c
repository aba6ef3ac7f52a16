/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The status cache: two bitmaps and the rules that keep them true.
 *
 * One bit a block in each bitmap (a block is `granularity` bytes):
 *
 *      known  zero
 *        0      0     unknown: somebody has to ask the file system
 *        1      0     data
 *        1      1     reads as zeroes
 *        0      1     never (zero is a subset of known)
 *
 * A look-up must never call zero what a reader would see as data. Requests,
 * probes and look-ups run on any number of threads, and what matters happens
 * outside this file, in system calls that take their time. So each operation
 * tells when it begins and when it has ended, and is on a list in between;
 * operations that overlap on the disk and in time find each other there.
 *
 * The rules, cited below by number:
 *
 *  1. A data write marks its blocks (rounded outward) data before the data goes
 *     out, and taints overlapping zero-writes in flight where they overlap. At
 *     its end there is nothing to do if all went well. If it failed or was
 *     short, its blocks become unknown.
 *  2. A zero-write changes no bits at its beginning; it starts tainted where a
 *     data write is in flight. If it succeeds, what it covers whole (rounded
 *     inward) is zero where it is untainted, and unknown where it is tainted.
 *     A hole punched into a regular file is the same. If it failed or is not
 *     supported, it changes nothing: zeroes stay zeroes, data may stay called
 *     data. A discard without a promise (BLKDISCARD) makes its range unknown, at
 *     its beginning and at its end, and taints as a data write does in between.
 *  3. A probe registers before its first look and starts tainted where a data
 *     write is in flight. Whatever turns known into unknown taints overlapping
 *     probes, for they may have looked before. What a probe saw is stored only
 *     where it is untainted and the block is still unknown: data rounded
 *     outward, zero inward.
 *  4. A probe that says zero had its last look at the mapping. That is the
 *     prober's duty (status-probe.c); kept here is which parts have been seen
 *     without pages (`looked`), until a write touches them.
 *  5. A new size drops what lies beyond the smaller of the two. The block that
 *     holds the end of the disk counts as covered by a zero range that reaches
 *     the end; it is no longer called zero when the disk grows, for nobody has
 *     seen what joins it (a block device may have anything there). A write beyond
 *     the end makes the disk longer when it begins, whatever becomes of it.
 *  6. Errors leave no facts. After a failed flush of the disk nobody knows which
 *     pages are left: all zeroes become unknown, and zero-writes in flight are
 *     tainted, for theirs may be among those lost.
 *  7. While somebody else may write, no zero is remembered (mode data-only).
 *  8. Anything may be forgotten at any time, at the price of a probe: that is
 *     how the memory limit is kept.
 *  9. Ends are called after the system call and before the request is marked in
 *     dirty bitmaps and acknowledged; that is the block layer's duty.
 * 10. A read that finds all of a block zero may teach that, whether the block was
 *     unknown or called data. It registers before it reads, and starts tainted
 *     where a write, discard or zero-write is in flight. Whichever of these
 *     begins before it ends, taints it, however that ends; so does what taints
 *     probes. After a failed flush of the disk no read teaches any more, nor
 *     after a discard without a promise.
 * 11. A verification reads what is called zero, to find out whether it is. It
 *     registers before it reads, for a range that is zero as a whole then. A data
 *     write or discard that begins before it ends taints it, and so does what
 *     taints probes. What it reads and is not zero is a lie only where it is
 *     untainted. A cache that has lied once is not believed again: at once, under
 *     the same lock, it forgets all zeroes and calls the place of the lie data, and
 *     its mode is data-only for good.
 *
 * Why rule 1 marks first: between the data's arrival in the page cache and the
 * end of the request a reader may see it already. Why rule 3 does not trust an
 * untainted probe over what is known by now: what became known since the probe
 * began is newer than what it saw. Why an overlap of data and zero-write leaves
 * unknown: either may have come last. The zero-write does that, when it ends, for
 * what was seen of the data before may be no longer there. It may take away the
 * mark of a write that is still under way: who begins meanwhile starts tainted.
 *
 * Why rule 10 may turn data into zero, as no probe may: where a read is untainted
 * nothing that could change the disk was under way while it ran, so what it saw
 * is what there was before it, what there is when it ends, and what came of the
 * write that made the block data. A write that begins and ends while the read
 * runs leaves no other trace than its taint: the block is data before and after.
 * A zero-write is no better, for it may fail half way; if it succeeds, it teaches
 * by itself. Why a failed flush ends it: the kernel calls pages clean then that
 * never got to the disk. They may read as zeroes until they are dropped, and as
 * older data afterwards; that is not what a mapping does, on which probes rely.
 * And a device may return zeroes for what was discarded until it thinks better of
 * it.
 *
 * Why rule 11 needs no taint by zero-writes, nor to look for writes in flight
 * when it begins: a block that is called zero has no data write in flight (rules 1
 * to 3, 10), and none of the rules makes it zero between begin and end but from
 * another state, into which only what taints has brought it. So an untainted block
 * was called zero all the time that the disk was read.
 *
 * One mutex protects everything and is never held over a system call. Who finds
 * it taken tries again for a moment before it sleeps, for that is dearer than to
 * wait. Nodes of the bitmaps that an operation detaches are freed after the mutex
 * is released.
 *
 * In this file: the cache, requests, look-ups. status-cache-op.c has the lists
 * of what is in flight, -map.c the bitmaps, -probe.c what probes are told to
 * have seen, -read.c what reads leave out and teach, -verify.c whether it is all
 * true, and -stats.c the counters.
 */
#include "status-cache-int.h"

#include <inttypes.h>

#include "util/error.h"

StatusCache *status_cache_new(const StatusCacheOptions *options, GError **errp)
{
    StatusCache *c;
    uint32_t granularity = options->granularity;

    if (granularity < STATUS_CACHE_MIN_GRANULARITY ||
        granularity > STATUS_CACHE_MAX_GRANULARITY ||
        (granularity & (granularity - 1))) {
        error_setg(errp,
                   "Status cache granularity %" PRIu32
                   " is not a power of two from %u to %u",
                   granularity, STATUS_CACHE_MIN_GRANULARITY,
                   STATUS_CACHE_MAX_GRANULARITY);
        return NULL;
    }
    if (options->length < 0) {
        error_setg(errp, "Status cache length %" PRId64 " is negative",
                   options->length);
        return NULL;
    }
    c = g_new0(StatusCache, 1);
    c->refcnt = 1;
    c->granularity = granularity;
    c->shift = __builtin_ctz(granularity);
    c->max_memory = options->max_memory;
    c->mode = options->mode;
    c->length = options->length;
    c->blocks = block_ceil(c, c->length);
    mutex_init(&c->lock);
    c->known = sparse_bitmap_new(c->blocks);
    c->zero = sparse_bitmap_new(c->blocks);
    c->looked = sparse_bitmap_new(c->blocks);
    return c;
}

void status_cache_set_max_memory(StatusCache *c, uint64_t bytes)
{
    CACHE_SECTION(c);

    c->max_memory = bytes;
}

StatusCache *status_cache_ref(StatusCache *c)
{
    __atomic_add_fetch(&c->refcnt, 1, __ATOMIC_RELAXED);
    return c;
}

void status_cache_unref(StatusCache *c)
{
    if (!c || __atomic_sub_fetch(&c->refcnt, 1, __ATOMIC_ACQ_REL) > 0) {
        return;
    }
    g_assert(!c->writes && !c->zeroes && !c->probes && !c->reads &&
             !c->verifies);
    sparse_bitmap_free(c->known);
    sparse_bitmap_free(c->zero);
    sparse_bitmap_free(c->looked);
    mutex_destroy(&c->lock);
    g_free(c);
}

/* ---- requests ----------------------------------------------------------- */

static void writer_begin(StatusCache *c, StatusOp *op)
{
    status_op_taint_list(c->zeroes, op->start, op->end);   /* rule 1 */
    status_op_taint_list(c->reads, op->start, op->end);    /* rule 10 */
    status_op_taint_list(c->verifies, op->start, op->end); /* rule 11 */
    status_map_forget_looks(c, op->start, op->end);
    if (c->mode == STATUS_CACHE_OFF) {
        /* no bit will tell the prober that there is data now */
        status_op_taint_list(c->probes, op->start, op->end);
    }
}

void status_cache_write_begin(StatusCache *c, StatusOp *op, int64_t offset,
                              int64_t bytes)
{
    CACHE_SECTION(c);

    status_op_begin(c, op, OP_WRITE, offset, bytes);
    writer_begin(c, op);
    status_map_mark_data(c, op->start, op->end);
    c->stats.learned_writes += bytes;
}

void status_cache_write_end(StatusCache *c, StatusOp *op, bool ok)
{
    if (ok) {
        /* nothing to free or to evict: the bitmaps stay as they are */
        MUTEX_GUARD_SHORT(&c->lock);
        status_op_end(c, op);
    } else {
        CACHE_SECTION(c);

        status_op_end(c, op);
        status_map_forget(c, op->start, op->end);
    }
}

void status_cache_zero_begin(StatusCache *c, StatusOp *op, int64_t offset,
                             int64_t bytes, bool discard)
{
    StatusOp *w;
    CACHE_SECTION(c);

    status_op_begin(c, op, discard ? OP_PUNCH : OP_ZERO, offset, bytes);
    for (w = c->writes; w; w = w->next) {
        status_op_taint(op, w->start, w->end);
    }
    status_op_taint_list(c->reads, op->start, op->end); /* rule 10 */
}

void status_cache_zero_end(StatusCache *c, StatusOp *op, bool ok)
{
    int64_t start, end, run_end;
    int kind = op->kind;
    CACHE_SECTION(c);

    status_op_end(c, op);
    if (!ok) {
        return;
    }
    if (op->n_taints) {
        c->stats.tainted_zeroes++;
    }
    if (kind == OP_PUNCH) {
        c->stats.learned_discards += op->bytes;
    } else {
        c->stats.learned_zeroes += op->bytes;
    }
    round_inward(c, op->offset, op->bytes, &start, &end);
    for (; start < end; start = run_end) {
        if (status_op_tainted(op, start, end, &run_end)) {
            status_map_forget(c, start, run_end);
        } else {
            status_map_mark_zero(c, start, run_end);
        }
    }
}

void status_cache_discard_begin(StatusCache *c, StatusOp *op, int64_t offset,
                                int64_t bytes)
{
    CACHE_SECTION(c);

    status_op_begin(c, op, OP_DISCARD, offset, bytes);
    writer_begin(c, op);
    status_map_forget(c, op->start, op->end);
    c->distrust_reads = true;
    c->stats.learned_discards += bytes;
}

void status_cache_discard_end(StatusCache *c, StatusOp *op)
{
    CACHE_SECTION(c);

    status_op_end(c, op);
    status_map_forget(c, op->start, op->end);
}

/* ---- look-ups ----------------------------------------------------------- */

static BlockState lookup(StatusCache *c, int64_t offset, int64_t bytes,
                         int64_t *pnum)
{
    int64_t end = MIN(offset + bytes, c->length);
    int64_t run_end;
    BlockState state;

    g_assert(offset >= 0 && bytes > 0 && offset <= INT64_MAX - bytes);
    if (offset >= end) {
        /* the disk has shrunk since the caller looked at its size */
        *pnum = bytes;
        return BLOCK_STATE_UNKNOWN;
    }
    state = status_map_state(c, block_floor(c, offset), block_ceil(c, end),
                             &run_end);
    *pnum = run_bytes(c, offset, end, run_end);
    return state;
}

BlockState status_cache_lookup(StatusCache *c, int64_t offset, int64_t bytes,
                               int64_t *pnum)
{
    BlockState state;
    MUTEX_GUARD_SHORT(&c->lock);

    state = lookup(c, offset, bytes, pnum);
    c->stats.lookups++;
    if (state == BLOCK_STATE_UNKNOWN) {
        c->stats.misses++;
    } else {
        c->stats.hits++;
    }
    return state;
}

BlockState status_cache_peek(StatusCache *c, int64_t offset, int64_t bytes,
                             int64_t *pnum)
{
    MUTEX_GUARD_SHORT(&c->lock);

    return lookup(c, offset, bytes, pnum);
}

/* ---- the disk as a whole ------------------------------------------------ */

void status_cache_resize(StatusCache *c, int64_t length)
{
    CACHE_SECTION(c);

    g_assert(length >= 0);
    if (length != c->length) {
        status_map_set_length(c, length);
    }
}

void status_cache_grow(StatusCache *c, int64_t length)
{
    CACHE_SECTION(c);

    /* Others may be under way that reach further: they have their marks. */
    if (length > c->length) {
        status_map_set_length(c, length);
    }
}

int64_t status_cache_length(StatusCache *c)
{
    MUTEX_GUARD_SHORT(&c->lock);

    return c->length;
}

uint32_t status_cache_granularity(StatusCache *c)
{
    return c->granularity;
}

void status_cache_forget(StatusCache *c, int64_t offset, int64_t bytes)
{
    int64_t start, end;
    CACHE_SECTION(c);

    g_assert(offset >= 0 && bytes >= 0 && offset <= INT64_MAX - bytes);
    if (bytes) {
        start = block_floor(c, offset);
        end = block_ceil(c, offset + bytes);
        status_map_forget(c, start, end);
        status_map_forget_looks(c, start, end);
    }
}

void status_cache_flush(StatusCache *c)
{
    CACHE_SECTION(c);

    status_map_forget_all(c);
}

void status_cache_flush_failed(StatusCache *c)
{
    CACHE_SECTION(c);

    status_map_forget_zeroes(c);
    status_op_taint_list(c->zeroes, 0, INT64_MAX);
    c->distrust_reads = true;
}

void status_cache_set_mode(StatusCache *c, StatusCacheMode mode)
{
    CACHE_SECTION(c);

    if (c->distrusted) {
        mode = MIN(mode, STATUS_CACHE_DATA_ONLY); /* rule 11 */
    }
    if (mode == c->mode) {
        return;
    }
    if (mode == STATUS_CACHE_OFF) {
        status_map_forget_all(c);
    } else if (mode == STATUS_CACHE_DATA_ONLY) {
        status_map_forget_zeroes(c);
    } else {
        /* others may have written until now, over zero-writes in flight too */
        status_op_taint_lookers(c, 0, INT64_MAX);
        status_op_taint_list(c->zeroes, 0, INT64_MAX);
    }
    c->mode = mode;
}

StatusCacheMode status_cache_get_mode(StatusCache *c)
{
    MUTEX_GUARD_SHORT(&c->lock);

    return c->mode;
}
