#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""seekless-img and qemu-img say the same of the same images, byte for byte, and
end with the same exit status."""

import os
import re
import struct
import subprocess
import unittest

import disk
import iotests
from iotests import KiB, MiB, path


def command(program, words, folder):
    """Exit status, stdout and stderr, without the program's name"""
    result = subprocess.run(
        [program, *words], cwd=folder, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=iotests.TIMEOUT, check=False)
    return (result.returncode, result.stdout,
            result.stderr.replace("seekless-img", "qemu-img")
            .replace(" lock\nIs", " lock. Is"))  # ours has one line


class Compare(unittest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = path(self.id())
        os.mkdir(self.folder)
        self.addCleanup(iotests.run, "rm", "-rf", self.folder)

    def file(self, name):
        return os.path.join(self.folder, name)

    def img(self, line, status=None):
        """Ours alone: stdout and stderr"""
        words = line.split() if isinstance(line, str) else line
        result = command(iotests.IMG, words, self.folder)
        if status is not None:
            self.assertEqual(result[0], status, f"{line}: {result}")
        return result

    def same(self, line):
        words = line.split() if isinstance(line, str) else line
        with self.subTest(line=line):
            stock = command("qemu-img", words, self.folder)
            self.assertEqual(self.img(words), stock)
            return stock

    def same_status(self, line):
        """Both refuse it; ours says why, and says of what"""
        with self.subTest(line=line):
            status, _, stderr = self.img(line)
            self.assertEqual(
                status, command("qemu-img", line.split(), self.folder)[0])
            self.assertTrue(stderr.startswith("qemu-img: "), stderr)
            return stderr


class CommandLine(Compare):
    def test_usage(self):
        for line in ("", "nosuch", "map", "map a b", "map --nosuch a", "map -f",
                     "map -Z a", "map --output", "info", "check", "create",
                     "check -r nosuch a", "create a 1M 2M", "-Z"):
            self.same(line)

    def test_refused_by_name(self):
        for name in ("convert", "resize", "snapshot"):
            self.assertIn(f"'{name}'", self.img(name, 1)[2])

    def test_help_and_version(self):
        for line in ("--help", "map --help", "create -h", "-h"):
            self.assertIn("Usage: seekless-img", self.img(line, 0)[1])
        self.assertRegex(self.img("--version", 0)[1],
                         r"^seekless-img version \d")

    def test_values(self):
        disk.sparse(self.file("a"), MiB)
        for value in ("x", "-1", "8E", "1.5", "99999999999T", ""):
            for option in ("--start-offset", "--max-length"):
                stderr = self.same_status(f"map {option}={value} a")
                self.assertIn(f"'{value}'", stderr)
        self.assertIn("'x'", self.same_status("create b x"))
        self.assertIn("'xml'", self.same_status("map --output=xml a"))
        self.same("check -T nosuch a")

    def test_full_output(self):
        disk.sparse(self.file("a"), MiB)
        with open("/dev/full", "w", encoding="ascii") as full:
            result = subprocess.run([iotests.IMG, "info", "a"], stdout=full,
                                    stderr=subprocess.DEVNULL,
                                    cwd=self.folder, check=False)
        self.assertEqual(result.returncode, 1)


class Raw(Compare):
    def test_create(self):
        for line in ("create a 10M", "create -f raw a 0", "create -q a 1M",
                     "create a 1.5k", "create a 0x100", "create a 511",
                     "create -o preallocation=falloc a 1M",
                     "create -o preallocation=full a 1M",
                     "create -o size=2M a", "create -o size=2M a 1M",
                     "create a", "create -f nosuch a 1M",
                     "create -o nosuch=1 a 1M", "create -b b a 1M",
                     "create -F raw a 1M", "create /nosuch/a 1M"):
            for name in os.listdir(self.folder):
                os.unlink(self.file(name))
            stock = self.same(line)
            if not stock[0]:
                ours = os.stat(self.file("a"))
                os.unlink(self.file("a"))
                command("qemu-img", line.split(), self.folder)
                theirs = os.stat(self.file("a"))
                self.assertEqual(ours.st_size, theirs.st_size, line)
        self.assertIn("'nosuch'",
                      self.same_status("create -o preallocation=nosuch a 1M"))

    def test_in_use(self):
        """A file that somebody has open for writing is neither made anew nor
        looked at, unless the user insists."""
        disk.written(self.file("a"), MiB)
        with disk.DiskDaemon(self.file("a")) as daemon:
            daemon.cmd("blockdev-add", driver="raw", node_name="raw",
                       file="disk")
            for line in ("info -f raw a", "map -f raw a", "create a 1M",
                         "info a"):
                self.same(line)
            self.same("map -U -f raw --output=json a")
            self.same("info -U -f raw a")
        self.assertTrue(iotests.identical(
            self.file("a"), disk.written(path("other"), MiB)))

    def images(self):
        disk.sparse(self.file("hole"), 3 * MiB)
        disk.sparse(self.file("empty"), 0)
        disk.written(self.file("full"), MiB)
        disk.alternating(self.file("mixed"), 2 * MiB)
        disk.alternating(self.file("head"), 256 * KiB, 4 * KiB, 252 * KiB)
        with open(self.file("odd"), "wb") as file:
            file.seek(MiB)
            file.write(b"x" * 512)
            file.flush()
            os.fsync(file.fileno())
        return ("hole", "empty", "full", "mixed", "head", "odd")

    def test_info(self):
        for name in self.images():
            for options in ("", "-f raw ", "--output=json ", "--backing-chain ",
                            "--backing-chain --output=json ", "-U "):
                self.same(f"info {options}{name}")
        self.same(f"info {self.file('mixed')}")
        self.same("info --image-opts driver=raw,file.driver=file,"
                  "file.filename=mixed")
        self.same("info --image-opts -f raw driver=file,filename=mixed")
        self.same_status("info --image-opts driver=nosuch,file.filename=mixed")

    def test_sizes(self):
        """Three digits, in the unit that needs no more"""
        for size in (512, 1024, 1023 * 512, 1000 * 1024, 1023 * 1024,
                     118 * MiB + 512, 931 << 30, 15 << 40):
            disk.sparse(self.file("a"), size)
            self.same("info -f raw a")

    def test_map(self):
        for name in self.images():
            for options in ("", "--output=json ", "--output human ", "-f raw ",
                            "--start-offset=64k --output=json ",
                            "--start-offset=1000 --max-length=100k ",
                            "-s 1000 -l 100k ",
                            "--start-offset=100M --output=json ",
                            "--max-length=0 --output=json ",
                            "--max-length=70000 --output=json "):
                self.same(f"map {options}{name}")
        self.same("map --output=json --image-opts driver=raw,file.driver=file,"
                  "file.filename=mixed,offset=64k")

    def test_check(self):
        disk.sparse(self.file("a"), MiB)
        for line in ("check a", "check -q a", "check --output=json a",
                     "check -r all -f raw a", "check -T none a"):
            self.assertEqual(self.same(line)[0], 63)

    def test_open_fails(self):
        disk.sparse(self.file("a"), MiB)
        with open(self.file("a"), "r+b") as file:
            file.write(b"QFI\xfb junk")
        for line in ("info nosuch", "map nosuch", "check nosuch",
                     "info -f nosuch a", "info nosuch:a",
                     ["info", ""]):
            self.same(line)
        self.same_status("info .")
        self.same_status("info a")
        self.same_status("check -U -r all -f raw a")

    def test_other_formats(self):
        """What we cannot read is not shown as if it were raw."""
        for name, magic in (("vmdk", b"KDMV"), ("luks", b"LUKS\xba\xbe"),
                            ("vhdx", b"vhdxfile")):
            disk.sparse(self.file(name), MiB)
            with open(self.file(name), "r+b") as file:
                file.write(magic)
            self.assertIn(f"'{name}'", self.img(f"info {name}", 1)[2])
            self.same(f"info -f raw {name}")


class Qcow2(Compare):
    def compare_images(self, line):
        """Both make the same disk of it, which stock finds nothing wrong with"""
        with self.subTest(line=line):
            words = line.split()
            self.same(line)
            shown = command("qemu-img", ["info", "--output=json", "a"],
                            self.folder)[1]
            if self.img("info a")[0] == 0:
                self.assertEqual(command(iotests.IMG, words, self.folder)[0], 0)
                ours = command("qemu-img", ["info", "--output=json", "a"],
                               self.folder)[1]
                self.assertEqual(self.img("check a")[0], 0)
                if "nosuch" not in line:
                    self.assertEqual(self.same("check a")[0], 0)
                size = r'"actual-size": \d+'
                self.assertEqual(re.sub(size, "", ours),
                                 re.sub(size, "", shown))

    def test_create(self):
        iotests.qemu_img("create", "-q", "-f", "qcow2", self.file("base"), "2M")
        disk.sparse(self.file("a,b"), MiB)
        for options in ("a 10M", "-q a 0", "a 1000", "-o cluster_size=4k a 1M",
                        "-o compat=0.10 a 64M", "-o compat=v3 a 64M",
                        "-o preallocation=metadata a 4M",
                        "-o preallocation=falloc,cluster_size=8k a 4M",
                        "-o preallocation=full a 4M",
                        "-o refcount_bits=1 a 1G", "-o refcount_bits=64 a 1M",
                        "-o lazy_refcounts=on a 1M",
                        "-o compression_type=zstd a 1M",
                        "-b base -F qcow2 a", "-b base -F qcow2 a 100M",
                        "-b base -F raw a", "-b a,b -F raw a",
                        "-o backing_file=base,backing_fmt=qcow2 a 1M",
                        "-u -b nosuch -F raw a 1M"):
            self.compare_images(f"create -f qcow2 {options}")

    def test_create_fails(self):
        iotests.qemu_img("create", "-q", "-f", "qcow2", self.file("base"), "2M")
        for options in ("a", "-o cluster_size=100 a 1M",
                        "-o cluster_size=4M a 1M", "-o refcount_bits=3 a 1M",
                        "-o compat=0.10,lazy_refcounts=on a 1M",
                        "-F raw a 1M", "-u -b nosuch -F raw a",
                        "-b nosuch -F raw a 1M"):
            self.same(f"create -f qcow2 {options}")
        for options in ("-o compat=7 a 1M", "-o nosuch=1 a 1M",
                        "-b base -F nosuch a 1M", "-b base a 1M",
                        "-b a -F qcow2 a 1M"):
            self.same_status(f"create -f qcow2 {options}")
        self.same(["create", "-f", "qcow2", "-b", "", "a", "1M"])
        self.assertIn("not supported", self.img(
            "create -f qcow2 -o extended_l2=on a 1M", 1)[2])
        # Nothing is left behind, but what was there before.
        self.img("create -f qcow2 -o cluster_size=100 new 1M", 1)
        self.assertFalse(os.path.lexists(self.file("new")))
        disk.sparse(self.file("old"), MiB)
        self.img("create -f qcow2 -o cluster_size=100 old 1M", 1)
        self.assertTrue(os.path.lexists(self.file("old")))

    def test_in_use(self):
        iotests.qemu_img("create", "-q", "-f", "qcow2", self.file("a"), "2M")
        with iotests.Daemon(
                "--blockdev", f"file,node-name=file,filename={self.file('a')}",
                "--blockdev", "qcow2,node-name=disk,file=file",
                program=iotests.STOCK_DAEMON):
            for line in ("info a", "map a", "check a", "check -r all a",
                         "create -f qcow2 a 1M"):
                self.same(line)
            for line in ("info -U a", "map -U a", "check -U a"):
                self.assertEqual(self.same(line)[0], 0)

    def make(self, name, *commands, base=None, size="5M", options=""):
        """An image that stock has written"""
        words = ["-b", base, "-F", "qcow2"] if base else []
        iotests.run("qemu-img", "create", "-q", "-f", "qcow2", *words,
                    *(["-o", options] if options else []), name, size,
                    cwd=self.folder)
        for text in commands:
            iotests.run("qemu-io", "-f", "qcow2", "-c", text, name,
                        cwd=self.folder)
        return name

    def chain(self):
        self.make("a", "write 0 128k", "write -z 256k 64k", size="3M")
        self.make("b", "write 64k 64k", "write 4M 64k", "write 2M 100k",
                  base="a")
        self.make("c", "write 96k 4k", "write -z 1M 64k", "discard 64k 64k",
                  base="b", size="4M")
        return ("a", "b", "c")

    def test_map(self):
        for name in (*self.chain(), self.make("d", options="cluster_size=512"),
                     self.make("e", "write 0 3000000",
                               options="cluster_size=2M,compat=0.10")):
            for options in ("", "--output=json ", "-f qcow2 --output=json ",
                            "--start-offset=100k --output=json ",
                            "--start-offset=1M --max-length=1M ", "-U "):
                self.same(f"map {options}{name}")

    def test_preallocated(self):
        """Clusters where the file has a hole: data that is zero"""
        self.make("a", options="preallocation=metadata")
        line = "map --output=json a".split()
        stock = command("qemu-img", line, self.folder)[1]
        self.assertIn('"zero": true, "data": true', stock)
        self.same(line)
        self.same("map a")

    def test_compressed(self):
        self.make("a", "write -c 0 64k", "write 64k 64k")
        self.same("map --output=json a")
        self.same("map a")

    def test_info(self):
        for name in (*self.chain(),
                     self.make("d", options="compat=0.10,cluster_size=4k"),
                     self.make("e", options="compression_type=zstd,"
                               "refcount_bits=8,lazy_refcounts=on")):
            for options in ("", "--output=json ", "--backing-chain ",
                            "--backing-chain --output=json "):
                self.same(f"info {options}{name}")
                self.same(f"info {options}{self.file(name)}")

    def test_broken_chain(self):
        self.chain()
        os.unlink(self.file("a"))
        for line in ("info c", "info --backing-chain c"):
            self.same(line)
        self.same_status("map c")
        self.assertEqual(self.img("check c")[0], 0)

    def test_endless_chain(self):
        self.make("a")
        self.make("b", base="a")
        iotests.run("qemu-img", "rebase", "-u", "-b", "b", "-F", "qcow2", "a",
                    cwd=self.folder)
        self.same("info a")
        self.same("info --backing-chain a")
        # Stock opens file after file here, until there is no more memory.
        self.assertIn("infinite loop", self.img("map a", 1)[2])

    def set_refcount(self, name, cluster, value):
        """Of an image with refcounts of 16 bits in one block"""
        with open(self.file(name), "r+b") as file:
            file.seek(48)
            file.seek(struct.unpack(">Q", file.read(8))[0])
            file.seek(struct.unpack(">Q", file.read(8))[0] + 2 * cluster)
            file.write(struct.pack(">H", value))

    def leak(self):
        """An image whose seventh cluster is in no use"""
        self.make("a", "write 0 256k", "discard 128k 64k")
        self.set_refcount("a", 7, 1)

    def test_check(self):
        for name in self.chain():
            for options in ("", "-q ", "--output=json ", "-r all ",
                            "-T none ", "-f qcow2 "):
                self.same(f"check {options}{name}")

    def test_check_leaks(self):
        self.leak()
        for options in ("", "-q ", "--output=json ", "-q --output=json "):
            status, _, stderr = self.same_but_stderr(f"check {options}a")
            self.assertEqual(status, 3)
            self.assertIn("7", stderr)
        for options in ("-r leaks ", "-r all ", "-r leaks --output=json ",
                        "-q -r all "):
            self.leak()
            iotests.run("cp", self.file("a"), self.file("copy"))
            ours = self.img(f"check {options}a")
            iotests.run("cp", self.file("copy"), self.file("a"))
            stock = command("qemu-img", f"check {options}a".split(),
                            self.folder)
            self.assertEqual(ours[:2], stock[:2], options)
            self.assertEqual(ours[0], 0)

    def same_but_stderr(self, line):
        """How problems are told is not the same."""
        stock = command("qemu-img", line.split(), self.folder)
        ours = self.img(line)
        self.assertEqual(ours[:2], stock[:2], line)
        return ours

    def test_check_corrupt(self):
        self.make("a", "write 0 256k")
        self.set_refcount("a", 6, 0)
        for options in ("-q ", "-q --output=json "):
            self.assertEqual(self.same_but_stderr(f"check {options}a")[0], 2)
        status, stdout, _ = self.img("check a")
        self.assertEqual(status, 2)
        self.assertRegex(stdout, r"^\n\d+ errors were found on the image\.\n"
                                 r"Data may be corrupted")
        status, stdout, _ = self.img("check -r all a")
        self.assertEqual(status, 0)
        self.assertRegex(stdout, r"^The following inconsistencies were found "
                                 r"and repaired:\n\n    \d+ leaked clusters\n"
                                 r"    \d+ corruptions\n\nDouble checking")
        self.assertEqual(self.same("check a")[0], 0)

    def set_header_byte(self, name, offset, value):
        with open(self.file(name), "r+b") as file:
            file.seek(offset)
            file.write(bytes([value]))

    def test_check_marked_corrupt(self):
        """That is what it is for: the mark goes when all is well"""
        self.make("a", "write 0 256k")
        self.set_refcount("a", 6, 0)
        self.set_header_byte("a", 79, 0x2)
        info = ["--output=json", self.file("a")]
        self.assertEqual(self.same_but_stderr("check -q a")[0], 2)
        self.assertEqual(self.img("check -q -r all a")[0], 0)
        self.assertEqual(self.same("check a")[0], 0)
        stock = iotests.run("qemu-img", "info", *info).stdout
        self.assertIn('"corrupt": false', stock)

    def test_check_leaves_bitmaps_alone(self):
        """What whoever knows nothing of a feature clears, when it writes"""
        self.make("a", "write 0 256k")
        iotests.run("qemu-img", "bitmap", "--add", self.file("a"), "one")
        for options in ("", "-r leaks ", "-r all "):
            self.assertEqual(self.img(f"check {options}a")[0], 0)
        stock = iotests.run("qemu-img", "info", self.file("a")).stdout
        self.assertIn("name: one", stock)
        self.assertNotIn("in-use", stock)


iotests.main()
