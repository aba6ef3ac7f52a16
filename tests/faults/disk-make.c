/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The file of the disk: made, and gone */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk.h"

static void fill(const char *path, int flags, int64_t offset, int64_t bytes,
                 int value)
{
    static char buf[64 * KIB] __attribute__((aligned(4096)));
    int fd = open(path, O_RDWR | O_CLOEXEC | flags);

    g_assert(bytes <= (int64_t)sizeof(buf));
    if (fd < 0) {
        fd = open(path, O_RDWR | O_CLOEXEC); /* no direct I/O here */
    }
    memset(buf, value, bytes);
    REQUIRE(pwrite(fd, buf, bytes, offset) == bytes);
    close(fd);
    model_set(disk.model, offset, bytes, value);
}

void disk_fill(const char *path)
{
    int fd;

    fill(path, 0, 0, 32 * KIB, 1);
    fill(path, O_DIRECT, 48 * KIB, 4 * KIB, 2);
    fill(path, O_DIRECT, 64 * KIB, 64 * KIB, 3);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fallocate(fd, 0, 160 * KIB, 32 * KIB) == 0) {
        fill(path, 0, 176 * KIB, 4 * KIB, 4);
    }
    close(fd);
}

void disk_make(int64_t length)
{
    int fd;

    disk = (Disk){ .path = g_build_filename(run_dir, "disk", NULL) };
    disk.model = model_new(length, MAX_LENGTH);
    fd = open(disk.path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    REQUIRE(fd >= 0 && ftruncate(fd, length) == 0);
    close(fd);
    if (length >= LENGTH) {
        disk_fill(disk.path);
    }
}

void disk_make_on(const char *device)
{
    g_autofree char *zeroes = g_malloc0(LENGTH);
    int fd = open(device, O_RDWR | O_CLOEXEC);

    disk = (Disk){ .path = g_strdup(device) };
    disk.model = model_new(LENGTH, MAX_LENGTH);
    REQUIRE(fd >= 0 && pwrite(fd, zeroes, LENGTH, 0) == LENGTH);
    close(fd);
    disk_fill(device);
}

void disk_use(const char *options, bool raw)
{
    g_free(disk.options);
    disk.options = g_strdup(options);
    disk.raw = raw;
}

void disk_use_file(const char *options)
{
    g_autofree char *text =
        g_strdup_printf("{'driver':'file','node-name':'d','filename':'%s'%s%s}",
                        disk.path, *options ? "," : "", options);

    disk_use(text, true);
}

static void check_unlocked(void)
{
    struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    int fd = open(disk.path, O_RDWR | O_CLOEXEC);

    REQUIRE(fd >= 0);
    REQUIRE(fcntl(fd, F_OFD_GETLK, &fl) == 0);
    if (fl.l_type != F_UNLCK) {
        run_fail("byte %jd of the file is still locked", (intmax_t)fl.l_start);
    }
    close(fd);
}

void disk_drop(void)
{
    struct stat st;

    g_assert(!disk.blk);
    check_unlocked();
    if (stat(disk.path, &st) == 0 && S_ISREG(st.st_mode)) {
        g_remove(disk.path);
    }
    g_free(disk.path);
    g_free(disk.options);
    model_free(disk.model);
    disk = (Disk){ 0 };
}

GBytes *file_contents(const char *path)
{
    char *data;
    gsize length;

    REQUIRE(g_file_get_contents(path, &data, &length, NULL));
    return g_bytes_new_take(data, length);
}
