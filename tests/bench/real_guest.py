#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest feels while its disk is mirrored.

Debian's kernel in stock qemu-system-x86_64 (TCG) runs guest-latency.c, which
reads, writes and zeroes 4 KiB at a time with O_DIRECT, and has a timer every
millisecond. Its disks are two files in many extents, one full of data, the other
preallocated and never written; each is mirrored once. Ours: the disks are in
our daemon, which serves the guest over NBD. Stock: they are in the QEMU that
runs the guest (raw over file), and so is the mirror.
"""

import contextlib
import os
import select
import socket
import subprocess
import time

import bench
import disk
import guest
import iotests
import nbd_load
import qmp
import status_calls
from iotests import KiB, MiB, path

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                      "guest-latency.c")
# Bytes of an extent, by disk
DISKS = {"written": 24 * KiB, "preallocated": 64 * KiB}
LABELS = {"ours": "Seekless", "stock": "stock QEMU",
          "stock daemon": "stock daemon"}
INTERVALS = 4000, 20000, 50000  # us between reads, writes, zeroes
BUCKET = 0.1  # s, of the plots
# What a mirror that is over at once is looked at for
LEAST = 1  # s
READ, WRITE, ZERO, TIMER = "RWZT"
# During a mirror these are to be half as long as stock's. The worst is a matter of
# luck where the processors have more to do than they can.
GOALS = {"written": ((READ, "p99"), (TIMER, "p99")),
         "preallocated": ((READ, "p99"), (READ, "worst"), (TIMER, "worst"))}


def compile_program():
    name = path("guest-latency")
    iotests.run("gcc", "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
                "-static", "-pthread", "-o", name, SOURCE)
    return name


def parse(lines):
    """{kind: [(start, lasted)]} and how long it ran, in seconds, of what the
    program says after "stopped" """
    seen = {kind: [] for kind in (READ, WRITE, ZERO, TIMER)}
    for line in lines:
        kind, *numbers = line.split()
        if kind == "end":
            return seen, int(numbers[0]) / 1e6
        at, lasted = (int(number) / 1e6 for number in numbers)
        seen[kind].append((at, lasted))
    raise AssertionError("the guest's program has not said all")


# ---- where the disks are ----------------------------------------------------

def in_daemon(stack, images, program):
    """In a storage daemon: (its monitor, its process, the words with which
    QEMU gets at the disks)"""
    nbd = path(f"nbd{iotests.Daemon.count()}")
    arguments, words = [], []
    for name, image in images.items():
        arguments += ["--blockdev", f"driver=file,node-name={name},filename="
                      f"{image},cache.direct=on,discard=unmap"]
        words += ["-blockdev", f"driver=nbd,node-name={name},export={name},"
                  f"server.type=unix,server.path={nbd},discard=unmap",
                  "-device", f"virtio-blk-pci,drive={name}"]
    arguments += ["--nbd-server", f"addr.type=unix,addr.path={nbd}"]
    for name in images:
        arguments += ["--export", f"nbd,id=export-{name},node-name={name},"
                      f"name={name},writable=on"]
    daemon = stack.enter_context(iotests.Daemon(*arguments, program=program))
    return daemon.qmp, daemon.pid, words


def in_qemu(images):
    """In the QEMU that runs the guest: words"""
    words = []
    for name, image in images.items():
        words += ["-blockdev", f"driver=raw,node-name={name},file.driver=file,"
                  f"file.filename={image},file.cache.direct=on,"
                  "file.discard=unmap,discard=unmap,cache.direct=on",
                  "-device", f"virtio-blk-pci,drive={name}"]
    return words


def start_guest(stack, words, program):
    """A guest and its QEMU's monitor"""
    script = "say up\n" + "".join(
        f"read go; guest-latency /dev/vd{'ab'[i]} "
        f"{' '.join(map(str, INTERVALS))}\n" for i in range(len(DISKS)))
    name = path("guest.qmp")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen(1)
        try:
            vm = stack.enter_context(guest.Guest(
                None, script + "read go", [program],
                [*words, "-chardev", f"socket,id=qmp,path={name}",
                 "-mon", "chardev=qmp,mode=control"]))
            ready, _, _ = select.select([listener], [], [], iotests.TIMEOUT)
            assert ready, "QEMU does not start"
            monitor = stack.enter_context(qmp.QMP(listener.accept()[0]))
        finally:
            os.unlink(name)
    vm.wait_for("up")
    return vm, monitor


# ---- one mirror -------------------------------------------------------------

class Felt:
    """What the guest felt, and what it took to make it feel that: times are
    seconds since the mirror began"""

    def __init__(self, begun, seconds, ready):
        self.begun, self.seconds, self.ready = begun, seconds, ready
        self.noted = {}
        self.counts = {}

    def set_calls(self, calls, extents, by_fiemap):
        """@extents: of the disk; @by_fiemap: how many of them FIEMAP told"""
        seeks = [call for call in calls if call.kind != "FIEMAP"]
        times = [call.seconds * 1e3 for call in calls]
        self.counts = {
            "lseek": len(seeks), "FIEMAP": len(calls) - len(seeks),
            "extents visited": by_fiemap + sum(map(extents.walked, seeks)),
            "ms in them": sum(times), "ms in the worst": max(times, default=0)}

    def set_notes(self, notes, lasted, running, stopped):
        """By the two moments that both clocks know"""
        scale = (stopped - running) / lasted
        self.noted = {kind: [(running - self.begun + at * scale, time_ * scale)
                             for at, time_ in rows]
                      for kind, rows in notes.items()}

    def before(self, kind):
        return [lasted for at, lasted in self.noted[kind] if at + lasted < 0]

    def during(self, kind):
        """Of all that was under way at some moment of the mirror"""
        return [lasted for at, lasted in self.noted[kind]
                if at + lasted >= 0 and at <= max(self.seconds, LEAST)]

    def worst_over_time(self, kind):
        """(time, ms) of the worst that was under way in each tenth of a
        second"""
        worst = {}
        for at, lasted in self.noted[kind]:
            for i in range(int(at // BUCKET), int((at + lasted) // BUCKET) + 1):
                worst[i] = max(worst.get(i, 0), lasted * 1e3)
        return [(round(i * BUCKET, 1), worst[i]) for i in sorted(worst)]


def mirror(monitor, name, target, limit):
    """Until it is ready; False: it is not, after so many seconds"""
    monitor.cmd("blockdev-mirror", {
        "job-id": "mirror", "device": name, "target": target, "sync": "full"})
    try:
        monitor.wait_event("BLOCK_JOB_READY", limit, device="mirror")
        return True
    except iotests.QMPTimeout:
        return False


def told(monitor, name):
    """How many extents the status cache has been told of by FIEMAP"""
    try:
        (cache,) = monitor.cmd("query-block-status-cache", node_name=name)
        return cache["extents"]
    except iotests.QMPError:
        return 0


def feel(vm, monitor, pid, name, image, before, limit):
    """The guest's program runs, and the mirror begins after so many seconds"""
    copy = disk.sparse(image + ".copy", os.stat(image).st_size)
    monitor.cmd("blockdev-add", {
        "driver": "file", "node-name": "copy", "filename": copy,
        "discard": "unmap", "cache": {"direct": True}})
    extents = status_calls.Extents(image)
    assert told(monitor, name) == 0
    vm.send("go")
    lines = vm.lines("end")
    while next(lines) != "running":
        pass
    running = time.monotonic()
    time.sleep(before)
    counter = status_calls.counter()(pid)
    begun = time.monotonic()
    ready = mirror(monitor, name, "copy", limit)
    seconds = time.monotonic() - begun
    felt = Felt(begun, seconds, ready)
    felt.set_calls(counter.stop(), extents, told(monitor, name))
    time.sleep(max(LEAST - seconds, 0) + LEAST)
    vm.send("stop")
    while next(lines) != "stopped":
        pass
    stopped = time.monotonic()
    felt.set_notes(*parse(lines), running, stopped)
    monitor.cmd("block-job-cancel", device="mirror", force=not ready)
    monitor.wait_job("mirror", "null")
    monitor.cmd("blockdev-del", node_name="copy")
    os.unlink(copy)
    return felt


def one_guest(where, folder, program, extents, before, limit):
    """A guest with both disks: {disk: Felt}"""
    images = {name: disk.fragmented(os.path.join(folder, name), extents, size,
                                    preallocated=name == "preallocated")
              for name, size in DISKS.items()}
    iotests.drop_caches()
    seen = {}
    with contextlib.ExitStack() as stack:
        if where == "stock":
            words, monitor = in_qemu(images), None
        else:
            monitor, pid, words = in_daemon(
                stack, images, iotests.DAEMON if where == "ours" else
                iotests.STOCK_DAEMON)
        vm, its_monitor = start_guest(stack, words, program)
        for name, image in images.items():
            seen[name] = feel(
                vm, monitor or its_monitor, pid if monitor else vm.pid, name,
                image, before, limit)
        vm.send("go")
        vm.wait()
    for image in images.values():
        os.unlink(image)
    return seen


# ---- the benchmark ----------------------------------------------------------

def smoke(b, program):
    """The guest's program, but here"""
    image = disk.written(path("image"), 4 * MiB)
    with subprocess.Popen([program, image, *map(str, INTERVALS)], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE
                          ) as process:
        assert process.stdout.readline() == "running\n"
        time.sleep(0.5)
        said, _ = process.communicate("stop\n")
    stopped, *lines = said.splitlines()
    assert stopped == "stopped" and not process.returncode, said
    notes, lasted = parse(lines)
    felt = Felt(lasted / 2, LEAST, True)
    felt.set_notes(notes, lasted, 0, lasted)
    for kind in (READ, WRITE, ZERO, TIMER):
        assert notes[kind] and felt.worst_over_time(kind), said
    b.limit("of 4 KiB reads every 4 ms most were made", "us between reads",
            [lasted * 1e6 / len(notes[READ])], 1e6)


def figures(b, what, felts, peers, take, unit="ms", goal=None, counts=False):
    seen = {name: [take(felt) for felt in rows]
            for name, rows in felts.items()}
    b.ratio(what, unit, bench.LESS, seen["ours"],
            {name: seen[name] for name in peers}, goal,
            {name: rows[-1].counts for name, rows in felts.items()}
            if counts else None)


def worst(latencies):
    return max(latencies, default=0) * 1e3


def p99(latencies):
    return nbd_load.percentile(latencies, 0.99) * 1e3


def report(b, kind, felts):
    peers = [name for name in felts if name != "ours"]
    figures(b, f"{kind}: mirror", felts, peers, lambda f: f.seconds, "s",
            counts=True)
    for what, key in (("read", READ), ("timer's lateness", TIMER),
                      ("write", WRITE), ("zero, then write", ZERO)):
        for when in ("before", "during"):
            for share, take in (("p99", p99), ("worst", worst)):
                goal = when == "during" and (key, share) in GOALS[kind]
                figures(b, f"{kind}: {share} {what} {when}", felts, peers,
                        lambda f, key=key, when=when, take=take:
                        take(getattr(f, when)(key)),
                        goal=("stock", 2) if goal else None)
    for plot, title, key in (("reads", "worst 4 KiB read", READ),
                             ("timers", "worst lateness of a 1 ms timer",
                              TIMER)):
        b.plot(f"{kind}-{plot}", f"In the guest, {kind} disk: {title} in each "
               "tenth of a second", "seconds since the mirror began", "ms",
               {LABELS[name]: rows[-1].worst_over_time(key)
                for name, rows in felts.items()}, logy=True,
               marks=[(0, "mirror begins")] + [
                   (round(rows[-1].seconds, 2), f"{LABELS[name]}: ready")
                   for name, rows in felts.items() if rows[-1].ready])


def run(b):
    program = compile_program()
    if b.form == bench.SMOKE:
        smoke(b, program)
        return
    extents, before, limit, rounds = b.choose(None, (100000, 3, 12, 1),
                                              (100000, 10, 60, 3))
    where = ["ours", "stock"] + b.choose(None, [], ["stock daemon"])
    size = 4 * extents * sum(DISKS.values())
    with iotests.memory_file_system() as memory, iotests.file_system(
            "ext4", size, memory, direct_io=True) as folder:
        results = b.alternate(rounds, {
            name: lambda name=name: one_guest(name, folder, program, extents,
                                              before, limit)
            for name in where})
    sizes = " and ".join(f"{size // KiB} KiB ({name})"
                         for name, size in DISKS.items())
    b.note(f"Disks of {extents:,} extents of {sizes} on an ext4 in memory, so "
           "that what is felt is not a disk's; O_DIRECT, caches dropped, QEMU's "
           "TCG, which shares the processors with the mirror. The guest reads "
           "4 KiB at random every 4 ms, writes every 20 ms, and every 50 ms "
           "zeroes 4 KiB and writes them again; latencies are counted from "
           "when it meant to do so. 'during' is from the mirror's begin until "
           f"it is ready, {LEAST} s at least. The counts are those of the "
           "process that mirrors, in that time.")
    for kind in DISKS:
        report(b, kind, {name: [seen[kind] for seen in rows]
                         for name, rows in results.items()})


if __name__ == "__main__":
    bench.main("real_guest", "A real guest, before and while its disk is "
               "mirrored", run)
