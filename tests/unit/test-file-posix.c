/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver "file" (block/file-*.c) through the block layer, on all file
 * systems that can be had: options, requests, and what the status cache learns
 * from them.
 */
#include <glib/gstdio.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "file-node.h"
#include "test-fs.h"
#include "unit-main.h"

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
    g_remove(path);
    g_free(path);
    path = NULL;
}

/* Loop tests run through file systems, buffered (even) and direct (odd). */
static const char *use_fs_and_cache(int i)
{
    use_fs(i / 2);
    return i & 1 ? "'cache':{'direct':true}" : "'cache':{'direct':false}";
}

/* ---- options ------------------------------------------------------------ */

START_TEST(test_not_regular)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd;

    g_remove(path);
    ASSERT_OPEN_FAILS("", "Could not open '");
    ASSERT_OPEN_FAILS("", "/disk': No such file or directory");
    ck_assert_int_eq(g_mkdir(path, 0755), 0);
    ASSERT_OPEN_FAILS("", "/disk' to be a regular file, but it is a directory");
    g_rmdir(path);
    /* Nobody else has the FIFO open: this must not wait for one. */
    ck_assert_int_eq(mkfifo(path, 0644), 0);
    ASSERT_OPEN_FAILS("", "it is a FIFO");
    ASSERT_OPEN_FAILS("'read-only':true", "it is a FIFO");
    g_remove(path);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    ASSERT_OPEN_FAILS("", "it is a socket");
    close(fd);
    g_remove(path);
    ck_assert_int_eq(symlink("/dev/null", path), 0);
    ASSERT_OPEN_FAILS("", "it is a character device");
}
END_TEST

START_TEST(test_filename_prefix)
{
    g_autofree char *plain = path;

    path = g_strdup_printf("file:%s", plain);
    open_node("n", "");
    g_free(path);
    path = g_steal_pointer(&plain);
}
END_TEST

START_TEST(test_bad_options)
{
    ASSERT_OPEN_FAILS("'aio':'native'",
                      "aio=native was specified, but it requires "
                      "cache.direct=on, which was not specified.");
    ASSERT_OPEN_FAILS("'aio':'posix'", "does not accept value 'posix'");
    ASSERT_OPEN_FAILS("'status-cache':'yes'", "does not accept value 'yes'");
    ASSERT_OPEN_FAILS("'status-cache-granularity':1000",
                      "'status-cache-granularity' expects a power of two from "
                      "512 to 1073741824, not 1000");
    ASSERT_OPEN_FAILS("'status-cache-granularity':256", "not 256");
    ASSERT_OPEN_FAILS("'status-cache-granularity':0", "not 0");
    ASSERT_OPEN_FAILS("'status-cache-granularity':4294967296", "not 42949672");
    ASSERT_OPEN_FAILS("'nonsense':1", "Parameter 'nonsense' is unexpected");
    /* Nothing is left of a node that could not be opened. */
    open_node("n", "'aio':'native','cache':{'direct':true}");
    open_node("m", "'aio':'io_uring'");
}
END_TEST

START_TEST(test_granularity)
{
    BlockDriverState *bs = open_node("n", "'status-cache-granularity':512");

    ASSERT_WRITES(bs, 512, 512, 'a');
    ASSERT_KNOWN(bs, 511, UNKNOWN);
    ASSERT_KNOWN(bs, 512, DATA);
    ASSERT_KNOWN(bs, 1024, UNKNOWN);
}
END_TEST

START_TEST(test_close_on_exec)
{
    FileState *s = state(open_node("n", ""));

    ck_assert(fcntl(s->fd, F_GETFD) & FD_CLOEXEC);
    ck_assert(fcntl(s->sync_fd, F_GETFD) & FD_CLOEXEC);
    ck_assert(!(fcntl(s->fd, F_GETFL) & O_NONBLOCK));
}
END_TEST

START_TEST(test_read_only)
{
    BlockDriverState *bs;
    BlockBackend *blk = blk_new("test", false, BLK_PERM_WRITE, BLK_PERM_ALL);
    g_autoptr(GError) err = NULL;

    ck_assert_int_eq(g_chmod(path, 0444), 0);
    if (geteuid() == 0) {
        ck_assert_int_eq(g_chmod(test_fs_top, 0755), 0);
        ck_assert_int_eq(seteuid(65534), 0);
    }
    ASSERT_OPEN_FAILS("", "Permission denied");
    bs = open_node("n", "'auto-read-only':true");
    ck_assert(bdrv_is_read_only(bs));
    assert_reads(bs, 0, 4096, 0);
    ck_assert_int_eq(bdrv_flush(bs), 0);
    bdrv_graph_lock();
    ck_assert(!blk_attach(blk, bs, &err));
    ck_assert_ptr_nonnull(strstr(err->message, "Permission denied"));
    ck_assert_ptr_nonnull(strstr(err->message, path));
    blk_free(blk);
    bdrv_graph_unlock();
    open_node("m", "'read-only':true");
    bdrv_close_all();
    if (getuid() == 0) {
        ck_assert_int_eq(seteuid(0), 0);
    }
}
END_TEST

START_TEST(test_information)
{
    BlockDriverState *bs = open_node(
        "n", "'status-cache-size':123456,'status-probe':'seek','aio':'native',"
             "'cache':{'direct':true},'locking':'off','discard':'unmap'");
    g_autoptr(JsonObject) image = json_object_new();
    g_autoptr(JsonObject) stats = NULL;
    g_autofree char *text = NULL;
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    JsonObject *specific, *data;

    fill_file(0, 65536, 'x');
    bs->drv->get_info(bs, image);
    ck_assert_str_eq(json_object_get_string_member(image, "filename"), path);
    ck_assert_int_ge(json_object_get_int_member(image, "actual-size"), 65536);
    specific = json_object_get_object_member(image, "format-specific");
    ck_assert_str_eq(json_object_get_string_member(specific, "type"), "file");
    data = json_object_get_object_member(specific, "data");
    json_node_set_object(node, data);
    text = json_to_string(node, FALSE);
    ck_assert_str_eq(text,
                     "{\"aio\":\"io_uring\",\"locking\":false,\"status-cache\":"
                     "{\"mode\":\"data-only\",\"granularity\":4096,"
                     "\"size\":123456,\"strategy\":\"seek\"}}");

    ck_assert_int_eq(bdrv_pdiscard(bs, 4096, 8192), 0);
    stats = bs->drv->get_specific_stats(bs);
    ck_assert_str_eq(json_object_get_string_member(stats, "driver"), "file");
    ck_assert_int_eq(json_object_get_int_member(stats, "discard-nb-ok"), 1);
    ck_assert_int_eq(json_object_get_int_member(stats, "discard-nb-failed"), 0);
    ck_assert_int_eq(json_object_get_int_member(stats, "discard-bytes-ok"),
                     8192);
    data = json_object_get_object_member(stats, "status-cache");
    ck_assert_int_eq(json_object_get_int_member(data, "learned-discards"),
                     8192);
}
END_TEST

/* ---- reads and writes --------------------------------------------------- */

START_TEST(test_read_write)
{
    BlockDriverState *bs = open_node("n", use_fs_and_cache(_i));

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
    ck_assert_int_eq(do_write(bs, 0, 4096, 'c', BDRV_REQ_FUA), 0);
    assert_reads(bs, 0, 4096, 'c');
    ck_assert_int_eq(bdrv_flush(bs), 0);
    ck_assert_int_eq(file_length(), MIB);
}
END_TEST

START_TEST(test_vectors)
{
    BlockDriverState *bs = open_node("n", use_fs_and_cache(_i));
    g_autofree char *buf = g_malloc(3000 * 3);
    g_autofree struct iovec *iov = g_new(struct iovec, 3000);
    int i;

    for (i = 0; i < 3000; i++) {
        memset(buf + 3 * i, 'a' + i % 26, 3);
        iov[i] = (struct iovec){ buf + 3 * i, 3 };
    }
    ck_assert_int_eq(bdrv_pwritev(bs, 1001, 9000, iov, 3000, 0), 0);
    memset(buf, 0, 9000);
    ck_assert_int_eq(bdrv_preadv(bs, 1001, 9000, iov, 3000, 0), 0);
    for (i = 0; i < 9000; i++) {
        ck_assert_int_eq(buf[i], 'a' + i / 3 % 26);
    }
}
END_TEST

/* The end of the disk inside a block: it is exact, and stays where it is. */
START_TEST(test_unaligned_end)
{
    const char *cache = use_fs_and_cache(_i);
    const int64_t end = 256 * KIB + 777, tail = end - end % 512;
    BlockDriverState *bs;
    int64_t pnum;

    make_file(end);
    fill_file(0, end, 'x');
    bs = open_node("n", cache);
    ck_assert_int_eq(bdrv_getlength(bs), end);
    assert_reads(bs, tail, end - tail, 'x');
    ASSERT_WRITES(bs, end - 1, 1, 'a');
    ASSERT_WRITES(bs, tail, 5, 'b');
    assert_reads(bs, tail, 5, 'b');
    assert_reads(bs, tail + 5, end - tail - 6, 'x');
    assert_reads(bs, end - 1, 1, 'a');
    ASSERT_WRITES(bs, 128 * KIB, end - 128 * KIB, 'c');
    assert_reads(bs, 128 * KIB, end - 128 * KIB, 'c');
    assert_reads(bs, 0, 128 * KIB, 'x');
    ck_assert_int_eq(do_write(bs, tail, end - tail, 'd', BDRV_REQ_FUA), 0);
    assert_reads(bs, tail, end - tail, 'd');
    ck_assert_int_eq(file_length(), end);

    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 4096, end - 4096, 0), 0);
    ck_assert_int_eq(file_length(), end);
    assert_reads(bs, 4096, end - 4096, 0);
    assert_reads(bs, 0, 4096, 'x');
    status(bs, end - 1, 1, &pnum);
    ck_assert_int_eq(pnum, 1);
    ck_assert_int_eq(status_cache_length(state(bs)->cache), end);
}
END_TEST

/* Direct writes beside the buffered end do not undo each other. */
static gpointer write_before_the_end(gpointer opaque)
{
    BlockDriverState *bs = opaque;
    int i;

    for (i = 0; i < 200; i++) {
        ck_assert_int_eq(do_write(bs, 0, 512, i, 0), 0);
        assert_reads(bs, 0, 512, i);
    }
    return NULL;
}

START_TEST(test_beside_the_end)
{
    const char *cache = use_fs_and_cache(2 * _i + 1);
    BlockDriverState *bs;
    GThread *thread;
    int i;

    make_file(1000);
    bs = open_node("n", cache);
    thread = g_thread_new("writer", write_before_the_end, bs);
    for (i = 0; i < 200; i++) {
        ck_assert_int_eq(do_write(bs, 600, 400, i, 0), 0);
        assert_reads(bs, 600, 400, i);
    }
    g_thread_join(thread);
    assert_reads(bs, 0, 512, 199);
    assert_reads(bs, 600, 400, 199);
    ck_assert_int_eq(file_length(), 1000);
}
END_TEST

START_TEST(test_shrunk_underneath)
{
    BlockDriverState *bs;
    const char *cache = use_fs_and_cache(_i);

    fill_file(0, MIB, 'x');
    bs = open_node("n", cache);
    ck_assert_int_eq(truncate(path, 5000), 0);
    assert_reads(bs, 0, 5000, 'x');
    assert_reads(bs, 5000, MIB - 5000, 0);
    ASSERT_WRITES(bs, 65536, 4096, 'y');
    assert_reads(bs, 65536, 4096, 'y');
}
END_TEST

/* ---- zero-writes and discards ------------------------------------------- */

START_TEST(test_zero_writes_allocate)
{
    g_autofree char *options = g_strdup_printf(
        "%s,'discard':'%s'", use_fs_and_cache(_i), _i & 2 ? "unmap" : "ignore");
    int flags = _i & 2 ? 0 : BDRV_REQ_MAY_UNMAP;
    BlockDriverState *bs;

    fill_file(0, 512 * KIB, 'x');
    bs = open_node("n", options);
    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 65536, 65536, flags), 0);
    assert_reads(bs, 0, 65536, 'x');
    assert_reads(bs, 65536, 65536, 0);
    ck_assert_int_ge(allocated(), 512 * KIB);
    ASSERT_KNOWN(bs, 65536, ZERO);
    ASSERT_KNOWN(bs, 65535, UNKNOWN);
    ASSERT_KNOWN(bs, 131072, UNKNOWN);
    /* Also where there was a hole */
    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 512 * KIB, 512 * KIB, flags), 0);
    assert_reads(bs, 512 * KIB, 512 * KIB, 0);
    ck_assert_int_ge(allocated(), MIB);
    ASSERT_KNOWN(bs, MIB - 1, ZERO);
    ck_assert_int_eq(file_length(), MIB);
}
END_TEST

START_TEST(test_zero_writes_unmap)
{
    g_autofree char *options =
        g_strdup_printf("%s,'discard':'unmap'", use_fs_and_cache(_i));
    BlockDriverState *bs;

    fill_file(0, MIB, 'x');
    bs = open_node("n", options);
    ck_assert_int_eq(
        bdrv_pwrite_zeroes(bs, 65536, MIB - 65536, BDRV_REQ_MAY_UNMAP), 0);
    assert_reads(bs, 0, 65536, 'x');
    assert_reads(bs, 65536, MIB - 65536, 0);
    ck_assert_int_lt(allocated(), 512 * KIB);
    ASSERT_KNOWN(bs, 65536, ZERO);
    ASSERT_KNOWN(bs, MIB - 1, ZERO);
    ck_assert_int_eq(file_length(), MIB);
}
END_TEST

START_TEST(test_zero_write_of_parts)
{
    BlockDriverState *bs = open_node("n", use_fs_and_cache(_i));

    ASSERT_WRITES(bs, 0, 65536, 'x');
    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 5000, 20000, 0), 0);
    assert_reads(bs, 0, 5000, 'x');
    assert_reads(bs, 5000, 20000, 0);
    assert_reads(bs, 25000, 40536, 'x');
    ASSERT_KNOWN(bs, 4999, DATA);
    ASSERT_KNOWN(bs, 8191, DATA);
    ASSERT_KNOWN(bs, 8192, ZERO);
    ASSERT_KNOWN(bs, 24575, ZERO);
    ASSERT_KNOWN(bs, 24576, DATA);
    ASSERT_WRITES(bs, 10000, 1, 'y');
    ASSERT_KNOWN(bs, 8192, DATA);
    ASSERT_KNOWN(bs, 12288, ZERO);
}
END_TEST

START_TEST(test_discard)
{
    g_autofree char *options =
        g_strdup_printf("%s,'discard':'unmap'", use_fs_and_cache(_i));
    BlockDriverState *bs;

    fill_file(0, MIB, 'x');
    bs = open_node("n", options);
    ck_assert_int_eq(bdrv_pdiscard(bs, 65536, MIB - 65536), 0);
    assert_reads(bs, 0, 65536, 'x');
    assert_reads(bs, 65536, MIB - 65536, 0);
    ck_assert_int_lt(allocated(), 512 * KIB);
    ck_assert_int_eq(file_length(), MIB);
    ASSERT_KNOWN(bs, 65536, ZERO);
    ASSERT_STATUS(bs, 0, MIB, DATA, 65536);
    ASSERT_STATUS(bs, 65536, MIB, ZERO, MIB - 65536);
    ck_assert_int_eq(state(bs)->discard_nb_ok, 1);
}
END_TEST

/* tmpfs knows no FALLOC_FL_ZERO_RANGE: it is asked once. */
START_TEST(test_found_out_once)
{
    BlockDriverState *bs;
    int i;

    for (i = 0; i < n_test_fs; i++) {
        bool tmpfs = !strcmp(test_fs[i].name, "tmpfs");

        use_fs(i);
        bs = open_node("n", "");
        ck_assert_int_eq(bdrv_pwrite_zeroes(bs, 0, 65536, BDRV_REQ_NO_FALLBACK),
                         0);
        if (i > 0) {
            ck_assert_int_eq(state(bs)->found,
                             tmpfs ? FILE_NO_ZERO_RANGE | FILE_ALLOCATES : 0);
        }
        ck_assert_int_ge(allocated(), 65536);
        close_node(bs);
    }
}
END_TEST

/* ---- block status ------------------------------------------------------- */

START_TEST(test_status)
{
    const char *cache = use_fs_and_cache(_i);
    BlockDriverState *bs;
    int64_t pnum;

    fill_file(65536, 65536, 'x');
    bs = open_node("n", cache);
    ASSERT_STATUS(bs, 0, MIB, ZERO, 65536);
    ASSERT_STATUS(bs, 65536, MIB - 65536, DATA, 65536);
    ASSERT_STATUS(bs, 131072, MIB - 131072, ZERO, MIB - 131072);
    ck_assert(!(status(bs, 0, MIB, &pnum) & BDRV_BLOCK_PROBED));
    ck_assert(status(bs, MIB - 1, 1, &pnum) & BDRV_BLOCK_EOF);
    ASSERT_KNOWN(bs, 0, ZERO);
    ASSERT_KNOWN(bs, 65536, DATA);
    ASSERT_KNOWN(bs, MIB - 1, ZERO);
    ASSERT_WRITES(bs, 512 * KIB, 4096, 'y');
    ASSERT_STATUS(bs, 512 * KIB, 512 * KIB, DATA, 4096);
}
END_TEST

START_TEST(test_status_modes)
{
    BlockDriverState *bs;
    int64_t pnum;
    int i;

    fill_file(65536, 65536, 'x');
    bs = open_node("n", "'status-cache':'off'");
    for (i = 0; i < 2; i++) {
        ck_assert_int_eq(status(bs, 65536, 4096, &pnum) & 0x103,
                         BDRV_BLOCK_DATA | BDRV_BLOCK_PROBED);
        ck_assert_int_eq(status(bs, 0, 4096, &pnum) & 0x103,
                         BDRV_BLOCK_ZERO | BDRV_BLOCK_PROBED);
    }
    ASSERT_WRITES(bs, 0, 4096, 'y');
    ASSERT_KNOWN(bs, 0, UNKNOWN);
    ASSERT_KNOWN(bs, 65536, UNKNOWN);
    close_node(bs);
    bs = open_node("n", "'status-cache':'data-only'");
    for (i = 0; i < 2; i++) {
        ck_assert_int_eq(status(bs, 65536, 4096, &pnum) & 0x103,
                         BDRV_BLOCK_DATA | (i ? 0 : BDRV_BLOCK_PROBED));
        ck_assert_int_eq(status(bs, 512 * KIB, 4096, &pnum) & 0x103,
                         BDRV_BLOCK_ZERO | BDRV_BLOCK_PROBED);
    }
}
END_TEST

/* Who does not want zeroes gets a rough answer, which nobody else gets. */
START_TEST(test_rough_status)
{
    BlockDriverState *bs = open_node("n", "");
    unsigned wants[] = { 0, BDRV_WANT_OFFSET_VALID };
    StatusCacheStats stats;
    BlockDriverState *file;
    int64_t pnum, map;
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(wants); i++) {
        ck_assert_int_eq(
            bdrv_block_status(bs, wants[i], 0, MIB, &pnum, &map, &file),
            BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_ALLOCATED |
                BDRV_BLOCK_EOF);
        ck_assert_int_eq(pnum, MIB);
    }
    status_cache_get_stats(state(bs)->cache, &stats);
    ck_assert_int_eq(stats.lookups, 0);
    ck_assert_int_eq(stats.probes, 0);
    ASSERT_KNOWN(bs, 0, UNKNOWN);
    ASSERT_STATUS(bs, 0, MIB, ZERO, MIB);
}
END_TEST

/* Answers end where requests may begin, whatever the cache's blocks are. */
START_TEST(test_status_alignment)
{
    const char *cache = use_fs_and_cache(2 * _i + 1);
    g_autofree char *options =
        g_strdup_printf("%s,'status-cache-granularity':512", cache);
    BlockDriverState *bs;
    int64_t offset = 0, pnum;
    int32_t align;
    StatusOp op;

    bs = open_node("n", options);
    align = bs->limits.request_alignment;
    /* zero, then data, that begin and end within 4 KiB */
    status_cache_zero_begin(state(bs)->cache, &op, 0, MIB, false);
    status_cache_zero_end(state(bs)->cache, &op, true);
    status_cache_write_begin(state(bs)->cache, &op, 512, 512);
    status_cache_write_end(state(bs)->cache, &op, true);
    status_cache_write_begin(state(bs)->cache, &op, 10240, 4096);
    status_cache_write_end(state(bs)->cache, &op, true);
    while (offset < MIB) {
        int ret = status(bs, offset, MIB - offset, &pnum);

        ck_assert_int_eq(pnum % align, 0);
        ck_assert(!(ret & BDRV_BLOCK_ZERO) ||
                  (offset + pnum <= 512 || offset >= 14336 ||
                   (offset >= 1024 && offset + pnum <= 10240)));
        offset += pnum;
    }
}
END_TEST

/* ---- failures of the file system ---------------------------------------- */

/* A write that goes only half way */
START_TEST(test_short_write)
{
    struct rlimit limit = { 131072 + 4096, RLIM_INFINITY };
    BlockDriverState *bs;

    signal(SIGXFSZ, SIG_IGN);
    make_file(0);
    ck_assert_int_eq(truncate(path, MIB), 0);
    bs = open_node("n", "");
    ASSERT_STATUS(bs, 0, MIB, ZERO, MIB);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_assert_int_eq(do_write(bs, 131072, 8192, 'x', 0), -EFBIG);
    ASSERT_KNOWN(bs, 131072, UNKNOWN);
    ASSERT_KNOWN(bs, 131072 + 8191, UNKNOWN);
    ASSERT_KNOWN(bs, 131072 - 1, ZERO);
    assert_reads(bs, 131072, 4096, 'x');
    ASSERT_STATUS(bs, 131072, MIB - 131072, DATA, 4096);
}
END_TEST

START_TEST(test_no_space)
{
    BlockDriverState *bs;
    const char *cache = use_fs_and_cache(_i);
    g_autofree char *options = g_strdup_printf("%s,'discard':'unmap'", cache);
    const int64_t size = 1024 * MIB;
    int64_t offset, pnum;
    int ret = 0;

    if (_i < 2) {
        return; /* the host's own file system is not to be filled */
    }
    ck_assert_int_eq(truncate(path, size), 0);
    bs = open_node("n", options);
    for (offset = 0; offset < size; offset += pnum) {
        ck_assert(status(bs, offset, size - offset, &pnum) & BDRV_BLOCK_ZERO);
    }
    for (offset = 0; ret == 0 && offset < size; offset += MIB) {
        ret = do_write(bs, offset, MIB, 'x', 0);
    }
    ck_assert_int_eq(ret, -ENOSPC);
    ASSERT_KNOWN(bs, offset - MIB - 1, DATA);
    ASSERT_KNOWN(bs, offset - MIB, UNKNOWN);
    ASSERT_KNOWN(bs, offset - 1, UNKNOWN);
    ASSERT_KNOWN(bs, offset, ZERO);
    ck_assert_int_eq(bdrv_pwrite_zeroes(bs, offset, 512 * MIB, 0), -ENOSPC);
    ASSERT_KNOWN(bs, offset, ZERO);
    ck_assert_int_eq(bdrv_pdiscard(bs, 0, offset), 0);
    ASSERT_WRITES(bs, 0, 4096, 'y');
    assert_reads(bs, 0, 4096, 'y');
}
END_TEST

int main(void)
{
    Suite *s = suite_create("file-posix");
    TCase *tc = tcase_create("file-posix");
    int ret, n;

    test_fs_set_up();
    n = 2 * n_test_fs;
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_not_regular);
    tcase_add_test(tc, test_filename_prefix);
    tcase_add_test(tc, test_bad_options);
    tcase_add_test(tc, test_granularity);
    tcase_add_test(tc, test_close_on_exec);
    tcase_add_test(tc, test_read_only);
    tcase_add_test(tc, test_information);
    tcase_add_loop_test(tc, test_read_write, 0, n);
    tcase_add_loop_test(tc, test_vectors, 0, n);
    tcase_add_loop_test(tc, test_unaligned_end, 0, n);
    tcase_add_loop_test(tc, test_beside_the_end, 0, n_test_fs);
    tcase_add_loop_test(tc, test_shrunk_underneath, 0, n);
    tcase_add_loop_test(tc, test_zero_writes_allocate, 0, n);
    tcase_add_loop_test(tc, test_zero_writes_unmap, 0, n);
    tcase_add_loop_test(tc, test_zero_write_of_parts, 0, n);
    tcase_add_loop_test(tc, test_discard, 0, n);
    tcase_add_test(tc, test_found_out_once);
    tcase_add_loop_test(tc, test_status, 0, n);
    tcase_add_test(tc, test_status_modes);
    tcase_add_test(tc, test_rough_status);
    tcase_add_loop_test(tc, test_status_alignment, 0, n_test_fs);
    tcase_add_test(tc, test_short_write);
    tcase_add_loop_test(tc, test_no_space, 0, n);
    suite_add_tcase(s, tc);
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
