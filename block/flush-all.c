/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The last flush, which must not wait for what hangs: each node is flushed by a
 * thread of its own, and who does not come back in time is left behind with
 * what it uses. These are the nodes without children, which have all the data, and
 * formats that keep tables in memory. A format is flushed as by a user of its node,
 * so that nothing below it changes meanwhile; who changes the graph and hangs
 * makes it take too long, and is in nobody else's way.
 */
#include "block/graph-int.h"

typedef struct Flush {
    BlockDriverState *bs;
    bool done; /* lock */
    int ret;   /* lock; valid if done */
} Flush;

typedef struct FlushAll {
    Mutex lock;
    Cond changed;
    guint refs; /* lock; the caller's and the threads' */
    guint left; /* lock; flushes that have not ended */
    guint n;
    Flush *flushes;
} FlushAll;

typedef struct Flusher {
    FlushAll *all;
    Flush *flush;
} Flusher;

/* Lock held; gives it back. */
static void unref(FlushAll *all)
{
    bool last = --all->refs == 0;

    mutex_unlock(&all->lock);
    if (last) {
        cond_destroy(&all->changed);
        mutex_destroy(&all->lock);
        g_free(all->flushes);
        g_free(all);
    }
}

/* Lock held */
static void flush_ended(FlushAll *all, Flush *flush, int ret)
{
    flush->ret = ret;
    flush->done = true;
    all->left--;
    cond_broadcast(&all->changed);
}

/* Does it have more to flush than what is below? */
static bool is_format(const BlockDriverState *bs)
{
    return bs->drv->kind == BLOCK_DRIVER_FORMAT && bs->drv->flush;
}

static int flush_format(BlockDriverState *bs)
{
    BlockBackend *blk = blk_new("the last flush", false, 0, BLK_PERM_ALL);
    g_autoptr(GError) err = NULL;
    int ret = -EPERM;
    bool ok;

    bdrv_graph_lock();
    ok = blk_attach(blk, bs, &err);
    bdrv_graph_unlock();
    if (ok) {
        ret = blk_flush(blk);
    }
    bdrv_graph_lock();
    blk_free(blk);
    bdrv_graph_unlock();
    return ret;
}

static void *flusher(void *opaque)
{
    Flusher *f = opaque;
    BlockDriverState *bs = f->flush->bs;
    int ret = is_format(bs) ? flush_format(bs) : bdrv_flush(bs);

    bdrv_unref_later(bs);
    mutex_lock(&f->all->lock);
    flush_ended(f->all, f->flush, ret);
    unref(f->all);
    g_free(f);
    return NULL;
}

/* Lock held, which keeps the thread from its end until it is counted */
static void start_flush(FlushAll *all, Flush *flush)
{
    Flusher *f = g_new(Flusher, 1);
    pthread_t thread;
    int r;

    *f = (Flusher){ all, flush };
    r = pthread_create(&thread, NULL, flusher, f);
    if (r != 0) {
        flush_ended(all, flush, -r);
        g_free(f);
        return;
    }
    pthread_detach(thread);
    bdrv_ref(flush->bs);
    all->refs++;
}

/* The nodes to flush, each with a reference */
static GPtrArray *nodes_to_flush(void)
{
    GPtrArray *nodes = bdrv_all_nodes();
    guint i;

    for (i = nodes->len; i-- > 0;) {
        BlockDriverState *bs = nodes->pdata[i];
        bool skip;

        graph_short_rdlock();
        skip =
            (bs->children->len > 0 && !is_format(bs)) || bdrv_is_read_only(bs);
        graph_short_rdunlock();
        if (skip) {
            g_ptr_array_remove_index(nodes, i);
            bdrv_unref_later(bs);
        }
    }
    return nodes;
}

bool bdrv_flush_all(int64_t deadline_us, GPtrArray *problems)
{
    g_autoptr(GPtrArray) nodes = nodes_to_flush();
    FlushAll *all = g_new0(FlushAll, 1);
    bool in_time = true;
    guint i;

    mutex_init(&all->lock);
    cond_init(&all->changed);
    all->refs = 1;
    all->n = all->left = nodes->len;
    all->flushes = g_new0(Flush, nodes->len);

    mutex_lock(&all->lock);
    for (i = 0; i < nodes->len; i++) {
        all->flushes[i].bs = nodes->pdata[i];
        start_flush(all, &all->flushes[i]);
    }
    while (all->left > 0 && in_time) {
        in_time = cond_wait_until(&all->changed, &all->lock, deadline_us);
    }
    in_time = all->left == 0;
    for (i = 0; i < all->n; i++) {
        const Flush *f = &all->flushes[i];

        if (!f->done || f->ret < 0) {
            g_ptr_array_add(problems,
                            g_strdup_printf("Could not flush node '%s': %s",
                                            bdrv_node_name(f->bs),
                                            f->done ? g_strerror(-f->ret)
                                                    : "it takes too long"));
        }
    }
    unref(all);
    for (i = 0; i < nodes->len; i++) {
        bdrv_unref_later(nodes->pdata[i]);
    }
    return in_time;
}
