#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A system call that hangs holds up the request that made it, and no other:
no QMP query waits for a probe, a read, a write or a flush."""

import threading
import time
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, path

HELD = 3  # seconds that a call is held: far more than an answer may take
QUERIES = ("query-version", "query-named-block-nodes", "query-jobs",
           "query-block-jobs", "query-block-exports",
           "query-block-status-cache", "query-commands")


class QueriesNeverWait(unittest.TestCase):
    def answer_times(self, daemon):
        """The longest that any query took"""
        worst = 0
        for command in QUERIES:
            start = time.monotonic()
            daemon.cmd(command)
            worst = max(worst, time.monotonic() - start)
        start = time.monotonic()
        daemon.cmd("query-blockstats", query_nodes=True)
        return max(worst, time.monotonic() - start)

    def check_while_held(self, daemon, calls, request):
        """Ask while @request is inside a held call of one of these kinds"""
        done = threading.Event()

        def act():
            request()
            done.set()

        thread = threading.Thread(target=act)
        inject = f"{calls}:delay_enter={HELD * 1000000}"
        with daemon.strace(calls, inject) as trace:
            thread.start()
            trace.wait_for(calls.split(",")[0] + r"|" +
                           calls.split(",")[-1])
            rounds = 0
            while not done.is_set() and rounds < 50:
                worst = self.answer_times(daemon)
                self.assertLess(worst, HELD / 2)
                rounds += 1
            self.assertGreater(rounds, 2)
        thread.join()

    def with_disk(self, image, calls, request, options=""):
        with disk.DiskDaemon(image, options) as daemon:
            with daemon.client() as client:
                self.check_while_held(daemon, calls,
                                      lambda: request(client))

    def test_seek(self):
        image = disk.alternating(path("image"), MiB)
        self.with_disk(image, "lseek", lambda client: client.map(),
                       ",status-probe=seek")

    def test_fiemap(self):
        image = disk.alternating(path("image"), MiB)
        self.with_disk(image, "ioctl", lambda client: client.map(),
                       ",status-probe=fiemap")

    def test_read(self):
        image = disk.written(path("image"), MiB)
        self.with_disk(image, "pread64,preadv,preadv2",
                       lambda client: client.pread(0, 4 * KiB))

    def test_write(self):
        image = disk.written(path("image"), MiB)
        self.with_disk(image, "pwrite64,pwritev,pwritev2",
                       lambda client: client.pwrite(0, b"x" * 4 * KiB))

    def test_zero_write(self):
        image = disk.written(path("image"), MiB)
        self.with_disk(image, "fallocate",
                       lambda client: client.write_zeroes(0, 64 * KiB))

    def test_flush(self):
        image = disk.written(path("image"), MiB)

        def write_and_flush(client):
            client.pwrite(0, b"x" * 4 * KiB)
            client.flush()

        self.with_disk(image, "fdatasync", write_and_flush)

    def test_other_requests_go_on(self):
        """A client's reads are answered while another's map hangs"""
        image = disk.alternating(path("image"), MiB)
        with disk.DiskDaemon(image, ",status-probe=seek") as daemon:
            with daemon.client() as asking, daemon.client() as reading:
                cookie = None
                with daemon.strace(
                        "lseek", f"lseek:delay_enter={HELD * 1000000}:when=1"
                        ) as trace:
                    cookie = asking.send_request(nbd.CMD_BLOCK_STATUS, 0, MiB)
                    trace.wait_for("lseek")
                    start = time.monotonic()
                    for offset in range(0, MiB, 64 * KiB):
                        reading.pread(offset, 4 * KiB)
                        reading.pwrite(offset, b"y" * 4 * KiB)
                    self.assertLess(time.monotonic() - start, HELD / 2)
                asking.reply(cookie)


class ManyExtents(unittest.TestCase):
    QUERIES = 500

    def keep_asking(self, daemon):
        """Ask for the map until there were enough queries"""
        with daemon.client() as client:
            while self.queries < self.QUERIES:
                client.map()
                self.maps += 1

    def test_while_a_large_map_is_asked_and_a_mirror_runs(self):
        """Many queries are answered while one map is asked, and many while the
        mirror runs: if they had to wait it would be one or two"""
        image = disk.alternating(path("image"), 400 * MiB, 4 * KiB, 4 * KiB)
        self.queries = self.maps = meanwhile = 0
        with disk.DiskDaemon(image) as daemon:
            asking = threading.Thread(target=self.keep_asking, args=(daemon,))
            asking.start()
            try:
                daemon.start_mirror(path("copy"))
                for self.queries in range(1, self.QUERIES + 1):
                    jobs = daemon.cmd("query-jobs")
                    meanwhile += jobs[0]["status"] == "running"
            finally:
                self.queries = self.QUERIES
                asking.join()
            daemon.wait_ready()
            daemon.finish()
        self.assertLess(self.maps, self.QUERIES / 5)
        self.assertGreater(meanwhile, self.QUERIES / 10)


if __name__ == "__main__":
    iotests.main()
