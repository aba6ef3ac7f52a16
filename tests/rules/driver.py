# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers, image locks, the registry, resize and reopen.

The file, name, what is taken out, the text to find, the text to put there
"""
from sources import (
    LOCK, READ, REGISTRY, FILE, RW, ZERO, DEVICE, RESIZE, AGAIN, KIN)

BREAKS = [
    (LOCK, 'lock-held', 'permissions held are locked',
     'apply_base(lock, PERM_BASE, perm, release',
     'apply_base(lock, PERM_BASE, 0, release'),
    (LOCK, 'lock-unshared', 'permissions not shared are locked',
     'apply_base(lock, UNSHARED_BASE, unshared, release',
     'apply_base(lock, UNSHARED_BASE, 0, release'),
    (LOCK, 'lock-look-unshared', 'what others do not share is not taken',
     'if ((perm & bit) && byte_is_taken(lock->fd, UNSHARED_BASE + i))',
     'if (0)'),
    (LOCK, 'lock-look-held', 'what others hold is shared',
     '} else if (!(shared & bit) && byte_is_taken(lock->fd, PERM_BASE + i)) {',
     '} else if (0) {'),
    (LOCK, 'lock-letting-go', 'who lets go is not refused',
     'others_object(lock, perm & ~lock->perm, shared | ~lock->shared, errp)',
     'others_object(lock, perm, shared, errp)'),
    (LOCK, 'lock-refused', 'a refusal leaves no locks',
     '''        image_lock_abort(lock);
        return false;''', '''        return false;'''),
    (LOCK, 'lock-two-steps', 'the old locks are kept until the second step',
     'if (!apply(lock, lock->perm | perm, ~lock->shared | ~shared, false, errp)',
     'if (!apply(lock, perm, ~shared, true, errp)'),
    (LOCK, 'guard-kept', 'a guard outlives changes of permissions',
     '''    if (lock->guard) {
        unshared |= BLK_PERM_WRITE;''', '''    if (lock->guard) {
        unshared |= release ? 0 : BLK_PERM_WRITE;'''),
    (LOCK, 'guard-look', 'there is no guard while somebody may write',
     'byte_is_taken(lock->fd, write_byte)', 'write_byte < 0'),

    (KIN, 'one-cache', 'nodes of one inode share a cache',
     'a->ino == b->ino', 'a->ino == b->ino + 1'),
    (KIN, 'by-number', 'nodes of one device number share a cache',
     'if (S_ISBLK(st->st_mode))', 'if (0)'),
    (KIN, 'kin-partition', 'a partition is part of the whole disk',
     'if (access(partition, F_OK) == 0 &&', 'if (0 &&'),
    (KIN, 'kin-slaves', 'a volume is made of what it lies on',
     '    add_slaves(sysfs, real, below);\n', ''),
    (KIN, 'kin-further', 'what lies below lies on something, too',
     '''    g_array_append_val(below, *id);
    add_below(sysfs, id, below);''', '''    g_array_append_val(below, *id);'''),
    (KIN, 'kin-loop', 'a loop device is the file behind it',
     'if (find_backing(real, name, id->dev, &other))', 'if (0)'),
    (KIN, 'kin-loop-file', 'the loop device itself tells which file it is',
     'if (ask_loop_device(name, dev, backing))', 'if (0)'),
    (KIN, 'claim-loop', 'a loop device on a disk is a use of it',
     ''' ||
           has_loop_device(sysfs, id)''', ''),
    (KIN, 'claim', 'who has a device for himself uses it',
     '(id->device && is_exclusively_open(fd))', '(id->device && fd == -2)'),
    (KIN, 'claim-kept', 'looking for a claim leaves none',
     '    close(claim);\n', ''),
    (REGISTRY, 'registry-alone', 'who comes waits for writes that must be alone',
     '''    if (mode != STATUS_CACHE_ON) {
        wait_for_loners(disk);''', '''    if (0) {
        wait_for_loners(disk);'''),
    (REGISTRY, 'registry-lied', 'a disk whose cache has lied is distrusted',
     'disk->distrusted |= disk->cache && status_cache_is_distrusted(disk->cache);',
     ''),
    (REGISTRY, 'registry-lies', 'and so is another cache of it',
     '        status_cache_distrust(disk->cache);\n', ''),
    (REGISTRY, '7-two-nodes', 'no zeroes while two nodes can write',
     '!(writable && disk->users->len > 1)', 'writable < 2'),
    (REGISTRY, '7-kin', 'no zeroes while a disk is open by another name',
     '!next_kin(disk, &at)', 'at == 0'),
    (REGISTRY, '7-kin-told', 'the other name is told',
     '        update(kin);\n', ''),
    (REGISTRY, '7-claimed', 'no zeroes while the kernel uses a disk',
     '!disk->claimed', '1'),
    (REGISTRY, '7-claimed-anew', 'who uses a disk is found out again',
     '    look_around(user->disk, user->lock->fd);\n', ''),
    (REGISTRY, '7-off-writes', 'a writer without a cache counts',
     'writable |= user->writable;',
     'writable |= user->writable && user->want != STATUS_CACHE_OFF;'),
    (REGISTRY, '7-force-share', 'no zeroes where others are let write',
     '&& !share_write', '&& share_write < 2'),
    (REGISTRY, '7-guard', 'no zeroes without a guard',
     'if (mode == STATUS_CACHE_ON && !guarded) {', 'if (guarded > 1) {'),
    (REGISTRY, '7-cautious', 'the most cautious node decides',
     'MIN(mode, user->want)', 'MAX(mode, user->want)'),
    (REGISTRY, '7-unguard', 'who may not guard gives up the guard',
     '''        image_lock_unguard(user->lock);
    }
}''', '''        (void)user;
    }
}'''),
    (REGISTRY, '7-leaver', 'a node that goes does not hinder the others',
     '    image_lock_set(user->lock, 0, BLK_PERM_ALL);\n', ''),
    (REGISTRY, '5-others-resized', 'all nodes on a file learn its new size',
     '''        status_cache_resize(u->cache, length);
        __atomic_store_n(&u->length''', '''        status_cache_resize(user->cache, length);
        __atomic_store_n(&user->length'''),
    (REGISTRY, '5-others-grown', 'all nodes on a file learn that it has grown',
     '''            status_cache_grow(u->cache, length);
            __atomic_store_n(&u->length''', '''            status_cache_grow(user->cache, length);
            __atomic_store_n(&user->length'''),
    (REGISTRY, 'forgotten', 'a cache that nobody feeds is dropped',
     '''        g_clear_pointer(&disk->cache, status_cache_unref);
    } else {''', '''        return;
    } else {'''),
    (REGISTRY, 'granularity', 'another granularity is refused',
     'if (options->granularity_given && options->granularity != granularity)',
     'if (granularity == 0)'),
    (REGISTRY, 'size', 'another memory limit is refused',
     'if (options->max_memory_given && options->max_memory != disk->max_memory)',
     'if (granularity == 0)'),
    (REGISTRY, 'creating', 'a file that is being created is not opened',
     'if (is_being_created(&id))', 'if (0)'),
    (REGISTRY, 'creating-below', 'nor is a loop device on it',
     'g_autoptr(GArray) below = disk_kin_below(SYSFS, id);',
     'g_autoptr(GArray) below = g_array_new(FALSE, FALSE, sizeof(DiskId));'),
    (REGISTRY, 'reserve', 'a file that is open is not created',
     '    disk = find_in_use(&id);', '    disk = NULL;'),
    (REGISTRY, 'reserve-below', 'nor is what a loop device lies on',
     'disk_id_equal(&disk->id, id) || lies_on(disk, id)',
     'disk_id_equal(&disk->id, id)'),

    (READ, 'read-fill', 'what is not read is filled with zeroes',
     '''            iov_zero(iov, niov, next - offset, cuts[i].end - next);\n''',
     ''),
    (READ, 'read-asked', 'who has asked already is not asked again',
     '!(flags & BDRV_REQ_CUT) &&', ''),
    (READ, 'read-aligned', 'pieces keep the alignment of buffers',
     'may_cut(r, offset, iov, niov)', 'may_cut(r, 0, iov, 1)'),
    (READ, '10-register', 'a read that teaches registers before it reads',
     '''    bool learn =
        r->learn && status_cache_read_begin(r->cache, &op, offset, bytes);
    int ret = read(bs, offset, bytes, iov, niov);
''', '''    int ret = read(bs, offset, bytes, iov, niov);
    bool learn =
        r->learn && status_cache_read_begin(r->cache, &op, offset, bytes);
'''),
    (READ, '10-error', 'a read that failed teaches nothing',
     '''        if (ret == 0) {
            teach''', '''        {
            teach'''),
    (READ, '10-all', 'a block is zero if all of it is',
     'zero && buffer_is_zero', 'buffer_is_zero'),

    (AGAIN, '7-refresh', 'the mode is decided anew when permissions change',
     '    status_disk_refresh(&s->user);\n', ''),
    (AGAIN, 'resize-alone', 'nobody else resizes a file that is in use',
     'shared & ~BLK_PERM_RESIZE', 'shared'),
    (FILE, '6-rough', 'rough questions are not answered from what is known',
     'if (!(want & BDRV_WANT_ZERO))', 'if (0)'),
    (READ, 'status-align', 'answers end where requests may begin',
     'if (excess == 0 ||', 'if (excess >= 0 ||'),
    (FILE, 'regular', 'what is no regular file is not even opened',
     '''        if (!check_type(kind, filename, st, errp)) {
            return -EINVAL;
        }
    } else if''', '''    } else if'''),
    (AGAIN, 'writer', 'a file is opened for writing when a writer comes',
     'if ((perm & ANY_WRITE) && !will_be_writable(s))', 'if (0)'),
    (AGAIN, '7-writer', 'a writer who comes is told before he asks for the lock',
     '''    if (writable) {
        status_disk_set_writable''', '''    if (0) {
        status_disk_set_writable'''),
    (AGAIN, '7-no-writer', 'where no writer is any more, it is told',
     '''    status_disk_set_writable(&s->user, s->writable);
    if (file_is''', '''    if (file_is'''),
    (AGAIN, 'again-same', 'another file under the same name is another disk',
     'if (!is_same(&mine, st))', 'if (0)'),
    (AGAIN, 'again-locked', 'the second description is locked as the first',
     's->have_next && !image_lock_join', '0 && !image_lock_join'),
    (AGAIN, 'again-dropped', 'what is not used is closed',
     '    drop_next(r->bs->opaque);\n', ''),
    (AGAIN, 'again-limits', 'requests are aligned as they have to be now',
     '    bs->limits = f->limits;\n', ''),
    (AGAIN, 'again-reader', 'who reads asks the cache that is fed now',
     '    status_reader_init(&s->reader, s->cache, s->fd, &bs->limits, s->direct);\n',
     ''),
    (LOCK, 'join', 'a second description has the locks before the first lets go',
     '    ret = change_held(lock, fd, F_RDLCK);\n', '    ret = 0;\n'),
    (LOCK, 'both', 'what changes while there are two, changes on both',
     'if (ret == 0 && lock->next_fd >= 0)', 'if (0)'),
    (REGISTRY, 'want', 'what a node wants may change',
     '    user->want = want;\n', ''),
    (REGISTRY, 'want-agreed', 'nodes of a disk agree about its cache',
     'if (want != STATUS_CACHE_OFF && other)', 'if (0)'),

    (RW, '1-begin', 'a write is told before it goes out',
     '''    status_cache_write_begin(s->cache, &op, offset, bytes);
    ret = do_write(bs, offset, bytes, iov, niov, fua, submitted, &need_flush);''',
     '''    ret = do_write(bs, offset, bytes, iov, niov, fua, submitted, &need_flush);
    status_cache_write_begin(s->cache, &op, offset, bytes);'''),
    (RW, '1-end', 'a write is told to have ended when it has',
     '''    ret = do_write(bs, offset, bytes, iov, niov, fua, submitted, &need_flush);
    status_cache_write_end(s->cache, &op, ret == 0);''',
     '''    status_cache_write_end(s->cache, &op, true);
    ret = do_write(bs, offset, bytes, iov, niov, fua, submitted, &need_flush);'''),
    (RW, '1-failed-told', 'a failed write is told to have failed',
     'status_cache_write_end(s->cache, &op, ret == 0);',
     'status_cache_write_end(s->cache, &op, true);'),
    (RW, '6-flush-told', 'a failed flush is told to the cache',
     '''        status_cache_flush_failed(s->cache);
    }
    mutex_lock''', '''    }
    mutex_lock'''),
    (RW, '6-sticky', 'flushes fail for good',
     's->flush_failed |= ret < 0;', ''),
    (RW, '6-fua', 'a failed write with FUA forgets zeroes',
     '''        status_cache_flush_failed(s->cache);
    }
    *need''', '''    }
    *need'''),
    (RW, '6-descriptor', 'flushes have a descriptor of their own',
     'fdatasync(s->sync_fd)', 'fdatasync(s->fd)'),
    (RW, 'flush-own', 'a flush that began earlier does not count',
     'mine = s->flush_started + 1;', 'mine = MAX(s->flush_started, 1);'),
    (RW, 'fua-tail', 'the end of the file is flushed with FUA',
     '(!t.flags || head < bytes)', '!t.flags'),
    (RW, 'clamp', 'the end of the file is exact',
     'return MAX(bytes, MIN(whole, file_end(bs->opaque) - offset));',
     'return whole;'),
    (RW, 'tail', 'the end of the file is not written directly',
     'int64_t head = bytes - bytes % bs->limits.request_alignment;',
     'int64_t head = bytes;'),
    (RW, 'grew', 'what a write made longer is longer',
     'if (offset + bytes > file_end(s))', 'if (0)'),
    (RW, 'grew-early', 'a file is longer when the data is there',
     '''    status_cache_write_begin(s->cache, &op, offset, bytes);
    ret = do_write''', '''    status_cache_write_begin(s->cache, &op, offset, bytes);
    status_disk_grow(&s->user, offset + bytes);
    ret = do_write'''),
    (RW, 'short', 'what a short transfer left is transferred, too',
     'while (done < bytes) {', 'while (done == 0) {'),
    (RW, 'end', 'only the end of the file reads as zeroes',
     'if (offset + n < end)', 'if (0)'),
    (RW, 'grown-read', 'a file that grows does not fail its readers',
     'while (offset + n < end && end > seen);', 'while (0);'),
    (RW, 'interrupted', 'interrupted calls are repeated',
     'while (n < 0 && errno == EINTR)', 'while (0)'),

    (ZERO, '2-begin', 'a zero-write is told before it goes out',
     '''    status_cache_zero_begin(s->cache, &op, offset, bytes, false);
    ret = s->kind->write_zeroes(s, offset, bytes, flags);''',
     '''    ret = s->kind->write_zeroes(s, offset, bytes, flags);
    status_cache_zero_begin(s->cache, &op, offset, bytes, false);'''),
    (ZERO, '2-end', 'a zero-write is told to have ended when it has',
     '''    ret = s->kind->write_zeroes(s, offset, bytes, flags);
    status_cache_zero_end(s->cache, &op, ret == 0);''',
     '''    status_cache_zero_end(s->cache, &op, true);
    ret = s->kind->write_zeroes(s, offset, bytes, flags);'''),
    (ZERO, '2-failed-told', 'a failed zero-write is told to have failed',
     '''write_zeroes(s, offset, bytes, flags);
    status_cache_zero_end(s->cache, &op, ret == 0);''',
     '''write_zeroes(s, offset, bytes, flags);
    status_cache_zero_end(s->cache, &op, true);'''),
    (ZERO, '2-punch-begin', 'a discard is told before it goes out',
     '''    status_cache_zero_begin(s->cache, &op, offset, bytes, true);
    ret = punch_hole(s, offset, bytes);''',
     '''    ret = punch_hole(s, offset, bytes);
    status_cache_zero_begin(s->cache, &op, offset, bytes, true);'''),
    (ZERO, '2-punch-failed', 'a failed discard is told to have failed',
     '''    ret = punch_hole(s, offset, bytes);
    status_cache_zero_end(s->cache, &op, ret == 0);''',
     '''    ret = punch_hole(s, offset, bytes);
    status_cache_zero_end(s->cache, &op, true);'''),
    (ZERO, 'found', 'what is not supported is tried once',
     '''        file_set_found(s, flag);
        return -ENOTSUP;''', '''        return -ENOTSUP;'''),
    (ZERO, 'range', 'a range that is refused says nothing of others',
     'errno == EOPNOTSUPP ||', 'errno == EINVAL || errno == EOPNOTSUPP ||'),
    (ZERO, 'unchanged', 'not supported means that nothing has changed',
     'if (!file_found(s, FILE_ALLOCATES))', 'if (0)'),
    (ZERO, 'allocated', 'zero-writes allocate',
     'return ret < 0 ? ret : allocate(s, offset, bytes);', 'return ret;'),
    (ZERO, 'unmap', 'zero-writes that may unmap do',
     'if (flags & BDRV_REQ_MAY_UNMAP)', 'if (0)'),
    (ZERO, 'grew-zero', 'what a zero-write made longer is longer',
     '        file_grew(s, offset + bytes, ret);\n', ''),
    (ZERO, 'unmap-beyond', 'no hole is punched beyond the end',
     'flags &= ~BDRV_REQ_MAY_UNMAP;', '(void)flags;'),

    (RESIZE, 'grew-failed', 'a write that failed half way made it so long',
     '        end = MIN(end, st.st_size);\n', ''),
    (RESIZE, '5-cut', 'what is cut off is forgotten',
     '''    if (length < old) {
        status_disk_resize(&s->user, length);''', '''    if (length < old) {
        __atomic_store_n(&s->user.length, length, __ATOMIC_RELEASE);'''),
    (RESIZE, 'not-cut', 'a resize that fails changes nothing',
     '        length = old;\n', ''),

    (FILE, 'device-unasked', 'nobody is asked about a device',
     'kind->probes ?', 'true ?'),
    (FILE, 'device-read-only', 'a device that cannot be written is noticed',
     'ioctl(fd, BLKROGET, &read_only) == 0 && read_only', 'fd < 0'),
    (RW, 'device-gone', 'a device that ends early has no zeroes there',
     'if (s->kind->type == S_IFBLK)', 'if (0)'),
    (DEVICE, '2-device-begin', 'BLKDISCARD is told before it goes out',
     '''        status_cache_discard_begin(s->cache, &op, offset, bytes);
        ret = range_ioctl(s, BLKDISCARD, FILE_NO_DISCARD, offset, bytes);''',
     '''        ret = range_ioctl(s, BLKDISCARD, FILE_NO_DISCARD, offset, bytes);
        status_cache_discard_begin(s->cache, &op, offset, bytes);'''),
    (DEVICE, '2-device-end', 'BLKDISCARD is told to have ended when it has',
     '''        ret = range_ioctl(s, BLKDISCARD, FILE_NO_DISCARD, offset, bytes);
        status_cache_discard_end(s->cache, &op);''',
     '''        status_cache_discard_end(s->cache, &op);
        ret = range_ioctl(s, BLKDISCARD, FILE_NO_DISCARD, offset, bytes);'''),
    (DEVICE, '2-device-unknown', 'BLKDISCARD promises no zeroes',
     '''        status_cache_discard_end(s->cache, &op);''',
     '''        status_cache_discard_end(s->cache, &op);
        status_cache_zero_begin(s->cache, &op, offset, bytes, true);
        status_cache_zero_end(s->cache, &op, ret == 0);'''),
    (DEVICE, 'device-pages', 'a device zeroes whole pages only',
     'MAX(block, sysconf(_SC_PAGESIZE))', 'block'),
    (DEVICE, 'device-cached', 'a refusal loses nothing that is cached',
     'int ret = write_back(s, offset, bytes);', 'int ret = 0; (void)write_back;'),
    (DEVICE, '6-device', 'a failed writeback forgets zeroes',
     '        file_flush_failed(s);\n', ''),
    (DEVICE, 'device-fast', 'what may be slow is not fast',
     '(flags & BDRV_REQ_NO_FALLBACK) ||', ''),
    (DEVICE, 'device-unmap', 'space is given back only where it may be',
     'if (flags & BDRV_REQ_MAY_UNMAP)', 'if (1)'),
    (DEVICE, 'device-busy', 'a claimed device is zeroed by writing',
     '    case EBUSY:', '    case 0x7fff:'),
    (DEVICE, 'device-found', 'what a device cannot is tried once',
     '        file_set_found(s, flag);\n', ''),
    (DEVICE, 'device-size', 'the disk ends with a logical block',
     'size - size % block_size(s->fd, BLKSSZGET)', 'size'),
]

# Noticed on loop devices only
DEVICE_RULES = {entry[1] for entry in BREAKS if entry[0] == DEVICE} | {
    'by-number', 'kin-loop-file', 'claim', 'claim-kept', '7-kin', '7-kin-told',
    '7-claimed', '7-claimed-anew', 'creating-below', 'reserve-below',
    'device-unasked', 'device-read-only', 'device-gone',
}
