/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver "file" opens its file again: by blockdev-reopen, and in
 * auto-read-only when somebody is going to write.
 */
#include <glib/gstdio.h>

#include "file-node.h"
#include "reopen-options.h"
#include "test-fs.h"
#include "unit-main.h"
#include "wrapped-calls.h"

#define NO_WRITE (BLK_PERM_ALL & ~BLK_PERM_WRITE)

/* Another process, played by a description of its own */
static ImageLock other;
static int other_fd;
static bool look_at_swap; /* whether others get in while dup3() is called */
static int swaps;

static bool other_takes(uint64_t perm, uint64_t shared)
{
    if (!image_lock_check(&other, perm, shared, NULL)) {
        return false;
    }
    image_lock_set(&other, perm, shared);
    return true;
}

int __wrap_dup3(int old_fd, int new_fd, int flags)
{
    swaps++;
    if (look_at_swap) {
        ck_assert(!other_takes(BLK_PERM_WRITE, BLK_PERM_ALL));
        ck_assert(!other_takes(0, 0));
    }
    return __real_dup3(old_fd, new_fd, flags);
}

static void setup(void)
{
    path = g_strdup_printf("%s/disk", test_fs[0].dir);
    make_file(MIB + 100);
    fill_file(0, 65536, 'x');
    other_fd = open(path, O_RDWR | O_CLOEXEC);
    image_lock_init(&other, other_fd, path, true);
    look_at_swap = false;
    swaps = 0;
}

static void teardown(void)
{
    bdrv_close_all();
    image_lock_destroy(&other);
    close(other_fd);
    g_remove(path);
    g_free(path);
}

/* Options of the node @name, as blockdev-reopen wants them */
static char *options_of(const char *name, const char *more)
{
    return g_strdup_printf(
        "{'driver':'file','node-name':'%s','filename':'%s'%s%s}", name, path,
        *more ? "," : "", more);
}

static void reopen(const char *name, const char *more)
{
    g_autofree char *options = options_of(name, more);
    g_autofree char *text = g_strdup_printf("[%s]", options);

    must_reopen(text);
}

#define ASSERT_FAILS(name, more, saying)                                       \
    do {                                                                       \
        g_autofree char *options_ = options_of(name, more);                    \
        g_autofree char *text_ = g_strdup_printf("[%s]", options_);            \
        ASSERT_REOPEN_FAILS(text_, saying);                                    \
    } while (0)

static int fd_flags(BlockDriverState *bs)
{
    return fcntl(state(bs)->fd, F_GETFL) & (O_ACCMODE | O_DIRECT);
}

static StatusCacheMode mode(BlockDriverState *bs)
{
    return status_cache_get_mode(state(bs)->cache);
}

static BlockBackend *try_use(BlockDriverState *bs, uint64_t perm,
                             uint64_t shared, GError **errp)
{
    BlockBackend *blk = blk_new("export 'e'", false, perm, shared);

    bdrv_graph_lock();
    if (!blk_attach(blk, bs, errp)) {
        blk_free(blk);
        blk = NULL;
    }
    bdrv_graph_unlock();
    return blk;
}

static BlockBackend *use(BlockDriverState *bs, uint64_t perm, uint64_t shared)
{
    g_autoptr(GError) err = NULL;
    BlockBackend *blk = try_use(bs, perm, shared, &err);

    ck_assert_msg(blk != NULL, "%s", err ? err->message : "");
    return blk;
}

static void unuse(BlockBackend *blk)
{
    bdrv_graph_lock();
    blk_free(blk);
    bdrv_graph_unlock();
}

static int count_descriptors(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    int n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

/* ---- what may change ---------------------------------------------------- */

START_TEST(test_direct)
{
    BlockDriverState *bs = open_node("n", "");
    BlockBackend *blk = use(bs, BLK_PERM_WRITE, NO_WRITE);
    int fd = state(bs)->fd, sync_fd = state(bs)->sync_fd;
    int open_now = count_descriptors();

    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 65536, 65536, 0), 0);
    ASSERT_KNOWN(bs, 65536, ZERO);
    look_at_swap = true;
    reopen("n", "'cache':{'direct':true}");
    ck_assert_int_eq(swaps, 1);
    ck_assert_int_eq(fd_flags(bs), O_RDWR | O_DIRECT);
    ck_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    ck_assert_int_eq(state(bs)->fd, fd);
    ck_assert_int_eq(state(bs)->sync_fd, sync_fd);
    ck_assert_uint_ge(bs->limits.request_alignment, 512);
    ck_assert_ptr_nonnull(bs->range_lock);
    ck_assert(bs->cache_direct);
    ck_assert(!(fcntl(sync_fd, F_GETFL) & O_DIRECT));
    /* Write protection was never interrupted. */
    ck_assert_int_eq(mode(bs), STATUS_CACHE_ON);
    ASSERT_KNOWN(bs, 65536, ZERO);
    assert_reads(bs, 10, 1000, 'x');
    ASSERT_WRITES(bs, MIB + 7, 93, 'e');
    ASSERT_WRITES(bs, 131072 + 7, 4000, 'd');
    assert_reads(bs, MIB + 7, 93, 'e');
    ck_assert_int_eq(file_length(), MIB + 100);

    reopen("n", "");
    ck_assert_int_eq(fd_flags(bs), O_RDWR);
    ck_assert_uint_eq(bs->limits.request_alignment, 1);
    ck_assert_uint_eq(bs->limits.mem_alignment, 1);
    ASSERT_KNOWN(bs, 65536, ZERO);
    assert_reads(bs, 131072 + 7, 4000, 'd');
    ASSERT_WRITES(bs, MIB + 98, 2, 'f');
    ck_assert_int_eq(file_length(), MIB + 100);
    ck_assert_int_eq(count_descriptors(), open_now);
    /* Nothing is opened that need not be. */
    reopen("n", "'detect-zeroes':'on'");
    ck_assert_int_eq(swaps, 2);
    unuse(blk);
    ck_assert(other_takes(0, BLK_PERM_ALL));
}
END_TEST

START_TEST(test_read_only)
{
    BlockDriverState *bs = open_node("n", "");
    BlockBackend *blk = use(bs, BLK_PERM_WRITE, NO_WRITE);

    ASSERT_FAILS("n", "'read-only':true",
                 "Block node 'n' cannot be read-only: it is written to by "
                 "export 'e'");
    ck_assert_int_eq(fd_flags(bs), O_RDWR);
    ck_assert(!bdrv_is_read_only(bs));
    ASSERT_WRITES(bs, 0, 512, 'y');
    unuse(blk);
    blk = use(bs, BLK_PERM_CONSISTENT_READ, NO_WRITE);
    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 65536, 65536, 0), 0);
    look_at_swap = true;
    reopen("n", "'read-only':true");
    ck_assert_int_eq(fd_flags(bs), O_RDONLY);
    ck_assert_int_eq(state(bs)->sync_fd, -1);
    ck_assert_int_eq(do_write(bs, 0, 512, 'z', 0), -EPERM);
    ck_assert_int_eq(bdrv_flush(bs), 0);
    assert_reads(bs, 0, 512, 'y');
    ASSERT_KNOWN(bs, 65536, ZERO);
    ck_assert_int_eq(mode(bs), STATUS_CACHE_ON);
    reopen("n", "");
    ck_assert_int_eq(fd_flags(bs), O_RDWR);
    ck_assert_int_ge(state(bs)->sync_fd, 0);
    ASSERT_KNOWN(bs, 65536, ZERO);
    ASSERT_WRITES(bs, 0, 512, 'z');
    ck_assert_int_eq(bdrv_flush(bs), 0);
    unuse(blk);
}
END_TEST

/* A read-only node that others of the disk do not keep from guarding it */
START_TEST(test_writer_among_nodes)
{
    BlockDriverState *a = open_node("a", "'read-only':true");
    BlockDriverState *b = open_node("b", "'read-only':true");
    BlockBackend *blk;

    ASSERT_STATUS(a, 65536, 4096, ZERO, 4096);
    ASSERT_KNOWN(a, 65536, ZERO);
    ck_assert_int_eq(mode(a), STATUS_CACHE_ON);
    reopen("b", "");
    ck_assert_int_eq(mode(a), STATUS_CACHE_DATA_ONLY);
    ASSERT_KNOWN(a, 65536, UNKNOWN);
    blk = use(b, BLK_PERM_WRITE, BLK_PERM_ALL);
    unuse(blk);
    reopen("b", "'read-only':true");
    ck_assert_int_eq(mode(a), STATUS_CACHE_ON);
    ck_assert(!other_takes(BLK_PERM_WRITE, BLK_PERM_ALL));
}
END_TEST

START_TEST(test_status_cache)
{
    BlockDriverState *bs = open_node("n", "'status-cache':'off'");
    StatusCache *cache;

    ck_assert_int_eq(mode(bs), STATUS_CACHE_OFF);
    reopen("n", "'status-cache-size':1000000,'status-probe':'seek'");
    ck_assert_int_eq(mode(bs), STATUS_CACHE_ON);
    ck_assert_uint_eq(state(bs)->user.max_memory, 1000000);
    ck_assert_int_eq(status_probe_strategy(state(bs)->probe),
                     STATUS_PROBE_USE_SEEK);
    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 65536, 65536, 0), 0);
    ASSERT_WRITES(bs, 0, 4096, 'w');
    ASSERT_KNOWN(bs, 65536, ZERO);
    cache = state(bs)->cache;
    ck_assert_ptr_eq(state(bs)->reader.cache, cache);

    reopen("n", "'status-cache':'data-only','status-probe':'fiemap'");
    ck_assert_ptr_eq(state(bs)->cache, cache);
    ck_assert_int_eq(mode(bs), STATUS_CACHE_DATA_ONLY);
    ck_assert_uint_eq(state(bs)->user.max_memory, 64 * MIB);
    ck_assert_int_eq(status_probe_strategy(state(bs)->probe),
                     STATUS_PROBE_USE_FIEMAP);
    ASSERT_KNOWN(bs, 65536, UNKNOWN);
    ASSERT_KNOWN(bs, 0, DATA);
    ck_assert(other_takes(BLK_PERM_WRITE, BLK_PERM_ALL));
    reopen("n", "'status-cache':'on'");
    ck_assert_int_eq(mode(bs), STATUS_CACHE_DATA_ONLY);
    ck_assert(other_takes(0, BLK_PERM_ALL));
    reopen("n", "");
    ck_assert_int_eq(mode(bs), STATUS_CACHE_ON);

    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 65536, 65536, 0), 0);
    reopen("n", "'status-cache':'off'");
    ck_assert_int_eq(mode(bs), STATUS_CACHE_OFF);
    ASSERT_WRITES(bs, 65536, 4096, 'w');
    reopen("n", "");
    ASSERT_STATUS(bs, 65536, 4096, DATA, 4096);
    ASSERT_FAILS("n", "'status-cache-granularity':8192",
                 "Cannot change the option 'status-cache-granularity'");
}
END_TEST

/* Several nodes on the disk: what one insists on must agree with the others. */
START_TEST(test_shared_cache)
{
    BlockDriverState *a = open_node("a", "");
    BlockDriverState *b = open_node("b", "'status-cache':'off'");

    ASSERT_FAILS("b", "'status-cache-size':1000000",
                 "status-cache-size 1000000 differs from 67108864 of node 'a'");
    ck_assert_int_eq(mode(b), STATUS_CACHE_OFF);
    ck_assert_ptr_ne(state(a)->cache, state(b)->cache);
    reopen("b", "");
    ck_assert_ptr_eq(state(a)->cache, state(b)->cache);
    ASSERT_WRITES(b, 131072, 4096, 'b');
    ASSERT_KNOWN(a, 131072, DATA);
    reopen("a", "'status-cache':'off'");
    ck_assert_int_eq(mode(a), STATUS_CACHE_OFF);
    reopen("b", "'status-cache-size':1000000");
    ck_assert_uint_eq(state(b)->user.max_memory, 1000000);
    close_node(b);
    ASSERT_WRITES(a, 0, 4096, 'a');
}
END_TEST

/* ---- all or nothing ----------------------------------------------------- */

START_TEST(test_refused)
{
    BlockDriverState *bs = open_node("n", "'aio':'threads'");
    g_autofree char *moved = g_strconcat(path, ".moved", NULL);

    ASSERT_FAILS("n", "", "Option 'aio' of node 'n' cannot be reset");
    ASSERT_FAILS("n", "'aio':'native','cache':{'direct':true}",
                 "Cannot change the option 'aio'");
    ASSERT_FAILS("n", "'aio':'threads','locking':'off'", "'locking'");
    ASSERT_FAILS("n", "'aio':'threads','read-only':true,'force-share':true",
                 "'force-share'");
    ASSERT_FAILS("n", "'aio':'threads','detect-zeroes':'unmap'",
                 "without setting discard");
    ck_assert_int_eq(swaps, 0);
    /* The name is that of another file now. */
    ck_assert_int_eq(g_rename(path, moved), 0);
    ASSERT_FAILS("n", "'aio':'threads','read-only':true", "No such file");
    make_file(MIB + 100);
    ASSERT_FAILS("n", "'aio':'threads','read-only':true",
                 "is another file than the one that is open");
    ck_assert_int_eq(g_rename(moved, path), 0);
    ck_assert_int_eq(fd_flags(bs), O_RDWR);
    ASSERT_WRITES(bs, 0, 512, 'y');
    reopen("n", "'aio':'threads','read-only':true");
}
END_TEST

START_TEST(test_all_or_nothing)
{
    BlockDriverState *a = open_node("a", "");
    BlockDriverState *b = open_node("b", "");
    BlockDriverState *c = open_node("c", "");
    BlockBackend *blk = use(c, BLK_PERM_WRITE, BLK_PERM_ALL);
    int open_now = count_descriptors();
    g_autofree char *first = options_of(
        "a",
        "'cache':{'direct':true},'detect-zeroes':'on','status-cache':'off'");
    g_autofree char *second = options_of("b", "'read-only':true");
    g_autofree char *third = options_of("c", "'read-only':true");
    g_autofree char *good = options_of("c", "'cache':{'no-flush':true}");
    g_autofree char *text = g_strdup_printf("[%s,%s,%s]", first, second, third);

    ASSERT_REOPEN_FAILS(text, "Block node 'c' cannot be read-only");
    ck_assert_int_eq(swaps, 0);
    ck_assert_int_eq(count_descriptors(), open_now);
    ck_assert_int_eq(fd_flags(a), O_RDWR);
    ck_assert_int_eq(fd_flags(b), O_RDWR);
    ck_assert(!bdrv_is_read_only(b) && !bdrv_is_read_only(c));
    ck_assert(!a->cache_direct);
    ck_assert_int_eq(a->detect_zeroes, BDRV_DETECT_ZEROES_OFF);
    ck_assert_uint_eq(a->limits.request_alignment, 1);
    ck_assert_ptr_eq(state(a)->cache, state(c)->cache);
    ck_assert(!json_object_has_member(a->options, "cache"));
    ASSERT_WRITES(a, 1, 1, 'a');
    ASSERT_WRITES(b, 2, 1, 'b');

    g_free(text);
    text = g_strdup_printf("[%s,%s,%s]", first, second, good);
    must_reopen(text);
    ck_assert_int_eq(fd_flags(a), O_RDWR | O_DIRECT);
    ck_assert_int_eq(fd_flags(b), O_RDONLY);
    ck_assert(c->cache_no_flush);
    ck_assert(json_object_has_member(a->options, "cache"));
    ck_assert_int_eq(mode(a), STATUS_CACHE_OFF);
    assert_reads(a, 1, 1, 'a');
    ASSERT_WRITES(a, 3, 1, 'c');
    assert_reads(b, 3, 1, 'c');
    unuse(blk);
}
END_TEST

/* ---- auto-read-only ----------------------------------------------------- */

START_TEST(test_writer_comes)
{
    BlockDriverState *bs = open_node("n", "'auto-read-only':true");
    BlockBackend *reader = use(bs, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    g_autoptr(GError) err = NULL;
    BlockBackend *blk;
    int open_now;

    ck_assert_int_eq(fd_flags(bs), O_RDONLY);
    ck_assert(bdrv_is_read_only(bs));
    ASSERT_STATUS(bs, 65536, 4096, ZERO, 4096);
    ASSERT_KNOWN(bs, 65536, ZERO);
    open_now = count_descriptors();

    /* Somebody else does not share that. */
    ck_assert(other_takes(0, NO_WRITE));
    ck_assert_ptr_null(try_use(bs, BLK_PERM_WRITE, BLK_PERM_ALL, &err));
    ck_assert_ptr_nonnull(strstr(err->message, "Failed to get \"write\" lock"));
    ck_assert_int_eq(fd_flags(bs), O_RDONLY);
    ck_assert_int_eq(count_descriptors(), open_now);
    ck_assert(bdrv_is_read_only(bs));
    ck_assert(other_takes(0, BLK_PERM_ALL));

    look_at_swap = false;
    blk = use(bs, BLK_PERM_WRITE, NO_WRITE);
    ck_assert_int_eq(swaps, 1);
    ck_assert_int_eq(fd_flags(bs), O_RDWR);
    ck_assert(!bdrv_is_read_only(bs));
    ck_assert(!other_takes(BLK_PERM_WRITE, BLK_PERM_ALL));
    ASSERT_KNOWN(bs, 65536, ZERO);
    ck_assert_int_eq(blk_pwrite(blk, 0, 1, "w", BDRV_REQ_FUA), 0);
    ck_assert_int_eq(blk_flush(blk), 0);
    unuse(blk);

    /* It goes back when it is reopened, but not under a writer. */
    blk = use(bs, BLK_PERM_WRITE, NO_WRITE);
    ck_assert_int_eq(swaps, 1);
    reopen("n", "'auto-read-only':true");
    ck_assert_int_eq(fd_flags(bs), O_RDWR);
    ck_assert(!bdrv_is_read_only(bs));
    unuse(blk);
    reopen("n", "'auto-read-only':true");
    ck_assert_int_eq(fd_flags(bs), O_RDONLY);
    ck_assert(bdrv_is_read_only(bs));
    ASSERT_KNOWN(bs, 65536, ZERO);
    reopen("n", "'auto-read-only':true,'cache':{'direct':true}");
    ck_assert_int_eq(fd_flags(bs), O_RDONLY | O_DIRECT);
    blk = use(bs, BLK_PERM_WRITE, NO_WRITE);
    ck_assert_int_eq(fd_flags(bs), O_RDWR | O_DIRECT);
    unuse(blk);
    unuse(reader);
}
END_TEST

START_TEST(test_writer_comes_among_nodes)
{
    BlockDriverState *a = open_node("a", "'auto-read-only':true");
    BlockDriverState *b = open_node("b", "'auto-read-only':true");
    BlockBackend *blk;

    ASSERT_STATUS(a, 65536, 4096, ZERO, 4096);
    ck_assert_int_eq(mode(a), STATUS_CACHE_ON);
    blk = use(b, BLK_PERM_WRITE, BLK_PERM_ALL);
    ck_assert_int_eq(mode(a), STATUS_CACHE_DATA_ONLY);
    ASSERT_KNOWN(a, 65536, UNKNOWN);
    ck_assert_int_eq(blk_pwrite(blk, 65536, 1, "w", 0), 0);
    assert_reads(a, 65536, 1, 'w');
    ASSERT_KNOWN(a, 65536, DATA);
    unuse(blk);
}
END_TEST

/* blockdev-reopen and a writer who comes, in one: to a raw node that has one */
START_TEST(test_writer_comes_by_reopen)
{
    g_autofree char *raw = NULL;
    g_autofree char *options = options_of("b", "'auto-read-only':true,"
                                               "'cache':{'direct':true}");
    g_autoptr(JsonNode) node = NULL;
    BlockDriverState *a = open_node("a", "");
    BlockDriverState *b, *top;
    BlockBackend *blk;
    g_autofree char *text = NULL;

    b = open_node("b", "'auto-read-only':true");
    node = json_from_string(
        "{\"driver\":\"raw\",\"node-name\":\"r\",\"file\":\"a\"}", NULL);
    bdrv_graph_lock();
    top = bdrv_open(json_node_get_object(node), NULL);
    bdrv_graph_unlock();
    blk = use(top, BLK_PERM_WRITE, BLK_PERM_ALL);
    raw = g_strdup("{'driver':'raw','node-name':'r','file':'b'}");
    text = g_strdup_printf("[%s,%s]", raw, options);
    must_reopen(text);
    ck_assert_int_eq(fd_flags(b), O_RDWR | O_DIRECT);
    ck_assert(!bdrv_is_read_only(b));
    ck_assert_int_eq(blk_pwrite(blk, 1, 1, "w", 0), 0);
    assert_reads(a, 1, 1, 'w');
    unuse(blk);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, test_direct);
    tcase_add_test(tc, test_read_only);
    tcase_add_test(tc, test_writer_among_nodes);
    tcase_add_test(tc, test_status_cache);
    tcase_add_test(tc, test_shared_cache);
    tcase_add_test(tc, test_refused);
    tcase_add_test(tc, test_all_or_nothing);
    tcase_add_test(tc, test_writer_comes);
    tcase_add_test(tc, test_writer_comes_among_nodes);
    tcase_add_test(tc, test_writer_comes_by_reopen);
}

int main(void)
{
    Suite *s = suite_create("file-reopen");
    TCase *tc = tcase_create("file-reopen");
    int ret;

    test_fs_set_up_plain();
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    add_tests(tc);
    suite_add_tcase(s, tc);
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
