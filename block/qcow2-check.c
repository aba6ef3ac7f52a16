/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: the check. All references are counted, and compared with the refcounts.
 *
 * What it tells, and when it mends what, is as in QEMU: a cluster that is used
 * more often than its refcount says is a corruption, one that is used less is a
 * leak. Refcount blocks that make no sense, or clusters that are used and count
 * as free, are a reason to make all refcounts anew.
 */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2-check.h"
#include "util/error.h"

void qcow2_check_report(Qcow2Check *c, const char *fmt, ...)
{
    g_autofree char *line = NULL;
    va_list ap;

    if (!c->res->report) {
        return;
    }
    va_start(ap, fmt);
    line = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    c->res->report(c->res->opaque, line);
}

/* All that was found but on the way: in numbers */
static void move_to_fixed(int64_t *fixed, int64_t was, int64_t is)
{
    *fixed += MAX(was - is, 0);
}

/* New tables; then what is left is counted once more, with nobody listening. */
static int rebuild(Qcow2Check *c)
{
    BdrvCheckResult *res = c->res;
    BdrvCheckResult scratch = { 0 }, left = { 0 };
    int ret;

    qcow2_check_report(c, "Rebuilding the refcounts");
    c->fix = 0;
    c->res = &scratch;
    ret = qcow2_check_rebuild(c);
    if (ret == 0) {
        c->res = &left;
        memset(c->refs, 0, c->blocks << c->s->cluster_bits);
        ret = qcow2_check_count(c, true);
    }
    if (ret == 0) {
        qcow2_check_compare(c, 0);
    }
    c->res = res;
    if (ret < 0) {
        qcow2_check_report(c, "ERROR: refcounts could not be rebuilt: %s",
                           g_strerror(-ret));
        res->check_errors++;
        return ret;
    }
    move_to_fixed(&res->corruptions_fixed, res->corruptions, left.corruptions);
    move_to_fixed(&res->leaks_fixed, res->leaks, left.leaks);
    res->corruptions = left.corruptions;
    res->leaks = left.leaks;
    res->check_errors = left.check_errors;
    return 0;
}

static void mend_refcounts(Qcow2Check *c, const BdrvCheckResult *before,
                           unsigned fix)
{
    if (c->rebuild && fix & BDRV_FIX_ERRORS) {
        (void)rebuild(c);
    } else if (c->rebuild) {
        qcow2_check_report(c, "ERROR: the refcounts need to be rebuilt");
        c->res->check_errors++;
    } else if (c->res->leaks || c->res->corruptions) {
        c->res->leaks = before->leaks;
        c->res->corruptions = before->corruptions;
        c->res->check_errors = before->check_errors;
        qcow2_check_compare(c, fix);
    }
}

static int check(Qcow2Check *c, unsigned fix)
{
    BdrvCheckResult *res = c->res;
    BdrvCheckResult before;
    int ret = qcow2_check_count(c, true);

    if (ret < 0) {
        return ret;
    }
    before = *res;
    qcow2_check_compare(c, 0);
    if (fix && !c->unsafe) {
        mend_refcounts(c, &before, fix);
    }
    /* Flags may go by refcounts that are right. */
    qcow2_check_copied(c, !c->unsafe &&
                              (fix & BDRV_FIX_ERRORS ||
                               (fix & BDRV_FIX_LEAKS && !res->check_errors &&
                                !res->corruptions && !res->leaks)));
    res->image_end_offset = (c->highest + 1) << c->s->cluster_bits;
    return 0;
}

/* Nothing is wrong any more: who opens the image need not worry. */
static int mark_clean(Qcow2State *s, GError **errp)
{
    uint64_t flags = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;
    int ret = bdrv_flush(s->bs->file->bs);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not flush the repaired image");
        return ret;
    }
    if (!(s->incompatible & flags)) {
        return 0;
    }
    s->incompatible &= ~flags;
    return qcow2_update_header(s, errp);
}

static int check_locked(Qcow2State *s, BdrvCheckResult *res, unsigned fix,
                        GError **errp)
{
    Qcow2Check c = { .s = s, .res = res, .fix = fix };
    int64_t length = bdrv_child_getlength(s->bs->file);
    bool corrupt = qcow2_is_corrupt(s);
    int ret;

    if (length < 0) {
        error_setg_errno(errp, -length, "Could not get the file's length");
        return length;
    }
    c.file_bytes = length;
    c.clusters = qcow2_round_up(s, length) >> s->cluster_bits;
    c.seen = g_try_malloc(c.file_bytes / s->cluster_size / 8 + 1);
    /* While it is mended, its tables are written. */
    __atomic_store_n(&s->corrupt, corrupt && !fix, __ATOMIC_RELAXED);
    ret = c.seen ? check(&c, fix) : -ENOMEM;
    if (ret < 0) {
        error_setg_errno(errp, -ret,
                         "Could not check an image of %" PRId64 " bytes",
                         length);
    } else if (fix && !res->check_errors && !res->corruptions) {
        corrupt = false;
        ret = mark_clean(s, errp);
    }
    __atomic_store_n(&s->corrupt, corrupt || qcow2_is_corrupt(s),
                     __ATOMIC_RELAXED);
    qcow2_cache_clear(s->refblock_cache);
    qcow2_cache_clear(s->l2_cache);
    /* If there was something, the image was corrupt and tables were not written: what
     * is on the disk still refers to these. */
    g_array_set_size(s->freed, 0);
    s->freed_bytes = 0;
    s->pack_offset = 0;
    s->free_hint = s->run_hint = 0;
    g_free(c.refs);
    g_free(c.seen);
    return ret;
}

int qcow2_check(BlockDriverState *bs, BdrvCheckResult *result, unsigned fix,
                GError **errp)
{
    Qcow2State *s = bs->opaque;
    BdrvCheckResult fresh = {
        .total_clusters = ((s->length - 1) >> s->cluster_bits) + 1,
        .report = result->report,
        .opaque = result->opaque,
    };
    int ret;

    *result = fresh;
    MUTEX_GUARD(&s->lock);
    if (bdrv_is_read_only(bs)) {
        if (fix) {
            error_setg(errp, "Node '%s' is read-only", bs->node_name);
            return -EACCES;
        }
    } else if (!qcow2_is_corrupt(s)) {
        ret = qcow2_write_tables(s, true);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not write the tables");
            return ret;
        }
    }
    return check_locked(s, result, fix, errp);
}
