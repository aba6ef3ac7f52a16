#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of a request over NBD: reads and writes, beside other servers.

fio asks, with as many requests in flight as the case says on each of its
connections, over a unix socket. All servers run at once and take turns. On a
loop-mounted ext4: raw files in the page cache or, behind O_DIRECT (and a loop
device that is O_DIRECT, too), cold; qcow2 images that have all their clusters,
none ("fresh"), or none over a raw file that has all ("overlay"). "file" is what fio
gets from the file itself by io_uring, with no server between.
"""

import collections
import contextlib
import os
import signal
import statistics

import bench  # noqa: I001  (finds the modules below)
import disk
import fio
import iotests
import nbd_server
import process_cost
from iotests import GiB, KiB, MiB, run

READ, WRITE = "randread", "randwrite"
READ_ALL, WRITE_ALL = "read", "write"
WORDS = {READ: "4 KiB random read", WRITE: "4 KiB random write",
         READ_ALL: "1 MiB read in order", WRITE_ALL: "1 MiB write in order"}
FRESH, OVERLAY = "qcow2, fresh", "qcow2, overlay"
FILE = "file"
OURS_URING, STOCK_URING = "ours, io_uring", "stock, io_uring"

# System calls a read of 4 KiB at depth 16 in the page cache: receive, read, send,
# and a little to pass the socket on where the machine is busy. Most often 2.
CALLS = 3.5
TRIES = 10


class Case(collections.namedtuple(
        "Case", "rw depth connections kind direct sync",
        defaults=(1, "raw", False, False))):
    """@sync: until all is on disk"""

    @property
    def name(self):
        plural = "s" if self.connections > 1 else ""
        cache = "O_DIRECT" if self.direct else "page cache"
        return (f"{WORDS[self.rw]}, {self.kind}, {cache}, depth {self.depth}, "
                f"{self.connections} connection{plural}" +
                (", synced" if self.sync else ""))

    @property
    def small(self):
        return self.rw in (READ, WRITE)

    @property
    def writes(self):
        return self.rw in (WRITE, WRITE_ALL)

    @property
    def spoils(self):
        """Whether an image can be measured only once"""
        return self.writes and self.kind in (FRESH, OVERLAY)

    @property
    def unit(self):
        return "IOPS" if self.small else "MB/s"

    def figure(self, seen):
        return seen.iops if self.small else seen.mb_per_s


SHORT = [*(Case(rw, depth) for rw in (READ, WRITE) for depth in (1, 16, 64)),
         Case(READ, 16, connections=4), Case(WRITE, 16, connections=4),
         Case(READ, 16, direct=True), Case(WRITE, 16, direct=True),
         Case(READ, 16, kind="qcow2"), Case(WRITE, 16, kind="qcow2"),
         Case(READ_ALL, 8), Case(WRITE_ALL, 8)]

LONG = [*(Case(rw, depth, connections, kind, direct)
          for kind in ("raw", "qcow2") for direct in (False, True)
          for connections in (1, 4) for rw in (READ, WRITE)
          for depth in (1, 4, 16, 64)),
        *(Case(rw, 8, connections, kind, direct)
          for kind in ("raw", "qcow2") for direct in (False, True)
          for connections in (1, 4) for rw in (READ_ALL, WRITE_ALL)),
        *(Case(rw, depth, kind=kind, direct=direct, sync=True)
          for kind in ("raw", "qcow2") for direct in (False, True)
          for rw, depth in ((WRITE, 16), (WRITE_ALL, 8))),
        *(Case(rw, 16 if rw == WRITE else 8, kind=kind, sync=sync)
          for kind in (FRESH, OVERLAY) for rw in (WRITE, WRITE_ALL)
          for sync in (False, True)),
        Case(READ, 16, kind=OVERLAY), Case(READ_ALL, 8, kind=OVERLAY)]


class Images:
    """Files to serve. Those of raw disks are shared by all servers, as what is in
    them does not matter; each has a qcow2 image of its own."""

    def __init__(self, folder, size):
        self.folder, self.size = folder, size
        self.raw = disk.written(self._path("raw"), size)
        self.direct = disk.written(self._path("direct"), size)
        # Who submits writes has to be alone.
        self.uring = disk.written(self._path("uring"), size)
        self.full = self._path("full")
        run("qemu-img", "create", "-q", "-f", "qcow2", self.full, size)
        # Not zeroes, which qemu-img would leave out
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", self.raw,
            self.full, timeout=300)

    def _path(self, name):
        return os.path.join(self.folder, name)

    def dirty(self):
        """All of the raw disk is in the page cache, and not yet on disk."""
        with open(self.raw, "r+b") as file:
            for _ in range(self.size // MiB):
                file.write(b"\x5a" * MiB)

    def of(self, case, server):
        """The file for that server, as the case begins"""
        if case.kind == "raw":
            return (self.raw if not case.direct else
                    self.uring if server == OURS_URING else self.direct)
        name = self._path(server)
        if case.kind == "qcow2":
            run("cp", self.full, name)
        elif case.kind == FRESH:
            run("qemu-img", "create", "-q", "-f", "qcow2", name, self.size)
        else:
            run("qemu-img", "create", "-q", "-f", "qcow2", "-b", self.raw, "-F",
                "raw", name)
        return name


def start(name, image, case):
    """The server of that name; None if it cannot do this"""
    form = "raw" if case.kind == "raw" else "qcow2"
    options = ",cache.direct=on,file.cache.direct=on" if case.direct else ""
    # Several servers share the file of a raw disk: only ours locks it.
    alone = ",file.locking=off" if case.kind == "raw" else ""
    if name == "ours":
        return nbd_server.QemuStorageDaemon(
            image, form=form, program=iotests.DAEMON, options=options)
    if name == OURS_URING:
        return nbd_server.QemuStorageDaemon(
            image, form=form, program=iotests.DAEMON,
            options=f"{options},file.aio=io_uring")
    if name == "stock":
        return nbd_server.QemuStorageDaemon(image, form=form,
                                            options=options + alone)
    if name == STOCK_URING:
        return nbd_server.QemuStorageDaemon(
            image, form=form, options=f"{options}{alone},file.aio=io_uring")
    if name == "qemu-nbd":
        return nbd_server.QemuNbd(
            f"driver={form},file.driver=file,file.filename={image}{options}"
            f"{alone}", "--image-opts", form=None)
    assert name == "nbdkit" and case.kind == "raw" and not case.direct
    return nbd_server.Nbdkit(f"file {image}")


def peers(case):
    yield "stock"
    if case.direct:
        yield STOCK_URING
        if case.kind == "raw":
            yield OURS_URING
    yield "qemu-nbd"
    # Its file plugin knows no format and no O_DIRECT.
    if case.kind == "raw" and not case.direct:
        yield "nbdkit"


@contextlib.contextmanager
def serving(case, images, names):
    """{name: server}, all at once; they end as administrators end them"""
    with contextlib.ExitStack() as stack:
        servers, files = {}, {}
        for name in names:
            files[name] = images.of(case, name)
        if case.direct or case.sync:
            run("sync", "-f", images.folder)
        elif case.writes:
            # Who first writes to a clean page has more to do.
            images.dirty()
        if case.direct:
            iotests.drop_caches()
        for name in names:
            servers[name] = stack.enter_context(start(name, files[name], case))
        yield servers
        for server in servers.values():
            server.kill(signal.SIGTERM)
    for name in names:
        if case.kind != "raw":
            run("qemu-img", "check", "-q", files[name], timeout=300)
            os.unlink(files[name])


def jobs_of(servers):
    """(name, fio's options) of each"""
    return [(name, fio.nbd(server.uri)) for name, server in servers.items()]


def work(case, images):
    return fio.work(case.rw, 4 * KiB if case.small else MiB, case.depth,
                    images.size, case.connections)


def timed(case, servers, images, turns, seconds):
    """{name: [what fio saw]}"""
    # What is written in order to a new image is written once.
    limit = ({} if case.spoils and not case.small
             else fio.for_seconds(seconds))
    seen = collections.defaultdict(list)
    jobs = jobs_of(servers) * turns
    if case.kind == "raw":
        jobs.append((FILE, fio.uring(images.of(case, FILE), case.direct)))
    for (name, _), done in zip(jobs, fio.run(
            jobs, **work(case, images), **limit, end_fsync=int(case.sync))):
        seen[name].append(done)
    return seen


def counted(case, servers, images, requests):
    """{name: {what: how many a request}}, in a run that is not timed"""
    jobs = jobs_of(servers)
    counters = {name: process_cost.Counter(server.process.pid)
                for name, server in servers.items()}
    counts = {}
    for (name, _), done in zip(jobs, fio.run(
            jobs, **work(case, images),
            number_ios=requests // case.connections)):
        # Those in order end where the disk does.
        assert done.requests >= min(requests, images.size // MiB) // 2, \
            f"{name}: {done}"
        counts[name] = {what: count / done.requests for what, count
                        in counters[name].stop().items()}
    return counts


def both(case, images, rounds, seconds, requests):
    """({name: [what fio saw]}, {name: CPU seconds of that server}, counts);
    requests to count by: 0, none"""
    seen, cpu = collections.defaultdict(list), collections.Counter()
    counts = collections.defaultdict(dict)
    for _ in range(rounds if case.spoils else 1):
        with serving(case, images, ["ours", *peers(case)]) as servers:
            for name, server in servers.items():
                cpu[name] -= process_cost.cpu_seconds(server.process.pid)
            for name, done in timed(case, servers, images,
                                    1 if case.spoils else rounds,
                                    seconds).items():
                seen[name] += done
            for name, server in servers.items():
                cpu[name] += process_cost.cpu_seconds(server.process.pid)
            if requests and not case.spoils:
                counts.update(counted(case, servers, images, requests))
    return seen, cpu, counts


def goal(case, others):
    """(peer, factor)"""
    if (case.rw, case.depth, case.direct, case.kind) == (READ, 16, False,
                                                         "raw"):
        return "nbdkit", 1.2
    servers = [name for name in others if name != FILE]
    return max(servers, key=lambda name: statistics.median(others[name])), 1.0


def compare(b, case, figures, counts):
    """A row of ours, and if it has two ways, of each: io_uring with io_uring"""
    def row(title, ours):
        own = {"ours": counts[ours], **theirs} if ours in counts else theirs
        b.ratio(title, case.unit, bench.MORE, figures[ours], others,
                goal=goal(case, others), counts=own)

    both_ours = "ours", OURS_URING
    others = {name: figures[name] for name in figures if name not in both_ours}
    theirs = {name: counts[name] for name in counts if name not in both_ours}
    if OURS_URING in figures:
        row(f"{case.name}, io_uring", OURS_URING)
        del others[STOCK_URING]
    row(case.name, "ours")


def measure(b, case, images, counting):
    """One row, and the medians of it"""
    requests = b.choose(1000, 2000, 10000) if case.small else \
        images.size // MiB // 2
    seen, cpu, counts = both(case, images, b.choose(1, 3, 5),
                             b.choose(0.05, 0.25, 0.95),
                             requests if counting else 0)
    for name, results in seen.items():
        requests = sum(done.requests for done in results)
        if name in cpu:
            counts[name]["us of its CPU"] = cpu[name] / requests * 1e6
        counts[name]["us of fio's CPU"] = statistics.median(
            done.client_us for done in results)
        counts[name]["us p99"] = statistics.median(
            done.p99_us for done in results)
    figures = {name: [case.figure(done) for done in results]
               for name, results in seen.items()}
    compare(b, case, figures, counts)
    return ({name: statistics.median(figure)
             for name, figure in figures.items()}, counts)


def hit_or_miss(b, images):
    """A tenth of the disk has nine of ten reads, and is in the page cache; the rest
    is not. Until it was read, there is no telling."""
    size, tenth = images.size, images.size // 10
    zones = {"random_distribution": "zoned:90/10:10/90"}

    def read(uri):
        with open(images.raw, "r+b") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            file.read(tenth)
        done, = fio.run([("read", fio.nbd(uri))], **zones,
                        **fio.work(READ, 4 * KiB, 16, size),
                        **fio.for_seconds(b.choose(0.05, 0.25, 0.95)))
        return done

    names = ["ours", "stock", "qemu-nbd", "nbdkit"]
    with serving(Case(READ, 16), images, names) as servers:
        seen = b.alternate(b.choose(1, 3, 5), {
            name: lambda uri=server.uri: read(uri)
            for name, server in servers.items()})
    figures = {name: [done.iops for done in results]
               for name, results in seen.items()}
    b.ratio("4 KiB random read, raw, a tenth misses the page cache, depth 16, "
            "1 connection", "IOPS", bench.MORE, figures.pop("ours"), figures,
            goal=("nbdkit", 1.0),
            counts={name: {"us p99": statistics.median(
                done.p99_us for done in results)}
                for name, results in seen.items()})


def plots(b, found):
    """By depth, where several depths were measured"""
    for rw in (READ, WRITE):
        rates = collections.defaultdict(list)
        costs = collections.defaultdict(list)
        for case, (medians, counts) in found.items():
            if case == Case(rw, case.depth):
                for name, median in medians.items():
                    rates[name].append((case.depth, median))
                    if name != FILE:
                        costs[name].append((case.depth,
                                            counts[name]["us of its CPU"]))
        if rates:
            b.plot(rw, f"{WORDS[rw]}s, raw, page cache, one connection",
                   "requests in flight", "IOPS", rates, logx=True, logy=True)
            b.plot(rw + "-cpu", f"What a {WORDS[rw]} costs the server",
                   "requests in flight", "us of CPU", costs, logx=True)


def smoke(b, images, counting):
    """All comes through, and not in too many calls"""
    case = Case(READ, 16)
    _, counts = measure(b, case, images, counting)
    if counting:
        seen = [counts["ours"]["system calls"]]
        # Where the processors are busy with something else, requests are slow and
        # threads take turns: that is not what is counted.
        while seen[-1] > CALLS and len(seen) < TRIES:
            with serving(case, images, ["ours"]) as servers:
                counts = counted(case, servers, images, 10000)
            seen.append(counts["ours"]["system calls"])
        b.limit(f"system calls of a {WORDS[READ]}, depth 16", "calls",
                seen[-1:], CALLS)
        assert seen[-1] <= CALLS, f"{case.name}: {seen} system calls"
    with start("ours", images.raw, Case(WRITE, 16)) as server:
        # fio reads all that it wrote, and compares.
        fio.run([("verify", fio.nbd(server.uri))],
                **fio.work(WRITE, 4 * KiB, 16, 4 * MiB), verify="crc32c",
                do_verify=1, verify_state_save=0, norandommap=0)


def direct_loop(folder):
    """No second page cache below O_DIRECT, if that can be had"""
    device = run("findmnt", "-n", "-o", "SOURCE", folder).stdout.strip()
    return run("losetup", "--direct-io=on", device, status=None).returncode == 0


def measure_all(b):
    size = b.choose(16 * MiB, 64 * MiB, GiB)
    counting = process_cost.Counter.usable()
    if not counting:
        b.note("No perf here: system calls are not counted.")
    with iotests.file_system("ext4", max(12 * size, GiB // 2)) as folder:
        images = Images(folder, size)
        if b.form == bench.SMOKE:
            smoke(b, images, counting)
            return
        if not direct_loop(folder):
            b.note("The loop device has a page cache: O_DIRECT is warm.")
        plots(b, {case: measure(b, case, images, counting)
                  for case in b.choose([], SHORT, LONG)})
        hit_or_miss(b, images)
    b.note("Per request: CPU time of the server and of fio, in the timed runs; "
           "system calls and context switches by perf, in a run of their own. "
           "fio is a thread a connection, on the same processors. \"file\" is fio "
           "with io_uring on the file itself, without NBD.")


if __name__ == "__main__":
    bench.main("nbd_path", "NBD: reads and writes", measure_all)
