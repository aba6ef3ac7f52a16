#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""fio's checksums hold with direct I/O, in blocks of all sizes that lie across
those of the disk, while mirrors begin, are cancelled and are completed, disks
change their size, and what is known of them is flushed and asked for.

    SEEKLESS_VERIFY_TURNS  mirrors of each case (default: 30)
"""

import contextlib
import json
import os
import random
import threading
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, QMPError, path, run

TURNS = int(os.environ.get("SEEKLESS_VERIFY_TURNS", "30"))

PART = 6 * MiB  # of the disk, for each of fio's jobs
# Beside those of fio, in blocks that both write to. Then what comes and goes.
SCRIBBLE = 2 * PART + 512, 2 * PART + MiB + 100
END = 2 * PART + 2 * MiB
MAX_END = END + 8 * MiB

FIO_JOBS = f"""
[global]
ioengine=nbd
uri=%s
randseed=%d
rw=randwrite
iodepth=8
size={PART}
verify_state_save=0
verify=crc32c
verify_fatal=1
verify_backlog=24
fsync=40

[all-sizes]
bsrange=512-1m
blockalign=512
offset=0

[large-behind-a-sector]
bssplit=4k/30:16k/20:64k/20:256k/20:1m/10
offset={PART + 512}
"""


class Fio:
    """Writes its parts of the disk, reading back as it goes and at the end"""

    def __init__(self, daemon):
        self.uri = daemon.uri
        self.rounds = self.written = self.read = 0

    def step(self):
        self.rounds += 1
        result = run("fio", "--output-format=json", self.job_file(),
                     status=None, cwd=iotests.scratch.path,
                     timeout=10 * iotests.TIMEOUT)
        if result.returncode or result.stderr:
            raise AssertionError(f"fio: {result.stderr}{result.stdout}")
        # Remarks on the options may come first.
        report = result.stdout[result.stdout.index("{"):]
        for job in json.loads(report)["jobs"]:
            self.written += job["write"]["io_bytes"]
            self.read += job["read"]["io_bytes"]

    def job_file(self):
        name = path("jobs.fio")
        with open(name, "w", encoding="ascii") as file:
            file.write(FIO_JOBS % (self.uri, self.rounds))
        return name


class Scribbler:
    """Writes and zeroes any bytes of its part, which it knows by heart"""

    def __init__(self, daemon):
        self.client = daemon.client()
        self.random = random.Random(1)
        self.start, end = SCRIBBLE
        self.content = bytearray(end - self.start)
        self.client.write_zeroes(self.start, len(self.content))

    def step(self):
        length = self.random.randrange(1, 24 * KiB)
        at = self.random.randrange(len(self.content) - length)
        kind = self.random.randrange(3)
        if kind == 0:
            data = self.random.randbytes(length)
            self.client.pwrite(self.start + at, data)
        elif kind == 1:
            data = bytes(length)
            self.client.write_zeroes(
                self.start + at, length,
                flags=self.random.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        else:
            data = self.client.pread(self.start + at, length)
            if data != self.content[at:at + length]:
                raise AssertionError(f"{self.start + at}+{length}")
        self.content[at:at + length] = data

    def check(self):
        if self.client.pread(self.start, len(self.content)) != self.content:
            raise AssertionError("the end")
        self.client.close()


class Commander:
    """Gives commands that change nothing that anybody should notice"""

    def __init__(self, case):
        self.case = case
        self.qmp = iotests.connect_monitor(case.monitor_path)
        self.random = random.Random(2)
        self.resizes = self.refused = 0

    def step(self):
        node_name = self.random.choice(("a", "b"))
        command = self.random.choice((
            "query-blockstats", "query-block-status-cache", "query-jobs",
            "query-block-jobs", "query-named-block-nodes",
            "x-query-block-map", "block-status-cache-flush", "resize"))
        if command == "resize":
            try:
                self.case.resize_any_time(self.qmp, node_name)
                self.resizes += 1
            except QMPError as error:
                if "unshared by job" not in error.desc:
                    raise
                self.refused += 1
        elif command == "query-blockstats":
            self.qmp.cmd(command, query_nodes=True)
        elif "map" in command or "flush" in command:
            self.qmp.cmd(command, node_name=node_name)
        else:
            self.qmp.cmd(command)
        self.qmp.events.clear()


class Worker(threading.Thread):
    """Lets somebody work until told to end"""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.ending = threading.Event()
        self.steps = 0
        self.error = None
        self.start()

    def run(self):
        try:
            while self.steps == 0 or not self.ending.is_set():
                self.what.step()
                self.steps += 1
        except Exception as error:  # told by the main thread
            self.error = error

    def end(self):
        self.ending.set()
        self.join()
        if self.error:
            raise self.error


class Verified(unittest.TestCase):
    """Nodes "a" and "b", the export on one of them, and mirrors to the other"""

    driver = "file"

    def images(self, folder):
        self.backing = {name: disk.sparse(os.path.join(folder, name), END)
                        for name in ("a", "b")}
        return dict(self.backing)

    def daemon_on(self, images):
        self.nbd_path = path(f"nbd{iotests.Daemon.count()}")
        self.monitor_path = path(f"second{iotests.Daemon.count()}")
        words = []
        for name, image in images.items():
            words += ["--blockdev", f"driver={self.driver},node-name={name},"
                      f"filename={image},cache.direct=on,discard=unmap"]
        daemon = iotests.Daemon(
            *words,
            "--nbd-server", f"addr.type=unix,addr.path={self.nbd_path}",
            "--export",
            "nbd,id=export,node-name=a,name=disk,writable=on",
            *iotests.second_monitor(self.monitor_path))
        daemon.uri = f"nbd+unix:///disk?socket={self.nbd_path}"
        daemon.client = lambda: nbd.NBD(self.nbd_path, "disk")
        return daemon

    def any_end(self):
        return random.randrange(END, MAX_END)

    def resize(self, qmp, node_name, size):
        qmp.cmd("block_resize", node_name=node_name, size=size)

    def resize_any_time(self, qmp, node_name):
        """It may be refused because there is a job"""
        self.resize(qmp, node_name, self.any_end())

    def start(self, daemon, source, target, **options):
        """Both have to be of one size, which others change"""
        while True:
            size = self.any_end()
            for name in (source, target):
                self.resize(daemon.qmp, name, size)
            try:
                return daemon.cmd("blockdev-mirror", {
                    "job-id": "mirror", "device": source, "target": target,
                    "sync": "full", **options})
            except QMPError as error:
                if "size" not in error.desc:
                    raise

    def turn(self, daemon, number, source, target):
        """One mirror; returns the node that has the export afterwards"""
        end = ("pivot", "pivot", "cancel", "pivot", "abort")[number % 5]
        options = {"copy-mode": ("background", "write-blocking")[number % 2]}
        if end == "abort":
            options["speed"] = MiB
        self.start(daemon, source, target, **options)
        if end != "abort":
            daemon.qmp.wait_event("BLOCK_JOB_READY", device="mirror")
        daemon.cmd("block-status-cache-flush", node_name=source)
        if end == "pivot":
            daemon.cmd("job-complete", id="mirror")
        elif end == "cancel":
            daemon.cmd("block-job-cancel", device="mirror")
        else:
            daemon.cmd("job-cancel", id="mirror")
        event = daemon.qmp.wait_event(
            "BLOCK_JOB_CANCELLED" if end == "abort" else "BLOCK_JOB_COMPLETED",
            device="mirror")
        self.assertNotIn("error", event["data"])
        daemon.qmp.wait_job("mirror", "null")
        daemon.qmp.events.clear()
        (export,) = daemon.cmd("query-block-exports")
        self.assertEqual(export["node-name"],
                         target if end == "pivot" else source)
        self.turns[end] = self.turns.get(end, 0) + 1
        return (target, source) if end == "pivot" else (source, target)

    def check_zeroes(self, client, image):
        """What is called zero reads as zeroes"""
        with open(image, "rb") as file:
            for extent in client.map():
                if extent.flags & nbd.STATE_ZERO:
                    zeroes = bytes(extent.length)
                    file.seek(extent.offset)
                    self.assertEqual(file.read(extent.length), zeroes)
                    self.assertEqual(client.pread(extent.offset, extent.length),
                                     zeroes)

    def run_all(self, images):
        self.turns = {}
        with self.daemon_on(images) as daemon:
            fio, scribbler = Fio(daemon), Scribbler(daemon)
            commander = Commander(self)
            workers = [Worker(what) for what in (fio, scribbler, commander)]
            source, target = "a", "b"
            try:
                for number in range(TURNS):
                    source, target = self.turn(daemon, number, source, target)
                    for worker in workers:
                        if worker.error:
                            raise worker.error
            finally:
                for worker in workers:
                    worker.ending.set()
                for worker in workers:
                    worker.join()
            for worker in workers:
                worker.end()
            self.assertGreater(commander.resizes, 0)
            commander.qmp.close()
            scribbler.check()
            self.start(daemon, source, target)
            daemon.qmp.wait_event("BLOCK_JOB_READY", device="mirror")
            daemon.cmd("block-job-cancel", device="mirror")
            daemon.qmp.wait_job("mirror", "null")
            with daemon.client() as client:
                self.check_zeroes(client, images[source])
        self.assertTrue(iotests.identical(images["a"], images["b"]))
        print(f"# {fio.rounds} rounds of fio, {fio.written // MiB} MiB written,"
              f" {fio.read // MiB} read, {workers[1].steps} scribbles, mirrors "
              f"{self.turns}, {commander.resizes} resizes beside them and "
              f"{commander.refused} refused, {workers[2].steps} commands")

    def test_ext4(self):
        with iotests.file_system("ext4", 256 * MiB) as folder:
            self.run_all(self.images(folder))

    def test_xfs(self):
        with iotests.file_system("xfs", 512 * MiB) as folder:
            self.run_all(self.images(folder))


class VerifiedDevices(Verified):
    """Loop devices; their sizes are those of the files behind them"""

    driver = "host_device"
    test_ext4 = test_xfs = None

    def any_end(self):
        return super().any_end() // (4 * KiB) * (4 * KiB)

    def resize(self, qmp, node_name, size):
        """Devices change by themselves, and block_resize finds out"""
        with self.lock:
            os.truncate(self.backing[node_name], size)
            run("losetup", "-c", self.devices[node_name])
            super().resize(qmp, node_name, size)

    def resize_any_time(self, qmp, node_name):
        """A device that became longer does not disturb a job"""
        with self.lock:
            size = os.stat(self.backing[node_name]).st_size + 4 * KiB
            if size < MAX_END:
                os.truncate(self.backing[node_name], size)
                run("losetup", "-c", self.devices[node_name])
            qmp.cmd("block_resize", node_name=node_name, size=END)

    def run_on_devices(self, *options):
        self.lock = threading.Lock()
        files = self.images(iotests.scratch.path)
        with contextlib.ExitStack() as stack:
            self.devices = {
                name: stack.enter_context(iotests.loop_device(file, *options))
                for name, file in files.items()}
            self.run_all(self.devices)

    def test_sectors_of_512(self):
        self.run_on_devices()

    def test_sectors_of_4096(self):
        """Nearly everything begins or ends within a sector"""
        self.run_on_devices("--sector-size", "4096")


if __name__ == "__main__":
    iotests.main()
