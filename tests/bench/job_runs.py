# SPDX-License-Identifier: GPL-2.0-or-later
"""One mirror or backup, or several at once, and what could be seen meanwhile."""

import contextlib
import os
import threading
import time

import disk
import iotests
import nbd_load
import status_calls
from iotests import path, run

MIRROR, BACKUP = "mirror", "backup"
POLL = 0.005  # seconds between two questions to the monitor
JOB_TIMEOUT = 300


class Watch:
    """Asks how the jobs get on, again and again; what that took"""

    def __init__(self, filename):
        self._qmp = iotests.connect_monitor(filename)
        self._end = threading.Event()
        self._seconds = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._end.wait(POLL):
            asked = time.monotonic()
            self._qmp.cmd("query-block-jobs")
            self._seconds.append(time.monotonic() - asked)

    def stop(self):
        """The worst answer, seconds"""
        self._end.set()
        self._thread.join()
        self._qmp.close()
        return max(self._seconds, default=0)


def _start(daemon, source, kind, number, folder, direct):
    """Its target's file"""
    job = f"job{number}"
    target = os.path.join(folder, job)
    disk.sparse(target, source.size)
    daemon.cmd("blockdev-add", {
        "driver": "file", "node-name": job + "-target", "filename": target,
        "discard": "unmap", "cache": {"direct": direct}})
    daemon.cmd("blockdev-" + kind, {
        "job-id": job, "device": "disk", "target": job + "-target",
        "sync": "full"})
    return target


def _finish(daemon, kind, number):
    """When it was ready or completed, and when its target was stable: a mirror
    is ready when it has flushed that"""
    job = f"job{number}"
    if kind == MIRROR:
        daemon.qmp.wait_event("BLOCK_JOB_READY", JOB_TIMEOUT, device=job)
        done = time.monotonic()
        daemon.cmd("block-job-cancel", device=job)
    daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", JOB_TIMEOUT, device=job)
    if kind == BACKUP:
        done = time.monotonic()
    daemon.qmp.wait_job(job, "null")
    daemon.cmd("blockdev-del", node_name=job + "-target")
    return done, done if kind == MIRROR else time.monotonic()


def _cache_extents(daemon):
    """Those that probes have seen; None of a daemon without a status cache"""
    try:
        answer = daemon.cmd("query-block-status-cache")
    except iotests.QMPError:
        return None
    return sum(stats["extents"] for stats in answer
               if not stats["node-name"].endswith("-target"))


def _counts(source, calls, extents):
    if extents is None:
        mapped = status_calls.Extents(source.filename)
        extents = sum(mapped.walked(call) for call in calls)
    return {"lseeks": sum(call.kind != "FIEMAP" for call in calls),
            "FIEMAPs": sum(call.kind == "FIEMAP" for call in calls),
            "extents": extents}


def run_jobs(source, folder, kind, program, number=1, apart=0, direct=True,
             load=None, count=False, compare=False):
    """@number jobs on one disk, @apart seconds apart, until all their copies are
    stable. @load: arguments of nbd_load.Load. @count: system calls, too.
    @compare: whether the copies are good. Returns a dictionary:

    rate, told: MB/s until all is stable, and until the daemon said that it is done
    reads, others: latencies of the load while there were jobs, seconds
    monitor: its worst answer, seconds
    counts: lseeks, FIEMAPs, extents visited (if @count)
    """
    socket, second = path("nbd-jobs"), path("second")
    if direct:
        iotests.drop_caches()
    else:
        run("dd", f"if={source.filename}", "of=/dev/null", "bs=1M")
    seen = {}
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, second)
        stack.callback(_remove, socket)
        daemon = stack.enter_context(iotests.Daemon(
            "--blockdev", source.blockdev(direct),
            "--nbd-server", f"addr.type=unix,addr.path={socket}", "--export",
            "nbd,id=export,node-name=disk,name=disk,writable=on",
            *iotests.second_monitor(second), program=program))
        client = nbd_load.Load(socket, "disk", **load) if load else None
        counter = status_calls.counter()(daemon.pid) if count else None
        watch = Watch(second)
        targets = []
        begun = time.monotonic()
        for i in range(number):
            time.sleep(max(begun + i * apart - time.monotonic(), 0))
            targets.append(_start(daemon, source, kind, i, folder, direct))
        ended = [_finish(daemon, kind, i) for i in range(number)]
        seen["monitor"] = watch.stop()
        if client:
            seen.update(_latencies(client.stop(), begun, time.monotonic()))
        if counter:
            calls = counter.stop()
            seen["counts"] = _counts(source, calls, _cache_extents(daemon))
        daemon.stop()
    if compare and not all(source.same_as(target) for target in targets):
        raise AssertionError(f"a bad copy of {source.name}")
    for target in targets:
        os.unlink(target)
    data = number * source.size / 1e6
    seen["told"] = data / (max(told for told, _ in ended) - begun)
    seen["rate"] = data / (max(stable for _, stable in ended) - begun)
    return seen


def _remove(socket):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket)


def _latencies(requests, begun, ended):
    during = {kind: [latency for at, latency in done if begun <= at <= ended]
              for kind, done in requests.items()}
    return {"reads": during.pop(nbd_load.READ, []),
            "others": [latency for done in during.values() for latency in done]}


def copy(source, folder, *words):
    """MB/s of another program's copy, until it is stable. @words: with {source}
    and {target}"""
    target = os.path.join(folder, "copy")
    iotests.drop_caches()
    begun = time.monotonic()
    run(*(word.format(source=source.filename, target=target)
          for word in words), timeout=JOB_TIMEOUT)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    seconds = time.monotonic() - begun
    os.unlink(target)
    return source.size / seconds / 1e6
