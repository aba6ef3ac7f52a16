/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: images are opened, closed, reopened and described. The rest stands in
 * qcow2-*.c, and what all of it keeps to in qcow2.h.
 */
#include "block/qcow2.h"

#include <errno.h>
#include <inttypes.h>

#include "util/error.h"

/* ---- open and close ----------------------------------------------------- */

static int read_header(Qcow2State *s, GError **errp)
{
    int64_t length = bdrv_child_getlength(s->bs->file);
    uint8_t start[QCOW2_MIN_HEADER];
    g_autofree uint8_t *buf = NULL;
    unsigned cluster_bits;
    int64_t bytes;
    int ret;

    if (length >= 0 && length < QCOW2_MIN_HEADER) {
        error_setg(errp, "Image is not in qcow2 format");
        return -EINVAL;
    }
    ret = length < 0 ? length : qcow2_read_file(s, 0, sizeof(start), start);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read qcow2 header");
        return ret;
    }
    ret = qcow2_header_cluster_bits(start, &cluster_bits, errp);
    if (ret < 0) {
        return ret;
    }
    bytes = MIN(INT64_C(1) << cluster_bits, length);
    buf = g_malloc(bytes);
    ret = qcow2_read_file(s, 0, bytes, buf);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read qcow2 header");
        return ret;
    }
    return qcow2_parse_header(s, buf, bytes, errp);
}

static int read_l1(Qcow2State *s, GError **errp)
{
    size_t bytes = (size_t)s->l1_entries * sizeof(uint64_t);
    uint32_t i;
    int ret;

    s->l1 = g_malloc0(MAX(bytes, sizeof(uint64_t)));
    if (bytes == 0) {
        return 0;
    }
    ret = qcow2_read_file(s, s->l1_offset, bytes, s->l1);
    if (ret < 0) {
        error_setg_errno(errp, -ret,
                         "Could not read L1 table of %" PRIu32
                         " entries at offset %" PRIu64,
                         s->l1_entries, s->l1_offset);
        return ret;
    }
    for (i = 0; i < s->l1_entries; i++) {
        s->l1[i] = GUINT64_FROM_BE(s->l1[i]);
    }
    return 0;
}

/* Refcounts that somebody has left behind may be wrong. */
static int repair(Qcow2State *s, GError **errp)
{
    BdrvCheckResult result = { 0 };
    int ret;

    if (!(s->incompatible & QCOW2_INCOMPAT_DIRTY)) {
        return 0;
    }
    ret = qcow2_check(s->bs, &result, BDRV_FIX_LEAKS | BDRV_FIX_ERRORS, errp);
    if (ret < 0) {
        g_prefix_error(errp, "Could not repair dirty image: ");
        return ret;
    }
    if (result.check_errors || result.corruptions) {
        error_setg(errp,
                   "Could not repair dirty image: %" PRId64 " corruptions and "
                   "%" PRId64 " errors are left",
                   result.corruptions, result.check_errors);
        return -EIO;
    }
    if (s->incompatible & QCOW2_INCOMPAT_DIRTY) {
        s->incompatible &= ~(uint64_t)QCOW2_INCOMPAT_DIRTY;
        ret = qcow2_update_header(s, errp);
    }
    return ret;
}

/* It is going to be written to by who knows only of bitmaps. */
static int clear_features(Qcow2State *s, bool extension_dropped, GError **errp)
{
    uint64_t known = QCOW2_AUTOCLEAR_BITMAPS;

    if (!(s->autoclear & ~known) && !extension_dropped) {
        return 0;
    }
    s->autoclear &= known;
    return qcow2_update_header(s, errp);
}

static int check_writable(const Qcow2State *s, GError **errp)
{
    if (qcow2_is_corrupt(s)) {
        error_setg(errp, "qcow2: Image is corrupt; cannot be opened "
                         "read/write");
        return -EACCES;
    }
    return 0;
}

/* Those that take the place of the node's own when nothing can fail any more */
typedef struct Caches {
    Qcow2Cache *l2, *refblocks;
} Caches;

static void free_caches(Caches *caches)
{
    qcow2_cache_free(caches->l2);
    qcow2_cache_free(caches->refblocks);
    *caches = (Caches){ 0 };
}

static int make_caches(Qcow2State *s, JsonObject *options, Caches *caches,
                       GError **errp)
{
    Qcow2CacheSizes sizes;

    *caches = (Caches){ 0 };
    if (!qcow2_parse_cache_options(s, options, &sizes, errp)) {
        return -EINVAL;
    }
    caches->l2 = qcow2_cache_new(s, sizes.l2);
    caches->refblocks = qcow2_cache_new(s, sizes.refblocks);
    if (!caches->l2 || !caches->refblocks) {
        free_caches(caches);
        error_setg(errp,
                   "No memory for caches of %u L2 tables and %u refcount "
                   "blocks of %" PRId64 " bytes",
                   sizes.l2, sizes.refblocks, s->cluster_size);
        return -ENOMEM;
    }
    return 0;
}

static int open_tables(Qcow2State *s, JsonObject *options, GError **errp)
{
    Caches caches;
    int ret;

    if ((ret = read_l1(s, errp)) < 0 ||
        (ret = qcow2_read_snapshots(s, errp)) < 0 ||
        (ret = make_caches(s, options, &caches, errp)) < 0) {
        return ret;
    }
    mutex_lock(&s->lock);
    s->l2_cache = caches.l2;
    s->refblock_cache = caches.refblocks;
    ret = qcow2_refcounts_open(s, errp);
    mutex_unlock(&s->lock);
    return ret;
}

int qcow2_open_image(Qcow2State *s, JsonObject *options, GError **errp)
{
    bool in_use = !bdrv_is_read_only(s->bs) && !s->bs->to_check;
    int ret;

    if ((ret = read_header(s, errp)) < 0 ||
        (in_use && (ret = check_writable(s, errp)) < 0)) {
        return ret;
    }
    return open_tables(s, options, errp);
}

static int open_chain(Qcow2State *s, JsonObject *options, GError **errp)
{
    bool writable = !bdrv_is_read_only(s->bs);
    guint extensions;
    int ret;

    if ((ret = qcow2_open_image(s, options, errp)) < 0 ||
        (ret = bdrv_open_backing(s->bs, options, s->backing_file,
                                 s->backing_format, errp)) < 0 ||
        s->bs->to_check || (writable && (ret = repair(s, errp)) < 0)) {
        return ret;
    }
    extensions = s->extensions->len;
    ret = qcow2_bitmaps_open(s, errp);
    if (ret < 0 || !writable) {
        return ret;
    }
    return clear_features(s, s->extensions->len < extensions, errp);
}

void qcow2_init_state(BlockDriverState *bs)
{
    Qcow2State *s = bs->opaque;

    s->bs = bs;
    mutex_init(&s->lock);
    mutex_init(&s->bitmaps_lock);
    s->ranges = range_lock_new();
}

void qcow2_free_state(BlockDriverState *bs)
{
    Qcow2State *s = bs->opaque;

    mutex_lock(&s->lock);
    qcow2_refcounts_close(s);
    g_clear_pointer(&s->l2_cache, qcow2_cache_free);
    g_clear_pointer(&s->refblock_cache, qcow2_cache_free);
    g_clear_pointer(&s->l1, g_free);
    g_clear_pointer(&s->snapshots, g_array_unref);
    mutex_unlock(&s->lock);
    qcow2_last_read_free(s);
    qcow2_bitmaps_free(s);
    qcow2_free_header(s);
    range_lock_free(s->ranges);
    mutex_destroy(&s->bitmaps_lock);
    mutex_destroy(&s->lock);
}

static int qcow2_open(BlockDriverState *bs, JsonObject *options, GError **errp)
{
    Qcow2State *s = bs->opaque;
    int ret;

    if (!bdrv_open_child(bs, options, "file", errp)) {
        return -EINVAL;
    }
    qcow2_init_state(bs);
    ret = open_chain(s, options, errp);
    if (ret < 0) {
        qcow2_free_state(bs);
        return ret;
    }
    return 0;
}

int qcow2_settle(Qcow2State *s)
{
    int ret;
    MUTEX_GUARD(&s->lock);

    if (qcow2_is_corrupt(s)) {
        return 0;
    }
    ret = qcow2_write_tables(s, true);
    /* What became free is so in tables that are dirty again. */
    return ret < 0 ? ret : qcow2_write_tables(s, false);
}

void qcow2_close(BlockDriverState *bs)
{
    int ret = 0;

    qcow2_bitmaps_close(bs->opaque);
    if (!bdrv_is_read_only(bs)) {
        ret = qcow2_settle(bs->opaque);
    }
    if (ret < 0) {
        g_warning("Could not write the tables of node '%s': %s", bs->node_name,
                  g_strerror(-ret));
    }
    qcow2_free_state(bs);
}

/* ---- other options ------------------------------------------------------ */

typedef struct Reopen {
    Caches caches;
    bool stored; /* what bitmaps there are, in the image */
} Reopen;

static int check_makes_writable(const Qcow2State *s, GError **errp)
{
    uint64_t known = QCOW2_AUTOCLEAR_BITMAPS;
    int ret = check_writable(s, errp);

    if (ret < 0) {
        return ret;
    }
    if ((s->autoclear & ~known) || (s->incompatible & QCOW2_INCOMPAT_DIRTY)) {
        error_setg(errp,
                   "Cannot make node '%s' writable: %s, which is done when an "
                   "image is opened",
                   s->bs->node_name,
                   (s->autoclear & ~known)
                       ? "the image has features that are to be cleared"
                       : "the image is to be repaired");
        return -ENOTSUP;
    }
    return 0;
}

/* What was written while it could be written is in the image. */
static int finish_writing(Qcow2State *s, bool read_only, GError **errp)
{
    int ret = read_only ? qcow2_bitmaps_prepare_read_only(s, errp) : 0;

    if (ret < 0) {
        return ret;
    }
    ret = qcow2_settle(s);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write the tables of node '%s'",
                         s->bs->node_name);
        qcow2_bitmaps_reopened(s);
    }
    return ret;
}

static int qcow2_reopen_prepare(BdrvReopen *r, GError **errp)
{
    Qcow2State *s = r->bs->opaque;
    bool was_read_only = bdrv_is_read_only(r->bs);
    Reopen *new;
    Caches caches;
    int ret;

    if (r->file != r->bs->file->bs) {
        error_setg(errp, "Cannot change the child 'file' of node '%s'",
                   r->bs->node_name);
        return -EINVAL;
    }
    if (was_read_only && !r->common.read_only) {
        ret = check_makes_writable(s, errp);
        if (ret < 0) {
            return ret;
        }
    }
    ret = make_caches(s, r->options, &caches, errp);
    if (ret < 0) {
        return ret;
    }
    ret = was_read_only ? 0 : finish_writing(s, r->common.read_only, errp);
    if (ret < 0) {
        free_caches(&caches);
        return ret;
    }
    new = g_new(Reopen, 1);
    new->caches = caches;
    new->stored = !was_read_only && r->common.read_only;
    r->opaque = new;
    return 0;
}

static void qcow2_reopen_commit(BdrvReopen *r)
{
    Qcow2State *s = r->bs->opaque;
    Reopen *new = r->opaque;
    Caches old;

    mutex_lock(&s->lock);
    old = (Caches){ s->l2_cache, s->refblock_cache };
    s->l2_cache = new->caches.l2;
    s->refblock_cache = new->caches.refblocks;
    mutex_unlock(&s->lock);
    free_caches(&old);
    g_free(new);
}

static void qcow2_reopen_abort(BdrvReopen *r)
{
    Reopen *new = r->opaque;

    free_caches(&new->caches);
    if (new->stored) {
        qcow2_bitmaps_reopened(r->bs->opaque);
    }
    g_free(new);
}

static void qcow2_reopen_done(BlockDriverState *bs)
{
    qcow2_bitmaps_reopened(bs->opaque);
}

/* ---- what the image is -------------------------------------------------- */

static int64_t qcow2_getlength(BlockDriverState *bs)
{
    const Qcow2State *s = bs->opaque;

    return __atomic_load_n(&s->length, __ATOMIC_RELAXED);
}

static JsonObject *format_specific(Qcow2State *s)
{
    static const char *const compression[] = { "zlib", "zstd" };
    JsonObject *info = json_object_new();
    JsonObject *data = json_object_new();
    JsonArray *bitmaps = qcow2_bitmaps_info(s);

    json_object_set_string_member(data, "compat",
                                  s->version == 2 ? "0.10" : "1.1");
    json_object_set_string_member(data, "compression-type",
                                  compression[s->compression]);
    if (s->version >= 3) {
        json_object_set_boolean_member(data, "lazy-refcounts",
                                       s->compatible &
                                           QCOW2_COMPAT_LAZY_REFCOUNTS);
    }
    if (bitmaps) {
        json_object_set_array_member(data, "bitmaps", bitmaps);
    }
    json_object_set_int_member(data, "refcount-bits", 1 << s->refcount_order);
    if (s->version >= 3) {
        json_object_set_boolean_member(data, "corrupt", qcow2_is_corrupt(s));
        json_object_set_boolean_member(data, "extended-l2", false);
    }
    json_object_set_string_member(info, "type", "qcow2");
    json_object_set_object_member(info, "data", data);
    return info;
}

static void set_name(JsonObject *image, const char *member, const char *name)
{
    g_autofree char *valid = name ? g_utf8_make_valid(name, -1) : NULL;

    if (valid) {
        json_object_set_string_member(image, member, valid);
    }
}

static void qcow2_get_info(BlockDriverState *bs, JsonObject *image)
{
    Qcow2State *s = bs->opaque;

    json_object_set_int_member(image, "cluster-size", s->cluster_size);
    json_object_set_boolean_member(
        image, "dirty-flag",
        __atomic_load_n(&s->incompatible, __ATOMIC_RELAXED) &
            QCOW2_INCOMPAT_DIRTY);
    json_object_set_object_member(image, "format-specific", format_specific(s));
    set_name(image, "backing-filename",
             __atomic_load_n(&s->backing_file, __ATOMIC_ACQUIRE));
    set_name(image, "backing-filename-format",
             __atomic_load_n(&s->backing_format, __ATOMIC_ACQUIRE));
}

const BlockDriver bdrv_qcow2 = {
    .format_name = "qcow2",
    .kind = BLOCK_DRIVER_FORMAT,
    .instance_size = sizeof(Qcow2State),
    .supports_backing = true,
    .supported_write_flags = BDRV_REQ_WRITE_COMPRESSED,
    .options = &qcow2_options_type,
    .open = qcow2_open,
    .close = qcow2_close,
    .reopen_options = qcow2_reopen_options,
    .reopen_prepare = qcow2_reopen_prepare,
    .reopen_commit = qcow2_reopen_commit,
    .reopen_abort = qcow2_reopen_abort,
    .reopen_done = qcow2_reopen_done,
    .preadv = qcow2_preadv,
    .pwritev = qcow2_pwritev,
    .pwrite_zeroes = qcow2_pwrite_zeroes,
    .pdiscard = qcow2_pdiscard,
    .flush = qcow2_flush,
    .getlength = qcow2_getlength,
    .truncate = qcow2_truncate,
    .change_backing = qcow2_change_backing,
    .block_status = qcow2_block_status,
    .get_info = qcow2_get_info,
    .check = qcow2_check,
    .can_store_bitmap = qcow2_can_store_bitmap,
    .remove_stored_bitmap = qcow2_remove_stored_bitmap,
    .create_options = &qcow2_create_options_type,
    .create = qcow2_create,
};
