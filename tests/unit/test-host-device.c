/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver "host_device" (block/host-device.c): where it differs from "file".
 * On loop devices, for root. The linker puts functions of this file in place of
 * ioctl() and fallocate(), so that they fail, or meet others, when they should.
 */
#include <glib/gstdio.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "file-node.h"
#include "loop-device.h"
#include "test-fs.h"
#include "unit-main.h"
#include "wrapped-calls.h"

static char *file; /* behind the device */
static LoopDevice *loop;
static BlockDriverState *node;

/* What is in store for one system call */
typedef struct Fault {
    int calls;          /* so far */
    int err;            /* fail with it, always */
    void (*hook)(void); /* called once, before the system call */
} Fault;

static Fault on_zeroout, on_discard, on_punch, on_sync_range;

static bool fails(Fault *f)
{
    void (*hook)(void) = f->hook;

    f->calls++;
    if (hook) {
        f->hook = NULL;
        hook();
    }
    errno = f->err;
    return f->err;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    g_assert(request != BLKSECDISCARD);
    if ((request == BLKZEROOUT && fails(&on_zeroout)) ||
        (request == BLKDISCARD && fails(&on_discard))) {
        return -1;
    }
    return __real_ioctl(fd, request, arg);
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes)
{
    g_assert(mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE));
    return fails(&on_punch) ? -1 : __real_fallocate64(fd, mode, offset, bytes);
}

int __wrap_sync_file_range(int fd, off_t offset, off_t bytes, unsigned flags)
{
    return fails(&on_sync_range)
               ? -1
               : __real_sync_file_range(fd, offset, bytes, flags);
}

/* Each test runs in a process of its own, so no fault outlives it. */
static void setup_file(int64_t length)
{
    g_free(path);
    path = file;
    make_file(length);
    path = NULL;
}

static void use_device(const LoopDeviceOptions *options)
{
    if (loop) {
        loop_device_free(loop);
    }
    loop = loop_device_new(file, options);
    g_free(path);
    path = g_strdup(loop->node);
}

static void setup(void)
{
    node_driver = "host_device";
    file = g_strdup_printf("%s/disk", test_fs[0].dir);
    setup_file(MIB);
    use_device(NULL);
}

static void teardown(void)
{
    bdrv_close_all();
    if (loop) {
        loop_device_free(loop);
        loop = NULL;
    }
    g_remove(file);
    g_clear_pointer(&file, g_free);
    g_clear_pointer(&path, g_free);
}

static StatusCacheMode mode(BlockDriverState *bs)
{
    return status_cache_get_mode(state(bs)->cache);
}

/* Bytes that the file behind the device takes */
static int64_t file_allocated(void)
{
    struct stat st;

    ck_assert_int_eq(fsync(loop->fd), 0);
    ck_assert_int_eq(stat(file, &st), 0);
    return st.st_blocks * 512;
}

/* ---- open --------------------------------------------------------------- */

static void setup_no_device(void)
{
    node_driver = "host_device";
    file = g_strdup_printf("%s/disk", test_fs[0].dir);
    setup_file(MIB);
    path = g_strdup(file);
}

START_TEST(test_not_a_device)
{
    ASSERT_OPEN_FAILS("", "'host_device' driver requires '");
    ASSERT_OPEN_FAILS("", "to be a block device, but it is a regular file");
    g_free(path);
    path = g_strdup("/dev/null");
    ASSERT_OPEN_FAILS("", "'/dev/null' to be a block device, but it is a "
                          "character device");
    g_free(path);
    path = g_strdup("/dev/no-such-device");
    ASSERT_OPEN_FAILS("", "Could not open '/dev/no-such-device': No such file");
}
END_TEST

START_TEST(test_not_a_file)
{
    node_driver = "file";
    ASSERT_OPEN_FAILS("", "to be a regular file, but it is a block device");
}
END_TEST

START_TEST(test_options)
{
    ASSERT_OPEN_FAILS("'status-probe':'seek'", "'status-probe' is unexpected");
    ASSERT_OPEN_FAILS("'aio':'native'", "requires cache.direct=on");
    ASSERT_OPEN_FAILS("'status-cache-granularity':1000", "not 1000");
    node = open_node("n", "'status-cache-granularity':512");
    ck_assert_int_eq(status_cache_granularity(state(node)->cache), 512);
}
END_TEST

START_TEST(test_information)
{
    g_autoptr(JsonObject) image = json_object_new();
    g_autoptr(JsonObject) stats = NULL;
    JsonObject *specific;

    node = open_node("n", "'discard':'unmap'");
    ck_assert_int_eq(status_cache_granularity(state(node)->cache), 4096);
    ck_assert_int_eq(mode(node), STATUS_CACHE_ON);
    node->drv->get_info(node, image);
    ck_assert_str_eq(json_object_get_string_member(image, "filename"),
                     loop->node);
    specific = json_object_get_object_member(image, "format-specific");
    ck_assert_str_eq(json_object_get_string_member(specific, "type"),
                     "host_device");
    ck_assert_int_eq(bdrv_pdiscard(node, 0, 65536), 0);
    stats = node->drv->get_specific_stats(node);
    ck_assert_str_eq(json_object_get_string_member(stats, "driver"),
                     "host_device");
    ck_assert_int_eq(json_object_get_int_member(stats, "discard-bytes-ok"),
                     65536);
}
END_TEST

/* Not all sizes can be had of logical blocks of 4 KiB. */
START_TEST(test_size)
{
    static const int64_t lengths[] = { 0, 512, 4096, 69632 + 512, MIB };
    const LoopDeviceOptions options = { .block_size = _i & 1 ? 4096 : 512 };
    int64_t length = lengths[_i / 2], expected = length;

    setup_file(length);
    use_device(&options);
    node = open_node("n", "'cache':{'direct':true}");
    expected -= length % options.block_size;
    ck_assert_int_eq(bdrv_getlength(node), expected);
    ck_assert_int_eq(node->limits.request_alignment, options.block_size);
    if (expected) {
        ASSERT_WRITES(node, expected - 1, 1, 'x');
        assert_reads(node, expected - 1, 1, 'x');
        ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, expected, 0), 0);
        assert_reads(node, 0, expected, 0);
    }
    ck_assert_int_eq(bdrv_flush(node), 0);
}
END_TEST

static int resize(int64_t length, GError **errp)
{
    int ret;

    bdrv_graph_lock();
    ret = bdrv_resize(node, length, errp);
    bdrv_graph_unlock();
    return ret;
}

/* It is not the node that makes a device longer, but the node that learns. */
START_TEST(test_resize)
{
    g_autoptr(GError) err = NULL;

    node = open_node("n", _i ? "'cache':{'direct':true}" : "");
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, MIB, 0), 0);
    ck_assert_int_eq(resize(MIB + 512, &err), -EINVAL);
    ck_assert_str_eq(err->message, "Cannot grow device files");
    ck_assert_int_eq(resize(512, NULL), 0);
    ck_assert_int_eq(bdrv_getlength(node), MIB);
    ASSERT_KNOWN(node, MIB - 4096, ZERO);

    ck_assert_int_eq(truncate(file, 2 * MIB), 0);
    loop_device_resize(loop);
    ck_assert_int_eq(do_write(node, MIB, 512, 'x', 0), -ENOSPC);
    ck_assert_int_eq(resize(2 * MIB, NULL), 0);
    ck_assert_int_eq(bdrv_getlength(node), 2 * MIB);
    ASSERT_KNOWN(node, MIB - 4096, ZERO);
    ASSERT_KNOWN(node, MIB, UNKNOWN);
    ASSERT_WRITES(node, 2 * MIB - 1, 1, 'x');

    ck_assert_int_eq(truncate(file, 512 * KIB), 0);
    loop_device_resize(loop);
    ck_assert_int_eq(resize(512 * KIB, NULL), 0);
    ck_assert_int_eq(bdrv_getlength(node), 512 * KIB);
    ck_assert_int_eq(bdrv_flush(node), 0);
}
END_TEST

/* Who may resize a file makes it longer by writing; a device, nobody. */
START_TEST(test_write_beyond)
{
    BlockBackend *blk = blk_new("test", false, BLK_PERM_ALL, BLK_PERM_ALL);

    node = open_node("n", _i ? "'cache':{'direct':true}" : "");
    bdrv_graph_lock();
    ck_assert(blk_attach(blk, node, NULL));
    bdrv_graph_unlock();
    ck_assert_int_eq(do_write(node, MIB, 512, 'x', 0), -ENOSPC);
    ck_assert_int_eq(do_write(node, MIB - 4096, 8192, 'x', 0), -ENOSPC);
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, MIB - 4096, 8192, 0), -ENOSPC);
    ck_assert_int_eq(bdrv_getlength(node), MIB);
    ASSERT_WRITES(node, MIB - 4096, 4096, 'y');
    assert_reads(node, MIB - 4096, 4096, 'y');
    bdrv_graph_lock();
    blk_free(blk);
    bdrv_graph_unlock();
}
END_TEST

START_TEST(test_read_only)
{
    const LoopDeviceOptions options = { .read_only = true };
    BlockBackend *blk = blk_new("test", false, BLK_PERM_WRITE, BLK_PERM_ALL);
    g_autoptr(GError) err = NULL;

    use_device(&options);
    ASSERT_OPEN_FAILS("", "is not writable: Permission denied");
    ASSERT_OPEN_FAILS("", loop->node);
    node = open_node("n", "'auto-read-only':true");
    ck_assert(bdrv_is_read_only(node));
    assert_reads(node, 0, 4096, 0);
    bdrv_graph_lock();
    ck_assert(!blk_attach(blk, node, &err));
    ck_assert_ptr_nonnull(
        strstr(err->message, "is not writable: Permission denied"));
    blk_free(blk);
    bdrv_graph_unlock();
    open_node("m", "'read-only':true");
}
END_TEST

/* ---- requests ----------------------------------------------------------- */

/* All alignments, buffered and direct, on blocks of 512 bytes and of 4 KiB */
START_TEST(test_read_write)
{
    const LoopDeviceOptions options = { .block_size = _i & 2 ? 4096 : 512 };

    use_device(&options);
    node = open_node("n", _i & 1 ? "'cache':{'direct':true}" : "");
    ASSERT_WRITES(node, 4096, 8192, 'a');
    ASSERT_WRITES(node, 100000, 777, 'b');
    ASSERT_WRITES(node, MIB - 3, 3, 'c');
    ck_assert_int_eq(do_write(node, 5, 6, 'd', BDRV_REQ_FUA), 0);
    assert_reads(node, 0, 5, 0);
    assert_reads(node, 5, 6, 'd');
    assert_reads(node, 11, 4085, 0);
    assert_reads(node, 4096, 8192, 'a');
    assert_reads(node, 12288, 100000 - 12288, 0);
    assert_reads(node, 100000, 777, 'b');
    assert_reads(node, 100777, MIB - 3 - 100777, 0);
    assert_reads(node, MIB - 3, 3, 'c');
    ASSERT_KNOWN(node, 100000, DATA);
    ASSERT_KNOWN(node, 200000, UNKNOWN);
    ck_assert_int_eq(bdrv_flush(node), 0);
}
END_TEST

/* A device that is gone, or a part of it, has no zeroes there. */
START_TEST(test_shrunk_underneath)
{
    g_autofree char *buf = g_malloc(8192);
    struct iovec iov = { buf, 8192 };

    node = open_node("n", _i ? "'cache':{'direct':true}" : "");
    ck_assert_int_eq(truncate(file, 512 * KIB), 0);
    loop_device_resize(loop);
    assert_reads(node, 512 * KIB - 8192, 8192, 0);
    ck_assert_int_eq(bdrv_preadv(node, 512 * KIB - 4096, 8192, &iov, 1, 0),
                     -EIO);
    ck_assert_int_eq(bdrv_preadv(node, 512 * KIB, 8192, &iov, 1, 0), -EIO);
    ck_assert_int_lt(do_write(node, 512 * KIB, 8192, 'x', 0), 0);
    ASSERT_KNOWN(node, 512 * KIB, UNKNOWN);
    ck_assert_int_lt(bdrv_pwrite_zeroes(node, 512 * KIB, 8192, 0), 0);
    ASSERT_KNOWN(node, 512 * KIB, UNKNOWN);
}
END_TEST

/* ---- block status ------------------------------------------------------- */

/* Nobody is asked, and what is not known is data. */
START_TEST(test_status)
{
    StatusCacheStats stats;
    int64_t pnum;

    node = open_node("n", "");
    ASSERT_STATUS(node, 0, MIB, DATA, MIB);
    ASSERT_KNOWN(node, 0, UNKNOWN);
    ck_assert(!(status(node, 0, MIB, &pnum) & BDRV_BLOCK_PROBED));
    status_cache_get_stats(state(node)->cache, &stats);
    ck_assert_int_eq(stats.lookups, 2);
    ck_assert_int_eq(stats.misses, 2);
    ck_assert_int_eq(stats.hits, 0);
    ck_assert_int_eq(stats.probes, 0);
    ck_assert_int_eq(stats.bytes_unknown, MIB);
    ck_assert_int_eq(stats.bytes_data, 0);

    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 65536, 65536, 0), 0);
    ASSERT_WRITES(node, 131072, 4096, 'x');
    ASSERT_STATUS(node, 0, MIB, DATA, 65536);
    ASSERT_STATUS(node, 65536, MIB - 65536, ZERO, 65536);
    ASSERT_STATUS(node, 131072, MIB - 131072, DATA, 4096);
    ck_assert(status(node, MIB - 1, 1, &pnum) & BDRV_BLOCK_EOF);
    status_cache_get_stats(state(node)->cache, &stats);
    ck_assert_int_eq(stats.hits, 2);
    ck_assert_int_eq(stats.misses, 4);
}
END_TEST

/* ---- zero-writes -------------------------------------------------------- */

/* With discard=unmap those that may give the space back; else nobody does. */
START_TEST(test_zero_write)
{
    bool unmap = _i & 1, may = _i & 2, direct = _i & 4;
    g_autofree char *options =
        g_strdup_printf("'discard':'%s','cache':{'direct':%s}",
                        unmap ? "unmap" : "ignore", direct ? "true" : "false");

    node = open_node("n", options);
    ASSERT_WRITES(node, 0, MIB, 'x');
    ck_assert_int_ge(file_allocated(), MIB);
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 65536, 512 * KIB,
                                        may ? BDRV_REQ_MAY_UNMAP : 0),
                     0);
    assert_reads(node, 0, 65536, 'x');
    assert_reads(node, 65536, 512 * KIB, 0);
    assert_reads(node, 65536 + 512 * KIB, 65536, 'x');
    ASSERT_KNOWN(node, 65535, DATA);
    ASSERT_KNOWN(node, 65536, ZERO);
    ASSERT_KNOWN(node, 65536 + 512 * KIB - 1, ZERO);
    ASSERT_KNOWN(node, 65536 + 512 * KIB, DATA);
    if (unmap && may) {
        ck_assert_int_le(file_allocated(), 600 * KIB);
    } else {
        ck_assert_int_ge(file_allocated(), MIB);
    }
    ck_assert_int_eq(on_punch.calls, unmap && may);
    ck_assert_int_eq(on_zeroout.calls, !(unmap && may));
    ck_assert_int_eq(on_discard.calls, 0);
}
END_TEST

/* What shares a page with other requests is written, not zeroed by the device. */
START_TEST(test_whole_pages)
{
    node = open_node("n", "'status-cache-granularity':512");
    ASSERT_WRITES(node, 0, 65536, 'x');
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 512, 8192, 0), 0);
    assert_reads(node, 0, 512, 'x');
    assert_reads(node, 512, 8192, 0);
    assert_reads(node, 8704, 4096, 'x');
    ASSERT_KNOWN(node, 512, DATA);
    ASSERT_KNOWN(node, 4096, ZERO);
    ASSERT_KNOWN(node, 8191, ZERO);
    ASSERT_KNOWN(node, 8192, DATA);
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 16384 + 512, 1024, 0), 0);
    assert_reads(node, 16384 + 512, 1024, 0);
    ASSERT_KNOWN(node, 16384 + 512, DATA);
    ck_assert_int_eq(on_zeroout.calls, 1);
}
END_TEST

/* BLKZEROOUT may be slow; who wants it fast or not at all gets a hole. */
START_TEST(test_fast_zero)
{
    const int flags = BDRV_REQ_NO_FALLBACK | BDRV_REQ_MAY_UNMAP;

    node = open_node("n", "'discard':'unmap'");
    ASSERT_WRITES(node, 0, 65536, 'x');
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, BDRV_REQ_NO_FALLBACK),
                     -ENOTSUP);
    assert_reads(node, 0, 4096, 'x');
    ASSERT_KNOWN(node, 0, DATA);
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, flags), 0);
    ASSERT_KNOWN(node, 0, ZERO);
    on_punch.err = EOPNOTSUPP;
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 4096, 4096, flags), -ENOTSUP);
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, flags), -ENOTSUP);
    assert_reads(node, 4096, 4096, 'x');
    ASSERT_KNOWN(node, 0, ZERO);
    ASSERT_KNOWN(node, 4096, DATA);
    ck_assert_int_eq(on_zeroout.calls, 0);
    ck_assert_int_eq(on_punch.calls, 2);
    /* Slow will do. */
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 4096, 4096, BDRV_REQ_MAY_UNMAP),
                     0);
    ASSERT_KNOWN(node, 4096, ZERO);
    ck_assert_int_eq(on_zeroout.calls, 1);
    ck_assert_int_eq(on_punch.calls, 2);
}
END_TEST

/* Neither way: zeroes are written. Only what is never supported is not tried
 * again. */
START_TEST(test_plain_zeroes)
{
    static const struct {
        int err, calls;
    } cases[] = {
        { EOPNOTSUPP, 1 }, { ENOTTY, 1 }, { EINVAL, 2 },
        { EBUSY, 2 },      { EFBIG, 2 },
    };

    on_zeroout.err = on_punch.err = cases[_i].err;
    node = open_node("n", "'discard':'unmap'");
    ASSERT_WRITES(node, 0, 65536, 'x');
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 8192, 0), 0);
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 8192, 8192, BDRV_REQ_MAY_UNMAP),
                     0);
    assert_reads(node, 0, 16384, 0);
    ASSERT_KNOWN(node, 0, DATA);
    ASSERT_KNOWN(node, 8192, DATA);
    ck_assert_int_eq(on_zeroout.calls, cases[_i].calls);
}
END_TEST

START_TEST(test_zero_write_fails)
{
    node = open_node("n", "");
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 8192, 0), 0);
    on_zeroout.err = EIO;
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 4096, 8192, 0), -EIO);
    ASSERT_KNOWN(node, 4096, ZERO);
    ASSERT_KNOWN(node, 8192, UNKNOWN);
}
END_TEST

/* What could not be written back may be anywhere. */
START_TEST(test_write_back_fails)
{
    node = open_node("n", "");
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 8192, 0), 0);
    on_sync_range.err = EIO;
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 65536, 8192, 0), -EIO);
    ck_assert_int_eq(on_zeroout.calls, 1);
    ASSERT_KNOWN(node, 0, UNKNOWN);
    ASSERT_KNOWN(node, 65536, UNKNOWN);
}
END_TEST

/* The kernel drops cached pages before it finds out that the device cannot. */
static char in_file;

static void look_behind(void)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC);

    ck_assert_int_eq(pread(fd, &in_file, 1, 65536), 1);
    close(fd);
}

START_TEST(test_refusal_loses_nothing)
{
    Fault *fault = _i ? &on_zeroout : &on_punch;

    node = open_node("n", "'discard':'unmap'");
    ASSERT_WRITES(node, 65536, 65536, 'x');
    fault->err = EOPNOTSUPP;
    fault->hook = look_behind;
    bdrv_pwrite_zeroes(node, 65536, 65536,
                       _i ? 0 : BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK);
    ck_assert_int_eq(fault->calls, 1);
    ck_assert_int_eq(in_file, 'x');
}
END_TEST

/* Somebody has claimed the device, so pages cannot be thrown out. */
START_TEST(test_zero_write_while_claimed)
{
    int claim;

    node = open_node("n", "");
    claim = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
    ck_assert_int_ge(claim, 0);
    ASSERT_WRITES(node, 0, 65536, 'x');
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 4096, 8192, 0), 0);
    assert_reads(node, 0, 4096, 'x');
    assert_reads(node, 4096, 8192, 0);
    assert_reads(node, 12288, 4096, 'x');
    close(claim);
}
END_TEST

static void write_meanwhile(void)
{
    ASSERT_WRITES(node, 4096, 4096, 'y');
}

START_TEST(test_write_during_zero_write)
{
    node = open_node("n", "");
    on_zeroout.hook = write_meanwhile;
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 65536, 0), 0);
    ASSERT_KNOWN(node, 0, ZERO);
    ASSERT_KNOWN(node, 4096, UNKNOWN);
    ASSERT_KNOWN(node, 8192, ZERO);
    ASSERT_STATUS(node, 4096, 4096, DATA, 4096);
}
END_TEST

/* ---- discards ----------------------------------------------------------- */

static void unknown_meanwhile(void)
{
    ASSERT_KNOWN(node, 65536, UNKNOWN);
    ASSERT_STATUS(node, 65536, 65536, DATA, 65536);
}

/* Whatever is there afterwards: it is not known, even if it reads as zeroes. */
START_TEST(test_discard)
{
    node = open_node("n", _i ? "'discard':'unmap','cache':{'direct':true}"
                             : "'discard':'unmap'");
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, MIB, 0), 0);
    on_discard.hook = unknown_meanwhile;
    ck_assert_int_eq(bdrv_pdiscard(node, 65536, 65536), 0);
    ck_assert_int_eq(on_discard.calls, 1);
    ck_assert_int_eq(on_punch.calls, 0);
    ASSERT_KNOWN(node, 65535, ZERO);
    ASSERT_KNOWN(node, 65536, UNKNOWN);
    ASSERT_KNOWN(node, 131071, UNKNOWN);
    ASSERT_KNOWN(node, 131072, ZERO);
    ck_assert_int_eq(state(node)->discard_nb_ok, 1);
    /* Pieces of logical blocks are not asked for. */
    ck_assert_int_eq(bdrv_pdiscard(node, 1, 1022), 0);
    ck_assert_int_eq(bdrv_pdiscard(node, 1, 1024), 0);
    ck_assert_int_eq(on_discard.calls, 2);
}
END_TEST

static void write_and_zero_meanwhile(void)
{
    ASSERT_WRITES(node, 4096, 4096, 'y');
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 8192, 4096, 0), 0);
}

START_TEST(test_others_during_discard)
{
    node = open_node("n", "'discard':'unmap'");
    on_discard.hook = write_and_zero_meanwhile;
    ck_assert_int_eq(bdrv_pdiscard(node, 0, 65536), 0);
    ASSERT_KNOWN(node, 4096, UNKNOWN);
    ASSERT_KNOWN(node, 8192, UNKNOWN);
}
END_TEST

static void discard_meanwhile(void)
{
    ck_assert_int_eq(bdrv_pdiscard(node, 4096, 4096), 0);
}

START_TEST(test_discard_during_zero_write)
{
    node = open_node("n", "'discard':'unmap'");
    on_zeroout.hook = discard_meanwhile;
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 65536, 0), 0);
    ASSERT_KNOWN(node, 0, ZERO);
    ASSERT_KNOWN(node, 4096, UNKNOWN);
}
END_TEST

START_TEST(test_discard_ignored)
{
    node = open_node("n", "");
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 65536, 0), 0);
    ck_assert_int_eq(bdrv_pdiscard(node, 0, 65536), 0);
    ck_assert_int_eq(on_discard.calls, 0);
    ASSERT_KNOWN(node, 0, ZERO);
}
END_TEST

START_TEST(test_discard_not_supported)
{
    node = open_node("n", "'discard':'unmap'");
    on_discard.err = EOPNOTSUPP;
    ck_assert_int_eq(bdrv_pdiscard(node, 0, 65536), 0);
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 65536, 0), 0);
    ck_assert_int_eq(bdrv_pdiscard(node, 0, 65536), 0);
    ASSERT_KNOWN(node, 0, ZERO);
    ck_assert_int_eq(on_discard.calls, 1);
    ck_assert_int_eq(state(node)->discard_nb_failed, 2);
}
END_TEST

START_TEST(test_discard_fails)
{
    node = open_node("n", "'discard':'unmap'");
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 65536, 0), 0);
    on_discard.err = EIO;
    ck_assert_int_eq(bdrv_pdiscard(node, 0, 4096), -EIO);
    ASSERT_KNOWN(node, 0, UNKNOWN);
    ASSERT_KNOWN(node, 4096, ZERO);
}
END_TEST

/* ---- other names, other users ------------------------------------------- */

/* Another node in the file system, the same device: one cache */
START_TEST(test_another_name)
{
    g_autofree char *other = g_strdup_printf("%s/node", test_fs_top);
    BlockDriverState *second;
    struct stat st;

    ck_assert_int_eq(fstat(loop->fd, &st), 0);
    ck_assert_int_eq(mknod(other, S_IFBLK | 0600, st.st_rdev), 0);
    node = open_node("n", "");
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 65536, 0), 0);
    ASSERT_KNOWN(node, 0, ZERO);
    g_free(path);
    path = g_steal_pointer(&other);
    if (access(path, R_OK) < 0 && errno == EACCES) {
        g_printerr("mounted nodev: %s\n", test_fs_top);
        return;
    }
    second = open_node("m", "");
    ck_assert_ptr_eq(state(node)->cache, state(second)->cache);
    ck_assert_int_eq(mode(node), STATUS_CACHE_DATA_ONLY);
    ASSERT_KNOWN(node, 0, UNKNOWN);
    ASSERT_WRITES(second, 0, 4096, 'x');
    ASSERT_KNOWN(node, 0, DATA);
    close_node(second);
    ck_assert_int_eq(mode(node), STATUS_CACHE_ON);
}
END_TEST

static void refresh(BlockDriverState *bs)
{
    status_disk_refresh(&state(bs)->user);
}

/* The node is called like the file. */
static BlockDriverState *open_other(const char *driver, const char *filename)
{
    g_autofree char *name = g_path_get_basename(filename);
    BlockDriverState *bs;

    node_driver = driver;
    g_free(path);
    path = g_strdup(filename);
    bs = open_node(name, "");
    node_driver = "host_device";
    return bs;
}

/* A loop device and its file, in either order */
START_TEST(test_file_behind)
{
    BlockDriverState *device, *other;

    if (_i) {
        other = open_other("file", file);
        device = open_other("host_device", loop->node);
    } else {
        device = open_other("host_device", loop->node);
        ck_assert_int_eq(mode(device), STATUS_CACHE_ON);
        ck_assert_int_eq(bdrv_pwrite_zeroes(device, 0, MIB, 0), 0);
        other = open_other("file", file);
    }
    ck_assert_ptr_ne(state(device)->cache, state(other)->cache);
    ck_assert_int_eq(mode(device), STATUS_CACHE_DATA_ONLY);
    ck_assert_int_eq(mode(other), STATUS_CACHE_DATA_ONLY);
    ASSERT_KNOWN(device, 0, UNKNOWN);
    close_node(other);
    ck_assert_int_eq(mode(device), STATUS_CACHE_DATA_ONLY);
    refresh(device);
    ck_assert_int_eq(mode(device), STATUS_CACHE_ON);
    /* Nobody of ours has the device open, but somebody might. */
    close_node(device);
    other = open_other("file", file);
    ck_assert_int_eq(mode(other), STATUS_CACHE_DATA_ONLY);
}
END_TEST

START_TEST(test_partition)
{
    const LoopDeviceOptions options = { .partitions = true };
    BlockDriverState *whole, *part;
    g_autofree char *name = NULL;

    use_device(&options);
    name = loop_device_add_partition(loop, 65536, 512 * KIB);
    if (_i) {
        part = open_other("host_device", name);
        ck_assert_int_eq(mode(part), STATUS_CACHE_ON);
        ck_assert_int_eq(bdrv_getlength(part), 512 * KIB);
        whole = open_other("host_device", loop->node);
    } else {
        whole = open_other("host_device", loop->node);
        ck_assert_int_eq(mode(whole), STATUS_CACHE_ON);
        part = open_other("host_device", name);
    }
    ck_assert_int_eq(mode(whole), STATUS_CACHE_DATA_ONLY);
    ck_assert_int_eq(mode(part), STATUS_CACHE_DATA_ONLY);
    close_node(whole);
    refresh(part);
    ck_assert_int_eq(mode(part), STATUS_CACHE_ON);
    close_node(part);
    loop_device_del_partition(loop);
}
END_TEST

/* Mounted, say: whoever has claimed it does not care for locks. */
START_TEST(test_claimed)
{
    int claim = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);

    ck_assert_int_ge(claim, 0);
    node = open_node("n", "");
    ck_assert_int_eq(mode(node), STATUS_CACHE_DATA_ONLY);
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 65536, 0), 0);
    ASSERT_KNOWN(node, 0, UNKNOWN);
    close(claim);
    refresh(node);
    ck_assert_int_eq(mode(node), STATUS_CACHE_ON);
    /* Looking has left no claim. */
    claim = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
    ck_assert_int_ge(claim, 0);
    refresh(node);
    ck_assert_int_eq(mode(node), STATUS_CACHE_DATA_ONLY);
    close(claim);
}
END_TEST

START_TEST(test_locks)
{
    const uint64_t no_write = BLK_PERM_ALL & ~BLK_PERM_WRITE;
    ImageLock other;

    image_lock_init(&other, loop->fd, path, true);
    node = open_node("n", "");
    ck_assert(!image_lock_check(&other, BLK_PERM_WRITE, BLK_PERM_ALL, NULL));
    ck_assert(
        image_lock_check(&other, BLK_PERM_CONSISTENT_READ, no_write, NULL));
    image_lock_abort(&other);
    close_node(node);
    ck_assert(image_lock_check(&other, BLK_PERM_WRITE, BLK_PERM_ALL, NULL));
    image_lock_set(&other, BLK_PERM_WRITE, BLK_PERM_ALL);
    node = open_node("n", "");
    ck_assert_int_eq(mode(node), STATUS_CACHE_DATA_ONLY);
    image_lock_destroy(&other);
}
END_TEST

START_TEST(test_no_creation_behind)
{
    g_autoptr(GError) err = NULL;
    struct stat st;

    node = open_node("n", "");
    ck_assert_int_eq(stat(file, &st), 0);
    ck_assert(!status_disk_reserve(&st, file, &err));
    ck_assert_msg(strstr(err->message, "is in use by node 'n'") != NULL, "%s",
                  err->message);
    close_node(node);
    ck_assert(status_disk_reserve(&st, file, NULL));
    ASSERT_OPEN_FAILS("", "is being created");
    status_disk_release(&st);
    open_node("n", "");
}
END_TEST

static TCase *add_case(Suite *s, const char *name, SFun set_up)
{
    TCase *tc = tcase_create(name);

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, set_up, teardown);
    suite_add_tcase(s, tc);
    return tc;
}

static void add_device_tests(TCase *tc)
{
    tcase_add_test(tc, test_not_a_file);
    tcase_add_test(tc, test_options);
    tcase_add_test(tc, test_information);
    tcase_add_loop_test(tc, test_size, 0, 10);
    tcase_add_loop_test(tc, test_resize, 0, 2);
    tcase_add_loop_test(tc, test_write_beyond, 0, 2);
    tcase_add_test(tc, test_read_only);
    tcase_add_loop_test(tc, test_read_write, 0, 4);
    tcase_add_loop_test(tc, test_shrunk_underneath, 0, 2);
    tcase_add_test(tc, test_status);
    tcase_add_loop_test(tc, test_zero_write, 0, 8);
    tcase_add_test(tc, test_whole_pages);
    tcase_add_test(tc, test_fast_zero);
    tcase_add_loop_test(tc, test_plain_zeroes, 0, 5);
    tcase_add_test(tc, test_zero_write_fails);
    tcase_add_test(tc, test_write_back_fails);
    tcase_add_loop_test(tc, test_refusal_loses_nothing, 0, 2);
    tcase_add_test(tc, test_zero_write_while_claimed);
    tcase_add_test(tc, test_write_during_zero_write);
    tcase_add_loop_test(tc, test_discard, 0, 2);
    tcase_add_test(tc, test_others_during_discard);
    tcase_add_test(tc, test_discard_during_zero_write);
    tcase_add_test(tc, test_discard_ignored);
    tcase_add_test(tc, test_discard_not_supported);
    tcase_add_test(tc, test_discard_fails);
    tcase_add_test(tc, test_another_name);
    tcase_add_loop_test(tc, test_file_behind, 0, 2);
    tcase_add_loop_test(tc, test_partition, 0, 2);
    tcase_add_test(tc, test_claimed);
    tcase_add_test(tc, test_locks);
    tcase_add_test(tc, test_no_creation_behind);
}

int main(void)
{
    Suite *s = suite_create("host-device");
    TCase *tc = add_case(s, "no-device", setup_no_device);
    int ret;

    test_fs_set_up_plain();
    tcase_add_test(tc, test_not_a_device);
    if (loop_device_possible()) {
        add_device_tests(add_case(s, "device", setup));
    } else {
        g_printerr("no loop devices: tested without a block device\n");
    }
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
