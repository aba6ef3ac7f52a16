/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The backup job: a copy of a disk as it is at one moment, while it is in use */
#ifndef BLOCK_BACKUP_H
#define BLOCK_BACKUP_H

#include "block/job.h"

/* What is copied, in QMP's order */
typedef enum BackupSync {
    BACKUP_SYNC_TOP,         /* what is not in the backing file */
    BACKUP_SYNC_FULL,        /* everything */
    BACKUP_SYNC_NONE,        /* what is about to be overwritten, only */
    BACKUP_SYNC_INCREMENTAL, /* what a bitmap marks; it is cleared on success */
    BACKUP_SYNC_BITMAP,      /* what a bitmap marks */
} BackupSync;

typedef enum BackupBitmapMode {
    BACKUP_BITMAP_ON_SUCCESS, /* the bitmap starts anew if the job succeeds */
    BACKUP_BITMAP_NEVER,      /* it keeps what it had */
    BACKUP_BITMAP_ALWAYS,     /* what has been copied leaves it in any case */
} BackupBitmapMode;

typedef struct BackupOptions {
    JobOptions job;
    const char *device, *target;  /* node names */
    const char *filter_node_name; /* NULL: generated */
    const char *bitmap;           /* name, or NULL */
    BackupSync sync;
    BackupBitmapMode bitmap_mode;
    bool have_bitmap_mode;
    bool compress;
    JobErrorPolicy on_source_error, on_target_error;
    bool use_copy_range;
    int64_t max_workers, max_chunk; /* bytes; 0: no limit but ours */
} BackupOptions;

/*
 * Management thread, graph mutex held, and the device is drained from before this
 * until after job_start() or job_abandon(), one of which must follow: the moment is then. NULL and @errp: nothing has
 * changed.
 */
Job *backup_create(const BackupOptions *options, GError **errp);

#endif
