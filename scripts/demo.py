#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A fragmented disk, mirrored live, by Seekless and by qemu-storage-daemon.

Called by scripts/demo, which installs and builds first. Each daemon serves a
disk of the same making over NBD to the same client, which reads, writes,
zeroes and discards 4 KiB blocks while the whole disk is mirrored.
"""

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

SOURCE_DIR = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
sys.path[:0] = [os.path.join(SOURCE_DIR, "tests", name)
                for name in ("iotests", "bench")]
sys.dont_write_bytecode = True
import nbd_load  # noqa: E402
import qmp  # noqa: E402
import status_calls  # noqa: E402

KiB, MiB = 1 << 10, 1 << 20
TIMEOUT = 60

SEEKLESS, STOCK = "seekless", "stock"
STOCK_DAEMON = "qemu-storage-daemon"
WRITTEN, PREALLOCATED = "written", "preallocated"


def say(text=""):
    print(text, flush=True)


def die(text):
    sys.exit(f"scripts/demo: {text}")


def run(*command, **options):
    result = subprocess.run([str(word) for word in command], check=False,
                            stdin=subprocess.DEVNULL, **options)
    if result.returncode:
        die(f"'{' '.join(map(str, command))}' failed")
    return result


class Place:
    """Where the disks are: as root an ext4 or XFS of our own, otherwise the
    folder that was given"""

    def __init__(self, args, stack):
        self.folder = tempfile.mkdtemp(prefix="seekless-demo-", dir=args.dir)
        stack.callback(shutil.rmtree, self.folder)
        self.disks = self.folder
        self.root = os.geteuid() == 0
        if self.root:
            self._mount(args, stack)
        else:
            say(f"Not root: the disks are plain files in {args.dir}, caches "
                "stay warm,\nand system calls are counted by strace in a "
                "second run of each mirror.")
        self.direct = self._can_direct()

    def _mount(self, args, stack):
        image = os.path.join(self.folder, "image")
        self.disks = os.path.join(self.folder, "mnt")
        os.mkdir(self.disks)
        with open(image, "wb") as file:
            # Both disks, both copies, and what surrounds the extents
            file.truncate(args.extents * args.extent_size * 10 + 512 * MiB)
        run(f"mkfs.{args.fs}", "-q", image)
        device = run("losetup", "--find", "--show", "--direct-io=on", image,
                     stdout=subprocess.PIPE, text=True).stdout.strip()
        stack.callback(run, "losetup", "--detach", device)
        run("mount", device, self.disks)
        stack.callback(run, "umount", self.disks)
        say(f"The disks are on a loop-mounted {args.fs}.")

    def _can_direct(self):
        name = os.path.join(self.disks, "direct")
        try:
            os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
            return True
        except OSError:
            say("No O_DIRECT here: all goes through the page cache.")
            return False
        finally:
            with contextlib.suppress(OSError):
                os.unlink(name)

    def forget_caches(self):
        os.sync()
        if self.root:
            with open("/proc/sys/vm/drop_caches", "w",
                      encoding="ascii") as file:
                file.write("3")


class Daemon:
    """One of the two daemons with a disk, an NBD export and a monitor"""

    def __init__(self, program, place, disk):
        self.place = place
        self.nbd_path = os.path.join(place.folder, "nbd")
        self._qmp_path = os.path.join(place.folder, "qmp")
        direct = "on" if place.direct else "off"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._qmp_path)
            listener.listen(1)
            self.process = subprocess.Popen(
                [program,
                 "--blockdev", "driver=file,node-name=disk,discard=unmap,"
                 f"cache.direct={direct},filename={disk}",
                 "--nbd-server",
                 f"addr.type=unix,addr.path={self.nbd_path}",
                 "--export",
                 "nbd,id=export,node-name=disk,name=disk,writable=on",
                 "--chardev", f"socket,id=qmp,path={self._qmp_path}",
                 "--monitor", "chardev=qmp"], stdin=subprocess.DEVNULL)
            ready, _, _ = select.select(
                [listener, os.pidfd_open(self.process.pid)], [], [], TIMEOUT)
            if listener not in ready:
                self.process.kill()
                die(f"{program} did not start")
            self.qmp = qmp.QMP(listener.accept()[0], TIMEOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.qmp.close()
        self.process.terminate()
        status = self.process.wait(TIMEOUT)
        for name in (self.nbd_path, self._qmp_path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        if status:
            die(f"the daemon ended with exit status {status}")

    def mirror(self, target, size):
        """The whole mirror until it is ready: seconds, and the worst answer
        time of the monitor meanwhile"""
        with open(target, "wb") as file:
            file.truncate(size)
        self.qmp.cmd("blockdev-add", {
            "driver": "file", "node-name": "target", "filename": target,
            "discard": "unmap", "cache": {"direct": self.place.direct}})
        worst = 0
        start = time.monotonic()
        self.qmp.cmd("blockdev-mirror", {
            "job-id": "mirror", "device": "disk", "target": "target",
            "sync": "full"})
        while True:
            asked = time.monotonic()
            (job,) = self.qmp.cmd("query-jobs")
            worst = max(worst, time.monotonic() - asked)
            progress(job)
            if job["status"] not in ("created", "running"):
                break
            with contextlib.suppress(qmp.QMPTimeout):
                self.qmp.wait_event("BLOCK_JOB_READY", 0.1)
                break
        seconds = time.monotonic() - start
        progress(self.qmp.cmd("query-jobs")[0], end=True)
        return seconds, worst

    def finish_mirror(self):
        """The client is gone: the copy must become equal and stay so"""
        self.qmp.cmd("block-job-cancel", {"device": "mirror"})
        event = self.qmp.wait_event("BLOCK_JOB_COMPLETED", TIMEOUT)
        if "error" in event["data"]:
            die(f"the mirror failed: {event['data']['error']}")

    def cache_stats(self):
        try:
            (stats,) = self.qmp.cmd("query-block-status-cache",
                                    {"node-name": "disk"})
            return stats
        except qmp.QMPError:
            return None


def progress(job, end=False):
    share = job["current-progress"] / max(job["total-progress"], 1)
    bar = "#" * int(share * 40)
    if sys.stdout.isatty():
        print(f"\r  [{bar:<40}] {share:4.0%}", end="\n" if end else "",
              flush=True)
    elif end:
        say(f"  [{bar:<40}] {share:4.0%}")


def make_disk(args, disk, kind):
    command = [os.path.join(SOURCE_DIR, "scripts", "make-fragmented-disk"),
               "--quiet", "--extents", args.extents,
               "--extent-size", args.extent_size]
    if kind == PREALLOCATED:
        command.append("--preallocated")
    run(*command, disk, stdout=subprocess.DEVNULL)


def measure(name, program, args, place, kind, counter, timed=True):
    """One mirror by one daemon, with the client at work; a dictionary of what
    was seen"""
    disk = os.path.join(place.disks, "disk")
    target = os.path.join(place.disks, "target")
    say(f"\n{name}, {kind} disk of {args.extents:,} extents:")
    make_disk(args, disk, kind)
    extents = status_calls.Extents(disk)
    size = os.stat(disk).st_size
    place.forget_caches()
    with Daemon(program, place, disk) as daemon:
        load = nbd_load.Load(daemon.nbd_path, "disk", args.seed)
        calls = counter(daemon.process.pid) if counter else None
        before = time.monotonic()
        seconds, worst_qmp = daemon.mirror(target, size)
        after = time.monotonic()
        calls = calls.stop() if calls else []
        requests = load.stop()
        daemon.finish_mirror()
        stats = daemon.cache_stats()
    identical = subprocess.run(["cmp", disk, target], check=False
                               ).returncode == 0
    say(f"  {seconds:.1f} s; the copy is "
        f"{'identical' if identical else 'DIFFERENT'}")
    os.unlink(disk)
    os.unlink(target)
    seen = {"name": name, "kind": kind, "identical": identical,
            "extents": len(extents)}
    if timed:
        seen.update(times(size, seconds, worst_qmp, requests, before, after))
    if counter:
        seen.update(counts(calls, extents, stats))
    return seen


def times(size, seconds, worst_qmp, requests, before, after):
    during = {kind: [latency for start, latency in done
                     if before <= start <= after]
              for kind, done in requests.items()}
    reads = during.pop(nbd_load.READ)
    others = [latency for done in during.values() for latency in done]
    return {"mb_per_s": size / seconds / 1e6, "seconds": seconds,
            "qmp_max": worst_qmp,
            "read_p50": nbd_load.percentile(reads, 0.5),
            "read_p99": nbd_load.percentile(reads, 0.99),
            "read_max": max(reads, default=0),
            "other_p99": nbd_load.percentile(others, 0.99),
            "other_max": max(others, default=0)}


def counts(calls, extents, stats):
    number = {kind: sum(call.kind == kind for call in calls)
              for kind in ("SEEK_DATA", "SEEK_HOLE", "FIEMAP")}
    walked = sum(extents.walked(call) for call in calls
                 if call.kind != "FIEMAP")
    told = [call.result for call in calls if call.kind == "FIEMAP"]
    if None not in told:
        walked += sum(told)
    elif stats:
        walked += stats["extents"]
    return {"seek_data": number["SEEK_DATA"], "seek_hole": number["SEEK_HOLE"],
            "fiemap": number["FIEMAP"], "walked": walked,
            "call_max": max((call.seconds for call in calls), default=0),
            "call_total": sum(call.seconds for call in calls),
            "lookups": stats["lookups"] if stats else None,
            "hits": stats["hits"] if stats else None}


def ms(seconds):
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-4 else \
        f"{seconds * 1e6:.0f} us"


ROWS = (
    ("status questions asked", lambda s: "not told" if s["lookups"] is None
     else f"{s['lookups']:,}"),
    ("  answered from the bitmaps", lambda s: "-" if s["hits"] is None
     else f"{s['hits']:,}"),
    ("lseek SEEK_DATA + SEEK_HOLE",
     lambda s: f"{s['seek_data']:,} + {s['seek_hole']:,}"),
    ("ioctl FIEMAP", lambda s: f"{s['fiemap']:,}"),
    ("extents walked by them", lambda s: f"{s['walked']:,}"),
    ("time in them", lambda s: ms(s["call_total"])),
    ("worst single one", lambda s: ms(s["call_max"])),
    ("client 4 KiB read p50", lambda s: ms(s["read_p50"])),
    ("client 4 KiB read p99", lambda s: ms(s["read_p99"])),
    ("client 4 KiB read max", lambda s: ms(s["read_max"])),
    ("client write/zero/discard p99", lambda s: ms(s["other_p99"])),
    ("client write/zero/discard max", lambda s: ms(s["other_max"])),
    ("QMP answer max", lambda s: ms(s["qmp_max"])),
    ("mirror", lambda s: f"{s['seconds']:.1f} s"),
    ("disk mirrored per second", lambda s: f"{s['mb_per_s']:,.0f} MB"),
    ("cmp of disk and copy", lambda s: "identical" if s["identical"]
     else "DIFFERENT"),
)


def table(results):
    """The results side by side, as Markdown"""
    head = ["", *(f"{seen['name']}, {seen['kind']}" for seen in results)]
    lines = [head] + [[title, *(value(seen) for seen in results)]
                      for title, value in ROWS]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * widths[0],
                     *("-" * (width - 1) + ":" for width in widths[1:])])
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in
                  zip(line[1:], widths[1:])]
        say("| " + " | ".join(cells) + " |")


def options():
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--daemon", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--extents", type=int,
                        default=40000 if os.geteuid() == 0 else 10000,
                        help="of each disk (default: %(default)s)")
    parser.add_argument("--extent-size", type=int, default=64 * KiB,
                        help="bytes of each (default: %(default)s)")
    parser.add_argument("--fs", choices=("ext4", "xfs"), default="ext4",
                        help="file system to make, as root")
    parser.add_argument("--dir", default="/var/tmp",
                        help="where to work (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0,
                        help="of the client's random offsets")
    parser.add_argument("--json", help="write the figures to this file, too")
    return parser.parse_args()


def main():
    args = options()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    counter = status_calls.counter()
    results = []
    load = os.getloadavg()[1]
    with contextlib.ExitStack() as stack:
        place = Place(args, stack)
        for kind in (WRITTEN, PREALLOCATED):
            for name, program in ((SEEKLESS, args.daemon),
                                  (STOCK, STOCK_DAEMON)):
                seen = measure(name, program, args, place, kind,
                               None if counter.slows else counter)
                if counter.slows:
                    seen.update(measure(name + ", counting", program, args,
                                        place, kind, counter, timed=False),
                                name=name)
                results.append(seen)
    say()
    table(results)
    notes(args, counter, place, results, load)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)
    return 0 if all(seen["identical"] for seen in results) else 1


def notes(args, counter, place, results, load):
    rates = ", ".join(f"{rate} {kind}" for kind, rate
                      in nbd_load.RATES.items())
    how = "O_DIRECT" if place.direct else "through the page cache"
    caches = "cold caches" if place.root else "warm caches"
    version = run(STOCK_DAEMON, "--version", stdout=subprocess.PIPE,
                  text=True).stdout.splitlines()[0]
    counted = "" if counter.slows else ",\nas the daemon counts them"
    say(f"""
Stock is {version}.
Each disk: {results[0]["extents"]:,} extents, {args.extents} x \
{args.extent_size} bytes asked for; {how}, {caches}.
Client: 4 KiB requests, at most {rates} a second, one in
flight each; reads and writes at random, the rest downward from the disk's end.
System calls counted by {counter.method}.
Extents walked: for a seek those between its offset and its answer, by the map
of the file before the mirror; for a FIEMAP those that it returned{counted}.""")
    if load > os.cpu_count():
        say(f"The machine was busy with other things, load average {load:.0f}: the "
            "counts\nhold, the times say little.")


if __name__ == "__main__":
    sys.exit(main())
