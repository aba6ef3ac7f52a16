# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests that wait for each other, and what is beside.

The file, name, what is taken out, the text to find, the text to put there
"""
from sources import (
    REOPEN, PERMISSIONS, IO, IOV, WAIT, BACKEND, GROUP, STATE, OBJECT,
    SECRET, READ, RW, THROTTLE, QCOW2_RW, CREW, RANGE, RAW, SUBMIT,
    NBD_RING)

BREAKS = [
    (REOPEN, 'reopen-unchanged', 'what a node is does not change',
     '!is_as_before(r, l->data)', '0'),
    (REOPEN, 'reopen-default', 'nor does it by being left out',
     '!schema_has(r->options, l->data))', '0)'),
    (REOPEN, 'reopen-contents', 'a job relies on contents',
     '    if (!job) {', '    if (1) {'),
    (REOPEN, 'reopen-cycle', 'two changes make no cycle, either',
     'if (!check_cycle(e->r.bs, change->new_bs, name, errp)) {', 'if (0) {'),
    (REOPEN, 'reopen-flush', 'what becomes read-only was flushed',
     'ret = bdrv_flush(e->r.bs);', 'ret = 0;'),
    (REOPEN, 'reopen-undone', 'what fails leaves options as they were',
     '''        if (e->set) {
            set_options''', '''        if (0) {
            set_options'''),
    (REOPEN, 'reopen-aborted', 'what was prepared is undone',
     'if (e->prepared && ', 'if (0 && e->prepared && '),
    (REOPEN, 'reopen-inline', 'an inline child follows its parent',
     'if (child->made_by != e->r.bs || find', 'if (child || find'),
    (PERMISSIONS, 'reopen-asked', 'permissions are asked for anew',
     '''        bs->reopening) {
        if (!ask''', '''        0) {
        if (!ask'''),
    (IO, 'detect-data', 'only zeroes are detected',
     '!iov_is_zero(iov, niov)', '0'),
    (IO, 'detect-grow', 'detected zeroes do not end before what is written',
     'offset + bytes > bdrv_driver_getlength(bs)', '0'),
    (IO, 'detect-unmap', 'detected zeroes leave holes only where they may',
     'if (bs->detect_zeroes == BDRV_DETECT_ZEROES_UNMAP)', 'if (1)'),
    (IOV, 'zero-end', 'zeroes are zeroes up to the end',
     'any_bits(p) || any_bits(end - ZERO_STEP)', 'any_bits(p)'),
    (WAIT, 'hurry-now', 'who waits for a turn learns that others wait',
     '''    g_atomic_int_set(&cancel->hurry, 1);
    tell_waiters(cancel);''', '''    g_atomic_int_set(&cancel->hurry, 1);'''),
    (WAIT, 'hurry-turn', 'only who waits for a turn hurries',
     'return for_turn && g_atomic', 'return g_atomic'),
    (WAIT, 'hurry-told', 'who was told once can be told more',
     'while (w && w->told >= news)', 'while (w && w->told > 0)'),
    (BACKEND, 'drain-hurry', 'nobody who drains waits for throttled requests',
     'bdrv_hurry_begin(blk->cancel);', ''),
    (BACKEND, 'drain-throttle', 'after a drain requests are throttled again',
     'bdrv_hurry_end(blk->cancel);', ''),
    (CREW, 'nowait-turn', 'who has to wait gives the turn away',
     '''    if (end_keeping(thread)) {
        nbd_crew_pass_turn(conn);
    }
    send_waiting(conn);''', '    send_waiting(conn);'),
    (CREW, 'flush-turn', 'who flushes gives the turn away',
     'keeps_turn(conn) && !is_long(conn, &thread->req)', 'keeps_turn(conn)'),
    (CREW, 'nowait-send', 'who has to wait sends what waits',
     '''        nbd_crew_pass_turn(conn);
    }
    send_waiting(conn);
}''', '''        nbd_crew_pass_turn(conn);
    }
}'''),
    (BACKEND, 'nowait-count', 'a read that did not wait is no failure',
     'ret != -EAGAIN || !(flags & BDRV_REQ_NOWAIT)', '1'),
    (READ, 'nowait-row', 'a read that is repeated goes on in its row',
     'if (ret == -EAGAIN && r->fd >= 0)', 'if (0)'),
    (RW, 'nowait-again', 'not to wait is tried once where that cannot be had',
     'file_set_found(bs->opaque, FILE_NO_NOWAIT);', ''),
    (RW, 'nowait-end', 'what is not there without waiting is no error',
     'rwf & RWF_NOWAIT ? -EAGAIN : -EIO', '-EIO'),
    (QCOW2_RW, 'nowait-behind', 'what has been waited for is not done again',
     '*flags &= ~BDRV_REQ_NOWAIT;', ''),
    (THROTTLE, 'nowait-throttle', 'who came through is not sent back',
     'flags &= ~BDRV_REQ_NOWAIT;', ''),
    (GROUP, 'turns', 'members of a group take turns',
     'for (i = 1; i <= members->len; i++)', 'for (i = 0; i < members->len; i++)'),
    (GROUP, 'turns-order', 'requests of a member go in order',
     '''    while (*p) {
        p = &(*p)->next;
    }
    *p = w;''', '''    w->next = *p;
    *p = w;'''),
    (GROUP, 'turns-lost', 'a turn that is given up is the next one\'s',
     '''    if (head) {
        cond_broadcast''', '''    if (0) {
        cond_broadcast'''),
    (GROUP, 'counted', 'what was given up does not count',
     '''    if (ret == 0) {
        throttle_state_account''', '''    {
        throttle_state_account'''),
    (GROUP, 'limits-at-once', 'new limits count for those that wait, too',
     '''        if (group->head[i]) {''', '''        if (0) {'''),
    (STATE, 'burst-spread', 'a long burst does not come all at once',
     'if (l->length > 1)', 'if (0)'),
    (STATE, 'burst-length', 'a burst may last',
     '(double)l->max * l->length', '(double)l->max'),
    (STATE, 'never-early', 'no request is early, not even by less than a ns',
     ' + (wait_ns < wait * NS_PER_SECOND)', ''),
    (STATE, 'directions', 'limits for reads do not count for writes',
     'return !is_write;', 'return true;'),
    (OBJECT, 'object-in-use', 'what somebody uses is not deleted',
     'if (!o || o->users > 0)', 'if (!o)'),
    (SECRET, 'secret-wiped', 'secrets are overwritten before they are freed',
     '        explicit_bzero(bytes, size);\n', ''),
    (SECRET, 'secret-read', 'so is what they were read into',
     'wipe_free(buf, capacity);', 'g_free(buf);'),
    (BACKEND, 'submit-permission', 'who may not write begins no write',
     '(kind != REQ_READ && !may_write(blk))', '0'),
    (BACKEND, 'submit-within', 'what is begun lies within the disk',
     '    if (check_range(blk, offset, bytes) < 0) {\n        gate_leave(blk);\n        return NULL;',
     '    if (!blk->root) {\n        gate_leave(blk);\n        return NULL;'),
    (RAW, 'submit-window', 'a window is not what lies below it',
     'return !s->has_size && s->offset == 0;', 'return true;'),
    (RANGE, 'share-waits', 'who would have to wait does not share a range',
     '''    enter(lock, hold, offset, bytes, false);
    if (must_wait(hold)) {''', '''    enter(lock, hold, offset, bytes, false);
    if (0) {'''),
    (RANGE, 'share-leaves', 'and is not in line for it',
     '''        remove_and_wake(lock, hold);
        return false;
    }
    return true;''', '''        return false;
    }
    return true;'''),
    (IO, 'submit-range', 'a write that is begun holds its range',
     'range_lock_try_share(bs->range_lock, hold, offset, bytes));',
     'range_lock_try_share(bs->range_lock, hold, offset, 0));'),
    (IO, 'submit-detect', 'zeroes are detected before a write is begun',
     '           bs->detect_zeroes == BDRV_DETECT_ZEROES_OFF &&\n', ''),
    (IO, 'submit-read-only', 'no write to a node that is read-only is begun',
     'return !bdrv_is_read_only(bs) &&', 'return'),
    (IO, 'submit-bounce', 'only what the driver takes is begun',
     '!must_bounce(bs, offset, bytes, iov, 1)', '1'),
    (SUBMIT, 'submit-undone', 'what is not begun holds nothing',
     '''            end_frames(s, s->n_nodes, false);
        }''', '''        }'''),
    (SUBMIT, 'submit-outside', 'and is not inside the gate',
     'if (begun != BLK_SUBMIT_BEGUN) {', 'if (0) {'),
    (SUBMIT, 'submit-dirty', 'rule 9: a write that has ended is marked',
     'end_frames(s, s->n_nodes, true);', 'end_frames(s, s->n_nodes, false);'),
    (SUBMIT, 'submit-drain', 'who drains waits until it has ended',
     '''                ret);
    blk_leave_entered(s->blk);''', '''                ret);'''),
    (READ, 'submit-learn', 'reads that are to teach are not begun',
     '''    if (r->learn) {
        return BLK_SUBMIT_NOT;''', '''    if (0) {
        return BLK_SUBMIT_NOT;'''),
    (RW, 'submit-1', 'rule 1: data is marked before it goes out',
     'status_cache_write_begin(s->cache, &r->op, r->offset, bytes);',
     'status_cache_write_begin(s->cache, &r->op, r->offset, 0);'),
    (RW, 'submit-failed', 'what has failed is unknown',
     'status_cache_write_end(s->cache, &r->op, ret == 0);',
     'status_cache_write_end(s->cache, &r->op, true);'),
    (RW, 'submit-alone', 'nobody else writes while writes are submitted',
     '|| !begin_alone(s, bytes)) {', '|| (begin_alone(s, bytes) && 0)) {'),
    (RW, 'submit-tail', 'nothing is submitted where pages are written',
     '!is_within_blocks(bs, r->offset, bytes) ||', ''),
    (RW, 'submit-file-system', 'nor where the file system may do so',
     '!s->exclusive_holes ||', ''),
    (RW, 'submit-short', 'what was cut short is done as a whole',
     'return result == bytes ||', 'return result >= 0 ||'),
    (RW, 'submit-again', 'what the kernel gives back is done',
     'result != -EAGAIN && ', ''),
    (NBD_RING, 'ring-turn', 'who would have to wait gives the turn away',
     '    nbd_crew_pass_turn(conn);\n', ''),
    (NBD_RING, 'ring-socket', 'and receives no more',
     '    stop_receiving(t);\n    if', '    if'),
    (NBD_RING, 'ring-deaf', 'nobody waits to send while requests are begun',
     '&r->n_rest, MSG_DONTWAIT);', '&r->n_rest, 0);'),
    (NBD_RING, 'ring-room', 'where there is room again, more is begun',
     '            continue; /* there may be room for more */\n', ''),
    (NBD_RING, 'ring-stable', 'what is to be stable is no such request',
     '''!(req->flags & ~NBD_CMD_FLAG_PAYLOAD_LEN) &&
           !conn->exp->common.writethrough''', '''1'''),
    (NBD_RING, 'ring-hole', 'who asks for data gets no hole',
     '''slot->zero && t->conn->structured &&
               !(req->flags & NBD_CMD_FLAG_DF)''',
     'slot->zero && t->conn->structured'),
    (NBD_RING, 'ring-zero', 'zeroes that were not read are made',
     'memset(data, 0, req->length);', ''),
]
