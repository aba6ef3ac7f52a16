/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Nodes that are throttled together (block/throttle-group.c, throttle.c) */
#include "block/object-types.h"
#include "block/throttle-group.h"
#include "block/throttle-state.h"
#include "mem-driver.h"
#include "unit-main.h"
#include "util/json-text.h"

#define RW (BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE)
#define MS INT64_C(1000000)

/* ---- seams -------------------------------------------------------------- */

/* The time, as throttling sees it: it stands still but for advance(). Whoever
 * waits for it looks again after what it is to wait, in real time. */
static int64_t now_ns; /* atomic */

int64_t __wrap_throttle_now_ns(void);

int64_t __wrap_throttle_now_ns(void)
{
    return __atomic_load_n(&now_ns, __ATOMIC_SEQ_CST);
}

static void advance(int64_t ns)
{
    __atomic_add_fetch(&now_ns, ns, __ATOMIC_SEQ_CST);
}

static int in_line; /* atomic: threads that have come to a line */
static __thread bool has_come;

int __real_bdrv_wait_turn(Cond *cond, Mutex *mutex, int64_t deadline_us,
                          BdrvCancel *cancel);
int __wrap_bdrv_wait_turn(Cond *cond, Mutex *mutex, int64_t deadline_us,
                          BdrvCancel *cancel);

int __wrap_bdrv_wait_turn(Cond *cond, Mutex *mutex, int64_t deadline_us,
                          BdrvCancel *cancel)
{
    if (!has_come) {
        has_come = true;
        g_atomic_int_inc(&in_line);
    }
    return __real_bdrv_wait_turn(cond, mutex, deadline_us, cancel);
}

static void until(int *n, int want)
{
    while (g_atomic_int_get(n) < want) {
        sched_yield();
    }
    ck_assert_int_eq(g_atomic_int_get(n), want);
}

/* ---- a group of three --------------------------------------------------- */

#define NODES 3

static MemDisk *disks[NODES];
static BlockBackend *blks[NODES];

/* Which requests have gone, in order: numbers that are part of the offset */
static Mutex gone_lock = MUTEX_INIT;
static int gone[64];
static int n_gone; /* atomic, changed with gone_lock */

static int note_gone(MemDisk *disk, MemOp op, int64_t offset, int64_t bytes)
{
    if (op == MEM_READ || op == MEM_WRITE) {
        MUTEX_GUARD(&gone_lock);

        gone[g_atomic_int_get(&n_gone)] = offset / 512;
        g_atomic_int_inc(&n_gone);
    }
    return 0;
}

static JsonNode *parse(const char *json)
{
    JsonNode *node = json_text_parse(json, strlen(json), NULL);

    ck_assert_ptr_nonnull(node);
    return node;
}

static void add_object(const char *json)
{
    g_autoptr(JsonNode) node = parse(json);
    g_autoptr(GError) err = NULL;

    ck_assert_msg(object_add_from_options(json_node_get_object(node), &err),
                  "%s", err ? err->message : "");
}

static void set_limits(const char *json)
{
    g_autoptr(JsonNode) node = parse(json);
    g_autoptr(GError) err = NULL;

    ck_assert_msg(object_set_property("g", "limits", node, &err), "%s",
                  err ? err->message : "");
}

static void set_up(void)
{
    int i;

    in_line = n_gone = 0;
    add_object("{\"qom-type\": \"throttle-group\", \"id\": \"g\"}");
    bdrv_graph_lock();
    for (i = 0; i < NODES; i++) {
        g_autofree char *below = g_strdup_printf("m%d", i);
        g_autofree char *json = g_strdup_printf(
            "{\"driver\": \"throttle\", \"node-name\": \"t%d\","
            " \"discard\": \"unmap\", \"throttle-group\": \"g\","
            " \"file\": \"%s\"}",
            i, below);
        g_autoptr(JsonNode) options = parse(json);
        g_autoptr(GError) err = NULL;
        BlockDriverState *bs;

        disks[i] = mem_disk_new(1 << 20, 512);
        disks[i]->hook = note_gone;
        bs = mem_node_new(&mem_driver, below, disks[i]);
        ck_assert_msg(bdrv_open(json_node_get_object(options), &err) != NULL,
                      "%s", err ? err->message : "");
        bdrv_unref(bs);
        bs = bdrv_find_node(json_object_get_string_member(
                                json_node_get_object(options), "node-name"),
                            NULL);
        blks[i] = blk_new("test", false, RW, BLK_PERM_ALL);
        ck_assert(blk_attach(blks[i], bs, NULL));
        bdrv_unref(bs);
    }
    bdrv_graph_unlock();
}

static void tear_down(void)
{
    int i;

    bdrv_graph_lock();
    for (i = 0; i < NODES; i++) {
        blk_free(blks[i]);
    }
    bdrv_graph_unlock();
    ck_assert(!object_del("g", NULL));
    bdrv_close_all();
    ck_assert(object_del("g", NULL));
    for (i = 0; i < NODES; i++) {
        mem_disk_free(disks[i]);
    }
}

/* ---- requests ----------------------------------------------------------- */

typedef struct Request {
    pthread_t thread;
    BlockBackend *blk;
    bool is_write;
    int number;
    int ret;
} Request;

static void *request_main(void *opaque)
{
    Request *r = opaque;
    uint8_t buf[512];

    memset(buf, 1, sizeof(buf));
    r->ret = r->is_write ? blk_pwrite(r->blk, r->number * 512, 512, buf, 0)
                         : blk_pread(r->blk, r->number * 512, 512, buf, 0);
    return NULL;
}

static Request requests[16];
static int n_requests;

static Request *request(BlockBackend *blk, bool is_write)
{
    Request *r = &requests[n_requests];

    *r = (Request){ .blk = blk, .is_write = is_write, .number = n_requests++ };
    pthread_create(&r->thread, NULL, request_main, r);
    return r;
}

/* One that has to wait, behind those that were here before */
static Request *request_in_line(BlockBackend *blk, bool is_write)
{
    int before = g_atomic_int_get(&in_line);
    Request *r = request(blk, is_write);

    until(&in_line, before + 1);
    return r;
}

static void join_all(int ret)
{
    int i;

    for (i = 0; i < n_requests; i++) {
        pthread_join(requests[i].thread, NULL);
        ck_assert_int_eq(requests[i].ret, ret);
    }
    n_requests = 0;
}

/* 1000 requests a second, and what may go at once is gone: 1 ms each */
static void fill(void)
{
    int i;

    set_limits("{\"iops-total\": 1000}");
    for (i = 0; i < 101; i++) {
        ck_assert_int_eq(blk_pwrite_zeroes(blks[i % NODES], 0, 512, 0), 0);
    }
    ck_assert_int_eq(g_atomic_int_get(&in_line), 0);
}

/* Requests that would wait for weeks if nobody helped them */
static void fill_for_weeks(void)
{
    set_limits("{\"bps-total\": 1}");
    ck_assert_int_eq(blk_pwrite_zeroes(blks[0], 0, 1 << 20, 0), 0);
}

/* ---- tests -------------------------------------------------------------- */

START_TEST(test_taking_turns)
{
    static const int want[] = { 0, 3, 6, 1, 4, 2, 5 };
    size_t i;

    set_up();
    fill();
    for (i = 0; i < 7; i++) {
        request_in_line(blks[i / 3], _i);
    }
    ck_assert_int_eq(g_atomic_int_get(&n_gone), 0);
    for (i = 0; i < G_N_ELEMENTS(want); i++) {
        advance(MS + MS / 20);
        until(&n_gone, i + 1);
        ck_assert_int_eq(gone[i], want[i]);
    }
    join_all(0);
    tear_down();
}
END_TEST

/* Reads that wait do not hold up writes that need not, nor anything else. */
START_TEST(test_lines_apart)
{
    uint8_t buf[512] = { 1 };
    int64_t pnum;

    set_up();
    set_limits("{\"bps-read\": 1}");
    ck_assert_int_eq(blk_pread(blks[0], 0, 512, buf, 0), 0);
    request_in_line(blks[0], false);
    ck_assert_int_eq(blk_pwrite(blks[0], 0, 512, buf, 0), 0);
    ck_assert_int_eq(blk_pwrite(blks[1], 0, 512, buf, 0), 0);
    ck_assert_int_eq(blk_pdiscard(blks[0], 512, 512), 0);
    ck_assert_int_eq(blk_flush(blks[0]), 0);
    ck_assert_int_ge(
        blk_block_status(blks[0], 0, 512, BDRV_WANT_PRECISE, &pnum), 0);
    set_limits("{\"bps-read\": 0, \"bps-write\": 1}");
    join_all(0);
    ck_assert_int_eq(blk_pdiscard(blks[0], 512, 512), 0);
    request_in_line(blks[1], true);
    ck_assert_int_eq(blk_pread(blks[0], 0, 512, buf, 0), 0);
    set_limits("{\"bps-write\": 0}");
    join_all(0);
    tear_down();
}
END_TEST

/* All those that wait go when there is no limit any more. */
START_TEST(test_limits_that_change)
{
    int i;

    set_up();
    fill_for_weeks();
    for (i = 0; i < 6; i++) {
        request_in_line(blks[i % NODES], i < 3);
    }
    ck_assert_int_eq(g_atomic_int_get(&n_gone), 0);
    set_limits("{\"bps-total\": 0}");
    join_all(0);
    ck_assert_int_eq(n_gone, 6);
    tear_down();
}
END_TEST

/* Whoever drains one node does not wait for what is throttled there, and what
 * is throttled elsewhere waits on. */
START_TEST(test_drain)
{
    BlockDriverState *bs;

    set_up();
    fill_for_weeks();
    request_in_line(blks[0], true);
    request_in_line(blks[1], true);
    request_in_line(blks[0], true);
    request_in_line(blks[0], false);

    bs = bdrv_find_node(_i ? "m0" : "t0", NULL);
    bdrv_graph_lock();
    bdrv_drained_begin(bs);
    ck_assert_int_eq(g_atomic_int_get(&n_gone), 3);
    bdrv_drained_end(bs);
    ck_assert(bdrv_try_drained_begin(bs, g_get_monotonic_time()));
    bdrv_drained_end(bs);
    bdrv_graph_unlock();
    bdrv_unref(bs);

    /* From then on the limits hold again. */
    request_in_line(blks[0], true);
    ck_assert_int_eq(g_atomic_int_get(&n_gone), 3);
    set_limits("{\"bps-total\": 0}");
    join_all(0);
    tear_down();
}
END_TEST

/* A user that goes away gives up its turns, and the others have theirs. */
START_TEST(test_cancel)
{
    set_up();
    fill();
    request_in_line(blks[0], true);
    request_in_line(blks[1], true);
    request_in_line(blks[0], true);
    request_in_line(blks[0], false);
    blk_cancel_waits(blks[0]);
    pthread_join(requests[0].thread, NULL);
    pthread_join(requests[2].thread, NULL);
    pthread_join(requests[3].thread, NULL);
    ck_assert_int_eq(requests[0].ret, -ECANCELED);
    ck_assert_int_eq(requests[2].ret, -ECANCELED);
    ck_assert_int_eq(requests[3].ret, -ECANCELED);
    ck_assert_int_eq(g_atomic_int_get(&n_gone), 0);
    advance(MS + MS / 20);
    pthread_join(requests[1].thread, NULL);
    ck_assert_int_eq(requests[1].ret, 0);
    ck_assert_int_eq(n_gone, 1);
    n_requests = 0;
    tear_down();
}
END_TEST

/* Each kind of request is counted, once, by its length. */
/* A read that came through is not sent back to come through once more. */
START_TEST(test_read_that_would_not_wait)
{
    uint8_t buf[512];

    set_up();
    ck_assert_int_eq(
        blk_pread(blks[0], 0, 512, buf, BDRV_REQ_NOWAIT | BDRV_REQ_ONCE), 0);
    ck_assert_int_eq(disks[0]->flags[MEM_READ], BDRV_REQ_ONCE);
    tear_down();
}
END_TEST

START_TEST(test_counted)
{
    uint8_t *buf = g_malloc0(1 << 20);

    set_up();
    set_limits("{\"bps-total\": 1000000, \"bps-total-max\": 1000000}");
    ck_assert_int_eq(blk_pread(blks[0], 0, 1 << 18, buf, 0), 0);
    ck_assert_int_eq(blk_pwrite(blks[1], 0, 1 << 18, buf, 0), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(blks[2], 0, 1 << 18, 0), 0);
    ck_assert_int_eq(blk_pdiscard(blks[0], 0, 1 << 18), 0);
    /* 4 * 2^18 are 48576 over the mark. */
    request_in_line(blks[0], true);
    advance(48 * MS);
    ck_assert_int_eq(g_atomic_int_get(&n_gone), 2);
    advance(MS);
    join_all(0);
    g_free(buf);
    tear_down();
}
END_TEST

START_TEST(test_no_such_group)
{
    g_autoptr(JsonNode) options = parse(
        "{\"driver\": \"throttle\", \"node-name\": \"t\","
        " \"throttle-group\": \"s\", \"file\": {\"driver\": \"null-co\"}}");
    g_autoptr(GError) err = NULL;

    add_object("{\"qom-type\": \"secret\", \"id\": \"s\", \"data\": \"x\"}");
    bdrv_graph_lock();
    ck_assert_ptr_null(bdrv_open(json_node_get_object(options), &err));
    bdrv_graph_unlock();
    ck_assert_str_eq(err->message, "Throttle group 's' does not exist");
    ck_assert(object_del("s", NULL));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("throttle");
    TCase *tc = tcase_create("throttle");

    tcase_add_loop_test(tc, test_taking_turns, 0, 2);
    tcase_add_test(tc, test_lines_apart);
    tcase_add_test(tc, test_limits_that_change);
    tcase_add_loop_test(tc, test_drain, 0, 2);
    tcase_add_test(tc, test_cancel);
    tcase_add_test(tc, test_read_that_would_not_wait);
    tcase_add_test(tc, test_counted);
    tcase_add_test(tc, test_no_such_group);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
