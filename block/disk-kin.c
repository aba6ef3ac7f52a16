/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which disks are the same below, as sysfs and the loop driver tell.
 *
 * What cannot be told: two paths to one device (SCSI without multipath), what
 * another machine does, and which parts of a stacked device lie where: volumes
 * that share a disk below do not overlap as a rule, and are not taken to.
 */
#include "block/disk-kin.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

DiskId disk_id_of(const struct stat *st)
{
    if (S_ISBLK(st->st_mode)) {
        return (DiskId){ .device = true, .dev = st->st_rdev };
    }
    return (DiskId){ .dev = st->st_dev, .ino = st->st_ino };
}

bool disk_id_equal(const DiskId *a, const DiskId *b)
{
    return a->device == b->device && a->dev == b->dev && a->ino == b->ino;
}

/* ---- loop devices ------------------------------------------------------- */

/* By the kernel's own knowledge of the file: its name may mean another one here,
 * or none. */
static bool ask_loop_device(const char *name, dev_t dev, DiskId *backing)
{
    g_autofree char *node = g_strconcat("/dev/", name, NULL);
    struct loop_info64 info = { 0 };
    struct stat st;
    int fd = open(node, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    bool ok;

    if (fd < 0) {
        return false;
    }
    ok = fstat(fd, &st) == 0 && S_ISBLK(st.st_mode) && st.st_rdev == dev &&
         ioctl(fd, LOOP_GET_STATUS64, &info) == 0;
    close(fd);
    if (ok && info.lo_rdevice && info.lo_rdevice != info.lo_device) {
        *backing = (DiskId){ .device = true, .dev = info.lo_rdevice };
    } else if (ok) {
        *backing = (DiskId){ .dev = info.lo_device, .ino = info.lo_inode };
    }
    return ok;
}

/* What is there only while a loop device has a file; @dir is its own in sysfs */
static char *backing_attribute(const char *dir)
{
    return g_strconcat(dir, "/loop/backing_file", NULL);
}

/* @dir: the device's folder in sysfs. False if there is no file behind it. */
static bool find_backing(const char *dir, const char *name, dev_t dev,
                         DiskId *backing)
{
    g_autofree char *attribute = backing_attribute(dir);
    g_autofree char *filename = NULL;
    struct stat st;

    if (!g_file_get_contents(attribute, &filename, NULL, NULL)) {
        return false;
    }
    if (ask_loop_device(name, dev, backing)) {
        return true;
    }
    g_strchomp(filename);
    if (stat(filename, &st) < 0) {
        return false;
    }
    *backing = disk_id_of(&st);
    return true;
}

/* ---- sysfs -------------------------------------------------------------- */

static bool read_dev(const char *dir, const char *sub, dev_t *dev)
{
    g_autofree char *name = g_build_filename(dir, sub, "dev", NULL);
    g_autofree char *text = NULL;
    unsigned major_no, minor_no;

    if (!g_file_get_contents(name, &text, NULL, NULL) ||
        sscanf(text, "%u:%u", &major_no, &minor_no) != 2) {
        return false;
    }
    *dev = makedev(major_no, minor_no);
    return true;
}

static void add_below(const char *sysfs, const DiskId *id, GArray *below);

static void add(const char *sysfs, const DiskId *id, GArray *below)
{
    guint i;

    for (i = 0; i < below->len; i++) {
        if (disk_id_equal(id, &g_array_index(below, DiskId, i))) {
            return;
        }
    }
    g_array_append_val(below, *id);
    add_below(sysfs, id, below);
}

static void add_slaves(const char *sysfs, const char *dir, GArray *below)
{
    g_autofree char *slaves = g_build_filename(dir, "slaves", NULL);
    g_autoptr(GDir) list = g_dir_open(slaves, 0, NULL);
    DiskId id = { .device = true };
    const char *name;

    while (list && (name = g_dir_read_name(list))) {
        if (read_dev(slaves, name, &id.dev)) {
            add(sysfs, &id, below);
        }
    }
}

static void add_below(const char *sysfs, const DiskId *id, GArray *below)
{
    g_autofree char *dir = g_strdup_printf("%s/dev/block/%u:%u", sysfs,
                                           major(id->dev), minor(id->dev));
    g_autofree char *partition = g_build_filename(dir, "partition", NULL);
    g_autofree char *real = NULL;
    g_autofree char *name = NULL;
    DiskId other = { .device = true };

    if (!id->device) {
        return;
    }
    real = realpath(dir, NULL);
    if (!real) {
        return;
    }
    if (access(partition, F_OK) == 0 && read_dev(real, "..", &other.dev)) {
        add(sysfs, &other, below);
    }
    add_slaves(sysfs, real, below);
    name = g_path_get_basename(real);
    if (find_backing(real, name, id->dev, &other)) {
        add(sysfs, &other, below);
    }
}

GArray *disk_kin_below(const char *sysfs, const DiskId *id)
{
    GArray *below = g_array_new(FALSE, FALSE, sizeof(DiskId));

    add_below(sysfs, id, below);
    return below;
}

/* ---- claims ------------------------------------------------------------- */

static bool has_loop_device(const char *sysfs, const DiskId *id)
{
    g_autofree char *block = g_build_filename(sysfs, "block", NULL);
    g_autoptr(GDir) list = g_dir_open(block, 0, NULL);
    const char *name;

    while (list && (name = g_dir_read_name(list))) {
        g_autofree char *dir = g_build_filename(block, name, NULL);
        g_autofree char *attribute = backing_attribute(dir);
        DiskId backing;
        dev_t dev;

        /* Most loop devices are free, and each open looks at all. */
        if (g_str_has_prefix(name, "loop") && access(attribute, F_OK) == 0 &&
            read_dev(dir, "", &dev) && find_backing(dir, name, dev, &backing) &&
            disk_id_equal(&backing, id)) {
            return true;
        }
    }
    return false;
}

/*
 * A claim (O_EXCL) of ours fails if there is one already. Requests of our own
 * that come meanwhile do not fail for it: at worst the device does not zero fast.
 */
static bool is_exclusively_open(int fd)
{
    g_autofree char *name = g_strdup_printf("/proc/self/fd/%d", fd);
    int claim = open(name, O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC);

    if (claim < 0) {
        return true;
    }
    close(claim);
    return false;
}

bool disk_kin_is_claimed(const char *sysfs, const DiskId *id, int fd)
{
    return (id->device && is_exclusively_open(fd)) ||
           has_loop_device(sysfs, id);
}
