/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The block layer as its users (exports, jobs, monitor commands) see it.
 *
 * Nodes (BlockDriverState) form a graph; a user holds a BlockBackend, which
 * says what it takes from and what it shares with the other users of a node,
 * and sends its requests through it. Requests are plain, synchronous,
 * thread-safe functions: any number of threads may send requests through one
 * BlockBackend at once. They return 0 or a negative errno.
 *
 * Locks, in this order:
 *  1. the graph mutex (bdrv_graph_lock): held by whoever changes the graph or
 *     drains it: the management thread, and a job that starts or ends. May be
 *     held over I/O. Never taken by the main thread or by a request.
 *  2. gates: a request is inside its BlockBackend's gate from start to end.
 *     Draining closes the gates above a node and waits for those inside.
 *  3. the short graph lock, private to the block layer's own files, which
 *     queries take to walk the nodes: never held over I/O or a wait.
 */
#ifndef BLOCK_BLOCK_H
#define BLOCK_BLOCK_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "block/wait.h"

typedef struct BlockDriverState BlockDriverState;
typedef struct BlockDriver BlockDriver;
typedef struct BlockBackend BlockBackend;

/* Permissions, as QEMU's; the bit numbers are those of its image locks */
enum {
    BLK_PERM_CONSISTENT_READ = 0x01,
    BLK_PERM_WRITE = 0x02,
    BLK_PERM_WRITE_UNCHANGED = 0x04,
    BLK_PERM_RESIZE = 0x08,
    BLK_PERM_ALL = 0x0f,
};

/* Flags of requests */
enum {
    BDRV_REQ_FUA = 0x1,         /* on stable storage when it returns */
    BDRV_REQ_MAY_UNMAP = 0x2,   /* write zeroes: may deallocate */
    BDRV_REQ_NO_FALLBACK = 0x4, /* write zeroes: -ENOTSUP if not fast */
    /* Read: nothing is left out because it is known to be zero. That was done before
     * (BDRV_WANT_READ), or it is to be found out whether it is. */
    BDRV_REQ_CUT = 0x8,
    /*
     * Write: in whole clusters of the image (or up to its end; -EINVAL otherwise),
     * which hold nothing yet (-EIO), and are to be compressed. -ENOTSUP by drivers
     * that cannot (bdrv_can_compress()).
     */
    BDRV_REQ_WRITE_COMPRESSED = 0x10,
    BDRV_REQ_ONCE = 0x20, /* read: it need not be cached */
    /* Read: -EAGAIN if it would have to wait for the disk, as far as that can be
     * told beforehand. The buffers' contents are undefined then. */
    BDRV_REQ_NOWAIT = 0x40,
};

/* Block status, as QEMU's */
enum {
    BDRV_BLOCK_DATA = 0x01,
    BDRV_BLOCK_ZERO = 0x02,
    BDRV_BLOCK_OFFSET_VALID = 0x04,
    BDRV_BLOCK_RAW = 0x08, /* only between drivers: ask *file at *map */
    BDRV_BLOCK_ALLOCATED = 0x10,
    BDRV_BLOCK_EOF = 0x20,
    BDRV_BLOCK_PROBED = 0x100, /* ours: the file system had to be asked (or
                                * would have to, BDRV_WANT_KNOWN) */
};

/* What a block-status question wants to know; 0: only whether allocated */
enum {
    BDRV_WANT_ZERO = 0x1,
    BDRV_WANT_OFFSET_VALID = 0x2,
    BDRV_WANT_PRECISE = 0x3,
    /*
     * Alone: asked in place of a read, and so answered at once. What is known to
     * be zero will not be read, and is accounted as such; what is not known is
     * data, and so are zeroes that are better read with what surrounds them.
     */
    BDRV_WANT_READ = 0x4,
    /*
     * With the others: no file system is asked. What is not known is data, and
     * PROBED says so.
     */
    BDRV_WANT_KNOWN = 0x8,
};

/* No single request is larger; callers split. */
#define BDRV_REQUEST_MAX_BYTES (INT64_C(1) << 30)
/* Of any disk, as in QEMU: its end can be rounded up to any alignment, and a
 * request be added to any offset, without leaving int64_t. */
#define BDRV_MAX_LENGTH (INT64_MAX - INT64_MAX % BDRV_REQUEST_MAX_BYTES)

/* Nodes one on another. Requests and changes of the graph go down, and drains
 * up, by recursion. */
#define BDRV_MAX_CHAIN 200

/* ---- the graph ---------------------------------------------------------- */

void bdrv_graph_lock(void);
void bdrv_graph_unlock(void);

/*
 * Create a node from the options of blockdev-add, checked against
 * blockdev_options_type (children may be given inline or by node name). The
 * options must name it. The one reference belongs to the monitor, until
 * bdrv_monitor_del() or bdrv_close_all(): the caller gets none of its own.
 * Children created inline go with their parent. Graph mutex held. NULL and
 * @errp on error.
 */
BlockDriverState *bdrv_open(JsonObject *options, GError **errp);
/*
 * The same, to have the image checked, and mended if it is writable: its driver takes
 * it as it is, damaged or not, and changes nothing by itself. Nobody reads or
 * writes its contents.
 */
BlockDriverState *bdrv_open_to_check(JsonObject *options, GError **errp);
/*
 * blockdev-del: fails while anybody uses the node. Waits for those who have but
 * found it: take no graph mutex with such a reference in hand. Graph mutex held.
 */
bool bdrv_monitor_del(const char *node_name, GError **errp);

/*
 * blockdev-reopen: @options is an array of objects that are checked against
 * blockdev_options_type. Each names a node and says what its options are to be from
 * now on; what is left out goes back to its default, but "backing" must not be where
 * there is a backing file. All nodes or none change.
 * Waits for requests, bdrv_reopen_drain_us at most. Graph mutex held. False and
 * @errp on error.
 */
bool bdrv_reopen(JsonArray *options, GError **errp);
extern int64_t bdrv_reopen_drain_us;

/* A reference to the node of that name, or NULL and @errp. Any thread. */
BlockDriverState *bdrv_find_node(const char *node_name, GError **errp);
BlockDriverState *bdrv_ref(BlockDriverState *bs);
/*
 * The last reference closes the node, which may wait for I/O: only with the
 * graph mutex held, unless the caller knows that others hold references.
 * bdrv_unref_later() hands it to the management thread instead.
 */
void bdrv_unref(BlockDriverState *bs);
void bdrv_unref_later(BlockDriverState *bs);
const char *bdrv_node_name(BlockDriverState *bs);
const char *bdrv_driver_name(BlockDriverState *bs);
bool bdrv_is_read_only(BlockDriverState *bs);
/* Are there compressed writes, of this node or what it is a filter of? Inside a
 * gate or the graph mutex */
bool bdrv_can_compress(BlockDriverState *bs);
/* Exact bytes, at most BDRV_MAX_LENGTH, or -errno */
int64_t bdrv_getlength(BlockDriverState *bs);
/*
 * Make the disk of a node longer or shorter; what is new reads as zeroes. Users
 * that do not share BLK_PERM_RESIZE are in the way, and requests of others that
 * do not end in 10 s: 0, or -errno and @errp, and then nothing has changed.
 * Graph mutex held; drains by itself.
 */
int bdrv_resize(BlockDriverState *bs, int64_t length, GError **errp);
/* The node below a format or filter, referenced; or NULL. Any thread. */
BlockDriverState *bdrv_get_file(BlockDriverState *bs);
/* Its backing file, the same way */
BlockDriverState *bdrv_get_backing(BlockDriverState *bs);

/*
 * How bdrv_unref_later() gets something done on the management thread with the
 * graph mutex held: management_queue(), set once at start-up. Programs without
 * a management thread set nothing; then it is done at once.
 */
void bdrv_set_management_queue(void (*queue)(void (*func)(void *opaque),
                                             void *opaque));

/* All nodes in order of creation, each with a reference. Any thread. */
GPtrArray *bdrv_all_nodes(void);

/*
 * Drain: no request is inside any gate above @bs between begin and end, and
 * none enters. Nests. The graph mutex is held from begin to end, and not by a
 * thread that is inside a gate. A BlockBackend that is attached above a drained
 * node is drained with it.
 */
void bdrv_drained_begin(BlockDriverState *bs);
/*
 * The same, but not longer than until @deadline_us (monotonic microseconds):
 * false, and nothing is drained, if some request did not end.
 */
bool bdrv_try_drained_begin(BlockDriverState *bs, int64_t deadline_us);
void bdrv_drained_end(BlockDriverState *bs);

/*
 * Put @filter (opened without a child) between @bs and all its parents but
 * those that belong to jobs, and attach @bs below it, as its child "file"; and
 * the reverse, where all parents follow. Permissions are checked first, and on
 * failure nothing has changed. Graph mutex held; drains by itself.
 */
bool bdrv_insert_filter(BlockDriverState *filter, BlockDriverState *bs,
                        GError **errp);
bool bdrv_remove_filter(BlockDriverState *filter, GError **errp);
/*
 * blockdev-snapshot: @bs becomes the backing file of @overlay, and whoever used
 * @bs uses @overlay from now on, where all is written that is new. @overlay is of a
 * format that can have a backing file, has none, and nobody uses it; no job uses
 * @bs, which is flushed. Graph mutex held, and the caller has drained @bs from before
 * this until after commit or abort, one of which must follow. They cannot fail:
 * until then @bs keeps what it took for its users. NULL and @errp: nothing has
 * changed.
 */
typedef struct BdrvSnapshot BdrvSnapshot;
BdrvSnapshot *bdrv_snapshot_prepare(BlockDriverState *bs,
                                    BlockDriverState *overlay, GError **errp);
void bdrv_snapshot_commit(BdrvSnapshot *s);
/* All is as it was before. */
void bdrv_snapshot_abort(BdrvSnapshot *s);
/*
 * All parents of @from that may follow (not jobs, not what @to itself stands
 * on) use @to from now on; permissions are checked first, and on failure
 * nothing has changed. Graph mutex held, @from drained by the caller. Requests
 * go on at @to when this returns, unless that is drained, too.
 */
bool bdrv_replace_node(BlockDriverState *from, BlockDriverState *to,
                       GError **errp);
/*
 * A node that no blockdev-add made (filters): NULL name: generated. Passes
 * discards on. The caller owns the reference. Graph mutex held.
 */
BlockDriverState *bdrv_new_internal(const BlockDriver *drv,
                                    const char *node_name, GError **errp);

/*
 * At exit: flush all nodes that can be written to and stand on no others, or are of
 * formats with tables of their own, each on a thread of its own. False if some flush has not ended at @deadline_us
 * (monotonic microseconds). @problems gets a sentence (a string to be freed) for
 * each of those, and for each that has failed. Any thread, no lock needed.
 */
bool bdrv_flush_all(int64_t deadline_us, GPtrArray *problems);
/*
 * At exit: flush and close everything. All users gone; takes the graph mutex.
 */
void bdrv_close_all(void);

/* ---- users -------------------------------------------------------------- */

/*
 * Who is asking, for messages: "export 'e0'", "job 'm0'". As long as a job is
 * attached, nobody may write to the nodes below its node but through that one.
 */
BlockBackend *blk_new(const char *user, bool is_job, uint64_t perm,
                      uint64_t shared_perm);
/*
 * The job of @blk itself writes below its node, to what that stands on (by backing
 * links, or as a filter), and knows what it does. Before blk_attach()
 */
void blk_set_writes_below(BlockBackend *blk);
/*
 * Graph mutex held. Takes a reference of @bs; fails on permission conflicts.
 * Requests of a BlockBackend without a node return -ENOMEDIUM.
 */
bool blk_attach(BlockBackend *blk, BlockDriverState *bs, GError **errp);
void blk_detach(BlockBackend *blk);
/* Graph mutex held. On failure nothing has changed. */
bool blk_set_perm(BlockBackend *blk, uint64_t perm, uint64_t shared_perm,
                  GError **errp);
/*
 * Detaches if necessary, then frees. Graph mutex held. Nobody sends requests any
 * more.
 */
void blk_free(BlockBackend *blk);
/*
 * The node below, referenced, or NULL: it may change at any time but inside a
 * drain. Any thread; give it back with bdrv_unref_later().
 */
BlockDriverState *blk_get_bs(BlockBackend *blk);
/*
 * Requests that wait at the gate or for a range give up with -ECANCELED from
 * now on. For a user that is going away.
 */
void blk_cancel_waits(BlockBackend *blk);

/*
 * Requests; any thread. They need the permission they make use of (-EPERM).
 * [@offset, @offset + @bytes) must lie within the disk (-EIO
 * otherwise; -EINVAL if negative); @bytes at most BDRV_REQUEST_MAX_BYTES
 * except for status, discard and write zeroes, which are split.
 */
int blk_pread(BlockBackend *blk, int64_t offset, int64_t bytes, void *buf,
              int flags);
int blk_pwrite(BlockBackend *blk, int64_t offset, int64_t bytes,
               const void *buf, int flags);
int blk_preadv(BlockBackend *blk, int64_t offset, int64_t bytes,
               const struct iovec *iov, int niov, int flags);
int blk_pwritev(BlockBackend *blk, int64_t offset, int64_t bytes,
                const struct iovec *iov, int niov, int flags);
int blk_pwrite_zeroes(BlockBackend *blk, int64_t offset, int64_t bytes,
                      int flags);
int blk_pdiscard(BlockBackend *blk, int64_t offset, int64_t bytes);
int blk_flush(BlockBackend *blk);
/*
 * An operation of several steps as one request: from enter to leave this thread
 * is inside the gate, so that the node below stays as it is, and sends its
 * requests to that by the functions of block-int.h. 0, or -ECANCELED or
 * -ENOMEDIUM. Not from within another request.
 */
int blk_enter(BlockBackend *blk);
void blk_leave(BlockBackend *blk);
int64_t blk_getlength(BlockBackend *blk);
bool blk_is_read_only(BlockBackend *blk);
/* The alignment below which requests are bounced, and the best one; bytes */
uint32_t blk_request_alignment(BlockBackend *blk);
uint32_t blk_opt_alignment(BlockBackend *blk);
/* Of buffers, so that they need not be copied; bytes */
uint32_t blk_mem_alignment(BlockBackend *blk);

/*
 * Status at @offset, of the whole backing chain: BDRV_BLOCK_ flags or -errno; *@pnum (> 0 unless at the end
 * of the disk) tells how far it holds, at most @bytes.
 */
int blk_block_status(BlockBackend *blk, int64_t offset, int64_t bytes,
                     unsigned want, int64_t *pnum);
/*
 * The same with where it lies in the image file (see OFFSET_VALID), and how deep in
 * the chain: 1 is the topmost node, 2 its backing node; 0: nobody has it.
 */
int blk_block_status_map(BlockBackend *blk, int64_t offset, int64_t bytes,
                         unsigned want, int64_t *pnum, int64_t *map,
                         int *depth);
/* That depth alone, or -errno */
int blk_allocation_depth(BlockBackend *blk, int64_t offset, int64_t bytes,
                         int64_t *pnum);

/* Counters of one user's requests, as in BlockDeviceStats; any thread */
typedef struct BlockStats {
    uint64_t rd_bytes, wr_bytes, unmap_bytes, zero_bytes;
    uint64_t rd_operations, wr_operations, flush_operations, unmap_operations,
        zero_operations;
    uint64_t failed_rd_operations, failed_wr_operations,
        failed_flush_operations, failed_unmap_operations,
        failed_zero_operations;
    uint64_t rd_total_time_ns, wr_total_time_ns, flush_total_time_ns,
        unmap_total_time_ns, zero_total_time_ns;
    uint64_t wr_highest_offset;
} BlockStats;

void blk_get_stats(BlockBackend *blk, BlockStats *stats);
/*
 * Of a node: what the BlockBackends that are attached to it now have counted,
 * and the node's own wr_highest_offset. Any thread.
 */
void bdrv_get_stats(BlockDriverState *bs, BlockStats *stats);
/* Is any BlockBackend attached to this node? Any thread. */
bool bdrv_has_users(BlockDriverState *bs);

#endif
