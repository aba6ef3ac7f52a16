/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file system of one file, for the prober: what its system calls would answer
 * on ext4 or XFS, in memory. One at a time, for the prober's system calls know
 * nothing but a file descriptor.
 */
#ifndef TESTS_FAKE_FS_H
#define TESTS_FAKE_FS_H

#include "block/status-probe-int.h"

#define FAKE_BLOCK 4096
#define FAKE_BLOCKS 16384 /* at most */

typedef struct FakeFs {
    int64_t size; /* of the file */
    long magic;   /* of statfs */
    /*
     * The mapping of each block: '.' nothing, 'u' unwritten, 'd' written; any
     * other letter: written, with other_flags
     */
    char map[FAKE_BLOCKS];
    uint32_t other_flags;
    int extent_blocks;       /* extents end at multiples of that */
    bool page[FAKE_BLOCKS];  /* there is a page in the page cache... */
    bool acked[FAKE_BLOCKS]; /* ...with data that the mapping knows not of */

    /* errno that calls fail with, or 0 */
    int statfs_errno, seek_data_errno, seek_hole_errno, fiemap_errno,
        cachestat_errno;
    int64_t seek_lie; /* added to what lseek answers */

    /*
     * called in each system call but fstatfs, with its number from 0 on: before
     * it looks at anything, only lseek has seen the mapping by then
     */
    void (*hook)(int call);

    int calls;
    int seek_data, seek_hole, fiemaps, cachestats;
    int extents;     /* returned by FIEMAP */
    int max_extents; /* by one of them */
    int walked;      /* blocks that lseek went over */
    int max_walked;  /* in one call */
} FakeFs;

extern FakeFs fake;
extern const StatusProbeOps fake_ops;

/* A file of @bytes without any extents */
void fake_reset(int64_t bytes);
/* [@start, @end), in blocks, is mapped as @state */
void fake_map(int start, int end, char state);
/* Pages are there, with data that is not on disk yet */
void fake_ack(int start, int end);
/* What was so goes to disk, and the pages are reclaimed. */
void fake_writeback(void);
/* Forget the counters. */
void fake_count(void);

#endif
