/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: zero-writes and discards, by changing L2 entries.
 *
 * As in QEMU, a discarded cluster of a version 3 image reads as zeroes, whatever
 * the backing file has; version 2 cannot say that, and can only leave a cluster
 * to the backing file, if there is one.
 */
#include <errno.h>

#include "block/qcow2-data-int.h"

typedef enum Change {
    CHANGE_ZERO,       /* reads as zeroes, keeps its place */
    CHANGE_ZERO_UNMAP, /* gives it up */
    CHANGE_DISCARD,    /* the same, but what reads as zeroes is left as it is */
    CHANGE_FORGET,     /* is not allocated any more */
} Change;

static bool is_allocated(Qcow2ClusterType type)
{
    return type != QCOW2_CLUSTER_UNALLOCATED &&
           type != QCOW2_CLUSTER_ZERO_PLAIN;
}

/* Would what is not allocated be read from somewhere, now or later? */
static bool may_have_backing(const Qcow2State *s)
{
    return s->bs->backing || s->backing_file;
}

/* What an entry of that type becomes */
static uint64_t new_entry(const Qcow2State *s, uint64_t entry,
                          Qcow2ClusterType type, Change change)
{
    switch (change) {
    case CHANGE_FORGET:
        return 0;
    case CHANGE_DISCARD:
        if (!is_allocated(type) && !may_have_backing(s)) {
            return entry;
        }
        return s->version < 3 ? 0 : QCOW2_ZERO;
    case CHANGE_ZERO_UNMAP:
        return s->version < 3 ? 0 : QCOW2_ZERO;
    case CHANGE_ZERO:
        break;
    }
    if (s->version < 3) {
        return 0;
    }
    return type == QCOW2_CLUSTER_COMPRESSED ? QCOW2_ZERO : entry | QCOW2_ZERO;
}

/* Would the change leave all entries of a type as they are? */
static bool changes_nothing(const Qcow2State *s, Qcow2ClusterType type,
                            Change change)
{
    uint64_t example[] = {
        [QCOW2_CLUSTER_UNALLOCATED] = 0,
        [QCOW2_CLUSTER_ZERO_PLAIN] = QCOW2_ZERO,
        [QCOW2_CLUSTER_ZERO_ALLOC] = s->cluster_size | QCOW2_ZERO,
        [QCOW2_CLUSTER_NORMAL] = s->cluster_size,
        [QCOW2_CLUSTER_COMPRESSED] = QCOW2_COMPRESSED,
    };

    return new_entry(s, example[type], type, change) == example[type];
}

/* The clusters of one run, in one L2 table. s->lock held */
static int change_run(Qcow2State *s, int64_t offset, int64_t bytes,
                      Qcow2ClusterType type, Change change)
{
    unsigned index, n = bytes >> s->cluster_bits;
    uint64_t *l2;
    int ret = qcow2_get_own_l2(s, offset, &l2, &index);

    if (ret < 0) {
        return ret;
    }
    for (; n > 0; n--, index++) {
        uint64_t old = GUINT64_FROM_BE(l2[index]);
        uint64_t new = new_entry(s, old, type, change);

        l2[index] = GUINT64_TO_BE(new);
        if (!(new &QCOW2_OFFSET_MASK)) {
            qcow2_give_up(s, old);
        }
    }
    qcow2_cache_set_dirty(s->l2_cache, l2);
    qcow2_cache_put(s->l2_cache, (void **)&l2);
    return 0;
}

/* From @offset on; how many bytes, or -errno */
static int64_t change_some(Qcow2State *s, int64_t offset, int64_t bytes,
                           Change change)
{
    int64_t span = INT64_C(1) << (s->cluster_bits + s->l2_bits);
    Qcow2ClusterType type;
    uint64_t host;
    bool copied;
    int64_t n;
    int ret;
    MUTEX_GUARD(&s->lock);

    ret = qcow2_lookup(s, offset, bytes, &type, &host, &n, &copied);
    if (ret < 0) {
        return ret;
    }
    if (changes_nothing(s, type, change)) {
        return n;
    }
    n = MIN(n, span - (offset & (span - 1)));
    ret = change_run(s, offset, n, type, change);
    return ret < 0 ? ret : n;
}

/* Whole clusters */
static int change_clusters(Qcow2State *s, int64_t offset, int64_t bytes,
                           Change change)
{
    int64_t done = 0, n = 0;

    while (n >= 0 && done < bytes) {
        n = change_some(s, offset + done, bytes - done, change);
        done += n;
    }
    return MIN(n, 0);
}

/* ---- parts of clusters -------------------------------------------------- */

/* Does it all read as zeroes, as far as block status tells? */
static bool reads_as_zero(Qcow2State *s, int64_t offset, int64_t bytes)
{
    int64_t end = MIN(offset + bytes, s->length);
    BlockDriverState *file;
    int64_t n, map;

    while (offset < end) {
        int ret = bdrv_block_status_above(s->bs, NULL, BDRV_WANT_ZERO, offset,
                                          end - offset, &n, &map, &file, NULL);

        if (ret < 0 || n == 0 || !(ret & BDRV_BLOCK_ZERO)) {
            return false;
        }
        offset += n;
    }
    return true;
}

typedef enum EdgeWay {
    EDGE_ZERO,  /* it reads as zeroes already */
    EDGE_WHOLE, /* so does the rest of the cluster */
    EDGE_WRITE, /* there is data around */
} EdgeWay;

typedef struct Edge {
    int64_t offset, bytes; /* within one cluster; 0: none */
    EdgeWay way;
    bool own; /* if data: in place */
    uint64_t host;
} Edge;

/* How can it be zeroed? 0 or -errno */
static int look_at_edge(Qcow2State *s, Edge *edge)
{
    int64_t start = edge->offset - qcow2_in_cluster(s, edge->offset);
    int64_t end = edge->offset + edge->bytes;
    Qcow2ClusterType type;
    int64_t n;
    bool own;
    int ret;

    if (edge->bytes == 0) {
        return 0;
    }
    mutex_lock(&s->lock);
    ret = qcow2_lookup_own(s, edge->offset, edge->bytes, &type, &edge->host, &n,
                           &own);
    mutex_unlock(&s->lock);
    if (ret < 0) {
        return ret;
    }
    edge->way = EDGE_WRITE;
    edge->own = type == QCOW2_CLUSTER_NORMAL && own;
    if (type == QCOW2_CLUSTER_ZERO_PLAIN || type == QCOW2_CLUSTER_ZERO_ALLOC ||
        (type == QCOW2_CLUSTER_UNALLOCATED && s->version < 3)) {
        edge->way = EDGE_ZERO;
    } else if (type == QCOW2_CLUSTER_UNALLOCATED &&
               reads_as_zero(s, start, edge->offset - start) &&
               reads_as_zero(s, end, start + s->cluster_size - end)) {
        edge->way = EDGE_WHOLE;
    }
    return 0;
}

static int write_edge(Qcow2State *s, const Edge *edge, int flags)
{
    g_autofree uint8_t *zeroes = NULL;
    struct iovec iov;
    Qcow2Slice slice;
    int ret;

    if (edge->own) {
        MUTEX_GUARD(&s->lock);

        if (!qcow2_check_overlap(s, edge->host, edge->bytes, "guest data")) {
            return -EIO;
        }
    }
    if (edge->own) {
        return bdrv_pwrite_zeroes(s->bs->file->bs, edge->host, edge->bytes,
                                  flags & BDRV_REQ_MAY_UNMAP);
    }
    zeroes = g_malloc0(edge->bytes);
    iov = (struct iovec){ zeroes, edge->bytes };
    qcow2_slice_init(&slice, &iov, 1);
    ret = qcow2_write_any(s, edge->offset, edge->bytes, &slice, 0);
    qcow2_slice_free(&slice);
    return ret;
}

static int zero_edge(Qcow2State *s, const Edge *edge, int flags, Change change)
{
    int64_t start = edge->offset - qcow2_in_cluster(s, edge->offset);

    if (edge->bytes == 0 || edge->way == EDGE_ZERO) {
        return 0;
    }
    if (edge->way == EDGE_WHOLE) {
        return change_clusters(s, start, s->cluster_size, change);
    }
    return write_edge(s, edge, flags);
}

/* ---- zero-writes -------------------------------------------------------- */

/* The range is held exclusively. */
static int zero_held(Qcow2State *s, int64_t offset, int64_t bytes, int flags)
{
    Change change =
        flags & BDRV_REQ_MAY_UNMAP ? CHANGE_ZERO_UNMAP : CHANGE_ZERO;
    int64_t end = offset + bytes;
    /* The end of the disk is as good as the end of a cluster. */
    int64_t whole_end = end == s->length ? (int64_t)qcow2_round_up(s, end)
                                         : end - qcow2_in_cluster(s, end);
    int64_t whole = MIN((int64_t)qcow2_round_up(s, offset), whole_end);
    Edge head = { .offset = offset }, tail = { .offset = end };
    int ret;

    if (whole < offset) {
        head.bytes = bytes; /* within one cluster */
    } else {
        head.bytes = MIN(whole, end) - offset;
        tail.offset = MIN(whole_end, end);
        tail.bytes = end - tail.offset;
    }
    ret = look_at_edge(s, &head);
    if (ret == 0) {
        ret = look_at_edge(s, &tail);
    }
    if (ret == 0 && (flags & BDRV_REQ_NO_FALLBACK) &&
        ((head.bytes && head.way == EDGE_WRITE) ||
         (tail.bytes && tail.way == EDGE_WRITE))) {
        return -ENOTSUP;
    }
    if (ret == 0) {
        ret = zero_edge(s, &head, flags, change);
    }
    if (ret == 0 && whole >= offset && whole < whole_end) {
        ret = change_clusters(s, whole, whole_end - whole, change);
    }
    return ret == 0 ? zero_edge(s, &tail, flags, change) : ret;
}

int qcow2_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        int flags)
{
    Qcow2State *s = bs->opaque;
    RangeHold hold;
    int ret = qcow2_may_write(s, offset + bytes);

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    if (s->version < 3 && may_have_backing(s)) {
        return -ENOTSUP;
    }
    ret = qcow2_hold(s, &hold, offset, bytes, true);
    if (ret == 0) {
        ret = zero_held(s, offset, bytes, flags);
        range_lock_release(s->ranges, &hold);
    }
    return ret;
}

/* ---- discards ----------------------------------------------------------- */

int qcow2_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    Qcow2State *s = bs->opaque;
    int64_t end = offset + bytes;
    RangeHold hold;
    int ret = qcow2_may_write(s, end);

    if (ret < 0) {
        return ret;
    }
    if (s->version < 3 && may_have_backing(s)) {
        return -ENOTSUP;
    }
    offset = qcow2_round_up(s, offset);
    end = end == s->length ? (int64_t)qcow2_round_up(s, end)
                           : end - qcow2_in_cluster(s, end);
    if (offset >= end) {
        return 0;
    }
    ret = qcow2_hold(s, &hold, offset, end - offset, true);
    if (ret == 0) {
        ret = change_clusters(s, offset, end - offset, CHANGE_DISCARD);
        range_lock_release(s->ranges, &hold);
    }
    return ret;
}

int qcow2_discard_all(Qcow2State *s, int64_t offset, int64_t bytes)
{
    int64_t start = qcow2_round_up(s, offset);
    int64_t end = qcow2_round_up(s, offset + bytes);

    return start < end ? change_clusters(s, start, end - start, CHANGE_FORGET)
                       : 0;
}
