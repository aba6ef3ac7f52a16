/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An NBD server that does what a test tells it, request by request; and a node of
 * driver "nbd" that is its client. Every function asserts that the client does its
 * part, within some seconds.
 */
#ifndef TESTS_FAKE_NBD_H
#define TESTS_FAKE_NBD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "block/export/nbd-protocol.h"
#include "block/nbd-client-int.h"

typedef struct FakeNbd {
    /* What it offers, from the next connection on */
    uint64_t size;
    uint16_t flags;     /* NBD_FLAG_ */
    uint32_t max_block; /* 0: no block sizes are told */

    char *folder, *path;
    int listener, fd;
    pthread_t host;
} FakeNbd;

typedef struct FakeRequest {
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
    uint8_t byte; /* the first of a write */
} FakeRequest;

/* A server that does all there is */
void fake_nbd_start(FakeNbd *s, uint64_t size);
/* No client is connected any more. */
void fake_nbd_stop(FakeNbd *s);
/* The next connection: shake hands, on another thread; and wait until that is
 * done. */
void fake_nbd_expect(FakeNbd *s);
void fake_nbd_connected(FakeNbd *s);
void fake_nbd_hang_up(FakeNbd *s);

FakeRequest fake_nbd_request(FakeNbd *s);
/* Is there none? Waits a moment. */
bool fake_nbd_is_idle(FakeNbd *s);
/* Asserts what it is about. */
FakeRequest fake_nbd_expect_request(FakeNbd *s, uint16_t type, uint64_t offset,
                                    uint32_t length);
/* NBD's error numbers; not for READ and BLOCK_STATUS */
void fake_nbd_reply(FakeNbd *s, uint64_t cookie, uint32_t error);
void fake_nbd_reply_data(FakeNbd *s, const FakeRequest *req, uint8_t byte);
/* @bytes from @from on; @last: there is no more. */
void fake_nbd_reply_part(FakeNbd *s, const FakeRequest *req, uint8_t byte,
                         uint32_t from, uint32_t bytes, bool last);
/* @n extents: length and flags in turn */
void fake_nbd_reply_status(FakeNbd *s, uint64_t cookie, const uint32_t *extents,
                           size_t n);

/* The node "n", with these other options (JSON with ' for ", or ""), connected; a
 * BlockBackend on it that may write */
BlockBackend *fake_nbd_open(FakeNbd *s, const char *options);
/* Says goodbye to the server, if that is connected. */
void fake_nbd_close(FakeNbd *s, BlockBackend *blk);

#endif
