/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NBD server: it listens, and hands each client to a crew of its own.
 *
 * Sockets are accepted on the main thread, for as long as there is room for
 * another connection. If there is none, and somebody waits, those give way who
 * have long been choosing an export. Starting and stopping are the management
 * thread's.
 */
#include "block/export/nbd-int.h"

#include <errno.h>
#include <glib-unix.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/error.h"
#include "util/socket.h"

/* How long to leave the others in peace when descriptors have run out */
#define ACCEPT_BACKOFF_SECONDS 1

static struct {
    Mutex lock;
    SocketListener *listener; /* lock; NULL: not running */
    unsigned max_connections; /* lock; 0: as many as there may be at all */
    int64_t handshake_us;     /* lock; < 0: as usual */
    GSource *room_timer;      /* lock: there is no room, but may be */
    GPtrArray *sources;       /* lock: of GSource; empty while there is no
                                 room */
} server = { .lock = MUTEX_INIT };

static gboolean accept_ready(gint fd, GIOCondition condition, gpointer opaque);

/* server.lock held */
static bool has_room(void)
{
    unsigned count = nbd_conn_count();

    return count < nbd_limits.connections &&
           (server.max_connections == 0 || count < server.max_connections);
}

/* server.lock held */
static void accept_stop(void)
{
    g_ptr_array_set_size(server.sources, 0);
}

/* server.lock held */
static void accept_start(void)
{
    for (guint i = 0; i < socket_listener_count(server.listener); i++) {
        GSource *source = g_unix_fd_source_new(
            socket_listener_fd(server.listener, i), G_IO_IN);

        g_source_set_callback(source, G_SOURCE_FUNC(accept_ready), NULL, NULL);
        g_source_attach(source, NULL);
        g_ptr_array_add(server.sources, source);
    }
}

/* server.lock held: is there a client that was not yet accepted? */
static bool somebody_waits(void)
{
    guint i;

    for (i = 0; i < socket_listener_count(server.listener); i++) {
        struct pollfd pfd = { .fd = socket_listener_fd(server.listener, i),
                              .events = POLLIN };

        if (poll(&pfd, 1, 0) > 0) {
            return true;
        }
    }
    return false;
}

/* server.lock held */
static void room_timer_stop(void)
{
    if (server.room_timer) {
        g_source_destroy(server.room_timer);
        g_clear_pointer(&server.room_timer, g_source_unref);
    }
}

static gboolean room_timer_due(gpointer opaque);

/* server.lock held, and nobody is accepted for want of room: look again when
 * someone may be asked to leave. Those who choose only become fewer. */
static void room_timer_start(bool hang_up)
{
    int64_t next = nbd_conn_hurry(hang_up);
    int64_t delay_us =
        MAX(next - g_get_monotonic_time(), nbd_limits.hurry_us / 5);

    room_timer_stop();
    if (next == INT64_MAX) {
        return;
    }
    server.room_timer = g_timeout_source_new(delay_us / 1000 + 1);
    g_source_set_callback(server.room_timer, room_timer_due, NULL, NULL);
    g_source_attach(server.room_timer, NULL);
}

static gboolean room_timer_due(gpointer opaque)
{
    MUTEX_GUARD(&server.lock);

    if (!g_source_is_destroyed(g_main_current_source())) {
        room_timer_start(somebody_waits());
    }
    return G_SOURCE_REMOVE;
}

/* Accept again, if that stopped and there is a reason to go on. */
static void accept_resume(void)
{
    MUTEX_GUARD(&server.lock);

    if (server.listener && server.sources->len == 0 && has_room()) {
        room_timer_stop();
        accept_start();
    }
}

void nbd_server_conn_ended(void)
{
    accept_resume();
}

static gboolean backoff_over(gpointer opaque)
{
    accept_resume();
    return G_SOURCE_REMOVE;
}

static void tune_socket(int fd)
{
    int one = 1;

    /* Fails on unix sockets, which need neither. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

/* server.lock held */
static void start_client(int fd)
{
    int64_t handshake_us =
        server.handshake_us < 0 ? nbd_limits.handshake_us : server.handshake_us;
    g_autoptr(GError) err = NULL;

    tune_socket(fd);
    if (!nbd_conn_start(fd, handshake_us, &err)) {
        g_warning("%s", err->message);
    }
}

static gboolean accept_ready(gint fd, GIOCondition condition, gpointer opaque)
{
    int client;

    MUTEX_GUARD(&server.lock);

    /* Stopped while we waited for the lock: @fd may be something else now. */
    if (g_source_is_destroyed(g_main_current_source())) {
        return G_SOURCE_REMOVE;
    }
    /* cppcheck-suppress nullPointer */
    client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (client >= 0) {
        start_client(client);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
               errno == ENOMEM) {
        accept_stop();
        g_timeout_add_seconds(ACCEPT_BACKOFF_SECONDS, backoff_over, NULL);
        return G_SOURCE_REMOVE;
    }
    if (!has_room()) {
        accept_stop();
        room_timer_start(false);
        return G_SOURCE_REMOVE;
    }
    return G_SOURCE_CONTINUE;
}

bool nbd_server_is_running(void)
{
    MUTEX_GUARD(&server.lock);

    return server.listener != NULL;
}

static void source_release(gpointer opaque)
{
    g_source_destroy(opaque);
    g_source_unref(opaque);
}

/* -1: not given, INT64_MAX: no limit. False and @errp if it cannot be. */
static bool get_handshake_us(JsonObject *options, int64_t *us, GError **errp)
{
    int64_t seconds = schema_get_int(options, "handshake-max-seconds", 0);

    if (seconds < 0 || seconds > UINT32_MAX) {
        error_setg(
            errp,
            "Parameter 'handshake-max-seconds' expects 0 to %u, not %" PRId64,
            UINT32_MAX, seconds);
        return false;
    }
    *us = seconds ? seconds * G_USEC_PER_SEC : INT64_MAX;
    if (!schema_has(options, "handshake-max-seconds")) {
        *us = -1;
    }
    return true;
}

bool nbd_server_start(JsonObject *options, GError **errp)
{
    JsonObject *addr = schema_get_object(options, "addr");
    int64_t max_connections = schema_get_int(options, "max-connections", 0);
    int64_t handshake_us;
    SocketListener *listener;

    if (!get_handshake_us(options, &handshake_us, errp)) {
        return false;
    }
    if (max_connections > nbd_limits.connections) {
        error_setg(errp,
                   "Parameter 'max-connections' expects at most %u, not "
                   "%" G_GINT64_FORMAT,
                   nbd_limits.connections, max_connections);
        return false;
    }
    if (nbd_server_is_running()) {
        error_setg(errp, "NBD server already running");
        return false;
    }
    listener = socket_listener_new(addr, 0777, errp);
    if (!listener) {
        return false;
    }

    MUTEX_GUARD(&server.lock);

    if (!server.sources) {
        server.sources = g_ptr_array_new_with_free_func(source_release);
    }
    server.listener = listener;
    server.max_connections = max_connections;
    server.handshake_us = handshake_us;
    accept_start();
    return true;
}

void nbd_server_close(void)
{
    mutex_lock(&server.lock);
    if (server.listener) {
        accept_stop();
        room_timer_stop();
        g_clear_pointer(&server.listener, socket_listener_free);
    }
    mutex_unlock(&server.lock);
    nbd_conn_abort_all(NULL);
}

bool nbd_server_stop(int64_t deadline_us, GError **errp)
{
    bool ok;

    nbd_server_close();
    /* First, as that ends what requests wait for; then those who had not chosen
     * an export yet. */
    ok = block_export_close_kind(&nbd_export_driver, deadline_us);
    ok = nbd_conn_wait_all(deadline_us) && ok;
    if (!ok) {
        error_setg(errp, "NBD server stopped, but a request of a client does "
                         "not end");
    }
    return ok;
}

/* ---- description -------------------------------------------------------- */

const SchemaType nbd_server_options_type = {
    .name = "NbdServerOptions",
    .kind = SCHEMA_OBJECT,
    .doc = "Where the NBD server listens.",
    .members =
        (const SchemaMember[]){
            { "addr", &socket_address_type, .doc = "Address to listen at." },
            { "handshake-max-seconds", &schema_uint, .optional = true,
              .doc = "Seconds after which a client that has not chosen an "
                     "export is disconnected, 0 for never. Default: 10." },
            { "max-connections", &schema_uint, .optional = true,
              .doc = "Clients served at the same time; others wait. 0, the "
                     "default, stands for 256, which is also the most there "
                     "can be." },
            { NULL } },
};
