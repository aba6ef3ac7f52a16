/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Addresses of stream sockets as QMP describes them, listening there, and
 * connecting to who listens.
 */
#ifndef UTIL_SOCKET_H
#define UTIL_SOCKET_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <sys/types.h>

#include "util/schema.h"

/* SocketAddress: {type, path}, {type, host, port, to?, ipv4?, ipv6?} or
 * {type, str} */
extern const SchemaType socket_address_type;
/* SocketAddressLegacy: {type, data: {path}}, ... */
extern const SchemaType socket_address_legacy_type;

/* The flat form of a wrapped address that was checked. (transfer full) */
JsonObject *socket_address_flatten(JsonObject *legacy);

typedef struct SocketListener SocketListener;

/*
 * Listen at @addr, checked against socket_address_type. A name that stands for
 * several addresses is listened to at all of them. A socket file at which
 * nobody listens any more is replaced; a path at which something else lies is
 * refused. A socket file is made with permissions @mode, less the umask. May
 * wait for the resolution of a name. Sockets that were passed (type fd, see
 * util/fdset.h) are made non-blocking for all who have them. NULL and @errp on error.
 */
SocketListener *socket_listener_new(JsonObject *addr, mode_t mode,
                                    GError **errp);
/* Closes the sockets, and removes the socket file if it is still ours. */
void socket_listener_free(SocketListener *listener);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SocketListener, socket_listener_free)

/* The listening sockets: non-blocking, close-on-exec. */
guint socket_listener_count(const SocketListener *listener);
int socket_listener_fd(const SocketListener *listener, guint i);

/*
 * Connect to who listens at @addr, checked against socket_address_type: a socket
 * that is non-blocking and close-on-exec. Tries all addresses that a name stands
 * for, until one works or @deadline_us (monotonic microseconds) has passed, or
 * @stop_fd becomes readable. The resolution of a name may take longer. One that
 * was passed (type fd) is the caller's then; it can be had once. Any thread. -1
 * and @errp on error.
 */
int socket_connect(JsonObject *addr, int64_t deadline_us, int stop_fd,
                   GError **errp);
/* As messages name it: "HOST:PORT", or a path, or a descriptor's name. To be
 * freed. */
char *socket_address_text(JsonObject *addr);

#endif
