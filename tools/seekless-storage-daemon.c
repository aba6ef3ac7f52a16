/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * seekless-storage-daemon: serves disk images to guests and other clients. The
 * command line is that of qemu-storage-daemon; options that set something up
 * are carried out one after the other, in the order in which they are given.
 */
#include <getopt.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/block-int.h"
#include "block/export.h"
#include "block/object-types.h"
#include "config.h"
#include "monitor/monitor.h"
#include "monitor/qmp.h"
#include "tools/ending.h"
#include "tools/process.h"
#include "tools/trace-option.h"
#include "util/fdset.h"
#include "util/keyval.h"

static const char program[] = "seekless-storage-daemon";

static const char help_text[] =
    "Usage: seekless-storage-daemon [options]\n"
    "Serve disk images to guests and other clients.\n"
    "\n"
    "  -h, --help             display this help and exit\n"
    "  -T, --trace [[enable=]<pattern>][,file=<file>]\n"
    "                         log trace points; \"help\" lists them\n"
    "  -V, --version          output version information and exit\n"
    "\n"
    "  --blockdev [driver=]<driver>,node-name=<N>[,discard=ignore|unmap]\n"
    "             [,cache.direct=on|off][,cache.no-flush=on|off]\n"
    "             [,read-only=on|off][,auto-read-only=on|off]\n"
    "             [,force-share=on|off][,detect-zeroes=on|off|unmap]\n"
    "             [,driver specific options...]\n"
    "                         open a block node\n"
    "\n"
    "  --chardev socket,id=<id>,path=<path>[,server=on|off][,wait=on|off]\n"
    "            [,reconnect=<seconds>]\n"
    "  --chardev stdio,id=<id>[,signal=on|off]\n"
    "                         configure a character device for a monitor\n"
    "\n"
    "  --daemonize            go to the background; the process that was\n"
    "                         started exits when everything is set up\n"
    "\n"
    "  --export [type=]nbd,id=<id>,node-name=<N>[,name=<export-name>]\n"
    "           [,writable=on|off][,writethrough=on|off]\n"
    "           [,description=<text>][,allocation-depth=on|off]\n"
    "           [,bitmaps.0=<name>][,bitmaps.1=<name>...]\n"
    "                         export a block node over NBD\n"
    "                         (requires --nbd-server)\n"
    "\n"
    "  --monitor [chardev=]<id>[,mode=control][,pretty[=on|off]]\n"
    "                         configure a QMP monitor\n"
    "\n"
    "  --nbd-server addr.type=inet,addr.host=<host>,addr.port=<port>\n"
    "               [,max-connections=<n>][,handshake-max-seconds=<n>]\n"
    "  --nbd-server addr.type=unix,addr.path=<path>[,max-connections=<n>]\n"
    "               [,handshake-max-seconds=<n>]\n"
    "  --nbd-server addr.type=fd,addr.str=<name-or-number>\n"
    "               [,max-connections=<n>][,handshake-max-seconds=<n>]\n"
    "                         start an NBD server for --export\n"
    "\n"
    "  --object help          list the types of objects\n"
    "  --object <type>,help   list the options of objects of that type\n"
    "  --object [qom-type=]<type>,id=<id>[,<option>=<value>...]\n"
    "                         create an object for others to refer to\n"
    "\n"
    "  --pidfile <path>       write the process id to a file after set-up\n"
    "\n"
    "Options that set something up are carried out in the order in which they\n"
    "are given. Their values are either key=value,... with dotted keys, or\n"
    "JSON objects. See seekless-storage-daemon(1).\n";

/* ---- set-up options ----------------------------------------------------- */

static JsonNode *parse_value(const char *text, const char *implied_key,
                             const SchemaType *type, GError **errp)
{
    g_autoptr(JsonNode) node = NULL;
    bool keyval;

    node = keyval_parse(text, implied_key, &keyval, errp);
    if (!node || !schema_check(type, node, "", keyval, errp)) {
        return NULL;
    }
    return g_steal_pointer(&node);
}

static bool apply_blockdev(const char *text, GError **errp)
{
    g_autoptr(JsonNode) node = NULL;
    BlockDriverState *bs;

    node = parse_value(text, "driver", &blockdev_options_type, errp);
    if (!node) {
        return false;
    }
    bdrv_graph_lock();
    bs = bdrv_open(json_node_get_object(node), errp);
    bdrv_graph_unlock();
    return bs != NULL;
}

static bool apply_export(const char *text, GError **errp)
{
    g_autoptr(JsonNode) node = NULL;
    bool ok;

    node = parse_value(text, "type", &block_export_options_type, errp);
    if (!node) {
        return false;
    }
    bdrv_graph_lock();
    ok = block_export_add(json_node_get_object(node), errp);
    bdrv_graph_unlock();
    return ok;
}

static bool apply_nbd_server(const char *text, GError **errp)
{
    g_autoptr(JsonNode) node = NULL;
    bool ok;

    node = parse_value(text, NULL, &nbd_server_options_type, errp);
    if (!node) {
        return false;
    }
    bdrv_graph_lock();
    ok = nbd_server_start(json_node_get_object(node), errp);
    bdrv_graph_unlock();
    return ok;
}

/* Where what must not be shown begins in the value of --object; or its end */
static size_t object_shown(const char *text)
{
    const char *data = strstr(text, "secret") ? strstr(text, "data") : NULL;

    return data ? (size_t)(data - text) : strlen(text);
}

static bool apply_object(const char *text, GError **errp)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = NULL;
    bool keyval, ok;

    node = keyval_parse(text, "qom-type", &keyval, &err);
    if (!node && text[object_shown(text)]) {
        error_setg(errp, "Invalid syntax (where is not shown, because it may "
                         "be in the secret)");
        return false;
    }
    g_clear_error(&err);
    g_clear_pointer(&node, json_node_unref);
    node = parse_value(text, "qom-type", &object_options_type, errp);
    if (!node) {
        return false;
    }
    bdrv_graph_lock();
    ok = object_add_from_options(json_node_get_object(node), errp);
    bdrv_graph_unlock();
    return ok;
}

/* ---- the command line --------------------------------------------------- */

enum {
    OPTION_BLOCKDEV = 256,
    OPTION_CHARDEV,
    OPTION_DAEMONIZE,
    OPTION_EXPORT,
    OPTION_MONITOR,
    OPTION_NBD_SERVER,
    OPTION_OBJECT,
    OPTION_PIDFILE,
};

static const struct option long_options[] = {
    { "blockdev", required_argument, NULL, OPTION_BLOCKDEV },
    { "chardev", required_argument, NULL, OPTION_CHARDEV },
    { "daemonize", no_argument, NULL, OPTION_DAEMONIZE },
    { "export", required_argument, NULL, OPTION_EXPORT },
    { "help", no_argument, NULL, 'h' },
    { "monitor", required_argument, NULL, OPTION_MONITOR },
    { "nbd-server", required_argument, NULL, OPTION_NBD_SERVER },
    { "object", required_argument, NULL, OPTION_OBJECT },
    { "pidfile", required_argument, NULL, OPTION_PIDFILE },
    { "trace", required_argument, NULL, 'T' },
    { "version", no_argument, NULL, 'V' },
    { NULL },
};

/* An option that sets something up, and how the user spelt it */
typedef struct SetUp {
    bool (*apply)(const char *text, GError **errp);
    const char *text;
    char *spelling;
} SetUp;

typedef struct CommandLine {
    GArray *set_up; /* of SetUp, in order */
    bool daemonize;
    const char *pidfile;
} CommandLine;

static void set_up_clear(gpointer opaque)
{
    SetUp *s = opaque;

    g_free(s->spelling);
}

static void add_set_up(CommandLine *cl, char **argv, int first,
                       bool (*apply)(const char *text, GError **errp))
{
    SetUp s = {
        .apply = apply,
        .text = optarg,
        /* Either "--option=value" or two arguments */
        .spelling = optind - first > 1
                        ? g_strdup_printf("%s %s", argv[first], optarg)
                        : g_strdup(argv[first]),
    };

    if (apply == apply_object) {
        /* The value is what it ends with. */
        size_t hidden = strlen(optarg) - object_shown(optarg);

        s.spelling[strlen(s.spelling) - hidden] = '\0';
    }
    g_array_append_val(cl->set_up, s);
}

static bool show_object_help(const char *text)
{
    g_autofree char *help = object_help(text);

    if (help) {
        fputs(help, stdout);
    }
    return help != NULL;
}

/* Reads everything and does nothing. Exits on errors, --help, --version. */
static void parse_command_line(CommandLine *cl, int argc, char **argv)
{
    int first = 1;
    int c;

    /* "-": what is no option comes as option 1, in its place. */
    while ((c = getopt_long(argc, argv, "-hT:V", long_options, NULL)) != -1) {
        switch (c) {
        case 'h':
            fputs(help_text, stdout);
            exit(EXIT_SUCCESS);
        case 'T':
            if (trace_option_help(optarg)) {
                exit(EXIT_SUCCESS);
            }
            add_set_up(cl, argv, first, trace_option_apply);
            break;
        case 'V':
            puts("seekless-storage-daemon version " SEEKLESS_VERSION);
            exit(EXIT_SUCCESS);
        case OPTION_BLOCKDEV:
            add_set_up(cl, argv, first, apply_blockdev);
            break;
        case OPTION_CHARDEV:
            add_set_up(cl, argv, first, chardev_add);
            break;
        case OPTION_DAEMONIZE:
            cl->daemonize = true;
            break;
        case OPTION_EXPORT:
            add_set_up(cl, argv, first, apply_export);
            break;
        case OPTION_MONITOR:
            add_set_up(cl, argv, first, monitor_add);
            break;
        case OPTION_NBD_SERVER:
            add_set_up(cl, argv, first, apply_nbd_server);
            break;
        case OPTION_OBJECT:
            if (show_object_help(optarg)) {
                exit(EXIT_SUCCESS);
            }
            add_set_up(cl, argv, first, apply_object);
            break;
        case OPTION_PIDFILE:
            cl->pidfile = optarg;
            break;
        case 1:
            g_printerr("%s: %s: Unexpected argument\n", program, optarg);
            exit(EXIT_FAILURE);
        default: /* getopt_long() has said why */
            exit(EXIT_FAILURE);
        }
        first = optind;
    }
    if (optind < argc) {
        g_printerr("%s: %s: Unexpected argument\n", program, argv[optind]);
        exit(EXIT_FAILURE);
    }
}

/* ---- running ------------------------------------------------------------ */

static gboolean on_signal(gpointer opaque)
{
    daemon_quit();
    return G_SOURCE_CONTINUE;
}

static void watch_signals(void)
{
    struct sigaction ignore = { .sa_handler = SIG_IGN };

    sigaction(SIGPIPE, &ignore, NULL);
    /* A file that is too long is an error of the request that would make it. */
    sigaction(SIGXFSZ, &ignore, NULL);
    g_unix_signal_add(SIGTERM, on_signal, NULL);
    g_unix_signal_add(SIGINT, on_signal, NULL);
    g_unix_signal_add(SIGHUP, on_signal, NULL);
}

static bool set_up(const CommandLine *cl)
{
    g_autoptr(GError) err = NULL;
    guint i;

    for (i = 0; i < cl->set_up->len; i++) {
        const SetUp *s = &g_array_index(cl->set_up, SetUp, i);

        if (s->apply(s->text, &err) && cl->daemonize && chardev_uses_stdio()) {
            error_setg(&err, "cannot use stdio with --daemonize");
        }
        if (err) {
            g_printerr("%s: %s: %s\n", program, s->spelling, err->message);
            return false;
        }
    }
    if (cl->pidfile && !pidfile_create(cl->pidfile, &err)) {
        g_printerr("%s: cannot create PID file: %s\n", program, err->message);
        return false;
    }
    if (!process_detach(&err)) {
        g_printerr("%s: %s\n", program, err->message);
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    CommandLine cl = { .set_up = g_array_new(FALSE, FALSE, sizeof(SetUp)) };
    g_autoptr(GError) err = NULL;
    bool ok;

    named_fd_init();
    g_array_set_clear_func(cl.set_up, set_up_clear);
    parse_command_line(&cl, argc, argv);
    if (!process_open_stdio(&err) || (cl.daemonize && !process_fork(&err))) {
        g_printerr("%s: %s\n", program, err->message);
        return EXIT_FAILURE;
    }
    watch_signals();
    if (!monitor_init(&err)) {
        g_printerr("%s: %s\n", program, err->message);
        return EXIT_FAILURE;
    }
    bdrv_set_management_queue(management_queue);

    ok = set_up(&cl);
    if (ok) {
        process_notify("READY=1");
        monitor_run();
    }
    process_notify("STOPPING=1");
    end_daemon(program);
    g_array_unref(cl.set_up);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
