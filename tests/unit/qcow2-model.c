/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qcow2-model.h"

#include <check.h>
#include <string.h>

#include "mem-disk.h"
#include "util/iov.h"

Qcow2Model model;

const Qcow2ModelConfig qcow2_model_configs[QCOW2_MODEL_CONFIGS] = {
    { 3, 9, 512 * KIB + 512, false },  { 3, 9, 512 * KIB + 1, true },
    { 2, 9, 300 * KIB + 512, true },   { 2, 12, 3 * MIB, false },
    { 3, 12, 3 * MIB + 512, true },    { 3, 16, 9 * MIB + 4096, false },
    { 3, 16, 9 * MIB + 1536, true },   { 2, 16, 9 * MIB, true },
    { 3, 21, 17 * MIB + 65536, true }, { 3, 21, 17 * MIB + 512, false },
};

/* ---- an image and its model --------------------------------------------- */

void qcow2_model_open(const Qcow2ModelConfig *c)
{
    g_autoptr(GBytes) image =
        qcow2_disk_image(c->version, c->cluster_bits, c->length);

    model.config = c;
    model.data = g_malloc0(c->length);
    bdrv_graph_lock();
    model.file = qcow2_disk_new("file", image);
    if (c->backing) {
        model.base = mem_disk_new("base", c->length * 2 / 3 / 512 * 512);
        model.base->monitor_owned = true;
    }
    bdrv_graph_unlock();
    if (model.base) {
        mem_disk_fill(mem_disk_of(model.base), 7);
        memcpy(model.data, mem_disk_data(mem_disk_of(model.base)),
               bdrv_getlength(model.base));
    }
    model.blk = qcow2_disk_open(model.file, model.base ? "base" : NULL);
    ck_assert_int_eq(blk_getlength(model.blk), c->length);
}

void qcow2_model_reopen(void)
{
    qcow2_disk_close(model.blk);
    model.blk = qcow2_disk_open(model.file, model.base ? "base" : NULL);
}

void qcow2_model_close(void)
{
    qcow2_disk_close(model.blk);
    bdrv_graph_lock();
    ck_assert(bdrv_monitor_del("file", NULL));
    ck_assert(!model.base || bdrv_monitor_del("base", NULL));
    bdrv_graph_unlock();
    g_clear_pointer(&model.data, g_free);
    model.file = model.base = NULL;
}

void qcow2_model_assert(void)
{
    int64_t piece = MIB, offset;
    g_autofree uint8_t *buf = g_malloc(piece);

    for (offset = 0; offset < model.config->length; offset += piece) {
        int64_t n = MIN(piece, model.config->length - offset);

        ck_assert_int_eq(blk_pread(model.blk, offset, n, buf, 0), 0);
        ck_assert_mem_eq(buf, model.data + offset, n);
    }
}

/* What is called zero is zero, and what is neither is what is below. */
void qcow2_model_assert_status(void)
{
    int64_t offset, pnum;

    for (offset = 0; offset < model.config->length; offset += pnum) {
        int ret =
            blk_block_status(model.blk, offset, model.config->length - offset,
                             BDRV_WANT_PRECISE, &pnum);

        ck_assert_int_ge(ret, 0);
        ck_assert_int_gt(pnum, 0);
        ck_assert(!(ret & BDRV_BLOCK_ZERO) ||
                  buffer_is_zero(model.data + offset, pnum));
    }
}

/* ---- one request, and the same to the model ----------------------------- */

/* The part of [@offset, @offset + @bytes) that a discard is about */
static void discard_model(int64_t offset, int64_t bytes)
{
    int64_t size = INT64_C(1) << model.config->cluster_bits;
    int64_t end = offset + bytes;

    if (model.config->version < 3 && model.config->backing) {
        return;
    }
    offset = (offset + size - 1) / size * size;
    if (end < model.config->length) {
        end = end / size * size;
    }
    if (offset < end) {
        memset(model.data + offset, 0, end - offset);
    }
}

void qcow2_model_write(int64_t offset, int64_t bytes, uint8_t first)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    struct iovec iov[2] = { { buf, bytes / 3 },
                            { buf + bytes / 3, bytes - bytes / 3 } };
    int64_t i;

    for (i = 0; i < bytes; i++) {
        buf[i] = first + i / 7;
    }
    ck_assert_int_eq(blk_pwritev(model.blk, offset, bytes, iov, 2, 0), 0);
    memcpy(model.data + offset, buf, bytes);
}

void qcow2_model_read(int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    struct iovec iov[2] = { { buf, bytes / 2 },
                            { buf + bytes / 2, bytes - bytes / 2 } };

    ck_assert_int_eq(blk_preadv(model.blk, offset, bytes, iov, 2, 0), 0);
    ck_assert_mem_eq(buf, model.data + offset, bytes);
}

void qcow2_model_any_request(GRand *rand, int64_t start, int64_t end)
{
    int64_t size = INT64_C(1) << model.config->cluster_bits;
    int64_t most = size * (g_rand_boolean(rand) ? 1 : 9);
    int64_t max = MIN(end - start, most);
    int64_t from;
    int64_t bytes = g_rand_int_range(rand, 1, max + 1);
    int64_t offset = start + g_rand_int_range(rand, 0, end - start - bytes + 1);

    if (g_rand_boolean(rand)) { /* whole clusters, as far as possible */
        from = MAX(offset / size * size, start);
        bytes = MIN((offset + bytes + size - 1) / size * size, end) - from;
        offset = from;
    }
    switch (g_rand_int_range(rand, 0, 12)) {
    case 0:
        ck_assert_int_eq(blk_pwrite_zeroes(model.blk, offset, bytes, 0), 0);
        memset(model.data + offset, 0, bytes);
        break;
    case 1:
        ck_assert_int_eq(
            blk_pwrite_zeroes(model.blk, offset, bytes, BDRV_REQ_MAY_UNMAP), 0);
        memset(model.data + offset, 0, bytes);
        break;
    case 2:
        ck_assert_int_eq(blk_pdiscard(model.blk, offset, bytes), 0);
        discard_model(offset, bytes);
        break;
    case 3:
        ck_assert_int_eq(blk_flush(model.blk), 0);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
        qcow2_model_read(offset, bytes);
        break;
    default:
        qcow2_model_write(offset, bytes, g_rand_int_range(rand, 0, 256));
        break;
    }
}
