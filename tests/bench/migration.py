#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk moves to another host, in use, over a link that loses packets and breaks.

usage: migration.py [MIB [CUT [ROUNDS]]]    (as root; default: 512 5 1)

Two hosts in network namespaces; of the packets between them one in a hundred is
lost, and in the middle of the copy the link is cut for CUT seconds. The disk is
mirrored in both copy modes to a server on the other host (ours,
qemu-storage-daemon, qemu-nbd, nbdkit) while four clients write to it, who go on with
the copy in the end. Then the copy has to hold what they were told is written, and
all else as it was. Prints a JSON object a move; exits 1 if one has lost anything.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "iotests"))
import disk  # noqa: E402
import iotests  # noqa: E402
import network  # noqa: E402
from iotests import MiB, path  # noqa: E402
from writer import BLOCK, writing  # noqa: E402

LOSS = 0.01
PORT = 10809
TIMEOUT = 600
MODES = ("background", "write-blocking")


def daemon(program):
    def command(host, image):
        return [program, "--blockdev",
                f"driver=file,node-name=copy,filename={image},discard=unmap",
                "--nbd-server",
                f"addr.type=inet,addr.host={host.address},addr.port={PORT}",
                "--export", "nbd,id=export,node-name=copy,writable=on"]
    return command


def qemu_nbd(host, image):
    return ["qemu-nbd", "-f", "raw", "-t", "-x", "copy", "-e", "8", "-b",
            host.address, "-p", str(PORT), "--discard=unmap", image]


def nbdkit(host, image):
    return ["nbdkit", "-f", "-i", host.address, "-p", str(PORT), "-e", "copy",
            "file", image]


SERVERS = {"ours": daemon(iotests.DAEMON),
           "qemu-storage-daemon": daemon(iotests.STOCK_DAEMON),
           "qemu-nbd": qemu_nbd, "nbdkit": nbdkit}


@contextlib.contextmanager
def server(command, host):
    process = subprocess.Popen([*host.prefix, *command])
    try:
        deadline = time.monotonic() + TIMEOUT
        while iotests.run(*host.prefix, "nbdinfo", "--size",
                          f"nbd://{host.address}:{PORT}/copy", status=None
                          ).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command[0]} does not serve")
        yield
    finally:
        process.terminate()
        process.wait()


def move(link, name, mode, image, copy, cut):
    """What was seen; and the clients"""
    here, there = link.hosts
    size = os.stat(image).st_size
    with server(SERVERS[name](there, copy), there), disk.DiskDaemon(
            image, prefix=here.prefix) as source:
        # A link that is slower than the writers never catches up with them.
        writers = writing(source.client, size,
                          interval=0.02 if mode == "background" else 0)
        source.cmd("blockdev-add", {
            "driver": "nbd", "node-name": "copy", "export": "copy",
            "reconnect-delay": 120,
            "server": {"type": "inet", "host": there.address,
                       "port": str(PORT)}})
        begun = time.monotonic()
        source.cmd("blockdev-mirror", {
            "job-id": "move", "device": "disk", "target": "copy",
            "sync": "full", "copy-mode": mode})
        while True:
            (job,) = source.cmd("query-jobs")
            if job["current-progress"] * 3 > size or job["status"] != "running":
                break
            time.sleep(0.01)
        link.cut()
        at = job["current-progress"]
        time.sleep(cut)  # the link's outage, not something to wait for
        link.mend()
        source.qmp.wait_event("BLOCK_JOB_READY", TIMEOUT, device="move")
        ready = time.monotonic() - begun
        source.complete("move")
        moved = time.monotonic() - begun
        (export,) = source.cmd("query-block-exports")
        before = sum(len(writer.content) for writer in writers)
        time.sleep(1)  # so long they write to the other host alone
        for writer in writers:
            writer.end()
        source.cmd("block-export-del", {"id": "export", "mode": "hard"})
        source.cmd("blockdev-del", node_name="copy")
    arrived, lost = link.counts()
    return {"server": name, "mode": mode, "cut_at_mib": at // MiB,
            "ready_s": round(ready, 1), "moved_s": round(moved, 1),
            "exports": export["node-name"], "blocks_written": before,
            "packets": arrived, "packets_lost": lost}, writers


def compare(original, copy, writers):
    """How many blocks are not as they have to be"""
    content = {}
    for writer in writers:
        content.update(writer.content)
    wrong = 0
    with open(original, "rb") as one, open(copy, "rb") as other:
        block = 0
        while data := one.read(BLOCK):
            wrong += other.read(BLOCK) != content.get(block, data)
            block += 1
    return wrong


def main():
    mib, cut, rounds = (int(word) for word in
                        (sys.argv[1:] + ["512", "5", "1"][len(sys.argv) - 1:]))
    failed = False
    original = disk.written(path("original"), mib * MiB)
    for turn in range(rounds):
        for name, mode in itertools.product(SERVERS, MODES):
            image, copy = path("image"), path("copy")
            iotests.run("cp", "--sparse=never", original, image)
            disk.sparse(copy, mib * MiB)
            with network.Network(LOSS, turn) as link:
                seen, writers = move(link, name, mode, image, copy,
                                     cut)
            seen["wrong_blocks"] = compare(original, copy, writers)
            failed |= seen["wrong_blocks"] > 0 or seen["exports"] != "copy"
            print(json.dumps(seen), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        iotests.scratch.remove()
