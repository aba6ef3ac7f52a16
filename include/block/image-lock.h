/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's image locks: open file description locks on single bytes of the image
 * that tell other processes which permissions somebody holds and which he does
 * not share. Stock QEMU and this project exclude each other by them.
 *
 * They bind only those who ask: dd, cp and mkfs do not.
 *
 * Not locked: callers serialise (the graph mutex, or the status registry).
 */
#ifndef BLOCK_IMAGE_LOCK_H
#define BLOCK_IMAGE_LOCK_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct ImageLock {
    int fd;      /* the caller's; its description owns the locks */
    int next_fd; /* a second one that owns them, too; or -1 */
    char *filename;
    bool enabled;
    bool guard;             /* image_lock_guard() succeeded */
    uint64_t perm;          /* BLK_PERM_, in force */
    uint64_t shared;        /* BLK_PERM_, in force */
    uint64_t held_perm;     /* permission bytes locked now, as bits */
    uint64_t held_unshared; /* bytes "not shared" locked now, as bits */
} ImageLock;

/* Does the file system behind @fd know open file description locks? */
bool image_lock_supported(int fd);

/*
 * @fd must stay open as long as the lock is used. Without @enabled every
 * function succeeds, takes no lock, and image_lock_guard() fails.
 */
void image_lock_init(ImageLock *lock, int fd, const char *filename,
                     bool enabled);
/* Lets go of all locks and of memory. */
void image_lock_destroy(ImageLock *lock);

/*
 * First of two steps: take the locks for @perm and @shared in addition to
 * those in force and see whether another process (or another description of
 * this one) objects to what is new. False and @errp if so, and then nothing has
 * changed. If nothing is new, it succeeds.
 */
bool image_lock_check(ImageLock *lock, uint64_t perm, uint64_t shared,
                      GError **errp);
/* Second step, after success: let go of what is not needed any more... */
void image_lock_set(ImageLock *lock, uint64_t perm, uint64_t shared);
/* ...or go back to what was in force before. */
void image_lock_abort(ImageLock *lock);

/*
 * The file is to be locked by another description, @fd, without a moment in which
 * it is not. All locks that are held are taken there, too, and follow those of
 * the first; nothing conflicts, for all of them are read locks. But from then on
 * each description sees the locks of the other: nobody should look. False and
 * @errp on error; then locks may be left on @fd until it is closed.
 */
bool image_lock_join(ImageLock *lock, int fd, GError **errp);
/* Either @fd is going to be closed, ... */
void image_lock_part(ImageLock *lock);
/* ... or it is going to take the place and number of the first, which lets go. */
void image_lock_hand_over(ImageLock *lock);

/*
 * Keep others from write permission, whatever the permissions in force share.
 * False, and nothing changed, if that cannot be had: somebody holds write
 * permission, or there are no locks. Idempotent.
 */
bool image_lock_guard(ImageLock *lock);
void image_lock_unguard(ImageLock *lock);

#endif
