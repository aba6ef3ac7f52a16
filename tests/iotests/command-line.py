#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line is qemu-storage-daemon's: applied in order, JSON or keys."""

import contextlib
import json
import os
import select
import signal
import socket
import unittest

import disk
import iotests
from iotests import DAEMON, MiB, path, run


def socket_chardev(name, *more):
    return ",".join(["socket", f"id={name}", f"path={path(name)}",
                     "server=on", "wait=off", *more])


def connect(name):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path(name))
    return iotests.QMP(sock)


@contextlib.contextmanager
def in_background(*arguments, **options):
    """A daemon that has gone to the background; its pid file's path"""
    pidfile = path("pid")
    run(DAEMON, *arguments, "--daemonize", "--pidfile", pidfile, **options)
    with open(pidfile, encoding="ascii") as file:
        pid = int(file.read())
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfile
        os.kill(pid, signal.SIGTERM)
        if not select.select([pidfd], [], [], iotests.TIMEOUT)[0]:
            raise AssertionError(f"{pid} does not end")
    finally:
        os.close(pidfd)


class Startup(unittest.TestCase):
    def refused(self, *arguments, saying):
        result = run(DAEMON, *arguments, status=1)
        self.assertRegex(result.stderr, saying)
        self.assertEqual(result.stdout, "")
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)

    def test_version_and_help(self):
        self.assertRegex(run(DAEMON, "--version").stdout, r"\d+\.\d+")
        text = run(DAEMON, "--help").stdout
        for option in ("blockdev", "chardev", "monitor", "nbd-server",
                       "export", "daemonize", "pidfile", "version", "help"):
            self.assertIn("--" + option, text)

    def test_what_is_wrong_is_named(self):
        image = disk.sparse(path("image"), MiB)
        node = f"driver=file,node-name=n,filename={image}"
        self.refused("--wrong", saying="wrong")
        self.refused("stray", saying="stray")
        self.refused("--blockdev", "driver=wrong,node-name=n", saying="wrong")
        self.refused("--blockdev", node + ",wrong=on", saying="wrong")
        self.refused("--blockdev", node + ",discard=maybe", saying="maybe")
        self.refused("--blockdev", "{broken", saying="JSON|broken")
        self.refused("--blockdev", "driver=file,node-name=n,filename="
                     + path("absent"), saying="absent")
        self.refused("--monitor", "chardev=absent", saying="absent")
        self.refused("--chardev", "wrong,id=c", saying="wrong")
        self.refused("--nbd-server", f"addr.type=unix,addr.path={path('nbd')}",
                     "--export", "nbd,id=e,node-name=absent",
                     saying="Cannot find device='' nor node-name='absent'$")
        self.refused("--nbd-server", "addr.type=unix", saying="path")

    def test_options_are_applied_in_order(self):
        image = disk.sparse(path("image"), MiB)
        node = ("--blockdev", f"file,node-name=n,filename={image}")
        server = ("--nbd-server", f"addr.type=unix,addr.path={path('nbd')}")
        export = ("--export", "nbd,id=e,node-name=n")
        self.refused(*export, *server, *node, saying="'n'")
        self.refused(*server, *export, *node, saying="'n'")
        with iotests.Daemon(*node, *server, *export) as daemon:
            (row,) = daemon.cmd("query-block-exports")
            self.assertEqual((row["id"], row["node-name"]), ("e", "n"))

    def test_json_and_keys_say_the_same(self):
        image = disk.sparse(path("image"), MiB)
        options = {"driver": "raw", "node-name": "json", "offset": 4096,
                   "size": 8192, "read-only": True,
                   "file": {"driver": "file", "filename": image,
                            "cache": {"direct": False}}}
        keys = (f"driver=raw,node-name=keys,offset=4096,size=8192,"
                f"read-only=on,file.driver=file,file.filename={image},"
                f"file.cache.direct=off")
        with iotests.Daemon("--blockdev", json.dumps(options),
                            "--blockdev", keys) as daemon:
            nodes = {row["node-name"]: row for row
                     in daemon.cmd("query-named-block-nodes", flat=True)}
            self.assertEqual(nodes["json"].pop("node-name"), "json")
            self.assertEqual(nodes["keys"].pop("node-name"), "keys")
            self.assertEqual(nodes["json"], nodes["keys"])
            self.assertEqual(nodes["json"]["image"]["virtual-size"], 8192)


class Monitors(unittest.TestCase):
    def test_both_spellings_and_several_clients(self):
        with iotests.Daemon(
                "--chardev", socket_chardev("one"), "--monitor", "one",
                "--chardev", socket_chardev("two"),
                "--monitor", "chardev=two,mode=control"):
            with connect("one") as one, connect("two") as two:
                for monitor in (one, two, one):
                    self.assertIn("qemu", monitor.cmd("query-version"))

    def test_closed_standard_streams(self):
        """No image takes the place of a stream that was not open"""
        with open(path("image"), "wb") as image:
            image.truncate(MiB)
        with iotests.Daemon(
                "--blockdev", f"file,node-name=n,filename={path('image')}",
                prefix=("sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-')) as daemon:
            for fd in range(3):
                self.assertEqual(os.readlink(f"/proc/{daemon.pid}/fd/{fd}"),
                                 "/dev/null")

    def test_stdio(self):
        messages = "".join(json.dumps({"execute": name}) + "\n" for name in
                           ("qmp_capabilities", "query-version", "quit"))
        with open(path("input"), "w+", encoding="ascii") as file:
            file.write(messages)
            file.seek(0)
            result = run(DAEMON, "--chardev", "stdio,id=c",
                         "--monitor", "chardev=c", stdin=file)
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        self.assertIn("QMP", lines[0])
        self.assertEqual(lines[1], {"return": {}})
        self.assertIn("qemu", lines[2]["return"])
        self.assertIn({"return": {}}, lines[3:])


class Background(unittest.TestCase):
    def test_ready_when_the_caller_returns(self):
        image = disk.sparse(path("image"), MiB)
        with in_background(
                "--blockdev", f"file,node-name=n,filename={image}",
                "--nbd-server", f"addr.type=unix,addr.path={path('nbd')}",
                "--export", "nbd,id=e,node-name=n,name=x",
                "--chardev", socket_chardev("qmp"), "--monitor", "qmp"
        ) as pidfile:
            run("nbdinfo", f"nbd+unix:///x?socket={path('nbd')}")
            with connect("qmp") as monitor:
                monitor.cmd("query-version")
            self.assertTrue(os.path.exists(pidfile))
        self.assertFalse(os.path.exists(pidfile))

    def test_errors_are_told_before(self):
        result = run(DAEMON, "--blockdev", "file,node-name=n,filename="
                     + path("absent"), "--daemonize", status=1)
        self.assertIn("absent", result.stderr)

    def test_pid_file_without_background(self):
        pidfile = path("pid")
        with iotests.Daemon("--pidfile", pidfile) as daemon:
            with open(pidfile, encoding="ascii") as file:
                self.assertEqual(int(file.read()), daemon.pid)
        self.assertFalse(os.path.exists(pidfile))

    def test_pid_file_that_cannot_be(self):
        result = run(DAEMON, "--pidfile", path("no", "pid"), status=1)
        self.assertIn(path("no", "pid"), result.stderr)


class End(unittest.TestCase):
    def test_service_manager_is_told(self):
        """When all is set up, and when it ends; at a file or an abstract
        name. What is neither is left alone"""
        for name in path("notify"), f"@seekless-{os.getpid()}":
            environment = {**os.environ, "NOTIFY_SOCKET": name}
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.bind(name.replace("@", "\0", 1))
                manager.settimeout(iotests.TIMEOUT)
                run(DAEMON, "--blockdev", "nonsense", status=1,
                    env=environment)
                self.assertEqual(manager.recv(99), b"STOPPING=1")
                with iotests.Daemon(env=environment):
                    self.assertEqual(manager.recv(99), b"READY=1")
                self.assertEqual(manager.recv(99), b"STOPPING=1")
        os.unlink(path("notify"))
        for name in "", "relative", path("notify"), "/" + "x" * 200:
            with iotests.Daemon(env={**os.environ, "NOTIFY_SOCKET": name}):
                pass

    def test_quit(self):
        daemon = iotests.Daemon()
        daemon.cmd("quit")
        daemon.wait()

    def test_sigint(self):
        with iotests.Daemon() as daemon:
            daemon.process.send_signal(signal.SIGINT)
            daemon.wait()

    def test_sigterm_in_the_middle_of_everything(self):
        """A job is cancelled, clients are let go, and nothing is lost"""
        image = disk.written(path("image"), 64 * MiB)
        with disk.DiskDaemon(image) as daemon, daemon.client() as client:
            daemon.start_mirror(path("copy"), speed=MiB)
            client.pwrite(4096, b"kept" * 1024)
            daemon.stop()
        with open(image, "rb") as file:
            file.seek(4096)
            self.assertEqual(file.read(4096), b"kept" * 1024)


class Unprivileged(unittest.TestCase):
    def test_runs_as_nobody(self):
        iotests.require(os.geteuid() == 0, "not root, so every test shows it")
        nobody = 65534
        os.chmod(iotests.scratch.path, 0o777)
        image = disk.written(path("image"), MiB)
        os.chown(image, nobody, nobody)
        with disk.DiskDaemon(image, user=nobody, group=nobody,
                             extra_groups=[]) as daemon:
            self.assertIn("data", str(iotests.nbdinfo_map(daemon.uri)))
            iotests.qemu_io(daemon.uri, "write -P 7 0 64k", "read -P 7 0 64k")
            with open(f"/proc/{daemon.pid}/status", encoding="ascii") as file:
                self.assertIn(f"Uid:\t{nobody}", file.read())


if __name__ == "__main__":
    iotests.main()
