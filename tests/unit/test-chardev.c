/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * --chardev and --monitor: their options, sockets as servers and as clients,
 * and standard input and output.
 */
#include <check.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/monitor/qmp-tables.h"
#include "monitor/monitor.h"
#include "monitor/qmp.h"
#include "qmp-client.h"
#include "unit-main.h"

/* Only the monitor's own commands are needed. */
const QmpCommand *const qmp_command_tables[] = { qmp_control_commands, NULL };
const QmpEvent *const qmp_event_tables[] = { NULL };

static char *dir, *path;

static void setup(void)
{
    dir = g_dir_make_tmp("test-chardev-XXXXXX", NULL);
    path = g_strdup_printf("%s/s", dir);
    ck_assert(monitor_init(NULL));
}

static void teardown(void)
{
    monitor_stop(INT64_MAX);
    monitor_cleanup();
    ck_assert(!g_file_test(path, G_FILE_TEST_EXISTS));
    ck_assert_int_eq(g_rmdir(dir), 0);
    g_free(dir);
    g_free(path);
}

/* Options in which "@" stands for the path of the socket */
static char *with_path(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, "@", -1);

    return g_strjoinv(path, parts);
}

static void add_chardev(const char *options)
{
    g_autofree char *text = with_path(options);
    g_autoptr(GError) err = NULL;
    bool ok = chardev_add(text, &err);

    ck_assert_msg(ok, "%s: %s", text, err ? err->message : "?");
}

static void add_monitor(const char *text)
{
    g_autoptr(GError) err = NULL;
    bool ok = monitor_add(text, &err);

    ck_assert_msg(ok, "%s: %s", text, err ? err->message : "?");
}

/* ---- options ------------------------------------------------------------ */

typedef struct Refusal {
    const char *text, *why;
} Refusal;

static const Refusal chardevs_refused[] = {
    { "", "Parameter 'backend' is missing" },
    { "stdio", "Parameter 'id' is missing" },
    { "id=c", "Parameter 'backend' is missing" },
    { "pty,id=c", "Parameter 'backend' does not accept value 'pty'" },
    { "stdio,id=c,x=1", "Parameter 'x' is unexpected" },
    { "stdio,id=c,signal=1", "Parameter 'signal' expects 'on' or 'off'" },
    { "socket,id=c", "Parameter 'path' is missing" },
    { "socket,id=c,path=@,telnet=on", "Parameter 'telnet' is unexpected" },
    { "socket,id=c,path=@,server", "Expected '=' after parameter 'server'" },
    { "socket,id=c,path=@",
      "Failed to connect to '@': No such file or directory" },
    { "socket,id=c,path=@,wait=off",
      "'wait' option is incompatible with socket in client connect mode" },
    { "socket,id=c,path=@,reconnect=-1",
      "Parameter 'reconnect' must lie between 0 and 2147483647" },
    { "socket,id=c,path=@,server=on,reconnect=1",
      "'reconnect' option is incompatible with socket in server listen mode" },
    { "socket,id=c,path=@/x,server=on,wait=off",
      "Failed to bind socket to @/x: No such file or directory" },
    { "socket,id=used,path=@,server=on,wait=off",
      "Chardev with id 'used' already exists" },
    { "{\"id\": \"c\"}", "Parameter 'backend' is missing" },
    { "{\"id\": \"c\", \"backend\": {\"type\": \"socket\"}}",
      "Parameter 'backend.data' is missing" },
    { "{\"id\": \"c\", \"backend\": {\"type\": \"socket\", \"data\": {"
      "\"addr\": {\"type\": \"inet\", \"data\": {\"host\": \"\", "
      "\"port\": \"1\"}}}}}",
      "A chardev socket is a unix socket, not 'inet'" },
    { "{\"id\": \"c\"", "JSON parse error, premature EOI" },
};

START_TEST(test_chardev_refused)
{
    const Refusal *r = &chardevs_refused[_i];
    g_autofree char *text = with_path(r->text);
    g_autofree char *why = with_path(r->why);
    g_autoptr(GError) err = NULL;

    if (strstr(r->text, "used")) {
        add_chardev("stdio,id=used");
    }
    ck_assert(!chardev_add(text, &err));
    ck_assert_str_eq(err->message, why);
}
END_TEST

static const Refusal monitors_refused[] = {
    { "", "Parameter 'chardev' is missing" },
    { "x", "chardev \"x\" not found" },
    { "c,mode=readline",
      "Monitor mode 'readline' is not available: only 'control' (QMP)" },
    { "c,mode=x", "Parameter 'mode' does not accept value 'x'" },
    { "c,pretty", "Expected '=' after parameter 'pretty'" },
    { "c,x=1", "Parameter 'x' is unexpected" },
    { "used", "Device 'used' is in use" },
};

START_TEST(test_monitor_refused)
{
    g_autoptr(GError) err = NULL;

    add_chardev("socket,id=c,path=@,server=on,wait=off");
    add_chardev("socket,id=used,path=@2,server=on,wait=off");
    add_monitor("used");
    ck_assert(!monitor_add(monitors_refused[_i].text, &err));
    ck_assert_str_eq(err->message, monitors_refused[_i].why);
}
END_TEST

/* Both spellings of everything */
START_TEST(test_spellings)
{
    static const char *const chardevs[] = {
        "socket,id=c,path=@,server=on,wait=off",
        "id=c,backend=socket,path=@,server=on,wait=off",
        "{\"id\": \"c\", \"backend\": {\"type\": \"socket\", \"data\": "
        "{\"addr\": {\"type\": \"unix\", \"data\": {\"path\": \"@\"}}}}}",
        "{\"id\": \"c\", \"backend\": {\"type\": \"socket\", \"data\": "
        "{\"addr\": {\"type\": \"unix\", \"data\": {\"path\": \"@\"}}, "
        "\"server\": true, \"wait\": false}}}",
    };
    static const char *const monitors[] = {
        "c",
        "chardev=c,mode=control,pretty=off,id=m",
        "{\"chardev\": \"c\"}",
        "{\"chardev\": \"c\", \"mode\": \"control\", \"pretty\": false}",
    };

    add_chardev(chardevs[_i]);
    add_monitor(monitors[_i]);
    client_free(client_ready(path, ""));
}
END_TEST

/* ---- servers ------------------------------------------------------------ */

START_TEST(test_permissions)
{
    struct stat st;

    umask(0);
    add_chardev("socket,id=c,path=@,server=on,wait=off");
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_mode & 07777, 0600);
}
END_TEST

static int listen_at(const char *at)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    g_strlcpy(un.sun_path, at, sizeof(un.sun_path));
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    ck_assert_int_eq(listen(fd, 5), 0);
    return fd;
}

START_TEST(test_stale_socket)
{
    close(listen_at(path));
    add_chardev("socket,id=c,path=@,server=on,wait=off");
    add_monitor("c");
    client_free(client_ready(path, ""));
}
END_TEST

START_TEST(test_living_socket)
{
    g_autofree char *text = with_path("socket,id=c,path=@,server=on,wait=off");
    g_autofree char *why = with_path("Failed to bind socket to @: Address "
                                     "already in use");
    g_autoptr(GError) err = NULL;
    int fd = listen_at(path);

    ck_assert(!chardev_add(text, &err));
    ck_assert_str_eq(err->message, why);
    close(fd);
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(test_other_file)
{
    g_autofree char *text = with_path("socket,id=c,path=@,server=on,wait=off");
    g_autoptr(GError) err = NULL;

    ck_assert(g_file_set_contents(path, "precious", -1, NULL));
    ck_assert(!chardev_add(text, &err));
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

/* A socket that somebody else put there meanwhile is not removed. */
START_TEST(test_socket_replaced)
{
    add_chardev("socket,id=c,path=@,server=on,wait=off");
    ck_assert_int_eq(unlink(path), 0);
    close(listen_at(path));
    monitor_cleanup();
    ck_assert_int_eq(unlink(path), 0);
    ck_assert(monitor_init(NULL));
}
END_TEST

static void talk(Client *c)
{
    g_free(client_line(c));
    client_send(c, "{\"execute\": \"qmp_capabilities\"}");
    client_expect(c, "{\"return\": {}}");
    client_free(c);
}

/* No descriptor is left for the client; then there is one again. */
START_TEST(test_out_of_descriptors)
{
    struct rlimit limit, tight;
    Client *c;
    int fd;

    add_chardev("socket,id=c,path=@,server=on,wait=off");
    add_monitor("c");
    c = client_connect(path);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    fd = dup(STDIN_FILENO);
    close(fd);
    tight = limit;
    tight.rlim_cur = fd;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &tight), 0);
    ck_assert(client_quiet(c));
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    talk(c);
}
END_TEST

static void *connect_thread(void *opaque)
{
    Client *c;

    while (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        g_thread_yield();
    }
    do {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_un un = { .sun_family = AF_UNIX };

        g_strlcpy(un.sun_path, path, sizeof(un.sun_path));
        if (connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0) {
            fcntl(fd, F_SETFL, O_NONBLOCK);
            c = client_new(fd, fd);
        } else {
            /* It is there, but nobody listens yet. */
            close(fd);
            c = NULL;
        }
    } while (!c);
    return c;
}

START_TEST(test_wait_for_client)
{
    pthread_t thread;
    Client *c;
    void *ret;

    pthread_create(&thread, NULL, connect_thread, NULL);
    add_chardev("socket,id=c,path=@,server=on");
    pthread_join(thread, &ret);
    add_monitor("c");
    c = ret;
    g_free(client_line(c));
    client_send(c, "{\"execute\": \"qmp_capabilities\"}");
    client_expect(c, "{\"return\": {}}");
    client_free(c);
}
END_TEST

static void *quit_thread(void *opaque)
{
    while (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        g_thread_yield();
    }
    daemon_quit();
    return NULL;
}

START_TEST(test_wait_interrupted)
{
    g_autofree char *text = with_path("socket,id=c,path=@,server=on,wait=on");
    g_autofree char *why =
        with_path("Interrupted while waiting for a connection on @");
    g_autoptr(GError) err = NULL;
    pthread_t thread;

    pthread_create(&thread, NULL, quit_thread, NULL);
    ck_assert(!chardev_add(text, &err));
    ck_assert_str_eq(err->message, why);
    pthread_join(thread, NULL);
}
END_TEST

/* ---- clients ------------------------------------------------------------ */

/* The monitor that connects to us */
static Client *accept_monitor(int listener)
{
    struct sockaddr_un peer;
    socklen_t len = sizeof(peer);
    int fd;

    while ((fd = accept4(listener, (struct sockaddr *)&peer, &len,
                         SOCK_NONBLOCK)) < 0) {
        ck_assert_int_eq(errno, EAGAIN);
        g_main_context_iteration(NULL, FALSE);
    }
    return client_new(fd, fd);
}

START_TEST(test_connect)
{
    int fd = listen_at(path);

    add_chardev("socket,id=c,path=@");
    add_monitor("c");
    talk(accept_monitor(fd));
    close(fd);
    unlink(path);
}
END_TEST

START_TEST(test_reconnect)
{
    int fd;

    /* Nobody is there yet, then one after the other */
    add_chardev("socket,id=c,path=@,reconnect=1");
    add_monitor("c");
    fd = listen_at(path);
    talk(accept_monitor(fd));
    talk(accept_monitor(fd));
    close(fd);
    unlink(path);
}
END_TEST

/* ---- stdio -------------------------------------------------------------- */

static int saved_fds[2];

/* Standard input and output become pipes from and to the client. */
static Client *stdio_client(void)
{
    int in[2], out[2];

    ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
    ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
    fflush(stdout);
    saved_fds[0] = dup(STDIN_FILENO);
    saved_fds[1] = dup(STDOUT_FILENO);
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    close(in[0]);
    close(out[1]);
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    return client_new(out[0], in[1]);
}

static void restore_stdio(void)
{
    dup2(saved_fds[0], STDIN_FILENO);
    dup2(saved_fds[1], STDOUT_FILENO);
    close(saved_fds[0]);
    close(saved_fds[1]);
}

START_TEST(test_stdio)
{
    g_autoptr(Client) c = stdio_client();
    g_autoptr(GError) err = NULL;

    ck_assert(!chardev_uses_stdio());
    add_chardev("stdio,id=c,signal=off");
    ck_assert(chardev_uses_stdio());
    add_monitor("c");
    ck_assert(!chardev_add("stdio,id=d", &err));
    ck_assert_str_eq(err->message,
                     "cannot use stdio by multiple character devices");
    g_free(client_line(c));
    client_send(c, "{\"execute\": \"qmp_capabilities\"}");
    client_expect(c, "{\"return\": {}}");
    ck_assert(fcntl(STDOUT_FILENO, F_GETFL) & O_NONBLOCK);
    monitor_cleanup();
    ck_assert(!(fcntl(STDIN_FILENO, F_GETFL) & O_NONBLOCK));
    ck_assert(!(fcntl(STDOUT_FILENO, F_GETFL) & O_NONBLOCK));
    ck_assert(monitor_init(NULL));
    restore_stdio();
}
END_TEST

/* What came before the end of input is answered; the daemon goes on. */
START_TEST(test_stdio_end)
{
    g_autoptr(Client) c = stdio_client();
    g_autofree char *greeting = NULL;

    client_send(c, "{\"execute\": \"qmp_capabilities\"}{\"execute\": \"x\"}");
    close(c->out_fd);
    c->out_fd = c->in_fd;
    add_chardev("stdio,id=c");
    add_chardev("socket,id=d,path=@,server=on,wait=off");
    add_monitor("c");
    add_monitor("d");
    greeting = client_line(c);
    client_expect(c, "{\"return\": {}}");
    client_expect(c, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": "
                     "\"The command x has not been found\"}}");
    ck_assert(client_quiet(c));
    client_free(client_ready(path, ""));
    restore_stdio();
}
END_TEST

/* The reader of standard output is gone. */
START_TEST(test_stdio_broken)
{
    Client *c = stdio_client();

    close(c->in_fd);
    c->in_fd = c->out_fd;
    add_chardev("stdio,id=c");
    add_chardev("socket,id=d,path=@,server=on,wait=off");
    add_monitor("c");
    add_monitor("d");
    client_free(client_ready(path, ""));
    client_free(c);
    restore_stdio();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("chardev");
    TCase *tc = tcase_create("chardev");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, test_chardev_refused, 0,
                        G_N_ELEMENTS(chardevs_refused));
    tcase_add_loop_test(tc, test_monitor_refused, 0,
                        G_N_ELEMENTS(monitors_refused));
    tcase_add_loop_test(tc, test_spellings, 0, 4);
    tcase_add_test(tc, test_permissions);
    tcase_add_test(tc, test_stale_socket);
    tcase_add_test(tc, test_living_socket);
    tcase_add_test(tc, test_other_file);
    tcase_add_test(tc, test_socket_replaced);
    tcase_add_test(tc, test_out_of_descriptors);
    tcase_add_test(tc, test_wait_for_client);
    tcase_add_test(tc, test_wait_interrupted);
    tcase_add_test(tc, test_connect);
    tcase_add_test(tc, test_reconnect);
    tcase_add_test(tc, test_stdio);
    tcase_add_test(tc, test_stdio_end);
    tcase_add_test(tc, test_stdio_broken);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
