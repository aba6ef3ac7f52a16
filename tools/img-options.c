/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command lines of seekless-img's subcommands, and how values are shown */
#include <stdlib.h>
#include <string.h>

#include "block/object-types.h"
#include "tools/img.h"
#include "util/error.h"
#include "util/json-text.h"
#include "util/keyval.h"
#include "util/object.h"
#include "util/schema.h"

static void add_object(const char *text)
{
    g_autofree char *help = object_help(text);
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = NULL;
    bool keyval, ok;

    if (help) {
        fputs(help, stdout);
        exit(EXIT_SUCCESS);
    }
    node = keyval_parse(text, "qom-type", &keyval, NULL);
    if (!node) {
        /* What is wrong is not shown: it may be part of a secret. */
        img_error("--object: Invalid syntax");
        exit(EXIT_FAILURE);
    }
    ok = schema_check(&object_options_type, node, "", keyval, &err);
    if (ok) {
        bdrv_graph_lock();
        ok = object_add_from_options(json_node_get_object(node), &err);
        bdrv_graph_unlock();
    }
    if (!ok) {
        img_error("--object: %s", err->message);
        exit(EXIT_FAILURE);
    }
}

int img_getopt(int argc, char **argv, const char *letters,
               const struct option *options)
{
    int c;

    opterr = 0;
    while ((c = getopt_long(argc, argv, letters, options, NULL)) ==
           IMG_OPTION_OBJECT) {
        add_object(optarg);
    }
    if (c == ':') {
        img_usage_error("missing argument for option '%s'", argv[optind - 1]);
    }
    if (c == '?' && optopt > 0 && optopt < IMG_OPTION_IMAGE_OPTS) {
        img_usage_error("unrecognized option '-%c'", optopt);
    }
    if (c == '?') {
        img_usage_error("unrecognized option '%s'", argv[optind - 1]);
    }
    return c;
}

const char *img_one_argument(int argc, char **argv, const char *what)
{
    if (optind != argc - 1) {
        img_usage_error("Expecting %s", what);
    }
    return argv[optind];
}

ImgOutput img_parse_output(const char *text)
{
    if (!strcmp(text, "human")) {
        return IMG_OUTPUT_HUMAN;
    }
    if (!strcmp(text, "json")) {
        return IMG_OUTPUT_JSON;
    }
    img_error("--output must be used with human or json as argument, not '%s'.",
              text);
    exit(EXIT_FAILURE);
}

bool img_parse_size(const char *text, const char *what, int64_t *bytes)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_VALUE);
    g_autoptr(GError) err = NULL;

    json_node_set_string(node, text);
    if (!schema_check(&schema_size, node, what, true, &err)) {
        img_error("Invalid %s '%s' specified: it must be from 0 to 2^63 - 1 "
                  "bytes, or have a suffix k, M, G, T, P or E",
                  what, text);
        return false;
    }
    *bytes = json_node_get_int(node);
    return true;
}

char *img_size_text(int64_t bytes)
{
    static const char *const units[] = {
        "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"
    };
    double value = bytes;
    size_t i = 0;

    /* Three digits are shown, so that 1000 belongs to the next unit. */
    while (value >= 1000 && i < G_N_ELEMENTS(units) - 1) {
        value /= 1024;
        i++;
    }
    return g_strdup_printf("%0.3g %sB", value, units[i]);
}

void img_print_json(JsonNode *node)
{
    g_autoptr(GString) text = g_string_new("");

    json_text_append(text, node, true);
    puts(text->str);
    json_node_unref(node);
}
