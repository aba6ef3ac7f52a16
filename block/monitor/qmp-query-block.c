/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QMP: what nodes there are, and what went through them. Main thread: all of it
 * is in memory, behind short locks.
 */
#include "block/block-int.h"
#include "block/dirty-bitmap.h"
#include "block/monitor/qmp-nodes.h"
#include "block/status-json.h"
#include "monitor/qmp.h"

/* ---- query-named-block-nodes -------------------------------------------- */

static const SchemaType cache_info_type = {
    .name = "BlockdevCacheInfo",
    .kind = SCHEMA_OBJECT,
    .doc = "How the host's page cache is used.",
    .members =
        (const SchemaMember[]){
            { "writeback", &schema_bool,
              .doc = "Writes need a flush to be on stable storage: true." },
            { "direct", &schema_bool,
              .doc = "The page cache is passed by (O_DIRECT)." },
            { "no-flush", &schema_bool, .doc = "Flush requests are ignored." },
            { NULL },
        },
};

static const SchemaType file_cache_info_type = {
    .name = "BlockStatusCacheSettings",
    .kind = SCHEMA_OBJECT,
    .doc = "How a node remembers block status.",
    .members =
        (const SchemaMember[]){
            { "mode", &status_cache_mode_type, .doc = "What is remembered." },
            { "granularity", &schema_uint, .doc = "Bytes of a block." },
            { "size", &schema_uint,
              .doc = "Bytes of memory that may be used; 0: no limit." },
            { "strategy", &schema_str,
              .doc = "How the file system is asked: \"seek\", \"fiemap\" or "
                     "\"none\"." },
            { NULL },
        },
};

static const SchemaType image_info_file_type = {
    .name = "ImageInfoSpecificFile",
    .kind = SCHEMA_OBJECT,
    .doc = "An open file.",
    .members =
        (const SchemaMember[]){
            { "aio", &schema_str, .doc = "How requests are made." },
            { "locking", &schema_bool,
              .doc = "Whether QEMU's image locks are held." },
            { "status-cache", &file_cache_info_type,
              .doc = "The status cache." },
            { NULL },
        },
};

static const SchemaType image_info_file_wrapper_type = {
    .name = "ImageInfoSpecificFileWrapper",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "data", &image_info_file_type, .doc = "The file." },
            { NULL },
        },
};

static const SchemaType qcow2_bitmap_flags_type = {
    .name = "Qcow2BitmapInfoFlags",
    .kind = SCHEMA_ENUM,
    .doc = "in-use: it was not stored at the end, or is going to be; auto: it "
           "marks writes.",
    .values = (const char *const[]){ "in-use", "auto", NULL },
};

static const SchemaType qcow2_bitmap_flags_list_type = {
    .kind = SCHEMA_ARRAY,
    .element = &qcow2_bitmap_flags_type,
};

static const SchemaType qcow2_bitmap_type = {
    .name = "Qcow2BitmapInfo",
    .kind = SCHEMA_OBJECT,
    .doc = "A dirty bitmap that is stored in a qcow2 image.",
    .members =
        (const SchemaMember[]){
            { "name", &schema_str, .doc = "Its name." },
            { "granularity", &schema_int, .doc = "Bytes that a bit is about." },
            { "flags", &qcow2_bitmap_flags_list_type,
              .doc = "What the image says of it." },
            { NULL },
        },
};

static const SchemaType qcow2_bitmap_list_type = {
    .kind = SCHEMA_ARRAY,
    .element = &qcow2_bitmap_type,
};

static const SchemaType image_info_qcow2_type = {
    .name = "ImageInfoSpecificQCow2",
    .kind = SCHEMA_OBJECT,
    .doc = "A qcow2 image.",
    .members =
        (const SchemaMember[]){
            { "compat", &schema_str,
              .doc = "The version: \"0.10\" (2) or \"1.1\" (3)." },
            { "compression-type", &qcow2_compression_type,
              .doc = "How clusters are compressed." },
            { "refcount-bits", &schema_int, .doc = "Bits of a refcount." },
            { "lazy-refcounts", &schema_bool, .optional = true,
              .doc = "Refcounts may be written late; version 3 only." },
            { "corrupt", &schema_bool, .optional = true,
              .doc = "The image is marked as corrupt; version 3 only." },
            { "extended-l2", &schema_bool, .optional = true,
              .doc = "Clusters have subclusters: false; version 3 only." },
            { "bitmaps", &qcow2_bitmap_list_type, .optional = true,
              .doc = "Dirty bitmaps in the image; absent if there are none." },
            { NULL },
        },
};

static const SchemaType image_info_qcow2_wrapper_type = {
    .name = "ImageInfoSpecificQCow2Wrapper",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "data", &image_info_qcow2_type, .doc = "The image." },
            { NULL },
        },
};

static bool specific_branch(size_t n, const char **tag, const SchemaType **type)
{
    static const struct {
        const char *driver;
        const SchemaType *type;
    } drivers[] = {
        { "file", &image_info_file_wrapper_type },
        { "host_device", &image_info_file_wrapper_type },
        { "qcow2", &image_info_qcow2_wrapper_type },
    };

    if (n >= G_N_ELEMENTS(drivers)) {
        return false;
    }
    *tag = drivers[n].driver;
    *type = drivers[n].type;
    return true;
}

static const SchemaType format_specific_type = {
    .name = "ImageInfoSpecific",
    .kind = SCHEMA_OBJECT,
    .doc = "What only one driver has to tell.",
    .members =
        (const SchemaMember[]){
            { "type", &schema_str, .doc = "The driver." },
            { NULL },
        },
    .discriminator = "type",
    .branch = specific_branch,
};

static const SchemaType image_info_type;
static const SchemaMember image_info_members[] = {
    { "filename", &schema_str,
      .doc = "The file's name; \"json:\" and options where no name "
             "says it all." },
    { "format", &schema_str, .doc = "The driver's name." },
    { "actual-size", &schema_int, .optional = true,
      .doc = "Bytes allocated in the file system." },
    { "virtual-size", &schema_int, .doc = "Bytes of the disk." },
    { "format-specific", &format_specific_type, .optional = true,
      .doc = "What only this driver has to tell." },
    { "dirty-flag", &schema_bool, .optional = true,
      .doc = "The image was not closed, and may need to be checked." },
    { "cluster-size", &schema_int, .optional = true,
      .doc = "Bytes of a cluster." },
    { "backing-filename", &schema_str, .optional = true,
      .doc = "The backing file, as the image names it." },
    { "full-backing-filename", &schema_str, .optional = true,
      .doc = "The same with its directory." },
    { "backing-filename-format", &schema_str, .optional = true,
      .doc = "Its format, as the image tells it." },
    { "backing-image", &image_info_type, .optional = true,
      .doc = "The image behind this one: the backing file in use, or "
             "what a filter passes on." },
    { NULL },
};

static const SchemaType image_info_type = {
    .name = "ImageInfo",
    .kind = SCHEMA_OBJECT,
    .doc = "An image.",
    .members = image_info_members,
};

static const SchemaType dirty_info_type = {
    .name = "BlockDirtyInfo",
    .kind = SCHEMA_OBJECT,
    .doc = "A dirty bitmap.",
    .members =
        (const SchemaMember[]){
            { "name", &schema_str, .optional = true,
              .doc = "Its name; absent for a job's own." },
            { "count", &schema_int,
              .doc = "Dirty bytes, in whole granules; while a job uses it, "
                     "those that it began with." },
            { "granularity", &schema_int, .doc = "Bytes a bit stands for." },
            { "recording", &schema_bool, .doc = "Writes are marked in it." },
            { "busy", &schema_bool, .doc = "An operation uses it." },
            { "persistent", &schema_bool,
              .doc = "It is stored in the image when the node is closed." },
            { "inconsistent", &schema_bool, .optional = true,
              .doc = "It was not stored when its image was used last: it can "
                     "only be removed. Absent otherwise." },
            { NULL },
        },
};

static const SchemaType dirty_info_list_type = {
    .kind = SCHEMA_ARRAY,
    .element = &dirty_info_type,
};

static const SchemaType device_info_type = {
    .name = "BlockDeviceInfo",
    .kind = SCHEMA_OBJECT,
    .doc = "A node. Throttling is done by nodes of driver \"throttle\": the "
           "limits here are always 0.",
    .members =
        (const SchemaMember[]){
            { "file", &schema_str, .doc = "As \"filename\" of \"image\"." },
            { "node-name", &schema_str, .doc = "The node's name." },
            { "ro", &schema_bool, .doc = "Whether nobody can write to it." },
            { "drv", &schema_str, .doc = "The driver's name." },
            { "backing_file", &schema_str, .optional = true,
              .doc = "The name of the backing file in use." },
            { "backing_file_depth", &schema_int,
              .doc = "How many images lie behind it; 0 with \"flat\"." },
            { "encrypted", &schema_bool, .doc = "False." },
            { "detect_zeroes", &detect_zeroes_type,
              .doc = "What happens to writes of zeroes." },
            { "bps", &schema_int, .doc = "0: no limit." },
            { "bps_rd", &schema_int, .doc = "0: no limit." },
            { "bps_wr", &schema_int, .doc = "0: no limit." },
            { "iops", &schema_int, .doc = "0: no limit." },
            { "iops_rd", &schema_int, .doc = "0: no limit." },
            { "iops_wr", &schema_int, .doc = "0: no limit." },
            { "image", &image_info_type, .doc = "The image." },
            { "cache", &cache_info_type, .doc = "The host's page cache." },
            { "write_threshold", &schema_int, .doc = "0: none is set." },
            { "dirty-bitmaps", &dirty_info_list_type, .optional = true,
              .doc = "The node's dirty bitmaps; absent if it has none." },
            { NULL },
        },
};

static const SchemaType device_info_list_type = {
    .kind = SCHEMA_ARRAY,
    .element = &device_info_type,
};

static const SchemaType query_nodes_type = {
    .name = "q_obj_query-named-block-nodes-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "flat", &schema_bool, .optional = true,
              .doc = "Leave out the images behind the nodes' own. Default: "
                     "false." },
            { NULL },
        },
};

static JsonObject *device_info(BlockDriverState *bs, GHashTable *names,
                               bool flat)
{
    static const char *const limits[] = { "bps",  "bps_rd",  "bps_wr",
                                          "iops", "iops_rd", "iops_wr" };
    JsonObject *info = json_object_new();
    JsonObject *cache = json_object_new();
    JsonArray *bitmaps = bdrv_query_dirty_bitmaps(bs);
    int depth;
    JsonObject *image = qmp_image_info(names, bs, flat, &depth);
    AUTO_NODE backing = bdrv_get_backing(bs);
    NodeOptions o = bdrv_get_node_options(bs);
    size_t i;

    json_object_set_string_member(info, "node-name", bdrv_node_name(bs));
    json_object_set_string_member(info, "drv", bdrv_driver_name(bs));
    json_object_set_string_member(
        info, "file", json_object_get_string_member(image, "filename"));
    /* As in QEMU, what may become writable at any time is not read-only. */
    json_object_set_boolean_member(info, "ro",
                                   o.read_only && !o.auto_read_only);
    json_object_set_boolean_member(info, "encrypted", FALSE);
    json_object_set_string_member(info, "detect_zeroes",
                                  detect_zeroes_type.values[o.detect_zeroes]);
    if (backing) {
        json_object_set_string_member(info, "backing_file",
                                      qmp_image_filename(names, backing));
    }
    json_object_set_int_member(info, "backing_file_depth", depth);
    json_object_set_int_member(info, "write_threshold", 0);
    for (i = 0; i < G_N_ELEMENTS(limits); i++) {
        json_object_set_int_member(info, limits[i], 0);
    }
    json_object_set_object_member(info, "image", image);
    json_object_set_boolean_member(cache, "writeback", TRUE);
    json_object_set_boolean_member(cache, "direct", o.cache_direct);
    json_object_set_boolean_member(cache, "no-flush", o.cache_no_flush);
    json_object_set_object_member(info, "cache", cache);
    if (json_array_get_length(bitmaps) > 0) {
        json_object_set_array_member(info, "dirty-bitmaps", bitmaps);
    } else {
        json_array_unref(bitmaps);
    }
    return info;
}

static JsonNode *qmp_query_named_block_nodes(JsonObject *args, GError **errp)
{
    g_autoptr(GPtrArray) nodes = qmp_all_nodes();
    g_autoptr(GHashTable) names = qmp_image_names_new();
    bool flat = schema_get_bool(args, "flat", false);
    JsonArray *rows = json_array_new();
    guint i;

    /* The newest first, as clients know it */
    for (i = nodes->len; i > 0; i--) {
        json_array_add_object_element(
            rows, device_info(nodes->pdata[i - 1], names, flat));
    }
    return qmp_node_from_array(rows);
}

/* ---- query-blockstats --------------------------------------------------- */

static const SchemaType timed_stats_type = {
    .kind = SCHEMA_ARRAY,
    .element = &schema_any,
};

static const SchemaType device_stats_type = {
    .name = "BlockDeviceStats",
    .kind = SCHEMA_OBJECT,
    .doc = "Requests that were done and what they took.",
    .members =
        (const SchemaMember[]){
            { "rd_bytes", &schema_int, .doc = "Bytes read." },
            { "wr_bytes", &schema_int, .doc = "Bytes written." },
            { "unmap_bytes", &schema_int, .doc = "Bytes discarded." },
            { "zero_bytes", &schema_int, .doc = "Bytes of zero-writes." },
            { "rd_operations", &schema_int, .doc = "Reads." },
            { "wr_operations", &schema_int, .doc = "Writes." },
            { "flush_operations", &schema_int, .doc = "Flushes." },
            { "unmap_operations", &schema_int, .doc = "Discards." },
            { "zero_operations", &schema_int, .doc = "Zero-writes." },
            { "rd_total_time_ns", &schema_int,
              .doc = "Nanoseconds of all reads together." },
            { "wr_total_time_ns", &schema_int, .doc = "Of all writes." },
            { "flush_total_time_ns", &schema_int, .doc = "Of all flushes." },
            { "unmap_total_time_ns", &schema_int, .doc = "Of all discards." },
            { "zero_total_time_ns", &schema_int, .doc = "Of all zero-writes." },
            { "wr_highest_offset", &schema_int,
              .doc = "The end of the highest byte ever written." },
            { "rd_merged", &schema_int, .doc = "0: nothing is merged." },
            { "wr_merged", &schema_int, .doc = "0." },
            { "unmap_merged", &schema_int, .doc = "0." },
            { "failed_rd_operations", &schema_int,
              .doc = "Reads that failed." },
            { "failed_wr_operations", &schema_int,
              .doc = "Writes that failed." },
            { "failed_flush_operations", &schema_int,
              .doc = "Flushes that failed." },
            { "failed_unmap_operations", &schema_int,
              .doc = "Discards that failed." },
            { "failed_zero_operations", &schema_int,
              .doc = "Zero-writes that failed." },
            { "invalid_rd_operations", &schema_int,
              .doc = "0: invalid requests are answered before they count." },
            { "invalid_wr_operations", &schema_int, .doc = "0." },
            { "invalid_flush_operations", &schema_int, .doc = "0." },
            { "invalid_unmap_operations", &schema_int, .doc = "0." },
            { "account_invalid", &schema_bool, .doc = "False." },
            { "account_failed", &schema_bool,
              .doc = "Whether failed requests are part of the times: true." },
            { "timed_stats", &timed_stats_type, .doc = "Empty." },
            { NULL },
        },
};

static const SchemaType stats_specific_file_type = {
    .name = "BlockStatsSpecificFile",
    .kind = SCHEMA_OBJECT,
    .doc = "What the drivers \"file\" and \"host_device\" count.",
    .members =
        (const SchemaMember[]){
            { "discard-nb-ok", &schema_uint, .doc = "Discards done." },
            { "discard-nb-failed", &schema_uint,
              .doc = "Discards that failed." },
            { "discard-bytes-ok", &schema_uint, .doc = "Bytes discarded." },
            { "status-cache", &block_status_cache_stats_type, .optional = true,
              .doc = "The status cache; absent if the node has none." },
            { NULL },
        },
};

static const SchemaType stats_specific_nbd_type = {
    .name = "BlockStatsSpecificNbd",
    .kind = SCHEMA_OBJECT,
    .doc = "What the driver \"nbd\" counts.",
    .members =
        (const SchemaMember[]){
            { "status-cache", &block_status_cache_stats_type,
              .doc = "The status cache. Its probes are questions to the "
                     "server." },
            { NULL },
        },
};

static bool stats_branch(size_t n, const char **tag, const SchemaType **type)
{
    static const struct {
        const char *driver;
        const SchemaType *type;
    } drivers[] = {
        { "file", &stats_specific_file_type },
        { "host_device", &stats_specific_file_type },
        { "nbd", &stats_specific_nbd_type },
    };

    if (n >= G_N_ELEMENTS(drivers)) {
        return false;
    }
    *tag = drivers[n].driver;
    *type = drivers[n].type;
    return true;
}

static const SchemaType stats_specific_type = {
    .name = "BlockStatsSpecific",
    .kind = SCHEMA_OBJECT,
    .doc = "What one driver counts and others do not.",
    .members =
        (const SchemaMember[]){
            { "driver", &schema_str, .doc = "The driver." },
            { NULL },
        },
    .discriminator = "driver",
    .branch = stats_branch,
};

static const SchemaType block_stats_type;
static const SchemaMember block_stats_members[] = {
    { "device", &schema_str, .optional = true,
      .doc = "Absent: users of nodes have no name of this kind." },
    { "node-name", &schema_str, .optional = true, .doc = "The node's name." },
    { "stats", &device_stats_type,
      .doc = "Of the exports and jobs that use the node." },
    { "driver-specific", &stats_specific_type, .optional = true,
      .doc = "What only this driver counts." },
    { "parent", &block_stats_type, .optional = true,
      .doc = "The same for the node below this one." },
    { NULL },
};

static const SchemaType block_stats_type = {
    .name = "BlockStats",
    .kind = SCHEMA_OBJECT,
    .doc = "What went through a node.",
    .members = block_stats_members,
};

static const SchemaType block_stats_list_type = {
    .kind = SCHEMA_ARRAY,
    .element = &block_stats_type,
};

static const SchemaType query_blockstats_type = {
    .name = "q_obj_query-blockstats-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "query-nodes", &schema_bool, .optional = true,
              .doc = "Show all nodes, not only those that exports and jobs "
                     "use. Default: false." },
            { NULL },
        },
};

static JsonObject *device_stats(const BlockStats *s)
{
    const struct {
        const char *name;
        uint64_t value;
    } members[] = {
        { "rd_bytes", s->rd_bytes },
        { "wr_bytes", s->wr_bytes },
        { "unmap_bytes", s->unmap_bytes },
        { "zero_bytes", s->zero_bytes },
        { "rd_operations", s->rd_operations },
        { "wr_operations", s->wr_operations },
        { "flush_operations", s->flush_operations },
        { "unmap_operations", s->unmap_operations },
        { "zero_operations", s->zero_operations },
        { "rd_total_time_ns", s->rd_total_time_ns },
        { "wr_total_time_ns", s->wr_total_time_ns },
        { "flush_total_time_ns", s->flush_total_time_ns },
        { "unmap_total_time_ns", s->unmap_total_time_ns },
        { "zero_total_time_ns", s->zero_total_time_ns },
        { "wr_highest_offset", s->wr_highest_offset },
        { "rd_merged", 0 },
        { "wr_merged", 0 },
        { "unmap_merged", 0 },
        { "failed_rd_operations", s->failed_rd_operations },
        { "failed_wr_operations", s->failed_wr_operations },
        { "failed_flush_operations", s->failed_flush_operations },
        { "failed_unmap_operations", s->failed_unmap_operations },
        { "failed_zero_operations", s->failed_zero_operations },
        { "invalid_rd_operations", 0 },
        { "invalid_wr_operations", 0 },
        { "invalid_flush_operations", 0 },
        { "invalid_unmap_operations", 0 },
    };
    JsonObject *obj = json_object_new();
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(members); i++) {
        json_object_set_int_member(obj, members[i].name, members[i].value);
    }
    json_object_set_boolean_member(obj, "account_invalid", FALSE);
    json_object_set_boolean_member(obj, "account_failed", TRUE);
    json_object_set_array_member(obj, "timed_stats", json_array_new());
    return obj;
}

static JsonObject *node_stats(BlockDriverState *bs)
{
    JsonObject *row = json_object_new();
    AUTO_NODE file = bdrv_get_file(bs);
    BlockStats stats;

    bdrv_get_stats(bs, &stats);
    json_object_set_string_member(row, "node-name", bdrv_node_name(bs));
    json_object_set_object_member(row, "stats", device_stats(&stats));
    if (bs->drv->get_specific_stats) {
        JsonObject *specific = bs->drv->get_specific_stats(bs);

        json_object_set_object_member(row, "driver-specific", specific);
    }
    if (file) {
        json_object_set_object_member(row, "parent", node_stats(file));
    }
    return row;
}

static JsonNode *qmp_query_blockstats(JsonObject *args, GError **errp)
{
    g_autoptr(GPtrArray) nodes = qmp_all_nodes();
    bool query_nodes = schema_get_bool(args, "query-nodes", false);
    JsonArray *rows = json_array_new();
    guint i;

    for (i = 0; i < nodes->len; i++) {
        if (query_nodes || bdrv_has_users(nodes->pdata[i])) {
            json_array_add_object_element(rows, node_stats(nodes->pdata[i]));
        }
    }
    return qmp_node_from_array(rows);
}

const QmpCommand qmp_query_block_commands[] = {
    {
        .name = "query-named-block-nodes",
        .thread = QMP_MAIN,
        .args = &query_nodes_type,
        .ret = &device_info_list_type,
        .doc = "Show all nodes.",
        .example = "{}",
        .handler = qmp_query_named_block_nodes,
    },
    {
        .name = "query-blockstats",
        .thread = QMP_MAIN,
        .args = &query_blockstats_type,
        .ret = &block_stats_list_type,
        .doc = "Show what went through nodes.",
        .example = "{\"query-nodes\": true}",
        .handler = qmp_query_blockstats,
    },
    { NULL },
};
