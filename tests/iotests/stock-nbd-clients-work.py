#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD clients that others wrote read, write, copy and map our exports."""

import json
import os
import random
import socket
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, path, run

SIZE = 64 * MiB


def nbdsh(uri, *lines):
    """Run nbdsh's Python: the system's own, and not where our nbd.py is"""
    environ = dict(os.environ, PATH="/usr/bin:/bin:/usr/sbin:/sbin")
    words = [word for line in lines for word in ("-c", line)]
    return run("nbdsh", "-u", uri, *words, env=environ,
               cwd=iotests.scratch.path).stdout


def fio(uri, *options):
    result = run("fio", "--name=job", "--ioengine=nbd", f"--uri={uri}",
                 "--randrepeat=1", "--verify_state_save=0",
                 "--output-format=json", *options,
                 timeout=240)
    (job,) = json.loads(result.stdout[result.stdout.index("{"):])["jobs"]
    return job


class StockNbdClientsWork(unittest.TestCase):

    def setUp(self):
        self.image = disk.alternating(path("image"), SIZE, 128 * KiB,
                                      128 * KiB)

    def tearDown(self):
        os.unlink(self.image)

    def test_nbdinfo(self):
        with disk.DiskDaemon(self.image) as daemon:
            shown = json.loads(run("nbdinfo", "--json", daemon.uri).stdout)
            (export,) = shown["exports"]
            self.assertEqual(export["export-name"], "disk")
            self.assertEqual(export["export-size"], SIZE)
            self.assertEqual(export["contexts"], ["base:allocation"])
            for feature in ("df", "fast_zero", "flush", "fua", "multi_conn",
                            "trim", "zero"):
                self.assertTrue(export["can_" + feature], feature)
            self.assertTrue(shown["structured"])
            listed = json.loads(run(
                "nbdinfo", "--list", "--json",
                f"nbd+unix://?socket={daemon.nbd_path}").stdout)
            self.assertEqual(len(listed["exports"]), 1)

    def test_nbdinfo_map(self):
        with disk.DiskDaemon(self.image) as daemon:
            for _ in range(2):
                extents = iotests.nbdinfo_map(daemon.uri)
                self.assertEqual(len(extents), SIZE // (128 * KiB))
                for i, extent in enumerate(extents):
                    self.assertEqual(extent["offset"], i * 128 * KiB)
                    self.assertEqual(extent["length"], 128 * KiB)
                    self.assertEqual(extent["type"], 3 if i % 2 else 0)

    def test_nbdcopy(self):
        copy, back = path("copy"), path("back")
        disk.sparse(back, SIZE)
        with disk.DiskDaemon(self.image) as daemon, \
                disk.DiskDaemon(back) as other:
            run("nbdcopy", daemon.uri, copy)
            run("nbdcopy", "--connections=4", "--requests=64", daemon.uri,
                other.uri)
            run("nbdcopy", "--synchronous", copy, other.uri)
            run("nbdcopy", "--flush", "--destination-is-zero", copy, other.uri)
        for name in copy, back:
            self.assertTrue(iotests.identical(self.image, name))
            self.assertLessEqual(os.stat(name).st_blocks * 512,
                                 SIZE // 2 + MiB)
            os.unlink(name)

    def test_qemu_img(self):
        copy = path("copy")
        with disk.DiskDaemon(self.image) as daemon:
            rows = iotests.qemu_img_map("-f", "raw", daemon.uri)
            self.assertEqual(len(rows), SIZE // (128 * KiB))
            iotests.qemu_img("convert", "-f", "raw", "-O", "raw", daemon.uri,
                             copy)
            iotests.qemu_img("compare", "-f", "raw", "-F", "raw", daemon.uri,
                             copy)
            # And in: many requests of 2 MiB at the same time
            with open(copy, "r+b") as file:
                file.write(os.urandom(20 * MiB))
            iotests.qemu_img("convert", "-n", "-W", "-m", "16", "-f", "raw",
                             "-O", "raw", copy, daemon.uri)
            iotests.qemu_img("compare", "-f", "raw", "-F", "raw", daemon.uri,
                             copy)
        self.assertTrue(iotests.identical(self.image, copy))
        os.unlink(copy)

    def test_qemu_io(self):
        with disk.DiskDaemon(self.image) as daemon:
            iotests.qemu_io(
                daemon.uri, "write -P 1 1000 3M", "read -P 1 1000 3M",
                "write -z 1M 64k", "read -P 0 1M 64k", "write -z -u 2M 64k",
                "read -P 0 2M 64k", "write -f -P 2 5M 1M", "discard 5M 512k",
                "flush", "read -P 2 5632k 512k", "read -P 0 5M 512k",
                "write -P 3 8M 32M", "read -P 3 8M 32M")
            # 16 at a time, of mixed sizes, without overlaps
            writes = [f"aio_write -P {i + 1} {i * 2}M {(i % 4 + 1) * 100}k"
                      for i in range(24)]
            iotests.qemu_io(daemon.uri, *writes, "aio_flush")
            reads = [line.replace("aio_write", "read") for line in writes]
            iotests.qemu_io(daemon.uri, *reads)

    def test_nbdsh(self):
        with disk.DiskDaemon(self.image) as daemon:
            output = nbdsh(
                daemon.uri,
                "h.pwrite(b'x' * 1000, 12345)",
                "assert h.pread(1000, 12345) == b'x' * 1000",
                "h.zero(4096, 8192, nbd.CMD_FLAG_FAST_ZERO)",
                "h.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE)",
                "h.trim(65536, 0, nbd.CMD_FLAG_FUA)",
                "h.flush()",
                "assert h.pread(4096, 8192) == bytes(4096)",
                "h.pread_structured(65536, 4095, lambda *a: 0,"
                " nbd.CMD_FLAG_DF)",
                # Asked for what it must not, it answers and goes on.
                "h.set_strict_mode(0)",
                "def fails(what, error):\n"
                "    try:\n        what()\n"
                "    except nbd.Error as e:\n"
                "        assert e.errno == error, (e, error)\n"
                "    else:\n        assert False, error",
                "import errno",
                "end = h.get_size()",
                "fails(lambda: h.pread(2, end - 1), 'EINVAL')",
                "fails(lambda: h.pwrite(b'xy', end - 1), 'ENOSPC')",
                "fails(lambda: h.zero(2, end - 1), 'ENOSPC')",
                "fails(lambda: h.trim(2, end - 1), 'EINVAL')",
                "fails(lambda: h.cache(1, 0), 'EINVAL')",
                "fails(lambda: h.pwrite(bytes((32 << 20) + 1), 0), 'EINVAL')",
                "h.pwrite(bytes(32 << 20), 0)",
                "print('all is well')")
            self.assertEqual(output, "all is well\n")

    def test_fio_with_verify(self):
        """Several connections, 16 requests each, written and read back"""
        with disk.DiskDaemon(self.image) as daemon:
            for options in (["--rw=randwrite", "--bs=4k"],
                            ["--rw=randrw", "--bsrange=512-256k",
                             "--bs_unaligned=1"]):
                job = fio(daemon.uri, *options, "--iodepth=16",
                          f"--size={SIZE}", "--verify=crc32c",
                          "--verify_fatal=1", "--verify_backlog=256",
                          "--io_size=32m")
                self.assertEqual(job["error"], 0)
                self.assertGreater(job["write"]["total_ios"], 0)
                self.assertGreater(job["read"]["total_ios"], 0)

    def test_fio_on_several_connections(self):
        with disk.DiskDaemon(self.image) as daemon:
            result = run(
                "fio", "--name=job", "--ioengine=nbd", f"--uri={daemon.uri}",
                "--rw=randwrite", "--bs=4k", "--iodepth=16", "--numjobs=4",
                "--size=8m", "--offset_increment=8m", "--verify=crc32c",
                "--verify_fatal=1", "--verify_state_save=0",
                "--output-format=json", timeout=240)
            jobs = json.loads(result.stdout[result.stdout.index("{"):])["jobs"]
            self.assertEqual([job["error"] for job in jobs], [0] * 4)

    def test_old_client(self):
        """Without structured replies, without GO: as the first clients were"""
        with disk.DiskDaemon(self.image) as daemon:
            client = daemon.client(structured=False)
            client.pwrite(100, b"abc")
            self.assertEqual(client.pread(99, 5), b"\xa5abc\xa5")
            client.close()
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(daemon.nbd_path)
                sock.sendall(b"\0\0\0\0" + nbd.OPT_MAGIC +
                             b"\0\0\0\1\0\0\0\4disk")
                reply = sock.recv(18 + 134, socket.MSG_WAITALL)
                self.assertEqual(reply[18:26], SIZE.to_bytes(8, "big"))
                self.assertEqual(reply[28:], bytes(124))

    def test_several_exports(self):
        """Each has its own disk, and its own rights."""
        names = [path(f"image{i}") for i in range(3)]
        options = []
        for i, name in enumerate(names):
            disk.written(name, MiB, bytes([i + 1]))
            writable = "on" if i else "off"
            options += ["--blockdev", f"file,node-name=n{i},filename={name}",
                        "--export", f"nbd,id=e{i},node-name=n{i},"
                                    f"writable={writable}"]
        server = ["--nbd-server", f"addr.type=unix,addr.path={path('nbd')}"]
        with iotests.Daemon(*server, *options):
            clients = [nbd.NBD(path("nbd"), f"n{i}") for i in range(3)]
            for i, client in enumerate(clients):
                self.assertEqual(client.pread(0, 3), bytes([i + 1] * 3))
            clients[1].pwrite(0, b"one")
            clients[2].pwrite(0, b"two")
            with self.assertRaises(PermissionError):
                clients[0].pwrite(0, b"nil")
            self.assertEqual(clients[1].pread(0, 4), b"one\2")
            for client in clients:
                client.close()
        for name in names:
            os.unlink(name)

    def test_tcp(self):
        """The port is chosen by the test: there is no way to ask for it."""
        with iotests.Daemon(
                "--blockdev", f"file,node-name=n,filename={self.image}"
                ) as daemon:
            port = random.randrange(20000, 60000)
            daemon.cmd("nbd-server-start", addr={
                "type": "inet", "data": {"host": "127.0.0.1",
                                         "port": str(port), "to": 65535}})
            daemon.cmd("block-export-add", type="nbd", id="e",
                       node_name="n", name="disk", writable=True)
            port = listening_port(daemon.pid)
            uri = f"nbd://127.0.0.1:{port}/disk"
            iotests.qemu_io(uri, "write -P 5 0 1M", "read -P 5 0 1M")
            copy = path("copy")
            run("nbdcopy", uri, copy)
            self.assertTrue(iotests.identical(self.image, copy))
            os.unlink(copy)
            daemon.cmd("nbd-server-stop")
            with self.assertRaises(ConnectionRefusedError):
                nbd.NBD(("127.0.0.1", port), "disk")


def listening_port(pid):
    """The one TCP port at which that process listens"""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            pass
    with open(f"/proc/{pid}/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    (port,) = {int(row[1].split(":")[1], 16) for row in rows
               if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}
    return port


iotests.main()
