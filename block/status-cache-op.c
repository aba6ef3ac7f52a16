/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Status cache: the operations in flight, and what they know of each other.
 *
 * Each is on a list of its kind from begin to end. One that overlaps another,
 * as the rules in status-cache.c have it, taints that: names a range of blocks
 * of which the other proves nothing. A few such ranges are kept, more merged.
 */
#include "status-cache-int.h"
#include "util/trace.h"

static const char *const op_names[] = {
    [OP_NONE] = "none", [OP_WRITE] = "write",   [OP_DISCARD] = "discard",
    [OP_ZERO] = "zero", [OP_PUNCH] = "punch",   [OP_PROBE] = "probe",
    [OP_READ] = "read", [OP_VERIFY] = "verify",
};

void status_op_taint(StatusOp *op, int64_t start, int64_t end)
{
    StatusTaint *last;

    start = MAX(start, op->start);
    end = MIN(end, op->end);
    if (start >= end) {
        return;
    }
    trace_status_taint(op_names[op->kind], op->offset, op->bytes);
    if (op->n_taints < STATUS_OP_TAINTS) {
        op->taints[op->n_taints++] = (StatusTaint){ start, end };
        return;
    }
    last = &op->taints[STATUS_OP_TAINTS - 1];
    last->start = MIN(last->start, start);
    last->end = MAX(last->end, end);
}

bool status_op_tainted(const StatusOp *op, int64_t start, int64_t end,
                       int64_t *run_end)
{
    int64_t clean_end = end;
    int i;

    for (i = 0; i < op->n_taints; i++) {
        const StatusTaint *t = &op->taints[i];

        if (t->start <= start && start < t->end) {
            *run_end = MIN(t->end, end);
            return true;
        }
        if (t->start > start) {
            clean_end = MIN(clean_end, t->start);
        }
    }
    *run_end = clean_end;
    return false;
}

void status_op_taint_list(StatusOp *list, int64_t start, int64_t end)
{
    StatusOp *op;

    for (op = list; op; op = op->next) {
        if (status_op_overlaps(op, start, end)) {
            status_op_taint(op, start, end);
        }
    }
}

void status_op_taint_lookers(StatusCache *c, int64_t start, int64_t end)
{
    status_op_taint_list(c->probes, start, end);
    status_op_taint_list(c->reads, start, end);
    status_op_taint_list(c->verifies, start, end);
}

static StatusOp **op_list(StatusCache *c, int kind)
{
    switch (kind) {
    case OP_WRITE:
    case OP_DISCARD:
        return &c->writes;
    case OP_ZERO:
    case OP_PUNCH:
        return &c->zeroes;
    case OP_PROBE:
        return &c->probes;
    case OP_READ:
        return &c->reads;
    case OP_VERIFY:
        return &c->verifies;
    default:
        g_assert_not_reached();
    }
}

void status_op_begin(StatusCache *c, StatusOp *op, int kind, int64_t offset,
                     int64_t bytes)
{
    StatusOp **list = op_list(c, kind);

    g_assert(offset >= 0 && bytes >= 0 && offset <= INT64_MAX - bytes);
    if (kind < OP_PROBE && offset + bytes > c->length) {
        status_map_set_length(c, offset + bytes);
    }
    op->kind = kind;
    op->offset = offset;
    op->bytes = bytes;
    op->start = block_floor(c, offset);
    op->end = bytes ? block_ceil(c, offset + bytes) : op->start;
    op->n_taints = 0;
    op->prev = NULL;
    op->next = *list;
    if (op->next) {
        op->next->prev = op;
    }
    *list = op;
}

void status_op_end(StatusCache *c, StatusOp *op)
{
    StatusOp **list = op_list(c, op->kind);

    if (op->prev) {
        op->prev->next = op->next;
    } else {
        g_assert(*list == op);
        *list = op->next;
    }
    if (op->next) {
        op->next->prev = op->prev;
    }
    op->kind = OP_NONE;
}
