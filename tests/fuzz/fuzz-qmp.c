/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzes what a monitor does with a client's bytes: framer, parser, checks of
 * commands and arguments, replies; and the same bytes as key=value options.
 * The first byte says in what pieces the others arrive.
 */
#include <glib.h>
#include <string.h>

#include "block/monitor/monitor-int.h"
#include "monitor/monitor.h"
#include "util/json-framer.h"
#include "util/json-text.h"
#include "util/keyval.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const SchemaType kind_type = {
    .name = "Kind",
    .kind = SCHEMA_ENUM,
    .values = (const char *const[]){ "a", "b", NULL },
};

static const SchemaType branch_type = {
    .name = "A",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "size", &schema_size },
                                       { "n", &schema_number },
                                       { NULL } },
};

static bool branch(size_t n, const char **tag, const SchemaType **type)
{
    *tag = "a";
    *type = &branch_type;
    return n == 0;
}

static const SchemaType union_type = {
    .name = "Union",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "kind", &kind_type }, { NULL } },
    .discriminator = "kind",
    .branch = branch,
};

static const SchemaType ref_type = {
    .name = "Ref",
    .kind = SCHEMA_ALTERNATE,
    .alternatives = (const SchemaType *const[]){ &schema_str, &union_type,
                                                 &schema_null, NULL },
};

static const SchemaType list_type = {
    .name = "RefList",
    .kind = SCHEMA_ARRAY,
    .element = &ref_type,
};

static const SchemaType args_type = {
    .name = "Args",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "s", &schema_str, .optional = true },
                                       { "b", &schema_bool, .optional = true },
                                       { "i", &schema_int, .optional = true },
                                       { "u", &schema_uint, .optional = true },
                                       { "any", &schema_any, .optional = true },
                                       { "l", &list_type, .optional = true },
                                       { NULL } },
};

static JsonNode *echo(JsonObject *args, GError **errp)
{
    return qmp_node_from_object(json_object_ref(args));
}

static const QmpCommand commands[] = {
    { "echo", QMP_MAIN, .args = &args_type, .handler = echo },
    { NULL },
};

const QmpCommand *const qmp_command_tables[] = { commands, NULL };
const QmpEvent *const qmp_event_tables[] = { NULL };

static void run(JsonFramer *framer)
{
    QmpCapabilities caps = { .negotiated = true, .oob = true };
    GError *err = NULL;
    JsonNode *node;

    while (json_framer_next(framer, &node, &err)) {
        QmpRequest *req = qmp_request_new(node, err);
        g_autoptr(JsonNode) reply = NULL;

        qmp_request_resolve(req, &caps);
        qmp_request_execute(req);
        /* Whatever it was, the answer is one line of JSON. */
        g_assert(strcspn(req->reply->str, "\r\n") == req->reply->len - 2);
        reply = json_text_parse(req->reply->str, req->reply->len, NULL);
        g_assert(reply);
        qmp_request_free(req);
        err = NULL;
    }
}

static void run_keyval(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_autoptr(JsonNode) node = NULL;
    bool keyval;

    node = keyval_parse(text, "s", &keyval, NULL);
    if (node) {
        schema_check(&args_type, node, "", keyval, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(JsonFramer) framer = json_framer_new(MONITOR_COMMAND_MAX);
    size_t piece, pos;

    if (size == 0) {
        return 0;
    }
    piece = data[0] ? data[0] : size;
    for (pos = 1; pos < size; pos += piece) {
        json_framer_push(framer, data + pos, MIN(piece, size - pos));
        run(framer);
    }
    json_framer_end(framer);
    run(framer);
    run_keyval(data + 1, size - 1);
    return 0;
}
