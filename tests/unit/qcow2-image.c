/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qcow2-image.h"

MemDisk *disk;
Qcow2State *s;
GArray *notes;
int fail_op;
int64_t fail_at;

static BlockDriverState *file, *bs;

static int tables_open(BlockDriverState *node, JsonObject *options,
                       GError **errp)
{
    return bdrv_attach_child(node, file, "file", errp) ? 0 : -EINVAL;
}

static const BlockDriver tables_driver = {
    .format_name = "qcow2-tables",
    .kind = BLOCK_DRIVER_FORMAT,
    .instance_size = sizeof(Qcow2State),
    .open = tables_open,
};

static int hook(MemDisk *d, MemOp op, int64_t offset, int64_t bytes)
{
    Note note = { op, offset >> s->cluster_bits, offset };

    if (op == MEM_WRITE || op == MEM_FLUSH || op == MEM_DISCARD) {
        g_array_append_val(notes, note);
    }
    if ((int)op == fail_op &&
        (fail_at < 0 || (offset <= fail_at && fail_at < offset + bytes))) {
        return -EIO;
    }
    return 0;
}

uint64_t image_be64(int64_t offset)
{
    return qcow2_get_be64(disk->data + offset);
}

void image_set_be64(int64_t offset, uint64_t value)
{
    qcow2_put_be64(disk->data + offset, value);
}

static void write_tables(void)
{
    uint8_t *h = disk->data;
    unsigned i;

    qcow2_put_be32(h, QCOW2_MAGIC);
    qcow2_put_be32(h + 4, 3);
    qcow2_put_be32(h + 20, s->cluster_bits);
    qcow2_put_be64(h + 24, s->length);
    qcow2_put_be32(h + 36, s->l1_entries);
    qcow2_put_be64(h + 40, s->l1_offset);
    qcow2_put_be64(h + 48, s->reftable_offset);
    qcow2_put_be32(h + 56, 1);
    qcow2_put_be32(h + 96, s->refcount_order);
    qcow2_put_be32(h + 100, s->header_length);
    image_set_be64(s->reftable_offset, REFBLOCK_CLUSTER << s->cluster_bits);
    for (i = 0; i < FREE_CLUSTER; i++) {
        qcow2_refcount_write(s->refcount_order,
                             h + (REFBLOCK_CLUSTER << s->cluster_bits), i, 1);
    }
}

static void open_tables(void)
{
    g_autoptr(GError) err = NULL;
    uint32_t i;

    mutex_lock(&s->lock);
    s->reftable_offset = image_be64(48);
    s->reftable_entries =
        qcow2_get_be32(disk->data + 56) << s->cluster_bits >> 3;
    ck_assert_msg(qcow2_refcounts_open(s, &err) == 0, "%s",
                  err ? err->message : "");
    s->l2_cache = qcow2_cache_new(s, 4);
    s->refblock_cache = qcow2_cache_new(s, 4);
    for (i = 0; i < s->l1_entries; i++) {
        s->l1[i] = image_be64(s->l1_offset + i * 8);
    }
    s->corrupt = s->corruption_told = false;
    mutex_unlock(&s->lock);
}

static void close_tables(void)
{
    mutex_lock(&s->lock);
    qcow2_refcounts_close(s);
    g_clear_pointer(&s->l2_cache, qcow2_cache_free);
    s->data_unflushed = s->tables_unflushed = false;
    mutex_unlock(&s->lock);
}

void image_reopen(void)
{
    close_tables();
    open_tables();
}

void image_new(unsigned cluster_bits, unsigned refcount_order)
{
    disk = mem_disk_new(IMAGE_BYTES, 1);
    notes = g_array_new(FALSE, FALSE, sizeof(Note));
    fail_op = -1;
    fail_at = -1;
    bdrv_graph_lock();
    file = mem_node_new(&mem_driver, "file", disk);
    bs = bdrv_new_internal(&tables_driver, "image", NULL);
    bdrv_graph_unlock();
    ck_assert_ptr_nonnull(bs);
    s = bs->opaque;
    s->bs = bs;
    mutex_init(&s->lock);
    s->version = 3;
    s->header_length = 112;
    s->cluster_bits = cluster_bits;
    s->l2_bits = cluster_bits - 3;
    s->cluster_size = INT64_C(1) << cluster_bits;
    s->refcount_order = refcount_order;
    s->extensions = g_array_new(FALSE, FALSE, sizeof(Qcow2Extension));
    s->l1_entries = s->cluster_size / 8;
    s->l1_offset = L1_CLUSTER << cluster_bits;
    s->l1 = g_new0(uint64_t, s->l1_entries);
    s->length = (int64_t)s->l1_entries << (s->l2_bits + cluster_bits);
    s->reftable_offset = REFTABLE_CLUSTER << cluster_bits;
    write_tables();
    disk->hook = hook;
    open_tables();
}

void image_free(void)
{
    disk->hook = NULL; /* it looks at what goes now */
    close_tables();
    g_free(s->l1);
    g_array_unref(s->extensions);
    mutex_destroy(&s->lock);
    bdrv_graph_lock();
    bdrv_unref(bs);
    bdrv_unref(file);
    bdrv_graph_unlock();
    mem_disk_free(disk);
    g_array_unref(notes);
}
