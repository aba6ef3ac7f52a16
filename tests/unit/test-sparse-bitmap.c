/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The sparse bitmap (util/sparse-bitmap.c) against a plain one */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "unit-main.h"
#include "../../util/sparse-bitmap-int.h"

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

/* How often bits change within the leaf that begins with bit @start, 3 at most */
static unsigned plain_changes(const Plain *p, uint64_t start)
{
    uint64_t end = MIN(start + LEAF_BITS, p->size);
    unsigned n = 0;

    while (n < 3 &&
           (start = plain_find(p, start, end, !p->bits[start])) < end) {
        n++;
    }
    return n;
}

/* What makes a part uniform gives memory back. */
static void part_gives_back(const SparseBitmap *b, uint64_t start,
                            uint64_t count)
{
    g_autoptr(SparseBitmap) copy = sparse_bitmap_copy(b);
    size_t memory = sparse_bitmap_memory(copy);

    sparse_bitmap_set(copy, start, count);
    sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(copy));
    ck_assert_uint_lt(sparse_bitmap_memory(copy), memory);
}

/* Every run, the counts, the parts: all that can be asked of the whole */
static void compare_all(const SparseBitmap *b, const Plain *p)
{
    uint64_t pos = 0, start, count;
    uint64_t k = p->scale;
    bool value, first = true;

    ck_assert_uint_eq(sparse_bitmap_size(b), p->size * k);
    ck_assert_uint_eq(sparse_bitmap_count(b), plain_count(p, 0, p->size) * k);
    while (pos < p->size) {
        uint64_t end =
            sparse_bitmap_next_change(b, pos * k, p->size * k, &value);

        ck_assert_uint_eq(value, p->bits[pos]);
        pos = plain_find(p, pos, p->size, !value);
        ck_assert_uint_eq(end, pos * k);
    }
    for (pos = 0; sparse_bitmap_next_part(b, pos, &start, &count);
         pos = start + count) {
        ck_assert_uint_ge(start, pos);
        ck_assert_uint_gt(count, 0);
        ck_assert_uint_le(start + count, p->size * k);
        if (k == 1) {
            ck_assert(plain_mixed(p, start, start + count));
        }
        if (first) {
            part_gives_back(b, start, count);
            first = false;
        }
    }
    if (first) {
        ck_assert_uint_eq(sparse_bitmap_memory(b) - b->garbage_memory,
                          HEAP_BYTES(SparseBitmap));
    }
}

/*
 * A node wherever bits differ, and nowhere else. Words for a leaf of more than one
 * odd run; that there were more once, may be seen.
 */
static void compare_memory(SparseBitmap *b, const Plain *p)
{
    size_t at_least = HEAP_BYTES(SparseBitmap), at_most;
    uint64_t span = LEAF_BITS, start;

    sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(b));
    while (span < p->size) {
        span *= FANOUT;
        for (start = 0; start < p->size; start += span) {
            at_least +=
                plain_mixed(p, start, start + span) ? HEAP_BYTES(Inner) : 0;
        }
    }
    at_most = at_least;
    for (start = 0; start < p->size; start += LEAF_BITS) {
        unsigned changes = plain_changes(p, start);

        at_least += changes > 2 ? HEAP_BYTES(Leaf) : 0;
        at_most += changes > 0 ? HEAP_BYTES(Leaf) : 0;
    }
    ck_assert_uint_ge(sparse_bitmap_memory(b), at_least);
    ck_assert_uint_le(sparse_bitmap_memory(b), at_most);
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
    if (sparse_bitmap_next_part(b, start * k, &leaf_start, &leaf_count)) {
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

/* Is the first part of the disk a slab? */
static bool begins_with_slab(const SparseBitmap *b)
{
    Subtree tree = b->root;
    unsigned level;

    for (level = b->height; level > SLAB_LEVEL && subtree_is_inner(tree);
         level--) {
        tree = subtree_inner(tree)->child[0];
    }
    return subtree_is_slab(tree);
}

/* One leaf after the other becomes mixed, or, most of them, uniform. */
static void change_leaves(SparseBitmap *b, Plain *p, GRand *rand, bool mixed)
{
    uint64_t leaf, start, count;

    for (leaf = 0; leaf + LEAF_BITS <= p->size; leaf += LEAF_BITS) {
        if (mixed) {
            start = leaf + g_rand_int_range(rand, 0, 1000);
            assign(b, p, start, 500, true);
            assign(b, p, start + 1000, 500, false);
            assign(b, p, start + 2000, 1, true);
            assign(b, p, start + 2001, 1, false);
        } else if (g_rand_int_range(rand, 0, 16)) {
            fill_leaf(b, p, rand, leaf, g_rand_boolean(rand));
        }
        if (g_rand_int_range(rand, 0, 128) == 0) {
            random_range(rand, p->size, leaf, &start, &count);
            assign(b, p, start, MIN(count, 3 * LEAF_BITS),
                   g_rand_boolean(rand));
            random_look(b, p, rand, start);
        }
    }
}

/* Whole parts become slabs, and trees again, whatever is done to them. */
START_TEST(test_slabs)
{
    static const uint64_t slab_sizes[] = { 1 << SLAB_SHIFT,
                                           (1 << SLAB_SHIFT) + 12345,
                                           (2 << SLAB_SHIFT) - LEAF_BITS };
    GRand *rand = g_rand_new_with_seed(3000 + _i);
    uint64_t size = slab_sizes[_i], start, count;
    SparseBitmap *b = sparse_bitmap_new(size), *copy;
    Plain *p = plain_new(size, 1);
    int round, i;

    for (round = 0; round < 3; round++) {
        change_leaves(b, p, rand, true);
        ck_assert(begins_with_slab(b));
        compare_all(b, p);
        copy = sparse_bitmap_copy(b);
        ck_assert_uint_eq(sparse_bitmap_memory(copy),
                          sparse_bitmap_memory(b) - b->garbage_memory);
        sparse_bitmap_free(b);
        b = copy;
        for (i = 0; i < 40; i++) {
            random_range(rand, size, i << 16, &start, &count);
            assign(b, p, start, MIN(count, 1 << 18), i % 2);
            random_look(b, p, rand, start);
            random_look(b, p, rand, i << 16);
        }
        compare_all(b, p);
        if (round == 2) {
            break;
        }
        change_leaves(b, p, rand, false);
        ck_assert(!begins_with_slab(b));
        compare_all(b, p);
    }

    /* All at once; what is detached is given back. */
    ck_assert(begins_with_slab(b));
    start = 1 << 22;
    assign(b, p, 0, start, true);
    compare_all(b, p);
    sparse_bitmap_resize(b, start + 1);
    plain_resize(p, start + 1);
    compare_all(b, p);
    ck_assert(!begins_with_slab(b));
    sparse_bitmap_resize(b, size);
    plain_resize(p, size);
    compare_all(b, p);
    assign(b, p, 0, size, false);
    sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(b));
    ck_assert_uint_lt(sparse_bitmap_memory(b), 128);
    sparse_bitmap_free(b);
    plain_free(p);
    g_rand_free(rand);
}
END_TEST

#ifdef __has_feature
#define HAS_FEATURE(name) __has_feature(name)
#else
#define HAS_FEATURE(name) 0
#endif

/* How many bytes of addresses this process uses */
static uint64_t address_space(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    uint64_t pages;

    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fscanf(f, "%" G_GUINT64_FORMAT, &pages), 1);
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* Where there is no slab to be had, a tree does, until there is one. */
START_TEST(test_no_slab)
{
    uint64_t size = 1 << SLAB_SHIFT, i;
    SparseBitmap *b = sparse_bitmap_new(size);
    struct rlimit limit, tight;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||           \
    HAS_FEATURE(address_sanitizer) || HAS_FEATURE(thread_sanitizer)
    sparse_bitmap_free(b); /* they need addresses of their own */
    return;
#endif
    for (i = 0; i < size / 2; i += 1000) {
        sparse_bitmap_set(b, i, 1);
    }
    ck_assert_int_eq(getrlimit(RLIMIT_AS, &limit), 0);
    tight = limit;
    tight.rlim_cur = address_space() + sizeof(Slab) * 3 / 2;
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &tight), 0);
    for (; i < size; i += 1000) {
        sparse_bitmap_set(b, i, 1);
    }
    ck_assert(!begins_with_slab(b));
    ck_assert_uint_gt(sparse_bitmap_memory(b), 2 << 20);
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);
    sparse_bitmap_clear(b, 0, 2 * LEAF_BITS);
    ck_assert(begins_with_slab(b));
    for (i = 9000; i < size; i += 1000) {
        ck_assert_uint_eq(sparse_bitmap_next_set(b, i - 999, size), i);
    }
    sparse_bitmap_free(b);
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
    ck_assert(!sparse_bitmap_next_part(b, 0, &start, &count));

    sparse_bitmap_clear(b, far, 1);
    ck_assert_uint_eq(sparse_bitmap_count(b), size - 1);
    ck_assert_uint_eq(sparse_bitmap_next_change(b, 1, size, &value), far);
    ck_assert(value);
    ck_assert_uint_eq(sparse_bitmap_next_change(b, far, size, &value), far + 1);
    ck_assert(!value);
    ck_assert_uint_eq(sparse_bitmap_count_range(b, far - 1, 4), 3);
    ck_assert(sparse_bitmap_next_part(b, 0, &start, &count));
    ck_assert_uint_eq(start, size - (1 << GROUP_SHIFT));
    ck_assert_uint_eq(count, 1 << GROUP_SHIFT);
    /* A node a level */
    ck_assert_uint_eq(sparse_bitmap_memory(b),
                      HEAP_BYTES(SparseBitmap) + 7 * HEAP_BYTES(Inner));
    sparse_bitmap_clear(b, far - 2, 1);
    ck_assert(sparse_bitmap_next_part(b, 0, &start, &count));
    ck_assert_uint_eq(start, size - LEAF_BITS);
    ck_assert_uint_eq(count, LEAF_BITS);
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

/* Bit @which, or one beside it, of each leaf: where it is differs. */
static void change_in_leaves(SparseBitmap *b, unsigned which, bool value)
{
    uint64_t i;

    for (i = 0; i < TIB_BLOCKS; i += LEAF_BITS) {
        (value ? sparse_bitmap_set : sparse_bitmap_clear)(
            b, i + (i / LEAF_BITS + which) % LEAF_BITS, 1);
        sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(b));
    }
}

START_TEST(test_memory)
{
    SparseBitmap *b = sparse_bitmap_new(TIB_BLOCKS);
    uint64_t empty = sparse_bitmap_memory(b);
    SparseBitmap *copy;

    ck_assert_uint_lt(empty, 128);
    sparse_bitmap_set(b, 0, TIB_BLOCKS);
    ck_assert_uint_eq(sparse_bitmap_memory(b), empty);

    /* One odd block in each leaf: nodes only */
    change_in_leaves(b, 0, false);
    ck_assert_uint_eq(sparse_bitmap_memory(b),
                      empty + (1024 + 16 + 1) * HEAP_BYTES(Inner));

    /* More: 32 MiB of bits, and a few percent for counts */
    change_in_leaves(b, 1000, false);
    ck_assert_uint_eq(sparse_bitmap_count(b),
                      TIB_BLOCKS - 2 * TIB_BLOCKS / LEAF_BITS);
    ck_assert_uint_gt(sparse_bitmap_memory(b), 32 << 20);
    ck_assert_uint_lt(sparse_bitmap_memory(b), 33 << 20);

    copy = sparse_bitmap_copy(b);
    ck_assert_uint_eq(sparse_bitmap_memory(copy), sparse_bitmap_memory(b));
    ck_assert_uint_eq(sparse_bitmap_count(copy), sparse_bitmap_count(b));
    sparse_bitmap_free(copy);

    /* One bit after the other back to what it was: every level collapses. */
    change_in_leaves(b, 0, true);
    change_in_leaves(b, 1000, true);
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
    tcase_add_loop_test(tc, test_slabs, 0, 3);
    tcase_add_test(tc, test_no_slab);
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
