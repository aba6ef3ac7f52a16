/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver "file" under requests of all kinds at once, that overlap each
 * other, while a second node on the same file comes and goes: whatever is
 * called zero afterwards must read as zeroes.
 */
#include <glib/gstdio.h>

#include "file-node.h"
#include "test-fs.h"
#include "unit-main.h"

#define LENGTH (96 * KIB + 1234)
#define LONGEST 30000
#define THREADS 4
#define REQUESTS 1000

static BlockDriverState *node;
static int running; /* atomic: threads that make requests */

static void teardown(void)
{
    bdrv_close_all();
    g_remove(path);
    g_free(path);
}

static void make_request(BlockDriverState *bs, GRand *rand)
{
    int64_t bytes = g_rand_int_range(rand, 1, LONGEST);
    int64_t offset = g_rand_int_range(rand, 0, LENGTH - bytes);
    int64_t pnum;

    switch (g_rand_int_range(rand, 0, 8)) {
    case 0:
    case 1:
        ASSERT_WRITES(bs, offset, bytes, 1 + offset % 255);
        break;
    case 2:
        ck_assert_int_eq(bdrv_pwrite_zeroes(bs, offset, bytes, 0), 0);
        break;
    case 3:
        ck_assert_int_eq(
            bdrv_pwrite_zeroes(bs, offset, bytes, BDRV_REQ_MAY_UNMAP), 0);
        break;
    case 4:
        ck_assert_int_eq(bdrv_pdiscard(bs, offset, bytes), 0);
        break;
    case 5:
    case 6:
        status(bs, offset, LENGTH - offset, &pnum);
        break;
    case 7:
        if (g_rand_int_range(rand, 0, 50) == 0) {
            ck_assert_int_eq(bdrv_flush(bs), 0);
            status_cache_forget(state(bs)->cache, 0, LENGTH);
        }
        break;
    }
}

static gpointer make_requests(gpointer opaque)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(GPOINTER_TO_INT(opaque));
    int i;

    for (i = 0; i < REQUESTS; i++) {
        make_request(node, rand);
    }
    g_atomic_int_add(&running, -1);
    return NULL;
}

/* Until the others have ended */
static void come_and_go(const char *options)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(0);

    while (g_atomic_int_get(&running) > 0) {
        BlockDriverState *second = open_node("second", options);
        int i;

        for (i = 0; i < 20; i++) {
            make_request(second, rand);
        }
        close_node(second);
        for (i = 0; i < 20; i++) {
            make_request(node, rand);
        }
    }
}

static void check_zeroes(void)
{
    g_autofree char *contents = NULL;
    int64_t offset, pnum, i, zeroes = 0;
    int ret;

    ck_assert(g_file_get_contents(path, &contents, NULL, NULL));
    for (offset = 0; offset < LENGTH; offset += pnum) {
        ret = status(node, offset, LENGTH - offset, &pnum);
        for (i = offset; (ret & BDRV_BLOCK_ZERO) && i < offset + pnum; i++) {
            zeroes++;
            ck_assert_msg(contents[i] == 0, "byte %jd is %d", (intmax_t)i,
                          contents[i]);
        }
    }
    ck_assert_int_ge(zeroes, 32 * KIB);
    ck_assert_int_eq(file_length(), LENGTH);
}

START_TEST(test_mix)
{
    const char *cache =
        _i & 1 ? "'cache':{'direct':true}" : "'status-cache-granularity':512";
    g_autofree char *options = g_strdup_printf("'discard':'unmap',%s", cache);
    GThread *threads[THREADS];
    size_t i;

    path = g_strdup_printf("%s/disk", test_fs[_i / 2].dir);
    make_file(LENGTH);
    node = open_node("n", options);
    running = THREADS;
    for (i = 0; i < THREADS; i++) {
        threads[i] = g_thread_new("requests", make_requests,
                                  GINT_TO_POINTER(_i * THREADS + i + 1));
    }
    if (_i & 1) {
        come_and_go(_i & 2 ? "'discard':'unmap','status-cache':'off'"
                           : "'discard':'unmap'");
    }
    for (i = 0; i < THREADS; i++) {
        g_thread_join(threads[i]);
    }
    ck_assert_int_eq(status_cache_get_mode(state(node)->cache),
                     STATUS_CACHE_ON);
    /* By chance all could be data in the end: then nothing was checked. */
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 8 * KIB, 32 * KIB, 0), 0);
    check_zeroes();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("file-mix");
    TCase *tc = tcase_create("file-mix");
    int ret;

    test_fs_set_up();
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, NULL, teardown);
    tcase_add_loop_test(tc, test_mix, 0, 2 * n_test_fs);
    suite_add_tcase(s, tc);
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
