/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of this directory share. */
#ifndef MONITOR_INT_H
#define MONITOR_INT_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "monitor/qmp.h"

/* ---- main-queue.c: work for the main thread ----------------------------- */

void main_queue_init(void);
void main_queue_cleanup(void);
/* Have the main thread call @func(@opaque), in the order of the calls. Any
 * thread. */
void main_post(void (*func)(void *opaque), void *opaque);
/* Main thread: call what was posted until now. */
void main_queue_run(void);

/* ---- management.c: threads that may wait -------------------------------- */

/* Starts the first thread of each kind; the others come when needed. */
bool management_start(GError **errp);
/* Ends the threads, once their queues are empty. */
void management_stop(void);
/* Run @func on a thread of the pool. Any thread. */
void worker_queue(void (*func)(void *opaque), void *opaque);

/* ---- qmp-dispatch.c: one command ---------------------------------------- */

typedef struct QmpRequest {
    const QmpCommand *cmd; /* NULL: @err tells why */
    JsonObject *args;      /* checked, never NULL if @cmd is not */
    JsonNode *id;          /* or NULL */
    bool oob;              /* exec-oob: may overtake */
    bool pretty;
    int fd;          /* that came with it, or -1 */
    JsonNode *input; /* until it is resolved */
    GError *err;
    GString *reply; /* once executed, with the line's end */
    void *owner;
} QmpRequest;

/* What a session has agreed upon */
typedef struct QmpCapabilities {
    bool negotiated, oob;
} QmpCapabilities;

/* From a value (transfer full), or from an error (transfer full) if that is
 * NULL. */
QmpRequest *qmp_request_new(JsonNode *input, GError *err);
void qmp_request_free(QmpRequest *req);
/* Is it a command that takes a file descriptor? */
bool qmp_request_takes_fd(const QmpRequest *req);
/* Find the command and check the arguments; sets cmd and args, or err. */
void qmp_request_resolve(QmpRequest *req, const QmpCapabilities *caps);
/* Call the handler, if there is one to call, and make the reply. On the thread
 * that cmd wants. */
void qmp_request_execute(QmpRequest *req);

/* May @cmd be executed out of band? */
bool qmp_command_allows_oob(const QmpCommand *cmd);
/* Append @node as a line of output. */
void qmp_append_line(GString *out, JsonNode *node, bool pretty);

/* ---- qmp-control.c ------------------------------------------------------ */

/* What a monitor says first */
JsonNode *qmp_greeting(void);

/* ---- monitor.c ---------------------------------------------------------- */

/* While a handler runs on the main thread: the capabilities of the session
 * whose command it is. */
QmpCapabilities *qmp_current_capabilities(void);

#endif
