/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much of what a job copies is in flight at a time: as much as it may, while
 * nobody else uses disks (guest-use.h), and else no more than makes it faster. What is
 * beyond that only waits at the disk, and guests' requests wait behind it. job-pace.c
 * has the rules.
 *
 * The caller's lock is held. Bytes; monotonic microseconds.
 */
#ifndef BLOCK_JOB_PACE_H
#define BLOCK_JOB_PACE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct JobPace {
    int64_t max_request; /* the longest request */
    int64_t max_window;  /* all in flight */

    unsigned n;      /* requests in flight */
    int64_t bytes;   /* theirs */
    int64_t idle_us; /* since when there is none */

    int64_t window; /* while others use disks */
    enum {
        JOB_PACE_ALONE,  /* nobody did when it was last looked at */
        JOB_PACE_STEADY, /* until @until_us */
        JOB_PACE_BEFORE, /* the rate is measured, */
        JOB_PACE_TRIAL,  /* and that with another window */
    } phase;
    bool down; /* the trial is one of a smaller window */
    int64_t until_us, wait_us;
    /* What is measured: not before so many bytes have ended, then since when (moved
     * on by the time in which nothing was in flight), and how much */
    int64_t skip, since_us, done;
    double rate; /* before the trial; bytes a microsecond */
} JobPace;

/* @max_requests at a time, of at most @max_request bytes each */
void job_pace_init(JobPace *p, unsigned max_requests, int64_t max_request);
/* The longest request for now */
int64_t job_pace_request(const JobPace *p, int64_t now_us);
/* May one more begin? If not, look again when one has ended; two are in flight. */
bool job_pace_may_begin(const JobPace *p, int64_t now_us);
void job_pace_begin(JobPace *p, int64_t bytes, int64_t now_us);
/* What began with as many @bytes has ended. */
void job_pace_end(JobPace *p, int64_t bytes, int64_t now_us);

#endif
