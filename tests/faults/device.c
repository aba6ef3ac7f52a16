/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Driver "host_device" on a loop device: each system call fails in each way. */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../unit/loop-device.h"
#include "disk.h"

static LoopDevice *loop;
static char *behind; /* the file */

static void prepare_device(uint32_t block_size)
{
    const LoopDeviceOptions options = { .block_size = block_size };
    struct stat st;
    int fd;

    behind = g_build_filename(run_dir, "behind", NULL);
    fd = open(behind, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    g_assert(fd >= 0 && ftruncate(fd, LENGTH) == 0);
    close(fd);
    loop = loop_device_new(behind, &options);
    g_assert(stat(loop->node, &st) == 0);
    seam_set_loop_device(st.st_rdev);
}

static void prepare(void)
{
    prepare_device(512);
}

static void prepare_4k(void)
{
    prepare_device(4096);
}

static void start(const char *options)
{
    g_autofree char *text = NULL;

    disk_make_on(loop->node);
    text = g_strdup_printf("{'driver':'host_device','node-name':'d',"
                           "'filename':'%s'%s%s}",
                           disk.path, *options ? "," : "", options);
    disk_use(text, true);
    disk_open();
}

static void all_requests(void)
{
    disk_status(BDRV_WANT_PRECISE);
    disk_read(0, 8 * KIB);
    disk_write(8 * KIB, 16 * KIB, 10, 0);
    disk_write(5000, 6000, 11, 0);
    disk_zero(16 * KIB, 16 * KIB, 0);
    disk_write(20 * KIB, 8 * KIB, 12, 0);
    disk_zero(64 * KIB, 16 * KIB, BDRV_REQ_MAY_UNMAP);
    disk_zero(80 * KIB + 100, 9000, BDRV_REQ_MAY_UNMAP);
    disk_zero(100 * KIB, 4 * KIB, BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK);
    disk_discard(64 * KIB, 8 * KIB); /* what is known to be zero */
    disk_discard(104 * KIB, 8 * KIB);
    disk_read(0, LENGTH);
    disk_flush();
    disk_write(0, 4 * KIB, 14, BDRV_REQ_FUA);
    disk_zero(4 * KIB, 4 * KIB, BDRV_REQ_FUA);
    disk_status(BDRV_WANT_PRECISE);
}

static void requests(void)
{
    start("'discard':'unmap'");
    all_requests();
    disk_resize(LENGTH);
    disk_finish();
}

static void requests_direct(void)
{
    start("'discard':'unmap','cache':{'direct':true}");
    all_requests();
    disk_finish();
}

/* The device is in use under another name: the file behind it. */
static void file_behind(void)
{
    g_autofree char *other = g_strdup_printf(
        "{'driver':'file','node-name':'other','filename':'%s'}", behind);
    BlockDriverState *bs;
    GError *err;

    start("");
    disk_zero(64 * KIB, 16 * KIB, 0);
    do {
        err = NULL;
        op_begin("open the file behind");
        bs = node_new(other, &err);
    } while (!op_end_bool(bs != NULL, err));
    disk_zero(80 * KIB, 16 * KIB, 0);
    disk_status(BDRV_WANT_PRECISE);
    op_begin("close the file behind");
    REQUIRE(node_del("other", NULL));
    op_stop();
    disk_finish();
}

static const Scenario scenarios[] = {
    { "requests", requests, true, prepare },
    { "requests-direct", requests_direct, true, prepare },
    { "requests-direct-4k", requests_direct, true, prepare_4k },
    { "file-behind", file_behind, true, prepare },
    { NULL },
};

int main(int argc, char **argv)
{
    return run_main(argc, argv, scenarios);
}
