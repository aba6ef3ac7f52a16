#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""job-complete moves the exports to the copy while clients write: every write
that was acknowledged is in the copy, and those after it are nowhere else."""

import os
import random
import threading
import unittest

import disk
import iotests
from iotests import KiB, MiB, path

SIZE = 64 * MiB
BLOCK = 4 * KiB


class Writer(threading.Thread):
    """Writes a growing number to blocks of its own, and remembers what was
    acknowledged"""

    def __init__(self, daemon, number, of):
        super().__init__()
        self.client = daemon.client()
        self.blocks = range(number, SIZE // BLOCK, of)
        self.random = random.Random(number)
        self.content = {}
        self.ending = threading.Event()
        self.error = None

    def run(self):
        try:
            count = 0
            while not self.ending.is_set():
                count += 1
                self.step(self.random.choice(self.blocks), count)
            self.client.flush()
            self.client.close()
        except Exception as error:
            self.error = error

    def step(self, block, count):
        kind = self.random.randrange(10)
        if kind == 0:
            self.client.write_zeroes(block * BLOCK, BLOCK)
            self.content[block] = bytes(BLOCK)
        elif kind == 1 and block in self.content:
            data = self.client.pread(block * BLOCK, BLOCK)
            if data != self.content[block]:
                raise AssertionError(f"block {block} reads differently")
        else:
            data = b"%015d " % count * (BLOCK // 16)
            self.client.pwrite(block * BLOCK, data)
            self.content[block] = data

    def end(self):
        self.ending.set()
        self.join()
        if self.error:
            raise self.error


class Pivot(unittest.TestCase):
    WRITERS = 4

    def check_content(self, filename, writers):
        with open(filename, "rb") as file:
            for writer in writers:
                for block, data in writer.content.items():
                    file.seek(block * BLOCK)
                    self.assertEqual(file.read(BLOCK), data, f"block {block}")

    def writing(self, daemon):
        writers = [Writer(daemon, i, self.WRITERS)
                   for i in range(self.WRITERS)]
        for writer in writers:
            writer.start()
        return writers

    def test_pivot_under_load(self):
        image = disk.written(path("image"), SIZE)
        with disk.DiskDaemon(image) as daemon:
            writers = self.writing(daemon)
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
            writers = self.writing(daemon)
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
            writers = self.writing(daemon)
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
