# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmarks have in common: forms, rounds in turns, rows, plots.

A benchmark is a program with a function run(b) that calls b.ratio(), b.limit(),
b.plot() and b.note(), and ends with

    if __name__ == "__main__":
        bench.main("name", "What it measures", run)

It prints its rows, and writes them with --json for `scripts/bench`. Figures are
lists, one of each round; their median is quoted. b.form is one of

    smoke  a few seconds, tiny: shows that the benchmark still works. It may assert
           counts, never times. Where it cannot run (iotests.require) it is
           skipped, exit status 77.
    short  what scripts/bench runs, under ten minutes for all of them
    long   larger, finer and more often (scripts/bench --long): hours
"""

import argparse
import json
import os
import signal
import statistics
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "iotests"))

FORMS = SMOKE, SHORT, LONG = "smoke", "short", "long"
LESS, MORE = "less", "more"
ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def better_by(better, ours, theirs):
    """How many times as good @ours is as @theirs; None if neither is a measure
    of the other"""
    one, other = (ours, theirs) if better == MORE else (theirs, ours)
    return one / other if other > 0 else None


def figure(number):
    """To three digits or so, as people read it"""
    if number != 0 and not 1e-2 <= abs(number) < 1e7:
        return f"{number:.3g}"
    digits = 0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2
    return f"{number:,.{digits}f}"


def verdict(row):
    """(whether the row's goal is met, how the goal reads); None without one"""
    ours = statistics.median(row["ours"])
    if "bound" in row:
        met = ours <= row["bound"] if row["better"] == LESS else \
            ours >= row["bound"]
        word = "at most" if row["better"] == LESS else "at least"
        return met, f"{word} {figure(row['bound'])} {row['unit']}"
    if "goal" in row:
        peer, factor = row["goal"]
        theirs = statistics.median(row["peers"][peer])
        ratio = better_by(row["better"], ours, theirs)
        # Rounded as the report shows it
        return (ratio is None or round(ratio, 2) >= factor,
                f"{factor:g} x {peer}")
    return None


class Bench:
    """One run of one benchmark, and what it found"""

    def __init__(self, name, title, form):
        self.name, self.title, self.form = name, title, form
        self.rows, self.plots, self.notes = [], [], []

    def choose(self, smoke, short, long):
        """By the form"""
        return {SMOKE: smoke, SHORT: short, LONG: long}[self.form]

    @staticmethod
    def alternate(rounds, programs):
        """{name: results}, of functions that are called in turns: A B A B"""
        results = {name: [] for name in programs}
        for _ in range(rounds):
            for name, program in programs.items():
                results[name].append(program())
        return results

    def ratio(self, case, unit, better, ours, peers, goal=None, counts=None):
        """One figure of ours beside the same of peers

        @better: LESS or MORE. @ours: one figure a round; @peers: {name: the
        same}. @goal: (name, how many times as good as that ours is to be).
        @counts: {name: {what: how many}}, system calls and the like.
        """
        assert better in (LESS, MORE) and ours and all(peers.values())
        row = {"case": case, "unit": unit, "better": better,
               "ours": list(ours),
               "peers": {name: list(seen) for name, seen in peers.items()},
               "counts": counts or {}}
        if goal:
            assert goal[0] in peers
            row["goal"] = list(goal)
        self._add(row)

    def limit(self, case, unit, ours, bound, counts=None, better=LESS):
        """One figure of ours that is to be at most (MORE: at least) @bound"""
        assert better in (LESS, MORE) and ours
        self._add({"case": case, "unit": unit, "better": better,
                   "ours": list(ours), "peers": {}, "bound": bound,
                   "counts": counts or {}})

    def _add(self, row):
        self.rows.append(row)
        words = [f"{row['case']}: {figure(statistics.median(row['ours']))} "
                 f"{row['unit']}"]
        words += [f"{name} {figure(statistics.median(seen))}"
                  for name, seen in row["peers"].items()]
        judged = verdict(row)
        if judged:
            words.append(("holds: " if judged[0] else "FALLS SHORT of: ") +
                         judged[1])
        words += [f"[{name}: " + ", ".join(
            f"{n:,} {what}" if isinstance(n, int) else f"{figure(n)} {what}"
            for what, n in seen.items()) + "]"
            for name, seen in row["counts"].items()]
        print("  " + "; ".join(words), flush=True)

    def plot(self, name, title, x_label, y_label, series, logx=False,
             logy=False, marks=()):
        """A picture, NAME-@name.svg: @series is {label: [(x, y), ...]}, @marks
        are [(x, text), ...], vertical lines"""
        assert series and all(series.values())
        self.plots.append({
            "name": name, "title": title, "x": x_label, "y": y_label,
            "series": {label: [list(point) for point in points]
                       for label, points in series.items()},
            "logx": logx, "logy": logy,
            "marks": [list(mark) for mark in marks]})

    def note(self, text):
        """What the reader must know: how it was measured, what falls short"""
        self.notes.append(text)
        print(f"  ({text})", flush=True)


def _end(number, _):
    """Once: what is made is removed, and nothing may come between"""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main(name, title, run):
    """The whole program: options, run, results"""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--form", choices=FORMS, default=SHORT)
    parser.add_argument("--json", metavar="FILE",
                        help="write what was found there, too")
    args = parser.parse_args()
    for number in ENDING:
        signal.signal(number, _end)
    b = Bench(name, title, args.form)
    start = time.monotonic()
    try:
        run(b)
    except unittest.SkipTest as reason:
        print(f"{name}: skipped: {reason}")
        sys.exit(77)
    finally:
        if "iotests" in sys.modules:
            sys.modules["iotests"].scratch.remove()
    assert b.rows, "nothing was measured"
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"bench": name, "title": title, "form": args.form,
                       "seconds": round(time.monotonic() - start, 1),
                       "rows": b.rows, "plots": b.plots, "notes": b.notes},
                      file, indent=1)
            file.write("\n")
