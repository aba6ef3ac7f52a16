/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * READ. What is known to be zero without a probe is neither read nor sent, but
 * told to be a hole, where the client takes any number of chunks. A READ that is
 * longer than the memory to be had for it is answered with several chunks, too.
 * A client that takes no chunks gets the head of its reply first and the pieces
 * behind it; if one of them cannot be read then, there is no way left but to
 * hang up.
 */
#include "block/export/nbd-int.h"

#include <errno.h>

static int read_piece(NbdThread *t, uint32_t done, uint32_t bytes, int flags)
{
    return blk_pread(t->conn->exp->common.blk, t->req.offset + done, bytes,
                     t->data, flags);
}

/* The same with nothing locked. Who has the turn gives it away before he waits for
 * the disk, and only then. */
static int read_first(NbdThread *t, uint32_t done, uint32_t bytes, int flags)
{
    int ret = -EAGAIN;

    if (t->keeps) {
        ret = read_piece(t, done, bytes, flags | BDRV_REQ_NOWAIT);
        if (ret == -EAGAIN) {
            nbd_crew_will_wait(t);
        }
    }
    return ret == -EAGAIN ? read_piece(t, done, bytes, flags) : ret;
}

/*
 * Is what comes after the first @done bytes known to be zero, and how far does
 * the answer hold?
 */
static bool is_hole(NbdThread *t, uint32_t done, uint32_t *bytes)
{
    const NbdRequest *req = &t->req;
    uint32_t left = req->length - done;
    int64_t pnum;
    int ret = blk_block_status(t->conn->exp->common.blk, req->offset + done,
                               left, BDRV_WANT_READ, &pnum);

    *bytes = ret >= 0 && pnum > 0 ? pnum : left;
    return ret >= 0 && (ret & BDRV_BLOCK_ZERO);
}

static bool reply_hole(NbdThread *t, uint32_t done, uint32_t bytes)
{
    NbdHoleFields fields = {
        .offset = GUINT64_TO_BE(t->req.offset + done),
        .length = GUINT32_TO_BE(bytes),
    };

    return nbd_reply_chunk(t, NBD_REPLY_TYPE_OFFSET_HOLE,
                           done + bytes == t->req.length, &fields,
                           sizeof(fields), NULL, 0);
}

/* Read and reply; 0, or a negative errno if there is to be no more. */
static int reply_data(NbdThread *t, uint32_t done, uint32_t bytes, int flags)
{
    NbdDataFields fields = { .offset = GUINT64_TO_BE(t->req.offset + done) };
    int ret = read_first(t, done, bytes, flags);

    if (ret < 0) {
        nbd_reply_error(t, ret, NULL);
        return ret;
    }
    return nbd_reply_chunk(t, NBD_REPLY_TYPE_OFFSET_DATA,
                           done + bytes == t->req.length, &fields,
                           sizeof(fields), t->data, bytes)
               ? 0
               : -EPIPE;
}

static void run_structured(NbdThread *t)
{
    uint32_t done = 0, bytes;

    while (done < t->req.length) {
        if (is_hole(t, done, &bytes)) {
            if (!reply_hole(t, done, bytes)) {
                return;
            }
        } else {
            bytes = nbd_buffer_want(t, bytes);
            if (reply_data(t, done, bytes, BDRV_REQ_CUT) < 0) {
                return;
            }
        }
        done += bytes;
    }
}

/* The rest of a simple reply that did not fit into the buffer */
static int send_rest(NbdThread *t, uint32_t done, uint32_t room)
{
    int ret = 0;

    while (ret == 0 && done < t->req.length) {
        uint32_t part = MIN(t->req.length - done, room);
        struct iovec iov = { t->data, part };

        ret = read_piece(t, done, part, 0);
        if (ret == 0) {
            ret = nbd_conn_send(t->conn, &iov, 1);
        }
        done += part;
    }
    return ret;
}

/* A reply that is longer than @room */
static void send_in_pieces(NbdThread *t, NbdSimpleReply *reply, uint32_t room)
{
    struct iovec iov[] = { { reply, sizeof(*reply) }, { t->data, room } };
    int ret;

    ret = nbd_out_begin(t->conn);
    if (ret == 0) {
        ret = nbd_conn_send(t->conn, iov, 2);
    }
    if (ret == 0) {
        ret = send_rest(t, room, room);
    }
    nbd_out_end(t->conn, ret);
}

static void run_simple(NbdThread *t, uint32_t room)
{
    NbdSimpleReply reply = nbd_simple_reply(&t->req, NBD_SUCCESS);
    int ret = read_first(t, 0, room, 0);

    if (ret < 0) {
        nbd_reply_error(t, ret, NULL);
    } else if (room == t->req.length) {
        nbd_out_add(t, &reply, sizeof(reply), NULL, 0, t->data, room);
    } else {
        send_in_pieces(t, &reply, room);
    }
}

void nbd_read_run(NbdThread *t)
{
    NbdRequest *req = &t->req;
    uint32_t room;

    if (t->conn->structured && req->length > 0 &&
        !(req->flags & NBD_CMD_FLAG_DF)) {
        run_structured(t);
        return;
    }
    room = nbd_buffer_want(t, req->length);

    if (!t->conn->structured) {
        if (req->length == 0) {
            nbd_reply_ok(t);
        } else {
            run_simple(t, room);
        }
    } else if (req->length == 0) {
        nbd_reply_chunk(t, NBD_REPLY_TYPE_NONE, true, NULL, 0, NULL, 0);
    } else if (room < req->length) {
        nbd_reply_error(t, -EOVERFLOW,
                        "no memory for so long a reply in one piece");
    } else {
        reply_data(t, 0, req->length, 0);
    }
}
