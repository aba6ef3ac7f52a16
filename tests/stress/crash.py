#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon is killed with SIGKILL under load, again and again, or the power is
cut: what was flushed is there, images check clean, locks are gone, and the daemon
that is started next serves the same.

    tests/stress/crash.py                        a few kills
    tests/stress/crash.py --rounds 500           the long form: 500 kills
    tests/stress/crash.py --power --rounds 50    50 power cuts
    tests/stress/crash.py --seed 1 --round 17    that one round again

SEEKLESS_BUILD_DIR says where the programs are (default: ./build). As root rounds
are on ext4, XFS, btrfs, and tmpfs, too, and on loop devices. A round's plan depends
on the seed and its number alone (--list shows plans); what is in flight at the end
does not. Output is in the Test Anything Protocol, with figures as remarks; a
round that fails is told with its plan, and is the last without --go-on.

A round (crash_round.py): a disk (raw file, block device, qcow2 image, image with a
backing file; crash_disk.py), some clients that write all over each other
(crash_load.py), a mirror, backup, commit, snapshot ... in some state
(crash_jobs.py), and SIGKILL after so many answers to clients from then on
(crash_plan.py). Then (crash_check.py): stock programs can open everything at once;
`check` of stock and ours find no corruption and the same leaks; each sector holds
what it may (crash_truth.py); stored bitmaps are inconsistent; what was completed is
complete; a daemon with the same command line starts over what is left behind,
serves the same content, with a map that calls nothing zero that is not, and a new
backup and mirror are equal to it; leaks can be repaired, and then there are none. With
--power the file system loses what it had not written (crash_power.py).
"""

import argparse
import collections
import contextlib
import itertools
import os
import signal
import sys
import time
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "../iotests"))
import crash_plan  # noqa: E402
import crash_power  # noqa: E402
import iotests  # noqa: E402
from crash_round import Round  # noqa: E402

SHORT = 12


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=SHORT)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--round", type=int, action="append",
                        help="only that one (may be repeated)")
    parser.add_argument("--activity", choices=crash_plan.ACTIVITIES,
                        help="only rounds with that under way")
    parser.add_argument("--power", action="store_true")
    parser.add_argument("--list", action="store_true",
                        help="only show the rounds' plans")
    parser.add_argument("--go-on", action="store_true",
                        help="do not stop at a round that fails")
    return parser.parse_args()


@contextlib.contextmanager
def file_systems():
    """Folders by the kind of file system"""
    with contextlib.ExitStack() as stack:
        folders = {"here": iotests.scratch.path}
        if crash_power.possible():
            for kind in iotests.FILE_SYSTEMS:
                folders[kind] = stack.enter_context(iotests.file_system(kind))
        if os.path.ismount("/dev/shm"):
            folders["tmpfs"] = stack.enter_context(
                iotests.memory_file_system())
        yield folders


class Report:
    """What happened, in the Test Anything Protocol"""

    def __init__(self):
        self.statistics = collections.Counter()
        self.number = 0
        self.failed = []

    def line(self, name, problem=None):
        self.number += 1
        print(f"{'not ok' if problem else 'ok'} {self.number} - {name}",
              flush=True)
        if problem:
            self.failed.append(name)
            self.remark(problem)

    @staticmethod
    def remark(text):
        print("".join(f"# {line}\n" for line in text.splitlines()), end="",
              flush=True)


def plans(args):
    made = (crash_plan.make(args.seed, number, args.power)
            for number in args.round or itertools.count())
    fitting = (plan for plan in made
               if args.activity in (None, plan.activity))
    return itertools.islice(fitting, args.rounds)


def run_rounds(args, report):
    with contextlib.ExitStack() as stack:
        folders = {} if args.power else stack.enter_context(file_systems())
        devices = crash_power.possible()
        for plan in plans(args):
            number = plan.number
            name = f"round {number}: {plan.kind} {plan.activity} {plan.moment}"
            if args.list:
                print(plan)
                continue
            if plan.kind == "device" and not devices:
                report.line(f"{name} # SKIP needs root")
                continue
            try:
                Round(plan, folders, report.statistics).run()
            except Exception:
                report.line(name, f"{plan}\n{traceback.format_exc()}")
                if not args.go_on:
                    break
            else:
                report.line(name)


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if args.power and not crash_power.possible():
        print("1..0 # SKIP needs root for loop-mounted file systems")
        iotests.scratch.remove()
        sys.exit(0)
    report = Report()
    started = time.monotonic()
    try:
        run_rounds(args, report)
    finally:
        left = iotests.scratch.remove()
    if args.list:
        sys.exit(0)
    report.line("nothing is left behind", "\n".join(left))
    for name, value in sorted(report.statistics.items()):
        report.remark(f"{name}: {value}")
    times = os.times()
    report.remark(
        f"seed {args.seed}: {len(report.failed)} failed; "
        f"{time.monotonic() - started:.0f} s, CPU "
        f"{times.user + times.system:.0f} s of this program, "
        f"{times.children_user + times.children_system:.0f} s of others")
    print(f"1..{report.number}")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
