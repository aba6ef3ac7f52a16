/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sparse bitmap: looking up, finding and counting. */
#include "sparse-bitmap-int.h"

static inline bool leaf_test(const Leaf *leaf, uint64_t bit)
{
    return leaf->words[bit / WORD_BITS % LEAF_WORDS] >> bit % WORD_BITS & 1;
}

/* Is bit @bit in the leaf that is remembered? */
static inline bool is_in_last(const SparseBitmap *bitmap, uint64_t bit)
{
    return G_LIKELY(bit >> LEAF_SHIFT == bitmap->last);
}

bool sparse_bitmap_test(const SparseBitmap *bitmap, uint64_t bit)
{
    unsigned shift;
    Subtree tree;

    g_assert(bit < bitmap->nbits);
    if (is_in_last(bitmap, bit)) {
        return leaf_test(bitmap->last_leaf, bit);
    }
    tree = locate(bitmap, bit, &shift);
    return subtree_is_uniform(tree) ? tree == SUBTREE_SET
                                    : leaf_test(subtree_leaf(tree), bit);
}

/* Both are in that leaf, relative to it or not. */
static inline uint64_t leaf_find(const Leaf *leaf, uint64_t start, uint64_t end,
                                 bool value)
{
    uint64_t at = start / WORD_BITS * WORD_BITS;
    uint64_t flip = value ? 0 : UINT64_MAX;
    uint64_t word = (leaf->words[at / WORD_BITS % LEAF_WORDS] ^ flip) &
                    (UINT64_MAX << start % WORD_BITS);

    while (word == 0) {
        at += WORD_BITS;
        if (at >= end) {
            return end;
        }
        word = leaf->words[at / WORD_BITS % LEAF_WORDS] ^ flip;
    }
    return MIN(end, at + __builtin_ctzll(word));
}

/* Bit i: is there any of that value below child i? */
static inline uint64_t inner_some(const Inner *inner, bool value)
{
    return value ? inner->some_set : inner->some_clear;
}

/* The first bit of that value in [@start, @end); @end if there is none */
static __attribute__((noinline)) uint64_t find_far(const SparseBitmap *bitmap,
                                                   uint64_t start, uint64_t end,
                                                   bool value)
{
    const Inner *path[MAX_HEIGHT + 1]; /* by their levels */
    unsigned level = bitmap->height;
    Subtree tree = bitmap->root;
    uint64_t some, stop, found;

    if (start >= end) {
        return end;
    }

    /* Down to where @start is */
    for (; level > 0 && !subtree_is_uniform(tree); level--) {
        path[level] = subtree_inner(tree);
        tree = path[level]->child[child_index(level, start)];
    }
    if (tree == subtree_uniform(value)) {
        return start;
    }
    stop = MIN((start | (level_bits(level) - 1)) + 1, end);
    if (!subtree_is_uniform(tree)) {
        remember(bitmap, start, subtree_leaf(tree));
        found = leaf_find(subtree_leaf(tree), start, stop, value);
        if (found < stop) {
            return found;
        }
    }
    if (stop == end) {
        return end;
    }

    /* Up to where there is more of it, in children behind the one we come from */
    do {
        if (++level > bitmap->height) {
            return end;
        }
        some = inner_some(path[level], value) &
               (UINT64_MAX - 1) << child_index(level, start);
    } while (some == 0);

    /* And down to the first of it: where there is some, it is below, too. */
    start &= ~(level_bits(level) - 1);
    for (;;) {
        unsigned i = __builtin_ctzll(some);

        tree = path[level]->child[i];
        start += (uint64_t)i << child_shift(level);
        level--;
        if (start >= end || subtree_is_uniform(tree)) {
            return MIN(start, end);
        }
        if (level == 0) {
            remember(bitmap, start, subtree_leaf(tree));
            return leaf_find(subtree_leaf(tree), start, end, value);
        }
        path[level] = subtree_inner(tree);
        some = inner_some(path[level], value);
    }
}

static inline uint64_t find(const SparseBitmap *bitmap, uint64_t start,
                            uint64_t end, bool value)
{
    uint64_t stop, found;

    if (!is_in_last(bitmap, start)) {
        return find_far(bitmap, start, end, value);
    }
    stop = MIN(end, ((start >> LEAF_SHIFT) + 1) << LEAF_SHIFT);
    found = leaf_find(bitmap->last_leaf, start, stop, value);
    return found < stop || stop == end ? found
                                       : find_far(bitmap, stop, end, value);
}

uint64_t sparse_bitmap_next_set(const SparseBitmap *bitmap, uint64_t start,
                                uint64_t end)
{
    g_assert(start <= end && end <= bitmap->nbits);
    return find(bitmap, start, end, true);
}

uint64_t sparse_bitmap_next_clear(const SparseBitmap *bitmap, uint64_t start,
                                  uint64_t end)
{
    g_assert(start <= end && end <= bitmap->nbits);
    return find(bitmap, start, end, false);
}

uint64_t sparse_bitmap_next_change(const SparseBitmap *bitmap, uint64_t start,
                                   uint64_t end, bool *value)
{
    uint64_t stop, found;
    unsigned shift;
    Subtree tree;
    Leaf *leaf;
    bool current;

    g_assert(start < end && end <= bitmap->nbits);
    if (is_in_last(bitmap, start)) {
        leaf = bitmap->last_leaf;
    } else {
        tree = locate(bitmap, start, &shift);
        if (subtree_is_uniform(tree)) {
            stop = ((start >> shift) + 1) << shift;
            if (value) {
                *value = tree == SUBTREE_SET;
            }
            return find_far(bitmap, stop, end, tree != SUBTREE_SET);
        }
        leaf = subtree_leaf(tree);
    }
    current = leaf_test(leaf, start);
    if (value) {
        *value = current;
    }
    stop = MIN(end, ((start >> LEAF_SHIFT) + 1) << LEAF_SHIFT);
    found = leaf_find(leaf, start, stop, !current);
    return found < stop ? found : find_far(bitmap, stop, end, !current);
}

static uint64_t leaf_count(const Leaf *leaf, uint64_t start, uint64_t end)
{
    unsigned first = start / WORD_BITS, last = (end - 1) / WORD_BITS;
    uint64_t count = 0;
    unsigned i;

    for (i = first; i <= last; i++) {
        uint64_t mask =
            mask_between(i == first ? start % WORD_BITS : 0,
                         i == last ? (end - 1) % WORD_BITS : WORD_BITS - 1);

        count += word_count(leaf->words[i] & mask);
    }
    return count;
}

static uint64_t subtree_count_range(Subtree tree, unsigned level,
                                    uint64_t start, uint64_t end)
{
    const Inner *inner;
    uint64_t mask, count = 0;

    if (subtree_is_uniform(tree)) {
        return tree == SUBTREE_SET ? end - start : 0;
    }
    if (start == 0 && end == level_bits(level)) {
        return subtree_count(tree, level);
    }
    if (level == 0) {
        return leaf_count(subtree_leaf(tree), start, end);
    }
    inner = subtree_inner(tree);
    mask = inner->some_set & mask_between(start >> child_shift(level),
                                          (end - 1) >> child_shift(level));
    for (; mask; mask &= mask - 1) {
        unsigned i = __builtin_ctzll(mask);
        uint64_t child_start = start, child_end = end;

        clip_to_child(level, i, &child_start, &child_end);
        count += subtree_count_range(inner->child[i], level - 1, child_start,
                                     child_end);
    }
    return count;
}

uint64_t sparse_bitmap_count_range(const SparseBitmap *bitmap, uint64_t start,
                                   uint64_t count)
{
    g_assert(start <= bitmap->nbits && count <= bitmap->nbits - start);
    if (count == 0) {
        return 0;
    }
    return subtree_count_range(bitmap->root, bitmap->height, start,
                               start + count);
}

uint64_t sparse_bitmap_count(const SparseBitmap *bitmap)
{
    uint64_t count = subtree_count(bitmap->root, bitmap->height);

    if (bitmap->tail) {
        count -= level_bits(bitmap->height) - bitmap->nbits;
    }
    return count;
}

/* Where the first leaf begins whose end is beyond @start; or the very end */
static uint64_t subtree_find_leaf(Subtree tree, unsigned level, uint64_t start)
{
    const Inner *inner;
    uint64_t mixed;

    if (subtree_is_uniform(tree)) {
        return level_bits(level);
    }
    if (level == 0) {
        return 0;
    }
    inner = subtree_inner(tree);
    mixed = inner->some_set & inner->some_clear &
            (UINT64_MAX << (start >> child_shift(level)));
    for (; mixed; mixed &= mixed - 1) {
        unsigned i = __builtin_ctzll(mixed);
        uint64_t child_start = start, child_end = level_bits(level), found;

        clip_to_child(level, i, &child_start, &child_end);
        found = subtree_find_leaf(inner->child[i], level - 1, child_start);
        if (found < level_bits(level - 1)) {
            return ((uint64_t)i << child_shift(level)) + found;
        }
    }
    return level_bits(level);
}

bool sparse_bitmap_next_leaf(const SparseBitmap *bitmap, uint64_t start,
                             uint64_t *leaf_start, uint64_t *leaf_bits)
{
    uint64_t found;

    if (start >= bitmap->nbits) {
        return false;
    }
    found = subtree_find_leaf(bitmap->root, bitmap->height, start);
    if (found >= bitmap->nbits) {
        return false;
    }
    *leaf_start = found;
    *leaf_bits = MIN(level_bits(0), bitmap->nbits - found);
    return true;
}
