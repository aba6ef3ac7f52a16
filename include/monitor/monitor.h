/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QMP monitors, their character devices and the management thread, as the
 * daemon's main() uses them. Everything here runs on the main thread, whose
 * default GMainContext serves the monitors.
 */
#ifndef MONITOR_MONITOR_H
#define MONITOR_MONITOR_H

#include <glib.h>
#include <stdbool.h>

#include "util/schema.h"

/* A client may leave so many bytes of replies unread before its next commands
 * are no longer taken, and so many of replies and events together before it is
 * disconnected. */
#define MONITOR_OUTPUT_HIGH (256 * 1024)
#define MONITOR_OUTPUT_MAX (4 * 1024 * 1024)
/* Commands of one client that may wait for the one that runs; as in QEMU */
#define MONITOR_QUEUE_MAX 8
/* Commands of all clients together, those that have left included, that run or
 * wait for another that runs */
#define MONITOR_RUNNING_MAX 256
/* Bytes of one command */
#define MONITOR_COMMAND_MAX (1024 * 1024)

/*
 * Once, before anything else here. The management thread and the first worker
 * run from now on; commands of monitors are served whenever the main context is
 * iterated. False and @errp if there are no threads to be had.
 */
bool monitor_init(GError **errp);

/*
 * --chardev: @text is either "socket,id=ID,path=PATH[,server=on|off]
 * [,wait=on|off][,reconnect=SECONDS]" or "stdio,id=ID[,signal=on|off]", or
 * JSON, {"id": ID, "backend": {"type": TYPE, "data": {...}}}. A server that
 * waits for its first client iterates the main context meanwhile, and fails if
 * daemon_quit() is called.
 */
bool chardev_add(const char *text, GError **errp);
/* Does any chardev use stdio? Then the daemon cannot go to the background. */
bool chardev_uses_stdio(void);

/* --monitor: "[chardev=]ID[,mode=control][,pretty=on|off][,id=ID]" or JSON */
bool monitor_add(const char *text, GError **errp);

/* The options of --monitor, for documentation */
extern const SchemaType monitor_options_type;

/*
 * Until daemon_quit() is called: iterate the main context. SIGTERM and its
 * like are the caller's to watch for.
 */
void monitor_run(void);
/* Has daemon_quit() been called? Any thread. */
bool daemon_quit_requested(void);

/*
 * Iterate the main context until @over() is true; false if it is not at
 * @deadline_us (monotonic microseconds; INT64_MAX: none). Another thread that
 * makes it true calls g_main_context_wakeup(NULL).
 */
bool monitor_wait(bool (*over)(void *opaque), void *opaque,
                  int64_t deadline_us);

/*
 * First at exit: no monitor takes commands any more; commands that run end and
 * are answered, as far as clients read at once. What was given to
 * management_queue() until then, and by others until monitor_cleanup(), is
 * still done. False if a command has not ended at @deadline_us.
 */
bool monitor_stop(int64_t deadline_us);
/* The names of commands that run for monitors (strings of theirs) */
GPtrArray *monitor_running_commands(void);
/* Last: the management thread ends when its queue is empty, monitors and
 * chardevs are closed and their sockets removed. */
void monitor_cleanup(void);
/* Instead, if a thread hangs: only the latter. What threads may still use stays;
 * _exit() must follow. */
void monitor_abandon(void);

#endif
