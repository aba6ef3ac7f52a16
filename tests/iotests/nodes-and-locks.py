#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes are made and removed as in QEMU; what is wrong is refused by name, and
stock QEMU and we keep each other out of an image in use."""

import os
import unittest

import disk
import iotests
from iotests import GiB, KiB, MiB, path, run


class Nodes(unittest.TestCase):
    def setUp(self):
        self.image = disk.written(path("image"), MiB)
        self.daemon = iotests.Daemon()

    def tearDown(self):
        self.daemon.stop()

    def add(self, **options):
        self.daemon.cmd("blockdev-add", **options)

    def add_file(self, node_name, **options):
        self.add(driver="file", node_name=node_name, filename=self.image,
                 **options)

    def refused(self, saying, command, **arguments):
        with self.assertRaises(iotests.QMPError) as caught:
            self.daemon.cmd(command, arguments)
        self.assertRegex(caught.exception.desc, saying)
        return caught.exception

    def nodes(self):
        return {row["node-name"]: row for row
                in self.daemon.cmd("query-named-block-nodes")}

    def test_add_query_delete(self):
        self.add_file("n", cache={"direct": False, "no-flush": True},
                      read_only=True)
        row = self.nodes()["n"]
        self.assertEqual((row["drv"], row["ro"]), ("file", True))
        self.assertEqual(row["image"]["virtual-size"], MiB)
        self.assertEqual(row["cache"], {"writeback": True, "direct": False,
                                        "no-flush": True})
        self.daemon.cmd("blockdev-del", node_name="n")
        self.assertEqual(self.nodes(), {})

    def test_wrong_options_are_named(self):
        base = {"driver": "file", "node-name": "n", "filename": self.image}
        for wrong, saying in (
                ({"driver": "wrong"}, "wrong"),
                ({"stray": 1}, "stray"),
                ({"cache": {"stray": True}}, "stray"),
                ({"discard": "maybe"}, "maybe|discard"),
                ({"read-only": "yes"}, "read-only"),
                ({"filename": 1}, "filename"),
                ({"filename": path("absent")}, "absent"),
                ({"node-name": "1 bad name"}, "1 bad name|node-name"),
                ({"locking": "maybe"}, "maybe|locking"),
                ({"aio": "wrong"}, "wrong|aio"),
                ({"status-cache": "wrong"}, "wrong|status-cache"),
                ({"status-cache-granularity": 1000}, "1000"),
                ({"status-probe": "wrong"}, "wrong|status-probe")):
            with self.subTest(wrong=wrong):
                self.refused(saying, "blockdev-add", **{**base, **wrong})
        self.refused("filename", "blockdev-add", **{
            "driver": "file", "node-name": "n"})
        self.assertEqual(self.nodes(), {})

    def test_names_are_unique(self):
        self.add_file("n")
        self.refused("'n'", "blockdev-add", **{
            "driver": "null-co", "node-name": "n"})
        self.refused("absent", "blockdev-del", **{"node-name": "absent"})

    def test_in_use(self):
        self.add_file("n")
        self.add(driver="raw", node_name="r", file="n")
        self.refused("n", "blockdev-del", **{"node-name": "n"})
        self.daemon.cmd("blockdev-del", node_name="r")
        self.daemon.cmd("blockdev-del", node_name="n")

    def test_raw_window(self):
        """offset and size of driver raw move the window, not the content"""
        with open(self.image, "r+b") as file:
            file.seek(4 * KiB)
            file.write(b"inside" + bytes(8 * KiB - 6))
        self.add_file("n")
        self.add(driver="raw", node_name="r", file="n", offset=4 * KiB,
                 size=8 * KiB)
        self.refused("16384|offset|size|end", "blockdev-add", **{
            "driver": "raw", "node-name": "w", "file": "n",
            "offset": MiB - 4 * KiB, "size": 16 * KiB})
        server = path("nbd")
        self.daemon.cmd("nbd-server-start", {
            "addr": {"type": "unix", "data": {"path": server}}})
        self.daemon.cmd("block-export-add", {
            "type": "nbd", "id": "e", "node-name": "r", "writable": True})
        uri = f"nbd+unix:///r?socket={server}"
        self.assertIn("inside", iotests.qemu_io(uri, "read -v 0 512"))
        iotests.qemu_io(uri, "write -P 3 4k 4k")
        self.daemon.cmd("block-export-del", id="e", mode="hard")
        self.daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")
        with open(self.image, "rb") as file:
            content = file.read()
        self.assertEqual(content[8 * KiB:12 * KiB], b"\3" * 4 * KiB)
        self.assertEqual(content[12 * KiB:13 * KiB], b"\x5a" * KiB)

    def test_null(self):
        self.add(driver="null-co", node_name="n", size=GiB, read_zeroes=True)
        self.assertEqual(self.nodes()["n"]["image"]["virtual-size"], GiB)
        rows = self.daemon.cmd("x-query-block-map", node_name="n")
        self.assertTrue(all(row["zero"] for row in rows["entries"]))

    def test_create(self):
        new = path("new")
        self.daemon.cmd("blockdev-create", {
            "job-id": "c", "options": {"driver": "file", "filename": new,
                                       "size": 3 * MiB,
                                       "preallocation": "falloc"}})
        self.daemon.qmp.wait_job("c", "concluded")
        (job,) = self.daemon.cmd("query-jobs")
        self.assertNotIn("error", job)
        self.daemon.cmd("job-dismiss", id="c")
        self.assertEqual(self.daemon.cmd("query-jobs"), [])
        self.assertEqual(os.stat(new).st_size, 3 * MiB)
        self.assertEqual(os.stat(new).st_blocks * 512, 3 * MiB)

    def test_create_that_fails(self):
        self.daemon.cmd("blockdev-create", {
            "job-id": "c", "options": {"driver": "file", "size": MiB,
                                       "filename": path("no", "new")}})
        self.daemon.qmp.wait_job("c", "concluded")
        (job,) = self.daemon.cmd("query-jobs")
        self.assertIn(path("no", "new"), job["error"])
        self.daemon.cmd("job-dismiss", id="c")


class Locks(unittest.TestCase):
    """QEMU's image locks: on the same bytes, so that both respect them"""

    def setUp(self):
        self.image = disk.written(path("image"), MiB)

    def test_stock_is_kept_out(self):
        with disk.DiskDaemon(self.image):
            result = run("qemu-io", "-f", "raw", "-c", "write 0 4k",
                         self.image, status=None)
            self.assertIn("lock", result.stderr + result.stdout)
            run("qemu-io", "-U", "-r", "-f", "raw", "-c", "read 0 4k",
                self.image)
        iotests.qemu_io(self.image, "write 0 4k")

    def test_we_are_kept_out(self):
        with disk.DiskDaemon(self.image, program=iotests.STOCK_DAEMON) as stock:
            with iotests.Daemon() as daemon:
                node = {"driver": "file", "node-name": "n",
                        "filename": self.image}
                daemon.cmd("blockdev-add", {**node, "node-name": "shared",
                                            "force-share": True,
                                            "read-only": True})
                daemon.cmd("blockdev-add", node)
                daemon.cmd("nbd-server-start", {
                    "addr": {"type": "unix", "data": {"path": path("ours")}}})
                daemon.cmd("block-export-add", {
                    "type": "nbd", "id": "e", "node-name": "n",
                    "writable": True})
                # Stock shares the permission to write with its own export, so
                # we may have it, but not know any zeroes.
                self.assertEqual(daemon.cache("n")["mode"], "data-only")
        os.unlink(stock.nbd_path)

    def test_locking_off(self):
        with disk.DiskDaemon(self.image, ",locking=off") as daemon:
            self.assertEqual(daemon.cache("disk")["mode"], "data-only")
            iotests.qemu_io(self.image, "write 0 4k")

    def test_locking_on(self):
        with disk.DiskDaemon(self.image, ",locking=on") as daemon:
            self.assertEqual(daemon.cache("disk")["mode"], "on")


class OneDiskOneCache(unittest.TestCase):
    def test_second_node(self):
        """What is written through one node is known through the other"""
        image = disk.alternating(path("image"), MiB)
        with disk.DiskDaemon(image) as daemon:
            daemon.add_node("reader", image, **{"read-only": True,
                                                "force-share": True})
            before = daemon.map("reader")
            with daemon.client() as client:
                client.write_zeroes(0, 64 * KiB)
                client.pwrite(64 * KiB, b"x" * 64 * KiB)
            after = daemon.map("reader")
            self.assertNotEqual(before, after)
            self.assertEqual([row["zero"] for row in after[:2]],
                             [True, False])


if __name__ == "__main__":
    iotests.main()
