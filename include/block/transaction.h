/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Several actions at once, at one moment of all the disks they are about, or none
 * of them.
 *
 * All actions are prepared in their order, then all are committed, and then cleaned,
 * in the same order. If one cannot be prepared, those before it are aborted, in the
 * opposite order, and cleaned. prepare() drains the node it is about until the end,
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
    bool grouped; /* makes jobs: accepts the completion-mode "grouped" */
    /*
     * Management thread, graph mutex held. All that can fail. @data is checked
     * and stays. On failure it has undone what it did, but clean() is called.
     */
    bool (*prepare)(TransactionAction *a, JsonObject *data, GError **errp);
    /* Either may be NULL. */
    void (*commit)(TransactionAction *a);
    void (*abort)(TransactionAction *a);
    /* Last, if prepare() was called, whatever it returned; may be NULL */
    void (*clean)(TransactionAction *a);
} TransactionActionDriver;

/* For actions */
void *transaction_opaque(TransactionAction *a);
/* Is it the only one, so that it has no moment in common with others? */
bool transaction_alone(TransactionAction *a);
/* What jobs are to be made with: NULL unless completion-mode is "grouped" */
JobTxn *transaction_job_txn(TransactionAction *a);
/*
 * For prepare(): @bs is drained from now on, until all actions are cleaned. False
 * and @errp if some request does not end in time, which is transaction_drain_us for
 * all actions together.
 */
bool transaction_drain(TransactionAction *a, BlockDriverState *bs,
                       GError **errp);
extern int64_t transaction_drain_us; /* only tests change it */

/* An action and what it is about, as TransactionActionDriver.args says */
typedef struct TransactionStep {
    const TransactionActionDriver *drv;
    JsonObject *data;
} TransactionStep;

/*
 * All of @steps or, with false and @errp, none: then nothing has changed. If
 * @grouped, the jobs they make end together. Management thread, graph mutex held.
 */
bool transaction_run(const TransactionStep *steps, size_t n, bool grouped,
                     GError **errp);
/* One action by itself: what a command does that is an action, too */
bool transaction_run_one(const TransactionActionDriver *drv, JsonObject *args,
                         GError **errp);

#endif
