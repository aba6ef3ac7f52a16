/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: the header, its extensions, and which features an image has.
 *
 * An image may come from anybody. So every number is looked at before it is used,
 * an error names it, and nothing larger than the first cluster is allocated here.
 */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2.h"
#include "util/error.h"

#define V3_MIN_HEADER 104
#define KNOWN_HEADER 112 /* with the type of compression, and padding */
#define MAX_BACKING_NAME 1023
#define MAX_FORMAT_NAME 255
#define FEATURE_NAME_BYTES 46
#define INCOMPAT_SUPPORTED                                                     \
    (UINT64_C(0) | QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT |             \
     QCOW2_INCOMPAT_COMPRESSION)

/* Numbers as they stand in the header */
typedef struct Header {
    uint64_t backing_offset;
    uint32_t backing_bytes;
    uint32_t cluster_bits;
    uint64_t length;
    uint32_t crypt_method;
    uint32_t l1_entries;
    uint64_t l1_offset;
    uint64_t reftable_offset;
    uint32_t reftable_clusters;
    uint32_t n_snapshots;
    uint64_t snapshots_offset;
    uint32_t refcount_order;
    uint8_t compression;
} Header;

uint64_t qcow2_l1_entries_for(const Qcow2State *s, int64_t length)
{
    unsigned bits = s->cluster_bits + s->l2_bits;
    uint64_t whole = (uint64_t)length >> bits;

    return whole + ((whole << bits) < (uint64_t)length);
}

int qcow2_header_cluster_bits(const uint8_t *buf, unsigned *cluster_bits,
                              GError **errp)
{
    uint32_t version = qcow2_get_be32(buf + 4);
    uint32_t bits = qcow2_get_be32(buf + 20);

    if (qcow2_get_be32(buf) != QCOW2_MAGIC) {
        error_setg(errp, "Image is not in qcow2 format");
        return -EINVAL;
    }
    if (version < 2 || version > 3) {
        error_setg(errp, "Unsupported qcow2 version %" PRIu32, version);
        return -ENOTSUP;
    }
    if (bits < QCOW2_MIN_CLUSTER_BITS || bits > QCOW2_MAX_CLUSTER_BITS) {
        error_setg(errp, "Unsupported cluster size: 2^%" PRIu32, bits);
        return -EINVAL;
    }
    *cluster_bits = bits;
    return 0;
}

static int read_fields(Qcow2State *s, Header *h, const uint8_t *buf,
                       size_t bytes, GError **errp)
{
    s->version = qcow2_get_be32(buf + 4);
    h->backing_offset = qcow2_get_be64(buf + 8);
    h->backing_bytes = qcow2_get_be32(buf + 16);
    h->length = qcow2_get_be64(buf + 24);
    h->crypt_method = qcow2_get_be32(buf + 32);
    h->l1_entries = qcow2_get_be32(buf + 36);
    h->l1_offset = qcow2_get_be64(buf + 40);
    h->reftable_offset = qcow2_get_be64(buf + 48);
    h->reftable_clusters = qcow2_get_be32(buf + 56);
    h->n_snapshots = qcow2_get_be32(buf + 60);
    h->snapshots_offset = qcow2_get_be64(buf + 64);
    h->refcount_order = 4;
    s->header_length = QCOW2_MIN_HEADER;
    if (s->version == 2) {
        return 0;
    }
    if (bytes < V3_MIN_HEADER) {
        error_setg(errp, "qcow2 header too short: the file has %zu bytes",
                   bytes);
        return -EINVAL;
    }
    s->incompatible = qcow2_get_be64(buf + 72);
    s->compatible = qcow2_get_be64(buf + 80);
    s->autoclear = qcow2_get_be64(buf + 88);
    h->refcount_order = qcow2_get_be32(buf + 96);
    s->header_length = qcow2_get_be32(buf + 100);
    if (s->header_length < V3_MIN_HEADER || s->header_length % 8) {
        error_setg(
            errp, "%s: %" PRIu32 " bytes, which is no multiple of 8 from %d on",
            s->header_length < V3_MIN_HEADER ? "qcow2 header too short"
                                             : "Invalid qcow2 header length",
            s->header_length, V3_MIN_HEADER);
        return -EINVAL;
    }
    if (s->header_length > s->cluster_size || s->header_length > bytes) {
        error_setg(errp, "qcow2 header exceeds cluster size: %" PRIu32 " bytes",
                   s->header_length);
        return -EINVAL;
    }
    if (s->header_length > V3_MIN_HEADER) {
        h->compression = buf[V3_MIN_HEADER];
    }
    if (s->header_length > KNOWN_HEADER) {
        s->more_fields =
            g_bytes_new(buf + KNOWN_HEADER, s->header_length - KNOWN_HEADER);
    }
    return 0;
}

/* ---- extensions --------------------------------------------------------- */

static bool has_extension(const Qcow2State *s, uint32_t magic)
{
    guint i;

    for (i = 0; i < s->extensions->len; i++) {
        if (g_array_index(s->extensions, Qcow2Extension, i).magic == magic) {
            return true;
        }
    }
    return false;
}

static int add_extension(Qcow2State *s, uint32_t magic, uint32_t length,
                         const uint8_t *data, GError **errp)
{
    Qcow2Extension ext = { magic, length, NULL };

    switch (magic) {
    case QCOW2_EXT_BACKING_FORMAT:
        if (length > MAX_FORMAT_NAME) {
            error_setg(errp,
                       "Backing format name too long: %" PRIu32
                       " bytes, at most %d",
                       length, MAX_FORMAT_NAME);
            return -EINVAL;
        }
        g_free(s->backing_format);
        s->backing_format =
            length ? g_strndup((const char *)data, length) : NULL;
        return 0;
    case QCOW2_EXT_ENCRYPTION:
        error_setg(errp, "Header extension for LUKS encryption in an image "
                         "that is not encrypted");
        return -EINVAL;
    default:
        ext.data = g_memdup2(data, length);
        g_array_append_val(s->extensions, ext);
        return 0;
    }
}

static int read_extensions(Qcow2State *s, const Header *h, const uint8_t *buf,
                           size_t bytes, GError **errp)
{
    uint64_t end = MIN((uint64_t)s->cluster_size, bytes);
    uint64_t offset = s->header_length;
    int ret = 0;

    if (h->backing_offset) {
        if (h->backing_offset < s->header_length || h->backing_offset > end) {
            error_setg(errp, "Invalid backing file offset %" PRIu64,
                       h->backing_offset);
            return -EINVAL;
        }
        end = h->backing_offset;
    }
    while (ret == 0 && end - offset >= 8) {
        uint32_t magic = qcow2_get_be32(buf + offset);
        uint32_t length = qcow2_get_be32(buf + offset + 4);

        offset += 8;
        if (magic == QCOW2_EXT_END) {
            break;
        }
        if (length > end - offset) {
            error_setg(errp,
                       "Header extension too large: %#" PRIx32 " has %" PRIu32
                       " bytes",
                       magic, length);
            return -EINVAL;
        }
        ret = add_extension(s, magic, length, buf + offset, errp);
        offset = MIN(offset + (((uint64_t)length + 7) & ~UINT64_C(7)), end);
    }
    return ret;
}

static int read_backing_name(Qcow2State *s, const Header *h, const uint8_t *buf,
                             size_t bytes, GError **errp)
{
    uint64_t end = MIN((uint64_t)s->cluster_size, bytes);

    if (h->backing_offset == 0 || h->backing_bytes == 0) {
        return 0;
    }
    if (h->backing_bytes > MAX_BACKING_NAME ||
        h->backing_bytes > end - h->backing_offset) {
        error_setg(errp, "Backing file name too long: %" PRIu32 " bytes",
                   h->backing_bytes);
        return -EINVAL;
    }
    s->backing_file =
        g_strndup((const char *)buf + h->backing_offset, h->backing_bytes);
    return 0;
}

/* ---- features ----------------------------------------------------------- */

/* What the image itself calls it, or we do; or NULL. (transfer full) */
static char *feature_name(const Qcow2State *s, unsigned bit)
{
    guint i;
    uint32_t j;

    for (i = 0; i < s->extensions->len; i++) {
        const Qcow2Extension *ext =
            &g_array_index(s->extensions, Qcow2Extension, i);

        for (j = 0; ext->magic == QCOW2_EXT_FEATURES &&
                    ext->length - j >= 2 + FEATURE_NAME_BYTES;
             j += 2 + FEATURE_NAME_BYTES) {
            const uint8_t *entry = ext->data + j;

            if (entry[0] == 0 && entry[1] == bit && entry[2]) {
                g_autofree char *name =
                    g_strndup((const char *)entry + 2, FEATURE_NAME_BYTES);

                return g_utf8_make_valid(name, -1);
            }
        }
    }
    switch (UINT64_C(1) << bit) {
    case QCOW2_INCOMPAT_DATA_FILE:
        return g_strdup("external data file");
    case QCOW2_INCOMPAT_EXTL2:
        return g_strdup("extended L2 entries");
    default:
        return NULL;
    }
}

static int check_features(const Qcow2State *s, GError **errp)
{
    uint64_t refused = s->incompatible & ~INCOMPAT_SUPPORTED;
    g_autoptr(GString) names = g_string_new(NULL);
    uint64_t unknown = 0;
    unsigned bit;

    if (!refused) {
        return 0;
    }
    for (bit = 0; bit < 64; bit++) {
        g_autofree char *name = NULL;

        if (!(refused & (UINT64_C(1) << bit))) {
            continue;
        }
        name = feature_name(s, bit);
        if (name) {
            g_string_append_printf(names, "%s%s", names->len ? ", " : "", name);
        } else {
            unknown |= UINT64_C(1) << bit;
        }
    }
    if (unknown) {
        g_string_append_printf(names,
                               "%sUnknown incompatible feature: %" PRIx64,
                               names->len ? ", " : "", unknown);
    }
    error_setg(errp, "Unsupported qcow2 feature(s): %s", names->str);
    return -ENOTSUP;
}

static int check_compression(Qcow2State *s, const Header *h, GError **errp)
{
    bool feature = s->incompatible & QCOW2_INCOMPAT_COMPRESSION;

    if (h->compression > QCOW2_COMPRESSION_ZSTD) {
        error_setg(errp, "qcow2: unknown compression type: %u", h->compression);
        return -ENOTSUP;
    }
    if (feature != (h->compression != QCOW2_COMPRESSION_ZLIB)) {
        error_setg(errp,
                   "qcow2: the feature bit of the compression type must be %s "
                   "with type %u",
                   feature ? "clear" : "set", h->compression);
        return -EINVAL;
    }
    s->compression = h->compression;
    return 0;
}

/* ---- what is where ------------------------------------------------------ */

static int check_disk(Qcow2State *s, const Header *h, GError **errp)
{
    static const char *const methods[] = { "none", "AES", "LUKS" };

    if (h->crypt_method) {
        error_setg(errp, "Unsupported encryption method %" PRIu32 "%s%s%s",
                   h->crypt_method,
                   h->crypt_method < G_N_ELEMENTS(methods) ? " (" : "",
                   h->crypt_method < G_N_ELEMENTS(methods)
                       ? methods[h->crypt_method]
                       : "",
                   h->crypt_method < G_N_ELEMENTS(methods) ? ")" : "");
        return -ENOTSUP;
    }
    if (h->length > BDRV_MAX_LENGTH) {
        error_setg(errp,
                   "Image is too big: %" PRIu64 " bytes, at most %" PRId64,
                   h->length, BDRV_MAX_LENGTH);
        return -EFBIG;
    }
    if (h->refcount_order > 6) {
        error_setg(errp,
                   "Reference count entry width too large: 2^%" PRIu32
                   "; may not exceed 64 bits",
                   h->refcount_order);
        return -EINVAL;
    }
    s->length = h->length;
    s->refcount_order = h->refcount_order;
    return 0;
}

static bool valid_offset(const Qcow2State *s, uint64_t offset, uint64_t bytes)
{
    return offset != 0 && qcow2_in_cluster(s, offset) == 0 &&
           offset <= QCOW2_MAX_FILE_BYTES - bytes;
}

static int check_reftable(Qcow2State *s, const Header *h, GError **errp)
{
    uint64_t bytes = (uint64_t)h->reftable_clusters << s->cluster_bits;

    if (bytes == 0) {
        error_setg(errp, "Image does not contain a reference count table");
        return -EINVAL;
    }
    if (bytes > QCOW2_MAX_REFTABLE_BYTES) {
        error_setg(errp,
                   "Reference count table too large: %" PRIu32 " clusters",
                   h->reftable_clusters);
        return -EFBIG;
    }
    if (!valid_offset(s, h->reftable_offset, bytes)) {
        error_setg(errp, "Invalid reference count table offset %" PRIu64,
                   h->reftable_offset);
        return -EINVAL;
    }
    s->reftable_offset = h->reftable_offset;
    s->reftable_entries = bytes / sizeof(uint64_t);
    return 0;
}

static int check_snapshots(Qcow2State *s, const Header *h, GError **errp)
{
    if (h->n_snapshots > QCOW2_MAX_SNAPSHOTS) {
        error_setg(errp, "Too many snapshots: %" PRIu32 ", at most %d",
                   h->n_snapshots, QCOW2_MAX_SNAPSHOTS);
        return -EFBIG;
    }
    if (h->n_snapshots && !valid_offset(s, h->snapshots_offset, 0)) {
        error_setg(errp, "Invalid snapshot table offset %" PRIu64,
                   h->snapshots_offset);
        return -EINVAL;
    }
    s->n_snapshots = h->n_snapshots;
    s->snapshots_offset = h->snapshots_offset;
    return 0;
}

static int check_l1(Qcow2State *s, const Header *h, GError **errp)
{
    uint64_t bytes = (uint64_t)h->l1_entries * sizeof(uint64_t);

    if (bytes > QCOW2_MAX_L1_BYTES) {
        error_setg(errp, "Active L1 table too large: %" PRIu32 " entries",
                   h->l1_entries);
        return -EFBIG;
    }
    if (h->l1_entries < qcow2_l1_entries_for(s, s->length)) {
        error_setg(errp,
                   "L1 table is too small: %" PRIu32 " entries for %" PRId64
                   " bytes",
                   h->l1_entries, s->length);
        return -EINVAL;
    }
    if (h->l1_entries && !valid_offset(s, h->l1_offset, bytes)) {
        error_setg(errp, "Invalid L1 table offset %" PRIu64, h->l1_offset);
        return -EINVAL;
    }
    s->l1_entries = h->l1_entries;
    s->l1_offset = h->l1_offset;
    return 0;
}

/* ---- all of it ---------------------------------------------------------- */

static void clear_extension(gpointer opaque)
{
    g_free(((Qcow2Extension *)opaque)->data);
}

GArray *qcow2_extensions_new(void)
{
    GArray *extensions = g_array_new(false, false, sizeof(Qcow2Extension));

    g_array_set_clear_func(extensions, clear_extension);
    return extensions;
}

int qcow2_parse_header(Qcow2State *s, const uint8_t *buf, size_t bytes,
                       GError **errp)
{
    Header h = { 0 };
    int ret = qcow2_header_cluster_bits(buf, &s->cluster_bits, errp);

    if (ret < 0) {
        return ret;
    }
    s->cluster_size = INT64_C(1) << s->cluster_bits;
    s->l2_bits = s->cluster_bits - 3;
    s->extensions = qcow2_extensions_new();
    if ((ret = read_fields(s, &h, buf, bytes, errp)) < 0 ||
        (ret = check_disk(s, &h, errp)) < 0 ||
        (ret = read_extensions(s, &h, buf, bytes, errp)) < 0 ||
        (ret = check_features(s, errp)) < 0 ||
        (ret = check_compression(s, &h, errp)) < 0 ||
        (ret = check_reftable(s, &h, errp)) < 0 ||
        (ret = check_snapshots(s, &h, errp)) < 0 ||
        (ret = check_l1(s, &h, errp)) < 0 ||
        (ret = read_backing_name(s, &h, buf, bytes, errp)) < 0) {
        qcow2_free_header(s);
        return ret;
    }
    if ((s->autoclear & QCOW2_AUTOCLEAR_BITMAPS) &&
        !has_extension(s, QCOW2_EXT_BITMAPS)) {
        error_setg(errp, "Autoclear feature 'bitmaps' without the header "
                         "extension that says where they are");
        qcow2_free_header(s);
        return -EINVAL;
    }
    s->corrupt = s->incompatible & QCOW2_INCOMPAT_CORRUPT;
    return 0;
}

void qcow2_free_header(Qcow2State *s)
{
    g_clear_pointer(&s->backing_file, g_free);
    g_clear_pointer(&s->backing_format, g_free);
    g_slist_free_full(g_steal_pointer(&s->old_names), g_free);
    g_clear_pointer(&s->more_fields, g_bytes_unref);
    g_clear_pointer(&s->extensions, g_array_unref);
}
