/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "loop-fs.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include "util/error.h"

gboolean loop_fs_possible(void)
{
    return unshare(CLONE_NEWNS) == 0 &&
           mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static gboolean run(const char **argv, GError **errp)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) err = NULL;
    int status;

    if (!g_spawn_sync(NULL, (char **)argv, NULL,
                      G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL,
                      NULL, NULL, &text, &status, errp)) {
        return FALSE;
    }
    if (!g_spawn_check_wait_status(status, &err)) {
        error_setg(errp, "%s: %s: %s", argv[0], err->message, g_strchomp(text));
        return FALSE;
    }
    return TRUE;
}

static gboolean make_image(const char *image, const char *mkfs, int64_t bytes,
                           GError **errp)
{
    g_auto(GStrv) words = g_strsplit(mkfs, " ", 0);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    int fd = open(image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int i;

    if (fd < 0 || ftruncate(fd, bytes) < 0) {
        error_setg_errno(errp, errno, "%s", image);
        return FALSE;
    }
    close(fd);
    for (i = 0; words[i]; i++) {
        g_ptr_array_add(argv, words[i]);
    }
    g_ptr_array_add(argv, (char *)image);
    g_ptr_array_add(argv, NULL);
    return run((const char **)argv->pdata, errp);
}

LoopFs *loop_fs_mount(const char *mkfs, int64_t bytes, GError **errp)
{
    g_autofree char *dir = g_dir_make_tmp("seekless-test-XXXXXX", errp);
    g_autofree char *image = NULL;
    LoopFs *fs = NULL;

    if (!dir) {
        return NULL;
    }
    image = g_strconcat(dir, ".img", NULL);
    if (make_image(image, mkfs, bytes, errp) &&
        run((const char *[]){ "mount", "-o", "loop", image, dir, NULL },
            errp)) {
        fs = g_new(LoopFs, 1);
        fs->dir = g_steal_pointer(&dir);
    }
    /* the loop device keeps the file, and nobody else needs its name */
    g_unlink(image);
    if (!fs) {
        g_rmdir(dir);
    }
    return fs;
}

void loop_fs_umount(LoopFs *fs)
{
    if (fs) {
        umount2(fs->dir, MNT_DETACH);
        g_rmdir(fs->dir);
        g_free(fs->dir);
        g_free(fs);
    }
}
