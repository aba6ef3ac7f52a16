#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror whose target has no space left stops if it is told to, says so as
QEMU's daemon does, and goes on when there is space: the copy is complete."""

import contextlib
import os
import unittest

import disk
import iotests
from iotests import MiB, path

SIZE = 24 * MiB
# Of the file system that the copy goes to; the ballast is what is too much.
SPACE = 40 * MiB
BALLAST = 16 * MiB


class FullDisk:
    """A mirror to a file system with too little space, and its events"""

    def __init__(self, program, folder):
        self.image = disk.written(path("image"), SIZE)
        self.ballast = disk.written(os.path.join(folder, "ballast"), BALLAST)
        self.copy = disk.sparse(os.path.join(folder, "copy"), SIZE)
        self.daemon = iotests.Daemon(
            "--blockdev", f"file,node-name=src,filename={self.image}",
            "--blockdev", f"file,node-name=dst,filename={self.copy}",
            program=program)
        self.cmd = self.daemon.cmd
        self.log = []

    def mirror(self, policy):
        self.cmd("blockdev-mirror", {
            "job-id": "m", "device": "src", "target": "dst", "sync": "full",
            "on-target-error": policy})

    def wait(self, until):
        """Log events up to that one, or up to that status. Requests that are
        in flight together fail together: how many is not the same twice."""
        qmp = self.daemon.qmp
        while True:
            event = qmp.events.popleft() if qmp.events else qmp.receive()
            data = event["data"]
            entry = (event["event"], {key: value for key, value in data.items()
                                      if key not in ("len", "offset")})
            if self.log[-1:] != [entry]:
                self.log.append(entry)
            if until in (event["event"], data.get("status")):
                return

    def query(self):
        (row,) = self.cmd("query-block-jobs")
        self.log.append({key: value for key, value in row.items()
                         if key not in ("len", "offset", "busy")})

    def make_space(self):
        os.unlink(self.ballast)
        os.sync()

    def is_complete(self):
        return iotests.identical(self.image, self.copy)


@contextlib.contextmanager
def full_disk(program=iotests.DAEMON):
    with iotests.file_system("ext4", SPACE) as folder:
        mirror = FullDisk(program, folder)
        with mirror.daemon:
            yield mirror


class MirrorGoesOnAfterErrors(unittest.TestCase):

    def both(self, run):
        """What was logged by @run must be the same with QEMU's daemon"""
        iotests.require_root()
        logs = []
        for program in (iotests.DAEMON, iotests.STOCK_DAEMON):
            with full_disk(program) as mirror:
                run(mirror)
                logs.append(mirror.log)
        self.assertEqual(*logs)
        return logs[0]

    def steps(self, log):
        """The events in a word each"""
        return [data.get("status", data.get("action", name))
                for name, data in (entry for entry in log
                                   if isinstance(entry, tuple))]

    def test_resume(self):
        for policy in ("stop", "enospc", "auto"):
            def run(mirror, policy=policy):
                mirror.mirror(policy)
                mirror.wait("paused")
                mirror.query()
                # Too early: the same again
                mirror.cmd("job-resume", id="m")
                mirror.wait("paused")
                mirror.query()
                mirror.make_space()
                mirror.cmd("block-job-resume", device="m")
                mirror.wait("BLOCK_JOB_READY")
                mirror.query()
                mirror.cmd("job-complete", id="m")
                mirror.wait("null")
                self.assertTrue(mirror.is_complete())

            with self.subTest(policy):
                log = self.both(run)
                self.assertEqual(self.steps(log), [
                    "created", "running", "stop", "paused", "running", "stop",
                    "paused", "running", "ready", "BLOCK_JOB_READY", "waiting",
                    "pending", "BLOCK_JOB_COMPLETED", "concluded", "null"])
                rows = [entry for entry in log if isinstance(entry, dict)]
                self.assertEqual([row["io-status"] for row in rows],
                                 ["nospace", "nospace", "ok"])

    def test_cancel(self):
        def run(mirror):
            mirror.mirror("stop")
            mirror.wait("paused")
            mirror.cmd("block-job-cancel", device="m", force=True)
            mirror.wait("null")

        self.assertEqual(self.steps(self.both(run)), [
            "created", "running", "stop", "paused", "running", "aborting",
            "BLOCK_JOB_CANCELLED", "concluded", "null"])

    def test_report(self):
        def run(mirror):
            mirror.mirror("report")
            mirror.wait("null")

        self.assertEqual(self.steps(self.both(run)), [
            "created", "running", "report", "aborting", "BLOCK_JOB_COMPLETED",
            "concluded", "null"])

    def test_ignore(self):
        """It tries again by itself until there is space; a few times a second
        in all, which is where QEMU's daemon is busy."""
        iotests.require_root()
        with full_disk() as mirror:
            mirror.mirror("ignore")
            for _ in range(20):
                mirror.wait("BLOCK_JOB_ERROR")
            self.assertEqual(self.steps(mirror.log),
                             ["created", "running", "ignore"])
            mirror.make_space()
            mirror.wait("BLOCK_JOB_READY")
            mirror.cmd("job-complete", id="m")
            mirror.wait("null")
            self.assertTrue(mirror.is_complete())

    def test_end_while_stopped(self):
        """SIGTERM is not kept waiting, and the disk is whole"""
        iotests.require_root()
        with full_disk() as mirror:
            mirror.mirror("stop")
            mirror.wait("paused")
            mirror.daemon.stop()


if __name__ == "__main__":
    iotests.main()
