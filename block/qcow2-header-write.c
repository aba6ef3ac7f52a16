/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: the header is written anew, and an image says that it is corrupt.
 *
 * A disk writes 512 bytes as a whole or not at all. What changes while an image
 * is in use (features, where tables are, the disk's size) lies within the first
 * 512, so whoever opens it next finds the old header or the new one. The rest,
 * where it differs, is written before.
 */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2.h"
#include "monitor/qmp.h"
#include "util/error.h"

#define ATOMIC_BYTES 512

int qcow2_read_file(Qcow2State *s, uint64_t offset, uint64_t bytes, void *buf)
{
    BdrvChild *file = s->bs->file;
    int64_t length = bdrv_child_getlength(file);
    struct iovec iov = { .iov_base = buf, .iov_len = bytes };

    if (length < 0) {
        return length;
    }
    if (offset > (uint64_t)length || bytes > (uint64_t)length - offset) {
        return -EIO;
    }
    return bdrv_preadv(file->bs, offset, bytes, &iov, 1, 0);
}

int qcow2_write_file(Qcow2State *s, uint64_t offset, uint64_t bytes,
                     const void *buf)
{
    struct iovec iov = { .iov_base = (void *)buf, .iov_len = bytes };

    return bdrv_pwritev(s->bs->file->bs, offset, bytes, &iov, 1, 0);
}

/* ---- the header --------------------------------------------------------- */

static void append_extension(GByteArray *out, uint32_t magic, uint32_t length,
                             const void *data)
{
    static const uint8_t padding[8];
    uint8_t head[8];

    qcow2_put_be32(head, magic);
    qcow2_put_be32(head + 4, length);
    g_byte_array_append(out, head, sizeof(head));
    if (length) {
        g_byte_array_append(out, data, length);
    }
    g_byte_array_append(out, padding, -length % 8);
}

static void put_fields(const Qcow2State *s, uint8_t *buf)
{
    qcow2_put_be32(buf, QCOW2_MAGIC);
    qcow2_put_be32(buf + 4, s->version);
    qcow2_put_be32(buf + 20, s->cluster_bits);
    qcow2_put_be64(buf + 24, s->length);
    qcow2_put_be32(buf + 36, s->l1_entries);
    qcow2_put_be64(buf + 40, s->l1_offset);
    qcow2_put_be64(buf + 48, s->reftable_offset);
    qcow2_put_be32(buf + 56,
                   s->reftable_entries / (s->cluster_size / sizeof(uint64_t)));
    qcow2_put_be32(buf + 60, s->n_snapshots);
    qcow2_put_be64(buf + 64, s->snapshots_offset);
    if (s->version == 2) {
        return;
    }
    qcow2_put_be64(buf + 72, s->incompatible);
    qcow2_put_be64(buf + 80, s->compatible);
    qcow2_put_be64(buf + 88, s->autoclear);
    qcow2_put_be32(buf + 96, s->refcount_order);
    qcow2_put_be32(buf + 100, s->header_length);
    if (s->header_length > 104) {
        buf[104] = s->compression;
    }
    if (s->more_fields) {
        gsize bytes;
        const void *more = g_bytes_get_data(s->more_fields, &bytes);

        memcpy(buf + s->header_length - bytes, more, bytes);
    }
}

/* All that the first cluster has to hold; NULL and @errp: it cannot */
static GByteArray *compose(const Qcow2State *s, GError **errp)
{
    GByteArray *out = g_byte_array_new();
    guint i;

    g_byte_array_set_size(out, s->header_length);
    memset(out->data, 0, out->len);
    put_fields(s, out->data);
    if (s->backing_format) {
        append_extension(out, QCOW2_EXT_BACKING_FORMAT,
                         strlen(s->backing_format), s->backing_format);
    }
    for (i = 0; s->extensions && i < s->extensions->len; i++) {
        const Qcow2Extension *ext =
            &g_array_index(s->extensions, Qcow2Extension, i);

        append_extension(out, ext->magic, ext->length, ext->data);
    }
    append_extension(out, QCOW2_EXT_END, 0, NULL);
    if (s->backing_file) {
        qcow2_put_be64(out->data + 8, out->len);
        qcow2_put_be32(out->data + 16, strlen(s->backing_file));
        g_byte_array_append(out, (const guint8 *)s->backing_file,
                            strlen(s->backing_file));
    }
    if (out->len > s->cluster_size) {
        error_setg(errp,
                   "The image's header would take %u bytes, more than a "
                   "cluster of %" PRId64,
                   out->len, s->cluster_size);
        g_byte_array_unref(out);
        return NULL;
    }
    return out;
}

/* Does the file have the same from @offset on? In doubt it has not. */
static bool is_there(Qcow2State *s, const GByteArray *header, uint64_t offset)
{
    g_autofree uint8_t *old = g_malloc(header->len - offset);

    return qcow2_read_file(s, offset, header->len - offset, old) == 0 &&
           memcmp(old, header->data + offset, header->len - offset) == 0;
}

static int write_header(Qcow2State *s, const GByteArray *header)
{
    uint32_t first = MIN(header->len, ATOMIC_BYTES);
    BlockDriverState *file = s->bs->file->bs;
    int ret = 0;

    if (header->len > first && !is_there(s, header, first)) {
        ret = qcow2_write_file(s, first, header->len - first,
                               header->data + first);
        if (ret == 0) {
            ret = bdrv_flush(file);
        }
    }
    if (ret == 0) {
        ret = qcow2_write_file(s, 0, first, header->data);
    }
    return ret < 0 ? ret : bdrv_flush(file);
}

int qcow2_update_header(Qcow2State *s, GError **errp)
{
    g_autoptr(GByteArray) header = compose(s, errp);
    int ret;

    if (!header) {
        return -ENOSPC;
    }
    ret = write_header(s, header);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write the image's header");
    }
    return ret;
}

/* ---- corruption --------------------------------------------------------- */

static void send_event(Qcow2State *s, const char *text, int64_t offset,
                       int64_t size, bool fatal)
{
    JsonObject *data = json_object_new();

    json_object_set_string_member(data, "device", "");
    json_object_set_string_member(data, "node-name", s->bs->node_name);
    json_object_set_string_member(data, "msg", text);
    if (offset >= 0) {
        json_object_set_int_member(data, "offset", offset);
    }
    if (size >= 0) {
        json_object_set_int_member(data, "size", size);
    }
    json_object_set_boolean_member(data, "fatal", fatal);
    qmp_event_send("BLOCK_IMAGE_CORRUPTED", data);
}

void qcow2_signal_corruption(Qcow2State *s, int64_t offset, int64_t size,
                             const char *fmt, ...)
{
    bool fatal = !bdrv_is_read_only(s->bs);
    g_autofree char *text = NULL;
    g_autoptr(GError) err = NULL;
    va_list ap;

    if (s->corruption_told && (!fatal || qcow2_is_corrupt(s))) {
        return;
    }
    s->corruption_told = true;
    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_warning("qcow2: %s '%s': %s; further corruption is not told of",
              fatal ? "Marking as corrupt the image of node"
                    : "Corrupt is the image of node",
              s->bs->node_name, text);
    send_event(s, text, offset, size, fatal);
    if (!fatal) {
        return;
    }
    __atomic_store_n(&s->corrupt, true, __ATOMIC_RELAXED);
    if (s->version >= 3) {
        s->incompatible |= QCOW2_INCOMPAT_CORRUPT;
        if (qcow2_update_header(s, &err) < 0) {
            g_warning("qcow2: %s", err->message);
        }
    }
}
