/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replies, in the three forms there are: simple ones, for clients that know no
 * other; structured ones, which come in chunks, but may be simple where there
 * is nothing to say; and extended ones, which are always chunks, with longer
 * heads.
 */
#include "block/export/nbd-int.h"

#include <errno.h>
#include <string.h>

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

NbdSimpleReply nbd_simple_reply(const NbdRequest *req, uint32_t error)
{
    return (NbdSimpleReply){
        .magic = GUINT32_TO_BE(NBD_SIMPLE_REPLY_MAGIC),
        .error = GUINT32_TO_BE(error),
        .cookie = req->cookie,
    };
}

static void make_simple(NbdReply *reply, const NbdRequest *req, uint32_t error)
{
    NbdSimpleReply head = nbd_simple_reply(req, error);

    *reply = (NbdReply){ .head_size = sizeof(head) };
    memcpy(reply->head, &head, sizeof(head));
}

static void make_chunk(NbdReply *reply, const NbdConn *conn,
                       const NbdRequest *req, uint16_t type, bool done,
                       const void *fields, size_t fields_size, const void *data,
                       size_t data_size)
{
    uint16_t flags = done ? NBD_REPLY_FLAG_DONE : 0;
    NbdChunk chunk = {
        .magic = GUINT32_TO_BE(NBD_STRUCTURED_REPLY_MAGIC),
        .flags = GUINT16_TO_BE(flags),
        .type = GUINT16_TO_BE(type),
        .cookie = req->cookie,
        .length = GUINT32_TO_BE(fields_size + data_size),
    };
    NbdExtendedChunk extended = {
        .magic = GUINT32_TO_BE(NBD_EXTENDED_REPLY_MAGIC),
        .flags = GUINT16_TO_BE(flags),
        .type = GUINT16_TO_BE(type),
        .cookie = req->cookie,
        .offset = GUINT64_TO_BE(req->offset),
        .length = GUINT64_TO_BE(fields_size + data_size),
    };
    size_t size = conn->extended ? sizeof(extended) : sizeof(chunk);

    g_assert(size + fields_size <= sizeof(reply->head));
    memcpy(reply->head,
           conn->extended ? (const void *)&extended : (const void *)&chunk,
           size);
    if (fields_size > 0) {
        memcpy(reply->head + size, fields, fields_size);
    }
    reply->head_size = size + fields_size;
    reply->data = data;
    reply->data_size = data_size;
}

void nbd_reply_make_ok(NbdReply *reply, const NbdConn *conn,
                       const NbdRequest *req)
{
    if (conn->extended) {
        make_chunk(reply, conn, req, NBD_REPLY_TYPE_NONE, true, NULL, 0, NULL,
                   0);
    } else {
        make_simple(reply, req, NBD_SUCCESS);
    }
}

void nbd_reply_make_error(NbdReply *reply, const NbdConn *conn,
                          const NbdRequest *req, int ret, const char *message)
{
    uint32_t error = error_to_nbd(req, ret);
    NbdErrorFields fields = { .error = GUINT32_TO_BE(error) };

    if (!conn->structured) {
        make_simple(reply, req, error);
        return;
    }
    if (!message) {
        message = strerrordesc_np(-ret);
    }
    if (!message) {
        message = "unknown error";
    }
    fields.message_length = GUINT16_TO_BE(strlen(message));
    make_chunk(reply, conn, req, NBD_REPLY_TYPE_ERROR, true, &fields,
               sizeof(fields), message, strlen(message));
}

void nbd_reply_make_data(NbdReply *reply, const NbdConn *conn,
                         const NbdRequest *req, uint32_t done, const void *data,
                         uint32_t bytes)
{
    NbdDataFields fields = { .offset = GUINT64_TO_BE(req->offset + done) };

    if (conn->structured) {
        make_chunk(reply, conn, req, NBD_REPLY_TYPE_OFFSET_DATA,
                   done + bytes == req->length, &fields, sizeof(fields), data,
                   bytes);
    } else {
        make_simple(reply, req, NBD_SUCCESS);
        reply->data = data;
        reply->data_size = bytes;
    }
}

void nbd_reply_make_hole(NbdReply *reply, const NbdConn *conn,
                         const NbdRequest *req, uint32_t done, uint32_t bytes)
{
    NbdHoleFields fields = {
        .offset = GUINT64_TO_BE(req->offset + done),
        .length = GUINT32_TO_BE(bytes),
    };

    make_chunk(reply, conn, req, NBD_REPLY_TYPE_OFFSET_HOLE,
               done + bytes == req->length, &fields, sizeof(fields), NULL, 0);
}

/* ---- of the request that a thread does ---------------------------------- */

bool nbd_reply_send(NbdThread *t, const NbdReply *reply)
{
    return nbd_out_add(t, reply->head, reply->head_size, NULL, 0, reply->data,
                       reply->data_size);
}

bool nbd_reply_chunk(NbdThread *t, uint16_t type, bool done, const void *fields,
                     size_t fields_size, const void *data, size_t data_size)
{
    NbdReply reply;

    make_chunk(&reply, t->conn, &t->req, type, done, fields, fields_size, data,
               data_size);
    return nbd_reply_send(t, &reply);
}

void nbd_reply_ok(NbdThread *t)
{
    NbdReply reply;

    nbd_reply_make_ok(&reply, t->conn, &t->req);
    nbd_reply_send(t, &reply);
}

void nbd_reply_error(NbdThread *t, int ret, const char *message)
{
    NbdReply reply;

    nbd_reply_make_error(&reply, t->conn, &t->req, ret, message);
    nbd_reply_send(t, &reply);
}
