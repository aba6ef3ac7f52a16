/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of the driver "nbd", as those see them who make them: they queue, the
 * engine sends them, and they wait.
 *
 * A request stands on its maker's stack, and has its maker's buffer. So its maker
 * never leaves before it is done. Queued it is nobody else's, and can be given up
 * at once. Sent it is libnbd's: then the engine is told, which waits a while for the
 * reply and else breaks off the connection, upon which the other requests are
 * sent again on the next.
 *
 * When a connection is lost, what was sent and not answered is sent again, as in
 * QEMU. That is right for all of these: done twice they leave what they leave done
 * once, for nobody writes to the same place until they have ended.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block/nbd-client-int.h"

NbdConn *nbd_conn_new(void)
{
    NbdConn *conn = g_new0(NbdConn, 1);

    conn->refs = 1;
    mutex_init(&conn->lock);
    cond_init(&conn->opened);
    cond_init(&conn->ended);
    conn->close_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    conn->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return conn;
}

void nbd_conn_unref(NbdConn *conn)
{
    bool last;

    mutex_lock(&conn->lock);
    last = --conn->refs == 0;
    mutex_unlock(&conn->lock);
    if (!last) {
        return;
    }
    g_assert(!conn->first && conn->in_flight == 0);
    if (conn->close_fd >= 0) {
        close(conn->close_fd);
    }
    if (conn->kick_fd >= 0) {
        close(conn->kick_fd);
    }
    json_object_unref(conn->address);
    g_free(conn->export);
    g_free(conn->context);
    g_free(conn->node_name);
    g_clear_error(&conn->error);
    status_cache_unref(conn->cache);
    cond_destroy(&conn->opened);
    cond_destroy(&conn->ended);
    mutex_destroy(&conn->lock);
    g_free(conn);
}

void nbd_conn_kick(NbdConn *conn)
{
    if (!conn->kicked) {
        conn->kicked = true;
        eventfd_write(conn->kick_fd, 1);
    }
}

/* ---- the queue ---------------------------------------------------------- */

/* Lock held, as for all that follows but nbd_conn_run() */
static void queue_append(NbdConn *conn, NbdRequest *req)
{
    req->state = NBD_REQUEST_QUEUED;
    req->next = NULL;
    req->prev = conn->last;
    if (conn->last) {
        conn->last->next = req;
    } else {
        conn->first = req;
    }
    conn->last = req;
}

static void queue_remove(NbdConn *conn, NbdRequest *req)
{
    if (req->prev) {
        req->prev->next = req->next;
    } else {
        conn->first = req->next;
    }
    if (req->next) {
        req->next->prev = req->prev;
    } else {
        conn->last = req->prev;
    }
}

NbdRequest *nbd_conn_next(NbdConn *conn)
{
    NbdRequest *req = conn->first;
    int slot = 0;

    if (!req || !conn->up || conn->in_flight == NBD_CLIENT_REQUESTS) {
        return NULL;
    }
    while (conn->sent[slot]) {
        slot++;
    }
    queue_remove(conn, req);
    req->state = NBD_REQUEST_SENT;
    req->slot = slot;
    conn->sent[slot] = req;
    conn->in_flight++;
    return req;
}

static void slot_remove(NbdRequest *req)
{
    if (req->state == NBD_REQUEST_SENT) {
        req->conn->sent[req->slot] = NULL;
        req->conn->in_flight--;
    }
}

void nbd_request_done(NbdRequest *req, int ret)
{
    slot_remove(req);
    req->state = NBD_REQUEST_DONE;
    req->ret = ret;
    cond_broadcast(&req->changed);
}

void nbd_conn_fail_queue(NbdConn *conn, int ret)
{
    while (conn->first) {
        NbdRequest *req = conn->first;

        queue_remove(conn, req);
        nbd_request_done(req, ret);
    }
}

/* Those that wait look at the time anew. */
void nbd_conn_lost(NbdConn *conn)
{
    NbdRequest *req;

    if (!conn->up) {
        return;
    }
    conn->up = false;
    conn->wait_until_us = g_get_monotonic_time() + conn->delay_us;
    for (req = conn->first; req; req = req->next) {
        cond_broadcast(&req->changed);
    }
}

void nbd_request_lost(NbdRequest *req)
{
    NbdConn *conn = req->conn;
    int64_t now = g_get_monotonic_time();

    nbd_conn_lost(conn);
    slot_remove(req);
    conn->lost_writes |= req->command == NBD_COMMAND_WRITE;
    /* Not from each loss anew: it may be what the server dies of. */
    req->end_us = MIN(req->end_us, now + conn->delay_us);
    queue_append(conn, req);
    if (req->given_up || now >= req->end_us) {
        queue_remove(conn, req);
        nbd_request_done(req, req->given_up ? req->given_up : -EIO);
    } else {
        cond_broadcast(&req->changed);
    }
}

/* ---- waiting ------------------------------------------------------------ */

static void give_up(NbdRequest *req, int ret)
{
    NbdConn *conn = req->conn;

    if (req->state == NBD_REQUEST_QUEUED) {
        queue_remove(conn, req);
        nbd_request_done(req, ret);
        return;
    }
    req->given_up = ret;
    req->abort_us = g_get_monotonic_time();
    if (ret == -ECANCELED) {
        req->abort_us += nbd_client_times.grace;
    }
    nbd_conn_kick(conn);
}

/* @patience_us: when to give up what nobody else can */
static void wait_done(NbdRequest *req, int64_t patience_us)
{
    NbdConn *conn = req->conn;
    BdrvCancel *cancel = bdrv_request_cancel();

    while (req->state != NBD_REQUEST_DONE) {
        bool parked = req->state == NBD_REQUEST_QUEUED && !conn->up;
        int64_t end_us = MIN(conn->wait_until_us, req->end_us);
        int ret;

        if (req->given_up) {
            cond_wait(&req->changed, &conn->lock);
            continue;
        }
        if (parked && g_get_monotonic_time() >= end_us) {
            give_up(req, -EIO);
            continue;
        }
        ret =
            bdrv_wait(&req->changed, &conn->lock,
                      parked ? MIN(end_us, patience_us) : patience_us, cancel);
        if (req->state == NBD_REQUEST_DONE) {
            break;
        }
        if (ret == -ECANCELED) {
            give_up(req, -ECANCELED);
        } else if (g_get_monotonic_time() >= patience_us) {
            give_up(req, -ETIMEDOUT);
        }
    }
}

int nbd_conn_run(NbdConn *conn, NbdRequest *req)
{
    int64_t patience_us = INT64_MAX;
    int ret = -EIO;

    req->conn = conn;
    req->end_us = INT64_MAX;
    req->given_up = 0;
    if (!bdrv_request_cancel()) {
        patience_us = g_get_monotonic_time() + nbd_client_times.patience;
    }
    cond_init(&req->changed);
    mutex_lock(&conn->lock);
    if (!conn->broken) {
        queue_append(conn, req);
        nbd_conn_kick(conn);
        wait_done(req, patience_us);
        ret = req->ret;
    }
    mutex_unlock(&conn->lock);
    cond_destroy(&req->changed);
    nbd_parts_free(req);
    return ret;
}
