#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Nobody can be asked which blocks of a device are zero, but what was zeroed by
us is known: it is not read, by no client and no mirror. On loop devices."""

import contextlib
import errno
import os
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, QMPError, path, run

SIZE = 64 * MiB


class Device(unittest.TestCase):
    losetup = ()

    def setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.file = disk.written(path("file"), SIZE)
        self.device = stack.enter_context(
            iotests.loop_device(self.file, *self.losetup))

    def daemon(self, options="", **more):
        return disk.DiskDaemon(self.device, options, driver="host_device",
                               **more)

    def reads(self, trace):
        """Reads of the device"""
        return trace.count(rf"pread\w+\(\d+<{self.device}(<.*)?>")


class Zeroed(Device):

    def test_mirror_reads_no_zeroes(self):
        """All but 1 MiB zeroed over NBD: that much is read, and no more"""
        copy = path("copy")
        with self.daemon() as daemon:
            with daemon.client() as client:
                for offset in range(0, SIZE, 16 * MiB):
                    client.write_zeroes(offset, 16 * MiB)
                client.pwrite(5 * MiB, b"\7" * MiB)
            cache = daemon.cache("disk")
            self.assertEqual((cache["bytes-zero"], cache["bytes-data"],
                              cache["bytes-unknown"]), (SIZE - MiB, MiB, 0))
            with daemon.strace("preadv2,pread64,preadv,lseek,ioctl") as trace:
                daemon.mirror(copy)
            self.assertIn(self.reads(trace), (1, 2))
            self.assertEqual(trace.asked(self.device), 0)
            after = daemon.cache("disk")
            self.assertEqual(after["misses"], cache["misses"])
            self.assertEqual(after["probes"], 0)
        self.assertTrue(iotests.identical(self.device, copy))
        self.assertLessEqual(os.stat(copy).st_blocks * 512, 2 * MiB)

    def test_unknown_is_data(self):
        """Without asking anybody, and counted as a miss"""
        with self.daemon() as daemon:
            with daemon.strace("lseek,ioctl,fallocate,pread64,preadv2") as trace:
                with daemon.client() as client:
                    self.assertEqual(client.map(), [(0, SIZE, 0)])
            self.assertEqual(trace.count(rf"<{self.device}"), 0)
            cache = daemon.cache("disk")
            self.assertGreater(cache["misses"], 0)
            self.assertEqual(cache["misses"], cache["lookups"])
            self.assertEqual(cache["probes"], 0)
            self.assertEqual(cache["strategy"], "none")
            self.assertEqual(cache["bytes-unknown"], SIZE)
            with daemon.strace("preadv2,pread64") as trace:
                daemon.mirror(path("copy"))
            self.assertEqual(self.reads(trace), SIZE // MiB)
        self.assertTrue(iotests.identical(self.device, path("copy")))

    def test_discard_makes_unknown(self):
        with self.daemon() as daemon, daemon.client() as client:
            client.write_zeroes(0, 4 * MiB)
            self.assertEqual(daemon.cache("disk")["bytes-zero"], 4 * MiB)
            with daemon.strace("ioctl,fallocate") as trace:
                client.trim(MiB, MiB)
            self.assertEqual(trace.count("BLKDISCARD"), 1)
            self.assertEqual(trace.count("BLKSECDISCARD|fallocate"), 0)
            self.assertEqual(client.map(),
                             [(0, MiB, nbd.STATE_HOLE | nbd.STATE_ZERO),
                              (MiB, MiB, 0),
                              (2 * MiB, 2 * MiB,
                               nbd.STATE_HOLE | nbd.STATE_ZERO),
                              (4 * MiB, SIZE - 4 * MiB, 0)])

    def test_fast_zero(self):
        """A hole is fast; what keeps its space may not be"""
        with self.daemon() as daemon, daemon.client() as client:
            client.write_zeroes(0, MiB, flags=nbd.CMD_FLAG_FAST_ZERO)
            self.assertEqual(daemon.cache("disk")["bytes-zero"], MiB)
            with self.assertRaises(OSError) as caught:
                client.write_zeroes(MiB, MiB, flags=nbd.CMD_FLAG_FAST_ZERO |
                                    nbd.CMD_FLAG_NO_HOLE)
            self.assertEqual(caught.exception.errno, errno.EOPNOTSUPP)
            self.assertEqual(client.pread(MiB, 4 * KiB), b"\x5a" * 4 * KiB)
            self.assertEqual(daemon.cache("disk")["bytes-zero"], MiB)

    def test_detected_zeroes(self):
        for mode in "on", "unmap":
            with self.subTest(mode), \
                    self.daemon(f",detect-zeroes={mode}") as daemon:
                with daemon.client() as client:
                    client.pwrite(MiB, bytes(MiB))
                    self.assertEqual(daemon.cache("disk")["bytes-zero"], MiB)
                    client.pwrite(MiB, bytes(MiB - 1) + b"x")
                    self.assertEqual(daemon.cache("disk")["bytes-zero"], 0)

    def test_stock_reads_the_same(self):
        """All alignments, buffered and direct"""
        for direct in "off", "on":
            with self.subTest(direct), \
                    self.daemon(f",cache.direct={direct}") as daemon:
                iotests.qemu_io(
                    daemon.uri, "write -P 1 3 5", "write -z 511 70000",
                    "write -P 2 65536 513", "write -P 3 67108860 4",
                    "write -z 67108351 505", "flush")
            iotests.qemu_io(
                self.device, "read -P 0x5a 0 3", "read -P 1 3 5",
                "read -P 0 511 65025", "read -P 2 65536 513",
                "read -P 0 66049 4462", "read -P 0x5a 70511 512",
                "read -P 0 67108351 505", "read -P 0x5a 67108856 4",
                "read -P 3 67108860 4")
            with open(self.device, "r+b") as file:
                file.write(b"\x5a" * 128 * KiB)
                file.seek(-KiB, os.SEEK_END)
                file.write(b"\x5a" * KiB)


class ZeroedBigBlocks(Zeroed):
    """The same on logical blocks of 4 KiB"""
    losetup = ("--sector-size", "4096")


class AsStock(Device):

    def add(self, daemon, driver, filename, **more):
        daemon.cmd("blockdev-add", {"driver": driver, "node-name": "n",
                                    "filename": filename, **more})

    def test_as_stock_refuses(self):
        """The same things, with the same words and a few more"""
        wrong = (("file", self.device), ("host_device", self.file),
                 ("host_device", path("absent")))
        with iotests.Daemon() as ours, \
                iotests.Daemon(program=iotests.STOCK_DAEMON) as stock:
            for driver, filename in wrong:
                said = []
                for daemon in ours, stock:
                    with self.assertRaises(QMPError) as caught:
                        self.add(daemon, driver, filename)
                    said.append((caught.exception.error_class,
                                 caught.exception.desc[:20 + len(driver)]))
                self.assertEqual(said[0], said[1])

    def test_shown_as_stock_shows_it(self):
        rows = []
        for program in iotests.DAEMON, iotests.STOCK_DAEMON:
            with iotests.Daemon(program=program) as daemon:
                self.add(daemon, "host_device", self.device)
                (row,) = daemon.cmd("query-named-block-nodes")
                row["image"].pop("format-specific", None)
                row["image"].pop("dirty-flag", None)
                (stats,) = daemon.cmd("query-blockstats", query_nodes=True)
                stats["driver-specific"].pop("status-cache", None)
                rows.append((row, stats["driver-specific"]))
        self.assertEqual(*rows)

    def test_creation(self):
        with iotests.Daemon() as daemon:
            with self.assertRaises(QMPError) as caught:
                daemon.cmd("blockdev-create", {
                    "job-id": "c", "options": {
                        "driver": "host_device", "filename": self.device,
                        "size": MiB}})
            self.assertIn("host_device", caught.exception.desc)
            self.assertEqual(daemon.cmd("query-jobs"), [])


class ReadOnly(Device):
    losetup = ("--read-only",)

    def test_read_only(self):
        with iotests.Daemon() as daemon:
            node = {"driver": "host_device", "node-name": "n",
                    "filename": self.device}
            with self.assertRaises(QMPError) as caught:
                daemon.cmd("blockdev-add", node)
            self.assertRegex(caught.exception.desc,
                             f"{self.device}.* is not writable")
            daemon.cmd("blockdev-add", {**node, "auto-read-only": True})
            daemon.cmd("blockdev-del", {"node-name": "n"})
        with self.daemon(",read-only=on", writable="off") as daemon:
            daemon.mirror(path("copy"))
        self.assertTrue(iotests.identical(self.file, path("copy")))


class Target(Device):

    def test_too_small(self):
        """A device does not grow"""
        source = disk.sparse(path("source"), SIZE + MiB)
        with disk.DiskDaemon(source) as daemon:
            daemon.cmd("blockdev-add", {
                "driver": "host_device", "node-name": "target",
                "filename": self.device})
            with self.assertRaises(QMPError) as caught:
                daemon.cmd("blockdev-mirror", {
                    "job-id": "mirror", "device": "disk", "target": "target",
                    "sync": "full"})
            self.assertIn("size", caught.exception.desc)
            self.assertEqual(daemon.cmd("query-jobs"), [])

    def test_mirror_to_a_device(self):
        """Zeroes are written fast, and known afterwards"""
        source = disk.alternating(path("source"), SIZE, MiB, MiB)
        with disk.DiskDaemon(source) as daemon:
            daemon.cmd("blockdev-add", {
                "driver": "host_device", "node-name": "target",
                "filename": self.device, "discard": "unmap"})
            daemon.cmd("blockdev-mirror", {
                "job-id": "mirror", "device": "disk", "target": "target",
                "sync": "full"})
            daemon.wait_ready()
            daemon.finish()
            self.assertEqual(daemon.cache("target")["bytes-zero"], SIZE // 2)
            self.assertEqual(daemon.cache("target")["bytes-data"], SIZE // 2)
        self.assertTrue(iotests.identical(source, self.device))


class Preallocated(unittest.TestCase):

    def test_zeroed_file_stays_known(self):
        """A buffered read makes ext4 call zeroed extents data; not us"""
        with iotests.file_system("ext4") as folder:
            name = os.path.join(folder, "disk")
            run("fallocate", "-l", SIZE, name)
            with disk.DiskDaemon(name) as daemon:
                with daemon.client() as client:
                    client.write_zeroes(0, SIZE // 2, nbd.CMD_FLAG_NO_HOLE)
                    client.write_zeroes(SIZE // 2, SIZE // 2,
                                        nbd.CMD_FLAG_NO_HOLE)
                    for offset in range(0, SIZE, 16 * MiB):
                        self.assertEqual(client.pread(offset, 16 * MiB),
                                         bytes(16 * MiB))
                    # We have read nothing for that; somebody else does.
                    with open(name, "rb") as file:
                        while file.read(16 * MiB):
                            pass
                    self.assertEqual(daemon.cache("disk")["bytes-zero"], SIZE)
                    self.assertEqual([state & nbd.STATE_ZERO for _, _, state
                                      in client.map()], [nbd.STATE_ZERO])
                (stock,) = iotests.qemu_img_map("-U", "-f", "raw", name)
                self.assertFalse(stock["zero"])
                with daemon.strace("preadv2,pread64") as trace:
                    daemon.mirror(path("copy"))
                self.assertEqual(trace.count(rf"pread\w+\(\d+<{name}>"), 0)
            self.assertTrue(iotests.identical(name, path("copy")))


iotests.main()
