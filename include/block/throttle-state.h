/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Limits of throughput, and the arithmetic that keeps them: pure functions of
 * limits, requests and a time that the caller tells. Callers serialize.
 */
#ifndef BLOCK_THROTTLE_STATE_H
#define BLOCK_THROTTLE_STATE_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/schema.h"

/* What is limited, each by itself */
typedef enum ThrottleKind {
    THROTTLE_BPS_TOTAL,
    THROTTLE_BPS_READ,
    THROTTLE_BPS_WRITE,
    THROTTLE_IOPS_TOTAL,
    THROTTLE_IOPS_READ,
    THROTTLE_IOPS_WRITE,
    THROTTLE_KINDS,
} ThrottleKind;

typedef struct ThrottleLimit {
    int64_t avg; /* bytes or requests a second in the long run; 0: no limit */
    int64_t max; /* the same in a burst; 0: a tenth of avg at once */
    int64_t length; /* seconds that a burst may last; at least 1 */
} ThrottleLimit;

typedef struct ThrottleLimits {
    ThrottleLimit limit[THROTTLE_KINDS];
    int64_t iops_size; /* a larger request counts as several; 0: as one */
} ThrottleLimits;

extern const ThrottleLimits throttle_no_limits;
extern const SchemaType throttle_limits_type; /* ThrottleLimits */

/* Names of all 19 members: "iops-total", "iops-total-max", ..., "iops-size" */
#define THROTTLE_NAMES (3 * THROTTLE_KINDS + 1)
const char *throttle_limit_name(int i);
int64_t throttle_limit_get(const ThrottleLimits *limits, int i);

/*
 * Set what @given has, a checked object of integers whose names are those
 * above behind @prefix. Numbers out of range are refused; the whole is to be
 * checked by throttle_limits_check() afterwards.
 */
bool throttle_limits_merge(ThrottleLimits *limits, JsonObject *given,
                           const char *prefix, GError **errp);
bool throttle_limits_check(const ThrottleLimits *limits, GError **errp);
bool throttle_limits_any(const ThrottleLimits *limits);

/* How full a limit's two buckets are: in bytes or requests */
typedef struct ThrottleBuckets {
    double level, burst_level;
} ThrottleBuckets;

typedef struct ThrottleState {
    ThrottleLimits limits;
    ThrottleBuckets buckets[THROTTLE_KINDS];
    int64_t now_ns; /* up to when they have leaked */
} ThrottleState;

/* With empty buckets */
void throttle_state_init(ThrottleState *s, const ThrottleLimits *limits,
                         int64_t now_ns);
/* How long until a request may go: nanoseconds, 0 for now. */
int64_t throttle_state_wait(ThrottleState *s, bool is_write, int64_t now_ns);
/* One goes. */
void throttle_state_account(ThrottleState *s, bool is_write, int64_t bytes);

/* Now, for these; monotonic nanoseconds */
int64_t throttle_now_ns(void);

#endif
