#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror copies what there is and no zeroes, follows what clients do, rests
when it is told to, and leaves everything as it was when it fails."""

import os
import unittest

import disk
import iotests
import nbd
from iotests import GiB, KiB, MiB, QMPError, path

SIZE = 32 * MiB
TiB = 1024 * GiB


def allocated(name):
    return os.stat(name).st_blocks * 512


class MirrorDoesAsTold(unittest.TestCase):

    def nodes(self, daemon):
        return {node["node-name"]: node["drv"]
                for node in daemon.cmd("query-named-block-nodes")}

    def check_half(self, name):
        """As much as the data takes; and a block or two for its extents"""
        self.assertGreaterEqual(allocated(name), SIZE // 2)
        self.assertLessEqual(allocated(name), SIZE // 2 + 64 * KiB)

    def test_sparse(self):
        """Holes stay holes, and nobody asks what the target's are again"""
        image = disk.alternating(path("image"), SIZE)
        for direct in ("off", "on"):
            with self.subTest(direct=direct):
                with disk.DiskDaemon(image,
                                     f",cache.direct={direct}") as daemon:
                    daemon.mirror(path("copy"))
                self.assertTrue(iotests.identical(image, path("copy")))
                self.check_half(path("copy"))
                os.unlink(path("copy"))

    def test_large_hole(self):
        """A disk of any size that is one hole is passed over in long strides"""
        with iotests.memory_file_system() as folder:
            image = disk.sparse(os.path.join(folder, "image"), 16 * TiB)
            copy = os.path.join(folder, "copy")
            # A mirror takes 50 ms at most to learn where its target is zero, which
            # is too little where the machine has other things to do.
            for left in reversed(range(10)):
                with disk.DiskDaemon(image) as daemon:
                    with daemon.strace("fallocate,lseek") as trace:
                        daemon.mirror(copy)
                    lookups = daemon.cache("disk")["lookups"]
                self.assertEqual(allocated(copy), 0)
                if left == 0 or trace.count("fallocate") == 0:
                    break
                os.unlink(copy)
            self.assertEqual(trace.count("fallocate"), 0)
            self.assertLess(len(trace.lines), 100)
            self.assertLess(lookups, 100000)

    def test_full_target(self):
        """A target full of something else: zeroes are written there, once"""
        image = disk.alternating(path("image"), SIZE)
        copy = disk.written(path("copy"), SIZE)
        with disk.DiskDaemon(image) as daemon:
            daemon.add_node("target", copy)
            daemon.cmd("blockdev-mirror", job_id="mirror", device="disk",
                       target="target", sync="full")
            daemon.wait_ready()
            daemon.finish()
        self.assertTrue(iotests.identical(image, copy))
        self.check_half(copy)

    def test_no_fast_zeroes(self):
        """A target's file system that cannot zero: zeroes are written there"""
        image = disk.alternating(path("image"), SIZE, hole=4 * MiB)
        copy = disk.written(path("copy"), SIZE)
        with disk.DiskDaemon(image) as daemon:
            daemon.add_node("target", copy)
            with daemon.strace("fallocate",
                               "fallocate:error=EOPNOTSUPP") as trace:
                daemon.cmd("blockdev-mirror", job_id="mirror", device="disk",
                           target="target", sync="full")
                daemon.wait_ready()
                daemon.finish()
            self.assertGreater(trace.count("fallocate"), 0, trace.lines)
        self.assertTrue(iotests.identical(image, copy))

    def test_target_is_zero(self):
        """What is said to be zero is believed"""
        image = disk.alternating(path("image"), SIZE)
        copy = disk.written(path("copy"), SIZE)
        with disk.DiskDaemon(image) as daemon:
            daemon.add_node("target", copy)
            with daemon.strace("fallocate") as trace:
                daemon.cmd("blockdev-mirror", {
                    "job-id": "mirror", "device": "disk", "target": "target",
                    "sync": "full", "target-is-zero": True})
                daemon.wait_ready()
                daemon.finish()
            self.assertEqual(trace.count("fallocate"), 0, trace.lines)
        with open(copy, "rb") as file:
            self.assertEqual(file.read(64 * KiB), b"\xa5" * (64 * KiB))
            self.assertEqual(file.read(64 * KiB), b"\x5a" * (64 * KiB))

    def test_sync_none(self):
        """Only what is written meanwhile; the target keeps the rest"""
        image = disk.written(path("image"), SIZE)
        copy = disk.written(path("copy"), SIZE, b"\x33")
        expected = disk.written(path("expected"), SIZE, b"\x33")
        with disk.DiskDaemon(image) as daemon, daemon.client() as client:
            daemon.add_node("target", copy)
            daemon.cmd("blockdev-mirror", job_id="mirror", device="disk",
                       target="target", sync="none")
            self.assertEqual(daemon.wait_ready()["data"]["len"], 0)
            client.pwrite(MiB, b"\x44" * 64 * KiB)
            client.pwrite(2 * MiB + 5, b"\x44")
            daemon.finish()
        with open(expected, "r+b") as file:
            file.seek(MiB)
            file.write(b"\x44" * 64 * KiB)
            file.seek(2 * MiB)
            file.write(b"\x5a" * 5 + b"\x44" + b"\x5a" * (64 * KiB - 6))
        self.assertTrue(iotests.identical(copy, expected))

    def test_discard(self):
        """Space that a client gives up while the mirror runs is freed, and
        the copy has it no more"""
        image = disk.written(path("image"), SIZE)
        with disk.DiskDaemon(image) as daemon:
            daemon.start_mirror(path("copy"), speed=MiB)
            with daemon.client() as client:
                client.trim(0, SIZE // 2)
                self.check_half(image)
                daemon.cmd("block-job-set-speed", device="mirror", speed=0)
                daemon.wait_ready()
                client.trim(SIZE // 2, SIZE // 4)
                self.assertLess(allocated(image), SIZE // 2)
            daemon.finish()
        self.assertTrue(iotests.identical(image, path("copy")))
        self.assertLess(allocated(path("copy")), SIZE // 2)

    def test_pause(self):
        image = disk.written(path("image"), SIZE)
        with disk.DiskDaemon(image) as daemon, daemon.client() as client:
            daemon.start_mirror(path("copy"))
            daemon.wait_ready()
            daemon.cmd("job-pause", id="mirror")
            daemon.qmp.wait_job("mirror", "standby")
            client.pwrite(0, b"new" + bytes(509))
            client.flush()
            with open(path("copy"), "rb") as file:
                self.assertEqual(file.read(3), b"\x5a" * 3)
            (row,) = daemon.cmd("query-block-jobs")
            self.assertTrue(row["paused"])
            self.assertFalse(row["busy"])
            daemon.cmd("job-resume", id="mirror")
            daemon.finish()
            self.assertTrue(iotests.identical(image, path("copy")))

    def test_filter(self):
        """The node in between is there as long as the job is"""
        image = disk.written(path("image"), SIZE)
        with disk.DiskDaemon(image) as daemon:
            before = self.nodes(daemon)
            daemon.start_mirror(path("copy"), **{"filter-node-name": "top"})
            daemon.wait_ready()
            self.assertEqual(self.nodes(daemon), before | {
                "top": "mirror_top", "mirror-target": "file"})
            for name in ("disk", "mirror-target", "top"):
                with self.assertRaises(QMPError):
                    daemon.cmd("blockdev-del", node_name=name)
            daemon.complete()
            self.assertEqual(self.nodes(daemon),
                             before | {"mirror-target": "file"})
            # What was the source is a node like any other now.
            daemon.cmd("blockdev-del", node_name="disk")
            self.assertEqual(self.nodes(daemon), {"mirror-target": "file"})

    def test_nobody_writes_below(self):
        """Who would write to the source's file, past the job, is refused,
        whoever came first; readers are not, and later everybody may"""
        image = disk.written(path("image"), SIZE)
        writer = {"type": "nbd", "id": "beside", "node-name": "disk",
                  "name": "beside", "writable": True}
        conflict = ("node 'disk': permissions 'write' are both required by "
                    "export 'beside' .* and unshared by node 'raw'")
        with disk.DiskDaemon(image, writable="off") as daemon, \
                daemon.client() as reader:
            daemon.cmd("blockdev-add", driver="raw", node_name="raw",
                       file="disk", discard="unmap")
            daemon.cmd("block-export-add", type="nbd", id="guest",
                       node_name="raw", name="guest", writable=True)
            with nbd.NBD(daemon.nbd_path, "guest") as guest:
                daemon.cmd("block-export-add", writer)
                with self.assertRaisesRegex(QMPError, conflict):
                    daemon.start_mirror(path("copy"), device="raw")
                self.assertEqual(daemon.cmd("query-jobs"), [])
                daemon.cmd("block-export-del", id="beside")
                daemon.cmd("blockdev-mirror", job_id="mirror", device="raw",
                           target="mirror-target", sync="full")
                with self.assertRaisesRegex(QMPError, conflict):
                    daemon.cmd("block-export-add", writer)
                daemon.wait_ready()
                guest.pwrite(MiB, b"on the copy" + bytes(501))
                self.assertEqual(reader.pread(MiB, 11), b"on the copy")
                daemon.finish()
                daemon.cmd("block-export-add", writer)
            daemon.cmd("block-export-del", id="beside")
        self.assertTrue(iotests.identical(image, path("copy")))

    def test_there_and_back(self):
        image = disk.written(path("image"), SIZE)
        with disk.DiskDaemon(image) as daemon, daemon.client() as client:
            daemon.start_mirror(path("copy"))
            daemon.wait_ready()
            daemon.complete()
            client.pwrite(MiB, b"on the copy" + bytes(501))
            daemon.cmd("blockdev-mirror", job_id="back", target="disk",
                       device="mirror-target", sync="full")
            daemon.wait_ready("back")
            daemon.complete("back")
            client.pwrite(2 * MiB, b"back again!" + bytes(501))
            client.flush()
        with open(image, "rb") as file:
            file.seek(MiB)
            self.assertEqual(file.read(11), b"on the copy")
            file.seek(2 * MiB)
            self.assertEqual(file.read(11), b"back again!")

    def test_read_only_source(self):
        image = disk.written(path("image"), SIZE)
        with disk.DiskDaemon(image, ",read-only=on",
                             writable="off") as daemon:
            daemon.mirror(path("copy"))
        self.assertTrue(iotests.identical(image, path("copy")))

    def test_no_space(self):
        """The target's file system is full: the job fails, clients do not"""
        image = disk.written(path("image"), SIZE)
        iotests.require_root()
        with iotests.file_system("ext4", 16 * MiB) as small:
            copy = os.path.join(small, "copy")
            with disk.DiskDaemon(image) as daemon:
                daemon.start_mirror(copy, **{"auto-dismiss": False})
                event = daemon.qmp.wait_event("BLOCK_JOB_ERROR")
                self.assertEqual(event["data"], {
                    "device": "mirror", "operation": "write",
                    "action": "report"})
                event = daemon.qmp.wait_event("BLOCK_JOB_COMPLETED")
                self.assertEqual(event["data"]["error"],
                                 "No space left on device")
                self.assertLess(event["data"]["offset"],
                                event["data"]["len"])
                daemon.qmp.wait_job("mirror", "concluded")
                (row,) = daemon.cmd("query-jobs")
                self.assertEqual(row["error"], "No space left on device")
                daemon.cmd("job-dismiss", id="mirror")
                self.assertEqual(self.nodes(daemon), {
                    "disk": "file", "mirror-target": "file"})
                with daemon.client() as client:
                    client.pwrite(0, b"still here" + bytes(502))
                    self.assertEqual(client.pread(0, 10), b"still here")
                daemon.cmd("blockdev-del", node_name="mirror-target")
                os.unlink(copy)

    def test_hung_source(self):
        """A read that hangs: the job can be cancelled, and ends with it"""
        image = disk.written(path("image"), SIZE)
        with disk.DiskDaemon(image) as daemon:
            with daemon.strace("preadv2,preadv,pread64",
                               "preadv2,preadv,pread64:delay_enter=2000000:"
                               "when=1") as trace:
                daemon.start_mirror(path("copy"))
                trace.wait_for("pread")
                daemon.cmd("job-cancel", id="mirror")
                daemon.qmp.wait_event("BLOCK_JOB_CANCELLED")
            with daemon.client() as client:
                self.assertEqual(client.pread(0, 2), b"\x5a\x5a")

    def test_choices(self):
        """What is not there is refused by name"""
        image = disk.written(path("image"), MiB)
        with disk.DiskDaemon(image) as daemon:
            daemon.add_node("target", disk.sparse(path("copy"), MiB))
            for options, words in (
                    ({"sync": "half"}, ("sync", "half")),
                    ({"copy-mode": "later"}, ("copy-mode", "later")),
                    ({"on-source-error": "abort"},
                     ("on-source-error", "abort")),
                    ({"replaces": "nope"}, ("nope",)),
                    ({"replaces": "target"}, ("target", "disk")),
                    ({"buf-size": 1 << 31}, ("buf-size", str(1 << 31))),
                    ({"granularity": 1000}, ("granularity",)),
                    ({"no-such-thing": 1}, ("no-such-thing",))):
                with self.subTest(options):
                    with self.assertRaises(QMPError) as caught:
                        daemon.cmd("blockdev-mirror", {
                            "job-id": "mirror", "device": "disk",
                            "target": "target", "sync": "full", **options})
                    for word in words:
                        self.assertIn(f"'{word}'" if word.isalpha() else word,
                                      caught.exception.desc)
            self.assertEqual(daemon.cmd("query-jobs"), [])


if __name__ == "__main__":
    iotests.main()
