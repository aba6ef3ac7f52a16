/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The key=value,... syntax (util/keyval.c) */
#include <check.h>
#include <glib.h>

#include "unit-main.h"
#include "util/json-text.h"
#include "util/keyval.h"

typedef struct Case {
    const char *text, *implied_key, *want;
} Case;

static const Case good[] = {
    { "", NULL, "{}" },
    { "a=1,b=x y", NULL, "{\"a\": \"1\", \"b\": \"x y\"}" },
    { "a=1,", NULL, "{\"a\": \"1\"}" },
    { "a=", NULL, "{\"a\": \"\"}" },
    { "a=x,,y,b=,,", NULL, "{\"a\": \"x,y\", \"b\": \",\"}" },
    { "a=x=y", NULL, "{\"a\": \"x=y\"}" },
    { "nbd,id=e0", "type", "{\"type\": \"nbd\", \"id\": \"e0\"}" },
    { "x,,y,id=e0", "type", "{\"type\": \"x,y\", \"id\": \"e0\"}" },
    { "a.b=1,c=2,a.d.e=3", NULL,
      "{\"a\": {\"b\": \"1\", \"d\": {\"e\": \"3\"}}, \"c\": \"2\"}" },
    { "a=1,a=2", NULL, "{\"a\": \"2\"}" },
    { "a.b=1,a.b=2", NULL, "{\"a\": {\"b\": \"2\"}}" },
    { "nbd,type=x", "type", "{\"type\": \"x\"}" },
    { "a.1=y,a.0=x", NULL, "{\"a\": [\"x\", \"y\"]}" },
    { "a.00=x,a.01.b=y", NULL, "{\"a\": [\"x\", {\"b\": \"y\"}]}" },
    { "a.0.0=x", NULL, "{\"a\": [[\"x\"]]}" },
    { "x-a_b.c1=1", NULL, "{\"x-a_b\": {\"c1\": \"1\"}}" },
    { "{\"a\": {\"b\": 1}}", "type", "{\"a\": {\"b\": 1}}" },
};

START_TEST(test_good)
{
    const Case *c = &good[_i];
    g_autoptr(GError) err = NULL;
    g_autoptr(GString) out = g_string_new(NULL);
    g_autoptr(JsonNode) node = NULL;
    bool keyval;

    node = keyval_parse(c->text, c->implied_key, &keyval, &err);
    ck_assert_msg(node != NULL, "%s: %s", c->text, err ? err->message : "?");
    ck_assert(keyval == (c->text[0] != '{'));
    json_text_append(out, node, false);
    ck_assert_str_eq(out->str, c->want);
}
END_TEST

static const Case bad[] = {
    { "a", NULL, "Expected '=' after parameter 'a'" },
    { "a=1,b", NULL, "Expected '=' after parameter 'b'" },
    { "x,y", "type", "Expected '=' after parameter 'y'" },
    { "=x", "type", "Invalid parameter ''" },
    { ",a=1", "type", "Invalid parameter ''" },
    { "a=1,=2", NULL, "Invalid parameter ''" },
    { "1a=x", NULL, "Invalid parameter '1a'" },
    { "a..b=x", NULL, "Invalid parameter 'a..b'" },
    { "a.=x", NULL, "Invalid parameter 'a.'" },
    { ".a=x", NULL, "Invalid parameter '.a'" },
    { "a b=x", NULL, "Invalid parameter 'a b'" },
    { "a\xc3\xa4=x", NULL, "Invalid parameter 'a\xc3\xa4'" },
    { "a=\xc3", NULL, "Value of parameter 'a' is not valid UTF-8" },
    { "a=1,a.b=2", NULL, "Parameters 'a.*' used inconsistently" },
    { "a.b=2,a=1", NULL, "Parameters 'a.*' used inconsistently" },
    { "a.b=2,a.b.c=1", NULL, "Parameters 'a.b.*' used inconsistently" },
    { "a.0=x,a.b=y", NULL, "Parameters 'a.*' used inconsistently" },
    { "c.a.0=x,c.a.b=y", NULL, "Parameters 'c.a.*' used inconsistently" },
    { "0=x", NULL, "Parameters '*' used inconsistently" },
    { "a.0=x,a.2=y", NULL, "Parameter 'a.1' missing" },
    { "a.99999999999999999999=x", NULL, "Parameter 'a.0' missing" },
    { "{\"a\": 1", NULL, "JSON parse error, premature EOI" },
    { "{} x", NULL, "JSON parse error, expecting at most one JSON value" },
};

static void assert_refused(const char *text, const char *implied_key,
                           const char *want)
{
    g_autoptr(GError) err = NULL;
    bool keyval;

    ck_assert_ptr_null(keyval_parse(text, implied_key, &keyval, &err));
    ck_assert_str_eq(err->message, want);
}

START_TEST(test_bad)
{
    assert_refused(bad[_i].text, bad[_i].implied_key, bad[_i].want);
}
END_TEST

START_TEST(test_long_key)
{
    g_autofree char *fits = g_strnfill(127, 'k');
    g_autofree char *fits_text = g_strconcat(fits, "=1", NULL);
    g_autofree char *text = g_strconcat("k", fits, "=1", NULL);
    g_autofree char *want =
        g_strdup_printf("Parameter 'k%s' is too long", fits);
    g_autoptr(JsonNode) node = NULL;
    bool keyval;

    node = keyval_parse(fits_text, NULL, &keyval, NULL);
    ck_assert_ptr_nonnull(node);
    assert_refused(text, NULL, want);
}
END_TEST

START_TEST(test_deep_key)
{
    g_autoptr(GString) key = g_string_new("a");
    g_autofree char *want = NULL;
    int i;

    for (i = 0; i < 20000; i++) {
        g_string_append(key, ".a");
    }
    want = g_strdup_printf("Parameter '%s' is nested too deeply", key->str);
    g_string_append(key, "=1");
    assert_refused(key->str, NULL, want);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("keyval");
    TCase *tc = tcase_create("keyval");

    tcase_add_loop_test(tc, test_good, 0, G_N_ELEMENTS(good));
    tcase_add_loop_test(tc, test_bad, 0, G_N_ELEMENTS(bad));
    tcase_add_test(tc, test_long_key);
    tcase_add_test(tc, test_deep_key);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
