/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sparse bitmap: looking up, finding and counting. */
#include "sparse-bitmap-int.h"

bool sparse_bitmap_test(const SparseBitmap *bitmap, uint64_t bit)
{
    Subtree tree = bitmap->root;
    unsigned level = bitmap->height;
    unsigned i;

    g_assert(bit < bitmap->nbits);
    for (; !subtree_is_uniform(tree); level--) {
        if (level == 0) {
            i = bit / WORD_BITS % LEAF_WORDS;
            return subtree_leaf(tree)->words[i] >> bit % WORD_BITS & 1;
        }
        i = (bit >> child_shift(level)) % FANOUT;
        tree = subtree_inner(tree)->child[i];
    }
    return tree == SUBTREE_SET;
}

static uint64_t leaf_find(const Leaf *leaf, uint64_t start, uint64_t end,
                          bool value)
{
    unsigned first = start / WORD_BITS, last = (end - 1) / WORD_BITS;
    uint64_t flip = value ? 0 : UINT64_MAX;
    uint64_t word =
        (leaf->words[first] ^ flip) & (UINT64_MAX << start % WORD_BITS);
    unsigned i = first;

    while (word == 0 && i < last) {
        i++;
        word = leaf->words[i] ^ flip;
    }
    if (word == 0) {
        return end;
    }
    return MIN(end, (uint64_t)i * WORD_BITS + __builtin_ctzll(word));
}

/* The first bit of that value in [@start, @end), not empty; @end if none */
static uint64_t subtree_find(Subtree tree, unsigned level, uint64_t start,
                             uint64_t end, bool value)
{
    const Inner *inner;
    uint64_t mask;

    if (subtree_is_uniform(tree)) {
        return tree == subtree_uniform(value) ? start : end;
    }
    if (level == 0) {
        return leaf_find(subtree_leaf(tree), start, end, value);
    }
    inner = subtree_inner(tree);
    mask = (value ? inner->some_set : inner->some_clear) &
           mask_between(start >> child_shift(level),
                        (end - 1) >> child_shift(level));
    for (; mask; mask &= mask - 1) {
        unsigned i = __builtin_ctzll(mask);
        uint64_t child_start = start, child_end = end, found;

        clip_to_child(level, i, &child_start, &child_end);
        found = subtree_find(inner->child[i], level - 1, child_start, child_end,
                             value);
        if (found < child_end) {
            return ((uint64_t)i << child_shift(level)) + found;
        }
    }
    return end;
}

static uint64_t find(const SparseBitmap *bitmap, uint64_t start, uint64_t end,
                     bool value)
{
    g_assert(start <= end && end <= bitmap->nbits);
    if (start == end) {
        return end;
    }
    return subtree_find(bitmap->root, bitmap->height, start, end, value);
}

uint64_t sparse_bitmap_next_set(const SparseBitmap *bitmap, uint64_t start,
                                uint64_t end)
{
    return find(bitmap, start, end, true);
}

uint64_t sparse_bitmap_next_clear(const SparseBitmap *bitmap, uint64_t start,
                                  uint64_t end)
{
    return find(bitmap, start, end, false);
}

uint64_t sparse_bitmap_next_change(const SparseBitmap *bitmap, uint64_t start,
                                   uint64_t end, bool *value)
{
    bool current = sparse_bitmap_test(bitmap, start);

    g_assert(start < end);
    if (value) {
        *value = current;
    }
    return find(bitmap, start, end, !current);
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

        count += __builtin_popcountll(leaf->words[i] & mask);
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
