/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How many there may be of what users create by name, and how long names may
 * be. Far more than anybody needs: they are for programs that have lost count.
 * docs/limits.md lists all limits, these and those of single rooms.
 */
#ifndef UTIL_LIMITS_H
#define UTIL_LIMITS_H

#include <glib.h>
#include <stdbool.h>

/* Bytes of the name of a job, an export, an object or a file descriptor */
#define NAME_MAX_BYTES 1023
/* Bytes of the text that add-fd may attach to a descriptor */
#define FD_TEXT_MAX_BYTES 4096

typedef struct Limits {
    unsigned nodes;      /* filters of jobs and generated names included */
    unsigned jobs;       /* those that wait to be dismissed included */
    unsigned exports;    /* those that wait for their clients to end included */
    unsigned bitmaps;    /* with names, of one node; images may bring more */
    unsigned objects;    /* secrets, throttle groups */
    unsigned passed_fds; /* in sets (add-fd), and as many with names (getfd) */
} Limits;
extern Limits limits; /* changed by nobody but tests */

/* May there be one more, where there are @have? False and @errp if not; @what:
 * "nodes" */
bool limit_allows(unsigned have, unsigned limit, const char *what,
                  GError **errp);
/* Is @text not too long? False and @errp if it is; @what: "Job ID" */
bool limit_length(const char *text, size_t limit, const char *what,
                  GError **errp);

#endif
