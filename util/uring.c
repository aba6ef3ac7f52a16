/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "util/uring.h"

#include <errno.h>
#include <glib.h>
#include <liburing.h>
#include <sys/resource.h>

#include "util/thread.h"

/* Whoever has a ring's memory after it was given back, also comes after: that is what
 * the kernel sees to, but ThreadSanitizer does not see that. */
static Mutex lock = MUTEX_INIT;

/* What would block is done by threads of the kernel: so many for each ring, as many as
 * a connection without one has */
#define MAX_WORKERS 16

/* Others need descriptors more: without a ring all goes on, if slower. */
static bool is_short_of_descriptors(int fd)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_NOFILE, &limit) < 0 ||
           (rlim_t)fd >= limit.rlim_cur / 2;
}

/* A first request: old kernels find out only then that they are short of memory. */
static int try_out(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    int ret;

    io_uring_prep_nop(io_uring_get_sqe(ring));
    do {
        ret = io_uring_submit_and_wait(ring, 1);
    } while (ret == -EINTR);
    if (ret < 0) {
        return ret;
    }
    ret = io_uring_peek_cqe(ring, &cqe);
    if (ret == 0) {
        io_uring_cqe_seen(ring, cqe);
    }
    return ret;
}

static int set_up(struct io_uring *ring)
{
    unsigned workers[] = { MAX_WORKERS, 0 };

    /* Linux 5.15; before, it is the kernel's own limit. */
    io_uring_register_iowq_max_workers(ring, workers);
    return try_out(ring);
}

static int make_ring(struct io_uring *ring, unsigned entries)
{
    /* Linux 6.1 keeps what is done until its thread asks for it, and so does not
     * interrupt it; older kernels do not know these flags. */
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0
    };
    int ret = -EINVAL;

    for (size_t i = 0; i < G_N_ELEMENTS(flags) && ret == -EINVAL; i++) {
        struct io_uring_params params = { .flags = flags[i] };

        ret = io_uring_queue_init_params(entries, ring, &params);
    }
    if (ret < 0) {
        return ret;
    }
    ret = set_up(ring);
    if (ret < 0) {
        io_uring_queue_exit(ring);
    }
    return ret;
}

int uring_init(struct io_uring *ring, unsigned entries)
{
    int ret;

    MUTEX_GUARD(&lock);
    ret = make_ring(ring, entries);
    if (ret == 0 && is_short_of_descriptors(ring->ring_fd)) {
        io_uring_queue_exit(ring);
        ret = -EMFILE;
    }
    return ret;
}

void uring_exit(struct io_uring *ring)
{
    MUTEX_GUARD(&lock);
    io_uring_queue_exit(ring);
}

int uring_check(void)
{
    struct io_uring ring;
    int ret;

    MUTEX_GUARD(&lock);
    ret = make_ring(&ring, 1);
    if (ret == 0) {
        io_uring_queue_exit(&ring);
    }
    return ret;
}
