/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QMP: commands and events are described by tables, one file a subject; the
 * monitor checks arguments against them before a handler is called, and
 * query-qmp-schema and docs/qmp.md are made from them.
 */
#ifndef MONITOR_QMP_H
#define MONITOR_QMP_H

#include <glib.h>
#include <json-glib/json-glib.h>

#include "util/error.h"
#include "util/schema.h"

typedef enum QmpThread {
    QMP_MAIN,       /* at once, in the main thread: short locks, no I/O */
    QMP_MANAGEMENT, /* one after the other, on the management thread, with the
                       graph mutex held: opens, closes, attaches, drains */
    QMP_WORKER,     /* a thread of its own: does I/O, changes no graph */
} QmpThread;

typedef struct QmpCommand {
    const char *name; /* NULL ends a table */
    QmpThread thread;
    bool unstable;
    bool takes_fd;          /* its handler calls qmp_take_fd() */
    const SchemaType *args; /* an OBJECT, or NULL: none */
    const SchemaType *ret;  /* NULL: the empty object */
    const char *doc;
    const char *example; /* of its "arguments", JSON; NULL if it takes none */
    const char *errors;  /* what can go wrong, but for arguments of the wrong
                           form; NULL: nothing */
    /*
     * @args is checked and never NULL. Returns the value (transfer full), or
     * NULL for the empty object, or NULL with @errp set.
     */
    JsonNode *(*handler)(JsonObject *args, GError **errp);
} QmpCommand;

typedef struct QmpEvent {
    const char *name;       /* NULL ends a table */
    const SchemaType *data; /* an OBJECT, or NULL */
    const char *doc;
} QmpEvent;

/* All tables, each ended by a NULL name; in block/monitor/tables.c */
extern const QmpCommand *const qmp_command_tables[];
extern const QmpEvent *const qmp_event_tables[];

/*
 * Send an event to every monitor that has negotiated. Takes @data (may be
 * NULL). Any thread; never waits. Events of one thread keep their order, and
 * those that a handler sends come before the reply to its command.
 */
void qmp_event_send(const char *name, JsonObject *data);

/*
 * Run @func on the management thread, graph mutex held, after what was queued
 * before. Any thread.
 */
void management_queue(void (*func)(void *opaque), void *opaque);

/*
 * In the handler of a command that takes one: the file descriptor that came with
 * the command, from now on the caller's. -1 and @errp if none did.
 */
int qmp_take_fd(GError **errp);

/* JSON conveniences: (transfer full) */
JsonNode *qmp_node_from_object(JsonObject *object);
JsonNode *qmp_node_from_array(JsonArray *array);

/* What query-version answers; also part of the greeting */
JsonObject *qmp_version_info(void);

/* End the daemon as SIGTERM does. Any thread; async-signal-safe it is not. */
void daemon_quit(void);

#endif
