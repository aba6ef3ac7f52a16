# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups: the copier that guests and workers share, and the job.

The file, name, what is taken out, the text to find, the text to put there
"""
from sources import BACKUP, BACKUP_START, BLOCK_COPY, COPY_TARGET

BREAKS = [
    (BLOCK_COPY, 'copy-1', 'a cluster is in one hand at a time',
     '''            op->bytes = range_lock_try_acquire(bc->ranges, &op->hold, start,
                                               bytes, bc->cluster, &pos);''',
     '''            op->bytes = bytes;
            range_lock_line_up(bc->ranges, &op->hold, start, bytes);'''),
    (BLOCK_COPY, 'copy-2', 'what is not copied yet is still to be copied',
     '''    int ret = 0;

    op->is_read = false;''', '''    int ret = 0;

    finish(bc, op, 0);
    op->is_read = false;'''),
    (BLOCK_COPY, 'copy-2-failed', 'what has failed is still to be copied',
     '''    if (ret == 0 && !is_stopped(bc)) {
        op->done =''', '''    if (ret <= 0) {
        op->done ='''),
    (BLOCK_COPY, 'copy-2-stop', 'what guests no longer wait for is not copied',
     'if (ret == 0 && !is_stopped(bc)) {', 'if (ret == 0) {'),
    (BLOCK_COPY, 'copy-3', 'guests copy before they write',
     'while (ret > 0 && pos < end) {', 'while (0 && pos < end) {'),
    (BLOCK_COPY, 'copy-3-again', 'who has waited looks again',
     '''        found =
            next_left(bc, start, start + bytes, bytes, &op->offset, &op->bytes);
''', '''        op->offset = start;
        op->bytes = bytes;
'''),
    (BLOCK_COPY, 'copy-stop', 'who is told to stop copies nothing',
     'while (found && !is_stopped(bc)) {', 'while (found) {'),
    (BLOCK_COPY, 'copy-there', 'zeroes that the target has are not written',
     'op->kind = BLOCK_COPY_THERE;', 'op->kind = BLOCK_COPY_ZERO;'),
    (BLOCK_COPY, 'copy-part', 'a cluster is zero if all of it is',
     '''        whole = round_down(bc, whole);''',
     '''        whole = round_up(bc, whole);'''),
    (COPY_TARGET, 'target-inward', 'what the target has is rounded inward',
     'int64_t first = target_zero_granules(z, offset);\n    int64_t last',
     'int64_t first = offset / z->granularity;\n    int64_t last'),
    (BACKUP, 'backup-gate', 'a worker is inside the gate while it copies',
     '    *ret = blk_enter(s->blk);', '    *ret = 0;'),
    (BACKUP, 'backup-guest', 'a guest that could not copy ends the job',
     '''        job_error_action(s->job, JOB_ON_ERROR_REPORT, is_read, ret);
        fail(s, ret);''',
     '''        job_error_action(s->job, JOB_ON_ERROR_REPORT, is_read, ret);'''),
    (BACKUP, 'backup-pause', 'workers rest while the job is paused',
     '''    s->hold = true;
    cond_broadcast(&s->chooser);''', '    cond_broadcast(&s->chooser);'),
    (BACKUP, 'backup-flush', 'the target is flushed before the end',
     'if (flush_target(s) == 0) {',
     'if (s->bc || flush_target(s) == 0) {'),
    (BACKUP, 'bitmap-merge', 'what was set aside comes back',
     'bdrv_dirty_bitmap_thaw(s->bitmap, !anew);',
     'bdrv_dirty_bitmap_thaw(s->bitmap, false);'),
    (BACKUP, 'bitmap-left', 'what was not copied stays marked',
     'anew && !ok && block_copy', 'false && block_copy'),
    (BACKUP, 'bitmap-abandon', 'a job that was not started changes no bitmap',
     'bdrv_dirty_bitmap_thaw(s->bitmap, true);',
     'bdrv_dirty_bitmap_thaw(s->bitmap, false);'),
    (BACKUP_START, 'bitmap-frozen', 'what is written since is kept apart',
     'block_copy_add(s->bc, start, bytes);\n    }',
     'block_copy_add(s->bc, start, bytes);\n    }\n'
     '    block_copy_add(s->bc, 0, s->length);'),
]
