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

static void send_simple(NbdThread *t, uint32_t error)
{
    NbdSimpleReply reply = nbd_simple_reply(&t->req, error);

    nbd_out_add(t, &reply, sizeof(reply), NULL, 0, NULL, 0);
}

bool nbd_reply_chunk(NbdThread *t, uint16_t type, bool done, const void *fields,
                     size_t fields_size, const void *data, size_t data_size)
{
    const NbdRequest *req = &t->req;
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
    bool is_long = t->conn->extended;

    return nbd_out_add(t, is_long ? (void *)&extended : (void *)&chunk,
                       is_long ? sizeof(extended) : sizeof(chunk), fields,
                       fields_size, data, data_size);
}

void nbd_reply_ok(NbdThread *t)
{
    if (t->conn->extended) {
        nbd_reply_chunk(t, NBD_REPLY_TYPE_NONE, true, NULL, 0, NULL, 0);
    } else {
        send_simple(t, NBD_SUCCESS);
    }
}

void nbd_reply_error(NbdThread *t, int ret, const char *message)
{
    uint32_t error = error_to_nbd(&t->req, ret);
    NbdErrorFields fields = { .error = GUINT32_TO_BE(error) };

    if (!t->conn->structured) {
        send_simple(t, error);
        return;
    }
    if (!message) {
        message = strerrordesc_np(-ret);
    }
    if (!message) {
        message = "unknown error";
    }
    fields.message_length = GUINT16_TO_BE(strlen(message));
    nbd_reply_chunk(t, NBD_REPLY_TYPE_ERROR, true, &fields, sizeof(fields),
                    message, strlen(message));
}
