#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""However many backups of a disk run at once, the file system is asked about it as
for one; and a fresh target gets no zeroes."""

import os
import unittest

import disk
import iotests
from iotests import MiB, path

SIZE = 256 * MiB


class BackupsShareTheMap(unittest.TestCase):
    def backups(self, count):
        """So many of one moment; how often the file system was asked about the
        disk, and what was zeroed of the targets"""
        with disk.DiskDaemon(path("disk.img")) as daemon:
            targets = []
            for number in range(count):
                targets.append(disk.sparse(path(f"copy{number}"), SIZE))
                daemon.add_node(f"copy{number}", targets[-1])
            with daemon.strace("lseek,ioctl,fallocate") as trace:
                daemon.cmd("transaction", actions=[
                    {"type": "blockdev-backup", "data": {
                        "job-id": f"job{number}", "device": "disk",
                        "target": f"copy{number}", "sync": "full"}}
                    for number in range(count)])
                for number in range(count):
                    daemon.qmp.wait_job(f"job{number}", "null")
        for target in targets:
            self.assertTrue(iotests.identical(path("disk.img"), target))
            self.assertLessEqual(os.stat(target).st_blocks * 512,
                                 SIZE // 2 + MiB)
            os.unlink(target)
        return trace.asked(path("disk.img")), trace.count("fallocate")

    def test_asked_once(self):
        disk.alternating(path("disk.img"), SIZE)
        self.addCleanup(os.unlink, path("disk.img"))
        one, zeroed = self.backups(1)
        self.assertEqual(zeroed, 0)
        self.assertGreater(one, 0)
        three, zeroed = self.backups(3)
        self.assertEqual(zeroed, 0)
        # Two may ask the same at the same moment.
        self.assertLessEqual(three, one + one // 50)


if __name__ == "__main__":
    iotests.main()
