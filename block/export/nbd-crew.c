/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A connection and the crew of threads that serves it.
 *
 * The threads take turns: the one that has the turn reads the next request off
 * the socket, gives the turn away, does the request and sends the reply, and
 * comes back for another turn. So a request never changes hands, and as many
 * are in flight as there are threads.
 *
 * A connection begins with one thread, which does the handshake, and never has
 * fewer. Whoever gives the turn away while nobody waits for it asks for a
 * helper, up to nbd_limits.crew; a helper that finds nothing to do for a while
 * goes home. Helpers are limited for the whole daemon. When all are taken, the
 * connection that wants one waits in line, and a thread of a crew that is
 * larger by two or more leaves it after its request: shares become equal, and
 * a client that is slow to take its replies costs the others helpers, but
 * never their last thread.
 *
 * The end of a connection is the firing of its cancel: idle threads go home,
 * the others follow after their request, and the last one clears up. To hang up
 * on a client, its socket is shut down; whoever reads from it, or comes back to
 * do so, ends the connection. It is not closed, so that the descriptor stays
 * ours until nobody uses it.
 */
#include "block/export/nbd-int.h"

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/error.h"

NbdLimits nbd_limits = {
    .connections = 256,
    .helpers = 256,
    .crew = 16,
    .small_buffer = 256 * 1024,
    .kept_buffer = 2 * 1024 * 1024,
    .memory = 512 * 1024 * 1024,
    .handshake_us = 10 * G_USEC_PER_SEC,
    .idle_us = 2 * G_USEC_PER_SEC,
};

Mutex nbd_lock = MUTEX_INIT;

static struct {
    Cond ended;       /* nbd_lock: a connection has ended */
    GQueue all;       /* nbd_lock: of NbdConn, by link */
    GQueue waiting;   /* nbd_lock: of NbdConn, by wait_link */
    int n_waiting;    /* nbd_lock; read without it as a hint */
    unsigned helpers; /* nbd_lock: threads beyond the first of each */
} crews = { .all = G_QUEUE_INIT, .waiting = G_QUEUE_INIT };

static void __attribute__((constructor)) crews_init(void)
{
    cond_init(&crews.ended);
}

static void *thread_main(void *opaque);

/* ---- connections -------------------------------------------------------- */

static NbdConn *conn_new(int fd)
{
    NbdConn *conn = g_new0(NbdConn, 1);

    conn->fd = fd;
    conn->cancel = bdrv_cancel_new();
    conn->deadline = g_get_monotonic_time() + nbd_limits.handshake_us;
    conn->link.data = conn;
    conn->wait_link.data = conn;
    mutex_init(&conn->lock);
    mutex_init(&conn->send_lock);
    return conn;
}

static void conn_free(NbdConn *conn)
{
    close(conn->fd);
    bdrv_cancel_unref(conn->cancel);
    mutex_destroy(&conn->lock);
    mutex_destroy(&conn->send_lock);
    g_free(conn);
}

void nbd_conn_abort(NbdConn *conn)
{
    __atomic_store_n(&conn->hung_up, true, __ATOMIC_RELAXED);
    shutdown(conn->fd, SHUT_RDWR);
}

unsigned nbd_conn_count(void)
{
    MUTEX_GUARD(&nbd_lock);

    return crews.all.length;
}

void nbd_conn_abort_all(NbdExport *exp)
{
    MUTEX_GUARD(&nbd_lock);

    for (GList *l = crews.all.head; l; l = l->next) {
        NbdConn *conn = l->data;

        if (!exp || conn->inside == exp) {
            nbd_conn_abort(conn);
        }
    }
}

void nbd_conn_wait_all(void)
{
    MUTEX_GUARD(&nbd_lock);

    while (crews.all.length > 0) {
        bdrv_wait(&crews.ended, &nbd_lock, INT64_MAX, NULL);
    }
}

/* ---- the share-out of helpers ------------------------------------------- */

static bool spawn(NbdConn *conn, GError **errp)
{
    pthread_attr_t attr;
    pthread_t id;
    sigset_t all, old;
    int r;

    /* Signals are the main thread's business. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    r = pthread_create(&id, &attr, thread_main, conn);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r != 0) {
        error_setg_errno(errp, r, "Failed to start a thread for a client");
        return false;
    }
    return true;
}

/* nbd_lock held; a thread joins @conn's crew. */
static bool add_helper(NbdConn *conn)
{
    crews.helpers++;
    __atomic_store_n(&conn->threads, conn->threads + 1, __ATOMIC_RELAXED);
    if (!spawn(conn, NULL)) {
        /* Out of threads is like out of helpers, but for the waiting. */
        crews.helpers--;
        __atomic_store_n(&conn->threads, conn->threads - 1, __ATOMIC_RELAXED);
        return false;
    }
    return true;
}

/* nbd_lock held */
static void set_waiting(NbdConn *conn, bool waiting)
{
    if (waiting == conn->wants_helper) {
        return;
    }
    __atomic_store_n(&conn->wants_helper, waiting, __ATOMIC_RELAXED);
    if (waiting) {
        g_queue_push_tail_link(&crews.waiting, &conn->wait_link);
    } else {
        g_queue_unlink(&crews.waiting, &conn->wait_link);
    }
    __atomic_store_n(&crews.n_waiting, crews.waiting.length, __ATOMIC_RELAXED);
}

/* Nobody waits for the turn that was given away: get somebody. */
static void want_helper(NbdConn *conn)
{
    if (__atomic_load_n(&conn->threads, __ATOMIC_RELAXED) >=
            (int)nbd_limits.crew ||
        __atomic_load_n(&conn->wants_helper, __ATOMIC_RELAXED)) {
        return;
    }

    MUTEX_GUARD(&nbd_lock);

    if (conn->threads >= (int)nbd_limits.crew || conn->wants_helper ||
        bdrv_cancelled(conn->cancel)) {
        return;
    }
    if (crews.helpers >= nbd_limits.helpers) {
        set_waiting(conn, true);
    } else {
        add_helper(conn);
    }
}

/* nbd_lock held: the smallest of the crews that wait, the first of equals */
static NbdConn *smallest_waiting(void)
{
    NbdConn *best = NULL;

    for (GList *l = crews.waiting.head; l; l = l->next) {
        NbdConn *conn = l->data;

        if (!best || conn->threads < best->threads) {
            best = conn;
        }
    }
    return best;
}

/* nbd_lock held: one helper less somewhere; somebody waits for that */
static void pass_helper(void)
{
    NbdConn *conn;

    crews.helpers--;
    conn = smallest_waiting();
    if (conn) {
        set_waiting(conn, false);
        add_helper(conn);
    }
}

/* nbd_lock held */
static void leave_crew(NbdConn *conn)
{
    __atomic_store_n(&conn->threads, conn->threads - 1, __ATOMIC_RELAXED);
    if (conn->threads > 0) {
        pass_helper();
    }
}

/* After a request: does another crew need this thread more? Then it has left
 * its own. */
static bool yield_to_others(NbdConn *conn)
{
    NbdConn *other;

    if (!__atomic_load_n(&crews.n_waiting, __ATOMIC_RELAXED)) {
        return false;
    }

    MUTEX_GUARD(&nbd_lock);

    other = smallest_waiting();
    if (!other || other->threads + 1 >= conn->threads) {
        return false;
    }
    leave_crew(conn);
    return true;
}

/* Without work for a while: the last one stays. */
static bool leave_idle(NbdConn *conn)
{
    MUTEX_GUARD(&nbd_lock);

    if (conn->threads == 1) {
        return false;
    }
    leave_crew(conn);
    return true;
}

/* The connection ends. The last of the crew clears up. */
static void leave_ended(NbdConn *conn)
{
    NbdExport *exp = NULL;

    mutex_lock(&nbd_lock);
    set_waiting(conn, false);
    leave_crew(conn);
    if (conn->threads > 0) {
        mutex_unlock(&nbd_lock);
        return;
    }
    exp = conn->inside;
    conn->inside = NULL;
    mutex_unlock(&nbd_lock);

    if (exp) {
        block_export_put(&exp->common);
    }
    mutex_lock(&nbd_lock);
    g_queue_unlink(&crews.all, &conn->link);
    cond_broadcast(&crews.ended);
    mutex_unlock(&nbd_lock);
    conn_free(conn);
    nbd_server_conn_ended();
}

/* ---- turns -------------------------------------------------------------- */

/* conn->lock held */
static void idle_remove(NbdThread *thread)
{
    NbdThread **p = &thread->conn->idle;

    while (*p != thread) {
        p = &(*p)->next_idle;
    }
    *p = thread->next_idle;
    thread->is_idle = false;
}

/*
 * conn->lock held: wait until called. 0, or -ETIMEDOUT, or -ECANCELED. The
 * latest to come is the first to be called, so that its memory is still warm,
 * and those that are not needed become idle for good.
 */
static int wait_for_call(NbdThread *thread)
{
    NbdConn *conn = thread->conn;
    int64_t deadline = g_get_monotonic_time() + nbd_limits.idle_us;
    int ret = 0;

    thread->woken = false;
    thread->is_idle = true;
    thread->next_idle = conn->idle;
    conn->idle = thread;
    while (!thread->woken && ret == 0) {
        ret = bdrv_wait(&thread->cond, &conn->lock, deadline, conn->cancel);
    }
    if (thread->is_idle) {
        idle_remove(thread);
    }
    if (thread->woken) {
        conn->called = false;
        return 0;
    }
    return ret;
}

typedef enum Turn {
    TURN_TAKEN,
    TURN_LEFT_CREW, /* there was nothing to do */
    TURN_ENDED,     /* there will be no further requests */
} Turn;

static Turn take_turn(NbdThread *thread)
{
    NbdConn *conn = thread->conn;
    int ret;

    MUTEX_GUARD(&conn->lock);

    for (;;) {
        if (bdrv_cancelled(conn->cancel) ||
            __atomic_load_n(&conn->hung_up, __ATOMIC_RELAXED)) {
            return TURN_ENDED;
        }
        if (!conn->turn_taken) {
            conn->turn_taken = true;
            return TURN_TAKEN;
        }
        ret = wait_for_call(thread);
        if (ret == -ETIMEDOUT && leave_idle(conn)) {
            return TURN_LEFT_CREW;
        }
    }
}

/*
 * The socket is free for the next. At most one thread is called at a time: the
 * turn may meanwhile be taken by one that has just finished a request, which
 * saves waking another.
 */
static void pass_turn(NbdConn *conn)
{
    NbdThread *next;
    bool alone;

    mutex_lock(&conn->lock);
    conn->turn_taken = false;
    next = conn->called ? NULL : conn->idle;
    if (next) {
        idle_remove(next);
        next->woken = true;
        conn->called = true;
        cond_broadcast(&next->cond);
    }
    alone = !conn->called;
    mutex_unlock(&conn->lock);
    if (alone) {
        want_helper(conn);
    }
}

/* The life of a thread in a crew; false if it has left it when it returns */
static bool serve(NbdThread *thread)
{
    NbdConn *conn = thread->conn;
    bool more;
    Turn turn;

    while ((turn = take_turn(thread)) == TURN_TAKEN) {
        more = nbd_request_receive(thread);
        if (!more) {
            break;
        }
        pass_turn(conn);
        nbd_request_run(thread);
        nbd_buffer_relax(thread);
        if (yield_to_others(conn)) {
            return false;
        }
    }
    if (turn == TURN_LEFT_CREW) {
        return false;
    }
    bdrv_cancel(conn->cancel);
    return true;
}

static void *thread_main(void *opaque)
{
    NbdThread thread = { .conn = opaque };
    NbdConn *conn = opaque;
    bool member = true;

    pthread_setname_np(pthread_self(), "nbd");
    cond_init(&thread.cond);
    /* A helper comes to a connection that has no deadline any more. */
    if (conn->deadline == 0 || nbd_negotiate(conn)) {
        member = serve(&thread);
    }
    nbd_buffer_free(&thread);
    cond_destroy(&thread.cond);
    if (member) {
        leave_ended(conn);
    }
    return NULL;
}

bool nbd_conn_start(int fd, GError **errp)
{
    NbdConn *conn = conn_new(fd);

    mutex_lock(&nbd_lock);
    conn->threads = 1;
    g_queue_push_tail_link(&crews.all, &conn->link);
    mutex_unlock(&nbd_lock);
    if (!spawn(conn, errp)) {
        mutex_lock(&nbd_lock);
        g_queue_unlink(&crews.all, &conn->link);
        cond_broadcast(&crews.ended);
        mutex_unlock(&nbd_lock);
        conn_free(conn);
        return false;
    }
    return true;
}
