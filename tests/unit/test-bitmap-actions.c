/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The actions block-dirty-bitmap-* (block/monitor/qmp-bitmap.c) on an image that
 * stores bitmaps, and on one that fails to; and what they leave behind when they
 * are undone while a guest writes.
 */
#include <errno.h>
#include <json-glib/json-glib.h>
#include <string.h>

#include "block/dirty-bitmap.h"
#include "block/graph-int.h"
#include "block/monitor/qmp-transaction.h"
#include "unit-main.h"
#include "util/error.h"

#define GRANULE 65536
#define LENGTH (16 * GRANULE)

static GString *calls; /* "can NAME", "remove NAME", "store NAME", ... */
static bool refuse;
static BlockDriverState *keeper, *plain;

static void called(const char *what, BlockDriverState *bs, const char *name)
{
    ck_assert(bdrv_graph_locked());
    g_string_append_printf(calls, "%s%s %s%s", calls->len ? ", " : "", what,
                           name, bs->quiesce > 0 ? "" : " undrained");
}

static bool keeper_can_store(BlockDriverState *bs, const char *name,
                             uint32_t granularity, GError **errp)
{
    called("can", bs, name);
    if (refuse) {
        error_setg(errp, "no room for '%s'", name);
    }
    return !refuse;
}

static int keeper_remove_stored(BlockDriverState *bs, const char *name,
                                GError **errp)
{
    called("remove", bs, name);
    if (refuse) {
        error_setg(errp, "'%s' is stuck", name);
    }
    return refuse ? -EIO : 0;
}

/* As a format does: what is persistent now is stored. */
static void keeper_close(BlockDriverState *bs)
{
    g_autoptr(GPtrArray) named = bdrv_named_dirty_bitmaps(bs);
    guint i;

    for (i = 0; i < named->len; i++) {
        if (bdrv_dirty_bitmap_persistent(named->pdata[i])) {
            g_string_append_printf(calls, ", store %s",
                                   bdrv_dirty_bitmap_name(named->pdata[i]));
        }
    }
}

static int disk_open(BlockDriverState *bs, JsonObject *options, GError **errp)
{
    return 0;
}

static int64_t disk_getlength(BlockDriverState *bs)
{
    return LENGTH;
}

static const BlockDriver keeper_driver = {
    .format_name = "keeper",
    .kind = BLOCK_DRIVER_PROTOCOL,
    .open = disk_open,
    .close = keeper_close,
    .getlength = disk_getlength,
    .can_store_bitmap = keeper_can_store,
    .remove_stored_bitmap = keeper_remove_stored,
};
static const BlockDriver plain_driver = {
    .format_name = "plain",
    .kind = BLOCK_DRIVER_PROTOCOL,
    .open = disk_open,
    .getlength = disk_getlength,
};

static void set_up(void)
{
    calls = g_string_new(NULL);
    refuse = false;
    bdrv_graph_lock();
    keeper = bdrv_new_internal(&keeper_driver, "keeper", NULL);
    plain = bdrv_new_internal(&plain_driver, "plain", NULL);
    bdrv_graph_unlock();
}

/* What is done at the end counts, too. */
static void close_all(const char *want)
{
    bdrv_graph_lock();
    bdrv_unref(keeper);
    bdrv_unref(plain);
    bdrv_graph_unlock();
    ck_assert_str_eq(calls->str, want);
    g_string_free(calls, TRUE);
}

/* ---- steps -------------------------------------------------------------- */

/* A guest writes its granule while others are prepared. */
static bool write_prepare(TransactionAction *a, JsonObject *data, GError **errp)
{
    bdrv_set_dirty(plain, schema_get_int(data, "granule", 0) * GRANULE, 1);
    return true;
}

static const TransactionActionDriver guest = {
    .type = "guest",
    .prepare = write_prepare,
};

static bool fail_prepare(TransactionAction *a, JsonObject *data, GError **errp)
{
    error_setg(errp, "that is all");
    return false;
}

static const TransactionActionDriver failure = {
    .type = "failure",
    .prepare = fail_prepare,
};

typedef struct Step {
    const char *verb; /* of the action; or "guest", "failure" */
    const char *data; /* JSON with ' for " */
} Step;

static const TransactionActionDriver *find_action(const char *verb)
{
    const TransactionActionDriver *drv;

    for (drv = bitmap_actions; drv->type; drv++) {
        if (g_str_has_suffix(drv->type, verb)) {
            return drv;
        }
    }
    return g_str_equal(verb, "guest") ? &guest : &failure;
}

/* NULL @error: it works. */
static void run_steps(const Step *steps, size_t n, const char *error)
{
    g_autofree TransactionStep *list = g_new(TransactionStep, n);
    g_autoptr(GError) err = NULL;
    size_t i;

    for (i = 0; i < n; i++) {
        g_autofree char *json = g_strdup(steps[i].data);
        g_autoptr(JsonNode) node = NULL;

        g_strdelimit(json, "'", '"');
        node = json_from_string(json, NULL);
        ck_assert_ptr_nonnull(node);
        list[i] = (TransactionStep){ find_action(steps[i].verb),
                                     json_node_dup_object(node) };
    }
    bdrv_graph_lock();
    ck_assert(transaction_run(list, n, false, &err) == !error);
    bdrv_graph_unlock();
    for (i = 0; i < n; i++) {
        json_object_unref(list[i].data);
    }
    ck_assert_str_eq(err ? err->message : "", error ? error : "");
    ck_assert_uint_eq(keeper->quiesce + plain->quiesce, 0);
}

#define run(error, ...)                                                        \
    do {                                                                       \
        const Step steps_[] = { __VA_ARGS__ };                                 \
        run_steps(steps_, G_N_ELEMENTS(steps_), error);                        \
    } while (0)

static BdrvDirtyBitmap *bitmap_of(BlockDriverState *bs, const char *name)
{
    BdrvDirtyBitmap *bitmap = bdrv_find_dirty_bitmap(bs, name, NULL);

    ck_assert_ptr_nonnull(bitmap);
    return bitmap;
}

static void marked(const char *name, unsigned want)
{
    unsigned have = 0, i;
    int64_t pnum;

    for (i = 0; i < LENGTH / GRANULE; i++) {
        have |= bdrv_dirty_bitmap_status(bitmap_of(plain, name),
                                         (int64_t)i * GRANULE, 1, &pnum)
                << i;
    }
    ck_assert_uint_eq(have, want);
}

/* ---- tests -------------------------------------------------------------- */

START_TEST(test_stored)
{
    run(NULL, { "add", "{'node':'keeper','name':'a','persistent':true}" });
    ck_assert(bdrv_dirty_bitmap_persistent(bitmap_of(keeper, "a")));
    run(NULL, { "add", "{'node':'keeper','name':'b','persistent':true}" });
    run(NULL, { "add", "{'node':'keeper','name':'c'}" });
    run(NULL, { "remove", "{'node':'keeper','name':'b'}" });
    /* It is in no image. */
    run(NULL, { "remove", "{'node':'keeper','name':'c'}" });
    ck_assert_ptr_null(bdrv_find_dirty_bitmap(keeper, "b", NULL));
    close_all("can a, can b, remove b, store a");
}
END_TEST

START_TEST(test_not_stored)
{
    run("Can't store persistent bitmaps to plain: Operation not supported",
        { "add", "{'node':'plain','name':'a','persistent':true}" });
    ck_assert_ptr_null(bdrv_find_dirty_bitmap(plain, "a", NULL));
    run(NULL, { "add", "{'node':'keeper','name':'a','persistent':true}" });
    refuse = true;
    run("no room for 'b'",
        { "add", "{'node':'keeper','name':'b','persistent':true}" });
    ck_assert_ptr_null(bdrv_find_dirty_bitmap(keeper, "b", NULL));
    run("'a' is stuck", { "remove", "{'node':'keeper','name':'a'}" });
    /* It is as it was. */
    ck_assert(bdrv_dirty_bitmap_check(bitmap_of(keeper, "a"),
                                      BDRV_BITMAP_DEFAULT, NULL));
    close_all("can a, can b, remove a, store a");
}
END_TEST

/* What was removed from the image comes back to it. */
START_TEST(test_stored_undone)
{
    run(NULL, { "add", "{'node':'keeper','name':'a','persistent':true}" });
    run("that is all",
        { "add", "{'node':'keeper','name':'b','persistent':true}" },
        { "remove", "{'node':'keeper','name':'a'}" }, { "failure", "{}" });
    ck_assert_ptr_null(bdrv_find_dirty_bitmap(keeper, "b", NULL));
    ck_assert(bdrv_dirty_bitmap_check(bitmap_of(keeper, "a"),
                                      BDRV_BITMAP_DEFAULT, NULL));
    close_all("can a, can b, remove a, store a");
}
END_TEST

START_TEST(test_read_only)
{
    run(NULL, { "add", "{'node':'keeper','name':'a'}" },
        { "add", "{'node':'keeper','name':'b'}" });
    bdrv_dirty_bitmap_set_read_only(bitmap_of(keeper, "a"), true);
    run("Bitmap 'a' is readonly and cannot be modified",
        { "remove", "{'node':'keeper','name':'a'}" });
    run("Bitmap 'a' is readonly and cannot be modified",
        { "clear", "{'node':'keeper','name':'a'}" });
    run("Bitmap 'a' is readonly and cannot be modified",
        { "merge", "{'node':'keeper','target':'a','bitmaps':['b']}" });
    run(NULL, { "disable", "{'node':'keeper','name':'a'}" });
    run(NULL, { "merge", "{'node':'keeper','target':'b','bitmaps':['a']}" });
    close_all("");
}
END_TEST

START_TEST(test_inconsistent)
{
    run(NULL, { "add", "{'node':'keeper','name':'a','persistent':true}" },
        { "add", "{'node':'keeper','name':'b'}" });
    bdrv_dirty_bitmap_set_inconsistent(bitmap_of(keeper, "a"));
    run("Bitmap 'a' is inconsistent and cannot be used",
        { "enable", "{'node':'keeper','name':'a'}" });
    run("Bitmap 'a' is inconsistent and cannot be used",
        { "merge", "{'node':'keeper','target':'b','bitmaps':['a']}" });
    run(NULL, { "remove", "{'node':'keeper','name':'a'}" });
    close_all("can a, remove a");
}
END_TEST

/* Guests' writes that come in between survive, and nothing else does. */
START_TEST(test_undone)
{
    run(NULL, { "add", "{'node':'plain','name':'a'}" },
        { "add", "{'node':'plain','name':'b','disabled':true}" },
        { "guest", "{'granule':0}" });
    bdrv_set_dirty_bitmap(bitmap_of(plain, "b"), 5 * GRANULE, 2 * GRANULE);
    run("that is all",
        { "merge", "{'node':'plain','target':'a',"
                   "'bitmaps':['b']}" },
        { "guest", "{'granule':6}" },
        { "clear", "{'node':'plain','name':'b'}" },
        { "clear", "{'node':'plain','name':'a'}" },
        { "guest", "{'granule':9}" },
        { "disable", "{'node':'plain','name':'a'}" },
        { "guest", "{'granule':10}" },
        { "enable", "{'node':'plain','name':'b'}" },
        { "remove", "{'node':'plain','name':'b'}" },
        { "add", "{'node':'plain','name':'c'}" }, { "failure", "{}" });
    marked("a", 0x241);
    marked("b", 0x60);
    ck_assert(bdrv_dirty_bitmap_enabled(bitmap_of(plain, "a")));
    ck_assert(!bdrv_dirty_bitmap_enabled(bitmap_of(plain, "b")));
    ck_assert_ptr_null(bdrv_find_dirty_bitmap(plain, "c", NULL));
    close_all("");
}
END_TEST

/* Takes the place of the real one: while it waits, a disk becomes longer. */
bool __real_transaction_drain(TransactionAction *a, BlockDriverState *bs,
                              GError **errp);
bool __wrap_transaction_drain(TransactionAction *a, BlockDriverState *bs,
                              GError **errp);
static bool grows;

bool __wrap_transaction_drain(TransactionAction *a, BlockDriverState *bs,
                              GError **errp)
{
    if (grows) {
        bdrv_set_dirty(keeper, LENGTH, 512);
    }
    return __real_transaction_drain(a, bs, errp);
}

START_TEST(test_grown)
{
    run(NULL, { "add", "{'node':'plain','name':'a'}" },
        { "add", "{'node':'plain','name':'b'}" },
        { "add", "{'node':'keeper','name':'k'}" }, { "guest", "{'granule':1}" },
        { "clear", "{'node':'plain','name':'a'}" });
    grows = true;
    run("Bitmaps are of different sizes (destination size is 1048576, source"
        " size is 1049088) and can't be merged",
        { "merge", "{'node':'plain','target':'a','bitmaps':['b',"
                   "{'node':'keeper','name':'k'}]}" },
        { "failure", "{}" });
    grows = false;
    marked("a", 0);
    marked("b", 0x2);
    close_all("");
}
END_TEST

START_TEST(test_done)
{
    run(NULL, { "add", "{'node':'plain','name':'a'}" },
        { "guest", "{'granule':1}" });
    run(NULL, { "add", "{'node':'plain','name':'b','disabled':true}" },
        { "merge", "{'node':'plain','target':'b','bitmaps':['a',"
                   "{'node':'plain','name':'a'}]}" },
        { "clear", "{'node':'plain','name':'a'}" },
        { "guest", "{'granule':3}" });
    marked("a", 0x8);
    marked("b", 0x2);
    run(NULL, { "clear", "{'node':'plain','name':'b'}" },
        { "remove", "{'node':'plain','name':'b'}" });
    ck_assert_ptr_null(bdrv_find_dirty_bitmap(plain, "b", NULL));
    close_all("");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bitmap-actions");
    TCase *tc = tcase_create("bitmap-actions");

    tcase_add_checked_fixture(tc, set_up, NULL);
    tcase_add_test(tc, test_stored);
    tcase_add_test(tc, test_not_stored);
    tcase_add_test(tc, test_stored_undone);
    tcase_add_test(tc, test_read_only);
    tcase_add_test(tc, test_inconsistent);
    tcase_add_test(tc, test_undone);
    tcase_add_test(tc, test_grown);
    tcase_add_test(tc, test_done);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
