/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "util/uring.h"

#include <errno.h>
#include <glib.h>
#include <liburing.h>

int uring_init(struct io_uring *ring, unsigned entries)
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
    return ret;
}

int uring_check(void)
{
    struct io_uring ring;
    int ret = uring_init(&ring, 1);

    if (ret == 0) {
        io_uring_queue_exit(&ring);
    }
    return ret;
}
