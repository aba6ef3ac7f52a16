/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Permissions: what the users of a node do with it and what they let others do.
 *
 * Each edge says both. What a node's users need together, and what all of them
 * allow, the node's driver has to agree to (the file driver takes image locks
 * for it), and it turns into what the node in its turn needs of its children.
 *
 * A job knows what is written through its node, but not what somebody writes to
 * a node below past it. So nobody may, whatever its node's users share; unless
 * it is the job itself that does.
 */
#include <string.h>

#include "block/graph-int.h"
#include "util/error.h"

static char *perm_names(uint64_t perm)
{
    static const struct {
        uint64_t perm;
        const char *name;
    } names[] = {
        { BLK_PERM_CONSISTENT_READ, "consistent read" },
        { BLK_PERM_WRITE, "write" },
        { BLK_PERM_WRITE_UNCHANGED, "write unchanged" },
        { BLK_PERM_RESIZE, "resize" },
    };
    GString *s = g_string_new(NULL);
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(names); i++) {
        if (perm & names[i].perm) {
            g_string_append_printf(s, "%s%s", s->len ? ", " : "",
                                   names[i].name);
        }
    }
    return g_string_free(s, FALSE);
}

char *bdrv_child_user(const BdrvChild *child)
{
    if (child->blk) {
        return g_strdup(blk_user(child->blk));
    }
    return g_strdup_printf("node '%s'", child->parent->node_name);
}

static bool check_conflict(const BdrvChild *user, const BdrvChild *other,
                           GError **errp)
{
    uint64_t conflict = user->perm & ~other->shared_perm;
    g_autofree char *names = NULL;
    g_autofree char *user_name = NULL;
    g_autofree char *other_name = NULL;

    if (!conflict) {
        return true;
    }
    names = perm_names(conflict);
    user_name = bdrv_child_user(user);
    other_name = bdrv_child_user(other);
    error_setg(errp,
               "Permission conflict on node '%s': permissions '%s' are both "
               "required by %s (uses node '%s' as '%s' child) and unshared by "
               "%s (uses node '%s' as '%s' child).",
               user->bs->node_name, names, user_name, user->bs->node_name,
               user->name, other_name, other->bs->node_name, other->name);
    return false;
}

static bool check_users(BlockDriverState *bs, uint64_t *perm, uint64_t *shared,
                        GError **errp)
{
    guint i, j;

    *perm = 0;
    *shared = BLK_PERM_ALL;
    for (i = 0; i < bs->parents->len; i++) {
        BdrvChild *a = bs->parents->pdata[i];

        for (j = 0; j < bs->parents->len; j++) {
            BdrvChild *b = bs->parents->pdata[j];

            if (i != j && !check_conflict(a, b, errp)) {
                return false;
            }
        }
        *perm |= a->perm;
        *shared &= a->shared_perm;
    }
    *perm |= bs->kept_perm;
    *shared &= ~bs->kept_unshared;
    if (bs->force_share) {
        *shared = BLK_PERM_ALL;
    }
    return true;
}

#define ANY_WRITE (BLK_PERM_WRITE | BLK_PERM_WRITE_UNCHANGED)

/* Who it is that in the end writes to @bs */
static const BdrvChild *find_writer(const BlockDriverState *bs)
{
    guint i;

    for (i = 0; i < bs->parents->len; i++) {
        const BdrvChild *c = bs->parents->pdata[i];

        if (c->perm & ANY_WRITE) {
            const BdrvChild *above = c->parent ? find_writer(c->parent) : NULL;

            return above ? above : c;
        }
    }
    return NULL;
}

static void set_read_only_error(BlockDriverState *bs, GError **errp)
{
    const BdrvChild *writer = bs->reopening ? find_writer(bs) : NULL;
    g_autofree char *user = NULL;

    if (writer) {
        user = bdrv_child_user(writer);
        error_setg(errp,
                   "Block node '%s' cannot be read-only: it is written to by "
                   "%s",
                   bs->node_name, user);
    } else {
        error_setg(errp, "Block node '%s' is read-only", bs->node_name);
    }
}

static bool check_writable(BlockDriverState *bs, uint64_t perm, GError **errp)
{
    uint32_t align = bs->limits.request_alignment;
    int64_t length;

    if (!(perm & ANY_WRITE)) {
        return true;
    }
    if (bdrv_is_read_only(bs) && !(bs->auto_read_only && bs->drv->check_perm)) {
        set_read_only_error(bs, errp);
        return false;
    }
    if (align > 1 && !bs->drv->exact_end && (perm & BLK_PERM_WRITE) &&
        !(perm & BLK_PERM_RESIZE)) {
        length = bdrv_driver_getlength(bs);
        if (length > 0 && length % align) {
            error_setg(errp,
                       "Cannot get 'write' permission without 'resize': Image "
                       "size of node '%s' (%" G_GINT64_FORMAT ") is not a "
                       "multiple of request alignment (%" G_GUINT32_FORMAT ")",
                       bs->node_name, length, align);
            return false;
        }
    }
    return true;
}

/* Parents before children; each node once */
static void add_below(GPtrArray *order, GHashTable *seen, BlockDriverState *bs)
{
    guint i;

    if (!g_hash_table_add(seen, bs)) {
        return;
    }
    for (i = 0; i < bs->children->len; i++) {
        BdrvChild *c = bs->children->pdata[i];

        if (c->bs) {
            add_below(order, seen, c->bs);
        }
    }
    g_ptr_array_insert(order, 0, bs);
}

static bool ask_driver(BlockDriverState *bs, const PermEntry *entry,
                       GError **errp)
{
    if (!check_writable(bs, entry->perm, errp)) {
        return false;
    }
    return !bs->drv->check_perm ||
           bs->drv->check_perm(bs, entry->perm, entry->shared, errp);
}

BlockDriverState *bdrv_find_overlay(const BlockDriverState *bs)
{
    guint i;

    for (i = 0; i < bs->parents->len; i++) {
        const BdrvChild *c = bs->parents->pdata[i];

        if (c->parent && c == c->parent->backing) {
            return c->parent;
        }
    }
    return NULL;
}

const BdrvChild *bdrv_find_job(const BlockDriverState *bs)
{
    const BdrvChild *job = NULL;
    guint i;

    for (i = 0; i < bs->parents->len && !job; i++) {
        const BdrvChild *c = bs->parents->pdata[i];

        if (c->parent) {
            job = bdrv_find_job(c->parent);
        } else if (blk_is_job(c->blk)) {
            job = c;
        }
    }
    return job;
}

/* Is there a job that must see all writes to @c of @bs? */
static bool is_followed(const BlockDriverState *bs, const BdrvChild *c)
{
    bool filter = bs->drv->kind == BLOCK_DRIVER_FILTER;
    bool chain = filter || c == bs->backing;
    guint i;

    /* What a filter does not pass through is not what its users see. */
    if (filter && c != bs->file) {
        return false;
    }
    for (i = 0; i < bs->parents->len; i++) {
        const BdrvChild *user = bs->parents->pdata[i];

        if (user->blk && blk_is_job(user->blk) &&
            !(chain && blk_writes_below(user->blk))) {
            return true;
        }
    }
    return false;
}

#define WRITE_RESIZE (BLK_PERM_WRITE | BLK_PERM_RESIZE)

/* From what a format's users need to what it needs of @c */
static void format_child_perm(BlockDriverState *bs, const BdrvChild *c,
                              uint64_t *perm, uint64_t *shared)
{
    if (!strcmp(c->name, "backing")) {
        /* It is only read; and where contents may change, there, too. */
        *perm &= BLK_PERM_CONSISTENT_READ;
        *shared = (*shared & BLK_PERM_WRITE ? WRITE_RESIZE : 0) |
                  BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE_UNCHANGED;
        return;
    }
    /* The image's own tables are read, and written, whoever uses it. */
    *perm |= BLK_PERM_CONSISTENT_READ;
    if (!bdrv_is_read_only(bs)) {
        *perm |= WRITE_RESIZE;
    }
    *shared &= ~(uint64_t)WRITE_RESIZE;
}

static bool check_node(GraphTran *tran, BlockDriverState *bs, bool loosen,
                       GArray *checked, GError **errp)
{
    PermEntry entry = { .bs = bs };
    guint i;

    if (!check_users(bs, &entry.perm, &entry.shared, errp)) {
        return false;
    }
    if (entry.perm != bs->perm || entry.shared != bs->shared_perm ||
        bs->reopening) {
        if (!ask_driver(bs, &entry, loosen ? NULL : errp) && !loosen) {
            return false;
        }
        g_array_append_val(checked, entry);
    }
    for (i = 0; i < bs->children->len; i++) {
        BdrvChild *c = bs->children->pdata[i];
        uint64_t perm = entry.perm;
        uint64_t shared = entry.shared;

        if (bs->drv->child_perm) {
            bs->drv->child_perm(bs, c, entry.perm, entry.shared, &perm,
                                &shared);
        } else if (bs->drv->kind == BLOCK_DRIVER_FORMAT &&
                   !bs->drv->transparent) {
            format_child_perm(bs, c, &perm, &shared);
        }
        if (is_followed(bs, c)) {
            shared &= ~BLK_PERM_WRITE;
        }
        if (perm != c->perm || shared != c->shared_perm) {
            graph_tran_set_child_perm(tran, c, perm, shared);
        }
    }
    return true;
}

bool bdrv_check_perms(GraphTran *tran, GPtrArray *nodes, bool loosen,
                      GArray *checked, GError **errp)
{
    g_autoptr(GPtrArray) order = g_ptr_array_new();
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    guint i;

    for (i = 0; i < nodes->len; i++) {
        add_below(order, seen, nodes->pdata[i]);
    }
    for (i = 0; i < order->len; i++) {
        if (!check_node(tran, order->pdata[i], loosen, checked, errp)) {
            return false;
        }
    }
    return true;
}
