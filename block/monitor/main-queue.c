/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Work that other threads hand to the main thread: a list under a mutex and a
 * source of the main context that empties it. (g_idle_add() would do the same
 * behind locks that ThreadSanitizer cannot see.)
 */
#include "monitor-int.h"
#include "util/thread.h"

typedef struct Post {
    void (*func)(void *opaque);
    void *opaque;
} Post;

static Mutex lock = MUTEX_INIT;
static GQueue posts = G_QUEUE_INIT; /* of Post; lock */
static GSource *source;             /* main thread */

static bool have_posts(void)
{
    MUTEX_GUARD(&lock);

    return !g_queue_is_empty(&posts);
}

void main_post(void (*func)(void *opaque), void *opaque)
{
    Post *post = g_new(Post, 1);
    bool first;

    *post = (Post){ func, opaque };
    mutex_lock(&lock);
    first = g_queue_is_empty(&posts);
    g_queue_push_tail(&posts, post);
    mutex_unlock(&lock);
    if (first) {
        g_main_context_wakeup(NULL);
    }
}

void main_queue_run(void)
{
    GQueue batch;
    Post *post;

    mutex_lock(&lock);
    batch = posts;
    g_queue_init(&posts);
    mutex_unlock(&lock);
    while ((post = g_queue_pop_head(&batch))) {
        post->func(post->opaque);
        g_free(post);
    }
}

static gboolean source_prepare(GSource *self, gint *timeout)
{
    *timeout = -1;
    return have_posts();
}

static gboolean source_check(GSource *self)
{
    return have_posts();
}

static gboolean source_dispatch(GSource *self, GSourceFunc func, void *opaque)
{
    main_queue_run();
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = {
    .prepare = source_prepare,
    .check = source_check,
    .dispatch = source_dispatch,
};

void main_queue_init(void)
{
    source = g_source_new(&source_funcs, sizeof(GSource));
    g_source_set_name(source, "main-queue");
    g_source_attach(source, NULL);
}

void main_queue_cleanup(void)
{
    while (have_posts()) {
        main_queue_run();
    }
    g_source_destroy(source);
    g_source_unref(source);
    source = NULL;
}
