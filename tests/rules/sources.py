# SPDX-License-Identifier: GPL-2.0-or-later
"""Source files that have rules, and the unit tests that have to notice when one of
theirs is broken, those that take longest last"""

CACHE = 'block/status-cache.c'
CACHE_INT = 'block/status-cache-int.h'
CACHE_MAP = 'block/status-cache-map.c'
CACHE_OP = 'block/status-cache-op.c'
CACHE_PROBE = 'block/status-cache-probe.c'
CACHE_READ = 'block/status-cache-read.c'
CACHE_VERIFY = 'block/status-cache-verify.c'
SPARSE_FIND = 'util/sparse-bitmap-find.c'
PROBE = 'block/status-probe.c'
FIEMAP = 'block/status-probe-fiemap.c'
LOOK = 'block/status-probe-look.c'
SEEK = 'block/status-probe-seek.c'
QUERY = 'block/status-query.c'
LOCK = 'block/image-lock.c'
READ = 'block/status-read.c'
VERIFY = 'block/status-verify.c'
REGISTRY = 'block/status-registry.c'
FILE = 'block/file-posix.c'
RW = 'block/file-rw.c'
ZERO = 'block/file-zero.c'
DEVICE = 'block/host-device.c'
RESIZE = 'block/file-resize.c'
AGAIN = 'block/file-reopen.c'
REOPEN = 'block/reopen.c'
PERMISSIONS = 'block/permissions.c'
SNAPSHOT = 'block/snapshot.c'
TRANSACTION = 'block/transaction.c'
KIN = 'block/disk-kin.c'
JOB = 'block/job.c'
JOB_END = 'block/job-end.c'
JOB_ERROR = 'block/job-error.c'
PACE = 'block/job-pace.c'
JOB_VERBS = 'block/job-verbs.c'
MIRROR = 'block/mirror.c'
START = 'block/mirror-start.c'
COMMIT = 'block/commit.c'
MIRROR_TOP = 'block/mirror-top.c'
COPY = 'block/mirror-copy.c'
PICK = 'block/mirror-pick.c'
MIRROR_ERROR = 'block/mirror-error.c'
BLOCK_COPY = 'block/block-copy.c'
COPY_TARGET = 'block/copy-target.c'
BACKUP = 'block/backup.c'
BACKUP_START = 'block/backup-start.c'
IO = 'block/io.c'
IOV = 'util/iov.c'
WAIT = 'block/wait.c'
BACKEND = 'block/block-backend.c'
RANGE = 'block/range-lock.c'
RAW = 'block/raw-format.c'
SUBMIT = 'block/submit.c'
NBD_RING = 'block/export/nbd-ring.c'
GROUP = 'block/throttle-group.c'
THROTTLE = 'block/throttle.c'
QCOW2_RW = 'block/qcow2-rw.c'
CREW = 'block/export/nbd-crew.c'
STATE = 'block/throttle-state.c'
OBJECT = 'util/object.c'
SECRET = 'util/secret.c'
ACTIVE = 'block/mirror-active.c'
NBD_CLIENT = 'block/nbd-client.c'
NBD_ENGINE = 'block/nbd-client-engine.c'
NBD_REQUEST = 'block/nbd-client-request.c'
NBD_RW = 'block/nbd-client-rw.c'
NBD_STATUS = 'block/nbd-client-status.c'

CACHE_TESTS = ('status-cache', 'status-cache-disk', 'status-read',
               'status-cache-verify', 'status-model')
PROBE_TESTS = ('status-probe', 'status-query', 'probe-cost')

TESTS = {
    CACHE: CACHE_TESTS,
    CACHE_INT: CACHE_TESTS,
    CACHE_MAP: CACHE_TESTS,
    CACHE_OP: CACHE_TESTS,
    CACHE_PROBE: CACHE_TESTS,
    CACHE_READ: CACHE_TESTS,
    CACHE_VERIFY: CACHE_TESTS,
    SPARSE_FIND: CACHE_TESTS,
    PROBE: PROBE_TESTS,
    FIEMAP: PROBE_TESTS,
    LOOK: PROBE_TESTS,
    SEEK: PROBE_TESTS,
    QUERY: PROBE_TESTS,
    LOCK: ('image-lock', 'file-share', 'file-reopen'),
    READ: ('submit', 'read-around', 'read-nowait', 'file-posix'),
    VERIFY: ('status-verify',),
    REGISTRY: ('status-registry', 'file-share', 'file-reopen', 'host-device',
               'file-resize'),
    FILE: ('file-faults', 'file-share', 'host-device', 'file-posix'),
    RW: ('submit', 'file-faults', 'file-share', 'host-device', 'file-posix',
         'file-resize', 'read-nowait'),
    RESIZE: ('file-posix', 'file-resize'),
    AGAIN: ('file-reopen', 'file-share'),
    REOPEN: ('reopen', 'file-reopen'),
    PERMISSIONS: ('reopen', 'file-reopen', 'commit'),
    ZERO: ('file-faults', 'file-share', 'file-posix', 'file-resize'),
    DEVICE: ('host-device',),
    KIN: ('status-registry', 'disk-kin', 'host-device'),
    JOB: ('job', 'job-error'),
    JOB_END: ('job', 'job-txn'),
    SNAPSHOT: ('transaction',),
    TRANSACTION: ('transaction',),
    JOB_ERROR: ('job-error',),
    PACE: ('job-pace',),
    JOB_VERBS: ('job-error', 'job'),
    MIRROR: ('mirror-options', 'mirror-chain', 'commit', 'mirror-active',
             'mirror-error', 'mirror', 'mirror-end'),
    START: ('mirror-options', 'mirror-chain', 'mirror', 'mirror-end'),
    COMMIT: ('commit',),
    MIRROR_TOP: ('commit',),
    COPY: ('mirror-options', 'mirror', 'mirror-error', 'mirror-end',
           'guests-first'),
    PICK: ('mirror', 'mirror-active', 'mirror-error', 'mirror-end',
           'guests-first'),
    ACTIVE: ('mirror-active',),
    MIRROR_ERROR: ('mirror-error',),
    BLOCK_COPY: ('backup',),
    COPY_TARGET: ('backup', 'mirror'),
    BACKUP: ('backup', 'guests-first'),
    BACKUP_START: ('backup',),
    RANGE: ('submit', 'range-lock'),
    RAW: ('submit',),
    SUBMIT: ('submit',),
    NBD_RING: ('nbd-ring',),
    IO: ('submit', 'block-io'),
    IOV: ('iov',),
    WAIT: ('wait',),
    BACKEND: ('submit', 'throttle', 'read-nowait', 'guests-first'),
    GROUP: ('throttle',),
    THROTTLE: ('throttle',),
    QCOW2_RW: ('read-nowait',),
    CREW: ('nbd-crew', 'nbd-together'),
    STATE: ('throttle-state',),
    OBJECT: ('object',),
    SECRET: ('secret',),
    NBD_CLIENT: ('nbd-client',),
    NBD_ENGINE: ('nbd-client',),
    NBD_REQUEST: ('nbd-client',),
    NBD_RW: ('nbd-client',),
    NBD_STATUS: ('nbd-client',),
}
