/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A bitmap of up to 2^54 bits whose uniform parts take no memory.
 *
 * A disk's bitmap is seldom random. A disk that was written from end to end
 * is one run of ones, an empty one is one run of zeroes, and most others are
 * long runs with a few busy places between them. So the bits hang in a radix
 * tree in which a subtree that holds only ones, or only zeroes, is not stored:
 * the pointer that would lead to it says which of the two it is.
 *
 * The index of a bit is cut into fields like this (for a tree of height 2):
 *
 *        23        18 17        12 11                 6 5          0
 *       +------------+------------+--------------------+------------+
 *       |   child    |   child    |  word of the leaf  |   bit of   |
 *       | at level 2 | at level 1 |                    |  the word  |
 *       +------------+------------+--------------------+------------+
 *
 * - A leaf (level 0) is an array of 64 words of 64 bits: 4096 bits, 512 bytes.
 * - An inner node (level 1 and up) has 64 children of the level below.
 * - The height of the tree is the smallest one that covers the size: 0 up to
 *   4096 bits, and 7 for the largest bitmap, 2^(12 + 6 * 7) = 2^54 bits.
 *
 * A Subtree is what a pointer to a child can be: SUBTREE_CLEAR, SUBTREE_SET or
 * the address of a node, told apart by the lowest bits of the address, which
 * malloc() leaves zero. A whole disk of either kind is thus one such value in
 * SparseBitmap.root: any size, no node.
 *
 *            root ---> +---+---+---+---+-----+---+
 *                      | 0 | 1 | * | 0 | ... | 1 |          level 2
 *                      +---+---+-|-+---+-----+---+
 *                                v
 *                      +---+---+---+---+-----+---+
 *                      | * | 1 | 1 | 1 | ... | 1 |          level 1
 *                      +-|-+---+---+---+-----+---+
 *                        v
 *                      [ 512 bytes of bits ]                level 0
 *
 * Each inner node carries two summary words with a bit a child: in "some_set",
 * whether any bit below that child is set, in "some_clear", whether any is
 * clear. They do for the upper levels what the bits themselves do in a leaf:
 * the next set bit is found by counting trailing zeroes of some_set, the next
 * clear one by those of some_clear, and a child that has both is one that holds
 * memory. A node whose some_set (some_clear) is zero is uniform.
 *
 * Each node also knows how many bits are set below it, and each inner node how
 * much memory hangs below it, so that a subtree can be taken off the tree
 * without being looked at.
 *
 * Invariants:
 * - No node is uniform. Whoever makes one uniform detaches it and puts the
 *   tagged value in its place, and then looks at the parent in the same way. So
 *   the tree depends on the bits alone and not on how they came to be there.
 * - The bits between the size and what the tree covers all equal the last bit
 *   ("tail"). Otherwise a disk whose size is not a power of 64 could never be
 *   all ones. Operations that touch the last bit are extended to the end of the
 *   tree, and the counts are corrected for it.
 *
 * Whoever looks goes through the bits in order, mostly, or asks several things
 * of one place. So the leaf that a look-up came to last is remembered
 * ("last_leaf"), and one that finds its bit in there goes down no tree. Every
 * operation that may take that leaf off the tree forgets it.
 *
 * A change within one leaf ("short_assign") goes down without recursion, writes
 * what differs and adds to the counts on its way. One that changes nothing
 * writes nothing: processors that work on the same bitmap in turns would have to
 * fetch it from each other.
 *
 * What it costs, h being the height (at most 7):
 * - test: h steps; none in the leaf that was looked at last. On a uniform bitmap:
 *   one comparison.
 * - next_set, next_clear, next_change: down, and at most once up and down
 *   again, since a summary bit can be wrong only about the two ends of the
 *   range that was asked for: O(h) words of summary, 64 words of a leaf.
 * - set, clear of any range: two paths, one at each end of the range, and at
 *   most 64 children a level in between, which are replaced whole: O(64 * h),
 *   whether it is a block or 16 TiB, and regardless of what was there before.
 * - count_range: the same. count, size, memory: O(1).
 * - resize: one set or clear, and one step a level.
 * - copy, free: O(nodes).
 * - memory: a leaf for each 4096 bits that are not uniform; the inner nodes
 *   are 1/64 of that. For blocks of 4 KiB in the worst case, at least one odd
 *   block in each 16 MiB, that is 33.5 MiB a TiB, overhead of the heap and all.
 *
 * What an operation takes off the tree is not freed on the spot: that is the
 * one thing here whose cost grows with the size of the disk, and the callers
 * hold locks. It goes onto the garbage list, a chain through the roots of the
 * detached subtrees themselves: a push costs nothing but the link. An entry's
 * address carries its level in the lowest bits, which tells whoever frees it
 * what it is.
 *
 * In this file: bitmaps as a whole, and freeing. sparse-bitmap-change.c changes
 * bits and size, sparse-bitmap-find.c looks for them.
 */
#include "sparse-bitmap-int.h"

/* ---- freeing ------------------------------------------------------------ */

static void subtree_free(Subtree tree, unsigned level)
{
    if (subtree_is_uniform(tree)) {
        return;
    }
    if (level > 0) {
        Inner *inner = subtree_inner(tree);
        uint64_t mixed = inner->some_set & inner->some_clear;

        for (; mixed; mixed &= mixed - 1) {
            subtree_free(inner->child[__builtin_ctzll(mixed)], level - 1);
        }
    }
    g_free((void *)tree);
}

void sparse_bitmap_garbage_free(SparseBitmapGarbage *garbage)
{
    GarbageLink link = (GarbageLink)garbage;

    while (link) {
        unsigned level = link & GARBAGE_LEVEL_MASK;
        Subtree tree = link & ~GARBAGE_LEVEL_MASK;

        link = ((NodeHead *)tree)->next;
        subtree_free(tree, level);
    }
}

SparseBitmapGarbage *sparse_bitmap_take_garbage(SparseBitmap *bitmap)
{
    GarbageLink link = bitmap->garbage;

    if (!link) {
        return NULL;
    }
    bitmap->memory -= bitmap->garbage_memory;
    bitmap->garbage_memory = 0;
    bitmap->garbage = 0;
    return (SparseBitmapGarbage *)link;
}

/* ---- the bitmap as a whole ---------------------------------------------- */

SparseBitmap *sparse_bitmap_new(uint64_t nbits)
{
    SparseBitmap *bitmap = g_new0(SparseBitmap, 1);

    g_assert(nbits <= SPARSE_BITMAP_MAX_BITS);
    bitmap->nbits = nbits;
    bitmap->height = height_for(nbits);
    bitmap->root = SUBTREE_CLEAR;
    bitmap->last = NO_LEAF;
    bitmap->memory = HEAP_BYTES(SparseBitmap);
    return bitmap;
}

void sparse_bitmap_free(SparseBitmap *bitmap)
{
    if (!bitmap) {
        return;
    }
    subtree_free(bitmap->root, bitmap->height);
    sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(bitmap));
    g_free(bitmap);
}

static Subtree subtree_copy(Subtree tree, unsigned level)
{
    Inner *inner;
    uint64_t mixed;

    if (subtree_is_uniform(tree)) {
        return tree;
    }
    if (level == 0) {
        return (Subtree)g_memdup2(subtree_leaf(tree), sizeof(Leaf));
    }
    inner = g_memdup2(subtree_inner(tree), sizeof(Inner));
    for (mixed = inner->some_set & inner->some_clear; mixed;
         mixed &= mixed - 1) {
        unsigned i = __builtin_ctzll(mixed);

        inner->child[i] = subtree_copy(inner->child[i], level - 1);
    }
    return (Subtree)inner;
}

SparseBitmap *sparse_bitmap_copy(const SparseBitmap *bitmap)
{
    SparseBitmap *copy = g_memdup2(bitmap, sizeof(*bitmap));

    copy->root = subtree_copy(bitmap->root, bitmap->height);
    copy->last = NO_LEAF;
    copy->memory -= copy->garbage_memory;
    copy->garbage = 0;
    copy->garbage_memory = 0;
    return copy;
}

size_t sparse_bitmap_memory(const SparseBitmap *bitmap)
{
    return bitmap->memory;
}

uint64_t sparse_bitmap_size(const SparseBitmap *bitmap)
{
    return bitmap->nbits;
}
