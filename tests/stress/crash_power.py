# SPDX-License-Identifier: GPL-2.0-or-later
"""A file system that loses what it has not written.

FS_IOC_SHUTDOWN with "no log flush" makes ext4 and XFS forget all that is only in
memory: dirty pages, and what is not yet in the journal. Mounted again they are
what they would be after a power cut. Two ways:

* on the file system that has the images: what was not written to its disk is
  lost. The disk itself loses nothing.
* on that which has the file behind the loop device that the images' file system
  is on (`below`): of that disk all is lost that was not flushed, as if it had a
  volatile cache.

So that not simply all is lost since the last flush, but any part of it, pages are
written here and there meanwhile, and the journal.
"""

import contextlib
import ctypes
import fcntl
import os
import random
import struct
import threading
import time

from crash_truth import now
from iotests import KiB, MiB, path, run

FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def sync_file_system(folder):
    fd = os.open(folder, os.O_RDONLY)
    try:
        if _libc.syncfs(fd):
            raise OSError(ctypes.get_errno(), f"syncfs {folder}")
    finally:
        os.close(fd)


def _make(kind, image, size):
    with open(image, "wb") as file:
        file.truncate(size)
    words = {"ext4": ["-q", "-N", "64", "-J", "size=4", "-E", "lazy_itable_init=0"],
             "xfs": ["-q"], "btrfs": ["-q"]}[kind]
    run(f"mkfs.{kind}", *words, image)


class Level:
    """A file system on a file"""

    def __init__(self, kind, image, mount_point):
        self.kind, self.image, self.folder = kind, image, mount_point
        self.mounted = False

    def mount(self):
        run("mount", "-o", "loop", self.image, self.folder)
        self.mounted = True

    def unmount(self):
        if self.mounted:
            run("umount", self.folder)
            self.mounted = False


class PowerFileSystem:
    """For one round: `folder` has the images"""

    def __init__(self, plan):
        self.random = random.Random(f"power {plan.seed}/{plan.number}")
        self.levels = []
        kinds = [(plan.below, 480 * MiB)] if plan.below else []
        kinds.append((plan.where, 320 * MiB))
        image = path("power.img")
        for number, (kind, size) in enumerate(kinds):
            mount_point = path(f"power{number}")
            os.makedirs(mount_point, exist_ok=True)
            self.levels.append(Level(kind, image, mount_point))
            _make(kind, image, size)
            self.levels[-1].mount()
            image = os.path.join(mount_point, "inner.img")
        self.folder = self.levels[-1].folder
        self.cut_off = threading.Event()
        self.cut_at = self.cut_at_clock = None

    def sync(self):
        """What there is is not what may be lost"""
        for level in reversed(self.levels):
            sync_file_system(level.folder)

    def cut(self):
        """The power is gone: nothing is acknowledged from now on, whatever the
        kernel says"""
        self.cut_at, self.cut_at_clock = now(), time.time()
        fd = os.open(self.levels[0].folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)
            self.cut_off.set()

    def recover(self):
        for level in reversed(self.levels):
            level.unmount()
        for level in self.levels:
            level.mount()

    def remove(self):
        for level in reversed(self.levels):
            level.unmount()
        os.unlink(path("power.img"))

    def disturb(self, load):
        """A thread that writes pages and the journal here and there, until the
        power is cut"""
        thread = threading.Thread(target=self._disturb, args=(load,),
                                  daemon=True)
        thread.start()
        return thread

    def _disturb(self, load):
        rand = self.random
        while not self.cut_off.is_set():
            with load.changed:
                goal = load.answered + rand.randrange(1, 40)
                load.changed.wait_for(
                    lambda: load.answered >= goal or self.cut_off.is_set() or
                    load.ending or not load.alive)
                if load.ending or not load.alive:
                    return
            with contextlib.suppress(OSError):
                for level in reversed(self.levels):
                    self._write_something(level.folder)

    def _write_something(self, folder):
        rand = self.random
        for name in os.listdir(folder):
            filename = os.path.join(folder, name)
            if not os.path.isfile(filename):
                continue
            fd = os.open(filename, os.O_RDONLY)
            try:
                size = os.fstat(fd).st_size
                for _ in range(rand.randrange(6)):
                    offset = rand.randrange(0, max(size, 1), 4 * KiB)
                    # Writes what is dirty there, without waiting for it.
                    os.posix_fadvise(fd, offset, rand.choice(
                        (4 * KiB, 64 * KiB, MiB)), os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
        if rand.random() < 0.4:
            # The journal, with what it says of other files
            with open(os.path.join(folder, "journal"), "wb") as file:
                os.fsync(file.fileno())


def possible():
    return os.geteuid() == 0 and os.path.exists("/dev/loop-control")
