/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How many questions, and of how many extents, it takes the prober to map files
 * of all kinds
 */
#include <errno.h>
#include <linux/magic.h>
#include <string.h>

#include "probe-fixture.h"
#include "unit-main.h"

START_TEST(test_written)
{
    int extents = FAKE_BLOCKS / 16;

    fake_reset(64 * MIB);
    fake_map(0, FAKE_BLOCKS, 'd');
    fake.extent_blocks = 16;
    memset(fake.page, true, sizeof(fake.page));
    start(STATUS_PROBE_USE_FIEMAP);
    check_exact();
    ck_assert_int_eq(fake.seek_data + fake.seek_hole, 0);
    ck_assert_int_le(fake.cachestats, 1);
    ck_assert_int_le(fake.fiemaps, extents / PROBE_MAX_EXTENTS + 2);
    ck_assert_int_le(fake.max_extents, PROBE_MAX_EXTENTS);
    ck_assert_int_eq(fake.extents, extents);
    ck_assert_uint_eq(get_stats().extents, extents);
    ck_assert_uint_eq(get_stats().max_extents, fake.max_extents);
    ck_assert_uint_eq(get_stats().probe_calls[STATUS_PROBE_FIEMAP],
                      fake.fiemaps);
    check_no_more_calls();
    stop();
}
END_TEST

START_TEST(test_sparse_without_pages)
{
    int extents = FAKE_BLOCKS / 16;

    fake_reset(64 * MIB);
    make_alternating();
    start(STATUS_PROBE_USE_FIEMAP);
    check_exact();
    ck_assert_int_eq(fake.seek_data + fake.seek_hole, 0);
    ck_assert_int_eq(fake.extents, extents);
    ck_assert_int_le(fake.max_extents, PROBE_MAX_EXTENTS);
    ck_assert(status_probe_uses_cachestat(probe));
    check_no_more_calls();
    stop();
}
END_TEST

/* Readers leave clean pages over holes: they still are holes. */
START_TEST(test_sparse_with_pages)
{
    fake_reset(64 * MIB);
    make_alternating();
    memset(fake.page, true, sizeof(fake.page));
    start(STATUS_PROBE_USE_FIEMAP);
    check_exact();
    ck_assert_int_eq(fake.seek_hole, 0);
    ck_assert_int_le(fake.seek_data, FAKE_BLOCKS / 16);
    ck_assert_uint_le(get_stats().max_extents, 2 * PROBE_MAX_EXTENTS);
    check_no_more_calls();
    stop();
}
END_TEST

static const int refusals[] = { ENOSYS, EPERM, EOPNOTSUPP, EINVAL, EBADF };

START_TEST(test_sparse_without_cachestat)
{
    fake_reset(64 * MIB);
    make_alternating();
    fake.cachestat_errno = refusals[_i];
    start(STATUS_PROBE_USE_FIEMAP);
    check_exact();
    ck_assert_int_eq(fake.cachestats, 1); /* never tried again */
    ck_assert(!status_probe_uses_cachestat(probe));
    ck_assert_int_eq(fake.seek_hole, 0);
    ck_assert_int_le(fake.seek_data, FAKE_BLOCKS / 16);
    check_no_more_calls();
    stop();
}
END_TEST

START_TEST(test_preallocated)
{
    int extents = FAKE_BLOCKS / 8;
    bool cachestat = _i;

    fake_reset(64 * MIB);
    fake_map(0, FAKE_BLOCKS, 'u');
    fake.extent_blocks = 8;
    start(STATUS_PROBE_USE_FIEMAP);
    if (!cachestat) {
        status_probe_disable_cachestat(probe);
    }
    check_exact();
    ck_assert_int_eq(fake.seek_hole, 0);
    ck_assert_int_eq(fake.seek_data, cachestat ? 0 : 1);
    ck_assert(cachestat == (fake.cachestats > 0));
    ck_assert_int_le(fake.extents, extents * 11 / 10);
    check_no_more_calls();
    stop();
}
END_TEST

/* Pages over unwritten extents may hold data; the parts without are zero. */
START_TEST(test_preallocated_with_pages)
{
    const char *map;
    int i, zeroes = 0;

    fake_reset(64 * MIB);
    fake_map(0, FAKE_BLOCKS, 'u');
    fake.extent_blocks = 64;
    for (i = 0; i < FAKE_BLOCKS; i += 1024) {
        fake.page[i + 512] = true;
    }
    start(STATUS_PROBE_USE_FIEMAP);
    if (_i) {
        status_probe_disable_cachestat(probe);
    }
    map = read_map();
    for (i = 0; i < FAKE_BLOCKS; i++) {
        ck_assert(!fake.page[i] || map[i] == 'd');
        zeroes += map[i] == 'z';
    }
    ck_assert_int_ge(zeroes, FAKE_BLOCKS - 16 * (64 * KIB / FAKE_BLOCK));
    ck_assert_int_eq(fake.seek_hole, 0);
    /* no extent was walked over twice */
    ck_assert_int_le(fake.walked, FAKE_BLOCKS);
    check_no_more_calls();
    stop();
}
END_TEST

/* Whoever looks at the first sector leaves a page there: that is no reason to walk
 * over all the unwritten extents behind it. */
START_TEST(test_preallocated_with_first_page)
{
    int extents = FAKE_BLOCKS / 8;
    const char *map;

    fake_reset(64 * MIB);
    fake_map(0, FAKE_BLOCKS, 'u');
    fake.extent_blocks = 8;
    memset(fake.page, true, _i * sizeof(fake.page[0]));
    start(STATUS_PROBE_USE_FIEMAP);
    map = read_map();
    ck_assert_int_eq(strspn(map, "d"), 64 * KIB / FAKE_BLOCK);
    ck_assert_ptr_null(strchr(map + 64 * KIB / FAKE_BLOCK, 'd'));
    ck_assert_int_le(fake.max_walked, PROBE_MAX_EXTENTS);
    ck_assert_int_le(fake.extents, extents * 11 / 10);
    check_no_more_calls();
    stop();
}
END_TEST

/* Many pages everywhere: all of it is data, and that costs few questions. */
START_TEST(test_preallocated_all_pages)
{
    fake_reset(64 * MIB);
    fake_map(0, FAKE_BLOCKS, 'u');
    memset(fake.page, true, sizeof(fake.page));
    start(STATUS_PROBE_USE_FIEMAP);
    if (_i) {
        status_probe_disable_cachestat(probe);
    }
    ck_assert_ptr_null(strchr(read_map(), 'z'));
    ck_assert_int_le(fake.calls, 64 * 4);
    stop();
}
END_TEST

START_TEST(test_big_hole)
{
    int64_t pnum, offset, length = INT64_C(1) << 50;

    fake_reset(length);
    start(STATUS_PROBE_USE_FIEMAP);
    for (offset = 0; offset < length; offset += pnum) {
        ck_assert_int_eq(query(offset, &pnum), BLOCK_STATE_ZERO);
    }
    /* windows double up to 1 TiB */
    ck_assert_uint_le(get_stats().probes, 20 + 1024);
    stop();
}
END_TEST

/* Blocks that a client has written do not end windows. */
START_TEST(test_islands)
{
    StatusOp op;
    int i, plain;

    fake_reset(64 * MIB);
    fake_map(0, FAKE_BLOCKS, 'd');
    fake.extent_blocks = 16;
    start(STATUS_PROBE_USE_FIEMAP);
    check_exact();
    plain = fake.fiemaps;
    stop();

    fake_count();
    start(STATUS_PROBE_USE_FIEMAP);
    for (i = 0; i < FAKE_BLOCKS; i += 256) {
        status_cache_write_begin(cache, &op, i * FAKE_BLOCK, 3 * FAKE_BLOCK);
        status_cache_write_end(cache, &op, true);
    }
    check_exact();
    ck_assert_int_le(fake.fiemaps, plain + 2);
    stop();
}
END_TEST

START_TEST(test_seek)
{
    int pairs = FAKE_BLOCKS / 16;

    fake_reset(64 * MIB);
    fake.magic = _i ? TMPFS_MAGIC : BTRFS_SUPER_MAGIC;
    make_alternating();
    start(STATUS_PROBE_AUTO);
    check_exact();
    ck_assert_int_eq(fake.fiemaps + fake.cachestats, 0);
    ck_assert_int_le(fake.seek_hole, pairs);
    /* the very first question meets data, and costs one more */
    ck_assert_int_le(fake.seek_data, (_i ? 1 : 2) * pairs + 1);
    check_no_more_calls();
    stop();
}
END_TEST

START_TEST(test_seek_full_length)
{
    StatusOp op;
    int i;

    fake_reset(64 * MIB);
    fake_map(0, FAKE_BLOCKS, 'd');
    start(STATUS_PROBE_USE_SEEK);
    for (i = 0; i < FAKE_BLOCKS; i += 64) {
        status_cache_write_begin(cache, &op, i * FAKE_BLOCK, FAKE_BLOCK);
        status_cache_write_end(cache, &op, true);
    }
    check_exact();
    ck_assert_int_eq(fake.seek_data, 1);
    ck_assert_int_eq(fake.seek_hole, 1);
    stop();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("probe-cost");
    TCase *tc = tcase_create("passes");

    tcase_add_test(tc, test_written);
    tcase_add_test(tc, test_sparse_without_pages);
    tcase_add_test(tc, test_sparse_with_pages);
    tcase_add_loop_test(tc, test_sparse_without_cachestat, 0,
                        G_N_ELEMENTS(refusals));
    tcase_add_loop_test(tc, test_preallocated, 0, 2);
    tcase_add_loop_test(tc, test_preallocated_with_pages, 0, 2);
    tcase_add_loop_test(tc, test_preallocated_with_first_page, 1, 17);
    tcase_add_loop_test(tc, test_preallocated_all_pages, 0, 2);
    tcase_add_test(tc, test_big_hole);
    tcase_add_test(tc, test_islands);
    tcase_add_loop_test(tc, test_seek, 0, 2);
    tcase_add_test(tc, test_seek_full_length);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
