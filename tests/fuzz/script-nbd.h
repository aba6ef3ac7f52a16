/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An NBD server that does what a script says, byte by byte, and keeps book of what
 * the client may believe. Cookies, and where it fits lengths and offsets, are those of
 * the request, so that replies are taken for replies. When the script ends the
 * server is as good as any.
 *
 * It serves one connection after the other, on a thread of its own. The client sends
 * one request at a time, from a thread that looks at the book when it has ended.
 */
#ifndef TESTS_FUZZ_SCRIPT_NBD_H
#define TESTS_FUZZ_SCRIPT_NBD_H

#include <stdbool.h>

#include "fuzz.h"
#include "util/thread.h"

/* So much of the disk the book is about; what lies behind is all data. */
#define SCRIPT_WINDOW (32 * 1024)

typedef struct ScriptNbd {
    FuzzInput script; /* the server's */
    int64_t size;
    uint16_t flags;
    uint32_t min_block, max_block;
    const char *path;
    int listener;
    pthread_t thread;

    Mutex lock; /* all below */
    uint8_t data[SCRIPT_WINDOW];
    /* What was sent in reply to the request to read; and is there something? */
    uint8_t sent[SCRIPT_WINDOW];
    bool has_sent[SCRIPT_WINDOW];
    /* It was said that there are zeroes, by status or by the success of a request,
     * and nothing was written since. */
    bool zero[SCRIPT_WINDOW];
    bool may_succeed; /* some reply since the last request may be a success */
    bool stop;
} ScriptNbd;

/* Listens at s->path; size and flags are set, and the rest is zero. */
void script_nbd_start(ScriptNbd *s);
/* The client has hung up. */
void script_nbd_stop(ScriptNbd *s);

#endif
