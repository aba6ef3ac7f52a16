# SPDX-License-Identifier: GPL-2.0-or-later
"""Probes of the file system.

The file, name, what is taken out, the text to find, the text to put there
"""
from sources import PROBE, FIEMAP, LOOK, SEEK, QUERY

BREAKS = [
    (FIEMAP, '4-last', 'the last look is at the mapping',
     'r = read_mapping(q, gap, end, MIN(count, PLAN_EXTENTS));', 'r = 0;'),
    (FIEMAP, '4-pages', 'a gap with pages is data',
     '''status_question_learn(q, start, until, BLOCK_STATE_DATA);
            }''',
     '''status_question_learn(q, start, until, BLOCK_STATE_ZERO);
            }'''),
    (FIEMAP, '4-unwritten', 'unwritten extents are gaps',
     '(e->fe_flags & FIEMAP_EXTENT_UNWRITTEN) || ', ''),
    (FIEMAP, 'whole-blocks', 'a window ends with a whole block',
     'seen = seen < end ? status_question_floor(q, seen) : end;', ''),
    (FIEMAP, 'backwards', 'extents that lead nowhere are an error',
     'return -EIO; /* they went backwards */',
     'seen = status_question_ceil(q, start + 1);'),
    (FIEMAP, 'looks-kept', 'former looks are made use of',
     '    status_probe_load_looks(q);\n', ''),
    (LOOK, '4-window', 'a window with pages is no look',
     '''    if (!pages.cached) {
        note_look''', '''    if (q) {
        note_look'''),
    (LOOK, '4-span', 'a span with pages is no look',
     '!count_pages(q, start, end, &pages) || pages.cached',
     '!count_pages(q, start, end, &pages)'),
    (LOOK, '4-seek', 'SEEK_DATA has looked up to its answer, no further',
     'add_look(q->probe, *done, data);',
     'add_look(q->probe, *done, data + q->granularity);'),
    (LOOK, 'refused', 'cachestat is tried once',
     'now = PROBE_CACHESTAT_REFUSED;', 'return false;'),
    (LOOK, 'walk-once', 'what SEEK_DATA walked over is noted',
     '''        status_cache_set_looked(q->cache, &op, offset, data - offset);\n''',
     ''),
    (LOOK, 'last-page', 'behind the last page nobody walks on',
     '                status_probe_look_at(q, *done, end);\n', ''),
    (SEEK, '4-twice', 'a hole is what two answers say',
     'data > offset && !q->probe->pages_are_truth', 'data > offset && !q'),
    (SEEK, 'seek-data-known', 'where data begins is not asked twice',
     'p->next_data >= 0 &&', 'p->next_data >= 0 && !q &&'),
    (PROBE, '6-backwards', 'an answer from before the question is an error',
     'return where >= offset ? where : -EIO;', 'return where;'),
    (PROBE, '6-unsupported', 'a file system that cannot tell is no error',
     '    case ESPIPE:\n', '    case ESPIPE:\n        return -EIO;\n'),
    (PROBE, 'answer', 'an answer ends where the state changes',
     'if (start == q->answer_end && got == q->state) {',
     'if (start == q->answer_end) {'),
    (QUERY, 'wait', 'those who waited look up again',
     'state = status_cache_peek(cache, offset, INT64_MAX - offset, pnum);',
     'state = BLOCK_STATE_UNKNOWN;'),
    (QUERY, 'given-up', 'a strategy that does not work is given up for good',
     '__atomic_store_n(&q->probe->strategy, strategy, __ATOMIC_RELAXED);',
     'return -ENOTSUP;'),
    (QUERY, 'islands', 'small known parts do not end a window',
     'n > PROBE_ISLAND', 'n > 0'),
]
