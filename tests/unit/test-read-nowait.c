/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads that would rather fail than wait for the disk (BDRV_REQ_NOWAIT), of the
 * driver "file". The linker puts functions of this file in place of preadv2(), which
 * misses the page cache when it should, and of posix_fadvise().
 */
#include <glib/gstdio.h>

#include "file-node.h"
#include "qcow2-disk.h"
#include "test-fs.h"
#include "unit-main.h"
#include "wrapped-calls.h"

static BlockDriverState *node, *raw;
static BlockBackend *blk;

/* errno of reads that may not wait, or -1: they return 0; and how much of them is
 * there; 0: as it is */
static int nowait_errno;
static size_t nowait_there;
static int waiting, not_waiting; /* how many reads were of either kind */
static GString *ahead;           /* what was to be read ahead: "OFFSET+BYTES" */

ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int niov,
                          off_t offset, int flags)
{
    struct iovec first = iov[0];

    *(flags & RWF_NOWAIT ? &not_waiting : &waiting) += 1;
    if (!(flags & RWF_NOWAIT)) {
        return __real_preadv64v2(fd, iov, niov, offset, flags);
    }
    if (nowait_errno < 0 && nowait_there == 0) {
        return 0;
    }
    if (nowait_errno && nowait_there == 0) {
        errno = nowait_errno;
        return -1;
    }
    if (nowait_there) {
        first.iov_len = nowait_there;
        nowait_there = 0;
        return __real_preadv64v2(fd, &first, 1, offset, 0);
    }
    return __real_preadv64v2(fd, iov, niov, offset, 0);
}

int __wrap_posix_fadvise64(int fd, off_t offset, off_t bytes, int advice)
{
    if (advice == POSIX_FADV_WILLNEED) {
        g_string_append_printf(ahead, "%jd+%jd ", (intmax_t)(offset / KIB),
                               (intmax_t)(bytes / KIB));
    }
    return __real_posix_fadvise64(fd, offset, bytes, advice);
}

static BlockDriverState *open_with(const char *text)
{
    g_autoptr(JsonNode) options = json_from_string(text, NULL);
    BlockDriverState *bs;

    bdrv_graph_lock();
    bs = bdrv_open(json_node_get_object(options), NULL);
    bdrv_graph_unlock();
    ck_assert_ptr_nonnull(bs);
    return bs;
}

static void use(BlockDriverState *bs)
{
    bdrv_graph_lock();
    blk = blk_new("test", false, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                  BLK_PERM_ALL);
    ck_assert(blk_attach(blk, bs, NULL));
    bdrv_graph_unlock();
}

static void open_disk(const char *options)
{
    node = open_node("n", options);
    raw = open_with(
        "{\"driver\": \"raw\", \"node-name\": \"r\", \"file\": \"n\"}");
    use(raw);
}

static void setup(void)
{
    ahead = g_string_new(NULL);
    path = g_strdup_printf("%s/disk", test_fs[0].dir);
    make_file(MIB);
    fill_file(0, 64 * KIB, 'x');
}

static void teardown(void)
{
    bdrv_graph_lock();
    blk_free(blk);
    bdrv_graph_unlock();
    bdrv_close_all();
    g_remove(path);
    g_free(path);
    g_string_free(ahead, TRUE);
}

static int read_at(int64_t offset, int64_t bytes, int flags)
{
    void *buf = aligned_alloc(4096, bytes);
    int ret = blk_pread(blk, offset, bytes, buf, flags);

    free(buf);
    return ret;
}

static BlockStats stats(void)
{
    BlockStats s;

    blk_get_stats(blk, &s);
    return s;
}

/* ---- there or not ------------------------------------------------------- */

START_TEST(test_there)
{
    open_disk("");
    not_waiting = waiting = 0;
    ck_assert_int_eq(read_at(4096, 8192, BDRV_REQ_NOWAIT), 0);
    ck_assert_int_eq(not_waiting, 1);
    ck_assert_int_eq(waiting, 0);
    ck_assert_uint_eq(stats().rd_operations, 1);
}
END_TEST

/* Nothing has happened: it is no request that failed, and none that was done. */
START_TEST(test_not_there)
{
    open_disk("");
    not_waiting = waiting = 0;
    nowait_errno = EAGAIN;
    ck_assert_int_eq(read_at(4096, 8192, BDRV_REQ_NOWAIT), -EAGAIN);
    ck_assert_int_eq(not_waiting, 1);
    ck_assert_int_eq(waiting, 0);
    ck_assert_uint_eq(stats().rd_operations, 0);
    ck_assert_uint_eq(stats().failed_rd_operations, 0);
    ck_assert_int_eq(read_at(4096, 8192, 0), 0);
    ck_assert_int_eq(waiting, 1);
    ck_assert_uint_eq(stats().rd_operations, 1);
}
END_TEST

START_TEST(test_half_is_there)
{
    open_disk("");
    not_waiting = waiting = 0;
    nowait_errno = EAGAIN;
    nowait_there = 4096;
    ck_assert_int_eq(read_at(0, 8192, BDRV_REQ_NOWAIT), -EAGAIN);
    ck_assert_int_eq(not_waiting, 2);
    ck_assert_int_eq(waiting, 0);
}
END_TEST

/* Some kernels say so as if the file ended there. It is no error, and not zero. */
START_TEST(test_not_there_without_errno)
{
    open_disk("");
    nowait_errno = -1;
    ck_assert_int_eq(read_at(4096, 8192, BDRV_REQ_NOWAIT), -EAGAIN);
    nowait_there = 4096;
    ck_assert_int_eq(read_at(0, 8192, BDRV_REQ_NOWAIT), -EAGAIN);
    ck_assert_uint_eq(stats().failed_rd_operations, 0);
    ck_assert_int_eq(read_at(4096, 8192, 0), 0);
}
END_TEST

/* It is tried once. */
START_TEST(test_not_supported)
{
    open_disk("");
    not_waiting = waiting = 0;
    nowait_errno = EOPNOTSUPP;
    ck_assert_int_eq(read_at(0, 4096, BDRV_REQ_NOWAIT), 0);
    ck_assert_int_eq(read_at(0, 4096, BDRV_REQ_NOWAIT), 0);
    ck_assert_int_eq(not_waiting, 1);
    ck_assert_int_eq(waiting, 2);
    ck_assert_uint_eq(stats().rd_operations, 2);
}
END_TEST

/* Direct I/O always waits: the kernel need not be asked. */
START_TEST(test_direct)
{
    open_disk("'cache':{'direct':true}");
    not_waiting = waiting = 0;
    ck_assert_int_eq(read_at(0, 4096, BDRV_REQ_NOWAIT), 0);
    ck_assert_int_eq(not_waiting, 0);
    ck_assert_int_eq(waiting, 1);
}
END_TEST

/* ---- with zeroes that are known ----------------------------------------- */

/* 64 KiB of data, 64 KiB of zeroes, in turns, and all of it known */
static void make_turns(void)
{
    int64_t offset, pnum;

    for (offset = 0; offset < MIB; offset += 128 * KIB) {
        fill_file(offset, 64 * KIB, 'x');
    }
    open_disk("");
    for (offset = 0; offset < MIB; offset += pnum) {
        status(node, offset, MIB - offset, &pnum);
    }
}

static uint64_t reads_skipped(void)
{
    StatusCacheStats s;

    status_cache_get_stats(state(node)->cache, &s);
    return s.reads_skipped;
}

START_TEST(test_skipped_once)
{
    uint64_t before;

    make_turns();
    before = reads_skipped();
    nowait_errno = EAGAIN;
    ck_assert_int_eq(read_at(64 * KIB, 128 * KIB, BDRV_REQ_NOWAIT), -EAGAIN);
    ck_assert_uint_eq(reads_skipped(), before);
    ck_assert_int_eq(read_at(64 * KIB, 128 * KIB, 0), 0);
    ck_assert_uint_eq(reads_skipped(), before + 1);
    /* What is zero as a whole has nothing to wait for. */
    ck_assert_int_eq(read_at(64 * KIB, 64 * KIB, BDRV_REQ_NOWAIT), 0);
    ck_assert_uint_eq(reads_skipped(), before + 2);
}
END_TEST

/* What is read ahead by reads in order that may wait, and by others that are
 * repeated where they must not */
static char *read_in_order(bool nowait)
{
    int64_t offset;

    g_string_truncate(ahead, 0);
    for (offset = 0; offset < 768 * KIB; offset += 64 * KIB) {
        if (!nowait || read_at(offset, 64 * KIB, BDRV_REQ_NOWAIT) == -EAGAIN) {
            ck_assert_int_eq(read_at(offset, 64 * KIB, 0), 0);
        }
    }
    return g_strdup(ahead->str);
}

START_TEST(test_row_goes_on)
{
    g_autofree char *want = NULL;
    g_autofree char *got = NULL;

    make_turns();
    want = read_in_order(false);
    ck_assert_str_ne(want, "");
    /* Far away, so that the next begins a row of its own */
    ck_assert_int_eq(read_at(MIB - 4096, 4096, 0), 0);
    nowait_errno = EAGAIN;
    got = read_in_order(true);
    ck_assert_str_eq(got, want);
}
END_TEST

/* ---- overlays ----------------------------------------------------------- */

/* What was read in the backing file has been waited for, at its limits, too: the rest
 * is read at once, not all of it again. */
START_TEST(test_behind_backing)
{
    g_autofree char *name = g_strdup_printf("%s/overlay", test_fs[0].dir);
    g_autofree char *text =
        g_strdup_printf("{\"driver\": \"qcow2\", \"node-name\": \"q\", "
                        "\"backing\": \"n\", \"file\": "
                        "{\"driver\": \"file\", \"filename\": \"%s\"}}",
                        name);
    GBytes *image = qcow2_disk_image(3, 16, MIB);
    static const char data[4096] = "y";

    ck_assert(g_file_set_contents(name, g_bytes_get_data(image, NULL),
                                  g_bytes_get_size(image), NULL));
    g_bytes_unref(image);
    node = open_node("n", "");
    use(open_with(text));
    ck_assert_int_eq(blk_pwrite(blk, 64 * KIB, 4096, data, 0), 0);
    nowait_errno = EAGAIN;
    ck_assert_int_eq(read_at(60 * KIB, 8192, BDRV_REQ_NOWAIT), 0);
    ck_assert_uint_eq(stats().rd_operations, 1);
    /* The other way round nothing has been done when it is sent back. */
    waiting = 0;
    ck_assert_int_eq(read_at(124 * KIB, 8192, BDRV_REQ_NOWAIT), -EAGAIN);
    ck_assert_int_eq(waiting, 0);
    g_remove(name);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("read-nowait");
    TCase *tc = tcase_create("read-nowait");
    int ret;

    test_fs_set_up_plain();

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_there);
    tcase_add_test(tc, test_not_there);
    tcase_add_test(tc, test_half_is_there);
    tcase_add_test(tc, test_not_there_without_errno);
    tcase_add_test(tc, test_not_supported);
    tcase_add_test(tc, test_direct);
    tcase_add_test(tc, test_skipped_once);
    tcase_add_test(tc, test_row_goes_on);
    tcase_add_test(tc, test_behind_backing);
    suite_add_tcase(s, tc);
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
