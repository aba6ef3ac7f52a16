#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Backing chains of qcow2 images: the same data and the same maps as from stock,
snapshots under a client that writes, and chains that have no end."""

import json
import os
import unittest

import iotests
from iotests import MiB, QMPError, path

CONTEXTS = "base:allocation", "qemu:allocation-depth"


def qcow2(name, size, backing=None, fmt="qcow2"):
    more = ["-b", backing, "-F", fmt] if backing else []
    iotests.qemu_img("create", "-q", "-f", "qcow2", *more, path(name),
                     str(size))


def write(name, *commands, fmt="qcow2"):
    iotests.run("qemu-io", "-f", fmt,
                *(word for command in commands for word in ("-c", command)),
                path(name))


class Chains(unittest.TestCase):
    def setUp(self):
        self.uri = f"nbd+unix:///disk?socket={path('nbd')}"
        with open(path("base"), "wb") as file:
            file.truncate(3 * MiB)
        write("base", "write -P 1 0 1M", fmt="raw")
        qcow2("mid", 4 * MiB, "base", "raw")
        write("mid", "write -P 2 512k 128k", "write -z 128k 64k",
              "write -P 2 3584k 64k")
        qcow2("top", 5 * MiB, "mid")
        write("top", "write -P 3 576k 64k", "write -z 2M 64k")
        qcow2("over", 5 * MiB)

    def tearDown(self):
        for name in "base", "mid", "top", "over":
            os.unlink(path(name))

    def options(self):
        return ["--blockdev", f"qcow2,node-name=top,file.driver=file,"
                              f"file.filename={path('top')}",
                "--nbd-server", f"addr.type=unix,addr.path={path('nbd')}",
                "--export", "nbd,id=e,node-name=top,name=disk,writable=on,"
                            "allocation-depth=on"]

    def seen(self, program):
        """Maps, and the data as an image's file"""
        with iotests.Daemon(*self.options(), program=program):
            maps = []
            for context in CONTEXTS:
                rows = json.loads(iotests.run(
                    "nbdinfo", "--json", f"--map={context}", self.uri).stdout)
                joined = []
                for row in rows:
                    if joined and joined[-1][2] == row["type"]:
                        joined[-1][1] += row["length"]
                    else:
                        joined.append([row["offset"], row["length"],
                                       row["type"]])
                maps.append(joined)
            iotests.run("nbdcopy", self.uri, path(program.split("/")[-1]))
        with open(path(program.split("/")[-1]), "rb") as file:
            data = file.read()
        os.unlink(path(program.split("/")[-1]))
        return maps, data

    def test_maps_and_data(self):
        ours, our_data = self.seen(str(iotests.DAEMON))
        stock, stock_data = self.seen(str(iotests.STOCK_DAEMON))
        self.assertEqual(our_data, stock_data)
        self.assertEqual(ours[1], stock[1])
        self.assertEqual({row[2] for row in ours[1]}, {1, 2, 3})
        # What reads as zeroes in stock does so here.
        self.assertEqual(ours[0], stock[0])

    def test_snapshot(self):
        before = {}
        for name in "base", "mid":
            with open(path(name), "rb") as file:
                before[name] = file.read()
        with iotests.Daemon(*self.options()) as daemon:
            daemon.cmd("blockdev-add",
                       {"driver": "qcow2", "node-name": "over",
                        "backing": None,
                        "file": {"driver": "file",
                                 "filename": path("over")}})
            iotests.qemu_io(self.uri, "write -P 4 0 64k")
            daemon.cmd("blockdev-snapshot", {"node": "top",
                                             "overlay": "over"})
            iotests.qemu_io(self.uri, "read -P 4 0 64k", "write -P 5 4k 4k",
                            "read -P 4 0 4k", "read -P 5 4k 4k",
                            "read -P 4 8k 4k", "read -P 3 576k 64k", "flush")
            with self.assertRaisesRegex(QMPError, "backing hd of 'over'"):
                daemon.cmd("blockdev-del", {"node-name": "top"})
        for name, data in before.items():
            with open(path(name), "rb") as file:
                self.assertEqual(file.read(), data)
        iotests.run("qemu-io", "-f", "qcow2", "-c", "read -P 4 0 64k",
                    path("top"))
        iotests.qemu_img("rebase", "-u", "-b", "top", "-F", "qcow2",
                         path("over"))
        iotests.run("qemu-io", "-f", "qcow2", "-c", "read -P 5 4k 4k",
                    "-c", "read -P 4 8k 4k", "-c", "read -P 1 64k 64k",
                    path("over"))
        for name in "top", "over":
            iotests.qemu_img("check", "-q", path(name))

    def test_no_end(self):
        iotests.qemu_img("rebase", "-u", "-b", "top", "-F", "qcow2",
                         path("mid"))
        with iotests.Daemon() as daemon:
            with self.assertRaisesRegex(QMPError,
                                        "Could not open backing file: .*"
                                        "creates an infinite loop"):
                daemon.cmd("blockdev-add",
                           {"driver": "qcow2", "node-name": "top",
                            "file": {"driver": "file",
                                     "filename": path("top")}})
            self.assertEqual(daemon.cmd("query-named-block-nodes"), [])


if __name__ == "__main__":
    iotests.main()
