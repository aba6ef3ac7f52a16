/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checking values against schemas (util/schema.c) */
#include <check.h>
#include <glib.h>
#include <string.h>

#include "unit-main.h"
#include "util/json-text.h"
#include "util/keyval.h"
#include "util/schema.h"

static const char *const colours[] = { "red", "green", NULL };
static const SchemaType colour_type = {
    .name = "Colour",
    .kind = SCHEMA_ENUM,
    .values = colours,
};

static const char *const kinds[] = { "disk", "net", "bare", NULL };
static const SchemaType kind_type = {
    .name = "Kind",
    .kind = SCHEMA_ENUM,
    .values = kinds,
};

static const SchemaType disk_type = {
    .name = "Disk",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { .name = "size", .type = &schema_size },
            { .name = "ro", .type = &schema_bool, .optional = true },
            { NULL },
        },
};

static bool branch(size_t n, const char **tag, const SchemaType **type)
{
    static const char *const tags[] = { "disk", "net" };

    if (n >= G_N_ELEMENTS(tags)) {
        return false;
    }
    *tag = tags[n];
    *type = n == 0 ? &disk_type : NULL;
    return true;
}

static const SchemaType union_type = {
    .name = "Union",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { .name = "kind", .type = &kind_type },
            { .name = "name", .type = &schema_str, .optional = true },
            { NULL },
        },
    .discriminator = "kind",
    .branch = branch,
};

static const SchemaType open_union_type = {
    .name = "OpenUnion",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { .name = "kind", .type = &schema_str },
            { NULL },
        },
    .discriminator = "kind",
    .branch = branch,
};

static const SchemaType ref_type = {
    .name = "Ref",
    .kind = SCHEMA_ALTERNATE,
    .alternatives =
        (const SchemaType *const[]){
            &schema_str,
            &union_type,
            &schema_null,
            NULL,
        },
};

static const SchemaType int_list_type = {
    .name = "intList",
    .kind = SCHEMA_ARRAY,
    .element = &schema_int,
};

static const SchemaType union_list_type = {
    .name = "UnionList",
    .kind = SCHEMA_ARRAY,
    .element = &union_type,
};

static const SchemaType args_type = {
    .name = "Args",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { .name = "s", .type = &schema_str, .optional = true },
            { .name = "b", .type = &schema_bool, .optional = true },
            { .name = "i", .type = &schema_int, .optional = true },
            { .name = "u", .type = &schema_uint, .optional = true },
            { .name = "z", .type = &schema_size, .optional = true },
            { .name = "n", .type = &schema_number, .optional = true },
            { .name = "e", .type = &colour_type, .optional = true },
            { .name = "o", .type = &union_type, .optional = true },
            { .name = "w", .type = &open_union_type, .optional = true },
            { .name = "r", .type = &ref_type, .optional = true },
            { .name = "l", .type = &int_list_type, .optional = true },
            { .name = "ul", .type = &union_list_type, .optional = true },
            { .name = "any", .type = &schema_any, .optional = true },
            { NULL },
        },
};

static const char *const accepted[] = {
    "{}",
    "{\"s\": \"\", \"b\": false, \"i\": -1, \"u\": 0, \"z\": 1}",
    "{\"n\": 1, \"e\": \"green\"}",
    "{\"n\": 1.5}",
    "{\"o\": {\"kind\": \"disk\", \"size\": 1, \"ro\": true}}",
    "{\"o\": {\"kind\": \"net\", \"name\": \"x\"}}",
    "{\"o\": {\"kind\": \"bare\"}}",
    "{\"w\": {\"kind\": \"net\"}}",
    "{\"r\": \"node\"}",
    "{\"r\": null}",
    "{\"r\": {\"kind\": \"net\"}}",
    "{\"l\": [], \"ul\": [{\"kind\": \"net\"}]}",
    "{\"any\": [{\"x\": null}]}",
};

static JsonNode *parse(const char *text)
{
    g_autoptr(GError) err = NULL;
    JsonNode *node = json_text_parse(text, strlen(text), &err);

    ck_assert_msg(node != NULL, "%s: %s", text, err ? err->message : "?");
    return node;
}

START_TEST(test_accepted)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = parse(accepted[_i]);
    g_autoptr(JsonNode) before = json_node_copy(node);
    bool ok = schema_check(&args_type, node, "", false, &err);

    ck_assert_msg(ok, "%s: %s", accepted[_i], err ? err->message : "?");
    ck_assert(json_node_equal(node, before));
}
END_TEST

static const char *const refused[][2] = {
    { "1", "Invalid parameter type for '', expected: object" },
    { "{\"x\": 1}", "Parameter 'x' is unexpected" },
    { "{\"s\": 1}", "Invalid parameter type for 's', expected: string" },
    { "{\"s\": null}", "Invalid parameter type for 's', expected: string" },
    { "{\"b\": \"on\"}", "Invalid parameter type for 'b', expected: boolean" },
    { "{\"b\": 1}", "Invalid parameter type for 'b', expected: boolean" },
    { "{\"i\": \"1\"}", "Invalid parameter type for 'i', expected: integer" },
    { "{\"i\": 1.5}", "Invalid parameter type for 'i', expected: integer" },
    { "{\"i\": 1.0}", "Invalid parameter type for 'i', expected: integer" },
    { "{\"i\": 9223372036854775808}",
      "Parameter 'i' expects an integer below 2^63" },
    { "{\"u\": -1}", "Parameter 'u' expects a non-negative integer" },
    { "{\"z\": -1}", "Parameter 'z' expects a non-negative integer" },
    { "{\"z\": \"1k\"}", "Invalid parameter type for 'z', expected: integer" },
    { "{\"n\": \"1\"}", "Invalid parameter type for 'n', expected: number" },
    { "{\"e\": 1}", "Invalid parameter type for 'e', expected: string" },
    { "{\"e\": \"blue\"}", "Parameter 'e' does not accept value 'blue'" },
    { "{\"o\": []}", "Invalid parameter type for 'o', expected: object" },
    { "{\"o\": {}}", "Parameter 'o.kind' is missing" },
    { "{\"o\": {\"kind\": \"x\"}}",
      "Parameter 'o.kind' does not accept value 'x'" },
    { "{\"o\": {\"kind\": \"disk\"}}", "Parameter 'o.size' is missing" },
    { "{\"o\": {\"kind\": \"net\", \"size\": 1}}",
      "Parameter 'o.size' is unexpected" },
    { "{\"o\": {\"kind\": \"bare\", \"size\": 1}}",
      "Parameter 'o.size' is unexpected" },
    { "{\"w\": {\"kind\": \"bare\"}}",
      "Parameter 'w.kind' does not accept value 'bare'" },
    { "{\"r\": 1}", "Invalid parameter type for 'r', expected: Ref" },
    { "{\"r\": {}}", "Parameter 'r.kind' is missing" },
    { "{\"l\": {}}", "Invalid parameter type for 'l', expected: array" },
    { "{\"l\": [1, true]}",
      "Invalid parameter type for 'l[1]', expected: integer" },
    { "{\"ul\": [{\"kind\": \"disk\", \"size\": false}]}",
      "Invalid parameter type for 'ul[0].size', expected: integer" },
};

START_TEST(test_refused)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = parse(refused[_i][0]);

    ck_assert(!schema_check(&args_type, node, "", false, &err));
    ck_assert_str_eq(err->message, refused[_i][1]);
}
END_TEST

START_TEST(test_what)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = parse("{\"o\": {}}");

    ck_assert(!schema_check(&args_type, node, "options", false, &err));
    ck_assert_str_eq(err->message, "Parameter 'options.o.kind' is missing");
}
END_TEST

static const char *const keyval_accepted[][2] = {
    { "s=1", "{\"s\": \"1\"}" },
    { "b=on", "{\"b\": true}" },
    { "b=y", "{\"b\": true}" },
    { "b=false", "{\"b\": false}" },
    { "i=-0x10", "{\"i\": -16}" },
    { "i=9223372036854775807", "{\"i\": 9223372036854775807}" },
    { "u=010", "{\"u\": 8}" },
    { "z=010", "{\"z\": 10}" },
    { "z=1b", "{\"z\": 1}" },
    { "z=64k", "{\"z\": 65536}" },
    { "z=1.5M", "{\"z\": 1572864}" },
    { "z=0x1000", "{\"z\": 4096}" },
    { "z=7E", "{\"z\": 8070450532247928832}" },
    { "n=1.5", "{\"n\": 1.5}" },
    { "e=red", "{\"e\": \"red\"}" },
    { "o.kind=disk,o.size=1G,o.ro=off",
      "{\"o\": {\"kind\": \"disk\", \"size\": 1073741824, \"ro\": false}}" },
    { "r=1", "{\"r\": \"1\"}" },
    { "r.kind=disk,r.size=1", "{\"r\": {\"kind\": \"disk\", \"size\": 1}}" },
    { "l.0=1,l.1=2", "{\"l\": [1, 2]}" },
    { "any=1", "{\"any\": \"1\"}" },
};

START_TEST(test_keyval_accepted)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(GString) out = g_string_new(NULL);
    g_autoptr(JsonNode) node = NULL;
    bool keyval, ok;

    node = keyval_parse(keyval_accepted[_i][0], NULL, &keyval, &err);
    ck_assert_ptr_nonnull(node);
    ok = schema_check(&args_type, node, "", keyval, &err);
    ck_assert_msg(ok, "%s: %s", keyval_accepted[_i][0],
                  err ? err->message : "?");
    json_text_append(out, node, false);
    ck_assert_str_eq(out->str, keyval_accepted[_i][1]);
}
END_TEST

#define SIZE_EXPECTED                                                          \
    "Parameter 'z' expects a size: a number of bytes below 2^63, optionally "  \
    "with suffix k, M, G, T, P or E"

static const char *const keyval_refused[][2] = {
    { "b=1", "Parameter 'b' expects 'on' or 'off'" },
    { "b=", "Parameter 'b' expects 'on' or 'off'" },
    { "i=", "Parameter 'i' expects integer" },
    { "i=1k", "Parameter 'i' expects integer" },
    { "i= 1", "Parameter 'i' expects integer" },
    { "i=+1", "Parameter 'i' expects integer" },
    { "i=9223372036854775808", "Parameter 'i' expects integer" },
    { "u=-1", "Parameter 'u' expects a non-negative integer" },
    { "z=-1", SIZE_EXPECTED },
    { "z=1x", SIZE_EXPECTED },
    { "z=1kk", SIZE_EXPECTED },
    { "z=8E", SIZE_EXPECTED },
    { "z=1.5", SIZE_EXPECTED },
    { "z=1.k", SIZE_EXPECTED },
    { "z=0x1k", SIZE_EXPECTED },
    { "z=99999999999999999999", SIZE_EXPECTED },
    { "n=x", "Parameter 'n' expects number" },
    { "n=nan", "Parameter 'n' expects number" },
    { "e=blue", "Parameter 'e' does not accept value 'blue'" },
    { "o=1", "Invalid parameter type for 'o', expected: object" },
    { "l=1", "Invalid parameter type for 'l', expected: array" },
    { "l.0=1,l.1=x", "Parameter 'l.1' expects integer" },
    { "s.x=1", "Invalid parameter type for 's', expected: string" },
    { "ul.0.kind=disk", "Parameter 'ul.0.size' is missing" },
};

START_TEST(test_keyval_refused)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = NULL;
    bool keyval;

    node = keyval_parse(keyval_refused[_i][0], NULL, &keyval, &err);
    ck_assert_ptr_nonnull(node);
    ck_assert(!schema_check(&args_type, node, "", keyval, &err));
    ck_assert_str_eq(err->message, keyval_refused[_i][1]);
}
END_TEST

START_TEST(test_getters)
{
    g_autoptr(JsonNode) node = parse(
        "{\"s\": \"x\", \"b\": true, \"i\": 7, \"n\": 2, \"e\": \"green\","
        " \"o\": {\"kind\": \"net\"}}");
    g_autoptr(JsonObject) empty = json_object_new();
    JsonObject *obj = json_node_get_object(node);

    ck_assert_str_eq(schema_get_str(obj, "s", "d"), "x");
    ck_assert_str_eq(schema_get_str(empty, "s", "d"), "d");
    ck_assert(schema_get_bool(obj, "b", false));
    ck_assert(schema_get_bool(empty, "b", true));
    ck_assert_int_eq(schema_get_int(obj, "i", 1), 7);
    ck_assert_int_eq(schema_get_int(empty, "i", 1), 1);
    ck_assert(schema_get_number(obj, "n", 1) == 2);
    ck_assert(schema_get_number(empty, "n", 1) == 1);
    ck_assert_int_eq(schema_get_enum(obj, "e", &colour_type, 0), 1);
    ck_assert_int_eq(schema_get_enum(empty, "e", &colour_type, 5), 5);
    ck_assert_str_eq(schema_get_str(schema_get_object(obj, "o"), "kind", ""),
                     "net");
    ck_assert_ptr_null(schema_get_object(empty, "o"));
    ck_assert(schema_has(obj, "s") && !schema_has(empty, "s"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("schema");
    TCase *tc = tcase_create("schema");

    tcase_add_loop_test(tc, test_accepted, 0, G_N_ELEMENTS(accepted));
    tcase_add_loop_test(tc, test_refused, 0, G_N_ELEMENTS(refused));
    tcase_add_test(tc, test_what);
    tcase_add_loop_test(tc, test_keyval_accepted, 0,
                        G_N_ELEMENTS(keyval_accepted));
    tcase_add_loop_test(tc, test_keyval_refused, 0,
                        G_N_ELEMENTS(keyval_refused));
    tcase_add_test(tc, test_getters);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
