#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps of files in many extents: `nbdinfo --map` of an export, first and second
time, and `seekless-img map` beside `qemu-img map`.

Files on loop-mounted ext4 and XFS: all data; 64 KiB data and 64 KiB hole in turns;
all preallocated. Warm, and cold (a first time with nothing of the file system in
memory). The calls are counted in runs of their own.
"""

import json
import os
import subprocess
import time

import bench  # noqa: I001  (finds the modules below)
import disk
import iotests
import status_calls
from iotests import GiB, KiB, MiB, run

WRITTEN, ALTERNATING, PREALLOCATED = "written", "alternating", "preallocated"
OURS = {"program": iotests.DAEMON}
# One file for both: only ours locks it.
STOCK = {"program": iotests.STOCK_DAEMON, "options": ",locking=off"}
DAEMONS = {"ours": OURS, "stock": STOCK}
MAPS = {"ours": [iotests.IMG, "map"], "qemu-img": ["qemu-img", "map"]}


def make(kind, name, extents):
    """Extents of 64 KiB; those of a disk that is all data are smaller, as they take
    their place twice while it is made"""
    if kind == ALTERNATING:
        return disk.alternating(name, extents * 128 * KiB)
    if kind == WRITTEN:
        return disk.fragmented(name, extents, size=16 * KiB)
    disk.fragmented(name, extents, preallocated=True)
    # Making it left pages here and there. Whoever asks what kind of image it is
    # leaves one at its start.
    iotests.drop_caches()
    with open(name, "rb") as file:
        file.read(4 * KiB)
    return name


def timed(*command):
    """Milliseconds of a program that prints a map"""
    begin = time.monotonic()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL)
    return (time.monotonic() - begin) * 1e3


def two_passes(name, daemon):
    """Milliseconds of nbdinfo with a daemon that has just begun, and again"""
    with disk.DiskDaemon(name, **daemon) as server:
        return [timed("nbdinfo", "--json", "--map", server.uri)
                for _ in range(2)]


def counted_passes(name, daemon, extents):
    """[{what: how many}] of the two, and the bytes of zeroes that nbdinfo saw"""
    passes = []
    with disk.DiskDaemon(name, **daemon) as server:
        for _ in range(2):
            before = visited(server)
            counter = status_calls.counter()(server.pid)
            seen = iotests.nbdinfo_map(server.uri)
            calls = counter.stop()
            fiemaps = sum(call.kind == "FIEMAP" for call in calls)
            walked = sum(extents.walked(call) for call in calls
                         if call.kind != "FIEMAP")
            passes.append({
                "lseek": len(calls) - fiemaps, "FIEMAP": fiemaps,
                "extents visited": walked + (visited(server) - before
                                             if fiemaps else 0)})
    return passes, sum(row["length"] for row in seen if row["type"] & 2)


def visited(server):
    """Extents that the probes of ours have seen; none of stock's"""
    try:
        return server.cache("disk")["extents"]
    except iotests.QMPError:
        return 0


def calls_of(*command):
    """{what: how many} of a program that maps"""
    events = {"syscalls:sys_enter_lseek": "lseek",
              "syscalls:sys_enter_ioctl": "ioctl"}
    result = run("perf", "stat", "-x", ";", "-e", ",".join(events), *command,
                 status=None)
    counts = {}
    for line in result.stderr.splitlines():
        fields = line.split(";")
        if len(fields) > 2 and fields[2] in events:
            counts[events[fields[2]]] = int(fields[0])
    return counts


def same_zeroes(ours, theirs):
    """Where pages lie over unwritten extents we know it less exactly."""
    assert abs(ours - theirs) < MiB, f"{ours} bytes of zeroes, not {theirs}"


def served(b, what, name, rounds):
    """Three rows: warm first, second, and cold first"""
    extents = status_calls.Extents(name)
    seen = {who: counted_passes(name, daemon, extents)
            for who, daemon in DAEMONS.items()}
    same_zeroes(seen["ours"][1], seen["stock"][1])
    again = seen["ours"][0][1]
    assert not any(again.values()), f"asked again: {again}"
    times = b.alternate(rounds, {
        who: lambda daemon=daemon: two_passes(name, daemon)
        for who, daemon in DAEMONS.items()})
    for number, title in enumerate(("first", "second")):
        b.ratio(f"nbdinfo --map, {title} time, {what}", "ms", bench.LESS,
                [row[number] for row in times["ours"]],
                {"stock": [row[number] for row in times["stock"]]},
                goal=("stock", 1.0),
                counts={who: seen[who][0][number] for who in DAEMONS})


def cold(b, what, name, rounds):
    def one(daemon):
        iotests.drop_caches()
        return two_passes(name, daemon)[0]

    times = b.alternate(rounds, {who: lambda daemon=daemon: one(daemon)
                                 for who, daemon in DAEMONS.items()})
    b.ratio(f"nbdinfo --map, first time, cold, {what}", "ms", bench.LESS,
            times["ours"], {"stock": times["stock"]}, goal=("stock", 1.0))


def mapped(b, what, name, rounds):
    """The tools themselves"""
    commands = {who: [*words, "--output=json", "-f", "raw", name]
                for who, words in MAPS.items()}
    zeroes = {who: sum(row["length"] for row in json.loads(run(*words).stdout)
                       if row["zero"]) for who, words in commands.items()}
    same_zeroes(zeroes["ours"], zeroes["qemu-img"])
    times = b.alternate(rounds, {who: lambda words=words: timed(*words)
                                 for who, words in commands.items()})
    b.ratio(f"seekless-img map, {what}", "ms", bench.LESS, times["ours"],
            {"qemu-img": times["qemu-img"]}, goal=("qemu-img", 1.0),
            counts={who: calls_of(*words) for who, words in commands.items()})


def smoke(b):
    with iotests.file_system("ext4", GiB // 4) as folder:
        name = make(ALTERNATING, os.path.join(folder, "disk"), 300)
        served(b, "300 extents, alternating, ext4", name, 1)
        mapped(b, "300 extents, alternating, ext4", name, 1)


def measure(b):
    if b.form == bench.SMOKE:
        smoke(b)
        return
    extents, rounds = b.choose(None, (20000, 3), (100000, 5))
    kinds = (WRITTEN, ALTERNATING, PREALLOCATED)
    for system, kind in [("ext4", kind) for kind in kinds] + [
            ("xfs", kind) for kind in b.choose(None, (PREALLOCATED,), kinds)]:
        with iotests.file_system(system,
                                 extents * 256 * KiB + GiB) as folder:
            name = make(kind, os.path.join(folder, "disk"), extents)
            what = f"{extents:,} extents, {kind}, {system}"
            served(b, what, name, rounds)
            cold(b, what, name, b.choose(None, 1, 3))
            mapped(b, what, name, rounds)
    b.note("Each first time is that of a daemon that has just begun; cold: caches "
           "were dropped before. Preallocated: never written. Of ours, "
           "extents visited are what its probes report; of stock, those that "
           "lie between where a seek began and where it led.")


if __name__ == "__main__":
    bench.main("map", "Maps of files in many extents", measure)
