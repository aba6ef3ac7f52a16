#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Throttled requests wait for their turn, but nobody waits for them: neither
jobs that drain, nor the removal of exports, nor the end of the daemon."""

import os
import unittest

import iotests
import nbd
from iotests import DAEMON, STOCK_DAEMON, MiB, QMPError, path

# After one write of a MiB, the next one has to wait for twelve days.
SLOW = {"bps-write": 1}
SLOW_READS = {"bps-read": 1}
FREE = {"bps-write": 0}


class Throttled(unittest.TestCase):

    def setUp(self):
        for name in "image", "copy":
            with open(path(name), "wb") as file:
                file.truncate(4 * MiB)
            self.addCleanup(os.unlink, path(name))

    def daemon(self, *more):
        return iotests.Daemon(
            "--object", "throttle-group,id=g",
            "--blockdev", f"file,node-name=file0,filename={path('image')}",
            "--blockdev",
            "throttle,node-name=t0,throttle-group=g,file=file0,discard=unmap",
            "--blockdev", "throttle,node-name=t1,throttle-group=g,"
                          "file.driver=null-co,file.read-zeroes=on",
            "--nbd-server", f"addr.type=unix,addr.path={path('nbd')}",
            "--export", "nbd,id=e0,node-name=t0,writable=on",
            "--export", "nbd,id=e1,node-name=t1,writable=on", *more)

    def connect(self, export):
        client = nbd.NBD(path("nbd"), export)
        self.addCleanup(client.sock.close)
        return client

    @staticmethod
    def limit(daemon, limits):
        daemon.cmd("qom-set", path="/objects/g", property="limits",
                   value=limits)

    def park(self, daemon, client):
        """A write that has to wait, after one that had not to; its cookie"""
        self.limit(daemon, SLOW)
        client.pwrite(0, b"a" * MiB)
        cookie = client.send_request(nbd.CMD_WRITE, MiB, MiB,
                                     b"b" * MiB)
        # Requests are taken in order, and questions are answered at once.
        client.block_status(0, 4096)
        client.flush()
        self.assertFalse(client.replied(cookie))
        return cookie

    def test_limits_are_lifted(self):
        with self.daemon() as daemon, self.connect("t0") as first, \
                self.connect("t1") as second:
            cookie = self.park(daemon, first)
            # Members of a group share its limits.
            other = second.send_request(nbd.CMD_WRITE_ZEROES, 0, 4096)
            second.block_status(0, 4096)
            self.assertFalse(second.replied(other))
            self.limit(daemon, FREE)
            first.reply(cookie)
            second.reply(other)
            self.assertEqual(first.pread(MiB, MiB), b"b" * MiB)

    def test_turns(self):
        """What is behind in line goes behind"""
        with self.daemon() as daemon, self.connect("t0") as client:
            cookies = [self.park(daemon, client)]
            for number in range(3):
                cookies.append(client.send_request(
                    nbd.CMD_TRIM, 2 * MiB + number * 4096, 4096))
            client.block_status(0, 4096)
            self.limit(daemon, FREE)
            for cookie in cookies:
                client.reply(cookie)

    def test_in_one_piece(self):
        """Of requests that come together, those that need not wait are done and
        told, be they before or behind one that has to."""
        with self.daemon() as daemon, self.connect("t0") as client:
            self.limit(daemon, SLOW_READS)
            client.pread(0, MiB)
            data = bytes(range(256)) * 16
            with client.together():
                before = [client.send_request(
                    nbd.CMD_WRITE, number * 4096, 4096, data)
                    for number in range(15)]
                parked = client.send_request(nbd.CMD_READ, 0, 4096)
                behind = [client.send_request(
                    nbd.CMD_WRITE, number * 4096, 4096, data)
                    for number in range(15, 30)]
            for cookie in before + behind:
                client.reply(cookie)
            self.assertFalse(client.replied(parked))
            self.limit(daemon, {"bps-read": 0})
            client.reply(parked)
            self.assertEqual(client.pread(0, 30 * 4096), 30 * data)

    def test_in_one_piece_while_drained(self):
        """Nor do they pass a drain, though one thread does them in a row."""
        with self.daemon() as daemon, self.connect("t0") as client:
            cookies = [self.park(daemon, client)]
            with client.together():
                cookies += [client.send_request(
                    nbd.CMD_READ, number * 4096, 4096)
                    for number in range(40)]
            self.mirror(daemon)
            with client.together():
                cookies += [client.send_request(
                    nbd.CMD_WRITE, 2 * MiB + number * 4096, 4096,
                    bytes([number]) * 4096) for number in range(40)]
            self.limit(daemon, FREE)
            for cookie in cookies:
                client.reply(cookie)
            daemon.qmp.wait_event("BLOCK_JOB_READY", device="m")
            daemon.cmd("job-complete", id="m")
            daemon.qmp.wait_job("m", "null")
        with open(path("copy"), "rb") as file:
            file.seek(2 * MiB)
            for number in range(40):
                self.assertEqual(file.read(4096), bytes([number]) * 4096)

    def mirror(self, daemon):
        daemon.cmd("blockdev-add", driver="file", node_name="copy",
                   filename=path("copy"))
        daemon.cmd("blockdev-mirror", job_id="m", device="t0",
                   target="copy", sync="full")

    def test_mirror(self):
        """It starts, pivots and ends at once, and has all that was written"""
        with self.daemon() as daemon, self.connect("t0") as client:
            cookie = self.park(daemon, client)
            self.mirror(daemon)
            # It drained its source, to stand above it.
            client.reply(cookie)
            daemon.qmp.wait_event("BLOCK_JOB_READY", device="m")
            cookie = client.send_request(nbd.CMD_WRITE, 2 * MiB, MiB,
                                         b"c" * MiB)
            client.block_status(0, 4096)
            daemon.cmd("job-complete", id="m")
            daemon.qmp.wait_job("m", "null")
            client.reply(cookie)
            self.assertEqual(client.pread(0, 3 * MiB),
                             b"a" * MiB + b"b" * MiB + b"c" * MiB)
        with open(path("copy"), "rb") as file:
            self.assertEqual(file.read(3 * MiB),
                             b"a" * MiB + b"b" * MiB + b"c" * MiB)

    def test_mirror_that_is_throttled_itself(self):
        """It is cancelled, although its own reads wait"""
        with self.daemon() as daemon, self.connect("t0") as client:
            client.pwrite(0, b"a" * 4 * MiB)
            self.limit(daemon, SLOW_READS)
            self.mirror(daemon)
            daemon.qmp.wait_job("m", "running")
            daemon.cmd("job-cancel", id="m")
            daemon.qmp.wait_job("m", "null")

    def park_in_target(self, daemon):
        """A client whose writes go to an export's disk and then, within the
        same request, to a disk that is throttled: a cookie"""
        daemon.cmd("blockdev-add", driver="file", node_name="fast",
                   filename=path("copy"))
        daemon.cmd("block-export-del", id="e0")
        daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e0")
        daemon.cmd("block-export-add", type="nbd", id="e", node_name="fast",
                   writable=True)
        daemon.cmd("blockdev-mirror", {
            "job-id": "m", "device": "fast", "target": "t0", "sync": "full",
            "copy-mode": "write-blocking"})
        daemon.qmp.wait_event("BLOCK_JOB_READY", device="m")
        client = self.connect("fast")
        return client, self.park(daemon, client)

    def test_target_reopen(self):
        with self.daemon() as daemon:
            client, cookie = self.park_in_target(daemon)
            daemon.cmd("blockdev-reopen", options=[{
                "driver": "file", "node-name": "fast",
                "filename": path("copy"), "detect-zeroes": "on"}])
            client.reply(cookie)

    def test_target_pivot(self):
        with self.daemon() as daemon:
            client, cookie = self.park_in_target(daemon)
            daemon.cmd("job-complete", id="m")
            daemon.qmp.wait_job("m", "null")
            client.reply(cookie)
        for name in "image", "copy":
            with open(path(name), "rb") as file:
                self.assertEqual(file.read(2 * MiB), b"a" * MiB + b"b" * MiB)

    def test_target_removal(self):
        with self.daemon() as daemon:
            self.park_in_target(daemon)
            daemon.cmd("block-export-del", id="e", mode="hard")
            daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")
            # That was no error of the target.
            (job,) = daemon.cmd("query-block-jobs")
            self.assertEqual(job["status"], "ready")

    def test_target_end(self):
        daemon = self.daemon()
        self.park_in_target(daemon)
        daemon.stop()

    def test_removal(self):
        with self.daemon() as daemon:
            self.park(daemon, self.connect("t0"))
            with self.assertRaises(QMPError):
                daemon.cmd("object-del", id="g")
            daemon.cmd("block-export-del", id="e0", mode="hard")
            daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e0")
            daemon.cmd("block-export-del", id="e1")
            daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e1")
            daemon.cmd("blockdev-del", node_name="t0")
            with self.assertRaises(QMPError) as caught:
                daemon.cmd("object-del", id="g")
            self.assertEqual(caught.exception.desc,
                             "object 'g' is in use, can not be deleted")
            daemon.cmd("blockdev-del", node_name="t1")
            daemon.cmd("object-del", id="g")

    def test_server_stop(self):
        with self.daemon() as daemon:
            self.park(daemon, self.connect("t0"))
            daemon.cmd("nbd-server-stop")
            daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e0")

    def test_end(self):
        daemon = self.daemon()
        self.park(daemon, self.connect("t0"))
        daemon.stop()

    def test_end_with_a_mirror(self):
        daemon = self.daemon()
        client = self.connect("t0")
        self.park(daemon, client)
        self.mirror(daemon)
        daemon.qmp.wait_event("BLOCK_JOB_READY", device="m")
        client.send_request(nbd.CMD_WRITE, 2 * MiB, MiB, b"c" * MiB)
        client.block_status(0, 4096)
        daemon.stop()


class AsStock(unittest.TestCase):
    """Groups and nodes are set up as in QEMU's storage daemon"""

    def outcome(self, daemon, command, arguments):
        try:
            return daemon.cmd(command, arguments)
        except QMPError as error:
            return error.error_class

    def compare(self, steps, *arguments):
        with iotests.Daemon(*arguments) as ours, \
                iotests.Daemon(*arguments, program=STOCK_DAEMON) as stock:
            for command, args in steps:
                with self.subTest(f"{command} {args}"):
                    self.assertEqual(self.outcome(ours, command, args),
                                     self.outcome(stock, command, args))

    def test_limits(self):
        def add(**options):
            return ("object-add", {"qom-type": "throttle-group", "id": "g2",
                                   **options})

        def put(**limits):
            return ("qom-set", {
                "path": "/objects/g", "property": "limits",
                "value": {k.replace("_", "-"): v for k, v in limits.items()}})

        show = ("qom-get", {"path": "g", "property": "limits"})
        self.compare([
            show, ("qom-get", {"path": "g", "property": "x-iops-read"}),
            put(iops_total=99), show,
            put(iops_read=0, iops_read_max=0, iops_read_max_length=1,
                iops_total=99, iops_total_max=200), show,
            put(bps_write=5), show, put(bps_total=1), show,
            put(bps_write=-1), put(bps_write=10 ** 15), put(bps_write=2 * 10 ** 15),
            put(iops_total_max=10), put(bps_read_max=1),
            put(bps_read_max_length=2), put(bps_read_max_length=0),
            put(iops_total_max=2 ** 40, iops_total_max_length=2 ** 20),
            put(iops_total_max_length=2 ** 32), put(nonsense=1),
            ("qom-set", {"path": "g", "property": "limits", "value": 1}),
            ("qom-set", {"path": "g", "property": "x-bps-total", "value": 1}),
            show,
            add(limits={"iops-total": 1, "iops-read": 1}),
            add(limits={"iops-total": 1}, **{"x-iops-read": 1}),
            add(limits={"iops-size": 4096}), add(limits={"nonsense": 1}),
            add(**{"x-bps-read": -1}), add(limits={"iops-total": "1"}),
            add(limits={"iops-total": 1}, **{"x-bps-read": 3}),
            ("qom-get", {"path": "g2", "property": "limits"}),
        ], "--object", "throttle-group,id=g,limits.iops-read=10,"
                       "x-bps-read=20,limits.iops-read-max=40,"
                       "limits.iops-read-max-length=5")

    def test_nodes(self):
        node = {"driver": "throttle", "node-name": "n", "throttle-group": "g",
                "file": {"driver": "null-co"}}

        def without(name):
            return {k: v for k, v in node.items() if k != name}

        self.compare([
            ("blockdev-add", {**node, "throttle-group": "none"}),
            ("blockdev-add", {**node, "throttle-group": "s"}),
            ("blockdev-add", {**node, "file": "none"}),
            ("blockdev-add", without("throttle-group")),
            ("blockdev-add", without("file")),
            ("blockdev-add", {**node, "limits": {}}),
            ("object-del", {"id": "s"}),
            ("blockdev-add", node),
            ("object-del", {"id": "g"}),
            ("blockdev-del", {"node-name": "n"}),
            ("object-del", {"id": "g"}),
        ], "--object", "throttle-group,id=g", "--object", "secret,id=s,data=x")

    def test_order_on_the_command_line(self):
        node = ["--blockdev",
                "throttle,node-name=n,throttle-group=g,file.driver=null-co"]
        group = ["--object", "throttle-group,id=g,limits.bps-total=1"]
        for program in DAEMON, STOCK_DAEMON:
            with iotests.Daemon(*group, *node, program=program):
                pass
            stderr = iotests.run(program, *node, *group, status=1).stderr
            self.assertIn("Throttle group 'g' does not exist", stderr)


iotests.main()
