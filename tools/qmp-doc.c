/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes the QMP reference, docs/qmp.md, to standard output: the introduction
 * named on the command line, then all that the tables of commands and events
 * hold. Fails if something has no description, or an example is wrong. Used
 * when building, not installed.
 */
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/qmp.h"
#include "util/json-text.h"

static GPtrArray *types; /* of SchemaType: to be described, once each */
static bool failed;

static void G_GNUC_PRINTF(1, 2) complain(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fputs("qmp-doc: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputs("\n", stderr);
    va_end(ap);
    failed = true;
}

/* Types without a name, and those of one command's arguments only, are
 * described where they are used. */
static bool is_inline(const SchemaType *type)
{
    return !type->name || g_str_has_prefix(type->name, "q_obj_");
}

static void use_type(const SchemaType *type)
{
    if (!g_ptr_array_find(types, type, NULL)) {
        g_ptr_array_add(types, (void *)type);
    }
}

/* The name of @type, as a link if it is described elsewhere */
static char *type_ref(const SchemaType *type)
{
    g_autofree char *anchor = NULL;
    g_autofree char *element = NULL;

    switch (type->kind) {
    case SCHEMA_STR:
        return g_strdup("string");
    case SCHEMA_BOOL:
        return g_strdup("boolean");
    case SCHEMA_INT:
    case SCHEMA_UINT:
    case SCHEMA_SIZE:
        return g_strdup("integer");
    case SCHEMA_NUMBER:
        return g_strdup("number");
    case SCHEMA_NULL:
        return g_strdup("null");
    case SCHEMA_ANY:
        return g_strdup("any type");
    case SCHEMA_ARRAY:
        element = type_ref(type->element);
        return g_strdup_printf("array of %s", element);
    case SCHEMA_ENUM:
    case SCHEMA_OBJECT:
    case SCHEMA_ALTERNATE:
        break;
    }
    if (type->kind == SCHEMA_OBJECT && is_inline(type)) {
        return g_strdup("object");
    }
    if (!type->name) {
        complain("an enumeration or alternate has no name");
        return g_strdup("?");
    }
    use_type(type);
    anchor = g_ascii_strdown(type->name, -1);
    return g_strdup_printf("[%s](#%s)", type->name, anchor);
}

static void print_members(const SchemaType *type, const char *owner, int depth);

/* The members that an object within has, if they are not described elsewhere */
static void print_inner(const SchemaType *type, const char *owner, int depth)
{
    if (type->kind == SCHEMA_ARRAY) {
        print_inner(type->element, owner, depth);
    } else if (type->kind == SCHEMA_OBJECT && is_inline(type)) {
        print_members(type, owner, depth);
    }
}

static void print_branches(const SchemaType *type, const char *owner, int depth)
{
    const SchemaType *branch;
    const char *tag;
    size_t n;

    for (n = 0; type->branch(n, &tag, &branch); n++) {
        if (!branch || !branch->members) {
            continue;
        }
        printf("%*s- With **%s** `%s`", depth * 2, "", type->discriminator,
               tag);
        if (is_inline(branch)) {
            printf(":\n");
            print_members(branch, owner, depth + 1);
        } else {
            g_autofree char *ref = type_ref(branch);

            printf(": the members of %s\n", ref);
        }
    }
}

static void print_members(const SchemaType *type, const char *owner, int depth)
{
    const SchemaMember *member;

    for (member = type->members; member && member->name; member++) {
        g_autofree char *ref = type_ref(member->type);

        printf("%*s- **%s** (%s%s%s): %s\n", depth * 2, "", member->name, ref,
               member->optional ? ", optional" : "",
               member->unstable ? ", unstable" : "",
               member->doc ? member->doc : "");
        if (!member->doc || !member->doc[0]) {
            complain("%s: member '%s' has no description", owner, member->name);
        }
        print_inner(member->type, owner, depth + 1);
    }
    if (type->discriminator) {
        print_branches(type, owner, depth);
    }
}

/* "TITLE: " and the members of @type, or where to find them */
static void print_object(const char *title, const SchemaType *type,
                         const char *owner)
{
    if (is_inline(type)) {
        printf("\n%s:\n\n", title);
        print_members(type, owner, 0);
    } else {
        g_autofree char *ref = type_ref(type);

        printf("\n%s: the members of %s\n", title, ref);
    }
}

static void print_returns(const QmpCommand *cmd)
{
    g_autofree char *ref = NULL;

    if (!cmd->ret) {
        return;
    }
    if (cmd->ret->kind == SCHEMA_OBJECT && is_inline(cmd->ret)) {
        print_object("Returns an object", cmd->ret, cmd->name);
        return;
    }
    ref = type_ref(cmd->ret);
    printf("\nReturns: %s\n", ref);
    if (cmd->ret->kind == SCHEMA_ARRAY && is_inline(cmd->ret->element)) {
        printf("\n");
        print_inner(cmd->ret, cmd->name, 0);
    }
}

static void print_example(const QmpCommand *cmd)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) args = NULL;

    printf("\nExample:\n\n```\n-> {\"execute\": \"%s\"", cmd->name);
    if (cmd->example) {
        args = json_text_parse(cmd->example, strlen(cmd->example), &err);
        if (!args || !schema_check(cmd->args ? cmd->args : &schema_empty, args,
                                   "", false, &err)) {
            complain("%s: the example is wrong: %s", cmd->name, err->message);
            return;
        }
        json_text_append(text, args, false);
        printf(", \"arguments\": %s", text->str);
    } else if (cmd->args) {
        complain("%s: takes arguments, but has no example", cmd->name);
    }
    printf("}\n%s```\n", cmd->ret ? "" : "<- {\"return\": {}}\n");
}

static void print_command(const QmpCommand *cmd)
{
    static const char *const threads[] = {
        [QMP_MAIN] = "Answered at once.",
        [QMP_MANAGEMENT] = ("May wait for I/O, and for other commands that "
                            "manage something."),
        [QMP_WORKER] = "May wait for I/O.",
    };

    printf("\n### %s\n\n", cmd->name);
    if (!cmd->doc || !cmd->doc[0]) {
        complain("%s: has no description", cmd->name);
    }
    printf("%s%s\n\n*%s*\n", cmd->unstable ? "Unstable. " : "",
           cmd->doc ? cmd->doc : "", threads[cmd->thread]);
    if (cmd->args) {
        print_object("Arguments", cmd->args, cmd->name);
    }
    print_returns(cmd);
    if (cmd->errors) {
        printf("\nErrors: %s\n", cmd->errors);
    }
    print_example(cmd);
}

static void print_event(const QmpEvent *event)
{
    printf("\n### %s\n\n", event->name);
    if (!event->doc || !event->doc[0]) {
        complain("%s: has no description", event->name);
    }
    printf("%s\n", event->doc ? event->doc : "");
    if (event->data) {
        print_object("Data", event->data, event->name);
    }
}

static void print_values(const SchemaType *type)
{
    const char *const *value;

    printf("\nOne of ");
    for (value = type->values; *value; value++) {
        printf("%s`%s`", value == type->values ? "" : ", ", *value);
    }
    printf(".\n");
}

static void print_type(const SchemaType *type)
{
    const SchemaType *const *alternative;

    printf("\n### %s\n", type->name);
    if (type->doc) {
        printf("\n%s\n", type->doc);
    }
    if (type->kind == SCHEMA_ENUM) {
        print_values(type);
    } else if (type->kind == SCHEMA_OBJECT) {
        printf("\n");
        print_members(type, type->name, 0);
    } else {
        printf("\nOne of:\n\n");
        for (alternative = type->alternatives; *alternative; alternative++) {
            g_autofree char *ref = type_ref(*alternative);

            printf("- %s\n", ref);
        }
    }
}

static int compare_names(gconstpointer a, gconstpointer b)
{
    /* The name is the first member of commands, events and types. */
    return strcmp(**(const char ***)a, **(const char ***)b);
}

/* Links to what @list holds, in a line */
static void print_index(GPtrArray *list)
{
    guint i;

    for (i = 0; i < list->len; i++) {
        const char *name = *(const char **)g_ptr_array_index(list, i);
        g_autofree char *anchor = g_ascii_strdown(name, -1);

        printf("%s[%s](#%s)", i ? ",\n" : "\n", name, anchor);
    }
    printf("\n");
}

static void print_commands(void)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    const QmpCommand *const *table;
    const QmpCommand *cmd;
    guint i;

    for (table = qmp_command_tables; *table; table++) {
        for (cmd = *table; cmd->name; cmd++) {
            g_ptr_array_add(list, (void *)cmd);
        }
    }
    g_ptr_array_sort(list, compare_names);
    printf("\n## Commands\n");
    print_index(list);
    for (i = 0; i < list->len; i++) {
        print_command(g_ptr_array_index(list, i));
    }
}

static void print_events(void)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    const QmpEvent *const *table;
    const QmpEvent *event;
    guint i;

    for (table = qmp_event_tables; *table; table++) {
        for (event = *table; event->name; event++) {
            g_ptr_array_add(list, (void *)event);
        }
    }
    g_ptr_array_sort(list, compare_names);
    printf("\n## Events\n");
    print_index(list);
    for (i = 0; i < list->len; i++) {
        print_event(g_ptr_array_index(list, i));
    }
}

/* Describing a type may find others. */
static void print_types(void)
{
    guint done = 0, i;

    printf("\n## Types\n");
    while (done < types->len) {
        const SchemaType *type = g_ptr_array_index(types, done++);

        for (i = 0; i < done - 1; i++) {
            const SchemaType *other = g_ptr_array_index(types, i);

            if (!strcmp(other->name, type->name)) {
                complain("two types are named '%s'", type->name);
            }
        }
        print_type(type);
    }
}

int main(int argc, char **argv)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *intro = NULL;

    if (argc != 2) {
        fprintf(stderr, "Usage: qmp-doc INTRODUCTION.md\n");
        return EXIT_FAILURE;
    }
    if (!g_file_get_contents(argv[1], &intro, NULL, &err)) {
        complain("%s", err->message);
        return EXIT_FAILURE;
    }
    types = g_ptr_array_new();
    fputs(intro, stdout);
    print_commands();
    print_events();
    print_types();
    g_ptr_array_unref(types);
    return failed || fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}
