/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a running daemon knows of a disk, for seekless-img map --qmp */
#include <inttypes.h>
#include <string.h>

#include "tools/img-map.h"
#include "util/error.h"
#include "util/schema.h"

#define ENTRIES_AT_ONCE 10000

/* The member @name of that type, or NULL and @errp: a daemon is a stranger. */
static JsonNode *get_member(JsonObject *object, const char *name, GType type,
                            GError **errp)
{
    JsonNode *node = object ? json_object_get_member(object, name) : NULL;

    if (!node || json_node_get_value_type(node) != type) {
        error_setg(errp,
                   "The daemon's answer has no member '%s' that makes "
                   "sense",
                   name);
        return NULL;
    }
    return node;
}

static bool get_int(JsonObject *object, const char *name, int64_t *value,
                    GError **errp)
{
    JsonNode *node = get_member(object, name, G_TYPE_INT64, errp);

    *value = node ? json_node_get_int(node) : 0;
    if (*value < 0) {
        error_setg(errp, "The daemon's answer has '%s': %" PRId64, name,
                   *value);
        return false;
    }
    return node != NULL;
}

static bool get_bool(JsonObject *object, const char *name, bool *value,
                     GError **errp)
{
    JsonNode *node = get_member(object, name, G_TYPE_BOOLEAN, errp);

    *value = node && json_node_get_boolean(node);
    return node != NULL;
}

static JsonObject *as_object(JsonNode *node)
{
    return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node)
                                                : NULL;
}

static bool parse_entry(JsonNode *node, int64_t offset, ImgMapEntry *e,
                        GError **errp)
{
    JsonObject *object = as_object(node);
    int64_t depth;
    bool known;

    *e = (ImgMapEntry){ 0 };
    if (!get_int(object, "start", &e->start, errp) ||
        !get_int(object, "length", &e->length, errp) ||
        !get_int(object, "depth", &depth, errp) ||
        !get_bool(object, "present", &e->present, errp) ||
        !get_bool(object, "zero", &e->zero, errp) ||
        !get_bool(object, "data", &e->data, errp) ||
        !get_bool(object, "known", &known, errp)) {
        return false;
    }
    e->unknown = !known;
    e->depth = MIN(depth, INT32_MAX);
    e->has_offset = json_object_has_member(object, "offset");
    if (e->has_offset && !get_int(object, "offset", &e->offset, errp)) {
        return false;
    }
    if (e->start != offset || e->length == 0 ||
        e->length > INT64_MAX - e->start) {
        error_setg(errp,
                   "The daemon's map does not go on at offset %" PRId64
                   ", but has %" PRId64 " bytes at %" PRId64,
                   offset, e->length, e->start);
        return false;
    }
    return true;
}

/* The next entries, from *@offset on, which is moved; *@more: there are others. */
static bool take_entries(JsonObject *map, int64_t *offset, int64_t end,
                         ImgMapMerger *merger, bool *more, GError **errp)
{
    JsonNode *node = map ? json_object_get_member(map, "entries") : NULL;
    int64_t next = -1;
    JsonArray *entries;
    guint i;

    if (!node || !JSON_NODE_HOLDS_ARRAY(node)) {
        error_setg(errp, "The daemon's answer is no map");
        return false;
    }
    entries = json_node_get_array(node);
    for (i = 0; i < json_array_get_length(entries) && *offset < end; i++) {
        ImgMapEntry e;

        if (!parse_entry(json_array_get_element(entries, i), *offset, &e,
                         errp)) {
            return false;
        }
        e.length = MIN(e.length, end - e.start);
        *offset += e.length;
        if (!img_map_add(merger, &e)) {
            return false;
        }
    }
    *more = json_object_has_member(map, "next-offset") && *offset < end;
    if (*more && (!get_int(map, "next-offset", &next, errp) || i == 0)) {
        if (errp && !*errp) {
            error_setg(errp, "The daemon's map does not go on");
        }
        return false;
    }
    return true;
}

bool img_map_live(ImgQmp *qmp, const char *node, int64_t offset, int64_t bytes,
                  ImgMapMerger *merger, GError **errp)
{
    int64_t end = bytes > INT64_MAX - offset ? INT64_MAX : offset + bytes;
    bool more = bytes > 0;

    while (more) {
        JsonObject *arguments = json_object_new();
        g_autoptr(JsonNode) answer = NULL;

        json_object_set_string_member(arguments, "node-name", node);
        json_object_set_int_member(arguments, "offset", offset);
        json_object_set_int_member(arguments, "limit", ENTRIES_AT_ONCE);
        json_object_set_boolean_member(arguments, "probe", false);
        answer = img_qmp_command(qmp, "x-query-block-map", arguments, errp);
        if (!answer || !take_entries(as_object(answer), &offset, end, merger,
                                     &more, errp)) {
            return false;
        }
    }
    return true;
}

bool img_map_live_length(ImgQmp *qmp, const char *node, int64_t *length,
                         GError **errp)
{
    g_autoptr(JsonNode) answer = NULL;
    JsonArray *nodes;
    guint i;

    answer = img_qmp_command(qmp, "query-named-block-nodes", NULL, errp);
    if (!answer) {
        return false;
    }
    nodes = JSON_NODE_HOLDS_ARRAY(answer) ? json_node_get_array(answer) : NULL;
    for (i = 0; nodes && i < json_array_get_length(nodes); i++) {
        JsonObject *info = as_object(json_array_get_element(nodes, i));

        if (info && !strcmp(json_object_get_string_member_with_default(
                                info, "node-name", ""),
                            node)) {
            JsonNode *image = json_object_get_member(info, "image");

            return get_int(as_object(image), "virtual-size", length, errp);
        }
    }
    error_setg(errp, "The daemon has no node '%s'", node);
    return false;
}

/* ---- the status cache's counters --------------------------------------------- */

JsonObject *img_map_live_cache(ImgQmp *qmp, const char *node)
{
    JsonObject *arguments = json_object_new();
    g_autoptr(JsonNode) answer = NULL;
    JsonArray *rows;
    JsonObject *row;

    json_object_set_string_member(arguments, "node-name", node);
    answer = img_qmp_command(qmp, "query-block-status-cache", arguments, NULL);
    if (!answer || !JSON_NODE_HOLDS_ARRAY(answer)) {
        return NULL;
    }
    rows = json_node_get_array(answer);
    row = json_array_get_length(rows)
              ? as_object(json_array_get_element(rows, 0))
              : NULL;
    return row ? json_object_ref(row) : NULL;
}

void img_map_print_cache(JsonObject *cache, bool json)
{
    static const char *const shown[] = {
        "lookups", "hits", "misses", "probes", "extents", "memory",
    };
    size_t i;

    if (json) {
        JsonNode *node = json_node_new(JSON_NODE_NULL);

        if (cache) {
            json_node_init_object(node, cache);
        }
        img_print_json(node);
        return;
    }
    if (!cache) {
        puts("No status cache of its own");
        return;
    }
    printf("Status cache:");
    for (i = 0; i < G_N_ELEMENTS(shown); i++) {
        if (schema_has(cache, shown[i])) {
            printf("%s %s %" PRId64, i ? "," : "", shown[i],
                   schema_get_int(cache, shown[i], 0));
        }
    }
    putchar('\n');
}
