# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw the plots of the benchmarks, as SVG, with gnuplot."""

import subprocess

# As some of the pictures become part of the documentation
LICENCE = "<!-- SPDX-License-Identifier: GPL-2.0-or-later -->"


def _quoted(text):
    """As gnuplot reads a string that it takes as it is"""
    return "'" + text.replace("'", "''").replace("\n", " ") + "'"


def script(plot, output):
    """What gnuplot is told to draw @plot (Bench.plot) to the file @output"""
    lines = [
        "set terminal svg noenhanced size 860,480 font 'sans-serif,13' "
        "background '#ffffff'",
        f"set output {_quoted(output)}",
        f"set title {_quoted(plot['title'])}",
        f"set xlabel {_quoted(plot['x'])}",
        f"set ylabel {_quoted(plot['y'])}",
        "set key outside bottom center horizontal",
        "set grid linecolor '#dddddd'",
        "set border 3", "set tics nomirror",
    ]
    lines += [f"set logscale {axis}" for axis in "xy" if plot["log" + axis]]
    for i, (x, text) in enumerate(plot["marks"]):
        lines += [f"set arrow from first {x}, graph 0 to first {x}, graph 1 "
                  "nohead dashtype 2 linecolor '#888888'",
                  f"set label {_quoted(text)} at first {x}, graph "
                  f"{0.97 - i % 4 * 0.05:.2f} offset 0.5,0"]
    labels = list(plot["series"])
    for i, label in enumerate(labels):
        lines.append(f"$data{i} << END")
        lines += [f"{x} {y}" for x, y in plot["series"][label]]
        lines.append("END")
    style = "lines linewidth 1.5" if max(map(len, plot["series"].values())) > 40 \
        else "linespoints linewidth 1.5 pointtype 7 pointsize 0.5"
    lines.append("plot " + ", ".join(
        f"$data{i} using 1:2 with {style} title {_quoted(label)}"
        for i, label in enumerate(labels)))
    return "\n".join(lines) + "\n"


def draw(plot, output):
    """Raises CalledProcessError with gnuplot's words in stderr"""
    subprocess.run(["gnuplot"], input=script(plot, output), text=True,
                   check=True, capture_output=True, timeout=60)
    with open(output, "r+", encoding="utf-8") as file:
        first, rest = file.read().split("\n", 1)
        file.seek(0)
        file.write(f"{first}\n{LICENCE}\n{rest}")
