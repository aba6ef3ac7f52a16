/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: what the files about refcounts share. A refcount block has refcounts of
 * 1 << refcount_order bits; smaller ones than a byte begin at its lowest bit,
 * larger ones are big-endian.
 */
#ifndef BLOCK_QCOW2_REFCOUNT_H
#define BLOCK_QCOW2_REFCOUNT_H

#include "block/qcow2.h"

/* Entries of a refcount block */
static inline uint64_t qcow2_refblock_entries(const Qcow2State *s)
{
    return UINT64_C(1) << (s->cluster_bits + 3 - s->refcount_order);
}

/* What a refcount can be at most */
static inline uint64_t qcow2_max_refcount(const Qcow2State *s)
{
    return UINT64_MAX >> (64 - (1 << s->refcount_order));
}

/* Refcounts in a row, such as a refcount block: the one at @index */
uint64_t qcow2_refcount_read(unsigned order, const void *refs, uint64_t index);
void qcow2_refcount_write(unsigned order, void *refs, uint64_t index,
                          uint64_t refcount);

/*
 * The refcount block with that index in the reftable, pinned; *@block is NULL if
 * there is none. 0, or -errno: an entry without sense makes the image corrupt.
 */
int qcow2_get_refblock(Qcow2State *s, uint64_t index, void **block);
/*
 * Make sure that there are refcount blocks for @n clusters from that one on: 1 if
 * some had to be made, which takes clusters; 0, or -errno.
 */
int qcow2_make_refblocks(Qcow2State *s, uint64_t cluster, uint64_t n);
/*
 * The first @n free clusters in a row, looked for from @from on; *@first_free:
 * the first free one at all. -errno.
 */
int qcow2_find_free(Qcow2State *s, uint64_t from, uint64_t n, uint64_t *found,
                    uint64_t *first_free);
/*
 * Let the header refer to another reftable, which is complete in the file, with
 * all blocks: flushes, writes, flushes. @table (host order) is s->reftable afterwards. 0,
 * or -errno: then all is as before, and @table is still the caller's.
 */
int qcow2_switch_reftable(Qcow2State *s, uint64_t *table, uint64_t offset,
                          uint32_t entries);
/* Flush the file: what was written is on stable storage (qcow2-cache.c). */
int qcow2_flush_file(Qcow2State *s);
/* @table (host order) into the file */
int qcow2_write_be64s(Qcow2State *s, const uint64_t *table, uint32_t entries,
                      uint64_t offset);

#endif
