/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How seekless-img finds out what an image is, and opens it */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "block/block-int.h"
#include "tools/img.h"
#include "util/error.h"
#include "util/keyval.h"

#define NODE_NAME "image"

static const char *without_protocol(const char *filename)
{
    return g_str_has_prefix(filename, "file:") ? filename + strlen("file:")
                                               : filename;
}

const char *img_protocol_of(const char *filename, GError **errp)
{
    const char *colon = filename + strcspn(filename, ":/");
    struct stat st;

    if (without_protocol(filename) == filename && *colon == ':') {
        error_setg(errp, "Unknown protocol '%.*s'", (int)(colon - filename),
                   filename);
        return NULL;
    }
    filename = without_protocol(filename);
    if (!*filename) {
        error_setg(errp, "The 'file' block driver requires a file name");
        return NULL;
    }
    return stat(filename, &st) == 0 && S_ISBLK(st.st_mode) ? "host_device"
                                                           : "file";
}

char *img_backing_path(const char *filename, const char *name)
{
    return name[strcspn(name, ":/")] == ':'
               ? g_strdup(name)
               : bdrv_backing_path(without_protocol(filename), name);
}

const char *img_file_of(BlockDriverState *bs)
{
    while (bs->file && bs->file->bs) {
        bs = bs->file->bs;
    }
    return schema_get_str(bs->options, "filename", NULL);
}

/* ---- options ---------------------------------------------------------------- */

static const struct {
    const char *name;
    bool direct, no_flush;
} cache_modes[] = {
    { "none", true, false },          { "off", true, false },
    { "directsync", true, false },    { "writeback", false, false },
    { "writethrough", false, false }, { "unsafe", false, true },
};

static void add_cache(JsonObject *options, const char *name)
{
    JsonObject *cache;
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(cache_modes); i++) {
        if (!strcmp(cache_modes[i].name, name)) {
            cache = json_object_new();
            json_object_set_boolean_member(cache, "direct",
                                           cache_modes[i].direct);
            json_object_set_boolean_member(cache, "no-flush",
                                           cache_modes[i].no_flush);
            json_object_set_object_member(options, "cache", cache);
        }
    }
}

static bool is_cache_mode(const char *name)
{
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(cache_modes); i++) {
        if (!strcmp(cache_modes[i].name, name)) {
            return true;
        }
    }
    return false;
}

bool img_common_option(int c, ImgOpenOptions *options, ImgOutput *output)
{
    switch (c) {
    case 'f':
        options->format = optarg;
        return true;
    case 'h':
        img_show_help();
    case 'U':
        options->force_share = true;
        return true;
    case IMG_OPTION_IMAGE_OPTS:
        options->image_opts = true;
        return true;
    case IMG_OPTION_OUTPUT:
        *output = img_parse_output(optarg);
        return true;
    default:
        return false;
    }
}

void img_check_open_options(const ImgOpenOptions *o)
{
    if (o->image_opts && o->format) {
        img_error("--image-opts and --format are mutually exclusive");
        exit(EXIT_FAILURE);
    }
    if (o->cache && !is_cache_mode(o->cache)) {
        img_error("Invalid source cache option: %s", o->cache);
        exit(EXIT_FAILURE);
    }
}

/* What cannot be an image is for the driver to refuse. */
static const char *probe(const char *filename, GError **errp)
{
    struct stat st;

    filename = without_protocol(filename);
    if (stat(filename, &st) == 0 && !S_ISREG(st.st_mode) &&
        !S_ISBLK(st.st_mode)) {
        return "raw";
    }
    return bdrv_probe_format(filename, errp);
}

/* Of the node for a file with that name; or NULL and @errp */
static JsonObject *filename_options(const ImgOpenOptions *o, GError **errp)
{
    const char *protocol = img_protocol_of(o->filename, errp);
    const char *format = o->format;
    JsonObject *file, *options;

    if (!protocol) {
        return NULL;
    }
    if (!format) {
        format = probe(o->filename, errp);
        if (!format) {
            return NULL;
        }
    }
    if (!bdrv_find_driver(format)) {
        error_setg(errp, "Unknown driver '%s'", format);
        return NULL;
    }
    file = json_object_new();
    json_object_set_string_member(
        file, "driver", strcmp(format, "host_device") ? protocol : format);
    json_object_set_string_member(file, "filename", o->filename);
    if (bdrv_find_driver(format)->kind == BLOCK_DRIVER_PROTOCOL) {
        json_object_set_string_member(file, "driver", format);
        return file;
    }
    options = json_object_new();
    json_object_set_string_member(options, "driver", format);
    json_object_set_object_member(options, "file", file);
    return options;
}

static JsonObject *image_options(const ImgOpenOptions *o, GError **errp)
{
    g_autoptr(JsonNode) node = NULL;
    bool keyval;

    node = keyval_parse(o->filename, NULL, &keyval, errp);
    if (!node ||
        !schema_check(&blockdev_options_type, node, "", keyval, errp)) {
        return NULL;
    }
    return json_node_dup_object(node);
}

static JsonObject *make_options(const ImgOpenOptions *o, GError **errp)
{
    g_autoptr(JsonObject) options = NULL;
    g_autoptr(JsonNode) node = NULL;
    const BlockDriver *drv;

    options =
        o->image_opts ? image_options(o, errp) : filename_options(o, errp);
    if (!options) {
        return NULL;
    }
    if (o->cache) {
        add_cache(options, o->cache);
    }
    json_object_set_string_member(options, "node-name", NODE_NAME);
    json_object_set_boolean_member(options, "read-only", !o->writable);
    if (o->force_share) {
        json_object_set_boolean_member(options, "force-share", true);
    }
    drv = bdrv_find_driver(json_object_get_string_member(options, "driver"));
    if (o->no_backing && drv->supports_backing) {
        json_object_set_null_member(options, "backing");
    }
    node = json_node_alloc();
    json_node_init_object(node, options);
    return schema_check(&blockdev_options_type, node, "", false, errp)
               ? g_steal_pointer(&options)
               : NULL;
}

/* ---- opening ---------------------------------------------------------------- */

static bool attach(ImgImage *image, const ImgOpenOptions *o, GError **errp)
{
    uint64_t perm = BLK_PERM_CONSISTENT_READ;
    uint64_t shared = BLK_PERM_ALL;

    if (o->writable) {
        perm |= BLK_PERM_WRITE | BLK_PERM_RESIZE;
        shared = BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE_UNCHANGED;
    }
    image->blk = blk_new("seekless-img", false, perm, shared);
    return blk_attach(image->blk, image->bs, errp);
}

bool img_try_open(ImgImage *image, const ImgOpenOptions *o, GError **errp)
{
    g_autoptr(JsonObject) options = make_options(o, errp);
    bool ok = false;

    *image = (ImgImage){ 0 };
    if (!options) {
        return false;
    }
    bdrv_graph_lock();
    image->bs = o->to_check ? bdrv_open_to_check(options, errp)
                            : bdrv_open(options, errp);
    if (image->bs) {
        bdrv_ref(image->bs);
        ok = attach(image, o, errp);
    }
    bdrv_graph_unlock();
    if (!ok) {
        img_close(image);
        return false;
    }
    image->filename = o->image_opts ? img_file_of(image->bs) : o->filename;
    if (!image->filename) {
        image->filename = bdrv_driver_name(image->bs);
    }
    return true;
}

bool img_open(ImgImage *image, const ImgOpenOptions *o)
{
    g_autoptr(GError) err = NULL;

    if (!img_try_open(image, o, &err)) {
        img_error("Could not open '%s': %s", o->filename, err->message);
        return false;
    }
    return true;
}

void img_close(ImgImage *image)
{
    if (!image->bs) {
        return;
    }
    bdrv_graph_lock();
    if (image->blk) {
        blk_free(image->blk);
    }
    bdrv_unref(image->bs);
    bdrv_monitor_del(NODE_NAME, NULL);
    bdrv_graph_unlock();
    *image = (ImgImage){ 0 };
}
