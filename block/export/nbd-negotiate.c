/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The handshake: fixed newstyle, in which the client sends options until one of
 * them, GO or EXPORT_NAME, chooses an export.
 */
#include "block/export/nbd-int.h"

#include <errno.h>
#include <string.h>

typedef struct Negotiation {
    NbdConn *conn;
    bool fixed;     /* the client understands replies to options */
    bool no_zeroes; /* and wants no padding after EXPORT_NAME */
    uint32_t option;
    uint8_t *data; /* NBD_MAX_OPTION bytes: the option's */
    uint32_t length;
    char *context_export; /* of the last SET_META_CONTEXT; or NULL */
} Negotiation;

typedef enum Outcome {
    NEXT_OPTION,
    HANG_UP,
    TRANSMISSION,
} Outcome;

static Outcome outcome(int ret)
{
    return ret < 0 ? HANG_UP : NEXT_OPTION;
}

/* ---- replies ------------------------------------------------------------ */

static int reply_parts(Negotiation *n, uint32_t type, const void *head,
                       size_t head_size, const void *tail, size_t tail_size)
{
    NbdOptionReply reply = {
        .magic = GUINT64_TO_BE(NBD_REP_MAGIC),
        .option = GUINT32_TO_BE(n->option),
        .type = GUINT32_TO_BE(type),
        .length = GUINT32_TO_BE(head_size + tail_size),
    };
    struct iovec iov[] = {
        { &reply, sizeof(reply) },
        { (void *)head, head_size },
        { (void *)tail, tail_size },
    };

    return nbd_conn_send(n->conn, iov, G_N_ELEMENTS(iov));
}

static int reply(Negotiation *n, uint32_t type)
{
    return reply_parts(n, type, NULL, 0, NULL, 0);
}

static int reply_error(Negotiation *n, uint32_t type, const char *message)
{
    return reply_parts(n, type, message, strlen(message), NULL, 0);
}

static int reply_info_string(Negotiation *n, uint16_t info, const char *s)
{
    uint16_t type = GUINT16_TO_BE(info);

    return reply_parts(n, NBD_REP_INFO, &type, sizeof(type), s, strlen(s));
}

/* ---- parsing an option's data ------------------------------------------- */

typedef struct Cursor {
    const uint8_t *p;
    size_t left;
} Cursor;

static bool get_bytes(Cursor *c, void *buf, size_t bytes)
{
    if (c->left < bytes) {
        return false;
    }
    memcpy(buf, c->p, bytes);
    c->p += bytes;
    c->left -= bytes;
    return true;
}

static bool get_u16(Cursor *c, uint16_t *value)
{
    if (!get_bytes(c, value, sizeof(*value))) {
        return false;
    }
    *value = GUINT16_FROM_BE(*value);
    return true;
}

static bool get_u32(Cursor *c, uint32_t *value)
{
    if (!get_bytes(c, value, sizeof(*value))) {
        return false;
    }
    *value = GUINT32_FROM_BE(*value);
    return true;
}

/* A string as the protocol wants it; NULL if it is none. (transfer full) */
static char *make_string(const uint8_t *p, size_t bytes)
{
    if (bytes > NBD_MAX_STRING || memchr(p, 0, bytes) ||
        !g_utf8_validate_len((const char *)p, bytes, NULL)) {
        return NULL;
    }
    return g_strndup((const char *)p, bytes);
}

/* A string with its length before it */
static char *get_string(Cursor *c)
{
    uint32_t bytes;
    char *s;

    if (!get_u32(c, &bytes) || bytes > c->left) {
        return NULL;
    }
    s = make_string(c->p, bytes);
    c->p += bytes;
    c->left -= bytes;
    return s;
}

/* ---- choosing an export ------------------------------------------------- */

/* The contexts that hold for that export: those last chosen, if for it */
static NbdContexts contexts_for(Negotiation *n, const char *name)
{
    if (!n->context_export || !g_str_equal(n->context_export, name)) {
        return 0;
    }
    return n->conn->contexts;
}

static uint16_t flags_for(Negotiation *n, const NbdExportInfo *info)
{
    uint16_t flags = info->flags;

    if (n->conn->structured) {
        flags |= NBD_FLAG_SEND_DF;
    }
    if (n->conn->extended && contexts_for(n, info->name)) {
        flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    }
    return flags;
}

static void begin_transmission(Negotiation *n, const NbdExportInfo *info)
{
    NbdConn *conn = n->conn;

    conn->size = info->size;
    conn->flags = flags_for(n, info);
    conn->contexts = contexts_for(n, info->name);
}

static Outcome handle_export_name(Negotiation *n)
{
    g_autofree char *name = make_string(n->data, n->length);
    g_autoptr(NbdExportInfo) info = NULL;
    NbdExportNameReply answer = { 0 };
    struct iovec iov = { &answer, sizeof(answer) };

    if (name && !n->conn->extended) { /* with extended headers, GO is a must */
        info = nbd_export_lookup(name, n->conn);
    }
    if (!info) {
        return HANG_UP; /* this option knows no error replies */
    }
    begin_transmission(n, info);
    answer.size = GUINT64_TO_BE(n->conn->size);
    answer.flags = GUINT16_TO_BE(n->conn->flags);
    if (n->no_zeroes) {
        iov.iov_len = G_STRUCT_OFFSET(NbdExportNameReply, zeroes);
    }
    return nbd_conn_send(n->conn, &iov, 1) < 0 ? HANG_UP : TRANSMISSION;
}

/* The information on @info that GO and INFO give; @asked: bit per kind */
static int send_info(Negotiation *n, const NbdExportInfo *info, unsigned asked)
{
    NbdInfoExport export = {
        .type = GUINT16_TO_BE(NBD_INFO_EXPORT),
        .size = GUINT64_TO_BE(info->size),
        .flags = GUINT16_TO_BE(flags_for(n, info)),
    };
    NbdInfoBlockSize sizes = {
        .type = GUINT16_TO_BE(NBD_INFO_BLOCK_SIZE),
        .minimum = GUINT32_TO_BE(1),
        .preferred = GUINT32_TO_BE(info->preferred_size),
        .maximum = GUINT32_TO_BE(NBD_MAX_REQUEST),
    };
    int ret = 0;

    if (asked & (1 << NBD_INFO_NAME)) {
        ret = reply_info_string(n, NBD_INFO_NAME, info->name);
    }
    if (ret == 0 && (asked & (1 << NBD_INFO_DESCRIPTION)) &&
        info->description) {
        ret = reply_info_string(n, NBD_INFO_DESCRIPTION, info->description);
    }
    if (ret == 0) {
        ret = reply_parts(n, NBD_REP_INFO, &sizes, sizeof(sizes), NULL, 0);
    }
    if (ret == 0) {
        ret = reply_parts(n, NBD_REP_INFO, &export, sizeof(export), NULL, 0);
    }
    return ret;
}

/* INFO and GO */
static Outcome handle_go(Negotiation *n)
{
    Cursor c = { n->data, n->length };
    bool go = n->option == NBD_OPT_GO;
    g_autofree char *name = get_string(&c);
    g_autoptr(NbdExportInfo) info = NULL;
    uint16_t requests = 0, kind;
    unsigned asked = 0;

    if (!name || !get_u16(&c, &requests) || c.left != requests * 2u) {
        return outcome(
            reply_error(n, NBD_REP_ERR_INVALID, "malformed request"));
    }
    while (get_u16(&c, &kind)) {
        if (kind <= NBD_INFO_BLOCK_SIZE) {
            asked |= 1 << kind;
        }
    }
    info = nbd_export_lookup(name, go ? n->conn : NULL);
    if (!info) {
        return outcome(
            reply_error(n, NBD_REP_ERR_UNKNOWN, "there is no such export"));
    }
    if (send_info(n, info, asked) < 0 || reply(n, NBD_REP_ACK) < 0) {
        return HANG_UP;
    }
    if (go) {
        begin_transmission(n, info);
        return TRANSMISSION;
    }
    return NEXT_OPTION;
}

/* ---- other options ------------------------------------------------------ */

static Outcome handle_list(Negotiation *n)
{
    g_autoptr(GPtrArray) list = NULL;

    if (n->length > 0) {
        return outcome(
            reply_error(n, NBD_REP_ERR_INVALID, "LIST takes no data"));
    }
    list = nbd_export_list();
    for (guint i = 0; i < list->len; i++) {
        NbdExportInfo *info = g_ptr_array_index(list, i);
        g_autofree char *text = g_strconcat(
            info->name, info->description ? info->description : "", NULL);
        uint32_t name_length = GUINT32_TO_BE(strlen(info->name));

        if (reply_parts(n, NBD_REP_SERVER, &name_length, sizeof(name_length),
                        text, strlen(text)) < 0) {
            return HANG_UP;
        }
    }
    return outcome(reply(n, NBD_REP_ACK));
}

static Outcome handle_structured_reply(Negotiation *n)
{
    if (n->length > 0) {
        return outcome(reply_error(n, NBD_REP_ERR_INVALID,
                                   "STRUCTURED_REPLY takes no data"));
    }
    if (n->conn->extended) {
        return outcome(reply_error(n, NBD_REP_ERR_EXT_HEADER_REQD,
                                   "extended headers are in use already"));
    }
    n->conn->structured = true;
    return outcome(reply(n, NBD_REP_ACK));
}

static Outcome handle_extended_headers(Negotiation *n)
{
    if (n->length > 0) {
        return outcome(reply_error(n, NBD_REP_ERR_INVALID,
                                   "EXTENDED_HEADERS takes no data"));
    }
    n->conn->structured = n->conn->extended = true;
    return outcome(reply(n, NBD_REP_ACK));
}

#define BITMAP_PREFIX "qemu:dirty-bitmap:"

/* All that are offered of that export */
static NbdContexts offered_contexts(const NbdExportInfo *info)
{
    NbdContexts offered = NBD_CONTEXT_BIT(NBD_CONTEXT_ALLOCATION);
    unsigned i;

    if (info->allocation_depth) {
        offered |= NBD_CONTEXT_BIT(NBD_CONTEXT_DEPTH);
    }
    for (i = 0; info->bitmaps[i]; i++) {
        offered |= NBD_CONTEXT_BIT(NBD_CONTEXT_BITMAPS + i);
    }
    return offered;
}

/* Its name. (transfer full) */
static char *context_name(const NbdExportInfo *info, unsigned id)
{
    switch (id) {
    case NBD_CONTEXT_ALLOCATION:
        return g_strdup("base:allocation");
    case NBD_CONTEXT_DEPTH:
        return g_strdup("qemu:allocation-depth");
    default:
        return g_strconcat(BITMAP_PREFIX,
                           info->bitmaps[id - NBD_CONTEXT_BITMAPS], NULL);
    }
}

/* What stands for all that begin with it, where contexts are listed; where they
 * are chosen it is none. */
static bool is_wildcard(const char *query)
{
    return g_str_equal(query, "base:") || g_str_equal(query, "qemu:") ||
           g_str_equal(query, BITMAP_PREFIX);
}

/* The contexts that @query stands for; the first of those with the same name */
static NbdContexts match_contexts(const NbdExportInfo *info, const char *query,
                                  bool list)
{
    bool all = list && is_wildcard(query);
    NbdContexts offered = offered_contexts(info), matched = 0;

    for (unsigned i = 0; i < NBD_CONTEXTS; i++) {
        g_autofree char *name = NULL;

        if (!(offered & NBD_CONTEXT_BIT(i))) {
            continue;
        }
        name = context_name(info, i);
        if (g_str_equal(query, name)) {
            return NBD_CONTEXT_BIT(i);
        }
        if (all && g_str_has_prefix(name, query)) {
            matched |= NBD_CONTEXT_BIT(i);
        }
    }
    return matched;
}

static Outcome send_contexts(Negotiation *n, const NbdExportInfo *info,
                             NbdContexts chosen)
{
    bool list = n->option == NBD_OPT_LIST_META_CONTEXT;

    for (unsigned i = 0; i < NBD_CONTEXTS; i++) {
        uint32_t id = list ? 0 : GUINT32_TO_BE(i);
        g_autofree char *name = NULL;

        if (!(chosen & NBD_CONTEXT_BIT(i))) {
            continue;
        }
        name = context_name(info, i);
        if (reply_parts(n, NBD_REP_META_CONTEXT, &id, sizeof(id), name,
                        strlen(name)) < 0) {
            return HANG_UP;
        }
    }
    return outcome(reply(n, NBD_REP_ACK));
}

/* LIST_META_CONTEXT and SET_META_CONTEXT */
static Outcome handle_meta_context(Negotiation *n)
{
    Cursor c = { n->data, n->length };
    bool list = n->option == NBD_OPT_LIST_META_CONTEXT;
    g_autofree char *name = get_string(&c);
    g_autoptr(NbdExportInfo) info = NULL;
    NbdContexts chosen = 0;
    uint32_t queries;

    if (!list) {
        n->conn->contexts = 0;
        g_clear_pointer(&n->context_export, g_free);
    }
    if (!n->conn->structured) {
        return outcome(reply_error(n, NBD_REP_ERR_INVALID,
                                   "metadata contexts need structured "
                                   "replies"));
    }
    if (!name || !get_u32(&c, &queries)) {
        return outcome(
            reply_error(n, NBD_REP_ERR_INVALID, "malformed request"));
    }
    info = nbd_export_lookup(name, NULL);
    if (!info) {
        return outcome(
            reply_error(n, NBD_REP_ERR_UNKNOWN, "there is no such export"));
    }
    if (list && queries == 0) {
        chosen = offered_contexts(info);
    }
    for (uint32_t i = 0; i < queries; i++) {
        g_autofree char *query = get_string(&c);

        if (!query) {
            return outcome(
                reply_error(n, NBD_REP_ERR_INVALID, "malformed query"));
        }
        chosen |= match_contexts(info, query, list);
    }
    if (c.left > 0) {
        return outcome(
            reply_error(n, NBD_REP_ERR_INVALID, "data after the last query"));
    }
    if (!list) {
        n->conn->contexts = chosen;
        n->context_export = g_steal_pointer(&name);
    }
    return send_contexts(n, info, chosen);
}

static Outcome handle_option(Negotiation *n)
{
    if (!n->fixed && n->option != NBD_OPT_EXPORT_NAME) {
        return HANG_UP;
    }
    switch (n->option) {
    case NBD_OPT_EXPORT_NAME:
        return handle_export_name(n);
    case NBD_OPT_ABORT:
        reply(n, NBD_REP_ACK);
        return HANG_UP;
    case NBD_OPT_LIST:
        return handle_list(n);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return handle_go(n);
    case NBD_OPT_STRUCTURED_REPLY:
        return handle_structured_reply(n);
    case NBD_OPT_EXTENDED_HEADERS:
        return handle_extended_headers(n);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return handle_meta_context(n);
    case NBD_OPT_STARTTLS:
        return outcome(
            reply_error(n, NBD_REP_ERR_UNSUP, "this server offers no TLS"));
    default:
        return outcome(
            reply_error(n, NBD_REP_ERR_UNSUP, "this option is not known"));
    }
}

/* ---- the conversation --------------------------------------------------- */

/* Greetings are exchanged; false if the client is none of ours. */
static bool greet(Negotiation *n)
{
    NbdGreeting greeting = {
        .init_magic = GUINT64_TO_BE(NBD_INIT_MAGIC),
        .option_magic = GUINT64_TO_BE(NBD_OPTION_MAGIC),
        .flags = GUINT16_TO_BE(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
    };
    struct iovec iov = { &greeting, sizeof(greeting) };
    uint32_t flags;

    if (nbd_conn_send(n->conn, &iov, 1) < 0 ||
        nbd_conn_recv(n->conn, &flags, sizeof(flags)) < 0) {
        return false;
    }
    flags = GUINT32_FROM_BE(flags);
    n->fixed = flags & NBD_FLAG_FIXED_NEWSTYLE;
    n->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    return !(flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES));
}

/* An option that is too long is read to its end, and refused. */
static Outcome skip_option(Negotiation *n)
{
    uint32_t left = n->length, part;

    while (left > 0) {
        part = MIN(left, NBD_MAX_OPTION);
        if (nbd_conn_recv(n->conn, n->data, part) < 0) {
            return HANG_UP;
        }
        left -= part;
    }
    if (!n->fixed || n->option == NBD_OPT_EXPORT_NAME) {
        return HANG_UP;
    }
    return outcome(
        reply_error(n, NBD_REP_ERR_TOO_BIG, "the option's data is too long"));
}

static Outcome next_option(Negotiation *n)
{
    NbdOption option;

    if (nbd_conn_recv(n->conn, &option, sizeof(option)) < 0 ||
        GUINT64_FROM_BE(option.magic) != NBD_OPTION_MAGIC) {
        return HANG_UP;
    }
    n->option = GUINT32_FROM_BE(option.option);
    n->length = GUINT32_FROM_BE(option.length);
    if (n->length > NBD_MAX_OPTION) {
        return skip_option(n);
    }
    if (nbd_conn_recv(n->conn, n->data, n->length) < 0) {
        return HANG_UP;
    }
    return handle_option(n);
}

bool nbd_negotiate(NbdConn *conn)
{
    g_autofree uint8_t *data = g_malloc(NBD_MAX_OPTION);
    Negotiation n = { .conn = conn, .data = data };
    Outcome result = greet(&n) ? NEXT_OPTION : HANG_UP;

    while (result == NEXT_OPTION) {
        result = next_option(&n);
    }
    g_free(n.context_export);
    conn->deadline = 0;
    return result == TRANSMISSION;
}
