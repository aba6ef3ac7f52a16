/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dirty bitmaps in images of the format qcow2, and the check that mends images:
 * each system call fails in each way. A bitmap that seems to be good has marked all
 * that was written.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "block/dirty-bitmap.h"
#include "block/qcow2.h"
#include "image.h"
#include "util/error.h"

#define KIB4 (4 * KIB)

static void add_bitmap(void)
{
    GError *err = NULL;
    BdrvDirtyBitmap *bitmap;

    bdrv_graph_lock();
    bitmap = bdrv_create_dirty_bitmap(disk.bs, KIB4, "b", &err);
    g_assert(bitmap);
    bdrv_dirty_bitmap_set_persistent(bitmap, true);
    bdrv_graph_unlock();
    disk_write(0, KIB4, 5, 0);
}

static void prepare(void)
{
    image_prepare("'cluster-size':4096");
    image_change(add_bitmap);
}

static void make_image(void)
{
    image_make("");
    model_set(disk.model, 0, KIB4, 5);
    model_flushed(disk.model);
}

/* It is still there; it may say of itself that it is not good. */
static void check_bitmap(const int64_t *written)
{
    BdrvDirtyBitmap *bitmap;
    int64_t n;

    bdrv_graph_lock();
    bitmap = bdrv_find_dirty_bitmap(disk.bs, "b", NULL);
    if (!bitmap) {
        run_fail("the bitmap is gone");
    }
    for (; *written >= 0 && !bdrv_dirty_bitmap_inconsistent(bitmap);
         written++) {
        if (!bdrv_dirty_bitmap_status(bitmap, *written, 1, &n)) {
            run_fail("the bitmap does not mark %jd", (intmax_t)*written);
        }
    }
    if (seam_hits() == 0) {
        REQUIRE(!bdrv_dirty_bitmap_inconsistent(bitmap));
    }
    bdrv_graph_unlock();
}

/*
 * Marked as in use before the first write, and stored at the end: who closes an
 * image is not told whether that was well.
 */
static void stored(void)
{
    static const int64_t written[] = { 0, 64 * KIB, 200 * KIB, -1 };

    make_image();
    disk_open();
    disk_write(64 * KIB, KIB4, 10, 0);
    disk_write(200 * KIB + 10, 100, 11, 0);
    disk_flush();
    disk_close();
    image_check(disk.path);
    REQUIRE(disk_try_open(NULL));
    disk_check();
    check_bitmap(written);
    image_finish();
}

/* ---- check -------------------------------------------------------------- */

static void write_data(void)
{
    disk_write(0, 32 * KIB, 10, 0);
}

/* A cluster more at the end of the refcounts, and one that is counted too often */
static void prepare_leaks(void)
{
    image_prepare("'cluster-size':4096");
    image_change(write_data);
}

static void damage(void)
{
    static const uint8_t count[2] = { 0, 1 };
    int fd = open(disk.path, O_RDWR | O_CLOEXEC);
    uint8_t at[8];
    int64_t table, block;

    REQUIRE(pread(fd, at, 8, 48) == 8);
    table = qcow2_get_be64(at);
    REQUIRE(pread(fd, at, 8, table) == 8);
    block = qcow2_get_be64(at);
    /* Clusters 100 and 101 belong to nobody. */
    REQUIRE(pwrite(fd, count, 2, block + 200) == 2);
    REQUIRE(pwrite(fd, count, 2, block + 202) == 2);
    REQUIRE(ftruncate(fd, 102 * KIB4) == 0);
    close(fd);
}

static bool mend(BdrvCheckResult *res, GError **errp)
{
    g_autofree char *text =
        g_strdup_printf("{\"driver\":\"qcow2\",\"node-name\":\"check\","
                        "\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}",
                        disk.path);
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    BlockBackend *blk =
        blk_new("check", false,
                BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE,
                BLK_PERM_CONSISTENT_READ);
    BlockDriverState *bs;
    bool ok;

    *res = (BdrvCheckResult){ 0 };
    bdrv_graph_lock();
    bs = bdrv_open_to_check(json_node_get_object(node), errp);
    ok = bs && blk_attach(blk, bs, errp) &&
         bs->drv->check(bs, res, BDRV_FIX_LEAKS | BDRV_FIX_ERRORS, errp) == 0;
    blk_free(blk);
    if (bs) {
        REQUIRE(bdrv_monitor_del("check", NULL));
    }
    bdrv_graph_unlock();
    return ok;
}

/* Errors of single reads are counted; then what there is may not all be mended. */
static void mended(void)
{
    BdrvCheckResult res;
    GError *err;
    bool ok;

    image_make("");
    damage();
    model_set(disk.model, 0, 32 * KIB, 10);
    model_flushed(disk.model);
    do {
        err = NULL;
        op_begin("mend");
        ok = mend(&res, &err);
        op_stop();
        if (ok && op_was_hit() && (res.check_errors || res.leaks)) {
            ok = op_end_bool(false,
                             g_error_new(SEEKLESS_ERROR, 0, "%s",
                                         g_strerror(plan_error(op_hit(0)))));
        } else if (!ok) {
            ok = op_end_bool(false, err);
        }
    } while (!ok);
    REQUIRE(mend(&res, NULL));
    REQUIRE(res.leaks == 0 && res.corruptions == 0 && res.check_errors == 0);
    REQUIRE(op_was_hit() || res.leaks_fixed == 0);
    disk_open();
    image_finish();
}

static const Scenario scenarios[] = {
    { "stored", stored, false, prepare },
    { "mended", mended, false, prepare_leaks },
    { NULL },
};

int main(int argc, char **argv)
{
    plan_above = PLAN_FORMAT;
    return run_main(argc, argv, scenarios);
}
