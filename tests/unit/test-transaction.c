/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Transactions: in which order what is called, and that nothing is left */
#include "backing-fixture.h"
#include "block/graph-int.h"
#include "block/monitor/qmp-transaction.h"
#include "unit-main.h"
#include "util/error.h"

/* ---- an action that tells what is done with it -------------------------- */

typedef struct Toy {
    char name;
    BlockDriverState *bs;
} Toy;

static GString *calls; /* "pA cA xA": prepare, commit, abort (a), clean (x) */
static BlockDriverState *toy_looks_at;

static void called(char what, char name)
{
    g_string_append_printf(calls, "%s%c%c", calls->len ? " " : "", what, name);
}

static bool toy_prepare(TransactionAction *a, JsonObject *data, GError **errp)
{
    const char *drain = schema_get_str(data, "drain", NULL);
    Toy *toy = transaction_opaque(a);

    toy->name = *schema_get_str(data, "name", NULL);
    called('p', toy->name);
    if (drain) {
        toy->bs = bdrv_find_node(drain, NULL);
        bdrv_unref(toy->bs);
        if (!transaction_drain(a, toy->bs, errp)) {
            toy->bs = NULL;
            return false;
        }
    }
    if (toy_looks_at) {
        /* What the snapshot took away is not given up yet. */
        ck_assert_uint_eq(toy_looks_at->perm, READ | WRITE);
        ck_assert_ptr_nonnull(bdrv_find_overlay(toy_looks_at));
    }
    if (schema_get_bool(data, "fail", false)) {
        error_setg(errp, "toy %c is broken", toy->name);
        return false;
    }
    return true;
}

static void toy_end(TransactionAction *a, char what)
{
    Toy *toy = transaction_opaque(a);

    called(what, toy->name);
    ck_assert(!toy->bs || toy->bs->quiesce > 0);
}

static void toy_commit(TransactionAction *a)
{
    toy_end(a, 'c');
}

static void toy_abort(TransactionAction *a)
{
    toy_end(a, 'a');
}

static void toy_clean(TransactionAction *a)
{
    toy_end(a, 'x');
}

static const TransactionActionDriver toy_driver = {
    .type = "toy",
    .instance_size = sizeof(Toy),
    .grouped = true,
    .prepare = toy_prepare,
    .commit = toy_commit,
    .abort = toy_abort,
    .clean = toy_clean,
};

/* One with nothing but what it must have */
static bool plain_prepare(TransactionAction *a, JsonObject *data, GError **errp)
{
    called('p', '-');
    return true;
}

static const TransactionActionDriver plain_driver = {
    .type = "plain",
    .prepare = plain_prepare,
};

/* ---- transactions ------------------------------------------------------- */

static JsonObject *parse(const char *text)
{
    g_autofree char *json = g_strdup(text);
    g_autoptr(JsonNode) node = NULL;

    g_strdelimit(json, "'", '"');
    node = json_from_string(json, NULL);
    ck_assert_ptr_nonnull(node);
    return json_object_ref(json_node_get_object(node));
}

typedef struct Text {
    const TransactionActionDriver *drv;
    const char *data; /* JSON with ' for " */
} Text;

/* NULL @error: it works. */
static void run_texts(const Text *texts, size_t n, bool grouped,
                      const char *error)
{
    g_autofree TransactionStep *steps = g_new(TransactionStep, n);
    g_autoptr(GError) err = NULL;
    bool ok;
    size_t i;

    for (i = 0; i < n; i++) {
        steps[i] = (TransactionStep){ texts[i].drv, parse(texts[i].data) };
    }
    bdrv_graph_lock();
    ok = transaction_run(steps, n, grouped, &err);
    bdrv_graph_unlock();
    for (i = 0; i < n; i++) {
        json_object_unref(steps[i].data);
    }
    ck_assert_str_eq(err ? err->message : "", error ? error : "");
    ck_assert(ok == !error);
}

#define run(grouped, error, ...)                                               \
    do {                                                                       \
        const Text texts_[] = { __VA_ARGS__ };                                 \
        run_texts(texts_, G_N_ELEMENTS(texts_), grouped, error);               \
    } while (0)

static void check_calls(const char *expected)
{
    ck_assert_str_eq(calls->str, expected);
    g_string_truncate(calls, 0);
}

static MemDisk *overlay_disks[2];
static BlockDriverState *overlays[2];

static void set_up_transaction(void)
{
    int i;

    set_up();
    calls = g_string_new(NULL);
    toy_looks_at = NULL;
    bdrv_graph_lock();
    for (i = 0; i < 2; i++) {
        g_autofree char *name = g_strdup_printf("overlay%d", i);
        BlockDriverState *file;

        overlay_disks[i] = mem_disk_new(LENGTH, 1);
        file = mem_node_new(&mem_driver, i ? "of1" : "of0", overlay_disks[i]);
        overlays[i] = cow_new(name, file, NULL);
        bdrv_unref(file);
    }
    ck_assert(blk_set_perm(blk, READ | WRITE, ALL & ~WRITE, NULL));
    bdrv_graph_unlock();
}

static void tear_down_transaction(void)
{
    int i;

    bdrv_graph_lock();
    blk_detach(blk);
    bdrv_unref(overlays[1]);
    bdrv_unref(overlays[0]);
    bdrv_graph_unlock();
    tear_down();
    for (i = 0; i < 2; i++) {
        mem_disk_free(overlay_disks[i]);
    }
    g_string_free(calls, TRUE);
}

START_TEST(test_order)
{
    run_texts(NULL, 0, false, NULL);
    run_texts(NULL, 0, true, NULL);
    check_calls("");
    run(false, NULL, { &toy_driver, "{'name':'A'}" }, { &plain_driver, "{}" },
        { &toy_driver, "{'name':'B'}" });
    check_calls("pA p- pB cA cB xA xB");
    run(false, "toy C is broken", { &toy_driver, "{'name':'A'}" },
        { &toy_driver, "{'name':'B'}" }, { &plain_driver, "{}" },
        { &toy_driver, "{'name':'C','fail':true}" },
        { &toy_driver, "{'name':'D'}" });
    check_calls("pA pB p- pC aB aA xA xB xC");
    run(true, "toy A is broken", { &toy_driver, "{'name':'A','fail':true}" });
    check_calls("pA xA");
}
END_TEST

START_TEST(test_grouped)
{
    run(true, NULL, { &toy_driver, "{'name':'A'}" });
    check_calls("pA cA xA");
    run(true,
        "Action 'plain' does not support Transaction property completion-mode "
        "= grouped",
        { &toy_driver, "{'name':'A'}" }, { &plain_driver, "{}" });
    check_calls("pA aA xA");
}
END_TEST

START_TEST(test_drained_until_the_end)
{
    run(false, NULL, { &toy_driver, "{'name':'A','drain':'top'}" },
        { &toy_driver, "{'name':'B','drain':'overlay0'}" },
        { &toy_driver, "{'name':'C','drain':'top'}" });
    check_calls("pA pB pC cA cB cC xA xB xC");
    ck_assert_uint_eq(top->quiesce, 0);
    ck_assert_uint_eq(overlays[0]->quiesce, 0);
    run(false, "toy B is broken", { &toy_driver, "{'name':'A','drain':'top'}" },
        { &toy_driver, "{'name':'B','drain':'top','fail':true}" });
    check_calls("pA pB aA xA xB");
    ck_assert_uint_eq(top->quiesce, 0);
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

START_TEST(test_request_hangs)
{
    pthread_t thread;

    transaction_drain_us = 1000;
    disks[2]->hook = slow_read;
    ck_assert_int_eq(pthread_create(&thread, NULL, read_top, NULL), 0);
    while (mem_count(disks[2], MEM_READ) == 0) {
        sched_yield();
    }
    run(false, "Node 'top' is busy: a request does not end",
        { &toy_driver, "{'name':'A','drain':'overlay0'}" },
        { &toy_driver, "{'name':'B','drain':'top'}" });
    check_calls("pA pB aA xA xB");
    ck_assert_uint_eq(overlays[0]->quiesce, 0);
    ck_assert_uint_eq(top->quiesce, 0);
    g_atomic_pointer_set(&disks[2]->opaque, disks);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    transaction_drain_us = G_USEC_PER_SEC;
}
END_TEST

/* ---- snapshots ---------------------------------------------------------- */

#define SNAPSHOT(node, overlay)                                                \
    {                                                                          \
        &snapshot_actions[0], "{'node':'" node "','overlay':'" overlay "'}"    \
    }

static void check_nothing_changed(void)
{
    int i;

    for (i = 0; i < 2; i++) {
        ck_assert_ptr_null(overlays[i]->backing);
        ck_assert_uint_eq(overlays[i]->parents->len, 0);
        ck_assert_uint_eq(overlays[i]->perm, 0);
        ck_assert_uint_eq(overlays[i]->quiesce, 0);
        ck_assert_int_eq(overlays[i]->refcnt, 1);
    }
    ck_assert_uint_eq(top->parents->len, 1);
    ck_assert_uint_eq(top->perm, READ | WRITE);
    ck_assert_uint_eq(top->shared_perm, ALL & ~WRITE);
    ck_assert_uint_eq(top->kept_perm, 0);
    ck_assert_uint_eq(top->quiesce, 0);
    assert_blocks(blk, "aa0bc00aaa00b000");
}

START_TEST(test_snapshots)
{
    run(false, NULL, SNAPSHOT("top", "overlay0"),
        SNAPSHOT("overlay0", "overlay1"));
    ck_assert_ptr_eq(overlays[1]->backing->bs, overlays[0]);
    ck_assert_ptr_eq(overlays[0]->backing->bs, top);
    ck_assert_uint_eq(overlays[1]->perm, READ | WRITE);
    ck_assert_uint_eq(overlays[0]->perm, READ);
    ck_assert_uint_eq(top->perm, READ);
    ck_assert_uint_eq(
        top->quiesce + overlays[0]->quiesce + overlays[1]->quiesce, 0);
    assert_blocks(blk, "aa0bc00aaa00b000");
}
END_TEST

START_TEST(test_snapshots_aborted)
{
    toy_looks_at = top;
    run(false, "toy Z is broken", SNAPSHOT("top", "overlay0"),
        SNAPSHOT("overlay0", "overlay1"),
        { &toy_driver, "{'name':'Z','fail':true}" });
    check_nothing_changed();

    run(false, "Node 'top' is busy: node is used as backing hd of 'overlay0'",
        SNAPSHOT("top", "overlay0"), SNAPSHOT("top", "overlay1"));
    check_nothing_changed();
    run(false, "The overlay is already in use", SNAPSHOT("top", "overlay0"),
        SNAPSHOT("overlay1", "overlay0"));
    check_nothing_changed();
    run(false, "Cannot find device='nobody' nor node-name='nobody'",
        SNAPSHOT("top", "overlay0"), SNAPSHOT("overlay0", "nobody"));
    check_nothing_changed();

    /* And it still can be done. */
    run(false, NULL, SNAPSHOT("top", "overlay0"));
    ck_assert_ptr_eq(overlays[0]->backing->bs, top);
}
END_TEST

/* A driver that does not give permissions again that it got rid of */
static int given_up; /* how often writing was */

static bool grudging_check_perm(BlockDriverState *bs, uint64_t perm,
                                uint64_t shared, GError **errp)
{
    if ((perm & WRITE) && given_up) {
        error_setg(errp, "once was enough");
        return false;
    }
    return true;
}

static void grudging_set_perm(BlockDriverState *bs, uint64_t perm,
                              uint64_t shared)
{
    given_up += (bs->perm & WRITE) && !(perm & WRITE);
}

static BlockDriver grudging_driver;

START_TEST(test_nothing_given_up)
{
    BlockDriverState *grudging;

    grudging_driver = cow_driver;
    grudging_driver.check_perm = grudging_check_perm;
    grudging_driver.set_perm = grudging_set_perm;
    given_up = 0;
    bdrv_graph_lock();
    blk_detach(blk);
    cow_next.file = mid;
    grudging = bdrv_new_internal(&grudging_driver, "grudging", NULL);
    ck_assert(blk_attach(blk, grudging, NULL));
    bdrv_graph_unlock();

    run(false, "toy Z is broken", SNAPSHOT("grudging", "overlay0"),
        { &toy_driver, "{'name':'Z','fail':true}" });
    ck_assert_int_eq(given_up, 0);
    ck_assert_uint_eq(grudging->perm, READ | WRITE);
    run(false, NULL, SNAPSHOT("grudging", "overlay0"));
    ck_assert_int_eq(given_up, 1);
    ck_assert_uint_eq(grudging->perm, READ);

    bdrv_graph_lock();
    blk_detach(blk);
    bdrv_detach_child(overlays[0]->backing);
    bdrv_unref(grudging);
    bdrv_graph_unlock();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("transaction");
    TCase *tc = tcase_create("transaction");

    tcase_add_checked_fixture(tc, set_up_transaction, tear_down_transaction);
    tcase_add_test(tc, test_order);
    tcase_add_test(tc, test_grouped);
    tcase_add_test(tc, test_drained_until_the_end);
    tcase_add_test(tc, test_request_hangs);
    tcase_add_test(tc, test_snapshots);
    tcase_add_test(tc, test_snapshots_aborted);
    tcase_add_test(tc, test_nothing_given_up);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
