/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A status cache as QMP shows it (block/status-json.c) */
#include <unistd.h>

#include "block/status-json.h"
#include "unit-main.h"

#define LENGTH (64 * 1024)

static StatusCache *cache_new(StatusCacheMode mode)
{
    StatusCacheOptions options = {
        .length = LENGTH,
        .granularity = 4096,
        .mode = mode,
    };
    g_autoptr(GError) err = NULL;
    StatusCache *cache = status_cache_new(&options, &err);

    ck_assert_ptr_nonnull(cache);
    return cache;
}

static int64_t get(JsonObject *obj, const char *name)
{
    ck_assert_msg(json_object_has_member(obj, name), "no member %s", name);
    return json_object_get_int_member(obj, name);
}

/* Every member is described, and everything described is there. */
START_TEST(test_schema)
{
    g_autoptr(StatusCache) cache = cache_new(STATUS_CACHE_DATA_ONLY);
    JsonObject *obj = status_cache_to_json(cache, NULL);
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(GError) err = NULL;

    json_node_take_object(node, obj);
    ck_assert_msg(
        schema_check(&block_status_cache_stats_type, node, "", false, &err),
        "%s", err ? err->message : "no error");
    ck_assert_str_eq(json_object_get_string_member(obj, "mode"), "data-only");
    ck_assert_str_eq(json_object_get_string_member(obj, "strategy"), "none");
    ck_assert(!json_object_get_boolean_member(obj, "cachestat"));

    ck_assert(
        !schema_check(&block_status_cache_info_type, node, "", false, &err));
    ck_assert_str_eq(err->message, "Parameter 'node-name' is missing");
    g_clear_error(&err);
    json_object_set_string_member(obj, "node-name", "n0");
    ck_assert(
        schema_check(&block_status_cache_info_type, node, "", false, &err));
}
END_TEST

START_TEST(test_counters)
{
    g_autoptr(StatusCache) cache = cache_new(STATUS_CACHE_ON);
    StatusCacheStats delta = {
        .probes = 3,
        .probe_calls = { [STATUS_PROBE_SEEK_DATA] = 1,
                         [STATUS_PROBE_SEEK_HOLE] = 2,
                         [STATUS_PROBE_FIEMAP] = 3,
                         [STATUS_PROBE_CACHESTAT] = 4 },
        .extents = 7,
        .probe_cpu_ns = 1,
    };
    JsonObject *obj, *sub;
    StatusOp op;
    int64_t pnum;
    guint i, bins;

    status_cache_write_begin(cache, &op, 0, 4096);
    status_cache_write_end(cache, &op, true);
    status_cache_zero_begin(cache, &op, 8192, 8192, false);
    status_cache_zero_end(cache, &op, true);
    status_cache_lookup(cache, 0, LENGTH, &pnum);
    status_cache_lookup(cache, 4096, LENGTH, &pnum);
    status_cache_account_probe(cache, &delta);

    obj = status_cache_to_json(cache, NULL);
    ck_assert_str_eq(json_object_get_string_member(obj, "mode"), "on");
    ck_assert_int_eq(get(obj, "granularity"), 4096);
    ck_assert_int_eq(get(obj, "length"), LENGTH);
    ck_assert_int_eq(get(obj, "lookups"), 2);
    ck_assert_int_eq(get(obj, "hits"), 1);
    ck_assert_int_eq(get(obj, "misses"), 1);
    ck_assert_int_eq(get(obj, "bytes-data"), 4096);
    ck_assert_int_eq(get(obj, "bytes-zero"), 8192);
    ck_assert_int_eq(get(obj, "bytes-unknown"), LENGTH - 4096 - 8192);
    ck_assert_int_eq(get(obj, "learned-writes"), 4096);
    ck_assert_int_eq(get(obj, "learned-zeroes"), 8192);
    ck_assert_int_eq(get(obj, "probes"), 3);
    ck_assert_int_eq(get(obj, "extents"), 7);
    ck_assert_int_gt(get(obj, "memory"), 0);

    sub = json_object_get_object_member(obj, "probe-calls");
    ck_assert_int_eq(get(sub, "seek-data"), 1);
    ck_assert_int_eq(get(sub, "seek-hole"), 2);
    ck_assert_int_eq(get(sub, "fiemap"), 3);
    ck_assert_int_eq(get(sub, "cachestat"), 4);

    sub = json_object_get_object_member(obj, "probe-cpu-histogram");
    bins = json_array_get_length(json_object_get_array_member(sub, "bins"));
    ck_assert_uint_eq(bins, STATUS_CACHE_HISTOGRAM);
    ck_assert_uint_eq(
        json_array_get_length(json_object_get_array_member(sub, "boundaries")),
        bins - 1);
    for (i = 0; i < bins - 1; i++) {
        ck_assert_uint_eq(
            json_array_get_int_element(
                json_object_get_array_member(sub, "boundaries"), i),
            status_cache_histogram_ns[i]);
    }
    json_object_unref(obj);
}
END_TEST

START_TEST(test_strategy)
{
    g_autoptr(StatusCache) cache = cache_new(STATUS_CACHE_ON);
    g_autofree char *path = NULL;
    StatusProbe *probe;
    JsonObject *obj;
    int fd = g_file_open_tmp("test-status-json.XXXXXX", &path, NULL);

    ck_assert_int_ge(fd, 0);
    probe = status_probe_new(fd, STATUS_PROBE_USE_SEEK);
    obj = status_cache_to_json(cache, probe);
    ck_assert_str_eq(json_object_get_string_member(obj, "strategy"), "seek");
    json_object_unref(obj);
    status_probe_free(probe);
    close(fd);
    unlink(path);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("status-json");
    TCase *tc = tcase_create("status-json");

    tcase_add_test(tc, test_schema);
    tcase_add_test(tc, test_counters);
    tcase_add_test(tc, test_strategy);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
