#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""seekless-img shows what a running daemon knows of a disk, and makes it ask
nobody."""

import contextlib
import json
import os
import socket
import threading
import time
import unittest

import disk
import iotests
from iotests import KiB, MiB, path

SIZE = 4 * MiB


def live(*words, status=0):
    return iotests.run(iotests.IMG, "map", "--qmp", *words, status=status)


@contextlib.contextmanager
def fake_monitor(name, *answers):
    """A socket whose first client gets these bytes, one after each command"""
    def serve():
        client, _ = listener.accept()
        with client, client.makefile("rb") as commands:
            for answer in answers:
                client.sendall(answer)
                commands.readline()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen(1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join(iotests.TIMEOUT)
            os.unlink(name)


class ImgShowsLiveMaps(unittest.TestCase):
    def daemon(self, options=""):
        self.socket = path("monitor")
        image = disk.alternating(path("image"), SIZE)
        return disk.DiskDaemon(image, options,
                               extra=iotests.second_monitor(self.socket))

    def entries(self, *words):
        answer = json.loads(live("--output=json", *words, self.socket,
                                 "disk").stdout)
        return answer["entries"], answer["status-cache"]

    def test_nothing_is_asked(self):
        with self.daemon() as daemon:
            entries, cache = self.entries()
            self.assertEqual([(row["start"], row["length"], row["known"])
                              for row in entries], [(0, SIZE, False)])
            self.assertEqual(cache["node-name"], "disk")
            self.assertEqual(cache["probes"], 0)
            # A client asks about the beginning.
            daemon.cmd("x-query-block-map", node_name="disk", limit=1)
            before = daemon.cache("disk")
            entries, _ = self.entries()
            self.assertTrue(entries[0]["known"])
            live("--picture=-", self.socket, "disk")
            live(self.socket, "disk")
            self.assertEqual(daemon.cache("disk"), before)

    def test_known(self):
        with self.daemon() as daemon:
            expected = daemon.map()
            entries, _ = self.entries()
            for row in expected:
                row["known"] = True
            self.assertEqual(entries, expected)
            entries, _ = self.entries("--start-offset=96k", "--max-length=64k")
            self.assertEqual(
                [(row["start"], row["length"], row["data"])
                 for row in entries],
                [(96 * KiB, 32 * KiB, False), (128 * KiB, 32 * KiB, True)])

    def test_many_entries(self):
        """More than one answer has"""
        self.socket = path("monitor")
        image = disk.alternating(path("image"), 96 * MiB, 4 * KiB, 4 * KiB)
        with disk.DiskDaemon(image, extra=iotests.second_monitor(
                self.socket)) as daemon:
            expected = daemon.map()
            self.assertGreater(len(expected), 20000)
            self.assertEqual([row["start"] for row in self.entries()[0]],
                             [row["start"] for row in expected])

    def test_human(self):
        with self.daemon() as daemon:
            lines = live(self.socket, "disk").stdout.splitlines()
            self.assertEqual(lines[1].split(),
                             ["0", hex(SIZE), "0", "0", "unknown"])
            self.assertRegex(lines[2], r"^Status cache: lookups \d+, hits ")
            daemon.map()
            lines = live(self.socket, "disk").stdout.splitlines()
            self.assertEqual(lines[2].split(),
                             ["0x10000", "0x10000", "0x10000", "0", "zero"])

    def test_without_a_cache(self):
        with self.daemon() as daemon:
            daemon.cmd("blockdev-add", driver="null-co", node_name="null",
                       size=MiB)
            self.assertIn("No status cache of its own",
                          live(self.socket, "null").stdout)
            answer = json.loads(live("--output=json", self.socket,
                                     "null").stdout)
            self.assertIsNone(answer["status-cache"])

    def test_picture(self):
        with self.daemon() as daemon:
            shown = live("--picture=-", self.socket, "disk").stdout
            self.assertIn("?" * 64, shown)
            self.assertIn(f"disk: 4 MiB ({SIZE} bytes)", shown)
            daemon.map()
            shown = live("--picture=-", self.socket, "disk").stdout
            self.assertNotIn("?", shown)
            self.assertIn("2097152 bytes   50.0 %", shown)
            self.assertEqual(
                live(f"--picture={path('map.svg')}", self.socket,
                     "disk").stdout, "")
            os.unlink(path("map.svg"))

    def test_busy(self):
        """The monitor talks to somebody else."""
        with self.daemon(), iotests.connect_monitor(self.socket):
            start = time.monotonic()
            stderr = live(self.socket, "disk", status=1).stderr
            self.assertIn("another client", stderr)
            self.assertIn(self.socket, stderr)
            self.assertLess(time.monotonic() - start, iotests.TIMEOUT / 2)
        self.assertFalse(os.path.exists(self.socket))

    def test_refused(self):
        with self.daemon():
            for words, reason in (
                    ((path("nosuch"), "disk"), path("nosuch")),
                    ((path("image"), "disk"), path("image")),
                    (("x" * 200, "disk"), "too long"),
                    ((self.socket, "nosuch"), "'nosuch'"),
                    ((self.socket,), "Expecting"),
                    (("-U", self.socket, "disk"), "-U"),
                    (("--start-offset=1G", self.socket, "disk"),
                     "1073741824")):
                with self.subTest(words=words):
                    result = live(*words, status=1)
                    self.assertIn(reason, result.stderr)
                    self.assertEqual(result.stdout, "")

    def test_stock_daemon(self):
        """It has no such command, and says so."""
        disk.sparse(path("image"), MiB)
        with iotests.Daemon(
                "--blockdev", f"file,node-name=disk,filename={path('image')}",
                *iotests.second_monitor(path("monitor")),
                program=iotests.STOCK_DAEMON):
            self.assertIn("x-query-block-map", live(
                path("monitor"), "disk", status=1).stderr)

    def test_strangers(self):
        """What listens there is no daemon, or none in its right mind."""
        greeting, done = b'{"QMP": {}}\n', b'{"return": {}}\n'
        nodes = (b'{"return": [{"node-name": "disk",'
                 b' "image": {"virtual-size": 1048576}}]}\n')
        entry = (b'{"return": {"next-offset": 0, "entries": [{"start": 0,'
                 b' "length": %d, "depth": 0, "present": true, "zero": false,'
                 b' "data": true, "known": true}]}}\n')
        for answers in ((b"",), (b"junk\n",), (b"{}\n",), (b"[1]\n",),
                        (greeting, done), (greeting, done, b'{"return": 1}\n'),
                        (greeting, done, nodes, b'{"return": {}}\n'),
                        (greeting, done, nodes, b'{"return": null}\n'),
                        (greeting, done, nodes, b'{"error": 1}\n'),
                        (greeting, done, nodes,
                         b'{"return": {"entries": [], "next-offset": 0}}\n'),
                        (greeting, done, nodes, entry % 0),
                        (greeting, done, nodes, entry % -1),
                        (greeting, done, nodes, entry % 4096, entry % 4096)):
            with self.subTest(answers=answers), \
                    fake_monitor(path("fake"), *answers):
                result = live(path("fake"), "disk", status=1)
                self.assertTrue(result.stderr.startswith("seekless-img: "),
                                result.stderr)


iotests.main()
