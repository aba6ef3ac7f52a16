/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Nodes become read-only or writable, and stay what they are otherwise. */
#include "block/graph-int.h"

void bdrv_set_child_name(JsonObject *options, const char *name,
                         const BdrvChild *c)
{
    if (c) {
        json_object_set_string_member(options, name,
                                      bdrv_visible_child(c)->node_name);
    } else {
        json_object_set_null_member(options, name);
    }
}

bool bdrv_reopen_set_read_only(BlockDriverState *bs, bool read_only,
                               GError **errp)
{
    g_autoptr(JsonArray) all = json_array_new();
    JsonObject *options = bdrv_copy_options(bs);

    json_object_set_string_member(options, "node-name", bs->node_name);
    json_object_set_boolean_member(options, "read-only", read_only);
    if (bs->file) {
        bdrv_set_child_name(options, "file", bs->file);
    }
    if (bs->drv->supports_backing) {
        bdrv_set_child_name(options, "backing", bs->backing);
    }
    json_array_add_object_element(all, options);
    return bdrv_reopen(all, errp);
}
