/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a disk holds, known from the requests that were made: the truth that
 * status-oracle compares everything with.
 *
 * The disk is cut into units of 64 bytes. Each write has a number, its value, and
 * fills each unit with a pattern made of that number and the unit's own, in which
 * no byte is zero. Of each unit the shadow knows the set of values that it may
 * have, for requests overlap. A request counts from shadow_begin() to shadow_end(),
 * both of which take a stamp of one clock:
 *
 *  - What a write put there is gone for certain when another has ended that
 *    began after it had ended. So the end of a write removes the values whose
 *    stamp is older than its own begin, and adds its own, stamped now.
 *  - Those in flight count as possible all the time.
 *  - A write that failed may have done its work, or not: it only adds.
 *  - Of a unit that a request covers in part, anything may be there; until all
 *    stands still and shadow_settle() has looked.
 *
 * From that follows since when a unit has not been zero for certain: since the
 * end of a write that left only non-zero values, unless something began since
 * that could make it zero; or since somebody has read what a write in flight put
 * there. Whoever says later that it is zero is wrong.
 *
 * All functions may be called from any thread, but where something else is said.
 */
#ifndef TESTS_ORACLE_SHADOW_H
#define TESTS_ORACLE_SHADOW_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "oracle-log.h"

#define UNIT INT64_C(64)

typedef struct Shadow Shadow;

/* A disk of @length bytes at most, all zero */
Shadow *shadow_new(int64_t length);
void shadow_free(Shadow *s);
int64_t shadow_length(const Shadow *s);

/* A number for the next write */
Value shadow_new_value(Shadow *s);
/* What [@offset, @offset + @bytes) looks like with @value */
void shadow_fill(const Shadow *s, Value value, int64_t offset, int64_t bytes,
                 void *buf);

/* ---- requests ----------------------------------------------------------- */

/* A request that may change the disk begins; one a thread at a time. */
void shadow_begin(Shadow *s, int thread, OpKind kind, Effect effect,
                  int64_t offset, int64_t bytes, Value value);
void shadow_end(Shadow *s, int thread, Outcome outcome, int result);
/* One that changes nothing, and has ended; only for the log. */
void shadow_note(Shadow *s, int thread, OpKind kind, uint32_t since,
                 int64_t offset, int64_t bytes, int result);

/* ---- what is said of the disk ------------------------------------------- */

/* The time, for what begins now */
uint32_t shadow_now(Shadow *s);
/*
 * Somebody who was asked since @since says that [@offset, @offset + @bytes) is
 * zero. -1, or a byte that was not, all the time
 */
int64_t shadow_claim_zero(Shadow *s, uint32_t since, int64_t offset,
                          int64_t bytes);
/*
 * The same range was read past the node since, into @buf. -1, or a byte that is
 * not zero although nobody wrote there since @since; *@checked is how many units
 * nobody wrote to.
 */
int64_t shadow_claim_read(Shadow *s, uint32_t since, int64_t offset,
                          int64_t bytes, const void *buf, int64_t *checked);

/* A read through the node, with what the disk may have held when it began */
typedef struct ShadowRead {
    uint32_t since;
    int64_t offset, bytes;
    struct UnitSet *before;
    int64_t room;
    int n_ops; /* in flight when it began */
    Record ops[LOG_WINDOW];
    bool vague;
} ShadowRead;

/* @r is zeroed at first, and may be used again. */
void shadow_read_begin(Shadow *s, ShadowRead *r, int64_t offset, int64_t bytes);
/* -1, or a byte that it cannot have read; *@checked as above */
int64_t shadow_read_end(Shadow *s, ShadowRead *r, const void *buf,
                        int64_t *checked);
void shadow_read_free(ShadowRead *r);

/* ---- while nothing is in flight ----------------------------------------- */

/* [@offset, @offset + @bytes) is @value, whole units. */
void shadow_set(Shadow *s, int64_t offset, int64_t bytes, Value value);
/*
 * The disk holds @buf, @length bytes, and zeroes behind. -1, or a byte that it
 * cannot hold. Otherwise that is what it is known to hold from now on.
 */
int64_t shadow_settle(Shadow *s, const void *buf, int64_t length);
/* After that: the first byte of the range that is not zero, or -1 */
int64_t shadow_find_nonzero(Shadow *s, int64_t offset, int64_t bytes);

/* All that is known of the unit at @offset, and who was there last */
void shadow_report(Shadow *s, int64_t offset, FILE *to);

#endif
