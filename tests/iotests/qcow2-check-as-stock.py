#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""seekless-img check finds in qcow2 images what qemu-img finds, number by
number, and what it mends is mended for qemu-img, too."""

import json
import os
import shutil
import struct
import unittest

import iotests
from iotests import KiB, MiB, path

IMG = os.path.join(iotests.BUILD_DIR, "tools", "seekless-img")
COPIED = 1 << 63
COMPRESSED = 1 << 62
OFFSET = 0x00fffffffffffe00

FORMATS = [
    {"cluster_size": "65536"},
    {"cluster_size": "512"},
    {"cluster_size": "4096", "refcount_bits": "1"},
    {"cluster_size": "4096", "refcount_bits": "2"},
    {"cluster_size": "4096", "refcount_bits": "64"},
    {"cluster_size": "1024", "refcount_bits": "8"},
    {"cluster_size": "16384", "compat": "0.10"},
]


class Image:
    """A qcow2 file, the numbers in which can be read and changed"""

    def __init__(self, filename):
        self.filename = filename
        head = self.read(0, 104)
        self.cluster_bits = struct.unpack(">I", head[20:24])[0]
        self.cluster = 1 << self.cluster_bits
        self.l1_entries, self.l1, self.reftable = struct.unpack(
            ">IQQ", head[36:56])
        version = struct.unpack(">I", head[4:8])[0]
        order = struct.unpack(">I", head[96:100])[0] if version > 2 else 4
        self.refcount_bits = 1 << order

    def read(self, offset, length):
        with open(self.filename, "rb") as file:
            file.seek(offset)
            return file.read(length)

    def write(self, offset, data):
        with open(self.filename, "r+b") as file:
            file.seek(offset)
            file.write(data)

    def get(self, offset):
        return struct.unpack(">Q", self.read(offset, 8))[0]

    def set(self, offset, value):
        self.write(offset, struct.pack(">Q", value))

    def l2(self, index=0):
        return self.get(self.l1 + 8 * index) & OFFSET

    def set_refcount(self, offset, value):
        """In the first refcount block, or wherever its cluster has it"""
        per_block = self.cluster * 8 // self.refcount_bits
        cluster = offset >> self.cluster_bits
        block = self.get(self.reftable + 8 * (cluster // per_block))
        bit = cluster % per_block * self.refcount_bits
        if self.refcount_bits < 8:
            old = self.read(block + bit // 8, 1)[0]
            mask = ((1 << self.refcount_bits) - 1) << bit % 8
            new = bytes([old & ~mask | value << bit % 8])
        else:
            new = value.to_bytes(self.refcount_bits // 8, "big")
        self.write(block + bit // 8, new)


def leak(image):
    image.set(image.l2() + 8, 0)
    image.set(image.l2() + 16, 0)


def refcount_too_low(image):
    """One cluster at two places"""
    image.set(image.l2() + 8, image.get(image.l2()))


def refcount_too_high(image):
    image.set_refcount(image.l1, 0 if image.refcount_bits == 1 else 2)


def used_but_free(image):
    image.set_refcount(image.get(image.l2()) & OFFSET, 0)


def not_copied(image):
    image.set(image.l2(), image.get(image.l2()) & ~COPIED)
    image.set(image.l1, image.get(image.l1) & ~COPIED)


def block_with_reserved_bits(image):
    image.set(image.reftable, image.get(image.reftable) + 16)


def block_unaligned(image):
    image.set(image.reftable, image.get(image.reftable) + image.cluster // 2)


def no_block(image):
    image.set(image.reftable, 0)


def block_is_l1(image):
    image.set(image.reftable, image.l1)


def beyond_the_end(image):
    image.set(image.l2(), 1 << 45 | COPIED)


def l2_beyond_the_end(image):
    image.set(image.l1, 1 << 45 | COPIED)


def reserved_bits(image):
    image.set(image.l2(), image.get(image.l2()) | 8)
    image.set(image.l1, image.get(image.l1) | 1 << 60)


def two_l1_entries_one_table(image):
    if image.l1_entries == 1:
        leak(image)
    image.set(image.l1 + 8, image.l2() | COPIED)


DAMAGES = [leak, refcount_too_low, refcount_too_high, used_but_free,
           not_copied, block_with_reserved_bits, block_unaligned, no_block, block_is_l1, beyond_the_end,
           l2_beyond_the_end, reserved_bits, two_l1_entries_one_table]


def checked(program, filename, *options):
    """Exit status and numbers"""
    result = iotests.run(program, "check", "--output=json", "-f", "qcow2",
                         *options, filename, status=None)
    if not result.stdout.strip():
        return result.returncode, {"stderr": result.stderr}
    numbers = json.loads(result.stdout)
    del numbers["filename"]
    return result.returncode, numbers


class Qcow2CheckAsStock(unittest.TestCase):
    def make(self, options, *commands):
        options = options or FORMATS[0]
        filename = path("image.qcow2")
        iotests.qemu_img(
            "create", "-q", "-f", "qcow2", "-o",
            ",".join(f"{k}={v}" for k, v in options.items()), filename, 4 * MiB)
        for command in commands:
            iotests.run("qemu-io", "-f", "qcow2", "-c", command, filename)
        return filename

    def both(self, filename, *options):
        """The same from both, of copies: what it is, and the copies"""
        ours, stocks = path("ours.qcow2"), path("stocks.qcow2")
        shutil.copyfile(filename, ours)
        shutil.copyfile(filename, stocks)
        answer = checked(IMG, ours, *options)
        stock = checked("qemu-img", stocks, *options)
        return answer, stock, ours, stocks

    def assert_same(self, filename):
        answer, stock, *_ = self.both(filename)
        self.assertEqual(answer, stock)
        return answer

    def test_images_in_order(self):
        for options in FORMATS:
            with self.subTest(**options):
                filename = self.make(
                    options, "write -P 1 0 1M", "write -P 2 3M 100k",
                    "discard 512k 64k", "write -z 2M 128k")
                status, numbers = self.assert_same(filename)
                self.assertEqual(status, 0)
                self.assertGreater(numbers["allocated-clusters"], 0)
                if options.get("refcount_bits") == "1":
                    continue
                iotests.qemu_img("snapshot", "-c", "one", filename)
                iotests.run("qemu-io", "-f", "qcow2", "-c",
                            "write -P 3 256k 700k", filename)
                iotests.qemu_img("snapshot", "-c", "two", filename)
                self.assertEqual(self.assert_same(filename)[0], 0)

    def test_compressed(self):
        filename = self.make({}, "write -P 1 0 1M", "write -P 2 3M 100k")
        for options in ("cluster_size=65536", "cluster_size=4096",
                        "compression_type=zstd"):
            packed = path("packed.qcow2")
            iotests.qemu_img("convert", "-c", "-f", "qcow2", "-O", "qcow2",
                             "-o", options, filename, packed)
            status, numbers = self.assert_same(packed)
            self.assertEqual(status, 0)
            self.assertGreater(numbers["compressed-clusters"], 0)
            os.remove(packed)

    def test_bitmaps(self):
        filename = self.make({}, "write 0 1M")
        iotests.qemu_img("bitmap", "--add", filename, "b0")
        iotests.qemu_img("bitmap", "--add", "-g", 64 * KiB, filename, "b1")
        iotests.run("qemu-io", "-f", "qcow2", "-c", "write 0 2M", filename)
        self.assertEqual(self.assert_same(filename)[0], 0)

    def test_damages(self):
        """What is found; what is mended, and how much of it is left"""
        for options in FORMATS:
            whole = self.make(options, "write -P 1 0 256k", "write -P 2 3M 64k")
            for damage in DAMAGES:
                damaged = path("damaged.qcow2")
                shutil.copyfile(whole, damaged)
                damage(Image(damaged))
                for fix in ([], ["-r", "leaks"], ["-r", "all"]):
                    with self.subTest(damage=damage.__name__, fix=fix,
                                      **options):
                        self.check_damage(damaged, fix)

    def check_damage(self, filename, fix):
        answer, stock, ours, stocks = self.both(filename, *fix)
        if fix or answer[1]["check-errors"]:
            # New tables may be elsewhere; what is used ends where it did, even
            # if its refcounts cannot be read.
            answer[1].pop("image-end-offset", None)
            stock[1].pop("image-end-offset", None)
        if "stderr" in stock[1]:
            # Stock gives up, without numbers; here it may have been mended.
            self.assertEqual(stock[0], 1)
            self.assertIn(answer[0], (0, 1))
        else:
            self.assertEqual(answer, stock)
        if not fix:
            self.assertNotEqual(answer[0], 0)
        elif fix[1] == "all" and answer[0] == 0:
            iotests.qemu_img("check", "-q", ours)
            if stock[0] == 0:
                iotests.qemu_img("compare", "-q", "-f", "qcow2", "-F", "qcow2",
                                 ours, stocks)


if __name__ == "__main__":
    iotests.main()
