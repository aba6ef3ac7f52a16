/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * blockdev-reopen: nodes get other options without being closed.
 *
 * 1. What is asked for is looked at: which nodes, and that only such options
 *    change as can be. Nodes that were made inline by a node that is reopened are
 *    reopened with it: they go on taking from it what was not given for them.
 * 2. All these nodes are drained, and so are those above them; targets of jobs
 *    last. Guests wait, but a request that hangs does not hold up management for
 *    good.
 * 3. The drivers prepare: what can fail is done, in addition to what is there.
 * 4. The common options are set, edges are moved, and the permissions of all are
 *    asked for, as things are to be.
 * 5. All drivers commit and then hear of the permissions; or all that was done is
 *    undone in reverse order.
 *
 * A node keeps its driver, and what its image is: another file is another node.
 */
#include <errno.h>
#include <string.h>

#include "block/graph-int.h"
#include "util/error.h"
#include "util/json-copy.h"

/* A request that hangs shall not hold up the management thread for good. */
int64_t bdrv_reopen_drain_us = 10 * G_USEC_PER_SEC;

/* A child that is to be another one, or one more or less ("backing") */
typedef struct ChildChange {
    bool wanted;
    BlockDriverState *new_bs; /* referenced; NULL: none */
    BlockDriverState *old_bs; /* the transaction has a reference; or NULL */
    BdrvChild *child;         /* of which it is a change, once that is made */
} ChildChange;

typedef struct Entry {
    BdrvReopen r;
    ChildChange file, backing;
    JsonObject *given_options; /* of an inline child from now on */
    NodeOptions old;
    bool drained, prepared, set;
} Entry;

static void entry_free(gpointer opaque)
{
    Entry *e = opaque;

    if (e->file.new_bs) {
        bdrv_unref(e->file.new_bs);
    }
    if (e->backing.new_bs) {
        bdrv_unref(e->backing.new_bs);
    }
    bdrv_unref(e->r.bs);
    json_object_unref(e->r.options);
    g_clear_pointer(&e->given_options, json_object_unref);
    g_free(e);
}

static Entry *find_entry(GPtrArray *entries, const BlockDriverState *bs)
{
    guint i;

    for (i = 0; i < entries->len; i++) {
        Entry *e = entries->pdata[i];

        if (e->r.bs == bs) {
            return e;
        }
    }
    return NULL;
}

/* ---- what is asked for -------------------------------------------------- */

static bool is_common(const char *name)
{
    static const char *const common[] = {
        "node-name", "read-only", "auto-read-only", "discard", "detect-zeroes",
        "cache",     NULL
    };

    return g_strv_contains(common, name);
}

static bool may_change(const BlockDriver *drv, const char *name)
{
    return is_common(name) || !strcmp(name, "file") ||
           (drv->supports_backing && !strcmp(name, "backing")) ||
           g_strv_contains(drv->reopen_options, name);
}

/* Is what is given for @name now what was given before? */
static bool is_as_before(const BdrvReopen *r, const char *name)
{
    JsonNode *before = json_object_get_member(r->bs->options, name);

    return before &&
           json_node_equal(before, json_object_get_member(r->options, name));
}

/* All but what may change is to be as it was. */
static bool check_unchanged(const BdrvReopen *r, GError **errp)
{
    g_autoptr(GList) before = json_object_get_members(r->bs->options);
    g_autoptr(GList) after = json_object_get_members(r->options);
    GList *l;

    for (l = after; l; l = l->next) {
        if (!may_change(r->bs->drv, l->data) && !is_as_before(r, l->data)) {
            error_setg(errp, "Cannot change the option '%s' of node '%s'",
                       (char *)l->data, r->bs->node_name);
            return false;
        }
    }
    for (l = before; l; l = l->next) {
        if (!may_change(r->bs->drv, l->data) &&
            !schema_has(r->options, l->data)) {
            error_setg(errp,
                       "Option '%s' of node '%s' cannot be reset to its "
                       "default value",
                       (char *)l->data, r->bs->node_name);
            return false;
        }
    }
    return true;
}

static bool add_entry(GPtrArray *entries, BlockDriverState *bs,
                      JsonObject *options, JsonObject *given, GError **errp)
{
    Entry *e = g_new0(Entry, 1);

    e->r.bs = bdrv_ref(bs);
    e->r.options = json_object_deep_copy(options);
    e->given_options = given ? json_object_deep_copy(given) : NULL;
    e->old = bdrv_get_node_options(bs);
    g_ptr_array_add(entries, e);
    if (!bs->drv->reopen_options) {
        error_setg(errp,
                   "Block format '%s' used by node '%s' does not support "
                   "reopening files",
                   bs->drv->format_name, bs->node_name);
        return false;
    }
    return check_unchanged(&e->r, errp) &&
           node_parse_options(&e->r.common, options, errp);
}

static bool add_named(GPtrArray *entries, JsonObject *options, GError **errp)
{
    const char *name = schema_get_str(options, "node-name", NULL);
    BlockDriverState *bs;
    bool ok = false;

    if (!name) {
        error_setg(errp, "node-name not specified");
        return false;
    }
    bs = bdrv_find_node(name, NULL);
    if (!bs) {
        error_setg(errp, "Failed to find node with node-name='%s'", name);
        return false;
    }
    if (find_entry(entries, bs)) {
        error_setg(errp, "Node '%s' is mentioned twice", name);
    } else {
        ok =
            add_entry(entries, bs, options, bs->made_by ? options : NULL, errp);
    }
    bdrv_unref(bs);
    return ok;
}

/* ---- the children ------------------------------------------------------- */

BlockDriverState *bdrv_visible_child(const BdrvChild *c)
{
    BlockDriverState *bs = c->bs;

    /* Jobs' filters go unnoticed, not those that blockdev-add made. */
    while (!bs->monitor_owned && !bs->made_by && !bs->drv->reopen_options &&
           bs->drv->kind == BLOCK_DRIVER_FILTER && bs->file) {
        bs = bs->file->bs;
    }
    return bs;
}

int bdrv_reopen_check_contents(BlockDriverState *bs, const char *what,
                               GError **errp)
{
    const BdrvChild *job = bdrv_find_job(bs);
    g_autofree char *user = NULL;

    if (!job) {
        return 0;
    }
    user = bdrv_child_user(job);
    error_setg(errp, "Cannot change the %s of node '%s': %s uses it", what,
               bs->node_name, user);
    return -EBUSY;
}

static bool check_cycle(BlockDriverState *bs, BlockDriverState *new_bs,
                        const char *child, GError **errp)
{
    if (new_bs && bdrv_is_at_or_below(bs, new_bs)) {
        error_setg(errp, "Making '%s' a %s child of '%s' would create a cycle",
                   new_bs->node_name, child, bs->node_name);
        return false;
    }
    return true;
}

/* The child @child (@c, or NULL if there is none) is to be the node @name, or
 * NULL. */
static bool set_new_child(Entry *e, ChildChange *change, const BdrvChild *c,
                          const char *child, const char *name, GError **errp)
{
    BlockDriverState *bs = e->r.bs;
    g_autofree char *what = g_strdup_printf("child '%s'", child);

    if (name) {
        change->new_bs = bdrv_find_node(name, NULL);
        if (!change->new_bs) {
            error_setg(errp, "Cannot find device='' nor node-name='%s'", name);
            return false;
        }
    }
    if (c && bdrv_visible_child(c) != c->bs) {
        error_setg(errp, "Cannot replace implicit '%s' child of node '%s'",
                   child, bs->node_name);
        return false;
    }
    change->wanted = true;
    change->old_bs = c ? c->bs : NULL;
    return check_cycle(bs, change->new_bs, child, errp) &&
           bdrv_reopen_check_contents(bs, what, errp) == 0;
}

/* The same child goes on; one that is inline, with what its parent has now. */
static bool keep_child(GPtrArray *entries, Entry *e, const BdrvChild *c,
                       JsonObject *given, GError **errp)
{
    BlockDriverState *child = bdrv_visible_child(c);
    g_autoptr(JsonObject) options = NULL;

    if (child->made_by != e->r.bs || find_entry(entries, child)) {
        return true;
    }
    options = node_child_options(e->r.options, c->name,
                                 given ? given : child->given_options);
    if (!given && child->drv->supports_backing) {
        /* Nothing was said of it: it may be in a header. */
        bdrv_set_child_name(options, "backing", child->backing);
    }
    return add_entry(entries, child, options, given, errp);
}

/* An inline child may be told by its options as well; no name is its old one. */
static bool is_the_inline_child(Entry *e, const BdrvChild *c, JsonObject *given)
{
    const char *name = schema_get_str(given, "node-name", NULL);
    BlockDriverState *child = c ? bdrv_visible_child(c) : NULL;

    return child && child->made_by == e->r.bs &&
           (!name || !strcmp(name, child->node_name));
}

/* @node: what is given for the child @name, which is @c now, or NULL: no name */
static bool add_child(GPtrArray *entries, Entry *e, ChildChange *change,
                      const BdrvChild *c, const char *name, JsonNode *node,
                      GError **errp)
{
    const char *node_name = NULL;

    if (JSON_NODE_HOLDS_OBJECT(node)) {
        JsonObject *given = json_node_get_object(node);

        if (!is_the_inline_child(e, c, given)) {
            error_setg(errp, "Cannot change the option '%s.driver'", name);
            return false;
        }
        return keep_child(entries, e, c, given, errp);
    }
    if (!JSON_NODE_HOLDS_NULL(node)) {
        node_name = json_node_get_string(node);
    }
    if (g_strcmp0(node_name, c ? bdrv_visible_child(c)->node_name : NULL)) {
        return set_new_child(e, change, c, name, node_name, errp);
    }
    return !c || keep_child(entries, e, c, NULL, errp);
}

static bool add_children(GPtrArray *entries, Entry *e, GError **errp)
{
    BlockDriverState *bs = e->r.bs;
    JsonNode *backing = json_object_get_member(e->r.options, "backing");

    if (bs->file) {
        if (!add_child(entries, e, &e->file, bs->file, "file",
                       json_object_get_member(e->r.options, "file"), errp)) {
            return false;
        }
        e->r.file = e->file.wanted ? e->file.new_bs : bs->file->bs;
    }
    if (!bs->drv->supports_backing) {
        return true;
    }
    if (!backing) {
        if (bs->backing || bs->names_backing) {
            error_setg(errp, "backing is missing for '%s'", bs->node_name);
            return false;
        }
        return true;
    }
    return add_child(entries, e, &e->backing, bs->backing, "backing", backing,
                     errp);
}

static bool gather(GPtrArray *entries, JsonArray *options, GError **errp)
{
    guint i;

    for (i = 0; i < json_array_get_length(options); i++) {
        if (!add_named(entries, json_array_get_object_element(options, i),
                       errp)) {
            return false;
        }
    }
    for (i = 0; i < entries->len; i++) {
        if (!add_children(entries, entries->pdata[i], errp)) {
            return false;
        }
    }
    return true;
}

/* ---- the transaction ---------------------------------------------------- */

/* What was written while it could be written is to be on the disk. */
static bool flush(Entry *e, GError **errp)
{
    int ret;

    if (e->old.read_only || !e->r.common.read_only) {
        return true;
    }
    ret = bdrv_flush(e->r.bs);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not flush node '%s'",
                         e->r.bs->node_name);
    }
    return ret == 0;
}

/* Does a job write to @bs, or to what stands on it? */
static bool is_written_by_job(const BlockDriverState *bs)
{
    guint i;

    for (i = 0; i < bs->parents->len; i++) {
        const BdrvChild *c = bs->parents->pdata[i];

        if (c->parent ? is_written_by_job(c->parent)
                      : blk_is_job(c->blk) && (c->perm & BLK_PERM_WRITE)) {
            return true;
        }
    }
    return false;
}

/* Those that jobs write to, or the others */
static bool drain_some(GPtrArray *entries, bool written_by_job,
                       int64_t deadline_us, GError **errp)
{
    guint i;

    for (i = 0; i < entries->len; i++) {
        Entry *e = entries->pdata[i];

        if (is_written_by_job(e->r.bs) != written_by_job) {
            continue;
        }
        if (!bdrv_try_drained_begin(e->r.bs, deadline_us)) {
            error_setg(errp, "Node '%s' is busy: a request does not end",
                       e->r.bs->node_name);
            return false;
        }
        e->drained = true;
    }
    return true;
}

/*
 * What jobs write to comes last. Where a mirror copies before guests are told
 * that they have written, their requests are in both disks, in the target within
 * the source: with the target's gate closed none would leave the source.
 */
static bool drain(GPtrArray *entries, GError **errp)
{
    int64_t deadline_us = g_get_monotonic_time() + bdrv_reopen_drain_us;

    return drain_some(entries, false, deadline_us, errp) &&
           drain_some(entries, true, deadline_us, errp);
}

static bool prepare(GPtrArray *entries, GError **errp)
{
    guint i;

    for (i = 0; i < entries->len; i++) {
        Entry *e = entries->pdata[i];
        const BlockDriver *drv = e->r.bs->drv;

        if (!flush(e, errp) ||
            (drv->reopen_prepare && drv->reopen_prepare(&e->r, errp) < 0)) {
            return false;
        }
        e->prepared = true;
    }
    return true;
}

void bdrv_change_begin(void)
{
    g_assert(bdrv_graph_locked());
    graph_short_wrlock();
}

void bdrv_change_end(void)
{
    graph_short_wrunlock();
}

static void set_options(BlockDriverState *bs, const NodeOptions *o)
{
    bdrv_change_begin();
    node_set_options(bs, o);
    bdrv_change_end();
}

static bool move_child(GraphTran *tran, GPtrArray *nodes, Entry *e,
                       ChildChange *change, BdrvChild *child, const char *name,
                       GError **errp)
{
    if (!change->wanted) {
        return true;
    }
    /* One entry may have put it below what another puts it on. */
    if (!check_cycle(e->r.bs, change->new_bs, name, errp)) {
        return false;
    }
    if (change->old_bs) {
        g_ptr_array_add(nodes, change->old_bs);
    }
    if (!child) {
        child = bdrv_child_new(e->r.bs, NULL, name, 0, BLK_PERM_ALL);
        bdrv_child_link(child);
    }
    change->child = child;
    graph_tran_move(tran, child, change->new_bs);
    return true;
}

/* As it is to be, so that permissions can be asked for */
static bool change(GPtrArray *entries, GraphTran *tran, GError **errp)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    guint i;

    for (i = 0; i < entries->len; i++) {
        Entry *e = entries->pdata[i];
        BlockDriverState *bs = e->r.bs;

        set_options(bs, &e->r.common);
        bs->reopening = e->set = true;
        g_ptr_array_add(nodes, bs);
        if (!move_child(tran, nodes, e, &e->file, bs->file, "file", errp) ||
            !move_child(tran, nodes, e, &e->backing, bs->backing, "backing",
                        errp)) {
            return false;
        }
    }
    return graph_tran_check(tran, nodes, errp);
}

static void replace_object(JsonObject **old, JsonObject **new)
{
    JsonObject *tmp = *old;

    *old = *new;
    *new = tmp;
}

static void forget_old_child(BlockDriverState *bs, ChildChange *change)
{
    if (change->wanted && change->old_bs && change->old_bs->made_by == bs) {
        change->old_bs->made_by = NULL;
    }
}

static void commit(GPtrArray *entries)
{
    guint i;

    for (i = 0; i < entries->len; i++) {
        Entry *e = entries->pdata[i];
        BlockDriverState *bs = e->r.bs;

        if (bs->drv->reopen_commit) {
            bs->drv->reopen_commit(&e->r);
        }
        bdrv_change_begin();
        bdrv_need_range_lock(bs);
        replace_object(&bs->options, &e->r.options);
        bdrv_change_end();
        forget_old_child(bs, &e->file);
        forget_old_child(bs, &e->backing);
        if (e->given_options) {
            replace_object(&bs->given_options, &e->given_options);
        }
    }
}

static void undo(GPtrArray *entries)
{
    guint i;

    for (i = entries->len; i-- > 0;) {
        Entry *e = entries->pdata[i];

        if (e->set) {
            set_options(e->r.bs, &e->old);
        }
        if (e->prepared && e->r.bs->drv->reopen_abort) {
            e->r.bs->drv->reopen_abort(&e->r);
        }
    }
}

/* The transaction is over: a link that leads nowhere is none. */
static void unlink_child(ChildChange *change)
{
    if (change->child && !change->child->bs) {
        bdrv_child_unlink(change->child);
    }
}

static bool reopen_drained(GPtrArray *entries, GError **errp)
{
    GraphTran *tran;
    bool ok;
    guint i;

    if (!prepare(entries, errp)) {
        undo(entries);
        return false;
    }
    tran = graph_tran_new();
    ok = change(entries, tran, errp);
    if (ok) {
        commit(entries);
    }
    graph_tran_finish(tran, ok);
    if (!ok) {
        undo(entries);
    }
    for (i = 0; i < entries->len; i++) {
        Entry *e = entries->pdata[i];

        e->r.bs->reopening = false;
        unlink_child(&e->file);
        unlink_child(&e->backing);
    }
    for (i = 0; ok && i < entries->len; i++) {
        BlockDriverState *bs = ((Entry *)entries->pdata[i])->r.bs;

        if (bs->drv->reopen_done) {
            bs->drv->reopen_done(bs);
        }
    }
    return ok;
}

bool bdrv_reopen(JsonArray *options, GError **errp)
{
    g_autoptr(GPtrArray) entries = g_ptr_array_new_with_free_func(entry_free);
    bool ok;
    guint i;

    g_assert(bdrv_graph_locked());
    ok = gather(entries, options, errp) && drain(entries, errp) &&
         reopen_drained(entries, errp);
    for (i = entries->len; i-- > 0;) {
        Entry *e = entries->pdata[i];

        if (e->drained) {
            bdrv_drained_end(e->r.bs);
        }
    }
    return ok;
}
