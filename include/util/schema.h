/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Descriptions of JSON values: one table of a command's arguments or a
 * driver's options serves checking, introspection and documentation.
 *
 * All tables are static and constant; every function may be called from any
 * thread.
 */
#ifndef UTIL_SCHEMA_H
#define UTIL_SCHEMA_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum SchemaKind {
    SCHEMA_STR,
    SCHEMA_BOOL,
    SCHEMA_INT,    /* int64_t */
    SCHEMA_UINT,   /* uint64_t: an integer that must not be negative */
    SCHEMA_SIZE,   /* uint64_t; in key=value form with suffixes k M G T P E */
    SCHEMA_NUMBER, /* double */
    SCHEMA_ENUM,
    SCHEMA_OBJECT,
    SCHEMA_ARRAY,
    SCHEMA_ALTERNATE, /* the JSON type decides: string, object or null */
    SCHEMA_NULL,
    SCHEMA_ANY,
} SchemaKind;

typedef struct SchemaType SchemaType;

typedef struct SchemaMember {
    const char *name; /* NULL ends a table */
    const SchemaType *type;
    bool optional;
    bool unstable;   /* the feature "unstable" in introspection */
    const char *doc; /* one or two sentences with units and default */
} SchemaMember;

struct SchemaType {
    const char *name; /* QAPI's name of the type where QAPI has one */
    SchemaKind kind;
    const char *doc;
    const char *const *values;   /* ENUM: NULL-terminated */
    const SchemaMember *members; /* OBJECT: ended by a NULL name; or NULL */
    const SchemaType *element;   /* ARRAY */
    const SchemaType *const *alternatives; /* ALTERNATE: NULL-terminated */

    /*
     * OBJECT that is a flat union: the value of the (enum or string) member
     * named @discriminator chooses further members. @branch stores tag and
     * type (an OBJECT without a discriminator of its own, or NULL for no
     * further members) of the n-th branch and returns false when there is no
     * such branch. A value of an enum that has no branch has no further
     * members, a string without a branch is refused.
     */
    const char *discriminator;
    bool (*branch)(size_t n, const char **tag, const SchemaType **type);
};

extern const SchemaType schema_str, schema_bool, schema_int, schema_uint,
    schema_size, schema_number, schema_any, schema_null, schema_empty;

/*
 * Check @node against @type: types, required members, unknown names, enum
 * values. @what names the value in messages ("" for a command's arguments).
 * With @keyval, scalars are strings as keyval_parse() leaves them and are
 * replaced in place by values of the right type.
 * Messages are QEMU's: "Parameter 'x' is missing", "Parameter 'x' is
 * unexpected", "Invalid parameter type for 'x', expected: string", "Parameter
 * 'x' does not accept value 'y'"; names of nested members are dotted.
 */
bool schema_check(const SchemaType *type, JsonNode *node, const char *what,
                  bool keyval, GError **errp);

/* Members of checked objects; @def where the member is absent. */
const char *schema_get_str(JsonObject *obj, const char *name, const char *def);
bool schema_get_bool(JsonObject *obj, const char *name, bool def);
int64_t schema_get_int(JsonObject *obj, const char *name, int64_t def);
double schema_get_number(JsonObject *obj, const char *name, double def);
JsonObject *schema_get_object(JsonObject *obj, const char *name);
/* The index of an enum member's value in type->values; @def where absent */
int schema_get_enum(JsonObject *obj, const char *name, const SchemaType *type,
                    int def);
bool schema_has(JsonObject *obj, const char *name);

#endif
