/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files that somebody else has opened and passed to us: "/dev/fdset/N".
 *
 * What is passed is a file description that the passer has, too, and maybe
 * others: its flags (O_DIRECT), its locks and the error of a failed writeback
 * are theirs as well as ours. So the file is opened again where that is
 * permitted, through /proc/self/fd, which needs no path: then everything is as
 * with a file that we opened by its name.
 *
 * Else the description is adopted as it is:
 *
 * - Its flags stay as they are, and what does not go with them is refused.
 * - Its locks keep out those who opened the file otherwise, but nobody who has
 *   the same description. So no zeroes are remembered (rule 7 of status-cache.c).
 * - One node at a time may use it, for the next to close would take the locks
 *   from both.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "block/file-posix-int.h"
#include "util/error.h"
#include "util/fdset.h"
#include "util/thread.h"

static Mutex lock = MUTEX_INIT;
static GArray *adopted; /* lock: of int */

/* Have both one description? Yes, if nobody can tell but it is one file. */
static bool is_same(int one, int other)
{
    long order = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, one, other);
    struct stat a, b;

    if (order >= 0) {
        return order == 0;
    }
    return fstat(one, &a) < 0 || fstat(other, &b) < 0 ||
           (a.st_dev == b.st_dev && a.st_ino == b.st_ino);
}

static bool remember(int fd)
{
    guint i;

    MUTEX_GUARD(&lock);

    for (i = 0; adopted && i < adopted->len; i++) {
        if (is_same(fd, g_array_index(adopted, int, i))) {
            return false;
        }
    }
    if (!adopted) {
        adopted = g_array_new(false, false, sizeof(int));
    }
    g_array_append_val(adopted, fd);
    return true;
}

/* lock held. Its place in the list, or -1. */
static int place_of(int fd)
{
    guint i;

    for (i = 0; adopted && i < adopted->len; i++) {
        if (g_array_index(adopted, int, i) == fd) {
            return i;
        }
    }
    return -1;
}

bool file_is_adopted(int fd)
{
    MUTEX_GUARD(&lock);

    return place_of(fd) >= 0;
}

static void forget(int fd)
{
    int place;

    MUTEX_GUARD(&lock);

    place = place_of(fd);
    if (place >= 0) {
        g_array_remove_index(adopted, place);
        if (adopted->len == 0) {
            g_clear_pointer(&adopted, g_array_unref);
        }
    }
}

void file_moved_fd(int from, int to)
{
    int place;

    forget(to);
    MUTEX_GUARD(&lock);

    place = place_of(from);
    if (place >= 0) {
        g_array_index(adopted, int, place) = to;
    }
}

int file_close_fd(int fd)
{
    forget(fd);
    return close(fd);
}

static void set_dup_error(const char *filename, int flags, int err,
                          GError **errp)
{
    if (err == EINVAL) {
        error_setg(errp, "Could not parse fdset %s", filename);
    } else {
        error_setg_errno(errp, err, "Could not dup FD for %s flags %x",
                         filename, flags);
    }
}

static bool check_flags(const char *filename, int fd, GError **errp)
{
    if (fcntl(fd, F_GETFL) & O_APPEND) {
        error_setg(errp,
                   "The descriptor in '%s' has O_APPEND, and the file cannot "
                   "be opened again without it: permission denied",
                   filename);
        return false;
    }
    return true;
}

/* Use the description as it is; like file_open_kind(). */
static int adopt(const FileKind *kind, const char *filename, int flags,
                 struct stat *st, GError **errp)
{
    bool direct = flags & O_DIRECT;
    int fd = fdset_dup(filename, flags, direct ? FDSET_DIRECT : FDSET_BUFFERED);
    int ret = -EINVAL;

    if (fd < 0) {
        error_setg(errp,
                   "No descriptor in '%s' with that access mode is open %s "
                   "O_DIRECT, and the file cannot be opened again so: "
                   "permission denied",
                   filename, direct ? "with" : "without");
        /* Not -EACCES: there is one for that access mode. */
        return ret;
    }
    if (check_flags(filename, fd, errp)) {
        ret = file_check_opened(kind, filename, fd, flags, st, errp);
    }
    if (ret == 0 && !remember(fd)) {
        ret = -EBUSY;
        error_setg(errp,
                   "The descriptor in '%s' is in use by another node, and the "
                   "file cannot be opened again: permission denied",
                   filename);
    }
    if (ret < 0) {
        close(fd);
        return ret;
    }
    return fd;
}

int file_open_fdset(const FileKind *kind, const char *filename, int flags,
                    struct stat *st, GError **errp)
{
    g_autoptr(GError) err = NULL;
    char path[64];
    int fd, passed;

    flags &= ~O_CREAT;
    passed = fdset_dup(filename, flags, FDSET_ANY);
    if (passed < 0) {
        set_dup_error(filename, flags, -passed, errp);
        return passed;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", passed);
    fd = file_open_path(kind, filename, path, flags, st, &err);
    close(passed);
    if (fd == -EACCES || fd == -EPERM || fd == -ENOENT) {
        return adopt(kind, filename, flags, st, errp);
    }
    if (fd < 0) {
        g_propagate_error(errp, g_steal_pointer(&err));
    }
    return fd;
}
