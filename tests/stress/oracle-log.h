/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The last operations of status-oracle, in a ring: what they were, when they
 * began and ended.
 */
#ifndef TESTS_ORACLE_LOG_H
#define TESTS_ORACLE_LOG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define MAX_THREADS 16
#define LOG_RECORDS 16384
#define LOG_WINDOW 64

/* What a unit of the disk holds: a write's number, or one of these */
typedef uint32_t Value;
#define VALUE_ZERO UINT32_C(0)
#define VALUE_ANY UINT32_MAX           /* whatever */
#define VALUE_LITERAL (UINT32_MAX - 1) /* what was seen when all stood still */
#define VALUE_LAST (UINT32_MAX - 16)

typedef enum OpKind {
    OP_KIND_WRITE,
    OP_KIND_WRITE_ZEROES, /* as data */
    OP_KIND_ZERO,
    OP_KIND_DISCARD,
    OP_KIND_READ,
    OP_KIND_STATUS,
    OP_KIND_PROBE, /* forgets before */
    OP_KIND_MAP,
    OP_KIND_FLUSH,
    OP_KIND_FORGET,
    OP_KIND_FORGET_ALL,
    OP_KIND_LIMIT, /* another limit of memory */
    OP_KIND_RESIZE,
    OP_KIND_GROW,     /* a write beyond the end */
    OP_KIND_STRANGER, /* who writes past the node, which is told before */
    OP_KIND_PEEK,
    OP_KIND_WRITEBACK,
    OP_KIND_RECLAIM,
    OP_KIND_SYNC,
    OP_KINDS,
} OpKind;

extern const char *const op_kind_names[OP_KINDS];

typedef enum Effect {
    EFFECT_NONE,
    EFFECT_DATA, /* the value is there */
    EFFECT_ZERO,
    EFFECT_MAY_ZERO, /* zero, or as before */
} Effect;

typedef enum Outcome {
    OUTCOME_DONE,
    OUTCOME_MAYBE,   /* it failed */
    OUTCOME_NOTHING, /* it was refused */
} Outcome;

typedef struct Record {
    uint64_t number;
    uint32_t begin, end; /* stamps; end 0: in flight */
    int64_t begin_ns, end_ns;
    int64_t offset, bytes;
    Value value;
    int result;
    uint8_t thread, kind, effect, outcome;
} Record;

typedef struct Log {
    uint64_t n; /* records so far */
    Record ring[LOG_RECORDS];
} Log;

int64_t log_now_ns(void);
static inline bool record_overlaps(const Record *r, int64_t offset,
                                   int64_t bytes)
{
    return r->offset < offset + bytes && offset < r->offset + r->bytes;
}

/* Room for the next record, with its number set */
Record *log_add(Log *log);
/* The record of that number, or NULL if it has been overwritten */
Record *log_get(Log *log, uint64_t number);
/* Those that touched the range last, @max at most, in order of their begin */
void log_print(Log *log, int64_t offset, int64_t bytes, int max, FILE *to);

#endif
