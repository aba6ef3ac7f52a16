/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Names that users give to things */
#include "util/id.h"

#include <glib.h>
#include <string.h>

bool id_wellformed(const char *id)
{
    const char *p = id;

    if (!g_ascii_isalpha(*p)) {
        return false;
    }
    while (g_ascii_isalnum(*p) || (*p && strchr("-._", *p))) {
        p++;
    }
    return *p == '\0';
}
