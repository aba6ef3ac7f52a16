#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Dirty bitmaps in qcow2 images: those of qemu-img are ours and the other way
round, bit by bit; whenever the daemon is killed, they are right or inconsistent."""

import json
import os
import random
import shutil
import struct
import threading
import unittest

import iotests
import nbd
from iotests import KiB, MiB, QMPError, STOCK_DAEMON, path

SIZE = 8 * MiB
EXTENSION = 0x23852875


class Image:
    """What is in the file, as the format's specification has it"""

    def __init__(self, filename):
        with open(filename, "rb") as file:
            self.data = file.read()
        self.cluster = 1 << self.number(20, ">I")
        self.length = self.number(24, ">Q")

    def number(self, offset, kind):
        return struct.unpack_from(kind, self.data, offset)[0]

    def bitmaps(self):
        """Flags, granularity and marked granules, by name"""
        pos = self.number(100, ">I")
        if not self.number(88, ">Q") & 1:
            return {}
        while self.number(pos, ">I") != EXTENSION:
            pos += 8 + (self.number(pos + 4, ">I") + 7) // 8 * 8
        count, _, _, offset = struct.unpack_from(">IIQQ", self.data, pos + 8)
        result = {}
        for _ in range(count):
            table, entries, flags, _, bits, name_size, extra = \
                struct.unpack_from(">QIIBBHI", self.data, offset)
            begin = offset + 24 + extra
            name = self.data[begin:begin + name_size].decode()
            result[name] = (flags, 1 << bits,
                            self.marked(table, entries, 1 << bits))
            offset += (24 + extra + name_size + 7) // 8 * 8
        return result

    def marked(self, table, entries, granularity):
        marked = set()
        for index in range(entries):
            entry = self.number(table + index * 8, ">Q")
            first = index * self.cluster * 8
            if entry == 0:
                continue
            for bit in range(self.cluster * 8):
                if entry == 1 or self.data[entry + bit // 8] >> bit % 8 & 1:
                    marked.add(first + bit)
        return {bit for bit in marked if bit * granularity < self.length}


class Disk(iotests.Daemon):
    """A daemon with the image as node d, exported"""

    def __init__(self, filename, read_only=False, **options):
        self.filename = filename
        self.socket = path(f"nbd{self.count()}")
        super().__init__("--nbd-server",
                         f"addr.type=unix,addr.path={self.socket}", **options)
        self.options = {"driver": "qcow2", "node-name": "d",
                        "file": {"driver": "file", "filename": filename}}
        self.cmd("blockdev-add", {**self.options, "read-only": read_only})
        self.cmd("block-export-add", {
            "type": "nbd", "id": "e", "node-name": "d", "name": "d",
            "writable": not read_only})

    def end(self):
        self.cmd("quit")
        self.qmp.close()
        self.process.wait(iotests.TIMEOUT)
        self.clean()

    def kill(self):
        super().kill()
        self.clean()

    def stop(self):
        super().stop()
        self.clean()

    def clean(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)

    def client(self):
        return nbd.NBD(self.socket, "d")

    def add(self, name, **more):
        self.cmd("block-dirty-bitmap-add", {
            "node": "d", "name": name, "persistent": True, **more})

    def node(self):
        (node,) = (node for node in self.cmd("query-named-block-nodes")
                   if node["node-name"] == "d")
        rows = sorted(node.get("dirty-bitmaps", []),
                      key=lambda row: row["name"])
        stored = node["image"]["format-specific"]["data"].get("bitmaps", [])
        return rows, sorted(stored, key=lambda row: row["name"])


def make(filename, *options, size=SIZE):
    iotests.qemu_img("create", "-q", "-f", "qcow2", *options, filename,
                     str(size))


def bitmap(*words, **options):
    return iotests.qemu_img("bitmap", *words, **options)


class Bitmaps(unittest.TestCase):
    def setUp(self):
        self.one, self.two = path("one.qcow2"), path("two.qcow2")

    def tearDown(self):
        for name in (self.one, self.two):
            if os.path.exists(name):
                os.unlink(name)

    def assert_info(self, filename):
        # Else its size on disk changes between two looks: data to be allocated
        # later is counted before the blocks of the map are.
        with open(filename, "rb") as file:
            os.fsync(file.fileno())
        ours, stock = ([iotests.run(program, "info", *words, filename).stdout
                        for words in ((), ("--output=json",))]
                       for program in (iotests.IMG, "qemu-img"))
        self.assertEqual(ours[0], stock[0])
        self.assertEqual(json.loads(ours[1]), json.loads(stock[1]))

    def assert_clean(self, filename):
        iotests.qemu_img("check", "-q", filename)
        iotests.run(iotests.IMG, "check", "-q", filename)

    def both(self, act, read_only=False, same_bits=True):
        """The same by both daemons, each with its copy of the image"""
        shutil.copyfile(self.one, self.two)
        answers = []
        for filename, program in ((self.one, iotests.DAEMON),
                                  (self.two, STOCK_DAEMON)):
            disk = Disk(filename, read_only, program=program)
            try:
                answers.append(act(disk))
            except BaseException:
                disk.kill()
                raise
            disk.end()
        self.assertEqual(*answers)
        if same_bits:
            self.assertEqual(Image(self.one).bitmaps(),
                             Image(self.two).bitmaps())
        self.assert_clean(self.one)
        self.assert_info(self.one)
        return answers[0]

    def test_same_bits(self):
        """Made by qemu-img, written to through both, stored by both"""
        def write(disk):
            rand = random.Random(7)
            before = disk.node()
            with disk.client() as client:
                for _ in range(40):
                    offset = rand.randrange(0, SIZE - 64 * KiB, 512)
                    client.pwrite(offset, bytes(rand.randrange(512, 64 * KiB,
                                                              512)))
            return before, disk.node()

        for options in ((), ("-o", "cluster_size=512"),
                        ("-o", "cluster_size=2M,refcount_bits=1")):
            with self.subTest(options=options):
                make(self.one, *options)
                bitmap("--add", "-g", "512", self.one, "fine")
                bitmap("--add", self.one, "coarse")
                bitmap("--add", "--disable", self.one, "off")
                for _ in range(2):
                    self.both(write)
                marked = Image(self.one).bitmaps()
                self.assertGreater(len(marked["fine"][2]), 40)
                self.assertEqual(marked["off"][2], set())

    def test_added_and_removed(self):
        """Made here; stock merges them, and removes them"""
        def act(disk):
            disk.add("a", granularity=4096)
            disk.add("b", disabled=True)
            disk.add("gone")
            with disk.client() as client:
                client.pwrite(64 * KiB, bytes(64 * KiB))
            disk.cmd("block-dirty-bitmap-remove",
                     {"node": "d", "name": "gone"})
            return disk.node()

        make(self.one)
        self.both(act)
        for filename in (self.one, self.two):
            bitmap("--merge", "a", filename, "b")
        marked = Image(self.one).bitmaps()
        self.assertEqual(marked, Image(self.two).bitmaps())
        self.assertEqual(marked["b"][2], {1})
        self.both(lambda disk: disk.node())
        bitmap("--remove", self.one, "a")
        self.both(lambda disk: disk.node())
        bitmap("--remove", self.one, "b")
        self.assertEqual(Image(self.one).bitmaps(), {})
        self.assert_clean(self.one)

    def test_read_only(self):
        def act(disk):
            errors = []
            for command in ("clear", "remove"):
                with self.assertRaises(QMPError) as raised:
                    disk.cmd("block-dirty-bitmap-" + command,
                             {"node": "d", "name": "a"})
                errors.append(raised.exception.desc)
            return errors, disk.node()

        make(self.one)
        bitmap("--add", self.one, "a")
        self.both(act, read_only=True)

    def test_lost(self):
        make(self.one)
        with Disk(self.one, read_only=True) as disk:
            disk.add("a")
            disk.end()
            self.assertIn("Bitmap 'a' is lost: node 'd' is read-only",
                          disk.stderr())
        self.assertEqual(Image(self.one).bitmaps(), {})

    def test_reopened(self):
        def act(disk):
            answers = []
            disk.cmd("block-export-del", {"id": "e"})
            for read_only in (False, True, False, False, True):
                disk.cmd("blockdev-reopen", {"options": [
                    {**disk.options, "read-only": read_only}]})
                answers.append(disk.node())
                if not answers[-1][0][1:]:
                    disk.add("b")
            return answers

        make(self.one)
        bitmap("--add", self.one, "a")
        self.both(act, read_only=True)

    def test_resized(self):
        def act(disk):
            with disk.client() as client:
                client.pwrite(SIZE - 64 * KiB, bytes(64 * KiB))
            disk.cmd("block-export-del", {"id": "e", "mode": "hard"})
            disk.cmd("block_resize", {"node-name": "d", "size": SIZE + MiB})
            answer = disk.node()
            disk.cmd("block_resize", {"node-name": "d", "size": SIZE - MiB})
            return answer, disk.node()

        make(self.one)
        bitmap("--add", self.one, "a")
        self.both(act)

    def test_inconsistent(self):
        """What was not stored cannot be used, only removed."""
        def act(disk):
            answers = [disk.node()]
            for command, data in (
                    ("block-dirty-bitmap-clear", {"node": "d", "name": "a"}),
                    ("block-dirty-bitmap-enable", {"node": "d", "name": "a"}),
                    ("block_resize", {"node-name": "d", "size": MiB})):
                if command == "block_resize":
                    disk.cmd("block-export-del", {"id": "e"})
                with self.assertRaises(QMPError) as raised:
                    disk.cmd(command, data)
                answers.append(raised.exception.desc)
            disk.cmd("block-dirty-bitmap-remove", {"node": "d", "name": "a"})
            return answers, disk.node()

        for program in (iotests.DAEMON, STOCK_DAEMON):
            make(self.one)
            bitmap("--add", self.one, "a")
            Disk(self.one, program=program).kill()
            self.both(act)
            self.assertEqual(Image(self.one).bitmaps(), {})

    def test_refused(self):
        def act(disk):
            with self.assertRaises(QMPError) as raised:
                disk.add("a")
            return raised.exception.desc

        make(self.one, "-o", "compat=0.10")
        shutil.copyfile(self.one, self.two)
        self.assertIn("Cannot store dirty bitmaps in qcow2 v2 files",
                      self.both(act, same_bits=False))

    def test_killed(self):
        """At any moment, also while bitmaps are stored: what says that it is
        right has all that was written"""
        rand = random.Random(3)
        states = set()
        for turn in range(16):
            make(self.one)
            bitmap("--add", "-g", "64k", self.one, "a")
            disk = Disk(self.one)
            acknowledged = []

            def write():
                try:
                    with disk.client() as client:
                        while True:
                            at = rand.randrange(SIZE // (64 * KiB))
                            client.pwrite(at * 64 * KiB, b"x" * 512)
                            acknowledged.append(at)
                except (OSError, EOFError, nbd.ProtocolError):
                    pass

            writer = threading.Thread(target=write)
            writer.start()
            while writer.is_alive() and len(acknowledged) < 3:
                writer.join(0.001)
            timer = threading.Timer(rand.random() * 0.02, disk.process.kill)
            if turn % 2:
                disk.process.terminate()
            timer.start()
            disk.process.wait(iotests.TIMEOUT)
            timer.cancel()
            disk.kill()
            writer.join()
            self.assert_info(self.one)
            for program in ("qemu-img", iotests.IMG):
                check = iotests.run(program, "check", "--output=json",
                                    self.one, status=None)
                found = json.loads(check.stdout)
                self.assertEqual(found["check-errors"], 0)
                self.assertNotIn("corruptions", found)
            flags, _, marked = Image(self.one).bitmaps()["a"]
            states.add(flags & 1)
            if not flags & 1:
                self.assertLessEqual(set(acknowledged), marked)
        self.assertIn(1, states)


if __name__ == "__main__":
    iotests.main()
