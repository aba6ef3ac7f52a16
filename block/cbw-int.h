/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the filter copy-before-write share */
#ifndef BLOCK_CBW_INT_H
#define BLOCK_CBW_INT_H

#include "block/copy-before-write.h"
#include "block/other-threads.h"

typedef struct CbwSnapshot CbwSnapshot;

typedef struct CopyBeforeWrite {
    BlockCopy *bc;
    BdrvChild *target;
    CbwFailed *failed; /* of a job; or NULL */
    void *opaque;

    /* Of a node that blockdev-add made; otherwise NULL and 0 */
    CbwSnapshot *snapshot;
    bool
        break_snapshot; /* by a copy that fails; else it is the write that does */
    int64_t timeout_us;    /* 0: none */
    OtherThreads *threads; /* that copy where there is a timeout */
} CopyBeforeWrite;

/* ---- cbw-options.c: for blockdev-add --------------------------------------- */

extern const SchemaType cbw_options_type;
/* @s is that of @bs. 0, or -errno and @errp; what was made is for close. */
int cbw_open_options(BlockDriverState *bs, CopyBeforeWrite *s,
                     JsonObject *options, GError **errp);

/* ---- cbw-snapshot.c: what the disk was ------------------------------------- */

/* All that is to be copied now, and nothing else, can be read. */
CbwSnapshot *cbw_snapshot_new(BlockCopy *bc);
void cbw_snapshot_free(CbwSnapshot *snap); /* NULL is fine. */
/* For writers: wait for those who read there in the file. What is to be read in the
 * target by those who come later has been copied. 0 or -ECANCELED */
int cbw_snapshot_wait_readers(CbwSnapshot *snap, int64_t offset, int64_t bytes);
/* Something was not copied, and is going to be overwritten: nobody can read any
 * more. */
void cbw_snapshot_break(CbwSnapshot *snap);
bool cbw_snapshot_is_broken(CbwSnapshot *snap);

#endif
