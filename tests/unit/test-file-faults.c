/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver "file" when system calls fail, stop short, or meet other requests
 * half way. The linker puts functions of this file in place of the system calls
 * (--wrap, see meson.build), so all of that happens when and where it should.
 */
#include <glib/gstdio.h>
#include <linux/falloc.h>

#include "file-node.h"
#include "test-fs.h"
#include "unit-main.h"
#include "wrapped-calls.h"

static BlockDriverState *node;

/* What is in store for one system call */
typedef struct Fault {
    int calls;          /* so far */
    int err;            /* fail with it */
    int times;          /* this often; -1: always */
    void (*hook)(void); /* called before the system call */
} Fault;

static Fault on_write, on_read, on_sync, on_zero_range, on_punch, on_allocate,
    on_lseek, on_fstat;
static int last_write_flags, last_synced_fd;
/* Reads and writes transfer this much at most, and every second one conceals
 * some of it; 0: all */
static size_t transfer_max, transfer_hide;
static int transfers;

static bool fails(Fault *f)
{
    void (*hook)(void) = f->hook;

    f->calls++;
    if (hook) {
        /* Once: hooks make requests, too. */
        f->hook = NULL;
        hook();
    }
    if (f->err == 0 || f->times == 0) {
        return false;
    }
    f->times -= f->times > 0;
    errno = f->err;
    return true;
}

static ssize_t own_up_to(ssize_t n)
{
    bool conceal = n > (ssize_t)transfer_hide && transfers++ % 2 == 0;

    return conceal ? n - (ssize_t)transfer_hide : n;
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int niov,
                           off_t offset, int flags)
{
    struct iovec first = iov[0];

    last_write_flags = flags;
    if (fails(&on_write)) {
        return -1;
    }
    if (!transfer_max) {
        return __real_pwritev64v2(fd, iov, niov, offset, flags);
    }
    first.iov_len = MIN(first.iov_len, transfer_max);
    return own_up_to(__real_pwritev64v2(fd, &first, 1, offset, flags));
}

ssize_t __wrap_aio_pwritev(int fd, const struct iovec *iov, int niov,
                           off_t offset)
{
    return __wrap_pwritev64v2(fd, iov, niov, offset, 0);
}

ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int niov,
                          off_t offset, int flags)
{
    struct iovec first = iov[0];

    if (fails(&on_read)) {
        return -1;
    }
    if (!transfer_max) {
        return __real_preadv64v2(fd, iov, niov, offset, flags);
    }
    first.iov_len = MIN(first.iov_len, transfer_max);
    return own_up_to(__real_preadv64v2(fd, &first, 1, offset, flags));
}

int __wrap_fdatasync(int fd)
{
    last_synced_fd = fd;
    return fails(&on_sync) ? -1 : __real_fdatasync(fd);
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes)
{
    Fault *f = mode & FALLOC_FL_PUNCH_HOLE   ? &on_punch
               : mode & FALLOC_FL_ZERO_RANGE ? &on_zero_range
                                             : &on_allocate;

    return fails(f) ? -1 : __real_fallocate64(fd, mode, offset, bytes);
}

off_t __wrap_lseek64(int fd, off_t offset, int whence)
{
    return fails(&on_lseek) ? -1 : __real_lseek64(fd, offset, whence);
}

int __wrap_fstat64(int fd, struct stat *st)
{
    return fails(&on_fstat) ? -1 : __real_fstat64(fd, st);
}

/* Each test runs in a process of its own, so no fault outlives it. */
static void setup(void)
{
    path = g_strdup_printf("%s/disk", test_fs[0].dir);
    make_file(MIB);
    fill_file(0, 256 * KIB, 'x');
}

static void teardown(void)
{
    bdrv_close_all();
    g_remove(path);
    g_free(path);
}

static void learn_zeroes(void)
{
    int64_t pnum;

    ck_assert(status(node, 512 * KIB, 65536, &pnum) & BDRV_BLOCK_ZERO);
    ASSERT_KNOWN(node, 512 * KIB, ZERO);
}

/* ---- transfers ---------------------------------------------------------- */

START_TEST(test_short_transfers)
{
    /* What is hidden of a direct transfer makes it end inside a block. */
    bool direct = _i & 1;
    char *buf = aligned_alloc(4096, 36864);
    struct iovec iov[4];
    int niov = direct ? 1 : 4;
    int64_t i;

    node = open_node("n", direct ? "'cache':{'direct':true}" : "");
    transfer_max = direct ? 2 * node->limits.request_alignment : 1000;
    transfer_hide = 100;
    for (i = 0; i < niov; i++) {
        iov[i] = (struct iovec){ buf + 36864 / niov * i, 36864 / niov };
    }
    for (i = 0; i < 36864; i++) {
        buf[i] = i % 251;
    }
    ck_assert_int_eq(bdrv_pwritev(node, 4096, 36864, iov, niov, 0), 0);
    ck_assert_int_ge(on_write.calls, 4);
    memset(buf, 0, 36864);
    ck_assert_int_eq(bdrv_preadv(node, 4096, 36864, iov, niov, 0), 0);
    for (i = 0; i < 36864; i++) {
        ck_assert_int_eq(buf[i], (char)(i % 251));
    }
    transfer_max = 0;
    assert_reads(node, 0, 4096, 'x');
    assert_reads(node, 4096 + 36864, 4096, 'x');
    ASSERT_KNOWN(node, 4096, DATA);
    free(buf);
}
END_TEST

/* Not even a block: that is not to go on for ever, nor to pass for the end. */
START_TEST(test_hopeless_transfers)
{
    g_autofree char *buf = g_malloc(8192);
    struct iovec iov = { buf, 8192 };

    node = open_node("n", "'cache':{'direct':true}");
    transfer_max = node->limits.request_alignment;
    transfer_hide = 100;
    ck_assert_int_eq(bdrv_preadv(node, 0, 8192, &iov, 1, 0), -EIO);
    transfers = 0;
    ck_assert_int_eq(bdrv_pwritev(node, 0, 8192, &iov, 1, 0), -EIO);
    ASSERT_KNOWN(node, 0, UNKNOWN);
}
END_TEST

START_TEST(test_interrupted)
{
    node = open_node("n", "");
    on_write = on_read = on_sync = on_zero_range = on_punch =
        (Fault){ .err = EINTR, .times = 3 };
    ASSERT_WRITES(node, 0, 4096, 'a');
    assert_reads(node, 0, 4096, 'a');
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 4096, 4096, 0), 0);
    ck_assert_int_eq(node->drv->pdiscard(node, 8192, 4096), 0);
    ck_assert_int_eq(bdrv_flush(node), 0);
    ck_assert_int_eq(on_write.calls, 4);
    ck_assert_int_eq(on_read.calls, 4);
    ck_assert_int_eq(on_zero_range.calls, 4);
    ck_assert_int_eq(on_punch.calls, 4);
    ck_assert_int_eq(on_sync.calls, 4);
}
END_TEST

START_TEST(test_failed_requests)
{
    g_autofree char *buf = g_malloc(4096);
    struct iovec iov = { buf, 4096 };

    node = open_node("n", "'discard':'unmap'");
    learn_zeroes();
    on_read = (Fault){ .err = EIO, .times = 1 };
    ck_assert_int_eq(bdrv_preadv(node, 0, 4096, &iov, 1, 0), -EIO);
    on_write = (Fault){ .err = EBADF, .times = 1 };
    ck_assert_int_eq(do_write(node, 512 * KIB, 4096, 'a', 0), -EBADF);
    ASSERT_KNOWN(node, 512 * KIB, UNKNOWN);
    ASSERT_KNOWN(node, 516 * KIB, ZERO);
    ASSERT_WRITES(node, 0, 8192, 'a');
    on_zero_range = (Fault){ .err = EIO, .times = 1 };
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, 0), -EIO);
    ASSERT_KNOWN(node, 0, DATA);
    on_punch = (Fault){ .err = EIO, .times = 2 };
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, BDRV_REQ_MAY_UNMAP),
                     -EIO);
    ck_assert_int_eq(bdrv_pdiscard(node, 0, 4096), -EIO);
    ASSERT_KNOWN(node, 0, DATA);
    ck_assert_int_eq(state(node)->discard_nb_failed, 1);
    assert_reads(node, 0, 8192, 'a');
}
END_TEST

START_TEST(test_failed_probe)
{
    int64_t pnum, map;
    BlockDriverState *file;

    node = open_node("n", "'status-probe':'seek'");
    on_lseek = (Fault){ .err = EIO, .times = 1 };
    ck_assert_int_eq(
        bdrv_block_status(node, BDRV_WANT_PRECISE, 0, MIB, &pnum, &map, &file),
        -EIO);
    ASSERT_KNOWN(node, 0, UNKNOWN);
    ASSERT_STATUS(node, 0, MIB, DATA, 256 * KIB);
}
END_TEST

/* ---- the cache is told, before and after -------------------------------- */

static void data_is_marked(void)
{
    ASSERT_KNOWN(node, 512 * KIB, DATA);
    ASSERT_KNOWN(node, 512 * KIB + 8191, DATA);
}

START_TEST(test_write_marks_first)
{
    node = open_node("n", "");
    learn_zeroes();
    on_write.hook = data_is_marked;
    ASSERT_WRITES(node, 512 * KIB + 1000, 5000, 'a');
    ck_assert_int_eq(on_write.calls, 1);
    data_is_marked();
}
END_TEST

static void nothing_is_marked(void)
{
    ASSERT_KNOWN(node, 0, DATA);
}

START_TEST(test_zero_write_marks_last)
{
    node = open_node("n", "'discard':'unmap'");
    ASSERT_WRITES(node, 0, 8192, 'a');
    on_zero_range.hook = nothing_is_marked;
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, 0), 0);
    ASSERT_KNOWN(node, 0, ZERO);
    ASSERT_WRITES(node, 0, 4096, 'a');
    on_punch.hook = nothing_is_marked;
    ck_assert_int_eq(bdrv_pdiscard(node, 0, 4096), 0);
    ASSERT_KNOWN(node, 0, ZERO);
    ASSERT_KNOWN(node, 4096, DATA);
}
END_TEST

static void write_4k(void)
{
    ASSERT_WRITES(node, 4096, 4096, 'b');
}

/* A write that comes and goes while zeroes are written: either may be last. */
START_TEST(test_write_meets_zero_write)
{
    node = open_node("n", "'discard':'unmap'");
    on_zero_range.hook = write_4k;
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 16384, 0), 0);
    ASSERT_KNOWN(node, 0, ZERO);
    ASSERT_KNOWN(node, 4096, UNKNOWN);
    ASSERT_KNOWN(node, 8192, ZERO);
    on_punch.hook = write_4k;
    ck_assert_int_eq(bdrv_pdiscard(node, 0, 16384), 0);
    ASSERT_KNOWN(node, 0, ZERO);
    ASSERT_KNOWN(node, 4096, UNKNOWN);
}
END_TEST

static void zero_4k(void)
{
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 4096, 4096, 0), 0);
}

START_TEST(test_zero_write_meets_write)
{
    node = open_node("n", "");
    on_write.hook = zero_4k;
    ASSERT_WRITES(node, 0, 16384, 'b');
    ASSERT_KNOWN(node, 4096, UNKNOWN);
}
END_TEST

static void write_into_hole(void)
{
    ASSERT_WRITES(node, 512 * KIB, 4096, 'c');
}

START_TEST(test_write_meets_probe)
{
    int64_t pnum;

    node = open_node("n", "'status-probe':'seek','status-cache':'off'");
    on_lseek.hook = write_into_hole;
    ck_assert(status(node, 512 * KIB, 4096, &pnum) & BDRV_BLOCK_DATA);
}
END_TEST

/* ---- flushes and FUA ---------------------------------------------------- */

START_TEST(test_failed_flush)
{
    node = open_node("n", "");
    learn_zeroes();
    ASSERT_WRITES(node, 0, 4096, 'a');
    on_sync = (Fault){ .err = ENOSPC, .times = 1 };
    ck_assert_int_eq(bdrv_flush(node), -ENOSPC);
    ASSERT_KNOWN(node, 512 * KIB, UNKNOWN);
    /* The kernel would say that all is well. */
    ck_assert_int_eq(bdrv_flush(node), -EIO);
    ck_assert_int_eq(bdrv_flush(node), -EIO);
    ck_assert_int_eq(on_sync.calls, 1);
    ck_assert_int_eq(do_write(node, 0, 4096, 'b', 0), 0);
    close_node(node);
    node = open_node("n", "");
    ck_assert_int_eq(bdrv_flush(node), 0);
}
END_TEST

START_TEST(test_no_flush)
{
    node = open_node("n", "'cache':{'no-flush':true}");
    ck_assert_int_eq(do_write(node, 0, 4096, 'a', BDRV_REQ_FUA), 0);
    ck_assert_int_eq(last_write_flags, 0);
    ck_assert_int_eq(bdrv_flush(node), 0);
    close_node(node);
    node = open_node("n", "'read-only':true");
    ck_assert_int_eq(bdrv_flush(node), 0);
    close_node(node);
    ck_assert_int_eq(on_sync.calls, 0);
}
END_TEST

START_TEST(test_fua)
{
    node = open_node("n", "");
    ck_assert_int_eq(do_write(node, 0, 4096, 'a', 0), 0);
    ck_assert_int_eq(last_write_flags, 0);
    ck_assert_int_eq(do_write(node, 0, 4096, 'b', BDRV_REQ_FUA), 0);
    ck_assert_int_eq(last_write_flags, RWF_DSYNC);
    ck_assert_int_eq(on_sync.calls, 0);
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, BDRV_REQ_FUA), 0);
    ck_assert_int_eq(on_sync.calls, 1);
    /* Not the one that writes: a write with RWF_DSYNC could take the report of
     * a failed writeback from the flush. */
    ck_assert_int_eq(last_synced_fd, state(node)->sync_fd);
    ck_assert_int_ne(last_synced_fd, state(node)->fd);
}
END_TEST

START_TEST(test_fua_not_supported)
{
    node = open_node("n", "");
    on_write = (Fault){ .err = EOPNOTSUPP, .times = 1 };
    ck_assert_int_eq(do_write(node, 0, 4096, 'a', BDRV_REQ_FUA), 0);
    ck_assert_int_eq(on_write.calls, 2);
    ck_assert_int_eq(last_write_flags, 0);
    ck_assert_int_eq(on_sync.calls, 1);
    assert_reads(node, 0, 4096, 'a');
    ck_assert_int_eq(do_write(node, 0, 4096, 'b', BDRV_REQ_FUA), 0);
    ck_assert_int_eq(on_write.calls, 3);
    ck_assert_int_eq(on_sync.calls, 2);
    on_sync = (Fault){ .err = EIO, .times = 1 };
    ck_assert_int_eq(do_write(node, 0, 4096, 'b', BDRV_REQ_FUA), -EIO);
    ck_assert_int_eq(bdrv_flush(node), -EIO);
}
END_TEST

/* It may have been the writeback of other data that failed. */
START_TEST(test_fua_failed)
{
    node = open_node("n", "");
    learn_zeroes();
    on_write = (Fault){ .err = EIO, .times = 1 };
    ck_assert_int_eq(do_write(node, 0, 4096, 'a', BDRV_REQ_FUA), -EIO);
    ASSERT_KNOWN(node, 0, UNKNOWN);
    ASSERT_KNOWN(node, 512 * KIB, UNKNOWN);
}
END_TEST

/* The end of the file is written through the descriptor that flushes. */
START_TEST(test_fua_of_unaligned_end)
{
    make_file(1000);
    node = open_node("n", "'cache':{'direct':true}");
    ck_assert_int_eq(do_write(node, 0, 1000, 'a', BDRV_REQ_FUA), 0);
    ck_assert_int_eq(on_sync.calls, 1);
    on_sync = (Fault){ .err = EIO, .times = 1 };
    ck_assert_int_eq(do_write(node, 0, 1000, 'a', BDRV_REQ_FUA), -EIO);
}
END_TEST

static gpointer flush_again(gpointer opaque)
{
    return GINT_TO_POINTER(bdrv_flush(node));
}

static GThread *second_flush;

static void start_second_flush(void)
{
    second_flush = g_thread_new("flush", flush_again, NULL);
    /* It joins the queue, or comes too late: either way it needs its own. */
    g_thread_yield();
}

START_TEST(test_flush_that_comes_meanwhile)
{
    node = open_node("n", "");
    on_sync.hook = start_second_flush;
    ck_assert_int_eq(bdrv_flush(node), 0);
    ck_assert_int_eq(GPOINTER_TO_INT(g_thread_join(second_flush)), 0);
    ck_assert_int_eq(on_sync.calls, 2);
    /* Whom the failure reaches first makes no difference. */
    on_sync = (Fault){ .err = EIO, .times = 1, .hook = start_second_flush };
    ck_assert_int_eq(bdrv_flush(node), -EIO);
    ck_assert_int_eq(GPOINTER_TO_INT(g_thread_join(second_flush)), -EIO);
    ck_assert_int_eq(on_sync.calls, 1);
}
END_TEST

/* ---- ways to write zeroes ----------------------------------------------- */

START_TEST(test_no_zero_range)
{
    node = open_node("n", "");
    ASSERT_WRITES(node, 0, 16384, 'a');
    on_zero_range = (Fault){ .err = EOPNOTSUPP, .times = -1 };
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, BDRV_REQ_NO_FALLBACK),
                     0);
    ck_assert_int_eq(on_allocate.calls, 2);
    ck_assert_int_eq(on_punch.calls, 1);
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 4096, 4096, BDRV_REQ_NO_FALLBACK),
                     0);
    ck_assert_int_eq(on_zero_range.calls, 1);
    ck_assert_int_eq(on_allocate.calls, 3);
    ck_assert_int_eq(on_punch.calls, 2);
    assert_reads(node, 0, 8192, 0);
    ASSERT_KNOWN(node, 4096, ZERO);
    ck_assert_int_ge(allocated(), 256 * KIB);
}
END_TEST

/* Refused because of the range, not for good */
START_TEST(test_not_this_range)
{
    node = open_node("n", "");
    on_zero_range = (Fault){ .err = EINVAL, .times = 1 };
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, 0), 0);
    ck_assert_int_eq(on_allocate.calls, 2);
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, 0), 0);
    ck_assert_int_eq(on_zero_range.calls, 2);
    ck_assert_int_eq(on_allocate.calls, 2);
}
END_TEST

/* Without any way, plain zeroes are written: these are data. */
START_TEST(test_no_way_to_zero)
{
    node = open_node("n", "'discard':'unmap'");
    on_zero_range = on_allocate = (Fault){ .err = EOPNOTSUPP, .times = -1 };
    on_punch = (Fault){ .err = EOPNOTSUPP, .times = _i ? -1 : 0 };
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, BDRV_REQ_NO_FALLBACK),
                     -ENOTSUP);
    assert_reads(node, 0, 4096, 'x');
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, 0), 0);
    assert_reads(node, 0, 4096, 0);
    assert_reads(node, 4096, 4096, 'x');
    ASSERT_KNOWN(node, 0, DATA);
    ck_assert_int_eq(on_zero_range.calls, 1);
    ck_assert_int_eq(on_allocate.calls, 1);
    /* A discard is advice: what cannot be done is no failure. */
    ck_assert_int_eq(bdrv_pdiscard(node, 4096, 4096), 0);
    ck_assert_int_eq(bdrv_pdiscard(node, 4096, 4096), 0);
    ck_assert_int_eq(on_punch.calls, _i ? 1 : 2);
    ck_assert_int_eq(known(node, 4096),
                     _i ? BLOCK_STATE_UNKNOWN : BLOCK_STATE_ZERO);
    assert_reads(node, 4096, 4096, _i ? 'x' : 0);
    ck_assert_int_eq(state(node)->discard_nb_failed, _i ? 2 : 0);
}
END_TEST

START_TEST(test_no_punch_hole)
{
    node = open_node("n", "'discard':'unmap'");
    on_punch = (Fault){ .err = EOPNOTSUPP, .times = -1 };
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 4096, BDRV_REQ_MAY_UNMAP), 0);
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 4096, 4096, BDRV_REQ_MAY_UNMAP),
                     0);
    ck_assert_int_eq(on_punch.calls, 1);
    ck_assert_int_eq(on_zero_range.calls, 2);
    assert_reads(node, 0, 8192, 0);
}
END_TEST

/* ---- creation ----------------------------------------------------------- */

/* What was allocated until the space ran out is given back. */
START_TEST(test_create_without_space)
{
    g_autoptr(JsonObject) options = json_object_new();
    g_autoptr(GError) err = NULL;
    g_autofree char *message = g_strdup_printf(
        "Could not preallocate 1048576 bytes for '%s': No space left on device",
        path);

    json_object_set_string_member(options, "filename", path);
    json_object_set_int_member(options, "size", MIB);
    json_object_set_string_member(options, "preallocation", "falloc");
    on_allocate = (Fault){ .err = ENOSPC, .times = 1 };
    ck_assert_int_eq(bdrv_find_driver("file")->create(options, NULL, &err),
                     -ENOSPC);
    ck_assert_str_eq(err->message, message);
    ck_assert_int_eq(file_length(), 0);
    ck_assert_int_eq(bdrv_find_driver("file")->create(options, NULL, NULL), 0);
    ck_assert_int_eq(file_length(), MIB);
}
END_TEST

/* ---- files that grow ---------------------------------------------------- */

static BlockBackend *blk;

static void open_growing(const char *options)
{
    node = open_node("n", options);
    blk =
        blk_new("test", false, BLK_PERM_WRITE | BLK_PERM_RESIZE, BLK_PERM_ALL);
    bdrv_graph_lock();
    ck_assert(blk_attach(blk, node, NULL));
    bdrv_graph_unlock();
}

static void close_growing(void)
{
    bdrv_graph_lock();
    blk_free(blk);
    bdrv_graph_unlock();
}

/* A write far beyond the end is under way. */
static void write_less_far(void)
{
    ck_assert_int_eq(bdrv_getlength(node), MIB);
    ASSERT_KNOWN(node, 4 * MIB, DATA);
    ASSERT_WRITES(node, 2 * MIB, 4096, 'a');
    ck_assert_int_eq(bdrv_getlength(node), 2 * MIB + 4096);
    ASSERT_KNOWN(node, 2 * MIB, DATA);
    ASSERT_KNOWN(node, 4 * MIB, DATA);
    assert_reads(node, MIB, MIB, 0);
}

START_TEST(test_writes_beyond_in_flight)
{
    int64_t pnum;

    open_growing("");
    on_write.hook = write_less_far;
    ASSERT_WRITES(node, 4 * MIB, 4096, 'b');
    ck_assert_int_eq(bdrv_getlength(node), 4 * MIB + 4096);
    ASSERT_KNOWN(node, 4 * MIB, DATA);
    assert_reads(node, 2 * MIB, 4096, 'a');
    assert_reads(node, 2 * MIB + 4096, 2 * MIB - 4096, 0);
    assert_reads(node, 4 * MIB, 4096, 'b');

    /* One that fails leaves the end where it was, and zeroes before it. */
    on_write = (Fault){ .err = EDOM, .times = 1 };
    ck_assert_int_eq(do_write(node, 8 * MIB, 4096, 'c', 0), -EDOM);
    ck_assert_int_eq(bdrv_getlength(node), 4 * MIB + 4096);
    ASSERT_WRITES(node, 9 * MIB, 4096, 'd');
    assert_reads(node, 8 * MIB, MIB, 0);
    ck_assert(!(status(node, 9 * MIB, 4096, &pnum) & BDRV_BLOCK_ZERO));
    close_growing();
}
END_TEST

static void write_on(void)
{
    ASSERT_WRITES(node, 1000, 100, 'y');
}

/* What was read up to the end is whole, though the end is elsewhere by now. */
START_TEST(test_grown_behind_a_read)
{
    make_file(1000);
    fill_file(0, 1000, 'x');
    open_growing("'cache':{'direct':true}");
    on_fstat.hook = write_on;
    on_fstat.calls = 0;
    assert_reads(node, 0, 1000, 'x');
    ck_assert_int_gt(on_fstat.calls, 0);
    ck_assert_int_eq(bdrv_getlength(node), 1100);
    assert_reads(node, 1000, 100, 'y');
    close_growing();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("file-faults");
    TCase *tc = tcase_create("file-faults");
    int ret;

    test_fs_set_up_plain();
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, test_short_transfers, 0, 2);
    tcase_add_test(tc, test_hopeless_transfers);
    tcase_add_test(tc, test_interrupted);
    tcase_add_test(tc, test_failed_requests);
    tcase_add_test(tc, test_failed_probe);
    tcase_add_test(tc, test_write_marks_first);
    tcase_add_test(tc, test_zero_write_marks_last);
    tcase_add_test(tc, test_write_meets_zero_write);
    tcase_add_test(tc, test_zero_write_meets_write);
    tcase_add_test(tc, test_write_meets_probe);
    tcase_add_test(tc, test_failed_flush);
    tcase_add_test(tc, test_no_flush);
    tcase_add_test(tc, test_fua);
    tcase_add_test(tc, test_fua_not_supported);
    tcase_add_test(tc, test_fua_failed);
    tcase_add_test(tc, test_fua_of_unaligned_end);
    tcase_add_test(tc, test_flush_that_comes_meanwhile);
    tcase_add_test(tc, test_no_zero_range);
    tcase_add_test(tc, test_not_this_range);
    tcase_add_loop_test(tc, test_no_way_to_zero, 0, 2);
    tcase_add_test(tc, test_no_punch_hole);
    tcase_add_test(tc, test_create_without_space);
    tcase_add_test(tc, test_writes_beyond_in_flight);
    tcase_add_test(tc, test_grown_behind_a_read);
    suite_add_tcase(s, tc);
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
