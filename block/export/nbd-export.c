/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Exports by name, as NBD clients ask for them. */
#include "block/export/nbd-int.h"

#include <string.h>

#include "util/error.h"

static GPtrArray *names; /* nbd_lock: of NbdExport */

static void __attribute__((constructor)) names_init(void)
{
    names = g_ptr_array_new();
}

/* ---- look-up ------------------------------------------------------------ */

static NbdExportInfo *info_new(const NbdExport *exp)
{
    NbdExportInfo *info = g_new(NbdExportInfo, 1);

    *info = (NbdExportInfo){
        .name = g_strdup(exp->name),
        .description = g_strdup(exp->description),
        /* As it is now: with a new size clients are told when they come back. */
        .size = MAX(blk_getlength(exp->common.blk), 0),
        .flags = exp->flags,
        .preferred_size = exp->preferred_size,
        .allocation_depth = exp->allocation_depth,
        .bitmaps = nbd_bitmaps_names(exp),
    };
    return info;
}

void nbd_export_info_free(NbdExportInfo *info)
{
    g_free(info->name);
    g_free(info->description);
    g_strfreev(info->bitmaps);
    g_free(info);
}

/* nbd_lock held */
static NbdExport *find(const char *name)
{
    for (guint i = 0; i < names->len; i++) {
        NbdExport *exp = g_ptr_array_index(names, i);

        if (g_str_equal(exp->name, name)) {
            return exp;
        }
    }
    return NULL;
}

NbdExportInfo *nbd_export_lookup(const char *name, NbdConn *conn)
{
    NbdExport *exp;

    MUTEX_GUARD(&nbd_lock);

    exp = find(name);
    if (!exp) {
        return NULL;
    }
    if (conn) {
        /*
         * Under the same lock as nbd_conn_abort_all(), so that an export that
         * shuts down either refuses the client or finds it.
         */
        if (!block_export_get(&exp->common)) {
            return NULL;
        }
        conn->exp = conn->inside = exp;
    }
    return info_new(exp);
}

GPtrArray *nbd_export_list(void)
{
    GPtrArray *list =
        g_ptr_array_new_with_free_func((GDestroyNotify)nbd_export_info_free);

    MUTEX_GUARD(&nbd_lock);

    for (guint i = 0; i < names->len; i++) {
        g_ptr_array_add(list, info_new(g_ptr_array_index(names, i)));
    }
    return list;
}

/* ---- the export --------------------------------------------------------- */

static bool check_string(const char *what, const char *s, GError **errp)
{
    if (!g_utf8_validate(s, -1, NULL)) {
        error_setg(errp, "%s is not valid UTF-8", what);
        return false;
    }
    if (strlen(s) > NBD_MAX_STRING) {
        error_setg(errp, "%s '%.64s...' is too long: %zu bytes, at most %d",
                   what, s, strlen(s), NBD_MAX_STRING);
        return false;
    }
    return true;
}

static uint16_t transmission_flags(bool writable)
{
    uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH |
                     NBD_FLAG_SEND_FUA | NBD_FLAG_CAN_MULTI_CONN;

    if (writable) {
        return flags | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
               NBD_FLAG_SEND_FAST_ZERO;
    }
    return flags | NBD_FLAG_READ_ONLY;
}

/* Names come and go with the graph mutex held. */
static bool is_taken(const char *name)
{
    MUTEX_GUARD(&nbd_lock);

    return find(name) != NULL;
}

static bool nbd_create(BlockExport *common, JsonObject *options, GError **errp)
{
    NbdExport *exp = (NbdExport *)common;
    const char *node_name = schema_get_str(options, "node-name", NULL);
    const char *name = schema_get_str(options, "name", node_name);
    const char *description = schema_get_str(options, "description", NULL);
    uint32_t alignment = blk_opt_alignment(common->blk);
    int64_t size;

    if (!nbd_server_is_running()) {
        error_setg(errp, "NBD server not running");
        return false;
    }
    if (!check_string("export name", name, errp) ||
        (description && !check_string("description", description, errp))) {
        return false;
    }
    size = blk_getlength(common->blk);
    if (size < 0) {
        error_setg_errno(errp, -size, "Failed to determine the size of '%s'",
                         node_name);
        return false;
    }

    if (is_taken(name)) {
        error_setg(errp, "NBD server already has export named '%s'", name);
        return false;
    }
    if (!nbd_bitmaps_create(exp, options, errp)) {
        return false;
    }
    exp->name = g_strdup(name);
    exp->description = g_strdup(description);
    exp->flags = transmission_flags(common->writable);
    exp->preferred_size = 4096;
    if ((alignment & (alignment - 1)) == 0) {
        exp->preferred_size = CLAMP(alignment, 4096, NBD_MAX_REQUEST);
    }
    exp->allocation_depth = schema_get_bool(options, "allocation-depth", false);
    mutex_lock(&nbd_lock);
    g_ptr_array_add(names, exp);
    mutex_unlock(&nbd_lock);
    return true;
}

static void nbd_disconnect(BlockExport *common)
{
    nbd_conn_abort_all((NbdExport *)common);
}

static void nbd_destroy(BlockExport *common)
{
    NbdExport *exp = (NbdExport *)common;

    mutex_lock(&nbd_lock);
    g_ptr_array_remove(names, exp);
    mutex_unlock(&nbd_lock);
    nbd_bitmaps_destroy(exp);
    g_free(exp->name);
    g_free(exp->description);
}

static const SchemaType options_type = {
    .name = "BlockExportOptionsNbd",
    .kind = SCHEMA_OBJECT,
    .doc = "An export over NBD. The server must be running.",
    .members =
        (const SchemaMember[]){
            { "name", &schema_str, .optional = true,
              .doc = "Name by which clients ask for it, at most 4096 bytes "
                     "(default: the node's name)." },
            { "description", &schema_str, .optional = true,
              .doc = "Free text shown to clients, at most 4096 bytes "
                     "(default: none)." },
            { "bitmaps", &bitmap_ref_list_type, .optional = true,
              .doc = "Offer the metadata contexts qemu:dirty-bitmap:NAME of "
                     "these, at most 62. Those without a node are the "
                     "exported node's, or of the first below it that has one "
                     "of that name, down through filters and backing files. "
                     "They are busy while the export exists (default: "
                     "none)." },
            { "allocation-depth", &schema_bool, .optional = true,
              .doc = "Offer the metadata context qemu:allocation-depth "
                     "(default: false)." },
            { NULL } },
};

const BlockExportDriver nbd_export_driver = {
    .type = "nbd",
    .options = &options_type,
    .instance_size = sizeof(NbdExport),
    .create = nbd_create,
    .disconnect = nbd_disconnect,
    .destroy = nbd_destroy,
};
