/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirror job: copy a disk to another node while it is in use, follow what
 * is written meanwhile, and let its users go on with the copy in the end.
 *
 * A dirty bitmap on the source says what is still to be copied; at first that
 * is everything, what the nodes above some node of the backing chain hold, or
 * nothing (sync). The workers (mirror-copy.c) do the copying, and the
 * coordinator watches how much is left. Once there was a moment when nothing was
 * left the job is READY and follows the writes until it is told to end. If
 * guests write so much that there is no such moment in a few rounds through the
 * disk, few bytes left will do; unless copy-mode is write-blocking, and guests
 * leave nothing behind (mirror-active.c).
 *
 * To end, it first waits until few bytes are left (buf-size at most) and flushes
 * the target while guests go on writing. Then the management thread drains the
 * source, and the workers copy the rest while nobody writes. If the drain takes
 * too long, because a request of some guest hangs, or the guests have dirtied
 * too much meanwhile, they go on and the job tries again later, with more
 * patience (mirror_limits). So guests stand still for the time that it takes to
 * end what they have begun, to copy two times buf-size at most, and to flush
 * that. A job that was cancelled or failed goes the same way to take its filter
 * out: where a request hangs it is ABORTING, and its nodes are in use, until
 * that request has ended.
 *
 * What errors do to all that stands in mirror-error.c, how it starts in
 * mirror-start.c. A job that commits the active layer of a backing chain
 * (commit.c) is a mirror, too, whose target is a node below its source. If it
 * commits others, it needs not be told to end, and is never READY.
 */
#include "block/mirror.h"

#include "block/mirror-int.h"
#include "util/error.h"

MirrorLimits mirror_limits = {
    .start_drain = 10 * G_USEC_PER_SEC,
    .min_drain = 1 * G_USEC_PER_SEC,
    .max_drain = 10 * G_USEC_PER_SEC,
    .min_backoff = 1 * G_USEC_PER_SEC,
    .max_backoff = 30 * G_USEC_PER_SEC,
    .error_wait = G_USEC_PER_SEC / 10,
    .zero_write = G_USEC_PER_SEC / 10,
};

/* ---- the coordinator ---------------------------------------------------- */

/* When to try again what has just failed */
static int64_t error_retry_us(void)
{
    return g_get_monotonic_time() + mirror_limits.error_wait;
}

/* So little is left that the next step is worth taking. */
static int take_step(MirrorJob *s, bool *done, int64_t *deadline_us)
{
    int ret;

    if (g_get_monotonic_time() < s->retry_us) {
        *deadline_us = s->retry_us;
        return 0;
    }
    if (s->ready && s->flushed) {
        *done = job_may_finalize(s->job);
        return 0;
    }
    ret = mirror_flush_target(s);
    /* Guests have not waited for it: look again. */
    *deadline_us = 0;
    if (ret == JOB_AGAIN) {
        s->retry_us = error_retry_us();
        return 0;
    }
    s->flushed = s->ready;
    if (ret == 0 && !s->ready) {
        s->ready = true;
        if (!s->overlay) {
            job_set_ready(s->job);
        }
    }
    return ret;
}

static void rest(MirrorJob *s)
{
    mirror_hold(s, INT64_MAX);
    job_pause_point(s->job);
    mirror_release(s);
}

/* Until the job may be concluded: 0, or -errno */
static int follow(MirrorJob *s)
{
    bool done = false;
    int ret = 0;

    while (!done && ret == 0) {
        bool completing =
            s->ready && (s->overlay || job_should_complete(s->job, NULL));
        bool waiting = s->ready && !completing;
        int64_t deadline_us = INT64_MAX;
        int64_t few = s->buf_size;
        MirrorState state;

        mirror_watch(s, waiting ? -1 : few, waiting, &state);
        if (!s->ready &&
            (s->write_blocking || state.rounds < MIRROR_MANY_ROUNDS)) {
            few = 0;
        }
        if (job_is_cancelled(s->job)) {
            ret = -ECANCELED;
        } else if (state.ret < 0) {
            ret = state.ret;
        } else if (state.stopped || job_wants_pause(s->job)) {
            rest(s);
            continue;
        } else if (!waiting && !state.failed && state.remaining <= few) {
            ret = take_step(s, &done, &deadline_us);
        }
        if (!done && ret == 0) {
            job_wait(s->job, deadline_us);
        }
    }
    return ret;
}

/* How far what is at @offset goes on, to be copied at first or not */
static int is_above_base(MirrorJob *s, int64_t offset, int64_t *pnum)
{
    BlockDriverState *file;
    int64_t map;
    int ret = blk_enter(s->source);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_block_status_above(s->source_bs, s->base, 0, offset,
                                  s->length - offset, pnum, &map, &file, NULL);
    blk_leave(s->source);
    return ret < 0 ? ret : !!(ret & BDRV_BLOCK_ALLOCATED);
}

/*
 * What is not in the base is to be copied: what guests write meanwhile they mark
 * themselves. Where nobody knows, copying is right, too.
 */
static int mark_above_base(MirrorJob *s)
{
    int64_t offset = 0;

    while (offset < s->length) {
        int64_t pnum = 0;
        int ret = job_pause_point(s->job);

        if (ret == 0) {
            ret = is_above_base(s, offset, &pnum);
        }
        if (ret == -ECANCELED) {
            return ret;
        }
        if (ret < 0 || pnum <= 0) {
            pnum = MIN(s->length - offset, s->granularity);
        }
        if (ret != 0) {
            bdrv_set_dirty_bitmap(s->dirty, offset, pnum);
        }
        offset += pnum;
    }
    job_progress_set_remaining(s->job, bdrv_get_dirty_count(s->dirty));
    return 0;
}

static int mirror_run(Job *job)
{
    MirrorJob *s = job_opaque(job);
    int ret;

    if (s->base && !s->base_known) {
        ret = mark_above_base(s);
        if (ret < 0) {
            return ret;
        }
        s->base_known = true;
    }
    if (!s->target_known) {
        mirror_learn_target(s);
        s->target_known = true;
    }
    /* Not before: what was learned of the target would be old news. Not after
     * the workers have begun: what a guest writes to the source only, they must
     * still have to copy. */
    g_atomic_int_set(&s->active, s->write_blocking);
    ret = mirror_start_workers(s);
    if (ret < 0) {
        job_set_error(job, ret, "Could not start threads: %s",
                      g_strerror(-ret));
    } else {
        mirror_release(s);
        ret = follow(s);
    }
    if (ret < 0) {
        g_atomic_int_set(&s->active, 0);
        mirror_stop_workers(s);
    }
    return ret;
}

/* ---- the end ------------------------------------------------------------ */

static int try_again(MirrorJob *s, int64_t retry_us)
{
    s->flushed = false;
    s->retry_us = retry_us;
    return JOB_AGAIN;
}

/* For the next drain */
static int64_t drain_deadline(const MirrorJob *s)
{
    return g_get_monotonic_time() + CLAMP(s->backoff_us / 2,
                                          mirror_limits.min_drain,
                                          mirror_limits.max_drain);
}

/* A drain has failed; when to try the next */
static int64_t back_off(MirrorJob *s)
{
    s->backoff_us = CLAMP(2 * s->backoff_us, mirror_limits.min_backoff,
                          mirror_limits.max_backoff);
    return g_get_monotonic_time() + s->backoff_us;
}

/* All users of the filter, which is drained, go on with what is below it. */
static void drop_filter(MirrorJob *s)
{
    g_autoptr(GError) err = NULL;

    /* They need the same of that as they needed through the filter. */
    if (!bdrv_remove_filter(s->filter, &err)) {
        g_error("Could not remove node '%s': %s", bdrv_node_name(s->filter),
                err->message);
    }
}

/*
 * All users of the source go on with the target: those above the filter, and
 * those that have come since and stand beside it. Or all users of what is
 * replaced below the source, which then stands on the target itself.
 */
static int pivot(MirrorJob *s, GError **errp)
{
    bool ok;

    if (!blk_set_perm(s->target, 0, BLK_PERM_ALL, errp)) {
        return -EPERM;
    }
    /* Drained already, like all that is above what is replaced; it stays so
     * when it is no longer above it. */
    bdrv_drained_begin(s->filter);
    ok = bdrv_replace_node(s->replaced_bs, s->target_bs, errp);
    if (ok) {
        drop_filter(s);
    }
    bdrv_drained_end(s->filter);
    return ok ? 0 : -EPERM;
}

/* The source, which is drained, keeps its users. */
static void stay(MirrorJob *s)
{
    if (s->commits) {
        commit_give_back(s);
    }
    drop_filter(s);
}

/* With the source drained */
static int copy_rest_and_pivot(MirrorJob *s, GError **errp)
{
    bool soft;
    int ret;

    job_should_complete(s->job, &soft);
    if (bdrv_get_dirty_count(s->dirty) > 2 * s->buf_size) {
        return try_again(s, g_get_monotonic_time());
    }
    ret = mirror_copy_rest(s);
    if (ret == 0) {
        ret = mirror_flush_target(s);
    }
    if (ret == JOB_AGAIN) {
        return try_again(s, error_retry_us());
    }
    if (ret == 0) {
        ret = job_commit_point(s->job);
    }
    if (ret == 0 && soft) {
        stay(s);
    } else if (ret == 0) {
        ret = s->overlay ? commit_tell_overlay(s, errp) : 0;
        if (ret == 0) {
            ret = pivot(s, errp);
        }
    }
    return ret;
}

static int mirror_prepare(Job *job, GError **errp)
{
    MirrorJob *s = job_opaque(job);
    int64_t deadline_us = drain_deadline(s);
    int ret;

    if (!mirror_hold(s, deadline_us) ||
        !bdrv_try_drained_begin(s->replaced_bs, deadline_us)) {
        return try_again(s, back_off(s));
    }
    ret = copy_rest_and_pivot(s, errp);
    if (ret < 0) {
        g_atomic_int_set(&s->active, 0);
    }
    bdrv_drained_end(s->replaced_bs);
    return ret;
}

static int64_t mirror_let_go(Job *job)
{
    MirrorJob *s = job_opaque(job);

    if (!s->filter->file) {
        if (s->overlay) {
            commit_settle(s);
        }
        return 0;
    }
    if (!bdrv_try_drained_begin(s->filter, drain_deadline(s))) {
        return back_off(s);
    }
    stay(s);
    bdrv_drained_end(s->filter);
    return 0;
}

static void mirror_clean(Job *job)
{
    MirrorJob *s = job_opaque(job);

    if (s->dirty) {
        mirror_stop_workers(s);
        bdrv_release_dirty_bitmap(s->source_bs, s->dirty);
        mirror_copy_destroy(s);
    }
    blk_free(s->source);
    blk_free(s->target);
    if (s->commits) {
        commit_clean(s);
    }
    bdrv_unref(s->filter);
    bdrv_unref(s->source_bs);
    bdrv_unref(s->target_bs);
    bdrv_unref(s->replaced_bs);
    if (s->base) {
        bdrv_unref(s->base);
    }
}

#define MIRROR_DRIVER(name, completed)                                         \
    {                                                                          \
        .type = name, .instance_size = sizeof(MirrorJob), .block_job = true,   \
        .can_complete = completed, .run = mirror_run,                          \
        .prepare = mirror_prepare, .let_go = mirror_let_go,                    \
        .clean = mirror_clean,                                                 \
    }

const JobDriver mirror_job_driver = MIRROR_DRIVER("mirror", true);
const JobDriver commit_job_driver = MIRROR_DRIVER("commit", true);
const JobDriver commit_below_job_driver = MIRROR_DRIVER("commit", false);
