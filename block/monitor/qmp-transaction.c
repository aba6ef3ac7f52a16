/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QMP: transaction */
#include "qmp-transaction.h"
#include "qmp-tables.h"
#include "util/error.h"

/* ---- abort -------------------------------------------------------------- */

static const SchemaType abort_type = {
    .name = "Abort",
    .kind = SCHEMA_OBJECT,
    .doc = "No members.",
};

static bool abort_prepare(TransactionAction *a, JsonObject *data, GError **errp)
{
    error_setg(errp, "Transaction aborted using Abort action");
    return false;
}

static const TransactionActionDriver abort_actions[] = {
    {
        .type = "abort",
        .args = &abort_type,
        .grouped = true,
        .prepare = abort_prepare,
    },
    { NULL },
};

/* ---- all actions -------------------------------------------------------- */

static const TransactionActionDriver *const tables[] = {
    abort_actions,
    backup_actions,
    snapshot_actions,
    bitmap_actions,
};

static const TransactionActionDriver *nth_action(size_t n)
{
    const TransactionActionDriver *drv;
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(tables); i++) {
        for (drv = tables[i]; drv->type; drv++) {
            if (n-- == 0) {
                return drv;
            }
        }
    }
    return NULL;
}

static const TransactionActionDriver *find_action(const char *type)
{
    const TransactionActionDriver *drv = NULL;
    size_t n;

    for (n = 0; (drv = nth_action(n)); n++) {
        if (!strcmp(drv->type, type)) {
            return drv;
        }
    }
    return NULL;
}

/* In a branch what belongs to an action is all in the member "data". */
typedef struct Wrapper {
    SchemaType type;
    SchemaMember members[2];
} Wrapper;

static Wrapper wrappers[32]; /* of the actions, in their order */

static void __attribute__((constructor)) init_wrappers(void)
{
    const TransactionActionDriver *drv;
    size_t n;

    for (n = 0; (drv = nth_action(n)); n++) {
        g_assert(n < G_N_ELEMENTS(wrappers));
        wrappers[n].members[0] =
            (SchemaMember){ "data", drv->args,
                            .doc = "What the command of that name takes." };
        wrappers[n].type = (SchemaType){
            .name = g_strconcat(drv->args->name, "Wrapper", NULL),
            .kind = SCHEMA_OBJECT,
            .members = wrappers[n].members,
        };
    }
}

/* The first that takes the same: its wrapper serves for all of them. */
static size_t first_like(const TransactionActionDriver *drv)
{
    size_t n = 0;

    while (nth_action(n)->args != drv->args) {
        n++;
    }
    return n;
}

static bool action_branch(size_t n, const char **tag, const SchemaType **type)
{
    const TransactionActionDriver *drv = nth_action(n);

    if (!drv) {
        return false;
    }
    *tag = drv->type;
    *type = &wrappers[first_like(drv)].type;
    return true;
}

static const SchemaType action_type = {
    .name = "TransactionAction",
    .kind = SCHEMA_OBJECT,
    .doc = "An action: the name of a command and, as \"data\", its arguments. "
           "\"abort\" is no command: it always fails.",
    .members =
        (const SchemaMember[]){
            { "type", &schema_str, .doc = "What to do." },
            { NULL },
        },
    .discriminator = "type",
    .branch = action_branch,
};

/* ---- transaction -------------------------------------------------------- */

static const SchemaType action_list_type = {
    .name = "TransactionActionList",
    .kind = SCHEMA_ARRAY,
    .element = &action_type,
};

enum {
    COMPLETION_INDIVIDUAL,
    COMPLETION_GROUPED
};

static const SchemaType completion_mode_type = {
    .name = "ActionCompletionMode",
    .kind = SCHEMA_ENUM,
    .doc =
        "How the jobs that a transaction starts end: each by itself; or all "
        "together: those that are done wait for the others, and if one fails "
        "or is cancelled, all are.",
    .values = (const char *const[]){ "individual", "grouped", NULL },
};

static const SchemaType properties_type = {
    .name = "TransactionProperties",
    .kind = SCHEMA_OBJECT,
    .doc = "What holds for all actions of a transaction.",
    .members =
        (const SchemaMember[]){
            { "completion-mode", &completion_mode_type, .optional = true,
              .doc = "How jobs end. Default: \"individual\". With \"grouped\" "
                     "there can be only actions that start jobs." },
            { NULL },
        },
};

static const SchemaType transaction_type = {
    .name = "q_obj_transaction-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "actions", &action_list_type, .doc = "What to do." },
            { "properties", &properties_type, .optional = true,
              .doc = "What holds for all actions. Default: their defaults." },
            { NULL },
        },
};

static bool wants_group(JsonObject *args)
{
    return schema_has(args, "properties") &&
           schema_get_enum(schema_get_object(args, "properties"),
                           "completion-mode", &completion_mode_type,
                           COMPLETION_INDIVIDUAL) == COMPLETION_GROUPED;
}

static JsonNode *qmp_transaction(JsonObject *args, GError **errp)
{
    JsonArray *actions = json_object_get_array_member(args, "actions");
    guint n = json_array_get_length(actions);
    g_autofree TransactionStep *steps = g_new0(TransactionStep, n);
    guint i;

    for (i = 0; i < n; i++) {
        JsonObject *action = json_array_get_object_element(actions, i);

        steps[i].drv = find_action(schema_get_str(action, "type", NULL));
        steps[i].data = schema_get_object(action, "data");
    }
    transaction_run(steps, n, wants_group(args), errp);
    return NULL;
}

const QmpCommand qmp_transaction_commands[] = {
    {
        .name = "transaction",
        .thread = QMP_MANAGEMENT,
        .args = &transaction_type,
        .doc =
            "Do several actions at once, or if one of them fails, none. Guests "
            "see all of them happen at one moment: no request of theirs to one "
            "of the nodes is under way between the first action and the last. "
            "Each action finds the nodes as those before it leave them.",
        .example = "{\"actions\": [{\"type\": \"blockdev-snapshot\","
                   " \"data\": {\"node\": \"disk0\", \"overlay\": "
                   "\"overlay0\"}}, {\"type\": \"blockdev-snapshot\", "
                   "\"data\": {\"node\": \"disk1\", "
                   "\"overlay\": \"overlay1\"}}]}",
        .errors =
            "That of the action that fails, which the command of that name has "
            "by itself; an action does not support the completion-mode; "
            "requests to the nodes do not end in 10 seconds.",
        .handler = qmp_transaction,
    },
    { NULL },
};
