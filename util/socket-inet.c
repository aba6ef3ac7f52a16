/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From what QMP calls an inet socket's address to those of the system */
#include "util/socket-int.h"

#include <netinet/in.h>
#include <string.h>

#include "util/error.h"
#include "util/schema.h"

/* PF_INET, PF_INET6 or PF_UNSPEC, as ipv4 and ipv6 say; -1 and @errp */
static int inet_family(JsonObject *addr, GError **errp)
{
    bool has4 = schema_has(addr, "ipv4"), has6 = schema_has(addr, "ipv6");
    bool ipv4 = schema_get_bool(addr, "ipv4", false);
    bool ipv6 = schema_get_bool(addr, "ipv6", false);

    if (has4 && has6 && !ipv4 && !ipv6) {
        error_setg(errp, "Cannot disable IPv4 and IPv6 at same time");
        return -1;
    }
    if ((ipv6 && !ipv4) || (has4 && !ipv4)) {
        return PF_INET6;
    }
    if ((ipv4 && !ipv6) || (has6 && !ipv6)) {
        return PF_INET;
    }
    return PF_UNSPEC;
}

/* The resolver lets numbers wrap around; names are its business. */
static bool check_service(const char *service, GError **errp)
{
    guint64 port;

    if (service[0] && service[strspn(service, "0123456789")] == 0 &&
        !g_ascii_string_to_unsigned(service, 10, 0, G_MAXUINT16, &port, NULL)) {
        error_setg(errp, "Port '%s' is not between 0 and 65535", service);
        return false;
    }
    return true;
}

struct addrinfo *socket_resolve(JsonObject *addr, bool passive, GError **errp)
{
    const char *host = schema_get_str(addr, "host", "");
    const char *service = schema_get_str(addr, "port", "");
    struct addrinfo hints = { .ai_flags = passive ? AI_PASSIVE : 0,
                              .ai_socktype = SOCK_STREAM };
    struct addrinfo *list;
    int ret;

    hints.ai_family = inet_family(addr, errp);
    if (hints.ai_family < 0 || !check_service(service, errp)) {
        return NULL;
    }
    ret = getaddrinfo(host[0] ? host : NULL, service, &hints, &list);
    if (ret != 0) {
        error_setg(errp, "address resolution failed for %s:%s: %s", host,
                   service, gai_strerror(ret));
        return NULL;
    }
    return list;
}
