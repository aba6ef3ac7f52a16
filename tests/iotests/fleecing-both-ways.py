#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock clients read what a disk was at one moment while it is written to: in an
overlay that blockdev-backup fills with sync "none", and in snapshot-access over
copy-before-write. A target that hangs holds up nobody for longer than he said."""

import errno
import os
import random
import shutil
import threading
import time
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, path
from qmp import QMPError

WRITES = "pwrite64,pwritev,pwritev2"
SIZE = 24 * MiB + 20 * KiB
CLUSTER = 64 * KiB


class Writer(threading.Thread):
    """A client that writes, zeroes and discards all over the disk"""

    def __init__(self, client, seed):
        super().__init__()
        self.client = client
        self.random = random.Random(seed)
        self.ending = threading.Event()
        self.error = None
        self.start()

    def run(self):
        try:
            while not self.ending.is_set():
                length = self.random.randrange(1, 40) * 4 * KiB
                offset = self.random.randrange(0, SIZE - length, 4 * KiB)
                kind = self.random.randrange(6)
                if kind == 0:
                    self.client.trim(offset, length)
                elif kind == 1:
                    self.client.write_zeroes(offset, length)
                else:
                    self.client.pwrite(offset, self.random.randbytes(length))
            self.client.close()
        except Exception as error:
            self.error = error

    def end(self):
        self.ending.set()
        self.join()
        if self.error:
            raise self.error


class FleecingBothWays(unittest.TestCase):
    def setUp(self):
        self.disk = disk.alternating(path("disk.img"), SIZE, 192 * KiB,
                                     320 * KiB)
        with open(self.disk, "r+b") as file:
            for offset in range(0, SIZE, MiB):
                file.seek(offset)
                file.write(random.Random(offset).randbytes(100 * KiB))
        with open(self.disk, "r+b") as file:
            file.truncate(SIZE)
        self.frozen = path("frozen.img")
        shutil.copy(self.disk, self.frozen)
        self.target = path("target.qcow2")
        self.writers = []
        self.socket = path("nbd")
        self.daemon = iotests.Daemon(
            "--blockdev", "file,node-name=disk,discard=unmap,"
            f"filename={self.disk}",
            "--blockdev", "raw,node-name=guest,discard=unmap,file=disk",
            "--nbd-server", f"addr.type=unix,addr.path={self.socket}",
            "--export", "nbd,id=guest,node-name=guest,writable=on")
        self.addCleanup(self.daemon.kill)
        self.cmd = self.daemon.cmd

    def tearDown(self):
        self.end_writers()

    def finish(self):
        self.end_writers()
        self.daemon.stop()
        iotests.qemu_img("check", "-q", self.target)
        for name in self.disk, self.frozen, self.target:
            os.unlink(name)

    def start_writers(self):
        self.writers = [Writer(self.client("guest"), seed)
                        for seed in range(3)]

    def end_writers(self):
        for writer in self.writers:
            writer.end()
        self.writers = []

    def client(self, name):
        return nbd.NBD(self.socket, name)

    def uri(self, name):
        return f"nbd+unix:///{name}?socket={self.socket}"

    def add_target(self, backing=None):
        iotests.qemu_img("create", "-q", "-f", "qcow2", self.target, SIZE)
        self.cmd("blockdev-add", {
            "driver": "qcow2", "node-name": "target", "discard": "unmap",
            "file": {"driver": "file", "filename": self.target,
                     "discard": "unmap"},
            "backing": backing})

    def export(self, node, **options):
        self.cmd("block-export-add", {"type": "nbd", "id": "snap",
                                      "name": "snap", "node-name": node,
                                      **options})

    def assert_frozen(self):
        """To readers that ask what there is, and to others"""
        copy = path("copy.img")
        for _ in range(3):
            iotests.qemu_img("convert", "-f", "raw", "-O", "raw",
                             self.uri("snap"), copy)
            self.assertTrue(iotests.identical(copy, self.frozen))
            os.unlink(copy)
            iotests.run("nbdcopy", "--connections=2", "--request-size=65536",
                        self.uri("snap"), copy)
            self.assertTrue(iotests.identical(copy, self.frozen))
            os.unlink(copy)
            iotests.qemu_img("compare", "-q", "-f", "raw", "-F", "raw",
                             self.uri("snap"), self.frozen)

    def assert_sparse(self, name):
        """What was a hole is one"""
        zero = sum(int(row["length"]) for row in
                   iotests.nbdinfo_map(self.uri(name))
                   if row["type"] == 3)
        self.assertGreater(zero, SIZE // 3)

    def refused(self, command, *arguments, **more):
        """What it says"""
        with self.assertRaises(QMPError) as caught:
            self.cmd(command, *arguments, **more)
        return caught.exception.desc

    # ---- a backup that copies nothing by itself

    def test_backup(self):
        self.add_target(backing="disk")
        self.cmd("blockdev-backup", job_id="job", device="disk",
                 target="target", sync="none")
        self.export("target")
        self.start_writers()
        self.assert_frozen()
        self.assert_sparse("snap")
        # A client that has hung up may still be there.
        self.cmd("block-export-del", id="snap", mode="hard")
        self.daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="snap")
        self.cmd("block-job-cancel", device="job")
        self.daemon.qmp.wait_job("job", "null")
        self.end_writers()
        self.cmd("blockdev-del", node_name="target")
        self.finish()

    # ---- the filter by itself

    def insert(self, target="target", file="disk", snap=None, **options):
        """Between the disk and its guests, while these go on"""
        self.cmd("blockdev-add", {"driver": "copy-before-write",
                                  "node-name": "cbw", "file": file,
                                  "target": target, "discard": "unmap",
                                  **options})
        self.reopen_guest("cbw")
        self.cmd("blockdev-add", {"driver": "snapshot-access",
                                  "node-name": "access", "file": "cbw",
                                  "discard": "unmap"})
        self.export("access", **(snap or {}))

    def reopen_guest(self, file):
        self.cmd("blockdev-reopen", options=[
            {"driver": "raw", "node-name": "guest", "discard": "unmap",
             "file": file}])

    def remove(self):
        # A client that has hung up may still be there.
        self.cmd("block-export-del", id="snap", mode="hard")
        self.daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="snap")
        self.cmd("blockdev-del", node_name="access")
        self.reopen_guest("disk")
        self.cmd("blockdev-del", node_name="cbw")
        self.cmd("blockdev-del", node_name="target")

    def test_access(self):
        self.add_target()
        self.insert()
        self.start_writers()
        self.assert_frozen()
        self.assert_sparse("snap")
        self.remove()
        self.finish()

    def test_twice(self):
        """With a timeout that nobody reaches, guests writing all the time"""
        self.start_writers()
        for _ in range(2):
            self.add_target()
            self.insert(**{"cbw-timeout": 60})
            copies = [path("one.img"), path("two.img")]
            for copy in copies:
                iotests.run("nbdcopy", self.uri("snap"), copy)
            self.assertTrue(iotests.identical(*copies))
            for copy in copies:
                os.unlink(copy)
            self.remove()
        self.finish()

    def test_order(self):
        """Nothing goes while it is in use, and the disk keeps its size"""
        self.add_target()
        self.insert()
        for node in "access", "cbw", "target", "disk":
            self.refused("blockdev-del", node_name=node)
        for node in "cbw", "disk", "guest":
            self.refused("block_resize", node_name=node, size=SIZE + MiB)
        # Nobody writes past the filter.
        self.refused("block-export-add", type="nbd", id="other", name="other",
                     node_name="disk", writable=True)
        self.remove()
        self.finish()

    def test_refused(self):
        self.add_target()
        for word, options in (
                ("too short", {"file": "target", "target":
                               {"driver": "null-co", "size": 512}}),
                ("same", {"file": "disk", "target": "disk"}),
                ("cbw-timeout", {"file": "disk", "target": "target",
                                 "cbw-timeout": 1 << 32}),
                ("'b0' not found", {"file": "disk", "target": "target",
                                    "bitmap": {"node": "disk",
                                               "name": "b0"}})):
            self.assertIn(word, self.refused(
                "blockdev-add", {"driver": "copy-before-write",
                                 "node-name": "cbw", **options}))
        self.assertIn("keeps no snapshot", self.refused(
            "blockdev-add", driver="snapshot-access", node_name="access",
            file="disk"))
        self.finish()

    def assert_error(self, error, function, *arguments):
        with self.assertRaises(OSError) as caught:
            function(*arguments)
        self.assertEqual(caught.exception.errno, error)

    def test_bitmap_and_discard(self):
        """What the bitmap does not mark, and what was discarded, is not kept"""
        with self.client("guest") as guest:
            self.cmd("block-dirty-bitmap-add", node="disk", name="b0")
            guest.pwrite(5 * CLUSTER + 100, b"old" * 100)
            guest.pwrite(8 * CLUSTER, b"8" * 4 * CLUSTER)
            self.add_target()
            self.insert(bitmap={"node": "disk", "name": "b0"},
                        snap={"writable": True})
            with self.client("snap") as snap:
                self.assertEqual(
                    snap.pread(5 * CLUSTER + 100, 300), b"old" * 100)
                self.assert_error(errno.EPERM, snap.pread, 4 * CLUSTER, 512)
                self.assert_error(errno.EPERM, snap.pread, 6 * CLUSTER - 512,
                                  1024)
                guest.pwrite(4 * CLUSTER, b"new" * CLUSTER)
                self.assertEqual(
                    snap.pread(5 * CLUSTER + 100, 300), b"old" * 100)
                guest.pwrite(8 * CLUSTER, b"9" * CLUSTER)

                # Parts of clusters are kept, clusters are not.
                snap.trim(8 * CLUSTER + 512, 3 * CLUSTER)
                for cluster in 8, 11:
                    self.assertEqual(
                        snap.pread(cluster * CLUSTER, CLUSTER), b"8" * CLUSTER)
                for cluster in 9, 10:
                    self.assert_error(errno.EPERM, snap.pread,
                                      cluster * CLUSTER, CLUSTER)
                with self.assertRaises(OSError):
                    snap.pwrite(5 * CLUSTER, b"x" * 512)
                guest.pwrite(8 * CLUSTER, b"n" * 4 * CLUSTER)
                for cluster in 8, 11:
                    self.assertEqual(
                        snap.pread(cluster * CLUSTER, CLUSTER), b"8" * CLUSTER)
        self.remove()
        (allocated,) = [sum(row["length"] for row in
                            iotests.qemu_img_map("-f", "qcow2", self.target)
                            if row["data"])]
        self.assertEqual(allocated, 3 * CLUSTER)
        self.finish()

    def test_another_snapshot(self):
        """Under a reader, a shorter one is put in the place of its own"""
        self.add_target()
        for size in SIZE, MiB:
            for name in "file", "copy":
                self.cmd("blockdev-add", {
                    "driver": "null-co", "node-name": f"{name}{size}",
                    "size": size, "read-zeroes": True})
            self.cmd("blockdev-add", driver="copy-before-write",
                     node_name=f"cbw{size}", file=f"file{size}",
                     target=f"copy{size}")
        self.cmd("object-add", {"qom-type": "throttle-group", "id": "group"})
        filter_node = {"driver": "throttle", "node-name": "filter",
                       "throttle-group": "group"}
        self.cmd("blockdev-add", {**filter_node, "file": f"cbw{SIZE}"})
        self.cmd("blockdev-add", driver="snapshot-access", node_name="access",
                 file="filter")
        self.export("access")
        with self.client("snap") as snap:
            self.cmd("blockdev-reopen",
                     options=[{**filter_node, "file": f"cbw{MiB}"}])
            self.assertEqual(snap.pread(MiB - 512, 512), bytes(512))
            for offset in MiB - 512, MiB, SIZE - 1024:
                self.assert_error(errno.EPERM, snap.pread, offset, 1024)
            for offset in MiB, SIZE - 1024:
                self.assert_error(errno.EPERM, snap.block_status, offset, 1024)
        self.finish()

    # ---- a target that hangs

    def late(self, function, *arguments):
        """It takes as long as the timeout is, and fails with the error returned"""
        before = time.monotonic()
        error = 0
        try:
            function(*arguments)
        except OSError as caught:
            error = caught.errno
        self.assertGreater(time.monotonic() - before, 0.99)
        self.assertLess(time.monotonic() - before, 20)
        return error

    def test_hang_breaks_the_write(self):
        self.add_target()
        self.insert(**{"cbw-timeout": 1})
        with self.client("guest") as guest, self.client("snap") as snap:
            old = guest.pread(0, 2 * CLUSTER)
            with self.daemon.hang(WRITES, self.target) as trace:
                self.assertEqual(
                    self.late(guest.pwrite, 4096, b"new" * 4096), errno.EIO)
                self.assertEqual(
                    self.late(guest.write_zeroes, 4096, 4096), errno.EIO)
                # Flushes, reads and readers have nothing to do with it.
                guest.flush()
                self.assertEqual(guest.pread(0, 2 * CLUSTER), old)
                self.assertEqual(snap.pread(0, 2 * CLUSTER), old)
                trace.let_go()
            guest.pwrite(4096, b"new" * 4096)
            self.assertEqual(snap.pread(0, 2 * CLUSTER), old)
        self.assert_frozen()
        self.remove()
        self.finish()

    def test_hang_breaks_the_snapshot(self):
        self.add_target()
        self.insert(**{"cbw-timeout": 1, "on-cbw-error": "break-snapshot"})
        with self.client("guest") as guest, self.client("snap") as snap:
            with self.daemon.hang(WRITES, self.target) as trace:
                self.assertEqual(
                    self.late(guest.pwrite, 4096, b"new" * 4096), 0)
                # It is waited for once, not 20 times.
                before = time.monotonic()
                for cluster in range(20):
                    guest.pwrite(cluster * CLUSTER, b"more" * 1024)
                self.assertLess(time.monotonic() - before, 10)
                for offset in 0, 10 * MiB:
                    self.assert_error(errno.EPERM, snap.pread, offset, 512)
                    self.assert_error(errno.EPERM, snap.block_status, offset,
                                      512)
                trace.let_go()
        self.remove()
        self.finish()

    def test_errors_break_the_snapshot(self):
        """What is too small for what is written there"""
        self.cmd("blockdev-add", {"driver": "raw", "node-name": "target",
                                  "read-only": False, "file": {
            "driver": "file", "filename": disk.sparse(self.target, SIZE)}})
        self.insert(**{"on-cbw-error": "break-snapshot"})
        with self.client("guest") as guest, self.client("snap") as snap, \
                self.daemon.strace(WRITES, f"{WRITES}:error=ENOSPC",
                                   filenames=[self.target]):
            guest.pwrite(4096, b"new" * 4096)
            self.assertEqual(guest.pread(4096, 3), b"new")
            self.assert_error(errno.EPERM, snap.pread, 10 * MiB, 512)
        self.remove()
        os.unlink(self.target)
        iotests.qemu_img("create", "-q", "-f", "qcow2", self.target, SIZE)
        self.finish()


if __name__ == "__main__":
    iotests.main()
