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
 *     its end there is nothing to do if all went well. If it failed, was short,
 *     or met a zero-write, its blocks become unknown.
 *  2. A zero-write changes no bits at its beginning; it starts tainted where a
 *     data write is in flight. If it succeeds, it marks zero what it covers
 *     whole (rounded inward) and where it is untainted. A hole punched into a
 *     regular file is the same. If it failed or is not supported, it changes
 *     nothing: zeroes stay zeroes, data may stay called data. A discard without
 *     a promise (BLKDISCARD) makes its range unknown, at its beginning and at
 *     its end, and taints as a data write does in between.
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
 *     the end.
 *  6. Errors leave no facts. After a failed flush of the disk nobody knows which
 *     pages are left: all zeroes become unknown.
 *  7. While somebody else may write, no zero is remembered (mode data-only).
 *  8. Anything may be forgotten at any time, at the price of a probe: that is
 *     how the memory limit is kept.
 *  9. Ends are called after the system call and before the request is marked in
 *     dirty bitmaps and acknowledged; that is the block layer's duty.
 *
 * Why rule 1 marks first: between the data's arrival in the page cache and the
 * end of the request a reader may see it already. Why rule 3 does not trust an
 * untainted probe over what is known by now: what became known since the probe
 * began is newer than what it saw. Why an overlap of data and zero-write leaves
 * unknown: either may have come last.
 *
 * One mutex protects everything and is never held over a system call. Nodes of
 * the bitmaps that an operation detaches are freed after the mutex is released.
 */
#include "block/status-cache.h"

#include <inttypes.h>

#include "util/error.h"
#include "util/sparse-bitmap.h"
#include "util/thread.h"

enum {
    OP_NONE,
    OP_WRITE,
    OP_DISCARD, /* without a promise: a write of unknown contents */
    OP_ZERO,
    OP_PUNCH, /* a zero-write, counted as a discard */
    OP_PROBE,
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
    SparseBitmap *looked;               /* rule 4: no pages there */
    StatusOp *writes, *zeroes, *probes; /* in flight */
    int64_t evict_hand;                 /* block where eviction goes on */
    StatusCacheStats stats;
};

const uint64_t status_cache_histogram_ns[STATUS_CACHE_HISTOGRAM - 1] = {
    5000, 10000, 20000, 50000, 100000, 250000, 1000000, 10000000, 100000000,
};

/* Zero runs that leaving mode ON forgets one by one; more: everything */
#define MAX_RUNS_FORGOTTEN 4096

static int64_t block_floor(const StatusCache *c, int64_t offset)
{
    return offset >> c->shift;
}

static int64_t block_ceil(const StatusCache *c, int64_t offset)
{
    int64_t block = offset >> c->shift;

    return block + ((offset & (c->granularity - 1)) != 0);
}

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
    g_assert(!c->writes && !c->zeroes && !c->probes);
    sparse_bitmap_free(c->known);
    sparse_bitmap_free(c->zero);
    sparse_bitmap_free(c->looked);
    mutex_destroy(&c->lock);
    g_free(c);
}

/* ---- locking, memory ---------------------------------------------------- */

typedef struct Section {
    StatusCache *cache;
} Section;

static uint64_t memory_used(const StatusCache *c)
{
    return sizeof(*c) + sparse_bitmap_memory(c->known) +
           sparse_bitmap_memory(c->zero) + sparse_bitmap_memory(c->looked);
}

static void evict(StatusCache *c);

/* Leave: keep the memory limit, and free what was detached outside. */
static void section_leave(Section *s)
{
    StatusCache *c = s->cache;
    SparseBitmapGarbage *known, *zero, *looked;
    uint64_t memory = memory_used(c);

    if (G_UNLIKELY(memory > c->stats.memory_max)) {
        c->stats.memory_max = memory;
    }
    known = sparse_bitmap_take_garbage(c->known);
    zero = sparse_bitmap_take_garbage(c->zero);
    looked = sparse_bitmap_take_garbage(c->looked);
    if (G_UNLIKELY(c->max_memory && memory > c->max_memory)) {
        evict(c);
    }
    mutex_unlock(&c->lock);
    sparse_bitmap_garbage_free(known);
    sparse_bitmap_garbage_free(zero);
    sparse_bitmap_garbage_free(looked);
}

static Section section_enter(StatusCache *c)
{
    mutex_lock(&c->lock);
    return (Section){ c };
}

/* Hold the cache's mutex until the end of the scope. */
#define CACHE_SECTION(c)                                                       \
    __attribute__((cleanup(section_leave), unused)) Section section =          \
        section_enter(c)

/* ---- operations in flight ----------------------------------------------- */

static bool op_overlaps(const StatusOp *op, int64_t start, int64_t end)
{
    return op->start < end && start < op->end;
}

static void op_taint(StatusOp *op, int64_t start, int64_t end)
{
    StatusTaint *last;

    start = MAX(start, op->start);
    end = MIN(end, op->end);
    if (start >= end) {
        return;
    }
    if (op->n_taints < STATUS_OP_TAINTS) {
        op->taints[op->n_taints++] = (StatusTaint){ start, end };
        return;
    }
    last = &op->taints[STATUS_OP_TAINTS - 1];
    last->start = MIN(last->start, start);
    last->end = MAX(last->end, end);
}

/*
 * Is block @start of @op tainted, and up to where (at most @end) does the same
 * hold?
 */
static bool op_tainted(const StatusOp *op, int64_t start, int64_t end,
                       int64_t *run_end)
{
    int64_t clean_end = end;
    int i;

    for (i = 0; i < op->n_taints; i++) {
        const StatusTaint *t = &op->taints[i];

        if (t->start <= start && start < t->end) {
            *run_end = MIN(t->end, end);
            return true;
        }
        if (t->start > start) {
            clean_end = MIN(clean_end, t->start);
        }
    }
    *run_end = clean_end;
    return false;
}

static void op_taint_list(StatusOp *list, int64_t start, int64_t end)
{
    StatusOp *op;

    for (op = list; op; op = op->next) {
        if (op_overlaps(op, start, end)) {
            op_taint(op, start, end);
        }
    }
}

static StatusOp **op_list(StatusCache *c, int kind)
{
    switch (kind) {
    case OP_WRITE:
    case OP_DISCARD:
        return &c->writes;
    case OP_ZERO:
    case OP_PUNCH:
        return &c->zeroes;
    case OP_PROBE:
        return &c->probes;
    default:
        g_assert_not_reached();
    }
}

static void set_length(StatusCache *c, int64_t length);

static void op_begin(StatusCache *c, StatusOp *op, int kind, int64_t offset,
                     int64_t bytes)
{
    StatusOp **list = op_list(c, kind);

    g_assert(offset >= 0 && bytes >= 0 && offset <= INT64_MAX - bytes);
    if (kind != OP_PROBE && offset + bytes > c->length) {
        set_length(c, offset + bytes);
    }
    op->kind = kind;
    op->offset = offset;
    op->bytes = bytes;
    op->start = block_floor(c, offset);
    op->end = bytes ? block_ceil(c, offset + bytes) : op->start;
    op->overlapped = false;
    op->n_taints = 0;
    op->prev = NULL;
    op->next = *list;
    if (op->next) {
        op->next->prev = op;
    }
    *list = op;
}

static void op_end(StatusCache *c, StatusOp *op)
{
    StatusOp **list = op_list(c, op->kind);

    if (op->prev) {
        op->prev->next = op->next;
    } else {
        g_assert(*list == op);
        *list = op->next;
    }
    if (op->next) {
        op->next->prev = op->prev;
    }
    op->kind = OP_NONE;
}

/* ---- the bitmaps -------------------------------------------------------- */

static void mark_data(StatusCache *c, int64_t start, int64_t end)
{
    if (c->mode != STATUS_CACHE_OFF && start < end) {
        sparse_bitmap_set(c->known, start, end - start);
        sparse_bitmap_clear(c->zero, start, end - start);
    }
}

static void forget(StatusCache *c, int64_t start, int64_t end)
{
    op_taint_list(c->probes, start, end); /* rule 3 */
    end = MIN(end, c->blocks);
    if (start < end) {
        sparse_bitmap_clear(c->known, start, end - start);
        sparse_bitmap_clear(c->zero, start, end - start);
    }
}

static void forget_looks(StatusCache *c, int64_t start, int64_t end)
{
    end = MIN(end, c->blocks);
    if (start < end) {
        sparse_bitmap_clear(c->looked, start, end - start);
    }
}

/* Rule 7: with other writers about, zero is as much as unknown. */
static void mark_zero(StatusCache *c, int64_t start, int64_t end)
{
    end = MIN(end, c->blocks);
    if (start >= end) {
        return;
    }
    if (c->mode == STATUS_CACHE_ON) {
        sparse_bitmap_set(c->known, start, end - start);
        sparse_bitmap_set(c->zero, start, end - start);
    } else {
        forget(c, start, end);
    }
}

/*
 * The blocks that [@offset, @offset + @bytes) covers whole. The last block of
 * the disk need only be covered up to the disk's end (rule 5).
 */
static void round_inward(const StatusCache *c, int64_t offset, int64_t bytes,
                         int64_t *start, int64_t *end)
{
    *start = block_ceil(c, offset);
    *end = offset + bytes >= c->length ? c->blocks
                                       : block_floor(c, offset + bytes);
}

/* What is known of block @block, and up to where (at most @end) that holds */
static BlockState state_at(const StatusCache *c, int64_t block, int64_t end,
                           int64_t *run_end)
{
    bool known, zero;

    *run_end = sparse_bitmap_next_change(c->known, block, end, &known);
    if (!known) {
        return BLOCK_STATE_UNKNOWN;
    }
    *run_end = sparse_bitmap_next_change(c->zero, block, *run_end, &zero);
    return zero ? BLOCK_STATE_ZERO : BLOCK_STATE_DATA;
}

/*
 * Rule 8: forget leaves, round and round the disk, until the limit is kept.
 * Page looks go first, for they are only an aid to probes.
 */
static void evict(StatusCache *c)
{
    bool wrapped = false;

    sparse_bitmap_clear(c->looked, 0, c->blocks);
    sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(c->looked));
    while (memory_used(c) > c->max_memory) {
        uint64_t start = 0, count = 0, zstart, zcount;
        bool found;

        found =
            sparse_bitmap_next_leaf(c->known, c->evict_hand, &start, &count);
        if (sparse_bitmap_next_leaf(c->zero, c->evict_hand, &zstart, &zcount) &&
            (!found || zstart < start)) {
            start = zstart;
            count = zcount;
            found = true;
        }
        if (!found) {
            if (wrapped) {
                break;
            }
            wrapped = true;
            c->evict_hand = 0;
            continue;
        }
        forget(c, start, start + count);
        sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(c->known));
        sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(c->zero));
        c->evict_hand = start + count;
        c->stats.evictions++;
    }
}

static void set_length(StatusCache *c, int64_t length)
{
    int64_t blocks = block_ceil(c, length);
    int64_t edge = block_floor(c, MIN(length, c->length));

    /* Rule 5: probes in flight may have seen the old end. */
    op_taint_list(c->probes, edge, INT64_MAX);
    sparse_bitmap_resize(c->known, blocks);
    sparse_bitmap_resize(c->zero, blocks);
    sparse_bitmap_resize(c->looked, blocks);
    c->length = length;
    c->blocks = blocks;
    c->evict_hand = MIN(c->evict_hand, blocks);
}

/* ---- requests ----------------------------------------------------------- */

/* Rules 1 and 2: a writer meets the zero-writes in flight. */
static void writer_begin(StatusCache *c, StatusOp *op)
{
    StatusOp *z;

    for (z = c->zeroes; z; z = z->next) {
        if (op_overlaps(z, op->start, op->end)) {
            op_taint(z, op->start, op->end);
            op->overlapped = true;
        }
    }
    forget_looks(c, op->start, op->end);
    if (c->mode == STATUS_CACHE_OFF) {
        /* no bit will tell the prober that there is data now */
        op_taint_list(c->probes, op->start, op->end);
    }
}

void status_cache_write_begin(StatusCache *c, StatusOp *op, int64_t offset,
                              int64_t bytes)
{
    CACHE_SECTION(c);

    op_begin(c, op, OP_WRITE, offset, bytes);
    writer_begin(c, op);
    mark_data(c, op->start, op->end);
    c->stats.learned_writes += bytes;
}

void status_cache_write_end(StatusCache *c, StatusOp *op, bool ok)
{
    CACHE_SECTION(c);

    op_end(c, op);
    if (!ok || op->overlapped) {
        forget(c, op->start, op->end);
    }
}

void status_cache_zero_begin(StatusCache *c, StatusOp *op, int64_t offset,
                             int64_t bytes, bool discard)
{
    StatusOp *w;
    CACHE_SECTION(c);

    op_begin(c, op, discard ? OP_PUNCH : OP_ZERO, offset, bytes);
    for (w = c->writes; w; w = w->next) {
        if (op_overlaps(w, op->start, op->end)) {
            op_taint(op, w->start, w->end);
            w->overlapped = true;
        }
    }
}

void status_cache_zero_end(StatusCache *c, StatusOp *op, bool ok)
{
    int64_t start, end, run_end;
    int kind = op->kind;
    CACHE_SECTION(c);

    op_end(c, op);
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
        if (!op_tainted(op, start, end, &run_end)) {
            mark_zero(c, start, run_end);
        }
    }
}

void status_cache_discard_begin(StatusCache *c, StatusOp *op, int64_t offset,
                                int64_t bytes)
{
    CACHE_SECTION(c);

    op_begin(c, op, OP_DISCARD, offset, bytes);
    writer_begin(c, op);
    forget(c, op->start, op->end);
    c->stats.learned_discards += bytes;
}

void status_cache_discard_end(StatusCache *c, StatusOp *op)
{
    CACHE_SECTION(c);

    op_end(c, op);
    forget(c, op->start, op->end);
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
    state = state_at(c, block_floor(c, offset), block_ceil(c, end), &run_end);
    if (run_end >= block_ceil(c, end)) {
        *pnum = end - offset;
    } else {
        *pnum = (run_end << c->shift) - offset;
    }
    return state;
}

BlockState status_cache_lookup(StatusCache *c, int64_t offset, int64_t bytes,
                               int64_t *pnum)
{
    BlockState state;
    MUTEX_GUARD(&c->lock);

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
    MUTEX_GUARD(&c->lock);

    return lookup(c, offset, bytes, pnum);
}

/* ---- probes ------------------------------------------------------------- */

void status_cache_probe_begin(StatusCache *c, StatusOp *op, int64_t offset,
                              int64_t bytes)
{
    StatusOp *w;
    CACHE_SECTION(c);

    op_begin(c, op, OP_PROBE, offset, bytes);
    for (w = c->writes; w; w = w->next) {
        op_taint(op, w->start, w->end);
    }
}

/* Store what a probe saw in [@start, @end): rule 3. */
static void fill(StatusCache *c, StatusOp *op, int64_t start, int64_t end,
                 BlockState state)
{
    int64_t clean_end, run_end;

    for (; start < end; start = clean_end) {
        if (op_tainted(op, start, end, &clean_end)) {
            continue;
        }
        while (start < clean_end) {
            if (state_at(c, start, clean_end, &run_end) ==
                BLOCK_STATE_UNKNOWN) {
                if (state == BLOCK_STATE_DATA) {
                    mark_data(c, start, run_end);
                } else if (c->mode == STATUS_CACHE_ON) {
                    mark_zero(c, start, run_end);
                }
            }
            start = run_end;
        }
    }
}

/*
 * What the asker may be told of block @block, of which the probe says @state:
 * what is known by now is newer, and of a tainted zero nobody can be sure.
 */
static BlockState told(StatusCache *c, StatusOp *op, int64_t block, int64_t end,
                       BlockState state, int64_t *run_end)
{
    BlockState known = state_at(c, block, end, run_end);

    if (known != BLOCK_STATE_UNKNOWN) {
        return known;
    }
    if (op_tainted(op, block, *run_end, run_end)) {
        return BLOCK_STATE_DATA;
    }
    return state;
}

BlockState status_cache_probe_fill(StatusCache *c, StatusOp *op, int64_t offset,
                                   int64_t bytes, BlockState state,
                                   int64_t *pnum)
{
    int64_t start, end, last, run_end;
    BlockState answer, next;
    CACHE_SECTION(c);

    g_assert(state != BLOCK_STATE_UNKNOWN && bytes > 0);
    if (offset >= c->length) {
        *pnum = bytes;
        return BLOCK_STATE_DATA;
    }
    bytes = MIN(bytes, c->length - offset);
    if (state == BLOCK_STATE_DATA) {
        start = block_floor(c, offset);
        end = block_ceil(c, offset + bytes);
    } else {
        round_inward(c, offset, bytes, &start, &end);
    }
    fill(c, op, MAX(start, op->start), MIN(end, op->end), state);

    start = block_floor(c, offset);
    last = block_ceil(c, offset + bytes);
    answer = told(c, op, start, last, state, &run_end);
    while (run_end < last) {
        start = run_end;
        next = told(c, op, start, last, state, &run_end);
        if (next != answer) {
            run_end = start;
            break;
        }
    }
    *pnum = run_end >= last ? bytes : (run_end << c->shift) - offset;
    return answer;
}

void status_cache_probe_end(StatusCache *c, StatusOp *op)
{
    CACHE_SECTION(c);

    op_end(c, op);
    if (op->n_taints) {
        c->stats.tainted_probes++;
    }
}

void status_cache_set_looked(StatusCache *c, StatusOp *op, int64_t offset,
                             int64_t bytes)
{
    int64_t start, end, run_end;
    CACHE_SECTION(c);

    if (c->mode != STATUS_CACHE_ON || offset >= c->length) {
        return;
    }
    round_inward(c, offset, MIN(bytes, c->length - offset), &start, &end);
    start = MAX(start, op->start);
    end = MIN(end, op->end);
    for (; start < end; start = run_end) {
        /* as rule 3: a write since the look has made its blocks known */
        if (!op_tainted(op, start, end, &run_end) &&
            state_at(c, start, run_end, &run_end) == BLOCK_STATE_UNKNOWN) {
            sparse_bitmap_set(c->looked, start, run_end - start);
        }
    }
}

bool status_cache_has_looked(StatusCache *c, int64_t offset, int64_t bytes,
                             int64_t *pnum)
{
    int64_t end, last, run_end;
    bool looked;
    MUTEX_GUARD(&c->lock);

    end = MIN(offset + bytes, c->length);
    if (offset >= end) {
        *pnum = bytes;
        return false;
    }
    last = block_ceil(c, end);
    run_end = sparse_bitmap_next_change(c->looked, block_floor(c, offset), last,
                                        &looked);
    *pnum = run_end >= last ? end - offset : (run_end << c->shift) - offset;
    return looked;
}

void status_cache_account_probe(StatusCache *c, const StatusCacheStats *delta)
{
    StatusCacheStats *s = &c->stats;
    int i;
    MUTEX_GUARD(&c->lock);

    s->probes += delta->probes;
    for (i = 0; i < STATUS_PROBE_KINDS; i++) {
        s->probe_calls[i] += delta->probe_calls[i];
    }
    s->extents += delta->extents;
    s->max_extents = MAX(s->max_extents, delta->max_extents);
    s->probe_wall_ns += delta->probe_wall_ns;
    s->probe_wall_max_ns = MAX(s->probe_wall_max_ns, delta->probe_wall_max_ns);
    s->probe_cpu_ns += delta->probe_cpu_ns;
    s->probe_cpu_max_ns = MAX(s->probe_cpu_max_ns, delta->probe_cpu_max_ns);
    for (i = 0; i < STATUS_CACHE_HISTOGRAM; i++) {
        s->histogram[i] += delta->histogram[i];
    }
    s->probe_errors += delta->probe_errors;
}

/* ---- the disk as a whole ------------------------------------------------ */

void status_cache_resize(StatusCache *c, int64_t length)
{
    CACHE_SECTION(c);

    g_assert(length >= 0);
    if (length != c->length) {
        set_length(c, length);
    }
}

int64_t status_cache_length(StatusCache *c)
{
    MUTEX_GUARD(&c->lock);

    return c->length;
}

uint32_t status_cache_granularity(StatusCache *c)
{
    return c->granularity;
}

void status_cache_forget(StatusCache *c, int64_t offset, int64_t bytes)
{
    CACHE_SECTION(c);

    g_assert(offset >= 0 && bytes >= 0 && offset <= INT64_MAX - bytes);
    if (bytes) {
        forget(c, block_floor(c, offset), block_ceil(c, offset + bytes));
        forget_looks(c, block_floor(c, offset), block_ceil(c, offset + bytes));
    }
}

static void forget_all(StatusCache *c)
{
    op_taint_list(c->probes, 0, INT64_MAX);
    sparse_bitmap_clear(c->known, 0, c->blocks);
    sparse_bitmap_clear(c->zero, 0, c->blocks);
    sparse_bitmap_clear(c->looked, 0, c->blocks);
}

void status_cache_flush(StatusCache *c)
{
    CACHE_SECTION(c);

    forget_all(c);
}

/* Zeroes become unknown, and page looks, which are of the same kind, go too. */
static void forget_zeroes(StatusCache *c)
{
    uint64_t start = 0, end;
    int runs;

    op_taint_list(c->probes, 0, INT64_MAX);
    for (runs = 0; runs < MAX_RUNS_FORGOTTEN; runs++) {
        start = sparse_bitmap_next_set(c->zero, start, c->blocks);
        if (start == (uint64_t)c->blocks) {
            break;
        }
        end = sparse_bitmap_next_clear(c->zero, start, c->blocks);
        sparse_bitmap_clear(c->known, start, end - start);
        start = end;
    }
    if (runs == MAX_RUNS_FORGOTTEN) {
        /* too many to go through under the mutex */
        forget_all(c);
        return;
    }
    sparse_bitmap_clear(c->zero, 0, c->blocks);
    sparse_bitmap_clear(c->looked, 0, c->blocks);
}

void status_cache_flush_failed(StatusCache *c)
{
    CACHE_SECTION(c);

    forget_zeroes(c);
}

void status_cache_set_mode(StatusCache *c, StatusCacheMode mode)
{
    CACHE_SECTION(c);

    if (mode == c->mode) {
        return;
    }
    if (mode == STATUS_CACHE_OFF) {
        forget_all(c);
    } else if (mode == STATUS_CACHE_DATA_ONLY) {
        forget_zeroes(c);
    } else {
        /* others may have written until now, over zero-writes in flight too */
        op_taint_list(c->probes, 0, INT64_MAX);
        op_taint_list(c->zeroes, 0, INT64_MAX);
    }
    c->mode = mode;
}

StatusCacheMode status_cache_get_mode(StatusCache *c)
{
    MUTEX_GUARD(&c->lock);

    return c->mode;
}

/* Bytes of all blocks set in @bitmap; the last block ends with the disk. */
static uint64_t bytes_set(const StatusCache *c, const SparseBitmap *bitmap)
{
    uint64_t bytes = sparse_bitmap_count(bitmap) << c->shift;

    if (c->blocks && sparse_bitmap_test(bitmap, c->blocks - 1)) {
        bytes -= ((uint64_t)c->blocks << c->shift) - c->length;
    }
    return bytes;
}

void status_cache_get_stats(StatusCache *c, StatusCacheStats *stats)
{
    uint64_t known, zero;
    MUTEX_GUARD(&c->lock);

    *stats = c->stats;
    stats->mode = c->mode;
    stats->granularity = c->granularity;
    stats->length = c->length;
    known = bytes_set(c, c->known);
    zero = bytes_set(c, c->zero);
    stats->bytes_zero = zero;
    stats->bytes_data = known - zero;
    stats->bytes_unknown = c->length - known;
    stats->memory = memory_used(c);
    stats->memory_max = MAX(stats->memory_max, stats->memory);
}
