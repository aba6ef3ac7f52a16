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
 * all exports over NBD. If a request has not ended at @deadline_us (monotonic
 * microseconds; INT64_MAX: wait for ever), false and @errp: the server has
 * stopped, but exports are left that go when it does.
 */
bool nbd_server_stop(int64_t deadline_us, GError **errp);
/* Stops to listen, removes the socket, and disconnects all clients, without
 * waiting for them. Any thread. */
void nbd_server_close(void);
/*
 * At exit, without the graph mutex: stop the NBD server and close every export
 * there is, however long their requests take.
 */
void block_export_close_all(void);
/*
 * Before that, when the graph mutex may be a long time coming: take no new
 * clients and no new requests, and have those that wait give up. Waits for
 * nothing. Any thread.
 */
void block_export_throw_out_all(void);
/* Ids (strings) of those with clients that have not left. Any thread. */
GPtrArray *block_export_in_use(void);

#endif
