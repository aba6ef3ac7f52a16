/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The seam: system calls on files and devices */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <glib.h>

#include "seam.h"
#include "../unit/wrapped-calls.h"

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

#define SITE __builtin_return_address(0)

/* Does it go on, and does it fail afterwards? */
static bool is_done(const Fault *f)
{
    return !f || f->kind == FAULT_AFTER || f->kind == FAULT_PARTLY ||
           f->kind == FAULT_SHORT;
}

/* What a call that returned @r returns */
static int outcome(const Fault *f, int r)
{
    if (f && f->err) {
        errno = f->err;
        return -1;
    }
    return r;
}

/* A call that returns 0 or -1, and does all or nothing */
#define WRAP(name, parameters, arguments, detail, fd)                          \
    int __real_##name parameters;                                              \
    int __wrap_##name parameters;                                              \
    int __wrap_##name parameters                                               \
    {                                                                          \
        const Fault *f = seam_meet(#name, detail, fd, false, SITE);            \
                                                                               \
        return outcome(f, is_done(f) ? __real_##name arguments : -1);          \
    }

WRAP(stat64, (const char *path, struct stat *st), (path, st), "", -1)
WRAP(lstat64, (const char *path, struct stat *st), (path, st), "", -1)
WRAP(fstat64, (int fd, struct stat *st), (fd, st), "", fd)
WRAP(fstatfs64, (int fd, struct statfs *fs), (fd, fs), "", fd)
WRAP(statx,
     (int fd, const char *path, int flags, unsigned mask, struct statx *stx),
     (fd, path, flags, mask, stx), "", fd)
WRAP(access, (const char *path, int mode), (path, mode), "", -1)
WRAP(unlink, (const char *path), (path), "", -1)
WRAP(fchmod, (int fd, mode_t mode), (fd, mode), "", fd)
WRAP(ftruncate64, (int fd, off_t length), (fd, length), "", fd)
WRAP(close, (int fd), (fd), "", fd)

/* ---- what is asked of sysfs ---------------------------------------------- */

GDir *__real_g_dir_open(const char *path, guint flags, GError **errp);
GDir *__wrap_g_dir_open(const char *path, guint flags, GError **errp);

/* To look through many loop devices again and again takes long. */
GDir *__wrap_g_dir_open(const char *path, guint flags, GError **errp)
{
    return !strcmp(path, "/sys/block") && !seam_has_loop_device()
               ? NULL
               : __real_g_dir_open(path, flags, errp);
}

/* ---- those that return a descriptor ------------------------------------- */

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);

int __wrap_open64(const char *path, int flags, ...)
{
    const char *detail = (flags & O_ACCMODE) == O_RDONLY ? "O_RDONLY"
                         : flags & O_CREAT               ? "O_CREAT"
                                                         : "O_RDWR";
    const Fault *f = seam_is_foreign(path)
                         ? NULL
                         : seam_meet("open64", detail, -1, false, SITE);
    mode_t mode = 0;
    va_list ap;

    if (f) {
        return -1;
    }
    if (flags & O_CREAT) {
        va_start(ap, flags);
        mode = va_arg(ap, mode_t);
        va_end(ap);
    }
    return __real_open64(path, flags, mode);
}

int __wrap_dup3(int from, int to, int flags)
{
    return seam_meet("dup3", "", from, false, SITE)
               ? -1
               : __real_dup3(from, to, flags);
}

/* ---- those that do many things ------------------------------------------ */

/* What tests do for themselves does not matter. */
static const char *unknown(const char *name, unsigned long what)
{
    if (seam_is_open()) {
        g_error("%s %#lx is not known here: name it", name, what);
    }
    return "";
}

static const char *ioctl_name(unsigned long request)
{
    switch (request) {
    case FS_IOC_GETFLAGS:
        return "FS_IOC_GETFLAGS";
    case FS_IOC_FIEMAP:
        return "FS_IOC_FIEMAP";
    case BLKROGET:
        return "BLKROGET";
    case BLKSSZGET:
        return "BLKSSZGET";
    case BLKPBSZGET:
        return "BLKPBSZGET";
    case BLKGETSIZE64:
        return "BLKGETSIZE64";
    case BLKZEROOUT:
        return "BLKZEROOUT";
    case BLKDISCARD:
        return "BLKDISCARD";
    case LOOP_GET_STATUS64:
        return "LOOP_GET_STATUS64";
    default:
        return unknown("ioctl", request);
    }
}

static const char *fcntl_name(int command)
{
    switch (command) {
    case F_DUPFD_CLOEXEC:
        return "F_DUPFD_CLOEXEC";
    case F_GETFD:
        return "F_GETFD";
    case F_SETFD:
        return "F_SETFD";
    case F_GETFL:
        return "F_GETFL";
    case F_SETFL:
        return "F_SETFL";
    case F_OFD_GETLK:
        return "F_OFD_GETLK";
    case F_OFD_SETLK:
        return "F_OFD_SETLK";
    default:
        return unknown("fcntl", command);
    }
}

static const char *syscall_name(long number)
{
    switch (number) {
    case SYS_cachestat:
        return "cachestat";
    case SYS_kcmp:
        return "kcmp";
    default:
        return unknown("syscall", number);
    }
}

int __real_fcntl64(int fd, int command, void *arg);
int __wrap_fcntl64(int fd, int command, ...);
long __real_syscall(long number, long a, long b, long c, long d, long e);
long __wrap_syscall(long number, ...);

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    const Fault *f = seam_meet("ioctl", ioctl_name(request), fd, false, SITE);
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    return outcome(f, is_done(f) ? __real_ioctl(fd, request, arg) : -1);
}

/* An argument that is an int is passed as a pointer is. */
int __wrap_fcntl64(int fd, int command, ...)
{
    const Fault *f = seam_meet("fcntl64", fcntl_name(command), fd, false, SITE);
    va_list ap;
    void *arg;

    va_start(ap, command);
    arg = va_arg(ap, void *);
    va_end(ap);
    return f ? -1 : __real_fcntl64(fd, command, arg);
}

long __wrap_syscall(long number, ...)
{
    long arg[5];
    const Fault *f;
    va_list ap;
    int i;

    va_start(ap, number);
    for (i = 0; i < 5; i++) {
        arg[i] = va_arg(ap, long);
    }
    va_end(ap);
    if (number == SYS_io_setup || number == SYS_io_submit ||
        number == SYS_io_getevents) {
        /* aio_pwritev() is a call by itself; unit/test-aio has these fail. */
        return __real_syscall(number, arg[0], arg[1], arg[2], arg[3], arg[4]);
    }
    f = seam_meet("syscall", syscall_name(number), -1, false, SITE);
    return f ? -1
             : __real_syscall(number, arg[0], arg[1], arg[2], arg[3], arg[4]);
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes)
{
    const char *detail = mode & FALLOC_FL_PUNCH_HOLE   ? "PUNCH_HOLE"
                         : mode & FALLOC_FL_ZERO_RANGE ? "ZERO_RANGE"
                                                       : "allocate";
    const Fault *f = seam_meet("fallocate64", detail, fd, false, SITE);

    if (f && f->kind == FAULT_PARTLY) {
        bytes = MAX(bytes / 2, 1);
    }
    return outcome(f, is_done(f) ? __real_fallocate64(fd, mode, offset, bytes)
                                 : -1);
}

off_t __wrap_lseek64(int fd, off_t offset, int whence)
{
    const char *detail = whence == SEEK_DATA   ? "SEEK_DATA"
                         : whence == SEEK_HOLE ? "SEEK_HOLE"
                                               : "SEEK_END";

    return seam_meet("lseek64", detail, fd, false, SITE)
               ? -1
               : __real_lseek64(fd, offset, whence);
}

/* ---- transfers ---------------------------------------------------------- */

typedef struct Transfer {
    int fd;
    bool write;
    const struct iovec *iov;
    int niov;
    off_t offset;
    int flags;
    bool aio;
} Transfer;

ssize_t __wrap_pread64(int fd, void *buf, size_t bytes, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t bytes, off_t offset);

static ssize_t transfer(const Transfer *t, const struct iovec *iov, int niov)
{
    if (t->aio) {
        return __real_aio_pwritev(t->fd, iov, niov, t->offset);
    }
    return t->write ? __real_pwritev64v2(t->fd, iov, niov, t->offset, t->flags)
                    : __real_preadv64v2(t->fd, iov, niov, t->offset, t->flags);
}

/* The first half, in whole blocks if it is direct I/O: so it is in the kernel. */
static ssize_t transfer_half(const Transfer *t)
{
    bool direct = __real_fcntl64(t->fd, F_GETFL, NULL) & O_DIRECT;
    struct iovec half = t->iov[0];
    size_t block = !direct ? 1 : half.iov_len % 4096 == 0 ? 4096 : 512;

    if (t->niov == 1) {
        half.iov_len = MAX(half.iov_len / 2 / block * block, block);
    }
    return transfer(t, &half, 1);
}

static ssize_t wrap_transfer(const Transfer *t, const char *name, void *site)
{
    const Fault *f = seam_meet(name, t->flags & RWF_DSYNC ? "RWF_DSYNC" : "",
                               t->fd, t->flags & RWF_DSYNC, site);
    Transfer lazy = *t;
    ssize_t n = 0;

    if (!seam_syncs()) {
        lazy.flags &= ~RWF_DSYNC;
    }
    if (!f || f->kind == FAULT_AFTER) {
        n = transfer(&lazy, t->iov, t->niov);
    } else if (f->kind == FAULT_PARTLY || f->kind == FAULT_SHORT) {
        n = transfer_half(&lazy);
    } else if (f->kind == FAULT_NOTHING) {
        return 0;
    }
    return outcome(f, n);
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int niov,
                           off_t offset, int flags)
{
    Transfer t = { fd, true, iov, niov, offset, flags };

    return wrap_transfer(&t, "pwritev64v2", SITE);
}

/* Fails as a write does. */
ssize_t __wrap_aio_pwritev(int fd, const struct iovec *iov, int niov,
                           off_t offset)
{
    Transfer t = { fd, true, iov, niov, offset, 0, .aio = true };

    return wrap_transfer(&t, "pwritev64v2", SITE);
}

ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int niov,
                          off_t offset, int flags)
{
    Transfer t = { fd, false, iov, niov, offset, flags };

    return wrap_transfer(&t, "preadv64v2", SITE);
}

ssize_t __wrap_pread64(int fd, void *buf, size_t bytes, off_t offset)
{
    struct iovec iov = { buf, bytes };
    Transfer t = { fd, false, &iov, 1, offset, 0 };

    return wrap_transfer(&t, "pread64", SITE);
}

ssize_t __wrap_pwrite64(int fd, const void *buf, size_t bytes, off_t offset)
{
    struct iovec iov = { (void *)buf, bytes };
    Transfer t = { fd, true, &iov, 1, offset, 0 };

    return wrap_transfer(&t, "pwrite64", SITE);
}

/* ---- what is for stable storage, or for speed --------------------------- */

#define WRAP_SYNC(name)                                                        \
    int __real_##name(int fd);                                                 \
    int __wrap_##name(int fd);                                                 \
    int __wrap_##name(int fd)                                                  \
    {                                                                          \
        const Fault *f = seam_meet(#name, "", fd, false, SITE);                \
                                                                               \
        return outcome(f, is_done(f) && seam_syncs() ? __real_##name(fd) : 0); \
    }

WRAP_SYNC(fdatasync)
WRAP_SYNC(fsync)

int __wrap_sync_file_range(int fd, off_t offset, off_t bytes, unsigned flags)
{
    const Fault *f = seam_meet("sync_file_range", "", fd, false, SITE);

    return outcome(
        f, is_done(f) ? __real_sync_file_range(fd, offset, bytes, flags) : 0);
}

/* This returns the error. */
int __wrap_posix_fadvise64(int fd, off_t offset, off_t bytes, int advice)
{
    const Fault *f = seam_meet("posix_fadvise64", "", fd, false, SITE);

    return f ? f->err : __real_posix_fadvise64(fd, offset, bytes, advice);
}
