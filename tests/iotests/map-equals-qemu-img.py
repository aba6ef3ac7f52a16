#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The block status that the daemon tells is true: zeroes are zeroes, and all
holes that qemu-img finds in the same file are found, on every file system."""

import os
import random
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, path

SIZE = 8 * MiB + 1536  # not a multiple of any block


def make(name):
    """Data, holes, unwritten extents and an odd end"""
    chance = random.Random(name)
    disk.sparse(name, SIZE)
    with open(name, "r+b") as file:
        for _ in range(200):
            offset = chance.randrange(SIZE)
            length = min(chance.choice((1, 511, 4096, 70000)), SIZE - offset)
            kind = chance.randrange(4)
            if kind < 2:
                file.seek(offset)
                file.write(chance.randbytes(length))
                file.flush()
            elif kind == 2:
                os.posix_fallocate(file.fileno(), offset, length)
            else:
                os.fsync(file.fileno())
                iotests.run("fallocate", "--punch-hole", "--offset", offset,
                            "--length", length, name)
        os.fsync(file.fileno())
    return name


class MapEqualsQemuImg(unittest.TestCase):
    def zeroes(self, rows):
        """Byte ranges that are said to be zero"""
        ranges = []
        for row in rows:
            if row["zero"] and ranges and ranges[-1][1] == row["start"]:
                ranges[-1] = (ranges[-1][0], row["start"] + row["length"])
            elif row["zero"]:
                ranges.append((row["start"], row["start"] + row["length"]))
        return ranges

    def check_rows(self, rows):
        """Whole, in order, as qemu-img would print them"""
        offset = 0
        for row in rows:
            self.assertEqual(row["start"], offset)
            self.assertGreater(row["length"], 0)
            self.assertEqual(row["depth"], 0)
            self.assertTrue(row["present"])
            self.assertEqual(row["data"], not row["zero"])
            self.assertEqual(row["offset"], offset)
            offset += row["length"]
        self.assertEqual(offset, SIZE)

    def check_true(self, zeroes, name):
        with open(name, "rb") as file:
            content = file.read()
        for start, end in zeroes:
            self.assertEqual(content[start:end].strip(b"\0"), b"",
                             f"data in the zeroes at {start}")

    def check_covers(self, found, stock):
        """No zeroes that qemu-img sees are missed. (The converse is no fault:
        pages make qemu-img see data in unwritten extents.)"""
        for start, end in stock:
            self.assertTrue(
                any(one <= start and end <= other for one, other in found),
                f"[{start}, {end}) is not among {found}")

    def check(self, folder, options=""):
        image = make(os.path.join(folder, "image"))
        stock = self.zeroes(iotests.qemu_img_map("-f", "raw", image))
        with disk.DiskDaemon(image, options) as daemon:
            asked, known = daemon.map(), daemon.map()
            over_nbd = iotests.nbdinfo_map(daemon.uri)
        self.check_rows(asked)
        self.assertEqual(self.zeroes(known), self.zeroes(asked))
        self.assertTrue(all(row["known"] for row in known))
        self.assertFalse(all(row["known"] for row in asked))
        self.check_true(self.zeroes(asked), image)
        self.check_covers(self.zeroes(asked), stock)
        self.assertEqual(
            [(row["offset"], row["offset"] + row["length"])
             for row in over_nbd if row["type"] & nbd.STATE_ZERO],
            self.zeroes(known))

    def test_here(self):
        self.check(iotests.scratch.path)

    def test_strategies(self):
        for strategy in ("seek", "fiemap"):
            with self.subTest(strategy=strategy):
                self.check(iotests.scratch.path, f",status-probe={strategy}")

    def test_file_systems(self):
        for kind in iotests.FILE_SYSTEMS:
            with iotests.file_system(kind) as folder:
                for strategy in ("auto", "seek", "fiemap"):
                    with self.subTest(kind=kind, strategy=strategy):
                        self.check(folder, f",status-probe={strategy}")

    def test_memory_file_system(self):
        with iotests.memory_file_system() as folder:
            self.check(folder)

    def test_pieces(self):
        """A limit, and an offset in the middle of a row"""
        image = disk.alternating(path("image"), MiB)
        with disk.DiskDaemon(image) as daemon:
            whole = daemon.map()
            answer = daemon.cmd("x-query-block-map", node_name="disk",
                                offset=96 * KiB, limit=2)
        self.assertEqual(len(whole), 16)
        self.assertEqual([(row["start"], row["length"])
                          for row in answer["entries"]],
                         [(96 * KiB, 32 * KiB), (128 * KiB, 64 * KiB)])
        self.assertEqual(answer["next-offset"], 192 * KiB)

    def test_without_a_cache(self):
        image = make(path("image"))
        stock = self.zeroes(iotests.qemu_img_map("-f", "raw", image))
        for mode in ("off", "data-only"):
            with disk.DiskDaemon(image, f",status-cache={mode}") as daemon:
                for _ in range(2):
                    rows = daemon.map()
                    self.check_rows(rows)
                    self.check_covers(self.zeroes(rows), stock)
        # Reading fills the page cache, and that makes holes look like data.
        self.check_true(self.zeroes(rows), image)


if __name__ == "__main__":
    iotests.main()
