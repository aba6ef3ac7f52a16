/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests that the kernel carries out by itself: of a connection to a disk that
 * takes requests in two halves (block/submit.h), the thread that has the turn begins
 * all that have come, asks the kernel for them and for the next bytes of the socket
 * with one system call, which also waits for what is done first, and replies to that
 * with another. So there is no thread to be woken for each.
 *
 * Begun requests hold their gate and their ranges, and others wait for those. So
 * there is one rule: who has begun some does nothing that may wait for anybody but the
 * disk. Before it would (for a request that has to go the plain way, for a client that
 * takes no replies), the thread stops to receive, gives the turn away, and waits for
 * the kernel to have done all that it has begun, and for nothing else. Others go on
 * with the connection in the meantime.
 *
 * A ring belongs to its thread; requests have their memory in the thread's buffer.
 */
#include "block/export/nbd-int.h"

#include <errno.h>
#include <liburing.h>
#include <string.h>

#include "block/submit.h"
#include "util/uring.h"

/* Requests at once */
#define DEPTH 64
/* The buffer is given away by the page. */
#define PAGE ((size_t)4096)
#define PAGES 256
/* So many requests in a row make it worth while. Where the plain way is needed more
 * often it is taken for all; for so many requests at most, then that is tried again. */
#define WORTH_IT 8
#define MAX_PAUSE 64

typedef struct Slot Slot;
struct Slot {
    BlkSubmit submit;
    NbdRequest req;
    unsigned page, n_pages;
    bool zero; /* a READ: nothing was read, and it is all zero */
    int ret;
    NbdReply reply;
    Slot *next; /* of those that are free, or done */
};

struct NbdRing {
    struct io_uring uring;
    Slot slots[DEPTH];
    Slot *free;
    Slot *done, **done_end; /* to be replied to */
    unsigned begun;
    bool receiving; /* the kernel may write to conn->in, at its end */
    bool at_end;    /* nothing more will be received */
    uint8_t used[PAGES];
    unsigned n_pages;
    Slot *sending; /* we have send_lock, and their replies go out at once: */
    struct iovec parts[2 * DEPTH];
    struct iovec *rest;
    int n_rest;
};

/* What a completion is of, that is not a request's */
static char receive_tag, cancel_tag;

/* ---- the ring ----------------------------------------------------------- */

static NbdRing *ring_new(void)
{
    NbdRing *r = g_new0(NbdRing, 1);

    if (uring_init(&r->uring, 2 * DEPTH) < 0) {
        g_free(r);
        return NULL;
    }
    for (int i = 0; i < DEPTH; i++) {
        r->slots[i].next = r->free;
        r->free = &r->slots[i];
    }
    r->done_end = &r->done;
    return r;
}

void nbd_ring_free(NbdThread *t)
{
    if (t->ring) {
        g_assert(t->ring->begun == 0 && !t->ring->receiving);
        uring_exit(&t->ring->uring);
        g_free(t->ring);
        t->ring = NULL;
    }
}

/* There is always room: for all slots, to receive, and to cancel that. */
static struct io_uring_sqe *get_sqe(NbdRing *r, void *tag)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

    g_assert(sqe);
    return sqe;
}

/* ---- slots -------------------------------------------------------------- */

/* Memory for @bytes; NULL: there is none now */
static Slot *take_slot(NbdRing *r, size_t bytes)
{
    unsigned n = (bytes + PAGE - 1) / PAGE, run = 0;
    Slot *slot = r->free;

    if (!slot) {
        return NULL;
    }
    for (unsigned i = 0; i < r->n_pages; i++) {
        run = r->used[i] ? 0 : run + 1;
        if (run == n) {
            slot->page = i + 1 - n;
            slot->n_pages = n;
            memset(r->used + slot->page, 1, n);
            r->free = slot->next;
            return slot;
        }
    }
    return NULL;
}

static void give_slot(NbdRing *r, Slot *slot)
{
    memset(r->used + slot->page, 0, slot->n_pages);
    slot->next = r->free;
    r->free = slot;
}

static void set_done(NbdRing *r, Slot *slot, int ret, bool zero)
{
    slot->ret = ret;
    slot->zero = zero;
    slot->next = NULL;
    *r->done_end = slot;
    r->done_end = &slot->next;
}

/* ---- requests ----------------------------------------------------------- */

static bool may_be_submitted(const NbdConn *conn, const NbdRequest *req)
{
    if (req->error || req->length == 0 || req->length > BLK_SUBMIT_MAX) {
        return false;
    }
    if (req->type == NBD_CMD_READ) {
        return !(req->flags & ~NBD_CMD_FLAG_DF);
    }
    return req->type == NBD_CMD_WRITE &&
           !(req->flags & ~NBD_CMD_FLAG_PAYLOAD_LEN) &&
           !conn->exp->common.writethrough;
}

static void queue(NbdRing *r, Slot *slot)
{
    const BlkSubmit *s = &slot->submit;
    struct io_uring_sqe *sqe = get_sqe(r, slot);

    if (s->is_write) {
        io_uring_prep_write(sqe, s->fd, s->iov.iov_base, s->iov.iov_len,
                            s->offset);
    } else {
        io_uring_prep_read(sqe, s->fd, s->iov.iov_base, s->iov.iov_len,
                           s->offset);
    }
    io_uring_sqe_set_data(sqe, slot);
    r->begun++;
}

typedef enum Taken {
    TAKEN,
    TAKE_LATER, /* it has not come as a whole, or there is no room */
    TAKE_PLAIN, /* it has to go the plain way */
} Taken;

/* Begin the next request, if it is there. */
static Taken take_request(NbdThread *t)
{
    NbdConn *conn = t->conn;
    NbdRing *r = t->ring;
    NbdRequest req;
    size_t head;
    uint8_t *data;
    bool write;
    Slot *slot;

    if (!nbd_request_peek(conn, &req, &head)) {
        return nbd_request_fits(conn) ? TAKE_LATER : TAKE_PLAIN;
    }
    if (!may_be_submitted(conn, &req)) {
        return TAKE_PLAIN;
    }
    slot = take_slot(r, req.length);
    if (!slot) {
        return TAKE_LATER;
    }
    slot->req = req;
    write = req.type == NBD_CMD_WRITE;
    data = t->buffer + slot->page * PAGE;
    switch (blk_submit_begin(&slot->submit, conn->exp->common.blk, write,
                             req.offset, data, req.length)) {
    case BLK_SUBMIT_NOT:
        give_slot(r, slot);
        return TAKE_PLAIN;
    case BLK_SUBMIT_ZERO:
        set_done(r, slot, 0, true);
        break;
    case BLK_SUBMIT_BEGUN:
        if (write) {
            memcpy(data, conn->in + conn->in_start + head, req.length);
        }
        queue(r, slot);
        break;
    }
    conn->in_start += head + (write ? req.length : 0);
    return TAKEN;
}

/* Have the kernel receive more. */
static void receive(NbdThread *t)
{
    NbdConn *conn = t->conn;
    NbdRing *r = t->ring;
    size_t have = conn->in_end - conn->in_start;
    struct io_uring_sqe *sqe;

    if (r->receiving || r->at_end) {
        return;
    }
    if (have == 0 || sizeof(conn->in) - conn->in_end < sizeof(conn->in) / 2) {
        memmove(conn->in, conn->in + conn->in_start, have);
        conn->in_start = 0;
        conn->in_end = have;
    }
    if (conn->in_end == sizeof(conn->in)) {
        return;
    }
    sqe = get_sqe(r, &receive_tag);
    io_uring_prep_recv(sqe, conn->fd, conn->in + conn->in_end,
                       sizeof(conn->in) - conn->in_end, 0);
    io_uring_sqe_set_data(sqe, &receive_tag);
    r->receiving = true;
}

static void received(NbdThread *t, int n)
{
    t->ring->receiving = false;
    if (n > 0) {
        t->conn->in_end += n;
    } else if (n != -ECANCELED && n != -EINTR && n != -EAGAIN) {
        t->ring->at_end = true;
    }
}

/* Ask the kernel for all that is queued, and wait for something that is done. */
static void ask(NbdThread *t)
{
    NbdRing *r = t->ring;
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;
    int ret;

    do {
        ret = io_uring_submit_and_wait(&r->uring, 1);
    } while (ret == -EINTR || ret == -EAGAIN || ret == -EBUSY);
    if (ret < 0) {
        /* The kernel may still use the buffers. */
        g_error("io_uring_enter: %s", g_strerror(-ret));
    }
    io_uring_for_each_cqe(&r->uring, head, cqe)
    {
        void *tag = io_uring_cqe_get_data(cqe);

        n++;
        if (tag == &receive_tag) {
            received(t, cqe->res);
        } else if (tag != &cancel_tag) {
            Slot *slot = tag;

            r->begun--;
            set_done(r, slot, blk_submit_end(&slot->submit, cqe->res), false);
        }
    }
    io_uring_cq_advance(&r->uring, n);
}

/* ---- replies ------------------------------------------------------------ */

static void make_reply(NbdThread *t, Slot *slot)
{
    const NbdRequest *req = &slot->req;
    uint8_t *data = t->buffer + slot->page * PAGE;

    if (slot->ret < 0) {
        nbd_reply_make_error(&slot->reply, t->conn, req, slot->ret, NULL);
    } else if (req->type == NBD_CMD_WRITE) {
        nbd_reply_make_ok(&slot->reply, t->conn, req);
    } else if (slot->zero && t->conn->structured &&
               !(req->flags & NBD_CMD_FLAG_DF)) {
        nbd_reply_make_hole(&slot->reply, t->conn, req, 0, req->length);
    } else {
        if (slot->zero) {
            memset(data, 0, req->length);
        }
        nbd_reply_make_data(&slot->reply, t->conn, req, 0, data, req->length);
    }
}

/* All that is done, as one message */
static void make_message(NbdThread *t)
{
    NbdRing *r = t->ring;
    int n = 0;

    for (Slot *slot = r->done; slot; slot = slot->next) {
        make_reply(t, slot);
        r->parts[n++] =
            (struct iovec){ slot->reply.head, slot->reply.head_size };
        if (slot->reply.data_size > 0) {
            r->parts[n++] = (struct iovec){ (void *)slot->reply.data,
                                            slot->reply.data_size };
        }
    }
    r->sending = r->done;
    r->done = NULL;
    r->done_end = &r->done;
    r->rest = r->parts;
    r->n_rest = n;
}

static void end_sending(NbdThread *t, int ret)
{
    NbdRing *r = t->ring;

    while (r->sending) {
        Slot *slot = r->sending;

        r->sending = slot->next;
        give_slot(r, slot);
    }
    nbd_out_end(t->conn, ret);
}

/* Send what is done, without waiting. False: that cannot be. */
static bool try_reply(NbdThread *t)
{
    NbdRing *r = t->ring;
    int ret;

    if (!r->done) {
        return true;
    }
    ret = nbd_out_try_begin(t->conn);
    if (ret == -EAGAIN) {
        return false;
    }
    make_message(t);
    if (ret == 0) {
        ret = nbd_conn_send_on(t->conn, &r->rest, &r->n_rest, MSG_DONTWAIT);
    }
    if (ret == -EAGAIN) {
        return false;
    }
    end_sending(t, ret);
    return true;
}

/* Nothing is begun: send what is done, however long it takes. */
static void reply(NbdThread *t)
{
    NbdRing *r = t->ring;
    int ret;

    g_assert(r->begun == 0);
    if (r->sending) {
        end_sending(t, nbd_conn_send_on(t->conn, &r->rest, &r->n_rest, 0));
    }
    if (r->done) {
        ret = nbd_out_begin(t->conn);
        make_message(t);
        if (ret == 0) {
            ret = nbd_conn_send_on(t->conn, &r->rest, &r->n_rest, 0);
        }
        end_sending(t, ret);
    }
}

/* ---- the turn ----------------------------------------------------------- */

bool nbd_ring_is_for(NbdThread *t)
{
    NbdConn *conn = t->conn;

    if (conn->ring_pause > 0) {
        conn->ring_pause--;
        return false;
    }
    if (blk_may_submit(conn->exp->common.blk)) {
        if (!t->ring) {
            t->ring = ring_new();
        }
        if (t->ring) {
            return true;
        }
    }
    conn->ring_pause = MAX_PAUSE;
    return false;
}

/* So many requests were begun in a row. */
static void set_pause(NbdConn *conn, unsigned n)
{
    conn->ring_miss =
        n < WORTH_IT ? MIN(2 * conn->ring_miss + 1, MAX_PAUSE) : 0;
    conn->ring_pause = conn->ring_miss;
}

/* The socket is for others, and what they receive is not taken from them. */
static void stop_receiving(NbdThread *t)
{
    NbdRing *r = t->ring;

    if (r->receiving) {
        struct io_uring_sqe *sqe = get_sqe(r, &cancel_tag);

        io_uring_prep_cancel(sqe, &receive_tag, 0);
        io_uring_sqe_set_data(sqe, &cancel_tag);
    }
    while (r->receiving) {
        ask(t);
    }
}

/* All that was begun ends, and is replied to. */
static void end_all(NbdThread *t)
{
    while (t->ring->begun > 0) {
        ask(t);
    }
    reply(t);
}

/* Receive and begin requests, until one has to go the plain way, or this thread would
 * have to wait to send. How many were begun */
static unsigned run(NbdThread *t)
{
    NbdConn *conn = t->conn;
    NbdRing *r = t->ring;
    Taken taken;
    unsigned n = 0;

    while (!nbd_conn_hung_up(conn)) {
        while ((taken = take_request(t)) == TAKEN) {
            n++;
        }
        if (taken == TAKE_PLAIN) {
            break;
        }
        if (r->done) {
            if (!try_reply(t)) {
                break;
            }
            continue; /* there may be room for more */
        }
        receive(t);
        if (r->begun == 0 && !r->receiving) {
            break; /* that was all */
        }
        ask(t);
        if (!try_reply(t)) {
            break;
        }
    }
    return n;
}

bool nbd_ring_serve(NbdThread *t)
{
    NbdConn *conn = t->conn;
    NbdRing *r = t->ring;

    nbd_buffer_want(t, PAGES * PAGE);
    r->n_pages = MIN(t->capacity / PAGE, PAGES);
    r->at_end = false;
    set_pause(conn, run(t));
    stop_receiving(t);
    if (r->begun == 0 && !r->done && !r->sending) {
        return true;
    }
    nbd_crew_pass_turn(conn);
    end_all(t);
    nbd_buffer_relax(t);
    return false;
}
