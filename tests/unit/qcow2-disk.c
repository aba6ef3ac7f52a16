/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qcow2-disk.h"

#include <check.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>

#include "block/qcow2.h"
#include "util/iov.h"

#define SECTOR 512

typedef struct Record {
    int64_t offset, bytes; /* offset -1: a flush */
    uint8_t *data;
} Record;

struct Qcow2Disk {
    Mutex lock;
    GByteArray *data;
    GBytes *base; /* at the beginning of the record; or NULL */
    GArray *record;
    unsigned writes, flushes;
    int fail_after, fail;
};

static GBytes *new_contents;

/* ---- the driver --------------------------------------------------------- */

static void free_record(void *record)
{
    g_free(((Record *)record)->data);
}

static int disk_open(BlockDriverState *bs, JsonObject *options, GError **errp)
{
    Qcow2Disk *disk = bs->opaque;
    gsize length;
    const void *data = g_bytes_get_data(new_contents, &length);

    mutex_init(&disk->lock);
    disk->data = g_byte_array_new();
    g_byte_array_append(disk->data, data, length);
    disk->record = g_array_new(FALSE, FALSE, sizeof(Record));
    g_array_set_clear_func(disk->record, free_record);
    return 0;
}

static void disk_close(BlockDriverState *bs)
{
    Qcow2Disk *disk = bs->opaque;

    g_byte_array_unref(disk->data);
    g_array_unref(disk->record);
    g_clear_pointer(&disk->base, g_bytes_unref);
    mutex_destroy(&disk->lock);
}

static int disk_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       const struct iovec *iov, int niov, int flags)
{
    Qcow2Disk *disk = bs->opaque;
    MUTEX_GUARD(&disk->lock);

    ck_assert_int_le(offset + bytes, disk->data->len);
    iov_from_buf(iov, niov, 0, disk->data->data + offset, bytes);
    return 0;
}

static void store(GByteArray *data, int64_t offset, const void *from,
                  int64_t bytes)
{
    guint length = data->len;

    if (offset + bytes > length) {
        g_byte_array_set_size(data, offset + bytes);
        memset(data->data + length, 0, offset + bytes - length);
    }
    memcpy(data->data + offset, from, bytes);
}

static bool must_fail(Qcow2Disk *disk)
{
    disk->writes++;
    if (disk->fail == 0) {
        return false;
    }
    if (disk->fail_after > 0) {
        disk->fail_after--;
        return false;
    }
    disk->fail--;
    return true;
}

/* In two steps, so that others come in between. Takes @buf. */
static int disk_write(Qcow2Disk *disk, int64_t offset, int64_t bytes,
                      uint8_t *buf)
{
    int64_t half = bytes / 2;
    Record r = { offset, bytes, buf };
    bool fails;

    mutex_lock(&disk->lock);
    fails = must_fail(disk);
    if (!fails) {
        store(disk->data, offset, buf, half);
    }
    mutex_unlock(&disk->lock);
    sched_yield();
    mutex_lock(&disk->lock);
    if (!fails) {
        store(disk->data, offset + half, buf + half, bytes - half);
    }
    if (!fails && disk->base) {
        g_array_append_val(disk->record, r);
    } else {
        g_free(buf);
    }
    mutex_unlock(&disk->lock);
    return fails ? -EIO : 0;
}

static int disk_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        const struct iovec *iov, int niov, int flags)
{
    uint8_t *buf = g_malloc(bytes);

    iov_to_buf(iov, niov, 0, buf, bytes);
    return disk_write(bs->opaque, offset, bytes, buf);
}

static int disk_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                              int64_t bytes, int flags)
{
    return disk_write(bs->opaque, offset, bytes, g_malloc0(bytes));
}

static int disk_flush(BlockDriverState *bs)
{
    Qcow2Disk *disk = bs->opaque;
    Record r = { -1, 0, NULL };
    MUTEX_GUARD(&disk->lock);

    disk->flushes++;
    if (disk->base) {
        g_array_append_val(disk->record, r);
    }
    return 0;
}

static int64_t disk_getlength(BlockDriverState *bs)
{
    return qcow2_disk_length(bs->opaque);
}

static int disk_truncate(BlockDriverState *bs, int64_t length, GError **errp)
{
    Qcow2Disk *disk = bs->opaque;
    guint old = disk->data->len;
    MUTEX_GUARD(&disk->lock);

    g_byte_array_set_size(disk->data, length);
    if (length > old) {
        memset(disk->data->data + old, 0, length - old);
    }
    return 0;
}

static const BlockDriver disk_driver = {
    .format_name = "qcow2-disk",
    .kind = BLOCK_DRIVER_PROTOCOL,
    .instance_size = sizeof(Qcow2Disk),
    .open = disk_open,
    .close = disk_close,
    .preadv = disk_preadv,
    .pwritev = disk_pwritev,
    .pwrite_zeroes = disk_pwrite_zeroes,
    .flush = disk_flush,
    .getlength = disk_getlength,
    .truncate = disk_truncate,
};

BlockDriverState *qcow2_disk_new(const char *node_name, GBytes *contents)
{
    BlockDriverState *bs;

    new_contents = contents;
    bs = bdrv_new_internal(&disk_driver, node_name, NULL);
    ck_assert(bs != NULL);
    bs->monitor_owned = true; /* which nobody waits for */
    return bs;
}

Qcow2Disk *qcow2_disk_of(BlockDriverState *bs)
{
    return bs->opaque;
}

int64_t qcow2_disk_length(Qcow2Disk *disk)
{
    MUTEX_GUARD(&disk->lock);
    return disk->data->len;
}

unsigned qcow2_disk_writes(Qcow2Disk *disk)
{
    MUTEX_GUARD(&disk->lock);
    return disk->writes;
}

unsigned qcow2_disk_flushes(Qcow2Disk *disk)
{
    MUTEX_GUARD(&disk->lock);
    return disk->flushes;
}

void qcow2_disk_fail(Qcow2Disk *disk, int after, int n)
{
    MUTEX_GUARD(&disk->lock);
    disk->fail_after = after;
    disk->fail = n;
}

/* ---- crashes ------------------------------------------------------------ */

void qcow2_disk_record(Qcow2Disk *disk)
{
    g_clear_pointer(&disk->base, g_bytes_unref);
    disk->base = g_bytes_new(disk->data->data, disk->data->len);
    g_array_set_size(disk->record, 0);
}

unsigned qcow2_disk_recorded(Qcow2Disk *disk)
{
    return disk->record->len;
}

/* A disk writes sectors as a whole, but which of them is for it to say. */
static void store_some(GByteArray *data, const Record *r, GRand *rand)
{
    int64_t pos = 0;

    while (pos < r->bytes) {
        int64_t at = r->offset + pos;
        int64_t n = MIN(r->bytes - pos, SECTOR - at % SECTOR);

        if (g_rand_boolean(rand)) {
            store(data, at, r->data + pos, n);
        }
        pos += n;
    }
}

GBytes *qcow2_disk_crash(Qcow2Disk *disk, unsigned n, GRand *rand)
{
    GByteArray *data = g_byte_array_new();
    gsize length;
    const void *base = g_bytes_get_data(disk->base, &length);
    unsigned i, flushed = 0;

    g_byte_array_append(data, base, length);
    for (i = 0; i < n; i++) {
        if (g_array_index(disk->record, Record, i).offset < 0) {
            flushed = i;
        }
    }
    for (i = 0; i < n; i++) {
        const Record *r = &g_array_index(disk->record, Record, i);

        if (r->offset < 0) {
            continue;
        }
        if (i < flushed || !rand || g_rand_boolean(rand)) {
            store(data, r->offset, r->data, r->bytes);
        } else if (g_rand_boolean(rand)) {
            store_some(data, r, rand);
        }
    }
    return g_byte_array_free_to_bytes(data);
}

/* ---- images ------------------------------------------------------------- */

static void put32(uint8_t *p, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
    v = GUINT64_TO_BE(v);
    memcpy(p, &v, sizeof(v));
}

/* Header, reftable, one refblock (of 16 bits each), L1 table */
GBytes *qcow2_disk_image(unsigned version, unsigned cluster_bits,
                         int64_t length)
{
    uint64_t size = UINT64_C(1) << cluster_bits;
    uint64_t span = size * (size / 8);
    uint32_t l1_entries = (length + span - 1) / span;
    uint64_t l1_clusters = (l1_entries * 8 + size - 1) / size;
    uint64_t clusters = 3 + l1_clusters;
    uint8_t *image = g_malloc0(clusters * size);
    uint64_t i;

    g_assert(clusters <= size / 2);
    put32(image, QCOW2_MAGIC);
    put32(image + 4, version);
    put32(image + 20, cluster_bits);
    put64(image + 24, length);
    put32(image + 36, l1_entries);
    put64(image + 40, 3 * size);
    put64(image + 48, size);
    put32(image + 56, 1);
    if (version >= 3) {
        put32(image + 96, 4);
        put32(image + 100, 104);
    }
    put64(image + size, 2 * size);
    for (i = 0; i < clusters; i++) {
        image[2 * size + 2 * i + 1] = 1;
    }
    return g_bytes_new_take(image, clusters * size);
}

BlockBackend *qcow2_disk_open(BlockDriverState *file, const char *backing)
{
    g_autofree char *below =
        backing ? g_strdup_printf("\"%s\"", backing) : g_strdup("null");
    g_autofree char *text = g_strdup_printf(
        "{\"driver\":\"qcow2\",\"node-name\":\"q\",\"discard\":\"unmap\","
        "\"file\":\"%s\",\"backing\":%s}",
        bdrv_node_name(file), below);
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs;
    BlockBackend *blk = blk_new(
        "test", false, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, BLK_PERM_ALL);

    bdrv_graph_lock();
    ck_assert(schema_check(&blockdev_options_type, node, "", false, &err));
    bs = bdrv_open(json_node_get_object(node), &err);
    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    ck_assert_msg(blk_attach(blk, bs, &err), "%s", err ? err->message : "");
    bdrv_graph_unlock();
    return blk;
}

void qcow2_disk_close(BlockBackend *blk)
{
    g_autoptr(GError) err = NULL;

    bdrv_graph_lock();
    blk_free(blk);
    bdrv_graph_unlock();
    bdrv_graph_lock();
    ck_assert_msg(bdrv_monitor_del("q", &err), "%s", err ? err->message : "");
    bdrv_graph_unlock();
}

static void show(void *opaque, const char *line)
{
    g_printerr("%s\n", line);
}

void qcow2_disk_assert_clean(bool leaks)
{
    BdrvCheckResult result = { .report = leaks ? show : NULL };
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs = bdrv_find_node("q", NULL);
    int ret;

    ck_assert(bs != NULL);
    bdrv_graph_lock();
    ret = bs->drv->check(bs, &result, 0, &err);
    bdrv_unref(bs);
    bdrv_graph_unlock();
    ck_assert_msg(ret == 0, "%s", err ? err->message : "");
    ck_assert_int_eq(result.check_errors, 0);
    ck_assert_int_eq(result.corruptions, 0);
    ck_assert(!leaks || result.leaks == 0);
}
