/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QMP: the NBD server, and exports */
#include "block/export.h"
#include "block/export/export-int.h"
#include "monitor/qmp.h"
#include "util/socket.h"

/* ---- nbd-server-start, nbd-server-stop ---------------------------------- */

/* How long nbd-server-stop waits for requests: others wait for it. */
#define STOP_US (10 * G_USEC_PER_SEC)

static const SchemaType server_start_type = {
    .name = "q_obj_nbd-server-start-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "addr", &socket_address_legacy_type,
              .doc = "Address to listen at." },
            { "handshake-max-seconds", &schema_uint, .optional = true,
              .doc = "Seconds after which a client that has not chosen an "
                     "export is disconnected, 0 for never. Default: 10." },
            { "max-connections", &schema_uint, .optional = true,
              .doc = "Clients served at the same time; others wait. 0, the "
                     "default, stands for 256, which is also the most there "
                     "can be." },
            { NULL },
        },
};

static JsonNode *qmp_nbd_server_start(JsonObject *args, GError **errp)
{
    static const char *const numbers[] = { "handshake-max-seconds",
                                           "max-connections" };
    g_autoptr(JsonObject) options = json_object_new();
    guint i;

    json_object_set_object_member(
        options, "addr",
        socket_address_flatten(schema_get_object(args, "addr")));
    for (i = 0; i < G_N_ELEMENTS(numbers); i++) {
        if (schema_has(args, numbers[i])) {
            json_object_set_int_member(options, numbers[i],
                                       schema_get_int(args, numbers[i], 0));
        }
    }
    nbd_server_start(options, errp);
    return NULL;
}

static JsonNode *qmp_nbd_server_stop(JsonObject *args, GError **errp)
{
    if (!nbd_server_is_running()) {
        error_setg(errp, "NBD server not running");
        return NULL;
    }
    nbd_server_stop(g_get_monotonic_time() + STOP_US, errp);
    return NULL;
}

/* ---- block-export-add, block-export-del, query-block-exports ------------ */

static JsonNode *qmp_block_export_add(JsonObject *args, GError **errp)
{
    block_export_add(args, errp);
    return NULL;
}

static const SchemaType export_del_type = {
    .name = "q_obj_block-export-del-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "id", &schema_str, .doc = "The export's id." },
            { "mode", &block_export_mode_type, .optional = true,
              .doc = "What to do about clients (default: safe)." },
            { NULL },
        },
};

static JsonNode *qmp_block_export_del(JsonObject *args, GError **errp)
{
    block_export_del(schema_get_str(args, "id", NULL),
                     schema_get_enum(args, "mode", &block_export_mode_type,
                                     BLOCK_EXPORT_SAFE),
                     errp);
    return NULL;
}

static const SchemaType export_list_type = {
    .name = "BlockExportInfoList",
    .kind = SCHEMA_ARRAY,
    .element = &block_export_info_type,
};

static JsonNode *qmp_query_block_exports(JsonObject *args, GError **errp)
{
    return qmp_node_from_array(block_export_query());
}

const QmpCommand qmp_export_commands[] = {
    { "nbd-server-start", QMP_MANAGEMENT, .args = &server_start_type,
      .doc = "Start the NBD server. There is one for all exports.",
      .example = "{ \"addr\": { \"type\": \"unix\", "
                 "\"data\": { \"path\": \"/run/seekless/nbd.sock\" } } }",
      .errors = "The server runs already; nobody can listen at that "
                "address.",
      .handler = qmp_nbd_server_start },
    { "nbd-server-stop", QMP_MANAGEMENT,
      .doc = "Stop the NBD server: disconnect its clients, and remove all "
             "exports of type nbd.",
      .errors = "The server does not run; or a request of a client has not "
                "ended after ten seconds: then the server has stopped all the "
                "same, and the export goes when the request ends.",
      .handler = qmp_nbd_server_stop },
    { "block-export-add", QMP_MANAGEMENT, .args = &block_export_options_type,
      .doc = "Export a node.",
      .example = "{ \"type\": \"nbd\", \"id\": \"export0\", "
                 "\"node-name\": \"disk0\", \"writable\": true }",
      .errors = "The id is taken or not well-formed; there is no such "
                "node; no server runs for exports of this type, or it has "
                "an export of that name; the node cannot be written to; "
                "its other users do not share what the export needs.",
      .handler = qmp_block_export_add },
    { "block-export-del", QMP_MANAGEMENT, .args = &export_del_type,
      .doc = "Remove an export. With mode 'hard', its clients are "
             "disconnected; if requests of theirs are still under way, the "
             "export goes away when they have ended, which "
             "BLOCK_EXPORT_DELETED tells.",
      .example = "{ \"id\": \"export0\", \"mode\": \"hard\" }",
      .errors = "There is no such export, or it is already being removed; "
                "it has clients, and mode is safe.",
      .handler = qmp_block_export_del },
    { "query-block-exports", QMP_MAIN, .ret = &export_list_type,
      .doc = "List all exports.", .handler = qmp_query_block_exports },
    { NULL },
};

static const SchemaType export_deleted_type = {
    .name = "q_obj_BLOCK_EXPORT_DELETED-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "id", &schema_str, .doc = "The export's id." },
            { NULL },
        },
};

const QmpEvent qmp_export_events[] = {
    { "BLOCK_EXPORT_DELETED", &export_deleted_type,
      .doc = "An export was removed, and its id can be used again." },
    { NULL },
};
