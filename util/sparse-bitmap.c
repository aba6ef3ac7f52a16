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
 * - A leaf (level 0) stands for 4096 bits.
 * - An inner node (level 1 and up) has 64 children of the level below. One of
 *   level 1 is a group of leaves.
 * - The height of the tree is the smallest one that covers the size: 0 up to
 *   4096 bits, and 7 for the largest bitmap, 2^(12 + 6 * 7) = 2^54 bits.
 *
 * A Subtree is what a pointer to a child can be: the address of a node, or a
 * value. The lowest bits, which malloc() leaves zero, tell them apart. A whole
 * disk of zeroes, or of ones, is one such value in SparseBitmap.root: any size,
 * no node. A leaf in which there is but one odd run of bits is a value, too,
 * which says where the run begins and ends. That is what the ends of long runs
 * look like, and single odd blocks. Only leaves with more than that are
 * stored as bits, in 64 words.
 *
 *            root ---> +---+---+---+---+-----+---+
 *                      | 0 | 1 | * | 0 | ... | 1 |          level 2
 *                      +---+---+-|-+---+-----+---+
 *                                v
 *                      +---+-------------+---+-----+---+
 *                      | * | 1, but 5..9 | 1 | ... | 1 |    level 1
 *                      +-|-+-------------+---+-----+---+
 *                        v
 *                      [ 512 bytes of bits ]                level 0
 *
 * Where nearly all leaves of a subtree of level 2 are stored (2^24 bits; 64 GiB of
 * blocks of 4 KiB), a slab takes its place: an array of words, side by side,
 * whatever they hold, in one huge page if the kernel has one. Then a look at any
 * place is one at a plain array, and a tree would take as much memory. A slab
 * in which few leaves are mixed by now becomes a tree again.
 *
 * Each inner node carries two summary words with a bit a child: "some[true]",
 * whether any bit below that child is set, "some[false]", whether any is
 * clear. They do for the upper levels what the bits themselves do in a leaf:
 * the next set bit is found by counting trailing zeroes of some[true], the next
 * clear one by those of some[false], and a child that has both is one that is
 * mixed. A node one of whose words is zero is uniform. A slab has the words of
 * the nodes whose place it takes, and a count for each leaf.
 *
 * Leaves, groups and what is of level 2 know how many bits are set below them.
 * Above that it is added up when it is asked for: each 16 TiB have 256 such parts.
 * Each inner node also knows how much memory hangs below it. So a subtree
 * can be taken off the tree without being looked at.
 *
 * Invariants:
 * - No node is uniform. Whoever makes one uniform detaches it and puts the
 *   tagged value in its place, and then looks at the parent in the same way. So
 *   inner nodes depend on the bits alone and not on how they came to be there.
 *   (Leaves and slabs, a little: a leaf with words keeps them until it is
 *   uniform, and there is a wide margin between becoming a slab and ceasing to be
 *   one.)
 * - The bits between the size and what the tree covers all equal the last bit
 *   ("tail"). Otherwise a disk whose size is not a power of 64 could never be
 *   all ones. Operations that touch the last bit are extended to the end of the
 *   tree, and the count is corrected for it.
 *
 * Whoever looks goes through the bits in order, mostly, or asks several things
 * of one place. So the slab and the group that a look-up came to last are
 * remembered, and one that finds its bit in there goes down no tree. Every
 * operation that may take them off the tree forgets them.
 *
 * A change within one leaf goes down without recursion, writes what differs,
 * or another run, and adds to the counts. One that changes nothing writes nothing:
 * processors that work on the same bitmap in turns would have to fetch it from each
 * other.
 *
 * What it costs, h being the height (at most 7):
 * - test: h steps; none in the group or slab that was looked at last. On a uniform
 *   bitmap: one comparison.
 * - next_set, next_clear, next_change: down, and at most once up and down
 *   again, since a summary bit can be wrong only about the two ends of the
 *   range that was asked for: O(h) words of summary, 64 words of a leaf.
 * - set, clear of any range: two paths, one at each end of the range, and at
 *   most 64 children a level in between, which are replaced whole: O(64 * h),
 *   whether it is a block or 16 TiB, and regardless of what was there before
 *   (but one step for each 2^24 bits that were mixed, for the count). A slab at
 *   the end of the range is written to: 2 MiB at most.
 * - count_range: the same. count, size, memory: O(1).
 * - resize: one set or clear, and one step a level.
 * - copy, free: O(nodes). To become a slab, or a tree again: 4096 leaves.
 * - memory: 528 bytes for each 4096 bits with more than one odd run; the inner
 *   nodes are 1/64 of that, and a slab takes at most a seventh more than the tree
 *   would. For blocks of 4 KiB in the worst case that is 32.5 MiB a TiB.
 *
 * What an operation takes off the tree is not freed on the spot: that is the
 * one thing here whose cost grows with the size of the disk, and the callers
 * hold locks. It goes onto the garbage list, a chain through the roots of the
 * detached subtrees themselves: a push costs nothing but the link.
 *
 * In this file: bitmaps as a whole, and freeing. sparse-bitmap-change.c changes
 * bits and size, sparse-bitmap-find.c looks for them, sparse-bitmap-slab.c has
 * what is particular to slabs.
 */
#include "sparse-bitmap-int.h"

/* ---- freeing ------------------------------------------------------------ */

static void subtree_free(Subtree tree)
{
    if (subtree_is_inner(tree)) {
        Inner *inner = subtree_inner(tree);
        uint64_t mixed = inner->some[false] & inner->some[true];

        for (; mixed; mixed &= mixed - 1) {
            subtree_free(inner->child[__builtin_ctzll(mixed)]);
        }
        g_free(inner);
    } else if (subtree_is_leaf(tree)) {
        g_free(subtree_leaf(tree));
    } else if (subtree_is_slab(tree)) {
        slab_free(subtree_slab(tree));
    }
}

void sparse_bitmap_garbage_free(SparseBitmapGarbage *garbage)
{
    Subtree tree = (Subtree)garbage;

    while (tree) {
        Subtree next = subtree_head(tree)->next;

        subtree_free(tree);
        tree = next;
    }
}

SparseBitmapGarbage *sparse_bitmap_take_garbage(SparseBitmap *bitmap)
{
    Subtree garbage = bitmap->garbage;

    if (!garbage) {
        return NULL;
    }
    bitmap->memory -= bitmap->garbage_memory;
    bitmap->garbage_memory = 0;
    bitmap->garbage = 0;
    return (SparseBitmapGarbage *)garbage;
}

/* ---- the bitmap as a whole ---------------------------------------------- */

SparseBitmap *sparse_bitmap_new(uint64_t nbits)
{
    SparseBitmap *bitmap = g_new0(SparseBitmap, 1);

    g_assert(nbits <= SPARSE_BITMAP_MAX_BITS);
    bitmap->nbits = nbits;
    bitmap->height = height_for(nbits);
    bitmap->root = SUBTREE_CLEAR;
    forget_places(bitmap);
    bitmap->memory = HEAP_BYTES(SparseBitmap);
    return bitmap;
}

void sparse_bitmap_free(SparseBitmap *bitmap)
{
    if (!bitmap) {
        return;
    }
    subtree_free(bitmap->root);
    sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(bitmap));
    g_free(bitmap);
}

static Subtree subtree_copy(Subtree tree)
{
    if (subtree_is_inner(tree)) {
        Inner *inner = g_memdup2(subtree_inner(tree), sizeof(Inner));
        uint64_t mixed = inner->some[false] & inner->some[true];

        for (; mixed; mixed &= mixed - 1) {
            unsigned i = __builtin_ctzll(mixed);

            inner->child[i] = subtree_copy(inner->child[i]);
        }
        return (Subtree)inner;
    }
    if (subtree_is_leaf(tree)) {
        return subtree_of_leaf(g_memdup2(subtree_leaf(tree), sizeof(Leaf)));
    }
    if (subtree_is_slab(tree)) {
        return subtree_of_slab(slab_copy(subtree_slab(tree)));
    }
    return tree;
}

SparseBitmap *sparse_bitmap_copy(const SparseBitmap *bitmap)
{
    SparseBitmap *copy = g_memdup2(bitmap, sizeof(*bitmap));

    copy->root = subtree_copy(bitmap->root);
    forget_places(copy);
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
