/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How many there may be of what users create by name */
#include "util/limits.h"

#include <string.h>

#include "util/error.h"

/* What is shown of a name that is too long, bytes */
#define SHOWN_BYTES 64

Limits limits = {
    .nodes = 10000,
    .jobs = 1000,
    .exports = 1000,
    .bitmaps = 1000,
    .objects = 1000,
    .passed_fds = 1000,
};

bool limit_allows(unsigned have, unsigned limit, const char *what,
                  GError **errp)
{
    if (have < limit) {
        return true;
    }
    error_setg(errp, "Too many %s: there are %u, and may be %u at most", what,
               have, limit);
    return false;
}

bool limit_length(const char *text, size_t limit, const char *what,
                  GError **errp)
{
    size_t length = strlen(text);
    g_autofree char *shown = NULL;

    if (length <= limit) {
        return true;
    }
    /* A character that is cut in two would be no text. */
    shown = g_utf8_make_valid(text, SHOWN_BYTES);
    error_setg(errp, "%s '%s...' is too long: %zu bytes, at most %zu", what,
               shown, length, limit);
    return false;
}
