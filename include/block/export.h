/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Exports: how a guest or a client gets at a node. Everything here runs on
 * the management thread with the graph mutex held, unless it says otherwise.
 */
#ifndef BLOCK_EXPORT_H
#define BLOCK_EXPORT_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "block/block.h"
#include "util/schema.h"

extern const SchemaType block_export_options_type; /* BlockExportOptions */
extern const SchemaType nbd_server_options_type;   /* NbdServerOptions, flat */

/* Options are checked against the types above. */
bool block_export_add(JsonObject *options, GError **errp);
bool nbd_server_start(JsonObject *options, GError **errp);
bool nbd_server_is_running(void); /* any thread */
/*
 * Disconnects all clients, waits until their requests have ended, and closes
 * all exports over NBD. Nothing happens if the server does not run.
 */
void nbd_server_stop(void);
/*
 * At exit, main thread, which does not hold the graph mutex: the same for the
 * NBD server and every export there is.
 */
void block_export_close_all(void);

#endif
