/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: requests of several threads at once */
#include <string.h>

#include "qcow2-model.h"
#include "unit-main.h"

/* ---- many threads ------------------------------------------------------- */

#define THREADS 4

static void *own_area(void *opaque)
{
    int64_t number = GPOINTER_TO_INT(opaque);
    int64_t size = model.config->length / THREADS;
    int requests = model.config->cluster_bits > 16 ? 50 : 250;
    GRand *rand = g_rand_new_with_seed(number);
    int i;

    for (i = 0; i < requests; i++) {
        qcow2_model_any_request(rand, number * size, (number + 1) * size);
    }
    g_rand_free(rand);
    return NULL;
}

/* All fill in bytes of one value, or zeroes. */
static void *common_area(void *opaque)
{
    int number = GPOINTER_TO_INT(opaque);
    int64_t size = INT64_C(1) << model.config->cluster_bits;
    GRand *rand = g_rand_new_with_seed(number);
    g_autofree uint8_t *buf = g_malloc(3 * size);
    int i;
    int64_t k;

    for (i = 0; i < 250; i++) {
        int64_t bytes = g_rand_int_range(rand, 1, 3 * size);
        int64_t offset = g_rand_int_range(rand, 0, 8 * size);

        switch (g_rand_int_range(rand, 0, 6)) {
        case 0:
            ck_assert_int_eq(blk_pwrite_zeroes(model.blk, offset, bytes,
                                               i % 2 ? BDRV_REQ_MAY_UNMAP : 0),
                             0);
            break;
        case 1:
            ck_assert_int_eq(blk_pdiscard(model.blk, offset, bytes), 0);
            break;
        case 2:
            ck_assert_int_eq(blk_pread(model.blk, offset, bytes, buf, 0), 0);
            for (k = 0; k < bytes && buf[k] <= THREADS; k++) {
            }
            ck_assert_int_eq(k, bytes);
            break;
        default:
            memset(buf, number + 1, bytes);
            ck_assert_int_eq(blk_pwrite(model.blk, offset, bytes, buf, 0), 0);
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
    ck_assert_int_eq(blk_flush(model.blk), 0);
    qcow2_disk_assert_clean(true);
}

START_TEST(test_own_areas)
{
    qcow2_model_open(&qcow2_model_configs[_i]);
    run_threads(own_area);
    qcow2_model_assert();
    qcow2_model_reopen();
    qcow2_model_assert();
    qcow2_model_assert_status();
    qcow2_model_close();
}
END_TEST

/* Every fourth block, in clusters that nobody has yet, once */
static void *every_fourth_block(void *opaque)
{
    int64_t number = GPOINTER_TO_INT(opaque);
    int64_t offset;

    for (offset = number * 512; offset < model.config->length;
         offset += THREADS * 512) {
        qcow2_model_write(offset, 512, offset / 512);
    }
    return NULL;
}

START_TEST(test_neighbours)
{
    static const Qcow2ModelConfig small[] = {
        { 3, 12, 256 * KIB, false },
        { 3, 16, 256 * KIB, true },
    };

    qcow2_model_open(&small[_i]);
    run_threads(every_fourth_block);
    qcow2_model_assert();
    qcow2_model_close();
}
END_TEST

START_TEST(test_common_area)
{
    static const Qcow2ModelConfig small[] = {
        { 3, 9, 64 * KIB, false },
        { 2, 12, MIB, false },
        { 3, 16, MIB, false },
    };

    qcow2_model_open(&small[_i]);
    run_threads(common_area);
    qcow2_model_close();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("qcow2-threads");
    TCase *tc = tcase_create("qcow2-threads");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_own_areas, 0, QCOW2_MODEL_CONFIGS);
    tcase_add_loop_test(tc, test_neighbours, 0, 2);
    tcase_add_loop_test(tc, test_common_area, 0, 3);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
