/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Exports by id, of whatever kind.
 *
 * An export goes away in two steps: it is told to shut down, from when on it
 * takes no more clients, and it is destroyed when the last client has left.
 * The first happens under the graph mutex; so does the second, which is why
 * the last client hands it to the management thread.
 */
#include "block/export/export-int.h"

#include <string.h>

#include "block/wait.h"
#include "monitor/qmp.h"
#include "util/error.h"
#include "util/id.h"
#include "util/limits.h"
#include "util/thread.h"

static struct {
    Mutex lock;
    Cond client_gone;
    GPtrArray *list; /* of BlockExport; changed with the graph mutex, too */
} exports = { .lock = MUTEX_INIT };

static const BlockExportDriver *const drivers[] = { &nbd_export_driver };

static void __attribute__((constructor)) exports_init(void)
{
    cond_init(&exports.client_gone);
    exports.list = g_ptr_array_new();
}

bool block_export_get(BlockExport *exp)
{
    MUTEX_GUARD(&exports.lock);

    if (exp->shutting_down) {
        return false;
    }
    exp->clients++;
    return true;
}

/* Graph mutex held, no clients */
static void export_destroy(BlockExport *exp)
{
    JsonObject *data = json_object_new();

    mutex_lock(&exports.lock);
    g_assert(exp->clients == 0);
    g_ptr_array_remove(exports.list, exp);
    mutex_unlock(&exports.lock);

    exp->drv->destroy(exp);
    blk_free(exp->blk);
    json_object_set_string_member(data, "id", exp->id);
    qmp_event_send("BLOCK_EXPORT_DELETED", data);
    g_free(exp->id);
    g_free(exp);
}

/* An export that only waits to be destroyed; or NULL */
static BlockExport *find_dead(void)
{
    MUTEX_GUARD(&exports.lock);

    for (guint i = 0; i < exports.list->len; i++) {
        BlockExport *exp = g_ptr_array_index(exports.list, i);

        if (exp->shutting_down && exp->clients == 0) {
            return exp;
        }
    }
    return NULL;
}

static void destroy_dead(void *opaque)
{
    BlockExport *exp;

    while ((exp = find_dead())) {
        export_destroy(exp);
    }
}

void block_export_put(BlockExport *exp)
{
    bool dead;

    mutex_lock(&exports.lock);
    g_assert(exp->clients > 0);
    exp->clients--;
    dead = exp->shutting_down && exp->clients == 0;
    cond_broadcast(&exports.client_gone);
    mutex_unlock(&exports.lock);
    if (dead) {
        management_queue(destroy_dead, NULL);
    }
}

static BlockExport *export_find(const char *id)
{
    MUTEX_GUARD(&exports.lock);

    for (guint i = 0; i < exports.list->len; i++) {
        BlockExport *exp = g_ptr_array_index(exports.list, i);

        if (g_str_equal(exp->id, id)) {
            return exp;
        }
    }
    return NULL;
}

/* A BlockBackend for the export on the node that @options name */
static BlockBackend *export_open(JsonObject *options, bool writable,
                                 GError **errp)
{
    g_autofree char *user =
        g_strdup_printf("export '%s'", schema_get_str(options, "id", NULL));
    uint64_t perm = BLK_PERM_CONSISTENT_READ | (writable ? BLK_PERM_WRITE : 0);
    const char *node_name = schema_get_str(options, "node-name", NULL);
    BlockDriverState *bs = bdrv_find_node(node_name, NULL);
    BlockBackend *blk;
    bool ok;

    if (!bs) {
        error_setg(errp, "Cannot find device='' nor node-name='%s'", node_name);
        return NULL;
    }
    /* Clients that are there when it is resized go on with the size they know. */
    blk = blk_new(user, false, perm, BLK_PERM_ALL);
    ok = blk_attach(blk, bs, errp);
    bdrv_unref(bs);
    if (!ok) {
        blk_free(blk);
        return NULL;
    }
    return blk;
}

static bool check_id(const char *id, GError **errp)
{
    if (!limit_length(id, NAME_MAX_BYTES, "Block export id", errp)) {
        return false;
    }
    if (!id_wellformed(id)) {
        error_setg(errp, "Invalid block export id '%s'", id);
        return false;
    }
    if (export_find(id)) {
        error_setg(errp, "Block export id '%s' is already in use", id);
        return false;
    }
    /* Only under the graph mutex, which is ours, do exports come and go. */
    return limit_allows(exports.list->len, limits.exports, "exports", errp);
}

bool block_export_add(JsonObject *options, GError **errp)
{
    const char *type = schema_get_str(options, "type", NULL);
    const char *id = schema_get_str(options, "id", NULL);
    bool writable = schema_get_bool(options, "writable", false);
    const BlockExportDriver *drv = NULL;
    BlockExport *exp;
    BlockBackend *blk;

    for (guint i = 0; i < G_N_ELEMENTS(drivers); i++) {
        if (g_str_equal(drivers[i]->type, type)) {
            drv = drivers[i];
        }
    }
    g_assert(drv); /* the schema offers no other */

    if (!check_id(id, errp)) {
        return false;
    }
    blk = export_open(options, writable, errp);
    if (!blk) {
        return false;
    }

    exp = g_malloc0(drv->instance_size);
    exp->drv = drv;
    exp->id = g_strdup(id);
    exp->blk = blk;
    exp->writable = writable;
    exp->writethrough = schema_get_bool(options, "writethrough", false);
    if (!drv->create(exp, options, errp)) {
        blk_free(blk);
        g_free(exp->id);
        g_free(exp);
        return false;
    }
    mutex_lock(&exports.lock);
    g_ptr_array_add(exports.list, exp);
    mutex_unlock(&exports.lock);
    return true;
}

/* Nobody new can come; those that are there must go */
static void throw_out(BlockExport *exp)
{
    g_assert(exp->shutting_down);
    exp->drv->disconnect(exp);
    blk_cancel_waits(exp->blk);
}

bool block_export_del(const char *id, BlockExportMode mode, GError **errp)
{
    BlockExport *exp = export_find(id);

    if (!exp) {
        error_setg(errp, "Export '%s' is not found", id);
        return false;
    }
    mutex_lock(&exports.lock);
    if (exp->shutting_down) {
        mutex_unlock(&exports.lock);
        error_setg(errp, "Export '%s' is already shutting down", id);
        return false;
    }
    if (mode == BLOCK_EXPORT_SAFE && exp->clients > 0) {
        mutex_unlock(&exports.lock);
        error_setg(errp, "export '%s' still in use", id);
        return false;
    }
    exp->shutting_down = true;
    mutex_unlock(&exports.lock);

    throw_out(exp);
    destroy_dead(NULL);
    return true;
}

/* False if some have not left in time; the last of them has @exp destroyed. */
static bool clients_leave(BlockExport *exp, int64_t deadline_us)
{
    int ret = 0;

    MUTEX_GUARD(&exports.lock);

    while (exp->clients > 0 && ret == 0) {
        ret = bdrv_wait(&exports.client_gone, &exports.lock, deadline_us, NULL);
    }
    return exp->clients == 0;
}

bool block_export_close_kind(const BlockExportDriver *drv, int64_t deadline_us)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    bool closed = true;

    /* Only under the graph mutex, which is ours, do exports come and go. */
    mutex_lock(&exports.lock);
    for (guint i = 0; i < exports.list->len; i++) {
        BlockExport *exp = g_ptr_array_index(exports.list, i);

        if (!drv || exp->drv == drv) {
            exp->shutting_down = true;
            g_ptr_array_add(list, exp);
        }
    }
    mutex_unlock(&exports.lock);

    for (guint i = 0; i < list->len; i++) {
        throw_out(g_ptr_array_index(list, i));
    }
    for (guint i = 0; i < list->len; i++) {
        BlockExport *exp = g_ptr_array_index(list, i);

        if (clients_leave(exp, deadline_us)) {
            export_destroy(exp);
        } else {
            closed = false;
        }
    }
    return closed;
}

void block_export_close_all(void)
{
    bdrv_graph_lock();
    nbd_server_stop(INT64_MAX, NULL);
    block_export_close_kind(NULL, INT64_MAX);
    bdrv_graph_unlock();
}

void block_export_throw_out_all(void)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new();

    nbd_server_close();
    /* As a client itself nobody destroys them meanwhile. Those that are shutting
     * down may be on their way there; their clients were thrown out. */
    mutex_lock(&exports.lock);
    for (guint i = 0; i < exports.list->len; i++) {
        BlockExport *exp = g_ptr_array_index(exports.list, i);

        if (!exp->shutting_down) {
            exp->shutting_down = true;
            exp->clients++;
            g_ptr_array_add(list, exp);
        }
    }
    mutex_unlock(&exports.lock);

    for (guint i = 0; i < list->len; i++) {
        throw_out(g_ptr_array_index(list, i));
        block_export_put(g_ptr_array_index(list, i));
    }
}

GPtrArray *block_export_in_use(void)
{
    GPtrArray *ids = g_ptr_array_new_with_free_func(g_free);

    MUTEX_GUARD(&exports.lock);

    for (guint i = 0; i < exports.list->len; i++) {
        const BlockExport *exp = g_ptr_array_index(exports.list, i);

        if (exp->clients > 0) {
            g_ptr_array_add(ids, g_strdup(exp->id));
        }
    }
    return ids;
}

JsonArray *block_export_query(void)
{
    JsonArray *rows = json_array_new();

    MUTEX_GUARD(&exports.lock);

    for (guint i = 0; i < exports.list->len; i++) {
        BlockExport *exp = g_ptr_array_index(exports.list, i);
        BlockDriverState *bs = blk_get_bs(exp->blk);
        JsonObject *row = json_object_new();

        json_object_set_string_member(row, "id", exp->id);
        json_object_set_string_member(row, "type", exp->drv->type);
        json_object_set_string_member(row, "node-name", bdrv_node_name(bs));
        json_object_set_boolean_member(row, "shutting-down",
                                       exp->shutting_down);
        json_array_add_object_element(rows, row);
        bdrv_unref_later(bs);
    }
    return rows;
}

/* ---- description -------------------------------------------------------- */

static const SchemaType kind_type = {
    .name = "BlockExportType",
    .kind = SCHEMA_ENUM,
    .doc = "Kinds of exports.",
    .values = (const char *const[]){ "nbd", NULL },
};

const SchemaType block_export_mode_type = {
    .name = "BlockExportRemoveMode",
    .kind = SCHEMA_ENUM,
    .doc = "'safe' refuses to remove an export that has clients, 'hard' "
           "disconnects them.",
    .values = (const char *const[]){ "safe", "hard", NULL },
};

static bool options_branch(size_t n, const char **tag, const SchemaType **type)
{
    if (n >= G_N_ELEMENTS(drivers)) {
        return false;
    }
    *tag = drivers[n]->type;
    *type = drivers[n]->options;
    return true;
}

const SchemaType block_export_options_type = {
    .name = "BlockExportOptions",
    .kind = SCHEMA_OBJECT,
    .doc = "An export: how clients get at a node.",
    .members =
        (const SchemaMember[]){
            { "type", &kind_type, .doc = "The kind of export." },
            { "id", &schema_str,
              .doc = "Name of the export for other commands: a letter, then "
                     "letters, digits, '-', '.' and '_'." },
            { "node-name", &schema_str, .doc = "The node to export." },
            { "writable", &schema_bool, .optional = true,
              .doc = "Clients may write (default: false)." },
            { "writethrough", &schema_bool, .optional = true,
              .doc = "A write is acknowledged only when it is on stable "
                     "storage (default: false)." },
            { NULL } },
    .discriminator = "type",
    .branch = options_branch,
};

const SchemaType block_export_info_type = {
    .name = "BlockExportInfo",
    .kind = SCHEMA_OBJECT,
    .doc = "An export that exists.",
    .members =
        (const SchemaMember[]){
            { "id", &schema_str, .doc = "Name of the export." },
            { "type", &kind_type, .doc = "The kind of export." },
            { "node-name", &schema_str,
              .doc = "The node it exports now; a job that completes may have "
                     "changed it." },
            { "shutting-down", &schema_bool,
              .doc = "It is being removed, and waits for requests that are "
                     "under way." },
            { NULL } },
};
