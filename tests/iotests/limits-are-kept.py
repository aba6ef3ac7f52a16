#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Of everything there may be so much and no more. Who wants more is told the
limit, everybody else is served as before, and what is given back can be had."""

import json
import os
import resource
import signal
import socket
import time
import unittest

import disk
import iotests
import limits
from iotests import MiB, QMPError, path


class Counts(unittest.TestCase):
    """What users create by name"""

    def setUp(self):
        self.daemon = disk.DiskDaemon(disk.sparse(path("image"), MiB))
        self.addCleanup(os.unlink, path("image"))
        self.addCleanup(self.daemon.kill)

    def served(self):
        with self.daemon.client() as client:
            client.pwrite(4096, b"good")
            self.assertEqual(client.pread(4096, 4), b"good")
        self.daemon.cmd("query-version")

    def fill(self, what, add, remove, own=0):
        """Up to the limit of docs/limits.md; @own: there are so many already"""
        limit = limits.documented(what)
        for i in range(limit - own):
            add(i)
        for _ in range(2):
            with self.assertRaisesRegex(
                    QMPError, f"Too many .*: there are {limit}, and may be "
                              f"{limit} at most"):
                add(limit)
            self.served()
            remove(own)
            add(own)
        for i in range(limit - own):
            remove(i)
        self.daemon.stop()

    def test_exports(self):
        for i in range(20):
            self.daemon.cmd("blockdev-add", driver="null-co",
                            node_name=f"n{i}")
        self.fill("exports", lambda i: self.daemon.cmd(
            "block-export-add", type="nbd", id=f"e{i}",
            node_name=f"n{i % 20}", name=f"e{i}"),
            lambda i: self.daemon.cmd("block-export-del", id=f"e{i}"), own=1)

    def test_nodes(self):
        self.fill("nodes", lambda i: self.daemon.cmd(
            "blockdev-add", driver="null-co", node_name=f"n{i}"),
            lambda i: self.daemon.cmd("blockdev-del", node_name=f"n{i}"),
            own=1)

    def test_jobs(self):
        """That have ended, and wait to be dismissed"""
        def add(i):
            self.daemon.cmd("blockdev-create", {
                "job-id": f"j{i}", "options": {
                    "driver": "file", "filename": path("no", "such"),
                    "size": 0}})
            self.daemon.qmp.wait_job(f"j{i}", "concluded")

        self.fill("jobs", add,
                  lambda i: self.daemon.cmd("job-dismiss", id=f"j{i}"))

    def test_bitmaps(self):
        self.fill("dirty bitmaps of a node", lambda i: self.daemon.cmd(
            "block-dirty-bitmap-add", node="disk", name=f"b{i}"),
            lambda i: self.daemon.cmd("block-dirty-bitmap-remove",
                                      node="disk", name=f"b{i}"))

    def test_objects(self):
        self.fill("objects", lambda i: self.daemon.cmd(
            "object-add", {"qom-type": "secret", "id": f"s{i}", "data": "x"}),
            lambda i: self.daemon.cmd("object-del", id=f"s{i}"))

    def more_descriptors(self):
        limit = 10 * limits.documented("file descriptors in sets")
        resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE,
                         (limit, limit))

    def test_descriptors_in_sets(self):
        self.more_descriptors()
        with open(os.devnull, "rb") as null:
            self.fill("file descriptors in sets", lambda i: self.daemon.cmd(
                "add-fd", {"fdset-id": i}, fds=[null.fileno()]),
                lambda i: self.daemon.cmd("remove-fd", {"fdset-id": i}))

    def test_descriptors_with_names(self):
        self.more_descriptors()
        with open(os.devnull, "rb") as null:
            self.fill("file descriptors with names", lambda i: self.daemon.cmd(
                "getfd", fdname=f"fd{i}", fds=[null.fileno()]),
                lambda i: self.daemon.cmd("closefd", fdname=f"fd{i}"))


class Lengths(unittest.TestCase):
    def test_names(self):
        """One that is as long as may be, and one that is longer"""
        name = limits.documented("name of a job, export, object or descriptor")
        text = limits.documented("text beside a descriptor")
        with disk.DiskDaemon(disk.sparse(path("image"), MiB)) as daemon, \
                open(os.devnull, "rb") as null:
            passed = {"fds": [null.fileno()]}
            for limit, command, arguments, key, more in (
                    (name, "block-export-add",
                     {"type": "nbd", "node-name": "disk", "name": "e"},
                     "id", {}),
                    (name, "object-add",
                     {"qom-type": "secret", "data": "x"}, "id", {}),
                    (name, "blockdev-create", {"options": {
                        "driver": "file", "filename": path("no", "such"),
                        "size": 0}}, "job-id", {}),
                    (name, "getfd", {}, "fdname", passed),
                    (text, "add-fd", {}, "opaque", passed)):
                daemon.cmd(command, {**arguments, key: "n" * limit}, **more)
                with self.assertRaisesRegex(
                        QMPError, f"'n*...' is too long: {limit + 1} bytes, "
                                  f"at most {limit}"):
                    daemon.cmd(command, {**arguments,
                                         key: "n" * (limit + 1)}, **more)
            self.assertEqual(len(daemon.cmd("query-fdsets")), 1)
            daemon.cmd("closefd", fdname="n" * name)
        os.unlink(path("image"))


class Threads(unittest.TestCase):
    def test_no_more_to_be_had(self):
        """The system gives no more: what needs one fails, all else goes on"""
        iotests.require(os.geteuid() == 0, "needs a user of its own")
        nobody = 65534
        os.chmod(iotests.scratch.path, 0o777)
        image = disk.alternating(path("image"), MiB)
        os.chown(image, nobody, nobody)
        daemon = disk.DiskDaemon(image, user=nobody, group=nobody,
                                 extra_groups=[])
        self.addCleanup(os.unlink, image)
        self.addCleanup(daemon.kill)

        def threads(limit):
            # Of another user's process, root alone may not be enough.
            iotests.run("prlimit", f"--pid={daemon.pid}", f"--nproc={limit}:",
                        user=nobody, group=nobody, extra_groups=[])

        _, most = resource.getrlimit(resource.RLIMIT_NPROC)
        with daemon.client() as client:
            threads(1)
            # The first command of its kind
            self.assertEqual(len(daemon.map()), 16)
            daemon.cmd("blockdev-add", driver="null-co", node_name="n")
            self.assertEqual(client.pread(0, 2), b"\xa5" * 2)
            with self.assertRaises((EOFError, ConnectionResetError)):
                daemon.client()
            daemon.cmd("blockdev-create", {
                "job-id": "create", "options": {
                    "driver": "file", "filename": path("new"), "size": 0}})
            daemon.qmp.wait_job("create", "concluded")
            job, = daemon.cmd("query-jobs")
            self.assertIn("Could not start a thread", job["error"])
            daemon.cmd("job-dismiss", id="create")
            threads("unlimited" if most == resource.RLIM_INFINITY else most)
            with daemon.client() as other:
                self.assertEqual(other.pread(0, 2), b"\xa5" * 2)
        daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(iotests.TIMEOUT), 0)
        self.assertRegex(daemon.stderr(), "Failed to start a thread")


class Commands(unittest.TestCase):
    def test_while_one_hangs(self):
        """Clients come, ask, and leave again"""
        limit = limits.documented(
            "commands of all clients that have not ended")
        where, image = path("second"), disk.sparse(path("image"), MiB)
        self.addCleanup(os.unlink, image)
        with iotests.Daemon(*iotests.second_monitor(where)) as daemon, \
                daemon.hang("openat", image) as hung:
            for i in range(limit):
                with iotests.connect_monitor(where) as client:
                    driver = {"driver": "null-co"} if i else {
                        "driver": "file", "filename": image}
                    client.send_raw(json.dumps({
                        "execute": "blockdev-add", "arguments": {
                            **driver, "node-name": f"n{i}"}}).encode())
            hung.wait_for(image)
            add = {"driver": "null-co", "node-name": "more"}
            # The next on this socket comes when those before were heard.
            with iotests.connect_monitor(where) as client, \
                    self.assertRaisesRegex(
                        QMPError, f"Too many commands under way: there are "
                                  f"{limit}, and may be {limit} at most"):
                client.cmd("blockdev-add", add)
            self.assertEqual(daemon.cmd("query-named-block-nodes"), [])
            hung.let_go()
            deadline = time.monotonic() + iotests.TIMEOUT
            while len(daemon.cmd("query-named-block-nodes")) < limit:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)
            daemon.cmd("blockdev-add", add)


class Events(unittest.TestCase):
    def test_who_does_not_read_them(self):
        """He is disconnected, others get all, and he can come back"""
        where = path("second")
        unread = limits.documented("output that a client has not read")
        daemon = iotests.Daemon(*iotests.second_monitor(where))
        self.addCleanup(daemon.kill)
        deaf = iotests.connect_monitor(where)
        events = 0
        deadline = time.monotonic() + 10 * iotests.TIMEOUT
        while "does not read" not in daemon.stderr():
            self.assertLess(time.monotonic(), deadline)
            for _ in range(100):
                daemon.cmd("blockdev-create", {
                    "job-id": "j" * 1023, "options": {
                        "driver": "file", "filename": path("no", "such"),
                        "size": 0}})
                daemon.qmp.wait_job("j" * 1023, "concluded")
                daemon.cmd("job-dismiss", id="j" * 1023)
                events += 1
        # Each job makes five events at least, of a kilobyte each.
        self.assertGreater(events * 8 * 1100, unread)
        self.assertLess(events * 4 * 1100, 2 * unread)
        deaf.close()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(iotests.TIMEOUT)
            sock.connect(where)
            self.assertIn(b"QMP", sock.recv(1 << 16))
        daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(iotests.TIMEOUT), 0)


if __name__ == "__main__":
    iotests.main()
