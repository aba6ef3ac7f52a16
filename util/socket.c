/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Listening stream sockets, unix and TCP. */
#include "util/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/error.h"
#include "util/fdset.h"
#include "util/socket-int.h"

struct SocketListener {
    GArray *fds; /* of int */
    char *path;  /* unix; else NULL */
    dev_t dev;   /* of the socket file we made */
    ino_t ino;
};

static void close_fd(void *element)
{
    close(*(int *)element);
}

static SocketListener *listener_alloc(void)
{
    SocketListener *listener = g_new0(SocketListener, 1);

    listener->fds = g_array_new(false, false, sizeof(int));
    g_array_set_clear_func(listener->fds, close_fd);
    return listener;
}

static void listener_add(SocketListener *listener, int fd)
{
    g_array_append_val(listener->fds, fd);
}

void socket_listener_free(SocketListener *listener)
{
    struct stat st;

    if (listener->path && lstat(listener->path, &st) == 0 &&
        st.st_dev == listener->dev && st.st_ino == listener->ino) {
        unlink(listener->path);
    }
    g_array_unref(listener->fds);
    g_free(listener->path);
    g_free(listener);
}

guint socket_listener_count(const SocketListener *listener)
{
    return listener->fds->len;
}

int socket_listener_fd(const SocketListener *listener, guint i)
{
    return g_array_index(listener->fds, int, i);
}

/* ---- unix --------------------------------------------------------------- */

/* Does anybody listen at the socket file @un names? */
static bool is_alive(const struct sockaddr_un *un)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool alive;

    if (fd < 0) {
        return false;
    }
    /* EAGAIN: so many wait to be accepted that we may not join them */
    alive = connect(fd, (const struct sockaddr *)un, sizeof(*un)) == 0 ||
            errno == EAGAIN;
    close(fd);
    return alive;
}

/* A socket file of an earlier life goes away, anything else stays. */
static bool remove_stale(const struct sockaddr_un *un, GError **errp)
{
    const char *path = un->sun_path;
    struct stat st;

    if (lstat(path, &st) < 0) {
        return true;
    }
    if (S_ISSOCK(st.st_mode) && is_alive(un)) {
        error_setg_errno(errp, EADDRINUSE, "Failed to bind socket to %s", path);
        return false;
    }
    if (!S_ISSOCK(st.st_mode)) {
        error_setg(errp, "Failed to bind socket to %s: %s", path,
                   "a file that is no socket is in the way");
        return false;
    }
    if (unlink(path) < 0 && errno != ENOENT) {
        error_setg_errno(errp, errno, "Failed to unlink socket %s", path);
        return false;
    }
    return true;
}

bool socket_unix_address(const char *path, struct sockaddr_un *un,
                         GError **errp)
{
    if (!path[0] || strlen(path) >= sizeof(un->sun_path)) {
        error_setg(errp, "UNIX socket path '%s' is too %s", path,
                   path[0] ? "long" : "short");
        return false;
    }
    *un = (struct sockaddr_un){ .sun_family = AF_UNIX };
    strcpy(un->sun_path, path);
    return true;
}

static SocketListener *listen_unix(JsonObject *addr, mode_t mode, GError **errp)
{
    g_autoptr(SocketListener) listener = listener_alloc();
    const char *path = schema_get_str(addr, "path", NULL);
    struct sockaddr_un un;
    struct stat st;
    int fd;

    if (!socket_unix_address(path, &un, errp)) {
        return NULL;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_setg_errno(errp, errno, "Failed to create Unix socket");
        return NULL;
    }
    listener_add(listener, fd);
    if (!remove_stale(&un, errp)) {
        return NULL;
    }
    /* bind() makes the file with the socket's own mode */
    if (fchmod(fd, mode) < 0) {
        error_setg_errno(errp, errno, "Failed to set permissions of socket %s",
                         path);
        return NULL;
    }
    if (bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
        error_setg_errno(errp, errno, "Failed to bind socket to %s", path);
        return NULL;
    }
    if (lstat(path, &st) == 0) {
        /* A daemon changes its working directory later. */
        listener->path = g_canonicalize_filename(path, NULL);
        listener->dev = st.st_dev;
        listener->ino = st.st_ino;
    }
    if (listen(fd, SOMAXCONN) < 0) {
        error_setg_errno(errp, errno, "Failed to listen on socket %s", path);
        return NULL;
    }
    return g_steal_pointer(&listener);
}

/* ---- inet --------------------------------------------------------------- */

static void set_port(struct addrinfo *ai, uint16_t port)
{
    if (ai->ai_family == AF_INET6) {
        ((struct sockaddr_in6 *)ai->ai_addr)->sin6_port = htons(port);
    } else {
        ((struct sockaddr_in *)ai->ai_addr)->sin_port = htons(port);
    }
}

static uint16_t get_port(const struct sockaddr_storage *ss)
{
    return ntohs(ss->ss_family == AF_INET6
                     ? ((const struct sockaddr_in6 *)ss)->sin6_port
                     : ((const struct sockaddr_in *)ss)->sin_port);
}

/* A listening socket, or -errno */
static int listen_at(const struct addrinfo *ai)
{
    int fd, ret, one = 1;

    fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (ai->ai_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    }
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 ||
        listen(fd, SOMAXCONN) < 0) {
        ret = -errno;
        close(fd);
        return ret;
    }
    return fd;
}

/*
 * Listen at all of @list with one port: @port, or if that is 0, the one the
 * kernel chose for the first. 0, or -errno with nothing left open.
 */
static int listen_all(SocketListener *listener, struct addrinfo *list,
                      uint16_t port)
{
    struct sockaddr_storage ss;
    socklen_t len;
    int fd, err = 0;

    for (struct addrinfo *ai = list; ai; ai = ai->ai_next) {
        if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6) {
            continue;
        }
        set_port(ai, port);
        fd = listen_at(ai);
        if (fd == -EADDRINUSE) {
            err = fd;
            break;
        }
        if (fd < 0) {
            /* An address family that this machine has not got */
            err = fd;
            continue;
        }
        listener_add(listener, fd);
        len = sizeof(ss);
        if (port == 0 && getsockname(fd, (struct sockaddr *)&ss, &len) == 0) {
            port = get_port(&ss);
        }
    }
    if (err == -EADDRINUSE || listener->fds->len == 0) {
        g_array_set_size(listener->fds, 0);
        return err ? err : -EADDRNOTAVAIL;
    }
    return 0;
}

static SocketListener *listen_inet(JsonObject *addr, GError **errp)
{
    g_autoptr(SocketListener) listener = listener_alloc();
    const char *host = schema_get_str(addr, "host", "");
    const char *service = schema_get_str(addr, "port", "");
    struct addrinfo *list;
    struct sockaddr_storage ss = { 0 };
    int64_t to;
    int ret, port;

    list = socket_resolve(addr, true, errp);
    if (!list) {
        return NULL;
    }
    memcpy(&ss, list->ai_addr, MIN(list->ai_addrlen, sizeof(ss)));
    port = get_port(&ss);
    to = schema_get_int(addr, "to", port);
    if (to < port || to > G_MAXUINT16) {
        freeaddrinfo(list);
        error_setg(errp, "Parameter 'to' must lie between port %d and 65535",
                   port);
        return NULL;
    }
    do {
        ret = listen_all(listener, list, port);
    } while (ret == -EADDRINUSE && port++ < to);
    freeaddrinfo(list);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Failed to bind socket to %s:%s", host,
                         service);
        return NULL;
    }
    return g_steal_pointer(&listener);
}

/* ---- passed by others --------------------------------------------------- */

static bool adopt_socket(int fd, const char *name, GError **errp)
{
    int type, domain;
    socklen_t len = sizeof(int);
    struct sockaddr_storage peer;
    socklen_t peer_len = sizeof(peer);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0) {
        error_setg(errp, "File descriptor '%s' is not a socket", name);
        return false;
    }
    len = sizeof(int);
    if (type != SOCK_STREAM ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 ||
        (domain != AF_UNIX && domain != AF_INET && domain != AF_INET6)) {
        error_setg(errp,
                   "File descriptor '%s' is not a stream socket of type unix "
                   "or inet",
                   name);
        return false;
    }
    if (getpeername(fd, (struct sockaddr *)&peer, &peer_len) == 0) {
        error_setg(errp,
                   "File descriptor '%s' is a connection, not a socket to "
                   "listen at",
                   name);
        return false;
    }
    /* Who waits has gone again, maybe. */
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0 ||
        listen(fd, SOMAXCONN) < 0) {
        error_setg_errno(errp, errno,
                         "Failed to listen on file descriptor '%s'", name);
        return false;
    }
    return true;
}

static SocketListener *listen_fd(JsonObject *addr, GError **errp)
{
    const char *name = schema_get_str(addr, "str", NULL);
    g_autoptr(SocketListener) listener = listener_alloc();
    guint i;

    g_array_unref(listener->fds);
    listener->fds = named_fd_take(name, errp);
    if (!listener->fds) {
        listener->fds = g_array_new(false, false, sizeof(int));
        return NULL;
    }
    for (i = 0; i < listener->fds->len; i++) {
        if (!adopt_socket(socket_listener_fd(listener, i), name, errp)) {
            return NULL;
        }
    }
    return g_steal_pointer(&listener);
}

SocketListener *socket_listener_new(JsonObject *addr, mode_t mode,
                                    GError **errp)
{
    if (g_str_equal(schema_get_str(addr, "type", ""), "unix")) {
        return listen_unix(addr, mode, errp);
    }
    if (g_str_equal(schema_get_str(addr, "type", ""), "fd")) {
        return listen_fd(addr, errp);
    }
    return listen_inet(addr, errp);
}

/* ---- description -------------------------------------------------------- */

JsonObject *socket_address_flatten(JsonObject *legacy)
{
    JsonObject *data = schema_get_object(legacy, "data");
    JsonObject *flat = json_object_new();
    g_autoptr(GList) names = json_object_get_members(data);

    for (GList *l = names; l; l = l->next) {
        json_object_set_member(flat, l->data,
                               json_object_dup_member(data, l->data));
    }
    json_object_set_string_member(flat, "type",
                                  schema_get_str(legacy, "type", NULL));
    return flat;
}

static const SchemaType address_kind_type = {
    .name = "SocketAddressType",
    .kind = SCHEMA_ENUM,
    .doc = "Kinds of stream sockets.",
    .values = (const char *const[]){ "inet", "unix", "fd", NULL },
};

static const SchemaType unix_type = {
    .name = "UnixSocketAddress",
    .kind = SCHEMA_OBJECT,
    .doc = "A unix domain socket.",
    .members =
        (const SchemaMember[]){
            { "path", &schema_str,
              .doc = "Where the socket file is. A server replaces one that is "
                     "left over from an earlier run." },
            { NULL } },
};

static const SchemaType inet_type = {
    .name = "InetSocketAddress",
    .kind = SCHEMA_OBJECT,
    .doc = "A TCP socket.",
    .members =
        (const SchemaMember[]){
            { "host", &schema_str,
              .doc = "Name or address. The empty string stands for all of "
                     "this machine's addresses." },
            { "port", &schema_str,
              .doc = "Number or service name; 0 lets the system choose." },
            { "to", &schema_int, .optional = true,
              .doc = "If the port is taken, try the next ones up to this "
                     "number (default: do not)." },
            { "ipv4", &schema_bool, .optional = true,
              .doc = "Use IPv4 (default: whatever the host resolves to)." },
            { "ipv6", &schema_bool, .optional = true,
              .doc = "Use IPv6 (default: whatever the host resolves to)." },
            { NULL } },
};

static const SchemaType fd_type = {
    .name = "String",
    .kind = SCHEMA_OBJECT,
    .doc = "A socket that somebody else has opened: one to listen at, or for a "
           "client, one that is connected.",
    .members =
        (const SchemaMember[]){
            { "str", &schema_str,
              .doc = "The name that getfd or a service manager "
                     "(sd_listen_fds(3)) gave it, or the number of a "
                     "descriptor that was open when the daemon was started. "
                     "Those of a service manager can be used again and again; "
                     "if several have that name, all are listened at." },
            { NULL } },
};

static bool address_branch(size_t n, const char **tag, const SchemaType **type)
{
    static const SchemaType *const types[] = { &inet_type, &unix_type,
                                               &fd_type };

    if (n >= G_N_ELEMENTS(types)) {
        return false;
    }
    *tag = address_kind_type.values[n];
    *type = types[n];
    return true;
}

const SchemaType socket_address_type = {
    .name = "SocketAddress",
    .kind = SCHEMA_OBJECT,
    .doc = "The address of a stream socket.",
    .members = (const SchemaMember[]){ { "type", &address_kind_type,
                                         .doc = "The kind of socket." },
                                       { NULL } },
    .discriminator = "type",
    .branch = address_branch,
};

static const SchemaType unix_wrapper_type = {
    .name = "UnixSocketAddressWrapper",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){ { "data", &unix_type, .doc = "The address." },
                                { NULL } },
};

static const SchemaType inet_wrapper_type = {
    .name = "InetSocketAddressWrapper",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){ { "data", &inet_type, .doc = "The address." },
                                { NULL } },
};

static const SchemaType fd_wrapper_type = {
    .name = "StringWrapper",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){ { "data", &fd_type, .doc = "The address." },
                                { NULL } },
};

static bool legacy_branch(size_t n, const char **tag, const SchemaType **type)
{
    static const SchemaType *const types[] = { &inet_wrapper_type,
                                               &unix_wrapper_type,
                                               &fd_wrapper_type };

    if (n >= G_N_ELEMENTS(types)) {
        return false;
    }
    *tag = address_kind_type.values[n];
    *type = types[n];
    return true;
}

const SchemaType socket_address_legacy_type = {
    .name = "SocketAddressLegacy",
    .kind = SCHEMA_OBJECT,
    .doc = "The address of a stream socket, with its parts under 'data'.",
    .members = (const SchemaMember[]){ { "type", &address_kind_type,
                                         .doc = "The kind of socket." },
                                       { NULL } },
    .discriminator = "type",
    .branch = legacy_branch,
};
