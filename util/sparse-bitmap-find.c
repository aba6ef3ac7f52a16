/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sparse bitmap: looking up, finding and counting. */
#include "sparse-bitmap-int.h"

/* Bit @bit of a leaf, relative to it or not */
static inline bool words_test(const uint64_t *words, uint64_t bit)
{
    return words[bit / WORD_BITS % LEAF_WORDS] >> bit % WORD_BITS & 1;
}

/* Of a uniform subtree, or one with a run */
static inline bool run_test(Subtree tree, uint64_t bit)
{
    unsigned at = bit % LEAF_BITS;

    return subtree_value(tree) ^ (tree & SUBTREE_IS_RUN &&
                                  at >= run_start(tree) && at < run_end(tree));
}

bool sparse_bitmap_test(const SparseBitmap *bitmap, uint64_t bit)
{
    unsigned shift;
    Subtree tree;

    g_assert(bit < bitmap->nbits);
    tree = reach(bitmap, bit, &shift);
    return tree & SUBTREE_HAS_WORDS ? words_test(subtree_words(tree, bit), bit)
                                    : run_test(tree, bit);
}

/* ---- finding ------------------------------------------------------------ */

/* Of the leaf that bit @bit is in */
static inline uint64_t leaf_end(uint64_t bit)
{
    return (bit | (LEAF_BITS - 1)) + 1;
}

/* In a leaf with a run: the first bit of that value from @start on, or its end */
static inline uint64_t run_find(Subtree tree, uint64_t start, bool value)
{
    uint64_t leaf = start - start % LEAF_BITS;
    unsigned at = start % LEAF_BITS;

    if (value == subtree_value(tree)) {
        return at >= run_start(tree) && at < run_end(tree)
                   ? leaf + run_end(tree)
                   : start;
    }
    return at >= run_end(tree) ? leaf + LEAF_BITS
                               : leaf + MAX(at, run_start(tree));
}

/* In a leaf: the first bit of that value from @start on, or the leaf's end */
static inline uint64_t leaf_find(Subtree tree, uint64_t start, bool value)
{
    if (tree & SUBTREE_HAS_WORDS) {
        return words_find(subtree_leaf(tree)->words, start, leaf_end(start),
                          value);
    }
    if (tree & SUBTREE_IS_RUN) {
        return run_find(tree, start, value);
    }
    return subtree_value(tree) == value ? start : leaf_end(start);
}

/* In a slab: the same */
static uint64_t slab_find_from(Subtree tree, uint64_t start, bool value)
{
    uint64_t stop = leaf_end(start);
    uint64_t found = words_find(subtree_words(tree, start), start, stop, value);

    if (found < stop) {
        return found;
    }
    return (start >> SLAB_SHIFT << SLAB_SHIFT) +
           slab_find(subtree_slab(tree), (start >> LEAF_SHIFT) % SLAB_LEAVES,
                     value);
}

/* Bit @bit is in the group of @path, whose entries are by their levels. */
static inline void remember_path(const SparseBitmap *bitmap, uint64_t bit,
                                 const Inner *const *path)
{
    if (bitmap->height > 0) {
        remember_group(bitmap, bit, path[1],
                       bitmap->height > 1 ? path[2] : NULL);
    }
}

/*
 * The first bit of that value in [@start, @end), or @end if there is none: up
 * from the group before @start to where there is more, and down again.
 */
static __attribute__((noinline)) uint64_t find_far(const SparseBitmap *bitmap,
                                                   uint64_t start, uint64_t end,
                                                   bool value)
{
    const Inner *path[MAX_HEIGHT + 1]; /* by their levels */
    unsigned level = bitmap->height;
    Subtree tree = bitmap->root;
    uint64_t some, found;

    /* Down to where @start is */
    for (; subtree_is_inner(tree); level--) {
        path[level] = subtree_inner(tree);
        tree = path[level]->child[child_index(level, start)];
    }
    if (subtree_is_uniform(tree)) {
        if (subtree_value(tree) == value) {
            return start;
        }
    } else if (subtree_is_slab(tree)) {
        remember_slab(bitmap, start, tree);
        found = slab_find_from(tree, start, value);
        if (found >> SLAB_SHIFT == start >> SLAB_SHIFT) {
            return MIN(found, end);
        }
    } else {
        remember_path(bitmap, start, path);
        found = leaf_find(tree, start, value);
        if (found < leaf_end(start)) {
            return MIN(found, end);
        }
    }

    /* Up to where there is more of it, in children behind the one we come from */
    do {
        if (++level > bitmap->height) {
            return end;
        }
        some = path[level]->some[value] & (UINT64_MAX - 1)
                                              << child_index(level, start);
    } while (some == 0);

    /* And down to the first of it: where there is some, it is below, too. */
    start &= ~(level_bits(level) - 1);
    for (;;) {
        unsigned i = __builtin_ctzll(some);

        tree = path[level]->child[i];
        start += (uint64_t)i << child_shift(level);
        level--;
        if (start >= end) {
            return end;
        }
        if (!subtree_is_inner(tree)) {
            break;
        }
        path[level] = subtree_inner(tree);
        some = path[level]->some[value];
    }
    if (level == 0) {
        remember_path(bitmap, start, path);
        start = leaf_find(tree, start, value);
    } else if (subtree_is_slab(tree)) {
        remember_slab(bitmap, start, tree);
        start = slab_find_from(tree, start, value);
    }
    return MIN(start, end);
}

/* The same, where the leaf before @start has been looked at. */
static inline uint64_t find_beyond(const SparseBitmap *bitmap, uint64_t start,
                                   uint64_t end, bool value)
{
    uint64_t before = start - 1, some;
    unsigned i = before >> LEAF_SHIFT;

    if (start >= end) {
        return end;
    }
    if (is_in_group(bitmap, before)) {
        const Inner *group = bitmap->group;

        some = group->some[value] & (UINT64_MAX - 1) << i % FANOUT;
        if (some) {
            i = __builtin_ctzll(some);
            start = (before >> GROUP_SHIFT << GROUP_SHIFT) +
                    ((uint64_t)i << LEAF_SHIFT);
            return start < end
                       ? MIN(end, leaf_find(group->child[i], start, value))
                       : end;
        }
        start = ((before >> GROUP_SHIFT) + 1) << GROUP_SHIFT;
    } else if (is_in_slab(bitmap, before)) {
        start = (before >> SLAB_SHIFT << SLAB_SHIFT) +
                slab_find(bitmap->slab, i % SLAB_LEAVES, value);
        if (is_in_slab(bitmap, start)) {
            return MIN(end, start);
        }
    }
    return start < end ? find_far(bitmap, start, end, value) : end;
}

static __attribute__((noinline)) uint64_t find(const SparseBitmap *bitmap,
                                               uint64_t start, uint64_t end,
                                               bool value)
{
    uint64_t found, stop;
    unsigned shift;
    Subtree tree;

    if (start == end) {
        return end;
    }
    tree = reach(bitmap, start, &shift);
    if (!(tree & (SUBTREE_HAS_WORDS | SUBTREE_IS_RUN))) {
        if (subtree_value(tree) == value) {
            return start;
        }
        stop = ((start >> shift) + 1) << shift;
        return find_beyond(bitmap, stop, end, value);
    }
    stop = leaf_end(start);
    if (tree & SUBTREE_HAS_WORDS) {
        found = words_find(subtree_words(tree, start), start, MIN(stop, end),
                           value);
    } else {
        found = MIN(end, run_find(tree, start, value));
    }
    return found < stop ? found : find_beyond(bitmap, stop, end, value);
}

/* The word of the slab that is remembered in which bit @bit is */
static inline const uint64_t *word_at(const SparseBitmap *bitmap, uint64_t bit)
{
    return bitmap->slab->words + bit / WORD_BITS % (SLAB_LEAVES * LEAF_WORDS);
}

/* The first bit that differs from @flip, in a word behind that of bit @start */
static __attribute__((noinline)) uint64_t find_in_slab(
    const SparseBitmap *bitmap, uint64_t start, uint64_t end, uint64_t flip)
{
    const uint64_t *first = word_at(bitmap, start), *word = first;
    const uint64_t *last =
        first + (LEAF_WORDS - 1 - start / WORD_BITS % LEAF_WORDS);

    start -= start % WORD_BITS;
    while (word < last) {
        uint64_t bits = *++word ^ flip;

        if (bits) {
            return MIN(end, start + (word - first) * WORD_BITS +
                                __builtin_ctzll(bits));
        }
    }
    return find_beyond(bitmap, leaf_end(start), end, !flip);
}

/* In busy parts most answers are in the first word. */
static inline uint64_t find_near(const SparseBitmap *bitmap, uint64_t start,
                                 uint64_t end, bool value)
{
    g_assert(start <= end && end <= bitmap->nbits);
    if (is_in_slab(bitmap, start)) {
        uint64_t flip = value ? 0 : UINT64_MAX;
        uint64_t word = (*word_at(bitmap, start) ^ flip) >> start % WORD_BITS;

        return word ? MIN(end, start + __builtin_ctzll(word))
                    : find_in_slab(bitmap, start, end, flip);
    }
    return find(bitmap, start, end, value);
}

uint64_t sparse_bitmap_next_set(const SparseBitmap *bitmap, uint64_t start,
                                uint64_t end)
{
    return find_near(bitmap, start, end, true);
}

uint64_t sparse_bitmap_next_clear(const SparseBitmap *bitmap, uint64_t start,
                                  uint64_t end)
{
    return find_near(bitmap, start, end, false);
}

static __attribute__((noinline)) uint64_t find_change(
    const SparseBitmap *bitmap, uint64_t start, uint64_t end, bool *value)
{
    uint64_t stop, found;
    unsigned shift;
    Subtree tree = reach(bitmap, start, &shift);
    bool current;

    if (tree & SUBTREE_HAS_WORDS) {
        const uint64_t *words = subtree_words(tree, start);

        current = words_test(words, start);
        stop = leaf_end(start);
        found = words_find(words, start, MIN(stop, end), !current);
    } else if (tree & SUBTREE_IS_RUN) {
        current = run_test(tree, start);
        stop = leaf_end(start);
        found = MIN(end, run_find(tree, start, !current));
    } else {
        current = subtree_value(tree);
        found = stop = ((start >> shift) + 1) << shift;
    }
    if (value) {
        *value = current;
    }
    return found < stop ? found : find_beyond(bitmap, stop, end, !current);
}

uint64_t sparse_bitmap_next_change(const SparseBitmap *bitmap, uint64_t start,
                                   uint64_t end, bool *value)
{
    g_assert(start < end && end <= bitmap->nbits);
    if (is_in_slab(bitmap, start)) {
        uint64_t word = *word_at(bitmap, start);
        uint64_t flip = -(word >> start % WORD_BITS & 1);

        word = (word ^ flip) >> start % WORD_BITS;
        if (value) {
            *value = flip;
        }
        if (G_LIKELY(word)) {
            return MIN(end, start + __builtin_ctzll(word));
        }
        return find_in_slab(bitmap, start, end, flip);
    }
    return find_change(bitmap, start, end, value);
}

/* ---- counting ----------------------------------------------------------- */

uint64_t words_count(const uint64_t *words, unsigned start, unsigned end)
{
    unsigned first = start / WORD_BITS, last = (end - 1) / WORD_BITS, i;
    uint64_t count = 0;

    for (i = first; i <= last; i++) {
        uint64_t mask =
            mask_between(i == first ? start % WORD_BITS : 0,
                         i == last ? (end - 1) % WORD_BITS : WORD_BITS - 1);

        count += word_count(words[i] & mask);
    }
    return count;
}

uint64_t subtree_count(Subtree tree, unsigned level)
{
    uint64_t count = 0, some;

    if (subtree_is_inner(tree)) {
        const Inner *inner = subtree_inner(tree);

        if (level <= SLAB_LEVEL) {
            return inner->head.count;
        }
        for (some = inner->some[true]; some; some &= some - 1) {
            count +=
                subtree_count(inner->child[__builtin_ctzll(some)], level - 1);
        }
        return count;
    }
    if (tree & SUBTREE_HAS_WORDS) {
        return subtree_head(tree)->count;
    }
    if (tree & SUBTREE_IS_RUN) {
        count = run_end(tree) - run_start(tree);
    }
    return subtree_value(tree) ? level_bits(level) - count : count;
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
    if (subtree_is_slab(tree)) {
        return slab_count_range(subtree_slab(tree), start, end);
    }
    if (subtree_is_leaf(tree)) {
        return words_count(subtree_leaf(tree)->words, start, end);
    }
    if (!subtree_is_inner(tree)) {
        uint64_t from = MAX(start, run_start(tree));
        uint64_t to = MIN(end, run_end(tree));

        count = from < to ? to - from : 0;
        return subtree_value(tree) ? end - start - count : count;
    }
    inner = subtree_inner(tree);
    mask = inner->some[true] & mask_between(start >> child_shift(level),
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
    uint64_t beyond = level_bits(bitmap->height) - bitmap->nbits;

    return bitmap->tail ? bitmap->count - beyond : bitmap->count;
}

/* ---- what can be given back --------------------------------------------- */

/*
 * The first part that ends beyond @start and holds memory that comes back when it
 * becomes uniform: where it begins, and its level; or the very end.
 */
static uint64_t subtree_find_part(Subtree tree, unsigned level, uint64_t start,
                                  unsigned *part_level)
{
    const Inner *inner;
    uint64_t mixed;

    *part_level = level;
    if (subtree_is_slab(tree) || subtree_is_leaf(tree)) {
        return 0;
    }
    if (!subtree_is_inner(tree)) {
        return level_bits(level);
    }
    inner = subtree_inner(tree);
    if (inner->memory == HEAP_BYTES(Inner)) {
        return 0; /* only runs, and what is uniform */
    }
    mixed = inner->some[false] & inner->some[true] &
            (UINT64_MAX << (start >> child_shift(level)));
    for (; mixed; mixed &= mixed - 1) {
        unsigned i = __builtin_ctzll(mixed);
        uint64_t child_start = start, child_end = level_bits(level), found;

        clip_to_child(level, i, &child_start, &child_end);
        found = subtree_find_part(inner->child[i], level - 1, child_start,
                                  part_level);
        if (found < level_bits(level - 1)) {
            return ((uint64_t)i << child_shift(level)) + found;
        }
    }
    return level_bits(level);
}

bool sparse_bitmap_next_part(const SparseBitmap *bitmap, uint64_t start,
                             uint64_t *part_start, uint64_t *part_count)
{
    unsigned level;
    uint64_t found;

    if (start >= bitmap->nbits) {
        return false;
    }
    found = subtree_find_part(bitmap->root, bitmap->height, start, &level);
    if (found >= bitmap->nbits) {
        return false;
    }
    *part_start = found;
    *part_count = MIN(level_bits(level), bitmap->nbits - found);
    return true;
}
