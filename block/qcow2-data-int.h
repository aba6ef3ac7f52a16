/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: what reads, writes, zero-writes and discards share. Callers hold the
 * range; s->lock is not held but where that is said. 0, or -errno.
 */
#ifndef BLOCK_QCOW2_DATA_INT_H
#define BLOCK_QCOW2_DATA_INT_H

#include "block/qcow2.h"

/* Hold the clusters that [@offset, @offset + @bytes) touches. */
int qcow2_hold(Qcow2State *s, RangeHold *hold, int64_t offset, int64_t bytes,
               bool exclusive);

/* Before anything is changed: may it be, up to @end of the guest's disk? */
int qcow2_may_write(Qcow2State *s, int64_t end);

/*
 * qcow2_lookup(), and whether data may be written to that place: *@own. A shared
 * one is not, nor one behind the end of the file. A machine that stopped can leave
 * those, where stock wrote tables before data, and a write in place would make the
 * file as long as whatever an entry says. *@pnum stays within clusters that begin
 * in the file if *@own. s->lock held
 */
int qcow2_lookup_own(Qcow2State *s, int64_t offset, int64_t bytes,
                     Qcow2ClusterType *type, uint64_t *host, int64_t *pnum,
                     bool *own);

/*
 * What a cluster of that type, and *@host, as qcow2_lookup() told, holds: all of
 * the vector, which lies within what the look-up was about. @flags: of the read
 */
int qcow2_read_old(Qcow2State *s, Qcow2ClusterType type, uint64_t host,
                   int64_t offset, int64_t bytes, const struct iovec *iov,
                   int niov, int flags);
/* Is that nothing but zeroes, as the type alone tells? */
bool qcow2_reads_as_zero(const Qcow2State *s, Qcow2ClusterType type);

/* Part of a vector */
typedef struct Qcow2Slice {
    const struct iovec *iov;
    int niov;
    struct iovec *part;     /* room for niov + 2 */
    struct iovec local[18]; /* for vectors of the usual length */
} Qcow2Slice;

void qcow2_slice_init(Qcow2Slice *slice, const struct iovec *iov, int niov);
void qcow2_slice_free(Qcow2Slice *slice);

/* ---- qcow2-alloc.c ------------------------------------------------------- */

/* Clusters for a run of the guest's disk, which a write fills but for edges */
typedef struct OldCluster {
    Qcow2ClusterType type;
    uint64_t host; /* as by qcow2_lookup(), for the byte at @offset */
    int64_t offset;
} OldCluster;

typedef struct Qcow2Run {
    int64_t offset, bytes;  /* in the guest's disk, whole clusters */
    int64_t from, to;       /* what is written of it */
    uint64_t host;          /* where @offset is to be */
    bool taken;             /* its clusters are new; else they had them */
    bool blank;             /* the file holds nothing but zeroes there */
    OldCluster first, last; /* what they held before */
} Qcow2Run;

/*
 * The clusters for a write of [@from, @end), as far as one run goes; or it is 0
 * bytes long, as there is something that can be written in place. Then either
 * the L2 entries are made to lead there, or (nothing was written, or it failed)
 * they go back. begin: s->lock held, the others: not.
 */
int qcow2_begin_run(Qcow2State *s, Qcow2Run *run, int64_t from, int64_t end);
int qcow2_link_run(Qcow2State *s, const Qcow2Run *run);
void qcow2_abandon_run(Qcow2State *s, const Qcow2Run *run);

/*
 * Write to the guest's disk, with the range held exclusively: @slice's vector is
 * what [@offset, @offset + @bytes) is to hold, from byte @skip on.
 */
int qcow2_write_any(Qcow2State *s, int64_t offset, int64_t bytes,
                    Qcow2Slice *slice, int64_t skip);
/*
 * Where the clusters are the image's own, from @offset on, as far as they are: how
 * many bytes of @bytes were written, or -errno. The range may be held shared.
 */
int64_t qcow2_write_own(Qcow2State *s, int64_t offset, int64_t bytes,
                        Qcow2Slice *slice, int64_t skip);

/* The place that an L2 entry told, which was overwritten in its table, is given up.
 * s->lock held */
void qcow2_give_up(Qcow2State *s, uint64_t l2_entry);

#endif
