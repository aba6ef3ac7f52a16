/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The option --trace */
#ifndef TOOLS_TRACE_OPTION_H
#define TOOLS_TRACE_OPTION_H

#include <glib.h>
#include <stdbool.h>

/* If @text asks for help: the names of all trace points, one a line. */
bool trace_option_help(const char *text);
/* "[enable=]PATTERN[,file=PATH]". Before there are threads that trace. */
bool trace_option_apply(const char *text, GError **errp);

#endif
