#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror of a fragmented disk asks the file system about each extent once,
in small windows, and nobody who comes after it asks anything."""

import os
import unittest

import disk
import iotests
from iotests import GiB, KiB, path

EXTENTS = 20000
EXTENT_SIZE = 8 * KiB
KERNEL = tuple(int(word) for word in os.uname().release.split(".")[:2])


class Fragmented:
    """On each file system that has FIEMAP worth asking"""

    kind = None

    def setUp(self):
        mount = iotests.file_system(self.kind, GiB)
        self.folder = mount.__enter__()
        self.addCleanup(mount.__exit__, None, None, None)

    def disk(self, preallocated):
        image = disk.fragmented(os.path.join(self.folder, "image"), EXTENTS, EXTENT_SIZE,
                                preallocated=preallocated)
        iotests.drop_caches()
        return image

    def mirror_and_count(self, daemon, job_id):
        copy = os.path.join(self.folder, job_id)
        with daemon.strace("lseek,ioctl") as trace:
            daemon.mirror(copy, job_id)
        return copy, trace

    def check_probes(self, stats):
        self.assertLessEqual(stats["max-extents"], 512)
        self.assertLessEqual(stats["extents"], EXTENTS * 1.1 + 100)
        self.assertGreaterEqual(stats["extents"], EXTENTS)
        self.assertEqual(stats["probe-calls"]["seek-hole"], 0)

    def check_nothing_more(self, daemon, probes):
        """Whoever comes second: another mirror, a client's map"""
        copy, trace = self.mirror_and_count(daemon, "second")
        self.assertTrue(iotests.identical(daemon.filename, copy))
        self.assertEqual(trace.asked(daemon.filename), 0, trace.lines)
        with daemon.strace("lseek,ioctl") as trace:
            iotests.nbdinfo_map(daemon.uri)
            daemon.map()
        self.assertEqual(trace.asked(daemon.filename), 0, trace.lines)
        self.assertEqual(daemon.cache("disk")["probes"], probes)

    def test_written(self):
        with disk.DiskDaemon(self.disk(False), ",cache.direct=on") as daemon:
            copy, trace = self.mirror_and_count(daemon, "first")
            self.assertTrue(iotests.identical(daemon.filename, copy))
            self.assertEqual(
                trace.asked(daemon.filename, "SEEK_DATA|SEEK_HOLE"), 0)
            stats = daemon.cache("disk")
            self.check_probes(stats)
            self.assertEqual(stats["bytes-data"], stats["length"])
            self.check_nothing_more(daemon, stats["probes"])

    def test_preallocated(self):
        """All zeroes, and the file system has to be asked for the pages"""
        with disk.DiskDaemon(self.disk(True), ",cache.direct=on") as daemon:
            copy, trace = self.mirror_and_count(daemon, "first")
            self.assertTrue(iotests.identical(daemon.filename, copy))
            self.assertEqual(trace.asked(daemon.filename, "SEEK_HOLE"), 0)
            # Without cachestat it takes one walk to see that all is unwritten.
            self.assertLessEqual(trace.asked(daemon.filename, "SEEK_DATA"),
                                 0 if KERNEL >= (6, 5) else 1)
            stats = daemon.cache("disk")
            self.check_probes(stats)
            self.assertEqual(stats["bytes-zero"], stats["length"])
            self.assertEqual(os.stat(copy).st_blocks, 0)
            self.check_nothing_more(daemon, stats["probes"])

    def test_preallocated_without_cachestat(self):
        """The kernel does not tell about pages of a file of somebody else"""
        image = self.disk(True)
        os.chmod(iotests.scratch.path, 0o777)
        os.chmod(os.path.dirname(self.folder), 0o755)
        with disk.DiskDaemon(image, ",cache.direct=on,read-only=on",
                             writable="off", user=65534, group=65534,
                             extra_groups=[]) as daemon:
            with daemon.strace("lseek,ioctl") as trace:
                daemon.mirror(path("copy"))
            self.assertFalse(daemon.cache("disk")["cachestat"])
            self.assertEqual(trace.asked(image, "SEEK_HOLE"), 0)
            self.assertLessEqual(trace.asked(image, "SEEK_DATA"), 1)
            self.assertTrue(iotests.identical(image, path("copy")))


class Ext4(Fragmented, unittest.TestCase):
    kind = "ext4"


class Xfs(Fragmented, unittest.TestCase):
    kind = "xfs"


if __name__ == "__main__":
    iotests.main()
