/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * throttle: the contents of another node, no faster than the limits of a group
 * allow. Flushes and questions about block status are not held up.
 */
#include "block/block-int.h"
#include "block/throttle-group.h"
#include "util/error.h"

typedef struct ThrottleNode {
    ThrottleGroup *group; /* in use */
    ThrottleMember *member;
} ThrottleNode;

static int throttle_open(BlockDriverState *bs, JsonObject *options,
                         GError **errp)
{
    const char *name = schema_get_str(options, "throttle-group", NULL);
    ThrottleNode *t = bs->opaque;

    if (!bdrv_open_child(bs, options, "file", errp)) {
        return -EINVAL;
    }
    t->group = object_use(&throttle_group_object, name);
    if (!t->group) {
        error_setg(errp, "Throttle group '%s' does not exist", name);
        return -EINVAL;
    }
    t->member = throttle_member_new(t->group);
    return 0;
}

static void throttle_close(BlockDriverState *bs)
{
    ThrottleNode *t = bs->opaque;

    throttle_member_free(t->member);
    object_release(t->group);
}

static int throttle_reopen_prepare(BdrvReopen *r, GError **errp)
{
    const char *name = schema_get_str(r->options, "throttle-group", NULL);

    r->opaque = object_use(&throttle_group_object, name);
    if (!r->opaque) {
        error_setg(errp, "Throttle group '%s' does not exist", name);
        return -EINVAL;
    }
    return 0;
}

/* Nobody waits for a turn: the node is drained. */
static void throttle_reopen_commit(BdrvReopen *r)
{
    ThrottleNode *t = r->bs->opaque;

    throttle_member_free(t->member);
    object_release(t->group);
    t->group = r->opaque;
    t->member = throttle_member_new(t->group);
}

static void throttle_reopen_abort(BdrvReopen *r)
{
    object_release(r->opaque);
}

static const char *const throttle_reopen_options[] = { "throttle-group", NULL };

static int wait_turn(BlockDriverState *bs, bool is_write, int64_t bytes)
{
    ThrottleNode *t = bs->opaque;

    return throttle_member_wait(t->member, is_write, bytes);
}

static int throttle_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                           const struct iovec *iov, int niov, int flags)
{
    int ret = wait_turn(bs, false, bytes);

    /* Who came through is not sent back: the second time would count, too. */
    flags &= ~BDRV_REQ_NOWAIT;
    return ret < 0 ? ret
                   : bdrv_preadv(bs->file->bs, offset, bytes, iov, niov, flags);
}

static int throttle_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                            const struct iovec *iov, int niov, int flags)
{
    int ret = wait_turn(bs, true, bytes);

    return ret < 0
               ? ret
               : bdrv_pwritev(bs->file->bs, offset, bytes, iov, niov, flags);
}

static int throttle_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes, int flags)
{
    int ret = wait_turn(bs, true, bytes);

    return ret < 0 ? ret
                   : bdrv_pwrite_zeroes(bs->file->bs, offset, bytes, flags);
}

static int throttle_pdiscard(BlockDriverState *bs, int64_t offset,
                             int64_t bytes)
{
    int ret = wait_turn(bs, true, bytes);

    return ret < 0 ? ret : bdrv_pdiscard(bs->file->bs, offset, bytes);
}

static const SchemaType throttle_options = {
    .name = "BlockdevOptionsThrottle",
    .kind = SCHEMA_OBJECT,
    .doc = "The contents of another node, no faster than a group's limits "
           "allow.",
    .members =
        (const SchemaMember[]){
            { "throttle-group", &schema_str,
              .doc = "The id of an object of type \"throttle-group\"." },
            { "file", &blockdev_ref_type, .doc = "The node below." },
            { NULL },
        },
};

const BlockDriver bdrv_throttle = {
    .format_name = "throttle",
    .kind = BLOCK_DRIVER_FILTER,
    .instance_size = sizeof(ThrottleNode),
    .supported_write_flags = BDRV_REQ_FUA | BDRV_REQ_WRITE_COMPRESSED,
    .supported_zero_flags = BDRV_REQ_FUA,
    .options = &throttle_options,
    .open = throttle_open,
    .reopen_options = throttle_reopen_options,
    .reopen_prepare = throttle_reopen_prepare,
    .reopen_commit = throttle_reopen_commit,
    .reopen_abort = throttle_reopen_abort,
    .close = throttle_close,
    .preadv = throttle_preadv,
    .pwritev = throttle_pwritev,
    .pwrite_zeroes = throttle_pwrite_zeroes,
    .pdiscard = throttle_pdiscard,
};
