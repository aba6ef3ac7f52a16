/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * BLOCK_STATUS: for each context that is asked for, one chunk with the extents
 * from the start of the request on. There are as many as fit into a buffer of
 * modest size; a client that wants more asks again from where they end.
 *
 * The work is bounded by the request, not by the reply: extents that are alike
 * become one. So it is given up when the client has gone.
 */
#include "block/export/nbd-int.h"

#include <errno.h>
#include <string.h>

/* The flags of @context at @offset, and how far; or a negative errno */
static int64_t status_at(NbdConn *conn, unsigned context, uint64_t offset,
                         uint64_t bytes, int64_t *pnum)
{
    BlockBackend *blk = conn->exp->common.blk;
    int ret;

    if (context >= NBD_CONTEXT_BITMAPS) {
        const NbdBitmap *b = &conn->exp->bitmaps[context - NBD_CONTEXT_BITMAPS];

        return bdrv_dirty_bitmap_status(b->bitmap, offset, bytes, pnum)
                   ? NBD_STATE_DIRTY
                   : 0;
    }
    if (context == NBD_CONTEXT_DEPTH) {
        return blk_allocation_depth(blk, offset, bytes, pnum);
    }
    ret = blk_block_status(blk, offset, bytes, BDRV_WANT_ZERO, pnum);
    if (ret < 0) {
        return ret;
    }
    return (ret & BDRV_BLOCK_DATA ? 0 : NBD_STATE_HOLE) |
           (ret & BDRV_BLOCK_ZERO ? NBD_STATE_ZERO : 0);
}

/*
 * Extents of @context from the start of the request on, at most @max: as many
 * as it has, or as could be found out. Returns their number, or a negative
 * errno if that is none.
 */
static int collect_extents(NbdThread *t, unsigned context,
                           NbdExtendedExtent *extents, int max)
{
    uint64_t offset = t->req.offset, left = t->req.length;
    int64_t flags, pnum;
    int n = 0;

    while (left > 0 && !nbd_conn_hung_up(t->conn)) {
        pnum = 0;
        flags = status_at(t->conn, context, offset, left, &pnum);
        if (flags < 0 || pnum <= 0) {
            if (n == 0) {
                return flags < 0 ? flags : -EIO;
            }
            break;
        }
        if (n > 0 && extents[n - 1].flags == (uint64_t)flags) {
            extents[n - 1].length += pnum;
        } else if (n < max) {
            extents[n++] =
                (NbdExtendedExtent){ .length = pnum, .flags = flags };
        } else {
            break;
        }
        offset += pnum;
        left -= pnum;
    }
    return n > 0 ? n : -ESHUTDOWN;
}

static bool reply_extended(NbdThread *t, unsigned context, bool done,
                           NbdExtendedExtent *extents, int n)
{
    NbdExtendedStatusFields fields = { .context = GUINT32_TO_BE(context),
                                       .count = GUINT32_TO_BE(n) };

    for (int i = 0; i < n; i++) {
        extents[i].length = GUINT64_TO_BE(extents[i].length);
        extents[i].flags = GUINT64_TO_BE(extents[i].flags);
    }
    return nbd_reply_chunk(t, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, done, &fields,
                           sizeof(fields), extents, n * sizeof(*extents));
}

/* The request's length has 32 bits, and so has each extent's. */
static bool reply_compact(NbdThread *t, unsigned context, bool done,
                          const NbdExtendedExtent *extents, int n)
{
    NbdStatusFields fields = { .context = GUINT32_TO_BE(context) };

    for (int i = 0; i < n; i++) {
        NbdExtent extent = { .length = GUINT32_TO_BE(extents[i].length),
                             .flags = GUINT32_TO_BE(extents[i].flags) };

        /* in place, as it is the shorter one */
        memcpy(t->data + i * sizeof(extent), &extent, sizeof(extent));
    }
    return nbd_reply_chunk(t, NBD_REPLY_TYPE_BLOCK_STATUS, done, &fields,
                           sizeof(fields), t->data, n * sizeof(NbdExtent));
}

void nbd_status_run(NbdThread *t)
{
    NbdRequest *req = &t->req;
    int max = nbd_buffer_want(t, 2 * nbd_limits.small_buffer) /
              sizeof(NbdExtendedExtent);
    NbdExtendedExtent *extents = (NbdExtendedExtent *)t->data;
    NbdContexts left = req->contexts;

    if (req->flags & NBD_CMD_FLAG_REQ_ONE) {
        max = 1;
    }
    for (unsigned i = 0; left; i++) {
        bool sent;
        int n;

        if (!(left & NBD_CONTEXT_BIT(i))) {
            continue;
        }
        left &= ~NBD_CONTEXT_BIT(i);
        n = collect_extents(t, i, extents, max);
        if (n < 0) {
            nbd_reply_error(t, n, NULL);
            return;
        }
        sent = t->conn->extended ? reply_extended(t, i, left == 0, extents, n)
                                 : reply_compact(t, i, left == 0, extents, n);
        if (!sent) {
            return;
        }
    }
}
