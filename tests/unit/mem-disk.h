/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks in memory that tests can look into: that fail on request, hold requests
 * back, and watch whether two writes of one place are in flight at once.
 */
#ifndef TESTS_UNIT_MEM_DISK_H
#define TESTS_UNIT_MEM_DISK_H

#include "block/block-int.h"

/* Of the status that a disk reports; smaller zeroes look like data. */
#define MEM_DISK_BLOCK 4096

typedef enum MemRequest {
    MEM_READ,
    MEM_WRITE,
    MEM_ZERO,
    MEM_DISCARD,
    MEM_FLUSH,
    MEM_STATUS,
    MEM_REQUESTS,
} MemRequest;

typedef struct MemDisk MemDisk;

/* Graph mutex held. The node is the caller's. Zeroed, and known to be. */
BlockDriverState *mem_disk_new(const char *node_name, int64_t length);
MemDisk *mem_disk_of(BlockDriverState *bs);
/* Nothing is in flight. */
uint8_t *mem_disk_data(MemDisk *disk);
/* Fill it with what depends on @seed, zero blocks among it. */
void mem_disk_fill(MemDisk *disk, uint32_t seed);
/* From now on the status of zero blocks is "data". */
void mem_disk_hide_zeroes(MemDisk *disk);
/* Zero-writes are -ENOTSUP from now on, so that zeroes are written. */
void mem_disk_no_zeroes(MemDisk *disk);
void mem_disk_assert_equal(MemDisk *a, MemDisk *b);
/* Writes that overlap in flight make the test fail. */
void mem_disk_forbid_overlap(MemDisk *disk);

/* The @n-th request of that kind from now on (0: the next) fails. */
void mem_disk_fail(MemDisk *disk, MemRequest kind, int n, int error);
/* From now on every request of that kind that touches the byte @offset fails
 * (-1: every one), until it is mended (@error 0). A failed one does nothing. */
void mem_disk_break(MemDisk *disk, MemRequest kind, int64_t offset, int error);
/* The @n-th request of that kind from now on is held; wait for it; let go. */
void mem_disk_hold(MemDisk *disk, MemRequest kind, int n);
void mem_disk_wait_held(MemDisk *disk);
void mem_disk_let_go(MemDisk *disk);
/* All requests of that kind that begin from now on are held, until they are not. */
void mem_disk_freeze(MemDisk *disk, MemRequest kind);
void mem_disk_thaw(MemDisk *disk, MemRequest kind);
/* Wait until so many requests of that kind have begun. */
void mem_disk_wait_count(MemDisk *disk, MemRequest kind, int64_t count);
/* The same, but not for long. False: there were fewer */
bool mem_disk_await_count(MemDisk *disk, MemRequest kind, int64_t count);
/* @func is called after each write, by whoever writes; nothing is in flight. */
void mem_disk_after_write(MemDisk *disk, void (*func)(void *opaque));

/* How many have begun, and how long they are together */
int64_t mem_disk_count(MemDisk *disk, MemRequest kind);
int64_t mem_disk_bytes(MemDisk *disk, MemRequest kind);

#endif
