#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Dirty bitmaps come and go, and mark what is written, as those of QEMU's
storage daemon: the same commands and writes to both, and the same answers."""

import contextlib
import os
import random
import unittest

import iotests
import nbd
from iotests import KiB, MiB, QMPError, path

SIZE = 3 * MiB + 5 * KiB


def remove_socket(name):
    """QEMU's daemon leaves it behind"""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)


class Disks:
    """One of the daemons, with a raw disk r and a qcow2 disk q that are written
    to over NBD, and a null disk n of the size of q"""

    def __init__(self, name, **options):
        self.name = name
        self.socket = path(name + ".nbd")
        raw, qcow2 = path(name + ".raw"), path(name + ".qcow2")
        with open(raw, "wb") as file:
            file.truncate(SIZE)
        iotests.qemu_img("create", "-q", "-f", "qcow2", "-o",
                         "cluster_size=8k", qcow2, str(4 * MiB))
        with contextlib.ExitStack() as stack:
            stack.callback(os.unlink, raw)
            stack.callback(os.unlink, qcow2)
            stack.callback(remove_socket, self.socket)
            self.daemon = stack.enter_context(iotests.Daemon(
                "--blockdev", f"file,node-name=rf,filename={raw}",
                "--blockdev", "raw,node-name=r,file=rf,discard=unmap",
                "--blockdev", f"file,node-name=qf,filename={qcow2}",
                "--blockdev", "qcow2,node-name=q,file=qf",
                "--blockdev", f"null-co,node-name=n,size={4 * MiB}",
                "--nbd-server", f"addr.type=unix,addr.path={self.socket}",
                "--export", "nbd,id=r,node-name=r,writable=on",
                "--export", "nbd,id=q,node-name=q,writable=on", **options))
            self._guests = {node: nbd.NBD(self.socket, node) for node in "rq"}
            stack.callback(self._leave)
            self._stack = stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def _leave(self):
        for guest in self._guests.values():
            guest.close()

    def _own(self, value):
        """The same with this daemon's files for strings like "@disk" """
        if isinstance(value, dict):
            return {key: self._own(member) for key, member in value.items()}
        if isinstance(value, list):
            return [self._own(element) for element in value]
        if isinstance(value, str) and value.startswith("@"):
            return path(f"{self.name}.{value[1:]}")
        return value

    def do(self, command, arguments):
        """What a command returns, or how it fails; or a guest's request; or
        both wait until its job is in some state; or have a guest go, or come
        again"""
        if command in self._guests:
            method, *rest = arguments
            return getattr(self._guests[command], method)(*rest)
        if command == "until":
            status, *step = arguments
            result = self.do(*step)
            job = step[1].get("job-id", step[1].get("id"))
            self.daemon.qmp.wait_job(job, status)
            return result
        if command == "unexport":
            self.daemon.cmd("block-export-del", id=arguments, mode="hard")
            self.daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id=arguments)
            return None
        if command == "connect":
            self._guests[arguments].close()
            self._guests[arguments] = nbd.NBD(self.socket, arguments)
            return None
        try:
            return self.daemon.cmd(command, self._own(arguments))
        except QMPError as error:
            return {"class": error.error_class, "desc": error.desc}

    def file(self, kind, file_format):
        """Another image, of the size of q"""
        iotests.qemu_img("create", "-q", "-f", file_format,
                         self._own("@" + kind), str(4 * MiB))
        self._stack.callback(os.unlink, self._own("@" + kind))

    def bitmaps(self):
        """All there is to see: rows of query-named-block-nodes, and hashes.
        Not of what jobs have for themselves"""
        seen = {}
        for info in self.daemon.cmd("query-named-block-nodes", flat=True):
            rows = [row for row in info.get("dirty-bitmaps", [])
                    if "name" in row]
            if info["node-name"].startswith("#") and not rows:
                continue  # an accidental name
            seen[info["node-name"]] = [
                (row, self.daemon.cmd("x-debug-block-dirty-bitmap-sha256",
                                      node=info["node-name"],
                                      name=row["name"])) for row in rows]
        return seen


def bitmap_command(verb, node, name, **more):
    return (f"block-dirty-bitmap-{verb}", {"node": node, "name": name, **more})


def merge(node, target, *bitmaps):
    return ("block-dirty-bitmap-merge",
            {"node": node, "target": target, "bitmaps": list(bitmaps)})


def transaction(*steps, **properties):
    actions = [{"type": name, "data": data} for name, data in steps]
    more = {"properties": properties} if properties else {}
    return ("transaction", {"actions": actions, **more})


def write(node, offset, length):
    return (node, ("pwrite", offset, b"x" * length))


ABORT = ("abort", {})


class Walk:
    """Commands and writes at random"""

    NAMES = ("b0", "b1", "b2", "b3")

    def __init__(self, seed):
        self.random = random.Random(seed)

    def _bitmap(self):
        return self.random.choice("rrqqn"), self.random.choice(self.NAMES)

    def _change(self, node, name, sources):
        rand = self.random
        verb = rand.choice(("add", "add", "remove", "clear", "enable",
                            "disable", "merge", "merge"))
        if verb == "merge":
            return merge(node, name, *sources)
        more = {}
        if verb == "add":
            if rand.random() < 0.3:
                more["disabled"] = True
            if rand.random() < 0.7:
                more["granularity"] = 512 << rand.randint(0, 13)
        return bitmap_command(verb, node, name, **more)

    def _single(self):
        sources = [self.random.choice(self.NAMES)
                   if self.random.random() < 0.7 else
                   dict(zip(("node", "name"), self._bitmap()))
                   for _ in range(self.random.randint(1, 3))]
        return self._change(*self._bitmap(), sources)

    def _transaction(self, existing):
        """Of bitmaps that are there and can be used: QEMU 7.2 crashes, or
        disables them, if they are not"""
        rand = self.random
        steps = []
        while existing and len(steps) < 4:
            node, name = rand.choice(existing)
            names = [source for of, source in existing if of == node]
            steps.append(self._change(node, name, rand.choices(names, k=2)))
            if steps[-1][0] == "block-dirty-bitmap-remove":
                existing.remove((node, name))
        if rand.random() < 0.3:
            steps.insert(rand.randint(0, len(steps)), ABORT)
        return transaction(*steps)

    def step(self, bitmaps):
        """@bitmaps: as they are now"""
        rand = self.random
        existing = [(node, row["name"]) for node, rows in bitmaps.items()
                    for row, _ in rows]
        kind = rand.random()
        if kind < 0.4 or kind < 0.6 and not existing:
            return self._single()
        if kind < 0.6:
            return self._transaction(existing)
        node = rand.choice("rq")
        size = SIZE if node == "r" else 4 * MiB
        offset = rand.randrange(size)
        length = min(size - offset, rand.choice((1, 512, 20000, 300000)))
        if rand.random() < 0.2:
            return (node, (rand.choice(("write_zeroes", "trim")),
                           offset // 4096 * 4096, 64 * KiB if offset +
                           64 * KiB < size else 512))
        return write(node, offset // 512 * 512, -(-length // 512) * 512)


class BitmapsAsStock(unittest.TestCase):

    def run_both(self, steps, files=()):
        """Each a command or write, or a function that tells it. @files: more
        images, by name and format"""
        with Disks("ours") as ours, \
                Disks("stock", program=iotests.STOCK_DAEMON) as stock:
            for name, file_format in files:
                ours.file(name, file_format)
                stock.file(name, file_format)
            for number, step in enumerate(steps):
                if callable(step):
                    step = step(ours.bitmaps())
                with self.subTest(f"step {number}: {str(step)[:500]}"):
                    self.assertEqual(ours.do(*step), stock.do(*step))
                    self.assertEqual(ours.bitmaps(), stock.bitmaps())

    def test_add(self):
        self.run_both([
            bitmap_command("add", "r", "b0"),
            bitmap_command("add", "r", "b0"),
            bitmap_command("add", "r", "b1", granularity=512),
            bitmap_command("add", "r", "b2", granularity=1 << 31,
                           disabled=True),
            bitmap_command("add", "q", "b0", persistent=False),
            bitmap_command("add", "q", "x" * 1023),
            bitmap_command("add", "q", "x" * 1024),
            bitmap_command("add", "n", "b0", disabled=False),
            bitmap_command("add", "n", "b1", granularity=0),
            bitmap_command("add", "n", "b1", granularity=256),
            bitmap_command("add", "n", "b1", granularity=513),
            bitmap_command("add", "n", "b1", granularity=-512),
            bitmap_command("add", "n", "b1", granularity=1 << 32),
            bitmap_command("add", "n", "", granularity=1),
            bitmap_command("add", "x", ""),
            bitmap_command("add", "x", "b0", granularity=1),
            ("block-dirty-bitmap-add", {"node": "n"}),
            ("block-dirty-bitmap-add", {"node": "n", "name": "b", "a": 1}),
            bitmap_command("add", "r", "p", persistent=True),
            bitmap_command("add", "r", "p", persistent=True, granularity=1)])

    def test_use(self):
        self.run_both([
            bitmap_command("add", "r", "b0"),
            write("r", 60 * KiB, 8 * KiB),
            bitmap_command("add", "r", "b1", granularity=512),
            bitmap_command("add", "r", "off", disabled=True),
            # The last granule is not whole.
            write("r", SIZE - 512, 512),
            ("r", ("write_zeroes", MiB, 128 * KiB)),
            ("r", ("trim", 2 * MiB, 64 * KiB)),
            bitmap_command("disable", "r", "b1"),
            bitmap_command("enable", "r", "off"),
            write("r", 0, 4096),
            bitmap_command("clear", "r", "b1"),
            bitmap_command("enable", "r", "b1"),
            write("r", 200 * KiB, 512),
            bitmap_command("clear", "r", "x"),
            bitmap_command("clear", "x", "b0"),
            bitmap_command("enable", "r", "x"),
            bitmap_command("disable", "", "b0"),
            bitmap_command("remove", "r", "x"),
            bitmap_command("remove", "r", "off"),
            bitmap_command("remove", "r", "off"),
            bitmap_command("add", "r", "off"),
            bitmap_command("remove", "x", "off")])

    def test_merge(self):
        self.run_both([
            bitmap_command("add", "q", "coarse", granularity=MiB),
            bitmap_command("add", "q", "fine", granularity=512),
            bitmap_command("add", "q", "all"),
            bitmap_command("add", "n", "target", granularity=4096),
            bitmap_command("add", "r", "other"),
            write("q", 4 * MiB - 512, 512),
            bitmap_command("disable", "q", "coarse"),
            write("q", 100 * KiB, 512),
            merge("q", "fine", "coarse"),
            merge("q", "coarse", "coarse"),
            merge("n", "target", {"node": "q", "name": "fine"}),
            bitmap_command("clear", "n", "target"),
            # Nothing of it, if not all of it
            merge("n", "target", {"node": "q", "name": "all"}, "x"),
            merge("n", "target", {"node": "q", "name": "all"},
                  {"node": "r", "name": "other"}),
            merge("n", "target", {"node": "q", "name": "all"},
                  {"node": "x", "name": "other"}),
            merge("n", "target", "target", {"node": "q", "name": "all"},
                  {"node": "q", "name": "coarse"}),
            merge("n", "x", "target"),
            merge("x", "target", "target"),
            merge("n", "target", {"node": "n"})])

    def test_transactions(self):
        self.run_both([
            bitmap_command("add", "q", "b0"),
            bitmap_command("add", "q", "b1", disabled=True),
            write("q", 0, MiB),
            # The usual exchange of bitmaps
            transaction(bitmap_command("add", "q", "b2"),
                        merge("q", "b1", "b0"),
                        bitmap_command("clear", "q", "b0")),
            write("q", 2 * MiB, 512),
            transaction(merge("q", "b0", "b1"),
                        bitmap_command("clear", "q", "b1"),
                        bitmap_command("disable", "q", "b0"),
                        bitmap_command("enable", "q", "b1"),
                        bitmap_command("remove", "q", "b2"),
                        bitmap_command("add", "q", "b3"), ABORT),
            write("q", 3 * MiB, 512),
            # What was removed is still there for the rest.
            transaction(bitmap_command("remove", "q", "b2"),
                        bitmap_command("add", "q", "b2")),
            transaction(bitmap_command("remove", "q", "b2"),
                        bitmap_command("clear", "q", "b2")),
            transaction(bitmap_command("remove", "q", "b2"),
                        merge("q", "b0", "b2")),
            transaction(bitmap_command("clear", "q", "b2"),
                        bitmap_command("remove", "q", "b2")),
            transaction(bitmap_command("add", "n", "b0"),
                        bitmap_command("remove", "n", "b0")),
            transaction(bitmap_command("clear", "q", "b0"),
                        completion_mode="grouped"),
            transaction()])

    def test_resize(self):
        def to(size):
            return ("block_resize", {"node-name": "r", "size": size})

        export = ("block-export-add", {"type": "nbd", "id": "r",
                                       "node-name": "r", "writable": True})
        self.run_both([
            bitmap_command("add", "r", "fine", granularity=512),
            bitmap_command("add", "r", "b0"),
            bitmap_command("add", "r", "coarse", granularity=4 * MiB),
            bitmap_command("add", "rf", "below"),
            write("r", SIZE - 512, 512),
            write("r", MiB, 512),
            ("unexport", "r"),
            # What is new is clean, but for what the last granule has of it.
            to(9 * MiB + 512),
            to(9 * MiB + 1024),
            export,
            ("connect", "r"),
            write("r", 9 * MiB, 1024),
            write("r", 5 * MiB, 512),
            ("unexport", "r"),
            to(5 * MiB + 512),
            to(512),
            # What was cut off does not come back.
            to(9 * MiB),
            bitmap_command("add", "r", "b1"),
            export,
            ("connect", "r"),
            write("r", 8 * MiB, 512),
            merge("r", "b0", "b1"),
            bitmap_command("remove", "r", "b1")])

    def test_snapshot_and_commit(self):
        """Bitmaps stay with their nodes, wherever guests write to."""
        self.run_both([
            bitmap_command("add", "q", "b0"),
            write("q", 0, 64 * KiB),
            ("blockdev-add", {
                "driver": "qcow2", "node-name": "ov", "backing": None,
                "file": {"driver": "file", "filename": "@overlay"}}),
            bitmap_command("add", "ov", "b0"),
            transaction(
                bitmap_command("add", "q", "b1"),
                ("blockdev-snapshot", {"node": "q", "overlay": "ov"}),
                bitmap_command("add", "ov", "b1")),
            write("q", MiB, 64 * KiB),
            bitmap_command("disable", "q", "b0"),
            ("until", ("ready", "block-commit", {"job-id": "c",
                                                 "device": "ov"})),
            ("until", ("null", "job-complete", {"id": "c"})),
            write("q", 3 * MiB, 64 * KiB),
            bitmap_command("clear", "q", "b1"),
            ("blockdev-del", {"node-name": "ov"}),
            write("q", 0, 512)], files=[("overlay", "qcow2")])

    def test_mirror(self):
        """The source keeps its bitmaps when its guests have left it."""
        self.run_both([
            ("blockdev-add", {"driver": "file", "filename": "@target",
                              "node-name": "m"}),
            bitmap_command("add", "q", "b0"),
            bitmap_command("add", "q", "b1", disabled=True),
            write("q", 0, 64 * KiB),
            ("until", ("ready", "blockdev-mirror", {
                "job-id": "m", "device": "q", "target": "m",
                "sync": "full"})),
            write("q", MiB, 64 * KiB),
            bitmap_command("add", "q", "b2"),
            bitmap_command("enable", "q", "b1"),
            write("q", 2 * MiB, 64 * KiB),
            ("until", ("null", "job-complete", {"id": "m"})),
            bitmap_command("add", "m", "b0"),
            write("q", 3 * MiB, 64 * KiB),
            merge("m", "b0", {"node": "q", "name": "b2"}),
            ("blockdev-del", {"node-name": "q"})], files=[("target", "raw")])

    def test_reopen(self):
        options = {"driver": "qcow2", "node-name": "q", "file": "qf"}

        self.run_both([
            bitmap_command("add", "q", "b0"),
            bitmap_command("add", "qf", "b0", disabled=True),
            write("q", 0, 64 * KiB),
            ("blockdev-reopen", {"options": [{**options,
                                              "discard": "unmap"}]}),
            write("q", MiB, 64 * KiB),
            ("unexport", "q"),
            ("blockdev-reopen", {"options": [{**options,
                                              "read-only": True}]}),
            bitmap_command("add", "q", "b1"),
            bitmap_command("clear", "q", "b0"),
            bitmap_command("disable", "q", "b0"),
            merge("q", "b1", "b0"),
            bitmap_command("remove", "q", "b0"),
            ("blockdev-reopen", {"options": [options]}),
            bitmap_command("enable", "q", "b1"),
            ("blockdev-del", {"node-name": "q"}),
            ("blockdev-add", options)])

    def test_at_random(self):
        for seed in range(3):
            self.run_both([Walk(seed).step] * 200)


if __name__ == "__main__":
    iotests.main()
