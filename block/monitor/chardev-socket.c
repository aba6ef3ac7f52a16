/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The chardev of a unix socket. A server takes one client after the other:
 * while one is served, others wait in the kernel's queue. A client connects
 * once, or again and again with reconnect.
 */
#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "chardev.h"
#include "monitor/monitor.h"
#include "util/error.h"
#include "util/socket.h"

typedef struct SocketChardev {
    Chardev common;
    int fd; /* of the connection, or -1 */
    JsonObject *addr;

    SocketListener *listener; /* server */
    GSource *accept_source;   /* while nobody is connected */

    int64_t reconnect;     /* client: seconds, 0: never */
    GSource *retry_source; /* what did not succeed is tried again */
} SocketChardev;

static void clear_source(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_clear_pointer(source, g_source_unref);
    }
}

/* ---- server ------------------------------------------------------------- */

static void accept_later(SocketChardev *s);

static void retry_later(SocketChardev *s, GSourceFunc func, guint seconds)
{
    s->retry_source = g_timeout_source_new_seconds(seconds);
    g_source_set_callback(s->retry_source, func, s, NULL);
    g_source_attach(s->retry_source, NULL);
}

static gboolean accept_again(gpointer opaque)
{
    SocketChardev *s = opaque;

    clear_source(&s->retry_source);
    accept_later(s);
    return G_SOURCE_REMOVE;
}

static gboolean accept_client(int fd, GIOCondition condition, gpointer opaque)
{
    SocketChardev *s = opaque;
    struct sockaddr_un peer;
    socklen_t len = sizeof(peer);
    int client = accept4(fd, (struct sockaddr *)&peer, &len,
                         SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (client < 0) {
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            /* Out of descriptors or memory: do not ask all the time. */
            g_printerr("warning: chardev '%s' cannot accept a connection: "
                       "%s\n",
                       s->common.id, g_strerror(errno));
            clear_source(&s->accept_source);
            retry_later(s, accept_again, 1);
        }
        return G_SOURCE_CONTINUE;
    }
    clear_source(&s->accept_source);
    s->fd = client;
    chardev_connected(&s->common, client, client);
    return G_SOURCE_REMOVE;
}

static void accept_later(SocketChardev *s)
{
    s->accept_source =
        g_unix_fd_source_new(socket_listener_fd(s->listener, 0), G_IO_IN);
    g_source_set_callback(s->accept_source, G_SOURCE_FUNC(accept_client), s,
                          NULL);
    g_source_attach(s->accept_source, NULL);
}

static bool open_server(SocketChardev *s, JsonObject *options, bool wait,
                        GError **errp)
{
    if (schema_has(options, "reconnect")) {
        error_setg(errp, "'reconnect' option is incompatible with socket in "
                         "server listen mode");
        return false;
    }
    /* Who may talk QMP may do anything: that is for the owner to grant. */
    s->listener = socket_listener_new(s->addr, 0600, errp);
    if (!s->listener) {
        return false;
    }
    accept_later(s);
    if (!wait) {
        return true;
    }
    g_printerr("info: waiting for connection on: %s\n",
               schema_get_str(s->addr, "path", NULL));
    while (!s->common.connected && !daemon_quit_requested()) {
        g_main_context_iteration(NULL, TRUE);
    }
    if (!s->common.connected) {
        error_setg(errp, "Interrupted while waiting for a connection on %s",
                   schema_get_str(s->addr, "path", NULL));
        return false;
    }
    return true;
}

/* ---- client ------------------------------------------------------------- */

static bool connect_now(SocketChardev *s, GError **errp)
{
    const char *path = schema_get_str(s->addr, "path", NULL);
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd;

    if (strlen(path) >= sizeof(un.sun_path)) {
        error_setg(errp, "UNIX socket path '%s' is too long", path);
        return false;
    }
    strcpy(un.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_setg_errno(errp, errno, "Failed to create Unix socket");
        return false;
    }
    /* A unix socket connects at once or (its queue is full) not at all. */
    if (connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
        error_setg_errno(errp, errno, "Failed to connect to '%s'", path);
        close(fd);
        return false;
    }
    s->fd = fd;
    chardev_connected(&s->common, fd, fd);
    return true;
}

static gboolean reconnect_due(gpointer opaque)
{
    SocketChardev *s = opaque;

    if (!connect_now(s, NULL)) {
        return G_SOURCE_CONTINUE;
    }
    clear_source(&s->retry_source);
    return G_SOURCE_REMOVE;
}

static bool open_client(SocketChardev *s, JsonObject *options, GError **errp)
{
    if (schema_has(options, "wait")) {
        error_setg(errp, "'wait' option is incompatible with socket in client "
                         "connect mode");
        return false;
    }
    s->reconnect = schema_get_int(options, "reconnect", 0);
    if (s->reconnect < 0 || s->reconnect > G_MAXINT32) {
        error_setg(errp, "Parameter 'reconnect' must lie between 0 and %d",
                   G_MAXINT32);
        return false;
    }
    if (s->reconnect == 0) {
        return connect_now(s, errp);
    }
    if (!connect_now(s, NULL)) {
        retry_later(s, reconnect_due, s->reconnect);
    }
    return true;
}

/* ---- both --------------------------------------------------------------- */

static bool socket_open(Chardev *chr, JsonObject *options, GError **errp)
{
    SocketChardev *s = (SocketChardev *)chr;
    bool server, wait;

    s->fd = -1;
    if (schema_has(options, "addr")) {
        /* The JSON form, whose defaults are QAPI's */
        server = schema_get_bool(options, "server", true);
        wait = schema_get_bool(options, "wait", false);
        s->addr = socket_address_flatten(schema_get_object(options, "addr"));
    } else {
        server = schema_get_bool(options, "server", false);
        wait = schema_get_bool(options, "wait", true);
        s->addr = json_object_new();
        json_object_set_string_member(s->addr, "type", "unix");
        json_object_set_string_member(s->addr, "path",
                                      schema_get_str(options, "path", NULL));
    }
    if (strcmp(schema_get_str(s->addr, "type", NULL), "unix")) {
        error_setg(errp, "A chardev socket is a unix socket, not '%s'",
                   schema_get_str(s->addr, "type", NULL));
        return false;
    }
    return server ? open_server(s, options, wait, errp)
                  : open_client(s, options, errp);
}

/* Append the descriptors in @msg to @fds. */
static void collect_fds(struct msghdr *msg, int *fds, size_t *n_fds)
{
    struct cmsghdr *cmsg;
    size_t n;

    for (cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
        if (cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS) {
            n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            g_assert(*n_fds + n <= CHARDEV_MAX_FDS);
            memcpy(fds + *n_fds, CMSG_DATA(cmsg), n * sizeof(int));
            *n_fds += n;
        }
    }
}

static ssize_t socket_read(Chardev *chr, void *buf, size_t bytes, int *fds,
                           size_t *n_fds)
{
    struct iovec iov = { buf, bytes };
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(CHARDEV_MAX_FDS * sizeof(int))];
    } control;
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control),
    };
    ssize_t n = recvmsg(chr->in_fd, &msg, MSG_CMSG_CLOEXEC);

    if (n >= 0) {
        collect_fds(&msg, fds, n_fds);
    }
    return n;
}

static void socket_disconnected(Chardev *chr)
{
    SocketChardev *s = (SocketChardev *)chr;

    close(s->fd);
    s->fd = -1;
    if (s->listener) {
        accept_later(s);
    } else if (s->reconnect) {
        retry_later(s, reconnect_due, s->reconnect);
    }
}

static void socket_close(Chardev *chr)
{
    SocketChardev *s = (SocketChardev *)chr;

    clear_source(&s->accept_source);
    clear_source(&s->retry_source);
    g_clear_pointer(&s->listener, socket_listener_free);
    g_clear_pointer(&s->addr, json_object_unref);
}

static const SchemaType socket_flat_type = {
    .name = "ChardevSocketOptions",
    .kind = SCHEMA_OBJECT,
    .doc = "A unix socket.",
    .members =
        (const SchemaMember[]){
            { "path", &schema_str, .doc = "Where the socket is." },
            { "server", &schema_bool, .optional = true,
              .doc = "Listen there (default: false, connect to it)." },
            { "wait", &schema_bool, .optional = true,
              .doc = "Server: go on only when the first client has connected "
                     "(default: true)." },
            { "reconnect", &schema_int, .optional = true,
              .doc = "Client: when not connected, try again after so many "
                     "seconds (default: 0, do not)." },
            { NULL } },
};

static const SchemaType socket_type = {
    .name = "ChardevSocket",
    .kind = SCHEMA_OBJECT,
    .doc = "A unix socket.",
    .members =
        (const SchemaMember[]){
            { "addr", &socket_address_legacy_type,
              .doc = "Where the socket is; type unix." },
            { "server", &schema_bool, .optional = true,
              .doc = "Listen there (default: true)." },
            { "wait", &schema_bool, .optional = true,
              .doc = "Server: go on only when the first client has connected "
                     "(default: false)." },
            { "reconnect", &schema_int, .optional = true,
              .doc = "Client: when not connected, try again after so many "
                     "seconds (default: 0, do not)." },
            { NULL } },
};

static const SchemaType socket_wrapper_type = {
    .name = "ChardevSocketWrapper",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){ { "data", &socket_type, .doc = "Its options." },
                                { NULL } },
};

const ChardevKind chardev_socket_kind = {
    .name = "socket",
    .instance_size = sizeof(SocketChardev),
    .options = &socket_flat_type,
    .json_options = &socket_wrapper_type,
    .open = socket_open,
    .read = socket_read,
    .disconnected = socket_disconnected,
    .close = socket_close,
};
