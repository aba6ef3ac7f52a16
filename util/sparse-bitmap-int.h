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
#define LEAF_BITS (1u << LEAF_SHIFT)
#define FANOUT_SHIFT 6
#define FANOUT (1u << FANOUT_SHIFT)
#define GROUP_SHIFT (LEAF_SHIFT + FANOUT_SHIFT)
#define SLAB_SHIFT (GROUP_SHIFT + FANOUT_SHIFT)
#define SLAB_LEAVES (FANOUT * FANOUT)
#define SLAB_LEVEL 2
#define MAX_HEIGHT 7

/*
 * What hangs somewhere in the tree. The lowest bits say what it is:
 *
 *   000  the address of an Inner
 *   001  uniform; bit 3 is the value
 *   011  level 0 only: a run of bits, from bit 4 to bit 16, in a leaf whose other
 *        bits are the value in bit 3
 *   101  level 0 only: the address of a Leaf
 *   111  level 2 only: the address of a Slab
 */
typedef uintptr_t Subtree;
#define SUBTREE_END ((Subtree)1) /* no Inner */
#define SUBTREE_IS_RUN ((Subtree)2)
#define SUBTREE_HAS_WORDS ((Subtree)4)
#define SUBTREE_VALUE_SHIFT 3
#define SUBTREE_TAG ((Subtree)7)
#define SUBTREE_CLEAR ((Subtree)1)
#define SUBTREE_SET ((Subtree)9)
#define RUN_START_SHIFT 4
#define RUN_LAST_SHIFT 16

typedef union NodeHead {
    uint64_t count; /* bits set below: in leaves, and levels up to SLAB_LEVEL */
    Subtree next;   /* once detached: the next of the garbage, or 0 */
} NodeHead;

typedef struct Leaf {
    NodeHead head;
    uint64_t words[LEAF_WORDS];
} Leaf;

typedef struct Inner {
    NodeHead head;
    uint64_t some[2]; /* [value], bit i: there is some of it in child i */
    size_t memory;    /* of this node and all below */
    Subtree child[FANOUT];
} Inner;

/* All leaves of a subtree of SLAB_LEVEL, whatever they hold, side by side */
typedef struct Slab {
    uint64_t words[SLAB_LEAVES * LEAF_WORDS];
    NodeHead head;
    uint64_t some[2]; /* as in an Inner of SLAB_LEVEL, */
    struct {
        uint64_t some[2];
    } group[FANOUT]; /* and of its children */
    unsigned n_mixed;
    uint16_t count[SLAB_LEAVES]; /* bits set in each leaf */
} Slab;

/* No slab or group: a number that none has */
#define NONE UINT64_MAX

struct SparseBitmap {
    uint64_t nbits;
    Subtree root;
    uint64_t last_slab;  /* that was found: its number, or NONE, */
    Slab *slab;          /* and where it is */
    uint64_t last_group; /* of leaves, that was found: its number, or NONE, */
    Inner *group;        /* where it is, */
    uint64_t *above;     /* and the count of the node above it */
    uint64_t count;      /* bits set in what the tree covers */
    unsigned height;
    bool tail;     /* the value of the bits from nbits on, and of the last */
    size_t memory; /* the struct, the tree and the garbage */
    Subtree garbage;
    size_t garbage_memory;
    uint64_t none; /* what is counted where there is no node above a group */
};

/* What malloc() takes for a T: a word of its own, in steps of 16 bytes */
#define HEAP_BYTES(T) ((sizeof(T) + sizeof(size_t) + 15) & ~(size_t)15)

/* ---- subtrees ----------------------------------------------------------- */

static inline uint64_t level_bits(unsigned level)
{
    return UINT64_C(1) << (LEAF_SHIFT + level * FANOUT_SHIFT);
}

/* The shift of an index that gives its child in a node of level @level */
static inline unsigned child_shift(unsigned level)
{
    return LEAF_SHIFT + (level - 1) * FANOUT_SHIFT;
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

/* Of the child of a node of level @level that bit @bit is in */
static inline unsigned child_index(unsigned level, uint64_t bit)
{
    return (bit >> child_shift(level)) % FANOUT;
}

static inline Subtree subtree_uniform(bool value)
{
    return value ? SUBTREE_SET : SUBTREE_CLEAR;
}

static inline bool subtree_is_uniform(Subtree tree)
{
    return (tree & SUBTREE_TAG) == SUBTREE_CLEAR;
}

static inline bool subtree_is_inner(Subtree tree)
{
    return !(tree & SUBTREE_END);
}

static inline bool subtree_is_slab(Subtree tree)
{
    return (tree & SUBTREE_TAG) == SUBTREE_TAG;
}

static inline bool subtree_is_leaf(Subtree tree)
{
    return (tree & SUBTREE_TAG) == (SUBTREE_HAS_WORDS | SUBTREE_END);
}

static inline Inner *subtree_inner(Subtree tree)
{
    return (Inner *)tree;
}

static inline Leaf *subtree_leaf(Subtree tree)
{
    return (Leaf *)(tree - (SUBTREE_HAS_WORDS | SUBTREE_END));
}

static inline Slab *subtree_slab(Subtree tree)
{
    return (Slab *)(tree - SUBTREE_TAG);
}

static inline Subtree subtree_of_leaf(const Leaf *leaf)
{
    return (Subtree)leaf | SUBTREE_HAS_WORDS | SUBTREE_END;
}

static inline Subtree subtree_of_slab(const Slab *slab)
{
    return (Subtree)slab | SUBTREE_TAG;
}

/* Of one that is uniform, or of the bits around a run */
static inline bool subtree_value(Subtree tree)
{
    return tree >> SUBTREE_VALUE_SHIFT & 1;
}

/* A run [@start, @end), neither none nor all of a leaf */
static inline Subtree run_new(bool around, unsigned start, unsigned end)
{
    return SUBTREE_END | SUBTREE_IS_RUN |
           (Subtree)around << SUBTREE_VALUE_SHIFT |
           (Subtree)start << RUN_START_SHIFT |
           (Subtree)(end - 1) << RUN_LAST_SHIFT;
}

static inline unsigned run_start(Subtree tree)
{
    return tree >> RUN_START_SHIFT & (LEAF_BITS - 1);
}

static inline unsigned run_end(Subtree tree)
{
    return (tree >> RUN_LAST_SHIFT & (LEAF_BITS - 1)) + 1;
}

/* Of a leaf, or subtree with words, that bit @bit is in: the leaf's words */
static inline uint64_t *subtree_words(Subtree tree, uint64_t bit)
{
    if (subtree_is_slab(tree)) {
        return subtree_slab(tree)->words +
               (bit >> LEAF_SHIFT) % SLAB_LEAVES * LEAF_WORDS;
    }
    return subtree_leaf(tree)->words;
}

static inline size_t subtree_memory(Subtree tree)
{
    if (subtree_is_inner(tree)) {
        return subtree_inner(tree)->memory;
    }
    if (tree & SUBTREE_HAS_WORDS) {
        return subtree_is_slab(tree) ? sizeof(Slab) : HEAP_BYTES(Leaf);
    }
    return 0;
}

static inline NodeHead *subtree_head(Subtree tree)
{
    return subtree_is_inner(tree)  ? &subtree_inner(tree)->head
           : subtree_is_slab(tree) ? &subtree_slab(tree)->head
                                   : &subtree_leaf(tree)->head;
}

/* Bits set. A step for each node of SLAB_LEVEL below it */
G_GNUC_INTERNAL uint64_t subtree_count(Subtree tree, unsigned level);

/* Put a subtree that hangs nowhere any more onto the garbage list. */
static inline void discard(SparseBitmap *bitmap, Subtree tree)
{
    if (subtree_is_inner(tree) || tree & SUBTREE_HAS_WORDS) {
        bitmap->garbage_memory += subtree_memory(tree);
        subtree_head(tree)->next = bitmap->garbage;
        bitmap->garbage = tree;
    }
}

/* ---- words -------------------------------------------------------------- */

/* For processors without an instruction for it */
static inline unsigned word_count_portable(uint64_t word)
{
    word -= word >> 1 & UINT64_C(0x5555555555555555);
    word = (word & UINT64_C(0x3333333333333333)) +
           (word >> 2 & UINT64_C(0x3333333333333333));
    word = (word + (word >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return word * UINT64_C(0x0101010101010101) >> 56;
}

/* Is there an instruction for it? */
static inline bool has_popcnt(void)
{
#ifdef __x86_64__
    return G_LIKELY(__builtin_cpu_supports("popcnt"));
#else
    return false;
#endif
}

/* Built for any x86-64, the compiler's own builtin is a call. */
static inline unsigned word_count_by(uint64_t word, bool popcnt)
{
#ifdef __x86_64__
    if (popcnt) {
        __asm__("popcnt %0, %0" : "+r"(word) : : "cc");
        return word;
    }
#else
    (void)popcnt;
#endif
    return word_count_portable(word);
}

static inline unsigned word_count(uint64_t word)
{
    return word_count_by(word, has_popcnt());
}

/* The bits of a word from @first up to and including @last */
static inline uint64_t mask_between(unsigned first, unsigned last)
{
    return (UINT64_MAX << first) & (UINT64_MAX >> (WORD_BITS - 1 - last));
}

static inline __attribute__((always_inline)) unsigned words_flip_by(
    uint64_t *words, uint64_t start, uint64_t end, bool value, bool popcnt)
{
    uint64_t mask = UINT64_MAX << start % WORD_BITS;
    unsigned i = start / WORD_BITS % LEAF_WORDS;
    unsigned last = (end - 1) / WORD_BITS % LEAF_WORDS;
    uint64_t flip = value ? UINT64_MAX : 0;
    unsigned changed = 0;

    for (; i < last; i++, mask = UINT64_MAX) {
        mask &= words[i] ^ flip;
        if (mask) {
            words[i] ^= mask;
            changed += word_count_by(mask, popcnt);
        }
    }
    mask &= UINT64_MAX >> (-end % WORD_BITS);
    mask &= words[i] ^ flip;
    if (mask) {
        words[i] ^= mask;
        changed += word_count_by(mask, popcnt);
    }
    return changed;
}

/*
 * Give a leaf's [@start, @end), relative to it or not, one value; returns how
 * many bits change.
 */
static inline unsigned words_flip(uint64_t *words, uint64_t start, uint64_t end,
                                  bool value)
{
    return has_popcnt() ? words_flip_by(words, start, end, value, true)
                        : words_flip_by(words, start, end, value, false);
}

/* The first bit of that value in a leaf's [@start, @end), or @end */
static inline uint64_t words_find(const uint64_t *words, uint64_t start,
                                  uint64_t end, bool value)
{
    uint64_t at = start / WORD_BITS * WORD_BITS;
    uint64_t flip = value ? 0 : UINT64_MAX;
    uint64_t word = (words[at / WORD_BITS % LEAF_WORDS] ^ flip) &
                    (UINT64_MAX << start % WORD_BITS);

    while (word == 0) {
        at += WORD_BITS;
        if (at >= end) {
            return end;
        }
        word = words[at / WORD_BITS % LEAF_WORDS] ^ flip;
    }
    return MIN(end, at + __builtin_ctzll(word));
}

/* How many bits of a leaf's [@start, @end) are set */
G_GNUC_INTERNAL uint64_t words_count(const uint64_t *words, unsigned start,
                                     unsigned end);

/* ---- finding a place ---------------------------------------------------- */

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

/*
 * Who looks comes again, mostly, to the same place: so what was found last is
 * remembered, a slab, and a group of leaves with what is above it (or NULL).
 */
static inline void remember_slab(const SparseBitmap *bitmap, uint64_t bit,
                                 Subtree slab)
{
    SparseBitmap *b = (SparseBitmap *)bitmap; /* the caller's alone */

    b->last_slab = bit >> SLAB_SHIFT;
    b->slab = subtree_slab(slab);
}

static inline void remember_group(const SparseBitmap *bitmap, uint64_t bit,
                                  const Inner *group, const Inner *above)
{
    SparseBitmap *b = (SparseBitmap *)bitmap;

    b->last_group = bit >> GROUP_SHIFT;
    b->group = (Inner *)group;
    b->above = above ? (uint64_t *)&above->head.count : &b->none;
}

static inline void forget_places(SparseBitmap *bitmap)
{
    bitmap->last_slab = bitmap->last_group = NONE;
}

/* Is bit @bit in the slab, or the group, that is remembered? */
static inline bool is_in_slab(const SparseBitmap *bitmap, uint64_t bit)
{
    return bit >> SLAB_SHIFT == bitmap->last_slab;
}

static inline bool is_in_group(const SparseBitmap *bitmap, uint64_t bit)
{
    return G_LIKELY(bit >> GROUP_SHIFT == bitmap->last_group);
}

/*
 * What bit @bit is in: a subtree with words, a run, or a uniform one, of
 * 1 << *@shift bits. If that is a slab, or hangs in a group, it is remembered.
 */
static inline Subtree locate(const SparseBitmap *bitmap, uint64_t bit,
                             unsigned *shift)
{
    unsigned at = LEAF_SHIFT + bitmap->height * FANOUT_SHIFT;
    Subtree tree = bitmap->root, group = 0, above = 0;

    while (subtree_is_inner(tree)) {
        above = group;
        group = tree;
        at -= FANOUT_SHIFT;
        tree = subtree_inner(tree)->child[(bit >> at) % FANOUT];
    }
    *shift = at;
    if (at != LEAF_SHIFT) {
        if (tree & SUBTREE_HAS_WORDS) {
            remember_slab(bitmap, bit, tree);
        }
    } else if (group) {
        remember_group(bitmap, bit, subtree_inner(group), subtree_inner(above));
    }
    return tree;
}

/* locate(), by the shortest way */
static inline Subtree reach(const SparseBitmap *bitmap, uint64_t bit,
                            unsigned *shift)
{
    if (is_in_group(bitmap, bit)) {
        *shift = LEAF_SHIFT;
        return bitmap->group->child[(bit >> LEAF_SHIFT) % FANOUT];
    }
    if (is_in_slab(bitmap, bit)) {
        return subtree_of_slab(bitmap->slab);
    }
    return locate(bitmap, bit, shift);
}

/* ---- nodes: sparse-bitmap-change.c -------------------------------------- */

G_GNUC_INTERNAL Leaf *leaf_new(SparseBitmap *bitmap, bool value);
G_GNUC_INTERNAL Inner *inner_new(SparseBitmap *bitmap, unsigned level,
                                 bool value);

/* The summary of child @i */
static inline void inner_summarize(Inner *inner, unsigned i)
{
    uint64_t bit = UINT64_C(1) << i;

    inner->some[false] &= ~bit;
    inner->some[true] &= ~bit;
    if (inner->child[i] != SUBTREE_CLEAR) {
        inner->some[true] |= bit;
    }
    if (inner->child[i] != SUBTREE_SET) {
        inner->some[false] |= bit;
    }
}

/* ---- slabs: sparse-bitmap-slab.c -------------------------------------- */

/*
 * What takes the place of @inner, of SLAB_LEVEL: a slab, if so much hangs below
 * it that one takes hardly more memory, and can be had; otherwise itself.
 */
G_GNUC_INTERNAL Subtree slab_instead(SparseBitmap *bitmap, Inner *inner);

/* Give [@start, @end) of the slab one value; returns what takes its place. */
G_GNUC_INTERNAL Subtree slab_assign(SparseBitmap *bitmap, Slab *slab,
                                    uint64_t start, uint64_t end, bool value);

/* Returns what takes the slab's place after the count of a leaf was @was. */
G_GNUC_INTERNAL Subtree slab_settle(SparseBitmap *bitmap, Slab *slab,
                                    unsigned leaf, unsigned was);

/* Where some of that value is, in leaves after @leaf; or the slab's end */
G_GNUC_INTERNAL uint64_t slab_find(const Slab *slab, unsigned leaf, bool value);

G_GNUC_INTERNAL uint64_t slab_count_range(const Slab *slab, uint64_t start,
                                          uint64_t end);
G_GNUC_INTERNAL Slab *slab_copy(const Slab *slab);
G_GNUC_INTERNAL void slab_free(Slab *slab);

#endif
