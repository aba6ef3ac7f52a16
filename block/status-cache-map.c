/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Status cache: the bitmaps, that is what is known of each block; how it is
 * marked, forgotten, and kept within the disk's size and the memory limit.
 */
#include "status-cache-int.h"
#include "util/trace.h"

/* Zero runs that leaving mode ON forgets one by one; more: everything */
#define MAX_RUNS_FORGOTTEN 4096

/* ---- marking and forgetting --------------------------------------------- */

void status_map_forget(StatusCache *c, int64_t start, int64_t end)
{
    status_op_taint_lookers(c, start, end); /* rule 3 */
    end = MIN(end, c->blocks);
    if (start < end) {
        sparse_bitmap_clear(c->known, start, end - start);
        sparse_bitmap_clear(c->zero, start, end - start);
    }
}

void status_map_forget_looks(StatusCache *c, int64_t start, int64_t end)
{
    end = MIN(end, c->blocks);
    if (start < end) {
        sparse_bitmap_clear(c->looked, start, end - start);
    }
}

void status_map_mark_zero(StatusCache *c, int64_t start, int64_t end)
{
    end = MIN(end, c->blocks);
    if (start >= end) {
        return;
    }
    if (c->mode == STATUS_CACHE_ON) {
        sparse_bitmap_set(c->known, start, end - start);
        sparse_bitmap_set(c->zero, start, end - start);
    } else {
        status_map_forget(c, start, end);
    }
}

void status_map_forget_all(StatusCache *c)
{
    status_op_taint_lookers(c, 0, INT64_MAX);
    sparse_bitmap_clear(c->known, 0, c->blocks);
    sparse_bitmap_clear(c->zero, 0, c->blocks);
    sparse_bitmap_clear(c->looked, 0, c->blocks);
}

void status_map_forget_zeroes(StatusCache *c)
{
    uint64_t start = 0, end;
    int runs;

    status_op_taint_lookers(c, 0, INT64_MAX);
    for (runs = 0; runs < MAX_RUNS_FORGOTTEN; runs++) {
        start = sparse_bitmap_next_set(c->zero, start, c->blocks);
        if (start == (uint64_t)c->blocks) {
            break;
        }
        end = sparse_bitmap_next_clear(c->zero, start, c->blocks);
        sparse_bitmap_clear(c->known, start, end - start);
        start = end;
    }
    if (runs == MAX_RUNS_FORGOTTEN) {
        /* too many to go through under the mutex */
        status_map_forget_all(c);
        return;
    }
    sparse_bitmap_clear(c->zero, 0, c->blocks);
    sparse_bitmap_clear(c->looked, 0, c->blocks);
}

/* ---- memory and size ---------------------------------------------------- */

/*
 * Rule 8: forget what takes memory, part by part, round and round the disk, until
 * the limit is kept, or there is no more than what a uniform disk takes.
 */
static void evict_parts(StatusCache *c)
{
    while (status_map_memory(c) > c->max_memory) {
        uint64_t start = 0, count = 0, zstart, zcount;
        bool found;

        found =
            sparse_bitmap_next_part(c->known, c->evict_hand, &start, &count);
        if (sparse_bitmap_next_part(c->zero, c->evict_hand, &zstart, &zcount) &&
            (!found || zstart < start)) {
            start = zstart;
            count = zcount;
            found = true;
        }
        if (!found) {
            if (c->evict_hand == 0) {
                break;
            }
            c->evict_hand = 0;
            continue;
        }
        trace_status_evict(c, start << c->shift, count << c->shift);
        status_map_forget(c, start, start + count);
        /* a few nodes: their memory has to be seen to come back */
        sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(c->known));
        sparse_bitmap_garbage_free(sparse_bitmap_take_garbage(c->zero));
        c->evict_hand = start + count;
        c->stats.evictions++;
    }
}

/*
 * Page looks go first, for they are only an aid to probes; but nothing
 * goes if it is the garbage that is too much.
 */
void status_map_evict_and_unlock(StatusCache *c)
{
    SparseBitmapGarbage *known = sparse_bitmap_take_garbage(c->known);
    SparseBitmapGarbage *zero = sparse_bitmap_take_garbage(c->zero);
    SparseBitmapGarbage *looked = sparse_bitmap_take_garbage(c->looked);
    SparseBitmapGarbage *looks = NULL, *more_known = NULL, *more_zero = NULL;

    if (status_map_memory(c) > c->max_memory) {
        sparse_bitmap_clear(c->looked, 0, c->blocks);
        looks = sparse_bitmap_take_garbage(c->looked);
        evict_parts(c);
        more_known = sparse_bitmap_take_garbage(c->known);
        more_zero = sparse_bitmap_take_garbage(c->zero);
    }
    mutex_unlock(&c->lock);
    sparse_bitmap_garbage_free(known);
    sparse_bitmap_garbage_free(zero);
    sparse_bitmap_garbage_free(looked);
    sparse_bitmap_garbage_free(looks);
    sparse_bitmap_garbage_free(more_known);
    sparse_bitmap_garbage_free(more_zero);
}

void status_map_set_length(StatusCache *c, int64_t length)
{
    int64_t blocks = block_ceil(c, length);
    int64_t edge = block_floor(c, MIN(length, c->length));

    /* Rule 5: those in flight may have seen the old end. */
    status_op_taint_lookers(c, edge, INT64_MAX);
    if (length > c->length && edge < c->blocks) {
        /* What joins the old end may be anything; data stays data. */
        if (sparse_bitmap_test(c->zero, edge)) {
            status_map_forget(c, edge, edge + 1);
        }
        status_map_forget_looks(c, edge, edge + 1);
    }
    sparse_bitmap_resize(c->known, blocks);
    sparse_bitmap_resize(c->zero, blocks);
    sparse_bitmap_resize(c->looked, blocks);
    c->length = length;
    c->blocks = blocks;
    c->evict_hand = MIN(c->evict_hand, blocks);
}
