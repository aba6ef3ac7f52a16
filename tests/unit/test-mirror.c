/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirror job, one thing after the other: what it copies, what it refuses,
 * how it ends, and that nothing is left of it whatever happens.
 */
#include <inttypes.h>
#include <string.h>

#include "block/mirror-int.h"
#include "job-harness.h"
#include "mirror-fixture.h"
#include "unit-main.h"

/* ---- one after the other ------------------------------------------------ */

START_TEST(test_pivot)
{
    uint8_t byte = 77;

    make_filled(5 * MiB + 513);
    start_mirror();
    wait_event("m:READY");
    assert_mirrored();
    ck_assert_int_eq(event_int("m:READY", "len"), 5 * MiB + 513);
    ck_assert_int_eq(event_int("m:READY", "offset"), 5 * MiB + 513);
    ck_assert_int_gt(mem_disk_count(mem_disk_of(target), MEM_FLUSH), 0);
    ck_assert_int_eq(blk_pwrite(guest, 5 * MiB + 512, 1, &byte, 0), 0);
    complete();
    wait_event("m:null");
    check_events("m:created m:running m:ready m:READY m:waiting m:pending "
                 "m:COMPLETED m:concluded m:null");
    ck_assert_int_eq(event_int("m:COMPLETED", "offset"), 5 * MiB + 513 + 513);
    ck_assert_int_eq(event_int("m:COMPLETED", "len"), 5 * MiB + 513 + 513);
    assert_mirrored();
    check_home(target);
    /* From now on the source stays as it is. */
    byte = 78;
    ck_assert_int_eq(blk_pwrite(guest, 0, 1, &byte, 0), 0);
    ck_assert_int_eq(mem_disk_data(mem_disk_of(target))[0], 78);
    ck_assert_int_ne(mem_disk_data(mem_disk_of(source))[0], 78);
    unmake();
}
END_TEST

static void attach_late(void *opaque)
{
    BlockBackend **late = opaque;

    *late = blk_new("late", false, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                    BLK_PERM_ALL);
    ck_assert(blk_attach(*late, source, NULL));
}

static void detach_late(void *opaque)
{
    blk_free(*(BlockBackend **)opaque);
}

/* Who comes to the source while it is mirrored goes on with the target, too. */
START_TEST(test_late_user)
{
    uint8_t byte = 77;
    BlockBackend *late;
    BlockDriverState *home;

    make_filled(3 * MiB);
    start_mirror();
    wait_event("m:READY");
    on_management(attach_late, &late);
    ck_assert_int_eq(blk_pwrite(late, 12345, 1, &byte, 0), 0);
    complete();
    wait_event("m:null");
    assert_mirrored();
    check_home(target);
    home = blk_get_bs(late);
    ck_assert_ptr_eq(home, target);
    bdrv_unref_later(home);
    byte = 78;
    ck_assert_int_eq(blk_pwrite(late, 0, 1, &byte, 0), 0);
    ck_assert_int_eq(mem_disk_data(mem_disk_of(target))[0], 78);
    ck_assert_int_ne(mem_disk_data(mem_disk_of(source))[0], 78);
    on_management(detach_late, &late);
    unmake();
}
END_TEST

START_TEST(test_soft_cancel)
{
    uint8_t byte = 77;

    make_filled(3 * MiB);
    start_mirror();
    wait_event("m:READY");
    ck_assert_int_eq(blk_pwrite(guest, 12345, 1, &byte, 0), 0);
    ck_assert_int_eq(blk_pdiscard(guest, 0, 8192), 0);
    ck_assert_int_eq(mem_disk_count(mem_disk_of(source), MEM_DISCARD), 1);
    soft_cancel();
    wait_event("m:null");
    check_events("m:created m:running m:ready m:READY m:waiting m:pending "
                 "m:COMPLETED m:concluded m:null");
    assert_mirrored();
    check_home(source);
    /* Never by discard */
    ck_assert_int_eq(mem_disk_count(mem_disk_of(target), MEM_DISCARD), 0);
    unmake();
}
END_TEST

START_TEST(test_empty)
{
    make_filled(0);
    start_mirror();
    wait_event("m:READY");
    ck_assert_int_eq(event_int("m:READY", "len"), 0);
    complete();
    wait_event("m:null");
    check_home(target);
    unmake();
}
END_TEST

/* Every granularity, buffers of any size, and ends of disks that fit neither */
START_TEST(test_sizes)
{
    static const int64_t granularities[] = {
        0, 512, 4096, 65536, MiB, 64 * MiB
    };
    static const int64_t buffers[] = { 0, 1, 65537, MiB + 1, 64 * MiB };
    static const int64_t lengths[] = { 1, 511, 65536, 2 * MiB + 4095 };
    size_t g, b, l;

    for (g = 0; g < G_N_ELEMENTS(granularities); g++) {
        for (b = 0; b < G_N_ELEMENTS(buffers); b++) {
            for (l = 0; l < G_N_ELEMENTS(lengths); l++) {
                Start start = defaults();

                make_filled(lengths[l]);
                start.options.granularity = granularities[g];
                start.options.buf_size = buffers[b];
                start_with(&start);
                wait_event("m:READY");
                assert_mirrored();
                ck_assert_int_eq(event_int("m:READY", "offset"), lengths[l]);
                soft_cancel();
                wait_event("m:null");
                unmake();
            }
        }
    }
}
END_TEST

/* What is zero costs no read, and no write where the target is known to be. */
START_TEST(test_zeroes)
{
    MemDisk *src, *dst;
    Start start = defaults();
    int i;

    for (i = 0; i < 3; i++) {
        make_filled(16 * MiB);
        src = mem_disk_of(source);
        dst = mem_disk_of(target);
        memset(mem_disk_data(src), 0, 16 * MiB);
        mem_disk_fill(dst, 0);
        ck_assert_int_eq(blk_pwrite_zeroes(guest, 0, 16 * MiB, 0), 0);
        ck_assert_int_eq(
            blk_pwrite(guest, 5 * MiB, 4096, mem_disk_data(dst), 0), 0);
        memset(mem_disk_data(dst), i == 0 ? 3 : 0, 16 * MiB);
        if (i == 0) {
            mem_disk_hide_zeroes(dst);
        } else if (i == 1) {
            /* Knows itself that it is zero */
            bdrv_graph_lock();
            bdrv_pwrite_zeroes(target, 0, 16 * MiB, 0);
            bdrv_graph_unlock();
        } else {
            mem_disk_hide_zeroes(dst);
            start.options.target_is_zero = true;
        }
        start_with(&start);
        wait_event("m:READY");
        assert_mirrored();
        ck_assert_int_eq(mem_disk_bytes(src, MEM_READ), 64 * KiB);
        ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE), 64 * KiB);
        ck_assert_int_eq(mem_disk_bytes(dst, MEM_ZERO),
                         i == 0   ? 16 * MiB - 64 * KiB
                         : i == 1 ? 16 * MiB
                                  : 0);
        /* What was data on the target must be written when it is zeroed. */
        ck_assert_int_eq(blk_pwrite_zeroes(guest, 5 * MiB, 64 * KiB, 0), 0);
        ck_assert_int_eq(blk_pwrite_zeroes(guest, 7 * MiB, 64 * KiB, 0), 0);
        soft_cancel();
        wait_event("m:null");
        assert_mirrored();
        ck_assert_int_eq(mem_disk_bytes(dst, MEM_ZERO),
                         i == 0   ? 16 * MiB
                         : i == 1 ? 16 * MiB + 64 * KiB
                                  : 64 * KiB);
        unmake();
    }
}
END_TEST

START_TEST(test_refusals)
{
    Start start;
    int64_t length = MiB;

    make_filled(length);
#define REFUSED(member, value, message)                                        \
    do {                                                                       \
        start = defaults();                                                    \
        start.options.member = (value);                                        \
        refused(&start, message);                                              \
    } while (0)
    REFUSED(job.id, NULL, "Invalid job ID ''");
    REFUSED(job.speed, -1, "Parameter 'speed' expects a non-negative value");
    REFUSED(device, "nope", "Cannot find device='nope' nor node-name='nope'");
    REFUSED(target, "nope", "Cannot find device='nope' nor node-name='nope'");
    REFUSED(target, "src", "Can't mirror node into itself");
    REFUSED(granularity, 256,
            "Parameter 'granularity' expects a value in range [512B, 64MB]");
    REFUSED(granularity, 128 * MiB,
            "Parameter 'granularity' expects a value in range [512B, 64MB]");
    REFUSED(granularity, -512,
            "Parameter 'granularity' expects a value in range [512B, 64MB]");
    REFUSED(granularity, 513, "Parameter 'granularity' expects a power of 2");
    REFUSED(buf_size, -1, "Invalid parameter 'buf-size'");
    REFUSED(buf_size, 1024 * MiB + 1,
            "Parameter 'buf-size' expects at most 1073741824, not 1073741825");
    REFUSED(filter_node_name, "src", "Duplicate nodes with node-name='src'");
    REFUSED(filter_node_name, "a b", "Invalid node-name: 'a b'");
    start_mirror();
    wait_event("m:READY");
    start = defaults();
    refused(&start, "Need a root block node");
    unmake();
}
END_TEST

typedef struct Other {
    const char *name;
    int64_t length;
    BlockDriverState *bs;
} Other;

static void add_other(void *opaque)
{
    Other *other = opaque;

    other->bs = mem_disk_new(other->name, other->length);
}

static void remove_other(void *opaque)
{
    Other *other = opaque;

    bdrv_unref(other->bs);
}

static void set_read_only(void *opaque)
{
    bdrv_set_read_only(opaque, true);
}

START_TEST(test_nodes_refused)
{
    Start start = defaults();
    Other small = { "small", MiB - 1 };
    Other third = { "third", MiB };

    make_filled(MiB);
    on_management(add_other, &small);
    on_management(add_other, &third);
    start.options.target = "small";
    refused(&start, "Source and target image have different sizes");
    start.options.device = "small";
    start.options.target = "dst";
    refused(&start, "Source and target image have different sizes");

    start_mirror();
    wait_event("m:READY");
    start = defaults();
    start.options.job.id = "n";
    start.options.device = "third";
    forget_events();
    refused(&start, "Node 'dst' is busy: block device is in use by block job: "
                    "mirror");
    start.options.target = "filter";
    refused(&start, "Node 'filter' is busy: block device is in use by block "
                    "job: mirror");
    job_cancel_all_sync();

    on_management(set_read_only, target);
    start = defaults();
    refused(&start, "Block node 'dst' is read-only");
    on_management(remove_other, &small);
    on_management(remove_other, &third);
    unmake();
}
END_TEST

/* ---- between two steps of a worker ---------------------------------------- */

/* A granule is written while it is in a worker's hands: nobody else takes it. */
START_TEST(test_rewritten_in_flight)
{
    uint8_t byte = 7;
    MemDisk *dst;
    int64_t writes;

    make_filled(4 * MiB);
    dst = mem_disk_of(target);
    mem_disk_forbid_overlap(dst);
    start_mirror();
    wait_event("m:READY");
    writes = mem_disk_count(dst, MEM_WRITE);
    mem_disk_hold(dst, MEM_WRITE, 0);
    ck_assert_int_eq(blk_pwrite(guest, 0, 1, &byte, 0), 0);
    mem_disk_wait_held(dst);
    byte++;
    ck_assert_int_eq(blk_pwrite(guest, 0, 1, &byte, 0), 0);
    /* Others are copied meanwhile: twice the workers have looked for more. */
    ck_assert_int_eq(blk_pwrite(guest, 2 * MiB, 1, &byte, 0), 0);
    mem_disk_wait_count(dst, MEM_WRITE, writes + 2);
    ck_assert_int_eq(blk_pwrite(guest, 3 * MiB, 1, &byte, 0), 0);
    mem_disk_wait_count(dst, MEM_WRITE, writes + 3);
    mem_disk_let_go(dst);
    finish_and_compare();
    unmake();
}
END_TEST

/* Zeroes before it do not take it along. */
START_TEST(test_zeroed_in_flight)
{
    uint8_t byte = 7;
    MemDisk *dst;
    int64_t writes, zeroes;

    make_filled(4 * MiB);
    dst = mem_disk_of(target);
    mem_disk_forbid_overlap(dst);
    start_mirror();
    wait_event("m:READY");
    writes = mem_disk_count(dst, MEM_WRITE);
    zeroes = mem_disk_count(dst, MEM_ZERO);
    mem_disk_hold(dst, MEM_WRITE, 0);
    ck_assert_int_eq(blk_pwrite(guest, MiB + 64 * KiB, 1, &byte, 0), 0);
    mem_disk_wait_held(dst);
    /* Data first, so that zeroing it is known to be needed */
    ck_assert_int_eq(blk_pwrite(guest, MiB, 1, &byte, 0), 0);
    mem_disk_wait_count(dst, MEM_WRITE, writes + 2);
    ck_assert_int_eq(blk_pwrite_zeroes(guest, MiB, 128 * KiB, 0), 0);
    mem_disk_wait_count(dst, MEM_ZERO, zeroes + 1);
    mem_disk_let_go(dst);
    finish_and_compare();
    unmake();
}
END_TEST

/* The guest writes when the mirror's first request of that kind is answered. */
static void write_before_answer(MemRequest kind)
{
    MemDisk *src = mem_disk_of(source);
    uint8_t byte = 7;

    mem_disk_hold(src, kind, 0);
    start_mirror();
    mem_disk_wait_held(src);
    ck_assert_int_eq(blk_pwrite(guest, 4711, 1, &byte, 0), 0);
    mem_disk_let_go(src);
    wait_event("m:READY");
    finish_and_compare();
}

/* What is zero by its status is written before the answer is made use of. */
START_TEST(test_written_after_status)
{
    make(MiB);
    write_before_answer(MEM_STATUS);
    unmake();
}
END_TEST

/* What was read is written before it has got to the target. */
START_TEST(test_written_after_read)
{
    make(MiB);
    memset(mem_disk_data(mem_disk_of(source)), 1, MiB);
    mem_disk_hide_zeroes(mem_disk_of(source));
    write_before_answer(MEM_READ);
    unmake();
}
END_TEST

/* A guest that writes whenever something was copied: there is never a moment
 * when nothing is left. It gets ready nevertheless. */
static int never_pausing; /* atomic */

static void write_again(void *opaque)
{
    static uint8_t byte;

    if (g_atomic_int_get(&never_pausing)) {
        int64_t offset = byte++ % 2 * 512 * KiB;

        ck_assert_int_eq(blk_pwrite(guest, offset, 1, &byte, 0), 0);
    }
}

START_TEST(test_never_clean)
{
    Start start = defaults();

    /* One worker, so that the guest is one, too. Two granules are left. */
    start.options.buf_size = 128 * KiB;
    make(MiB);
    memset(mem_disk_data(mem_disk_of(source)), 1, MiB);
    mem_disk_hide_zeroes(mem_disk_of(source));
    g_atomic_int_set(&never_pausing, 1);
    mem_disk_after_write(mem_disk_of(target), write_again);
    start_with(&start);
    wait_event("m:READY");
    g_atomic_int_set(&never_pausing, 0);
    finish_and_compare();
    unmake();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("mirror");
    TCase *t = tcase_create("mirror");

    tcase_add_checked_fixture(t, mirror_set_up, mirror_tear_down);
    tcase_add_test(t, test_pivot);
    tcase_add_test(t, test_late_user);
    tcase_add_test(t, test_soft_cancel);
    tcase_add_test(t, test_empty);
    tcase_add_test(t, test_sizes);
    tcase_add_test(t, test_zeroes);
    tcase_add_test(t, test_refusals);
    tcase_add_test(t, test_nodes_refused);
    tcase_add_test(t, test_rewritten_in_flight);
    tcase_add_test(t, test_zeroed_in_flight);
    tcase_add_test(t, test_written_after_status);
    tcase_add_test(t, test_written_after_read);
    tcase_add_test(t, test_never_clean);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
