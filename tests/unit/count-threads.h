/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TESTS_UNIT_COUNT_THREADS_H
#define TESTS_UNIT_COUNT_THREADS_H

#include <check.h>
#include <glib.h>

/* How many threads this process has, those of sanitizers included */
static inline int count_threads(void)
{
    GDir *dir = g_dir_open("/proc/self/task", 0, NULL);
    int n = 0;

    ck_assert(dir != NULL);
    while (g_dir_read_name(dir)) {
        n++;
    }
    g_dir_close(dir);
    return n;
}

#endif
