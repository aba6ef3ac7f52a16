# SPDX-License-Identifier: GPL-2.0-or-later
"""A client that works on an NBD export at a steady pace.

One process a kind of request, each with a connection of its own and one
request at a time: reads and writes at random; what makes holes in an order of
choice, by default downward from the end of the disk, like a guest that gives
a large file back. All are BLOCK bytes and aligned.
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
REWRITE = "write zeroes, then data"
RATES = {READ: 300, WRITE: 100, ZERO: 200, DISCARD: 50}  # a second

RANDOM, ASCENDING, DESCENDING = "random", "ascending", "descending"


def _offsets(kind, blocks, order, seed):
    """Block numbers, without end"""
    chance = random.Random(f"{seed} {kind}")
    if kind in (READ, WRITE) or order == RANDOM:
        while True:
            yield chance.randrange(blocks)
    # Those that make holes share the disk, in turns.
    at = 1 if kind == DISCARD else 0
    while True:
        yield (at if order == ASCENDING else blocks - 1 - at) % blocks
        at += 2


def _one(client, kind, offset, data):
    if kind == READ:
        client.pread(offset, BLOCK)
    elif kind == WRITE:
        client.pwrite(offset, data)
    elif kind == ZERO:
        client.write_zeroes(offset, BLOCK)
    elif kind == REWRITE:
        client.write_zeroes(offset, BLOCK)
        client.pwrite(offset, data)
    else:
        client.trim(offset, BLOCK)


def _worker(address, export, kind, rate, order, seed, results, end):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    data = random.Random(seed).randbytes(BLOCK)
    latencies = []
    with nbd.NBD(address, export, contexts=()) as client:
        results.send("ready")
        interval = 1 / rate
        due = time.monotonic()
        for block in _offsets(kind, client.size // BLOCK, order, seed):
            # Late requests are not made up for: the pace is an upper limit.
            due = max(due + interval, time.monotonic())
            if end.poll(max(due - time.monotonic(), 0)):
                break
            start = time.monotonic()
            _one(client, kind, block * BLOCK, data)
            latencies.append((start, time.monotonic() - start))
    results.send(latencies)


class Load:
    """The client at work from construction to stop()

    rates: how many requests of each kind a second, at most.
    """

    def __init__(self, address, export, seed=0, rates=None, order=DESCENDING):
        self._workers = []
        for kind, rate in (RATES if rates is None else rates).items():
            results, theirs = multiprocessing.Pipe()
            end, stop = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.Process(
                target=_worker, daemon=True,
                args=(address, export, kind, rate, order, seed, theirs, end))
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
