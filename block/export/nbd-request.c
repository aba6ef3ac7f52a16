/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of the transmission phase, and replies to them.
 *
 * A request that is longer than the memory to be had for it is done in pieces:
 * a WRITE piece by piece as its data comes in, a READ as a reply of several
 * chunks. A client that does not speak structured replies gets its header
 * first and the pieces behind it; if one of them cannot be read then, there is
 * no way left but to hang up.
 */
#include "block/export/nbd-int.h"

#include <errno.h>
#include <string.h>

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

/* What is sent for -@ret. The protocol has few values. */
static uint32_t error_to_nbd(const NbdRequest *req, int ret)
{
    switch (-ret) {
    case EPERM:
    case EROFS:
    case EACCES:
        return NBD_EPERM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOMEM:
        return NBD_ENOMEM;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case ENOTSUP:
        /* Only a fast zero-write is told so. */
        return req->flags & NBD_CMD_FLAG_FAST_ZERO ? NBD_ENOTSUP : NBD_EINVAL;
    case ECANCELED:
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

/* ---- sending ------------------------------------------------------------ */

static int send_parts(NbdConn *conn, struct iovec *iov, int niov)
{
    int ret;

    mutex_lock(&conn->send_lock);
    ret = nbd_conn_send(conn, iov, niov);
    mutex_unlock(&conn->send_lock);
    if (ret < 0) {
        nbd_conn_abort(conn);
    }
    return ret;
}

static NbdSimpleReply simple_reply(const NbdRequest *req, uint32_t error)
{
    return (NbdSimpleReply){
        .magic = GUINT32_TO_BE(NBD_SIMPLE_REPLY_MAGIC),
        .error = GUINT32_TO_BE(error),
        .cookie = req->cookie,
    };
}

static NbdChunk chunk(const NbdRequest *req, uint16_t type, bool done,
                      uint32_t length)
{
    return (NbdChunk){
        .magic = GUINT32_TO_BE(NBD_STRUCTURED_REPLY_MAGIC),
        .flags = GUINT16_TO_BE(done ? NBD_REPLY_FLAG_DONE : 0),
        .type = GUINT16_TO_BE(type),
        .cookie = req->cookie,
        .length = GUINT32_TO_BE(length),
    };
}

static int send_simple(NbdThread *t, uint32_t error)
{
    NbdSimpleReply reply = simple_reply(&t->req, error);
    struct iovec iov = { &reply, sizeof(reply) };

    return send_parts(t->conn, &iov, 1);
}

static int send_error(NbdThread *t, int ret, const char *message)
{
    uint32_t error = error_to_nbd(&t->req, ret);
    uint16_t length;
    NbdChunkError head;
    struct iovec iov[2];

    if (!t->conn->structured) {
        return send_simple(t, error);
    }
    if (!message) {
        message = strerrordesc_np(-ret);
    }
    if (!message) {
        message = "unknown error";
    }
    length = strlen(message);
    head = (NbdChunkError){
        .chunk = chunk(&t->req, NBD_REPLY_TYPE_ERROR, true,
                       sizeof(head) - sizeof(head.chunk) + length),
        .error = GUINT32_TO_BE(error),
        .message_length = GUINT16_TO_BE(length),
    };
    iov[0] = (struct iovec){ &head, sizeof(head) };
    iov[1] = (struct iovec){ (void *)message, length };
    return send_parts(t->conn, iov, 2);
}

/* ---- receiving ---------------------------------------------------------- */

/* 0, or what is wrong with the request: a negative errno and req->message */
static int check_request(NbdConn *conn, NbdRequest *req)
{
    const Command *command = NULL;
    uint16_t flags;

    if (req->type < G_N_ELEMENTS(commands)) {
        command = &commands[req->type];
    }
    if (!command || !command->known) {
        req->message = "unknown command";
        return -EINVAL;
    }
    flags = command->flags | NBD_CMD_FLAG_FUA;
    if (!conn->structured) {
        flags &= ~NBD_CMD_FLAG_DF;
    }
    if (req->flags & ~flags) {
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
        (conn->contexts == 0 || req->length == 0)) {
        req->message = conn->contexts ? "the request has no length"
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
 * The data of a WRITE: the last of it stays in the buffer. If there is too
 * much, what comes before is written as it comes; after an error, or if the
 * request is wrong, it is only taken off the socket.
 */
static int receive_data(NbdThread *t)
{
    NbdRequest *req = &t->req;
    size_t room =
        nbd_buffer_want(t, req->error ? MIN(req->length, 1) : req->length);
    uint32_t left = req->length, part;
    int ret;

    if (req->error) {
        room = t->capacity;
    }
    while (left > 0) {
        part = MIN(left, room);
        ret = nbd_conn_recv(t->conn, t->buffer, part);
        if (ret < 0) {
            return ret;
        }
        left -= part;
        if (left > 0 && !req->error) {
            req->error =
                blk_pwrite(t->conn->exp->common.blk, req->offset + req->written,
                           part, t->buffer, 0);
            req->written += part;
        }
    }
    return 0;
}

bool nbd_request_receive(NbdThread *t)
{
    NbdRequest *req = &t->req;
    NbdRequestHeader header;

    if (nbd_conn_recv(t->conn, &header, sizeof(header)) < 0 ||
        GUINT32_FROM_BE(header.magic) != NBD_REQUEST_MAGIC) {
        return false;
    }
    *req = (NbdRequest){
        .flags = GUINT16_FROM_BE(header.flags),
        .type = GUINT16_FROM_BE(header.type),
        .cookie = header.cookie,
        .offset = GUINT64_FROM_BE(header.offset),
        .length = GUINT32_FROM_BE(header.length),
    };
    if (req->type == NBD_CMD_DISC) {
        return false;
    }
    req->error = check_request(t->conn, req);
    if (req->type == NBD_CMD_WRITE && req->length > 0) {
        return receive_data(t) == 0;
    }
    return true;
}

/* ---- READ --------------------------------------------------------------- */

static int read_piece(NbdThread *t, uint32_t done, uint32_t bytes)
{
    return blk_pread(t->conn->exp->common.blk, t->req.offset + done, bytes,
                     t->buffer, 0);
}

static void run_read_structured(NbdThread *t, uint32_t room)
{
    NbdRequest *req = &t->req;
    uint32_t done = 0, part;
    int ret;

    while (done < req->length) {
        NbdChunkData head = { 0 };
        struct iovec iov[2];

        part = MIN(req->length - done, room);
        ret = read_piece(t, done, part);
        if (ret < 0) {
            send_error(t, ret, NULL);
            return;
        }
        head.chunk =
            chunk(req, NBD_REPLY_TYPE_OFFSET_DATA, done + part == req->length,
                  sizeof(head.offset) + part);
        head.offset = GUINT64_TO_BE(req->offset + done);
        iov[0] = (struct iovec){ &head, sizeof(head) };
        iov[1] = (struct iovec){ t->buffer, part };
        if (send_parts(t->conn, iov, 2) < 0) {
            return;
        }
        done += part;
    }
}

/* The rest of a simple reply that did not fit into the buffer */
static int send_rest(NbdThread *t, uint32_t done, uint32_t room)
{
    int ret = 0;

    while (ret == 0 && done < t->req.length) {
        uint32_t part = MIN(t->req.length - done, room);
        struct iovec iov = { t->buffer, part };

        ret = read_piece(t, done, part);
        if (ret == 0) {
            ret = nbd_conn_send(t->conn, &iov, 1);
        }
        done += part;
    }
    return ret;
}

static void run_read_simple(NbdThread *t, uint32_t room)
{
    NbdSimpleReply reply = simple_reply(&t->req, NBD_SUCCESS);
    struct iovec iov[] = { { &reply, sizeof(reply) }, { t->buffer, room } };
    int ret;

    ret = read_piece(t, 0, room);
    if (ret < 0) {
        send_error(t, ret, NULL);
        return;
    }
    mutex_lock(&t->conn->send_lock);
    ret = nbd_conn_send(t->conn, iov, 2);
    if (ret == 0) {
        ret = send_rest(t, room, room);
    }
    mutex_unlock(&t->conn->send_lock);
    if (ret < 0) {
        nbd_conn_abort(t->conn);
    }
}

static void run_read(NbdThread *t)
{
    NbdRequest *req = &t->req;
    NbdChunk none = chunk(req, NBD_REPLY_TYPE_NONE, true, 0);
    struct iovec iov = { &none, sizeof(none) };
    uint32_t room = nbd_buffer_want(t, req->length);

    if (!t->conn->structured) {
        if (req->length == 0) {
            send_simple(t, NBD_SUCCESS);
        } else {
            run_read_simple(t, room);
        }
    } else if (req->length == 0) {
        send_parts(t->conn, &iov, 1);
    } else if ((req->flags & NBD_CMD_FLAG_DF) && room < req->length) {
        send_error(t, -EOVERFLOW, "no memory for so long a reply in one piece");
    } else {
        run_read_structured(t, room);
    }
}

/* ---- BLOCK_STATUS ------------------------------------------------------- */

/* The flags of @context at @offset, and how far; or a negative errno */
static int64_t status_at(NbdConn *conn, unsigned context, uint64_t offset,
                         uint32_t bytes, int64_t *pnum)
{
    BlockBackend *blk = conn->exp->common.blk;
    int ret;

    if (context == NBD_CONTEXT_DEPTH) {
        ret = blk_block_status(blk, offset, bytes, 0, pnum);
        return ret < 0 ? ret : ret & BDRV_BLOCK_ALLOCATED ? 1 : 0;
    }
    ret = blk_block_status(blk, offset, bytes, BDRV_WANT_ZERO, pnum);
    if (ret < 0) {
        return ret;
    }
    return (ret & BDRV_BLOCK_DATA ? 0 : NBD_STATE_HOLE) |
           (ret & BDRV_BLOCK_ZERO ? NBD_STATE_ZERO : 0);
}

/*
 * Extents of @context from the start of the request on, at most @max: as many
 * as it has, or as could be found out. Returns their number, or a negative
 * errno if that is none.
 */
static int collect_extents(NbdThread *t, unsigned context, NbdExtent *extents,
                           int max)
{
    uint64_t offset = t->req.offset;
    uint32_t left = t->req.length;
    int64_t flags, pnum;
    int n = 0;

    while (left > 0) {
        pnum = 0;
        flags = status_at(t->conn, context, offset, left, &pnum);
        if (flags < 0 || pnum <= 0) {
            if (n == 0) {
                return flags < 0 ? flags : -EIO;
            }
            break;
        }
        pnum = MIN(pnum, left);
        if (n > 0 && extents[n - 1].flags == flags) {
            extents[n - 1].length += pnum;
        } else if (n < max) {
            extents[n++] = (NbdExtent){ .length = pnum, .flags = flags };
        } else {
            break;
        }
        offset += pnum;
        left -= pnum;
    }
    for (int i = 0; i < n; i++) {
        extents[i].length = GUINT32_TO_BE(extents[i].length);
        extents[i].flags = GUINT32_TO_BE(extents[i].flags);
    }
    return n;
}

static void run_block_status(NbdThread *t)
{
    NbdRequest *req = &t->req;
    int max = nbd_buffer_want(t, nbd_limits.small_buffer) / sizeof(NbdExtent);
    unsigned left = t->conn->contexts;

    if (req->flags & NBD_CMD_FLAG_REQ_ONE) {
        max = 1;
    }
    for (unsigned i = 0; left; i++) {
        NbdChunkStatus head;
        struct iovec iov[2];
        int n;

        if (!(left & (1u << i))) {
            continue;
        }
        left &= ~(1u << i);
        n = collect_extents(t, i, (NbdExtent *)t->buffer, max);
        if (n < 0) {
            send_error(t, n, NULL);
            return;
        }
        head = (NbdChunkStatus){
            .chunk = chunk(req, NBD_REPLY_TYPE_BLOCK_STATUS, left == 0,
                           sizeof(head.context) + n * sizeof(NbdExtent)),
            .context = GUINT32_TO_BE(i),
        };
        iov[0] = (struct iovec){ &head, sizeof(head) };
        iov[1] = (struct iovec){ t->buffer, n * sizeof(NbdExtent) };
        if (send_parts(t->conn, iov, 2) < 0) {
            return;
        }
    }
}

/* ---- requests that end with a word -------------------------------------- */

static int run_write(NbdThread *t)
{
    NbdRequest *req = &t->req;
    BlockBackend *blk = t->conn->exp->common.blk;
    int flags = write_flags(t);
    int ret;

    if (req->written == 0) {
        return blk_pwrite(blk, req->offset, req->length, t->buffer, flags);
    }
    ret = blk_pwrite(blk, req->offset + req->written,
                     req->length - req->written, t->buffer, 0);
    /* FUA on the last piece would say nothing of those before it. */
    return ret == 0 && flags ? blk_flush(blk) : ret;
}

static int run_write_zeroes(NbdThread *t)
{
    NbdRequest *req = &t->req;
    int flags = write_flags(t);

    if (!(req->flags & NBD_CMD_FLAG_NO_HOLE)) {
        flags |= BDRV_REQ_MAY_UNMAP;
    }
    if (req->flags & NBD_CMD_FLAG_FAST_ZERO) {
        flags |= BDRV_REQ_NO_FALLBACK;
    }
    return blk_pwrite_zeroes(t->conn->exp->common.blk, req->offset, req->length,
                             flags);
}

static int run_trim(NbdThread *t)
{
    NbdRequest *req = &t->req;
    BlockBackend *blk = t->conn->exp->common.blk;
    int ret = blk_pdiscard(blk, req->offset, req->length);

    return ret == 0 && write_flags(t) ? blk_flush(blk) : ret;
}

void nbd_request_run(NbdThread *t)
{
    NbdRequest *req = &t->req;
    int ret = 0;

    if (req->error) {
        send_error(t, req->error, req->message);
        return;
    }
    switch (req->type) {
    case NBD_CMD_READ:
        run_read(t);
        return;
    case NBD_CMD_BLOCK_STATUS:
        run_block_status(t);
        return;
    case NBD_CMD_FLUSH:
        ret = blk_flush(t->conn->exp->common.blk);
        break;
    case NBD_CMD_WRITE:
        ret = req->length ? run_write(t) : 0;
        break;
    case NBD_CMD_WRITE_ZEROES:
        ret = req->length ? run_write_zeroes(t) : 0;
        break;
    case NBD_CMD_TRIM:
        ret = req->length ? run_trim(t) : 0;
        break;
    default:
        g_assert_not_reached();
    }
    if (ret < 0) {
        send_error(t, ret, NULL);
    } else {
        send_simple(t, NBD_SUCCESS);
    }
}
