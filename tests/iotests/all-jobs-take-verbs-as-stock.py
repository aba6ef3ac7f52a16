#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Mirrors, commits and backups take the same verbs as in QEMU's daemon in every
state, tell the same of themselves, and stop and go on where there is no space."""

import contextlib
import os
import time
import unittest

import disk
import iotests
from iotests import KiB, MiB, QMPError, path, qemu_img

SIZE = 4 * MiB
# So slow that the job is still running when it has been looked at from all sides
SLOW = 64 * KiB
# Too much for a file system of that size, with the ballast on it
BIG, SPACE, BALLAST = 24 * MiB, 40 * MiB, 16 * MiB


class Kind:
    """A kind of job; @gets_ready: it goes on until it is told to end"""

    def __init__(self, command, arguments, gets_ready, on_error):
        self.command, self.arguments = command, arguments
        self.gets_ready, self.on_error = gets_ready, on_error

    def start(self, **options):
        return (self.command, {
            "job-id": "m", **self.arguments,
            **{key.replace("_", "-"): value for key, value in options.items()}})

    def end(self):
        """When the job has nothing left to do: what it takes to end it well"""
        return ["BLOCK_JOB_READY", verb("job-complete")] \
            if self.gets_ready else []


COPY = {"device": "src", "target": "dst", "sync": "full"}
KINDS = {
    "mirror": Kind("blockdev-mirror", COPY, True, "on_target_error"),
    "backup": Kind("blockdev-backup", COPY, False, "on_target_error"),
    "active commit": Kind(
        "block-commit", {"device": "top", "base-node": "base"}, True,
        "on_error"),
    "commit": Kind(
        "block-commit", {"device": "top", "base-node": "base",
                         "top-node": "mid"}, False, "on_error"),
}


def verb(name, **more):
    by_id = not name.startswith("block-job") or name in (
        "block-job-finalize", "block-job-dismiss")
    return (name, {"id" if by_id else "device": "m", **more})


def speed(value):
    return verb("block-job-set-speed", speed=value)


QUERIES = [("query-jobs", {}), ("query-block-jobs", {})]
# Refused in most states
ENDING = [verb(name) for name in (
    "job-complete", "block-job-complete", "job-finalize", "block-job-finalize",
    "job-dismiss", "block-job-dismiss")]
RESUMING = [verb("job-resume"), verb("block-job-resume")]


class JobDaemon(iotests.Daemon):
    """A daemon with what all kinds need; targets are in @folder"""

    def __init__(self, program, folder, size):
        target, base = (f"{folder}/{name}" for name in ("target", "base"))
        disk.written(path("source"), size)
        disk.sparse(target, size)
        disk.sparse(base, size)
        for name, backing, kind in (("mid", base, "raw"),
                                    ("top", path("mid"), "qcow2")):
            qemu_img("create", "-q", "-f", "qcow2", "-b", backing, "-F", kind,
                     path(name))
            iotests.run("qemu-io", "-f", "qcow2", "-c", f"write 0 {size}",
                        path(name))
        super().__init__(
            "--blockdev", f"file,node-name=src,filename={path('source')}",
            "--blockdev", f"file,node-name=dst,filename={target}",
            "--blockdev", f"file,node-name=base,filename={base}",
            "--blockdev", "qcow2,node-name=mid,backing=base,file.driver=file,"
            f"file.filename={path('mid')}",
            "--blockdev", "qcow2,node-name=top,backing=mid,file.driver=file,"
            f"file.filename={path('top')}", program=program)
        self.stock = program == iotests.STOCK_DAEMON
        self.pausing = False  # by the user, or an error
        self.drained = False

    def event(self):
        """The next one; but stock's backups count as paused while they are
        drained, which is nobody's wish."""
        while True:
            event = (self.qmp.events.popleft() if self.qmp.events
                     else self.qmp.receive())
            status = event["data"].get("status")
            if event["data"].get("action") == "stop":
                self.pausing = True
            if self.stock and status == "paused" and not self.pausing:
                self.drained = True
            elif self.drained and status == "running":
                self.drained = False
            else:
                return event

    def until(self, wanted):
        """The events up to that one. Requests that are in flight together fail
        together: how many is not the same twice."""
        seen = []
        while True:
            event = self.event()
            data = {key: value for key, value in event["data"].items()
                    if key not in ("len", "offset")}
            if (event["event"], data) not in seen[-1:]:
                seen.append((event["event"], data))
            if wanted in (event["event"], data.get("status")):
                return seen

    def step(self, step):
        """Run a command, wait for an event, or call a function: what came of
        it"""
        if callable(step):
            return step()
        if isinstance(step, str):
            return self.until(step)
        try:
            answer = self.cmd(*step)
            if step[0].endswith("job-pause"):
                self.pausing = True
            elif step[0].endswith(("job-resume", "job-cancel")):
                self.pausing = False
        except QMPError as error:
            return {"class": error.error_class, "desc": error.desc}
        if not isinstance(answer, list):
            return answer
        drop = ["busy", "len", "offset", "current-progress", "total-progress"]
        for row in answer:
            # A drained job counts as paused there.
            for key in drop + (["paused"] if row["status"] == "pending" else []):
                row.pop(key, None)
        return answer


class AllJobsTakeVerbsAsStock(unittest.TestCase):

    def both(self, *steps, folder=None, size=SIZE):
        """The same with our daemon and QEMU's"""
        answers = []
        for program in (iotests.DAEMON, iotests.STOCK_DAEMON):
            with folder() if folder else contextlib.nullcontext(
                    path()) as place, \
                    JobDaemon(program, place, size) as daemon:
                self.place = place
                answers.append([daemon.step(step) for step in steps])
        for step, ours, stock in zip(steps, *answers):
            with self.subTest(f"{step}"):
                self.assertEqual(ours, stock)

    def test_running(self):
        for name, kind in KINDS.items():
            with self.subTest(name):
                self.both(
                    kind.start(speed=SLOW), "running", *QUERIES, *RESUMING,
                    *ENDING, speed(-1), verb("job-pause"), "paused", *QUERIES,
                    verb("job-pause"), verb("block-job-pause"), *ENDING,
                    verb("block-job-cancel"), speed(SLOW // 2), *QUERIES,
                    # Stock starts so much at once that these get ready.
                    *([] if kind.gets_ready else
                      [verb("job-resume"), "running", *QUERIES]),
                    verb("job-cancel"), "null", *QUERIES)

    def test_faster(self):
        """A job that waits for its limit goes on when there is none."""
        for name, kind in KINDS.items():
            with self.subTest(name):
                self.both(kind.start(speed=SLOW), "running", speed(0),
                          *kind.end(), "null")
                self.both(kind.start(speed=SLOW), "running", verb("job-pause"),
                          "paused", speed(0), verb("block-job-resume"),
                          *kind.end(), "null")

    def test_cancel_paused(self):
        for name, kind in KINDS.items():
            with self.subTest(name):
                self.both(kind.start(speed=SLOW, auto_dismiss=False), "running",
                          verb("job-pause"), "paused", verb("job-cancel"),
                          "concluded", *QUERIES, *RESUMING, *ENDING, "null",
                          *QUERIES)

    def test_ready(self):
        for name, kind in KINDS.items():
            with self.subTest(name):
                if kind.gets_ready:
                    self.both(
                        kind.start(auto_dismiss=False), "BLOCK_JOB_READY",
                        *QUERIES, speed(5), verb("job-pause"), "standby", *QUERIES,
                        verb("job-pause"), *ENDING[2:], verb("block-job-cancel"),
                        speed(0), verb("job-resume"), "ready", *RESUMING,
                        verb("block-job-pause"), "standby", verb("job-complete"),
                        verb("job-resume"), "concluded", *QUERIES)
                    self.both(
                        kind.start(auto_dismiss=False), "BLOCK_JOB_READY",
                        verb("block-job-cancel", force=True), "concluded",
                        *QUERIES, verb("block-job-cancel", force=True))

    def test_pending(self):
        by_hand = {"auto_finalize": False, "auto_dismiss": False}
        for name, kind in KINDS.items():
            with self.subTest(name):
                self.both(
                    kind.start(**by_hand), *kind.end(), "BLOCK_JOB_PENDING",
                    *QUERIES, verb("job-pause"), *RESUMING, *ENDING[:2],
                    *ENDING[4:], speed(7), verb("job-finalize"), "concluded",
                    *QUERIES, verb("job-pause"), verb("job-cancel"), speed(7),
                    *RESUMING, *ENDING, "null", *QUERIES)
                for cancel in "job-cancel", "block-job-cancel":
                    self.both(
                        kind.start(**by_hand), *kind.end(), "BLOCK_JOB_PENDING",
                        verb(cancel), "concluded", *QUERIES,
                        verb("block-job-dismiss"), "null")

    @contextlib.contextmanager
    def small(self):
        """A file system that gets full"""
        with iotests.file_system("ext4", SPACE) as folder:
            disk.written(f"{folder}/ballast", BALLAST)
            yield folder

    def make_space(self):
        os.unlink(f"{self.place}/ballast")
        os.sync()

    def test_no_space(self):
        """A mirror's is mirror-goes-on-after-errors.py's."""
        iotests.require_root()
        for name, kind in list(KINDS.items())[1:]:
            for policy, *steps in (
                    ("stop", "paused", *QUERIES, *ENDING, verb("job-pause"),
                     # Too early: the same again
                     verb("job-resume"), "paused", *QUERIES,
                     self.make_space, verb("block-job-resume"), *kind.end()),
                    ("enospc", "paused", verb("block-job-cancel"),
                     verb("job-cancel")),
                    ("report",)):
                with self.subTest(f"{name} {policy}"):
                    self.both(
                        kind.start(auto_dismiss=False,
                                   **{kind.on_error: policy}),
                        *steps, "concluded", *QUERIES, verb("job-dismiss"),
                        folder=self.small, size=BIG)


class Speed(unittest.TestCase):

    def test_slower(self):
        """A limit holds from the moment it is set, and no longer."""
        for name, kind in KINDS.items():
            with self.subTest(name), \
                    JobDaemon(iotests.DAEMON, path(), BIG) as daemon:
                daemon.cmd(*kind.start(speed=2 * MiB))

                def offset():
                    (row,) = daemon.cmd("query-block-jobs")
                    return row["offset"]

                while offset() == 0:
                    time.sleep(0.01)
                daemon.cmd(*speed(SLOW))
                # What was in flight, and its debt
                before = offset()
                time.sleep(1)
                self.assertLess(offset() - before, MiB)
                daemon.cmd(*speed(0))
                for step in [*kind.end(), "null"]:
                    daemon.step(step)


if __name__ == "__main__":
    iotests.main()
