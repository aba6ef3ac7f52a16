#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Two readers cost the file system no more questions than one, however far
apart they are, and a disk of many holes is asked about once."""

import threading
import unittest

import disk
import iotests
from iotests import KiB, MiB, path

SIZE = 256 * MiB


class Readers(unittest.TestCase):
    def test_alternating_data_and_holes(self):
        """The first map: a lseek a hole at most, and a FIEMAP for many of
        them; after that nothing, whoever asks"""
        image = disk.alternating(path("image"), SIZE)
        holes = SIZE // (128 * KiB)
        with disk.DiskDaemon(image) as daemon:
            with daemon.strace("lseek,ioctl") as trace:
                first = iotests.nbdinfo_map(daemon.uri)
            self.assertEqual(len(first), 2 * holes)
            if daemon.cache("disk")["strategy"] == "fiemap":
                self.assertLessEqual(
                    trace.asked(image, "SEEK_HOLE|SEEK_DATA"), holes)
                self.assertLessEqual(trace.asked(image, "FIEMAP"), holes // 8)
            else:
                self.assertLessEqual(trace.asked(image), 2 * holes + 1)
            with daemon.strace("lseek,ioctl") as trace:
                self.assertEqual(iotests.nbdinfo_map(daemon.uri), first)
                daemon.mirror(path("copy"))
                rows = daemon.map()
                daemon.mirror(path("other"), "other")
            self.assertEqual(trace.asked(image), 0, trace.lines[:20])
            self.assertEqual(len(rows), 2 * holes)
            self.assertTrue(all(row["known"] for row in rows))
        self.assertTrue(iotests.identical(image, path("copy")))
        self.assertTrue(iotests.identical(image, path("other")))

    def probes_of(self, image, other_reader):
        with disk.DiskDaemon(image) as daemon:
            daemon.start_mirror(path("copy"), speed=64 * MiB)
            if other_reader:
                self.map_until(daemon)
            daemon.cmd("block-job-set-speed", device="mirror", speed=0)
            daemon.wait_ready()
            daemon.finish()
            self.assertTrue(iotests.identical(image, path("copy")))
            return daemon.cache("disk")["probes"]

    @staticmethod
    def map_until(daemon):
        """Maps from the end backward and as a whole, many times"""
        with daemon.client() as client:
            for _ in range(20):
                client.map()
                for offset in range(client.size - MiB, -1, -MiB):
                    client.block_status(offset, MiB)

    def test_a_few_holes(self):
        image = disk.written(path("image"), 256 * MiB)
        for offset in range(32 * MiB, 256 * MiB, 64 * MiB):
            iotests.run("fallocate", "--punch-hole", "--offset", offset,
                        "--length", 4 * KiB, image)
        alone = self.probes_of(image, False)
        self.assertLessEqual(self.probes_of(image, True), alone + 1)

    def test_readers_at_once(self):
        """All begin with an empty cache, at the same time"""
        image = disk.alternating(path("image"), 64 * MiB)
        with disk.DiskDaemon(image) as daemon:
            iotests.nbdinfo_map(daemon.uri)
            alone = daemon.cache("disk")["extents"]
            daemon.cmd("block-status-cache-flush", node_name="disk")
            maps = []

            def read():
                with daemon.client() as client:
                    maps.append(client.map())

            readers = [threading.Thread(target=read) for _ in range(8)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            self.assertEqual(len(maps), 8)
            self.assertTrue(all(found == maps[0] for found in maps))
            extents = daemon.cache("disk")["extents"] - alone
        # They may meet in one window before one of them has its answer.
        self.assertLessEqual(extents, 4 * alone)


if __name__ == "__main__":
    iotests.main()
