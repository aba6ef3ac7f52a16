#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Of a transaction's actions all happen, at one moment for all clients, or none;
and jobs that it groups end together, as in QEMU's daemon."""

import contextlib
import json
import os
import threading
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, QMPError, path, qemu_img

SIZE = 4 * MiB
# So slow that the job is still running when it has been looked at from all sides
SLOW = 64 * KiB
DISKS = ("a", "b", "c")


def action(kind, /, **data):
    return {"type": kind, "data": {key.replace("_", "-"): value
                                   for key, value in data.items()}}


def snapshot(node, overlay):
    return action("blockdev-snapshot", node=node, overlay=overlay)


def qcow2(name, filename, **more):
    return {"driver": "qcow2", "node-name": name,
            "file": {"driver": "file", "node-name": name + "-file",
                     "filename": filename}, **more}


class Disks(iotests.Daemon):
    """A daemon with some qcow2 disks, exported, and an overlay for each"""

    def __init__(self, **options):
        self.nbd_path = path(f"nbd{self.count()}")
        super().__init__("--nbd-server",
                         f"addr.type=unix,addr.path={self.nbd_path}",
                         **options)
        for name in DISKS:
            for image in (name, name + "-overlay"):
                qemu_img("create", "-q", "-f", "qcow2", path(image), str(SIZE))
            self.cmd("blockdev-add", qcow2(name, path(name)))
            self.cmd("block-export-add", {
                "type": "nbd", "id": name, "node-name": name, "name": name,
                "writable": True})
            self.add_overlay(name + "-overlay")

    def stop(self):
        super().stop()
        if os.path.exists(self.nbd_path):
            os.unlink(self.nbd_path)  # stock's

    def add_overlay(self, name):
        self.cmd("blockdev-add", qcow2(name, path(name), backing=None))

    def client(self, name):
        return nbd.NBD(self.nbd_path, name)

    def transaction(self, *actions, **properties):
        """The error's text, or None"""
        arguments = {"actions": list(actions)}
        if properties:
            arguments["properties"] = {key.replace("_", "-"): value
                                       for key, value in properties.items()}
        try:
            self.cmd("transaction", arguments)
            return None
        except QMPError as error:
            return error.desc

    def state(self):
        """All that a transaction might change"""
        nodes = self.cmd("query-named-block-nodes", {"flat": True})
        return json.dumps([nodes, self.cmd("query-block-exports"),
                           self.cmd("query-jobs")], sort_keys=True)


class InTurn(threading.Thread):
    """A client that writes the same growing number to all disks, one after the
    other: at no moment is a later disk ahead, nor any behind by more than one."""

    def __init__(self, daemon):
        super().__init__()
        self.clients = [daemon.client(name) for name in DISKS]
        self.number = 0
        self.changed = threading.Condition()
        self.ending = False
        self.error = None
        self.start()

    def run(self):
        try:
            while not self.ending:
                for client in self.clients:
                    client.pwrite(0, b"%015d " % (self.number + 1))
                with self.changed:
                    self.number += 1
                    self.changed.notify_all()
            for client in self.clients:
                client.close()
        except Exception as error:
            self.error = error

    def wait(self, numbers):
        """Until so many more are written"""
        with self.changed:
            enough = self.number + numbers
            self.changed.wait_for(lambda: self.number >= enough or self.error,
                                  iotests.TIMEOUT)

    def end(self):
        self.ending = True
        self.join()
        if self.error:
            raise self.error


def first_sector(image):
    qemu_img("dd", "-U", "-f", "qcow2", "-O", "raw", "bs=512", "count=1",
             f"if={path(image)}", f"of={path('first')}")
    with open(path("first"), "rb") as file:
        return file.read(512)


def number_in(image):
    return int(first_sector(image)[:16])


class Snapshots(unittest.TestCase):

    def test_one_moment(self):
        with Disks() as daemon:
            below = dict.fromkeys(DISKS)
            top = {name: name for name in DISKS}
            writer = InTurn(daemon)
            for turn in range(5):
                if turn > 0:
                    for name in DISKS:
                        overlay = f"{name}-{turn}"
                        qemu_img("create", "-q", "-f", "qcow2", path(overlay),
                                 str(SIZE))
                        daemon.add_overlay(overlay)
                writer.wait(20)
                before = writer.number
                actions = []
                # The disks' order is not that of the writes.
                for name in reversed(DISKS):
                    overlay = f"{name}-{turn}" if turn else name + "-overlay"
                    actions.append(snapshot(top[name], overlay))
                    below[name], top[name] = top[name], overlay
                self.assertIsNone(daemon.transaction(*actions))
                after = writer.number
                writer.wait(20)
                numbers = [number_in(below[name]) for name in DISKS]
                with self.subTest(numbers):
                    self.assertEqual(numbers,
                                     sorted(numbers, reverse=True))
                    self.assertLessEqual(numbers[0] - numbers[-1], 1)
                    self.assertGreaterEqual(numbers[-1], before)
                    self.assertLessEqual(numbers[0], after + 1)
            writer.end()

    def check_all_kinds(self, daemon):
        """All actions there are, and then it fails: bitmaps have what they had,
        jobs and their filters are gone."""
        def bitmap(verb, node, name, **more):
            return action("block-dirty-bitmap-" + verb, node=node, name=name,
                          **more)

        self.assertIsNone(daemon.transaction(
            *(bitmap("add", "a", name) for name in ("kept", "off", "gone"))))
        with daemon.client("a") as client:
            client.pwrite(MiB, b"marked".ljust(512))
        before = daemon.state()
        all_kinds = [
            bitmap("add", "a", "new"), bitmap("clear", "a", "kept"),
            bitmap("disable", "a", "off"), bitmap("enable", "a", "off"),
            bitmap("disable", "a", "off"), bitmap("remove", "a", "gone"),
            action("block-dirty-bitmap-merge", node="a", target="kept",
                   bitmaps=["off"]),
            snapshot("a", "a-overlay"),
            bitmap("add", "a-overlay", "new"),
            action("blockdev-backup", job_id="j0", device="a-overlay",
                   target="c-overlay", sync="full"),
            action("blockdev-backup", job_id="j1", device="b",
                   target="b-overlay", sync="top")]
        for n in range(1, len(all_kinds) + 1):
            self.assertEqual(
                daemon.transaction(*all_kinds[:n], action("abort")),
                "Transaction aborted using Abort action")
            self.assertEqual(daemon.state(), before)
        for name in "kept", "off", "gone":
            daemon.cmd("block-dirty-bitmap-remove", node="a", name=name)

    def test_nothing(self):
        """An action that fails takes those before it back."""
        with Disks() as daemon, daemon.client("a") as client:
            client.pwrite(0, b"before".ljust(512))
            for actions, message in (
                    ([snapshot("a", "a-overlay"), snapshot("b", "b-overlay"),
                      action("abort")],
                     "Transaction aborted using Abort action"),
                    ([snapshot("a", "a-overlay"),
                      snapshot("a-overlay", "b-overlay"),
                      snapshot("b", "nobody")],
                     "Cannot find device='nobody' nor node-name='nobody'"),
                    ([snapshot("a", "a-overlay"), snapshot("a", "b-overlay")],
                     "Node 'a' is busy: node is used as backing hd of "
                     "'a-overlay'")):
                before = daemon.state()
                self.assertEqual(daemon.transaction(*actions), message)
                self.assertEqual(daemon.state(), before)
                # Nobody else may have it, then as now.
                iotests.run("qemu-io", "-f", "qcow2", "-c", "read 0 512",
                            path("a"), status=1)
                client.pwrite(512, b"after".ljust(512))
                self.assertEqual(client.pread(0, 1024), b"before".ljust(512) +
                                 b"after".ljust(512))
            self.check_all_kinds(daemon)
            client.flush()
            self.assertEqual(first_sector("a"), b"before".ljust(512))
            # It can still be done.
            self.assertIsNone(daemon.transaction(
                snapshot("a", "a-overlay"),
                snapshot("a-overlay", "b-overlay")))
            self.assertEqual(client.pread(0, 512), b"before".ljust(512))
            (export,) = (row for row in daemon.cmd("query-block-exports")
                         if row["id"] == "a")
            self.assertEqual(export["node-name"], "b-overlay")

    def test_as_stock(self):
        """The same is refused, for the same reasons, and in the same order."""
        grouped = {"completion_mode": "grouped"}
        steps = (
            ([], {}), ([], grouped), ([action("abort")], {}),
            ([action("abort")], grouped), ([{"type": "abort"}], {}),
            ([{"data": {}}], {}), ([5], {}), ([action("abort", x=1)], {}),
            ([{**action("abort"), "x": 1}], {}),
            ([action("blockdev-snapshot", node="a")], {}),
            ([snapshot("a", "nobody"), action("abort")], {}),
            ([snapshot("nobody", "a-overlay")], {}),
            ([snapshot("a", "a")], {}), ([snapshot("a", "b")], {}),
            ([snapshot("a", "a-file")], {}),
            ([snapshot("a", "a-overlay"), snapshot("a", "b-overlay")], {}),
            ([snapshot("a", "a-overlay"), snapshot("b", "a-overlay")], {}),
            ([snapshot("a", "a-overlay"), snapshot("a-overlay", "a")], {}),
            ([snapshot("a", "a-overlay")], grouped),
            ([snapshot("a", "nobody")], grouped),
            ([action("abort"), snapshot("a", "a-overlay")], grouped),
            ([snapshot("a", "a-overlay"), snapshot("b", "b-overlay")],
             {"completion_mode": "individual"}),
            ([snapshot("a", "c-overlay")], {}))
        with Disks() as ours:
            answers = [ours.transaction(*actions, **properties)
                       for actions, properties in steps]
        with Disks(program=iotests.STOCK_DAEMON) as stock:
            for (actions, properties), answer in zip(steps, answers):
                with self.subTest(f"{actions} {properties}"):
                    self.assertEqual(answer,
                                     stock.transaction(*actions, **properties))


# ---- jobs that end together ------------------------------------------------


def backup(number, **options):
    return action("blockdev-backup", job_id=f"j{number}",
                  device=f"s{number}", target=f"t{number}", sync="full",
                  **options)


def grouped(*actions):
    return ("transaction", {"actions": list(actions),
                            "properties": {"completion-mode": "grouped"}})


class Jobs:
    """A daemon, and what it told of each job"""

    def __init__(self, daemon):
        self.daemon = daemon
        self.log = {}

    def until(self, job, word):
        """Take events until that one is there, or was"""
        while word not in self.log.get(job, []):
            qmp = self.daemon.qmp
            event = qmp.events.popleft() if qmp.events else qmp.receive()
            data = event["data"]
            name = data.get("status", event["event"].removeprefix("BLOCK_JOB_"))
            if "error" in data:
                name += f" ({data['error']})"
            log = self.log.setdefault(data.get("id", data.get("device")), [])
            log.append(name)
            # A job that is drained as it starts counts as paused in stock.
            if log[-3:] == ["running", "paused", "running"] and \
                    "created" in log[-4:]:
                del log[-2:]

    def step(self, step):
        if isinstance(step, dict):
            for job, word in step.items():
                self.until(job, word)
            return None
        command, arguments = step
        try:
            rows = self.daemon.cmd(command, arguments)
        except QMPError as error:
            return {"class": error.error_class, "desc": error.desc}
        if not isinstance(rows, list):
            return rows
        return sorted(({key: value for key, value in row.items() if key not in (
            "len", "offset", "busy", "current-progress", "total-progress")}
            for row in rows), key=lambda row: json.dumps(row, sort_keys=True))


@contextlib.contextmanager
def jobs(program, target="raw"):
    words = []
    for i in range(2):
        source = disk.written(path(f"s{i}"), SIZE)
        copy = disk.sparse(path(f"t{i}") if target == "raw" or i == 0
                           else f"{target}/t1", SIZE)
        words += ["--blockdev", f"file,node-name=s{i},filename={source}",
                  "--blockdev", f"file,node-name=t{i},filename={copy}"]
    with iotests.Daemon(*words, program=program) as daemon:
        yield Jobs(daemon)


VERBS = [("job-pause", {"id": "j0"}), ("job-resume", {"id": "j0"}),
         ("job-finalize", {"id": "j0"}), ("job-complete", {"id": "j0"}),
         ("job-dismiss", {"id": "j0"}),
         ("block-job-set-speed", {"device": "j0", "speed": 5})]
QUERIES = [("query-jobs", {}), ("query-block-jobs", {})]


class GroupedJobs(unittest.TestCase):

    def both(self, *steps, target="raw"):
        """The same with our daemon and QEMU's: what was told of jobs"""
        logs = []
        with jobs(iotests.DAEMON, target) as ours:
            answers = [ours.step(step) for step in steps]
            logs.append(ours.log)
        with jobs(iotests.STOCK_DAEMON, target) as stock:
            for step, answer in zip(steps, answers):
                with self.subTest(f"{step}"):
                    self.assertEqual(answer, stock.step(step))
            logs.append(stock.log)
        self.assertEqual(*logs)
        return logs[0]

    def test_success(self):
        log = self.both(grouped(backup(0), backup(1)),
                        {"j0": "null", "j1": "null"}, *QUERIES)
        for job in ("j0", "j1"):
            self.assertEqual(log[job], [
                "created", "running", "waiting", "pending", "COMPLETED",
                "concluded", "null"])
        for i in range(2):
            self.assertTrue(iotests.identical(path(f"s{i}"), path(f"t{i}")))

    def test_one_waits(self):
        """until the other is done, or is cancelled, or it is itself"""
        self.both(grouped(backup(0), backup(1, speed=SLOW)),
                  {"j0": "waiting"}, *QUERIES, *VERBS,
                  ("block-job-set-speed", {"device": "j1", "speed": 0}),
                  {"j0": "null", "j1": "null"})
        for cancelled in ("j0", "j1"):
            log = self.both(grouped(backup(0), backup(1, speed=SLOW)),
                            {"j0": "waiting"},
                            ("job-cancel", {"id": cancelled}),
                            {"j0": "null", "j1": "null"}, *QUERIES)
            self.assertEqual(log["j0"], [
                "created", "running", "waiting", "aborting", "CANCELLED",
                "concluded", "null"])
            self.assertEqual(log["j1"], [
                "created", "running", "aborting", "CANCELLED", "concluded",
                "null"])

    def test_by_hand(self):
        log = self.both(
            grouped(backup(0, auto_finalize=False), backup(1)),
            {"j0": "PENDING", "j1": "pending"}, *QUERIES, *VERBS[:2],
            *VERBS[3:], ("job-finalize", {"id": "j1"}),
            {"j0": "null", "j1": "null"})
        self.assertNotIn("PENDING", log["j1"])
        by_hand = {"auto_finalize": False, "auto_dismiss": False}
        for verb in ("job-finalize", "job-cancel"):
            self.both(
                grouped(backup(0, **by_hand), backup(1, **by_hand)),
                {"j0": "PENDING", "j1": "PENDING"}, (verb, {"id": "j0"}),
                {"j0": "concluded", "j1": "concluded"}, *QUERIES,
                *(("job-dismiss", {"id": job}) for job in ("j0", "j1")),
                {"j0": "null", "j1": "null"}, *QUERIES)

    def test_paused(self):
        self.both(grouped(backup(0, speed=SLOW), backup(1, speed=SLOW)),
                  {"j0": "running", "j1": "running"},
                  ("job-pause", {"id": "j0"}), {"j0": "paused"},
                  ("job-cancel", {"id": "j1"}), {"j0": "null", "j1": "null"})

    def test_one_fails(self):
        """for lack of space, when the other is done and waits; or, if it is
        told to stop then, waits for its user, and the other with it"""
        iotests.require_root()
        for policy in ("report", "enospc"):
            by_hand = {"auto_dismiss": False}
            stopped = [{"j1": "paused"}, ("query-jobs", {}),
                       ("job-cancel", {"id": "j1"})]
            with iotests.file_system("ext4", 3 * MiB) as folder:
                log = self.both(
                    grouped(backup(0, **by_hand),
                            backup(1, speed=MiB, on_target_error=policy,
                                   **by_hand)),
                    {"j0": "waiting"},
                    *(stopped if policy == "enospc" else []),
                    {"j0": "concluded", "j1": "concluded"}, *QUERIES,
                    target=folder)
            self.assertEqual(log["j0"], [
                "created", "running", "waiting", "aborting", "CANCELLED",
                "concluded"])

    def test_none_begins(self):
        """One that cannot be made: the other is not there either."""
        for other in (backup(0), {**backup(1), "data": {
                **backup(1)["data"], "target": "nobody"}}):
            with jobs(iotests.DAEMON) as ours:
                before = ours.step(("query-named-block-nodes", {}))
                answer = ours.step(grouped(backup(0), other))
                ours.step({"j0": "null"})
                self.assertEqual(ours.step(("query-jobs", {})), [])
                self.assertEqual(ours.step(("query-named-block-nodes", {})),
                                 before)
                ours.step(grouped(backup(0), backup(1)))
            with jobs(iotests.STOCK_DAEMON) as stock:
                self.assertEqual(stock.step(grouped(backup(0), other)),
                                 answer)


if __name__ == "__main__":
    iotests.main()
