/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "script-nbd.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "block/export/nbd-protocol.h"

#define CONTEXT_ID 7
#define MAX_CHUNKS 16
#define SIMPLE_REPLY 0xffff /* in place of a chunk's type */

typedef struct Request {
    uint16_t flags, type;
    uint64_t cookie, offset; /* the cookie as it is on the wire */
    uint32_t length;
} Request;

/* One connection */
typedef struct Peer {
    ScriptNbd *s;
    int fd;
    bool structured;
    GByteArray *out;
} Peer;

/* ---- bytes ----------------------------------------------------------------- */

static bool get(Peer *p, void *buf, size_t bytes)
{
    size_t done = 0;

    while (done < bytes) {
        ssize_t n = recv(p->fd, (char *)buf + done, bytes - done, 0);

        if (n <= 0) {
            return false;
        }
        done += n;
    }
    return true;
}

static bool flush_out(Peer *p)
{
    size_t done = 0;

    while (done < p->out->len) {
        ssize_t n =
            send(p->fd, p->out->data + done, p->out->len - done, MSG_NOSIGNAL);

        if (n <= 0) {
            break;
        }
        done += n;
    }
    g_byte_array_set_size(p->out, 0);
    return true;
}

static void put(Peer *p, const void *data, size_t bytes)
{
    g_byte_array_append(p->out, data, bytes);
}

/* So many bytes of the script, or fewer if it ends; how many */
static size_t put_script(Peer *p, size_t bytes)
{
    size_t n;
    const uint8_t *data = fuzz_bytes(&p->s->script, bytes, &n);

    put(p, data, n);
    return n;
}

/* The same into @data */
static size_t copy_script(ScriptNbd *s, uint8_t *data, size_t bytes)
{
    size_t n;
    const uint8_t *from = fuzz_bytes(&s->script, bytes, &n);

    memcpy(data, from, n);
    return n;
}

/* ---- the handshake ---------------------------------------------------------- */

static void put_option_reply(Peer *p, uint32_t option, uint32_t type,
                             const void *data, uint32_t bytes)
{
    NbdOptionReply reply = {
        .magic = GUINT64_TO_BE(NBD_REP_MAGIC),
        .option = GUINT32_TO_BE(option),
        .type = GUINT32_TO_BE(type),
        .length = GUINT32_TO_BE(bytes),
    };

    put(p, &reply, sizeof(reply));
    put(p, data, bytes);
}

static void answer_go(Peer *p)
{
    NbdInfoExport info = {
        .type = GUINT16_TO_BE(NBD_INFO_EXPORT),
        .size = GUINT64_TO_BE(p->s->size),
        .flags = GUINT16_TO_BE(p->s->flags),
    };
    NbdInfoBlockSize sizes = {
        .type = GUINT16_TO_BE(NBD_INFO_BLOCK_SIZE),
        .minimum = GUINT32_TO_BE(p->s->min_block),
        .preferred = GUINT32_TO_BE(4096),
        .maximum = GUINT32_TO_BE(p->s->max_block),
    };

    put_option_reply(p, NBD_OPT_GO, NBD_REP_INFO, &info, sizeof(info));
    if (p->s->min_block) {
        put_option_reply(p, NBD_OPT_GO, NBD_REP_INFO, &sizes, sizeof(sizes));
    }
    put_option_reply(p, NBD_OPT_GO, NBD_REP_ACK, "", 0);
}

static void answer_context(Peer *p)
{
    static const char name[] = "base:allocation";
    char data[4 + sizeof(name) - 1] = { 0, 0, 0, CONTEXT_ID };

    memcpy(data + 4, name, sizeof(name) - 1);
    put_option_reply(p, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, data,
                     sizeof(data));
    put_option_reply(p, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, "", 0);
}

static void answer_well(Peer *p, uint32_t option)
{
    switch (option) {
    case NBD_OPT_GO:
        answer_go(p);
        break;
    case NBD_OPT_SET_META_CONTEXT:
        answer_context(p);
        break;
    case NBD_OPT_STRUCTURED_REPLY:
        p->structured = true;
        put_option_reply(p, option, NBD_REP_ACK, "", 0);
        break;
    default:
        put_option_reply(p, option, NBD_REP_ERR_UNSUP, "", 0);
        break;
    }
}

/* False: hang up. *@refused: the client may ask for something else. */
static bool answer_option(Peer *p, uint32_t option, bool *refused)
{
    static const uint32_t errors[] = { NBD_REP_ERR_UNSUP, NBD_REP_ERR_INVALID,
                                       NBD_REP_ERR_UNKNOWN, NBD_REP_ERR_TOO_BIG,
                                       0x80000002 };
    ScriptNbd *s = p->s;
    uint8_t data[256];
    uint8_t kind = s->script.left ? fuzz_u8(&s->script) : 0;
    uint32_t type;
    size_t n;

    switch (kind % 16) {
    case 10: /* an error, maybe with words */
        n = fuzz_u8(&s->script) % 64;
        n = copy_script(s, data, n);
        put_option_reply(p, option, errors[kind / 16 % G_N_ELEMENTS(errors)],
                         data, n);
        *refused = true;
        return true;
    case 11: /* a reply of any kind, and then the right one */
    case 12:
        type = fuzz_u8(&s->script) % 8;
        n = fuzz_u8(&s->script);
        n = copy_script(s, data, n);
        put_option_reply(p, option, type, data, n);
        answer_well(p, option);
        return true;
    case 13: /* yes, whatever it is; without having done it */
        p->structured |= option == NBD_OPT_STRUCTURED_REPLY;
        put_option_reply(p, option, NBD_REP_ACK, "", 0);
        return true;
    case 14: /* anything */
        put_script(p, fuzz_u8(&s->script));
        return false;
    case 15:
        return false;
    default:
        answer_well(p, option);
        return true;
    }
}

static bool shake_hands(Peer *p)
{
    NbdGreeting greeting = {
        .init_magic = GUINT64_TO_BE(NBD_INIT_MAGIC),
        .option_magic = GUINT64_TO_BE(NBD_OPTION_MAGIC),
        .flags = GUINT16_TO_BE(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
    };
    uint8_t kind = p->s->script.left ? fuzz_u8(&p->s->script) : 0;
    uint32_t flags, code;
    NbdOption option;
    bool go_on, refused;

    if (kind == 0xff) {
        put_script(p, fuzz_u8(&p->s->script));
        flush_out(p);
        return false;
    }
    if (kind == 0xfe) {
        greeting.flags = fuzz_u16(&p->s->script);
    }
    put(p, &greeting, sizeof(greeting));
    flush_out(p);
    if (!get(p, &flags, sizeof(flags))) {
        return false;
    }
    do {
        g_autofree char *data = NULL;
        uint32_t length;

        if (!get(p, &option, sizeof(option))) {
            return false;
        }
        length = GUINT32_FROM_BE(option.length);
        fuzz_assert(length < 65536);
        data = g_malloc(length + 1);
        if (!get(p, data, length)) {
            return false;
        }
        code = GUINT32_FROM_BE(option.option);
        if (code == NBD_OPT_EXPORT_NAME) {
            NbdExportNameReply reply = { .size = GUINT64_TO_BE(p->s->size),
                                         .flags = GUINT16_TO_BE(p->s->flags) };
            size_t zeroes = flags & GUINT32_TO_BE(NBD_FLAG_NO_ZEROES)
                                ? sizeof(reply.zeroes)
                                : 0;

            put(p, &reply, sizeof(reply) - zeroes);
            return flush_out(p);
        }
        if (code == NBD_OPT_ABORT) {
            return false;
        }
        refused = false;
        go_on = answer_option(p, code, &refused);
        flush_out(p);
    } while (go_on && (refused || code != NBD_OPT_GO));
    return go_on;
}

/* ---- the book --------------------------------------------------------------- */

/* Lock held, as for all here. @data: NULL: zeroes */
static void note_sent(ScriptNbd *s, uint64_t offset, const uint8_t *data,
                      uint64_t bytes)
{
    uint64_t i;

    for (i = 0; i < bytes && offset + i < SCRIPT_WINDOW; i++) {
        s->sent[offset + i] = data ? data[i] : 0;
        s->has_sent[offset + i] = true;
    }
}

static void note_zero(ScriptNbd *s, const Request *r, uint64_t from,
                      uint64_t bytes, bool zero)
{
    uint64_t end = MIN((uint64_t)r->offset + r->length, SCRIPT_WINDOW);

    for (; bytes-- > 0 && from < end; from++) {
        s->zero[from] = zero;
    }
}

/* A chunk that goes out: what may be believed because of it? */
static void note_chunk(ScriptNbd *s, const Request *r, uint16_t type,
                       const uint8_t *data, size_t bytes)
{
    uint64_t offset, from = r->offset;
    uint32_t length, flags;
    size_t i;

    if (!(type & 0x8000)) {
        s->may_succeed = true;
    }
    if (type == SIMPLE_REPLY && r->type == NBD_CMD_READ) {
        note_sent(s, r->offset, data, bytes);
    }
    if (type == NBD_REPLY_TYPE_OFFSET_DATA && bytes > 8) {
        memcpy(&offset, data, 8);
        note_sent(s, GUINT64_FROM_BE(offset), data + 8, bytes - 8);
    }
    if (type == NBD_REPLY_TYPE_OFFSET_HOLE && bytes == 12) {
        memcpy(&offset, data, 8);
        memcpy(&length, data + 8, 4);
        note_sent(s, GUINT64_FROM_BE(offset), NULL,
                  MIN(GUINT32_FROM_BE(length), SCRIPT_WINDOW));
    }
    if (type == NBD_REPLY_TYPE_BLOCK_STATUS && bytes >= 4) {
        for (i = 4; i + 8 <= bytes; i += 8) {
            memcpy(&length, data + i, 4);
            memcpy(&flags, data + i + 4, 4);
            length = GUINT32_FROM_BE(length);
            if (flags & GUINT32_TO_BE(NBD_STATE_ZERO)) {
                note_zero(s, r, from, length, true);
            }
            from += length;
        }
    }
}

/* ---- replies ---------------------------------------------------------------- */

static void put_chunk(Peer *p, const Request *r, uint16_t flags, uint16_t type,
                      const uint8_t *data, uint32_t bytes)
{
    NbdChunk head = {
        .magic = GUINT32_TO_BE(NBD_STRUCTURED_REPLY_MAGIC),
        .flags = GUINT16_TO_BE(flags),
        .type = GUINT16_TO_BE(type),
        .cookie = r->cookie,
        .length = GUINT32_TO_BE(bytes),
    };

    put(p, &head, sizeof(head));
    put(p, data, bytes);
    note_chunk(p->s, r, type, data, bytes);
}

static void put_simple(Peer *p, const Request *r, uint32_t error,
                       const uint8_t *data, uint32_t bytes)
{
    NbdSimpleReply head = {
        .magic = GUINT32_TO_BE(NBD_SIMPLE_REPLY_MAGIC),
        .error = GUINT32_TO_BE(error),
        .cookie = r->cookie,
    };

    put(p, &head, sizeof(head));
    put(p, data, bytes);
    if (error == 0) {
        note_chunk(p->s, r, SIMPLE_REPLY, data, bytes);
        p->s->may_succeed = true;
    }
}

/* What the disk has; nobody looks beyond the window. */
static uint8_t *copy_data(ScriptNbd *s, uint64_t offset, uint32_t bytes,
                          size_t before)
{
    uint8_t *data = g_malloc(before + bytes);

    memset(data + before, 0xee, bytes);
    if (offset < SCRIPT_WINDOW) {
        memcpy(data + before, s->data + offset,
               MIN(bytes, SCRIPT_WINDOW - offset));
    }
    return data;
}

static void put_data_chunk(Peer *p, const Request *r, uint16_t flags,
                           uint64_t offset, uint32_t bytes)
{
    g_autofree uint8_t *data = copy_data(p->s, offset, bytes, 8);
    uint64_t be = GUINT64_TO_BE(offset);

    memcpy(data, &be, 8);
    put_chunk(p, r, flags, NBD_REPLY_TYPE_OFFSET_DATA, data, 8 + bytes);
}

static void put_hole_chunk(Peer *p, const Request *r, uint16_t flags,
                           uint64_t offset, uint32_t bytes)
{
    NbdHoleFields hole = { GUINT64_TO_BE(offset), GUINT32_TO_BE(bytes) };

    put_chunk(p, r, flags, NBD_REPLY_TYPE_OFFSET_HOLE, (uint8_t *)&hole,
              sizeof(hole));
}

static void put_error(Peer *p, const Request *r, uint32_t error)
{
    NbdErrorFields fields = { GUINT32_TO_BE(error), 0 };

    if (p->structured) {
        put_chunk(p, r, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR,
                  (uint8_t *)&fields, sizeof(fields));
    } else {
        put_simple(p, r, error, NULL, 0);
    }
}

static void answer_status(Peer *p, const Request *r)
{
    uint8_t data[4 + 8 * 64];
    uint64_t from = r->offset, end = r->offset + r->length;
    uint32_t be = GUINT32_TO_BE(CONTEXT_ID);
    size_t n = 4;

    memcpy(data, &be, 4);
    while (from < end && n + 8 <= sizeof(data)) {
        bool zero = from < SCRIPT_WINDOW && p->s->data[from] == 0;
        uint64_t to = from;
        NbdExtent extent;

        while (to < MIN(end, SCRIPT_WINDOW) && (p->s->data[to] == 0) == zero) {
            to++;
        }
        to = from >= SCRIPT_WINDOW ? end : to;
        extent.length = GUINT32_TO_BE((uint32_t)(to - from));
        extent.flags = GUINT32_TO_BE(zero ? 3 : 0);
        memcpy(data + n, &extent, 8);
        n += 8;
        from = to;
    }
    put_chunk(p, r, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_BLOCK_STATUS, data, n);
}

static void answer_request_well(Peer *p, const Request *r)
{
    g_autofree uint8_t *data = NULL;

    if (r->type == NBD_CMD_BLOCK_STATUS) {
        answer_status(p, r);
    } else if (r->type == NBD_CMD_READ && p->structured) {
        put_data_chunk(p, r, NBD_REPLY_FLAG_DONE, r->offset, r->length);
    } else if (r->type == NBD_CMD_READ) {
        data = copy_data(p->s, r->offset, r->length, 0);
        put_simple(p, r, 0, data, r->length);
    } else {
        if (r->type == NBD_CMD_WRITE_ZEROES) {
            note_zero(p->s, r, r->offset, r->length, true);
        }
        put_simple(p, r, 0, NULL, 0);
    }
}

/* A reply in parts that may be those of the whole, or not */
static void answer_in_parts(Peer *p, const Request *r)
{
    FuzzInput *in = &p->s->script;
    unsigned n = fuzz_u8(in) % MAX_CHUNKS;
    uint64_t at = r->offset, end = r->offset + r->length;

    while (n-- > 0 && at < end) {
        uint8_t kind = fuzz_u8(in);
        uint64_t bytes = (uint64_t)r->length * (fuzz_u8(in) + 1) / 256 + 1;
        uint16_t flags;

        bytes = MIN(bytes, end - at);
        flags = n == 0 || at + bytes == end ? NBD_REPLY_FLAG_DONE : 0;
        switch (kind % 8) {
        case 0: /* left out */
            break;
        case 1: /* twice */
            put_data_chunk(p, r, 0, at, bytes);
            put_data_chunk(p, r, flags, at, bytes);
            break;
        case 2: /* where it was not asked for */
            put_data_chunk(p, r, flags, at + r->length, bytes);
            break;
        case 3:
        case 4:
            put_hole_chunk(p, r, flags, at, bytes);
            break;
        default:
            put_data_chunk(p, r, flags, at, bytes);
            break;
        }
        at += bytes;
    }
    put_chunk(p, r, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, NULL, 0);
}

static void answer_any_status(Peer *p, const Request *r)
{
    FuzzInput *in = &p->s->script;
    unsigned n = fuzz_u8(in) % 32, i;
    uint8_t data[4 + 8 * 32];
    uint32_t context = fuzz_u8(in);
    uint16_t flags = context & 0x80 ? 0 : NBD_REPLY_FLAG_DONE;

    context = GUINT32_TO_BE(context & 0x40 ? context : CONTEXT_ID);
    memcpy(data, &context, 4);
    for (i = 0; i < n; i++) {
        uint32_t length = fuzz_u16(in);
        NbdExtent extent;

        /* in sectors or bytes; or too much */
        length = length & 0x8000 ? length & 0x7fff : length * 512;
        extent.length = GUINT32_TO_BE(length == 0x7fff ? UINT32_MAX : length);
        extent.flags = GUINT32_TO_BE(fuzz_u8(in));
        memcpy(data + 4 + 8 * i, &extent, 8);
    }
    /* Without any byte it is told for another context that is not there. */
    if (context != GUINT32_TO_BE(CONTEXT_ID)) {
        bool zero[SCRIPT_WINDOW];

        memcpy(zero, p->s->zero, sizeof(zero));
        put_chunk(p, r, flags, NBD_REPLY_TYPE_BLOCK_STATUS, data, 4 + 8 * n);
        memcpy(p->s->zero, zero, sizeof(zero));
    } else {
        put_chunk(p, r, flags, NBD_REPLY_TYPE_BLOCK_STATUS, data, 4 + 8 * n);
    }
    if (!flags) {
        answer_status(p, r);
    }
}

/* False: hang up. Lock held */
static bool answer_request(Peer *p, const Request *r)
{
    static const uint32_t errors[] = { NBD_EPERM,     NBD_EIO,      NBD_ENOMEM,
                                       NBD_EINVAL,    NBD_ENOSPC,   NBD_ENOTSUP,
                                       NBD_EOVERFLOW, NBD_ESHUTDOWN };
    FuzzInput *in = &p->s->script;
    uint8_t kind = in->left ? fuzz_u8(in) : 0;
    Request other = *r;
    uint8_t data[256];
    uint16_t type, flags;
    size_t n;

    if (g_getenv("FUZZ_VERBOSE")) {
        g_printerr("request %d of %u at %" G_GUINT64_FORMAT ": answer %d\n",
                   r->type, r->length, r->offset, kind % 16);
    }
    switch (kind % 16) {
    case 8:
        put_error(p, r, errors[kind / 16 % G_N_ELEMENTS(errors)]);
        return true;
    case 9:
    case 10:
        if (r->type == NBD_CMD_BLOCK_STATUS) {
            answer_any_status(p, r);
        } else {
            answer_in_parts(p, r);
        }
        return true;
    case 11: /* a chunk of any type, well framed; then maybe the right answer */
        type = fuzz_u16(in);
        flags = fuzz_u8(in);
        n = fuzz_u8(in);
        n = copy_script(p->s, data, n);
        put_chunk(p, r, flags, type, data, n);
        if (flags & NBD_REPLY_FLAG_DONE) {
            return true;
        }
        answer_request_well(p, r);
        return true;
    case 12: /* an error, with any words, and then a success */
        n = fuzz_u8(in);
        n = copy_script(p->s, data, n);
        put_chunk(p, r, fuzz_u8(in) & 1, NBD_REPLY_TYPE_ERROR | (kind >> 6),
                  data, n);
        answer_request_well(p, r);
        return true;
    case 13: /* of somebody else's request */
        other.cookie ^= fuzz_u8(in);
        answer_request_well(p, &other);
        return other.cookie == r->cookie;
    case 14: /* anything, and the end */
        note_zero(p->s, r, r->offset, 0, false);
        put_script(p, fuzz_u8(in));
        return false;
    case 15:
        return false;
    default:
        answer_request_well(p, r);
        return true;
    }
}

/* ---- requests --------------------------------------------------------------- */

static bool get_request(Peer *p, Request *r)
{
    NbdRequestHeader head;

    if (!get(p, &head, sizeof(head))) {
        return false;
    }
    fuzz_assert(GUINT32_FROM_BE(head.magic) == NBD_REQUEST_MAGIC);
    *r = (Request){
        .flags = GUINT16_FROM_BE(head.flags),
        .type = GUINT16_FROM_BE(head.type),
        .cookie = head.cookie,
        .offset = GUINT64_FROM_BE(head.offset),
        .length = GUINT32_FROM_BE(head.length),
    };
    fuzz_assert(r->offset <= (uint64_t)p->s->size &&
                    r->length <= p->s->size - r->offset,
                "request %d beyond the end", r->type);
    return r->type != NBD_CMD_DISC;
}

/* What it asks for happens before the reply, whatever that says. */
static bool take_request(Peer *p, const Request *r)
{
    g_autofree uint8_t *data = NULL;
    ScriptNbd *s = p->s;
    uint64_t n = r->offset < SCRIPT_WINDOW
                     ? MIN(r->length, SCRIPT_WINDOW - r->offset)
                     : 0;

    if (r->type == NBD_CMD_WRITE) {
        data = g_malloc(r->length);
        if (!get(p, data, r->length)) {
            return false;
        }
    }
    MUTEX_GUARD(&s->lock);
    if (r->type == NBD_CMD_WRITE && n > 0) {
        memcpy(s->data + r->offset, data, n);
        note_zero(s, r, r->offset, n, false);
    } else if (r->type == NBD_CMD_WRITE_ZEROES && n > 0) {
        memset(s->data + r->offset, 0, n);
    }
    if (r->type == NBD_CMD_READ) {
        memset(s->has_sent, 0, sizeof(s->has_sent));
    }
    s->may_succeed = false;
    return true;
}

static void serve(Peer *p)
{
    Request r;
    bool go_on = shake_hands(p);

    while (go_on && get_request(p, &r) && take_request(p, &r)) {
        MUTEX_GUARD(&p->s->lock);
        go_on = answer_request(p, &r);
        /* Written inside the lock: the client only looks at the book after. */
        flush_out(p);
    }
}

static bool is_stopped(ScriptNbd *s)
{
    MUTEX_GUARD(&s->lock);
    return s->stop;
}

static void *server(void *opaque)
{
    ScriptNbd *s = opaque;

    while (!is_stopped(s)) {
        int fd = accept(s->listener, NULL, NULL);
        Peer p = { .s = s, .fd = fd };

        if (p.fd < 0) {
            break;
        }
        p.out = g_byte_array_new();
        serve(&p);
        g_byte_array_unref(p.out);
        close(p.fd);
    }
    return NULL;
}

void script_nbd_start(ScriptNbd *s)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    unsigned i;

    for (i = 0; i < SCRIPT_WINDOW; i++) {
        /* every second 4 KiB are zeroes */
        s->data[i] = i / 4096 % 2 ? 0 : 1 + (i ^ i >> 8) % 255;
    }
    mutex_init(&s->lock);
    g_strlcpy(un.sun_path, s->path, sizeof(un.sun_path));
    unlink(s->path);
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fuzz_assert(s->listener >= 0 &&
                bind(s->listener, (struct sockaddr *)&un, sizeof(un)) == 0 &&
                listen(s->listener, 5) == 0);
    fuzz_assert(pthread_create(&s->thread, NULL, server, s) == 0);
}

void script_nbd_stop(ScriptNbd *s)
{
    mutex_lock(&s->lock);
    s->stop = true;
    mutex_unlock(&s->lock);
    shutdown(s->listener, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->listener);
    unlink(s->path);
    mutex_destroy(&s->lock);
}
