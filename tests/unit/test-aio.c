/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes that wait outside of write(2), with a kernel that does as the test says */
#include "util/aio.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit-main.h"
#include "wrapped-calls.h"

#define BLOCK 4096
#define THREADS 8
#define BLOCKS 16 /* a thread */

/* How often each was called; and the next of them fail so often, like that */
typedef struct Call {
    long number;
    int count, fail, err;
} Call;
static Call setup = { .number = SYS_io_setup };
static Call submit = { .number = SYS_io_submit };
static Call wait_for = { .number = SYS_io_getevents };
static int plain; /* writes */
static long long fake_result, fake_once;

long __real_syscall(long number, long a, long b, long c, long d, long e);
long __wrap_syscall(long number, ...);

static bool fails(Call *call, long number)
{
    if (number != call->number) {
        return false;
    }
    __atomic_add_fetch(&call->count, 1, __ATOMIC_RELAXED);
    if (call->fail == 0) {
        return false;
    }
    call->fail--;
    errno = call->err;
    return true;
}

long __wrap_syscall(long number, ...)
{
    long arg[5], r;
    va_list ap;
    int i;

    va_start(ap, number);
    for (i = 0; i < 5; i++) {
        arg[i] = va_arg(ap, long);
    }
    va_end(ap);
    if (fails(&setup, number) || fails(&submit, number) ||
        fails(&wait_for, number)) {
        return -1;
    }
    r = __real_syscall(number, arg[0], arg[1], arg[2], arg[3], arg[4]);
    if (number == SYS_io_getevents && r == 1 && fake_result) {
        ((struct io_event *)arg[3])->res = fake_result;
    } else if (number == SYS_io_getevents && r == 1 && fake_once) {
        ((struct io_event *)arg[3])->res = fake_once;
        fake_once = 0;
    }
    return r;
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int niov,
                           off_t offset, int flags)
{
    plain++;
    return __real_pwritev64v2(fd, iov, niov, offset, flags);
}

/* ---- a file ------------------------------------------------------------- */

static char *name;
static int fd;

static void set_up(void)
{
    name = g_build_filename(g_get_tmp_dir(), "seekless-test-aio-XXXXXX", NULL);
    fd = g_mkstemp(name);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)THREADS * BLOCKS * BLOCK), 0);
    /* Where there is no O_DIRECT the rest still holds. */
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT) < 0) {
        g_printerr("without O_DIRECT\n");
    }
}

static void tear_down(void)
{
    close(fd);
    g_unlink(name);
    g_free(name);
}

static void *filled(int byte)
{
    void *buf;

    ck_assert_int_eq(posix_memalign(&buf, BLOCK, BLOCK), 0);
    memset(buf, byte, BLOCK);
    return buf;
}

static ssize_t write_block(int64_t block, int byte)
{
    uint8_t *buf = filled(byte);
    struct iovec iov = { buf, BLOCK };
    ssize_t n = aio_pwritev(fd, &iov, 1, block * BLOCK);
    int err = errno;

    free(buf);
    errno = err;
    return n;
}

static void check_block(int64_t block, int byte)
{
    uint8_t *buf = filled(byte ^ 1);
    int i;

    ck_assert_int_eq(pread(fd, buf, BLOCK, block * BLOCK), BLOCK);
    for (i = 0; i < BLOCK; i++) {
        ck_assert_int_eq(buf[i], byte);
    }
    free(buf);
}

/* ---- tests -------------------------------------------------------------- */

START_TEST(test_write)
{
    ck_assert_int_eq(write_block(3, 7), BLOCK);
    ck_assert_int_eq(write_block(5, 9), BLOCK);
    check_block(3, 7);
    check_block(4, 0);
    check_block(5, 9);
    ck_assert_int_eq(plain, 0);
    ck_assert_int_eq(submit.count, 2);
    /* The second found it ready made. */
    ck_assert_int_eq(setup.count, 1);
}
END_TEST

START_TEST(test_vector)
{
    uint8_t *one = filled(1), *two = filled(2);
    struct iovec iov[2] = { { one, BLOCK }, { two, BLOCK } };

    ck_assert_int_eq(aio_pwritev(fd, iov, 2, 0), 2 * BLOCK);
    check_block(0, 1);
    check_block(1, 2);
    free(one);
    free(two);
}
END_TEST

static void *writer(void *opaque)
{
    int64_t me = GPOINTER_TO_INT(opaque), i;

    for (i = 0; i < BLOCKS; i++) {
        ck_assert_int_eq(write_block(i * THREADS + me, 1 + me), BLOCK);
    }
    return NULL;
}

START_TEST(test_threads)
{
    pthread_t threads[THREADS];
    int64_t i;

    for (i = 0; i < THREADS; i++) {
        ck_assert_int_eq(
            pthread_create(&threads[i], NULL, writer, GINT_TO_POINTER((int)i)),
            0);
    }
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (i = 0; i < THREADS * BLOCKS; i++) {
        check_block(i, 1 + i % THREADS);
    }
    ck_assert_int_eq(submit.count, THREADS * BLOCKS);
    ck_assert_int_le(setup.count, THREADS);
}
END_TEST

START_TEST(test_no_such_call)
{
    static const int errors[] = { ENOSYS, EPERM, ENOMEM };

    setup.fail = 1;
    setup.err = errors[_i];
    ck_assert_int_eq(write_block(0, 1), BLOCK);
    ck_assert_int_eq(write_block(1, 2), BLOCK);
    check_block(0, 1);
    check_block(1, 2);
    ck_assert_int_eq(plain, 2);
    ck_assert_int_eq(setup.count, 1); /* never again */
}
END_TEST

START_TEST(test_too_many_requests)
{
    setup.fail = 1;
    setup.err = EAGAIN;
    ck_assert_int_eq(write_block(0, 1), BLOCK);
    ck_assert_int_eq(plain, 1);
    /* To ask is not for nothing. */
    while (setup.count == 1 && plain < 1000) {
        ck_assert_int_eq(write_block(1, 2), BLOCK);
    }
    ck_assert_int_gt(plain, 20);
    ck_assert_int_lt(plain, 1000);
    ck_assert_int_eq(submit.count, 1);
    check_block(0, 1);
    check_block(1, 2);
}
END_TEST

/* What a child inherits takes no requests. */
START_TEST(test_child)
{
    pid_t child;
    int status;

    ck_assert_int_eq(write_block(0, 1), BLOCK);
    child = fork();
    if (child == 0) {
        _exit(write_block(1, 2) == BLOCK && plain == 1 ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    check_block(1, 2);
}
END_TEST

/* Found out before anything is submitted that could not be waited for */
START_TEST(test_no_waiting)
{
    wait_for.fail = 1;
    wait_for.err = EPERM;
    ck_assert_int_eq(write_block(0, 1), BLOCK);
    ck_assert_int_eq(write_block(1, 2), BLOCK);
    ck_assert_int_eq(submit.count, 0);
    ck_assert_int_eq(plain, 2);
    check_block(1, 2);
}
END_TEST

START_TEST(test_not_submitted)
{
    static const int errors[] = { EAGAIN, EINVAL, EPERM };

    submit.fail = 1;
    submit.err = errors[_i];
    ck_assert_int_eq(write_block(0, 1), BLOCK);
    ck_assert_int_eq(plain, 1);
    ck_assert_int_eq(write_block(1, 2), BLOCK);
    ck_assert_int_eq(plain, 1);
    check_block(0, 1);
    check_block(1, 2);
}
END_TEST

START_TEST(test_signals)
{
    ck_assert_int_eq(write_block(0, 1), BLOCK);
    wait_for.fail = 3;
    wait_for.err = EINTR;
    ck_assert_int_eq(write_block(1, 2), BLOCK);
    ck_assert_int_eq(wait_for.fail, 0);
    check_block(1, 2);
    ck_assert_int_eq(submit.count, 2);
    fake_once = -EINTR; /* of the file system */
    ck_assert_int_eq(write_block(2, 3), BLOCK);
    ck_assert_int_eq(submit.count, 4);
}
END_TEST

START_TEST(test_errors)
{
    int good = fd;

    fake_result = -ENOSPC;
    ck_assert_int_eq(write_block(0, 1), -1);
    ck_assert_int_eq(errno, ENOSPC);
    fake_result = 512; /* a short one */
    ck_assert_int_eq(write_block(0, 1), 512);
    fake_result = 0;
    fd = -1;
    ck_assert_int_eq(write_block(0, 1), -1);
    ck_assert_int_eq(errno, EBADF);
    fd = open(name, O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(write_block(0, 1), -1);
    ck_assert_int_eq(errno, EBADF);
    close(fd);
    fd = good;
}
END_TEST

int main(void)
{
    Suite *s = suite_create("aio");
    TCase *tc = tcase_create("aio");

    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, test_write);
    tcase_add_test(tc, test_vector);
    tcase_add_test(tc, test_threads);
    tcase_add_loop_test(tc, test_no_such_call, 0, 3);
    tcase_add_test(tc, test_too_many_requests);
    tcase_add_test(tc, test_child);
    tcase_add_test(tc, test_no_waiting);
    tcase_add_loop_test(tc, test_not_submitted, 0, 3);
    tcase_add_test(tc, test_signals);
    tcase_add_test(tc, test_errors);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
