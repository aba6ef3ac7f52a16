/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "loop-device.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/blkpg.h>
#include <linux/loop.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CONTROL "/dev/loop-control"

bool loop_device_possible(void)
{
    return access(CONTROL, R_OK | W_OK) == 0;
}

/* Whoever else looks for one at the same time may be faster. */
static LoopDevice *try_new(int control, const struct loop_config *config)
{
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    g_autofree char *node = g_strdup_printf("/dev/loop%d", number);
    LoopDevice *loop;
    int fd;

    g_assert(number >= 0);
    fd = open(node, O_RDWR | O_CLOEXEC);
    g_assert(fd >= 0);
    if (ioctl(fd, LOOP_CONFIGURE, config) < 0) {
        g_assert(errno == EBUSY);
        close(fd);
        return NULL;
    }
    loop = g_new(LoopDevice, 1);
    loop->node = g_steal_pointer(&node);
    loop->fd = fd;
    return loop;
}

LoopDevice *loop_device_new(const char *filename,
                            const LoopDeviceOptions *options)
{
    int control = open(CONTROL, O_RDWR | O_CLOEXEC);
    int fd = open(filename, O_RDWR | O_CLOEXEC);
    struct loop_config config = {
        .fd = fd,
        .block_size = options ? options->block_size : 0,
        .info.lo_flags = LO_FLAGS_AUTOCLEAR,
    };
    LoopDevice *loop = NULL;

    g_assert(control >= 0 && fd >= 0);
    if (options && options->read_only) {
        config.info.lo_flags |= LO_FLAGS_READ_ONLY;
    }
    if (options && options->partitions) {
        config.info.lo_flags |= LO_FLAGS_PARTSCAN;
    }
    while (!loop) {
        loop = try_new(control, &config);
    }
    close(fd);
    close(control);
    return loop;
}

void loop_device_resize(LoopDevice *loop)
{
    g_assert(ioctl(loop->fd, LOOP_SET_CAPACITY, 0) == 0);
}

static void change_partition(LoopDevice *loop, int op, int64_t offset,
                             int64_t bytes)
{
    struct blkpg_partition part = {
        .start = offset,
        .length = bytes,
        .pno = 1,
    };
    struct blkpg_ioctl_arg arg = {
        .op = op,
        .datalen = sizeof(part),
        .data = &part,
    };

    g_assert(ioctl(loop->fd, BLKPG, &arg) == 0);
}

char *loop_device_add_partition(LoopDevice *loop, int64_t offset, int64_t bytes)
{
    change_partition(loop, BLKPG_ADD_PARTITION, offset, bytes);
    return g_strconcat(loop->node, "p1", NULL);
}

void loop_device_del_partition(LoopDevice *loop)
{
    change_partition(loop, BLKPG_DEL_PARTITION, 0, 0);
}

void loop_device_free(LoopDevice *loop)
{
    close(loop->fd);
    g_free(loop->node);
    g_free(loop);
}
