/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The runs of a scenario are made by a child process, so that a crash or a hang
 * is a failed run as any other, and with --keep-going the next child goes on
 * behind it. What both have to know is in shared memory.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../unit/test-fs.h"
#include "block/block.h"
#include "run-int.h"

/* A run takes milliseconds. */
#define HANG_SECONDS 60
#define MAX_SITES 1024

const char *run_dir;

typedef struct Shared {
    int runs;       /* begun, of this scenario */
    int calls;      /* that it makes when nothing fails */
    bool done;      /* there are no more */
    char spec[256]; /* the run that is being made */
    char text[512]; /* what it makes of which call, where */
    int n_sites;
    struct {
        void *at;
        char name[48];
    } sites[MAX_SITES];
} Shared;

static Shared *shared;
static const Scenario *current;

static int option_brief, option_long, option_pairs, option_keep_going,
    option_sites;
static char *option_only;

static const GOptionEntry entries[] = {
    { "brief", 0, 0, G_OPTION_ARG_NONE, &option_brief,
      "Each call fails once only, in one way or another", NULL },
    { "long", 0, 0, G_OPTION_ARG_NONE, &option_long,
      "All errors, on all file systems", NULL },
    { "pairs", 0, 0, G_OPTION_ARG_NONE, &option_pairs, "Two faults in each run",
      NULL },
    { "only", 0, 0, G_OPTION_ARG_STRING, &option_only,
      "One scenario, or one run of it", "SCENARIO[/FAULT[/FAULT]]" },
    { "keep-going", 0, 0, G_OPTION_ARG_NONE, &option_keep_going,
      "Do not stop at the first run that fails", NULL },
    { "sites", 0, 0, G_OPTION_ARG_NONE, &option_sites,
      "Tell where the calls that failed were made", NULL },
    { NULL },
};

/* ---- messages ----------------------------------------------------------- */

/* "file_flush block/file-rw.c:251" */
static char *site_text(void *site)
{
    g_autofree char *program = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *command = NULL;
    g_autofree char *out = NULL;
    extern const char __executable_start;

    /* Where it returns to is one behind the call. */
    command = g_strdup_printf("addr2line -sfe %s %#tx", program,
                              (char *)site - 1 - &__executable_start);
    if (!g_spawn_command_line_sync(command, &out, NULL, NULL, NULL)) {
        return g_strdup_printf("%p", site);
    }
    return g_strdup(g_strdelimit(g_strstrip(out), "\n", ' '));
}

void run_fail(const char *fmt, ...)
{
    int i;
    va_list ap;

    seam_shut();
    va_start(ap, fmt);
    fputs("# ", stdout);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n#   while: %s\n", op_what());
    for (i = 0; i < seam_hits(); i++) {
        const Fault *f = seam_hit(i);
        g_autofree char *fault = plan_fault_text(f);
        g_autofree char *call = plan_call_text(&f->call);
        g_autofree char *site = site_text(f->call.site);

        printf("#   fault: %s %s in %s\n", fault, call, site);
    }
    fflush(stdout);
    _exit(1);
}

static void note_run(const Fault *faults, int n, const SeamCall *first)
{
    g_autoptr(GString) spec = g_string_new(current->name);
    g_autofree char *call = first ? plan_call_text(first) : NULL;
    int i;

    for (i = 0; i < n; i++) {
        g_autofree char *text = plan_fault_text(&faults[i]);

        g_string_append_printf(spec, "/%s", text);
    }
    g_strlcpy(shared->spec, spec->str, sizeof(shared->spec));
    g_strlcpy(shared->text, call ? call : "no fault", sizeof(shared->text));
    shared->runs++;
}

static void note_site(const SeamCall *call)
{
    g_autofree char *name = plan_call_text(call);
    int i;

    for (i = 0; i < shared->n_sites; i++) {
        if (shared->sites[i].at == call->site &&
            !strcmp(shared->sites[i].name, name)) {
            return;
        }
    }
    g_assert(i < MAX_SITES);
    shared->sites[i].at = call->site;
    g_strlcpy(shared->sites[i].name, name, sizeof(shared->sites[i].name));
    shared->n_sites++;
}

/* ---- one run ------------------------------------------------------------ */

static int count_fds(void)
{
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    int n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    g_dir_close(dir);
    return n;
}

static void check_end(int fds)
{
    g_autoptr(GPtrArray) nodes = bdrv_all_nodes();

    if (nodes->len > 0) {
        run_fail("%u nodes are left", nodes->len);
    }
    if (count_fds() != fds) {
        run_fail("%d descriptors are open, not %d", count_fds(), fds);
    }
}

static void run_once(const Fault *faults, int n, const SeamCall *first)
{
    int fds = count_fds();

    note_run(faults, n, first);
    alarm(HANG_SECONDS);
    op_reset();
    seam_reset(faults, n);
    current->func();
    check_end(fds);
}

/* ---- all runs of a scenario --------------------------------------------- */

/* Copies of the calls that were counted */
static GArray *list_calls(int from)
{
    GArray *list = g_array_new(false, false, sizeof(SeamCall));
    int i;

    for (i = from; i < seam_count(); i++) {
        g_array_append_vals(list, seam_call(i), 1);
    }
    return list;
}

/* Run it unless the child before has; the second fault comes after it. */
static void run_next(const Fault *faults, int n, const SeamCall *call, int skip,
                     int *number)
{
    if (++*number > skip) {
        run_once(faults, n, call);
    } else {
        shared->runs++;
    }
}

/* With this fault, all calls that follow it fail, too: with EIO. */
static void run_pairs(const Fault *fault, const SeamCall *call, int skip,
                      int *number)
{
    Fault pair[2] = { *fault, { .kind = FAULT_FAIL, .err = EIO } };
    int total, i;

    run_next(pair, 1, call, skip, number);
    if (*number <= skip) {
        /* How many follow is to be known. */
        run_once(pair, 1, call);
        shared->runs--;
    }
    total = seam_count() - fault->after - 1;
    for (i = 0; i < total; i++) {
        pair[1].after = i;
        run_next(pair, 2, call, skip, number);
    }
}

static bool is_plain_error(const Fault *f)
{
    return (f->kind == FAULT_FAIL && (f->err == EIO || f->err == ENOSPC)) ||
           f->kind == FAULT_AFTER;
}

static void run_all(int skip)
{
    g_autoptr(GArray) calls = NULL;
    int number = 0;
    guint i, j;

    run_once(NULL, 0, NULL);
    shared->runs = 0;
    calls = list_calls(0);
    shared->calls = calls->len;
    for (i = 0; i < calls->len; i++) {
        const SeamCall *call = &g_array_index(calls, SeamCall, i);
        g_autoptr(GArray) faults = plan_faults(call, option_long);

        note_site(call);
        for (j = 0; j < faults->len; j++) {
            Fault *f = &g_array_index(faults, Fault, j);

            if (option_brief && j != i % faults->len) {
                continue;
            }
            f->after = i;
            if (current->errors_only && !option_long && !is_plain_error(f)) {
                continue;
            }
            if (option_pairs) {
                run_pairs(f, call, skip, &number);
            } else {
                run_next(f, 1, call, skip, &number);
            }
        }
    }
}

/* SCENARIO/FAULT/FAULT: the faults alone */
static void run_given(char **words)
{
    Fault faults[SEAM_MAX_FAULTS];
    int n;

    for (n = 0; words[n]; n++) {
        if (n == SEAM_MAX_FAULTS || !plan_parse_fault(words[n], &faults[n])) {
            g_error("'%s' is no fault, or one too many", words[n]);
        }
    }
    run_once(faults, n, NULL);
}

/* Warnings of what was made to fail are no news. */
static void ignore(const char *domain, GLogLevelFlags level,
                   const char *message, gpointer opaque)
{
    if (level & (G_LOG_LEVEL_ERROR | G_LOG_LEVEL_CRITICAL)) {
        g_log_default_handler(domain, level, message, opaque);
    }
}

static void child(char **given, int skip)
{
    g_log_set_default_handler(ignore, NULL);
    seam_reset(NULL, 0);
    if (current->prepare) {
        current->prepare();
    }
    if (given && given[0]) {
        run_given(given);
    } else {
        run_all(skip);
    }
    alarm(0);
    shared->done = true;
    /* exit(), that leaks may be looked for */
    exit(0);
}

static bool run_child(char **given, int skip)
{
    pid_t pid;
    int status;

    shared->runs = shared->calls = 0;
    shared->done = false;
    fflush(NULL);
    pid = fork();
    g_assert(pid >= 0);
    if (pid == 0) {
        child(given, skip);
    }
    g_assert(waitpid(pid, &status, 0) == pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return true;
    }
    printf("# %s %d: %s\n#   again: --only %s\n",
           WIFEXITED(status) ? "exit status" : "signal",
           WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status),
           shared->text, shared->spec);
    return false;
}

static bool run_scenario(const char *fs, char **given)
{
    int failed = 0, skip = 0;

    while (!run_child(given, skip)) {
        failed++;
        skip = shared->runs;
        if (!option_keep_going || shared->done || !shared->calls) {
            break;
        }
    }
    printf("%s - %s, %s: %d calls, %d runs, %d failed\n",
           failed ? "not ok" : "ok", current->name, fs, shared->calls,
           shared->runs, failed);
    return failed == 0;
}

/* ---- all scenarios ------------------------------------------------------ */

static void print_sites(void)
{
    int i;

    for (i = 0; i < shared->n_sites; i++) {
        g_autofree char *text = site_text(shared->sites[i].at);

        printf("#   %-32s %s\n", shared->sites[i].name, text);
    }
}

static bool is_wanted(const Scenario *s, const char *name)
{
    return !name || !strcmp(s->name, name);
}

int run_main(int argc, char **argv, const Scenario *scenarios)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) err = NULL;
    g_auto(GStrv) words = NULL;
    int failed = 0, total = 0, runs = 0, i;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &err)) {
        g_printerr("%s\n", err->message);
        return 1;
    }
    if (argc > 1) {
        g_printerr("unexpected argument '%s'\n", argv[1]);
        return 1;
    }
    words = option_only ? g_strsplit(option_only, "/", -1) : NULL;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
                  /* cppcheck-suppress invalidFunctionArg */
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    g_assert(shared != MAP_FAILED);
    if (option_long) {
        test_fs_set_up();
    } else {
        test_fs_set_up_plain();
    }
    for (i = 0; i < n_test_fs; i++) {
        run_dir = test_fs[i].dir;
        for (current = scenarios; current->name; current++) {
            if (!is_wanted(current, words ? words[0] : NULL)) {
                continue;
            }
            total++;
            if (current->root && geteuid() != 0) {
                printf("ok - %s # SKIP not root\n", current->name);
                continue;
            }
            failed += !run_scenario(test_fs[i].name, words ? words + 1 : NULL);
            runs += shared->runs;
        }
    }
    test_fs_tear_down();
    printf("1..%d\n# %d runs, faults at %d places of the program\n", total,
           runs, shared->n_sites);
    if (option_sites) {
        print_sites();
    }
    if (total == 0) {
        g_printerr("there is no scenario '%s'; there are:", words[0]);
        for (current = scenarios; current->name; current++) {
            g_printerr(" %s", current->name);
        }
        g_printerr("\n");
        return 1;
    }
    return failed > 0;
}
