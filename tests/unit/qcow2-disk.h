/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of a qcow2 image, in memory: it grows, writes down what is written to
 * it and when it is flushed, and tells what might be left of it after a crash.
 */
#ifndef TESTS_UNIT_QCOW2_DISK_H
#define TESTS_UNIT_QCOW2_DISK_H

#include "block/block-int.h"

typedef struct Qcow2Disk Qcow2Disk;

/* An empty image with tables for a disk of @length; free with g_bytes_unref() */
GBytes *qcow2_disk_image(unsigned version, unsigned cluster_bits,
                         int64_t length);

/* A node with these contents. Graph mutex held; the reference is the caller's. */
BlockDriverState *qcow2_disk_new(const char *node_name, GBytes *contents);
Qcow2Disk *qcow2_disk_of(BlockDriverState *bs);
int64_t qcow2_disk_length(Qcow2Disk *disk);
/* Requests of writing, zeroing and flushing so far */
unsigned qcow2_disk_writes(Qcow2Disk *disk);
unsigned qcow2_disk_flushes(Qcow2Disk *disk);
/* Write down from now on. Nothing is in flight. */
void qcow2_disk_record(Qcow2Disk *disk);
/* What was written down so far, writes and flushes */
unsigned qcow2_disk_recorded(Qcow2Disk *disk);
/*
 * What the disk may hold if it stops after the first @n of these: all writes before
 * the last flush among them, and those of the others, or sectors of them, that
 * @rand picks. Without @rand: all of them.
 */
GBytes *qcow2_disk_crash(Qcow2Disk *disk, unsigned n, GRand *rand);
/* The next @n writes fail, after @after more. */
void qcow2_disk_fail(Qcow2Disk *disk, int after, int n);

/*
 * A node "q" of the driver on the node @file, with the node named @backing below (NULL:
 * none), and a user of it with all permissions; and the end of both.
 */
BlockBackend *qcow2_disk_open(BlockDriverState *file, const char *backing);
void qcow2_disk_close(BlockBackend *blk);
/* There are neither corruptions nor errors; with @leaks, leaks neither. */
void qcow2_disk_assert_clean(bool leaks);

#endif
