/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * File systems to test on: the one of the temporary directory, and for root
 * some more, made in image files there and mounted in a mount namespace of the
 * test's own, so that nothing is left behind however the test ends.
 */
#ifndef TESTS_TEST_FS_H
#define TESTS_TEST_FS_H

#include <glib.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

typedef struct TestFs {
    const char *name;
    const char *program; /* needed for it; NULL: none */
    const char *script;  /* with $IMG and $DIR set */
} TestFs;

static const TestFs test_fs_kinds[] = {
    { "ext4", "mkfs.ext4",
      "truncate -s 96M $IMG && mkfs.ext4 -q -F -b 4096 $IMG && "
      "mount -o loop $IMG $DIR" },
    { "ext4 of 1 KiB blocks", "mkfs.ext4",
      "truncate -s 96M $IMG && mkfs.ext4 -q -F -b 1024 $IMG && "
      "mount -o loop $IMG $DIR" },
    { "ext4 on 4 KiB sectors", "mkfs.ext4",
      "truncate -s 96M $IMG && "
      "loop=$(losetup -f --show --sector-size 4096 $IMG) && "
      "mkfs.ext4 -q -F $loop && mount $loop $DIR; losetup -d $loop" },
    { "xfs", "mkfs.xfs",
      "truncate -s 320M $IMG && mkfs.xfs -q $IMG && mount -o loop $IMG $DIR" },
    { "btrfs", "mkfs.btrfs",
      "truncate -s 256M $IMG && mkfs.btrfs -q $IMG && "
      "mount -o loop $IMG $DIR" },
    { "tmpfs", NULL, "mount -t tmpfs -o size=96M none $DIR" },
};

typedef struct TestFsDir {
    const char *name;
    char *dir;
} TestFsDir;

static TestFsDir test_fs[1 + G_N_ELEMENTS(test_fs_kinds)];
static int n_test_fs;
static char *test_fs_top;

static inline bool test_fs_make(const TestFs *fs)
{
    g_autofree char *program =
        fs->program ? g_find_program_in_path(fs->program) : g_strdup("");
    g_autofree char *dir = g_strdup_printf("%s/%d", test_fs_top, n_test_fs);
    g_autofree char *script = g_strdup_printf(
        "IMG=%s.img DIR=%s; mkdir $DIR && { %s; } >&2 && mountpoint -q $DIR",
        dir, dir, fs->script);

    if (!program) {
        g_printerr("%s is not installed: not tested on %s\n", fs->program,
                   fs->name);
        return false;
    }
    if (system(script) != 0) {
        g_printerr("not tested on %s\n", fs->name);
        return false;
    }
    test_fs[n_test_fs++] = (TestFsDir){ fs->name, g_steal_pointer(&dir) };
    return true;
}

/*
 * Before all tests: makes the temporary directory, and nothing else. Tests that
 * fail do not clean up, so that is left to test_fs_tear_down().
 */
static inline void test_fs_set_up_plain(void)
{
    test_fs_top = g_dir_make_tmp("seekless-test-XXXXXX", NULL);
    g_assert(test_fs_top);
    test_fs[n_test_fs++] =
        (TestFsDir){ "the temporary directory",
                     g_strdup_printf("%s/tmp", test_fs_top) };
    g_assert(g_mkdir(test_fs[0].dir, 0755) == 0);
}

/* Before all tests: fills in test_fs and n_test_fs. */
static inline void test_fs_set_up(void)
{
    size_t i;

    test_fs_set_up_plain();
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        g_printerr("may not mount: tested on the temporary directory only\n");
        return;
    }
    for (i = 0; i < G_N_ELEMENTS(test_fs_kinds); i++) {
        test_fs_make(&test_fs_kinds[i]);
    }
}

/* After all tests */
static inline void test_fs_tear_down(void)
{
    g_autofree char *rm =
        g_strdup_printf("rm -rf --one-file-system %s", test_fs_top);
    int i;

    for (i = 1; i < n_test_fs; i++) {
        if (umount2(test_fs[i].dir, MNT_DETACH) < 0) {
            g_printerr("%s stays mounted\n", test_fs[i].dir);
        }
    }
    if (system(rm) != 0) {
        g_printerr("%s is left behind\n", test_fs_top);
    }
    for (i = 0; i < n_test_fs; i++) {
        g_free(test_fs[i].dir);
    }
    g_free(test_fs_top);
}

#endif
