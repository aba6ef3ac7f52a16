#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Direct writes where ext4 has to allocate are submitted, and waited for outside
of the write: ext4 would let one in at a time. Others are written at once."""

import os
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, path

SIZE = 16 * MiB
PIECES = SIZE // (128 * KiB)  # of data
DIRECT = {"cache": {"direct": True}}


def calls(trace, name, filename):
    """How many of a kind concern that file; what is submitted names it, too"""
    return sum(f" {name}(" in line and filename in line
               for line in trace.lines)


class DirectWrites(unittest.TestCase):
    def copy(self, folder, options=None, size=SIZE, make=disk.alternating,
             inject=()):
        """(submitted, written), of a mirror to a new sparse file, and of one
        more to the same node"""
        source = make(path("source"), size)
        target = os.path.join(folder, "target")
        seen = []
        with disk.DiskDaemon(source) as daemon:
            disk.sparse(target, size)
            daemon.add_node("target", target,
                            **(DIRECT if options is None else options))
            for _ in range(2):
                with daemon.strace("io_submit,io_getevents,pwritev2",
                                   *inject) as trace:
                    daemon.cmd("blockdev-mirror", {
                        "job-id": "mirror", "device": "disk",
                        "target": "target", "sync": "full"})
                    daemon.wait_ready()
                    daemon.finish()
                seen.append((calls(trace, "io_submit", target),
                             calls(trace, "pwritev2", target)))
        self.assertTrue(iotests.identical(source, target))
        return seen

    def test_ext4(self):
        with iotests.file_system("ext4") as folder:
            first, again = self.copy(folder)
        self.assertEqual(first[1], 0)
        self.assertGreaterEqual(first[0], PIECES)
        # Now there is data.
        self.assertEqual(again[0], 0)
        self.assertGreaterEqual(again[1], PIECES)

    def test_large_ones(self):
        """Two keep a disk busy, and those who want to read it do not wait for
        sixteen."""
        with iotests.file_system("ext4") as folder:
            first, _ = self.copy(folder, make=disk.written, inject=[
                "io_getevents:delay_enter=300000"])
        self.assertGreaterEqual(first[0], 1)
        self.assertGreaterEqual(first[1], 8)

    def test_page_cache(self):
        with iotests.file_system("ext4") as folder:
            first, _ = self.copy(folder, {})
        self.assertEqual(first[0], 0)
        self.assertGreaterEqual(first[1], PIECES)

    def test_xfs(self):
        with iotests.file_system("xfs", 512 * MiB) as folder:
            first, _ = self.copy(folder)
        self.assertEqual(first[0], 0)
        self.assertGreaterEqual(first[1], PIECES)

    def test_end_within_a_block(self):
        """What is behind the last block is written through the page cache."""
        with iotests.file_system("ext4") as folder:
            first, _ = self.copy(folder, size=SIZE + 100)
        self.assertEqual(first[0], 0)
        self.assertGreaterEqual(first[1], PIECES)

    def test_without_extents(self):
        """There ext4 fills holes through the page cache."""
        with iotests.file_system("ext4", options=("-O", "^extents,^64bit")) \
                as folder:
            first, _ = self.copy(folder)
        self.assertEqual(first[0], 0)
        self.assertGreaterEqual(first[1], PIECES)

    def test_guests(self):
        """What was discarded is a hole again."""
        with iotests.file_system("ext4") as folder:
            image = disk.written(os.path.join(folder, "image"), MiB)
            with disk.DiskDaemon(image, ",cache.direct=on") as daemon, \
                    daemon.client() as client:
                client.pwrite(0, b"a" * 64 * KiB)  # nobody has looked yet
                with daemon.strace("io_submit,pwritev2") as trace:
                    client.pwrite(0, b"b" * 64 * KiB)
                self.assertEqual(calls(trace, "io_submit", image), 0)
                client.trim(0, 64 * KiB)
                with daemon.strace("io_submit,pwritev2") as trace:
                    client.pwrite(0, b"c" * 64 * KiB)
                self.assertEqual(calls(trace, "io_submit", image), 1)
                self.assertEqual(client.pread(0, 64 * KiB), b"c" * 64 * KiB)
                # A stable one is written.
                client.trim(0, 64 * KiB)
                with daemon.strace("io_submit,pwritev2") as trace:
                    client.pwrite(0, b"d" * 64 * KiB, flags=nbd.CMD_FLAG_FUA)
                self.assertEqual(calls(trace, "io_submit", image), 0)


if __name__ == "__main__":
    iotests.main()
