/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirror job while guests write as fast as they can: no acknowledged write
 * is lost, and the copy is one moment of the disk.
 */
#include <inttypes.h>
#include <string.h>

#include "job-harness.h"
#include "mirror-fixture.h"
#include "unit-main.h"
#include "util/schema.h"

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
static Cond load_changed, load_paused;
/* load_lock */
static int load_budget; /* negative: no limit */
static bool load_over;
static guint load_parked; /* writers that wait */

static void load_start(void)
{
    cond_init(&load_changed);
    cond_init(&load_paused);
    load_budget = BUDGET;
    load_over = false;
}

static void load_refill(void)
{
    MUTEX_GUARD(&load_lock);
    load_budget = BUDGET;
    cond_broadcast(&load_changed);
}

static void load_unlimit(void)
{
    MUTEX_GUARD(&load_lock);
    load_budget = -1;
    cond_broadcast(&load_changed);
}

/* Until none of @n writers has a request in flight */
static void load_pause(guint n)
{
    MUTEX_GUARD(&load_lock);
    load_budget = 0;
    while (load_parked < n) {
        cond_wait(&load_paused, &load_lock);
    }
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
        load_parked++;
        cond_broadcast(&load_paused);
        cond_wait(&load_changed, &load_lock);
        load_parked--;
    }
    if (load_budget > 0) {
        load_budget--;
    }
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

static void make_for_writers(void)
{
    make(LOAD_LENGTH);
    ck_assert_int_eq(blk_pwrite_zeroes(guest, 0, LOAD_LENGTH, 0), 0);
    memset(acknowledged, 0, sizeof(acknowledged));
    load_start();
}

static void start_writers(pthread_t threads[WRITERS])
{
    guint i;

    for (i = 0; i < WRITERS; i++) {
        pthread_create(&threads[i], NULL, writer, GUINT_TO_POINTER(i));
    }
}

static void end_writers(pthread_t threads[WRITERS])
{
    guint i;

    load_end();
    for (i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    check_records();
}

/*
 * Again and again, forth and back between two disks. Granules of several
 * sizes: small ones are copied while their neighbours are written, large ones
 * while they are written themselves.
 */
START_TEST(test_load)
{
    static const int64_t granularities[] = { 512, 4096, 65536 };
    pthread_t threads[WRITERS];
    guint i;

    make_for_writers();
    mem_disk_forbid_overlap(mem_disk_of(target));
    start_writers(threads);
    for (i = 0; i < 24; i++) {
        Start start = defaults();
        bool back = i & 1;

        start.options.granularity = granularities[i % 3];
        start.options.write_blocking = i / 6 % 2;
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
    end_writers(threads);
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
    pthread_t thread;
    int i;

    make(LOAD_LENGTH);
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

/* Guests that write all the time, faster than it copies: it gets ready. */
START_TEST(test_overload)
{
    pthread_t threads[WRITERS];

    make_for_writers();
    load_budget = -1;
    start_writers(threads);
    start_mirror();
    wait_event("m:READY");
    complete();
    wait_event("m:null");
    check_home(target);
    end_writers(threads);
    unmake();
}
END_TEST

/*
 * copy-mode=write-blocking: guests that write to the same places all the time,
 * at any alignment, and faster than it copies. It gets ready, and whenever they
 * pause after that the disks are the same.
 */
#define OVERLAPPING_WRITERS 8

static void *write_anywhere(void *opaque)
{
    guint me = GPOINTER_TO_UINT(opaque);
    GRand *rand = g_rand_new_with_seed(me);
    g_autofree uint8_t *buf = g_malloc(128 * KiB);

    while (load_more()) {
        int64_t bytes =
            1 + g_rand_int_range(rand, 0, 1 << g_rand_int_range(rand, 0, 18)) %
                    (128 * KiB);
        int64_t offset = g_rand_int_range(rand, 0, LOAD_LENGTH - bytes + 1);
        int ret;

        switch (g_rand_int_range(rand, 0, 6)) {
        case 0:
            ret = blk_pwrite_zeroes(guest, offset, bytes,
                                    g_rand_boolean(rand) ? BDRV_REQ_MAY_UNMAP
                                                         : 0);
            break;
        case 1:
            ret = blk_pdiscard(guest, offset, bytes);
            break;
        default:
            memset(buf, g_rand_int_range(rand, 0, 256), bytes);
            ret = blk_pwrite(guest, offset, bytes, buf, 0);
        }
        ck_assert_int_eq(ret, 0);
    }
    g_rand_free(rand);
    return NULL;
}

START_TEST(test_write_blocking)
{
    static const int64_t granularities[] = { 512, 65536, MiB };
    pthread_t threads[OVERLAPPING_WRITERS];
    guint i, pause;

    make(LOAD_LENGTH);
    mem_disk_fill(mem_disk_of(source), 4);
    mem_disk_forbid_overlap(mem_disk_of(target));
    load_start();
    load_unlimit();
    for (i = 0; i < OVERLAPPING_WRITERS; i++) {
        pthread_create(&threads[i], NULL, write_anywhere, GUINT_TO_POINTER(i));
    }
    for (i = 0; i < 12; i++) {
        Start start = defaults();

        start.options.granularity = granularities[i % 3];
        start.options.write_blocking = true;
        start_with(&start);
        wait_event("m:READY");
        for (pause = 0; pause < 5; pause++) {
            load_pause(OVERLAPPING_WRITERS);
            assert_mirrored();
            load_unlimit();
        }
        soft_cancel();
        wait_event("m:null");
        check_home(source);
    }
    load_end();
    for (i = 0; i < OVERLAPPING_WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
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
    pthread_t threads[2];

    make(LOAD_LENGTH);
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
    Suite *s = suite_create("mirror-load");
    TCase *t = tcase_create("mirror-load");

    tcase_add_checked_fixture(t, harness_start, harness_stop);
    tcase_add_test(t, test_load);
    tcase_add_test(t, test_moment);
    tcase_add_test(t, test_overload);
    tcase_add_test(t, test_write_blocking);
    tcase_add_test(t, test_progress);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
