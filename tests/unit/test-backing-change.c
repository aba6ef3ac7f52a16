/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Backing chains that change while they are in use: blockdev-snapshot and
 * blockdev-reopen */
#include "backing-fixture.h"
#include "block/monitor/qmp-transaction.h"
#include "unit-main.h"

/* ---- blockdev-snapshot -------------------------------------------------- */

static MemDisk *overlay_disk;
static BlockDriverState *overlay;

static void set_up_overlay(void)
{
    BlockDriverState *file;

    set_up();
    overlay_disk = mem_disk_new(LENGTH, 1);
    bdrv_graph_lock();
    file = mem_node_new(&mem_driver, "overlay-file", overlay_disk);
    overlay = cow_new("overlay", file, NULL);
    bdrv_unref(file);
    ck_assert(blk_set_perm(blk, READ | WRITE, ALL & ~WRITE, NULL));
    bdrv_graph_unlock();
}

static void tear_down_overlay(void)
{
    bdrv_graph_lock();
    blk_detach(blk);
    if (overlay) {
        bdrv_unref(overlay);
    }
    bdrv_graph_unlock();
    tear_down();
    mem_disk_free(overlay_disk);
}

static JsonObject *snapshot_args(BlockDriverState *bs, BlockDriverState *on)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "node", bdrv_node_name(bs));
    json_object_set_string_member(args, "overlay", bdrv_node_name(on));
    return args;
}

static bool snapshot(BlockDriverState *bs, BlockDriverState *on, GError **errp)
{
    g_autoptr(JsonObject) args = snapshot_args(bs, on);

    return transaction_run_one(&snapshot_actions[0], args, errp);
}

static void snapshot_fails(BlockDriverState *bs, BlockDriverState *on,
                           const char *text)
{
    g_autoptr(GError) err = NULL;

    ck_assert(!snapshot(bs, on, &err));
    ck_assert_str_eq(err->message, text);
}

static void write_block(int block, char c)
{
    char buf[COW_BLOCK];

    memset(buf, c, sizeof(buf));
    ck_assert_int_eq(blk_pwrite(blk, block * COW_BLOCK, sizeof(buf), buf, 0),
                     0);
}

START_TEST(test_snapshot)
{
    int64_t pnum;

    bdrv_graph_lock();
    ck_assert(snapshot(top, overlay, NULL));
    ck_assert_ptr_eq(overlay->backing->bs, top);
    ck_assert_uint_eq(overlay->perm, READ | WRITE);
    ck_assert_uint_eq(top->perm, READ);
    ck_assert_uint_eq(overlay->quiesce, 0);
    ck_assert_uint_eq(top->quiesce, 0);
    bdrv_graph_unlock();
    /* What was written before is on the disk. */
    ck_assert_int_eq(mem_count(disks[2], MEM_FLUSH), 1);

    assert_blocks(blk, "aa0bc00aaa00b000");
    write_block(4, 'x');
    write_block(15, 'y');
    assert_blocks(blk, "aa0bx00aaa00b00y");
    ck_assert_int_eq(mem_count(disks[2], MEM_WRITE), 0);
    ck_assert_int_eq(disks[2]->data[4 * COW_BLOCK], 'c');
    ck_assert_int_eq(blk_allocation_depth(blk, 4 * COW_BLOCK, 1, &pnum), 1);
    ck_assert_int_eq(blk_allocation_depth(blk, 6 * COW_BLOCK, 1, &pnum), 2);

    bdrv_graph_lock();
    snapshot_fails(top, overlay,
                   "Node 'top' is busy: node is used as backing hd of "
                   "'overlay'");
    bdrv_graph_unlock();
}
END_TEST

/* Users above a filter follow, too. */
START_TEST(test_snapshot_filter)
{
    BlockDriverState *filter;

    bdrv_graph_lock();
    filter = bdrv_new_internal(&filter_driver, "filter", NULL);
    ck_assert(bdrv_insert_filter(filter, top, NULL));
    ck_assert(snapshot(top, overlay, NULL));
    ck_assert_ptr_eq(filter->file->bs, overlay);
    bdrv_graph_unlock();
    assert_blocks(blk, "aa0bc00aaa00b000");
    bdrv_graph_lock();
    ck_assert(bdrv_remove_filter(filter, NULL));
    bdrv_unref(filter);
    bdrv_graph_unlock();
}
END_TEST

START_TEST(test_snapshot_refused)
{
    MemDisk *disk = mem_disk_new(LENGTH, 1);
    BlockBackend *user = blk_new("user", false, READ, ALL);
    BlockBackend *job = blk_new("job 'j'", true, READ, ALL);
    BlockDriverState *file, *filter, *lone;

    bdrv_graph_lock();
    snapshot_fails(mid, overlay,
                   "Node 'mid' is busy: node is used as backing hd of 'top'");
    snapshot_fails(top, mid, "The overlay is already in use");
    snapshot_fails(top, top, "The overlay is already in use");
    snapshot_fails(overlay, overlay,
                   "Making 'overlay' a backing child of 'overlay' would "
                   "create a cycle");
    file = mem_node_new(&mem_driver, "file", disk);
    snapshot_fails(top, file, "The overlay does not support backing images");
    filter = bdrv_new_internal(&filter_driver, "filter", NULL);
    ck_assert(bdrv_attach_child(filter, overlay, "file", NULL) != NULL);
    ck_assert(blk_attach(user, filter, NULL));
    snapshot_fails(top, overlay, "The overlay is already in use");
    blk_detach(user);
    bdrv_unref(filter);

    ck_assert(blk_attach(job, top, NULL));
    snapshot_fails(top, overlay,
                   "Node 'top' is busy: block device is in use by job 'j'");
    blk_free(job);

    lone = cow_new("lone", file, NULL);
    blk_detach(blk);
    snapshot_fails(lone, top, "The overlay already has a backing image");
    ck_assert(blk_attach(blk, top, NULL));
    bdrv_unref(lone);

    /* Its users write. */
    cow_next.read_only = true;
    lone = cow_new("lone", file, NULL);
    snapshot_fails(top, lone, "Block node 'lone' is read-only");
    ck_assert_ptr_null(lone->backing);
    bdrv_unref(lone);
    bdrv_unref(file);

    blk_free(user);
    ck_assert_ptr_null(overlay->backing);
    ck_assert_uint_eq(top->quiesce, 0);
    bdrv_graph_unlock();
    mem_disk_free(disk);
    write_block(0, 'x');
    assert_blocks(blk, "xa0bc00aaa00b000");
}
END_TEST

static int failing_flush(MemDisk *disk, MemOp op, int64_t offset, int64_t bytes)
{
    return op == MEM_FLUSH ? -EIO : 0;
}

START_TEST(test_snapshot_flush_fails)
{
    disks[2]->hook = failing_flush;
    bdrv_graph_lock();
    snapshot_fails(top, overlay,
                   "Could not flush node 'top': Input/output error");
    ck_assert_ptr_null(overlay->backing);
    ck_assert_uint_eq(top->quiesce, 0);
    bdrv_graph_unlock();
    disks[2]->hook = NULL;
    assert_blocks(blk, "aa0bc00aaa00b000");
}
END_TEST

static int slow_read(MemDisk *disk, MemOp op, int64_t offset, int64_t bytes)
{
    while (op == MEM_READ && !g_atomic_pointer_get(&disk->opaque)) {
        sched_yield();
    }
    return 0;
}

static void *read_top(void *opaque)
{
    assert_blocks(blk, "aa0bc00aaa00b000");
    return NULL;
}

START_TEST(test_snapshot_hanging_request)
{
    pthread_t thread;

    transaction_drain_us = 1000;
    disks[2]->hook = slow_read;
    ck_assert_int_eq(pthread_create(&thread, NULL, read_top, NULL), 0);
    while (mem_count(disks[2], MEM_READ) == 0) {
        sched_yield();
    }
    bdrv_graph_lock();
    snapshot_fails(top, overlay, "Node 'top' is busy: a request does not end");
    bdrv_graph_unlock();
    g_atomic_pointer_set(&disks[2]->opaque, disks);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    transaction_drain_us = G_USEC_PER_SEC;
    bdrv_graph_lock();
    ck_assert(snapshot(top, overlay, NULL));
    bdrv_graph_unlock();
}
END_TEST

/* ---- blockdev-reopen ---------------------------------------------------- */

/* What is given for "top" from now on, JSON with ' for "; NULL: it works */
static void reopen_top(const char *more, const char *error)
{
    g_autofree char *text = g_strdup_printf(
        "[{'driver':'cow','node-name':'top','file':'file2'%s}]", more);
    g_autoptr(JsonNode) node = NULL;
    g_autoptr(GError) err = NULL;
    bool ok;

    g_strdelimit(text, "'", '"');
    node = json_from_string(text, NULL);
    ck_assert_ptr_nonnull(node);
    bdrv_graph_lock();
    json_object_set_string_member(top->options, "driver", "cow");
    ok = bdrv_reopen(json_node_get_array(node), &err);
    bdrv_graph_unlock();
    if (error) {
        ck_assert(!ok);
        ck_assert_str_eq(err->message, error);
    } else {
        ck_assert_msg(ok, "%s", err ? err->message : "no error");
    }
    ck_assert_uint_eq(top->quiesce, 0);
}

START_TEST(test_reopen)
{
    reopen_top(",'backing':'mid'", NULL);
    ck_assert_ptr_eq(top->backing->bs, mid);

    reopen_top(",'backing':'file0'", NULL);
    ck_assert_ptr_eq(top->backing->bs, base);
    assert_blocks(blk, "aa0aca0aaa000000");
    ck_assert_uint_eq(top->backing->perm, READ);
    ck_assert_uint_eq(mid->perm, 0);

    reopen_top(",'backing':null", NULL);
    ck_assert_ptr_null(top->backing);
    assert_blocks(blk, "0000c00000000000");
    ck_assert_uint_eq(top->children->len, 1);
    /* Nothing is missing now, and nothing is back. */
    reopen_top("", NULL);
    ck_assert_ptr_null(top->backing);
    top->names_backing = true;
    reopen_top("", "backing is missing for 'top'");

    reopen_top(",'backing':'mid'", NULL);
    assert_blocks(blk, "aa0bc00aaa00b000");
}
END_TEST

START_TEST(test_reopen_refused)
{
    BlockBackend *job = blk_new("job 'j'", true, READ, ALL);
    BlockBackend *writer = blk_new("writer", false, WRITE, ALL & ~READ);
    MemDisk *disk = mem_disk_new(LENGTH, 1);
    BlockDriverState *filter, *other;

    reopen_top("", "backing is missing for 'top'");
    reopen_top(",'backing':'nobody'",
               "Cannot find device='' nor node-name='nobody'");
    reopen_top(",'backing':'top'",
               "Making 'top' a backing child of 'top' would create a cycle");
    reopen_top(",'backing':{'driver':'cow'}",
               "Cannot change the option 'backing.driver'");

    bdrv_graph_lock();
    ck_assert(blk_attach(job, top, NULL));
    bdrv_graph_unlock();
    reopen_top(",'backing':null",
               "Cannot change the child 'backing' of node 'top': job 'j' uses "
               "it");
    bdrv_graph_lock();
    blk_free(job);

    /* A job's filter in between is not to be lost. */
    filter = bdrv_new_internal(&filter_driver, "filter", NULL);
    ck_assert(bdrv_insert_filter(filter, mid, NULL));
    bdrv_graph_unlock();
    reopen_top(",'backing':'mid'", NULL);
    ck_assert_ptr_eq(top->backing->bs, filter);
    reopen_top(",'backing':null",
               "Cannot replace implicit 'backing' child of node 'top'");
    bdrv_graph_lock();
    ck_assert(bdrv_remove_filter(filter, NULL));
    bdrv_unref(filter);

    /* Nobody may read the other node: all is as it was, with a link and without */
    other = mem_node_new(&mem_driver, "other", disk);
    ck_assert(blk_attach(writer, other, NULL));
    bdrv_graph_unlock();
    for (int i = 0; i < 2; i++) {
        reopen_top(",'backing':'other'",
                   "Permission conflict on node 'other': permissions "
                   "'consistent read' are both required by node 'top' (uses "
                   "node 'other' as 'backing' child) and unshared by writer "
                   "(uses node 'other' as 'root' child).");
        ck_assert_ptr_eq(top->backing ? top->backing->bs : NULL,
                         i == 0 ? mid : NULL);
        assert_blocks(blk, i == 0 ? "aa0bc00aaa00b000" : "0000c00000000000");
        reopen_top(",'backing':null", NULL);
    }
    bdrv_graph_lock();
    blk_free(writer);
    bdrv_unref(other);
    bdrv_graph_unlock();
    mem_disk_free(disk);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("backing-change");
    TCase *tc = tcase_create("snapshot");

    tcase_add_checked_fixture(tc, set_up_overlay, tear_down_overlay);
    tcase_add_test(tc, test_snapshot);
    tcase_add_test(tc, test_snapshot_filter);
    tcase_add_test(tc, test_snapshot_refused);
    tcase_add_test(tc, test_snapshot_flush_fails);
    tcase_add_test(tc, test_snapshot_hanging_request);
    suite_add_tcase(s, tc);

    tc = tcase_create("reopen");
    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, test_reopen);
    tcase_add_test(tc, test_reopen_refused);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
