/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Trace points: what happens where, for those who look into a running daemon.
 *
 * Each has a name, which --trace takes, and a function here. Where there is
 * <sys/sdt.h>, it is a static probe of the provider "seekless", too, which
 * bpftrace, perf and SystemTap can find in the program, with the arguments of
 * the function. Off, a point costs the test of a global variable.
 *
 * Any thread. A line of the log is one write(2), which the thread waits for, and
 * others with it if it has the lock of a status cache: who sends the log to a
 * pipe must read it.
 */
#ifndef UTIL_TRACE_H
#define UTIL_TRACE_H

#include <glib.h>
#include <inttypes.h>
#include <stdbool.h>

#ifdef SEEKLESS_USDT
#include <sys/sdt.h>
#define TRACE_USDT3(name, a, b, c) DTRACE_PROBE3(seekless, name, a, b, c)
#define TRACE_USDT6(name, a, b, c, d, e, f)                                    \
    DTRACE_PROBE6(seekless, name, a, b, c, d, e, f)
#else
#define TRACE_USDT3(name, a, b, c)
#define TRACE_USDT6(name, a, b, c, d, e, f)
#endif

typedef enum TraceEvent {
    TRACE_GATE_WAIT,
    TRACE_JOB_STATUS,
    TRACE_RANGE_LOCK_WAIT,
    TRACE_STATUS_EVICT,
    TRACE_STATUS_MISMATCH,
    TRACE_STATUS_PROBE,
    TRACE_STATUS_TAINT,
    TRACE_EVENTS,
} TraceEvent;

/* Their names, by TraceEvent, in alphabetical order */
extern const char *const trace_event_names[TRACE_EVENTS];

/* By TraceEvent; atomic */
extern bool trace_enabled[TRACE_EVENTS];

static inline bool trace_on(TraceEvent event)
{
    return G_UNLIKELY(__atomic_load_n(&trace_enabled[event], __ATOMIC_RELAXED));
}

/*
 * Turn on all events that fit @pattern, which may have "*" and "?", or off if it
 * begins with "-". False if there is none.
 */
bool trace_enable(const char *pattern);
/* Log to @path from now on, at its end, instead of stderr. 0 or -errno. */
int trace_set_file(const char *path);
/* A line: "PID@SECONDS.MICROSECONDS:NAME TEXT" */
void trace_log(TraceEvent event, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* ---- the trace points --------------------------------------------------- */

/* The file system was asked about [@offset, @offset + @bytes) of the file @fd;
 * @result is what is at the offset asked for, or -errno. */
static inline void trace_status_probe(int fd, int64_t offset, int64_t bytes,
                                      const char *strategy, const char *result,
                                      uint64_t ns)
{
    TRACE_USDT6(status_probe, fd, offset, bytes, strategy, result, ns);
    if (trace_on(TRACE_STATUS_PROBE)) {
        trace_log(TRACE_STATUS_PROBE,
                  "fd %d offset %" PRId64 " bytes %" PRId64
                  " strategy %s result %s ns %" PRIu64,
                  fd, offset, bytes, strategy, result, ns);
    }
}

/* A part of an operation (a zero-write, a probe, a read) proves nothing. */
static inline void trace_status_taint(const char *op, int64_t offset,
                                      int64_t bytes)
{
    TRACE_USDT3(status_taint, op, offset, bytes);
    if (trace_on(TRACE_STATUS_TAINT)) {
        trace_log(TRACE_STATUS_TAINT, "op %s offset %" PRId64 " bytes %" PRId64,
                  op, offset, bytes);
    }
}

/* A status cache is too large, and forgets a range. */
static inline void trace_status_evict(const void *cache, int64_t offset,
                                      int64_t bytes)
{
    TRACE_USDT3(status_evict, cache, offset, bytes);
    if (trace_on(TRACE_STATUS_EVICT)) {
        trace_log(TRACE_STATUS_EVICT,
                  "cache %p offset %" PRId64 " bytes %" PRId64, cache, offset,
                  bytes);
    }
}

/* A range of a node was called zero, and was not. */
static inline void trace_status_mismatch(const char *node, int64_t offset,
                                         int64_t bytes)
{
    TRACE_USDT3(status_mismatch, node, offset, bytes);
    if (trace_on(TRACE_STATUS_MISMATCH)) {
        trace_log(TRACE_STATUS_MISMATCH,
                  "node %s offset %" PRId64 " bytes %" PRId64, node, offset,
                  bytes);
    }
}

/* A job takes a step. */
static inline void trace_job_status(const char *id, const char *from,
                                    const char *to)
{
    TRACE_USDT3(job_status, id, from, to);
    if (trace_on(TRACE_JOB_STATUS)) {
        trace_log(TRACE_JOB_STATUS, "id %s from %s to %s", id, from, to);
    }
}

/* A request has waited for others on the same range. */
static inline void trace_range_lock_wait(int64_t offset, int64_t bytes,
                                         int64_t us)
{
    TRACE_USDT3(range_lock_wait, offset, bytes, us);
    if (trace_on(TRACE_RANGE_LOCK_WAIT)) {
        trace_log(TRACE_RANGE_LOCK_WAIT,
                  "offset %" PRId64 " bytes %" PRId64 " us %" PRId64, offset,
                  bytes, us);
    }
}

/* A request has waited at a gate that a drain had closed. */
static inline void trace_gate_wait(const void *backend, int result, int64_t us)
{
    TRACE_USDT3(gate_wait, backend, result, us);
    if (trace_on(TRACE_GATE_WAIT)) {
        trace_log(TRACE_GATE_WAIT, "backend %p result %d us %" PRId64, backend,
                  result, us);
    }
}

#endif
