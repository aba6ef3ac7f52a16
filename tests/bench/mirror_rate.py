#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast a mirror is while a client makes holes, against an idle one.

usage: mirror_rate.py [EXTENTS [ROUNDS]]    (as root; default: 40000 3)

A written, fragmented disk on a loop-mounted ext4, O_DIRECT, cold caches. The
client zeroes 4 KiB blocks and writes data to them again, 200 times a second,
at random, ascending and descending from the end, and discards 50 a second.
Before and after each such mirror there is an idle one, and its rate is compared
with the mean of those two: disks drift more from minute to minute than a client
costs. Prints a JSON object a mirror (MB/s, probes), then the median ratio of each
load, with the least and the greatest. Set SEEKLESS_DAEMON=qemu-storage-daemon to
see what stock QEMU does, SEEKLESS_TEST_DIR to a tmpfs for a disk that is steady.
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

# What the client does, and in which order
LOADS = {
    "idle": ({}, nbd_load.RANDOM),
    "random": ({nbd_load.REWRITE: 200}, nbd_load.RANDOM),
    "ascending": ({nbd_load.REWRITE: 200}, nbd_load.ASCENDING),
    "descending": ({nbd_load.REWRITE: 200}, nbd_load.DESCENDING),
    "discard": ({nbd_load.DISCARD: 50}, nbd_load.DESCENDING),
}


def mirror(image, folder, name):
    """One mirror with one kind of client; what was seen"""
    rates, order = LOADS[name]
    iotests.drop_caches()
    with disk.DiskDaemon(image, ",cache.direct=on") as daemon:
        load = nbd_load.Load(daemon.nbd_path, "disk", rates=rates,
                             order=order)
        start = time.monotonic()
        daemon.start_mirror(os.path.join(folder, "copy"),
                            target_options={"cache": {"direct": True}})
        daemon.wait_ready()
        seconds = time.monotonic() - start
        requests = sum(len(done) for done in load.stop().values())
        daemon.finish()
        seen = {"load": name, "requests": requests,
                "mb_per_s": round(os.stat(image).st_size / seconds / 1e6, 1)}
        with contextlib.suppress(iotests.QMPError):
            stats = daemon.cache("disk")
            seen.update((key, stats[key]) for key in
                        ("probes", "extents", "lookups", "hits"))
    return seen


def main():
    extents, rounds = (int(word) for word in
                       (sys.argv[1:] + ["40000", "3"][len(sys.argv) - 1:]))
    ratios = {name: [] for name in LOADS if name != "idle"}
    with iotests.file_system("ext4", 16 * iotests.GiB) as folder:
        image = disk.fragmented(os.path.join(folder, "image"), extents)

        def rate(name):
            seen = mirror(image, folder, name)
            print(json.dumps(seen), flush=True)
            return seen["mb_per_s"]

        before = rate("idle")
        for _ in range(rounds):
            for name, seen in ratios.items():
                loaded, after = rate(name), rate("idle")
                seen.append(2 * loaded / (before + after))
                before = after
    for name, seen in ratios.items():
        print(f"{name}: {statistics.median(seen):.0%} of idle"
              f" ({min(seen):.0%} to {max(seen):.0%})")


if __name__ == "__main__":
    try:
        main()
    finally:
        iotests.scratch.remove()
