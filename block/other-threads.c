/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that do parts of requests.
 *
 * An errand belongs to whoever gave it until he is late for it; then it belongs to
 * the thread that does it. It counts as a request inside the gate of the one
 * it is a part of (blk_share_request()), so the graph stays as it is for both.
 */
#include "block/other-threads.h"

#include "block/block-int.h"

typedef struct Errand {
    int (*work)(void *opaque);
    void *opaque;
    void (*free_opaque)(void *opaque);
    BlockBackend *blk;
    BdrvCancel *cancel;
    /* threads->lock */
    bool given, done, late;
    int ret;
} Errand;

struct OtherThreads {
    unsigned max;
    Mutex lock;
    Cond wanted;  /* by threads: there is an errand; broadcast */
    Cond changed; /* by those who wait: for one that is done, or a thread */
    GQueue *queue;
    GArray *threads; /* of pthread_t */
    unsigned idle;   /* threads that wait */
    unsigned busy;   /* errands that are not done */
    unsigned late;
    bool quit;
};

OtherThreads *other_threads_new(unsigned max)
{
    OtherThreads *t = g_new0(OtherThreads, 1);

    t->max = max;
    mutex_init(&t->lock);
    cond_init(&t->wanted);
    cond_init(&t->changed);
    t->queue = g_queue_new();
    t->threads = g_array_new(FALSE, FALSE, sizeof(pthread_t));
    return t;
}

void other_threads_free(OtherThreads *t)
{
    guint i;

    if (!t) {
        return;
    }
    mutex_lock(&t->lock);
    g_assert(t->busy == 0);
    t->quit = true;
    cond_broadcast(&t->wanted);
    mutex_unlock(&t->lock);
    for (i = 0; i < t->threads->len; i++) {
        pthread_join(g_array_index(t->threads, pthread_t, i), NULL);
    }
    g_array_unref(t->threads);
    g_queue_free(t->queue);
    cond_destroy(&t->changed);
    cond_destroy(&t->wanted);
    mutex_destroy(&t->lock);
    g_free(t);
}

unsigned other_threads_late(OtherThreads *t)
{
    MUTEX_GUARD(&t->lock);
    return t->late;
}

static void errand_free(Errand *e)
{
    bdrv_cancel_unref(e->cancel);
    g_free(e);
}

/*
 * Lock held; it is released in between. What is not late may be gone as soon as it
 * is done, and the node, if it is, as soon as its gate is left: but it waits for this
 * thread then (other_threads_free()).
 */
static void run_errand(OtherThreads *t, Errand *e)
{
    BlockBackend *blk = e->blk;
    bool late;
    int ret;

    mutex_unlock(&t->lock);
    blk_continue_begin(blk, e->cancel);
    ret = e->work(e->opaque);
    blk_continue_end();
    mutex_lock(&t->lock);
    e->ret = ret;
    e->done = true;
    late = e->late;
    t->busy--;
    t->late -= late;
    cond_broadcast(&t->changed);
    mutex_unlock(&t->lock);
    if (late) {
        e->free_opaque(e->opaque);
        errand_free(e);
    }
    blk_unshare_request(blk);
    mutex_lock(&t->lock);
}

static void *other_thread(void *opaque)
{
    OtherThreads *t = opaque;
    MUTEX_GUARD(&t->lock);

    for (;;) {
        Errand *e = g_queue_pop_head(t->queue);

        if (e) {
            run_errand(t, e);
        } else if (t->quit) {
            return NULL;
        } else {
            t->idle++;
            cond_wait(&t->wanted, &t->lock);
            t->idle--;
        }
    }
}

/* Lock held. 0 or -EAGAIN */
static int give(OtherThreads *t, Errand *e)
{
    pthread_t thread;

    if (t->idle < t->queue->length + 1 && t->threads->len < t->max) {
        if (pthread_create(&thread, NULL, other_thread, t) == 0) {
            g_array_append_val(t->threads, thread);
        } else if (t->threads->len == 0) {
            return -EAGAIN;
        }
    }
    t->busy++;
    g_queue_push_tail(t->queue, e);
    cond_broadcast(&t->wanted);
    return 0;
}

/* Lock held. 0: it is done; or why it is not waited for any longer */
static int give_and_wait(OtherThreads *t, Errand *e, int64_t deadline_us)
{
    BdrvCancel *cancel = bdrv_request_cancel();
    int ret = 0;

    while (ret == 0 && t->busy >= t->max) {
        ret = bdrv_wait(&t->changed, &t->lock, deadline_us, cancel);
    }
    if (ret == 0) {
        ret = give(t, e);
    }
    e->given = ret == 0;
    while (ret == 0 && !e->done) {
        ret = bdrv_wait(&t->changed, &t->lock, deadline_us, cancel);
    }
    return e->done ? 0 : ret;
}

int other_threads_do(OtherThreads *t, int64_t deadline_us,
                     int (*work)(void *opaque), void *opaque,
                     void (*free_opaque)(void *opaque))
{
    BlockBackend *blk = blk_share_request();
    BdrvCancel *cancel = NULL;
    Errand *e;
    int ret;

    if (!blk) {
        ret = work(opaque);
        free_opaque(opaque);
        return ret;
    }
    e = g_new0(Errand, 1);
    *e = (Errand){ .work = work,
                   .opaque = opaque,
                   .free_opaque = free_opaque,
                   .blk = blk,
                   .cancel = bdrv_cancel_new() };
    mutex_lock(&t->lock);
    ret = give_and_wait(t, e, deadline_us);
    if (ret < 0 && e->given) {
        e->late = true;
        t->late++;
        cancel = bdrv_cancel_ref(e->cancel);
    }
    mutex_unlock(&t->lock);
    if (cancel) {
        bdrv_cancel(cancel);
        bdrv_cancel_unref(cancel);
        return ret;
    }
    if (ret < 0) {
        blk_unshare_request(blk);
    } else {
        ret = e->ret;
    }
    free_opaque(opaque);
    errand_free(e);
    return ret;
}
