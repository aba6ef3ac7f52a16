/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: the header is written anew, and an image says that it is corrupt.
 *
 * A disk writes 512 bytes as a whole or not at all. What changes while an image
 * is in use (features, where tables are, the disk's size) lies within the first
 * 512, so whoever opens it next finds the old header or the new one. The rest,
 * where it differs, is written before: what the old header refers to stays there.
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

/* What is where in the first cluster; all offsets are 0 if it is no header yet. */
typedef struct Layout {
    uint64_t chain_end; /* of the extensions, with the one that says so */
    uint64_t name, name_bytes; /* of the backing file */
} Layout;

static bool overlap(uint64_t a, uint64_t a_end, uint64_t b, uint64_t b_end)
{
    return a < b_end && b < a_end;
}

/* As it is on the disk. What makes no sense there refers to nothing. */
static Layout old_layout(const Qcow2State *s, const GByteArray *old)
{
    uint64_t pos = s->header_length;
    Layout l = { 0 };

    if (old->len < QCOW2_MIN_HEADER ||
        qcow2_get_be32(old->data) != QCOW2_MAGIC) {
        return l;
    }
    l.name = qcow2_get_be64(old->data + 8);
    l.name_bytes = qcow2_get_be32(old->data + 16);
    if (l.name > old->len || l.name_bytes > old->len - l.name) {
        l.name = l.name_bytes = 0;
    }
    while (pos + 8 <= old->len) {
        uint64_t length = qcow2_get_be32(old->data + pos + 4);
        bool last = qcow2_get_be32(old->data + pos) == QCOW2_EXT_END;

        pos += 8;
        if (last) {
            break;
        }
        pos += (length + 7) & ~UINT64_C(7);
    }
    l.chain_end = MIN(pos, old->len);
    return l;
}

/*
 * Where the name is to be, behind the extensions: where it is, or where neither that
 * nor an extension is, so that nothing is lost before the header refers to it. If
 * the cluster has no more room, somewhere.
 */
static uint64_t place_name(const Qcow2State *s, const GByteArray *old,
                           const Layout *was, uint64_t chain_end)
{
    uint64_t bytes = strlen(s->backing_file);
    uint64_t at = chain_end;

    if (was->name >= chain_end && was->name_bytes == bytes &&
        memcmp(old->data + was->name, s->backing_file, bytes) == 0) {
        return was->name;
    }
    if (chain_end > ATOMIC_BYTES || chain_end + bytes > ATOMIC_BYTES ||
        was->chain_end > ATOMIC_BYTES) {
        at = MAX(at, was->chain_end);
        if (overlap(at, at + bytes, was->name, was->name + was->name_bytes)) {
            at = (was->name + was->name_bytes + 7) & ~UINT64_C(7);
        }
    }
    return at + bytes <= (uint64_t)s->cluster_size ? at : chain_end;
}

/* All that the first cluster has to hold, and, between, what it holds now; NULL and
 * @errp: it cannot */
static GByteArray *compose(const Qcow2State *s, const GByteArray *old,
                           const Layout *was, Layout *l, GError **errp)
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
    *l = (Layout){ .chain_end = out->len };
    if (s->backing_file) {
        l->name = place_name(s, old, was, out->len);
        l->name_bytes = strlen(s->backing_file);
        qcow2_put_be64(out->data + 8, l->name);
        qcow2_put_be32(out->data + 16, l->name_bytes);
        if (l->name > out->len) {
            guint from = out->len;

            g_byte_array_set_size(out, l->name);
            memset(out->data + from, 0, out->len - from);
            if (from < old->len) {
                memcpy(out->data + from, old->data + from,
                       MIN(out->len, old->len) - from);
            }
        }
        g_byte_array_append(out, (const guint8 *)s->backing_file,
                            l->name_bytes);
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

/* [@from, @end), which is on stable storage then; or it is there already */
static int write_part(Qcow2State *s, const GByteArray *old,
                      const GByteArray *header, uint64_t from, uint64_t end)
{
    int ret;

    if (from >= end ||
        (end <= old->len &&
         memcmp(old->data + from, header->data + from, end - from) == 0)) {
        return 0;
    }
    ret = qcow2_write_file(s, from, end - from, header->data + from);
    return ret < 0 ? ret : bdrv_flush(s->bs->file->bs);
}

/* The old header with the new name, which is there already */
static int write_name_only(Qcow2State *s, const GByteArray *old,
                           const GByteArray *header)
{
    uint8_t first[ATOMIC_BYTES];
    int ret;

    memcpy(first, old->data, ATOMIC_BYTES);
    memcpy(first + 8, header->data + 8, 12);
    ret = qcow2_write_file(s, 0, ATOMIC_BYTES, first);
    return ret < 0 ? ret : bdrv_flush(s->bs->file->bs);
}

/*
 * Whoever finds the old first part has to find what that refers to. Extensions that
 * go on in the second part: there they may change, where the first part does
 * not. Where all of them move nothing helps but to write all at once.
 */
static int write_header(Qcow2State *s, const GByteArray *old, const Layout *was,
                        const GByteArray *header, const Layout *l)
{
    uint64_t first = MIN(header->len, ATOMIC_BYTES);
    uint64_t begin = MIN(s->header_length, first);
    int ret;

    ret = write_part(s, old, header, MAX(l->name, ATOMIC_BYTES),
                     l->name + l->name_bytes);
    if (ret == 0 && l->chain_end > ATOMIC_BYTES && was->name_bytes &&
        was->name != l->name &&
        overlap(ATOMIC_BYTES, l->chain_end, was->name,
                was->name + was->name_bytes)) {
        ret = write_name_only(s, old, header);
    }
    if (ret == 0 && was->chain_end > ATOMIC_BYTES &&
        l->chain_end > ATOMIC_BYTES &&
        memcmp(old->data + begin, header->data + begin, first - begin)) {
        first = l->chain_end;
    } else if (ret == 0) {
        ret = write_part(s, old, header, ATOMIC_BYTES, l->chain_end);
    }
    if (ret == 0) {
        ret = qcow2_write_file(s, 0, first, header->data);
    }
    return ret < 0 ? ret : bdrv_flush(s->bs->file->bs);
}

/* What the first cluster holds; nothing, if that cannot be read */
static GByteArray *read_old(Qcow2State *s)
{
    int64_t length = bdrv_child_getlength(s->bs->file);
    GByteArray *old = g_byte_array_new();

    if (length > 0) {
        g_byte_array_set_size(old, MIN(length, s->cluster_size));
        if (qcow2_read_file(s, 0, old->len, old->data) < 0) {
            g_byte_array_set_size(old, 0);
        }
    }
    return old;
}

int qcow2_update_header(Qcow2State *s, GError **errp)
{
    g_autoptr(GByteArray) old = read_old(s);
    Layout was = old_layout(s, old), l;
    g_autoptr(GByteArray) header = compose(s, old, &was, &l, errp);
    int ret;

    if (!header) {
        return -ENOSPC;
    }
    ret = write_header(s, old, &was, header, &l);
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
