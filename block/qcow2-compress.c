/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: compressed clusters are written.
 *
 * Each cluster of the guest's disk by itself, in four steps: it is packed, with no
 * lock at all, so that many threads do that at once; under s->lock it gets a place
 * in the file; the data is written; and under s->lock its L2 entry is made. It has
 * its range exclusively from the second step on. If the third fails, the place goes
 * back, and nothing has changed.
 *
 * Places begin at any byte. Each is behind the one before, in the same cluster of
 * the file, or beyond its end if the next one happens to be free; a cluster of the
 * file counts one reference for each that touches it. What is given up within a
 * cluster is not used again before all of it is free: qcow2.h's rule 3 holds for
 * clusters, and so it does for places.
 */
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "block/qcow2-data-int.h"
#include "block/qcow2-refcount.h"
#include "util/iov.h"

/* Windows of 4 KiB: that is what all who read such images can do. */
#define DEFLATE_WINDOW_BITS 12
#define DEFLATE_MEM_LEVEL 9

#define SECTOR 512

/* ---- packing ------------------------------------------------------------ */

/* What one request packs with */
typedef struct Packer {
    bool zstd;
    z_stream deflate;
    ZSTD_CCtx *context;
    uint8_t *in, *out; /* a cluster each */
    size_t size;       /* of these */
} Packer;

static void packer_free(Packer *p)
{
    if (p->zstd) {
        ZSTD_freeCCtx(p->context);
    } else {
        deflateEnd(&p->deflate);
    }
    free(p->in);
    free(p->out);
}

static int packer_init(Packer *p, const Qcow2State *s)
{
    bool ready;

    *p = (Packer){ .zstd = s->compression == QCOW2_COMPRESSION_ZSTD,
                   .size = s->cluster_size };
    p->in = malloc(p->size);
    p->out = malloc(p->size);
    if (p->zstd) {
        p->context = ZSTD_createCCtx();
        ready = p->context != NULL;
    } else {
        ready = deflateInit2(&p->deflate, Z_DEFAULT_COMPRESSION, Z_DEFLATED,
                             -DEFLATE_WINDOW_BITS, DEFLATE_MEM_LEVEL,
                             Z_DEFAULT_STRATEGY) == Z_OK;
    }
    if (!p->in || !p->out || !ready) {
        packer_free(p);
        return -ENOMEM;
    }
    return 0;
}

/* p->in to p->out: how many bytes that takes; 0: not less than it has. */
static size_t pack(Packer *p)
{
    z_stream *z = &p->deflate;
    size_t n;

    if (p->zstd) {
        n = ZSTD_compressCCtx(p->context, p->out, p->size - 1, p->in, p->size,
                              ZSTD_CLEVEL_DEFAULT);
        return ZSTD_isError(n) ? 0 : n;
    }
    if (deflateReset(z) != Z_OK) {
        return 0;
    }
    z->next_in = p->in;
    z->avail_in = p->size;
    z->next_out = p->out;
    z->avail_out = p->size - 1;
    return deflate(z, Z_FINISH) == Z_STREAM_END ? p->size - 1 - z->avail_out
                                                : 0;
}

/* ---- places ------------------------------------------------------------- */

/* Can the cluster at s->pack_offset count one more? 1 or 0, or -errno */
static int can_share(Qcow2State *s)
{
    uint64_t refcount;
    int ret = qcow2_get_refcount(s, qcow2_cluster_index(s, s->pack_offset),
                                 &refcount);

    return ret < 0 ? ret : refcount < qcow2_max_refcount(s);
}

/*
 * Room for @bytes, less than a cluster: where it begins, or -errno. To be given
 * back with qcow2_free_now(). s->lock held
 */
static int64_t alloc_bytes(Qcow2State *s, uint64_t bytes)
{
    int64_t new, offset;
    int share = 0;
    int ret;

    if (s->pack_offset) {
        share = can_share(s);
        if (share < 0) {
            return share;
        }
    }
    offset = s->pack_offset;
    if (share &&
        qcow2_in_cluster(s, offset) + (int64_t)bytes <= s->cluster_size) {
        ret = qcow2_update_refcounts(s, offset, bytes, 1);
        if (ret < 0) {
            return ret;
        }
    } else {
        new = qcow2_alloc_clusters(s, s->cluster_size);
        if (new < 0) {
            return new;
        }
        /* That may have made the old cluster free, and forgotten. */
        if (!share || s->pack_offset != (uint64_t)offset ||
            (int64_t)qcow2_round_up(s, offset) != new ||
            qcow2_update_refcounts(s, offset, 1, 1) < 0) {
            offset = new;
        }
    }
    s->pack_offset = offset + bytes;
    if (qcow2_in_cluster(s, s->pack_offset) == 0) {
        s->pack_offset = 0;
    }
    return offset;
}

/* The entry that leads there; or -EFBIG, where there is none */
static int make_entry(const Qcow2State *s, uint64_t offset, uint64_t bytes,
                      uint64_t *entry)
{
    unsigned offset_bits = 62 - (s->cluster_bits - 8);
    uint64_t more = (offset + bytes - 1) / SECTOR - offset / SECTOR;

    if (offset >> offset_bits) {
        return -EFBIG;
    }
    *entry = QCOW2_COMPRESSED | more << offset_bits | offset;
    return 0;
}

/*
 * A place for a cluster that has none; and the L2 table for its entry is this
 * image's own. s->lock held. *@entry is what leads to *@host.
 */
static int take_place(Qcow2State *s, int64_t offset, uint64_t bytes,
                      uint64_t *host, uint64_t *entry)
{
    uint64_t *l2, old;
    unsigned index;
    int64_t place;
    int ret = qcow2_get_own_l2(s, offset, &l2, &index);

    if (ret < 0) {
        return ret;
    }
    old = GUINT64_FROM_BE(l2[index]);
    qcow2_cache_put(s->l2_cache, (void **)&l2);
    if (old & (QCOW2_COMPRESSED | QCOW2_OFFSET_MASK)) {
        return -EIO; /* as in QEMU: nothing is overwritten */
    }
    place = alloc_bytes(s, bytes);
    if (place < 0) {
        return place;
    }
    *host = place;
    ret = make_entry(s, *host, bytes, entry);
    if (ret == 0 && !qcow2_check_overlap(s, *host, bytes, "compressed data")) {
        return -EIO; /* the place leaks, and the image is corrupt anyway */
    }
    if (ret < 0) {
        qcow2_free_now(s, *host, bytes);
    }
    return ret;
}

/* s->lock held */
static int link_place(Qcow2State *s, int64_t offset, uint64_t entry)
{
    unsigned index;
    uint64_t *l2;
    int ret = qcow2_get_own_l2(s, offset, &l2, &index);

    if (ret < 0) {
        return ret;
    }
    s->data_unflushed = true;
    l2[index] = GUINT64_TO_BE(entry);
    qcow2_cache_set_dirty(s->l2_cache, l2);
    qcow2_cache_put(s->l2_cache, (void **)&l2);
    return 0;
}

/* ---- requests ----------------------------------------------------------- */

/* What is packed in @buf becomes the contents of a cluster, whose range is held. */
static int write_packed(Qcow2State *s, int64_t offset, const uint8_t *buf,
                        size_t bytes)
{
    uint64_t host = 0, entry = 0;
    int ret;

    mutex_lock(&s->lock);
    ret = take_place(s, offset, bytes, &host, &entry);
    mutex_unlock(&s->lock);
    if (ret < 0) {
        return ret;
    }
    ret = qcow2_write_file(s, host, bytes, buf);
    mutex_lock(&s->lock);
    if (ret == 0) {
        ret = link_place(s, offset, entry);
    }
    if (ret < 0) {
        qcow2_free_now(s, host, bytes);
    }
    mutex_unlock(&s->lock);
    return ret;
}

/* One cluster, or what the disk has of it: the first @bytes of p->in */
static int write_cluster(Qcow2State *s, Packer *p, int64_t offset,
                         int64_t bytes)
{
    struct iovec whole = { p->in, bytes };
    RangeHold hold;
    size_t packed;
    int ret;

    memset(p->in + bytes, 0, p->size - bytes);
    packed = pack(p);
    if (packed == 0) {
        return qcow2_pwritev(s->bs, offset, bytes, &whole, 1, 0);
    }
    ret = qcow2_hold(s, &hold, offset, bytes, true);
    if (ret == 0) {
        ret = write_packed(s, offset, p->out, packed);
        range_lock_release(s->ranges, &hold);
    }
    return ret;
}

int qcow2_pwritev_compressed(Qcow2State *s, int64_t offset, int64_t bytes,
                             const struct iovec *iov, int niov)
{
    int ret = qcow2_may_write(s, offset + bytes);
    int64_t done = 0;
    Packer packer;

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    if (qcow2_in_cluster(s, offset) ||
        (qcow2_in_cluster(s, bytes) && offset + bytes != s->length)) {
        return -EINVAL;
    }
    ret = packer_init(&packer, s);
    if (ret < 0) {
        return ret;
    }
    while (ret == 0 && done < bytes) {
        int64_t n = MIN(bytes - done, s->cluster_size);

        iov_to_buf(iov, niov, done, packer.in, n);
        ret = write_cluster(s, &packer, offset + done, n);
        done += n;
    }
    packer_free(&packer);
    return ret;
}
