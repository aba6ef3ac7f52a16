#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Mirrors and backups beside stock QEMU, and beside plain copies.

Disks of all makings (job_disks.py) on a loop-mounted ext4 in memory, in the long
form on XFS and on a real disk as well; opened with O_DIRECT, with cold caches, or
through a page cache that has all of it. A rate is that of a copy that is stable: a
mirror has flushed its target when it is ready, and a backup's target is closed,
which is when stock QEMU flushes it.
"""

import contextlib
import statistics

import bench  # before those from elsewhere
import iotests
import job_disks
import job_runs
import nbd_load
from bench import LESS, MORE
from iotests import KiB
from job_disks import (ALTERNATING, BIG_BACKING, PREALLOCATED, QCOW2,
                       SMALL_BACKING, WRITTEN)
from job_runs import BACKUP, MIRROR

DAEMONS = {"ours": iotests.DAEMON, "stock": iotests.STOCK_DAEMON}
JOBS = (MIRROR, BACKUP)
# As fast as can be, by other means
COPIES = {
    "cp": ("cp", "--sparse=always", "{source}", "{target}"),
    "dd": ("dd", "if={source}", "of={target}", "bs=1M", "iflag=direct",
           "oflag=direct"),
}
OF_LIMIT = 0.9
STALL = 10  # ms; a client of stock QEMU that waits longer is to wait half of it
MS = 1e3


def answers(seen, counts=None):
    """@counts, and the monitor's worst answers"""
    return {name: {**(counts[name] if counts else {}),
                   "ms, the monitor's worst answer": statistics.median(
                       row["monitor"] * MS for row in rows)}
            for name, rows in seen.items()}


class Jobs:
    """All runs on the disks of one folder"""

    def __init__(self, b, folder, suffix=""):
        self.b, self.folder, self.suffix = b, folder, suffix
        self.rounds = b.choose(1, 3, 5)

    def turns(self, source, kind, **options):
        """{daemon: what was seen in each round}"""
        return self.b.alternate(self.rounds, {
            name: lambda program=program: job_runs.run_jobs(
                source, self.folder, kind, program, **options)
            for name, program in DAEMONS.items()})

    def counted(self, source, kind, **options):
        """System calls of each, in a run that is not timed; ours has to make a
        good copy in it"""
        return {name: job_runs.run_jobs(source, self.folder, kind, program,
                                        count=True, compare=name == "ours",
                                        **options)["counts"]
                for name, program in DAEMONS.items()}

    def idle(self, source, kind, what="", limit=None, counted=True, **options):
        """Rates, and those of plain copies (@limit) beside them"""
        case = f"{kind} of {source.name}{what}{self.suffix}"
        counts = None
        if counted:
            counts = self.counted(source, kind, **options)
        else:
            # Whoever comes first is slowed by memory that nobody has used yet.
            job_runs.run_jobs(source, self.folder, kind, iotests.DAEMON,
                              compare=True, **options)
        seen = self.turns(source, kind, **options)
        rates = {name: [row["rate"] for row in rows]
                 for name, rows in seen.items()}
        self.b.ratio(case, "MB/s", MORE, rates["ours"],
                     {"stock": rates["stock"]}, ("stock", 1),
                     answers(seen, counts))
        if limit:
            best = max(limit, key=lambda name: statistics.median(limit[name]))
            self.b.ratio(f"{case}, beside plain copies", "MB/s", MORE,
                         rates["ours"], limit, (best, OF_LIMIT))

    def limits(self, source, rounds):
        """{program: rates} of other ways to copy"""
        return {name: [job_runs.copy(source, self.folder, *words)
                       for _ in range(rounds)]
                for name, words in COPIES.items()}

    def loaded(self, source, kind, rate, order):
        """With a client: rates, and its latencies"""
        case = (f"{kind} of {source.name} beside {rate} writes, zero-writes and "
                f"discards a second, {order}{self.suffix}")
        kinds = (nbd_load.WRITE, nbd_load.ZERO, nbd_load.DISCARD)
        seen = self.turns(source, kind, load={
            "order": order, "rates": {nbd_load.READ: nbd_load.RATES[
                nbd_load.READ], **dict.fromkeys(kinds, rate)}})
        rates = {name: [row["rate"] for row in rows]
                 for name, rows in seen.items()}
        self.b.ratio(case, "MB/s", MORE, rates["ours"],
                     {"stock": rates["stock"]}, ("stock", 1), answers(seen))
        self.waits(case, seen)

    def waits(self, case, seen):
        def at(share, what="reads"):
            return {name: [nbd_load.percentile(row[what], share) * MS
                           for row in rows] for name, rows in seen.items()}

        reads = at(0.99)
        stalls = statistics.median(reads["stock"]) > STALL
        counts = {name: {
            "ms at p50": statistics.median(at(0.5)[name]),
            "ms at most": statistics.median(at(1)[name]),
            "ms, others at p99": statistics.median(at(0.99, "others")[name]),
        } for name in seen}
        self.b.ratio(f"{case}: the client's reads at p99", "ms", LESS,
                     reads["ours"], {"stock": reads["stock"]},
                     ("stock", 2 if stalls else 1), counts)

    def beside_rewrites(self, source, order, rate=200):
        """How much of its rate a mirror keeps beside a client that makes
        holes and fills them again"""
        def run(load):
            return job_runs.run_jobs(source, self.folder, MIRROR,
                                     iotests.DAEMON, load=load)["rate"]

        seen = self.b.alternate(self.rounds, {
            "idle": lambda: run(None),
            "ours": lambda: run({"rates": {nbd_load.REWRITE: rate},
                                 "order": order})})
        self.b.ratio(f"mirror of {source.name} beside {rate} rewrites a second, "
                     f"{order}{self.suffix}, of its rate without", "MB/s", MORE,
                     seen["ours"], {"idle": seen["idle"]})


def punch_middle(source):
    """One hole of a block in the middle"""
    iotests.run("fallocate", "--punch-hole", "--offset",
                source.size // 2 // (64 * KiB) * 64 * KiB, "--length", 4 * KiB,
                source.filename)
    source.name += " but for one hole"


def smoke(b, jobs, disks):
    """Counts only"""
    for source in disks.values():
        for kind in JOBS:
            seen = job_runs.run_jobs(source, jobs.folder, kind, iotests.DAEMON,
                                     count=True, compare=True)
            counts = seen["counts"]
            assert counts["lseeks"] == 0, (source.name, kind, counts)
            assert counts["extents"] <= 1.1 * source.extents + 10, \
                (source.name, kind, counts)
            b.limit(f"{kind} of {source.name}", "extents visited",
                    [counts["extents"]], 1.1 * source.extents + 10,
                    {"ours": counts})


def idle(b, jobs, disks):
    rounds = b.choose(0, 2, 3)
    for name in (WRITTEN, PREALLOCATED, ALTERNATING):
        # dd writes the zeroes, and cp reads them: neither is what a job is to do.
        limit = jobs.limits(disks[name], rounds)
        for kind in JOBS:
            jobs.idle(disks[name], kind, limit=limit)
    for kind in JOBS:
        jobs.idle(disks[WRITTEN], kind, ", in the page cache", direct=False,
                  counted=False)
    for name in (QCOW2, SMALL_BACKING, BIG_BACKING):
        jobs.idle(disks[name], MIRROR, counted=b.form == bench.LONG)


def beside_clients(b, jobs, disks):
    orders = (nbd_load.RANDOM, nbd_load.ASCENDING, nbd_load.DESCENDING)
    if b.form == bench.SHORT:
        jobs.loaded(disks[WRITTEN], MIRROR, 200, nbd_load.DESCENDING)
        jobs.loaded(disks[WRITTEN], BACKUP, 200, nbd_load.DESCENDING)
        jobs.loaded(disks[PREALLOCATED], MIRROR, 50, nbd_load.RANDOM)
        jobs.loaded(disks[WRITTEN], BACKUP, 1000, nbd_load.RANDOM)
        return
    for order in orders:
        jobs.beside_rewrites(disks[WRITTEN], order)
    for name in (WRITTEN, PREALLOCATED):
        for kind in JOBS:
            for order in orders:
                for rate in (50, 200, 1000):
                    jobs.loaded(disks[name], kind, rate, order)


def run_on(b, kind, extents, in_memory):
    """All cases on a file system of that kind"""
    suffix = ("" if kind == "ext4" else f", {kind}") + \
        ("" if in_memory else ", on a disk")
    size = 9 * extents * job_disks.CHUNK + (iotests.GiB >> 1)
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(iotests.memory_file_system()) \
            if in_memory else None
        folder = stack.enter_context(iotests.file_system(
            kind, size, memory, direct_io=True))
        jobs = Jobs(b, folder, suffix)
        disks = job_disks.make_raw(folder, extents)
        if b.form == bench.SMOKE:
            smoke(b, jobs, disks)
            return
        disks.update(job_disks.make_qcow2(folder, disks[WRITTEN]))
        idle(b, jobs, disks)
        punch_middle(disks[WRITTEN])
        jobs.idle(disks[WRITTEN], BACKUP, ", two at once", number=2,
                  apart=b.choose(0, 0.2, 1))
        beside_clients(b, jobs, disks)


def run(b):
    extents = b.choose(100, 8000, 23000)
    if b.form != bench.SMOKE:
        b.note(f"Disks of {extents:,} chunks of 64 KiB on a file system in memory, "
               "so that rates are those of a disk that is steady and as fast as "
               "can be; O_DIRECT and caches dropped, unless it says otherwise. "
               "The client reads 300 blocks of 4 KiB a second as well; where a job "
               "is over at once those are few, and 'p99' is the worst of them. The "
               "rate of a preallocated disk is that of zeroes, which nobody copies.")
    run_on(b, "ext4", extents, True)
    if b.form == bench.LONG:
        run_on(b, "xfs", extents, True)
        run_on(b, "ext4", extents, False)


if __name__ == "__main__":
    bench.main("jobs", "Mirrors and backups", run)
