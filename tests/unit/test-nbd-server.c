/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where the NBD server listens, for whom there is room, and how much memory */
#include <check.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "count-threads.h"
#include "fake-block.h"
#include "nbd-peer.h"
#include "unit-main.h"
#include "util/json-text.h"

#define MIB (1 << 20)
#define SIZE (4 * MIB)

static NbdLimits usual_limits;

static void setup(void)
{
    usual_limits = nbd_limits;
    peer_server_start(SIZE);
}

static void teardown(void)
{
    fake_hold(false);
    peer_server_stop();
    nbd_limits = usual_limits;
}

/* ---- the listener ------------------------------------------------------- */

static void iterate(void)
{
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

static bool start(const char *text, GError **errp)
{
    g_autoptr(JsonNode) node = json_text_parse(text, strlen(text), NULL);

    ck_assert(node != NULL);
    return schema_check(&nbd_server_options_type, node, "", false, errp) &&
           nbd_server_start(json_node_get_object(node), errp);
}

static int connect_unix(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    ck_assert_int_ge(fd, 0);
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

START_TEST(test_start_errors)
{
    static const struct {
        const char *options;
        const char *error;
    } cases[] = {
        { "{}", "Parameter 'addr' is missing" },
        { "{'addr': {'type': 'fd', 'str': '7'}}",
          "File descriptor named '7' has not been found: neither passed by "
          "getfd, nor by a service manager, nor open when the daemon was "
          "started" },
        { "{'addr': {'type': 'unix'}}", "Parameter 'addr.path' is missing" },
        { "{'addr': {'type': 'unix', 'path': 'x'}, 'tls-creds': 'x'}",
          "Parameter 'tls-creds' is unexpected" },
        { "{'addr': {'type': 'unix', 'path': '/nonexistent/x'}}",
          "Failed to bind socket to /nonexistent/x: No such file or "
          "directory" },
        { "{'addr': {'type': 'unix', 'path': 'x'},"
          " 'max-connections': 257}",
          "Parameter 'max-connections' expects at most 256, not 257" },
        { "{'addr': {'type': 'unix', 'path': 'x'},"
          " 'handshake-max-seconds': 4294967296}",
          "Parameter 'handshake-max-seconds' expects 0 to 4294967295, not "
          "4294967296" },
    };

    g_autoptr(GError) running = NULL;

    ck_assert(!start("{'addr': {'type': 'unix', 'path': 'x'}}", &running));
    ck_assert_str_eq(running->message, "NBD server already running");
    nbd_server_stop(INT64_MAX, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) err = NULL;

        ck_assert_msg(!start(cases[i].options, &err), "%s", cases[i].options);
        ck_assert_str_eq(err->message, cases[i].error);
        ck_assert(!nbd_server_is_running());
    }
}
END_TEST

static char *folder, *path;

/* A server with those options, and the export "rw" */
static void restart(const char *options)
{
    g_autofree char *text = NULL;

    folder = g_dir_make_tmp("test-nbd-XXXXXX", NULL);
    path = g_build_filename(folder, "s", NULL);
    text = g_strdup_printf("{'addr': {'type': 'unix', 'path': '%s'}, %s}", path,
                           options);
    nbd_server_stop(INT64_MAX, NULL);
    ck_assert(start(text, NULL));
    peer_export_add("{\"type\": \"nbd\", \"id\": \"e2\", \"name\": \"rw\","
                    " \"node-name\": \"disk0\"}",
                    NULL);
}

/* Its socket is gone then. */
static void stop(void)
{
    struct stat st;

    nbd_server_stop(INT64_MAX, NULL);
    ck_assert_int_lt(stat(path, &st), 0);
    g_rmdir(folder);
    g_clear_pointer(&folder, g_free);
    g_clear_pointer(&path, g_free);
}

/* Iterate until @fd is greeted. */
static void wait_greeting(int fd)
{
    char greeting[18];

    while (recv(fd, greeting, sizeof(greeting), MSG_DONTWAIT) < 0) {
        g_main_context_iteration(NULL, FALSE);
    }
}

START_TEST(test_max_connections)
{
    int fds[3];
    char byte;

    restart("'max-connections': 2");
    for (int i = 0; i < 3; i++) {
        fds[i] = connect_unix(path);
    }
    iterate();
    ck_assert_uint_eq(nbd_conn_count(), 2);
    wait_greeting(fds[0]);
    wait_greeting(fds[1]);
    ck_assert_int_lt(recv(fds[2], &byte, 1, MSG_DONTWAIT), 0);
    /* One leaves, the next comes in. */
    close(fds[0]);
    wait_greeting(fds[2]);
    close(fds[1]);
    close(fds[2]);
    stop();
}
END_TEST

/* Those who have not chosen an export keep nobody out for long; those who have
 * stay, and as long as nobody waits, so do all. */
START_TEST(test_who_chooses_gives_way)
{
    int64_t begun = g_get_monotonic_time();
    int client, silent[2], late;
    char byte;

    nbd_limits.hurry_us = 20000;
    restart("'max-connections': 3");
    client = connect_unix(path);
    silent[0] = connect_unix(path);
    silent[1] = connect_unix(path);
    wait_greeting(client);
    peer_client_flags(client, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    peer_go(client, "rw");
    wait_greeting(silent[1]);
    while (g_get_monotonic_time() - begun < 5 * nbd_limits.hurry_us) {
        g_main_context_iteration(NULL, TRUE);
    }
    ck_assert_uint_eq(nbd_conn_count(), 3);

    late = connect_unix(path);
    wait_greeting(late);
    peer_drain(silent[0]);
    peer_drain(silent[1]);
    peer_request(client, 0, NBD_CMD_READ, 7, 0, 1);
    ck_assert_uint_eq(peer_simple_reply(client, NBD_SUCCESS), 7);
    peer_recv(client, &byte, 1);
    /* The late one has all the time there is now. */
    peer_client_flags(late, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    peer_go(late, "rw");
    close(client);
    close(late);
    nbd_conn_wait_all(INT64_MAX);
    nbd_limits.hurry_us = usual_limits.hurry_us;
    stop();
}
END_TEST

START_TEST(test_handshake_seconds)
{
    int fd;

    restart("'handshake-max-seconds': 1");
    fd = connect_unix(path);
    wait_greeting(fd);
    peer_drain(fd);
    stop();

    nbd_limits.handshake_us = 1;
    restart("'handshake-max-seconds': 0");
    fd = connect_unix(path);
    wait_greeting(fd);
    peer_client_flags(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    peer_go(fd, "rw");
    close(fd);
    stop();
}
END_TEST

/* ---- memory ------------------------------------------------------------- */

/* One who takes no replies leaves memory to others. */
START_TEST(test_memory_is_shared)
{
    int deaf, fd;
    uint8_t *data = g_malloc(MIB);
    uint64_t offset;
    bool done;

    nbd_limits.connections = 4;
    nbd_limits.helpers = 32;
    nbd_limits.small_buffer = 64 * 1024;
    /* For eight requests of 1 MiB, so for four of one client */
    nbd_limits.memory = 36 * nbd_limits.small_buffer + 8 * MIB;
    fake_hold(true);
    deaf = peer_open("rw", true);
    for (int i = 0; i < 16; i++) {
        peer_request(deaf, NBD_CMD_FLAG_DF, NBD_CMD_READ, i, 0, MIB);
    }
    fake_wait_in_flight(4);
    fd = peer_open("rw", true);
    peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 1, 0, MIB);
    fake_wait_in_flight(5);
    fake_hold(false);
    ck_assert_uint_eq(peer_chunk(fd, 1, NBD_REPLY_TYPE_OFFSET_DATA, &done),
                      sizeof(offset) + MIB);
    peer_recv(fd, &offset, sizeof(offset));
    peer_recv(fd, data, MIB);
    close(fd);
    close(deaf);
    nbd_conn_wait_all(INT64_MAX);
    g_free(data);
}
END_TEST

static struct {
    Mutex lock;
    Cond changed;
    bool armed; /* lock: a helper that leaves comes back when this is false */
    bool left;  /* lock: it has left its crew */
} departure = { .lock = MUTEX_INIT };

bool __real_nbd_conn_leave_idle(NbdConn *conn);
bool __wrap_nbd_conn_leave_idle(NbdConn *conn);
void __real_nbd_server_conn_ended(void);
void __wrap_nbd_server_conn_ended(void);

bool __wrap_nbd_conn_leave_idle(NbdConn *conn)
{
    bool ret = __real_nbd_conn_leave_idle(conn);
    MUTEX_GUARD(&departure.lock);

    departure.left = departure.left || ret;
    cond_broadcast(&departure.changed);
    while (ret && departure.armed) {
        cond_wait(&departure.changed, &departure.lock);
    }
    return ret;
}

/* A connection was freed. */
void __wrap_nbd_server_conn_ended(void)
{
    mutex_lock(&departure.lock);
    departure.armed = false;
    cond_broadcast(&departure.changed);
    mutex_unlock(&departure.lock);
    __real_nbd_server_conn_ended();
}

/* A helper that has left outlives its connection, and does not look at it (a
 * sanitizer would). */
START_TEST(test_helper_outlives_connection)
{
    int threads, fd;
    char byte;

    /* A sanitizer's own thread may come with the first of ours. */
    g_thread_join(g_thread_new("first", (GThreadFunc)g_strdup, NULL));
    threads = count_threads();
    cond_init(&departure.changed);
    nbd_limits.idle_us = 1000;
    departure.armed = true;
    fake_hold(true);
    fd = peer_open("rw", false);
    for (int i = 0; i < 2; i++) {
        peer_request(fd, 0, NBD_CMD_READ, i, 0, 1);
    }
    fake_wait_in_flight(2);
    fake_hold(false);
    for (int i = 0; i < 2; i++) {
        peer_simple_reply(fd, NBD_SUCCESS);
        peer_recv(fd, &byte, 1);
    }
    mutex_lock(&departure.lock);
    while (!departure.left) {
        cond_wait(&departure.changed, &departure.lock);
    }
    mutex_unlock(&departure.lock);
    close(fd);
    while (count_threads() > threads) {
        g_usleep(1000);
    }
    mutex_lock(&departure.lock);
    ck_assert(!departure.armed);
    mutex_unlock(&departure.lock);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("nbd-server");
    TCase *tc = tcase_create("server");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_start_errors);
    tcase_add_test(tc, test_max_connections);
    tcase_add_test(tc, test_who_chooses_gives_way);
    tcase_add_test(tc, test_handshake_seconds);
    tcase_add_test(tc, test_memory_is_shared);
    tcase_add_test(tc, test_helper_outlives_connection);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
