/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The status cache, for the files that make it up (status-cache*.c). Not
 * installed, and not for anybody else. The rules cited here and there are at
 * the head of status-cache.c.
 *
 * Unless something else is said, the cache's mutex is held by whoever calls
 * what is declared here (CACHE_SECTION), and ranges are half-open, in blocks.
 * What look-ups and writes need is inline: they are many.
 */
#ifndef BLOCK_STATUS_CACHE_INT_H
#define BLOCK_STATUS_CACHE_INT_H

#include "block/status-cache.h"
#include "util/sparse-bitmap.h"
#include "util/thread.h"

enum {
    OP_NONE,
    OP_WRITE,
    OP_DISCARD, /* without a promise: a write of unknown contents */
    OP_ZERO,
    OP_PUNCH, /* a zero-write, counted as a discard */
    /* from here on: those that change nothing on the disk */
    OP_PROBE,
    OP_READ, /* one that is to teach */
    OP_VERIFY,
};

struct StatusCache {
    int refcnt; /* atomic */
    uint32_t granularity;
    int shift;
    uint64_t max_memory;

    Mutex lock; /* protects all that follows */
    StatusCacheMode mode;
    int64_t length;
    int64_t blocks;
    SparseBitmap *known, *zero;
    SparseBitmap *looked; /* rule 4: no pages there */
    StatusOp *writes, *zeroes, *probes, *reads, *verifies; /* in flight */
    bool distrust_reads; /* for good: rule 10 */
    bool distrusted;     /* for good: rule 11 */
    int64_t evict_hand;  /* block where eviction goes on */
    StatusCacheStats stats;

    uint64_t reads_skipped, bytes_not_read; /* atomic */
};

/* ---- bytes and blocks --------------------------------------------------- */

static inline int64_t block_floor(const StatusCache *c, int64_t offset)
{
    return offset >> c->shift;
}

static inline int64_t block_ceil(const StatusCache *c, int64_t offset)
{
    int64_t block = offset >> c->shift;

    return block + ((offset & (c->granularity - 1)) != 0);
}

/*
 * The blocks that [@offset, @offset + @bytes) covers whole. The last block of
 * the disk need only be covered up to the disk's end (rule 5).
 */
static inline void round_inward(const StatusCache *c, int64_t offset,
                                int64_t bytes, int64_t *start, int64_t *end)
{
    *start = block_ceil(c, offset);
    *end = offset + bytes >= c->length ? c->blocks
                                       : block_floor(c, offset + bytes);
}

/*
 * What a caller who asked for [@offset, @end) is told of a run that begins
 * there and ends with block @run_end: how many bytes of it, @end at most.
 */
static inline int64_t run_bytes(const StatusCache *c, int64_t offset,
                                int64_t end, int64_t run_end)
{
    return run_end >= block_ceil(c, end) ? end - offset
                                         : (run_end << c->shift) - offset;
}

/* ---- what is known: status-cache-map.c ---------------------------------- */

/* What is known of block @block, and up to where (at most @end) that holds */
static inline BlockState status_map_state(const StatusCache *c, int64_t block,
                                          int64_t end, int64_t *run_end)
{
    bool known, zero;

    *run_end = sparse_bitmap_next_change(c->known, block, end, &known);
    if (!known) {
        return BLOCK_STATE_UNKNOWN;
    }
    *run_end = sparse_bitmap_next_change(c->zero, block, *run_end, &zero);
    return zero ? BLOCK_STATE_ZERO : BLOCK_STATE_DATA;
}

/* Nothing, where nothing is remembered. The range ends with the disk. */
static inline void status_map_mark_data(StatusCache *c, int64_t start,
                                        int64_t end)
{
    if (c->mode != STATUS_CACHE_OFF && start < end) {
        sparse_bitmap_set(c->known, start, end - start);
        sparse_bitmap_clear(c->zero, start, end - start);
    }
}

/* Bytes of the cache and its bitmaps, garbage included */
static inline uint64_t status_map_memory(const StatusCache *c)
{
    return sizeof(*c) + sparse_bitmap_memory(c->known) +
           sparse_bitmap_memory(c->zero) + sparse_bitmap_memory(c->looked);
}

/* Rule 7: with other writers about, zero is as much as unknown. */
G_GNUC_INTERNAL void status_map_mark_zero(StatusCache *c, int64_t start,
                                          int64_t end);

/* Make unknown, for probes and reads in flight, too. @end may lie beyond the disk. */
G_GNUC_INTERNAL void status_map_forget(StatusCache *c, int64_t start,
                                       int64_t end);
G_GNUC_INTERNAL void status_map_forget_all(StatusCache *c);

/* Zeroes become unknown, and page looks, which are of the same kind, go too. */
G_GNUC_INTERNAL void status_map_forget_zeroes(StatusCache *c);

/* Pages may be there again. @end may lie beyond the disk. */
G_GNUC_INTERNAL void status_map_forget_looks(StatusCache *c, int64_t start,
                                             int64_t end);

/* Rule 5. @length is in bytes. */
G_GNUC_INTERNAL void status_map_set_length(StatusCache *c, int64_t length);

/* Rule 8: forget until the memory limit is kept; the mutex is let go of. */
G_GNUC_INTERNAL void status_map_evict_and_unlock(StatusCache *c);

/* ---- the mutex ---------------------------------------------------------- */

typedef struct Section {
    StatusCache *cache;
} Section;

static inline Section section_enter(StatusCache *c)
{
    mutex_lock_short(&c->lock);
    return (Section){ c };
}

/* Leave: keep the memory limit, and free what was detached outside. */
static inline void section_leave(Section *s)
{
    StatusCache *c = s->cache;
    SparseBitmapGarbage *known, *zero, *looked;
    uint64_t memory = status_map_memory(c);

    if (G_UNLIKELY(memory > c->stats.memory_max)) {
        c->stats.memory_max = memory;
    }
    if (G_UNLIKELY(c->max_memory && memory > c->max_memory)) {
        status_map_evict_and_unlock(c);
        return;
    }
    known = sparse_bitmap_take_garbage(c->known);
    zero = sparse_bitmap_take_garbage(c->zero);
    looked = sparse_bitmap_take_garbage(c->looked);
    mutex_unlock(&c->lock);
    sparse_bitmap_garbage_free(known);
    sparse_bitmap_garbage_free(zero);
    sparse_bitmap_garbage_free(looked);
}

/* Hold the cache's mutex until the end of the scope; what may change it. */
#define CACHE_SECTION(c)                                                       \
    __attribute__((cleanup(section_leave), unused)) Section section =          \
        section_enter(c)

/* ---- operations in flight: status-cache-op.c ---------------------------- */

static inline bool status_op_overlaps(const StatusOp *op, int64_t start,
                                      int64_t end)
{
    return op->start < end && start < op->end;
}

/*
 * @op begins on [@offset, @offset + @bytes) bytes: it is found from now on by
 * those that overlap. What writes extends the disk to its own end.
 */
G_GNUC_INTERNAL void status_op_begin(StatusCache *c, StatusOp *op, int kind,
                                     int64_t offset, int64_t bytes);
G_GNUC_INTERNAL void status_op_end(StatusCache *c, StatusOp *op);

/* Taint @op, or all on @list, there where the range overlaps it. */
G_GNUC_INTERNAL void status_op_taint(StatusOp *op, int64_t start, int64_t end);
G_GNUC_INTERNAL void status_op_taint_list(StatusOp *list, int64_t start,
                                          int64_t end);

/* The same, for all that have looked at the disk, or at the map, and not yet
 * told. */
G_GNUC_INTERNAL void status_op_taint_lookers(StatusCache *c, int64_t start,
                                             int64_t end);

/*
 * Is block @start of @op tainted, and up to where (at most @end) does the same
 * hold? Needs no mutex once @op has ended.
 */
G_GNUC_INTERNAL bool status_op_tainted(const StatusOp *op, int64_t start,
                                       int64_t end, int64_t *run_end);

#endif
