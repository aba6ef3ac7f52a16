/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Trace points: which are on, and their log */
#include "util/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

const char *const trace_event_names[TRACE_EVENTS] = {
    [TRACE_GATE_WAIT] = "gate_wait",
    [TRACE_JOB_STATUS] = "job_status",
    [TRACE_RANGE_LOCK_WAIT] = "range_lock_wait",
    [TRACE_STATUS_EVICT] = "status_evict",
    [TRACE_STATUS_MISMATCH] = "status_mismatch",
    [TRACE_STATUS_PROBE] = "status_probe",
    [TRACE_STATUS_TAINT] = "status_taint",
};

bool trace_enabled[TRACE_EVENTS];

static int log_fd = STDERR_FILENO; /* atomic */

bool trace_enable(const char *pattern)
{
    bool on = pattern[0] != '-';
    bool found = false;
    int i;

    pattern += !on;
    for (i = 0; i < TRACE_EVENTS; i++) {
        if (g_pattern_match_simple(pattern, trace_event_names[i])) {
            __atomic_store_n(&trace_enabled[i], on, __ATOMIC_RELAXED);
            found = true;
        }
    }
    return found;
}

int trace_set_file(const char *path)
{
    int fd =
        open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);
    int old;

    if (fd < 0) {
        return -errno;
    }
    old = __atomic_exchange_n(&log_fd, fd, __ATOMIC_ACQ_REL);
    if (old != STDERR_FILENO) {
        close(old);
    }
    return 0;
}

void trace_log(TraceEvent event, const char *fmt, ...)
{
    int64_t now = g_get_real_time();
    g_autofree char *text = NULL;
    g_autofree char *line = NULL;
    ssize_t n;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    line = g_strdup_printf("%d@%" PRId64 ".%06d:%s %s\n", getpid(),
                           now / G_USEC_PER_SEC, (int)(now % G_USEC_PER_SEC),
                           trace_event_names[event], text);
    do {
        n = write(__atomic_load_n(&log_fd, __ATOMIC_ACQUIRE), line,
                  strlen(line));
    } while (n < 0 && errno == EINTR);
    /* What cannot be logged is not worth a request. */
}
