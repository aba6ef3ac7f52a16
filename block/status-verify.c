/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The job "status-cache-verify" reads from the disk what its status cache calls
 * zero, from the beginning to the end, one request at a time. It is a user of the
 * node that has the cache, who needs nothing that others could refuse and refuses
 * nothing: guests and other jobs go on, the disk may be resized, reopened, moved to
 * another place of the graph.
 *
 * A request is inside the gate from before it chooses its range until the cache has
 * been told what was there, so that it is the same cache, and the same disk. What
 * guests do to that range meanwhile taints it (rule 11 of status-cache.c).
 *
 * What it reads is not left in the page cache: of what is known to be zero nobody
 * needs the pages, and of a part that is preallocated a probe could not tell any more
 * that it is zero, as long as they are there.
 *
 * At the first lie the cache is distrusted, and so there is nothing left that it
 * calls zero: the job tells all lies of that request and fails.
 */
#include "block/status-verify.h"

#include <inttypes.h>
#include <stdlib.h>

#include "block/block-int.h"
#include "monitor/qmp.h"
#include "util/error.h"
#include "util/iov.h"
#include "util/trace.h"

#define MAX_BYTES (INT64_C(1) << 20) /* of a request */
#define MIN_BYTES (INT64_C(4) << 10)
#define MAX_RANGES 64 /* of a request that are told, one event each */
/* Requests are no longer than this part of a second takes by the speed. */
#define SPEED_SLICES 10

typedef struct VerifyJob {
    Job *job;
    BlockBackend *blk;
    BlockDriverState *bs; /* that has the cache */
    void *buf;            /* MAX_BYTES */
    int64_t pos;          /* all before that is done */
    uint64_t left;        /* called zero from pos on, when last looked at */
} VerifyJob;

/* One range on its way */
typedef struct Piece {
    int64_t start, bytes;
    int64_t read; /* bytes of it; 0: it failed */
    int n_found, n_lies;
    StatusCut found[MAX_RANGES], lies[MAX_RANGES];
} Piece;

/* ---- what was found ----------------------------------------------------- */

/* Blocks that are not all zero, joined where they touch. What comes after the last
 * that there is room for counts as not read: it is the next request's, unless there
 * was a lie. */
static void look(VerifyJob *s, Piece *p, int64_t block)
{
    const uint8_t *buf = s->buf;
    int64_t end = p->start + p->bytes;
    int64_t pos, next;

    for (pos = p->start; pos < end; pos = next) {
        StatusCut *last = p->n_found ? &p->found[p->n_found - 1] : NULL;

        next = MIN(pos - pos % block + block, end);
        if (buffer_is_zero(buf + (pos - p->start), next - pos)) {
            continue;
        }
        if (last && last->end == pos) {
            last->end = next;
        } else if (p->n_found < MAX_RANGES) {
            p->found[p->n_found++] = (StatusCut){ pos, next };
        } else {
            break;
        }
    }
    p->read = pos - p->start;
}

static void tell(VerifyJob *s, const StatusCut *lie)
{
    const char *name = bdrv_node_name(s->bs);
    int64_t bytes = lie->end - lie->start;
    JsonObject *data = json_object_new();

    trace_status_mismatch(name, lie->start, bytes);
    json_object_set_string_member(data, "node-name", name);
    json_object_set_string_member(data, "job-id", job_id(s->job));
    json_object_set_int_member(data, "offset", lie->start);
    json_object_set_int_member(data, "length", bytes);
    qmp_event_send("BLOCK_STATUS_CACHE_MISMATCH", data);
}

static int fail_with_lies(VerifyJob *s, const Piece *p)
{
    int64_t bytes = 0;
    int i;

    for (i = 0; i < p->n_lies; i++) {
        tell(s, &p->lies[i]);
        bytes += p->lies[i].end - p->lies[i].start;
    }
    job_set_error(s->job, -EIO,
                  "Node '%s' has data where its status cache knew zeroes: "
                  "%" PRId64 " bytes at offset %" PRId64 ", at least %" PRId64
                  " bytes in all; the cache is not believed any more",
                  bdrv_node_name(s->bs), p->lies[0].end - p->lies[0].start,
                  p->lies[0].start, bytes);
    return -EIO;
}

/* A read that failed because the disk has become shorter has not failed. */
static int read_failed(VerifyJob *s, const Piece *p, int ret)
{
    int64_t length = bdrv_getlength(s->bs);

    if (length >= 0 && p->start + p->bytes > length) {
        return 0;
    }
    job_error_action(s->job, JOB_ON_ERROR_REPORT, true, ret);
    job_set_error(s->job, ret,
                  "Could not read %" PRId64 " bytes from offset %" PRId64
                  " on of node '%s': %s",
                  p->bytes, p->start, bdrv_node_name(s->bs), g_strerror(-ret));
    return ret;
}

/* ---- the work ----------------------------------------------------------- */

static int64_t max_bytes(VerifyJob *s)
{
    int64_t speed = job_speed(s->job);

    return speed > 0 ? CLAMP(speed / SPEED_SLICES, MIN_BYTES, MAX_BYTES)
                     : MAX_BYTES;
}

/* What has ceased to be zero counts as done. */
static void show_progress(VerifyJob *s, StatusCache *cache)
{
    uint64_t left = status_cache_zeroes_left(cache, s->pos);

    if (left < s->left) {
        job_progress_update(s->job, s->left - left);
    }
    job_progress_set_remaining(s->job, left);
    s->left = left;
}

/* Nothing is left: because another job has found a lie? */
static int check_trust(VerifyJob *s, StatusCache *cache)
{
    if (!status_cache_is_distrusted(cache)) {
        return 0;
    }
    job_set_error(s->job, -EIO,
                  "Another job found data on node '%s' where its status cache "
                  "knew zeroes",
                  bdrv_node_name(s->bs));
    return -EIO;
}

/* One request, inside the gate: 1, 0 if there is nothing left, or -errno */
static int verify_next(VerifyJob *s)
{
    g_autoptr(StatusCache) cache = bdrv_get_status_cache(s->bs);
    struct iovec iov = { .iov_base = s->buf };
    Piece p = { 0 };
    StatusOp op;
    int ret;

    if (!status_cache_verify_begin(cache, &op, s->pos, max_bytes(s), &p.start,
                                   &p.bytes)) {
        ret = check_trust(s, cache);
        if (ret == 0) {
            show_progress(s, cache);
        }
        return ret;
    }
    job_ratelimit_charge(s->job, p.bytes);
    iov.iov_len = p.bytes;
    ret = bdrv_preadv(s->bs, p.start, p.bytes, &iov, 1,
                      BDRV_REQ_CUT | BDRV_REQ_ONCE);
    if (ret == 0) {
        look(s, &p, status_cache_granularity(cache));
    }
    p.n_lies = status_cache_verify_end(cache, &op, p.read, p.found, p.n_found,
                                       p.lies, MAX_RANGES);
    s->pos = p.start + (ret == 0 ? p.read : p.bytes);
    if (ret < 0) {
        ret = read_failed(s, &p, ret);
    } else if (p.n_lies > 0) {
        ret = fail_with_lies(s, &p);
    }
    if (ret < 0) {
        return ret; /* and it is seen that this was not done */
    }
    show_progress(s, cache);
    return 1;
}

static int verify_run(Job *job)
{
    VerifyJob *s = job_opaque(job);
    int ret = 1;

    while (ret > 0) {
        int64_t delay = job_ratelimit_delay(job);

        if (job_is_cancelled(job)) {
            return -ECANCELED;
        }
        if (job_wants_pause(job)) {
            job_pause_point(job);
        } else if (delay > 0) {
            job_wait(job, g_get_monotonic_time() + delay);
        } else if ((ret = blk_enter(s->blk)) == 0) {
            job_set_busy(job, true);
            ret = verify_next(s);
            job_set_busy(job, false);
            blk_leave(s->blk);
            if (ret == 0) {
                return 0;
            }
        }
    }
    return ret;
}

static void verify_clean(Job *job)
{
    VerifyJob *s = job_opaque(job);

    blk_free(s->blk);
    if (s->bs) {
        bdrv_unref(s->bs);
    }
    free(s->buf);
}

static const JobDriver verify_job_driver = {
    .type = "status-cache-verify",
    .instance_size = sizeof(VerifyJob),
    .block_job = true,
    .run = verify_run,
    .clean = verify_clean,
};

/* ---- the start ---------------------------------------------------------- */

/* The node whose own cache answers for @bs; NULL and @errp if there is none, or it
 * is not to be believed anyway */
static BlockDriverState *find_owner(BlockDriverState *bs, GError **errp)
{
    g_autoptr(StatusCache) cache = bdrv_get_status_cache(bs);

    if (!cache) {
        error_setg(errp, "Node '%s' has no status cache", bdrv_node_name(bs));
        return NULL;
    }
    while (!bs->drv->get_status_cache) {
        bs = bs->file->bs;
    }
    if (status_cache_is_distrusted(cache)) {
        error_setg(
            errp,
            "Node '%s' had data where its status cache knew zeroes: there "
            "are no zeroes to verify any more",
            bdrv_node_name(bs));
        return NULL;
    }
    return bs;
}

static bool set_up(VerifyJob *s, BlockDriverState *bs, GError **errp)
{
    g_autofree char *user = g_strdup_printf("job '%s'", job_id(s->job));
    g_autoptr(StatusCache) cache = bdrv_get_status_cache(bs);

    s->bs = bdrv_ref(bs);
    s->blk = blk_new(user, true, 0, BLK_PERM_ALL);
    if (!blk_attach(s->blk, bs, errp)) {
        return false;
    }
    job_add_blk(s->job, s->blk);
    if (posix_memalign(&s->buf, MAX(blk_mem_alignment(s->blk), 4096),
                       MAX_BYTES)) {
        error_setg_errno(errp, ENOMEM, "Could not allocate a buffer");
        return false;
    }
    s->left = status_cache_zeroes_left(cache, 0);
    job_progress_set_remaining(s->job, s->left);
    return true;
}

bool status_verify_start(const char *node_name, const JobOptions *options,
                         GError **errp)
{
    BlockDriverState *bs = bdrv_find_node(node_name, errp);
    BlockDriverState *owner = bs ? find_owner(bs, errp) : NULL;
    Job *job = NULL;

    if (owner && options->speed < 0) {
        error_setg(errp, "Parameter 'speed' expects a non-negative value");
    } else if (owner) {
        job = job_create(&verify_job_driver, options, errp);
    }
    if (job) {
        VerifyJob *s = job_opaque(job);

        s->job = job;
        if (set_up(s, owner, errp)) {
            job_start(job);
        } else {
            job_abandon(job);
            job = NULL;
        }
    }
    if (bs) {
        bdrv_unref(bs);
    }
    return job != NULL;
}
