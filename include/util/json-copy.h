/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Copies of JSON values that share nothing with the original. json-glib counts
 * references to objects, arrays and even to strings and numbers inside nodes,
 * and not atomically: what json_node_copy() and json_object_ref() return must
 * stay on the thread of the original.
 */
#ifndef UTIL_JSON_COPY_H
#define UTIL_JSON_COPY_H

#include <json-glib/json-glib.h>

JsonNode *json_deep_copy(JsonNode *node);
JsonObject *json_object_deep_copy(JsonObject *object);

#endif
