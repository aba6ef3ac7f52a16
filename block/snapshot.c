/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blockdev-snapshot: what is there stays as it is, below a new overlay. */
#include <errno.h>

#include "block/graph-int.h"
#include "util/error.h"

/* Those who have @bs as a backing file rely on its contents. */
static bool check_not_backing(BlockDriverState *bs, GError **errp)
{
    const BlockDriverState *above = bdrv_find_overlay(bs);

    if (above) {
        error_setg(errp,
                   "Node '%s' is busy: node is used as backing hd of '%s'",
                   bs->node_name, above->node_name);
    }
    return !above;
}

static bool check_no_job(BlockDriverState *bs, GError **errp)
{
    const BdrvChild *job = bdrv_find_job(bs);
    g_autofree char *user = NULL;

    if (job) {
        user = bdrv_child_user(job);
        error_setg(errp, "Node '%s' is busy: block device is in use by %s",
                   bs->node_name, user);
    }
    return !job;
}

/* Does anybody use @bs, or what stands on it? */
static bool is_used(const BlockDriverState *bs)
{
    guint i;

    for (i = 0; i < bs->parents->len; i++) {
        const BdrvChild *c = bs->parents->pdata[i];

        if (c->blk || is_used(c->parent)) {
            return true;
        }
    }
    return false;
}

static bool check_overlay(BlockDriverState *bs, BlockDriverState *overlay,
                          GError **errp)
{
    if (is_used(overlay)) {
        error_setg(errp, "The overlay is already in use");
        return false;
    }
    if (overlay->backing) {
        error_setg(errp, "The overlay already has a backing image");
        return false;
    }
    if (!overlay->drv->supports_backing) {
        error_setg(errp, "The overlay does not support backing images");
        return false;
    }
    if (bdrv_is_at_or_below(overlay, bs) || bdrv_is_at_or_below(bs, overlay)) {
        error_setg(errp,
                   "Making '%s' a backing child of '%s' would create a cycle",
                   bs->node_name, overlay->node_name);
        return false;
    }
    return check_not_backing(overlay, errp);
}

/* What was written to @bs is nobody's to flush afterwards. */
static bool flush(BlockDriverState *bs, GError **errp)
{
    int ret = bdrv_is_read_only(bs) ? 0 : bdrv_flush(bs);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not flush node '%s'",
                         bs->node_name);
    }
    return ret == 0;
}

/* It was made inline by a node that has the overlay now. */
static void forget_maker(BlockDriverState *bs)
{
    guint i;

    for (i = 0; i < bs->parents->len; i++) {
        const BdrvChild *c = bs->parents->pdata[i];

        if (c->parent && c->parent == bs->made_by) {
            return;
        }
    }
    bs->made_by = NULL;
}

struct BdrvSnapshot {
    BlockDriverState *bs, *overlay; /* referenced */
    GPtrArray *moved;               /* edges: those who used bs */
};

BdrvSnapshot *bdrv_snapshot_prepare(BlockDriverState *bs,
                                    BlockDriverState *overlay, GError **errp)
{
    g_autoptr(GPtrArray) moved = g_ptr_array_new();
    BdrvSnapshot *s;

    g_assert(bs->quiesce > 0);
    if (!check_not_backing(bs, errp) || !check_no_job(bs, errp) ||
        !check_overlay(bs, overlay, errp) || !flush(bs, errp)) {
        return NULL;
    }
    bdrv_keep_perms(bs);
    if (!bdrv_put_overlay(overlay, bs, moved, errp)) {
        bdrv_drop_kept_perms(bs);
        return NULL;
    }
    s = g_new(BdrvSnapshot, 1);
    s->bs = bdrv_ref(bs);
    s->overlay = bdrv_ref(overlay);
    s->moved = g_steal_pointer(&moved);
    return s;
}

static void snapshot_free(BdrvSnapshot *s)
{
    bdrv_drop_kept_perms(s->bs);
    bdrv_unref(s->overlay);
    bdrv_unref(s->bs);
    g_ptr_array_unref(s->moved);
    g_free(s);
}

void bdrv_snapshot_commit(BdrvSnapshot *s)
{
    forget_maker(s->bs);
    snapshot_free(s);
}

void bdrv_snapshot_abort(BdrvSnapshot *s)
{
    bdrv_take_overlay_off(s->overlay, s->moved);
    snapshot_free(s);
}
