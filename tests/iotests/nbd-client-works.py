#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that other NBD servers have are nodes as others are."""

import contextlib
import errno
import os
import random
import shutil
import socket
import unittest

import disk
import iotests
import nbd
from iotests import (
    DAEMON, STOCK_DAEMON, GiB, KiB, MiB, QMPError, path, qemu_img_map, require,
    run)
from nbd_server import NbdDaemon, Nbdkit, QemuNbd, QemuStorageDaemon

SIZE = 16 * MiB


def make_image(name="image", size=SIZE):
    with open(path(name), "wb") as file:
        file.truncate(size)
    return path(name)


def servers():
    """Each kind, with an empty disk of SIZE bytes, all that writes"""
    yield "qemu-nbd", lambda: QemuNbd(make_image())
    yield "qemu-storage-daemon", lambda: QemuStorageDaemon(make_image())
    yield "ours", lambda: QemuStorageDaemon(make_image(), program=DAEMON)
    yield "nbdkit", lambda: Nbdkit(f"memory {SIZE}")
    yield "small", lambda: Nbdkit(
        f"--filter=blocksize-policy memory {SIZE} blocksize-minimum=1 "
        "blocksize-preferred=4K blocksize-maximum=64K "
        "blocksize-error-policy=error")
    yield "blocks", lambda: Nbdkit(
        f"--filter=blocksize-policy memory {SIZE} blocksize-minimum=4K "
        "blocksize-preferred=64K blocksize-maximum=1M "
        "blocksize-error-policy=error")
    yield "late", lambda: Nbdkit(
        f"--filter=delay memory {SIZE} rdelay=2ms wdelay=2ms")
    yield "poor", lambda: Nbdkit(
        f"--filter=nozero --filter=fua memory {SIZE} fuamode=emulate")


class Model:
    """What a disk is to hold"""

    def __init__(self, client):
        self.client = client
        self.data = bytearray(SIZE)

    def write(self, offset, data, flags=0):
        self.client.pwrite(offset, data, flags)
        self.data[offset:offset + len(data)] = data

    def zero(self, offset, length, flags=0):
        self.client.write_zeroes(offset, length, flags)
        self.data[offset:offset + length] = bytes(length)

    def trim(self, offset, length):
        """Nobody knows what is there then, so it is written."""
        self.client.trim(offset, length)
        self.write(offset, b"t" * length)


def change_much(client, seed):
    """Requests of all kinds, alignments and sizes; returns the contents"""
    chance = random.Random(seed)
    model = Model(client)
    for number in range(200):
        length = chance.choice((1, 511, 4 * KiB, 64 * KiB, MiB + 1, 3 * MiB))
        offset = chance.randrange(SIZE - length)
        if chance.random() < 0.5:
            offset -= offset % (4 * KiB)
        fill = bytes([number % 255 + 1]) * length
        kind = chance.randrange(6)
        if kind < 3:
            model.write(offset, fill, nbd.CMD_FLAG_FUA if kind == 0 else 0)
        elif kind == 3:
            model.zero(offset, length,
                       chance.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        elif kind == 4:
            model.trim(offset, length)
        else:
            client.flush()
    return bytes(model.data)


def read_all(client):
    step = 64 * KiB
    return b"".join(client.pread(offset, step)
                    for offset in range(0, SIZE, step))


class NbdClientWorks(unittest.TestCase):

    def test_requests(self):
        """What is written through a node is read through it, and is what the
        server has"""
        for number, (name, make) in enumerate(servers()):
            for mode in "data-only", "on":
                with self.subTest(name, mode=mode), make() as server:
                    with NbdDaemon(server, status_cache=mode) as daemon, \
                            daemon.connect() as client:
                        expected = change_much(client, number)
                        self.assertEqual(read_all(client), expected)
                        with server.connect() as other:
                            self.assertEqual(read_all(other), expected)
                    with server.connect() as other:
                        self.assertEqual(read_all(other), expected)

    def test_size(self):
        """Also one that is no multiple of anything"""
        for size in 1, 1000, SIZE + 511:
            with self.subTest(size=size), \
                    Nbdkit(f"memory {size}") as server, \
                    NbdDaemon(server) as daemon, daemon.connect() as client:
                self.assertEqual(client.size, size)
                client.pwrite(0, b"x" * min(size, MiB))
                client.pwrite(size - 1, b"y")
                self.assertEqual(client.pread(size - 1, 1), b"y")
                with server.connect() as other:
                    self.assertEqual(other.pread(size - 1, 1), b"y")
                with self.assertRaisesRegex(QMPError, "Cannot grow NBD nodes"):
                    daemon.cmd("block_resize", node_name="n", size=2 * size)


class Status(unittest.TestCase):
    """Block status, as the server tells it"""

    def setUp(self):
        self.image = disk.alternating(path("image"), SIZE, 128 * KiB, 64 * KiB)

    def test_map(self):
        """The same as stock's, whatever is remembered"""
        with QemuNbd(self.image) as server:
            stock = qemu_img_map("-f", "raw", server.uri)
            for mode in "off", "data-only", "on":
                with self.subTest(mode), \
                        NbdDaemon(server, status_cache=mode) as daemon:
                    for _ in range(2):
                        self.assertEqual(
                            qemu_img_map("-f", "raw", daemon.uri), stock)
                    cache = daemon.cache("n")
                    self.assertEqual(cache["mode"], mode)
                    known = {"off": 0, "data-only": SIZE * 2 // 3,
                             "on": SIZE}[mode]
                    self.assertLess(abs(
                        known - cache["bytes-data"] - cache["bytes-zero"]),
                        128 * KiB)
                    if mode == "on":
                        # All of it came with one reply.
                        self.assertEqual(cache["probes"], 1)
                        self.assertGreater(cache["extents"], 100)

    def test_large(self):
        """Larger than one question may be"""
        with Nbdkit("memory 5T") as server, \
                NbdDaemon(server, status_cache="on") as daemon:
            daemon.cmd("x-query-block-map", node_name="n")
            with daemon.connect() as client:
                client.pwrite(4 << 40, b"x")
                client.write_zeroes(GiB, 3 * GiB)
            (*_, last) = daemon.cmd("x-query-block-map",
                                    node_name="n")["entries"]
            self.assertEqual(last["start"] + last["length"], 5 << 40)

    def test_follows(self):
        """Writes, zero-writes and trims while it is remembered"""
        with QemuNbd(self.image) as server:
            for mode in "data-only", "on":
                with self.subTest(mode), \
                        NbdDaemon(server, status_cache=mode) as daemon, \
                        daemon.connect() as client:
                    client.map()
                    client.pwrite(129 * KiB, b"x" * 512)
                    client.write_zeroes(0, 64 * KiB)
                    client.trim(MiB, MiB)
                    stock = qemu_img_map("-f", "raw", server.uri)
                    self.assertEqual(qemu_img_map("-f", "raw", daemon.uri),
                                     stock)
                    known = daemon.cache("n")["bytes-zero"]
                    self.assertEqual(known > 0, mode == "on")

    def test_known_zeroes_are_not_read(self):
        log = path("log")
        with Nbdkit(f"--filter=log file {self.image} logfile={log}") as server, \
                NbdDaemon(server, status_cache="on") as daemon, \
                daemon.connect() as client:
            client.write_zeroes(MiB, 2 * MiB)
            self.assertEqual(client.pread(MiB, MiB), bytes(MiB))
            with open(log, encoding="utf-8") as lines:
                self.assertNotIn(" Read id", lines.read())

    def test_another_context(self):
        """x-dirty-bitmap, as stock shows it"""
        image = path("image.qcow2")
        run("qemu-img", "create", "-f", "qcow2", image, str(SIZE))
        run("qemu-img", "bitmap", "--add", image, "b0")
        iotests.run("qemu-io", "-f", "qcow2", "-c", f"write {MiB} {2 * MiB}",
                    image)
        context = "qemu:dirty-bitmap:b0"
        with QemuNbd(image, "-B", "b0", form="qcow2") as server:
            (stock,) = [
                qemu_img_map("--image-opts", f"driver=nbd,server.type=unix,"
                             f"server.path={server.socket},"
                             f"x-dirty-bitmap={context}")]
            with NbdDaemon(server, x_dirty_bitmap=context) as daemon:
                rows = daemon.cmd("x-query-block-map", node_name="n")["entries"]
                self.assertEqual(
                    [(row["start"], row["length"], row["data"], row["zero"])
                     for row in rows],
                    [(row["start"], row["length"], row["data"], row["zero"])
                     for row in stock])
                self.assertEqual([row["data"] for row in rows],
                                 [True, False, True])
                # It is none that a copy may go by.
                with daemon.connect() as client:
                    self.assertFalse(any(flags & nbd.STATE_ZERO
                                         for *_, flags in client.map()))


class Errors(unittest.TestCase):

    def test_errors_pass(self):
        """What the server refuses, the client is refused, in the same words"""
        trigger = path("trigger")
        for code in "EIO", "ENOSPC", "EPERM", "ENOMEM":
            with self.subTest(code), \
                    Nbdkit(f"--filter=error memory {SIZE} error={code} "
                           f"error-rate=100% error-file={trigger}") as server, \
                    NbdDaemon(server, status_cache="on") as daemon, \
                    daemon.connect() as client:
                client.write_zeroes(0, SIZE)
                self.assertEqual(daemon.cache("n")["bytes-zero"], SIZE)
                with open(trigger, "w", encoding="ascii"):
                    pass
                for request in (lambda: client.pwrite(0, b"x" * 4 * KiB),
                                lambda: client.pread(0, 512),
                                lambda: client.trim(MiB, 4 * KiB),
                                lambda: client.write_zeroes(0, 4 * KiB)):
                    with self.assertRaises(OSError) as raised:
                        request()
                    self.assertEqual(raised.exception.errno,
                                     getattr(errno, code))
                # What a write has left, nobody knows.
                self.assertEqual(daemon.cache("n")["bytes-zero"],
                                 SIZE - 8 * KiB)
                os.unlink(trigger)
                self.assertEqual(client.pread(0, 512), bytes(512))

    def test_fast_zeroes(self):
        for mode, allowed in (("none", False), ("default", True)):
            filters = "--filter=nozero" if mode == "none" else ""
            option = "fastzeromode=none zeromode=notrim" if mode == "none" \
                else ""
            with self.subTest(mode), \
                    Nbdkit(f"{filters} memory {SIZE} {option}") as server, \
                    NbdDaemon(server) as daemon, daemon.connect() as client:
                client.pwrite(0, b"x" * 4 * KiB)
                if allowed:
                    client.write_zeroes(0, 4 * KiB, nbd.CMD_FLAG_FAST_ZERO)
                    continue
                with self.assertRaises(OSError) as raised:
                    client.write_zeroes(0, 4 * KiB, nbd.CMD_FLAG_FAST_ZERO)
                self.assertEqual(raised.exception.errno, errno.EOPNOTSUPP)
                self.assertEqual(client.pread(0, 1), b"x")
                client.write_zeroes(0, 4 * KiB)
                self.assertEqual(client.pread(0, 1), b"\0")


class Load(unittest.TestCase):

    def test_many_at_once(self):
        """Written and verified by several clients, 16 requests each"""
        require(shutil.which("fio"), "needs fio")
        size = 32 * MiB
        with Nbdkit("--filter=delay --filter=blocksize-policy memory "
                    f"{4 * size} blocksize-maximum=64K "
                    "blocksize-error-policy=error rdelay=1ms wdelay=1ms") \
                as server, NbdDaemon(server, reconnect_delay=60) as daemon:
            run("fio", "--name=job", "--ioengine=nbd", f"--uri={daemon.uri}",
                "--rw=randrw", "--bsrange=512-256k", f"--size={size}",
                "--numjobs=4", f"--offset_increment={size}", "--thread",
                "--iodepth=16", "--verify=crc32c", "--verify_state_save=0",
                "--io_size=16M", "--randrepeat=1", timeout=240)


@contextlib.contextmanager
def tcp_server():
    """Of a disk of no contents, at a free port"""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    with iotests.Daemon(
            "--blockdev", "null-co,node-name=null,size=1M",
            "--nbd-server", f"addr.type=inet,addr.host=127.0.0.1,"
                            f"addr.port={port}",
            "--export", "nbd,id=e,node-name=null,writable=on"):
        yield port


class AsStock(unittest.TestCase):
    """Options, names and refusals"""

    def answers(self, program, server, cases):
        with iotests.Daemon(program=program) as daemon:
            for case in cases:
                options = {name.replace("_", "-"): value
                           for name, value in case.items()}
                try:
                    daemon.cmd("blockdev-add", driver="nbd", node_name="n",
                               **options)
                except QMPError as error:
                    yield str(error)
                    continue
                (node,) = daemon.cmd("query-named-block-nodes")
                daemon.cmd("blockdev-del", node_name="n")
                yield {key: node[key] for key in ("drv", "file", "ro")} | {
                    key: node["image"][key]
                    for key in ("filename", "format", "virtual-size")}

    def test_names(self):
        """The same as stock's"""
        unix = {"type": "unix", "path": path("server")}
        for options in (), ("-r",):
            with QemuNbd(make_image(), *options, export="a b") as server:
                unix = server.address
                cases = [
                    {"server": unix, "export": "a b", "read_only": True},
                    {"server": unix, "export": "a b", "auto_read_only": True},
                    {"server": unix, "export": "a b", "read_only": True,
                     "reconnect_delay": 3, "open_timeout": 1},
                    {"server": {"type": "unix", "path": "/nowhere"}},
                    {"server": {"type": "inet", "host": "127.0.0.1",
                                "port": "1"}},
                    {"export": "a b"},
                    {"server": unix, "export": "a b", "path": "/x"},
                ]
                ours = list(self.answers(DAEMON, server, cases))
                stock = list(self.answers(STOCK_DAEMON, server, cases))
                self.assertEqual(ours, stock)

    def test_other_addresses(self):
        """TCP, also by a name, and a connected socket that is passed"""
        with tcp_server() as port, iotests.Daemon() as daemon:
            for host, wishes in (("127.0.0.1", {}),
                                 ("localhost", {"ipv4": True, "ipv6": False})):
                daemon.cmd("blockdev-add", driver="nbd", node_name="n",
                           export="null", server={
                               "type": "inet", "host": host, "port": port,
                               **wishes})
                (node,) = daemon.cmd("query-named-block-nodes")
                self.assertEqual(node["image"]["filename"].startswith("nbd:"),
                                 not wishes)
                daemon.cmd("blockdev-del", node_name="n")
            with socket.create_connection(("127.0.0.1", int(port))) as passed:
                daemon.cmd("getfd", fdname="nbd", fds=[passed.fileno()])
            options = {"driver": "nbd", "node_name": "n", "export": "null",
                       "server": {"type": "fd", "str": "nbd"}}
            daemon.cmd("blockdev-add", **options)
            daemon.cmd("x-query-block-map", node_name="n")
            daemon.cmd("blockdev-del", node_name="n")
            with self.assertRaisesRegex(QMPError, "'nbd' has not been found"):
                daemon.cmd("blockdev-add", **options)
            with socket.socket() as unconnected:
                daemon.cmd("getfd", fdname="nbd", fds=[unconnected.fileno()])
            with self.assertRaisesRegex(QMPError, "not a connected socket"):
                daemon.cmd("blockdev-add", **options)

    def test_refusals(self):
        with QemuNbd(make_image(), "-r", export="disk") as server, \
                iotests.Daemon() as daemon:
            for options, message in (
                    ({}, "write permission"),
                    ({"export": "other", "read-only": True},
                     "Requested export not available: 'other'"),
                    ({"export": "x" * 5000}, "export name too long"),
                    ({"x-dirty-bitmap": "qemu:dirty-bitmap:b",
                      "read-only": True},
                     "requested x-dirty-bitmap qemu:dirty-bitmap:b not found"),
                    ({"tls-creds": "t"}, "'tls-creds' is unexpected"),
                    ({"server": {"type": "vsock", "cid": "1", "port": "1"}},
                     "'server.type' does not accept value 'vsock'"),
                    ({"server": {"type": "fd", "str": "none"}},
                     "'none' has not been found"),
                    ({"reconnect-delay": -1}, "'reconnect-delay'")):
                with self.subTest(message), \
                        self.assertRaisesRegex(QMPError, message):
                    daemon.cmd("blockdev-add", **{
                        "driver": "nbd", "node-name": "n",
                        "server": server.address, "export": "disk", **options})
            self.assertEqual(daemon.cmd("query-named-block-nodes"), [])


if __name__ == "__main__":
    iotests.main()
