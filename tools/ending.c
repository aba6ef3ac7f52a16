/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of the daemon. Each step rests on the one before:
 *
 *   1. no more commands, clients or requests; what waits gives up
 *   2. commands, requests and jobs come to their ends   (END_SECONDS together)
 *   3. data is flushed                                  (FLUSH_SECONDS)
 *   4. nodes are closed                                 (END_SECONDS)
 *
 * Any system call may hang, and with it a thread, and whoever waits for that. So
 * another thread does what may wait, and the main thread watches the time and
 * serves those who still listen to a monitor. When time is up it does what waits
 * for nobody, and leaves without looking back. Nothing that a hung thread could
 * still use is freed: what is needed for 2 to 4 has locks of its own or none.
 *
 * Exports go before jobs: a job leaves the graph only when what clients wait for
 * there has come to an end.
 */
#include "tools/ending.h"

#include <glib.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "block/block-int.h"
#include "block/export.h"
#include "block/job.h"
#include "monitor/monitor.h"
#include "tools/process.h"
#include "util/fdset.h"
#include "util/object.h"
#include "util/schema.h"

/* Tests have less time. */
#ifndef END_SECONDS
#define END_SECONDS 30
#define FLUSH_SECONDS 300
#endif
/* If it is late anyway */
#define LAST_FLUSH_SECONDS MIN(10, FLUSH_SECONDS)

/* How far the orderly end has come */
typedef enum Stage {
    STAGE_USERS,    /* exports and jobs are ended */
    STAGE_FLUSH,    /* data is flushed */
    STAGE_CLOSE,    /* nodes are closed */
    STAGE_DONE,     /* there is nothing left */
    STAGE_UNFLUSHED /* not all data could be flushed in time */
} Stage;

typedef struct Ending {
    gint stage;          /* atomic */
    GPtrArray *problems; /* its thread's until STAGE_UNFLUSHED */
} Ending;

static int64_t seconds_from_now(int64_t seconds)
{
    return g_get_monotonic_time() + seconds * G_USEC_PER_SEC;
}

static GPtrArray *sentences_new(void)
{
    return g_ptr_array_new_with_free_func(g_free);
}

/* ---- in order ----------------------------------------------------------- */

static void set_stage(Ending *e, Stage stage)
{
    g_atomic_int_set(&e->stage, stage);
    g_main_context_wakeup(NULL);
}

static void *end_in_order(void *opaque)
{
    Ending *e = opaque;

    pthread_setname_np(pthread_self(), "ending");
    block_export_close_all();
    job_cancel_all_sync();
    set_stage(e, STAGE_FLUSH);
    if (!bdrv_flush_all(seconds_from_now(FLUSH_SECONDS), e->problems)) {
        set_stage(e, STAGE_UNFLUSHED);
        return NULL;
    }
    /* What has failed is told by this, as ever. */
    set_stage(e, STAGE_CLOSE);
    bdrv_close_all();
    set_stage(e, STAGE_DONE);
    return NULL;
}

static bool users_gone(void *opaque)
{
    Ending *e = opaque;

    return g_atomic_int_get(&e->stage) > STAGE_USERS;
}

static bool flushed(void *opaque)
{
    Ending *e = opaque;

    return g_atomic_int_get(&e->stage) > STAGE_FLUSH;
}

static bool closed(void *opaque)
{
    Ending *e = opaque;

    return g_atomic_int_get(&e->stage) > STAGE_CLOSE;
}

/* ---- in time ------------------------------------------------------------ */

static void add_sentence(GPtrArray *sentences, const char *what,
                         const char *name)
{
    g_ptr_array_add(sentences,
                    g_strdup_printf("%s '%s' does not end", what, name));
}

/* What has not come to its end, though it was told to */
static void add_users(GPtrArray *sentences)
{
    g_autoptr(GPtrArray) commands = monitor_running_commands();
    g_autoptr(GPtrArray) exports = block_export_in_use();
    g_autoptr(JsonArray) jobs = job_query();
    bool told;
    guint i;

    for (i = 0; i < commands->len; i++) {
        add_sentence(sentences, "The command", commands->pdata[i]);
    }
    for (i = 0; i < exports->len; i++) {
        add_sentence(sentences, "A request of export", exports->pdata[i]);
    }
    /* Jobs are told last. */
    told = sentences->len > 0;
    for (i = 0; !told && i < json_array_get_length(jobs); i++) {
        JsonObject *job = json_array_get_object_element(jobs, i);

        add_sentence(sentences, "Job", schema_get_str(job, "id", ""));
    }
    if (!sentences->len) {
        g_ptr_array_add(sentences, g_strdup("Not everything has ended"));
    }
}

static void say(const char *program, GPtrArray *sentences)
{
    guint i;

    for (i = 0; i < sentences->len; i++) {
        g_printerr("%s: %s\n", program, (const char *)sentences->pdata[i]);
    }
}

static void __attribute__((noreturn))
end_now(const char *program, GPtrArray *problems)
{
    say(program, problems);
    nbd_server_close();
    monitor_abandon();
    pidfile_remove();
    _exit(EXIT_FAILURE);
}

/* Something uses nodes and does not end. */
static void __attribute__((noreturn)) end_without_users(const char *program)
{
    GPtrArray *users = sentences_new(), *problems = sentences_new();

    add_users(users);
    say(program, users);
    bdrv_flush_all(seconds_from_now(LAST_FLUSH_SECONDS), problems);
    end_now(program, problems);
}

static void wait_for_end(const char *program, Ending *e, int64_t deadline_us)
{
    /* FLUSH_SECONDS are for the flush, which ends by itself. */
    if (!monitor_wait(users_gone, e, deadline_us)) {
        end_without_users(program);
    }
    monitor_wait(flushed, e, INT64_MAX);
    if (!monitor_wait(closed, e, seconds_from_now(END_SECONDS))) {
        g_ptr_array_add(e->problems, g_strdup("Nodes could not be closed"));
        end_now(program, e->problems);
    }
    if (g_atomic_int_get(&e->stage) == STAGE_UNFLUSHED) {
        end_now(program, e->problems);
    }
}

void end_daemon(const char *program)
{
    int64_t deadline_us = seconds_from_now(END_SECONDS);
    Ending e = { .stage = STAGE_USERS, .problems = sentences_new() };
    pthread_t thread;
    int r;

    block_export_throw_out_all();
    if (!monitor_stop(deadline_us)) {
        end_without_users(program);
    }
    r = pthread_create(&thread, NULL, end_in_order, &e);
    if (r == 0) {
        wait_for_end(program, &e, deadline_us);
        pthread_join(thread, NULL);
    } else {
        end_in_order(&e);
    }
    g_ptr_array_unref(e.problems);
    object_del_all();
    monitor_cleanup();
    fdset_close_all();
    pidfile_remove();
}
