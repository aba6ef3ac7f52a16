/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A qcow2 image that is used step by step, and what must be true of it:
 *
 *  - what block status calls zero reads as zeroes;
 *  - an image in which the check finds no corruption holds what was written to it
 *    and nothing else has changed, also when it is opened again, and the check
 *    finds none from then on; nor are there leaks, if there were none, unless a
 *    write has failed;
 *  - a repair that says that all is mended has mended all, and has changed nothing
 *    that could be read if only clusters leaked.
 *
 * Of the disk so much is compared as lies at its beginning.
 */
#ifndef TESTS_FUZZ_QCOW2_SESSION_H
#define TESTS_FUZZ_QCOW2_SESSION_H

#include "block/block-int.h"
#include "qcow2-input.h"

#define SESSION_WINDOW (64 * 1024)

enum { /* of Qcow2Input.flags */
    SESSION_READ_ONLY = 0x1,
    SESSION_MEND_FIRST = 0x2,
    SESSION_NO_UNMAP = 0x4, /* discards go no further */
};

typedef struct Session {
    BlockDriverState *bs;
    BlockBackend *blk;
    bool read_only, unmap;
    int64_t length;
    bool trusted; /* the check has found no corruption */
    bool leak_free;
    bool has_tail; /* clusters beyond the end of the disk */
    /* trusted: what the disk holds; where it is known */
    uint8_t data[SESSION_WINDOW], known[SESSION_WINDOW];
    uint8_t stamp; /* of the last write */
} Session;

enum {
    STEP_WRITE,
    STEP_WRITE_MIXED,
    STEP_ZERO,
    STEP_DISCARD,
    STEP_READ,
    STEP_STATUS,
    STEP_FLUSH,
    STEP_CHECK,
    STEP_MEND,
    STEP_RESIZE,
    STEP_COMPRESS,
    STEP_OPEN_AGAIN,
    STEP_FAIL,
    STEP_REOPEN,
    STEP_BACKING,
    SESSION_STEPS
};

/* The image of @input; false if it cannot be opened */
bool session_start(Session *s, const Qcow2Input *input);
void session_step(Session *s, const Qcow2Step *step);
/* Closes it. False if it cannot be opened once more, which is an error of a trusted
 * one. */
bool session_open_again(Session *s, bool read_only);
/* Whole disk as it must be, once more from the image; closes it. */
void session_end(Session *s);

#endif
