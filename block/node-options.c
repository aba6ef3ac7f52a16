/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options that nodes of all drivers have in common */
#include <string.h>

#include "block/graph-int.h"
#include "util/error.h"
#include "util/json-copy.h"

bool node_parse_options(BlockDriverState *bs, JsonObject *options,
                        GError **errp)
{
    JsonObject *cache = schema_get_object(options, "cache");
    bool auto_read_only = schema_get_bool(options, "auto-read-only", false);

    bs->options = json_object_deep_copy(options);
    bs->read_only = schema_get_bool(options, "read-only", false);
    bs->auto_read_only = auto_read_only && !bs->read_only;
    bs->force_share = schema_get_bool(options, "force-share", false);
    bs->discard_unmap =
        !strcmp(schema_get_str(options, "discard", "ignore"), "unmap");
    bs->detect_zeroes = schema_get_enum(
        options, "detect-zeroes", &detect_zeroes_type, BDRV_DETECT_ZEROES_OFF);
    if (cache) {
        bs->cache_direct = schema_get_bool(cache, "direct", false);
        bs->cache_no_flush = schema_get_bool(cache, "no-flush", false);
    }
    if (bs->force_share && !bs->read_only) {
        error_setg(errp,
                   "force-share=on can only be used with read-only images");
        return false;
    }
    if (bs->detect_zeroes == BDRV_DETECT_ZEROES_UNMAP && !bs->discard_unmap) {
        error_setg(errp, "Setting detect-zeroes to 'unmap' is not allowed "
                         "without setting discard to 'unmap'");
        return false;
    }
    return true;
}

static void inherit(JsonObject *to, JsonObject *from, const char *name)
{
    if (!json_object_has_member(to, name) &&
        json_object_has_member(from, name)) {
        json_object_set_member(
            to, name, json_deep_copy(json_object_get_member(from, name)));
    }
}

/* Discards are the parent's affair: the child passes on what it gets. */
JsonObject *node_child_options(JsonObject *parent, JsonObject *given)
{
    JsonObject *options = json_object_deep_copy(given);
    JsonObject *parent_cache = schema_get_object(parent, "cache");

    inherit(options, parent, "read-only");
    inherit(options, parent, "auto-read-only");
    inherit(options, parent, "force-share");
    if (parent_cache) {
        inherit(options, parent, "cache");
        inherit(schema_get_object(options, "cache"), parent_cache, "direct");
        inherit(schema_get_object(options, "cache"), parent_cache, "no-flush");
    }
    if (!json_object_has_member(options, "discard")) {
        json_object_set_string_member(options, "discard", "unmap");
    }
    return options;
}
