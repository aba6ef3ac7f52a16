# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks to mirror and to back up, made once on one file system.

    written       full of data, in many extents
    preallocated  the same, allocated but never written
    alternating   64 KiB of data and 64 KiB of nothing in turns
    qcow2, small backing file, big backing file
                  with RAW, which is `written`, the disks of QEMU's bug 1912224:
                  the same contents as an image, in a file with as many
                  extents; an image over a small raw file, with most of the
                  data in the image; all the data in a raw backing file, as
                  OpenStack makes it
"""

import contextlib
import os

import disk
import iotests
from iotests import KiB, MiB, path, run

CHUNK = 64 * KiB
WRITTEN, PREALLOCATED, ALTERNATING = "written", "preallocated", "alternating"
QCOW2, SMALL_BACKING, BIG_BACKING = \
    "qcow2", "qcow2 over a small file", "qcow2 over a big file"


class Disk:
    """A disk in a file, raw or qcow2. size: of its contents, bytes; extents:
    how many there are of what a job has to ask about"""

    def __init__(self, name, filename, size, extents, kind="raw"):
        self.name, self.filename, self.size = name, filename, size
        self.extents, self.kind = extents, kind

    def blockdev(self, direct):
        """For --blockdev, as the node `disk`"""
        cache = ",cache.direct=on" if direct else ""
        file = f"driver=file,filename={self.filename},discard=unmap{cache}"
        if self.kind == "raw":
            return file + ",node-name=disk"
        file = ",".join(f"file.{word}" for word in file.split(","))
        # For what is below, too
        return f"driver=qcow2,node-name=disk{cache},{file}"

    def same_as(self, copy):
        """Whether the raw file @copy has the same contents"""
        return run("qemu-img", "compare", "-U", "-f", self.kind, "-F", "raw",
                   self.filename, copy, status=None,
                   timeout=300).returncode == 0


def _into_extents(image, name):
    """Move an image to a file in as many extents as it has chunks"""
    size = os.stat(image).st_size
    disk.fragmented(name, (size + CHUNK - 1) // CHUNK)
    run("dd", f"if={image}", f"of={name}", "bs=1M", "conv=notrunc,fsync")
    os.unlink(image)
    return name


def _small_backing(folder, raw, size):
    """An image over a small file; all behind that is in the image"""
    small = size // 16 // MiB * MiB
    scratch, block = (os.path.join(folder, name) for name in ("scratch", "block"))
    base = disk.fragmented(os.path.join(folder, "small"), small // CHUNK)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw",
        scratch, size)
    with open(raw, "rb") as source, open(block, "wb") as file:
        source.seek(small)
        while data := source.read(MiB):
            file.write(data)
    socket = path("convert")
    with iotests.Daemon(
            "--blockdev", "driver=qcow2,node-name=disk,file.driver=file,"
            f"file.filename={scratch}", "--blockdev",
            f"driver=raw,node-name=rest,offset={small},file=disk",
            "--nbd-server", f"addr.type=unix,addr.path={socket}",
            "--export", "nbd,id=export,node-name=rest,writable=on",
            program=iotests.STOCK_DAEMON):
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", block,
            f"nbd+unix:///rest?socket={socket}", timeout=300)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket)
    os.unlink(block)
    return scratch


def make_raw(folder, extents):
    """{name: disk} of the raw ones"""
    size = extents * CHUNK

    def name(kind):
        return os.path.join(folder, kind)

    return {kind: Disk(kind, filename, size, count)
            for kind, filename, count in (
                (WRITTEN, disk.fragmented(name(WRITTEN), extents), extents),
                (PREALLOCATED, disk.fragmented(
                    name(PREALLOCATED), extents, preallocated=True), extents),
                (ALTERNATING, disk.alternating(name(ALTERNATING), size),
                 extents // 2))}


def make_qcow2(folder, raw):
    """{name: disk} of the images, with the contents of the raw disk @raw"""
    scratch, image = (os.path.join(folder, name) for name in ("scratch", "q"))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw.filename,
        scratch, timeout=300)
    files = {QCOW2: _into_extents(scratch, image)}
    scratch = _small_backing(folder, raw.filename, raw.size)
    files[SMALL_BACKING] = _into_extents(scratch, image + "-small")
    files[BIG_BACKING] = image + "-big"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", raw.filename, "-F",
        "raw", files[BIG_BACKING])
    return {name: Disk(name, filename, raw.size, raw.extents, "qcow2")
            for name, filename in files.items()}
