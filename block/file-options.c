/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What users of the drivers "file" and "host_device" may say of a node.
 */
#include <inttypes.h>
#include <string.h>

#include "block/file-posix-int.h"
#include "block/status-json.h"
#include "util/error.h"

#define DEFAULT_CACHE_SIZE (UINT64_C(64) << 20)

static const SchemaType on_off_auto_type = {
    .name = "OnOffAuto",
    .kind = SCHEMA_ENUM,
    .doc = "Yes, no, or whatever is best.",
    .values = (const char *const[]){ "auto", "on", "off", NULL },
};

const SchemaType file_aio_type = {
    .name = "BlockdevAioOptions",
    .kind = SCHEMA_ENUM,
    .doc = "QEMU's names of ways to make requests.",
    .values = (const char *const[]){ "threads", "native", "io_uring", NULL },
};

static const StatusProbeStrategy strategies[] = {
    STATUS_PROBE_AUTO,
    STATUS_PROBE_USE_SEEK,
    STATUS_PROBE_USE_FIEMAP,
};

static const SchemaType probe_type = {
    .name = "StatusProbeOption",
    .kind = SCHEMA_ENUM,
    .doc = "How to ask the file system about block status.",
    .values = (const char *const[]){ "auto", "seek", "fiemap", NULL },
};

/* The members that both drivers have, but for what differs in words */
#define FILENAME(text)                                                         \
    {                                                                          \
        "filename", &schema_str, .doc = text                                   \
    }
#define LOCKING                                                                \
    {                                                                          \
        "locking", &on_off_auto_type,                                          \
            .optional = true,                                                  \
            .doc = "Whether to take QEMU's image locks. \"auto\", the "        \
                   "default: if the file system can lock. Without locks no "   \
                   "zeroes are remembered, for anybody may write."             \
    }
#define AIO                                                                    \
    {                                                                          \
        "aio", &file_aio_type,                                                 \
            .optional = true,                                                  \
            .doc = "\"threads\" (the default): requests are made on the "      \
                   "thread they come from. With \"io_uring\" those of NBD "    \
                   "clients have no thread each where the exported node is "   \
                   "this one or \"raw\" over it: with cache.direct=on, of "    \
                   "32 KiB at most, and writes if it is a file on ext4 that "  \
                   "nobody else can write to. If the kernel has no io_uring, " \
                   "the node cannot be opened. \"native\" needs "              \
                   "cache.direct=on, and is \"io_uring\" where there is "      \
                   "one, else \"threads\"."                                    \
    }
#define STATUS_CACHE                                                           \
    {                                                                          \
        "status-cache", &status_cache_mode_type,                               \
            .optional = true,                                                  \
            .doc = "What to remember of block status at most; default "        \
                   "\"on\". Of several nodes on one disk the most cautious "   \
                   "decides, those that are off apart."                        \
    }
#define GRANULARITY(by_default)                                                \
    {                                                                          \
        "status-cache-granularity", &schema_size,                              \
            .optional = true,                                                  \
            .doc = "Bytes that one bit of the cache stands for: a power of "   \
                   "two from 512 to 1 GiB. Default: " by_default               \
    }
#define CACHE_SIZE                                                             \
    {                                                                          \
        "status-cache-size", &schema_size,                                     \
            .optional = true,                                                  \
            .doc = "Bytes of memory that the cache may take, 0 for no "        \
                   "limit; default 64 MiB. That is what the worst 1 TiB "      \
                   "takes at 4 KiB granularity; more is forgotten and asked "  \
                   "again."                                                    \
    }
#define LEARN_READS                                                            \
    {                                                                          \
        "status-cache-learn-reads", &schema_bool,                              \
            .optional = true,                                                  \
            .doc = "Whether reads teach, too: a block that is read as a "      \
                   "whole and found to be zero is known to be zero from "      \
                   "then on, even if it was written with data. Default: "      \
                   "false. Takes a look at all that is read; of no use "       \
                   "where others may write."                                   \
    }

const SchemaType file_options_type = {
    .name = "BlockdevOptionsFile",
    .kind = SCHEMA_OBJECT,
    .doc = "A regular file.",
    .members =
        (const SchemaMember[]){
            FILENAME("Its path; a prefix \"file:\" is not part of it. "
                     "\"/dev/fdset/N\" stands for one that add-fd passed."),
            LOCKING,
            AIO,
            STATUS_CACHE,
            GRANULARITY("the block size of the file system, but 4 KiB at "
                        "least and 64 KiB at most."),
            CACHE_SIZE,
            LEARN_READS,
            { "status-probe", &probe_type, .optional = true,
              .doc = "How to ask the file system about what the cache does "
                     "not know; default \"auto\": as is best for it." },
            { NULL },
        },
};

/* Nobody can be asked about a device, so it has no "status-probe". */
const SchemaType host_device_options_type = {
    .name = "BlockdevOptionsHostDevice",
    .kind = SCHEMA_OBJECT,
    .doc = "A block device.",
    .members =
        (const SchemaMember[]){
            FILENAME("Its path, or \"/dev/fdset/N\"."),
            LOCKING,
            AIO,
            STATUS_CACHE,
            GRANULARITY("the device's physical block size, but 4 KiB at "
                        "least."),
            CACHE_SIZE,
            LEARN_READS,
            { NULL },
        },
};

bool file_parse_options(JsonObject *options, bool direct, FileOptions *o,
                        GError **errp)
{
    uint64_t granularity, size;

    o->filename =
        file_strip_protocol(schema_get_str(options, "filename", NULL));
    o->locking =
        schema_get_enum(options, "locking", &on_off_auto_type, LOCKING_AUTO);
    o->strategy =
        strategies[schema_get_enum(options, "status-probe", &probe_type, 0)];
    o->mode = schema_get_enum(options, "status-cache", &status_cache_mode_type,
                              STATUS_CACHE_ON);
    o->aio = schema_get_enum(options, "aio", &file_aio_type, FILE_AIO_THREADS);
    if (o->aio == FILE_AIO_NATIVE && !direct) {
        error_setg(errp, "aio=native was specified, but it requires "
                         "cache.direct=on, which was not specified.");
        return false;
    }
    o->disk.granularity_given = schema_has(options, "status-cache-granularity");
    granularity = schema_get_int(options, "status-cache-granularity", 0);
    if (o->disk.granularity_given &&
        (granularity < STATUS_CACHE_MIN_GRANULARITY ||
         granularity > STATUS_CACHE_MAX_GRANULARITY ||
         (granularity & (granularity - 1)))) {
        error_setg(errp,
                   "Parameter 'status-cache-granularity' expects a power of "
                   "two from %u to %u, not %" PRIu64,
                   STATUS_CACHE_MIN_GRANULARITY, STATUS_CACHE_MAX_GRANULARITY,
                   granularity);
        return false;
    }
    size = schema_get_int(options, "status-cache-size", DEFAULT_CACHE_SIZE);
    o->learn_reads =
        schema_get_bool(options, "status-cache-learn-reads", false);
    o->disk.granularity = granularity;
    o->disk.max_memory = size;
    o->disk.max_memory_given = schema_has(options, "status-cache-size");
    return true;
}

const char *file_strip_protocol(const char *filename)
{
    return g_str_has_prefix(filename, "file:") ? filename + strlen("file:")
                                               : filename;
}
