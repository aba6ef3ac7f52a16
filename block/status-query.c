/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Block status from the cache, and where it knows nothing, from a probe.
 */
#include "block/status-probe-int.h"
#include "util/trace.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* Unknown parts that one window may span */
#define MAX_ISLANDS 32

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

static const char *const state_names[] = {
    [BLOCK_STATE_UNKNOWN] = "unknown",
    [BLOCK_STATE_DATA] = "data",
    [BLOCK_STATE_ZERO] = "zero",
};

static void account(StatusQuestion *q, uint64_t wall, uint64_t cpu, int r)
{
    StatusCacheStats *d = &q->delta;
    int i = 0;

    wall = clock_ns(CLOCK_MONOTONIC) - wall;
    cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    while (i < STATUS_CACHE_HISTOGRAM - 1 &&
           cpu >= status_cache_histogram_ns[i]) {
        i++;
    }
    d->probes = 1;
    d->probe_errors = r < 0 && r != -ENOTSUP;
    d->max_extents = d->extents;
    d->probe_wall_ns = d->probe_wall_max_ns = wall;
    d->probe_cpu_ns = d->probe_cpu_max_ns = cpu;
    d->histogram[i] = 1;
    status_cache_account_probe(q->cache, d);
}

/*
 * Where the unknown run at @q->start ends. Short known parts in between do not
 * end it, or a client that writes here and there would make many windows.
 */
static int64_t unknown_end(const StatusQuestion *q)
{
    int64_t offset = q->start, end = offset, n;
    int islands = 0;

    while (offset < q->length) {
        if (status_cache_peek(q->cache, offset, q->length - offset, &n) ==
            BLOCK_STATE_UNKNOWN) {
            end = offset + n;
        } else if (q->mode != STATUS_CACHE_ON || n > PROBE_ISLAND ||
                   ++islands > MAX_ISLANDS) {
            break;
        }
        offset += n;
    }
    return MAX(end, status_question_ceil(q, q->asked + 1));
}

/* One probe with the strategy in use */
static int ask(StatusQuestion *q, StatusProbeStrategy strategy)
{
    uint64_t wall = clock_ns(CLOCK_MONOTONIC);
    uint64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    bool seek = strategy == STATUS_PROBE_USE_SEEK;
    int r;

    memset(&q->delta, 0, sizeof(q->delta));
    q->end = seek ? q->length : unknown_end(q);
    status_cache_probe_begin(q->cache, &q->op, q->start, q->end - q->start);
    r = seek ? status_probe_seek(q) : status_probe_fiemap(q);
    status_cache_probe_end(q->cache, &q->op);
    account(q, wall, cpu, r);
    trace_status_probe(q->probe->fd, q->start, q->end - q->start,
                       status_probe_strategy_name(strategy),
                       r < 0 ? g_strerror(-r) : state_names[q->state],
                       q->delta.probe_wall_ns);
    return r;
}

/*
 * Ask with the strategy in use; one that does not work is given up for good.
 * -ENOTSUP: none works.
 */
static int ask_until_told(StatusQuestion *q)
{
    for (;;) {
        StatusProbeStrategy strategy = status_probe_strategy(q->probe);
        int r;

        if (strategy == STATUS_PROBE_NONE) {
            return -ENOTSUP;
        }
        r = ask(q, strategy);
        if (r != -ENOTSUP) {
            return r;
        }
        strategy = strategy == STATUS_PROBE_USE_FIEMAP ? STATUS_PROBE_USE_SEEK
                                                       : STATUS_PROBE_NONE;
        __atomic_store_n(&q->probe->strategy, strategy, __ATOMIC_RELAXED);
    }
}

static int query_unknown(StatusCache *cache, StatusProbe *probe, int64_t offset,
                         int64_t bytes, int64_t *pnum, bool *probed)
{
    StatusQuestion q = { .probe = probe, .cache = cache, .asked = offset };
    BlockState state;
    int r;
    MUTEX_GUARD(&probe->lock);

    /* somebody else's probe may have told meanwhile */
    state = status_cache_peek(cache, offset, INT64_MAX - offset, pnum);
    if (state != BLOCK_STATE_UNKNOWN) {
        return state;
    }
    q.length = status_cache_length(cache);
    if (offset >= q.length) {
        *pnum = bytes; /* the disk has just shrunk */
        return BLOCK_STATE_DATA;
    }
    q.mode = status_cache_get_mode(cache);
    q.granularity = status_cache_granularity(cache);
    q.start = status_question_floor(&q, offset);
    r = ask_until_told(&q);
    *probed = q.delta.probes > 0;
    if (r == -ENOTSUP) {
        return BLOCK_STATE_DATA;
    }
    if (r < 0) {
        return r;
    }
    g_assert(q.state != BLOCK_STATE_UNKNOWN);
    *pnum = q.answer_end - offset;
    return q.state;
}

int status_query(StatusCache *cache, StatusProbe *probe, int64_t offset,
                 int64_t bytes, int64_t *pnum, bool *probed)
{
    bool asked = false;
    int r;

    g_assert(offset >= 0 && bytes > 0);
    r = status_cache_lookup(cache, offset, INT64_MAX - offset, pnum);
    if (r == BLOCK_STATE_UNKNOWN) {
        r = query_unknown(cache, probe, offset, bytes, pnum, &asked);
    }
    if (probed) {
        *probed = asked;
    }
    return r;
}
