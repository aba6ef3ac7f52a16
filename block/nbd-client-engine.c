/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The thread that has a connection of the driver "nbd": it connects, sends what is
 * queued, takes the replies, and when the connection is lost, makes another one.
 *
 * What is remembered of block status does not outlive a connection: the server may
 * have been another process since, which has lost what was written and not
 * flushed. It is forgotten between the end of one connection and the first request
 * on the next; a zero-write whose reply came before, but of which the cache is told
 * later, is tainted by that. And writes that a server has, and has not answered,
 * may still be carried out when it has long been asked what is zero: from then on no
 * zeroes are remembered at all.
 *
 * The engine waits for nobody but the socket, with one exception: the resolver,
 * which has its own idea of time. So the connection outlives its node, if need be.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block/nbd-client-int.h"
#include "util/error.h"
#include "util/socket.h"

NbdClientTimes nbd_client_times = {
    .connect = 10 * G_USEC_PER_SEC,
    .handshake = 10 * G_USEC_PER_SEC,
    .first_pause = G_USEC_PER_SEC / 10,
    .last_pause = 5 * G_USEC_PER_SEC,
    .grace = G_USEC_PER_SEC,
    .goodbye = G_USEC_PER_SEC,
    .patience = 60 * G_USEC_PER_SEC,
};

typedef struct nbd_handle Handle;

static bool is_closing(NbdConn *conn)
{
    MUTEX_GUARD(&conn->lock);

    return conn->closing;
}

/* ---- the socket --------------------------------------------------------- */

static int timeout_ms(int64_t deadline_us)
{
    int64_t left_us = deadline_us - g_get_monotonic_time();

    if (deadline_us == INT64_MAX) {
        return -1;
    }
    return left_us <= 0 ? 0 : MIN(left_us / 1000 + 1, G_MAXINT);
}

static bool is_over(Handle *h)
{
    return nbd_aio_is_dead(h) || nbd_aio_is_closed(h);
}

/*
 * Wait until libnbd can go on, @event_fd is readable or @deadline_us; and let libnbd
 * go on. False when the connection has failed.
 */
static bool run_handle(Handle *h, int event_fd, int64_t deadline_us)
{
    unsigned direction = nbd_aio_get_direction(h);
    struct pollfd fds[] = { { nbd_aio_get_fd(h), 0, 0 },
                            { event_fd, POLLIN, 0 } };
    int ret = 0;

    if (is_over(h)) {
        return false;
    }
    if (direction & LIBNBD_AIO_DIRECTION_READ) {
        fds[0].events |= POLLIN;
    }
    if (direction & LIBNBD_AIO_DIRECTION_WRITE) {
        fds[0].events |= POLLOUT;
    }
    if (poll(fds, 2, timeout_ms(deadline_us)) <= 0) {
        return true;
    }
    if ((fds[0].revents & (POLLIN | POLLHUP | POLLERR)) &&
        (direction & LIBNBD_AIO_DIRECTION_READ)) {
        ret = nbd_aio_notify_read(h);
    } else if (fds[0].revents & (POLLOUT | POLLHUP | POLLERR)) {
        ret = nbd_aio_notify_write(h);
    }
    return ret == 0 && !is_over(h);
}

/* ---- connecting --------------------------------------------------------- */

/* libnbd's words, without the name of its function */
static void set_libnbd_error(NbdConn *conn, GError **errp)
{
    const char *text = nbd_get_error();
    const char *colon = text ? strstr(text, ": ") : NULL;

    if (nbd_get_errno() == ENOENT) {
        error_setg(errp, "Requested export not available: '%s'", conn->export);
    } else {
        error_setg(errp, "NBD handshake failed: %s",
                   colon ? colon + strlen(": ") : "connection closed");
    }
}

static bool set_up_handle(NbdConn *conn, Handle *h, GError **errp)
{
    if (nbd_set_export_name(h, conn->export) < 0 ||
        nbd_add_meta_context(h, conn->context) < 0 ||
        nbd_set_strict_mode(h, LIBNBD_STRICT_MASK & ~LIBNBD_STRICT_ALIGN) < 0) {
        set_libnbd_error(conn, errp);
        return false;
    }
    return true;
}

/* @fd becomes the handle's. */
static bool shake_hands(NbdConn *conn, Handle *h, int fd, GError **errp)
{
    int64_t deadline_us = g_get_monotonic_time() + nbd_client_times.handshake;

    if (nbd_aio_connect_socket(h, fd) < 0) {
        set_libnbd_error(conn, errp);
        return false;
    }
    while (!nbd_aio_is_ready(h)) {
        if (!run_handle(h, conn->close_fd, deadline_us)) {
            set_libnbd_error(conn, errp);
            return false;
        }
        if (is_closing(conn)) {
            error_setg(errp, "The node is being closed");
            return false;
        }
        if (g_get_monotonic_time() >= deadline_us) {
            error_setg(errp, "NBD handshake failed: no answer from the server");
            return false;
        }
    }
    return true;
}

static uint32_t block_size(Handle *h, int type)
{
    int64_t size = nbd_get_block_size(h, type);

    return size > 0 ? MIN(size, G_MAXUINT32) : 0;
}

static void get_info(Handle *h, const char *context, NbdExportInfo *info)
{
    *info = (NbdExportInfo){
        .size = nbd_get_size(h),
        .min_block = block_size(h, LIBNBD_SIZE_MINIMUM),
        .opt_block = block_size(h, LIBNBD_SIZE_PREFERRED),
        .max_block = block_size(h, LIBNBD_SIZE_MAXIMUM),
        .read_only = nbd_is_read_only(h) > 0,
        .flush = nbd_can_flush(h) > 0,
        .fua = nbd_can_fua(h) > 0,
        .trim = nbd_can_trim(h) > 0,
        .zero = nbd_can_zero(h) > 0,
        .fast_zero = nbd_can_fast_zero(h) > 0,
        .status = nbd_can_meta_context(h, context) > 0,
    };
}

/* Can a server that offers @b take the place of one that offered @a? */
static bool is_as_good(const NbdExportInfo *a, const NbdExportInfo *b,
                       GError **errp)
{
    if (a->size != b->size) {
        error_setg(errp, "the disk had %" PRId64 " bytes and now has %" PRId64,
                   a->size, b->size);
        return false;
    }
    if (b->min_block > MAX(a->min_block, 1) ||
        (b->max_block && b->max_block < NBD_CLIENT_MAX_BYTES &&
         (!a->max_block || b->max_block < a->max_block))) {
        error_setg(errp, "the server's limits of requests have changed");
        return false;
    }
    if ((b->read_only && !a->read_only) || (a->flush && !b->flush) ||
        (a->fua && !b->fua) || (a->trim && !b->trim) || (a->zero && !b->zero) ||
        (a->fast_zero && !b->fast_zero) || (a->status && !b->status)) {
        error_setg(errp, "the server no longer does what it did");
        return false;
    }
    return true;
}

/* Lock held. No further attempts are made. */
static void set_broken(NbdConn *conn, const GError *err)
{
    g_warning("Node '%s' fails from now on: after the connection was lost, %s",
              conn->node_name, err->message);
    conn->broken = true;
    nbd_conn_fail_queue(conn, -EIO);
}

/* Connected: requests may be sent, unless it is another disk. */
static bool take_up(NbdConn *conn, Handle *h)
{
    g_autoptr(GError) err = NULL;
    NbdExportInfo info;

    get_info(h, conn->context, &info);
    MUTEX_GUARD(&conn->lock);
    if (!conn->is_open) {
        conn->info = info;
        conn->is_open = true;
        cond_broadcast(&conn->opened);
    } else if (!is_as_good(&conn->info, &info, &err)) {
        set_broken(conn, err);
        return false;
    }
    conn->up = true;
    return true;
}

static Handle *connect_once(NbdConn *conn, GError **errp)
{
    int64_t deadline_us = g_get_monotonic_time() + nbd_client_times.connect;
    Handle *h = nbd_create();
    int fd;

    if (!h) {
        set_libnbd_error(conn, errp);
        return NULL;
    }
    if (set_up_handle(conn, h, errp)) {
        fd = socket_connect(conn->address, deadline_us, conn->close_fd, errp);
        if (fd >= 0 && shake_hands(conn, h, fd, errp)) {
            return h;
        }
    }
    nbd_close(h);
    return NULL;
}

/* ---- requests ----------------------------------------------------------- */

/* A reply has come, or libnbd gives it up as the connection is lost. */
static int completed(void *opaque, int *error)
{
    NbdRequest *req = opaque;
    NbdConn *conn = req->conn;

    MUTEX_GUARD(&conn->lock);
    /* A server that goes down says so, and is left; it may come again. */
    if (*error == ENOTCONN || *error == ESHUTDOWN) {
        nbd_request_lost(req);
    } else if (*error == 0 && req->command == NBD_COMMAND_READ &&
               !nbd_parts_are_whole(req)) {
        nbd_request_done(req, -EIO);
    } else {
        nbd_request_done(req, -*error);
    }
    return 1;
}

static int got_data(void *opaque, const void *data, size_t bytes,
                    uint64_t offset, unsigned status, int *error)
{
    NbdRequest *req = opaque;

    if (status == LIBNBD_READ_DATA || status == LIBNBD_READ_HOLE) {
        nbd_parts_add(req, offset, bytes);
    }
    return 0;
}

/* There may be more than were asked for: not all servers keep to REQ_ONE. */
static int got_extents(void *opaque, const char *context, uint64_t offset,
                       uint32_t *entries, size_t n, int *error)
{
    NbdRequest *req = opaque;

    if (strcmp(context, req->conn->context) == 0) {
        req->n_extents = MIN(n / 2, req->max_extents);
        memcpy(req->extents, entries, req->n_extents * 2 * sizeof(*entries));
    }
    return 0;
}

/* libnbd has it then, or has done it already. Less than 0: it has not. */
static int64_t send_request(Handle *h, NbdRequest *req)
{
    nbd_completion_callback done = { completed, req, NULL };
    nbd_extent_callback extents = { got_extents, req, NULL };
    nbd_chunk_callback chunk = { got_data, req, NULL };

    switch (req->command) {
    case NBD_COMMAND_READ:
        nbd_parts_begin(req);
        return nbd_aio_pread_structured(h, req->buf, req->bytes, req->offset,
                                        chunk, done, req->flags);
    case NBD_COMMAND_WRITE:
        return nbd_aio_pwrite(h, req->buf, req->bytes, req->offset, done,
                              req->flags);
    case NBD_COMMAND_ZERO:
        return nbd_aio_zero(h, req->bytes, req->offset, done, req->flags);
    case NBD_COMMAND_TRIM:
        return nbd_aio_trim(h, req->bytes, req->offset, done, req->flags);
    case NBD_COMMAND_FLUSH:
        return nbd_aio_flush(h, done, req->flags);
    case NBD_COMMAND_STATUS:
        req->n_extents = 0;
        return nbd_aio_block_status(h, req->bytes, req->offset, extents, done,
                                    req->flags);
    default:
        g_assert_not_reached();
    }
}

static void send_queued(NbdConn *conn, Handle *h)
{
    NbdRequest *req;
    uint64_t kicks;

    mutex_lock(&conn->lock);
    if (conn->kicked) {
        conn->kicked = false;
        eventfd_read(conn->kick_fd, &kicks);
    }
    while ((req = nbd_conn_next(conn))) {
        int64_t ret;

        mutex_unlock(&conn->lock);
        ret = send_request(h, req);
        mutex_lock(&conn->lock);
        if (ret < 0 && is_over(h)) {
            nbd_request_lost(req);
        } else if (ret < 0) {
            int err = nbd_get_errno();

            nbd_request_done(req, err ? -err : -EIO);
        }
    }
    mutex_unlock(&conn->lock);
}

/*
 * When the connection is to be broken off for the sake of those who gave up;
 * INT64_MAX: not at all; 0: it is to be left.
 */
static int64_t next_deadline(NbdConn *conn)
{
    int64_t deadline_us = INT64_MAX;
    int i;

    MUTEX_GUARD(&conn->lock);
    if (!conn->up || conn->closing) {
        return 0;
    }
    for (i = 0; i < NBD_CLIENT_REQUESTS; i++) {
        if (conn->sent[i] && conn->sent[i]->given_up) {
            deadline_us = MIN(deadline_us, conn->sent[i]->abort_us);
        }
    }
    return deadline_us;
}

/* Until the connection is lost, or to be left */
static void serve(NbdConn *conn, Handle *h)
{
    int64_t deadline_us;

    do {
        send_queued(conn, h);
        deadline_us = next_deadline(conn);
        if (deadline_us <= g_get_monotonic_time()) {
            return;
        }
    } while (run_handle(h, conn->kick_fd, deadline_us));
}

static void say_goodbye(Handle *h)
{
    int64_t deadline_us = g_get_monotonic_time() + nbd_client_times.goodbye;

    if (is_over(h) || nbd_aio_disconnect(h, 0) < 0) {
        return;
    }
    while (g_get_monotonic_time() < deadline_us &&
           run_handle(h, -1, deadline_us)) {
    }
}

/* What libnbd still has is lost, and what is known may be wrong. */
static void leave(NbdConn *conn, Handle *h)
{
    StatusCache *cache;
    bool lost_writes;
    int i;

    nbd_close(h);
    mutex_lock(&conn->lock);
    nbd_conn_lost(conn);
    for (i = 0; i < NBD_CLIENT_REQUESTS; i++) {
        if (conn->sent[i]) {
            nbd_request_lost(conn->sent[i]);
        }
    }
    lost_writes = conn->lost_writes;
    cache = conn->cache ? status_cache_ref(conn->cache) : NULL;
    mutex_unlock(&conn->lock);
    if (cache) {
        status_cache_flush(cache);
        status_cache_flush_failed(cache);
        if (lost_writes && status_cache_get_mode(cache) == STATUS_CACHE_ON) {
            status_cache_set_mode(cache, STATUS_CACHE_DATA_ONLY);
        }
        status_cache_unref(cache);
    }
}

/* ---- the thread --------------------------------------------------------- */

static void pause_for(NbdConn *conn, int64_t *pause_us)
{
    struct pollfd fd = { conn->close_fd, POLLIN, 0 };

    poll(&fd, 1, MAX(*pause_us / 1000, 1));
    *pause_us = MIN(*pause_us * 2, nbd_client_times.last_pause);
}

/* The attempt to connect has failed: is there to be another one? */
static bool try_again(NbdConn *conn, GError *err)
{
    MUTEX_GUARD(&conn->lock);

    if (conn->is_open || g_get_monotonic_time() < conn->opening_us) {
        g_error_free(err);
        return true;
    }
    conn->error = err;
    return false;
}

static bool is_wanted(NbdConn *conn)
{
    MUTEX_GUARD(&conn->lock);

    return !conn->closing && !conn->broken;
}

static void *engine(void *opaque)
{
    NbdConn *conn = opaque;
    int64_t pause_us = nbd_client_times.first_pause;

    pthread_setname_np(pthread_self(), "nbd-client");
    while (is_wanted(conn)) {
        GError *err = NULL;
        Handle *h = connect_once(conn, &err);

        if (h) {
            pause_us = nbd_client_times.first_pause;
            if (take_up(conn, h)) {
                serve(conn, h);
            }
            if (!is_wanted(conn)) {
                say_goodbye(h);
            }
            leave(conn, h);
        } else if (!try_again(conn, err)) {
            break;
        }
        pause_for(conn, &pause_us);
    }
    mutex_lock(&conn->lock);
    conn->is_ended = true;
    cond_broadcast(&conn->opened);
    cond_broadcast(&conn->ended);
    mutex_unlock(&conn->lock);
    nbd_conn_unref(conn);
    return NULL;
}

int nbd_conn_open(NbdConn *conn, GError **errp)
{
    int64_t deadline_us =
        MAX(conn->opening_us, g_get_monotonic_time()) +
        2 * (nbd_client_times.connect + nbd_client_times.handshake);
    pthread_t thread;
    int r;
    MUTEX_GUARD(&conn->lock);

    conn->refs++;
    r = conn->close_fd < 0 || conn->kick_fd < 0
            ? EMFILE
            : pthread_create(&thread, NULL, engine, conn);
    if (r != 0) {
        conn->refs--;
        conn->is_ended = true;
        error_setg_errno(errp, r, "Could not start a connection");
        return -r;
    }
    pthread_detach(thread);
    while (!conn->is_open && !conn->is_ended &&
           cond_wait_until(&conn->opened, &conn->lock, deadline_us)) {
    }
    if (conn->is_open) {
        return 0;
    }
    if (conn->error) {
        g_propagate_error(errp, g_steal_pointer(&conn->error));
    } else {
        error_setg(errp, "The server's name was not resolved in time");
    }
    return -ECONNREFUSED;
}

void nbd_conn_set_cache(NbdConn *conn, StatusCache *cache)
{
    MUTEX_GUARD(&conn->lock);

    conn->cache = status_cache_ref(cache);
}

void nbd_conn_close(NbdConn *conn)
{
    int64_t deadline_us = g_get_monotonic_time() + 2 * nbd_client_times.goodbye;

    mutex_lock(&conn->lock);
    conn->closing = true;
    eventfd_write(conn->close_fd, 1);
    nbd_conn_kick(conn);
    while (!conn->is_ended &&
           cond_wait_until(&conn->ended, &conn->lock, deadline_us)) {
    }
    mutex_unlock(&conn->lock);
    nbd_conn_unref(conn);
}
