/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Real file systems for tests: made in a file and mounted by a loop device, in
 * a mount namespace of the test program's own, so that nothing of them is left
 * however the program ends. Needs root.
 */
#ifndef TESTS_LOOP_FS_H
#define TESTS_LOOP_FS_H

#include <glib.h>
#include <stdint.h>

typedef struct LoopFs {
    char *dir;
} LoopFs;

/* Whether there can be any; call it before others, and once. */
gboolean loop_fs_possible(void);

/*
 * Make and mount a file system of @bytes with @mkfs, a command line to which
 * the name of the file is added. NULL with @errp set if that cannot be done.
 */
LoopFs *loop_fs_mount(const char *mkfs, int64_t bytes, GError **errp);
void loop_fs_umount(LoopFs *fs);

#endif
