/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Questions to the file system: what is data, what reads as zeroes?
 *
 * A StatusProbe belongs to one open regular file. status_query() is what most
 * callers want: an answer from the cache, and only where that knows nothing, a
 * bounded probe whose whole answer goes into the cache.
 *
 * May be called from any thread; a probe sleeps in system calls, and readers
 * that miss at the same time wait for one another's probe rather than repeat
 * it. Look-ups that hit never wait.
 */
#ifndef BLOCK_STATUS_PROBE_H
#define BLOCK_STATUS_PROBE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "block/status-cache.h"

G_BEGIN_DECLS

typedef enum StatusProbeStrategy {
    STATUS_PROBE_AUTO, /* by file system */
    STATUS_PROBE_USE_SEEK,
    STATUS_PROBE_USE_FIEMAP,
    STATUS_PROBE_NONE, /* the node cannot be probed: unknown is data */
} StatusProbeStrategy;

typedef struct StatusProbe StatusProbe;

/*
 * @fd stays the caller's and must outlive the probe. With STATUS_PROBE_AUTO
 * the strategy is chosen by fstatfs().
 */
StatusProbe *status_probe_new(int fd, StatusProbeStrategy strategy);
void status_probe_free(StatusProbe *probe);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StatusProbe, status_probe_free)

/* Another one from the next probe on, whatever was found out about it before */
void status_probe_set_strategy(StatusProbe *probe,
                               StatusProbeStrategy strategy);

/* The strategy in use now (never AUTO), and its name ("seek", "fiemap", "none") */
StatusProbeStrategy status_probe_strategy(StatusProbe *probe);
const char *status_probe_strategy_name(StatusProbeStrategy strategy);
/* Whether cachestat(2) answers for this file; false also before it was tried */
bool status_probe_uses_cachestat(StatusProbe *probe);
/* Do as if the kernel had no cachestat(2): for tests and measurements. */
void status_probe_disable_cachestat(StatusProbe *probe);

/*
 * The state of the disk at @offset, for @bytes at most (> 0; the range must lie
 * within the cache's length). Stores in *@pnum how far it holds (not clamped to
 * @bytes where more is known) and in *@probed, if not NULL, whether the file
 * system had to be asked. Returns BLOCK_STATE_DATA or BLOCK_STATE_ZERO, or a
 * negative errno (EIO from the file system: nothing is cached).
 */
int status_query(StatusCache *cache, StatusProbe *probe, int64_t offset,
                 int64_t bytes, int64_t *pnum, bool *probed);

G_END_DECLS

#endif
