#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads and writes of qcow2 images over NBD, beside stock QEMU in the same run.

usage: qcow2_io.py [ROUNDS [SECONDS]]    (default: 3 rounds of 5 s a case)

Images made by stock qemu-img: "full" has all its clusters, "fresh" has none,
and "overlay" has none over a raw file that has all. fio asks over one NBD
connection: 4 KiB at random with 16 requests in flight, 1 MiB in order with 8.
The two daemons take turns. Prints a JSON object a case and daemon (IOPS or MB/s,
medians), then their ratios. SEEKLESS_TEST_DIR says where the images lie, and
SEEKLESS_DIRECT=1 opens them with O_DIRECT.
"""

import json
import os
import statistics
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "iotests"))
import disk  # noqa: E402
import iotests  # noqa: E402
from iotests import MiB, path, run  # noqa: E402

SIZE = 1024 * MiB
CACHE = ",cache.direct=on" if os.environ.get("SEEKLESS_DIRECT") else ""

# What fio does, and whether its images are of use afterwards
WORK = {
    "randread": ("randread", "4k", 16, True),
    "randwrite": ("randwrite", "4k", 16, False),
    "read": ("read", "1M", 8, True),
    "write": ("write", "1M", 8, False),
}
CASES = [("full", "randread"), ("full", "randwrite"), ("full", "read"),
         ("full", "write"), ("fresh", "randwrite"), ("fresh", "write"),
         ("overlay", "randread"), ("overlay", "read"),
         ("overlay", "randwrite"), ("overlay", "write")]


class Images:
    def __init__(self):
        self.base = disk.written(path("base"), SIZE)
        self.master = path("master")
        run("qemu-img", "create", "-q", "-f", "qcow2", self.master, SIZE)
        # Not zeroes, which qemu-img would leave out
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", self.base,
            self.master, timeout=300)

    def make(self, kind):
        name = path(kind)
        if os.path.exists(name):
            os.unlink(name)
        if kind == "full":
            run("cp", self.master, name)
        elif kind == "fresh":
            run("qemu-img", "create", "-q", "-f", "qcow2", name, SIZE)
        else:
            run("qemu-img", "create", "-q", "-f", "qcow2", "-b", self.base,
                "-F", "raw", name)
        run("sync", name)
        return name


def measure(daemon, image, work, seconds):
    """IOPS of small requests, MB/s of large ones"""
    rw, size, depth, _ = WORK[work]
    nbd = path("nbd")
    blockdev = (f"driver=qcow2,node-name=disk,discard=unmap,file.driver=file,"
                f"file.filename={image}{CACHE}")
    if CACHE:
        blockdev += ",file.cache.direct=on"
    with iotests.Daemon("--blockdev", blockdev, "--nbd-server",
                        f"addr.type=unix,addr.path={nbd}", "--export",
                        "nbd,id=export,node-name=disk,name=disk,writable=on",
                        program=daemon):
        # What is written in order is written once.
        limit = ([] if work == "write" else
                 ["--time_based", f"--runtime={seconds}"])
        report = path("fio.json")
        run("fio", "--name=x", "--ioengine=nbd",
            f"--uri=nbd+unix:///disk?socket={nbd}", f"--rw={rw}",
            f"--bs={size}", f"--iodepth={depth}", f"--size={SIZE}",
            "--randseed=7", "--end_fsync=1", "--output-format=json",
            f"--output={report}", *limit, timeout=300)
        with open(report, encoding="utf-8") as file:
            text = file.read()
        job = json.loads(text[text.index("{"):])["jobs"][0]
        done = job["read" if "read" in rw else "write"]
        if os.path.exists(nbd):
            os.unlink(nbd)
    if size == "4k":
        return done["iops"]
    return done["bw_bytes"] / 1e6


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    daemons = {"ours": iotests.DAEMON, "stock": iotests.STOCK_DAEMON}
    images = Images()
    ratios = {}
    for kind, work in CASES:
        seen = {name: [] for name in daemons}
        image = images.make(kind)
        for number in range(rounds):
            names = list(daemons)
            for name in names if number % 2 == 0 else reversed(names):
                if not WORK[work][3]:
                    image = images.make(kind)
                seen[name].append(
                    measure(daemons[name], image, work, seconds))
                if not WORK[work][3]:
                    run("qemu-img", "check", "-q", image)
        os.unlink(image)
        medians = {name: statistics.median(done)
                   for name, done in seen.items()}
        unit = "iops" if WORK[work][1] == "4k" else "mb_per_s"
        for name, median in medians.items():
            print(json.dumps({"image": kind, "work": work, "daemon": name,
                              unit: round(median, 1),
                              "least": round(min(seen[name]), 1),
                              "most": round(max(seen[name]), 1)}), flush=True)
        ratios[f"{kind} {work}"] = round(medians["ours"] / medians["stock"], 2)
    print(json.dumps({"ours / stock": ratios}))


if __name__ == "__main__":
    try:
        main()
    finally:
        iotests.scratch.remove()
