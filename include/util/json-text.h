/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON text to JsonNode and back.
 *
 * json-glib's own parser is too kind for input from strangers: it recurses as
 * deep as it is told to, takes comments and assignments, keeps the last of two
 * equal keys and wraps integers around. This one is strict (RFC 8259, and in
 * addition QEMU's strings in single quotes), and its output looks like QEMU's.
 */
#ifndef UTIL_JSON_TEXT_H
#define UTIL_JSON_TEXT_H

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stddef.h>

/* How deep arrays and objects may be nested; as in QEMU */
#define JSON_TEXT_MAX_NESTING 1024

/*
 * Parse one JSON value from @len bytes at @text; only white space may surround
 * it. Integers that do not fit into int64_t become doubles. NULL and @errp
 * ("JSON parse error, ...") on error.
 */
JsonNode *json_text_parse(const char *text, size_t len, GError **errp);

/* Append @node to @out, in ASCII: on one line, or indented by four spaces a
 * level. */
void json_text_append(GString *out, JsonNode *node, bool pretty);

#endif
