/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block-commit: what the nodes from a top down to a base hold is copied to the
 * base while guests go on, and then those who use the top go on with the base:
 * guests, or, if the top is not the active layer, the node that stands on it,
 * whose header names the base then.
 *
 * It is a mirror job whose target stands below its source. What guests read
 * stays the same throughout: what is written to the base is what they read
 * there already, through the chain. At the nodes between that is not so, as what the
 * layers above them hold shines through from below: nobody else may read them
 * meanwhile, nor write to the base.
 */
#include <inttypes.h>
#include <string.h>

#include "block/graph-int.h"
#include "block/mirror-int.h"
#include "util/error.h"

/* ---- the chain ---------------------------------------------------------- */

/* What @bs stands on: filters on their child, others by a backing link; or NULL */
static BlockDriverState *next_below(const BlockDriverState *bs)
{
    const BdrvChild *c =
        bs->drv->kind == BLOCK_DRIVER_FILTER ? bs->file : bs->backing;

    return c ? c->bs : NULL;
}

static bool chain_contains(BlockDriverState *top, const BlockDriverState *bs)
{
    while (top && top != bs) {
        top = next_below(top);
    }
    return top != NULL;
}

/* The name of the file that @bs is in, as it was given; to be freed. Or NULL */
static char *file_name(BlockDriverState *bs)
{
    for (; bs; bs = bs->file ? bs->file->bs : NULL) {
        g_autoptr(JsonObject) options = bdrv_copy_options(bs);
        const char *name = schema_get_str(options, "filename", NULL);

        if (name) {
            return g_strdup(name);
        }
    }
    return NULL;
}

static BlockDriverState *find_file(BlockDriverState *top, const char *name)
{
    for (; top; top = next_below(top)) {
        g_autofree char *have = file_name(top);

        if (have && !strcmp(have, name)) {
            return top;
        }
    }
    return NULL;
}

/* Borrowed from the chain of @device */
static BlockDriverState *find_in_chain(BlockDriverState *device,
                                       const char *node_name, GError **errp)
{
    BlockDriverState *bs = bdrv_find_node(node_name, NULL);
    bool found;

    if (!bs) {
        error_setg(errp, "Cannot find device='' nor node-name='%s'", node_name);
        return NULL;
    }
    found = chain_contains(device, bs);
    bdrv_unref(bs);
    if (!found) {
        error_setg(errp, "'%s' is not in this backing file chain", node_name);
        return NULL;
    }
    return bs;
}

static BlockDriverState *find_top(const CommitOptions *options,
                                  BlockDriverState *device, GError **errp)
{
    BlockDriverState *bs = device;

    if (options->top_node) {
        return find_in_chain(device, options->top_node, errp);
    }
    if (options->top) {
        bs = find_file(device, options->top);
    }
    if (!bs) {
        error_setg(errp, "Top image file %s not found", options->top);
    }
    return bs;
}

static BlockDriverState *find_base(const CommitOptions *options,
                                   BlockDriverState *device,
                                   BlockDriverState *top, GError **errp)
{
    BlockDriverState *bs = top;

    if (options->base_node) {
        return find_in_chain(device, options->base_node, errp);
    }
    if (options->base) {
        bs = find_file(top, options->base);
        if (!bs) {
            error_setg(errp, "Can't find '%s' in the backing chain",
                       options->base);
        }
        return bs;
    }
    while (next_below(bs)) {
        bs = next_below(bs);
    }
    return bs;
}

/* ---- the start ---------------------------------------------------------- */

static bool check_options(const CommitOptions *options, GError **errp)
{
    if (options->base_node && options->base) {
        error_setg(errp, "'base-node' and 'base' are mutually exclusive");
        return false;
    }
    if (options->top_node && options->top) {
        error_setg(errp, "'top-node' and 'top' are mutually exclusive");
        return false;
    }
    return true;
}

/* Is it such a commit as can be done? @top and @base are in @device's chain. */
static bool check_layers(const CommitOptions *options, BlockDriverState *device,
                         BlockDriverState *top, BlockDriverState *base,
                         GError **errp)
{
    const BlockDriverState *bs;

    if (top == base || chain_contains(base, top)) {
        error_setg(errp, "cannot commit an image into itself");
        return false;
    }
    for (bs = device; bs; bs = bs != base ? next_below(bs) : NULL) {
        if (job_uses_node((BlockDriverState *)bs, errp)) {
            return false;
        }
    }
    if (top != device) {
        return true;
    }
    if (options->backing_file) {
        error_setg(errp,
                   "'backing-file' specified, but 'top' is the active layer");
        return false;
    }
    return true;
}

/* The node of @device's chain that has @top as its backing file, or a filter on it */
static BlockDriverState *overlay_of(BlockDriverState *device,
                                    const BlockDriverState *top)
{
    BlockDriverState *overlay = device;
    BlockDriverState *bs;

    for (bs = device; bs != top; bs = next_below(bs)) {
        if (bs->drv->kind != BLOCK_DRIVER_FILTER) {
            overlay = bs;
        }
    }
    return overlay;
}

/* Does only @overlay stand on what lies between it and @base? */
static bool check_one_overlay(const BlockDriverState *overlay,
                              const BlockDriverState *base, GError **errp)
{
    const BlockDriverState *below = overlay;
    const BlockDriverState *bs;
    guint i;

    for (bs = next_below(below); bs != base; bs = next_below(bs)) {
        for (i = 0; i < bs->parents->len; i++) {
            const BdrvChild *c = bs->parents->pdata[i];

            if (c->parent && c->parent != below) {
                error_setg(errp,
                           "Node '%s' cannot be committed: node '%s' stands "
                           "on it, too",
                           bs->node_name, c->parent->node_name);
                return false;
            }
        }
        below = bs;
    }
    return true;
}

static const BlockDriverState *skip_filters(const BlockDriverState *bs)
{
    while (bs->drv->kind == BLOCK_DRIVER_FILTER) {
        bs = bs->file->bs;
    }
    return bs;
}

/* Does a name and a format tell all of @bs: a file, or all of one in a format? */
static bool is_plain(BlockDriverState *bs)
{
    const BlockDriverState *image = skip_filters(bs);
    g_autoptr(JsonObject) options =
        bdrv_copy_options((BlockDriverState *)image);

    return image->drv->kind == BLOCK_DRIVER_PROTOCOL ||
           (image->file &&
            skip_filters(image->file->bs)->drv->kind == BLOCK_DRIVER_PROTOCOL &&
            !schema_has(options, "offset") && !schema_has(options, "size"));
}

/* How a header is to name @bs; to be freed. Or NULL and @errp */
static char *name_for_header(BlockDriverState *bs, const char *given,
                             GError **errp)
{
    g_autofree char *name = given ? g_strdup(given) : file_name(bs);

    if (!name ||
        (!given && (!is_plain(bs) || g_str_has_prefix(name, "/dev/fdset/")))) {
        error_setg(errp,
                   "Node '%s' has no file name that an image's header can "
                   "tell: say 'backing-file'",
                   bs->node_name);
        return NULL;
    }
    /* It would be relative to the image, not to where we are. */
    return given ? g_steal_pointer(&name) : g_canonicalize_filename(name, NULL);
}

/* What is to become of the node above @nodes->source */
static bool set_overlay(MirrorNodes *nodes, BlockDriverState *device,
                        GError **errp)
{
    BlockDriverState *overlay = overlay_of(device, nodes->source);
    const BlockDriverState *bs = skip_filters(nodes->base);

    if (!overlay->drv->change_backing) {
        error_setg(errp,
                   "Node '%s' cannot get another backing file: driver '%s' "
                   "has none",
                   overlay->node_name, overlay->drv->format_name);
        return false;
    }
    nodes->overlay = overlay;
    nodes->backing_format =
        bs->drv->kind == BLOCK_DRIVER_FORMAT ? bs->drv->format_name : "raw";
    return check_one_overlay(overlay, nodes->base, errp);
}

static void set_read_only_again(BlockDriverState *base)
{
    g_autoptr(GError) err = NULL;

    if (!bdrv_reopen_set_read_only(base, true, &err)) {
        g_warning("Could not make node '%s' read-only again: %s",
                  base->node_name, err->message);
    }
}

static bool start_with(const MirrorOptions *mirror, MirrorNodes *nodes,
                       GError **errp)
{
    BlockDriverState *base = nodes->base;

    /* A file driver sees to that by itself. */
    nodes->was_read_only = bdrv_is_read_only(base) &&
                           !(base->auto_read_only && base->drv->check_perm);
    if (nodes->was_read_only && !bdrv_reopen_set_read_only(base, false, errp)) {
        return false;
    }
    if (!mirror_start_with(mirror, nodes, errp)) {
        if (nodes->was_read_only) {
            set_read_only_again(base);
        }
        return false;
    }
    return true;
}

static bool start(const CommitOptions *options, BlockDriverState *device,
                  GError **errp)
{
    MirrorOptions mirror = { .job = options->job,
                             .filter_node_name = options->filter_node_name,
                             .sync = MIRROR_SYNC_TOP,
                             .on_source_error = options->on_error,
                             .on_target_error = options->on_error };
    BlockDriverState *top = find_top(options, device, errp);
    BlockDriverState *base = top ? find_base(options, device, top, errp) : NULL;
    MirrorNodes nodes = { .source = top,
                          .target = base,
                          .replaced = top,
                          .base = base,
                          .commits = true };
    g_autofree char *name = NULL;

    if (!base || !check_layers(options, device, top, base, errp) ||
        !mirror_check_options(&mirror, errp)) {
        return false;
    }
    if (top != device) {
        name = name_for_header(base, options->backing_file, errp);
        if (!name || !set_overlay(&nodes, device, errp)) {
            return false;
        }
        nodes.backing_file = name;
    }
    return start_with(&mirror, &nodes, errp);
}

bool commit_start(const CommitOptions *options, GError **errp)
{
    BlockDriverState *device;
    bool ok = false;

    if (!check_options(options, errp)) {
        return false;
    }
    device = bdrv_find_node(options->device, NULL);
    if (!device) {
        error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found",
                        options->device);
        return false;
    }
    if (!mirror_is_root(device)) {
        error_setg(errp, "Need a root block node");
    } else {
        ok = start(options, device, errp);
    }
    bdrv_unref(device);
    return ok;
}

/* ---- the nodes between -------------------------------------------------- */

/* Is it the base's contents that are read at @bs? */
static bool is_filter_on(const BlockDriverState *bs,
                         const BlockDriverState *base)
{
    while (bs != base && bs->drv->kind == BLOCK_DRIVER_FILTER) {
        bs = bs->file->bs;
    }
    return bs == base;
}

static bool take_between(MirrorJob *s, BlockDriverState *bs, GError **errp)
{
    g_autofree char *user = g_strdup_printf("job '%s'", job_id(s->job));
    uint64_t shared = BLK_PERM_WRITE_UNCHANGED | BLK_PERM_WRITE;
    BlockBackend *blk;

    if (is_filter_on(bs, s->base)) {
        shared |= BLK_PERM_CONSISTENT_READ;
    }
    blk = blk_new(user, true, 0, shared);
    blk_set_writes_below(blk);
    g_ptr_array_add(s->between, blk);
    if (!blk_attach(blk, bs, errp)) {
        return false;
    }
    job_add_node(s->job, bs);
    return true;
}

static bool grow_base(MirrorJob *s, GError **errp)
{
    int64_t length = bdrv_getlength(s->base);

    if (length < 0) {
        error_setg_errno(errp, -length, "Could not get the length of node '%s'",
                         bdrv_node_name(s->base));
        return false;
    }
    return length >= s->length || bdrv_resize(s->base, s->length, errp) == 0;
}

static void free_blk(gpointer blk)
{
    blk_free(blk);
}

bool commit_take(MirrorJob *s, GError **errp)
{
    BlockDriverState *bs;

    s->between = g_ptr_array_new_with_free_func(free_blk);
    for (bs = next_below(s->source_bs); bs != s->base; bs = next_below(bs)) {
        if (!take_between(s, bs, errp)) {
            return false;
        }
    }
    return grow_base(s, errp) &&
           blk_set_perm(s->target, BLK_PERM_WRITE,
                        BLK_PERM_WRITE_UNCHANGED | BLK_PERM_CONSISTENT_READ,
                        errp);
}

/* What its options say may be out of date. */
static void set_backing_option(BlockDriverState *bs, const char *node_name)
{
    JsonObject *options = bdrv_copy_options(bs);
    JsonObject *old = bs->options;

    json_object_set_string_member(options, "backing", node_name);
    bdrv_change_begin();
    bs->options = options;
    bdrv_change_end();
    json_object_unref(old);
}

int commit_tell_overlay(MirrorJob *s, GError **errp)
{
    BlockDriverState *bs = s->overlay;
    bool read_only = bdrv_is_read_only(bs);
    int ret;

    if (read_only && !bdrv_reopen_set_read_only(bs, false, errp)) {
        return -EPERM;
    }
    ret = bs->drv->change_backing(bs, s->backing_file, s->backing_format, errp);
    if (read_only) {
        set_read_only_again(bs);
    }
    if (ret == 0) {
        set_backing_option(bs, s->base->node_name);
        if (s->source_bs->made_by == bs) {
            s->source_bs->made_by = NULL;
        }
    }
    return ret;
}

void commit_settle(MirrorJob *s)
{
    if (s->was_read_only) {
        set_read_only_again(s->base);
    }
}

static void free_between(MirrorJob *s)
{
    g_clear_pointer(&s->between, g_ptr_array_unref);
}

void commit_clean(MirrorJob *s)
{
    free_between(s);
    if (s->overlay) {
        bdrv_unref(s->overlay);
    }
    g_free(s->backing_file);
}

void commit_give_back(MirrorJob *s)
{
    mirror_stop_workers(s);
    free_between(s);
    blk_detach(s->target);
    commit_settle(s);
}
