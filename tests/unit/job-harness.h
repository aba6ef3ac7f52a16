/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What tests of jobs need of the daemon: a management thread, and somebody who
 * listens to events. Both stand in for the monitor's.
 */
#ifndef TESTS_UNIT_JOB_HARNESS_H
#define TESTS_UNIT_JOB_HARNESS_H

#include "block/job.h"

/* Around each test: starts and stops the management thread. harness_stop()
 * checks that neither a job nor a node is left. */
void harness_start(void);
void harness_stop(void);

/* Run @func on the management thread, and wait for it. */
void on_management(void (*func)(void *opaque), void *opaque);

/* What management_queue() got from now on stays in the queue, until go. */
void management_halt(void);
void management_wait_queued(void);
void management_go(void);

/*
 * Events are remembered as one word each: "m:running" for a status of job m,
 * "m:COMPLETED" for BLOCK_JOB_COMPLETED, with "(text)" behind if it has an
 * error; "m:ERROR(read)", or "m:ERROR(read,stop)" if the action is not "report";
 * "m:MISMATCH(offset+length)".
 */
/* Wait until @event has come since the last call that returned, or start. */
void wait_event(const char *event);
/* The same for any of several, NULL-terminated: which it was */
int wait_any_event(const char *const *any);
/* All since the start, or since the last forget_events(), with spaces between */
char *events(void);
void forget_events(void);
void check_events(const char *expected);
/* Member @name of the last event whose word was @event */
int64_t event_int(const char *event, const char *name);

/* The row of @id in query-jobs or (block) query-block-jobs; NULL: none */
JsonObject *job_row(const char *id, bool block);

/* The verb must succeed, or be refused with this message. */
#define verb_ok(call)                                                          \
    do {                                                                       \
        GError *err_ = NULL;                                                   \
        GError **errp = &err_;                                                 \
        bool ok_ = (call);                                                     \
        ck_assert_msg(ok_ && !err_, "%s: %s", #call,                           \
                      err_ ? err_->message : "no error");                      \
    } while (0)
#define verb_refused(call, message_)                                           \
    do {                                                                       \
        GError *err_ = NULL;                                                   \
        GError **errp = &err_;                                                 \
        bool ok_ = (call);                                                     \
        ck_assert_msg(!ok_, "%s succeeded", #call);                            \
        ck_assert_str_eq(err_->message, message_);                             \
        g_error_free(err_);                                                    \
    } while (0)

#endif
