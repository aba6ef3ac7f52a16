# SPDX-License-Identifier: GPL-2.0-or-later
"""fio as the client: over NBD (its engine on libnbd) or on a file itself.

All jobs of one run take turns, each alone. fio looks every 100 ms whether a job has
ended, and goes on 100 ms later: so a job that ends a little before such a look
wastes the least time, one of 250, 350, ... ms.
"""

import collections
import json
import os

import iotests

Seen = collections.namedtuple(
    "Seen", "requests seconds iops mb_per_s p99_us client_us")
Seen.__doc__ = """What a job did. p99_us: of a request's latency; client_us: fio's
own CPU time a request."""

# One thread a connection
COMMON = {"thread": 1, "group_reporting": 1, "randseed": 7, "norandommap": 1}


def nbd(uri):
    """Options of a job that asks a server"""
    return {"ioengine": "nbd", "uri": uri}


def uring(filename, direct):
    """Options of a job that goes to the file, as fast as Linux can. What is in the
    page cache stays there."""
    return {"ioengine": "io_uring", "filename": filename,
            "direct": int(direct), "invalidate": 0}


def for_seconds(seconds):
    return {"time_based": 1, "runtime": f"{seconds * 1000:.0f}ms"}


def work(rw, block, depth, size, connections=1):
    """Options of what a job does: @rw as fio calls it; bytes. Several connections
    that go in order have a part of the disk each."""
    part = size // connections if rw in ("read", "write") else size
    return {"rw": rw, "bs": block, "iodepth": depth, "numjobs": connections,
            "size": part,
            "offset_increment": part if part != size else 0}


def _seen(name, job):
    if job["error"]:
        raise AssertionError(f"fio's job {name}: {os.strerror(job['error'])}")
    done = job["read"] if job["read"]["total_ios"] else job["write"]
    requests = done["total_ios"]
    cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1e3
    return Seen(requests, done["runtime"] / 1e3, done["iops"],
                done["bw_bytes"] / 1e6,
                done["clat_ns"]["percentile"]["99.000000"] / 1e3,
                cpu / requests * 1e6)


def run(jobs, **options):
    """Run @jobs, [(name, options)], in turns; @options are those of all. What
    was seen of each, in order. AssertionError if a request failed."""
    name = iotests.path("jobs.fio")
    with open(name, "w", encoding="utf-8") as file:
        for title, more in jobs:
            words = {**COMMON, **options, **more}
            file.write(f"[{title}]\nstonewall\n")
            file.writelines(f"{word}={value}\n"
                            for word, value in words.items())
    text = iotests.run("fio", "--output-format=json", name,
                       timeout=3600).stdout
    seen = json.loads(text[text.index("{"):])["jobs"]
    if len(seen) != len(jobs):
        raise AssertionError(f"fio reports of {len(seen)} jobs: {text}")
    return [_seen(title, job) for (title, _), job in zip(jobs, seen)]
