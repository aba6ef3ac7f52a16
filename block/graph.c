/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The graph: edges between nodes and their users, drain, and changes.
 *
 * A node is quiesced while somebody drains it or a node below it. Each edge to
 * a quiesced node quiesces what is above it, once; BlockBackends close their
 * gates then. So a drain reaches all gates above a node, however they are
 * reached, and an edge that is moved meanwhile can tell by its own flag what it
 * owes to its parent.
 *
 * A change is a transaction. Edges are moved at once, under the short graph
 * lock, so that permissions can be worked out in the graph as it will be; abort
 * moves them back in reverse order. What waits (gates that close) comes before
 * an edge moves to a quiesced node; what lets requests go on (gates that open)
 * comes after everything else.
 */
#include "block/graph-int.h"

#include "util/error.h"

BdrvChild *bdrv_child_new(BlockDriverState *parent, BlockBackend *blk,
                          const char *name, uint64_t perm, uint64_t shared)
{
    BdrvChild *child = g_new0(BdrvChild, 1);

    child->parent = parent;
    child->blk = blk;
    child->name = g_strdup(name);
    child->perm = perm;
    child->shared_perm = shared;
    return child;
}

void bdrv_child_free(BdrvChild *child)
{
    g_assert(!child->bs && !child->quiesced);
    g_free(child->name);
    g_free(child);
}

/* ---- drain -------------------------------------------------------------- */

static void node_quiesce(BlockDriverState *bs, GPtrArray *gates)
{
    guint i;

    if (bs->quiesce++ > 0) {
        return;
    }
    for (i = 0; i < bs->parents->len; i++) {
        BdrvChild *c = bs->parents->pdata[i];

        if (c->quiesced) {
            continue;
        }
        c->quiesced = true;
        if (c->blk) {
            blk_gate_close(c->blk);
            g_ptr_array_add(gates, c->blk);
        } else {
            node_quiesce(c->parent, gates);
        }
    }
}

static void node_unquiesce(BlockDriverState *bs);

static void edge_unquiesce(BdrvChild *c)
{
    c->quiesced = false;
    if (c->blk) {
        blk_gate_open(c->blk);
    } else {
        node_unquiesce(c->parent);
    }
}

static void node_unquiesce(BlockDriverState *bs)
{
    guint i;

    g_assert(bs->quiesce > 0);
    if (--bs->quiesce > 0) {
        return;
    }
    for (i = 0; i < bs->parents->len; i++) {
        BdrvChild *c = bs->parents->pdata[i];

        if (c->quiesced) {
            edge_unquiesce(c);
        }
    }
}

static bool wait_for_gates(GPtrArray *gates, int64_t deadline_us)
{
    guint i;

    for (i = 0; i < gates->len; i++) {
        if (!blk_gate_wait(gates->pdata[i], deadline_us)) {
            return false;
        }
    }
    return true;
}

bool bdrv_try_drained_begin(BlockDriverState *bs, int64_t deadline_us)
{
    g_autoptr(GPtrArray) gates = g_ptr_array_new();

    g_assert(bdrv_graph_locked());
    node_quiesce(bs, gates);
    if (!wait_for_gates(gates, deadline_us)) {
        node_unquiesce(bs);
        return false;
    }
    return true;
}

void bdrv_drained_begin(BlockDriverState *bs)
{
    bdrv_try_drained_begin(bs, INT64_MAX);
}

void bdrv_drained_end(BlockDriverState *bs)
{
    g_assert(bdrv_graph_locked());
    node_unquiesce(bs);
}

/* Before @c moves to a quiesced node: nothing of its parent is in flight. */
static void edge_quiesce(BdrvChild *c)
{
    if (c->blk) {
        c->quiesced = true;
        blk_gate_close(c->blk);
        blk_gate_wait(c->blk, INT64_MAX);
    } else {
        g_autoptr(GPtrArray) gates = g_ptr_array_new();

        c->quiesced = true;
        node_quiesce(c->parent, gates);
        wait_for_gates(gates, INT64_MAX);
    }
}

/* ---- transactions ------------------------------------------------------- */

typedef struct GraphChange {
    BdrvChild *child;
    bool moved;
    BlockDriverState *old_bs; /* if moved; the edge's reference is kept */
    uint64_t old_perm, old_shared;
} GraphChange;

struct GraphTran {
    GArray *changes; /* of GraphChange */
    GArray *checked; /* of PermEntry: as they are to be */
};

GraphTran *graph_tran_new(void)
{
    GraphTran *tran = g_new(GraphTran, 1);

    g_assert(bdrv_graph_locked());
    tran->changes = g_array_new(FALSE, FALSE, sizeof(GraphChange));
    tran->checked = g_array_new(FALSE, FALSE, sizeof(PermEntry));
    return tran;
}

static void edge_set_bs(BdrvChild *c, BlockDriverState *bs)
{
    graph_short_wrlock();
    if (c->bs) {
        g_ptr_array_remove(c->bs->parents, c);
    }
    c->bs = bs;
    if (bs) {
        g_ptr_array_add(bs->parents, c);
    }
    graph_short_wrunlock();
}

void graph_tran_move(GraphTran *tran, BdrvChild *child, BlockDriverState *bs)
{
    GraphChange change = { .child = child,
                           .moved = true,
                           .old_bs = child->bs,
                           .old_perm = child->perm,
                           .old_shared = child->shared_perm };

    if (bs) {
        bdrv_ref(bs);
        if (bs->quiesce > 0 && !child->quiesced) {
            edge_quiesce(child);
        }
    }
    edge_set_bs(child, bs);
    g_array_append_val(tran->changes, change);
}

void graph_tran_set_child_perm(GraphTran *tran, BdrvChild *child, uint64_t perm,
                               uint64_t shared)
{
    GraphChange change = { .child = child,
                           .old_perm = child->perm,
                           .old_shared = child->shared_perm };

    child->perm = perm;
    child->shared_perm = shared;
    g_array_append_val(tran->changes, change);
}

/* How many nodes a chain has that ends with @bs, or begins with it */
static guint chain_above(const BlockDriverState *bs)
{
    guint longest = 0;
    guint i;

    for (i = 0; i < bs->parents->len; i++) {
        const BdrvChild *c = bs->parents->pdata[i];

        if (c->parent) {
            /* not inside MAX(), which would ask twice */
            guint length = chain_above(c->parent);

            longest = MAX(longest, length);
        }
    }
    return longest + 1;
}

static guint chain_below(const BlockDriverState *bs)
{
    guint longest = 0;
    guint i;

    for (i = 0; i < bs->children->len; i++) {
        const BdrvChild *c = bs->children->pdata[i];

        if (c->bs) {
            /* not inside MAX(), which would ask twice */
            guint length = chain_below(c->bs);

            longest = MAX(longest, length);
        }
    }
    return longest + 1;
}

static bool check_chains(GraphTran *tran, GError **errp)
{
    guint i;

    for (i = 0; i < tran->changes->len; i++) {
        GraphChange *change = &g_array_index(tran->changes, GraphChange, i);
        const BdrvChild *c = change->child;
        guint length;

        if (!change->moved || !c->bs || !c->parent) {
            continue;
        }
        length = chain_above(c->parent) + chain_below(c->bs);
        if (length > BDRV_MAX_CHAIN) {
            error_setg(errp,
                       "Node '%s' cannot be put on node '%s': this would be a "
                       "chain of %u nodes, %d is the limit",
                       c->parent->node_name, c->bs->node_name, length,
                       BDRV_MAX_CHAIN);
            return false;
        }
    }
    return true;
}

bool graph_tran_check(GraphTran *tran, GPtrArray *nodes, GError **errp)
{
    return check_chains(tran, errp) &&
           bdrv_check_perms(tran, nodes, false, tran->checked, errp);
}

/* Gates that need not be closed any more; then the references not needed. */
static void tran_settle(GraphTran *tran, GPtrArray *unref)
{
    guint i;

    for (i = 0; i < tran->changes->len; i++) {
        BdrvChild *c = g_array_index(tran->changes, GraphChange, i).child;

        if (c->quiesced && (!c->bs || c->bs->quiesce == 0)) {
            edge_unquiesce(c);
        }
    }
    for (i = 0; i < unref->len; i++) {
        bdrv_unref(unref->pdata[i]);
    }
    g_array_unref(tran->changes);
    g_array_unref(tran->checked);
    g_free(tran);
}

void graph_tran_commit(GraphTran *tran)
{
    g_autoptr(GPtrArray) unref = g_ptr_array_new();
    guint i;

    for (i = 0; i < tran->checked->len; i++) {
        PermEntry *e = &g_array_index(tran->checked, PermEntry, i);

        if (e->bs->drv->set_perm) {
            e->bs->drv->set_perm(e->bs, e->perm, e->shared);
        }
        __atomic_store_n(&e->bs->perm, e->perm, __ATOMIC_RELAXED);
        e->bs->shared_perm = e->shared;
    }
    for (i = 0; i < tran->changes->len; i++) {
        GraphChange *change = &g_array_index(tran->changes, GraphChange, i);

        if (change->moved && change->old_bs) {
            g_ptr_array_add(unref, change->old_bs);
        }
    }
    tran_settle(tran, unref);
}

void graph_tran_abort(GraphTran *tran)
{
    g_autoptr(GPtrArray) unref = g_ptr_array_new();
    guint i;

    for (i = tran->checked->len; i-- > 0;) {
        BlockDriverState *bs = g_array_index(tran->checked, PermEntry, i).bs;

        if (bs->drv->abort_perm) {
            bs->drv->abort_perm(bs);
        }
    }
    for (i = tran->changes->len; i-- > 0;) {
        GraphChange *change = &g_array_index(tran->changes, GraphChange, i);
        BdrvChild *c = change->child;

        if (change->moved) {
            if (c->bs) {
                g_ptr_array_add(unref, c->bs);
            }
            edge_set_bs(c, change->old_bs);
        }
        c->perm = change->old_perm;
        c->shared_perm = change->old_shared;
    }
    tran_settle(tran, unref);
}

bool graph_tran_finish(GraphTran *tran, bool ok)
{
    if (ok) {
        graph_tran_commit(tran);
    } else {
        graph_tran_abort(tran);
    }
    return ok;
}

/* ---- children ----------------------------------------------------------- */

void bdrv_child_link(BdrvChild *child)
{
    BlockDriverState *parent = child->parent;

    graph_short_wrlock();
    g_ptr_array_add(parent->children, child);
    if (!strcmp(child->name, "file")) {
        parent->file = child;
    } else if (!strcmp(child->name, "backing")) {
        parent->backing = child;
    }
    graph_short_wrunlock();
}

void bdrv_child_unlink(BdrvChild *child)
{
    graph_short_wrlock();
    g_ptr_array_remove(child->parent->children, child);
    if (child->parent->file == child) {
        child->parent->file = NULL;
    }
    if (child->parent->backing == child) {
        child->parent->backing = NULL;
    }
    graph_short_wrunlock();
    bdrv_child_free(child);
}

static GPtrArray *nodes_array(BlockDriverState *a, BlockDriverState *b)
{
    GPtrArray *nodes = g_ptr_array_new();

    g_ptr_array_add(nodes, a);
    if (b) {
        g_ptr_array_add(nodes, b);
    }
    return nodes;
}

BdrvChild *bdrv_attach_child(BlockDriverState *parent, BlockDriverState *bs,
                             const char *name, GError **errp)
{
    g_autoptr(GPtrArray) nodes = nodes_array(parent, NULL);
    BdrvChild *child = bdrv_child_new(parent, NULL, name, 0, BLK_PERM_ALL);
    GraphTran *tran = graph_tran_new();

    bdrv_child_link(child);
    graph_tran_move(tran, child, bs);
    if (!graph_tran_finish(tran, graph_tran_check(tran, nodes, errp))) {
        bdrv_child_unlink(child);
        return NULL;
    }
    return child;
}

/* Giving something up: that nobody can refuse. */
static void tran_loosen(GraphTran *tran, GPtrArray *nodes)
{
    bool ok = bdrv_check_perms(tran, nodes, true, tran->checked, NULL);

    g_assert(ok);
    graph_tran_commit(tran);
}

void bdrv_child_detach(BdrvChild *child)
{
    BlockDriverState *bs = bdrv_ref(child->bs);
    g_autoptr(GPtrArray) nodes = nodes_array(bs, NULL);
    GraphTran *tran = graph_tran_new();

    graph_tran_move(tran, child, NULL);
    tran_loosen(tran, nodes);
    bdrv_unref(bs);
}

void bdrv_detach_child(BdrvChild *child)
{
    bdrv_child_detach(child);
    bdrv_child_unlink(child);
}

/* ---- changes of the graph ----------------------------------------------- */

bool bdrv_is_at_or_below(BlockDriverState *bs, BlockDriverState *top)
{
    guint i;

    if (bs == top) {
        return true;
    }
    for (i = 0; i < top->children->len; i++) {
        BdrvChild *c = top->children->pdata[i];

        if (c->bs && bdrv_is_at_or_below(bs, c->bs)) {
            return true;
        }
    }
    return false;
}

/* @moved may be NULL, or gets the edges. */
static void move_parents(GraphTran *tran, BlockDriverState *from,
                         BlockDriverState *to, bool jobs_too, GPtrArray *moved)
{
    g_autoptr(GPtrArray) parents = g_ptr_array_copy(from->parents, NULL, NULL);
    guint i;

    for (i = 0; i < parents->len; i++) {
        BdrvChild *c = parents->pdata[i];

        if ((c->blk && blk_is_job(c->blk) && !jobs_too) ||
            (c->parent && bdrv_is_at_or_below(c->parent, to))) {
            continue;
        }
        graph_tran_move(tran, c, to);
        if (moved) {
            g_ptr_array_add(moved, c);
        }
    }
}

/* @top gets between @bs and its parents, and has it as the child @name. */
static bool put_on(BlockDriverState *top, BlockDriverState *bs,
                   const char *name, GPtrArray *moved, GError **errp)
{
    g_autoptr(GPtrArray) nodes = nodes_array(top, bs);
    GraphTran *tran = graph_tran_new();
    BdrvChild *child;
    bool ok;

    child = bdrv_child_new(top, NULL, name, 0, BLK_PERM_ALL);
    bdrv_drained_begin(bs);
    bdrv_child_link(child);
    graph_tran_move(tran, child, bs);
    move_parents(tran, bs, top, false, moved);
    ok = graph_tran_finish(tran, graph_tran_check(tran, nodes, errp));
    if (!ok) {
        bdrv_child_unlink(child);
    }
    bdrv_drained_end(bs);
    return ok;
}

bool bdrv_insert_filter(BlockDriverState *filter, BlockDriverState *bs,
                        GError **errp)
{
    g_assert(!filter->file);
    return put_on(filter, bs, "file", NULL, errp);
}

bool bdrv_put_overlay(BlockDriverState *overlay, BlockDriverState *bs,
                      GPtrArray *moved, GError **errp)
{
    g_assert(!overlay->backing);
    return put_on(overlay, bs, "backing", moved, errp);
}

void bdrv_take_overlay_off(BlockDriverState *overlay, GPtrArray *moved)
{
    BdrvChild *child = overlay->backing;
    BlockDriverState *bs = child->bs;
    g_autoptr(GPtrArray) nodes = nodes_array(overlay, bs);
    GraphTran *tran = graph_tran_new();
    guint i;

    g_assert(bs->quiesce > 0);
    for (i = 0; i < moved->len; i++) {
        graph_tran_move(tran, moved->pdata[i], bs);
    }
    graph_tran_move(tran, child, NULL);
    tran_loosen(tran, nodes);
    bdrv_child_unlink(child);
}

void bdrv_keep_perms(BlockDriverState *bs)
{
    g_assert(!bs->kept_perm && !bs->kept_unshared);
    bs->kept_perm = bs->perm;
    bs->kept_unshared = BLK_PERM_ALL & ~bs->shared_perm;
}

void bdrv_drop_kept_perms(BlockDriverState *bs)
{
    g_autoptr(GPtrArray) nodes = nodes_array(bs, NULL);

    bs->kept_perm = bs->kept_unshared = 0;
    tran_loosen(graph_tran_new(), nodes);
}

bool bdrv_remove_filter(BlockDriverState *filter, GError **errp)
{
    BdrvChild *child = filter->file;
    BlockDriverState *bs = bdrv_ref(child->bs);
    g_autoptr(GPtrArray) nodes = nodes_array(filter, bs);
    GraphTran *tran = graph_tran_new();
    bool ok;

    bdrv_ref(filter);
    /* Users of @bs itself go on: nothing changes for them. */
    bdrv_drained_begin(filter);
    move_parents(tran, filter, bs, true, NULL);
    graph_tran_move(tran, child, NULL);
    ok = graph_tran_finish(tran, graph_tran_check(tran, nodes, errp));
    if (ok) {
        bdrv_child_unlink(child);
    }
    bdrv_drained_end(filter);
    bdrv_unref(filter);
    bdrv_unref(bs);
    return ok;
}

bool bdrv_replace_node(BlockDriverState *from, BlockDriverState *to,
                       GError **errp)
{
    g_autoptr(GPtrArray) nodes = nodes_array(from, to);
    GraphTran *tran = graph_tran_new();

    g_assert(from->quiesce > 0);
    move_parents(tran, from, to, false, NULL);
    return graph_tran_finish(tran, graph_tran_check(tran, nodes, errp));
}
