/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of any alignment against drivers that take only some (block/io.c,
 * block-status.c, raw-format.c)
 */
#include <errno.h>
#include <stdlib.h>

#include "block/dirty-bitmap.h"
#include "mem-driver.h"
#include "unit-main.h"

#define ALL_BUT_NOTHING                                                        \
    (BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE)

static MemDisk *disk;
static BlockDriverState *node;
static BlockBackend *blk;

static void open_disk(const BlockDriver *drv)
{
    g_autoptr(GError) err = NULL;

    bdrv_graph_lock();
    node = mem_node_new(drv, "disk", disk);
    blk = blk_new("test", false, ALL_BUT_NOTHING, BLK_PERM_ALL);
    ck_assert_msg(blk_attach(blk, node, &err), "%s", err ? err->message : "");
    bdrv_graph_unlock();
}

static void close_disk(void)
{
    bdrv_graph_lock();
    blk_free(blk);
    bdrv_unref(node);
    bdrv_graph_unlock();
    mem_disk_free(disk);
}

/* ---- any alignment ------------------------------------------------------ */

typedef struct Picky {
    uint32_t request_alignment, mem_alignment, zeroes_alignment;
    int64_t max_transfer;
    int64_t length;
} Picky;

static const Picky picky[] = {
    { 1, 1, 0, 0, 100000 },
    { 1, 1, 0, 1000, 100000 },
    { 512, 512, 0, 0, 65536 },
    { 512, 1, 4096, 0, 65536 },
    { 4096, 4096, 0, 8192, 65536 },
    { 4096, 512, 16384, 10000, 65536 },
    { 512, 512, 0, 1024, 65536 + 100 },
    { 4096, 4096, 0, 0, 65536 + 1 },
    { 512, 4096, 0, 0, 5 << 20 },
    { 2 << 20, 512, 0, 0, 8 << 20 },
};

static void fill(GRand *rand, uint8_t *buf, int64_t bytes)
{
    int64_t i;

    for (i = 0; i < bytes; i++) {
        buf[i] = g_rand_int(rand);
    }
}

/* Cut a buffer into up to four pieces of any size, also empty ones. */
static int cut(GRand *rand, uint8_t *buf, int64_t bytes, struct iovec iov[4])
{
    int n = g_rand_int_range(rand, 1, 5);
    int64_t done = 0;
    int i;

    for (i = 0; i < n; i++) {
        int64_t piece = i == n - 1
                            ? bytes - done
                            : g_rand_int_range(rand, 0, bytes - done + 1);

        iov[i].iov_base = buf + done;
        iov[i].iov_len = piece;
        done += piece;
    }
    return n;
}

static void random_range(GRand *rand, int64_t length, int64_t *offset,
                         int64_t *bytes)
{
    int64_t a = g_rand_double_range(rand, 0, length);
    int64_t max = g_rand_boolean(rand) ? 3000 : length;

    if (g_rand_int_range(rand, 0, 4) == 0) {
        a = a / 4096 * 4096;
    }
    *offset = a;
    *bytes = g_rand_int_range(rand, 0, MIN(max, length - a) + 1);
    if (g_rand_int_range(rand, 0, 4) == 0) {
        *bytes = *bytes / 4096 * 4096;
    }
}

static void random_op(GRand *rand, uint8_t *want, uint8_t *buf)
{
    struct iovec iov[4];
    int64_t offset, bytes;
    int flags = 0;
    int niov;

    random_range(rand, disk->length, &offset, &bytes);
    flags |= g_rand_boolean(rand) ? BDRV_REQ_FUA : 0;
    switch (g_rand_int_range(rand, 0, 4)) {
    case 0:
        fill(rand, buf, bytes);
        memcpy(want + offset, buf, bytes);
        niov = cut(rand, buf, bytes, iov);
        ck_assert_int_eq(blk_pwritev(blk, offset, bytes, iov, niov, flags), 0);
        break;
    case 1:
        memset(want + offset, 0, bytes);
        ck_assert_int_eq(blk_pwrite_zeroes(blk, offset, bytes, flags), 0);
        break;
    default:
        memset(buf, 0x55, bytes);
        niov = cut(rand, buf, bytes, iov);
        ck_assert_int_eq(blk_preadv(blk, offset, bytes, iov, niov, 0), 0);
        ck_assert_mem_eq(buf, want + offset, bytes);
        break;
    }
}

START_TEST(test_any_alignment)
{
    const Picky *p = &picky[_i];
    GRand *rand = g_rand_new_with_seed(_i);
    g_autofree uint8_t *want = g_malloc0(p->length);
    g_autofree uint8_t *buf = g_malloc(p->length);
    int requests = p->length > 1024 * 1024 ? 200 : 1000;
    int i;

    disk = mem_disk_new(p->length, p->request_alignment);
    disk->limits.mem_alignment = p->mem_alignment;
    disk->limits.pwrite_zeroes_alignment = p->zeroes_alignment;
    disk->limits.max_transfer = p->max_transfer;
    open_disk(_i % 2 ? &mem_driver : &mem_fua_driver);
    for (i = 0; i < requests; i++) {
        disk->no_zeroes = i % 3 == 0;
        disk->zero_max = i % 3 == 1 ? 16384 : 0;
        random_op(rand, want, buf);
    }
    ck_assert_mem_eq(disk->data, want, p->length);
    close_disk();
    g_rand_free(rand);
}
END_TEST

#define STRIPE 64
#define THREADS 6

static int yield_hook(MemDisk *d, MemOp op, int64_t offset, int64_t bytes)
{
    sched_yield();
    return 0;
}

typedef struct Striper {
    int index;
    uint8_t *want; /* shared: each writes to its own stripes only */
} Striper;

/* Every thread's bytes share blocks with all others'. */
static void *striper(void *opaque)
{
    Striper *s = opaque;
    GRand *rand = g_rand_new_with_seed(s->index);
    int i;

    for (i = 0; i < 400; i++) {
        int row = g_rand_int_range(rand, 0, disk->length / STRIPE / THREADS);
        int64_t offset = ((int64_t)row * THREADS + s->index) * STRIPE;
        uint8_t buf[STRIPE];
        int n = g_rand_int_range(rand, 1, STRIPE + 1);

        if (i % 5 == 0) {
            memset(s->want + offset, 0, n);
            ck_assert_int_eq(blk_pwrite_zeroes(blk, offset, n, 0), 0);
        } else {
            fill(rand, buf, n);
            memcpy(s->want + offset, buf, n);
            ck_assert_int_eq(blk_pwrite(blk, offset, n, buf, 0), 0);
        }
        ck_assert_int_eq(blk_pread(blk, offset, n, buf, 0), 0);
        ck_assert_mem_eq(buf, s->want + offset, n);
    }
    g_rand_free(rand);
    return NULL;
}

START_TEST(test_shared_blocks)
{
    int64_t length = 4096 * 3;
    g_autofree uint8_t *want = g_malloc0(length);
    pthread_t threads[THREADS];
    Striper s[THREADS];
    int i;

    disk = mem_disk_new(length, _i ? 4096 : 512);
    disk->hook = yield_hook;
    open_disk(&mem_driver);
    for (i = 0; i < THREADS; i++) {
        s[i] = (Striper){ .index = i, .want = want };
        pthread_create(&threads[i], NULL, striper, &s[i]);
    }
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    ck_assert_mem_eq(disk->data, want, length);
    close_disk();
}
END_TEST

/*
 * A write of a whole block comes while another one has read that block and not
 * yet written it back: it must not reach the disk before that.
 */
static pthread_t rmw_thread;
static int rmw_over, other_write; /* atomic */
static void *(*intruder)(void *opaque);
static pthread_t intruder_thread;

static void *write_block(void *opaque)
{
    uint8_t buf[512];

    memset(buf, 2, sizeof(buf));
    return GINT_TO_POINTER(blk_pwrite(blk, 0, 512, buf, 0));
}

static void *zero_block(void *opaque)
{
    return GINT_TO_POINTER(blk_pwrite_zeroes(blk, 0, 512, 0));
}

static void *discard_block(void *opaque)
{
    return GINT_TO_POINTER(blk_pdiscard(blk, 0, 512));
}

static int rmw_hook(MemDisk *d, MemOp op, int64_t offset, int64_t bytes)
{
    int i;

    if (!pthread_equal(pthread_self(), rmw_thread)) {
        g_atomic_int_set(&other_write, 1);
        ck_assert_int_eq(g_atomic_int_get(&rmw_over), 1);
    } else if (op == MEM_READ) {
        pthread_create(&intruder_thread, NULL, intruder, NULL);
        /* Its chance, if it does not wait for us */
        for (i = 0; i < 2000 && !g_atomic_int_get(&other_write); i++) {
            sched_yield();
        }
    } else if (op == MEM_WRITE) {
        g_atomic_int_set(&rmw_over, 1);
    }
    return 0;
}

START_TEST(test_whole_block_waits)
{
    static void *(*const intruders[])(void *) = { write_block, zero_block,
                                                  discard_block };
    static const int want[] = { 2, 0, MEM_DISCARDED };
    void *ret;

    disk = mem_disk_new(4096, 512);
    disk->hook = rmw_hook;
    open_disk(&mem_driver);
    rmw_thread = pthread_self();
    intruder = intruders[_i];
    ck_assert_int_eq(blk_pwrite(blk, 100, 1, "x", 0), 0);
    pthread_join(intruder_thread, &ret);
    ck_assert_int_eq(GPOINTER_TO_INT(ret), 0);
    ck_assert_int_eq(disk->data[0], want[_i]);
    ck_assert_int_eq(disk->data[100], want[_i]);
    disk->hook = NULL;
    close_disk();
}
END_TEST

/* ---- ranges ------------------------------------------------------------- */

START_TEST(test_ranges)
{
    uint8_t buf[16];
    int64_t pnum;

    disk = mem_disk_new(1000, 1);
    open_disk(&mem_driver);
    ck_assert_int_eq(blk_pread(blk, 990, 10, buf, 0), 0);
    ck_assert_int_eq(blk_pread(blk, 1000, 0, buf, 0), 0);
    ck_assert_int_eq(blk_pread(blk, 991, 10, buf, 0), -EIO);
    ck_assert_int_eq(blk_pread(blk, 1001, 0, buf, 0), -EIO);
    ck_assert_int_eq(blk_pread(blk, INT64_MAX, 1, buf, 0), -EIO);
    ck_assert_int_eq(blk_pread(blk, -1, 1, buf, 0), -EINVAL);
    ck_assert_int_eq(blk_pread(blk, 0, -1, buf, 0), -EINVAL);
    ck_assert_int_eq(blk_pread(blk, 0, BDRV_REQUEST_MAX_BYTES + 1, buf, 0),
                     -EINVAL);
    ck_assert_int_eq(blk_pwrite(blk, 991, 10, buf, 0), -EIO);
    ck_assert_int_eq(blk_pwrite(blk, -1, 1, buf, 0), -EINVAL);
    ck_assert_int_eq(blk_pwrite(blk, 0, BDRV_REQUEST_MAX_BYTES + 1, buf, 0),
                     -EINVAL);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 0, INT64_MAX, 0), -EIO);
    ck_assert_int_eq(blk_pdiscard(blk, 1, 1000), -EIO);
    ck_assert_int_eq(blk_block_status(blk, 1001, 1, BDRV_WANT_ZERO, &pnum),
                     -EIO);
    ck_assert_int_eq(mem_count(disk, MEM_WRITE), 0);
    ck_assert_int_eq(mem_count(disk, MEM_ZERO), 0);
    close_disk();

    bdrv_graph_lock();
    blk = blk_new("nobody", false, ALL_BUT_NOTHING, BLK_PERM_ALL);
    ck_assert_int_eq(blk_pread(blk, 0, 1, buf, 0), -ENOMEDIUM);
    ck_assert_int_eq(blk_flush(blk), -ENOMEDIUM);
    ck_assert_int_eq(blk_getlength(blk), -ENOMEDIUM);
    blk_free(blk);
    bdrv_graph_unlock();
}
END_TEST

/* ---- FUA and flush ------------------------------------------------------ */

START_TEST(test_fua)
{
    bool native = _i;
    uint8_t buf[512] = { 1 };

    disk = mem_disk_new(65536, 512);
    open_disk(native ? &mem_fua_driver : &mem_driver);
    ck_assert_int_eq(blk_pwrite(blk, 0, 512, buf, 0), 0);
    ck_assert_int_eq(mem_count(disk, MEM_FLUSH), 0);
    ck_assert_int_eq(disk->flags[MEM_WRITE], 0);
    ck_assert_int_eq(blk_pwrite(blk, 0, 512, buf, BDRV_REQ_FUA), 0);
    ck_assert_int_eq(disk->flags[MEM_WRITE], native ? BDRV_REQ_FUA : 0);
    ck_assert_int_eq(mem_count(disk, MEM_FLUSH), native ? 0 : 1);
    ck_assert_int_eq(blk_pwrite(blk, 5, 7, buf, BDRV_REQ_FUA), 0);
    ck_assert_int_eq(disk->flags[MEM_WRITE], native ? BDRV_REQ_FUA : 0);
    ck_assert_int_eq(mem_count(disk, MEM_FLUSH), native ? 0 : 2);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 512, 512, BDRV_REQ_FUA), 0);
    ck_assert_int_eq(mem_count(disk, MEM_FLUSH), native ? 0 : 3);

    node->cache_no_flush = true;
    ck_assert_int_eq(blk_pwrite(blk, 0, 512, buf, BDRV_REQ_FUA), 0);
    ck_assert_int_eq(disk->flags[MEM_WRITE], 0);
    ck_assert_int_eq(blk_flush(blk), 0);
    ck_assert_int_eq(mem_count(disk, MEM_FLUSH), native ? 0 : 3);
    close_disk();
}
END_TEST

/* ---- requests that fail ------------------------------------------------- */

static MemOp fail_op;

static int fail_hook(MemDisk *d, MemOp op, int64_t offset, int64_t bytes)
{
    return op == fail_op ? -EDOM : 0;
}

/* ---- zero-writes -------------------------------------------------------- */

START_TEST(test_zero_fallback)
{
    disk = mem_disk_new(4 << 20, 512);
    disk->no_zeroes = true;
    memset(disk->data, 1, disk->length);
    open_disk(&mem_driver);

    ck_assert_int_eq(blk_pwrite_zeroes(blk, 100, 2000, BDRV_REQ_NO_FALLBACK),
                     -ENOTSUP);
    ck_assert_int_eq(mem_count(disk, MEM_WRITE), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 10, 100, BDRV_REQ_NO_FALLBACK),
                     -ENOTSUP);
    ck_assert_int_eq(disk->data[10], 1);

    ck_assert_int_eq(blk_pwrite_zeroes(blk, 512, (3 << 20) + 512, 0), 0);
    ck_assert_int_eq(disk->data[511], 1);
    ck_assert_int_eq(disk->data[512], 0);
    ck_assert_int_eq(disk->data[(3 << 20) + 1023], 0);
    ck_assert_int_eq(disk->data[(3 << 20) + 1024], 1);

    disk->no_zeroes = false;
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 100, 2000, BDRV_REQ_NO_FALLBACK),
                     0);
    ck_assert_int_eq(disk->data[99], 1);
    ck_assert_int_eq(disk->data[100], 0);
    close_disk();
}
END_TEST

START_TEST(test_may_unmap)
{
    disk = mem_disk_new(65536, 1);
    open_disk(&mem_driver);
    ck_assert(node->discard_unmap);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 0, 512, BDRV_REQ_MAY_UNMAP), 0);
    ck_assert_int_eq(disk->flags[MEM_ZERO], BDRV_REQ_MAY_UNMAP);
    node->discard_unmap = false;
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 0, 512, BDRV_REQ_MAY_UNMAP), 0);
    ck_assert_int_eq(disk->flags[MEM_ZERO], 0);
    close_disk();
}
END_TEST

START_TEST(test_detect_zeroes)
{
    static const uint8_t zeroes[4096];
    uint8_t data[4096] = { 0 };

    data[4000] = 1;
    disk = mem_disk_new(65536, 512);
    memset(disk->data, 1, disk->length);
    open_disk(&mem_fua_driver);
    ck_assert_int_eq(blk_pwrite(blk, 0, 4096, zeroes, 0), 0);
    ck_assert_int_eq(mem_count(disk, MEM_ZERO), 0);
    ck_assert_int_eq(mem_count(disk, MEM_WRITE), 1);

    node->detect_zeroes = BDRV_DETECT_ZEROES_ON;
    ck_assert_int_eq(blk_pwrite(blk, 8192, 4096, zeroes, BDRV_REQ_FUA), 0);
    ck_assert_int_eq(mem_count(disk, MEM_ZERO), 1);
    ck_assert_int_eq(mem_count(disk, MEM_WRITE), 1);
    ck_assert_int_eq(disk->flags[MEM_ZERO] & ~BDRV_REQ_NO_FALLBACK,
                     BDRV_REQ_FUA);
    ck_assert(buffer_is_zero(disk->data + 8192, 4096));
    ck_assert_int_eq(disk->data[8191], 1);
    ck_assert_int_eq(disk->data[8192 + 4096], 1);

    node->detect_zeroes = BDRV_DETECT_ZEROES_UNMAP;
    ck_assert_int_eq(blk_pwrite(blk, 16384, 4096, zeroes, 0), 0);
    ck_assert_int_eq(mem_count(disk, MEM_ZERO), 2);
    ck_assert_int_eq(disk->flags[MEM_ZERO] & ~BDRV_REQ_NO_FALLBACK,
                     BDRV_REQ_MAY_UNMAP);

    /* Data, and nothing at all, stay what they are. */
    ck_assert_int_eq(blk_pwrite(blk, 0, 4096, data, 0), 0);
    ck_assert_int_eq(blk_pwrite(blk, 0, 0, zeroes, 0), 0);
    ck_assert_int_eq(mem_count(disk, MEM_ZERO), 2);
    ck_assert_mem_eq(disk->data, data, 4096);

    /* Blocks that are written in part keep the rest. */
    ck_assert_int_eq(blk_pwrite(blk, 30000, 4096, zeroes, 0), 0);
    ck_assert_int_eq(mem_count(disk, MEM_ZERO), 3);
    ck_assert_int_eq(disk->data[29999], 1);
    ck_assert(buffer_is_zero(disk->data + 30000, 4096));
    ck_assert_int_eq(disk->data[34096], 1);
    ck_assert_int_eq(blk_pwrite(blk, 40000, 100, zeroes, 0), 0);
    ck_assert_int_eq(mem_count(disk, MEM_ZERO), 3);
    ck_assert_int_eq(disk->data[39999], 1);
    ck_assert(buffer_is_zero(disk->data + 40000, 100));
    ck_assert_int_eq(disk->data[40100], 1);

    /* What the driver cannot zero is written. */
    disk->no_zeroes = true;
    ck_assert_int_eq(blk_pwrite(blk, 50000, 4096, zeroes, BDRV_REQ_FUA), 0);
    ck_assert_int_eq(disk->flags[MEM_WRITE], BDRV_REQ_FUA);
    ck_assert_int_eq(disk->data[49999], 1);
    ck_assert(buffer_is_zero(disk->data + 50000, 4096));
    ck_assert_int_eq(disk->data[54096], 1);

    /* Errors are not taken for that. */
    disk->hook = fail_hook;
    fail_op = MEM_ZERO;
    ck_assert_int_eq(blk_pwrite(blk, 0, 4096, zeroes, 0), -EDOM);
    disk->hook = NULL;
    close_disk();
}
END_TEST

START_TEST(test_detected_zeroes_do_not_grow)
{
    static const uint8_t zeroes[512];
    struct iovec iov = { .iov_base = (void *)zeroes, .iov_len = 512 };

    disk = mem_disk_new(65000, 512);
    open_disk(&mem_driver);
    node->detect_zeroes = BDRV_DETECT_ZEROES_ON;
    ck_assert_int_eq(bdrv_pwritev(node, 64512, 512, &iov, 1, 0), 0);
    ck_assert_int_eq(mem_count(disk, MEM_ZERO), 0);
    ck_assert_int_eq(mem_count(disk, MEM_WRITE), 1);
    close_disk();
}
END_TEST

/* ---- discards ----------------------------------------------------------- */

START_TEST(test_discard)
{
    disk = mem_disk_new(65536, 512);
    disk->limits.pdiscard_alignment = 4096;
    open_disk(&mem_driver);

    ck_assert_int_eq(blk_pdiscard(blk, 4095, 8194), 0);
    ck_assert_int_eq(mem_count(disk, MEM_DISCARD), 1);
    ck_assert_int_eq(disk->data[4095], 0);
    ck_assert_int_eq(disk->data[4096], MEM_DISCARDED);
    ck_assert_int_eq(disk->data[12287], MEM_DISCARDED);
    ck_assert_int_eq(disk->data[12288], 0);
    ck_assert_int_eq(blk_pdiscard(blk, 4097, 8190), 0);
    ck_assert_int_eq(mem_count(disk, MEM_DISCARD), 1);
    ck_assert_int_eq(blk_pdiscard(blk, 0, 0), 0);

    disk->no_discard = true;
    ck_assert_int_eq(blk_pdiscard(blk, 0, 65536), 0);
    ck_assert_int_eq(mem_count(disk, MEM_DISCARD), 2);
    node->discard_unmap = false;
    ck_assert_int_eq(blk_pdiscard(blk, 0, 65536), 0);
    ck_assert_int_eq(mem_count(disk, MEM_DISCARD), 2);
    close_disk();
}
END_TEST

/* Split into pieces that keep to multiples of the largest request */
static int64_t largest;

static int note_largest(MemDisk *d, MemOp op, int64_t offset, int64_t bytes)
{
    largest = MAX(largest, bytes);
    return -ENOTSUP + (op == MEM_FLUSH ? ENOTSUP : 0);
}

START_TEST(test_large_requests)
{
    int64_t length = INT64_C(5) << 30;

    disk = mem_disk_new(4096, 1);
    disk->length = length; /* of which there is no data */
    disk->hook = note_largest;
    open_disk(&mem_driver);
    ck_assert_int_eq(blk_pdiscard(blk, 1, length - 1), 0);
    ck_assert_int_eq(mem_count(disk, MEM_DISCARD), 5);
    ck_assert_int_le(largest, BDRV_REQUEST_MAX_BYTES);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 0, length, BDRV_REQ_NO_FALLBACK),
                     -ENOTSUP);
    ck_assert_int_eq(mem_count(disk, MEM_ZERO), 1);
    ck_assert_int_eq(largest, BDRV_REQUEST_MAX_BYTES);
    close_disk();
}
END_TEST

/* ---- errors ------------------------------------------------------------- */

START_TEST(test_errors)
{
    uint8_t buf[1024] = { 0 };
    BdrvDirtyBitmap *bitmap;
    BlockStats stats;
    int64_t pnum;

    disk = mem_disk_new(65536, 512);
    disk->hook = fail_hook;
    open_disk(&mem_driver);
    bitmap = bdrv_create_dirty_bitmap(node, 512, NULL, NULL);

    fail_op = MEM_READ;
    ck_assert_int_eq(blk_pread(blk, 0, 512, buf, 0), -EDOM);
    ck_assert_int_eq(blk_pread(blk, 1, 512, buf, 0), -EDOM);
    ck_assert_int_eq(blk_pwrite(blk, 1, 10, buf, 0), -EDOM);
    ck_assert_int_eq(mem_count(disk, MEM_WRITE), 0);

    fail_op = MEM_WRITE;
    bdrv_reset_dirty_bitmap(bitmap, 0, 65536);
    ck_assert_int_eq(blk_pwrite(blk, 600, 600, buf, 0), -EDOM);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 1024);
    fail_op = MEM_ZERO;
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 2048, 512, 0), -EDOM);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 1536);
    fail_op = MEM_DISCARD;
    ck_assert_int_eq(blk_pdiscard(blk, 4096, 512), -EDOM);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 2048);
    fail_op = MEM_FLUSH;
    ck_assert_int_eq(blk_flush(blk), -EDOM);
    ck_assert_int_eq(blk_pwrite(blk, 8192, 512, buf, BDRV_REQ_FUA), -EDOM);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 2560);
    fail_op = MEM_STATUS;
    ck_assert_int_eq(blk_block_status(blk, 0, 1, BDRV_WANT_ZERO, &pnum), -EDOM);
    ck_assert_int_eq(pnum, 0);

    /* Nothing was done, so nothing is dirty. */
    fail_op = MEM_OPS;
    disk->no_zeroes = disk->no_discard = true;
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 0, 65536, BDRV_REQ_NO_FALLBACK),
                     -ENOTSUP);
    ck_assert_int_eq(blk_pdiscard(blk, 0, 65536), 0);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 2560);

    blk_get_stats(blk, &stats);
    ck_assert_uint_eq(stats.failed_rd_operations, 2);
    ck_assert_uint_eq(stats.failed_wr_operations, 3);
    ck_assert_uint_eq(stats.failed_zero_operations, 2);
    ck_assert_uint_eq(stats.failed_unmap_operations, 1);
    ck_assert_uint_eq(stats.failed_flush_operations, 1);
    bdrv_release_dirty_bitmap(node, bitmap);
    close_disk();
}
END_TEST

START_TEST(test_stats)
{
    uint8_t buf[1024] = { 0 };
    BlockStats s, n;

    disk = mem_disk_new(65536, 512);
    open_disk(&mem_driver);
    ck_assert_int_eq(blk_pread(blk, 0, 1000, buf, 0), 0);
    ck_assert_int_eq(blk_pwrite(blk, 10, 1000, buf, 0), 0);
    ck_assert_int_eq(blk_pwrite(blk, 0, 1, buf, 0), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 4096, 512, 0), 0);
    ck_assert_int_eq(blk_pdiscard(blk, 8192, 512), 0);
    ck_assert_int_eq(blk_flush(blk), 0);
    blk_get_stats(blk, &s);
    ck_assert_uint_eq(s.rd_operations, 1);
    ck_assert_uint_eq(s.rd_bytes, 1000);
    ck_assert_uint_eq(s.wr_operations, 2);
    ck_assert_uint_eq(s.wr_bytes, 1001);
    ck_assert_uint_eq(s.zero_operations, 1);
    ck_assert_uint_eq(s.zero_bytes, 512);
    ck_assert_uint_eq(s.unmap_operations, 1);
    ck_assert_uint_eq(s.unmap_bytes, 512);
    ck_assert_uint_eq(s.flush_operations, 1);
    ck_assert_uint_eq(s.wr_highest_offset, 4608);
    ck_assert_uint_gt(s.wr_total_time_ns, 0);
    bdrv_get_stats(node, &n);
    ck_assert_mem_eq(&s, &n, sizeof(s));
    close_disk();
}
END_TEST

/* ---- permission to write a last block that is not whole ------------------ */

START_TEST(test_unaligned_length)
{
    g_autoptr(GError) err = NULL;

    disk = mem_disk_new(1000, 512);
    open_disk(&mem_driver);
    bdrv_graph_lock();
    ck_assert(!blk_set_perm(blk, BLK_PERM_WRITE, BLK_PERM_ALL, &err));
    ck_assert_str_eq(err->message,
                     "Cannot get 'write' permission without 'resize': Image "
                     "size of node 'disk' (1000) is not a multiple of request "
                     "alignment (512)");
    ck_assert(blk_set_perm(blk, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, NULL));
    bdrv_graph_unlock();
    close_disk();
}
END_TEST

/* ---- block status ------------------------------------------------------- */

static void status_is(BlockBackend *b, int64_t offset, int64_t bytes, int flags,
                      int64_t want_pnum)
{
    int64_t pnum;
    int ret = blk_block_status(b, offset, bytes, BDRV_WANT_PRECISE, &pnum);

    ck_assert_int_eq(ret, flags);
    ck_assert_int_eq(pnum, want_pnum);
}

#define DATA (BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED | BDRV_BLOCK_OFFSET_VALID)
#define ZERO (BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED | BDRV_BLOCK_OFFSET_VALID)

START_TEST(test_status)
{
    int64_t pnum, map;
    BlockDriverState *file;

    disk = mem_disk_new(10000, 512);
    memset(disk->data + 1024, 1, 512);
    memset(disk->data + 9728, 1, 272);
    open_disk(&mem_driver);
    status_is(blk, 0, 10000, ZERO, 1024);
    status_is(blk, 0, 1024, ZERO, 1024);
    status_is(blk, 0, 100, ZERO, 100);
    status_is(blk, 100, 10, ZERO, 10);
    status_is(blk, 1023, 8977, ZERO, 1);
    status_is(blk, 1025, 8975, DATA, 511);
    status_is(blk, 1536, 8464, ZERO, 9728 - 1536);
    status_is(blk, 9729, 271, DATA | BDRV_BLOCK_EOF, 271);
    status_is(blk, 9999, 1, DATA | BDRV_BLOCK_EOF, 1);
    status_is(blk, 10000, 0, BDRV_BLOCK_EOF, 0);

    ck_assert_int_eq(bdrv_block_status(node, 0, 1100, 100, &pnum, &map, &file),
                     DATA);
    ck_assert_int_eq(disk->flags[MEM_STATUS], 0);
    ck_assert_int_eq(map, 1100);
    ck_assert_ptr_eq(file, node);
    close_disk();
}
END_TEST

/* A format whose first half lies in its child's second, and the reverse */
static int swapped_status(BlockDriverState *bs, unsigned want, int64_t offset,
                          int64_t bytes, int64_t *pnum, int64_t *map,
                          BlockDriverState **file)
{
    int64_t half = disk->length / 2;

    *pnum = half - offset % half;
    *map = (offset + half) % disk->length;
    *file = bs->file->bs;
    return BDRV_BLOCK_RAW | BDRV_BLOCK_OFFSET_VALID;
}

static const BlockDriver swapped_driver = {
    .format_name = "swapped",
    .kind = BLOCK_DRIVER_FORMAT,
    .transparent = true,
    .block_status = swapped_status,
};

/* The end of the node below is not the end of the one above. */
START_TEST(test_status_end)
{
    BlockDriverState *swapped;
    BlockBackend *sblk;

    disk = mem_disk_new(8192, 1);
    open_disk(&mem_driver);
    bdrv_graph_lock();
    swapped = bdrv_new_internal(&swapped_driver, "swapped", NULL);
    ck_assert_ptr_nonnull(bdrv_attach_child(swapped, node, "file", NULL));
    sblk = blk_new("user", false, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    ck_assert(blk_attach(sblk, swapped, NULL));
    bdrv_graph_unlock();

    status_is(sblk, 0, 8192, ZERO, 4096);
    status_is(sblk, 4096, 4096, ZERO | BDRV_BLOCK_EOF, 4096);

    bdrv_graph_lock();
    blk_free(sblk);
    bdrv_unref(swapped);
    bdrv_graph_unlock();
    close_disk();
}
END_TEST

static BlockDriverState *raw_over_disk(const char *window)
{
    g_autofree char *text = g_strdup_printf(
        "{'driver':'raw','node-name':'raw','file':'disk'%s}", window);
    g_autoptr(JsonNode) options = json_from_string(text, NULL);
    g_autoptr(GError) err = NULL;
    BlockDriverState *raw = bdrv_open(json_node_get_object(options), &err);

    ck_assert_msg(raw != NULL, "%s", err ? err->message : "no error");
    return raw;
}

START_TEST(test_raw)
{
    BlockDriverState *raw;
    BlockBackend *rblk;
    BlockDriverState *file;
    int64_t pnum, map;
    uint8_t buf[100];

    disk = mem_disk_new(10000, 512);
    memset(disk->data + 1024, 1, 512);
    open_disk(&mem_driver);
    bdrv_graph_lock();
    raw = raw_over_disk(",'offset':100,'size':1500,'discard':'unmap'");
    rblk = blk_new("raw user", false, ALL_BUT_NOTHING, BLK_PERM_ALL);
    ck_assert(blk_attach(rblk, raw, NULL));
    bdrv_graph_unlock();

    ck_assert_int_eq(blk_getlength(rblk), 1500);
    ck_assert_uint_eq(blk_request_alignment(rblk), 512);
    status_is(rblk, 0, 1500, ZERO, 924);
    status_is(rblk, 924, 576, DATA, 512);
    status_is(rblk, 1436, 64, ZERO | BDRV_BLOCK_EOF, 64);
    ck_assert_int_eq(bdrv_block_status(raw, 0, 925, 100, &pnum, &map, &file),
                     DATA);
    ck_assert_int_eq(map, 1025);
    ck_assert_ptr_eq(file, node);

    memset(buf, 7, sizeof(buf));
    ck_assert_int_eq(blk_pwrite(rblk, 1400, 100, buf, BDRV_REQ_FUA), 0);
    ck_assert_int_eq(disk->data[1499], 1);
    ck_assert_int_eq(disk->data[1500], 7);
    ck_assert_int_eq(disk->data[1599], 7);
    ck_assert_int_eq(disk->data[1600], 0);
    ck_assert_int_eq(mem_count(disk, MEM_FLUSH), 1);
    ck_assert_int_eq(blk_pread(rblk, 1400, 100, buf, 0), 0);
    ck_assert_int_eq(buf[99], 7);
    ck_assert_int_eq(blk_pread(rblk, 1401, 100, buf, 0), -EIO);
    ck_assert_int_eq(blk_pwrite_zeroes(rblk, 1450, 50, 0), 0);
    ck_assert_int_eq(disk->data[1549], 7);
    ck_assert_int_eq(disk->data[1550], 0);
    ck_assert_int_eq(blk_pdiscard(rblk, 0, 1500), 0);
    ck_assert_int_eq(disk->data[511], 0);
    ck_assert_int_eq(disk->data[512], MEM_DISCARDED);
    ck_assert_int_eq(disk->data[1535], MEM_DISCARDED);
    ck_assert_int_eq(blk_flush(rblk), 0);
    ck_assert_int_eq(mem_count(disk, MEM_FLUSH), 2);

    /* Other nodes are not stopped by the range check of a BlockBackend. */
    ck_assert_int_eq(bdrv_pwrite_zeroes(raw, 1499, 2, 0), -ENOSPC);
    ck_assert_int_eq(bdrv_pdiscard(raw, 1500, 1), -ENOSPC);

    bdrv_graph_lock();
    blk_free(rblk);
    bdrv_graph_unlock();
    bdrv_graph_lock();
    ck_assert(bdrv_monitor_del("raw", NULL));
    bdrv_graph_unlock();
    close_disk();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("block-io");
    TCase *tc = tcase_create("io");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_any_alignment, 0, G_N_ELEMENTS(picky));
    tcase_add_loop_test(tc, test_shared_blocks, 0, 2);
    tcase_add_loop_test(tc, test_whole_block_waits, 0, 3);
    tcase_add_test(tc, test_ranges);
    tcase_add_loop_test(tc, test_fua, 0, 2);
    tcase_add_test(tc, test_zero_fallback);
    tcase_add_test(tc, test_may_unmap);
    tcase_add_test(tc, test_detect_zeroes);
    tcase_add_test(tc, test_detected_zeroes_do_not_grow);
    tcase_add_test(tc, test_discard);
    tcase_add_test(tc, test_large_requests);
    tcase_add_test(tc, test_errors);
    tcase_add_test(tc, test_stats);
    tcase_add_test(tc, test_unaligned_length);
    tcase_add_test(tc, test_status);
    tcase_add_test(tc, test_status_end);
    tcase_add_test(tc, test_raw);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
