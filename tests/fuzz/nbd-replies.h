/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All that an NBD server has sent on one connection, looked through: are they replies to
 * what it was sent, each in its form, and one to each?
 */
#ifndef TESTS_FUZZ_NBD_REPLIES_H
#define TESTS_FUZZ_NBD_REPLIES_H

#include <stdbool.h>

#include "fuzz.h"

typedef struct NbdSent {
    uint16_t type, flags;
    uint64_t offset, length;
} NbdSent;

typedef struct NbdTalk {
    bool structured, extended;
    unsigned n_contexts; /* that were chosen */
    const NbdSent *sent; /* whose cookies are their numbers, from 0 on */
    unsigned n_sent;
} NbdTalk;

/* @bytes: from the greeting to the end. The client has gone with GO, and all of
 * @talk is answered. */
void nbd_replies_check(const NbdTalk *talk, const uint8_t *bytes, size_t size);

#endif
