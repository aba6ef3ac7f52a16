/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QMP: objects that nodes and others refer to */
#include "block/object-types.h"
#include "monitor/qmp.h"

static JsonNode *qmp_object_add(JsonObject *args, GError **errp)
{
    object_add_from_options(args, errp);
    return NULL;
}

static const SchemaType object_del_type = {
    .name = "q_obj_object-del-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "id", &schema_str, .doc = "The object's id." },
            { NULL },
        },
};

static JsonNode *qmp_object_del(JsonObject *args, GError **errp)
{
    object_del(schema_get_str(args, "id", NULL), errp);
    return NULL;
}

static const SchemaType qom_get_type = {
    .name = "q_obj_qom-get-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "path", &schema_str,
              .doc = "The object: its id, or \"/objects/\" and its id." },
            { "property", &schema_str, .doc = "The property's name." },
            { NULL },
        },
};

static JsonNode *qmp_qom_get(JsonObject *args, GError **errp)
{
    return object_get_property(schema_get_str(args, "path", NULL),
                               schema_get_str(args, "property", NULL), errp);
}

static const SchemaType qom_set_type = {
    .name = "q_obj_qom-set-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "path", &schema_str,
              .doc = "The object: its id, or \"/objects/\" and its id." },
            { "property", &schema_str, .doc = "The property's name." },
            { "value", &schema_any, .doc = "Its new value." },
            { NULL },
        },
};

static JsonNode *qmp_qom_set(JsonObject *args, GError **errp)
{
    object_set_property(schema_get_str(args, "path", NULL),
                        schema_get_str(args, "property", NULL),
                        json_object_get_member(args, "value"), errp);
    return NULL;
}

const QmpCommand qmp_object_commands[] = {
    {
        .name = "object-add",
        .thread = QMP_MANAGEMENT,
        .args = &object_options_type,
        .doc = "Create an object.",
        .example = "{\"qom-type\": \"throttle-group\", \"id\": \"group0\","
                   " \"limits\": {\"iops-total\": 2000,"
                   " \"iops-total-max\": 10000}}",
        .errors = "The id is taken or not well-formed; the options "
                  "contradict each other; a file cannot be read.",
        .handler = qmp_object_add,
    },
    {
        .name = "object-del",
        .thread = QMP_MANAGEMENT,
        .args = &object_del_type,
        .doc = "Delete an object. Refused while anybody uses it.",
        .example = "{\"id\": \"group0\"}",
        .errors = "There is no such object; somebody uses it.",
        .handler = qmp_object_del,
    },
    {
        .name = "qom-get",
        .thread = QMP_MAIN,
        .args = &qom_get_type,
        .ret = &schema_any,
        .doc = "Show a property of an object: \"type\", or what object-add "
               "was told, but for what is secret.",
        .example = "{\"path\": \"group0\", \"property\": \"limits\"}",
        .errors = "There is no such object (DeviceNotFound); it has no such "
                  "property, or none that can be read.",
        .handler = qmp_qom_get,
    },
    {
        .name = "qom-set",
        .thread = QMP_MAIN,
        .args = &qom_set_type,
        .doc = "Change a property of an object.",
        .example = "{\"path\": \"group0\", \"property\": \"limits\","
                   " \"value\": {\"bps-total\": 104857600}}",
        .errors = "There is no such object (DeviceNotFound); it has no such "
                  "property, or none that can be changed; the value is not "
                  "allowed.",
        .handler = qmp_qom_set,
    },
    { NULL },
};
