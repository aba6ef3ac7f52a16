/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bitmaps of three kinds under one interface, to be measured side by side. All
 * calls go through these tables, so that what a call costs is the same for all.
 * Ranges are as in util/sparse-bitmap.h.
 */
#ifndef BENCH_BITMAP_KINDS_H
#define BENCH_BITMAP_KINDS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct BitmapKind {
    const char *name;
    void *(*create)(uint64_t nbits);
    void (*destroy)(void *bitmap);
    void (*set)(void *bitmap, uint64_t start, uint64_t count);
    void (*clear)(void *bitmap, uint64_t start, uint64_t count);
    bool (*test)(void *bitmap, uint64_t bit);
    uint64_t (*next_set)(void *bitmap, uint64_t start, uint64_t end);
    uint64_t (*next_clear)(void *bitmap, uint64_t start, uint64_t end);
    uint64_t (*next_change)(void *bitmap, uint64_t start, uint64_t end);
    uint64_t (*count)(void *bitmap);
    uint64_t (*count_range)(void *bitmap, uint64_t start, uint64_t count);
    uint64_t (*memory)(void *bitmap); /* NULL: all of it comes from malloc() */
} BitmapKind;

extern const BitmapKind bitmap_sparse; /* ours */
extern const BitmapKind bitmap_plain;  /* an array of words */
#ifdef HAVE_ROARING
extern const BitmapKind bitmap_roaring; /* CRoaring */
#endif

#endif
