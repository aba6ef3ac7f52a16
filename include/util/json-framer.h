/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Cuts a stream of bytes into JSON values, whatever the stream may hold.
 *
 * A value ends where its brackets are balanced; nothing is asked of the white
 * space between values. What is broken gives one error and is skipped:
 *
 * - Outside of values: up to the next "{" or the end of the line.
 * - A value with control characters, brackets that do not match, or nested
 *   deeper than JSON_TEXT_MAX_NESTING: up to where its brackets would be
 *   balanced or the end of the line, whichever comes first.
 * - A value that is too long: to its end.
 * - A line break within a string, and the bytes 0xfe and 0xff (which occur in
 *   no UTF-8 text) end whatever there was.
 *
 * A value whose brackets are balanced, but is wrong otherwise, gives an error
 * and the stream goes on behind it.
 */
#ifndef UTIL_JSON_FRAMER_H
#define UTIL_JSON_FRAMER_H

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct JsonFramer JsonFramer;

/* No value may have more than @max_bytes. */
JsonFramer *json_framer_new(size_t max_bytes);
void json_framer_free(JsonFramer *framer);

/* Append bytes of the stream. They are kept until json_framer_next() needs
 * them: it is the caller who bounds their number. */
void json_framer_push(JsonFramer *framer, const void *data, size_t bytes);
/* The stream has ended: what is begun will not be completed. */
void json_framer_end(JsonFramer *framer);

/*
 * The next value or error: true with *@node (transfer full) set, or with @err
 * set and *@node NULL. False: more bytes are needed. @err is not NULL.
 */
bool json_framer_next(JsonFramer *framer, JsonNode **node, GError **err);

/* Does what was looked at so far end within a value? */
bool json_framer_is_within(const JsonFramer *framer);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(JsonFramer, json_framer_free)

#endif
