/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The threads that run what may wait: one for everything that changes the
 * graph, and a small pool for commands that do I/O. A command that hangs in a
 * dead file system holds up its own kind, never the main thread.
 */
#include "block/block.h"
#include "monitor-int.h"
#include "util/error.h"
#include "util/thread.h"

#define MAX_WORKERS 8

typedef struct Task {
    void (*func)(void *opaque);
    void *opaque;
} Task;

/* Threads that take tasks from one queue */
typedef struct Crew {
    Mutex lock;
    Cond cond;    /* a task, or stop; no wait has a deadline */
    GQueue tasks; /* lock */
    bool stop;    /* lock; when the queue is empty */
    guint idle;   /* lock; threads that wait */
    guint n;      /* lock; threads there are */
    guint max;
    bool graph_locked; /* tasks run with the graph mutex held */
    pthread_t threads[MAX_WORKERS];
} Crew;

static Crew management = {
    .lock = MUTEX_INIT,
    .cond = PTHREAD_COND_INITIALIZER,
    .tasks = G_QUEUE_INIT,
    .max = 1,
    .graph_locked = true,
};
static Crew workers = {
    .lock = MUTEX_INIT,
    .cond = PTHREAD_COND_INITIALIZER,
    .tasks = G_QUEUE_INIT,
    .max = MAX_WORKERS,
};

/* The next task, or NULL when there will be none */
static Task *crew_wait(Crew *crew)
{
    MUTEX_GUARD(&crew->lock);

    while (g_queue_is_empty(&crew->tasks) && !crew->stop) {
        crew->idle++;
        cond_wait(&crew->cond, &crew->lock);
        crew->idle--;
    }
    return g_queue_pop_head(&crew->tasks);
}

static void *crew_thread(void *opaque)
{
    Crew *crew = opaque;
    Task *task;

    while ((task = crew_wait(crew))) {
        if (crew->graph_locked) {
            bdrv_graph_lock();
        }
        task->func(task->opaque);
        if (crew->graph_locked) {
            bdrv_graph_unlock();
        }
        g_free(task);
    }
    return NULL;
}

/* Call with the lock held. 0 or an errno value */
static int crew_add_thread(Crew *crew)
{
    int r = pthread_create(&crew->threads[crew->n], NULL, crew_thread, crew);

    crew->n += r == 0;
    return r;
}

/* The first thread: with it, all tasks will be done. */
static bool crew_start(Crew *crew, GError **errp)
{
    int r;

    MUTEX_GUARD(&crew->lock);
    r = crew_add_thread(crew);
    if (r != 0) {
        error_setg_errno(errp, r, "Could not start a thread");
    }
    return r == 0;
}

static void crew_queue(Crew *crew, void (*func)(void *opaque), void *opaque)
{
    Task *task = g_new(Task, 1);

    MUTEX_GUARD(&crew->lock);
    *task = (Task){ func, opaque };
    g_queue_push_tail(&crew->tasks, task);
    if (crew->idle < g_queue_get_length(&crew->tasks) && crew->n < crew->max) {
        /* If there is none to be had, those that are there will do it. */
        crew_add_thread(crew);
    }
    cond_signal(&crew->cond);
}

static void crew_stop(Crew *crew)
{
    pthread_t thread;

    mutex_lock(&crew->lock);
    crew->stop = true;
    cond_broadcast(&crew->cond);
    while (crew->n > 0) {
        thread = crew->threads[crew->n - 1];
        mutex_unlock(&crew->lock);
        pthread_join(thread, NULL);
        mutex_lock(&crew->lock);
        crew->n--;
    }
    crew->stop = false;
    mutex_unlock(&crew->lock);
}

void management_queue(void (*func)(void *opaque), void *opaque)
{
    crew_queue(&management, func, opaque);
}

void worker_queue(void (*func)(void *opaque), void *opaque)
{
    crew_queue(&workers, func, opaque);
}

bool management_start(GError **errp)
{
    return crew_start(&management, errp) && crew_start(&workers, errp);
}

void management_stop(void)
{
    crew_stop(&workers);
    crew_stop(&management);
}
