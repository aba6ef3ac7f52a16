/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "count-threads.h"
#include "mirror-fixture.h"

#include <check.h>
#include <dirent.h>
#include <string.h>

#include "block/mirror-int.h"
#include "job-harness.h"

BlockDriverState *source, *target;
BlockBackend *guest;
static int threads_before;
static MirrorLimits usual_limits;

void mirror_set_up(void)
{
    usual_limits = mirror_limits;
    harness_start();
}

void mirror_tear_down(void)
{
    harness_stop();
    mirror_limits = usual_limits;
}

static void make_disks(void *opaque)
{
    int64_t *length = opaque;

    source = mem_disk_new("src", *length);
    target = mem_disk_new("dst", *length);
    guest = blk_new("guest", false, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                    BLK_PERM_ALL);
    ck_assert(blk_attach(guest, source, NULL));
    threads_before = count_threads();
}

void make(int64_t length)
{
    on_management(make_disks, &length);
}

void make_filled(int64_t length)
{
    make(length);
    mem_disk_fill(mem_disk_of(source), 1);
}

static void check_node(BlockDriverState *bs, guint parents)
{
    ck_assert_uint_eq(bs->parents->len, parents);
    ck_assert_uint_eq(bs->n_dirty_bitmaps, 0);
    ck_assert_int_eq(g_atomic_int_get(&bs->refcnt), 1 + parents);
}

static void remove_disks(void *opaque)
{
    BlockDriverState *home = blk_get_bs(guest);

    bdrv_unref(home);
    ck_assert(bdrv_find_node("filter", NULL) == NULL);
    check_node(source, home == source);
    check_node(target, home == target);
    blk_free(guest);
    bdrv_unref(source);
    bdrv_unref(target);
    guest = NULL;
}

/* The job is gone. */
void unmake(void)
{
    int n;

    job_cancel_all_sync();
    on_management(remove_disks, NULL);
    /* The kernel may take its time to forget a thread that was joined. */
    do {
        n = count_threads();
    } while (n > threads_before);
    ck_assert_int_eq(n, threads_before);
}

static void start_now(void *opaque)
{
    Start *start = opaque;

    start->ok = mirror_start(&start->options, &start->err);
}

Start defaults(void)
{
    return (Start){ .options = { .job = { .id = "m",
                                          .auto_finalize = true,
                                          .auto_dismiss = true },
                                 .device = "src",
                                 .target = "dst",
                                 .sync = MIRROR_SYNC_FULL,
                                 .filter_node_name = "filter" } };
}

void start_with(const Start *with)
{
    Start start = *with;

    forget_events();
    on_management(start_now, &start);
    ck_assert_msg(start.ok, "%s", start.err ? start.err->message : "no error");
}

void start_mirror(void)
{
    Start start = defaults();

    start_with(&start);
}

void refused(const Start *with, const char *message)
{
    Start start = *with;
    g_autofree char *have = NULL;

    forget_events();
    on_management(start_now, &start);
    ck_assert(!start.ok);
    ck_assert_str_eq(start.err->message, message);
    g_error_free(start.err);
    have = events();
    ck_assert_msg(!*have || !strcmp(have, "m:created m:null"), "%s", have);
}

void complete(void)
{
    verb_ok(job_verb_complete(JOB_FAMILY_ALL, "m", errp));
}

void soft_cancel(void)
{
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "m", false, errp));
}

void check_home(BlockDriverState *home)
{
    BlockDriverState *bs = blk_get_bs(guest);

    ck_assert(bs == home);
    bdrv_unref_later(bs);
}

void assert_mirrored(void)
{
    mem_disk_assert_equal(mem_disk_of(source), mem_disk_of(target));
}

void finish_and_compare(void)
{
    soft_cancel();
    wait_event("m:null");
    assert_mirrored();
    check_home(source);
}
