/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tables as query-qmp-schema shows them (block/monitor/qmp-introspect.c) */
#include <check.h>
#include <glib.h>
#include <string.h>

#include "block/monitor/qmp-introspect.h"
#include "unit-main.h"
#include "util/json-text.h"

const QmpCommand *const qmp_command_tables[] = { NULL };
const QmpEvent *const qmp_event_tables[] = { NULL };

static JsonArray *infos;

static void introspect(const QmpCommand *commands, const QmpEvent *events)
{
    const QmpCommand *const command_tables[] = { commands, NULL };
    const QmpEvent *const event_tables[] = { events, NULL };

    infos = qmp_introspect(command_tables, event_tables);
}

static void teardown(void)
{
    g_clear_pointer(&infos, json_array_unref);
}

/* The one entry of that name is @want. */
static void expect(const char *name, const char *want)
{
    g_autoptr(GString) out = g_string_new(NULL);
    guint i;

    for (i = 0; i < json_array_get_length(infos); i++) {
        JsonNode *node = json_array_get_element(infos, i);

        if (!strcmp(json_object_get_string_member(json_node_get_object(node),
                                                  "name"),
                    name)) {
            json_text_append(out, node, false);
        }
    }
    ck_assert_str_eq(out->str, want);
}

static const SchemaType colour_type = {
    .name = "Colour",
    .kind = SCHEMA_ENUM,
    .values = (const char *const[]){ "red", "green", NULL },
};

static const SchemaType disk_type = {
    .name = "Disk",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "size", &schema_size }, { NULL } },
};

static bool colour_branch(size_t n, const char **tag, const SchemaType **type)
{
    *tag = "red";
    *type = &disk_type;
    return n == 0;
}

/* Refers to itself, as nodes to their children */
static const SchemaType node_type;

static const SchemaType ref_type = {
    .name = "Ref",
    .kind = SCHEMA_ALTERNATE,
    .alternatives = (const SchemaType *const[]){ &schema_str, &node_type,
                                                 &schema_null, NULL },
};

static const SchemaType refs_type = {
    .kind = SCHEMA_ARRAY,
    .element = &ref_type,
};

static const SchemaType node_type = {
    .name = "Node",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "colour", &colour_type },
                                       { "children", &refs_type,
                                         .optional = true, .unstable = true },
                                       { NULL } },
    .discriminator = "colour",
    .branch = colour_branch,
};

static const QmpCommand node_commands[] = {
    { "x-node", QMP_MANAGEMENT, .unstable = true, .args = &node_type },
    { "query-nodes", QMP_MAIN, .ret = &refs_type },
    { NULL },
};

static const QmpEvent node_events[] = {
    { "NODE", &disk_type },
    { "NOTHING" },
    { NULL },
};

START_TEST(test_everything)
{
    introspect(node_commands, node_events);
    expect("x-node", "{\"name\": \"x-node\", \"meta-type\": \"command\", "
                     "\"arg-type\": \"Node\", \"ret-type\": \"Empty\", "
                     "\"features\": [\"unstable\"]}");
    expect("query-nodes",
           "{\"name\": \"query-nodes\", \"meta-type\": \"command\", "
           "\"arg-type\": \"Empty\", \"ret-type\": \"[Ref]\", "
           "\"allow-oob\": true}");
    expect("NODE", "{\"name\": \"NODE\", \"meta-type\": \"event\", "
                   "\"arg-type\": \"Disk\"}");
    expect("NOTHING", "{\"name\": \"NOTHING\", \"meta-type\": \"event\", "
                      "\"arg-type\": \"Empty\"}");
    expect("Node",
           "{\"name\": \"Node\", \"meta-type\": \"object\", "
           "\"tag\": \"colour\", \"variants\": ["
           "{\"case\": \"red\", \"type\": \"Disk\"}, "
           "{\"case\": \"green\", \"type\": \"Empty\"}], \"members\": ["
           "{\"name\": \"colour\", \"type\": \"Colour\"}, "
           "{\"name\": \"children\", \"type\": \"[Ref]\", \"default\": null, "
           "\"features\": [\"unstable\"]}]}");
    expect("Colour", "{\"name\": \"Colour\", \"meta-type\": \"enum\", "
                     "\"members\": [{\"name\": \"red\"}, "
                     "{\"name\": \"green\"}], "
                     "\"values\": [\"red\", \"green\"]}");
    expect("[Ref]", "{\"name\": \"[Ref]\", \"meta-type\": \"array\", "
                    "\"element-type\": \"Ref\"}");
    expect("Ref", "{\"name\": \"Ref\", \"meta-type\": \"alternate\", "
                  "\"members\": [{\"type\": \"str\"}, {\"type\": \"Node\"}, "
                  "{\"type\": \"null\"}]}");
    expect("Disk", "{\"name\": \"Disk\", \"meta-type\": \"object\", "
                   "\"members\": [{\"name\": \"size\", \"type\": \"int\"}]}");
    expect("Empty", "{\"name\": \"Empty\", \"meta-type\": \"object\", "
                    "\"members\": []}");
    expect("int", "{\"name\": \"int\", \"meta-type\": \"builtin\", "
                  "\"json-type\": \"int\"}");
    expect("str", "{\"name\": \"str\", \"meta-type\": \"builtin\", "
                  "\"json-type\": \"string\"}");
    expect("null", "{\"name\": \"null\", \"meta-type\": \"builtin\", "
                   "\"json-type\": \"null\"}");
    ck_assert_uint_eq(json_array_get_length(infos), 13);
}
END_TEST

/* Types of one name, and tags that no enumeration lists */
static const SchemaType other_disk_type = {
    .name = "Disk",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "any", &schema_any },
                                       { "disk", &disk_type },
                                       { "b", &schema_bool },
                                       { "n", &schema_number },
                                       { "i", &schema_int },
                                       { "u", &schema_uint },
                                       { NULL } },
};

static const SchemaType tagged_type = {
    .name = "Tagged",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "tag", &schema_str },
                                       { "d", &other_disk_type },
                                       { NULL } },
    .discriminator = "tag",
    .branch = colour_branch,
};

static const QmpCommand tagged_commands[] = {
    { "tagged", QMP_MAIN, .args = &tagged_type },
    { NULL },
};

START_TEST(test_names)
{
    introspect(tagged_commands, node_events + 2);
    expect("Tagged", "{\"name\": \"Tagged\", \"meta-type\": \"object\", "
                     "\"tag\": \"tag\", \"variants\": ["
                     "{\"case\": \"red\", \"type\": \"Disk\"}], \"members\": ["
                     "{\"name\": \"tag\", \"type\": \"TaggedKind\"}, "
                     "{\"name\": \"d\", \"type\": \"Disk-2\"}]}");
    expect("TaggedKind", "{\"name\": \"TaggedKind\", \"meta-type\": \"enum\", "
                         "\"members\": [{\"name\": \"red\"}], "
                         "\"values\": [\"red\"]}");
    expect("Disk-2",
           "{\"name\": \"Disk-2\", \"meta-type\": \"object\", \"members\": ["
           "{\"name\": \"any\", \"type\": \"any\"}, "
           "{\"name\": \"disk\", \"type\": \"Disk\"}, "
           "{\"name\": \"b\", \"type\": \"bool\"}, "
           "{\"name\": \"n\", \"type\": \"number\"}, "
           "{\"name\": \"i\", \"type\": \"int\"}, "
           "{\"name\": \"u\", \"type\": \"int\"}]}");
}
END_TEST

/* What is shown is what the description of it allows. */
START_TEST(test_own_type)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = NULL;
    bool ok;

    introspect(node_commands, node_events);
    node = qmp_node_from_array(json_array_ref(infos));
    ok = schema_check(&schema_info_list_type, node, "", false, &err);
    ck_assert_msg(ok, "%s", err ? err->message : "?");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("qmp-introspect");
    TCase *tc = tcase_create("qmp-introspect");

    tcase_add_checked_fixture(tc, NULL, teardown);
    tcase_add_test(tc, test_everything);
    tcase_add_test(tc, test_names);
    tcase_add_test(tc, test_own_type);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
