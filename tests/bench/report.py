# SPDX-License-Identifier: GPL-2.0-or-later
"""What scripts/bench makes of the results: a table, a report, pictures."""

import os
import statistics

import bench
import plot

HEAD = ("case", "unit", "ours", "rounds", "peer", "its", "times as good", "goal",
        "")


def spread(seen):
    """How many rounds, and how far they were apart: "3, 95 to 108 %" of the
    median"""
    median = statistics.median(seen)
    if len(seen) == 1 or median == 0:
        return str(len(seen))
    return (f"{len(seen)}, {100 * min(seen) / median:.0f} to "
            f"{100 * max(seen) / median:.0f} %")


def _lines_of(row):
    """One line a peer of the row"""
    ours = statistics.median(row["ours"])
    judged = bench.verdict(row)
    goal_of = row.get("goal", [None])[0]
    start = [row["case"], row["unit"], bench.figure(ours), spread(row["ours"])]
    mark = {True: "holds", False: "**falls short**"}
    if not row["peers"]:
        yield start + ["", "", "", judged[1] if judged else "",
                       mark[judged[0]] if judged else ""]
    for name, seen in row["peers"].items():
        theirs = statistics.median(seen)
        ratio = bench.better_by(row["better"], ours, theirs)
        mine = judged if name == goal_of else None
        yield start + [name, bench.figure(theirs),
                       "" if ratio is None else f"{ratio:.2f}",
                       mine[1] if mine else "",
                       mark[mine[0]] if mine else ""]
        start = ["", "", "", ""]


def table(rows):
    """As Markdown: ratios above 1 are in our favour"""
    lines = [list(HEAD)] + [line for row in rows for line in _lines_of(row)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    right = (2, 5, 6)
    rule = ["-" * (width - 1) + (":" if i in right else "-")
            for i, width in enumerate(max(w, 2) for w in widths)]
    lines.insert(1, rule)
    return "\n".join("| " + " | ".join(
        cell.rjust(widths[i]) if i in right else cell.ljust(widths[i])
        for i, cell in enumerate(line)) + " |" for line in lines)


def _counts(rows):
    for row in rows:
        for name, seen in row["counts"].items():
            numbers = ", ".join(
                f"{n:,} {what}" if isinstance(n, int)
                else f"{bench.figure(n)} {what}" for what, n in seen.items())
            yield f"* {row['case']}, {name}: {numbers}"


def short_of(results):
    """[(benchmark, row)] of the goals that are not reached"""
    return [(seen["bench"], row) for seen in results for row in seen["rows"]
            if bench.verdict(row) and not bench.verdict(row)[0]]


def goals(results):
    """How many goals there are"""
    return sum(bench.verdict(row) is not None
               for seen in results for row in seen["rows"])


def write(folder, machine, results):
    """report.md and its pictures"""
    lines = ["# Seekless beside its peers", ""]
    lines += [f"* {what}: {text}" for what, text in machine.items()]
    lines += ["", "Medians of rounds, which take turns with the peers'; how many there "
              "were, and the least and the most of ours, stands beside them. \"Times "
              "as good\": above 1 is in our favour, whatever the unit. Goals were "
              "set before measuring: at least as fast as the best peer, or as much "
              "faster as the way it is done promises; tell from the row how much "
              "one matters to you.", "",
              f"{goals(results) - len(short_of(results))} of {goals(results)} "
              "goals hold.", ""]
    for seen in results:
        lines += [f"## {seen['title']}", "",
                  f"`{seen['bench']}`, {seen['form']} form, "
                  f"{seen['seconds']:.0f} s", "", table(seen["rows"]), ""]
        counts = list(_counts(seen["rows"]))
        if counts:
            lines += ["Counted meanwhile:", "", *counts, ""]
        for picture in seen["plots"]:
            name = f"{seen['bench']}-{picture['name']}.svg"
            plot.draw(picture, os.path.join(folder, name))
            lines += [f"![{picture['title']}]({name})", ""]
        lines += [f"{note}\n" for note in seen["notes"]]
    name = os.path.join(folder, "report.md")
    with open(name, "w", encoding="utf-8") as file:
        file.write("\n".join(lines).rstrip() + "\n")
    return name
