/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the fuzzers of this directory share. Each is one LLVMFuzzerTestOneInput(),
 * and maybe a mutator that knows the form of its input; linked with libFuzzer
 * it looks for new inputs, linked with replay.c it runs those that are known.
 *
 * A run leaves nothing behind that another would see, and does the same for the
 * same input; what must hold is asserted with fuzz_assert().
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <glib.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Optional */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                               unsigned seed);
/* libFuzzer's, or replay.c's */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

#define fuzz_assert(condition, ...)                                            \
    do {                                                                       \
        if (!(condition)) {                                                    \
            g_printerr("%s:%d: %s:", __FILE__, __LINE__, #condition);          \
            g_printerr(" " __VA_ARGS__);                                       \
            g_printerr("\n");                                                  \
            abort();                                                           \
        }                                                                      \
    } while (0)

/* ---- input, taken from the front; zeroes when there is no more ------------ */

typedef struct FuzzInput {
    const uint8_t *data;
    size_t left;
} FuzzInput;

static inline uint64_t fuzz_number(FuzzInput *in, size_t bytes)
{
    uint64_t n = 0;

    while (bytes-- > 0) {
        n = n << 8 | (in->left > 0 ? *in->data : 0);
        if (in->left > 0) {
            in->data++;
            in->left--;
        }
    }
    return n;
}

static inline uint8_t fuzz_u8(FuzzInput *in)
{
    return fuzz_number(in, 1);
}

static inline uint16_t fuzz_u16(FuzzInput *in)
{
    return fuzz_number(in, 2);
}

static inline uint32_t fuzz_u32(FuzzInput *in)
{
    return fuzz_number(in, 4);
}

/* At most @bytes; how many there are is stored in @n. */
static inline const uint8_t *fuzz_bytes(FuzzInput *in, size_t bytes, size_t *n)
{
    const uint8_t *data = in->data;

    *n = MIN(bytes, in->left);
    in->data += *n;
    in->left -= *n;
    return data;
}

/* ---- numbers for mutators -------------------------------------------------- */

/* The next of a row of random numbers (splitmix64); below @limit */
static inline uint32_t fuzz_random(uint64_t *state, uint32_t limit)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (z ^ (z >> 31)) % limit;
}

/* Insert @n bytes at @at, as far as there is room; the new size */
static inline size_t fuzz_insert(uint8_t *data, size_t size, size_t max_size,
                                 size_t at, const uint8_t *bytes, size_t n)
{
    at = MIN(at, size);
    if (n > max_size - MIN(size, max_size)) {
        return size;
    }
    memmove(data + at + n, data + at, size - at);
    memcpy(data + at, bytes, n);
    return size + n;
}

/* Take away @n bytes at @at, as far as they are there; the new size */
static inline size_t fuzz_remove(uint8_t *data, size_t size, size_t at,
                                 size_t n)
{
    at = MIN(at, size);
    n = MIN(n, size - at);
    memmove(data + at, data + at + n, size - at - n);
    return size - n;
}

/* What warns would be told again and again; but who looks at one input may want to
 * see that, and more. */
static inline void fuzz_no_log(const char *domain, GLogLevelFlags level,
                               const char *message, void *opaque)
{
}

static inline void fuzz_quiet(void)
{
    if (!g_getenv("FUZZ_VERBOSE")) {
        g_log_set_default_handler(fuzz_no_log, NULL);
    }
}

#endif
