/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sparse bitmap: setting and clearing ranges, and the size. */
#include "sparse-bitmap-int.h"

#include <string.h>

/* A bitmap whose garbage nobody takes frees it when it is more than this. */
#define GARBAGE_MAX_BYTES (64 * 1024)

static inline bool has_too_much_garbage(const SparseBitmap *bitmap)
{
    return bitmap->garbage_memory > GARBAGE_MAX_BYTES;
}

/* At the start of an operation, so that its own garbage can be taken after. */
static inline void bound_garbage(SparseBitmap *bitmap)
{
    if (has_too_much_garbage(bitmap)) {
        sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(bitmap));
    }
}

/* Of all that hangs in the tree */
static inline size_t held_memory(const SparseBitmap *bitmap)
{
    return bitmap->memory - bitmap->garbage_memory;
}

/* ---- nodes -------------------------------------------------------------- */

Leaf *leaf_new(SparseBitmap *bitmap, bool value)
{
    Leaf *leaf = g_new(Leaf, 1);

    bitmap->memory += HEAP_BYTES(Leaf);
    leaf->head.count = value ? LEAF_BITS : 0;
    memset(leaf->words, value ? 0xff : 0, sizeof(leaf->words));
    return leaf;
}

Inner *inner_new(SparseBitmap *bitmap, unsigned level, bool value)
{
    Inner *inner = g_new(Inner, 1);
    unsigned i;

    bitmap->memory += HEAP_BYTES(Inner);
    inner->head.count = value ? level_bits(level) : 0;
    inner->some[value] = UINT64_MAX;
    inner->some[!value] = 0;
    inner->memory = HEAP_BYTES(Inner);
    for (i = 0; i < FANOUT; i++) {
        inner->child[i] = subtree_uniform(value);
    }
    return inner;
}

/* ---- a leaf ------------------------------------------------------------- */

/* Bits set in a uniform leaf, or one with a run */
static inline unsigned run_count(Subtree tree)
{
    unsigned other =
        tree & SUBTREE_IS_RUN ? run_end(tree) - run_start(tree) : 0;

    return subtree_value(tree) ? LEAF_BITS - other : other;
}

static inline Subtree run_or_uniform(bool around, unsigned start, unsigned end)
{
    return start == 0 && end == LEAF_BITS ? subtree_uniform(!around)
                                          : run_new(around, start, end);
}

/*
 * Give [@start, @end) of such a leaf one value; returns what takes its place, or 0
 * if that needs words.
 */
static inline Subtree run_assign(Subtree tree, unsigned start, unsigned end,
                                 bool value)
{
    bool around = subtree_value(tree);
    unsigned first, last;

    if (!(tree & SUBTREE_IS_RUN)) {
        return value == around ? tree : run_or_uniform(around, start, end);
    }
    first = run_start(tree);
    last = run_end(tree);
    if (value != around) {
        if (start <= last && end >= first) {
            return run_or_uniform(around, MIN(start, first), MAX(end, last));
        }
        /* from one end of the leaf and from the other: a run between them */
        if (first == 0 && end == LEAF_BITS) {
            return run_new(!around, last, start);
        }
        if (start == 0 && last == LEAF_BITS) {
            return run_new(!around, end, first);
        }
        return 0;
    }
    if (end <= first || start >= last) {
        return tree;
    }
    if (start <= first) {
        return end >= last ? subtree_uniform(around)
                           : run_new(around, end, last);
    }
    return end >= last ? run_new(around, first, start) : 0;
}

/* The same, as words */
static Leaf *leaf_of_run(SparseBitmap *bitmap, Subtree tree)
{
    Leaf *leaf = leaf_new(bitmap, subtree_value(tree));

    if (tree & SUBTREE_IS_RUN) {
        words_flip(leaf->words, run_start(tree), run_end(tree),
                   !subtree_value(tree));
        leaf->head.count = run_count(tree);
    }
    return leaf;
}

/* Give [@start, @end) of a leaf, not all of it, one value. */
static Subtree leaf_assign(SparseBitmap *bitmap, Subtree tree, uint64_t start,
                           uint64_t end, bool value)
{
    uint64_t changed;
    Leaf *leaf;

    if (subtree_is_leaf(tree)) {
        leaf = subtree_leaf(tree);
    } else {
        Subtree run = run_assign(tree, start, end, value);

        if (run) {
            bitmap->count += run_count(run) - (uint64_t)run_count(tree);
            return run;
        }
        leaf = leaf_of_run(bitmap, tree);
    }
    changed = words_flip(leaf->words, start, end, value);
    changed = value ? changed : -changed;
    bitmap->count += changed;
    leaf->head.count += changed;
    if (leaf->head.count == (value ? LEAF_BITS : 0)) {
        discard(bitmap, subtree_of_leaf(leaf));
        return subtree_uniform(value);
    }
    return subtree_of_leaf(leaf);
}

/* ---- any range ---------------------------------------------------------- */

static Subtree subtree_assign(SparseBitmap *bitmap, Subtree tree,
                              unsigned level, uint64_t start, uint64_t end,
                              bool value);

/* Give [@start, @end) of what @inner, of level @level, has below it one value. */
static Subtree inner_assign(SparseBitmap *bitmap, Inner *inner, unsigned level,
                            uint64_t start, uint64_t end, bool value)
{
    unsigned i = start >> child_shift(level);
    unsigned last = (end - 1) >> child_shift(level);
    size_t memory = held_memory(bitmap);
    uint64_t count = bitmap->count;

    for (; i <= last; i++) {
        uint64_t child_start = start, child_end = end;

        clip_to_child(level, i, &child_start, &child_end);
        inner->child[i] = subtree_assign(bitmap, inner->child[i], level - 1,
                                         child_start, child_end, value);
        inner_summarize(inner, i);
    }
    inner->head.count += bitmap->count - count;
    inner->memory += held_memory(bitmap) - memory;
    if (!inner->some[!value]) {
        discard(bitmap, (Subtree)inner);
        return subtree_uniform(value);
    }
    return level == SLAB_LEVEL ? slab_instead(bitmap, inner) : (Subtree)inner;
}

/*
 * Give [@start, @end), not empty and relative to the subtree's first bit, one
 * value; returns what takes the subtree's place.
 */
static Subtree subtree_assign(SparseBitmap *bitmap, Subtree tree,
                              unsigned level, uint64_t start, uint64_t end,
                              bool value)
{
    if (tree == subtree_uniform(value)) {
        return tree;
    }
    if (start == 0 && end == level_bits(level)) {
        bitmap->count += (value ? end : 0) - subtree_count(tree, level);
        discard(bitmap, tree);
        return subtree_uniform(value);
    }
    if (level == 0) {
        return leaf_assign(bitmap, tree, start, end, value);
    }
    if (subtree_is_slab(tree)) {
        return slab_assign(bitmap, subtree_slab(tree), start, end, value);
    }
    return inner_assign(bitmap,
                        subtree_is_inner(tree)
                            ? subtree_inner(tree)
                            : inner_new(bitmap, level, !value),
                        level, start, end, value);
}

/* [@start, @end) of what the tree covers, not only of the bitmap */
static __attribute__((noinline)) void tree_assign(SparseBitmap *bitmap,
                                                  uint64_t start, uint64_t end,
                                                  bool value)
{
    forget_places(bitmap);
    if (start < end) {
        bitmap->root = subtree_assign(bitmap, bitmap->root, bitmap->height,
                                      start, end, value);
    }
}

/* ---- a range within a leaf ---------------------------------------------- */

/*
 * Put @now, which holds the same bits, in the place of the subtree of level @level
 * that bit @bit is in. That may leave nodes above it with one value alone.
 */
static __attribute__((noinline)) void replace(SparseBitmap *bitmap,
                                              uint64_t bit, unsigned level,
                                              Subtree now)
{
    Inner *path[MAX_HEIGHT + 1]; /* by their levels */
    Subtree was = bitmap->root;
    size_t memory;
    unsigned at;

    for (at = bitmap->height; at > level; at--) {
        path[at] = subtree_inner(was);
        was = path[at]->child[child_index(at, bit)];
    }
    if (level > 0) {
        forget_places(bitmap);
    }
    memory = subtree_memory(now) - subtree_memory(was);
    if (!subtree_is_slab(was)) {
        discard(bitmap, was); /* a slab is discarded by those who replace it */
    }
    for (at = level + 1; at <= bitmap->height; at++) {
        Inner *inner = path[at];
        unsigned i = child_index(at, bit);

        inner->child[i] = now;
        inner_summarize(inner, i);
        inner->memory += memory;
        if (subtree_is_uniform(now) && !inner->some[!subtree_value(now)]) {
            memory -= inner->memory;
            forget_places(bitmap);
            discard(bitmap, (Subtree)inner);
        } else {
            now = (Subtree)inner;
        }
    }
    bitmap->root = now;
}

/* A leaf of the slab that bit @bit is in became uniform, or ceased to be so. */
static __attribute__((noinline)) void slab_replace(SparseBitmap *bitmap,
                                                   uint64_t bit, unsigned was)
{
    Slab *slab = bitmap->slab;
    unsigned leaf = (bit >> LEAF_SHIFT) % SLAB_LEAVES;
    Subtree now = slab_settle(bitmap, slab, leaf, was);

    if (now != subtree_of_slab(slab)) {
        replace(bitmap, bit, SLAB_LEVEL, now);
    }
}

/* So many bits more, or less, are set in the leaf that bit @bit is in. */
static inline void slab_account(SparseBitmap *bitmap, Slab *slab, uint64_t bit,
                                int change)
{
    unsigned leaf = (bit >> LEAF_SHIFT) % SLAB_LEAVES;
    unsigned was = slab->count[leaf], is = was + change;

    slab->count[leaf] = is;
    slab->head.count += change;
    bitmap->count += change;
    if (was - 1 >= LEAF_BITS - 1 || is - 1 >= LEAF_BITS - 1) {
        slab_replace(bitmap, bit, was);
    }
}

/*
 * What follows is called for each request, and does without a frame on the stack
 * where it can: each function ends with the call of the next one.
 */
#define TAIL static __attribute__((noinline)) void

/* Within a leaf of the slab that is remembered */
TAIL slab_short(SparseBitmap *bitmap, uint64_t start, uint64_t end, bool value)
{
    Slab *slab = bitmap->slab;
    unsigned leaf = (start >> LEAF_SHIFT) % SLAB_LEAVES;
    int changed =
        words_flip(slab->words + leaf * LEAF_WORDS, start, end, value);

    /* nothing was written: other processors keep their copies */
    if (changed) {
        slab_account(bitmap, slab, start, value ? changed : -changed);
    }
}

static inline void group_account(SparseBitmap *bitmap, int change)
{
    bitmap->group->head.count += change;
    *bitmap->above += change;
    bitmap->count += change;
}

/* Within a leaf with words, of the group that is remembered */
TAIL leaf_short(SparseBitmap *bitmap, uint64_t start, uint64_t end, bool value)
{
    Subtree tree = bitmap->group->child[(start >> LEAF_SHIFT) % FANOUT];
    Leaf *leaf = subtree_leaf(tree);
    int changed = words_flip(leaf->words, start, end, value);

    if (changed) {
        changed = value ? changed : -changed;
        group_account(bitmap, changed);
        leaf->head.count += changed;
        if (leaf->head.count == (value ? LEAF_BITS : 0)) {
            replace(bitmap, start, 0, subtree_uniform(value));
        }
    }
}

/* Within any leaf of that group */
TAIL group_short(SparseBitmap *bitmap, uint64_t start, uint64_t end, bool value)
{
    Inner *group = bitmap->group;
    unsigned i = (start >> LEAF_SHIFT) % FANOUT;
    Subtree tree = group->child[i], now;

    if (tree & SUBTREE_HAS_WORDS) {
        leaf_short(bitmap, start, end, value);
        return;
    }
    now = run_assign(tree, start % LEAF_BITS, (end - 1) % LEAF_BITS + 1, value);
    if (now == tree) {
        return;
    }
    if (!now) {
        tree_assign(bitmap, start, end, value);
        return;
    }
    group_account(bitmap, (int)run_count(now) - (int)run_count(tree));
    group->child[i] = now;
    if (now & tree & SUBTREE_IS_RUN) {
        return;
    }
    inner_summarize(group, i);
    if (!group->some[!value]) {
        replace(bitmap, start, 1, subtree_uniform(value));
    }
}

/* Within a leaf that has to be found */
TAIL far_assign(SparseBitmap *bitmap, uint64_t start, uint64_t end, bool value)
{
    unsigned shift;
    Subtree tree = locate(bitmap, start, &shift);

    if (is_in_group(bitmap, start)) {
        group_short(bitmap, start, end, value);
    } else if (is_in_slab(bitmap, start)) {
        slab_short(bitmap, start, end, value);
    } else if (tree != subtree_uniform(value)) {
        tree_assign(bitmap, start, end, value);
    }
}

/* Any range; garbage goes first, so that what comes now can be taken after. */
TAIL any_assign(SparseBitmap *bitmap, uint64_t start, uint64_t end, bool value)
{
    bound_garbage(bitmap);
    if (start == end) {
        return;
    }
    if (end == bitmap->nbits) {
        end = level_bits(bitmap->height);
        bitmap->tail = value;
    }
    if ((start ^ (end - 1)) >> LEAF_SHIFT) {
        tree_assign(bitmap, start, end, value);
    } else {
        far_assign(bitmap, start, end, value);
    }
}

/* Most ranges are short, and near to the last one. */
static inline void assign(SparseBitmap *bitmap, uint64_t start, uint64_t count,
                          bool value)
{
    uint64_t end = start + count;

    g_assert(start <= bitmap->nbits && count <= bitmap->nbits - start);
    if (G_UNLIKELY((start ^ (end - 1)) >> LEAF_SHIFT || end == bitmap->nbits ||
                   count == 0 || has_too_much_garbage(bitmap))) {
        any_assign(bitmap, start, end, value);
    } else if (is_in_slab(bitmap, start)) {
        slab_short(bitmap, start, end, value);
    } else if (is_in_group(bitmap, start)) {
        group_short(bitmap, start, end, value);
    } else {
        far_assign(bitmap, start, end, value);
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

        inner->memory += subtree_memory(bitmap->root);
        inner->head.count = bitmap->count;
        inner->child[0] = bitmap->root;
        inner_summarize(inner, 0);
        bitmap->root = (Subtree)inner;
    }
}

/* Only the first child is in use; the others all have the tail's value. */
static void lower_height(SparseBitmap *bitmap)
{
    uint64_t beyond =
        level_bits(bitmap->height) - level_bits(bitmap->height - 1);

    if (subtree_is_inner(bitmap->root)) {
        Inner *inner = subtree_inner(bitmap->root);
        Subtree child = inner->child[0];

        inner->memory -= subtree_memory(child);
        inner->child[0] = SUBTREE_CLEAR;
        inner_summarize(inner, 0);
        discard(bitmap, bitmap->root);
        bitmap->root = child;
    }
    bitmap->count -= bitmap->tail ? beyond : 0;
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
    forget_places(bitmap);
    while (bitmap->height < height) {
        raise_height(bitmap);
    }
    while (bitmap->height > height) {
        lower_height(bitmap);
    }
}
