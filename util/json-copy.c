/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copies of JSON values that share nothing with the original */
#include "util/json-copy.h"

static JsonArray *array_deep_copy(JsonArray *array)
{
    JsonArray *copy = json_array_new();
    guint i;

    for (i = 0; i < json_array_get_length(array); i++) {
        json_array_add_element(
            copy, json_deep_copy(json_array_get_element(array, i)));
    }
    return copy;
}

JsonObject *json_object_deep_copy(JsonObject *object)
{
    JsonObject *copy = json_object_new();
    JsonObjectIter iter;
    const char *name;
    JsonNode *value;

    json_object_iter_init_ordered(&iter, object);
    while (json_object_iter_next_ordered(&iter, &name, &value)) {
        json_object_set_member(copy, name, json_deep_copy(value));
    }
    return copy;
}

static JsonNode *value_copy(JsonNode *node)
{
    JsonNode *copy = json_node_new(JSON_NODE_VALUE);

    switch (json_node_get_value_type(node)) {
    case G_TYPE_STRING:
        json_node_set_string(copy, json_node_get_string(node));
        break;
    case G_TYPE_INT64:
        json_node_set_int(copy, json_node_get_int(node));
        break;
    case G_TYPE_DOUBLE:
        json_node_set_double(copy, json_node_get_double(node));
        break;
    case G_TYPE_BOOLEAN:
        json_node_set_boolean(copy, json_node_get_boolean(node));
        break;
    default:
        g_assert_not_reached();
    }
    return copy;
}

JsonNode *json_deep_copy(JsonNode *node)
{
    JsonNode *copy;

    switch (json_node_get_node_type(node)) {
    case JSON_NODE_OBJECT:
        copy = json_node_new(JSON_NODE_OBJECT);
        json_node_take_object(
            copy, json_object_deep_copy(json_node_get_object(node)));
        return copy;
    case JSON_NODE_ARRAY:
        copy = json_node_new(JSON_NODE_ARRAY);
        json_node_take_array(copy, array_deep_copy(json_node_get_array(node)));
        return copy;
    case JSON_NODE_NULL:
        return json_node_new(JSON_NODE_NULL);
    case JSON_NODE_VALUE:
        return value_copy(node);
    }
    g_assert_not_reached();
}
