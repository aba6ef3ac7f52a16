/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The job that copies a disk while it is in use */
#ifndef BLOCK_MIRROR_H
#define BLOCK_MIRROR_H

#include <stdbool.h>
#include <stdint.h>

#include "block/job.h"

#define MIRROR_MIN_GRANULARITY 512
#define MIRROR_MAX_GRANULARITY (INT64_C(64) << 20)
#define MIRROR_DEFAULT_GRANULARITY 65536
#define MIRROR_MAX_BUF_SIZE (INT64_C(1) << 30)
#define MIRROR_DEFAULT_BUF_SIZE (INT64_C(16) << 20)

/* What is copied at first; what is written later is, in any case */
typedef enum MirrorSync {
    MIRROR_SYNC_TOP,  /* not the backing file; as no node has one: FULL */
    MIRROR_SYNC_FULL, /* everything */
    MIRROR_SYNC_NONE, /* nothing: the target keeps what it has */
} MirrorSync;

typedef struct MirrorOptions {
    JobOptions job;
    const char *device, *target;  /* node names */
    const char *replaces;         /* NULL: device */
    const char *filter_node_name; /* NULL: generated */
    int64_t granularity;          /* bytes; 0: the default */
    int64_t buf_size;             /* bytes; 0: the default */
    MirrorSync sync;
    bool write_blocking; /* copy-mode */
    bool target_is_zero; /* all of the target reads as zeroes */
    JobErrorPolicy on_source_error, on_target_error;
} MirrorOptions;

/*
 * blockdev-mirror. Management thread, graph mutex held. On
 * failure nothing has changed.
 */
bool mirror_start(const MirrorOptions *options, GError **errp);

#endif
