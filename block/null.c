/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * null-co: a disk without a disk. It forgets what is written and can take its
 * time about it; for tests and benchmarks.
 */
#include <string.h>

#include "block/block-int.h"

#define NULL_DEFAULT_SIZE (INT64_C(1) << 30)

typedef struct NullState {
    int64_t size;
    int64_t latency_us;
    bool read_zeroes;
    Mutex lock;
    Cond never; /* nobody signals it: what is waited for is the time */
} NullState;

static int null_open(BlockDriverState *bs, JsonObject *options, GError **errp)
{
    NullState *s = bs->opaque;
    int64_t latency_ns;

    s->size = schema_get_int(options, "size", NULL_DEFAULT_SIZE);
    latency_ns = schema_get_int(options, "latency-ns", 0);
    s->latency_us = latency_ns / 1000 + (latency_ns % 1000 > 0);
    s->read_zeroes = schema_get_bool(options, "read-zeroes", false);
    mutex_init(&s->lock);
    cond_init(&s->never);
    return 0;
}

static void null_close(BlockDriverState *bs)
{
    NullState *s = bs->opaque;

    cond_destroy(&s->never);
    mutex_destroy(&s->lock);
}

/* Only for requests of users: a flush before the node is closed is quick. */
static int null_wait(NullState *s)
{
    BdrvCancel *cancel = bdrv_request_cancel();
    int64_t deadline_us;
    int ret = 0;

    if (s->latency_us == 0 || !cancel) {
        return 0;
    }
    deadline_us = g_get_monotonic_time() + s->latency_us;
    mutex_lock(&s->lock);
    while (ret == 0) {
        ret =
            bdrv_wait(&s->never, &s->lock, deadline_us, bdrv_request_cancel());
    }
    mutex_unlock(&s->lock);
    return ret == -ETIMEDOUT ? 0 : ret;
}

static int null_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       const struct iovec *iov, int niov, int flags)
{
    int i;

    /* Also without read-zeroes: what the buffer held before may be of another
     * disk, and none of the reader's business. */
    for (i = 0; i < niov; i++) {
        memset(iov[i].iov_base, 0, iov[i].iov_len);
    }
    return null_wait(bs->opaque);
}

static int null_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        const struct iovec *iov, int niov, int flags)
{
    return null_wait(bs->opaque);
}

static int null_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                              int64_t bytes, int flags)
{
    return null_wait(bs->opaque);
}

static int null_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    return null_wait(bs->opaque);
}

static int null_flush(BlockDriverState *bs)
{
    return null_wait(bs->opaque);
}

static int64_t null_getlength(BlockDriverState *bs)
{
    NullState *s = bs->opaque;

    return s->size;
}

static int null_block_status(BlockDriverState *bs, unsigned want,
                             int64_t offset, int64_t bytes, int64_t *pnum,
                             int64_t *map, BlockDriverState **file)
{
    NullState *s = bs->opaque;

    *pnum = s->size - offset;
    *map = offset;
    *file = bs;
    return BDRV_BLOCK_OFFSET_VALID |
           (s->read_zeroes ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA);
}

static void null_get_info(BlockDriverState *bs, JsonObject *image)
{
    json_object_set_int_member(image, "actual-size", 0);
}

static const SchemaType null_options = {
    .name = "BlockdevOptionsNull",
    .kind = SCHEMA_OBJECT,
    .doc = "A disk that stores nothing.",
    .members =
        (const SchemaMember[]){
            { "size", &schema_size, .optional = true,
              .doc = "In bytes. Default: 1 GiB." },
            { "latency-ns", &schema_uint, .optional = true,
              .doc = "How long each request takes, in nanoseconds, rounded up "
                     "to microseconds. Default: 0." },
            { "read-zeroes", &schema_bool, .optional = true,
              .doc = "Whether block status says that all is zero; otherwise "
                     "that all is data. Reads find zeroes either way. "
                     "Default: off." },
            { NULL },
        },
};

/* As in QEMU: only what all drivers have in common may change. */
static const char *const null_reopen_options[] = { NULL };

const BlockDriver bdrv_null_co = {
    .format_name = "null-co",
    .kind = BLOCK_DRIVER_PROTOCOL,
    .instance_size = sizeof(NullState),
    .supported_write_flags = BDRV_REQ_FUA,
    .supported_zero_flags = BDRV_REQ_FUA,
    .options = &null_options,
    .open = null_open,
    .reopen_options = null_reopen_options,
    .close = null_close,
    .preadv = null_preadv,
    .pwritev = null_pwritev,
    .pwrite_zeroes = null_pwrite_zeroes,
    .pdiscard = null_pdiscard,
    .flush = null_flush,
    .getlength = null_getlength,
    .block_status = null_block_status,
    .get_info = null_get_info,
};
