/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: the check. Each kind of damage is planted in an image in memory, found,
 * and mended; a second check finds nothing, and the disk's data is where it was.
 */
#include "qcow2-image.h"
#include "unit-main.h"

#define DATA 6 /* clusters of data */

static int64_t l2_at, data_at; /* in the file */
static BdrvCheckResult res;
static GString *lines;

static void on_line(void *opaque, const char *line)
{
    g_string_append_printf(lines, "%s\n", line);
}

static void check(unsigned fix)
{
    g_autoptr(GError) err = NULL;
    int ret;

    g_string_truncate(lines, 0);
    res = (BdrvCheckResult){ .report = on_line };
    ret = qcow2_check(s->bs, &res, fix, &err);
    ck_assert_msg(ret == 0, "%s", err ? err->message : "");
}

#define ASSERT_FOUND(n_corruptions, n_leaks, n_errors)                         \
    do {                                                                       \
        ck_assert_msg(                                                         \
            res.corruptions == (n_corruptions) && res.leaks == (n_leaks) &&    \
                res.check_errors == (n_errors),                                \
            "%d corruptions, %d leaks, %d errors:\n%s", (int)res.corruptions,  \
            (int)res.leaks, (int)res.check_errors, lines->str);                \
    } while (0)

#define ASSERT_FIXED(n_corruptions, n_leaks)                                   \
    do {                                                                       \
        ck_assert_msg(res.corruptions_fixed == (n_corruptions) &&              \
                          res.leaks_fixed == (n_leaks),                        \
                      "%d corruptions fixed, %d leaks fixed:\n%s",             \
                      (int)res.corruptions_fixed, (int)res.leaks_fixed,        \
                      lines->str);                                             \
    } while (0)

static void set_l2(unsigned i, uint64_t entry)
{
    image_set_be64(l2_at + i * 8, entry);
}

static uint64_t get_l2(unsigned i)
{
    return image_be64(l2_at + i * 8);
}

/* In the block, on the disk */
static void set_refcount(int64_t offset, uint64_t n)
{
    qcow2_refcount_write(s->refcount_order,
                         disk->data + (REFBLOCK_CLUSTER << s->cluster_bits),
                         offset >> s->cluster_bits, n);
    image_reopen();
}

static uint64_t get_refcount(int64_t offset)
{
    uint64_t n;

    ck_assert_int_eq(qcow2_get_refcount(s, offset >> s->cluster_bits, &n), 0);
    return n;
}

static void check_is_clean(void)
{
    check(0);
    ASSERT_FOUND(0, 0, 0);
    image_reopen();
    check(0);
    ASSERT_FOUND(0, 0, 0);
}

static void mend(void)
{
    check(BDRV_FIX_LEAKS | BDRV_FIX_ERRORS);
    ASSERT_FOUND(0, 0, 0);
    check_is_clean();
}

/* An L2 table with some data, as the first of the image */
static void setup(void)
{
    unsigned i;

    lines = g_string_new(NULL);
    image_new(9, 4);
    l2_at = qcow2_alloc_clusters(s, 512);
    data_at = qcow2_alloc_clusters(s, DATA * 512);
    for (i = 0; i < DATA; i++) {
        set_l2(i, (data_at + i * 512) | QCOW2_COPIED);
    }
    image_set_be64(s->l1_offset, l2_at | QCOW2_COPIED);
    disk->length = data_at + DATA * 512;
    ck_assert_int_eq(qcow2_write_tables(s, true), 0);
    image_reopen();
}

static void teardown(void)
{
    image_free();
    g_string_free(lines, TRUE);
}

/* The file may become longer again. */
static void let_grow(void)
{
    disk->length = IMAGE_BYTES;
}

START_TEST(test_clean)
{
    check_is_clean();
    ck_assert_int_eq(res.total_clusters, s->length >> 9);
    ck_assert_int_eq(res.allocated_clusters, DATA);
    ck_assert_int_eq(res.fragmented_clusters, 0);
    ck_assert_int_eq(res.compressed_clusters, 0);
    ck_assert_int_eq(res.image_end_offset, data_at + DATA * 512);
    ck_assert_str_eq(lines->str, "");
    /* Two that have changed places: three are not where the one before ends. */
    set_l2(1, (data_at + 2 * 512) | QCOW2_COPIED);
    set_l2(2, (data_at + 1 * 512) | QCOW2_COPIED);
    set_l2(DATA, QCOW2_ZERO);
    check_is_clean();
    ck_assert_int_eq(res.fragmented_clusters, 3);
    ck_assert_int_eq(res.allocated_clusters, DATA);
}
END_TEST

START_TEST(test_leak)
{
    set_l2(2, 0);
    set_l2(3, QCOW2_ZERO);
    check(0);
    ASSERT_FOUND(0, 2, 0);
    ck_assert_ptr_nonnull(strstr(lines->str, "Leaked cluster 7 refcount=1 "
                                             "reference=0"));
    check(BDRV_FIX_ERRORS);
    ASSERT_FOUND(0, 2, 0);
    check(BDRV_FIX_LEAKS);
    ASSERT_FOUND(0, 0, 0);
    ASSERT_FIXED(0, 2);
    check_is_clean();
    ck_assert_int_eq(get_refcount(data_at + 2 * 512), 0);
    ck_assert_int_eq(get_refcount(data_at + 4 * 512), 1);
}
END_TEST

/* Used twice, and counts once: whoever writes there would write to both. */
START_TEST(test_shared_but_counts_once)
{
    set_l2(DATA, data_at | QCOW2_COPIED);
    check(0);
    ASSERT_FOUND(1, 0, 0);
    check(BDRV_FIX_LEAKS);
    ASSERT_FOUND(1, 0, 0);
    ASSERT_FIXED(0, 0);
    check(BDRV_FIX_ERRORS);
    ASSERT_FOUND(0, 0, 0);
    ASSERT_FIXED(3, 0);
    ck_assert_uint_eq(get_l2(0), (uint64_t)data_at);
    ck_assert_uint_eq(get_l2(DATA), (uint64_t)data_at);
    check_is_clean();
}
END_TEST

START_TEST(test_used_but_free)
{
    set_refcount(data_at + 512, 0);
    check(0);
    ASSERT_FOUND(2, 0, 0); /* and the flag COPIED */
    check(BDRV_FIX_LEAKS);
    ck_assert_int_eq(res.corruptions, 2);
    let_grow();
    mend();
    ck_assert_int_eq(get_refcount(data_at + 512), 1);
    ck_assert_int_eq(get_refcount(REFTABLE_CLUSTER << 9), 0);
    ck_assert_int_ge(qcow2_alloc_clusters(s, 512), 0);
}
END_TEST

START_TEST(test_copied_flag)
{
    set_l2(0, data_at);
    image_set_be64(s->l1_offset, l2_at);
    image_reopen();
    check(0);
    ASSERT_FOUND(2, 0, 0);
    check(BDRV_FIX_ERRORS);
    ASSERT_FIXED(2, 0);
    ck_assert_uint_eq(get_l2(0), data_at | QCOW2_COPIED);
    ck_assert_uint_eq(s->l1[0], l2_at | QCOW2_COPIED);
    check_is_clean();
}
END_TEST

/* What is wrong with the place of the refcount block */
static const struct {
    uint64_t entry;
    int errors; /* clusters whose refcount nobody knows */
} blocks[] = {
    { (REFBLOCK_CLUSTER << 9) + 16, 0 },
    { UINT64_C(1) << 40, 11 },
    { UINT64_MAX, 11 },
    { L1_CLUSTER << 9, 0 },
    { 0, 0 },
};

START_TEST(test_refblock)
{
    image_set_be64(s->reftable_offset, blocks[_i].entry);
    image_reopen();
    check(0);
    ck_assert_int_eq(res.check_errors, blocks[_i].errors);
    ck_assert_int_gt(res.corruptions, 0);
    ck_assert(!s->corrupt);
    let_grow();
    mend();
    ck_assert_int_eq(get_refcount(l2_at), 1);
    ck_assert_uint_eq(get_l2(3), (data_at + 3 * 512) | QCOW2_COPIED);
    ck_assert_int_eq(res.allocated_clusters, DATA);
}
END_TEST

/* No room for new tables: all stays as it is. */
START_TEST(test_rebuild_fails)
{
    set_refcount(data_at + 512, 0);
    let_grow();
    fail_op = MEM_WRITE;
    check(BDRV_FIX_LEAKS | BDRV_FIX_ERRORS);
    ck_assert_int_gt(res.check_errors, 0);
    ck_assert_int_gt(res.corruptions, 0);
    fail_op = -1;
    image_reopen();
    ck_assert_uint_eq(s->reftable_offset, REFTABLE_CLUSTER << 9);
    mend();
}
END_TEST

START_TEST(test_beyond_the_end)
{
    set_l2(1, (UINT64_C(1) << 50) | QCOW2_COPIED);
    set_l2(2, QCOW2_COMPRESSED | UINT64_C(1) << 50);
    image_set_be64(s->l1_offset + 8, UINT64_C(1) << 50);
    image_reopen();
    check(0);
    /* Three, and the flag of the first */
    ASSERT_FOUND(4, 2, 0);
    ck_assert_int_eq(res.compressed_clusters, 1);
    check(BDRV_FIX_LEAKS | BDRV_FIX_ERRORS);
    ASSERT_FOUND(3, 0, 0);
}
END_TEST

START_TEST(test_reserved_bits)
{
    set_l2(1, (data_at + 512) | QCOW2_COPIED | 4);
    set_l2(3, (data_at + 3 * 512) | QCOW2_COMPRESSED | QCOW2_COPIED);
    image_set_be64(s->l1_offset, l2_at | QCOW2_COPIED | 2);
    image_reopen();
    check(0);
    ASSERT_FOUND(3, 0, 0);
    ck_assert_ptr_nonnull(strstr(lines->str, "bits are set in l2_entry"));
    ck_assert_ptr_nonnull(strstr(lines->str, "bits are set in l1_entry"));
    ck_assert_ptr_nonnull(strstr(lines->str, "with the flag COPIED"));
    ck_assert_int_eq(res.compressed_clusters, 1);
}
END_TEST

/* Places between clusters: one that need not be there goes. */
START_TEST(test_unaligned)
{
    int64_t l2, data;
    Qcow2State *large;

    teardown();
    lines = g_string_new(NULL);
    image_new(10, 4);
    large = s;
    l2 = qcow2_alloc_clusters(large, 1024);
    data = qcow2_alloc_clusters(large, 2048);
    image_set_be64(large->l1_offset, l2 | QCOW2_COPIED);
    image_set_be64(l2, (data + 512) | QCOW2_COPIED);
    image_set_be64(l2 + 8, (data + 512) | QCOW2_COPIED | QCOW2_ZERO);
    disk->length = data + 2048;
    ck_assert_int_eq(qcow2_write_tables(large, true), 0);
    image_reopen();
    check(0);
    /* Each; and both clusters are used twice */
    ASSERT_FOUND(2 + 2, 0, 0);
    check(BDRV_FIX_ERRORS);
    ASSERT_FOUND(1, 0, 0);
    ck_assert_uint_eq(image_be64(l2 + 8), QCOW2_ZERO);
    ck_assert_uint_eq(image_be64(l2), (data + 512) | QCOW2_COPIED);
}
END_TEST

/* The image says that it is corrupt, or was not closed: not any more then. */
START_TEST(test_marks)
{
    s->incompatible = QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_DIRTY;
    s->corrupt = true;
    check(0);
    ck_assert(s->corrupt);
    check(BDRV_FIX_ERRORS);
    ASSERT_FOUND(0, 0, 0);
    ck_assert(!s->corrupt);
    ck_assert_uint_eq(image_be64(72), 0);
    /* But not if something is left. */
    set_l2(1, (UINT64_C(1) << 50) | QCOW2_COPIED);
    s->incompatible = QCOW2_INCOMPAT_CORRUPT;
    s->corrupt = true;
    check(BDRV_FIX_ERRORS);
    ck_assert(s->corrupt);
    ck_assert_uint_eq(s->incompatible, QCOW2_INCOMPAT_CORRUPT);
}
END_TEST

/* What a snapshot has counts, too. */
START_TEST(test_snapshot)
{
    Qcow2Snapshot snapshot = { .l1_entries = 1 };

    disk->length += 512;
    snapshot.l1_offset = qcow2_alloc_clusters(s, 512);
    image_set_be64(snapshot.l1_offset, l2_at);
    s->snapshots = g_array_new(FALSE, FALSE, sizeof(snapshot));
    g_array_append_val(s->snapshots, snapshot);
    s->snapshots_offset = data_at;
    check(0);
    ASSERT_FOUND(1 + DATA, 0, 0); /* all but its L1 table */
    check(BDRV_FIX_ERRORS);
    ASSERT_FIXED(2 * (1 + DATA), 0); /* flags as well */
    ASSERT_FOUND(0, 0, 0);
    ck_assert_int_eq(get_refcount(l2_at), 2);
    ck_assert_int_eq(get_refcount(data_at), 2);
    ck_assert_uint_eq(get_l2(1), (uint64_t)data_at + 512);
    check(0);
    ASSERT_FOUND(0, 0, 0);
    g_array_unref(s->snapshots);
    s->snapshots = NULL;
    check(BDRV_FIX_LEAKS);
    ASSERT_FOUND(0, 0, 0);
    ASSERT_FIXED(1 + DATA, 1 + 1 + DATA);
    check_is_clean();
}
END_TEST

/* What bitmaps have counts while they are valid. */
START_TEST(test_bitmaps)
{
    int64_t directory = qcow2_alloc_clusters(s, 512);
    int64_t table = qcow2_alloc_clusters(s, 512);
    int64_t bits = qcow2_alloc_clusters(s, 512);
    Qcow2Extension e = { QCOW2_EXT_BITMAPS, 24, g_malloc0(24) };

    disk->length += 3 * 512;
    qcow2_put_be32(e.data, 1);
    qcow2_put_be64(e.data + 8, 32);
    qcow2_put_be64(e.data + 16, directory);
    image_set_be64(directory, table);
    qcow2_put_be32(disk->data + directory + 8, 2);
    disk->data[directory + 19] = 3; /* bytes of its name */
    image_set_be64(table, 1);
    image_set_be64(table + 8, bits);
    g_array_append_val(s->extensions, e);
    check(0);
    ASSERT_FOUND(0, 3, 0);
    s->autoclear = QCOW2_AUTOCLEAR_BITMAPS;
    check(0);
    ASSERT_FOUND(0, 0, 0);
    image_set_be64(table + 8, bits | 1);
    check(0);
    ASSERT_FOUND(1, 1, 0);
    /* A directory without an end: nothing is freed. */
    qcow2_put_be32(e.data, 1000);
    check(BDRV_FIX_LEAKS);
    ck_assert_int_gt(res.corruptions, 0);
    ASSERT_FIXED(0, 0);
    g_free(e.data);
}
END_TEST

/* What cannot be read may refer to anything. */
START_TEST(test_unreadable)
{
    set_l2(2, 0);
    fail_op = MEM_READ;
    fail_at = l2_at;
    check(BDRV_FIX_LEAKS | BDRV_FIX_ERRORS);
    ck_assert_int_gt(res.check_errors, 0);
    ASSERT_FIXED(0, 0);
    ck_assert_int_eq(get_refcount(data_at), 1);
    /* An L2 table that the file ends within */
    fail_op = -1;
    image_set_be64(s->l1_offset + 8, data_at + DATA * 512 + 512);
    image_reopen();
    disk->length += 512 + 100;
    check(BDRV_FIX_LEAKS);
    ck_assert_int_gt(res.check_errors, 0);
    ASSERT_FIXED(0, 0);
}
END_TEST

/* Tables that lead to themselves and to each other: an end, and no crash */
START_TEST(test_tangle)
{
    uint32_t i;

    for (i = 0; i < 64; i++) {
        set_l2(i, l2_at | QCOW2_COPIED);
        image_set_be64(s->l1_offset + i * 8,
                       i % 2 ? (uint64_t)l2_at : s->l1_offset);
    }
    image_set_be64(s->reftable_offset + 8, s->reftable_offset);
    image_set_be64(s->reftable_offset + 16, l2_at);
    image_reopen();
    check(0);
    ck_assert_int_gt(res.corruptions, 0);
    let_grow();
    check(BDRV_FIX_LEAKS | BDRV_FIX_ERRORS);
}
END_TEST

/* Any entries at all, in a file that shows when it is read or written beyond */
START_TEST(test_random_damage)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(_i);
    int i;

    for (i = g_rand_int_range(rand, 1, 6); i > 0; i--) {
        int64_t at = g_rand_int_range(rand, 64, disk->length / 8);
        uint64_t value = g_rand_int_range(rand, 0, 14) << 9;

        if (g_rand_int_range(rand, 0, 4) == 0) {
            value |= (uint64_t)g_rand_int(rand)
                     << g_rand_int_range(rand, 0, 32);
        }
        if (g_rand_boolean(rand)) {
            value |= QCOW2_COPIED;
        }
        image_set_be64(at * 8, value);
    }
    image_reopen();
    check(0);
    let_grow();
    check(BDRV_FIX_LEAKS | BDRV_FIX_ERRORS);
    if (res.corruptions || res.check_errors) {
        return;
    }
    check(0);
    ASSERT_FOUND(0, 0, 0);
    image_reopen();
    check(0);
    ASSERT_FOUND(0, 0, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-check");
    TCase *tc = tcase_create("qcow2-check");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_clean);
    tcase_add_test(tc, test_leak);
    tcase_add_test(tc, test_shared_but_counts_once);
    tcase_add_test(tc, test_used_but_free);
    tcase_add_test(tc, test_copied_flag);
    tcase_add_loop_test(tc, test_refblock, 0, G_N_ELEMENTS(blocks));
    tcase_add_test(tc, test_rebuild_fails);
    tcase_add_test(tc, test_beyond_the_end);
    tcase_add_test(tc, test_reserved_bits);
    tcase_add_test(tc, test_unaligned);
    tcase_add_test(tc, test_marks);
    tcase_add_test(tc, test_snapshot);
    tcase_add_test(tc, test_bitmaps);
    tcase_add_test(tc, test_unreadable);
    tcase_add_test(tc, test_tangle);
    tcase_add_loop_test(tc, test_random_damage, 0, 100);
    suite_add_tcase(suite, tc);
    return unit_main(suite);
}
