/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzes the values of options: of --blockdev, --export, --nbd-server, --object and of what
 * creates images, key=value or JSON. They are parsed and checked; nothing is opened.
 * The first byte says of which option, the rest is the text.
 *
 * What must be true: what was parsed is, written as key=value and parsed again, the
 * same; what was checked is, as JSON, right as well, and stays the same; and what the
 * JSON parser takes it also takes from what it was written as.
 */
#include "block/block-int.h"
#include "block/export.h"
#include "block/object-types.h"
#include "fuzz.h"
#include "util/json-text.h"
#include "util/keyval.h"
#include "util/object.h"

typedef struct Option {
    const char *implied_key;
    const SchemaType *type;
} Option;

static Option option(uint8_t n)
{
    const Option options[] = {
        { "driver", &blockdev_options_type },
        { "type", &block_export_options_type },
        { NULL, &nbd_server_options_type },
        { "qom-type", &object_options_type },
        { NULL, bdrv_find_driver("qcow2")->create_options },
        { NULL, bdrv_find_driver("file")->create_options },
        { "driver", &blockdev_options_type },
    };

    return options[n % G_N_ELEMENTS(options)];
}

/* ---- what is written ------------------------------------------------------- */

/* Of an object as keyval_parse() makes it: strings, objects, arrays */
static void write_keyval(GString *out, JsonNode *node, const char *key)
{
    const char *s;
    guint i;

    if (JSON_NODE_HOLDS_OBJECT(node)) {
        JsonObject *object = json_node_get_object(node);
        g_autoptr(GList) names = json_object_get_members(object);
        GList *l;

        for (l = names; l; l = l->next) {
            g_autofree char *path = g_strdup_printf(
                "%s%s%s", key, *key ? "." : "", (const char *)l->data);

            write_keyval(out, json_object_get_member(object, l->data), path);
        }
    } else if (JSON_NODE_HOLDS_ARRAY(node)) {
        JsonArray *array = json_node_get_array(node);

        for (i = 0; i < json_array_get_length(array); i++) {
            g_autofree char *path = g_strdup_printf("%s.%u", key, i);

            write_keyval(out, json_array_get_element(array, i), path);
        }
    } else {
        g_string_append_printf(out, "%s%s=", out->len ? "," : "", key);
        for (s = json_node_get_string(node); *s; s++) {
            g_string_append(out, *s == ',' ? ",," : (char[]){ *s, '\0' });
        }
    }
}

static void round_trip_keyval(JsonNode *node)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(JsonNode) again = NULL;
    g_autoptr(GError) err = NULL;
    bool keyval;

    write_keyval(text, node, "");
    again = keyval_parse(text->str, NULL, &keyval, &err);
    fuzz_assert(again && keyval && json_node_equal(node, again), "%s: %s",
                text->str, err ? err->message : "");
}

static char *json_of(JsonNode *node)
{
    GString *text = g_string_new(NULL);

    json_text_append(text, node, false);
    return g_string_free(text, FALSE);
}

static void round_trip_json(JsonNode *node)
{
    g_autofree char *text = json_of(node), *again_text = NULL;
    g_autoptr(JsonNode) again = json_text_parse(text, strlen(text), NULL);

    fuzz_assert(again, "%s", text);
    again_text = json_of(again);
    /* -0.0 comes back as the integer 0, as in QEMU. */
    fuzz_assert(g_str_equal(text, again_text) || strstr(text, "-0"), "%s, %s",
                text, again_text);
}

/* ---------------------------------------------------------------------------- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = NULL, *checked = NULL, *twice = NULL;
    g_autofree char *help = NULL;
    g_autoptr(JsonNode) node = NULL;
    g_autoptr(GError) err = NULL;
    Option o;
    bool keyval;

    if (size == 0) {
        return 0;
    }
    o = option(data[0]);
    text = g_strndup((const char *)data + 1, size - 1);
    help = object_help(text);
    node = keyval_parse(text, o.implied_key, &keyval, &err);
    fuzz_assert(!node == !!err);
    if (!node) {
        return 0;
    }
    if (keyval) {
        round_trip_keyval(node);
    }
    round_trip_json(node);
    if (!schema_check(o.type, node, "", keyval, &err)) {
        fuzz_assert(err);
        return 0;
    }
    checked = json_of(node);
    fuzz_assert(schema_check(o.type, node, "", false, &err), "%s: %s", checked,
                err->message);
    twice = json_of(node);
    fuzz_assert(g_str_equal(checked, twice), "%s, %s", checked, twice);
    round_trip_json(node);
    return 0;
}
