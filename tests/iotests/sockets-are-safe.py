#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets and the pid file are never open to more than they are to be, replace
nothing but what a daemon has left behind, and are where they were asked for."""

import os
import signal
import socket
import stat
import unittest

import iotests
from iotests import DAEMON, QMPError, path, run

NODE = ("--blockdev", "null-co,node-name=n0,size=1M")


def nbd(where):
    return "--nbd-server", f"addr.type=unix,addr.path={where}"


def monitor(where):
    return ("--chardev", f"socket,id=c,path={where},server=on,wait=off",
            "--monitor", "c")


def mode(name):
    return stat.S_IMODE(os.lstat(name).st_mode)


class Base(unittest.TestCase):
    def tearDown(self):
        for name in os.listdir(iotests.scratch.path):
            if not name.endswith(".stderr"):
                entry = path(name)
                if os.path.isdir(entry) and not os.path.islink(entry):
                    os.rmdir(entry)
                else:
                    os.unlink(entry)

    def refused(self, *arguments, saying):
        result = run(DAEMON, *arguments, status=1)
        self.assertRegex(result.stderr, saying)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)


class Permissions(Base):
    def test_umask(self):
        """A monitor is for its owner whatever the umask; the NBD server
        follows it, as stock's does"""
        for umask in 0o000, 0o022, 0o027, 0o077, 0o177:
            modes = []
            for program in DAEMON, iotests.STOCK_DAEMON:
                name = path("nbd")
                with iotests.Daemon(*nbd(name), program=program,
                                    umask=umask) as daemon:
                    modes.append(mode(name))
                    daemon.cmd("nbd-server-stop")
            self.assertEqual(modes, [0o777 & ~umask] * 2)
            with iotests.Daemon(*monitor(path("qmp")), umask=umask):
                self.assertEqual(mode(path("qmp")), 0o600)

    def test_group(self):
        """Others of a group, by the umask and the folder's set-group-id bit"""
        iotests.require(os.geteuid() == 0, "needs another group")
        os.mkdir(path("dir"))
        os.chown(path("dir"), 0, 65534)
        os.chmod(path("dir"), 0o2750)
        with iotests.Daemon(*nbd(path("dir", "nbd")), umask=0o007):
            state = os.stat(path("dir", "nbd"))
            self.assertEqual((state.st_gid, stat.S_IMODE(state.st_mode)),
                             (65534, 0o770))

    def test_no_moment_in_which_they_are_more_open(self):
        """From when a socket file is there, before anybody can connect"""
        with iotests.Daemon(umask=0o027) as daemon:
            with daemon.strace("bind,listen,chmod,fchmod,fchmodat") as trace:
                daemon.cmd("nbd-server-start", addr={
                    "type": "unix", "data": {"path": path("nbd")}})
            calls = [line.split("(")[0].split()[-1] for line in trace.lines]
            self.assertEqual(calls, ["fchmod", "bind", "listen"])
            daemon.cmd("nbd-server-stop")
            with daemon.hang("listen", watch=["bind"]) as hung:
                daemon.qmp.send_raw(
                    b'{"execute": "nbd-server-start", "arguments": {"addr": '
                    b'{"type": "unix", "data": {"path": "%s"}}}}\n'
                    % path("nbd").encode())
                hung.wait_for(r"listen\(")
                self.assertEqual(mode(path("nbd")), 0o750)
                with socket.socket(socket.AF_UNIX) as sock, \
                        self.assertRaises(ConnectionRefusedError):
                    sock.connect(path("nbd"))
                hung.let_go()
            self.assertEqual(daemon.qmp.receive(), {"return": {}})

    def test_pid_file(self):
        for umask in 0o000, 0o027:
            with iotests.Daemon("--pidfile", path("pid"), umask=umask):
                self.assertEqual(mode(path("pid")), 0o600)


class Places(Base):
    def test_lengths(self):
        """A path of 107 bytes is one, of 108 is none: for all who listen"""
        longest = path("x" * (107 - len(path(""))))
        self.assertEqual(len(longest), 107)
        for options in nbd, monitor:
            with iotests.Daemon(*options(longest)):
                self.assertTrue(stat.S_ISSOCK(os.stat(longest).st_mode))
            self.refused(*options(longest + "y"), saying="is too long")
            self.refused(*options(""), saying="is too short|missing|path")

    def test_what_is_no_socket_stays(self):
        def file():
            with open(path("there"), "wb") as there:
                there.write(b"data")

        def link_to(target):
            return lambda: os.symlink(target, path("there"))

        with socket.socket(socket.AF_UNIX) as alive:
            alive.bind(path("socket"))
            for make in (file, lambda: os.mkdir(path("there")),
                         lambda: os.mkfifo(path("there")),
                         link_to("/etc/passwd"), link_to(path("absent")),
                         link_to(path("socket"))):
                make()
                before = os.lstat(path("there"))
                for options in nbd, monitor:
                    self.refused(*options(path("there")),
                                 saying="no socket is in the way")
                after = os.lstat(path("there"))
                self.assertEqual((before.st_ino, before.st_mtime_ns),
                                 (after.st_ino, after.st_mtime_ns))
                (os.rmdir if stat.S_ISDIR(after.st_mode)
                 else os.unlink)(path("there"))
        self.assertFalse(os.path.exists(path("absent")))

    def test_sockets_of_others(self):
        """One at which somebody listens stays; one that somebody put in the
        place of ours is not removed with ours"""
        with socket.socket(socket.AF_UNIX) as alive:
            alive.bind(path("there"))
            alive.listen()
            for options in nbd, monitor:
                self.refused(*options(path("there")), saying="already in use")
        os.unlink(path("there"))
        with socket.socket(socket.AF_UNIX) as other:
            with iotests.Daemon(*nbd(path("there"))):
                os.unlink(path("there"))
                other.bind(path("there"))
            self.assertTrue(os.path.exists(path("there")))

    @staticmethod
    def listening(pid):
        """Addresses (hexadecimal) of TCP sockets that a process listens at"""
        found = set()
        inodes = set()
        for number in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        for table in "tcp", "tcp6":
            with open(f"/proc/{pid}/net/{table}", encoding="ascii") as lines:
                for line in list(lines)[1:]:
                    words = line.split()
                    if words[3] == "0A" and words[9] in inodes:
                        found.add(words[1].split(":")[0])
        return found

    def test_tcp(self):
        """Only where it is told, and it has to be told"""
        addr = "addr.type=inet,addr.port=0"
        with iotests.Daemon("--nbd-server",
                            addr + ",addr.host=127.0.0.1") as daemon:
            self.assertEqual(self.listening(daemon.pid), {"0100007F"})
        with iotests.Daemon("--nbd-server", addr + ",addr.host=") as daemon:
            self.assertLessEqual(self.listening(daemon.pid),
                                 {"00000000", "0" * 32})
            self.assertTrue(self.listening(daemon.pid))
        self.refused("--nbd-server", addr, saying="host")
        with iotests.Daemon(*NODE) as daemon:
            self.assertEqual(self.listening(daemon.pid), set())
            with self.assertRaisesRegex(QMPError, "server not running"):
                daemon.cmd("block-export-add", type="nbd", id="e",
                           node_name="n0")


class PidFile(Base):
    def test_what_is_none_stays(self):
        with open(path("disk"), "wb") as disk:
            disk.write(b"precious")
        with open(path("pid"), "wb") as pid:
            pid.write(b"123\n")
        os.symlink(path("pid"), path("link"))
        os.mkfifo(path("fifo"))
        for name, saying in (("disk", "'disk|is not a pid file"),
                             ("link", "Too many levels"),
                             ("fifo", "is not a pid file")):
            self.refused(*nbd(path("nbd")), "--pidfile", path(name),
                         saying=saying)
            self.assertFalse(os.path.exists(path("nbd")))
        with open(path("disk"), "rb") as disk:
            self.assertEqual(disk.read(), b"precious")
        with open(path("pid"), "rb") as pid:
            self.assertEqual(pid.read(), b"123\n")

    def test_of_the_dead_and_the_living(self):
        daemon = iotests.Daemon("--pidfile", path("pid"))
        self.refused("--pidfile", path("pid"), saying="lock")
        with open(path("pid"), encoding="ascii") as pid:
            self.assertEqual(int(pid.read()), daemon.pid)
        daemon.process.send_signal(signal.SIGKILL)
        daemon.kill()
        with iotests.Daemon("--pidfile", path("pid")) as daemon:
            with open(path("pid"), encoding="ascii") as pid:
                self.assertEqual(int(pid.read()), daemon.pid)
        self.assertFalse(os.path.exists(path("pid")))


if __name__ == "__main__":
    iotests.main()
