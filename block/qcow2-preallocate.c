/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: clusters for parts of the disk that nobody has written to yet.
 *
 * They read as what the file has there: zeroes, which clusters that were used
 * before have to get first. The file is made long enough for all of them.
 */
#include <errno.h>

#include "block/qcow2-data-int.h"

static int zero_file(Qcow2State *s, uint64_t host, int64_t bytes)
{
    int64_t length = bdrv_child_getlength(s->bs->file);
    int64_t end = host + bytes;
    int64_t used;
    int ret = MIN(length, 0);

    used = CLAMP(length - (int64_t)host, 0, bytes);
    if (ret == 0 && used > 0) {
        ret = bdrv_pwrite_zeroes(s->bs->file->bs, host, used, 0);
    }
    if (ret == 0 && end > length) {
        ret = bdrv_pwritev(s->bs->file->bs, end - 1, 1,
                           &(struct iovec){ &(char){ 0 }, 1 }, 1, 0);
    }
    return ret;
}

/* From @offset, on a cluster's start, on; how many bytes, or -errno */
static int64_t preallocate_some(Qcow2State *s, int64_t offset, int64_t bytes)
{
    Qcow2Run run;
    int64_t n;
    int ret;

    mutex_lock(&s->lock);
    ret = qcow2_begin_run(s, &run, offset, offset + bytes);
    if (ret == 0 && run.bytes == 0) {
        Qcow2ClusterType type;
        uint64_t host;
        bool copied;

        ret = qcow2_lookup(s, offset, bytes, &type, &host, &n, &copied);
        mutex_unlock(&s->lock);
        return ret < 0 ? ret : n;
    }
    mutex_unlock(&s->lock);
    if (ret < 0) {
        return ret;
    }
    ret = zero_file(s, run.host, run.bytes);
    if (ret < 0) {
        qcow2_abandon_run(s, &run);
        return ret;
    }
    ret = qcow2_link_run(s, &run);
    return ret < 0 ? ret : run.to - run.from;
}

/* Runs are not too long for one request to the file. */
int qcow2_preallocate(Qcow2State *s, int64_t offset, int64_t bytes)
{
    int64_t end = offset + bytes;
    int64_t n = 0;

    offset -= qcow2_in_cluster(s, offset);
    while (n >= 0 && offset < end) {
        n = preallocate_some(s, offset,
                             MIN(end - offset, BDRV_REQUEST_MAX_BYTES));
        offset += n;
    }
    return MIN(n, 0);
}
