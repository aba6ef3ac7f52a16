/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much a job has in flight beside guests (block/job-pace.c), on disks that are made
 * up, in a time that is, too.
 */
#include "block/guest-use.h"
#include "block/job-pace.h"
#include "unit-main.h"

#include <glib.h>

#define MiB (INT64_C(1) << 20)
#define SECOND (INT64_C(1000) * 1000)
#define MAX_REQUESTS 16

/* A disk that a job copies from as fast as it may */
typedef struct Disk {
    JobPace pace;
    int64_t now_us;
    /* Of each request; those of a disk that does one after the other take so long
     * for a MiB on top of that, and the disk is busy until then */
    int64_t latency_us, us_per_mib;
    int64_t busy_us;
    struct {
        int64_t bytes, end_us;
    } in_flight[MAX_REQUESTS]; /* bytes 0: none */
    int64_t copied, most;      /* bytes; ever in flight */
    int64_t over_us;           /* how long it was more than 1 MiB */
} Disk;

static void disk_init(Disk *d, int64_t latency_us, int64_t us_per_mib)
{
    *d = (Disk){ .latency_us = latency_us,
                 .us_per_mib = us_per_mib,
                 .now_us = 1000 * SECOND };
    job_pace_init(&d->pace, MAX_REQUESTS, MiB);
    d->busy_us = d->now_us;
    /* For ever */
    guest_use_note(INT64_MAX / 2);
}

static void begin_requests(Disk *d)
{
    int i;

    for (i = 0; i < MAX_REQUESTS; i++) {
        int64_t bytes = job_pace_request(&d->pace, d->now_us);

        if (d->in_flight[i].bytes > 0 ||
            !job_pace_may_begin(&d->pace, d->now_us)) {
            continue;
        }
        job_pace_begin(&d->pace, bytes, d->now_us);
        d->busy_us = MAX(d->busy_us, d->now_us) + d->us_per_mib * bytes / MiB;
        d->in_flight[i].bytes = bytes;
        d->in_flight[i].end_us = d->latency_us + d->busy_us;
    }
    d->most = MAX(d->most, d->pace.bytes);
}

/* False: there is none. */
static bool end_request(Disk *d)
{
    int i, first = -1;

    for (i = 0; i < MAX_REQUESTS; i++) {
        if (d->in_flight[i].bytes > 0 &&
            (first < 0 ||
             d->in_flight[i].end_us < d->in_flight[first].end_us)) {
            first = i;
        }
    }
    if (first < 0) {
        return false;
    }
    if (d->pace.bytes > MiB) {
        d->over_us += d->in_flight[first].end_us - d->now_us;
    }
    d->now_us = d->in_flight[first].end_us;
    d->copied += d->in_flight[first].bytes;
    job_pace_end(&d->pace, d->in_flight[first].bytes, d->now_us);
    d->in_flight[first].bytes = 0;
    return true;
}

static void copy_for(Disk *d, int64_t us)
{
    int64_t end_us = d->now_us + us;

    d->copied = d->over_us = 0;
    d->most = d->pace.bytes;
    while (d->now_us < end_us) {
        begin_requests(d);
        end_request(d);
    }
}

START_TEST(test_alone)
{
    Disk d;

    disk_init(&d, 100, 1000);
    guest_use_forget();
    copy_for(&d, SECOND);
    ck_assert_int_eq(d.most, MAX_REQUESTS * MiB);
    ck_assert_int_eq(job_pace_request(&d.pace, d.now_us), MiB);
}
END_TEST

/* One after the other: more than 1 MiB is in flight for moments only. */
START_TEST(test_queue)
{
    Disk d;

    disk_init(&d, 100, 1000);
    copy_for(&d, 60 * SECOND);
    ck_assert_int_le(d.most, 2 * MiB);
    ck_assert_int_gt(d.most, MiB);
    ck_assert_int_le(d.over_us, SECOND);
    ck_assert_int_eq(d.pace.window, MiB);
    ck_assert_int_eq(job_pace_request(&d.pace, d.now_us), MiB / 2);
}
END_TEST

/* All at once: it gets all of them, soon. */
START_TEST(test_far_away)
{
    Disk d;

    disk_init(&d, 40 * 1000, 0);
    copy_for(&d, 3 * SECOND);
    ck_assert_int_eq(d.pace.window, MAX_REQUESTS * MiB);
    copy_for(&d, 60 * SECOND);
    ck_assert_int_eq(d.pace.window, MAX_REQUESTS * MiB);
    ck_assert_int_ge(d.copied, 60 * 25 * MAX_REQUESTS * MiB * 9 / 10);
}
END_TEST

/* And less again when the disk does one after the other. */
START_TEST(test_worse_disk)
{
    Disk d;

    disk_init(&d, 20 * 1000, 0);
    copy_for(&d, 3 * SECOND);
    ck_assert_int_eq(d.pace.window, MAX_REQUESTS * MiB);
    d.latency_us = 0;
    d.us_per_mib = 1000;
    copy_for(&d, 40 * SECOND);
    ck_assert_int_eq(d.pace.window, MiB);
}
END_TEST

/* Who has left comes back to a job that steps back at once. */
START_TEST(test_back_again)
{
    Disk d;

    disk_init(&d, 20 * 1000, 0);
    copy_for(&d, 3 * SECOND);
    guest_use_forget();
    copy_for(&d, SECOND);
    guest_use_note(d.now_us);
    ck_assert_int_eq(job_pace_request(&d.pace, d.now_us), MiB / 2);
    ck_assert(!job_pace_may_begin(&d.pace, d.now_us));
    /* And goes on when they have left for a second. */
    ck_assert(job_pace_may_begin(&d.pace, d.now_us + SECOND));
}
END_TEST

/* What was not copied while there was nothing to copy does not make a trial look good. */
START_TEST(test_pause)
{
    Disk d;

    disk_init(&d, 100, 1000);
    while (d.pace.phase != JOB_PACE_BEFORE) {
        begin_requests(&d);
        end_request(&d);
    }
    while (end_request(&d)) {
    }
    d.now_us += 10 * SECOND;
    copy_for(&d, SECOND);
    ck_assert_int_eq(d.pace.phase, JOB_PACE_STEADY);
    ck_assert_int_eq(d.pace.window, MiB);
}
END_TEST

/* Two requests, however long they are; and never more than there may be. */
START_TEST(test_bounds)
{
    JobPace p;
    int64_t now_us = 1000 * SECOND;

    guest_use_note(INT64_MAX / 2);
    job_pace_init(&p, MAX_REQUESTS, 4 * MiB);
    ck_assert(job_pace_may_begin(&p, now_us));
    job_pace_begin(&p, 4 * MiB, now_us);
    ck_assert(job_pace_may_begin(&p, now_us));
    job_pace_begin(&p, 4 * MiB, now_us);
    ck_assert(!job_pace_may_begin(&p, now_us));
    job_pace_end(&p, 4 * MiB, now_us);
    ck_assert(job_pace_may_begin(&p, now_us));

    job_pace_init(&p, 2, MiB / 16);
    ck_assert_int_eq(job_pace_request(&p, now_us), MiB / 16);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("job-pace");
    TCase *t = tcase_create("job-pace");

    tcase_add_test(t, test_alone);
    tcase_add_test(t, test_queue);
    tcase_add_test(t, test_far_away);
    tcase_add_test(t, test_worse_disk);
    tcase_add_test(t, test_back_again);
    tcase_add_test(t, test_pause);
    tcase_add_test(t, test_bounds);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
