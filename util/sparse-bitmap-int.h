/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The tree of a sparse bitmap, for the files that make it up; what it looks
 * like and why is told at the head of sparse-bitmap.c. Not installed, and not
 * for anybody else.
 */
#ifndef UTIL_SPARSE_BITMAP_INT_H
#define UTIL_SPARSE_BITMAP_INT_H

#include "util/sparse-bitmap.h"

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

/* No leaf: a number that none has */
#define NO_LEAF UINT64_MAX

struct SparseBitmap {
    uint64_t nbits;
    Subtree root;
    unsigned height;
    bool tail;       /* the value of the bits from nbits on, and of the last */
    uint64_t last;   /* the leaf that was last found, or NO_LEAF, */
    Leaf *last_leaf; /* and where that is */
    size_t memory;   /* the struct, the tree and the garbage */
    GarbageLink garbage;
    size_t garbage_memory;
};

/* What malloc() takes for a T: a word of its own, in steps of 16 bytes */
#define HEAP_BYTES(T) ((sizeof(T) + sizeof(size_t) + 15) & ~(size_t)15)

static inline uint64_t level_bits(unsigned level)
{
    return UINT64_C(1) << (LEAF_SHIFT + level * FANOUT_SHIFT);
}

/* The shift of an index that gives its child in a node of level @level */
static inline unsigned child_shift(unsigned level)
{
    return LEAF_SHIFT + (level - 1) * FANOUT_SHIFT;
}

static inline Subtree subtree_uniform(bool value)
{
    return value ? SUBTREE_SET : SUBTREE_CLEAR;
}

static inline bool subtree_is_uniform(Subtree tree)
{
    return tree <= SUBTREE_SET;
}

static inline Leaf *subtree_leaf(Subtree tree)
{
    return (Leaf *)tree;
}

static inline Inner *subtree_inner(Subtree tree)
{
    return (Inner *)tree;
}

static inline uint64_t subtree_count(Subtree tree, unsigned level)
{
    if (subtree_is_uniform(tree)) {
        return tree == SUBTREE_SET ? level_bits(level) : 0;
    }
    return ((NodeHead *)tree)->count;
}

static inline size_t subtree_memory(Subtree tree, unsigned level)
{
    if (subtree_is_uniform(tree)) {
        return 0;
    }
    return level == 0 ? HEAP_BYTES(Leaf) : subtree_inner(tree)->memory;
}

/* Of the child of a node of level @level that bit @bit is in */
static inline unsigned child_index(unsigned level, uint64_t bit)
{
    return (bit >> child_shift(level)) % FANOUT;
}

/* For processors without an instruction for it */
static inline unsigned word_count_portable(uint64_t word)
{
    word -= word >> 1 & UINT64_C(0x5555555555555555);
    word = (word & UINT64_C(0x3333333333333333)) +
           (word >> 2 & UINT64_C(0x3333333333333333));
    word = (word + (word >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return word * UINT64_C(0x0101010101010101) >> 56;
}

/* Built for any x86-64, the compiler's own builtin is a call. */
static inline unsigned word_count(uint64_t word)
{
#ifdef __x86_64__
    if (G_LIKELY(__builtin_cpu_supports("popcnt"))) {
        __asm__("popcnt %0, %0" : "+r"(word) : : "cc");
        return word;
    }
#endif
    return word_count_portable(word);
}

/* The height of the smallest tree that covers so many bits */
static inline unsigned height_for(uint64_t nbits)
{
    unsigned height = 0;

    while (level_bits(height) < nbits) {
        height++;
    }
    return height;
}

/* The bits of a word from @first up to and including @last */
static inline uint64_t mask_between(unsigned first, unsigned last)
{
    return (UINT64_MAX << first) & (UINT64_MAX >> (WORD_BITS - 1 - last));
}

/*
 * The part of [@start, @end), which lies within a node of level @level, that
 * falls into child @i: relative to the child's first bit.
 */
static inline void clip_to_child(unsigned level, unsigned i, uint64_t *start,
                                 uint64_t *end)
{
    uint64_t base = (uint64_t)i << child_shift(level);
    uint64_t bits = level_bits(level - 1);

    *start = *start > base ? *start - base : 0;
    *end = MIN(*end - base, bits);
}

/* Looks come one after the other: the leaf that bit @bit is in was found last. */
static inline void remember(const SparseBitmap *bitmap, uint64_t bit,
                            Leaf *leaf)
{
    SparseBitmap *b = (SparseBitmap *)bitmap; /* the caller's alone */

    b->last = bit >> LEAF_SHIFT;
    b->last_leaf = leaf;
}

/*
 * What bit @bit is in: a leaf, which is remembered, or a subtree of one value, of
 * 1 << *@shift bits.
 */
static inline Subtree locate(const SparseBitmap *bitmap, uint64_t bit,
                             unsigned *shift)
{
    unsigned at = LEAF_SHIFT + bitmap->height * FANOUT_SHIFT;
    Subtree tree = bitmap->root;

    while (!subtree_is_uniform(tree)) {
        if (at == LEAF_SHIFT) {
            remember(bitmap, bit, subtree_leaf(tree));
            break;
        }
        at -= FANOUT_SHIFT;
        tree = subtree_inner(tree)->child[(bit >> at) % FANOUT];
    }
    *shift = at;
    return tree;
}

/* Put a subtree that hangs nowhere any more onto the garbage list. */
static inline void discard(SparseBitmap *bitmap, Subtree tree, unsigned level)
{
    if (subtree_is_uniform(tree)) {
        return;
    }
    bitmap->garbage_memory += subtree_memory(tree, level);
    ((NodeHead *)tree)->next = bitmap->garbage;
    bitmap->garbage = tree | level;
}

#endif
