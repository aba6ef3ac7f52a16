/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Character devices: what all kinds have in common. Input is read when its
 * user wants it, output is kept until the peer takes it; both from sources of
 * the main context.
 */
#include "chardev.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <unistd.h>

#include "monitor/monitor.h"
#include "util/error.h"
#include "util/keyval.h"

#define READ_BYTES 4096
/* Sent bytes that are kept at the start of the buffer */
#define COMPACT_BYTES (64 * 1024)

static GPtrArray *chardevs; /* of Chardev */

static void hang_up(Chardev *chr);

static void clear_source(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_clear_pointer(source, g_source_unref);
    }
}

static gboolean dropped(gpointer opaque)
{
    Chardev *chr = opaque;

    clear_source(&chr->drop_source);
    hang_up(chr);
    return G_SOURCE_REMOVE;
}

static void discard_output(Chardev *chr)
{
    g_byte_array_unref(chr->out);
    chr->out = g_byte_array_new();
    chr->out_pos = 0;
}

void chardev_drop(Chardev *chr)
{
    if (!chr->connected || chr->drop_source) {
        return;
    }
    clear_source(&chr->in_source);
    clear_source(&chr->out_source);
    discard_output(chr);
    chr->drop_source = g_idle_source_new();
    g_source_set_priority(chr->drop_source, G_PRIORITY_DEFAULT);
    g_source_set_callback(chr->drop_source, dropped, chr, NULL);
    g_source_attach(chr->drop_source, NULL);
}

/* ---- input -------------------------------------------------------------- */

static void watch_input(Chardev *chr);

static void hand_over(Chardev *chr, const int *fds, size_t n)
{
    size_t i;

    if (n && chr->handlers->received_fds) {
        chr->handlers->received_fds(chr->opaque, fds, n);
        return;
    }
    for (i = 0; i < n; i++) {
        close(fds[i]);
    }
}

static gboolean input_ready(int fd, GIOCondition condition, gpointer opaque)
{
    Chardev *chr = opaque;
    char buf[READ_BYTES];
    int fds[CHARDEV_MAX_FDS];
    size_t n_fds = 0;
    ssize_t n;

    if (chr->ended) {
        /* Only hang-ups are watched */
        chardev_drop(chr);
        return G_SOURCE_CONTINUE;
    }
    n = chr->kind->read ? chr->kind->read(chr, buf, sizeof(buf), fds, &n_fds)
                        : read(fd, buf, sizeof(buf));
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR) {
            chardev_drop(chr);
        }
    } else if (n == 0) {
        chr->ended = true;
        watch_input(chr);
        chr->handlers->ended(chr->opaque);
    } else {
        hand_over(chr, fds, n_fds);
        chr->handlers->received(chr->opaque, buf, n);
    }
    return G_SOURCE_CONTINUE;
}

/*
 * Have the input watched as it must be now. After the end of input, a socket
 * still tells when the peer does not read any more either.
 */
static void watch_input(Chardev *chr)
{
    GIOCondition want = 0;

    if (chr->connected && !chr->drop_source && chr->handlers) {
        if (chr->ended) {
            want = chr->in_fd == chr->out_fd ? G_IO_HUP | G_IO_ERR : 0;
        } else if (chr->reading) {
            want = G_IO_IN | G_IO_HUP | G_IO_ERR;
        }
    }
    if (want == (chr->in_source ? chr->in_watched : 0)) {
        return;
    }
    clear_source(&chr->in_source);
    if (want) {
        chr->in_watched = want;
        chr->in_source = g_unix_fd_source_new(chr->in_fd, want);
        g_source_set_callback(chr->in_source, G_SOURCE_FUNC(input_ready), chr,
                              NULL);
        g_source_attach(chr->in_source, NULL);
    }
}

void chardev_set_reading(Chardev *chr, bool reading)
{
    chr->reading = reading;
    watch_input(chr);
}

/* ---- output ------------------------------------------------------------- */

size_t chardev_unsent(Chardev *chr)
{
    return chr->out->len - chr->out_pos;
}

/* Give the peer what it takes. False if it will take nothing any more. */
static bool send_output(Chardev *chr)
{
    ssize_t n;

    while (chr->out_pos < chr->out->len) {
        n = write(chr->out_fd, chr->out->data + chr->out_pos,
                  chr->out->len - chr->out_pos);
        if (n < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        chr->out_pos += n;
    }
    discard_output(chr);
    return true;
}

static gboolean output_ready(int fd, GIOCondition condition, gpointer opaque)
{
    Chardev *chr = opaque;

    if (!send_output(chr)) {
        chardev_drop(chr);
    } else if (chardev_unsent(chr) == 0) {
        clear_source(&chr->out_source);
        if (chr->finishing) {
            chardev_drop(chr);
        } else if (chr->handlers) {
            chr->handlers->drained(chr->opaque);
        }
    } else if (chr->out_pos > COMPACT_BYTES) {
        g_byte_array_remove_range(chr->out, 0, chr->out_pos);
        chr->out_pos = 0;
    }
    return G_SOURCE_CONTINUE;
}

void chardev_write(Chardev *chr, const char *data, size_t bytes)
{
    if (!chr->connected || chr->drop_source) {
        return;
    }
    g_byte_array_append(chr->out, (const guint8 *)data, bytes);
    if (chr->out_source) {
        return;
    }
    if (!send_output(chr)) {
        chardev_drop(chr);
    } else if (chardev_unsent(chr)) {
        chr->out_source = g_unix_fd_source_new(chr->out_fd, G_IO_OUT);
        g_source_set_callback(chr->out_source, G_SOURCE_FUNC(output_ready), chr,
                              NULL);
        g_source_attach(chr->out_source, NULL);
    }
}

void chardev_finish(Chardev *chr)
{
    chr->finishing = true;
    if (chardev_unsent(chr) == 0) {
        chardev_drop(chr);
    }
}

/* ---- peers -------------------------------------------------------------- */

void chardev_connected(Chardev *chr, int in_fd, int out_fd)
{
    g_assert(!chr->connected);
    chr->connected = true;
    chr->in_fd = in_fd;
    chr->out_fd = out_fd;
    chr->reading = chr->ended = chr->finishing = false;
    if (chr->handlers) {
        chr->handlers->opened(chr->opaque);
    }
}

static void hang_up(Chardev *chr)
{
    clear_source(&chr->in_source);
    clear_source(&chr->out_source);
    clear_source(&chr->drop_source);
    discard_output(chr);
    chr->connected = false;
    if (chr->handlers) {
        chr->handlers->closed(chr->opaque);
    }
    chr->kind->disconnected(chr);
}

bool chardev_attach(Chardev *chr, const ChardevHandlers *handlers, void *opaque,
                    GError **errp)
{
    if (chr->handlers) {
        error_setg(errp, "Device '%s' is in use", chr->id);
        return false;
    }
    chr->handlers = handlers;
    chr->opaque = opaque;
    if (chr->connected) {
        handlers->opened(opaque);
    }
    return true;
}

void chardev_detach(Chardev *chr)
{
    chr->handlers = NULL;
    watch_input(chr);
}

/* ---- all of them -------------------------------------------------------- */

static Chardev *lookup(const char *id)
{
    guint i;

    for (i = 0; chardevs && i < chardevs->len; i++) {
        Chardev *chr = g_ptr_array_index(chardevs, i);

        if (!strcmp(chr->id, id)) {
            return chr;
        }
    }
    return NULL;
}

Chardev *chardev_find(const char *id, GError **errp)
{
    Chardev *chr = lookup(id);

    if (!chr) {
        error_setg(errp, "chardev \"%s\" not found", id);
    }
    return chr;
}

bool chardev_uses_stdio(void)
{
    guint i;

    for (i = 0; chardevs && i < chardevs->len; i++) {
        Chardev *chr = g_ptr_array_index(chardevs, i);

        if (chr->kind == &chardev_stdio_kind) {
            return true;
        }
    }
    return false;
}

static void chardev_free(gpointer opaque)
{
    Chardev *chr = opaque;

    g_assert(!chr->handlers);
    if (chr->connected) {
        hang_up(chr);
    }
    chr->kind->close(chr);
    g_byte_array_unref(chr->out);
    g_free(chr->id);
    g_free(chr);
}

static bool open_kind(const ChardevKind *kind, const char *id,
                      JsonObject *options, GError **errp)
{
    Chardev *chr;

    if (lookup(id)) {
        error_setg(errp, "Chardev with id '%s' already exists", id);
        return false;
    }
    chr = g_malloc0(kind->instance_size);
    chr->kind = kind;
    chr->id = g_strdup(id);
    chr->out = g_byte_array_new();
    if (!kind->open(chr, options, errp)) {
        chardev_free(chr);
        return false;
    }
    if (!chardevs) {
        chardevs = g_ptr_array_new_with_free_func(chardev_free);
    }
    g_ptr_array_add(chardevs, chr);
    return true;
}

void chardev_close_all(void)
{
    g_clear_pointer(&chardevs, g_ptr_array_unref);
}

/* ---- options ------------------------------------------------------------ */

static const ChardevKind *const kinds[] = {
    &chardev_socket_kind,
    &chardev_stdio_kind,
};

static const char *const kind_names[] = { "socket", "stdio", NULL };

static const SchemaType backend_kind_type = {
    .name = "ChardevBackendKind",
    .kind = SCHEMA_ENUM,
    .doc = "The kinds of chardevs.",
    .values = kind_names,
};

static bool flat_branch(size_t n, const char **tag, const SchemaType **type)
{
    if (n >= G_N_ELEMENTS(kinds)) {
        return false;
    }
    *tag = kinds[n]->name;
    *type = kinds[n]->options;
    return true;
}

static bool json_branch(size_t n, const char **tag, const SchemaType **type)
{
    if (n >= G_N_ELEMENTS(kinds)) {
        return false;
    }
    *tag = kinds[n]->name;
    *type = kinds[n]->json_options;
    return true;
}

/* key=value,...: "backend" is the implied key */
static const SchemaType flat_type = {
    .name = "ChardevOptions",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "backend", &backend_kind_type, .doc = "The kind of chardev." },
            { "id", &schema_str, .doc = "Its name." },
            { NULL } },
    .discriminator = "backend",
    .branch = flat_branch,
};

static const SchemaType backend_type = {
    .name = "ChardevBackend",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ { "type", &backend_kind_type,
                                         .doc = "The kind of chardev." },
                                       { NULL } },
    .discriminator = "type",
    .branch = json_branch,
};

static const SchemaType json_type = {
    .name = "ChardevAdd",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "id", &schema_str, .doc = "Its name." },
            { "backend", &backend_type, .doc = "What it is." },
            { NULL } },
};

bool chardev_add(const char *text, GError **errp)
{
    g_autoptr(JsonNode) node = NULL;
    JsonObject *options, *backend;
    const char *kind;
    bool keyval;
    guint i;

    node = keyval_parse(text, "backend", &keyval, errp);
    if (!node || !schema_check(keyval ? &flat_type : &json_type, node, "",
                               keyval, errp)) {
        return false;
    }
    options = json_node_get_object(node);
    if (keyval) {
        kind = schema_get_str(options, "backend", NULL);
        backend = options;
    } else {
        backend = schema_get_object(options, "backend");
        kind = schema_get_str(backend, "type", NULL);
        backend = schema_get_object(backend, "data");
    }
    for (i = 0; strcmp(kinds[i]->name, kind); i++) {
        /* the schema names nothing else */
    }
    return open_kind(kinds[i], schema_get_str(options, "id", NULL), backend,
                     errp);
}
