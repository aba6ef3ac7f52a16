/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line's option syntax, QEMU's:
 *
 *   key-vals = [ key-val { "," key-val } [ "," ] ]
 *   key-val  = key "=" value          (the first one may be a value alone)
 *   key      = fragment { "." fragment }
 *   fragment = a letter, then letters, digits, "-", "_"; or a list index
 *   value    = any characters, with "," written as ",,"
 *
 * a.b=1,a.c=2 makes an object a of two members, a.0=x,a.1=y a list. A key
 * that comes again replaces the earlier value; a key that is a value here and
 * an object there is refused.
 */
#include "util/keyval.h"

#include <string.h>

#include "util/error.h"
#include "util/json-text.h"

#define KEYVAL_MAX_FRAGMENT 127
#define KEYVAL_MAX_NESTING 64

static bool is_index(const char *fragment)
{
    return fragment[strspn(fragment, "0123456789")] == 0;
}

/*
 * Cut the next fragment off *@key, which ends at @key_end. NULL and @errp if
 * it is none.
 */
static char *next_fragment(const char *start, const char **key,
                           const char *key_end, GError **errp)
{
    const char *s = *key;
    char *fragment;
    size_t len;

    while (s < key_end && (g_ascii_isalnum(*s) || *s == '-' || *s == '_')) {
        s++;
    }
    len = s - *key;
    if (len == 0 || (s < key_end && (*s != '.' || s + 1 == key_end)) ||
        !(g_ascii_isalpha(**key) || strspn(*key, "0123456789") >= len)) {
        error_setg(errp, "Invalid parameter '%.*s'", (int)(key_end - start),
                   start);
        return NULL;
    }
    if (len > KEYVAL_MAX_FRAGMENT) {
        error_setg(errp, "Parameter '%.*s' is too long", (int)len, *key);
        return NULL;
    }
    if (g_ascii_isdigit(**key)) {
        /* 00 and 0 are one index */
        while (len > 1 && **key == '0') {
            (*key)++;
            len--;
        }
    }
    fragment = g_strndup(*key, len);
    *key = s + (s < key_end);
    return fragment;
}

static bool inconsistent(const char *start, const char *end, GError **errp)
{
    error_setg(errp, "Parameters '%.*s.*' used inconsistently",
               (int)(end - start), start);
    return false;
}

/* Set the member of @root that [@start, @end) names to the string @value. */
static bool set_value(JsonObject *root, const char *start, const char *end,
                      const char *value, GError **errp)
{
    JsonObject *object = root;
    const char *key = start;
    int depth;

    for (depth = 0;; depth++) {
        const char *fragment_start = key;
        g_autofree char *name = next_fragment(start, &key, end, errp);
        JsonNode *old;

        if (!name) {
            return false;
        }
        if (depth == KEYVAL_MAX_NESTING) {
            error_setg(errp, "Parameter '%.*s' is nested too deeply",
                       (int)(end - start), start);
            return false;
        }
        old = json_object_get_member(object, name);
        if (key == end) {
            if (old && JSON_NODE_HOLDS_OBJECT(old)) {
                return inconsistent(start, end, errp);
            }
            json_object_set_string_member(object, name, value);
            return true;
        }
        if (!old) {
            json_object_set_object_member(object, name, json_object_new());
            old = json_object_get_member(object, name);
        } else if (!JSON_NODE_HOLDS_OBJECT(old)) {
            return inconsistent(start, fragment_start + strlen(name), errp);
        }
        object = json_node_get_object(old);
    }
}

/*
 * Parse one key-val at *@p and step over it and the comma behind it.
 */
static bool parse_one(JsonObject *root, const char **p, const char *implied_key,
                      GError **errp)
{
    g_autoptr(GString) value = g_string_new(NULL);
    const char *key = *p;
    const char *s = key + strcspn(key, "=,");
    const char *key_end = s;

    if (s > key && *s != '=') {
        if (!implied_key) {
            error_setg(errp, "Expected '=' after parameter '%.*s'",
                       (int)(s - key), key);
            return false;
        }
        s = key;
        key = implied_key;
        key_end = key + strlen(key);
    } else if (*s == '=') {
        s++;
    } else {
        error_setg(errp, "Invalid parameter ''");
        return false;
    }
    for (; *s; s++) {
        if (*s == ',' && *++s != ',') {
            break;
        }
        g_string_append_c(value, *s);
    }
    *p = s;
    if (!g_utf8_validate(value->str, value->len, NULL)) {
        error_setg(errp, "Value of parameter '%.*s' is not valid UTF-8",
                   (int)(key_end - key), key);
        return false;
    }
    return set_value(root, key, key_end, value->str, errp);
}

/*
 * Turn the objects below @object whose keys are indexes into arrays; if
 * @object is such a one itself, store its array in @list. @path names @object
 * ("" or ending in a dot) and is the same again at return.
 */
static bool make_lists(JsonObject *object, GString *path, JsonArray **list,
                       GError **errp)
{
    g_autoptr(GList) names = json_object_get_members(object);
    guint indexes = 0, i;
    gsize len = path->len;
    GList *l;

    *list = NULL;
    for (l = names; l; l = l->next) {
        JsonObject *child;
        JsonArray *child_list;

        indexes += is_index(l->data);
        if (!JSON_NODE_HOLDS_OBJECT(json_object_get_member(object, l->data))) {
            continue;
        }
        child = json_object_get_object_member(object, l->data);
        g_string_append_printf(path, "%s.", (char *)l->data);
        if (!make_lists(child, path, &child_list, errp)) {
            return false;
        }
        g_string_truncate(path, len);
        if (child_list) {
            json_object_set_array_member(object, l->data, child_list);
        }
    }
    if (indexes == 0) {
        return true;
    }
    if (indexes < g_list_length(names) || len == 0) {
        error_setg(errp, "Parameters '%s*' used inconsistently", path->str);
        return false;
    }
    for (i = 0; i < indexes; i++) {
        g_autofree char *index = g_strdup_printf("%u", i);

        if (!json_object_has_member(object, index)) {
            error_setg(errp, "Parameter '%s%u' missing", path->str, i);
            return false;
        }
    }
    *list = json_array_sized_new(indexes);
    for (i = 0; i < indexes; i++) {
        g_autofree char *index = g_strdup_printf("%u", i);

        json_array_add_element(*list, json_object_dup_member(object, index));
    }
    return true;
}

JsonNode *keyval_parse(const char *text, const char *implied_key, bool *keyval,
                       GError **errp)
{
    g_autoptr(JsonObject) root = NULL;
    g_autoptr(GString) path = NULL;
    JsonArray *list;

    *keyval = text[0] != '{';
    if (!*keyval) {
        return json_text_parse(text, strlen(text), errp);
    }
    root = json_object_new();
    while (*text) {
        if (!parse_one(root, &text, implied_key, errp)) {
            return NULL;
        }
        implied_key = NULL;
    }
    path = g_string_new(NULL);
    if (!make_lists(root, path, &list, errp)) {
        return NULL;
    }
    return json_node_init_object(json_node_alloc(), root);
}
