/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "oracle-log.h"

#include <glib.h>
#include <inttypes.h>
#include <time.h>

const char *const op_kind_names[OP_KINDS] = {
    [OP_KIND_WRITE] = "write",
    [OP_KIND_WRITE_ZEROES] = "write-zeroes-as-data",
    [OP_KIND_ZERO] = "zero",
    [OP_KIND_DISCARD] = "discard",
    [OP_KIND_READ] = "read",
    [OP_KIND_STATUS] = "status",
    [OP_KIND_PROBE] = "probe",
    [OP_KIND_MAP] = "map",
    [OP_KIND_FLUSH] = "flush",
    [OP_KIND_FORGET] = "forget",
    [OP_KIND_FORGET_ALL] = "forget-all",
    [OP_KIND_LIMIT] = "limit",
    [OP_KIND_RESIZE] = "resize",
    [OP_KIND_GROW] = "grow",
    [OP_KIND_STRANGER] = "stranger",
    [OP_KIND_PEEK] = "peek",
    [OP_KIND_WRITEBACK] = "writeback",
    [OP_KIND_RECLAIM] = "reclaim",
    [OP_KIND_SYNC] = "sync",
};

int64_t log_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

Record *log_add(Log *log)
{
    Record *r = &log->ring[log->n % LOG_RECORDS];

    r->number = log->n++;
    return r;
}

Record *log_get(Log *log, uint64_t number)
{
    Record *r = &log->ring[number % LOG_RECORDS];

    return number < log->n && r->number == number ? r : NULL;
}

static void print_record(const Record *r, int64_t base_ns, FILE *to)
{
    static const char *const effects[] = { "", "data", "zero", "may zero" };
    static const char *const outcomes[] = { "", " failed", " refused" };

    fprintf(to,
            "  #%-8" PRIu64 " %10" PRIu32 "-%-10" PRIu32 " %12.3f-%-12.3f us  "
            "thread %2d  %-20s [%" PRId64 ", %" PRId64 ")",
            r->number, r->begin, r->end, (r->begin_ns - base_ns) / 1e3,
            r->end ? (r->end_ns - base_ns) / 1e3 : 0.0, r->thread,
            op_kind_names[r->kind], r->offset, r->offset + r->bytes);
    if (r->effect == EFFECT_DATA) {
        fprintf(to, " value %" PRIu32, r->value);
    } else if (r->effect != EFFECT_NONE) {
        fprintf(to, " %s", effects[r->effect]);
    }
    fprintf(to, " = %d%s%s\n", r->result, outcomes[r->outcome],
            r->end ? "" : " (in flight)");
}

void log_print(Log *log, int64_t offset, int64_t bytes, int max, FILE *to)
{
    g_autofree const Record **found = g_new(const Record *, max);
    uint64_t number = log->n, oldest;
    int n = 0;

    oldest = log->n > LOG_RECORDS ? log->n - LOG_RECORDS : 0;
    while (number-- > oldest && n < max) {
        const Record *r = log_get(log, number);

        if (r && record_overlaps(r, offset, bytes)) {
            found[n++] = r;
        }
    }
    fprintf(to,
            "  the last operations on [%" PRId64 ", %" PRId64
            "), with stamps and times:\n",
            offset, offset + bytes);
    while (n-- > 0) {
        print_record(found[n], log->ring[(log->n - 1) % LOG_RECORDS].begin_ns,
                     to);
    }
}
