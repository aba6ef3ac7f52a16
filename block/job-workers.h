/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The threads of a job that do its requests */
#ifndef BLOCK_JOB_WORKERS_H
#define BLOCK_JOB_WORKERS_H

#include <pthread.h>

#define JOB_MAX_WORKERS 16

typedef struct JobWorkers {
    pthread_t threads[JOB_MAX_WORKERS];
    unsigned n; /* that run */
} JobWorkers;

/* What the I-th of them runs on */
typedef void *JobWorkerOpaque(void *opaque, unsigned i);

/*
 * Starts up to @n threads, JOB_MAX_WORKERS at most, beyond those that run already:
 * the I-th runs @run on what @item(@opaque, I) returns. 0 if at least one runs
 * then, as fewer will do; or -errno. Both calls: the job's coordinator.
 */
int job_workers_start(JobWorkers *w, unsigned n, void *(*run)(void *),
                      JobWorkerOpaque *item, void *opaque);
/* Waits for their ends, which the caller has told them to come to. */
void job_workers_join(JobWorkers *w);

#endif
