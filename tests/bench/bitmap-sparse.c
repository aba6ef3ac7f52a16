/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bitmaps to be measured: util/sparse-bitmap. */
#include "bitmap-kinds.h"
#include "util/sparse-bitmap.h"

static void *create(uint64_t nbits)
{
    return sparse_bitmap_new(nbits);
}

static void destroy(void *bitmap)
{
    sparse_bitmap_free(bitmap);
}

static void set(void *bitmap, uint64_t start, uint64_t count)
{
    sparse_bitmap_set(bitmap, start, count);
}

static void clear(void *bitmap, uint64_t start, uint64_t count)
{
    sparse_bitmap_clear(bitmap, start, count);
}

static bool test(void *bitmap, uint64_t bit)
{
    return sparse_bitmap_test(bitmap, bit);
}

static uint64_t next_set(void *bitmap, uint64_t start, uint64_t end)
{
    return sparse_bitmap_next_set(bitmap, start, end);
}

static uint64_t next_clear(void *bitmap, uint64_t start, uint64_t end)
{
    return sparse_bitmap_next_clear(bitmap, start, end);
}

static uint64_t next_change(void *bitmap, uint64_t start, uint64_t end)
{
    return sparse_bitmap_next_change(bitmap, start, end, NULL);
}

static uint64_t count(void *bitmap)
{
    return sparse_bitmap_count(bitmap);
}

static uint64_t count_range(void *bitmap, uint64_t start, uint64_t n)
{
    return sparse_bitmap_count_range(bitmap, start, n);
}

static uint64_t memory(void *bitmap)
{
    sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(bitmap));
    return sparse_bitmap_memory(bitmap);
}

const BitmapKind bitmap_sparse = {
    .name = "ours",
    .create = create,
    .destroy = destroy,
    .set = set,
    .clear = clear,
    .test = test,
    .next_set = next_set,
    .next_clear = next_clear,
    .next_change = next_change,
    .count = count,
    .count_range = count_range,
    .memory = memory,
};
