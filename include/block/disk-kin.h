/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who else has to do with a disk, as far as the kernel tells: which other disks
 * have the same contents, and whether it is in use by the kernel itself.
 *
 * Any thread; may wait for a file system that backs a loop device.
 */
#ifndef BLOCK_DISK_KIN_H
#define BLOCK_DISK_KIN_H

#include <glib.h>
#include <stdbool.h>
#include <sys/stat.h>

/* Which disk: a file by its inode, a block device by its number, whatever the
 * name or the node in /dev. */
typedef struct DiskId {
    bool device;
    dev_t dev; /* st_rdev of a device, st_dev of a file */
    ino_t ino; /* 0 of a device */
} DiskId;

DiskId disk_id_of(const struct stat *st);
bool disk_id_equal(const DiskId *a, const DiskId *b);

/*
 * An array (of DiskId, without @id itself) of what @id lies on: the whole disk
 * of a partition, what backs a loop device, what a stacked device is made of; and
 * what these lie on. @sysfs: where that is mounted.
 */
GArray *disk_kin_below(const char *sysfs, const DiskId *id);

/*
 * Does the kernel use the disk by itself: is the device that @fd is open on
 * mounted, part of another, swapped to, or a partition of it, or is there a loop
 * device on it? If that cannot be found out, yes. Looking claims a device, for
 * the blink of an eye.
 */
bool disk_kin_is_claimed(const char *sysfs, const DiskId *id, int fd);

#endif
