/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * transaction: several actions at once, at one moment of all the disks they are
 * about, or none of them.
 *
 * All actions are prepared in their order, then all are committed, and cleaned, in the same order; if one
 * cannot be prepared, those before it are aborted, in the opposite order, and cleaned. prepare() drains the node it is about until clean(),
 * so that no guest's request is under way from the first to the last.
 */
#ifndef BLOCK_TRANSACTION_H
#define BLOCK_TRANSACTION_H

#include "block/job.h"
#include "util/schema.h"

typedef struct TransactionAction TransactionAction;

typedef struct TransactionActionDriver {
    const char *type;       /* "block-dirty-bitmap-add"; NULL ends a table */
    const SchemaType *args; /* of its "data": an OBJECT, that of the command */
    size_t instance_size;   /* of the action's own state, zeroed */
    /*
     * Management thread, graph mutex held. All that can fail. @data is checked
     * and stays. On failure it has undone what it did, but clean() is called.
     */
    bool (*prepare)(TransactionAction *a, JsonObject *data, GError **errp);
    /* Either may be NULL. */
    void (*commit)(TransactionAction *a);
    void (*abort)(TransactionAction *a);
    /* Last, whether it was prepared or not; may be NULL */
    void (*clean)(TransactionAction *a);
} TransactionActionDriver;

/* For actions */
void *transaction_opaque(TransactionAction *a);
/* What jobs are to be made with: NULL unless completion-mode is "grouped" */
JobTxn *transaction_job_txn(TransactionAction *a);
/*
 * For prepare(): drain @bs until the action is cleaned, by the transaction itself. False and @errp if some
 * request does not end in time, for all actions together.
 */
bool transaction_drain(TransactionAction *a, BlockDriverState *bs,
                       GError **errp);

/*
 * One action by itself: what a command does that is an action, too. Management
 * thread, graph mutex held. False and @errp: nothing has changed.
 */
bool transaction_run_one(const TransactionActionDriver *drv, JsonObject *args,
                         GError **errp);

#endif
