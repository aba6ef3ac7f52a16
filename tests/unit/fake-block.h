/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A block layer of one disk in memory, for tests of what stands on it: it can
 * hold requests back, fail them, and tell what they were.
 */
#ifndef TESTS_FAKE_BLOCK_H
#define TESTS_FAKE_BLOCK_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "block/dirty-bitmap.h"
#include "util/thread.h"

typedef enum FakeOp {
    FAKE_READ,
    FAKE_WRITE,
    FAKE_ZERO,
    FAKE_DISCARD,
    FAKE_FLUSH,
    FAKE_STATUS,
    FAKE_OPS,
} FakeOp;

/* Status is told per block of this size. */
#define FAKE_BLOCK 4096
/* A longer disk has no data: it takes discards, flushes, questions of status. */
#define FAKE_DATA_MAX (INT64_C(1) << 30)

typedef struct FakeDisk {
    Mutex lock;
    Cond changed;
    const char *node_name;
    bool read_only;
    uint8_t *data; /* or NULL */
    int64_t size;
    uint8_t *status; /* BDRV_BLOCK_DATA, _ZERO per block */
    bool holes;      /* zeroes among that are known without a probe */

    bool submits;       /* requests can be in two halves, */
    unsigned submitted; /* and so many were */

    bool hold;           /* requests wait in the disk until this is false, */
    int permits;         /* or until one of so many lets them pass */
    bool hang;           /* and nobody can tell them to give up */
    int error[FAKE_OPS]; /* errno with which they fail; 0: they do not */
    int64_t error_from;  /* but only from this offset on */
    /* Reads of so many bytes from the start never wait, and others say so before
     * they do (BDRV_REQ_NOWAIT). -1: that is not known beforehand. */
    int64_t cached;

    int in_flight;
    int left;        /* so many requests have ended */
    int64_t half;    /* of those in flight, tell which begin here or later */
    int in_far_half; /* so many do */
    unsigned count[FAKE_OPS];
    int last_flags; /* of the last write, zero-write */
    int backends;   /* BlockBackends there are */

    /* A dirty bitmap that has whatever name is asked for, but not "missing": so
     * many bytes from the start are dirty. */
    int64_t dirty;
    bool recording; /* it is enabled */
    int busy;       /* so many have made it busy */
    char *events;   /* QMP events sent, "NAME id" each with a newline */
} FakeDisk;

extern FakeDisk fake;

void fake_reset(int64_t size);
void fake_hold(bool hold);
/* Let one request of those that are held back pass, and wait until it has
 * left. */
void fake_let_one_pass(void);
/* Of those that were submitted while requests are held back, let so many pass: they
 * do not if that ends. */
void fake_answer(int n);
/* Wait until so many requests are in the disk. */
void fake_wait_in_flight(int n);
unsigned fake_count(FakeOp op);
int fake_in_far_half(void);
void fake_fail(FakeOp op, int error, int64_t from);
/* Run what was given to management_queue(). */
void fake_run_management(void);
/* Wait until something was given to it, and run that. */
void fake_wait_management(void);

#endif
