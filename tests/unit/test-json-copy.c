/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copies of JSON values (util/json-copy.c) */
#include <string.h>

#include "unit-main.h"
#include "util/json-copy.h"
#include "util/json-text.h"

static JsonNode *parse(const char *text)
{
    JsonNode *node = json_text_parse(text, strlen(text), NULL);

    ck_assert_msg(node != NULL, "%s", text);
    return node;
}

static const char *const texts[] = {
    "null",
    "true",
    "false",
    "-9223372036854775808",
    "1.5",
    "\"text\"",
    "[]",
    "{}",
    "[1, [2, null], {\"a\": [true]}]",
    "{\"z\": 1, \"a\": {\"b\": \"c\"}, \"m\": [{}, 0.25]}",
};

/* Same values, same order */
START_TEST(test_equal)
{
    g_autoptr(JsonNode) node = parse(texts[_i]);
    g_autoptr(JsonNode) copy = json_deep_copy(node);
    g_autoptr(GString) text = g_string_new(NULL);

    g_clear_pointer(&node, json_node_unref);
    json_text_append(text, copy, false);
    ck_assert_str_eq(text->str, texts[_i]);
}
END_TEST

/* Not even the text of a string */
START_TEST(test_nothing_shared)
{
    g_autoptr(JsonNode) node = parse("{\"a\": {\"b\": [\"text\"]}}");
    JsonObject *object = json_node_get_object(node);
    JsonObject *copy = json_object_deep_copy(object);
    JsonObject *a = json_object_get_object_member(object, "a");
    JsonObject *copied_a = json_object_get_object_member(copy, "a");
    JsonArray *b = json_object_get_array_member(a, "b");
    JsonArray *copied_b = json_object_get_array_member(copied_a, "b");

    ck_assert_ptr_ne(a, copied_a);
    ck_assert_ptr_ne(b, copied_b);
    ck_assert_ptr_ne(json_array_get_element(b, 0),
                     json_array_get_element(copied_b, 0));
    ck_assert_ptr_ne(json_array_get_string_element(b, 0),
                     json_array_get_string_element(copied_b, 0));
    json_object_unref(copy);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("json-copy");
    TCase *tc = tcase_create("json-copy");

    tcase_add_loop_test(tc, test_equal, 0, G_N_ELEMENTS(texts));
    tcase_add_test(tc, test_nothing_shared);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
