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
 * What it costs, h being the height (at most 7):
 * - test: h steps. On a uniform bitmap: one comparison.
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
 */
#include "util/sparse-bitmap.h"

#include <string.h>

#define WORD_BITS 64
#define LEAF_WORDS 64
#define LEAF_SHIFT 12
#define FANOUT_SHIFT 6
#define FANOUT (1u << FANOUT_SHIFT)
#define MAX_HEIGHT 7

/* A tag, or the address of a node of the level that the context implies */
typedef uintptr_t Subtree;
#define SUBTREE_CLEAR ((Subtree)0)
#define SUBTREE_SET ((Subtree)1)

/* The address of a detached node, with its level in the lowest bits */
typedef uintptr_t GarbageLink;
#define GARBAGE_LEVEL_MASK ((GarbageLink)7)
G_STATIC_ASSERT(MAX_HEIGHT <= 7);

typedef union NodeHead {
    uint64_t count;   /* bits set below; neither none nor all */
    GarbageLink next; /* once detached */
} NodeHead;

typedef struct Leaf {
    NodeHead head;
    uint64_t words[LEAF_WORDS];
} Leaf;

typedef struct Inner {
    NodeHead head;
    uint64_t some_set;   /* bit i: child i is not SUBTREE_CLEAR */
    uint64_t some_clear; /* bit i: child i is not SUBTREE_SET */
    size_t memory;       /* of this node and all below */
    Subtree child[FANOUT];
} Inner;

struct SparseBitmap {
    uint64_t nbits;
    Subtree root;
    unsigned height;
    bool tail;     /* the value of the bits from nbits on, and of the last */
    size_t memory; /* the struct, the tree and the garbage */
    GarbageLink garbage;
    size_t garbage_memory;
};

/* What malloc() takes for a T: a word of its own, in steps of 16 bytes */
#define HEAP_BYTES(T) ((sizeof(T) + sizeof(size_t) + 15) & ~(size_t)15)

/* A bitmap whose garbage nobody takes frees it when it is more than this. */
#define GARBAGE_MAX_BYTES (64 * 1024)

static uint64_t level_bits(unsigned level)
{
    return UINT64_C(1) << (LEAF_SHIFT + level * FANOUT_SHIFT);
}

static unsigned child_shift(unsigned level)
{
    return LEAF_SHIFT + (level - 1) * FANOUT_SHIFT;
}

static Subtree subtree_uniform(bool value)
{
    return value ? SUBTREE_SET : SUBTREE_CLEAR;
}

static bool subtree_is_uniform(Subtree tree)
{
    return tree <= SUBTREE_SET;
}

static Leaf *subtree_leaf(Subtree tree)
{
    return (Leaf *)tree;
}

static Inner *subtree_inner(Subtree tree)
{
    return (Inner *)tree;
}

static uint64_t subtree_count(Subtree tree, unsigned level)
{
    if (subtree_is_uniform(tree)) {
        return tree == SUBTREE_SET ? level_bits(level) : 0;
    }
    return ((NodeHead *)tree)->count;
}

static size_t subtree_memory(Subtree tree, unsigned level)
{
    if (subtree_is_uniform(tree)) {
        return 0;
    }
    return level == 0 ? HEAP_BYTES(Leaf) : subtree_inner(tree)->memory;
}

/* The bits of a word from @first up to and including @last */
static uint64_t mask_between(unsigned first, unsigned last)
{
    return (UINT64_MAX << first) & (UINT64_MAX >> (WORD_BITS - 1 - last));
}

/*
 * The part of [@start, @end), which lies within a node of level @level, that
 * falls into child @i: relative to the child's first bit.
 */
static void clip_to_child(unsigned level, unsigned i, uint64_t *start,
                          uint64_t *end)
{
    uint64_t base = (uint64_t)i << child_shift(level);
    uint64_t bits = level_bits(level - 1);

    *start = *start > base ? *start - base : 0;
    *end = MIN(*end - base, bits);
}

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

static void garbage_free(GarbageLink link)
{
    while (link) {
        unsigned level = link & GARBAGE_LEVEL_MASK;
        Subtree tree = link & ~GARBAGE_LEVEL_MASK;

        link = ((NodeHead *)tree)->next;
        subtree_free(tree, level);
    }
}

/* Put a subtree that hangs nowhere any more onto the garbage list. */
static void discard(SparseBitmap *bitmap, Subtree tree, unsigned level)
{
    if (subtree_is_uniform(tree)) {
        return;
    }
    bitmap->garbage_memory += subtree_memory(tree, level);
    ((NodeHead *)tree)->next = bitmap->garbage;
    bitmap->garbage = tree | level;
}

static GarbageLink take_garbage(SparseBitmap *bitmap)
{
    GarbageLink link = bitmap->garbage;

    bitmap->memory -= bitmap->garbage_memory;
    bitmap->garbage_memory = 0;
    bitmap->garbage = 0;
    return link;
}

/* At the start of an operation, so that its own garbage can be taken after. */
static void bound_garbage(SparseBitmap *bitmap)
{
    if (bitmap->garbage_memory > GARBAGE_MAX_BYTES) {
        garbage_free(take_garbage(bitmap));
    }
}

SparseBitmapGarbage *sparse_bitmap_take_garbage(SparseBitmap *bitmap)
{
    return (SparseBitmapGarbage *)take_garbage(bitmap);
}

void sparse_bitmap_garbage_free(SparseBitmapGarbage *garbage)
{
    garbage_free((GarbageLink)garbage);
}

/* ---- changing ----------------------------------------------------------- */

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

static unsigned height_for(uint64_t nbits)
{
    unsigned height = 0;

    while (level_bits(height) < nbits) {
        height++;
    }
    return height;
}

SparseBitmap *sparse_bitmap_new(uint64_t nbits)
{
    SparseBitmap *bitmap = g_new0(SparseBitmap, 1);

    g_assert(nbits <= SPARSE_BITMAP_MAX_BITS);
    bitmap->nbits = nbits;
    bitmap->height = height_for(nbits);
    bitmap->root = SUBTREE_CLEAR;
    bitmap->memory = HEAP_BYTES(SparseBitmap);
    return bitmap;
}

void sparse_bitmap_free(SparseBitmap *bitmap)
{
    if (!bitmap) {
        return;
    }
    subtree_free(bitmap->root, bitmap->height);
    garbage_free(bitmap->garbage);
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
    copy->memory -= copy->garbage_memory;
    copy->garbage = 0;
    copy->garbage_memory = 0;
    return copy;
}

uint64_t sparse_bitmap_size(const SparseBitmap *bitmap)
{
    return bitmap->nbits;
}

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

/* ---- looking ------------------------------------------------------------ */

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

size_t sparse_bitmap_memory(const SparseBitmap *bitmap)
{
    return bitmap->memory;
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
