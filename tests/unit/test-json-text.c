/* SPDX-License-Identifier: GPL-2.0-or-later */
/* JSON text to nodes and back (util/json-text.c) */
#include <check.h>
#include <glib.h>
#include <string.h>

#include "unit-main.h"
#include "util/json-text.h"

static char *round_trip(const char *text, bool pretty)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = json_text_parse(text, strlen(text), &err);
    GString *out = g_string_new(NULL);

    ck_assert_msg(node != NULL, "%s: %s", text, err ? err->message : "?");
    json_text_append(out, node, pretty);
    return g_string_free(out, FALSE);
}

static const char *const round_trips[][2] = {
    { "{}", "{}" },
    { " [ ] ", "[]" },
    { "{'a':\"b\" , \"c\":[1,-2,true,false,null]}",
      "{\"a\": \"b\", \"c\": [1, -2, true, false, null]}" },
    { "9223372036854775807", "9223372036854775807" },
    { "-9223372036854775808", "-9223372036854775808" },
    { "9223372036854775808", "9.2233720368547758e+18" },
    { "1.5", "1.5" },
    { "-0.25e2", "-25" },
    { "\"\\u00e4\\ud83d\\ude00\\n\\\"\\\\\\/\"",
      "\"\\u00E4\\uD83D\\uDE00\\n\\\"\\\\/\"" },
    { "'\"\\''", "\"\\\"'\"" },
    { "\"\\u0001\\u007f\"", "\"\\u0001\\u007F\"" },
    { "\"\xe2\x82\xac\"", "\"\\u20AC\"" },
    { "\t\r\n0\n", "0" },
};

START_TEST(test_round_trip)
{
    g_autofree char *out = round_trip(round_trips[_i][0], false);

    ck_assert_str_eq(out, round_trips[_i][1]);
}
END_TEST

/* Strings that did not come from the parser may be anything. */
START_TEST(test_not_utf8)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_VALUE);
    g_autoptr(GString) out = g_string_new(NULL);

    json_node_set_string(node, "a\xff"
                               "b\xc3");
    json_text_append(out, node, false);
    ck_assert_str_eq(out->str, "\"a\\uFFFDb\\uFFFD\"");
}
END_TEST

START_TEST(test_pretty)
{
    g_autofree char *out = round_trip("{\"a\":[1,{}],\"b\":{\"c\":[]}}", true);

    ck_assert_str_eq(out, "{\n"
                          "    \"a\": [\n"
                          "        1,\n"
                          "        {}\n"
                          "    ],\n"
                          "    \"b\": {\n"
                          "        \"c\": []\n"
                          "    }\n"
                          "}");
}
END_TEST

static const char *const refused[][2] = {
    { "", "premature EOI" },
    { "{", "premature EOI" },
    { "[1", "premature EOI" },
    { "{\"a\"", "premature EOI" },
    { "{\"a\":", "premature EOI" },
    { "{\"a\":1", "premature EOI" },
    { "{\"a\":1,}", "key is not a string in object" },
    { "{a:1}", "key is not a string in object" },
    { "{\"a\" 1}", "missing : in object pair" },
    { "{\"a\":1 \"b\":2}", "expected separator in dict" },
    { "[1 2]", "expected separator in list" },
    { "[1,]", "expecting value" },
    { "[,]", "expecting value" },
    { "{\"a\":1,\"a\":2}", "duplicate key 'a'" },
    { "{} {}", "expecting at most one JSON value" },
    { "nul", "invalid keyword 'nul'" },
    { "01", "invalid keyword '01'" },
    { "+1", "invalid keyword '+1'" },
    { "1.", "invalid keyword '1.'" },
    { ".5", "invalid keyword '.5'" },
    { "1e", "invalid keyword '1e'" },
    { "0x10", "invalid keyword '0x10'" },
    { "-", "invalid keyword '-'" },
    { "NaN", "invalid keyword 'NaN'" },
    { "/* no */ 1", "invalid keyword '/*'" },
    { "1e999", "number '1e999' is too large" },
    { "\"abc", "unterminated string" },
    { "\"abc\\", "unterminated string" },
    { "\"a\nb\"", "control character in string" },
    { "\"\\x41\"", "invalid escape sequence in string" },
    { "\"\\u12g4\"", "invalid hex escape '\\u' in string" },
    { "\"\\u12\"", "invalid hex escape '\\u' in string" },
    { "\"\\u0000\"", "\\u0000 is not a valid Unicode character" },
    { "\"\\udc00\"", "\\udc00 is not a valid Unicode character" },
    { "\"\\ud800\"", "half a surrogate pair in string" },
    { "\"\\ud800\\u0041\"", "half a surrogate pair in string" },
    { "\"\xc3\"", "invalid UTF-8 sequence in string" },
    { "\"\xed\xa0\x80\"", "invalid UTF-8 sequence in string" },
    { "\xff", "invalid UTF-8 sequence" },
};

START_TEST(test_refused)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *want =
        g_strconcat("JSON parse error, ", refused[_i][1], NULL);

    ck_assert_ptr_null(
        json_text_parse(refused[_i][0], strlen(refused[_i][0]), &err));
    ck_assert_str_eq(err->message, want);
}
END_TEST

START_TEST(test_nul_bytes)
{
    static const char *const cases[] = { "\0{}", "{}\0", "\"a\0b\"", "[\0]" };
    static const size_t lengths[] = { 3, 3, 5, 3 };
    g_autoptr(GError) err = NULL;

    ck_assert_ptr_null(json_text_parse(cases[_i], lengths[_i], &err));
    ck_assert_ptr_nonnull(err);
}
END_TEST

static GString *nested(int depth)
{
    GString *text = g_string_new(NULL);
    int i;

    for (i = 0; i < depth; i++) {
        g_string_append_c(text, '[');
    }
    for (i = 0; i < depth; i++) {
        g_string_append_c(text, ']');
    }
    return text;
}

START_TEST(test_nesting)
{
    g_autoptr(GString) allowed = nested(JSON_TEXT_MAX_NESTING);
    g_autoptr(GString) too_deep = nested(JSON_TEXT_MAX_NESTING + 1);
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = NULL;

    node = json_text_parse(allowed->str, allowed->len, &err);
    ck_assert_ptr_nonnull(node);
    ck_assert_ptr_null(json_text_parse(too_deep->str, too_deep->len, &err));
    ck_assert_str_eq(err->message, "JSON parse error, nesting is too deep");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("json-text");
    TCase *tc = tcase_create("json-text");

    tcase_add_loop_test(tc, test_round_trip, 0, G_N_ELEMENTS(round_trips));
    tcase_add_test(tc, test_not_utf8);
    tcase_add_test(tc, test_pretty);
    tcase_add_loop_test(tc, test_refused, 0, G_N_ELEMENTS(refused));
    tcase_add_loop_test(tc, test_nul_bytes, 0, 4);
    tcase_add_test(tc, test_nesting);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
