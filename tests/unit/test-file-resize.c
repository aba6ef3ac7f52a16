/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files that become longer and shorter: by writes beyond their end, from many
 * threads at once, and by bdrv_resize() (block/resize.c, block/file-resize.c),
 * with raw above and other nodes beside.
 */
#include <glib/gstdio.h>
#include <signal.h>
#include <sys/resource.h>

#include "block/dirty-bitmap.h"
#include "file-node.h"
#include "test-fs.h"
#include "unit-main.h"

#define WRITER (BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE)

static BlockBackend *users[4];
static int n_users;

static void teardown(void)
{
    bdrv_graph_lock();
    while (n_users > 0) {
        blk_free(users[--n_users]);
    }
    bdrv_graph_unlock();
    bdrv_close_all();
    g_remove(path);
    g_free(path);
    path = NULL;
}

/* Loop tests run through file systems, buffered (even) and direct (odd). */
static const char *use_fs_and_cache(int i, int64_t length)
{
    path = g_strdup_printf("%s/disk", test_fs[i / 2].dir);
    make_file(length);
    return i & 1 ? "'cache':{'direct':true}" : "'cache':{'direct':false}";
}

static BlockBackend *use(BlockDriverState *bs, uint64_t perm, uint64_t shared)
{
    BlockBackend *blk = blk_new("the test", false, perm, shared);
    g_autoptr(GError) err = NULL;

    bdrv_graph_lock();
    ck_assert_msg(blk_attach(blk, bs, &err), "%s", err ? err->message : "");
    bdrv_graph_unlock();
    users[n_users++] = blk;
    return blk;
}

/* A node whose user may write beyond the end */
static BlockDriverState *open_growing(const char *options)
{
    BlockDriverState *bs = open_node("n", options);

    use(bs, WRITER | BLK_PERM_RESIZE, BLK_PERM_ALL);
    return bs;
}

static BlockDriverState *open_raw(const char *options)
{
    g_autofree char *text = g_strdup_printf(
        "{'driver':'raw','node-name':'raw','file':'n'%s}", options);
    g_autoptr(JsonNode) node = NULL;
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs;

    g_strdelimit(text, "'", '"');
    node = json_from_string(text, NULL);
    bdrv_graph_lock();
    bs = bdrv_open(json_node_get_object(node), &err);
    bdrv_graph_unlock();
    ck_assert_msg(bs != NULL, "%s", err ? err->message : "");
    return bs;
}

static int try_resize(BlockDriverState *bs, int64_t length, GError **errp)
{
    int ret;

    bdrv_graph_lock();
    ret = bdrv_resize(bs, length, errp);
    bdrv_graph_unlock();
    return ret;
}

static void resize(BlockDriverState *bs, int64_t length)
{
    g_autoptr(GError) err = NULL;
    int ret = try_resize(bs, length, &err);

    ck_assert_msg(ret == 0 && !err, "%s", err ? err->message : "no error");
    ck_assert_int_eq(bdrv_getlength(bs), length);
}

#define ASSERT_RESIZE_FAILS(bs, length, error, text)                           \
    do {                                                                       \
        g_autoptr(GError) err_ = NULL;                                         \
        BlockDriverState *bs_ = (bs);                                          \
        int64_t before_ = bdrv_getlength(bs_), file_ = file_length();          \
        ck_assert_int_eq(try_resize(bs_, length, &err_), error);               \
        ck_assert_ptr_nonnull(err_);                                           \
        ck_assert_msg(strstr(err_->message, text) != NULL, "'%s' lacks '%s'",  \
                      err_->message, text);                                    \
        ck_assert_int_eq(bdrv_getlength(bs_), before_);                        \
        ck_assert_int_eq(file_length(), file_);                                \
    } while (0)

/* What is called zero reads as zeroes, and the answers reach the end. */
static void assert_map_is_true(BlockDriverState *bs)
{
    int64_t length = bdrv_getlength(bs), offset = 0, pnum;

    while (offset < length) {
        if (status(bs, offset, length - offset, &pnum) & BDRV_BLOCK_ZERO) {
            assert_reads(bs, offset, pnum, 0);
        }
        ck_assert_int_gt(pnum, 0);
        offset += pnum;
    }
    ck_assert_int_eq(offset, length);
}

/* ---- writes beyond the end ---------------------------------------------- */

START_TEST(test_write_beyond)
{
    const char *cache = use_fs_and_cache(_i, 0);
    BlockDriverState *bs = open_growing(cache);

    ASSERT_WRITES(bs, 0, 1000, 'a');
    ck_assert_int_eq(bdrv_getlength(bs), 1000);
    assert_map_is_true(bs);
    ASSERT_WRITES(bs, 1000, 1, 'b');
    ck_assert_int_eq(file_length(), 1001);
    ASSERT_WRITES(bs, 200777, 70001, 'c');
    ck_assert_int_eq(file_length(), 270778);
    ck_assert_int_eq(bdrv_getlength(bs), 270778);
    ASSERT_KNOWN(bs, 270777, DATA);
    /* Beyond the end, and overlapping it; in whole blocks, and not */
    ASSERT_WRITES(bs, 270700, 100, 'd');
    ASSERT_WRITES(bs, 512 * KIB, 64 * KIB, 'e');
    ck_assert_int_eq(do_write(bs, 640 * KIB, 5, 'f', BDRV_REQ_FUA), 0);
    ck_assert_int_eq(file_length(), 640 * KIB + 5);

    assert_reads(bs, 0, 1000, 'a');
    assert_reads(bs, 1000, 1, 'b');
    assert_reads(bs, 1001, 200777 - 1001, 0);
    assert_reads(bs, 200777, 270700 - 200777, 'c');
    assert_reads(bs, 270700, 100, 'd');
    assert_reads(bs, 270800, 512 * KIB - 270800, 0);
    assert_reads(bs, 512 * KIB, 64 * KIB, 'e');
    assert_reads(bs, 576 * KIB, 64 * KIB, 0);
    assert_reads(bs, 640 * KIB, 5, 'f');
    assert_map_is_true(bs);
    ck_assert_int_eq(status_cache_length(state(bs)->cache), 640 * KIB + 5);
}
END_TEST

START_TEST(test_zeroes_beyond)
{
    g_autofree char *options =
        g_strdup_printf("%s,'discard':'unmap'", use_fs_and_cache(_i, 5000));
    BlockDriverState *bs;

    fill_file(0, 5000, 'x');
    bs = open_growing(options);
    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 4000, 100000, 0), 0);
    ck_assert_int_eq(file_length(), 104000);
    ck_assert_int_eq(bdrv_getlength(bs), 104000);
    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 65536, 200000, BDRV_REQ_MAY_UNMAP),
                     0);
    ck_assert_int_eq(file_length(), 265536);
    ASSERT_WRITES(bs, 300000, 10, 'y');
    assert_reads(bs, 0, 4000, 'x');
    assert_reads(bs, 4000, 296000, 0);
    assert_map_is_true(bs);
}
END_TEST

START_TEST(test_beyond_without_permission)
{
    const char *cache = use_fs_and_cache(_i, 5000);
    BlockDriverState *bs = open_node("n", cache);
    BlockBackend *blk = use(bs, WRITER, BLK_PERM_ALL);
    char buf[512] = "";

    ck_assert_int_eq(do_write(bs, 4999, 2, 'x', 0), -ENOSPC);
    ck_assert_int_eq(do_write(bs, 8192, 4096, 'x', 0), -ENOSPC);
    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 4999, 2, 0), -ENOSPC);
    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 0, 8192, 0), -ENOSPC);
    ck_assert_int_eq(blk_pwrite(blk, 4999, 2, buf, 0), -EIO);
    ck_assert_int_eq(file_length(), 5000);
    ck_assert_int_eq(bdrv_getlength(bs), 5000);
    ck_assert_int_eq(status_cache_length(state(bs)->cache), 5000);
    ASSERT_WRITES(bs, 4999, 1, 'x');
    ck_assert_int_eq(file_length(), 5000);
}
END_TEST

/* Through raw the permission comes down, and so do the writes. */
START_TEST(test_beyond_through_raw)
{
    const char *cache = use_fs_and_cache(_i, 4096);
    BlockDriverState *file = open_node("n", cache);
    BlockDriverState *raw = open_raw(",'offset':1000");
    BlockBackend *blk = use(raw, WRITER, BLK_PERM_ALL);

    ck_assert_int_eq(do_write(raw, 3096, 1, 'x', 0), -ENOSPC);
    bdrv_graph_lock();
    ck_assert(blk_set_perm(blk, WRITER | BLK_PERM_RESIZE, BLK_PERM_ALL, NULL));
    bdrv_graph_unlock();
    ASSERT_WRITES(raw, 9000, 77, 'x');
    ck_assert_int_eq(bdrv_getlength(raw), 9077);
    ck_assert_int_eq(file_length(), 10077);
    assert_reads(raw, 0, 9000, 0);
    assert_reads(raw, 9000, 77, 'x');
    assert_map_is_true(file);
}
END_TEST

/* Of a write that fails half way, what got there is there. */
START_TEST(test_no_room_beyond)
{
    const struct rlimit limit = { MIB, MIB };
    const char *cache = use_fs_and_cache(_i, 4096);
    BlockDriverState *bs = open_growing(cache);

    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_assert_int_eq(do_write(bs, MIB + 100, 100, 'x', 0), -EFBIG);
    ck_assert_int_eq(bdrv_getlength(bs), 4096);
    ck_assert_int_eq(do_write(bs, MIB - 65536, 131072, 'x', 0), -EFBIG);
    ck_assert_int_eq(file_length(), MIB);
    ck_assert_int_eq(bdrv_getlength(bs), MIB);
    assert_reads(bs, MIB - 65536, 65536, 'x');
    assert_reads(bs, 0, MIB - 65536, 0);
    ASSERT_RESIZE_FAILS(bs, MIB + 1, -EFBIG, "Could not resize file: File too");
    assert_map_is_true(bs);
}
END_TEST

/* ---- many at once ------------------------------------------------------- */

#define SLOT 3001 /* bytes: blocks and pages are shared */
#define SLOTS 400
#define WRITERS 4

typedef struct Slots {
    BlockDriverState *bs;
    int next; /* atomic: to be written */
    int left; /* atomic: writers that have not ended */
} Slots;

static int slot_byte(int slot)
{
    return 1 + slot % 255;
}

/* Neighbours are written one soon after the other, but not in order. */
static int nth_slot(int n)
{
    return n / 8 * 8 + n * 5 % 8;
}

static gpointer write_slots(gpointer opaque)
{
    Slots *s = opaque;
    int n;

    while ((n = g_atomic_int_add(&s->next, 1)) < SLOTS) {
        int slot = nth_slot(n);

        if (slot % 16 == 15) {
            ck_assert_int_eq(bdrv_pwrite_zeroes(s->bs, slot * SLOT, SLOT, 0),
                             0);
        } else {
            ASSERT_WRITES(s->bs, slot * SLOT, SLOT, slot_byte(slot));
        }
        ck_assert_int_ge(bdrv_getlength(s->bs), (slot + 1) * SLOT);
        if (slot % 16 != 15) {
            assert_reads(s->bs, slot * SLOT, SLOT, slot_byte(slot));
        }
    }
    g_atomic_int_add(&s->left, -1);
    return NULL;
}

/* A byte is that of its slot, or zero. */
static void check_bytes(const uint8_t *buf, int64_t offset, int64_t bytes)
{
    int64_t i;

    for (i = 0; i < bytes; i++) {
        if (buf[i] && buf[i] != slot_byte((offset + i) / SLOT)) {
            ck_abort_msg("byte %jd is %02x", (intmax_t)(offset + i), buf[i]);
        }
    }
}

static gpointer read_what_is_there(gpointer opaque)
{
    g_autofree uint8_t *buf = g_malloc(64 * KIB);
    Slots *s = opaque;
    GRand *rand = g_rand_new_with_seed(1);

    while (g_atomic_int_get(&s->left) > 0) {
        int64_t length = bdrv_getlength(s->bs), offset, bytes, pnum;
        struct iovec iov;

        if (length == 0) {
            continue;
        }
        offset = g_rand_int_range(rand, 0, length);
        bytes = MIN(length - offset, 64 * KIB);
        status(s->bs, offset, length - offset, &pnum);
        iov = (struct iovec){ buf, bytes };
        ck_assert_int_eq(bdrv_preadv(s->bs, offset, bytes, &iov, 1, 0), 0);
        check_bytes(buf, offset, bytes);
    }
    g_rand_free(rand);
    return NULL;
}

START_TEST(test_many_beyond)
{
    const char *cache = use_fs_and_cache(_i, 0);
    Slots s = { .bs = open_growing(cache), .left = WRITERS };
    GThread *threads[WRITERS + 1];
    int i;

    for (i = 0; i < WRITERS; i++) {
        threads[i] = g_thread_new("writer", write_slots, &s);
    }
    threads[i] = g_thread_new("reader", read_what_is_there, &s);
    for (i = 0; i <= WRITERS; i++) {
        g_thread_join(threads[i]);
    }
    ck_assert_int_eq(bdrv_getlength(s.bs), SLOTS * SLOT);
    ck_assert_int_eq(file_length(), SLOTS * SLOT);
    for (i = 0; i < SLOTS; i++) {
        assert_reads(s.bs, i * SLOT, SLOT, i % 16 == 15 ? 0 : slot_byte(i));
    }
    assert_map_is_true(s.bs);
}
END_TEST

/* ---- resize ------------------------------------------------------------- */

START_TEST(test_shrink_and_grow)
{
    const char *cache = use_fs_and_cache(_i, 300000);
    BlockDriverState *bs;
    BlockBackend *blk;
    char c;

    fill_file(0, 300000, 'x');
    bs = open_node("n", cache);
    blk = use(bs, WRITER, BLK_PERM_ALL);
    assert_map_is_true(bs);
    ASSERT_KNOWN(bs, 200000, DATA);
    resize(bs, 100001);
    ck_assert_int_eq(file_length(), 100001);
    ck_assert_int_eq(blk_pread(blk, 100001, 1, &c, 0), -EIO);
    ck_assert_int_eq(blk_pwrite(blk, 100001, 1, &c, 0), -EIO);
    ck_assert_int_eq(do_write(bs, 100001, 1, 'y', 0), -ENOSPC);
    assert_map_is_true(bs);
    resize(bs, 400000);
    ASSERT_KNOWN(bs, 200000, UNKNOWN);
    assert_reads(bs, 0, 100001, 'x');
    assert_reads(bs, 100001, 299999, 0);
    assert_map_is_true(bs);
    if (known(bs, 300000) != BLOCK_STATE_ZERO) {
        /* Not all file systems can tell; but none may say it is data. */
        ASSERT_KNOWN(bs, 300000, UNKNOWN);
    }
    ASSERT_WRITES(bs, 399999, 1, 'z');
    resize(bs, 0);
    ck_assert_int_eq(file_length(), 0);
    resize(bs, 1000);
    assert_reads(bs, 0, 1000, 0);
    assert_map_is_true(bs);
    /* No difference */
    resize(bs, 1000);
    ck_assert_int_eq(blk_pwrite(blk, 999, 1, "z", 0), 0);
    assert_reads(bs, 999, 1, 'z');
}
END_TEST

/* A zero block at the end is no longer one when something may join it. */
START_TEST(test_known_zero_at_the_end)
{
    const char *cache = use_fs_and_cache(_i, 4096 + 512);
    BlockDriverState *bs = open_growing(cache);
    int64_t pnum;

    status(bs, 4096, 512, &pnum);
    resize(bs, 8192);
    ASSERT_WRITES(bs, 8191, 1, 'x');
    ck_assert(!(status(bs, 8191, 1, &pnum) & BDRV_BLOCK_ZERO));
    resize(bs, 8190);
    assert_map_is_true(bs);
    resize(bs, 8192);
    assert_reads(bs, 8190, 2, 0);
    assert_map_is_true(bs);
}
END_TEST

START_TEST(test_resize_through_raw)
{
    const char *cache = use_fs_and_cache(_i, MIB);
    BlockDriverState *file = open_node("n", cache);
    BlockDriverState *raw = open_raw(",'offset':512");

    use(raw, WRITER, BLK_PERM_ALL);
    resize(raw, 100);
    ck_assert_int_eq(file_length(), 612);
    resize(raw, 2 * MIB);
    ck_assert_int_eq(bdrv_getlength(file), 2 * MIB + 512);
    resize(file, 100);
    ck_assert_int_eq(bdrv_getlength(raw), 0);
    ASSERT_RESIZE_FAILS(raw, BDRV_MAX_LENGTH - 511, -EFBIG,
                        "offset(9223372035781033985) exceeds");
}
END_TEST

START_TEST(test_resize_beyond_the_offset)
{
    const char *cache = use_fs_and_cache(0, INT64_C(1) << 30);

    open_node("n", cache);
    ASSERT_RESIZE_FAILS(open_raw(",'offset':1073741824"), BDRV_MAX_LENGTH,
                        -EINVAL, "Disk size too large for the chosen offset");
}
END_TEST

/* Bitmaps of all that stands on the file have its new length. */
START_TEST(test_bitmaps)
{
    const char *cache = use_fs_and_cache(0, MIB);
    BlockDriverState *file = open_node("n", cache), *raw = open_raw("");
    BdrvDirtyBitmap *below = bdrv_create_dirty_bitmap(file, 65536, NULL, NULL);
    BdrvDirtyBitmap *above = bdrv_create_dirty_bitmap(raw, 65536, NULL, NULL);

    bdrv_set_dirty_bitmap(below, 0, MIB);
    bdrv_set_dirty_bitmap(above, 0, MIB);
    resize(file, 65536 + 10);
    ck_assert_int_eq(bdrv_get_dirty_count(below), 65536 + 10);
    ck_assert_int_eq(bdrv_get_dirty_count(above), 65536 + 10);
    resize(raw, MIB);
    ck_assert_int_eq(bdrv_get_dirty_count(below), 131072);
    ck_assert_int_eq(bdrv_get_dirty_count(above), 131072);
    bdrv_release_dirty_bitmap(file, below);
    bdrv_release_dirty_bitmap(raw, above);
}
END_TEST

START_TEST(test_resize_refused)
{
    const char *cache = use_fs_and_cache(0, MIB);
    BlockDriverState *bs = open_node("n", cache), *raw;
    g_autoptr(JsonNode) null = json_from_string(
        "{\"driver\":\"null-co\",\"node-name\":\"null\"}", NULL);
    BlockDriverState *fixed;

    ASSERT_RESIZE_FAILS(bs, -1, -EINVAL, "cannot be negative: -1");
    ASSERT_RESIZE_FAILS(bs, INT64_MAX, -EFBIG,
                        "offset(9223372036854775807) exceeds "
                        "maximum(9223372035781033984)");
    ASSERT_RESIZE_FAILS(bs, INT64_C(1) << 62, -EFBIG,
                        "Could not resize file: File too large");
    raw = open_raw(",'size':1024");
    ASSERT_RESIZE_FAILS(raw, 1024, -ENOTSUP,
                        "Cannot resize fixed-size raw disks");
    use(raw, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL & ~BLK_PERM_RESIZE);
    ASSERT_RESIZE_FAILS(raw, 512, -EPERM,
                        "Permission conflict on node 'raw': permissions "
                        "'resize' are both required by block_resize (uses node "
                        "'raw' as 'root' child) and unshared by the test");
    ASSERT_RESIZE_FAILS(bs, 512, -EPERM, "unshared by node 'raw'");
    bdrv_graph_lock();
    fixed = bdrv_open(json_node_get_object(null), NULL);
    bdrv_graph_unlock();
    ASSERT_RESIZE_FAILS(fixed, 512, -ENOTSUP,
                        "Image format driver does not support resize");
}
END_TEST

START_TEST(test_resize_read_only)
{
    const char *cache = use_fs_and_cache(0, MIB);
    g_autofree char *options = g_strdup_printf("%s,'read-only':true", cache);
    BlockDriverState *bs = open_node("n", options);

    ASSERT_RESIZE_FAILS(bs, 512, -EACCES, "Image is read-only");
}
END_TEST

/* ---- several nodes ------------------------------------------------------ */

START_TEST(test_other_nodes_learn)
{
    BlockDriverState *a, *b, *off;
    int64_t pnum;

    use_fs_and_cache(0, MIB);
    fill_file(0, MIB, 'x');
    a = open_node("n", "'locking':'off'");
    b = open_node("b", "'locking':'off'");
    off = open_node("off", "'locking':'off','status-cache':'off'");
    use(a, WRITER | BLK_PERM_RESIZE, BLK_PERM_ALL);
    use(b, WRITER, BLK_PERM_ALL);
    resize(b, 100000);
    ck_assert_int_eq(bdrv_getlength(a), 100000);
    ck_assert_int_eq(bdrv_getlength(off), 100000);
    ASSERT_WRITES(a, 300000, 1000, 'y');
    ck_assert_int_eq(bdrv_getlength(b), 301000);
    ck_assert_int_eq(bdrv_getlength(off), 301000);
    ck_assert(status(off, 300500, 500, &pnum) & BDRV_BLOCK_DATA);
    assert_reads(b, 100000, 200000, 0);
    assert_reads(off, 300000, 1000, 'y');
    assert_map_is_true(b);
    assert_map_is_true(off);
    close_node(off);
    ASSERT_WRITES(a, MIB, 1, 'z');
    ck_assert_int_eq(bdrv_getlength(b), MIB + 1);
    off = open_node("off", "'locking':'off','status-cache':'off'");
    ck_assert_int_eq(bdrv_getlength(off), MIB + 1);
}
END_TEST

/* ---- a request that does not end ---------------------------------------- */

static Mutex hang_lock = MUTEX_INIT;
static Cond hang_cond = PTHREAD_COND_INITIALIZER;
static bool hangs, let_go; /* hang_lock */

static int slow_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       const struct iovec *iov, int niov, int flags)
{
    mutex_lock(&hang_lock);
    hangs = true;
    cond_broadcast(&hang_cond);
    while (!let_go) {
        cond_wait(&hang_cond, &hang_lock);
    }
    mutex_unlock(&hang_lock);
    memset(iov->iov_base, 0, iov->iov_len);
    return 0;
}

static gpointer read_slowly(gpointer opaque)
{
    char c;

    ck_assert_int_eq(blk_pread(opaque, 0, 1, &c, 0), 0);
    return NULL;
}

START_TEST(test_request_hangs)
{
    const char *cache = use_fs_and_cache(0, MIB);
    BlockDriverState *bs = open_node("n", cache), *slow;
    const BlockDriver driver = {
        .format_name = "slow",
        .kind = BLOCK_DRIVER_FILTER,
        .preadv = slow_preadv,
    };
    BlockBackend *blk;
    GThread *thread;

    bdrv_graph_lock();
    slow = bdrv_new_internal(&driver, "slow", NULL);
    ck_assert(bdrv_insert_filter(slow, bs, NULL));
    bdrv_graph_unlock();
    blk = use(slow, WRITER, BLK_PERM_ALL);
    thread = g_thread_new("reader", read_slowly, blk);
    mutex_lock(&hang_lock);
    while (!hangs) {
        cond_wait(&hang_cond, &hang_lock);
    }
    mutex_unlock(&hang_lock);
    bdrv_resize_drain_us = 1000;
    ASSERT_RESIZE_FAILS(bs, 512, -EBUSY,
                        "Node 'n' is busy: a request does not end");
    ASSERT_RESIZE_FAILS(slow, 512, -EBUSY, "busy");
    mutex_lock(&hang_lock);
    let_go = true;
    cond_broadcast(&hang_cond);
    mutex_unlock(&hang_lock);
    g_thread_join(thread);
    bdrv_resize_drain_us = 10 * G_USEC_PER_SEC;
    resize(slow, 512);
    ck_assert_int_eq(bdrv_getlength(bs), 512);

    bdrv_graph_lock();
    blk_free(users[--n_users]);
    bdrv_unref(slow);
    bdrv_graph_unlock();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("file-resize");
    TCase *tc = tcase_create("file-resize");
    int ret, n;

    test_fs_set_up();
    n = 2 * n_test_fs;
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, NULL, teardown);
    tcase_add_loop_test(tc, test_write_beyond, 0, n);
    tcase_add_loop_test(tc, test_zeroes_beyond, 0, n);
    tcase_add_loop_test(tc, test_beyond_without_permission, 0, n);
    tcase_add_loop_test(tc, test_beyond_through_raw, 0, n);
    tcase_add_loop_test(tc, test_no_room_beyond, 0, n);
    tcase_add_loop_test(tc, test_many_beyond, 0, n);
    tcase_add_loop_test(tc, test_shrink_and_grow, 0, n);
    tcase_add_loop_test(tc, test_known_zero_at_the_end, 0, n);
    tcase_add_loop_test(tc, test_resize_through_raw, 0, n);
    tcase_add_test(tc, test_resize_beyond_the_offset);
    tcase_add_test(tc, test_bitmaps);
    tcase_add_test(tc, test_resize_refused);
    tcase_add_test(tc, test_resize_read_only);
    tcase_add_test(tc, test_other_nodes_learn);
    tcase_add_test(tc, test_request_hangs);
    suite_add_tcase(s, tc);
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
