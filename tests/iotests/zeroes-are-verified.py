#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""block-status-cache-verify finds what somebody wrote behind the daemon's back
where the map says zero, and is wrong about nothing else, however hard guests write
while it reads.

    SEEKLESS_VERIFY_PASSES  jobs under load on each file system (default: 80)
"""

import os
import random
import threading
import time
import unittest

import disk
import iotests
from iotests import KiB, MiB, QMPError, path, run

PASSES = int(os.environ.get("SEEKLESS_VERIFY_PASSES", "80"))
SIZE = 16 * MiB
LOADED = 4 * MiB  # small: so that requests meet what is being verified
PART = 256 * KiB  # data, zeroes, data, ...
LIE = 5 * MiB + PART + 8 * KiB  # a block among zeroes

COMMAND = "block-status-cache-verify"
MISMATCH = "BLOCK_STATUS_CACHE_MISMATCH"


def write_behind_its_back(filename, offset):
    """dd takes no locks"""
    with open(path("input"), "w+b") as file:
        file.write(b"lies")
        file.seek(0)
        run("dd", f"of={filename}", "bs=1", f"seek={offset}", "conv=notrunc",
            "status=none", stdin=file)
    os.unlink(path("input"))


class VerifyDaemon(disk.DiskDaemon):

    def verify(self, node_name="disk", **options):
        """A whole job; its last event"""
        self.cmd(COMMAND, job_id="v", node_name=node_name, **options)
        event = self.qmp.wait_event("BLOCK_JOB_COMPLETED", device="v")
        self.qmp.wait_job("v", "null")
        return event["data"]

    def mismatches(self):
        return [(event["data"]["offset"], event["data"]["length"])
                for event in self.qmp.events if event["event"] == MISMATCH]

    def zeroes(self):
        return [(row["start"], row["length"]) for row in self.map()
                if row["zero"]]


class ZeroesAreVerified(unittest.TestCase):
    driver = "file"
    options = ("", ",cache.direct=on")

    def setUp(self):
        self.image = disk.alternating(path("image"), SIZE, PART, PART)

    def tearDown(self):
        for name in ("image", "copy"):
            if os.path.exists(path(name)):
                os.unlink(path(name))

    def assert_caught(self, daemon, event, offset=LIE, length=4096,
                      node="disk"):
        self.assertEqual(
            event["error"],
            f"Node '{node}' has data where its status cache knew zeroes: "
            f"{length} bytes at offset {offset}, at least {length} bytes in "
            "all; the cache is not believed any more")
        self.assertEqual(event["type"], "status-cache-verify")
        self.assertLess(event["offset"], event["len"])
        self.assertEqual(daemon.mismatches(), [(offset, length)])
        stats = daemon.cache(node)
        self.assertEqual((stats["mode"], stats["distrusted"]),
                         ("data-only", True))
        self.assertEqual(stats["bytes-zero"], 0)
        self.assertEqual(stats["verify-mismatches"], 1)

    def test_what_is_true(self):
        """All zeroes are read, and nothing else"""
        for options in self.options:
            with VerifyDaemon(self.image, options) as daemon:
                self.assertEqual(daemon.verify()["len"], 0)  # nothing is known
                zeroes = daemon.zeroes()
                with daemon.strace("preadv2") as trace:
                    event = daemon.verify()
                self.assertNotIn("error", event)
                self.assertEqual(event["len"], SIZE // 2)
                self.assertEqual(event["offset"], SIZE // 2)
                self.assertEqual(trace.count("preadv2"), len(zeroes))
                stats = daemon.cache("disk")
                self.assertEqual(stats["verified-bytes"], SIZE // 2)
                self.assertEqual((stats["mode"], stats["distrusted"]),
                                 ("on", False))

    def test_what_is_not(self):
        for options in self.options:
            disk.alternating(self.image, SIZE, PART, PART)
            with VerifyDaemon(self.image, options) as daemon, \
                    daemon.client() as client:
                client.map()
                write_behind_its_back(self.image, LIE)
                # Nobody sees it.
                self.assertEqual(client.pread(LIE, 4), bytes(4))
                self.assert_caught(daemon, daemon.verify())
                # Everybody does.
                self.assertEqual(client.pread(LIE, 4), b"lies")
                (row,) = [row for row in daemon.map()
                          if row["start"] <= LIE < row["start"] + row["length"]]
                self.assertTrue(row["data"])
                daemon.mirror(path("copy"))
                self.assertTrue(iotests.identical(self.image, path("copy")))
                client.write_zeroes(0, PART)
                self.assertEqual(daemon.cache("disk")["bytes-zero"], 0)
                with self.assertRaises(QMPError) as caught:
                    daemon.verify()
                self.assertIn("no zeroes to verify", caught.exception.desc)
                self.check_stays_so(daemon)

    def reopen(self, daemon, mode):
        daemon.cmd("blockdev-reopen", options=[{
            "driver": self.driver, "node-name": "disk",
            "filename": self.image, "status-cache": mode}])

    def check_stays_so(self, daemon):
        """Until nobody has the file open any more"""
        for mode in ("off", "on"):
            self.reopen(daemon, mode)
        daemon.cmd("blockdev-add", driver=self.driver, node_name="second",
                   filename=self.image, read_only=True)
        daemon.cmd("block-export-del", id="export", mode="hard")
        daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="export")
        daemon.cmd("blockdev-del", node_name="disk")
        daemon.cmd("x-query-block-map", node_name="second")
        stats = daemon.cache("second")
        self.assertEqual((stats["mode"], stats["distrusted"],
                          stats["bytes-zero"]), ("data-only", True, 0))
        daemon.cmd("blockdev-del", node_name="second")
        daemon.cmd("blockdev-add", driver=self.driver, node_name="third",
                   filename=self.image, read_only=True)
        daemon.cmd("x-query-block-map", node_name="third")
        stats = daemon.cache("third")
        self.assertEqual((stats["mode"], stats["distrusted"]), ("on", False))
        self.assertGreater(stats["bytes-zero"], 0)

    def test_below_formats(self):
        """The node that is named may be a filter or raw; of a qcow2 image it is
        that of the file"""
        with VerifyDaemon(
                self.image, extra=("--blockdev", "raw,node-name=above,"
                                   "file=disk,offset=1048576")) as daemon:
            daemon.map()
            write_behind_its_back(self.image, PART)  # before the window, too
            self.assert_caught(daemon, daemon.verify("above"), PART)
        image = path("image.qcow2")
        iotests.qemu_img("create", "-q", "-f", "qcow2", image, "1M")
        with VerifyDaemon(self.image, extra=(
                "--blockdev", "qcow2,node-name=q,file.driver=file,"
                f"file.node-name=f,file.filename={image}")) as daemon:
            with self.assertRaises(QMPError) as caught:
                daemon.verify("q")
            self.assertEqual(caught.exception.desc,
                             "Node 'q' has no status cache")
            self.assertNotIn("error", daemon.verify("f"))
        os.unlink(image)

    def test_who_remembers_no_zeroes(self):
        """... has nothing that could be wrong"""
        for options in (",locking=off", ",status-cache=data-only",
                        ",status-cache=off"):
            with VerifyDaemon(self.image, options) as daemon:
                daemon.map()
                event = daemon.verify()
                self.assertNotIn("error", event)
                self.assertEqual(event["len"], 0)
                self.assertEqual(daemon.cache("disk")["verified-bytes"], 0)

    def test_speed(self):
        with VerifyDaemon(self.image) as daemon:
            daemon.map()
            since, read = time.monotonic(), 0
            daemon.cmd(COMMAND, job_id="v", node_name="disk", speed=MiB)
            while time.monotonic() < since + 2 or read == 0:
                self.assertLess(time.monotonic(), since + iotests.TIMEOUT)
                read = daemon.cache("disk")["verified-bytes"]
                self.assertLessEqual(
                    read, (time.monotonic() - since + 0.1) * MiB)
                time.sleep(0.05)
            daemon.cmd("block-job-set-speed", device="v", speed=0)
            event = daemon.qmp.wait_event("BLOCK_JOB_COMPLETED")
            self.assertEqual(event["data"]["offset"], SIZE // 2)

    def test_verbs(self):
        """As those of other jobs; and others may do what they like"""
        with VerifyDaemon(self.image) as daemon:
            daemon.map()
            daemon.cmd(COMMAND, job_id="v", node_name="disk", speed=64 * KiB,
                       auto_finalize=False, auto_dismiss=False)
            daemon.qmp.wait_job("v", "running")
            (row,) = daemon.cmd("query-block-jobs")
            self.assertEqual((row["type"], row["device"], row["speed"]),
                             ("status-cache-verify", "v", 64 * KiB))
            daemon.cmd("block-export-del", id="export")
            daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="export")
            with self.assertRaises(QMPError) as caught:
                daemon.cmd("blockdev-del", node_name="disk")
            self.assertEqual(caught.exception.desc,
                             "Node disk is in use by job 'v'")
            with self.assertRaises(QMPError) as caught:
                daemon.cmd(COMMAND, job_id="v", node_name="disk")
            self.assertIn("already in use", caught.exception.desc)
            daemon.cmd("job-pause", id="v")
            daemon.qmp.wait_job("v", "paused")
            daemon.mirror(path("copy"))
            daemon.cmd("block_resize", node_name="disk", size=SIZE - PART)
            self.reopen(daemon, "on")
            daemon.cmd("job-resume", id="v")
            daemon.cmd("block-job-set-speed", device="v", speed=0)
            daemon.qmp.wait_event("BLOCK_JOB_PENDING", id="v")
            daemon.cmd("job-finalize", id="v")
            daemon.qmp.wait_job("v", "concluded")
            (row,) = daemon.cmd("query-jobs")
            self.assertEqual(row["current-progress"], row["total-progress"])
            self.assertNotIn("error", row)
            daemon.cmd("job-dismiss", id="v")
            daemon.cmd(COMMAND, job_id="v", node_name="disk", speed=1)
            daemon.qmp.wait_job("v", "running")
            daemon.cmd("job-cancel", id="v")
            daemon.qmp.wait_event("BLOCK_JOB_CANCELLED", device="v")
            daemon.qmp.wait_job("v", "null")
            # at exit, too
            daemon.cmd(COMMAND, job_id="v", node_name="disk", speed=1)

    def test_trace(self):
        log = path("log")
        with VerifyDaemon(self.image, extra=(
                "--trace", f"status_mismatch,file={log}")) as daemon:
            daemon.map()
            daemon.verify()
            write_behind_its_back(self.image, LIE)
            daemon.verify()
        with open(log, encoding="ascii") as file:
            (line,) = file
        self.assertIn(f":status_mismatch node disk offset {LIE} "
                      "bytes 4096\n", line)
        os.unlink(log)


class OfDevices(unittest.TestCase):
    def test_devices(self):
        """What was zeroed through the daemon, and written past it"""
        image = disk.written(path("image"), 4 * MiB)
        with iotests.loop_device(image) as device:
            with VerifyDaemon(device, driver="host_device") as daemon:
                with daemon.client() as client:
                    client.write_zeroes(MiB, MiB)
                    self.assertEqual(daemon.verify()["len"], MiB)
                    write_behind_its_back(device, MiB + 64 * KiB + 10)
                    event = daemon.verify()
                    self.assertIn("4096 bytes at offset 1114112", event["error"])
                    self.assertEqual(daemon.mismatches(), [(1114112, 4096)])
                    self.assertEqual(client.pread(MiB + 64 * KiB + 10, 4),
                                     b"lies")
        os.unlink(image)


class OfServers(unittest.TestCase):
    def test_servers(self):
        """What a server has told, and what it reads"""
        image = disk.alternating(path("image"), SIZE, PART, PART)
        with disk.DiskDaemon(image, ",status-cache=off") as server, \
                VerifyDaemon(image, ",read-only=on", writable="off", extra=(
                    "--blockdev", "nbd,node-name=remote,status-cache=on,"
                    "export=disk,server.type=unix,server.path="
                    f"{server.nbd_path}")) as daemon:
            daemon.map("remote")
            event = daemon.verify("remote")
            self.assertNotIn("error", event)
            self.assertEqual(event["len"], SIZE // 2)
            write_behind_its_back(image, LIE)
            self.assertIn(f"4096 bytes at offset {LIE}",
                          daemon.verify("remote")["error"])
            self.assertEqual(daemon.mismatches(), [(LIE, 4096)])
            stats = daemon.cache("remote")
            self.assertEqual((stats["mode"], stats["distrusted"]),
                             ("data-only", True))
            # Of the file nobody has complained.
            self.assertFalse(daemon.cache("disk")["distrusted"])
        os.unlink(image)


class Churner(threading.Thread):
    """Writes, zeroes, discards and reads blocks of its own, of some sizes, and
    knows what they hold"""

    BLOCK = 2 * KiB  # half a block of the cache: others have the other half

    def __init__(self, daemon, number, of):
        super().__init__()
        self.client = daemon.client()
        self.number, self.of = number, of
        self.random = random.Random(number)
        self.content = {}
        self.requests = 0
        self.ending = threading.Event()
        self.error = None
        self.start()

    def run(self):
        try:
            while not self.ending.is_set():
                self.step()
                self.requests += 1
            self.client.close()
        except Exception as error:  # told by the main thread
            self.error = error

    def step(self):
        block = self.random.randrange(LOADED // self.BLOCK // self.of) * self.of \
            + self.number
        offset = block * self.BLOCK
        kind = self.random.randrange(10)
        if kind < 4:
            data = self.random.randbytes(16) * (self.BLOCK // 16)
            self.client.pwrite(offset, data)
            self.content[block] = data
        elif kind < 7:
            self.client.write_zeroes(offset, self.BLOCK)
            self.content[block] = bytes(self.BLOCK)
        elif kind == 7:
            self.client.trim(offset, self.BLOCK)
            self.content[block] = bytes(self.BLOCK)
        elif block in self.content:
            data = self.client.pread(offset, self.BLOCK)
            if data != self.content[block]:
                raise AssertionError(f"{offset} reads differently")

    def end(self):
        self.ending.set()
        self.join()
        if self.error:
            raise self.error


class Wiper(Churner):
    """Zeroes large parts of the disk that are its own, and writes small ones"""

    def step(self):
        at = LOADED + self.random.randrange(LOADED // (64 * KiB)) * 64 * KiB
        if self.random.randrange(4):
            self.client.pwrite(at + self.random.randrange(15) * 4 * KiB,
                               b"\x5a" * 4 * KiB)
        elif self.random.randrange(2):
            self.client.write_zeroes(at, 64 * KiB)
        else:
            self.client.trim(at, 64 * KiB)


class UnderLoad(unittest.TestCase):

    def load(self, folder, options):
        image = disk.sparse(os.path.join(folder, "image"), 2 * LOADED)
        log = path("log")
        with VerifyDaemon(image, options, extra=(
                "--trace", f"status_taint,file={log}")) as daemon:
            daemon.map()
            users = [Churner(daemon, i, 2) for i in range(2)]
            users.append(Wiper(daemon, 2, 3))
            read = 0
            try:
                for number in range(PASSES):
                    if number % 8 == 7:
                        daemon.cmd("block-status-cache-flush",
                                   node_name="disk")
                    daemon.map()  # what is unknown becomes known
                    event = daemon.verify()
                    self.assertNotIn("error", event)
                    daemon.qmp.events.clear()
            finally:
                for user in users:
                    user.ending.set()
                for user in users:
                    user.join()
            for user in users:
                user.end()
            stats = daemon.cache("disk")
            self.assertEqual((stats["mode"], stats["verify-mismatches"]),
                             ("on", 0))
            read = stats["verified-bytes"]
            # What it would not have overlooked
            zeroes = daemon.zeroes()
            self.assertNotIn("error", daemon.verify())
            offset, _ = zeroes[len(zeroes) // 2]
            write_behind_its_back(image, offset)
            daemon.qmp.events.clear()
            self.assertIn("error", daemon.verify())
            self.assertEqual(daemon.mismatches(), [(offset, 4096)])
        with open(log, encoding="ascii") as file:
            crossed = sum(" op verify " in line for line in file)
        print(f"# {os.path.basename(folder)}{options}: {PASSES} passes, "
              f"{read // MiB} MiB verified, "
              f"{sum(user.requests for user in users)} requests of guests, "
              f"{crossed} crossed what was just verified")
        os.unlink(image)
        os.unlink(log)

    def check_preallocated(self, folder):
        """What was read fills no page cache, nor keeps others from knowing that
        it is zero"""
        image = disk.sparse(os.path.join(folder, "image"), SIZE)
        run("fallocate", "-l", SIZE, image)
        for _ in range(2):
            with VerifyDaemon(image) as daemon:
                daemon.map()
                self.assertEqual(daemon.verify()["len"], SIZE)
            pages = run("fincore", "-n", "-b", "-o", "RES", image).stdout
            self.assertLess(int(pages), SIZE // 16)
        os.unlink(image)

    def on(self, kind, size):
        with iotests.file_system(kind, size) as folder:
            self.check_preallocated(folder)
        for options in ("", ",cache.direct=on"):
            with iotests.file_system(kind, size) as folder:
                self.load(folder, options)

    def test_ext4(self):
        self.on("ext4", 256 * MiB)

    def test_xfs(self):
        self.on("xfs", 512 * MiB)


if __name__ == "__main__":
    iotests.main()
