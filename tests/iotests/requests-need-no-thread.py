#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""With aio=io_uring, direct requests of NBD clients have no thread each: one thread
has the kernel do all of them, and what cannot be done so is done as ever. Where the
kernel has no io_uring a node that asks for it cannot be opened, as in stock."""

import contextlib
import os
import re
import subprocess
import threading
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, path, run

SIZE = 64 * MiB
BLOCK = 4 * KiB
DIRECT = ",cache.direct=on"
RING = DIRECT + ",aio=io_uring"
CALLS = "preadv2,pwritev2,io_submit,io_uring_enter"


def has_io_uring():
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/io_uring_disabled",
                  encoding="ascii") as file:
            return file.read().strip() == "0"
    return os.path.exists("/proc/sys/kernel/io_uring_disabled")


def plain_calls(trace, image):
    return sum(image in line and not re.search("io_uring_enter", line)
               for line in trace.lines)


def write_blocks(client, blocks, byte):
    """All at once"""
    with client.together():
        cookies = [client.send_request(nbd.CMD_WRITE, block * BLOCK, BLOCK,
                                       data=byte * BLOCK) for block in blocks]
    for cookie in cookies:
        client.reply(cookie)


def read_blocks(client, blocks):
    with client.together():
        cookies = [client.send_request(nbd.CMD_READ, block * BLOCK, BLOCK)
                   for block in blocks]
    return [client.reply(cookie).pieces[0][1] for cookie in cookies]


def fio_words(uri, *options):
    return ["fio", "--name=job", "--ioengine=nbd", f"--uri={uri}",
            "--randrepeat=1", "--verify_state_save=0", "--verify=crc32c",
            "--do_verify=1", "--thread", f"--size={SIZE // 2}", *options]


@unittest.skipUnless(has_io_uring(), "no io_uring here")
class Requests(unittest.TestCase):

    @contextlib.contextmanager
    def serving(self, kind="ext4", options=RING, **more):
        with iotests.file_system(kind, 512 * MiB, direct_io=True) as folder:
            image = disk.written(os.path.join(folder, "image"), SIZE)
            with disk.DiskDaemon(image, options, **more) as daemon:
                yield daemon

    def aio(self, daemon):
        (node,) = daemon.cmd("query-named-block-nodes")
        return node["image"]["format-specific"]["data"]["aio"]

    def check(self, daemon, submitted_reads, submitted_writes):
        """Do these need no calls of their own?"""
        blocks = range(0, 256)
        with daemon.client() as client:
            # Those who serve it are there before somebody looks at them.
            read_blocks(client, range(64))
            with daemon.strace(CALLS) as trace:
                write_blocks(client, blocks, b"w")
            self.assertEqual(plain_calls(trace, daemon.filename) < 100,
                             submitted_writes)
            with daemon.strace(CALLS) as trace:
                data = read_blocks(client, blocks)
            self.assertEqual(plain_calls(trace, daemon.filename) < 100,
                             submitted_reads)
            self.assertTrue(set(data) == {b"w" * BLOCK})
        with open(daemon.filename, "rb") as file:
            self.assertTrue(file.read(256 * BLOCK) == b"w" * 256 * BLOCK)

    def test_ext4(self):
        with self.serving() as daemon:
            self.assertEqual(self.aio(daemon), "io_uring")
            self.check(daemon, True, True)

    def test_xfs(self):
        """There direct writes may go through the page cache."""
        with self.serving("xfs") as daemon:
            self.check(daemon, True, False)

    def test_native(self):
        with self.serving(options=DIRECT + ",aio=native") as daemon:
            self.assertEqual(self.aio(daemon), "io_uring")
            self.check(daemon, True, True)

    def test_threads(self):
        with self.serving(options=DIRECT) as daemon:
            self.assertEqual(self.aio(daemon), "threads")
            self.check(daemon, False, False)

    def test_page_cache(self):
        """It is faster from the thread that has received the request."""
        with self.serving(options=",aio=io_uring") as daemon:
            self.assertEqual(self.aio(daemon), "threads")
            self.check(daemon, False, False)

    def test_others_may_write(self):
        """Then no page may become dirty under a write."""
        with self.serving(options=RING + ",locking=off") as daemon:
            self.check(daemon, True, False)

    def test_holes(self):
        """Where ext4 allocates, and a sparse disk's zeroes"""
        with self.serving() as daemon, daemon.client() as client:
            client.write_zeroes(0, SIZE)
            client.trim(0, SIZE)
            for _ in range(3):
                self.assertTrue(set(read_blocks(client, range(200))) ==
                                {bytes(BLOCK)})
            write_blocks(client, range(0, 1000, 2), b"x")
            data = read_blocks(client, range(1000))
            self.assertTrue(data == [b"x" * BLOCK, bytes(BLOCK)] * 500)
            client.flush()
            for row in daemon.map():
                with open(daemon.filename, "rb") as file:
                    file.seek(row["start"])
                    data = file.read(row["length"])
                self.assertTrue(row["data"] or not any(data))

    def test_fio(self):
        """Several connections, all that comes: read back, and compared"""
        for kind in "ext4", "xfs":
            for options in (["--rw=randwrite", "--bs=4k", "--iodepth=64"],
                            ["--rw=randrw", "--bsrange=512-256k",
                             "--bs_unaligned=1", "--iodepth=16"],
                            ["--rw=randwrite", "--bssplit=4k/90:128k/10",
                             "--fsync=30", "--iodepth=32"]):
                with self.subTest(kind, options=options), \
                        self.serving(kind) as daemon:
                    run(*fio_words(daemon.uri, *options), timeout=240)

    def test_mirrors(self):
        """A job's filter comes and goes, and the disk becomes another."""
        with self.serving() as daemon:
            with subprocess.Popen(
                    fio_words(daemon.uri, "--rw=randwrite", "--bs=4k",
                              "--iodepth=32", "--loops=3"),
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as fio:
                name = "disk"
                for turn in range(3):
                    job = f"job{turn}"
                    daemon.start_mirror(
                        daemon.filename + str(turn), job, name,
                        {"cache": {"direct": True}, "aio": "io_uring"})
                    daemon.wait_ready(job)
                    daemon.complete(job)
                    daemon.cmd("blockdev-del", node_name=name)
                    name = job + "-target"
                output, _ = fio.communicate(timeout=240)
            self.assertEqual(fio.returncode, 0, output)

    def test_deaf_client(self):
        """A client that takes no replies keeps nobody waiting who drains."""
        with self.serving() as daemon, daemon.client() as deaf:
            with deaf.together():
                cookies = [deaf.send_request(nbd.CMD_READ, i * 64 * KiB,
                                             64 * KiB) for i in range(500)]
            for turn in range(2):
                job = f"job{turn}"
                daemon.start_mirror(daemon.filename + job, job)
                daemon.wait_ready(job)
                daemon.finish(job)
            with daemon.client() as other:
                other.pwrite(0, b"x" * BLOCK)
            for cookie in cookies:
                deaf.reply(cookie)

    @staticmethod
    def written(daemon):
        (node,) = daemon.cmd("query-blockstats", query_nodes=True)
        return node["stats"]["wr_operations"]

    def test_killed_clients(self):
        with self.serving() as daemon:
            for _ in range(5):
                before = self.written(daemon)
                with subprocess.Popen(
                        fio_words(daemon.uri, "--rw=randwrite", "--bs=4k",
                                  "--iodepth=64", "--loops=100"),
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL) as fio:
                    while self.written(daemon) < before + 1000:
                        pass
                    fio.kill()
            daemon.cmd("block-export-del", id="export", mode="hard")
            daemon.qmp.wait_event("BLOCK_EXPORT_DELETED")
            daemon.cmd("blockdev-del", node_name="disk")

    def test_reopened(self):
        """With the page cache, and without, while a client writes"""
        with self.serving() as daemon, daemon.client() as client:
            ended = threading.Event()

            def write():
                while not ended.is_set():
                    write_blocks(client, range(100), b"y")

            thread = threading.Thread(target=write)
            thread.start()
            try:
                for direct in (False, True) * 10:
                    daemon.cmd("blockdev-reopen", options=[{
                        "driver": "file", "node-name": "disk",
                        "filename": daemon.filename, "discard": "unmap",
                        "cache": {"direct": direct}, "aio": "io_uring"}])
            finally:
                ended.set()
                thread.join()
            self.assertTrue(set(read_blocks(client, range(100))) ==
                            {b"y" * BLOCK})


class NoRing(unittest.TestCase):
    """The kernel has no io_uring, or not for us."""

    @classmethod
    def setUpClass(cls):
        cls.image = disk.written(path("image"), MiB)

    @classmethod
    def tearDownClass(cls):
        os.unlink(cls.image)

    def message(self, program, aio, error="EPERM"):
        """What blockdev-add says; None if it succeeds"""
        with iotests.Daemon(program=program) as daemon, \
                daemon.strace("io_uring_setup", f"io_uring_setup:error={error}"):
            try:
                daemon.cmd("blockdev-add", {
                    "driver": "file", "node-name": "n", "filename": self.image,
                    "cache": {"direct": True}, "aio": aio})
            except iotests.QMPError as caught:
                return f"{caught.error_class}: {caught.desc}"
        return None

    def test_refused(self):
        for error in "EPERM", "ENOSYS":
            for program in iotests.DAEMON, iotests.STOCK_DAEMON:
                self.assertRegex(self.message(program, "io_uring", error),
                                 "^GenericError: Unable to use io_uring")

    def test_native(self):
        """For stock that is another way; here it is as threads."""
        self.assertIsNone(self.message(iotests.DAEMON, "native"))
        self.assertIsNone(self.message(iotests.DAEMON, "threads"))

    def test_none_left(self):
        """A ring for the node is all there was."""
        with disk.DiskDaemon(self.image, RING) as daemon:
            with daemon.strace("io_uring_setup",
                               "io_uring_setup:error=ENOMEM") as trace:
                with daemon.client() as client:
                    write_blocks(client, range(100), b"z")
                    self.assertTrue(set(read_blocks(client, range(100))) ==
                                    {b"z" * BLOCK})
            self.assertGreater(trace.count("io_uring_setup"), 0)


if __name__ == "__main__":
    iotests.main()
