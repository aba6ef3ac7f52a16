/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests in two halves (block/submit.c): the test is the kernel in between. */
#include "block/submit.h"

#include <glib/gstdio.h>
#include <stdlib.h>

#include "block/dirty-bitmap.h"
#include "block/graph-int.h"
#include "block/guest-use.h"
#include "file-node.h"
#include "unit-main.h"

#define LENGTH MIB
#define BYTES 4096

static BlockDriverState *node; /* of the driver "file" */
static BlockBackend *blk;
static uint8_t *buf;

static void attach(BlockDriverState *bs)
{
    g_autoptr(GError) err = NULL;

    bdrv_graph_lock();
    blk = blk_new("test", false,
                  BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE,
                  BLK_PERM_CONSISTENT_READ);
    ck_assert_msg(blk_attach(blk, bs, &err), "%s", err ? err->message : "");
    bdrv_graph_unlock();
}

static void detach(void)
{
    bdrv_graph_lock();
    blk_free(blk);
    blk = NULL;
    bdrv_graph_unlock();
}

/* Whatever kernel and file system there are */
static BlockDriverState *open_submitting(const char *options)
{
    g_autofree char *all =
        g_strconcat("'aio':'native','cache':{'direct':true}", options, NULL);
    BlockDriverState *bs = open_node("n", all);

    state(bs)->submits = true;
    state(bs)->exclusive_holes = true;
    return bs;
}

static void setup_with(const char *options)
{
    path = g_strdup_printf("/var/tmp/test-submit-%d", getpid());
    make_file(LENGTH);
    ck_assert_int_eq(posix_memalign((void **)&buf, BYTES, 2 * BLK_SUBMIT_MAX),
                     0);
    node = open_submitting(options);
    attach(node);
}

static void setup(void)
{
    setup_with("");
}

static void teardown(void)
{
    if (blk) {
        detach();
    }
    bdrv_close_all();
    g_unlink(path);
    g_free(path);
    free(buf);
}

/* Another node takes the place of @node. @text: JSON with ' for " */
static BlockDriverState *attach_above(const char *text)
{
    g_autofree char *json = g_strdelimit(g_strdup(text), "'", '"');
    g_autoptr(JsonNode) options = json_from_string(json, NULL);
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs;

    ck_assert_msg(
        schema_check(&blockdev_options_type, options, "", false, &err), "%s",
        err ? err->message : "");
    detach();
    bdrv_graph_lock();
    bs = bdrv_open(json_node_get_object(options), &err);
    bdrv_graph_unlock();
    ck_assert_msg(bs != NULL, "%s", err ? err->message : "");
    attach(bs);
    return bs;
}

static BlkSubmitted begin(BlkSubmit *s, bool is_write, int64_t offset,
                          int64_t bytes)
{
    return blk_submit_begin(s, blk, is_write, offset, buf, bytes);
}

#define ASSERT_BEGINS(s, is_write, offset, bytes)                              \
    ck_assert_int_eq(begin(s, is_write, offset, bytes), BLK_SUBMIT_BEGUN)
#define ASSERT_PLAIN(is_write, offset, bytes)                                  \
    do {                                                                       \
        BlkSubmit s_;                                                          \
        ck_assert_int_eq(begin(&s_, is_write, offset, bytes), BLK_SUBMIT_NOT); \
    } while (0)

/* What the kernel does */
static ssize_t carry_out(const BlkSubmit *s)
{
    return s->is_write ? pwritev(s->fd, &s->iov, 1, s->offset)
                       : preadv(s->fd, &s->iov, 1, s->offset);
}

static int finish(BlkSubmit *s)
{
    return blk_submit_end(s, carry_out(s));
}

/* Nobody is inside the gate, and nobody holds a range. */
static void assert_nothing_is_held(void)
{
    bdrv_graph_lock();
    blk_gate_close(blk);
    ck_assert(blk_gate_wait(blk, 0));
    blk_gate_open(blk);
    bdrv_graph_unlock();
    if (node->range_lock) {
        RangeHold hold;
        int64_t next;

        ck_assert_int_eq(range_lock_try_acquire(node->range_lock, &hold, 0,
                                                LENGTH, 1, &next),
                         LENGTH);
        range_lock_release(node->range_lock, &hold);
    }
    ck_assert_int_eq(state(node)->submitted, 0);
    ck_assert_int_eq(state(node)->user.alone, 0);
}

/* ---- what is begun and ends ---------------------------------------------- */

static void write_and_read(void)
{
    BlkSubmit a, b;
    BlockStats stats;

    ck_assert(blk_may_submit(blk));
    memset(buf, 'a', 2 * BYTES);
    ASSERT_BEGINS(&a, true, 8192, BYTES);
    ck_assert_int_eq(blk_submit_begin(&b, blk, true, 65536, buf + BYTES, BYTES),
                     BLK_SUBMIT_BEGUN);
    ck_assert_int_eq(finish(&b), 0);
    ck_assert_int_eq(finish(&a), 0);
    assert_reads(node, 8192, BYTES, 'a');
    assert_reads(node, 65536, BYTES, 'a');
    assert_reads(node, 8192 + BYTES, BYTES, 0);

    memset(buf, 0, BYTES);
    ASSERT_BEGINS(&a, false, 8192, BYTES);
    ck_assert_int_eq(finish(&a), 0);
    ck_assert_int_eq(buf[0], 'a');
    ck_assert_int_eq(buf[BYTES - 1], 'a');

    blk_get_stats(blk, &stats);
    ck_assert_uint_eq(stats.wr_operations, 2);
    ck_assert_uint_eq(stats.wr_bytes, 2 * BYTES);
    ck_assert_uint_eq(stats.wr_highest_offset, 65536 + BYTES);
    ck_assert_uint_eq(stats.rd_operations, 1);
    ck_assert_uint_eq(stats.rd_bytes, BYTES);
    ck_assert_uint_eq(node->wr_highest_offset, 65536 + BYTES);
    assert_nothing_is_held();
}

START_TEST(test_write_and_read)
{
    write_and_read();
}
END_TEST

START_TEST(test_below_raw)
{
    attach_above("{'driver':'raw','node-name':'r','file':'n'}");
    write_and_read();
}
END_TEST

START_TEST(test_zeroes)
{
    BlkSubmit s;
    BlockStats stats;

    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 65536, 0), 0);
    ASSERT_KNOWN(node, 0, ZERO);
    ck_assert_int_eq(begin(&s, false, 0, BYTES), BLK_SUBMIT_ZERO);
    assert_nothing_is_held();
    blk_get_stats(blk, &stats);
    ck_assert_uint_eq(stats.rd_operations, 1);
    /* A part of it is data. */
    ASSERT_WRITES(node, 8192, BYTES, 'x');
    ASSERT_BEGINS(&s, false, 4096, 2 * BYTES);
    ck_assert_int_eq(finish(&s), 0);
    ck_assert_int_eq(buf[0], 0);
    ck_assert_int_eq(buf[BYTES], 'x');
}
END_TEST

/* ---- rules ---------------------------------------------------------------- */

/* Rule 1: data is known before it goes out. */
START_TEST(test_data_before)
{
    BlkSubmit s;

    ck_assert_int_eq(bdrv_pwrite_zeroes(node, 0, 65536, 0), 0);
    ASSERT_BEGINS(&s, true, 8192, BYTES);
    ASSERT_KNOWN(node, 8192, DATA);
    ASSERT_KNOWN(node, 8192 + BYTES, ZERO);
    ck_assert_int_eq(finish(&s), 0);
    ASSERT_KNOWN(node, 8192, DATA);
}
END_TEST

/* A zero-write that meets a write under way proves nothing. */
START_TEST(test_taints)
{
    BlkSubmit s;
    StatusOp op;

    status_cache_zero_begin(state(node)->cache, &op, 0, 65536, false);
    memset(buf, 'x', BYTES);
    ASSERT_BEGINS(&s, true, 8192, BYTES);
    ck_assert_int_eq(finish(&s), 0);
    status_cache_zero_end(state(node)->cache, &op, true);
    ASSERT_KNOWN(node, 0, ZERO);
    ASSERT_KNOWN(node, 8192, UNKNOWN);
}
END_TEST

START_TEST(test_failed_write)
{
    BlockStats stats;
    BlkSubmit s;

    ASSERT_WRITES(node, 8192, BYTES, 'x');
    ASSERT_BEGINS(&s, true, 8192, BYTES);
    ck_assert_int_eq(blk_submit_end(&s, -EIO), -EIO);
    ASSERT_KNOWN(node, 8192, UNKNOWN);
    blk_get_stats(blk, &stats);
    ck_assert_uint_eq(stats.failed_wr_operations, 1);
    ck_assert_uint_eq(stats.wr_operations, 0);
    assert_nothing_is_held();
}
END_TEST

static bool is_dirty(BdrvDirtyBitmap *bitmap, int64_t offset)
{
    int64_t pnum;

    return bdrv_dirty_bitmap_status(bitmap, offset, BYTES, &pnum);
}

/* Rule 9: marked when it has ended, and also if it failed; and its range is held
 * until then. */
static void check_dirty(BlockDriverState *bs, ssize_t result, int ret)
{
    BdrvDirtyBitmap *bitmap;
    BlkSubmit s;

    bitmap = bdrv_create_dirty_bitmap(bs, BYTES, "b", NULL);
    ck_assert_ptr_nonnull(bitmap);
    ASSERT_BEGINS(&s, true, 8192, BYTES);
    ck_assert(!is_dirty(bitmap, 8192));
    ck_assert_int_eq(carry_out(&s), BYTES);
    ck_assert_int_eq(blk_submit_end(&s, result), ret);
    ck_assert(is_dirty(bitmap, 8192));
    ck_assert(!is_dirty(bitmap, 8192 + BYTES));
    bdrv_release_dirty_bitmap(bs, bitmap);
}

START_TEST(test_dirty)
{
    BlockDriverState *raw;

    check_dirty(node, BYTES, 0);
    check_dirty(node, -EIO, -EIO);
    raw = attach_above("{'driver':'raw','node-name':'r','file':'n'}");
    check_dirty(raw, BYTES, 0);
    check_dirty(node, BYTES, 0);
}
END_TEST

START_TEST(test_holds_range)
{
    RangeHold hold;
    int64_t next;
    BlkSubmit s;

    ck_assert_ptr_nonnull(node->range_lock);
    ASSERT_BEGINS(&s, true, 8192, BYTES);
    ck_assert_int_eq(
        range_lock_try_acquire(node->range_lock, &hold, 8192, 512, 1, &next),
        0);
    ck_assert_int_eq(next, 8192 + BYTES);
    ck_assert_int_eq(finish(&s), 0);
    assert_nothing_is_held();
}
END_TEST

static void *drain(void *opaque)
{
    int *drained = opaque;

    bdrv_graph_lock();
    blk_gate_close(blk);
    ck_assert(blk_gate_wait(blk, INT64_MAX));
    g_atomic_int_set(drained, 1);
    blk_gate_open(blk);
    bdrv_graph_unlock();
    return NULL;
}

START_TEST(test_drain_waits)
{
    int drained = 0;
    pthread_t thread;
    BlkSubmit s;

    ASSERT_BEGINS(&s, false, 0, BYTES);
    pthread_create(&thread, NULL, drain, &drained);
    /* Closed: others are not begun any more. */
    while (blk_may_submit(blk)) {
        g_thread_yield();
    }
    ASSERT_PLAIN(false, 0, BYTES);
    ASSERT_PLAIN(true, 0, BYTES);
    ck_assert_int_eq(g_atomic_int_get(&drained), 0);
    ck_assert_int_eq(finish(&s), 0);
    pthread_join(thread, NULL);
    ck_assert_int_eq(drained, 1);
}
END_TEST

/* Jobs let guests go first, at both ends of their requests. */
START_TEST(test_guest)
{
    BlkSubmit s;

    guest_use_forget();
    ASSERT_BEGINS(&s, false, 0, BYTES);
    ck_assert_int_gt(guest_use_last(), 0);
    guest_use_forget();
    ck_assert_int_eq(finish(&s), 0);
    ck_assert_int_gt(guest_use_last(), 0);
}
END_TEST

/* Who needs to be alone waits for what was begun. */
START_TEST(test_counts_on_being_alone)
{
    BlkSubmit s;

    ASSERT_BEGINS(&s, true, 0, BYTES);
    ck_assert_int_eq(state(node)->user.alone, 1);
    ck_assert_int_eq(state(node)->submitted, BYTES);
    ck_assert_int_eq(finish(&s), 0);
    assert_nothing_is_held();
}
END_TEST

/* ---- what the kernel did not do ------------------------------------------- */

START_TEST(test_done_anew)
{
    static const ssize_t results[] = { 0,       512,        -EAGAIN,    -EINTR,
                                       -EINVAL, -ECANCELED, -EOPNOTSUPP };
    BlkSubmit s;

    for (size_t i = 0; i < G_N_ELEMENTS(results); i++) {
        memset(buf, 'a' + i, BYTES);
        ASSERT_BEGINS(&s, true, 4096, BYTES);
        ck_assert_int_eq(blk_submit_end(&s, results[i]), 0);
        ASSERT_KNOWN(node, 4096, DATA);
        assert_reads(node, 4096, BYTES, 'a' + i);
        memset(buf, 0, BYTES);
        ASSERT_BEGINS(&s, false, 4096, BYTES);
        ck_assert_int_eq(blk_submit_end(&s, results[i]), 0);
        ck_assert_int_eq(buf[0], 'a' + i);
        ck_assert_int_eq(buf[BYTES - 1], 'a' + i);
    }
    assert_nothing_is_held();
}
END_TEST

/* What was cut off is zero. */
START_TEST(test_cut_off)
{
    BlkSubmit s;

    memset(buf, 'x', BYTES);
    ASSERT_BEGINS(&s, false, LENGTH / 2, BYTES);
    ck_assert_int_eq(truncate(path, LENGTH / 2), 0);
    ck_assert_int_eq(finish(&s), 0);
    ck_assert_int_eq(buf[0], 0);
    ck_assert_int_eq(buf[BYTES - 1], 0);
    ASSERT_BEGINS(&s, false, 0, BYTES);
    ck_assert_int_eq(blk_submit_end(&s, -EIO), -EIO);
}
END_TEST

/* ---- what is not begun ----------------------------------------------------- */

START_TEST(test_plain_requests)
{
    /* Empty, too long, not aligned, beyond the end */
    ASSERT_PLAIN(false, 0, 0);
    ASSERT_PLAIN(false, 0, BLK_SUBMIT_MAX + BYTES);
    ASSERT_PLAIN(false, 0, 100);
    ASSERT_PLAIN(false, 100, BYTES);
    ASSERT_PLAIN(false, LENGTH, BYTES);
    ASSERT_PLAIN(false, LENGTH - BYTES, 2 * BYTES);
    ASSERT_PLAIN(false, -BYTES, BYTES);
    ASSERT_PLAIN(true, 0, 100);
    ASSERT_PLAIN(true, 100, BYTES);
    ASSERT_PLAIN(true, LENGTH, BYTES);
    buf++;
    ASSERT_PLAIN(false, 0, BYTES);
    ASSERT_PLAIN(true, 0, BYTES);
    buf--;
    assert_nothing_is_held();
}
END_TEST

START_TEST(test_plain_nodes)
{
    FileState *s = state(node);
    BlkSubmit r;

    s->submits = false;
    ck_assert(!blk_may_submit(blk));
    ASSERT_PLAIN(false, 0, BYTES);
    ASSERT_PLAIN(true, 0, BYTES);
    s->submits = true;
    s->direct = false;
    ck_assert(!blk_may_submit(blk));
    ASSERT_PLAIN(false, 0, BYTES);
    ASSERT_PLAIN(true, 0, BYTES);
    s->direct = true;
    /* A file system that may write through the page cache */
    s->exclusive_holes = false;
    ASSERT_PLAIN(true, 0, BYTES);
    ASSERT_BEGINS(&r, false, 0, BYTES);
    ck_assert_int_eq(finish(&r), 0);
    s->exclusive_holes = true;
    /* Others may write. */
    status_cache_set_mode(s->cache, STATUS_CACHE_DATA_ONLY);
    ASSERT_PLAIN(true, 0, BYTES);
    status_cache_set_mode(s->cache, STATUS_CACHE_ON);
    node->detect_zeroes = BDRV_DETECT_ZEROES_ON;
    ASSERT_PLAIN(true, 0, BYTES);
    node->detect_zeroes = BDRV_DETECT_ZEROES_OFF;
    bdrv_set_read_only(node, true);
    ASSERT_PLAIN(true, 0, BYTES);
    bdrv_set_read_only(node, false);
    node->limits.max_transfer = BYTES;
    ASSERT_PLAIN(false, 0, 2 * BYTES);
    ASSERT_PLAIN(true, 0, 2 * BYTES);
    node->limits.max_transfer = 0;
    ASSERT_BEGINS(&r, true, 0, BYTES);
    ck_assert_int_eq(finish(&r), 0);
    assert_nothing_is_held();
}
END_TEST

START_TEST(test_plain_above)
{
    attach_above("{'driver':'raw','node-name':'r','file':'n','offset':65536}");
    ck_assert(!blk_may_submit(blk));
    ASSERT_PLAIN(false, 0, BYTES);
    attach_above("{'driver':'raw','node-name':'q','file':'n','size':65536}");
    ASSERT_PLAIN(true, 0, BYTES);
    attach_above("{'driver':'raw','node-name':'p','file':'n',"
                 "'detect-zeroes':'on'}");
    ASSERT_PLAIN(true, 0, BYTES);
    assert_nothing_is_held();
}
END_TEST

START_TEST(test_reader)
{
    detach();
    blk = blk_new("reader", false, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    bdrv_graph_lock();
    ck_assert(blk_attach(blk, node, NULL));
    bdrv_graph_unlock();
    ASSERT_PLAIN(true, 0, BYTES);
    assert_nothing_is_held();
}
END_TEST

START_TEST(test_learner)
{
    BlkSubmit s;

    state(node)->reader.learn = true;
    ASSERT_PLAIN(false, 0, BYTES);
    state(node)->reader.learn = false;
    ASSERT_BEGINS(&s, false, 0, BYTES);
    ck_assert_int_eq(finish(&s), 0);
}
END_TEST

/* Somebody holds the range exclusively, or waits to do so. */
START_TEST(test_range_is_taken)
{
    RangeHold hold, waiting;
    BlkSubmit s;

    ck_assert_int_eq(
        range_lock_acquire(node->range_lock, &hold, 8192, 512, false, NULL), 0);
    ASSERT_BEGINS(&s, true, 8192, BYTES);
    ck_assert_int_eq(finish(&s), 0);
    range_lock_line_up(node->range_lock, &waiting, 8192, 512);
    ASSERT_PLAIN(true, 8192, BYTES);
    ASSERT_BEGINS(&s, true, 8192 + BYTES, BYTES);
    ck_assert_int_eq(finish(&s), 0);
    /* Reads do not mind. */
    ASSERT_BEGINS(&s, false, 8192, BYTES);
    ck_assert_int_eq(finish(&s), 0);
    range_lock_release(node->range_lock, &hold);
    ASSERT_PLAIN(true, 8192, BYTES);
    range_lock_release(node->range_lock, &waiting);
    assert_nothing_is_held();
}
END_TEST

/* Nothing is begun where the page cache may be needed. */
START_TEST(test_tail)
{
    BlkSubmit s;

    detach();
    bdrv_close_all();
    make_file(LENGTH + 512);
    node = open_submitting("");
    attach(node);
    if (node->limits.request_alignment > 512) {
        /* The disk ends within a block: nowhere. */
        ASSERT_PLAIN(true, 0, BYTES);
    } else {
        ASSERT_PLAIN(true, LENGTH, 512);
        ASSERT_BEGINS(&s, true, 0, BYTES);
        ck_assert_int_eq(finish(&s), 0);
    }
    detach();
    bdrv_close_all();
    make_file(LENGTH + 100);
    node = open_submitting("");
    attach(node);
    ASSERT_PLAIN(true, 0, BYTES);
}
END_TEST

/* No more than the disk is to have at once; others are not held up. */
START_TEST(test_so_much)
{
    static BlkSubmit s[65];

    for (int i = 0; i < 64; i++) {
        ASSERT_BEGINS(&s[i], true, 0, BLK_SUBMIT_MAX);
    }
    ASSERT_PLAIN(true, 0, BYTES);
    ck_assert_int_eq(finish(&s[0]), 0);
    ASSERT_BEGINS(&s[64], true, 0, BYTES);
    for (int i = 1; i < 65; i++) {
        ck_assert_int_eq(finish(&s[i]), 0);
    }
    assert_nothing_is_held();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("submit");
    TCase *tc = tcase_create("requests");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_write_and_read);
    tcase_add_test(tc, test_below_raw);
    tcase_add_test(tc, test_zeroes);
    tcase_add_test(tc, test_data_before);
    tcase_add_test(tc, test_taints);
    tcase_add_test(tc, test_failed_write);
    tcase_add_test(tc, test_dirty);
    tcase_add_test(tc, test_holds_range);
    tcase_add_test(tc, test_drain_waits);
    tcase_add_test(tc, test_guest);
    tcase_add_test(tc, test_counts_on_being_alone);
    tcase_add_test(tc, test_done_anew);
    tcase_add_test(tc, test_cut_off);
    tcase_add_test(tc, test_plain_requests);
    tcase_add_test(tc, test_plain_nodes);
    tcase_add_test(tc, test_plain_above);
    tcase_add_test(tc, test_reader);
    tcase_add_test(tc, test_learner);
    tcase_add_test(tc, test_range_is_taken);
    tcase_add_test(tc, test_tail);
    tcase_add_test(tc, test_so_much);
    suite_add_tcase(suite, tc);
    return unit_main(suite);
}
