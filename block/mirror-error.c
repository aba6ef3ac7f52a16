/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a mirror job does about requests that fail, by its two policies: one for
 * reads of the source, one for writes to the target and its flushes.
 *
 * What failed is dirty again (rule 3 in mirror-copy.c) and is copied again when
 * its turn comes. Until that has succeeded it is remembered: the job does not
 * get READY, however few bytes are left, and its guests are not stopped for a
 * rest that cannot be copied.
 *
 * Who stops has nothing new picked until the coordinator has seen to the pause;
 * what is in flight ends as it may. Who ignores picks nothing for a while, so
 * that a dead disk is asked a few times a second and not as fast as it can say
 * no. If it happens with the source drained the drain is given back first.
 *
 * A block status that fails is no error: reading tells if it matters.
 */
#include "block/mirror-int.h"

static JobErrorAction act(MirrorJob *s, bool is_read, int ret)
{
    return job_error_action(s->job,
                            is_read ? s->on_source_error : s->on_target_error,
                            is_read, ret);
}

void mirror_op_failed(MirrorJob *s, const MirrorOp *op, bool is_read, int ret)
{
    int64_t first = op->offset / s->granularity;
    int64_t last = mirror_granules(s, op->offset + op->bytes);

    sparse_bitmap_set(s->failed, first, last - first);
    if (s->ret < 0) {
        return;
    }
    switch (act(s, is_read, ret)) {
    case JOB_ERROR_REPORT:
        s->ret = ret;
        g_atomic_int_set(&s->active, 0);
        break;
    case JOB_ERROR_STOP:
        s->stopped = true;
        s->hold = true;
        break;
    case JOB_ERROR_IGNORE:
        s->pick_us = g_get_monotonic_time() + mirror_limits.error_wait;
        s->hold = s->hold || s->drained;
        break;
    }
}

void mirror_op_succeeded(MirrorJob *s, const MirrorOp *op)
{
    int64_t first = op->offset / s->granularity;
    int64_t last = mirror_granules(s, op->offset + op->bytes);

    if (mirror_has_failed(s)) {
        sparse_bitmap_clear(s->failed, first, last - first);
    }
}

bool mirror_has_failed(MirrorJob *s)
{
    return sparse_bitmap_count(s->failed) > 0;
}

int mirror_flush_target(MirrorJob *s)
{
    int ret = blk_flush(s->target);

    if (ret < 0 && act(s, false, ret) != JOB_ERROR_REPORT) {
        return JOB_AGAIN;
    }
    return ret;
}
