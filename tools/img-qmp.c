/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A client for a daemon's monitor, of one thread that waits for each answer */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tools/img-map.h"
#include "util/error.h"
#include "util/json-framer.h"
#include "util/json-text.h"

/* A daemon greets at once, unless another client has the monitor. */
#define GREETING_SECONDS 5
#define ANSWER_SECONDS 60
#define MAX_ANSWER (64 << 20) /* bytes */

struct ImgQmp {
    int fd;
    char *path;
    JsonFramer *framer;
};

static bool wait_for(ImgQmp *qmp, short events, gint64 deadline_us)
{
    struct pollfd pfd = { .fd = qmp->fd, .events = events };
    int ret;

    do {
        gint64 left = (deadline_us - g_get_monotonic_time() + 999) / 1000;

        ret = poll(&pfd, 1, MAX(left, 0));
    } while (ret < 0 && errno == EINTR);
    return ret > 0;
}

/* The next object that the daemon sends, events included; NULL and @errp. *@late:
 * it did not come in time. */
static JsonNode *receive(ImgQmp *qmp, gint64 deadline_us, bool *late,
                         GError **errp)
{
    g_autoptr(GError) err = NULL;
    JsonNode *node = NULL;
    char buf[1 << 16];
    ssize_t n;

    *late = false;
    while (!json_framer_next(qmp->framer, &node, &err)) {
        if (!wait_for(qmp, POLLIN, deadline_us)) {
            *late = true;
            return NULL;
        }
        n = recv(qmp->fd, buf, sizeof(buf), MSG_DONTWAIT);
        if (n > 0) {
            json_framer_push(qmp->framer, buf, n);
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            error_setg_errno(errp, n ? errno : ECONNRESET,
                             "The daemon at '%s' closed the connection",
                             qmp->path);
            return NULL;
        }
    }
    if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
        error_setg(errp, "'%s' does not speak QMP: %s", qmp->path,
                   err ? err->message : "no object");
        g_clear_pointer(&node, json_node_unref);
    }
    return node;
}

static bool send_all(ImgQmp *qmp, const GString *text, gint64 deadline_us,
                     GError **errp)
{
    size_t done = 0;

    while (done < text->len) {
        ssize_t n = -1;

        if (!wait_for(qmp, POLLOUT, deadline_us)) {
            error_setg(errp, "The daemon at '%s' takes no commands", qmp->path);
            return false;
        }
        n = send(qmp->fd, text->str + done, text->len - done,
                 MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            error_setg_errno(errp, errno, "Could not write to '%s'", qmp->path);
            return false;
        }
        done += MAX(n, 0);
    }
    return true;
}

/* What a reply returns (transfer full); or NULL and @errp */
static JsonNode *result_of(JsonObject *reply, const char *command,
                           GError **errp)
{
    JsonNode *node = json_object_get_member(reply, "return");
    JsonNode *error = json_object_get_member(reply, "error");
    const char *text = NULL;

    if (node) {
        return json_node_copy(node);
    }
    if (error && JSON_NODE_HOLDS_OBJECT(error)) {
        text = json_object_get_string_member_with_default(
            json_node_get_object(error), "desc", NULL);
    }
    error_setg(errp, "%s: %s", command, text ? text : "no reason was told");
    return NULL;
}

JsonNode *img_qmp_command(ImgQmp *qmp, const char *command,
                          JsonObject *arguments, GError **errp)
{
    gint64 deadline = g_get_monotonic_time() + ANSWER_SECONDS * G_USEC_PER_SEC;
    g_autoptr(JsonNode) message = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(GString) text = g_string_new("");
    JsonObject *object = json_object_new();
    bool late;

    json_object_set_string_member(object, "execute", command);
    if (arguments) {
        json_object_set_object_member(object, "arguments", arguments);
    }
    json_node_take_object(message, object);
    json_text_append(text, message, false);
    g_string_append_c(text, '\n');
    if (!send_all(qmp, text, deadline, errp)) {
        return NULL;
    }
    for (;;) {
        g_autoptr(JsonNode) reply = receive(qmp, deadline, &late, errp);

        if (late) {
            error_setg(errp, "%s: the daemon at '%s' did not answer in %d s",
                       command, qmp->path, ANSWER_SECONDS);
        }
        if (!reply) {
            return NULL;
        }
        if (!json_object_has_member(json_node_get_object(reply), "event")) {
            return result_of(json_node_get_object(reply), command, errp);
        }
    }
}

static bool negotiate(ImgQmp *qmp, GError **errp)
{
    gint64 deadline =
        g_get_monotonic_time() + GREETING_SECONDS * G_USEC_PER_SEC;
    g_autoptr(JsonNode) greeting = NULL, done = NULL;
    bool late;

    greeting = receive(qmp, deadline, &late, errp);
    if (late) {
        error_setg(errp,
                   "No greeting from the monitor at '%s' in %d s: another "
                   "client may be connected to it",
                   qmp->path, GREETING_SECONDS);
    }
    if (!greeting) {
        return false;
    }
    if (!json_object_has_member(json_node_get_object(greeting), "QMP")) {
        error_setg(errp, "'%s' does not speak QMP", qmp->path);
        return false;
    }
    done = img_qmp_command(qmp, "qmp_capabilities", NULL, errp);
    return done != NULL;
}

ImgQmp *img_qmp_connect(const char *path, GError **errp)
{
    g_autoptr(ImgQmp) qmp = g_new0(ImgQmp, 1);
    struct sockaddr_un un = { .sun_family = AF_UNIX };

    qmp->path = g_strdup(path);
    qmp->framer = json_framer_new(MAX_ANSWER);
    qmp->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!*path || strlen(path) >= sizeof(un.sun_path)) {
        error_setg(errp, "UNIX socket path '%s' is too %s", path,
                   *path ? "long" : "short");
        return NULL;
    }
    strcpy(un.sun_path, path);
    if (qmp->fd < 0 ||
        connect(qmp->fd, (const struct sockaddr *)&un, sizeof(un)) < 0) {
        if (errno == EAGAIN) {
            error_setg(errp,
                       "The monitor at '%s' is busy: other clients wait for "
                       "it already",
                       path);
        } else {
            error_setg_errno(errp, errno, "Could not connect to '%s'", path);
        }
        return NULL;
    }
    return negotiate(qmp, errp) ? g_steal_pointer(&qmp) : NULL;
}

void img_qmp_close(ImgQmp *qmp)
{
    if (qmp->fd >= 0) {
        close(qmp->fd);
    }
    json_framer_free(qmp->framer);
    g_free(qmp->path);
    g_free(qmp);
}
