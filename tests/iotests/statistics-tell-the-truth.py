#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters count what was done, the same wherever they are shown."""

import os
import unittest

import disk
import iotests
from iotests import KiB, MiB, path

SIZE = 16 * MiB


class Statistics(unittest.TestCase):
    def setUp(self):
        self.image = disk.alternating(path("image"), SIZE)
        self.daemon = disk.DiskDaemon(self.image)
        self.client = self.daemon.client()

    def tearDown(self):
        self.client.close()
        self.daemon.stop()

    def block_stats(self):
        (row,) = [row for row in
                  self.daemon.cmd("query-blockstats", query_nodes=True)
                  if row["node-name"] == "disk"]
        return row

    def cache(self):
        return self.daemon.cache("disk")

    def grown(self, act):
        """What has changed in the cache's numbers"""
        before = self.cache()
        act()
        return {name: value - before[name]
                for name, value in self.cache().items()
                if isinstance(value, int) and not isinstance(value, bool)
                and value != before[name]}

    def test_the_same_in_both_places(self):
        self.client.map()
        everywhere = self.daemon.cmd("query-block-status-cache")
        by_name = self.cache()
        self.assertEqual(everywhere, [by_name])
        self.assertEqual(by_name.pop("node-name"), "disk")
        specific = self.block_stats()["driver-specific"]
        self.assertEqual(specific["driver"], "file")
        self.assertEqual(specific["status-cache"], by_name)

    def test_lookups(self):
        first = self.grown(self.client.map)
        self.assertGreater(first["probes"], 0)
        self.assertGreater(first["misses"], 0)
        self.assertGreaterEqual(first["lookups"], SIZE // (64 * KiB))
        self.assertEqual(first["bytes-unknown"], -SIZE)
        self.assertEqual(first["bytes-data"], SIZE // 2)
        self.assertEqual(first["bytes-zero"], SIZE // 2)
        second = self.grown(self.client.map)
        self.assertEqual(second["lookups"], second["hits"])
        self.assertEqual(set(second), {"lookups", "hits"})
        stats = self.cache()
        self.assertEqual(stats["lookups"], stats["hits"] + stats["misses"])
        self.assertEqual(sum(stats["probe-cpu-histogram"]["bins"]),
                         stats["probes"])

    def test_what_writers_told(self):
        self.client.map()
        grown = self.grown(lambda: self.client.pwrite(64 * KiB, b"x" * KiB * 4))
        self.assertEqual(grown["learned-writes"], 4 * KiB)
        self.assertEqual(grown["bytes-data"], 4 * KiB)
        self.assertEqual(grown["bytes-zero"], -4 * KiB)
        self.assertNotIn("probes", grown)
        grown = self.grown(lambda: self.client.write_zeroes(0, 8 * KiB))
        self.assertEqual(grown["learned-zeroes"], 8 * KiB)
        self.assertEqual(grown["bytes-zero"], 8 * KiB)
        grown = self.grown(lambda: self.client.trim(128 * KiB, 4 * KiB))
        self.assertEqual(grown["learned-discards"], 4 * KiB)
        self.assertEqual(grown["bytes-data"], -4 * KiB)

    def test_flush_command(self):
        self.client.map()
        self.daemon.cmd("block-status-cache-flush", node_name="disk")
        stats = self.cache()
        self.assertEqual(stats["bytes-unknown"], SIZE)
        self.assertEqual(stats["bytes-data"] + stats["bytes-zero"], 0)
        self.assertGreater(self.grown(self.client.map)["probes"], 0)

    def test_memory_limit(self):
        """What does not fit is forgotten, and asked again"""
        image = disk.sparse(path("many"), SIZE)
        with disk.DiskDaemon(image, ",status-cache-granularity=512,"
                             "status-cache-size=2k") as daemon:
            with daemon.client() as client:
                for offset in range(0, SIZE, KiB):
                    client.pwrite(offset, b"x" * 512)
            stats = daemon.cache("disk")
            self.assertGreater(stats["evictions"], 0)
            self.assertLessEqual(stats["memory"], 2 * KiB)
            self.assertGreater(stats["bytes-unknown"], 0)
            daemon.mirror(path("copy"))
        self.assertTrue(iotests.identical(image, path("copy")))
        os.unlink(path("copy"))

    def test_requests(self):
        stats = self.block_stats()["stats"]
        self.client.pwrite(0, b"x" * 4 * KiB)
        self.client.pread(0, 8 * KiB)
        self.client.write_zeroes(0, 16 * KiB)
        self.client.trim(0, 32 * KiB)
        self.client.flush()
        now = self.block_stats()
        specific, now = now["driver-specific"], now["stats"]
        self.assertEqual(now["rd_operations"] - stats["rd_operations"], 1)
        self.assertEqual(now["rd_bytes"] - stats["rd_bytes"], 8 * KiB)
        self.assertGreaterEqual(now["wr_operations"] - stats["wr_operations"],
                                1)
        self.assertEqual(now["unmap_operations"] - stats["unmap_operations"],
                         1)
        self.assertEqual(now["unmap_bytes"] - stats["unmap_bytes"], 32 * KiB)
        self.assertGreaterEqual(
            now["flush_operations"] - stats["flush_operations"], 1)
        self.assertEqual(specific["discard-nb-ok"], 1)
        self.assertEqual(specific["discard-bytes-ok"], 32 * KiB)
        self.assertEqual(specific["discard-nb-failed"], 0)


if __name__ == "__main__":
    iotests.main()
