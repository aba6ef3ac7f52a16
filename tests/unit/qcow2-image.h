/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small qcow2 image in memory, laid out by hand, below a node that has only
 * the driver's tables; what is written and flushed is noted.
 */
#ifndef TESTS_UNIT_QCOW2_IMAGE_H
#define TESTS_UNIT_QCOW2_IMAGE_H

#include "block/qcow2-refcount.h"
#include "mem-driver.h"

#define IMAGE_BYTES (INT64_C(24) << 20) /* of the file, at most */
#define REFTABLE_CLUSTER 1
#define REFBLOCK_CLUSTER 2
#define L1_CLUSTER 3
#define FREE_CLUSTER 4 /* the first one */

typedef struct Note {
    MemOp op;
    uint64_t cluster; /* where it begins */
    int64_t offset;
} Note;

extern MemDisk *disk;
extern Qcow2State *s;
extern GArray *notes;   /* of Note: writes and flushes */
extern int fail_op;     /* a MemOp, or -1: that fails with -EIO, */
extern int64_t fail_at; /* where it touches this byte (-1: everywhere) */

/* The header and tables of an empty image, and a node that has it open */
void image_new(unsigned cluster_bits, unsigned refcount_order);
void image_free(void);
/* Forget what is in memory, and read it anew. */
void image_reopen(void);
/* On the disk, host order */
uint64_t image_be64(int64_t offset);
void image_set_be64(int64_t offset, uint64_t value);

#endif
