/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A bitmap of up to 2^54 bits whose uniform parts take no memory.
 *
 * Bits are addressed by index; what a bit stands for is the caller's business.
 * Not locked: one thread at a time, or callers that hold a lock of their own. That
 * goes for look-ups, too, which remember where they have been.
 * No function fails: memory comes from GLib's allocator, and for large busy parts,
 * where it can be had, from mmap().
 */
#ifndef UTIL_SPARSE_BITMAP_H
#define UTIL_SPARSE_BITMAP_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SPARSE_BITMAP_MAX_BITS (UINT64_C(1) << 54)

typedef struct SparseBitmap SparseBitmap;
typedef struct SparseBitmapGarbage SparseBitmapGarbage;

/* A bitmap of @nbits (at most SPARSE_BITMAP_MAX_BITS) bits, all clear. */
SparseBitmap *sparse_bitmap_new(uint64_t nbits);
void sparse_bitmap_free(SparseBitmap *bitmap);
SparseBitmap *sparse_bitmap_copy(const SparseBitmap *bitmap);

uint64_t sparse_bitmap_size(const SparseBitmap *bitmap);

/* Bits beyond the new size are dropped; bits that appear are clear. */
void sparse_bitmap_resize(SparseBitmap *bitmap, uint64_t nbits);

/* [@start, @start + @count) must lie within the bitmap. */
void sparse_bitmap_set(SparseBitmap *bitmap, uint64_t start, uint64_t count);
void sparse_bitmap_clear(SparseBitmap *bitmap, uint64_t start, uint64_t count);
bool sparse_bitmap_test(const SparseBitmap *bitmap, uint64_t bit);

/* The first set (clear) bit in [@start, @end), or @end if there is none. */
uint64_t sparse_bitmap_next_set(const SparseBitmap *bitmap, uint64_t start,
                                uint64_t end);
uint64_t sparse_bitmap_next_clear(const SparseBitmap *bitmap, uint64_t start,
                                  uint64_t end);

/*
 * Where the run that begins at @start ends: the first bit in [@start, @end)
 * that differs from bit @start, or @end. @start < @end. Stores the run's value
 * in @value, if that is not NULL.
 */
uint64_t sparse_bitmap_next_change(const SparseBitmap *bitmap, uint64_t start,
                                   uint64_t end, bool *value);

/* How many bits are set: within a range, and altogether (the latter O(1)). */
uint64_t sparse_bitmap_count_range(const SparseBitmap *bitmap, uint64_t start,
                                   uint64_t count);
uint64_t sparse_bitmap_count(const SparseBitmap *bitmap);

/* Bytes held, the struct itself and garbage not yet taken included. O(1). */
size_t sparse_bitmap_memory(const SparseBitmap *bitmap);

/*
 * The first part of the bitmap that ends beyond bit @start and holds memory of its
 * own, as small as can be given back alone: stores its range in @part_start (which
 * may lie before @start) and @part_count (clipped to the bitmap) and returns true;
 * false if there is none. For a caller that must give memory back and looks for
 * something to forget: making the part all set or all clear frees its memory.
 */
bool sparse_bitmap_next_part(const SparseBitmap *bitmap, uint64_t start,
                             uint64_t *part_start, uint64_t *part_count);

/*
 * Nodes that operations detach are kept on a garbage list, so that a caller
 * that holds a lock can free them after it let go of it: take the list under
 * the lock, free it outside. NULL if there is none. sparse_bitmap_free() frees
 * what was not taken; a bitmap without a taker frees its garbage at the next
 * operation that would make the list longer than a bound.
 */
SparseBitmapGarbage *sparse_bitmap_take_garbage(SparseBitmap *bitmap);
void sparse_bitmap_garbage_free(SparseBitmapGarbage *garbage);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(SparseBitmap, sparse_bitmap_free)

#endif
