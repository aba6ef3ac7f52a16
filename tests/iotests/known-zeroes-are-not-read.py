#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known to be zero is not read from the disk, and sent as a hole to
clients that take holes; reads may teach what is zero."""

import itertools
import os
import random
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, path, run

SIZE = 16 * MiB


class KnownZeroesAreNotRead(unittest.TestCase):
    def setUp(self):
        self.image = disk.alternating(path("image"), SIZE, 256 * KiB,
                                      256 * KiB)
        with open(self.image, "rb") as file:
            self.content = file.read()

    def tearDown(self):
        os.unlink(self.image)

    def numbers(self, daemon):
        stats = daemon.cache("disk")
        return stats["reads-skipped"], stats["bytes-not-read"]

    def read_all(self, client, size):
        for offset in range(0, SIZE, size):
            got = client.pread(offset, min(size, SIZE - offset))
            self.assertEqual(got, self.content[offset:offset + size])

    def test_not_read(self):
        """No system call reads zeroes, once they are known"""
        for direct, structured in itertools.product(("", ",cache.direct=on"),
                                                    (True, False)):
            with disk.DiskDaemon(self.image, direct) as daemon, \
                    daemon.client(structured=structured) as client:
                self.read_all(client, MiB)
                self.assertEqual(self.numbers(daemon), (0, 0))
                with daemon.client() as other:
                    other.map()
                with daemon.strace("preadv2") as trace:
                    self.read_all(client, 256 * KiB)
                self.assertEqual(trace.count("preadv2"), SIZE // (512 * KiB))
                self.assertEqual(self.numbers(daemon),
                                 (SIZE // (512 * KiB), SIZE // 2))
                # small ones that lie in zeroes, too
                with daemon.strace("preadv2") as trace:
                    client.pread(256 * KiB, 4 * KiB)
                    client.pread(300 * KiB + 5, 1)
                self.assertEqual(trace.count("preadv2"), 0)

    def test_random(self):
        """All reads are right, of any alignment, cut anywhere"""
        chance = random.Random(3)
        for direct, extended in itertools.product(("", ",cache.direct=on"),
                                                  (False, True)):
            with disk.DiskDaemon(self.image, direct) as daemon, \
                    daemon.client(extended=extended) as client:
                client.map()
                for _ in range(200):
                    offset = chance.randrange(SIZE)
                    length = 1 + chance.randrange(min(SIZE - offset, 3 * MiB))
                    flags = chance.choice((0, nbd.CMD_FLAG_DF))
                    self.assertEqual(client.pread(offset, length, flags),
                                     self.content[offset:offset + length])

    def test_holes(self):
        with disk.DiskDaemon(self.image) as daemon, daemon.client() as client:
            unknown = client.request(nbd.CMD_READ, 0, MiB)
            self.assertEqual(unknown.holes, 0)
            before = daemon.cache("disk")["probes"]
            client.map()
            known = client.request(nbd.CMD_READ, 0, MiB)
            self.assertEqual(known.holes, 512 * KiB)
            self.assertEqual([(offset, len(piece))
                              for offset, piece in known.pieces],
                             [(i * 256 * KiB, 256 * KiB) for i in range(4)])
            whole = client.request(nbd.CMD_READ, 256 * KiB + 1, 10)
            self.assertEqual((whole.holes, len(whole.pieces)), (10, 1))
            # one piece is asked for
            mixed = client.request(nbd.CMD_READ, 0, MiB,
                                   flags=nbd.CMD_FLAG_DF)
            self.assertEqual((mixed.holes, len(mixed.pieces)), (0, 1))
            # what a client writes is data at once
            client.pwrite(300 * KiB, b"x")
            self.assertEqual(client.pread(256 * KiB, 256 * KiB),
                             bytes(44 * KiB) + b"x" + bytes(212 * KiB - 1))
            client.write_zeroes(0, SIZE)
            self.assertEqual(client.request(nbd.CMD_READ, 0, SIZE).holes, SIZE)
            self.assertGreater(daemon.cache("disk")["probes"], before)

    def test_no_probe(self):
        """A read asks the file system nothing"""
        with disk.DiskDaemon(self.image) as daemon, daemon.client() as client:
            with daemon.strace("lseek,ioctl") as trace:
                self.read_all(client, MiB)
            self.assertEqual(trace.asked(self.image), 0, trace.lines)

    def test_others_may_write(self):
        """Without the knowledge that nobody else writes, all is read"""
        for options in (",locking=off", ",status-cache=data-only",
                        ",status-cache=off"):
            with disk.DiskDaemon(self.image, options) as daemon, \
                    daemon.client() as client:
                client.map()
                self.read_all(client, MiB)
                client.write_zeroes(0, 0)
                self.assertEqual(client.request(nbd.CMD_READ, 0, MiB).holes, 0)
                self.assertEqual(self.numbers(daemon), (0, 0))

    def test_stock_clients(self):
        with disk.DiskDaemon(self.image) as daemon:
            with daemon.client() as client:
                client.map()
            run("nbdcopy", "--no-extents", daemon.uri, path("copy"))
            self.assertTrue(iotests.identical(self.image, path("copy")))
            self.assertEqual(self.numbers(daemon)[1], SIZE // 2)
            run("qemu-img", "dd", "-f", "raw", "-O", "raw", "bs=1M",
                f"if={daemon.uri}", f"of={path('copy')}")
            self.assertTrue(iotests.identical(self.image, path("copy")))
            self.assertEqual(self.numbers(daemon)[1], SIZE)
        os.unlink(path("copy"))


class ReadsTeach(unittest.TestCase):
    def test_reads_teach(self):
        """Zeroes that were written as data, and read"""
        image = disk.written(path("image"), SIZE)
        with open(image, "r+b") as file:
            os.pwrite(file.fileno(), bytes(4 * MiB), 2 * MiB)
        for learn, direct in itertools.product(("on", "off"), ("on", "off")):
            options = f",status-cache-learn-reads={learn},cache.direct={direct}"
            with disk.DiskDaemon(image, options) as daemon, \
                    daemon.client() as client:
                self.assertEqual(len(client.map()), 1)
                for offset in range(0, SIZE, MiB):
                    client.pread(offset, MiB)
                stats = daemon.cache("disk")
                zeroes = 4 * MiB if learn == "on" else 0
                self.assertEqual(stats["learned-reads"], zeroes)
                self.assertEqual(stats["bytes-zero"], zeroes)
                self.assertEqual(
                    [(e.offset, e.length) for e in client.map()
                     if e.flags & nbd.STATE_ZERO],
                    [(2 * MiB, zeroes)] if zeroes else [])
                self.assertEqual(client.request(nbd.CMD_READ, 2 * MiB,
                                                MiB).holes,
                                 MiB if zeroes else 0)
                # a write is data again; what is not read whole is not told
                client.pwrite(3 * MiB, bytes(8 * KiB))
                if direct == "off":  # else whole blocks are read, anyway
                    client.pread(3 * MiB + 1, 6 * KiB)
                stats = daemon.cache("disk")
                self.assertEqual(stats["bytes-zero"],
                                 zeroes - 8 * KiB if zeroes else 0)
        os.unlink(image)

    def test_a_mirror_teaches(self):
        image = disk.written(path("image"), SIZE)
        with open(image, "r+b") as file:
            os.pwrite(file.fileno(), bytes(4 * MiB), 2 * MiB)
        with disk.DiskDaemon(image, ",status-cache-learn-reads=on") as daemon:
            daemon.mirror(path("copy"))
            self.assertEqual(daemon.cache("disk")["learned-reads"], 4 * MiB)
        self.assertTrue(iotests.identical(image, path("copy")))
        os.unlink(image)
        os.unlink(path("copy"))


if __name__ == "__main__":
    iotests.main()
