/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QMP monitors. Everything here is done by the main thread; other threads post
 * to it (main-queue.c) what they want sent.
 *
 * A monitor sits on a chardev. Each peer of that gets a session: what it sent
 * and is not yet executed, and what it negotiated. Commands of one session are
 * executed one at a time, in order; those of different sessions do not know of
 * each other. A session outlives its peer until its last command has ended,
 * and answers into nothing then.
 *
 * Input is taken only while less than MONITOR_QUEUE_MAX commands wait and the
 * peer takes the output: whoever does not read is not read from either.
 *
 * File descriptors come beside the bytes, with those of the command they are
 * meant for or just before it. So a command that takes one gets the first that
 * is left of those that came until then. What is left when a command has ended
 * and no other is begun was meant for nobody, and is closed.
 */
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "chardev.h"
#include "monitor-int.h"
#include "monitor/monitor.h"
#include "util/error.h"
#include "util/fdset.h"
#include "util/json-framer.h"
#include "util/keyval.h"
#include "util/limits.h"

typedef struct Monitor Monitor;

typedef struct Session {
    Monitor *mon; /* NULL: the peer is gone */
    JsonFramer *framer;
    GQueue waiting;      /* of QmpRequest, in order */
    QmpRequest *running; /* in order; its reply has not yet been sent */
    guint running_oob;   /* out of order: how many */
    QmpCapabilities caps;
    bool ended;               /* the peer sends no more */
    int fds[CHARDEV_MAX_FDS]; /* that came and are not yet a command's */
    guint n_fds;
    bool fds_offered; /* a command has ended since they came */
} Session;

struct Monitor {
    char *id; /* for messages */
    Chardev *chr;
    bool pretty;
    Session *session; /* NULL: there is no peer */
};

static GPtrArray *monitors; /* of Monitor */
static GPtrArray *sessions; /* of Session, those without peers too */
static bool stopping;       /* no commands are taken any more */
static guint commands;      /* that run, of all sessions */
static QmpCapabilities *current_caps;
static atomic_bool quit_requested;

static void session_process(Session *session);

/* ---- file descriptors --------------------------------------------------- */

static void close_now(void *opaque)
{
    close(GPOINTER_TO_INT(opaque));
}

/* It may take a while, if a server has to be told. */
static void close_later(int fd)
{
    worker_queue(close_now, GINT_TO_POINTER(fd));
}

static void session_close_fds(Session *session)
{
    while (session->n_fds) {
        close_later(session->fds[--session->n_fds]);
    }
}

static void session_give_fd(Session *session, QmpRequest *req)
{
    session->fds_offered = true;
    if (session->n_fds && qmp_request_takes_fd(req)) {
        req->fd = session->fds[0];
        session->n_fds--;
        memmove(session->fds, session->fds + 1, session->n_fds * sizeof(int));
    }
}

static void close_unused(void *opaque)
{
    fdset_close_unused();
}

/* ---- sessions ----------------------------------------------------------- */

static void session_free(gpointer opaque)
{
    Session *session = opaque;

    while (session->n_fds) {
        close(session->fds[--session->n_fds]);
    }
    g_queue_clear_full(&session->waiting, (GDestroyNotify)qmp_request_free);
    json_framer_free(session->framer);
    g_free(session);
}

static Session *session_new(Monitor *mon)
{
    Session *session = g_new0(Session, 1);

    session->mon = mon;
    session->framer = json_framer_new(MONITOR_COMMAND_MAX);
    g_queue_init(&session->waiting);
    g_ptr_array_add(sessions, session);
    return session;
}

static void session_send(Session *session, const GString *line)
{
    if (session->mon) {
        chardev_write(session->mon->chr, line->str, line->len);
    }
}

/* Does the peer leave so much unread that it gets no more to read? */
static bool session_choked(Session *session)
{
    return session->mon &&
           chardev_unsent(session->mon->chr) >= MONITOR_OUTPUT_HIGH;
}

/* Main thread, in the order in which commands ended and events were sent */
static void request_done(void *opaque)
{
    QmpRequest *req = opaque;
    Session *session = req->owner;

    commands--;
    if (req->fd >= 0) {
        close_later(req->fd);
        req->fd = -1;
    }
    session_send(session, req->reply);
    if (req == session->running) {
        session->running = NULL;
    } else {
        session->running_oob--;
    }
    qmp_request_free(req);
    session_process(session);
}

/* On the thread that the command wants */
static void request_run(void *opaque)
{
    QmpRequest *req = opaque;

    qmp_request_execute(req);
    main_post(request_done, req);
}

/* If something hangs, clients may come, ask and leave again and again. */
static void refuse_if_too_many(QmpRequest *req)
{
    if (req->cmd && req->cmd->thread != QMP_MAIN &&
        !limit_allows(commands, MONITOR_RUNNING_MAX, "commands under way",
                      &req->err)) {
        req->cmd = NULL;
    }
}

static void session_execute(Session *session, QmpRequest *req)
{
    qmp_request_resolve(req, &session->caps);
    refuse_if_too_many(req);
    req->owner = session;
    req->pretty = session->mon && session->mon->pretty;
    commands++;
    if (req->cmd && req->cmd->thread == QMP_MANAGEMENT) {
        management_queue(request_run, req);
    } else if (req->cmd && req->cmd->thread == QMP_WORKER) {
        worker_queue(request_run, req);
    } else {
        current_caps = &session->caps;
        request_run(req);
        current_caps = NULL;
    }
}

QmpCapabilities *qmp_current_capabilities(void)
{
    return current_caps;
}

/* Take the next value from the input. False if there is none. */
static bool session_take(Session *session)
{
    GError *err = NULL;
    JsonNode *node;
    QmpRequest *req;

    if (!json_framer_next(session->framer, &node, &err)) {
        if (session->fds_offered && !json_framer_is_within(session->framer)) {
            session_close_fds(session);
        }
        return false;
    }
    req = qmp_request_new(node, err);
    session_give_fd(session, req);
    if (req->oob && session->caps.oob) {
        session->running_oob++;
        session_execute(session, req);
    } else {
        req->oob = false;
        g_queue_push_tail(&session->waiting, req);
    }
    return true;
}

/* May the next value be taken from the input? */
static bool session_hungry(Session *session)
{
    return !stopping && !session_choked(session) &&
           g_queue_get_length(&session->waiting) < MONITOR_QUEUE_MAX &&
           session->running_oob < MONITOR_QUEUE_MAX;
}

/* Nothing is left to be done, and nothing will come. */
static bool session_over(Session *session)
{
    return session->ended && !session->running && !session->running_oob &&
           g_queue_is_empty(&session->waiting);
}

/* Do what can be done now; the session may be gone afterwards. */
static void session_process(Session *session)
{
    bool more = true;

    while (more) {
        more = false;
        if (!session->running && !stopping && !session_choked(session) &&
            (session->running = g_queue_pop_head(&session->waiting))) {
            session_execute(session, session->running);
            more = true;
        } else if (session_hungry(session)) {
            more = session_take(session);
        }
    }
    if (session->mon) {
        chardev_set_reading(session->mon->chr, session_hungry(session));
    }
    if (session_over(session) && session_hungry(session)) {
        if (session->mon) {
            chardev_finish(session->mon->chr);
        } else {
            g_ptr_array_remove(sessions, session);
            if (sessions->len == 0) {
                management_queue(close_unused, NULL);
            }
        }
    }
}

/* ---- what the chardev tells --------------------------------------------- */

static void send_greeting(Monitor *mon)
{
    g_autoptr(JsonNode) node = qmp_greeting();
    g_autoptr(GString) line = g_string_new(NULL);

    qmp_append_line(line, node, mon->pretty);
    session_send(mon->session, line);
}

static void monitor_opened(void *opaque)
{
    Monitor *mon = opaque;

    mon->session = session_new(mon);
    send_greeting(mon);
    session_process(mon->session);
}

static void monitor_received(void *opaque, const void *data, size_t bytes)
{
    Monitor *mon = opaque;

    json_framer_push(mon->session->framer, data, bytes);
    session_process(mon->session);
}

static void monitor_received_fds(void *opaque, const int *fds, size_t n)
{
    Monitor *mon = opaque;
    Session *session = mon->session;
    size_t i;

    session->fds_offered = false;
    for (i = 0; i < n; i++) {
        if (session->n_fds < CHARDEV_MAX_FDS) {
            session->fds[session->n_fds++] = fds[i];
        } else {
            close_later(fds[i]);
        }
    }
}

static void monitor_ended(void *opaque)
{
    Monitor *mon = opaque;

    mon->session->ended = true;
    json_framer_end(mon->session->framer);
    session_process(mon->session);
}

static void monitor_drained(void *opaque)
{
    Monitor *mon = opaque;

    session_process(mon->session);
}

static void monitor_closed(void *opaque)
{
    Monitor *mon = opaque;
    Session *session = mon->session;

    session_close_fds(session);
    mon->session = NULL;
    session->mon = NULL;
    if (!session->ended) {
        session->ended = true;
        json_framer_end(session->framer);
    }
    session_process(session);
}

static const ChardevHandlers monitor_handlers = {
    .opened = monitor_opened,
    .received = monitor_received,
    .received_fds = monitor_received_fds,
    .ended = monitor_ended,
    .drained = monitor_drained,
    .closed = monitor_closed,
};

/* ---- events ------------------------------------------------------------- */

typedef struct Event {
    char *name;
    JsonObject *data; /* or NULL */
    int64_t time_us;  /* since 1970 */
} Event;

static JsonNode *event_to_json(Event *event)
{
    JsonObject *object = json_object_new();
    JsonObject *timestamp = json_object_new();

    json_object_set_int_member(timestamp, "seconds",
                               event->time_us / G_USEC_PER_SEC);
    json_object_set_int_member(timestamp, "microseconds",
                               event->time_us % G_USEC_PER_SEC);
    json_object_set_object_member(object, "timestamp", timestamp);
    json_object_set_string_member(object, "event", event->name);
    if (event->data) {
        json_object_set_object_member(object, "data",
                                      g_steal_pointer(&event->data));
    }
    return qmp_node_from_object(object);
}

static void send_event_to(Monitor *mon, JsonNode *node)
{
    g_autoptr(GString) line = NULL;

    if (!mon->session || !mon->session->caps.negotiated) {
        return;
    }
    if (chardev_unsent(mon->chr) > MONITOR_OUTPUT_MAX) {
        /* To leave events out silently would be worse: who reconnects asks
         * how things are. */
        g_printerr("warning: monitor '%s' does not read, is disconnected\n",
                   mon->id);
        chardev_drop(mon->chr);
        return;
    }
    line = g_string_new(NULL);
    qmp_append_line(line, node, mon->pretty);
    session_send(mon->session, line);
}

static void send_event(void *opaque)
{
    Event *event = opaque;
    g_autoptr(JsonNode) node = event_to_json(event);
    guint i;

    for (i = 0; i < monitors->len; i++) {
        send_event_to(g_ptr_array_index(monitors, i), node);
    }
    g_free(event->name);
    g_free(event);
}

void qmp_event_send(const char *name, JsonObject *data)
{
    Event *event = g_new0(Event, 1);

    event->name = g_strdup(name);
    event->data = data;
    event->time_us = g_get_real_time();
    main_post(send_event, event);
}

/* ---- the daemon --------------------------------------------------------- */

static void wake_up(void *opaque)
{
    /* monitor_run() looks at quit_requested */
}

void daemon_quit(void)
{
    atomic_store(&quit_requested, true);
    main_post(wake_up, NULL);
}

bool daemon_quit_requested(void)
{
    return atomic_load(&quit_requested);
}

static void monitor_free(gpointer opaque)
{
    Monitor *mon = opaque;

    chardev_detach(mon->chr);
    g_free(mon->id);
    g_free(mon);
}

bool monitor_init(GError **errp)
{
    /* Whoever writes to a pipe finds out by EPIPE. */
    signal(SIGPIPE, SIG_IGN);
    atomic_store(&quit_requested, false);
    stopping = false;
    monitors = g_ptr_array_new_with_free_func(monitor_free);
    sessions = g_ptr_array_new_with_free_func(session_free);
    main_queue_init();
    return management_start(errp);
}

void monitor_run(void)
{
    while (!daemon_quit_requested()) {
        g_main_context_iteration(NULL, TRUE);
    }
}

static gboolean wait_over(gpointer opaque)
{
    bool *in_time = opaque;

    *in_time = false;
    return G_SOURCE_CONTINUE;
}

bool monitor_wait(bool (*over)(void *opaque), void *opaque, int64_t deadline_us)
{
    int64_t left_us = deadline_us - g_get_monotonic_time();
    int64_t left_ms = MAX(left_us, 0) / 1000 + 1;
    GSource *timer = g_timeout_source_new(MIN(left_ms, G_MAXUINT));
    bool in_time = true;

    g_source_set_callback(timer, wait_over, &in_time, NULL);
    g_source_attach(timer, NULL);
    while (!over(opaque) && (in_time || deadline_us == INT64_MAX)) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_source_destroy(timer);
    g_source_unref(timer);
    return over(opaque);
}

static bool no_commands(void *opaque)
{
    return commands == 0;
}

bool monitor_stop(int64_t deadline_us)
{
    stopping = true;
    return monitor_wait(no_commands, NULL, deadline_us);
}

GPtrArray *monitor_running_commands(void)
{
    GPtrArray *names = g_ptr_array_new();
    guint i;

    for (i = 0; i < sessions->len; i++) {
        const Session *session = g_ptr_array_index(sessions, i);

        if (session->running && session->running->cmd) {
            g_ptr_array_add(names, (gpointer)session->running->cmd->name);
        }
    }
    return names;
}

void monitor_abandon(void)
{
    main_queue_run();
    g_clear_pointer(&monitors, g_ptr_array_unref);
    chardev_close_all();
}

void monitor_cleanup(void)
{
    management_stop();
    main_queue_cleanup();
    g_clear_pointer(&monitors, g_ptr_array_unref);
    g_clear_pointer(&sessions, g_ptr_array_unref);
    chardev_close_all();
}

/* ---- options ------------------------------------------------------------ */

static const SchemaType monitor_mode_type = {
    .name = "MonitorMode",
    .kind = SCHEMA_ENUM,
    .doc = "What a monitor speaks: control is QMP.",
    .values = (const char *const[]){ "readline", "control", NULL },
};

const SchemaType monitor_options_type = {
    .name = "MonitorOptions",
    .kind = SCHEMA_OBJECT,
    .doc = "A QMP monitor.",
    .members =
        (const SchemaMember[]){
            { "chardev", &schema_str, .doc = "The chardev it speaks on." },
            { "id", &schema_str, .optional = true,
              .doc = "Its name in messages (default: that of the chardev)." },
            { "mode", &monitor_mode_type, .optional = true,
              .doc = "Only control, which is the default." },
            { "pretty", &schema_bool, .optional = true,
              .doc = "Indent what is sent (default: false)." },
            { NULL } },
};

bool monitor_add(const char *text, GError **errp)
{
    g_autoptr(JsonNode) node = NULL;
    JsonObject *options;
    Chardev *chr;
    Monitor *mon;
    bool keyval;

    node = keyval_parse(text, "chardev", &keyval, errp);
    if (!node || !schema_check(&monitor_options_type, node, "", keyval, errp)) {
        return false;
    }
    options = json_node_get_object(node);
    if (!strcmp(schema_get_str(options, "mode", "control"), "readline")) {
        error_setg(errp, "Monitor mode 'readline' is not available: only "
                         "'control' (QMP)");
        return false;
    }
    chr = chardev_find(schema_get_str(options, "chardev", NULL), errp);
    if (!chr) {
        return false;
    }
    mon = g_new0(Monitor, 1);
    mon->chr = chr;
    mon->pretty = schema_get_bool(options, "pretty", false);
    if (!chardev_attach(chr, &monitor_handlers, mon, errp)) {
        g_free(mon);
        return false;
    }
    mon->id = g_strdup(schema_get_str(options, "id", chr->id));
    g_ptr_array_add(monitors, mon);
    return true;
}
