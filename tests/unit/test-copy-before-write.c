/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * copy-before-write and snapshot-access: who waits for whom, what readers see, and
 * for how long a target that hangs holds up anybody.
 */
#include <errno.h>
#include <string.h>

#include "block/copy-before-write.h"
#include "mem-driver.h"
#include "unit-main.h"

#define CLUSTER INT64_C(65536)
#define CLUSTERS 24
#define LENGTH (CLUSTERS * CLUSTER - 4096)
#define NOBODY_YET_US 100000

/* Requests that stop in the driver: one of a kind that touches a place */
typedef struct Stop {
    MemDisk *disk;
    MemOp op;
    int64_t offset;
    Mutex lock;
    Cond changed;
    bool armed, reached, go; /* lock */
} Stop;

static MemDisk *src, *dst;
static BlockDriverState *src_bs, *dst_bs;
static BlockBackend *guest, *reader;
static uint8_t *frozen;
static Stop stop;
static int fail_writes; /* atomic: to dst, errno */

static int hook(MemDisk *disk, MemOp op, int64_t offset, int64_t bytes)
{
    int error = g_atomic_int_get(&fail_writes);

    mutex_lock(&stop.lock);
    if (stop.armed && stop.disk == disk && stop.op == op &&
        offset <= stop.offset && stop.offset < offset + bytes) {
        stop.armed = false;
        stop.reached = true;
        cond_broadcast(&stop.changed);
        while (!stop.go) {
            cond_wait(&stop.changed, &stop.lock);
        }
    }
    mutex_unlock(&stop.lock);
    return disk == dst && op == MEM_WRITE ? -error : 0;
}

static void stop_at(MemDisk *disk, MemOp op, int64_t offset)
{
    MUTEX_GUARD(&stop.lock);
    stop.disk = disk;
    stop.op = op;
    stop.offset = offset;
    stop.armed = true;
    stop.reached = stop.go = false;
}

static void wait_reached(void)
{
    MUTEX_GUARD(&stop.lock);
    while (!stop.reached) {
        cond_wait(&stop.changed, &stop.lock);
    }
}

static void go_on(void)
{
    MUTEX_GUARD(&stop.lock);
    stop.go = true;
    cond_broadcast(&stop.changed);
}

static BlockDriverState *add_node(const char *text, GError **errp)
{
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    g_autoptr(GError) err = NULL;

    ck_assert_msg(schema_check(&blockdev_options_type, node, "", false, &err),
                  "%s", err ? err->message : "");
    return bdrv_open(json_node_get_object(node), errp);
}

static BlockBackend *user_of(BlockDriverState *bs, uint64_t perm)
{
    g_autoptr(GError) err = NULL;
    BlockBackend *blk = blk_new("user", false, perm, BLK_PERM_ALL);

    ck_assert_msg(blk_attach(blk, bs, &err), "%s", err ? err->message : "");
    return blk;
}

static void set_up(const char *options)
{
    g_autofree char *text =
        g_strdup_printf("{\"driver\":\"copy-before-write\",\"node-name\":"
                        "\"cbw\",\"discard\":\"unmap\",\"file\":\"src\","
                        "\"target\":\"dst\"%s}",
                        options);
    int64_t i;

    mutex_init(&stop.lock);
    cond_init(&stop.changed);
    stop.armed = false;
    fail_writes = 0;
    frozen = g_malloc0(LENGTH);
    for (i = 0; i < LENGTH; i++) {
        /* Every fifth is a hole */
        frozen[i] = i / CLUSTER % 5 == 4 ? 0 : 1 + i / CLUSTER;
    }
    src = mem_disk_new(LENGTH, 1);
    dst = mem_disk_new(LENGTH, 1);
    memcpy(src->data, frozen, LENGTH);
    bdrv_graph_lock();
    src_bs = mem_node_new(&mem_driver, "src", src);
    dst_bs = mem_node_new(&mem_driver, "dst", dst);
    src_bs->monitor_owned = dst_bs->monitor_owned = true;
    guest = user_of(add_node(text, NULL),
                    BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE);
    reader = user_of(
        add_node("{\"driver\":\"snapshot-access\",\"node-name\":\"access\","
                 "\"discard\":\"unmap\",\"file\":\"cbw\"}",
                 NULL),
        BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE);
    bdrv_graph_unlock();
    src->hook = dst->hook = hook;
}

static void tear_down(void)
{
    bdrv_graph_lock();
    blk_free(reader);
    blk_free(guest);
    ck_assert(bdrv_monitor_del("access", NULL));
    ck_assert(bdrv_monitor_del("cbw", NULL));
    ck_assert(bdrv_monitor_del("src", NULL));
    ck_assert(bdrv_monitor_del("dst", NULL));
    bdrv_graph_unlock();
    mem_disk_free(src);
    mem_disk_free(dst);
    g_free(frozen);
    cond_destroy(&stop.changed);
    mutex_destroy(&stop.lock);
}

static void assert_frozen(int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    ck_assert_int_eq(blk_pread(reader, offset, bytes, buf, 0), 0);
    ck_assert(memcmp(buf, frozen + offset, bytes) == 0);
}

/* ---- requests of others ------------------------------------------------- */

typedef struct Other {
    int64_t offset, bytes;
    bool reads;
    GThread *thread;
    Mutex lock;
    Cond changed;
    bool done; /* lock */
    int ret;
} Other;

static void *other_thread(void *opaque)
{
    Other *o = opaque;
    g_autofree uint8_t *buf = g_malloc(o->bytes);
    int ret;

    memset(buf, 0xee, o->bytes);
    if (o->reads) {
        ret = blk_pread(reader, o->offset, o->bytes, buf, 0);
        ck_assert(ret < 0 || memcmp(buf, frozen + o->offset, o->bytes) == 0);
    } else {
        ret = blk_pwrite(guest, o->offset, o->bytes, buf, 0);
    }
    mutex_lock(&o->lock);
    o->ret = ret;
    o->done = true;
    cond_broadcast(&o->changed);
    mutex_unlock(&o->lock);
    return NULL;
}

static Other *begin(bool reads, int64_t offset, int64_t bytes)
{
    Other *o = g_new0(Other, 1);

    o->offset = offset;
    o->bytes = bytes;
    o->reads = reads;
    mutex_init(&o->lock);
    cond_init(&o->changed);
    o->thread = g_thread_new("other", other_thread, o);
    return o;
}

static void assert_waits(Other *o)
{
    int64_t deadline = g_get_monotonic_time() + NOBODY_YET_US;
    MUTEX_GUARD(&o->lock);

    while (!o->done && cond_wait_until(&o->changed, &o->lock, deadline)) {
    }
    ck_assert(!o->done);
}

static int end(Other *o)
{
    int ret;

    g_thread_join(o->thread);
    ret = o->ret;
    cond_destroy(&o->changed);
    mutex_destroy(&o->lock);
    g_free(o);
    return ret;
}

/* ---- who waits for whom ------------------------------------------------- */

/* A reader in the file holds up those who write there, and nobody else. */
START_TEST(test_writer_waits_for_reader)
{
    Other *slow, *write;
    uint8_t buf[512] = { 1 };

    set_up("");
    stop_at(src, MEM_READ, 3 * CLUSTER + 100);
    slow = begin(true, 3 * CLUSTER, CLUSTER);
    wait_reached();
    write = begin(false, 3 * CLUSTER + 4096, 512);
    ck_assert_int_eq(blk_pwrite(guest, 2 * CLUSTER, 512, buf, 0), 0);
    assert_frozen(3 * CLUSTER, 8192);
    assert_waits(write);
    go_on();
    ck_assert_int_eq(end(slow), 0);
    ck_assert_int_eq(end(write), 0);
    assert_frozen(0, LENGTH);
    tear_down();
}
END_TEST

/* A copy that takes long does not hold up readers. */
START_TEST(test_reader_waits_for_nobody)
{
    Other *write;

    set_up("");
    stop_at(dst, MEM_WRITE, 3 * CLUSTER);
    write = begin(false, 3 * CLUSTER + 4096, 512);
    wait_reached();
    assert_frozen(0, LENGTH);
    go_on();
    ck_assert_int_eq(end(write), 0);
    assert_frozen(0, LENGTH);
    tear_down();
}
END_TEST

/* ---- many of them ------------------------------------------------------- */

static int ending; /* atomic */

static void *writer(void *opaque)
{
    GRand *rand = g_rand_new_with_seed(GPOINTER_TO_INT(opaque));
    g_autofree uint8_t *buf = g_malloc(3 * CLUSTER);
    int i;

    memset(buf, 200, 3 * CLUSTER);
    for (i = 0; i < 150; i++) {
        int64_t bytes = g_rand_int_range(rand, 1, 3 * CLUSTER);
        int64_t offset = g_rand_int_range(rand, 0, LENGTH - bytes);

        switch (g_rand_int_range(rand, 0, 4)) {
        case 0:
            ck_assert_int_eq(blk_pwrite_zeroes(guest, offset, bytes, 0), 0);
            break;
        case 1:
            ck_assert_int_eq(blk_pdiscard(guest, offset, bytes), 0);
            break;
        default:
            ck_assert_int_eq(blk_pwrite(guest, offset, bytes, buf, 0), 0);
            break;
        }
    }
    g_rand_free(rand);
    return NULL;
}

static void *frozen_reader(void *opaque)
{
    GRand *rand = g_rand_new_with_seed(GPOINTER_TO_INT(opaque));

    while (!g_atomic_int_get(&ending)) {
        int64_t bytes = g_rand_int_range(rand, 1, 3 * CLUSTER);
        int64_t offset = g_rand_int_range(rand, 0, LENGTH - bytes);
        int64_t pnum, i;
        int ret;

        assert_frozen(offset, bytes);
        ret = blk_block_status(reader, offset, bytes, BDRV_WANT_PRECISE, &pnum);
        ck_assert_int_ge(ret, 0);
        ck_assert_int_gt(pnum, 0);
        for (i = 0; (ret & BDRV_BLOCK_ZERO) && i < pnum; i++) {
            ck_assert_int_eq(frozen[offset + i], 0);
        }
    }
    g_rand_free(rand);
    return NULL;
}

START_TEST(test_many)
{
    GThread *threads[6];
    int i;

    set_up(_i ? ",\"cbw-timeout\":100" : "");
    g_atomic_int_set(&ending, 0);
    for (i = 0; i < 6; i++) {
        threads[i] = g_thread_new("user", i < 3 ? writer : frozen_reader,
                                  GINT_TO_POINTER(i + 1));
    }
    for (i = 0; i < 6; i++) {
        if (i == 3) {
            g_atomic_int_set(&ending, 1);
        }
        g_thread_join(threads[i]);
    }
    assert_frozen(0, LENGTH);
    tear_down();
}
END_TEST

/* ---- copies that are late, or fail -------------------------------------- */

static bool drained(int64_t us)
{
    bool ok;

    bdrv_graph_lock();
    ok = bdrv_try_drained_begin(dst_bs, g_get_monotonic_time() + us);
    if (ok) {
        bdrv_drained_end(dst_bs);
    }
    bdrv_graph_unlock();
    return ok;
}

/* The write fails; the copy belongs to the node for as long as it takes. */
START_TEST(test_late)
{
    uint8_t buf[512] = { 1 };
    int64_t before;

    set_up(",\"cbw-timeout\":1");
    stop_at(dst, MEM_WRITE, 3 * CLUSTER);
    before = g_get_monotonic_time();
    ck_assert_int_eq(blk_pwrite(guest, 3 * CLUSTER, 512, buf, 0), -ETIMEDOUT);
    ck_assert_int_ge(g_get_monotonic_time() - before, G_USEC_PER_SEC);
    ck_assert_int_eq(mem_count(src, MEM_WRITE), 0);
    ck_assert(!drained(1000));
    /* Others, and who reads, are in time. */
    ck_assert_int_eq(blk_pwrite(guest, 5 * CLUSTER, 512, buf, 0), 0);
    assert_frozen(0, LENGTH);
    go_on();
    ck_assert(drained(60 * G_USEC_PER_SEC));
    ck_assert_int_eq(blk_pwrite(guest, 3 * CLUSTER, 512, buf, 0), 0);
    assert_frozen(0, LENGTH);
    tear_down();
}
END_TEST

START_TEST(test_failure_breaks_write)
{
    uint8_t buf[512] = { 1 };

    set_up(_i ? ",\"cbw-timeout\":100" : "");
    g_atomic_int_set(&fail_writes, ENOSPC);
    ck_assert_int_eq(blk_pwrite(guest, 0, 512, buf, 0), -ENOSPC);
    ck_assert_int_eq(blk_pwrite_zeroes(guest, 0, 512, 0), -ENOSPC);
    ck_assert_int_eq(blk_pdiscard(guest, 0, CLUSTER), -ENOSPC);
    ck_assert_int_eq(memcmp(src->data, frozen, LENGTH), 0);
    g_atomic_int_set(&fail_writes, 0);
    ck_assert_int_eq(blk_pwrite(guest, 0, 512, buf, 0), 0);
    assert_frozen(0, LENGTH);
    tear_down();
}
END_TEST

/* Who is reading when the snapshot breaks has still read what was there. */
START_TEST(test_failure_breaks_snapshot)
{
    uint8_t buf[512] = { 1 };
    Other *slow, *write;
    int64_t pnum;

    set_up(_i ? ",\"on-cbw-error\":\"break-snapshot\",\"cbw-timeout\":100"
              : ",\"on-cbw-error\":\"break-snapshot\"");
    stop_at(src, MEM_READ, 3 * CLUSTER + 100);
    slow = begin(true, 3 * CLUSTER, CLUSTER);
    wait_reached();
    g_atomic_int_set(&fail_writes, ENOSPC);
    write = begin(false, 3 * CLUSTER, CLUSTER);
    assert_waits(write);
    go_on();
    ck_assert_int_eq(end(slow), 0);
    ck_assert_int_eq(end(write), 0);
    ck_assert_int_eq(src->data[3 * CLUSTER], 0xee);
    ck_assert_int_eq(blk_pread(reader, 8 * CLUSTER, 512, buf, 0), -EACCES);
    ck_assert_int_eq(
        blk_block_status(reader, 8 * CLUSTER, 512, BDRV_WANT_ZERO, &pnum),
        -EACCES);
    ck_assert_int_eq(blk_pwrite(guest, 9 * CLUSTER, 512, buf, 0), 0);
    ck_assert_int_eq(mem_count(dst, MEM_WRITE), 1);
    tear_down();
}
END_TEST

/* ---- discards ----------------------------------------------------------- */

/* What need not be kept is not copied, and cannot be read; the rest is kept. */
START_TEST(test_discard)
{
    int64_t length = 3 * CLUSTER;
    uint8_t buf[512] = { 1 };
    int i;

    set_up("");
    ck_assert_int_eq(blk_pdiscard(reader, 5 * CLUSTER + 1, length), 0);
    ck_assert_int_eq(blk_pdiscard(reader, 22 * CLUSTER, LENGTH - 22 * CLUSTER),
                     0);
    for (i = 0; i < CLUSTERS; i++) {
        bool kept = i < 22 && (i < 6 || i > 7);

        ck_assert_int_eq(blk_pread(reader, i * CLUSTER, 512, buf, 0),
                         kept ? 0 : -EACCES);
        ck_assert_int_eq(blk_pwrite(guest, i * CLUSTER, 512, buf, 0), 0);
    }
    ck_assert_int_eq(mem_count(dst, MEM_WRITE) + mem_count(dst, MEM_ZERO), 20);
    assert_frozen(0, 6 * CLUSTER);
    assert_frozen(8 * CLUSTER, 14 * CLUSTER);
    ck_assert_int_eq(blk_pread(reader, 0, LENGTH, frozen, 0), -EACCES);
    tear_down();
}
END_TEST

/* A reader holds up who writes to what was discarded meanwhile, too. */
START_TEST(test_discard_while_read)
{
    Other *slow, *write;

    set_up("");
    stop_at(src, MEM_READ, 3 * CLUSTER + 100);
    slow = begin(true, 3 * CLUSTER, CLUSTER);
    wait_reached();
    ck_assert_int_eq(blk_pdiscard(reader, 3 * CLUSTER, CLUSTER), 0);
    write = begin(false, 3 * CLUSTER, CLUSTER);
    assert_waits(write);
    go_on();
    ck_assert_int_eq(end(slow), 0);
    ck_assert_int_eq(end(write), 0);
    tear_down();
}
END_TEST

/* ---- what is refused ---------------------------------------------------- */

START_TEST(test_refused)
{
    g_autoptr(GError) err = NULL;
    BlockBackend *past;
    BlockDriverState *cbw;
    uint8_t buf[512] = { 1 };

    set_up("");
    ck_assert_int_eq(blk_pwrite(reader, 0, 512, buf, 0), -ENOTSUP);
    ck_assert_int_eq(blk_pwrite_zeroes(reader, 0, 512, 0), -ENOTSUP);
    past = blk_new("past", false, BLK_PERM_WRITE, BLK_PERM_ALL);
    bdrv_graph_lock();
    ck_assert(!blk_attach(past, src_bs, &err));
    g_clear_error(&err);
    blk_free(past);
    cbw = bdrv_find_node("cbw", NULL);
    ck_assert_int_lt(bdrv_resize(cbw, CLUSTER, &err), 0);
    g_clear_error(&err);
    ck_assert(!bdrv_monitor_del("cbw", &err));
    g_clear_error(&err);
    ck_assert(!add_node("{\"driver\":\"snapshot-access\",\"node-name\":\"a\","
                        "\"file\":\"src\"}",
                        &err));
    bdrv_unref(cbw);
    bdrv_graph_unlock();
    tear_down();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("copy-before-write");
    TCase *tc = tcase_create("snapshot");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_writer_waits_for_reader);
    tcase_add_test(tc, test_reader_waits_for_nobody);
    tcase_add_loop_test(tc, test_many, 0, 2);
    tcase_add_test(tc, test_late);
    tcase_add_loop_test(tc, test_failure_breaks_write, 0, 2);
    tcase_add_loop_test(tc, test_failure_breaks_snapshot, 0, 2);
    tcase_add_test(tc, test_discard);
    tcase_add_test(tc, test_discard_while_read);
    tcase_add_test(tc, test_refused);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
