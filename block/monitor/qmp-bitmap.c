/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QMP: dirty bitmaps. Each command is also an action of transactions.
 *
 * What an action does shows at once, so that those behind it see it, and is undone
 * on abort; but a bitmap that is removed stays, and is busy, until nothing can
 * fail any more.
 */
#include "block/dirty-bitmap.h"
#include "qmp-nodes.h"
#include "qmp-tables.h"
#include "qmp-transaction.h"
#include "util/limits.h"

/* The state of all actions here */
typedef struct BitmapAction {
    BlockDriverState *bs; /* a reference */
    BdrvDirtyBitmap *bitmap;
    SparseBitmap *backup;
    bool enabled; /* as it was */
} BitmapAction;

/* ---- what several actions do -------------------------------------------- */

static void bitmap_clean(TransactionAction *a)
{
    BitmapAction *s = transaction_opaque(a);

    if (s->bs) {
        bdrv_unref(s->bs);
    }
}

/* Nothing happens to @s->bs while others are prepared. By itself an action needs
 * no moment without writes: it need not wait for any. */
static bool drain(TransactionAction *a, bool anyway, GError **errp)
{
    BitmapAction *s = transaction_opaque(a);

    return (transaction_alone(a) && !anyway) ||
           transaction_drain(a, s->bs, errp);
}

/* The bitmap that @data is about; @flags: as for bdrv_dirty_bitmap_check() */
static bool find(BitmapAction *s, JsonObject *data, unsigned flags,
                 GError **errp)
{
    s->bitmap =
        bdrv_find_bitmap_of(schema_get_str(data, "node", NULL),
                            schema_get_str(data, "name", NULL), &s->bs, errp);
    return s->bitmap && bdrv_dirty_bitmap_check(s->bitmap, flags, errp);
}

static void drop_backup(TransactionAction *a)
{
    BitmapAction *s = transaction_opaque(a);

    if (s->backup) {
        bdrv_drop_dirty_backup(s->bitmap, s->backup);
    }
}

static void restore_backup(TransactionAction *a)
{
    BitmapAction *s = transaction_opaque(a);

    if (s->backup) {
        bdrv_restore_dirty_bitmap(s->bitmap, s->backup);
    }
}

/* May it have one more? Bitmaps with names come and go with the graph mutex held. */
static bool has_room(BlockDriverState *bs, GError **errp)
{
    g_autoptr(GPtrArray) named = bdrv_named_dirty_bitmaps(bs);

    return limit_allows(named->len, limits.bitmaps, "dirty bitmaps of the node",
                        errp);
}

/* ---- block-dirty-bitmap-add --------------------------------------------- */

static const SchemaType add_type = {
    .name = "BlockDirtyBitmapAdd",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "node", &schema_str, .doc = "The node's name." },
            { "name", &schema_str,
              .doc = "The bitmap's name, which no other of the node has: at "
                     "most 1023 bytes." },
            { "granularity", &schema_int, .optional = true,
              .doc = "Bytes a bit stands for: a power of two from 512 to "
                     "2 GiB. Default: 64 KiB; less if the image has smaller "
                     "clusters, but 4 KiB at least." },
            { "persistent", &schema_bool, .optional = true,
              .doc = "Store it in the image when the node is closed, and have "
                     "it again when the image is opened. Default: false." },
            { "disabled", &schema_bool, .optional = true,
              .doc = "Mark no writes in it, until block-dirty-bitmap-enable. "
                     "Default: false." },
            { NULL },
        },
};

/* 0: the default; false and @errp if it cannot be. */
static bool get_granularity(JsonObject *data, uint32_t *granularity,
                            GError **errp)
{
    int64_t value = schema_get_int(data, "granularity", 0);

    if (value < 0 || value > UINT32_MAX) {
        error_setg(errp, "Parameter 'granularity' expects uint32_t");
        return false;
    }
    *granularity = value;
    return true;
}

static bool can_store(TransactionAction *a, const char *name,
                      uint32_t granularity, GError **errp)
{
    BitmapAction *s = transaction_opaque(a);

    if (!s->bs->drv->can_store_bitmap) {
        error_setg_errno(errp, ENOTSUP, "Can't store persistent bitmaps to %s",
                         bdrv_node_name(s->bs));
        return false;
    }
    return drain(a, true, errp) &&
           s->bs->drv->can_store_bitmap(s->bs, name, granularity, errp);
}

static bool add_prepare(TransactionAction *a, JsonObject *data, GError **errp)
{
    BitmapAction *s = transaction_opaque(a);
    const char *node = schema_get_str(data, "node", NULL);
    const char *name = schema_get_str(data, "name", NULL);
    bool persistent = schema_get_bool(data, "persistent", false);
    bool disabled = schema_get_bool(data, "disabled", false);
    uint32_t granularity;

    if (!get_granularity(data, &granularity, errp)) {
        return false;
    }
    if (*name == '\0') {
        error_setg(errp, "Bitmap name cannot be empty");
        return false;
    }
    s->bs = bdrv_find_node(node, NULL);
    if (!s->bs) {
        error_setg(errp, "Cannot find device='%s' nor node-name='%s'", node,
                   node);
        return false;
    }
    if (!schema_has(data, "granularity")) {
        granularity = bdrv_default_bitmap_granularity(s->bs);
    }
    if (!bdrv_check_bitmap_granularity(granularity, errp) ||
        !has_room(s->bs, errp) ||
        (persistent && !can_store(a, name, granularity, errp)) ||
        !drain(a, false, errp)) {
        return false;
    }
    s->bitmap = bdrv_create_dirty_bitmap(s->bs, granularity, name, errp);
    if (!s->bitmap) {
        return false;
    }
    bdrv_dirty_bitmap_set_persistent(s->bitmap, persistent);
    if (disabled) {
        bdrv_dirty_bitmap_set_enabled(s->bitmap, false);
        bdrv_clear_dirty_bitmap(s->bitmap, NULL);
    }
    return true;
}

static void add_abort(TransactionAction *a)
{
    BitmapAction *s = transaction_opaque(a);

    bdrv_release_dirty_bitmap(s->bs, s->bitmap);
}

/* ---- block-dirty-bitmap-remove ------------------------------------------ */

/*
 * The image is told at once, as that may fail. In memory the bitmap is still
 * persistent: after an abort it will be stored again.
 */
static bool remove_stored(TransactionAction *a, GError **errp)
{
    BitmapAction *s = transaction_opaque(a);

    return drain(a, true, errp) &&
           s->bs->drv->remove_stored_bitmap(
               s->bs, bdrv_dirty_bitmap_name(s->bitmap), errp) == 0;
}

static bool remove_prepare(TransactionAction *a, JsonObject *data,
                           GError **errp)
{
    BitmapAction *s = transaction_opaque(a);

    if (!find(s, data, BDRV_BITMAP_BUSY | BDRV_BITMAP_READ_ONLY, errp) ||
        !drain(a, false, errp)) {
        return false;
    }
    if (bdrv_dirty_bitmap_persistent(s->bitmap) && !remove_stored(a, errp)) {
        return false;
    }
    bdrv_dirty_bitmap_set_busy(s->bitmap, true);
    return true;
}

static void remove_commit(TransactionAction *a)
{
    BitmapAction *s = transaction_opaque(a);

    bdrv_release_dirty_bitmap(s->bs, s->bitmap);
}

static void remove_abort(TransactionAction *a)
{
    BitmapAction *s = transaction_opaque(a);

    bdrv_dirty_bitmap_set_busy(s->bitmap, false);
}

/* ---- block-dirty-bitmap-clear ------------------------------------------- */

static bool clear_prepare(TransactionAction *a, JsonObject *data, GError **errp)
{
    BitmapAction *s = transaction_opaque(a);

    if (!find(s, data, BDRV_BITMAP_DEFAULT, errp) || !drain(a, false, errp)) {
        return false;
    }
    bdrv_clear_dirty_bitmap(s->bitmap, &s->backup);
    return true;
}

/* ---- block-dirty-bitmap-enable, block-dirty-bitmap-disable -------------- */

static bool set_enabled(TransactionAction *a, JsonObject *data, bool enabled,
                        GError **errp)
{
    BitmapAction *s = transaction_opaque(a);

    if (!find(s, data, BDRV_BITMAP_ALLOW_RO, errp) || !drain(a, false, errp)) {
        return false;
    }
    s->enabled = bdrv_dirty_bitmap_enabled(s->bitmap);
    bdrv_dirty_bitmap_set_enabled(s->bitmap, enabled);
    return true;
}

static bool enable_prepare(TransactionAction *a, JsonObject *data,
                           GError **errp)
{
    return set_enabled(a, data, true, errp);
}

static bool disable_prepare(TransactionAction *a, JsonObject *data,
                            GError **errp)
{
    return set_enabled(a, data, false, errp);
}

static void enabled_abort(TransactionAction *a)
{
    BitmapAction *s = transaction_opaque(a);

    bdrv_dirty_bitmap_set_enabled(s->bitmap, s->enabled);
}

/* ---- block-dirty-bitmap-merge ------------------------------------------- */

static const SchemaType merge_type = {
    .name = "BlockDirtyBitmapMerge",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "node", &schema_str, .doc = "The node's name." },
            { "target", &schema_str,
              .doc = "The name of its bitmap that gets more." },
            { "bitmaps", &bitmap_ref_list_type,
              .doc = "Where to take it from: bitmaps of the same node by name, "
                     "or of any node of the same size by node and name. Their "
                     "granularities may differ." },
            { NULL },
        },
};

/* One of @refs, to be merged into s->bitmap */
static BdrvDirtyBitmap *find_source(BitmapAction *s, JsonNode *ref,
                                    GError **errp)
{
    AUTO_NODE bs = NULL;
    BdrvDirtyBitmap *src = bdrv_find_bitmap_ref(s->bs, ref, &bs, errp);

    if (!src ||
        !bdrv_dirty_bitmap_check(s->bitmap, BDRV_BITMAP_DEFAULT, errp) ||
        !bdrv_dirty_bitmap_check(src, BDRV_BITMAP_ALLOW_RO, errp) ||
        !bdrv_can_merge_dirty_bitmap(s->bitmap, src, errp)) {
        return NULL;
    }
    return src;
}

/* What can be checked is before anything has changed. */
static bool merge_prepare(TransactionAction *a, JsonObject *data, GError **errp)
{
    BitmapAction *s = transaction_opaque(a);
    JsonArray *refs = json_object_get_array_member(data, "bitmaps");
    guint n = json_array_get_length(refs), i;
    g_autofree BdrvDirtyBitmap **sources = g_new(BdrvDirtyBitmap *, n);

    s->bitmap =
        bdrv_find_bitmap_of(schema_get_str(data, "node", NULL),
                            schema_get_str(data, "target", NULL), &s->bs, errp);
    if (!s->bitmap) {
        return false;
    }
    for (i = 0; i < n; i++) {
        sources[i] = find_source(s, json_array_get_element(refs, i), errp);
        if (!sources[i]) {
            return false;
        }
    }
    if (!drain(a, false, errp)) {
        return false;
    }
    for (i = 0; i < n; i++) {
        /* A file that a format writes to may have become longer. */
        if (!bdrv_merge_dirty_bitmap(s->bitmap, sources[i],
                                     i == 0 ? &s->backup : NULL, errp)) {
            restore_backup(a);
            return false;
        }
    }
    return true;
}

/* ---- the actions -------------------------------------------------------- */

enum {
    ACTION_ADD,
    ACTION_REMOVE,
    ACTION_CLEAR,
    ACTION_ENABLE,
    ACTION_DISABLE,
    ACTION_MERGE
};

const TransactionActionDriver bitmap_actions[] = {
    [ACTION_ADD] = {
        .type = "block-dirty-bitmap-add",
        .args = &add_type,
        .instance_size = sizeof(BitmapAction),
        .prepare = add_prepare,
        .abort = add_abort,
        .clean = bitmap_clean,
    },
    [ACTION_REMOVE] = {
        .type = "block-dirty-bitmap-remove",
        .args = &bitmap_of_node_type,
        .instance_size = sizeof(BitmapAction),
        .prepare = remove_prepare,
        .commit = remove_commit,
        .abort = remove_abort,
        .clean = bitmap_clean,
    },
    [ACTION_CLEAR] = {
        .type = "block-dirty-bitmap-clear",
        .args = &bitmap_of_node_type,
        .instance_size = sizeof(BitmapAction),
        .prepare = clear_prepare,
        .commit = drop_backup,
        .abort = restore_backup,
        .clean = bitmap_clean,
    },
    [ACTION_ENABLE] = {
        .type = "block-dirty-bitmap-enable",
        .args = &bitmap_of_node_type,
        .instance_size = sizeof(BitmapAction),
        .prepare = enable_prepare,
        .abort = enabled_abort,
        .clean = bitmap_clean,
    },
    [ACTION_DISABLE] = {
        .type = "block-dirty-bitmap-disable",
        .args = &bitmap_of_node_type,
        .instance_size = sizeof(BitmapAction),
        .prepare = disable_prepare,
        .abort = enabled_abort,
        .clean = bitmap_clean,
    },
    [ACTION_MERGE] = {
        .type = "block-dirty-bitmap-merge",
        .args = &merge_type,
        .instance_size = sizeof(BitmapAction),
        .prepare = merge_prepare,
        .commit = drop_backup,
        .abort = restore_backup,
        .clean = bitmap_clean,
    },
    { NULL },
};

/* ---- the commands ------------------------------------------------------- */

static JsonNode *qmp_add(JsonObject *args, GError **errp)
{
    transaction_run_one(&bitmap_actions[ACTION_ADD], args, errp);
    return NULL;
}

static JsonNode *qmp_remove(JsonObject *args, GError **errp)
{
    transaction_run_one(&bitmap_actions[ACTION_REMOVE], args, errp);
    return NULL;
}

static JsonNode *qmp_clear(JsonObject *args, GError **errp)
{
    transaction_run_one(&bitmap_actions[ACTION_CLEAR], args, errp);
    return NULL;
}

static JsonNode *qmp_enable(JsonObject *args, GError **errp)
{
    transaction_run_one(&bitmap_actions[ACTION_ENABLE], args, errp);
    return NULL;
}

static JsonNode *qmp_disable(JsonObject *args, GError **errp)
{
    transaction_run_one(&bitmap_actions[ACTION_DISABLE], args, errp);
    return NULL;
}

static JsonNode *qmp_merge(JsonObject *args, GError **errp)
{
    transaction_run_one(&bitmap_actions[ACTION_MERGE], args, errp);
    return NULL;
}

/* ---- x-debug-block-dirty-bitmap-sha256 ---------------------------------- */

static const SchemaType sha256_type = {
    .name = "BlockDirtyBitmapSha256",
    .kind = SCHEMA_OBJECT,
    .doc = "What the bits of a dirty bitmap come to.",
    .members =
        (const SchemaMember[]){
            { "sha256", &schema_str, .doc = "The hash in hexadecimal." },
            { NULL },
        },
};

/* As if they were an array of words of 64 bits, which has one at least */
static char *hash_bits(BdrvDirtyBitmap *bitmap)
{
    uint64_t n = bdrv_dirty_bitmap_n_bits(bitmap), first = 0;
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    uint8_t buf[4096];

    do {
        uint64_t part = MIN(n - first, 8 * sizeof(buf));
        int kind;

        memset(buf, 0, sizeof(buf));
        kind = bdrv_dirty_bitmap_get_bits(bitmap, first, part, buf);
        if (kind == 1) {
            memset(buf, 0xff, part / 8);
            buf[part / 8 % sizeof(buf)] |= (1 << part % 8) - 1;
        }
        g_checksum_update(sum, buf, MAX((part + 63) / 64 * 8, 8));
        first += part;
    } while (first < n);
    return g_strdup(g_checksum_get_string(sum));
}

static JsonNode *qmp_sha256(JsonObject *args, GError **errp)
{
    AUTO_NODE bs = NULL;
    BdrvDirtyBitmap *bitmap =
        bdrv_find_bitmap_of(schema_get_str(args, "node", NULL),
                            schema_get_str(args, "name", NULL), &bs, errp);
    g_autofree char *hash = bitmap ? hash_bits(bitmap) : NULL;
    JsonObject *object;

    if (!hash) {
        return NULL;
    }
    object = json_object_new();
    json_object_set_string_member(object, "sha256", hash);
    return qmp_node_from_object(object);
}

#define EXAMPLE "{\"node\": \"disk0\", \"name\": \"bitmap0\"}"

const QmpCommand qmp_bitmap_commands[] = {
    {
        .name = "block-dirty-bitmap-add",
        .thread = QMP_MANAGEMENT,
        .args = &add_type,
        .doc = "Make a dirty bitmap of a node: from now on it marks what is "
               "written there. It goes with the node.",
        .example = EXAMPLE,
        .errors = "There is no such node, or it has a bitmap of that name; the "
                  "granularity is none; the image cannot store bitmaps, or not "
                  "this one.",
        .handler = qmp_add,
    },
    {
        .name = "block-dirty-bitmap-remove",
        .thread = QMP_MANAGEMENT,
        .args = &bitmap_of_node_type,
        .doc = "Remove a dirty bitmap, from its image, too.",
        .example = EXAMPLE,
        .errors = "There is no such node or bitmap; it is busy; its image "
                  "cannot be written to.",
        .handler = qmp_remove,
    },
    {
        .name = "block-dirty-bitmap-clear",
        .thread = QMP_MANAGEMENT,
        .args = &bitmap_of_node_type,
        .doc = "Forget what a dirty bitmap has marked until now.",
        .example = EXAMPLE,
        .errors = "There is no such node or bitmap; it is busy or "
                  "inconsistent; its image cannot be written to.",
        .handler = qmp_clear,
    },
    {
        .name = "block-dirty-bitmap-enable",
        .thread = QMP_MANAGEMENT,
        .args = &bitmap_of_node_type,
        .doc = "Have a dirty bitmap mark writes from now on.",
        .example = EXAMPLE,
        .errors = "There is no such node or bitmap; it is busy or "
                  "inconsistent.",
        .handler = qmp_enable,
    },
    {
        .name = "block-dirty-bitmap-disable",
        .thread = QMP_MANAGEMENT,
        .args = &bitmap_of_node_type,
        .doc = "Have a dirty bitmap mark no more writes. It keeps what it has.",
        .example = EXAMPLE,
        .errors = "There is no such node or bitmap; it is busy or "
                  "inconsistent.",
        .handler = qmp_disable,
    },
    {
        .name = "block-dirty-bitmap-merge",
        .thread = QMP_MANAGEMENT,
        .args = &merge_type,
        .doc = "Mark in a dirty bitmap all that is marked in others, which "
               "keep it: all of it, or if something is wrong with one of "
               "them, nothing.",
        .example = "{\"node\": \"disk0\", \"target\": \"bitmap0\","
                   " \"bitmaps\": [\"bitmap1\", {\"node\": \"disk1\","
                   " \"name\": \"bitmap2\"}]}",
        .errors = "There is no such node or bitmap; one of them is busy or "
                  "inconsistent; the target's image cannot be written to; the "
                  "nodes are of different sizes.",
        .handler = qmp_merge,
    },
    {
        .name = "x-debug-block-dirty-bitmap-sha256",
        .thread = QMP_MANAGEMENT,
        .unstable = true,
        .args = &bitmap_of_node_type,
        .ret = &sha256_type,
        .doc = "Are two dirty bitmaps of one granularity equal? Then these "
               "are.",
        .example = EXAMPLE,
        .errors = "There is no such node or bitmap.",
        .handler = qmp_sha256,
    },
    { NULL },
};
