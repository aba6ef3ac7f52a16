/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rings of io_uring(7), as this kernel does them best */
#ifndef UTIL_URING_H
#define UTIL_URING_H

#include <stdbool.h>

struct io_uring;

/*
 * A ring for @entries requests that are not yet asked of the kernel, and twice as many
 * that are done. Only the thread that has made it may use it. 0, or -errno: ENOSYS or
 * EPERM where the kernel has none, or not for us; EMFILE, ENOMEM where it is short of
 * something, and EMFILE, too, where half of the descriptors that this process may have
 * are in use. Any thread
 */
int uring_init(struct io_uring *ring, unsigned entries);
/* Its thread, or another when that uses it no more. Nothing is under way. */
void uring_exit(struct io_uring *ring);
/* Could a ring be made, if there are descriptors? The same. */
int uring_check(void);

#endif
