/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads around known zeroes (block/status-read.c), from a disk in memory */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/status-read.h"
#include "unit-main.h"
#include "util/iov.h"

#define KIB INT64_C(1024)
#define B (4 * KIB) /* a block */
#define LEN (1024 * B)

static StatusCache *cache;
static StatusReader reader;
static uint8_t disk[LEN], got[LEN];
static GString *reads; /* "offset+bytes" of each, in blocks */
static int fail_at;    /* so many reads work */

static void set_up_reader(BlockLimits limits, bool direct)
{
    status_reader_init(&reader, cache, -1, &limits, direct);
}

static void setup(void)
{
    StatusCacheOptions o = { .length = LEN,
                             .granularity = B,
                             .mode = STATUS_CACHE_ON };

    cache = status_cache_new(&o, NULL);
    memset(disk, 0x5a, sizeof(disk));
    reads = g_string_new(NULL);
    fail_at = -1;
    set_up_reader((BlockLimits){ 0 }, false);
}

static void teardown(void)
{
    status_cache_unref(cache);
    g_string_free(reads, TRUE);
}

static int read_disk(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     const struct iovec *iov, int niov)
{
    ck_assert_int_eq(iov_size(iov, niov), bytes);
    g_string_append_printf(reads, "%s%g+%g", reads->len ? " " : "",
                           (double)offset / B, (double)bytes / B);
    if (fail_at-- == 0) {
        return -EIO;
    }
    iov_from_buf(iov, niov, 0, disk + offset, bytes);
    return 0;
}

static void known(int64_t offset, int64_t bytes, bool zero)
{
    StatusOp op;

    if (zero) {
        memset(disk + offset, 0, bytes);
        status_cache_zero_begin(cache, &op, offset, bytes, false);
        status_cache_zero_end(cache, &op, true);
    } else {
        status_cache_write_begin(cache, &op, offset, bytes);
        status_cache_write_end(cache, &op, true);
    }
}

static StatusCacheStats stats(void)
{
    StatusCacheStats s;

    status_cache_get_stats(cache, &s);
    return s;
}

/* Read, compare, and compare what was read from the disk. */
static void check_read(int64_t offset, int64_t bytes, int flags,
                       const char *want)
{
    struct iovec iov = { got, bytes };

    memset(got, 0xff, bytes);
    g_string_truncate(reads, 0);
    ck_assert_int_eq(
        status_read(&reader, NULL, offset, bytes, &iov, 1, flags, read_disk),
        0);
    ck_assert(memcmp(got, disk + offset, bytes) == 0);
    ck_assert_str_eq(reads->str, want);
}

/* ---- around zeroes ------------------------------------------------------ */

START_TEST(test_pieces)
{
    check_read(0, 64 * B, 0, "0+64");
    known(0, 16 * B, true);
    known(32 * B, 16 * B, true);
    known(60 * B, 8 * B, true);
    check_read(0, 64 * B, 0, "16+16 48+16");
    check_read(4 * B, 100 * B, 0, "4+28 48+56");
    check_read(0, 16 * B, 0, "");
    check_read(33 * B + 1, 7, 0, "");
    check_read(63 * B, B, 0, "");
    ck_assert_uint_eq(stats().reads_skipped, 2 + 1 + 3);
    ck_assert_uint_eq(stats().bytes_not_read, (16 + 16 + 16 + 16 + 1) * B + 7);
    /* somebody has asked already */
    check_read(0, 16 * B, BDRV_REQ_CUT, "0+16");
    check_read(0, 0, 0, "0+0");
}
END_TEST

/* The pieces are few; the rest is read as a whole. */
START_TEST(test_few_pieces)
{
    for (int i = 0; i < 1024; i += 64) {
        known(i * B, 32 * B, true);
    }
    check_read(0, LEN, 0,
               "32+32 96+32 160+32 224+32 288+32 352+32 416+32 480+544");
}
END_TEST

/* With direct I/O only long runs are worth two reads. */
START_TEST(test_direct)
{
    set_up_reader((BlockLimits){ .request_alignment = 512 }, true);
    known(16 * B, 128 * B, true);
    known(160 * B, 256 * B, true);
    check_read(0, LEN, 0, "0+160 416+608");
    check_read(0, 32 * B, 0, "0+16");
}
END_TEST

/* Buffers of the pieces are as aligned as those of the request. */
START_TEST(test_alignment)
{
    struct iovec iov[] = { { got, 512 }, { got + 4096, 40 * B - 512 } };

    set_up_reader(
        (BlockLimits){ .request_alignment = 512, .mem_alignment = 4096 }, true);
    known(0, 20 * B, true);
    check_read(0, 40 * B, 0, "20+20");
    check_read(512, 20 * B, 0, "0.125+20");
    ck_assert_int_eq(
        status_read(&reader, NULL, 0, 40 * B, iov, 2, 0, read_disk), 0);
    ck_assert_str_eq(reads->str, "0.125+20 0+40");
}
END_TEST

START_TEST(test_error)
{
    struct iovec iov = { got, 64 * B };

    known(16 * B, 16 * B, true);
    fail_at = 0;
    ck_assert_int_eq(
        status_read(&reader, NULL, 0, 64 * B, &iov, 1, 0, read_disk), -EIO);
    ck_assert_str_eq(reads->str, "0+16");
    fail_at = 1;
    ck_assert_int_eq(
        status_read(&reader, NULL, 0, 64 * B, &iov, 1, 0, read_disk), -EIO);
    ck_assert_str_eq(reads->str, "0+16 0+16 32+32");
}
END_TEST

static int make_vector(GRand *rand, struct iovec *iov, int max, int64_t bytes)
{
    int n = 0;
    int64_t done = 0;

    while (done < bytes) {
        int64_t part = n == max - 1
                           ? bytes - done
                           : g_rand_int_range(rand, 1, bytes - done + 1);

        iov[n++] = (struct iovec){ got + done, part };
        done += part;
    }
    return n;
}

START_TEST(test_random)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    struct iovec iov[8];

    reader.learn = true;
    for (int i = 0; i < 200; i++) {
        int64_t at = g_rand_int_range(rand, 0, 1024);

        known(at * B, g_rand_int_range(rand, 1, MIN(1025 - at, 60)) * B,
              g_rand_boolean(rand));
    }
    for (int i = 0; i < 3000; i++) {
        int64_t offset = g_rand_int_range(rand, 0, LEN - 1);
        int64_t bytes = g_rand_int_range(rand, 1, MIN(LEN - offset, 300 * B));
        int n = make_vector(rand, iov, G_N_ELEMENTS(iov), bytes);

        memset(got, 0xff, bytes);
        ck_assert_int_eq(
            status_read(&reader, NULL, offset, bytes, iov, n, 0, read_disk), 0);
        ck_assert(memcmp(got, disk + offset, bytes) == 0);
        g_string_truncate(reads, 0);
    }
}
END_TEST

/* ---- questions in place of a read --------------------------------------- */

static void check_question(int64_t offset, int64_t bytes, bool zero,
                           int64_t want)
{
    int64_t pnum;

    ck_assert(status_read_cut(&reader, offset, bytes, &pnum) == zero);
    ck_assert_int_eq(pnum, want);
}

START_TEST(test_question)
{
    check_question(0, LEN, false, LEN);
    known(8 * B, B, true);
    known(16 * B, 16 * B, true);
    check_question(0, LEN, false, 16 * B);
    check_question(16 * B, LEN - 16 * B, true, 16 * B);
    check_question(32 * B, 4 * B, false, 4 * B);
    check_question(8 * B, 2 * B, false, 2 * B);
    check_question(8 * B + 1, 5, true, 5);
    check_question(20 * B, 2 * B, true, 2 * B);
    /* accounted is what will not be read */
    ck_assert_uint_eq(stats().reads_skipped, 3);
    ck_assert_uint_eq(stats().bytes_not_read, 18 * B + 5);
    ck_assert_uint_eq(stats().lookups, 0);
}
END_TEST

/* ---- learning ----------------------------------------------------------- */

static BlockState at(int64_t offset)
{
    int64_t pnum;

    return status_cache_peek(cache, offset, 1, &pnum);
}

START_TEST(test_learn)
{
    /* cut in a block of zeroes, and behind the one byte of another that is not */
    struct iovec iov[] = { { got, 2 * B + 1 },
                           { got + 3 * B, 5 * B },
                           { got + 9 * B, B - 1 } };

    memset(disk + 2 * B, 0, 3 * B);
    memset(disk + 6 * B, 0, B);
    disk[7 * B] = 0;
    memset(disk + 8 * B + 1, 0, B - 1);
    known(4 * B, B, false);
    check_read(0, 8 * B, 0, "0+8");
    ck_assert_uint_eq(stats().learned_reads, 0);
    reader.learn = true;
    ck_assert_int_eq(status_read(&reader, NULL, B, 8 * B, iov, 3, 0, read_disk),
                     0);
    for (int i = 0; i < 9; i++) {
        ck_assert_int_eq(at(i * B), (i >= 2 && i < 5) || i == 6
                                        ? BLOCK_STATE_ZERO
                                        : BLOCK_STATE_UNKNOWN);
    }
    ck_assert_uint_eq(stats().learned_reads, 4 * B);
}
END_TEST

/* What is not whole is not known; and an error teaches nothing. */
START_TEST(test_learn_whole)
{
    struct iovec iov = { got, 8 * B };

    reader.learn = true;
    memset(disk, 0, sizeof(disk));
    memset(got, 0, sizeof(got));
    fail_at = 0;
    ck_assert_int_eq(
        status_read(&reader, NULL, 0, 8 * B, &iov, 1, 0, read_disk), -EIO);
    ck_assert_uint_eq(stats().learned_reads, 0);
    check_read(100, 2 * B, 0, "0.0244141+2");
    ck_assert_uint_eq(stats().learned_reads, B);
    ck_assert_int_eq(at(0), BLOCK_STATE_UNKNOWN);
    ck_assert_int_eq(at(B), BLOCK_STATE_ZERO);
}
END_TEST

static int write_meanwhile(BlockDriverState *bs, int64_t offset, int64_t bytes,
                           const struct iovec *iov, int niov)
{
    int ret = read_disk(bs, offset, bytes, iov, niov);

    disk[offset] = 1;
    known(offset, 1, false);
    return ret;
}

/* It has registered before it reads. */
START_TEST(test_learn_race)
{
    struct iovec iov = { got, 2 * B };

    reader.learn = true;
    memset(disk, 0, sizeof(disk));
    ck_assert_int_eq(
        status_read(&reader, NULL, 0, 2 * B, &iov, 1, 0, write_meanwhile), 0);
    ck_assert_int_eq(at(0), BLOCK_STATE_DATA);
    ck_assert_int_eq(at(B), BLOCK_STATE_ZERO);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("read-around");
    TCase *tc = tcase_create("reads");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_pieces);
    tcase_add_test(tc, test_few_pieces);
    tcase_add_test(tc, test_direct);
    tcase_add_test(tc, test_alignment);
    tcase_add_test(tc, test_error);
    tcase_add_test(tc, test_random);
    tcase_add_test(tc, test_question);
    tcase_add_test(tc, test_learn);
    tcase_add_test(tc, test_learn_whole);
    tcase_add_test(tc, test_learn_race);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
