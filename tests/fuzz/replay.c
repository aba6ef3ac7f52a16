/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs a fuzzer without libFuzzer:
 *
 *   replay-NAME [--mutations N] [--seed S] [FILE | FOLDER]...
 *
 * runs it with each file, in the order of their names, and then with N inputs
 * that are made of them. What these are depends on S and the files only; the one that
 * fails is left in the current directory, as fuzz-failed-PID. Speaks the Test
 * Anything Protocol: a test case for each folder, and one for what was made.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

#define MAX_SIZE 4096   /* of what is made */
#define MAX_SECONDS 120 /* for one input, under sanitizers on a busy machine */
#define MAX_STEPS 4     /* changes of one input */

#pragma weak LLVMFuzzerCustomMutator
#pragma weak __sanitizer_set_death_callback
void __sanitizer_set_death_callback(void (*func)(void));

typedef struct Input {
    char *name;
    uint8_t *data;
    gsize size;
} Input;

static GArray *inputs; /* of Input */
static struct {
    const char *name;
    const uint8_t *data;
    size_t size;
} running;
static uint64_t random_state;

/* ---- what fails ------------------------------------------------------------ */

static void leave_input(void)
{
    char path[64];
    int fd;

    if (!running.data) {
        return;
    }
    snprintf(path, sizeof(path), "fuzz-failed-%d", (int)getpid());
    fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0) {
        if (write(fd, running.data, running.size) == (ssize_t)running.size) {
            dprintf(STDERR_FILENO, "The input is %s, left in %s\n",
                    running.name, path);
        }
        close(fd);
    }
    running.data = NULL;
}

static void on_death(int sig)
{
    if (sig == SIGALRM) {
        dprintf(STDERR_FILENO, "No end after %d s\n", MAX_SECONDS);
    }
    leave_input();
    signal(sig == SIGALRM ? SIGABRT : sig, SIG_DFL);
    raise(sig == SIGALRM ? SIGABRT : sig);
}

static void watch(void)
{
    static const int signals[] = { SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL };
    size_t i;

    signal(SIGALRM, on_death);
    if (__sanitizer_set_death_callback) {
        __sanitizer_set_death_callback(leave_input);
        signal(SIGABRT, on_death);
        return;
    }
    for (i = 0; i < G_N_ELEMENTS(signals); i++) {
        signal(signals[i], on_death);
    }
}

static void run(const char *name, const uint8_t *data, size_t size)
{
    /* Of exactly that size, so that a byte too many is noticed. */
    g_autofree uint8_t *copy = g_memdup2(data, size);

    running.name = name;
    running.size = size;
    running.data = copy ? copy : (const uint8_t *)"";
    alarm(MAX_SECONDS);
    LLVMFuzzerTestOneInput(running.data, size);
    alarm(0);
    running.data = NULL;
}

/* ---- what is known --------------------------------------------------------- */

static void run_file(const char *path)
{
    Input input = { .name = g_strdup(path) };
    g_autoptr(GError) err = NULL;
    char *data;

    if (!g_file_get_contents(path, &data, &input.size, &err)) {
        g_printerr("%s\n", err->message);
        exit(EXIT_FAILURE);
    }
    input.data = (uint8_t *)data;
    g_array_append_val(inputs, input);
    run(path, input.data, input.size);
}

static int compare(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static guint run_folder(const char *path)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;
    guint i;

    while (dir && (name = g_dir_read_name(dir))) {
        g_ptr_array_add(names, g_build_filename(path, name, NULL));
    }
    if (dir) {
        g_dir_close(dir);
    }
    g_ptr_array_sort(names, compare);
    for (i = 0; i < names->len; i++) {
        run_file(names->pdata[i]);
    }
    return names->len;
}

/* ---- what is made of it ---------------------------------------------------- */

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
    static const uint8_t numbers[] = { 0, 1, 0x7f, 0x80, 0xff };
    uint8_t bytes[8];
    size_t at = fuzz_random(&random_state, size + 1);
    size_t n = 1 + fuzz_random(&random_state, sizeof(bytes)), i;

    for (i = 0; i < n; i++) {
        bytes[i] = fuzz_random(&random_state, 256);
    }
    at = MIN(at, size - (size > 0));
    switch (size == 0 ? 0 : fuzz_random(&random_state, 5)) {
    case 0:
        return fuzz_insert(data, size, max_size, at, bytes, n);
    case 1:
        return fuzz_remove(data, size, at, n);
    case 2:
        data[at] ^= 1 << bytes[0] % 8;
        return size;
    case 3:
        data[at] = numbers[bytes[0] % G_N_ELEMENTS(numbers)];
        return size;
    default:
        memcpy(data + at, bytes, MIN(n, size - at));
        return size;
    }
}

/* The front of one and the end of another */
static size_t cross(uint8_t *data, size_t size)
{
    const Input *other =
        &g_array_index(inputs, Input, fuzz_random(&random_state, inputs->len));
    size_t front = fuzz_random(&random_state, size + 1);
    size_t from = fuzz_random(&random_state, other->size + 1);
    size_t n = MIN(other->size - from, MAX_SIZE - front);

    memcpy(data + front, other->data + from, n);
    return front + n;
}

static void run_made(unsigned number)
{
    const Input *input =
        &g_array_index(inputs, Input, fuzz_random(&random_state, inputs->len));
    g_autofree char *name =
        g_strdup_printf("number %u, made of %s", number, input->name);
    uint8_t data[MAX_SIZE];
    size_t size = MIN(input->size, sizeof(data));
    unsigned steps = 1 + fuzz_random(&random_state, MAX_STEPS);

    memcpy(data, input->data, size);
    while (steps-- > 0) {
        unsigned seed = fuzz_random(&random_state, UINT32_MAX);

        if (seed % 16 == 0) {
            size = cross(data, size);
        } else if (LLVMFuzzerCustomMutator) {
            size = LLVMFuzzerCustomMutator(data, size, sizeof(data), seed);
        } else {
            size = LLVMFuzzerMutate(data, size, sizeof(data));
        }
        fuzz_assert(size <= sizeof(data));
    }
    run(name, data, size);
}

/* ---------------------------------------------------------------------------- */

static void clear_input(gpointer opaque)
{
    Input *input = opaque;

    g_free(input->name);
    g_free(input->data);
}

int main(int argc, char **argv)
{
    static int mutations = 0, seed = 1;
    static char **paths;
    const GOptionEntry entries[] = {
        { "mutations", 0, 0, G_OPTION_ARG_INT, &mutations, NULL, NULL },
        { "seed", 0, 0, G_OPTION_ARG_INT, &seed, NULL, NULL },
        { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &paths, NULL,
          NULL },
        { NULL },
    };
    GOptionContext *context = g_option_context_new(NULL);
    int i, cases = 0;
    bool ok;

    g_option_context_add_main_entries(context, entries, NULL);
    ok = g_option_context_parse(context, &argc, &argv, NULL) && paths;
    g_option_context_free(context);
    if (!ok) {
        g_printerr("usage: %s [--mutations N] [--seed S] FILE|FOLDER...\n",
                   argv[0]);
        return EXIT_FAILURE;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    watch();
    inputs = g_array_new(FALSE, FALSE, sizeof(Input));
    g_array_set_clear_func(inputs, clear_input);
    printf("1..%u\n", g_strv_length(paths) + (mutations > 0));
    for (i = 0; paths[i]; i++) {
        char *path = g_canonicalize_filename(paths[i], NULL);

        /* The fuzzer may go somewhere else. */
        g_free(paths[i]);
        paths[i] = path;
    }
    for (i = 0; paths[i]; i++) {
        if (g_file_test(paths[i], G_FILE_TEST_IS_DIR)) {
            printf("ok %d - %u inputs of %s\n", cases + 1, run_folder(paths[i]),
                   paths[i]);
        } else {
            run_file(paths[i]);
            printf("ok %d - %s\n", cases + 1, paths[i]);
        }
        cases++;
    }
    if (mutations > 0) {
        random_state = seed;
        fuzz_assert(inputs->len > 0);
        for (i = 0; i < mutations; i++) {
            run_made(i);
        }
        printf("ok %d - %d inputs made of these, seed %d\n", cases + 1,
               mutations, seed);
    }
    g_array_unref(inputs);
    g_strfreev(paths);
    return EXIT_SUCCESS;
}
