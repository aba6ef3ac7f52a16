/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of the transmission phase: taken off the socket, checked and done.
 *
 * A WRITE that is longer than the memory to be had for it is done piece by
 * piece as its data comes in. With extended headers a zero-write or TRIM may be
 * as long as the disk; that is done in pieces, too, and no further once the
 * client has gone.
 */
#include "block/export/nbd-int.h"

#include <errno.h>
#include <string.h>

/* Of a long zero-write or TRIM, bytes */
#define LONG_PIECE (UINT64_C(1) << 30)

typedef struct Command {
    bool known;
    uint16_t flags; /* those that make sense, apart from FUA */
    bool writes;
    bool limited; /* to NBD_MAX_REQUEST */
    bool ranged;
    int beyond; /* errno for a range that is not within the export */
} Command;

static const Command commands[] = {
    [NBD_CMD_READ] = { .known = true,
                       .flags = NBD_CMD_FLAG_DF,
                       .limited = true,
                       .ranged = true,
                       .beyond = EINVAL },
    [NBD_CMD_WRITE] = { .known = true,
                        .writes = true,
                        .limited = true,
                        .ranged = true,
                        .beyond = ENOSPC },
    [NBD_CMD_FLUSH] = { .known = true },
    [NBD_CMD_TRIM] = { .known = true,
                       .writes = true,
                       .ranged = true,
                       .beyond = EINVAL },
    [NBD_CMD_WRITE_ZEROES] = { .known = true,
                               .flags = NBD_CMD_FLAG_NO_HOLE |
                                        NBD_CMD_FLAG_FAST_ZERO,
                               .writes = true,
                               .ranged = true,
                               .beyond = ENOSPC },
    [NBD_CMD_BLOCK_STATUS] = { .known = true,
                               .flags = NBD_CMD_FLAG_REQ_ONE,
                               .ranged = true,
                               .beyond = EINVAL },
};

/* ---- receiving ---------------------------------------------------------- */

/* The flags that @conn may set for @command */
static uint16_t valid_flags(const NbdConn *conn, const Command *command)
{
    uint16_t flags = command->flags | NBD_CMD_FLAG_FUA;

    if (!conn->structured) {
        flags &= ~NBD_CMD_FLAG_DF;
    }
    if (conn->extended && (command == &commands[NBD_CMD_WRITE] ||
                           command == &commands[NBD_CMD_BLOCK_STATUS])) {
        flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
    }
    return flags;
}

/* 0, or what is wrong with the request: a negative errno and req->message */
static int check_request(NbdConn *conn, NbdRequest *req)
{
    const Command *command = NULL;

    if (req->type < G_N_ELEMENTS(commands)) {
        command = &commands[req->type];
    }
    if (!command || !command->known) {
        req->message = "unknown command";
        return -EINVAL;
    }
    if (req->flags & ~valid_flags(conn, command)) {
        req->message = "the command does not take these flags";
        return -EINVAL;
    }
    if (command->writes && (conn->flags & NBD_FLAG_READ_ONLY)) {
        req->message = "the export is read-only";
        return -EPERM;
    }
    if (command->limited && req->length > NBD_MAX_REQUEST) {
        req->message = "the request is longer than 32 MiB";
        return -EINVAL;
    }
    if (command->ranged &&
        (req->offset > conn->size || req->length > conn->size - req->offset)) {
        req->message = "the request goes beyond the end of the export";
        return -command->beyond;
    }
    if (req->type == NBD_CMD_BLOCK_STATUS &&
        (req->contexts == 0 || req->length == 0)) {
        req->message = req->contexts ? "the request has no length"
                                     : "no metadata context was chosen";
        return -EINVAL;
    }
    return 0;
}

static int write_flags(NbdThread *t)
{
    bool fua =
        (t->req.flags & NBD_CMD_FLAG_FUA) || t->conn->exp->common.writethrough;

    return fua ? BDRV_REQ_FUA : 0;
}

/*
 * @bytes of data behind a request: the last of it stays in the buffer. If there
 * is too much, what comes before is written as it comes; after an error, or if
 * the request is wrong, it is only taken off the socket.
 */
static int receive_data(NbdThread *t, uint64_t bytes)
{
    NbdRequest *req = &t->req;
    size_t room = nbd_buffer_want(t, req->error ? MIN(bytes, 1) : bytes);
    uint64_t left = bytes;
    int ret;

    if (req->error) {
        room = t->capacity - (t->data - t->buffer);
    }
    while (left > 0) {
        size_t part = MIN(left, room);

        ret = nbd_conn_recv(t->conn, t->data, part);
        if (ret < 0) {
            return ret;
        }
        left -= part;
        if (left > 0 && !req->error) {
            req->error =
                blk_pwrite(t->conn->exp->common.blk, req->offset + req->written,
                           part, t->data, 0);
            req->written += part;
        }
    }
    return 0;
}

/* A BLOCK_STATUS may name the contexts it wants: those that were chosen, none
 * of them twice. 0, or what is wrong with it */
static int parse_contexts(NbdThread *t, uint64_t bytes)
{
    NbdRequest *req = &t->req;
    NbdStatusPayload payload;
    NbdContexts wanted = 0;
    uint32_t id;

    memcpy(&payload, t->data, sizeof(payload));
    req->length = GUINT64_FROM_BE(payload.length);
    for (uint64_t at = sizeof(payload); at < bytes; at += sizeof(id)) {
        memcpy(&id, t->data + at, sizeof(id));
        id = GUINT32_FROM_BE(id);
        if (id >= NBD_CONTEXTS || !(t->conn->contexts & NBD_CONTEXT_BIT(id)) ||
            (wanted & NBD_CONTEXT_BIT(id))) {
            req->message = "a metadata context was not chosen, or comes twice";
            return -EINVAL;
        }
        wanted |= NBD_CONTEXT_BIT(id);
    }
    req->contexts = wanted;
    return 0;
}

/* The @bytes behind a request that need not have any; false: hang up */
static bool receive_payload(NbdThread *t, uint64_t bytes)
{
    NbdRequest *req = &t->req;
    uint64_t ids = bytes - sizeof(NbdStatusPayload);

    if (req->type != NBD_CMD_BLOCK_STATUS) {
        req->message = "the command comes with no data";
        req->error = -EINVAL;
    } else if (bytes <= sizeof(NbdStatusPayload) || ids % sizeof(uint32_t) ||
               ids > NBD_CONTEXTS * sizeof(uint32_t)) {
        req->message = "no list of metadata contexts has that length";
        req->error = -EINVAL;
    }
    if (receive_data(t, bytes) < 0) {
        return false;
    }
    if (!req->error) {
        req->error = parse_contexts(t, bytes);
    }
    if (!req->error) {
        req->error = check_request(t->conn, req);
    }
    return true;
}

static size_t header_size(const NbdConn *conn)
{
    return conn->extended ? sizeof(NbdExtendedRequestHeader)
                          : sizeof(NbdRequestHeader);
}

/* False: it is none */
static bool parse_header(const NbdConn *conn, const void *bytes,
                         NbdRequest *req)
{
    NbdExtendedRequestHeader extended;
    NbdRequestHeader header;

    if (conn->extended) {
        memcpy(&extended, bytes, sizeof(extended));
        *req = (NbdRequest){
            .flags = GUINT16_FROM_BE(extended.flags),
            .type = GUINT16_FROM_BE(extended.type),
            .cookie = extended.cookie,
            .offset = GUINT64_FROM_BE(extended.offset),
            .length = GUINT64_FROM_BE(extended.length),
        };
        return GUINT32_FROM_BE(extended.magic) == NBD_EXTENDED_REQUEST_MAGIC;
    }
    memcpy(&header, bytes, sizeof(header));
    *req = (NbdRequest){
        .flags = GUINT16_FROM_BE(header.flags),
        .type = GUINT16_FROM_BE(header.type),
        .cookie = header.cookie,
        .offset = GUINT64_FROM_BE(header.offset),
        .length = GUINT32_FROM_BE(header.length),
    };
    return GUINT32_FROM_BE(header.magic) == NBD_REQUEST_MAGIC;
}

static bool receive_header(NbdConn *conn, NbdRequest *req)
{
    uint8_t header[sizeof(NbdExtendedRequestHeader)];

    return nbd_conn_recv(conn, header, header_size(conn)) == 0 &&
           parse_header(conn, header, req);
}

/* How long is the request of which @have bytes have come? At least as much as
 * can be told. */
static uint64_t request_size(const NbdConn *conn, size_t have)
{
    const uint8_t *p = conn->in + conn->in_start;
    NbdExtendedRequestHeader extended;
    NbdRequestHeader header;

    if (conn->extended) {
        if (have < sizeof(extended)) {
            return sizeof(extended);
        }
        memcpy(&extended, p, sizeof(extended));
        if (GUINT16_FROM_BE(extended.flags) & NBD_CMD_FLAG_PAYLOAD_LEN) {
            return sizeof(extended) +
                   MIN(GUINT64_FROM_BE(extended.length), NBD_MAX_REQUEST);
        }
        return sizeof(extended);
    }
    if (have < sizeof(header)) {
        return sizeof(header);
    }
    memcpy(&header, p, sizeof(header));
    return GUINT16_FROM_BE(header.type) == NBD_CMD_WRITE
               ? sizeof(header) + (uint64_t)GUINT32_FROM_BE(header.length)
               : sizeof(header);
}

bool nbd_request_is_here(NbdConn *conn)
{
    size_t have = conn->in_end - conn->in_start;

    return have > 0 && request_size(conn, have) <= have;
}

bool nbd_request_fits(NbdConn *conn)
{
    return request_size(conn, conn->in_end - conn->in_start) <=
           sizeof(conn->in);
}

/*
 * Is it known where the request ends, and what may follow it? Of a WRITE with extended
 * headers without that flag nobody knows whether data follows, and data must not be
 * taken for requests. What is too long is taken off the socket only where the length
 * has but 32 bits.
 */
static bool has_end(const NbdConn *conn, const NbdRequest *req)
{
    bool payload = req->flags & NBD_CMD_FLAG_PAYLOAD_LEN;

    return !conn->extended || (payload ? req->length <= NBD_MAX_REQUEST
                                       : req->type != NBD_CMD_WRITE);
}

bool nbd_request_peek(NbdConn *conn, NbdRequest *req, size_t *head)
{
    if (!nbd_request_is_here(conn)) {
        return false;
    }
    *head = header_size(conn);
    if (!parse_header(conn, conn->in + conn->in_start, req) ||
        !has_end(conn, req)) {
        req->error = -EINVAL;
    } else {
        req->contexts = conn->contexts;
        req->error = check_request(conn, req);
    }
    return true;
}

unsigned nbd_request_more(NbdConn *conn, const NbdRequest *req)
{
    size_t size = header_size(conn);

    if (req->type == NBD_CMD_WRITE) {
        size += req->length;
    }
    return (conn->in_end - conn->in_start) / size;
}

bool nbd_request_receive(NbdThread *t)
{
    NbdConn *conn = t->conn;
    NbdRequest *req = &t->req;

    if (!receive_header(conn, req) || req->type == NBD_CMD_DISC ||
        !has_end(conn, req)) {
        return false;
    }
    req->contexts = conn->contexts;
    if (conn->extended && (req->flags & NBD_CMD_FLAG_PAYLOAD_LEN) &&
        req->type != NBD_CMD_WRITE) {
        return receive_payload(t, req->length);
    }
    req->error = check_request(conn, req);
    if (req->type == NBD_CMD_WRITE && req->length > 0) {
        return receive_data(t, req->length) == 0;
    }
    return true;
}

/* ---- requests that end with a word -------------------------------------- */

static int run_write(NbdThread *t)
{
    NbdRequest *req = &t->req;
    BlockBackend *blk = t->conn->exp->common.blk;
    int flags = write_flags(t);
    int ret;

    if (req->written == 0) {
        return blk_pwrite(blk, req->offset, req->length, t->data, flags);
    }
    ret = blk_pwrite(blk, req->offset + req->written,
                     req->length - req->written, t->data, 0);
    /* FUA on the last piece would say nothing of those before it. */
    return ret == 0 && flags ? blk_flush(blk) : ret;
}

static int zeroes_piece(NbdThread *t, uint64_t offset, uint64_t bytes,
                        int flags)
{
    if (!(t->req.flags & NBD_CMD_FLAG_NO_HOLE)) {
        flags |= BDRV_REQ_MAY_UNMAP;
    }
    if (t->req.flags & NBD_CMD_FLAG_FAST_ZERO) {
        flags |= BDRV_REQ_NO_FALLBACK;
    }
    return blk_pwrite_zeroes(t->conn->exp->common.blk, offset, bytes, flags);
}

/* WRITE_ZEROES and TRIM */
static int run_long(NbdThread *t)
{
    NbdRequest *req = &t->req;
    BlockBackend *blk = t->conn->exp->common.blk;
    bool zeroes = req->type == NBD_CMD_WRITE_ZEROES;
    bool alone = req->length <= LONG_PIECE;
    int flags = write_flags(t);
    uint64_t done = 0, part;
    int ret = 0;

    while (ret == 0 && done < req->length) {
        if (done > 0 && nbd_conn_hung_up(t->conn)) {
            return -ESHUTDOWN;
        }
        part = MIN(req->length - done, LONG_PIECE);
        ret = zeroes
                  ? zeroes_piece(t, req->offset + done, part, alone ? flags : 0)
                  : blk_pdiscard(blk, req->offset + done, part);
        done += part;
    }
    if (ret == 0 && flags && !(zeroes && alone)) {
        ret = blk_flush(blk);
    }
    return ret;
}

void nbd_request_run(NbdThread *t)
{
    NbdRequest *req = &t->req;
    int ret = 0;

    if (req->error) {
        nbd_reply_error(t, req->error, req->message);
        return;
    }
    switch (req->type) {
    case NBD_CMD_READ:
        nbd_read_run(t);
        return;
    case NBD_CMD_BLOCK_STATUS:
        nbd_status_run(t);
        return;
    case NBD_CMD_FLUSH:
        ret = blk_flush(t->conn->exp->common.blk);
        break;
    case NBD_CMD_WRITE:
        ret = req->length ? run_write(t) : 0;
        break;
    case NBD_CMD_WRITE_ZEROES:
    case NBD_CMD_TRIM:
        ret = req->length ? run_long(t) : 0;
        break;
    default:
        g_assert_not_reached();
    }
    if (ret < 0) {
        nbd_reply_error(t, ret, NULL);
    } else {
        nbd_reply_ok(t);
    }
}
