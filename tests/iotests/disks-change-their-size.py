#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""block_resize makes disks longer and shorter while they are in use: what is new
is zero, nobody sees what was cut off, and clients learn of it when they come
back. Jobs are not disturbed."""

import errno
import os
import random
import threading
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, QMPError, path

SIZE = 16 * MiB
MAX = 2**63 - 2**30


def virtual_sizes(daemon):
    return {node["node-name"]: node["image"]["virtual-size"]
            for node in daemon.cmd("query-named-block-nodes")
            if not node["node-name"].startswith("#")}


def outcome(daemon, arguments):
    try:
        return daemon.cmd("block_resize", arguments)
    except QMPError as error:
        return error.error_class, error.desc


class AsStock(unittest.TestCase):
    def run_one(self, program, commands):
        image, other = (disk.sparse(path(name), MiB)
                        for name in ("image", "other"))
        nodes = [f"file,node-name=file,filename={image}",
                 "raw,node-name=raw,file=file",
                 f"file,node-name=ro,filename={other},read-only=on",
                 "null-co,node-name=null,size=1048576",
                 "raw,node-name=on-null,file=null",
                 "raw,node-name=window,size=512,file=file2,offset=512",
                 "raw,node-name=behind,offset=1024,file=file3"]
        for name in ("file2", "file3"):
            disk.sparse(path(name), MiB)
            nodes.insert(0, f"file,node-name={name},filename={path(name)}")
        words = [word for node in nodes for word in ("--blockdev", node)]
        with iotests.Daemon(*words, program=program) as daemon:
            for arguments in commands:
                yield (arguments, outcome(daemon, arguments),
                       virtual_sizes(daemon), os.stat(image).st_size,
                       os.stat(path("file3")).st_size)

    def test_answers(self):
        commands = [
            *({"node-name": "file", "size": size}
              for size in (2 * MiB, 512, 0, MiB, -1, 1 << 62, 2**63 - 1)),
            *({"node-name": "raw", "size": size}
              for size in (3 * MiB, 4096, 2**63 - 1, -2**63)),
            *({"node-name": name, "size": 2 * MiB}
              for name in ("ro", "null", "on-null", "window", "behind")),
            *({"node-name": "behind", "size": size}
              for size in (512, MAX - 512, MAX - 511, MAX)),
            {"node-name": "nope", "size": MiB},
            {"device": "nope", "size": MiB},
            {"device": "nope", "node-name": "file", "size": MiB},
            {"device": "file", "size": MiB},
            {"size": MiB},
            {"node-name": "file"},
            {"node-name": "file", "size": "1M"},
            {"node-name": "file", "size": 1.5},
        ]
        ours = list(self.run_one(iotests.DAEMON, commands))
        stock = list(self.run_one(iotests.STOCK_DAEMON, commands))
        for mine, theirs in zip(ours, stock):
            with self.subTest(str(mine[0])):
                self.assertEqual(mine, theirs)

    def test_size_limit_of_the_process(self):
        """It is the command that fails, not the daemon"""
        image = disk.sparse(path("limited"), MiB)
        with disk.DiskDaemon(image, prefix=["prlimit", f"--fsize={8 * MiB}"]
                             ) as daemon:
            daemon.cmd("block_resize", node_name="disk", size=8 * MiB)
            self.assertEqual(
                outcome(daemon, {"node-name": "disk", "size": 8 * MiB + 1}),
                ("GenericError", "Could not resize file: File too large"))
            self.assertEqual(virtual_sizes(daemon), {"disk": 8 * MiB})


class DisksChangeTheirSize(unittest.TestCase):
    options = ""

    def setUp(self):
        self.image = disk.written(path("image"), SIZE)
        self.daemon = disk.DiskDaemon(self.image, self.options)

    def tearDown(self):
        self.daemon.stop()

    def resize(self, size, node_name="disk"):
        self.daemon.cmd("block_resize", node_name=node_name, size=size)

    def check_map(self, client):
        """What is called zero reads as zeroes, from the client and the file"""
        end = 0
        with open(self.image, "rb") as file:
            for extent in client.map():
                end = extent.offset + extent.length
                if not extent.flags & nbd.STATE_ZERO:
                    continue
                zeroes = bytes(extent.length)
                self.assertEqual(client.pread(extent.offset, extent.length),
                                 zeroes)
                file.seek(extent.offset)
                self.assertEqual(file.read(extent.length), zeroes)
        self.assertEqual(end, client.size)

    def test_connected_clients(self):
        """They keep the size they know: beyond the end they meet errors, and
        what is new within it"""
        smaller = 5 * MiB + 512
        old = self.daemon.client()
        old.map()
        self.resize(smaller)
        for offset, length in ((smaller, 512), (smaller - 512, 1024),
                               (0, SIZE), (SIZE - 1, 1)):
            for request in (old.pread, old.write_zeroes, old.trim,
                            old.block_status):
                with self.assertRaises(OSError) as caught:
                    request(offset, length)
                self.assertIn(caught.exception.errno,
                              (errno.EIO, errno.ENOSPC), request)
            with self.assertRaises(OSError):
                old.pwrite(offset, b"y" * length)
        old.flush()
        self.assertEqual(os.stat(self.image).st_size, smaller)
        self.assertEqual(old.pread(smaller - 512, 512), b"\x5a" * 512)
        old.pwrite(smaller - 512, b"y" * 512)
        with self.daemon.client() as new:
            self.assertEqual(new.size, smaller)
            self.check_map(new)

        self.resize(SIZE + 3)
        self.assertEqual(old.pread(smaller, SIZE - smaller),
                         bytes(SIZE - smaller))
        self.assertEqual(old.pread(smaller - 512, 512), b"y" * 512)
        old.map()
        with self.assertRaises(OSError):
            old.pread(SIZE, 1)
        with self.daemon.client() as new:
            self.assertEqual(new.size, SIZE + 3)
            self.check_map(new)
            new.pwrite(SIZE, b"end")
            self.assertEqual(new.pread(SIZE, 3), b"end")
        old.close()
        self.assertEqual(os.stat(self.image).st_size, SIZE + 3)

    def test_stock_clients(self):
        for size in (32 * MiB, 4 * MiB, 20 * MiB):
            self.resize(size)
            self.assertEqual(
                iotests.run("nbdinfo", "--size", self.daemon.uri).stdout,
                f"{size}\n")
            self.assertIn(f"({size} bytes)", iotests.qemu_img(
                "info", "-f", "raw", self.daemon.uri))
            self.assertEqual(virtual_sizes(self.daemon), {"disk": size})
        iotests.qemu_io(self.daemon.uri, f"read -P 0x5a 0 {4 * MiB}",
                        f"read -P 0 {4 * MiB} {16 * MiB}",
                        f"write -P 7 {20 * MiB - 512} 512")
        self.assertEqual(
            [(row["start"], row["length"], row["zero"])
             for row in iotests.qemu_img_map("-f", "raw", self.daemon.uri)],
            [(0, 4 * MiB, False),
             (4 * MiB, 16 * MiB - 4 * KiB, True),
             (20 * MiB - 4 * KiB, 4 * KiB, False)])

    def test_under_load(self):
        """A client loses nothing of what lies before all ends"""
        kept = 4 * MiB
        stop = threading.Event()
        content = bytearray(b"\x5a" * kept)
        failed = []

        def load():
            chance = random.Random(2)
            try:
                with self.daemon.client() as client:
                    while not stop.is_set():
                        length = chance.randrange(1, 64 * KiB)
                        offset = chance.randrange(kept - length)
                        data = chance.randbytes(length)
                        client.pwrite(offset, data)
                        content[offset:offset + length] = data
                        if client.pread(offset, length) != data:
                            raise AssertionError(f"{offset}+{length}")
            except BaseException as error:  # told by the main thread
                failed.append(error)

        thread = threading.Thread(target=load)
        thread.start()
        chance = random.Random(1)
        size = SIZE
        for _ in range(60):
            cut, size = size, chance.randrange(kept, SIZE)
            self.resize(size)
            with self.daemon.client() as client:
                self.assertEqual(client.size, size)
                if size > cut:
                    self.assertEqual(client.pread(cut, size - cut),
                                     bytes(size - cut))
                for extent in client.map():
                    if extent.flags & nbd.STATE_ZERO and extent.offset >= kept:
                        self.assertEqual(
                            client.pread(extent.offset, extent.length),
                            bytes(extent.length))
                client.pwrite(size - 1000, b"x" * 1000)
        stop.set()
        thread.join()
        self.assertEqual(failed, [])
        with self.daemon.client() as client:
            self.assertEqual(client.pread(0, kept), content)
            self.check_map(client)

    def test_load_at_the_end(self):
        """Clients write, zero and discard where the end moves"""
        stop = threading.Event()
        failed, done = [], []

        def load(client, seed):
            chance = random.Random(seed)
            try:
                with client:
                    while not stop.is_set():
                        length = chance.randrange(1, 32 * KiB)
                        offset = chance.randrange(SIZE - length)
                        request = chance.choice((
                            lambda: client.pwrite(offset, b"y" * length),
                            lambda: client.write_zeroes(offset, length),
                            lambda: client.trim(offset, length),
                            lambda: client.block_status(offset, length)))
                        try:
                            request()
                            done.append(1)
                        except OSError as error:
                            if error.errno not in (errno.EIO, errno.ENOSPC):
                                raise
            except BaseException as error:  # told by the main thread
                failed.append(error)

        threads = [threading.Thread(target=load,
                                    args=(self.daemon.client(), seed))
                   for seed in range(3)]
        for thread in threads:
            thread.start()
        chance = random.Random(3)
        for _ in range(100):
            size = chance.randrange(SIZE)
            self.resize(size)
            self.assertEqual(os.stat(self.image).st_size, size)
        self.resize(SIZE)
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failed, [])
        self.assertGreater(len(done), 0)
        with self.daemon.client() as client:
            self.check_map(client)

    def test_map(self):
        """Who asks for the map sees the disk end here or there"""
        ends = SIZE - 64 * KiB, SIZE
        self.daemon.stop()
        disk.alternating(self.image, SIZE)
        self.daemon = disk.DiskDaemon(
            self.image, self.options,
            extra=iotests.second_monitor(path("second")))
        second = iotests.connect_monitor(path("second"))
        stop = threading.Event()

        def resize():
            while not stop.is_set():
                for end in ends:
                    second.cmd("block_resize", node_name="disk", size=end)
                    second.events.clear()

        thread = threading.Thread(target=resize)
        thread.start()
        try:
            for _ in range(300):
                self.daemon.cmd("block-status-cache-flush", node_name="disk")
                last = self.daemon.map()[-1]
                self.assertIn(last["start"] + last["length"], ends)
        finally:
            stop.set()
            thread.join()
            second.close()

    def test_chain(self):
        """Through throttle and raw, with the file below exported, too"""
        self.daemon.cmd("blockdev-add", {"driver": "raw", "node-name": "raw",
                                         "file": "disk", "offset": MiB})
        self.daemon.cmd("object-add", {"qom-type": "throttle-group",
                                       "id": "group"})
        self.daemon.cmd("blockdev-add", {
            "driver": "throttle", "node-name": "slow", "file": "raw",
            "throttle-group": "group"})
        self.daemon.cmd("block-export-add", {
            "type": "nbd", "id": "slow", "node-name": "slow",
            "writable": True})
        for name in ("raw", "slow"):
            self.resize(2 * MiB, name)
            self.assertEqual(virtual_sizes(self.daemon),
                             {"disk": 3 * MiB, "raw": 2 * MiB,
                              "slow": 2 * MiB})
            self.resize(MiB - 1)
            self.assertEqual(virtual_sizes(self.daemon),
                             {"disk": MiB - 1, "raw": 0, "slow": 0})
        self.resize(SIZE, "slow")
        with nbd.NBD(self.daemon.nbd_path, "slow") as client:
            self.assertEqual(client.size, SIZE)
            self.assertEqual(client.pread(0, SIZE), bytes(SIZE))
        with self.daemon.client() as client:
            self.assertEqual(client.size, SIZE + MiB)
            self.check_map(client)

    def test_mirror(self):
        """Its source and target, and all below, keep their size meanwhile"""
        self.daemon.cmd("blockdev-add", {"driver": "raw", "node-name": "raw",
                                         "file": "disk"})
        self.daemon.cmd("block-export-del", id="export", mode="hard")
        self.daemon.start_mirror(path("copy"), device="raw", job_id="m",
                                 **{"filter-node-name": "filter"})
        self.daemon.wait_ready("m")
        sizes = virtual_sizes(self.daemon)
        for name, who in (("raw", "job 'm'"), ("filter", "job 'm'"),
                          ("disk", "node 'raw'"), ("m-target", "job 'm'")):
            with self.assertRaises(QMPError) as caught:
                self.resize(2 * SIZE, name)
            self.assertIn("permissions 'resize' are both required",
                          caught.exception.desc)
            self.assertIn(f"unshared by {who}", caught.exception.desc)
        self.assertEqual(virtual_sizes(self.daemon), sizes)
        self.assertEqual(os.stat(self.image).st_size, SIZE)
        self.daemon.complete("m")
        self.assertTrue(iotests.identical(self.image, path("copy")))
        self.resize(2 * SIZE, "m-target")
        self.resize(MiB, "raw")
        self.assertEqual(os.stat(path("copy")).st_size, 2 * SIZE)
        self.assertEqual(os.stat(self.image).st_size, MiB)


class WithDirectIO(DisksChangeTheirSize):
    """The same, where the end of the file goes other ways than the rest"""
    options = ",cache.direct=on"


if __name__ == "__main__":
    iotests.main()
