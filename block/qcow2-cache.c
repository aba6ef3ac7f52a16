/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: tables of one cluster each, L2 tables or refcount blocks, in memory.
 *
 * Entries are found by a hash of their place in the file. All of them, in use or
 * not, are in one list by the time of their last use; who needs room takes the
 * oldest that nobody has pinned. Memory for the tables is one piece, which the
 * kernel gives page by page as they are used: a table's entry follows from its
 * address. What is dirty is in an array besides, so that nothing is searched to
 * write it.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2-refcount.h"

#define NONE UINT_MAX
#define TABLES_ALIGN 4096 /* enough for direct I/O */

typedef struct CacheEntry {
    uint64_t offset; /* 0: unused; no table is where the header is */
    unsigned pins;
    unsigned dirty; /* index in c->dirty, or NONE */
    unsigned chain; /* next of the same hash */
    unsigned newer, older;
} CacheEntry;

struct Qcow2Cache {
    Qcow2State *s;
    unsigned n;
    uint8_t *tables;
    CacheEntry *entries;
    unsigned *hash, hash_mask;
    unsigned newest, oldest;
    unsigned *dirty, n_dirty;
};

static unsigned *hash_slot(Qcow2Cache *c, uint64_t offset)
{
    uint64_t h = (offset >> c->s->cluster_bits) * UINT64_C(0x9e3779b97f4a7c15);

    return &c->hash[(h >> 32) & c->hash_mask];
}

static void *table_of(Qcow2Cache *c, unsigned i)
{
    return c->tables + ((size_t)i << c->s->cluster_bits);
}

static unsigned entry_of(Qcow2Cache *c, const void *table)
{
    size_t at = (const uint8_t *)table - c->tables;

    g_assert((at & (c->s->cluster_size - 1)) == 0);
    at >>= c->s->cluster_bits;
    g_assert(at < c->n);
    return at;
}

/* ---- the list by age ---------------------------------------------------- */

static void unlink_entry(Qcow2Cache *c, unsigned i)
{
    CacheEntry *e = &c->entries[i];

    if (e->newer != NONE) {
        c->entries[e->newer].older = e->older;
    } else {
        c->newest = e->older;
    }
    if (e->older != NONE) {
        c->entries[e->older].newer = e->newer;
    } else {
        c->oldest = e->newer;
    }
}

static void make_newest(Qcow2Cache *c, unsigned i)
{
    CacheEntry *e = &c->entries[i];

    if (c->newest == i) {
        return;
    }
    unlink_entry(c, i);
    e->newer = NONE;
    e->older = c->newest;
    c->entries[c->newest].newer = i;
    c->newest = i;
}

static void make_oldest(Qcow2Cache *c, unsigned i)
{
    CacheEntry *e = &c->entries[i];

    if (c->oldest == i) {
        return;
    }
    unlink_entry(c, i);
    e->older = NONE;
    e->newer = c->oldest;
    c->entries[c->oldest].older = i;
    c->oldest = i;
}

/* ---- entries ------------------------------------------------------------ */

static unsigned find(Qcow2Cache *c, uint64_t offset)
{
    unsigned i = *hash_slot(c, offset);

    while (i != NONE && c->entries[i].offset != offset) {
        i = c->entries[i].chain;
    }
    return i;
}

static void set_clean(Qcow2Cache *c, unsigned i)
{
    unsigned at = c->entries[i].dirty;

    if (at != NONE) {
        unsigned last = c->dirty[--c->n_dirty];

        c->dirty[at] = last;
        c->entries[last].dirty = at;
        c->entries[i].dirty = NONE;
    }
}

/* The entry is unused from now on. */
static void forget(Qcow2Cache *c, unsigned i)
{
    CacheEntry *e = &c->entries[i];
    unsigned *slot = hash_slot(c, e->offset);

    g_assert(e->pins == 0);
    set_clean(c, i);
    while (*slot != i) {
        slot = &c->entries[*slot].chain;
    }
    *slot = e->chain;
    e->offset = 0;
    make_oldest(c, i);
}

Qcow2Cache *qcow2_cache_new(Qcow2State *s, unsigned entries)
{
    Qcow2Cache *c = g_new0(Qcow2Cache, 1);
    void *tables = NULL;
    unsigned size = 1;
    unsigned i;

    g_assert(entries > 0 && entries < UINT_MAX / 2);
    while (size < entries) {
        size *= 2;
    }
    c->s = s;
    c->n = entries;
    if (posix_memalign(&tables, TABLES_ALIGN,
                       (size_t)entries << s->cluster_bits)) {
        g_free(c);
        return NULL;
    }
    c->tables = tables;
    c->entries = g_new0(CacheEntry, entries);
    c->dirty = g_new(unsigned, entries);
    c->hash = g_new(unsigned, size);
    c->hash_mask = size - 1;
    memset(c->hash, 0xff, size * sizeof(unsigned));
    for (i = 0; i < entries; i++) {
        c->entries[i].dirty = c->entries[i].chain = NONE;
        c->entries[i].newer = i ? i - 1 : NONE;
        c->entries[i].older = i + 1 < entries ? i + 1 : NONE;
    }
    c->newest = 0;
    c->oldest = entries - 1;
    return c;
}

void qcow2_cache_free(Qcow2Cache *c)
{
    if (!c) {
        return;
    }
    free(c->tables);
    g_free(c->entries);
    g_free(c->dirty);
    g_free(c->hash);
    g_free(c);
}

static int write_entry(Qcow2Cache *c, unsigned i)
{
    Qcow2State *s = c->s;
    bool l2 = c == s->l2_cache;
    uint64_t offset = c->entries[i].offset;
    int ret;

    if (qcow2_is_corrupt(s)) {
        return -EIO;
    }
    if (!qcow2_check_overlap_but(s, l2 ? QCOW2_OWN_L2 : QCOW2_OWN_REFBLOCKS,
                                 offset, s->cluster_size,
                                 l2 ? "L2 table" : "refcount block")) {
        return -EIO;
    }
    /* Even if it fails: part of it may be there. */
    if (l2) {
        s->tables_unflushed = true;
    } else {
        s->data_unflushed = true;
    }
    ret = qcow2_write_file(s, offset, s->cluster_size, table_of(c, i));
    if (ret == 0) {
        set_clean(c, i);
    }
    return ret;
}

/* An entry that is neither pinned nor dirty, unused now: *@out. */
static int make_room(Qcow2Cache *c, unsigned *out)
{
    unsigned i = c->oldest;
    int ret = 0;

    while (c->entries[i].pins) {
        i = c->entries[i].newer;
        g_assert(i != NONE); /* caches are larger than what requests pin */
    }
    if (c->entries[i].dirty != NONE) {
        /* Refcount blocks may go at any time; before L2 tables goes much. */
        ret = c == c->s->l2_cache ? qcow2_write_tables(c->s, false)
                                  : write_entry(c, i);
    }
    if (ret == 0 && c->entries[i].offset) {
        forget(c, i);
    }
    *out = i;
    return ret;
}

/* @read: from the file, otherwise zeroes */
static int get(Qcow2Cache *c, uint64_t offset, bool read, void **table)
{
    unsigned i = find(c, offset);
    unsigned *slot;
    int ret;

    if (i == NONE) {
        g_assert(offset && (offset & (c->s->cluster_size - 1)) == 0);
        ret = make_room(c, &i);
        if (ret == 0 && read) {
            ret = qcow2_read_file(c->s, offset, c->s->cluster_size,
                                  table_of(c, i));
        }
        if (ret < 0) {
            return ret;
        }
        slot = hash_slot(c, offset);
        c->entries[i].offset = offset;
        c->entries[i].chain = *slot;
        *slot = i;
    }
    c->entries[i].pins++;
    make_newest(c, i);
    *table = table_of(c, i);
    return 0;
}

int qcow2_cache_get(Qcow2Cache *c, uint64_t offset, void **table)
{
    return get(c, offset, true, table);
}

int qcow2_cache_get_empty(Qcow2Cache *c, uint64_t offset, void **table)
{
    int ret = get(c, offset, false, table);

    if (ret == 0) {
        memset(*table, 0, c->s->cluster_size);
        qcow2_cache_set_dirty(c, *table);
    }
    return ret;
}

void qcow2_cache_put(Qcow2Cache *c, void **table)
{
    CacheEntry *e = &c->entries[entry_of(c, *table)];

    g_assert(e->pins > 0);
    e->pins--;
    *table = NULL;
}

void qcow2_cache_set_dirty(Qcow2Cache *c, void *table)
{
    unsigned i = entry_of(c, table);

    g_assert(c->entries[i].offset);
    if (c->entries[i].dirty == NONE) {
        c->entries[i].dirty = c->n_dirty;
        c->dirty[c->n_dirty++] = i;
    }
}

bool qcow2_cache_is_dirty(Qcow2Cache *c)
{
    return c->n_dirty > 0;
}

static int by_offset(gconstpointer a, gconstpointer b, gpointer opaque)
{
    const Qcow2Cache *c = opaque;
    uint64_t x = c->entries[*(const unsigned *)a].offset;
    uint64_t y = c->entries[*(const unsigned *)b].offset;

    return x < y ? -1 : x > y;
}

int qcow2_cache_write(Qcow2Cache *c)
{
    unsigned n = c->n_dirty;
    g_autofree unsigned *dirty = NULL;
    unsigned i;
    int first_error = 0;

    if (n == 0) {
        return 0;
    }
    dirty = g_memdup2(c->dirty, n * sizeof(unsigned));
    g_qsort_with_data(dirty, n, sizeof(unsigned), by_offset, c);
    for (i = 0; i < n; i++) {
        int ret = write_entry(c, dirty[i]);

        first_error = first_error ? first_error : ret;
    }
    return first_error;
}

void qcow2_cache_drop(Qcow2Cache *c, uint64_t offset)
{
    unsigned i = find(c, offset);

    if (i != NONE) {
        forget(c, i);
    }
}

bool qcow2_cache_touches(Qcow2Cache *c, uint64_t offset, uint64_t bytes)
{
    uint64_t first = qcow2_cluster_index(c->s, offset);
    uint64_t n = qcow2_cluster_index(c->s, offset + bytes - 1) - first + 1;
    unsigned i;

    if (n <= c->n) {
        for (; n > 0; n--, first++) {
            if (first && find(c, first << c->s->cluster_bits) != NONE) {
                return true;
            }
        }
        return false;
    }
    for (i = 0; i < c->n; i++) {
        if (c->entries[i].offset &&
            (c->entries[i].offset >> c->s->cluster_bits) - first < n) {
            return true;
        }
    }
    return false;
}

void qcow2_cache_clear(Qcow2Cache *c)
{
    unsigned i;

    for (i = 0; i < c->n; i++) {
        if (c->entries[i].offset) {
            forget(c, i);
        }
    }
}

/* ---- the order of writes ------------------------------------------------ */

int qcow2_flush_file(Qcow2State *s)
{
    int ret = s->creating ? 0 : bdrv_flush(s->bs->file->bs);

    if (ret == 0) {
        s->data_unflushed = s->tables_unflushed = false;
    }
    return ret;
}

int qcow2_write_tables(Qcow2State *s, bool settle)
{
    bool l2_dirty = s->l2_cache && qcow2_cache_is_dirty(s->l2_cache);
    bool freed = settle && s->freed->len > 0;
    bool flushed = false;
    int ret = qcow2_cache_write(s->refblock_cache);

    if (ret < 0) {
        return ret;
    }
    if (s->data_unflushed && (l2_dirty || freed)) { /* rules 1 and 2 */
        ret = qcow2_flush_file(s);
        if (ret < 0) {
            return ret;
        }
        flushed = true;
    }
    if (l2_dirty) {
        ret = qcow2_cache_write(s->l2_cache);
        if (ret < 0) {
            return ret;
        }
    }
    if (freed) { /* rule 3 */
        /* Entries of the L1 table may have been written, too, before this. */
        ret = flushed && !s->tables_unflushed ? 0 : qcow2_flush_file(s);
        if (ret < 0) {
            return ret;
        }
        qcow2_settle_freed(s);
    }
    return 0;
}
