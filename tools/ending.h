/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The end of the daemon, in bounded time */
#ifndef TOOLS_ENDING_H
#define TOOLS_ENDING_H

#include <stdbool.h>

/*
 * End everything that was set up: clients are disconnected, jobs cancelled, data
 * is flushed, nodes are closed. Main thread; @program is named in messages.
 *
 * If something hangs (a request, a command, a job) it is left as it is after a
 * while, and so are the threads and the memory that belong to it: what else can
 * be flushed is flushed, sockets and the pid file are removed, and the process
 * ends here and now with a message and status 1. Otherwise this returns.
 */
void end_daemon(const char *program);

#endif
