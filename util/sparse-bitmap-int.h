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

static inline uint64_t level_bits(unsigned level)
{
    return UINT64_C(1) << (LEAF_SHIFT + level * FANOUT_SHIFT);
}

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
