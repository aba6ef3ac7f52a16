/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The dirty bitmaps that an export shows to its clients */
#include "block/export/nbd-int.h"

#include "util/error.h"

static bool find(NbdExport *exp, BlockDriverState *bs, JsonNode *ref,
                 NbdBitmap *b, GError **errp)
{
    const char *name;

    if (JSON_NODE_HOLDS_OBJECT(ref)) {
        b->bitmap = bdrv_find_bitmap_ref(bs, ref, &b->bs, errp);
        return b->bitmap != NULL;
    }
    name = json_node_get_string(ref);
    b->bitmap = bdrv_find_bitmap_below(bs, name, &b->bs, errp);
    if (!b->bitmap) {
        return false;
    }
    /* What the client is shown shall not change, as the disk does not. */
    if (!exp->common.writable && !bdrv_is_read_only(b->bs) &&
        bdrv_dirty_bitmap_enabled(b->bitmap)) {
        error_setg(errp,
                   "Enabled bitmap '%s' incompatible with readonly export",
                   name);
        return false;
    }
    return true;
}

bool nbd_bitmaps_create(NbdExport *exp, JsonObject *options, GError **errp)
{
    JsonArray *refs = schema_has(options, "bitmaps")
                          ? json_object_get_array_member(options, "bitmaps")
                          : NULL;
    guint n = refs ? json_array_get_length(refs) : 0, i;
    BlockDriverState *bs;
    bool ok = true;

    if (n > NBD_MAX_BITMAPS) {
        error_setg(errp, "Too many bitmaps: %u, at most %d", n,
                   NBD_MAX_BITMAPS);
        return false;
    }
    if (n == 0) {
        return true;
    }
    exp->bitmaps = g_new0(NbdBitmap, n);
    bs = blk_get_bs(exp->common.blk);
    for (i = 0; ok && i < n; i++) {
        NbdBitmap *b = &exp->bitmaps[i];

        ok = find(exp, bs, json_array_get_element(refs, i), b, errp) &&
             bdrv_dirty_bitmap_check(b->bitmap, BDRV_BITMAP_ALLOW_RO, errp);
    }
    bdrv_unref(bs);
    if (!ok) {
        while (i-- > 0) {
            if (exp->bitmaps[i].bs) {
                bdrv_unref(exp->bitmaps[i].bs);
            }
        }
        g_clear_pointer(&exp->bitmaps, g_free);
        return false;
    }
    /* Only now: the same one may be there twice. */
    for (i = 0; i < n; i++) {
        bdrv_dirty_bitmap_set_busy(exp->bitmaps[i].bitmap, true);
    }
    exp->n_bitmaps = n;
    return true;
}

void nbd_bitmaps_destroy(NbdExport *exp)
{
    unsigned i;

    for (i = 0; i < exp->n_bitmaps; i++) {
        bdrv_dirty_bitmap_set_busy(exp->bitmaps[i].bitmap, false);
        bdrv_unref(exp->bitmaps[i].bs);
    }
    g_free(exp->bitmaps);
}

char **nbd_bitmaps_names(const NbdExport *exp)
{
    char **bitmaps = g_new0(char *, exp->n_bitmaps + 1);
    unsigned i;

    for (i = 0; i < exp->n_bitmaps; i++) {
        bitmaps[i] = g_strdup(bdrv_dirty_bitmap_name(exp->bitmaps[i].bitmap));
    }
    return bitmaps;
}
