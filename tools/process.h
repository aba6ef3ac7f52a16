/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A daemon as a process: into the background, what its manager is told, and a
 * file that names it */
#ifndef TOOLS_PROCESS_H
#define TOOLS_PROCESS_H

#include <glib.h>
#include <stdbool.h>

/*
 * Have all three standard streams open, if only to nowhere, lest a disk image
 * become one of them, and get what is written to it. The very first thing.
 */
bool process_open_stdio(GError **errp);
/*
 * Go on in a process of the background, while the caller's waits: it exits with
 * status 0 at process_detach() and with 1 if the background process ends before
 * that. To be called before there are threads.
 */
bool process_fork(GError **errp);
/*
 * Set-up succeeded: let go of working directory, standard streams and the
 * waiting parent. Does nothing if there was no process_fork().
 */
bool process_detach(GError **errp);

/* Tell the service manager that started us, if it wants to know (sd_notify(3)):
 * "READY=1" or "STOPPING=1". Waits for nothing. */
void process_notify(const char *state);

/*
 * Create @path, lock it and write the process id into it, so that a second
 * process that wants the same file fails. So does a link there, or a file that is
 * not empty and no pid file. Removed by pidfile_remove().
 */
bool pidfile_create(const char *path, GError **errp);
void pidfile_remove(void);

#endif
