/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Error classes and messages (util/error.c) */
#include <errno.h>
#include <glib.h>

#include "unit-main.h"
#include "util/error.h"

START_TEST(test_class_names)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(GError) foreign = g_error_new(G_FILE_ERROR, 1, "foreign");

    error_set_class(&err, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", "d");
    ck_assert_str_eq(err->message, "Device 'd' not found");
    ck_assert_str_eq(error_class_name(err), "DeviceNotFound");
    ck_assert_str_eq(error_class_name(foreign), "GenericError");
}
END_TEST

START_TEST(test_errno)
{
    g_autoptr(GError) err = NULL;

    error_setg_errno(&err, ENOENT, "Could not open '%s'", "x");
    ck_assert_str_eq(err->message,
                     "Could not open 'x': No such file or directory");
    error_setg(NULL, "nobody listens");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("error");
    TCase *tc = tcase_create("error");

    tcase_add_test(tc, test_class_names);
    tcase_add_test(tc, test_errno);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
