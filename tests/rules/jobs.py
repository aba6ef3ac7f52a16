# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs, and the mirror.

The file, name, what is taken out, the text to find, the text to put there
"""
from sources import (
    JOB, JOB_ERROR, JOB_VERBS, MIRROR, START, COMMIT, MIRROR_TOP, COPY, PICK,
    MIRROR_ERROR, ACTIVE, PERMISSIONS)

BREAKS = [
    (PICK, 'mirror-1', 'a range is in one hand at a time',
     '''        w->op.bytes = range_lock_try_acquire(s->ranges, &w->hold, offset, bytes,
                                             s->granularity, &from);''',
     '''        w->op.bytes = bytes;
        range_lock_line_up(s->ranges, &w->hold, offset, bytes);'''),
    (PICK, 'mirror-1-zero', 'a range of zeroes does not grow into other hands',
     '''            offset != end ||
            !range_lock_try_extend(s->ranges, &w->hold, bytes)) {''',
     '''            offset != end) {
            range_lock_try_extend(s->ranges, &w->hold, bytes);'''),
    (PICK, 'mirror-2', 'dirty bits are cleared before the status is asked for',
     '''    mirror_unclaim(s, w, pos - op->offset);
    if (op->zero &&''', '''    mirror_unclaim(s, w, pos - op->offset);
    bdrv_reset_dirty_bitmap(s->dirty, op->offset, op->bytes);
    if (op->zero &&'''),
    (COPY, 'mirror-2-data', 'dirty bits are cleared before data is read',
     '''        *is_read = false;''',
     '''        bdrv_reset_dirty_bitmap(s->dirty, offset, n);
        *is_read = false;'''),
    (PICK, 'mirror-3', 'what is not copied is marked again',
     'bdrv_set_dirty_bitmap(s->dirty, op->offset + keep, op->bytes - keep);',
     ''),
    (PICK, 'mirror-4', 'what is written is not known to be zero any more',
     'mirror_clear_target_zero(s, op->offset, op->bytes);', ''),
    (ACTIVE, 'active-1', 'a write to both disks holds its range',
     '''    return range_lock_acquire(s->ranges, &w->hold, offset, bytes, true,
                              bdrv_request_cancel());''',
     '''    return range_lock_acquire(s->ranges, &w->hold, 0, 0, true,
                              bdrv_request_cancel());'''),
    (ACTIVE, 'active-1-both', 'it holds it until it is on both disks',
     '''    bdrv_dirty_skip_end(&w.skip);
    if (ret == 0 && mirror''', '''    bdrv_dirty_skip_end(&w.skip);
    range_lock_shrink(s->ranges, &w.hold, 1);
    if (ret == 0 && mirror'''),
    (PICK, 'active-line', 'guests that write all the time let the workers in',
     'found = wait_for_turn(s, w, taken);', '*none = true;'),
    (PICK, 'active-gate', 'a worker whom guests may wait for is inside the gate',
     'if (!s->write_blocking || s->drained || w->inside)',
     'if (s->granularity)'),
    (MIRROR, 'active-learn', 'the target is not written before it is known',
     '''    if (!s->target_known) {
        mirror_learn''', '''    g_atomic_int_set(&s->active, s->write_blocking);
    if (!s->target_known) {
        mirror_learn'''),
    (ACTIVE, 'active-4', 'what a guest writes is not known to be zero any more',
     '    mirror_clear_target_zero(s, offset, bytes);\n', ''),
    (ACTIVE, 'active-5', 'dirty bits are cleared before the source is written',
     '''    give_up(&w, copied);
    return ret;''', '''    bdrv_reset_dirty_bitmap(s->dirty, offset, bytes);
    give_up(&w, copied);
    return ret;'''),
    (ACTIVE, 'active-5-skip', 'what is on both disks is not dirty',
     'bdrv_dirty_skip_begin(&w.skip, s->dirty);\n    ret = write_source',
     'bdrv_dirty_skip_begin(&w.skip, NULL);\n    ret = write_source'),
    (ACTIVE, 'active-6', 'what is not on both disks is dirty',
     'if (!copied && (ret != -ENOTSUP || w.cleared > 0)) {', 'if (0) {'),
    (ACTIVE, 'active-6-discard', 'so is what was discarded on one of them',
     '''        if (ret < 0) {
            mark(s, pos, n);
        }''', ''),
    (ACTIVE, 'active-6-source', 'a discard that failed may have done something',
     'mark(s, w.skip.start, w.skip.end - w.skip.start);', ''),
    (ACTIVE, 'active-wait', 'errors of guests do not keep the workers waiting',
     '        s->pick_us = pick_us;\n', '        (void)pick_us;\n'),
    (ACTIVE, 'active-mend', 'what guests write anew has not failed any more',
     '        succeeded(s, offset, bytes);', '        (void)succeeded;'),
    (ACTIVE, 'active-end', 'a job that has ended leaves the target alone',
     'return g_atomic_int_get(&s->active) && !job_is_cancelled(s->job);',
     'return s->target_known;'),
    (PICK, 'mirror-round', 'a granule is zero if all of it is',
     '(ret & BDRV_BLOCK_ZERO) && ends_granule(s, end)',
     '(ret & BDRV_BLOCK_ZERO) && end > 0'),
    (MIRROR, 'mirror-rest', 'the rest is copied before the pivot',
     'ret = mirror_copy_rest(s);', 'ret = 0;'),
    (MIRROR, 'mirror-deadline', 'a drain that takes long is given up',
     '!bdrv_try_drained_begin(s->replaced_bs, deadline_us)',
     '!bdrv_try_drained_begin(s->replaced_bs, INT64_MAX)'),
    (START, 'mirror-start', 'a drain at the start is given up, too',
     'g_get_monotonic_time() + mirror_limits.start_drain', 'INT64_MAX'),
    (MIRROR, 'mirror-patience', 'the next drain may take longer',
     'CLAMP(s->backoff_us / 2,', 'CLAMP(0,'),
    (MIRROR, 'mirror-let-go', 'a cancelled job gives the graph back meanwhile',
     'if (!bdrv_try_drained_begin(s->filter, drain_deadline(s)))',
     'if (!bdrv_try_drained_begin(s->filter, INT64_MAX))'),
    (MIRROR, 'mirror-flush', 'the copy is flushed before the pivot',
     '''        ret = mirror_flush_target(s);
    }
    if (ret == JOB_AGAIN''', '''    }
    if (ret == JOB_AGAIN'''),
    (MIRROR, 'mirror-failed', 'nothing that failed counts as a few bytes left',
     '!waiting && !state.failed &&', '!waiting &&'),
    (MIRROR, 'mirror-stopped', 'a job that is resumed at once goes on',
     'state.stopped || job_wants_pause', 'job_wants_pause'),
    (MIRROR, 'mirror-flush-wait', 'a flush is not tried again at once',
     's->retry_us = error_retry_us();', ''),
    (COPY, 'mirror-rest-failed', 'a rest that cannot be copied is tried later',
     's->ret == 0 && mirror_has_failed(s) ? JOB_AGAIN : s->ret', 's->ret'),
    (MIRROR_ERROR, 'mirror-stop', 'who is to stop picks nothing more',
     's->hold = true;', ''),
    (MIRROR_ERROR, 'mirror-ignore', 'what failed is not tried again at once',
     's->pick_us = g_get_monotonic_time() + mirror_limits.error_wait;', ''),
    (MIRROR_ERROR, 'mirror-ignore-drained', 'the rest is not tried at once',
     's->hold = s->hold || s->drained;', ''),
    (MIRROR_ERROR, 'mirror-policies', 'each disk has its own policy',
     'is_read ? s->on_source_error : s->on_target_error', 's->on_source_error'),
    (MIRROR, 'mirror-commit', 'who is cancelled does not pivot',
     'ret = job_commit_point(s->job);', ''),
    (MIRROR, 'mirror-overload', 'guests that never pause do not hinder',
     'state.rounds < MIRROR_MANY_ROUNDS', 'true'),
    (COPY, 'mirror-zero-plain', 'zeroes that must be written are few at once',
     '*bytes = MIN(*bytes, mirror_max_data_bytes(s));', ''),
    (COPY, 'mirror-zero-speed', 'zeroes that must be written count',
     'job_ratelimit_charge(s->job, *bytes);', ''),
    (COPY, 'mirror-zero-pace', 'zero-writes that take long are given up',
     'if (g_get_monotonic_time() > until_us)', 'if (0)'),
    (COPY, 'mirror-zero-length', 'zero-writes are no longer than is fast',
     'us > mirror_limits.zero_write', 'us < 0'),
    (COPY, 'mirror-zero-back', 'what is given back counts no round',
     's->cursor = MIN(s->cursor, end);', ''),
    (COPY, 'mirror-cancel-long', 'long requests are given up by a cancellation',
     'if (job_is_cancelled(s->job))', 'if (0)'),
    (MIRROR, 'mirror-replaces', 'the target replaces what it is to replace',
     'bdrv_replace_node(s->replaced_bs,', 'bdrv_replace_node(s->source_bs,'),
    (START, 'mirror-none', 'the target keeps what is not to be copied',
     'options->sync != MIRROR_SYNC_NONE', 'true'),
    (START, 'mirror-top', 'only what is not in the backing file is copied',
     'options->sync != MIRROR_SYNC_NONE && !s->base', 'true'),
    (START, 'mirror-top-zero', 'zeroes over data get to the target of sync=top',
     'options->target_is_zero && options->sync != MIRROR_SYNC_TOP',
     'options->target_is_zero'),
    (START, 'mirror-top-learn', 'what may be put below a target is not its own',
     's->target_known = all || options->sync != MIRROR_SYNC_FULL;',
     's->target_known = all || options->sync == MIRROR_SYNC_NONE;'),
    (START, 'mirror-overlay', 'a backing file is no target',
     'if (overlay) {', 'if (0) {'),
    (MIRROR, 'mirror-unknown', 'what nobody knows to be in the base is copied',
     'if (ret != 0) {\n            bdrv_set_dirty',
     'if (ret > 0) {\n            bdrv_set_dirty'),
    (MIRROR_TOP, 'commit-top', 'the active layer is read without its chain',
     '*nperm &= ~BLK_PERM_CONSISTENT_READ;', ''),
    (COMMIT, 'commit-between', 'nobody reads the nodes between',
     'if (is_filter_on(bs, s->base)) {', 'if (1) {'),
    (COMMIT, 'commit-give-back', 'the nodes between are free after a commit',
     '    commit_clean(s);\n    blk_detach', '    blk_detach'),
    (COMMIT, 'commit-detach', 'nobody writes to the base after a commit',
     '    blk_detach(s->target);\n', ''),
    (COMMIT, 'commit-itself', 'no node is committed to itself',
     'if (top == base || chain_contains(base, top)) {', 'if (0) {'),
    (PERMISSIONS, 'commit-below', 'a job may itself write below its node',
     '!(chain && blk_writes_below(user->blk))', 'true'),
    (JOB, 'job-commit', 'a cancellation before the commit point counts',
     '''    if (job->cancelled) {
        return -ECANCELED;
    }
    announce''', '''    announce'''),
    (JOB, 'job-let-go', 'what is not let go of yet is not cleaned up',
     '''        if (c->retry_us == 0) {
            job_clean''','''        {
            c->retry_us = 0;
            job_clean'''),
    (JOB, 'job-end-once', 'a job ends once, however often it has to let go',
     'if (c->ended || job_end(c))', 'if (job_end(c))'),
    (JOB, 'job-hurry', 'at exit nobody waits for the next try',
     'c.retry_us && !job->hurry &&', 'c.retry_us &&'),
    (JOB, 'job-again', 'a job that cannot end yet goes on',
     'while (ret == JOB_AGAIN)', 'while (0)'),
    (JOB_ERROR, 'job-stop', 'a job that is to stop pauses',
     'job->user_paused = true;', ''),
    (JOB_ERROR, 'job-stop-cancelled', 'nothing stops a cancelled job',
     'if (job->cancelled)', 'if (0)'),
    (JOB, 'job-io-status', 'the io-status is good again after a pause',
     'job->io_status = JOB_IO_OK;', ''),
    (JOB_VERBS, 'job-resume-pending', 'a job stopped in its last work goes on',
     'ALIVE | BIT_OF(PENDING) },\n    [VERB_SET', 'ALIVE },\n    [VERB_SET'),
]
