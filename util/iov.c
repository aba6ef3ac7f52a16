/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Helpers for scatter/gather lists. */
#include "util/iov.h"

#include <glib.h>
#include <stdint.h>
#include <string.h>

size_t iov_size(const struct iovec *iov, int niov)
{
    size_t size = 0;
    int i;

    for (i = 0; i < niov; i++) {
        size += iov[i].iov_len;
    }
    return size;
}

static size_t iov_copy(const struct iovec *iov, int niov, size_t offset,
                       void *to_buf, const void *from_buf, size_t bytes)
{
    size_t done = 0;
    int i;

    for (i = 0; i < niov && done < bytes; i++) {
        char *base = iov[i].iov_base;
        size_t n;

        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        n = MIN(bytes - done, iov[i].iov_len - offset);
        if (to_buf) {
            memcpy((char *)to_buf + done, base + offset, n);
        } else {
            memcpy(base + offset, (const char *)from_buf + done, n);
        }
        done += n;
        offset = 0;
    }
    return done;
}

size_t iov_from_buf(const struct iovec *iov, int niov, size_t offset,
                    const void *buf, size_t bytes)
{
    return iov_copy(iov, niov, offset, NULL, buf, bytes);
}

size_t iov_to_buf(const struct iovec *iov, int niov, size_t offset, void *buf,
                  size_t bytes)
{
    return iov_copy(iov, niov, offset, buf, NULL, bytes);
}

void iov_zero(const struct iovec *iov, int niov, size_t offset, size_t bytes)
{
    int i;

    for (i = 0; i < niov && bytes > 0; i++) {
        size_t start = MIN(offset, iov[i].iov_len);
        size_t n = MIN(bytes, iov[i].iov_len - start);

        memset((char *)iov[i].iov_base + start, 0, n);
        offset -= start;
        bytes -= n;
    }
}

int iov_slice(const struct iovec *iov, int niov, size_t offset, size_t bytes,
              struct iovec *out)
{
    int n = 0;
    int i;

    for (i = 0; i < niov && bytes > 0; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        out[n].iov_base = (char *)iov[i].iov_base + offset;
        out[n].iov_len = MIN(bytes, iov[i].iov_len - offset);
        bytes -= out[n].iov_len;
        offset = 0;
        n++;
    }
    g_assert(bytes == 0);
    return n;
}

bool iov_is_aligned(const struct iovec *iov, int niov, size_t base_align,
                    size_t len_align)
{
    int i;

    for (i = 0; i < niov; i++) {
        if (((uintptr_t)iov[i].iov_base & (base_align - 1)) ||
            (iov[i].iov_len & (len_align - 1))) {
            return false;
        }
    }
    return true;
}

/* Long enough for the compiler to use the widest registers there are */
#define ZERO_STEP 128

static uint64_t any_bits(const uint8_t *p)
{
    uint64_t words[ZERO_STEP / sizeof(uint64_t)];
    uint64_t bits = 0;
    size_t i;

    memcpy(words, p, sizeof(words));
    for (i = 0; i < G_N_ELEMENTS(words); i++) {
        bits |= words[i];
    }
    return bits;
}

bool buffer_is_zero(const void *buf, size_t bytes)
{
    const uint8_t *p = buf;
    const uint8_t *end = p + bytes;

    if (bytes < ZERO_STEP) {
        while (p < end && *p == 0) {
            p++;
        }
        return p == end;
    }
    /* Data that begins with zeroes mostly does not end with them, too. */
    if (any_bits(p) || any_bits(end - ZERO_STEP)) {
        return false;
    }
    for (p += ZERO_STEP; end - p > ZERO_STEP; p += ZERO_STEP) {
        if (any_bits(p)) {
            return false;
        }
    }
    return true;
}

bool iov_is_zero(const struct iovec *iov, int niov)
{
    int i;

    for (i = 0; i < niov; i++) {
        if (!buffer_is_zero(iov[i].iov_base, iov[i].iov_len)) {
            return false;
        }
    }
    return true;
}
