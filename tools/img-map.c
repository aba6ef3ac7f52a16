/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * seekless-img map: where a disk has data and zeroes, as a list or a picture, of
 * an image or of a node in a running daemon.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/block-int.h"
#include "tools/img-map.h"
#include "tools/img-picture.h"
#include "util/error.h"

#define PICTURE_COLUMNS 64
#define PICTURE_ROWS 24
#define TEXT_ROWS 12

typedef struct MapOptions {
    ImgOpenOptions open;
    ImgOutput output;
    int64_t start, max_length;
    const char *picture; /* a file's name, "-", or NULL */
    bool live;
    const char *socket, *node;
} MapOptions;

/* What entries go to */
typedef struct Output {
    const MapOptions *options;
    bool list;
    int n_listed;
    Picture *picture; /* or NULL */
} Output;

/* ---- entries that are alike -------------------------------------------------- */

static bool alike(const ImgMapEntry *a, const ImgMapEntry *b)
{
    return a->zero == b->zero && a->data == b->data &&
           a->present == b->present && a->depth == b->depth &&
           a->unknown == b->unknown && a->has_offset == b->has_offset &&
           !g_strcmp0(a->filename, b->filename) &&
           (!a->has_offset || a->offset + a->length == b->offset);
}

bool img_map_add(ImgMapMerger *m, const ImgMapEntry *entry)
{
    if (m->last.length > 0 && alike(&m->last, entry)) {
        m->last.length += entry->length;
        return true;
    }
    if (m->last.length > 0 && !m->sink(m->opaque, &m->last)) {
        return false;
    }
    m->last = *entry;
    return true;
}

bool img_map_finish(ImgMapMerger *m, int64_t offset)
{
    if (m->last.length == 0) {
        m->last.start = offset;
    }
    return m->sink(m->opaque, &m->last);
}

/* ---- the list ---------------------------------------------------------------- */

static const char *boolean(bool b)
{
    return b ? "true" : "false";
}

static void list_json(Output *out, const ImgMapEntry *e)
{
    printf("%s{ \"start\": %" PRId64 ", \"length\": %" PRId64
           ", \"depth\": %d, \"present\": %s, \"zero\": %s, \"data\": %s",
           out->n_listed++ ? ",\n" : "", e->start, e->length, e->depth,
           boolean(e->present), boolean(e->zero), boolean(e->data));
    if (e->has_offset) {
        printf(", \"offset\": %" PRId64, e->offset);
    }
    if (out->options->live) {
        printf(", \"known\": %s", boolean(!e->unknown));
    }
    putchar('}');
}

static const char *state_name(const ImgMapEntry *e)
{
    return e->unknown ? "unknown" : e->data ? "data" : "zero";
}

/* Of a live node there is more to tell than where data is. */
static void list_live(const ImgMapEntry *e)
{
    g_autofree char *offset =
        e->has_offset ? g_strdup_printf("%#" PRIx64, e->offset) : NULL;

    printf("%#-16" PRIx64 "%#-16" PRIx64 "%-16s%-8d%s\n", e->start, e->length,
           offset ? offset : "-", e->depth, state_name(e));
}

static bool list_human(const ImgMapEntry *e)
{
    if (!e->data || e->zero) {
        return true;
    }
    if (!e->has_offset) {
        img_error("File contains external, encrypted or compressed clusters.");
        return false;
    }
    printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", e->start,
           e->length, e->offset, e->filename ? e->filename : "");
    return true;
}

static void list_begin(const Output *out)
{
    if (!out->list) {
        return;
    }
    if (out->options->output == IMG_OUTPUT_JSON) {
        putchar('[');
    } else if (out->options->live) {
        printf("%-16s%-16s%-16s%-8s%s\n", "Offset", "Length", "Mapped to",
               "Depth", "State");
    } else {
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    }
}

static PictureState picture_state(const ImgMapEntry *e)
{
    int below = MIN(e->depth, 2);

    if (e->unknown) {
        return PICTURE_UNKNOWN;
    }
    if (e->data) {
        return PICTURE_DATA + below;
    }
    return e->present ? (int)PICTURE_ZERO + below : PICTURE_HOLE;
}

static bool add_entry(void *opaque, const ImgMapEntry *e)
{
    Output *out = opaque;

    if (out->picture) {
        picture_add(out->picture, e->start, e->length, picture_state(e));
    }
    if (!out->list) {
        return true;
    }
    if (out->options->output == IMG_OUTPUT_JSON) {
        list_json(out, e);
    } else if (!out->options->live) {
        return list_human(e);
    } else if (e->length) {
        list_live(e);
    }
    return true;
}

/* ---- the picture ------------------------------------------------------------- */

static bool has_colours(void)
{
    const char *term = getenv("TERM");

    return isatty(STDOUT_FILENO) && !getenv("NO_COLOR") && term &&
           strcmp(term, "dumb");
}

static Picture *new_picture(const MapOptions *o, const char *name,
                            int64_t length)
{
    g_autofree char *size = img_size_text(length);
    g_autofree char *title =
        g_strdup_printf("%s: %s (%" PRId64 " bytes)", name, size, length);
    int64_t bytes = MAX(MIN(length - o->start, o->max_length), 0);

    return picture_new(title, o->start, bytes, PICTURE_COLUMNS,
                       o->picture && strcmp(o->picture, "-") ? PICTURE_ROWS
                                                             : TEXT_ROWS);
}

static bool show_picture(const MapOptions *o, const Picture *picture)
{
    bool text = !o->picture || !strcmp(o->picture, "-");
    g_autoptr(GString) picture_data =
        text ? picture_text(picture, has_colours()) : picture_svg(picture);
    g_autoptr(GError) err = NULL;

    if (text) {
        fputs(picture_data->str, stdout);
        return true;
    }
    if (!g_file_set_contents(o->picture, picture_data->str, picture_data->len,
                             &err)) {
        img_error("Could not write picture '%s': %s", o->picture, err->message);
        return false;
    }
    return true;
}

/* The list is shown if it was asked for, or nothing else was; on a terminal so is
 * a picture. */
static void begin_output(Output *out, const MapOptions *o, const char *name,
                         int64_t length)
{
    *out = (Output){ .options = o,
                     .list = !o->picture || o->output != IMG_OUTPUT_DEFAULT };
    if (o->picture ||
        (o->output == IMG_OUTPUT_DEFAULT && isatty(STDOUT_FILENO))) {
        out->picture = new_picture(o, name, length);
    }
}

static bool end_output(Output *out, bool ok)
{
    if (ok && out->list && out->options->output == IMG_OUTPUT_JSON &&
        !out->options->live) {
        puts("]");
    }
    if (ok && out->picture) {
        if (out->list && !out->options->picture) {
            putchar('\n');
        }
        ok = show_picture(out->options, out->picture);
    }
    g_clear_pointer(&out->picture, picture_free);
    return ok;
}

/* ---- of an image ------------------------------------------------------------- */

static BlockDriverState *skip_filters(BlockDriverState *bs)
{
    while (bs->drv->kind == BLOCK_DRIVER_FILTER && bs->file) {
        bs = bs->file->bs;
    }
    return bs;
}

/* The node below @bs that has @offset; NULL: none, that is zero */
static BlockDriverState *backing_at(BlockDriverState *bs, int64_t offset)
{
    return bs->backing && bdrv_getlength(bs->backing->bs) > offset
               ? skip_filters(bs->backing->bs)
               : NULL;
}

/* Node by node: what no image has belongs to the lowest that is long enough. */
static int ask(const ImgImage *image, int64_t offset, int64_t bytes,
               ImgMapEntry *e)
{
    BlockDriverState *bs = skip_filters(image->bs), *file;
    int ret;

    *e = (ImgMapEntry){ .start = offset,
                        .length = MIN(bytes, BDRV_REQUEST_MAX_BYTES) };
    for (;; e->depth++) {
        BlockDriverState *below;

        ret = bdrv_block_status(bs, BDRV_WANT_PRECISE, offset, e->length,
                                &e->length, &e->offset, &file);
        if (ret < 0) {
            return ret;
        }
        if (e->length == 0) {
            return -EIO; /* it has just become shorter */
        }
        e->present = ret & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO);
        below = e->present ? NULL : backing_at(bs, offset);
        if (!below) {
            break;
        }
        bs = below;
    }
    e->data = ret & BDRV_BLOCK_DATA;
    e->zero = (ret & BDRV_BLOCK_ZERO) || !e->present;
    e->has_offset = e->present && (ret & BDRV_BLOCK_OFFSET_VALID);
    e->filename = e->has_offset && file ? img_file_of(file) : NULL;
    return 0;
}

static bool map_image(const ImgImage *image, const MapOptions *o,
                      ImgMapMerger *merger, int64_t end)
{
    int64_t offset = o->start;
    bool wanted = true;
    ImgMapEntry e;
    int ret = blk_enter(image->blk);

    if (ret == 0) {
        while (wanted && offset < end &&
               (ret = ask(image, offset, end - offset, &e)) == 0) {
            wanted = img_map_add(merger, &e);
            offset += e.length;
        }
        blk_leave(image->blk);
    }
    if (ret < 0) {
        img_error("Failed to read image metadata at offset %" PRId64 ": %s",
                  offset, g_strerror(-ret));
        return false;
    }
    return wanted && img_map_finish(merger, o->start);
}

static int run_image(const MapOptions *o)
{
    int64_t length;
    ImgMapMerger merger = { .sink = add_entry };
    ImgImage image;
    Output out;
    bool ok;

    if (!img_open(&image, &o->open)) {
        return EXIT_FAILURE;
    }
    length = blk_getlength(image.blk);
    if (length < 0) {
        img_error("Failed to get size for '%s': %s", image.filename,
                  g_strerror(-length));
        img_close(&image);
        return EXIT_FAILURE;
    }
    begin_output(&out, o, image.filename, length);
    merger.opaque = &out;
    list_begin(&out);
    ok = map_image(&image, o, &merger,
                   o->start + MIN(o->max_length, MAX(length - o->start, 0)));
    ok = end_output(&out, ok);
    img_close(&image);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- of a running daemon's node ---------------------------------------------- */

static bool map_live(const MapOptions *o, ImgQmp *qmp, Output *out,
                     GError **errp)
{
    g_autoptr(JsonObject) cache = NULL;
    ImgMapMerger merger = { .sink = add_entry, .opaque = out };
    bool json = out->list && o->output == IMG_OUTPUT_JSON;

    if (json) {
        printf("{\"entries\": ");
    }
    list_begin(out);
    if (!img_map_live(qmp, o->node, o->start, o->max_length, &merger, errp) ||
        !img_map_finish(&merger, o->start)) {
        return false;
    }
    cache = img_map_live_cache(qmp, o->node);
    if (json) {
        puts("],");
        printf("\"status-cache\": ");
        img_map_print_cache(cache, true);
        puts("}");
    } else if (out->list) {
        img_map_print_cache(cache, false);
    }
    return true;
}

static int run_live(const MapOptions *o)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(ImgQmp) qmp = img_qmp_connect(o->socket, &err);
    int64_t length;
    Output out;
    bool ok;

    if (!qmp || !img_map_live_length(qmp, o->node, &length, &err)) {
        img_error("%s", err->message);
        return EXIT_FAILURE;
    }
    if (o->start > length) {
        img_error("Start offset %" PRId64 " is beyond the end of node '%s', "
                  "which has %" PRId64 " bytes",
                  o->start, o->node, length);
        return EXIT_FAILURE;
    }
    begin_output(&out, o, o->node, length);
    ok = map_live(o, qmp, &out, &err);
    if (err) {
        img_error("%s", err->message);
    }
    return end_output(&out, ok) ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- the command line -------------------------------------------------------- */

enum {
    OPTION_PICTURE = IMG_OPTION_OWN,
    OPTION_QMP,
};

static void parse_option(MapOptions *o, int c)
{
    if (img_common_option(c, &o->open, &o->output)) {
        return;
    }
    switch (c) {
    case 's':
        if (!img_parse_size(optarg, "start offset", &o->start)) {
            exit(EXIT_FAILURE);
        }
        break;
    case 'l':
        if (!img_parse_size(optarg, "max length", &o->max_length)) {
            exit(EXIT_FAILURE);
        }
        break;
    case OPTION_PICTURE:
        o->picture = optarg;
        break;
    case OPTION_QMP:
        o->live = true;
        break;
    }
}

static void check_together(const MapOptions *o)
{
    if (o->live &&
        (o->open.format || o->open.force_share || o->open.image_opts)) {
        img_usage_error("--qmp cannot be used with %s: it opens no image",
                        o->open.format        ? "-f"
                        : o->open.force_share ? "-U"
                                              : "--image-opts");
    }
    if (o->picture && !*o->picture) {
        img_usage_error("--picture needs the name of a file, or '-'");
    }
    if (o->picture && !strcmp(o->picture, "-") &&
        o->output != IMG_OUTPUT_DEFAULT) {
        img_usage_error("--picture=- and --output both go to standard output");
    }
}

static void parse(MapOptions *o, int argc, char **argv)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "force-share", no_argument, NULL, 'U' },
        { "format", required_argument, NULL, 'f' },
        { "image-opts", no_argument, NULL, IMG_OPTION_IMAGE_OPTS },
        { "max-length", required_argument, NULL, 'l' },
        { "object", required_argument, NULL, IMG_OPTION_OBJECT },
        { "output", required_argument, NULL, IMG_OPTION_OUTPUT },
        { "picture", required_argument, NULL, OPTION_PICTURE },
        { "qmp", no_argument, NULL, OPTION_QMP },
        { "start-offset", required_argument, NULL, 's' },
        { NULL },
    };
    int c;

    while ((c = img_getopt(argc, argv, ":f:hl:s:U", options)) != -1) {
        parse_option(o, c);
    }
    check_together(o);
    if (!o->live) {
        o->open.filename = img_one_argument(argc, argv, "one image file name");
        img_check_open_options(&o->open);
    } else if (optind == argc - 2) {
        o->socket = argv[optind];
        o->node = argv[optind + 1];
    } else {
        img_usage_error("Expecting the path of a monitor's socket and the "
                        "name of a node");
    }
}

int img_map(int argc, char **argv)
{
    MapOptions o = { .max_length = INT64_MAX };

    parse(&o, argc, argv);
    return o.live ? run_live(&o) : run_image(&o);
}
