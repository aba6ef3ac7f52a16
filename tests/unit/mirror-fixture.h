/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A disk with a guest, another one to mirror it to, and what tests of the
 * mirror job do with them. The job is called "m", its filter "filter".
 */
#ifndef TESTS_UNIT_MIRROR_FIXTURE_H
#define TESTS_UNIT_MIRROR_FIXTURE_H

#include "block/mirror.h"
#include "mem-disk.h"

#define KiB INT64_C(1024)
#define MiB (KiB * KiB)

/* "src", "dst", and who uses the one or the other */
extern BlockDriverState *source, *target;
extern BlockBackend *guest;

/* Of a test case: the job harness, and the usual mirror_limits afterwards */
void mirror_set_up(void);
void mirror_tear_down(void);

/* Zeroed disks */
void make(int64_t length);
/* The source is filled. */
void make_filled(int64_t length);
/* Cancels the job if there still is one, and checks that nothing is left. */
void unmake(void);

typedef struct Start {
    MirrorOptions options;
    GError *err;
    bool ok;
} Start;

/* The options of start_mirror() */
Start defaults(void);
void start_with(const Start *with);
void start_mirror(void);
void refused(const Start *with, const char *message);

void complete(void);
void soft_cancel(void);
/* It is ready; end it without a pivot, and compare. */
void finish_and_compare(void);

/* Which node the guest uses */
void check_home(BlockDriverState *home);
/* Source and target have the same content. */
void assert_mirrored(void);

#endif
