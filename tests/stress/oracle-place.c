/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "oracle-place.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "../unit/loop-device.h"
#include "../unit/loop-fs.h"
#include "util/error.h"

#define FILE_SYSTEM_BYTES (INT64_C(384) << 20)
#define MEMORY "size=1536m"
#define PIECE INT64_C(4096)

const PlaceKind place_kinds[] = {
    { "ext4", "mkfs.ext4 -q -F", .fiemap = true },
    { "xfs", "mkfs.xfs -q -f", .fiemap = true },
    { "xfs-reflink", "mkfs.xfs -q -f -m reflink=1", .reflink = true,
      .fiemap = true },
    { "btrfs", "mkfs.btrfs -q -f", .fiemap = true },
    { "tmpfs", NULL },
    { "loop", NULL, .device = true },
};
const int n_place_kinds = G_N_ELEMENTS(place_kinds);

struct Place {
    const PlaceKind *kind;
    LoopFs *fs;
    char *dir;
    char *file, *twin; /* names; twin is what it shares its blocks with */
    LoopDevice *loop;
};

static char *memory; /* where the tmpfs is mounted, or NULL */

bool places_set_up(GError **errp)
{
    char name[] = "/tmp/status-oracle-XXXXXX";

    if (!loop_fs_possible()) {
        error_setg(errp, "loop mounts need root");
        return false;
    }
    if (!mkdtemp(name)) {
        error_setg_errno(errp, errno, "%s", name);
        return false;
    }
    if (mount("none", name, "tmpfs", 0, MEMORY) < 0) {
        error_setg_errno(errp, errno, "tmpfs");
        g_rmdir(name);
        return false;
    }
    memory = g_strdup(name);
    /* where loop-fs.c makes its images; before GLib looks there for once */
    g_setenv("TMPDIR", memory, true);
    return true;
}

void places_tear_down(void)
{
    if (memory) {
        umount2(memory, MNT_DETACH);
        g_rmdir(memory);
        g_clear_pointer(&memory, g_free);
    }
}

const PlaceKind *place_kind_find(const char *name)
{
    int i;

    for (i = 0; i < n_place_kinds; i++) {
        if (!strcmp(place_kinds[i].name, name)) {
            return &place_kinds[i];
        }
    }
    return NULL;
}

Place *place_new(const PlaceKind *kind, const char *directory, GError **errp)
{
    Place *p = g_new0(Place, 1);

    p->kind = kind;
    if (directory) {
        p->dir = g_strdup(directory);
    } else if (kind->mkfs) {
        p->fs = loop_fs_mount(kind->mkfs, FILE_SYSTEM_BYTES, errp);
        if (!p->fs) {
            g_free(p);
            return NULL;
        }
        p->dir = g_strdup(p->fs->dir);
    } else {
        p->dir = g_strdup(memory);
    }
    return p;
}

void place_free(Place *p)
{
    loop_fs_umount(p->fs);
    g_free(p->dir);
    g_free(p);
}

/* ---- disks -------------------------------------------------------------- */

static bool write_piece(int fd, int64_t offset, int64_t bytes, Value value,
                        Shadow *s)
{
    g_autofree char *buf = g_malloc(bytes);

    shadow_fill(s, value, offset, bytes, buf);
    shadow_set(s, offset, bytes, value);
    return pwrite(fd, buf, bytes, offset) == bytes;
}

/* Fill an empty file with a bit of everything. 0 or an errno */
static int fill(int fd, int64_t length, Shadow *s, Random *rand)
{
    int64_t offset, bytes;

    if (ftruncate(fd, length) < 0) {
        return errno;
    }
    for (offset = 0; offset < length - length % UNIT; offset += bytes) {
        int64_t left = length - length % UNIT - offset;
        bool ok = true;

        bytes = MIN(PIECE * (1 + random_below(rand, 16)), left);
        switch (random_below(rand, 5)) {
        case 0:
        case 1:
            ok = write_piece(fd, offset, bytes, shadow_new_value(s), s);
            break;
        case 2:
            ok = write_piece(fd, offset, bytes, VALUE_ZERO, s);
            break;
        case 3:
            ok = fallocate(fd, 0, offset, bytes) == 0 || errno == EOPNOTSUPP;
            break;
        }
        if (!ok) {
            return errno;
        }
    }
    return fsync(fd) < 0 ? errno : 0;
}

static int share(const char *from, const char *to)
{
    int source = open(from, O_RDONLY | O_CLOEXEC);
    int target = open(to, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int err = 0;

    if (source < 0 || target < 0 || ioctl(target, FICLONE, source) < 0) {
        err = errno;
    }
    if (source >= 0) {
        close(source);
    }
    if (target >= 0) {
        close(target);
    }
    return err;
}

bool place_make_disk(Place *p, int64_t length, Shadow *s, Random *rand,
                     GError **errp)
{
    int fd, err;

    p->file = g_build_filename(p->dir, "disk", NULL);
    p->twin = g_build_filename(p->dir, "twin", NULL);
    fd = open(p->kind->reflink ? p->twin : p->file,
              O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    err = fd < 0 ? errno : fill(fd, length, s, rand);
    if (fd >= 0) {
        close(fd);
    }
    if (err == 0 && p->kind->reflink) {
        err = share(p->twin, p->file);
    }
    if (err) {
        error_setg_errno(errp, err, "%s", p->file);
        place_remove_disk(p);
        return false;
    }
    if (p->kind->device) {
        p->loop = loop_device_new(p->file, NULL);
    }
    return true;
}

const char *place_disk(const Place *p)
{
    return p->loop ? p->loop->node : p->file;
}

bool place_share_again(Place *p, GError **errp)
{
    int err = p->kind->reflink ? share(p->file, p->twin) : 0;

    if (err) {
        error_setg_errno(errp, err, "%s", p->twin);
    }
    return err == 0;
}

void place_resize_device(Place *p, int64_t length, int64_t offset,
                         int64_t bytes, const void *buf)
{
    int fd = open(p->file, O_RDWR | O_CLOEXEC);

    g_assert(fd >= 0 && ftruncate(fd, length) == 0);
    g_assert(pwrite(fd, buf, bytes, offset) == bytes);
    close(fd);
    loop_device_resize(p->loop);
}

void place_remove_disk(Place *p)
{
    if (p->loop) {
        g_clear_pointer(&p->loop, loop_device_free);
    }
    if (p->file) {
        g_unlink(p->file);
        g_unlink(p->twin);
    }
    g_clear_pointer(&p->file, g_free);
    g_clear_pointer(&p->twin, g_free);
}
