#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A call that hangs in the kernel, for as long as it likes, keeps neither
management from its work nor the daemon from its end."""

import os
import signal
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, QMPError, path

WRITES = "pwrite64,pwritev,pwritev2"


def begin_write(client, trace):
    """A client's write that hangs; the reply's cookie"""
    cookie = client.send_request(nbd.CMD_WRITE, 0, 4 * KiB,
                                 data=b"x" * 4 * KiB)
    trace.wait_for("pwrite")
    return cookie


class CancelledMirror(unittest.TestCase):

    def test_cancel(self):
        """The job ends when the request of its guest does; until then others
        are managed, and its nodes are in use"""
        image = disk.written(path("image"), MiB)
        other = disk.sparse(path("other"), MiB)
        with disk.DiskDaemon(image) as daemon, \
                daemon.client() as hanging, daemon.client() as reading:
            daemon.start_mirror(path("copy"))
            daemon.wait_ready()
            with daemon.hang(WRITES, image) as trace:
                cookie = begin_write(hanging, trace)
                daemon.cmd("job-cancel", id="mirror")
                daemon.qmp.wait_job("mirror", "aborting")
                for _ in range(2):
                    daemon.add_node("more", other)
                    daemon.cmd("blockdev-del", node_name="more")
                    self.assertEqual(reading.pread(0, 2), b"\x5a\x5a")
                with self.assertRaises(QMPError) as caught:
                    daemon.cmd("blockdev-del", node_name="mirror-target")
                self.assertIn("in use", caught.exception.desc)
                (row,) = daemon.cmd("query-jobs")
                self.assertEqual(row["status"], "aborting")
                trace.let_go()
                hanging.reply(cookie)
            daemon.qmp.wait_event("BLOCK_JOB_CANCELLED")
            daemon.qmp.wait_job("mirror", "null")
            daemon.cmd("blockdev-del", node_name="mirror-target")
            hanging.pwrite(0, b"y" * 4 * KiB)
            self.assertEqual(reading.pread(0, 2), b"yy")


class End(unittest.TestCase):
    """Told to end, the daemon leaves behind what hangs, and says so"""

    def daemon(self):
        image = disk.written(path("image"), MiB)
        other = disk.written(path("other"), MiB)
        # It ends while it is traced, with memory and threads left behind:
        # sanitizers cannot look for leaks, or would find them.
        quiet = {name: os.environ.get(name, "") + option for name, option in (
            ("ASAN_OPTIONS", ":detect_leaks=0"),
            ("TSAN_OPTIONS", ":report_thread_leaks=0"))}
        daemon = disk.DiskDaemon(
            image, program=iotests.IMPATIENT_DAEMON,
            extra=("--pidfile", path("pid"), "--chardev",
                   f"socket,id=m,path={path('monitor')},server=on,wait=off",
                   "--monitor", "m"),
            env={**os.environ, **quiet})
        self.addCleanup(daemon.kill)
        daemon.add_node("other", other)
        daemon.cmd("block-export-add", type="nbd", id="export2",
                   node_name="other", writable=True)
        return daemon

    def end(self, daemon, trace, problem):
        """It ends by itself, says so, and leaves nothing behind"""
        daemon.process.send_signal(signal.SIGTERM)
        while daemon.qmp.receive() is not None:
            pass
        trace.let_go()
        self.assertEqual(daemon.process.wait(iotests.TIMEOUT), 1)
        self.assertEqual(daemon.stderr(),
                         f"seekless-storage-daemon: {problem}\n")
        for name in (daemon.nbd_path, path("monitor"), path("pid")):
            self.assertFalse(os.path.exists(name), name)

    def test_write(self):
        """Of one client; what another has written is flushed"""
        daemon = self.daemon()
        with daemon.client() as client, \
                nbd.NBD(daemon.nbd_path, "other") as other:
            other.pwrite(0, b"z" * 4 * KiB)
            with daemon.hang(WRITES, daemon.filename, path("other"),
                             watch=("fdatasync",)) as trace:
                begin_write(client, trace)
                self.end(daemon, trace,
                         "A request of export 'export' does not end")
        self.assertEqual(trace.count(f"fdatasync.*{path('other')}"), 1)

    def test_open(self):
        """Of a new node, while a mirror runs"""
        daemon = self.daemon()
        more = disk.sparse(path("more"), MiB)
        daemon.start_mirror(path("copy"), speed=1)
        with daemon.hang("open,openat", more) as trace:
            daemon.qmp.send_raw(
                b'{"execute": "blockdev-add", "arguments": {"driver": "file",'
                b'"node-name": "more", "filename": "%s"}}\n' % more.encode())
            trace.wait_for("open")
            self.end(daemon, trace, "The command 'blockdev-add' does not end")

    def test_mirror(self):
        """A write of a job"""
        daemon = self.daemon()
        disk.sparse(path("copy"), MiB)
        with daemon.hang(WRITES, path("copy")) as trace:
            daemon.start_mirror(path("copy"))
            trace.wait_for("pwrite")
            self.end(daemon, trace, "Job 'mirror' does not end")

    def test_flush(self):
        """The last flush of a disk"""
        daemon = self.daemon()
        with daemon.client() as client:
            client.pwrite(0, b"x" * 4 * KiB)
        with daemon.hang("fdatasync", daemon.filename) as trace:
            self.end(daemon, trace,
                     "Could not flush node 'disk': it takes too long")


if __name__ == "__main__":
    iotests.main()
