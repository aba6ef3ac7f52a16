#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""util/sparse-bitmap beside CRoaring and a plain array of words.

bitmap.c does the work; it also checks that all three give the same answers.
"""

import json
import os
import statistics
import subprocess

import bench
import iotests

TIB = 1 << 28  # bits: blocks of 4 KiB
LAYOUTS = "uniform", "dense", "sparse", "alternating", "runs"
# What status cache, dirty bitmaps, mirrors, backups and maps do: one after the
# other through the disk, or here and there, as guests' requests come.
USED = {
    "lookup 1 MiB", "lookup 1 MiB, ascending", "next set", "next clear",
    "iterate, a run", "count", "set 4 KiB", "clear 4 KiB",
    "clear 1 MiB, ascending", "set 1 MiB, ascending",
    "find and clear, ascending",
}
LIMITS = {("uniform", "lookup 1 MiB"): 20, ("alternating", "lookup 1 MiB"): 100}


def measure(b, bits, layout):
    rounds, milliseconds = b.choose((2, 1), (3, 4), (9, 20))
    done = subprocess.run(
        [os.path.join(iotests.BUILD_DIR, "tests", "bench", "bitmap"), str(bits),
         layout, str(rounds), str(milliseconds)],
        stdout=subprocess.PIPE, check=True, timeout=600)
    return json.loads(done.stdout)


def report(b, tib, layout, seen):
    memory = {name: {"KiB": round(n / 1024, 1)}
              for name, n in seen["memory"].items()}
    for what, figures in seen["ns"].items():
        ours = figures.pop("ours")
        best = min(figures, key=lambda name: statistics.median(figures[name]))
        case = f"{tib} TiB, {layout}: {what}"
        if what == "nothing":
            continue
        b.ratio(case, "ns", bench.LESS, ours, figures,
                goal=(best, 1.0) if what in USED else None,
                counts=memory if what == "fill, a run" else None)
        if tib == 1 and (layout, what) in LIMITS:
            b.limit(case, "ns", ours, LIMITS[layout, what])


def run(b):
    wanted = b.choose(
        [(TIB // 256, layout) for layout in LAYOUTS],
        [(TIB, layout) for layout in LAYOUTS] +
        [(16 * TIB, layout) for layout in ("uniform", "sparse", "runs")],
        [(n * TIB, layout) for n in (1, 16) for layout in LAYOUTS])
    for bits, layout in wanted:
        seen = measure(b, bits, layout)
        tib = bits / TIB
        report(b, int(tib) if tib >= 1 else tib, layout, seen)
    if "roaring" not in seen["memory"]:
        b.note("libroaring was not there when this was built: nothing to "
               "compare with but a plain array.")
    b.note("Before each operation the processor waits until the last one is done "
           "(lfence, "
           f"{statistics.median(seen['ns']['nothing']['plain']):.0f} ns that all "
           "figures contain), as it does where there is a request between them. "
           "4096 places are asked in turns, or, cold, 262,144.")
    b.note("CRoaring is Debian 12's 0.2.66, built for any x86-64, and has neither a "
           "64-bit form in C nor a 'next clear': bitmaps of 2^32 bits side by side, "
           "and a walk over its containers, stand in for them.")


if __name__ == "__main__":
    bench.main("bitmap", "Bitmaps of 4 KiB blocks: ours, CRoaring, a plain array",
               run)
