/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sets of file descriptors (util/fdset.c): their ids */
#include <glib.h>
#include <limits.h>
#include <stdint.h>

#include "unit-main.h"
#include "util/fdset.h"
#include "util/limits.h"

#define MANY 10000

/* Numbers of no descriptors: there need not be so many. */
static int64_t add(void)
{
    static int next = INT_MAX;
    int64_t id = -1;

    ck_assert(fdset_add(next--, false, &id, NULL, NULL));
    return id;
}

START_TEST(test_lowest_id)
{
    int64_t id = 2;
    int i;

    ck_assert(fdset_add(INT_MAX - MANY, true, &id, NULL, NULL));
    for (i = 0; i < 4; i++) {
        ck_assert_int_eq(add(), i < 2 ? i : i + 1);
    }
    ck_assert(fdset_remove(1, -1, NULL));
    ck_assert(fdset_remove(3, -1, NULL));
    ck_assert_int_eq(add(), 1);
    ck_assert_int_eq(add(), 3);
    ck_assert_int_eq(add(), 5);
    fdset_close_all();
    ck_assert_int_eq(add(), 0);
    fdset_close_all();
}
END_TEST

/* A client that passes many holds up nobody else's commands. */
START_TEST(test_many)
{
    int i;

    limits.passed_fds = MANY;
    for (i = 0; i < MANY; i++) {
        ck_assert_int_eq(add(), i);
    }
    fdset_close_all();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fdset");
    TCase *tc = tcase_create("fdset");

    tcase_set_timeout(tc, 1);
    tcase_add_test(tc, test_lowest_id);
    tcase_add_test(tc, test_many);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
