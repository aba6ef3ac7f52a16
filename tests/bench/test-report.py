#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmarks' report says of figures that are known."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

import bench
import report

NBD_PEERS = {"stock": [100, 90, 80], "nbdkit": [150]}


def results():
    """Of two benchmarks, as run.py has them"""
    b = bench.Bench("one", "The one", bench.SHORT)
    with contextlib.redirect_stdout(io.StringIO()):
        b.ratio("reads", "IOPS", bench.MORE, [170, 180, 5000], NBD_PEERS,
                goal=("nbdkit", 1.2), counts={"ours": {"lseek": 0}})
        b.ratio("a look-up", "ns", bench.LESS, [30], {"roaring": [15]},
                goal=("roaring", 1.0))
        b.limit("memory", "MB", [7, 9, 8], 8)
        b.limit("rate", "MB/s", [7], 8, better=bench.MORE)
        b.plot("reads", "It's a title", "x", "y",
               {"ours": [(1, 2), (10, 3)], "stock": [(1, 200), (10, 3000)]},
               logx=True, logy=True, marks=[(5, "it's here")])
        b.note("Nobody looked.")
    return [{"bench": b.name, "title": b.title, "form": b.form, "seconds": 2,
             "rows": b.rows, "plots": b.plots, "notes": b.notes}]


class Report(unittest.TestCase):
    def test_table(self):
        cells = [[cell.strip() for cell in line.split("|")[1:-1]]
                 for line in report.table(results()[0]["rows"]).splitlines()]
        self.assertEqual(cells[2:], [
            ["reads", "IOPS", "180", "3, 94 to 2778 %", "stock", "90.0", "2.00",
             "", ""],
            ["", "", "", "", "nbdkit", "150", "1.20", "1.2 x nbdkit", "holds"],
            ["a look-up", "ns", "30.0", "1", "roaring", "15.0", "0.50",
             "1 x roaring", "**falls short**"],
            ["memory", "MB", "8.00", "3, 88 to 112 %", "", "", "",
             "at most 8.00 MB", "holds"],
            ["rate", "MB/s", "7.00", "1", "", "", "", "at least 8.00 MB/s",
             "**falls short**"]])

    def test_short_of(self):
        self.assertEqual([(name, row["case"])
                          for name, row in report.short_of(results())],
                         [("one", "a look-up"), ("one", "rate")])
        self.assertEqual(report.goals(results()), 4)

    def test_written(self):
        with tempfile.TemporaryDirectory() as folder:
            name = report.write(folder, {"kernel": "6.1"}, results())
            with open(name, encoding="utf-8") as file:
                text = file.read()
            self.assertIn("* kernel: 6.1\n", text)
            self.assertIn("2 of 4 goals hold.", text)
            self.assertIn("* reads, ours: 0 lseek\n", text)
            self.assertIn("![It's a title](one-reads.svg)\n", text)
            tree = xml.etree.ElementTree.parse(
                os.path.join(folder, "one-reads.svg"))
            words = "".join(tree.getroot().itertext())
            for word in ("It's a title", "it's here", "ours", "stock"):
                self.assertIn(word, words)

    def test_rounds_in_turns(self):
        order = []
        seen = bench.Bench.alternate(2, {
            "a": lambda: order.append("a") or len(order),
            "b": lambda: order.append("b") or len(order)})
        self.assertEqual(order, ["a", "b", "a", "b"])
        self.assertEqual(seen, {"a": [1, 3], "b": [2, 4]})

    def test_figures(self):
        for number, text in ((0, "0.00"), (0.00123, "0.00123"), (0.25, "0.25"),
                             (1.5, "1.50"), (12.34, "12.3"), (123.4, "123"),
                             (12345, "12,345"), (1e8, "1e+08")):
            self.assertEqual(bench.figure(number), text)

    def test_nothing_measured(self):
        done = subprocess.run(
            [sys.executable, "-c", "import bench\n"
             "bench.main('none', 'None', lambda b: None)"],
            cwd=os.path.dirname(os.path.abspath(__file__)), check=False,
            capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("nothing was measured", done.stderr)

    def test_results_can_be_stored(self):
        self.assertEqual(json.loads(json.dumps(results())), results())


if __name__ == "__main__":
    unittest.main()
