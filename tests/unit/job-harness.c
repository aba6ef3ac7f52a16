/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "job-harness.h"

#include <check.h>
#include <string.h>

#include "monitor/qmp.h"
#include "util/thread.h"

typedef struct Call {
    void (*func)(void *opaque);
    void *opaque;
} Call;

typedef struct Event {
    char *word;
    JsonObject *data;
} Event;

static Mutex lock = MUTEX_INIT;
static Cond changed;
static pthread_t thread;
/* lock */
static GQueue queue = G_QUEUE_INIT;
static bool halted, stopping;
static GPtrArray *event_log;
static guint seen; /* events before this one were waited for */

/* ---- the management thread ---------------------------------------------- */

void management_queue(void (*func)(void *opaque), void *opaque)
{
    Call *call = g_new(Call, 1);

    *call = (Call){ func, opaque };
    MUTEX_GUARD(&lock);
    g_queue_push_tail(&queue, call);
    cond_broadcast(&changed);
}

static void *management(void *opaque)
{
    mutex_lock(&lock);
    while (!stopping || !g_queue_is_empty(&queue)) {
        Call *call;

        if (halted || g_queue_is_empty(&queue)) {
            cond_wait(&changed, &lock);
            continue;
        }
        call = g_queue_pop_head(&queue);
        mutex_unlock(&lock);
        bdrv_graph_lock();
        call->func(call->opaque);
        bdrv_graph_unlock();
        g_free(call);
        mutex_lock(&lock);
    }
    mutex_unlock(&lock);
    return NULL;
}

typedef struct WaitedCall {
    Call call;
    bool done; /* lock */
} WaitedCall;

static void run_waited(void *opaque)
{
    WaitedCall *w = opaque;

    w->call.func(w->call.opaque);
    MUTEX_GUARD(&lock);
    w->done = true;
    cond_broadcast(&changed);
}

void on_management(void (*func)(void *opaque), void *opaque)
{
    WaitedCall w = { .call = { func, opaque } };

    management_queue(run_waited, &w);
    MUTEX_GUARD(&lock);
    while (!w.done) {
        cond_wait(&changed, &lock);
    }
}

static void set_halted(bool value)
{
    MUTEX_GUARD(&lock);
    halted = value;
    cond_broadcast(&changed);
}

void management_halt(void)
{
    set_halted(true);
}

void management_wait_queued(void)
{
    MUTEX_GUARD(&lock);

    while (g_queue_is_empty(&queue)) {
        cond_wait(&changed, &lock);
    }
}

void management_go(void)
{
    set_halted(false);
}

/* ---- events ------------------------------------------------------------- */

static void event_free(void *opaque)
{
    Event *event = opaque;

    g_free(event->word);
    json_object_unref(event->data);
    g_free(event);
}

static char *word_of(const char *name, JsonObject *data)
{
    const char *id = schema_get_str(data, "id", NULL);

    if (!id) {
        id = schema_get_str(data, "device", NULL);
    }
    if (!strcmp(name, "JOB_STATUS_CHANGE")) {
        name = schema_get_str(data, "status", NULL);
    } else if (!strcmp(name, "BLOCK_JOB_ERROR")) {
        const char *action = schema_get_str(data, "action", NULL);

        return g_strdup_printf("%s:ERROR(%s%s%s)", id,
                               schema_get_str(data, "operation", NULL),
                               strcmp(action, "report") ? "," : "",
                               strcmp(action, "report") ? action : "");
    } else if (!strcmp(name, "BLOCK_STATUS_CACHE_MISMATCH")) {
        return g_strdup_printf("%s:MISMATCH(%jd+%jd)",
                               schema_get_str(data, "job-id", NULL),
                               (intmax_t)schema_get_int(data, "offset", -1),
                               (intmax_t)schema_get_int(data, "length", -1));
    } else {
        g_assert(g_str_has_prefix(name, "BLOCK_JOB_"));
        name += strlen("BLOCK_JOB_");
    }
    if (schema_has(data, "error")) {
        return g_strdup_printf("%s:%s(%s)", id, name,
                               schema_get_str(data, "error", NULL));
    }
    return g_strdup_printf("%s:%s", id, name);
}

void qmp_event_send(const char *name, JsonObject *data)
{
    Event *event = g_new(Event, 1);

    event->word = word_of(name, data);
    event->data = data;
    MUTEX_GUARD(&lock);
    g_ptr_array_add(event_log, event);
    cond_broadcast(&changed);
}

int wait_any_event(const char *const *any)
{
    int i;
    MUTEX_GUARD(&lock);

    for (;;) {
        while (seen < event_log->len) {
            const Event *e = event_log->pdata[seen++];

            for (i = 0; any[i]; i++) {
                if (!strcmp(e->word, any[i])) {
                    return i;
                }
            }
        }
        cond_wait(&changed, &lock);
    }
}

void wait_event(const char *event)
{
    const char *const any[] = { event, NULL };

    wait_any_event(any);
}

char *events(void)
{
    GString *s = g_string_new(NULL);
    guint i;

    MUTEX_GUARD(&lock);
    for (i = 0; i < event_log->len; i++) {
        const Event *e = event_log->pdata[i];

        g_string_append_printf(s, "%s%s", i ? " " : "", e->word);
    }
    return g_string_free(s, FALSE);
}

void forget_events(void)
{
    MUTEX_GUARD(&lock);
    g_ptr_array_set_size(event_log, 0);
    seen = 0;
}

void check_events(const char *expected)
{
    g_autofree char *have = events();

    ck_assert_str_eq(have, expected);
}

int64_t event_int(const char *event, const char *name)
{
    guint i;

    MUTEX_GUARD(&lock);
    for (i = event_log->len; i-- > 0;) {
        const Event *e = event_log->pdata[i];

        if (g_str_has_prefix(e->word, event) &&
            strchr("(", e->word[strlen(event)])) {
            return json_object_get_int_member(e->data, name);
        }
    }
    ck_abort_msg("no event %s", event);
}

/* ---- queries ------------------------------------------------------------ */

JsonObject *job_row(const char *id, bool block)
{
    g_autoptr(JsonArray) rows = block ? job_query_block() : job_query();
    guint i;

    for (i = 0; i < json_array_get_length(rows); i++) {
        JsonObject *row = json_array_get_object_element(rows, i);

        if (!strcmp(schema_get_str(row, block ? "device" : "id", ""), id)) {
            return json_object_ref(row);
        }
    }
    return NULL;
}

/* ---- start and stop ----------------------------------------------------- */

void harness_start(void)
{
    int r;

    cond_init(&changed);
    event_log = g_ptr_array_new_with_free_func(event_free);
    seen = 0;
    halted = stopping = false;
    r = pthread_create(&thread, NULL, management, NULL);
    g_assert(r == 0);
    bdrv_set_management_queue(management_queue);
}

void harness_stop(void)
{
    g_autoptr(JsonArray) jobs = job_query();
    g_autoptr(GPtrArray) nodes = NULL;

    g_assert(json_array_get_length(jobs) == 0);
    job_cancel_all_sync(); /* their threads may still be on their way out */
    mutex_lock(&lock);
    stopping = true;
    cond_broadcast(&changed);
    mutex_unlock(&lock);
    pthread_join(thread, NULL);
    bdrv_set_management_queue(NULL);
    bdrv_close_all();
    nodes = bdrv_all_nodes();
    g_assert(nodes->len == 0);
    g_ptr_array_unref(event_log);
    cond_destroy(&changed);
}
