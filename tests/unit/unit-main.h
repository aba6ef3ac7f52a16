/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What main() of a unit test does: run one suite. Under meson the environment
 * asks Check for the Test Anything Protocol, so that each test case counts.
 */
#ifndef TESTS_UNIT_MAIN_H
#define TESTS_UNIT_MAIN_H

#include <check.h>

/* Runs @suite, which it frees; returns the exit status. */
static inline int unit_main(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    int failed;

    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}

#endif
