/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: tables in memory, the order of writes, refcounts and allocation */
#include "qcow2-image.h"
#include "unit-main.h"

static uint64_t refcount(uint64_t cluster)
{
    uint64_t n;

    ck_assert_int_eq(qcow2_get_refcount(s, cluster, &n), 0);
    return n;
}

static int64_t alloc(uint64_t clusters)
{
    int64_t at = qcow2_alloc_clusters(s, clusters << s->cluster_bits);

    ck_assert_int_gt(at, 0);
    return at;
}

/* Where in the notes the first such one is, from @from on; -1: nowhere */
static int find_note(guint from, MemOp op, int64_t cluster)
{
    for (; from < notes->len; from++) {
        const Note *n = &g_array_index(notes, Note, from);

        if (n->op == op &&
            (op == MEM_FLUSH || (int64_t)n->cluster == cluster)) {
            return from;
        }
    }
    return -1;
}

/* A table in the cache is changed: its byte @i */
static void touch(Qcow2Cache *c, int64_t offset, int i, uint8_t byte)
{
    void *table;

    ck_assert_int_eq(qcow2_cache_get(c, offset, &table), 0);
    ((uint8_t *)table)[i] = byte;
    qcow2_cache_set_dirty(c, table);
    qcow2_cache_put(c, &table);
}

/* ---- refcounts ---------------------------------------------------------- */

START_TEST(test_bits)
{
    uint8_t refs[16] = { 0 };

    qcow2_refcount_write(0, refs, 9, 1);
    ck_assert_uint_eq(refs[1], 0x02);
    qcow2_refcount_write(1, refs, 2, 3);
    ck_assert_uint_eq(refs[0], 0x30);
    qcow2_refcount_write(1, refs, 2, 1);
    ck_assert_uint_eq(refs[0], 0x10);
    qcow2_refcount_write(2, refs, 5, 0xa);
    ck_assert_uint_eq(refs[2], 0xa0);
    qcow2_refcount_write(3, refs, 3, 0xfe);
    ck_assert_uint_eq(refs[3], 0xfe);
    qcow2_refcount_write(4, refs, 2, 0x1234);
    ck_assert_uint_eq(refs[4], 0x12);
    ck_assert_uint_eq(refs[5], 0x34);
    qcow2_refcount_write(5, refs, 2, 0x12345678);
    ck_assert_uint_eq(refs[8], 0x12);
    qcow2_refcount_write(6, refs, 1, UINT64_C(0x0123456789abcdef));
    ck_assert_uint_eq(refs[15], 0xef);
    ck_assert_uint_eq(qcow2_refcount_read(0, refs, 9), 1);
    ck_assert_uint_eq(qcow2_refcount_read(1, refs, 2), 1);
    ck_assert_uint_eq(qcow2_refcount_read(2, refs, 5), 0xa);
    ck_assert_uint_eq(qcow2_refcount_read(4, refs, 2), 0x1234);
    ck_assert_uint_eq(qcow2_refcount_read(6, refs, 1),
                      UINT64_C(0x0123456789abcdef));
}
END_TEST

/* Refcounts of every width, up to what they can hold and not beyond */
START_TEST(test_widths)
{
    int64_t at;
    uint64_t i, max;

    image_new(9, _i);
    max = MIN(qcow2_max_refcount(s), 300);
    at = alloc(3);
    for (i = 1; i < max; i++) {
        ck_assert_int_eq(qcow2_update_refcounts(s, at + 512, 512, 1), 0);
    }
    ck_assert_uint_eq(refcount((at >> 9) + 1), max);
    if (max == qcow2_max_refcount(s)) {
        ck_assert_int_eq(qcow2_update_refcounts(s, at, 1536, 1), -EINVAL);
    }
    ck_assert_int_eq(qcow2_write_tables(s, true), 0);
    image_reopen();
    ck_assert_uint_eq(refcount(at >> 9), 1);
    ck_assert_uint_eq(refcount((at >> 9) + 1), max);
    ck_assert_uint_eq(refcount((at >> 9) + 2), 1);
    for (; i > 0; i--) {
        ck_assert_int_eq(qcow2_update_refcounts(s, at + 512, 512, -1), 0);
    }
    ck_assert(!s->corrupt);
    ck_assert_int_eq(qcow2_update_refcounts(s, at, 1024, -1), -EIO);
    ck_assert(s->corrupt);
    ck_assert_uint_eq(refcount(at >> 9), 1); /* undone */
    image_free();
}
END_TEST

START_TEST(test_entry_without_sense)
{
    uint64_t n;

    image_new(9, 4);
    s->reftable[1] = 0x10100;
    ck_assert_int_eq(qcow2_get_refcount(s, 256, &n), -EIO);
    ck_assert(s->corrupt);
    image_free();
}
END_TEST

/* ---- allocation --------------------------------------------------------- */

/* What the tests have, cluster by cluster, and their check of each step */
static GHashTable *mine;

static void take(int64_t at, uint64_t clusters)
{
    uint64_t i;

    for (i = 0; i < clusters; i++) {
        ck_assert(g_hash_table_add(
            mine, GSIZE_TO_POINTER((at >> s->cluster_bits) + i)));
    }
}

/* All leaks, from the check's point of view, and nothing else wrong */
static void assert_mine(void)
{
    g_autoptr(GError) err = NULL;
    BdrvCheckResult res = { 0 };

    ck_assert_msg(qcow2_check(s->bs, &res, 0, &err) == 0, "%s",
                  err ? err->message : "");
    ck_assert_int_eq(res.corruptions, 0);
    ck_assert_int_eq(res.check_errors, 0);
    ck_assert_int_eq(res.leaks, g_hash_table_size(mine));
}

static void give_back(GRand *rand, bool later)
{
    GHashTableIter iter;
    gpointer cluster;
    int skip = g_rand_int_range(rand, 0, 20);

    g_hash_table_iter_init(&iter, mine);
    while (g_hash_table_iter_next(&iter, &cluster, NULL)) {
        if (skip-- == 0) {
            uint64_t at = GPOINTER_TO_SIZE(cluster) << s->cluster_bits;

            g_hash_table_iter_remove(&iter);
            if (later) {
                qcow2_free_later(s, at, s->cluster_size);
            } else {
                qcow2_free_now(s, at, s->cluster_size);
            }
            return;
        }
    }
}

/* Any order of allocations in an image whose tables have to grow several times */
START_TEST(test_model)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(_i);
    uint32_t first_entries;
    int step;

    image_new(9, _i);
    first_entries = s->reftable_entries;
    mine = g_hash_table_new(NULL, NULL);
    for (step = 0; step < 3000; step++) {
        int what = g_rand_int_range(rand, 0, 10);
        uint64_t n = g_rand_int_range(rand, 1, what ? 12 : 80);
        int64_t at;

        if (what < 5) {
            take(alloc(n), n);
        } else if (what < 6) {
            at = (int64_t)g_rand_int_range(rand, 1, 16000) << 9;
            n = qcow2_alloc_clusters_at(s, at, n << 9) >> 9;
            take(at, n);
        } else if (what < 9) {
            give_back(rand, what < 8);
        } else {
            ck_assert_int_eq(qcow2_write_tables(s, g_rand_boolean(rand)), 0);
        }
        if (step % 500 == 499) {
            assert_mine();
        }
        if (step % 1000 == 999) {
            ck_assert_int_eq(qcow2_write_tables(s, true), 0);
            image_reopen();
        }
    }
    assert_mine();
    ck_assert(!s->corrupt);
    if (_i == 6) {
        ck_assert_uint_gt(s->reftable_entries, first_entries);
    }
    g_hash_table_unref(mine);
    image_free();
}
END_TEST

/* Holes are found again, runs are in a row, and what is freed is discarded. */
START_TEST(test_holes)
{
    int64_t a, b;

    image_new(9, 4);
    a = alloc(1);
    b = alloc(8);
    ck_assert_int_eq(a, FREE_CLUSTER << 9);
    ck_assert_int_eq(b, a + 512);
    qcow2_free_now(s, a, 512);
    ck_assert_int_ge(find_note(0, MEM_DISCARD, a >> 9), 0);
    ck_assert_int_eq(alloc(2), b + 8 * 512);
    ck_assert_int_eq(alloc(1), a);
    ck_assert_int_eq(qcow2_alloc_clusters_at(s, b, 512), 0);
    ck_assert_int_eq(qcow2_alloc_clusters_at(s, b + 10 * 512, 1024), 1024);
    ck_assert_int_eq(alloc(1), b + 12 * 512);
    ck_assert_int_eq(qcow2_alloc_clusters(s, UINT64_C(1) << 57), -EFBIG);
    ck_assert_int_eq(
        qcow2_alloc_clusters_at(s, QCOW2_MAX_FILE_BYTES - 512, 1024), -EFBIG);
    image_free();
}
END_TEST

/* A compressed cluster counts for each cluster that it touches. */
START_TEST(test_compressed)
{
    uint64_t first;
    int64_t at;

    image_new(12, 4);
    at = alloc(2);
    first = at >> 12;
    ck_assert_int_eq(qcow2_update_refcounts(s, at, 8192, 1), 0);
    /* 4 sectors from the last one of the first cluster on; and one in the second */
    qcow2_free_compressed_later(s, (at + 4095) | UINT64_C(3) << 58);
    qcow2_free_compressed_later(s, at + 4096 + 2048);
    ck_assert_uint_eq(refcount(first), 2);
    ck_assert_int_eq(qcow2_write_tables(s, true), 0);
    ck_assert_uint_eq(refcount(first), 1);
    ck_assert_uint_eq(refcount(first + 1), 0);
    image_free();
}
END_TEST

/* ---- the order of writes ------------------------------------------------ */

/* Refcounts, a flush, L2 tables; nothing that was freed is free before a flush
 * that comes after. */
START_TEST(test_order)
{
    int64_t l2, data, old;
    void *table;
    int refs, first_flush, l2_write, last_flush, discard;

    image_new(9, 4);
    l2 = alloc(1);
    old = alloc(1);
    ck_assert_int_eq(qcow2_cache_get_empty(s->l2_cache, l2, &table), 0);
    qcow2_cache_put(s->l2_cache, &table);
    ck_assert_int_eq(qcow2_write_tables(s, false), 0);
    g_array_set_size(notes, 0);

    data = alloc(1);
    touch(s->l2_cache, l2, 0, 1);
    qcow2_free_later(s, old, 512);
    ck_assert_int_eq(alloc(1), data + 512); /* not yet */
    ck_assert_int_eq(qcow2_write_tables(s, true), 0);
    refs = find_note(0, MEM_WRITE, REFBLOCK_CLUSTER);
    first_flush = find_note(0, MEM_FLUSH, 0);
    l2_write = find_note(0, MEM_WRITE, l2 >> 9);
    last_flush = find_note(l2_write, MEM_FLUSH, 0);
    discard = find_note(0, MEM_DISCARD, old >> 9);
    ck_assert_int_eq(refs, 0);
    ck_assert_int_gt(first_flush, refs);
    ck_assert_int_gt(l2_write, first_flush);
    ck_assert_int_gt(last_flush, l2_write);
    ck_assert_int_gt(discard, last_flush);
    ck_assert_uint_eq(refcount(old >> 9), 0);
    ck_assert_int_eq(alloc(1), old);

    /* Data alone is flushed, too, before anything refers to it (rule 2). */
    ck_assert_int_eq(qcow2_write_tables(s, true), 0);
    g_array_set_size(notes, 0);
    s->data_unflushed = true;
    touch(s->l2_cache, l2, 0, 2);
    ck_assert_int_eq(qcow2_write_tables(s, false), 0);
    ck_assert_int_eq(find_note(0, MEM_FLUSH, 0), 0);
    ck_assert_int_eq(find_note(0, MEM_WRITE, l2 >> 9), 1);
    image_free();
}
END_TEST

/* Wherever it fails: nothing is free that was not, nothing is clean. */
START_TEST(test_order_failures)
{
    static const struct {
        MemOp op;
        int64_t cluster;
        bool l2_is_written;
    } cases[] = {
        { MEM_WRITE, REFBLOCK_CLUSTER, false },
        { MEM_FLUSH, 0, false },
        { MEM_WRITE, FREE_CLUSTER, true },
    };
    int64_t l2, old;
    void *table;

    image_new(9, 4);
    l2 = alloc(1);
    ck_assert_int_eq(l2, FREE_CLUSTER << 9);
    old = alloc(1);
    ck_assert_int_eq(qcow2_cache_get_empty(s->l2_cache, l2, &table), 0);
    qcow2_cache_put(s->l2_cache, &table);
    qcow2_free_later(s, old, 512);
    fail_op = cases[_i].op;
    fail_at = fail_op == MEM_FLUSH ? -1 : cases[_i].cluster << 9;
    ck_assert_int_eq(qcow2_write_tables(s, true), -EIO);
    ck_assert_int_eq(find_note(0, MEM_WRITE, l2 >> 9) >= 0,
                     cases[_i].l2_is_written);
    ck_assert(qcow2_cache_is_dirty(s->l2_cache));
    ck_assert_uint_eq(refcount(old >> 9), 1);
    ck_assert_uint_eq(s->freed_bytes, 512);
    fail_op = -1;
    ck_assert_int_eq(qcow2_write_tables(s, true), 0);
    ck_assert_uint_eq(refcount(old >> 9), 0);
    ck_assert(!qcow2_cache_is_dirty(s->l2_cache));
    image_free();
}
END_TEST

/* New refcount blocks, and a new table of them, are complete and flushed when
 * something refers to them (rule 4). */
START_TEST(test_growth_order)
{
    int64_t reftable;
    int block, flush, entry;
    guint i;

    image_new(9, 6); /* 64 clusters a block, 64 blocks */
    while (image_be64(s->reftable_offset + 8) == 0) {
        alloc(1);
    }
    block = find_note(0, MEM_WRITE, image_be64(s->reftable_offset + 8) >> 9);
    entry = find_note(0, MEM_WRITE, REFTABLE_CLUSTER);
    flush = find_note(block, MEM_FLUSH, 0);
    ck_assert_int_ge(block, 0);
    ck_assert_int_gt(flush, block);
    ck_assert_int_gt(entry, flush);

    g_array_set_size(notes, 0);
    reftable = s->reftable_offset;
    alloc(64 * 64);
    ck_assert_int_ne(s->reftable_offset, reftable);
    ck_assert_uint_eq(image_be64(48), s->reftable_offset);
    entry = find_note(0, MEM_WRITE, 0); /* the header */
    ck_assert_int_ge(entry, 0);
    for (i = entry - 1; i > 0; i--) {
        const Note *n = &g_array_index(notes, Note, i);

        if (n->op == MEM_FLUSH) {
            break;
        }
        ck_assert_int_ne(n->op, MEM_WRITE);
    }
    ck_assert_int_eq(g_array_index(notes, Note, entry + 1).op, MEM_FLUSH);
    /* The old one is free once that is settled. */
    ck_assert_uint_eq(refcount(reftable >> 9), 1);
    ck_assert_int_eq(qcow2_write_tables(s, true), 0);
    ck_assert_uint_eq(refcount(reftable >> 9), 0);
    image_free();
}
END_TEST

/* If the header cannot be written, all goes on with the table that is there. */
START_TEST(test_growth_failure)
{
    int64_t reftable;

    image_new(9, 6);
    reftable = s->reftable_offset;
    fail_op = MEM_WRITE;
    fail_at = reftable + 8;
    ck_assert_int_eq(qcow2_alloc_clusters(s, 64 * 512), -EIO);
    ck_assert(s->corrupt); /* nor could it be put back */
    image_free();

    image_new(9, 6);
    fail_op = MEM_FLUSH;
    ck_assert_int_eq(qcow2_alloc_clusters(s, 64 * 64 * 512), -EIO);
    ck_assert_int_eq(s->reftable_offset, reftable);
    ck_assert_uint_eq(image_be64(48), reftable);
    ck_assert_uint_eq(image_be64(reftable + 8), 0);
    ck_assert(!s->corrupt);
    fail_op = -1;
    alloc(64 * 64);
    ck_assert_int_ne(s->reftable_offset, reftable);
    image_free();
}
END_TEST

/* ---- tables in memory --------------------------------------------------- */

START_TEST(test_cache)
{
    int64_t at[6];
    void *table, *other;
    int i, reads;

    image_new(9, 4);
    for (i = 0; i < 6; i++) {
        at[i] = alloc(1);
        memset(disk->data + at[i], 'a' + i, 512);
    }
    for (i = 0; i < 4; i++) {
        ck_assert_int_eq(qcow2_cache_get(s->l2_cache, at[i], &table), 0);
        ck_assert_int_eq(*(char *)table, 'a' + i);
        qcow2_cache_put(s->l2_cache, &table);
    }
    /* Hits read nothing; the least recently used one makes room. */
    reads = mem_count(disk, MEM_READ);
    ck_assert_int_eq(qcow2_cache_get(s->l2_cache, at[0], &table), 0);
    ck_assert_int_eq(mem_count(disk, MEM_READ), reads);
    touch(s->l2_cache, at[2], 0, 'x');
    touch(s->l2_cache, at[3], 0, 'y');
    touch(s->l2_cache, at[4], 0, 'z'); /* for at[1] */
    ck_assert_int_eq(disk->data[at[2]], 'c');
    g_array_set_size(notes, 0);
    /* For at[2], which is dirty; at[0] is older, but pinned. */
    ck_assert_int_eq(qcow2_cache_get(s->l2_cache, at[5], &other), 0);
    ck_assert_int_eq(disk->data[at[2]], 'x');
    ck_assert_int_lt(find_note(0, MEM_FLUSH, 0),
                     find_note(0, MEM_WRITE, at[2] >> 9));
    ck_assert_int_eq(*(char *)table, 'a');
    qcow2_cache_put(s->l2_cache, &table);
    qcow2_cache_put(s->l2_cache, &other);
    /* What was dropped is not written. */
    touch(s->l2_cache, at[3], 0, 'n');
    qcow2_cache_drop(s->l2_cache, at[3]);
    ck_assert(!qcow2_cache_is_dirty(s->l2_cache));
    ck_assert_int_eq(disk->data[at[3]], 'y');
    ck_assert(!qcow2_cache_touches(s->l2_cache, at[3], 512));
    ck_assert(qcow2_cache_touches(s->l2_cache, at[4] + 511, 2));
    ck_assert(qcow2_cache_touches(s->l2_cache, 0, IMAGE_BYTES));
    /* A table that cannot be read is not there the next time either. */
    fail_op = MEM_READ;
    ck_assert_int_eq(qcow2_cache_get(s->l2_cache, at[1], &table), -EIO);
    fail_op = -1;
    ck_assert_int_eq(qcow2_cache_get(s->l2_cache, at[1], &table), 0);
    ck_assert_int_eq(*(char *)table, 'b');
    qcow2_cache_put(s->l2_cache, &table);
    image_free();
}
END_TEST

/* Nothing is written where tables are. */
START_TEST(test_overlap)
{
    int64_t l2, data;

    image_new(9, 4);
    l2 = alloc(1);
    data = alloc(3);
    s->l1[3] = l2 | QCOW2_COPIED;
    s->n_snapshots = 1;
    s->snapshots_offset = data + 3 * 512;
    s->snapshots_bytes = 40;
    ck_assert(qcow2_check_overlap(s, data, 3 * 512, "data"));
    ck_assert(qcow2_check_overlap_but(s, QCOW2_OWN_L2, l2, 512, "an L2 table"));
    ck_assert(!s->corrupt);
    ck_assert(!qcow2_check_overlap(s, 511, 1, "data"));
    ck_assert(s->corrupt);
    ck_assert(
        !qcow2_check_overlap(s, (REFTABLE_CLUSTER << 9) + 511, 1, "data"));
    ck_assert(!qcow2_check_overlap(s, REFBLOCK_CLUSTER << 9, 512, "data"));
    ck_assert(!qcow2_check_overlap(s, (L1_CLUSTER << 9) + 8, 8, "data"));
    ck_assert(!qcow2_check_overlap(s, l2 + 511, 4096, "data"));
    ck_assert(!qcow2_check_overlap(s, data, 4 * 512, "data"));
    /* A table whose place says that it is something else */
    s->corrupt = false;
    touch(s->l2_cache, L1_CLUSTER << 9, 0, 1);
    ck_assert_int_eq(qcow2_write_tables(s, false), -EIO);
    ck_assert(s->corrupt);
    image_free();
}
END_TEST

/* Tables count as free, and are to be overwritten: they stay what they are. */
START_TEST(test_used_counts_as_free)
{
    uint64_t old = UINT64_C(7) << 9 | QCOW2_COPIED, *l2;
    unsigned index;

    image_new(9, 4);
    image_set_be64(L1_CLUSTER << 9, old);
    image_reopen();
    qcow2_free_now(s, L1_CLUSTER << 9, 512);
    ck_assert_uint_eq(image_be64(L1_CLUSTER << 9),
                      UINT64_C(0xdddddddddddddddd));
    image_set_be64(L1_CLUSTER << 9, old);
    g_array_set_size(notes, 0);
    ck_assert_int_eq(qcow2_get_own_l2(s, 64 * 512, &l2, &index), -EIO);
    ck_assert(s->corrupt);
    ck_assert_uint_eq(image_be64(L1_CLUSTER << 9), old);
    ck_assert_int_eq(find_note(0, MEM_DISCARD, L1_CLUSTER), -1);
    image_free();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-tables");
    TCase *tc = tcase_create("refcounts");

    tcase_add_test(tc, test_bits);
    tcase_add_loop_test(tc, test_widths, 0, 7);
    tcase_add_test(tc, test_entry_without_sense);
    suite_add_tcase(suite, tc);
    tc = tcase_create("allocation");
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_model, 0, 7);
    tcase_add_test(tc, test_holes);
    tcase_add_test(tc, test_compressed);
    suite_add_tcase(suite, tc);
    tc = tcase_create("order");
    tcase_add_test(tc, test_order);
    tcase_add_loop_test(tc, test_order_failures, 0, 3);
    tcase_add_test(tc, test_growth_order);
    tcase_add_test(tc, test_growth_failure);
    suite_add_tcase(suite, tc);
    tc = tcase_create("cache");
    tcase_add_test(tc, test_cache);
    tcase_add_test(tc, test_overlap);
    tcase_add_test(tc, test_used_counts_as_free);
    suite_add_tcase(suite, tc);
    return unit_main(suite);
}
