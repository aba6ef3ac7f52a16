/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qcow2-bitmap-fixture.h"

#include <check.h>
#include <string.h>

#include "util/schema.h"

BlockDriverState *file, *bs;
BlockBackend *blk;
Qcow2State *s;

/* ---- images --------------------------------------------------------------- */

void make_file(unsigned version, unsigned cluster_bits, int64_t length,
               int filler, bool backing)
{
    g_autoptr(GBytes) plain = qcow2_disk_image(version, cluster_bits, length);
    gsize bytes;
    g_autofree uint8_t *image = g_bytes_unref_to_data(
        g_bytes_new(g_bytes_get_data(plain, &bytes), g_bytes_get_size(plain)),
        &bytes);
    g_autoptr(GBytes) contents = NULL;
    uint8_t *p = image + (version < 3 ? 72 : 104);

    if (filler >= 0) {
        qcow2_put_be32(p, 0x12345678);
        qcow2_put_be32(p + 4, filler);
        memset(p + 8, 0x77, filler);
        p += 8 + filler;
    }
    if (backing) {
        p += 8;
        qcow2_put_be64(image + 8, p - image);
        qcow2_put_be32(image + 16, strlen(NAME));
        memcpy(p, NAME, strlen(NAME));
    }
    contents = g_bytes_new(image, bytes);
    bdrv_graph_lock();
    file = qcow2_disk_new("file", contents);
    bdrv_graph_unlock();
}

bool try_open(bool read_only, GError **errp)
{
    g_autofree char *text = g_strdup_printf(
        "{\"driver\":\"qcow2\",\"node-name\":\"q\",\"file\":\"file\","
        "\"backing\":null,\"read-only\":%s}",
        read_only ? "true" : "false");
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    bool ok;

    bdrv_graph_lock();
    bs = bdrv_open(json_node_get_object(node), errp);
    if (bs) {
        s = bs->opaque;
        blk =
            blk_new("test", false,
                    BLK_PERM_CONSISTENT_READ | (read_only ? 0 : BLK_PERM_WRITE),
                    BLK_PERM_ALL);
        ok = blk_attach(blk, bs, errp);
        ck_assert(ok);
    }
    bdrv_graph_unlock();
    return bs != NULL;
}

void open_image(bool read_only)
{
    g_autoptr(GError) err = NULL;

    ck_assert_msg(try_open(read_only, &err), "%s", err ? err->message : "");
}

void close_image(void)
{
    bdrv_graph_lock();
    blk_free(blk);
    ck_assert(bdrv_monitor_del("q", NULL));
    bdrv_graph_unlock();
    bs = NULL;
}

void drop_file(void)
{
    bdrv_graph_lock();
    ck_assert(bdrv_monitor_del("file", NULL));
    bdrv_graph_unlock();
}

void put_file(GBytes *contents)
{
    drop_file();
    bdrv_graph_lock();
    file = qcow2_disk_new("file", contents);
    bdrv_graph_unlock();
}

GBytes *get_file(void)
{
    qcow2_disk_record(qcow2_disk_of(file));
    return qcow2_disk_crash(qcow2_disk_of(file), 0, NULL);
}

void write_at(int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    memset(buf, 0x55, bytes);
    ck_assert_int_eq(blk_pwrite(blk, offset, bytes, buf, 0), 0);
}

bool reopen(bool read_only, GError **errp)
{
    g_autofree char *text =
        g_strdup_printf("[{\"driver\":\"qcow2\",\"node-name\":\"q\",\"file\":"
                        "\"file\",\"backing\":null,\"read-only\":%s}]",
                        read_only ? "true" : "false");
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    bool ok;

    bdrv_graph_lock();
    ok = bdrv_reopen(json_node_get_array(node), errp);
    bdrv_graph_unlock();
    return ok;
}

/* ---- bitmaps -------------------------------------------------------------- */

BdrvDirtyBitmap *get(const char *name)
{
    BdrvDirtyBitmap *bitmap;

    bdrv_graph_lock();
    bitmap = bdrv_find_dirty_bitmap(bs, name, NULL);
    bdrv_graph_unlock();
    return bitmap;
}

BdrvDirtyBitmap *add(const char *name, uint32_t granularity)
{
    g_autoptr(GError) err = NULL;
    BdrvDirtyBitmap *bitmap;

    bdrv_graph_lock();
    ck_assert_msg(qcow2_can_store_bitmap(bs, name, granularity, &err), "%s",
                  err ? err->message : "");
    bitmap = bdrv_create_dirty_bitmap(bs, granularity, name, &err);
    ck_assert_msg(bitmap != NULL, "%s", err ? err->message : "");
    bdrv_dirty_bitmap_set_persistent(bitmap, true);
    bdrv_graph_unlock();
    return bitmap;
}

int take(const char *name, GError **errp)
{
    BdrvDirtyBitmap *bitmap = get(name);
    int ret;

    bdrv_graph_lock();
    ret = qcow2_remove_stored_bitmap(bs, name, errp);
    if (ret == 0) {
        bdrv_release_dirty_bitmap(bs, bitmap);
    }
    bdrv_graph_unlock();
    return ret;
}

char *bits_of(const char *name)
{
    BdrvDirtyBitmap *bitmap = get(name);
    GString *bits = g_string_new(NULL);
    uint64_t n, i;

    ck_assert_msg(bitmap != NULL, "no bitmap %s", name);
    n = bdrv_dirty_bitmap_n_bits(bitmap);
    for (i = 0; i < n; i++) {
        int64_t at = i * bdrv_dirty_bitmap_granularity(bitmap), pnum;

        g_string_append_c(
            bits, bdrv_dirty_bitmap_status(bitmap, at, 1, &pnum) ? '1' : '0');
    }
    return g_string_free(bits, FALSE);
}

void assert_bits(const char *name, const char *bits)
{
    g_autofree char *are = bits_of(name);

    ck_assert_msg(!strcmp(are, bits), "bitmap %s has other bits", name);
}

bool is_inconsistent(const char *name)
{
    return bdrv_dirty_bitmap_inconsistent(get(name));
}

int stored_flags(const char *name)
{
    guint i;

    for (i = 0; s->bitmaps && i < s->bitmaps->len; i++) {
        const Qcow2Bitmap *b = s->bitmaps->pdata[i];

        if (!strcmp(b->name, name)) {
            return b->flags;
        }
    }
    return -1;
}

void close_all(void)
{
    close_image();
    drop_file();
}
