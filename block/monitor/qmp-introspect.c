/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * query-qmp-schema: walks from the commands and events to all types they use.
 * Names of types are QAPI's where we know them, but clients must not rely on
 * names, here as in QEMU.
 */
#include "qmp-introspect.h"

#include <string.h>

#include "monitor-int.h"

typedef struct Walk {
    JsonArray *infos;
    GHashTable *names; /* SchemaType (or DiscriminatorKey) to its name */
    GHashTable *taken; /* names in use */
    GPtrArray *queue;  /* of SchemaType: named, not yet described */
    guint described;   /* how many of the queue are */
} Walk;

static const char *builtin_name(const SchemaType *type)
{
    switch (type->kind) {
    case SCHEMA_STR:
        return "str";
    case SCHEMA_BOOL:
        return "bool";
    case SCHEMA_INT:
    case SCHEMA_UINT:
    case SCHEMA_SIZE:
        return "int";
    case SCHEMA_NUMBER:
        return "number";
    case SCHEMA_NULL:
        return "null";
    case SCHEMA_ANY:
        return "any";
    default:
        return NULL;
    }
}

static const char *builtin_json_type(const char *name)
{
    static const char *const json_types[][2] = {
        { "str", "string" },    { "bool", "boolean" }, { "int", "int" },
        { "number", "number" }, { "null", "null" },    { "any", "value" },
    };
    guint i;

    for (i = 0; strcmp(json_types[i][0], name); i++) {
        /* it is one of them */
    }
    return json_types[i][1];
}

/* A name like @wish that no other type has */
static char *unique_name(Walk *walk, const char *wish)
{
    char *name = g_strdup(wish);
    guint n = 2;

    while (!g_hash_table_add(walk->taken, g_strdup(name))) {
        g_free(name);
        name = g_strdup_printf("%s-%u", wish, n++);
    }
    return name;
}

/* The name of @type, which will be described. */
static const char *type_name(Walk *walk, const SchemaType *type)
{
    const void *key = type;
    char *name;

    if (builtin_name(type)) {
        /* int, uint64 and size are one type to clients */
        key = builtin_name(type);
    }
    name = g_hash_table_lookup(walk->names, key);
    if (name) {
        return name;
    }
    if (key != type) {
        name = unique_name(walk, key);
    } else if (type->kind == SCHEMA_ARRAY) {
        g_autofree char *wish =
            g_strdup_printf("[%s]", type_name(walk, type->element));

        name = unique_name(walk, wish);
    } else {
        name = unique_name(walk, type->name ? type->name : "Anonymous");
    }
    g_hash_table_insert(walk->names, (void *)key, name);
    g_ptr_array_add(walk->queue, (void *)type);
    return name;
}

static JsonObject *add_info(Walk *walk, const char *name, const char *meta)
{
    JsonObject *info = json_object_new();

    json_object_set_string_member(info, "name", name);
    json_object_set_string_member(info, "meta-type", meta);
    json_array_add_object_element(walk->infos, info);
    return info;
}

static void set_unstable(JsonObject *info, bool unstable)
{
    JsonArray *features;

    if (unstable) {
        features = json_array_new();
        json_array_add_string_element(features, "unstable");
        json_object_set_array_member(info, "features", features);
    }
}

static void describe_values(JsonObject *info, const char *const *values)
{
    JsonArray *members = json_array_new();
    JsonArray *list = json_array_new();

    for (; *values; values++) {
        JsonObject *member = json_object_new();

        json_object_set_string_member(member, "name", *values);
        json_array_add_object_element(members, member);
        json_array_add_string_element(list, *values);
    }
    json_object_set_array_member(info, "members", members);
    json_object_set_array_member(info, "values", list);
}

/*
 * A discriminator that is a plain string in the table is an enumeration to
 * clients. Describe that under a name of its own.
 */
static const char *describe_tags(Walk *walk, const SchemaType *type)
{
    g_autofree char *wish = g_strdup_printf("%sKind", type->name);
    g_autofree char *name = unique_name(walk, wish);
    g_autoptr(GPtrArray) tags = g_ptr_array_new();
    const SchemaType *branch;
    const char *tag;
    JsonObject *info;
    size_t n;

    for (n = 0; type->branch(n, &tag, &branch); n++) {
        g_ptr_array_add(tags, (void *)tag);
    }
    g_ptr_array_add(tags, NULL);
    info = add_info(walk, name, "enum");
    describe_values(info, (const char *const *)tags->pdata);
    return json_object_get_string_member(info, "name");
}

/* Is @tag among the branches of @type? Stores the branch's type. */
static bool find_branch(const SchemaType *type, const char *tag,
                        const SchemaType **branch)
{
    const char *other;
    size_t n;

    for (n = 0; type->branch(n, &other, branch); n++) {
        if (!strcmp(tag, other)) {
            return true;
        }
    }
    *branch = NULL;
    return false;
}

static void add_variant(Walk *walk, JsonArray *variants, const char *tag,
                        const SchemaType *branch)
{
    JsonObject *variant = json_object_new();

    json_object_set_string_member(variant, "case", tag);
    json_object_set_string_member(
        variant, "type", type_name(walk, branch ? branch : &schema_empty));
    json_array_add_object_element(variants, variant);
}

/* One variant for each value that the discriminator @member may have */
static void describe_variants(Walk *walk, const SchemaType *type,
                              const SchemaMember *member, JsonObject *info)
{
    JsonArray *variants = json_array_new();
    const SchemaType *branch;
    const char *tag;
    size_t n;

    if (member->type->kind == SCHEMA_ENUM) {
        for (n = 0; member->type->values[n]; n++) {
            tag = member->type->values[n];
            find_branch(type, tag, &branch);
            add_variant(walk, variants, tag, branch);
        }
    } else {
        for (n = 0; type->branch(n, &tag, &branch); n++) {
            add_variant(walk, variants, tag, branch);
        }
    }
    json_object_set_string_member(info, "tag", type->discriminator);
    json_object_set_array_member(info, "variants", variants);
}

static void describe_object(Walk *walk, const SchemaType *type,
                            JsonObject *info)
{
    JsonArray *members = json_array_new();
    const SchemaMember *member;

    for (member = type->members; member && member->name; member++) {
        JsonObject *desc = json_object_new();
        bool tag =
            type->discriminator && !strcmp(member->name, type->discriminator);

        json_object_set_string_member(desc, "name", member->name);
        json_object_set_string_member(desc, "type",
                                      tag && member->type->kind == SCHEMA_STR
                                          ? describe_tags(walk, type)
                                          : type_name(walk, member->type));
        if (member->optional) {
            json_object_set_null_member(desc, "default");
        }
        set_unstable(desc, member->unstable);
        json_array_add_object_element(members, desc);
        if (tag) {
            describe_variants(walk, type, member, info);
        }
    }
    json_object_set_array_member(info, "members", members);
}

static void describe_alternate(Walk *walk, const SchemaType *type,
                               JsonObject *info)
{
    JsonArray *members = json_array_new();
    const SchemaType *const *alternative;

    for (alternative = type->alternatives; *alternative; alternative++) {
        JsonObject *member = json_object_new();

        json_object_set_string_member(member, "type",
                                      type_name(walk, *alternative));
        json_array_add_object_element(members, member);
    }
    json_object_set_array_member(info, "members", members);
}

static void describe_type(Walk *walk, const SchemaType *type)
{
    const char *name = type_name(walk, type);
    JsonObject *info;

    switch (type->kind) {
    case SCHEMA_ENUM:
        info = add_info(walk, name, "enum");
        describe_values(info, type->values);
        break;
    case SCHEMA_OBJECT:
        info = add_info(walk, name, "object");
        describe_object(walk, type, info);
        break;
    case SCHEMA_ARRAY:
        info = add_info(walk, name, "array");
        json_object_set_string_member(info, "element-type",
                                      type_name(walk, type->element));
        break;
    case SCHEMA_ALTERNATE:
        info = add_info(walk, name, "alternate");
        describe_alternate(walk, type, info);
        break;
    default:
        info = add_info(walk, name, "builtin");
        json_object_set_string_member(info, "json-type",
                                      builtin_json_type(name));
        break;
    }
}

static void describe_command(Walk *walk, const QmpCommand *cmd)
{
    JsonObject *info = add_info(walk, cmd->name, "command");

    json_object_set_string_member(
        info, "arg-type",
        type_name(walk, cmd->args ? cmd->args : &schema_empty));
    json_object_set_string_member(
        info, "ret-type", type_name(walk, cmd->ret ? cmd->ret : &schema_empty));
    if (qmp_command_allows_oob(cmd)) {
        json_object_set_boolean_member(info, "allow-oob", true);
    }
    set_unstable(info, cmd->unstable);
}

static void describe_event(Walk *walk, const QmpEvent *event)
{
    JsonObject *info = add_info(walk, event->name, "event");

    json_object_set_string_member(
        info, "arg-type",
        type_name(walk, event->data ? event->data : &schema_empty));
}

JsonArray *qmp_introspect(const QmpCommand *const *commands,
                          const QmpEvent *const *events)
{
    g_autoptr(GHashTable) names =
        g_hash_table_new_full(NULL, NULL, NULL, g_free);
    g_autoptr(GHashTable) taken =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GPtrArray) queue = g_ptr_array_new();
    Walk walk = { json_array_new(), names, taken, queue, 0 };
    const QmpCommand *cmd;
    const QmpEvent *event;

    for (; *commands; commands++) {
        for (cmd = *commands; cmd->name; cmd++) {
            describe_command(&walk, cmd);
        }
    }
    for (; *events; events++) {
        for (event = *events; event->name; event++) {
            describe_event(&walk, event);
        }
    }
    while (walk.described < queue->len) {
        describe_type(&walk, g_ptr_array_index(queue, walk.described++));
    }
    return walk.infos;
}

/* ---- description -------------------------------------------------------- */

static const SchemaType str_list_type = {
    .name = "strList",
    .kind = SCHEMA_ARRAY,
    .element = &schema_str,
};

static const SchemaType meta_type = {
    .name = "SchemaMetaType",
    .kind = SCHEMA_ENUM,
    .doc = "What a SchemaInfo describes.",
    .values = (const char *const[]){ "builtin", "enum", "array", "object",
                                     "alternate", "command", "event", NULL },
};

static const SchemaType json_type = {
    .name = "JSONType",
    .kind = SCHEMA_ENUM,
    .doc = "JSON's types; int is a number without fraction, value any type.",
    .values = (const char *const[]){ "string", "number", "int", "boolean",
                                     "null", "object", "array", "value", NULL },
};

static const SchemaType info_builtin_type = {
    .name = "SchemaInfoBuiltin",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "json-type", &json_type,
                                         .doc = "What it is in JSON." },
                                       { NULL } },
};

static const SchemaType info_enum_member_type = {
    .name = "SchemaInfoEnumMember",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){ { "name", &schema_str, .doc = "The value." },
                                { NULL } },
};

static const SchemaType info_enum_member_list_type = {
    .name = "SchemaInfoEnumMemberList",
    .kind = SCHEMA_ARRAY,
    .element = &info_enum_member_type,
};

static const SchemaType info_enum_type = {
    .name = "SchemaInfoEnum",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "members", &info_enum_member_list_type, .doc = "The values." },
            { "values", &str_list_type,
              .doc = "The names of the values once more, for old clients." },
            { NULL } },
};

static const SchemaType info_array_type = {
    .name = "SchemaInfoArray",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "element-type", &schema_str,
                                         .doc = "The type of elements." },
                                       { NULL } },
};

static const SchemaType info_member_type = {
    .name = "SchemaInfoObjectMember",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "name", &schema_str, .doc = "The name of the member." },
            { "type", &schema_str, .doc = "The name of its type." },
            { "default", &schema_any, .optional = true,
              .doc = "There, and null, if the member is optional." },
            { "features", &str_list_type, .optional = true,
              .doc = "Such as unstable (default: none)." },
            { NULL } },
};

static const SchemaType info_member_list_type = {
    .name = "SchemaInfoObjectMemberList",
    .kind = SCHEMA_ARRAY,
    .element = &info_member_type,
};

static const SchemaType info_variant_type = {
    .name = "SchemaInfoObjectVariant",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "case", &schema_str, .doc = "A value of the tag." },
            { "type", &schema_str,
              .doc = "The object type whose members come with that value." },
            { NULL } },
};

static const SchemaType info_variant_list_type = {
    .name = "SchemaInfoObjectVariantList",
    .kind = SCHEMA_ARRAY,
    .element = &info_variant_type,
};

static const SchemaType info_object_type = {
    .name = "SchemaInfoObject",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "members", &info_member_list_type, .doc = "The members." },
            { "tag", &schema_str, .optional = true,
              .doc = "The member that decides about further ones (default: "
                     "there are none)." },
            { "variants", &info_variant_list_type, .optional = true,
              .doc = "Further members for each value of the tag." },
            { NULL } },
};

static const SchemaType info_alternate_member_type = {
    .name = "SchemaInfoAlternateMember",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "type", &schema_str, .doc = "One of the types it may have." },
            { NULL } },
};

static const SchemaType info_alternate_member_list_type = {
    .name = "SchemaInfoAlternateMemberList",
    .kind = SCHEMA_ARRAY,
    .element = &info_alternate_member_type,
};

static const SchemaType info_alternate_type = {
    .name = "SchemaInfoAlternate",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){ { "members", &info_alternate_member_list_type,
                                  .doc = "The types it may have." },
                                { NULL } },
};

static const SchemaType info_command_type = {
    .name = "SchemaInfoCommand",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "arg-type", &schema_str,
              .doc = "The object type of its arguments." },
            { "ret-type", &schema_str, .doc = "The type of what it returns." },
            { "allow-oob", &schema_bool, .optional = true,
              .doc = "Whether exec-oob is possible (default: false)." },
            { NULL } },
};

static const SchemaType info_event_type = {
    .name = "SchemaInfoEvent",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "arg-type", &schema_str, .doc = "The object type of its data." },
            { NULL } },
};

static bool info_branch(size_t n, const char **tag, const SchemaType **type)
{
    static const SchemaType *const types[] = {
        &info_builtin_type, &info_enum_type,      &info_array_type,
        &info_object_type,  &info_alternate_type, &info_command_type,
        &info_event_type,
    };

    if (n >= G_N_ELEMENTS(types)) {
        return false;
    }
    *tag = meta_type.values[n];
    *type = types[n];
    return true;
}

static const SchemaType schema_info_type = {
    .name = "SchemaInfo",
    .kind = SCHEMA_OBJECT,
    .doc = "One command, event or type.",
    .members =
        (const SchemaMember[]){
            { "name", &schema_str,
              .doc = "Its name. Names of types mean nothing: only follow "
                     "them." },
            { "meta-type", &meta_type, .doc = "What it is." },
            { "features", &str_list_type, .optional = true,
              .doc = "Such as unstable (default: none)." },
            { NULL } },
    .discriminator = "meta-type",
    .branch = info_branch,
};

const SchemaType schema_info_list_type = {
    .name = "SchemaInfoList",
    .kind = SCHEMA_ARRAY,
    .element = &schema_info_type,
};
