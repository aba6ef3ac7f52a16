/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The sparse bitmap (util/sparse-bitmap.c) against a plain one */
#include <string.h>

#include "unit-main.h"
#include "../../util/sparse-bitmap-int.h"

#define LEAF_BITS 4096

/*
 * The plain bitmap: one byte a bit, every answer by looking at all of them. Each
 * of its bits stands for @scale of the sparse one's, so that trees may be high.
 */
typedef struct Plain {
    uint8_t *bits;
    uint64_t size, scale;
} Plain;

static Plain *plain_new(uint64_t size, uint64_t scale)
{
    Plain *p = g_new0(Plain, 1);

    p->scale = scale;
    p->bits = g_malloc0(size + 1);
    p->size = size;
    return p;
}

static void plain_free(Plain *p)
{
    g_free(p->bits);
    g_free(p);
}

static void plain_resize(Plain *p, uint64_t size)
{
    p->bits = g_realloc(p->bits, size + 1);
    if (size > p->size) {
        memset(p->bits + p->size, 0, size - p->size);
    }
    p->size = size;
}

static uint64_t plain_find(const Plain *p, uint64_t start, uint64_t end,
                           bool value)
{
    const uint8_t *found;

    if (start == end) {
        return end;
    }
    found = memchr(p->bits + start, value, end - start);
    return found ? (uint64_t)(found - p->bits) : end;
}

static uint64_t plain_count(const Plain *p, uint64_t start, uint64_t count)
{
    uint64_t i, n = 0;

    for (i = start; i < start + count; i++) {
        n += p->bits[i];
    }
    return n;
}

/* Are both values in [@start, @end), as far as that lies within the bitmap? */
static bool plain_mixed(const Plain *p, uint64_t start, uint64_t end)
{
    end = MIN(end, p->size);
    return plain_find(p, start, end, false) < end &&
           plain_find(p, start, end, true) < end;
}

/* Every run, the counts, the leaves: all that can be asked of the whole */
static void compare_all(const SparseBitmap *b, const Plain *p)
{
    uint64_t pos = 0, leaf_start, leaf_count, n_leaves = 0, n_mixed = 0, i;
    uint64_t k = p->scale;
    bool value;

    ck_assert_uint_eq(sparse_bitmap_size(b), p->size * k);
    ck_assert_uint_eq(sparse_bitmap_count(b), plain_count(p, 0, p->size) * k);
    while (pos < p->size) {
        uint64_t end =
            sparse_bitmap_next_change(b, pos * k, p->size * k, &value);

        ck_assert_uint_eq(value, p->bits[pos]);
        pos = plain_find(p, pos, p->size, !value);
        ck_assert_uint_eq(end, pos * k);
    }
    if (k > 1) {
        return;
    }
    for (i = 0; i * LEAF_BITS < p->size; i++) {
        n_mixed += plain_mixed(p, i * LEAF_BITS, (i + 1) * LEAF_BITS);
    }
    for (pos = 0; sparse_bitmap_next_leaf(b, pos, &leaf_start, &leaf_count);
         pos = leaf_start + leaf_count) {
        n_leaves++;
        ck_assert_uint_ge(leaf_start, pos);
        ck_assert_uint_eq(leaf_count, MIN(LEAF_BITS, p->size - leaf_start));
        ck_assert(plain_mixed(p, leaf_start, leaf_start + LEAF_BITS));
    }
    ck_assert_uint_eq(n_leaves, n_mixed);
}

/* What a bitmap takes in which only the first bit is set */
static size_t memory_of_one(uint64_t size)
{
    g_autoptr(SparseBitmap) b = sparse_bitmap_new(size);

    sparse_bitmap_set(b, 0, 1);
    return sparse_bitmap_memory(b);
}

/* A node wherever bits differ, and nowhere else: the memory, to the byte */
static void compare_memory(SparseBitmap *b, const Plain *p)
{
    g_autoptr(SparseBitmap) empty = sparse_bitmap_new(p->size);
    size_t expected = sparse_bitmap_memory(empty);
    size_t leaf = memory_of_one(LEAF_BITS) - expected;
    size_t inner = memory_of_one(LEAF_BITS + 1) - expected - leaf;
    uint64_t span = LEAF_BITS, start;

    sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(b));
    for (start = 0; start < p->size; start += span) {
        expected += plain_mixed(p, start, start + span) ? leaf : 0;
    }
    while (span < p->size) {
        span *= 64;
        for (start = 0; start < p->size; start += span) {
            expected += plain_mixed(p, start, start + span) ? inner : 0;
        }
    }
    ck_assert_uint_eq(sparse_bitmap_memory(b), expected);
}

/* Where to look or to change: anywhere, or as near to @last as can be */
static uint64_t random_place(GRand *rand, uint64_t size, uint64_t last)
{
    uint64_t any = g_rand_int(rand), place;

    switch (g_rand_int_range(rand, 0, 4)) {
    case 0:
        place = last;
        break;
    case 1:
        place = last / LEAF_BITS * LEAF_BITS + any % LEAF_BITS;
        break;
    case 2:
        place = last + any % (2 * LEAF_BITS);
        break;
    default:
        place = any % (size + 1);
    }
    return MIN(place, size);
}

static void random_look(const SparseBitmap *b, const Plain *p, GRand *rand,
                        uint64_t last)
{
    uint64_t start = random_place(rand, p->size, last), k = p->scale;
    uint64_t max = p->size - start;
    uint64_t any = g_rand_int(rand) >> g_rand_int_range(rand, 4, 31);
    uint64_t end = start + MIN(any, max), leaf_start, leaf_count;
    bool value;
    int i, first = g_rand_int(rand) % 4;

    /* Any may come first, and has not yet been there. */
    for (i = first; i < first + 4; i++) {
        switch (i % 4) {
        case 0:
            ck_assert_uint_eq(sparse_bitmap_next_set(b, start * k, end * k),
                              plain_find(p, start, end, true) * k);
            break;
        case 1:
            ck_assert_uint_eq(sparse_bitmap_next_clear(b, start * k, end * k),
                              plain_find(p, start, end, false) * k);
            break;
        case 2:
            ck_assert(start == end ||
                      sparse_bitmap_test(b, start * k) == p->bits[start]);
            break;
        case 3:
            if (start == end) {
                break;
            }
            ck_assert_uint_eq(
                sparse_bitmap_next_change(b, start * k, end * k, &value),
                plain_find(p, start, end, !p->bits[start]) * k);
            ck_assert_uint_eq(value, p->bits[start]);
        }
    }
    ck_assert_uint_eq(
        sparse_bitmap_count_range(b, start * k, (end - start) * k),
        plain_count(p, start, end - start) * k);
    if (sparse_bitmap_next_leaf(b, start * k, &leaf_start, &leaf_count)) {
        ck_assert_uint_gt(leaf_start + leaf_count, start * k);
    }
}

/* Lengths of all magnitudes, and ends that coincide with the bitmap's */
static void random_range(GRand *rand, uint64_t size, uint64_t last,
                         uint64_t *start, uint64_t *count)
{
    uint64_t max;

    *start = random_place(rand, size, last);
    if (g_rand_int_range(rand, 0, 4) == 0) {
        *start -= *start % LEAF_BITS;
    }
    max = size - *start;
    if (g_rand_int_range(rand, 0, 8) == 0) {
        *count = max;
    } else {
        *count = g_rand_int(rand) >> g_rand_int_range(rand, 4, 31);
        *count = MIN(*count, max);
    }
}

/* Both at once */
static void assign(SparseBitmap *b, Plain *p, uint64_t start, uint64_t count,
                   bool value)
{
    (value ? sparse_bitmap_set : sparse_bitmap_clear)(b, start * p->scale,
                                                      count * p->scale);
    memset(p->bits + start, value, count);
}

/* A leaf becomes uniform by several changes within it. */
static void fill_leaf(SparseBitmap *b, Plain *p, GRand *rand, uint64_t start,
                      bool value)
{
    uint64_t end, n;

    start -= start % LEAF_BITS;
    end = MIN(start + LEAF_BITS, p->size);
    for (; start < end; start += n) {
        n = 1 + g_rand_int(rand) % (end - start);
        assign(b, p, start, n, value);
    }
}

static void random_operations(uint64_t size, uint64_t scale, uint32_t seed,
                              int n)
{
    GRand *rand = g_rand_new_with_seed(seed);
    SparseBitmap *b = sparse_bitmap_new(size * scale);
    Plain *p = plain_new(size, scale);
    uint64_t start = 0, count;
    int i;

    for (i = 0; i < n; i++) {
        int what = g_rand_int_range(rand, 0, 100);

        random_range(rand, p->size, start, &start, &count);
        if (what < 80) {
            assign(b, p, start, count, what % 2);
        } else if (what < 90) {
            fill_leaf(b, p, rand, start, what % 2);
        } else if (what < 95) {
            size = g_rand_int(rand) >> g_rand_int_range(rand, 11, 31);
            sparse_bitmap_resize(b, size * scale);
            plain_resize(p, size);
        } else if (what < 97) {
            SparseBitmap *copy = sparse_bitmap_copy(b);

            sparse_bitmap_free(b);
            b = copy;
        } else {
            sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(b));
        }
        random_look(b, p, rand, start);
        if (i % 16 == 0) {
            compare_all(b, p);
        }
        if (i % 64 == 0 && scale == 1) {
            compare_memory(b, p);
        }
    }
    compare_all(b, p);

    /* Nothing is left but the struct when all is one run again. */
    sparse_bitmap_set(b, 0, p->size * scale);
    sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(b));
    ck_assert_uint_lt(sparse_bitmap_memory(b), 128);
    sparse_bitmap_free(b);
    plain_free(p);
    g_rand_free(rand);
}

static const uint64_t sizes[] = {
    0,    1,     2,     63,     64,     65,     4095,    4096,
    4097, 12345, 65536, 262143, 262144, 262145, 1000003,
};

START_TEST(test_random)
{
    random_operations(sizes[_i], 1, 1000 + _i, 1200);
}
END_TEST

/* Trees of all heights. The largest bitmap has 2^21 of the largest. */
static const uint64_t scales[] = {
    3, 64, 1000, 4096, 65537, 1 << 20, 123456789, UINT64_C(1) << 33,
};

START_TEST(test_random_high)
{
    random_operations(65536, scales[_i], 2000 + _i, 1200);
}
END_TEST

/* With and without the processor's help */
START_TEST(test_word_count)
{
    GRand *rand = g_rand_new_with_seed(5);
    uint64_t word = UINT64_MAX, left;
    unsigned n, i;

    for (i = 0; i < 10000; i++) {
        for (n = 0, left = word; left; left &= left - 1) {
            n++;
        }
        ck_assert_uint_eq(word_count(word), n);
        ck_assert_uint_eq(word_count_portable(word), n);
        word = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
        word = i % 2 ? word >> i % 64 : word << i % 64;
    }
    g_rand_free(rand);
}
END_TEST

/* Both ends of a range at, before and after each kind of boundary */
START_TEST(test_boundaries)
{
    static const uint64_t edges[] = { 0,      1,      63,     64,     65,
                                      4095,   4096,   4097,   8191,   8192,
                                      65535,  65536,  65537,  262143, 262144,
                                      262145, 262207, 266240, 266241 };
    uint64_t size = edges[G_N_ELEMENTS(edges) - 1];
    SparseBitmap *b = sparse_bitmap_new(size);
    size_t i, j;

    for (i = 0; i < G_N_ELEMENTS(edges); i++) {
        for (j = i; j < G_N_ELEMENTS(edges); j++) {
            uint64_t start = edges[i], end = edges[j];

            sparse_bitmap_set(b, start, end - start);
            ck_assert_uint_eq(sparse_bitmap_count(b), end - start);
            ck_assert_uint_eq(sparse_bitmap_next_set(b, 0, size),
                              start < end ? start : size);
            ck_assert_uint_eq(sparse_bitmap_next_clear(b, start, size), end);
            ck_assert_uint_eq(sparse_bitmap_count_range(b, start, end - start),
                              end - start);
            if (start < end) {
                ck_assert(sparse_bitmap_test(b, start));
                ck_assert(sparse_bitmap_test(b, end - 1));
            }
            if (start > 0) {
                ck_assert(!sparse_bitmap_test(b, start - 1));
            }
            if (end < size) {
                ck_assert(!sparse_bitmap_test(b, end));
            }
            sparse_bitmap_clear(b, start, end - start);
            ck_assert_uint_eq(sparse_bitmap_count(b), 0);
            ck_assert_uint_eq(sparse_bitmap_next_set(b, 0, size), size);
        }
    }
    sparse_bitmap_free(b);
}
END_TEST

/* The largest bitmap: answers at its far end, and what a few runs cost */
START_TEST(test_huge)
{
    uint64_t size = SPARSE_BITMAP_MAX_BITS, far = size - 3, start, count;
    SparseBitmap *b = sparse_bitmap_new(size);
    bool value;

    sparse_bitmap_set(b, 0, size);
    ck_assert_uint_eq(sparse_bitmap_count(b), size);
    ck_assert_uint_lt(sparse_bitmap_memory(b), 128);
    ck_assert_uint_eq(sparse_bitmap_next_clear(b, 0, size), size);
    ck_assert(!sparse_bitmap_next_leaf(b, 0, &start, &count));

    sparse_bitmap_clear(b, far, 1);
    ck_assert_uint_eq(sparse_bitmap_count(b), size - 1);
    ck_assert_uint_eq(sparse_bitmap_next_change(b, 1, size, &value), far);
    ck_assert(value);
    ck_assert_uint_eq(sparse_bitmap_next_change(b, far, size, &value), far + 1);
    ck_assert(!value);
    ck_assert_uint_eq(sparse_bitmap_count_range(b, far - 1, 4), 3);
    ck_assert(sparse_bitmap_next_leaf(b, 0, &start, &count));
    ck_assert_uint_eq(start, size - LEAF_BITS);
    ck_assert_uint_eq(count, LEAF_BITS);
    /* A leaf and a node a level */
    ck_assert_uint_lt(sparse_bitmap_memory(b), 8 * 600);

    sparse_bitmap_clear(b, 1, size - 2);
    ck_assert_uint_eq(sparse_bitmap_count(b), 2);
    ck_assert_uint_eq(sparse_bitmap_next_set(b, 1, size), size - 1);

    sparse_bitmap_resize(b, size - 1);
    ck_assert_uint_eq(sparse_bitmap_count(b), 1);
    sparse_bitmap_resize(b, 1);
    ck_assert_uint_eq(sparse_bitmap_count(b), 1);
    sparse_bitmap_resize(b, size);
    ck_assert_uint_eq(sparse_bitmap_count(b), 1);
    ck_assert_uint_eq(sparse_bitmap_next_clear(b, 0, size), 1);
    ck_assert_uint_eq(sparse_bitmap_next_set(b, 1, size), size);
    sparse_bitmap_free(b);
}
END_TEST

/* What was cut off must not come back, whatever the last bit was. */
START_TEST(test_shrink_and_grow)
{
    static const uint64_t cuts[] = {
        0, 1, 64, 100, 4096, 5000, 262144, 300000
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(cuts); i++) {
        SparseBitmap *b = sparse_bitmap_new(1000000);

        sparse_bitmap_set(b, 0, 1000000);
        sparse_bitmap_resize(b, cuts[i]);
        ck_assert_uint_eq(sparse_bitmap_count(b), cuts[i]);
        ck_assert_uint_lt(sparse_bitmap_memory(b), 128);
        sparse_bitmap_resize(b, 20000000);
        ck_assert_uint_eq(sparse_bitmap_count(b), cuts[i]);
        ck_assert_uint_eq(sparse_bitmap_next_clear(b, 0, 20000000), cuts[i]);
        ck_assert_uint_eq(sparse_bitmap_next_set(b, cuts[i], 20000000),
                          20000000);
        sparse_bitmap_free(b);
    }
}
END_TEST

/* 1 TiB in blocks of 4 KiB */
#define TIB_BLOCKS (UINT64_C(1) << 28)

START_TEST(test_memory)
{
    SparseBitmap *b = sparse_bitmap_new(TIB_BLOCKS);
    uint64_t i, empty = sparse_bitmap_memory(b);
    SparseBitmap *copy;

    ck_assert_uint_lt(empty, 128);
    sparse_bitmap_set(b, 0, TIB_BLOCKS);
    ck_assert_uint_eq(sparse_bitmap_memory(b), empty);
    for (i = 0; i < TIB_BLOCKS; i += LEAF_BITS) {
        sparse_bitmap_clear(b, i + i / LEAF_BITS % LEAF_BITS, 1);
    }
    ck_assert_uint_eq(sparse_bitmap_count(b),
                      TIB_BLOCKS - TIB_BLOCKS / LEAF_BITS);
    /* 32 MiB of bits, and a few percent for nodes and heap */
    ck_assert_uint_gt(sparse_bitmap_memory(b), 32 << 20);
    ck_assert_uint_lt(sparse_bitmap_memory(b), 34 << 20);

    copy = sparse_bitmap_copy(b);
    ck_assert_uint_eq(sparse_bitmap_memory(copy), sparse_bitmap_memory(b));
    ck_assert_uint_eq(sparse_bitmap_count(copy), sparse_bitmap_count(b));
    sparse_bitmap_free(copy);

    /* One bit after the other back to what it was: every level collapses. */
    for (i = 0; i < TIB_BLOCKS; i += LEAF_BITS) {
        sparse_bitmap_set(b, i + i / LEAF_BITS % LEAF_BITS, 1);
        sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(b));
    }
    ck_assert_uint_eq(sparse_bitmap_count(b), TIB_BLOCKS);
    ck_assert_uint_eq(sparse_bitmap_memory(b), empty);
    sparse_bitmap_free(b);
}
END_TEST

/* Every other bit: no run is longer than a bit, no leaf uniform. */
START_TEST(test_alternating)
{
    uint64_t size = 1 << 20, i, pos;
    SparseBitmap *b = sparse_bitmap_new(size);

    for (i = 0; i < size; i += 2) {
        sparse_bitmap_set(b, i, 1);
    }
    ck_assert_uint_eq(sparse_bitmap_count(b), size / 2);
    for (pos = 0, i = 0; pos < size; i++) {
        pos = sparse_bitmap_next_change(b, pos, size, NULL);
    }
    ck_assert_uint_eq(i, size);
    ck_assert_uint_gt(sparse_bitmap_memory(b), size / 8);
    ck_assert_uint_lt(sparse_bitmap_memory(b), size / 8 + size / 8 / 10);
    sparse_bitmap_free(b);
}
END_TEST

START_TEST(test_garbage)
{
    SparseBitmap *b = sparse_bitmap_new(UINT64_C(1) << 30);
    SparseBitmapGarbage *garbage;
    size_t empty = sparse_bitmap_memory(b), full, i;

    ck_assert_ptr_null(sparse_bitmap_take_garbage(b));
    for (i = 0; i < 1000; i++) {
        sparse_bitmap_set(b, i * 100000, 1);
    }
    ck_assert_ptr_null(sparse_bitmap_take_garbage(b));

    /* Detached but not freed; counted until taken */
    full = sparse_bitmap_memory(b);
    sparse_bitmap_clear(b, 0, UINT64_C(1) << 30);
    ck_assert_uint_eq(sparse_bitmap_count(b), 0);
    ck_assert_uint_eq(sparse_bitmap_memory(b), full);
    garbage = sparse_bitmap_take_garbage(b);
    ck_assert_ptr_nonnull(garbage);
    ck_assert_uint_eq(sparse_bitmap_memory(b), empty);
    ck_assert_ptr_null(sparse_bitmap_take_garbage(b));
    sparse_bitmap_set(b, 0, 1);
    sparse_bitmap_garbage_free(garbage);

    /* Nobody takes it: it stays within bounds. */
    for (i = 0; i < 10000; i++) {
        sparse_bitmap_set(b, 5, 1);
        sparse_bitmap_clear(b, 0, 10);
        ck_assert_uint_lt(sparse_bitmap_memory(b), 100 * 1024);
    }
    sparse_bitmap_garbage_free(NULL);
    sparse_bitmap_free(b);
    sparse_bitmap_free(NULL);
}
END_TEST

/* A copy leads a life of its own and does not inherit garbage. */
START_TEST(test_copy)
{
    SparseBitmap *b = sparse_bitmap_new(100000), *copy;

    sparse_bitmap_set(b, 10, 50000);
    sparse_bitmap_clear(b, 4096, 4096);
    sparse_bitmap_set(b, 0, 20);
    copy = sparse_bitmap_copy(b);
    ck_assert_ptr_null(sparse_bitmap_take_garbage(copy));
    sparse_bitmap_clear(b, 0, 100000);
    ck_assert_uint_eq(sparse_bitmap_count(copy), 50010 - 4096);
    ck_assert_uint_eq(sparse_bitmap_next_clear(copy, 0, 100000), 4096);
    sparse_bitmap_free(b);
    sparse_bitmap_free(copy);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sparse-bitmap");
    TCase *tc = tcase_create("sparse-bitmap");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_random, 0, G_N_ELEMENTS(sizes));
    tcase_add_loop_test(tc, test_random_high, 0, G_N_ELEMENTS(scales));
    tcase_add_test(tc, test_word_count);
    tcase_add_test(tc, test_boundaries);
    tcase_add_test(tc, test_huge);
    tcase_add_test(tc, test_shrink_and_grow);
    tcase_add_test(tc, test_memory);
    tcase_add_test(tc, test_alternating);
    tcase_add_test(tc, test_garbage);
    tcase_add_test(tc, test_copy);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
