#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How the status work of a whole mirror grows, with the number of extents and
with the size of the disk; beside stock's storage daemon.

Counted is what the process asks the file system (status_calls.py), from the
mirror's begin until it is ready. Nobody else uses the disk.
"""

import contextlib
import os
import statistics
import time

import bench
import disk
import iotests
import status_calls
from iotests import GiB, KiB

TiB = 1024 * GiB
EXTENT = 8 * KiB
WRITTEN, PREALLOCATED, SPARSE = "written", "preallocated", "sparse"
DAEMONS = {"ours": iotests.DAEMON, "stock": iotests.STOCK_DAEMON}
LABELS = {"ours": "Seekless", "stock": "stock"}
BOUND_VISITS = 1.1  # of each extent
# Status work may grow so much faster than the number of extents.
BOUND_GROWTH = 1.5
# A disk that is greater, but has no more on it, may take so many times as many
# status calls, and in all so long.
BOUND_SIZE = 2
BOUND_SECONDS = 0.25
# On a disk of any size: pieces of data, and how many bytes each
PIECES, PIECE = 64, 64 * KiB


class Mirror:
    """One mirror of an image by a fresh daemon"""

    def __init__(self, image, program, limit):
        copy = disk.sparse(image + ".copy", os.stat(image).st_size)
        extents = extents_of(image)
        direct = extents is not None
        with disk.DiskDaemon(
                image, f",cache.direct={'on' if direct else 'off'}",
                program=program) as daemon:
            daemon.add_node("copy", copy, cache={"direct": direct})
            counter = status_calls.counter()(daemon.pid)
            start = time.monotonic()
            daemon.cmd("blockdev-mirror", {
                "job-id": "mirror", "device": "disk", "target": "copy",
                "sync": "full"})
            self.ready = True
            try:
                daemon.qmp.wait_event("BLOCK_JOB_READY", limit, device="mirror")
            except iotests.QMPTimeout:
                self.ready = False
            self.seconds = time.monotonic() - start
            calls = counter.stop()
            daemon.cmd("block-job-cancel", device="mirror",
                       force=not self.ready)
            daemon.qmp.wait_job("mirror", "null")
            by_fiemap = told(daemon)
        os.unlink(copy)
        seeks = [call for call in calls if call.kind != "FIEMAP"]
        self.ms = sum(call.seconds for call in calls) * 1e3
        self.worst_ms = max((call.seconds for call in calls), default=0) * 1e3
        self.lseeks, self.fiemaps = len(seeks), len(calls) - len(seeks)
        self.visited = by_fiemap
        if direct:
            self.visited += sum(map(extents.walked, seeks))

    def counts(self):
        return {"lseek": self.lseeks, "FIEMAP": self.fiemaps,
                "extents visited": self.visited,
                "ms in the worst": self.worst_ms}


def extents_of(image):
    """None if the file system has none, a tmpfs"""
    try:
        return status_calls.Extents(image)
    except OSError:
        return None


def told(daemon):
    """How many extents FIEMAP told"""
    try:
        return daemon.cache("disk")["extents"]
    except iotests.QMPError:
        return 0


@contextlib.contextmanager
def place(kind, size=GiB):
    """A folder on such a file system, in memory"""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(iotests.memory_file_system())
        yield folder if kind == "tmpfs" else stack.enter_context(
            iotests.file_system(kind, size, folder, direct_io=True))


def scattered(folder, size):
    """A sparse disk with a little data all over it"""
    name = os.path.join(folder, "image")
    with open(name, "wb") as file:
        file.truncate(size)
        for i in range(PIECES):
            file.seek(size // PIECES // PIECE * PIECE * i)
            file.write(b"\x5a" * PIECE)
        os.fsync(file.fileno())
    return name


def in_extents(folder, making, extents):
    name = os.path.join(folder, "image")
    if making == SPARSE:
        disk.alternating(name, 2 * extents * EXTENT, EXTENT, EXTENT)
    else:
        disk.fragmented(name, extents, EXTENT,
                        preallocated=making == PREALLOCATED)
    with open(name, "rb") as file:
        # As if nobody had used it but with O_DIRECT
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return name


def mirrors(image, rounds, limit):
    """{daemon: [Mirror]}, in turns"""
    return bench.Bench.alternate(rounds, {
        name: lambda program=program: Mirror(image, program, limit)
        for name, program in DAEMONS.items()})


def median(rows, take):
    return statistics.median(map(take, rows))


def lines(seen, take):
    """A line for each daemon, of the mirrors that came to an end, by what was
    varied"""
    found = {LABELS[name]: [(x, median(rows[name], take))
                            for x, rows in seen.items()
                            if all(one.ready for one in rows[name])]
             for name in DAEMONS}
    return {label: points for label, points in found.items() if points}


def by_extents(b, kind, making, counts, rounds):
    seen = {}
    for extents in counts:
        with place(kind, max(GiB, 8 * extents * EXTENT)) as folder:
            image = in_extents(folder, making, extents)
            there = len(status_calls.Extents(image))
            seen[there] = mirrors(image, rounds, iotests.TIMEOUT)
        for one in seen[there]["ours"]:
            assert one.visited <= BOUND_VISITS * there + 128, one.counts()
            assert one.ready, "a mirror that does not end"
    what = f"{kind}, {making}"
    least, most = seen[min(seen)]["ours"], seen[max(seen)]
    ours = most["ours"]
    b.limit(f"{what}: visits of each of {max(seen):,} extents", "visits",
            [one.visited / max(seen) for one in ours], BOUND_VISITS)
    if len(seen) > 1:
        before = median(least, lambda one: one.ms) / min(seen)
        b.limit(f"{what}: time for an extent of {max(seen):,}, against one of "
                f"{min(seen):,}", "times",
                [one.ms / max(seen) / before for one in ours], BOUND_GROWTH)
    b.ratio(f"{what}: time in status calls, {max(seen):,} extents", "ms",
            bench.LESS, [one.ms for one in ours],
            {"stock": [one.ms for one in most["stock"]]},
            counts={name: rows[-1].counts() for name, rows in most.items()})
    if len(seen) > 1:
        b.plot(f"extents-{kind}-{making}", f"{kind}, {making} disk: time in "
               "status calls of a whole mirror", "extents", "ms",
               lines(seen, lambda one: one.ms), logx=True, logy=True)
        b.plot(f"visits-{kind}-{making}", f"{kind}, {making} disk: extents "
               "visited in a whole mirror", "extents", "visits",
               lines(seen, lambda one: max(one.visited, 1)), logx=True,
               logy=True)


def by_size(b, kind, sizes, rounds, limit):
    seen = {}
    for size in sizes:
        with place(kind) as folder:
            # ext4 takes no file of 16 TiB, but one that is hardly less.
            image = scattered(folder, min(size, 16 * TiB - PIECE))
            seen[size // GiB] = mirrors(image, rounds, limit)
        for one in seen[size // GiB]["ours"]:
            assert one.ready and one.lseeks + one.fiemaps < 8 * PIECES, \
                one.counts()
    most = seen[max(seen)]
    calls = [one.lseeks + one.fiemaps for one in most["ours"]]
    b.limit(f"{kind}, sparse disk of {max(seen):,} GiB: status calls", "calls",
            calls, BOUND_SIZE * median(seen[min(seen)]["ours"], lambda one:
                                       one.lseeks + one.fiemaps))
    b.limit(f"{kind}, sparse disk of {max(seen):,} GiB: mirror", "s",
            [one.seconds for one in most["ours"]], BOUND_SECONDS)
    ended = max(x for x, rows in seen.items() if all(
        one.ready for one in rows["stock"]))
    rows = seen[ended]
    b.ratio(f"{kind}, sparse disk of {ended:,} GiB: mirror", "s", bench.LESS,
            [one.seconds for one in rows["ours"]],
            {"stock": [one.seconds for one in rows["stock"]]},
            goal=("stock", 1),
            counts={name: done[-1].counts() for name, done in rows.items()})
    if len(seen) > 1:
        b.plot(f"size-{kind}", f"{kind}, sparse disk with {PIECES} pieces of "
               "data: the whole mirror", "GiB", "s",
               lines(seen, lambda one: one.seconds), logx=True, logy=True)


def run(b):
    iotests.require_root()
    counts, sizes, rounds, limit = b.choose(
        ((500,), (GiB, 16 * TiB), 1, 0.1),
        ((1000, 3000, 10000, 30000), (GiB, 32 * GiB, TiB, 16 * TiB), 1, 3),
        ((1000, 3000, 10000, 30000, 100000),
         (GiB, 8 * GiB, 64 * GiB, 512 * GiB, 4 * TiB, 16 * TiB), 3, 60))
    kinds = b.choose(("ext4",), ("ext4",), ("ext4", "xfs"))
    b.note(f"Extents of {EXTENT // KiB} KiB; sparse: with holes as long between "
           f"them. By size: a sparse disk with {PIECES} pieces of "
           f"{PIECE // KiB} KiB. All in memory, O_DIRECT (not on tmpfs), nobody "
           "else uses the disk. Counted from the mirror's begin until it is "
           "ready; extents visited: those that FIEMAP returned, and for a seek "
           "those between its offset and its answer. Of stock there is no point "
           f"in the plot where its mirror takes more than {limit} s.")
    for kind in kinds:
        for making in (WRITTEN, PREALLOCATED, SPARSE):
            by_extents(b, kind, making, counts, rounds)
    for kind in b.choose(("tmpfs",), ("ext4", "xfs", "tmpfs"),
                         ("ext4", "xfs", "tmpfs")):
        by_size(b, kind, sizes, rounds, limit)


if __name__ == "__main__":
    bench.main("growth", "How the status work of a mirror grows", run)
