/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Nodes in commands: references, which any thread may hold, and what is told */
#ifndef BLOCK_MONITOR_QMP_NODES_H
#define BLOCK_MONITOR_QMP_NODES_H

#include "block/block.h"

static inline void qmp_node_release(gpointer bs)
{
    bdrv_unref_later(bs);
}

static inline void qmp_node_cleanup(BlockDriverState **bs)
{
    if (*bs) {
        bdrv_unref_later(*bs);
    }
}

/* A reference that ends with its scope, or NULL */
#define AUTO_NODE __attribute__((cleanup(qmp_node_cleanup))) BlockDriverState *

/* All nodes; their references go with the array. */
static inline GPtrArray *qmp_all_nodes(void)
{
    GPtrArray *nodes = bdrv_all_nodes();

    g_ptr_array_set_free_func(nodes, qmp_node_release);
    return nodes;
}

/* ---- image-info.c. Main thread; no I/O, no wait ------------------------- */

/* The names of images, as they are found out in one query; it holds references
 * of nodes. */
GHashTable *qmp_image_names_new(void);
const char *qmp_image_filename(GHashTable *names, BlockDriverState *bs);
/*
 * ImageInfo of @bs, and unless @flat, of what is behind it, one in another:
 * *@depth of them. (transfer full)
 */
JsonObject *qmp_image_info(GHashTable *names, BlockDriverState *bs, bool flat,
                           int *depth);

#endif
