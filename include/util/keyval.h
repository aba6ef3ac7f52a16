/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line's option syntax: either a JSON object, or
 * key=value,key.sub=value,... with dotted keys, where "," inside a value is
 * doubled. In the second form all values are strings: schema_check() with
 * keyval turns them into what the schema wants. Objects whose keys are 0, 1,
 * 2... become arrays. A key that comes twice has its last value.
 */
#ifndef UTIL_KEYVAL_H
#define UTIL_KEYVAL_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

/*
 * Parse @text into an object. @implied_key names the key of a first element
 * without "=", as "type" in "nbd,id=e0"; NULL allows none. *@keyval tells
 * which form it was. NULL and @errp on error; "help" and "?" are not special.
 */
JsonNode *keyval_parse(const char *text, const char *implied_key, bool *keyval,
                       GError **errp);

#endif
