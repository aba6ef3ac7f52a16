/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver "file" (block/file-*.c) through the block layer, on all file
 * systems that can be had, buffered and direct.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file-posix-int.h"
#include "test-fs.h"
#include "unit-main.h"

#define KIB INT64_C(1024)
#define MIB (KIB * KIB)
#define GRAN (4 * KIB)

static char *path; /* of the file under test */

static FileState *state(BlockDriverState *bs)
{
    return bs->opaque;
}

/* ---- nodes -------------------------------------------------------------- */

/* @options: JSON with ' for ", without the braces and the usual members */
static BlockDriverState *try_open(const char *name, const char *options,
                                  GError **errp)
{
    g_autofree char *text = g_strdup_printf(
        "{'driver':'file','node-name':'%s','filename':'%s'%s%s}", name, path,
        *options ? "," : "", options);
    g_autoptr(JsonNode) node = NULL;
    BlockDriverState *bs;

    g_strdelimit(text, "'", '"');
    node = json_from_string(text, NULL);
    ck_assert_msg(node != NULL, "bad JSON: %s", text);
    if (!schema_check(&blockdev_options_type, node, "", false, errp)) {
        return NULL;
    }
    bdrv_graph_lock();
    bs = bdrv_open(json_node_get_object(node), errp);
    bdrv_graph_unlock();
    return bs;
}

static BlockDriverState *open_node(const char *name, const char *options)
{
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs = try_open(name, options, &err);

    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    return bs;
}

static void close_node(BlockDriverState *bs)
{
    g_autofree char *name = g_strdup(bs->node_name);

    bdrv_graph_lock();
    ck_assert(bdrv_monitor_del(name, NULL));
    bdrv_graph_unlock();
}

#define ASSERT_OPEN_FAILS(options, text)                                       \
    do {                                                                       \
        g_autoptr(GError) err = NULL;                                          \
        ck_assert_ptr_null(try_open("n", options, &err));                      \
        ck_assert_ptr_nonnull(err);                                            \
        ck_assert_msg(strstr(err->message, text) != NULL, "'%s' lacks '%s'",   \
                      err->message, text);                                     \
    } while (0)

/* ---- the file as others see it ------------------------------------------ */

static void make_file(int64_t length)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, length), 0);
    close(fd);
}

static void fill_file(int64_t offset, int64_t bytes, int byte)
{
    g_autofree char *buf = g_malloc(bytes);
    int fd = open(path, O_RDWR | O_CLOEXEC);

    memset(buf, byte, bytes);
    ck_assert_int_eq(pwrite(fd, buf, bytes, offset), bytes);
    ck_assert_int_eq(fsync(fd), 0);
    close(fd);
}

static int64_t file_length(void)
{
    struct stat st;

    ck_assert_int_eq(stat(path, &st), 0);
    return st.st_size;
}

static int64_t allocated(void)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    ck_assert_int_eq(fsync(fd), 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    close(fd);
    return st.st_blocks * 512;
}

/* ---- requests ----------------------------------------------------------- */

static int do_write(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    int byte, int flags)
{
    g_autofree char *buf = g_malloc(bytes);
    struct iovec iov = { buf, bytes };

    memset(buf, byte, bytes);
    return bdrv_pwritev(bs, offset, bytes, &iov, 1, flags);
}

#define ASSERT_WRITES(bs, offset, bytes, byte)                                 \
    ck_assert_int_eq(do_write(bs, offset, bytes, byte, 0), 0)

static void assert_reads(BlockDriverState *bs, int64_t offset, int64_t bytes,
                         int byte)
{
    g_autofree char *buf = g_malloc(bytes);
    struct iovec iov = { buf, bytes };
    int64_t i;

    memset(buf, ~byte, bytes);
    ck_assert_int_eq(bdrv_preadv(bs, offset, bytes, &iov, 1, 0), 0);
    for (i = 0; i < bytes && buf[i] == (char)byte; i++) {
    }
    if (i < bytes) {
        ck_abort_msg("byte %jd is %02x, not %02x", (intmax_t)(offset + i),
                     (unsigned char)buf[i], byte);
    }
}

/* What the cache knows, without asking anybody else */
static BlockState known(BlockDriverState *bs, int64_t offset)
{
    int64_t pnum;

    return status_cache_peek(state(bs)->cache, offset, 1, &pnum);
}

#define ASSERT_KNOWN(bs, offset, what)                                         \
    ck_assert_int_eq(known(bs, offset), BLOCK_STATE_##what)

static int status(BlockDriverState *bs, int64_t offset, int64_t bytes,
                  int64_t *pnum)
{
    BlockDriverState *file;
    int64_t map;
    int ret = bdrv_block_status(bs, BDRV_WANT_PRECISE, offset, bytes, pnum,
                                &map, &file);

    ck_assert_int_ge(ret, 0);
    ck_assert_int_eq(map, offset);
    ck_assert_ptr_eq(file, bs);
    ck_assert(ret & BDRV_BLOCK_OFFSET_VALID);
    return ret;
}

#define ASSERT_STATUS(bs, offset, bytes, flag, n)                              \
    do {                                                                       \
        int64_t pnum_;                                                         \
        int ret_ = status(bs, offset, bytes, &pnum_);                          \
        ck_assert_int_eq(ret_ &(BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO),            \
                         BDRV_BLOCK_##flag);                                   \
        ck_assert_int_eq(pnum_, n);                                            \
    } while (0)

/* ---- fixtures ----------------------------------------------------------- */

static void use_fs(int i)
{
    g_free(path);
    path = g_strdup_printf("%s/disk", test_fs[i].dir);
    make_file(MIB);
}

static void setup(void)
{
    use_fs(0);
}

static void teardown(void)
{
    bdrv_close_all();
    unlink(path);
    g_free(path);
    path = NULL;
}

/* Loop tests run through file systems, buffered (even) and direct (odd) */
static const char *fs_and_cache(int i)
{
    use_fs(i / 2);
    return i & 1 ? "'cache':{'direct':true}" : "'cache':{'direct':false}";
}

START_TEST(test_read_write)
{
    BlockDriverState *bs = open_node("n", fs_and_cache(_i));

    assert_reads(bs, 0, MIB, 0);
    ASSERT_WRITES(bs, 4096, 8192, 'a');
    ASSERT_WRITES(bs, 100000, 777, 'b');
    assert_reads(bs, 0, 4096, 0);
    assert_reads(bs, 4096, 8192, 'a');
    assert_reads(bs, 12288, 100000 - 12288, 0);
    assert_reads(bs, 100000, 777, 'b');
    assert_reads(bs, 100777, MIB - 100777, 0);
    ASSERT_KNOWN(bs, 0, UNKNOWN);
    ASSERT_KNOWN(bs, 4096, DATA);
    ASSERT_KNOWN(bs, 100000, DATA);
    ck_assert_int_eq(bdrv_flush(bs), 0);
    ck_assert_int_eq(file_length(), MIB);
    close_node(bs);
}
END_TEST

START_TEST(test_status)
{
    BlockDriverState *bs;
    int64_t pnum;

    const char *cache = fs_and_cache(_i);
    fill_file(65536, 65536, 'x');
    bs = open_node("n", cache);
    ASSERT_STATUS(bs, 0, MIB, ZERO, 65536);
    ASSERT_STATUS(bs, 65536, MIB - 65536, DATA, 65536);
    ASSERT_STATUS(bs, 131072, MIB - 131072, ZERO, MIB - 131072);
    ck_assert(!(status(bs, 0, MIB, &pnum) & BDRV_BLOCK_PROBED));
    ASSERT_KNOWN(bs, 0, ZERO);
    ASSERT_KNOWN(bs, 65536, DATA);
    ASSERT_KNOWN(bs, MIB - 1, ZERO);
    ASSERT_WRITES(bs, 512 * KIB, 4096, 'y');
    ASSERT_STATUS(bs, 512 * KIB, 512 * KIB, DATA, 4096);
    close_node(bs);
}
END_TEST

START_TEST(test_zero_writes)
{
    const char *cache = fs_and_cache(_i);
    BlockDriverState *bs;

    fill_file(0, MIB, 'x');
    bs = open_node("n", cache);
    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 4096, 65536, 0), 0);
    assert_reads(bs, 4096, 65536, 0);
    ASSERT_KNOWN(bs, 4096, ZERO);
    ck_assert_int_eq(allocated() >= MIB, 1);
    close_node(bs);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("file-posix");
    TCase *tc = tcase_create("requests");
    int ret;

    test_fs_set_up();
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, test_read_write, 0, 2 * n_test_fs);
    tcase_add_loop_test(tc, test_status, 0, 2 * n_test_fs);
    tcase_add_loop_test(tc, test_zero_writes, 0, 2 * n_test_fs);
    suite_add_tcase(s, tc);
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
