/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Images in the format qcow2 on driver "file": each system call of each operation
 * fails in each way. Clusters are small, so that tables are many.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

#include "image.h"

#define KIB4 (4 * KIB)

static void prepare_small(void)
{
    image_prepare("'cluster-size':4096");
}

/* An L2 table has 64 entries, a refcount block 256. */
static void prepare_tiny(void)
{
    image_prepare("'cluster-size':512");
}

static void writes(void)
{
    image_make("");
    disk_open();
    disk_write(0, KIB4, 10, 0);
    disk_write(5000, 6000, 11, 0); /* COW of zeroes */
    disk_write(100 * KIB + 100, 300, 12, 0);
    disk_flush();
    disk_write(4000, 3000, 13, 0); /* in place */
    disk_write(200 * KIB, 16 * KIB, 14, BDRV_REQ_FUA);
    disk_read(0, 32 * KIB);
    disk_status(BDRV_WANT_PRECISE);
    image_finish();
}

static void zeroes(void)
{
    image_make("");
    disk_open();
    disk_write(0, 32 * KIB, 10, 0);
    disk_flush();
    disk_zero(KIB4, KIB4, 0);
    disk_zero(8 * KIB, 2 * KIB4, BDRV_REQ_MAY_UNMAP);
    disk_zero(17 * KIB, 2 * KIB, 0);
    disk_discard(24 * KIB, KIB4);
    disk_write(KIB4 + 100, 100, 11, 0);    /* where zeroes are allocated */
    disk_write(8 * KIB + 100, 100, 12, 0); /* and where not */
    disk_flush();
    disk_write(24 * KIB, KIB4, 13, 0); /* what has become free */
    image_finish();
}

/* Tables and refcount blocks of their own for each few clusters */
static void tables(void)
{
    int64_t at;

    image_make("");
    disk_open();
    for (at = 0; at < LENGTH; at += 64 * KIB) {
        disk_write(at, 1024, 10, 0);
    }
    disk_flush();
    disk_write(32 * KIB, 16 * KIB, 11, 0);
    disk_discard(32 * KIB, 8 * KIB);
    disk_zero(64 * KIB, 32 * KIB, BDRV_REQ_MAY_UNMAP);
    image_finish();
}

static void resizing(void)
{
    image_make("");
    disk_open();
    disk_write(0, 2 * KIB4, 10, 0);
    disk_write(LENGTH - KIB4, KIB4, 11, 0);
    disk_resize(LENGTH + 64 * KIB);
    disk_write(LENGTH + 32 * KIB, KIB4, 12, 0);
    disk_resize(LENGTH - 32 * KIB);
    disk_resize(LENGTH);
    disk_write(LENGTH - 2 * KIB4, 100, 13, 0);
    image_finish();
}

static void compressed(void)
{
    image_make("");
    disk_open();
    disk_write(0, KIB4, 10, BDRV_REQ_WRITE_COMPRESSED);
    disk_write(KIB4, KIB4, 10, BDRV_REQ_WRITE_COMPRESSED);
    disk_write(64 * KIB, KIB4, 11, BDRV_REQ_WRITE_COMPRESSED);
    disk_flush();
    disk_read(0, 2 * KIB4);
    disk_write(KIB4 + 10, 100, 12, 0);
    disk_discard(64 * KIB, KIB4);
    image_finish();
}

/* An overlay, whose backing file is raw */
static void overlay(void)
{
    g_autofree char *below = g_build_filename(run_dir, "below", NULL);
    g_autofree char *backing =
        g_strdup_printf("'backing':{'driver':'file','filename':'%s'}", below);
    int fd = open(below, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    REQUIRE(fd >= 0 && ftruncate(fd, 200 * KIB) == 0);
    close(fd);
    image_make(backing);
    disk_fill(below);
    disk_open();
    disk_status(BDRV_WANT_PRECISE);
    disk_write(1000, 500, 10, 0); /* COW of data */
    disk_write(70 * KIB, 6 * KIB, 11, 0);
    disk_write(140 * KIB + 10, 10, 12, 0); /* of a hole */
    disk_zero(80 * KIB, 8 * KIB, BDRV_REQ_MAY_UNMAP);
    disk_zero(90 * KIB + 10, 100, 0);
    disk_discard(100 * KIB, KIB4);
    disk_read(0, LENGTH);
    disk_status(BDRV_WANT_PRECISE);
    image_finish();
    g_remove(below);
}

static void reopening(void)
{
    g_autofree char *read_only = NULL;
    g_autofree char *writable = NULL;

    image_make("");
    writable = g_strdup(disk.options);
    read_only = image_options(disk.path, "'read-only':true");
    disk.read_only = true; /* nobody is in the way */
    disk_open();
    disk_reopen(read_only);
    disk_reopen(writable);
    image_finish();
}

/* ---- creation ----------------------------------------------------------- */

static void must_create(const char *driver, const char *options)
{
    GError *err;
    bool ok;

    do {
        err = NULL;
        op_begin("create %s", options);
        ok = create(driver, options, &err);
    } while (!op_end_bool(ok, err));
}

static void create_in(const char *prealloc, const char *more)
{
    g_autofree char *file = NULL;
    g_autofree char *image = NULL;
    g_autofree char *options = NULL;

    disk = (Disk){ .path = g_build_filename(run_dir, "disk", NULL) };
    disk.model = model_new(LENGTH, MAX_LENGTH);
    file = g_strdup_printf("{'filename':'%s','size':%d,'preallocation':'%s'}",
                           disk.path, (int)LENGTH, prealloc);
    must_create("file", file);
    disk_use_file("");
    REQUIRE(disk_try_open(NULL));
    disk_check();
    disk_try_close();
    image =
        g_strdup_printf("{'file':{'driver':'file','filename':'%s'},'size':%d,"
                        "'cluster-size':4096,%s}",
                        disk.path, (int)LENGTH, more);
    plan_above |= PLAN_CLOSES;
    must_create("qcow2", image);
    plan_above &= ~PLAN_CLOSES;
    options = image_options(disk.path, "");
    disk_use(options, false);
    disk_open();
    disk_write(10 * KIB, KIB4, 10, 0);
    image_finish();
}

static void creating(void)
{
    create_in("off", "'preallocation':'metadata'");
}

static void creating_full(void)
{
    create_in("full", "'preallocation':'full'");
}

static void creating_allocated(void)
{
    create_in("falloc", "'preallocation':'falloc','version':'v2'");
}

static const Scenario scenarios[] = {
    { "writes", writes, false, prepare_small },
    { "zeroes", zeroes, false, prepare_small },
    { "tables", tables, false, prepare_tiny },
    { "resizing", resizing, false, prepare_tiny },
    { "compressed", compressed, false, prepare_small },
    { "overlay", overlay, false, prepare_small },
    { "reopening", reopening, false, prepare_small },
    { "creating", creating },
    { "creating-full", creating_full },
    { "creating-allocated", creating_allocated },
    { NULL },
};

int main(int argc, char **argv)
{
    plan_above = PLAN_FORMAT;
    return run_main(argc, argv, scenarios);
}
