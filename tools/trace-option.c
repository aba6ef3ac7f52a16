/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The option --trace */
#include "tools/trace-option.h"

#include <stdio.h>
#include <string.h>

#include "util/error.h"
#include "util/keyval.h"
#include "util/schema.h"
#include "util/trace.h"

static const SchemaType trace_options_type = {
    .name = "TraceOptions",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){ { "enable", &schema_str, .optional = true },
                                { "file", &schema_str, .optional = true },
                                { NULL } },
};

bool trace_option_help(const char *text)
{
    int i;

    if (strcmp(text, "help") && strcmp(text, "?")) {
        return false;
    }
    for (i = 0; i < TRACE_EVENTS; i++) {
        puts(trace_event_names[i]);
    }
    return true;
}

bool trace_option_apply(const char *text, GError **errp)
{
    g_autoptr(JsonNode) node = NULL;
    const char *pattern, *file;
    JsonObject *options;
    bool keyval;
    int ret;

    node = keyval_parse(text, "enable", &keyval, errp);
    if (!node || !schema_check(&trace_options_type, node, "", keyval, errp)) {
        return false;
    }
    options = json_node_get_object(node);
    file = schema_get_str(options, "file", NULL);
    ret = file ? trace_set_file(file) : 0;
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not open '%s'", file);
        return false;
    }
    pattern = schema_get_str(options, "enable", NULL);
    if (pattern && !trace_enable(pattern)) {
        error_setg(errp, "trace event '%s' does not exist", pattern);
        return false;
    }
    return true;
}
