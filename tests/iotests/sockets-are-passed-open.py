#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD server's socket may come from a service manager, or from a client."""

import json
import os
import signal
import socket
import subprocess
import sys
import unittest

import disk
import iotests
from iotests import Daemon, MiB, QMPError, path, run

# Passes its arguments' sockets as a service manager does: NAMES PROGRAM...
LAUNCHER = r"""
import os, sys
names, command = sys.argv[1], sys.argv[2:]
os.environ["LISTEN_PID"] = os.environ.get("FAKE_PID", str(os.getpid()))
os.environ["LISTEN_FDS"] = str(len(names.split(":")))
os.environ["LISTEN_FDNAMES"] = names
os.execvp(command[0], command)
"""


def listener(name=None):
    """A socket as a service manager opens it, and its URI"""
    if name:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path(name))
        uri = f"nbd+unix:///disk?socket={path(name)}"
    else:
        sock = socket.socket(socket.AF_INET)
        sock.bind(("127.0.0.1", 0))
        uri = "nbd://127.0.0.1:%d/disk" % sock.getsockname()[1]
    sock.listen()
    return sock, uri


def size(uri):
    return json.loads(run("nbdinfo", "--json", uri).stdout
                      )["exports"][0]["export-size"]


class Sockets(unittest.TestCase):
    def setUp(self):
        image = disk.sparse(path("image"), MiB)
        self.node = ("--blockdev", f"file,node-name=disk,filename={image}")
        self.export = ("--export", "nbd,id=e,node-name=disk,writable=on")
        self.sockets = []

    def tearDown(self):
        for sock in self.sockets:
            if sock.family == socket.AF_UNIX:
                os.unlink(sock.getsockname())
            sock.close()

    def listener(self, name=None):
        sock, uri = listener(name)
        self.sockets.append(sock)
        return uri

    def launched(self, names, *arguments, **environment):
        """A daemon that gets all sockets from number 3 on"""
        moves = []
        for number, sock in enumerate(self.sockets, 3):
            moves.append((os.dup(sock.fileno()), number))

        def pass_on():
            # High ones first, lest one is overwritten before it is passed
            high = [(os.dup2(fd, 100 + number), number)
                    for fd, number in moves]
            for fd, number in high:
                os.dup2(fd, number)
                os.close(fd)

        try:
            return Daemon(
                *self.node, *arguments, close_fds=False, preexec_fn=pass_on,
                prefix=(sys.executable, "-c", LAUNCHER, names),
                env={**os.environ, **environment})
        finally:
            for fd, _ in moves:
                os.close(fd)

    def server(self, name):
        return "--nbd-server", f"addr.type=fd,addr.str={name}"

    def test_systemd_starts_it(self):
        """At the first client, who is served"""
        where = path("activated")
        uri = f"nbd+unix:///disk?socket={where}"
        for name, more in ("3", []), ("nbd", ["--fdname=nbd"]):
            manager = subprocess.Popen(
                ["systemd-socket-activate", "-l", where, *more, "-E",
                 f"{iotests._MARK}={iotests.scratch.path}", iotests.DAEMON,
                 *self.node, *self.server(name), *self.export],
                stderr=subprocess.PIPE)
            try:
                self.assertIn(b"Listening", manager.stderr.readline())
                self.assertEqual(size(uri), MiB)
                iotests.qemu_io(uri, "write -P 5 0 64k", "read -P 5 0 64k")
            finally:
                # It has become the daemon.
                manager.send_signal(signal.SIGTERM)
                self.assertEqual(manager.wait(iotests.TIMEOUT), 0)
                manager.stderr.close()
                os.unlink(where)

    def test_names_and_numbers(self):
        first, second = self.listener("first"), self.listener()
        for name, uri in ("one", first), ("two", second), ("3", first), \
                ("4", second):
            with self.launched("one:two", *self.server(name), *self.export):
                self.assertEqual(size(uri), MiB)

    def test_one_name_for_several(self):
        uris = [self.listener("first"), self.listener(), self.listener("more")]
        with self.launched("nbd:nbd:other", *self.server("nbd"), *self.export):
            for uri in uris[:2]:
                self.assertEqual(size(uri), MiB)

    def test_can_be_used_again(self):
        """As often as the server is started; systemd's socket stays"""
        uri = self.listener("again")
        with self.launched("nbd") as daemon:
            for _ in range(3):
                daemon.cmd("nbd-server-start", addr={
                    "type": "fd", "data": {"str": "nbd"}})
                daemon.cmd("block-export-add", type="nbd", id="e",
                           node_name="disk")
                self.assertEqual(size(uri), MiB)
                daemon.cmd("nbd-server-stop")
        self.assertTrue(os.path.exists(path("again")))

    def test_meant_for_somebody_else(self):
        """Names count only with our process id"""
        self.listener("other")
        with self.launched("nbd", FAKE_PID="1") as daemon:
            self.refused(daemon, "nbd", "has not been found")

    def refused(self, daemon, name, pattern):
        with self.assertRaisesRegex(QMPError, pattern):
            daemon.cmd("nbd-server-start",
                       addr={"type": "fd", "data": {"str": name}})

    def test_what_is_not_ours_to_use(self):
        """No descriptor that the daemon has opened itself"""
        with Daemon(*self.node) as daemon:
            for number in os.listdir(f"/proc/{daemon.pid}/fd"):
                self.refused(daemon, number, "not been found|not a socket")
            self.assertEqual(daemon.cmd("query-block-exports"), [])

    def test_client_passes_it(self):
        uri = self.listener("client")
        with Daemon(*self.node) as daemon:
            daemon.cmd("getfd", fdname="nbd",
                       fds=[self.sockets[0].fileno()])
            daemon.cmd("nbd-server-start",
                       addr={"type": "fd", "data": {"str": "nbd"}})
            daemon.cmd("block-export-add", type="nbd", id="e",
                       node_name="disk")
            self.assertEqual(size(uri), MiB)
            daemon.cmd("nbd-server-stop")
            self.refused(daemon, "nbd", "has not been found")

    def test_words_of_refusals(self):
        for number, text in ("0", "not been found"), ("foo", "'foo'"):
            result = run(iotests.DAEMON, *self.server(number), status=1)
            self.assertRegex(result.stderr, text)
        with open("/dev/null", "rb") as null:
            number = null.fileno()
            result = run(iotests.DAEMON, *self.server(number), status=1,
                         pass_fds=[number])
        self.assertIn(f"File descriptor '{number}' is not a socket",
                      result.stderr)


if __name__ == "__main__":
    iotests.main()
