/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The jobs that copy a disk while it is in use: to another one, or to what it
 * stands on */
#ifndef BLOCK_MIRROR_H
#define BLOCK_MIRROR_H

#include <stdbool.h>
#include <stdint.h>

#include "block/job.h"

#define MIRROR_MIN_GRANULARITY 512
#define MIRROR_MAX_GRANULARITY (INT64_C(64) << 20)
/* The default is the target's cluster size, if it has one, between these. */
#define MIRROR_MIN_CLUSTER 4096
#define MIRROR_DEFAULT_GRANULARITY 65536
#define MIRROR_MAX_BUF_SIZE (INT64_C(1) << 30)
#define MIRROR_DEFAULT_BUF_SIZE (INT64_C(16) << 20)

/* What is copied at first; what is written later is, in any case */
typedef enum MirrorSync {
    MIRROR_SYNC_TOP,  /* what is not in the backing file; without one: FULL */
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
    bool target_is_zero; /* all of the target reads as zeroes; not with TOP */
    JobErrorPolicy on_source_error, on_target_error;
} MirrorOptions;

/*
 * blockdev-mirror. Management thread, graph mutex held. On
 * failure nothing has changed.
 */
bool mirror_start(const MirrorOptions *options, GError **errp);

typedef struct CommitOptions {
    JobOptions job;
    const char *device; /* node name */
    /* Nodes by name, or by the name of their file; both NULL: the bottom of the
     * chain, and the device */
    const char *base_node, *base, *top_node, *top;
    const char *backing_file;     /* or NULL */
    const char *filter_node_name; /* NULL: generated */
    JobErrorPolicy on_error;
} CommitOptions;

/*
 * block-commit: what the nodes above the base hold goes to the base, and then their
 * users do. Management thread, graph mutex held. On failure nothing has changed.
 */
bool commit_start(const CommitOptions *options, GError **errp);

#endif
