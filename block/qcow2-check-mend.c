/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: the check mends refcounts, and the flags that go with them. */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2-check.h"

/* As qcow2_get_refblock(), but an entry without sense is only an error, and
 * reserved bits do not count. */
static int get_refblock(Qcow2Check *c, uint64_t index, void **block)
{
    uint64_t offset = index < c->s->reftable_entries
                          ? c->s->reftable[index] & ~QCOW2_REFTABLE_RESERVED
                          : 0;

    *block = NULL;
    if (offset == 0) {
        return 0;
    }
    if (qcow2_in_cluster(c->s, offset) || offset >= c->file_bytes) {
        return -EIO;
    }
    return qcow2_cache_get(c->s->refblock_cache, offset, block);
}

/* Does any of the clusters of the block at @index count? */
static bool block_is_used(const Qcow2Check *c, uint64_t index)
{
    const uint8_t *p = c->refs + (index << c->s->cluster_bits);

    return index < c->blocks &&
           (*p || memcmp(p, p + 1, c->s->cluster_size - 1));
}

/* ---- refcounts, one by one ---------------------------------------------- */

static void compare_one(Qcow2Check *c, void *block, uint64_t cluster,
                        unsigned fix)
{
    BdrvCheckResult *res = c->res;
    unsigned order = c->s->refcount_order;
    uint64_t i = cluster % qcow2_refblock_entries(c->s);
    uint64_t is = block ? qcow2_refcount_read(order, block, i) : 0;
    uint64_t ought = qcow2_refcount_read(order, c->refs, cluster);
    bool leak = is > ought;
    bool mend = fix & (leak ? BDRV_FIX_LEAKS : BDRV_FIX_ERRORS);

    if (is || ought) {
        c->highest = MAX(c->highest, cluster);
    }
    if (is == ought) {
        return;
    }
    if (is == 0) {
        /* Whoever allocates for what is to be mended might take this one. */
        c->rebuild = true;
    }
    mend = mend && block;
    qcow2_check_report(
        c, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
        mend   ? "Repairing"
        : leak ? "Leaked"
               : "ERROR",
        cluster, is, ought);
    if (mend) {
        qcow2_refcount_write(order, block, i, ought);
        qcow2_cache_set_dirty(c->s->refblock_cache, block);
    }
    *(leak ? (mend ? &res->leaks_fixed : &res->leaks)
           : (mend ? &res->corruptions_fixed : &res->corruptions)) += 1;
}

/* All that one block is for; it cannot be read: only what is in use */
static void compare_unreadable(Qcow2Check *c, uint64_t from, uint64_t end,
                               int ret)
{
    for (; from < end; from++) {
        c->res->check_errors++;
        if (qcow2_refcount_read(c->s->refcount_order, c->refs, from)) {
            c->highest = MAX(c->highest, from);
        }
    }
    qcow2_check_report(c,
                       "ERROR: refcounts of clusters up to %" PRIu64
                       " could not be read: %s",
                       end - 1, g_strerror(-ret));
    c->rebuild = true;
}

void qcow2_check_compare(Qcow2Check *c, unsigned fix)
{
    uint64_t per_block = qcow2_refblock_entries(c->s);
    uint64_t cluster = 0;
    int ret;

    while (cluster < c->clusters) {
        uint64_t end = MIN((cluster / per_block + 1) * per_block, c->clusters);
        void *block;

        ret = get_refblock(c, cluster / per_block, &block);
        if (ret < 0) {
            compare_unreadable(c, cluster, end, ret);
            cluster = end;
            continue;
        }
        if (!block && !block_is_used(c, cluster / per_block)) {
            cluster = end;
            continue;
        }
        for (; cluster < end; cluster++) {
            compare_one(c, block, cluster, fix);
        }
        if (block) {
            qcow2_cache_put(c->s->refblock_cache, &block);
        }
    }
    ret = qcow2_cache_write(c->s->refblock_cache);
    if (ret == 0 && fix) {
        ret = qcow2_flush_file(c->s);
    }
    if (ret < 0) {
        qcow2_check_report(c, "ERROR: refcounts could not be written: %s",
                           g_strerror(-ret));
        c->res->check_errors++;
    }
}

/* ---- all of them anew --------------------------------------------------- */

/* Where new tables lie: @blocks refcount blocks, and then the refcount table */
typedef struct Plan {
    uint64_t first;    /* cluster */
    uint64_t blocks;   /* but those of nothing but free clusters */
    uint64_t clusters; /* of the refcount table */
} Plan;

static bool plan_has_block(const Qcow2Check *c, const Plan *plan,
                           uint64_t index)
{
    uint64_t per_block = qcow2_refblock_entries(c->s);
    uint64_t last = plan->first + plan->blocks + plan->clusters - 1;

    return (plan->first / per_block <= index && index <= last / per_block) ||
           block_is_used(c, index);
}

/* Blocks for all that is in use and for the tables themselves, at @first */
static Plan plan_at(const Qcow2Check *c, uint64_t first)
{
    uint64_t per_block = qcow2_refblock_entries(c->s);
    Plan plan = { .first = first, .blocks = 1, .clusters = 1 };
    uint64_t end, blocks, clusters, i;

    for (;;) {
        end = (first + plan.blocks + plan.clusters - 1) / per_block + 1;
        end = MAX(end, c->blocks);
        blocks = 0;
        clusters = 1;
        for (i = 0; i < end; i++) {
            if (plan_has_block(c, &plan, i)) {
                blocks++;
                clusters = qcow2_round_up(c->s, (i + 1) * sizeof(uint64_t)) >>
                           c->s->cluster_bits;
            }
        }
        if (blocks <= plan.blocks && clusters <= plan.clusters) {
            return plan;
        }
        plan.blocks = MAX(plan.blocks, blocks);
        plan.clusters = MAX(plan.clusters, clusters);
    }
}

/* In a gap of the file, or behind its end */
static Plan make_plan(const Qcow2Check *c)
{
    Plan end = plan_at(c, c->clusters);
    uint64_t need = end.blocks + end.clusters;
    uint64_t run = 0, i;

    for (i = 0; i < c->clusters; i++) {
        run =
            qcow2_refcount_read(c->s->refcount_order, c->refs, i) ? 0 : run + 1;
        if (run == need) {
            Plan plan = plan_at(c, i + 1 - run);

            if (plan.blocks + plan.clusters <= need) {
                return plan;
            }
            break;
        }
    }
    return end;
}

static int write_plan(Qcow2Check *c, const Plan *plan, uint64_t *table)
{
    uint64_t at = plan->first << c->s->cluster_bits;
    uint64_t i;
    int ret;

    for (i = 0; i < c->blocks; i++) {
        if (!block_is_used(c, i)) {
            continue;
        }
        ret = qcow2_write_file(c->s, at, c->s->cluster_size,
                               c->refs + (i << c->s->cluster_bits));
        if (ret < 0) {
            return ret;
        }
        table[i] = at;
        at += c->s->cluster_size;
    }
    at = (plan->first + plan->blocks) << c->s->cluster_bits;
    return qcow2_write_be64s(
        c->s, table, (plan->clusters << c->s->cluster_bits) / sizeof(uint64_t),
        at);
}

int qcow2_check_rebuild(Qcow2Check *c)
{
    Qcow2State *s = c->s;
    uint64_t *table = NULL;
    uint64_t end, i;
    uint32_t entries;
    Plan plan = make_plan(c); /* not where the present tables are */
    int ret;

    /* Never more than with those. */
    memset(c->refs, 0, c->blocks << s->cluster_bits);
    ret = qcow2_check_count(c, false);
    if (ret < 0) {
        return ret;
    }
    plan = plan_at(c, plan.first);
    end = plan.first + plan.blocks + plan.clusters;
    if (plan.clusters << s->cluster_bits > (uint64_t)QCOW2_MAX_REFTABLE_BYTES ||
        end > (uint64_t)QCOW2_MAX_FILE_BYTES >> s->cluster_bits) {
        return -EFBIG;
    }
    ret = qcow2_check_reserve(c, end);
    if (ret < 0) {
        return ret;
    }
    for (i = plan.first; i < end; i++) {
        qcow2_refcount_write(s->refcount_order, c->refs, i, 1);
    }
    entries = (plan.clusters << s->cluster_bits) / sizeof(uint64_t);
    table = g_new0(uint64_t, entries);
    ret = write_plan(c, &plan, table);
    if (ret == 0) {
        ret = qcow2_switch_reftable(
            s, table, (plan.first + plan.blocks) << s->cluster_bits, entries);
    }
    if (ret < 0) {
        g_free(table);
        return ret;
    }
    c->clusters = MAX(c->clusters, end);
    c->file_bytes = MAX(c->file_bytes, end << s->cluster_bits);
    c->seen = g_realloc(c->seen, c->file_bytes / s->cluster_size / 8 + 1);
    qcow2_cache_clear(s->refblock_cache);
    return 0;
}

/* ---- QCOW2_COPIED ------------------------------------------------------- */

/* Should @entry, with what it refers to at @offset, be another? */
static bool wrong_flag(Qcow2Check *c, uint64_t entry, const char *what,
                       bool mend)
{
    uint64_t cluster = qcow2_cluster_index(c->s, entry & QCOW2_OFFSET_MASK);
    uint64_t per_block = qcow2_refblock_entries(c->s);
    uint64_t refcount = 0;
    void *block;
    int ret = get_refblock(c, cluster / per_block, &block);

    if (ret < 0) {
        return false; /* it was told of when refcounts were compared */
    }
    if (block) {
        refcount = qcow2_refcount_read(c->s->refcount_order, block,
                                       cluster % per_block);
        qcow2_cache_put(c->s->refblock_cache, &block);
    }
    if ((refcount == 1) == !!(entry & QCOW2_COPIED)) {
        return false;
    }
    qcow2_check_report(
        c, "%s OFLAG_COPIED %s: entry=%" PRIx64 " refcount=%" PRIu64,
        mend ? "Repairing" : "ERROR", what, entry, refcount);
    return true;
}

/* @n flags in the @bytes at @offset of the file are mended by that. */
static void write_flags(Qcow2Check *c, unsigned own, const uint64_t *table,
                        uint32_t entries, uint64_t offset, uint64_t n)
{
    int ret = -EIO;

    if (qcow2_check_overlap_but(c->s, own, offset, entries * sizeof(uint64_t),
                                "flags")) {
        ret = qcow2_write_be64s(c->s, table, entries, offset);
    }
    if (ret < 0) {
        c->res->check_errors++;
        c->res->corruptions += n;
    } else {
        c->res->corruptions_fixed += n;
    }
}

static void copied_l2(Qcow2Check *c, uint64_t offset, bool mend)
{
    uint32_t n = c->s->cluster_size / sizeof(uint64_t);
    g_autofree uint64_t *l2 = g_malloc(c->s->cluster_size);
    uint64_t wrong = 0;
    uint32_t i;

    if (qcow2_read_file(c->s, offset, c->s->cluster_size, l2) < 0) {
        c->res->check_errors++;
        return;
    }
    for (i = 0; i < n; i++) {
        l2[i] = GUINT64_FROM_BE(l2[i]);
        if (!(l2[i] & QCOW2_COMPRESSED) && l2[i] & QCOW2_OFFSET_MASK &&
            wrong_flag(c, l2[i], "data cluster", mend)) {
            l2[i] ^= QCOW2_COPIED;
            wrong++;
        }
    }
    if (wrong && mend) {
        write_flags(c, QCOW2_OWN_L2, l2, n, offset, wrong);
    } else {
        c->res->corruptions += wrong;
    }
}

void qcow2_check_copied(Qcow2Check *c, bool mend)
{
    Qcow2State *s = c->s;
    uint32_t i;

    c->repeats = 0;
    qcow2_check_begin_l1(c);
    for (i = 0; i < s->l1_entries; i++) {
        uint64_t l2 = s->l1[i] & QCOW2_OFFSET_MASK;

        if (l2 == 0) {
            continue;
        }
        if (wrong_flag(c, s->l1[i], "L2 table", mend)) {
            if (mend) {
                s->l1[i] ^= QCOW2_COPIED;
                write_flags(c, QCOW2_OWN_L1, &s->l1[i], 1,
                            s->l1_offset + i * sizeof(uint64_t), 1);
            } else {
                c->res->corruptions++;
            }
        }
        if (qcow2_check_enter_l2(c, l2)) {
            copied_l2(c, l2, mend);
        }
    }
}
