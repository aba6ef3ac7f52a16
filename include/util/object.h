/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Objects that users create by name, to be referred to by others: --object,
 * object-add. What types there are is nothing to this room; a type is one file
 * and its line in block/object-types.c.
 *
 * Objects are added and deleted by one thread at a time: the management thread,
 * or main() before and after it runs. All else may be called from any thread.
 */
#ifndef UTIL_OBJECT_H
#define UTIL_OBJECT_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "util/schema.h"

/* What qom-get and qom-set can do with an object */
typedef struct ObjectProperty {
    const char *name; /* NULL ends a table */
    const SchemaType *type;
    /* The value (transfer full); NULL: it cannot be read. Both are called with
     * all objects locked: no I/O, no wait. */
    JsonNode *(*get)(void *obj, const char *name);
    /* @value is checked. NULL: it cannot be written. */
    bool (*set)(void *obj, JsonNode *value, GError **errp);
} ObjectProperty;

typedef struct ObjectType {
    const char *name;
    const SchemaType *options; /* an OBJECT: all but qom-type and id */
    const ObjectProperty *properties;
    /* @options is checked. NULL and @errp on error. May do I/O. */
    void *(*create)(const char *id, JsonObject *options, GError **errp);
    void (*destroy)(void *obj);
} ObjectType;

/* Fails if @id is not well-formed or taken, or if the type says so. */
bool object_add(const ObjectType *type, const char *id, JsonObject *options,
                GError **errp);
/* Fails if there is no such object, or somebody uses it. */
bool object_del(const char *id, GError **errp);
/* At exit: all but those that somebody still uses */
void object_del_all(void);

/*
 * The object of that name and type, which is not deleted before
 * object_release(); NULL if there is none.
 */
void *object_use(const ObjectType *type, const char *id);
void object_release(void *obj);

/*
 * @path is an object's id, or "/objects/" and that: otherwise the error is a
 * DeviceNotFound.
 */
JsonNode *object_get_property(const char *path, const char *property,
                              GError **errp);
bool object_set_property(const char *path, const char *property,
                         JsonNode *value, GError **errp);

#endif
