/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A status cache as QMP shows it */
#include "block/status-json.h"

static const char *const mode_names[] = {
    [STATUS_CACHE_OFF] = "off",
    [STATUS_CACHE_DATA_ONLY] = "data-only",
    [STATUS_CACHE_ON] = "on",
    NULL,
};

const SchemaType status_cache_mode_type = {
    .name = "StatusCacheMode",
    .kind = SCHEMA_ENUM,
    .doc = "How much of block status is remembered: nothing; which blocks are "
           "data; or which are data and which read as zeroes.",
    .values = mode_names,
};

static const SchemaType strategy_type = {
    .name = "StatusProbeStrategy",
    .kind = SCHEMA_ENUM,
    .doc = "How the file system is asked: with lseek(2), with FIEMAP, or not "
           "at all (what is unknown is then taken for data).",
    .values = (const char *const[]){ "seek", "fiemap", "none", NULL },
};

static const char *const call_names[] = {
    [STATUS_PROBE_SEEK_DATA] = "seek-data",
    [STATUS_PROBE_SEEK_HOLE] = "seek-hole",
    [STATUS_PROBE_FIEMAP] = "fiemap",
    [STATUS_PROBE_CACHESTAT] = "cachestat",
};
G_STATIC_ASSERT(G_N_ELEMENTS(call_names) == STATUS_PROBE_KINDS);

static const SchemaType calls_type = {
    .name = "StatusProbeCalls",
    .kind = SCHEMA_OBJECT,
    .doc = "System calls of probes by kind.",
    .members =
        (const SchemaMember[]){
            { "seek-data", &schema_uint, .doc = "lseek(SEEK_DATA)" },
            { "seek-hole", &schema_uint, .doc = "lseek(SEEK_HOLE)" },
            { "fiemap", &schema_uint, .doc = "ioctl(FS_IOC_FIEMAP)" },
            { "cachestat", &schema_uint, .doc = "cachestat(2)" },
            { NULL },
        },
};

static const SchemaType uint_array_type = {
    .kind = SCHEMA_ARRAY,
    .element = &schema_uint,
};

static const SchemaType histogram_type = {
    .name = "BlockLatencyHistogramInfo",
    .kind = SCHEMA_OBJECT,
    .doc = "A histogram of times.",
    .members =
        (const SchemaMember[]){
            { "boundaries", &uint_array_type,
              .doc = "Interval bounds in nanoseconds, ascending: the first "
                     "interval begins at 0, the last has no end." },
            { "bins", &uint_array_type,
              .doc = "How many fell into each interval: one more than there "
                     "are boundaries." },
            { NULL },
        },
};

/* BlockStatusCacheInfo; what follows the name is BlockStatusCacheStats. */
static const SchemaMember info_members[] = {
    { "node-name", &schema_str, .doc = "The node that has the cache." },
    { "mode", &status_cache_mode_type,
      .doc = "What is remembered at the moment: zeroes are not "
             "while somebody else may write to the file, nor if the cache is "
             "distrusted." },
    { "distrusted", &schema_bool,
      .doc = "It was found to call zero what was data "
             "(block-status-cache-verify): it believes in no zeroes any more, "
             "for as long as any node has the disk open." },
    { "granularity", &schema_uint, .doc = "Bytes of a block." },
    { "length", &schema_uint, .doc = "Bytes of the disk." },
    { "strategy", &strategy_type,
      .doc = "How the file system is asked about unknown blocks." },
    { "cachestat", &schema_bool,
      .doc = "Whether cachestat(2) is in use to look for cached "
             "pages; false also as long as it was not tried." },
    { "lookups", &schema_uint, .doc = "Questions to the cache." },
    { "hits", &schema_uint, .doc = "Answered from memory." },
    { "misses", &schema_uint, .doc = "About blocks not known." },
    { "probes", &schema_uint, .doc = "Questions to the file system." },
    { "probe-calls", &calls_type, .doc = "System calls they took." },
    { "extents", &schema_uint,
      .doc = "Extents that all probes together have seen." },
    { "max-extents", &schema_uint,
      .doc = "The most extents that one probe has seen." },
    { "probe-wall-ns", &schema_uint,
      .doc = "Time of all probes in nanoseconds." },
    { "probe-wall-max-ns", &schema_uint,
      .doc = "The longest probe in nanoseconds." },
    { "probe-cpu-ns", &schema_uint,
      .doc = "CPU time of all probes in nanoseconds." },
    { "probe-cpu-max-ns", &schema_uint,
      .doc = "The most CPU time of one probe in nanoseconds." },
    { "probe-cpu-histogram", &histogram_type,
      .doc = "CPU time of single probes." },
    { "probe-errors", &schema_uint,
      .doc = "Probes that failed; none of it was remembered." },
    { "bytes-unknown", &schema_uint,
      .doc = "Bytes nothing is known about now." },
    { "bytes-data", &schema_uint, .doc = "Bytes known as data now." },
    { "bytes-zero", &schema_uint, .doc = "Bytes known to read as zeroes now." },
    { "learned-writes", &schema_uint, .doc = "Bytes that writes told about." },
    { "learned-zeroes", &schema_uint,
      .doc = "Bytes that zero-writes told about." },
    { "learned-discards", &schema_uint,
      .doc = "Bytes that discards told about." },
    { "learned-reads", &schema_uint,
      .doc = "Bytes that reads found to be zero "
             "(status-cache-learn-reads)." },
    { "reads-skipped", &schema_uint,
      .doc = "Reads, and parts of reads, that the disk was not asked for, "
             "because they were known to be zeroes." },
    { "bytes-not-read", &schema_uint, .doc = "Bytes of these." },
    { "tainted-zeroes", &schema_uint,
      .doc = "Zero-writes and discards that a data write, a failed flush "
             "or another user crossed, so that not all of them could be "
             "believed." },
    { "tainted-probes", &schema_uint,
      .doc = "Probes that a write or the like crossed." },
    { "evictions", &schema_uint,
      .doc = "Pieces forgotten to stay within the memory limit." },
    { "verified-bytes", &schema_uint,
      .doc = "Bytes called zero that block-status-cache-verify has read, and "
             "that were zero." },
    { "verify-mismatches", &schema_uint,
      .doc = "Ranges called zero where it has found data." },
    { "memory", &schema_uint, .doc = "Bytes of memory in use." },
    { "memory-max", &schema_uint,
      .doc = "The most bytes of memory ever in use." },
    { NULL },
};

const SchemaType block_status_cache_stats_type = {
    .name = "BlockStatusCacheStats",
    .kind = SCHEMA_OBJECT,
    .doc = "What a node's status cache knows and what it saved. Counters begin "
           "at 0 when the node is opened and never go down.",
    .members = info_members + 1,
};

const SchemaType block_status_cache_info_type = {
    .name = "BlockStatusCacheInfo",
    .kind = SCHEMA_OBJECT,
    .doc = "BlockStatusCacheStats, and whose they are.",
    .members = info_members,
};

/* JSON's integers are 64 bits and signed in everybody's parser. */
static void set_uint(JsonObject *obj, const char *name, uint64_t value)
{
    json_object_set_int_member(obj, name, MIN(value, (uint64_t)INT64_MAX));
}

static JsonObject *calls_to_json(const StatusCacheStats *s)
{
    JsonObject *calls = json_object_new();
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(call_names); i++) {
        set_uint(calls, call_names[i], s->probe_calls[i]);
    }
    return calls;
}

static JsonObject *histogram_to_json(const StatusCacheStats *s)
{
    JsonObject *histogram = json_object_new();
    JsonArray *boundaries = json_array_new();
    JsonArray *bins = json_array_new();
    size_t i;

    for (i = 0; i < STATUS_CACHE_HISTOGRAM; i++) {
        if (i < STATUS_CACHE_HISTOGRAM - 1) {
            json_array_add_int_element(boundaries,
                                       status_cache_histogram_ns[i]);
        }
        json_array_add_int_element(bins, s->histogram[i]);
    }
    json_object_set_array_member(histogram, "boundaries", boundaries);
    json_object_set_array_member(histogram, "bins", bins);
    return histogram;
}

JsonObject *status_cache_to_json(StatusCache *cache, StatusProbe *probe)
{
    StatusProbeStrategy strategy = STATUS_PROBE_NONE;
    JsonObject *obj = json_object_new();
    StatusCacheStats s;

    if (probe) {
        strategy = status_probe_strategy(probe);
    }
    status_cache_get_stats(cache, &s);
    json_object_set_string_member(obj, "mode", mode_names[s.mode]);
    json_object_set_boolean_member(obj, "distrusted", s.distrusted);
    set_uint(obj, "granularity", s.granularity);
    set_uint(obj, "length", s.length);
    json_object_set_string_member(obj, "strategy",
                                  status_probe_strategy_name(strategy));
    json_object_set_boolean_member(obj, "cachestat",
                                   probe && status_probe_uses_cachestat(probe));
    set_uint(obj, "lookups", s.lookups);
    set_uint(obj, "hits", s.hits);
    set_uint(obj, "misses", s.misses);
    set_uint(obj, "probes", s.probes);
    json_object_set_object_member(obj, "probe-calls", calls_to_json(&s));
    set_uint(obj, "extents", s.extents);
    set_uint(obj, "max-extents", s.max_extents);
    set_uint(obj, "probe-wall-ns", s.probe_wall_ns);
    set_uint(obj, "probe-wall-max-ns", s.probe_wall_max_ns);
    set_uint(obj, "probe-cpu-ns", s.probe_cpu_ns);
    set_uint(obj, "probe-cpu-max-ns", s.probe_cpu_max_ns);
    json_object_set_object_member(obj, "probe-cpu-histogram",
                                  histogram_to_json(&s));
    set_uint(obj, "probe-errors", s.probe_errors);
    set_uint(obj, "bytes-unknown", s.bytes_unknown);
    set_uint(obj, "bytes-data", s.bytes_data);
    set_uint(obj, "bytes-zero", s.bytes_zero);
    set_uint(obj, "learned-writes", s.learned_writes);
    set_uint(obj, "learned-zeroes", s.learned_zeroes);
    set_uint(obj, "learned-discards", s.learned_discards);
    set_uint(obj, "learned-reads", s.learned_reads);
    set_uint(obj, "reads-skipped", s.reads_skipped);
    set_uint(obj, "bytes-not-read", s.bytes_not_read);
    set_uint(obj, "tainted-zeroes", s.tainted_zeroes);
    set_uint(obj, "tainted-probes", s.tainted_probes);
    set_uint(obj, "evictions", s.evictions);
    set_uint(obj, "verified-bytes", s.verified_bytes);
    set_uint(obj, "verify-mismatches", s.verify_mismatches);
    set_uint(obj, "memory", s.memory);
    set_uint(obj, "memory-max", s.memory_max);
    return obj;
}
