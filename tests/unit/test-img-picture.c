/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pictures of disks: each byte is in one cell, and seen */
#include <check.h>
#include <string.h>

#include "tools/img-picture.h"
#include "unit-main.h"

#define TIB (INT64_C(1) << 40)

static int64_t sum(const PictureCell *c)
{
    int64_t bytes = 0;
    int i;

    for (i = 0; i < PICTURE_STATES; i++) {
        bytes += c->bytes[i];
    }
    return bytes;
}

static void check_full(const Picture *p)
{
    int64_t totals[PICTURE_STATES] = { 0 };
    int cell, i;

    for (cell = 0; cell < p->n_cells; cell++) {
        ck_assert_int_gt(picture_cell_bytes(p, cell), 0);
        ck_assert_int_eq(sum(&p->cells[cell]), picture_cell_bytes(p, cell));
        for (i = 0; i < PICTURE_STATES; i++) {
            totals[i] += p->cells[cell].bytes[i];
        }
    }
    for (i = 0; i < PICTURE_STATES; i++) {
        ck_assert_int_eq(totals[i], p->totals[i]);
    }
}

START_TEST(shares)
{
    g_autoptr(Picture) p = picture_new("a", 0, 100, 5, 2);

    ck_assert_int_eq(p->n_cells, 10);
    picture_add(p, 0, 13, PICTURE_DATA);
    picture_add(p, 13, 1, PICTURE_ZERO_1);
    picture_add(p, 14, 86, PICTURE_HOLE);
    check_full(p);
    ck_assert_int_eq(p->cells[0].bytes[PICTURE_DATA], 10);
    ck_assert_int_eq(p->cells[1].bytes[PICTURE_DATA], 3);
    ck_assert_int_eq(p->cells[1].bytes[PICTURE_ZERO_1], 1);
    ck_assert_int_eq(p->cells[1].bytes[PICTURE_HOLE], 6);
    ck_assert_int_eq(p->cells[9].bytes[PICTURE_HOLE], 10);
}
END_TEST

/* Lengths that no number of cells divides, up to the longest disk */
START_TEST(odd_lengths)
{
    static const int64_t lengths[] = { 1,  2,       63,          64,
                                       65, 1000003, 7 * TIB + 1, INT64_MAX };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(lengths); i++) {
        g_autoptr(Picture) p = picture_new("a", 0, lengths[i], 8, 8);
        int64_t pos = 0, n;

        ck_assert_int_eq(p->n_cells, MIN(lengths[i], 64));
        for (; pos < lengths[i]; pos += n) {
            n = MIN(MAX(lengths[i] / 1001, 1), lengths[i] - pos);
            picture_add(p, pos, n, (pos / n) % PICTURE_STATES);
        }
        check_full(p);
    }
}
END_TEST

START_TEST(part_of_a_disk)
{
    g_autoptr(Picture) p = picture_new("a", 1000, 100, 10, 1);

    picture_add(p, 0, 1005, PICTURE_DATA);
    picture_add(p, 1005, 10000, PICTURE_UNKNOWN);
    picture_add(p, 1100, 5, PICTURE_ZERO);
    picture_add(p, 0, 1000, PICTURE_ZERO);
    check_full(p);
    ck_assert_int_eq(p->totals[PICTURE_DATA], 5);
    ck_assert_int_eq(p->totals[PICTURE_UNKNOWN], 95);
}
END_TEST

START_TEST(no_bytes)
{
    g_autoptr(Picture) p = picture_new("a", 0, 0, 10, 10);
    g_autoptr(GString) svg = picture_svg(p), text = picture_text(p, true);

    picture_add(p, 0, 10, PICTURE_DATA);
    ck_assert_int_eq(p->totals[PICTURE_DATA], 0);
    ck_assert_ptr_nonnull(strstr(svg->str, "</svg>"));
    ck_assert_str_eq(text->str, "a\n");
}
END_TEST

START_TEST(percent)
{
    static const struct {
        int64_t part, all;
        const char *text;
    } rows[] = {
        { 0, 10, "0.0 %" },   { 10, 10, "100.0 %" },       { 1, 8, "12.5 %" },
        { 1, TIB, "<0.1 %" }, { TIB - 1, TIB, ">99.9 %" }, { 0, 0, "0.0 %" },
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *text = picture_percent(rows[i].part, rows[i].all);

        ck_assert_str_eq(text, rows[i].text);
    }
}
END_TEST

/* One byte in a tebibyte is seen, and so is one that is not there. */
START_TEST(little_is_not_nothing)
{
    g_autoptr(Picture) p = picture_new("a", 0, 4 * TIB, 4, 1);
    g_autoptr(GString) text = NULL, svg = NULL;

    picture_add(p, 0, TIB - 1, PICTURE_DATA);
    picture_add(p, TIB - 1, 1, PICTURE_ZERO);
    picture_add(p, TIB, 1, PICTURE_DATA);
    picture_add(p, TIB + 1, TIB - 1, PICTURE_ZERO);
    picture_add(p, 2 * TIB, TIB, PICTURE_DATA_2);
    picture_add(p, 3 * TIB, TIB, PICTURE_UNKNOWN);
    text = picture_text(p, false);
    ck_assert_ptr_nonnull(strstr(text->str, "|\u2587\u2581\u2588?|\n"));
    ck_assert_ptr_nonnull(strstr(text->str, "data, 2 or more below"));
    svg = picture_svg(p);
    ck_assert_ptr_nonnull(strstr(svg->str, "M27 67.09h10v0.9091h-10z"));
}
END_TEST

START_TEST(only_colours_have_escapes)
{
    g_autoptr(Picture) p =
        picture_new("a\033[2J\n\xff\u202e<&>\"'", 0, 8, 8, 1);
    g_autoptr(GString) plain = NULL, coloured = NULL, svg = NULL;

    picture_add(p, 0, 8, PICTURE_DATA);
    plain = picture_text(p, false);
    coloured = picture_text(p, true);
    svg = picture_svg(p);
    ck_assert_ptr_null(strchr(plain->str, '\033'));
    ck_assert_ptr_null(strstr(coloured->str, "\033[2J"));
    ck_assert_ptr_null(strstr(plain->str, "\u202e"));
    ck_assert_ptr_nonnull(strstr(coloured->str, "\033[0m|\n"));
    ck_assert_ptr_null(strchr(svg->str, '\033'));
    ck_assert_ptr_nonnull(strstr(svg->str, "&lt;&amp;&gt;&quot;&apos;"));
    ck_assert(g_utf8_validate(svg->str, -1, NULL));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("img-picture");
    TCase *tc = tcase_create("picture");

    suite_add_tcase(s, tc);
    tcase_add_test(tc, shares);
    tcase_add_test(tc, odd_lengths);
    tcase_add_test(tc, part_of_a_disk);
    tcase_add_test(tc, no_bytes);
    tcase_add_test(tc, percent);
    tcase_add_test(tc, little_is_not_nothing);
    tcase_add_test(tc, only_colours_have_escapes);
    return s;
}

int main(void)
{
    return unit_main(suite());
}
