/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Trace points (util/trace.c), and those of the status cache */
#include <check.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "block/status-cache.h"
#include "unit-main.h"
#include "util/trace.h"

static char *path;
static StatusCache *cache;

static void setup(void)
{
    StatusCacheOptions options = {
        .length = 1024 * 1024,
        .granularity = 4096,
        .mode = STATUS_CACHE_ON,
    };
    int fd = g_file_open_tmp("test-trace-XXXXXX", &path, NULL);

    ck_assert(fd >= 0);
    close(fd);
    ck_assert_int_eq(trace_set_file(path), 0);
    cache = status_cache_new(&options, NULL);
}

static void teardown(void)
{
    status_cache_unref(cache);
    trace_enable("-*");
    g_unlink(path);
    g_free(path);
}

/* The only line that was logged, from its colon on; "" if there is none */
static char *logged(void)
{
    char *text, *line;

    ck_assert(g_file_get_contents(path, &text, NULL, NULL));
    line = text[0] ? g_strdup(strchr(text, ':') + 1) : g_strdup("");
    g_free(text);
    return line;
}

/* A write into a probe */
static void taint(void)
{
    StatusOp probe, write;

    status_cache_probe_begin(cache, &probe, 0, 65536);
    status_cache_write_begin(cache, &write, 4096, 8192);
    status_cache_write_end(cache, &write, false);
    status_cache_probe_end(cache, &probe);
}

START_TEST(test_off)
{
    g_autofree char *line = NULL;

    ck_assert(trace_enable("*"));
    ck_assert(trace_enable("-status_taint"));
    taint();
    line = logged();
    ck_assert_str_eq(line, "");
}
END_TEST

START_TEST(test_taint)
{
    g_autofree char *line = NULL;

    ck_assert(trace_enable("status_t?int"));
    taint();
    line = logged();
    ck_assert_str_eq(line, "status_taint op probe offset 0 bytes 65536\n");
}
END_TEST

START_TEST(test_patterns)
{
    ck_assert(!trace_enable("nonsense"));
    ck_assert(!trace_enable(""));
    ck_assert(!trace_enable("-"));
    ck_assert(!trace_on(TRACE_JOB_STATUS));
    ck_assert(trace_enable("job_*"));
    ck_assert(trace_on(TRACE_JOB_STATUS));
    ck_assert(!trace_on(TRACE_STATUS_TAINT));
    ck_assert_int_lt(trace_set_file("/nonexistent/file"), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("trace");
    TCase *tc = tcase_create("trace");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_off);
    tcase_add_test(tc, test_taint);
    tcase_add_test(tc, test_patterns);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
