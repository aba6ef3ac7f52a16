#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups of a disk that clients write to all the time are what the disk held at
one moment: of each client, all writes up to one of them, and none after it. What
was acknowledged before the command is in, and what was sent after its reply is
not. Two backups of one transaction are of the same moment.

    SEEKLESS_BACKUPS=100  so many of each kind, not a few
"""

import os
import random
import threading
import unittest

import disk
import iotests
from iotests import KiB, MiB, path

BLOCK = 4 * KiB
SIZE = 24 * MiB + 20 * KiB
CLIENTS = 4
BACKUPS = int(os.environ.get("SEEKLESS_BACKUPS", "3"))
ZEROES = bytes(BLOCK)


class Stream(threading.Thread):
    """A client that writes to blocks of its own, one after the other, and keeps
    account of what it sent"""

    def __init__(self, client, number):
        super().__init__()
        self.client = client
        self.number = number
        self.blocks = range(number, SIZE // BLOCK, CLIENTS)
        self.random = random.Random(number)
        self.log = []  # (block, data), as they were sent
        self.acknowledged = 0
        self.changed = threading.Condition()
        self.ending = threading.Event()
        self.error = None
        self.start()

    def run(self):
        try:
            while not self.ending.is_set():
                self.step()
            self.client.close()
        except Exception as error:
            with self.changed:
                self.error = error
                self.changed.notify_all()

    def step(self):
        block = self.random.choice(self.blocks)
        kind = self.random.randrange(8)
        data = ZEROES
        if kind > 1:
            stamp = b"%d:%d " % (self.number, len(self.log))
            data = (stamp * (BLOCK // len(stamp) + 1))[:BLOCK]
        self.log.append((block, data))
        if kind == 0:
            self.client.trim(block * BLOCK, BLOCK)
        elif kind == 1:
            self.client.write_zeroes(block * BLOCK, BLOCK)
        else:
            self.client.pwrite(block * BLOCK, data)
        with self.changed:
            self.acknowledged = len(self.log)
            self.changed.notify_all()

    def wait(self, writes):
        """Until so many more are acknowledged"""
        with self.changed:
            enough = self.acknowledged + writes
            self.changed.wait_for(
                lambda: self.acknowledged >= enough or self.error,
                iotests.TIMEOUT)

    def end(self):
        self.ending.set()
        self.join()
        if self.error:
            raise self.error

    def content(self, count):
        """Of all its blocks, after so many writes"""
        content = {}
        for block, data in self.log[:count]:
            content[block] = data
        return content

    def check(self, image, at_least, at_most):
        """The image holds what was there after some number of writes in between"""
        have = {}
        for block in self.blocks:
            image.seek(block * BLOCK)
            have[block] = image.read(BLOCK)
        problem = None
        for count in range(at_least, at_most + 1):
            content = self.content(count)
            wrong = [block for block, data in have.items()
                     if data != content.get(block, ZEROES)]
            if not wrong:
                return
            problem = problem or wrong
        raise AssertionError(
            f"client {self.number}: after none of {at_least} to {at_most} writes "
            f"was it like this; after the first of these, blocks {problem[:10]} "
            f"were different")


class BackupIsAMoment(unittest.TestCase):
    def setUp(self):
        self.daemon = disk.DiskDaemon(disk.sparse(path("disk.img"), SIZE))
        self.addCleanup(self.daemon.kill)
        self.streams = [Stream(self.daemon.client(), number)
                        for number in range(CLIENTS)]

    def tearDown(self):
        for stream in self.streams:
            stream.end()
        self.daemon.stop()

    def add_target(self, name, driver):
        filename = path(f"{name}.{driver}")
        iotests.qemu_img("create", "-q", "-f", driver, filename, SIZE)
        self.daemon.cmd("blockdev-add", {
            "driver": driver, "node-name": name, "discard": "unmap",
            "file": {"driver": "file", "filename": filename}})
        return filename

    def finish(self, name, filename, driver):
        """Wait for the backup of that name; a raw image of what it has"""
        event = self.daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device=name)
        self.assertNotIn("error", event["data"])
        self.assertEqual(event["data"]["offset"], SIZE)
        self.daemon.qmp.wait_job(name, "null")
        self.daemon.cmd("blockdev-del", node_name=name)
        if driver == "raw":
            return filename
        iotests.qemu_img("check", "-q", filename)
        iotests.qemu_img("convert", "-O", "raw", filename, filename + ".raw")
        os.unlink(filename)
        return filename + ".raw"

    def backups(self, start, *drivers):
        """Starts backups to targets of these kinds; the images they made"""
        files = {f"copy{i}": self.add_target(f"copy{i}", driver)
                 for i, driver in enumerate(drivers)}
        for stream in self.streams:
            stream.wait(100)
        at_least = [stream.acknowledged for stream in self.streams]
        start([{"job-id": name, "device": "disk", "target": name,
                "sync": "full"} for name in files])
        at_most = [len(stream.log) for stream in self.streams]
        images = [self.finish(name, filename, driver) for (name, filename),
                  driver in zip(files.items(), drivers)]
        for image in images:
            with open(image, "rb") as file:
                for stream, low, high in zip(self.streams, at_least, at_most):
                    stream.check(file, low, high)
        return images

    def start_one(self, options):
        (one,) = options
        self.daemon.cmd("blockdev-backup", one)

    def start_all(self, options):
        self.daemon.cmd("transaction", actions=[
            {"type": "blockdev-backup", "data": one} for one in options])

    def remove(self, images):
        for image in images:
            os.unlink(image)

    def test_raw(self):
        for _ in range(BACKUPS):
            self.remove(self.backups(self.start_one, "raw"))

    def test_qcow2(self):
        for _ in range(BACKUPS):
            self.remove(self.backups(self.start_one, "qcow2"))

    def test_two_of_one_moment(self):
        for _ in range(BACKUPS):
            images = self.backups(self.start_all, "raw", "qcow2")
            self.assertTrue(iotests.identical(*images))
            self.remove(images)


if __name__ == "__main__":
    iotests.main()
