/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections: their beginning and end, and what they share.
 *
 * Helpers are limited for the whole daemon. When all are taken, a connection
 * that wants one waits in line, and a thread of a crew that is larger by two
 * or more leaves it after its request: shares become equal, and a client that
 * is slow to take its replies costs the others helpers, but never their last
 * thread.
 *
 * The watch is a thread that looks after those who keep the turn of their
 * connection while they do a request, and sends the replies that wait behind a
 * slow one. It sleeps while there are none.
 *
 * To hang up on a client, its socket is shut down; whoever reads from it, or
 * comes back to do so, ends the connection. It is not closed, so that the
 * descriptor stays ours until nobody uses it.
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
    .hurry_us = G_USEC_PER_SEC,
    .idle_us = 2 * G_USEC_PER_SEC,
    .patience_us = 1000,
};

Mutex nbd_lock = MUTEX_INIT;

static struct {
    Cond ended;       /* nbd_lock: a connection has ended */
    GQueue all;       /* nbd_lock: of NbdConn, by link */
    GQueue waiting;   /* nbd_lock: of NbdConn, by wait_link */
    int n_waiting;    /* nbd_lock; read without it as a hint */
    unsigned helpers; /* nbd_lock: threads beyond the first of each */
    bool watching;    /* nbd_lock: there is a watch */
    Cond watch;       /* nbd_lock: it has something to do */
    int watch_sleeps; /* atomic; nobody keeps a turn, as far as it knows */
} conns = { .all = G_QUEUE_INIT, .waiting = G_QUEUE_INIT };

static void __attribute__((constructor)) conns_init(void)
{
    cond_init(&conns.ended);
    cond_init(&conns.watch);
}

/* ---- connections -------------------------------------------------------- */

static NbdConn *conn_new(int fd, int64_t handshake_us)
{
    NbdConn *conn = g_new0(NbdConn, 1);

    conn->fd = fd;
    conn->cancel = bdrv_cancel_new();
    conn->begun = g_get_monotonic_time();
    conn->deadline = handshake_us < INT64_MAX - conn->begun
                         ? conn->begun + handshake_us
                         : INT64_MAX;
    conn->link.data = conn;
    conn->wait_link.data = conn;
    conn->send_at = INT64_MAX;
    nbd_crew_init(conn);
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

    return conns.all.length;
}

int64_t nbd_conn_hurry(bool hang_up)
{
    int64_t now = g_get_monotonic_time(), next = INT64_MAX, end;

    MUTEX_GUARD(&nbd_lock);

    for (GList *l = conns.all.head; l; l = l->next) {
        NbdConn *conn = l->data;

        if (conn->inside || nbd_conn_hung_up(conn)) {
            continue;
        }
        end = conn->begun + nbd_limits.hurry_us;
        if (hang_up && end <= now) {
            nbd_conn_abort(conn);
        } else {
            next = MIN(next, end);
        }
    }
    return next;
}

void nbd_conn_abort_all(NbdExport *exp)
{
    MUTEX_GUARD(&nbd_lock);

    for (GList *l = conns.all.head; l; l = l->next) {
        NbdConn *conn = l->data;

        if (!exp || conn->inside == exp) {
            nbd_conn_abort(conn);
        }
    }
}

bool nbd_conn_wait_all(int64_t deadline_us)
{
    int ret = 0;

    MUTEX_GUARD(&nbd_lock);

    while (conns.all.length > 0 && ret == 0) {
        ret = bdrv_wait(&conns.ended, &nbd_lock, deadline_us, NULL);
    }
    return conns.all.length == 0;
}

/* ---- the share-out of helpers ------------------------------------------- */

static bool spawn(void *(*run)(void *opaque), void *opaque, GError **errp)
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
    r = pthread_create(&id, &attr, run, opaque);
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
    conns.helpers++;
    __atomic_store_n(&conn->threads, conn->threads + 1, __ATOMIC_RELAXED);
    if (!spawn(nbd_crew_main, conn, NULL)) {
        /* Out of threads is like out of helpers, but for the waiting. */
        conns.helpers--;
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
        g_queue_push_tail_link(&conns.waiting, &conn->wait_link);
    } else {
        g_queue_unlink(&conns.waiting, &conn->wait_link);
    }
    __atomic_store_n(&conns.n_waiting, conns.waiting.length, __ATOMIC_RELAXED);
}

/* nbd_lock held: nobody waits for the turn that was given away. */
static void get_helper(NbdConn *conn)
{
    if (conn->threads >= (int)nbd_limits.crew || conn->wants_helper ||
        bdrv_cancelled(conn->cancel)) {
        return;
    }
    if (conns.helpers >= nbd_limits.helpers) {
        set_waiting(conn, true);
    } else {
        add_helper(conn);
    }
}

void nbd_conn_want_helper(NbdConn *conn)
{
    /* Looked at without the lock: a crew that cannot grow is a busy one. */
    if (__atomic_load_n(&conn->threads, __ATOMIC_RELAXED) >=
            (int)nbd_limits.crew ||
        __atomic_load_n(&conn->wants_helper, __ATOMIC_RELAXED)) {
        return;
    }
    mutex_lock(&nbd_lock);
    get_helper(conn);
    mutex_unlock(&nbd_lock);
}

/* nbd_lock held: the smallest of the crews that wait, the first of equals */
static NbdConn *smallest_waiting(void)
{
    NbdConn *best = NULL;

    for (GList *l = conns.waiting.head; l; l = l->next) {
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

    conns.helpers--;
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

/* nbd_lock held: does another crew need a thread of @conn's more? */
static bool is_wanted_elsewhere(const NbdConn *conn)
{
    const NbdConn *other = smallest_waiting();

    return other && other->threads + 1 < conn->threads;
}

bool nbd_conn_should_yield(NbdConn *conn)
{
    if (!__atomic_load_n(&conns.n_waiting, __ATOMIC_RELAXED)) {
        return false;
    }

    MUTEX_GUARD(&nbd_lock);

    return is_wanted_elsewhere(conn);
}

bool nbd_conn_yield(NbdConn *conn)
{
    MUTEX_GUARD(&nbd_lock);

    if (!is_wanted_elsewhere(conn)) {
        return false;
    }
    leave_crew(conn);
    return true;
}

/* Without work for a while: the last one stays. */
bool nbd_conn_leave_idle(NbdConn *conn)
{
    MUTEX_GUARD(&nbd_lock);

    if (conn->threads == 1) {
        return false;
    }
    leave_crew(conn);
    return true;
}

/* nbd_lock held */
static void remove_conn(NbdConn *conn)
{
    g_queue_unlink(&conns.all, &conn->link);
    cond_broadcast(&conns.ended);
    if (conns.all.length == 0) {
        cond_broadcast(&conns.watch);
    }
}

/* The connection ends. The last of the crew clears up. */
void nbd_conn_leave(NbdConn *conn)
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
    remove_conn(conn);
    mutex_unlock(&nbd_lock);
    conn_free(conn);
    nbd_server_conn_ended();
}

/* ---- the watch ---------------------------------------------------------- */

/* Between attempts to send to a client that takes no replies */
#define SEND_AGAIN_US 1000
#define SEND_AGAIN_MAX_US (100 * 1000)

void nbd_conn_wake_watch(void)
{
    if (!__atomic_load_n(&conns.watch_sleeps, __ATOMIC_SEQ_CST)) {
        return;
    }
    mutex_lock(&nbd_lock);
    cond_broadcast(&conns.watch);
    mutex_unlock(&nbd_lock);
}

/* nbd_lock held: a request does not end; others wait behind it to be told that
 * they are done. Who does not take that is asked less and less often. */
static void watch_send(NbdConn *conn)
{
    int64_t now = g_get_monotonic_time();

    if (conn->send_at > now) {
        return;
    }
    if (nbd_out_try_send(conn)) {
        conn->send_at = INT64_MAX;
    } else {
        conn->send_at = now + conn->send_again;
        conn->send_again = MIN(2 * conn->send_again, SEND_AGAIN_MAX_US);
    }
}

/* nbd_lock held. False if no turn was kept since the last look. *@next: then
 * there is something to do (monotonic) */
static bool watch_look(int64_t *next)
{
    bool busy = false;

    *next = INT64_MAX;

    for (GList *l = conns.all.head; l; l = l->next) {
        NbdConn *conn = l->data;
        unsigned kept = __atomic_load_n(&conn->kept, __ATOMIC_SEQ_CST);

        busy = busy || kept % 2 == 1 || kept != conn->last_kept;
        if (kept % 2 == 1 && kept == conn->last_kept) {
            if (nbd_crew_take_turn_away(conn)) {
                get_helper(conn);
            }
            conn->send_at = 0;
            conn->send_again = SEND_AGAIN_US;
        }
        watch_send(conn);
        *next = MIN(*next, conn->send_at);
        conn->last_kept = kept;
    }
    return busy;
}

/* As long as there are connections */
static void *watch_main(void *opaque)
{
    int64_t deadline, next;

    pthread_setname_np(pthread_self(), "nbd-watch");
    mutex_lock(&nbd_lock);
    while (conns.all.length > 0) {
        deadline = g_get_monotonic_time() + nbd_limits.patience_us;
        if (!watch_look(&next)) {
            __atomic_store_n(&conns.watch_sleeps, 1, __ATOMIC_SEQ_CST);
            if (!watch_look(&next)) {
                deadline = INT64_MAX;
            }
        }
        bdrv_wait(&conns.watch, &nbd_lock, MIN(deadline, next), NULL);
        __atomic_store_n(&conns.watch_sleeps, 0, __ATOMIC_SEQ_CST);
    }
    conns.watching = false;
    mutex_unlock(&nbd_lock);
    return NULL;
}

/* ---- the beginning ------------------------------------------------------ */

bool nbd_conn_start(int fd, int64_t handshake_us, GError **errp)
{
    NbdConn *conn = conn_new(fd, handshake_us);
    bool ok;

    mutex_lock(&nbd_lock);
    conn->threads = 1;
    g_queue_push_tail_link(&conns.all, &conn->link);
    if (!conns.watching) {
        conns.watching = spawn(watch_main, NULL, errp);
    }
    ok = conns.watching && spawn(nbd_crew_main, conn, errp);
    if (!ok) {
        remove_conn(conn);
    }
    mutex_unlock(&nbd_lock);
    if (!ok) {
        conn_free(conn);
    }
    return ok;
}
