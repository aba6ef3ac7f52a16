/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes that the kernel carries out by itself */
#ifndef UTIL_AIO_H
#define UTIL_AIO_H

#include <sys/types.h>
#include <sys/uio.h>

/*
 * pwritev(2), also in that it returns when the write has ended. But the thread
 * waits for that outside of write(2), with no lock of the file in the kernel: see
 * aio.c. If there is no way to do that it is a plain pwritev2(2). At most IOV_MAX
 * buffers. The number of bytes, or -1 and errno; not EINTR. Any thread
 */
ssize_t aio_pwritev(int fd, const struct iovec *iov, int niov, off_t offset);

#endif
