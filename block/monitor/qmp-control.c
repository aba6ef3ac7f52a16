/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Commands about the monitor itself. */
#include <string.h>

#include "config.h"
#include "monitor-int.h"
#include "qmp-introspect.h"
#include "qmp-tables.h"

/*
 * Clients decide by the number what they may use: it is that of the QEMU whose
 * commands these are. The package says who we are.
 */
JsonObject *qmp_version_info(void)
{
    JsonObject *info = json_object_new();
    JsonObject *triple = json_object_new();

    json_object_set_int_member(triple, "micro", 0);
    json_object_set_int_member(triple, "minor", 2);
    json_object_set_int_member(triple, "major", 7);
    json_object_set_object_member(info, "qemu", triple);
    json_object_set_string_member(info, "package",
                                  "seekless-" SEEKLESS_VERSION);
    return info;
}

JsonNode *qmp_greeting(void)
{
    JsonObject *greeting = json_object_new();
    JsonObject *qmp = json_object_new();
    JsonArray *capabilities = json_array_new();

    json_array_add_string_element(capabilities, "oob");
    json_object_set_object_member(qmp, "version", qmp_version_info());
    json_object_set_array_member(qmp, "capabilities", capabilities);
    json_object_set_object_member(greeting, "QMP", qmp);
    return qmp_node_from_object(greeting);
}

/* ---- qmp_capabilities --------------------------------------------------- */

static JsonNode *qmp_capabilities(JsonObject *args, GError **errp)
{
    QmpCapabilities *caps = qmp_current_capabilities();
    JsonArray *enable = NULL;
    guint i;

    if (schema_has(args, "enable")) {
        enable = json_object_get_array_member(args, "enable");
    }
    for (i = 0; enable && i < json_array_get_length(enable); i++) {
        caps->oob |= !strcmp(json_array_get_string_element(enable, i), "oob");
    }
    caps->negotiated = true;
    return NULL;
}

static const SchemaType capability_type = {
    .name = "QMPCapability",
    .kind = SCHEMA_ENUM,
    .doc = "What a client may ask for. oob: commands may be executed out of "
           "band.",
    .values = (const char *const[]){ "oob", NULL },
};

static const SchemaType capability_list_type = {
    .name = "QMPCapabilityList",
    .kind = SCHEMA_ARRAY,
    .element = &capability_type,
};

static const SchemaType qmp_capabilities_type = {
    .name = "q_obj_qmp_capabilities-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "enable", &capability_list_type, .optional = true,
              .doc = "Capabilities of the greeting to make use of (default: "
                     "none)." },
            { NULL } },
};

/* ---- query-commands ----------------------------------------------------- */

static JsonNode *query_commands(JsonObject *args, GError **errp)
{
    const QmpCommand *const *table;
    const QmpCommand *cmd;
    JsonArray *list = json_array_new();

    for (table = qmp_command_tables; *table; table++) {
        for (cmd = *table; cmd->name; cmd++) {
            JsonObject *info = json_object_new();

            json_object_set_string_member(info, "name", cmd->name);
            json_array_add_object_element(list, info);
        }
    }
    return qmp_node_from_array(list);
}

static const SchemaType command_info_type = {
    .name = "CommandInfo",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "name", &schema_str,
                                         .doc = "The name of the command." },
                                       { NULL } },
};

static const SchemaType command_info_list_type = {
    .name = "CommandInfoList",
    .kind = SCHEMA_ARRAY,
    .element = &command_info_type,
};

/* ---- query-qmp-schema --------------------------------------------------- */

static JsonNode *query_qmp_schema(JsonObject *args, GError **errp)
{
    return qmp_node_from_array(
        qmp_introspect(qmp_command_tables, qmp_event_tables));
}

const QmpCommand qmp_control_commands[] = {
    {
        .name = "qmp_capabilities",
        .thread = QMP_MAIN,
        .args = &qmp_capabilities_type,
        .doc = "Ends the negotiation that every connection begins with: no "
               "other command is accepted before it, and it is not accepted "
               "again.",
        .example = "{\"enable\": [\"oob\"]}",
        .errors = "CommandNotFound if the negotiation has already ended.",
        .handler = qmp_capabilities,
    },
    {
        .name = "query-commands",
        .thread = QMP_MAIN,
        .ret = &command_info_list_type,
        .doc = "Lists the names of all commands.",
        .handler = query_commands,
    },
    {
        .name = "query-qmp-schema",
        .thread = QMP_MAIN,
        .ret = &schema_info_list_type,
        .doc = "Describes all commands and events and the types of their "
               "arguments, data and return values.",
        .handler = query_qmp_schema,
    },
    { NULL },
};
