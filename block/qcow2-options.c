/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: what users may say of a node, and how large that makes its caches */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>

#include "block/qcow2.h"
#include "util/error.h"

#define DEFAULT_L2_BYTES (UINT64_C(32) << 20)
#define MIN_L2_ENTRIES 2
#define MIN_REFBLOCK_ENTRIES 4
#define MAX_ENTRIES                                                            \
    (MAX(QCOW2_MAX_L1_BYTES, QCOW2_MAX_REFTABLE_BYTES) / sizeof(uint64_t))

const SchemaType qcow2_options_type = {
    .name = "BlockdevOptionsQcow2",
    .kind = SCHEMA_OBJECT,
    .doc = "An image in the format qcow2, version 2 or 3.",
    .members =
        (const SchemaMember[]){
            { "file", &blockdev_ref_type, .doc = "The image's file." },
            { "backing", &blockdev_ref_or_null_type, .optional = true,
              .doc = "Where what is not allocated is read; null: nowhere. "
                     "Default: what the image names." },
            { "lazy-refcounts", &schema_bool, .optional = true,
              .doc = "Only false: reference counts are always kept." },
            { "cache-size", &schema_size, .optional = true,
              .doc = "Bytes that both caches may take together." },
            { "l2-cache-size", &schema_size, .optional = true,
              .doc = "Bytes that the cache of L2 tables may take, as far as "
                     "the disk has so many. Default: 32 MiB, or what "
                     "cache-size leaves." },
            { "refcount-cache-size", &schema_size, .optional = true,
              .doc = "Bytes that the cache of refcount blocks may take. "
                     "Default: 4 clusters, or what cache-size leaves." },
            { NULL },
        },
};

const char *const qcow2_reopen_options[] = { "cache-size", "l2-cache-size",
                                             "refcount-cache-size",
                                             "lazy-refcounts", NULL };

static bool check_cache_options(JsonObject *options, GError **errp)
{
    uint64_t both = schema_get_int(options, "cache-size", 0);

    if (!schema_has(options, "cache-size")) {
        return true;
    }
    if (schema_has(options, "l2-cache-size") &&
        schema_has(options, "refcount-cache-size")) {
        error_setg(errp, "cache-size, l2-cache-size and refcount-cache-size "
                         "may not be set at the same time");
        return false;
    }
    if ((uint64_t)schema_get_int(options, "l2-cache-size", 0) > both) {
        error_setg(errp, "l2-cache-size may not exceed cache-size");
        return false;
    }
    if ((uint64_t)schema_get_int(options, "refcount-cache-size", 0) > both) {
        error_setg(errp, "refcount-cache-size may not exceed cache-size");
        return false;
    }
    return true;
}

/* From bytes that are asked for */
static bool set_entries(const Qcow2State *s, const char *what, uint64_t bytes,
                        unsigned min, unsigned *entries, GError **errp)
{
    uint64_t n = bytes >> s->cluster_bits;

    if (n > INT_MAX) {
        error_setg(errp, "%s cache size too big: %" PRIu64 " bytes", what,
                   bytes);
        return false;
    }
    /* More than a table can refer to are of no use. */
    *entries = CLAMP(n, min, MAX_ENTRIES);
    return true;
}

bool qcow2_parse_cache_options(const Qcow2State *s, JsonObject *options,
                               Qcow2CacheSizes *sizes, GError **errp)
{
    uint64_t all_l2 = qcow2_l1_entries_for(s, s->length) << s->cluster_bits;
    uint64_t min_refblocks = (uint64_t)MIN_REFBLOCK_ENTRIES << s->cluster_bits;
    uint64_t both = schema_get_int(options, "cache-size", 0);
    uint64_t l2 = schema_get_int(options, "l2-cache-size", DEFAULT_L2_BYTES);
    uint64_t refblocks =
        schema_get_int(options, "refcount-cache-size", min_refblocks);

    if (schema_get_bool(options, "lazy-refcounts", false)) {
        error_setg(errp, "Parameter 'lazy-refcounts' must be false: lazy "
                         "reference counts are not supported");
        return false;
    }
    if (!check_cache_options(options, errp)) {
        return false;
    }
    if (schema_has(options, "cache-size")) {
        if (schema_has(options, "l2-cache-size")) {
            refblocks = both - l2;
        } else if (schema_has(options, "refcount-cache-size")) {
            l2 = both - refblocks;
        } else if (both >= all_l2 && both - all_l2 >= min_refblocks) {
            l2 = all_l2;
            refblocks = both - l2;
        } else {
            refblocks = MIN(both, min_refblocks);
            l2 = both - refblocks;
        }
    }
    return set_entries(s, "L2", MIN(l2, all_l2), MIN_L2_ENTRIES, &sizes->l2,
                       errp) &&
           set_entries(s, "Refcount", refblocks, MIN_REFBLOCK_ENTRIES,
                       &sizes->refblocks, errp);
}
