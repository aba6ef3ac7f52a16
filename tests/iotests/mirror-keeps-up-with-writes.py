#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Mirrors under the full load of eight clients that write to overlapping,
unaligned places: with copy-mode=write-blocking the copy is equal to the disk
whenever they pause after READY, also if they write faster than it copies; and
whoever is moved to the copy takes every acknowledged write along, once and in
order. A target that fails is no client's business.

    SEEKLESS_ROUNDS=50 SEEKLESS_PIVOTS=200  so many rounds, not a few
"""

import os
import random
import struct
import threading
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, path

CLIENTS = 8
SIZE = 32 * MiB + 512
ROUNDS = int(os.environ.get("SEEKLESS_ROUNDS", "3"))
PIVOTS = int(os.environ.get("SEEKLESS_PIVOTS", "6"))


class Load:
    """Clients that all call step(client, random, number) all the time, and can
    be held where nothing is in flight"""

    def __init__(self, daemon, step, count=CLIENTS):
        self.changed = threading.Condition()
        self.held = self.ending = False
        self.resting = 0
        self.error = None
        self.steps = 0
        self.step = step
        self.threads = [
            threading.Thread(target=self._run, args=(daemon.client(), number))
            for number in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self, client, number):
        rand = random.Random(number)
        try:
            while self._go_on():
                self.step(client, rand, number)
            client.close()
        except Exception as error:
            with self.changed:
                self.error = error
                self.ending = True
                self.resting += 1
                self.changed.notify_all()

    def _go_on(self):
        with self.changed:
            self.steps += 1
            self.changed.notify_all()
            while self.held and not self.ending:
                self.resting += 1
                self.changed.notify_all()
                self.changed.wait()
                self.resting -= 1
        return not self.ending

    def hold(self):
        with self.changed:
            self.held = True
            self.changed.wait_for(
                lambda: self.resting == len(self.threads) or self.error)
        if self.error:
            raise self.error

    def go(self, steps=0):
        """Let them go, and wait until they have made so many steps"""
        with self.changed:
            self.held = False
            self.changed.notify_all()
            until = self.steps + steps
            self.changed.wait_for(lambda: self.steps >= until or self.error)

    def end(self):
        with self.changed:
            self.ending = True
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()
        if self.error:
            raise self.error


def write_anywhere(client, rand, _):
    length = 1 + rand.randrange(1 << rand.randrange(18))
    offset = rand.randrange(SIZE - length + 1)
    kind = rand.randrange(8)
    if kind == 0:
        client.write_zeroes(offset, length,
                            rand.choice((0, nbd.CMD_FLAG_NO_HOLE)))
    elif kind == 1:
        client.trim(offset, length)
    else:
        data = rand.randbytes(16) * (length // 16 + 1)
        client.pwrite(offset, data[:length],
                      rand.choice((0, 0, 0, nbd.CMD_FLAG_FUA)))


class Writes:
    """Each client writes rising numbers to records of its own, which share
    blocks with those of others, and logs the last acknowledged one"""

    RECORD = 700  # unaligned, and never alone in a block
    RECORDS = 4000

    def __init__(self):
        self.logs = [{} for _ in range(CLIENTS)]
        self.numbers = [0] * CLIENTS

    def step(self, client, rand, number):
        self.numbers[number] += 1
        count = self.numbers[number]
        record = rand.randrange(self.RECORDS // CLIENTS) * CLIENTS + number
        if rand.randrange(4) == 0:
            found = self.parse(client.pread(record * self.RECORD, self.RECORD))
            if found != self.logs[number].get(record, found):
                raise AssertionError(f"record {record}: {found}, not "
                                     f"{self.logs[number][record]}")
        client.pwrite(record * self.RECORD,
                      struct.pack(">HI", number, count) * (self.RECORD // 6))
        self.logs[number][record] = (number, count)

    def parse(self, data):
        """The one number that all of a record tells"""
        data = data[:self.RECORD // 6 * 6]
        if data != data[:6] * (len(data) // 6):
            raise AssertionError("a record of two writes")
        return struct.unpack_from(">HI", data)

    def check(self, filename):
        with open(filename, "rb") as file:
            for log in self.logs:
                for record, written in log.items():
                    file.seek(record * self.RECORD)
                    found = self.parse(file.read(self.RECORD))
                    if found != written:
                        raise AssertionError(
                            f"record {record}: {found}, not {written}")


class KeepsUp(unittest.TestCase):
    def compare(self, load, one, other):
        """With the clients held, not drained"""
        load.hold()
        self.assertTrue(iotests.identical(one, other), "READY, but not equal")

    def test_equal_at_every_ready(self):
        image, copy = disk.written(path("image"), SIZE), path("copy")
        with disk.DiskDaemon(image) as daemon:
            load = Load(daemon, write_anywhere)
            try:
                for turn in range(ROUNDS):
                    job = f"job{turn}"
                    daemon.start_mirror(
                        copy, job, granularity=(64 * KiB, 512, MiB)[turn % 3],
                        **{"copy-mode": "write-blocking"})
                    daemon.wait_ready(job)
                    self.compare(load, image, copy)
                    for _ in range(3):
                        load.go(200)
                        self.compare(load, image, copy)
                    load.go()
                    daemon.finish(job)
                    daemon.cmd("blockdev-del", node_name=f"{job}-target")
                    os.unlink(copy)
            finally:
                load.end()

    def test_slow_copy(self):
        """Clients that write much faster than the job may copy"""
        image, copy = disk.written(path("image"), SIZE), path("copy")
        with disk.DiskDaemon(image) as daemon:
            load = Load(daemon, write_anywhere)
            try:
                daemon.start_mirror(copy, speed=16 * MiB,
                                    **{"copy-mode": "write-blocking"})
                daemon.wait_ready()
                self.compare(load, image, copy)
                load.go(200)
                daemon.complete()
            finally:
                load.end()

    def pivots(self, **options):
        image = disk.written(path("image"), SIZE)
        writes = Writes()
        with disk.DiskDaemon(image) as daemon:
            load = Load(daemon, writes.step)
            source, name = "disk", image
            try:
                for turn in range(PIVOTS):
                    job = f"job{turn}"
                    daemon.start_mirror(path(job), job, source, **options)
                    daemon.wait_ready(job)
                    daemon.complete(job)
                    daemon.cmd("blockdev-del", node_name=source)
                    if turn % 10 == 0:
                        load.hold()
                        writes.check(path(job))
                        load.go()
                    if name != image:
                        os.unlink(name)
                    source, name = f"{job}-target", path(job)
            finally:
                load.end()
        writes.check(name)
        os.unlink(name)

    def test_pivots(self):
        self.pivots()

    def test_pivots_blocking(self):
        self.pivots(**{"copy-mode": "write-blocking"})

    def test_full_target(self):
        """ENOSPC on the target while clients write: they do not notice"""
        image = disk.sparse(path("image"), SIZE)
        writes = Writes()
        with iotests.file_system("ext4", 16 * MiB) as folder, \
                disk.DiskDaemon(image) as daemon:
            copy = os.path.join(folder, "copy")
            daemon.start_mirror(copy, **{"copy-mode": "write-blocking"})
            daemon.wait_ready()
            with open(os.path.join(folder, "filler"), "wb") as filler:
                free = os.statvfs(folder)
                filler.write(bytes(free.f_bavail * free.f_bsize - 256 * KiB))
            load = Load(daemon, writes.step)
            try:
                event = daemon.qmp.wait_event("BLOCK_JOB_ERROR")["data"]
                self.assertEqual((event["operation"], event["action"]),
                                 ("write", "report"))
                event = daemon.qmp.wait_event("BLOCK_JOB_COMPLETED")["data"]
                self.assertEqual(event["error"], "No space left on device")
                daemon.qmp.wait_job("mirror", "null")
                load.go(100)
            finally:
                load.end()
            daemon.cmd("blockdev-del", node_name="mirror-target")
        writes.check(image)

    def test_failing_target(self):
        """EIO now and then, and a job that ignores it: ready, and equal"""
        image, copy = disk.written(path("image"), SIZE), path("copy")
        with disk.DiskDaemon(image) as daemon:
            load = Load(daemon, write_anywhere)
            try:
                daemon.start_mirror(copy, **{"copy-mode": "write-blocking",
                                             "on-target-error": "ignore"})
                calls = "pwrite64,pwritev,pwritev2,fallocate"
                # Counted by thread
                with iotests.Strace(daemon.pid, calls,
                                    [f"{calls}:error=EIO:when=3+7"], [copy]):
                    for _ in range(20):
                        event = daemon.qmp.wait_event("BLOCK_JOB_ERROR")
                        self.assertEqual(event["data"]["action"], "ignore")
                daemon.wait_ready()
                load.hold()
                daemon.finish()
                self.assertTrue(iotests.identical(image, copy))
                load.go()
            finally:
                load.end()


if __name__ == "__main__":
    iotests.main()
