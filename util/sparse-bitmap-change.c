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

/* The summary of child @i */
static void inner_summarize(Inner *inner, unsigned i)
{
    uint64_t bit = UINT64_C(1) << i;

    inner->some_set &= ~bit;
    inner->some_clear &= ~bit;
    if (inner->child[i] != SUBTREE_CLEAR) {
        inner->some_set |= bit;
    }
    if (inner->child[i] != SUBTREE_SET) {
        inner->some_clear |= bit;
    }
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
    inner->child[i] = child;
    inner->head.count += subtree_count(child, level - 1);
    inner->memory += subtree_memory(child, level - 1);
    inner_summarize(inner, i);
}

/* How many bits of the leaf's [@start, @end), relative to it or not, change */
static inline unsigned leaf_flip(Leaf *leaf, uint64_t start, uint64_t end,
                                 bool value)
{
    uint64_t mask = UINT64_MAX << start % WORD_BITS;
    unsigned i = start / WORD_BITS % LEAF_WORDS;
    unsigned last = (end - 1) / WORD_BITS % LEAF_WORDS;
    uint64_t flip = value ? UINT64_MAX : 0;
    unsigned changed = 0;

    for (;; i++, mask = UINT64_MAX) {
        if (i == last) {
            mask &= UINT64_MAX >> (WORD_BITS - 1 - (end - 1) % WORD_BITS);
        }
        mask &= leaf->words[i] ^ flip;
        if (mask) {
            leaf->words[i] ^= mask;
            changed += word_count(mask);
        }
        if (i == last) {
            return changed;
        }
    }
}

/* Give [@start, @end) of a leaf, neither of them none nor all, one value. */
static Subtree leaf_assign(SparseBitmap *bitmap, Subtree tree, uint64_t start,
                           uint64_t end, bool value)
{
    Leaf *leaf = subtree_is_uniform(tree) ? leaf_new(bitmap, !value)
                                          : subtree_leaf(tree);
    unsigned changed = leaf_flip(leaf, start, end, value);

    leaf->head.count += value ? changed : -(uint64_t)changed;
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
    bitmap->last = NO_LEAF;
    if (start < end) {
        bitmap->root = subtree_assign(bitmap, bitmap->root, bitmap->height,
                                      start, end, value);
    }
}

/* ---- a range within a leaf ---------------------------------------------- */

/* @leaf, where bit @bit is, has that value alone by now; so may nodes above it. */
static void collapse(SparseBitmap *bitmap, Leaf *leaf, uint64_t bit, bool value)
{
    Inner *path[MAX_HEIGHT + 1]; /* by their levels */
    Subtree tree = bitmap->root;
    size_t memory = HEAP_BYTES(Leaf);
    unsigned level;

    for (level = bitmap->height; level > 0; level--) {
        path[level] = subtree_inner(tree);
        tree = path[level]->child[child_index(level, bit)];
    }
    bitmap->last = NO_LEAF;
    discard(bitmap, (Subtree)leaf, 0);
    for (level = 1; level <= bitmap->height; level++) {
        Inner *inner = path[level];
        unsigned i = child_index(level, bit);

        inner->child[i] = subtree_uniform(value);
        inner_summarize(inner, i);
        inner->memory -= memory;
        if (value ? inner->some_clear : inner->some_set) {
            while (++level <= bitmap->height) {
                path[level]->memory -= memory;
            }
            return;
        }
        memory += inner->memory;
        discard(bitmap, (Subtree)inner, level);
    }
    bitmap->root = subtree_uniform(value);
}

/*
 * Most ranges are short: no recursion where a leaf is there, or nothing to be
 * done. False: something is, and there is no leaf.
 */
static inline bool short_assign(SparseBitmap *bitmap, uint64_t start,
                                uint64_t end, bool value)
{
    unsigned shift;
    Subtree tree;
    int changed;

    if (start >> LEAF_SHIFT != bitmap->last) {
        tree = locate(bitmap, start, &shift);
        if (subtree_is_uniform(tree)) {
            return tree == subtree_uniform(value);
        }
    }
    changed = leaf_flip(bitmap->last_leaf, start, end, value);
    if (changed == 0) {
        return true; /* nothing was written, other processors keep their copies */
    }
    changed = value ? changed : -changed;
    shift = LEAF_SHIFT + bitmap->height * FANOUT_SHIFT;
    for (tree = bitmap->root; shift > LEAF_SHIFT;) {
        Inner *inner = subtree_inner(tree);

        shift -= FANOUT_SHIFT;
        inner->head.count += changed;
        tree = inner->child[(start >> shift) % FANOUT];
    }
    subtree_leaf(tree)->head.count += changed;
    if (subtree_leaf(tree)->head.count == (value ? level_bits(0) : 0)) {
        collapse(bitmap, subtree_leaf(tree), start, value);
    }
    return true;
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
    if (start >> LEAF_SHIFT != (end - 1) >> LEAF_SHIFT ||
        !short_assign(bitmap, start, end, value)) {
        tree_assign(bitmap, start, end, value);
    }
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

        inner_put(inner, bitmap->height, 0, subtree_uniform(false));
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
