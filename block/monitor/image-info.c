/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What query-named-block-nodes tells of the image of a node: by which name it
 * could be opened again, and what its driver has to say.
 *
 * A name is a file's, as long as nothing is added by the nodes between, and each
 * backing file is the one that the image's own header names. Otherwise it is
 * made of options that stand one in another. Names are worked out once a query:
 * in a chain each has all that is below in it.
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

typedef struct Name {
    BlockDriverState *bs; /* referenced: its address is the key */
    JsonObject *options;
    char *exact;    /* or NULL: only the options tell */
    char *filename; /* what is shown */
} Name;

static void name_free(gpointer opaque)
{
    Name *n = opaque;

    qmp_node_release(n->bs);
    json_object_unref(n->options);
    g_free(n->exact);
    g_free(n->filename);
    g_free(n);
}

GHashTable *qmp_image_names_new(void)
{
    return g_hash_table_new_full(NULL, NULL, NULL, name_free);
}

static char *options_filename(JsonObject *options)
{
    g_autoptr(JsonNode) node = qmp_node_from_object(json_object_ref(options));
    GString *text = g_string_new("json:");

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

static JsonObject *driver_info(BlockDriverState *bs)
{
    JsonObject *image = json_object_new();

    if (bs->drv->get_info) {
        bs->drv->get_info(bs, image);
    }
    return image;
}

static const Name *name_of(GHashTable *names, BlockDriverState *bs);

/* Has @bs another backing file than its header names, @header, or none? */
static bool backing_differs(GHashTable *names, BlockDriverState *bs,
                            const char *header, BlockDriverState *backing)
{
    g_autofree char *full = NULL;

    if (!backing || !header) {
        return backing || header;
    }
    /* As in QEMU: what an option says differs even from what is the same but
     * for the directory. */
    full =
        bs->implied_backing ? bdrv_full_backing_name(bs, header, NULL) : NULL;
    return strcmp(name_of(names, backing)->filename, full ? full : header) != 0;
}

/* As the options of a node are, but only those that say what the image is */
static void fill_name(GHashTable *names, Name *n, JsonObject *image)
{
    BlockDriverState *bs = n->bs;
    AUTO_NODE file = bdrv_get_file(bs);
    AUTO_NODE backing = bdrv_get_backing(bs);
    const char *header = schema_get_str(image, "backing-filename", NULL);
    const Name *below = file ? name_of(names, file) : NULL;
    bool own = has_own_options(bs);
    bool differs = backing_differs(names, bs, header, backing);

    if (below && bs->drv->kind == BLOCK_DRIVER_FILTER && !own) {
        n->options = json_object_ref(below->options);
        n->exact = g_strdup(below->exact);
        return;
    }
    n->options = own_options(bs);
    if (below) {
        json_object_set_object_member(n->options, "file",
                                      json_object_ref(below->options));
        n->exact = own || differs ? NULL : g_strdup(below->exact);
    } else if (json_object_has_member(image, "filename")) {
        n->exact = g_strdup(json_object_get_string_member(image, "filename"));
    } else if (!own) {
        n->exact = g_strconcat(bdrv_driver_name(bs), "://", NULL);
    }
    if (differs && backing) {
        json_object_set_object_member(
            n->options, "backing",
            json_object_ref(name_of(names, backing)->options));
    } else if (differs) {
        json_object_set_null_member(n->options, "backing");
    }
}

static const Name *name_of(GHashTable *names, BlockDriverState *bs)
{
    Name *n = g_hash_table_lookup(names, bs);
    g_autoptr(JsonObject) image = NULL;

    if (n) {
        return n;
    }
    n = g_new0(Name, 1);
    n->bs = bdrv_ref(bs);
    image = driver_info(bs);
    fill_name(names, n, image);
    n->filename = n->exact ? g_strdup(n->exact) : options_filename(n->options);
    g_hash_table_insert(names, bs, n);
    return n;
}

const char *qmp_image_filename(GHashTable *names, BlockDriverState *bs)
{
    return name_of(names, bs)->filename;
}

/* Bytes allocated for the file that @bs lies in; -1 where nobody knows */
static int64_t actual_size(BlockDriverState *bs)
{
    g_autoptr(JsonObject) info = NULL;
    AUTO_NODE at = bdrv_ref(bs);
    BlockDriverState *below;

    while ((below = bdrv_get_file(at))) {
        bdrv_unref_later(at);
        at = below;
    }
    info = driver_info(at);
    return schema_get_int(info, "actual-size", -1);
}

/* Clusters are those of the image that @bs passes on. */
static int64_t cluster_size(BlockDriverState *bs)
{
    g_autoptr(JsonObject) info = NULL;
    AUTO_NODE at = bdrv_ref(bs);

    while (at->drv->transparent || at->drv->kind == BLOCK_DRIVER_FILTER) {
        BlockDriverState *below = bdrv_get_file(at);

        if (!below) {
            break;
        }
        bdrv_unref_later(at);
        at = below;
    }
    info = driver_info(at);
    return schema_get_int(info, "cluster-size", -1);
}

static JsonObject *one_image(GHashTable *names, BlockDriverState *bs)
{
    JsonObject *image = driver_info(bs);
    const char *header = schema_get_str(image, "backing-filename", NULL);
    int64_t size = actual_size(bs);
    int64_t cluster = cluster_size(bs);

    if (header) {
        g_autofree char *full = bdrv_full_backing_name(bs, header, NULL);

        if (full) {
            json_object_set_string_member(image, "full-backing-filename", full);
        }
    }
    json_object_set_string_member(image, "filename",
                                  name_of(names, bs)->filename);
    json_object_set_string_member(image, "format", bdrv_driver_name(bs));
    json_object_set_int_member(image, "virtual-size",
                               MAX(bdrv_getlength(bs), 0));
    if (cluster >= 0) {
        json_object_set_int_member(image, "cluster-size", cluster);
    }
    if (size >= 0) {
        json_object_set_int_member(image, "actual-size", size);
    }
    return image;
}

/* What has the contents that @bs passes on, or its backing file */
static BlockDriverState *behind(BlockDriverState *bs)
{
    return bs->drv->kind == BLOCK_DRIVER_FILTER ? bdrv_get_file(bs)
                                                : bdrv_get_backing(bs);
}

JsonObject *qmp_image_info(GHashTable *names, BlockDriverState *bs, bool flat,
                           int *depth)
{
    JsonObject *first = one_image(names, bs);
    JsonObject *image = first;
    AUTO_NODE at = flat ? NULL : behind(bs);

    *depth = 0;
    while (at) {
        BlockDriverState *next = behind(at);
        JsonObject *below = one_image(names, at);

        json_object_set_object_member(image, "backing-image", below);
        image = below;
        ++*depth;
        bdrv_unref_later(at);
        at = next;
    }
    return first;
}
