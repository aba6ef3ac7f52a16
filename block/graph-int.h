/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files about nodes and their edges share, and nobody else needs to know.
 */
#ifndef BLOCK_GRAPH_INT_H
#define BLOCK_GRAPH_INT_H

#include "block/block-int.h"
#include "block/block-stats.h"
#include "block/range-lock.h"

/* Does this thread hold the graph mutex? */
bool bdrv_graph_locked(void);

/*
 * The short graph lock: many readers (who may take it again), or one writer.
 * What it protects is written by holders of the graph mutex only, so that these
 * may read without it.
 */
void graph_short_rdlock(void);
void graph_short_rdunlock(void);
void graph_short_wrlock(void);
void graph_short_wrunlock(void);

/* Short graph lock held, or inside a gate, or with the graph mutex held */
int64_t bdrv_driver_getlength(BlockDriverState *bs);

/* ---- node-list.c -------------------------------------------------------- */

/* Is @name well-formed, and nobody's? */
bool node_check_name(const char *name, GError **errp);
/* Short graph lock held for writing */
void node_list_add(BlockDriverState *bs);
/* Those that are being opened or closed included. Graph mutex held */
guint node_list_count(void);
void node_list_remove(BlockDriverState *bs);
/* At exit: of those that are still there */
void node_list_warn(void);

/* ---- block.c ------------------------------------------------------------ */

/* @bs->limits are new: under the short graph lock. */
void bdrv_need_range_lock(BlockDriverState *bs);

/* ---- graph.c ------------------------------------------------------------ */

/* An edge of @parent or of @blk, to nowhere yet */
BdrvChild *bdrv_child_new(BlockDriverState *parent, BlockBackend *blk,
                          const char *name, uint64_t perm, uint64_t shared);
/* Enter it with its parent node, which then has it; and the reverse, where it leads
 * nowhere, and is freed. Graph mutex held, and the parent is drained, or new */
void bdrv_child_link(BdrvChild *child);
void bdrv_child_unlink(BdrvChild *child);
/* Lead it nowhere again. Nothing of its parent is in flight. */
void bdrv_child_detach(BdrvChild *child);
/* @child leads nowhere. */
void bdrv_child_free(BdrvChild *child);

/*
 * A change of the graph that happens as a whole or not at all: edges are moved
 * and their permissions changed, then graph_tran_check() asks all nodes
 * concerned, and then one of graph_tran_commit() and graph_tran_abort() ends
 * it. Graph mutex held throughout.
 */
typedef struct GraphTran GraphTran;

GraphTran *graph_tran_new(void);
/* @bs may be NULL. Takes a reference of it, and drops that of the old one. */
void graph_tran_move(GraphTran *tran, BdrvChild *child, BlockDriverState *bs);
void graph_tran_set_child_perm(GraphTran *tran, BdrvChild *child, uint64_t perm,
                               uint64_t shared);
/* Ask about @nodes and all below them; once in a transaction. */
bool graph_tran_check(GraphTran *tran, GPtrArray *nodes, GError **errp);
void graph_tran_commit(GraphTran *tran);
void graph_tran_abort(GraphTran *tran);
/* Commit or abort. */
bool graph_tran_finish(GraphTran *tran, bool ok);

bool bdrv_is_at_or_below(BlockDriverState *bs, BlockDriverState *top);
/*
 * As bdrv_insert_filter(): @bs becomes the child "backing" of @overlay, which has
 * none, and does not stand on @bs, nor @bs on it. @moved gets the edges that were
 * moved to @overlay. And the reverse, which cannot fail if @bs has kept its
 * permissions: @moved is moved back.
 */
bool bdrv_put_overlay(BlockDriverState *overlay, BlockDriverState *bs,
                      GPtrArray *moved, GError **errp);
void bdrv_take_overlay_off(BlockDriverState *overlay, GPtrArray *moved);
/*
 * Until drop the driver of @bs (and of what is below) does not give up what it has
 * taken for the users of @bs, whoever leaves: so they can come back. It stands in no
 * other user's way here. Graph mutex held; does not nest.
 */
void bdrv_keep_perms(BlockDriverState *bs);
void bdrv_drop_kept_perms(BlockDriverState *bs);

/* ---- node-options.c ----------------------------------------------------- */

/* False and @errp if those of @options that all drivers have do not fit each
 * other. */
bool node_parse_options(NodeOptions *o, JsonObject *options, GError **errp);
/* Of a node that nobody knows yet; or of one that is drained, under the short
 * graph lock */
void node_set_options(BlockDriverState *bs, const NodeOptions *o);
/*
 * The options of the inline child @name: as @given, and what that leaves open as in
 * its parent's options; but "backing" is read-only then. (transfer full)
 */
JsonObject *node_child_options(JsonObject *parent, const char *name,
                               JsonObject *given);

/* ---- reopen.c, reopen-read-only.c --------------------------------------- */

/* Where a child leads as the user knows it: without the filters of jobs */
BlockDriverState *bdrv_visible_child(const BdrvChild *c);
/* In @options the child @name is to be the node that it is: what was said when its
 * parent was made may be out of date. NULL @c: there is none. */
void bdrv_set_child_name(JsonObject *options, const char *name,
                         const BdrvChild *c);
/* As bdrv_reopen() with all other options and children as they are */
bool bdrv_reopen_set_read_only(BlockDriverState *bs, bool read_only,
                               GError **errp);

/* ---- permissions.c ------------------------------------------------------ */

typedef struct PermEntry {
    BlockDriverState *bs;
    uint64_t perm, shared;
} PermEntry;

/*
 * Work out what is used and shared of @nodes and of all that is below them, and
 * ask the drivers. Nodes for which something changes are entered in @checked. With
 * @loosen, something is given up: then no driver's answer stands in the way.
 */
bool bdrv_check_perms(GraphTran *tran, GPtrArray *nodes, bool loosen,
                      GArray *checked, GError **errp);

/* "export 'e0'", "node 'raw0'"; to be freed */
char *bdrv_child_user(const BdrvChild *child);
/* The node whose backing file @bs is, borrowed; or NULL */
BlockDriverState *bdrv_find_overlay(const BlockDriverState *bs);
/* The job that uses @bs or something that stands on it, borrowed; or NULL */
const BdrvChild *bdrv_find_job(const BlockDriverState *bs);

/* ---- io.c --------------------------------------------------------------- */

/* For submit.c: may the driver get that as it is? */
bool bdrv_fits_driver(BlockDriverState *bs, int64_t offset,
                      const struct iovec *iov);
/*
 * The frame of a write that it may get as it is, within the disk. False: not so, or
 * somebody holds the range; nothing has happened. end: the driver has settled its
 * status cache; @touched: something was asked of the disk, successfully or not.
 */
bool bdrv_try_write_begin(BlockDriverState *bs, RangeHold *hold, int64_t offset,
                          const struct iovec *iov);
void bdrv_write_end(BlockDriverState *bs, RangeHold *hold, int64_t offset,
                    int64_t bytes, bool touched);

/* ---- block-backend.c ---------------------------------------------------- */

void blk_gate_close(BlockBackend *blk);
/* False: the deadline passed, and some request is still inside. */
bool blk_gate_wait(BlockBackend *blk, int64_t deadline_us);
void blk_gate_open(BlockBackend *blk);
bool blk_is_job(BlockBackend *blk);
bool blk_writes_below(BlockBackend *blk);
const char *blk_user(BlockBackend *blk);
/*
 * For submit.c: inside the gate, without having waited, and @kind may be done in that
 * range. The node to ask; or NULL, and it is outside.
 */
BlockDriverState *blk_try_enter(BlockBackend *blk, RequestKind kind,
                                int64_t offset, int64_t bytes);
void blk_leave_entered(BlockBackend *blk);
/* A request begins or ends: when? In nanoseconds (guest-use.h) */
int64_t blk_note_use(const BlockBackend *blk);
/* A request that began at @start_ns has ended. */
void blk_account(BlockBackend *blk, RequestKind kind, int64_t offset,
                 int64_t bytes, int64_t start_ns, int ret);

#endif
