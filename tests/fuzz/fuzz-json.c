/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzes what a monitor does with a client's bytes: framer, parser, checks of
 * arguments, replies, with one command that returns what it is given. The first byte
 * says in what pieces the others arrive.
 *
 * What must be true: every reply is one line of JSON; what was parsed is, written and
 * parsed again, the same, on one line or on several; and the pieces do not matter.
 */
#include "fuzz.h"

#include "block/monitor/monitor-int.h"
#include "monitor/monitor.h"
#include "util/json-framer.h"
#include "util/json-text.h"

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

static void round_trip(JsonNode *node, bool pretty)
{
    g_autoptr(GString) text = g_string_new(NULL), again_text = NULL;
    g_autoptr(JsonNode) again = NULL;

    json_text_append(text, node, pretty);
    again = json_text_parse(text->str, text->len, NULL);
    fuzz_assert(again, "%s", text->str);
    again_text = g_string_new(NULL);
    json_text_append(again_text, again, pretty);
    /* -0.0 comes back as the integer 0, as in QEMU. */
    fuzz_assert(g_string_equal(text, again_text) || strstr(text->str, "-0"),
                "%s, %s", text->str, again_text->str);
}

/* All that is there by now; what was answered is added to @replies. */
static void run(JsonFramer *framer, GString *replies)
{
    QmpCapabilities caps = { .negotiated = true, .oob = true };
    GError *err = NULL;
    JsonNode *node;

    while (json_framer_next(framer, &node, &err)) {
        g_autoptr(JsonNode) reply = NULL;
        QmpRequest *req;

        if (node) {
            round_trip(node, false);
            round_trip(node, true);
        }
        req = qmp_request_new(node, err);
        qmp_request_resolve(req, &caps);
        qmp_request_execute(req);
        fuzz_assert(strcspn(req->reply->str, "\r\n") == req->reply->len - 2);
        reply = json_text_parse(req->reply->str, req->reply->len, NULL);
        fuzz_assert(reply);
        g_string_append(replies, req->reply->str);
        qmp_request_free(req);
        err = NULL;
    }
}

static GString *run_in_pieces(const uint8_t *data, size_t size, size_t piece)
{
    JsonFramer *framer = json_framer_new(MONITOR_COMMAND_MAX);
    GString *replies = g_string_new(NULL);
    size_t pos;

    for (pos = 0; pos < size; pos += piece) {
        json_framer_push(framer, data + pos, MIN(piece, size - pos));
        run(framer, replies);
    }
    json_framer_end(framer);
    run(framer, replies);
    json_framer_free(framer);
    return replies;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GString) whole = NULL, pieces = NULL;

    if (size < 2) {
        return 0;
    }
    whole = run_in_pieces(data + 1, size - 1, size);
    pieces = run_in_pieces(data + 1, size - 1, data[0] ? data[0] : 1);
    fuzz_assert(g_string_equal(whole, pieces), "%s, %s", whole->str,
                pieces->str);
    return 0;
}
