/* SPDX-License-Identifier: GPL-2.0-or-later */
/* seekless-img check: an image's own tables, looked through and mended */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/block-int.h"
#include "tools/img.h"

enum {
    CHECK_OK = 0,
    CHECK_FAILED = 1,
    CHECK_CORRUPT = 2,
    CHECK_LEAKS = 3,
    CHECK_UNSUPPORTED = 63,
};

typedef struct CheckOptions {
    ImgOpenOptions open;
    ImgOutput output;
    unsigned fix;
    bool quiet;
} CheckOptions;

static void report_line(void *opaque, const char *line)
{
    fflush(stdout);
    fprintf(stderr, "%s\n", line);
}

static bool check(const ImgImage *image, BdrvCheckResult *r, unsigned fix)
{
    g_autoptr(GError) err = NULL;
    int ret;

    memset(r, 0, sizeof(*r));
    r->report = report_line;
    bdrv_graph_lock();
    bdrv_drained_begin(image->bs);
    ret = image->bs->drv->check(image->bs, r, fix, &err);
    bdrv_drained_end(image->bs);
    bdrv_graph_unlock();
    if (ret < 0) {
        img_error("Check failed: %s", err ? err->message : g_strerror(-ret));
    }
    return ret == 0;
}

/* ---- what was found --------------------------------------------------------- */

static double percent(int64_t part, int64_t all)
{
    return 100.0 * MAX(part, 0) / all;
}

static void print_problems(const BdrvCheckResult *r)
{
    if (r->corruptions > 0) {
        printf("\n%" PRId64 " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may "
               "corrupt it.\n",
               r->corruptions);
    }
    if (r->leaks > 0) {
        printf("\n%" PRId64 " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               r->leaks);
    }
    if (r->check_errors > 0) {
        printf("\n%" PRId64 " internal errors have occurred during the "
               "check.\n",
               r->check_errors);
    }
}

static void print_human(const BdrvCheckResult *r)
{
    if (r->corruptions <= 0 && r->leaks <= 0 && r->check_errors <= 0) {
        puts("No errors were found on the image.");
    } else {
        print_problems(r);
    }
    if (r->total_clusters > 0 && r->allocated_clusters > 0) {
        printf("%" PRId64 "/%" PRId64 " = %0.2f%% allocated, %0.2f%% "
               "fragmented, %0.2f%% compressed clusters\n",
               r->allocated_clusters, r->total_clusters,
               percent(r->allocated_clusters, r->total_clusters),
               percent(r->fragmented_clusters, r->allocated_clusters),
               percent(r->compressed_clusters, r->allocated_clusters));
    }
    if (r->image_end_offset > 0) {
        printf("Image end offset: %" PRId64 "\n", r->image_end_offset);
    }
}

static void add_count(JsonObject *object, const char *name, int64_t n)
{
    if (n > 0) {
        json_object_set_int_member(object, name, n);
    }
}

/* In the order in which qemu-img has them */
static void print_json(const ImgImage *image, const BdrvCheckResult *r)
{
    JsonNode *node = json_node_new(JSON_NODE_OBJECT);
    JsonObject *object = json_object_new();

    add_count(object, "image-end-offset", r->image_end_offset);
    add_count(object, "compressed-clusters", r->compressed_clusters);
    add_count(object, "total-clusters", r->total_clusters);
    add_count(object, "corruptions", r->corruptions);
    add_count(object, "corruptions-fixed", r->corruptions_fixed);
    json_object_set_int_member(object, "check-errors", MAX(r->check_errors, 0));
    add_count(object, "leaks", r->leaks);
    add_count(object, "leaks-fixed", r->leaks_fixed);
    add_count(object, "allocated-clusters", r->allocated_clusters);
    json_object_set_string_member(object, "filename", image->filename);
    json_object_set_string_member(object, "format",
                                  bdrv_driver_name(image->bs));
    add_count(object, "fragmented-clusters", r->fragmented_clusters);
    json_node_take_object(node, object);
    img_print_json(node);
}

/* After repairs the image is looked through once more. */
static bool check_again(const ImgImage *image, const CheckOptions *o,
                        BdrvCheckResult *r)
{
    int64_t leaks = r->leaks_fixed, corruptions = r->corruptions_fixed;

    if (o->output != IMG_OUTPUT_JSON && !o->quiet) {
        printf("The following inconsistencies were found and repaired:\n\n"
               "    %" PRId64 " leaked clusters\n"
               "    %" PRId64 " corruptions\n\n"
               "Double checking the fixed image now...\n",
               MAX(leaks, 0), MAX(corruptions, 0));
    }
    if (!check(image, r, 0)) {
        return false;
    }
    r->leaks_fixed = leaks;
    r->corruptions_fixed = corruptions;
    return true;
}

static int run(const ImgImage *image, const CheckOptions *o)
{
    BdrvCheckResult r;

    if (!image->bs->drv->check) {
        img_error("This image format does not support checks");
        return CHECK_UNSUPPORTED;
    }
    if (!check(image, &r, o->fix) ||
        ((r.leaks_fixed > 0 || r.corruptions_fixed > 0) &&
         !check_again(image, o, &r))) {
        return CHECK_FAILED;
    }
    if (o->output == IMG_OUTPUT_JSON) {
        if (!o->quiet) {
            print_json(image, &r);
        }
    } else if (!o->quiet) {
        print_human(&r);
    }
    if (r.check_errors > 0) {
        img_error("Check failed");
        return CHECK_FAILED;
    }
    return r.corruptions > 0 ? CHECK_CORRUPT
           : r.leaks > 0     ? CHECK_LEAKS
                             : CHECK_OK;
}

/* ---- the command line ------------------------------------------------------- */

static unsigned parse_fix(const char *text)
{
    if (!strcmp(text, "leaks")) {
        return BDRV_FIX_LEAKS;
    }
    if (!strcmp(text, "all")) {
        return BDRV_FIX_LEAKS | BDRV_FIX_ERRORS;
    }
    img_usage_error("Unknown option value for -r (expecting 'leaks' or 'all'): "
                    "%s",
                    text);
}

static void parse(CheckOptions *o, int argc, char **argv)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "format", required_argument, NULL, 'f' },
        { "force-share", no_argument, NULL, 'U' },
        { "image-opts", no_argument, NULL, IMG_OPTION_IMAGE_OPTS },
        { "object", required_argument, NULL, IMG_OPTION_OBJECT },
        { "output", required_argument, NULL, IMG_OPTION_OUTPUT },
        { "repair", required_argument, NULL, 'r' },
        { NULL },
    };
    int c;

    while ((c = img_getopt(argc, argv, ":hf:qr:T:U", options)) != -1) {
        if (img_common_option(c, &o->open, &o->output)) {
            continue;
        }
        switch (c) {
        case 'q':
            o->quiet = true;
            break;
        case 'r':
            o->fix = parse_fix(optarg);
            break;
        case 'T':
            o->open.cache = optarg;
            break;
        }
    }
    o->open.filename = img_one_argument(argc, argv, "one image file name");
    img_check_open_options(&o->open);
    o->open.writable = o->fix != 0;
    o->open.no_backing = true;
    o->open.to_check = true;
}

int img_check(int argc, char **argv)
{
    CheckOptions o = { 0 };
    ImgImage image;
    int status;

    parse(&o, argc, argv);
    if (!img_open(&image, &o.open)) {
        return CHECK_FAILED;
    }
    status = run(&image, &o);
    img_close(&image);
    return status;
}
