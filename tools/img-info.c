/* SPDX-License-Identifier: GPL-2.0-or-later */
/* seekless-img info: what is known of an image, and of those below it */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/block-int.h"
#include "tools/img.h"
#include "util/json-copy.h"

typedef struct InfoOptions {
    ImgOpenOptions open;
    ImgOutput output;
    bool chain;
} InfoOptions;

/* ---- finding out ------------------------------------------------------------ */

/* As the driver of @bs, if it is a format, tells it */
static JsonObject *format_info(BlockDriverState *bs)
{
    JsonObject *info = json_object_new();

    if (bs->drv->get_info && bs->drv->kind == BLOCK_DRIVER_FORMAT) {
        bs->drv->get_info(bs, info);
    }
    return info;
}

/* As that of the file which @bs lies in tells it */
static JsonObject *file_info(BlockDriverState *bs)
{
    JsonObject *info = json_object_new();

    while (bs->file && bs->file->bs) {
        bs = bs->file->bs;
    }
    if (bs->drv->get_info) {
        bs->drv->get_info(bs, info);
    }
    return info;
}

static void copy_member(JsonObject *to, JsonObject *from, const char *name)
{
    if (json_object_has_member(from, name)) {
        json_object_set_member(
            to, name, json_deep_copy(json_object_get_member(from, name)));
    }
}

/* ImageInfo, its members in the order in which qemu-img has them */
static JsonObject *image_info(const ImgImage *image)
{
    g_autoptr(JsonObject) format = format_info(image->bs);
    g_autoptr(JsonObject) file = file_info(image->bs);
    const char *backing = schema_get_str(format, "backing-filename", NULL);
    JsonObject *info = json_object_new();

    copy_member(info, format, "snapshots");
    copy_member(info, format, "backing-filename-format");
    json_object_set_int_member(info, "virtual-size",
                               MAX(blk_getlength(image->blk), 0));
    json_object_set_string_member(info, "filename", image->filename);
    copy_member(info, format, "cluster-size");
    json_object_set_string_member(info, "format", bdrv_driver_name(image->bs));
    copy_member(info, file, "actual-size");
    copy_member(info, format, "format-specific");
    if (backing) {
        g_autofree char *full = img_backing_path(image->filename, backing);

        json_object_set_string_member(info, "full-backing-filename", full);
        json_object_set_string_member(info, "backing-filename", backing);
    }
    json_object_set_boolean_member(
        info, "dirty-flag", schema_get_bool(format, "dirty-flag", false));
    return info;
}

/* ---- showing it ------------------------------------------------------------- */

static void print_value(unsigned depth, const char *name, JsonNode *value);

static void print_members(unsigned depth, JsonObject *object)
{
    g_autoptr(GList) names = json_object_get_members(object);
    GList *l;

    for (l = names; l; l = l->next) {
        g_autofree char *name = g_strdelimit(g_strdup(l->data), "-", ' ');

        print_value(depth, name, json_object_get_member(object, l->data));
    }
}

static void print_elements(unsigned depth, JsonArray *array)
{
    guint i;

    for (i = 0; i < json_array_get_length(array); i++) {
        g_autofree char *name = g_strdup_printf("[%u]", i);

        print_value(depth, name, json_array_get_element(array, i));
    }
}

static void print_value(unsigned depth, const char *name, JsonNode *value)
{
    printf("%*s%s:", depth * 4, "", name);
    if (JSON_NODE_HOLDS_OBJECT(value)) {
        putchar('\n');
        print_members(depth + 1, json_node_get_object(value));
        return;
    }
    if (JSON_NODE_HOLDS_ARRAY(value)) {
        putchar('\n');
        print_elements(depth + 1, json_node_get_array(value));
        return;
    }
    switch (json_node_get_value_type(value)) {
    case G_TYPE_STRING:
        printf(" %s\n", json_node_get_string(value));
        break;
    case G_TYPE_BOOLEAN:
        puts(json_node_get_boolean(value) ? " true" : " false");
        break;
    default:
        printf(" %" G_GINT64_FORMAT "\n", json_node_get_int(value));
    }
}

static void print_specific(JsonObject *specific)
{
    JsonObject *data = schema_get_object(specific, "data");

    if (data && json_object_get_size(data) > 0) {
        puts("Format specific information:");
        print_members(1, data);
    }
}

static void print_backing(JsonObject *info)
{
    const char *name = schema_get_str(info, "backing-filename", NULL);
    const char *full = schema_get_str(info, "full-backing-filename", NULL);
    const char *format = schema_get_str(info, "backing-filename-format", NULL);

    if (name) {
        printf("backing file: %s", name);
        if (strcmp(name, full)) {
            printf(" (actual path: %s)", full);
        }
        putchar('\n');
    }
    if (format) {
        printf("backing file format: %s\n", format);
    }
}

static void print_human(JsonObject *info)
{
    int64_t length = schema_get_int(info, "virtual-size", 0);
    g_autofree char *virtual_size = img_size_text(length);
    g_autofree char *actual_size =
        img_size_text(schema_get_int(info, "actual-size", 0));

    printf("image: %s\nfile format: %s\nvirtual size: %s (%" PRId64 " bytes)\n"
           "disk size: %s\n",
           schema_get_str(info, "filename", ""),
           schema_get_str(info, "format", ""), virtual_size, length,
           schema_has(info, "actual-size") ? actual_size : "unavailable");
    if (schema_has(info, "cluster-size")) {
        printf("cluster_size: %" PRId64 "\n",
               schema_get_int(info, "cluster-size", 0));
    }
    if (schema_get_bool(info, "dirty-flag", false)) {
        puts("cleanly shut down: no");
    }
    print_backing(info);
    if (schema_has(info, "format-specific")) {
        print_specific(schema_get_object(info, "format-specific"));
    }
}

static void print_all(const InfoOptions *o, JsonArray *images)
{
    guint n = json_array_get_length(images), i;
    JsonNode *node;

    if (o->output == IMG_OUTPUT_JSON) {
        if (o->chain) {
            node = json_node_new(JSON_NODE_ARRAY);
            json_node_set_array(node, images);
        } else {
            node = json_node_copy(json_array_get_element(images, 0));
        }
        img_print_json(node);
        return;
    }
    for (i = 0; i < n; i++) {
        if (i > 0) {
            putchar('\n');
        }
        print_human(json_array_get_object_element(images, i));
    }
}

/* ---- the chain -------------------------------------------------------------- */

/* One image; it is closed again, so that the next may be the same in error. */
static JsonObject *ask(const ImgOpenOptions *open)
{
    JsonObject *info;
    ImgImage image;

    if (!img_open(&image, open)) {
        return NULL;
    }
    info = image_info(&image);
    img_close(&image);
    return info;
}

/* All images, the topmost first; false if one cannot be opened */
static bool collect(const InfoOptions *o, JsonArray *images)
{
    g_autoptr(GHashTable) seen =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    ImgOpenOptions open = o->open;

    do {
        JsonObject *info;

        if (!g_hash_table_add(seen, g_strdup(open.filename))) {
            img_error("Backing file '%s' creates an infinite loop.",
                      open.filename);
            return false;
        }
        info = ask(&open);
        if (!info) {
            return false;
        }
        json_array_add_object_element(images, info);
        /* Owned by @info */
        open.filename = schema_get_str(info, "full-backing-filename", NULL);
        open.format = schema_get_str(info, "backing-filename-format", NULL);
        open.image_opts = false;
    } while (o->chain && open.filename);
    return true;
}

static void parse(InfoOptions *o, int argc, char **argv)
{
    enum {
        OPTION_CHAIN = IMG_OPTION_OWN
    };
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "backing-chain", no_argument, NULL, OPTION_CHAIN },
        { "format", required_argument, NULL, 'f' },
        { "force-share", no_argument, NULL, 'U' },
        { "image-opts", no_argument, NULL, IMG_OPTION_IMAGE_OPTS },
        { "object", required_argument, NULL, IMG_OPTION_OBJECT },
        { "output", required_argument, NULL, IMG_OPTION_OUTPUT },
        { NULL },
    };
    int c;

    while ((c = img_getopt(argc, argv, ":f:hU", options)) != -1) {
        if (!img_common_option(c, &o->open, &o->output) && c == OPTION_CHAIN) {
            o->chain = true;
        }
    }
    o->open.filename = img_one_argument(argc, argv, "one image file name");
    img_check_open_options(&o->open);
    o->open.no_backing = true;
}

int img_info(int argc, char **argv)
{
    g_autoptr(JsonArray) images = json_array_new();
    InfoOptions o = { 0 };

    parse(&o, argc, argv);
    if (!collect(&o, images)) {
        return EXIT_FAILURE;
    }
    print_all(&o, images);
    return EXIT_SUCCESS;
}
