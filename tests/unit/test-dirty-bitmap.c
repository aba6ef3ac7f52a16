/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dirty bitmaps (block/dirty-bitmap.c) on a node that is only a length */
#include <string.h>

#include "block/dirty-bitmap.h"
#include "unit-main.h"

#define KIB INT64_C(1024)

static int64_t node_length;
static BlockDriverState node;

/* Takes the place of the block layer's: the only thing asked of a node */
int64_t bdrv_getlength(BlockDriverState *bs)
{
    return node_length;
}

static void set_up(void)
{
    memset(&node, 0, sizeof(node));
    node.node_name = (char *)"n0";
    mutex_init(&node.dirty_lock);
    node_length = 1000 * KIB + 100;
}

static void tear_down(void)
{
    ck_assert_int_eq(node.n_dirty_bitmaps, 0);
    if (node.dirty_bitmaps) {
        ck_assert_uint_eq(node.dirty_bitmaps->len, 0);
        g_ptr_array_unref(node.dirty_bitmaps);
    }
    mutex_destroy(&node.dirty_lock);
}

static BdrvDirtyBitmap *create(uint32_t granularity, const char *name)
{
    g_autoptr(GError) err = NULL;
    BdrvDirtyBitmap *bitmap;

    bitmap = bdrv_create_dirty_bitmap(&node, granularity, name, &err);
    ck_assert_msg(bitmap != NULL, "%s", err ? err->message : "no error");
    return bitmap;
}

static void refused(uint32_t granularity, const char *name, const char *message)
{
    g_autoptr(GError) err = NULL;

    ck_assert_ptr_null(
        bdrv_create_dirty_bitmap(&node, granularity, name, &err));
    ck_assert_ptr_nonnull(err);
    ck_assert_str_eq(err->message, message);
}

static void next_area(BdrvDirtyBitmap *bitmap, int64_t offset, int64_t end,
                      int64_t max, int64_t want_offset, int64_t want_bytes)
{
    int64_t dirty_offset, dirty_bytes;

    ck_assert(bdrv_dirty_bitmap_next_area(bitmap, offset, end, max,
                                          &dirty_offset, &dirty_bytes));
    ck_assert_int_eq(dirty_offset, want_offset);
    ck_assert_int_eq(dirty_bytes, want_bytes);
}

START_TEST(test_parameters)
{
    g_autofree char *long_name = g_strnfill(1024, 'x');
    g_autofree char *message = NULL;
    BdrvDirtyBitmap *bitmap;

    refused(0, NULL, "Granularity must be power of 2 and at least 512");
    refused(256, NULL, "Granularity must be power of 2 and at least 512");
    refused(65535, NULL, "Granularity must be power of 2 and at least 512");
    refused(512, "", "Bitmap name cannot be empty");
    message = g_strconcat("Bitmap name too long: ", long_name, NULL);
    refused(512, long_name, message);
    bitmap = create(UINT32_C(1) << 31, "b0");
    refused(512, "b0", "Bitmap already exists: b0");
    ck_assert_uint_eq(bdrv_dirty_bitmap_granularity(bitmap), UINT32_C(1) << 31);
    ck_assert_str_eq(bdrv_dirty_bitmap_name(bitmap), "b0");
    bdrv_set_dirty(&node, 0, 1);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), node_length);
    bdrv_release_dirty_bitmap(&node, bitmap);

    node_length = -EIO;
    refused(512, NULL,
            "Could not get the length of node 'n0': Input/output error");
}
END_TEST

START_TEST(test_mark_and_reset)
{
    BdrvDirtyBitmap *bitmap = create(64 * KIB, NULL);
    int64_t offset, bytes;

    ck_assert_ptr_null(bdrv_dirty_bitmap_name(bitmap));
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 0);
    ck_assert(
        !bdrv_dirty_bitmap_next_area(bitmap, 0, INT64_MAX, 1, &offset, &bytes));

    /* One byte either side of a boundary marks two granules. */
    bdrv_set_dirty(&node, 64 * KIB - 1, 2);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 128 * KIB);
    bdrv_set_dirty(&node, 0, 0);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 128 * KIB);

    /* The last granule counts up to the end of the disk. */
    bdrv_set_dirty(&node, node_length - 1, 1);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 128 * KIB + 40 * KIB + 100);

    /* What is reset in part stays dirty, but the disk's end is an end. */
    bdrv_reset_dirty_bitmap(bitmap, 1, 128 * KIB - 2);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 128 * KIB + 40 * KIB + 100);
    bdrv_reset_dirty_bitmap(bitmap, 1, 128 * KIB - 1);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 64 * KIB + 40 * KIB + 100);
    bdrv_reset_dirty_bitmap(bitmap, 960 * KIB, 40 * KIB + 100);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 64 * KIB);
    bdrv_reset_dirty_bitmap(bitmap, 0, node_length);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 0);
    bdrv_release_dirty_bitmap(&node, bitmap);
}
END_TEST

START_TEST(test_next_area)
{
    BdrvDirtyBitmap *bitmap = create(64 * KIB, NULL);
    int64_t offset, bytes;

    bdrv_set_dirty_bitmap(bitmap, 128 * KIB, 192 * KIB);
    bdrv_set_dirty_bitmap(bitmap, 960 * KIB, 1);
    next_area(bitmap, 0, INT64_MAX, INT64_MAX, 128 * KIB, 192 * KIB);
    next_area(bitmap, 0, INT64_MAX, 100, 128 * KIB, 100);
    next_area(bitmap, 0, INT64_MAX, 65 * KIB, 128 * KIB, 65 * KIB);
    next_area(bitmap, 0, 130 * KIB, INT64_MAX, 128 * KIB, 2 * KIB);
    next_area(bitmap, 200 * KIB, INT64_MAX, INT64_MAX, 200 * KIB, 120 * KIB);
    next_area(bitmap, 320 * KIB, INT64_MAX, INT64_MAX, 960 * KIB,
              40 * KIB + 100);
    ck_assert(!bdrv_dirty_bitmap_next_area(bitmap, 320 * KIB, 960 * KIB, 1,
                                           &offset, &bytes));
    ck_assert(!bdrv_dirty_bitmap_next_area(bitmap, node_length, INT64_MAX, 1,
                                           &offset, &bytes));
    bdrv_release_dirty_bitmap(&node, bitmap);
}
END_TEST

/* The largest disk: nothing overflows at its end. */
/* How many were marked; the disk's end is no granule's. */
START_TEST(test_reset_count)
{
    BdrvDirtyBitmap *bitmap = create(64 * KIB, NULL);

    bdrv_set_dirty_bitmap(bitmap, 0, 100 * KIB);
    bdrv_set_dirty_bitmap(bitmap, node_length - 1, 1);
    ck_assert_int_eq(bdrv_reset_dirty_bitmap(bitmap, 1, 128 * KIB), 64 * KIB);
    ck_assert_int_eq(bdrv_reset_dirty_bitmap(bitmap, 64 * KIB, 500 * KIB), 0);
    ck_assert_int_eq(bdrv_reset_dirty_bitmap(bitmap, 0, node_length),
                     64 * KIB + node_length % (64 * KIB));
    bdrv_release_dirty_bitmap(&node, bitmap);
}
END_TEST

/* Writes of one who marks by himself: that bitmap only, and that thread only */
static void *write_elsewhere(void *opaque)
{
    bdrv_set_dirty(&node, 0, 1);
    return NULL;
}

START_TEST(test_skip)
{
    BdrvDirtyBitmap *mine = create(64 * KIB, NULL);
    BdrvDirtyBitmap *other = create(64 * KIB, NULL);
    BdrvDirtySkip skip, inner;
    pthread_t thread;

    bdrv_dirty_skip_begin(&skip, mine);
    ck_assert_int_eq(skip.end, 0);
    bdrv_set_dirty(&node, 300 * KIB, 10);
    bdrv_dirty_skip_begin(&inner, other);
    bdrv_set_dirty(&node, 200 * KIB, 5);
    bdrv_dirty_skip_end(&inner);
    ck_assert_int_eq(skip.start, 200 * KIB);
    ck_assert_int_eq(skip.end, 300 * KIB + 10);
    ck_assert_int_eq(inner.end, 200 * KIB + 5);
    ck_assert_int_eq(bdrv_get_dirty_count(mine), 0);
    ck_assert_int_eq(bdrv_get_dirty_count(other), 64 * KIB);
    pthread_create(&thread, NULL, write_elsewhere, NULL);
    pthread_join(thread, NULL);
    ck_assert_int_eq(bdrv_get_dirty_count(mine), 64 * KIB);
    bdrv_dirty_skip_end(&skip);
    bdrv_set_dirty(&node, 300 * KIB, 10);
    ck_assert_int_eq(bdrv_get_dirty_count(mine), 128 * KIB);
    bdrv_release_dirty_bitmap(&node, mine);
    bdrv_release_dirty_bitmap(&node, other);
}
END_TEST

START_TEST(test_largest)
{
    BdrvDirtyBitmap *bitmap;

    node_length = INT64_MAX;
    bitmap = create(512, NULL);
    bdrv_set_dirty(&node, 0, INT64_MAX);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), INT64_MAX);
    next_area(bitmap, 0, INT64_MAX, INT64_MAX, 0, INT64_MAX);
    next_area(bitmap, INT64_MAX - 1, INT64_MAX, 5, INT64_MAX - 1, 1);
    bdrv_reset_dirty_bitmap(bitmap, 0, INT64_MAX - 1);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 511);
    next_area(bitmap, 0, INT64_MAX, INT64_MAX, INT64_MAX - 511, 511);
    bdrv_release_dirty_bitmap(&node, bitmap);
}
END_TEST

/* A write beyond what the disk was: the bitmap grows with it. */
START_TEST(test_growing)
{
    BdrvDirtyBitmap *bitmap;

    node_length = 0;
    bitmap = create(512, NULL);
    bdrv_set_dirty(&node, 1000, 100);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 1100 - 512);
    bdrv_set_dirty(&node, 5000, 10);
    ck_assert_int_eq(bdrv_get_dirty_count(bitmap), 1024 + 5010 - 4608);
    bdrv_release_dirty_bitmap(&node, bitmap);
}
END_TEST

START_TEST(test_query)
{
    BdrvDirtyBitmap *named, *anonymous;
    JsonArray *rows = bdrv_query_dirty_bitmaps(&node);
    JsonObject *row;

    ck_assert_uint_eq(json_array_get_length(rows), 0);
    json_array_unref(rows);

    named = create(4096, "b0");
    anonymous = create(65536, NULL);
    bdrv_set_dirty(&node, 0, 1);
    rows = bdrv_query_dirty_bitmaps(&node);
    ck_assert_uint_eq(json_array_get_length(rows), 2);
    row = json_array_get_object_element(rows, 1);
    ck_assert_str_eq(json_object_get_string_member(row, "name"), "b0");
    ck_assert_int_eq(json_object_get_int_member(row, "count"), 4096);
    ck_assert_int_eq(json_object_get_int_member(row, "granularity"), 4096);
    ck_assert(json_object_get_boolean_member(row, "recording"));
    ck_assert(!json_object_get_boolean_member(row, "busy"));
    ck_assert(!json_object_get_boolean_member(row, "persistent"));
    ck_assert(!json_object_has_member(row, "inconsistent"));
    row = json_array_get_object_element(rows, 0);
    ck_assert(!json_object_has_member(row, "name"));
    ck_assert_int_eq(json_object_get_int_member(row, "count"), 65536);
    json_array_unref(rows);
    bdrv_release_dirty_bitmap(&node, named);
    bdrv_release_dirty_bitmap(&node, anonymous);
}
END_TEST

#define WRITERS 4
#define ROUNDS 200

static int stop_writers;
static int64_t writes_done[WRITERS];

/* Writes granule after granule of its own, until told to stop. */
static void *writer(void *opaque)
{
    int64_t id = GPOINTER_TO_INT(opaque), i;

    for (i = 0; !__atomic_load_n(&stop_writers, __ATOMIC_ACQUIRE); i++) {
        int64_t granule = i % 200 * WRITERS + id;

        bdrv_set_dirty(&node, granule * 512, 512);
        __atomic_store_n(&writes_done[id], i + 1, __ATOMIC_RELEASE);
        /* Mutexes are not fair: let those in who create and release. */
        sched_yield();
    }
    return NULL;
}

/*
 * Bitmaps come and go while writers mark them: a write that began after one
 * was created is in it.
 */
START_TEST(test_threads)
{
    BdrvDirtyBitmap *witness = create(512, "witness");
    pthread_t threads[WRITERS];
    int64_t offset, bytes, i;

    for (i = 0; i < WRITERS; i++) {
        ck_assert_int_eq(
            pthread_create(&threads[i], NULL, writer, GINT_TO_POINTER(i)), 0);
    }
    for (i = 0; i < ROUNDS; i++) {
        BdrvDirtyBitmap *bitmap = create(512, "b0");
        int64_t id = i % WRITERS, done, granule;

        done = __atomic_load_n(&writes_done[id], __ATOMIC_ACQUIRE);
        while (__atomic_load_n(&writes_done[id], __ATOMIC_ACQUIRE) < done + 2) {
            sched_yield();
        }
        granule = (done + 1) % 200 * WRITERS + id;
        ck_assert(bdrv_dirty_bitmap_next_area(
            bitmap, granule * 512, granule * 512 + 1, 1, &offset, &bytes));
        bdrv_release_dirty_bitmap(&node, bitmap);
    }
    __atomic_store_n(&stop_writers, 1, __ATOMIC_RELEASE);
    for (i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    ck_assert_int_gt(bdrv_get_dirty_count(witness), 0);
    ck_assert_int_le(bdrv_get_dirty_count(witness), 200 * WRITERS * 512);
    bdrv_release_dirty_bitmap(&node, witness);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("dirty-bitmap");
    TCase *tc = tcase_create("dirty-bitmap");

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, test_parameters);
    tcase_add_test(tc, test_mark_and_reset);
    tcase_add_test(tc, test_next_area);
    tcase_add_test(tc, test_reset_count);
    tcase_add_test(tc, test_skip);
    tcase_add_test(tc, test_largest);
    tcase_add_test(tc, test_growing);
    tcase_add_test(tc, test_query);
    tcase_add_test(tc, test_threads);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
