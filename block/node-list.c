/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The list of all nodes, the locks of the graph, and what a node tells of itself */
#include "block/graph-int.h"

#include <string.h>

#include "util/error.h"

#define NODE_NAME_MAX 31

static Mutex graph_mutex = MUTEX_INIT;
static __thread bool graph_mutex_held;
static pthread_rwlock_t graph_short = PTHREAD_RWLOCK_INITIALIZER;

static GPtrArray *all_nodes; /* in order of creation; short graph lock */

/* ---- locks -------------------------------------------------------------- */

void bdrv_graph_lock(void)
{
    g_assert(!graph_mutex_held);
    mutex_lock(&graph_mutex);
    graph_mutex_held = true;
}

void bdrv_graph_unlock(void)
{
    g_assert(graph_mutex_held);
    graph_mutex_held = false;
    mutex_unlock(&graph_mutex);
}

bool bdrv_graph_locked(void)
{
    return graph_mutex_held;
}

void graph_short_rdlock(void)
{
    pthread_rwlock_rdlock(&graph_short);
}

void graph_short_rdunlock(void)
{
    pthread_rwlock_unlock(&graph_short);
}

void graph_short_wrlock(void)
{
    pthread_rwlock_wrlock(&graph_short);
}

void graph_short_wrunlock(void)
{
    pthread_rwlock_unlock(&graph_short);
}

/* ---- names -------------------------------------------------------------- */

/* Short graph lock held. Nodes that are being opened are found, too. */
static BlockDriverState *lookup_name(const char *node_name)
{
    guint i;

    for (i = 0; all_nodes && i < all_nodes->len; i++) {
        BlockDriverState *bs = all_nodes->pdata[i];

        if (!strcmp(bs->node_name, node_name)) {
            return bs;
        }
    }
    return NULL;
}

bool node_check_name(const char *name, GError **errp)
{
    const char *p;

    for (p = name; *p; p++) {
        if (!g_ascii_isalpha(*p) &&
            (p == name || !(g_ascii_isdigit(*p) || strchr("-._", *p)))) {
            break;
        }
    }
    if (*p || p == name) {
        error_setg(errp, "Invalid node-name: '%s'", name);
        return false;
    }
    if (strlen(name) > NODE_NAME_MAX) {
        error_setg(errp,
                   "Node name too long: '%s' has %zu characters, more than %d",
                   name, strlen(name), NODE_NAME_MAX);
        return false;
    }
    if (lookup_name(name)) {
        error_setg(errp, "Duplicate nodes with node-name='%s'", name);
        return false;
    }
    return true;
}

BlockDriverState *bdrv_find_node(const char *node_name, GError **errp)
{
    BlockDriverState *bs;

    graph_short_rdlock();
    bs = lookup_name(node_name);
    if (bs && bs->ready) {
        bdrv_ref(bs);
    } else {
        bs = NULL;
    }
    graph_short_rdunlock();
    if (!bs) {
        error_setg(errp, "Cannot find device='%s' nor node-name='%s'",
                   node_name, node_name);
    }
    return bs;
}

GPtrArray *bdrv_all_nodes(void)
{
    GPtrArray *nodes = g_ptr_array_new();
    guint i;

    graph_short_rdlock();
    for (i = 0; all_nodes && i < all_nodes->len; i++) {
        BlockDriverState *bs = all_nodes->pdata[i];

        if (bs->ready) {
            g_ptr_array_add(nodes, bdrv_ref(bs));
        }
    }
    graph_short_rdunlock();
    return nodes;
}

void node_list_add(BlockDriverState *bs)
{
    if (!all_nodes) {
        all_nodes = g_ptr_array_new();
    }
    g_ptr_array_add(all_nodes, bs);
}

void node_list_remove(BlockDriverState *bs)
{
    g_ptr_array_remove(all_nodes, bs);
    if (all_nodes->len == 0) {
        g_clear_pointer(&all_nodes, g_ptr_array_unref);
    }
}

guint node_list_count(void)
{
    return all_nodes ? all_nodes->len : 0;
}

void node_list_warn(void)
{
    guint i;

    graph_short_rdlock();
    for (i = 0; all_nodes && i < all_nodes->len; i++) {
        BlockDriverState *bs = all_nodes->pdata[i];

        g_warning("Node '%s' is still in use at exit", bs->node_name);
    }
    graph_short_rdunlock();
}

/* ---- what a node is ----------------------------------------------------- */

const char *bdrv_node_name(BlockDriverState *bs)
{
    return bs->node_name;
}

const char *bdrv_driver_name(BlockDriverState *bs)
{
    return bs->drv->format_name;
}

bool bdrv_is_read_only(BlockDriverState *bs)
{
    return g_atomic_int_get(&bs->read_only);
}

void bdrv_set_read_only(BlockDriverState *bs, bool read_only)
{
    g_atomic_int_set(&bs->read_only, read_only);
}

int64_t bdrv_driver_getlength(BlockDriverState *bs)
{
    int64_t length = -ENOMEDIUM;

    if (bs->drv->getlength) {
        length = bs->drv->getlength(bs);
    } else if (bs->file) {
        length = bdrv_child_getlength(bs->file);
    }
    return length > BDRV_MAX_LENGTH ? -EFBIG : length;
}

int64_t bdrv_child_getlength(BdrvChild *child)
{
    return child->bs ? bdrv_driver_getlength(child->bs) : -ENOMEDIUM;
}

int64_t bdrv_getlength(BlockDriverState *bs)
{
    int64_t length;

    graph_short_rdlock();
    length = bdrv_driver_getlength(bs);
    graph_short_rdunlock();
    return length;
}

static BlockDriverState *get_child(BdrvChild *const *child)
{
    BlockDriverState *bs = NULL;

    graph_short_rdlock();
    if (*child && (*child)->bs) {
        bs = bdrv_ref((*child)->bs);
    }
    graph_short_rdunlock();
    return bs;
}

BlockDriverState *bdrv_get_file(BlockDriverState *bs)
{
    return get_child(&bs->file);
}

BlockDriverState *bdrv_get_backing(BlockDriverState *bs)
{
    return get_child(&bs->backing);
}
