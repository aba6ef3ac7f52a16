#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""qcow2 images that stock programs made open, and are what stock says they are;
what is written to them, and images that we make, stock finds right."""

import json
import os
import shutil
import unittest

import iotests
import nbd
from iotests import KiB, MiB, GiB, QMPError, path, qemu_img

SIZE = 10 * MiB + 3 * 512

# Options of qemu-img convert
IMAGES = {
    "v3": [],
    "v2": ["-o", "compat=0.10"],
    "small clusters": ["-o", "cluster_size=512"],
    "large clusters": ["-o", "cluster_size=2M"],
    "1 bit": ["-o", "refcount_bits=1"],
    "2 bits": ["-o", "refcount_bits=2"],
    "4 bits": ["-o", "refcount_bits=4"],
    "8 bits": ["-o", "refcount_bits=8"],
    "32 bits": ["-o", "refcount_bits=32"],
    "64 bits": ["-o", "refcount_bits=64,cluster_size=512"],
    "lazy": ["-o", "lazy_refcounts=on"],
    "zlib": ["-c"],
    "zlib, v2": ["-c", "-o", "compat=0.10"],
    "zlib, small": ["-c", "-o", "cluster_size=512"],
    "zlib, large": ["-c", "-o", "cluster_size=2M"],
    "zstd": ["-c", "-o", "compression_type=zstd"],
    "zstd, large": ["-c", "-o", "compression_type=zstd,cluster_size=2M"],
    "metadata": ["-o", "preallocation=metadata"],
    "falloc": ["-o", "preallocation=falloc"],
    "full": ["-o", "preallocation=full"],
}

WRITES = ["write -P 7 1M 300k", "write -P 8 3333333 1", "write -z 5M 100k",
          "write -P 9 8M 1234567", "discard 2M 2M", "write -z 9999999 100001",
          f"write -P 3 {SIZE - 512} 512", "flush"]


def qemu_io(image, *commands, kind="qcow2"):
    words = [word for command in commands for word in ("-c", command)]
    out = iotests.run("qemu-io", "-f", kind, *words, image).stdout
    if "failed" in out:
        raise AssertionError(out)


def make_source():
    name = path("source")
    with open(name, "wb") as file:
        file.truncate(SIZE)
        for i in range(40):
            file.seek(i * i * 6421)
            file.write((b"%d " % i) * (i * 400 % 9000))
    return name


def info(image):
    """What stock says of an image, without what depends on the file"""
    said = json.loads(qemu_img("info", "--output=json", image))
    for name in "filename", "actual-size":
        del said[name]
    return said


class Qcow2Daemon(iotests.Daemon):
    """The image is the node and the export `disk`"""

    def __init__(self, image=None, read_only=False, **options):
        self.nbd_path = path(f"nbd{self.count()}")
        self.uri = f"nbd+unix:///disk?socket={self.nbd_path}"
        super().__init__("--nbd-server",
                         f"addr.type=unix,addr.path={self.nbd_path}")
        if image:
            self.add(image, read_only, **options)
            self.cmd("block-export-add", {
                "type": "nbd", "id": "export", "node-name": "disk",
                "writable": not read_only})

    def add(self, image, read_only=False, name="disk", **options):
        self.cmd("blockdev-add", {
            "driver": "qcow2", "node-name": name, "read-only": read_only,
            "discard": "unmap", **options,
            "file": {"driver": "file", "filename": image}})

    def refusal(self, image, read_only=True, **options):
        try:
            self.add(image, read_only, "refused", **options)
        except QMPError as error:
            return str(error)
        raise AssertionError(f"{image} was opened")

    def client(self):
        return nbd.NBD(self.nbd_path, "disk")

    def image(self, name="disk"):
        for node in self.cmd("query-named-block-nodes"):
            if node["node-name"] == name:
                return node["image"]
        raise AssertionError(name)

    def create(self, filename, **options):
        with open(filename, "wb"):
            pass
        self.cmd("blockdev-create", {"job-id": "create", "options": {
            "driver": "qcow2", "file": {"driver": "file",
                                        "filename": filename},
            **{key.replace("_", "-"): value
               for key, value in options.items()}}})
        self.qmp.wait_job("create", "concluded")
        (job,) = self.cmd("query-jobs")
        self.cmd("job-dismiss", id="create")
        return job.get("error")


class Case(unittest.TestCase):
    def setUp(self):
        self.image = path("image.qcow2")

    def tearDown(self):
        for name in os.listdir(path()):
            if name.endswith((".qcow2", ".raw")):
                os.unlink(path(name))

    def assert_same(self, one, one_format, other, other_format):
        qemu_img("compare", "-f", one_format, "-F", other_format, one, other)

    def check(self, image):
        qemu_img("check", "-q", image)  # exit status 0: not even leaks


class Opened(Case):
    def setUp(self):
        super().setUp()
        self.source = make_source()

    def each(self):
        for name, options in IMAGES.items():
            with self.subTest(name):
                qemu_img("convert", "-f", "raw", "-O", "qcow2", *options,
                         self.source, self.image)
                yield

    def assert_info(self, ours):
        """All that stock says, with its values"""
        for name, value in info(self.image).items():
            self.assertEqual(ours.get(name), value, name)

    def test_contents(self):
        for _ in self.each():
            with Qcow2Daemon(self.image, read_only=True) as daemon:
                self.assert_same(self.source, "raw", daemon.uri, "raw")
                self.assert_info(daemon.image())

    def test_writes(self):
        """The same commands to ours and to stock's have the same effect"""
        other = path("other.qcow2")
        for _ in self.each():
            shutil.copyfile(self.image, other)
            with Qcow2Daemon(self.image) as daemon:
                qemu_io(daemon.uri, *WRITES, kind="raw")
                qemu_io(other, *WRITES)
                self.assert_same(other, "qcow2", daemon.uri, "raw")
            self.assert_same(other, "qcow2", self.image, "qcow2")
            self.check(self.image)

    def test_snapshots(self):
        """What a snapshot has is not written to"""
        for options in [], ["-o", "compat=0.10"], ["-o", "refcount_bits=2"]:
            with self.subTest(options):
                qemu_img("convert", "-f", "raw", "-O", "qcow2", *options,
                         self.source, self.image)
                qemu_img("snapshot", "-c", "before", self.image)
                with Qcow2Daemon(self.image) as daemon:
                    qemu_io(daemon.uri, *WRITES, kind="raw")
                self.check(self.image)
                qemu_img("convert", "-l", "before", "-O", "raw", self.image,
                         path("before.raw"))
                self.assertTrue(iotests.identical(self.source,
                                                  path("before.raw")))

    def test_tables_without_data(self):
        """Stock may write tables before data: where the machine stopped between,
        clusters lie behind the end of the file, and are written to all the same"""
        cluster = 64 * KiB
        commands = ("write -P 2 %d 512", "write -z %d 512", "write -z %d 64k",
                    "write -P 2 %d 64k", "discard %d 64k")
        for command in commands:
            with self.subTest(command):
                qemu_img("create", "-q", "-f", "qcow2", self.image, MiB)
                qemu_io(self.image, f"write -P 1 0 {4 * cluster}")
                os.truncate(self.image,
                            os.path.getsize(self.image) - 2 * cluster)
                with Qcow2Daemon(self.image) as daemon:
                    # In two clusters that are there, and two that are not
                    for i in (1, 2, 3):
                        qemu_io(daemon.uri, command % (i * cluster), "flush",
                                f"write -P 3 {i * cluster + KiB} 512",
                                kind="raw")
                    qemu_io(daemon.uri, f"write -P 4 {cluster + 2 * KiB} 128k",
                            kind="raw")
                    self.assertFalse(
                        daemon.image()["format-specific"]["data"]["corrupt"])
                self.check(self.image)
                qemu_io(self.image, f"read -P 1 0 {cluster}",
                        f"read -P 3 {cluster + KiB} 512",
                        f"read -P 4 {cluster + 2 * KiB} 128k",
                        "read -P %d %d 8k" % (2 * command.endswith("64k") *
                                              command.startswith("write -P"),
                                              3 * cluster + 2 * KiB))

    def test_backing(self):
        base, other = path("base.raw"), path("other.qcow2")
        shutil.copyfile(self.source, base)
        for size, options in ((SIZE, []), (SIZE + MiB, []), (5 * MiB, []),
                              (SIZE, ["-o", "cluster_size=512"]),
                              (SIZE, ["-o", "compat=0.10"])):
            with self.subTest(size=size, options=options):
                # By a name that is relative to the image
                qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F",
                         "raw", *options, self.image, size)
                shutil.copyfile(self.image, other)
                writes = [w for w in WRITES if size == SIZE or
                          w.endswith("300k") or w.startswith("discard")]
                with Qcow2Daemon(self.image) as daemon:
                    self.assert_same(other, "qcow2", daemon.uri, "raw")
                    self.assertEqual(
                        daemon.image()["backing-filename"], "base.raw")
                    qemu_io(daemon.uri, *writes, kind="raw")
                    qemu_io(other, *writes)
                    self.assert_same(other, "qcow2", daemon.uri, "raw")
                self.assert_same(other, "qcow2", self.image, "qcow2")
                self.check(self.image)
        self.assertTrue(iotests.identical(self.source, base))

    def test_cache_sizes(self):
        """Tables that do not fit into the caches"""
        qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o",
                 "cluster_size=512", self.source, self.image)
        with Qcow2Daemon(self.image, **{"cache-size": 3 * KiB}) as daemon:
            qemu_io(daemon.uri, *WRITES, kind="raw")
            for sizes, text in (
                    ({"cache-size": KiB, "l2-cache-size": MiB},
                     "l2-cache-size may not exceed cache-size"),
                    ({"cache-size": KiB, "refcount-cache-size": MiB},
                     "refcount-cache-size may not exceed cache-size"),
                    ({"cache-size": KiB, "l2-cache-size": 512,
                      "refcount-cache-size": 512},
                     "may not be set at the same time"),
                    ({"refcount-cache-size": 1 << 62}, "cache size too big"),
                    ({"lazy-refcounts": True}, "must be false")):
                with self.subTest(sizes):
                    qemu_img("create", "-q", "-f", "qcow2", "-o",
                             "cluster_size=512", path("small.qcow2"), "1M")
                    self.assertIn(text, daemon.refusal(path("small.qcow2"),
                                                       **sizes))
        self.check(self.image)

    def test_reopen(self):
        """Read-only and back, with other caches, loses nothing"""
        qemu_img("convert", "-f", "raw", "-O", "qcow2", self.source,
                 self.image)
        with Qcow2Daemon(self.image) as daemon:
            for read_only in True, False, False:
                qemu_io(daemon.uri, "write -P 5 64k 64k", kind="raw")
                daemon.cmd("block-export-del", id="export", mode="hard")
                daemon.qmp.wait_event("BLOCK_EXPORT_DELETED")
                daemon.cmd("blockdev-reopen", {"options": [{
                    "driver": "qcow2", "node-name": "disk",
                    "read-only": read_only, "l2-cache-size": 256 * KiB,
                    "file": {"driver": "file", "filename": self.image}}]})
                if read_only:
                    # What was written is there for others, too.
                    qemu_img("check", "-q", self.image)
                    daemon.cmd("blockdev-reopen", {"options": [{
                        "driver": "qcow2", "node-name": "disk",
                        "file": {"driver": "file",
                                 "filename": self.image}}]})
                daemon.cmd("block-export-add", {
                    "type": "nbd", "id": "export", "node-name": "disk",
                    "writable": True})
            self.assertEqual(daemon.client().pread(64 * KiB, 1), b"\5")
        self.check(self.image)


class Refused(Case):
    def change(self, offset, data):
        with open(self.image, "r+b") as file:
            file.seek(offset)
            file.write(data)

    def test_features(self):
        """By the name of what is not supported"""
        with Qcow2Daemon() as daemon:
            qemu_img("create", "-q", "-f", "qcow2", "-o", "extended_l2=on",
                     self.image, "1M")
            self.assertIn("Unsupported qcow2 feature(s): extended L2 entries",
                          daemon.refusal(self.image))
            qemu_img("create", "-q", "-f", "qcow2", "-o",
                     f"data_file={path('data.raw')}", self.image, "1M")
            self.assertIn("Unsupported qcow2 feature(s): external data file",
                          daemon.refusal(self.image))
            qemu_img("create", "-q", "-f", "qcow2", self.image, "1M")
            self.change(35, b"\1")
            self.assertIn("(AES)", daemon.refusal(self.image))
            self.change(35, b"\2")
            self.assertIn("(LUKS)", daemon.refusal(self.image))
            with open(self.image, "wb") as file:
                file.truncate(70)
            self.assertIn("Image is not in qcow2 format",
                          daemon.refusal(self.image))

    def test_cut_off(self):
        """Files that end before their tables do"""
        qemu_img("create", "-q", "-f", "qcow2", self.image, "1G")
        with Qcow2Daemon() as daemon:
            for length, text in ((3 * 64 * KiB, "Could not read L1 table"),
                                 (64 * KiB, "Could not read"),
                                 (200, "Header extension too large")):
                os.truncate(self.image, length)
                self.assertIn(text, daemon.refusal(self.image))

    def test_dirty(self):
        """Refcounts that were not kept are made right"""
        qemu_img("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on",
                 self.image, "16M")
        iotests.run("qemu-io", "-c", "write -P 5 1M 1M", "-c", "flush", "-c",
                    "abort", self.image, status=None)
        self.assertTrue(info(self.image)["dirty-flag"])
        with Qcow2Daemon(self.image, read_only=True) as daemon:
            self.assertTrue(daemon.image()["dirty-flag"])
        with Qcow2Daemon(self.image) as daemon:
            self.assertFalse(daemon.image()["dirty-flag"])
            qemu_io(daemon.uri, "read -P 5 1M 1M", "write -P 6 2M 1M",
                    kind="raw")
        self.check(self.image)
        self.assertFalse(info(self.image)["dirty-flag"])

    def test_garbage_that_should_be_compressed(self):
        """An error there, and nowhere else"""
        for kind in "zlib", "zstd":
            with self.subTest(kind):
                qemu_img("convert", "-f", "raw", "-O", "qcow2", "-c", "-o",
                         f"compression_type={kind}", make_source(), self.image)
                end = os.path.getsize(self.image)
                self.change(end - 64 * KiB, bytes(range(255, -1, -1)) * 256)
                with Qcow2Daemon(self.image, read_only=True) as daemon:
                    errors = 0
                    with daemon.client() as client:
                        for offset in range(0, SIZE, 64 * KiB):
                            try:
                                client.pread(offset,
                                             min(64 * KiB, SIZE - offset))
                            except OSError:
                                errors += 1
                    self.assertTrue(0 < errors < SIZE // (64 * KiB))

    def test_corruption_is_told(self):
        """A table where none can be: the event, the mark, and no more writes"""
        qemu_img("create", "-q", "-f", "qcow2", self.image, "1M")
        self.change(3 * 64 * KiB, (1 << 63 | 0x12345600).to_bytes(8, "big"))
        daemon = Qcow2Daemon(self.image)
        try:
            with daemon.client() as client:
                with self.assertRaises(OSError):
                    client.pwrite(0, b"x")
            event = daemon.qmp.wait_event("BLOCK_IMAGE_CORRUPTED")["data"]
            self.assertEqual(event["device"], "")
            self.assertEqual(event["node-name"], "disk")
            self.assertTrue(event["fatal"])
            self.assertIn("12345600", event["msg"])
            data = daemon.image()["format-specific"]["data"]
            self.assertTrue(data["corrupt"])
        finally:
            daemon.kill()  # its stderr tells of it
            os.unlink(daemon.nbd_path)
        self.assertTrue(info(self.image)["format-specific"]["data"]["corrupt"])
        with Qcow2Daemon() as daemon:
            self.assertIn("Image is corrupt; cannot be opened read/write",
                          daemon.refusal(self.image, read_only=False))


class Made(Case):
    # Options of blockdev-create, and of qemu-img create
    OPTIONS = (
        ({}, ""),
        ({"version": "v2"}, "compat=0.10"),
        ({"cluster_size": 512}, "cluster_size=512"),
        ({"cluster_size": 2 * MiB}, "cluster_size=2M"),
        ({"refcount_bits": 1}, "refcount_bits=1"),
        ({"refcount_bits": 64, "cluster_size": 512},
         "refcount_bits=64,cluster_size=512"),
        ({"compression_type": "zstd"}, "compression_type=zstd"),
        ({"lazy_refcounts": True}, "lazy_refcounts=on"),
        ({"preallocation": "metadata"}, "preallocation=metadata"),
        # More clusters than the first tables of refcounts are for
        ({"preallocation": "metadata", "refcount_bits": 64,
          "cluster_size": 512},
         "preallocation=metadata,refcount_bits=64,cluster_size=512"),
        ({"preallocation": "falloc"}, "preallocation=falloc"),
        ({"preallocation": "full"}, "preallocation=full"),
        ({"backing_file": "base.raw", "backing_fmt": "raw"},
         "backing_file=base.raw,backing_fmt=raw"),
    )

    def test_as_stock(self):
        stock = path("stock.qcow2")
        with open(path("base.raw"), "wb") as file:
            file.write(b"base" * 1000)
        with Qcow2Daemon() as daemon:
            for mine, theirs in self.OPTIONS:
                with self.subTest(mine):
                    self.assertIsNone(daemon.create(self.image, size=SIZE,
                                                    **mine))
                    self.check(self.image)
                    qemu_img("create", "-q", "-f", "qcow2",
                             *(["-o", theirs] if theirs else []), stock, SIZE)
                    self.assertEqual(info(self.image), info(stock))
                    self.assert_same(self.image, "qcow2", stock, "qcow2")
                    if "falloc" in theirs or "full" in theirs:
                        self.assertGreaterEqual(
                            os.stat(self.image).st_blocks * 512, SIZE)
                    else:
                        self.assertLess(
                            os.stat(self.image).st_blocks * 512, 9 * MiB)
                    with Qcow2Daemon(self.image) as user:
                        qemu_io(user.uri, *WRITES, kind="raw")
                    qemu_io(stock, *WRITES)
                    self.check(self.image)
                    self.assert_same(self.image, "qcow2", stock, "qcow2")

    def test_refused(self):
        """With stock's words"""
        with Qcow2Daemon() as daemon:
            for options, text in (
                    ({"size": 1000},
                     "Image size must be a multiple of 512 bytes"),
                    ({"size": 1 << 50, "cluster_size": 512},
                     "Could not resize image: Failed to grow the L1 table: "
                     "File too large"),
                    ({"size": MiB, "cluster_size": 1000},
                     "Cluster size must be a power of two between 512 and "
                     "2048k"),
                    ({"size": MiB, "cluster_size": 4 * MiB},
                     "Cluster size must be a power of two between 512 and "
                     "2048k"),
                    ({"size": MiB, "refcount_bits": 7},
                     "Refcount width must be a power of two and may not exceed "
                     "64 bits"),
                    ({"size": MiB, "version": "v2", "refcount_bits": 1},
                     "Different refcount widths than 16 bits require "
                     "compatibility level 1.1 or above (use version=v3 or "
                     "greater)"),
                    ({"size": MiB, "version": "v2",
                      "compression_type": "zstd"},
                     "Non-zlib compression type is only supported with "
                     "compatibility level 1.1 and above (use version=v3 or "
                     "greater)"),
                    ({"size": MiB, "backing_fmt": "raw"},
                     "Backing format cannot be used without backing file")):
                with self.subTest(options):
                    self.assertEqual(daemon.create(self.image, **options),
                                     text)
                    self.assertEqual(os.path.getsize(self.image), 0)

    def test_file_in_use(self):
        """An image that somebody has open is not overwritten"""
        qemu_img("create", "-q", "-f", "qcow2", self.image, "1M")
        with Qcow2Daemon(self.image, read_only=True) as daemon:
            node = [n for n in daemon.cmd("query-named-block-nodes")
                    if n["drv"] == "file"][0]["node-name"]
            daemon.cmd("blockdev-create", {"job-id": "create", "options": {
                "driver": "qcow2", "file": node, "size": MiB}})
            daemon.qmp.wait_job("create", "concluded")
            (job,) = daemon.cmd("query-jobs")
            self.assertIn("error", job)
            daemon.cmd("job-dismiss", id="create")
        self.check(self.image)


class Resized(Case):
    def test_grow_and_shrink(self):
        """With L1 tables that grow; what was cut off does not come back"""
        for options in "", "compat=0.10", "cluster_size=512":
            with self.subTest(options):
                qemu_img("create", "-q", "-f", "qcow2",
                         *(["-o", options] if options else []),
                         self.image, 3 * MiB + 512)
                qemu_io(self.image, f"write -P 1 0 {3 * MiB + 512}")
                with Qcow2Daemon(self.image) as daemon:
                    for size in GiB, MiB + 512, 2 * MiB, 2 * GiB:
                        daemon.cmd("block_resize", node_name="disk", size=size)
                    self.assertEqual(daemon.image()["virtual-size"], 2 * GiB)
                    with self.assertRaisesRegex(QMPError,
                                                "must be a multiple of 512"):
                        daemon.cmd("block_resize", node_name="disk", size=1000)
                    qemu_io(daemon.uri, f"read -P 1 0 {MiB + 512}",
                            f"read -P 0 {MiB + 512} 4M",
                            f"write -P 2 {2 * GiB - 512} 512", kind="raw")
                self.check(self.image)
                qemu_io(self.image, f"read -P 1 0 {MiB + 512}",
                        f"read -P 0 {MiB + 512} 4M",
                        f"read -P 2 {2 * GiB - 512} 512")

    def test_longer_backing(self):
        """What is new reads as zeroes, whatever the backing file has there"""
        base = path("base.raw")
        with open(base, "wb") as file:
            file.write(b"b" * 4 * MiB)
        for options in "compat=1.1", "compat=0.10":
            with self.subTest(options):
                qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F",
                         "raw", "-o", options, self.image, MiB + 512)
                with Qcow2Daemon(self.image) as daemon:
                    daemon.cmd("block_resize", node_name="disk", size=8 * MiB)
                    qemu_io(daemon.uri, f"read -P 98 0 {MiB + 512}",
                            f"read -P 0 {MiB + 512} {7 * MiB - 512}",
                            kind="raw")
                self.check(self.image)
                qemu_io(self.image, f"read -P 98 0 {MiB + 512}",
                        f"read -P 0 {MiB + 512} {7 * MiB - 512}")


if __name__ == "__main__":
    iotests.main()
