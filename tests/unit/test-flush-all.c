/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The last flush: of all nodes, and waiting for none that hangs */
#include "job-harness.h"
#include "mem-disk.h"
#include "unit-main.h"

#define NODES 3

static BlockDriverState *nodes[NODES];
static GPtrArray *problems;

static void open_nodes(void *opaque)
{
    guint i;

    for (i = 0; i < NODES; i++) {
        g_autofree char *name = g_strdup_printf("n%u", i);

        nodes[i] = mem_disk_new(name, 4096);
    }
}

static void close_nodes(void *opaque)
{
    guint i;

    for (i = 0; i < NODES; i++) {
        bdrv_unref(nodes[i]);
    }
}

static void set_up(void)
{
    harness_start();
    on_management(open_nodes, NULL);
    problems = g_ptr_array_new_with_free_func(g_free);
}

static void tear_down(void)
{
    g_ptr_array_unref(problems);
    on_management(close_nodes, NULL);
    harness_stop();
}

START_TEST(test_all)
{
    guint i;

    bdrv_set_read_only(nodes[2], true);
    ck_assert(bdrv_flush_all(INT64_MAX, problems));
    ck_assert_uint_eq(problems->len, 0);
    for (i = 0; i < NODES; i++) {
        ck_assert_int_eq(mem_disk_count(mem_disk_of(nodes[i]), MEM_FLUSH),
                         i < 2);
    }
}
END_TEST

START_TEST(test_failure)
{
    mem_disk_fail(mem_disk_of(nodes[1]), MEM_FLUSH, 0, EIO);
    ck_assert(bdrv_flush_all(INT64_MAX, problems));
    ck_assert_uint_eq(problems->len, 1);
    ck_assert_str_eq(problems->pdata[0],
                     "Could not flush node 'n1': Input/output error");
}
END_TEST

START_TEST(test_hung)
{
    MemDisk *disk = mem_disk_of(nodes[0]);

    mem_disk_hold(disk, MEM_FLUSH, 0);
    ck_assert(!bdrv_flush_all(g_get_monotonic_time() + 20000, problems));
    mem_disk_wait_held(disk);
    ck_assert_uint_ge(problems->len, 1);
    ck_assert_str_eq(problems->pdata[0],
                     "Could not flush node 'n0': it takes too long");
    /* The others are, however busy the machine is. */
    mem_disk_wait_count(mem_disk_of(nodes[1]), MEM_FLUSH, 1);
    mem_disk_wait_count(mem_disk_of(nodes[2]), MEM_FLUSH, 1);
    mem_disk_let_go(disk);
    /* What it has used stays as long as it does. */
    while (g_atomic_int_get(&nodes[0]->refcnt) > 1) {
        g_thread_yield();
    }
}
END_TEST

/* A format that has something in memory: not lost, and flushed before its file */
static int64_t file_flushes;
static BlockDriverState *format;

static int format_flush(BlockDriverState *bs)
{
    file_flushes = mem_disk_count(mem_disk_of(bs->file->bs), MEM_FLUSH);
    return -ENOSPC;
}

static const BlockDriver format_driver = {
    .format_name = "format",
    .kind = BLOCK_DRIVER_FORMAT,
    .flush = format_flush,
};

static void open_format(void *opaque)
{
    format = bdrv_new_internal(&format_driver, "format", NULL);
    ck_assert(bdrv_attach_child(format, nodes[0], "file", NULL) != NULL);
}

static void close_format(void *opaque)
{
    bdrv_set_read_only(format, true); /* no warning */
    bdrv_unref(format);
}

START_TEST(test_format)
{
    file_flushes = -1;
    on_management(open_format, NULL);
    ck_assert(bdrv_flush_all(INT64_MAX, problems));
    ck_assert_int_ge(file_flushes, 0);
    ck_assert_uint_eq(problems->len, 1);
    ck_assert_str_eq(problems->pdata[0], "Could not flush node 'format': No "
                                         "space left on device");
    on_management(close_format, NULL);
}
END_TEST

/* Somebody has the graph and hangs: formats wait, files do not. */
START_TEST(test_format_while_graph_hangs)
{
    on_management(open_format, NULL);
    bdrv_graph_lock();
    ck_assert(!bdrv_flush_all(g_get_monotonic_time() + 20000, problems));
    mem_disk_wait_count(mem_disk_of(nodes[0]), MEM_FLUSH, 1);
    mem_disk_wait_count(mem_disk_of(nodes[1]), MEM_FLUSH, 1);
    bdrv_graph_unlock();
    while (g_atomic_int_get(&format->refcnt) > 1) {
        g_thread_yield();
    }
    on_management(close_format, NULL);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("flush-all");
    TCase *t = tcase_create("flush-all");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, test_all);
    tcase_add_test(t, test_failure);
    tcase_add_test(t, test_hung);
    tcase_add_test(t, test_format);
    tcase_add_test(t, test_format_while_graph_hangs);
    suite_add_tcase(s, t);
    return unit_main(s);
}
