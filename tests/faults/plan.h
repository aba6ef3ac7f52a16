/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What can happen to which system call, and what its caller has to make of it:
 * rules for each wrapper, none for a place where it is called.
 */
#ifndef TESTS_FAULTS_PLAN_H
#define TESTS_FAULTS_PLAN_H

#include <glib.h>

#include "seam.h"

/* All that may happen to @call, as an array of Fault; @thorough: by each way and
 * with each error that there is, else a choice of them */
GArray *plan_faults(const SeamCall *call, bool thorough);

typedef enum Verdict {
    VERDICT_FREE,   /* it may be got over, or be reported */
    VERDICT_REPORT, /* whoever asked has to be told */
    VERDICT_ABSORB, /* nobody is told, as it was done again */
} Verdict;

/*
 * Rules for what is above the files. A format reads and frees for itself: whether that
 * was well is seen in its image. What is closed again at the end of an operation
 * was flushed before, so that the last flush need not succeed.
 */
enum {
    PLAN_FORMAT = 0x1,
    PLAN_CLOSES = 0x2,
};
extern int plan_above;

/* Of what has come over a request */
Verdict plan_verdict(const Fault *fault);
/* What is reported if it is */
int plan_error(const Fault *fault);
/* Is it about stable storage? After that no flush succeeds. */
bool plan_is_sync(const Fault *fault);

/* "3:fail:EIO", and the reverse: false if it cannot be read */
char *plan_fault_text(const Fault *fault);
bool plan_parse_fault(const char *text, Fault *fault);
/* "pwritev64v2(RWF_DSYNC)"; to be freed */
char *plan_call_text(const SeamCall *call);

#endif
