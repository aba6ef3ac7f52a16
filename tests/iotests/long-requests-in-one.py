#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""With extended headers, one request asks for, zeroes or trims any length; a
client that knows nothing of them sees the same disk."""

import errno
import os
import unittest

import disk
import iotests
import nbd
from iotests import GiB, KiB, MiB, path

SIZE = 1024 * GiB
DATA = 64 * KiB


class LongRequestsInOne(unittest.TestCase):
    def setUp(self):
        self.image = disk.sparse(path("image"), SIZE)
        self.offsets = [0, 5 * GiB + 128 * KiB, 700 * GiB, SIZE - DATA]
        with open(self.image, "r+b") as file:
            for offset in self.offsets:
                file.seek(offset)
                file.write(b"\x5a" * DATA)
        self.daemon = disk.DiskDaemon(self.image)

    def tearDown(self):
        self.daemon.stop()
        os.unlink(self.image)

    def data(self, extents):
        return [(e.offset, e.length) for e in extents
                if not e.flags & nbd.STATE_ZERO]

    def test_map(self):
        """The whole disk's map, in one question"""
        with self.daemon.client(extended=True) as client:
            extents = client.block_status(0, SIZE)
            self.assertEqual(sum(e.length for e in extents), SIZE)
            self.assertGreater(max(e.length for e in extents), 1 << 32)
            self.assertEqual(self.data(extents),
                             [(offset, DATA) for offset in self.offsets])
            (one,) = client.block_status(DATA, SIZE - DATA,
                                         nbd.CMD_FLAG_REQ_ONE)
            self.assertEqual((one.length, one.flags),
                             (self.offsets[1] - DATA, 3))
            with self.daemon.client() as compact:
                self.assertEqual(compact.map(step=4 * GiB - 4 * KiB), extents)
                self.assertEqual(client.map(), extents)

    def test_read_write(self):
        with self.daemon.client(extended=True) as client:
            client.pwrite(DATA, b"\x11" * DATA, nbd.CMD_FLAG_FUA)
            self.assertEqual(client.pread(0, 3 * DATA),
                             b"\x5a" * DATA + b"\x11" * DATA + bytes(DATA))
            with self.assertRaises(OSError) as raised:
                client.pread(0, 33 * MiB)
            self.assertEqual(raised.exception.errno, errno.EINVAL)
            with self.assertRaises(OSError) as raised:
                client.trim(0, SIZE + 512)
            self.assertEqual(raised.exception.errno, errno.EINVAL)
            client.flush()

    def test_zero(self):
        """All but the last 4 KiB and the first, in one request"""
        with self.daemon.client(extended=True) as client:
            client.write_zeroes(4 * KiB, SIZE - 8 * KiB)
            self.assertEqual(self.data(client.block_status(0, SIZE)),
                             [(0, 4 * KiB), (SIZE - 4 * KiB, 4 * KiB)])
            self.assertEqual(client.pread(0, 2 * DATA),
                             b"\x5a" * 4 * KiB + bytes(2 * DATA - 4 * KiB))
            client.write_zeroes(0, SIZE, nbd.CMD_FLAG_FUA)
            self.assertEqual(self.data(client.block_status(0, SIZE)), [])

    def test_trim(self):
        with self.daemon.client(extended=True) as client:
            client.trim(0, SIZE, nbd.CMD_FLAG_FUA)
            client.flush()
            self.assertEqual(self.data(client.block_status(0, SIZE)), [])
        self.daemon.stop()
        self.assertLess(os.stat(self.image).st_blocks * 512, MiB)

    def test_many_extents(self):
        """A fragmented disk: 32,768 extents a reply, of either kind"""
        name = path("many")
        disk.sparse(name, 512 * MiB)
        with open(name, "r+b") as file:
            for offset in range(0, 512 * MiB, 8 * KiB):
                os.pwrite(file.fileno(), b"x", offset)
            # Where pages are on their way holes may be told as data.
            os.fsync(file.fileno())
        with disk.DiskDaemon(name) as daemon:
            for extended in False, True:
                with daemon.client(extended=extended) as client:
                    extents = client.block_status(0, 512 * MiB)
                    self.assertEqual(len(extents), 32768)
                    whole = client.map(step=512 * MiB)
                    self.assertEqual(len(whole), 512 * MiB // (4 * KiB))
        os.unlink(name)


if __name__ == "__main__":
    iotests.main()
