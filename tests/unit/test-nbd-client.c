/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver "nbd" and a server that answers when, and as, the test wants: requests
 * in flight, given up, sent again, and what is remembered of block status.
 */
#include <errno.h>
#include <string.h>

#include "fake-nbd.h"
#include "unit-main.h"

#define KIB 1024
#define MIB (KIB * KIB)
#define SIZE (16 * MIB)

static FakeNbd server;
static BlockBackend *blk;

static void start(const char *options)
{
    blk = fake_nbd_open(&server, options);
}

static void setup(void)
{
    nbd_client_times.first_pause = 10 * 1000;
    nbd_client_times.last_pause = 50 * 1000;
    fake_nbd_start(&server, SIZE);
}

static void teardown(void)
{
    fake_nbd_close(&server, blk);
    fake_nbd_stop(&server);
}

/* ---- requests that wait ------------------------------------------------- */

typedef struct Async {
    uint16_t type; /* NBD_CMD_ */
    int64_t offset, bytes;
    int flags;
    int ret;
    int done; /* atomic */
    int64_t pnum;
    uint8_t *buf;
    BlockBackend *blk;
    pthread_t thread;
} Async;

static void *run(void *opaque)
{
    Async *a = opaque;

    switch (a->type) {
    case NBD_CMD_READ:
        a->ret = blk_pread(a->blk, a->offset, a->bytes, a->buf, a->flags);
        break;
    case NBD_CMD_WRITE:
        a->ret = blk_pwrite(a->blk, a->offset, a->bytes, a->buf, a->flags);
        break;
    case NBD_CMD_WRITE_ZEROES:
        a->ret = blk_pwrite_zeroes(a->blk, a->offset, a->bytes, a->flags);
        break;
    case NBD_CMD_TRIM:
        a->ret = blk_pdiscard(a->blk, a->offset, a->bytes);
        break;
    case NBD_CMD_FLUSH:
        a->ret = blk_flush(a->blk);
        break;
    default:
        a->ret = blk_block_status(a->blk, a->offset, a->bytes, BDRV_WANT_ZERO,
                                  &a->pnum);
    }
    g_atomic_int_set(&a->done, 1);
    return NULL;
}

static Async *begin_on(BlockBackend *on, uint16_t type, int64_t offset,
                       int64_t bytes, int flags)
{
    Async *a = g_new0(Async, 1);

    *a = (Async){ .type = type,
                  .offset = offset,
                  .bytes = bytes,
                  .flags = flags,
                  .blk = on };
    /* A byte more: flushes have none. */
    a->buf = g_malloc(bytes + 1);
    memset(a->buf, 0x5a, bytes);
    ck_assert_int_eq(pthread_create(&a->thread, NULL, run, a), 0);
    return a;
}

static Async *begin(uint16_t type, int64_t offset, int64_t bytes)
{
    return begin_on(blk, type, offset, bytes, 0);
}

static int end(Async *a)
{
    int ret;

    ck_assert_int_eq(pthread_join(a->thread, NULL), 0);
    ret = a->ret;
    g_free(a->buf);
    g_free(a);
    return ret;
}

/* One from its beginning to its end, with that reply */
static int whole(uint16_t type, int64_t offset, int64_t bytes, uint32_t error)
{
    Async *a = begin(type, offset, bytes);
    FakeRequest req = fake_nbd_expect_request(&server, type, offset, bytes);

    fake_nbd_reply(&server, req.cookie, error);
    return end(a);
}

static StatusCacheMode mode(void)
{
    BlockDriverState *bs = bdrv_find_node("n", NULL);
    g_autoptr(StatusCache) cache = bdrv_get_status_cache(bs);

    bdrv_unref(bs);
    return status_cache_get_mode(cache);
}

static BlockState known(int64_t offset)
{
    BlockDriverState *bs = bdrv_find_node("n", NULL);
    g_autoptr(StatusCache) cache = bdrv_get_status_cache(bs);
    int64_t pnum;

    bdrv_unref(bs);
    return status_cache_peek(cache, offset, 1, &pnum);
}

/* The server goes, and comes again. */
static void reconnect(void)
{
    fake_nbd_hang_up(&server);
    fake_nbd_expect(&server);
    fake_nbd_connected(&server);
}

/* ---- in flight ---------------------------------------------------------- */

/* No more than 16, whoever waits */
START_TEST(test_in_flight)
{
    FakeRequest req[2 * NBD_CLIENT_REQUESTS];
    Async *a[2 * NBD_CLIENT_REQUESTS];
    int i;

    start("");
    for (i = 0; i < 2 * NBD_CLIENT_REQUESTS; i++) {
        a[i] = begin(NBD_CMD_WRITE, i * 4096, 4096);
    }
    for (i = 0; i < NBD_CLIENT_REQUESTS; i++) {
        req[i] = fake_nbd_request(&server);
    }
    ck_assert(fake_nbd_is_idle(&server));
    /* the last one first */
    for (i = NBD_CLIENT_REQUESTS; i-- > 0;) {
        fake_nbd_reply(&server, req[i].cookie, 0);
    }
    for (i = 0; i < NBD_CLIENT_REQUESTS; i++) {
        req[i] = fake_nbd_request(&server);
        fake_nbd_reply(&server, req[i].cookie, 0);
    }
    for (i = 0; i < 2 * NBD_CLIENT_REQUESTS; i++) {
        ck_assert_int_eq(end(a[i]), 0);
    }
}
END_TEST

/* Requests are as long as the server takes them. */
START_TEST(test_split)
{
    Async *a;
    int i;

    server.max_block = 64 * KIB;
    start("");
    a = begin(NBD_CMD_READ, 100, 128 * KIB);
    for (i = 0; i < 2; i++) {
        FakeRequest req = fake_nbd_expect_request(&server, NBD_CMD_READ,
                                                  100 + i * 64 * KIB, 64 * KIB);

        fake_nbd_reply_data(&server, &req, i + 1);
    }
    ck_assert_int_eq(pthread_join(a->thread, NULL), 0);
    ck_assert_int_eq(a->ret, 0);
    for (i = 0; i < a->bytes; i++) {
        ck_assert_uint_eq(a->buf[i], i < 64 * KIB ? 1 : 2);
    }
    g_free(a->buf);
    g_free(a);
}
END_TEST

/* What was sent is sent again, and what was not, for the first time. */
START_TEST(test_sent_again)
{
    FakeRequest req;
    Async *a, *b;

    start("'reconnect-delay':600");
    a = begin(NBD_CMD_WRITE, 0, 4096);
    fake_nbd_expect_request(&server, NBD_CMD_WRITE, 0, 4096);
    fake_nbd_hang_up(&server);
    b = begin(NBD_CMD_TRIM, MIB, 4096);
    fake_nbd_expect(&server);
    fake_nbd_connected(&server);
    /* in whatever order */
    req = fake_nbd_request(&server);
    fake_nbd_reply(&server, req.cookie, 0);
    req = fake_nbd_request(&server);
    fake_nbd_reply(&server, req.cookie, 0);
    ck_assert_int_eq(end(a), 0);
    ck_assert_int_eq(end(b), 0);
}
END_TEST

/* A server that goes down says so, and does not hang up. */
START_TEST(test_shutdown)
{
    Async *a;
    FakeRequest req;
    int old;

    start("'reconnect-delay':600");
    a = begin(NBD_CMD_WRITE, 0, 4096);
    req = fake_nbd_request(&server);
    old = server.fd;
    fake_nbd_reply(&server, req.cookie, NBD_ESHUTDOWN);
    fake_nbd_expect(&server);
    fake_nbd_connected(&server);
    req = fake_nbd_expect_request(&server, NBD_CMD_WRITE, 0, 4096);
    ck_assert_uint_eq(req.byte, 0x5a);
    fake_nbd_reply(&server, req.cookie, 0);
    ck_assert_int_eq(end(a), 0);
    close(old);
}
END_TEST

/* What a server dies of, each time, is not sent for ever. */
START_TEST(test_poison)
{
    Async *a;
    int64_t begin_us;
    int n = 0;

    start("'reconnect-delay':1");
    begin_us = g_get_monotonic_time();
    a = begin(NBD_CMD_WRITE, 0, 4096);
    while (!g_atomic_int_get(&a->done)) {
        if (!fake_nbd_is_idle(&server)) {
            fake_nbd_request(&server);
            reconnect();
            n++;
        }
    }
    ck_assert_int_eq(end(a), -EIO);
    ck_assert_int_gt(n, 1);
    ck_assert_int_ge(g_get_monotonic_time() - begin_us, G_USEC_PER_SEC);
}
END_TEST

/* Without a delay nothing is sent again, and nothing waits. */
START_TEST(test_no_delay)
{
    Async *a;

    start("");
    a = begin(NBD_CMD_WRITE, 0, 4096);
    fake_nbd_request(&server);
    fake_nbd_hang_up(&server);
    ck_assert_int_eq(end(a), -EIO);
    ck_assert_int_eq(end(begin(NBD_CMD_READ, 0, 512)), -EIO);
    fake_nbd_expect(&server);
    fake_nbd_connected(&server);
}
END_TEST

/* ---- given up ----------------------------------------------------------- */

/*
 * A request that is given up ends in time, though the server has it, and its buffer;
 * others get a connection that works.
 */
START_TEST(test_given_up)
{
    BlockBackend *other =
        blk_new("other", false, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    BlockDriverState *bs;
    FakeRequest req;
    Async *a, *b;
    int old;

    nbd_client_times.grace = 10 * 1000;
    start("'reconnect-delay':600");
    bdrv_graph_lock();
    bs = bdrv_find_node("n", NULL);
    ck_assert(blk_attach(other, bs, NULL));
    bdrv_unref(bs);
    bdrv_graph_unlock();
    a = begin_on(other, NBD_CMD_READ, 0, 4096, 0);
    fake_nbd_request(&server);
    b = begin(NBD_CMD_READ, MIB, 4096);
    fake_nbd_request(&server);
    old = server.fd;
    fake_nbd_expect(&server);
    blk_cancel_waits(other);
    ck_assert_int_eq(end(a), -ECANCELED);
    fake_nbd_connected(&server);
    req = fake_nbd_expect_request(&server, NBD_CMD_READ, MIB, 4096);
    fake_nbd_reply_data(&server, &req, 1);
    ck_assert_int_eq(end(b), 0);
    close(old);
    bdrv_graph_lock();
    blk_free(other);
    bdrv_graph_unlock();
}
END_TEST

/* A server that answers in time loses no connection by it. */
START_TEST(test_given_up_in_time)
{
    FakeRequest req;
    Async *a;

    nbd_client_times.grace = 60 * G_USEC_PER_SEC;
    start("");
    a = begin(NBD_CMD_READ, 0, 4096);
    req = fake_nbd_request(&server);
    blk_cancel_waits(blk);
    ck_assert(fake_nbd_is_idle(&server)); /* nor does it hang up */
    fake_nbd_reply_data(&server, &req, 1);
    ck_assert_int_eq(end(a), 0);
}
END_TEST

/* While there is no connection, they are given up at once. */
START_TEST(test_given_up_parked)
{
    Async *a;

    start("'reconnect-delay':600");
    fake_nbd_hang_up(&server);
    a = begin(NBD_CMD_READ, 0, 4096);
    blk_cancel_waits(blk);
    ck_assert_int_eq(end(a), -ECANCELED);
    fake_nbd_expect(&server);
    fake_nbd_connected(&server);
}
END_TEST

/* Who has no token gives up by himself: here, the node that is closed. */
START_TEST(test_patience)
{
    nbd_client_times.patience = 10 * 1000;
    start("");
    ck_assert_int_eq(whole(NBD_CMD_WRITE, 0, 4096, 0), 0);
    bdrv_graph_lock();
    blk_free(blk);
    bdrv_graph_unlock();
    /* the flush is not answered */
    bdrv_close_all();
    ck_assert_uint_eq(fake_nbd_request(&server).type, NBD_CMD_FLUSH);
    fake_nbd_stop(&server);
}
END_TEST

/* ---- another server ----------------------------------------------------- */

static void change_size(void)
{
    server.size += 512;
}

static void change_read_only(void)
{
    server.flags |= NBD_FLAG_READ_ONLY;
}

static void change_flush(void)
{
    server.flags &= ~NBD_FLAG_SEND_FLUSH;
}

static void change_max_block(void)
{
    server.max_block = 64 * KIB;
}

static void (*const changes[])(void) = {
    change_size,
    change_read_only,
    change_flush,
    change_max_block,
};

/* One that has another disk, or does less, is refused, for good. */
START_TEST(test_another)
{
    start("'reconnect-delay':600");
    changes[_i]();
    reconnect();
    ck_assert_int_eq(end(begin(NBD_CMD_READ, 0, 512)), -EIO);
    /* it was told the end */
    ck_assert_uint_eq(fake_nbd_request(&server).type, NBD_CMD_DISC);
    fake_nbd_hang_up(&server);
    ck_assert_int_eq(end(begin(NBD_CMD_READ, 0, 512)), -EIO);
}
END_TEST

/* ---- flushes ------------------------------------------------------------ */

START_TEST(test_fua)
{
    FakeRequest req;
    Async *a;

    if (_i == 1) {
        server.flags &= ~NBD_FLAG_SEND_FUA;
    }
    start("");
    a = begin_on(blk, NBD_CMD_WRITE, 0, 4096, BDRV_REQ_FUA);
    req = fake_nbd_expect_request(&server, NBD_CMD_WRITE, 0, 4096);
    ck_assert_uint_eq(req.flags, _i == 1 ? 0 : NBD_CMD_FLAG_FUA);
    fake_nbd_reply(&server, req.cookie, 0);
    if (_i == 1) {
        req = fake_nbd_expect_request(&server, NBD_CMD_FLUSH, 0, 0);
        fake_nbd_reply(&server, req.cookie, 0);
    }
    ck_assert_int_eq(end(a), 0);
}
END_TEST

/* Only what was written is flushed; and a write that ends after the flush began
 * is not. */
START_TEST(test_flush)
{
    FakeRequest write, flush;
    Async *a, *b;

    start("");
    ck_assert_int_eq(end(begin(NBD_CMD_FLUSH, 0, 0)), 0);
    ck_assert_int_eq(whole(NBD_CMD_WRITE, 0, 4096, 0), 0);
    /* one that fails proves nothing */
    ck_assert_int_eq(whole(NBD_CMD_FLUSH, 0, 0, NBD_EIO), -EIO);
    a = begin(NBD_CMD_WRITE, 0, 4096);
    write = fake_nbd_expect_request(&server, NBD_CMD_WRITE, 0, 4096);
    b = begin(NBD_CMD_FLUSH, 0, 0);
    flush = fake_nbd_expect_request(&server, NBD_CMD_FLUSH, 0, 0);
    fake_nbd_reply(&server, write.cookie, 0);
    ck_assert_int_eq(end(a), 0);
    fake_nbd_reply(&server, flush.cookie, 0);
    ck_assert_int_eq(end(b), 0);
    ck_assert_int_eq(whole(NBD_CMD_FLUSH, 0, 0, 0), 0);
    ck_assert_int_eq(end(begin(NBD_CMD_FLUSH, 0, 0)), 0);
}
END_TEST

/* ---- zeroes ------------------------------------------------------------- */

static void expect_zero_flags(int flags, uint16_t expected)
{
    Async *a = begin_on(blk, NBD_CMD_WRITE_ZEROES, 0, 4096, flags);
    FakeRequest req =
        fake_nbd_expect_request(&server, NBD_CMD_WRITE_ZEROES, 0, 4096);

    ck_assert_uint_eq(req.flags, expected);
    fake_nbd_reply(&server, req.cookie, 0);
    ck_assert_int_eq(end(a), 0);
}

START_TEST(test_zero_flags)
{
    start("");
    expect_zero_flags(0, NBD_CMD_FLAG_NO_HOLE);
    expect_zero_flags(BDRV_REQ_MAY_UNMAP, 0);
    expect_zero_flags(BDRV_REQ_NO_FALLBACK,
                      NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO);
    expect_zero_flags(BDRV_REQ_FUA, NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FUA);
}
END_TEST

/* A server that cannot: zeroes are written, but not in place of fast ones. */
START_TEST(test_no_zeroes)
{
    FakeRequest req;
    Async *a;

    server.flags &= ~NBD_FLAG_SEND_FAST_ZERO;
    if (_i == 1) {
        server.flags &= ~NBD_FLAG_SEND_WRITE_ZEROES;
    }
    start("");
    ck_assert_int_eq(
        end(begin_on(blk, NBD_CMD_WRITE_ZEROES, 0, 4096, BDRV_REQ_NO_FALLBACK)),
        -ENOTSUP);
    a = begin(NBD_CMD_WRITE_ZEROES, 0, 4096);
    if (_i == 0) {
        req = fake_nbd_expect_request(&server, NBD_CMD_WRITE_ZEROES, 0, 4096);
        fake_nbd_reply(&server, req.cookie, NBD_ENOTSUP);
    }
    req = fake_nbd_expect_request(&server, NBD_CMD_WRITE, 0, 4096);
    ck_assert_uint_eq(req.byte, 0);
    fake_nbd_reply(&server, req.cookie, 0);
    ck_assert_int_eq(end(a), 0);
    ck_assert_int_eq(known(0), BLOCK_STATE_DATA);
}
END_TEST

/* One that can in the first of two pieces only: the other is slow, or written. */
START_TEST(test_half_a_zero)
{
    bool fast = _i == 0;
    FakeRequest req;
    Async *a;
    int i;

    server.max_block = 64 * KIB;
    start("'status-cache':'on'");
    a = begin_on(blk, NBD_CMD_WRITE_ZEROES, 0, 128 * KIB,
                 fast ? BDRV_REQ_NO_FALLBACK : 0);
    for (i = 0; i < 2; i++) {
        req = fake_nbd_expect_request(&server, NBD_CMD_WRITE_ZEROES,
                                      i * 64 * KIB, 64 * KIB);
        fake_nbd_reply(&server, req.cookie, i ? NBD_ENOTSUP : 0);
    }
    if (fast) {
        ck_assert(req.flags & NBD_CMD_FLAG_FAST_ZERO);
        req = fake_nbd_expect_request(&server, NBD_CMD_WRITE_ZEROES, 64 * KIB,
                                      64 * KIB);
        ck_assert(!(req.flags & NBD_CMD_FLAG_FAST_ZERO));
        fake_nbd_reply(&server, req.cookie, 0);
    } else {
        for (i = 0; i < 2; i++) {
            req = fake_nbd_expect_request(&server, NBD_CMD_WRITE, i * 64 * KIB,
                                          64 * KIB);
            ck_assert_uint_eq(req.byte, 0);
            fake_nbd_reply(&server, req.cookie, 0);
        }
    }
    ck_assert_int_eq(end(a), 0);
    ck_assert_int_eq(known(0), fast ? BLOCK_STATE_ZERO : BLOCK_STATE_DATA);
}
END_TEST

/* A reply in parts, each of 4 KiB: where they begin, in pages; -1: no more */
static int read_parts(const int *pages)
{
    FakeRequest req;
    Async *a = begin(NBD_CMD_READ, 0, 4 * 4096);

    req = fake_nbd_expect_request(&server, NBD_CMD_READ, 0, 4 * 4096);
    for (; *pages >= 0; pages++) {
        fake_nbd_reply_part(&server, &req, 1, *pages * 4096, 4096,
                            pages[1] < 0);
    }
    return end(a);
}

/* In whatever order; but each once */
START_TEST(test_read_parts)
{
    start("");
    ck_assert_int_eq(read_parts((int[]){ 0, 1, 2, 3, -1 }), 0);
    ck_assert_int_eq(read_parts((int[]){ 3, 2, 1, 0, -1 }), 0);
    ck_assert_int_eq(read_parts((int[]){ 2, 0, 3, 1, -1 }), 0);
    ck_assert_int_eq(read_parts((int[]){ 0, 1, 1, 3, -1 }), -EIO);
    ck_assert_int_eq(read_parts((int[]){ 0, 0, 0, 0, -1 }), -EIO);
    ck_assert_int_eq(read_parts((int[]){ 3, 1, 0, 3, -1 }), -EIO);
    ck_assert_int_eq(read_parts((int[]){ 1, 2, 3, -1 }), -EIO);
    ck_assert_int_eq(read_parts((int[]){ 0, 1, 3, -1 }), -EIO);
    ck_assert_int_eq(read_parts((int[]){ 0, 1, 2, 3, 2, -1 }), -EIO);
    ck_assert_int_eq(read_parts((int[]){ 0, 1, 2, 3, -1 }), 0);
}
END_TEST

/* A reply that leaves out a part of what was to be read: that is no zeroes. */
START_TEST(test_read_in_part)
{
    FakeRequest req;
    Async *a;

    start("");
    a = begin(NBD_CMD_READ, 0, 8192);
    req = fake_nbd_expect_request(&server, NBD_CMD_READ, 0, 8192);
    fake_nbd_reply_part(&server, &req, 1, 0, 4096, true);
    ck_assert_int_eq(end(a), -EIO);
    a = begin(NBD_CMD_READ, 0, 8192);
    req = fake_nbd_expect_request(&server, NBD_CMD_READ, 0, 8192);
    fake_nbd_reply_data(&server, &req, 1);
    ck_assert_int_eq(end(a), 0);
}
END_TEST

/* ---- what is remembered ------------------------------------------------- */

static const uint32_t all_zero[] = { SIZE, NBD_STATE_HOLE | NBD_STATE_ZERO };

/* The state of [0, 4096), as the server is asked for it */
static int ask(bool one, const uint32_t *extents, size_t n)
{
    Async *a = begin(NBD_CMD_BLOCK_STATUS, 0, 4096);
    FakeRequest req = fake_nbd_request(&server);

    ck_assert_uint_eq(req.type, NBD_CMD_BLOCK_STATUS);
    ck_assert_uint_eq(req.flags, one ? NBD_CMD_FLAG_REQ_ONE : 0);
    ck_assert_uint_eq(req.length, one ? 4096 : SIZE);
    fake_nbd_reply_status(&server, req.cookie, extents, n);
    return end(a);
}

START_TEST(test_modes)
{
    static const char *const options[] = { "", "'status-cache':'on'",
                                           "'status-cache':'off'" };
    static const uint32_t extents[] = { MIB, NBD_STATE_ZERO, MIB,
                                        0,   14 * MIB,       NBD_STATE_HOLE };
    bool on = _i == 1;

    start(options[_i]);
    ck_assert(ask(!on, extents, on ? 3 : 1) & BDRV_BLOCK_ZERO);
    ck_assert_int_eq(known(0), on ? BLOCK_STATE_ZERO : BLOCK_STATE_UNKNOWN);
    /* a hole that is not told to be zero may hold anything */
    ck_assert_int_eq(known(3 * MIB),
                     on ? BLOCK_STATE_DATA : BLOCK_STATE_UNKNOWN);
    ck_assert_int_eq(whole(NBD_CMD_WRITE_ZEROES, 2 * MIB, MIB, 0), 0);
    ck_assert_int_eq(known(2 * MIB),
                     on ? BLOCK_STATE_ZERO : BLOCK_STATE_UNKNOWN);
    /* a trim makes no promise */
    ck_assert_int_eq(whole(NBD_CMD_TRIM, 2 * MIB, MIB, 0), 0);
    ck_assert_int_eq(known(2 * MIB), BLOCK_STATE_UNKNOWN);
}
END_TEST

/* An answer that a write has crossed */
START_TEST(test_tainted)
{
    FakeRequest status, write;
    Async *a, *b;

    start("'status-cache':'on'");
    if (_i == 0) { /* one that came after the question */
        a = begin(NBD_CMD_BLOCK_STATUS, 0, 4096);
        status = fake_nbd_request(&server);
        b = begin(NBD_CMD_WRITE, 0, 4096);
        write = fake_nbd_expect_request(&server, NBD_CMD_WRITE, 0, 4096);
    } else { /* or before */
        b = begin(NBD_CMD_TRIM, 0, 4096);
        write = fake_nbd_expect_request(&server, NBD_CMD_TRIM, 0, 4096);
        a = begin(NBD_CMD_BLOCK_STATUS, 0, 4096);
        status = fake_nbd_request(&server);
    }
    fake_nbd_reply(&server, write.cookie, 0);
    ck_assert_int_eq(end(b), 0);
    fake_nbd_reply_status(&server, status.cookie, all_zero, 1);
    ck_assert(!(end(a) & BDRV_BLOCK_ZERO));
    ck_assert_int_ne(known(0), BLOCK_STATE_ZERO);
    ck_assert_int_eq(known(MIB), BLOCK_STATE_ZERO);
}
END_TEST

/* A server that tells more than it was asked for: there is room for one. */
START_TEST(test_too_many_told)
{
    g_autofree uint32_t *extents = g_new(uint32_t, 2 * NBD_CLIENT_EXTENTS);
    size_t i;

    for (i = 0; i < NBD_CLIENT_EXTENTS; i++) {
        extents[2 * i] = 4096;
        extents[2 * i + 1] = i % 2 ? 0 : NBD_STATE_ZERO;
    }
    start("");
    ck_assert(ask(true, extents, NBD_CLIENT_EXTENTS) & BDRV_BLOCK_ZERO);
    ck_assert_int_eq(known(4096), BLOCK_STATE_UNKNOWN);
}
END_TEST

/* A reply that tells nothing is an error. */
START_TEST(test_nothing_told)
{
    static const uint32_t nothing[] = { 0, NBD_STATE_ZERO };

    start("'status-cache':'on'");
    ck_assert_int_eq(ask(false, nothing, 1), -EIO);
    ck_assert_int_eq(known(0), BLOCK_STATE_UNKNOWN);
}
END_TEST

/* A write that failed, a flush that failed */
START_TEST(test_failed)
{
    start("'status-cache':'on'");
    ck_assert(ask(false, all_zero, 1) & BDRV_BLOCK_ZERO);
    ck_assert_int_eq(whole(NBD_CMD_WRITE, 0, 4096, NBD_EIO), -EIO);
    ck_assert_int_eq(known(0), BLOCK_STATE_UNKNOWN);
    ck_assert_int_eq(known(MIB), BLOCK_STATE_ZERO);
    ck_assert_int_eq(whole(NBD_CMD_FLUSH, 0, 0, NBD_EIO), -EIO);
    ck_assert_int_eq(known(MIB), BLOCK_STATE_UNKNOWN);
}
END_TEST

/* What one server said says nothing about the next. */
START_TEST(test_forgotten)
{
    FakeRequest req;
    Async *a;

    start("'status-cache':'on','reconnect-delay':600");
    ck_assert(ask(false, all_zero, 1) & BDRV_BLOCK_ZERO);
    ck_assert_int_eq(whole(NBD_CMD_WRITE, MIB, 4096, 0), 0);
    reconnect();
    a = begin(NBD_CMD_READ, 0, 4096);
    req = fake_nbd_expect_request(&server, NBD_CMD_READ, 0, 4096);
    fake_nbd_reply_data(&server, &req, 1);
    ck_assert_int_eq(end(a), 0);
    ck_assert_int_eq(known(MIB), BLOCK_STATE_UNKNOWN);
    ck_assert_int_eq(mode(), STATUS_CACHE_ON);
}
END_TEST

/* Nor when the question was sent to the one, and a write acknowledged */
START_TEST(test_forgotten_in_flight)
{
    FakeRequest req;
    Async *a;

    start("'status-cache':'on','reconnect-delay':600");
    a = begin(NBD_CMD_BLOCK_STATUS, 0, 4096);
    fake_nbd_request(&server);
    reconnect();
    req = fake_nbd_request(&server);
    fake_nbd_reply_status(&server, req.cookie, all_zero, 1);
    ck_assert(!(end(a) & BDRV_BLOCK_ZERO));
    ck_assert_int_eq(known(0), BLOCK_STATE_UNKNOWN);
    /* a zero-write is tainted, too */
    a = begin(NBD_CMD_WRITE_ZEROES, 0, 4096);
    fake_nbd_request(&server);
    reconnect();
    req = fake_nbd_request(&server);
    fake_nbd_reply(&server, req.cookie, 0);
    ck_assert_int_eq(end(a), 0);
    ck_assert_int_eq(known(0), BLOCK_STATE_UNKNOWN);
    ck_assert_int_eq(mode(), STATUS_CACHE_ON);
}
END_TEST

/* A write that the lost server had may come late: zeroes are trusted no more. */
START_TEST(test_late_write)
{
    FakeRequest req;
    Async *a;

    start("'status-cache':'on','reconnect-delay':600");
    a = begin(NBD_CMD_WRITE, 0, 4096);
    fake_nbd_request(&server);
    reconnect();
    req = fake_nbd_request(&server);
    fake_nbd_reply(&server, req.cookie, 0);
    ck_assert_int_eq(end(a), 0);
    ck_assert_int_eq(mode(), STATUS_CACHE_DATA_ONLY);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nbd-client");
    TCase *tc = tcase_create("server");
    TCase *own = tcase_create("end");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_in_flight);
    tcase_add_test(tc, test_split);
    tcase_add_test(tc, test_sent_again);
    tcase_add_test(tc, test_shutdown);
    tcase_add_test(tc, test_poison);
    tcase_add_test(tc, test_no_delay);
    tcase_add_test(tc, test_given_up);
    tcase_add_test(tc, test_given_up_in_time);
    tcase_add_test(tc, test_given_up_parked);
    tcase_add_loop_test(tc, test_another, 0, G_N_ELEMENTS(changes));
    tcase_add_loop_test(tc, test_fua, 0, 2);
    tcase_add_test(tc, test_flush);
    tcase_add_test(tc, test_zero_flags);
    tcase_add_loop_test(tc, test_no_zeroes, 0, 2);
    tcase_add_loop_test(tc, test_half_a_zero, 0, 2);
    tcase_add_test(tc, test_read_parts);
    tcase_add_test(tc, test_read_in_part);
    tcase_add_loop_test(tc, test_modes, 0, 3);
    tcase_add_loop_test(tc, test_tainted, 0, 2);
    tcase_add_test(tc, test_too_many_told);
    tcase_add_test(tc, test_nothing_told);
    tcase_add_test(tc, test_failed);
    tcase_add_test(tc, test_forgotten);
    tcase_add_test(tc, test_forgotten_in_flight);
    tcase_add_test(tc, test_late_write);
    suite_add_tcase(suite, tc);
    tcase_add_checked_fixture(own, setup, NULL);
    tcase_add_test(own, test_patience);
    suite_add_tcase(suite, own);
    return unit_main(suite);
}
