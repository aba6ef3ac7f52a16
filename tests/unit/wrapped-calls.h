/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System calls, and what is like one, that the linker puts functions of a test in place of (--wrap, see
 * the meson.build of the test): __wrap_NAME() is the test's, __real_NAME() libc's.
 */
#ifndef TESTS_UNIT_WRAPPED_CALLS_H
#define TESTS_UNIT_WRAPPED_CALLS_H

#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

ssize_t __real_aio_pwritev(int fd, const struct iovec *iov, int niov,
                           off_t offset);
ssize_t __wrap_aio_pwritev(int fd, const struct iovec *iov, int niov,
                           off_t offset);
int __real_dup3(int from, int to, int flags);
int __wrap_dup3(int from, int to, int flags);
int __real_fallocate64(int fd, int mode, off_t offset, off_t bytes);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __real_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st);
int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, ...);
off_t __real_lseek64(int fd, off_t offset, int whence);
off_t __wrap_lseek64(int fd, off_t offset, int whence);
int __real_posix_fadvise64(int fd, off_t offset, off_t bytes, int advice);
int __wrap_posix_fadvise64(int fd, off_t offset, off_t bytes, int advice);
ssize_t __real_preadv64v2(int fd, const struct iovec *iov, int niov,
                          off_t offset, int flags);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int niov,
                          off_t offset, int flags);
ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int niov,
                           off_t offset, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int niov,
                           off_t offset, int flags);
int __real_sync_file_range(int fd, off_t offset, off_t bytes, unsigned flags);
int __wrap_sync_file_range(int fd, off_t offset, off_t bytes, unsigned flags);

#endif
