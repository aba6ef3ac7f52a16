/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-replies.h"

#include "block/export/nbd-protocol.h"

#define MAX_CONTEXTS 16

/* What has come of one reply */
typedef struct Reply {
    bool done, failed;
    uint64_t data; /* READ: bytes that came */
    unsigned contexts;
} Reply;

static uint64_t take(FuzzInput *in, size_t bytes)
{
    fuzz_assert(in->left >= bytes, "%zu of %zu bytes", in->left, bytes);
    return fuzz_number(in, bytes);
}

static FuzzInput take_part(FuzzInput *in, uint64_t bytes)
{
    FuzzInput part = { in->data, bytes };

    fuzz_assert(in->left >= bytes, "%zu of %zu bytes", in->left, (size_t)bytes);
    in->data += bytes;
    in->left -= bytes;
    return part;
}

static void check_handshake(FuzzInput *in)
{
    uint32_t option, type;

    fuzz_assert(take(in, 8) == NBD_INIT_MAGIC);
    fuzz_assert(take(in, 8) == NBD_OPTION_MAGIC);
    take(in, 2);
    do {
        fuzz_assert(take(in, 8) == NBD_REP_MAGIC);
        option = take(in, 4);
        type = take(in, 4);
        take_part(in, take(in, 4));
    } while (option != NBD_OPT_GO || type != NBD_REP_ACK);
}

/* ---- chunks ---------------------------------------------------------------- */

static void check_data(Reply *r, const NbdSent *sent, FuzzInput in, bool hole)
{
    uint64_t offset = take(&in, 8);
    uint64_t bytes = hole ? take(&in, 4) : in.left;

    fuzz_assert(sent->type == NBD_CMD_READ && bytes > 0);
    fuzz_assert(!hole || in.left == 0);
    fuzz_assert(offset >= sent->offset &&
                offset - sent->offset <= sent->length &&
                bytes <= sent->length - (offset - sent->offset));
    r->data += bytes;
}

static void check_status(Reply *r, const NbdSent *sent, FuzzInput in,
                         bool extended)
{
    size_t width = extended ? 8 : 4;
    uint64_t all = 0, n = 0, count;

    fuzz_assert(sent->type == NBD_CMD_BLOCK_STATUS);
    take(&in, 4);
    count = extended ? take(&in, 4) : in.left / 8;
    while (in.left > 0) {
        uint64_t length = take(&in, width);

        take(&in, width);
        fuzz_assert(length > 0);
        all += length;
        n++;
    }
    fuzz_assert(n == count && n > 0);
    fuzz_assert(!(sent->flags & NBD_CMD_FLAG_REQ_ONE) || n == 1);
    /* With a payload the length is that. */
    fuzz_assert(sent->flags & NBD_CMD_FLAG_PAYLOAD_LEN || all <= sent->length);
    r->contexts++;
}

static void check_error(Reply *r, FuzzInput in)
{
    fuzz_assert(take(&in, 4) != 0);
    fuzz_assert(take(&in, 2) == in.left);
    r->failed = true;
}

static void check_chunk(const NbdTalk *talk, Reply *r, const NbdSent *sent,
                        uint16_t type, FuzzInput in)
{
    switch (type) {
    case NBD_REPLY_TYPE_NONE:
        fuzz_assert(in.left == 0 && r->done);
        break;
    case NBD_REPLY_TYPE_OFFSET_DATA:
    case NBD_REPLY_TYPE_OFFSET_HOLE:
        check_data(r, sent, in, type == NBD_REPLY_TYPE_OFFSET_HOLE);
        break;
    case NBD_REPLY_TYPE_BLOCK_STATUS:
    case NBD_REPLY_TYPE_BLOCK_STATUS_EXT:
        fuzz_assert(talk->extended ==
                    (type == NBD_REPLY_TYPE_BLOCK_STATUS_EXT));
        check_status(r, sent, in, talk->extended);
        break;
    default:
        fuzz_assert(type == NBD_REPLY_TYPE_ERROR, "%#x", type);
        check_error(r, in);
        break;
    }
}

static void check_whole(const NbdTalk *talk, const Reply *r,
                        const NbdSent *sent)
{
    if (r->failed) {
        return;
    }
    fuzz_assert(sent->type != NBD_CMD_READ || r->data == sent->length);
    fuzz_assert(sent->type != NBD_CMD_BLOCK_STATUS ||
                (r->contexts > 0 && r->contexts <= talk->n_contexts));
}

/* ---------------------------------------------------------------------------- */

static void check_reply(const NbdTalk *talk, Reply *replies, FuzzInput *in)
{
    uint32_t magic = take(in, 4), error = 0;
    bool simple = magic == NBD_SIMPLE_REPLY_MAGIC;
    uint16_t flags = NBD_REPLY_FLAG_DONE, type = 0;
    const NbdSent *sent;
    uint64_t cookie;
    Reply *r;

    fuzz_assert(simple ||
                magic == (talk->extended ? NBD_EXTENDED_REPLY_MAGIC
                                         : NBD_STRUCTURED_REPLY_MAGIC));
    fuzz_assert(!simple || !talk->extended);
    fuzz_assert(simple || talk->structured || talk->extended);
    if (simple) {
        error = take(in, 4);
    } else {
        flags = take(in, 2);
        type = take(in, 2);
    }
    cookie = take(in, 8);
    fuzz_assert(cookie < talk->n_sent);
    sent = &talk->sent[cookie];
    r = &replies[cookie];
    fuzz_assert(!r->done);
    r->done = flags & NBD_REPLY_FLAG_DONE;
    if (simple) {
        fuzz_assert(sent->type != NBD_CMD_READ || !talk->structured);
        r->failed = error;
        if (sent->type == NBD_CMD_READ && !error) {
            take_part(in, sent->length);
            r->data = sent->length;
        }
    } else {
        fuzz_assert(!talk->extended || take(in, 8) == sent->offset);
        check_chunk(talk, r, sent, type,
                    take_part(in, take(in, talk->extended ? 8 : 4)));
    }
    if (r->done) {
        check_whole(talk, r, sent);
    }
}

void nbd_replies_check(const NbdTalk *talk, const uint8_t *bytes, size_t size)
{
    g_autofree Reply *replies = g_new0(Reply, talk->n_sent + 1);
    FuzzInput in = { bytes, size };
    unsigned i;

    check_handshake(&in);
    while (in.left > 0) {
        check_reply(talk, replies, &in);
    }
    for (i = 0; i < talk->n_sent; i++) {
        fuzz_assert(replies[i].done, "no reply to request %u, type %d", i,
                    talk->sent[i].type);
    }
}
