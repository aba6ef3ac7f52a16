/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QMP monitors (block/monitor/): negotiation, order, replies, events, and
 * clients that misbehave; with commands of our own.
 */
#include <check.h>
#include <glib/gstdio.h>
#include <unistd.h>

#include "block/monitor/qmp-tables.h"
#include "monitor/monitor.h"
#include "qmp-client.h"
#include "unit-main.h"
#include "util/json-text.h"
#include "util/thread.h"

/* ---- commands ----------------------------------------------------------- */

/* Commands that wait at the gate, by their numbers */
static Mutex gate_lock = MUTEX_INIT;
static Cond gate_cond = PTHREAD_COND_INITIALIZER;
static bool gate_open;
static int gate_waiting; /* at the gate now */
static int gate_order;   /* passed so far */

static void gate_set(bool open)
{
    MUTEX_GUARD(&gate_lock);

    gate_open = open;
    cond_broadcast(&gate_cond);
}

static int gate_count(void)
{
    MUTEX_GUARD(&gate_lock);

    return gate_waiting;
}

static JsonNode *wait_at_gate(JsonObject *args, GError **errp)
{
    JsonObject *ret = json_object_new();

    MUTEX_GUARD(&gate_lock);
    gate_waiting++;
    while (!gate_open) {
        cond_wait(&gate_cond, &gate_lock);
    }
    gate_waiting--;
    json_object_set_int_member(ret, "n", gate_order++);
    return qmp_node_from_object(ret);
}

/* Iterate until @n commands are at the gate. */
static void await_gate(int n)
{
    while (gate_count() != n) {
        g_main_context_iteration(NULL, FALSE);
    }
}

static int echoes; /* main thread */

static JsonNode *echo(JsonObject *args, GError **errp)
{
    echoes++;
    return qmp_node_from_object(json_object_ref(args));
}

static JsonNode *not_found(JsonObject *args, GError **errp)
{
    error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found",
                    schema_get_str(args, "s", "?"));
    return NULL;
}

static JsonNode *send_event(JsonObject *args, GError **errp)
{
    JsonObject *data = json_object_new();

    json_object_set_string_member(data, "s", schema_get_str(args, "s", ""));
    qmp_event_send("SOMETHING", data);
    return NULL;
}

static JsonNode *big(JsonObject *args, GError **errp)
{
    JsonObject *ret = json_object_new();
    g_autofree char *s = g_strnfill(schema_get_int(args, "n", 0), 'x');

    echoes++;
    json_object_set_string_member(ret, "s", s);
    return qmp_node_from_object(ret);
}

static const SchemaType args_type = {
    .name = "Args",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "n", &schema_int, .optional = true },
                                       { "s", &schema_str, .optional = true },
                                       { NULL } },
};

static const SchemaType need_type = {
    .name = "Need",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "n", &schema_int }, { NULL } },
};

static const QmpCommand test_commands[] = {
    { "echo", QMP_MAIN, .args = &args_type, .handler = echo },
    { "need", QMP_MAIN, .args = &need_type, .handler = echo },
    { "none", QMP_MAIN, .handler = echo },
    { "fail", QMP_MAIN, .args = &args_type, .handler = not_found },
    { "event", QMP_MAIN, .args = &args_type, .handler = send_event },
    { "event-later", QMP_MANAGEMENT, .args = &args_type,
      .handler = send_event },
    { "big", QMP_MAIN, .args = &args_type, .handler = big },
    { "manage", QMP_MANAGEMENT, .handler = wait_at_gate },
    { "work", QMP_WORKER, .handler = wait_at_gate },
    { NULL },
};

const QmpCommand *const qmp_command_tables[] = {
    qmp_control_commands,
    test_commands,
    NULL,
};

const QmpEvent *const qmp_event_tables[] = { NULL };

/* ---- set-up ------------------------------------------------------------- */

static char *dir;
static char *paths[4]; /* of the sockets of the monitors */

static void setup(void)
{
    static const char *const options[] = { "", "", "", ",pretty=on" };
    GError *err = NULL;
    int i;

    gate_open = false;
    gate_waiting = gate_order = echoes = 0;
    dir = g_dir_make_tmp("test-monitor-XXXXXX", NULL);
    ck_assert(monitor_init(NULL));
    for (i = 0; i < 4; i++) {
        g_autofree char *chardev = NULL;
        g_autofree char *monitor = NULL;

        paths[i] = g_strdup_printf("%s/%d", dir, i);
        chardev = g_strdup_printf("socket,id=c%d,path=%s,server=on,wait=off", i,
                                  paths[i]);
        monitor = g_strdup_printf("c%d%s", i, options[i]);
        ck_assert(chardev_add(chardev, &err));
        ck_assert(monitor_add(monitor, &err));
    }
}

static void teardown(void)
{
    int i;

    gate_set(true);
    monitor_stop(INT64_MAX);
    monitor_cleanup();
    for (i = 0; i < 4; i++) {
        ck_assert(!g_file_test(paths[i], G_FILE_TEST_EXISTS));
        g_free(paths[i]);
    }
    g_rmdir(dir);
    g_free(dir);
}

/* ---- one command after the other ---------------------------------------- */

#define ERROR(class, desc)                                                     \
    "\"error\": {\"class\": \"" class "\", \"desc\": \"" desc "\"}}"
#define GENERIC(desc) "{" ERROR("GenericError", desc)
#define NEGOTIATE                                                              \
    ERROR("CommandNotFound", "Expecting capabilities negotiation with "        \
                             "'qmp_capabilities'")

typedef struct Exchange {
    const char *say, *hear;
} Exchange;

static void exchange(Client *c, const Exchange *e)
{
    for (; e->say; e++) {
        client_send(c, e->say);
        client_expect(c, e->hear);
    }
}

START_TEST(test_negotiation)
{
    static const Exchange exchanges[] = {
        { "{\"execute\": \"echo\", \"id\": 1}", "{\"id\": 1, " NEGOTIATE },
        { "{\"execute\": \"nonsense\"}", "{" NEGOTIATE },
        { "{\"execute\": \"qmp_capabilities\", "
          "\"arguments\": {\"enable\": [\"x\"]}}",
          GENERIC("Parameter 'enable[0]' does not accept value 'x'") },
        { "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"x\": 1}}",
          GENERIC("Parameter 'x' is unexpected") },
        { "{\"exec-oob\": \"qmp_capabilities\"}",
          GENERIC("QMP input member 'exec-oob' is unexpected") },
        { "{\"execute\": \"echo\"}", "{" NEGOTIATE },
        { "{\"execute\": \"qmp_capabilities\", \"id\": \"a\"}",
          "{\"return\": {}, \"id\": \"a\"}" },
        { "{\"execute\": \"qmp_capabilities\"}",
          "{" ERROR("CommandNotFound",
                    "Capabilities negotiation is already complete, command "
                    "ignored") },
        { "{\"execute\": \"echo\"}", "{\"return\": {}}" },
        { "{\"exec-oob\": \"echo\"}",
          GENERIC("QMP input member 'exec-oob' is unexpected") },
        { NULL },
    };
    g_autoptr(Client) c = client_greeted(paths[0]);

    exchange(c, exchanges);
}
END_TEST

START_TEST(test_commands_and_errors)
{
    static const Exchange exchanges[] = {
        { "{\"execute\": \"echo\", \"arguments\": {\"n\": 1}, "
          "\"id\": {\"a\": [1, 2.5, null, \"\xc3\xa4\"]}}",
          "{\"return\": {\"n\": 1}, "
          "\"id\": {\"a\": [1, 2.5, null, \"\\u00E4\"]}}" },
        { "{'execute': 'echo', 'id': null}", "{\"return\": {}, \"id\": null}" },
        { "{\"execute\": \"nope\", \"id\": 1}",
          "{\"id\": 1, " ERROR("CommandNotFound",
                               "The command nope has not been found") },
        { "{\"execute\": \"fail\", \"arguments\": {\"s\": \"\\\"\"}}",
          "{" ERROR("DeviceNotFound", "Device '\\\"' not found") },
        { "{\"execute\": 1, \"id\": 1}",
          "{\"id\": 1, " ERROR("GenericError", "QMP input member 'execute' "
                                               "must be a string") },
        { "{\"execute\": \"echo\", \"x\": 1}",
          GENERIC("QMP input member 'x' is unexpected") },
        { "{\"execute\": \"echo\", \"arguments\": []}",
          GENERIC("QMP input member 'arguments' must be an object") },
        { "{\"arguments\": {}}", GENERIC("QMP input lacks member 'execute'") },
        { "{}", GENERIC("QMP input lacks member 'execute'") },
        { "{\"execute\": \"need\"}", GENERIC("Parameter 'n' is missing") },
        { "{\"execute\": \"need\", \"arguments\": {\"n\": \"1\"}}",
          GENERIC("Invalid parameter type for 'n', expected: integer") },
        { "{\"execute\": \"need\", \"arguments\": {\"n\": 1.0}}",
          GENERIC("Invalid parameter type for 'n', expected: integer") },
        { "{\"execute\": \"need\", "
          "\"arguments\": {\"n\": 9223372036854775808}}",
          GENERIC("Parameter 'n' expects an integer below 2^63") },
        { "{\"execute\": \"need\", \"arguments\": {\"n\": 1, \"n\": 2}}",
          GENERIC("JSON parse error, duplicate key 'n'") },
        { "{\"execute\": \"need\", \"arguments\": {\"n\": 1, \"m\": 2}}",
          GENERIC("Parameter 'm' is unexpected") },
        { "{\"execute\": \"none\", \"arguments\": {\"n\": 1}}",
          GENERIC("Parameter 'n' is unexpected") },
        { "{\"execute\": \"none\", \"arguments\": {}}", "{\"return\": {}}" },
        { "{\"execute\": \"none\", \"id\": 9223372036854775807}",
          "{\"return\": {}, \"id\": 9223372036854775807}" },
        { "{\"execute\": \"none\", \"id\": 9223372036854775808}",
          GENERIC("QMP input member 'id' must lie below 2^63") },
        { "[]", GENERIC("QMP input must be a JSON object") },
        { "1 ", GENERIC("QMP input must be a JSON object") },
        { "foo\n", GENERIC("JSON parse error, invalid keyword 'foo'") },
        { "{\"execute\": echo}",
          GENERIC("JSON parse error, invalid keyword 'echo'") },
        { "{\"execute\": \"echo\", \"id\": \"\xc3\"}",
          GENERIC("JSON parse error, invalid UTF-8 sequence in string") },
        { "\xff", GENERIC("JSON parse error, stray '\\\\xff'") },
        { "{\"execute\": \"echo\"}", "{\"return\": {}}" },
        { NULL },
    };
    g_autoptr(Client) c = client_ready(paths[0], "");

    exchange(c, exchanges);
}
END_TEST

START_TEST(test_pretty)
{
    g_autoptr(Client) c = client_connect(paths[3]);
    g_autofree char *greeting = client_line(c);

    ck_assert(g_str_has_prefix(greeting, "{\n    \"QMP\": {\n        "
                                         "\"version\": {\n            "
                                         "\"qemu\": {\n"));
    client_send(c, "{\"execute\": \"qmp_capabilities\"}");
    client_expect(c, "{\n    \"return\": {}\n}");
}
END_TEST

/* A megabyte is too long; the command behind it is not touched. */
START_TEST(test_oversized)
{
    g_autoptr(Client) c = client_ready(paths[0], "");
    g_autofree char *filling = g_strnfill(MONITOR_COMMAND_MAX, 'x');

    client_send(c, "{\"execute\": \"echo\", \"id\": \"");
    client_send(c, filling);
    client_send(c, "\"}{\"execute\": \"echo\"}");
    client_expect(c, GENERIC("JSON parse error, value has more than 1048576 "
                             "bytes"));
    client_expect(c, "{\"return\": {}}");
}
END_TEST

START_TEST(test_depth_bomb)
{
    g_autoptr(Client) c = client_ready(paths[0], "");
    g_autofree char *filling = g_strnfill(500000, '[');

    client_send(c, filling);
    client_expect(c, GENERIC("JSON parse error, nesting is too deep"));
    client_send(c, "\n{\"execute\": \"echo\"}");
    client_expect(c, "{\"return\": {}}");
}
END_TEST

/* ---- order -------------------------------------------------------------- */

START_TEST(test_pipelined)
{
    g_autoptr(Client) c = client_ready(paths[0], "");
    g_autoptr(GString) text = g_string_new(NULL);
    int i;

    for (i = 0; i < 1000; i++) {
        g_string_append_printf(text, "{\"execute\": \"%s\", \"id\": %d}",
                               i % 7 ? "none" : "event-later", i);
    }
    client_send(c, text->str);
    for (i = 0; i < 1000; i++) {
        g_autofree char *want =
            g_strdup_printf("{\"return\": {}, \"id\": %d}", i);

        if (i % 7 == 0) {
            g_autofree char *event = client_line(c);

            ck_assert_ptr_nonnull(strstr(event, "SOMETHING"));
        }
        client_expect(c, want);
    }
}
END_TEST

/* A command that waits holds up its own session only, and nothing there that
 * is out of band. */
START_TEST(test_waiting)
{
    static const char *const commands[] = { "manage", "work" };
    g_autofree char *wait =
        g_strdup_printf("{\"execute\": \"%s\", \"id\": 1}", commands[_i]);
    g_autoptr(Client) a = client_ready(paths[0], "\"oob\"");
    g_autoptr(Client) b = client_ready(paths[1], "");

    client_send(a, wait);
    client_send(a, "{\"execute\": \"none\", \"id\": 2}");
    await_gate(1);
    ck_assert(client_quiet(a));
    client_send(a, "{\"exec-oob\": \"none\", \"id\": 3}");
    client_expect(a, "{\"return\": {}, \"id\": 3}");
    client_send(a, "{\"exec-oob\": \"manage\", \"id\": 4}");
    client_expect(a, "{\"id\": 4, \"error\": {\"class\": \"GenericError\", "
                     "\"desc\": \"The command manage does not support "
                     "OOB\"}}");
    client_send(a, "{\"exec-oob\": \"nope\"}");
    client_expect(
        a, "{" ERROR("CommandNotFound", "The command nope has not been found"));
    client_send(a, "{\"exec-oob\": \"none\", \"execute\": \"none\"}");
    client_send(b, "{\"execute\": \"none\"}");
    client_expect(b, "{\"return\": {}}");
    ck_assert(client_quiet(a));

    gate_set(true);
    client_expect(a, "{\"return\": {\"n\": 0}, \"id\": 1}");
    client_expect(a, "{\"return\": {}, \"id\": 2}");
    client_expect(a, GENERIC("QMP input has both member 'execute' and member "
                             "'exec-oob'"));
}
END_TEST

/* Management goes one after the other, workers side by side. */
START_TEST(test_threads)
{
    g_autoptr(Client) a = client_ready(paths[0], "");
    g_autoptr(Client) b = client_ready(paths[1], "");
    g_autoptr(Client) c = client_ready(paths[2], "");

    client_send(a, "{\"execute\": \"work\"}");
    client_send(b, "{\"execute\": \"work\"}");
    await_gate(2);
    client_send(c, "{\"execute\": \"manage\"}");
    await_gate(3);
    gate_set(true);
    await_gate(0);
}
END_TEST

START_TEST(test_management_in_turn)
{
    g_autoptr(Client) a = client_ready(paths[0], "");
    g_autoptr(Client) b = client_ready(paths[1], "");

    client_send(a, "{\"execute\": \"manage\"}");
    await_gate(1);
    client_send(b, "{\"execute\": \"manage\"}");
    ck_assert(client_quiet(b));
    ck_assert_int_eq(gate_count(), 1);
    gate_set(true);
    client_expect(a, "{\"return\": {\"n\": 0}}");
    client_expect(b, "{\"return\": {\"n\": 1}}");
}
END_TEST

/* ---- misbehaviour ------------------------------------------------------- */

/* Write @text until nothing more is taken; returns how often. */
static int fill(Client *c, const char *text)
{
    size_t bytes = strlen(text);
    int n = 0, refused = 0;

    /* Refused twice, with the monitor's turn in between: nobody reads. */
    while (refused < 2) {
        ssize_t ret = write(c->out_fd, text, bytes);

        if (ret < 0) {
            ck_assert_int_eq(errno, EAGAIN);
            refused++;
            while (g_main_context_iteration(NULL, FALSE)) {
            }
        } else {
            ck_assert_int_eq(ret, bytes);
            refused = 0;
            n++;
        }
    }
    return n;
}

/* While a command runs, so many others are taken and no more. */
START_TEST(test_back_pressure)
{
    g_autoptr(Client) c = client_ready(paths[0], "");
    g_autoptr(Client) other = client_ready(paths[1], "");
    int i, n;

    client_send(c, "{\"execute\": \"manage\"}");
    await_gate(1);
    n = fill(c, "{\"execute\": \"echo\"}");
    ck_assert_int_gt(n, 8);
    ck_assert_int_eq(echoes, 0);
    client_send(other, "{\"execute\": \"echo\"}");
    client_expect(other, "{\"return\": {}}");
    gate_set(true);
    client_expect(c, "{\"return\": {\"n\": 0}}");
    for (i = 0; i < n; i++) {
        client_expect(c, "{\"return\": {}}");
    }
    ck_assert_int_eq(echoes, n + 1);
}
END_TEST

/* Who does not read is not served; nobody else notices, nothing is lost. */
START_TEST(test_slow_reader)
{
    g_autoptr(Client) c = client_ready(paths[0], "");
    g_autoptr(Client) other = client_ready(paths[1], "");
    int i, n, bound;

    n = fill(c, "{\"execute\": \"big\", \"arguments\": {\"n\": 100000}}");
    /* What the monitor keeps, and what the kernel may */
    bound = MONITOR_OUTPUT_HIGH / 100000 + 1 + 20;
    ck_assert_int_lt(echoes, bound);
    ck_assert_int_gt(n, bound);
    client_send(other, "{\"execute\": \"none\"}");
    client_expect(other, "{\"return\": {}}");
    for (i = 0; i < n; i++) {
        g_autofree char *line = client_line(c);

        ck_assert_uint_gt(strlen(line), 100000);
    }
    ck_assert(client_quiet(c));
}
END_TEST

/* Out of band does not help either. */
START_TEST(test_slow_oob_reader)
{
    g_autoptr(Client) c = client_ready(paths[0], "\"oob\"");
    int bound = MONITOR_OUTPUT_HIGH / 100000 + 1 + 20 + MONITOR_QUEUE_MAX;

    ck_assert_int_gt(
        fill(c, "{\"exec-oob\": \"big\", \"arguments\": {\"n\": 100000}}"),
        bound);
    ck_assert_int_lt(echoes, bound);
}
END_TEST

START_TEST(test_event_flood)
{
    g_autoptr(Client) c = client_ready(paths[0], "");
    g_autoptr(Client) other = client_ready(paths[1], "");
    g_autofree char *s = g_strnfill(10000, 'x');
    g_autofree char *event = NULL;
    int i;

    for (i = 0; i < MONITOR_OUTPUT_MAX / 10000 + 100; i++) {
        JsonObject *data = json_object_new();

        json_object_set_string_member(data, "s", s);
        qmp_event_send("FLOOD", data);
        event = client_line(other);
        ck_assert(g_str_has_prefix(event, "{\"timestamp\": "));
        g_clear_pointer(&event, g_free);
    }
    /* It gets what the kernel already had, and the end. */
    while (!c->eof) {
        client_read(c);
    }
    ck_assert_uint_lt(c->in->len, MONITOR_OUTPUT_MAX);
    client_send(other, "{\"execute\": \"none\"}");
    client_expect(other, "{\"return\": {}}");
    client_free(client_ready(paths[0], ""));
}
END_TEST

/* The client goes while its command runs: the next one is served at once. */
START_TEST(test_vanish)
{
    Client *c = client_ready(paths[0], "");

    client_send(c, "{\"execute\": \"work\"}{\"execute\": \"echo\"}");
    await_gate(1);
    client_free(c);
    c = client_ready(paths[0], "");
    client_send(c, "{\"execute\": \"none\"}");
    client_expect(c, "{\"return\": {}}");
    ck_assert_int_eq(echoes, 1);
    gate_set(true);
    /* What it had sent is executed all the same. */
    while (echoes < 2) {
        g_main_context_iteration(NULL, TRUE);
    }
    ck_assert(client_quiet(c));
    client_free(c);
}
END_TEST

/* The client sends no more, but wants its answers. */
START_TEST(test_half_closed)
{
    g_autoptr(Client) c = client_ready(paths[0], "");
    int i;

    for (i = 0; i < 20; i++) {
        client_send(c, i == 10 ? "{\"execute\": \"manage\"}"
                               : "{\"execute\": \"none\"}");
    }
    client_send(c, "{\"execute\": \"no");
    shutdown(c->out_fd, SHUT_WR);
    gate_set(true);
    for (i = 0; i < 20; i++) {
        client_expect(c, i == 10 ? "{\"return\": {\"n\": 0}}"
                                 : "{\"return\": {}}");
    }
    client_expect(c, GENERIC("JSON parse error, unterminated string"));
    client_expect(c, NULL);
}
END_TEST

START_TEST(test_one_at_a_time)
{
    Client *first = client_ready(paths[0], "");
    Client *second = client_connect(paths[0]);
    g_autofree char *greeting = NULL;
    int i;

    ck_assert(client_quiet(second));
    client_send(first, "{\"execute\": \"none\"}");
    client_expect(first, "{\"return\": {}}");
    client_free(first);
    greeting = client_line(second);
    ck_assert(g_str_has_prefix(greeting, "{\"QMP\": "));
    client_free(second);
    /* Come and go, with and without a word */
    for (i = 0; i < 50; i++) {
        client_free(client_connect(paths[0]));
        client_free(client_greeted(paths[0]));
        client_free(client_ready(paths[0], ""));
    }
}
END_TEST

/* ---- events ------------------------------------------------------------- */

static void expect_event(Client *c, const char *s)
{
    g_autofree char *line = client_line(c);
    g_autofree char *want = g_strdup_printf(
        ", \"event\": \"SOMETHING\", \"data\": {\"s\": \"%s\"}}", s);
    JsonObject *object, *timestamp;
    g_autoptr(JsonNode) node = json_text_parse(line, strlen(line), NULL);
    int64_t seconds;

    ck_assert(g_str_has_suffix(line, want));
    ck_assert_ptr_nonnull(node);
    object = json_node_get_object(node);
    timestamp = json_object_get_object_member(object, "timestamp");
    seconds = json_object_get_int_member(timestamp, "seconds");
    ck_assert_int_le(seconds, g_get_real_time() / G_USEC_PER_SEC);
    ck_assert_int_lt(json_object_get_int_member(timestamp, "microseconds"),
                     G_USEC_PER_SEC);
}

START_TEST(test_events)
{
    g_autoptr(Client) a = client_ready(paths[0], "");
    g_autoptr(Client) b = client_ready(paths[1], "");
    g_autoptr(Client) c = client_connect(paths[2]);

    g_free(client_line(c));
    client_send(a, "{\"execute\": \"event\", \"arguments\": {\"s\": \"1\"}}");
    expect_event(a, "1");
    client_expect(a, "{\"return\": {}}");
    expect_event(b, "1");
    client_send(b, "{\"execute\": \"event-later\"}");
    expect_event(b, "");
    client_expect(b, "{\"return\": {}}");
    expect_event(a, "");
    /* It has not negotiated */
    ck_assert(client_quiet(c));
}
END_TEST

static void *event_thread(void *opaque)
{
    int i;

    for (i = 0; i < 1000; i++) {
        JsonObject *data = json_object_new();
        g_autofree char *s = g_strdup_printf("%s%d", (char *)opaque, i);

        json_object_set_string_member(data, "s", s);
        qmp_event_send("SOMETHING", data);
    }
    return NULL;
}

START_TEST(test_events_of_threads)
{
    static const char *const names[] = { "a", "b" };
    g_autoptr(Client) c = client_ready(paths[0], "");
    pthread_t threads[2];
    int next[2] = { 0, 0 }, i;

    for (i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, event_thread, (void *)names[i]);
    }
    for (i = 0; i < 2000; i++) {
        g_autofree char *line = client_line(c);
        const char *s = strstr(line, "\"s\": \"") + strlen("\"s\": \"");

        ck_assert_int_eq(g_ascii_strtoll(s + 1, NULL, 10), next[*s - 'a']);
        next[*s - 'a']++;
    }
    for (i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
}
END_TEST

/* ---- the end ------------------------------------------------------------ */

/* What runs is answered, what waits is not begun. */
START_TEST(test_stop)
{
    g_autoptr(Client) c = client_ready(paths[0], "");

    client_send(c, "{\"execute\": \"manage\"}{\"execute\": \"echo\"}");
    await_gate(1);
    daemon_quit();
    ck_assert(daemon_quit_requested());
    monitor_run();
    gate_set(true);
    monitor_stop(INT64_MAX);
    client_expect(c, "{\"return\": {\"n\": 0}}");
    ck_assert(client_quiet(c));
    ck_assert_int_eq(echoes, 0);
}
END_TEST

/* What runs for too long is not waited for. */
START_TEST(test_stop_in_time)
{
    g_autoptr(Client) c = client_ready(paths[0], "");
    g_autoptr(GPtrArray) names = NULL, none = NULL;

    client_send(c, "{\"execute\": \"manage\"}");
    await_gate(1);
    ck_assert(!monitor_stop(g_get_monotonic_time() + 1000));
    names = monitor_running_commands();
    ck_assert_uint_eq(names->len, 1);
    ck_assert_str_eq(names->pdata[0], "manage");
    gate_set(true);
    ck_assert(monitor_stop(INT64_MAX));
    none = monitor_running_commands();
    ck_assert_uint_eq(none->len, 0);
    client_expect(c, "{\"return\": {\"n\": 0}}");
}
END_TEST

static int management_done;

static void management_task(void *opaque)
{
    management_done++;
    if (opaque) {
        management_queue(management_task, NULL);
    }
}

START_TEST(test_management_queue)
{
    int i;

    for (i = 0; i < 100; i++) {
        management_queue(management_task, &management_done);
    }
    /* The clean-up waits for it. */
    monitor_stop(INT64_MAX);
    monitor_cleanup();
    ck_assert_int_eq(management_done, 200);
    ck_assert(monitor_init(NULL));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("monitor");
    TCase *tc = tcase_create("monitor");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_negotiation);
    tcase_add_test(tc, test_commands_and_errors);
    tcase_add_test(tc, test_pretty);
    tcase_add_test(tc, test_oversized);
    tcase_add_test(tc, test_depth_bomb);
    tcase_add_test(tc, test_pipelined);
    tcase_add_loop_test(tc, test_waiting, 0, 2);
    tcase_add_test(tc, test_threads);
    tcase_add_test(tc, test_management_in_turn);
    tcase_add_test(tc, test_back_pressure);
    tcase_add_test(tc, test_slow_reader);
    tcase_add_test(tc, test_slow_oob_reader);
    tcase_add_test(tc, test_event_flood);
    tcase_add_test(tc, test_vanish);
    tcase_add_test(tc, test_half_closed);
    tcase_add_test(tc, test_one_at_a_time);
    tcase_add_test(tc, test_events);
    tcase_add_test(tc, test_events_of_threads);
    tcase_add_test(tc, test_stop);
    tcase_add_test(tc, test_stop_in_time);
    tcase_add_test(tc, test_management_queue);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
