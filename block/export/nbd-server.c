/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NBD server: it listens, and hands each client to a crew of its own.
 *
 * Sockets are accepted on the main thread, for as long as there is room for
 * another connection. Starting and stopping are the management thread's.
 */
#include "block/export/nbd-int.h"

#include <errno.h>
#include <glib-unix.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
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

/* Accept again, if that stopped and there is a reason to go on. */
static void accept_resume(void)
{
    MUTEX_GUARD(&server.lock);

    if (server.listener && server.sources->len == 0 && has_room()) {
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

static void start_client(int fd)
{
    g_autoptr(GError) err = NULL;

    tune_socket(fd);
    if (!nbd_conn_start(fd, &err)) {
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

bool nbd_server_start(JsonObject *options, GError **errp)
{
    JsonObject *addr = schema_get_object(options, "addr");
    int64_t max_connections = schema_get_int(options, "max-connections", 0);
    SocketListener *listener;

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
    accept_start();
    return true;
}

void nbd_server_close(void)
{
    mutex_lock(&server.lock);
    if (server.listener) {
        accept_stop();
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
            { "max-connections", &schema_uint, .optional = true,
              .doc = "Clients served at the same time; others wait. 0, the "
                     "default, stands for 256, which is also the most there "
                     "can be." },
            { NULL } },
};
