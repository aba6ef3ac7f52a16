/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sparse bitmap: setting and clearing ranges, and the size. */
#include "sparse-bitmap-int.h"

#include <string.h>

/* A bitmap whose garbage nobody takes frees it when it is more than this. */
#define GARBAGE_MAX_BYTES (64 * 1024)

/* At the start of an operation, so that its own garbage can be taken after. */
static void bound_garbage(SparseBitmap *bitmap)
{
    if (bitmap->garbage_memory > GARBAGE_MAX_BYTES) {
        sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(bitmap));
    }
}

/* ---- bits --------------------------------------------------------------- */

static Leaf *leaf_new(SparseBitmap *bitmap, bool value)
{
    Leaf *leaf = g_new(Leaf, 1);

    bitmap->memory += HEAP_BYTES(Leaf);
    leaf->head.count = value ? level_bits(0) : 0;
    memset(leaf->words, value ? 0xff : 0, sizeof(leaf->words));
    return leaf;
}

static Inner *inner_new(SparseBitmap *bitmap, unsigned level, bool value)
{
    Inner *inner = g_new(Inner, 1);
    unsigned i;

    bitmap->memory += HEAP_BYTES(Inner);
    inner->head.count = value ? level_bits(level) : 0;
    inner->some_set = value ? UINT64_MAX : 0;
    inner->some_clear = ~inner->some_set;
    inner->memory = HEAP_BYTES(Inner);
    for (i = 0; i < FANOUT; i++) {
        inner->child[i] = subtree_uniform(value);
    }
    return inner;
}

/* To be called in pairs around a change below child @i: take off, put back. */
static Subtree inner_take(Inner *inner, unsigned level, unsigned i)
{
    Subtree child = inner->child[i];

    inner->head.count -= subtree_count(child, level - 1);
    inner->memory -= subtree_memory(child, level - 1);
    return child;
}

static void inner_put(Inner *inner, unsigned level, unsigned i, Subtree child)
{
    uint64_t bit = UINT64_C(1) << i;

    inner->child[i] = child;
    inner->head.count += subtree_count(child, level - 1);
    inner->memory += subtree_memory(child, level - 1);
    inner->some_set &= ~bit;
    inner->some_clear &= ~bit;
    if (child != SUBTREE_CLEAR) {
        inner->some_set |= bit;
    }
    if (child != SUBTREE_SET) {
        inner->some_clear |= bit;
    }
}

/* Give [@start, @end) of a leaf, neither of them none nor all, one value. */
static Subtree leaf_assign(SparseBitmap *bitmap, Subtree tree, uint64_t start,
                           uint64_t end, bool value)
{
    unsigned first = start / WORD_BITS, last = (end - 1) / WORD_BITS;
    unsigned i;
    Leaf *leaf;

    leaf = subtree_is_uniform(tree) ? leaf_new(bitmap, !value)
                                    : subtree_leaf(tree);
    for (i = first; i <= last; i++) {
        uint64_t mask =
            mask_between(i == first ? start % WORD_BITS : 0,
                         i == last ? (end - 1) % WORD_BITS : WORD_BITS - 1);
        uint64_t flip = mask & (value ? ~leaf->words[i] : leaf->words[i]);

        if (flip) {
            leaf->words[i] ^= flip;
            if (value) {
                leaf->head.count += __builtin_popcountll(flip);
            } else {
                leaf->head.count -= __builtin_popcountll(flip);
            }
        }
    }
    if (leaf->head.count == (value ? level_bits(0) : 0)) {
        discard(bitmap, (Subtree)leaf, 0);
        return subtree_uniform(value);
    }
    return (Subtree)leaf;
}

/*
 * Give [@start, @end), not empty and relative to the subtree's first bit, one
 * value; returns what takes the subtree's place.
 */
static Subtree subtree_assign(SparseBitmap *bitmap, Subtree tree,
                              unsigned level, uint64_t start, uint64_t end,
                              bool value)
{
    unsigned first, last, i;
    Inner *inner;

    if (tree == subtree_uniform(value)) {
        return tree;
    }
    if (start == 0 && end == level_bits(level)) {
        discard(bitmap, tree, level);
        return subtree_uniform(value);
    }
    if (level == 0) {
        return leaf_assign(bitmap, tree, start, end, value);
    }

    inner = subtree_is_uniform(tree) ? inner_new(bitmap, level, !value)
                                     : subtree_inner(tree);
    first = start >> child_shift(level);
    last = (end - 1) >> child_shift(level);
    for (i = first; i <= last; i++) {
        uint64_t child_start = start, child_end = end;
        Subtree child = inner_take(inner, level, i);

        clip_to_child(level, i, &child_start, &child_end);
        child = subtree_assign(bitmap, child, level - 1, child_start, child_end,
                               value);
        inner_put(inner, level, i, child);
    }
    if ((value ? inner->some_clear : inner->some_set) == 0) {
        discard(bitmap, (Subtree)inner, level);
        return subtree_uniform(value);
    }
    return (Subtree)inner;
}

/* [@start, @end) of what the tree covers, not only of the bitmap */
static void tree_assign(SparseBitmap *bitmap, uint64_t start, uint64_t end,
                        bool value)
{
    if (start < end) {
        bitmap->root = subtree_assign(bitmap, bitmap->root, bitmap->height,
                                      start, end, value);
    }
}

static void assign(SparseBitmap *bitmap, uint64_t start, uint64_t count,
                   bool value)
{
    uint64_t end = start + count;

    g_assert(start <= bitmap->nbits && count <= bitmap->nbits - start);
    if (count == 0) {
        return;
    }
    bound_garbage(bitmap);
    if (end == bitmap->nbits) {
        end = level_bits(bitmap->height);
        bitmap->tail = value;
    }
    tree_assign(bitmap, start, end, value);
}

void sparse_bitmap_set(SparseBitmap *bitmap, uint64_t start, uint64_t count)
{
    assign(bitmap, start, count, true);
}

void sparse_bitmap_clear(SparseBitmap *bitmap, uint64_t start, uint64_t count)
{
    assign(bitmap, start, count, false);
}

/* ---- size --------------------------------------------------------------- */

/* What was the whole tree becomes the first child of a new root. */
static void raise_height(SparseBitmap *bitmap)
{
    bitmap->height++;
    if (bitmap->root != SUBTREE_CLEAR) {
        Inner *inner = inner_new(bitmap, bitmap->height, false);

        inner_put(inner, bitmap->height, 0, bitmap->root);
        bitmap->root = (Subtree)inner;
    }
}

/* Only the first child is in use; the others all have the tail's value. */
static void lower_height(SparseBitmap *bitmap)
{
    if (!subtree_is_uniform(bitmap->root)) {
        Inner *inner = subtree_inner(bitmap->root);
        Subtree child = inner_take(inner, bitmap->height, 0);

        inner_put(inner, bitmap->height, 0, SUBTREE_CLEAR);
        discard(bitmap, bitmap->root, bitmap->height);
        bitmap->root = child;
    }
    bitmap->height--;
}

void sparse_bitmap_resize(SparseBitmap *bitmap, uint64_t nbits)
{
    unsigned height = height_for(nbits);

    g_assert(nbits <= SPARSE_BITMAP_MAX_BITS);
    bound_garbage(bitmap);
    if (nbits > bitmap->nbits) {
        /* The tail becomes part of the bitmap, or its neighbour. */
        if (bitmap->tail) {
            tree_assign(bitmap, bitmap->nbits, level_bits(bitmap->height),
                        false);
            bitmap->tail = false;
        }
    } else if (nbits < bitmap->nbits) {
        bitmap->tail = nbits > 0 && sparse_bitmap_test(bitmap, nbits - 1);
        tree_assign(bitmap, nbits, level_bits(bitmap->height), bitmap->tail);
    }
    bitmap->nbits = nbits;
    while (bitmap->height < height) {
        raise_height(bitmap);
    }
    while (bitmap->height > height) {
        lower_height(bitmap);
    }
}
