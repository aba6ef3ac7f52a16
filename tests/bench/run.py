#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the benchmarks beside the peers, and report.

Writes results.json, report.md and its plots to a folder, prints a table of
ratios for each benchmark, and ends with the goals that are not reached. The short
form takes some eight minutes; leave the machine alone meanwhile. Needs root: file
systems are loop-mounted, and caches dropped.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time

import bench
import report

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE_DIR = os.path.dirname(os.path.dirname(HERE))

# In this order: each is NAME.py here.
BENCHES = ("real_guest", "jobs", "nbd_path", "map", "growth", "probes",
           "cache_threads", "bitmap")


SKIPPED = 77  # exit status; it has said why


def first_line(*command):
    """What a program says first; "?" if it is not there"""
    try:
        seen = subprocess.run(command, capture_output=True, text=True,
                              check=True, timeout=20, cwd=SOURCE_DIR)
        return (seen.stdout or seen.stderr).splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "?"


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.partition(":")[2].strip() for line in file
                  if line.startswith("model name")]
    return f"{os.cpu_count()} x {models[0] if models else platform.machine()}"


def build_type():
    """Of what is measured; "?" if it cannot be told"""
    name = os.path.join(os.environ.get("SEEKLESS_BUILD_DIR", ""), "meson-info",
                        "intro-buildoptions.json")
    try:
        with open(name, encoding="utf-8") as file:
            return next(option["value"] for option in json.load(file)
                        if option["name"] == "buildtype")
    except (OSError, ValueError, KeyError, StopIteration):
        return "?"


def is_busy():
    return os.getloadavg()[0] > os.cpu_count() / 2


def machine():
    """What the figures depend on"""
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(file.readline().split()[1]) / (1 << 20)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "sources": first_line("git", "describe", "--always", "--dirty"),
        "processors": processor(),
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "built": f"{build_type()}, {first_line('cc', '--version')}",
        "load average at the start": f"{os.getloadavg()[0]:.1f}" + (
            ": **busy with other things; counts hold, times say little**"
            if is_busy() else ""),
        "stock": first_line("qemu-storage-daemon", "--version"),
        "qemu-nbd, qemu-img": first_line("qemu-img", "--version"),
        "nbdkit": first_line("nbdkit", "--version"),
        "nbdinfo": first_line("nbdinfo", "--version"),
        "fio": first_line("fio", "--version"),
        "cp, dd": first_line("cp", "--version"),
        "CRoaring": first_line("dpkg-query", "-W", "libroaring-dev"),
    }


def run_one(name, form):
    """Its results; None if it failed"""
    with tempfile.NamedTemporaryFile("r", suffix=".json",
                                     encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, name + ".py"), "--form", form,
             "--json", file.name])
        try:
            status = process.wait()
        except BaseException:
            # It has mounts and the like to remove; after ^C it does already.
            process.terminate()
            process.wait()
            raise
        if status:
            print(f"{name} " + ("was skipped" if status == SKIPPED else
                                f"failed with exit status {status}"),
                  file=sys.stderr)
            return None
        return json.load(file)


def options():
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true",
                        help="larger disks, finer steps, more rounds: hours")
    parser.add_argument("--only", metavar="NAME,...",
                        help="of " + ", ".join(BENCHES))
    parser.add_argument("--out", metavar="DIR",
                        default=os.path.join(SOURCE_DIR, "bench-results"),
                        help="where to (default: bench-results)")
    parser.add_argument("--check", action="store_true",
                        help="look whether it could run, and end")
    args = parser.parse_args()
    names = list(BENCHES) if args.only is None else args.only.split(",")
    for name in names:
        if name not in BENCHES:
            parser.error(f"there is no benchmark '{name}'; there are: " +
                         ", ".join(BENCHES))
    if os.geteuid() != 0:
        parser.error("the benchmarks need root: file systems are mounted")
    try:
        os.makedirs(args.out, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot make '{args.out}': {error.strerror}")
    return args, names


def store(folder, about, results):
    """Files and table of what was measured"""
    with open(os.path.join(folder, "results.json"), "w",
              encoding="utf-8") as file:
        json.dump({"machine": about, "results": results}, file, indent=1)
        file.write("\n")
    name = report.write(folder, about, results)
    for seen in results:
        print(f"\n{seen['title']}\n\n{report.table(seen['rows'])}")
    short = report.short_of(results)
    print(f"\n{report.goals(results) - len(short)} of {report.goals(results)} "
          f"goals hold; {name} has it all.")
    for bench_name, row in short:
        print(f"  falls short: {bench_name}: {row['case']} "
              f"({bench.verdict(row)[1]})")


def main():
    args, names = options()
    if args.check:
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    about, results, status = machine(), [], 0
    if is_busy():
        print("The machine is busy with other things: counts will hold, times "
              "say little.")
    try:
        for name in names:
            print(f"\n==> {name}", flush=True)
            seen = run_one(name, bench.LONG if args.long else bench.SHORT)
            if seen:
                results.append(seen)
    except (KeyboardInterrupt, SystemExit) as end:
        status = 130 if isinstance(end, KeyboardInterrupt) else end.code
        print("\nInterrupted. " + ("What was measured before:" if results else
                                   "Nothing had been measured."))
    if results:
        store(args.out, about, results)
    return status or (0 if len(results) == len(names) else 1)


if __name__ == "__main__":
    sys.exit(main())
