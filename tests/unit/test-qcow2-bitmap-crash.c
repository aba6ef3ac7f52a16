/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: whenever the disk stops, and whatever fails, stored bitmaps are right or
 * say that they are not, and the image is there.
 */
#include <string.h>

#include "qcow2-bitmap-fixture.h"
#include "unit-main.h"

#define CRASHES 12 /* at each moment */

/* ---- crashes -------------------------------------------------------------- */

typedef struct Crash {
    unsigned cluster_bits;
    int filler; /* where the extension is, of which 512 bytes */
    bool backing;
} Crash;

static const Crash crashes[] = {
    { 9, -1, false },  { 12, -1, true },  { 12, 384, true }, { 12, 392, false },
    { 12, 392, true }, { 12, 400, true }, { 12, 440, true }, { 10, 392, true },
};

/* All that the disk may hold after it stops, anywhere */
static GPtrArray *all_crashes(GRand *rand)
{
    GPtrArray *states =
        g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    Qcow2Disk *disk = qcow2_disk_of(file);
    unsigned i, n;

    for (n = 0; n <= qcow2_disk_recorded(disk); n++) {
        for (i = 0; i < CRASHES; i++) {
            g_ptr_array_add(states, qcow2_disk_crash(disk, n, i ? rand : NULL));
        }
    }
    return states;
}

/* Of requests: what was recorded when they began and had ended */
typedef struct Steps {
    unsigned written; /* the guest's write was done */
    unsigned closing;
} Steps;

/* If @name says that it is right, it has these bits: before or after */
static void assert_right(const char *name, const char *before,
                         const char *after, bool may_before, bool may_after)
{
    g_autofree char *bits = NULL;

    if (!get(name) || is_inconsistent(name)) {
        return;
    }
    bits = bits_of(name);
    ck_assert_msg((may_before && !g_strcmp0(bits, before)) ||
                      (may_after && !g_strcmp0(bits, after)),
                  "bitmap %s has other bits", name);
}

typedef struct Known {
    const char *kept[2], *new[2]; /* bits before and after */
} Known;

static void look(const Crash *c, const Steps *steps, unsigned n,
                 const Known *known)
{
    open_image(true);
    ck_assert_str_eq(s->backing_file ? s->backing_file : "",
                     c->backing ? NAME : "");
    ck_assert_uint_eq(s->extensions->len + (s->bitmaps == NULL),
                      1 + (c->filler >= 0));
    assert_right("kept", known->kept[0], known->kept[1], n <= steps->written,
                 n >= steps->closing);
    assert_right("new", NULL, known->new[1], false, n >= steps->closing);
    if (n < steps->closing) {
        ck_assert_ptr_null(get("new"));
    }
    qcow2_disk_assert_clean(false);
    close_image();
}

/* The image has "kept" and "gone". It is opened, written to, "gone" is removed, "new"
 * comes, and it is closed: at each moment the bitmaps are right or say that they
 * are not, and the rest is there. */
START_TEST(test_crash)
{
    const Crash *c = &crashes[_i];
    g_autoptr(GRand) rand = g_rand_new_with_seed(_i);
    g_autofree char *before = NULL, *after = NULL, *new = NULL;
    g_autoptr(GPtrArray) states = NULL;
    Steps steps;
    Qcow2Disk *disk;
    unsigned i;

    make_file(3, c->cluster_bits, 4 * MIB, c->filler, c->backing);
    open_image(false);
    add("kept", 512);
    add("gone", 4096);
    write_at(0, 512);
    before = bits_of("kept");
    close_image();

    disk = qcow2_disk_of(file);
    qcow2_disk_record(disk);
    open_image(false);
    write_at(MIB, 1024);
    steps.written = qcow2_disk_recorded(disk);
    ck_assert_int_eq(blk_flush(blk), 0);
    ck_assert_int_eq(take("gone", NULL), 0);
    add("new", 4096);
    write_at(2 * MIB, 8192);
    after = bits_of("kept");
    new = bits_of("new");
    ck_assert_int_eq(blk_flush(blk), 0);
    steps.closing = qcow2_disk_recorded(disk);
    close_image();

    states = all_crashes(rand);
    for (i = 0; i < states->len; i++) {
        const Known known = { { before, after }, { NULL, new } };

        put_file(states->pdata[i]);
        look(c, &steps, i / CRASHES, &known);
    }
    /* And all at the end */
    open_image(true);
    assert_bits("kept", after);
    assert_bits("new", new);
    ck_assert_ptr_null(get("gone"));
    close_all();
}
END_TEST

/* The header gets an extension, and loses it again: it has the backing file's name
 * all the time. */
START_TEST(test_crash_first_and_last)
{
    const Crash *c = &crashes[_i];
    g_autoptr(GRand) rand = g_rand_new_with_seed(_i);
    int step;
    guint i;

    make_file(3, c->cluster_bits, MIB, c->filler, c->backing);
    for (step = 0; step < 4; step++) {
        g_autoptr(GPtrArray) states = NULL;

        qcow2_disk_record(qcow2_disk_of(file));
        open_image(false);
        if (step % 2 == 0) {
            add("b", 4096);
            bdrv_set_dirty_bitmap(get("b"), 4096, 1);
        } else {
            ck_assert_int_eq(take("b", NULL), 0);
        }
        close_image();
        states = all_crashes(rand);
        for (i = 0; i < states->len; i++) {
            put_file(states->pdata[i]);
            open_image(true);
            ck_assert_str_eq(s->backing_file ? s->backing_file : "",
                             c->backing ? NAME : "");
            if (get("b") && !is_inconsistent("b")) {
                ck_assert_int_eq(bdrv_get_dirty_count(get("b")), 4096);
            }
            qcow2_disk_assert_clean(false);
            close_image();
        }
        put_file(states->pdata[states->len - CRASHES]);
        open_image(true);
        ck_assert((get("b") != NULL) == (step % 2 == 0));
        qcow2_disk_assert_clean(true);
        close_image();
    }
    drop_file();
}
END_TEST

/* The header's name of the backing file: the old one or the new one, each with
 * its own format */
START_TEST(test_crash_change_backing)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(_i);
    static const char *const names[] = { "one-name", "a-much-longer-name",
                                         "short", "another-one" };
    static const char *const formats[] = { "raw", "qcow2", "raw", "qcow2" };
    unsigned i, n, step;

    make_file(3, 12, MIB, crashes[_i].filler, false);
    open_image(false);
    bdrv_graph_lock();
    ck_assert_int_eq(qcow2_change_backing(bs, names[0], formats[0], NULL), 0);
    bdrv_graph_unlock();
    close_image();
    for (step = 1; step < G_N_ELEMENTS(names); step++) {
        g_autoptr(GPtrArray) states = NULL;

        qcow2_disk_record(qcow2_disk_of(file));
        open_image(false);
        bdrv_graph_lock();
        ck_assert_int_eq(
            qcow2_change_backing(bs, names[step], formats[step], NULL), 0);
        bdrv_graph_unlock();
        close_image();
        states = all_crashes(rand);
        for (i = 0; i < states->len; i++) {
            put_file(states->pdata[i]);
            open_image(true);
            n = !strcmp(s->backing_file, names[step]) ? step : step - 1;
            ck_assert_str_eq(s->backing_file, names[n]);
            ck_assert_str_eq(s->backing_format, formats[n]);
            close_image();
        }
        put_file(states->pdata[states->len - CRASHES]);
    }
    drop_file();
}
END_TEST

/* ---- errors of the disk --------------------------------------------------- */

/* Any write of the close fails: what was in the image stays, in use, or all is
 * there; and tables are never wrong. */
START_TEST(test_close_fails)
{
    g_autofree char *after = NULL;
    g_autoptr(GBytes) image = NULL;
    unsigned writes = 1, i;

    make_file(3, _i ? 12 : 9, 4 * MIB, _i ? 392 : -1, _i);
    open_image(false);
    add("kept", 512);
    write_at(0, 512);
    close_image();
    image = get_file();
    for (i = 0; i < writes; i++) {
        Qcow2Disk *disk;

        put_file(image);
        disk = qcow2_disk_of(file);
        open_image(false);
        write_at(MIB, 512);
        add("new", 4096);
        bdrv_set_dirty_bitmap(get("new"), 8192, 1);
        g_free(after);
        after = bits_of("kept");
        ck_assert_int_eq(blk_flush(blk), 0);
        writes = qcow2_disk_writes(disk);
        qcow2_disk_fail(disk, i, 1);
        close_image();
        writes = qcow2_disk_writes(disk) - writes;
        qcow2_disk_fail(disk, 0, 0);
        open_image(true);
        ck_assert_ptr_nonnull(get("kept"));
        assert_right("kept", NULL, after, false, true);
        qcow2_disk_assert_clean(false);
        close_image();
    }
    ck_assert_uint_gt(writes, 4);
    drop_file();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-bitmap-crash");
    TCase *tc = tcase_create("qcow2-bitmap-crash");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_crash, 0, G_N_ELEMENTS(crashes));
    tcase_add_loop_test(tc, test_crash_first_and_last, 0,
                        G_N_ELEMENTS(crashes));
    tcase_add_loop_test(tc, test_crash_change_backing, 1,
                        G_N_ELEMENTS(crashes));
    tcase_add_loop_test(tc, test_close_fails, 0, 2);
    suite_add_tcase(suite, tc);
    return unit_main(suite);
}
