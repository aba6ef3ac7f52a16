/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: the directory of stored bitmaps, and the header's extension for it */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2-bitmap.h"
#include "block/qcow2-refcount.h"
#include "util/error.h"

#define TYPE_DIRTY_TRACKING 1
#define KNOWN_FLAGS                                                            \
    (QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO | QCOW2_BITMAP_EXTRA_COMPATIBLE)
#define ATOMIC_BYTES 512 /* of a disk's writes */

/* What the extension says */
typedef struct Place {
    uint32_t n;
    uint64_t offset, bytes;
} Place;

void qcow2_bitmap_free(Qcow2Bitmap *b)
{
    if (b) {
        g_free(b->name);
        g_clear_pointer(&b->written, g_bytes_unref);
        g_clear_pointer(&b->extra, g_bytes_unref);
        g_free(b);
    }
}

uint64_t qcow2_bitmap_clusters(const Qcow2State *s, int64_t length,
                               unsigned granularity_bits)
{
    uint64_t granules = (uint64_t)length >> granularity_bits;
    unsigned bits = s->cluster_bits + 3;

    granules += granules << granularity_bits < (uint64_t)length;
    return (granules >> bits) + ((granules & ((1u << bits) - 1)) > 0);
}

uint64_t qcow2_bitmap_entry_bytes(uint64_t name_bytes, uint64_t extra_bytes)
{
    uint64_t bytes = QCOW2_BITMAP_ENTRY_BYTES + name_bytes + extra_bytes;

    return (bytes + 7) & ~UINT64_C(7);
}

/* ---- the extension ------------------------------------------------------- */

static Qcow2Extension *find_extension(const Qcow2State *s, guint from,
                                      guint *index)
{
    guint i;

    for (i = from; i < s->extensions->len; i++) {
        Qcow2Extension *e = &g_array_index(s->extensions, Qcow2Extension, i);

        if (e->magic == QCOW2_EXT_BITMAPS) {
            *index = i;
            return e;
        }
    }
    return NULL;
}

static void drop_extensions(Qcow2State *s)
{
    guint i;

    while (find_extension(s, 0, &i)) {
        g_array_remove_index(s->extensions, i);
    }
}

static void set_extension(Qcow2State *s, const Place *place)
{
    Qcow2Extension *e;
    guint i;

    if (place->n == 0) {
        drop_extensions(s);
        return;
    }
    e = find_extension(s, 0, &i);
    if (!e) {
        i = s->extensions->len;
        g_array_set_size(s->extensions, i + 1);
        e = &g_array_index(s->extensions, Qcow2Extension, i);
        e->magic = QCOW2_EXT_BITMAPS;
        e->length = QCOW2_BITMAPS_EXT_BYTES;
        e->data = g_malloc0(QCOW2_BITMAPS_EXT_BYTES);
    }
    qcow2_put_be32(e->data, place->n);
    qcow2_put_be64(e->data + 8, place->bytes);
    qcow2_put_be64(e->data + 16, place->offset);
}

static int parse_extension(const Qcow2State *s, const Qcow2Extension *e,
                           Place *place, GError **errp)
{
    static const char what[] = "Header extension of bitmaps";

    if (e->length != QCOW2_BITMAPS_EXT_BYTES) {
        error_setg(errp, "%s: its length is %" PRIu32 ", not %d", what,
                   e->length, QCOW2_BITMAPS_EXT_BYTES);
        return -EINVAL;
    }
    place->n = qcow2_get_be32(e->data);
    place->bytes = qcow2_get_be64(e->data + 8);
    place->offset = qcow2_get_be64(e->data + 16);
    if (qcow2_get_be32(e->data + 4)) {
        error_setg(errp, "%s: reserved field is %#" PRIx32 ", not zero", what,
                   qcow2_get_be32(e->data + 4));
        return -EINVAL;
    }
    if (place->n == 0 || place->n > QCOW2_MAX_BITMAPS) {
        error_setg(errp,
                   "%s: number of bitmaps is %" PRIu32 ", not from 1 to %d",
                   what, place->n, QCOW2_MAX_BITMAPS);
        return -EINVAL;
    }
    if (place->bytes == 0 || place->bytes > QCOW2_MAX_BITMAP_DIRECTORY) {
        error_setg(errp,
                   "%s: size of the directory is %" PRIu64
                   ", not from 1 to %" PRId64 " bytes",
                   what, place->bytes, QCOW2_MAX_BITMAP_DIRECTORY);
        return -EINVAL;
    }
    if (place->offset == 0 || qcow2_in_cluster(s, place->offset) ||
        place->offset > QCOW2_MAX_FILE_BYTES - place->bytes) {
        error_setg(errp, "%s: invalid offset of the directory: %" PRIu64, what,
                   place->offset);
        return -EINVAL;
    }
    return 0;
}

/* ---- entries of the directory -------------------------------------------- */

static int check_flags(const Qcow2Bitmap *b, unsigned type, GError **errp)
{
    if (b->flags & ~KNOWN_FLAGS) {
        error_setg(errp, "Bitmap '%s' has unknown flags: %#" PRIx32, b->name,
                   b->flags & ~KNOWN_FLAGS);
        return -ENOTSUP;
    }
    if (type != TYPE_DIRTY_TRACKING) {
        error_setg(errp, "Bitmap '%s' is of unknown type %u", b->name, type);
        return -ENOTSUP;
    }
    if (b->extra && !(b->flags & QCOW2_BITMAP_EXTRA_COMPATIBLE)) {
        error_setg(errp,
                   "Bitmap '%s': extra data of %zu bytes is not supported",
                   b->name, g_bytes_get_size(b->extra));
        return -ENOTSUP;
    }
    return 0;
}

static int check_entry(const Qcow2State *s, const Qcow2Bitmap *b, GError **errp)
{
    uint64_t max = QCOW2_MAX_BITMAP_BYTES >> s->cluster_bits;

    if (b->granularity_bits < QCOW2_MIN_BITMAP_GRANULARITY ||
        b->granularity_bits > QCOW2_MAX_BITMAP_GRANULARITY) {
        error_setg(errp,
                   "Bitmap '%s': granularity is 2^%u, not from 2^%d to 2^%d",
                   b->name, b->granularity_bits, QCOW2_MIN_BITMAP_GRANULARITY,
                   QCOW2_MAX_BITMAP_GRANULARITY);
        return -EINVAL;
    }
    if (b->table_entries == 0 || b->table_entries > max) {
        error_setg(errp,
                   "Bitmap '%s': its table has %" PRIu32
                   " entries, not from 1 to %" PRIu64,
                   b->name, b->table_entries, max);
        return -EINVAL;
    }
    if (b->table_offset == 0 || qcow2_in_cluster(s, b->table_offset) ||
        b->table_offset >
            QCOW2_MAX_FILE_BYTES - b->table_entries * sizeof(uint64_t)) {
        error_setg(errp, "Bitmap '%s': invalid offset of its table: %" PRIu64,
                   b->name, b->table_offset);
        return -EINVAL;
    }
    return 0;
}

/* The @n-th, of which at most @left bytes are at @p; *@used: so many */
static int parse_entry(const Qcow2State *s, const uint8_t *p, uint64_t left,
                       uint32_t n, Qcow2Bitmap **out, uint64_t *used,
                       GError **errp)
{
    g_autofree Qcow2Bitmap *b = NULL;
    uint64_t name_bytes, extra_bytes;
    const uint8_t *name;
    int ret;

    if (left < QCOW2_BITMAP_ENTRY_BYTES) {
        error_setg(errp, "The bitmap directory ends before bitmap %" PRIu32, n);
        return -EINVAL;
    }
    name_bytes = p[18] << 8 | p[19];
    extra_bytes = qcow2_get_be32(p + 20);
    *used = qcow2_bitmap_entry_bytes(name_bytes, extra_bytes);
    if (*used > left) {
        error_setg(errp,
                   "Bitmap %" PRIu32 ": its entry of %" PRIu64
                   " bytes is longer than the rest of the directory",
                   n, *used);
        return -EINVAL;
    }
    if (name_bytes == 0 || name_bytes > QCOW2_MAX_BITMAP_NAME) {
        error_setg(errp,
                   "Bitmap %" PRIu32 ": its name has %" PRIu64
                   " bytes, not from 1 to %d",
                   n, name_bytes, QCOW2_MAX_BITMAP_NAME);
        return -EINVAL;
    }
    b = g_new0(Qcow2Bitmap, 1);
    b->table_offset = qcow2_get_be64(p);
    b->table_entries = qcow2_get_be32(p + 8);
    b->flags = qcow2_get_be32(p + 12);
    b->granularity_bits = p[17];
    name = p + QCOW2_BITMAP_ENTRY_BYTES + extra_bytes;
    b->name = g_utf8_make_valid((const char *)name, name_bytes);
    b->written = g_bytes_new(name, name_bytes);
    if (extra_bytes) {
        b->extra = g_bytes_new(p + QCOW2_BITMAP_ENTRY_BYTES, extra_bytes);
    }
    ret = check_flags(b, p[16], errp);
    if (ret == 0) {
        ret = check_entry(s, b, errp);
    }
    *out = g_steal_pointer(&b);
    return ret;
}

static int parse_directory(Qcow2State *s, const uint8_t *directory,
                           const Place *place, GError **errp)
{
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    uint64_t pos = 0, used;
    uint32_t i;
    int ret;

    for (i = 0; i < place->n; i++, pos += used) {
        Qcow2Bitmap *b = NULL;

        ret = parse_entry(s, directory + pos, place->bytes - pos, i, &b, &used,
                          errp);
        if (b) {
            g_ptr_array_add(s->bitmaps, b);
        }
        if (ret < 0) {
            return ret;
        }
        if (!g_hash_table_add(names, b->name)) {
            error_setg(errp, "There are two bitmaps '%s'", b->name);
            return -EINVAL;
        }
    }
    if (pos != place->bytes) {
        error_setg(errp,
                   "The bitmap directory has %" PRIu64
                   " bytes, but its %" PRIu32 " bitmaps only %" PRIu64,
                   place->bytes, place->n, pos);
        return -EINVAL;
    }
    return 0;
}

static int read_directory(Qcow2State *s, const Place *place, GError **errp)
{
    g_autofree uint8_t *directory = g_try_malloc(place->bytes);
    int ret = directory
                  ? qcow2_read_file(s, place->offset, place->bytes, directory)
                  : -ENOMEM;

    if (ret < 0) {
        error_setg_errno(errp, -ret,
                         "Could not read the bitmap directory of %" PRIu64
                         " bytes at offset %" PRIu64,
                         place->bytes, place->offset);
        return ret;
    }
    s->bitmaps = g_ptr_array_new();
    s->bitmaps_offset = place->offset;
    s->bitmaps_bytes = place->bytes;
    return parse_directory(s, directory, place, errp);
}

int qcow2_bitmaps_read_directory(Qcow2State *s, GError **errp)
{
    guint i;
    const Qcow2Extension *e = find_extension(s, 0, &i);
    Place place;
    int ret;

    if (!e) {
        return 0;
    }
    if (!(s->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        g_warning(
            "The bitmaps in the image of node '%s' do not count: something "
            "wrote to it that knows nothing of them. They may leak "
            "clusters, which a check with repairs gives back",
            s->bs->node_name);
        drop_extensions(s);
        return 0;
    }
    ret = parse_extension(s, e, &place, errp);
    if (ret == 0 && find_extension(s, i + 1, &i)) {
        error_setg(errp, "There are two header extensions of bitmaps");
        ret = -EINVAL;
    }
    return ret < 0 ? ret : read_directory(s, &place, errp);
}

/* ---- a directory is written ----------------------------------------------- */

static void append_entry(GByteArray *out, const Qcow2Bitmap *b, uint32_t flags)
{
    static const uint8_t padding[8];
    uint8_t p[QCOW2_BITMAP_ENTRY_BYTES];
    gsize name_bytes, extra_bytes = 0;
    const void *name = g_bytes_get_data(b->written, &name_bytes);
    const void *extra =
        b->extra ? g_bytes_get_data(b->extra, &extra_bytes) : NULL;

    qcow2_put_be64(p, b->table_offset);
    qcow2_put_be32(p + 8, b->table_entries);
    qcow2_put_be32(p + 12, b->flags | flags);
    p[16] = TYPE_DIRTY_TRACKING;
    p[17] = b->granularity_bits;
    p[18] = name_bytes >> 8;
    p[19] = name_bytes;
    qcow2_put_be32(p + 20, extra_bytes);
    g_byte_array_append(out, p, sizeof(p));
    if (extra) {
        g_byte_array_append(out, extra, extra_bytes);
    }
    g_byte_array_append(out, name, name_bytes);
    g_byte_array_append(out, padding, -out->len % 8);
}

/* With @flags set in all of them */
static GByteArray *compose(const GPtrArray *bitmaps, uint32_t flags)
{
    GByteArray *out = g_byte_array_new();
    guint i;

    for (i = 0; i < bitmaps->len; i++) {
        append_entry(out, bitmaps->pdata[i], flags);
    }
    return out;
}

static bool all_in_use(const GPtrArray *bitmaps)
{
    guint i;

    for (i = 0; i < bitmaps->len; i++) {
        const Qcow2Bitmap *b = bitmaps->pdata[i];

        if (!(b->flags & QCOW2_BITMAP_IN_USE)) {
            return false;
        }
    }
    return true;
}

/* In place: nothing changes but a bit in each entry, which is to be set before
 * anything is written, so it does not matter in what order these get there. */
static int write_marks(Qcow2State *s)
{
    g_autoptr(GByteArray) out = compose(s->bitmaps, QCOW2_BITMAP_IN_USE);
    int ret;

    g_assert(out->len == s->bitmaps_bytes);
    if (!qcow2_check_overlap_but(s, QCOW2_OWN_BITMAPS, s->bitmaps_offset,
                                 out->len, "bitmap directory")) {
        return -EIO;
    }
    s->data_unflushed = true;
    ret = qcow2_write_file(s, s->bitmaps_offset, out->len, out->data);
    return ret < 0 ? ret : qcow2_flush_file(s);
}

int qcow2_bitmaps_mark(Qcow2State *s, GError **errp)
{
    guint i;
    int ret;
    MUTEX_GUARD(&s->lock);

    if (!s->bitmaps || all_in_use(s->bitmaps)) {
        return 0;
    }
    ret = write_marks(s);
    if (ret < 0) {
        error_setg_errno(errp, -ret,
                         "Could not mark the bitmaps in the image of node '%s' "
                         "as being in use",
                         s->bs->node_name);
        return ret;
    }
    mutex_lock(&s->bitmaps_lock);
    for (i = 0; i < s->bitmaps->len; i++) {
        ((Qcow2Bitmap *)s->bitmaps->pdata[i])->flags |= QCOW2_BITMAP_IN_USE;
    }
    mutex_unlock(&s->bitmaps_lock);
    return 0;
}

/* ---- another directory takes its place ------------------------------------ */

static int write_directory(Qcow2State *s, const GPtrArray *bitmaps,
                           Place *place)
{
    g_autoptr(GByteArray) out = compose(bitmaps, 0);
    guint bytes = out->len;
    int64_t offset;
    int ret;

    *place = (Place){ .n = bitmaps->len, .bytes = bytes };
    if (bitmaps->len == 0) {
        return 0;
    }
    offset = qcow2_alloc_clusters(s, bytes);
    if (offset < 0) {
        return offset;
    }
    place->offset = offset;
    g_byte_array_set_size(out, qcow2_round_up(s, bytes));
    memset(out->data + bytes, 0, out->len - bytes);
    s->data_unflushed = true;
    ret = qcow2_check_overlap(s, offset, out->len, "bitmap directory")
              ? qcow2_write_file(s, offset, out->len, out->data)
              : -EIO;
    if (ret < 0) {
        qcow2_free_now(s, offset, bytes);
    }
    return ret;
}

/* Does what the extension says lie in two parts that a disk writes one by one? */
static bool is_split(const Qcow2State *s)
{
    uint64_t pos = s->header_length;
    guint i;

    if (s->backing_format) {
        pos += 8 + ((strlen(s->backing_format) + 7) & ~UINT64_C(7));
    }
    for (i = 0; i < s->extensions->len; i++) {
        const Qcow2Extension *e =
            &g_array_index(s->extensions, Qcow2Extension, i);

        pos += 8;
        if (e->magic == QCOW2_EXT_BITMAPS) {
            break;
        }
        pos += ((uint64_t)e->length + 7) & ~UINT64_C(7);
    }
    return pos / ATOMIC_BYTES !=
           (pos + QCOW2_BITMAPS_EXT_BYTES - 1) / ATOMIC_BYTES;
}

static int set_feature(Qcow2State *s, bool set, GError **errp)
{
    uint64_t autoclear = s->autoclear & ~(uint64_t)QCOW2_AUTOCLEAR_BITMAPS;

    if (set) {
        autoclear |= QCOW2_AUTOCLEAR_BITMAPS;
    }
    s->autoclear = autoclear;
    return qcow2_update_header(s, errp);
}

/* Where it cannot be written at once, or is to go, it does not count meanwhile. */
static int write_place(Qcow2State *s, const Place *place, GError **errp)
{
    int ret = 0;

    if ((s->autoclear & QCOW2_AUTOCLEAR_BITMAPS) &&
        (place->n == 0 || is_split(s))) {
        ret = set_feature(s, false, errp);
    }
    set_extension(s, place);
    if (ret == 0 && !(s->autoclear & QCOW2_AUTOCLEAR_BITMAPS) && is_split(s)) {
        ret = set_feature(s, false, errp);
    }
    return ret < 0 ? ret : set_feature(s, place->n > 0, errp);
}

static int switch_to(Qcow2State *s, const Place *place, GError **errp)
{
    Place old = { s->bitmaps ? s->bitmaps->len : 0, s->bitmaps_offset,
                  s->bitmaps_bytes };
    uint64_t autoclear = s->autoclear;
    int ret = write_place(s, place, errp);

    if (ret < 0) {
        set_extension(s, &old);
        s->autoclear = autoclear;
        return ret;
    }
    s->bitmaps_offset = place->offset;
    s->bitmaps_bytes = place->bytes;
    if (old.bytes) {
        qcow2_free_now(s, old.offset, old.bytes);
    }
    return 0;
}

int qcow2_bitmaps_replace(Qcow2State *s, GPtrArray *bitmaps, bool *unknown,
                          GError **errp)
{
    GPtrArray *old = s->bitmaps;
    Place place;
    int ret = write_directory(s, bitmaps, &place);

    *unknown = false;
    if (ret == 0) {
        ret = qcow2_write_tables(s, false);
        if (ret == 0) {
            ret = qcow2_flush_file(s);
        }
        if (ret < 0 && place.n) {
            qcow2_free_now(s, place.offset, place.bytes);
        }
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write the bitmap directory");
        return ret;
    }
    ret = switch_to(s, &place, errp);
    if (ret < 0) {
        *unknown = true;
        return ret;
    }
    mutex_lock(&s->bitmaps_lock);
    s->bitmaps = bitmaps;
    mutex_unlock(&s->bitmaps_lock);
    if (old) {
        g_ptr_array_unref(old);
    }
    return 0;
}
