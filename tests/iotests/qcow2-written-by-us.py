#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What we write to qcow2 images stock programs find right: data, tables, zeroes,
snapshots; also after the daemon was killed in the midst of it.

    SEEKLESS_KILLS  how often it is killed (default: 3)
"""

import os
import random
import subprocess
import threading
import unittest

import iotests
import nbd
from iotests import KiB, MiB, path, qemu_img, run

SIZE = 24 * MiB
BLOCK = 4 * KiB

IMAGES = {
    "v3": [],
    "v2": ["-o", "compat=0.10"],
    "small clusters": ["-o", "cluster_size=512"],
    "large clusters": ["-o", "cluster_size=2M"],
    "1 bit": ["-o", "refcount_bits=1"],
    "metadata": ["-o", "preallocation=metadata"],
}


class ImageDaemon(iotests.Daemon):
    """A daemon with a qcow2 image, and an export "disk" of it"""

    def __init__(self, image, **more):
        self.nbd_path = iotests.path(f"nbd{self.count()}")
        self.uri = f"nbd+unix:///disk?socket={self.nbd_path}"
        super().__init__(
            "--blockdev", "driver=qcow2,node-name=disk,discard=unmap,"
            f"file.driver=file,file.filename={image},file.discard=unmap",
            "--nbd-server", f"addr.type=unix,addr.path={self.nbd_path}",
            "--export", "nbd,id=export,node-name=disk,name=disk,writable=on",
            **more)

    def client(self):
        return nbd.NBD(self.nbd_path, "disk")


def check(image, leaks=False):
    """Stock finds no errors; leaks only where they are allowed."""
    result = run("qemu-img", "check", "-f", "qcow2", image, status=None)
    if result.returncode not in ((0, 3) if leaks else (0,)):
        raise AssertionError(f"{result.returncode}: {result.stdout}"
                             f"{result.stderr}")


def change(client, disk, rand):
    """One request of any kind and alignment, to the model @disk as well"""
    length = rand.choice((1, 511, 512, BLOCK, 64 * KiB, 100 * KiB, MiB))
    offset = rand.randrange(SIZE - length)
    if rand.random() < 0.7:
        offset -= offset % BLOCK
    kind = rand.random()
    if kind < 0.65:
        data = rand.randbytes(min(length, 64)) * (length // 64 + 1)
        client.pwrite(offset, data[:length])
        disk[offset:offset + length] = data[:length]
    elif kind < 0.85:
        flags = rand.choice((0, nbd.CMD_FLAG_NO_HOLE))
        client.write_zeroes(offset, length, flags)
        disk[offset:offset + length] = bytes(length)
    elif kind < 0.95:
        if client.pread(offset, length) != disk[offset:offset + length]:
            raise AssertionError(f"read {length} at {offset}")
    else:
        client.flush()


def write_raw(name, disk):
    with open(name, "wb") as file:
        file.write(disk)
    return name


class QcowWrittenByUs(unittest.TestCase):

    def compare(self, image, disk):
        check(image)
        raw = write_raw(path("raw"), disk)
        qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, image)

    def test_any_requests(self):
        for number, (name, options) in enumerate(IMAGES.items()):
            with self.subTest(name):
                image = path(f"image{number}")
                qemu_img("create", "-f", "qcow2", *options, image, SIZE)
                rand, disk = random.Random(number), bytearray(SIZE)
                with ImageDaemon(image) as daemon:
                    with daemon.client() as client:
                        for _ in range(250):
                            change(client, disk, rand)
                self.compare(image, disk)
                os.unlink(image)

    def make_source(self):
        """A disk in a compressed image, and what it holds"""
        rand, disk = random.Random(1), bytearray(SIZE)
        for _ in range(60):
            offset = rand.randrange(SIZE - 100 * KiB)
            disk[offset:offset + 90 * KiB] = rand.randbytes(KiB) * 90
        raw, image = write_raw(path("source"), disk), path("image")
        qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, image)
        return image, raw, disk

    def test_compressed_and_snapshot(self):
        image, raw, disk = self.make_source()
        for name in ("one", "two"):
            qemu_img("snapshot", "-c", name, image)
            rand = random.Random(name)
            with ImageDaemon(image) as daemon:
                with daemon.client() as client:
                    for _ in range(100):
                        change(client, disk, rand)
            self.compare(image, disk)
        copy = path("copy")
        qemu_img("convert", "-l", "snapshot.name=one", "-f", "qcow2", "-O",
                 "raw", image, copy)
        self.assertTrue(iotests.identical(raw, copy))

    def test_preallocated_zeroes(self):
        """What has a place but was never written is zero, and no hole."""
        image = path("image")
        qemu_img("create", "-f", "qcow2", "-o", "preallocation=metadata",
                 image, SIZE)
        with ImageDaemon(image) as daemon:
            with daemon.client() as client:
                client.pwrite(MiB, bytes(range(256)) * 256)
            seen = [(extent["offset"], extent["length"], extent["type"])
                    for extent in iotests.nbdinfo_map(daemon.uri)]
        after = MiB + 64 * KiB
        self.assertEqual(seen, [(0, MiB, 2), (MiB, 64 * KiB, 0),
                                (after, SIZE - after, 2)])

    def test_overlay(self):
        base, _, disk = self.make_source()
        image = path("overlay")
        qemu_img("create", "-f", "qcow2", "-b", base, "-F", "qcow2", image)
        rand = random.Random(3)
        with ImageDaemon(image) as daemon:
            with daemon.client() as client:
                for _ in range(250):
                    change(client, disk, rand)
        self.compare(image, disk)

    def test_clients_side_by_side(self):
        """Stock clients that write, over each other in part, at once"""
        image, raw = path("image"), path("source")
        qemu_img("create", "-f", "qcow2", image, SIZE)
        write_raw(raw, random.Random(4).randbytes(SIZE))
        with ImageDaemon(image) as daemon:
            verify = subprocess.Popen(
                ["fio", "--name=job", "--ioengine=nbd", f"--uri={daemon.uri}",
                 "--rw=randwrite", "--bsrange=512-64k",
                 "--size=8M", "--iodepth=16", "--verify=crc32c",
                 "--verify_state_save=0", "--randrepeat=1"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                cwd=iotests.scratch.path)
            writers = [subprocess.Popen(
                ["qemu-io", "-f", "raw", "-c", f"aio_write -P {i + 1} 8M 1000k",
                 "-c", f"aio_write -P {i + 1} {8 * MiB + 300 * KiB} 3M",
                 "-c", f"aio_write -z -u {8 * MiB + i * 77 * KiB} 70k",
                 "-c", "aio_flush", daemon.uri], stdout=subprocess.PIPE)
                for i in range(3)]
            for writer in writers:
                writer.communicate(timeout=iotests.TIMEOUT)
                self.assertEqual(writer.returncode, 0)
            output, _ = verify.communicate(timeout=240)
            self.assertEqual(verify.returncode, 0, output)
            with daemon.client() as client:
                seen = {bytes([byte]) for byte in
                        set(client.pread(8 * MiB, 3 * MiB))}
                self.assertLessEqual(seen, {b"\0", b"\1", b"\2", b"\3"})
            run("nbdcopy", "--connections=4", "--requests=16", raw, daemon.uri)
        check(image)
        qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, image)

    def test_killed(self):
        for turn in range(int(os.environ.get("SEEKLESS_KILLS", "3"))):
            with self.subTest(turn=turn):
                self.kill_once(turn, list(IMAGES.values())[turn % 4])

    def kill_once(self, turn, options):
        """Four writers, each to every fourth block; what a flush had seen is there
        when the daemon was killed, or something newer."""
        image, raw = path("image"), path("left")
        qemu_img("create", "-f", "qcow2", *options, image, SIZE)
        blocks = SIZE // BLOCK
        written, flushed = [0] * blocks, [0] * blocks
        enough = threading.Event()
        daemon = ImageDaemon(image)
        threads = []

        def write(number):
            rand = random.Random(turn * 4 + number)
            done, mine = {}, 0
            try:
                with daemon.client() as client:
                    while True:
                        block = rand.randrange(blocks // 4) * 4 + number
                        mine += 1
                        written[block] = mine
                        client.pwrite(block * BLOCK,
                                      mine.to_bytes(8, "big") * (BLOCK // 8))
                        done[block] = mine
                        if mine % 25 == 0:
                            client.flush()
                            for at, value in done.items():
                                flushed[at] = value
                            done.clear()
                        if mine == 300:
                            enough.set()
            except (OSError, EOFError):
                pass  # killed

        with daemon:
            for number in range(4):
                threads.append(threading.Thread(target=write, args=(number,)))
                threads[-1].start()
            self.assertTrue(enough.wait(iotests.TIMEOUT))
            daemon.kill()
            os.unlink(daemon.nbd_path)
            for thread in threads:
                thread.join()
        check(image, leaks=True)
        qemu_img("convert", "-f", "qcow2", "-O", "raw", image, raw)
        with open(raw, "rb") as file:
            for block in range(blocks):
                data = file.read(BLOCK)
                value = int.from_bytes(data[:8], "big")
                self.assertEqual(data, data[:8] * (BLOCK // 8))
                self.assertLessEqual(flushed[block], value)
                self.assertLessEqual(value, written[block])


if __name__ == "__main__":
    iotests.main()
