/* SPDX-License-Identifier: GPL-2.0-or-later */
/* seekless-img create: new images, by the options that qemu-img has for them */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/block-int.h"
#include "tools/img.h"
#include "util/error.h"
#include "util/keyval.h"

#define FILE_NODE "file"
#define SECTOR 512

typedef enum ValueKind {
    VALUE_TEXT,
    VALUE_SIZE,
    VALUE_SWITCH,
} ValueKind;

/* An option of a format, in the order in which qemu-img tells them */
typedef struct FormatOption {
    const char *name;
    const char *member; /* of the driver's own options */
    const char *shown;  /* by default; NULL: only what is given */
    ValueKind kind;
    const char *help;
} FormatOption;

static const FormatOption raw_options[] = {
    { "size", "size", NULL, VALUE_SIZE, "Virtual disk size" },
    { "preallocation", "preallocation", NULL, VALUE_TEXT,
      "Preallocation mode (allowed values: off, falloc, full)" },
    { NULL },
};

static const FormatOption qcow2_options[] = {
    { "cluster_size", "cluster-size", "65536", VALUE_SIZE,
      "qcow2 cluster size" },
    { "extended_l2", "extended-l2", "off", VALUE_SWITCH, "Extended L2 tables" },
    { "preallocation", "preallocation", NULL, VALUE_TEXT,
      "Preallocation mode (allowed values: off, metadata, falloc, full)" },
    { "compression_type", "compression-type", "zlib", VALUE_TEXT,
      "Compression method used for image cluster compression" },
    { "size", "size", NULL, VALUE_SIZE, "Virtual disk size" },
    { "compat", "version", NULL, VALUE_TEXT,
      "Compatibility level (v2 [0.10] or v3 [1.1])" },
    { "backing_file", "backing-file", NULL, VALUE_TEXT,
      "File name of a base image" },
    { "backing_fmt", "backing-fmt", NULL, VALUE_TEXT,
      "Image format of the base image" },
    { "lazy_refcounts", "lazy-refcounts", "off", VALUE_SWITCH,
      "Postpone refcount updates" },
    { "refcount_bits", "refcount-bits", "16", VALUE_TEXT,
      "Width of a reference count entry in bits" },
    { NULL },
};

static const struct {
    const char *name;
    const FormatOption *options;
} formats[] = {
    { "raw", raw_options },
    { "qcow2", qcow2_options },
};

typedef struct CreateOptions {
    const char *format, *filename, *size;
    const char *backing, *backing_format;
    JsonObject *options; /* of strings */
    bool unsafe, quiet, help;
} CreateOptions;

static const FormatOption *find_format(const char *name)
{
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(formats); i++) {
        if (!strcmp(formats[i].name, name) && bdrv_find_driver(name)) {
            return formats[i].options;
        }
    }
    return NULL;
}

static const FormatOption *find_option(const FormatOption *all,
                                       const char *name)
{
    for (; all->name; all++) {
        if (!strcmp(all->name, name)) {
            return all;
        }
    }
    return NULL;
}

/* As large as disks are for QEMU; @size is at most BDRV_MAX_LENGTH. */
static int64_t whole_sectors(int64_t size)
{
    return (size + SECTOR - 1) / SECTOR * SECTOR;
}

static const char *get(const CreateOptions *o, const char *name)
{
    return schema_get_str(o->options, name, NULL);
}

/* ---- what is asked for ------------------------------------------------------ */

/* Every one is known, and sizes and switches are written as they are shown. */
static bool check_options(CreateOptions *o, const FormatOption *all,
                          GError **errp)
{
    g_autoptr(GList) names = json_object_get_members(o->options);
    GList *l;

    for (l = names; l; l = l->next) {
        const FormatOption *option = find_option(all, l->data);
        JsonNode *value = json_object_get_member(o->options, l->data);
        g_autoptr(JsonNode) parsed = NULL;

        if (!option) {
            error_setg(errp, "Invalid parameter '%s'", (char *)l->data);
            return false;
        }
        parsed = json_node_copy(value);
        if (!schema_check(option->kind == VALUE_SIZE     ? &schema_size
                          : option->kind == VALUE_SWITCH ? &schema_bool
                                                         : &schema_str,
                          parsed, option->name, true, errp)) {
            return false;
        }
        if (option->kind == VALUE_SIZE) {
            g_autofree char *text =
                g_strdup_printf("%" PRId64, json_node_get_int(parsed));

            json_object_set_string_member(o->options, option->name, text);
        } else if (option->kind == VALUE_SWITCH) {
            json_object_set_string_member(
                o->options, option->name,
                json_node_get_boolean(parsed) ? "on" : "off");
        }
    }
    return true;
}

/* What letters said becomes options like others. */
static bool add_backing(CreateOptions *o, const FormatOption *all,
                        GError **errp)
{
    if (o->backing) {
        if (!find_option(all, "backing_file")) {
            error_setg(errp, "Backing file not supported for file format '%s'",
                       o->format);
            return false;
        }
        json_object_set_string_member(o->options, "backing_file", o->backing);
    }
    if (o->backing_format) {
        if (!find_option(all, "backing_fmt")) {
            error_setg(errp,
                       "Backing file format not supported for file format "
                       "'%s'",
                       o->format);
            return false;
        }
        json_object_set_string_member(o->options, "backing_fmt",
                                      o->backing_format);
    }
    return true;
}

/* How long the backing file's disk is; opening it shows that it is there. */
static bool ask_backing(const CreateOptions *o, const char *name,
                        const char *format, int64_t *length, GError **errp)
{
    g_autofree char *path = img_backing_path(o->filename, name);
    ImgOpenOptions open = { .filename = path, .format = format };
    g_autoptr(GError) err = NULL;
    ImgImage image;

    if (!img_try_open(&image, &open, &err)) {
        error_setg(errp, "%s\nCould not open backing image.", err->message);
        return false;
    }
    *length = blk_getlength(image.blk);
    img_close(&image);
    if (*length < 0) {
        error_setg_errno(errp, -*length, "Could not get size of '%s'", path);
        return false;
    }
    return true;
}

static bool check_backing(CreateOptions *o, GError **errp)
{
    const char *name = get(o, "backing_file"), *found;
    const char *format = get(o, "backing_fmt");
    g_autofree char *path = NULL, *size = NULL;
    int64_t length;

    if (!name) {
        return true;
    }
    if (!*name) {
        error_setg(errp, "Expected backing file name, got empty string");
        return false;
    }
    path = img_backing_path(o->filename, name);
    if (!strcmp(path, o->filename)) {
        error_setg(errp,
                   "Error: Trying to create an image with the same filename "
                   "as the backing file");
        return false;
    }
    if (format && !bdrv_find_driver(format)) {
        error_setg(errp, "Unknown backing file format '%s'", format);
        return false;
    }
    if (!format) {
        found = o->unsafe ? NULL : bdrv_probe_format(path, NULL);
        error_setg(errp, "Backing file specified without backing format%s%s%s",
                   found ? "\nDetected format of " : "", found ? found : "",
                   found ? "." : "");
        return false;
    }
    if (o->unsafe) {
        return true;
    }
    if (!ask_backing(o, name, format, &length, errp)) {
        return false;
    }
    if (!get(o, "size")) {
        size = g_strdup_printf("%" PRId64, whole_sectors(length));
        json_object_set_string_member(o->options, "size", size);
    }
    return true;
}

static bool resolve(CreateOptions *o, const FormatOption *all, GError **errp)
{
    if (!check_options(o, all, errp) || !add_backing(o, all, errp)) {
        return false;
    }
    if (o->size) {
        if (get(o, "size")) {
            error_setg(errp, "The image size must be specified only once");
            return false;
        }
        json_object_set_string_member(o->options, "size", o->size);
        if (!check_options(o, all, errp)) {
            return false;
        }
    }
    if (!check_backing(o, errp)) {
        return false;
    }
    if (!get(o, "size")) {
        error_setg(errp, "Image creation needs a size parameter");
        return false;
    }
    return true;
}

/* ---- making it -------------------------------------------------------------- */

static void print_formatting(const CreateOptions *o, const FormatOption *all)
{
    printf("Formatting '%s', fmt=%s", o->filename, o->format);
    for (; all->name; all++) {
        const char *value = get(o, all->name);
        const char *c;

        if (!value) {
            value = all->shown;
        }
        if (value) {
            printf(" %s=", all->name);
            for (c = value; *c; c++) {
                fputs(*c == ',' ? ",," : (char[]){ *c, '\0' }, stdout);
            }
        }
    }
    putchar('\n');
    fflush(stdout);
}

/* An option's value as the driver takes it; NULL: it needs none, or @errp */
static const char *driver_value(const CreateOptions *o,
                                const FormatOption *option, GError **errp)
{
    const char *value = get(o, option->name);

    if (!value) {
        return NULL;
    }
    if (!strcmp(option->name, "compat")) {
        return !strcmp(value, "0.10")  ? "v2"
               : !strcmp(value, "1.1") ? "v3"
                                       : value;
    }
    if (!strcmp(option->name, "extended_l2")) {
        if (!strcmp(value, "on")) {
            error_setg(errp, "Extended L2 tables are not supported");
        }
        return NULL;
    }
    return value;
}

static bool round_size(JsonObject *object, GError **errp)
{
    int64_t size = g_ascii_strtoll(
        json_object_get_string_member(object, "size"), NULL, 10);
    g_autofree char *text = NULL;

    if (size > BDRV_MAX_LENGTH) {
        error_setg(errp, "Image size %" PRId64 " is too large", size);
        return false;
    }
    text = g_strdup_printf("%" PRId64, whole_sectors(size));
    json_object_set_string_member(object, "size", text);
    return true;
}

static JsonNode *driver_options(const CreateOptions *o, const BlockDriver *drv,
                                const FormatOption *all, GError **errp)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(GError) err = NULL;
    JsonObject *object = json_object_new();
    bool raw = !strcmp(o->format, "raw");

    json_node_take_object(node, object);
    for (; all->name; all++) {
        const char *value = driver_value(o, all, &err);

        if (err) {
            g_propagate_error(errp, g_steal_pointer(&err));
            return NULL;
        }
        if (value) {
            json_object_set_string_member(object, all->member, value);
        }
    }
    json_object_set_string_member(object, raw ? "filename" : "file",
                                  raw ? o->filename : FILE_NODE);
    return round_size(object, errp) &&
                   schema_check(drv->create_options, node, "", true, errp)
               ? g_steal_pointer(&node)
               : NULL;
}

static bool create_file(const char *filename, GError **errp)
{
    g_autoptr(JsonObject) options = json_object_new();

    json_object_set_string_member(options, "filename", filename);
    json_object_set_int_member(options, "size", 0);
    return bdrv_find_driver("file")->create(options, NULL, errp) == 0;
}

static bool open_file(const char *protocol, const char *filename, GError **errp)
{
    g_autoptr(JsonObject) options = json_object_new();
    bool ok;

    json_object_set_string_member(options, "driver", protocol);
    json_object_set_string_member(options, "node-name", FILE_NODE);
    json_object_set_string_member(options, "filename", filename);
    bdrv_graph_lock();
    ok = bdrv_open(options, errp) != NULL;
    bdrv_graph_unlock();
    return ok;
}

static bool close_file(GError **errp)
{
    bool ok;

    bdrv_graph_lock();
    ok = bdrv_monitor_del(FILE_NODE, errp);
    bdrv_graph_unlock();
    return ok;
}

static bool create_format(const CreateOptions *o, const BlockDriver *drv,
                          JsonObject *options, GError **errp)
{
    const char *protocol = img_protocol_of(o->filename, errp);
    bool is_new = !g_file_test(o->filename, G_FILE_TEST_EXISTS), ok;

    if (!protocol ||
        (!strcmp(protocol, "file") && !create_file(o->filename, errp)) ||
        !open_file(protocol, o->filename, errp)) {
        return false;
    }
    ok = drv->create(options, NULL, errp) == 0;
    /* While its locks are held: nobody else has begun to use it. */
    if (!ok && is_new) {
        unlink(o->filename);
    }
    return close_file(ok ? errp : NULL) && ok;
}

static bool create(const CreateOptions *o, const FormatOption *all,
                   GError **errp)
{
    bool raw = !strcmp(o->format, "raw");
    const BlockDriver *drv = bdrv_find_driver(raw ? "file" : o->format);
    g_autoptr(JsonNode) options = NULL;
    const char *protocol;

    if (!drv->create) {
        error_setg(errp, "Format driver '%s' does not support image creation",
                   o->format);
        return false;
    }
    options = driver_options(o, drv, all, errp);
    if (!options) {
        return false;
    }
    if (!raw) {
        return create_format(o, drv, json_node_get_object(options), errp);
    }
    protocol = img_protocol_of(o->filename, errp);
    return protocol &&
           drv->create(json_node_get_object(options), NULL, errp) == 0;
}

/* ---- the command line ------------------------------------------------------- */

static bool add_options(CreateOptions *o, const char *text, GError **errp)
{
    g_autoptr(JsonNode) node = NULL;
    g_autoptr(GList) names = NULL;
    JsonObject *object;
    bool keyval;
    GList *l;

    if (!strcmp(text, "help") || !strcmp(text, "?")) {
        o->help = true;
        return true;
    }
    node = keyval_parse(text, NULL, &keyval, errp);
    if (!node) {
        return false;
    }
    object = json_node_get_object(node);
    names = json_object_get_members(object);
    for (l = names; l; l = l->next) {
        JsonNode *value = json_object_get_member(object, l->data);

        if (!keyval || json_node_get_value_type(value) != G_TYPE_STRING) {
            error_setg(errp, "Invalid parameter '%s'", (char *)l->data);
            return false;
        }
        json_object_set_string_member(o->options, l->data,
                                      json_node_get_string(value));
    }
    return true;
}

static void print_help(const CreateOptions *o, const FormatOption *all)
{
    static const char *const values[] = { "str", "size", "bool (on/off)" };

    printf("Supported %s options:\n", o->format);
    for (; all->name; all++) {
        g_autofree char *name =
            g_strdup_printf("%s=<%s>", all->name, values[all->kind]);

        printf("  %-22s - %s\n", name, all->help);
    }
}

static bool parse(CreateOptions *o, int argc, char **argv)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "object", required_argument, NULL, IMG_OPTION_OBJECT },
        { NULL },
    };
    g_autoptr(GError) err = NULL;
    int c;

    while ((c = img_getopt(argc, argv, ":F:b:f:ho:qu", options)) != -1) {
        switch (c) {
        case 'F':
            o->backing_format = optarg;
            break;
        case 'b':
            o->backing = optarg;
            break;
        case 'f':
            o->format = optarg;
            break;
        case 'h':
            img_show_help();
        case 'o':
            if (!add_options(o, optarg, &err)) {
                img_error("Invalid options '%s': %s", optarg, err->message);
                return false;
            }
            break;
        case 'q':
            o->quiet = true;
            break;
        case 'u':
            o->unsafe = true;
            break;
        }
    }
    if (o->help) {
        return true;
    }
    if (optind >= argc) {
        img_usage_error("Expecting image file name");
    }
    o->filename = argv[optind++];
    if (optind < argc) {
        int64_t size;

        o->size = argv[optind++];
        if (!img_parse_size(o->size, "image size", &size)) {
            return false;
        }
    }
    if (optind < argc) {
        img_usage_error("Unexpected argument: %s", argv[optind]);
    }
    return true;
}

static int run(CreateOptions *o)
{
    const FormatOption *all = find_format(o->format);
    g_autoptr(GError) err = NULL;

    if (!all) {
        error_setg(&err, "Unknown file format '%s'", o->format);
    } else if (o->help) {
        print_help(o, all);
        return EXIT_SUCCESS;
    } else if (resolve(o, all, &err)) {
        if (!o->quiet) {
            print_formatting(o, all);
        }
        if (create(o, all, &err)) {
            return EXIT_SUCCESS;
        }
    }
    img_error("%s: %s", o->filename ? o->filename : "create", err->message);
    return EXIT_FAILURE;
}

int img_create(int argc, char **argv)
{
    CreateOptions o = { .format = "raw", .options = json_object_new() };
    int status = parse(&o, argc, argv) ? run(&o) : EXIT_FAILURE;

    json_object_unref(o.options);
    return status;
}
