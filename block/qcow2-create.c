/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * blockdev-create for the driver "qcow2".
 *
 * The tables of an empty image are laid out one after another: reference counts,
 * then the L1 table. The header comes last: until then the file is no image. What is
 * to be allocated is allocated in the image then, as a guest's writes would do it.
 *
 * Meanwhile a node without a name of its own stands on the file, which so has the
 * permissions that a node of the driver has: nobody else writes to the file.
 */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2-refcount.h"
#include "block/qcow2.h"
#include "util/error.h"

#define DEFAULT_CLUSTER_BYTES 65536
#define MAX_BACKING_NAME 1023
#define PREALLOC_STEP (INT64_C(256) << 20)
#define ZERO_BYTES (1 << 20)

static const SchemaType version_type = {
    .name = "BlockdevQcow2Version",
    .kind = SCHEMA_ENUM,
    .doc = "Versions of the format.",
    .values = (const char *const[]){ "v2", "v3", NULL },
};

const SchemaType qcow2_compression_type = {
    .name = "Qcow2CompressionType",
    .kind = SCHEMA_ENUM,
    .doc = "How clusters are compressed that are.",
    .values = (const char *const[]){ "zlib", "zstd", NULL },
};

const SchemaType qcow2_create_options_type = {
    .name = "BlockdevCreateOptionsQcow2",
    .kind = SCHEMA_OBJECT,
    .doc = "An image in the format qcow2. What is in the file is lost.",
    .members =
        (const SchemaMember[]){
            { "file", &blockdev_ref_type,
              .doc = "The node that the image is made on." },
            { "size", &schema_size,
              .doc = "The disk's length in bytes, a multiple of 512." },
            { "version", &version_type, .optional = true,
              .doc = "Of the format; default \"v3\"." },
            { "backing-file", &schema_str, .optional = true,
              .doc = "The name of the backing file, as it is to stand in the "
                     "image. It is not looked for." },
            { "backing-fmt", &blockdev_driver_type, .optional = true,
              .doc = "The format of the backing file." },
            { "cluster-size", &schema_size, .optional = true,
              .doc = "Bytes: a power of two from 512 to 2 MiB; default 64 "
                     "KiB." },
            { "preallocation", &prealloc_mode_type, .optional = true,
              .doc = "What to allocate of the disk; default \"off\"." },
            { "lazy-refcounts", &schema_bool, .optional = true,
              .doc = "Whether programs may keep reference counts lazily; this "
                     "one does not. Default: false." },
            { "refcount-bits", &schema_int, .optional = true,
              .doc = "Of each reference count: a power of two from 1 to 64; "
                     "default 16." },
            { "compression-type", &qcow2_compression_type, .optional = true,
              .doc = "Default: \"zlib\"." },
            { NULL },
        },
};

typedef struct Create {
    BlockDriverState *bs; /* on the file */
    BlockBackend *blk;    /* its user */
    BdrvPrealloc mode;
    bool emptied; /* the file was */
    const BdrvStop *stop;
} Create;

/* ---- what is asked for -------------------------------------------------- */

static bool power_of_two(uint64_t n)
{
    return n && (n & (n - 1)) == 0;
}

static bool set_sizes(Qcow2State *s, JsonObject *options, GError **errp)
{
    uint64_t size = schema_get_int(options, "size", 0);
    uint64_t cluster =
        schema_get_int(options, "cluster-size", DEFAULT_CLUSTER_BYTES);
    int64_t refcount_bits = schema_get_int(options, "refcount-bits", 16);

    if (size % 512) {
        error_setg(errp, "Image size must be a multiple of 512 bytes");
        return false;
    }
    if (size > INT64_MAX) {
        error_setg(errp,
                   "Could not resize image: Image size cannot be negative");
        return false;
    }
    if (!power_of_two(cluster) || cluster < 1 << QCOW2_MIN_CLUSTER_BITS ||
        cluster > 1 << QCOW2_MAX_CLUSTER_BITS) {
        error_setg(errp, "Cluster size must be a power of two between 512 and "
                         "2048k");
        return false;
    }
    if (!power_of_two(refcount_bits) || refcount_bits > 64) {
        error_setg(errp, "Refcount width must be a power of two and may not "
                         "exceed 64 bits");
        return false;
    }
    s->cluster_size = cluster;
    s->cluster_bits = __builtin_ctzll(cluster);
    s->l2_bits = s->cluster_bits - 3;
    s->refcount_order = __builtin_ctzll(refcount_bits);
    s->length = size;
    if (size > BDRV_MAX_LENGTH ||
        qcow2_l1_entries_for(s, size) > QCOW2_MAX_L1_BYTES / sizeof(uint64_t)) {
        error_setg(errp, "Could not resize image: Failed to grow the L1 table: "
                         "File too large");
        return false;
    }
    s->l1_entries = qcow2_l1_entries_for(s, size);
    return true;
}

static bool set_version(Qcow2State *s, JsonObject *options, GError **errp)
{
    const char *older = NULL;

    s->version = 2 + schema_get_enum(options, "version", &version_type, 1);
    s->compression =
        schema_get_enum(options, "compression-type", &qcow2_compression_type,
                        QCOW2_COMPRESSION_ZLIB);
    if (schema_get_bool(options, "lazy-refcounts", false)) {
        s->compatible |= QCOW2_COMPAT_LAZY_REFCOUNTS;
        older = "Lazy refcounts only supported with";
    }
    if (s->refcount_order != 4) {
        older = "Different refcount widths than 16 bits require";
    }
    if (s->compression != QCOW2_COMPRESSION_ZLIB) {
        s->incompatible |= QCOW2_INCOMPAT_COMPRESSION;
        older = "Non-zlib compression type is only supported with";
    }
    if (s->version == 2 && older) {
        error_setg(errp,
                   "%s compatibility level 1.1 %s above (use version=v3 or "
                   "greater)",
                   older, g_str_has_suffix(older, "require") ? "or" : "and");
        return false;
    }
    s->header_length = s->version == 2 ? QCOW2_MIN_HEADER : 112;
    return true;
}

static bool set_backing(Qcow2State *s, JsonObject *options, BdrvPrealloc mode,
                        GError **errp)
{
    const char *file = schema_get_str(options, "backing-file", "");
    const char *format = schema_get_str(options, "backing-fmt", NULL);

    if (*file && mode != BDRV_PREALLOC_OFF) {
        error_setg(errp, "Backing file and preallocation can only be used at "
                         "the same time if extended_l2 is on");
        return false;
    }
    if (format && !*file) {
        error_setg(errp, "Backing format cannot be used without backing file");
        return false;
    }
    if (strlen(file) > MAX_BACKING_NAME) {
        error_setg(errp, "Backing file name too long: %zu bytes, at most %d",
                   strlen(file), MAX_BACKING_NAME);
        return false;
    }
    s->backing_file = *file ? g_strdup(file) : NULL;
    s->backing_format = g_strdup(format);
    return true;
}

/* The names of features, for programs that do not know them */
static void add_feature_names(Qcow2State *s)
{
    static const struct {
        uint8_t type, bit;
        char name[46];
    } names[] = {
        { 0, 0, "dirty bit" },
        { 0, 1, "corrupt bit" },
        { 0, 2, "external data file" },
        { 0, 3, "compression type" },
        { 0, 4, "extended L2 entries" },
        { 1, 0, "lazy refcounts" },
        { 2, 0, "bitmaps" },
        { 2, 1, "raw external data" },
    };
    Qcow2Extension ext = { QCOW2_EXT_FEATURES, sizeof(names), NULL };
    size_t backing = s->backing_file ? strlen(s->backing_file) : 0;

    G_STATIC_ASSERT(sizeof(names[0]) == 48);
    s->extensions = qcow2_extensions_new();
    /* They are left out where they would leave no room. */
    if (s->version >= 3 && s->header_length + 64 + sizeof(names) + backing <=
                               (size_t)s->cluster_size) {
        ext.data = g_memdup2(names, sizeof(names));
        g_array_append_val(s->extensions, ext);
    }
}

static bool set_image(Qcow2State *s, JsonObject *options, BdrvPrealloc mode,
                      GError **errp)
{
    if (!set_sizes(s, options, errp) || !set_version(s, options, errp) ||
        !set_backing(s, options, mode, errp)) {
        return false;
    }
    add_feature_names(s);
    return true;
}

/* ---- an empty image ----------------------------------------------------- */

static uint64_t div_up(uint64_t n, uint64_t by)
{
    return n / by + (n % by != 0);
}

/* Refcounts cover the clusters that they take themselves, too. */
static void lay_out(Qcow2State *s, uint64_t *clusters, uint64_t *refblocks)
{
    uint64_t per_block = (uint64_t)s->cluster_size * 8 >> s->refcount_order;
    uint64_t per_table = s->cluster_size / sizeof(uint64_t);
    uint64_t l1 = div_up(s->l1_entries, per_table);
    uint64_t table = 1, before;

    *refblocks = 1;
    do {
        before = table + *refblocks;
        *clusters = 1 + table + *refblocks + l1;
        *refblocks = div_up(*clusters, per_block);
        table = div_up(*refblocks, per_table);
    } while (table + *refblocks != before);
    s->reftable_offset = s->cluster_size;
    s->reftable_entries = table * per_table;
    s->l1_offset = l1 ? (1 + table + *refblocks) << s->cluster_bits : 0;
}

static int write_tables(Qcow2State *s)
{
    uint64_t clusters, refblocks, first, table_bytes, i;
    g_autofree uint64_t *reftable = NULL;
    g_autofree uint8_t *refs = NULL;
    int ret;

    lay_out(s, &clusters, &refblocks);
    table_bytes = s->reftable_entries * sizeof(uint64_t);
    first = s->reftable_offset + table_bytes;
    reftable = g_malloc0(table_bytes);
    for (i = 0; i < refblocks; i++) {
        reftable[i] = GUINT64_TO_BE(first + (i << s->cluster_bits));
    }
    refs = g_malloc0(refblocks << s->cluster_bits);
    for (i = 0; i < clusters; i++) {
        qcow2_refcount_write(s->refcount_order, refs, i, 1);
    }
    ret = qcow2_write_file(s, s->reftable_offset, table_bytes, reftable);
    if (ret == 0) {
        ret = qcow2_write_file(s, first, refblocks << s->cluster_bits, refs);
    }
    if (ret == 0 && s->l1_entries) {
        ret = bdrv_pwrite_zeroes(s->bs->file->bs, s->l1_offset,
                                 s->l1_entries * sizeof(uint64_t), 0);
    }
    return ret;
}

static int write_image(Qcow2State *s, GError **errp)
{
    BlockDriverState *file = s->bs->file->bs;
    int ret = bdrv_pwrite_zeroes(file, 0, s->cluster_size, 0);

    if (ret == 0) {
        ret = bdrv_flush(file);
    }
    if (ret == 0) {
        ret = write_tables(s);
    }
    if (ret == 0) {
        ret = bdrv_flush(file);
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write the image's tables");
        return ret;
    }
    return qcow2_update_header(s, errp);
}

/* ---- preallocation ------------------------------------------------------ */

/* Zeroes at @host of the file, as @mode wants them. A file that was emptied has
 * them already, but it may end before. */
static int fill(const Create *c, uint64_t host, int64_t bytes)
{
    g_autofree uint8_t *zeroes = NULL;
    Qcow2State *s = c->bs->opaque;
    int64_t done;
    int ret = 0;

    if (c->mode == BDRV_PREALLOC_METADATA && c->emptied) {
        if (bdrv_child_getlength(c->bs->file) >= (int64_t)host + bytes) {
            return 0;
        }
        host += bytes - 512;
        bytes = 512;
    }
    if (c->mode != BDRV_PREALLOC_FULL) {
        return bdrv_pwrite_zeroes(c->bs->file->bs, host, bytes, 0);
    }
    zeroes = g_malloc0(ZERO_BYTES);
    for (done = 0; ret == 0 && done < bytes; done += ZERO_BYTES) {
        ret = qcow2_write_file(s, host + done, MIN(bytes - done, ZERO_BYTES),
                               zeroes);
    }
    return ret;
}

static int preallocate_step(const Create *c, int64_t offset)
{
    Qcow2State *s = c->bs->opaque;
    int64_t end = MIN(offset + PREALLOC_STEP, s->length);
    int ret = qcow2_preallocate(s, offset, end - offset);

    while (ret == 0 && offset < end) {
        Qcow2ClusterType type;
        uint64_t host;
        int64_t n;
        bool copied;

        ret = qcow2_map(s, offset, end - offset, &type, &host, &n, &copied);
        if (ret == 0) {
            g_assert(type == QCOW2_CLUSTER_NORMAL);
            ret = fill(c, host, qcow2_round_up(s, n));
            offset += n;
        }
    }
    return ret;
}

/* The image is there. It is opened as others do, but for its backing file. */
static int preallocate(const Create *c, GError **errp)
{
    g_autoptr(JsonObject) options = json_object_new();
    Qcow2State *s = c->bs->opaque;
    int64_t offset;
    int ret;

    qcow2_free_state(c->bs);
    memset(s, 0, sizeof(*s));
    qcow2_init_state(c->bs);
    ret = qcow2_open_image(s, options, errp);
    if (ret < 0) {
        return ret;
    }
    s->creating = true;
    for (offset = 0; ret == 0 && offset < s->length; offset += PREALLOC_STEP) {
        ret = bdrv_should_stop(c->stop) ? -ECANCELED
                                        : preallocate_step(c, offset);
    }
    if (ret == 0) {
        ret = qcow2_settle(s);
    }
    if (ret == 0) {
        ret = bdrv_flush(c->bs->file->bs);
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not preallocate %" PRId64 " bytes",
                         s->length);
    }
    return ret;
}

/* ---- the job ------------------------------------------------------------ */

static const BlockDriver qcow2_new_image = {
    .format_name = "qcow2",
    .kind = BLOCK_DRIVER_FORMAT,
    .instance_size = sizeof(Qcow2State),
};

/* A node on the file, and its user. Graph mutex held */
static bool open_node(Create *c, JsonObject *options, GError **errp)
{
    c->bs = bdrv_new_internal(&qcow2_new_image, NULL, errp);
    if (!c->bs) {
        return false;
    }
    c->blk =
        blk_new("blockdev-create", false,
                BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE,
                BLK_PERM_ALL);
    if (!bdrv_open_child(c->bs, options, "file", errp) ||
        !blk_attach(c->blk, c->bs, errp)) {
        blk_free(c->blk);
        bdrv_unref(c->bs);
        return false;
    }
    return true;
}

/* What cannot become shorter is overwritten. */
static int empty_file(Create *c, GError **errp)
{
    g_autoptr(GError) err = NULL;
    int ret = bdrv_truncate_drained(c->bs->file->bs, 0, &err);

    c->emptied = ret == 0;

    if (ret < 0 && ret != -ENOTSUP) {
        g_propagate_error(errp, g_steal_pointer(&err));
        return ret;
    }
    return 0;
}

static int make_image(const Create *c, GError **errp)
{
    int ret = blk_enter(c->blk);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not use the file");
        return ret;
    }
    ret = write_image(c->bs->opaque, errp);
    if (ret == 0 && c->mode != BDRV_PREALLOC_OFF) {
        ret = preallocate(c, errp);
    }
    blk_leave(c->blk);
    return ret;
}

int qcow2_create(JsonObject *options, const BdrvStop *stop, GError **errp)
{
    Create c = { .stop = stop };
    int ret = -EINVAL;

    c.mode = schema_get_enum(options, "preallocation", &prealloc_mode_type,
                             BDRV_PREALLOC_OFF);
    bdrv_graph_lock();
    if (!open_node(&c, options, errp)) {
        bdrv_graph_unlock();
        return -EINVAL;
    }
    qcow2_init_state(c.bs);
    if (set_image(c.bs->opaque, options, c.mode, errp)) {
        ret = empty_file(&c, errp);
    }
    bdrv_graph_unlock();

    if (ret == 0) {
        ret = make_image(&c, errp);
    }

    bdrv_graph_lock();
    qcow2_free_state(c.bs);
    blk_free(c.blk);
    bdrv_unref(c.bs);
    bdrv_graph_unlock();
    return ret;
}
