/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: reads, writes, zero-writes and discards against what a plain buffer has
 * of them; what requests cost; errors.
 */
#include <string.h>

#include "block/qcow2.h"
#include "mem-disk.h"
#include "qcow2-model.h"
#include "unit-main.h"

START_TEST(test_model)
{
    GRand *rand = g_rand_new_with_seed(_i);
    int requests = qcow2_model_configs[_i].cluster_bits > 16 ? 100 : 600;
    int i;

    qcow2_model_open(&qcow2_model_configs[_i]);
    for (i = 0; i < requests; i++) {
        qcow2_model_any_request(rand, 0, model.config->length);
        if (i % 50 == 49) {
            qcow2_model_reopen();
        }
        if (i % 50 == 0) {
            qcow2_model_assert_status();
        }
    }
    qcow2_model_assert();
    ck_assert_int_eq(blk_flush(model.blk), 0);
    qcow2_disk_assert_clean(true);
    qcow2_model_assert();
    qcow2_model_reopen();
    qcow2_disk_assert_clean(true);
    qcow2_model_assert();
    g_rand_free(rand);
    qcow2_model_close();
}
END_TEST

/* ---- costs -------------------------------------------------------------- */

/* One request for the data of 16 new clusters, and none that is not needed */
START_TEST(test_requests)
{
    static const Qcow2ModelConfig c = { 3, 16, 16 * MIB, false };
    g_autofree uint8_t *buf = g_malloc(MIB);
    Qcow2Disk *disk;
    unsigned before;

    memset(buf, 5, MIB);
    qcow2_model_open(&c);
    disk = qcow2_disk_of(model.file);
    ck_assert_int_eq(blk_pwrite(model.blk, 65536, 10, buf, 0),
                     0); /* the L2 table */
    ck_assert_int_eq(blk_flush(model.blk), 0);

    before = qcow2_disk_writes(disk);
    ck_assert_int_eq(blk_pwrite(model.blk, MIB + 512, MIB, buf, 0), 0);
    ck_assert_uint_eq(qcow2_disk_writes(disk), before + 1);
    ck_assert_int_eq(blk_pwrite(model.blk, MIB + 1024, MIB, buf, 0), 0);
    ck_assert_uint_eq(qcow2_disk_writes(disk), before + 2);
    ck_assert_int_eq(blk_pwrite_zeroes(model.blk, 4 * MIB, MIB, 0), 0);
    ck_assert_uint_eq(qcow2_disk_writes(disk), before + 2);

    /* Refcounts, data, tables; then there is nothing to do but for the file. */
    before = qcow2_disk_flushes(disk);
    ck_assert_int_eq(blk_flush(model.blk), 0);
    ck_assert_uint_le(qcow2_disk_flushes(disk), before + 2);
    before = qcow2_disk_flushes(disk);
    ck_assert_int_eq(blk_flush(model.blk), 0);
    ck_assert_uint_eq(qcow2_disk_flushes(disk), before + 1);
    qcow2_model_close();
}
END_TEST

/* ---- errors ------------------------------------------------------------- */

/* Whatever fails: the image is whole, what was there before or after is read. */
START_TEST(test_failures)
{
    static const Qcow2ModelConfig c = { 3, 9, 256 * KIB, false };
    GRand *rand = g_rand_new_with_seed(5);
    g_autofree uint8_t *buf = g_malloc(64 * KIB);
    int i;
    int64_t k;

    qcow2_model_open(&c);
    qcow2_model_write(0, c.length / 2, 1);
    for (i = 0; i < 200; i++) {
        int64_t bytes = g_rand_int_range(rand, 1, 8 * KIB);
        int64_t offset = g_rand_int_range(rand, 0, c.length - bytes);
        g_autofree uint8_t *now = g_malloc(bytes);
        int ret;

        memset(buf, 200, bytes);
        qcow2_disk_fail(qcow2_disk_of(model.file), g_rand_int_range(rand, 0, 4),
                        1);
        if (i % 4 == 0) {
            ret =
                blk_pwrite_zeroes(model.blk, offset, bytes, BDRV_REQ_MAY_UNMAP);
            memset(buf, 0, bytes);
        } else if (i % 4 == 1) {
            ret = blk_flush(model.blk);
            bytes = 0;
        } else {
            ret = blk_pwrite(model.blk, offset, bytes, buf, 0);
        }
        qcow2_disk_fail(qcow2_disk_of(model.file), 0, 0);
        ck_assert(ret == 0 || ret == -EIO);
        if (bytes > 0) {
            ck_assert_int_eq(blk_pread(model.blk, offset, bytes, now, 0), 0);
        }
        for (k = 0;
             k < bytes && (now[k] == buf[k] ||
                           (ret < 0 && now[k] == model.data[offset + k]));
             k++) {
        }
        ck_assert_int_eq(k, bytes);
        memcpy(model.data + offset, now, bytes);
    }
    qcow2_model_assert();
    ck_assert_int_eq(blk_flush(model.blk), 0);
    qcow2_disk_assert_clean(false);
    qcow2_model_reopen();
    qcow2_model_assert();
    g_rand_free(rand);
    qcow2_model_close();
}
END_TEST

/* Clusters for data that could not be written go back. */
START_TEST(test_nothing_leaks)
{
    static const Qcow2ModelConfig c = { 3, 16, MIB, false };
    uint8_t buf[512] = { 1 };

    qcow2_model_open(&c);
    ck_assert_int_eq(blk_pwrite(model.blk, 0, 512, buf, 0), 0);
    qcow2_disk_fail(qcow2_disk_of(model.file), 0, 1);
    ck_assert_int_eq(blk_pwrite(model.blk, 512 * KIB, 512, buf, 0), -EIO);
    /* Another one, so that the file reaches beyond what is looked for. */
    ck_assert_int_eq(blk_pwrite(model.blk, 768 * KIB, 512, buf, 0), 0);
    ck_assert_int_eq(blk_flush(model.blk), 0);
    qcow2_disk_assert_clean(true);
    model.data[0] = model.data[768 * KIB] = 1;
    qcow2_model_assert();
    qcow2_model_close();
}
END_TEST

START_TEST(test_refused)
{
    static const Qcow2ModelConfig v2 = { 2, 16, MIB, true };
    static const Qcow2ModelConfig v3 = { 3, 16, MIB, true };
    uint8_t buf[512] = { 1 };

    qcow2_model_open(&v3);
    /* The driver itself, as nodes may ask it */
    ck_assert_int_eq(blk_pwrite(model.blk, 0, 512, buf, 0), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(model.blk, 0, 512, BDRV_REQ_NO_FALLBACK),
                     -ENOTSUP);
    ck_assert_int_eq(
        blk_pwrite_zeroes(model.blk, 0, 65536, BDRV_REQ_NO_FALLBACK), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(model.blk, 9, 512, BDRV_REQ_NO_FALLBACK),
                     0);
    memset(model.data, 0, 65536);
    qcow2_model_assert();
    qcow2_model_close();

    qcow2_model_open(&v2);
    ck_assert_int_eq(
        blk_pwrite_zeroes(model.blk, 0, 65536, BDRV_REQ_NO_FALLBACK), -ENOTSUP);
    qcow2_model_assert();
    ck_assert_int_eq(blk_pwrite_zeroes(model.blk, 0, 65536, 0), 0);
    memset(model.data, 0, 65536);
    qcow2_model_assert();
    qcow2_model_close();
}
END_TEST

/*
 * An entry that leads behind the end of the file does not make it longer: the data
 * gets another place, and that one is given up.
 */
START_TEST(test_behind_the_file)
{
    static const Qcow2ModelConfig c = { 3, 16, MIB, false };
    static const uint64_t entries[] = {
        (UINT64_C(1) << 40) | QCOW2_COPIED,
        (UINT64_C(1) << 40) | QCOW2_COPIED | QCOW2_ZERO,
    };
    uint8_t buf[512] = { 1 };
    Qcow2State *state;
    int64_t length;
    uint64_t *l2;
    unsigned index;

    qcow2_model_open(&c);
    ck_assert_int_eq(blk_pwrite(model.blk, 0, 512, buf, 0), 0);
    length = qcow2_disk_length(qcow2_disk_of(model.file));
    state = model.file->parents->len
                ? ((BdrvChild *)model.file->parents->pdata[0])->parent->opaque
                : NULL;
    mutex_lock(&state->lock);
    ck_assert_int_eq(qcow2_get_own_l2(state, 65536, &l2, &index), 0);
    l2[index] = GUINT64_TO_BE(entries[_i]);
    qcow2_cache_set_dirty(state->l2_cache, l2);
    qcow2_cache_put(state->l2_cache, (void **)&l2);
    mutex_unlock(&state->lock);
    ck_assert(!qcow2_is_corrupt(state));

    ck_assert_int_eq(blk_pwrite(model.blk, 65536, 512, buf, 0), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(model.blk, 65536 + 512, 512, 0), 0);
    ck_assert(!qcow2_is_corrupt(state));
    ck_assert_int_lt(qcow2_disk_length(qcow2_disk_of(model.file)),
                     length + 2 * state->cluster_size);
    model.data[0] = model.data[65536] = 1;
    qcow2_model_assert();
    /* It was never anybody's to give up. */
    ck_assert_int_eq(blk_flush(model.blk), 0);
    ck_assert(qcow2_is_corrupt(state));
    ck_assert_int_eq(blk_pwrite(model.blk, 0, 512, buf, 0), -EIO);
    qcow2_model_assert();
    qcow2_model_close();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("qcow2-data");
    TCase *tc = tcase_create("qcow2-data");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_model, 0, QCOW2_MODEL_CONFIGS);
    tcase_add_test(tc, test_requests);
    tcase_add_test(tc, test_failures);
    tcase_add_test(tc, test_nothing_leaks);
    tcase_add_test(tc, test_refused);
    tcase_add_loop_test(tc, test_behind_the_file, 0, 2);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
