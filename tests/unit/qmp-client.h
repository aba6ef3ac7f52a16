/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QMP client in the process of its monitor: whenever it waits, the main
 * context is iterated.
 */
#ifndef TESTS_QMP_CLIENT_H
#define TESTS_QMP_CLIENT_H

#include <check.h>
#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

typedef struct Client {
    int in_fd, out_fd;
    GString *in; /* received, not yet taken */
    bool eof;
} Client;

static inline Client *client_new(int in_fd, int out_fd)
{
    Client *c = g_new0(Client, 1);

    c->in_fd = in_fd;
    c->out_fd = out_fd;
    c->in = g_string_new(NULL);
    return c;
}

static inline void client_free(Client *c)
{
    close(c->in_fd);
    if (c->out_fd != c->in_fd) {
        close(c->out_fd);
    }
    g_string_free(c->in, TRUE);
    g_free(c);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Client, client_free)

static inline Client *client_connect(const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    ck_assert_int_ge(fd, 0);
    g_strlcpy(un.sun_path, path, sizeof(un.sun_path));
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    return client_new(fd, fd);
}

/* Read what is there; false if that is nothing. */
static inline bool client_read(Client *c)
{
    char buf[65536];
    ssize_t n = read(c->in_fd, buf, sizeof(buf));

    if (n > 0) {
        g_string_append_len(c->in, buf, n);
    } else {
        ck_assert(n == 0 || errno == EAGAIN || errno == ECONNRESET);
        c->eof |= n == 0 || errno == ECONNRESET;
    }
    return n > 0;
}

/* The next line without its end, or NULL at the end of file. */
static inline char *client_line(Client *c)
{
    const char *end;
    char *line;

    while (!(end = strstr(c->in->str, "\r\n")) && !c->eof) {
        if (!client_read(c) && !c->eof) {
            g_main_context_iteration(NULL, FALSE);
        }
    }
    if (!end) {
        ck_assert_str_eq(c->in->str, "");
        return NULL;
    }
    line = g_strndup(c->in->str, end - c->in->str);
    g_string_erase(c->in, 0, end + 2 - c->in->str);
    return line;
}

static inline void client_expect(Client *c, const char *want)
{
    g_autofree char *line = client_line(c);

    ck_assert_pstr_eq(line, want);
}

/* Send all of it, while the monitor reads. */
static inline void client_send_bytes(Client *c, const char *data, size_t bytes)
{
    ssize_t n;

    while (bytes > 0) {
        n = write(c->out_fd, data, bytes);
        ck_assert(n > 0 || errno == EAGAIN);
        if (n > 0) {
            data += n;
            bytes -= n;
        }
        g_main_context_iteration(NULL, FALSE);
    }
}

static inline void client_send(Client *c, const char *text)
{
    client_send_bytes(c, text, strlen(text));
}

/* Connect, and leave the greeting behind. */
static inline Client *client_greeted(const char *path)
{
    Client *c = client_connect(path);
    g_autofree char *greeting = client_line(c);

    ck_assert(g_str_has_prefix(greeting, "{\"QMP\": {\"version\": "));
    return c;
}

/* The same, ready for commands; @enable is for qmp_capabilities. */
static inline Client *client_ready(const char *path, const char *enable)
{
    Client *c = client_greeted(path);
    g_autofree char *command =
        g_strdup_printf("{\"execute\": \"qmp_capabilities\", "
                        "\"arguments\": {\"enable\": [%s]}}",
                        enable);

    client_send(c, command);
    client_expect(c, "{\"return\": {}}");
    return c;
}

/* Has the client nothing to read, after the main context had its turn? */
static inline bool client_quiet(Client *c)
{
    while (g_main_context_iteration(NULL, FALSE)) {
        /* until nothing is to be done */
    }
    return !client_read(c) && c->in->len == 0 && !c->eof;
}

#endif
