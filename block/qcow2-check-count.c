/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: the check looks for everything that refers to clusters. */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2-bitmap.h"
#include "block/qcow2-check.h"

#define L1_RESERVED UINT64_C(0x7f000000000001ff)
#define L2_RESERVED UINT64_C(0x3f000000000001fe)
#define MAX_REPEATS 1024

static bool in_file(const Qcow2Check *c, uint64_t offset, uint64_t bytes)
{
    return offset <= c->file_bytes && bytes <= c->file_bytes - offset;
}

int qcow2_check_reserve(Qcow2Check *c, uint64_t clusters)
{
    uint64_t per_block = qcow2_refblock_entries(c->s);
    uint64_t blocks = (clusters + per_block - 1) / per_block;
    uint8_t *refs;

    if (blocks <= c->blocks) {
        return 0;
    }
    if (blocks > (uint64_t)INT64_MAX >> c->s->cluster_bits) {
        return -ENOMEM;
    }
    if (c->blocks == 0) {
        /* Memory that is not touched costs nothing. */
        c->refs = g_try_malloc0(blocks << c->s->cluster_bits);
    } else {
        refs = g_try_realloc(c->refs, blocks << c->s->cluster_bits);
        if (!refs) {
            return -ENOMEM;
        }
        memset(refs + (c->blocks << c->s->cluster_bits), 0,
               (blocks - c->blocks) << c->s->cluster_bits);
        c->refs = refs;
    }
    if (!c->refs) {
        return -ENOMEM;
    }
    c->blocks = blocks;
    return 0;
}

/* All clusters that the range touches are referred to once more. */
static void count(Qcow2Check *c, uint64_t offset, uint64_t bytes)
{
    unsigned order = c->s->refcount_order;
    uint64_t cluster, last;

    if (bytes == 0) {
        return;
    }
    /* The last cluster of the file need not be there as a whole. */
    if (offset >= QCOW2_MAX_FILE_BYTES || bytes > QCOW2_MAX_FILE_BYTES ||
        (!in_file(c, offset, bytes) &&
         offset + bytes - c->file_bytes >= (uint64_t)c->s->cluster_size)) {
        qcow2_check_report(c,
                           "ERROR: 0x%" PRIx64 " bytes at offset 0x%" PRIx64
                           " are beyond the end of the file",
                           bytes, offset);
        c->res->corruptions++;
        return;
    }
    cluster = qcow2_cluster_index(c->s, offset);
    last = qcow2_cluster_index(c->s, offset + bytes - 1);
    c->clusters = MAX(c->clusters, last + 1);
    for (; cluster <= last; cluster++) {
        uint64_t n = qcow2_refcount_read(order, c->refs, cluster);

        if (n == qcow2_max_refcount(c->s)) {
            qcow2_check_report(c,
                               "ERROR: cluster %" PRIu64 " has more references "
                               "than a refcount of this width can tell",
                               cluster);
            c->res->corruptions++;
        } else {
            qcow2_refcount_write(order, c->refs, cluster, n + 1);
        }
    }
}

/* What stands there is not known: nothing may be freed. */
static void cannot_read(Qcow2Check *c, const char *what, uint64_t offset,
                        int ret)
{
    qcow2_check_report(
        c, "ERROR: %s at offset 0x%" PRIx64 " could not be read: %s", what,
        offset, g_strerror(-ret));
    c->res->check_errors++;
    c->unsafe = true;
}

void qcow2_check_begin_l1(Qcow2Check *c)
{
    memset(c->seen, 0, c->file_bytes / c->s->cluster_size / 8 + 1);
}

bool qcow2_check_enter_l2(Qcow2Check *c, uint64_t offset)
{
    uint64_t cluster = qcow2_cluster_index(c->s, offset);
    uint8_t bit = 1 << cluster % 8;

    if (offset == 0 || offset >= c->file_bytes) {
        return false;
    }
    if (!(c->seen[cluster / 8] & bit)) {
        c->seen[cluster / 8] |= bit;
        return true;
    }
    if (c->repeats++ < MAX_REPEATS) {
        return true;
    }
    if (!c->unsafe) {
        qcow2_check_report(c, "ERROR: L2 tables are used for too many places");
        c->res->check_errors++;
        c->unsafe = true;
    }
    return false;
}

/* ---- L2 tables ---------------------------------------------------------- */

static void count_compressed(Qcow2Check *c, uint64_t entry, bool active)
{
    uint64_t offset, bytes;

    if (entry & QCOW2_COPIED) {
        qcow2_check_report(c,
                           "ERROR: compressed cluster with the flag COPIED: "
                           "l2_entry=%" PRIx64,
                           entry);
        c->res->corruptions++;
    }
    if (active) { /* these are fragmented by their nature */
        c->res->allocated_clusters++;
        c->res->compressed_clusters++;
        c->res->fragmented_clusters++;
    }
    if (!qcow2_compressed_range(c->s, entry, &offset, &bytes)) {
        qcow2_check_report(
            c, "ERROR: compressed cluster l2_entry=%" PRIx64 " is nowhere",
            entry);
        c->res->corruptions++;
        return;
    }
    count(c, offset, bytes);
}

/* A preallocated cluster need not be where it is. */
static bool mend_zero_entry(Qcow2Check *c, uint64_t at)
{
    uint64_t entry = GUINT64_TO_BE(QCOW2_ZERO);
    int ret;

    if (!(c->fix & BDRV_FIX_ERRORS) ||
        !qcow2_check_overlap_but(c->s, QCOW2_OWN_L2, at, sizeof(entry),
                                 "L2 entry")) {
        return false;
    }
    ret = qcow2_write_file(c->s, at, sizeof(entry), &entry);
    if (ret < 0) {
        c->res->check_errors++;
        return false;
    }
    c->res->corruptions_fixed++;
    return true;
}

/* @at: where the entry is in the file. @next: where the next cluster would lie
 * if they were in a row, 0 if that is not known */
static void count_standard(Qcow2Check *c, uint64_t entry, uint64_t at,
                           bool active, uint64_t *next)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    bool zero = entry & QCOW2_ZERO;

    if (entry & L2_RESERVED) {
        qcow2_check_report(
            c, "ERROR: reserved bits are set in l2_entry=%" PRIx64, entry);
        c->res->corruptions++;
    }
    if (zero && c->s->version < 3) {
        qcow2_check_report(
            c, "ERROR: zero cluster in version 2: l2_entry=%" PRIx64, entry);
        c->res->corruptions++;
    }
    if (offset == 0) {
        return;
    }
    if (active) {
        c->res->allocated_clusters++;
        if (*next && *next != offset) {
            c->res->fragmented_clusters++;
        }
        *next = offset + c->s->cluster_size;
    }
    if (qcow2_in_cluster(c->s, offset)) {
        bool mended = zero && mend_zero_entry(c, at);

        qcow2_check_report(c,
                           "%s: cluster at offset 0x%" PRIx64
                           " is not aligned: l2_entry=%" PRIx64,
                           mended ? "Repairing" : "ERROR", offset, entry);
        if (mended) {
            return;
        }
        c->res->corruptions++;
    }
    count(c, offset, c->s->cluster_size);
}

static void count_l2(Qcow2Check *c, uint64_t offset, bool active)
{
    g_autofree uint64_t *l2 = g_malloc(c->s->cluster_size);
    size_t n = c->s->cluster_size / sizeof(uint64_t);
    int ret = qcow2_read_file(c->s, offset, c->s->cluster_size, l2);
    uint64_t next = 0;
    size_t i;

    if (ret < 0) {
        cannot_read(c, "L2 table", offset, ret);
        return;
    }
    for (i = 0; i < n; i++) {
        uint64_t entry = GUINT64_FROM_BE(l2[i]);

        if (entry & QCOW2_COMPRESSED) {
            count_compressed(c, entry, active);
        } else if (entry) {
            count_standard(c, entry, offset + i * sizeof(uint64_t), active,
                           &next);
        }
    }
}

/* ---- L1 tables ---------------------------------------------------------- */

/* @l1: host order */
static void count_l1(Qcow2Check *c, const uint64_t *l1, uint32_t entries,
                     bool active)
{
    uint32_t i;

    qcow2_check_begin_l1(c);
    for (i = 0; i < entries; i++) {
        uint64_t l2 = l1[i] & QCOW2_OFFSET_MASK;

        if (l1[i] & L1_RESERVED) {
            qcow2_check_report(
                c, "ERROR: reserved bits are set in l1_entry=%" PRIx64, l1[i]);
            c->res->corruptions++;
        }
        if (l2 == 0) {
            continue;
        }
        count(c, l2, c->s->cluster_size);
        if (qcow2_in_cluster(c->s, l2)) {
            qcow2_check_report(c,
                               "ERROR: L2 table at offset 0x%" PRIx64
                               " is not aligned: l1_entry=%" PRIx64,
                               l2, l1[i]);
            c->res->corruptions++;
        }
        if (qcow2_check_enter_l2(c, l2)) {
            count_l2(c, l2, active);
        }
    }
}

static void count_active(Qcow2Check *c)
{
    Qcow2State *s = c->s;

    count(c, s->l1_offset, s->l1_entries * sizeof(uint64_t));
    count_l1(c, s->l1, s->l1_entries, true);
}

static void count_snapshot(Qcow2Check *c, const Qcow2Snapshot *snapshot)
{
    uint64_t bytes = snapshot->l1_entries * sizeof(uint64_t);
    g_autofree uint64_t *l1 = NULL;
    uint32_t i;
    int ret;

    count(c, snapshot->l1_offset, bytes);
    if (bytes == 0 || !in_file(c, snapshot->l1_offset, bytes)) {
        return;
    }
    c->l1_entries += snapshot->l1_entries;
    if (c->l1_entries > c->file_bytes / sizeof(uint64_t)) {
        qcow2_check_report(c, "ERROR: L1 tables of snapshots overlap");
        c->res->corruptions++;
        c->res->check_errors++;
        c->unsafe = true;
        return;
    }
    l1 = g_try_malloc(bytes);
    ret = l1 ? qcow2_read_file(c->s, snapshot->l1_offset, bytes, l1) : -ENOMEM;
    if (ret < 0) {
        cannot_read(c, "L1 table of a snapshot", snapshot->l1_offset, ret);
        return;
    }
    for (i = 0; i < snapshot->l1_entries; i++) {
        l1[i] = GUINT64_FROM_BE(l1[i]);
    }
    count_l1(c, l1, snapshot->l1_entries, false);
}

static void count_snapshots(Qcow2Check *c)
{
    guint i;

    if (!c->s->snapshots) {
        return;
    }
    count(c, c->s->snapshots_offset, c->s->snapshots_bytes);
    for (i = 0; i < c->s->snapshots->len; i++) {
        count_snapshot(c, &g_array_index(c->s->snapshots, Qcow2Snapshot, i));
    }
}

/* ---- bitmaps ------------------------------------------------------------ */

static void count_bitmap(Qcow2Check *c, uint64_t offset, uint32_t entries)
{
    uint64_t bytes = entries * sizeof(uint64_t);
    g_autofree uint64_t *table = NULL;
    uint32_t i;
    int ret;

    count(c, offset, bytes);
    if (!in_file(c, offset, bytes)) {
        return;
    }
    table = g_try_malloc(MAX(bytes, 1));
    ret = table ? qcow2_read_file(c->s, offset, bytes, table) : -ENOMEM;
    if (ret < 0) {
        cannot_read(c, "bitmap table", offset, ret);
        return;
    }
    for (i = 0; i < entries; i++) {
        uint64_t entry = GUINT64_FROM_BE(table[i]);
        uint64_t at = entry & QCOW2_OFFSET_MASK;

        if (entry & QCOW2_BITMAP_RESERVED ||
            (at && entry & QCOW2_BITMAP_ALL_ONES) ||
            qcow2_in_cluster(c->s, at)) {
            qcow2_check_report(
                c, "ERROR: no sense in a bitmap table's entry %" PRIx64, entry);
            c->res->corruptions++;
        } else if (at) {
            count(c, at, c->s->cluster_size);
        }
    }
}

static void count_directory(Qcow2Check *c, uint32_t n, uint64_t offset,
                            uint64_t bytes)
{
    g_autofree uint8_t *directory = NULL;
    uint64_t pos = 0, tables = 0;
    int ret;

    count(c, offset, bytes);
    if (!in_file(c, offset, bytes)) {
        return;
    }
    directory = g_try_malloc(MAX(bytes, 1));
    ret = directory ? qcow2_read_file(c->s, offset, bytes, directory) : -ENOMEM;
    if (ret < 0) {
        cannot_read(c, "bitmap directory", offset, ret);
        return;
    }
    for (; n > 0; n--) {
        const uint8_t *e = directory + pos;
        uint64_t entry_bytes;

        if (bytes - pos < QCOW2_BITMAP_ENTRY_BYTES) {
            break;
        }
        entry_bytes = (uint64_t)QCOW2_BITMAP_ENTRY_BYTES +
                      (e[18] << 8 | e[19]) + qcow2_get_be32(e + 20);
        entry_bytes = (entry_bytes + 7) & ~UINT64_C(7);
        tables += qcow2_get_be32(e + 8);
        if (entry_bytes > bytes - pos ||
            tables > c->file_bytes / sizeof(uint64_t)) {
            break;
        }
        count_bitmap(c, qcow2_get_be64(e), qcow2_get_be32(e + 8));
        pos += entry_bytes;
    }
    if (n > 0) {
        qcow2_check_report(c, "ERROR: the bitmap directory makes no sense");
        c->res->corruptions++;
        c->unsafe = true;
    }
}

static void count_bitmaps(Qcow2Check *c)
{
    const GArray *extensions = c->s->extensions;
    guint i;

    if (!(c->s->autoclear & QCOW2_AUTOCLEAR_BITMAPS) || !extensions) {
        return; /* nobody may rely on them any more */
    }
    for (i = 0; i < extensions->len; i++) {
        const Qcow2Extension *e = &g_array_index(extensions, Qcow2Extension, i);

        if (e->magic == QCOW2_EXT_BITMAPS &&
            e->length >= QCOW2_BITMAPS_EXT_BYTES) {
            count_directory(c, qcow2_get_be32(e->data),
                            qcow2_get_be64(e->data + 16),
                            qcow2_get_be64(e->data + 8));
        }
    }
}

/* ---- refcounts ---------------------------------------------------------- */

/* A reason to make all of them anew */
static void bad_refblock(Qcow2Check *c, uint32_t index, const char *what)
{
    qcow2_check_report(
        c, "ERROR: refcount block %" PRIu32 ", entry %" PRIx64 ", %s", index,
        c->s->reftable[index], what);
    c->res->corruptions++;
    c->rebuild = true;
}

static void count_refblock(Qcow2Check *c, uint32_t index)
{
    uint64_t offset = c->s->reftable[index] & ~QCOW2_REFTABLE_RESERVED;

    if (c->s->reftable[index] & QCOW2_REFTABLE_RESERVED) {
        bad_refblock(c, index, "has reserved bits set");
    } else if (offset == 0) {
        return;
    } else if (qcow2_in_cluster(c->s, offset)) {
        bad_refblock(c, index, "is not aligned");
    } else if (!in_file(c, offset, 1)) {
        bad_refblock(c, index, "is beyond the end of the file");
    } else {
        count(c, offset, c->s->cluster_size);
        if (qcow2_refcount_read(c->s->refcount_order, c->refs,
                                qcow2_cluster_index(c->s, offset)) != 1) {
            bad_refblock(c, index, "is used for something else, too");
        }
    }
}

int qcow2_check_count(Qcow2Check *c, bool refcounts)
{
    Qcow2State *s = c->s;
    uint32_t i;
    int ret = qcow2_check_reserve(c, c->clusters + 2);

    if (ret < 0) {
        return ret;
    }
    c->rebuild = false;
    c->repeats = c->l1_entries = 0;
    count(c, 0, s->cluster_size);
    count_active(c);
    count_snapshots(c);
    count_bitmaps(c);
    if (refcounts) {
        count(c, s->reftable_offset, s->reftable_entries * sizeof(uint64_t));
        for (i = 0; i < s->reftable_entries; i++) {
            count_refblock(c, i);
        }
    }
    return 0;
}
