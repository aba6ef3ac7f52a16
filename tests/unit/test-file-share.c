/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files that others use as well: permissions and image locks of the driver
 * "file", several nodes on one file, other processes, creation.
 */
#include <glib/gstdio.h>
#include <sys/wait.h>

#include "file-node.h"
#include "test-fs.h"
#include "unit-main.h"

#define NO_WRITE (BLK_PERM_ALL & ~BLK_PERM_WRITE)

/* Another process, played by a description of its own */
static ImageLock other;
static int other_fd;
static bool stop_requested; /* of what is created */

static bool should_stop(void *opaque)
{
    return *(bool *)opaque;
}

static const BdrvStop stop = { should_stop, &stop_requested };

static void setup(void)
{
    path = g_strdup_printf("%s/disk", test_fs[0].dir);
    make_file(MIB);
    fill_file(0, 65536, 'x');
    other_fd = open(path, O_RDWR | O_CLOEXEC);
    image_lock_init(&other, other_fd, path, true);
    stop_requested = false;
}

static void teardown(void)
{
    bdrv_close_all();
    image_lock_destroy(&other);
    close(other_fd);
    g_remove(path);
    g_free(path);
}

static bool other_takes(uint64_t perm, uint64_t shared)
{
    if (!image_lock_check(&other, perm, shared, NULL)) {
        return false;
    }
    image_lock_set(&other, perm, shared);
    return true;
}

static StatusCacheMode mode(BlockDriverState *bs)
{
    return status_cache_get_mode(state(bs)->cache);
}

static bool set_perm(BlockBackend *blk, uint64_t perm, uint64_t shared,
                     GError **errp)
{
    bool ok;

    bdrv_graph_lock();
    ok = blk_set_perm(blk, perm, shared, errp);
    bdrv_graph_unlock();
    return ok;
}

/* A user of @bs */
static BlockBackend *use(BlockDriverState *bs, uint64_t perm, uint64_t shared)
{
    BlockBackend *blk = blk_new("test", false, perm, shared);
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

#define ASSERT_USE_FAILS(bs, perm, shared, text)                               \
    do {                                                                       \
        BlockBackend *blk_ = blk_new("test", false, perm, shared);             \
        g_autoptr(GError) err_ = NULL;                                         \
        bdrv_graph_lock();                                                     \
        ck_assert(!blk_attach(blk_, bs, &err_));                               \
        blk_free(blk_);                                                        \
        bdrv_graph_unlock();                                                   \
        ck_assert_msg(strstr(err_->message, text) != NULL, "'%s' lacks '%s'",  \
                      err_->message, text);                                    \
    } while (0)

/* ---- locks -------------------------------------------------------------- */

START_TEST(test_permissions_are_locks)
{
    BlockDriverState *bs = open_node("n", "'status-cache':'off'");
    BlockBackend *blk;

    ck_assert(other_takes(BLK_PERM_ALL, 0));
    ASSERT_USE_FAILS(bs, BLK_PERM_WRITE, BLK_PERM_ALL,
                     "Failed to get \"write\" lock. Is another process using "
                     "the image [/");
    ck_assert(other_takes(BLK_PERM_WRITE, BLK_PERM_ALL));
    ASSERT_USE_FAILS(bs, 0, NO_WRITE, "Failed to get shared \"write\" lock");
    blk = use(bs, BLK_PERM_WRITE, BLK_PERM_ALL & ~BLK_PERM_RESIZE);
    ck_assert(!other_takes(BLK_PERM_RESIZE, BLK_PERM_ALL));
    ck_assert(!other_takes(0, NO_WRITE));
    ck_assert(other_takes(0, BLK_PERM_ALL));
    ck_assert(set_perm(blk, BLK_PERM_CONSISTENT_READ, NO_WRITE, NULL));
    ck_assert(!other_takes(BLK_PERM_WRITE, BLK_PERM_ALL));
    ck_assert(other_takes(BLK_PERM_WRITE_UNCHANGED, NO_WRITE));
    /* A change that is refused leaves the locks as they were. */
    ck_assert(!set_perm(blk, BLK_PERM_CONSISTENT_READ, 0, NULL));
    ck_assert(other_takes(BLK_PERM_WRITE_UNCHANGED, NO_WRITE));
    /* Users may share that among each other, but with no other process. */
    ck_assert(!other_takes(BLK_PERM_RESIZE, NO_WRITE));
    unuse(blk);
    ck_assert(other_takes(BLK_PERM_ALL, 0));
}
END_TEST

START_TEST(test_locking_off)
{
    BlockDriverState *bs = open_node("n", "'locking':'off'");
    BlockBackend *blk;

    ck_assert(other_takes(BLK_PERM_ALL, 0));
    blk = use(bs, BLK_PERM_ALL, 0);
    ck_assert(other_takes(BLK_PERM_ALL, 0));
    ck_assert_int_eq(mode(bs), STATUS_CACHE_DATA_ONLY);
    unuse(blk);
    close_node(bs);
    bs = open_node("n", "'locking':'on'");
    ASSERT_USE_FAILS(bs, BLK_PERM_WRITE, BLK_PERM_ALL, "\"write\" lock");
}
END_TEST

/* A node that remembers zeroes lets nobody else write, used or not. */
START_TEST(test_cache_excludes_writers)
{
    static const char *const options[] = { "", "'read-only':true" };
    BlockDriverState *bs = open_node("n", options[_i]);
    int64_t pnum;

    ck_assert_int_eq(mode(bs), STATUS_CACHE_ON);
    ck_assert(!other_takes(BLK_PERM_WRITE, BLK_PERM_ALL));
    ck_assert(other_takes(BLK_PERM_CONSISTENT_READ, NO_WRITE));
    ck_assert(status(bs, 65536, 4096, &pnum) & BDRV_BLOCK_ZERO);
    ASSERT_KNOWN(bs, 65536, ZERO);
    close_node(bs);
    ck_assert(other_takes(BLK_PERM_WRITE, BLK_PERM_ALL));
    /* Those who remember none can live with it. */
    bs = open_node("n", "'status-cache':'data-only'");
    close_node(bs);
    bs = open_node("n", "'read-only':true,'force-share':true");
    ck_assert_int_eq(mode(bs), STATUS_CACHE_DATA_ONLY);
    other_takes(0, BLK_PERM_ALL);
    ck_assert(other_takes(BLK_PERM_WRITE, BLK_PERM_ALL));
}
END_TEST

/* Somebody writes already: no zeroes, until he is gone and we look again. */
START_TEST(test_mode_follows_others)
{
    BlockDriverState *bs;
    BlockBackend *blk;
    int64_t pnum;

    ck_assert(other_takes(BLK_PERM_WRITE, BLK_PERM_ALL));
    bs = open_node("n", "");
    ck_assert_int_eq(mode(bs), STATUS_CACHE_DATA_ONLY);
    ck_assert(status(bs, 65536, 4096, &pnum) & BDRV_BLOCK_ZERO);
    ASSERT_KNOWN(bs, 65536, UNKNOWN);
    fill_file(65536, 65536, 'y');
    ck_assert(status(bs, 65536, 4096, &pnum) & BDRV_BLOCK_DATA);
    blk = use(bs, BLK_PERM_WRITE, BLK_PERM_ALL);
    ck_assert_int_eq(mode(bs), STATUS_CACHE_DATA_ONLY);
    ck_assert(other_takes(0, BLK_PERM_ALL));
    ck_assert(set_perm(blk, 0, BLK_PERM_ALL, NULL));
    ck_assert_int_eq(mode(bs), STATUS_CACHE_ON);
    ck_assert(!other_takes(BLK_PERM_WRITE, BLK_PERM_ALL));
    unuse(blk);
    ck_assert_int_eq(mode(bs), STATUS_CACHE_ON);
}
END_TEST

/* ---- two nodes, one file ------------------------------------------------ */

START_TEST(test_second_node)
{
    BlockDriverState *a = open_node("a", ""), *b;
    BlockBackend *blk_a = use(a, BLK_PERM_WRITE, BLK_PERM_ALL), *blk_b;
    int64_t pnum;

    ck_assert(status(a, 65536, 4096, &pnum) & BDRV_BLOCK_ZERO);
    b = open_node("b", "'cache':{'direct':true}");
    ck_assert_ptr_eq(state(a)->cache, state(b)->cache);
    ck_assert_int_eq(mode(a), STATUS_CACHE_DATA_ONLY);
    ASSERT_KNOWN(a, 65536, UNKNOWN);
    blk_b = use(b, BLK_PERM_WRITE, BLK_PERM_ALL);
    ASSERT_WRITES(b, 65536, 4096, 'b');
    ASSERT_KNOWN(a, 65536, DATA);
    assert_reads(a, 65536, 4096, 'b');
    ck_assert_int_eq(bdrv_pwrite_zeroes(a, 65536, 4096, 0), 0);
    ASSERT_KNOWN(b, 65536, UNKNOWN);
    unuse(blk_b);
    ck_assert_int_eq(mode(a), STATUS_CACHE_DATA_ONLY);
    close_node(b);
    ck_assert_int_eq(mode(a), STATUS_CACHE_ON);
    ck_assert_int_eq(bdrv_pwrite_zeroes(a, 65536, 4096, 0), 0);
    ASSERT_KNOWN(a, 65536, ZERO);
    unuse(blk_a);
}
END_TEST

/* It writes without telling, so nothing may rest on what it did not tell. */
START_TEST(test_second_node_without_cache)
{
    BlockDriverState *a = open_node("a", ""), *b;
    BlockBackend *blk;
    int64_t pnum;

    ck_assert(status(a, 65536, 4096, &pnum) & BDRV_BLOCK_ZERO);
    b = open_node("b", "'status-cache':'off'");
    ck_assert_ptr_ne(state(a)->cache, state(b)->cache);
    blk = use(b, BLK_PERM_WRITE, BLK_PERM_ALL);
    ASSERT_WRITES(b, 65536, 4096, 'b');
    ck_assert(status(a, 65536, 4096, &pnum) & BDRV_BLOCK_DATA);
    ck_assert(status(a, 131072, 4096, &pnum) & BDRV_BLOCK_ZERO);
    ASSERT_WRITES(b, 131072, 4096, 'b');
    ck_assert(status(a, 131072, 4096, &pnum) & BDRV_BLOCK_DATA);
    unuse(blk);
    close_node(b);
    ck_assert_int_eq(mode(a), STATUS_CACHE_ON);
}
END_TEST

START_TEST(test_second_node_excluded)
{
    BlockDriverState *a = open_node("a", ""), *b = open_node("b", "");
    BlockBackend *blk = use(a, BLK_PERM_WRITE, NO_WRITE);

    ASSERT_USE_FAILS(b, BLK_PERM_WRITE, BLK_PERM_ALL,
                     "Failed to get \"write\" lock");
    unuse(blk);
    unuse(use(b, BLK_PERM_WRITE, NO_WRITE));
}
END_TEST

START_TEST(test_second_node_options)
{
    BlockDriverState *bs;

    open_node("a", "'status-cache-granularity':8192");
    ASSERT_OPEN_FAILS("'status-cache-granularity':4096",
                      "status-cache-granularity 4096 differs from 8192 of node "
                      "'a', which has the same file open");
    ASSERT_OPEN_FAILS("'status-cache-size':1", "status-cache-size 1 differs");
    bs = open_node("b", "");
    ck_assert_int_eq(status_cache_granularity(state(bs)->cache), 8192);
    open_node("c", "'status-cache-granularity':512,'status-cache':'off'");
}
END_TEST

/* ---- stock QEMU --------------------------------------------------------- */

#define ASSERT_PRINTS(text, ...)                                               \
    do {                                                                       \
        g_autofree char *line_ = g_strdup_printf(__VA_ARGS__);                 \
        const char *argv_[] = { "sh", "-c", line_, NULL };                     \
        g_autofree char *out_ = NULL;                                          \
        ck_assert(g_spawn_sync(NULL, (char **)argv_, NULL,                     \
                               G_SPAWN_SEARCH_PATH, NULL, NULL, &out_, NULL,   \
                               NULL, NULL));                                   \
        ck_assert_msg(strstr(out_, text) != NULL, "'%s' lacks '%s'", out_,     \
                      text);                                                   \
    } while (0)

START_TEST(test_stock_qemu)
{
    g_autofree char *qemu_io = g_find_program_in_path("qemu-io");
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    BlockDriverState *bs;
    BlockBackend *blk;

    if (!qemu_io || !qemu_img) {
        g_printerr("qemu-io and qemu-img are not installed\n");
        return;
    }
    bs = open_node("n", "");
    ASSERT_PRINTS("Failed to get \"write\" lock",
                  "qemu-io -f raw -c 'write 0 4k' %s 2>&1", path);
    ASSERT_PRINTS("read 4096/4096", "qemu-io -r -f raw -c 'read 0 4k' %s 2>&1",
                  path);
    ASSERT_PRINTS("virtual size: 1 MiB", "qemu-img info %s 2>&1", path);
    ASSERT_PRINTS("lock", "qemu-img create -f raw %s 2M 2>&1", path);
    ck_assert_int_eq(file_length(), MIB);
    blk = use(bs, BLK_PERM_CONSISTENT_READ, 0);
    ASSERT_PRINTS("Failed to get \"consistent read\" lock",
                  "qemu-io -r -f raw -c 'read 0 4k' %s 2>&1", path);
    unuse(blk);
    close_node(bs);
    bs = open_node("n", "'status-cache':'data-only'");
    ASSERT_PRINTS("wrote 4096/4096", "qemu-io -f raw -c 'write 0 4k' %s 2>&1",
                  path);
    close_node(bs);
}
END_TEST

/* ---- creation ----------------------------------------------------------- */

static bool create(const char *options, GError **errp)
{
    g_autofree char *text =
        g_strdup_printf("{'filename':'%s',%s}", path, options);
    g_autoptr(JsonNode) node = NULL;
    const BlockDriver *drv = bdrv_find_driver("file");

    g_strdelimit(text, "'", '"');
    node = json_from_string(text, NULL);
    ck_assert(node != NULL);
    return schema_check(drv->create_options, node, "", false, errp) &&
           drv->create(json_node_get_object(node), &stop, errp) == 0;
}

#define ASSERT_CREATES(options)                                                \
    do {                                                                       \
        g_autoptr(GError) err_ = NULL;                                         \
        ck_assert_msg(create(options, &err_), "%s",                            \
                      err_ ? err_->message : "");                              \
    } while (0)
#define ASSERT_CREATE_FAILS(options, text)                                     \
    do {                                                                       \
        g_autoptr(GError) err_ = NULL;                                         \
        ck_assert(!create(options, &err_));                                    \
        ck_assert_msg(strstr(err_->message, text) != NULL, "'%s' lacks '%s'",  \
                      err_->message, text);                                    \
    } while (0)

START_TEST(test_create)
{
    BlockDriverState *bs;

    g_remove(path);
    ASSERT_CREATES("'size':1048576");
    ck_assert_int_eq(file_length(), MIB);
    ck_assert_int_eq(allocated(), 0);
    ASSERT_CREATES("'size':2000001,'preallocation':'falloc'");
    ck_assert_int_eq(file_length(), 2000001);
    ck_assert_int_ge(allocated(), 2000001);
    bs = open_node("n", "");
    assert_reads(bs, 0, 2000001, 0);
    close_node(bs);
    ASSERT_CREATES("'size':3000001,'preallocation':'full'");
    bs = open_node("n", "'cache':{'direct':true}");
    ASSERT_STATUS(bs, 0, 3000001, DATA, 3000001);
    assert_reads(bs, 0, 3000001, 0);
    close_node(bs);
    /* What was there is gone. */
    fill_file(0, 65536, 'x');
    ASSERT_CREATES("'size':65536,'preallocation':'off'");
    bs = open_node("n", "");
    assert_reads(bs, 0, 65536, 0);
    close_node(bs);
    ASSERT_CREATES("'size':0");
    ck_assert_int_eq(file_length(), 0);
    ASSERT_CREATES("'size':0,'preallocation':'falloc'");
}
END_TEST

START_TEST(test_create_refused)
{
    BlockDriverState *bs;
    BlockBackend *blk;

    ASSERT_CREATE_FAILS("'size':1,'preallocation':'metadata'",
                        "Unsupported preallocation mode 'metadata'");
    ASSERT_CREATE_FAILS("'size':1,'nonsense':1", "unexpected");
    /* In use here, used or not and with locks or without */
    bs = open_node("a", "'status-cache':'off','locking':'off'");
    ASSERT_CREATE_FAILS("'size':1", "is in use by node 'a'");
    close_node(bs);
    /* In use elsewhere */
    ck_assert(other_takes(BLK_PERM_CONSISTENT_READ, NO_WRITE));
    ASSERT_CREATE_FAILS("'size':1", "Failed to get \"write\" lock");
    ck_assert(other_takes(0, BLK_PERM_ALL));
    ck_assert_int_eq(file_length(), MIB);
    /* All is as before. */
    bs = open_node("a", "");
    assert_reads(bs, 0, 65536, 'x');
    blk = use(bs, BLK_PERM_WRITE, 0);
    unuse(blk);
    close_node(bs);
    ASSERT_CREATE_FAILS("'size':9223372036854775807", "Could not resize '/");
    g_remove(path);
    ck_assert_int_eq(mkfifo(path, 0644), 0);
    ASSERT_CREATE_FAILS("'size':1", "it is a FIFO");
    g_remove(path);
    ck_assert_int_eq(g_mkdir(path, 0755), 0);
    ASSERT_CREATE_FAILS("'size':1", "it is a directory");
}
END_TEST

/* More than there is room for: nothing is kept of it. */
START_TEST(test_create_no_space)
{
    ASSERT_CREATE_FAILS("'size':4611686018427387904,'preallocation':'falloc'",
                        "Could not ");
    ck_assert_int_eq(allocated(), 0);
    ck_assert_int_eq(file_length(), 0);
}
END_TEST

START_TEST(test_create_cancelled)
{
    stop_requested = true;
    ASSERT_CREATE_FAILS("'size':1048576,'preallocation':'full'",
                        "Operation canceled");
    ck_assert_int_eq(file_length(), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("file-share");
    TCase *tc = tcase_create("file-share");
    int ret;

    test_fs_set_up_plain();
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_permissions_are_locks);
    tcase_add_test(tc, test_locking_off);
    tcase_add_loop_test(tc, test_cache_excludes_writers, 0, 2);
    tcase_add_test(tc, test_mode_follows_others);
    tcase_add_test(tc, test_second_node);
    tcase_add_test(tc, test_second_node_without_cache);
    tcase_add_test(tc, test_second_node_excluded);
    tcase_add_test(tc, test_second_node_options);
    tcase_add_test(tc, test_stock_qemu);
    tcase_add_test(tc, test_create);
    tcase_add_test(tc, test_create_refused);
    tcase_add_test(tc, test_create_no_space);
    tcase_add_test(tc, test_create_cancelled);
    suite_add_tcase(s, tc);
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
