/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a driver provides, and the nodes as drivers and the block layer's own
 * files see them. A new driver is one new file and one line in drivers.c.
 */
#ifndef BLOCK_BLOCK_INT_H
#define BLOCK_BLOCK_INT_H

#include "block/block.h"
#include "block/status-cache.h"
#include "block/submit.h"
#include "util/schema.h"
#include "util/thread.h"

typedef enum BlockDriverKind {
    BLOCK_DRIVER_PROTOCOL, /* has no children */
    BLOCK_DRIVER_FORMAT,
    BLOCK_DRIVER_FILTER, /* passes its child's contents through */
} BlockDriverKind;

/*
 * Set by open; alignments are powers of two up to BDRV_REQUEST_MAX_BYTES, and
 * zeroes mean "any". What formats and filters leave at zero, they
 * leave to the node below, where requests are then aligned and split.
 */
typedef struct BlockLimits {
    uint32_t request_alignment;       /* bytes, power of two; 1: any */
    uint32_t opt_alignment;           /* best alignment of requests, bytes */
    uint32_t mem_alignment;           /* of buffers, bytes; 1: any */
    uint32_t pwrite_zeroes_alignment; /* 0: request_alignment */
    uint32_t pdiscard_alignment;      /* smaller pieces are dropped */
    int64_t max_transfer;             /* bytes; 0: no limit */
} BlockLimits;

/* What a node does about writes of nothing but zeroes */
typedef enum BdrvDetectZeroes {
    BDRV_DETECT_ZEROES_OFF,
    BDRV_DETECT_ZEROES_ON,    /* they become zero-writes */
    BDRV_DETECT_ZEROES_UNMAP, /* which may deallocate */
} BdrvDetectZeroes;

/* What the options that all drivers have in common say */
typedef struct NodeOptions {
    bool read_only;      /* or, of a node that is there: as it is now */
    bool auto_read_only; /* and read_only was not asked for */
    bool force_share, discard_unmap;
    BdrvDetectZeroes detect_zeroes;
    bool cache_direct, cache_no_flush;
} NodeOptions;

/* A link from a parent node or a BlockBackend to a node */
typedef struct BdrvChild BdrvChild;
typedef struct RangeLock RangeLock;
typedef struct BdrvDirtyBitmap BdrvDirtyBitmap;

/* Whether long work is to be given up; NULL: never */
typedef struct BdrvStop {
    bool (*requested)(void *opaque);
    void *opaque;
} BdrvStop;

static inline bool bdrv_should_stop(const BdrvStop *stop)
{
    return stop && stop->requested(stop->opaque);
}

/* What BlockDriver's check found, as in QEMU's ImageCheck; -1 where not told */
typedef struct BdrvCheckResult {
    int64_t corruptions, leaks, check_errors;
    int64_t corruptions_fixed, leaks_fixed;
    int64_t image_end_offset;
    int64_t total_clusters, allocated_clusters, fragmented_clusters,
        compressed_clusters;
    /* A line for each problem, for whoever looks; may be NULL */
    void (*report)(void *opaque, const char *line);
    void *opaque;
} BdrvCheckResult;

enum {
    BDRV_FIX_LEAKS = 0x1,
    BDRV_FIX_ERRORS = 0x2
};

/* One node that blockdev-reopen changes (reopen.c) */
typedef struct BdrvReopen {
    BlockDriverState *bs;
    JsonObject *options;    /* as they are to be, checked */
    NodeOptions common;     /* the same, those common to all drivers */
    BlockDriverState *file; /* where the child "file" is to lead; or NULL */
    void *opaque;           /* the driver's own */
} BdrvReopen;

struct BlockDriver {
    const char *format_name;
    BlockDriverKind kind;
    size_t instance_size;
    /* Answers about block status are those of the child "file", at another
     * offset perhaps: its status cache speaks for this node, too (all filters
     * have this by their nature). */
    bool transparent;

    /*
     * The end of the disk need not be a multiple of request_alignment. So the
     * end of a write need not, either: its buffers go on to the next multiple,
     * with what is there, or zeroes; how much of that is to be written, so that
     * the disk ends where it did or where the write ends, is for the driver to
     * say.
     */
    bool exact_end;

    /*
     * Has a child "backing": where an answer about block status says neither DATA
     * nor ZERO, that has what is read. Reads of such places are the driver's, too
     * (bdrv_read_backing()).
     */
    bool supports_backing;

    /* BDRV_REQ_FUA if pwritev (pwrite_zeroes) does it; otherwise a flush
     * follows. BDRV_REQ_WRITE_COMPRESSED if pwritev does that, or filters pass it
     * on: what has it is neither split nor bounced, whatever the limits say.
     * MAY_UNMAP and NO_FALLBACK need no mention. */
    int supported_write_flags, supported_zero_flags;

    /* Its members of BlockdevOptions, an OBJECT; NULL: none. A child is a
     * member of type blockdev_ref_type. */
    const SchemaType *options;

    /*
     * @options is checked. Children are opened with bdrv_open_child(). 0, or
     * -errno and @errp; then what it did is undone, but children go by
     * themselves. Called with the graph mutex held, may do I/O.
     */
    int (*open)(BlockDriverState *bs, JsonObject *options, GError **errp);
    /* Releases; may be NULL. All requests have ended, the node was flushed. The
     * children are still there, and go by themselves. */
    void (*close)(BlockDriverState *bs);

    /*
     * blockdev-reopen, in a drained node; graph mutex held. The options of its
     * own that may change (a NULL at the end); without the list the node cannot be reopened.
     * prepare finds out whether all that is to come can be done, and does what
     * can fail: 0, or -errno and @errp, and then it has undone it. Then the
     * members of @bs that follow from the common options are set, check_perm is
     * asked, and either commit follows, and set_perm, or abort, after abort_perm
     * if check_perm had agreed. Each may be NULL.
     */
    const char *const *reopen_options;
    int (*reopen_prepare)(BdrvReopen *r, GError **errp);
    void (*reopen_commit)(BdrvReopen *r);
    void (*reopen_abort)(BdrvReopen *r);
    /* After commit, when all nodes and permissions are as they are to be; drained
     * still, may do I/O. What fails here cannot be undone. */
    void (*reopen_done)(BlockDriverState *bs);

    /*
     * Requests: aligned to bs->limits, within max_transfer; any thread. Those
     * that are NULL are not supported (pwrite_zeroes: plain zeroes are written
     * instead; flush: nothing to do).
     *
     * A read that succeeds has filled its buffers: what they hold before is
     * somebody else's. It may go beyond the end of the disk by less than
     * request_alignment: it finds zeroes there. A write or zero-write does so, by
     * any distance, only if a user may resize, and makes the disk longer, without
     * a drain: what lies between reads as zeroes. Protocol drivers without
     * truncate get none that ends behind the next multiple of request_alignment.
     * pwrite_zeroes is -ENOTSUP where it is not done by a fast way, and
     * pdiscard where it cannot be done; both have changed nothing then. flush
     * is followed by flushes of all children but "backing".
     * BDRV_REQ_NO_FALLBACK is there to be passed on to a child.
     */
    int (*preadv)(BlockDriverState *bs, int64_t offset, int64_t bytes,
                  const struct iovec *iov, int niov, int flags);
    int (*pwritev)(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   const struct iovec *iov, int niov, int flags);
    int (*pwrite_zeroes)(BlockDriverState *bs, int64_t offset, int64_t bytes,
                         int flags);
    int (*pdiscard)(BlockDriverState *bs, int64_t offset, int64_t bytes);
    int (*flush)(BlockDriverState *bs);
    /*
     * The same in two halves (submit.h), of protocol drivers; or all NULL. may_submit:
     * is it likely that there are such requests? begin: what preadv and pwritev do
     * before their system call, if they would neither wait for anything before it, nor
     * ask for anything else; sets fd. BLK_SUBMIT_NOT: nothing has happened. end: the
     * rest, for which the kernel has answered @result; or all of it anew. 0 or -errno.
     */
    bool (*may_submit)(BlockDriverState *bs);
    BlkSubmitted (*submit_begin)(BlockDriverState *bs, BlkSubmit *s);
    int (*submit_end)(BlockDriverState *bs, BlkSubmit *s, ssize_t result);
    /* Are reads and writes those of the child "file", as they are? NULL: no */
    bool (*passes_on)(BlockDriverState *bs);
    /* Cheap, no system call, no wait: it is asked for at every request, and
     * under the short graph lock. NULL: the child's (bdrv_child_getlength). */
    int64_t (*getlength)(BlockDriverState *bs);
    /*
     * Make the disk @length bytes long, at most BDRV_MAX_LENGTH; what is new
     * reads as zeroes. The node is drained and writable, and a user may resize.
     * Graph mutex held, may do I/O. 0, or -errno and @errp; then the length is
     * what it was. NULL: filters let the child do it, others cannot.
     */
    int (*truncate)(BlockDriverState *bs, int64_t length, GError **errp);
    /*
     * The image's header is to name another backing file, and its format. The
     * node is drained and writable. Graph mutex held, may do I/O. 0, or -errno
     * and @errp; then nothing has changed. NULL: cannot be.
     */
    int (*change_backing)(BlockDriverState *bs, const char *file,
                          const char *format, GError **errp);
    /*
     * As blk_block_status(), but may answer RAW and may exceed @bytes. The
     * range is aligned to request_alignment but where the disk ends. An answer
     * to a question that does not want zeroes may be rough; it must not get
     * into any cache. BDRV_WANT_READ is answered without asking anybody. NULL: filters let the child answer, others are all data.
     */
    int (*block_status)(BlockDriverState *bs, unsigned want, int64_t offset,
                        int64_t bytes, int64_t *pnum, int64_t *map,
                        BlockDriverState **file);

    /*
     * Permissions: may this node's users have @perm and share @shared? Take
     * what is needed (image locks), keep the old too; then either set_perm()
     * or abort_perm(). NULL: always. Requests may be in flight meanwhile: a
     * hung disk must not stand in the way of new users, or of old ones that go.
     */
    bool (*check_perm)(BlockDriverState *bs, uint64_t perm, uint64_t shared,
                       GError **errp);
    void (*set_perm)(BlockDriverState *bs, uint64_t perm, uint64_t shared);
    void (*abort_perm)(BlockDriverState *bs);
    /* What this node needs of @child, given what its users need of it. NULL:
     * the same for filters and transparent formats. Other formats always read
     * "file", write and resize it unless they are read-only, and let nobody else
     * do so; of "backing" they need no more than consistent reads, and let
     * others write to it if their own users let others write. */
    void (*child_perm)(BlockDriverState *bs, BdrvChild *child, uint64_t perm,
                       uint64_t shared, uint64_t *nperm, uint64_t *nshared);

    /* Members for this node's "image" / "driver-specific"; main thread, short:
     * no I/O, no wait. Either may be NULL. */
    void (*get_info)(BlockDriverState *bs, JsonObject *image);
    JsonObject *(*get_specific_stats)(BlockDriverState *bs);
    /* The status cache of this very node, referenced; or NULL. */
    StatusCache *(*get_status_cache)(BlockDriverState *bs);

    /*
     * Look through the image's own tables, and mend what @fix (BDRV_FIX_) says. The
     * node is drained and, to mend, writable; graph mutex held, may do I/O. 0 if
     * the check came to its end, whatever it found; or -errno and @errp.
     */
    int (*check)(BlockDriverState *bs, BdrvCheckResult *result, unsigned fix,
                 GError **errp);

    /*
     * Persistent bitmaps. Can one of that name and granularity be stored in the
     * image (besides those it has, and those that are to be stored already)? And: the image shall have none of that
     * name any more (there need not be one). Drained; graph mutex held, may do I/O.
     * False, or -errno, and @errp. The driver makes those that are in the image in
     * open(), and stores those that are persistent in close(), or when the node
     * becomes read-only. NULL: it cannot store bitmaps.
     */
    bool (*can_store_bitmap)(BlockDriverState *bs, const char *name,
                             uint32_t granularity, GError **errp);
    int (*remove_stored_bitmap)(BlockDriverState *bs, const char *name,
                                GError **errp);

    /* blockdev-create: the members of its options, and the work, which looks
     * at @stop now and then */
    const SchemaType *create_options;
    int (*create)(JsonObject *options, const BdrvStop *stop, GError **errp);
};

struct BdrvChild {
    BlockDriverState *bs;
    BlockDriverState *parent;   /* or NULL */
    BlockBackend *blk;          /* or NULL */
    char *name;                 /* "file", "root" */
    uint64_t perm, shared_perm; /* graph mutex */
    bool quiesced;              /* the parent is, because bs is; graph mutex */
};

struct BlockDriverState {
    const BlockDriver *drv;
    void *opaque; /* instance_size bytes, zeroed, the driver's own */
    char *node_name;
    int refcnt;          /* atomic */
    int read_only;       /* as it is now; atomic: bdrv_set_read_only() */
    bool auto_read_only; /* and read_only was not asked for */
    bool monitor_owned;
    bool discard_unmap; /* option discard */
    BdrvDetectZeroes detect_zeroes;
    bool cache_direct, cache_no_flush;
    bool force_share;    /* other processes may do what they like */
    bool to_check;       /* bdrv_open_to_check() */
    JsonObject *options; /* a copy, as given; short graph lock */
    /* Of a node that its parent made inline: that parent, until it goes, and what
     * was given for it, before it took over what its parent has. Graph mutex */
    BlockDriverState *made_by;
    JsonObject *given_options;
    bool implied_backing; /* when it was opened, no option named another */
    /* The image's header names a backing file; graph mutex */
    bool names_backing;
    bool reopening;     /* graph mutex: permissions are to be asked for anew */
    BlockLimits limits; /* set by open; changed in a drain, short graph lock */

    BdrvChild *file;            /* the child "file" of formats and filters */
    BdrvChild *backing;         /* the child "backing"; short graph lock */
    GPtrArray *children;        /* of BdrvChild; graph mutex */
    GPtrArray *parents;         /* of BdrvChild; short graph lock */
    uint64_t perm, shared_perm; /* cumulative; graph mutex; perm is atomic */
    /* bdrv_keep_perms(): also needed, and also not shared; graph mutex */
    uint64_t kept_perm, kept_unshared;
    unsigned quiesce; /* graph mutex */
    bool ready;       /* can be found; short graph lock */

    /* Where writes hold their range (shared; exclusively if they are read-
     * modify-write): nodes with a request_alignment, or whose driver made one
     * in open. Otherwise NULL. */
    RangeLock *range_lock;
    Mutex dirty_lock;
    GPtrArray *dirty_bitmaps; /* dirty_lock; made by the first bitmap */
    int n_dirty_bitmaps; /* atomic: their number, for a look without lock */

    uint64_t wr_highest_offset; /* atomic */
};

/* The drivers that blockdev-add offers: the list in drivers.c; NULL at the end */
extern const BlockDriver *const bdrv_drivers[];
const BlockDriver *bdrv_find_driver(const char *format_name);

extern const SchemaType blockdev_options_type; /* BlockdevOptions */
extern const SchemaType blockdev_ref_type;     /* BlockdevRef */
/* BlockdevRefOrNull: of the member "backing", which is optional */
extern const SchemaType blockdev_ref_or_null_type;
/* BlockdevDetectZeroesOptions, its values in the order of BdrvDetectZeroes */
extern const SchemaType detect_zeroes_type;
extern const SchemaType qcow2_compression_type; /* Qcow2CompressionType */
extern const SchemaType blockdev_driver_type;   /* BlockdevDriver */
/* PreallocMode, its values in the order of BdrvPrealloc */
extern const SchemaType prealloc_mode_type;

typedef enum BdrvPrealloc {
    BDRV_PREALLOC_OFF,
    BDRV_PREALLOC_METADATA, /* of formats */
    BDRV_PREALLOC_FALLOC,
    BDRV_PREALLOC_FULL,
} BdrvPrealloc;

/*
 * The child @name of @bs: opens what options say (inline object or node name)
 * and attaches it. Called from drv->open.
 */
BdrvChild *bdrv_open_child(BlockDriverState *bs, JsonObject *options,
                           const char *name, GError **errp);
/*
 * For open() of drivers with supports_backing, when "file" is open: the child
 * "backing", as the option of that name says (null: none). Where there is no such
 * option: what the image's header names (@header_file, NULL or empty: none) and in
 * what format (@header_format, may be NULL: raw, unless it looks like another
 * format). That is a file or block device, relative to the directory of the
 * image's own file, and is opened for reading only. Keeps in bs->names_backing
 * whether the header names one. 0, or -errno and @errp.
 */
int bdrv_open_backing(BlockDriverState *bs, JsonObject *options,
                      const char *header_file, const char *header_format,
                      GError **errp);
/*
 * Where the backing file is that the header of @bs calls @name: that, and the
 * directory of the image's own file if it is relative. To be freed; or NULL and
 * @errp, where it is no file's name. Any thread, no I/O.
 */
char *bdrv_full_backing_name(BlockDriverState *bs, const char *name,
                             GError **errp);
/* Where the backing file @name is that the image @own has, both names of files:
 * relative to @own. To be freed. Any thread. */
char *bdrv_backing_path(const char *own, const char *name);
/*
 * What the first bytes of a file look like: the name of a format, which need not
 * have a driver, or "raw". A guest chooses what its raw disk looks like. NULL
 * and @errp if the file cannot be read. May do I/O; any thread.
 */
const char *bdrv_probe_format(const char *filename, GError **errp);
/* Attach an existing node (taking a reference); detach. Graph mutex held. */
BdrvChild *bdrv_attach_child(BlockDriverState *parent, BlockDriverState *bs,
                             const char *name, GError **errp);
void bdrv_detach_child(BdrvChild *child);

/* For drivers, inside requests and getlength */
int64_t bdrv_child_getlength(BdrvChild *child);
/* For queries, while the node may be reopened; any thread. The copy is the caller's. */
JsonObject *bdrv_copy_options(BlockDriverState *bs);
NodeOptions bdrv_get_node_options(BlockDriverState *bs);
/*
 * For reopen_prepare: is there nobody at or above @bs, a job, who relies on its
 * contents? 0, or -EBUSY and @errp, which says that @what cannot change.
 */
int bdrv_reopen_check_contents(BlockDriverState *bs, const char *what,
                               GError **errp);
/* For reopen_commit: what getlength and limits are made from changes between
 * these. */
void bdrv_change_begin(void);
void bdrv_change_end(void);
/* For set_perm() and open() of auto-read-only nodes */
void bdrv_set_read_only(BlockDriverState *bs, bool read_only);
/*
 * What ends the waits of the request that this thread is in (borrowed), or
 * NULL: to be given to bdrv_wait() by whatever a request waits for.
 */
BdrvCancel *bdrv_request_cancel(void);
/*
 * The request that this thread is in is not over before it has ended in this thread,
 * and blk_unshare_request() was called, by any. Returns the BlockBackend that it came
 * through (borrowed: it is there until then), or NULL outside of requests.
 */
BlockBackend *blk_share_request(void);
void blk_unshare_request(BlockBackend *blk);
/* In another thread, which is in no request: what is done from begin to end belongs
 * to a request that is shared. Waits end with @cancel (borrowed). */
void blk_continue_begin(BlockBackend *blk, BdrvCancel *cancel);
void blk_continue_end(void);

/* How long a resize waits for requests, microseconds; only tests change it */
extern int64_t bdrv_resize_drain_us;
/* For truncate() of drivers: the same of a child, of any length. Graph mutex held,
 * drained */
int bdrv_truncate(BlockDriverState *bs, int64_t length, GError **errp);
/* The same by who has the permission, with all that bdrv_resize() does */
int bdrv_truncate_drained(BlockDriverState *bs, int64_t length, GError **errp);
/*
 * Requests between nodes: the caller is inside a gate. Any alignment, within
 * the disk; bounced, split, falling back as needed. Writes and zero-writes may
 * reach beyond its end, if a user of the node may resize, and make it longer;
 * otherwise -ENOSPC.
 */
int bdrv_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                const struct iovec *iov, int niov, int flags);
int bdrv_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 const struct iovec *iov, int niov, int flags);
int bdrv_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       int flags);
int bdrv_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes);
int bdrv_flush(BlockDriverState *bs);
/*
 * For drivers with supports_backing: read what is not allocated here from the
 * node below; zeroes where that is too short, or is not there.
 */
int bdrv_read_backing(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      const struct iovec *iov, int niov);
/* The status of this node alone, without what is below a backing link: neither
 * DATA nor ZERO is what is not allocated here. */
int bdrv_block_status(BlockDriverState *bs, unsigned want, int64_t offset,
                      int64_t bytes, int64_t *pnum, int64_t *map,
                      BlockDriverState **file);
/*
 * The same through the backing chain: from @bs down to, but not into, @base (NULL:
 * all of it). What no node above @base has allocated is neither DATA nor ZERO
 * nor ALLOCATED; with @base NULL it is ZERO, and so is what lies beyond a short backing
 * node. *@depth (may be NULL) is 1 for @bs itself, 2 for the node below, and so
 * on; 0: not allocated anywhere. Filters do not count.
 */
int bdrv_block_status_above(BlockDriverState *bs, BlockDriverState *base,
                            unsigned want, int64_t offset, int64_t bytes,
                            int64_t *pnum, int64_t *map,
                            BlockDriverState **file, int *depth);
/* The status cache that answers for @bs, its own or that of the child it passes
 * through (raw, filters), referenced; or NULL. Any thread. */
StatusCache *bdrv_get_status_cache(BlockDriverState *bs);

#endif
