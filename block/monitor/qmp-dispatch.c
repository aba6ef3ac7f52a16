/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One QMP command, from the JSON value to the line of its reply. What is
 * refused is refused in QEMU's words.
 */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "monitor-int.h"
#include "util/json-text.h"

/* Whose handler runs on this thread */
static __thread QmpRequest *current;

/* An integer that was too large to be kept as one: it would not come back as
 * it was sent. */
static bool is_inexact(JsonNode *id)
{
    return JSON_NODE_HOLDS_VALUE(id) &&
           json_node_get_value_type(id) == G_TYPE_DOUBLE &&
           fabs(json_node_get_double(id)) >= 0x1p63;
}

QmpRequest *qmp_request_new(JsonNode *input, GError *err)
{
    QmpRequest *req = g_new0(QmpRequest, 1);
    JsonObject *object;

    req->input = input;
    req->err = err;
    req->fd = -1;
    if (!input || !JSON_NODE_HOLDS_OBJECT(input)) {
        if (!err) {
            error_setg(&req->err, "QMP input must be a JSON object");
        }
        return req;
    }
    object = json_node_get_object(input);
    if (schema_has(object, "id")) {
        req->id = json_object_dup_member(object, "id");
        if (is_inexact(req->id)) {
            g_clear_pointer(&req->id, json_node_unref);
            error_setg(&req->err, "QMP input member 'id' must lie below 2^63");
        }
    }
    req->oob = schema_has(object, "exec-oob") && !schema_has(object, "execute");
    return req;
}

void qmp_request_free(QmpRequest *req)
{
    g_clear_pointer(&req->input, json_node_unref);
    g_clear_pointer(&req->id, json_node_unref);
    g_clear_pointer(&req->args, json_object_unref);
    g_clear_error(&req->err);
    if (req->reply) {
        g_string_free(req->reply, TRUE);
    }
    if (req->fd >= 0) {
        close(req->fd);
    }
    g_free(req);
}

bool qmp_command_allows_oob(const QmpCommand *cmd)
{
    /* The negotiation has its place in the order of things. */
    return cmd->thread == QMP_MAIN && strcmp(cmd->name, "qmp_capabilities");
}

static const QmpCommand *find_command(const char *name)
{
    const QmpCommand *const *table;
    const QmpCommand *cmd;

    for (table = qmp_command_tables; *table; table++) {
        for (cmd = *table; cmd->name; cmd++) {
            if (!strcmp(cmd->name, name)) {
                return cmd;
            }
        }
    }
    return NULL;
}

/*
 * The name of the command of @object, whose members are checked. NULL and
 * @errp on error.
 */
static const char *command_name(JsonObject *object, bool allow_oob,
                                GError **errp)
{
    g_autoptr(GList) names = json_object_get_members(object);
    const char *command = NULL;
    GList *l;

    for (l = names; l; l = l->next) {
        const char *name = l->data;
        JsonNode *node = json_object_get_member(object, name);

        if (!strcmp(name, "execute") ||
            (!strcmp(name, "exec-oob") && allow_oob)) {
            if (!JSON_NODE_HOLDS_VALUE(node) ||
                json_node_get_value_type(node) != G_TYPE_STRING) {
                error_setg(errp, "QMP input member '%s' must be a string",
                           name);
                return NULL;
            }
            if (command) {
                error_setg(errp, "QMP input has both member 'execute' and "
                                 "member 'exec-oob'");
                return NULL;
            }
            command = json_node_get_string(node);
        } else if (!strcmp(name, "arguments")) {
            if (!JSON_NODE_HOLDS_OBJECT(node)) {
                error_setg(errp, "QMP input member 'arguments' must be an "
                                 "object");
                return NULL;
            }
        } else if (strcmp(name, "id")) {
            error_setg(errp, "QMP input member '%s' is unexpected", name);
            return NULL;
        }
    }
    if (!command) {
        error_setg(errp, "QMP input lacks member 'execute'");
    }
    return command;
}

bool qmp_request_takes_fd(const QmpRequest *req)
{
    const QmpCommand *cmd = NULL;
    JsonNode *name;

    if (req->input && JSON_NODE_HOLDS_OBJECT(req->input)) {
        name =
            json_object_get_member(json_node_get_object(req->input), "execute");
        if (name && json_node_get_value_type(name) == G_TYPE_STRING) {
            cmd = find_command(json_node_get_string(name));
        }
    }
    return cmd && cmd->takes_fd;
}

/* May a session with @caps use the command @name, which is @cmd or unknown? */
static bool check_command(const QmpCommand *cmd, const char *name, bool oob,
                          const QmpCapabilities *caps, GError **errp)
{
    bool negotiation = cmd && !strcmp(name, "qmp_capabilities");

    if (!caps->negotiated && !negotiation) {
        error_set_class(errp, ERROR_COMMAND_NOT_FOUND,
                        "Expecting capabilities negotiation with "
                        "'qmp_capabilities'");
        return false;
    }
    if (!cmd) {
        error_set_class(errp, ERROR_COMMAND_NOT_FOUND,
                        "The command %s has not been found", name);
        return false;
    }
    if (oob && !qmp_command_allows_oob(cmd)) {
        error_setg(errp, "The command %s does not support OOB", name);
        return false;
    }
    if (caps->negotiated && negotiation) {
        error_set_class(errp, ERROR_COMMAND_NOT_FOUND,
                        "Capabilities negotiation is already complete, "
                        "command ignored");
        return false;
    }
    return true;
}

void qmp_request_resolve(QmpRequest *req, const QmpCapabilities *caps)
{
    const QmpCommand *cmd;
    const char *name;
    JsonObject *object;
    JsonNode *args;

    if (req->err) {
        return;
    }
    object = json_node_get_object(req->input);
    name = command_name(object, caps->oob, &req->err);
    if (!name) {
        return;
    }
    cmd = find_command(name);
    if (!check_command(cmd, name, req->oob, caps, &req->err)) {
        return;
    }
    if (!schema_has(object, "arguments")) {
        json_object_set_object_member(object, "arguments", json_object_new());
    }
    args = json_object_get_member(object, "arguments");
    if (!schema_check(cmd->args ? cmd->args : &schema_empty, args, "", false,
                      &req->err)) {
        return;
    }
    req->args = json_node_dup_object(args);
    req->cmd = cmd;
}

void qmp_append_line(GString *out, JsonNode *node, bool pretty)
{
    json_text_append(out, node, pretty);
    g_string_append(out, "\r\n");
}

int qmp_take_fd(GError **errp)
{
    int fd = current->fd;

    if (fd < 0) {
        error_setg(errp, "No file descriptor supplied via SCM_RIGHTS");
    }
    current->fd = -1;
    return fd;
}

void qmp_request_execute(QmpRequest *req)
{
    JsonObject *reply = json_object_new();
    g_autoptr(JsonNode) node = NULL;
    JsonNode *value = NULL;

    if (req->cmd) {
        current = req;
        value = req->cmd->handler(req->args, &req->err);
        g_assert(!value || !req->err);
        current = NULL;
    }
    if (!req->err) {
        if (!value) {
            value = qmp_node_from_object(json_object_new());
        }
        json_object_set_member(reply, "return", value);
    }
    if (req->id) {
        json_object_set_member(reply, "id", g_steal_pointer(&req->id));
    }
    if (req->err) {
        JsonObject *error = json_object_new();

        json_object_set_string_member(error, "class",
                                      error_class_name(req->err));
        json_object_set_string_member(error, "desc", req->err->message);
        json_object_set_object_member(reply, "error", error);
    }
    node = qmp_node_from_object(reply);
    req->reply = g_string_new(NULL);
    qmp_append_line(req->reply, node, req->pretty);
}

JsonNode *qmp_node_from_object(JsonObject *object)
{
    JsonNode *node = json_node_new(JSON_NODE_OBJECT);

    json_node_take_object(node, object);
    return node;
}

JsonNode *qmp_node_from_array(JsonArray *array)
{
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);

    json_node_take_array(node, array);
    return node;
}
