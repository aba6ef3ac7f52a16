/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QMP: what the status caches know, and how to make them forget it */
#include <string.h>

#include "block/block-int.h"
#include "block/monitor/qmp-nodes.h"
#include "block/status-json.h"
#include "block/status-verify.h"
#include "monitor/monitor.h"
#include "monitor/qmp.h"
#include "qmp-jobs.h"
#include "qmp-tables.h"

static const SchemaType optional_node_type = {
    .name = "q_obj_query-block-status-cache-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "node-name", &schema_str, .optional = true,
              .doc = "The node; also one that passes the contents of another "
                     "through. Default: all nodes that have a cache." },
            { NULL },
        },
};

static const SchemaType node_type = {
    .name = "q_obj_block-status-cache-flush-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "node-name", &schema_str,
              .doc = "The node; also one that passes the contents of another "
                     "through." },
            { NULL },
        },
};

static const SchemaType info_list_type = {
    .kind = SCHEMA_ARRAY,
    .element = &block_status_cache_info_type,
};

/* The row of a node that has a cache of its own; otherwise NULL */
static JsonObject *cache_info(BlockDriverState *bs)
{
    JsonObject *stats, *info = NULL;

    if (!bs->drv->get_specific_stats) {
        return NULL;
    }
    stats = bs->drv->get_specific_stats(bs);
    if (json_object_has_member(stats, "status-cache")) {
        info = json_object_ref(
            json_object_get_object_member(stats, "status-cache"));
        json_object_set_string_member(info, "node-name", bdrv_node_name(bs));
    }
    json_object_unref(stats);
    return info;
}

/* The row of the cache that answers for @bs; NULL and @errp if there is none */
static JsonObject *find_cache_info(BlockDriverState *bs, GError **errp)
{
    g_autoptr(StatusCache) cache = bdrv_get_status_cache(bs);
    AUTO_NODE node = bdrv_ref(bs);
    JsonObject *info = NULL;

    while (cache && node && !(info = cache_info(node))) {
        BlockDriverState *file = bdrv_get_file(node);

        bdrv_unref_later(node);
        node = file;
    }
    if (!info) {
        error_setg(errp, "Node '%s' has no status cache", bdrv_node_name(bs));
    }
    return info;
}

static JsonNode *qmp_query_block_status_cache(JsonObject *args, GError **errp)
{
    const char *name = schema_get_str(args, "node-name", NULL);
    JsonArray *rows = json_array_new();
    guint i;

    if (name) {
        AUTO_NODE bs = bdrv_find_node(name, errp);
        JsonObject *info = bs ? find_cache_info(bs, errp) : NULL;

        if (!info) {
            json_array_unref(rows);
            return NULL;
        }
        json_array_add_object_element(rows, info);
    } else {
        g_autoptr(GPtrArray) nodes = qmp_all_nodes();

        for (i = 0; i < nodes->len; i++) {
            JsonObject *info = cache_info(nodes->pdata[i]);

            if (info) {
                json_array_add_object_element(rows, info);
            }
        }
    }
    return qmp_node_from_array(rows);
}

static JsonNode *qmp_block_status_cache_flush(JsonObject *args, GError **errp)
{
    const char *name = json_object_get_string_member(args, "node-name");
    AUTO_NODE bs = bdrv_find_node(name, errp);
    g_autoptr(StatusCache) cache = NULL;

    if (!bs) {
        return NULL;
    }
    cache = bdrv_get_status_cache(bs);
    if (!cache) {
        error_setg(errp, "Node '%s' has no status cache", name);
        return NULL;
    }
    status_cache_flush(cache);
    return NULL;
}

/* ---- block-status-cache-verify ------------------------------------------ */

static const SchemaType verify_type = {
    .name = "q_obj_block-status-cache-verify-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "job-id", &schema_str,
              .doc = "The job's name: a letter, then letters, digits, \"-\", "
                     "\".\" and \"_\"." },
            { "node-name", &schema_str,
              .doc = "The node; also one that passes the contents of another "
                     "through: all that is below it is verified." },
            { "speed", &schema_int, .optional = true,
              .doc = "Bytes to read in a second at most. Default: 0, no "
                     "limit." },
            { "auto-finalize", &schema_bool, .optional = true,
              .doc = "Do not wait for job-finalize. Default: true." },
            { "auto-dismiss", &schema_bool, .optional = true,
              .doc = "Do not wait for job-dismiss. Default: true." },
            { NULL },
        },
};

static JsonNode *qmp_block_status_cache_verify(JsonObject *args, GError **errp)
{
    JobOptions options = qmp_job_options(args);

    status_verify_start(json_object_get_string_member(args, "node-name"),
                        &options, errp);
    return NULL;
}

static const SchemaType mismatch_type = {
    .name = "q_obj_BLOCK_STATUS_CACHE_MISMATCH-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "node-name", &schema_str, .doc = "The node that has the cache." },
            { "job-id", &schema_str, .doc = "The job that found it." },
            { "offset", &schema_int,
              .doc = "Where on that node it begins, in bytes." },
            { "length", &schema_int, .doc = "Bytes." },
            { NULL },
        },
};

const QmpEvent qmp_status_cache_events[] = {
    { "BLOCK_STATUS_CACHE_MISMATCH", &mismatch_type,
      .doc =
          "A job of block-status-cache-verify has read data where the status "
          "cache knew zeroes. The cache believes in no zeroes from now on, "
          "until no node has the disk open any more. One event for each "
          "range that the job tells, 64 at most; then it fails. Copies that "
          "were made with the help of that cache should be made again." },
    { NULL },
};

/* ---- x-query-block-map -------------------------------------------------- */

#define MAP_DEFAULT_LIMIT 1000
#define MAP_MAX_LIMIT 100000
/* An entry may need many answers, but the whole not more than so many each */
#define MAP_ANSWERS_PER_ENTRY 64

static const SchemaType map_args_type = {
    .name = "q_obj_x-query-block-map-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "node-name", &schema_str, .doc = "The node." },
            { "offset", &schema_uint, .optional = true,
              .doc = "Where to begin, in bytes. Default: 0." },
            { "limit", &schema_uint, .optional = true,
              .doc = "How many entries at most, from 1 to 100000. Default: "
                     "1000." },
            { "probe", &schema_bool, .optional = true,
              .doc = "Whether to ask the file system about what is not known. "
                     "Otherwise that is data, and not known. Default: true." },
            { NULL },
        },
};

static const SchemaType map_entry_type = {
    .name = "BlockMapEntry",
    .kind = SCHEMA_OBJECT,
    .doc = "A part of a disk whose status is the same throughout, as "
           "\"qemu-img map --output=json\" has it.",
    .members =
        (const SchemaMember[]){
            { "start", &schema_uint, .doc = "Where it begins, in bytes." },
            { "length", &schema_uint, .doc = "Bytes." },
            { "depth", &schema_uint,
              .doc = "In which image of a backing chain it is; 0: the node "
                     "itself, or none." },
            { "present", &schema_bool,
              .doc = "It is allocated in this or another image of the "
                     "chain." },
            { "zero", &schema_bool, .doc = "It reads as zeroes." },
            { "data", &schema_bool, .doc = "It holds data." },
            { "offset", &schema_uint, .optional = true,
              .doc = "Where it begins in that image's file, in bytes." },
            { "known", &schema_bool,
              .doc = "Whether that was known from memory; otherwise the file "
                     "system had to be asked, and is not for the next time; "
                     "or, without \"probe\", nobody knows." },
            { NULL },
        },
};

static const SchemaType map_entries_type = {
    .kind = SCHEMA_ARRAY,
    .element = &map_entry_type,
};

static const SchemaType map_type = {
    .name = "BlockMap",
    .kind = SCHEMA_OBJECT,
    .doc = "A map of a disk or a part of it.",
    .members =
        (const SchemaMember[]){
            { "entries", &map_entries_type,
              .doc = "Its parts, in order and without gaps." },
            { "next-offset", &schema_uint, .optional = true,
              .doc = "Where to go on; absent if the map reaches the end of the "
                     "disk." },
            { NULL },
        },
};

typedef struct MapEntry {
    int64_t start, length, map;
    int flags;
    int depth; /* 1: the node itself; 0: it is nowhere */
} MapEntry;

/* What decides whether two answers are one entry */
#define MAP_FLAGS                                                              \
    (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO | BDRV_BLOCK_OFFSET_VALID |             \
     BDRV_BLOCK_ALLOCATED | BDRV_BLOCK_PROBED)

static JsonObject *map_entry_to_json(const MapEntry *e)
{
    JsonObject *obj = json_object_new();

    json_object_set_int_member(obj, "start", e->start);
    json_object_set_int_member(obj, "length", e->length);
    json_object_set_int_member(obj, "depth", MAX(e->depth - 1, 0));
    json_object_set_boolean_member(obj, "present", e->depth > 0);
    json_object_set_boolean_member(obj, "zero", !!(e->flags & BDRV_BLOCK_ZERO));
    json_object_set_boolean_member(obj, "data", !!(e->flags & BDRV_BLOCK_DATA));
    if (e->flags & BDRV_BLOCK_OFFSET_VALID) {
        json_object_set_int_member(obj, "offset", e->map);
    }
    json_object_set_boolean_member(obj, "known",
                                   !(e->flags & BDRV_BLOCK_PROBED));
    return obj;
}

static bool map_entry_extend(MapEntry *e, const MapEntry *next)
{
    if (e->length == 0 || e->flags != next->flags || e->depth != next->depth ||
        ((e->flags & BDRV_BLOCK_OFFSET_VALID) &&
         e->map + e->length != next->map)) {
        return false;
    }
    e->length += next->length;
    return true;
}

/*
 * What lies at @offset, as far as it is all alike; flags or -errno. At the end
 * of the disk the length is 0. Nobody keeps the disk from becoming shorter, and
 * a question that reaches beyond the end is refused: then it is asked again.
 */
static int map_ask(BlockBackend *blk, unsigned want, int64_t offset,
                   MapEntry *answer)
{
    int64_t length = blk_getlength(blk), before;
    int ret;

    do {
        before = length;
        *answer = (MapEntry){ .start = offset };
        if (length < 0) {
            return length;
        }
        if (offset >= length) {
            return 0;
        }
        ret =
            blk_block_status_map(blk, offset, length - offset, want,
                                 &answer->length, &answer->map, &answer->depth);
        length = blk_getlength(blk);
    } while (ret < 0 && length != before);
    return ret;
}

/*
 * The map of the disk from @offset on; *@next is where it ends, or -1 if there
 * is no more. Ends early at exit: the daemon waits for this thread.
 */
static JsonArray *map_entries(BlockBackend *blk, unsigned want, int64_t offset,
                              int64_t limit, int64_t *next, GError **errp)
{
    int64_t answers = limit * MAP_ANSWERS_PER_ENTRY;
    JsonArray *entries = json_array_new();
    MapEntry entry = { .start = offset }, answer;

    *next = -1;
    for (;;) {
        int ret = map_ask(blk, want, offset, &answer);

        if (ret < 0) {
            error_setg_errno(errp, -ret,
                             "Could not get the block status at offset "
                             "%" G_GINT64_FORMAT,
                             offset);
            json_array_unref(entries);
            return NULL;
        }
        if (answer.length == 0) {
            break;
        }
        answer.flags = ret & MAP_FLAGS;
        if (!map_entry_extend(&entry, &answer)) {
            if (entry.length > 0) {
                json_array_add_object_element(entries,
                                              map_entry_to_json(&entry));
                entry.length = 0;
                if (--limit == 0) {
                    *next = offset;
                    break;
                }
            }
            entry = answer;
        }
        offset += answer.length;
        if (--answers == 0 || daemon_quit_requested()) {
            *next = offset;
            break;
        }
    }
    if (entry.length > 0) {
        json_array_add_object_element(entries, map_entry_to_json(&entry));
    }
    return entries;
}

/* As a job's: it stays at the node that was named, whatever is moved. */
static BlockBackend *attach_map(const char *node_name, GError **errp)
{
    BlockDriverState *bs;
    BlockBackend *blk = NULL;

    /* Who deletes a node holds this and waits for references to go. */
    bdrv_graph_lock();
    bs = bdrv_find_node(node_name, errp);
    if (bs) {
        blk = blk_new("command 'x-query-block-map'", true, 0, BLK_PERM_ALL);
        if (!blk_attach(blk, bs, errp)) {
            g_clear_pointer(&blk, blk_free);
        }
        bdrv_unref(bs);
    }
    bdrv_graph_unlock();
    return blk;
}

static void detach_map(BlockBackend *blk)
{
    bdrv_graph_lock();
    blk_free(blk);
    bdrv_graph_unlock();
}

static JsonNode *qmp_x_query_block_map(JsonObject *args, GError **errp)
{
    int64_t offset = schema_get_int(args, "offset", 0);
    int64_t limit = schema_get_int(args, "limit", MAP_DEFAULT_LIMIT);
    unsigned want =
        BDRV_WANT_PRECISE |
        (schema_get_bool(args, "probe", true) ? 0 : BDRV_WANT_KNOWN);
    int64_t length, next = -1;
    JsonArray *entries = NULL;
    JsonObject *map;
    BlockBackend *blk;

    if (limit < 1 || limit > MAP_MAX_LIMIT) {
        error_setg(errp, "Parameter 'limit' expects a number from 1 to %d",
                   MAP_MAX_LIMIT);
        return NULL;
    }
    blk = attach_map(json_object_get_string_member(args, "node-name"), errp);
    if (!blk) {
        return NULL;
    }
    length = blk_getlength(blk);
    if (length < 0) {
        error_setg_errno(errp, -length, "Could not get the length of the disk");
    } else if (offset > length) {
        error_setg(errp,
                   "Parameter 'offset' expects a number up to %" G_GINT64_FORMAT
                   ", the length of the disk",
                   length);
    } else {
        entries = map_entries(blk, want, offset, limit, &next, errp);
    }
    detach_map(blk);
    if (!entries) {
        return NULL;
    }
    map = json_object_new();
    json_object_set_array_member(map, "entries", entries);
    if (next >= 0) {
        json_object_set_int_member(map, "next-offset", next);
    }
    return qmp_node_from_object(map);
}

const QmpCommand qmp_status_cache_commands[] = {
    {
        .name = "query-block-status-cache",
        .thread = QMP_MAIN,
        .args = &optional_node_type,
        .ret = &info_list_type,
        .doc = "Show what status caches know and what they saved.",
        .example = "{\"node-name\": \"disk0\"}",
        .errors = "There is no such node, or it has no status cache.",
        .handler = qmp_query_block_status_cache,
    },
    {
        .name = "block-status-cache-flush",
        .thread = QMP_WORKER,
        .args = &node_type,
        .doc =
            "Make a status cache forget everything: for somebody who changed "
            "the file behind the daemon's back.",
        .example = "{\"node-name\": \"disk0\"}",
        .errors = "There is no such node, or it has no status cache.",
        .handler = qmp_block_status_cache_flush,
    },
    {
        .name = "block-status-cache-verify",
        .thread = QMP_MANAGEMENT,
        .args = &verify_type,
        .doc =
            "Read from the disk all that a status cache calls zero, while it "
            "is in use, by a job. It ends by itself; its length is that of "
            "the zeroes. If it finds data there is an event "
            "BLOCK_STATUS_CACHE_MISMATCH for each place that the request has "
            "found, the cache is data-only from then on, and the job "
            "fails without looking at the rest. What is written while the "
            "job reads is not mistaken for that. A cache that knows no "
            "zeroes has none that could be wrong: the job succeeds, and its "
            "length is 0.",
        .example = "{\"job-id\": \"verify0\", \"node-name\": \"disk0\","
                   " \"speed\": 10485760}",
        .errors = "There is no such node, it has no status cache, or one "
                  "where a mismatch was found before; the job-id is taken or "
                  "not well-formed; speed is negative.",
        .handler = qmp_block_status_cache_verify,
    },
    {
        .name = "x-query-block-map",
        .thread = QMP_WORKER,
        .unstable = true,
        .args = &map_args_type,
        .ret = &map_type,
        .doc = "Show which parts of a disk hold data and which read as zeroes. "
               "What is unknown is asked of the file system, and known from "
               "then on, unless \"probe\" is false.",
        .example = "{\"node-name\": \"disk0\", \"offset\": 1048576,"
                   " \"limit\": 10}",
        .errors = "There is no such node; offset lies beyond the end of the "
                  "disk, or limit out of its range; the file system gives "
                  "no answer.",
        .handler = qmp_x_query_block_map,
    },
    { NULL },
};
