/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "copy-target.h"

#include <errno.h>

/* So many answers about a target that may be fresh, and after them only those
 * that tell of zeroes as far as one can, for so long */
#define MAX_ANSWERS 64
#define LEARN_US (50 * 1000)

int64_t copy_target_cluster(BlockDriverState *bs)
{
    g_autoptr(JsonObject) image = json_object_new();

    while ((bs->drv->kind == BLOCK_DRIVER_FILTER || bs->drv->transparent) &&
           bs->file) {
        bs = bs->file->bs;
    }
    if (bs->drv->get_info) {
        bs->drv->get_info(bs, image);
    }
    return json_object_get_int_member_with_default(image, "cluster-size", 0);
}

int copy_target_write(BlockDriverState *bs, int64_t offset,
                      const struct iovec *iov, bool compress, bool again)
{
    if (compress) {
        int ret = bdrv_pwritev(bs, offset, iov->iov_len, iov, 1,
                               BDRV_REQ_WRITE_COMPRESSED);

        if (ret != -EIO || !again) {
            return ret;
        }
    }
    return bdrv_pwritev(bs, offset, iov->iov_len, iov, 1, 0);
}

void target_zero_init(TargetZero *z, int64_t length, int64_t granularity)
{
    *z = (TargetZero){ .length = length, .granularity = granularity };
    z->bits = sparse_bitmap_new(target_zero_granules(z, length));
}

void target_zero_destroy(TargetZero *z)
{
    g_clear_pointer(&z->bits, sparse_bitmap_free);
}

int64_t target_zero_granules(const TargetZero *z, int64_t bytes)
{
    return bytes / z->granularity + (bytes % z->granularity != 0);
}

void target_zero_set(TargetZero *z, int64_t offset, int64_t bytes)
{
    int64_t end = offset + bytes;
    int64_t first = target_zero_granules(z, offset);
    int64_t last =
        end == z->length ? target_zero_granules(z, end) : end / z->granularity;

    if (first < last) {
        sparse_bitmap_set(z->bits, first, last - first);
    }
}

void target_zero_clear(TargetZero *z, int64_t offset, int64_t bytes)
{
    int64_t first = offset / z->granularity;

    sparse_bitmap_clear(z->bits, first,
                        target_zero_granules(z, offset + bytes) - first);
}

bool target_zero_test(const TargetZero *z, int64_t offset, int64_t bytes,
                      int64_t *pnum)
{
    uint64_t first = offset / z->granularity;
    uint64_t end = target_zero_granules(z, offset + bytes);
    bool value;

    end = sparse_bitmap_next_change(z->bits, first, end, &value);
    *pnum = MIN((int64_t)end * z->granularity, offset + bytes) - offset;
    return value;
}

bool target_zero_is_its_own(BlockDriverState *bs)
{
    while (bs) {
        if (bs->backing || bs->names_backing) {
            return false;
        }
        bs = bs->file ? bs->file->bs : NULL;
    }
    return true;
}

void target_zero_learn(const TargetZeroLearner *learner, int64_t length)
{
    int64_t until_us = g_get_monotonic_time() + LEARN_US;
    int64_t offset = 0;
    bool go_on = true;
    int answers;

    for (answers = 1; offset < length && go_on; answers++) {
        int64_t most = MIN(length - offset, BDRV_REQUEST_MAX_BYTES);
        int64_t pnum = 0;
        int ret = learner->ask(learner->opaque, offset, most, &pnum);

        if (ret < 0 || pnum <= 0) {
            return;
        }
        if (ret & BDRV_BLOCK_ZERO) {
            learner->found(learner->opaque, offset, pnum);
        }
        offset += pnum;
        go_on =
            answers < MAX_ANSWERS || ((ret & BDRV_BLOCK_ZERO) && pnum >= most &&
                                      g_get_monotonic_time() < until_us);
    }
}
