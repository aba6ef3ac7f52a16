/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs scenarios: once to count the system calls, and then once for each call and
 * each way in which it can fail. A scenario is a straight line of operations; one
 * that fails when it may is done again, so that each run gets to the end.
 */
#ifndef TESTS_FAULTS_RUN_H
#define TESTS_FAULTS_RUN_H

#include <errno.h>
#include <glib.h>
#include <stdbool.h>

#include "plan.h"

typedef struct Scenario {
    const char *name;
    void (*func)(void);
    bool root; /* needs to be root */
    /* Before the first run, in the process that makes all of them; may be NULL */
    void (*prepare)(void);
    /* Without --long, only what fails with an error: all that a request can do about
     * the other ways has been done below. */
    bool errors_only;
} Scenario;

/* main() of a program of scenarios; NULL name at the end */
int run_main(int argc, char **argv, const Scenario *scenarios);

/* The directory that is there for the scenario, on the file system under test */
extern const char *run_dir;
/* The run has failed: says so, and ends the process. */
G_NORETURN void run_fail(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
#define REQUIRE(condition)                                                     \
    do {                                                                       \
        if (!(condition)) {                                                    \
            run_fail("%s:%d: %s", __FILE__, __LINE__, #condition);             \
        }                                                                      \
    } while (0)

/* ---- operations --------------------------------------------------------- */

/* Calls count from here on; the text says what is being done. */
void op_begin(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/*
 * It has returned @ret, 0 or -errno; or false with @err, which is freed. True: it
 * is done. False: it has failed as it had to, and is to be done again.
 */
bool op_end(int ret);
bool op_end_bool(bool ok, GError *err);
/* Of the operation that ended last: has anything happened to it? */
bool op_was_hit(void);
/* Was that about stable storage? */
bool op_hit_sync(void);
/* The same as op_end() for those who know better what may come of it */
void op_stop(void);
/* Does it say that this is why? */
bool op_says(const char *message, const Fault *f);
int op_hits(void);
const Fault *op_hit(int i);

#endif
