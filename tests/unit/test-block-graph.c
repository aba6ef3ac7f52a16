/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Nodes by name, their options, and who may do what with them */
#include <sched.h>
#include <string.h>

#include "block/block-int.h"
#include "unit-main.h"

static JsonNode *parse(const char *text)
{
    g_autoptr(GError) err = NULL;
    JsonNode *node = json_from_string(text, &err);

    ck_assert_msg(node != NULL, "%s: %s", text, err ? err->message : "empty");
    return node;
}

/* blockdev-add: checks the options and opens. */
static BlockDriverState *add(const char *text, GError **errp)
{
    g_autoptr(JsonNode) node = parse(text);
    BlockDriverState *bs = NULL;

    if (schema_check(&blockdev_options_type, node, "", false, errp)) {
        bs = bdrv_open(json_node_get_object(node), errp);
    }
    return bs;
}

static BlockDriverState *must_add(const char *text)
{
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs = add(text, &err);

    ck_assert_msg(bs != NULL, "%s: %s", text, err ? err->message : "no error");
    return bs;
}

static void refused(const char *text, const char *message)
{
    g_autoptr(GError) err = NULL;

    ck_assert_msg(add(text, &err) == NULL, "%s was taken", text);
    ck_assert_str_eq(err->message, message);
}

static void set_up(void)
{
    bdrv_graph_lock();
}

static void tear_down(void)
{
    g_autoptr(GPtrArray) nodes = NULL;

    bdrv_graph_unlock();
    bdrv_close_all();
    nodes = bdrv_all_nodes();
    ck_assert_uint_eq(nodes->len, 0);
}

START_TEST(test_names)
{
    must_add("{'driver':'null-co','node-name':'a'}");
    must_add("{'driver':'null-co','node-name':'A.b-c_9'}");
    must_add("{'driver':'null-co',"
             "'node-name':'a234567890123456789012345678901'}");
    refused("{'driver':'null-co'}",
            "'node-name' must be specified for the root node");
    refused("{'driver':'null-co','node-name':''}", "Invalid node-name: ''");
    refused("{'driver':'null-co','node-name':'1a'}", "Invalid node-name: '1a'");
    refused("{'driver':'null-co','node-name':'a b'}",
            "Invalid node-name: 'a b'");
    refused("{'driver':'null-co','node-name':'#block000'}",
            "Invalid node-name: '#block000'");
    refused("{'driver':'null-co',"
            "'node-name':'a2345678901234567890123456789012'}",
            "Node name too long: 'a2345678901234567890123456789012' has 32 "
            "characters, more than 31");
    refused("{'driver':'null-co','node-name':'a'}",
            "Duplicate nodes with node-name='a'");
    refused("{'driver':'raw','node-name':'x',"
            "'file':{'driver':'null-co','node-name':'x'}}",
            "Duplicate nodes with node-name='x'");
}
END_TEST

START_TEST(test_options)
{
    refused("{'node-name':'a'}", "Parameter 'driver' is missing");
    refused("{'driver':'nope','node-name':'a'}",
            "Parameter 'driver' does not accept value 'nope'");
    refused("{'driver':'null-co','node-name':'a','sise':1}",
            "Parameter 'sise' is unexpected");
    refused("{'driver':'null-co','node-name':'a','copy-on-read':'off'}",
            "Parameter 'copy-on-read' is unexpected");
    refused("{'driver':'null-co','node-name':'a','offset':1}",
            "Parameter 'offset' is unexpected");
    refused("{'driver':'raw','node-name':'a'}", "Parameter 'file' is missing");
    refused("{'driver':'raw','node-name':'a','file':{'driver':'null-co',"
            "'bogus':true}}",
            "Parameter 'file.bogus' is unexpected");
    refused("{'driver':'raw','node-name':'a','file':'nowhere'}",
            "Cannot find device='nowhere' nor node-name='nowhere'");
    refused("{'driver':'null-co','node-name':'a','force-share':true}",
            "force-share=on can only be used with read-only images");
    refused("{'driver':'raw','node-name':'r','offset':2049,"
            "'file':{'driver':'null-co','size':2048}}",
            "Offset (2049) cannot be greater than size of the containing file "
            "(2048)");
    refused("{'driver':'raw','node-name':'r','offset':1,'size':2048,"
            "'file':{'driver':'null-co','size':2048}}",
            "The sum of offset (1) and size (2048) has to be smaller or equal "
            "to the actual size of the containing file (2048)");
}
END_TEST

START_TEST(test_children)
{
    BlockDriverState *raw, *file;
    g_autoptr(GError) err = NULL;
    g_autoptr(GPtrArray) nodes = NULL;

    raw = must_add("{'driver':'raw','node-name':'r','read-only':true,"
                   "'cache':{'direct':true},'offset':512,'size':1000,"
                   "'file':{'driver':'null-co','cache':{'no-flush':true}}}");
    file = bdrv_get_file(raw);
    ck_assert_ptr_eq(file, raw->file->bs);
    ck_assert_str_eq(bdrv_node_name(raw), "r");
    ck_assert_str_eq(bdrv_driver_name(file), "null-co");
    ck_assert(g_str_has_prefix(bdrv_node_name(file), "#block"));
    ck_assert(bdrv_is_read_only(file));
    ck_assert(file->cache_direct);
    ck_assert(file->cache_no_flush);
    ck_assert(file->discard_unmap);
    ck_assert(!raw->discard_unmap);
    ck_assert(!raw->cache_no_flush);
    ck_assert_int_eq(bdrv_getlength(raw), 1000);
    ck_assert_int_eq(bdrv_getlength(file), 1 << 30);

    nodes = bdrv_all_nodes();
    ck_assert_uint_eq(nodes->len, 2);
    ck_assert_ptr_eq(nodes->pdata[0], raw);
    bdrv_unref(nodes->pdata[0]);
    bdrv_unref(nodes->pdata[1]);

    ck_assert(!bdrv_monitor_del(file->node_name, &err));
    ck_assert(g_str_has_suffix(err->message, "is not owned by the monitor"));
    bdrv_unref(file);
    ck_assert(bdrv_monitor_del("r", NULL));
    ck_assert_ptr_null(bdrv_find_node("r", NULL));
}
END_TEST

START_TEST(test_del)
{
    g_autoptr(GError) err = NULL;

    must_add("{'driver':'null-co','node-name':'n'}");
    must_add("{'driver':'raw','node-name':'r','file':'n'}");
    ck_assert(!bdrv_monitor_del("n", &err));
    ck_assert_str_eq(err->message, "Node n is in use by node 'r'");
    g_clear_error(&err);
    ck_assert(!bdrv_monitor_del("m", &err));
    ck_assert_str_eq(err->message, "Failed to find node with node-name='m'");
    ck_assert(bdrv_monitor_del("r", NULL));
    ck_assert(bdrv_monitor_del("n", NULL));
}
END_TEST

/* A query: has found two nodes and lets go of them when they are deleted. */
static void *query(void *opaque)
{
    BlockDriverState **found = opaque;
    BlockDriverState *bs;

    while ((bs = bdrv_find_node("r", NULL))) {
        bdrv_unref_later(bs);
        sched_yield();
    }
    ck_assert_str_eq(bdrv_node_name(found[0]), "r");
    bdrv_unref_later(found[0]);
    while ((bs = bdrv_find_node("n", NULL))) {
        bdrv_unref_later(bs);
        sched_yield();
    }
    ck_assert_str_eq(bdrv_node_name(found[1]), "n");
    bdrv_unref_later(found[1]);
    return NULL;
}

/* When a node is gone, so are its children, whoever was looking at them. */
START_TEST(test_del_while_queried)
{
    BlockDriverState *found[2];
    pthread_t thread;
    int i;

    for (i = 0; i < 100; i++) {
        must_add("{'driver':'raw','node-name':'r','file':"
                 "{'driver':'null-co','node-name':'n'}}");
        found[0] = bdrv_find_node("r", NULL);
        found[1] = bdrv_find_node("n", NULL);
        ck_assert_int_eq(pthread_create(&thread, NULL, query, found), 0);
        ck_assert(bdrv_monitor_del("r", NULL));
        must_add("{'driver':'null-co','node-name':'n'}");
        ck_assert(bdrv_monitor_del("n", NULL));
        pthread_join(thread, NULL);
    }
}
END_TEST

START_TEST(test_conflicts)
{
    BlockDriverState *bs = must_add("{'driver':'null-co','node-name':'n'}");
    BlockDriverState *raw =
        must_add("{'driver':'raw','node-name':'r','file':'n'}");
    BlockBackend *e0 = blk_new("export 'e0'", false, BLK_PERM_CONSISTENT_READ,
                               BLK_PERM_CONSISTENT_READ);
    BlockBackend *e1 =
        blk_new("export 'e1'", false, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                BLK_PERM_ALL);
    g_autoptr(GError) err = NULL;

    ck_assert(blk_attach(e0, bs, &err));
    ck_assert(!blk_attach(e1, bs, &err));
    ck_assert_str_eq(err->message,
                     "Permission conflict on node 'n': permissions 'write' are "
                     "both required by export 'e1' (uses node 'n' as 'root' "
                     "child) and unshared by export 'e0' (uses node 'n' as "
                     "'root' child).");
    g_clear_error(&err);
    ck_assert_ptr_null(blk_get_bs(e1));

    /* Through a node in between, which is then left as it was */
    ck_assert(!blk_attach(e1, raw, &err));
    ck_assert_str_eq(err->message,
                     "Permission conflict on node 'n': permissions 'write' are "
                     "both required by node 'r' (uses node 'n' as 'file' "
                     "child) and unshared by export 'e0' (uses node 'n' as "
                     "'root' child).");
    g_clear_error(&err);
    ck_assert_uint_eq(raw->file->perm, 0);
    ck_assert_uint_eq(raw->perm, 0);

    ck_assert(blk_set_perm(e0, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, &err));
    ck_assert(blk_attach(e1, raw, &err));
    ck_assert(!blk_set_perm(e0, BLK_PERM_CONSISTENT_READ,
                            BLK_PERM_CONSISTENT_READ, &err));
    g_clear_error(&err);
    ck_assert_uint_eq(bs->perm, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE);
    ck_assert_uint_eq(bs->shared_perm, BLK_PERM_ALL);

    ck_assert(!bdrv_monitor_del("r", &err));
    ck_assert_str_eq(err->message, "Node r is in use by export 'e1'");
    blk_free(e1);
    ck_assert_uint_eq(bs->perm, BLK_PERM_CONSISTENT_READ);
    ck_assert(blk_set_perm(e0, BLK_PERM_CONSISTENT_READ,
                           BLK_PERM_CONSISTENT_READ, NULL));
    blk_free(e0);
}
END_TEST

START_TEST(test_read_only)
{
    BlockDriverState *bs =
        must_add("{'driver':'null-co','node-name':'n','read-only':true}");
    BlockBackend *blk =
        blk_new("export 'e0'", false, BLK_PERM_WRITE, BLK_PERM_ALL);
    g_autoptr(GError) err = NULL;

    ck_assert(!blk_attach(blk, bs, &err));
    ck_assert_str_eq(err->message, "Block node 'n' is read-only");
    ck_assert(blk_set_perm(blk, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, NULL));
    ck_assert(blk_attach(blk, bs, NULL));
    ck_assert_int_eq(blk_pwrite(blk, 0, 1, "x", 0), -EPERM);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 0, 1, 0), -EPERM);
    ck_assert_int_eq(blk_pdiscard(blk, 0, 1), -EPERM);
    blk_free(blk);
}
END_TEST

/* @n nodes one on another, PREFIX1 at the bottom */
static void add_chain(const char *prefix, int n)
{
    int i;

    for (i = 1; i <= n; i++) {
        g_autofree char *text =
            i == 1 ? g_strdup_printf("{'driver':'null-co','node-name':'%s1'}",
                                     prefix)
                   : g_strdup_printf("{'driver':'raw','node-name':'%s%d',"
                                     "'file':'%s%d'}",
                                     prefix, i, prefix, i - 1);

        must_add(text);
    }
}

/* Those from @n down to @last */
static void del_chain(const char *prefix, int n, int last)
{
    for (; n >= last; n--) {
        g_autofree char *name = g_strdup_printf("%s%d", prefix, n);

        ck_assert(bdrv_monitor_del(name, NULL));
    }
}

START_TEST(test_longest_chain)
{
    g_autoptr(GError) err = NULL;
    BlockDriverState *from, *to;

    add_chain("a", 200);
    refused("{'driver':'raw','node-name':'x','file':'a200'}",
            "Node 'x' cannot be put on node 'a200': this would be a chain of "
            "201 nodes, 200 is the limit");
    refused("{'driver':'raw','node-name':'x','file':"
            "{'driver':'raw','node-name':'y','file':'a199'}}",
            "Node 'x' cannot be put on node 'y': this would be a chain of "
            "201 nodes, 200 is the limit");
    ck_assert(bdrv_find_node("y", NULL) == NULL);
    /* In the middle: 198 nodes stay on what is replaced. */
    add_chain("b", 3);
    from = bdrv_find_node("a2", NULL);
    to = bdrv_find_node("b3", NULL);
    bdrv_drained_begin(from);
    ck_assert(!bdrv_replace_node(from, to, &err));
    ck_assert_str_eq(err->message,
                     "Node 'a3' cannot be put on node 'b3': this would be a "
                     "chain of 201 nodes, 200 is the limit");
    bdrv_drained_end(from);
    ck_assert_uint_eq(from->parents->len, 1);
    ck_assert_uint_eq(to->parents->len, 0);
    bdrv_unref(to);
    to = bdrv_find_node("b2", NULL);
    bdrv_drained_begin(from);
    ck_assert(bdrv_monitor_del("b3", NULL));
    ck_assert(bdrv_replace_node(from, to, NULL));
    bdrv_drained_end(from);
    ck_assert_uint_eq(from->parents->len, 0);
    ck_assert_uint_eq(to->parents->len, 1);
    bdrv_unref(from);
    bdrv_unref(to);
    del_chain("a", 2, 1);
    del_chain("a", 200, 3);
    del_chain("b", 2, 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("block-graph");
    TCase *tc = tcase_create("graph");

    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, test_names);
    tcase_add_test(tc, test_options);
    tcase_add_test(tc, test_children);
    tcase_add_test(tc, test_del);
    tcase_add_test(tc, test_del_while_queried);
    tcase_add_test(tc, test_conflicts);
    tcase_add_test(tc, test_read_only);
    tcase_add_test(tc, test_longest_chain);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
