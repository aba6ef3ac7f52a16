/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Nodes: how they come and go, and who keeps them */
#include "block/graph-int.h"

#include "block/dirty-bitmap.h"
#include "block/range-lock.h"
#include "util/error.h"
#include "util/json-copy.h"
#include "util/limits.h"

static unsigned generated_names; /* graph mutex */
static void (*queue_management)(void (*func)(void *opaque), void *opaque);

/* ---- creation and end --------------------------------------------------- */

/* Enters a node that cannot be found yet. NULL @node_name: a generated one */
static BlockDriverState *node_new(const BlockDriver *drv, const char *node_name,
                                  GError **errp)
{
    BlockDriverState *bs;

    g_assert(bdrv_graph_locked());
    if ((node_name && !node_check_name(node_name, errp)) ||
        !limit_allows(node_list_count(), limits.nodes, "nodes", errp)) {
        return NULL;
    }
    bs = g_new0(BlockDriverState, 1);
    bs->drv = drv;
    bs->refcnt = 1;
    bs->opaque = drv->instance_size ? g_malloc0(drv->instance_size) : NULL;
    bs->node_name = node_name
                        ? g_strdup(node_name)
                        : g_strdup_printf("#block%03u", generated_names++);
    bs->children = g_ptr_array_new();
    bs->parents = g_ptr_array_new();
    bs->shared_perm = BLK_PERM_ALL;
    mutex_init(&bs->dirty_lock);

    graph_short_wrlock();
    node_list_add(bs);
    graph_short_wrunlock();
    return bs;
}

/* Nobody can find the node any more. */
static void node_free(BlockDriverState *bs)
{
    while (bs->children->len > 0) {
        BdrvChild *c = bs->children->pdata[bs->children->len - 1];

        if (c->bs->made_by == bs) {
            c->bs->made_by = NULL;
        }
        bdrv_detach_child(c);
    }
    g_assert(bs->parents->len == 0);
    bdrv_release_named_dirty_bitmaps(bs);
    g_assert(bs->n_dirty_bitmaps == 0);
    g_ptr_array_unref(bs->children);
    g_ptr_array_unref(bs->parents);
    g_clear_pointer(&bs->dirty_bitmaps, g_ptr_array_unref);
    mutex_destroy(&bs->dirty_lock);
    range_lock_free(bs->range_lock);
    g_clear_pointer(&bs->options, json_object_unref);
    g_clear_pointer(&bs->given_options, json_object_unref);
    g_free(bs->opaque);
    g_free(bs->node_name);
    g_free(bs);
}

static void node_close(BlockDriverState *bs)
{
    int ret;

    g_assert(bdrv_graph_locked());
    ret = bdrv_is_read_only(bs) ? 0 : bdrv_flush(bs);
    if (ret < 0) {
        g_warning("Could not flush node '%s' before it was closed: %s",
                  bs->node_name, g_strerror(-ret));
    }
    if (bs->drv->close) {
        bs->drv->close(bs);
    }
    node_free(bs);
}

/* Opened children and all that open did go with @bs. */
static void node_abandon(BlockDriverState *bs)
{
    graph_short_wrlock();
    node_list_remove(bs);
    graph_short_wrunlock();
    node_free(bs);
}

static bool valid_alignment(uint32_t align)
{
    return (align & (align - 1)) == 0 && align <= BDRV_REQUEST_MAX_BYTES;
}

void bdrv_need_range_lock(BlockDriverState *bs)
{
    if (bs->limits.request_alignment > 1 && !bs->range_lock) {
        bs->range_lock = range_lock_new();
    }
}

static void node_set_ready(BlockDriverState *bs, bool monitor_owned)
{
    const BlockLimits *l = &bs->limits;

    g_assert(valid_alignment(l->request_alignment) &&
             valid_alignment(l->opt_alignment) &&
             valid_alignment(l->mem_alignment) &&
             valid_alignment(l->pwrite_zeroes_alignment) &&
             valid_alignment(l->pdiscard_alignment));
    graph_short_wrlock();
    bdrv_need_range_lock(bs);
    bs->monitor_owned = monitor_owned;
    bs->ready = true;
    graph_short_wrunlock();
}

/* A reference for the caller; @monitor: which is the monitor's */
static BlockDriverState *open_node(JsonObject *options, bool monitor,
                                   bool to_check, GError **errp)
{
    const char *driver = schema_get_str(options, "driver", NULL);
    const char *node_name = schema_get_str(options, "node-name", NULL);
    const BlockDriver *drv = bdrv_find_driver(driver);
    g_autoptr(GError) err = NULL;
    NodeOptions common;
    BlockDriverState *bs;
    int ret;

    if (!drv) {
        error_setg(errp, "Parameter 'driver' does not accept value '%s'",
                   driver);
        return NULL;
    }
    bs = node_new(drv, node_name, errp);
    if (!bs) {
        return NULL;
    }
    if (!node_parse_options(&common, options, errp)) {
        node_abandon(bs);
        return NULL;
    }
    node_set_options(bs, &common);
    bs->to_check = to_check;
    bs->options = json_object_deep_copy(options);
    ret = drv->open(bs, options, &err);
    if (ret < 0) {
        if (!err) {
            error_setg_errno(&err, -ret, "Could not open node '%s'",
                             bs->node_name);
        }
        g_propagate_error(errp, g_steal_pointer(&err));
        node_abandon(bs);
        return NULL;
    }
    if (drv->getlength && drv->getlength(bs) > BDRV_MAX_LENGTH) {
        error_setg(errp,
                   "Node '%s' is too large: %" G_GINT64_FORMAT
                   " bytes, at most %" G_GINT64_FORMAT,
                   bs->node_name, drv->getlength(bs), BDRV_MAX_LENGTH);
        if (drv->close) {
            drv->close(bs);
        }
        node_abandon(bs);
        return NULL;
    }
    node_set_ready(bs, monitor);
    return bs;
}

static BlockDriverState *open_root(JsonObject *options, bool to_check,
                                   GError **errp)
{
    if (!schema_has(options, "node-name")) {
        error_setg(errp, "'node-name' must be specified for the root node");
        return NULL;
    }
    return open_node(options, true, to_check, errp);
}

BlockDriverState *bdrv_open(JsonObject *options, GError **errp)
{
    return open_root(options, false, errp);
}

BlockDriverState *bdrv_open_to_check(JsonObject *options, GError **errp)
{
    return open_root(options, true, errp);
}

BlockDriverState *bdrv_new_internal(const BlockDriver *drv,
                                    const char *node_name, GError **errp)
{
    BlockDriverState *bs = node_new(drv, node_name, errp);

    if (!bs) {
        return NULL;
    }
    bs->options = json_object_new();
    bs->discard_unmap = true;
    if (drv->open && drv->open(bs, bs->options, errp) < 0) {
        node_abandon(bs);
        return NULL;
    }
    node_set_ready(bs, false);
    return bs;
}

/* ---- children ----------------------------------------------------------- */

BdrvChild *bdrv_open_child(BlockDriverState *bs, JsonObject *options,
                           const char *name, GError **errp)
{
    JsonNode *node = json_object_get_member(options, name);
    BlockDriverState *child_bs;
    BdrvChild *child;

    if (!node || JSON_NODE_HOLDS_NULL(node)) {
        error_setg(errp, "A block device must be specified for \"%s\"", name);
        return NULL;
    }
    if (JSON_NODE_HOLDS_OBJECT(node)) {
        g_autoptr(JsonObject) inline_options =
            node_child_options(options, name, json_node_get_object(node));

        child_bs = open_node(inline_options, false, false, errp);
        if (child_bs) {
            child_bs->made_by = bs;
            child_bs->given_options =
                json_object_deep_copy(json_node_get_object(node));
        }
    } else {
        child_bs = bdrv_find_node(json_node_get_string(node), errp);
    }
    if (!child_bs) {
        return NULL;
    }
    child = bdrv_attach_child(bs, child_bs, name, errp);
    bdrv_unref(child_bs);
    return child;
}

/* ---- references --------------------------------------------------------- */

BlockDriverState *bdrv_ref(BlockDriverState *bs)
{
    g_atomic_int_inc(&bs->refcnt);
    return bs;
}

/* Those who wait until others drop references are woken by each that goes. */
static Mutex unref_lock = MUTEX_INIT;
static Cond unref_cond;   /* made by the first who waits */
static int unref_waiters; /* atomic */

static bool unref_unless_last(BlockDriverState *bs)
{
    int refcnt = g_atomic_int_get(&bs->refcnt);

    while (refcnt > 1) {
        if (g_atomic_int_compare_and_exchange(&bs->refcnt, refcnt,
                                              refcnt - 1)) {
            if (g_atomic_int_get(&unref_waiters) > 0) {
                mutex_lock(&unref_lock);
                cond_broadcast(&unref_cond);
                mutex_unlock(&unref_lock);
            }
            return true;
        }
        refcnt = g_atomic_int_get(&bs->refcnt);
    }
    return false;
}

void bdrv_unref(BlockDriverState *bs)
{
    bool last;

    if (unref_unless_last(bs)) {
        return;
    }
    /* Those who find the node by name take their reference under the lock. */
    graph_short_wrlock();
    last = g_atomic_int_dec_and_test(&bs->refcnt);
    if (last) {
        node_list_remove(bs);
    }
    graph_short_wrunlock();
    if (last) {
        node_close(bs);
    }
}

static void unref_now(void *opaque)
{
    bdrv_unref(opaque);
}

void bdrv_unref_later(BlockDriverState *bs)
{
    if (unref_unless_last(bs)) {
        return;
    }
    if (queue_management) {
        queue_management(unref_now, bs);
    } else if (bdrv_graph_locked()) {
        bdrv_unref(bs);
    } else {
        bdrv_graph_lock();
        bdrv_unref(bs);
        bdrv_graph_unlock();
    }
}

void bdrv_set_management_queue(void (*queue)(void (*func)(void *opaque),
                                             void *opaque))
{
    queue_management = queue;
}

/* ---- the monitor's references ------------------------------------------- */

static void drop_monitor_reference(BlockDriverState *bs)
{
    graph_short_wrlock();
    bs->monitor_owned = false;
    graph_short_wrunlock();
    bdrv_unref(bs);
}

/* How long a query may keep a node that is deleted */
#define SETTLE_US (5 * G_USEC_PER_SEC)

/*
 * @bs is going to be closed: nobody finds it any more, and whoever has found it
 * before, a query in the main thread, is waited for: when the monitor's client
 * is told that the node is gone, its file and its children shall be free. With
 * @refs references only the caller's are left. Graph mutex held, which nobody
 * may wait for with a reference in hand that keeps a node from its parents.
 */
static void node_settle(BlockDriverState *bs, int refs)
{
    int64_t deadline = g_get_monotonic_time() + SETTLE_US;
    static bool have_cond;
    guint i;

    if (!have_cond) {
        cond_init(&unref_cond);
        have_cond = true;
    }
    graph_short_wrlock();
    bs->ready = false;
    graph_short_wrunlock();

    g_atomic_int_inc(&unref_waiters);
    mutex_lock(&unref_lock);
    while (g_atomic_int_get(&bs->refcnt) > refs &&
           cond_wait_until(&unref_cond, &unref_lock, deadline)) {
    }
    mutex_unlock(&unref_lock);
    g_atomic_int_add(&unref_waiters, -1);

    for (i = 0; i < bs->children->len; i++) {
        BlockDriverState *child = ((BdrvChild *)bs->children->pdata[i])->bs;

        if (!child->monitor_owned && child->parents->len == 1) {
            node_settle(child, 1);
        }
    }
}

/* Is a bitmap of @bs busy, or of one of the nodes that are closed with it? */
static bool bitmaps_in_use(BlockDriverState *bs, GError **errp)
{
    guint i;

    if (!bdrv_check_all_bitmaps(bs, BDRV_BITMAP_BUSY, errp)) {
        return true;
    }
    for (i = 0; i < bs->children->len; i++) {
        BlockDriverState *child = ((BdrvChild *)bs->children->pdata[i])->bs;

        if (!child->monitor_owned && child->parents->len == 1 &&
            bitmaps_in_use(child, errp)) {
            return true;
        }
    }
    return false;
}

bool bdrv_monitor_del(const char *node_name, GError **errp)
{
    BlockDriverState *bs = bdrv_find_node(node_name, NULL);
    const BlockDriverState *above;
    bool ok = false;

    g_assert(bdrv_graph_locked());
    if (!bs) {
        error_setg(errp, "Failed to find node with node-name='%s'", node_name);
        return false;
    }
    above = bdrv_find_overlay(bs);
    if (above) {
        error_setg(errp,
                   "Node '%s' is busy: node is used as backing hd of '%s'",
                   node_name, above->node_name);
    } else if (!bs->monitor_owned) {
        error_setg(errp, "Node %s is not owned by the monitor", node_name);
    } else if (bs->parents->len > 0) {
        g_autofree char *user = bdrv_child_user(bs->parents->pdata[0]);

        error_setg(errp, "Node %s is in use by %s", node_name, user);
    } else if (!bitmaps_in_use(bs, errp)) {
        node_settle(bs, 2); /* the monitor's and ours */
        drop_monitor_reference(bs);
        ok = true;
    }
    bdrv_unref(bs);
    return ok;
}

void bdrv_close_all(void)
{
    g_autoptr(GPtrArray) nodes = NULL;
    guint i;

    bdrv_graph_lock();
    /* Users first: nodes that are used by later ones close with those. */
    nodes = bdrv_all_nodes();
    for (i = nodes->len; i-- > 0;) {
        BlockDriverState *bs = nodes->pdata[i];

        if (bs->monitor_owned) {
            drop_monitor_reference(bs);
        }
        bdrv_unref(bs);
    }
    node_list_warn();
    bdrv_graph_unlock();
}
