/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mirrors of disks that stand on others */
#include "chain-fixture.h"
#include "unit-main.h"

typedef struct Start {
    MirrorOptions options;
    GError *err;
    bool ok;
} Start;

static Start defaults(MirrorSync sync)
{
    return (Start){ .options = { .job = { .id = "m",
                                          .auto_finalize = true,
                                          .auto_dismiss = true },
                                 .device = "top",
                                 .target = "dst",
                                 .granularity = COW_BLOCK,
                                 .sync = sync,
                                 .filter_node_name = "filter" } };
}

static void start_now(void *opaque)
{
    Start *start = opaque;

    start->ok = mirror_start(&start->options, &start->err);
}

static void start_with(const Start *with)
{
    Start start = *with;

    forget_events();
    on_management(start_now, &start);
    ck_assert_msg(start.ok, "%s", start.err ? start.err->message : "no error");
}

static void refused(const Start *with, const char *message)
{
    Start start = *with;

    on_management(start_now, &start);
    ck_assert(!start.ok);
    ck_assert_str_eq(start.err->message, message);
    g_error_free(start.err);
}

static void pivot(void)
{
    verb_ok(job_verb_complete(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:null");
    assert_home(nodes[DST]);
    assert_guest_reads();
}

/* Everything is on the target, which needs nobody below. */
START_TEST(test_full)
{
    Start start = defaults(MIRROR_SYNC_FULL);

    chain_make_lengths(3 * MiB, 2 * MiB);
    start_with(&start);
    guest_write(9, 77);
    wait_event("m:READY");
    guest_write(10, 78);
    pivot();
    chain_unmake();
}
END_TEST

/* Zeroes that the whole chain has are not read from any of its nodes. */
START_TEST(test_full_of_zeroes)
{
    Start start = defaults(MIRROR_SYNC_FULL);
    int reads = 0;
    int i;

    chain_make();
    for (i = 0; i < BLOCKS; i++) {
        chain_write_block(TOP, i, 0);
    }
    memset(expected, 0, LENGTH);
    for (i = BASE; i <= TOP; i++) {
        reads -= mem_count(disks[i], MEM_READ);
    }
    start_with(&start);
    wait_event("m:READY");
    for (i = BASE; i <= TOP; i++) {
        reads += mem_count(disks[i], MEM_READ);
    }
    ck_assert_int_eq(reads, 0);
    pivot();
    chain_unmake();
}
END_TEST

static void put_on_mid(void *opaque)
{
    ck_assert(bdrv_attach_child(nodes[DST], nodes[MID], "backing", NULL));
}

/* What top has allocated, and nothing else; on the same backing file it reads
 * the same, be that put below it before or after. */
START_TEST(test_top)
{
    Start start = defaults(MIRROR_SYNC_TOP);
    bool before = _i;
    int i;

    chain_make();
    start.options.target_is_zero = true; /* does not count */
    if (before) {
        on_management(put_on_mid, NULL);
    }
    start_with(&start);
    wait_event("m:READY");
    ck_assert_int_eq(event_int("m:READY", "len"),
                     2 * (BLOCKS / 128) * COW_BLOCK);
    guest_write(33, 79);
    guest_write(125, 80);
    guest_write(125, 0);
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "m", false, errp));
    wait_event("m:null");
    for (i = 0; i < BLOCKS; i++) {
        ck_assert_msg((cow_state(nodes[TOP])->blocks[i] == COW_BELOW) ==
                          (cow_state(nodes[DST])->blocks[i] == COW_BELOW),
                      "block %d", i);
    }
    if (!before) {
        on_management(put_on_mid, NULL);
    }
    start_with(&start);
    wait_event("m:READY");
    pivot();
    chain_unmake();
}
END_TEST

/* Where nobody knows what is allocated all is copied. */
static int failing_status(MemDisk *disk, MemOp op, int64_t offset,
                          int64_t bytes)
{
    return op == MEM_STATUS ? -EIO : 0;
}

START_TEST(test_top_unknown)
{
    Start start = defaults(MIRROR_SYNC_TOP);

    chain_make();
    on_management(put_on_mid, NULL);
    disks[TOP]->hook = failing_status;
    start_with(&start);
    wait_event("m:READY");
    ck_assert_int_gt(mem_count(disks[TOP], MEM_STATUS), 0);
    pivot();
    chain_unmake();
}
END_TEST

START_TEST(test_none)
{
    Start start = defaults(MIRROR_SYNC_NONE);

    chain_make();
    on_management(put_on_mid, NULL);
    start_with(&start);
    wait_event("m:READY");
    ck_assert_int_eq(event_int("m:READY", "len"), 0);
    guest_write(44, 80);
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "m", false, errp));
    wait_event("m:null");
    ck_assert_int_eq(cow_state(nodes[DST])->blocks[44], COW_DATA);
    ck_assert_int_eq(cow_state(nodes[DST])->blocks[0], COW_BELOW);
    chain_unmake();
}
END_TEST

static void put_on_top(void *opaque)
{
    ck_assert(bdrv_attach_child(nodes[DST], nodes[TOP], "backing", NULL));
}

START_TEST(test_refused)
{
    Start start = defaults(MIRROR_SYNC_FULL);

    chain_make();
    start.options.target = "mid";
    refused(&start, "Node 'mid' is busy: node is used as backing hd of 'top'");
    start.options.device = "mid";
    start.options.target = "top";
    refused(&start, "Need a root block node");
    on_management(put_on_top, NULL);
    start.options.device = "top";
    start.options.target = "dst";
    refused(&start, "Need a root block node");
    chain_unmake();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("mirror-chain");
    TCase *tc = tcase_create("mirror-chain");

    tcase_add_test(tc, test_full);
    tcase_add_test(tc, test_full_of_zeroes);
    tcase_add_loop_test(tc, test_top, 0, 2);
    tcase_add_test(tc, test_top_unknown);
    tcase_add_test(tc, test_none);
    tcase_add_test(tc, test_refused);
    suite_add_tcase(s, tc);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
