/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: how many times clusters of the file are referred to. Allocation is in
 * qcow2-refcount-alloc.c.
 *
 * s->free_hint is true at all times: no cluster before it is free.
 */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2-refcount.h"
#include "util/error.h"

/* Longer tables are not searched for what overlaps: the caches know some. */
#define SEARCHED_ENTRIES 8192
#define SEARCHED_SNAPSHOTS 1024

uint64_t qcow2_refcount_read(unsigned order, const void *refs, uint64_t index)
{
    const uint8_t *p = refs;
    uint16_t n16;
    unsigned bits = 1u << order;

    switch (order) {
    case 3:
        return p[index];
    case 4:
        memcpy(&n16, p + index * 2, 2);
        return GUINT16_FROM_BE(n16);
    case 5:
        return qcow2_get_be32(p + index * 4);
    case 6:
        return qcow2_get_be64(p + index * 8);
    default:
        g_assert(order < 3);
        return p[index * bits / 8] >> (index * bits % 8) & ((1 << bits) - 1);
    }
}

void qcow2_refcount_write(unsigned order, void *refs, uint64_t index,
                          uint64_t refcount)
{
    uint8_t *p = refs;
    uint16_t n16 = GUINT16_TO_BE((uint16_t)refcount);
    unsigned bits = 1u << order;
    unsigned shift = index * bits % 8;

    switch (order) {
    case 3:
        p[index] = refcount;
        return;
    case 4:
        memcpy(p + index * 2, &n16, 2);
        return;
    case 5:
        qcow2_put_be32(p + index * 4, refcount);
        return;
    case 6:
        qcow2_put_be64(p + index * 8, refcount);
        return;
    default:
        g_assert(order < 3);
        p += index * bits / 8;
        *p = (*p & ~(((1 << bits) - 1) << shift)) | refcount << shift;
    }
}

int qcow2_write_be64s(Qcow2State *s, const uint64_t *table, uint32_t entries,
                      uint64_t offset)
{
    g_autofree uint64_t *buf = g_new(uint64_t, MAX(entries, 1));
    uint32_t i;

    for (i = 0; i < entries; i++) {
        buf[i] = GUINT64_TO_BE(table[i]);
    }
    return qcow2_write_file(s, offset, entries * sizeof(uint64_t), buf);
}

int qcow2_refcounts_open(Qcow2State *s, GError **errp)
{
    int64_t bytes = s->reftable_entries * (int64_t)sizeof(uint64_t);
    uint64_t *table;
    uint32_t i;
    int ret;

    g_assert(bytes > 0 && bytes <= QCOW2_MAX_REFTABLE_BYTES);
    table = g_try_malloc(bytes);
    ret =
        table ? qcow2_read_file(s, s->reftable_offset, bytes, table) : -ENOMEM;
    if (ret < 0) {
        g_free(table);
        error_setg_errno(errp, -ret,
                         "Could not read the refcount table at offset %" PRIu64,
                         s->reftable_offset);
        return ret;
    }
    for (i = 0; i < s->reftable_entries; i++) {
        table[i] = GUINT64_FROM_BE(table[i]);
    }
    g_free(s->reftable);
    s->reftable = table;
    if (!s->freed) {
        s->freed = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    }
    s->free_hint = s->run_hint = 0;
    s->pack_offset = 0;
    return 0;
}

void qcow2_refcounts_close(Qcow2State *s)
{
    g_clear_pointer(&s->reftable, g_free);
    g_clear_pointer(&s->refblock_cache, qcow2_cache_free);
    g_clear_pointer(&s->freed, g_array_unref);
    s->freed_bytes = 0;
}

int qcow2_get_refblock(Qcow2State *s, uint64_t index, void **block)
{
    uint64_t entry = index < s->reftable_entries ? s->reftable[index] : 0;

    *block = NULL;
    if (entry == 0) {
        return 0;
    }
    if (qcow2_in_cluster(s, entry) || entry >= QCOW2_MAX_FILE_BYTES) {
        qcow2_signal_corruption(s, -1, -1,
                                "Entry %" PRIu64
                                " of the refcount table, 0x%" PRIx64
                                ", is no offset of a refcount block",
                                index, entry);
        return -EIO;
    }
    return qcow2_cache_get(s->refblock_cache, entry, block);
}

int qcow2_get_refcount(Qcow2State *s, uint64_t cluster, uint64_t *refcount)
{
    uint64_t n = qcow2_refblock_entries(s);
    void *block;
    int ret = qcow2_get_refblock(s, cluster / n, &block);

    *refcount = 0;
    if (ret < 0 || !block) {
        return ret;
    }
    *refcount = qcow2_refcount_read(s->refcount_order, block, cluster % n);
    qcow2_cache_put(s->refblock_cache, &block);
    return 0;
}

/* Its refcount is 0 now. */
static void became_free(Qcow2State *s, uint64_t cluster)
{
    uint64_t offset = cluster << s->cluster_bits;

    s->free_hint = MIN(s->free_hint, cluster);
    s->run_hint = MIN(s->run_hint, cluster);
    if (qcow2_cluster_index(s, s->pack_offset) == cluster) {
        s->pack_offset = 0;
    }
    /* Nothing that is in memory may be written over what comes there next. */
    if (s->l2_cache && offset) {
        qcow2_cache_drop(s->l2_cache, offset);
    }
}

/* Of clusters in one block. *@done: so many are changed */
static int update_block(Qcow2State *s, uint64_t cluster, uint64_t n, int delta,
                        uint64_t *done)
{
    uint64_t per_block = qcow2_refblock_entries(s);
    uint64_t max = qcow2_max_refcount(s);
    void *block;
    int ret = qcow2_get_refblock(s, cluster / per_block, &block);

    *done = 0;
    if (ret == 0 && !block && delta < 0) {
        qcow2_signal_corruption(
            s, cluster << s->cluster_bits, s->cluster_size,
            "Cluster %" PRIu64 ", which was in use, has no refcount", cluster);
        return -EIO;
    }
    if (ret < 0) {
        return ret;
    }
    g_assert(block);
    for (; ret == 0 && *done < n; cluster++) {
        uint64_t i = cluster % per_block;
        uint64_t old = qcow2_refcount_read(s->refcount_order, block, i);

        if (delta < 0 && old == 0) {
            qcow2_signal_corruption(
                s, cluster << s->cluster_bits, s->cluster_size,
                "Cluster %" PRIu64 ", which was in use, has refcount 0",
                cluster);
            ret = -EIO;
        } else if (delta > 0 && old == max) {
            ret = -EINVAL;
        } else {
            qcow2_refcount_write(s->refcount_order, block, i, old + delta);
            qcow2_cache_set_dirty(s->refblock_cache, block);
            if (old + delta == 0) {
                became_free(s, cluster);
            }
            (*done)++;
        }
    }
    qcow2_cache_put(s->refblock_cache, &block);
    return ret;
}

int qcow2_update_refcounts(Qcow2State *s, uint64_t offset, uint64_t bytes,
                           int delta)
{
    uint64_t per_block = qcow2_refblock_entries(s);
    uint64_t first = qcow2_cluster_index(s, offset);
    uint64_t pos = first;
    uint64_t end, done;
    int ret = 0;

    g_assert(delta == 1 || delta == -1);
    if (bytes == 0) {
        return 0;
    }
    if (offset >= QCOW2_MAX_FILE_BYTES ||
        bytes > QCOW2_MAX_FILE_BYTES - offset) {
        return -EFBIG;
    }
    end = qcow2_cluster_index(s, offset + bytes - 1) + 1;
    if (delta > 0) {
        ret = qcow2_make_refblocks(s, first, end - first);
        if (ret < 0) {
            return ret;
        }
        ret = 0;
    }
    while (ret == 0 && pos < end) {
        ret = update_block(s, pos, MIN(end - pos, per_block - pos % per_block),
                           delta, &done);
        pos += done;
    }
    if (ret < 0) {
        /* Blocks that could be read a moment ago; what fails here leaks. */
        for (end = pos, pos = first; pos < end; pos += done) {
            uint64_t n = MIN(end - pos, per_block - pos % per_block);

            if (update_block(s, pos, n, -delta, &done) < 0) {
                break;
            }
        }
    }
    return ret;
}

/* ---- what is free later ------------------------------------------------- */

void qcow2_free_later(Qcow2State *s, uint64_t offset, uint64_t bytes)
{
    Qcow2Range *last =
        s->freed->len ? &g_array_index(s->freed, Qcow2Range, s->freed->len - 1)
                      : NULL;
    Qcow2Range range = { offset, bytes };

    s->freed_bytes += bytes;
    /* Compressed clusters count for each cluster that they touch. */
    if (last && last->offset + last->bytes == offset &&
        qcow2_in_cluster(s, offset) == 0) {
        last->bytes += bytes;
    } else {
        g_array_append_val(s->freed, range);
    }
}

void qcow2_free_compressed_later(Qcow2State *s, uint64_t l2_entry)
{
    uint64_t offset, bytes;

    /* What makes no sense leaks. */
    if (qcow2_compressed_range(s, l2_entry, &offset, &bytes)) {
        qcow2_free_later(s, offset, bytes);
    }
}

/*
 * Discards clusters in a row that are free by now. Those that were never written may
 * lie beyond the end of the file. In an image that is corrupt, what counts as free may
 * be in use: a table that something else was about to overwrite.
 */
static void discard_free(Qcow2State *s, uint64_t first, uint64_t end)
{
    int64_t length = bdrv_child_getlength(s->bs->file);
    uint64_t run = first;

    if (qcow2_is_corrupt(s)) {
        return;
    }
    end = MIN(end, (uint64_t)MAX(length, 0) >> s->cluster_bits);
    for (; first <= end; first++) {
        uint64_t refcount = 1;

        if (first < end && qcow2_get_refcount(s, first, &refcount) < 0) {
            refcount = 1;
        }
        if (refcount > 0) {
            if (run < first) {
                /* It is only to save space. */
                (void)bdrv_pdiscard(s->bs->file->bs, run << s->cluster_bits,
                                    (first - run) << s->cluster_bits);
            }
            run = first + 1;
        }
    }
}

void qcow2_free_now(Qcow2State *s, uint64_t offset, uint64_t bytes)
{
    if (bytes == 0 || qcow2_update_refcounts(s, offset, bytes, -1) < 0) {
        return;
    }
    if (s->bs->discard_unmap) {
        discard_free(s, qcow2_cluster_index(s, offset),
                     qcow2_cluster_index(s, offset + bytes - 1) + 1);
    }
}

void qcow2_settle_freed(Qcow2State *s)
{
    g_autoptr(GArray) freed = s->freed;
    guint i;

    s->freed = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    s->freed_bytes = 0;
    for (i = 0; i < freed->len; i++) {
        const Qcow2Range *r = &g_array_index(freed, Qcow2Range, i);

        qcow2_free_now(s, r->offset, r->bytes);
    }
}

/* ---- writes where they must not be -------------------------------------- */

static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes;
}

/* Does any of these tables of a cluster each touch the range? */
static bool entries_touch(const Qcow2State *s, const uint64_t *table,
                          uint32_t entries, uint64_t mask, uint64_t offset,
                          uint64_t bytes)
{
    uint64_t from = offset & ~(uint64_t)(s->cluster_size - 1);
    uint64_t length = qcow2_round_up(s, offset + bytes) - from;
    uint32_t i;

    for (i = 0; i < entries; i++) {
        uint64_t at = table[i] & mask;

        if (at && at - from < length) {
            return true;
        }
    }
    return false;
}

static bool touch_l1(const Qcow2State *s, uint64_t offset, uint64_t bytes)
{
    guint i;

    if (overlap(s->l1_offset, s->l1_entries * sizeof(uint64_t), offset,
                bytes)) {
        return true;
    }
    if (!s->snapshots || s->snapshots->len > SEARCHED_SNAPSHOTS) {
        return false;
    }
    for (i = 0; i < s->snapshots->len; i++) {
        const Qcow2Snapshot *sn =
            &g_array_index(s->snapshots, Qcow2Snapshot, i);

        if (overlap(sn->l1_offset, sn->l1_entries * sizeof(uint64_t), offset,
                    bytes)) {
            return true;
        }
    }
    return false;
}

static bool touch_tables(const Qcow2State *s, Qcow2Cache *cache,
                         const uint64_t *table, uint32_t entries, uint64_t mask,
                         uint64_t offset, uint64_t bytes)
{
    if (cache && qcow2_cache_touches(cache, offset, bytes)) {
        return true;
    }
    return entries <= SEARCHED_ENTRIES &&
           entries_touch(s, table, entries, mask, offset, bytes);
}

bool qcow2_check_overlap_but(Qcow2State *s, unsigned own, uint64_t offset,
                             uint64_t bytes, const char *what)
{
    const char *hit = NULL;

    if (bytes == 0) {
        return true;
    }
    if (!(own & QCOW2_OWN_HEADER) && offset < (uint64_t)s->cluster_size) {
        hit = "the header";
    } else if (!(own & QCOW2_OWN_L1) && touch_l1(s, offset, bytes)) {
        hit = "an L1 table";
    } else if (!(own & QCOW2_OWN_REFTABLE) &&
               overlap(s->reftable_offset,
                       s->reftable_entries * sizeof(uint64_t), offset, bytes)) {
        hit = "the refcount table";
    } else if (!(own & QCOW2_OWN_REFBLOCKS) &&
               touch_tables(s, s->refblock_cache, s->reftable,
                            s->reftable ? s->reftable_entries : 0, UINT64_MAX,
                            offset, bytes)) {
        hit = "a refcount block";
    } else if (!(own & QCOW2_OWN_L2) &&
               touch_tables(s, s->l2_cache, s->l1, s->l1 ? s->l1_entries : 0,
                            QCOW2_OFFSET_MASK, offset, bytes)) {
        hit = "an L2 table";
    } else if (s->n_snapshots && overlap(s->snapshots_offset,
                                         s->snapshots_bytes, offset, bytes)) {
        hit = "the snapshot table";
    } else if (!(own & QCOW2_OWN_BITMAPS) && s->bitmaps_bytes &&
               overlap(s->bitmaps_offset, s->bitmaps_bytes, offset, bytes)) {
        hit = "the bitmap directory";
    }
    if (hit) {
        qcow2_signal_corruption(s, offset, bytes,
                                "Preventing a write of %s at 0x%" PRIx64
                                ", which overlaps %s",
                                what, offset, hit);
    }
    return !hit;
}

bool qcow2_check_overlap(Qcow2State *s, uint64_t offset, uint64_t bytes,
                         const char *what)
{
    return qcow2_check_overlap_but(s, 0, offset, bytes, what);
}
