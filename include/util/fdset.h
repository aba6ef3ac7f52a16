/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sets of file descriptors that a monitor's clients passed to us, for files that
 * this process may not open by itself: "/dev/fdset/ID" stands for the one with
 * the access mode that is wanted. And descriptors with names: those that clients
 * passed ("getfd"), and those that the process was started with (sd_listen_fds(3)).
 *
 * What was passed and nobody uses is closed when no client is connected any more.
 * All functions may be called on any thread; those that close descriptors may
 * wait for as long as close(2) does.
 */
#ifndef UTIL_FDSET_H
#define UTIL_FDSET_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

/* ---- sets --------------------------------------------------------------- */

/*
 * Add @fd, which becomes the set's, to the set *@id, or to a new one with the
 * lowest id that is free if not @has_id; @opaque, or NULL, is the client's text
 * about it. False and @errp if *@id is negative or there are too many (util/limits.h);
 * @fd is closed then.
 */
bool fdset_add(int fd, bool has_id, int64_t *id, const char *opaque,
               GError **errp);
/* Close @fd of the set @id, or all of it if that is -1. */
bool fdset_remove(int64_t id, int fd, GError **errp);
/* What "query-fdsets" answers. (transfer full) */
JsonArray *fdset_query(void);

/* Is it the name of a set, rightly spelled or not? */
bool fdset_is_path(const char *path);

/* What a descriptor must have besides the access mode */
typedef enum FdsetWant {
    FDSET_ANY,
    FDSET_DIRECT,   /* O_DIRECT */
    FDSET_BUFFERED, /* no O_DIRECT */
} FdsetWant;

/*
 * A duplicate, the caller's, of the first descriptor in the set @path with the
 * access mode O_RDONLY or O_RDWR of @flags. -EINVAL if @path is not well-formed,
 * -ENOENT if there is no such set, -EACCES if none in it fits, or another -errno.
 */
int fdset_dup(const char *path, int flags, FdsetWant want);

/* Keep the descriptors of the set @path while clients come and go, if there is
 * such a set; else false. What remove-fd is told to close is closed all the
 * same. */
bool fdset_hold(const char *path);
void fdset_release(const char *path);

/* Nobody can refer to what was passed, but for the holders of sets: close the
 * rest. */
void fdset_close_unused(void);
/* At the end: close all, the named ones, too. */
void fdset_close_all(void);

/* ---- names -------------------------------------------------------------- */

/*
 * Very first: note what the process was started with. Descriptors that service
 * managers pass (LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES) can be used again and
 * again, others that are open once; by number. The environment variables are
 * removed, and children will not inherit the descriptors.
 */
void named_fd_init(void);

/* Give @fd, which becomes ours, a name; an earlier one of that name is closed.
 * False and @errp, and @fd closed, if @name begins with a digit, is empty or too
 * long, or if there are too many. */
bool named_fd_add(const char *name, int fd, GError **errp);
bool named_fd_close(const char *name, GError **errp);

/*
 * The descriptors for @name, each the caller's to close: what clients passed
 * under that name, or what a service manager did (which may be several), or, for
 * a number, the descriptor with that number if the process was started with it.
 * NULL and @errp if there is none. (transfer full; of int)
 */
GArray *named_fd_take(const char *name, GError **errp);

#endif
