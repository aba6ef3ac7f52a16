#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""While a daemon remembers which parts of a file are zeroes, nobody else gets to
write to it; and while somebody else may write, it remembers none. Stock QEMU
plays the others."""

import contextlib
import os
import select
import signal
import unittest

import iotests
from iotests import MiB, QMPError, path


class NobodyElseWrites(unittest.TestCase):

    def setUp(self):
        self.image = path("image")
        with open(self.image, "wb") as file:
            file.truncate(MiB)

    def tearDown(self):
        os.unlink(self.image)
        # Stock daemons leave it.
        if os.path.exists(path("stock")):
            os.unlink(path("stock"))

    def blockdev(self, node="file0", options=""):
        return ["--blockdev",
                f"file,node-name={node},filename={self.image}{options}"]

    @contextlib.contextmanager
    def stock_writer(self):
        """A stock daemon that lets a client write; yields the client's URI"""
        with iotests.Daemon(
                *self.blockdev(), "--nbd-server",
                f"addr.type=unix,addr.path={path('stock')}", "--export",
                "nbd,id=e0,node-name=file0,writable=on",
                program=iotests.STOCK_DAEMON):
            yield f"nbd+unix:///file0?socket={path('stock')}"

    def export(self, daemon, writable):
        daemon.cmd("block-export-add", {
            "type": "nbd", "id": "e0", "node-name": "file0",
            "writable": writable})
        return f"nbd+unix:///file0?socket={path('ours')}"

    def end_export(self, daemon):
        daemon.cmd("block-export-del", id="e0")
        daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e0")

    def daemon(self, options="", **more):
        return iotests.Daemon(
            *self.blockdev(options=options), "--nbd-server",
            f"addr.type=unix,addr.path={path('ours')}", **more)

    def mode(self, daemon, node="file0"):
        (row,) = [row for row in daemon.cmd("query-named-block-nodes")
                  if row["node-name"] == node]
        return row["image"]["format-specific"]["data"]["status-cache"]["mode"]

    def stock_output(self, *command):
        result = iotests.run(*command, status=None)
        return result.stdout + result.stderr

    def test_others_may_read_only(self):
        """Also while nobody uses the node, and also if it is read-only"""
        write = ["qemu-io", "-f", "raw", "-c", "write 0 4k", self.image]
        read = ["qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", self.image]
        for options in "", ",read-only=on":
            with self.subTest(options), self.daemon(options) as daemon:
                self.assertEqual(self.mode(daemon), "on")
                self.assertIn('Failed to get "write" lock',
                              self.stock_output(*write))
                self.assertIn("read 4096/4096", self.stock_output(*read))
                self.assertIn(
                    'Failed to get "write" lock',
                    self.stock_output(
                        "qemu-storage-daemon", *self.blockdev(),
                        "--nbd-server",
                        f"addr.type=unix,addr.path={path('stock')}",
                        "--export", "nbd,id=e0,node-name=file0,writable=on"))
        self.assertIn("wrote 4096/4096", self.stock_output(*write))

    def test_who_remembers_no_zeroes_lets_others_write(self):
        write = ["qemu-io", "-f", "raw", "-c", "write 0 4k", self.image]
        for options in (",status-cache=data-only", ",status-cache=off",
                        ",locking=off", ",read-only=on,force-share=on"):
            with self.subTest(options), self.daemon(options) as daemon:
                self.assertNotEqual(self.mode(daemon), "on")
                self.assertIn("wrote 4096/4096", self.stock_output(*write))

    def test_we_may_not_write_either(self):
        """A guest of stock QEMU has the image for itself."""
        pidfile = path("qemu.pid")
        iotests.run(
            "qemu-system-x86_64", "-S", "-nodefaults", "-display", "none",
            "-accel", "tcg", "-daemonize", "-pidfile", pidfile,
            "-blockdev", f"file,node-name=f,filename={self.image}",
            "-device", "virtio-blk-pci,drive=f")
        try:
            with self.daemon() as daemon:
                self.assertEqual(self.mode(daemon), "data-only")
                with self.assertRaises(QMPError) as caught:
                    self.export(daemon, True)
                self.assertIn('Failed to get "write" lock. Is another process '
                              f'using the image [{self.image}]?',
                              caught.exception.desc)
                self.export(daemon, False)
        finally:
            with open(pidfile, encoding="ascii") as file:
                pid = int(file.read())
            pidfd = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            select.select([pidfd], [], [])
            os.close(pidfd)
            os.unlink(pidfile)

    def test_what_others_write_is_seen(self):
        with self.stock_writer() as theirs, self.daemon() as daemon:
            self.assertEqual(self.mode(daemon), "data-only")
            ours = self.export(daemon, True)
            (hole,) = iotests.qemu_img_map("-f", "raw", ours)
            self.assertTrue(hole["zero"])
            iotests.qemu_io(theirs, "write -P 1 64k 64k", "flush")
            before, data, after = iotests.qemu_img_map("-f", "raw", ours)
            self.assertFalse(data["zero"])
            self.assertEqual((data["start"], data["length"]), (65536, 65536))
            # What we write meanwhile, we need not ask about.
            iotests.qemu_io(ours, "write -P 2 128k 64k")
            self.assertEqual(daemon.cache("file0")["bytes-zero"], 0)
            self.end_export(daemon)
            self.assertEqual(self.mode(daemon), "data-only")

    def test_it_is_tried_again(self):
        with contextlib.ExitStack() as stack:
            with self.stock_writer():
                daemon = stack.enter_context(self.daemon())
                self.assertEqual(self.mode(daemon), "data-only")
            self.export(daemon, True)
            self.assertEqual(self.mode(daemon), "on")
            self.assertIn('Failed to get "write" lock', self.stock_output(
                "qemu-io", "-f", "raw", "-c", "write 0 4k", self.image))

    def test_second_node(self):
        """One file, one cache; two descriptors cannot guard against others."""
        second = {"driver": "file", "node-name": "second",
                  "filename": self.image}
        with self.daemon() as daemon:
            uri = self.export(daemon, True)
            iotests.qemu_io(uri, "write -z 0 64k", "write -P 1 64k 64k")
            self.assertEqual(daemon.cache("file0")["bytes-zero"], 65536)
            daemon.cmd("blockdev-add", second)
            self.assertEqual(self.mode(daemon), "data-only")
            self.assertEqual(self.mode(daemon, "second"), "data-only")
            self.assertEqual(daemon.cache("file0")["bytes-zero"], 0)
            self.assertEqual(daemon.cache("second")["bytes-data"], 65536)
            daemon.cmd("blockdev-del", {"node-name": "second"})
            self.assertEqual(self.mode(daemon), "on")
            with self.assertRaises(QMPError) as caught:
                daemon.cmd("blockdev-add", {
                    **second, "status-cache-granularity": 65536})
            self.assertIn("status-cache-granularity 65536 differs from 4096",
                          caught.exception.desc)
            self.assertEqual(self.mode(daemon), "on")

    def test_no_creation_of_what_is_open(self):
        with self.daemon(",status-cache=off,locking=off") as daemon:
            daemon.cmd("blockdev-create", {
                "job-id": "j0", "options": {
                    "driver": "file", "filename": self.image, "size": 1}})
            daemon.qmp.wait_job("j0", "concluded")
            (job,) = daemon.cmd("query-jobs")
            self.assertIn("is in use by node 'file0'", job["error"])
            daemon.cmd("job-dismiss", id="j0")
        self.assertEqual(os.path.getsize(self.image), MiB)


iotests.main()
