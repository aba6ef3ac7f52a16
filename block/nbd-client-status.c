/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Block status of the driver "nbd": from the status cache, and what that does not
 * know, from the server (BLOCK_STATUS). The server's answer is a probe (rule 3 of
 * status-cache.c): it was made when the question was on its way, and writes since
 * then taint it.
 *
 * Where zeroes are remembered, a question is about all that is unknown up to the
 * next long known part, and its answer has many extents. Where they are not, it is
 * about one extent (REQ_ONE): the next question would bring the same again.
 */
#include <errno.h>
#include <string.h>

#include "block/nbd-client-int.h"

/* What one question is about at most, bytes */
#define MAX_QUESTION (INT64_C(1) << 30)
/* Known parts within that are no longer, and so many at most */
#define MAX_ISLAND (INT64_C(1) << 20)
#define MAX_ISLANDS 32

/* Ask the server about [@offset, @offset + @bytes), for as many extents as @req has
 * room for. */
static int ask(NbdClient *s, int64_t offset, int64_t bytes, NbdRequest *req)
{
    int ret;

    *req = (NbdRequest){
        .command = NBD_COMMAND_STATUS,
        .offset = offset,
        .bytes = bytes,
        .flags = req->max_extents == 1 ? LIBNBD_CMD_FLAG_REQ_ONE : 0,
        .extents = req->extents,
        .max_extents = req->max_extents,
    };
    ret = nbd_conn_run(s->conn, req);
    /* A reply that tells nothing is none. */
    return ret == 0 && (req->n_extents == 0 || req->extents[0] == 0) ? -EIO
                                                                     : ret;
}

/* Where the question ends that begins at @offset, about which nothing is known */
static int64_t question_end(NbdClient *s, int64_t offset)
{
    int64_t stop = MIN(offset + MAX_QUESTION, s->conn->info.size);
    int64_t end = offset, n;
    int islands = 0;

    while (offset < stop) {
        if (status_cache_peek(s->cache, offset, stop - offset, &n) ==
            BLOCK_STATE_UNKNOWN) {
            end = offset + n;
        } else if (n > MAX_ISLAND || ++islands > MAX_ISLANDS) {
            break;
        }
        offset += n;
    }
    return end;
}

/* Tell the cache what the server has said, and see what may be said of @asked. */
static BlockState take_extents(NbdClient *s, StatusOp *op,
                               const NbdRequest *req, int64_t asked,
                               int64_t *pnum)
{
    int64_t offset = req->offset, end = req->offset + req->bytes;
    BlockState state = BLOCK_STATE_DATA;
    size_t i;

    *pnum = 1;
    for (i = 0; i < req->n_extents && offset < end; i++) {
        int64_t n = MIN(req->extents[2 * i], end - offset);
        bool zero = req->extents[2 * i + 1] & LIBNBD_STATE_ZERO;
        BlockState seen = zero ? BLOCK_STATE_ZERO : BLOCK_STATE_DATA;
        int64_t start = offset;

        offset += n;
        if (start <= asked && asked < offset) {
            /* in two, so that the answer begins where it was asked for */
            if (start < asked) {
                status_cache_probe_fill(s->cache, op, start, asked - start,
                                        seen, pnum);
            }
            state = status_cache_probe_fill(s->cache, op, asked, offset - asked,
                                            seen, pnum);
        } else if (n > 0) {
            int64_t ignored;

            status_cache_probe_fill(s->cache, op, start, n, seen, &ignored);
        }
    }
    return state;
}

/* BlockState or -errno */
static int query_server(NbdClient *s, int64_t asked, int64_t bytes,
                        int64_t *pnum)
{
    bool on = status_cache_get_mode(s->cache) == STATUS_CACHE_ON;
    size_t max = on ? NBD_CLIENT_EXTENTS : 1;
    g_autofree uint32_t *extents = g_new(uint32_t, 2 * max);
    NbdRequest req = { .extents = extents, .max_extents = max };
    StatusCacheStats delta = { .probes = 1 };
    int64_t align = status_cache_granularity(s->cache);
    int64_t start = on ? asked - asked % align : asked;
    int64_t end = on ? MAX(question_end(s, asked), asked + 1) : asked + bytes;
    StatusOp op;
    int ret;

    end = MIN(end + (align - end % align) % align, s->conn->info.size);
    delta.probe_wall_ns = g_get_monotonic_time();
    status_cache_probe_begin(s->cache, &op, start, end - start);
    ret = ask(s, start, end - start, &req);
    if (ret == 0) {
        ret = take_extents(s, &op, &req, asked, pnum);
    }
    status_cache_probe_end(s->cache, &op);
    delta.probe_wall_ns = (g_get_monotonic_time() - delta.probe_wall_ns) * 1000;
    delta.probe_wall_max_ns = delta.probe_wall_ns;
    delta.extents = delta.max_extents = req.n_extents;
    delta.probe_errors = ret < 0;
    status_cache_account_probe(s->cache, &delta);
    return ret;
}

/*
 * What another context says is none of block status, and is shown as in QEMU: not
 * as data where bit 0 is set. But never as zero.
 */
static int other_context(NbdClient *s, int64_t offset, int64_t bytes,
                         int64_t *pnum)
{
    uint32_t extent[2] = { 0 };
    NbdRequest req = { .extents = extent, .max_extents = 1 };
    int ret = ask(s, offset, bytes, &req);

    if (ret < 0) {
        return ret;
    }
    *pnum = MIN(extent[0], bytes);
    return extent[1] & LIBNBD_STATE_HOLE ? BDRV_BLOCK_ALLOCATED
                                         : BDRV_BLOCK_DATA;
}

int nbd_client_block_status(BlockDriverState *bs, unsigned want, int64_t offset,
                            int64_t bytes, int64_t *pnum, int64_t *map,
                            BlockDriverState **file)
{
    NbdClient *s = bs->opaque;
    int flags = BDRV_BLOCK_OFFSET_VALID;
    int state;

    bytes = MIN(bytes, MAX_QUESTION);
    *map = offset;
    *file = bs;
    if (want & BDRV_WANT_READ) {
        return flags | (status_read_cut(&s->reader, offset, bytes, pnum)
                            ? BDRV_BLOCK_ZERO
                            : BDRV_BLOCK_DATA);
    }
    *pnum = bytes;
    if (!s->conn->info.status) {
        return flags | BDRV_BLOCK_DATA;
    }
    if (s->other_context) {
        state = want & BDRV_WANT_KNOWN ? BDRV_BLOCK_DATA
                                       : other_context(s, offset, bytes, pnum);
        return state < 0 ? state : flags | state;
    }
    if (!(want & BDRV_WANT_ZERO)) {
        return flags | BDRV_BLOCK_DATA;
    }
    state = want & BDRV_WANT_KNOWN
                ? status_cache_peek(s->cache, offset, bytes, pnum)
                : status_cache_lookup(s->cache, offset, bytes, pnum);
    if (state == BLOCK_STATE_UNKNOWN) {
        flags |= BDRV_BLOCK_PROBED;
        state = want & BDRV_WANT_KNOWN ? BLOCK_STATE_DATA
                                       : query_server(s, offset, bytes, pnum);
    }
    if (state < 0) {
        return state;
    }
    state = status_align_answer(bs, state, offset, s->conn->info.size, pnum);
    return flags |
           (state == BLOCK_STATE_ZERO ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA);
}
