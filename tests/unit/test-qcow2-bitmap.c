/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: dirty bitmaps are stored in the image, and come back as they were. */
#include <string.h>

#include "qcow2-bitmap-fixture.h"
#include "unit-main.h"

/* ---- there and back ------------------------------------------------------- */

static const struct {
    unsigned cluster_bits;
    int64_t length;
} shapes[] = {
    { 9, 3 * MIB + 512 }, { 12, 40 * MIB }, { 16, 9 * MIB + 512 }, { 9, 512 }
};

/* Any bits, in clusters of all ones, of all zeroes, and of both */
START_TEST(test_round_trip)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(_i);
    g_autofree char *fine = NULL, *coarse = NULL;
    int64_t length = shapes[_i].length;
    BdrvDirtyBitmap *bitmap;
    int round, i;

    make_file(3, shapes[_i].cluster_bits, length, -1, false);
    open_image(false);
    add("fine", 512);
    add("coarse", 64 * KIB);
    for (round = 0; round < 4; round++) {
        bitmap = get("fine");
        if (round == 2) {
            bdrv_set_dirty_bitmap(bitmap, 0, length);
        }
        for (i = 0; i < 5; i++) {
            int64_t at = g_rand_double(rand) * length;
            int64_t bytes = g_rand_double(rand) * (length - at);

            if (g_rand_boolean(rand)) {
                bdrv_set_dirty_bitmap(bitmap, at, bytes);
            } else {
                bdrv_reset_dirty_bitmap(bitmap, at, bytes);
            }
            write_at(at / 512 * 512, 512);
        }
        g_free(fine);
        g_free(coarse);
        fine = bits_of("fine");
        coarse = bits_of("coarse");
        close_image();
        open_image(true);
        assert_bits("fine", fine);
        assert_bits("coarse", coarse);
        qcow2_disk_assert_clean(true);
        close_image();
        open_image(false);
        assert_bits("fine", fine);
    }
    close_all();
}
END_TEST

/* What is all clear or all set takes no clusters, and as long as the bitmaps are
 * the same the file becomes no longer. */
START_TEST(test_uniform)
{
    uint8_t table[16];
    int64_t length = 0;
    int round;

    make_file(3, 9, 4 * MIB, -1, false); /* two clusters of bits */
    open_image(false);
    add("b", 512);
    bdrv_set_dirty_bitmap(get("b"), 0, 2 * MIB);
    for (round = 0; round < 5; round++) {
        close_image();
        open_image(false);
        qcow2_read_file(s, ((Qcow2Bitmap *)s->bitmaps->pdata[0])->table_offset,
                        sizeof(table), table);
        ck_assert_uint_eq(qcow2_get_be64(table), QCOW2_BITMAP_ALL_ONES);
        ck_assert_uint_eq(qcow2_get_be64(table + 8), 0);
        if (round > 1) {
            ck_assert_int_eq(qcow2_disk_length(qcow2_disk_of(file)), length);
        }
        length = qcow2_disk_length(qcow2_disk_of(file));
    }
    qcow2_disk_assert_clean(true);
    close_all();
}
END_TEST

START_TEST(test_flags)
{
    make_file(3, 9, MIB, -1, false);
    open_image(false);
    add("on", 4096);
    add("off", 4096);
    bdrv_dirty_bitmap_set_enabled(get("off"), false);
    write_at(8192, 512);
    ck_assert_int_eq(stored_flags("on"), -1); /* not yet */
    close_image();

    open_image(true);
    ck_assert(bdrv_dirty_bitmap_enabled(get("on")));
    ck_assert(!bdrv_dirty_bitmap_enabled(get("off")));
    ck_assert(bdrv_dirty_bitmap_persistent(get("on")));
    ck_assert(!bdrv_dirty_bitmap_check(get("on"), BDRV_BITMAP_READ_ONLY, NULL));
    ck_assert_int_eq(stored_flags("on"), QCOW2_BITMAP_AUTO);
    ck_assert_int_eq(stored_flags("off"), 0);
    ck_assert_int_eq(bdrv_get_dirty_count(get("on")), 4096);
    ck_assert_int_eq(bdrv_get_dirty_count(get("off")), 0);
    close_image();

    open_image(false);
    ck_assert(bdrv_dirty_bitmap_check(get("on"), BDRV_BITMAP_DEFAULT, NULL));
    ck_assert_int_eq(stored_flags("on"),
                     QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO);
    ck_assert_int_eq(stored_flags("off"), QCOW2_BITMAP_IN_USE);
    close_all();
}
END_TEST

START_TEST(test_remove)
{
    g_autoptr(GError) err = NULL;
    int64_t length;

    make_file(3, 9, MIB, -1, false);
    open_image(false);
    add("a", 4096);
    add("b", 512);
    write_at(5000 / 512 * 512, 512);
    close_image();
    open_image(true);
    ck_assert_int_eq(take("a", &err), -EACCES);
    close_image();
    open_image(false);
    ck_assert_int_eq(take("a", NULL), 0);
    ck_assert_int_eq(stored_flags("a"), -1);
    close_image();
    open_image(false);
    ck_assert_ptr_null(get("a"));
    ck_assert_ptr_nonnull(get("b"));
    length = qcow2_disk_length(qcow2_disk_of(file));
    ck_assert_int_eq(take("b", NULL), 0);
    ck_assert_uint_eq(s->autoclear, 0);
    ck_assert_uint_eq(s->extensions->len, 0);
    ck_assert_int_eq(qcow2_disk_length(qcow2_disk_of(file)), length);
    /* There is none of that name: that is no error. */
    bdrv_graph_lock();
    ck_assert_int_eq(qcow2_remove_stored_bitmap(bs, "b", NULL), 0);
    bdrv_graph_unlock();
    close_image();
    open_image(true);
    ck_assert_ptr_null(s->bitmaps);
    qcow2_disk_assert_clean(true);
    close_all();
}
END_TEST

/* ---- what cannot be ------------------------------------------------------- */

static void assert_cannot_store(const char *name, uint32_t granularity,
                                const char *why)
{
    g_autoptr(GError) err = NULL;

    bdrv_graph_lock();
    ck_assert(!qcow2_can_store_bitmap(bs, name, granularity, &err));
    bdrv_graph_unlock();
    ck_assert_msg(strstr(err->message, why), "%s", err->message);
    ck_assert(g_str_has_prefix(err->message, "Can't make bitmap '"));
}

START_TEST(test_cannot_store)
{
    g_autofree char *name = g_strnfill(1024, 'n');

    make_file(2, 9, MIB, -1, false);
    open_image(false);
    assert_cannot_store("b", 512,
                        "Cannot store dirty bitmaps in qcow2 v2 files");
    close_all();
    make_file(3, 16, INT64_C(1) << 42, -1, false);
    open_image(false);
    assert_cannot_store("b", 512, "Too much space will be occupied");
    assert_cannot_store(name, MIB, "Name length exceeds maximum (1023");
    assert_cannot_store("b", 256, "Granularity must be from 512 to 2147483648");
    add("b", 1024); /* 512 MiB */
    close_all();
    make_file(3, 16, 0, -1, false);
    open_image(false);
    assert_cannot_store("b", 512, "0 bytes");
    close_all();
}
END_TEST

/* ---- read-only and writable ----------------------------------------------- */

START_TEST(test_reopen)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *bits = NULL;

    make_file(3, 9, MIB, -1, false);
    open_image(false);
    add("a", 512);
    write_at(512, 512);
    bits = bits_of("a");
    close_image();

    open_image(true);
    ck_assert(reopen(false, NULL));
    ck_assert_int_eq(stored_flags("a"),
                     QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO);
    ck_assert(bdrv_dirty_bitmap_check(get("a"), BDRV_BITMAP_DEFAULT, NULL));
    add("b", 4096);
    bdrv_set_dirty_bitmap(get("b"), 0, 1);
    ck_assert(reopen(true, NULL));
    ck_assert_int_eq(stored_flags("a"), QCOW2_BITMAP_AUTO);
    ck_assert_int_eq(stored_flags("b"), QCOW2_BITMAP_AUTO);
    ck_assert(!bdrv_dirty_bitmap_check(get("b"), BDRV_BITMAP_READ_ONLY, NULL));
    assert_bits("a", bits);
    qcow2_disk_assert_clean(true);
    /* A job has set something aside. */
    ck_assert(reopen(false, NULL));
    bdrv_dirty_bitmap_freeze(get("b"));
    ck_assert(!reopen(true, &err));
    ck_assert_str_eq(err->message, "Bitmap 'b' is currently in use by another "
                                   "operation and cannot be used");
    bdrv_dirty_bitmap_thaw(get("b"), true);
    ck_assert_int_eq(stored_flags("b"),
                     QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO);
    close_image();
    open_image(true);
    assert_bits("a", bits);
    ck_assert_int_eq(bdrv_get_dirty_count(get("b")), 4096);
    close_all();
}
END_TEST

static void set_writes(bool writes)
{
    bdrv_graph_lock();
    ck_assert(blk_set_perm(
        blk, BLK_PERM_CONSISTENT_READ | (writes ? BLK_PERM_WRITE : 0),
        BLK_PERM_ALL, NULL));
    bdrv_graph_unlock();
}

/* What was stored to become read-only is in use again if it does not. */
START_TEST(test_reopen_is_undone)
{
    g_autoptr(GBytes) image = NULL;
    g_autofree char *bits = NULL;
    g_autoptr(GError) err = NULL;

    make_file(3, 9, MIB, -1, false);
    open_image(false);
    add("a", 512);
    ck_assert(!reopen(true, &err)); /* somebody writes */
    ck_assert_int_eq(stored_flags("a"),
                     QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO);
    ck_assert(bdrv_dirty_bitmap_check(get("a"), BDRV_BITMAP_DEFAULT, NULL));
    write_at(512, 512);
    bits = bits_of("a");
    image = get_file();
    close_image();
    open_image(true);
    assert_bits("a", bits);
    close_image();
    put_file(image);
    open_image(true);
    ck_assert(is_inconsistent("a"));
    close_all();
}
END_TEST

/* Nothing is written as long as the image would say what is not true then. */
START_TEST(test_mark_fails)
{
    g_autofree uint8_t *buf = g_malloc0(512);
    g_autofree char *bits = NULL;

    make_file(3, 9, MIB, -1, false);
    open_image(false);
    add("a", 512);
    write_at(512, 512);
    bits = bits_of("a");
    close_image();
    qcow2_disk_fail(qcow2_disk_of(file), 0, 1);
    ck_assert(!try_open(false, NULL));

    open_image(true);
    qcow2_disk_fail(qcow2_disk_of(file), 0, 1);
    ck_assert(reopen(false, NULL));
    ck_assert_int_eq(stored_flags("a"), QCOW2_BITMAP_AUTO);
    ck_assert(!bdrv_dirty_bitmap_check(get("a"), BDRV_BITMAP_READ_ONLY, NULL));
    set_writes(true);
    ck_assert_int_eq(blk_pwrite(blk, 512, 512, buf, 0), -EIO);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 512, 512, 0), -EIO);
    ck_assert(reopen(false, NULL)); /* tries again */
    ck_assert_int_eq(blk_pwrite(blk, 512, 512, buf, 0), 0);
    close_image();
    open_image(true);
    assert_bits("a", bits);
    close_all();
}
END_TEST

/* ---- other lengths -------------------------------------------------------- */

static int resize(int64_t length, GError **errp)
{
    int ret;

    bdrv_graph_lock();
    ret = bdrv_resize(bs, length, errp);
    bdrv_graph_unlock();
    return ret;
}

START_TEST(test_resize)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(GBytes) image = NULL;

    make_file(3, 9, 2 * MIB, -1, false);
    open_image(false);
    add("a", 65536);
    write_at(0, 512);
    write_at(MIB, 512);
    close_image();
    open_image(false);
    ck_assert_int_eq(resize(2 * MIB + 65536 + 512, NULL), 0);
    write_at(2 * MIB, 512);
    image = get_file(); /* its table is too short, but it is in use */
    close_image();
    open_image(false);
    assert_bits("a", "1000000000000000"
                     "1000000000000000"
                     "10");
    ck_assert_int_eq(resize(65536 * 17, NULL), 0);
    close_image();
    open_image(false);
    assert_bits("a", "10000000000000001");
    ck_assert_int_eq(resize(0, &err), -ENOTSUP);
    ck_assert_msg(strstr(err->message, "'a': "), "%s", err->message);
    g_clear_error(&err);
    ck_assert_int_eq(resize(INT64_C(1) << 60, &err), -ENOTSUP);
    ck_assert_msg(strstr(err->message, "Too much space"), "%s", err->message);
    g_clear_error(&err);
    close_image();

    put_file(image);
    open_image(false);
    ck_assert(is_inconsistent("a"));
    ck_assert_int_eq(resize(MIB, &err), -ENOTSUP);
    ck_assert_str_eq(err->message,
                     "Bitmap 'a' is inconsistent and cannot be used");
    ck_assert_int_eq(take("a", NULL), 0);
    ck_assert_int_eq(resize(MIB, NULL), 0);
    qcow2_disk_assert_clean(true);
    close_all();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-bitmap");
    TCase *tc = tcase_create("qcow2-bitmap");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_round_trip, 0, G_N_ELEMENTS(shapes));
    tcase_add_test(tc, test_uniform);
    tcase_add_test(tc, test_flags);
    tcase_add_test(tc, test_remove);
    tcase_add_test(tc, test_cannot_store);
    tcase_add_test(tc, test_reopen);
    tcase_add_test(tc, test_reopen_is_undone);
    tcase_add_test(tc, test_mark_fails);
    tcase_add_test(tc, test_resize);
    suite_add_tcase(suite, tc);
    return unit_main(suite);
}
