/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * blockdev-reopen of nodes that stand on others, as a transaction: what is
 * drained, what is undone, what children made inline take over.
 */
#include "mem-disk.h"
#include "reopen-options.h"
#include "unit-main.h"
#include "util/object.h"
#include "block/throttle-group.h"

#define KIB INT64_C(1024)
#define MIB (KIB * KIB)

static BlockDriverState *mem; /* node 'm' */

static BlockDriverState *add(const char *text)
{
    g_autofree char *json = g_strdup(text);
    g_autoptr(JsonNode) node = NULL;
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs = NULL;

    g_strdelimit(json, "'", '"');
    node = json_from_string(json, NULL);
    ck_assert(schema_check(&blockdev_options_type, node, "", false, &err));
    bdrv_graph_lock();
    bs = bdrv_open(json_node_get_object(node), &err);
    bdrv_graph_unlock();
    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    return bs;
}

static void setup(void)
{
    bdrv_graph_lock();
    mem = mem_disk_new("m", MIB);
    bdrv_graph_unlock();
    mem_disk_fill(mem_disk_of(mem), 1);
    bdrv_reopen_drain_us = 10 * G_USEC_PER_SEC;
}

static void teardown(void)
{
    g_autoptr(GPtrArray) nodes = NULL;

    bdrv_graph_lock();
    bdrv_unref(mem);
    bdrv_graph_unlock();
    bdrv_close_all();
    object_del_all();
    nodes = bdrv_all_nodes();
    ck_assert_uint_eq(nodes->len, 0);
}

static BlockBackend *use(BlockDriverState *bs, const char *user, bool is_job,
                         uint64_t perm)
{
    BlockBackend *blk = blk_new(user, is_job, perm, BLK_PERM_ALL);
    g_autoptr(GError) err = NULL;
    bool ok;

    bdrv_graph_lock();
    ok = blk_attach(blk, bs, &err);
    bdrv_graph_unlock();
    ck_assert_msg(ok, "%s", err ? err->message : "");
    return blk;
}

static void unuse(BlockBackend *blk)
{
    bdrv_graph_lock();
    blk_free(blk);
    bdrv_graph_unlock();
}

/* Byte @offset of @blk is that of the disk @bs at @from. */
static void assert_at(BlockBackend *blk, int64_t offset, BlockDriverState *bs,
                      int64_t from)
{
    uint8_t byte;

    ck_assert_int_eq(blk_pread(blk, offset, 1, &byte, 0), 0);
    ck_assert_uint_eq(byte, mem_disk_data(mem_disk_of(bs))[from]);
}

/* ---- what is asked for -------------------------------------------------- */

START_TEST(test_names)
{
    add("{'driver':'raw','node-name':'r','file':'m'}");
    must_reopen("[]");
    ASSERT_REOPEN_FAILS("[{'driver':'raw','file':'m'}]",
                        "node-name not specified");
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'x','file':'m'}]",
                        "Failed to find node with node-name='x'");
    ASSERT_REOPEN_FAILS("[{'driver':'null-co','node-name':'r'}]",
                        "Cannot change the option 'driver' of node 'r'");
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'m','file':'m'}]",
                        "used by node 'm' does not support reopening");
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'r','file':'m'},"
                        "{'driver':'raw','node-name':'r','file':'m'}]",
                        "Node 'r' is mentioned twice");
}
END_TEST

START_TEST(test_null)
{
    BlockDriverState *bs =
        add("{'driver':'null-co','node-name':'n','size':4096}");

    must_reopen("[{'driver':'null-co','node-name':'n','size':4096,"
                "'read-only':true}]");
    ck_assert(bdrv_is_read_only(bs));
    ASSERT_REOPEN_FAILS("[{'driver':'null-co','node-name':'n','size':8192}]",
                        "Cannot change the option 'size'");
    ASSERT_REOPEN_FAILS("[{'driver':'null-co','node-name':'n'}]",
                        "Option 'size' of node 'n' cannot be reset to its "
                        "default value");
    ck_assert(bdrv_is_read_only(bs));
    ck_assert_int_eq(bdrv_getlength(bs), 4096);
}
END_TEST

/* ---- windows and children ----------------------------------------------- */

START_TEST(test_window)
{
    BlockDriverState *r = add("{'driver':'raw','node-name':'r','file':'m'}");
    BlockBackend *blk = use(r, "export 'e'", false, BLK_PERM_CONSISTENT_READ);
    BlockBackend *job;

    must_reopen("[{'driver':'raw','node-name':'r','file':'m','offset':5,"
                "'size':100}]");
    ck_assert_int_eq(bdrv_getlength(r), 100);
    assert_at(blk, 99, mem, 104);
    ck_assert_int_eq(blk_pread(blk, 100, 1, &(char){ 0 }, 0), -EIO);
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'r','file':'m',"
                        "'offset':1048577}]",
                        "Offset (1048577) cannot be greater");
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'r','file':'m',"
                        "'offset':1,'size':1048576}]",
                        "The sum of offset (1) and size (1048576)");
    ck_assert_int_eq(bdrv_getlength(r), 100);
    must_reopen("[{'driver':'raw','node-name':'r','file':'m'}]");
    ck_assert_int_eq(bdrv_getlength(r), MIB);
    assert_at(blk, 99, mem, 99);

    job = use(r, "job 'j'", true, BLK_PERM_CONSISTENT_READ);
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'r','file':'m',"
                        "'offset':5}]",
                        "Cannot change the window of node 'r': job 'j' uses");
    must_reopen("[{'driver':'raw','node-name':'r','file':'m',"
                "'detect-zeroes':'on'}]");
    unuse(job);
    unuse(blk);
}
END_TEST

START_TEST(test_other_child)
{
    BlockDriverState *r = add("{'driver':'raw','node-name':'r','file':'m'}");
    BlockDriverState *t = add("{'driver':'raw','node-name':'t','file':'r'}");
    BlockBackend *blk = use(t, "export 'e'", false, BLK_PERM_CONSISTENT_READ);
    BlockDriverState *other;
    BlockBackend *job;

    bdrv_graph_lock();
    other = mem_disk_new("o", MIB);
    bdrv_graph_unlock();
    mem_disk_fill(mem_disk_of(other), 2);
    must_reopen("[{'driver':'raw','node-name':'r','file':'o'}]");
    assert_at(blk, 9, other, 9);
    ck_assert_uint_eq(mem->parents->len, 0);
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'r','file':'t'}]",
                        "Making 't' a file child of 'r' would create a cycle");
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'t','file':'m'},"
                        "{'driver':'raw','node-name':'r','file':'t'}]",
                        "Making 't' a file child of 'r' would create a cycle");
    /* Each by itself would do. */
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'t','file':'m'},"
                        "{'driver':'raw','node-name':'r','file':'x'}]",
                        "node-name='x'");
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'r','file':"
                        "{'driver':'null-co'}}]",
                        "Cannot change the option 'file.driver'");
    add("{'driver':'raw','node-name':'s','file':'m'}");
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'r','file':'s'},"
                        "{'driver':'raw','node-name':'s','file':'r'}]",
                        "Making 'r' a file child of 's' would create a cycle");
    assert_at(blk, 9, other, 9);
    job = use(t, "job 'j'", true, BLK_PERM_CONSISTENT_READ);
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'r','file':'m'}]",
                        "Cannot change the child 'file' of node 'r': job 'j'");
    unuse(job);
    must_reopen("[{'driver':'raw','node-name':'t','file':'m','offset':1},"
                "{'driver':'raw','node-name':'r','file':'m'}]");
    assert_at(blk, 9, mem, 10);
    ck_assert_ptr_eq(r->file->bs, mem);
    unuse(blk);
    bdrv_graph_lock();
    bdrv_unref(other);
    bdrv_graph_unlock();
}
END_TEST

/* What fails last is undone from the end to the beginning. */
START_TEST(test_undone)
{
    BlockDriverState *r = add("{'driver':'raw','node-name':'r','file':'m'}");
    BlockDriverState *t = add("{'driver':'raw','node-name':'t','file':'r'}");
    BlockDriverState *w = add("{'driver':'raw','node-name':'w','file':'m'}");
    BlockBackend *blk = use(w, "export 'e'", false, BLK_PERM_WRITE);

    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'r','file':'m',"
                        "'offset':4096,'read-only':true},"
                        "{'driver':'raw','node-name':'t','file':'m',"
                        "'cache':{'no-flush':true},'size':512},"
                        "{'driver':'raw','node-name':'w','file':'m',"
                        "'read-only':true}]",
                        "Block node 'w' cannot be read-only: it is written to "
                        "by export 'e'");
    ck_assert(!bdrv_is_read_only(r) && !bdrv_is_read_only(w));
    ck_assert_int_eq(bdrv_getlength(r), MIB);
    ck_assert_int_eq(bdrv_getlength(t), MIB);
    ck_assert(!t->cache_no_flush);
    ck_assert_ptr_eq(t->file->bs, r);
    ck_assert(!json_object_has_member(r->options, "offset"));
    ck_assert(!r->reopening && !t->reopening && !w->reopening);
    ck_assert_uint_eq(r->quiesce, 0);
    ck_assert_int_eq(blk_pwrite(blk, 0, 1, "w", 0), 0);
    unuse(blk);
}
END_TEST

/* ---- what a parent gives its inline child ------------------------------- */

START_TEST(test_inline)
{
    BlockDriverState *r =
        add("{'driver':'raw','node-name':'r','file':{'driver':'raw',"
            "'node-name':'f','file':'m','detect-zeroes':'on'}}");
    BlockDriverState *f = r->file->bs;

    must_reopen("[{'driver':'raw','node-name':'r','file':'f',"
                "'read-only':true,'cache':{'direct':true}}]");
    ck_assert(bdrv_is_read_only(r) && bdrv_is_read_only(f));
    ck_assert(f->cache_direct);
    ck_assert_int_eq(f->detect_zeroes, BDRV_DETECT_ZEROES_ON);
    ck_assert(f->discard_unmap);
    must_reopen("[{'driver':'raw','node-name':'r','file':'f'}]");
    ck_assert(!bdrv_is_read_only(f) && !f->cache_direct);

    /* What is said of the child itself stays. */
    must_reopen("[{'driver':'raw','node-name':'r','file':{'driver':'raw',"
                "'file':'m','cache':{'direct':true}}}]");
    ck_assert(f->cache_direct && !r->cache_direct);
    ck_assert_int_eq(f->detect_zeroes, BDRV_DETECT_ZEROES_OFF);
    must_reopen("[{'driver':'raw','node-name':'r','file':'f'}]");
    ck_assert(f->cache_direct);
    must_reopen("[{'driver':'raw','node-name':'f','file':'m',"
                "'cache':{'no-flush':true}},"
                "{'driver':'raw','node-name':'r','file':'f',"
                "'cache':{'direct':true}}]");
    ck_assert(!f->cache_direct && f->cache_no_flush);
    must_reopen("[{'driver':'raw','node-name':'r','file':'f',"
                "'cache':{'direct':true}}]");
    ck_assert(f->cache_direct && f->cache_no_flush);
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'r','file':{"
                        "'driver':'null-co'}}]",
                        "Cannot change the option 'driver' of node 'f'");

    /* Nobody needs it any more. */
    must_reopen("[{'driver':'raw','node-name':'r','file':'m'}]");
    ck_assert_ptr_null(bdrv_find_node("f", NULL));
}
END_TEST

/* ---- throttle ----------------------------------------------------------- */

static void add_group(const char *id)
{
    g_autoptr(JsonObject) options = json_object_new();

    ck_assert(object_add(&throttle_group_object, id, options, NULL));
}

START_TEST(test_throttle)
{
    BlockDriverState *t;
    BlockBackend *blk;

    add_group("g");
    add_group("h");
    t = add("{'driver':'throttle','node-name':'t','throttle-group':'g',"
            "'file':'m'}");
    blk = use(t, "export 'e'", false, BLK_PERM_CONSISTENT_READ);
    ASSERT_REOPEN_FAILS("[{'driver':'throttle','node-name':'t',"
                        "'throttle-group':'x','file':'m'}]",
                        "Throttle group 'x' does not exist");
    ASSERT_REOPEN_FAILS("[{'driver':'throttle','node-name':'t',"
                        "'throttle-group':'h','file':'m'},"
                        "{'driver':'raw','node-name':'x','file':'m'}]",
                        "node-name='x'");
    ck_assert(!object_del("g", NULL));
    must_reopen("[{'driver':'throttle','node-name':'t',"
                "'throttle-group':'h','file':'m'}]");
    ck_assert(object_del("g", NULL));
    ck_assert(!object_del("h", NULL));
    assert_at(blk, 7, mem, 7);
    unuse(blk);
}
END_TEST

/* ---- requests in flight ------------------------------------------------- */

static void *read_byte(void *opaque)
{
    char byte;

    return GINT_TO_POINTER(blk_pread(opaque, 0, 1, &byte, 0));
}

START_TEST(test_hung_request)
{
    BlockDriverState *r = add("{'driver':'raw','node-name':'r','file':'m'}");
    BlockDriverState *t = add("{'driver':'raw','node-name':'t','file':'r'}");
    BlockBackend *blk = use(t, "export 'e'", false, BLK_PERM_CONSISTENT_READ);
    pthread_t thread;
    void *ret;

    mem_disk_hold(mem_disk_of(mem), MEM_READ, 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, read_byte, blk), 0);
    mem_disk_wait_held(mem_disk_of(mem));
    bdrv_reopen_drain_us = 20000;
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'r','file':'m',"
                        "'offset':1}]",
                        "Node 'r' is busy: a request does not end");
    ck_assert_uint_eq(r->quiesce, 0);
    mem_disk_let_go(mem_disk_of(mem));
    ck_assert_int_eq(pthread_join(thread, &ret), 0);
    ck_assert_ptr_null(ret);
    bdrv_reopen_drain_us = 10 * G_USEC_PER_SEC;
    must_reopen("[{'driver':'raw','node-name':'r','file':'m','offset':1}]");
    assert_at(blk, 0, mem, 1);
    unuse(blk);
}
END_TEST

/* What was written is on the disk before a node is read-only; or it is not. */
START_TEST(test_flush)
{
    BlockDriverState *r = add("{'driver':'raw','node-name':'r','file':'m'}");

    mem_disk_fail(mem_disk_of(mem), MEM_FLUSH, 0, ENOSPC);
    ASSERT_REOPEN_FAILS("[{'driver':'raw','node-name':'r','file':'m',"
                        "'read-only':true}]",
                        "Could not flush node 'r': No space left on device");
    ck_assert(!bdrv_is_read_only(r));
    must_reopen("[{'driver':'raw','node-name':'r','file':'m',"
                "'read-only':true}]");
    ck_assert(bdrv_is_read_only(r));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("reopen");
    TCase *tc = tcase_create("reopen");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_names);
    tcase_add_test(tc, test_null);
    tcase_add_test(tc, test_window);
    tcase_add_test(tc, test_other_child);
    tcase_add_test(tc, test_undone);
    tcase_add_test(tc, test_inline);
    tcase_add_test(tc, test_throttle);
    tcase_add_test(tc, test_hung_request);
    tcase_add_test(tc, test_flush);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
