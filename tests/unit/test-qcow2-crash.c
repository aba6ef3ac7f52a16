/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: the order in which tables and data get to the disk */
#include <string.h>

#include "qcow2-model.h"
#include "unit-main.h"

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
        ck_assert_int_eq(
            blk_pwrite(model.blk, first * BLOCK, n * BLOCK, buf, 0), 0);
    } else {
        number = 0;
        for (i = first; i < first + n; i++) {
            b->may[i] |= 1;
        }
        ck_assert_int_eq(blk_pwrite_zeroes(model.blk, first * BLOCK, n * BLOCK,
                                           n % 2 ? BDRV_REQ_MAY_UNMAP : 0),
                         0);
    }
    memset(b->now + first, number, n);
}

static void flush_blocks(Blocks *b, int64_t n_blocks)
{
    int64_t i;

    ck_assert_int_eq(blk_flush(model.blk), 0);
    for (i = 0; i < n_blocks; i++) {
        b->may[i] = UINT64_C(1) << b->now[i];
    }
}

static void check_crash(const Qcow2ModelConfig *c, GBytes *image,
                        const uint64_t *may)
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
    static const Qcow2ModelConfig small[] = {
        { 3, 9, 256 * KIB, false },
        { 3, 12, 512 * KIB, false },
        { 2, 9, 128 * KIB, false },
        { 3, 16, 512 * KIB, false },
    };
    const Qcow2ModelConfig *c = &small[_i];
    int64_t n_blocks = c->length / BLOCK;
    GRand *rand = g_rand_new_with_seed(_i + 100);
    Blocks b = { .may_be = g_array_new(FALSE, FALSE, sizeof(b.may)) };
    Qcow2Disk *disk;
    unsigned n;
    int i;

    qcow2_model_open(c);
    disk = qcow2_disk_of(model.file);
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
    qcow2_disk_close(model.blk);
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
    model.blk = qcow2_disk_open(model.file, NULL);
    g_array_unref(b.may_be);
    g_rand_free(rand);
    qcow2_model_close();
}
END_TEST

/* A place that is kept gets new data, and no refcount changes: that data has
 * to be there before the table says so all the same. */
START_TEST(test_crash_in_kept_place)
{
    static const Qcow2ModelConfig c = { 3, 16, MIB, false };
    GRand *rand = g_rand_new_with_seed(1);
    uint64_t may[2048] = { 0 };
    Blocks b = { 0 };
    Qcow2Disk *disk;
    unsigned n;
    int i;

    qcow2_model_open(&c);
    disk = qcow2_disk_of(model.file);
    qcow2_model_write(0, 65536, 99);
    ck_assert_int_eq(blk_pwrite_zeroes(model.blk, 0, 65536, 0), 0);
    ck_assert_int_eq(blk_flush(model.blk), 0);
    qcow2_disk_record(disk);
    for (i = 0; i < c.length / BLOCK; i++) {
        may[i] = 1;
    }
    memset(b.now, 5, sizeof(b.now));
    ck_assert_int_eq(blk_pwrite(model.blk, 512, 512, b.now, 0), 0);
    may[1] |= 1 << 5;
    ck_assert_int_eq(blk_flush(model.blk), 0);
    qcow2_disk_close(model.blk);
    for (n = 1; n <= qcow2_disk_recorded(disk); n++) {
        for (i = 0; i < 8; i++) {
            g_autoptr(GBytes) some = qcow2_disk_crash(disk, n, rand);

            check_crash(&c, some, may);
        }
    }
    model.blk = qcow2_disk_open(model.file, NULL);
    g_rand_free(rand);
    qcow2_model_close();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("qcow2-crash");
    TCase *tc = tcase_create("qcow2-crash");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_crash, 0, 4);
    tcase_add_test(tc, test_crash_in_kept_place);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
