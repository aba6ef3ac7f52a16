/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What listening and connecting have in common */
#ifndef UTIL_SOCKET_INT_H
#define UTIL_SOCKET_INT_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <netdb.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

/*
 * The addresses that @addr, of type inet, stands for: of one to listen at if
 * @passive. May wait for the resolution of a name; what it may say about a range
 * of ports is not looked at. To be freed with freeaddrinfo(); or NULL and @errp.
 */
struct addrinfo *socket_resolve(JsonObject *addr, bool passive, GError **errp);

/* The address of the socket file @path. False and @errp if it is too long. */
bool socket_unix_address(const char *path, struct sockaddr_un *un,
                         GError **errp);

#endif
