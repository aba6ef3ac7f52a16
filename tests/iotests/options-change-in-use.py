#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""blockdev-reopen gives nodes other options while clients use them: as in stock
QEMU, all of them or none, with no write lost and nobody else let in."""

import os
import random
import socket
import threading
import unittest

import disk
import iotests
import nbd
from iotests import STOCK_DAEMON, KiB, MiB, QMPError, path, run
from qmp import QMP

CLIENTS = 4


class Reopen(unittest.TestCase):
    size = 8 * MiB

    def setUp(self):
        self.image = disk.sparse(path("image"), self.size)
        self.addCleanup(os.unlink, self.image)

    def daemon(self, *more, program=iotests.DAEMON):
        return iotests.Daemon(
            "--blockdev", f"file,node-name=f,filename={self.image}",
            "--blockdev", "raw,node-name=r,file=f",
            "--nbd-server", f"addr.type=unix,addr.path={path('nbd')}",
            "--export", "nbd,id=e,node-name=r,writable=on", *more,
            program=program)

    def file(self, **more):
        return {"driver": "file", "node-name": "f", "filename": self.image,
                **{name.replace("_", "-"): value
                   for name, value in more.items()}}

    @staticmethod
    def raw(**more):
        return {"driver": "raw", "node-name": "r", "file": "f",
                **{name.replace("_", "-"): value
                   for name, value in more.items()}}

    @staticmethod
    def reopen(daemon, *options):
        daemon.cmd("blockdev-reopen", options=list(options))

    def refused(self, daemon, saying, *options):
        with self.assertRaisesRegex(QMPError, saying) as caught:
            self.reopen(daemon, *options)
        return caught.exception

    @staticmethod
    def rows(daemon):
        return {row["node-name"]: (row["ro"], row["cache"],
                                   row["detect_zeroes"],
                                   row["image"]["virtual-size"])
                for row in daemon.cmd("query-named-block-nodes")}


class AsStock(Reopen):
    def steps(self):
        """Options, and whether they are to be taken"""
        file, raw = self.file, self.raw
        direct = {"direct": True}
        return [
            ([file()], True),
            ([raw()], True),
            ([file(read_only=True)], False),
            ([raw(read_only=True)], False),
            ([raw(read_only=True), file(read_only=True)], False),
            ([file(cache=direct)], True),
            ([file(cache={"direct": True, "no-flush": True})], True),
            ([file(detect_zeroes="on")], True),
            ([file(detect_zeroes="unmap")], False),
            ([file(detect_zeroes="unmap", discard="unmap")], True),
            ([file(auto_read_only=True)], True),
            ([file(locking="off")], False),
            ([file(aio="native", cache=direct)], False),
            ([file(read_only=True, force_share=True)], False),
            ([file(filename=path("other"))], False),
            ([{**file(), "node-name": "absent"}], False),
            ([{"driver": "file", "filename": self.image}], False),
            ([{"driver": "null-co", "node-name": "f"}], False),
            ([raw(offset=512)], True),
            ([raw(offset=512, size=MiB)], True),
            ([raw(offset=self.size, size=MiB)], False),
            ([raw(file="r")], False),
            ([raw(file="absent")], False),
            ([raw(file="n")], True),
            ([raw(file=file())], False),
            ([raw(), file(detect_zeroes="on")], True),
            ([raw(cache=direct), file(), raw(file="absent")], False),
            ([{"driver": "null-co", "node-name": "n", "size": self.size,
               "read-only": True}], True),
            ([{"driver": "null-co", "node-name": "n"}], False),
            ([raw(file="n")], False),
            ([raw(stray=1)], False),
        ]

    def test_same_answers(self):
        """And all nodes are the same after each step"""
        iotests.require(STOCK_DAEMON, "no stock daemon")
        seen = []
        for program in iotests.DAEMON, STOCK_DAEMON:
            disk.sparse(path("other"), self.size)
            answers = []
            with self.daemon("--blockdev",
                             f"null-co,node-name=n,size={self.size}",
                             program=program) as daemon:
                for options, _ in self.steps():
                    error = None
                    try:
                        self.reopen(daemon, *options)
                    except QMPError as caught:
                        error = caught.error_class
                    answers.append((options, error, self.rows(daemon)))
            seen.append(answers)
        for ours, stock, (_, taken) in zip(*seen, self.steps()):
            self.assertEqual(ours, stock, f"\n{ours}\n{stock}")
            self.assertEqual(ours[1] is None, taken, ours[0])

    def test_writer_is_named(self):
        with self.daemon() as daemon:
            for options in self.file(read_only=True), self.raw(read_only=True):
                self.refused(daemon, "cannot be read-only: it is written to by "
                             "export 'e'", options)
            daemon.cmd("block-export-del", id="e", mode="hard")
            daemon.qmp.wait_event("BLOCK_EXPORT_DELETED")
            self.reopen(daemon, self.file(read_only=True),
                        self.raw(read_only=True))
            with self.assertRaisesRegex(QMPError, "read-only"):
                daemon.cmd("block-export-add", type="nbd", id="e",
                           node_name="r", writable=True)
            self.assertNotIn("O_RDWR", " ".join(self.flags(daemon)))

    def flags(self, daemon):
        """How the image is open: an entry a descriptor"""
        result = []
        folder = f"/proc/{daemon.process.pid}"
        for fd in os.listdir(f"{folder}/fd"):
            if os.readlink(f"{folder}/fd/{fd}") != self.image:
                continue
            with open(f"{folder}/fdinfo/{fd}", encoding="ascii") as info:
                flags = int(info.read().split("flags:")[1].split()[0], 8)
            result.append(f"{'O_RDWR' if flags & os.O_RDWR else 'O_RDONLY'}"
                          f"{' O_DIRECT' if flags & os.O_DIRECT else ''}")
        return sorted(result)

    def test_mirror(self):
        """A job relies on contents, and writes to its target"""
        disk.sparse(path("target"), self.size)
        with self.daemon("--blockdev", "file,node-name=t,"
                         f"filename={path('target')}") as daemon:
            daemon.cmd("blockdev-mirror", job_id="m", device="r", target="t",
                       sync="full")
            daemon.qmp.wait_event("BLOCK_JOB_READY")
            self.refused(daemon, "window of node 'r': job 'm'",
                         self.raw(offset=512))
            self.refused(daemon, "'t' cannot be read-only.* job 'm'", {
                "driver": "file", "node-name": "t", "read-only": True,
                "filename": path("target")})
            self.reopen(daemon, self.file(cache={"direct": True}))
            self.reopen(daemon, {
                "driver": "file", "node-name": "t", "cache": {"direct": True},
                "filename": path("target")})
            with nbd.NBD(path("nbd"), "r") as client:
                client.pwrite(1000, b"m" * 1000)
            daemon.cmd("block-job-complete", device="m")
            daemon.qmp.wait_event("BLOCK_JOB_COMPLETED")
            daemon.qmp.wait_job("m", "null")
        self.assertTrue(iotests.identical(self.image, path("target")))


class Load(Reopen):
    """Clients that write, write zeroes, discard and read back"""

    size = 8 * MiB + 512

    def work(self, number, stop, contents, errors):
        rng = random.Random(number)
        share = len(contents)
        base = number * share
        try:
            with nbd.NBD(path("nbd"), "r") as client:
                while not stop.is_set():
                    at = rng.randrange(share - 1)
                    length = rng.randint(1, min(share - at, 200 * KiB))
                    what = rng.randrange(4)
                    if what == 0:
                        client.write_zeroes(base + at, length)
                        contents[at:at + length] = bytes(length)
                    elif what < 3:
                        data = rng.randbytes(1) * length
                        client.pwrite(base + at, data,
                                      rng.choice((0, nbd.CMD_FLAG_FUA)))
                        contents[at:at + length] = data
                    if client.pread(base + at, length) != \
                            contents[at:at + length]:
                        raise AssertionError(f"{base + at} + {length} differs")
                    if rng.randrange(8) == 0:
                        client.flush()
        except Exception as error:  # pylint: disable=broad-except
            errors.append(error)

    def options(self, rng, modes):
        cache = {"direct": rng.random() < .5, "no-flush": rng.random() < .3}
        zeroes = rng.choice(("off", "on", "unmap"))
        file = self.file(
            cache=cache, detect_zeroes=zeroes, discard="unmap",
            status_cache=rng.choice(modes),
            status_probe=rng.choice(("auto", "seek", "fiemap")),
            status_cache_size=rng.choice((64 * KiB, 64 * MiB)),
            status_cache_learn_reads=rng.random() < .5,
            auto_read_only=rng.random() < .5)
        raw = self.raw(detect_zeroes=rng.choice(("off", "on")))
        return rng.choice(([file], [raw, file], [file, raw]))

    def others_try(self, stop, errors):
        """Whoever asks for the lock must not get it, however short the moment:
        a disk of which zeroes are known is guarded."""
        while not stop.is_set():
            done = run("qemu-io", "-f", "raw", "-c", "write 0 512", self.image,
                       status=None)
            if 'Failed to get "write" lock' not in done.stderr:
                errors.append(AssertionError(done.stdout + done.stderr))

    def ask(self, stop, errors):
        """Queries see one state or the other"""
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path("monitor"))
                monitor = QMP(sock)
                while not stop.is_set():
                    for row in monitor.cmd("query-named-block-nodes"):
                        self.assertEqual(row["image"]["virtual-size"],
                                         self.size)
                    monitor.cmd("query-blockstats", {"query-nodes": True})
                    monitor.cmd("query-block-status-cache")
        except Exception as error:  # pylint: disable=broad-except
            errors.append(error)

    def check_map(self, client):
        """No zero where there is data"""
        with open(self.image, "rb") as file:
            for offset, length, flags in client.map():
                if flags & 2:
                    file.seek(offset)
                    self.assertEqual(file.read(length).count(0), length,
                                     (offset, length))

    def test_nobody_else_gets_in(self):
        self.load(("on",), True)

    def test_all_modes(self):
        self.load(("on", "on", "data-only", "off"), False)

    def test_both_disks_of_a_mirror(self):
        """In whatever order they are told: clients that write to both disks
        wait for the second one within the first"""
        stop, errors = threading.Event(), []
        share = self.size // CLIENTS
        contents = [bytearray(share) for _ in range(CLIENTS)]
        copy = {"driver": "file", "node-name": "copy",
                "filename": disk.sparse(path("copy"), self.size)}
        with self.daemon() as daemon:
            daemon.cmd("blockdev-add", copy)
            daemon.cmd("blockdev-mirror", {
                "job-id": "job", "device": "r", "target": "copy",
                "sync": "full", "copy-mode": "write-blocking"})
            daemon.qmp.wait_event("BLOCK_JOB_READY")
            threads = [threading.Thread(target=self.work, args=(
                i, stop, contents[i], errors)) for i in range(CLIENTS)]
            for thread in threads:
                thread.start()
            try:
                for number in range(40):
                    zeroes = {"detect-zeroes": ("on", "off")[number % 2]}
                    self.reopen(daemon, {**copy, **zeroes},
                                {**self.file(), **zeroes})
                    self.reopen(daemon, {**self.file(), **zeroes},
                                {**copy, **zeroes})
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            self.assertEqual(errors, [])
            daemon.cmd("block-job-cancel", device="job")
            daemon.qmp.wait_job("job", "null")
            self.assertTrue(iotests.identical(self.image, path("copy")))
        os.unlink(path("copy"))

    def load(self, modes, others):
        rng = random.Random(1)
        stop, errors = threading.Event(), []
        share = self.size // CLIENTS
        contents = [bytearray(share) for _ in range(CLIENTS)]
        with self.daemon("--chardev", "socket,id=q,server=on,wait=off,"
                         f"path={path('monitor')}",
                         "--monitor", "chardev=q") as daemon:
            threads = [threading.Thread(target=self.work, args=(
                i, stop, contents[i], errors)) for i in range(CLIENTS)]
            threads.append(threading.Thread(target=self.ask,
                                            args=(stop, errors)))
            if others:
                threads.append(threading.Thread(target=self.others_try,
                                                args=(stop, errors)))
            for thread in threads:
                thread.start()
            try:
                for _ in range(200):
                    self.reopen(daemon, *self.options(rng, modes))
                    self.refused(daemon, "'absent'", *self.options(rng, modes),
                                 {**self.raw(), "node-name": "absent"})
                    if errors:
                        break
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            self.assertEqual(errors, [])
            with nbd.NBD(path("nbd"), "r",
                         contexts=["base:allocation"]) as client:
                self.check_map(client)
                self.reopen(daemon, self.file())
                self.check_map(client)
                client.flush()
                for number, expected in enumerate(contents):
                    self.assertEqual(client.pread(number * share, share),
                                     expected)


if __name__ == "__main__":
    iotests.main()
