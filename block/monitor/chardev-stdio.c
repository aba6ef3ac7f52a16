/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The chardev of standard input and output. */
#include <fcntl.h>
#include <termios.h>
#include <unistd.h>

#include "chardev.h"
#include "util/error.h"

typedef struct StdioChardev {
    Chardev common;
    int in_flags, out_flags; /* as they were */
    bool has_tty;
    struct termios tty; /* as it was */
} StdioChardev;

static bool in_use;

/*
 * O_NONBLOCK belongs to the open file, which we may share with a shell: it is
 * put back at the end.
 */
static bool stdio_open(Chardev *chr, JsonObject *options, GError **errp)
{
    StdioChardev *s = (StdioChardev *)chr;
    bool signals = schema_get_bool(options, "signal", true);
    struct termios tty;

    if (in_use) {
        error_setg(errp, "cannot use stdio by multiple character devices");
        s->in_flags = -1;
        return false;
    }
    s->in_flags = fcntl(STDIN_FILENO, F_GETFL);
    s->out_flags = fcntl(STDOUT_FILENO, F_GETFL);
    if (s->in_flags < 0 || s->out_flags < 0) {
        error_setg(errp, "standard input and output must be open");
        s->in_flags = -1;
        return false;
    }
    in_use = true;
    fcntl(STDIN_FILENO, F_SETFL, s->in_flags | O_NONBLOCK);
    fcntl(STDOUT_FILENO, F_SETFL, s->out_flags | O_NONBLOCK);
    if (!signals && tcgetattr(STDIN_FILENO, &s->tty) == 0) {
        s->has_tty = true;
        tty = s->tty;
        tty.c_lflag &= ~ISIG;
        tcsetattr(STDIN_FILENO, TCSANOW, &tty);
    }
    chardev_connected(chr, STDIN_FILENO, STDOUT_FILENO);
    return true;
}

static void stdio_disconnected(Chardev *chr)
{
    /* It will not come back. */
}

static void stdio_close(Chardev *chr)
{
    StdioChardev *s = (StdioChardev *)chr;

    if (s->in_flags < 0) {
        return;
    }
    if (s->has_tty) {
        tcsetattr(STDIN_FILENO, TCSANOW, &s->tty);
    }
    fcntl(STDIN_FILENO, F_SETFL, s->in_flags);
    fcntl(STDOUT_FILENO, F_SETFL, s->out_flags);
    in_use = false;
}

#define STDIO_MEMBERS                                                          \
    {                                                                          \
        "signal", &schema_bool,                                                \
            .optional = true,                                                  \
            .doc = "Whether a terminal's interrupt key ends the daemon "       \
                   "(default: true)."                                          \
    }

static const SchemaType stdio_type = {
    .name = "ChardevStdio",
    .kind = SCHEMA_OBJECT,
    .doc = "Standard input and output.",
    .members = (const SchemaMember[]){ STDIO_MEMBERS, { NULL } },
};

static const SchemaType stdio_wrapper_type = {
    .name = "ChardevStdioWrapper",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){ { "data", &stdio_type, .doc = "Its options." },
                                { NULL } },
};

const ChardevKind chardev_stdio_kind = {
    .name = "stdio",
    .instance_size = sizeof(StdioChardev),
    .options = &stdio_type,
    .json_options = &stdio_wrapper_type,
    .open = stdio_open,
    .disconnected = stdio_disconnected,
    .close = stdio_close,
};
