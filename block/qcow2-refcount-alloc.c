/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: free clusters, and tables of refcounts that grow with the file.
 *
 * Where the reftable has no block, or ends, all clusters are free. A new block
 * lies in the first free cluster; if there is no block for that one either, the
 * new block is for itself as well. A new reftable comes with the blocks that it
 * needs for itself, behind all that the old one could know of.
 */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2-refcount.h"

/* So much is not kept back for the next flush of the guest. */
#define FREED_MAX_BYTES (UINT64_C(64) << 20)
#define HEADER_REFTABLE 48 /* offset (8 bytes), clusters (4) */

int qcow2_find_free(Qcow2State *s, uint64_t from, uint64_t n, uint64_t *found,
                    uint64_t *first_free)
{
    uint64_t per_block = qcow2_refblock_entries(s);
    uint64_t pos = from, start = from;
    void *block;
    int ret;

    *first_free = UINT64_MAX;
    while (pos - start < n) {
        uint64_t end = (pos / per_block + 1) * per_block;

        ret = qcow2_get_refblock(s, pos / per_block, &block);
        if (ret < 0) {
            return ret;
        }
        if (!block) {
            *first_free = MIN(*first_free, pos);
            pos = pos / per_block < s->reftable_entries ? end : start + n;
            continue;
        }
        for (; pos < end && pos - start < n; pos++) {
            if (qcow2_refcount_read(s->refcount_order, block,
                                    pos % per_block)) {
                start = pos + 1;
            } else {
                *first_free = MIN(*first_free, pos);
            }
        }
        qcow2_cache_put(s->refblock_cache, &block);
    }
    *found = start;
    return 0;
}

/* ---- tables that grow --------------------------------------------------- */

/* Put what was there back after a failure; whether this succeeded, nobody knows
 * what the file has. */
static void restore(Qcow2State *s, uint64_t offset, uint64_t bytes,
                    const void *old, const char *what)
{
    if (qcow2_write_file(s, offset, bytes, old) < 0 ||
        qcow2_flush_file(s) < 0) {
        qcow2_signal_corruption(s, offset, bytes,
                                "%s at 0x%" PRIx64 " could not be written",
                                what, offset);
    }
}

int qcow2_switch_reftable(Qcow2State *s, uint64_t *table, uint64_t offset,
                          uint32_t entries)
{
    uint8_t old[12], new[12];
    int ret = qcow2_flush_file(s); /* rule 4 */

    if (ret < 0) {
        return ret;
    }
    qcow2_put_be64(old, s->reftable_offset);
    qcow2_put_be32(old + 8,
                   s->reftable_entries * sizeof(uint64_t) >> s->cluster_bits);
    qcow2_put_be64(new, offset);
    qcow2_put_be32(new + 8, entries * sizeof(uint64_t) >> s->cluster_bits);
    ret = qcow2_write_file(s, HEADER_REFTABLE, sizeof(new), new);
    if (ret == 0) {
        ret = qcow2_flush_file(s);
    }
    if (ret < 0) {
        restore(s, HEADER_REFTABLE, sizeof(old), old, "The header's fields");
        return ret;
    }
    g_free(s->reftable);
    s->reftable = table;
    s->reftable_offset = offset;
    s->reftable_entries = entries;
    return 0;
}

/* How large a table of @entries at least becomes when it lies with its blocks
 * behind what the present one covers: clusters of it, and blocks */
static void plan_reftable(const Qcow2State *s, uint64_t entries,
                          uint64_t *clusters, uint64_t *blocks)
{
    uint64_t per_block = qcow2_refblock_entries(s);

    *clusters = *blocks = 0;
    for (;;) {
        uint64_t want_blocks =
            (*clusters + *blocks + per_block - 1) / per_block;
        uint64_t want_entries = MAX(entries, s->reftable_entries + want_blocks);
        uint64_t want = qcow2_round_up(s, want_entries * sizeof(uint64_t)) >>
                        s->cluster_bits;

        if (want_blocks == *blocks && want == *clusters) {
            return;
        }
        *blocks = want_blocks;
        *clusters = want;
    }
}

/* The blocks and the table to the file, one behind the other */
static int write_area(Qcow2State *s, uint64_t offset, uint64_t clusters,
                      uint64_t blocks, const uint64_t *table, uint32_t entries)
{
    g_autofree uint8_t *refs = g_malloc0(blocks << s->cluster_bits);
    uint64_t i;
    int ret;

    for (i = 0; i < clusters + blocks; i++) {
        qcow2_refcount_write(s->refcount_order, refs, i, 1);
    }
    if (!qcow2_check_overlap(s, offset, (clusters + blocks) << s->cluster_bits,
                             "refcount table")) {
        return -EIO;
    }
    ret = qcow2_write_file(s, offset, blocks << s->cluster_bits, refs);
    if (ret == 0) {
        ret = qcow2_write_be64s(s, table, entries,
                                offset + (blocks << s->cluster_bits));
    }
    return ret;
}

/* At least so many entries */
static int grow_reftable(Qcow2State *s, uint64_t min_entries)
{
    uint64_t old_offset = s->reftable_offset;
    uint32_t old_entries = s->reftable_entries;
    uint64_t first = old_entries * qcow2_refblock_entries(s);
    uint64_t max = QCOW2_MAX_REFTABLE_BYTES / sizeof(uint64_t);
    uint64_t offset = first << s->cluster_bits;
    uint64_t clusters, blocks, i;
    uint32_t entries;
    uint64_t *table;
    int ret;

    /* Half as large again, so that this is rare. */
    plan_reftable(s, MAX(min_entries, MIN(old_entries * UINT64_C(3) / 2, max)),
                  &clusters, &blocks);
    if (clusters > (uint64_t)QCOW2_MAX_REFTABLE_BYTES >> s->cluster_bits ||
        first + clusters + blocks > (uint64_t)QCOW2_MAX_FILE_BYTES >>
            s->cluster_bits) {
        return -EFBIG;
    }
    entries = (clusters << s->cluster_bits) / sizeof(uint64_t);
    table = g_new0(uint64_t, entries);
    memcpy(table, s->reftable, old_entries * sizeof(uint64_t));
    for (i = 0; i < blocks; i++) {
        table[old_entries + i] = offset + (i << s->cluster_bits);
    }
    ret = write_area(s, offset, clusters, blocks, table, entries);
    if (ret == 0) {
        ret = qcow2_switch_reftable(
            s, table, offset + (blocks << s->cluster_bits), entries);
    }
    if (ret < 0) {
        g_free(table);
        return ret;
    }
    qcow2_free_later(s, old_offset, old_entries * sizeof(uint64_t));
    return 0;
}

/* Rule 1, for refcount blocks: it is there before the reftable has it. */
static int enter_refblock(Qcow2State *s, uint64_t index, uint64_t offset)
{
    uint64_t at = s->reftable_offset + index * sizeof(uint64_t);
    uint64_t entry = GUINT64_TO_BE(offset);
    uint64_t none = 0;
    int ret = qcow2_cache_write(s->refblock_cache);

    if (ret == 0) {
        ret = qcow2_flush_file(s);
    }
    if (ret < 0) {
        return ret;
    }
    s->data_unflushed = true;
    ret = qcow2_write_file(s, at, sizeof(entry), &entry);
    if (ret < 0) {
        restore(s, at, sizeof(none), &none, "An entry of the refcount table");
        return ret;
    }
    s->reftable[index] = offset;
    return 0;
}

/* A block for the reftable's entry @index, in the free cluster @cluster */
static int place_refblock(Qcow2State *s, uint64_t index, uint64_t cluster)
{
    uint64_t per_block = qcow2_refblock_entries(s);
    uint64_t offset = cluster << s->cluster_bits;
    bool own = cluster / per_block == index;
    void *block;
    int ret;

    if (cluster >= (uint64_t)QCOW2_MAX_FILE_BYTES >> s->cluster_bits) {
        return -EFBIG;
    }
    if (!qcow2_check_overlap(s, offset, s->cluster_size, "refcount block")) {
        return -EIO;
    }
    ret = qcow2_cache_get_empty(s->refblock_cache, offset, &block);
    if (ret < 0) {
        return ret;
    }
    if (own) {
        qcow2_refcount_write(s->refcount_order, block, cluster % per_block, 1);
    }
    qcow2_cache_put(s->refblock_cache, &block);
    if (!own) {
        ret = qcow2_update_refcounts(s, offset, s->cluster_size, 1);
    }
    if (ret == 0) {
        ret = enter_refblock(s, index, offset);
        if (ret < 0 && !own) {
            qcow2_free_now(s, offset, s->cluster_size);
        }
    }
    if (ret < 0) {
        qcow2_cache_drop(s->refblock_cache, offset);
    }
    return ret;
}

static int make_refblock(Qcow2State *s, uint64_t index)
{
    uint64_t per_block = qcow2_refblock_entries(s);
    int ret = 0;

    while (ret == 0) {
        uint64_t cluster, first_free, its_index;

        if (index < s->reftable_entries && s->reftable[index]) {
            return 0;
        }
        ret = qcow2_find_free(s, s->free_hint, 1, &cluster, &first_free);
        if (ret < 0) {
            break;
        }
        s->free_hint = first_free;
        its_index = cluster / per_block;
        if (MAX(index, its_index) >= s->reftable_entries) {
            ret = grow_reftable(s, MAX(index, its_index) + 1);
        } else if (!s->reftable[its_index]) {
            ret = place_refblock(s, its_index, cluster);
        } else {
            ret = place_refblock(s, index, cluster);
        }
    }
    return ret;
}

int qcow2_make_refblocks(Qcow2State *s, uint64_t cluster, uint64_t n)
{
    uint64_t per_block = qcow2_refblock_entries(s);
    uint64_t index = cluster / per_block;
    uint64_t last = (cluster + n - 1) / per_block;
    int made = 0;

    for (; index <= last; index++) {
        if (index >= s->reftable_entries || !s->reftable[index]) {
            int ret = make_refblock(s, index);

            if (ret < 0) {
                return ret;
            }
            made = 1;
        }
    }
    return made;
}

/* ---- allocation --------------------------------------------------------- */

int64_t qcow2_alloc_clusters(Qcow2State *s, uint64_t bytes)
{
    uint64_t max = (uint64_t)QCOW2_MAX_FILE_BYTES >> s->cluster_bits;
    uint64_t n = bytes >> s->cluster_bits;
    uint64_t from, first, first_free;
    int ret;

    n += qcow2_in_cluster(s, bytes) > 0;
    g_assert(n > 0);
    if (s->freed_bytes > FREED_MAX_BYTES) {
        /* If this fails, nothing is free that was not before. */
        (void)qcow2_write_tables(s, true);
    }
    do {
        from = n > 1 ? MAX(s->free_hint, s->run_hint) : s->free_hint;
        if (n > max) {
            return -EFBIG;
        }
        ret = qcow2_find_free(s, from, n, &first, &first_free);
        if (ret == 0 && first + n > max) {
            if (from == s->free_hint) {
                return -EFBIG;
            }
            s->run_hint = 0;
            ret = 1;
            continue;
        }
        if (ret == 0) {
            ret = qcow2_make_refblocks(s, first, n);
        }
    } while (ret > 0);
    if (ret == 0) {
        ret = qcow2_update_refcounts(s, first << s->cluster_bits,
                                     n << s->cluster_bits, 1);
    }
    if (ret < 0) {
        return ret;
    }
    if (from == s->free_hint) {
        s->free_hint = first_free == first ? first + n : first_free;
    }
    if (n > 1) {
        s->run_hint = first + n;
    }
    return first << s->cluster_bits;
}

/* How many clusters are free from @first on, at most @n */
static int count_free(Qcow2State *s, uint64_t first, uint64_t n,
                      uint64_t *count)
{
    uint64_t per_block = qcow2_refblock_entries(s);
    void *block = NULL;

    for (*count = 0; *count < n;) {
        uint64_t pos = first + *count;
        uint64_t in_block = MIN(n - *count, per_block - pos % per_block);
        uint64_t end = pos + in_block;
        int ret = qcow2_get_refblock(s, pos / per_block, &block);

        if (ret < 0) {
            return ret;
        }
        if (!block) {
            *count += in_block;
            continue;
        }
        while (pos < end && qcow2_refcount_read(s->refcount_order, block,
                                                pos % per_block) == 0) {
            pos++;
        }
        qcow2_cache_put(s->refblock_cache, &block);
        *count = pos - first;
        if (pos < end) {
            break;
        }
    }
    return 0;
}

int64_t qcow2_alloc_clusters_at(Qcow2State *s, uint64_t offset, uint64_t bytes)
{
    uint64_t first = qcow2_cluster_index(s, offset);
    uint64_t n, count;
    int ret;

    g_assert(bytes > 0 && qcow2_in_cluster(s, offset) == 0);
    if (offset > QCOW2_MAX_FILE_BYTES ||
        bytes > QCOW2_MAX_FILE_BYTES - offset) {
        return -EFBIG;
    }
    n = qcow2_round_up(s, bytes) >> s->cluster_bits;
    do {
        ret = count_free(s, first, n, &count);
        if (ret < 0 || count == 0) {
            return ret;
        }
        ret = qcow2_make_refblocks(s, first, count);
    } while (ret > 0);
    if (ret == 0) {
        ret = qcow2_update_refcounts(s, offset, count << s->cluster_bits, 1);
    }
    if (ret < 0) {
        return ret;
    }
    if (s->free_hint == first) {
        s->free_hint = first + count;
    }
    if (s->run_hint >= first && s->run_hint < first + count) {
        s->run_hint = first + count;
    }
    return count << s->cluster_bits;
}
