/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Probes among writers, writeback and other readers: whatever happens between
 * their system calls, data that was acknowledged is never called zero.
 */
#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <string.h>

#include "probe-fixture.h"
#include "unit-main.h"

#define BLOCKS 256
/* More system calls than one probe of these files makes */
#define MAX_CALLS 24

/* _i: as for start_any(), and bit 2: mode off */
#define COMBINATIONS 8

static void start_mode(int how)
{
    start_any(how);
    if (how & 4) {
        status_cache_set_mode(cache, STATUS_CACHE_OFF);
    }
}

static int query_block(int block)
{
    int64_t pnum;

    return query((int64_t)block * FAKE_BLOCK, &pnum);
}

static void check_no_zero(int first, int last)
{
    int i;

    for (i = first; i < last; i++) {
        ck_assert_msg(query_block(i) == BLOCK_STATE_DATA,
                      "block %d is called zero", i);
    }
}

/* ---- writeback ---------------------------------------------------------- */

static int event_call;

static void writeback_at_event(int call)
{
    if (call == event_call) {
        fake_writeback();
    }
}

/*
 * Data acknowledged before the node was opened, over unwritten extents; writeback
 * ends and the pages are reclaimed in the middle of any of the calls.
 */
static void check_writeback(int how, int extent_blocks, const char *layout)
{
    for (event_call = 0; event_call <= fake.calls; event_call++) {
        fake_reset(BLOCKS * FAKE_BLOCK);
        fake_map(0, BLOCKS, layout[0]);
        fake_map(64, BLOCKS, layout[1]);
        fake_map(128, BLOCKS, layout[2]);
        fake.extent_blocks = extent_blocks;
        /* what is acknowledged, is so over unwritten extents */
        fake_map(70, 74, 'u');
        fake_ack(70, 74);
        fake_map(200, 201, 'u');
        fake_ack(200, 201);
        fake.hook = writeback_at_event;
        start_mode(how);
        query_block(0);
        query_block(100);
        check_no_zero(70, 74);
        check_no_zero(200, 201);
        stop();
    }
}

START_TEST(test_writeback)
{
    static const char *const layouts[] = { "uuu", "ddu", "dud",
                                           "udu", ".u.", "u.d" };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(layouts); i++) {
        check_writeback(_i, 1, layouts[i]);
        check_writeback(_i, 16, layouts[i]);
    }
}
END_TEST

/* The test above can fail: with the looks swapped it does. */
static struct fiemap *old_mapping;

static int swapped_cachestat(int fd, int64_t offset, int64_t bytes,
                             StatusPages *pages)
{
    old_mapping->fm_start = offset;
    old_mapping->fm_length = bytes;
    old_mapping->fm_extent_count = PROBE_MAX_EXTENTS;
    fake_ops.fiemap(fd, old_mapping);
    return fake_ops.cachestat(fd, offset, bytes, pages);
}

static int swapped_fiemap(int fd, struct fiemap *f)
{
    memcpy(f, old_mapping,
           sizeof(*f) +
               old_mapping->fm_mapped_extents * sizeof(struct fiemap_extent));
    return 0;
}

START_TEST(test_swapped_looks)
{
    StatusProbeOps ops = fake_ops;

    ops.cachestat = swapped_cachestat;
    ops.fiemap = swapped_fiemap;
    old_mapping = g_malloc0(sizeof(struct fiemap) +
                            PROBE_MAX_EXTENTS * sizeof(struct fiemap_extent));
    fake_reset(BLOCKS * FAKE_BLOCK);
    fake_map(0, BLOCKS, 'u');
    fake_ack(70, 74);
    fake.hook = writeback_at_event;
    event_call = 1; /* after the mapping, before the pages */
    start_mode(0);
    status_probe_free(probe);
    probe = status_probe_new_with_ops(-1, STATUS_PROBE_USE_FIEMAP, &ops);
    ck_assert_int_eq(query_block(70), BLOCK_STATE_ZERO);
    stop();
    g_free(old_mapping);
}
END_TEST

/* ---- writers ------------------------------------------------------------ */

static StatusOp writer;
static bool write_ok;

static void write_at_event(int call)
{
    if (call == event_call) {
        status_cache_write_begin(cache, &writer, 70 * FAKE_BLOCK,
                                 4 * FAKE_BLOCK);
        fake_ack(70, 74);
        status_cache_write_end(cache, &writer, write_ok);
    }
    if (call == event_call + 1) {
        fake_writeback();
    }
}

/* Written in the middle of a probe, of a page look's life, anywhere */
START_TEST(test_write_during_probe)
{
    int i;

    for (i = 0; i < 2 * MAX_CALLS; i++) {
        fake_reset(BLOCKS * FAKE_BLOCK);
        fake_map(0, BLOCKS, 'u');
        fake.extent_blocks = 1; /* so that there are many probes */
        fake.hook = write_at_event;
        event_call = i / 2;
        write_ok = i % 2;
        start_mode(_i);
        query_block(0);
        /* what was said before the write may be zero */
        if (fake.calls > event_call) {
            check_no_zero(70, 74);
        }
        query_block(60);
        if (fake.calls > event_call) {
            check_no_zero(70, 74);
        }
        stop();
    }
}
END_TEST

START_TEST(test_write_in_flight)
{
    int64_t pnum;

    fake_reset(BLOCKS * FAKE_BLOCK);
    fake_map(0, BLOCKS, 'u');
    start_mode(_i);
    status_cache_write_begin(cache, &writer, 70 * FAKE_BLOCK, 4 * FAKE_BLOCK);
    if (!(_i & 4)) {
        status_cache_forget(cache, 0, BLOCKS * FAKE_BLOCK); /* evicted */
    }
    check_no_zero(70, 74);
    ck_assert_int_eq(
        status_query(cache, probe, 60 * FAKE_BLOCK, 1, &pnum, NULL),
        BLOCK_STATE_ZERO);
    ck_assert_int_eq(pnum, 10 * FAKE_BLOCK);
    fake_ack(70, 74);
    status_cache_write_end(cache, &writer, true);
    check_no_zero(70, 74);
    stop();
}
END_TEST

/* A write takes its part out of the page look that a later probe relies on. */
START_TEST(test_look_after_write)
{
    StatusCacheStats before, after;

    fake_reset(BLOCKS * FAKE_BLOCK);
    fake_map(0, BLOCKS, 'u');
    fake.extent_blocks = 1;
    start_mode(2);
    ck_assert_int_eq(query_block(0), BLOCK_STATE_ZERO); /* pages: none at all */
    status_cache_get_stats(cache, &before);
    ck_assert_uint_eq(before.probe_calls[STATUS_PROBE_SEEK_DATA], 1);

    status_cache_write_begin(cache, &writer, 200 * FAKE_BLOCK, FAKE_BLOCK);
    fake_ack(200, 201);
    status_cache_write_end(cache, &writer, false);
    ck_assert_int_eq(query_block(200), BLOCK_STATE_DATA);
    ck_assert_int_eq(query_block(100), BLOCK_STATE_ZERO);
    ck_assert_int_eq(query_block(255), BLOCK_STATE_ZERO);
    status_cache_get_stats(cache, &after);
    ck_assert_uint_eq(after.probe_calls[STATUS_PROBE_SEEK_DATA], 2);
    stop();
}
END_TEST

static void shrink_at_event(int call)
{
    if (call == event_call) {
        status_cache_resize(cache, 10 * FAKE_BLOCK);
    }
}

START_TEST(test_shrink_during_probe)
{
    for (event_call = 0; event_call < 4; event_call++) {
        fake_reset(BLOCKS * FAKE_BLOCK);
        fake_map(0, BLOCKS, 'u');
        fake.hook = shrink_at_event;
        start_mode(_i);
        ck_assert_int_ge(query_block(100), 0);
        fake.hook = NULL;
        if (fake.calls <= event_call) {
            status_cache_resize(cache, 10 * FAKE_BLOCK);
        }
        ck_assert_int_eq(query_block(100), BLOCK_STATE_DATA);
        ck_assert_int_eq(query_block(5), BLOCK_STATE_ZERO);
        stop();
    }
}
END_TEST

/* ---- readers ------------------------------------------------------------ */

static Mutex gate = MUTEX_INIT; /* held: system calls hang */
static Mutex lock = MUTEX_INIT;
static Cond changed;
static int hanging;

static void hang(int call)
{
    mutex_lock(&lock);
    hanging++;
    cond_broadcast(&changed);
    mutex_unlock(&lock);
    mutex_lock(&gate);
    mutex_unlock(&gate);
}

static void *query_thread(void *block)
{
    return GINT_TO_POINTER(query_block(GPOINTER_TO_INT(block)));
}

static void join(pthread_t thread, int expected)
{
    void *result;

    ck_assert_int_eq(pthread_join(thread, &result), 0);
    ck_assert_int_eq(GPOINTER_TO_INT(result), expected);
}

START_TEST(test_readers)
{
    pthread_t threads[3];
    StatusCacheStats stats;
    StatusOp op;
    int i;

    fake_reset(BLOCKS * FAKE_BLOCK);
    fake_map(10, BLOCKS, 'd');
    start_mode(_i);
    status_cache_write_begin(cache, &op, 0, FAKE_BLOCK);
    status_cache_write_end(cache, &op, true);
    cond_init(&changed);
    hanging = 0;
    fake.hook = hang;

    mutex_lock(&gate);
    for (i = 0; i < 3; i++) {
        pthread_create(&threads[i], NULL, query_thread, GINT_TO_POINTER(20));
    }
    mutex_lock(&lock);
    while (!hanging) {
        cond_wait(&changed, &lock);
    }
    mutex_unlock(&lock);
    /* what is known can be had while the file system hangs */
    ck_assert_int_eq(query_block(0), BLOCK_STATE_DATA);
    mutex_unlock(&gate);

    for (i = 0; i < 3; i++) {
        join(threads[i], BLOCK_STATE_DATA);
    }
    status_cache_get_stats(cache, &stats);
    ck_assert_uint_eq(stats.probes, 1);
    cond_destroy(&changed);
    stop();
}
END_TEST

/* Bucket and maxima of the time that probes take */
START_TEST(test_times)
{
    StatusCacheStats stats;
    uint64_t sum = 0;
    int i;

    fake_reset(BLOCKS * FAKE_BLOCK);
    fake_map(0, BLOCKS, 'd');
    fake.extent_blocks = 1;
    start_mode(1);
    query_block(0);
    status_cache_get_stats(cache, &stats);
    for (i = 0; i < STATUS_CACHE_HISTOGRAM; i++) {
        sum += stats.histogram[i];
    }
    ck_assert_uint_eq(sum, stats.probes);
    ck_assert_uint_gt(stats.probe_wall_ns, 0);
    ck_assert_uint_gt(stats.probe_cpu_ns, 0);
    ck_assert_uint_eq(stats.probe_cpu_max_ns, stats.probe_cpu_ns);
    ck_assert_uint_eq(stats.probe_wall_max_ns, stats.probe_wall_ns);
    stop();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("status-query");
    TCase *tc = tcase_create("status-query");

    tcase_add_loop_test(tc, test_writeback, 0, COMBINATIONS);
    tcase_add_test(tc, test_swapped_looks);
    tcase_add_loop_test(tc, test_write_during_probe, 0, COMBINATIONS);
    tcase_add_loop_test(tc, test_write_in_flight, 0, COMBINATIONS);
    tcase_add_test(tc, test_look_after_write);
    tcase_add_loop_test(tc, test_shrink_during_probe, 0, 4);
    tcase_add_loop_test(tc, test_readers, 0, 2);
    tcase_add_test(tc, test_times);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
