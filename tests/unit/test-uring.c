/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rings of io_uring (util/uring.c): how they are made, and when they are not */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "unit-main.h"
#include "util/uring.h"

START_TEST(test_works)
{
    struct io_uring ring;
    struct io_uring_cqe *cqe;

    ck_assert_int_eq(uring_check(), 0);
    ck_assert_int_eq(uring_init(&ring, 4), 0);
    /* Nothing is left of what it was tried out with. */
    ck_assert_uint_eq(io_uring_cq_ready(&ring), 0);
    for (int i = 0; i < 4; i++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

        ck_assert_ptr_nonnull(sqe);
        io_uring_prep_nop(sqe);
    }
    ck_assert_int_eq(io_uring_submit_and_wait(&ring, 4), 4);
    ck_assert_uint_eq(io_uring_cq_ready(&ring), 4);
    ck_assert_int_eq(io_uring_peek_cqe(&ring, &cqe), 0);
    ck_assert_int_eq(cqe->res, 0);
    uring_exit(&ring);
}
END_TEST

/* As many threads of the kernel as docs/limits.md says */
START_TEST(test_workers)
{
    unsigned workers[] = { 0, 0 };
    struct io_uring ring;

    ck_assert_int_eq(uring_init(&ring, 4), 0);
    ck_assert_int_eq(io_uring_register_iowq_max_workers(&ring, workers), 0);
    ck_assert_uint_eq(workers[0], 16);
    uring_exit(&ring);
}
END_TEST

/* The other half of the descriptors is for clients. */
START_TEST(test_descriptors)
{
    struct rlimit limit;
    struct io_uring ring;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC), next;

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = 2 * (fd + 1);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert_int_eq(uring_init(&ring, 4), -EMFILE);
    /* It will do for some time to come. */
    ck_assert_int_eq(uring_check(), 0);
    /* It was closed again. */
    next = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(next, fd + 1);
    close(next);
    close(fd);
    ck_assert_int_eq(uring_init(&ring, 4), 0);
    uring_exit(&ring);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("uring");
    TCase *tc = tcase_create("uring");

    tcase_add_test(tc, test_works);
    tcase_add_test(tc, test_workers);
    tcase_add_test(tc, test_descriptors);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
