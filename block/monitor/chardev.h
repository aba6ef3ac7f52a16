/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Character devices: a stream of bytes to and from one peer at a time. Main
 * thread only; no function waits, none calls back before it returns unless it
 * says so.
 */
#ifndef MONITOR_CHARDEV_H
#define MONITOR_CHARDEV_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

#include "util/schema.h"

typedef struct Chardev Chardev;

/* What a chardev tells its user */
typedef struct ChardevHandlers {
    void (*opened)(void *opaque); /* there is a peer */
    void (*received)(void *opaque, const void *data, size_t bytes);
    /* Descriptors that came with what is received next; they become its user's.
     * NULL: they are closed. */
    void (*received_fds)(void *opaque, const int *fds, size_t n);
    void (*ended)(void *opaque);   /* the peer sends no more, but may read */
    void (*drained)(void *opaque); /* all output has been taken */
    void (*closed)(void *opaque);  /* the peer is gone */
} ChardevHandlers;

/* ---- for its user ------------------------------------------------------- */

/* NULL and @errp if there is no such chardev */
Chardev *chardev_find(const char *id, GError **errp);
/*
 * Become the one user of @chr; may call opened(). Nothing is received before
 * chardev_set_reading().
 */
bool chardev_attach(Chardev *chr, const ChardevHandlers *handlers, void *opaque,
                    GError **errp);
/* No handler is called any more. */
void chardev_detach(Chardev *chr);
/* Take input, or leave it where it is. Off for every new peer. */
void chardev_set_reading(Chardev *chr, bool reading);
/* Output is kept until the peer takes it; dropped if there is no peer. */
void chardev_write(Chardev *chr, const char *data, size_t bytes);
/* Bytes of output that the peer has not yet taken */
size_t chardev_unsent(Chardev *chr);
/* Part with the peer, once it has taken all output. closed() will be called. */
void chardev_finish(Chardev *chr);
/* The same at once, with what is unsent. */
void chardev_drop(Chardev *chr);

void chardev_close_all(void);

/* ---- for the kinds of chardevs ------------------------------------------ */

/* So many descriptors may come with what is read at once; the kernel closes
 * what is more. */
#define CHARDEV_MAX_FDS 16

typedef struct ChardevKind {
    const char *name;
    size_t instance_size;           /* of a struct that begins with a Chardev */
    const SchemaType *options;      /* key=value form, with "id" */
    const SchemaType *json_options; /* "data" of the JSON form */
    /* @options are checked; those of the JSON form have become flat. */
    bool (*open)(Chardev *chr, JsonObject *options, GError **errp);
    /* read(2), and *@n_fds descriptors that came with it, CHARDEV_MAX_FDS at
     * most; NULL: there can be none. */
    ssize_t (*read)(Chardev *chr, void *buf, size_t bytes, int *fds,
                    size_t *n_fds);
    /* The peer is gone and its file descriptors are not used any more. */
    void (*disconnected)(Chardev *chr);
    void (*close)(Chardev *chr);
} ChardevKind;

struct Chardev {
    const ChardevKind *kind;
    char *id;
    const ChardevHandlers *handlers; /* NULL: nobody uses it */
    void *opaque;

    bool connected;
    int in_fd, out_fd; /* while connected; non-blocking */
    bool reading;
    bool ended;     /* no more input */
    bool finishing; /* part when all output is taken */
    GIOCondition in_watched;
    GSource *in_source, *out_source, *drop_source;
    GByteArray *out;
    size_t out_pos; /* of the first byte not yet taken */
};

extern const ChardevKind chardev_socket_kind, chardev_stdio_kind;

/* A peer has come. */
void chardev_connected(Chardev *chr, int in_fd, int out_fd);

#endif
