#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The four disks of QEMU's bug 1912224, mirrored, beside stock QEMU.

usage: four_disks.py [EXTENTS [ROUNDS]]    (as root; default: 23000 3)

RAW: a raw file in many extents. QCOW2: the same contents as a qcow2 image, in a
file with as many extents. QCOW2-SML_BF: a qcow2 image over a small raw file,
with most of the data in the image. QCOW2-BIG_BF: all the data in a raw backing
file, as OpenStack makes it. All on a loop-mounted ext4 and opened with O_DIRECT, with
cold caches; each is mirrored twice to a raw file there, which is compared. Prints a
JSON object a mirror: MB/s, the seeks and FIEMAPs of the process, the probes that
the status cache counts; then the medians of the rates and their ratio.
"""

import contextlib
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "iotests"))
import disk  # noqa: E402
import iotests  # noqa: E402
import status_calls  # noqa: E402
from iotests import KiB, MiB, path, run  # noqa: E402

CHUNK = 64 * KiB


def into_extents(image, name):
    """Move an image to a file in as many extents as it has chunks"""
    size = os.stat(image).st_size
    disk.fragmented(name, (size + CHUNK - 1) // CHUNK)
    run("dd", f"if={image}", f"of={name}", "bs=1M", "conv=notrunc,fsync")
    os.unlink(image)


class Disks:
    def __init__(self, folder, extents):
        self.size = extents * CHUNK
        small = self.size // 16 // MiB * MiB
        self.raw = disk.fragmented(os.path.join(folder, "raw"), extents)
        self.files = {"RAW": self.raw}
        scratch = os.path.join(folder, "scratch")
        for name in ("QCOW2", "QCOW2-SML_BF", "QCOW2-BIG_BF"):
            self.files[name] = os.path.join(folder, name)

        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.raw,
            scratch, timeout=300)
        into_extents(scratch, self.files["QCOW2"])

        base = disk.fragmented(os.path.join(folder, "small"), small // CHUNK)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw",
            scratch, self.size)
        block = os.path.join(folder, "block")
        with open(self.raw, "rb") as source, open(block, "wb") as file:
            source.seek(small)
            while data := source.read(MiB):
                file.write(data)
        nbd = path("convert")
        with iotests.Daemon(
                "--blockdev", "driver=qcow2,node-name=disk,file.driver=file,"
                f"file.filename={scratch}", "--blockdev",
                f"driver=raw,node-name=rest,offset={small},file=disk",
                "--nbd-server", f"addr.type=unix,addr.path={nbd}",
                "--export", "nbd,id=export,node-name=rest,writable=on",
                program=iotests.STOCK_DAEMON):
            run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", block,
                f"nbd+unix:///rest?socket={nbd}", timeout=300)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(nbd)
        os.unlink(block)
        into_extents(scratch, self.files["QCOW2-SML_BF"])

        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", self.raw, "-F",
            "raw", self.files["QCOW2-BIG_BF"])

    def blockdev(self, name):
        file = (f"driver=file,filename={self.files[name]},"
                "cache.direct=on,discard=unmap")
        if name == "RAW":
            return file + ",node-name=disk"
        file = ",".join(f"file.{word}" for word in file.split(","))
        # Direct I/O below, too
        return f"driver=qcow2,node-name=disk,cache.direct=on,{file}"


def mirrors(disks, name, daemon, folder):
    """Two mirrors in a row; yields what was seen of each"""
    copy = os.path.join(folder, "copy")
    with iotests.Daemon("--blockdev", disks.blockdev(name),
                        program=daemon) as process:
        for turn in ("first", "second"):
            disk.sparse(copy, disks.size)
            process.cmd("blockdev-add", {
                "driver": "file", "node-name": "target", "filename": copy,
                "discard": "unmap", "cache": {"direct": True}})
            counter = status_calls.counter()(process.pid)
            before = probes(process)
            iotests.drop_caches()
            start = time.monotonic()
            process.cmd("blockdev-mirror", {
                "job-id": "mirror", "device": "disk", "target": "target",
                "sync": "full"})
            process.qmp.wait_event("BLOCK_JOB_READY", device="mirror")
            seconds = time.monotonic() - start
            calls = counter.stop()
            process.cmd("block-job-cancel", device="mirror")
            process.qmp.wait_job("mirror", "null")
            process.cmd("blockdev-del", node_name="target")
            same = run("qemu-img", "compare", "-F", "raw", "-f",
                       "raw" if name == "RAW" else "qcow2", "-U",
                       disks.files[name], copy, status=None, timeout=300)
            os.unlink(copy)
            yield {"disk": name, "mirror": turn,
                   "mb_per_s": round(disks.size / seconds / 1e6, 1),
                   "lseeks": sum(c.kind != "FIEMAP" for c in calls),
                   "fiemaps": sum(c.kind == "FIEMAP" for c in calls),
                   "probes": {node: count - before.get(node, 0)
                              for node, count in probes(process).items()},
                   "identical": same.returncode == 0}


def probes(process):
    """By node; nothing of a daemon that has no status cache"""
    try:
        answer = process.cmd("query-block-status-cache")
    except iotests.QMPError:
        return {}
    return {stats["node-name"]: stats["probes"] for stats in answer
            if not stats["node-name"].startswith("target")}


def main():
    extents, rounds = (int(word) for word in
                       (sys.argv[1:] + ["23000", "3"][len(sys.argv) - 1:]))
    daemons = {"ours": iotests.DAEMON, "stock": iotests.STOCK_DAEMON}
    with iotests.file_system("ext4", 8 * extents * CHUNK) as folder:
        disks = Disks(folder, extents)
        for name in disks.files:
            rates = {daemon: [] for daemon in daemons}
            for _ in range(rounds):
                for daemon, program in daemons.items():
                    for seen in mirrors(disks, name, program, folder):
                        print(json.dumps({"daemon": daemon, **seen}),
                              flush=True)
                        rates[daemon].append(seen["mb_per_s"])
            ours, stock = (statistics.median(seen) for seen in rates.values())
            print(f"{name}: {ours:.0f} MB/s, stock {stock:.0f} MB/s, "
                  f"ratio {ours / stock:.2f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    finally:
        iotests.scratch.remove()
