/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The drivers that blockdev-add offers, and the options common to them all. A
 * driver's own options stand in its file.
 */
#include <string.h>

#include "block/block-int.h"

/* One line a driver: the table and the name */
#define BDRV_DRIVERS(D)                                                        \
    D(bdrv_copy_before_write, "copy-before-write")                             \
    D(bdrv_file, "file")                                                       \
    D(bdrv_host_device, "host_device")                                         \
    D(bdrv_nbd, "nbd")                                                         \
    D(bdrv_null_co, "null-co")                                                 \
    D(bdrv_qcow2, "qcow2")                                                     \
    D(bdrv_raw, "raw")                                                         \
    D(bdrv_snapshot_access, "snapshot-access")                                 \
    D(bdrv_throttle, "throttle")

#define DECLARE_DRIVER(driver, name) extern const BlockDriver driver;
#define DRIVER_POINTER(driver, name) &driver,
#define DRIVER_NAME(driver, name) name,

BDRV_DRIVERS(DECLARE_DRIVER)

const BlockDriver *const bdrv_drivers[] = { BDRV_DRIVERS(DRIVER_POINTER) NULL };

static const char *const driver_names[] = { BDRV_DRIVERS(DRIVER_NAME) NULL };

const BlockDriver *bdrv_find_driver(const char *format_name)
{
    const BlockDriver *const *drv;

    for (drv = bdrv_drivers; *drv; drv++) {
        if (!strcmp((*drv)->format_name, format_name)) {
            return *drv;
        }
    }
    return NULL;
}

const SchemaType blockdev_driver_type = {
    .name = "BlockdevDriver",
    .kind = SCHEMA_ENUM,
    .doc = "The drivers of block nodes.",
    .values = driver_names,
};

static const SchemaType discard_type = {
    .name = "BlockdevDiscardOptions",
    .kind = SCHEMA_ENUM,
    .doc = "What happens to discard requests: \"ignore\" drops them, "
           "\"unmap\" passes them on. Zero-writes leave holes only with "
           "\"unmap\".",
    .values = (const char *const[]){ "ignore", "unmap", NULL },
};

const SchemaType prealloc_mode_type = {
    .name = "PreallocMode",
    .kind = SCHEMA_ENUM,
    .doc =
        "What to allocate: nothing; a format's tables alone; all, but leave it "
        "unwritten; or all, written with zeroes.",
    .values =
        (const char *const[]){ "off", "metadata", "falloc", "full", NULL },
};

const SchemaType detect_zeroes_type = {
    .name = "BlockdevDetectZeroesOptions",
    .kind = SCHEMA_ENUM,
    .doc = "What happens to writes of nothing but zeroes: \"on\" makes "
           "zero-writes of them, \"unmap\" such as may leave holes.",
    .values = (const char *const[]){ "off", "on", "unmap", NULL },
};

static const SchemaType cache_type = {
    .name = "BlockdevCacheOptions",
    .kind = SCHEMA_OBJECT,
    .doc = "How the host's page cache is used.",
    .members =
        (const SchemaMember[]){
            { "direct", &schema_bool, .optional = true,
              .doc = "Go past the page cache (O_DIRECT). Default: off." },
            { "no-flush", &schema_bool, .optional = true,
              .doc = "Ignore flush requests: fast, and not safe when the host "
                     "crashes. Default: off." },
            { NULL },
        },
};

static bool blockdev_branch(size_t n, const char **tag, const SchemaType **type)
{
    if (n >= G_N_ELEMENTS(bdrv_drivers) - 1) {
        return false;
    }
    *tag = driver_names[n];
    *type = bdrv_drivers[n]->options;
    return true;
}

const SchemaType blockdev_options_type = {
    .name = "BlockdevOptions",
    .kind = SCHEMA_OBJECT,
    .doc = "A block node: what all drivers have in common, and what the "
           "chosen driver adds to it. Children that are given inline take "
           "\"read-only\", \"auto-read-only\", \"force-share\" and \"cache\" "
           "from their parent where they do not say otherwise, and pass "
           "discards on; the child \"backing\" is read-only unless it says "
           "otherwise. At most 200 nodes may stand one on another.",
    .members =
        (const SchemaMember[]){
            { "driver", &blockdev_driver_type, .doc = "The driver's name." },
            { "node-name", &schema_str, .optional = true,
              .doc = "The node's name: a letter, then letters, digits, \"-\", "
                     "\".\" and \"_\", 31 characters at most. Required but for "
                     "children given inline, which else get a generated one." },
            { "discard", &discard_type, .optional = true,
              .doc = "Default: \"ignore\"." },
            { "detect-zeroes", &detect_zeroes_type, .optional = true,
              .doc = "Default: \"off\". \"unmap\" needs \"discard\": "
                     "\"unmap\"." },
            { "cache", &cache_type, .optional = true,
              .doc = "The host's page cache (default: used)." },
            { "read-only", &schema_bool, .optional = true,
              .doc = "Refuse to write. Default: off." },
            { "auto-read-only", &schema_bool, .optional = true,
              .doc = "Open for writing only when somebody is going to write. "
                     "Default: off." },
            { "force-share", &schema_bool, .optional = true,
              .doc = "Let other processes write to the image meanwhile; needs "
                     "\"read-only\". Default: off." },
            { NULL },
        },
    .discriminator = "driver",
    .branch = blockdev_branch,
};

const SchemaType blockdev_ref_type = {
    .name = "BlockdevRef",
    .kind = SCHEMA_ALTERNATE,
    .doc = "A node: by its name, or by the options of a new one.",
    .alternatives = (const SchemaType *const[]){ &schema_str,
                                                 &blockdev_options_type, NULL },
};

const SchemaType blockdev_ref_or_null_type = {
    .name = "BlockdevRefOrNull",
    .kind = SCHEMA_ALTERNATE,
    .doc = "A node: by its name, or by the options of a new one; or none.",
    .alternatives =
        (const SchemaType *const[]){ &schema_str, &blockdev_options_type,
                                     &schema_null, NULL },
};
