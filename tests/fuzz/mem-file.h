/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of an image, in memory: a node that grows up to a limit, and a write
 * that fails if it is told so. One at a time.
 */
#ifndef TESTS_FUZZ_MEM_FILE_H
#define TESTS_FUZZ_MEM_FILE_H

#include <stddef.h>
#include <stdint.h>

#define MEM_FILE_NODE "file"
#define MEM_FILE_MAX (INT64_C(4) << 20) /* -EFBIG beyond */

/* A node of these contents. Graph mutex held */
void mem_file_open(const uint8_t *data, size_t size);
/* Nobody uses it any more. Graph mutex held */
void mem_file_close(void);
/* The n-th write, or zero-write, from now on fails; 0: none. */
void mem_file_fail(unsigned n);
/* One has failed since the node was made. */
int mem_file_failed(void);

#endif
