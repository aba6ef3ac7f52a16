/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blockdev-reopen as tests say it */
#ifndef TESTS_REOPEN_OPTIONS_H
#define TESTS_REOPEN_OPTIONS_H

#include <check.h>
#include <string.h>

#include "block/block-int.h"

/* @text: a JSON array with ' for ", of options that are checked */
static inline bool try_reopen(const char *text, GError **errp)
{
    g_autofree char *json = g_strdup(text);
    g_autoptr(JsonNode) node = NULL;
    JsonArray *array;
    bool ok;
    guint i;

    g_strdelimit(json, "'", '"');
    node = json_from_string(json, NULL);
    ck_assert_msg(node != NULL, "bad JSON: %s", json);
    array = json_node_get_array(node);
    for (i = 0; i < json_array_get_length(array); i++) {
        if (!schema_check(&blockdev_options_type,
                          json_array_get_element(array, i), "", false, errp)) {
            return false;
        }
    }
    bdrv_graph_lock();
    ok = bdrv_reopen(array, errp);
    bdrv_graph_unlock();
    return ok;
}

static inline void must_reopen(const char *text)
{
    g_autoptr(GError) err = NULL;
    bool ok = try_reopen(text, &err);

    ck_assert_msg(ok, "%s: %s", text, err ? err->message : "no error");
}

#define ASSERT_REOPEN_FAILS(text, saying)                                      \
    do {                                                                       \
        g_autoptr(GError) err_ = NULL;                                         \
        ck_assert(!try_reopen(text, &err_));                                   \
        ck_assert_ptr_nonnull(err_);                                           \
        ck_assert_msg(strstr(err_->message, saying) != NULL,                   \
                      "'%s' lacks '%s'", err_->message, saying);               \
    } while (0)

#endif
