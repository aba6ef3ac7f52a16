/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One disk, one cache (block/status-registry.c): who shares it, and when it
 * may hold zeroes. Other processes are played by image locks on descriptions
 * that the registry does not know.
 */
#include <check.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/block.h"
#include "block/status-registry.h"
#include "test-fs.h"
#include "unit-main.h"

#define LENGTH (INT64_C(1) << 20)

static char *path;
static int fd_other;

/* What stands for a node */
typedef struct Node {
    int fd;
    ImageLock lock;
    StatusDiskUser user;
    StatusDiskOptions options;
    StatusCache *cache;
} Node;

static void setup(void)
{
    path = g_strdup_printf("%s/disk", test_fs[0].dir);
    fd_other = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    ck_assert_int_ge(fd_other, 0);
    ck_assert_int_eq(ftruncate(fd_other, LENGTH), 0);
}

static void teardown(void)
{
    close(fd_other);
    unlink(path);
    g_free(path);
}

/* Members of @n that the test has set beforehand stay. */
static bool try_attach(Node *n, const char *name, const char *file,
                       bool writable, StatusCacheMode want, GError **errp)
{
    struct stat st;

    n->fd = open(file, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    ck_assert_int_ge(n->fd, 0);
    ck_assert_int_eq(fstat(n->fd, &st), 0);
    if (!n->lock.filename) {
        image_lock_init(&n->lock, n->fd, file, true);
    }
    n->user.name = name;
    n->user.writable = writable;
    n->user.want = want;
    n->user.lock = &n->lock;
    n->options.length = st.st_size;
    if (!n->options.granularity) {
        n->options.granularity = 4096;
    }
    n->cache = status_disk_attach(&n->user, &st, &n->options, errp);
    return n->cache != NULL;
}

static void attach(Node *n, const char *name, bool writable,
                   StatusCacheMode want)
{
    g_autoptr(GError) err = NULL;

    ck_assert_msg(try_attach(n, name, path, writable, want, &err), "%s",
                  err ? err->message : "");
}

static void detach(Node *n)
{
    status_disk_detach(&n->user);
    ck_assert(!n->lock.guard);
    image_lock_destroy(&n->lock);
    status_cache_unref(n->cache);
    close(n->fd);
}

static void drop_refused(Node *n)
{
    image_lock_destroy(&n->lock);
    close(n->fd);
}

static bool byte_locked(int byte)
{
    struct flock fl = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1
    };

    ck_assert_int_eq(fcntl(fd_other, F_OFD_GETLK, &fl), 0);
    return fl.l_type != F_UNLCK;
}

/* The mode of @n's cache, and whether others are kept from writing */
#define ASSERT_MODE(n, m, guarded)                                             \
    do {                                                                       \
        ck_assert_int_eq(status_cache_get_mode((n)->cache), m);                \
        ck_assert_int_eq(byte_locked(201), guarded);                           \
    } while (0)

static BlockState state_at(Node *n, int64_t offset)
{
    int64_t pnum;

    return status_cache_peek(n->cache, offset, 1, &pnum);
}

static void learn_zero(Node *n, int64_t offset, int64_t bytes)
{
    StatusOp op;

    status_cache_zero_begin(n->cache, &op, offset, bytes, false);
    status_cache_zero_end(n->cache, &op, true);
}

static void learn_data(Node *n, int64_t offset, int64_t bytes)
{
    StatusOp op;

    status_cache_write_begin(n->cache, &op, offset, bytes);
    status_cache_write_end(n->cache, &op, true);
}

START_TEST(test_alone)
{
    Node a = { 0 };

    attach(&a, "a", true, STATUS_CACHE_ON);
    ASSERT_MODE(&a, STATUS_CACHE_ON, true);
    learn_zero(&a, 0, 8192);
    status_disk_refresh(&a.user);
    ck_assert_int_eq(state_at(&a, 0), BLOCK_STATE_ZERO);
    detach(&a);
    ck_assert(!byte_locked(201));

    memset(&a, 0, sizeof(a));
    attach(&a, "a", false, STATUS_CACHE_ON);
    ASSERT_MODE(&a, STATUS_CACHE_ON, true);
    ck_assert_int_eq(state_at(&a, 0), BLOCK_STATE_UNKNOWN);
    detach(&a);
}
END_TEST

START_TEST(test_wants_less)
{
    Node a = { 0 };

    attach(&a, "a", true, STATUS_CACHE_DATA_ONLY);
    ASSERT_MODE(&a, STATUS_CACHE_DATA_ONLY, false);
    detach(&a);
    memset(&a, 0, sizeof(a));
    attach(&a, "a", true, STATUS_CACHE_OFF);
    ASSERT_MODE(&a, STATUS_CACHE_OFF, false);
    detach(&a);
}
END_TEST

/* Both can write, or either: nobody guards while there are two. */
START_TEST(test_second_node)
{
    bool first_writes = _i & 1, second_writes = _i & 2;
    Node a = { 0 }, b = { 0 };
    BlockState expected =
        _i ? BLOCK_STATE_UNKNOWN : BLOCK_STATE_ZERO; /* of block 0 */

    attach(&a, "a", first_writes, STATUS_CACHE_ON);
    ck_assert(image_lock_check(&a.lock, first_writes ? BLK_PERM_WRITE : 0,
                               BLK_PERM_ALL, NULL));
    image_lock_set(&a.lock, first_writes ? BLK_PERM_WRITE : 0, BLK_PERM_ALL);
    learn_zero(&a, 0, 4096);
    learn_data(&a, 4096, 4096);

    attach(&b, "b", second_writes, STATUS_CACHE_ON);
    ck_assert_ptr_eq(a.cache, b.cache);
    ASSERT_MODE(&a, _i ? STATUS_CACHE_DATA_ONLY : STATUS_CACHE_ON, !_i);
    ck_assert_int_eq(state_at(&a, 0), expected);
    ck_assert_int_eq(state_at(&a, 4096), BLOCK_STATE_DATA);
    /* No lock of the first keeps the second from writing. */
    if (second_writes) {
        ck_assert(
            image_lock_check(&b.lock, BLK_PERM_WRITE, BLK_PERM_ALL, NULL));
        image_lock_set(&b.lock, BLK_PERM_WRITE, BLK_PERM_ALL);
        learn_data(&b, 8192, 4096);
        ck_assert_int_eq(state_at(&a, 8192), BLOCK_STATE_DATA);
    }
    learn_zero(&b, 12288, 4096);
    ck_assert_int_eq(state_at(&a, 12288), expected);

    detach(&b);
    ASSERT_MODE(&a, STATUS_CACHE_ON, true);
    ck_assert_int_eq(state_at(&a, 0), expected);
    ck_assert_int_eq(state_at(&a, 4096), BLOCK_STATE_DATA);
    learn_zero(&a, 0, 4096);
    ck_assert_int_eq(state_at(&a, 0), BLOCK_STATE_ZERO);
    detach(&a);
}
END_TEST

static void *end_later(void *opaque)
{
    g_usleep(20000);
    status_disk_end_alone(opaque);
    return NULL;
}

/* A write that must be the only one keeps the next node waiting. */
START_TEST(test_writes_alone)
{
    Node one = { 0 }, two = { 0 };
    int64_t start_us;
    GThread *thread;

    attach(&one, "one", true, STATUS_CACHE_ON);
    ck_assert(status_disk_begin_alone(&one.user));
    ck_assert(status_disk_begin_alone(&one.user));
    status_disk_end_alone(&one.user);
    thread = g_thread_new("end", end_later, &one.user);
    attach(&two, "two", true, _i ? STATUS_CACHE_OFF : STATUS_CACHE_ON);
    ck_assert_int_eq(one.user.alone, 0);
    g_thread_join(thread);

    ck_assert(!status_disk_begin_alone(&one.user));
    ck_assert(!status_disk_begin_alone(&two.user));
    ck_assert_int_eq(one.user.alone + two.user.alone, 0);
    detach(&two);
    ck_assert(status_disk_begin_alone(&one.user));

    /* Its disk hangs. */
    start_us = g_get_monotonic_time();
    attach(&two, "two", true, STATUS_CACHE_ON);
    ck_assert_int_ge(g_get_monotonic_time() - start_us, G_USEC_PER_SEC);
    detach(&two);
    status_disk_end_alone(&one.user);
    detach(&one);
}
END_TEST

/* The one that came first may also be the one that goes first. */
START_TEST(test_first_goes)
{
    Node a = { 0 }, b = { 0 };

    attach(&a, "a", true, STATUS_CACHE_ON);
    ck_assert(image_lock_check(&a.lock, BLK_PERM_WRITE, BLK_PERM_ALL, NULL));
    image_lock_set(&a.lock, BLK_PERM_WRITE, BLK_PERM_ALL);
    attach(&b, "b", true, STATUS_CACHE_ON);
    learn_data(&a, 0, 4096);
    detach(&a);
    ASSERT_MODE(&b, STATUS_CACHE_ON, true);
    ck_assert_int_eq(state_at(&b, 0), BLOCK_STATE_DATA);
    detach(&b);
}
END_TEST

START_TEST(test_hard_link)
{
    g_autofree char *other = g_strdup_printf("%s-link", path);
    Node a = { 0 }, b = { 0 }, c = { 0 };

    ck_assert_int_eq(link(path, other), 0);
    attach(&a, "a", true, STATUS_CACHE_ON);
    ck_assert(try_attach(&b, "b", other, true, STATUS_CACHE_ON, NULL));
    ck_assert_ptr_eq(a.cache, b.cache);
    ASSERT_MODE(&a, STATUS_CACHE_DATA_ONLY, false);
    detach(&b);
    /* The same path, but another file */
    unlink(other);
    ck_assert(g_file_set_contents(other, "x", 1, NULL));
    ck_assert(try_attach(&c, "c", other, true, STATUS_CACHE_ON, NULL));
    ck_assert_ptr_ne(a.cache, c.cache);
    ASSERT_MODE(&a, STATUS_CACHE_ON, true);
    detach(&c);
    detach(&a);
    unlink(other);
}
END_TEST

START_TEST(test_most_cautious)
{
    Node a = { 0 }, b = { 0 };

    attach(&a, "a", false, STATUS_CACHE_ON);
    learn_zero(&a, 0, 4096);
    attach(&b, "b", false, STATUS_CACHE_DATA_ONLY);
    ck_assert_ptr_eq(a.cache, b.cache);
    ASSERT_MODE(&a, STATUS_CACHE_DATA_ONLY, false);
    ck_assert_int_eq(state_at(&a, 0), BLOCK_STATE_UNKNOWN);
    detach(&b);
    ASSERT_MODE(&a, STATUS_CACHE_ON, true);
    detach(&a);
}
END_TEST

/* A cache that has lied: neither locks nor another cache make it believed. */
START_TEST(test_distrusted)
{
    Node a = { 0 }, b = { 0 }, again = { 0 };
    StatusDiskOptions options;
    StatusCache *cache;

    attach(&a, "a", true, STATUS_CACHE_ON);
    learn_zero(&a, 0, 4096);
    status_cache_distrust(a.cache);
    ck_assert_int_eq(state_at(&a, 0), BLOCK_STATE_UNKNOWN);
    status_disk_refresh(&a.user);
    ck_assert_int_eq(status_cache_get_mode(a.cache), STATUS_CACHE_DATA_ONLY);
    options = a.options;
    for (int i = 0; i < 2; i++) {
        StatusCacheMode want = i ? STATUS_CACHE_ON : STATUS_CACHE_OFF;

        ck_assert(status_disk_prepare(&a.user, want, &options, &cache, NULL));
        cache = status_disk_change(&a.user, want, 0, cache);
        ck_assert_ptr_ne(cache, a.cache);
        status_cache_unref(a.cache);
        a.cache = cache;
    }
    ck_assert(status_cache_is_distrusted(a.cache));
    ck_assert_int_eq(status_cache_get_mode(a.cache), STATUS_CACHE_DATA_ONLY);
    attach(&b, "b", false, STATUS_CACHE_OFF);
    detach(&a);
    attach(&again, "again", false, STATUS_CACHE_ON);
    ck_assert(status_cache_is_distrusted(again.cache));
    learn_zero(&again, 0, 4096);
    ck_assert_int_eq(state_at(&again, 0), BLOCK_STATE_UNKNOWN);
    detach(&b);
    detach(&again);
    /* Nobody has it open. */
    memset(&a, 0, sizeof(a));
    attach(&a, "a", true, STATUS_CACHE_ON);
    ASSERT_MODE(&a, STATUS_CACHE_ON, true);
    ck_assert(!status_cache_is_distrusted(a.cache));
    detach(&a);
}
END_TEST

/* A node without a cache writes behind the back of the one with a cache. */
START_TEST(test_off_beside_on)
{
    bool off_writes = _i & 1, off_first = _i & 2;
    Node on = { 0 }, off = { 0 };

    if (off_first) {
        off.options.granularity = 512;
        attach(&off, "off", off_writes, STATUS_CACHE_OFF);
    }
    attach(&on, "on", false, STATUS_CACHE_ON);
    if (!off_first) {
        ASSERT_MODE(&on, STATUS_CACHE_ON, true);
        learn_zero(&on, 0, 4096);
        attach(&off, "off", off_writes, STATUS_CACHE_OFF);
        ck_assert_int_eq(state_at(&on, 0),
                         off_writes ? BLOCK_STATE_UNKNOWN : BLOCK_STATE_ZERO);
    }
    ck_assert_ptr_ne(on.cache, off.cache);
    ck_assert_int_eq(status_cache_get_mode(off.cache), STATUS_CACHE_OFF);
    ck_assert_int_eq(status_cache_granularity(on.cache), 4096);
    ASSERT_MODE(&on, off_writes ? STATUS_CACHE_DATA_ONLY : STATUS_CACHE_ON,
                !off_writes);
    detach(&off);
    ASSERT_MODE(&on, STATUS_CACHE_ON, true);
    detach(&on);
}
END_TEST

/* What a cache knew is not true any more once nobody feeds it. */
START_TEST(test_cache_goes_with_its_nodes)
{
    Node off = { 0 }, on = { 0 }, again = { 0 };

    attach(&off, "off", true, STATUS_CACHE_OFF);
    attach(&on, "on", true, STATUS_CACHE_ON);
    learn_data(&on, 0, 4096);
    detach(&on);
    attach(&again, "again", true, STATUS_CACHE_ON);
    ck_assert_int_eq(state_at(&again, 0), BLOCK_STATE_UNKNOWN);
    detach(&off);
    detach(&again);
}
END_TEST

START_TEST(test_no_locks)
{
    Node a = { 0 }, b = { 0 };

    a.lock.filename = g_strdup(path);
    a.lock.shared = BLK_PERM_ALL;
    attach(&a, "a", true, STATUS_CACHE_ON);
    ASSERT_MODE(&a, STATUS_CACHE_DATA_ONLY, false);
    status_disk_refresh(&a.user);
    ASSERT_MODE(&a, STATUS_CACHE_DATA_ONLY, false);
    detach(&a);
    /* One node that can lock does for all that only read. */
    memset(&a, 0, sizeof(a));
    a.lock.filename = g_strdup(path);
    a.lock.shared = BLK_PERM_ALL;
    attach(&a, "a", false, STATUS_CACHE_ON);
    attach(&b, "b", false, STATUS_CACHE_ON);
    ASSERT_MODE(&a, STATUS_CACHE_ON, true);
    detach(&b);
    ASSERT_MODE(&a, STATUS_CACHE_DATA_ONLY, false);
    detach(&a);
}
END_TEST

START_TEST(test_share_write)
{
    Node a = { 0 };

    a.user.share_write = true;
    attach(&a, "a", false, STATUS_CACHE_ON);
    ASSERT_MODE(&a, STATUS_CACHE_DATA_ONLY, false);
    detach(&a);
}
END_TEST

START_TEST(test_another_process)
{
    ImageLock other;
    Node a = { 0 };

    image_lock_init(&other, fd_other, path, true);
    ck_assert(image_lock_check(&other, BLK_PERM_WRITE, BLK_PERM_ALL, NULL));
    image_lock_set(&other, BLK_PERM_WRITE, BLK_PERM_ALL);
    attach(&a, "a", true, STATUS_CACHE_ON);
    ASSERT_MODE(&a, STATUS_CACHE_DATA_ONLY, false);
    learn_zero(&a, 0, 4096);
    ck_assert_int_eq(state_at(&a, 0), BLOCK_STATE_UNKNOWN);
    image_lock_set(&other, 0, BLK_PERM_ALL);
    status_disk_refresh(&a.user);
    ASSERT_MODE(&a, STATUS_CACHE_ON, true);
    ck_assert(!image_lock_check(&other, BLK_PERM_WRITE, BLK_PERM_ALL, NULL));
    detach(&a);
    ck_assert(image_lock_check(&other, BLK_PERM_WRITE, BLK_PERM_ALL, NULL));
    image_lock_destroy(&other);
}
END_TEST

#define ASSERT_REFUSED(n, ...)                                                 \
    do {                                                                       \
        g_autoptr(GError) err = NULL;                                          \
        g_autofree char *expected = g_strdup_printf(__VA_ARGS__);              \
        ck_assert(!try_attach(n, "b", path, true, STATUS_CACHE_ON, &err));     \
        ck_assert_str_eq(err->message, expected);                              \
        drop_refused(n);                                                       \
        memset(n, 0, sizeof(*(n)));                                            \
    } while (0)

START_TEST(test_options_of_the_second)
{
    Node a = { 0 }, b = { 0 };

    a.options.granularity = 8192;
    a.options.max_memory = 1000000;
    attach(&a, "a", true, STATUS_CACHE_ON);
    b.options.granularity = 4096;
    b.options.granularity_given = true;
    ASSERT_REFUSED(&b, "status-cache-granularity 4096 differs from 8192 of "
                       "node 'a', which has the same file open");
    b.options.max_memory = 5;
    b.options.max_memory_given = true;
    ASSERT_REFUSED(&b, "status-cache-size 5 differs from 1000000 of node 'a', "
                       "which has the same file open");
    /* Who is refused leaves no trace. */
    ASSERT_MODE(&a, STATUS_CACHE_ON, true);
    b.options.granularity = 8192;
    b.options.granularity_given = true;
    attach(&b, "b", true, STATUS_CACHE_ON);
    ck_assert_int_eq(b.user.max_memory, 1000000);
    detach(&b);
    memset(&b, 0, sizeof(b));
    b.options.granularity = 4096;
    attach(&b, "b", true, STATUS_CACHE_ON);
    ck_assert_int_eq(status_cache_granularity(b.cache), 8192);
    detach(&b);
    detach(&a);
}
END_TEST

START_TEST(test_grown_file)
{
    Node a = { 0 }, b = { 0 };

    attach(&a, "a", false, STATUS_CACHE_ON);
    ck_assert_int_eq(ftruncate(fd_other, 2 * LENGTH), 0);
    attach(&b, "b", false, STATUS_CACHE_ON);
    ck_assert_int_eq(status_cache_length(a.cache), 2 * LENGTH);
    detach(&b);
    memset(&b, 0, sizeof(b));
    ck_assert_int_eq(ftruncate(fd_other, LENGTH), 0);
    attach(&b, "b", false, STATUS_CACHE_ON);
    ck_assert_int_eq(status_cache_length(a.cache), 2 * LENGTH);
    detach(&b);
    detach(&a);
}
END_TEST

START_TEST(test_reserve)
{
    g_autoptr(GError) busy = NULL;
    g_autoptr(GError) twice = NULL;
    g_autofree char *in_use =
        g_strdup_printf("'%s' is in use by node 'a'", path);
    g_autofree char *already =
        g_strdup_printf("'%s' is being created already", path);
    Node a = { 0 }, b = { 0 };
    struct stat st;

    ck_assert_int_eq(stat(path, &st), 0);
    attach(&a, "a", false, STATUS_CACHE_OFF);
    ck_assert(!status_disk_reserve(&st, path, &busy));
    ck_assert_str_eq(busy->message, in_use);
    detach(&a);
    ck_assert(status_disk_reserve(&st, path, NULL));
    ck_assert(!status_disk_reserve(&st, path, &twice));
    ck_assert_str_eq(twice->message, already);
    ASSERT_REFUSED(&b, "The file is being created");
    status_disk_release(&st);
    attach(&b, "b", true, STATUS_CACHE_ON);
    detach(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("status-registry");
    TCase *tc = tcase_create("status-registry");
    int ret;

    test_fs_set_up_plain();
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_alone);
    tcase_add_test(tc, test_wants_less);
    tcase_add_loop_test(tc, test_second_node, 0, 4);
    tcase_add_loop_test(tc, test_writes_alone, 0, 2);
    tcase_add_test(tc, test_first_goes);
    tcase_add_test(tc, test_hard_link);
    tcase_add_test(tc, test_most_cautious);
    tcase_add_test(tc, test_distrusted);
    tcase_add_loop_test(tc, test_off_beside_on, 0, 4);
    tcase_add_test(tc, test_cache_goes_with_its_nodes);
    tcase_add_test(tc, test_no_locks);
    tcase_add_test(tc, test_share_write);
    tcase_add_test(tc, test_another_process);
    tcase_add_test(tc, test_options_of_the_second);
    tcase_add_test(tc, test_grown_file);
    tcase_add_test(tc, test_reserve);
    suite_add_tcase(s, tc);
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
