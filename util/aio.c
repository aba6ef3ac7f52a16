/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A direct write that allocates has ext4 hold the file's lock exclusively, and a
 * write(2) holds it until the disk has the data: whatever the number of threads,
 * one such write is under way at a time, and no read. A write that is submitted
 * with io_submit(2) gives the lock back as soon as the disk has been asked. So
 * that is what a thread does here, and then waits.
 *
 * A context takes one request at a time. They are kept for the next who needs one,
 * for good: io_destroy(2) waits for all processors, which is longer than a write.
 * They do not outlive a fork(): what a child inherits takes no requests, and its writes
 * are plain. At an exit the kernel waits for what is under way, as it does for writes.
 */
#include "util/aio.h"

#include <errno.h>
#include <glib.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/thread.h"

/* That many writes at once, and no more: others go the plain way. */
#define MAX_CONTEXTS 256
/* Other processes may have taken all there are. So many writes go the plain way until
 * that is looked at again: the kernel says no only when it has made half of one. */
#define MISSES 64

static Mutex lock = MUTEX_INIT;
static aio_context_t idle[MAX_CONTEXTS]; /* lock */
static unsigned n_idle, n_contexts;      /* lock */
static unsigned misses;                  /* lock; still to come */
static int refused; /* atomic: the kernel has no such way */

/* Does waiting work, too? What is submitted must be waited for. */
static bool make_context(aio_context_t *context)
{
    struct timespec now = { 0, 0 };
    struct io_event event;

    *context = 0;
    if (syscall(SYS_io_setup, 1L, context) < 0) {
        /* EAGAIN: all processes together have too many. */
        if (errno != EAGAIN) {
            __atomic_store_n(&refused, 1, __ATOMIC_RELAXED);
        }
        return false;
    }
    if (syscall(SYS_io_getevents, *context, 0L, 1L, &event, &now) != 0) {
        __atomic_store_n(&refused, 1, __ATOMIC_RELAXED);
        syscall(SYS_io_destroy, *context);
        return false;
    }
    return true;
}

static bool get_context(aio_context_t *context)
{
    bool made;

    if (__atomic_load_n(&refused, __ATOMIC_RELAXED)) {
        return false;
    }
    mutex_lock(&lock);
    if (n_idle > 0) {
        *context = idle[--n_idle];
        mutex_unlock(&lock);
        return true;
    }
    if (n_contexts == MAX_CONTEXTS || misses > 0) {
        misses -= misses > 0;
        mutex_unlock(&lock);
        return false;
    }
    n_contexts++;
    mutex_unlock(&lock);
    made = make_context(context);
    if (!made) {
        MUTEX_GUARD(&lock);
        n_contexts--;
        misses = MISSES;
    }
    return made;
}

static void put_context(aio_context_t context)
{
    MUTEX_GUARD(&lock);

    idle[n_idle++] = context;
}

/* False: nothing was submitted. */
static bool submit_and_wait(aio_context_t context, struct iocb *request,
                            ssize_t *result)
{
    struct iocb *requests[] = { request };
    struct io_event event = { 0 };
    long n;

    if (syscall(SYS_io_submit, context, 1L, requests) != 1) {
        return false;
    }
    do {
        n = syscall(SYS_io_getevents, context, 1L, 1L, &event, NULL);
    } while (n == 0 || (n < 0 && errno == EINTR));
    if (n != 1) {
        /* The kernel may still read the buffers. */
        g_error("io_getevents: %s", g_strerror(errno));
    }
    *result = event.res;
    return true;
}

/* Once; -1 and errno, which may be EINTR: the file system's answer */
static ssize_t write_once(int fd, const struct iovec *iov, int niov,
                          off_t offset)
{
    struct iocb request = {
        .aio_lio_opcode = IOCB_CMD_PWRITEV,
        .aio_fildes = fd,
        .aio_buf = (uintptr_t)iov,
        .aio_nbytes = niov,
        .aio_offset = offset,
    };
    aio_context_t context;
    bool submitted = false;
    ssize_t n;

    if (get_context(&context)) {
        submitted = submit_and_wait(context, &request, &n);
        put_context(context);
    }
    if (!submitted) {
        return pwritev2(fd, iov, niov, offset, 0);
    }
    if (n < 0) {
        errno = -n;
        return -1;
    }
    return n;
}

ssize_t aio_pwritev(int fd, const struct iovec *iov, int niov, off_t offset)
{
    ssize_t n;

    do {
        n = write_once(fd, iov, niov, offset);
    } while (n < 0 && errno == EINTR);
    return n;
}
