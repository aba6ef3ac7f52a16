/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * BlockBackends: the users of nodes, and the gate their requests go through.
 *
 * The gate is one atomic word: a count of the requests inside and a flag that
 * it is closed. Entering and leaving an open gate is one compare-and-swap. The
 * flag changes under the gate's mutex only, and who leaves a closed gate does so
 * under that mutex: so the drainer that waits for the last one to leave may
 * free everything as soon as it has the mutex back.
 *
 * Inside the gate blk->root and all that is below it stays as it is, because
 * whoever changes the graph drains it first. A request therefore looks at
 * blk->root only after it came in, and finds the new node after a pivot.
 */
#include <string.h>

#include "block/block-stats.h"
#include "block/graph-int.h"
#include "block/guest-use.h"
#include "util/iov.h"
#include "util/trace.h"

#define GATE_CLOSED 0x80000000u

int64_t guest_use_us = INT64_MIN / 2;

struct BlockBackend {
    char *user;
    bool is_job, writes_below;
    uint64_t perm, shared_perm; /* graph mutex */
    int writable;               /* atomic: perm allows writes */
    BdrvChild *root; /* changed inside a closed gate and short graph lock */
    BdrvCancel *cancel;

    guint gate_state; /* atomic */
    Mutex gate_lock;
    Cond gate_opened, gate_idle;
    unsigned gate_closed; /* how often; gate_lock */

    RequestCounters counters;
    uint64_t wr_highest_offset; /* atomic */
};

/* One request on its way */
typedef struct Request {
    BlockBackend *blk;
    BlockDriverState *bs;
    BlockBackend *outer; /* of the request around it, or NULL */
    BdrvCancel *outer_cancel;
    BdrvCancel *outer_within; /* what is around that */
} Request;

/* Of the request that this thread is in, or NULL */
static __thread BdrvCancel *request_cancel;
static __thread BlockBackend *request_blk;

/* ---- the gate ----------------------------------------------------------- */

/* False: it is closed. */
static bool gate_try_enter(BlockBackend *blk)
{
    guint state = g_atomic_int_get(&blk->gate_state);

    while (!(state & GATE_CLOSED)) {
        if (g_atomic_int_compare_and_exchange(&blk->gate_state, state,
                                              state + 1)) {
            return true;
        }
        state = g_atomic_int_get(&blk->gate_state);
    }
    return false;
}

static int gate_enter(BlockBackend *blk)
{
    while (!gate_try_enter(blk)) {
        int64_t since_us = g_get_monotonic_time();
        int ret = 0;

        mutex_lock(&blk->gate_lock);
        while (ret == 0 && blk->gate_closed) {
            ret = bdrv_wait(&blk->gate_opened, &blk->gate_lock, INT64_MAX,
                            blk->cancel);
        }
        mutex_unlock(&blk->gate_lock);
        trace_gate_wait(blk, ret, g_get_monotonic_time() - since_us);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static void gate_leave(BlockBackend *blk)
{
    guint state = g_atomic_int_get(&blk->gate_state);

    while (!(state & GATE_CLOSED)) {
        if (g_atomic_int_compare_and_exchange(&blk->gate_state, state,
                                              state - 1)) {
            return;
        }
        state = g_atomic_int_get(&blk->gate_state);
    }
    mutex_lock(&blk->gate_lock);
    if (g_atomic_int_add(&blk->gate_state, -1) == (gint)(GATE_CLOSED + 1)) {
        cond_broadcast(&blk->gate_idle);
    }
    mutex_unlock(&blk->gate_lock);
}

/* Nobody shall wait for requests inside that wait to let others go first. */
void blk_gate_close(BlockBackend *blk)
{
    bool first;

    mutex_lock(&blk->gate_lock);
    first = blk->gate_closed++ == 0;
    if (first) {
        g_atomic_int_or(&blk->gate_state, GATE_CLOSED);
    }
    mutex_unlock(&blk->gate_lock);
    if (first) {
        bdrv_hurry_begin(blk->cancel);
    }
}

bool blk_gate_wait(BlockBackend *blk, int64_t deadline_us)
{
    bool in_time = true;

    MUTEX_GUARD(&blk->gate_lock);
    while (g_atomic_int_get(&blk->gate_state) & ~GATE_CLOSED) {
        if (!in_time) {
            return false;
        }
        in_time =
            cond_wait_until(&blk->gate_idle, &blk->gate_lock, deadline_us);
    }
    return true;
}

void blk_gate_open(BlockBackend *blk)
{
    MUTEX_GUARD(&blk->gate_lock);

    g_assert(blk->gate_closed > 0);
    if (--blk->gate_closed == 0) {
        bdrv_hurry_end(blk->cancel);
        g_atomic_int_and(&blk->gate_state, ~GATE_CLOSED);
        cond_broadcast(&blk->gate_opened);
    }
}

/* ---- users -------------------------------------------------------------- */

static void set_perm_members(BlockBackend *blk, uint64_t perm, uint64_t shared)
{
    blk->perm = perm;
    blk->shared_perm = shared;
    g_atomic_int_set(&blk->writable,
                     !!(perm & (BLK_PERM_WRITE | BLK_PERM_WRITE_UNCHANGED)));
}

BlockBackend *blk_new(const char *user, bool is_job, uint64_t perm,
                      uint64_t shared_perm)
{
    BlockBackend *blk = g_new0(BlockBackend, 1);

    blk->user = g_strdup(user);
    blk->is_job = is_job;
    set_perm_members(blk, perm, shared_perm);
    blk->cancel = bdrv_cancel_new();
    mutex_init(&blk->gate_lock);
    cond_init(&blk->gate_opened);
    cond_init(&blk->gate_idle);
    return blk;
}

static void set_root(BlockBackend *blk, BdrvChild *root)
{
    graph_short_wrlock();
    blk->root = root;
    graph_short_wrunlock();
}

bool blk_attach(BlockBackend *blk, BlockDriverState *bs, GError **errp)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    GraphTran *tran = graph_tran_new();
    BdrvChild *child;

    g_assert(!blk->root);
    child = bdrv_child_new(NULL, blk, "root", blk->perm, blk->shared_perm);
    g_ptr_array_add(nodes, bs);
    graph_tran_move(tran, child, bs);
    if (!graph_tran_finish(tran, graph_tran_check(tran, nodes, errp))) {
        bdrv_child_free(child);
        return false;
    }
    blk_gate_close(blk);
    blk_gate_wait(blk, INT64_MAX);
    set_root(blk, child);
    blk_gate_open(blk);
    return true;
}

void blk_detach(BlockBackend *blk)
{
    BdrvChild *child = blk->root;

    g_assert(bdrv_graph_locked());
    if (!child) {
        return;
    }
    blk_gate_close(blk);
    blk_gate_wait(blk, INT64_MAX);
    set_root(blk, NULL);
    bdrv_child_detach(child);
    bdrv_child_free(child);
    blk_gate_open(blk);
}

bool blk_set_perm(BlockBackend *blk, uint64_t perm, uint64_t shared_perm,
                  GError **errp)
{
    g_assert(bdrv_graph_locked());
    if (blk->root) {
        g_autoptr(GPtrArray) nodes = g_ptr_array_new();
        GraphTran *tran = graph_tran_new();

        g_ptr_array_add(nodes, blk->root->bs);
        graph_tran_set_child_perm(tran, blk->root, perm, shared_perm);
        if (!graph_tran_finish(tran, graph_tran_check(tran, nodes, errp))) {
            return false;
        }
    }
    set_perm_members(blk, perm, shared_perm);
    return true;
}

void blk_free(BlockBackend *blk)
{
    if (!blk) {
        return;
    }
    blk_detach(blk);
    g_assert(blk->gate_state == 0);
    bdrv_cancel_unref(blk->cancel);
    cond_destroy(&blk->gate_opened);
    cond_destroy(&blk->gate_idle);
    mutex_destroy(&blk->gate_lock);
    g_free(blk->user);
    g_free(blk);
}

bool blk_is_job(BlockBackend *blk)
{
    return blk->is_job;
}

void blk_set_writes_below(BlockBackend *blk)
{
    g_assert(!blk->root);
    blk->writes_below = true;
}

bool blk_writes_below(BlockBackend *blk)
{
    return blk->writes_below;
}

const char *blk_user(BlockBackend *blk)
{
    return blk->user;
}

void blk_cancel_waits(BlockBackend *blk)
{
    bdrv_cancel(blk->cancel);
}

BdrvCancel *bdrv_request_cancel(void)
{
    return request_cancel;
}

/* ---- what is below ------------------------------------------------------ */

BlockDriverState *blk_get_bs(BlockBackend *blk)
{
    BlockDriverState *bs = NULL;

    graph_short_rdlock();
    if (blk->root) {
        bs = bdrv_ref(blk->root->bs);
    }
    graph_short_rdunlock();
    return bs;
}

int64_t blk_getlength(BlockBackend *blk)
{
    int64_t length;

    graph_short_rdlock();
    length = blk->root ? bdrv_child_getlength(blk->root) : -ENOMEDIUM;
    graph_short_rdunlock();
    return length;
}

bool blk_is_read_only(BlockBackend *blk)
{
    bool read_only;

    graph_short_rdlock();
    read_only = !blk->root || bdrv_is_read_only(blk->root->bs);
    graph_short_rdunlock();
    return read_only;
}

/* Of @bs and what is below. A backing file bounces what it does not like, piece
 * by piece, but buffers should suit it. Short graph lock held */
static void add_limits(BlockLimits *l, const BlockDriverState *bs,
                       bool is_backing)
{
    for (; bs; bs = bs->file ? bs->file->bs : NULL) {
        const BlockLimits *m = &bs->limits;

        if (!is_backing) {
            l->request_alignment =
                MAX(l->request_alignment, m->request_alignment);
        }
        l->opt_alignment = MAX(l->opt_alignment, m->opt_alignment);
        l->mem_alignment = MAX(l->mem_alignment, m->mem_alignment);
        if (bs->backing) {
            add_limits(l, bs->backing->bs, true);
        }
    }
}

static BlockLimits effective_limits(BlockBackend *blk)
{
    BlockLimits l = { .request_alignment = 1,
                      .opt_alignment = 1,
                      .mem_alignment = 1 };

    graph_short_rdlock();
    if (blk->root) {
        add_limits(&l, blk->root->bs, false);
    }
    graph_short_rdunlock();
    l.opt_alignment = MAX(l.opt_alignment, l.request_alignment);
    return l;
}

uint32_t blk_request_alignment(BlockBackend *blk)
{
    return effective_limits(blk).request_alignment;
}

uint32_t blk_opt_alignment(BlockBackend *blk)
{
    return effective_limits(blk).opt_alignment;
}

uint32_t blk_mem_alignment(BlockBackend *blk)
{
    return effective_limits(blk).mem_alignment;
}

/* ---- statistics --------------------------------------------------------- */

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

int64_t blk_note_use(const BlockBackend *blk)
{
    int64_t ns = now_ns();

    if (!blk->is_job) {
        guest_use_note(ns / 1000);
    }
    return ns;
}

void blk_account(BlockBackend *blk, RequestKind kind, int64_t offset,
                 int64_t bytes, int64_t start_ns, int ret)
{
    request_counters_add(&blk->counters, kind, bytes,
                         blk_note_use(blk) - start_ns, ret == 0);
    if (ret == 0 && (kind == REQ_WRITE || kind == REQ_ZERO) && bytes > 0) {
        counter_max(&blk->wr_highest_offset, offset + bytes);
    }
}

void blk_get_stats(BlockBackend *blk, BlockStats *stats)
{
    memset(stats, 0, sizeof(*stats));
    request_counters_sum(&blk->counters, stats);
    stats->wr_highest_offset = counter_get(&blk->wr_highest_offset);
}

void bdrv_get_stats(BlockDriverState *bs, BlockStats *stats)
{
    guint i;

    memset(stats, 0, sizeof(*stats));
    graph_short_rdlock();
    for (i = 0; i < bs->parents->len; i++) {
        BdrvChild *c = bs->parents->pdata[i];

        if (c->blk) {
            request_counters_sum(&c->blk->counters, stats);
        }
    }
    graph_short_rdunlock();
    stats->wr_highest_offset = counter_get(&bs->wr_highest_offset);
}

bool bdrv_has_users(BlockDriverState *bs)
{
    bool found = false;
    guint i;

    graph_short_rdlock();
    for (i = 0; i < bs->parents->len && !found; i++) {
        const BdrvChild *c = bs->parents->pdata[i];

        found = c->blk != NULL;
    }
    graph_short_rdunlock();
    return found;
}

/* ---- requests ----------------------------------------------------------- */

static bool may_write(BlockBackend *blk)
{
    return g_atomic_int_get(&blk->writable);
}

/* Inside the gate: does the range lie within the disk? 0 or -errno */
static int check_range(BlockBackend *blk, int64_t offset, int64_t bytes)
{
    int64_t length;

    if (!blk->root) {
        return -ENOMEDIUM;
    }
    length = bdrv_driver_getlength(blk->root->bs);
    if (length < 0) {
        return length;
    }
    return offset > length || bytes > length - offset ? -EIO : 0;
}

/* Enter the gate; the range must lie within the disk. */
static int request_begin(Request *req, BlockBackend *blk, int64_t offset,
                         int64_t bytes)
{
    int ret;

    if (offset < 0 || bytes < 0) {
        return -EINVAL;
    }
    ret = gate_enter(blk);
    if (ret < 0) {
        return ret;
    }
    ret = check_range(blk, offset, bytes);
    if (ret < 0) {
        gate_leave(blk);
        return ret;
    }
    *req = (Request){ .blk = blk,
                      .bs = blk->root->bs,
                      .outer = request_blk,
                      .outer_cancel = request_cancel };
    req->outer_within = bdrv_wait_within(request_cancel);
    request_cancel = blk->cancel;
    request_blk = blk;
    return 0;
}

static void request_end(Request *req)
{
    request_cancel = req->outer_cancel;
    request_blk = req->outer;
    bdrv_wait_within(req->outer_within);
    gate_leave(req->blk);
}

BlockDriverState *blk_try_enter(BlockBackend *blk, RequestKind kind,
                                int64_t offset, int64_t bytes)
{
    if (offset < 0 || bytes < 0 || (kind != REQ_READ && !may_write(blk)) ||
        !gate_try_enter(blk)) {
        return NULL;
    }
    if (check_range(blk, offset, bytes) < 0) {
        gate_leave(blk);
        return NULL;
    }
    return blk->root->bs;
}

void blk_leave_entered(BlockBackend *blk)
{
    gate_leave(blk);
}

int blk_enter(BlockBackend *blk)
{
    int ret = gate_enter(blk);

    g_assert(!request_cancel);
    if (ret == 0 && !blk->root) {
        gate_leave(blk);
        ret = -ENOMEDIUM;
    }
    if (ret == 0) {
        request_cancel = blk->cancel;
        request_blk = blk;
    }
    return ret;
}

void blk_leave(BlockBackend *blk)
{
    request_cancel = NULL;
    request_blk = NULL;
    gate_leave(blk);
}

/* ---- requests in two threads -------------------------------------------- */

BlockBackend *blk_share_request(void)
{
    if (request_blk) {
        /* Whoever drains waits for this thread at least. */
        g_atomic_int_inc(&request_blk->gate_state);
    }
    return request_blk;
}

void blk_unshare_request(BlockBackend *blk)
{
    gate_leave(blk);
}

void blk_continue_begin(BlockBackend *blk, BdrvCancel *cancel)
{
    g_assert(!request_blk);
    request_blk = blk;
    request_cancel = cancel;
    bdrv_wait_within(blk->cancel);
}

void blk_continue_end(void)
{
    bdrv_wait_within(NULL);
    request_cancel = NULL;
    request_blk = NULL;
}

static int transfer(BlockBackend *blk, RequestKind kind, int64_t offset,
                    int64_t bytes, const struct iovec *iov, int niov, int flags)
{
    int64_t start_ns = blk_note_use(blk);
    Request req;
    int ret;

    if (bytes > BDRV_REQUEST_MAX_BYTES) {
        return -EINVAL;
    }
    if (kind == REQ_WRITE && !may_write(blk)) {
        return -EPERM;
    }
    ret = request_begin(&req, blk, offset, bytes);
    if (ret < 0) {
        return ret;
    }
    ret = kind == REQ_WRITE
              ? bdrv_pwritev(req.bs, offset, bytes, iov, niov, flags)
              : bdrv_preadv(req.bs, offset, bytes, iov, niov, flags);
    if (ret != -EAGAIN || !(flags & BDRV_REQ_NOWAIT)) {
        blk_account(blk, kind, offset, bytes, start_ns, ret);
    }
    request_end(&req);
    return ret;
}

int blk_preadv(BlockBackend *blk, int64_t offset, int64_t bytes,
               const struct iovec *iov, int niov, int flags)
{
    return transfer(blk, REQ_READ, offset, bytes, iov, niov, flags);
}

int blk_pwritev(BlockBackend *blk, int64_t offset, int64_t bytes,
                const struct iovec *iov, int niov, int flags)
{
    return transfer(blk, REQ_WRITE, offset, bytes, iov, niov, flags);
}

int blk_pread(BlockBackend *blk, int64_t offset, int64_t bytes, void *buf,
              int flags)
{
    struct iovec iov = { .iov_base = buf, .iov_len = MAX(bytes, 0) };

    return blk_preadv(blk, offset, bytes, &iov, 1, flags);
}

int blk_pwrite(BlockBackend *blk, int64_t offset, int64_t bytes,
               const void *buf, int flags)
{
    struct iovec iov = { .iov_base = (void *)buf, .iov_len = MAX(bytes, 0) };

    return blk_pwritev(blk, offset, bytes, &iov, 1, flags);
}

/* The whole range is checked first; the gate is left between the pieces. */
static int zero_or_discard(BlockBackend *blk, RequestKind kind, int64_t offset,
                           int64_t bytes, int flags)
{
    int64_t start_ns = blk_note_use(blk);
    int64_t done = 0;
    int ret;

    if (!may_write(blk)) {
        return -EPERM;
    }
    do {
        int64_t pos = offset + done;
        int64_t n;
        Request req;

        ret = request_begin(&req, blk, pos, bytes - done);
        if (ret < 0) {
            return ret;
        }
        n = MIN(bytes - done,
                BDRV_REQUEST_MAX_BYTES - pos % BDRV_REQUEST_MAX_BYTES);
        ret = kind == REQ_ZERO ? bdrv_pwrite_zeroes(req.bs, pos, n, flags)
                               : bdrv_pdiscard(req.bs, pos, n);
        done += n;
        if (ret < 0 || done == bytes) {
            blk_account(blk, kind, offset, bytes, start_ns, ret);
        }
        request_end(&req);
    } while (ret == 0 && done < bytes);
    return ret;
}

int blk_pwrite_zeroes(BlockBackend *blk, int64_t offset, int64_t bytes,
                      int flags)
{
    return zero_or_discard(blk, REQ_ZERO, offset, bytes, flags);
}

int blk_pdiscard(BlockBackend *blk, int64_t offset, int64_t bytes)
{
    return zero_or_discard(blk, REQ_UNMAP, offset, bytes, 0);
}

int blk_flush(BlockBackend *blk)
{
    int64_t start_ns = blk_note_use(blk);
    Request req;
    int ret = request_begin(&req, blk, 0, 0);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_flush(req.bs);
    blk_account(blk, REQ_FLUSH, 0, 0, start_ns, ret);
    request_end(&req);
    return ret;
}

int blk_block_status_map(BlockBackend *blk, int64_t offset, int64_t bytes,
                         unsigned want, int64_t *pnum, int64_t *map, int *depth)
{
    BlockDriverState *file;
    Request req;
    int ret;

    *pnum = 0;
    *map = 0;
    ret = request_begin(&req, blk, offset, bytes);
    if (ret < 0) {
        return ret;
    }
    ret = bdrv_block_status_above(req.bs, NULL, want, offset,
                                  MIN(bytes, BDRV_REQUEST_MAX_BYTES), pnum, map,
                                  &file, depth);
    request_end(&req);
    return ret;
}

int blk_block_status(BlockBackend *blk, int64_t offset, int64_t bytes,
                     unsigned want, int64_t *pnum)
{
    int64_t map;

    return blk_block_status_map(blk, offset, bytes, want, pnum, &map, NULL);
}

int blk_allocation_depth(BlockBackend *blk, int64_t offset, int64_t bytes,
                         int64_t *pnum)
{
    int64_t map;
    int depth = 0;
    int ret = blk_block_status_map(blk, offset, bytes, 0, pnum, &map, &depth);

    return ret < 0 ? ret : depth;
}
