/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pace of jobs beside guests.
 *
 * A disk takes what it is given in some order, mostly one after the other: what a
 * guest wants waits for all that a job has asked for before. 16 MiB are 8 ms of a disk
 * of 2 GB/s, and 30 ms of one of 500 MB/s; and such disks are as fast with 1 or 2 MiB,
 * in short requests. Others, far away, are not: they take all requests at once, and
 * nobody waits for anybody there. So, while others use disks:
 *
 *  1. MIN_WINDOW is in flight, in requests of half of that; or two requests if they
 *     are longer, as one is read while the other one is written.
 *  2. Now and then a window twice as large is tried for a moment, and is kept if that
 *     makes the job faster by GAIN, and then twice as large again; and a smaller one,
 *     that is kept if it does not make it slower by as much. Each trial that changes
 *     nothing doubles the time to the next.
 *  3. Time in which nothing is in flight, as there is nothing to copy or it is to be
 *     slower, does not count for that.
 *
 * And while nobody has used a disk for GUESTS_US, all that the job may have is in flight.
 */
#include "block/job-pace.h"

#include <glib.h>

#include "block/guest-use.h"

#define MIN_WINDOW (INT64_C(1) << 20)
#define MIN_REQUEST (MIN_WINDOW / REQUESTS)
#define REQUESTS 2 /* in a window, at least */
/* Whoever has used a disk will do so again. */
#define GUESTS_US (1000 * 1000)
/* Between trials */
#define MIN_WAIT_US (1000 * 1000)
#define MAX_WAIT_US (16 * 1000 * 1000)
/* How long a rate is measured, at least; and so many windows, as requests may all
 * end together */
#define MEASURE_US (50 * 1000)
#define MEASURE_WINDOWS 4
/* With twice as much in flight: 2 where nobody waits, 1 where all do */
#define GAIN 1.4

void job_pace_init(JobPace *p, unsigned max_requests, int64_t max_request)
{
    *p = (JobPace){
        .max_request = max_request,
        .max_window = max_requests * max_request,
        .window = MIN_WINDOW,
        .phase = JOB_PACE_ALONE,
    };
}

static bool is_alone(int64_t now_us)
{
    return now_us - guest_use_last() >= GUESTS_US;
}

int64_t job_pace_request(const JobPace *p, int64_t now_us)
{
    if (is_alone(now_us)) {
        return p->max_request;
    }
    return MIN(MAX(p->window / REQUESTS, MIN_REQUEST), p->max_request);
}

bool job_pace_may_begin(const JobPace *p, int64_t now_us)
{
    return is_alone(now_us) || p->n < 2 ||
           p->bytes + job_pace_request(p, now_us) <= p->window;
}

void job_pace_begin(JobPace *p, int64_t bytes, int64_t now_us)
{
    if (p->n++ == 0) {
        /* Rule 3 */
        p->since_us += now_us - p->idle_us;
    }
    p->bytes += bytes;
}

/* ---- trials ------------------------------------------------------------- */

static void wait_for_trial(JobPace *p, int64_t wait_us, int64_t now_us)
{
    p->phase = JOB_PACE_STEADY;
    p->wait_us = wait_us;
    p->until_us = now_us + wait_us;
}

/* From now on, but for what was in flight already */
static void measure(JobPace *p, int64_t now_us)
{
    p->skip = p->bytes;
    p->since_us = now_us;
    p->done = 0;
}

/* A request of so many @bytes has ended. 0, or the rate, when it is known */
static double measured(JobPace *p, int64_t bytes, int64_t now_us)
{
    if (p->skip > 0) {
        p->skip -= bytes;
        p->since_us = now_us;
        return 0;
    }
    p->done += bytes;
    if (p->done < MEASURE_WINDOWS * p->window ||
        now_us - p->since_us < MEASURE_US) {
        return 0;
    }
    return (double)p->done / (now_us - p->since_us);
}

static void begin_trial(JobPace *p, double rate, int64_t now_us)
{
    p->rate = rate;
    p->phase = JOB_PACE_TRIAL;
    p->window = p->down ? p->window / 2 : p->window * 2;
    measure(p, now_us);
}

/* There is such a window; else in the other direction, unless there is none. */
static bool choose_direction(JobPace *p)
{
    if (p->down ? p->window / 2 < MIN_WINDOW : p->window * 2 > p->max_window) {
        p->down = !p->down;
    }
    return p->down ? p->window / 2 >= MIN_WINDOW
                   : p->window * 2 <= p->max_window;
}

static void end_trial(JobPace *p, bool keep, double rate, int64_t now_us)
{
    bool down = p->down;

    if (!keep) {
        p->window = down ? p->window * 2 : p->window / 2;
        p->down = !down;
        wait_for_trial(p, MIN(2 * p->wait_us, MAX_WAIT_US), now_us);
    } else if (choose_direction(p) && p->down == down) {
        begin_trial(p, rate, now_us);
    } else {
        wait_for_trial(p, MIN_WAIT_US, now_us);
    }
}

/* Rule 2 */
static void follow(JobPace *p, int64_t bytes, int64_t now_us)
{
    double rate;

    if (p->phase == JOB_PACE_ALONE) {
        p->down = false;
        wait_for_trial(p, MIN_WAIT_US, now_us);
    }
    if (p->phase == JOB_PACE_STEADY) {
        if (now_us < p->until_us || !choose_direction(p)) {
            return;
        }
        p->phase = JOB_PACE_BEFORE;
        measure(p, now_us);
        return;
    }
    rate = measured(p, bytes, now_us);
    if (rate == 0) {
        return;
    }
    if (p->phase == JOB_PACE_BEFORE) {
        begin_trial(p, rate, now_us);
    } else {
        end_trial(p, p->down ? rate * GAIN >= p->rate : rate >= p->rate * GAIN,
                  rate, now_us);
    }
}

void job_pace_end(JobPace *p, int64_t bytes, int64_t now_us)
{
    p->bytes -= bytes;
    if (--p->n == 0) {
        p->idle_us = now_us;
    }
    if (is_alone(now_us)) {
        p->phase = JOB_PACE_ALONE;
        p->window = MIN_WINDOW;
        return;
    }
    follow(p, bytes, now_us);
}
