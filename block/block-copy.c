/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A copy of a disk as it was at one moment.
 *
 * What keeps it true:
 *  1. A cluster is copied by one at a time, who holds it in bc->ranges from before
 *     the source is looked at, be it for its status or its data, until all of it
 *     is on the target.
 *  2. It leaves bc->left then, and not before, while it is still held. What is not
 *     in there is copied, so whoever finds that may overwrite it.
 *  3. Who is about to overwrite a cluster that is in there gets hold of it first, and
 *     copies it if it still is there then. So nobody writes to a cluster of the
 *     source while it is read to be copied.
 *  4. Clusters of the target leave bc->zero before data is written to them, and
 *     enter it only as what they were before anything was copied.
 *
 * Guests wait for workers here, so workers never wait for guests while they hold a
 * range (block_copy_pick() does not wait), nor at a gate: they are inside that of
 * the filter, as guests are, and whoever drains the filter, its source or its
 * target waits for both.
 */
#include "block/block-copy.h"

#include <inttypes.h>
#include <stdlib.h>

#include "block/copy-target.h"
#include "util/error.h"

/* One request of data, unless clusters are longer */
#define MAX_DATA (INT64_C(1) << 20)
/* What is looked at at once; it is held meanwhile. */
#define MAX_LOOK (INT64_C(1) << 30)
/* A guest holds no more, and no more zeroes are written at once: guests wait. */
#define MAX_HELD (INT64_C(16) << 20)
/* A target that has a fast way to zero has it for that much. */
#define MIN_FAST_ZERO 65536
#define BUFFER_ALIGNMENT 4096

struct BlockCopy {
    BlockDriverState *target, *base;
    int64_t length, cluster;
    int64_t max_data;
    bool compress;
    void (*changed)(void *opaque, int64_t done);
    void *opaque;

    RangeLock *ranges;
    Mutex lock;
    SparseBitmap *left; /* lock; clusters */
    TargetZero zero;    /* lock */
    bool torn;          /* lock: a write to the target has failed */
    uint64_t n_left;    /* atomic: how many bits of left are set */
    int stopped;        /* atomic */
    int zero_plain;     /* atomic: the target has no fast zero-writes */
};

static int64_t round_down(const BlockCopy *bc, int64_t n)
{
    return n - n % bc->cluster;
}

/* Not beyond the end of the disk */
static int64_t round_up(const BlockCopy *bc, int64_t n)
{
    int64_t rest = n % bc->cluster;

    if (n >= bc->length || (rest && bc->cluster - rest > bc->length - n)) {
        return bc->length;
    }
    return rest ? n + (bc->cluster - rest) : n;
}

static uint64_t clusters(const BlockCopy *bc, int64_t bytes)
{
    return bytes / bc->cluster + (bytes % bc->cluster != 0);
}

/* ---- what there is to copy ---------------------------------------------- */

static bool check_chunk(const BlockCopyOptions *options, int64_t cluster,
                        GError **errp)
{
    if (options->max_chunk != 0 && options->max_chunk < cluster) {
        error_setg(errp,
                   "Required max-chunk (%" PRId64
                   ") is less than backup cluster size (%" PRId64 ")",
                   options->max_chunk, cluster);
        return false;
    }
    return true;
}

BlockCopy *block_copy_new(const BlockCopyOptions *options, GError **errp)
{
    int64_t cluster =
        MAX(copy_target_cluster(options->target), BLOCK_COPY_MIN_CLUSTER);
    BlockCopy *bc;

    if (!check_chunk(options, cluster, errp)) {
        return NULL;
    }
    bc = g_new0(BlockCopy, 1);
    bc->target = options->target;
    bc->base = options->base;
    bc->length = options->length;
    bc->cluster = cluster;
    bc->max_data = MAX_DATA;
    if (options->max_chunk != 0) {
        bc->max_data = MIN(bc->max_data, options->max_chunk);
    }
    bc->max_data = MAX(round_down(bc, bc->max_data), cluster);
    bc->compress = options->compress;
    bc->changed = options->changed;
    bc->opaque = options->opaque;
    bc->ranges = range_lock_new();
    mutex_init(&bc->lock);
    bc->left = sparse_bitmap_new(clusters(bc, bc->length));
    target_zero_init(&bc->zero, bc->length, cluster);
    return bc;
}

void block_copy_free(BlockCopy *bc)
{
    if (!bc) {
        return;
    }
    range_lock_free(bc->ranges);
    target_zero_destroy(&bc->zero);
    sparse_bitmap_free(bc->left);
    mutex_destroy(&bc->lock);
    g_free(bc);
}

int64_t block_copy_cluster(const BlockCopy *bc)
{
    return bc->cluster;
}

int64_t block_copy_length(const BlockCopy *bc)
{
    return bc->length;
}

int64_t block_copy_max_data(const BlockCopy *bc)
{
    return bc->max_data;
}

/* Lock held */
static void update_count(BlockCopy *bc)
{
    __atomic_store_n(&bc->n_left, sparse_bitmap_count(bc->left),
                     __ATOMIC_RELEASE);
}

void block_copy_add(BlockCopy *bc, int64_t offset, int64_t bytes)
{
    int64_t end = MIN(offset + bytes, bc->length);
    uint64_t first = offset / bc->cluster;

    if (offset >= end) {
        return;
    }
    MUTEX_GUARD(&bc->lock);
    sparse_bitmap_set(bc->left, first, clusters(bc, end) - first);
    update_count(bc);
}

int64_t block_copy_left(BlockCopy *bc)
{
    uint64_t n, last;
    int64_t rest;

    MUTEX_GUARD(&bc->lock);
    n = sparse_bitmap_count(bc->left);
    if (n == 0) {
        return 0;
    }
    last = sparse_bitmap_size(bc->left) - 1;
    rest = bc->length - (int64_t)last * bc->cluster;
    if (sparse_bitmap_test(bc->left, last)) {
        return (int64_t)(n - 1) * bc->cluster + rest;
    }
    return (int64_t)n * bc->cluster;
}

/* The first range in [@offset, @end), cluster by cluster, that is to be copied.
 * Lock held */
static bool next_left(BlockCopy *bc, int64_t offset, int64_t end, int64_t max,
                      int64_t *start, int64_t *bytes)
{
    uint64_t stop = clusters(bc, end);
    uint64_t first, last;

    first = sparse_bitmap_next_set(bc->left, offset / bc->cluster, stop);
    if (first >= stop) {
        return false;
    }
    stop = MIN(stop, first + MAX(max / bc->cluster, 1));
    last = sparse_bitmap_next_clear(bc->left, first, stop);
    *start = (int64_t)first * bc->cluster;
    *bytes = MIN((int64_t)last * bc->cluster, bc->length) - *start;
    return true;
}

bool block_copy_next_left(BlockCopy *bc, int64_t offset, int64_t *start,
                          int64_t *bytes)
{
    MUTEX_GUARD(&bc->lock);
    return offset < bc->length &&
           next_left(bc, offset, bc->length, bc->length, start, bytes);
}

bool block_copy_is_left(BlockCopy *bc, int64_t offset, int64_t bytes,
                        int64_t *pnum)
{
    uint64_t end;
    bool left;
    MUTEX_GUARD(&bc->lock);

    end = sparse_bitmap_next_change(bc->left, offset / bc->cluster,
                                    clusters(bc, offset + bytes), &left);
    *pnum = MIN(bytes, (int64_t)end * bc->cluster - offset);
    return left;
}

bool block_copy_any_left(BlockCopy *bc, int64_t offset, int64_t bytes)
{
    int64_t end = MIN(offset + bytes, bc->length);
    int64_t start, n;

    if (__atomic_load_n(&bc->n_left, __ATOMIC_ACQUIRE) == 0 || offset >= end) {
        return false;
    }
    MUTEX_GUARD(&bc->lock);
    return next_left(bc, offset, end, bytes, &start, &n);
}

int block_copy_forget(BlockCopy *bc, int64_t offset, int64_t bytes)
{
    int64_t start = round_down(bc, offset);
    int64_t end = round_up(bc, offset + bytes);
    SparseBitmapGarbage *garbage;
    RangeHold hold;
    int ret = range_lock_acquire(bc->ranges, &hold, start, end - start, true,
                                 bdrv_request_cancel());

    if (ret < 0) {
        return ret;
    }
    mutex_lock(&bc->lock);
    sparse_bitmap_clear(bc->left, start / bc->cluster,
                        clusters(bc, end) - start / bc->cluster);
    update_count(bc);
    garbage = sparse_bitmap_take_garbage(bc->left);
    mutex_unlock(&bc->lock);
    sparse_bitmap_garbage_free(garbage);
    range_lock_release(bc->ranges, &hold);
    return 0;
}

void block_copy_stop(BlockCopy *bc)
{
    __atomic_store_n(&bc->stopped, 1, __ATOMIC_RELEASE);
}

static bool is_stopped(BlockCopy *bc)
{
    return __atomic_load_n(&bc->stopped, __ATOMIC_ACQUIRE);
}

/* ---- the target --------------------------------------------------------- */

typedef struct Learner {
    BlockCopy *bc;
    int (*ask)(void *opaque, int64_t offset, int64_t bytes, int64_t *pnum);
    void *opaque;
} Learner;

static int learner_ask(void *opaque, int64_t offset, int64_t bytes,
                       int64_t *pnum)
{
    const Learner *l = opaque;

    return is_stopped(l->bc) ? -ECANCELED
                             : l->ask(l->opaque, offset, bytes, pnum);
}

/*
 * Rule 4: whoever copies there just now has changed what was asked about. What is
 * copied is never asked about again; and what has failed may be, so nothing is
 * believed then.
 */
static void learner_found(void *opaque, int64_t offset, int64_t bytes)
{
    const Learner *l = opaque;

    MUTEX_GUARD(&l->bc->lock);
    if (!l->bc->torn) {
        target_zero_set(&l->bc->zero, offset, bytes);
    }
}

void block_copy_learn_target(BlockCopy *bc,
                             int (*ask)(void *opaque, int64_t offset,
                                        int64_t bytes, int64_t *pnum),
                             void *opaque)
{
    Learner l = { .bc = bc, .ask = ask, .opaque = opaque };
    TargetZeroLearner learner = { learner_ask, learner_found, &l };

    target_zero_learn(&learner, bc->length);
}

/* ---- to find out what to copy ------------------------------------------- */

/* @op goes on to @end at most, and so does what it holds. */
static void shrink(BlockCopy *bc, BlockCopyOp *op, int64_t end)
{
    if (end < op->hold.end) {
        range_lock_shrink(bc->ranges, &op->hold, end - op->hold.start);
    }
    op->bytes = end - op->offset;
}

bool block_copy_pick(BlockCopy *bc, BlockCopyOp *op, int64_t *cursor)
{
    int64_t from[2] = { *cursor, 0 };
    int64_t to[2] = { bc->length, *cursor };
    int i;

    /* With the lock held: what is in bc->left and nobody holds stays there (rule 2). */
    MUTEX_GUARD(&bc->lock);
    for (i = 0; i < 2 && !is_stopped(bc); i++) {
        int64_t pos = from[i];
        int64_t start, bytes;

        while (pos < to[i] &&
               next_left(bc, pos, to[i], MAX_LOOK, &start, &bytes)) {
            op->offset = start;
            op->bytes = range_lock_try_acquire(bc->ranges, &op->hold, start,
                                               bytes, bc->cluster, &pos);
            if (op->bytes > 0) {
                *cursor = op->offset + op->bytes;
                return true;
            }
        }
    }
    return false;
}

/* Zeroes: on the target already, or not. */
static void look_at_target(BlockCopy *bc, BlockCopyOp *op, int64_t max_data)
{
    int64_t most = MAX(round_down(bc, MAX_HELD), bc->cluster);
    int64_t pnum;

    op->plain = g_atomic_int_get(&bc->zero_plain);
    if (op->plain) {
        most = max_data;
    }

    MUTEX_GUARD(&bc->lock);
    if (target_zero_test(&bc->zero, op->offset, op->bytes, &pnum)) {
        op->kind = BLOCK_COPY_THERE;
    } else {
        op->kind = BLOCK_COPY_ZERO;
        pnum = MIN(pnum, most);
    }
    shrink(bc, op, op->offset + pnum);
}

/*
 * What is at @pos: its kind (ZERO or THERE need not be told apart yet), and in
 * *@end how far it goes, in whole clusters. A cluster that is data in part is data.
 */
static int kind_at(BlockCopy *bc, BlockDriverState *source, int64_t pos,
                   int64_t *end)
{
    BlockDriverState *file;
    int64_t pnum = 0, map, whole;
    int64_t bytes = MIN(*end - pos, BDRV_REQUEST_MAX_BYTES);
    int ret = bdrv_block_status_above(source, bc->base, BDRV_WANT_ZERO, pos,
                                      bytes, &pnum, &map, &file, NULL);

    if (ret < 0 || pnum <= 0) {
        /* Reading tells if it matters. */
        return BLOCK_COPY_DATA;
    }
    whole = pos + pnum;
    if (whole < bc->length) {
        whole = round_down(bc, whole);
    }
    if ((ret & BDRV_BLOCK_ZERO) && whole > pos) {
        *end = whole;
        return BLOCK_COPY_ZERO;
    }
    if (bc->base && !(ret & BDRV_BLOCK_ALLOCATED) && whole > pos) {
        *end = whole;
        return BLOCK_COPY_NOTHING;
    }
    *end = MIN(round_up(bc, pos + pnum), *end);
    return BLOCK_COPY_DATA;
}

void block_copy_look(BlockCopy *bc, BlockDriverState *source, BlockCopyOp *op,
                     int64_t max_data)
{
    int64_t end = op->offset + op->bytes;
    int64_t pos = end;

    max_data = MAX(round_down(bc, MIN(max_data, bc->max_data)), bc->cluster);
    op->kind = kind_at(bc, source, op->offset, &pos);
    if (op->kind != BLOCK_COPY_DATA) {
        shrink(bc, op, pos);
        if (op->kind == BLOCK_COPY_ZERO) {
            look_at_target(bc, op, max_data);
        }
        return;
    }
    end = MIN(end, op->offset + max_data);
    while (pos < end) {
        int64_t next = end;

        if (kind_at(bc, source, pos, &next) != BLOCK_COPY_DATA) {
            break;
        }
        pos = next;
    }
    shrink(bc, op, MIN(pos, end));
}

/* ---- to copy it --------------------------------------------------------- */

static int copy_zeroes(BlockCopy *bc, BlockCopyOp *op)
{
    int ret = -ENOTSUP;

    if (!g_atomic_int_get(&bc->zero_plain)) {
        ret = bdrv_pwrite_zeroes(bc->target, op->offset, op->bytes,
                                 BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK);
    }
    if (ret != -ENOTSUP) {
        return ret;
    }
    if (op->bytes >= MIN_FAST_ZERO) {
        /* What is smaller may only be too small for its way. */
        g_atomic_int_set(&bc->zero_plain, 1);
    }
    shrink(bc, op, op->offset + MIN(op->bytes, bc->max_data));
    return bdrv_pwrite_zeroes(bc->target, op->offset, op->bytes,
                              BDRV_REQ_MAY_UNMAP);
}

static int copy_data(BlockCopy *bc, BlockDriverState *source, BlockCopyOp *op)
{
    struct iovec iov = { .iov_len = op->bytes };
    bool again;
    int ret;

    if (!op->buf &&
        posix_memalign(&op->buf, BUFFER_ALIGNMENT, bc->max_data) != 0) {
        op->buf = NULL;
        return -ENOMEM;
    }
    iov.iov_base = op->buf;
    op->is_read = true;
    ret = bdrv_preadv(source, op->offset, op->bytes, &iov, 1, 0);
    if (ret < 0) {
        return ret;
    }
    op->is_read = false;
    mutex_lock(&bc->lock);
    target_zero_clear(&bc->zero, op->offset, op->bytes);
    again = bc->torn;
    mutex_unlock(&bc->lock);
    return copy_target_write(bc->target, op->offset, &iov, bc->compress, again);
}

/* Rule 2. Nobody minds rule 3 any more after a stop: what was read may not be of the
 * moment, and counts as not copied. */
static void finish(BlockCopy *bc, BlockCopyOp *op, int ret)
{
    uint64_t first = op->offset / bc->cluster;
    SparseBitmapGarbage *garbage;

    op->done = 0;
    mutex_lock(&bc->lock);
    if (ret == 0 && !is_stopped(bc)) {
        op->done = op->kind == BLOCK_COPY_NOTHING ? 0 : op->bytes;
        sparse_bitmap_clear(bc->left, first,
                            clusters(bc, op->offset + op->bytes) - first);
        update_count(bc);
    } else if (!op->is_read) {
        bc->torn = true;
        target_zero_clear(&bc->zero, op->offset, op->bytes);
    }
    garbage = sparse_bitmap_take_garbage(bc->left);
    mutex_unlock(&bc->lock);
    sparse_bitmap_garbage_free(garbage);
}

int block_copy_do(BlockCopy *bc, BlockDriverState *source, BlockCopyOp *op)
{
    int ret = 0;

    op->is_read = false;
    if (op->kind == BLOCK_COPY_ZERO) {
        ret = copy_zeroes(bc, op);
    } else if (op->kind == BLOCK_COPY_DATA) {
        ret = copy_data(bc, source, op);
    }
    finish(bc, op, ret);
    return ret;
}

void block_copy_give_up(BlockCopy *bc, BlockCopyOp *op)
{
    range_lock_release(bc->ranges, &op->hold);
    if (bc->changed) {
        bc->changed(bc->opaque, op->done);
    }
}

void block_copy_op_destroy(BlockCopyOp *op)
{
    free(op->buf);
    op->buf = NULL;
}

/* ---- guests ------------------------------------------------------------- */

/* Rule 3: what of [*@pos, @end) is to be copied, @op holds. 1, or 0 if there is
 * nothing, or -errno */
static int take(BlockCopy *bc, BlockCopyOp *op, int64_t *pos, int64_t end)
{
    bool found = true;

    while (found && !is_stopped(bc)) {
        int64_t start, bytes;
        int ret;

        mutex_lock(&bc->lock);
        found = next_left(bc, *pos, end, MAX_HELD, &start, &bytes);
        mutex_unlock(&bc->lock);
        if (!found) {
            break;
        }
        ret = range_lock_acquire(bc->ranges, &op->hold, start, bytes, true,
                                 bdrv_request_cancel());
        if (ret < 0) {
            return ret;
        }
        *pos = start;
        mutex_lock(&bc->lock);
        found =
            next_left(bc, start, start + bytes, bytes, &op->offset, &op->bytes);
        mutex_unlock(&bc->lock);
        if (found) {
            shrink(bc, op, op->offset + op->bytes);
            return 1;
        }
        range_lock_release(bc->ranges, &op->hold);
        *pos = start + bytes;
        found = *pos < end;
    }
    return 0;
}

unsigned block_copy_waiting(BlockCopy *bc)
{
    return range_lock_waiting(bc->ranges);
}

int block_copy(BlockCopy *bc, BlockDriverState *source, int64_t offset,
               int64_t bytes, bool *is_read)
{
    int64_t pos = round_down(bc, offset);
    int64_t end = round_up(bc, offset + bytes);
    BlockCopyOp op = { .buf = NULL };
    int ret = 1;

    *is_read = false;
    if (__atomic_load_n(&bc->n_left, __ATOMIC_ACQUIRE) == 0) {
        return 0;
    }
    while (ret > 0 && pos < end) {
        ret = take(bc, &op, &pos, end);
        if (ret > 0) {
            block_copy_look(bc, source, &op, bc->max_data);
            ret = block_copy_do(bc, source, &op);
            block_copy_give_up(bc, &op);
            pos = op.offset + op.bytes;
            *is_read = op.is_read;
            ret = ret == 0 ? 1 : ret;
        }
    }
    block_copy_op_destroy(&op);
    return MIN(ret, 0);
}
