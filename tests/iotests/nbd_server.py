# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD servers that others wrote, and one disk of theirs as a node of ours."""

import contextlib
import os
import select
import shlex
import signal
import socket
import subprocess
import time

import iotests
import nbd
from iotests import path


class Server:
    """A server that listens at a unix socket, `socket`; the words of its
    command line come from command(). It can be killed and started again."""

    _count = 0

    def __init__(self, export=""):
        Server._count += 1
        self.export = export
        self.socket = path(f"server{Server._count}")
        self.process = None
        self.start()

    def command(self):
        raise NotImplementedError

    def start(self):
        with open(self.socket + ".stderr", "ab") as stderr:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stderr=stderr)
        end = time.monotonic() + iotests.TIMEOUT
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"no server: {self.command()}")
            # Nobody tells that there is a socket.
            select.select([], [], [], 0.02)

    def _listens(self):
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.socket) == 0

    def kill(self, how=signal.SIGKILL):
        """It goes at once, and its socket with it."""
        if self.process:
            self.process.send_signal(how)
            self.process.wait(iotests.TIMEOUT)
            self.process = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)

    def hang(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def address(self):
        """As blockdev-add has it"""
        return {"type": "unix", "path": self.socket}

    @property
    def uri(self):
        return f"nbd+unix:///{self.export}?socket={self.socket}"

    def connect(self):
        """A client of ours, not by way of a daemon"""
        return nbd.NBD(self.socket, self.export)


class QemuNbd(Server):

    def __init__(self, image, *words, form="raw", export=""):
        self.words = (*(("-f", form) if form else ()), "-x", export, *words,
                      image)
        super().__init__(export)

    def command(self):
        return ["qemu-nbd", "-t", "-e", "9", "--discard=unmap", "-k",
                self.socket, *self.words]


class QemuStorageDaemon(Server):
    """Ours, too, with another @program. @options: more of the --blockdev,
    beginning with a comma"""

    def __init__(self, image, *words, form="raw", export="disk",
                 program=iotests.STOCK_DAEMON, options=""):
        self.program = program
        self.words = (
            "--blockdev", f"driver={form},node-name=disk,discard=unmap,"
                          "file.driver=file,file.discard=unmap,"
                          f"file.filename={image}{options}", *words)
        super().__init__(export)

    def command(self):
        return [self.program, *self.words,
                "--nbd-server", f"addr.type=unix,addr.path={self.socket},"
                                "max-connections=16",
                "--export", f"nbd,id=e,node-name=disk,name={self.export},"
                            "writable=on"]


class Nbdkit(Server):
    """@line: what comes behind nbdkit's own options"""

    def __init__(self, line, export=""):
        self.line = line
        super().__init__(export)

    def command(self):
        return ["nbdkit", "-f", "-U", self.socket, *shlex.split(self.line)]


class NbdDaemon(iotests.Daemon):
    """A daemon of ours that has the disk of @server, of these @options, as its
    node "n", and exports it again"""

    def __init__(self, server, *words, program=iotests.DAEMON, **options):
        self.nbd_path = path(f"out{iotests.Daemon.count()}")
        more = "".join(f",{name.replace('_', '-')}={value}"
                       for name, value in options.items())
        writable = "off" if options.get("read_only") == "on" else "on"
        super().__init__(
            "--blockdev",
            f"nbd,node-name=n,discard=unmap,server.type=unix,"
            f"server.path={server.socket},export={server.export}{more}",
            "--nbd-server", f"addr.type=unix,addr.path={self.nbd_path}",
            "--export", f"nbd,id=out,node-name=n,writable={writable}", *words,
            program=program)

    @property
    def uri(self):
        return f"nbd+unix:///n?socket={self.nbd_path}"

    def connect(self):
        return nbd.NBD(self.nbd_path, "n")
