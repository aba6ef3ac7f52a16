#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD clients that vanish, talk nonsense, do not listen or come in crowds: they
get what they deserve, and everybody else is served as before."""

import os
import random
import resource
import signal
import socket
import struct
import threading
import time
import unittest

import disk
import iotests
import limits
import nbd
from iotests import KiB, MiB, path

SIZE = 16 * MiB
CONNECTIONS = limits.documented("clients at the same time")
HELPERS = limits.documented("threads that help, besides one for each client")
MEMORY = limits.documented("memory of requests, all clients together")


class BadNbdClientsHarmNobody(unittest.TestCase):

    def setUp(self):
        self.image = disk.written(path("image"), SIZE)
        self.addCleanup(os.unlink, self.image)
        self.daemon = disk.DiskDaemon(self.image)
        self.addCleanup(lambda: self.daemon.kill())
        self.files = self.open_files()

    def tearDown(self):
        self.settle()
        self.daemon.stop()

    def status(self, name):
        """A number of /proc/PID/status"""
        with open(f"/proc/{self.daemon.pid}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith(name + ":"):
                    return int(line.split()[1])
        raise AssertionError(name)

    def open_files(self):
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def threads(self):
        """How many serve NBD clients"""
        count = 0
        for thread in os.listdir(f"/proc/{self.daemon.pid}/task"):
            try:
                with open(f"/proc/{self.daemon.pid}/task/{thread}/comm",
                          encoding="ascii") as file:
                    count += file.read().startswith("nbd")
            except (FileNotFoundError, ProcessLookupError):
                pass  # it has ended
        return count

    def settle(self):
        """Wait until nothing reminds of the clients"""
        deadline = time.monotonic() + iotests.TIMEOUT
        while self.open_files() > self.files or self.threads():
            self.assertLess(
                time.monotonic(), deadline, f"{self.threads()} threads; "
                f"{self.open_files()} descriptors, not {self.files}")
            time.sleep(0.02)

    def good_client_works(self):
        with self.daemon.client() as client:
            client.pwrite(4096, b"good")
            self.assertEqual(client.pread(4096, 4), b"good")
            self.assertEqual(len(client.map()), 1)

    def raw(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(iotests.TIMEOUT)
        sock.connect(self.daemon.nbd_path)
        return sock

    def is_hung_up(self, sock):
        """The server has nothing more to say"""
        try:
            while sock.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        sock.close()

    def slow_reads(self):
        """The file system takes its time, until the end of a `with`"""
        calls = "pread64,preadv,preadv2"
        return self.daemon.strace(calls, calls + ":delay_enter=300000")

    def test_vanishing_in_the_middle(self):
        """In all phases, with requests under way in a slow file system"""
        with self.raw():
            pass
        with self.raw() as sock:
            sock.sendall(b"\0\0\0\3IHAVE")
        with self.slow_reads():
            for _ in range(4):
                client = self.daemon.client()
                for i in range(16):
                    client.send_request(nbd.CMD_READ, i * 4096, 4096)
                client.sock.close()
            client = self.daemon.client()
            client.sock.sendall(struct.pack(
                ">IHHQQI", nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, 1, 0, MiB))
            client.sock.sendall(b"half of it" * 1000)
            client.sock.close()
            self.good_client_works()
        self.settle()
        with self.daemon.client() as client:
            self.assertEqual(client.pread(0, 100), b"\x5a" * 100)
        self.settle()
        self.daemon.cmd("block-export-del", id="export", mode="safe")

    def test_nonsense(self):
        for greeting in b"\0\0\0\xff", b"\0\0\0\3nonsense" * 10, b"GET / HTTP":
            sock = self.raw()
            sock.sendall(greeting)
            self.is_hung_up(sock)
        for request in (b"nonsense" * 10,
                        struct.pack(">IHHQQI", nbd.REQUEST_MAGIC + 1, 0, 0, 0,
                                    0, 512)):
            client = self.daemon.client()
            client.sock.sendall(request)
            self.is_hung_up(client.sock)
        rand = random.Random(1)
        for _ in range(100):
            client = self.daemon.client(structured=rand.random() < 0.5)
            for _ in range(5):
                client.sock.sendall(struct.pack(
                    ">IHHQQI", nbd.REQUEST_MAGIC, rand.randrange(64),
                    rand.choice([0, 3, 5, 7, 8, 99]), 1,
                    rand.randrange(2 * SIZE), rand.randrange(64 * KiB)))
            client.sock.close()
        self.good_client_works()

    def test_too_long_write(self):
        with self.daemon.client() as client:
            with self.assertRaises(OSError):
                client.pwrite(0, bytes(40 * MiB))
            client.pwrite(0, b"fine")

    def test_not_listening(self):
        """A client asks for a gigabyte and reads nothing"""
        deaf = self.daemon.client()
        for i in range(64):
            deaf.send_request(nbd.CMD_READ, 0, SIZE)
        for _ in range(20):
            self.good_client_works()
        self.assertLess(self.status("VmRSS") * KiB, MEMORY)
        # Nor does it hold up the end.
        self.daemon.cmd("nbd-server-stop")
        deaf.sock.close()

    def test_many_not_listening(self):
        """All threads that help and most memory are with those who read
        nothing: others are served, and whoever drains the disk gets it"""
        idle = self.status("VmRSS")
        deaf = [self.daemon.client(structured=i % 2) for i in range(40)]
        for client in deaf:
            for i in range(16):
                client.send_request(nbd.CMD_READ, 0, SIZE)
        deadline = time.monotonic() + iotests.TIMEOUT
        while self.threads() < len(deaf) + HELPERS:
            self.assertLess(time.monotonic(), deadline, self.threads())
            time.sleep(0.02)
        # A sanitizer's own memory, as much again or more, is no request's.
        self.assertLess((self.status("VmRSS") - 4 * idle) * KiB, MEMORY)
        for _ in range(20):
            self.good_client_works()
        with self.daemon.client(structured=False) as client:
            self.assertEqual(client.pread(MiB, 8 * MiB), b"\x5a" * 8 * MiB)
        self.daemon.start_mirror(path("copy"))
        self.addCleanup(os.unlink, path("copy"))
        self.daemon.wait_ready()
        self.daemon.complete()
        self.good_client_works()
        self.daemon.cmd("block-export-del", id="export", mode="hard")
        self.daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="export")
        self.daemon.cmd("blockdev-del", node_name="disk")
        for client in deaf:
            client.sock.close()

    def test_not_listening_at_the_end(self):
        deaf = self.daemon.client()
        for i in range(64):
            deaf.send_request(nbd.CMD_READ, 0, SIZE)
        self.daemon.process.send_signal(signal.SIGTERM)
        self.daemon.wait()
        deaf.sock.close()
        # For tearDown()
        self.daemon = disk.DiskDaemon(self.image)

    def test_crowd(self):
        """As many clients as there may be, all with requests under way"""
        clients = [self.daemon.client() for _ in range(CONNECTIONS)]
        for client in clients:
            for i in range(16):
                client.send_request(nbd.CMD_READ, i * MiB, 64 * KiB)
        self.assertLessEqual(self.threads(), CONNECTIONS + HELPERS + 1)
        # One more has to wait until somebody leaves.
        late = self.raw()
        late.settimeout(0.2)
        with self.assertRaises(TimeoutError):
            late.recv(1)
        late.settimeout(iotests.TIMEOUT)
        for client in clients:
            for cookie in range(1, 17):
                self.assertEqual(len(client.reply(cookie).pieces), 1)
        self.assertLessEqual(self.status("VmRSS") * KiB, MEMORY)
        clients.pop().close()
        self.assertEqual(late.recv(8, socket.MSG_WAITALL), b"NBDMAGIC")
        for client in clients:
            client.sock.close()
        late.close()
        self.settle()
        self.good_client_works()

    def test_max_connections(self):
        self.daemon.cmd("nbd-server-stop")
        self.daemon.cmd("nbd-server-start", {
            "addr": {"type": "unix", "data": {"path": self.daemon.nbd_path}},
            "max-connections": 2})
        self.daemon.cmd("block-export-add", type="nbd", id="export",
                        node_name="disk", writable=True)
        clients = [self.daemon.client() for _ in range(2)]
        late = self.raw()
        late.settimeout(0.2)
        with self.assertRaises(TimeoutError):
            late.recv(1)
        clients[0].close()
        late.settimeout(iotests.TIMEOUT)
        self.assertEqual(late.recv(8, socket.MSG_WAITALL), b"NBDMAGIC")
        late.close()
        clients[1].close()

    def test_silent_crowd(self):
        """Some that stop in the middle of a WRITE, and a thousand that say
        nothing, or begin a sentence, or say it letter by letter: those who
        have an export and QMP notice nothing, and who comes after all of them
        need not wait for ten seconds each"""
        words = b"\0\0\0\3" + nbd.OPT_MAGIC + struct.pack(
            ">II", nbd.OPT_LIST, 60000)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        iotests.require(hard > 1100, "needs 1,100 descriptors")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
        with self.daemon.client() as client:
            halves = [self.daemon.client() for _ in range(3)]
            for half in halves:
                half.sock.sendall(struct.pack(
                    ">IHHQQI", nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, 1, 0, MiB))
                half.sock.sendall(b"half of it" * 1000)
            crowd = []
            for i in range(1000):
                sock = self.raw()
                sock.setblocking(False)
                if i % 3 == 1:
                    sock.sendall(words[:7])
                elif i % 3 == 2:
                    sock.sendall(words)
                crowd.append(sock)
            late = threading.Thread(target=self.good_client_works)
            late.start()
            done = time.monotonic() + iotests.TIMEOUT
            while late.is_alive():
                self.assertLess(time.monotonic(), done)
                self.assertLessEqual(self.threads(), CONNECTIONS + HELPERS + 1)
                self.assertEqual(client.pread(0, 100), b"\x5a" * 100)
                self.daemon.cmd("query-block-exports")
                for sock in crowd[2::3]:
                    try:
                        sock.send(b"x")
                    except OSError:
                        pass
                late.join(0.1)
        for half in halves:
            half.sock.close()
        for sock in crowd:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_handshake_max_seconds(self):
        """As QEMU 10: time for all of the handshake; 0: no limit"""
        for seconds in 5, 0:  # enough for who is busy with it
            self.daemon.cmd("nbd-server-stop")
            self.daemon.cmd("nbd-server-start", {
                "addr": {"type": "unix",
                         "data": {"path": self.daemon.nbd_path}},
                "handshake-max-seconds": seconds})
            self.daemon.cmd("block-export-add", type="nbd", id="export",
                            node_name="disk", writable=True)
            sock = self.raw()
            sock.sendall(b"\0\0\0\3")
            with self.daemon.client() as client:
                if seconds:
                    self.is_hung_up(sock)
                self.assertEqual(client.pread(0, 100), b"\x5a" * 100)
            self.good_client_works()
        sock.sendall(nbd.OPT_MAGIC + struct.pack(">II", nbd.OPT_ABORT, 0))
        self.is_hung_up(sock)
        for seconds in -1, 1 << 32:
            with self.assertRaises(iotests.QMPError):
                self.daemon.cmd("nbd-server-start", {
                    "addr": {"type": "unix", "data": {"path": path("x")}},
                    "handshake-max-seconds": seconds})

    def test_out_of_descriptors(self):
        """No busy waiting: the listener takes a break, and comes back"""
        limit = self.open_files() + 5
        old = resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE,
                         (limit, old[1]))
        crowd = [self.raw() for _ in range(20)]
        self.daemon.cmd("query-block-exports")
        for sock in crowd:
            sock.close()
        self.good_client_works()
        resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE, old)

    def test_export_removed_under_clients(self):
        """While requests wait in a slow file system"""
        client = self.daemon.client()
        with self.slow_reads():
            for i in range(16):
                client.send_request(nbd.CMD_READ, i * 4096, 4096)
            self.daemon.cmd("block-export-del", id="export", mode="hard")
            self.daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="export")
        with self.assertRaises((EOFError, OSError)):
            for cookie in range(1, 17):
                client.reply(cookie)
        client.sock.close()
        self.daemon.cmd("blockdev-del", node_name="disk")


iotests.main()
