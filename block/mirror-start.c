/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a mirror job begins: what was asked for is looked at, all that the job
 * needs is made, and its filter is put in last. See mirror.c for what it does
 * then, and commit.c for the commits.
 */
#include "block/mirror.h"

#include <inttypes.h>

#include "block/graph-int.h"
#include "block/mirror-int.h"
#include "util/error.h"

/* Of buf-size and of what one worker gets of it */
#define BUF_ALIGN 65536
#define MIN_REQUEST_BYTES (INT64_C(1) << 20)

bool mirror_check_options(const MirrorOptions *options, GError **errp)
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

bool mirror_is_root(const BlockDriverState *bs)
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

/* The node below the topmost one of @bs's chain that is no filter; or NULL */
static BlockDriverState *next_in_chain(BlockDriverState *bs)
{
    while (bs->drv->kind == BLOCK_DRIVER_FILTER && bs->file) {
        bs = bs->file->bs;
    }
    return bs->backing ? bs->backing->bs : NULL;
}

static bool check_nodes(BlockDriverState *source, BlockDriverState *target,
                        GError **errp)
{
    const BlockDriverState *overlay;
    BlockDriverState *bs;
    int64_t source_length, target_length;

    if (source == target) {
        error_setg(errp, "Can't mirror node into itself");
        return false;
    }
    if (!mirror_is_root(source)) {
        error_setg(errp, "Need a root block node");
        return false;
    }
    if (job_uses_node(source, errp) || job_uses_node(target, errp)) {
        return false;
    }
    overlay = bdrv_find_overlay(target);
    if (overlay) {
        error_setg(errp,
                   "Node '%s' is busy: node is used as backing hd of '%s'",
                   bdrv_node_name(target), overlay->node_name);
        return false;
    }
    if (bdrv_is_at_or_below(source, target)) {
        error_setg(errp,
                   "Node '%s' cannot be mirrored to node '%s', which uses it",
                   bdrv_node_name(source), bdrv_node_name(target));
        return false;
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

/* As in QEMU: what the target allocates as a whole is copied as a whole. */
static int64_t default_granularity(BlockDriverState *bs)
{
    int64_t cluster = copy_target_cluster(bs);

    if (cluster <= 0) {
        return MIRROR_DEFAULT_GRANULARITY;
    }
    return CLAMP(cluster, MIRROR_MIN_CLUSTER, MIRROR_DEFAULT_GRANULARITY);
}

static void set_sizes(MirrorJob *s, const MirrorOptions *options)
{
    int64_t buf =
        options->buf_size ? options->buf_size : MIRROR_DEFAULT_BUF_SIZE;
    int64_t bytes;

    s->granularity = options->granularity ? options->granularity
                                          : default_granularity(s->target_bs);
    s->buf_size = (buf + BUF_ALIGN - 1) / BUF_ALIGN * BUF_ALIGN;
    bytes = MAX(s->buf_size / JOB_MAX_WORKERS, MIN_REQUEST_BYTES);
    bytes = MIN(bytes, s->buf_size) / BUF_ALIGN * BUF_ALIGN;
    if (bytes > s->granularity) {
        bytes -= bytes % s->granularity;
    }
    s->buf_bytes = bytes;
    s->n_workers = MIN(s->buf_size / bytes, JOB_MAX_WORKERS);
    job_pace_init(&s->pace, s->n_workers, s->buf_bytes);
}

static BlockBackend *attach(MirrorJob *s, BlockDriverState *bs, uint64_t perm,
                            uint64_t shared, GError **errp)
{
    g_autofree char *user = g_strdup_printf("job '%s'", job_id(s->job));
    BlockBackend *blk = blk_new(user, true, perm, shared);

    if (s->commits) {
        blk_set_writes_below(blk);
    }
    if (!blk_attach(blk, bs, errp)) {
        blk_free(blk);
        return NULL;
    }
    job_add_blk(s->job, blk);
    return blk;
}

/* A commit takes what it writes to when its filter is there. */
static bool attach_both(MirrorJob *s, GError **errp)
{
    uint64_t write = s->commits ? 0 : BLK_PERM_WRITE;
    uint64_t shared = s->commits ? BLK_PERM_ALL : BLK_PERM_WRITE_UNCHANGED;
    uint64_t read = s->commits ? 0 : BLK_PERM_CONSISTENT_READ;

    s->target = attach(s, s->target_bs, write, shared, errp);
    if (!s->target) {
        return false;
    }
    s->source =
        attach(s, s->source_bs, read, BLK_PERM_ALL & ~BLK_PERM_RESIZE, errp);
    return s->source != NULL;
}

static bool insert_drained(MirrorJob *s, GError **errp)
{
    g_autoptr(GError) err = NULL;

    if (!bdrv_insert_filter(s->filter, s->source_bs, errp)) {
        return false;
    }
    if (!s->commits || commit_take(s, errp)) {
        return true;
    }
    commit_give_back(s);
    if (!bdrv_remove_filter(s->filter, &err)) {
        g_error("Could not remove node '%s': %s", bdrv_node_name(s->filter),
                err->message);
    }
    return false;
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
    ok = insert_drained(s, errp);
    bdrv_drained_end(s->source_bs);
    return ok;
}

/*
 * Where something is below the target or may still be put there, what it does not
 * hold itself does not count: all zeroes are written there.
 */
static void set_target_zero(MirrorJob *s, const MirrorOptions *options)
{
    bool all = options->target_is_zero && options->sync != MIRROR_SYNC_TOP;

    if (all) {
        target_zero_set(&s->target_zero, 0, s->length);
    }
    /* What little will be written is not worth the questions. */
    s->target_known = all || options->sync != MIRROR_SYNC_FULL ||
                      !target_zero_is_its_own(s->target_bs);
}

/* Everything the job needs; on failure mirror_clean() undoes what was done: the
 * filter is put in last. */
static bool set_up(MirrorJob *s, const MirrorOptions *options, GError **errp)
{
    if (!attach_both(s, errp)) {
        return false;
    }
    s->dirty =
        bdrv_create_dirty_bitmap(s->source_bs, s->granularity, NULL, errp);
    if (!s->dirty) {
        return false;
    }
    mirror_copy_init(s);
    set_target_zero(s, options);
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
    if (s->overlay) {
        job_add_node(s->job, s->overlay);
    }
    if (options->sync != MIRROR_SYNC_NONE && !s->base) {
        bdrv_set_dirty_bitmap(s->dirty, 0, s->length);
        job_progress_set_remaining(s->job, s->length);
    }
    return true;
}

static const JobDriver *driver_for(const MirrorNodes *nodes)
{
    if (nodes->overlay) {
        return &commit_below_job_driver;
    }
    return nodes->commits ? &commit_job_driver : &mirror_job_driver;
}

bool mirror_start_with(const MirrorOptions *options, const MirrorNodes *nodes,
                       GError **errp)
{
    BlockDriverState *filter =
        bdrv_new_internal(&bdrv_mirror_top, options->filter_node_name, errp);
    MirrorJob *s;
    Job *job;

    if (!filter) {
        return false;
    }
    job = job_create(driver_for(nodes), &options->job, errp);
    if (!job) {
        bdrv_unref(filter);
        return false;
    }
    s = job_opaque(job);
    s->job = job;
    s->source_bs = bdrv_ref(nodes->source);
    s->target_bs = bdrv_ref(nodes->target);
    s->replaced_bs = bdrv_ref(nodes->replaced);
    s->base = nodes->base ? bdrv_ref(nodes->base) : NULL;
    s->commits = nodes->commits;
    s->was_read_only = nodes->was_read_only;
    if (nodes->overlay) {
        s->overlay = bdrv_ref(nodes->overlay);
        s->backing_file = g_strdup(nodes->backing_file);
        s->backing_format = nodes->backing_format;
    }
    s->filter = filter;
    s->write_blocking = options->write_blocking;
    ((MirrorTop *)filter->opaque)->job = s;
    s->length = bdrv_getlength(nodes->source);
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

static bool start(const MirrorOptions *options, BlockDriverState *source,
                  BlockDriverState *target, GError **errp)
{
    const char *replaces =
        options->replaces ? options->replaces : bdrv_node_name(source);
    MirrorNodes nodes = { .source = source, .target = target };
    MirrorOptions with = *options;
    bool ok;

    if (!check_nodes(source, target, errp)) {
        return false;
    }
    nodes.replaced = find_replaced(replaces, source, errp);
    if (!nodes.replaced) {
        return false;
    }
    if (with.sync == MIRROR_SYNC_TOP) {
        nodes.base = next_in_chain(source);
        with.sync = nodes.base ? MIRROR_SYNC_TOP : MIRROR_SYNC_FULL;
    }
    ok = mirror_start_with(&with, &nodes, errp);
    bdrv_unref(nodes.replaced);
    return ok;
}

bool mirror_start(const MirrorOptions *options, GError **errp)
{
    BlockDriverState *source, *target;
    bool ok = false;

    if (!mirror_check_options(options, errp)) {
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
