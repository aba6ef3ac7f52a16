/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sparse bitmap: busy parts of a disk as plain arrays of words. */
#include "sparse-bitmap-int.h"

#include <string.h>
#include <sys/mman.h>

/*
 * A tree becomes a slab where that takes at most a seventh more memory, and a tree
 * again when three quarters of the slab can be saved. In between lie thousands of
 * changes, so that neither happens often.
 */
#define MOST_OF_TREE (sizeof(Slab) / 8 * 7)
#define FEW_MIXED (SLAB_LEAVES / 4)

#define WORDS_BYTES sizeof(((Slab *)NULL)->words)

/* Zeroes, and their address a multiple of WORDS_BYTES; NULL: there is none */
static Slab *slab_map(void)
{
    size_t size = sizeof(Slab) + WORDS_BYTES, before;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    char *map, *slab;

    /* cppcheck-suppress invalidFunctionArg */
    map = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (map == MAP_FAILED) {
        return NULL;
    }
    before = -(uintptr_t)map % WORDS_BYTES;
    slab = map + before;
    if (before < WORDS_BYTES) {
        munmap(slab + sizeof(Slab), WORDS_BYTES - before);
    }
    if (before) {
        munmap(map, before);
    }
    /* One huge page: looks at random places have to find it, too. */
    madvise(slab, WORDS_BYTES, MADV_HUGEPAGE);
    /* cppcheck-suppress deallocret */
    return (Slab *)slab;
}

void slab_free(Slab *slab)
{
    munmap(slab, sizeof(*slab));
}

Slab *slab_copy(const Slab *slab)
{
    Slab *copy = slab_map();

    if (!copy) {
        g_error("no memory for a bitmap: %zu bytes", sizeof(*copy));
    }
    memcpy(copy, slab, sizeof(*copy));
    return copy;
}

/* ---- what is where ------------------------------------------------------ */

static bool is_mixed(unsigned count)
{
    return count - 1 < LEAF_BITS - 1;
}

/* The summaries of a leaf, and of what is above it */
static inline void summarize(Slab *slab, unsigned leaf)
{
    uint64_t bit = UINT64_C(1) << leaf % FANOUT;
    uint64_t above = UINT64_C(1) << leaf / FANOUT;
    uint64_t *some = slab->group[leaf / FANOUT].some;
    unsigned count = slab->count[leaf];

    if (is_mixed(count)) {
        some[false] |= bit;
        some[true] |= bit;
        slab->some[false] |= above;
        slab->some[true] |= above;
    } else {
        some[count != 0] |= bit;
        slab->some[count != 0] |= above;
        some[count == 0] &= ~bit;
        if (!some[count == 0]) {
            slab->some[count == 0] &= ~above;
        }
    }
}

/* Note how many bits of a leaf are set. */
static void set_count(Slab *slab, unsigned leaf, unsigned count)
{
    slab->n_mixed += is_mixed(count) - is_mixed(slab->count[leaf]);
    slab->head.count += count - (uint64_t)slab->count[leaf];
    slab->count[leaf] = count;
    summarize(slab, leaf);
}

uint64_t slab_find(const Slab *slab, unsigned leaf, bool value)
{
    unsigned i = leaf / FANOUT;
    uint64_t some = slab->group[i].some[value] & (UINT64_MAX - 1)
                                                     << leaf % FANOUT;

    if (!some) {
        some = slab->some[value] & (UINT64_MAX - 1) << i;
        if (!some) {
            return (uint64_t)1 << SLAB_SHIFT;
        }
        i = __builtin_ctzll(some);
        some = slab->group[i].some[value];
    }
    leaf = i * FANOUT + __builtin_ctzll(some);
    return words_find(slab->words + leaf * LEAF_WORDS,
                      (uint64_t)leaf << LEAF_SHIFT,
                      (uint64_t)(leaf + 1) << LEAF_SHIFT, value);
}

uint64_t slab_count_range(const Slab *slab, uint64_t start, uint64_t end)
{
    unsigned leaf = start >> LEAF_SHIFT, last = (end - 1) >> LEAF_SHIFT;
    uint64_t count = 0;

    for (; leaf <= last; leaf++) {
        uint64_t first = (uint64_t)leaf << LEAF_SHIFT;
        unsigned from = MAX(start, first) - first;
        unsigned to = MIN(end, first + LEAF_BITS) - first;

        count += to - from == LEAF_BITS
                     ? slab->count[leaf]
                     : words_count(slab->words + leaf * LEAF_WORDS, from, to);
    }
    return count;
}

/* ---- from a tree to a slab --------------------------------------------- */

static void fill_leaf(Slab *slab, unsigned leaf, Subtree tree)
{
    uint64_t *words = slab->words + leaf * LEAF_WORDS;

    if (subtree_is_leaf(tree)) {
        memcpy(words, subtree_leaf(tree)->words,
               sizeof(subtree_leaf(tree)->words));
    } else {
        if (subtree_value(tree)) {
            memset(words, 0xff, LEAF_WORDS * sizeof(*words));
        }
        if (tree & SUBTREE_IS_RUN) {
            words_flip(words, run_start(tree), run_end(tree),
                       !subtree_value(tree));
        }
    }
    set_count(slab, leaf, subtree_count(tree, 0));
}

Subtree slab_instead(SparseBitmap *bitmap, Inner *inner)
{
    Slab *slab;
    unsigned i, j;

    if (inner->memory < MOST_OF_TREE) {
        return (Subtree)inner;
    }
    slab = slab_map();
    if (!slab) {
        return (Subtree)inner;
    }
    for (i = 0; i < FANOUT; i++) {
        Subtree group = inner->child[i];

        for (j = 0; j < FANOUT; j++) {
            fill_leaf(slab, i * FANOUT + j,
                      subtree_is_inner(group) ? subtree_inner(group)->child[j]
                                              : group);
        }
    }
    bitmap->memory += sizeof(*slab);
    discard(bitmap, (Subtree)inner);
    return subtree_of_slab(slab);
}

/* ---- and back ----------------------------------------------------------- */

static Subtree leaf_instead(SparseBitmap *bitmap, const Slab *slab, unsigned i)
{
    Leaf *leaf;

    if (!is_mixed(slab->count[i])) {
        return subtree_uniform(slab->count[i]);
    }
    leaf = leaf_new(bitmap, false);
    leaf->head.count = slab->count[i];
    memcpy(leaf->words, slab->words + i * LEAF_WORDS, sizeof(leaf->words));
    return subtree_of_leaf(leaf);
}

static Subtree group_instead(SparseBitmap *bitmap, const Slab *slab, unsigned i)
{
    Inner *inner;
    size_t memory;
    unsigned j;

    if (!slab->group[i].some[true] || !slab->group[i].some[false]) {
        return subtree_uniform(slab->group[i].some[true]);
    }
    inner = inner_new(bitmap, 1, false);
    memory = bitmap->memory;
    for (j = 0; j < FANOUT; j++) {
        inner->child[j] = leaf_instead(bitmap, slab, i * FANOUT + j);
        inner->head.count += slab->count[i * FANOUT + j];
        inner_summarize(inner, j);
    }
    inner->memory += bitmap->memory - memory;
    return (Subtree)inner;
}

static Subtree tree_instead(SparseBitmap *bitmap, Slab *slab)
{
    Inner *inner;
    size_t memory;
    unsigned i;

    if (!slab->some[true] || !slab->some[false]) {
        discard(bitmap, subtree_of_slab(slab));
        return subtree_uniform(slab->some[true]);
    }
    inner = inner_new(bitmap, SLAB_LEVEL, false);
    memory = bitmap->memory;
    for (i = 0; i < FANOUT; i++) {
        inner->child[i] = group_instead(bitmap, slab, i);
        inner_summarize(inner, i);
    }
    inner->memory += bitmap->memory - memory;
    inner->head.count = slab->head.count;
    discard(bitmap, subtree_of_slab(slab));
    return (Subtree)inner;
}

/* ---- changing ----------------------------------------------------------- */

static Subtree slab_or_tree(SparseBitmap *bitmap, Slab *slab)
{
    return slab->n_mixed < FEW_MIXED ? tree_instead(bitmap, slab)
                                     : subtree_of_slab(slab);
}

Subtree slab_settle(SparseBitmap *bitmap, Slab *slab, unsigned leaf,
                    unsigned was)
{
    slab->n_mixed += is_mixed(slab->count[leaf]) - is_mixed(was);
    summarize(slab, leaf);
    return slab_or_tree(bitmap, slab);
}

Subtree slab_assign(SparseBitmap *bitmap, Slab *slab, uint64_t start,
                    uint64_t end, bool value)
{
    unsigned leaf = start >> LEAF_SHIFT, last = (end - 1) >> LEAF_SHIFT;
    uint64_t before = slab->head.count;

    for (; leaf <= last; leaf++) {
        uint64_t *words = slab->words + leaf * LEAF_WORDS;
        uint64_t first = (uint64_t)leaf << LEAF_SHIFT;
        unsigned from = MAX(start, first) - first;
        unsigned to = MIN(end, first + LEAF_BITS) - first;

        if (slab->count[leaf] == (value ? LEAF_BITS : 0)) {
            continue;
        }
        if (to - from == LEAF_BITS) {
            memset(words, value ? 0xff : 0, LEAF_WORDS * sizeof(*words));
            set_count(slab, leaf, value ? LEAF_BITS : 0);
        } else {
            int changed = words_flip(words, from, to, value);

            set_count(slab, leaf,
                      slab->count[leaf] + (value ? changed : -changed));
        }
    }
    bitmap->count += slab->head.count - before;
    return slab_or_tree(bitmap, slab);
}
