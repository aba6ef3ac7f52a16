/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the subcommands of seekless-img share. The program has one thread; what
 * fails has told why on stderr, unless it takes a GError.
 */
#ifndef TOOLS_IMG_H
#define TOOLS_IMG_H

#include <getopt.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "block/block.h"

/* ---- seekless-img.c -------------------------------------------------------- */

/* A subcommand: its arguments without the program's name; an exit status */
typedef int ImgCommand(int argc, char **argv);
ImgCommand img_create, img_info, img_map, img_check;

/* "seekless-img: ", the message and a line break, to stderr */
void img_error(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/* The same, and where help is to be found; then exits with status 1. */
void img_usage_error(const char *fmt, ...) G_GNUC_PRINTF(1, 2) G_GNUC_NORETURN;

/* Prints what there is and exits with status 0. */
void img_show_help(void) G_GNUC_NORETURN;

/* ---- img-options.c --------------------------------------------------------- */

/* Of long options without a letter, common to all; each has its own from
 * IMG_OPTION_OWN on */
enum {
    IMG_OPTION_IMAGE_OPTS = 256,
    IMG_OPTION_OBJECT,
    IMG_OPTION_OUTPUT,
    IMG_OPTION_OWN,
};

/*
 * getopt_long(), whose complaints come as img_usage_error(). Takes care of help
 * and of --object by itself.
 */
int img_getopt(int argc, char **argv, const char *letters,
               const struct option *options);
/* The one argument that is left; else img_usage_error() says that it has to be
 * @what. */
const char *img_one_argument(int argc, char **argv, const char *what);

typedef enum ImgOutput {
    IMG_OUTPUT_DEFAULT, /* was not chosen: human */
    IMG_OUTPUT_HUMAN,
    IMG_OUTPUT_JSON,
} ImgOutput;

/* Exits if @text is neither. */
ImgOutput img_parse_output(const char *text);
/* Bytes, from 0 to INT64_MAX, maybe with a suffix; @what: "image size", for the
 * message. */
bool img_parse_size(const char *text, const char *what, int64_t *bytes);
/* "1.5 MiB"; to be freed */
char *img_size_text(int64_t bytes);
/* On several lines, as qemu-img prints it, to stdout; takes @node. */
void img_print_json(JsonNode *node);

/* ---- img-open.c ------------------------------------------------------------ */

typedef struct ImgOpenOptions {
    const char *filename; /* or, with image_opts, a node's options */
    const char *format;   /* NULL: it is probed */
    const char *cache;    /* a mode of -T; or NULL */
    bool image_opts, force_share, writable, no_backing;
    bool to_check; /* bdrv_open_to_check() */
} ImgOpenOptions;

typedef struct ImgImage {
    BlockDriverState *bs;
    BlockBackend *blk;
    const char *filename; /* as it is to be shown; lives as long as bs */
} ImgImage;

/*
 * Option @c of a command, if it is one that several have: -f, -h, -U, --image-opts,
 * --output (optarg is its value).
 */
bool img_common_option(int c, ImgOpenOptions *options, ImgOutput *output);
/* Exits with a message if they make no sense together. */
void img_check_open_options(const ImgOpenOptions *options);
/* False and a message: "Could not open 'FILENAME': ..." */
bool img_open(ImgImage *image, const ImgOpenOptions *options);
/* The same with @errp */
bool img_try_open(ImgImage *image, const ImgOpenOptions *options,
                  GError **errp);
void img_close(ImgImage *image);
/* The name of the file that @bs lies in, as it was given; NULL if it has none */
const char *img_file_of(BlockDriverState *bs);
/* What backing file @name of @filename stands for; to be freed */
char *img_backing_path(const char *filename, const char *name);
/* Its driver: "file", or "host_device"; or NULL and @errp */
const char *img_protocol_of(const char *filename, GError **errp);

#endif
