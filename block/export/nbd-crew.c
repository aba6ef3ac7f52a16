/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The crew of threads that serves a connection.
 *
 * The threads take turns: the one that has the turn reads the next request off
 * the socket, gives the turn away, does the request and sends the reply, and
 * comes back for another turn. So a request never changes hands, and as many
 * are in flight as there are threads.
 *
 * To wake another thread takes longer than many a request. While requests are
 * done at once, a thread therefore keeps the turn while it does one, at the
 * risk that this one is slow. For a flush it never does; a read that the page cache
 * does not have tells so beforehand, and its thread gives the turn away; from any
 * other that is slow the watch (nbd-conn.c) takes it. Replies to these may wait for
 * each other, as long as further requests are there (nbd-out.c).
 *
 * A crew begins with one thread, which does the handshake, and never has fewer.
 * When the turn is given away and nobody waits for it, a helper is asked for, up
 * to nbd_limits.crew; a helper that finds nothing to do for a while goes home.
 *
 * The end of a connection is the firing of its cancel: idle threads go home,
 * the others follow after their request, and the last one clears up.
 */
#include "block/export/nbd-int.h"

/* A request is done at once if it takes no longer, with its reply. */
#define AT_ONCE_US 15
/* If it takes longer than that, the replies before it have waited enough. */
#define LONG_US 100
/* The score of a connection: one up for each request that was done at once,
 * two down for any other; from the middle on, the turn is kept. */
#define SCORE_MAX 32
#define SCORE_KEEP 16

void nbd_crew_init(NbdConn *conn)
{
    conn->score = SCORE_KEEP;
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

static bool has_ended(NbdConn *conn)
{
    return bdrv_cancelled(conn->cancel) || nbd_conn_hung_up(conn);
}

typedef enum Turn {
    TURN_TAKEN,
    TURN_LEFT_CREW, /* there was nothing to do */
    TURN_ENDED,     /* there will be no further requests */
} Turn;

static Turn take_turn(NbdThread *thread)
{
    NbdConn *conn = thread->conn;
    Turn turn = TURN_ENDED;
    int ret;

    mutex_lock(&conn->lock);
    while (!has_ended(conn)) {
        if (!conn->turn_taken) {
            conn->turn_taken = true;
            turn = TURN_TAKEN;
            break;
        }
        ret = wait_for_call(thread);
        if (ret == -ETIMEDOUT) {
            mutex_unlock(&conn->lock);
            /* Nobody waits for those who have left. */
            nbd_buffer_free(thread);
            if (nbd_conn_leave_idle(conn)) {
                return TURN_LEFT_CREW;
            }
            mutex_lock(&conn->lock);
        }
    }
    mutex_unlock(&conn->lock);
    return turn;
}

/*
 * conn->lock held: the socket is free for the next. Returns false if nobody is
 * there to take over. At most one thread is called at a time: the turn may
 * meanwhile be taken by one that has just finished a request, which saves
 * waking another.
 */
static bool release_turn(NbdConn *conn)
{
    NbdThread *next = conn->called ? NULL : conn->idle;

    conn->turn_taken = false;
    if (next) {
        idle_remove(next);
        next->woken = true;
        conn->called = true;
        cond_broadcast(&next->cond);
    }
    return conn->called;
}

void nbd_crew_pass_turn(NbdConn *conn)
{
    bool called;

    mutex_lock(&conn->lock);
    called = release_turn(conn);
    mutex_unlock(&conn->lock);
    if (!called) {
        nbd_conn_want_helper(conn);
    }
}

static void send_waiting(NbdConn *conn)
{
    if (nbd_out_waits(conn)) {
        nbd_out_send(conn);
    }
}

/* ---- keeping the turn --------------------------------------------------- */

/* A request begins, and @thread keeps the turn. */
static void begin_keeping(NbdThread *thread)
{
    NbdConn *conn = thread->conn;

    mutex_lock(&conn->lock);
    conn->keeper = thread;
    __atomic_add_fetch(&conn->kept, 1, __ATOMIC_SEQ_CST);
    mutex_unlock(&conn->lock);
    nbd_conn_wake_watch();
}

/* conn->lock held */
static void stop_keeping(NbdConn *conn)
{
    conn->keeper = NULL;
    __atomic_add_fetch(&conn->kept, 1, __ATOMIC_SEQ_CST);
}

/* The request has ended: does @thread still have the turn? */
static bool end_keeping(NbdThread *thread)
{
    NbdConn *conn = thread->conn;

    MUTEX_GUARD(&conn->lock);

    if (conn->keeper != thread) {
        return false;
    }
    stop_keeping(conn);
    return true;
}

void nbd_crew_will_wait(NbdThread *thread)
{
    NbdConn *conn = thread->conn;

    __atomic_store_n(&thread->may_hold, 0, __ATOMIC_RELAXED);
    thread->keeps = false;
    if (end_keeping(thread)) {
        nbd_crew_pass_turn(conn);
    }
    send_waiting(conn);
}

bool nbd_crew_take_turn_away(NbdConn *conn)
{
    __atomic_store_n(&conn->score, 0, __ATOMIC_RELAXED);

    MUTEX_GUARD(&conn->lock);

    if (!conn->keeper) {
        return false;
    }
    /* It may take longer yet, and others send without waiting for it. */
    __atomic_store_n(&conn->keeper->may_hold, 0, __ATOMIC_RELAXED);
    stop_keeping(conn);
    return !release_turn(conn);
}

/* ---- the life of a thread ----------------------------------------------- */

static bool keeps_turn(NbdConn *conn)
{
    return __atomic_load_n(&conn->score, __ATOMIC_RELAXED) >= SCORE_KEEP;
}

/* Do what was received, and remember whether it was quick. @keeps: the turn, unless
 * it has to wait. Returns how long it took, microseconds. */
static int64_t run_request(NbdThread *thread, bool keeps)
{
    NbdConn *conn = thread->conn;
    int64_t start = g_get_monotonic_time(), took;
    int score;

    thread->keeps = keeps;
    nbd_request_run(thread);
    nbd_buffer_relax(thread);

    took = g_get_monotonic_time() - start;
    score = __atomic_load_n(&conn->score, __ATOMIC_RELAXED);
    score += took <= AT_ONCE_US ? 1 : -2;
    __atomic_store_n(&conn->score, CLAMP(score, 0, SCORE_MAX),
                     __ATOMIC_RELAXED);
    return took;
}

/* Will it wait for the disk, for certain? */
static bool is_long(const NbdConn *conn, const NbdRequest *req)
{
    return req->type == NBD_CMD_FLUSH || (req->flags & NBD_CMD_FLAG_FUA) ||
           (req->type == NBD_CMD_WRITE && conn->exp->common.writethrough);
}

/* Is it to be expected that it takes no time? */
static bool is_short(const NbdConn *conn, const NbdRequest *req)
{
    return req->length <= NBD_OUT_BYTES && !is_long(conn, req) &&
           (req->type == NBD_CMD_READ || req->type == NBD_CMD_WRITE);
}

/* While @thread has the turn: send what waits. Does it have the turn still? */
static bool send_keeping_turn(NbdThread *thread)
{
    if (!nbd_out_waits(thread->conn)) {
        return true;
    }
    begin_keeping(thread);
    nbd_out_send(thread->conn);
    return end_keeping(thread);
}

/* Do what was received, keeping the turn. Does @thread have it still? */
static bool do_keeping_turn(NbdThread *thread)
{
    NbdConn *conn = thread->conn;
    bool is_quick = is_short(conn, &thread->req);

    if (is_quick && nbd_request_is_here(conn)) {
        __atomic_store_n(&thread->may_hold,
                         nbd_request_more(conn, &thread->req),
                         __ATOMIC_RELAXED);
    }
    begin_keeping(thread);
    if (!is_quick) {
        send_waiting(conn);
    }
    if (run_request(thread, is_quick) > LONG_US) {
        send_waiting(conn);
    }
    return end_keeping(thread);
}

/* Do what was received. Does @thread have the turn still? */
static bool do_request(NbdThread *thread)
{
    NbdConn *conn = thread->conn;
    bool mine = false;

    __atomic_store_n(&thread->may_hold, 0, __ATOMIC_RELAXED);
    if (keeps_turn(conn) && !is_long(conn, &thread->req)) {
        mine = do_keeping_turn(thread);
    } else {
        nbd_crew_pass_turn(conn);
        send_waiting(conn);
        run_request(thread, false);
    }
    if (!mine) {
        send_waiting(conn);
    }
    return mine;
}

/* Has all of the next request come, and can its data be received? Then replies
 * that wait may wait on. */
static bool is_next_here(NbdThread *thread)
{
    return nbd_request_is_here(thread->conn) &&
           nbd_buffer_has_room(thread, NBD_IN_BYTES);
}

/* While @thread has the turn: requests that need no thread. Does it have it still? */
static bool use_ring(NbdThread *thread)
{
    return !nbd_ring_is_for(thread) ||
           (send_keeping_turn(thread) && nbd_ring_serve(thread));
}

/* False if the thread has left the crew when it returns */
static bool serve(NbdThread *thread)
{
    NbdConn *conn = thread->conn;
    Turn turn = TURN_ENDED;
    bool mine = false;

    while (!has_ended(conn)) {
        if (!mine && (turn = take_turn(thread)) != TURN_TAKEN) {
            break;
        }
        mine = use_ring(thread);
        if (mine && !is_next_here(thread)) {
            mine = send_keeping_turn(thread);
        }
        if (mine) {
            if (!nbd_request_receive(thread)) {
                break;
            }
            mine = do_request(thread);
        }
        if (!mine && nbd_conn_should_yield(conn)) {
            nbd_buffer_free(thread);
            if (nbd_conn_yield(conn)) {
                return false;
            }
        }
    }
    if (turn == TURN_LEFT_CREW) {
        return false;
    }
    bdrv_cancel(conn->cancel);
    send_waiting(conn);
    return true;
}

void *nbd_crew_main(void *opaque)
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
    nbd_ring_free(&thread);
    nbd_buffer_free(&thread);
    cond_destroy(&thread.cond);
    if (member) {
        nbd_conn_leave(conn);
    }
    return NULL;
}
