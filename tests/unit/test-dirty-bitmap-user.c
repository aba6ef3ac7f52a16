/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dirty bitmaps that users have (block/dirty-bitmap-user.c), on nodes that are
 * only a length */
#include <string.h>

#include "block/dirty-bitmap.h"
#include "unit-main.h"

#define KIB INT64_C(1024)
#define GRANULE (64 * KIB)
#define LENGTH (1000 * KIB + 100)

static BlockDriverState node, other;
static int64_t node_length;
static BdrvDirtyBitmap *bitmap;

/* Takes the place of the block layer's: the only thing asked of a node */
int64_t bdrv_getlength(BlockDriverState *bs)
{
    return bs == &node ? node_length : 2 * LENGTH;
}

static void node_init(BlockDriverState *bs, const char *name)
{
    memset(bs, 0, sizeof(*bs));
    bs->node_name = (char *)name;
    mutex_init(&bs->dirty_lock);
}

static void node_deinit(BlockDriverState *bs)
{
    bdrv_release_named_dirty_bitmaps(bs);
    ck_assert_int_eq(bs->n_dirty_bitmaps, 0);
    g_clear_pointer(&bs->dirty_bitmaps, g_ptr_array_unref);
    mutex_destroy(&bs->dirty_lock);
}

static BdrvDirtyBitmap *create(uint32_t granularity, const char *name)
{
    g_autoptr(GError) err = NULL;
    BdrvDirtyBitmap *b =
        bdrv_create_dirty_bitmap(&node, granularity, name, &err);

    ck_assert_msg(b != NULL, "%s", err ? err->message : "no error");
    return b;
}

static void set_up(void)
{
    node_init(&node, "n0");
    node_init(&other, "n1");
    node_length = LENGTH;
    bitmap = create(GRANULE, "b0");
}

static void tear_down(void)
{
    node_deinit(&node);
    node_deinit(&other);
}

static void write_at(int64_t granule)
{
    bdrv_set_dirty(&node, granule * GRANULE, 1);
}

/* Exactly the granules of @b are marked whose bits are in @want. */
static void marked(BdrvDirtyBitmap *b, unsigned want)
{
    unsigned have = 0, i;

    for (i = 0; i < 16; i++) {
        int64_t offset, bytes;

        if (bdrv_dirty_bitmap_next_area(b, i * GRANULE, (i + 1) * GRANULE, 1,
                                        &offset, &bytes)) {
            have |= 1u << i;
        }
    }
    ck_assert_uint_eq(have, want);
}

static void refused(unsigned flags, const char *message)
{
    g_autoptr(GError) err = NULL;

    ck_assert(!bdrv_dirty_bitmap_check(bitmap, flags, &err));
    ck_assert_ptr_nonnull(err);
    ck_assert_str_eq(err->message, message);
}

static JsonObject *row(JsonArray *rows)
{
    ck_assert_uint_eq(json_array_get_length(rows), 1);
    return json_array_get_object_element(rows, 0);
}

START_TEST(test_find)
{
    BdrvDirtyBitmap *anonymous = create(512, NULL);
    BdrvDirtyBitmap *second = create(512, "b1");
    g_autoptr(GPtrArray) named = bdrv_named_dirty_bitmaps(&node);
    g_autoptr(GError) err = NULL;

    ck_assert_ptr_eq(bdrv_find_dirty_bitmap(&node, "b0", NULL), bitmap);
    ck_assert_ptr_eq(bdrv_find_dirty_bitmap(&node, "b1", NULL), second);
    ck_assert_ptr_null(bdrv_find_dirty_bitmap(&other, "b0", NULL));
    ck_assert_ptr_null(bdrv_find_dirty_bitmap(&node, "b", &err));
    ck_assert_str_eq(err->message, "Dirty bitmap 'b' not found");
    ck_assert_uint_eq(named->len, 2);
    ck_assert_ptr_eq(named->pdata[0], bitmap);
    ck_assert_ptr_eq(named->pdata[1], second);
    bdrv_release_dirty_bitmap(&node, anonymous);
}
END_TEST

START_TEST(test_check)
{
    JsonArray *rows;

    ck_assert(bdrv_dirty_bitmap_check(bitmap, BDRV_BITMAP_DEFAULT, NULL));
    bdrv_dirty_bitmap_set_busy(bitmap, true);
    bdrv_dirty_bitmap_set_busy(bitmap, true);
    bdrv_dirty_bitmap_set_busy(bitmap, false);
    refused(BDRV_BITMAP_ALLOW_RO,
            "Bitmap 'b0' is currently in use by another operation and cannot"
            " be used");
    ck_assert(bdrv_dirty_bitmap_check(
        bitmap, BDRV_BITMAP_READ_ONLY | BDRV_BITMAP_INCONSISTENT, NULL));
    rows = bdrv_query_dirty_bitmaps(&node);
    ck_assert(json_object_get_boolean_member(row(rows), "busy"));
    json_array_unref(rows);
    bdrv_dirty_bitmap_set_busy(bitmap, false);
    ck_assert(bdrv_dirty_bitmap_check(bitmap, BDRV_BITMAP_DEFAULT, NULL));

    bdrv_dirty_bitmap_set_read_only(bitmap, true);
    refused(BDRV_BITMAP_DEFAULT,
            "Bitmap 'b0' is readonly and cannot be modified");
    ck_assert(bdrv_dirty_bitmap_check(bitmap, BDRV_BITMAP_ALLOW_RO, NULL));
    bdrv_dirty_bitmap_set_read_only(bitmap, false);
    ck_assert(bdrv_dirty_bitmap_check(bitmap, BDRV_BITMAP_DEFAULT, NULL));

    ck_assert(!bdrv_dirty_bitmap_persistent(bitmap));
    bdrv_dirty_bitmap_set_persistent(bitmap, true);
    ck_assert(bdrv_dirty_bitmap_persistent(bitmap));
    ck_assert(!bdrv_dirty_bitmap_inconsistent(bitmap));
    bdrv_dirty_bitmap_set_inconsistent(bitmap);
    ck_assert(bdrv_dirty_bitmap_inconsistent(bitmap));
    refused(BDRV_BITMAP_ALLOW_RO,
            "Bitmap 'b0' is inconsistent and cannot be used");
    ck_assert(bdrv_dirty_bitmap_check(
        bitmap, BDRV_BITMAP_READ_ONLY | BDRV_BITMAP_BUSY, NULL));
    rows = bdrv_query_dirty_bitmaps(&node);
    ck_assert(json_object_get_boolean_member(row(rows), "inconsistent"));
    ck_assert(json_object_get_boolean_member(row(rows), "persistent"));
    ck_assert(!json_object_get_boolean_member(row(rows), "recording"));
    json_array_unref(rows);
}
END_TEST

static void count_call(void *opaque)
{
    ++*(int *)opaque;
}

START_TEST(test_enabled)
{
    int calls = 0;

    bdrv_dirty_bitmap_set_notify(&node, bitmap, count_call, &calls);
    ck_assert(bdrv_dirty_bitmap_enabled(bitmap));
    write_at(0);
    bdrv_dirty_bitmap_set_enabled(bitmap, false);
    ck_assert(!bdrv_dirty_bitmap_enabled(bitmap));
    write_at(1);
    ck_assert_int_eq(calls, 1);
    /* Who marks it on purpose does. */
    bdrv_set_dirty_bitmap(bitmap, 2 * GRANULE, 1);
    bdrv_dirty_bitmap_set_enabled(bitmap, true);
    write_at(3);
    ck_assert_int_eq(calls, 2);
    marked(bitmap, 0xd);
}
END_TEST

/* The last granule is whole in what is shown, as it is in QEMU. */
START_TEST(test_query_count)
{
    JsonArray *rows;

    bdrv_set_dirty(&node, LENGTH - 1, 1);
    ck_assert_int_lt(bdrv_get_dirty_count(bitmap), GRANULE);
    rows = bdrv_query_dirty_bitmaps(&node);
    ck_assert_int_eq(json_object_get_int_member(row(rows), "count"), GRANULE);
    json_array_unref(rows);
}
END_TEST

START_TEST(test_clear_and_restore)
{
    SparseBitmap *backup;

    write_at(0);
    write_at(5);
    bdrv_clear_dirty_bitmap(bitmap, NULL);
    marked(bitmap, 0);
    write_at(0);
    write_at(5);
    bdrv_clear_dirty_bitmap(bitmap, &backup);
    marked(bitmap, 0);
    write_at(1);
    bdrv_restore_dirty_bitmap(bitmap, backup);
    marked(bitmap, 0x23);

    bdrv_clear_dirty_bitmap(bitmap, &backup);
    write_at(2);
    bdrv_drop_dirty_backup(bitmap, backup);
    marked(bitmap, 0x4);
    /* What was marked then is not remembered. */
    bdrv_clear_dirty_bitmap(bitmap, &backup);
    bdrv_restore_dirty_bitmap(bitmap, backup);
    marked(bitmap, 0x4);
}
END_TEST

START_TEST(test_merge)
{
    BdrvDirtyBitmap *fine = create(4096, "fine");
    BdrvDirtyBitmap *coarse = create(4 * GRANULE, "coarse");
    SparseBitmap *backup;

    bdrv_set_dirty_bitmap(fine, 2 * GRANULE - 1, 2);
    bdrv_set_dirty_bitmap(fine, LENGTH - 1, 1);
    ck_assert(bdrv_merge_dirty_bitmap(bitmap, fine, NULL, NULL));
    marked(bitmap, 0x8006);
    bdrv_clear_dirty_bitmap(bitmap, NULL);
    write_at(0);
    bdrv_clear_dirty_bitmap(coarse, NULL);
    bdrv_set_dirty_bitmap(coarse, 5 * GRANULE, 1);
    bdrv_set_dirty_bitmap(coarse, LENGTH - 1, 1);
    ck_assert(bdrv_merge_dirty_bitmap(bitmap, coarse, &backup, NULL));
    marked(bitmap, 0xf0f1);
    /* A write that a merged granule has, too */
    write_at(4);
    bdrv_restore_dirty_bitmap(bitmap, backup);
    marked(bitmap, 0x11);
    /* With itself */
    ck_assert(bdrv_merge_dirty_bitmap(bitmap, bitmap, NULL, NULL));
    marked(bitmap, 0x11);
}
END_TEST

/* More runs than are done in one step */
START_TEST(test_many_runs)
{
    BdrvDirtyBitmap *src, *dest;
    int64_t i, n = 5000;

    node_length = n * 1024;
    src = create(512, "src");
    dest = create(512, "dest");
    bdrv_dirty_bitmap_set_enabled(dest, false);
    for (i = 0; i < n; i++) {
        bdrv_set_dirty_bitmap(src, i * 1024, 512);
    }
    ck_assert(bdrv_merge_dirty_bitmap(dest, src, NULL, NULL));
    ck_assert_int_eq(bdrv_get_dirty_count(dest), n * 512);
    bdrv_dirty_bitmap_freeze(src);
    bdrv_set_dirty(&node, 512, 512);
    bdrv_dirty_bitmap_thaw(src, true);
    ck_assert_int_eq(bdrv_get_dirty_count(src), n * 512 + 512);
    ck_assert(bdrv_merge_dirty_bitmap(dest, src, NULL, NULL));
    ck_assert_int_eq(bdrv_get_dirty_count(dest), n * 512 + 512);
    for (i = 0; i < n; i++) {
        int64_t pnum;

        ck_assert(bdrv_dirty_bitmap_status(dest, i * 1024, 1, &pnum));
    }
}
END_TEST

/* Several changes of one bitmap are undone one after the other. */
START_TEST(test_restore_nested)
{
    BdrvDirtyBitmap *src = create(GRANULE, "src");
    SparseBitmap *first, *second;

    bdrv_dirty_bitmap_set_enabled(src, false);
    bdrv_set_dirty_bitmap(src, 7 * GRANULE, 2 * GRANULE);
    write_at(0);
    bdrv_clear_dirty_bitmap(bitmap, &first);
    write_at(1);
    ck_assert(bdrv_merge_dirty_bitmap(bitmap, src, &second, NULL));
    write_at(8);
    marked(bitmap, 0x182);
    bdrv_restore_dirty_bitmap(bitmap, second);
    marked(bitmap, 0x102);
    write_at(3);
    bdrv_restore_dirty_bitmap(bitmap, first);
    marked(bitmap, 0x10b);
}
END_TEST

START_TEST(test_merge_sizes)
{
    g_autoptr(GError) err = NULL;
    BdrvDirtyBitmap *longer =
        bdrv_create_dirty_bitmap(&other, GRANULE, "b0", NULL);

    ck_assert(!bdrv_merge_dirty_bitmap(bitmap, longer, NULL, &err));
    ck_assert_str_eq(err->message,
                     "Bitmaps are of different sizes (destination size is"
                     " 1024512, source size is 2048512) and can't be merged");
}
END_TEST

/* A disk that changes its size under all that a bitmap can have */
START_TEST(test_resize)
{
    SparseBitmap *backup;

    write_at(3);
    write_at(15);
    bdrv_dirty_bitmap_freeze(bitmap);
    write_at(14);
    bdrv_clear_dirty_bitmap(bitmap, &backup);
    bdrv_resize_dirty_bitmaps(&node, 8 * GRANULE);
    write_at(4);
    bdrv_resize_dirty_bitmaps(&node, 32 * GRANULE);
    bdrv_set_dirty(&node, 31 * GRANULE, 1);
    bdrv_restore_dirty_bitmap(bitmap, backup);
    bdrv_dirty_bitmap_thaw(bitmap, true);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 4 * GRANULE);
    marked(bitmap, 0x4018);
}
END_TEST

static void status(int64_t offset, int64_t bytes, bool dirty, int64_t want)
{
    int64_t pnum;

    ck_assert_int_eq(bdrv_dirty_bitmap_status(bitmap, offset, bytes, &pnum),
                     dirty);
    ck_assert_int_eq(pnum, want);
}

START_TEST(test_status)
{
    bdrv_set_dirty_bitmap(bitmap, 2 * GRANULE, 2 * GRANULE);
    bdrv_set_dirty_bitmap(bitmap, LENGTH - 1, 1);
    status(0, LENGTH, false, 2 * GRANULE);
    status(100, 1000, false, 1000);
    status(2 * GRANULE - 1, LENGTH, false, 1);
    status(2 * GRANULE + 5, INT64_MAX, true, 2 * GRANULE - 5);
    status(3 * GRANULE + 5, 10, true, 10);
    status(4 * GRANULE, INT64_MAX, false, 11 * GRANULE);
    status(15 * GRANULE, INT64_MAX, true, LENGTH - 15 * GRANULE);
    status(LENGTH, 17, false, 17);
}
END_TEST

static unsigned frozen_bits(void)
{
    int64_t offset, bytes, from = 0;
    unsigned have = 0;

    while (bdrv_dirty_bitmap_next_frozen(bitmap, from, INT64_MAX, GRANULE,
                                         &offset, &bytes)) {
        have |= 1u << offset / GRANULE;
        from = offset + bytes;
    }
    return have;
}

START_TEST(test_freeze)
{
    JsonArray *rows;

    write_at(0);
    write_at(1);
    write_at(15);
    bdrv_dirty_bitmap_freeze(bitmap);
    refused(BDRV_BITMAP_BUSY,
            "Bitmap 'b0' is currently in use by another operation and cannot"
            " be used");
    ck_assert_uint_eq(frozen_bits(), 0x8003);
    marked(bitmap, 0);
    write_at(1);
    write_at(4);
    /* What is shown is what was set aside. */
    rows = bdrv_query_dirty_bitmaps(&node);
    ck_assert_int_eq(json_object_get_int_member(row(rows), "count"),
                     3 * GRANULE);
    json_array_unref(rows);
    bdrv_dirty_bitmap_reset_frozen(bitmap, 1, 2 * GRANULE - 1);
    ck_assert_uint_eq(frozen_bits(), 0x8001);
    marked(bitmap, 0x12);
    bdrv_dirty_bitmap_thaw(bitmap, true);
    ck_assert(bdrv_dirty_bitmap_check(bitmap, BDRV_BITMAP_DEFAULT, NULL));
    marked(bitmap, 0x8013);

    bdrv_dirty_bitmap_freeze(bitmap);
    bdrv_dirty_bitmap_set_enabled(bitmap, false);
    write_at(5);
    bdrv_dirty_bitmap_set_enabled(bitmap, true);
    write_at(6);
    bdrv_dirty_bitmap_thaw(bitmap, false);
    marked(bitmap, 0x40);
}
END_TEST

START_TEST(test_bits)
{
    BdrvDirtyBitmap *fine = create(512, "fine");
    uint64_t n = bdrv_dirty_bitmap_n_bits(fine);
    uint8_t buf[256], want[256];

    ck_assert_uint_eq(n, (LENGTH + 511) / 512);
    memset(buf, 0xaa, sizeof(buf));
    ck_assert_int_eq(bdrv_dirty_bitmap_get_bits(fine, 0, n, buf), 0);
    ck_assert_int_eq(bdrv_dirty_bitmap_get_bits(fine, 0, 0, buf), 0);
    bdrv_set_dirty_bitmap(fine, 0, LENGTH);
    ck_assert_int_eq(bdrv_dirty_bitmap_get_bits(fine, 0, n, buf), 1);
    ck_assert_uint_eq(buf[0], 0xaa);

    bdrv_clear_dirty_bitmap(fine, NULL);
    bdrv_set_dirty_bitmap(fine, 512, 512);
    bdrv_set_dirty_bitmap(fine, 5 * 512, 30 * 512);
    bdrv_set_dirty_bitmap(fine, LENGTH - 1, 1);
    memset(want, 0, sizeof(want));
    want[0] = 0xe2;
    memset(want + 1, 0xff, 3);
    want[4] = 0x07;
    want[(n - 1) / 8] |= 1 << (n - 1) % 8;
    ck_assert_int_eq(bdrv_dirty_bitmap_get_bits(fine, 0, n, buf), -1);
    ck_assert_mem_eq(buf, want, (n + 7) / 8);
    ck_assert_uint_eq(buf[(n + 7) / 8], 0xaa);
    /* From the middle */
    ck_assert_int_eq(bdrv_dirty_bitmap_get_bits(fine, 3, 12, buf), -1);
    ck_assert_uint_eq(buf[0], 0xfc);
    ck_assert_uint_eq(buf[1], 0x0f);

    /* What is there already goes. */
    bdrv_set_dirty_bitmap(fine, 100 * 512, 800 * 512);
    bdrv_dirty_bitmap_set_bits(fine, 0, n, want);
    ck_assert_int_eq(bdrv_dirty_bitmap_get_bits(fine, 0, n, buf), -1);
    ck_assert_mem_eq(buf, want, (n + 7) / 8);
    bdrv_dirty_bitmap_set_bits(fine, 64, 9, (const uint8_t[]){ 0x01, 0xff });
    ck_assert_int_eq(bdrv_get_dirty_count(fine),
                     31 * 512 + LENGTH % 512 + 2 * 512);
}
END_TEST

START_TEST(test_bits_at_random)
{
    BdrvDirtyBitmap *a = create(512, "a"), *b = create(512, "b");
    uint64_t n = bdrv_dirty_bitmap_n_bits(a);
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    uint8_t buf[256], again[256];
    int round, i;

    for (round = 0; round < 200; round++) {
        uint64_t first = g_rand_int_range(rand, 0, n);
        uint64_t count = g_rand_int_range(rand, 0, n - first + 1);

        bdrv_clear_dirty_bitmap(a, NULL);
        for (i = g_rand_int_range(rand, 0, 40); i > 0; i--) {
            int64_t offset = g_rand_int_range(rand, 0, LENGTH);

            bdrv_set_dirty_bitmap(
                a, offset,
                MIN(LENGTH - offset, g_rand_int_range(rand, 1, 20000)));
        }
        if (bdrv_dirty_bitmap_get_bits(a, first, count, buf) < 0) {
            uint64_t bit;

            for (bit = 0; bit < count; bit++) {
                int64_t pnum;

                ck_assert_int_eq(
                    buf[bit / 8] >> bit % 8 & 1,
                    bdrv_dirty_bitmap_status(a, (first + bit) * 512, 1, &pnum));
            }
            bdrv_dirty_bitmap_set_bits(b, first, count, buf);
            ck_assert_int_eq(bdrv_dirty_bitmap_get_bits(b, first, count, again),
                             -1);
            ck_assert_mem_eq(buf, again, (count + 7) / 8);
        }
    }
}
END_TEST

#define WRITERS 4
#define ROUNDS 300

static int stop_writers;
static int64_t writes_done[WRITERS];

/* Writes one granule of its own after the other, until told to stop. */
static void *writer(void *opaque)
{
    int64_t id = GPOINTER_TO_INT(opaque), i;

    for (i = 0; !__atomic_load_n(&stop_writers, __ATOMIC_ACQUIRE); i++) {
        bdrv_set_dirty(&node, (i % 200 * WRITERS + id) * 512, 512);
        __atomic_store_n(&writes_done[id], i + 1, __ATOMIC_RELEASE);
        sched_yield();
    }
    return NULL;
}

static void wait_for_write(int64_t id, int64_t *granule)
{
    int64_t done = __atomic_load_n(&writes_done[id], __ATOMIC_ACQUIRE);

    while (__atomic_load_n(&writes_done[id], __ATOMIC_ACQUIRE) < done + 2) {
        sched_yield();
    }
    *granule = (done + 1) % 200 * WRITERS + id;
}

/* A write that is done in between is there in the end. */
static void change_and_write(BdrvDirtyBitmap *b, BdrvDirtyBitmap *empty,
                             int kind, int64_t id)
{
    int64_t granule, offset, bytes;
    SparseBitmap *backup = NULL;

    switch (kind) {
    case 0:
    case 1:
        bdrv_dirty_bitmap_freeze(b);
        wait_for_write(id, &granule);
        bdrv_dirty_bitmap_thaw(b, kind);
        break;
    case 2:
        bdrv_clear_dirty_bitmap(b, &backup);
        wait_for_write(id, &granule);
        bdrv_restore_dirty_bitmap(b, backup);
        break;
    case 3:
        ck_assert(bdrv_merge_dirty_bitmap(b, empty, &backup, NULL));
        wait_for_write(id, &granule);
        bdrv_restore_dirty_bitmap(b, backup);
        break;
    default:
        bdrv_clear_dirty_bitmap(b, &backup);
        wait_for_write(id, &granule);
        bdrv_drop_dirty_backup(b, backup);
        break;
    }
    ck_assert(bdrv_dirty_bitmap_next_area(b, granule * 512, granule * 512 + 1,
                                          1, &offset, &bytes));
    bdrv_clear_dirty_bitmap(b, NULL);
}

START_TEST(test_races)
{
    BdrvDirtyBitmap *b = create(512, "raced");
    BdrvDirtyBitmap *empty = create(512, "empty");
    pthread_t threads[WRITERS];
    int64_t i;

    bdrv_dirty_bitmap_set_enabled(empty, false);
    for (i = 0; i < WRITERS; i++) {
        ck_assert_int_eq(
            pthread_create(&threads[i], NULL, writer, GINT_TO_POINTER(i)), 0);
    }
    for (i = 0; i < ROUNDS; i++) {
        change_and_write(b, empty, i % 5, i % WRITERS);
    }
    __atomic_store_n(&stop_writers, 1, __ATOMIC_RELEASE);
    for (i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("dirty-bitmap-user");
    TCase *tc = tcase_create("dirty-bitmap-user");

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, test_find);
    tcase_add_test(tc, test_check);
    tcase_add_test(tc, test_enabled);
    tcase_add_test(tc, test_query_count);
    tcase_add_test(tc, test_clear_and_restore);
    tcase_add_test(tc, test_merge);
    tcase_add_test(tc, test_many_runs);
    tcase_add_test(tc, test_restore_nested);
    tcase_add_test(tc, test_merge_sizes);
    tcase_add_test(tc, test_resize);
    tcase_add_test(tc, test_status);
    tcase_add_test(tc, test_freeze);
    tcase_add_test(tc, test_bits);
    tcase_add_test(tc, test_bits_at_random);
    tcase_add_test(tc, test_races);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
