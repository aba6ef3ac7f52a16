#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""While a daemon remembers which parts of a file are zeroes, nobody else gets to
write to it; and while somebody else may write, it remembers none. Stock QEMU
plays the others."""

import contextlib
import os
import select
import signal
import subprocess
import unittest

import iotests
from iotests import MiB, QMPError, path


class OnAFile(unittest.TestCase):
    driver = "file"

    def setUp(self):
        self.image = self.file = path("image")
        with open(self.file, "wb") as file:
            file.truncate(MiB)

    def tearDown(self):
        os.unlink(self.file)
        # Stock programs leave it.
        if os.path.exists(path("stock")):
            os.unlink(path("stock"))

    def blockdev(self, node="file0", options=""):
        return ["--blockdev", f"driver={self.driver},node-name={node},"
                f"filename={self.image}{options}"]

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
        # The daemon may not have noticed yet that its clients have gone.
        daemon.cmd("block-export-del", id="e0", mode="hard")
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

    def test_stock_programs(self):
        """Who wants to write is told why not; who reads is let"""
        other = path("other")
        with open(other, "wb") as file:
            file.truncate(MiB)
        with self.daemon() as daemon:
            ours = self.export(daemon, True)
            iotests.qemu_io(ours, "write -P 7 64k 64k")
            for words in (
                    ["qemu-img", "resize", "-f", "raw", self.image, "2M"],
                    ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw",
                     other, self.image],
                    ["qemu-img", "create", "-f", "raw", self.image, "2M"],
                    ["qemu-nbd", "-f", "raw", "-k", path("stock"),
                     self.image]):
                with self.subTest(words):
                    result = iotests.run(*words, status=1)
                    self.assertIn(
                        'Failed to get "write" lock\nIs another process using '
                        f"the image [{self.image}]?", result.stderr)
            for words in (
                    ["qemu-io", "-U", "-r", "-f", "raw", "-c",
                     "read -P 7 64k 64k", self.image],
                    ["qemu-img", "map", "-U", "-f", "raw", self.image],
                    ["qemu-img", "convert", "-U", "-f", "raw", "-O", "raw",
                     self.image, other]):
                with self.subTest(words):
                    iotests.run(*words)
            self.assertEqual(self.mode(daemon), "on")
            iotests.qemu_io(ours, "read -P 7 64k 64k")
            self.end_export(daemon)
        with open(other, "rb") as file:
            self.assertEqual(file.read()[65536:131072], b"\7" * 65536)
        os.unlink(other)

    @contextlib.contextmanager
    def stock_program(self, *words):
        """One that has the image open until it is told to quit"""
        with subprocess.Popen([*words, self.image], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as program:
            # It answers when it has opened the image.
            program.stdin.write("length\n")
            program.stdin.flush()
            self.assertIn("1 MiB", program.stdout.readline())
            yield program
            program.communicate("quit\n", timeout=iotests.TIMEOUT)

    def test_stock_program_writes(self):
        """It lets us write, too; so we remember data only"""
        with self.stock_program("qemu-io", "-f", "raw") as program, \
                self.daemon() as daemon:
            ours = self.export(daemon, True)
            iotests.qemu_io(ours, "write -z 0 64k", "write -P 1 64k 64k")
            self.assertEqual(daemon.cache("file0")["mode"], "data-only")
            self.assertEqual(daemon.cache("file0")["bytes-zero"], 0)
            self.assertEqual(daemon.cache("file0")["bytes-data"], 65536)
            program.stdin.write("write -P 2 0 4k\nflush\n")
            program.stdin.flush()
            self.assertIn("wrote", program.stdout.readline())
            self.assertEqual(iotests.qemu_img_map("-f", "raw", ours)[0]["data"],
                             True)
            self.end_export(daemon)

    def test_stock_program_reads(self):
        with self.stock_program("qemu-io", "-r", "-f", "raw"), \
                self.daemon() as daemon:
            ours = self.export(daemon, True)
            iotests.qemu_io(ours, "write -z 0 64k")
            self.assertEqual(daemon.cache("file0")["bytes-zero"], 65536)
            self.end_export(daemon)

    def test_we_read_what_others_have(self):
        """force-share: whatever they do, and whatever they share"""
        with self.guest():
            with self.daemon() as daemon:
                with self.assertRaises(QMPError) as caught:
                    self.export(daemon, True)
                self.assertIn('Failed to get "write" lock',
                              caught.exception.desc)
            with self.daemon(",read-only=on,force-share=on") as daemon:
                ours = self.export(daemon, False)
                iotests.run("qemu-io", "-r", "-f", "raw", "-c", "read 0 4k",
                            ours)
                self.assertEqual(daemon.cache("file0")["mode"], "data-only")
                self.end_export(daemon)

    def test_we_may_not_write_either(self):
        """A guest of stock QEMU has the image for itself."""
        with self.guest(), self.daemon() as daemon:
            self.assertEqual(self.mode(daemon), "data-only")
            with self.assertRaises(QMPError) as caught:
                self.export(daemon, True)
            self.assertIn('Failed to get "write" lock. Is another process '
                          f'using the image [{self.image}]?',
                          caught.exception.desc)
            self.export(daemon, False)

    @contextlib.contextmanager
    def guest(self):
        pidfile = path("qemu.pid")
        iotests.run(
            "qemu-system-x86_64", "-S", "-nodefaults", "-display", "none",
            "-accel", "tcg", "-daemonize", "-pidfile", pidfile,
            "-blockdev",
            f"driver={self.driver},node-name=f,filename={self.image}",
            "-device", "virtio-blk-pci,drive=f")
        try:
            yield
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
            self.assertEqual(hole["zero"], self.driver == "file")
            iotests.qemu_io(theirs, "write -P 1 64k 64k", "flush")
            (data,) = [row for row in iotests.qemu_img_map("-f", "raw", ours)
                       if row["start"] <= 65536 < row["start"] + row["length"]]
            self.assertFalse(data["zero"])
            if self.driver == "file":
                self.assertEqual((data["start"], data["length"]),
                                 (65536, 65536))
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
        second = {"driver": self.driver, "node-name": "second",
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
                    "driver": "file", "filename": self.file, "size": 1}})
            daemon.qmp.wait_job("j0", "concluded")
            (job,) = daemon.cmd("query-jobs")
            self.assertIn("is in use by node 'file0'", job["error"])
            daemon.cmd("job-dismiss", id="j0")
        self.assertEqual(os.path.getsize(self.file), MiB)


class OnABlockDevice(OnAFile):
    driver = "host_device"

    def setUp(self):
        super().setUp()
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.image = stack.enter_context(iotests.loop_device(self.file))

    def test_file_behind(self):
        """Its locks are others, but it is known to be the same"""
        behind = {"driver": "file", "node-name": "behind",
                  "filename": self.file}
        with self.daemon() as daemon:
            self.assertEqual(self.mode(daemon), "on")
            daemon.cmd("blockdev-add", behind)
            self.assertEqual(self.mode(daemon), "data-only")
            self.assertEqual(self.mode(daemon, "behind"), "data-only")
            daemon.cmd("blockdev-del", {"node-name": "behind"})
            # It is tried again when somebody begins to use it.
            self.export(daemon, True)
            self.assertEqual(daemon.cache("file0")["mode"], "on")
            self.end_export(daemon)

    def test_mounted(self):
        """The kernel writes without asking for locks"""
        iotests.run("mkfs.ext4", "-q", self.image)
        os.mkdir(path("mnt"))
        iotests.run("mount", self.image, path("mnt"))
        with self.daemon() as daemon:
            self.assertEqual(daemon.cache("file0")["mode"], "data-only")
            iotests.run("umount", path("mnt"))
            self.export(daemon, True)
            self.assertEqual(daemon.cache("file0")["mode"], "on")
            # Looking for mounts does not stand in the way of them.
            self.end_export(daemon)
            iotests.run("mount", self.image, path("mnt"))
            iotests.run("umount", path("mnt"))
        os.rmdir(path("mnt"))


iotests.main()
