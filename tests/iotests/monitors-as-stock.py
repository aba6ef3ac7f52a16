#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Monitors answer as QEMU's do, and nobody waits for somebody else."""

import json
import os
import socket
import subprocess
import unittest

import iotests
from iotests import Daemon, QMP, QMPError

# What a client may say, and both daemons answer in the same words. One
# message a line, as many replies.
SAME = [
    r'{"execute": "query-version", "id": 1}',
    r'{"execute": "nonsense", "id": "before"}',
    r'{"exec-oob": "qmp_capabilities"}',
    r'{"execute": "qmp_capabilities", "arguments": {"x": 1}}',
    r'{"execute": "qmp_capabilities", "arguments": {"enable": "oob"}}',
    r'{"execute": "qmp_capabilities", "id": {"a": [1, 2.5, null, "\u00e4"]}}',
    r'{"execute": "qmp_capabilities"}',
    r'{"exec-oob": "query-version"}',
    r'{"execute": "nonsense", "id": 1}',
    r'{"execute": 1, "id": 1}',
    r'{"id": 1}',
    r'{}',
    r'{"execute": "quit", "x": 1, "id": 2}',
    r'{"execute": "quit", "arguments": 1}',
    r'{"execute": "quit", "arguments": []}',
    r'{"execute": "quit", "arguments": {"x": 1}}',
    r'{"execute": "quit", "exec-oob": "quit"}',
    r'{"arguments": {}, "id": 1}',
    r"{'execute': 'nonsense', 'id': 'single quotes'}",
    r'{"execute": "nonsense", "id": null}',
    r'{"execute": "nonsense", "id": false}',
    r'{"execute": "nonsense", "id": 0.1}',
    r'{"execute": "nonsense", "id": 9223372036854775807}',
    r'[]',
    r'1',
    r'"x"',
    r'null',
    r'foo',
    r'{"a": foo}',
    r'{"a": 1 "b"}',
    r'{"a" 1}',
    r'[1,]',
    r'[1 2]',
    '{"execute": "quit", "id": "\xc3"}'.encode("latin-1"),
    r'{"execute": "quit", "id": "\x41"}',
    r'{"execute": "blockdev-add"}',
    r'{"execute": "blockdev-add", "arguments": {"driver": 1}}',
    r'{"execute": "blockdev-add", "arguments": {"driver": "nonsense"}}',
    r'{"execute": "blockdev-add", "arguments": {"driver": "null-co"}}',
    r'{"execute": "blockdev-add", "arguments": {"driver": "null-co", '
    r'"node-name": "a", "size": "1"}}',
    r'{"execute": "blockdev-add", "arguments": {"driver": "null-co", '
    r'"node-name": "a", "size": 1.0}}',
    r'{"execute": "blockdev-add", "arguments": {"driver": "null-co", '
    r'"node-name": "a", "nonsense": 1}}',
    r'{"execute": "blockdev-add", "arguments": {"driver": "null-co", '
    r'"node-name": "a", "cache": {"direct": 1}}}',
    r'{"execute": "blockdev-add", "arguments": {"driver": "null-co", '
    r'"node-name": "a", "read-only": "on"}}',
    r'{"execute": "blockdev-add", "arguments": {"driver": "raw", '
    r'"node-name": "a", "file": 1}}',
    r'{"execute": "blockdev-add", "arguments": {"driver": "raw", '
    r'"node-name": "a", "file": {"driver": "file"}}}',
    r'{"execute": "blockdev-del", "arguments": {}}',
    r'{"execute": "quit", "id": "q"}',
]


class Client:
    """Says and hears lines of bytes"""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(iotests.TIMEOUT)
        self.sock.connect(path)
        self.file = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.sock.close()

    def say(self, line):
        self.sock.sendall(line if isinstance(line, bytes) else line.encode())

    def hear(self):
        return self.file.readline()


def server(name, **options):
    """Command line of a monitor for clients that come and go"""
    text = "".join(f",{key}={value}" for key, value in options.items())
    return ("--chardev",
            f"socket,id={name},path={iotests.path(name)},server=on,wait=off",
            "--monitor", f"{name}{text}")


class AsStock(unittest.TestCase):
    """A stranger with both daemons side by side"""

    def conversation(self, program):
        with Daemon(*server("stranger"), program=program) as daemon:
            with Client(iotests.path("stranger")) as client:
                heard = [client.hear()]
                for line in SAME:
                    client.say(line)
                    client.say("\n")
                    heard.append(client.hear())
            daemon.wait()
        return heard

    def test_every_reply(self):
        ours = self.conversation(iotests.DAEMON)
        stock = self.conversation(iotests.STOCK_DAEMON)
        for line, our, their in zip(SAME, ours[1:], stock[1:]):
            with self.subTest(line=line):
                self.assertEqual(our, their)

    def test_greeting(self):
        with Daemon() as daemon:
            greeting = daemon.qmp.greeting
        self.assertEqual(greeting["capabilities"], ["oob"])
        self.assertEqual(set(greeting["version"]), {"qemu", "package"})
        self.assertRegex(greeting["version"]["package"], "^seekless-")
        with Daemon(program=iotests.STOCK_DAEMON) as daemon:
            stock = daemon.qmp.greeting
        self.assertEqual(greeting["version"]["qemu"].keys(),
                         stock["version"]["qemu"].keys())


class Waiting(unittest.TestCase):
    """A command that hangs in the kernel holds up its own client only"""

    def test_hanging_open(self):
        disk = iotests.path("disk")
        with open(disk, "wb") as file:
            file.truncate(65536)
        with Daemon(*server("other")) as daemon, \
                Client(iotests.path("other")) as other:
            other.hear()
            other.say('{"execute": "qmp_capabilities", '
                      '"arguments": {"enable": ["oob"]}}')
            self.assertEqual(other.hear(), b'{"return": {}}\r\n')
            with daemon.strace("openat,open",
                               "openat,open:delay_enter=2000000",
                               filenames=[disk]) as trace:
                other.say('{"execute": "blockdev-add", "arguments": {"driver":'
                          f' "file", "node-name": "n", "filename": "{disk}"}},'
                          ' "id": "slow"}')
                trace.wait_for("disk")
                other.say('{"execute": "query-version", "id": "after"}')
                # Each of these would come second if it had to wait.
                other.say('{"exec-oob": "query-block-exports", "id": "oob"}')
                self.assertEqual(json.loads(other.hear())["id"], "oob")
                self.assertEqual(daemon.cmd("query-named-block-nodes"), [])
                self.assertEqual(json.loads(other.hear())["id"], "slow")
                self.assertEqual(json.loads(other.hear())["id"], "after")
            self.assertEqual(len(daemon.cmd("query-named-block-nodes")), 1)


class Many(unittest.TestCase):
    """Several monitors, and clients that come and go"""

    def test_events_reach_everybody(self):
        with Daemon(*server("a"), *server("b"), "--blockdev",
                    "null-co,node-name=n,size=65536") as daemon, \
                socket.socket(socket.AF_UNIX) as sock_a, \
                socket.socket(socket.AF_UNIX) as sock_b:
            sock_a.connect(iotests.path("a"))
            sock_b.connect(iotests.path("b"))
            with QMP(sock_a) as first, QMP(sock_b, negotiate=False) as second:
                daemon.cmd("nbd-server-start", addr={
                    "type": "unix", "data": {"path": iotests.path("nbd")}})
                daemon.cmd("block-export-add", type="nbd", id="e",
                           node_name="n")
                daemon.cmd("block-export-del", id="e")
                mine = daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")
                self.assertEqual(mine,
                                 first.wait_event("BLOCK_EXPORT_DELETED"))
                self.assertEqual(mine["timestamp"].keys(),
                                 {"seconds", "microseconds"})
                # Who has not negotiated gets no events.
                second.cmd("qmp_capabilities")
                self.assertFalse(second.events)
                daemon.cmd("nbd-server-stop")

    def test_clients_come_and_go(self):
        with Daemon(*server("a")):
            for i in range(100):
                with Client(iotests.path("a")) as client:
                    if i % 3:
                        client.hear()
                    if i % 3 == 2:
                        client.say('{"execute": "qmp_capabilities"}')
                        client.hear()

    def test_half_closed(self):
        """As with `printf ... | nc -N -U path`"""
        with Daemon(*server("a")), Client(iotests.path("a")) as client:
            client.say('{"execute": "qmp_capabilities"}'
                       '{"execute": "query-version", "id": 1}')
            client.sock.shutdown(socket.SHUT_WR)
            lines = client.file.read().splitlines()
        self.assertEqual(len(lines), 3)
        self.assertEqual(json.loads(lines[2])["id"], 1)

    def test_not_reading(self):
        """Somebody asks and asks and never listens"""
        with Daemon(*server("a")) as daemon, \
                Client(iotests.path("a")) as client:
            client.say('{"execute": "qmp_capabilities"}')
            client.sock.setblocking(False)
            sent = 0
            try:
                while sent < 100000:
                    sent += client.sock.send(
                        b'{"execute": "query-qmp-schema"}') // 31
            except BlockingIOError:
                pass
            self.assertLess(sent, 100000)
            daemon.cmd("query-version")
            with open(f"/proc/{daemon.pid}/status", encoding="ascii") as file:
                rss = next(int(line.split()[1]) for line in file
                           if line.startswith("VmRSS"))
            self.assertLess(rss, 200 * 1024)  # KiB; sanitizers included


class Stdio(unittest.TestCase):
    """--chardev stdio"""

    def start(self, **options):
        return subprocess.Popen(
            [iotests.DAEMON, "--chardev", "stdio,id=c", "--monitor", "c"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)

    def test_conversation(self):
        with self.start() as process:
            out, _ = process.communicate(
                b'{"execute": "qmp_capabilities"}\n'
                b'{"execute": "query-version", "id": 1}\n'
                b'{"execute": "quit", "id": 2}\n', iotests.TIMEOUT)
        self.assertEqual(process.returncode, 0)
        ids = [json.loads(line).get("id") for line in out.splitlines()]
        self.assertEqual(ids, [None, None, 1, 2])

    def test_end_of_input(self):
        """All is answered, and the daemon stays"""
        with self.start() as process:
            process.stdin.write(b'{"execute": "qmp_capabilities"}'
                                b'{"execute": "query-version", "id": 1}')
            process.stdin.close()
            for _ in range(3):
                last = process.stdout.readline()
            self.assertEqual(json.loads(last)["id"], 1)
            self.assertIsNone(process.poll())
            process.terminate()
            self.assertEqual(process.wait(iotests.TIMEOUT), 0)

    def test_flags_are_restored(self):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            subprocess.run(
                [iotests.DAEMON, "--chardev", "stdio,id=c", "--monitor", "c",
                 "--chardev", "nonsense"], stdin=theirs, stdout=theirs,
                stderr=subprocess.DEVNULL, check=False)
            self.assertTrue(os.get_blocking(theirs.fileno()))


class Options(unittest.TestCase):
    """--chardev and --monitor say what they do not take"""

    def refused(self, *arguments):
        result = iotests.run(iotests.DAEMON, *arguments, status=None)
        self.assertEqual(result.returncode, 1)
        return result.stderr

    def test_refusals(self):
        path = iotests.path("a")
        chardev = ("--chardev", f"socket,id=c,path={path},server=on,wait=off")
        for arguments, word in (
                (("--chardev", "pty,id=c"), "'pty'"),
                (("--chardev", f"socket,id=c,path={path},telnet=on"),
                 "'telnet'"),
                (("--monitor", "c"), '"c" not found'),
                ((*chardev, "--monitor", "c,mode=readline"), "'readline'"),
                ((*chardev, "--monitor", "c,nonsense=1"), "'nonsense'"),
                ((*chardev, "--monitor", "c", "--monitor", "c"), "in use"),
                ((*chardev, *chardev), "already exists")):
            with self.subTest(arguments=arguments):
                self.assertIn(word, self.refused(*arguments))
                self.assertFalse(os.path.exists(path))

    def test_living_daemon_keeps_its_socket(self):
        with Daemon(*server("a")):
            self.assertIn("already in use", self.refused(*server("a")))
            with Client(iotests.path("a")) as client:
                self.assertIn(b"QMP", client.hear())

    def test_socket_of_a_dead_daemon(self):
        daemon = Daemon(*server("a"))
        daemon.kill()
        self.assertTrue(os.path.exists(iotests.path("a")))
        with Daemon(*server("a")), Client(iotests.path("a")) as client:
            self.assertIn(b"QMP", client.hear())
        self.assertFalse(os.path.exists(iotests.path("a")))

    def test_json(self):
        with Daemon("--chardev", json.dumps(
                {"id": "j", "backend": {"type": "socket", "data": {
                    "addr": {"type": "unix",
                             "data": {"path": iotests.path("j")}}}}}),
                    "--monitor", '{"chardev": "j", "pretty": true}'):
            with Client(iotests.path("j")) as client:
                self.assertEqual(client.hear(), b"{\n")

    def test_error_has_class_and_words(self):
        with Daemon() as daemon:
            with self.assertRaises(QMPError) as caught:
                daemon.cmd("blockdev-del", node_name="nonsense")
            self.assertIn("nonsense", caught.exception.desc)


if __name__ == "__main__":
    iotests.main()
