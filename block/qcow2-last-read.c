/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: the compressed cluster that was read last, unpacked, so that small
 * reads in a row unpack it once.
 *
 * It is known by its L2 entry. Who reads holds the range in the guest's disk, who
 * gives up the place of a compressed cluster holds it exclusively and says so
 * here: so nothing is remembered of a place that is somebody else's by now.
 */
#include <string.h>

#include "block/qcow2.h"
#include "util/iov.h"

struct Qcow2LastRead {
    Mutex lock;
    uint64_t l2_entry; /* 0: none, which no compressed cluster has */
    uint8_t *cluster;
};

/* Made by the first reader; NULL before */
static struct Qcow2LastRead *get(Qcow2State *s)
{
    return __atomic_load_n(&s->last_read, __ATOMIC_ACQUIRE);
}

static struct Qcow2LastRead *get_or_make(Qcow2State *s)
{
    struct Qcow2LastRead *last;
    MUTEX_GUARD(&s->lock);

    last = get(s);
    if (!last) {
        last = g_new0(struct Qcow2LastRead, 1);
        mutex_init(&last->lock);
        __atomic_store_n(&s->last_read, last, __ATOMIC_RELEASE);
    }
    return last;
}

static bool copy_known(struct Qcow2LastRead *last, uint64_t l2_entry,
                       int64_t from, const struct iovec *iov, int niov)
{
    MUTEX_GUARD(&last->lock);

    if (last->l2_entry != l2_entry) {
        return false;
    }
    iov_from_buf(iov, niov, 0, last->cluster + from, iov_size(iov, niov));
    return true;
}

/* Takes @cluster, and returns what was there instead. */
static uint8_t *remember(struct Qcow2LastRead *last, uint64_t l2_entry,
                         uint8_t *cluster)
{
    uint8_t *old;
    MUTEX_GUARD(&last->lock);

    old = last->cluster;
    last->cluster = cluster;
    last->l2_entry = l2_entry;
    return old;
}

int qcow2_preadv_compressed(Qcow2State *s, uint64_t l2_entry, int64_t from,
                            const struct iovec *iov, int niov)
{
    int64_t bytes = iov_size(iov, niov);
    struct Qcow2LastRead *last = get(s);
    uint8_t *cluster;
    int ret;

    if (!last) {
        last = get_or_make(s);
    }
    if (copy_known(last, l2_entry, from, iov, niov)) {
        return 0;
    }
    if (bytes == s->cluster_size && niov == 1) {
        return qcow2_read_compressed(s, l2_entry, iov->iov_base);
    }
    cluster = g_malloc(s->cluster_size);
    ret = qcow2_read_compressed(s, l2_entry, cluster);
    if (ret == 0) {
        iov_from_buf(iov, niov, 0, cluster + from, bytes);
        cluster = remember(last, l2_entry, cluster);
    }
    g_free(cluster);
    return ret;
}

void qcow2_forget_compressed(Qcow2State *s, uint64_t l2_entry)
{
    struct Qcow2LastRead *last = get(s);

    if (last) {
        MUTEX_GUARD(&last->lock);

        if (last->l2_entry == l2_entry) {
            last->l2_entry = 0;
        }
    }
}

void qcow2_last_read_free(Qcow2State *s)
{
    struct Qcow2LastRead *last = s->last_read;

    if (last) {
        g_free(last->cluster);
        mutex_destroy(&last->lock);
        g_free(last);
        s->last_read = NULL;
    }
}
