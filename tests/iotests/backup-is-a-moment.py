#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups of a disk that clients write to all the time are what the disk held at
one moment: of each client, all writes up to one of them, and none after it. What
was acknowledged before the command is in, and what was sent after its reply is
not. Two backups of one transaction are of the same moment. A chain of incremental
backups restores each of its moments.

    SEEKLESS_BACKUPS=100  so many of each kind, not a few
    SEEKLESS_CHAIN=100    so many in a chain, not ten
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
CHAIN = int(os.environ.get("SEEKLESS_CHAIN", "10"))
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

    def check(self, image, at_least, at_most):
        """The image holds what was there after some number of writes in between"""
        have, content = {}, {}
        for block in self.blocks:
            image.seek(block * BLOCK)
            have[block] = image.read(BLOCK)
        content.update(self.log[:at_least])
        wrong = {block for block, data in have.items()
                 if data != content.get(block, ZEROES)}
        problem = sorted(wrong)[:10]
        for block, data in self.log[at_least:at_most]:
            if not wrong:
                break
            # One write later
            if have[block] == data:
                wrong.discard(block)
            else:
                wrong.add(block)
        if wrong:
            raise AssertionError(
                f"client {self.number}: after none of {at_least} to {at_most} "
                f"writes was it like this; after the first of these, blocks "
                f"{problem} were different")


class UnderLoad(unittest.TestCase):
    """A disk that streams write to"""

    def setUp(self):
        self.daemon = disk.DiskDaemon(disk.sparse(path("disk.img"), SIZE))
        self.addCleanup(self.daemon.kill)
        self.streams = [Stream(self.daemon.client(), number)
                        for number in range(CLIENTS)]

    def tearDown(self):
        for stream in self.streams:
            stream.end()
        self.daemon.stop()

    def add_target(self, name, driver, *create, **options):
        filename = path(f"{name}.{driver}")
        iotests.qemu_img("create", "-q", "-f", driver, *create, filename, SIZE)
        self.daemon.cmd("blockdev-add", {
            "driver": driver, "node-name": name, "discard": "unmap",
            "file": {"driver": "file", "filename": filename}, **options})
        return filename

    def completed(self, name):
        """Wait for the end of that job; its target is gone then"""
        event = self.daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device=name)
        self.assertNotIn("error", event["data"])
        self.daemon.qmp.wait_job(name, "null")
        self.daemon.cmd("blockdev-del", node_name=name)
        return event["data"]

    def now(self):
        """How many writes of each stream are done, and how many begun"""
        return ([stream.acknowledged for stream in self.streams],
                [len(stream.log) for stream in self.streams])

    def check(self, image, before, after):
        """A raw image of a moment between these, as now() tells them"""
        with open(image, "rb") as file:
            for stream, low, high in zip(self.streams, before[0], after[1]):
                stream.check(file, low, high)

    def wait(self, writes=100):
        """Until each stream has got on by so many"""
        for stream in self.streams:
            stream.wait(writes)

    def start_all(self, *actions):
        self.daemon.cmd("transaction", actions=[
            {"type": name, "data": data} for name, data in actions])


class BackupIsAMoment(UnderLoad):
    def finish(self, name, filename, driver):
        """Wait for the backup of that name; a raw image of what it has"""
        self.assertEqual(self.completed(name)["offset"], SIZE)
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
        self.wait()
        before = self.now()
        start([{"job-id": name, "device": "disk", "target": name,
                "sync": "full"} for name in files])
        after = self.now()
        images = [self.finish(name, filename, driver) for (name, filename),
                  driver in zip(files.items(), drivers)]
        for image in images:
            self.check(image, before, after)
        return images

    def start_one(self, options):
        (one,) = options
        self.daemon.cmd("blockdev-backup", one)

    def start_together(self, options):
        self.start_all(*(("blockdev-backup", one) for one in options))

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
            images = self.backups(self.start_together, "raw", "qcow2")
            self.assertTrue(iotests.identical(*images))
            self.remove(images)


class ChainIsItsMoments(UnderLoad):
    def add_link(self, number, below):
        """An overlay of the image @below, which the daemon need not have"""
        return self.add_target(f"link{number}", "qcow2", "-b", below, "-F",
                               "qcow2", backing=None)

    def test_chain(self):
        files = [self.add_target("link0", "qcow2")]
        moments = []
        bitmap = {"node": "disk", "name": "since", "granularity": 16 * KiB}
        for number in range(CHAIN + 1):
            self.wait()
            name = f"link{number}"
            backup = {"job-id": name, "device": "disk", "target": name}
            before = self.now()
            if number == 0:
                self.start_all(("block-dirty-bitmap-add", bitmap),
                               ("blockdev-backup", {**backup, "sync": "full"}))
            else:
                files.append(self.add_link(number, files[-1]))
                self.daemon.cmd("blockdev-backup", {
                    **backup, "sync": "incremental", "bitmap": "since"})
            moments.append((before, self.now()))
            data = self.completed(name)
            self.assertEqual(data["offset"], data["len"])
        restored = path("restored.raw")
        for file, moment in zip(files, moments):
            iotests.qemu_img("convert", "-O", "raw", file, restored)
            self.check(restored, *moment)


if __name__ == "__main__":
    iotests.main()
