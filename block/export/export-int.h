/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a kind of export provides, and what all exports have in common. */
#ifndef BLOCK_EXPORT_EXPORT_INT_H
#define BLOCK_EXPORT_EXPORT_INT_H

#include "block/export.h"
#include "util/schema.h"

typedef struct BlockExport BlockExport;

/*
 * All functions run with the graph mutex held. A client is whoever sends
 * requests through the export.
 */
typedef struct BlockExportDriver {
    const char *type;
    const SchemaType *options; /* its members of BlockExportOptions */
    size_t instance_size;      /* of a struct that begins with BlockExport */
    bool (*create)(BlockExport *exp, JsonObject *options, GError **errp);
    /* Throw all clients out, but do not wait until they are gone. */
    void (*disconnect)(BlockExport *exp);
    /* All clients are gone: release what create() made. */
    void (*destroy)(BlockExport *exp);
} BlockExportDriver;

struct BlockExport {
    const BlockExportDriver *drv;
    char *id;
    BlockBackend *blk; /* valid for clients that hold block_export_get() */
    bool writable;
    bool writethrough; /* every write goes to stable storage */

    unsigned clients;   /* exports.lock */
    bool shutting_down; /* exports.lock: takes no more clients */
};

/* A client comes, unless the export is going away. Any thread. */
bool block_export_get(BlockExport *exp);
/* A client leaves; none of its requests is under way. Any thread. */
void block_export_put(BlockExport *exp);

/*
 * Close all exports of a kind, or all (@drv NULL): throws the clients out and
 * waits for them, until @deadline_us (monotonic microseconds; INT64_MAX: none).
 * False if some are left whose clients have a request that does not end: they
 * are shutting down, and go when it does. Graph mutex held.
 */
bool block_export_close_kind(const BlockExportDriver *drv, int64_t deadline_us);

/* For the monitor */
extern const SchemaType block_export_mode_type; /* BlockExportRemoveMode */
extern const SchemaType block_export_info_type; /* BlockExportInfo */
typedef enum BlockExportMode {
    BLOCK_EXPORT_SAFE, /* fails while clients are there */
    BLOCK_EXPORT_HARD,
} BlockExportMode;
bool block_export_del(const char *id, BlockExportMode mode, GError **errp);
JsonArray *block_export_query(void); /* any thread */

extern const BlockExportDriver nbd_export_driver;

#endif
