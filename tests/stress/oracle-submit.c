/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of status-oracle in two halves (block/submit.h), where the node takes
 * them: many have the kernel carry them out, some are cut short or given up.
 */
#include <errno.h>
#include <liburing.h>
#include <sched.h>

#include "block/submit.h"
#include "oracle.h"
#include "util/uring.h"

/* Of requests that can be */
#define SUBMIT_ONE_IN 2
#define CUT_SHORT_ONE_IN 16

static ssize_t ask_kernel(struct io_uring *ring, const BlkSubmit *s)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    struct io_uring_cqe *cqe;
    ssize_t result;
    int ret;

    if (s->is_write) {
        io_uring_prep_writev(sqe, s->fd, &s->iov, 1, s->offset);
    } else {
        io_uring_prep_readv(sqe, s->fd, &s->iov, 1, s->offset);
    }
    do {
        ret = io_uring_submit_and_wait(ring, 1);
    } while (ret == -EINTR || ret == -EAGAIN);
    g_assert(ret >= 0);
    while (io_uring_wait_cqe(ring, &cqe) != 0) {
    }
    result = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return result;
}

static ssize_t carry_out(Worker *w, const BlkSubmit *s)
{
    bool bad = s->is_write && faults_fail();
    ssize_t result = 0;

    if (!bad && random_one_in(&w->rand, CUT_SHORT_ONE_IN)) {
        return random_one_in(&w->rand, 2)
                   ? -EAGAIN
                   : random_below(&w->rand, s->iov.iov_len);
    }
    if (!bad || random_one_in(&w->rand, 2)) {
        result = ask_kernel(w->ring, s);
    }
    return bad ? -EIO : result;
}

bool oracle_submit(Worker *w, bool is_write, int64_t offset, void *buf,
                   int64_t bytes, int *ret)
{
    BlkSubmit s;

    if (!random_one_in(&w->rand, SUBMIT_ONE_IN) || !blk_may_submit(w->o->blk)) {
        return false;
    }
    if (!w->ring) {
        w->ring = g_new0(struct io_uring, 1);
        g_assert(uring_init(w->ring, 1) == 0);
    }
    switch (blk_submit_begin(&s, w->o->blk, is_write, offset, buf, bytes)) {
    case BLK_SUBMIT_NOT:
        return false;
    case BLK_SUBMIT_ZERO:
        memset(buf, 0, bytes);
        *ret = 0;
        break;
    case BLK_SUBMIT_BEGUN:
        sched_yield();
        *ret = blk_submit_end(&s, carry_out(w, &s));
        w->counts.submitted++;
        break;
    }
    return true;
}

void oracle_submit_end(Worker *w)
{
    if (w->ring) {
        uring_exit(w->ring);
        g_clear_pointer(&w->ring, g_free);
    }
}
