/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: what the files of the check share.
 *
 * The image may say anything. Memory is bounded by the length of its file: what
 * lies beyond is reported and not looked at. So is time: L1 tables of an image in
 * order do not overlap, and none has an L2 table twice, so where that happens
 * the check goes on only so far.
 */
#ifndef BLOCK_QCOW2_CHECK_H
#define BLOCK_QCOW2_CHECK_H

#include "block/qcow2-refcount.h"

/* Of the refcount table's entries */
#define QCOW2_REFTABLE_RESERVED UINT64_C(0x1ff)

typedef struct Qcow2Check {
    Qcow2State *s;
    BdrvCheckResult *res;
    unsigned fix; /* what to mend on the way */
    uint64_t file_bytes;
    uint64_t clusters; /* of the file; the last one may reach beyond its end */

    /* What was counted, as in refcount blocks, whole ones */
    uint8_t *refs;
    uint64_t blocks;

    uint8_t *seen;       /* bits: L2 tables of the L1 table that is looked at */
    uint64_t repeats;    /* of such: looked at once more */
    uint64_t l1_entries; /* looked at so far */

    bool rebuild;     /* single refcounts cannot be mended */
    bool unsafe;      /* not all references are known: nothing may be freed */
    uint64_t highest; /* the last cluster in use */
} Qcow2Check;

/* A line for whoever looks */
void qcow2_check_report(Qcow2Check *c, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

/* ---- qcow2-check-count.c ---- */

/*
 * Count all references anew into @c->refs, and report what makes no sense on the
 * way. Without @refcounts: as if there were no refcount table and no blocks.
 */
int qcow2_check_count(Qcow2Check *c, bool refcounts);
/* Have room for that many clusters: 0 or -ENOMEM */
int qcow2_check_reserve(Qcow2Check *c, uint64_t clusters);
/* The tables of an L1 table follow; is that one to be looked at? */
void qcow2_check_begin_l1(Qcow2Check *c);
bool qcow2_check_enter_l2(Qcow2Check *c, uint64_t offset);

/* ---- qcow2-check-mend.c ---- */

/* Compare refcounts with what was counted; mend what @fix says. */
void qcow2_check_compare(Qcow2Check *c, unsigned fix);
/* New refcount blocks and a new refcount table */
int qcow2_check_rebuild(Qcow2Check *c);
/* QCOW2_COPIED is what the refcount in the image says. */
void qcow2_check_copied(Qcow2Check *c, bool mend);

#endif
