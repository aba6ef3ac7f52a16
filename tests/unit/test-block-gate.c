/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Drain, and changes of the graph under requests in flight */
#include <errno.h>
#include <string.h>

#include "mem-driver.h"
#include "unit-main.h"

#define LENGTH 65536
#define RW (BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE)

static BlockBackend *attach_new(const char *user, bool is_job, uint64_t perm,
                                uint64_t shared, BlockDriverState *bs)
{
    BlockBackend *blk = blk_new(user, is_job, perm, shared);
    g_autoptr(GError) err = NULL;

    ck_assert_msg(blk_attach(blk, bs, &err), "%s", err ? err->message : "");
    return blk;
}

/* ---- threads that send requests ----------------------------------------- */

typedef struct Sender {
    BlockBackend *blk;
    int slot;
    int *stop; /* atomic */
    pthread_t thread;
    int64_t sent; /* writes, each with its number as its contents */
} Sender;

static int64_t slot_value(const uint8_t *data, int slot)
{
    int64_t value;

    memcpy(&value, data + slot * 512, sizeof(value));
    return value;
}

static void *sender(void *opaque)
{
    Sender *s = opaque;

    while (!g_atomic_int_get(s->stop)) {
        uint8_t buf[512];

        s->sent++;
        memset(buf, 0, sizeof(buf));
        memcpy(buf, &s->sent, sizeof(s->sent));
        ck_assert_int_eq(blk_pwrite(s->blk, s->slot * 512, 512, buf, 0), 0);
        ck_assert_int_eq(blk_pread(s->blk, s->slot * 512, 512, buf, 0), 0);
        ck_assert_int_eq(slot_value(buf, 0), s->sent);
    }
    return NULL;
}

#define SENDERS 4

static void start_senders(Sender *s, BlockBackend *blk, int *stop)
{
    int i;

    for (i = 0; i < SENDERS; i++) {
        s[i] = (Sender){ .blk = blk, .slot = i, .stop = stop };
        pthread_create(&s[i].thread, NULL, sender, &s[i]);
    }
}

/* Returns how many writes there were. */
static int64_t stop_senders(Sender *s)
{
    int64_t sum = 0;
    int i;

    g_atomic_int_set(s->stop, 1);
    for (i = 0; i < SENDERS; i++) {
        pthread_join(s[i].thread, NULL);
        sum += s[i].sent;
    }
    return sum;
}

/* ---- drain -------------------------------------------------------------- */

/* A request that stays in the driver until it is let go */
typedef struct Stop {
    Mutex lock;
    Cond cond;
    bool arrived, go;
    int left; /* atomic */
} Stop;

static int stop_hook(MemDisk *disk, MemOp op, int64_t offset, int64_t bytes)
{
    Stop *stop = disk->opaque;

    if (op == MEM_WRITE) {
        mutex_lock(&stop->lock);
        stop->arrived = true;
        cond_broadcast(&stop->cond);
        while (!stop->go) {
            cond_wait(&stop->cond, &stop->lock);
        }
        mutex_unlock(&stop->lock);
        g_atomic_int_set(&stop->left, 1);
    }
    return 0;
}

static void *write_once(void *opaque)
{
    uint8_t buf[512] = { 1 };

    return GINT_TO_POINTER(blk_pwrite(opaque, 0, 512, buf, 0));
}

static void *let_go(void *opaque)
{
    Stop *stop = opaque;

    mutex_lock(&stop->lock);
    stop->go = true;
    cond_broadcast(&stop->cond);
    mutex_unlock(&stop->lock);
    return NULL;
}

START_TEST(test_drain_waits)
{
    Stop stop = { .lock = MUTEX_INIT };
    MemDisk *disk = mem_disk_new(LENGTH, 512);
    BlockDriverState *bs;
    BlockBackend *blk;
    pthread_t writer, releaser;
    void *ret;

    cond_init(&stop.cond);
    disk->hook = stop_hook;
    disk->opaque = &stop;
    bdrv_graph_lock();
    bs = mem_node_new(&mem_driver, "disk", disk);
    blk = attach_new("writer", false, RW, BLK_PERM_ALL, bs);

    pthread_create(&writer, NULL, write_once, blk);
    mutex_lock(&stop.lock);
    while (!stop.arrived) {
        cond_wait(&stop.cond, &stop.lock);
    }
    mutex_unlock(&stop.lock);
    pthread_create(&releaser, NULL, let_go, &stop);
    bdrv_drained_begin(bs);
    ck_assert_int_eq(g_atomic_int_get(&stop.left), 1);
    ck_assert_int_eq(disk->data[0], 1);
    bdrv_drained_end(bs);
    pthread_join(writer, &ret);
    pthread_join(releaser, NULL);
    ck_assert_int_eq(GPOINTER_TO_INT(ret), 0);

    blk_free(blk);
    bdrv_unref(bs);
    bdrv_graph_unlock();
    mem_disk_free(disk);
    cond_destroy(&stop.cond);
}
END_TEST

static int drained; /* atomic */

static int not_drained_hook(MemDisk *disk, MemOp op, int64_t offset,
                            int64_t bytes)
{
    ck_assert_int_eq(g_atomic_int_get(&drained), 0);
    sched_yield();
    ck_assert_int_eq(g_atomic_int_get(&drained), 0);
    return 0;
}

/* Through a node in between; nested, from below and from the node itself */
START_TEST(test_drain_excludes)
{
    MemDisk *disk = mem_disk_new(LENGTH, 512);
    g_autoptr(JsonNode) options = json_from_string(
        "{'driver':'raw','node-name':'raw','file':'disk'}", NULL);
    BlockDriverState *bs, *raw;
    BlockBackend *blk;
    Sender senders[SENDERS];
    int64_t writes;
    int stop = 0;
    int i;

    disk->hook = not_drained_hook;
    bdrv_graph_lock();
    bs = mem_node_new(&mem_driver, "disk", disk);
    raw = bdrv_open(json_node_get_object(options), NULL);
    blk = attach_new("senders", false, RW, BLK_PERM_ALL, raw);
    start_senders(senders, blk, &stop);
    for (i = 0; i < 300; i++) {
        bdrv_drained_begin(i % 2 ? bs : raw);
        g_atomic_int_set(&drained, 1);
        bdrv_drained_begin(i % 3 ? bs : raw);
        sched_yield();
        bdrv_drained_end(i % 2 ? bs : raw);
        sched_yield();
        g_atomic_int_set(&drained, 0);
        bdrv_drained_end(i % 3 ? bs : raw);
    }
    bdrv_graph_unlock();
    writes = stop_senders(senders);
    ck_assert_int_eq(mem_count(disk, MEM_WRITE), writes);

    bdrv_graph_lock();
    disk->hook = NULL;
    blk_free(blk);
    ck_assert(bdrv_monitor_del("raw", NULL));
    bdrv_unref(bs);
    bdrv_graph_unlock();
    mem_disk_free(disk);
}
END_TEST

START_TEST(test_attach_while_drained)
{
    MemDisk *disk = mem_disk_new(LENGTH, 512);
    BlockDriverState *bs;
    BlockBackend *blk;
    pthread_t writer;
    void *ret;

    disk->hook = not_drained_hook;
    bdrv_graph_lock();
    bs = mem_node_new(&mem_driver, "disk", disk);
    bdrv_drained_begin(bs);
    g_atomic_int_set(&drained, 1);
    blk = attach_new("late", false, RW, BLK_PERM_ALL, bs);
    pthread_create(&writer, NULL, write_once, blk);
    sched_yield();
    ck_assert_int_eq(mem_count(disk, MEM_WRITE), 0);
    g_atomic_int_set(&drained, 0);
    bdrv_drained_end(bs);
    pthread_join(writer, &ret);
    ck_assert_int_eq(GPOINTER_TO_INT(ret), 0);

    /* And what is detached within a drain is drained no more. */
    bdrv_drained_begin(bs);
    blk_detach(blk);
    bdrv_drained_end(bs);
    ck_assert_int_eq(GPOINTER_TO_INT(write_once(blk)), -ENOMEDIUM);
    blk_free(blk);
    bdrv_unref(bs);
    bdrv_graph_unlock();
    mem_disk_free(disk);
}
END_TEST

/* A request that waits at the gate, now or soon, gives up. */
START_TEST(test_cancel_at_gate)
{
    MemDisk *disk = mem_disk_new(LENGTH, 512);
    BlockDriverState *bs;
    BlockBackend *blk;
    pthread_t writers[4];
    void *ret;
    int i;

    bdrv_graph_lock();
    bs = mem_node_new(&mem_driver, "disk", disk);
    blk = attach_new("writer", false, RW, BLK_PERM_ALL, bs);
    bdrv_drained_begin(bs);
    for (i = 0; i < 4; i++) {
        pthread_create(&writers[i], NULL, write_once, blk);
    }
    blk_cancel_waits(blk);
    for (i = 0; i < 4; i++) {
        pthread_join(writers[i], &ret);
        ck_assert_int_eq(GPOINTER_TO_INT(ret), -ECANCELED);
    }
    ck_assert_int_eq(mem_count(disk, MEM_WRITE), 0);
    bdrv_drained_end(bs);
    ck_assert_int_eq(GPOINTER_TO_INT(write_once(blk)), 0);
    blk_free(blk);
    bdrv_unref(bs);
    bdrv_graph_unlock();
    mem_disk_free(disk);
}
END_TEST

/* The latency of null-co is a wait like others. */
START_TEST(test_cancel_latency)
{
    g_autoptr(JsonNode) options = json_from_string(
        "{'driver':'null-co','node-name':'n','latency-ns':3600000000000}",
        NULL);
    BlockDriverState *bs;
    BlockBackend *blk;
    pthread_t writer;
    void *ret;

    bdrv_graph_lock();
    bs = bdrv_open(json_node_get_object(options), NULL);
    blk = attach_new("writer", false, RW, BLK_PERM_ALL, bs);
    pthread_create(&writer, NULL, write_once, blk);
    blk_cancel_waits(blk);
    pthread_join(writer, &ret);
    ck_assert_int_eq(GPOINTER_TO_INT(ret), -ECANCELED);
    blk_free(blk);
    ck_assert(bdrv_monitor_del("n", NULL));
    bdrv_graph_unlock();
}
END_TEST

/* ---- pivot -------------------------------------------------------------- */

START_TEST(test_pivot)
{
    MemDisk *disks[2];
    BlockDriverState *nodes[2];
    BlockBackend *blk, *job;
    Sender senders[SENDERS];
    int64_t writes;
    int stop = 0;
    int i;

    bdrv_graph_lock();
    for (i = 0; i < 2; i++) {
        disks[i] = mem_disk_new(LENGTH, i ? 4096 : 1);
        nodes[i] = mem_node_new(&mem_driver, i ? "b" : "a", disks[i]);
    }
    blk = attach_new("guest", false, RW, BLK_PERM_ALL, nodes[0]);
    job = attach_new("job", true, RW, BLK_PERM_ALL, nodes[0]);
    start_senders(senders, blk, &stop);
    for (i = 0; i < 500; i++) {
        int from = i % 2;
        int to = !from;
        BlockDriverState *bs;

        sched_yield();
        bdrv_drained_begin(nodes[from]);
        memcpy(disks[to]->data, disks[from]->data, LENGTH);
        ck_assert(bdrv_replace_node(nodes[from], nodes[to], NULL));
        bs = blk_get_bs(blk);
        ck_assert_ptr_eq(bs, nodes[to]);
        bdrv_unref(bs);
        bdrv_drained_end(nodes[from]);
    }
    /* The job's own stays where it was. */
    ck_assert_uint_eq(nodes[0]->parents->len, 2);
    bdrv_graph_unlock();
    writes = stop_senders(senders);
    for (i = 0; i < SENDERS; i++) {
        ck_assert_int_eq(slot_value(disks[0]->data, i), senders[i].sent);
    }
    /* A write of 512 bytes is one request there, and one here, too. */
    ck_assert_int_eq(mem_count(disks[0], MEM_WRITE) +
                         mem_count(disks[1], MEM_WRITE),
                     writes);

    bdrv_graph_lock();
    blk_free(job);
    blk_free(blk);
    for (i = 0; i < 2; i++) {
        bdrv_unref(nodes[i]);
        mem_disk_free(disks[i]);
    }
    bdrv_graph_unlock();
}
END_TEST

START_TEST(test_pivot_refused)
{
    MemDisk *disks[2];
    BlockDriverState *nodes[2];
    BlockBackend *guest, *reader, *jealous;
    g_autoptr(GError) err = NULL;
    int i;

    bdrv_graph_lock();
    for (i = 0; i < 2; i++) {
        disks[i] = mem_disk_new(LENGTH, 1);
        nodes[i] = mem_node_new(&mem_driver, i ? "b" : "a", disks[i]);
    }
    reader = attach_new("reader", false, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL,
                        nodes[0]);
    guest = attach_new("guest", false, RW, BLK_PERM_ALL, nodes[0]);
    jealous = attach_new("jealous", true, BLK_PERM_CONSISTENT_READ,
                         BLK_PERM_CONSISTENT_READ, nodes[1]);
    bdrv_drained_begin(nodes[0]);
    ck_assert(!bdrv_replace_node(nodes[0], nodes[1], &err));
    ck_assert_str_eq(err->message,
                     "Permission conflict on node 'b': permissions 'write' are "
                     "both required by guest (uses node 'b' as 'root' child) "
                     "and unshared by jealous (uses node 'b' as 'root' "
                     "child).");
    bdrv_drained_end(nodes[0]);
    ck_assert_uint_eq(nodes[0]->parents->len, 2);
    ck_assert_uint_eq(nodes[1]->parents->len, 1);
    ck_assert_uint_eq(nodes[0]->perm, RW);
    ck_assert_uint_eq(nodes[1]->perm, BLK_PERM_CONSISTENT_READ);
    ck_assert_int_eq(nodes[0]->refcnt, 3);
    ck_assert_int_eq(nodes[1]->refcnt, 2);
    ck_assert_int_eq(GPOINTER_TO_INT(write_once(guest)), 0);
    ck_assert_int_eq(disks[0]->data[0], 1);

    blk_free(guest);
    blk_free(reader);
    blk_free(jealous);
    for (i = 0; i < 2; i++) {
        bdrv_unref(nodes[i]);
        mem_disk_free(disks[i]);
    }
    bdrv_graph_unlock();
}
END_TEST

/* ---- filters ------------------------------------------------------------ */

typedef struct Counting {
    int writes; /* atomic */
} Counting;

static int counting_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                           const struct iovec *iov, int niov, int flags)
{
    return bdrv_preadv(bs->file->bs, offset, bytes, iov, niov, flags);
}

static int counting_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                            const struct iovec *iov, int niov, int flags)
{
    Counting *s = bs->opaque;

    g_atomic_int_inc(&s->writes);
    return bdrv_pwritev(bs->file->bs, offset, bytes, iov, niov, flags);
}

static const BlockDriver counting_driver = {
    .format_name = "counting",
    .kind = BLOCK_DRIVER_FILTER,
    .instance_size = sizeof(Counting),
    .preadv = counting_preadv,
    .pwritev = counting_pwritev,
};

START_TEST(test_filter)
{
    MemDisk *disk = mem_disk_new(LENGTH, 512);
    BlockDriverState *bs, *filter;
    BlockBackend *blk, *job;
    Sender senders[SENDERS];
    Counting *counting;
    int64_t writes, pnum;
    int stop = 0;
    int i;

    bdrv_graph_lock();
    bs = mem_node_new(&mem_driver, "disk", disk);
    blk = attach_new("guest", false, RW, BLK_PERM_ALL, bs);
    job = attach_new("job", true, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, bs);
    filter = bdrv_new_internal(&counting_driver, NULL, NULL);
    counting = filter->opaque;
    start_senders(senders, blk, &stop);
    for (i = 0; i < 200; i++) {
        int before, after;

        ck_assert(bdrv_insert_filter(filter, bs, NULL));
        ck_assert_ptr_eq(filter->file->bs, bs);
        ck_assert_uint_eq(filter->parents->len, 1);
        ck_assert_uint_eq(bs->parents->len, 2);
        ck_assert_uint_eq(filter->file->perm, RW);
        ck_assert_int_eq(blk_getlength(blk), LENGTH);
        before = mem_count(disk, MEM_WRITE);
        while (mem_count(disk, MEM_WRITE) < before + 10) {
            sched_yield();
        }
        bdrv_drained_begin(bs);
        after = g_atomic_int_get(&counting->writes);
        ck_assert_int_ge(after, 10);
        bdrv_drained_end(bs);
        ck_assert(bdrv_remove_filter(filter, NULL));
        ck_assert_ptr_null(filter->file);
        ck_assert_uint_eq(filter->parents->len, 0);
        ck_assert_uint_eq(filter->perm, 0);
        ck_assert_uint_eq(bs->parents->len, 2);
        g_atomic_int_set(&counting->writes, 0);
    }
    bdrv_graph_unlock();
    writes = stop_senders(senders);
    ck_assert_int_eq(mem_count(disk, MEM_WRITE), writes);

    bdrv_graph_lock();
    ck_assert(bdrv_insert_filter(filter, bs, NULL));
    disk->data[0] = 1;
    ck_assert_int_eq(blk_block_status(blk, 0, LENGTH, BDRV_WANT_ZERO, &pnum),
                     BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED |
                         BDRV_BLOCK_OFFSET_VALID);
    ck_assert_int_ge(pnum, 512);
    ck_assert(bdrv_remove_filter(filter, NULL));
    ck_assert_int_eq(filter->refcnt, 1);
    ck_assert_int_eq(bs->refcnt, 3);
    blk_free(blk);
    blk_free(job);
    bdrv_unref(filter);
    bdrv_unref(bs);
    bdrv_graph_unlock();
    mem_disk_free(disk);
}
END_TEST

/* ---- references --------------------------------------------------------- */

static void *finder(void *opaque)
{
    int *stop = opaque;

    while (!g_atomic_int_get(stop)) {
        BlockDriverState *bs = bdrv_find_node("n", NULL);
        BlockStats stats;

        if (bs) {
            BlockDriverState *file = bdrv_get_file(bs);

            ck_assert_ptr_nonnull(file);
            ck_assert_int_eq(bdrv_getlength(bs), 4096);
            bdrv_get_stats(bs, &stats);
            bdrv_unref_later(file);
            bdrv_unref_later(bs);
        }
    }
    return NULL;
}

/* Queries look at nodes that come and go. */
START_TEST(test_queries)
{
    pthread_t threads[3];
    int stop = 0;
    size_t i;
    int round;

    for (i = 0; i < G_N_ELEMENTS(threads); i++) {
        pthread_create(&threads[i], NULL, finder, &stop);
    }
    for (round = 0; round < 150; round++) {
        g_autoptr(JsonNode) options =
            json_from_string("{'driver':'raw','node-name':'n',"
                             "'file':{'driver':'null-co','size':4096}}",
                             NULL);
        BlockDriverState *bs;

        bdrv_graph_lock();
        bs = bdrv_open(json_node_get_object(options), NULL);
        /* Not while somebody still holds the last one */
        if (bs) {
            BlockBackend *blk =
                attach_new("u", false, BLK_PERM_WRITE, BLK_PERM_ALL, bs);

            ck_assert_int_eq(blk_pwrite(blk, 0, 1, "", 0), 0);
            blk_free(blk);
            ck_assert(bdrv_monitor_del("n", NULL));
        }
        bdrv_graph_unlock();
        sched_yield();
    }
    g_atomic_int_set(&stop, 1);
    for (i = 0; i < G_N_ELEMENTS(threads); i++) {
        pthread_join(threads[i], NULL);
    }
    ck_assert_ptr_null(bdrv_find_node("n", NULL));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("block-gate");
    TCase *tc = tcase_create("gate");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_drain_waits);
    tcase_add_test(tc, test_drain_excludes);
    tcase_add_test(tc, test_attach_while_drained);
    tcase_add_test(tc, test_cancel_at_gate);
    tcase_add_test(tc, test_cancel_latency);
    tcase_add_test(tc, test_pivot);
    tcase_add_test(tc, test_pivot_refused);
    tcase_add_test(tc, test_filter);
    tcase_add_test(tc, test_queries);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
