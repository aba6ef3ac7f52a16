# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds when a daemon is killed or the power is cut: tests/stress/crash.py
must notice (tests/stress/crash-breaks.py).

The file, name, what is taken out, the text to find, the text to put there, and
more of crash.py's command line
"""

RW = 'block/file-rw.c'
IO = 'block/io.c'
CACHE = 'block/qcow2-cache.c'
REFCOUNT = 'block/qcow2-refcount.c'
BITMAPS = 'block/qcow2-bitmap-directory.c'
RESIZE = 'block/qcow2-resize.c'
LOCK = 'block/image-lock.c'

BREAKS = [
    (RW, 'flush', 'a flush has the kernel write', 'fdatasync(s->sync_fd) < 0',
     '0', ['--power']),
    (RW, 'fua', 'a FUA write to a file is stable', 't.flags = RWF_DSYNC;',
     't.flags = 0;\n        fua = false;', ['--power']),
    (IO, 'fua-format', 'a FUA write to an image flushes that',
     'if (ret == 0 && (flags & BDRV_REQ_FUA & ~supported))', 'if (0)', []),
    (CACHE, 'rules-1-2', 'data and refcounts are stable before L2 tables',
     'if (s->data_unflushed && (l2_dirty || freed))', 'if (0)', ['--power']),
    (CACHE, 'rule-1', 'a flush writes refcounts',
     'int ret = qcow2_cache_write(s->refblock_cache);', 'int ret = 0;', []),
    (CACHE, 'tables', 'a flush writes L2 tables', 'if (l2_dirty) {',
     'if (l2_dirty && ret) {', []),
    (REFCOUNT, 'rule-3', 'what is freed is not used before that is stable',
     '    s->freed_bytes += bytes;\n',
     '    qcow2_free_now(s, offset, bytes);\n    return;\n', []),
    (RESIZE, 'rule-4', 'an L1 table that moved is there before the header has it',
     '''    ret = write_l1(s, l1, entries, offset);
    if (ret == 0) {''', '''    ret = 0;
    if (ret == 0) {''', ['--activity', 'resize']),
    (BITMAPS, 'in-use', 'bitmaps are marked as in use in the image',
     '''    ret = qcow2_write_file(s, s->bitmaps_offset, out->len, out->data);
    return ret < 0 ? ret : qcow2_flush_file(s);
}

int qcow2_bitmaps_mark''', '''    return 0;
}

int qcow2_bitmaps_mark''', []),
    (BITMAPS, 'stored', 'refcounts are there before the header has bitmaps',
     '''        ret = qcow2_write_tables(s, false);
        if (ret == 0) {
            ret = qcow2_flush_file(s);''', '''        if (ret == 0) {
            ret = qcow2_flush_file(s);''', ['--activity', 'end']),
    ('block/backup.c', 'backup-flush', 'a backup is stable when it is completed',
     'ret = bdrv_flush(s->target_bs);', 'ret = 0;', ['--power']),
    ('block/mirror-error.c', 'mirror-flush',
     'a mirror is stable when it is the disk', 'int ret = blk_flush(s->target);',
     'int ret = 0;', []),
    ('block/snapshot.c', 'snapshot-flush', 'what a snapshot keeps is stable',
     'int ret = bdrv_is_read_only(bs) ? 0 : bdrv_flush(bs);', 'int ret = 0;',
     ['--activity', 'snapshot']),
    ('block/mirror-active.c', 'both', 'a write is on both disks',
     'iov ? write_target(s, offset, bytes, iov, niov, flags)', 'iov ? 0',
     []),
    ('block/copy-before-write.c', 'copy-first', 'old data is copied first',
     '''    int ret = copy_first(bs, offset, bytes);

    return ret < 0
               ? ret
               : bdrv_pwritev''', '''    int ret = 0;

    return ret < 0
               ? ret
               : bdrv_pwritev''', []),
    ('block/status-cache.c', 'empty', 'a status cache knows nothing at first',
     '    c->looked = sparse_bitmap_new(c->blocks);\n',
     '    c->looked = sparse_bitmap_new(c->blocks);\n'
     '    sparse_bitmap_set(c->known, 0, c->blocks);\n'
     '    sparse_bitmap_set(c->zero, 0, c->blocks);\n', []),
    ('util/socket.c', 'socket', 'a socket that nobody has is replaced',
     'if (unlink(path) < 0 && errno != ENOENT)', 'if (0)', []),
    (LOCK, 'locks', 'locks go with the process',
     '''        .enabled = enabled,
        .shared = BLK_PERM_ALL,
    };
''', '''        .enabled = enabled,
        .shared = BLK_PERM_ALL,
    };
    if (enabled && fork() == 0) {
        close_range(0, fd - 1, 0);
        close_range(fd + 1, ~0U, 0);
        for (;;) {
            pause();
        }
    }
''', []),
]
