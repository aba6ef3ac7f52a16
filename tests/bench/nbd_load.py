# SPDX-License-Identifier: GPL-2.0-or-later
"""A client that works on an NBD export at a steady pace.

One process a kind of request, each with a connection of its own and one
request at a time: reads and writes at random, zero-writes and discards one
block after the other downward from the end of the disk, like a guest that
gives a large file back. All are BLOCK bytes and aligned.
"""

import multiprocessing
import os
import random
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "iotests"))
import nbd  # noqa: E402

BLOCK = 4096
READ, WRITE, ZERO, DISCARD = "read", "write", "write zeroes", "discard"
RATES = {READ: 300, WRITE: 100, ZERO: 200, DISCARD: 50}  # a second


def _offsets(kind, blocks, seed):
    """Block numbers, without end"""
    chance = random.Random(f"{seed} {kind}")
    if kind in (READ, WRITE):
        while True:
            yield chance.randrange(blocks)
    # The two that make holes share the disk's end, in turns.
    at = 1 if kind == ZERO else 2
    while True:
        yield (blocks - at) % blocks
        at += 2


def _one(client, kind, offset, data):
    if kind == READ:
        client.pread(offset, BLOCK)
    elif kind == WRITE:
        client.pwrite(offset, data)
    elif kind == ZERO:
        client.write_zeroes(offset, BLOCK)
    else:
        client.trim(offset, BLOCK)


def _worker(address, export, kind, seed, results, end):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    data = random.Random(seed).randbytes(BLOCK)
    latencies = []
    with nbd.NBD(address, export, contexts=()) as client:
        results.send("ready")
        interval = 1 / RATES[kind]
        due = time.monotonic()
        for block in _offsets(kind, client.size // BLOCK, seed):
            # Late requests are not made up for: the pace is an upper limit.
            due = max(due + interval, time.monotonic())
            if end.poll(max(due - time.monotonic(), 0)):
                break
            start = time.monotonic()
            _one(client, kind, block * BLOCK, data)
            latencies.append((start, time.monotonic() - start))
    results.send(latencies)


class Load:
    """The client at work from construction to stop()"""

    def __init__(self, address, export, seed=0, kinds=tuple(RATES)):
        self._workers = []
        for kind in kinds:
            results, theirs = multiprocessing.Pipe()
            end, stop = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.Process(
                target=_worker, daemon=True,
                args=(address, export, kind, seed, theirs, end))
            process.start()
            theirs.close()
            end.close()
            self._workers.append((kind, process, results, stop))
        for _, _, results, _ in self._workers:
            results.recv()

    def stop(self):
        """Returns {kind: [(start, latency)]}, in seconds of the monotonic
        clock; EOFError if a request failed"""
        for _, _, _, stop in self._workers:
            stop.send(True)
        done = {}
        for kind, process, results, _ in self._workers:
            done[kind] = results.recv()
            process.join()
        return done


def percentile(latencies, share):
    """Of a list of numbers; 0 if there is none"""
    if not latencies:
        return 0
    ordered = sorted(latencies)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
