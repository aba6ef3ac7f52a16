#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups beside stock QEMU: several jobs at once, and a client meanwhile.

usage: backup_jobs.py [EXTENTS [ROUNDS]]    (as root; default: 20000 3)

A written, fragmented disk with a 4 KiB hole every 64 MiB, on a loop-mounted ext4,
O_DIRECT, cold caches. First one backup of it, then three at once, a second
apart: how often the file system was asked (lseek, FIEMAP), how often
the status cache had to probe, and MB/s. Then a backup while a client reads, writes,
zeroes and discards 4 KiB blocks: MB/s, the client's latencies, the monitor's. Prints
a JSON object a run, then the medians. Both daemons take turns.
"""

import contextlib
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "iotests"))
import disk  # noqa: E402
import iotests  # noqa: E402
import nbd_load  # noqa: E402
import status_calls  # noqa: E402
from iotests import KiB, MiB  # noqa: E402

CHUNK = 64 * KiB
HOLE_EVERY = 64 * MiB
APART = 1  # second
DAEMONS = {"ours": iotests.DAEMON, "stock": iotests.STOCK_DAEMON}


def start(daemon, folder, number):
    """One backup; its target's name"""
    name = f"job{number}"
    target = os.path.join(folder, name)
    disk.sparse(target, os.stat(daemon.filename).st_size)
    daemon.add_node(name + "-target", target, cache={"direct": True})
    daemon.cmd("blockdev-backup", {
        "job-id": name, "device": "disk", "target": name + "-target",
        "sync": "full"})
    return target


def finish(daemon, number):
    name = f"job{number}"
    daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device=name)
    daemon.qmp.wait_job(name, "null")
    daemon.cmd("blockdev-del", node_name=name + "-target")


def probes(daemon):
    try:
        return daemon.cache("disk")["probes"]
    except iotests.QMPError:
        return None


def jobs(image, folder, program, number):
    """So many backups at once"""
    iotests.drop_caches()
    with disk.DiskDaemon(image, ",cache.direct=on", program=program) as daemon:
        counter = status_calls.counter()(daemon.process.pid)
        begun = time.monotonic()
        targets = []
        for i in range(number):
            # The point is that they are not at the same place.
            time.sleep(max(begun + i * APART - time.monotonic(), 0))
            targets.append(start(daemon, folder, i))
        for i in range(number):
            finish(daemon, i)
        seconds = time.monotonic() - begun
        calls = counter.stop()
        same = all(iotests.run("cmp", image, target, status=None).returncode == 0
                   for target in targets)
        for target in targets:
            os.unlink(target)
        return {"jobs": number, "mb_per_s": round(
            number * os.stat(image).st_size / seconds / 1e6, 1),
                "lseeks": sum(c.kind != "FIEMAP" for c in calls),
                "fiemaps": sum(c.kind == "FIEMAP" for c in calls),
                "probes": probes(daemon), "identical": same}


def ask(daemon, job, latencies):
    """Until the job is gone"""
    while True:
        asked = time.monotonic()
        there = [row for row in daemon.cmd("query-jobs") if row["id"] == job]
        latencies.append(time.monotonic() - asked)
        if not there:
            return
        with contextlib.suppress(iotests.QMPTimeout):
            daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", 0.005, device=job)


def loaded(image, folder, program):
    """One backup with a client at work"""
    iotests.drop_caches()
    with disk.DiskDaemon(image, ",cache.direct=on", program=program) as daemon:
        load = nbd_load.Load(daemon.nbd_path, "disk")
        answers = []
        begun = time.monotonic()
        target = start(daemon, folder, 0)
        ask(daemon, "job0", answers)
        ended = time.monotonic()
        requests = load.stop()
        os.unlink(target)
    during = {kind: [latency for at, latency in done if begun <= at <= ended]
              for kind, done in requests.items()}
    reads = during.pop(nbd_load.READ)
    others = [latency for done in during.values() for latency in done]

    def ms(latencies, share):
        return round(nbd_load.percentile(latencies, share) * 1e3, 2)

    return {"mb_per_s": round(os.stat(image).st_size / (ended - begun) / 1e6, 1),
            "read_p50": ms(reads, 0.5), "read_p99": ms(reads, 0.99),
            "read_max": ms(reads, 1), "other_p99": ms(others, 0.99),
            "other_max": ms(others, 1), "qmp_p99": ms(answers, 0.99),
            "qmp_max": ms(answers, 1)}


def medians(rows):
    return {key: statistics.median(row[key] for row in rows)
            for key in rows[0] if isinstance(rows[0][key], (int, float))}


def main():
    extents, rounds = (int(word) for word in
                       (sys.argv[1:] + ["20000", "3"][len(sys.argv) - 1:]))
    with iotests.file_system("ext4", 8 * extents * CHUNK) as folder:
        image = disk.fragmented(os.path.join(folder, "image"), extents)
        for offset in range(0, extents * CHUNK, HOLE_EVERY):
            iotests.run("fallocate", "--punch-hole", "--offset", offset,
                        "--length", 4 * KiB, image)
        seen = {}
        for _ in range(rounds):
            for name, program in DAEMONS.items():
                for number in (1, 3):
                    row = jobs(image, folder, program, number)
                    print(json.dumps({"daemon": name, **row}), flush=True)
                    seen.setdefault((name, f"{number} jobs"), []).append(row)
                row = loaded(image, folder, program)
                print(json.dumps({"daemon": name, **row}), flush=True)
                seen.setdefault((name, "client"), []).append(row)
    for (name, what), rows in seen.items():
        print(f"{name}, {what}: {json.dumps(medians(rows))}")


if __name__ == "__main__":
    try:
        main()
    finally:
        iotests.scratch.remove()
