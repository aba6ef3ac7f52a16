/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: block status, from L2 tables; and what the file below knows of data.
 *
 * A cluster that is allocated may be a hole in the file all the same: written
 * by zero-writes that keep their place, or never since it was preallocated. The file's
 * status cache tells for nothing what it knows of that. A probe would be asked
 * for each cluster, and mostly for no gain: it is worth it where much of the file
 * is known not to be there.
 */
#include <errno.h>

#include "block/qcow2-data-int.h"

/* Runs in the cache that one answer goes through */
#define MAX_LOOKS 64

/* ---- what the file knows ------------------------------------------------ */

/* The same answer from @offset on. *@n: how far, at most that */
static bool peek_zero(StatusCache *cache, int64_t offset, int64_t *n)
{
    int64_t length = status_cache_length(cache);
    int64_t end = MIN(offset + *n, length);
    int64_t at = offset, run;
    bool zero = false;
    int looks;

    for (looks = 0; at < end && looks < MAX_LOOKS; looks++) {
        bool here =
            status_cache_peek(cache, at, end - at, &run) == BLOCK_STATE_ZERO;

        if (at > offset && here != zero) {
            break;
        }
        zero = here;
        at += run;
    }
    if (at > offset) {
        *n = MIN(at, end) - offset;
    }
    return zero;
}

/* No question to anybody else, and none that is counted */
static bool known_zero(BlockDriverState *file, int64_t offset, int64_t *n)
{
    g_autoptr(StatusCache) cache = NULL;

    if (file->drv->kind != BLOCK_DRIVER_PROTOCOL) {
        return false; /* offsets are other ones where the cache is */
    }
    cache = bdrv_get_status_cache(file);
    return cache && peek_zero(cache, offset, n);
}

/*
 * Is much of the file not there, as where only tables were preallocated? Looked
 * at once: whatever the answer, status is right, only more or less precise.
 */
static bool is_sparse(Qcow2State *s)
{
    int sparse = __atomic_load_n(&s->file_sparse, __ATOMIC_RELAXED);
    BlockDriverState *file = s->bs->file->bs;

    if (sparse == 0) {
        g_autoptr(JsonObject) info = json_object_new();
        int64_t length = bdrv_child_getlength(s->bs->file);
        int64_t there;

        if (file->drv->get_info) {
            file->drv->get_info(file, info);
        }
        there = json_object_get_int_member_with_default(info, "actual-size",
                                                        length);
        sparse = there < length - length / 10 - 2 * s->cluster_size ? 1 : -1;
        __atomic_store_n(&s->file_sparse, sparse, __ATOMIC_RELAXED);
    }
    return sparse > 0;
}

/* What is below a run of data, with its range held. Flags or -errno */
static int status_below(Qcow2State *s, unsigned want, uint64_t host, int64_t *n)
{
    BlockDriverState *file = s->bs->file->bs;
    int64_t length = bdrv_child_getlength(s->bs->file);
    int64_t pnum, map;
    BlockDriverState *below;
    int ret;

    if (length < 0) {
        return length;
    }
    if ((int64_t)host >= length) {
        return 0;
    }
    *n = MIN(*n, length - (int64_t)host);
    if (!(want & BDRV_WANT_READ) && !is_sparse(s)) {
        return known_zero(file, host, n) ? BDRV_BLOCK_ZERO : 0;
    }
    ret = bdrv_block_status(file, want, host, *n, &pnum, &map, &below);
    if (ret >= 0 && pnum > 0) {
        *n = MIN(*n, pnum);
        return ret & (BDRV_BLOCK_ZERO | BDRV_BLOCK_PROBED);
    }
    return MIN(ret, 0);
}

/* ---- answers ------------------------------------------------------------ */

static int flags_of(Qcow2ClusterType type)
{
    switch (type) {
    case QCOW2_CLUSTER_NORMAL:
        return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID;
    case QCOW2_CLUSTER_COMPRESSED:
        return BDRV_BLOCK_DATA;
    case QCOW2_CLUSTER_ZERO_ALLOC:
        return BDRV_BLOCK_ZERO | BDRV_BLOCK_OFFSET_VALID;
    case QCOW2_CLUSTER_ZERO_PLAIN:
        return BDRV_BLOCK_ZERO;
    case QCOW2_CLUSTER_UNALLOCATED:
        break;
    }
    return 0;
}

/*
 * The same way up to the end of @bytes, through as many L2 tables as there are:
 * what is not in the file goes on in the next one.
 */
static int64_t extend(Qcow2State *s, Qcow2ClusterType type, int64_t offset,
                      int64_t n, int64_t bytes)
{
    Qcow2ClusterType next;
    uint64_t host;
    bool copied;
    int64_t more;
    int looks;

    if (type != QCOW2_CLUSTER_UNALLOCATED && type != QCOW2_CLUSTER_ZERO_PLAIN) {
        return n;
    }
    for (looks = 0; n < bytes && looks < MAX_LOOKS; looks++) {
        if (qcow2_map(s, offset + n, bytes - n, &next, &host, &more, &copied) <
                0 ||
            next != type) {
            break;
        }
        n += more;
    }
    return n;
}

/*
 * A run of data, which nobody moves while the file is asked about its place: its
 * zeroes would be somebody else's.
 */
static int status_of_data(Qcow2State *s, unsigned want, int64_t offset,
                          int64_t *pnum, Qcow2ClusterType *type, uint64_t *host)
{
    RangeHold hold;
    bool copied;
    int ret = qcow2_hold(s, &hold, offset, *pnum, false);

    if (ret < 0) {
        return ret;
    }
    ret = qcow2_map(s, offset, *pnum, type, host, pnum, &copied);
    if (ret == 0) {
        ret = flags_of(*type);
    }
    if (ret >= 0 && *type == QCOW2_CLUSTER_NORMAL) {
        int below = status_below(s, want, *host, pnum);

        /* Zeroes that have a place are data, too, as in QEMU. */
        ret = below < 0 ? below : ret | below;
    }
    range_lock_release(s->ranges, &hold);
    return ret;
}

int qcow2_block_status(BlockDriverState *bs, unsigned want, int64_t offset,
                       int64_t bytes, int64_t *pnum, int64_t *map,
                       BlockDriverState **file)
{
    Qcow2State *s = bs->opaque;
    Qcow2ClusterType type;
    uint64_t host;
    bool copied;
    int ret = qcow2_map(s, offset, bytes, &type, &host, pnum, &copied);

    if (ret < 0) {
        return ret;
    }
    if (type == QCOW2_CLUSTER_NORMAL &&
        (want & (BDRV_WANT_ZERO | BDRV_WANT_READ))) {
        ret = status_of_data(s, want, offset, pnum, &type, &host);
    } else {
        *pnum = extend(s, type, offset, *pnum, bytes);
        ret = flags_of(type);
    }
    if (ret >= 0 && (ret & BDRV_BLOCK_OFFSET_VALID)) {
        *map = host;
        *file = bs->file->bs;
    } else {
        *map = 0;
        *file = bs;
    }
    return ret;
}
