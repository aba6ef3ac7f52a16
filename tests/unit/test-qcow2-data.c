/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: reads, writes, zero-writes and discards against what a plain buffer has
 * of them; the order in which tables and data get to the disk; errors.
 */
#include <string.h>

#include "block/qcow2.h"
#include "mem-disk.h"
#include "qcow2-disk.h"
#include "unit-main.h"
#include "util/iov.h"

#define KIB INT64_C(1024)
#define MIB (KIB * KIB)

typedef struct Config {
    unsigned version, cluster_bits;
    int64_t length;
    bool backing;
} Config;

/* Lengths that are not whole clusters, backing files shorter than the disk */
static const Config configs[] = {
    { 3, 9, 512 * KIB + 512, false },  { 3, 9, 512 * KIB + 1, true },
    { 2, 9, 300 * KIB + 512, true },   { 2, 12, 3 * MIB, false },
    { 3, 12, 3 * MIB + 512, true },    { 3, 16, 9 * MIB + 4096, false },
    { 3, 16, 9 * MIB + 1536, true },   { 2, 16, 9 * MIB, true },
    { 3, 21, 17 * MIB + 65536, true }, { 3, 21, 17 * MIB + 512, false },
};

static const Config *config;
static BlockDriverState *file, *base;
static BlockBackend *blk;
static uint8_t *model;

/* ---- an image and its model --------------------------------------------- */

static void open_image(const Config *c)
{
    g_autoptr(GBytes) image =
        qcow2_disk_image(c->version, c->cluster_bits, c->length);

    config = c;
    model = g_malloc0(c->length);
    bdrv_graph_lock();
    file = qcow2_disk_new("file", image);
    if (c->backing) {
        base = mem_disk_new("base", c->length * 2 / 3 / 512 * 512);
        base->monitor_owned = true;
    }
    bdrv_graph_unlock();
    if (base) {
        mem_disk_fill(mem_disk_of(base), 7);
        memcpy(model, mem_disk_data(mem_disk_of(base)), bdrv_getlength(base));
    }
    blk = qcow2_disk_open(file, base ? "base" : NULL);
    ck_assert_int_eq(blk_getlength(blk), c->length);
}

static void reopen_image(void)
{
    qcow2_disk_close(blk);
    blk = qcow2_disk_open(file, base ? "base" : NULL);
}

static void close_image(void)
{
    qcow2_disk_close(blk);
    bdrv_graph_lock();
    ck_assert(bdrv_monitor_del("file", NULL));
    ck_assert(!base || bdrv_monitor_del("base", NULL));
    bdrv_graph_unlock();
    g_clear_pointer(&model, g_free);
    file = base = NULL;
}

static void assert_model(void)
{
    int64_t piece = MIB, offset;
    g_autofree uint8_t *buf = g_malloc(piece);

    for (offset = 0; offset < config->length; offset += piece) {
        int64_t n = MIN(piece, config->length - offset);

        ck_assert_int_eq(blk_pread(blk, offset, n, buf, 0), 0);
        ck_assert_mem_eq(buf, model + offset, n);
    }
}

/* What is called zero is zero, and what is neither is what is below. */
static void assert_status(void)
{
    int64_t offset, pnum;

    for (offset = 0; offset < config->length; offset += pnum) {
        int ret = blk_block_status(blk, offset, config->length - offset,
                                   BDRV_WANT_PRECISE, &pnum);

        ck_assert_int_ge(ret, 0);
        ck_assert_int_gt(pnum, 0);
        ck_assert(!(ret & BDRV_BLOCK_ZERO) ||
                  buffer_is_zero(model + offset, pnum));
    }
}

/* ---- one request, and the same to the model ----------------------------- */

/* The part of [@offset, @offset + @bytes) that a discard is about */
static void discard_model(int64_t offset, int64_t bytes)
{
    int64_t size = INT64_C(1) << config->cluster_bits;
    int64_t end = offset + bytes;

    if (config->version < 3 && config->backing) {
        return;
    }
    offset = (offset + size - 1) / size * size;
    if (end < config->length) {
        end = end / size * size;
    }
    if (offset < end) {
        memset(model + offset, 0, end - offset);
    }
}

static void write_at(int64_t offset, int64_t bytes, uint8_t first)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    struct iovec iov[2] = { { buf, bytes / 3 },
                            { buf + bytes / 3, bytes - bytes / 3 } };
    int64_t i;

    for (i = 0; i < bytes; i++) {
        buf[i] = first + i / 7;
    }
    ck_assert_int_eq(blk_pwritev(blk, offset, bytes, iov, 2, 0), 0);
    memcpy(model + offset, buf, bytes);
}

static void read_at(int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    struct iovec iov[2] = { { buf, bytes / 2 },
                            { buf + bytes / 2, bytes - bytes / 2 } };

    ck_assert_int_eq(blk_preadv(blk, offset, bytes, iov, 2, 0), 0);
    ck_assert_mem_eq(buf, model + offset, bytes);
}

static void any_request(GRand *rand, int64_t start, int64_t end)
{
    int64_t size = INT64_C(1) << config->cluster_bits;
    int64_t most = size * (g_rand_boolean(rand) ? 1 : 9);
    int64_t max = MIN(end - start, most);
    int64_t from;
    int64_t bytes = g_rand_int_range(rand, 1, max + 1);
    int64_t offset = start + g_rand_int_range(rand, 0, end - start - bytes + 1);

    if (g_rand_boolean(rand)) { /* whole clusters, as far as possible */
        from = MAX(offset / size * size, start);
        bytes = MIN((offset + bytes + size - 1) / size * size, end) - from;
        offset = from;
    }
    switch (g_rand_int_range(rand, 0, 12)) {
    case 0:
        ck_assert_int_eq(blk_pwrite_zeroes(blk, offset, bytes, 0), 0);
        memset(model + offset, 0, bytes);
        break;
    case 1:
        ck_assert_int_eq(
            blk_pwrite_zeroes(blk, offset, bytes, BDRV_REQ_MAY_UNMAP), 0);
        memset(model + offset, 0, bytes);
        break;
    case 2:
        ck_assert_int_eq(blk_pdiscard(blk, offset, bytes), 0);
        discard_model(offset, bytes);
        break;
    case 3:
        ck_assert_int_eq(blk_flush(blk), 0);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
        read_at(offset, bytes);
        break;
    default:
        write_at(offset, bytes, g_rand_int_range(rand, 0, 256));
        break;
    }
}

START_TEST(test_model)
{
    GRand *rand = g_rand_new_with_seed(_i);
    int i;

    open_image(&configs[_i]);
    for (i = 0; i < 600; i++) {
        any_request(rand, 0, config->length);
        if (i % 150 == 0) {
            reopen_image();
        }
        if (i % 50 == 0) {
            assert_status();
        }
    }
    assert_model();
    ck_assert_int_eq(blk_flush(blk), 0);
    qcow2_disk_assert_clean(true);
    assert_model();
    reopen_image();
    qcow2_disk_assert_clean(true);
    assert_model();
    g_rand_free(rand);
    close_image();
}
END_TEST

/* ---- many threads ------------------------------------------------------- */

#define THREADS 4

static void *own_area(void *opaque)
{
    int64_t number = GPOINTER_TO_INT(opaque);
    int64_t size = config->length / THREADS;
    GRand *rand = g_rand_new_with_seed(number);
    int i;

    for (i = 0; i < 250; i++) {
        any_request(rand, number * size, (number + 1) * size);
    }
    g_rand_free(rand);
    return NULL;
}

/* All fill in bytes of one value, or zeroes. */
static void *common_area(void *opaque)
{
    int number = GPOINTER_TO_INT(opaque);
    int64_t size = INT64_C(1) << config->cluster_bits;
    GRand *rand = g_rand_new_with_seed(number);
    g_autofree uint8_t *buf = g_malloc(3 * size);
    int i;
    int64_t k;

    for (i = 0; i < 250; i++) {
        int64_t bytes = g_rand_int_range(rand, 1, 3 * size);
        int64_t offset = g_rand_int_range(rand, 0, 8 * size);

        switch (g_rand_int_range(rand, 0, 6)) {
        case 0:
            ck_assert_int_eq(blk_pwrite_zeroes(blk, offset, bytes,
                                               i % 2 ? BDRV_REQ_MAY_UNMAP : 0),
                             0);
            break;
        case 1:
            ck_assert_int_eq(blk_pdiscard(blk, offset, bytes), 0);
            break;
        case 2:
            ck_assert_int_eq(blk_pread(blk, offset, bytes, buf, 0), 0);
            for (k = 0; k < bytes && buf[k] <= THREADS; k++) {
            }
            ck_assert_int_eq(k, bytes);
            break;
        default:
            memset(buf, number + 1, bytes);
            ck_assert_int_eq(blk_pwrite(blk, offset, bytes, buf, 0), 0);
            break;
        }
    }
    g_rand_free(rand);
    return NULL;
}

static void run_threads(void *(*run)(void *))
{
    GThread *threads[THREADS];
    int i;

    for (i = 0; i < THREADS; i++) {
        threads[i] = g_thread_new("user", run, GINT_TO_POINTER(i));
    }
    for (i = 0; i < THREADS; i++) {
        g_thread_join(threads[i]);
    }
    ck_assert_int_eq(blk_flush(blk), 0);
    qcow2_disk_assert_clean(true);
}

START_TEST(test_own_areas)
{
    open_image(&configs[_i]);
    run_threads(own_area);
    assert_model();
    reopen_image();
    assert_model();
    assert_status();
    close_image();
}
END_TEST

/* Every fourth block, in clusters that nobody has yet, once */
static void *every_fourth_block(void *opaque)
{
    int64_t number = GPOINTER_TO_INT(opaque);
    int64_t offset;

    for (offset = number * 512; offset < config->length;
         offset += THREADS * 512) {
        write_at(offset, 512, offset / 512);
    }
    return NULL;
}

START_TEST(test_neighbours)
{
    static const Config small[] = {
        { 3, 12, 256 * KIB, false },
        { 3, 16, 256 * KIB, true },
    };

    open_image(&small[_i]);
    run_threads(every_fourth_block);
    assert_model();
    close_image();
}
END_TEST

START_TEST(test_common_area)
{
    static const Config small[] = {
        { 3, 9, 64 * KIB, false },
        { 2, 12, MIB, false },
        { 3, 16, MIB, false },
    };

    open_image(&small[_i]);
    run_threads(common_area);
    close_image();
}
END_TEST

/* ---- crashes ------------------------------------------------------------ */

#define BLOCK 512

/* Which numbers a block may have: that of the last write before a flush, or
 * any later one. A set of them, as bits */
typedef struct Blocks {
    uint8_t now[1024];
    uint64_t may[1024];
    GArray *may_be; /* for each entry of the record: the sets then */
} Blocks;

/* Some blocks; what they are afterwards */
static void change_blocks(Blocks *b, GRand *rand, int64_t n_blocks)
{
    int64_t n = g_rand_int_range(rand, 1, MIN(n_blocks, 40));
    int64_t first = g_rand_int_range(rand, 0, n_blocks - n + 1);
    uint8_t number = g_rand_int_range(rand, 0, 3) ? 0 : 1;
    uint8_t buf[40 * BLOCK];
    int64_t i;

    if (number == 0) {
        number = g_rand_int_range(rand, 1, 64);
        memset(buf, number, sizeof(buf));
        for (i = first; i < first + n; i++) {
            b->may[i] |= UINT64_C(1) << number;
        }
        ck_assert_int_eq(blk_pwrite(blk, first * BLOCK, n * BLOCK, buf, 0), 0);
    } else {
        number = 0;
        for (i = first; i < first + n; i++) {
            b->may[i] |= 1;
        }
        ck_assert_int_eq(blk_pwrite_zeroes(blk, first * BLOCK, n * BLOCK,
                                           n % 2 ? BDRV_REQ_MAY_UNMAP : 0),
                         0);
    }
    memset(b->now + first, number, n);
}

static void flush_blocks(Blocks *b, int64_t n_blocks)
{
    int64_t i;

    ck_assert_int_eq(blk_flush(blk), 0);
    for (i = 0; i < n_blocks; i++) {
        b->may[i] = UINT64_C(1) << b->now[i];
    }
}

static void check_crash(const Config *c, GBytes *image, const uint64_t *may)
{
    BlockDriverState *left;
    BlockBackend *reader;
    g_autofree uint8_t *buf = g_malloc(c->length);
    int64_t i, k;

    bdrv_graph_lock();
    left = qcow2_disk_new("left", image);
    bdrv_graph_unlock();
    reader = qcow2_disk_open(left, NULL);
    qcow2_disk_assert_clean(false);
    ck_assert_int_eq(blk_pread(reader, 0, c->length, buf, 0), 0);
    for (i = 0; i < c->length / BLOCK; i++) {
        const uint8_t *block = buf + i * BLOCK;

        for (k = 1; k < BLOCK && block[k] == block[0]; k++) {
        }
        if (k < BLOCK || block[0] > 63 ||
            !(may[i] & (UINT64_C(1) << block[0]))) {
            ck_abort_msg("block %d is %d, may be %" G_GINT64_MODIFIER "x",
                         (int)i, block[0], may[i]);
        }
    }
    qcow2_disk_close(reader);
    bdrv_graph_lock();
    ck_assert(bdrv_monitor_del("left", NULL));
    bdrv_graph_unlock();
}

/*
 * A write may stop anywhere in between, but what was there at the last flush is: the
 * sets that count are those before the requests that a crash is in.
 */
START_TEST(test_crash)
{
    static const Config small[] = {
        { 3, 9, 256 * KIB, false },
        { 3, 12, 512 * KIB, false },
        { 2, 9, 128 * KIB, false },
        { 3, 16, 512 * KIB, false },
    };
    const Config *c = &small[_i];
    int64_t n_blocks = c->length / BLOCK;
    GRand *rand = g_rand_new_with_seed(_i + 100);
    Blocks b = { .may_be = g_array_new(FALSE, FALSE, sizeof(b.may)) };
    Qcow2Disk *disk;
    unsigned n;
    int i;

    open_image(c);
    disk = qcow2_disk_of(file);
    for (i = 0; i < n_blocks; i++) {
        b.may[i] = 1;
    }
    qcow2_disk_record(disk);
    for (i = 0; i < 120; i++) {
        uint64_t before[1024];

        memcpy(before, b.may, sizeof(before));
        if (g_rand_int_range(rand, 0, 6)) {
            change_blocks(&b, rand, n_blocks);
            /* What is allowed after it is while it runs. */
            memcpy(before, b.may, sizeof(before));
        } else {
            flush_blocks(&b, n_blocks);
        }
        while (b.may_be->len < qcow2_disk_recorded(disk)) {
            g_array_append_val(b.may_be, before);
        }
    }
    qcow2_disk_close(blk);
    for (n = 0; n < b.may_be->len; n++) {
        const uint64_t *may =
            n ? &g_array_index(b.may_be, uint64_t, (n - 1) * 1024) : NULL;
        g_autoptr(GBytes) all = qcow2_disk_crash(disk, n, NULL);
        g_autoptr(GBytes) some = qcow2_disk_crash(disk, n, rand);

        if (may && (n % 3 == 0 || b.may_be->len < 400)) {
            check_crash(c, all, may);
            check_crash(c, some, may);
        }
    }
    blk = qcow2_disk_open(file, NULL);
    g_array_unref(b.may_be);
    g_rand_free(rand);
    close_image();
}
END_TEST

/* A place that is kept gets new data, and no refcount changes: that data has
 * to be there before the table says so all the same. */
START_TEST(test_crash_in_kept_place)
{
    static const Config c = { 3, 16, MIB, false };
    GRand *rand = g_rand_new_with_seed(1);
    uint64_t may[2048] = { 0 };
    Blocks b = { 0 };
    Qcow2Disk *disk;
    unsigned n;
    int i;

    open_image(&c);
    disk = qcow2_disk_of(file);
    write_at(0, 65536, 99);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 0, 65536, 0), 0);
    ck_assert_int_eq(blk_flush(blk), 0);
    qcow2_disk_record(disk);
    for (i = 0; i < c.length / BLOCK; i++) {
        may[i] = 1;
    }
    memset(b.now, 5, sizeof(b.now));
    ck_assert_int_eq(blk_pwrite(blk, 512, 512, b.now, 0), 0);
    may[1] |= 1 << 5;
    ck_assert_int_eq(blk_flush(blk), 0);
    qcow2_disk_close(blk);
    for (n = 1; n <= qcow2_disk_recorded(disk); n++) {
        for (i = 0; i < 8; i++) {
            g_autoptr(GBytes) some = qcow2_disk_crash(disk, n, rand);

            check_crash(&c, some, may);
        }
    }
    blk = qcow2_disk_open(file, NULL);
    g_rand_free(rand);
    close_image();
}
END_TEST

/* ---- costs -------------------------------------------------------------- */

/* One request for the data of 16 new clusters, and none that is not needed */
START_TEST(test_requests)
{
    static const Config c = { 3, 16, 16 * MIB, false };
    g_autofree uint8_t *buf = g_malloc(MIB);
    Qcow2Disk *disk;
    unsigned before;

    memset(buf, 5, MIB);
    open_image(&c);
    disk = qcow2_disk_of(file);
    ck_assert_int_eq(blk_pwrite(blk, 65536, 10, buf, 0), 0); /* the L2 table */
    ck_assert_int_eq(blk_flush(blk), 0);

    before = qcow2_disk_writes(disk);
    ck_assert_int_eq(blk_pwrite(blk, MIB + 512, MIB, buf, 0), 0);
    ck_assert_uint_eq(qcow2_disk_writes(disk), before + 1);
    ck_assert_int_eq(blk_pwrite(blk, MIB + 1024, MIB, buf, 0), 0);
    ck_assert_uint_eq(qcow2_disk_writes(disk), before + 2);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 4 * MIB, MIB, 0), 0);
    ck_assert_uint_eq(qcow2_disk_writes(disk), before + 2);

    /* Refcounts, data, tables; then there is nothing to do but for the file. */
    before = qcow2_disk_flushes(disk);
    ck_assert_int_eq(blk_flush(blk), 0);
    ck_assert_uint_le(qcow2_disk_flushes(disk), before + 2);
    before = qcow2_disk_flushes(disk);
    ck_assert_int_eq(blk_flush(blk), 0);
    ck_assert_uint_eq(qcow2_disk_flushes(disk), before + 1);
    close_image();
}
END_TEST

/* ---- errors ------------------------------------------------------------- */

/* Whatever fails: the image is whole, what was there before or after is read. */
START_TEST(test_failures)
{
    static const Config c = { 3, 9, 256 * KIB, false };
    GRand *rand = g_rand_new_with_seed(5);
    g_autofree uint8_t *buf = g_malloc(64 * KIB);
    int i;
    int64_t k;

    open_image(&c);
    write_at(0, c.length / 2, 1);
    for (i = 0; i < 200; i++) {
        int64_t bytes = g_rand_int_range(rand, 1, 8 * KIB);
        int64_t offset = g_rand_int_range(rand, 0, c.length - bytes);
        g_autofree uint8_t *now = g_malloc(bytes);
        int ret;

        memset(buf, 200, bytes);
        qcow2_disk_fail(qcow2_disk_of(file), g_rand_int_range(rand, 0, 4), 1);
        if (i % 4 == 0) {
            ret = blk_pwrite_zeroes(blk, offset, bytes, BDRV_REQ_MAY_UNMAP);
            memset(buf, 0, bytes);
        } else if (i % 4 == 1) {
            ret = blk_flush(blk);
            bytes = 0;
        } else {
            ret = blk_pwrite(blk, offset, bytes, buf, 0);
        }
        qcow2_disk_fail(qcow2_disk_of(file), 0, 0);
        ck_assert(ret == 0 || ret == -EIO);
        if (bytes > 0) {
            ck_assert_int_eq(blk_pread(blk, offset, bytes, now, 0), 0);
        }
        for (k = 0; k < bytes && (now[k] == buf[k] ||
                                  (ret < 0 && now[k] == model[offset + k]));
             k++) {
        }
        ck_assert_int_eq(k, bytes);
        memcpy(model + offset, now, bytes);
    }
    assert_model();
    ck_assert_int_eq(blk_flush(blk), 0);
    qcow2_disk_assert_clean(false);
    reopen_image();
    assert_model();
    g_rand_free(rand);
    close_image();
}
END_TEST

/* Clusters for data that could not be written go back. */
START_TEST(test_nothing_leaks)
{
    static const Config c = { 3, 16, MIB, false };
    uint8_t buf[512] = { 1 };

    open_image(&c);
    ck_assert_int_eq(blk_pwrite(blk, 0, 512, buf, 0), 0);
    qcow2_disk_fail(qcow2_disk_of(file), 0, 1);
    ck_assert_int_eq(blk_pwrite(blk, 512 * KIB, 512, buf, 0), -EIO);
    /* Another one, so that the file reaches beyond what is looked for. */
    ck_assert_int_eq(blk_pwrite(blk, 768 * KIB, 512, buf, 0), 0);
    ck_assert_int_eq(blk_flush(blk), 0);
    qcow2_disk_assert_clean(true);
    model[0] = model[768 * KIB] = 1;
    assert_model();
    close_image();
}
END_TEST

START_TEST(test_refused)
{
    static const Config v2 = { 2, 16, MIB, true };
    static const Config v3 = { 3, 16, MIB, true };
    uint8_t buf[512] = { 1 };

    open_image(&v3);
    /* The driver itself, as nodes may ask it */
    ck_assert_int_eq(blk_pwrite(blk, 0, 512, buf, 0), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 0, 512, BDRV_REQ_NO_FALLBACK),
                     -ENOTSUP);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 0, 65536, BDRV_REQ_NO_FALLBACK), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 9, 512, BDRV_REQ_NO_FALLBACK), 0);
    memset(model, 0, 65536);
    assert_model();
    close_image();

    open_image(&v2);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 0, 65536, BDRV_REQ_NO_FALLBACK),
                     -ENOTSUP);
    assert_model();
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 0, 65536, 0), 0);
    memset(model, 0, 65536);
    assert_model();
    close_image();
}
END_TEST

/*
 * An entry that leads behind the end of the file does not make it longer: the data
 * gets another place, and that one is given up.
 */
START_TEST(test_behind_the_file)
{
    static const Config c = { 3, 16, MIB, false };
    static const uint64_t entries[] = {
        (UINT64_C(1) << 40) | QCOW2_COPIED,
        (UINT64_C(1) << 40) | QCOW2_COPIED | QCOW2_ZERO,
    };
    uint8_t buf[512] = { 1 };
    Qcow2State *state;
    int64_t length;
    uint64_t *l2;
    unsigned index;

    open_image(&c);
    ck_assert_int_eq(blk_pwrite(blk, 0, 512, buf, 0), 0);
    length = qcow2_disk_length(qcow2_disk_of(file));
    state = file->parents->len
                ? ((BdrvChild *)file->parents->pdata[0])->parent->opaque
                : NULL;
    mutex_lock(&state->lock);
    ck_assert_int_eq(qcow2_get_own_l2(state, 65536, &l2, &index), 0);
    l2[index] = GUINT64_TO_BE(entries[_i]);
    qcow2_cache_set_dirty(state->l2_cache, l2);
    qcow2_cache_put(state->l2_cache, (void **)&l2);
    mutex_unlock(&state->lock);
    ck_assert(!qcow2_is_corrupt(state));

    ck_assert_int_eq(blk_pwrite(blk, 65536, 512, buf, 0), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 65536 + 512, 512, 0), 0);
    ck_assert(!qcow2_is_corrupt(state));
    ck_assert_int_lt(qcow2_disk_length(qcow2_disk_of(file)),
                     length + 2 * state->cluster_size);
    model[0] = model[65536] = 1;
    assert_model();
    /* It was never anybody's to give up. */
    ck_assert_int_eq(blk_flush(blk), 0);
    ck_assert(qcow2_is_corrupt(state));
    ck_assert_int_eq(blk_pwrite(blk, 0, 512, buf, 0), -EIO);
    assert_model();
    close_image();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("qcow2-data");
    TCase *tc = tcase_create("data");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_model, 0, G_N_ELEMENTS(configs));
    tcase_add_loop_test(tc, test_own_areas, 0, G_N_ELEMENTS(configs));
    tcase_add_loop_test(tc, test_neighbours, 0, 2);
    tcase_add_loop_test(tc, test_common_area, 0, 3);
    tcase_add_loop_test(tc, test_crash, 0, 4);
    tcase_add_test(tc, test_crash_in_kept_place);
    tcase_add_test(tc, test_requests);
    tcase_add_test(tc, test_failures);
    tcase_add_test(tc, test_nothing_leaks);
    tcase_add_test(tc, test_refused);
    tcase_add_loop_test(tc, test_behind_the_file, 0, 2);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
