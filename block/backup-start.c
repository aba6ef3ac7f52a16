/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a backup job begins: what was asked for is looked at, and all that the job
 * needs is made, while the disk is drained. See backup.c for what it does then.
 */
#include "block/backup.h"

#include <inttypes.h>
#include <limits.h>

#include "block/backup-int.h"
#include "block/copy-before-write.h"
#include "block/copy-target.h"
#include "util/error.h"

static bool check_options(const BackupOptions *options, GError **errp)
{
    if (options->max_workers < 1 || options->max_workers > INT_MAX) {
        error_setg(errp, "max-workers must be between 1 and %d", INT_MAX);
        return false;
    }
    if (options->max_chunk < 0) {
        error_setg(errp, "max-chunk must be zero (which means no limit) or "
                         "positive");
        return false;
    }
    if (options->use_copy_range) {
        error_setg(errp, "x-perf option 'use-copy-range' is not supported");
        return false;
    }
    if (options->job.speed < 0) {
        error_setg(errp, "Parameter 'speed' expects a non-negative value");
        return false;
    }
    return true;
}

static const char *const sync_names[] = {
    [BACKUP_SYNC_TOP] = "top",       [BACKUP_SYNC_FULL] = "full",
    [BACKUP_SYNC_NONE] = "none",     [BACKUP_SYNC_INCREMENTAL] = "incremental",
    [BACKUP_SYNC_BITMAP] = "bitmap",
};

static const char *const mode_names[] = {
    [BACKUP_BITMAP_ON_SUCCESS] = "on-success",
    [BACKUP_BITMAP_NEVER] = "never",
    [BACKUP_BITMAP_ALWAYS] = "always",
};

/* Do the options that are about a bitmap go together? */
static bool check_bitmap_options(const BackupOptions *options, GError **errp)
{
    bool by_bitmap = options->sync == BACKUP_SYNC_INCREMENTAL ||
                     options->sync == BACKUP_SYNC_BITMAP;

    if (by_bitmap && !options->bitmap) {
        error_setg(errp, "must provide a valid bitmap name for '%s' sync mode",
                   sync_names[options->sync]);
    } else if (options->sync == BACKUP_SYNC_INCREMENTAL &&
               options->have_bitmap_mode &&
               options->bitmap_mode != BACKUP_BITMAP_ON_SUCCESS) {
        error_setg(errp,
                   "Bitmap sync mode must be '%s' when using sync mode '%s'",
                   mode_names[BACKUP_BITMAP_ON_SUCCESS],
                   sync_names[BACKUP_SYNC_INCREMENTAL]);
    } else if (!options->bitmap && options->have_bitmap_mode) {
        error_setg(errp, "Cannot specify bitmap sync mode without a bitmap");
    } else {
        return true;
    }
    return false;
}

/* The same, with the bitmap @options->bitmap of @bs */
static bool check_bitmap(const BackupOptions *options, BdrvDirtyBitmap *bitmap,
                         GError **errp)
{
    unsigned flags = BDRV_BITMAP_DEFAULT;

    if (options->sync != BACKUP_SYNC_INCREMENTAL &&
        !options->have_bitmap_mode) {
        error_setg(errp,
                   "Bitmap sync mode must be given when providing a bitmap");
        return false;
    }
    if (options->bitmap_mode == BACKUP_BITMAP_NEVER) {
        flags = BDRV_BITMAP_ALLOW_RO;
    }
    if (!bdrv_dirty_bitmap_check(bitmap, flags, errp)) {
        return false;
    }
    if (options->sync == BACKUP_SYNC_NONE) {
        error_setg(errp,
                   "sync mode '%s' does not produce meaningful bitmap outputs",
                   sync_names[BACKUP_SYNC_NONE]);
        return false;
    }
    if (options->bitmap_mode == BACKUP_BITMAP_NEVER &&
        options->sync != BACKUP_SYNC_BITMAP) {
        error_setg(errp,
                   "Bitmap sync mode '%s' has no meaningful effect when "
                   "combined with sync mode '%s'",
                   mode_names[BACKUP_BITMAP_NEVER], sync_names[options->sync]);
        return false;
    }
    return true;
}

/* *@bitmap: NULL if none is asked for. False and @errp on error */
static bool find_bitmap(const BackupOptions *options, BlockDriverState *bs,
                        BdrvDirtyBitmap **bitmap, GError **errp)
{
    *bitmap = NULL;
    if (!check_bitmap_options(options, errp)) {
        return false;
    }
    if (!options->bitmap) {
        return true;
    }
    *bitmap = bdrv_find_dirty_bitmap(bs, options->bitmap, NULL);
    if (!*bitmap) {
        error_setg(errp, "Bitmap '%s' could not be found", options->bitmap);
        return false;
    }
    return check_bitmap(options, *bitmap, errp);
}

static bool get_length(BlockDriverState *bs, int64_t *length, GError **errp)
{
    *length = bdrv_getlength(bs);
    if (*length < 0) {
        error_setg_errno(errp, -*length, "Unable to get length for '%s'",
                         bdrv_node_name(bs));
    }
    return *length >= 0;
}

static bool check_nodes(const BackupOptions *options, BlockDriverState *source,
                        BlockDriverState *target, GError **errp)
{
    int64_t source_length, target_length;

    if (source == target) {
        error_setg(errp, "Source and target cannot be the same");
        return false;
    }
    if (options->compress && !bdrv_can_compress(target)) {
        error_setg(errp, "Compression is not supported for this drive %s",
                   bdrv_node_name(target));
        return false;
    }
    /* Another backup's source may well have this one, too. */
    if (job_uses_node(source, errp) || job_uses_node(target, errp) ||
        !get_length(source, &source_length, errp) ||
        !get_length(target, &target_length, errp)) {
        return false;
    }
    if (source_length != target_length) {
        error_setg(errp, "Source and target image have different sizes");
        return false;
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

static bool make_filter(BackupJob *s, const BackupOptions *options,
                        GError **errp)
{
    BlockCopyOptions with = { .base = s->base,
                              .length = s->length,
                              .max_chunk = options->max_chunk,
                              .compress = options->compress,
                              .changed = backup_changed,
                              .opaque = s };

    s->filter = cbw_new(options->filter_node_name, s->target_bs, &with,
                        backup_guest_failed, errp);
    if (!s->filter) {
        return false;
    }
    s->bc = cbw_block_copy(s->filter);
    bdrv_set_read_only(s->filter, bdrv_is_read_only(s->source_bs) &&
                                      !s->source_bs->auto_read_only);
    return true;
}

static bool attach(BackupJob *s, GError **errp)
{
    g_autofree char *user = g_strdup_printf("job '%s'", job_id(s->job));

    /* A format above may make its file longer: that is not of the moment. The
     * filter itself refuses to be resized. */
    s->blk = blk_new(user, true, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    if (!blk_attach(s->blk, s->filter, errp)) {
        return false;
    }
    job_add_blk(s->job, s->blk);
    return true;
}

/* What is to be copied */
static void add_clusters(BackupJob *s)
{
    int64_t start, bytes, pos;

    if (s->bitmap) {
        bdrv_dirty_bitmap_freeze(s->bitmap);
    }
    if (s->sync != BACKUP_SYNC_BITMAP && s->sync != BACKUP_SYNC_INCREMENTAL) {
        block_copy_add(s->bc, 0, s->length);
        return;
    }
    for (pos = 0; bdrv_dirty_bitmap_next_frozen(s->bitmap, pos, s->length,
                                                INT64_MAX, &start, &bytes);
         pos = start + bytes) {
        block_copy_add(s->bc, start, bytes);
    }
}

/* Everything the job needs; on failure the job's clean() undoes what was done. */
static bool set_up(BackupJob *s, const BackupOptions *options,
                   BdrvDirtyBitmap *bitmap, GError **errp)
{
    if (!make_filter(s, options, errp) ||
        !bdrv_insert_filter(s->filter, s->source_bs, errp) ||
        !attach(s, errp)) {
        return false;
    }
    job_pace_init(&s->pace, s->n_workers, block_copy_max_data(s->bc));
    job_add_node(s->job, s->filter);
    job_add_node(s->job, s->target_bs);
    s->bitmap = bitmap;
    add_clusters(s);
    job_progress_set_remaining(s->job, block_copy_left(s->bc));
    return true;
}

static Job *create(const BackupOptions *options, BlockDriverState *source,
                   BlockDriverState *target, GError **errp)
{
    BdrvDirtyBitmap *bitmap;
    BackupJob *s;
    Job *job;

    if (!find_bitmap(options, source, &bitmap, errp) ||
        !check_nodes(options, source, target, errp) ||
        !check_options(options, errp)) {
        return NULL;
    }
    job = job_create(&backup_job_driver, &options->job, errp);
    if (!job) {
        return NULL;
    }
    s = job_opaque(job);
    s->job = job;
    s->source_bs = bdrv_ref(source);
    s->target_bs = bdrv_ref(target);
    if (options->sync == BACKUP_SYNC_TOP) {
        s->base = next_in_chain(source);
        s->base = s->base ? bdrv_ref(s->base) : NULL;
    }
    s->length = bdrv_getlength(source);
    s->sync = options->sync;
    s->bitmap_mode = options->bitmap_mode;
    s->on_source_error = options->on_source_error;
    s->on_target_error = options->on_target_error;
    s->n_workers = MIN(options->max_workers, JOB_MAX_WORKERS);
    /* What is to be put on something has to have its zeroes, and what little is
     * written is not worth the questions. */
    s->learn_target =
        options->sync == BACKUP_SYNC_FULL && target_zero_is_its_own(target);
    backup_init(s);
    if (!set_up(s, options, bitmap, errp)) {
        job_abandon(job);
        return NULL;
    }
    return job;
}

Job *backup_create(const BackupOptions *options, GError **errp)
{
    BlockDriverState *source, *target;
    Job *job = NULL;

    source = bdrv_find_node(options->device, errp);
    if (!source) {
        return NULL;
    }
    target = bdrv_find_node(options->target, errp);
    if (target) {
        job = create(options, source, target, errp);
        bdrv_unref(target);
    }
    bdrv_unref(source);
    return job;
}
