/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Several actions, all of them or none */
#include "block/transaction.h"

#include "util/error.h"

/* A request that hangs shall not hold up the management thread for good. */
int64_t transaction_drain_us = 10 * G_USEC_PER_SEC;

typedef struct Transaction {
    bool alone;  /* there is one action */
    JobTxn *txn; /* NULL: not grouped */
    int64_t deadline_us;
    GPtrArray *drained; /* nodes, each with a reference and a drain */
} Transaction;

struct TransactionAction {
    const TransactionActionDriver *drv;
    Transaction *tran;
    void *opaque;
};

/* ---- for actions -------------------------------------------------------- */

void *transaction_opaque(TransactionAction *a)
{
    return a->opaque;
}

JobTxn *transaction_job_txn(TransactionAction *a)
{
    return a->tran->txn;
}

bool transaction_alone(TransactionAction *a)
{
    return a->tran->alone;
}

bool transaction_drain(TransactionAction *a, BlockDriverState *bs,
                       GError **errp)
{
    if (!bdrv_try_drained_begin(bs, a->tran->deadline_us)) {
        error_setg(errp, "Node '%s' is busy: a request does not end",
                   bdrv_node_name(bs));
        return false;
    }
    g_ptr_array_add(a->tran->drained, bdrv_ref(bs));
    return true;
}

/* ---- the transaction ---------------------------------------------------- */

static bool prepare(TransactionAction *a, JsonObject *data, GError **errp)
{
    if (a->tran->txn && !a->drv->grouped) {
        error_setg(errp,
                   "Action '%s' does not support Transaction property "
                   "completion-mode = grouped",
                   a->drv->type);
        return false;
    }
    a->opaque = g_malloc0(MAX(a->drv->instance_size, 1));
    return a->drv->prepare(a, data, errp);
}

/* The first @n; of these the first @prepared were, and the last may not have been. */
static void finish(TransactionAction *actions, size_t n, size_t prepared)
{
    size_t i;

    if (prepared == n) {
        for (i = 0; i < n; i++) {
            if (actions[i].drv->commit) {
                actions[i].drv->commit(&actions[i]);
            }
        }
    } else {
        for (i = prepared; i-- > 0;) {
            if (actions[i].drv->abort) {
                actions[i].drv->abort(&actions[i]);
            }
        }
    }
    for (i = 0; i < n; i++) {
        if (actions[i].opaque && actions[i].drv->clean) {
            actions[i].drv->clean(&actions[i]);
        }
        g_free(actions[i].opaque);
    }
}

static void undrain(GPtrArray *nodes)
{
    guint i;

    for (i = nodes->len; i-- > 0;) {
        bdrv_drained_end(nodes->pdata[i]);
        bdrv_unref(nodes->pdata[i]);
    }
}

bool transaction_run(const TransactionStep *steps, size_t n, bool grouped,
                     GError **errp)
{
    g_autofree TransactionAction *actions = g_new0(TransactionAction, n);
    g_autoptr(GPtrArray) drained = g_ptr_array_new();
    Transaction tran = {
        .alone = n == 1,
        .txn = grouped ? job_txn_new() : NULL,
        .deadline_us = g_get_monotonic_time() + transaction_drain_us,
        .drained = drained,
    };
    size_t prepared, begun;
    bool ok = true;

    for (prepared = begun = 0; ok && begun < n; begun++) {
        actions[begun].drv = steps[begun].drv;
        actions[begun].tran = &tran;
        ok = prepare(&actions[begun], steps[begun].data, errp);
        prepared += ok;
    }
    finish(actions, begun, prepared);
    undrain(drained);
    job_txn_unref(tran.txn);
    return ok;
}

bool transaction_run_one(const TransactionActionDriver *drv, JsonObject *args,
                         GError **errp)
{
    const TransactionStep step = { drv, args };

    return transaction_run(&step, 1, false, errp);
}
