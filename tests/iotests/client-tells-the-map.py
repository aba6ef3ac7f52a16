#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client writes, zeroes and discards is known from then on: the file
system is not asked about it, not by a mirror and not by another client."""

import itertools
import os
import random
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, path

SIZE = 64 * MiB
BLOCK = 4 * KiB
BLOCKS = SIZE // BLOCK


def orders():
    """Which blocks to touch, by the name of the order"""
    chance = random.Random(1)
    yield "random", [chance.randrange(BLOCKS) for _ in range(1000)]
    yield "ascending", range(1000)
    yield "descending", range(BLOCKS - 1, BLOCKS - 1001, -1)


class ClientTellsTheMap(unittest.TestCase):
    def setUp(self):
        self.image = disk.written(path("image"), SIZE)
        self.daemon = disk.DiskDaemon(self.image)
        self.client = self.daemon.client()
        self.client.map()
        self.known = self.probes()

    def tearDown(self):
        self.client.close()
        self.daemon.stop()

    def probes(self):
        return self.daemon.cache("disk")["probes"]

    def check_asks_nothing(self):
        with self.daemon.strace("lseek,ioctl") as trace:
            extents = self.client.map()
            self.daemon.mirror(path("copy"))
        self.assertEqual(trace.asked(self.image), 0, trace.lines)
        self.assertEqual(self.probes(), self.known)
        self.assertTrue(iotests.identical(self.image, path("copy")))
        return extents

    def check_zeroes(self, extents, blocks):
        """Exactly these blocks are reported to be zero"""
        zeroes = set()
        for extent in extents:
            if extent.flags & nbd.STATE_ZERO:
                zeroes |= set(range(extent.offset // BLOCK,
                                    (extent.offset + extent.length) // BLOCK))
        self.assertEqual(zeroes, set(blocks))

    def test_zero_writes(self):
        for name, blocks in orders():
            with self.subTest(order=name):
                for block in blocks:
                    self.client.write_zeroes(block * BLOCK, BLOCK)
                extents = self.check_asks_nothing()
                self.check_zeroes(extents, blocks)
                for block in blocks:
                    self.client.pwrite(block * BLOCK, b"x" * BLOCK)
                self.check_zeroes(self.check_asks_nothing(), ())

    def test_zero_writes_without_holes(self):
        for block in range(0, 200, 2):
            self.client.write_zeroes(block * BLOCK, BLOCK,
                                     nbd.CMD_FLAG_NO_HOLE)
        self.check_zeroes(self.check_asks_nothing(), range(0, 200, 2))

    def test_discards(self):
        blocks = range(0, 1000, 3)
        for block in blocks:
            self.client.trim(block * BLOCK, BLOCK)
        self.check_zeroes(self.check_asks_nothing(), blocks)

    def test_partial_blocks(self):
        """Zero is rounded inward, data outward"""
        self.client.write_zeroes(BLOCK - 1, BLOCK + 2)
        self.check_zeroes(self.check_asks_nothing(), [1])
        self.client.write_zeroes(0, 10 * BLOCK)
        self.client.pwrite(2 * BLOCK + 5, b"x")
        self.check_zeroes(self.check_asks_nothing(),
                          itertools.chain((0, 1), range(3, 10)))


class WhileMirrored(unittest.TestCase):
    def test_no_probe_grows_from_what_the_client_does(self):
        image = disk.written(path("image"), SIZE)
        with disk.DiskDaemon(image) as daemon:
            daemon.start_mirror(path("copy"), speed=16 * MiB)
            with daemon.client() as client:
                for _, blocks in orders():
                    for block in blocks:
                        client.write_zeroes(block * BLOCK, BLOCK)
                        if block % 2:
                            client.pwrite(block * BLOCK, b"y" * BLOCK)
                        elif block % 3:
                            client.trim(block * BLOCK, BLOCK)
            daemon.cmd("block-job-set-speed", device="mirror", speed=0)
            daemon.wait_ready()
            daemon.finish()
            stats = daemon.cache("disk")
        # The whole file in a few extents: what is asked in windows of 1 MiB
        # and more, not block by block.
        self.assertLessEqual(stats["probes"], SIZE // MiB)
        self.assertTrue(iotests.identical(image, path("copy")))

    def test_discarded_space_is_freed(self):
        image = disk.written(path("image"), SIZE)
        before = os.stat(image).st_blocks
        with disk.DiskDaemon(image) as daemon:
            daemon.start_mirror(path("copy"), speed=MiB)
            with daemon.client() as client:
                client.trim(SIZE // 2, SIZE // 4)
            self.assertLessEqual(os.stat(image).st_blocks, before * 0.76)
            daemon.cmd("block-job-set-speed", device="mirror", speed=0)
            daemon.wait_ready()
            with daemon.client() as client:
                client.trim(0, SIZE // 4)
            self.assertLessEqual(os.stat(image).st_blocks, before * 0.51)
            daemon.finish()
        self.assertTrue(iotests.identical(image, path("copy")))
        self.assertLessEqual(os.stat(path("copy")).st_blocks, before * 0.52)


if __name__ == "__main__":
    iotests.main()
