/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: where clusters of the guest's disk are, by L1 and L2 tables.
 *
 * An entry that makes no sense is never taken for something else: whoever meets
 * one gets -EIO, and the image is marked as corrupt.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/qcow2-refcount.h"

#define L1_RESERVED UINT64_C(0x7f000000000001ff)
#define L2_RESERVED UINT64_C(0x3f000000000001fe)

/* ---- entries ------------------------------------------------------------ */

static int bad_entry(Qcow2State *s, uint64_t l2_entry, const char *why)
{
    qcow2_signal_corruption(s, -1, -1, "L2 entry %#" PRIx64 " %s", l2_entry,
                            why);
    return -EIO;
}

int qcow2_entry_type(Qcow2State *s, uint64_t l2_entry, Qcow2ClusterType *type)
{
    uint64_t host = l2_entry & QCOW2_OFFSET_MASK;

    if (l2_entry & QCOW2_COMPRESSED) {
        *type = QCOW2_CLUSTER_COMPRESSED;
        return 0;
    }
    if (l2_entry & L2_RESERVED) {
        return bad_entry(s, l2_entry, "has reserved bits set");
    }
    if (qcow2_in_cluster(s, host)) {
        return bad_entry(s, l2_entry, "has an unaligned offset");
    }
    if (l2_entry & QCOW2_ZERO) {
        if (s->version < 3) {
            return bad_entry(s, l2_entry,
                             "has the zero flag in a version 2 image");
        }
        *type = host ? QCOW2_CLUSTER_ZERO_ALLOC : QCOW2_CLUSTER_ZERO_PLAIN;
        return 0;
    }
    if (!host && (l2_entry & QCOW2_COPIED)) {
        return bad_entry(s, l2_entry, "has no offset");
    }
    *type = host ? QCOW2_CLUSTER_NORMAL : QCOW2_CLUSTER_UNALLOCATED;
    return 0;
}

/* How many of the @max entries from @entry on go on as @first does */
static unsigned count_run(const Qcow2State *s, const uint64_t *entry,
                          unsigned max, uint64_t first, Qcow2ClusterType type)
{
    uint64_t step = 0;
    unsigned n = 1;

    if (type == QCOW2_CLUSTER_COMPRESSED) {
        return 1;
    }
    if (type == QCOW2_CLUSTER_NORMAL || type == QCOW2_CLUSTER_ZERO_ALLOC) {
        step = s->cluster_size;
    }
    while (n < max && GUINT64_FROM_BE(entry[n]) == first + n * step) {
        n++;
    }
    return n;
}

/* ---- looking up --------------------------------------------------------- */

static uint64_t l1_index(const Qcow2State *s, int64_t offset)
{
    return (uint64_t)offset >> (s->cluster_bits + s->l2_bits);
}

static unsigned l2_index(const Qcow2State *s, int64_t offset)
{
    return qcow2_cluster_index(s, offset) & ((1u << s->l2_bits) - 1);
}

/* From @offset to the end of what its L2 table is about */
static int64_t to_table_end(const Qcow2State *s, int64_t offset)
{
    int64_t span = INT64_C(1) << (s->cluster_bits + s->l2_bits);

    return span - (offset & (span - 1));
}

static bool has_l2(const Qcow2State *s, uint64_t index)
{
    return index < s->l1_entries && s->l1[index];
}

/* Where the L2 table is that the entry tells; 0: none. Or -EIO */
static int l2_offset(Qcow2State *s, uint64_t index, uint64_t *offset)
{
    uint64_t entry = index < s->l1_entries ? s->l1[index] : 0;

    *offset = entry & QCOW2_OFFSET_MASK;
    if ((entry & L1_RESERVED) || qcow2_in_cluster(s, *offset) ||
        (entry && !*offset)) {
        qcow2_signal_corruption(s, -1, -1,
                                "L1 entry %" PRIu64 " makes no sense: "
                                "%#" PRIx64,
                                index, entry);
        return -EIO;
    }
    return 0;
}

/* No L2 table at @offset: how far that goes on */
static int64_t count_without_l2(const Qcow2State *s, int64_t offset,
                                int64_t bytes)
{
    int64_t n = to_table_end(s, offset);

    while (n < bytes && !has_l2(s, l1_index(s, offset + n))) {
        n += to_table_end(s, offset + n);
    }
    return MIN(n, bytes);
}

int qcow2_lookup(Qcow2State *s, int64_t offset, int64_t bytes,
                 Qcow2ClusterType *type, uint64_t *host, int64_t *pnum,
                 bool *copied)
{
    int64_t in = qcow2_in_cluster(s, offset);
    unsigned index = l2_index(s, offset);
    uint64_t table_offset, entry;
    unsigned max;
    void *table;
    int ret;

    *host = 0;
    *copied = false;
    ret = l2_offset(s, l1_index(s, offset), &table_offset);
    if (ret < 0) {
        return ret;
    }
    if (!table_offset) {
        *type = QCOW2_CLUSTER_UNALLOCATED;
        *pnum = count_without_l2(s, offset, bytes);
        return 0;
    }
    ret = qcow2_cache_get(s->l2_cache, table_offset, &table);
    if (ret < 0) {
        return ret;
    }
    entry = GUINT64_FROM_BE(((uint64_t *)table)[index]);
    ret = qcow2_entry_type(s, entry, type);
    if (ret == 0) {
        bytes = MIN(bytes, to_table_end(s, offset));
        max = (in + bytes + s->cluster_size - 1) >> s->cluster_bits;
        max = count_run(s, (uint64_t *)table + index, max, entry, *type);
        *pnum = MIN(bytes, ((int64_t)max << s->cluster_bits) - in);
        *copied = entry & QCOW2_COPIED;
        if (*type == QCOW2_CLUSTER_COMPRESSED) {
            *host = entry;
        } else if (entry & QCOW2_OFFSET_MASK) {
            *host = (entry & QCOW2_OFFSET_MASK) + in;
        }
    }
    qcow2_cache_put(s->l2_cache, &table);
    return ret;
}

int qcow2_map(Qcow2State *s, int64_t offset, int64_t bytes,
              Qcow2ClusterType *type, uint64_t *host, int64_t *pnum,
              bool *copied)
{
    MUTEX_GUARD(&s->lock);

    return qcow2_lookup(s, offset, bytes, type, host, pnum, copied);
}

/* ---- L2 tables of one's own --------------------------------------------- */

/* The contents for a new L2 table: those of the one at @old, if not 0 */
static int fill_l2(Qcow2State *s, uint64_t old, uint8_t *buf)
{
    void *table;
    int ret;

    if (!old) {
        return 0;
    }
    ret = qcow2_cache_get(s->l2_cache, old, &table);
    if (ret < 0) {
        return ret;
    }
    memcpy(buf, table, s->cluster_size);
    qcow2_cache_put(s->l2_cache, &table);
    return 0;
}

/* Rules 1 and 2: the table, and its refcount, are on stable storage when this
 * returns. */
static int write_new_l2(Qcow2State *s, uint64_t old, uint64_t new)
{
    g_autofree uint8_t *buf = g_malloc0(s->cluster_size);
    int ret = fill_l2(s, old, buf);

    if (ret < 0) {
        return ret;
    }
    if (!qcow2_check_overlap(s, new, s->cluster_size, "L2 table")) {
        return -EIO;
    }
    ret = qcow2_write_file(s, new, s->cluster_size, buf);
    if (ret == 0) {
        ret = qcow2_cache_write(s->refblock_cache);
    }
    return ret < 0 ? ret : qcow2_flush_file(s);
}

/* If that fails, nobody knows what is on the disk: the table's cluster leaks. */
static int write_l1_entry(Qcow2State *s, uint64_t index, uint64_t entry)
{
    uint64_t be = GUINT64_TO_BE(entry);
    uint64_t offset = s->l1_offset + index * sizeof(be);
    int ret = qcow2_write_file(s, offset, sizeof(be), &be);

    /* What is freed for this must not be used before it is flushed. */
    s->data_unflushed = true;
    if (ret == 0) {
        s->l1[index] = entry;
    }
    return ret;
}

static int make_own_l2(Qcow2State *s, uint64_t index, uint64_t old)
{
    int64_t new = qcow2_alloc_clusters(s, s->cluster_size);
    int ret;

    if (new < 0) {
        return new;
    }
    ret = write_new_l2(s, old, new);
    if (ret < 0) {
        qcow2_free_now(s, new, s->cluster_size);
        return ret;
    }
    ret = write_l1_entry(s, index, (uint64_t) new | QCOW2_COPIED);
    if (ret == 0 && old) {
        qcow2_cache_drop(s->l2_cache, old);
        qcow2_free_later(s, old, s->cluster_size);
    }
    return ret;
}

int qcow2_get_own_l2(Qcow2State *s, int64_t offset, uint64_t **l2,
                     unsigned *index)
{
    uint64_t i = l1_index(s, offset);
    uint64_t table_offset;
    void *table;
    int ret;

    if (i >= s->l1_entries) {
        qcow2_signal_corruption(
            s, -1, -1, "The L1 table has no entry for offset %" PRId64, offset);
        return -EIO;
    }
    ret = l2_offset(s, i, &table_offset);
    if (ret == 0 && !(s->l1[i] & QCOW2_COPIED)) {
        ret = make_own_l2(s, i, table_offset);
        table_offset = s->l1[i] & QCOW2_OFFSET_MASK;
    }
    if (ret == 0) {
        ret = qcow2_cache_get(s->l2_cache, table_offset, &table);
    }
    if (ret == 0) {
        *l2 = table;
        *index = l2_index(s, offset);
    }
    return ret;
}
