/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The arithmetic of throttling (block/throttle-state.c, throttle-limits.c) */
#include "block/throttle-state.h"
#include "unit-main.h"
#include "util/json-text.h"

#define MS INT64_C(1000000)
#define SECOND (1000 * MS)

static JsonNode *parse(const char *json)
{
    JsonNode *node = json_text_parse(json, strlen(json), NULL);

    ck_assert_ptr_nonnull(node);
    return node;
}

static ThrottleLimits limits_of(const char *json)
{
    g_autoptr(JsonNode) node = parse(json);
    ThrottleLimits limits = throttle_no_limits;
    g_autoptr(GError) err = NULL;

    ck_assert(
        throttle_limits_merge(&limits, json_node_get_object(node), "", &err));
    ck_assert_msg(throttle_limits_check(&limits, &err), "%s: %s", json,
                  err ? err->message : "");
    return limits;
}

static ThrottleState s;

static void start(const char *json)
{
    ThrottleLimits limits = limits_of(json);

    throttle_state_init(&s, &limits, 0);
}

/* How many requests go at that time, one behind the other, up to @most */
static int go(bool is_write, int64_t bytes, int64_t now_ns, int most)
{
    int n = 0;

    while (n < most && throttle_state_wait(&s, is_write, now_ns) == 0) {
        throttle_state_account(&s, is_write, bytes);
        n++;
    }
    return n;
}

#define waits(is_write, now_ns, want)                                          \
    ck_assert_int_eq(throttle_state_wait(&s, is_write, now_ns), want)

START_TEST(test_requests)
{
    /* A tenth of a second's may be over before somebody has to wait. */
    start("{\"iops-total\": 10}");
    ck_assert_int_eq(go(false, 4096, 0, 100), 2);
    waits(false, 0, 100 * MS);
    waits(true, 0, 100 * MS);
    waits(true, 60 * MS, 40 * MS);
    /* Time that goes back changes nothing. */
    waits(true, 50 * MS, 40 * MS);
    waits(true, 100 * MS, 0);
    ck_assert_int_eq(go(true, 1 << 20, 100 * MS, 100), 1);
    waits(false, 100 * MS, 100 * MS);
    /* What was not used is not saved up. */
    ck_assert_int_eq(go(false, 4096, 1000 * SECOND, 100), 2);
}
END_TEST

START_TEST(test_bytes)
{
    start("{\"bps-total\": 1000}");
    /* A large one goes at once, and the next one waits for it. */
    ck_assert_int_eq(go(true, 5100, 0, 100), 1);
    waits(true, 0, 5 * SECOND);
    waits(false, 4 * SECOND, 1 * SECOND);
    ck_assert_int_eq(go(false, 1000, 5 * SECOND, 100), 1);
    waits(false, 5 * SECOND, 1 * SECOND);
    waits(false, 6 * SECOND, 0);
}
END_TEST

START_TEST(test_directions)
{
    start("{\"bps-read\": 1000, \"bps-write\": 100, \"iops-read\": 1}");
    ck_assert_int_eq(go(false, 1, 0, 100), 1);
    waits(false, 0, 900 * MS);
    waits(true, 0, 0);
    ck_assert_int_eq(go(true, 110, 0, 100), 1);
    waits(true, 0, 1 * SECOND);
    waits(false, 0, 900 * MS);
    /* The one that takes longest counts. */
    ck_assert_int_eq(go(false, 3100, SECOND, 100), 1);
    waits(false, SECOND, 3 * SECOND);
}
END_TEST

START_TEST(test_burst)
{
    start("{\"iops-total\": 100, \"iops-total-max\": 1000}");
    ck_assert_int_eq(go(false, 1, 0, 5000), 1001);
    waits(false, 0, 10 * MS);
    ck_assert_int_eq(go(false, 1, SECOND, 5000), 100);
    ck_assert_int_eq(go(false, 1, 100 * SECOND, 5000), 1001);
}
END_TEST

/* Requests that go in so many seconds, each as early as it can */
static int run(int64_t from, int64_t until)
{
    int64_t now = from;
    int n = 0;

    while ((now += throttle_state_wait(&s, true, now)) < until) {
        throttle_state_account(&s, true, 1);
        n++;
    }
    return n;
}

static void is_about(int n, int want)
{
    ck_assert_int_ge(n, want - 2);
    ck_assert_int_le(n, want + 2);
}

START_TEST(test_long_burst)
{
    start("{\"iops-write\": 100, \"iops-write-max\": 1000,"
          " \"iops-write-max-length\": 9}");
    /* A tenth of a second's at once, and then at the rate of the burst */
    ck_assert_int_eq(go(true, 1, 0, 5000), 101);
    waits(true, 0, 1 * MS);
    is_about(run(0, 5 * SECOND), 5000);
    /* 9000 over what leaks by then: after 10 s, less what came at once */
    is_about(run(5 * SECOND, 20 * SECOND), 9000 + 2000 - 5101);
    is_about(run(20 * SECOND, 30 * SECOND), 1000);
}
END_TEST

START_TEST(test_iops_size)
{
    start("{\"iops-total\": 10, \"iops-size\": 4096}");
    ck_assert_int_eq(go(false, 0, 0, 1), 1);
    ck_assert_int_eq(go(false, 10240, 0, 100), 1);
    waits(false, 0, 250 * MS);
    start("{\"iops-total\": 10, \"iops-size\": 4096}");
    ck_assert_int_eq(go(false, 4096, 0, 100), 2);
}
END_TEST

START_TEST(test_extremes)
{
    start("{}");
    ck_assert(!throttle_limits_any(&s.limits));
    ck_assert_int_eq(go(true, INT64_C(1) << 40, 0, 1000), 1000);
    start("{\"bps-write\": 1}");
    ck_assert(throttle_limits_any(&s.limits));
    ck_assert_int_eq(go(true, INT64_C(1) << 40, 0, 1000), 1);
    waits(true, 0, INT64_C(365) * 86400 * SECOND);
    waits(false, 0, 0);
    /* An odd rate, and never too early */
    start("{\"iops-total\": 3}");
    ck_assert_int_eq(go(true, 1, 0, 1000), 1);
    waits(true, 0, 233333334);
    waits(true, 233333334, 0);
}
END_TEST

/* ---- limits ------------------------------------------------------------- */

static const struct {
    const char *json, *want; /* NULL: allowed */
} cases[] = {
    { "{}", NULL },
    { "{\"iops-total\": 0, \"bps-read\": 0}", NULL },
    { "{\"iops-total\": 1, \"bps-read\": 1, \"bps-write\": 1}", NULL },
    { "{\"bps-total\": 1000000000000000}", NULL },
    { "{\"bps-total\": 1000000000000001}", "'bps-total'.*1000000000000001" },
    { "{\"iops-write\": -1}", "'iops-write'.*-1" },
    { "{\"iops-size\": -1, \"iops-read\": 1}", "'iops-size'.*-1" },
    { "{\"iops-size\": 1}", "'iops-size'" },
    { "{\"iops-size\": 1, \"bps-total\": 1}", "'iops-size'" },
    { "{\"iops-size\": 1, \"iops-write\": 1}", NULL },
    { "{\"iops-total\": 1, \"iops-write\": 1}", "'iops-total'.*'iops-write'" },
    { "{\"iops-total\": 1, \"iops-read\": 1}", "'iops-total'.*'iops-read'" },
    { "{\"bps-total\": 1, \"bps-write\": 1}", "'bps-total'.*'bps-write'" },
    { "{\"bps-read-max\": 1}", "'bps-read-max'.*'bps-read'" },
    { "{\"bps-read\": 2, \"bps-read-max\": 1}", "'bps-read-max' \\(1\\)" },
    { "{\"bps-read\": 2, \"bps-read-max\": 2}", NULL },
    { "{\"bps-read\": 2, \"bps-read-max-length\": 2}",
      "'bps-read-max-length'" },
    { "{\"bps-read\": 2, \"bps-read-max-length\": 1}", NULL },
    { "{\"bps-read\": 2, \"bps-read-max-length\": 0}",
      "'bps-read-max-length'" },
    { "{\"bps-read\": 2, \"bps-read-max\": 2, \"bps-read-max-length\":"
      " 4294967295}",
      NULL },
    { "{\"bps-read\": 2, \"bps-read-max\": 2, \"bps-read-max-length\":"
      " 4294967296}",
      "4294967296" },
    { "{\"iops-write\": 2, \"iops-write-max\": 500000000000000,"
      " \"iops-write-max-length\": 3}",
      "'iops-write-max-length' \\(3\\)" },
};

START_TEST(test_limits)
{
    g_autoptr(JsonNode) node = parse(cases[_i].json);
    ThrottleLimits limits = throttle_no_limits;
    g_autoptr(GError) err = NULL;
    bool ok =
        throttle_limits_merge(&limits, json_node_get_object(node), "", &err) &&
        throttle_limits_check(&limits, &err);

    ck_assert_msg(ok == !cases[_i].want, "%s", cases[_i].json);
    ck_assert(ok == !err);
    if (err) {
        ck_assert_msg(g_regex_match_simple(cases[_i].want, err->message, 0, 0),
                      "%s", err->message);
    }
}
END_TEST

/* Each member is one of its own, and other members stay as they are. */
START_TEST(test_merge)
{
    ThrottleLimits limits = throttle_no_limits;
    int i, j;

    for (i = 0; i < THROTTLE_NAMES; i++) {
        g_autofree char *name = g_strconcat("x-", throttle_limit_name(i), NULL);
        g_autoptr(JsonObject) given = json_object_new();

        json_object_set_int_member(given, name, 100 + i);
        ck_assert(throttle_limits_merge(&limits, given, "", NULL));
        ck_assert_int_le(throttle_limit_get(&limits, i), 1);
        ck_assert(throttle_limits_merge(&limits, given, "x-", NULL));
        for (j = 0; j < THROTTLE_NAMES; j++) {
            int64_t value = throttle_limit_get(&limits, j);

            if (j <= i) {
                ck_assert_int_eq(value, 100 + j);
            } else {
                ck_assert_int_eq(
                    value, g_str_has_suffix(throttle_limit_name(j), "length"));
            }
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("throttle-state");
    TCase *tc = tcase_create("throttle-state");

    tcase_add_test(tc, test_requests);
    tcase_add_test(tc, test_bytes);
    tcase_add_test(tc, test_directions);
    tcase_add_test(tc, test_burst);
    tcase_add_test(tc, test_long_burst);
    tcase_add_test(tc, test_iops_size);
    tcase_add_test(tc, test_extremes);
    tcase_add_loop_test(tc, test_limits, 0, G_N_ELEMENTS(cases));
    tcase_add_test(tc, test_merge);
    suite_add_tcase(suite, tc);
    return unit_main(suite);
}
