/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bitmaps to be measured: an array of words, __builtin_ctzll and
 * __builtin_popcountll. Where the processor has an instruction for the latter,
 * it is used.
 */
#include "bitmap-kinds.h"

#include <glib.h>
#include <stdlib.h>
#include <string.h>

#define BITS 64

#if defined(__x86_64__)
#define WITH_POPCNT __attribute__((target("popcnt")))
#else
#define WITH_POPCNT
#endif

typedef struct Plain {
    uint64_t nbits;
    uint64_t *words;
} Plain;

static uint64_t n_words(uint64_t nbits)
{
    return (nbits + BITS - 1) / BITS;
}

static void *create(uint64_t nbits)
{
    Plain *plain = g_new(Plain, 1);

    plain->nbits = nbits;
    plain->words = g_new0(uint64_t, n_words(nbits));
    return plain;
}

static void destroy(void *bitmap)
{
    Plain *plain = bitmap;

    g_free(plain->words);
    g_free(plain);
}

/* The bits from @start on, and those before @end, of the words they are in */
static uint64_t from(uint64_t start)
{
    return UINT64_MAX << start % BITS;
}

static uint64_t before(uint64_t end)
{
    return UINT64_MAX >> (BITS - 1 - (end - 1) % BITS);
}

static void assign(uint64_t *word, uint64_t mask, bool value)
{
    *word = value ? *word | mask : *word & ~mask;
}

static void assign_range(Plain *plain, uint64_t start, uint64_t count,
                         bool value)
{
    uint64_t end = start + count;
    uint64_t first = start / BITS, last = (end - 1) / BITS;

    if (first == last) {
        assign(&plain->words[first], from(start) & before(end), value);
        return;
    }
    assign(&plain->words[first], from(start), value);
    memset(&plain->words[first + 1], value ? 0xff : 0,
           (last - first - 1) * sizeof(uint64_t));
    assign(&plain->words[last], before(end), value);
}

static void set(void *bitmap, uint64_t start, uint64_t count)
{
    assign_range(bitmap, start, count, true);
}

static void clear(void *bitmap, uint64_t start, uint64_t count)
{
    assign_range(bitmap, start, count, false);
}

static bool test(void *bitmap, uint64_t bit)
{
    const Plain *plain = bitmap;

    return plain->words[bit / BITS] >> bit % BITS & 1;
}

static uint64_t find(const Plain *plain, uint64_t start, uint64_t end,
                     uint64_t flip)
{
    uint64_t i = start / BITS, last = (end - 1) / BITS;
    uint64_t word = (plain->words[i] ^ flip) & from(start);

    while (word == 0 && i < last) {
        word = plain->words[++i] ^ flip;
    }
    return word ? MIN(end, i * BITS + __builtin_ctzll(word)) : end;
}

static uint64_t next_set(void *bitmap, uint64_t start, uint64_t end)
{
    return start < end ? find(bitmap, start, end, 0) : end;
}

static uint64_t next_clear(void *bitmap, uint64_t start, uint64_t end)
{
    return start < end ? find(bitmap, start, end, UINT64_MAX) : end;
}

static uint64_t next_change(void *bitmap, uint64_t start, uint64_t end)
{
    return find(bitmap, start, end, test(bitmap, start) ? UINT64_MAX : 0);
}

WITH_POPCNT
static uint64_t count_range(void *bitmap, uint64_t start, uint64_t n)
{
    const Plain *plain = bitmap;
    uint64_t end = start + n, i = start / BITS, last = (end - 1) / BITS;
    uint64_t count, word = plain->words[i] & from(start);

    if (i == last) {
        return __builtin_popcountll(word & before(end));
    }
    count = __builtin_popcountll(word);
    while (++i < last) {
        count += __builtin_popcountll(plain->words[i]);
    }
    return count + __builtin_popcountll(plain->words[last] & before(end));
}

static uint64_t count(void *bitmap)
{
    const Plain *plain = bitmap;

    return count_range(bitmap, 0, plain->nbits);
}

const BitmapKind bitmap_plain = {
    .name = "plain",
    .create = create,
    .destroy = destroy,
    .set = set,
    .clear = clear,
    .test = test,
    .next_set = next_set,
    .next_clear = next_clear,
    .next_change = next_change,
    .count = count,
    .count_range = count_range,
};
