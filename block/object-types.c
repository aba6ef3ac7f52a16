/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The types of objects that --object and object-add offer. A type's own options
 * stand in its file.
 */
#include "block/object-types.h"

#include <string.h>

#include "block/throttle-group.h"
#include "util/secret.h"

/* One line a type: the table and the name */
#define OBJECT_TYPES(T)                                                        \
    T(secret_object, "secret")                                                 \
    T(throttle_group_object, "throttle-group")

#define TYPE_POINTER(type, name) &type,
#define TYPE_NAME(type, name) name,

static const ObjectType *const object_types[] = { OBJECT_TYPES(TYPE_POINTER) };

static const char *const type_names[] = { OBJECT_TYPES(TYPE_NAME) NULL };

static const ObjectType *find_type(const char *name)
{
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(object_types); i++) {
        if (!strcmp(object_types[i]->name, name)) {
            return object_types[i];
        }
    }
    return NULL;
}

bool object_add_from_options(JsonObject *options, GError **errp)
{
    return object_add(find_type(schema_get_str(options, "qom-type", NULL)),
                      schema_get_str(options, "id", NULL), options, errp);
}

/* ---- help --------------------------------------------------------------- */

char *object_help(const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, ",", -1);
    const char *const *list = (const char *const *)words;
    const SchemaMember *m;
    const ObjectType *type;
    GString *out;
    size_t i;

    if (!g_strv_contains(list, "help") && !g_strv_contains(list, "?")) {
        return NULL;
    }
    out = g_string_new(NULL);
    type = find_type(words[0]);
    if (!type) {
        g_string_append(out, "List of user creatable objects:\n");
        for (i = 0; i < G_N_ELEMENTS(object_types); i++) {
            g_string_append_printf(out, "  %s\n", object_types[i]->name);
        }
        return g_string_free(out, FALSE);
    }
    g_string_append_printf(out, "%s options:\n", type->name);
    for (m = type->options->members; m->name; m++) {
        const char *kind = m->type == &schema_str ? "string" : m->type->name;

        g_string_append_printf(out, "  %s=<%s>\n", m->name, kind);
    }
    return g_string_free(out, FALSE);
}

/* ---- description -------------------------------------------------------- */

static const SchemaType qom_type_type = {
    .name = "ObjectType",
    .kind = SCHEMA_ENUM,
    .doc = "The types of objects.",
    .values = type_names,
};

static bool options_branch(size_t n, const char **tag, const SchemaType **type)
{
    if (n >= G_N_ELEMENTS(object_types)) {
        return false;
    }
    *tag = type_names[n];
    *type = object_types[n]->options;
    return true;
}

const SchemaType object_options_type = {
    .name = "ObjectOptions",
    .kind = SCHEMA_OBJECT,
    .doc = "An object: something that others refer to by its id.",
    .members =
        (const SchemaMember[]){
            { "qom-type", &qom_type_type, .doc = "What it is." },
            { "id", &schema_str,
              .doc = "The object's id: a letter, then letters, digits, \"-\", "
                     "\".\" and \"_\"." },
            { NULL },
        },
    .discriminator = "qom-type",
    .branch = options_branch,
};
