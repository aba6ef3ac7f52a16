/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Status cache: what probes are told to have seen (rules 3 and 4).
 */
#include "status-cache-int.h"

void status_cache_probe_begin(StatusCache *c, StatusOp *op, int64_t offset,
                              int64_t bytes)
{
    StatusOp *w;
    CACHE_SECTION(c);

    status_op_begin(c, op, OP_PROBE, offset, bytes);
    for (w = c->writes; w; w = w->next) {
        status_op_taint(op, w->start, w->end);
    }
}

/* Store what a probe saw in [@start, @end): rule 3. */
static void fill(StatusCache *c, StatusOp *op, int64_t start, int64_t end,
                 BlockState state)
{
    int64_t clean_end, run_end;

    for (; start < end; start = clean_end) {
        if (status_op_tainted(op, start, end, &clean_end)) {
            continue;
        }
        while (start < clean_end) {
            if (status_map_state(c, start, clean_end, &run_end) ==
                BLOCK_STATE_UNKNOWN) {
                if (state == BLOCK_STATE_DATA) {
                    status_map_mark_data(c, start, run_end);
                } else if (c->mode == STATUS_CACHE_ON) {
                    status_map_mark_zero(c, start, run_end);
                }
            }
            start = run_end;
        }
    }
}

/*
 * What the asker may be told of block @block, of which the probe says @state:
 * what is known by now is newer, and of a tainted zero nobody can be sure.
 */
static BlockState told(StatusCache *c, StatusOp *op, int64_t block, int64_t end,
                       BlockState state, int64_t *run_end)
{
    BlockState known = status_map_state(c, block, end, run_end);

    if (known != BLOCK_STATE_UNKNOWN) {
        return known;
    }
    if (status_op_tainted(op, block, *run_end, run_end)) {
        return BLOCK_STATE_DATA;
    }
    return state;
}

BlockState status_cache_probe_fill(StatusCache *c, StatusOp *op, int64_t offset,
                                   int64_t bytes, BlockState state,
                                   int64_t *pnum)
{
    int64_t start, end, last, run_end;
    BlockState answer, next;
    CACHE_SECTION(c);

    g_assert(state != BLOCK_STATE_UNKNOWN && bytes > 0);
    if (offset >= c->length) {
        *pnum = bytes;
        return BLOCK_STATE_DATA;
    }
    bytes = MIN(bytes, c->length - offset);
    if (state == BLOCK_STATE_DATA) {
        start = block_floor(c, offset);
        end = block_ceil(c, offset + bytes);
    } else {
        round_inward(c, offset, bytes, &start, &end);
    }
    fill(c, op, MAX(start, op->start), MIN(end, op->end), state);

    start = block_floor(c, offset);
    last = block_ceil(c, offset + bytes);
    answer = told(c, op, start, last, state, &run_end);
    while (run_end < last) {
        start = run_end;
        next = told(c, op, start, last, state, &run_end);
        if (next != answer) {
            run_end = start;
            break;
        }
    }
    *pnum = run_bytes(c, offset, offset + bytes, run_end);
    return answer;
}

void status_cache_probe_end(StatusCache *c, StatusOp *op)
{
    CACHE_SECTION(c);

    status_op_end(c, op);
    if (op->n_taints) {
        c->stats.tainted_probes++;
    }
}

void status_cache_set_looked(StatusCache *c, StatusOp *op, int64_t offset,
                             int64_t bytes)
{
    int64_t start, end, run_end;
    CACHE_SECTION(c);

    if (c->mode != STATUS_CACHE_ON || offset >= c->length) {
        return;
    }
    round_inward(c, offset, MIN(bytes, c->length - offset), &start, &end);
    start = MAX(start, op->start);
    end = MIN(end, op->end);
    for (; start < end; start = run_end) {
        /* as rule 3: a write since the look has made its blocks known */
        if (!status_op_tainted(op, start, end, &run_end) &&
            status_map_state(c, start, run_end, &run_end) ==
                BLOCK_STATE_UNKNOWN) {
            sparse_bitmap_set(c->looked, start, run_end - start);
        }
    }
}

bool status_cache_has_looked(StatusCache *c, int64_t offset, int64_t bytes,
                             int64_t *pnum)
{
    int64_t end, run_end;
    bool looked;
    MUTEX_GUARD_SHORT(&c->lock);

    end = MIN(offset + bytes, c->length);
    if (offset >= end) {
        *pnum = bytes;
        return false;
    }
    run_end = sparse_bitmap_next_change(c->looked, block_floor(c, offset),
                                        block_ceil(c, end), &looked);
    *pnum = run_bytes(c, offset, end, run_end);
    return looked;
}
