/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Limits of throughput: what users may set, and what makes sense */
#include <string.h>

#include "block/throttle-state.h"
#include "util/error.h"

#define LIMIT_MAX INT64_C(1000000000000000)

#define NO_LIMIT                                                               \
    {                                                                          \
        .length = 1                                                            \
    }

const ThrottleLimits throttle_no_limits = {
    .limit = { NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT },
};

/* In the order of ThrottleKind, three of each kind: avg, max, length */
static const char *const names[THROTTLE_NAMES] = {
    "bps-total",  "bps-total-max",  "bps-total-max-length",
    "bps-read",   "bps-read-max",   "bps-read-max-length",
    "bps-write",  "bps-write-max",  "bps-write-max-length",
    "iops-total", "iops-total-max", "iops-total-max-length",
    "iops-read",  "iops-read-max",  "iops-read-max-length",
    "iops-write", "iops-write-max", "iops-write-max-length",
    "iops-size",
};

enum {
    PART_AVG,
    PART_MAX,
    PART_LENGTH,
    PARTS,
    NAME_IOPS_SIZE = THROTTLE_NAMES - 1,
};

static const char *name_of(int kind, int which)
{
    return names[kind * PARTS + which];
}

const char *throttle_limit_name(int i)
{
    return names[i];
}

static int64_t *member(ThrottleLimits *limits, int i)
{
    ThrottleLimit *l = &limits->limit[i / PARTS];

    if (i == NAME_IOPS_SIZE) {
        return &limits->iops_size;
    }
    switch (i % PARTS) {
    case PART_AVG:
        return &l->avg;
    case PART_MAX:
        return &l->max;
    default:
        return &l->length;
    }
}

int64_t throttle_limit_get(const ThrottleLimits *limits, int i)
{
    return *member((ThrottleLimits *)limits, i);
}

bool throttle_limits_merge(ThrottleLimits *limits, JsonObject *given,
                           const char *prefix, GError **errp)
{
    int i;

    for (i = 0; i < THROTTLE_NAMES; i++) {
        g_autofree char *name = g_strconcat(prefix, names[i], NULL);
        bool is_length = i != NAME_IOPS_SIZE && i % PARTS == PART_LENGTH;
        int64_t max = is_length ? UINT32_MAX : LIMIT_MAX;
        int64_t min = is_length ? 1 : 0;
        int64_t value;

        if (!schema_has(given, name)) {
            continue;
        }
        value = schema_get_int(given, name, 0);
        if (value < min || value > max) {
            error_setg(errp,
                       "'%s' must be in the range from %" G_GINT64_FORMAT
                       " to %" G_GINT64_FORMAT ", not %" G_GINT64_FORMAT,
                       name, min, max, value);
            return false;
        }
        *member(limits, i) = value;
    }
    return true;
}

/* The sum of two of them is a third limit, which might contradict it. */
static bool check_total(const ThrottleLimits *limits, int total, GError **errp)
{
    int i;

    for (i = total + 1; i <= total + 2; i++) {
        if (limits->limit[total].avg && limits->limit[i].avg) {
            error_setg(errp, "'%s' and '%s' cannot be set at the same time",
                       name_of(total, PART_AVG), name_of(i, PART_AVG));
            return false;
        }
    }
    return true;
}

static bool check_limit(const ThrottleLimits *limits, int kind, GError **errp)
{
    const ThrottleLimit *l = &limits->limit[kind];
    const char *avg = name_of(kind, PART_AVG);
    const char *max = name_of(kind, PART_MAX);
    const char *length = name_of(kind, PART_LENGTH);

    if (l->max && !l->avg) {
        error_setg(errp, "'%s' requires '%s' to be set", max, avg);
        return false;
    }
    if (l->max && l->max < l->avg) {
        error_setg(errp,
                   "'%s' (%" G_GINT64_FORMAT ") must not be lower than '%s' "
                   "(%" G_GINT64_FORMAT ")",
                   max, l->max, avg, l->avg);
        return false;
    }
    if (l->length > 1 && !l->max) {
        error_setg(errp, "'%s' requires '%s' to be set", length, max);
        return false;
    }
    if (l->max && l->length > LIMIT_MAX / l->max) {
        error_setg(errp,
                   "'%s' (%" G_GINT64_FORMAT ") is too high for '%s' "
                   "(%" G_GINT64_FORMAT ")",
                   length, l->length, max, l->max);
        return false;
    }
    return true;
}

bool throttle_limits_check(const ThrottleLimits *limits, GError **errp)
{
    bool iops = false;
    int i;

    if (!check_total(limits, THROTTLE_BPS_TOTAL, errp) ||
        !check_total(limits, THROTTLE_IOPS_TOTAL, errp)) {
        return false;
    }
    for (i = 0; i < THROTTLE_KINDS; i++) {
        if (!check_limit(limits, i, errp)) {
            return false;
        }
        iops = iops || (i >= THROTTLE_IOPS_TOTAL && limits->limit[i].avg);
    }
    if (limits->iops_size && !iops) {
        error_setg(errp, "'iops-size' requires a limit of iops to be set");
        return false;
    }
    return true;
}

bool throttle_limits_any(const ThrottleLimits *limits)
{
    int i;

    for (i = 0; i < THROTTLE_KINDS; i++) {
        if (limits->limit[i].avg) {
            return true;
        }
    }
    return false;
}

/* ---- description -------------------------------------------------------- */

#define MEMBER(member_name, text)                                              \
    {                                                                          \
        member_name, &schema_int, .optional = true, .doc = text                \
    }

#define KIND(kind, what)                                                       \
    MEMBER(kind, what " a second in the long run. 0, the default: no limit."), \
        MEMBER(kind "-max",                                                    \
               what " a second in a burst. 0, the default: no "                \
                    "bursts, but a tenth of \"" kind "\" at once."),           \
        MEMBER(kind "-max-length",                                             \
               "Seconds that a burst may last. Default: 1.")

const SchemaType throttle_limits_type = {
    .name = "ThrottleLimits",
    .kind = SCHEMA_OBJECT,
    .doc = "Limits of throughput, at most 10^15 each. Totals exclude limits of "
           "the same kind for reads or writes alone. Zero-writes and discards "
           "count as writes.",
    .members =
        (const SchemaMember[]){
            KIND("iops-total", "Requests"),
            KIND("iops-read", "Reads"),
            KIND("iops-write", "Writes"),
            KIND("bps-total", "Bytes"),
            KIND("bps-read", "Bytes read"),
            KIND("bps-write", "Bytes written"),
            MEMBER("iops-size",
                   "Bytes of a request that counts as one; larger ones count "
                   "as several. 0, the default: each counts as one."),
            { NULL },
        },
};
