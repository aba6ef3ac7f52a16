/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Permissions as drivers see them: asked, then told one way or the other */
#include <string.h>

#include "block/block-int.h"
#include "unit-main.h"
#include "util/error.h"

#define READ BLK_PERM_CONSISTENT_READ
#define WRITE BLK_PERM_WRITE
#define ALL BLK_PERM_ALL

static GString *events;
static const char *refuser; /* the node that says no */

static void note(BlockDriverState *bs, const char *what, uint64_t perm,
                 uint64_t shared)
{
    g_string_append_printf(events, "%s:%s(%x,%x) ", bs->node_name, what,
                           (unsigned)perm, (unsigned)shared);
}

static bool log_check(BlockDriverState *bs, uint64_t perm, uint64_t shared,
                      GError **errp)
{
    note(bs, "check", perm, shared);
    if (g_strcmp0(refuser, bs->node_name) == 0) {
        error_setg(errp, "%s says no", refuser);
        return false;
    }
    return true;
}

static void log_set(BlockDriverState *bs, uint64_t perm, uint64_t shared)
{
    note(bs, "set", perm, shared);
}

static void log_abort(BlockDriverState *bs)
{
    g_string_append_printf(events, "%s:abort ", bs->node_name);
}

static int64_t log_getlength(BlockDriverState *bs)
{
    return 4096;
}

/* A node that reads of its child what others want to write here */
static void odd_child_perm(BlockDriverState *bs, BdrvChild *child,
                           uint64_t perm, uint64_t shared, uint64_t *nperm,
                           uint64_t *nshared)
{
    ck_assert_str_eq(child->name, "file");
    *nperm = perm & WRITE ? READ : 0;
    *nshared = perm & WRITE ? ALL & ~WRITE : ALL;
}

static const BlockDriver disk_driver = {
    .format_name = "disk",
    .kind = BLOCK_DRIVER_PROTOCOL,
    .getlength = log_getlength,
    .check_perm = log_check,
    .set_perm = log_set,
    .abort_perm = log_abort,
};

static const BlockDriver filter_driver = {
    .format_name = "filter",
    .kind = BLOCK_DRIVER_FILTER,
    .check_perm = log_check,
    .set_perm = log_set,
    .abort_perm = log_abort,
};

static const BlockDriver odd_driver = {
    .format_name = "odd",
    .kind = BLOCK_DRIVER_FORMAT,
    .check_perm = log_check,
    .set_perm = log_set,
    .abort_perm = log_abort,
    .child_perm = odd_child_perm,
};

static BlockDriverState *disk;
static BlockBackend *user;

static BlockDriverState *new_node(const BlockDriver *drv, const char *name)
{
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs = bdrv_new_internal(drv, name, &err);

    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    return bs;
}

static void expect(const char *want)
{
    ck_assert_str_eq(events->str, want);
    g_string_truncate(events, 0);
}

static void set_up(void)
{
    events = g_string_new(NULL);
    refuser = NULL;
    bdrv_graph_lock();
    disk = new_node(&disk_driver, "d");
    user = blk_new("user", false, READ | WRITE, ALL & ~WRITE);
}

static void tear_down(void)
{
    g_autoptr(GPtrArray) nodes = NULL;

    blk_free(user);
    bdrv_unref(disk);
    nodes = bdrv_all_nodes();
    ck_assert_uint_eq(nodes->len, 0);
    bdrv_graph_unlock();
    g_string_free(events, TRUE);
}

START_TEST(test_asked_and_told)
{
    BlockBackend *other = blk_new("other", false, READ, ALL);

    ck_assert(blk_attach(user, disk, NULL));
    expect("d:check(3,d) d:set(3,d) ");
    /* A user for whom nothing changes */
    ck_assert(blk_attach(other, disk, NULL));
    expect("");
    ck_assert(blk_set_perm(other, 0, ALL & ~BLK_PERM_RESIZE, NULL));
    expect("d:check(3,5) d:set(3,5) ");
    blk_free(other);
    expect("d:check(3,d) d:set(3,d) ");
    blk_detach(user);
    expect("d:check(0,f) d:set(0,f) ");
}
END_TEST

START_TEST(test_refused)
{
    g_autoptr(GError) err = NULL;

    refuser = "d";
    ck_assert(!blk_attach(user, disk, &err));
    ck_assert_str_eq(err->message, "d says no");
    expect("d:check(3,d) ");
    ck_assert_uint_eq(disk->parents->len, 0);
    refuser = NULL;
    ck_assert(blk_attach(user, disk, NULL));
    expect("d:check(3,d) d:set(3,d) ");
    refuser = "d";
    ck_assert(!blk_set_perm(user, READ, ALL, NULL));
    expect("d:check(1,f) ");
    ck_assert_uint_eq(disk->perm, READ | WRITE);

    /* Nothing is in the way of those who leave. */
    blk_detach(user);
    expect("d:check(0,f) d:set(0,f) ");
}
END_TEST

/* Those above, who agreed already, are told that nothing came of it. */
START_TEST(test_filter_refused)
{
    BlockDriverState *filter = new_node(&filter_driver, "f");
    g_autoptr(GError) err = NULL;
    BlockBackend *second = blk_new("second", false, BLK_PERM_RESIZE, ALL);

    ck_assert(blk_attach(user, disk, NULL));
    g_string_truncate(events, 0);

    /* The filter's user is new to it; the disk's users want what they had. */
    refuser = "f";
    ck_assert(!bdrv_insert_filter(filter, disk, &err));
    ck_assert_str_eq(err->message, "f says no");
    g_clear_error(&err);
    expect("f:check(3,d) ");
    ck_assert_ptr_null(filter->file);
    ck_assert_uint_eq(disk->parents->len, 1);
    ck_assert_uint_eq(disk->quiesce, 0);

    refuser = NULL;
    ck_assert(bdrv_insert_filter(filter, disk, NULL));
    expect("f:check(3,d) f:set(3,d) ");

    refuser = "d";
    ck_assert(!blk_attach(second, filter, &err));
    ck_assert_str_eq(err->message, "d says no");
    expect("f:check(b,d) d:check(b,d) f:abort ");
    ck_assert_uint_eq(filter->perm, READ | WRITE);
    ck_assert_uint_eq(filter->file->perm, READ | WRITE);
    refuser = NULL;
    ck_assert(blk_attach(second, filter, NULL));
    expect("f:check(b,d) d:check(b,d) f:set(b,d) d:set(b,d) ");

    blk_free(second);
    g_string_truncate(events, 0);
    refuser = "d";
    ck_assert(bdrv_remove_filter(filter, NULL));
    expect("f:check(0,f) f:set(0,f) ");
    bdrv_unref(filter);
}
END_TEST

START_TEST(test_child_perm)
{
    BlockDriverState *odd = new_node(&odd_driver, "o");
    BlockBackend *writer = blk_new("writer", false, WRITE, ALL);
    g_autoptr(GError) err = NULL;

    ck_assert_ptr_nonnull(bdrv_attach_child(odd, disk, "file", NULL));
    expect("");
    ck_assert(blk_attach(user, odd, NULL));
    expect("o:check(3,d) d:check(1,d) o:set(3,d) d:set(1,d) ");
    ck_assert(!blk_attach(writer, disk, &err));
    ck_assert_str_eq(err->message,
                     "Permission conflict on node 'd': permissions 'write' are "
                     "both required by writer (uses node 'd' as 'root' child) "
                     "and unshared by node 'o' (uses node 'd' as 'file' "
                     "child).");
    blk_free(writer);
    blk_detach(user);
    bdrv_unref(odd);
}
END_TEST

/* Past a job's node nobody writes to what is below, be it far below; through it
 * and after the job, everybody may. */
START_TEST(test_job)
{
    static const char *const conflict =
        "Permission conflict on node 'd': permissions 'write' are both "
        "required by writer (uses node 'd' as 'root' child) and unshared by "
        "node 'b' (uses node 'd' as 'file' child).";
    BlockDriverState *top = new_node(&filter_driver, "t");
    BlockDriverState *between = new_node(&filter_driver, "b");
    BlockBackend *job = blk_new("job 'j'", true, READ, ALL);
    BlockBackend *guest = blk_new("guest", false, READ | WRITE, ALL);
    BlockBackend *reader = blk_new("reader", false, READ, ALL);
    BlockBackend *writer = blk_new("writer", false, WRITE, ALL);
    g_autoptr(GError) early = NULL;
    g_autoptr(GError) late = NULL;

    ck_assert_ptr_nonnull(bdrv_attach_child(between, disk, "file", NULL));
    ck_assert_ptr_nonnull(bdrv_attach_child(top, between, "file", NULL));
    ck_assert(blk_attach(guest, top, NULL));
    ck_assert(blk_attach(reader, disk, NULL));
    ck_assert(blk_attach(writer, disk, NULL));
    /* First the writer */
    ck_assert(!blk_attach(job, top, &early));
    ck_assert_str_eq(early->message, conflict);
    blk_detach(writer);
    /* First the job */
    ck_assert(blk_attach(job, top, NULL));
    ck_assert(!blk_attach(writer, disk, &late));
    ck_assert_str_eq(late->message, conflict);
    ck_assert(!blk_attach(writer, between, NULL));
    ck_assert(blk_attach(writer, top, NULL));
    blk_detach(writer);
    blk_detach(reader);
    ck_assert(blk_attach(reader, between, NULL));
    /* And when it has gone */
    blk_free(job);
    ck_assert(blk_attach(writer, disk, NULL));
    blk_free(writer);
    blk_free(reader);
    blk_free(guest);
    bdrv_unref(top);
    bdrv_unref(between);
}
END_TEST

START_TEST(test_force_share)
{
    disk->force_share = true;
    ck_assert(blk_attach(user, disk, NULL));
    expect("d:check(3,f) d:set(3,f) ");
}
END_TEST

/* The driver may find a way to write to a node that is read-only for now. */
START_TEST(test_auto_read_only)
{
    g_autoptr(GError) err = NULL;

    bdrv_set_read_only(disk, true);
    ck_assert(!blk_attach(user, disk, &err));
    ck_assert_str_eq(err->message, "Block node 'd' is read-only");
    expect("");
    disk->auto_read_only = true;
    ck_assert(blk_attach(user, disk, NULL));
    expect("d:check(3,d) d:set(3,d) ");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("block-perm");
    TCase *tc = tcase_create("perm");

    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, test_asked_and_told);
    tcase_add_test(tc, test_refused);
    tcase_add_test(tc, test_filter_refused);
    tcase_add_test(tc, test_child_perm);
    tcase_add_test(tc, test_job);
    tcase_add_test(tc, test_force_share);
    tcase_add_test(tc, test_auto_read_only);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
