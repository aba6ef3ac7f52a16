#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Take out, one by one, what has to hold when the daemon is killed or the power is
cut: crash.py must notice each time.

    tests/stress/crash-breaks.py [--rounds N] [NAME...]
    tests/stress/crash-breaks.py --check

What to take out stands in tests/rules/crash.py; --check only looks whether the
sources still have these texts. Builds in a copy of the tree, in SEEKLESS_TEST_DIR
(default: /var/tmp); needs root for power cuts. Tells which round noticed what, and
exits 1 if something went unnoticed in N rounds (default: 100).
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
sys.path.insert(0, os.path.join(TOP, "tests/rules"))
sys.dont_write_bytecode = True
import crash  # noqa: E402

PROGRAMS = ["tools/seekless-storage-daemon", "tools/seekless-img"]


def text_of(tree, source):
    with open(os.path.join(tree, source), encoding="utf-8") as file:
        return file.read()


def write(tree, source, text):
    with open(os.path.join(tree, source), "w", encoding="utf-8") as file:
        file.write(text)


def build(folder):
    subprocess.run(["ninja", "-C", folder, *PROGRAMS], check=True,
                   stdout=subprocess.DEVNULL)


def missing():
    """Names of what the sources no longer have"""
    return [f"{name}: {source} no longer has the text to replace"
            for source, name, _, old, _, _ in crash.BREAKS
            if text_of(TOP, source).count(old) != 1]


def noticed(folder, rounds, more):
    """What crash.py has to say of the round that failed, or None"""
    result = subprocess.run(
        [os.path.join(TOP, "tests/stress/crash.py"), "--rounds", str(rounds),
         *more], text=True,
        env=dict(os.environ, SEEKLESS_BUILD_DIR=folder), check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode == 0:
        return None
    match = re.search(r"^not ok \d+ - (.*)$", result.stdout, re.MULTILINE)
    causes = re.findall(r"^# (?:\w+\.)*(?:Wrong|\w*Error|QMPTimeout): (.*)$",
                        result.stdout, re.MULTILINE)
    cause = causes[-1][:150] if causes else result.stdout[-300:]
    return f"{match and match[1]}: {cause}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("name", nargs="*")
    args = parser.parse_args()
    problems = missing()
    print("".join(f"{problem}\n" for problem in problems), end="")
    if args.check or problems:
        sys.exit(1 if problems else 0)
    unnoticed = 0
    parent = os.environ.get("SEEKLESS_TEST_DIR", "/var/tmp")
    with tempfile.TemporaryDirectory(prefix="seekless-break-",
                                     dir=parent) as folder:
        tree, output = os.path.join(folder, "tree"), \
            os.path.join(folder, "build")
        shutil.copytree(TOP, tree, ignore=shutil.ignore_patterns(
            ".git", "build*", "__pycache__"))
        subprocess.run(["meson", "setup", output, tree], check=True,
                       stdout=subprocess.DEVNULL)
        build(output)
        for source, name, what, old, new, more in crash.BREAKS:
            if args.name and name not in args.name:
                continue
            text = text_of(tree, source)
            write(tree, source, text.replace(old, new))
            build(output)
            answer = noticed(output, args.rounds, more)
            write(tree, source, text)
            unnoticed += answer is None
            print(f"{name} ({what}): {answer or 'NOT NOTICED'}", flush=True)
    print(f"{unnoticed} went unnoticed")
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
