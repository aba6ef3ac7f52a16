/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver "file" is several files: file-posix.c opens and closes,
 * file-reopen.c opens again, file-options.c has the options, file-rw.c reads,
 * writes and flushes, file-zero.c writes zeroes and discards, file-resize.c knows
 * where the file ends, file-create.c creates. This is what they share, with each
 * other and with the driver "host_device" (host-device.c), which is the same on
 * a block device.
 */
#ifndef BLOCK_FILE_POSIX_INT_H
#define BLOCK_FILE_POSIX_INT_H

#include "block/block-int.h"
#include "block/image-lock.h"
#include "block/status-probe.h"
#include "block/status-read.h"
#include "block/status-registry.h"

/* What was found out about the file system by trying */
enum {
    FILE_NO_ZERO_RANGE = 0x1,
    FILE_NO_PUNCH_HOLE = 0x2,
    FILE_NO_ALLOCATE = 0x4,
    FILE_NO_DSYNC = 0x8,
    FILE_ALLOCATES = 0x10, /* fallocate(2) without a mode has worked */
    FILE_NO_ZEROOUT = 0x20,
    FILE_NO_DISCARD = 0x40,
    FILE_NO_NOWAIT = 0x80, /* reads cannot be asked not to wait */
};

typedef struct FileState FileState;

/* What "file" and "host_device" do not have in common */
typedef struct FileKind {
    const char *driver;
    mode_t type;           /* S_IFREG, S_IFBLK */
    const char *type_name; /* "a regular file" */
    bool probes;           /* somebody can be asked about block status */
    /* After it was opened: tell the length of the disk, and the granularity that
     * the status cache has if the user does not say. */
    bool (*measure)(BlockDriverState *bs, const struct stat *st,
                    int64_t *length, uint32_t *granularity, GError **errp);
    /* Amend *@limits; may be NULL. */
    void (*set_limits)(const FileState *s, BlockLimits *limits);
    /* pwrite_zeroes, without telling the status cache. @flags: MAY_UNMAP,
     * NO_FALLBACK */
    int (*write_zeroes)(FileState *s, int64_t offset, int64_t bytes, int flags);
} FileKind;

/* Open descriptors of the file; -1: none */
typedef struct FileDescriptors {
    int fd, sync_fd; /* as in FileState */
    bool writable;
} FileDescriptors;

struct FileState {
    const FileKind *kind;
    char *filename;
    /*
     * With O_DIRECT if cache.direct; owns the locks. The number stays the same
     * as long as the node lives, whatever is opened again: a request may be in
     * flight.
     */
    int fd;
    bool writable; /* it is open for writing */
    /*
     * A second description, without O_DIRECT, of a node that is written; else
     * -1. It flushes, so that no write through @fd (with RWF_DSYNC) can take
     * from it the one report of a failed writeback; and it writes the part of a
     * direct request that is smaller than a block: the end of the file.
     */
    int sync_fd;
    bool direct;
    bool submits;         /* direct requests may be: option aio */
    bool have_next;       /* next is open, and is going to take their place, */
    FileDescriptors next; /* but for sync_fd if there is one; graph mutex */
    bool holds_fdset;     /* filename is that of a set of descriptors */
    bool local;           /* fstat() needs no network */
    bool
        exclusive_holes; /* of a direct write into a hole: nothing else goes on */
    int64_t submitted;   /* of such writes, bytes that the disk has; atomic */

    Mutex tail_lock; /* file_lock_tail() */
    int64_t page;    /* what writeback may rewrite at once; bytes */

    unsigned found; /* FILE_, atomic */

    Mutex flush_lock;
    Cond flush_cond;
    bool flushing;          /* flush_lock */
    uint64_t flush_started; /* flush_lock: flushes begun */
    uint64_t flush_ended;   /* flush_lock */
    bool flush_failed;      /* flush_lock: for good */

    bool want_locks;
    uint64_t new_perm, new_shared; /* between check_perm and set_perm */
    ImageLock lock;
    StatusDiskUser user; /* knows the disk's length */
    Mutex cache_lock;    /* held by who is in no request and looks at cache */
    StatusCache *cache;
    StatusProbe *probe;
    StatusReader reader;

    /* atomic */
    uint64_t discard_nb_ok, discard_nb_failed, discard_bytes_ok;
};

/* Where the disk ends, in bytes. Without a drain it may grow at any time. */
static inline int64_t file_end(const FileState *s)
{
    return status_disk_length(&s->user);
}

static inline bool file_found(FileState *s, unsigned flag)
{
    return __atomic_load_n(&s->found, __ATOMIC_RELAXED) & flag;
}

static inline void file_set_found(FileState *s, unsigned flag)
{
    __atomic_or_fetch(&s->found, flag, __ATOMIC_RELAXED);
}

/* file-options.c */
enum {
    LOCKING_AUTO,
    LOCKING_ON,
    LOCKING_OFF,
};

/* The values of file_aio_type */
enum {
    FILE_AIO_THREADS,
    FILE_AIO_NATIVE,
    FILE_AIO_IO_URING,
};

typedef struct FileOptions {
    const char *filename; /* part of the options it was parsed from */
    int locking;          /* LOCKING_ */
    int aio;              /* FILE_AIO_ */
    StatusProbeStrategy strategy;
    StatusCacheMode mode;
    bool learn_reads;
    StatusDiskOptions disk; /* granularity 0: not given */
} FileOptions;

extern const SchemaType file_aio_type;
extern const SchemaType file_options_type, host_device_options_type;
/* @options fit the type. False and @errp if they do not fit each other, or
 * @direct I/O. */
bool file_parse_options(JsonObject *options, bool direct, FileOptions *o,
                        GError **errp);
/* @filename without the prefix "file:" */
const char *file_strip_protocol(const char *filename);

/* file-rw.c */
int file_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                const struct iovec *iov, int niov, int flags);
int file_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 const struct iovec *iov, int niov, int flags);
bool file_may_submit(BlockDriverState *bs);
BlkSubmitted file_submit_begin(BlockDriverState *bs, BlkSubmit *s);
int file_submit_end(BlockDriverState *bs, BlkSubmit *s, ssize_t result);
int file_flush(BlockDriverState *bs);
/* Writeback has failed, and whoever learned it was no flush: none succeeds from now
 * on (rule 6). */
void file_flush_failed(FileState *s);

/* file-zero.c */
int file_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       int flags);
int file_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes);
/* FileKind.write_zeroes of regular files */
int file_zero_by_fallocate(FileState *s, int64_t offset, int64_t bytes,
                           int flags);
/*
 * fallocate(2), unless @flag (FILE_) says that it is known not to work. 0,
 * -ENOTSUP if another way must be found, or another -errno.
 */
int file_try_fallocate(FileState *s, int mode, unsigned flag, int64_t offset,
                       int64_t bytes);
void file_account_discard(FileState *s, int64_t bytes, int ret);

/* file-resize.c */

/*
 * Direct writes near the end of the file, or beyond it, hold a lock: what is
 * smaller than a block is written through the page cache, and writeback of that
 * rewrites whole pages, which they may share with it. While somebody holds the
 * lock, a file with direct I/O does not grow. Whether @end, where a write ends, is near.
 */
bool file_is_near_tail(const FileState *s, int64_t end);
bool file_lock_tail(FileState *s, int64_t end);
void file_unlock_tail(FileState *s, bool locked);
/* A write or zero-write up to @end, beyond the end of the disk, has had the result
 * @ret: the disk ends there now, or if it failed, where the file does. */
void file_grew(FileState *s, int64_t end, int ret);
/* The operation of the driver "file" */
int file_truncate(BlockDriverState *bs, int64_t length, GError **errp);

/* file-create.c */
extern const SchemaType file_create_options_type;
int file_create(JsonObject *options, const BdrvStop *stop, GError **errp);

/* file-align.c: request_alignment and mem_alignment of direct I/O on @fd */
void file_find_alignment(int fd, int64_t length, BlockLimits *limits);

/* file-fdset.c */
/* file_open_kind() for the name of a set of descriptors. */
int file_open_fdset(const FileKind *kind, const char *filename, int flags,
                    struct stat *st, GError **errp);
/* Is the description shared with whoever passed it? */
bool file_is_adopted(int fd);
/* Closes what file_open_kind() opened, as close(2) does. */
int file_close_fd(int fd);
/* What was @from is @to now, in the place of what that was. */
void file_moved_fd(int from, int to);

/* file-reopen.c */

/*
 * Open what the node needs. With @again, the file must be the one that the node has
 * open, and sync_fd is left out if it has one. False and @errp on error, and nothing
 * is open.
 */
bool file_open_descriptors(BlockDriverState *bs, bool writable, bool direct,
                           bool again, FileDescriptors *d, struct stat *st,
                           GError **errp);
/* The operations of both drivers */
extern const char *const file_reopen_options[];
int file_reopen_prepare(BdrvReopen *r, GError **errp);
void file_reopen_commit(BdrvReopen *r);
void file_reopen_abort(BdrvReopen *r);
bool file_check_perm(BlockDriverState *bs, uint64_t perm, uint64_t shared,
                     GError **errp);
void file_set_perm(BlockDriverState *bs, uint64_t perm, uint64_t shared);
void file_abort_perm(BlockDriverState *bs);

/* file-posix.c */
extern const FileKind file_kind_regular;
/* Of a file of @length that is open as @fd */
void file_find_limits(const FileState *s, int fd, int64_t length, bool direct,
                      BlockLimits *limits);
/*
 * Open what is of this kind, and nothing else. @flags: access mode, O_DIRECT,
 * O_CREAT. The descriptor, with *@st filled in; or -errno and @errp.
 */
int file_open_kind(const FileKind *kind, const char *filename, int flags,
                   struct stat *st, GError **errp);
/* The same, where @filename is only for messages. */
int file_open_path(const FileKind *kind, const char *filename, const char *path,
                   int flags, struct stat *st, GError **errp);
/* Is what was opened as it must be? 0, or -errno and @errp. */
int file_check_opened(const FileKind *kind, const char *filename, int fd,
                      int flags, struct stat *st, GError **errp);
/* The operations of a BlockDriver; file_open_as() is open for one kind. */
int file_open_as(BlockDriverState *bs, const FileKind *kind,
                 JsonObject *options, GError **errp);
void file_close(BlockDriverState *bs);
int64_t file_getlength(BlockDriverState *bs);
int file_block_status(BlockDriverState *bs, unsigned want, int64_t offset,
                      int64_t bytes, int64_t *pnum, int64_t *map,
                      BlockDriverState **file);
StatusCache *file_get_status_cache(BlockDriverState *bs);
void file_get_info(BlockDriverState *bs, JsonObject *image);
JsonObject *file_get_specific_stats(BlockDriverState *bs);

#endif
