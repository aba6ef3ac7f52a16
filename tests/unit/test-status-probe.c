/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Probes (block/status-probe*.c, block/status-query.c) on a file system that
 * says what the test wants
 */
#include <errno.h>
#include <linux/magic.h>
#include <string.h>

#include "probe-fixture.h"
#include "unit-main.h"

/* ---- strategies --------------------------------------------------------- */

START_TEST(test_auto)
{
    static const struct {
        long magic;
        int err;
        StatusProbeStrategy strategy;
    } cases[] = {
        { EXT4_SUPER_MAGIC, 0, STATUS_PROBE_USE_FIEMAP },
        { 0x58465342, 0, STATUS_PROBE_USE_FIEMAP }, /* XFS */
        { BTRFS_SUPER_MAGIC, 0, STATUS_PROBE_USE_SEEK },
        { TMPFS_MAGIC, 0, STATUS_PROBE_USE_SEEK },
        { NFS_SUPER_MAGIC, 0, STATUS_PROBE_USE_SEEK },
        { EXT4_SUPER_MAGIC, EIO, STATUS_PROBE_USE_SEEK },
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(cases); i++) {
        fake_reset(MIB);
        fake.magic = cases[i].magic;
        fake.statfs_errno = cases[i].err;
        start(STATUS_PROBE_AUTO);
        ck_assert_int_eq(status_probe_strategy(probe), cases[i].strategy);
        stop();
    }
    start(STATUS_PROBE_USE_SEEK);
    ck_assert_int_eq(status_probe_strategy(probe), STATUS_PROBE_USE_SEEK);
    ck_assert_str_eq(status_probe_strategy_name(STATUS_PROBE_AUTO), "auto");
    ck_assert_str_eq(status_probe_strategy_name(STATUS_PROBE_USE_SEEK), "seek");
    ck_assert_str_eq(status_probe_strategy_name(STATUS_PROBE_USE_FIEMAP),
                     "fiemap");
    ck_assert_str_eq(status_probe_strategy_name(STATUS_PROBE_NONE), "none");
    stop();
}
END_TEST

START_TEST(test_answer)
{
    int64_t pnum;
    bool probed;

    fake_reset(16 * MIB);
    fake_map(100, 200, 'd');
    start(STATUS_PROBE_USE_FIEMAP);
    /* in the middle of a block; the answer goes beyond what was asked for */
    ck_assert_int_eq(
        status_query(cache, probe, 100 * 4096 + 5, 512, &pnum, &probed),
        BLOCK_STATE_DATA);
    ck_assert_int_eq(pnum, 100 * 4096 - 5);
    ck_assert(probed);
    ck_assert_int_eq(status_query(cache, probe, 199 * 4096, 1, &pnum, &probed),
                     BLOCK_STATE_DATA);
    ck_assert_int_eq(pnum, 4096);
    ck_assert(!probed);
    ck_assert_int_eq(query(7, &pnum), BLOCK_STATE_ZERO);
    ck_assert_int_eq(pnum, 100 * 4096 - 7);
    stop();
}
END_TEST

/* ---- strategy seek ------------------------------------------------------ */

/* The second SEEK_DATA finds data sooner than the first. */
static void write_after_first(int call)
{
    if (call == 0) {
        fake_map(10, 11, 'd');
    }
}

START_TEST(test_seek_disagrees)
{
    int64_t pnum;

    fake_reset(MIB);
    fake_map(100, 101, 'd');
    fake.hook = write_after_first;
    start(STATUS_PROBE_USE_SEEK);
    ck_assert_int_eq(query(0, &pnum), BLOCK_STATE_ZERO);
    ck_assert_int_eq(pnum, 10 * FAKE_BLOCK);
    check_exact();
    stop();
}
END_TEST

/* Punched between SEEK_DATA and SEEK_HOLE */
static void punch_after_first(int call)
{
    if (call == 0) {
        fake_map(0, 256, '.');
    }
}

START_TEST(test_seek_punched)
{
    int64_t pnum;

    fake_reset(MIB);
    fake_map(0, 100, 'd');
    fake.hook = punch_after_first;
    start(STATUS_PROBE_USE_SEEK);
    ck_assert_int_eq(query(0, &pnum), BLOCK_STATE_DATA);
    ck_assert_int_eq(pnum, FAKE_BLOCK);
    ck_assert_int_eq(query(FAKE_BLOCK, &pnum), BLOCK_STATE_ZERO);
    stop();
}
END_TEST

/* ---- ends --------------------------------------------------------------- */

START_TEST(test_end_of_file)
{
    int64_t size = 10 * FAKE_BLOCK + 100, pnum;

    /* the file ends in the middle of a block of data, then of a hole */
    fake_reset(size);
    fake_map(8, 11, 'd');
    start_any(_i);
    ck_assert_str_eq(read_map(), "zzzzzzzzddd");
    ck_assert_int_eq(query(9 * FAKE_BLOCK, &pnum), BLOCK_STATE_DATA);
    ck_assert_int_eq(pnum, FAKE_BLOCK + 100);
    stop();
    fake_map(9, 11, '.');
    start_any(_i);
    ck_assert_str_eq(read_map(), "zzzzzzzzdzz");
    ck_assert_int_eq(query(size - 1, &pnum), BLOCK_STATE_ZERO);
    ck_assert_int_eq(pnum, 1);
    check_no_more_calls();
    stop();
}
END_TEST

START_TEST(test_file_shorter_than_disk)
{
    fake_reset(4 * FAKE_BLOCK + 1);
    fake_map(4, 5, 'd');
    start_any(_i);
    status_cache_resize(cache, 10 * FAKE_BLOCK);
    ck_assert_str_eq(read_map(), "zzzzdzzzzz");
    check_no_more_calls();
    stop();
}
END_TEST

START_TEST(test_file_longer_than_disk)
{
    fake_reset(MIB);
    fake_map(2, 256, 'd');
    start_any(_i);
    status_cache_resize(cache, 3 * FAKE_BLOCK + 512);
    ck_assert_str_eq(read_map(), "zzdd");
    stop();
    fake_reset(MIB);
    fake_map(100, 256, 'd');
    start_any(_i);
    status_cache_resize(cache, 3 * FAKE_BLOCK + 512);
    ck_assert_str_eq(read_map(), "zzzz");
    stop();
}
END_TEST

/* ---- granularity and mode ----------------------------------------------- */

START_TEST(test_coarse)
{
    int64_t pnum;

    fake_reset(64 * MIB);
    fake_map(17, 18, 'd'); /* in the second block of 64 KiB */
    fake_map(48, 64, 'd');
    start_with(_i & 1 ? STATUS_PROBE_USE_SEEK : STATUS_PROBE_USE_FIEMAP,
               64 * KIB, STATUS_CACHE_ON, fake.size);
    ck_assert_int_eq(query(3, &pnum), BLOCK_STATE_ZERO);
    ck_assert_int_eq(pnum, 64 * KIB - 3);
    ck_assert_int_eq(query(64 * KIB, &pnum), BLOCK_STATE_DATA);
    ck_assert_int_eq(pnum, 64 * KIB);
    ck_assert_int_eq(query(130 * KIB, &pnum), BLOCK_STATE_ZERO);
    ck_assert_int_eq(query(255 * KIB, &pnum), BLOCK_STATE_DATA);
    ck_assert_int_eq(query(256 * KIB, &pnum), BLOCK_STATE_ZERO);
    read_map();
    check_no_more_calls();
    stop();
}
END_TEST

START_TEST(test_finer_than_pages)
{
    fake_reset(64 * MIB);
    make_alternating();
    start_with(_i & 1 ? STATUS_PROBE_USE_SEEK : STATUS_PROBE_USE_FIEMAP, 512,
               STATUS_CACHE_ON, fake.size);
    check_exact();
    stop();
}
END_TEST

/* A block of so many extents that no probe sees all of it is data. */
START_TEST(test_too_coarse)
{
    int64_t pnum;

    fake_reset(64 * MIB);
    fake_map(0, FAKE_BLOCKS, 'u');
    fake.extent_blocks = 1;
    start_with(STATUS_PROBE_USE_FIEMAP, 16 * MIB, STATUS_CACHE_ON, fake.size);
    ck_assert_int_eq(query(20 * MIB, &pnum), BLOCK_STATE_DATA);
    ck_assert_int_eq(pnum, 12 * MIB);
    ck_assert_uint_le(get_stats().max_extents, 2 * PROBE_MAX_EXTENTS);
    stop();
}
END_TEST

START_TEST(test_modes)
{
    StatusCacheMode mode = _i & 4 ? STATUS_CACHE_OFF : STATUS_CACHE_DATA_ONLY;

    fake_reset(4 * MIB);
    fake_map(0, 16, 'd');
    fake_map(32, 48, 'd');
    start_any(_i);
    status_cache_set_mode(cache, mode);
    check_exact(); /* the answers are the same */
    ck_assert_uint_eq(get_stats().bytes_zero, 0);
    ck_assert_uint_eq(get_stats().bytes_data,
                      mode == STATUS_CACHE_OFF ? 0 : 32 * FAKE_BLOCK);
    stop();
}
END_TEST

/* ---- errors ------------------------------------------------------------- */

static void check_error(int err)
{
    uint64_t errors = get_stats().probe_errors;
    int64_t pnum;
    bool probed;

    ck_assert_int_eq(status_query(cache, probe, 0, 1, &pnum, &probed), -err);
    ck_assert(probed);
    ck_assert_uint_eq(get_stats().bytes_unknown, fake.size);
    ck_assert_uint_eq(get_stats().probe_errors, errors + 1);
}

START_TEST(test_seek_errors)
{
    fake_reset(MIB);
    fake_map(0, 10, 'd');
    start(STATUS_PROBE_USE_SEEK);
    fake.seek_data_errno = EIO;
    check_error(EIO);
    fake.seek_data_errno = 0;
    fake.seek_hole_errno = ESTALE;
    check_error(ESTALE);
    fake.seek_hole_errno = 0;
    check_exact();
    stop();
}
END_TEST

/* An answer from before the question */
START_TEST(test_seek_backwards)
{
    int64_t pnum;

    fake_reset(MIB);
    fake_map(0, 256, 'd');
    start(STATUS_PROBE_USE_SEEK);
    fake.seek_lie = -FAKE_BLOCK;
    ck_assert_int_eq(query(5 * FAKE_BLOCK, &pnum), -EIO);
    ck_assert_uint_eq(get_stats().bytes_unknown, MIB);
    stop();
}
END_TEST

START_TEST(test_fiemap_errors)
{
    fake_reset(MIB);
    fake_map(0, 10, 'd');
    start(STATUS_PROBE_USE_FIEMAP);
    status_probe_disable_cachestat(probe);
    fake.fiemap_errno = EIO;
    check_error(EIO);
    /* data was seen before the gap, and then the look for pages failed */
    fake.fiemap_errno = 0;
    fake.seek_data_errno = EIO;
    check_error(EIO);
    fake.seek_data_errno = 0;
    check_exact();
    ck_assert_int_eq(status_probe_strategy(probe), STATUS_PROBE_USE_FIEMAP);
    stop();
}
END_TEST

static const int cannot_seek[] = { EINVAL, ENOTSUP, ENOTTY, ESPIPE, ENOSYS };

START_TEST(test_seek_unsupported)
{
    int64_t pnum;
    bool probed;

    fake_reset(MIB);
    fake.seek_data_errno = cannot_seek[_i];
    start(STATUS_PROBE_USE_SEEK);
    ck_assert_int_eq(status_query(cache, probe, 9, 1, &pnum, &probed),
                     BLOCK_STATE_DATA);
    ck_assert_int_eq(pnum, MIB - 9);
    ck_assert(probed);
    ck_assert_int_eq(status_probe_strategy(probe), STATUS_PROBE_NONE);
    /* it is not tried again, and is no fact */
    ck_assert_ptr_null(strchr(read_map(), 'z'));
    ck_assert_int_eq(fake.calls, 1);
    ck_assert_uint_eq(get_stats().bytes_unknown, MIB);
    ck_assert_uint_eq(get_stats().probe_errors, 0);
    stop();
}
END_TEST

static const int cannot_fiemap[] = { EOPNOTSUPP, ENOTTY, EBADR, EINVAL };

START_TEST(test_fiemap_unsupported)
{
    fake_reset(MIB);
    make_alternating();
    fake.fiemap_errno = cannot_fiemap[_i];
    start(STATUS_PROBE_USE_FIEMAP);
    check_exact();
    ck_assert_int_eq(fake.fiemaps, 1);
    ck_assert_int_eq(status_probe_strategy(probe), STATUS_PROBE_USE_SEEK);
    stop();
}
END_TEST

/* ---- extents ------------------------------------------------------------ */

static const uint32_t data_flags[] = {
    FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_UNKNOWN,
    FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_DATA_ENCRYPTED,
    FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_NOT_ALIGNED,
    FIEMAP_EXTENT_DATA_TAIL | FIEMAP_EXTENT_NOT_ALIGNED,
    FIEMAP_EXTENT_SHARED | FIEMAP_EXTENT_MERGED,
    FIEMAP_EXTENT_LAST,
};

START_TEST(test_extent_flags)
{
    int64_t pnum;

    fake_reset(MIB);
    fake_map(3, 5, 'x');
    fake.other_flags = data_flags[_i];
    start(STATUS_PROBE_USE_FIEMAP);
    ck_assert_int_eq(query(0, &pnum), BLOCK_STATE_ZERO);
    ck_assert_int_eq(pnum, 3 * FAKE_BLOCK);
    ck_assert_int_eq(query(3 * FAKE_BLOCK, &pnum), BLOCK_STATE_DATA);
    ck_assert_int_eq(pnum, 2 * FAKE_BLOCK);
    stop();
}
END_TEST

static struct {
    uint64_t start, length;
} odd_extent;

/* One extent, again and again */
static int odd_fiemap(int fd, struct fiemap *f)
{
    uint32_t i;

    for (i = 0; i < f->fm_extent_count; i++) {
        f->fm_extents[i] = (struct fiemap_extent){
            .fe_logical = odd_extent.start,
            .fe_length = odd_extent.length,
        };
    }
    f->fm_mapped_extents = f->fm_extent_count;
    return 0;
}

static int odd_query(uint64_t extent_start, uint64_t length, int64_t *pnum)
{
    StatusProbeOps ops = fake_ops;
    int r;

    odd_extent.start = extent_start;
    odd_extent.length = length;
    fake_reset(MIB);
    start(STATUS_PROBE_USE_FIEMAP);
    status_probe_free(probe);
    ops.fiemap = odd_fiemap;
    probe = status_probe_new_with_ops(-1, STATUS_PROBE_USE_FIEMAP, &ops);
    r = query(64 * KIB, pnum);
    stop();
    return r;
}

START_TEST(test_odd_extents)
{
    int64_t pnum;

    /* inline data: not whole blocks */
    ck_assert_int_eq(odd_query(64 * KIB + 50, 60, &pnum), BLOCK_STATE_DATA);
    ck_assert_int_eq(pnum, FAKE_BLOCK);
    /* from before the window to beyond it */
    ck_assert_int_eq(odd_query(100, UINT64_MAX - 100, &pnum), BLOCK_STATE_DATA);
    ck_assert_int_eq(pnum, MIB - 64 * KIB);
    ck_assert_int_eq(odd_query(100, UINT64_MAX, &pnum), BLOCK_STATE_DATA);
    /* nowhere near: a full answer that leads nowhere */
    ck_assert_int_eq(odd_query(0, 4096, &pnum), -EIO);
    ck_assert_int_eq(odd_query(64 * KIB, 0, &pnum), -EIO);
    /* behind the window */
    ck_assert_int_eq(odd_query(UINT64_MAX - 1, 1, &pnum), BLOCK_STATE_ZERO);
}
END_TEST

static void add_errors(Suite *s)
{
    TCase *tc = tcase_create("errors");

    tcase_add_test(tc, test_seek_errors);
    tcase_add_test(tc, test_seek_backwards);
    tcase_add_test(tc, test_fiemap_errors);
    tcase_add_loop_test(tc, test_seek_unsupported, 0,
                        G_N_ELEMENTS(cannot_seek));
    tcase_add_loop_test(tc, test_fiemap_unsupported, 0,
                        G_N_ELEMENTS(cannot_fiemap));
    tcase_add_loop_test(tc, test_extent_flags, 0, G_N_ELEMENTS(data_flags));
    tcase_add_test(tc, test_odd_extents);
    suite_add_tcase(s, tc);
}

int main(void)
{
    Suite *s = suite_create("status-probe");
    TCase *tc = tcase_create("answers");

    tcase_add_test(tc, test_auto);
    tcase_add_test(tc, test_answer);
    tcase_add_test(tc, test_seek_disagrees);
    tcase_add_test(tc, test_seek_punched);
    tcase_add_loop_test(tc, test_end_of_file, 0, 4);
    tcase_add_loop_test(tc, test_file_shorter_than_disk, 0, 4);
    tcase_add_loop_test(tc, test_file_longer_than_disk, 0, 4);
    tcase_add_loop_test(tc, test_coarse, 0, 2);
    tcase_add_loop_test(tc, test_finer_than_pages, 0, 2);
    tcase_add_test(tc, test_too_coarse);
    tcase_add_loop_test(tc, test_modes, 0, 8);
    suite_add_tcase(s, tc);
    add_errors(s);
    return unit_main(s);
}
