/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One disk is one status cache in the process, however many nodes open it.
 *
 * A disk is known by device and inode number, a block device by its own number
 * (disk-kin.h). Its nodes register here, ask and
 * feed the one cache, and leave it to this module to decide what may be
 * remembered (status-registry.c has the rules).
 *
 * Management only: functions may lock files and therefore wait for a network
 * file system. Any thread; one mutex serialises all. Only the length of a disk
 * is for requests, too, and those functions never wait.
 */
#ifndef BLOCK_STATUS_REGISTRY_H
#define BLOCK_STATUS_REGISTRY_H

#include <sys/stat.h>

#include "block/image-lock.h"
#include "block/status-cache.h"

typedef struct StatusDisk StatusDisk;

/* One node on a disk. The members are the node's until it attaches. */
typedef struct StatusDiskUser {
    const char *name;     /* of the node, for messages */
    bool writable;        /* its descriptor is open for writing */
    bool share_write;     /* others are to be allowed to write (force-share) */
    StatusCacheMode want; /* at most this much */
    ImageLock *lock;
    StatusDisk *disk;    /* the registry's */
    StatusCache *cache;  /* the one it was given; the registry's */
    int64_t length;      /* of the disk, bytes; atomic: status_disk_length() */
    uint64_t max_memory; /* of the cache it was given, bytes; atomic */
    unsigned alone;      /* atomic: writes that count on being alone */
} StatusDiskUser;

typedef struct StatusDiskOptions {
    int64_t length;         /* of the disk, bytes */
    uint32_t granularity;   /* of a new cache, bytes */
    bool granularity_given; /* the user insists on it */
    uint64_t max_memory;    /* of a new cache, bytes; 0: no limit */
    bool max_memory_given;  /* the user insists on it */
} StatusDiskOptions;

/*
 * Register a node on the disk that @st describes, before it takes locks of its
 * own. Returns the cache to ask and to feed (a reference): the disk's, or
 * for a node that wants none, one of its own that stays off. NULL and @errp if
 * an option that the user insists on differs from that of the nodes already
 * there, or the disk is being created.
 */
StatusCache *status_disk_attach(StatusDiskUser *user, const struct stat *st,
                                const StatusDiskOptions *options,
                                GError **errp);
/*
 * The node goes: lets go of its locks and gives others what they could not have
 * because of it. All its requests have ended; the descriptor is still open.
 */
void status_disk_detach(StatusDiskUser *user);

/* As the node knows it: from when it was opened, and what follows. */
static inline int64_t status_disk_length(const StatusDiskUser *user)
{
    return __atomic_load_n(&user->length, __ATOMIC_ACQUIRE);
}
/* The disk is @length bytes long now, for all its nodes and their caches. A disk
 * that becomes shorter is resized before it is cut off, one that becomes longer
 * afterwards: it never ends before its nodes think it does. */
void status_disk_resize(StatusDiskUser *user, int64_t length);
/* A write that ended at @length has ended, and the disk is at least so long. */
void status_disk_grow(StatusDiskUser *user, int64_t length);

/*
 * A write begins that does no harm only as long as nobody else writes to the disk: no
 * other node, and nobody who would keep to image locks. True: that is so until the
 * write ends; who comes is kept waiting for that, though not for more than a second,
 * with the registry locked: no request and no query waits for it.
 * False: it is to be done in another way, and there is nothing to end. For requests;
 * neither waits.
 */
bool status_disk_begin_alone(StatusDiskUser *user);
void status_disk_end_alone(StatusDiskUser *user);

/* Permissions have changed, here or maybe elsewhere: decide anew. */
void status_disk_refresh(StatusDiskUser *user);

/*
 * The node's descriptor is going to be open for writing, or is no longer. Who is
 * going to write says so before he asks for the lock, which a guard of another
 * node would refuse.
 */
void status_disk_set_writable(StatusDiskUser *user, bool writable);
/*
 * The node is to want something else. First step: does it agree with the other
 * nodes? *@cache is another cache for the node (a reference), if it needs one,
 * made by @options; otherwise NULL. False and @errp if it does not agree.
 */
bool status_disk_prepare(StatusDiskUser *user, StatusCacheMode want,
                         const StatusDiskOptions *options, StatusCache **cache,
                         GError **errp);
/*
 * Second step, with what the first has given, while no request of the node is in
 * flight. The cache to ask and to feed from now on (the reference to @cache
 * becomes one to that), NULL if it is the same as before.
 */
StatusCache *status_disk_change(StatusDiskUser *user, StatusCacheMode want,
                                uint64_t max_memory, StatusCache *cache);

/*
 * Keep nodes off a disk that is being created. Fails if there are any.
 */
bool status_disk_reserve(const struct stat *st, const char *filename,
                         GError **errp);
void status_disk_release(const struct stat *st);

#endif
