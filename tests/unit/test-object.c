/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Objects that users create by name (util/object.c) */
#include "unit-main.h"
#include "util/error.h"
#include "util/json-text.h"
#include "util/limits.h"
#include "util/object.h"

static int alive;

static void *thing_create(const char *id, JsonObject *options, GError **errp)
{
    int64_t *thing;

    if (schema_get_int(options, "size", 0) < 0) {
        error_setg(errp, "too small");
        return NULL;
    }
    thing = g_new(int64_t, 1);
    *thing = schema_get_int(options, "size", 0);
    alive++;
    return thing;
}

static void thing_destroy(void *obj)
{
    alive--;
    g_free(obj);
}

static JsonNode *thing_get(void *obj, const char *name)
{
    return json_node_init_int(json_node_alloc(), *(int64_t *)obj);
}

static bool thing_set(void *obj, JsonNode *value, GError **errp)
{
    if (json_node_get_int(value) < 0) {
        error_setg(errp, "too small");
        return false;
    }
    *(int64_t *)obj = json_node_get_int(value);
    return true;
}

static const ObjectProperty thing_properties[] = {
    { "size", &schema_int, .get = thing_get, .set = thing_set },
    { "shown", &schema_int, .get = thing_get },
    { "hidden", &schema_int },
    { NULL },
};

static const ObjectType thing_type = {
    .name = "thing",
    .properties = thing_properties,
    .create = thing_create,
    .destroy = thing_destroy,
};

static const ObjectType other_type = {
    .name = "other",
    .properties = thing_properties,
    .create = thing_create,
    .destroy = thing_destroy,
};

static bool add(const ObjectType *type, const char *id, int64_t size,
                GError **errp)
{
    g_autoptr(JsonObject) options = json_object_new();

    json_object_set_int_member(options, "size", size);
    return object_add(type, id, options, errp);
}

/* Takes *@err. */
static void says(GError **err, const char *what)
{
    ck_assert_ptr_nonnull(*err);
    ck_assert_msg(strstr((*err)->message, what) != NULL, "%s", (*err)->message);
    g_clear_error(err);
}

START_TEST(test_add_and_del)
{
    GError *err = NULL;

    ck_assert(add(&thing_type, "t0", 5, &err));
    ck_assert(!add(&thing_type, "t0", 5, &err));
    says(&err, "'t0'");
    ck_assert(!add(&other_type, "t0", 5, &err));
    says(&err, "'t0'");
    ck_assert(!add(&thing_type, "0t", 5, &err));
    says(&err, "'0t'");
    ck_assert(!add(&thing_type, "", 5, &err));
    says(&err, "''");
    ck_assert(!add(&thing_type, "t1", -5, &err));
    says(&err, "too small");
    ck_assert_int_eq(alive, 1);

    ck_assert(!object_del("t1", &err));
    says(&err, "'t1' not found");
    ck_assert(object_del("t0", &err));
    ck_assert_int_eq(alive, 0);
    ck_assert(!object_del("t0", &err));
    says(&err, "'t0' not found");
    ck_assert(add(&other_type, "t0", 5, &err));
    ck_assert(add(&thing_type, "t1", 5, &err));
    object_del_all();
    ck_assert_int_eq(alive, 0);
    object_del_all();
}
END_TEST

START_TEST(test_limits)
{
    g_autoptr(GString) id = g_string_new("a");
    GError *err = NULL;

    /* Characters of two bytes: one is cut where it is shown, and stays text. */
    while (id->len <= NAME_MAX_BYTES) {
        g_string_append(id, "\303\244");
    }
    ck_assert(!add(&thing_type, id->str, 1, &err));
    ck_assert(g_utf8_validate(err->message, -1, NULL));
    says(&err, "...' is too long: 1025 bytes, at most 1023");
    memset(id->str, 'a', id->len);
    g_string_truncate(id, NAME_MAX_BYTES + 1);
    ck_assert(!add(&thing_type, id->str, 1, &err));
    says(&err, "1024 bytes");
    g_string_truncate(id, NAME_MAX_BYTES);
    ck_assert(add(&thing_type, id->str, 1, &err));

    limits.objects = 2;
    ck_assert(add(&thing_type, "t1", 1, &err));
    ck_assert(!add(&thing_type, "t2", 1, &err));
    says(&err, "Too many objects: there are 2, and may be 2 at most");
    ck_assert_int_eq(alive, 2);
    ck_assert(object_del("t1", &err));
    ck_assert(add(&thing_type, "t2", 1, &err));
    object_del_all();
}
END_TEST

START_TEST(test_use)
{
    GError *err = NULL;
    int64_t *thing;

    ck_assert(add(&thing_type, "t0", 5, &err));
    ck_assert_ptr_null(object_use(&other_type, "t0"));
    ck_assert_ptr_null(object_use(&thing_type, "t1"));
    thing = object_use(&thing_type, "t0");
    ck_assert_int_eq(*thing, 5);
    ck_assert_ptr_eq(object_use(&thing_type, "t0"), thing);
    ck_assert(!object_del("t0", &err));
    says(&err, "'t0' is in use");
    object_release(thing);
    ck_assert(!object_del("t0", &err));
    says(&err, "'t0' is in use");
    ck_assert(add(&thing_type, "t1", 5, &err));
    object_del_all();
    ck_assert_int_eq(alive, 1);
    object_release(thing);
    ck_assert(object_del("t0", &err));
}
END_TEST

static void set(const char *property, const char *json, const char *refusal)
{
    g_autoptr(JsonNode) value = json_text_parse(json, strlen(json), NULL);
    GError *err = NULL;

    ck_assert(object_set_property("t0", property, value, &err) == !refusal);
    if (refusal) {
        says(&err, refusal);
    }
}

static void is_int(const char *path, const char *property, int64_t want)
{
    g_autoptr(JsonNode) value = object_get_property(path, property, NULL);

    ck_assert_ptr_nonnull(value);
    ck_assert_int_eq(json_node_get_int(value), want);
}

START_TEST(test_properties)
{
    g_autoptr(JsonNode) type = NULL;
    GError *err = NULL;

    ck_assert(add(&thing_type, "t0", 5, &err));
    is_int("t0", "size", 5);
    is_int("/objects/t0", "shown", 5);
    type = object_get_property("t0", "type", &err);
    ck_assert_str_eq(json_node_get_string(type), "thing");
    ck_assert_ptr_null(object_get_property("t0", "hidden", &err));
    says(&err, "'thing.hidden' is not readable");
    ck_assert_ptr_null(object_get_property("t0", "none", &err));
    says(&err, "'thing.none' not found");
    ck_assert_ptr_null(object_get_property("/objects/t1", "size", &err));
    ck_assert_str_eq(error_class_name(err), "DeviceNotFound");
    says(&err, "'/objects/t1' not found");
    ck_assert_ptr_null(object_get_property("", "size", &err));
    says(&err, "'' not found");

    set("size", "7", NULL);
    is_int("t0", "size", 7);
    set("size", "-7", "too small");
    set("size", "\"7\"", "expected: integer");
    set("shown", "7", "'thing.shown' is not writable");
    set("hidden", "7", "'thing.hidden' is not writable");
    set("type", "7", "'thing.type' not found");
    is_int("t0", "size", 7);
    object_del_all();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("object");
    TCase *tc = tcase_create("object");

    tcase_add_test(tc, test_add_and_del);
    tcase_add_test(tc, test_limits);
    tcase_add_test(tc, test_use);
    tcase_add_test(tc, test_properties);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
