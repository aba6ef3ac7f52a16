/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The drivers "file" and "host_device" under requests of all kinds at once, that
 * overlap each other, while a second node on the same disk comes and goes:
 * whatever is called zero afterwards must read as zeroes.
 */
#include <glib/gstdio.h>

#include "file-node.h"
#include "loop-device.h"
#include "test-fs.h"
#include "unit-main.h"

#define FILE_LENGTH (96 * KIB + 1234)
#define DEVICE_LENGTH (100 * KIB)
#define LONGEST 30000
#define THREADS 4
#define REQUESTS 1000

static BlockDriverState *node;
static int64_t length;
static int running; /* atomic: threads that make requests */

static void teardown(void)
{
    bdrv_close_all();
    g_free(path);
}

static void make_request(BlockDriverState *bs, GRand *rand)
{
    int64_t bytes = g_rand_int_range(rand, 1, LONGEST);
    int64_t offset = g_rand_int_range(rand, 0, length - bytes);
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
        status(bs, offset, length - offset, &pnum);
        break;
    case 7:
        if (g_rand_int_range(rand, 0, 50) == 0) {
            ck_assert_int_eq(bdrv_flush(bs), 0);
            status_cache_forget(state(bs)->cache, 0, length);
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
    for (offset = 0; offset < length; offset += pnum) {
        ret = status(node, offset, length - offset, &pnum);
        for (i = offset; (ret & BDRV_BLOCK_ZERO) && i < offset + pnum; i++) {
            zeroes++;
            ck_assert_msg(contents[i] == 0, "byte %jd is %d", (intmax_t)i,
                          contents[i]);
        }
    }
    ck_assert_int_ge(zeroes, 32 * KIB);
}

/*
 * @i: odd numbers are direct. @second: more options of the node that comes and
 * goes.
 */
static void mix(int i, const char *second)
{
    const char *cache =
        i & 1 ? "'cache':{'direct':true}" : "'status-cache-granularity':512";
    g_autofree char *options = g_strdup_printf("'discard':'unmap',%s", cache);
    g_autofree char *second_options = g_strdup_printf(
        "'discard':'unmap'%s%s", i & 2 ? ",'status-cache':'off'" : "", second);
    GThread *threads[THREADS];
    size_t t;

    node = open_node("n", options);
    running = THREADS;
    for (t = 0; t < THREADS; t++) {
        threads[t] = g_thread_new("requests", make_requests,
                                  GINT_TO_POINTER(i * THREADS + t + 1));
    }
    if (i & 1) {
        come_and_go(second_options);
    }
    for (t = 0; t < THREADS; t++) {
        g_thread_join(threads[t]);
    }
    ck_assert_int_eq(status_cache_get_mode(state(node)->cache),
                     STATUS_CACHE_ON);
    /* By chance all could be data in the end: then nothing was checked. */
    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 8 * KIB, 32 * KIB, 0), 0);
    check_zeroes();
}

START_TEST(test_file)
{
    path = g_strdup_printf("%s/disk", test_fs[_i / 2].dir);
    length = FILE_LENGTH;
    make_file(length);
    mix(_i, "");
    ck_assert_int_eq(file_length(), length);
    ck_assert_int_eq(g_remove(path), 0);
}
END_TEST

/* Of logical blocks of 512 bytes, then of 4 KiB */
START_TEST(test_device)
{
    const LoopDeviceOptions options = { .block_size = _i & 4 ? 4096 : 512 };
    g_autofree char *file = g_strdup_printf("%s/disk", test_fs[0].dir);
    LoopDevice *loop;

    node_driver = "host_device";
    path = file;
    length = DEVICE_LENGTH;
    make_file(length);
    loop = loop_device_new(file, &options);
    path = g_strdup(loop->node);
    /* The kernel takes direct and buffered writes that meet on a device for an
     * error, which they are. */
    mix(_i, ",'cache':{'direct':true}");
    bdrv_close_all();
    loop_device_free(loop);
    ck_assert_int_eq(g_remove(file), 0);
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
    tcase_add_loop_test(tc, test_file, 0, 2 * n_test_fs);
    if (loop_device_possible()) {
        tcase_add_loop_test(tc, test_device, 0, 8);
    }
    suite_add_tcase(s, tc);
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
