/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Cutting a stream into JSON values (util/json-framer.c) */
#include <check.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>

#include "unit-main.h"
#include "util/json-framer.h"
#include "util/json-text.h"

#define MAX_BYTES 4096

/* Append what @framer has to give, one item a line. */
static void drain(JsonFramer *framer, GString *out)
{
    for (;;) {
        g_autoptr(GError) err = NULL;
        g_autoptr(JsonNode) node = NULL;

        if (!json_framer_next(framer, &node, &err)) {
            ck_assert_ptr_null(node);
            ck_assert_ptr_null(err);
            return;
        }
        ck_assert((node != NULL) != (err != NULL));
        if (node) {
            json_text_append(out, node, false);
        } else {
            ck_assert(g_str_has_prefix(err->message, "JSON parse error, "));
            g_string_append_printf(out, "!%s",
                                   err->message + strlen("JSON parse error, "));
        }
        g_string_append_c(out, '\n');
    }
}

typedef struct Stream {
    const char *text;
    size_t bytes; /* 0: up to NUL */
    const char *want;
} Stream;

static const Stream streams[] = {
    { "{}", 0, "{}\n" },
    { "{\"a\":1}{\"b\":[2]} [3]\r\n'x'\"y\"", 0,
      "{\"a\": 1}\n{\"b\": [2]}\n[3]\n\"x\"\n\"y\"\n" },
    { "1 true\nnull{}", 0, "1\ntrue\nnull\n{}\n" },
    /* brackets and quotes within strings */
    { "{\"}\":\"\\\"}\\\\\",'\"':'\\'}'}{}", 0,
      "{\"}\": \"\\\"}\\\\\", \"\\\"\": \"'}\"}\n{}\n" },
    /* balanced, but wrong */
    { "{\"a\" 1}{\"b\":2}", 0, "!missing : in object pair\n{\"b\": 2}\n" },
    { "{foo}{}", 0, "!key is not a string in object\n{}\n" },
    { "[1,]{}", 0, "!expecting value\n{}\n" },
    { "{\"a\":\"\xc3\"}{}", 0, "!invalid UTF-8 sequence in string\n{}\n" },
    { "{\"a\":\xc3\xa4}{}", 0, "!invalid keyword '\xc3\xa4'\n{}\n" },
    /* garbage gives one error a line, and none before an object */
    { "GET / HTTP/1.1\r\nHost: \"x\"\r\n\r\n{}", 0,
      "!invalid keyword 'GET'\n!invalid keyword 'Host'\n{}\n" },
    { "foo{}", 0, "!invalid keyword 'foo'\n{}\n" },
    { "}]{}", 0, "!stray '}'\n{}\n" },
    { ", {}\n:\n{}", 0, "!stray ','\n{}\n!stray ':'\n{}\n" },
    { "\x01\x02{}", 0, "!stray '\\x01'\n{}\n" },
    { "\0\0{}", 4, "!stray '\\x00'\n{}\n" },
    { "\xff{}", 0, "!stray '\\xff'\n{}\n" },
    { "\xef\xbb\xbf{}", 0, "!invalid keyword '\xef\xbb\xbf'\n{}\n" },
    { "\x80{}", 0, "!invalid UTF-8 sequence\n{}\n" },
    /* brackets that do not match */
    { "{]}{}", 0, "!stray ']'\n{}\n" },
    { "{\"a\":[1}\n{}", 0, "!stray '}'\n{}\n" },
    { "[[}}\n{}", 0, "!stray '}'\n{}\n" },
    /* control characters */
    { "{\"a\":\"b\nc\"}\n{}", 0, "!stray '\\x0a'\n!invalid keyword 'c'\n{}\n" },
    { "{\"a\":\n\t1}{}", 0, "{\"a\": 1}\n{}\n" },
    { "{\"a\":\"b\tc}\"}{}", 0, "!stray '\\x09'\n{}\n" },
    { "{\"a\":\0 1}{}", 11, "!stray '\\x00'\n{}\n" },
    { "{\"a\":\x1f 1\n{}", 0, "!stray '\\x1f'\n{}\n" },
    /* what is begun ends here */
    { "{\"a\":[{\xff{}", 0, "!stray '\\xff'\n{}\n" },
    { "{\"a\":\"\xfe{}", 0, "!stray '\\xfe'\n{}\n" },
    { "{\"a\":\"\\\n{}", 0, "!stray '\\x0a'\n{}\n" },
    /* the end of the stream */
    { "12", 0, "12\n" },
    { "{\"a\":", 0, "!premature EOI\n" },
    { "{} \"a", 0, "{}\n!unterminated string\n" },
    { "{]", 0, "!stray ']'\n" },
    { "", 0, "" },
};

START_TEST(test_streams)
{
    const Stream *s = &streams[_i];
    size_t bytes = s->bytes ? s->bytes : strlen(s->text);
    size_t step, pos;

    /* At once, byte by byte, and everything in between */
    for (step = 1; step <= bytes + 1; step++) {
        g_autoptr(JsonFramer) framer = json_framer_new(MAX_BYTES);
        g_autoptr(GString) out = g_string_new(NULL);

        for (pos = 0; pos < bytes; pos += step) {
            json_framer_push(framer, s->text + pos, MIN(step, bytes - pos));
            drain(framer, out);
        }
        json_framer_end(framer);
        drain(framer, out);
        ck_assert_str_eq(out->str, s->want);
    }
    /* Cut in two at each byte, nothing taken in between */
    for (pos = 0; pos <= bytes; pos++) {
        g_autoptr(JsonFramer) framer = json_framer_new(MAX_BYTES);
        g_autoptr(GString) out = g_string_new(NULL);

        json_framer_push(framer, s->text, pos);
        json_framer_push(framer, s->text + pos, bytes - pos);
        json_framer_end(framer);
        drain(framer, out);
        ck_assert_str_eq(out->str, s->want);
    }
}
END_TEST

static void assert_stream(const GString *text, const char *want)
{
    g_autoptr(JsonFramer) framer = json_framer_new(MAX_BYTES);
    g_autoptr(GString) out = g_string_new(NULL);

    json_framer_push(framer, text->str, text->len);
    drain(framer, out);
    ck_assert_str_eq(out->str, want);
}

static void append_n(GString *text, size_t n, const char *s)
{
    while (n--) {
        g_string_append(text, s);
    }
}

START_TEST(test_longest)
{
    g_autoptr(GString) text = g_string_new("\"");
    g_autofree char *want = NULL;

    append_n(text, MAX_BYTES - 2, "x");
    g_string_append(text, "\"");
    want = g_strdup_printf("%s\n", text->str);
    assert_stream(text, want);
}
END_TEST

/* Too long: one error, whatever its strings hold, and the stream goes on. */
START_TEST(test_too_long)
{
    static const char *const starts[] = { "{\"a\":\"", "\"", "[", "[[\"{\",",
                                          "{\n\"a\":\n" };
    static const char *const fillings[] = { "\\\"}", "\\\\", "1,\n", "{},\n",
                                            "[1,\n{}],\n" };
    static const char *const ends[] = { "\"}", "\"", "1]", "1]]", "1}" };
    g_autoptr(GString) text = g_string_new(starts[_i]);

    append_n(text, MAX_BYTES, fillings[_i]);
    g_string_append(text, ends[_i]);
    g_string_append(text, "{}");
    assert_stream(text, "!value has more than 4096 bytes\n{}\n");
}
END_TEST

START_TEST(test_long_word)
{
    g_autoptr(GString) text = g_string_new(NULL);

    append_n(text, 3 * MAX_BYTES, "9");
    g_string_append(text, "\n{}");
    assert_stream(text, "!value has more than 4096 bytes\n{}\n");
}
END_TEST

/* Too deep: the line is skipped, or the value if it ends before. */
START_TEST(test_too_deep)
{
    static const char *const brackets[][3] = {
        { "[", "]", "" },
        { "[", "", "\n" },
        { "{\"a\":", "", "\n" },
        { "{\"a\":", "}", "" },
    };
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(JsonFramer) framer = json_framer_new(10000000);
    g_autoptr(GString) out = g_string_new(NULL);

    append_n(text, 100000, brackets[_i][0]);
    append_n(text, 100000, brackets[_i][1]);
    append_n(text, 1, brackets[_i][2]);
    g_string_append(text, "{}");
    json_framer_push(framer, text->str, text->len);
    drain(framer, out);
    ck_assert_str_eq(out->str, "!nesting is too deep\n{}\n");
}
END_TEST

START_TEST(test_deepest)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autofree char *want = NULL;

    append_n(text, JSON_TEXT_MAX_NESTING, "[");
    append_n(text, JSON_TEXT_MAX_NESTING, "]");
    want = g_strdup_printf("%s\n", text->str);
    assert_stream(text, want);
}
END_TEST

/* Whatever comes, a reset byte and an object behind it are understood. */
START_TEST(test_random)
{
    static const char alphabet[] = "{}[]:,\"'\\ \n\t\r\0\x01\x80\xc3\xfe\xff"
                                   "u0d8ae1-+.tfn";
    g_autoptr(GRand) rand = g_rand_new_with_seed(_i);
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GString) whole = g_string_new(NULL);
    g_autoptr(GString) bytewise = g_string_new(NULL);
    g_autoptr(JsonFramer) a = json_framer_new(64);
    g_autoptr(JsonFramer) b = json_framer_new(64);
    int i;

    for (i = 0; i < 5000; i++) {
        int n = g_rand_int_range(rand, 0, sizeof(alphabet) - 1);

        g_string_append_c(text, alphabet[n]);
    }
    g_string_append(text, "\xff{\"done\":1}");
    json_framer_push(a, text->str, text->len);
    drain(a, whole);
    for (i = 0; i < (int)text->len; i++) {
        json_framer_push(b, text->str + i, 1);
        drain(b, bytewise);
    }
    ck_assert_str_eq(whole->str, bytewise->str);
    ck_assert(g_str_has_suffix(whole->str, "\n{\"done\": 1}\n"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("json-framer");
    TCase *tc = tcase_create("json-framer");

    tcase_add_loop_test(tc, test_streams, 0, G_N_ELEMENTS(streams));
    tcase_add_test(tc, test_longest);
    tcase_add_loop_test(tc, test_too_long, 0, 5);
    tcase_add_test(tc, test_long_word);
    tcase_add_loop_test(tc, test_too_deep, 0, 4);
    tcase_add_test(tc, test_deepest);
    tcase_add_loop_test(tc, test_random, 0, 50);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
