#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Told to end, the daemon ends at once, and in order: what would take hours is
given up, and its pid file is its own as long as it runs."""

import os
import signal
import socket
import unittest

import disk
import iotests
import nbd
from iotests import DAEMON, MiB, path, run

TiB = 1 << 40


class EndComesAtOnce(unittest.TestCase):

    def test_image_that_is_being_written(self):
        """A job that would write a terabyte is cancelled"""
        image = path("image")
        daemon = iotests.Daemon()
        daemon.cmd("blockdev-create", job_id="j0", options={
            "driver": "file", "filename": image, "size": TiB,
            "preallocation": "full"})
        daemon.qmp.wait_job("j0", "running")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.qmp.wait_job("j0", "aborting")
        daemon.qmp.wait_job("j0", "null")
        daemon.wait()
        # The end may come before the image was begun.
        if os.path.exists(image):
            self.assertEqual(os.stat(image).st_size, 0)

    def test_map_of_a_slow_file_system(self):
        """A map that would take half a minute is cut short, and says where"""
        image = disk.alternating(path("image"), 64 * MiB, 4096, 4096)
        # It ends while it is traced, and then LeakSanitizer cannot look.
        options = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"
        daemon = iotests.Daemon(
            "--blockdev",
            f"file,node-name=n,filename={image},status-probe=seek",
            "--chardev", f"socket,id=second,path={path('second')},server=on,"
                         "wait=off",
            "--monitor", "second",
            env={**os.environ, "ASAN_OPTIONS": options})
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path("second"))
            second = iotests.QMP(sock)
            # 16,384 calls of 2 ms each
            with daemon.strace("lseek", "lseek:delay_enter=2000"):
                second.send_raw(b'{"execute": "x-query-block-map", "arguments":'
                                b' {"node-name": "n", "limit": 100000}}\n')
                while not daemon.cache("n")["misses"]:
                    pass
                daemon.process.send_signal(signal.SIGTERM)
                reply = second.receive()["return"]
                daemon.wait()
        self.assertIn("next-offset", reply)
        self.assertLess(reply["next-offset"], 64 * MiB)

    def slow_read(self, mirror=False):
        """A daemon in which a client's read is going to take an hour"""
        daemon = iotests.Daemon(
            "--blockdev", "null-co,node-name=n,latency-ns=3600000000000",
            "--blockdev", "null-co,node-name=copy",
            "--nbd-server", f"addr.type=unix,addr.path={path('nbd')}",
            "--export", "nbd,id=e,node-name=n")
        if mirror:
            daemon.cmd("blockdev-mirror", job_id="m", device="n",
                       target="copy", sync="full")
        client = nbd.NBD(path("nbd"), "n")
        self.addCleanup(client.sock.close)
        client.send_request(nbd.CMD_READ, 0, 4096)
        # Requests are taken in order, and this one is answered at once.
        client.block_status(0, 4096)
        return daemon

    def test_request_of_a_client(self):
        """What a client waits for does not keep the daemon"""
        self.slow_read().stop()

    def test_mirror_with_such_a_client(self):
        self.slow_read(mirror=True).stop()

    def test_server_with_such_a_client(self):
        with self.slow_read() as daemon:
            daemon.cmd("nbd-server-stop")
            daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")

    def test_pid_file_of_a_running_daemon(self):
        pidfile = path("pid")
        with iotests.Daemon("--pidfile", pidfile) as daemon:
            second = run(DAEMON, "--pidfile", pidfile, status=1)
            self.assertIn("Cannot lock pid file", second.stderr)
            with open(pidfile, encoding="ascii") as file:
                self.assertEqual(int(file.read()), daemon.pid)
        self.assertFalse(os.path.exists(pidfile))

    def test_pid_file_of_a_killed_daemon(self):
        pidfile = path("pid")
        first = iotests.Daemon("--pidfile", pidfile)
        first.kill()
        self.assertTrue(os.path.exists(pidfile))
        with iotests.Daemon("--pidfile", pidfile) as second:
            with open(pidfile, encoding="ascii") as file:
                self.assertEqual(int(file.read()), second.pid)
        self.assertFalse(os.path.exists(pidfile))

    def test_no_pid_file_of_one_that_never_ran(self):
        pidfile = path("pid")
        run(DAEMON, "--pidfile", pidfile, "--monitor", "absent", status=1)
        self.assertFalse(os.path.exists(pidfile))


iotests.main()
