/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replies on their way out of an NBD connection.
 *
 * What a system call costs, and above all the waking of the client that waits
 * for it, is often more than what a request does. So replies to requests that
 * are done one after the other by one thread go out together: not all of them,
 * as client and server would wait for each other by turns, but as many as there
 * are requests left to do while the client gets up. Of a client with one request
 * at a time, none waits.
 *
 * Whoever sends, sends all that waits; and there is always somebody who will:
 *
 *   - the thread that has the turn, before it would wait for the client, before
 *     it gives the turn away, and behind a request that took its time;
 *   - the watch, if a request that was expected to be quick does not end: it
 *     tells its thread to hold nothing back any more, and sends what waits.
 *
 * Data is not copied: it stays in the buffer of the thread that did the request,
 * and that thread uses another part of its buffer until all was sent.
 */
#include "block/export/nbd-int.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define PAGE ((size_t)4096)

/* send_lock held */
static void clear(NbdOut *out)
{
    out->first = out->end = 0;
    out->heads_used = 0;
    out->bytes = 0;
    out->held = 0;
    __atomic_store_n(&out->sent, out->sent + 1, __ATOMIC_RELEASE);
    __atomic_store_n(&out->waits, false, __ATOMIC_RELEASE);
}

/* send_lock held: all of it. 0 or a negative errno; -EAGAIN: the rest waits on
 * (@flags: MSG_DONTWAIT). */
static int send_out(NbdConn *conn, int flags)
{
    NbdOut *out = &conn->out;
    struct iovec *iov = out->parts + out->first;
    int niov = out->end - out->first;
    int ret;

    if (niov == 0) {
        return 0;
    }
    ret = nbd_conn_send_on(conn, &iov, &niov, flags);
    if (ret == -EAGAIN) {
        out->first = out->end - niov;
    } else {
        clear(out);
    }
    return ret;
}

static bool finish(NbdConn *conn, int ret)
{
    mutex_unlock(&conn->send_lock);
    if (ret < 0) {
        nbd_conn_abort(conn);
    }
    return ret == 0;
}

bool nbd_out_send(NbdConn *conn)
{
    mutex_lock(&conn->send_lock);
    return finish(conn, send_out(conn, 0));
}

int nbd_out_begin(NbdConn *conn)
{
    mutex_lock(&conn->send_lock);
    return send_out(conn, 0);
}

int nbd_out_try_begin(NbdConn *conn)
{
    int ret;

    if (!mutex_trylock(&conn->send_lock)) {
        return -EAGAIN;
    }
    ret = send_out(conn, MSG_DONTWAIT);
    if (ret == -EAGAIN) {
        mutex_unlock(&conn->send_lock);
    }
    return ret;
}

void nbd_out_end(NbdConn *conn, int ret)
{
    finish(conn, ret);
}

bool nbd_out_try_send(NbdConn *conn)
{
    int ret;

    if (!nbd_out_waits(conn)) {
        return true;
    }
    if (!mutex_trylock(&conn->send_lock)) {
        return false;
    }
    ret = send_out(conn, MSG_DONTWAIT);
    finish(conn, ret == -EAGAIN ? 0 : ret);
    return ret != -EAGAIN;
}

bool nbd_out_waits(NbdConn *conn)
{
    return __atomic_load_n(&conn->out.waits, __ATOMIC_ACQUIRE);
}

size_t nbd_out_held(NbdThread *t)
{
    if (t->held > 0 && __atomic_load_n(&t->conn->out.sent, __ATOMIC_ACQUIRE) !=
                           t->held_since) {
        t->held = 0;
    }
    return t->held;
}

/* send_lock held: there is room for one more reply. */
static bool has_room(const NbdOut *out, size_t heads)
{
    return out->end + 2 <= NBD_OUT_PARTS &&
           out->heads_used + heads <= NBD_OUT_HEADS;
}

/* send_lock held */
static void add_part(NbdOut *out, const void *data, size_t bytes)
{
    struct iovec *last =
        out->end > out->first ? &out->parts[out->end - 1] : NULL;

    out->bytes += bytes;
    if (last && (const uint8_t *)last->iov_base + last->iov_len == data) {
        last->iov_len += bytes;
    } else {
        out->parts[out->end++] = (struct iovec){ (void *)data, bytes };
    }
}

/* send_lock held */
static void add_head(NbdOut *out, const void *data, size_t bytes)
{
    uint8_t *p = out->heads + out->heads_used;

    /* cppcheck-suppress ctunullpointer */
    memcpy(p, data, bytes);
    out->heads_used += bytes;
    add_part(out, p, bytes);
}

/* send_lock held: the reply waits, and its data is in use. */
static void hold(NbdThread *t, const uint8_t *data, size_t bytes)
{
    NbdOut *out = &t->conn->out;

    if (bytes > 0 && data == t->data) {
        t->held = (data + bytes - t->buffer + PAGE - 1) & ~(PAGE - 1);
        t->held_since = out->sent;
    }
    __atomic_store_n(&out->waits, true, __ATOMIC_RELEASE);
}

bool nbd_out_add(NbdThread *t, const void *head, size_t head_size,
                 const void *fields, size_t fields_size, const void *data,
                 size_t data_size)
{
    NbdConn *conn = t->conn;
    NbdOut *out = &conn->out;
    int ret = 0;

    mutex_lock(&conn->send_lock);
    if (!has_room(out, head_size + fields_size)) {
        ret = send_out(conn, 0);
    }
    add_head(out, head, head_size);
    if (fields_size > 0) {
        add_head(out, fields, fields_size);
    }
    if (data_size > 0) {
        add_part(out, data, data_size);
    }
    if (ret < 0) {
        clear(out);
    } else if (++out->held > __atomic_load_n(&t->may_hold, __ATOMIC_RELAXED) ||
               out->bytes >= NBD_OUT_BYTES) {
        ret = send_out(conn, 0);
    } else {
        hold(t, data, data_size);
    }
    return finish(conn, ret);
}
