/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * seekless-img: makes disk images, and shows and checks what is in them, by
 * qemu-img's command line. A subcommand is a file, img-NAME.c, and its line here.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "tools/img.h"
#include "tools/trace-option.h"

static const char program[] = "seekless-img";

static const char help_text[] =
    "Usage: seekless-img [-h | -V] [-T <trace>] <command> [options]\n"
    "Make disk images, and show and check what is in them.\n"
    "\n"
    "  -h, --help             display this help and exit\n"
    "  -T, --trace [[enable=]<pattern>][,file=<file>]\n"
    "                         log trace points; \"help\" lists them\n"
    "  -V, --version          output version information and exit\n"
    "\n"
    "Commands:\n"
    "  check [--object <object>] [--image-opts] [-q] [-f <format>]\n"
    "        [--output=human|json] [-r leaks|all] [-T <cache>] [-U] <file>\n"
    "                         look for errors in an image's own tables\n"
    "  create [--object <object>] [-q] [-f <format>]\n"
    "         [-b <file> [-F <format>]] [-u] [-o <options>] <file> [<size>]\n"
    "                         make an image\n"
    "  info [--object <object>] [--image-opts] [-f <format>]\n"
    "       [--output=human|json] [--backing-chain] [-U] <file>\n"
    "                         show what is known of an image\n"
    "  map [--object <object>] [--image-opts] [-f <format>]\n"
    "      [--output=human|json] [--start-offset=<offset>]\n"
    "      [--max-length=<bytes>] [--picture=<file.svg>|-] [-U] <file>\n"
    "                         show where an image has data and zeroes\n"
    "  map --qmp [--output=human|json] [--start-offset=<offset>]\n"
    "      [--max-length=<bytes>] [--picture=<file.svg>|-] <socket> <node>\n"
    "                         show what a running daemon knows of a disk\n"
    "\n"
    "Sizes are in bytes, or have a suffix k, M, G, T, P or E. See "
    "seekless-img(1).\n";

static const struct {
    const char *name;
    ImgCommand *run; /* NULL: qemu-img has it, and we do not */
} commands[] = {
    { "amend", NULL },      { "bench", NULL },        { "bitmap", NULL },
    { "check", img_check }, { "commit", NULL },       { "compare", NULL },
    { "convert", NULL },    { "create", img_create }, { "dd", NULL },
    { "info", img_info },   { "map", img_map },       { "measure", NULL },
    { "rebase", NULL },     { "resize", NULL },       { "snapshot", NULL },
};

void img_error(const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", program, text);
}

void img_usage_error(const char *fmt, ...)
{
    va_list ap;
    char *text;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    img_error("%s\nTry '%s --help' for more information", text, program);
    g_free(text);
    exit(EXIT_FAILURE);
}

void img_show_help(void)
{
    fputs(help_text, stdout);
    exit(EXIT_SUCCESS);
}

static int run_command(int argc, char **argv)
{
    const char *name = argv[0];
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (strcmp(commands[i].name, name)) {
            continue;
        }
        if (!commands[i].run) {
            img_usage_error("Command '%s' of qemu-img is not supported", name);
        }
        return commands[i].run(argc, argv);
    }
    img_usage_error("Command not found: %s", name);
}

static void apply_trace(const char *text)
{
    g_autoptr(GError) err = NULL;

    if (trace_option_help(text)) {
        exit(EXIT_SUCCESS);
    }
    if (!trace_option_apply(text, &err)) {
        img_error("-T %s: %s", text, err->message);
        exit(EXIT_FAILURE);
    }
}

/* What was printed is worth nothing if it did not get there. */
static int end_output(int status)
{
    if (fflush(stdout) || ferror(stdout)) {
        img_error("Could not write to standard output");
        return status ? status : EXIT_FAILURE;
    }
    return status;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "trace", required_argument, NULL, 'T' },
        { "version", no_argument, NULL, 'V' },
        { NULL },
    };
    struct sigaction ignore = { .sa_handler = SIG_IGN };
    int c, status;

    sigaction(SIGXFSZ, &ignore, NULL); /* EFBIG says the same */
    while ((c = img_getopt(argc, argv, "+:hT:V", options)) != -1) {
        if (c == 'T') {
            apply_trace(optarg);
        } else if (c == 'V') {
            puts("seekless-img version " SEEKLESS_VERSION);
            return EXIT_SUCCESS;
        } else {
            img_show_help();
        }
    }
    if (optind >= argc) {
        img_usage_error("Not enough arguments");
    }
    argc -= optind;
    argv += optind;
    optind = 0; /* to begin anew */
    status = run_command(argc, argv);
    bdrv_close_all();
    return end_output(status);
}
