# SPDX-License-Identifier: GPL-2.0-or-later
"""The status cache: see block/status-cache.c.

The file, name, what is taken out, the text to find, the text to put there
"""
from sources import (
    CACHE, CACHE_INT, CACHE_MAP, CACHE_OP, CACHE_PROBE, CACHE_READ,
    CACHE_VERIFY, SPARSE_FIND)

BREAKS = [
    (CACHE, '1-mark', 'a write marks data before it goes out',
     '    status_map_mark_data(c, op->start, op->end);\n', ''),
    (CACHE_OP, '1-round', 'a write rounds outward',
     '''    op->end = bytes ? block_ceil(c, offset + bytes) : op->start;''',
     '''    op->end = bytes ? block_floor(c, offset + bytes) : op->start;'''),
    (CACHE, '1-taint', 'a write taints zero-writes in flight',
     '''    status_op_taint_list(c->zeroes, op->start, op->end);   /* rule 1 */\n''',
     ''),
    (CACHE, '1-failed', 'a failed write leaves unknown',
     '''        status_op_end(c, op);
        status_map_forget(c, op->start, op->end);''',
     '''        status_op_end(c, op);'''),
    (CACHE, '2-early', 'a zero-write changes no bits at its beginning',
     '''    status_op_begin(c, op, discard ? OP_PUNCH : OP_ZERO, offset, bytes);\n''',
     '''    status_op_begin(c, op, discard ? OP_PUNCH : OP_ZERO, offset, bytes);
    status_map_mark_zero(c, op->start, op->end);\n'''),
    (CACHE, '2-start-taint', 'a zero-write starts tainted under a data write',
     '''        status_op_taint(op, w->start, w->end);\n''', '''        (void)w;\n'''),
    (CACHE, '2-tainted', 'where a zero-write is tainted it leaves unknown',
     '''            status_map_forget(c, start, run_end);
        } else {''', '''        } else {'''),
    (CACHE_INT, '2-round', 'zero rounds inward',
     '    *start = block_ceil(c, offset);',
     '    *start = block_floor(c, offset);'),
    (CACHE, '2-failed', 'a failed zero-write changes nothing',
     '''    if (!ok) {
        return;
    }
    if (op->n_taints) {''',
     '''    if (op->n_taints) {'''),
    (CACHE, '2-discard-begin', 'BLKDISCARD makes unknown at its beginning',
     '''    writer_begin(c, op);
    status_map_forget(c, op->start, op->end);''',
     '''    writer_begin(c, op);'''),
    (CACHE, '2-discard-end', 'BLKDISCARD makes unknown at its end',
     '''    status_op_end(c, op);
    status_map_forget(c, op->start, op->end);
}''', '''    status_op_end(c, op);
}'''),
    (CACHE_PROBE, '3-start-taint', 'a probe starts tainted under a data write',
     '''        status_op_taint(op, w->start, w->end);
    }
}''', '''        (void)w;
    }
}'''),
    (CACHE_MAP, '3-forget-taint', 'what makes unknown taints probes',
     '''    status_op_taint_lookers(c, start, end); /* rule 3 */\n''', ''),
    (CACHE_PROBE, '3-unknown-only', 'a probe fills only what is still unknown',
     '''            if (status_map_state(c, start, clean_end, &run_end) ==
                BLOCK_STATE_UNKNOWN) {''',
     '''            status_map_state(c, start, clean_end, &run_end);
            {'''),
    (CACHE_PROBE, '3-tainted-fill', 'a tainted probe fills nothing',
     '''        if (status_op_tainted(op, start, end, &clean_end)) {
            continue;
        }''', '''        status_op_tainted(op, start, end, &clean_end);'''),
    (CACHE_PROBE, '3-told', 'a tainted zero is not told',
     '''    if (status_op_tainted(op, block, *run_end, run_end)) {
        return BLOCK_STATE_DATA;
    }
    return state;''', '''    return state;'''),
    (CACHE_PROBE, '3-told-known', 'what is known by now is told, not what the probe saw',
     '''    if (known != BLOCK_STATE_UNKNOWN) {
        return known;
    }
    if (status_op_tainted''', '''    if (status_op_tainted'''),
    (CACHE, '3-off', 'where nothing is remembered a write taints probes',
     '''        status_op_taint_list(c->probes, op->start, op->end);
    }
}''', '''    }
}'''),
    (CACHE_MAP, '3-evict', 'eviction forgets by the same way as all others',
     '''        status_map_forget(c, start, start + count);''',
     '''        sparse_bitmap_clear(c->known, start, count);
        sparse_bitmap_clear(c->zero, start, count);'''),
    (CACHE, '4-look-write', 'a write ends page looks',
     '''    status_map_forget_looks(c, op->start, op->end);
    if (c->mode''', '''    if (c->mode'''),
    (CACHE_PROBE, '4-look-taint', 'a tainted page look does not count',
     '''        if (!status_op_tainted(op, start, end, &run_end) &&
            status_map_state''', '''        if (status_op_tainted(op, start, end, &run_end) >= 0 &&
            status_map_state'''),
    (CACHE_PROBE, '4-look-known', 'a page look counts only where still unknown',
     ''' &&
            status_map_state(c, start, run_end, &run_end) ==
                BLOCK_STATE_UNKNOWN)''',
     ')'),
    (CACHE_MAP, '5-drop', 'a resize drops what lies beyond',
     '''    sparse_bitmap_resize(c->known, blocks);
    sparse_bitmap_resize(c->zero, blocks);''',
     '''    if (blocks > c->blocks) {
        sparse_bitmap_resize(c->known, blocks);
        sparse_bitmap_resize(c->zero, blocks);
    } else {
        blocks = c->blocks;
    }'''),
    (CACHE, '5-grow-only', 'growth drops no marks of those who reach further',
     'if (length > c->length)', 'if (length != c->length)'),
    (CACHE_MAP, '5-taint', 'a resize taints probes',
     '''    status_op_taint_lookers(c, edge, INT64_MAX);\n''', ''),
    (CACHE_MAP, '5-grow', 'what joins the last block may be anything',
     '''            status_map_forget(c, edge, edge + 1);\n''', ''),
    (CACHE_MAP, '5-grow-look', 'nor has anybody looked there',
     '''        status_map_forget_looks(c, edge, edge + 1);\n''', ''),
    (CACHE_INT, '5-end', 'the last block is covered only up to the end',
     'offset + bytes >= c->length ? c->blocks',
     'offset + bytes >= c->length + 1 ? c->blocks'),
    (CACHE, '6-flush', 'a failed flush forgets zeroes',
     '''void status_cache_flush_failed(StatusCache *c)
{
    CACHE_SECTION(c);

    status_map_forget_zeroes(c);''', '''void status_cache_flush_failed(StatusCache *c)
{
    CACHE_SECTION(c);
'''),
    (CACHE, '6-flush-zero', 'a failed flush taints zero-writes',
     '''    status_op_taint_list(c->zeroes, 0, INT64_MAX);
    c->distrust''', '    c->distrust'),
    (CACHE_MAP, '6-flush-taint', 'a failed flush taints probes',
     '''    status_op_taint_lookers(c, 0, INT64_MAX);
    for (runs = 0;''', '''    for (runs = 0;'''),
    (CACHE_MAP, '7-keep', 'data-only remembers no zero-write',
     '''    if (c->mode == STATUS_CACHE_ON) {
        sparse_bitmap_set(c->known, start, end - start);
        sparse_bitmap_set(c->zero''', '''    if (c->mode != STATUS_CACHE_OFF) {
        sparse_bitmap_set(c->known, start, end - start);
        sparse_bitmap_set(c->zero'''),
    (CACHE, '7-leave', 'leaving ON forgets zeroes',
     '''    } else if (mode == STATUS_CACHE_DATA_ONLY) {
        status_map_forget_zeroes(c);''', '''    } else if (mode == STATUS_CACHE_DATA_ONLY) {'''),
    (CACHE, '7-enter-probe', 'entering ON taints probes',
     '''over zero-writes in flight too */
        status_op_taint_lookers(c, 0, INT64_MAX);''',
     '''over zero-writes in flight too */'''),
    (CACHE, '7-enter-zero', 'entering ON taints zero-writes',
     '''        status_op_taint_list(c->zeroes, 0, INT64_MAX);\n''', ''),
    (CACHE_MAP, '8-garbage', 'garbage is given back before anything is forgotten',
     '''    if (status_map_memory(c) > c->max_memory) {
        sparse''', '''    if (c) {
        sparse'''),
    (SPARSE_FIND, '8-nodes', 'inner nodes count for the memory limit',
     'return 0; /* only runs', 'return level_bits(level); /* only runs'),
    (CACHE_INT, '8-limit', 'the memory limit is kept',
     '''memory > c->max_memory''', '''memory > c->max_memory * 64'''),
    (CACHE_READ, 'cut-zero', 'only zeroes are left out of a read',
     'sparse_bitmap_next_set(c->zero, block, stop);',
     'sparse_bitmap_next_set(c->known, block, stop);'),
    (CACHE_READ, 'cut-end', 'they are left out up to their end',
     'to = block == stop ? end : block << c->shift;', 'to = end;'),
    (CACHE_READ, 'cut-align', 'what is left to be read is aligned',
     'from += -from & (limits->align - 1);', ''),
    (CACHE_READ, 'cut-worth', 'short runs are read with what surrounds them',
     'return bytes >= limits->min_inner;', 'return bytes > 0;'),
    (CACHE_READ, 'cut-looks', 'a read looks at so many runs, not more',
     'looks < MAX_LOOKS', 'looks < MAX_LOOKS * 16'),
    (CACHE, '10-write', 'a write that begins taints reads',
     '''    status_op_taint_list(c->reads, op->start, op->end);    /* rule 10 */
''', ''),
    (CACHE, '10-zero', 'a zero-write that begins taints reads',
     '''    status_op_taint_list(c->reads, op->start, op->end); /* rule 10 */
}''', '''}'''),
    (CACHE_OP, '10-lookers', 'what taints probes taints reads',
     '''    status_op_taint_list(c->reads, start, end);\n''', ''),
    (CACHE_READ, '10-start-write', 'a read starts tainted under a write',
     '''    for (w = c->writes; w; w = w->next) {
        status_op_taint(op, w->start, w->end);
    }\n''', ''),
    (CACHE_READ, '10-start-zero', 'and under a zero-write',
     '''    for (w = c->zeroes; w; w = w->next) {
        status_op_taint(op, w->start, w->end);
    }\n''', ''),
    (CACHE_READ, '10-tainted', 'a tainted read teaches nothing',
     '''        if (status_op_tainted(op, start, end, &clean_end)) {
            continue;
        }''', '''        status_op_tainted(op, start, end, &clean_end);'''),
    (CACHE_READ, '10-round', 'a read teaches what it covers whole',
     '''    round_inward(c, offset, bytes, &start, &end);
    start = MAX''', '''    start = block_floor(c, offset);
    end = block_ceil(c, offset + bytes);
    start = MAX'''),
    (CACHE_READ, '10-mode', 'reads teach nothing while others write',
     'c->mode != STATUS_CACHE_ON || c->distrust_reads',
     'c->distrust_reads'),
    (CACHE, '10-flush', 'nor after a failed flush',
     '''    status_op_taint_list(c->zeroes, 0, INT64_MAX);
    c->distrust_reads = true;''',
     '''    status_op_taint_list(c->zeroes, 0, INT64_MAX);'''),
    (CACHE, '10-discard', 'nor after a discard without a promise',
     '''    c->distrust_reads = true;
    c->stats''', '''    c->stats'''),
    (CACHE, '11-write', 'a write that begins taints verifications',
     '''    status_op_taint_list(c->verifies, op->start, op->end); /* rule 11 */
''', ''),
    (CACHE_OP, '11-lookers', 'what taints probes taints verifications',
     '''    status_op_taint_list(c->verifies, start, end);\n''', ''),
    (CACHE_VERIFY, '11-tainted', 'what is tainted is no lie',
     '''        if (status_op_tainted(op, block, last, &run_end)) {
            continue;
        }''', '''        status_op_tainted(op, block, last, &run_end);'''),
    (CACHE_VERIFY, '11-first', 'a verification begins with zeroes',
     'sparse_bitmap_next_set(c->zero,', 'sparse_bitmap_next_set(c->known,'),
    (CACHE_VERIFY, '11-run', 'and ends with them',
     'to = sparse_bitmap_next_clear(c->zero, from, block_ceil(c, stop));',
     'to = block_ceil(c, stop);'),
    (CACHE_VERIFY, '11-distrust', 'a cache that has lied is distrusted',
     '''    if (n_lies > 0) {
        distrust(c);
    }\n''', ''),
    (CACHE_VERIFY, '11-forget', 'who is distrusted forgets all zeroes',
     '        status_map_forget_zeroes(c);\n', ''),
    (CACHE_VERIFY, '11-mode', 'who is distrusted learns no zeroes',
     '        c->mode = STATUS_CACHE_DATA_ONLY;\n', ''),
    (CACHE_VERIFY, '11-data', 'the place of a lie is data',
     '''        status_map_mark_data(c, block_floor(c, lies[i].start),
                             block_ceil(c, lies[i].end));\n''', ''),
    (CACHE, '11-stays', 'who is distrusted stays so, whatever mode is set',
     'mode = MIN(mode, STATUS_CACHE_DATA_ONLY); /* rule 11 */', ';'),
]
