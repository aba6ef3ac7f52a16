#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""job-complete moves the exports to the copy while clients write: every write
that was acknowledged is in the copy, and those after it are nowhere else."""

import os
import unittest

import disk
import iotests
from iotests import KiB, MiB, path
from writer import writing

SIZE = 64 * MiB


class Pivot(unittest.TestCase):
    def check_content(self, filename, writers):
        with open(filename, "rb") as file:
            for writer in writers:
                writer.check(file)

    def test_pivot_under_load(self):
        image = disk.written(path("image"), SIZE)
        with disk.DiskDaemon(image) as daemon:
            writers = writing(daemon.client, SIZE)
            for turn in range(3):
                job = f"job{turn}"
                source = "disk" if turn == 0 else f"job{turn - 1}-target"
                daemon.start_mirror(path(job), job, source)
                daemon.wait_ready(job)
                daemon.complete(job)
                (export,) = daemon.cmd("query-block-exports")
                self.assertEqual(export["node-name"], f"{job}-target")
                daemon.cmd("blockdev-del", node_name=source)
            before = iotests.run("sha256sum", image, path("job0"),
                                 path("job1")).stdout
            with daemon.client() as client:
                client.pwrite(0, b"last" * KiB)
                last = client.pread(0, 4 * KiB)
            for writer in writers:
                writer.end()
            for writer in writers:
                writer.content.pop(0, None)
            after = iotests.run("sha256sum", image, path("job0"),
                                path("job1")).stdout
            self.assertEqual(before, after, "written to what was left behind")
            self.assertEqual(last, b"last" * KiB)
        self.check_content(path("job2"), writers)

    def test_no_pivot(self):
        """block-job-cancel after READY: the copy is what the disk is then"""
        image = disk.written(path("image"), SIZE)
        with disk.DiskDaemon(image) as daemon:
            writers = writing(daemon.client, SIZE)
            daemon.start_mirror(path("copy"))
            daemon.wait_ready()
            for writer in writers:
                writer.end()
            daemon.finish()
            (export,) = daemon.cmd("query-block-exports")
            self.assertEqual(export["node-name"], "disk")
            with daemon.client() as client:
                client.pwrite(0, b"more" * KiB)
        self.check_content(path("copy"), writers)
        with open(path("copy"), "rb") as file:
            self.assertNotEqual(file.read(4), b"more")

    def test_abort(self):
        """job-cancel at any time leaves the disk as it is"""
        image = disk.written(path("image"), SIZE)
        with disk.DiskDaemon(image) as daemon:
            writers = writing(daemon.client, SIZE)
            for turn in range(4):
                job = f"job{turn}"
                daemon.start_mirror(path(job), job, speed=turn * 8 * MiB)
                if turn == 0:
                    daemon.wait_ready(job)
                daemon.cmd("job-cancel", id=job)
                daemon.qmp.wait_job(job, "null")
                daemon.cmd("blockdev-del", node_name=f"{job}-target")
                os.unlink(path(job))
            for writer in writers:
                writer.end()
        self.check_content(image, writers)


if __name__ == "__main__":
    iotests.main()
