/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: writes. In place where clusters are the image's own; otherwise to new
 * ones, run by run:
 *
 *  1. Under s->lock: look how far the run goes, make sure that L2 tables of our
 *     own are there for it, and take clusters for all of it, in a row.
 *  2. Without it: write the guest's data, and around it what the first and the
 *     last cluster held, in one request.
 *  3. Under s->lock: let the L2 entries lead there, and give up what they led to.
 *
 * If 2 fails, what was taken in 1 goes back, and nothing has changed.
 *
 * Clusters behind the end of the file need no zeroes written around the guest's
 * data: nobody ever wrote there, and nobody else will, so they read as zeroes as
 * soon as the file is long enough, or even before.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2-data-int.h"
#include "util/iov.h"

/* Edges of so many zero bytes are worth a request of their own. */
#define ZERO_EDGES_MIN 65536
/* Of the memory that is read and written to copy edges */
#define EDGE_ALIGNMENT 4096

/* ---- in place ----------------------------------------------------------- */

/* The vector for [@skip, @skip + @n) of @slice. Returns its length. */
static int cut(Qcow2Slice *slice, int64_t skip, int64_t n, struct iovec *out)
{
    return iov_slice(slice->iov, slice->niov, skip, n, out);
}

static int write_host(Qcow2State *s, uint64_t host, int64_t n,
                      Qcow2Slice *slice, int64_t skip)
{
    int niov = cut(slice, skip, n, slice->part);

    return bdrv_pwritev(s->bs->file->bs, host, n, slice->part, niov, 0);
}

int qcow2_lookup_own(Qcow2State *s, int64_t offset, int64_t bytes,
                     Qcow2ClusterType *type, uint64_t *host, int64_t *pnum,
                     bool *own)
{
    int ret = qcow2_lookup(s, offset, bytes, type, host, pnum, own);
    int64_t in = qcow2_in_cluster(s, offset);
    int64_t length, there;

    *own = *own &&
           (*type == QCOW2_CLUSTER_NORMAL || *type == QCOW2_CLUSTER_ZERO_ALLOC);
    if (ret < 0 || !*own) {
        return ret;
    }
    length = bdrv_child_getlength(s->bs->file);
    if (length < 0) {
        return length;
    }
    /* From the first cluster's begin to the end of the last that is there */
    there = (int64_t)qcow2_round_up(s, length) - ((int64_t)*host - in);
    if (there > 0) {
        *pnum = MIN(*pnum, there - in);
    } else {
        *own = false;
    }
    return 0;
}

/* Is there a run that can be written in place? 1 or 0, or -errno. s->lock held */
static int find_own(Qcow2State *s, int64_t offset, int64_t bytes,
                    uint64_t *host, int64_t *n)
{
    Qcow2ClusterType type;
    bool own;
    int ret = qcow2_lookup_own(s, offset, bytes, &type, host, n, &own);

    if (ret < 0 || type != QCOW2_CLUSTER_NORMAL || !own) {
        return ret;
    }
    return qcow2_check_overlap(s, *host, *n, "guest data") ? 1 : -EIO;
}

int64_t qcow2_write_own(Qcow2State *s, int64_t offset, int64_t bytes,
                        Qcow2Slice *slice, int64_t skip)
{
    int64_t done = 0, n;
    uint64_t host;
    int ret;

    while (done < bytes) {
        mutex_lock(&s->lock);
        ret = find_own(s, offset + done, bytes - done, &host, &n);
        mutex_unlock(&s->lock);
        if (ret <= 0) {
            return ret < 0 ? ret : done;
        }
        ret = write_host(s, host, n, slice, skip + done);
        if (ret < 0) {
            return ret;
        }
        done += n;
    }
    return done;
}

/* ---- 1: taking clusters ------------------------------------------------- */

/*
 * How far from @run->offset, up to @end, new clusters are needed; at least one
 * is, and what it holds is in @run->first. s->lock held
 */
static int find_run(Qcow2State *s, Qcow2Run *run, int64_t end)
{
    int64_t offset = run->offset;
    OldCluster old = run->first;
    bool own = false;
    int64_t n;
    int ret;

    while (offset < end) {
        old.offset = offset;
        ret = qcow2_lookup_own(s, offset, end - offset, &old.type, &old.host,
                               &n, &own);
        if (ret < 0) {
            return ret;
        }
        if (own) {
            break;
        }
        run->last = old;
        offset += n;
    }
    run->bytes = offset - run->offset;
    return 0;
}

/* Are there L2 tables of our own for all of it? s->lock held */
static int make_tables(Qcow2State *s, const Qcow2Run *run)
{
    int64_t span = INT64_C(1) << (s->cluster_bits + s->l2_bits);
    int64_t offset = run->offset;
    uint64_t *l2;
    unsigned index;
    int ret;

    while (offset < run->offset + run->bytes) {
        ret = qcow2_get_own_l2(s, offset, &l2, &index);
        if (ret < 0) {
            return ret;
        }
        qcow2_cache_put(s->l2_cache, (void **)&l2);
        offset += span - (offset & (span - 1));
    }
    return 0;
}

static int take_clusters(Qcow2State *s, Qcow2Run *run)
{
    int64_t length = bdrv_child_getlength(s->bs->file);
    int64_t host;
    int ret;

    if (length < 0) {
        return length;
    }
    ret = make_tables(s, run);
    if (ret < 0) {
        return ret;
    }
    host = qcow2_alloc_clusters(s, run->bytes);
    if (host < 0) {
        return host;
    }
    run->host = host;
    run->taken = true;
    /* Tables may have been written there since the length was asked for, but
     * not where these clusters are. */
    run->blank = host >= length;
    return 0;
}

int qcow2_begin_run(Qcow2State *s, Qcow2Run *run, int64_t from, int64_t end)
{
    int64_t limit = qcow2_round_up(s, end);
    int64_t n;
    bool own;
    int ret;

    memset(run, 0, sizeof(*run));
    run->offset = run->first.offset = from - qcow2_in_cluster(s, from);
    ret = qcow2_lookup_own(s, run->offset, limit - run->offset,
                           &run->first.type, &run->first.host, &n, &own);
    if (ret < 0) {
        return ret;
    }
    run->from = run->to = from;
    if (own) {
        if (run->first.type == QCOW2_CLUSTER_NORMAL) {
            return 0;
        }
        run->host = run->first.host;
        run->bytes = n;
        run->last = run->first;
    } else {
        ret = find_run(s, run, limit);
        if (ret == 0) {
            ret = take_clusters(s, run);
        }
        if (ret < 0) {
            return ret;
        }
    }
    run->to = MIN(run->offset + run->bytes, end);
    if (!qcow2_check_overlap(s, run->host, run->bytes, "guest data")) {
        return -EIO; /* the clusters leak, and the image is corrupt anyway */
    }
    return 0;
}

/* ---- 2: data and what is around it -------------------------------------- */

/* Part of a cluster as it was; behind the end of the disk are zeroes. */
static int read_edge(Qcow2State *s, const OldCluster *old, int64_t offset,
                     int64_t bytes, uint8_t *buf)
{
    int64_t n = MAX(MIN(bytes, s->length - offset), 0);
    struct iovec iov = { .iov_base = buf, .iov_len = n };
    uint64_t host = old->host;

    memset(buf + n, 0, bytes - n);
    if (old->type == QCOW2_CLUSTER_NORMAL) {
        host += offset - old->offset;
    }
    return n > 0 ? qcow2_read_old(s, old->type, host, offset, n, &iov, 1, 0)
                 : 0;
}

static bool has_zero_edges(const Qcow2State *s, const Qcow2Run *run)
{
    return (run->from == run->offset ||
            qcow2_reads_as_zero(s, run->first.type)) &&
           (run->to == run->offset + run->bytes ||
            qcow2_reads_as_zero(s, run->last.type));
}

/* The data alone suffices: the file has zeroes around, or gets them here. */
static int make_blank(Qcow2State *s, const Qcow2Run *run, bool *blank)
{
    int ret;

    *blank = run->blank;
    if (*blank || run->bytes - (run->to - run->from) < ZERO_EDGES_MIN) {
        return 0;
    }
    ret = bdrv_pwrite_zeroes(s->bs->file->bs, run->host, run->bytes,
                             BDRV_REQ_NO_FALLBACK);
    *blank = ret == 0;
    return ret == -ENOTSUP ? 0 : ret;
}

/* Edges are read into memory of ours, and all is written at once. */
static int write_with_edges(Qcow2State *s, const Qcow2Run *run,
                            Qcow2Slice *slice, int64_t skip)
{
    int64_t head = run->from - run->offset;
    int64_t tail = run->offset + run->bytes - run->to;
    int64_t tail_at = (head + EDGE_ALIGNMENT - 1) & ~(EDGE_ALIGNMENT - 1);
    int niov = 0, ret;
    void *mem;
    uint8_t *buf;

    ret = posix_memalign(&mem, EDGE_ALIGNMENT, tail_at + tail);
    if (ret) {
        return -ret;
    }
    buf = mem;
    if (head) {
        ret = read_edge(s, &run->first, run->offset, head, buf);
        slice->part[niov++] = (struct iovec){ buf, head };
    }
    niov += cut(slice, skip, run->to - run->from, slice->part + niov);
    if (ret == 0 && tail) {
        ret = read_edge(s, &run->last, run->to, tail, buf + tail_at);
        slice->part[niov++] = (struct iovec){ buf + tail_at, tail };
    }
    if (ret == 0) {
        ret = bdrv_pwritev(s->bs->file->bs, run->host, run->bytes, slice->part,
                           niov, 0);
    }
    free(mem);
    return ret;
}

static int write_run(Qcow2State *s, const Qcow2Run *run, Qcow2Slice *slice,
                     int64_t skip)
{
    int64_t head = run->from - run->offset;
    int64_t n = run->to - run->from;
    bool blank = n == run->bytes;
    int ret = 0;

    if (!blank && has_zero_edges(s, run)) {
        ret = make_blank(s, run, &blank);
    }
    if (ret < 0) {
        return ret;
    }
    return blank ? write_host(s, run->host + head, n, slice, skip)
                 : write_with_edges(s, run, slice, skip);
}

/* ---- 3: entries --------------------------------------------------------- */

void qcow2_give_up(Qcow2State *s, uint64_t l2_entry)
{
    if (l2_entry & QCOW2_COMPRESSED) {
        qcow2_forget_compressed(s, l2_entry);
        qcow2_free_compressed_later(s, l2_entry);
    } else if (l2_entry & QCOW2_OFFSET_MASK) {
        qcow2_free_later(s, l2_entry & QCOW2_OFFSET_MASK, s->cluster_size);
    }
}

/*
 * Let the entries of the run from @done on, as far as one L2 table goes, lead to its
 * clusters. How many bytes, or -errno. s->lock held
 */
static int64_t link_table(Qcow2State *s, const Qcow2Run *run, int64_t done)
{
    unsigned entries = 1u << s->l2_bits;
    uint64_t *l2;
    unsigned index;
    int ret = qcow2_get_own_l2(s, run->offset + done, &l2, &index);

    if (ret < 0) {
        return ret;
    }
    s->data_unflushed = true;
    for (; index < entries && done < run->bytes; index++) {
        uint64_t old = GUINT64_FROM_BE(l2[index]);

        l2[index] = GUINT64_TO_BE((run->host + done) | QCOW2_COPIED);
        if (run->taken) {
            qcow2_give_up(s, old);
        }
        done += s->cluster_size;
    }
    qcow2_cache_set_dirty(s->l2_cache, l2);
    qcow2_cache_put(s->l2_cache, (void **)&l2);
    return done;
}

int qcow2_link_run(Qcow2State *s, const Qcow2Run *run)
{
    int64_t done = 0, ret = 0;
    MUTEX_GUARD(&s->lock);

    while (ret >= 0 && done < run->bytes) {
        ret = link_table(s, run, done);
        if (ret >= 0) {
            done = ret;
        }
    }
    if (ret < 0 && run->taken) {
        qcow2_free_now(s, run->host + done, run->bytes - done);
    }
    return MIN(ret, 0);
}

void qcow2_abandon_run(Qcow2State *s, const Qcow2Run *run)
{
    MUTEX_GUARD(&s->lock);

    if (run->taken) {
        qcow2_free_now(s, run->host, run->bytes);
    }
}

/* ---- all together ------------------------------------------------------- */

/* One run; how many bytes, or -errno */
static int64_t write_one_run(Qcow2State *s, int64_t offset, int64_t bytes,
                             Qcow2Slice *slice, int64_t skip)
{
    Qcow2Run run;
    int ret;

    mutex_lock(&s->lock);
    ret = qcow2_begin_run(s, &run, offset, offset + bytes);
    mutex_unlock(&s->lock);
    if (ret < 0) {
        return ret;
    }
    if (run.bytes == 0) {
        return qcow2_write_own(s, offset, bytes, slice, skip);
    }
    ret = write_run(s, &run, slice, skip);
    if (ret < 0) {
        qcow2_abandon_run(s, &run);
        return ret;
    }
    ret = qcow2_link_run(s, &run);
    return ret < 0 ? ret : run.to - run.from;
}

int qcow2_write_any(Qcow2State *s, int64_t offset, int64_t bytes,
                    Qcow2Slice *slice, int64_t skip)
{
    int64_t done = 0, n = 0;

    while (n >= 0 && done < bytes) {
        n = write_one_run(s, offset + done, bytes - done, slice, skip + done);
        done += n;
    }
    return MIN(n, 0);
}
