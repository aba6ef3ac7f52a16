/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirror job: that the copy is true whatever guests do meanwhile, that no
 * acknowledged write is lost when they move to it, and that nothing is left of
 * it whatever happens.
 */
#include <inttypes.h>
#include <string.h>

#include "block/dirty-bitmap.h"
#include "block/mirror.h"
#include "job-harness.h"
#include "mem-disk.h"
#include "unit-main.h"
#include "util/error.h"
#include "util/schema.h"

#define KiB INT64_C(1024)
#define MiB (KiB * KiB)

static BlockDriverState *source, *target;
static BlockBackend *guest;
static int threads_before;

static int count_threads(void)
{
    GDir *dir = g_dir_open("/proc/self/task", 0, NULL);
    int n = 0;

    ck_assert(dir != NULL);
    while (g_dir_read_name(dir)) {
        n++;
    }
    g_dir_close(dir);
    return n;
}

/* ---- source, target and guest ------------------------------------------- */

static void make_disks(void *opaque)
{
    int64_t *length = opaque;

    source = mem_disk_new("src", *length);
    target = mem_disk_new("dst", *length);
    guest = blk_new("guest", false, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                    BLK_PERM_ALL);
    ck_assert(blk_attach(guest, source, NULL));
    threads_before = count_threads();
}

static void make(int64_t length)
{
    on_management(make_disks, &length);
    mem_disk_fill(mem_disk_of(source), 1);
}

static void check_node(BlockDriverState *bs, guint parents)
{
    ck_assert_uint_eq(bs->parents->len, parents);
    ck_assert_uint_eq(bs->n_dirty_bitmaps, 0);
    ck_assert_int_eq(g_atomic_int_get(&bs->refcnt), 1 + parents);
}

static void remove_disks(void *opaque)
{
    BlockDriverState *home = blk_get_bs(guest);

    bdrv_unref(home);
    ck_assert(bdrv_find_node("filter", NULL) == NULL);
    check_node(source, home == source);
    check_node(target, home == target);
    blk_free(guest);
    bdrv_unref(source);
    bdrv_unref(target);
    guest = NULL;
}

/* The job is gone. */
static void unmake(void)
{
    int n;

    job_cancel_all_sync();
    on_management(remove_disks, NULL);
    /* The kernel may take its time to forget a thread that was joined. */
    do {
        n = count_threads();
    } while (n > threads_before);
    ck_assert_int_eq(n, threads_before);
}

typedef struct Start {
    MirrorOptions options;
    GError *err;
    bool ok;
} Start;

static void start_now(void *opaque)
{
    Start *start = opaque;

    start->ok = mirror_start(&start->options, &start->err);
}

static Start defaults(void)
{
    return (Start){ .options = { .job = { .id = "m",
                                          .auto_finalize = true,
                                          .auto_dismiss = true },
                                 .device = "src",
                                 .target = "dst",
                                 .filter_node_name = "filter" } };
}

static void start_with(const Start *with)
{
    Start start = *with;

    forget_events();
    on_management(start_now, &start);
    ck_assert_msg(start.ok, "%s", start.err ? start.err->message : "no error");
}

static void start_mirror(void)
{
    Start start = defaults();

    start_with(&start);
}

static void refused(const Start *with, const char *message)
{
    Start start = *with;
    g_autofree char *have = NULL;

    forget_events();
    on_management(start_now, &start);
    ck_assert(!start.ok);
    ck_assert_str_eq(start.err->message, message);
    g_error_free(start.err);
    have = events();
    ck_assert_msg(!*have || !strcmp(have, "m:created m:null"), "%s", have);
}

static void complete(void)
{
    verb_ok(job_verb_complete(JOB_FAMILY_ALL, "m", errp));
}

static void soft_cancel(void)
{
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "m", false, errp));
}

static void check_home(BlockDriverState *home)
{
    BlockDriverState *bs = blk_get_bs(guest);

    ck_assert(bs == home);
    bdrv_unref_later(bs);
}

static void assert_mirrored(void)
{
    mem_disk_assert_equal(mem_disk_of(source), mem_disk_of(target));
}

/* ---- one after the other ------------------------------------------------ */

START_TEST(test_pivot)
{
    uint8_t byte = 77;

    make(5 * MiB + 513);
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

    make(3 * MiB);
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

    make(3 * MiB);
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
    make(0);
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

                make(lengths[l]);
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
        make(16 * MiB);
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

    make(length);
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

    make(MiB);
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
                    "m");
    start.options.target = "filter";
    refused(&start, "Node 'filter' is busy: block device is in use by block "
                    "job: m");
    job_cancel_all_sync();

    on_management(set_read_only, target);
    start = defaults();
    refused(&start, "Block node 'dst' is read-only");
    on_management(remove_other, &small);
    on_management(remove_other, &third);
    unmake();
}
END_TEST

/* ---- errors ------------------------------------------------------------- */

typedef struct Failure {
    bool on_source;
    MemRequest kind;
    int n;
    const char *operation; /* NULL: it must not matter */
} Failure;

START_TEST(test_errors)
{
    static const Failure failures[] = {
        { true, MEM_READ, 0, "read" },    { true, MEM_READ, 3, "read" },
        { false, MEM_WRITE, 0, "write" }, { false, MEM_WRITE, 5, "write" },
        { false, MEM_ZERO, 0, "write" },  { false, MEM_FLUSH, 0, "write" },
        { true, MEM_STATUS, 0, NULL },    { true, MEM_STATUS, 2, NULL },
        { false, MEM_STATUS, 0, NULL },
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(failures); i++) {
        const Failure *f = &failures[i];
        g_autofree char *expected = NULL;

        make(8 * MiB);
        mem_disk_fill(mem_disk_of(target), 2);
        mem_disk_fail(mem_disk_of(f->on_source ? source : target), f->kind,
                      f->n, ENOSPC);
        start_mirror();
        if (f->operation) {
            wait_event("m:null");
            expected = g_strdup_printf(
                "m:created m:running m:ERROR(%s) m:aborting "
                "m:COMPLETED(No space left on device) m:concluded m:null",
                f->operation);
            check_events(expected);
        } else {
            wait_event("m:READY");
            assert_mirrored();
            soft_cancel();
            wait_event("m:null");
        }
        check_home(source);
        unmake();
    }
}
END_TEST

/* Errors after READY: while it follows, and in the last flushes */
START_TEST(test_late_errors)
{
    uint8_t byte = 1;
    int n;

    make(MiB);
    start_mirror();
    wait_event("m:READY");
    mem_disk_fail(mem_disk_of(target), MEM_WRITE, 0, EIO);
    ck_assert_int_eq(blk_pwrite(guest, 0, 1, &byte, 0), 0);
    wait_event("m:null");
    check_events("m:created m:running m:ready m:READY m:ERROR(write) "
                 "m:aborting m:COMPLETED(Input/output error) m:concluded "
                 "m:null");
    check_home(source);
    unmake();
    for (n = 0; n < 2; n++) {
        make(MiB);
        start_mirror();
        wait_event("m:READY");
        mem_disk_fail(mem_disk_of(target), MEM_FLUSH, n, EIO);
        complete();
        wait_event("m:null");
        check_events("m:created m:running m:ready m:READY m:ERROR(write) "
                     "m:aborting m:COMPLETED(Input/output error) m:concluded "
                     "m:null");
        check_home(source);
        unmake();
    }
}
END_TEST

/* A guest's failed write is mirrored, too: who knows what it did. */
START_TEST(test_guest_error)
{
    uint8_t byte = 9;

    make(MiB);
    start_mirror();
    wait_event("m:READY");
    mem_disk_fail(mem_disk_of(source), MEM_WRITE, 0, EIO);
    mem_disk_data(mem_disk_of(source))[70001] = 55;
    ck_assert_int_eq(blk_pwrite(guest, 70000, 1, &byte, 0), -EIO);
    soft_cancel();
    wait_event("m:null");
    assert_mirrored();
    unmake();
}
END_TEST

/* The pivot is refused: somebody else has come to use the target's disk. */
static void spoil_pivot(void *opaque)
{
    BlockBackend **blk = opaque;

    *blk =
        blk_new("spoiler", true, 0, BLK_PERM_ALL & ~BLK_PERM_CONSISTENT_READ);
    ck_assert(blk_attach(*blk, target, NULL));
}

static void unspoil(void *opaque)
{
    blk_free(*(BlockBackend **)opaque);
}

START_TEST(test_pivot_refused)
{
    BlockBackend *blk;
    g_autofree char *have = NULL;

    make(MiB);
    start_mirror();
    wait_event("m:READY");
    on_management(spoil_pivot, &blk);
    complete();
    wait_event("m:null");
    have = events();
    ck_assert(strstr(have, "m:aborting m:COMPLETED(Permission conflict on "
                           "node 'dst'"));
    check_home(source);
    on_management(unspoil, &blk);
    unmake();
}
END_TEST

/* ---- cancellation, pauses, speed ---------------------------------------- */

typedef struct Phase {
    bool on_source;
    MemRequest kind;
    int n;
    bool after_ready;
} Phase;

/* Cancel while some request is on its way; also by the end of the daemon. */
START_TEST(test_cancel_anywhere)
{
    static const Phase phases[] = {
        { false, MEM_STATUS, 0, false }, { true, MEM_STATUS, 0, false },
        { true, MEM_READ, 0, false },    { true, MEM_READ, 7, false },
        { false, MEM_WRITE, 2, false },  { false, MEM_ZERO, 1, false },
        { false, MEM_FLUSH, 0, false },  { false, MEM_FLUSH, 0, true },
        { false, MEM_FLUSH, 1, true },
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(phases); i++) {
        const Phase *p = &phases[i];
        MemDisk *disk;
        g_autofree char *have = NULL;

        make(8 * MiB);
        mem_disk_fill(mem_disk_of(target), 2);
        disk = mem_disk_of(p->on_source ? source : target);
        if (!p->after_ready) {
            mem_disk_hold(disk, p->kind, p->n);
            start_mirror();
        } else {
            start_mirror();
            wait_event("m:READY");
            mem_disk_hold(disk, p->kind, p->n);
            complete();
        }
        mem_disk_wait_held(disk);
        verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
        mem_disk_let_go(disk);
        wait_event("m:null");
        have = events();
        ck_assert_msg(g_str_has_suffix(have, "m:aborting m:CANCELLED "
                                             "m:concluded m:null"),
                      "%s", have);
        check_home(source);
        unmake();
    }
}
END_TEST

START_TEST(test_cancel_ready)
{
    make(MiB);
    start_mirror();
    wait_event("m:READY");
    verb_ok(job_verb_cancel(JOB_FAMILY_BLOCK, "m", true, errp));
    wait_event("m:null");
    check_events("m:created m:running m:ready m:READY m:aborting m:CANCELLED "
                 "m:concluded m:null");
    check_home(source);
    unmake();
}
END_TEST

START_TEST(test_pending)
{
    Start start = defaults();
    uint8_t byte = 5;

    start.options.job.auto_finalize = false;
    start.options.job.auto_dismiss = false;
    make(MiB);
    start_with(&start);
    wait_event("m:READY");
    complete();
    wait_event("m:PENDING");
    /* Guests are not held up, and what they write is not forgotten. */
    ck_assert_int_eq(blk_pwrite(guest, 99999, 1, &byte, 0), 0);
    verb_ok(job_verb_finalize(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:concluded");
    check_events("m:created m:running m:ready m:READY m:waiting m:pending "
                 "m:PENDING m:COMPLETED m:concluded");
    assert_mirrored();
    check_home(target);
    verb_ok(job_verb_dismiss(JOB_FAMILY_BLOCK, "m", errp));
    unmake();

    make(MiB);
    start_with(&start);
    wait_event("m:READY");
    complete();
    wait_event("m:PENDING");
    verb_ok(job_verb_cancel(JOB_FAMILY_ALL, "m", true, errp));
    wait_event("m:CANCELLED");
    wait_event("m:concluded");
    check_home(source);
    unmake();
}
END_TEST

START_TEST(test_pause)
{
    MemDisk *dst;
    int64_t writes;
    uint8_t byte = 5;

    make(8 * MiB);
    dst = mem_disk_of(target);
    mem_disk_hold(dst, MEM_WRITE, 0);
    start_mirror();
    mem_disk_wait_held(dst);
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "m", errp));
    mem_disk_let_go(dst);
    wait_event("m:paused");
    writes = mem_disk_count(dst, MEM_WRITE);
    ck_assert_int_eq(blk_pwrite(guest, 1, 1, &byte, 0), 0);
    ck_assert_int_eq(mem_disk_count(dst, MEM_WRITE), writes);
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:READY");
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:standby");
    complete();
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:null");
    check_home(target);
    assert_mirrored();
    unmake();
}
END_TEST

/* So slow that only the first request gets through */
START_TEST(test_speed)
{
    Start start = defaults();
    MemDisk *dst;

    start.options.job.speed = 1;
    make(8 * MiB);
    dst = mem_disk_of(target);
    memset(mem_disk_data(mem_disk_of(source)), 1, 8 * MiB);
    mem_disk_hide_zeroes(mem_disk_of(source));
    mem_disk_hold(dst, MEM_WRITE, 0);
    start_with(&start);
    mem_disk_wait_held(dst);
    mem_disk_let_go(dst);
    verb_ok(job_verb_pause(JOB_FAMILY_ALL, "m", errp));
    wait_event("m:paused");
    ck_assert_int_eq(mem_disk_bytes(dst, MEM_WRITE), 64 * KiB);
    verb_ok(job_verb_resume(JOB_FAMILY_ALL, "m", errp));
    verb_ok(job_verb_set_speed("m", 0, errp));
    wait_event("m:READY");
    assert_mirrored();
    unmake();
}
END_TEST

/* A guest's request hangs: the job stays READY, and goes on when it does. */
static void *hung_write(void *opaque)
{
    uint8_t byte = 123;

    ck_assert_int_eq(blk_pwrite(guest, 4711, 1, &byte, 0), 0);
    return NULL;
}

START_TEST(test_drain_not_reached)
{
    pthread_t thread;
    uint8_t byte = 1;
    MemDisk *src;

    make(MiB);
    start_mirror();
    wait_event("m:READY");
    src = mem_disk_of(source);
    mem_disk_hold(src, MEM_WRITE, 0);
    pthread_create(&thread, NULL, hung_write, NULL);
    mem_disk_wait_held(src);
    complete();
    /* The management thread comes back from its try, and others can write. */
    mem_disk_hold(mem_disk_of(target), MEM_FLUSH, 1);
    mem_disk_wait_held(mem_disk_of(target));
    ck_assert_int_eq(blk_pwrite(guest, 8000, 1, &byte, 0), 0);
    check_events("m:created m:running m:ready m:READY");
    mem_disk_let_go(mem_disk_of(target));
    mem_disk_let_go(src);
    wait_event("m:null");
    pthread_join(thread, NULL);
    check_home(target);
    assert_mirrored();
    ck_assert_int_eq(mem_disk_data(mem_disk_of(target))[4711], 123);
    unmake();
}
END_TEST

/* The same at the start: there is no job then, and all goes on. */
START_TEST(test_start_with_hung_request)
{
    Start start = defaults();
    pthread_t thread;
    uint8_t byte = 1;
    MemDisk *src;

    make(MiB);
    src = mem_disk_of(source);
    mem_disk_hold(src, MEM_WRITE, 0);
    pthread_create(&thread, NULL, hung_write, NULL);
    mem_disk_wait_held(src);
    refused(&start, "Node 'src' is busy: a request does not end");
    ck_assert_int_eq(blk_pwrite(guest, 8000, 1, &byte, 0), 0);
    mem_disk_let_go(src);
    pthread_join(thread, NULL);
    start_mirror();
    wait_event("m:READY");
    complete();
    wait_event("m:null");
    check_home(target);
    assert_mirrored();
    unmake();
}
END_TEST

/* ---- under load --------------------------------------------------------- */

#define WRITERS 4
#define RECORD 3000
#define LOAD_LENGTH (4 * MiB + 1234)
#define RECORDS (LOAD_LENGTH / RECORD)

/* The last that was acknowledged of each record; by its one writer */
static uint8_t acknowledged[RECORDS];

/* Writers stop when so many writes are done, until there is another budget: a
 * mirror that is slower than they are must get ready, too. */
#define BUDGET 400
static Mutex load_lock = MUTEX_INIT;
static Cond load_changed;
/* load_lock */
static int load_budget;
static bool load_over;

static void load_start(void)
{
    cond_init(&load_changed);
    load_budget = BUDGET;
    load_over = false;
}

static void load_refill(void)
{
    MUTEX_GUARD(&load_lock);
    load_budget = BUDGET;
    cond_broadcast(&load_changed);
}

static void load_end(void)
{
    MUTEX_GUARD(&load_lock);
    load_over = true;
    cond_broadcast(&load_changed);
}

/* May another write be done? */
static bool load_more(void)
{
    MUTEX_GUARD(&load_lock);

    while (load_budget == 0 && !load_over) {
        cond_wait(&load_changed, &load_lock);
    }
    load_budget--;
    return !load_over;
}

static void write_record(GRand *rand, int64_t record)
{
    int64_t offset = record * RECORD;
    uint8_t buf[RECORD];
    int ret;

    switch (g_rand_int_range(rand, 0, 4)) {
    case 0:
        ret = blk_pwrite_zeroes(guest, offset, RECORD, BDRV_REQ_MAY_UNMAP);
        acknowledged[record] = 0;
        break;
    case 1:
        ret = blk_pdiscard(guest, offset, RECORD);
        acknowledged[record] = 0;
        break;
    default:
        acknowledged[record] = g_rand_int_range(rand, 1, 256);
        memset(buf, acknowledged[record], RECORD);
        ret = blk_pwrite(guest, offset, RECORD, buf, 0);
    }
    ck_assert_int_eq(ret, 0);
}

static void *writer(void *opaque)
{
    guint me = GPOINTER_TO_UINT(opaque);
    GRand *rand = g_rand_new_with_seed(me);

    while (load_more()) {
        int64_t n = RECORDS / WRITERS;
        int64_t record = g_rand_int_range(rand, 0, n) * WRITERS + me;

        write_record(rand, record);
    }
    g_rand_free(rand);
    return NULL;
}

static void check_records(void)
{
    uint8_t buf[RECORD];
    int64_t record, i;

    for (record = 0; record / WRITERS < RECORDS / WRITERS; record++) {
        ck_assert_int_eq(blk_pread(guest, record * RECORD, RECORD, buf, 0), 0);
        for (i = 0; i < RECORD; i++) {
            ck_assert_msg(buf[i] == acknowledged[record],
                          "byte %" PRId64 " of record %" PRId64
                          " is %d, not %d",
                          i, record, buf[i], acknowledged[record]);
        }
    }
}

/*
 * Again and again, forth and back between two disks. Granules of several
 * sizes: small ones are copied while their neighbours are written, large ones
 * while they are written themselves.
 */
START_TEST(test_load)
{
    static const int64_t granularities[] = { 512, 4096, 65536 };
    int64_t length = LOAD_LENGTH;
    pthread_t threads[WRITERS];
    guint i;

    on_management(make_disks, &length);
    ck_assert_int_eq(blk_pwrite_zeroes(guest, 0, length, 0), 0);
    memset(acknowledged, 0, sizeof(acknowledged));
    load_start();
    mem_disk_forbid_overlap(mem_disk_of(target));
    for (i = 0; i < WRITERS; i++) {
        pthread_create(&threads[i], NULL, writer, GUINT_TO_POINTER(i));
    }
    for (i = 0; i < 24; i++) {
        Start start = defaults();
        bool back = i & 1;

        start.options.granularity = granularities[i % 3];
        start.options.buf_size = MiB;
        start.options.device = back ? "dst" : "src";
        start.options.target = back ? "src" : "dst";
        load_refill();
        start_with(&start);
        wait_event("m:READY");
        load_refill();
        complete();
        wait_event("m:null");
        check_home(back ? source : target);
    }
    load_end();
    for (i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    check_records();
    unmake();
}
END_TEST

/*
 * The copy that a soft cancellation leaves is one moment of the disk: one
 * writer goes round the records with rising numbers.
 */
static void *rounds(void *opaque)
{
    uint32_t n;

    for (n = 1; load_more(); n++) {
        int64_t record = n % RECORDS;

        ck_assert_int_eq(blk_pwrite(guest, record * RECORD, sizeof(n), &n, 0),
                         0);
    }
    return NULL;
}

static void check_moment(MemDisk *disk)
{
    uint32_t last = 0;
    uint32_t value;
    int64_t i;

    for (i = 0; i < RECORDS; i++) {
        memcpy(&value, mem_disk_data(disk) + i * RECORD, sizeof(value));
        last = MAX(last, value);
    }
    for (i = 0; i < RECORDS; i++) {
        uint32_t back = (last % RECORDS + RECORDS - i) % RECORDS;
        uint32_t expected = last >= back ? last - back : 0;

        memcpy(&value, mem_disk_data(disk) + i * RECORD, sizeof(value));
        ck_assert_msg(value == expected,
                      "record %" PRId64 " is %u, not %u; the last is %u", i,
                      value, expected, last);
    }
}

START_TEST(test_moment)
{
    int64_t length = LOAD_LENGTH;
    pthread_t thread;
    int i;

    on_management(make_disks, &length);
    load_start();
    pthread_create(&thread, NULL, rounds, NULL);
    for (i = 0; i < 12; i++) {
        Start start = defaults();

        start.options.buf_size = MiB;
        start.options.job.auto_finalize = i & 1;
        load_refill();
        start_with(&start);
        wait_event("m:READY");
        load_refill();
        soft_cancel();
        if (!(i & 1)) {
            wait_event("m:PENDING");
            load_refill();
            verb_ok(job_verb_finalize(JOB_FAMILY_ALL, "m", errp));
        }
        wait_event("m:null");
        check_moment(mem_disk_of(target));
        check_home(source);
    }
    load_end();
    pthread_join(thread, NULL);
    unmake();
}
END_TEST

/* Never less done than before, never more than there is */
static int watch_over;

static void *watch_progress(void *opaque)
{
    int64_t before = 0;

    while (!g_atomic_int_get(&watch_over)) {
        g_autoptr(JsonArray) rows = job_query_block();

        if (json_array_get_length(rows) > 0) {
            JsonObject *row = json_array_get_object_element(rows, 0);
            int64_t offset = schema_get_int(row, "offset", -1);

            ck_assert_int_ge(offset, before);
            ck_assert_int_le(offset, schema_get_int(row, "len", -1));
            before = offset;
        }
    }
    return NULL;
}

START_TEST(test_progress)
{
    int64_t length = LOAD_LENGTH;
    pthread_t threads[2];

    on_management(make_disks, &length);
    mem_disk_fill(mem_disk_of(source), 3);
    load_start();
    g_atomic_int_set(&watch_over, 0);
    start_mirror();
    pthread_create(&threads[0], NULL, writer, GUINT_TO_POINTER(0));
    pthread_create(&threads[1], NULL, watch_progress, NULL);
    wait_event("m:READY");
    load_refill();
    complete();
    wait_event("m:null");
    load_end();
    g_atomic_int_set(&watch_over, 1);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    ck_assert_int_eq(event_int("m:COMPLETED", "len"),
                     event_int("m:COMPLETED", "offset"));
    unmake();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("mirror");
    TCase *t = tcase_create("mirror");

    tcase_add_checked_fixture(t, harness_start, harness_stop);
    tcase_add_test(t, test_pivot);
    tcase_add_test(t, test_late_user);
    tcase_add_test(t, test_soft_cancel);
    tcase_add_test(t, test_empty);
    tcase_add_test(t, test_sizes);
    tcase_add_test(t, test_zeroes);
    tcase_add_test(t, test_refusals);
    tcase_add_test(t, test_nodes_refused);
    tcase_add_test(t, test_errors);
    tcase_add_test(t, test_late_errors);
    tcase_add_test(t, test_guest_error);
    tcase_add_test(t, test_pivot_refused);
    tcase_add_test(t, test_cancel_anywhere);
    tcase_add_test(t, test_cancel_ready);
    tcase_add_test(t, test_pending);
    tcase_add_test(t, test_pause);
    tcase_add_test(t, test_speed);
    tcase_add_test(t, test_drain_not_reached);
    tcase_add_test(t, test_start_with_hung_request);
    tcase_add_test(t, test_load);
    tcase_add_test(t, test_moment);
    tcase_add_test(t, test_progress);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
