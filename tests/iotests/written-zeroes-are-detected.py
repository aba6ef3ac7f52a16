#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes of nothing but zeroes are done as zero-writes where a node is told to
detect them, with the same effect on the disk as by QEMU's storage daemon."""

import contextlib
import os
import unittest

import iotests
import nbd
from iotests import KiB, MiB, QMPError, path

MODES = {
    "off": "discard=unmap",
    "on": "discard=unmap,detect-zeroes=on",
    "unmap": "discard=unmap,detect-zeroes=unmap",
    "on, without discard": "detect-zeroes=on",
}


class WrittenZeroesAreDetected(unittest.TestCase):

    image = path("image")

    @contextlib.contextmanager
    def export(self, options, program=iotests.DAEMON):
        """A daemon with a MiB of data as its disk, and a client of it"""
        with open(self.image, "wb") as file:
            file.write(b"x" * MiB)
            os.fsync(file.fileno())
        with iotests.Daemon(
                "--blockdev",
                f"file,node-name=n,filename={self.image},{options}",
                "--nbd-server", f"addr.type=unix,addr.path={path('nbd')}",
                "--export", "nbd,id=e,node-name=n,writable=on",
                program=program) as daemon:
            with nbd.NBD(path("nbd"), "n") as client:
                yield daemon, client

    def write(self, client):
        """Zeroes of any alignment, with data between them"""
        client.pwrite(64 * KiB, bytes(128 * KiB), nbd.CMD_FLAG_FUA)
        client.pwrite(256 * KiB, bytes(64 * KiB - 1) + b"y")
        client.pwrite(400 * KiB + 100, bytes(64 * KiB))
        client.pwrite(600 * KiB + 7, bytes(11))
        client.flush()

    def content(self):
        expected = bytearray(b"x" * MiB)
        expected[64 * KiB:192 * KiB] = bytes(128 * KiB)
        expected[256 * KiB:320 * KiB] = bytes(64 * KiB - 1) + b"y"
        expected[400 * KiB + 100:464 * KiB + 100] = bytes(64 * KiB)
        expected[600 * KiB + 7:600 * KiB + 18] = bytes(11)
        return bytes(expected)

    def test_as_stock(self):
        for mode, options in MODES.items():
            with self.subTest(mode):
                blocks = []
                for program in iotests.DAEMON, iotests.STOCK_DAEMON:
                    with self.export(options, program) as (_, client):
                        self.write(client)
                        blocks.append(os.stat(self.image).st_blocks)
                    with open(self.image, "rb") as file:
                        self.assertEqual(file.read(), self.content())
                self.assertEqual(blocks[0], blocks[1])

    def test_map_knows(self):
        """What was detected is known to be zero, and nobody is asked"""
        for mode, options in MODES.items():
            with self.subTest(mode), self.export(options) as (daemon, client):
                before = daemon.cache("n")
                client.pwrite(64 * KiB, bytes(128 * KiB))
                after = daemon.cache("n")
                zeroes = after["learned-zeroes"] - before["learned-zeroes"]
                writes = after["learned-writes"] - before["learned-writes"]
                self.assertEqual((zeroes, writes),
                                 (0, 128 * KiB) if mode == "off"
                                 else (128 * KiB, 0))

    def test_where_it_is_asked_for(self):
        """At a node above, in its own statistics a write all the same"""
        with self.export("discard=unmap") as (daemon, client):
            daemon.cmd("blockdev-add", driver="raw", node_name="r", file="n",
                       detect_zeroes="on")
            daemon.cmd("block-export-add", type="nbd", id="e2", node_name="r",
                       writable=True)
            with nbd.NBD(path("nbd"), "r") as above:
                above.pwrite(0, bytes(64 * KiB))
            client.pwrite(64 * KiB, bytes(64 * KiB))
            self.assertEqual(daemon.cache("n")["learned-zeroes"], 64 * KiB)
            (stats,) = [row["stats"] for row in daemon.cmd("query-blockstats")
                        if row["node-name"] == "r"]
            self.assertEqual((stats["wr_operations"], stats["zero_operations"]),
                             (1, 0))

    def test_unmap_needs_discard(self):
        for program in iotests.DAEMON, iotests.STOCK_DAEMON:
            with iotests.Daemon(program=program) as daemon:
                options = {"driver": "null-co", "node-name": "n",
                           "detect-zeroes": "unmap"}
                with self.assertRaises(QMPError) as caught:
                    daemon.cmd("blockdev-add", options)
                self.assertEqual(caught.exception.error_class, "GenericError")
                self.assertIn("discard", caught.exception.desc)
                daemon.cmd("blockdev-add", options, discard="unmap")
                # What a parent passes on, its child does not ignore.
                daemon.cmd("blockdev-add", driver="raw", node_name="r", file={
                    "driver": "null-co", "detect-zeroes": "unmap"})


iotests.main()
