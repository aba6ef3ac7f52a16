/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checking JSON values against descriptions of them. */
#include "util/schema.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util/error.h"

const SchemaType schema_str = { .name = "str", .kind = SCHEMA_STR };
const SchemaType schema_bool = { .name = "bool", .kind = SCHEMA_BOOL };
const SchemaType schema_int = { .name = "int", .kind = SCHEMA_INT };
const SchemaType schema_uint = { .name = "uint64", .kind = SCHEMA_UINT };
const SchemaType schema_size = { .name = "size", .kind = SCHEMA_SIZE };
const SchemaType schema_number = { .name = "number", .kind = SCHEMA_NUMBER };
const SchemaType schema_any = { .name = "any", .kind = SCHEMA_ANY };
const SchemaType schema_null = { .name = "null", .kind = SCHEMA_NULL };
const SchemaType schema_empty = { .name = "Empty", .kind = SCHEMA_OBJECT };

/*
 * Where a value is: the way back to the outermost one, on the stack. Rendered
 * only for messages.
 */
typedef struct Where {
    const struct Where *parent;
    const char *name; /* NULL: element @index of an array */
    guint index;
} Where;

typedef struct Check {
    bool keyval;
    GError **errp;
} Check;

static bool check_value(const Check *check, const SchemaType *type,
                        JsonNode *node, const Where *where);

static void where_append(const Check *check, const Where *where, GString *out)
{
    if (where->parent) {
        where_append(check, where->parent, out);
    }
    if (!where->name) {
        g_string_append_printf(out, check->keyval ? ".%u" : "[%u]",
                               where->index);
    } else if (where->name[0]) {
        g_string_append(out, out->len ? "." : "");
        g_string_append(out, where->name);
    }
}

static char *where_name(const Check *check, const Where *where)
{
    GString *out = g_string_new(NULL);

    where_append(check, where, out);
    return g_string_free(out, FALSE);
}

static const char *kind_name(const SchemaType *type)
{
    static const char *const names[] = {
        [SCHEMA_STR] = "string",   [SCHEMA_BOOL] = "boolean",
        [SCHEMA_INT] = "integer",  [SCHEMA_UINT] = "integer",
        [SCHEMA_SIZE] = "integer", [SCHEMA_NUMBER] = "number",
        [SCHEMA_ENUM] = "string",  [SCHEMA_OBJECT] = "object",
        [SCHEMA_ARRAY] = "array",  [SCHEMA_ALTERNATE] = "alternate",
        [SCHEMA_NULL] = "null",    [SCHEMA_ANY] = "value",
    };

    return type->kind == SCHEMA_ALTERNATE ? type->name : names[type->kind];
}

static bool wrong_type(const Check *check, const SchemaType *type,
                       const Where *where)
{
    g_autofree char *name = where_name(check, where);

    error_setg(check->errp, "Invalid parameter type for '%s', expected: %s",
               name, kind_name(type));
    return false;
}

/* "Parameter 'NAME' WHAT" */
static bool refuse(const Check *check, const Where *where, const char *what)
{
    g_autofree char *name = where_name(check, where);

    error_setg(check->errp, "Parameter '%s' %s", name, what);
    return false;
}

static bool refuse_value(const Check *check, const Where *where,
                         const char *value)
{
    g_autofree char *what =
        g_strdup_printf("does not accept value '%s'", value);

    return refuse(check, where, what);
}

static bool holds_type(JsonNode *node, GType type)
{
    return JSON_NODE_HOLDS_VALUE(node) &&
           json_node_get_value_type(node) == type;
}

/* ---- scalars of key=value form ------------------------------------------ */

static bool parse_bool(const char *s, bool *value)
{
    static const char *const yes[] = { "on", "yes", "true", "y", NULL };
    static const char *const no[] = { "off", "no", "false", "n", NULL };

    *value = g_strv_contains(yes, s);
    return *value || g_strv_contains(no, s);
}

/* Decimal, 0x hexadecimal or 0 octal */
static bool parse_int(const char *s, gint64 *value)
{
    char *end;

    if (!g_ascii_isdigit(*s) && !(*s == '-' && g_ascii_isdigit(s[1]))) {
        return false;
    }
    errno = 0;
    *value = g_ascii_strtoll(s, &end, 0);
    return errno == 0 && *end == 0;
}

static bool parse_number(const char *s, double *value)
{
    char *end;

    if (!g_ascii_isdigit(*s) && !(*s == '-' && g_ascii_isdigit(s[1]))) {
        return false;
    }
    *value = g_ascii_strtod(s, &end);
    return *end == 0 && isfinite(*value);
}

/* 512, 64k, 1.5G, 0x1000: the suffix multiplies by a power of 1024 */
static bool parse_size(const char *s, gint64 *value)
{
    static const char suffixes[] = "bkmgtpe";
    const char *match;
    double fraction = 0;
    guint64 whole;
    int shift = 0;
    char *end;

    if (!g_ascii_isdigit(*s)) {
        return false;
    }
    errno = 0;
    if (s[0] == '0' && g_ascii_tolower(s[1]) == 'x') {
        *value = g_ascii_strtoll(s, &end, 16);
        return errno == 0 && *end == 0;
    }
    whole = g_ascii_strtoull(s, &end, 10);
    if (errno) {
        return false;
    }
    if (*end == '.') {
        const char *digits = end + 1;
        size_t n = strspn(digits, "0123456789");
        g_autofree char *text = g_strdup_printf("0.%.*s", (int)n, digits);

        if (n == 0) {
            return false;
        }
        fraction = g_ascii_strtod(text, NULL);
        end += 1 + n;
    }
    if (*end) {
        match = strchr(suffixes, g_ascii_tolower(*end));
        if (!match || end[1]) {
            return false;
        }
        shift = 10 * (match - suffixes);
    }
    /* Half a byte is nothing to ask for */
    if ((fraction > 0 && shift == 0) || whole > (guint64)G_MAXINT64 >> shift) {
        return false;
    }
    whole = (whole << shift) + (guint64)ldexp(fraction, shift);
    *value = whole;
    return whole <= G_MAXINT64;
}

/* Replace the string of @node by what the scalar type @type makes of it. */
static bool convert_keyval(const Check *check, const SchemaType *type,
                           JsonNode *node, const Where *where)
{
    g_autofree char *s = g_strdup(json_node_get_string(node));
    double number;
    gint64 integer;
    bool boolean;

    switch (type->kind) {
    case SCHEMA_BOOL:
        if (!parse_bool(s, &boolean)) {
            return refuse(check, where, "expects 'on' or 'off'");
        }
        json_node_set_boolean(node, boolean);
        return true;
    case SCHEMA_INT:
    case SCHEMA_UINT:
        if (!parse_int(s, &integer)) {
            return refuse(check, where, "expects integer");
        }
        json_node_set_int(node, integer);
        return true;
    case SCHEMA_SIZE:
        if (!parse_size(s, &integer)) {
            return refuse(check, where,
                          "expects a size: a number of bytes below 2^63, "
                          "optionally with suffix k, M, G, T, P or E");
        }
        json_node_set_int(node, integer);
        return true;
    case SCHEMA_NUMBER:
        if (!parse_number(s, &number)) {
            return refuse(check, where, "expects number");
        }
        json_node_set_double(node, number);
        return true;
    default:
        return true;
    }
}

/* ---- values ------------------------------------------------------------- */

static bool check_integer(const Check *check, const SchemaType *type,
                          JsonNode *node, const Where *where)
{
    double number;

    if (holds_type(node, G_TYPE_INT64)) {
        if (type->kind != SCHEMA_INT && json_node_get_int(node) < 0) {
            return refuse(check, where, "expects a non-negative integer");
        }
        return true;
    }
    if (holds_type(node, G_TYPE_DOUBLE)) {
        number = json_node_get_double(node);
        /* What the parser could not keep as an integer */
        if (fabs(number) >= 0x1p63) {
            return refuse(check, where, "expects an integer below 2^63");
        }
    }
    return wrong_type(check, type, where);
}

static bool check_enum(const Check *check, const SchemaType *type,
                       JsonNode *node, const Where *where)
{
    if (!holds_type(node, G_TYPE_STRING)) {
        return wrong_type(check, type, where);
    }
    if (!g_strv_contains(type->values, json_node_get_string(node))) {
        return refuse_value(check, where, json_node_get_string(node));
    }
    return true;
}

static bool check_array(const Check *check, const SchemaType *type,
                        JsonNode *node, const Where *where)
{
    JsonArray *array;
    guint i;

    if (!JSON_NODE_HOLDS_ARRAY(node)) {
        return wrong_type(check, type, where);
    }
    array = json_node_get_array(node);
    for (i = 0; i < json_array_get_length(array); i++) {
        Where element = { .parent = where, .index = i };

        if (!check_value(check, type->element, json_array_get_element(array, i),
                         &element)) {
            return false;
        }
    }
    return true;
}

static bool check_alternate(const Check *check, const SchemaType *type,
                            JsonNode *node, const Where *where)
{
    const SchemaType *const *alternative;

    for (alternative = type->alternatives; *alternative; alternative++) {
        bool match = false;

        switch ((*alternative)->kind) {
        case SCHEMA_STR:
        case SCHEMA_ENUM:
            match = holds_type(node, G_TYPE_STRING);
            break;
        case SCHEMA_BOOL:
            match = holds_type(node, G_TYPE_BOOLEAN);
            break;
        case SCHEMA_INT:
        case SCHEMA_UINT:
        case SCHEMA_SIZE:
            match = holds_type(node, G_TYPE_INT64);
            break;
        case SCHEMA_NUMBER:
            match = holds_type(node, G_TYPE_INT64) ||
                    holds_type(node, G_TYPE_DOUBLE);
            break;
        case SCHEMA_OBJECT:
            match = JSON_NODE_HOLDS_OBJECT(node);
            break;
        case SCHEMA_ARRAY:
            match = JSON_NODE_HOLDS_ARRAY(node);
            break;
        case SCHEMA_NULL:
            match = JSON_NODE_HOLDS_NULL(node);
            break;
        case SCHEMA_ALTERNATE:
        case SCHEMA_ANY:
            g_assert_not_reached();
        }
        if (match) {
            return check_value(check, *alternative, node, where);
        }
    }
    return wrong_type(check, type, where);
}

static bool check_members(const Check *check, const SchemaType *type,
                          JsonObject *object, const Where *where)
{
    const SchemaMember *member;

    for (member = type->members; member && member->name; member++) {
        Where here = { .parent = where, .name = member->name };
        JsonNode *node = json_object_get_member(object, member->name);

        if (!node) {
            if (member->optional) {
                continue;
            }
            return refuse(check, &here, "is missing");
        }
        if (!check_value(check, member->type, node, &here)) {
            return false;
        }
    }
    return true;
}

static const SchemaMember *find_member(const SchemaType *type, const char *name)
{
    const SchemaMember *member;

    for (member = type ? type->members : NULL; member && member->name;
         member++) {
        if (!strcmp(member->name, name)) {
            return member;
        }
    }
    return NULL;
}

/*
 * The branch of the flat union @type that the (checked) discriminator chooses,
 * stored in @branch: NULL if it has no members. False and an error if there is
 * none.
 */
static bool find_branch(const Check *check, const SchemaType *type,
                        JsonObject *object, const Where *where,
                        const SchemaType **branch)
{
    const SchemaMember *member;
    const char *value, *tag;
    Where here = { .parent = where, .name = type->discriminator };
    size_t n;

    *branch = NULL;
    if (!type->discriminator) {
        return true;
    }
    value = schema_get_str(object, type->discriminator, NULL);
    if (!value) {
        return true;
    }
    for (n = 0; type->branch(n, &tag, branch); n++) {
        if (!strcmp(tag, value)) {
            return true;
        }
    }
    *branch = NULL;
    member = find_member(type, type->discriminator);
    return member->type->kind == SCHEMA_ENUM ||
           refuse_value(check, &here, value);
}

static bool check_object(const Check *check, const SchemaType *type,
                         JsonNode *node, const Where *where)
{
    g_autoptr(GList) names = NULL;
    const SchemaType *branch;
    JsonObject *object;
    GList *l;

    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        return wrong_type(check, type, where);
    }
    object = json_node_get_object(node);
    if (!check_members(check, type, object, where) ||
        !find_branch(check, type, object, where, &branch) ||
        (branch && !check_members(check, branch, object, where))) {
        return false;
    }
    names = json_object_get_members(object);
    for (l = names; l; l = l->next) {
        if (!find_member(type, l->data) && !find_member(branch, l->data)) {
            Where here = { .parent = where, .name = l->data };

            return refuse(check, &here, "is unexpected");
        }
    }
    return true;
}

static bool check_value(const Check *check, const SchemaType *type,
                        JsonNode *node, const Where *where)
{
    if (check->keyval && holds_type(node, G_TYPE_STRING) &&
        !convert_keyval(check, type, node, where)) {
        return false;
    }
    switch (type->kind) {
    case SCHEMA_STR:
        return holds_type(node, G_TYPE_STRING) ||
               wrong_type(check, type, where);
    case SCHEMA_BOOL:
        return holds_type(node, G_TYPE_BOOLEAN) ||
               wrong_type(check, type, where);
    case SCHEMA_INT:
    case SCHEMA_UINT:
    case SCHEMA_SIZE:
        return check_integer(check, type, node, where);
    case SCHEMA_NUMBER:
        return holds_type(node, G_TYPE_INT64) ||
               holds_type(node, G_TYPE_DOUBLE) ||
               wrong_type(check, type, where);
    case SCHEMA_ENUM:
        return check_enum(check, type, node, where);
    case SCHEMA_OBJECT:
        return check_object(check, type, node, where);
    case SCHEMA_ARRAY:
        return check_array(check, type, node, where);
    case SCHEMA_ALTERNATE:
        return check_alternate(check, type, node, where);
    case SCHEMA_NULL:
        return JSON_NODE_HOLDS_NULL(node) || wrong_type(check, type, where);
    case SCHEMA_ANY:
        return true;
    }
    g_assert_not_reached();
}

bool schema_check(const SchemaType *type, JsonNode *node, const char *what,
                  bool keyval, GError **errp)
{
    Check check = { .keyval = keyval, .errp = errp };
    Where where = { .name = what };

    return check_value(&check, type, node, &where);
}

/* ---- members of checked objects ----------------------------------------- */

bool schema_has(JsonObject *obj, const char *name)
{
    return json_object_has_member(obj, name);
}

const char *schema_get_str(JsonObject *obj, const char *name, const char *def)
{
    return schema_has(obj, name) ? json_object_get_string_member(obj, name)
                                 : def;
}

bool schema_get_bool(JsonObject *obj, const char *name, bool def)
{
    return schema_has(obj, name) ? json_object_get_boolean_member(obj, name)
                                 : def;
}

int64_t schema_get_int(JsonObject *obj, const char *name, int64_t def)
{
    return schema_has(obj, name) ? json_object_get_int_member(obj, name) : def;
}

double schema_get_number(JsonObject *obj, const char *name, double def)
{
    return schema_has(obj, name) ? json_object_get_double_member(obj, name)
                                 : def;
}

JsonObject *schema_get_object(JsonObject *obj, const char *name)
{
    return schema_has(obj, name) ? json_object_get_object_member(obj, name)
                                 : NULL;
}

int schema_get_enum(JsonObject *obj, const char *name, const SchemaType *type,
                    int def)
{
    const char *value = schema_get_str(obj, name, NULL);
    int i;

    if (!value) {
        return def;
    }
    for (i = 0; strcmp(type->values[i], value); i++) {
        /* schema_check() found it, so it ends */
    }
    return i;
}
