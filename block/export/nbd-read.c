/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * READ. One that is longer than the memory to be had for it is answered with
 * several chunks. A client that takes no chunks gets the head of its reply
 * first and the pieces behind it; if one of them cannot be read then, there is
 * no way left but to hang up.
 */
#include "block/export/nbd-int.h"

#include <errno.h>

static int read_piece(NbdThread *t, uint32_t done, uint32_t bytes)
{
    return blk_pread(t->conn->exp->common.blk, t->req.offset + done, bytes,
                     t->buffer, 0);
}

static void run_structured(NbdThread *t, uint32_t room)
{
    NbdRequest *req = &t->req;
    uint32_t done = 0, part;
    NbdDataFields fields;
    int ret;

    while (done < req->length) {
        part = MIN(req->length - done, room);
        ret = read_piece(t, done, part);
        if (ret < 0) {
            nbd_reply_error(t, ret, NULL);
            return;
        }
        fields.offset = GUINT64_TO_BE(req->offset + done);
        done += part;
        if (!nbd_reply_chunk(t, NBD_REPLY_TYPE_OFFSET_DATA, done == req->length,
                             &fields, sizeof(fields), t->buffer, part)) {
            return;
        }
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

static void run_simple(NbdThread *t, uint32_t room)
{
    NbdSimpleReply reply = nbd_simple_reply(&t->req, NBD_SUCCESS);
    struct iovec iov[] = { { &reply, sizeof(reply) }, { t->buffer, room } };
    int ret;

    ret = read_piece(t, 0, room);
    if (ret < 0) {
        nbd_reply_error(t, ret, NULL);
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

void nbd_read_run(NbdThread *t)
{
    NbdRequest *req = &t->req;
    uint32_t room = nbd_buffer_want(t, req->length);

    if (!t->conn->structured) {
        if (req->length == 0) {
            nbd_reply_ok(t);
        } else {
            run_simple(t, room);
        }
    } else if (req->length == 0) {
        nbd_reply_chunk(t, NBD_REPLY_TYPE_NONE, true, NULL, 0, NULL, 0);
    } else if ((req->flags & NBD_CMD_FLAG_DF) && room < req->length) {
        nbd_reply_error(t, -EOVERFLOW,
                        "no memory for so long a reply in one piece");
    } else {
        run_structured(t, room);
    }
}
