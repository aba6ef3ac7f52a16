#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What it costs to ask a file system: by file system, number of extents and
strategy, with and without cachestat(2), warm and cold.

Each figure is of a pass over the whole status of a file by probe-pass.c, in
requests of 1 MiB, with an empty cache.
"""

import contextlib
import json
import os
import statistics

import bench
import disk
import iotests
from iotests import GiB, KiB

PROBE_PASS = os.path.join(iotests.BUILD_DIR, "tests", "bench", "probe-pass")
EXTENT = 4 * KiB
BOUND_US = 100  # of CPU, that hardly a warm probe is to need more than
QUICK = "<5000", "<10000", "<20000", "<50000", "<100000"  # ns
BOUND_SLOW = 0.1  # %, of all warm probes, beyond the machine's share
BOUND_EXTENTS = 512  # that no call is to return
BOUND_VISITS = 1.1  # of each extent

# How the file system is asked: the strategy, more words, and what it is called
AUTO, SEEK, FIEMAP, OLD = "auto", "seek", "fiemap", "fiemap, no cachestat"
WORDS = {AUTO: [], SEEK: ["--strategy", "seek"],
         FIEMAP: ["--strategy", "fiemap"],
         OLD: ["--strategy", "fiemap", "--no-cachestat"]}
# What each is asked with, beginning with what `auto` takes
STRATEGIES = {"ext4": (FIEMAP, SEEK, OLD), "xfs": (FIEMAP, SEEK, OLD),
              "btrfs": (SEEK, FIEMAP), "tmpfs": (SEEK,)}
WRITTEN, PREALLOCATED, SPARSE = "written", "preallocated", "sparse"
# What the kernel has in memory: the map, nothing, the map and the data
WARM, COLD, CACHED = "warm", "cold", "cached"


@contextlib.contextmanager
def place(kind, size, in_memory):
    """A folder on a file system of that kind with so much room"""
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(iotests.memory_file_system()) \
            if in_memory or kind == "tmpfs" else None
        yield memory if kind == "tmpfs" else stack.enter_context(
            iotests.file_system(kind, size, memory, direct_io=True))


def makings(kind):
    # A tmpfs has no extents: what was preallocated cannot be told from data.
    return (SPARSE,) if kind == "tmpfs" else (WRITTEN, PREALLOCATED, SPARSE)


def states(kind, making):
    return (CACHED,) if kind == "tmpfs" else \
        (CACHED, WARM, COLD) if making == SPARSE else (WARM, COLD)


def make(folder, making, extents):
    name = os.path.join(folder, "image")
    if making == SPARSE:
        return disk.alternating(name, 2 * extents * EXTENT, EXTENT, EXTENT)
    return disk.fragmented(name, extents, EXTENT,
                           preallocated=making == PREALLOCATED)


def bring_to(state, folder, image):
    """A file that was made or asked about before"""
    if state == COLD:
        # Not all that it is to drop goes with drop_caches.
        device = iotests.run("findmnt", "-n", "-o", "SOURCE", folder
                             ).stdout.strip()
        iotests.run("umount", folder)
        iotests.run("mount", device, folder)
    elif state == WARM:
        with open(image, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Pass:
    """What one pass over a file took"""

    def __init__(self, folder, image, strategy, state):
        bring_to(state, folder, image)
        seen = json.loads(iotests.run(PROBE_PASS, *WORDS[strategy],
                                      image).stdout)
        first = seen["first"]
        self.extents = seen["file-extents"]
        self.visited = first["extents"] + seen["walked"]
        self.most = max(first["max-extents"], seen["max-walked"])
        self.query_us = first["seconds"] * 1e6 / first["queries"]
        self.cpu_us = first["cpu-max-ns"] / 1e3
        self.wall_us = first["wall-max-ns"] / 1e3
        self.probes = first["probes"]
        self.slow = sum(n for bound, n in first["histogram"].items()
                        if bound not in QUICK)
        self.cpu_ns, self.again = first["cpu-ns"], seen["again"]
        self.calls = {name: first[name] for name in
                      ("seek-data", "seek-hole", "fiemap", "cachestat")}
        assert seen["second-pass-probes"] == 0, seen

    def counts(self):
        return {**{name: n for name, n in self.calls.items() if n},
                "extents visited": self.visited, "at most at once": self.most}


def machine_share(done):
    """How many of the probes of these passes, in %, the machine alone makes slow: by
    how often it did so, in as much CPU, to one and the same call"""
    slow = sum(one.again["slow"] for one in done)
    per_ns = slow / sum(one.again["cpu-ns"] for one in done)
    return 100 * per_ns * (sum(one.cpu_ns for one in done) /
                           sum(one.probes for one in done))


def check(one):
    """What holds on any machine"""
    assert one.visited <= one.extents * BOUND_VISITS + 128, \
        (one.visited, one.extents)
    assert one.most <= BOUND_EXTENTS, one.most


def bounded(kind, strategy, state):
    """Whether the bounds hold: among pages each extent is visited twice"""
    return kind in ("ext4", "xfs") and state != CACHED and strategy == FIEMAP


def measure(kind, counts, rounds, in_memory):
    """{(making, state, strategy, extents): [Pass]}; @rounds by state"""
    seen = {}
    for making in makings(kind):
        for extents in counts:
            # XFS makes no second fragmented file in the room of a first one.
            with place(kind, max(GiB, 8 * extents * EXTENT), in_memory
                       ) as folder:
                image = make(folder, making, extents)
                for state in states(kind, making):
                    Pass(folder, image, AUTO, WARM if state == COLD else state)
                    passes = bench.Bench.alternate(rounds[state], {
                        strategy: lambda strategy=strategy, state=state:
                        Pass(folder, image, strategy, state)
                        for strategy in STRATEGIES[kind]})
                    for strategy, done in passes.items():
                        if done:
                            seen[making, state, strategy, extents] = done
                        if bounded(kind, strategy, state):
                            for one in done:
                                check(one)
    return seen


def rows(b, kind, seen, extents):
    """Of the file with the most extents"""
    ours, *others = STRATEGIES[kind]
    for making in makings(kind):
        for state in states(kind, making):
            passes = {name: seen[making, state, name, extents]
                      for name in STRATEGIES[kind]
                      if (making, state, name, extents) in seen}
            if passes:
                rows_of(b, f"{kind}, {making}, {state}", passes, ours, others,
                        bounded(kind, ours, state), state == COLD)


def rows_of(b, what, passes, ours, others, is_bounded, cold):
    done = passes[ours]
    if is_bounded:
        b.limit(f"{what}: visits of each extent", "visits",
                [one.visited / one.extents for one in done], BOUND_VISITS)
        b.limit(f"{what}: extents in a call", "extents",
                [one.most for one in done], BOUND_EXTENTS)
    if is_bounded and not cold:
        machine = machine_share(done)
        b.limit(f"{what}: probes of more than {BOUND_US} us of CPU", "%",
                [100 * sum(one.slow for one in done) /
                 sum(one.probes for one in done)], BOUND_SLOW + machine,
                counts={"the machine": {"% of them": machine}})

    def ratio(title, take, **more):
        b.ratio(f"{what}: {title}", "us", bench.LESS, list(map(take, done)),
                {name: list(map(take, passes[name])) for name in others},
                **more)

    if cold:
        ratio("time of the worst probe", lambda one: one.wall_us)
    else:
        ratio("CPU of the worst probe", lambda one: one.cpu_us)
    ratio("a query", lambda one: one.query_us,
          counts={name: rows[0].counts() for name, rows in passes.items()})


def plot(b, everything, making, state, what, title, take):
    """By the number of extents"""
    series = {}
    for kind, seen in everything.items():
        for (of, at, strategy, extents), passes in seen.items():
            if (of, at) == (making, state):
                series.setdefault(f"{kind}, {strategy}", []).append(
                    (extents, statistics.median(map(take, passes))))
    b.plot(f"{making}-{state}-{what}", f"{making} files, {state}: {title}",
           "extents", "us", series, logx=True, logy=True)


def run(b):
    iotests.require_root()
    counts, rounds, cold_rounds = b.choose(
        ((500,), 1, 0), ((1000, 10000, 30000), 5, 1),
        ((1000, 3000, 10000, 30000, 100000), 15, 5))
    kinds = b.choose(("ext4", "xfs"), tuple(STRATEGIES), tuple(STRATEGIES))
    b.note(f"Extents of {EXTENT // KiB} KiB; sparse: with holes as long "
           "between them. One thread asks for 1 MiB at a time, and remembers "
           "all of each answer. Warm: the kernel knows the map; there are no "
           "pages, as O_DIRECT leaves none. Cached: the data is in the page "
           "cache. Cold: mounted anew; then the time counts, of which most is "
           "the disk's. Extents visited: those that FIEMAP returned, and for a "
           "seek those between its offset and its answer. Over "
           f"{BOUND_US} us: interrupts and the hypervisor count as a thread's CPU. "
           "The machine's share is what they do to the first window of the file, "
           "asked for as often, in as much CPU. All of them are ours: "
           "\"ours\" is the way that is chosen there (seek on btrfs and tmpfs, "
           "fiemap elsewhere), beside it the other ways.")
    everything = {}
    for kind in kinds:
        everything[kind] = measure(
            kind, counts, {WARM: rounds, CACHED: rounds, COLD: cold_rounds},
            b.form == bench.SMOKE)
        rows(b, kind, everything[kind], max(counts))
    if b.form == bench.SMOKE:
        return
    for making in makings("ext4"):
        for state in states("ext4", making):
            if state == COLD:
                plot(b, everything, making, state, "worst", "the worst probe",
                     lambda one: one.wall_us)
            else:
                plot(b, everything, making, state, "worst",
                     "CPU of the worst probe", lambda one: one.cpu_us)
            plot(b, everything, making, state, "query", "a query",
                 lambda one: one.query_us)


if __name__ == "__main__":
    bench.main("probes", "What it costs to ask a file system", run)
