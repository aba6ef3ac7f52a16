/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of seekless-img map have in common */
#ifndef TOOLS_IMG_MAP_H
#define TOOLS_IMG_MAP_H

#include "tools/img.h"

/* A part of a disk whose status is the same throughout; bytes */
typedef struct ImgMapEntry {
    int64_t start, length;
    int64_t offset; /* in the file; only if has_offset */
    int depth;      /* of the image in the backing chain that has it, from 0 */
    bool data, zero, present, has_offset;
    bool unknown;         /* what a daemon did not know; it may be data */
    const char *filename; /* lives as long as the map is made; or NULL */
} ImgMapEntry;

/* Entries come in order and without gaps. False: something is wrong, was told,
 * and no more are wanted. */
typedef bool ImgMapSink(void *opaque, const ImgMapEntry *entry);

/* Puts entries together that are alike */
typedef struct ImgMapMerger {
    ImgMapSink *sink;
    void *opaque;
    ImgMapEntry last;
} ImgMapMerger;

bool img_map_add(ImgMapMerger *merger, const ImgMapEntry *entry);
/* The last entry; without any, one of no bytes at @offset */
bool img_map_finish(ImgMapMerger *merger, int64_t offset);

/* ---- img-qmp.c -------------------------------------------------------------- */

typedef struct ImgQmp ImgQmp;

/*
 * Connect to the monitor at the unix socket @path. All functions wait a limited
 * time, and tell what is wrong.
 */
ImgQmp *img_qmp_connect(const char *path, GError **errp);
void img_qmp_close(ImgQmp *qmp);
/* What the command returns; takes @arguments. NULL and @errp on error */
JsonNode *img_qmp_command(ImgQmp *qmp, const char *command,
                          JsonObject *arguments, GError **errp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImgQmp, img_qmp_close)

/* ---- img-map-qmp.c ---------------------------------------------------------- */

bool img_map_live_length(ImgQmp *qmp, const char *node, int64_t *length,
                         GError **errp);
/*
 * What a daemon knows of a node from @offset on, @bytes at most: nothing is asked
 * of any file system. False and @errp on error; without @errp, because the sink
 * wanted no more.
 */
bool img_map_live(ImgQmp *qmp, const char *node, int64_t offset, int64_t bytes,
                  ImgMapMerger *merger, GError **errp);
/* The counters of the status cache that answers for the node; NULL if none does */
JsonObject *img_map_live_cache(ImgQmp *qmp, const char *node);
/* Some of them in a few lines, or all as JSON, to stdout; @cache may be NULL. */
void img_map_print_cache(JsonObject *cache, bool json);

#endif
