/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A few threads that do parts of requests for others, who wait for them no longer
 * than until a deadline. What is late then goes on by itself, and the request it
 * was a part of is not over for those who drain before that has ended.
 */
#ifndef BLOCK_OTHER_THREADS_H
#define BLOCK_OTHER_THREADS_H

#include <stdint.h>

typedef struct OtherThreads OtherThreads;

/* At most @max threads, made when they are needed */
OtherThreads *other_threads_new(unsigned max);
/* Nobody waits, and nothing is late. NULL is fine. */
void other_threads_free(OtherThreads *threads);

/*
 * Let another thread do @work(@opaque), as a part of the request that this thread is in,
 * and wait for it until @deadline_us (monotonic microseconds): what it returns. Or
 * -ETIMEDOUT; -ECANCELED, with the request; -EAGAIN, there is no thread to be had: then
 * @work, if it has begun, goes on, but its own waits (bdrv_request_cancel()) are
 * -ECANCELED from now on. @opaque is freed with free_opaque() in any case, when nobody
 * uses it any more. Outside of requests the caller's thread does it.
 */
int other_threads_do(OtherThreads *threads, int64_t deadline_us,
                     int (*work)(void *opaque), void *opaque,
                     void (*free_opaque)(void *opaque));
/* How much is late just now */
unsigned other_threads_late(OtherThreads *threads);

#endif
