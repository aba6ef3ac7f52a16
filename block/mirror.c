/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirror job: copy a disk to another node while it is in use, follow what
 * is written meanwhile, and let its users go on with the copy in the end.
 *
 * A dirty bitmap on the source says what is still to be copied; at first that
 * is everything, or nothing (sync). The workers (mirror-copy.c) do the copying, and the
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
 * What errors do to all that stands in mirror-error.c.
 */
#include "block/mirror.h"

#include <inttypes.h>
#include <string.h>

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

/* Of buf-size and of what one worker gets of it */
#define BUF_ALIGN 65536
#define MIN_REQUEST_BYTES (INT64_C(1) << 20)

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
        job_set_ready(s->job);
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
        bool completing = s->ready && job_should_complete(s->job, NULL);
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

static int mirror_run(Job *job)
{
    MirrorJob *s = job_opaque(job);
    int ret;

    if (!s->target_known) {
        mirror_learn_target(s);
        s->target_known = true;
    }
    ret = mirror_start_workers(s);
    if (ret < 0) {
        job_set_error(job, ret, "Could not start threads: %s",
                      g_strerror(-ret));
    } else {
        /* Not before: what was learned of the target would be old news. */
        g_atomic_int_set(&s->active, s->write_blocking);
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
        drop_filter(s);
    } else if (ret == 0) {
        ret = pivot(s, errp);
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
        return 0;
    }
    if (!bdrv_try_drained_begin(s->filter, drain_deadline(s))) {
        return back_off(s);
    }
    drop_filter(s);
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
    bdrv_unref(s->filter);
    bdrv_unref(s->source_bs);
    bdrv_unref(s->target_bs);
    bdrv_unref(s->replaced_bs);
}

static const JobDriver mirror_job_driver = {
    .type = "mirror",
    .instance_size = sizeof(MirrorJob),
    .block_job = true,
    .can_complete = true,
    .run = mirror_run,
    .prepare = mirror_prepare,
    .let_go = mirror_let_go,
    .clean = mirror_clean,
};

/* ---- the start ---------------------------------------------------------- */

static bool check_options(const MirrorOptions *options, GError **errp)
{
    int64_t granularity = options->granularity;

    if (granularity != 0 && (granularity < MIRROR_MIN_GRANULARITY ||
                             granularity > MIRROR_MAX_GRANULARITY)) {
        error_setg(errp, "Parameter 'granularity' expects a value in range "
                         "[512B, 64MB]");
        return false;
    }
    if (granularity & (granularity - 1)) {
        error_setg(errp, "Parameter 'granularity' expects a power of 2");
        return false;
    }
    if (options->buf_size < 0) {
        error_setg(errp, "Invalid parameter 'buf-size'");
        return false;
    }
    if (options->buf_size > MIRROR_MAX_BUF_SIZE) {
        error_setg(errp,
                   "Parameter 'buf-size' expects at most %" PRId64
                   ", not %" PRId64,
                   MIRROR_MAX_BUF_SIZE, options->buf_size);
        return false;
    }
    if (options->job.speed < 0) {
        error_setg(errp, "Parameter 'speed' expects a non-negative value");
        return false;
    }
    return true;
}

static bool is_root(BlockDriverState *bs)
{
    guint i;

    for (i = 0; i < bs->parents->len; i++) {
        const BdrvChild *c = bs->parents->pdata[i];

        if (c->parent) {
            return false;
        }
    }
    return true;
}

static bool check_nodes(BlockDriverState *source, BlockDriverState *target,
                        GError **errp)
{
    BlockDriverState *bs;
    int64_t source_length, target_length;

    if (source == target) {
        error_setg(errp, "Can't mirror node into itself");
        return false;
    }
    if (!is_root(source)) {
        error_setg(errp, "Need a root block node");
        return false;
    }
    if (job_uses_node(source, errp) || job_uses_node(target, errp)) {
        return false;
    }
    for (bs = target; bs->file; bs = bs->file->bs) {
        if (bs->file->bs == source) {
            error_setg(errp,
                       "Node '%s' cannot be mirrored to node '%s', which "
                       "uses it",
                       bdrv_node_name(source), bdrv_node_name(target));
            return false;
        }
    }
    source_length = bdrv_getlength(source);
    target_length = bdrv_getlength(target);
    if (source_length < 0 || target_length < 0) {
        bs = source_length < 0 ? source : target;
        error_setg_errno(errp, -MIN(source_length, target_length),
                         "Could not get the length of node '%s'",
                         bdrv_node_name(bs));
        return false;
    }
    if (source_length != target_length) {
        error_setg(errp, "Source and target image have different sizes");
        return false;
    }
    return true;
}

/* The node that the target is to replace: one whose contents are the source's.
 * Referenced; NULL and @errp if there is no such node */
static BlockDriverState *find_replaced(const char *name,
                                       BlockDriverState *source, GError **errp)
{
    BlockDriverState *bs = bdrv_find_node(name, NULL);
    BlockDriverState *at = source;

    if (!bs) {
        error_setg(errp, "Failed to find node with node-name='%s'", name);
        return NULL;
    }
    while (at && at != bs) {
        at = at->drv->kind == BLOCK_DRIVER_FILTER ? at->file->bs : NULL;
    }
    if (!at) {
        error_setg(errp,
                   "Cannot replace '%s' by a node mirrored from '%s', because "
                   "it cannot be guaranteed that doing so would not lead to an "
                   "abrupt change of visible data",
                   name, bdrv_node_name(source));
    }
    if (!at || job_uses_node(bs, errp)) {
        bdrv_unref(bs);
        return NULL;
    }
    return bs;
}

static void set_sizes(MirrorJob *s, const MirrorOptions *options)
{
    int64_t buf =
        options->buf_size ? options->buf_size : MIRROR_DEFAULT_BUF_SIZE;
    int64_t bytes;

    s->granularity = options->granularity ? options->granularity
                                          : MIRROR_DEFAULT_GRANULARITY;
    s->buf_size = (buf + BUF_ALIGN - 1) / BUF_ALIGN * BUF_ALIGN;
    bytes = MAX(s->buf_size / MIRROR_MAX_WORKERS, MIN_REQUEST_BYTES);
    bytes = MIN(bytes, s->buf_size) / BUF_ALIGN * BUF_ALIGN;
    if (bytes > s->granularity) {
        bytes -= bytes % s->granularity;
    }
    s->buf_bytes = bytes;
    s->n_workers = MIN(s->buf_size / bytes, MIRROR_MAX_WORKERS);
}

static BlockBackend *attach(MirrorJob *s, BlockDriverState *bs, uint64_t perm,
                            uint64_t shared, GError **errp)
{
    g_autofree char *user = g_strdup_printf("job '%s'", job_id(s->job));
    BlockBackend *blk = blk_new(user, true, perm, shared);

    if (!blk_attach(blk, bs, errp)) {
        blk_free(blk);
        return NULL;
    }
    job_add_blk(s->job, blk);
    return blk;
}

/*
 * Between the source and its users, who stand still until their requests in
 * flight have ended. If one hangs, the others must not hang with it, nor the
 * management thread.
 */
static bool insert_filter(MirrorJob *s, GError **errp)
{
    int64_t deadline_us = g_get_monotonic_time() + mirror_limits.start_drain;
    bool ok;

    if (!bdrv_try_drained_begin(s->source_bs, deadline_us)) {
        error_setg(errp, "Node '%s' is busy: a request does not end",
                   bdrv_node_name(s->source_bs));
        return false;
    }
    ok = bdrv_insert_filter(s->filter, s->source_bs, errp);
    bdrv_drained_end(s->source_bs);
    return ok;
}

static bool copies_all(const MirrorOptions *options)
{
    return options->sync != MIRROR_SYNC_NONE;
}

/* Everything the job needs; on failure mirror_clean() undoes what was done: the
 * filter is put in last. */
static bool set_up(MirrorJob *s, const MirrorOptions *options, GError **errp)
{
    s->target =
        attach(s, s->target_bs, BLK_PERM_WRITE, BLK_PERM_WRITE_UNCHANGED, errp);
    if (!s->target) {
        return false;
    }
    s->source = attach(s, s->source_bs, BLK_PERM_CONSISTENT_READ,
                       BLK_PERM_ALL & ~BLK_PERM_RESIZE, errp);
    if (!s->source) {
        return false;
    }
    s->dirty =
        bdrv_create_dirty_bitmap(s->source_bs, s->granularity, NULL, errp);
    if (!s->dirty) {
        return false;
    }
    mirror_copy_init(s);
    if (options->target_is_zero) {
        sparse_bitmap_set(s->target_zero, 0,
                          sparse_bitmap_size(s->target_zero));
    }
    /* What little will be written is not worth the questions. */
    s->target_known = options->target_is_zero || !copies_all(options);
    if (!mirror_alloc_buffers(s, errp)) {
        return false;
    }
    bdrv_set_read_only(s->filter, bdrv_is_read_only(s->source_bs) &&
                                      !s->source_bs->auto_read_only);
    if (!insert_filter(s, errp)) {
        return false;
    }
    job_add_node(s->job, s->source_bs);
    job_add_node(s->job, s->target_bs);
    job_add_node(s->job, s->filter);
    job_add_node(s->job, s->replaced_bs);
    if (copies_all(options)) {
        bdrv_set_dirty_bitmap(s->dirty, 0, s->length);
        job_progress_set_remaining(s->job, s->length);
    }
    return true;
}

static bool start(const MirrorOptions *options, BlockDriverState *source,
                  BlockDriverState *target, GError **errp)
{
    const char *replaces =
        options->replaces ? options->replaces : bdrv_node_name(source);
    BlockDriverState *replaced, *filter;
    MirrorJob *s;
    Job *job;

    if (!check_nodes(source, target, errp)) {
        return false;
    }
    replaced = find_replaced(replaces, source, errp);
    if (!replaced) {
        return false;
    }
    filter =
        bdrv_new_internal(&bdrv_mirror_top, options->filter_node_name, errp);
    if (!filter) {
        bdrv_unref(replaced);
        return false;
    }
    job = job_create(&mirror_job_driver, &options->job, errp);
    if (!job) {
        bdrv_unref(filter);
        bdrv_unref(replaced);
        return false;
    }
    s = job_opaque(job);
    s->job = job;
    s->source_bs = bdrv_ref(source);
    s->target_bs = bdrv_ref(target);
    s->replaced_bs = replaced;
    s->filter = filter;
    s->write_blocking = options->write_blocking;
    ((MirrorTop *)filter->opaque)->job = s;
    s->length = bdrv_getlength(source);
    s->on_source_error = options->on_source_error;
    s->on_target_error = options->on_target_error;
    set_sizes(s, options);
    if (!set_up(s, options, errp)) {
        job_abandon(job);
        return false;
    }
    job_start(job);
    return true;
}

bool mirror_start(const MirrorOptions *options, GError **errp)
{
    BlockDriverState *source, *target;
    bool ok = false;

    if (!check_options(options, errp)) {
        return false;
    }
    source = bdrv_find_node(options->device, errp);
    if (!source) {
        return false;
    }
    target = bdrv_find_node(options->target, errp);
    if (target) {
        ok = start(options, source, target, errp);
        bdrv_unref(target);
    }
    bdrv_unref(source);
    return ok;
}
