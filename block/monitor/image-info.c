/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What query-named-block-nodes tells of the image of a node: by which name it
 * could be opened again, and what its driver has to say. The chain of nodes
 * below it is walked once.
 */
#include <string.h>

#include "block/block-int.h"
#include "block/monitor/qmp-nodes.h"
#include "monitor/qmp.h"
#include "util/json-copy.h"
#include "util/json-text.h"

/* A longer one is cut off, as in QEMU: bytes */
#define MAX_FILENAME 4095

static bool is_common_option(const char *name)
{
    static const char *const common[] = {
        "node-name",
        "discard",
        "cache",
        "read-only",
        "file",
        "force-share",
        "auto-read-only",
        "detect-zeroes",
        "driver",
        /* What qcow2 adds says nothing of the image either. */
        "backing",
        "cache-size",
        "l2-cache-size",
        "refcount-cache-size",
        "lazy-refcounts",
        NULL,
    };

    return g_strv_contains(common, name);
}

static bool has_own_options(BlockDriverState *bs)
{
    g_autoptr(JsonObject) given = bdrv_copy_options(bs);
    g_autoptr(GList) names = json_object_get_members(given);
    GList *l;

    for (l = names; l; l = l->next) {
        if (!is_common_option(l->data)) {
            return true;
        }
    }
    return false;
}

static JsonObject *own_options(BlockDriverState *bs)
{
    JsonObject *options = json_object_new();
    g_autoptr(JsonObject) given = bdrv_copy_options(bs);
    g_autoptr(GList) names = json_object_get_members(given);
    GList *l;

    json_object_set_string_member(options, "driver", bdrv_driver_name(bs));
    for (l = names; l; l = l->next) {
        if (!is_common_option(l->data)) {
            JsonNode *value = json_object_get_member(given, l->data);

            json_object_set_member(options, l->data, json_deep_copy(value));
        }
    }
    return options;
}

/* For nodes that are no more than their options, which stand one in another */
static char *options_filename(GPtrArray *chain)
{
    g_autoptr(JsonNode) node = NULL;
    JsonObject *options = NULL;
    GString *text = g_string_new("json:");
    guint i;

    for (i = chain->len; i > 0; i--) {
        JsonObject *below = options;

        options = own_options(chain->pdata[i - 1]);
        if (below) {
            json_object_set_object_member(options, "file", below);
        }
    }
    node = qmp_node_from_object(options);
    json_text_append(text, node, false);
    if (text->len > MAX_FILENAME) {
        const char *end = text->str + MAX_FILENAME - strlen("...");

        /* Not within a character */
        while ((*end & 0xc0) == 0x80) {
            end--;
        }
        g_string_truncate(text, end - text->str);
        g_string_append(text, "...");
    }
    return g_string_free(text, FALSE);
}

/*
 * What lies on a file has its name, as long as nothing is added by what lies
 * between. @chain: from the node in question to @image's, without filters that
 * have nothing to say
 */
static char *filename(GPtrArray *chain, JsonObject *image)
{
    BlockDriverState *last = chain->pdata[chain->len - 1];
    bool has_name = json_object_has_member(image, "filename");
    guint i;

    for (i = 0; i < chain->len; i++) {
        BlockDriverState *bs = chain->pdata[i];

        if (has_own_options(bs) && !(bs == last && has_name)) {
            return options_filename(chain);
        }
    }
    return has_name ? g_strdup(json_object_get_string_member(image, "filename"))
                    : g_strconcat(bdrv_driver_name(last), "://", NULL);
}

/* @bs and what lies below it, referenced */
static GPtrArray *chain_of(BlockDriverState *bs)
{
    GPtrArray *chain = g_ptr_array_new_with_free_func(qmp_node_release);

    for (bs = bdrv_ref(bs); bs; bs = bdrv_get_file(bs)) {
        g_ptr_array_add(chain, bs);
    }
    return chain;
}

static JsonObject *driver_info(BlockDriverState *bs)
{
    JsonObject *image = json_object_new();

    if (bs->drv->get_info) {
        bs->drv->get_info(bs, image);
    }
    return image;
}

JsonObject *qmp_image_info(BlockDriverState *bs)
{
    g_autoptr(GPtrArray) chain = chain_of(bs);
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    BlockDriverState *last = chain->pdata[chain->len - 1];
    JsonObject *image = driver_info(bs);
    g_autoptr(JsonObject) file =
        bs == last ? json_object_ref(image) : driver_info(last);
    g_autofree char *name = NULL;
    guint i;

    for (i = 0; i < chain->len; i++) {
        BlockDriverState *node = chain->pdata[i];

        if (node->drv->kind != BLOCK_DRIVER_FILTER || has_own_options(node) ||
            node == last) {
            g_ptr_array_add(names, node);
        }
    }
    name = filename(names, file);
    json_object_set_string_member(image, "filename", name);
    json_object_set_string_member(image, "format", bdrv_driver_name(bs));
    json_object_set_int_member(image, "virtual-size",
                               MAX(bdrv_getlength(bs), 0));
    if (json_object_has_member(file, "actual-size")) {
        json_object_set_int_member(
            image, "actual-size",
            json_object_get_int_member(file, "actual-size"));
    }
    return image;
}
