/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The types of objects that --object and object-add offer */
#ifndef BLOCK_OBJECT_TYPES_H
#define BLOCK_OBJECT_TYPES_H

#include "util/object.h"

extern const SchemaType object_options_type; /* ObjectOptions */

/* object_add() with options that are checked against that type */
bool object_add_from_options(JsonObject *options, GError **errp);

/*
 * What to tell a user whose --object @text asks for help, with "help" or "?"
 * alone or behind a type: the types, or the type's options. NULL if it asks
 * for none.
 */
char *object_help(const char *text);

#endif
