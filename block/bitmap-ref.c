/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dirty bitmaps as users name them, and as they are made if nothing is said */
#include "block/copy-target.h"
#include "block/dirty-bitmap.h"
#include "util/error.h"

#define DEFAULT_GRANULARITY 65536
/* Of those that follow the image's clusters */
#define MIN_DEFAULT_GRANULARITY 4096

const SchemaType bitmap_of_node_type = {
    .name = "BlockDirtyBitmap",
    .kind = SCHEMA_OBJECT,
    .doc = "A dirty bitmap of a node.",
    .members =
        (const SchemaMember[]){
            { "node", &schema_str, .doc = "The node's name." },
            { "name", &schema_str, .doc = "The bitmap's name." },
            { NULL },
        },
};

static const SchemaType bitmap_ref_type = {
    .name = "BlockDirtyBitmapOrStr",
    .kind = SCHEMA_ALTERNATE,
    .doc = "A dirty bitmap: by its name alone, or by its node and its name.",
    .alternatives =
        (const SchemaType *const[]){ &schema_str, &bitmap_of_node_type, NULL },
};

const SchemaType bitmap_ref_list_type = {
    .name = "BlockDirtyBitmapOrStrList",
    .kind = SCHEMA_ARRAY,
    .element = &bitmap_ref_type,
};

BdrvDirtyBitmap *bdrv_find_bitmap_of(const char *node, const char *name,
                                     BlockDriverState **bs, GError **errp)
{
    BdrvDirtyBitmap *bitmap;

    *bs = bdrv_find_node(node, NULL);
    if (!*bs) {
        error_setg(errp, "Node '%s' not found", node);
        return NULL;
    }
    bitmap = bdrv_find_dirty_bitmap(*bs, name, errp);
    if (!bitmap) {
        bdrv_unref(*bs);
        *bs = NULL;
    }
    return bitmap;
}

BdrvDirtyBitmap *bdrv_find_bitmap_ref(BlockDriverState *bs, JsonNode *ref,
                                      BlockDriverState **bitmap_bs,
                                      GError **errp)
{
    BdrvDirtyBitmap *bitmap;
    JsonObject *object;

    if (JSON_NODE_HOLDS_OBJECT(ref)) {
        object = json_node_get_object(ref);
        return bdrv_find_bitmap_of(schema_get_str(object, "node", NULL),
                                   schema_get_str(object, "name", NULL),
                                   bitmap_bs, errp);
    }
    bitmap = bdrv_find_dirty_bitmap(bs, json_node_get_string(ref), errp);
    *bitmap_bs = bitmap ? bdrv_ref(bs) : NULL;
    return bitmap;
}

BdrvDirtyBitmap *bdrv_find_bitmap_below(BlockDriverState *bs, const char *name,
                                        BlockDriverState **bitmap_bs,
                                        GError **errp)
{
    BlockDriverState *below;

    for (; bs; bs = below) {
        BdrvDirtyBitmap *bitmap = bdrv_find_dirty_bitmap(bs, name, NULL);

        if (bitmap) {
            *bitmap_bs = bdrv_ref(bs);
            return bitmap;
        }
        below = bs->backing ? bs->backing->bs : NULL;
        if (bs->drv->kind == BLOCK_DRIVER_FILTER && bs->file) {
            below = bs->file->bs;
        }
    }
    error_setg(errp, "Bitmap '%s' is not found", name);
    return NULL;
}

uint32_t bdrv_default_bitmap_granularity(BlockDriverState *bs)
{
    int64_t cluster = copy_target_cluster(bs);

    return cluster > 0
               ? CLAMP(cluster, MIN_DEFAULT_GRANULARITY, DEFAULT_GRANULARITY)
               : DEFAULT_GRANULARITY;
}
