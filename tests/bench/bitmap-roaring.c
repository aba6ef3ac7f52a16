/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bitmaps to be measured: CRoaring's, one for each 2^32 bits, as its Roaring64Map
 * (C++) has it; the version in Debian 12 knows no other 64-bit form in C.
 *
 * It has no "next clear". That is made here, of what its public headers tell of
 * the containers: where the run, or the words of ones, end.
 */
#include "bitmap-kinds.h"

#include <glib.h>
#include <roaring/roaring.h>

#define KEY_BITS 16
#define CONTAINER_BITS (UINT32_C(1) << KEY_BITS)
#define PART_BITS (UINT64_C(1) << 32)

typedef struct Roaring {
    uint64_t n;
    roaring_bitmap_t **parts;
} Roaring;

static void *create(uint64_t nbits)
{
    Roaring *r = g_new(Roaring, 1);
    uint64_t i;

    r->n = (nbits + PART_BITS - 1) / PART_BITS;
    r->parts = g_new(roaring_bitmap_t *, r->n);
    for (i = 0; i < r->n; i++) {
        r->parts[i] = roaring_bitmap_create();
    }
    return r;
}

static void destroy(void *bitmap)
{
    Roaring *r = bitmap;
    uint64_t i;

    for (i = 0; i < r->n; i++) {
        roaring_bitmap_free(r->parts[i]);
    }
    g_free(r->parts);
    g_free(r);
}

static void assign(Roaring *r, uint64_t start, uint64_t count, bool value)
{
    while (count > 0) {
        roaring_bitmap_t *part = r->parts[start / PART_BITS];
        uint64_t n = MIN(count, PART_BITS - start % PART_BITS);
        uint32_t first = start, last = start + (n - 1);

        if (n == 1 && value) {
            roaring_bitmap_add(part, first);
        } else if (n == 1) {
            roaring_bitmap_remove(part, first);
        } else if (value) {
            roaring_bitmap_add_range_closed(part, first, last);
        } else {
            roaring_bitmap_remove_range_closed(part, first, last);
        }
        start += n;
        count -= n;
    }
}

static void set(void *bitmap, uint64_t start, uint64_t count)
{
    assign(bitmap, start, count, true);
}

static void clear(void *bitmap, uint64_t start, uint64_t count)
{
    assign(bitmap, start, count, false);
}

static bool test(void *bitmap, uint64_t bit)
{
    Roaring *r = bitmap;

    return roaring_bitmap_contains(r->parts[bit / PART_BITS], bit);
}

static uint64_t next_set(void *bitmap, uint64_t start, uint64_t end)
{
    Roaring *r = bitmap;
    uint64_t i;

    for (i = start / PART_BITS; start < end;
         i++, start = MIN(end, i * PART_BITS)) {
        roaring_uint32_iterator_t it;

        roaring_init_iterator(r->parts[i], &it);
        if (roaring_move_uint32_iterator_equalorlarger(&it, start)) {
            return MIN(end, i * PART_BITS + it.current_value);
        }
    }
    return end;
}

static uint32_t bitset_next_clear(const bitset_container_t *c, uint32_t bit)
{
    uint32_t i = bit / 64;
    uint64_t word = ~c->array[i] & UINT64_MAX << bit % 64;

    while (word == 0 && ++i < CONTAINER_BITS / 64) {
        word = ~c->array[i];
    }
    return word ? i * 64 + __builtin_ctzll(word) : CONTAINER_BITS;
}

static uint32_t array_next_clear(const array_container_t *c, uint32_t bit)
{
    int32_t i = binarySearch(c->array, c->cardinality, bit);

    for (; i >= 0 && i < c->cardinality && c->array[i] == bit; i++) {
        bit++;
    }
    return bit;
}

static uint32_t run_next_clear(const run_container_t *c, uint32_t bit)
{
    int32_t i = rle16_find_run(c->runs, c->n_runs, bit);

    return i < 0 ? bit : (uint32_t)c->runs[i].value + c->runs[i].length + 1;
}

/* CONTAINER_BITS if there is none from @bit on */
static uint32_t container_next_clear(const void *container, uint8_t type,
                                     uint32_t bit)
{
    container = container_unwrap_shared(container, &type);
    switch (type) {
    case BITSET_CONTAINER_TYPE_CODE:
        return bitset_next_clear(container, bit);
    case ARRAY_CONTAINER_TYPE_CODE:
        return array_next_clear(container, bit);
    default:
        return run_next_clear(container, bit);
    }
}

/* Within a part; PART_BITS if there is none */
static uint64_t part_next_clear(const roaring_bitmap_t *part, uint32_t start,
                                uint64_t end)
{
    const roaring_array_t *ra = &part->high_low_container;
    uint32_t key = start >> KEY_BITS, bit = start % CONTAINER_BITS;
    int32_t i = ra_get_index(ra, key);

    for (; i >= 0 && i < ra->size && ra->keys[i] == key; i++) {
        uint64_t base = (uint64_t)key << KEY_BITS;

        bit = container_next_clear(ra->containers[i], ra->typecodes[i], bit);
        if (bit < CONTAINER_BITS || base + bit >= end) {
            return base + bit;
        }
        bit = 0;
        key++;
    }
    return ((uint64_t)key << KEY_BITS) + bit;
}

static uint64_t next_clear(void *bitmap, uint64_t start, uint64_t end)
{
    Roaring *r = bitmap;

    while (start < end) {
        uint64_t base = start / PART_BITS * PART_BITS;
        uint64_t found = base + part_next_clear(r->parts[start / PART_BITS],
                                                start, end - base);

        if (found < base + PART_BITS) {
            return MIN(end, found);
        }
        start = found;
    }
    return end;
}

static uint64_t next_change(void *bitmap, uint64_t start, uint64_t end)
{
    return test(bitmap, start) ? next_clear(bitmap, start, end)
                               : next_set(bitmap, start, end);
}

static uint64_t count(void *bitmap)
{
    Roaring *r = bitmap;
    uint64_t i, n = 0;

    for (i = 0; i < r->n; i++) {
        n += roaring_bitmap_get_cardinality(r->parts[i]);
    }
    return n;
}

static uint64_t count_range(void *bitmap, uint64_t start, uint64_t left)
{
    Roaring *r = bitmap;
    uint64_t sum = 0;

    while (left > 0) {
        uint64_t first = start % PART_BITS;
        uint64_t n = MIN(left, PART_BITS - first);

        sum += roaring_bitmap_range_cardinality(r->parts[start / PART_BITS],
                                                first, first + n);
        start += n;
        left -= n;
    }
    return sum;
}

const BitmapKind bitmap_roaring = {
    .name = "roaring",
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
};
