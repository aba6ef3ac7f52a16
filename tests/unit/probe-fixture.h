/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A cache and a prober on the file system of fake-fs.h */
#ifndef TESTS_PROBE_FIXTURE_H
#define TESTS_PROBE_FIXTURE_H

#include "fake-fs.h"

#define KIB INT64_C(1024)
#define MIB (1024 * KIB)

extern StatusCache *cache;
extern StatusProbe *probe;

/* Blocks of FAKE_BLOCK, mode on, as long as the file */
void start(StatusProbeStrategy strategy);
void start_with(StatusProbeStrategy strategy, uint32_t granularity,
                StatusCacheMode mode, int64_t length);
/* @how, bit 0: strategy seek, not fiemap; bit 1: without cachestat */
void start_any(int how);
void stop(void);

/* status_query() for one byte */
int query(int64_t offset, int64_t *pnum);
StatusCacheStats get_stats(void);

/* The whole disk, a letter a block: 'd' or 'z'. A run ends on a block's end. */
const char *read_map(void);
/* The map must be that of the file: written is data, all else zero. */
void check_exact(void);
/* The map is known. */
void check_no_more_calls(void);

/* 8 blocks of data, 8 of a hole, and so on */
void make_alternating(void);

#endif
