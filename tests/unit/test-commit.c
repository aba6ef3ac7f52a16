/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Commits of the active layer: what gets to the base, and who may use what */
#include "chain-fixture.h"
#include "unit-main.h"

typedef struct Start {
    CommitOptions options;
    GError *err;
    bool ok;
} Start;

static Start defaults(void)
{
    return (Start){ .options = { .job = { .id = "m",
                                          .auto_finalize = true,
                                          .auto_dismiss = true },
                                 .device = "top",
                                 .filter_node_name = "filter" } };
}

static void start_now(void *opaque)
{
    Start *start = opaque;

    start->ok = commit_start(&start->options, &start->err);
}

static void start_with(const Start *with)
{
    Start start = *with;

    forget_events();
    on_management(start_now, &start);
    ck_assert_msg(start.ok, "%s", start.err ? start.err->message : "no error");
}

static void start_commit(void)
{
    Start start = defaults();

    start_with(&start);
}

static void refused(const Start *with, const char *message)
{
    Start start = *with;

    on_management(start_now, &start);
    ck_assert(!start.ok);
    ck_assert_str_eq(start.err->message, message);
    g_error_free(start.err);
    assert_home(nodes[TOP]);
    check_user(MID, BLK_PERM_CONSISTENT_READ, NULL);
}

static void complete(void)
{
    verb_ok(job_verb_complete(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:null");
}

static void assert_base_has_all(void)
{
    ck_assert_int_eq(disks[BASE]->length, LENGTH);
    assert_bytes(disks[BASE]->data, expected, LENGTH);
}

static BlockBackend *reader;

static void attach_reader(void *opaque)
{
    reader = blk_new("reader", false, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    ck_assert(blk_attach(reader, opaque, NULL));
}

static void free_reader(void *opaque)
{
    blk_free(reader);
}

/* ---- what is copied ----------------------------------------------------- */

START_TEST(test_complete)
{
    JsonObject *row;

    chain_make();
    start_commit();
    wait_event("m:READY");
    check_events("m:created m:running m:ready m:READY");
    /* 64 KiB around each block that mid or top holds */
    ck_assert_int_eq(event_int("m:READY", "len"), (16 + 8) * 64 * KiB);
    ck_assert_int_eq(event_int("m:READY", "offset"), (16 + 8) * 64 * KiB);
    row = job_row("m", true);
    ck_assert_str_eq(json_object_get_string_member(row, "type"), "commit");
    json_object_unref(row);
    assert_base_has_all();
    assert_guest_reads();
    complete();
    assert_home(nodes[BASE]);
    assert_guest_reads();
    /* The others are free, and so are the nodes that were above it. */
    check_user(BASE, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, NULL);
    chain_unmake();
}
END_TEST

START_TEST(test_guest_writes)
{
    g_autofree uint8_t *before = NULL;

    chain_make();
    start_commit();
    guest_write(5, 77);
    wait_event("m:READY");
    guest_write(0, 78);
    guest_write(500, 79);
    guest_write(501, 0);
    assert_guest_reads();
    complete();
    assert_base_has_all();
    before = g_memdup2(disks[TOP]->data, LENGTH);
    guest_write(7, 80);
    guest_write(0, 81);
    assert_base_has_all();
    assert_guest_reads();
    assert_bytes(disks[TOP]->data, before, LENGTH);
    chain_unmake();
}
END_TEST

START_TEST(test_to_mid)
{
    Start start = defaults();
    g_autofree uint8_t *before = NULL;

    chain_make();
    before = g_memdup2(disks[BASE]->data, LENGTH);
    start.options.base_node = "mid";
    start_with(&start);
    wait_event("m:READY");
    ck_assert_int_eq(event_int("m:READY", "len"), (8 + 8) * 64 * KiB);
    complete();
    assert_home(nodes[MID]);
    assert_guest_reads();
    assert_bytes(disks[BASE]->data, before, LENGTH);
    chain_unmake();
}
END_TEST

/* What lies beyond the end of mid is zero at the top, whatever base has there. */
START_TEST(test_short_mid)
{
    chain_make_lengths(LENGTH, 2 * MiB);
    ck_assert_int_eq(expected[3 * MiB + 5 * COW_BLOCK], 0);
    ck_assert_int_ne(disks[BASE]->data[3 * MiB + 5 * COW_BLOCK], 0);
    start_commit();
    wait_event("m:READY");
    assert_base_has_all();
    complete();
    assert_guest_reads();
    chain_unmake();
}
END_TEST

START_TEST(test_short_base)
{
    chain_make_lengths(2 * MiB, 2 * MiB);
    start_commit();
    wait_event("m:READY");
    assert_base_has_all();
    complete();
    assert_guest_reads();
    chain_unmake();
}
END_TEST

START_TEST(test_base_cannot_grow)
{
    Start start = defaults();

    chain_make_lengths(2 * MiB, 2 * MiB);
    chain_base_driver.truncate = NULL;
    refused(&start, "Image format driver does not support resize");
    assert_guest_reads();
    chain_unmake();
}
END_TEST

/* ---- layers below the active one ---------------------------------------- */

static char *told;
static int tell_ret;

static int tell(BlockDriverState *bs, const char *file, const char *format,
                GError **errp)
{
    told = g_strdup_printf("%s: %s %s", bs->node_name, file, format);
    if (tell_ret < 0) {
        g_set_error(errp, g_quark_from_static_string("test"), 0, "no header");
    }
    return tell_ret;
}

/* Top gets a header that tells of its backing file. */
static void chain_make_telling(void)
{
    static BlockDriver telling;

    chain_make();
    telling = cow_driver;
    telling.change_backing = tell;
    nodes[TOP]->drv = &telling;
}

START_TEST(test_below)
{
    Start start = defaults();
    g_autofree uint8_t *top = NULL;
    g_autofree uint8_t *mid = NULL;

    chain_make_telling();
    mid = g_malloc(LENGTH);
    on_management(attach_reader, nodes[MID]);
    ck_assert_int_eq(blk_pread(reader, 0, LENGTH, mid, 0), 0);
    on_management(free_reader, NULL);
    guest_write(9, 86);
    top = g_memdup2(disks[TOP]->data, LENGTH);
    start.options.top_node = "mid";
    start.options.backing_file = "the/base";
    tell_ret = _i ? -EIO : 0;
    start_with(&start);
    wait_event(_i ? "m:COMPLETED(no header)" : "m:COMPLETED");
    wait_event("m:null");
    check_events(_i ? "m:created m:running m:waiting m:pending m:aborting "
                      "m:COMPLETED(no header) m:concluded m:null"
                    : "m:created m:running m:waiting m:pending m:COMPLETED "
                      "m:concluded m:null");
    ck_assert_str_eq(told, "top: the/base raw");
    g_free(told);
    assert_home(nodes[TOP]);
    ck_assert_ptr_eq(nodes[TOP]->backing->bs, nodes[_i ? MID : BASE]);
    assert_guest_reads();
    /* What was below top is in base, and top is as it was. */
    assert_bytes(disks[BASE]->data, mid, LENGTH);
    assert_bytes(disks[TOP]->data, top, LENGTH);
    guest_write(10, 87);
    assert_guest_reads();
    check_user(BASE, BLK_PERM_CONSISTENT_READ, NULL);
    check_user(MID, BLK_PERM_CONSISTENT_READ, NULL);
    chain_unmake();
}
END_TEST

START_TEST(test_below_cancelled)
{
    Start start = defaults();

    chain_make_telling();
    start.options.top_node = "mid";
    start.options.backing_file = "the/base";
    start.options.job.speed = 1;
    start_with(&start);
    verb_refused(job_verb_complete(JOB_FAMILY_ALL, "m", errp),
                 "Job 'm' in state 'running' cannot accept command verb "
                 "'complete'");
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "m", false, errp));
    wait_event("m:CANCELLED");
    wait_event("m:null");
    ck_assert(told == NULL);
    ck_assert_ptr_eq(nodes[TOP]->backing->bs, nodes[MID]);
    assert_guest_reads();
    chain_unmake();
}
END_TEST

/* ---- other ends --------------------------------------------------------- */

START_TEST(test_cancel)
{
    bool soft = _i;

    chain_make();
    start_commit();
    wait_event("m:READY");
    guest_write(9, 82);
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "m", !soft, errp));
    wait_event(soft ? "m:COMPLETED" : "m:CANCELLED");
    wait_event("m:null");
    assert_home(nodes[TOP]);
    assert_guest_reads();
    if (soft) {
        assert_base_has_all();
    }
    guest_write(10, 83);
    assert_guest_reads();
    ck_assert_int_ne(disks[BASE]->data[10 * COW_BLOCK], 83);
    check_user(MID, BLK_PERM_CONSISTENT_READ, NULL);
    check_user(BASE, BLK_PERM_CONSISTENT_READ, NULL);
    /* And again */
    start_commit();
    wait_event("m:READY");
    complete();
    assert_base_has_all();
    chain_unmake();
}
END_TEST

static int failing_write(MemDisk *disk, MemOp op, int64_t offset, int64_t bytes)
{
    return op == MEM_WRITE || op == MEM_ZERO ? -EIO : 0;
}

START_TEST(test_error)
{
    chain_make();
    disks[BASE]->hook = failing_write;
    start_commit();
    wait_event("m:COMPLETED(Input/output error)");
    wait_event("m:null");
    assert_home(nodes[TOP]);
    assert_guest_reads();
    check_user(MID, BLK_PERM_CONSISTENT_READ, NULL);
    chain_unmake();
}
END_TEST

/* ---- who may use what --------------------------------------------------- */

START_TEST(test_permissions)
{
    chain_make();
    start_commit();
    wait_event("m:READY");
    check_user(MID, BLK_PERM_CONSISTENT_READ,
               "Permission conflict on node 'mid': permissions 'consistent "
               "read' are both required by other (uses node 'mid' as 'root' "
               "child) and unshared by job 'm' (uses node 'mid' as 'root' "
               "child).");
    check_user(TOP, BLK_PERM_CONSISTENT_READ,
               "Permission conflict on node 'mid': permissions 'consistent "
               "read' are both required by node 'top' (uses node 'mid' as "
               "'backing' child) and unshared by job 'm' (uses node 'mid' as "
               "'root' child).");
    check_user(BASE, BLK_PERM_WRITE,
               "Permission conflict on node 'base': permissions 'write' are "
               "both required by other (uses node 'base' as 'root' child) and "
               "unshared by job 'm' (uses node 'base' as 'root' child).");
    check_user(BASE, BLK_PERM_CONSISTENT_READ, NULL);
    complete();
    chain_unmake();
}
END_TEST

START_TEST(test_reader_of_mid)
{
    Start start = defaults();

    chain_make();
    on_management(attach_reader, nodes[MID]);
    on_management(start_now, &start);
    ck_assert(!start.ok);
    ck_assert_str_eq(start.err->message,
                     "Permission conflict on node 'mid': permissions "
                     "'consistent read' are both required by reader (uses node "
                     "'mid' as 'root' child) and unshared by job 'm' (uses "
                     "node 'mid' as 'root' child).");
    g_clear_error(&start.err);
    assert_home(nodes[TOP]);
    guest_write(3, 84);
    assert_guest_reads();
    on_management(free_reader, NULL);
    start_commit();
    wait_event("m:READY");
    complete();
    chain_unmake();
}
END_TEST

/* ---- what is refused ---------------------------------------------------- */

START_TEST(test_refused)
{
    static const struct {
        CommitOptions options;
        const char *message;
    } cases[] = {
        { { .device = "nope" }, "Device 'nope' not found" },
        { { .device = "mid" }, "Need a root block node" },
        { { .device = "top", .base_node = "dst" },
          "'dst' is not in this backing file chain" },
        { { .device = "top", .base_node = "nope" },
          "Cannot find device='' nor node-name='nope'" },
        { { .device = "top", .top_node = "dst" },
          "'dst' is not in this backing file chain" },
        { { .device = "top", .base_node = "top" },
          "cannot commit an image into itself" },
        { { .device = "top", .top_node = "base" },
          "cannot commit an image into itself" },
        { { .device = "dst" }, "cannot commit an image into itself" },
        { { .device = "top", .base_node = "mid", .base = "f" },
          "'base-node' and 'base' are mutually exclusive" },
        { { .device = "top", .top_node = "mid", .top = "f" },
          "'top-node' and 'top' are mutually exclusive" },
        { { .device = "top", .top = "f" }, "Top image file f not found" },
        { { .device = "top", .base = "f" },
          "Can't find 'f' in the backing chain" },
        { { .device = "top", .backing_file = "f" },
          "'backing-file' specified, but 'top' is the active layer" },
        { { .device = "top", .top_node = "mid" },
          "Node 'base' has no file name that an image's header can tell: say "
          "'backing-file'" },
        { { .device = "top", .top_node = "mid", .backing_file = "f" },
          "Node 'top' cannot get another backing file: driver 'cow' has none" },
        { { .device = "top", .job.speed = -1 },
          "Parameter 'speed' expects a non-negative value" },
        { { .device = "top", .filter_node_name = "top" },
          "Duplicate nodes with node-name='top'" },
    };
    Start start = { .options = cases[_i].options };

    chain_make();
    start.options.job.id = "m";
    refused(&start, cases[_i].message);
    chain_unmake();
}
END_TEST

/* It is made writable, and read-only again if nobody goes to it. */
START_TEST(test_read_only_base)
{
    chain_make();
    bdrv_set_read_only(nodes[BASE], true);
    start_commit();
    wait_event("m:READY");
    ck_assert(!bdrv_is_read_only(nodes[BASE]));
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "m", _i, errp));
    wait_event("m:null");
    ck_assert(bdrv_is_read_only(nodes[BASE]));
    start_commit();
    wait_event("m:READY");
    complete();
    ck_assert(!bdrv_is_read_only(nodes[BASE]));
    guest_write(3, 85);
    assert_base_has_all();
    chain_unmake();
}
END_TEST

START_TEST(test_base_stays_read_only)
{
    Start start = defaults();

    chain_make();
    chain_base_driver.reopen_options = NULL;
    bdrv_set_read_only(nodes[BASE], true);
    refused(&start, "Block format 'base' used by node 'base' does not support "
                    "reopening files");
    chain_base_driver.reopen_options = chain_no_options;
    /* What fails after that is undone. */
    start.options.filter_node_name = "top";
    refused(&start, "Duplicate nodes with node-name='top'");
    ck_assert(bdrv_is_read_only(nodes[BASE]));
    chain_unmake();
}
END_TEST

START_TEST(test_two_jobs)
{
    Start start = defaults();

    chain_make();
    start_commit();
    wait_event("m:READY");
    start.options.job.id = "n";
    start.options.filter_node_name = NULL;
    start.options.device = "filter";
    on_management(start_now, &start);
    ck_assert(!start.ok);
    ck_assert_str_eq(start.err->message,
                     "Node 'filter' is busy: block device is in use by block "
                     "job: commit");
    g_error_free(start.err);
    complete();
    chain_unmake();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("commit");
    TCase *tc = tcase_create("commit");

    tcase_add_test(tc, test_complete);
    tcase_add_test(tc, test_guest_writes);
    tcase_add_test(tc, test_to_mid);
    tcase_add_test(tc, test_short_mid);
    tcase_add_test(tc, test_short_base);
    tcase_add_test(tc, test_base_cannot_grow);
    tcase_add_loop_test(tc, test_below, 0, 2);
    tcase_add_test(tc, test_below_cancelled);
    tcase_add_loop_test(tc, test_cancel, 0, 2);
    tcase_add_test(tc, test_error);
    tcase_add_test(tc, test_permissions);
    tcase_add_test(tc, test_reader_of_mid);
    tcase_add_loop_test(tc, test_refused, 0, 17);
    tcase_add_loop_test(tc, test_read_only_base, 0, 2);
    tcase_add_test(tc, test_base_stays_read_only);
    tcase_add_test(tc, test_two_jobs);
    suite_add_tcase(s, tc);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
