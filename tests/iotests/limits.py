# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of docs/limits.md: what there may be at most"""

import collections
import os
import re

DOC = os.path.join(os.path.dirname(__file__), "../../docs/limits.md")

UNITS = {"": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
         "TiB": 1 << 40, "s": 1, "ms": 0.001}

# source: "FILE NAME", message: how the error begins, or ""
Limit = collections.namedtuple("Limit", "what value message source")


def rows():
    """All rows that name where the limit is set"""
    with open(DOC, encoding="utf-8") as file:
        for line in file:
            cells = [cell.strip() for cell in line.strip().strip("|")
                     .split(" | ")]
            source = re.fullmatch(r"`(\S+ \S+)`", cells[-1])
            if len(cells) != 4 or not source:
                continue
            number, unit = re.fullmatch(r"([\d,]+) ?(\w*)", cells[1]).groups()
            message = re.search(r"`([^`]*)`", cells[2])
            yield Limit(cells[0], int(number.replace(",", "")) * UNITS[unit],
                        message[1] if message else "", source[1])


def documented(what):
    """The number in the row of that name, in bytes, seconds or pieces"""
    value, = [row.value for row in rows() if row.what == what]
    return value
