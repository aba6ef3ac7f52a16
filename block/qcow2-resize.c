/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: the disk becomes longer or shorter.
 *
 * The file has what it needs for the new length before the header tells it, and
 * gives up what it does not need after: an image is whole at every moment.
 */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2.h"
#include "util/error.h"

static void set_length(Qcow2State *s, int64_t length)
{
    __atomic_store_n(&s->length, length, __ATOMIC_RELAXED);
}

static int write_l1(Qcow2State *s, const uint64_t *l1, uint64_t entries,
                    uint64_t offset)
{
    uint64_t bytes = qcow2_round_up(s, entries * sizeof(uint64_t));
    g_autofree uint64_t *buf = g_malloc0(bytes);
    uint64_t i;

    for (i = 0; i < entries; i++) {
        buf[i] = GUINT64_TO_BE(l1[i]);
    }
    return qcow2_write_file(s, offset, bytes, buf);
}

/*
 * A longer L1 table somewhere else; the header tells of it, and of the length that is
 * s->length now. s->lock held. Rule 4
 */
static int move_l1(Qcow2State *s, uint32_t entries, GError **errp)
{
    uint64_t bytes = (uint64_t)entries * sizeof(uint64_t);
    uint64_t old_offset = s->l1_offset;
    uint32_t old_entries = s->l1_entries;
    g_autofree uint64_t *old_l1 = NULL;
    uint64_t *l1;
    int64_t offset = qcow2_alloc_clusters(s, bytes);
    int ret;

    if (offset >= 0 && !qcow2_check_overlap(s, offset, bytes, "L1 table")) {
        offset = -EIO; /* the clusters leak, and the image is corrupt anyway */
    }
    if (offset < 0) {
        error_setg_errno(errp, -offset, "Failed to grow the L1 table");
        return offset;
    }
    l1 = g_malloc0(bytes);
    memcpy(l1, s->l1, old_entries * sizeof(uint64_t));
    ret = write_l1(s, l1, entries, offset);
    if (ret == 0) {
        s->data_unflushed = true;
        ret = qcow2_write_tables(s, false);
    }
    if (ret < 0) {
        g_free(l1);
        qcow2_free_now(s, offset, bytes);
        error_setg_errno(errp, -ret, "Failed to grow the L1 table");
        return ret;
    }
    old_l1 = s->l1;
    s->l1 = l1;
    s->l1_offset = offset;
    s->l1_entries = entries;
    ret = qcow2_update_header(s, errp);
    if (ret < 0) {
        /* Which of both the header has is not known: neither becomes free. */
        s->l1 = g_steal_pointer(&old_l1);
        s->l1_offset = old_offset;
        s->l1_entries = old_entries;
        g_free(l1);
        return ret;
    }
    if (old_entries) {
        qcow2_free_later(s, old_offset, old_entries * sizeof(uint64_t));
    }
    return 0;
}

static int grow_l1(Qcow2State *s, int64_t length, GError **errp)
{
    uint64_t entries = qcow2_l1_entries_for(s, length);
    MUTEX_GUARD(&s->lock);

    if (entries > QCOW2_MAX_L1_BYTES / sizeof(uint64_t)) {
        error_setg_errno(errp, EFBIG, "Failed to grow the L1 table");
        return -EFBIG;
    }
    return entries > s->l1_entries ? move_l1(s, entries, errp) : 0;
}

/* The header has the length that is s->length now; what was freed is. */
static int write_length(Qcow2State *s, GError **errp)
{
    int ret;
    MUTEX_GUARD(&s->lock);

    ret = qcow2_write_tables(s, true);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write the image's tables");
        return ret;
    }
    return qcow2_update_header(s, errp);
}

/* ---- longer ------------------------------------------------------------- */

/*
 * Zeroes in [@from, @to), where something else would be seen: what the last cluster
 * has behind the old end, and what a longer backing file has.
 */
static int zero_new(Qcow2State *s, int64_t from, int64_t to)
{
    BlockDriverState *bs = s->bs;
    int64_t backing = bs->backing ? bdrv_child_getlength(bs->backing) : 0;
    int64_t end = MIN(to, (int64_t)qcow2_round_up(s, from));
    Qcow2ClusterType type;
    uint64_t host;
    int64_t n;
    bool copied;
    int ret;

    if (backing < 0) {
        return backing;
    }
    if (from < end && backing <= from) {
        ret = qcow2_map(s, from, end - from, &type, &host, &n, &copied);
        if (ret < 0 || (type != QCOW2_CLUSTER_NORMAL &&
                        type != QCOW2_CLUSTER_COMPRESSED)) {
            return ret;
        }
    }
    end = MAX(end, MIN(to, backing));
    return from < end ? bdrv_pwrite_zeroes(bs, from, end - from, 0) : 0;
}

static int grow(Qcow2State *s, int64_t length, GError **errp)
{
    int64_t old = s->length;
    int ret = grow_l1(s, length, errp);

    if (ret < 0) {
        return ret;
    }
    set_length(s, length);
    ret = zero_new(s, old, length);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Failed to zero out the new area");
    } else {
        ret = write_length(s, errp);
    }
    if (ret < 0) {
        set_length(s, old);
    }
    return ret;
}

/* ---- shorter ------------------------------------------------------------ */

/* What is cut off is given up first, so that it is not found again if the disk
 * becomes longer; if then something fails, it is lost, as was asked for. */
static int shrink(Qcow2State *s, int64_t length, GError **errp)
{
    int64_t old = s->length;
    int64_t start = qcow2_round_up(s, length);
    int ret = start < old ? qcow2_discard_all(s, start, old - start) : 0;

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Failed to discard cropped clusters");
        return ret;
    }
    set_length(s, length);
    ret = write_length(s, errp);
    if (ret < 0) {
        set_length(s, old);
    }
    return ret;
}

int qcow2_truncate(BlockDriverState *bs, int64_t length, GError **errp)
{
    Qcow2State *s = bs->opaque;

    if (length % 512) {
        error_setg(errp,
                   "The new size must be a multiple of 512: %" PRId64 " is not",
                   length);
        return -EINVAL;
    }
    if (s->n_snapshots && s->version < 3) {
        error_setg(errp, "Can't resize a v2 image which has snapshots");
        return -ENOTSUP;
    }
    if (qcow2_is_corrupt(s)) {
        error_setg(errp, "qcow2: Image is corrupt");
        return -EIO;
    }
    if (length == s->length) {
        return 0;
    }
    if (!qcow2_bitmaps_check_resize(s, length, errp)) {
        return -ENOTSUP;
    }
    return length > s->length ? grow(s, length, errp) : shrink(s, length, errp);
}
