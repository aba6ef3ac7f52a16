# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk of a round, what is made on it, and how it is read and looked at
while no daemon has it."""

import contextlib
import json
import os
import random

import iotests
from crash_truth import SECTOR, Wrong, stamped
from iotests import IMG, KiB, MiB, path, qemu_img, run


def read(filename):
    with open(filename, "rb") as file:
        return file.read()


def content(filename, kind):
    """What a guest would see in that image"""
    if kind == "raw":
        return read(filename)
    copy = path("content")
    qemu_img("convert", "-f", kind, "-O", "raw", filename, copy)
    try:
        return read(copy)
    finally:
        os.unlink(copy)


def make_image(filename, kind, size, words=(), backing=None):
    if kind == "raw":
        with open(filename, "wb") as file:
            file.truncate(size)
        return
    options = ["-o", ",".join(words)] if words else []
    if backing:
        options += ["-b", backing[0], "-F", backing[1]]
    qemu_img("create", "-q", "-f", kind, *options, filename, size)


def node(name, filename, kind, driver="file", direct=False, options=(),
         **more):
    """What blockdev-add takes"""
    file = {"driver": driver, "filename": filename, "discard": "unmap",
            "cache": {"direct": direct}, **dict(options)}
    if kind == "raw":
        return {"node-name": name, **file, **more}
    return {"node-name": name, "driver": kind, "discard": "unmap",
            "file": {"node-name": name + "-file", **file}, **more}


class Disk:
    """The disk of @plan in @folder: `image`, in `format`, holds `initial`"""

    def __init__(self, plan, folder):
        self.plan = plan
        self.folder = folder
        self.stack = contextlib.ExitStack()
        self.format = plan.format
        self.random = random.Random(f"disk {plan.seed}/{plan.number}")
        raw = os.path.join(folder, "disk.raw")
        self._fill(raw, plan.layout)
        self.device = None
        self.image = self.file = raw
        self.backing = None
        if self.format == "qcow2":
            self.image = os.path.join(folder, "disk.qcow2")
            base = ()
            if plan.kind == "chain":
                base = self._make_backing(raw)
            self._convert(raw, self.image, plan.image, *base)
            for number in range(plan.bitmaps):
                qemu_img("bitmap", "--add", self.image, f"stored{number}")
            self.file = self.image
        self.initial = content(self.image, self.format)
        if self.format == "qcow2":
            if self.initial != read(raw):
                raise AssertionError("qemu-img convert made another disk")
            os.unlink(raw)

    def _convert(self, raw, image, words, *more):
        compress = ["-c"] if self.plan.compressed else []
        options = ["-o", ",".join(words)] if words else []
        qemu_img("convert", "-f", "raw", "-O", "qcow2", *compress, *options,
                 *more, raw, image)

    def _make_backing(self, raw):
        """What is in @raw becomes the backing file, and that gets more"""
        self.backing = os.path.join(self.folder, "base." + self.plan.backing)
        if self.plan.backing == "raw":
            run("cp", "--sparse=always", raw, self.backing)
        else:
            self._convert(raw, self.backing, ())
        with open(raw, "r+b") as file:
            self._write_pieces(file, 1000)
        return "-B", self.backing, "-F", self.plan.backing

    def _fill(self, filename, layout):
        size = self.plan.size
        with open(filename, "wb") as file:
            file.truncate(size)
            if layout == "preallocated":
                os.posix_fallocate(file.fileno(), 0, size)
            if layout == "written":
                file.write(stamped(0, 0, 0, size // SECTOR))
            elif layout == "fragmented":
                places = list(range(0, size - 16 * KiB, 32 * KiB))
                self.random.shuffle(places)
                for place in places:
                    file.seek(place)
                    file.write(stamped(0, 0, place // SECTOR, 32))
            else:
                self._write_pieces(file, 0)
            file.flush()
            os.fsync(file.fileno())

    def _write_pieces(self, file, number):
        sectors = self.plan.size // SECTOR
        for _ in range(self.random.randrange(4, 20)):
            count = self.random.choice((1, 8, 100, 700))
            first = self.random.randrange(sectors - count)
            first -= first % self.random.choice((1, 8, 128))
            file.seek(first * SECTOR)
            file.write(stamped(0, number, first, count))

    def attach(self):
        """Make the device, if it is to be one"""
        if self.plan.kind == "device":
            self.device = self.stack.enter_context(iotests.loop_device(
                self.file, "--sector-size", str(self.plan.sector)))
            # Its name stays the same when its number does not.
            self.image = path("device")
            os.symlink(self.device, self.image)
            self.stack.callback(os.unlink, self.image)

    def detach(self):
        self.stack.close()

    def node(self):
        driver = "host_device" if self.plan.kind == "device" else "file"
        return node("disk", self.image, self.format, driver, self.plan.direct,
                    self.plan.options)

    def top(self):
        """The name of the exported node"""
        return "top" if self.plan.beside else "disk"

    def words(self, monitor, socket, pidfile):
        """The command line"""
        words = ["--blockdev", json.dumps(self.node())]
        if self.plan.beside:
            words += ["--blockdev", "driver=raw,node-name=top,file=disk,"
                      "discard=unmap"]
        return words + export_words(self.top(), monitor, socket, pidfile)


def export_words(name, monitor, socket, pidfile):
    return ["--nbd-server", f"addr.type=unix,addr.path={socket}",
            "--export", f"nbd,id=export,node-name={name},name=disk,writable=on",
            "--pidfile", pidfile,
            "--chardev", f"socket,id=second,path={monitor},server=on,wait=off",
            "--monitor", "chardev=second"]


def check_image(filename, statistics=None):
    """Stock and we find no corruption, and the same leaks; how many"""
    found = []
    for program in ("qemu-img", IMG):
        result = run(program, "check", "-f", "qcow2", "--output=json",
                     filename, status=None)
        try:
            report = json.loads(result.stdout)
        except ValueError:
            report = {}
        if result.returncode not in (0, 3) or report.get("corruptions") or \
                report.get("check-errors"):
            raise Wrong(f"{program} check {filename}: {result.returncode} "
                        f"{result.stdout}{result.stderr}")
        found.append(report.get("leaks", 0))
    if found[0] != found[1]:
        raise Wrong(f"{filename}: stock finds {found[0]} leaks, we "
                    f"{found[1]}")
    if statistics is not None:
        statistics["images checked"] += 1
        statistics["clusters leaked"] += found[0]
        statistics["images with leaks"] += found[0] > 0
    return found[0]


def repair_image(filename):
    """Leaks can be mended, and then there is nothing left to find

    Refcounts behind the file's end are not looked at, so that what was to be there
    would only be seen as leaked when the file gets there: make it longer.
    """
    os.truncate(filename, os.path.getsize(filename) + 64 * MiB)
    qemu_img("check", "-q", "-f", "qcow2", "-r", "all", filename)
    for program in ("qemu-img", IMG):
        run(program, "check", "-q", "-f", "qcow2", filename)


def stored_bitmaps(filename):
    """Names and flags of the bitmaps in an image, as stock and we see them"""
    both = [json.loads(run(program, "info", "--output=json", "-f", "qcow2",
                           filename).stdout)["format-specific"]["data"]
            for program in ("qemu-img", IMG)]
    rows = [sorted((row["name"], tuple(row["flags"]))
                   for row in info.get("bitmaps", [])) for info in both]
    if rows[0] != rows[1]:
        raise Wrong(f"{filename}: bitmaps {rows[0]} to stock, {rows[1]} to us")
    return dict(rows[0])


def free_of_locks(filename):
    """Stock opens it at once, for itself"""
    run("qemu-io", "-f", "raw", "-c", "read -q 0 512", filename)
