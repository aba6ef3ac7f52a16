#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the status cache adds to a request, for 1 to 8 threads on one cache.

cache-threads.c does the work. "all data" is a disk that was written from end to
end; on "alternating" every other block is zero, which is the worst there is.
"""

import json
import os
import statistics
import subprocess

import bench
import iotests

ADDED_NS = 150
LOOKUP_NS = {"all data": 20, "alternating": 100}
THREADS = "1", "2", "4", "8"


def measure(b):
    gib, rounds, milliseconds = b.choose((1, 2, 3), (1024, 5, 30),
                                         (1024, 9, 100))
    done = subprocess.run(
        [os.path.join(iotests.BUILD_DIR, "tests", "bench", "cache-threads"),
         str(gib), "4096", str(rounds), str(milliseconds)],
        stdout=subprocess.PIPE, check=True, timeout=300)
    return json.loads(done.stdout)


def run(b):
    seen = measure(b)
    memory = {disk: {"bytes": n} for disk, n in seen["memory"].items()}
    assert seen["memory"]["all data"] < 1024
    for disk, ns in seen["ns"].items():
        known, bare = ns["pwrite and cache"], ns["pwrite"]
        b.limit(f"{disk}: added to a write of 4 KiB, 1 thread", "ns",
                [with_it - without for with_it, without
                 in zip(known["1"], bare["1"])], ADDED_NS,
                counts=memory if disk == "alternating" else None)
        b.limit(f"{disk}: lookup of 1 MiB, 1 thread", "ns", ns["lookup"]["1"],
                LOOKUP_NS[disk])
        b.ratio(f"{disk}: a write with the cache, 8 threads", "ns", bench.LESS,
                known["8"], {"1 thread": known["1"],
                             "8 threads without the cache": bare["8"]},
                goal=("1 thread", 1.0))
        for what in ("lookup", "cut-read", "write", "zero-write", "mixed"):
            b.ratio(f"{disk}: {what} and nothing else, 8 threads", "ns",
                    bench.LESS, ns[what]["8"], {"1 thread": ns[what]["1"]})
        b.plot(disk.replace(" ", "-"), f"One status cache, {disk}", "threads",
               "ns an operation, of all threads together",
               {what: [(int(n), statistics.median(ns[what][n]))
                       for n in THREADS] for what in ns})
    b.note("ns: how long it took, divided by what all threads did. A write with the "
           "cache is a pwrite of 4 KiB to a file in memory, one for each thread, "
           "between begin and end. 'And nothing else': threads that do nothing but "
           "ask one cache, as no request does; what they wait for then is mostly "
           "that the processors fetch memory from each other. Half of a lookup on a "
           "disk that is all data is the mutex, taken and released.")


if __name__ == "__main__":
    bench.main("cache_threads", "The status cache under threads", run)
