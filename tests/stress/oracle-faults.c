/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System calls of the node that are slower than they are, so that requests meet
 * more often between any two of them; and some that fail, with or without having
 * done their work. The linker puts these functions in the place of the real ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>

#include "oracle.h"
#include "../unit/wrapped-calls.h"

#define YIELD_ONE_IN 4
#define SLEEP_ONE_IN 64
#define MAX_SLEEP_NS 300000
#define FAIL_ONE_IN 256
#define UNSUPPORTED_ONE_IN 64

static __thread Random *faults; /* NULL: none */
static __thread bool may_yield, failed;

void faults_begin(Random *rand, bool yields)
{
    faults = rand;
    may_yield = yields;
    failed = false;
}

bool faults_end(void)
{
    faults = NULL;
    return failed;
}

static void yield(void)
{
    struct timespec ts = { 0 };

    if (!faults || !may_yield) {
        return;
    }
    if (random_one_in(faults, SLEEP_ONE_IN)) {
        /* as if the kernel had somebody else go on for a while */
        ts.tv_nsec = random_below(faults, MAX_SLEEP_NS);
        nanosleep(&ts, NULL);
    } else if (random_one_in(faults, YIELD_ONE_IN)) {
        sched_yield();
    }
}

static bool fails(int one_in)
{
    if (!faults || !random_one_in(faults, one_in)) {
        return false;
    }
    failed = true;
    return true;
}

bool faults_fail(void)
{
    return fails(FAIL_ONE_IN);
}

static ssize_t write_or_fail(int fd, const struct iovec *iov, int niov,
                             off_t offset, int flags, bool aio)
{
    /* A failed RWF_DSYNC is taken for a failed flush, and the last one. */
    bool bad = !(flags & RWF_DSYNC) && fails(FAIL_ONE_IN);
    ssize_t n = 0;

    yield();
    if (!bad || random_one_in(faults, 2)) {
        n = aio ? __real_aio_pwritev(fd, iov, niov, offset)
                : __real_pwritev64v2(fd, iov, niov, offset, flags);
    }
    yield();
    if (bad) {
        errno = EIO;
        return -1;
    }
    return n;
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int niov,
                           off_t offset, int flags)
{
    return write_or_fail(fd, iov, niov, offset, flags, false);
}

ssize_t __wrap_aio_pwritev(int fd, const struct iovec *iov, int niov,
                           off_t offset)
{
    return write_or_fail(fd, iov, niov, offset, 0, true);
}

ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int niov,
                          off_t offset, int flags)
{
    ssize_t n;

    yield();
    n = __real_preadv64v2(fd, iov, niov, offset, flags);
    yield();
    return n;
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes)
{
    bool bad = fails(FAIL_ONE_IN);
    int r = 0;

    yield();
    if (!bad && fails(UNSUPPORTED_ONE_IN)) {
        errno = EINVAL; /* not this range */
        return -1;
    }
    if (!bad || random_one_in(faults, 2)) {
        r = __real_fallocate64(fd, mode, offset, bytes);
    }
    yield();
    if (bad) {
        errno = EIO;
        return -1;
    }
    return r;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    bool changes = request == BLKZEROOUT || request == BLKDISCARD;
    bool bad = changes && fails(FAIL_ONE_IN);
    void *arg;
    va_list ap;
    int r = 0;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    yield();
    if (!bad || random_one_in(faults, 2)) {
        r = __real_ioctl(fd, request, arg);
    }
    yield();
    if (bad) {
        errno = EIO;
        return -1;
    }
    return r;
}

/* ---- of the prober ------------------------------------------------------ */

static off_t probe_lseek(int fd, off_t offset, int whence)
{
    yield();
    return status_probe_linux_ops.lseek(fd, offset, whence);
}

static int probe_cachestat(int fd, int64_t offset, int64_t bytes,
                           StatusPages *pages)
{
    yield();
    return status_probe_linux_ops.cachestat(fd, offset, bytes, pages);
}

static int probe_fstatfs(int fd, struct statfs *buf)
{
    return status_probe_linux_ops.fstatfs(fd, buf);
}

static int probe_fiemap(int fd, struct fiemap *f)
{
    int r;

    yield();
    r = status_probe_linux_ops.fiemap(fd, f);
    yield();
    return r;
}

const StatusProbeOps faults_probe_ops = {
    .fstatfs = probe_fstatfs,
    .lseek = probe_lseek,
    .fiemap = probe_fiemap,
    .cachestat = probe_cachestat,
};
