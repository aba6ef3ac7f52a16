/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options that nodes of all drivers have in common */
#include <string.h>

#include "block/graph-int.h"
#include "util/error.h"
#include "util/json-copy.h"

bool node_parse_options(NodeOptions *o, JsonObject *options, GError **errp)
{
    JsonObject *cache = schema_get_object(options, "cache");
    bool auto_read_only = schema_get_bool(options, "auto-read-only", false);

    *o = (NodeOptions){ 0 };
    o->read_only = schema_get_bool(options, "read-only", false);
    o->auto_read_only = auto_read_only && !o->read_only;
    o->force_share = schema_get_bool(options, "force-share", false);
    o->discard_unmap =
        !strcmp(schema_get_str(options, "discard", "ignore"), "unmap");
    o->detect_zeroes = schema_get_enum(
        options, "detect-zeroes", &detect_zeroes_type, BDRV_DETECT_ZEROES_OFF);
    if (cache) {
        o->cache_direct = schema_get_bool(cache, "direct", false);
        o->cache_no_flush = schema_get_bool(cache, "no-flush", false);
    }
    if (o->force_share && !o->read_only) {
        error_setg(errp,
                   "force-share=on can only be used with read-only images");
        return false;
    }
    if (o->detect_zeroes == BDRV_DETECT_ZEROES_UNMAP && !o->discard_unmap) {
        error_setg(errp, "Setting detect-zeroes to 'unmap' is not allowed "
                         "without setting discard to 'unmap'");
        return false;
    }
    return true;
}

NodeOptions bdrv_get_node_options(BlockDriverState *bs)
{
    NodeOptions o;

    graph_short_rdlock();
    o = (NodeOptions){
        .read_only = bdrv_is_read_only(bs),
        .auto_read_only = bs->auto_read_only,
        .force_share = bs->force_share,
        .discard_unmap = bs->discard_unmap,
        .detect_zeroes = bs->detect_zeroes,
        .cache_direct = bs->cache_direct,
        .cache_no_flush = bs->cache_no_flush,
    };
    graph_short_rdunlock();
    return o;
}

void node_set_options(BlockDriverState *bs, const NodeOptions *o)
{
    bdrv_set_read_only(bs, o->read_only);
    bs->auto_read_only = o->auto_read_only;
    bs->force_share = o->force_share;
    bs->discard_unmap = o->discard_unmap;
    bs->detect_zeroes = o->detect_zeroes;
    bs->cache_direct = o->cache_direct;
    bs->cache_no_flush = o->cache_no_flush;
}

JsonObject *bdrv_copy_options(BlockDriverState *bs)
{
    JsonObject *options;

    graph_short_rdlock();
    options = json_object_deep_copy(bs->options);
    graph_short_rdunlock();
    return options;
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
JsonObject *node_child_options(JsonObject *parent, const char *name,
                               JsonObject *given)
{
    JsonObject *options = json_object_deep_copy(given);
    JsonObject *parent_cache = schema_get_object(parent, "cache");

    if (strcmp(name, "backing")) {
        inherit(options, parent, "read-only");
        inherit(options, parent, "auto-read-only");
    } else if (!json_object_has_member(options, "read-only")) {
        json_object_set_boolean_member(options, "read-only", true);
    }
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
