/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What backup.c (the job and its workers) and backup-start.c share */
#ifndef BLOCK_BACKUP_INT_H
#define BLOCK_BACKUP_INT_H

#include "block/backup.h"
#include "block/block-copy.h"
#include "block/block-int.h"
#include "block/dirty-bitmap.h"
#include "block/job-pace.h"
#include "block/job-workers.h"
#include "util/thread.h"

typedef struct BackupJob BackupJob;

typedef struct BackupWorker {
    BackupJob *s;
    BlockCopyOp op;
    int64_t paced; /* bytes of it that count at s->pace */
} BackupWorker;

struct BackupJob {
    Job *job;
    /* @source_bs is below the filter, perhaps below others. @base: or NULL */
    BlockDriverState *source_bs, *target_bs, *filter, *base;
    BlockBackend *blk; /* on the filter: workers are inside its gate */
    BlockCopy *bc;     /* the filter's */
    int64_t length;
    BackupSync sync;
    JobErrorPolicy on_source_error, on_target_error;
    bool learn_target;
    /* What it marked at the start is set aside as long as this is not NULL. */
    BdrvDirtyBitmap *bitmap;
    BackupBitmapMode bitmap_mode;

    BackupWorker workers[JOB_MAX_WORKERS];
    unsigned n_workers;
    JobWorkers threads;

    Mutex lock;
    Cond turn;    /* workers that wait for their turn to choose; signal */
    Cond chooser; /* the one whose turn it is; broadcast */
    Cond quiet;   /* in_flight has become 0; broadcast */

    /* lock */
    bool choosing; /* somebody's turn */
    bool hold;     /* choose nothing */
    bool stopped;  /* the hold is for an error; the coordinator is to rest */
    bool quit;
    unsigned in_flight;
    JobPace pace;     /* of what workers read and write */
    unsigned changes; /* how often something was given up by who copied it */
    int64_t retry_us; /* choose nothing before: an error was ignored */
    int64_t cursor;
    int ret; /* the first error that is reported */

    /* management thread */
    int64_t backoff_us;
};

extern const JobDriver backup_job_driver;

/* @s->lock and what is above it in the struct are set. */
void backup_init(BackupJob *s);
/* BlockCopyOptions.changed, and CbwFailed; @opaque: a BackupJob */
void backup_changed(void *opaque, int64_t done);
int backup_guest_failed(void *opaque, int ret, bool is_read);

#endif
