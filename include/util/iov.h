/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Helpers for scatter/gather lists (struct iovec). */
#ifndef UTIL_IOV_H
#define UTIL_IOV_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

size_t iov_size(const struct iovec *iov, int niov);

/*
 * Copy up to @bytes between a buffer and the list, from @offset in the list on.
 * Returns how much was copied: less than @bytes if the list is shorter.
 */
size_t iov_from_buf(const struct iovec *iov, int niov, size_t offset,
                    const void *buf, size_t bytes);
size_t iov_to_buf(const struct iovec *iov, int niov, size_t offset, void *buf,
                  size_t bytes);

/* Make [@offset, @offset + @bytes) of the list zero, as far as it goes. */
void iov_zero(const struct iovec *iov, int niov, size_t offset, size_t bytes);

/*
 * Describe [@offset, @offset + @bytes) of the list in @out, which has room for
 * @niov elements. Returns how many of them are used.
 */
int iov_slice(const struct iovec *iov, int niov, size_t offset, size_t bytes,
              struct iovec *out);

/*
 * Are all addresses multiples of @base_align and all lengths multiples of
 * @len_align (powers of two)?
 */
bool iov_is_aligned(const struct iovec *iov, int niov, size_t base_align,
                    size_t len_align);

/*
 * Are all bytes zero? At the speed of memory where they are, and mostly after
 * the first few bytes where they are not.
 */
bool buffer_is_zero(const void *buf, size_t bytes);
bool iov_is_zero(const struct iovec *iov, int niov);

#endif
