#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients of the NBD server see dirty bitmaps as those of QEMU's storage
daemon do."""

import contextlib
import json
import os
import random
import unittest

import iotests
import nbd
from iotests import MiB, QMPError, path

SIZE = 16 * MiB


def remove(*names):
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


class Disks:
    """One of the daemons, with a qcow2 overlay o on the qcow2 image b, over
    which is the throttle filter t, and a raw disk r on its own; o and r are
    exported to be written to"""

    def __init__(self, name, **options):
        self.socket = path(name + ".nbd")
        base, overlay, raw = (path(f"{name}.{kind}") for kind in
                              ("base", "overlay", "raw"))
        iotests.qemu_img("create", "-q", "-f", "qcow2", base, str(SIZE))
        iotests.qemu_img("create", "-q", "-f", "qcow2", overlay, str(SIZE))
        with open(raw, "wb") as file:
            file.truncate(SIZE)
        with contextlib.ExitStack() as stack:
            stack.callback(remove, base, overlay, raw, self.socket)
            self.daemon = stack.enter_context(iotests.Daemon(
                "--object", "throttle-group,id=group",
                "--blockdev", f"file,node-name=bf,filename={base}",
                "--blockdev", "qcow2,node-name=b,file=bf",
                "--blockdev", f"file,node-name=of,filename={overlay}",
                "--blockdev", "qcow2,node-name=o,file=of,backing=b",
                "--blockdev",
                "throttle,node-name=t,file=o,throttle-group=group",
                "--blockdev", f"file,node-name=rf,filename={raw}",
                "--blockdev", "raw,node-name=r,file=rf",
                "--blockdev", "null-co,node-name=ro,size=65536,read-only=on",
                "--nbd-server", f"addr.type=unix,addr.path={self.socket}",
                "--export", "nbd,id=o,node-name=t,name=o,writable=on",
                "--export", "nbd,id=r,node-name=r,writable=on", **options))
            self._stack = stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def uri(self, export):
        return f"nbd+unix:///{export}?socket={self.socket}"

    def cmd(self, command, arguments):
        """What a command returns, or how it fails"""
        try:
            return self.daemon.cmd(command, arguments)
        except QMPError as error:
            return {"class": error.error_class, "desc": error.desc}

    def add_bitmap(self, node, name, **more):
        self.daemon.cmd("block-dirty-bitmap-add",
                        {"node": node, "name": name, **more})

    def export(self, name, node, *bitmaps, **more):
        self.daemon.cmd("block-export-add", {
            "type": "nbd", "id": name, "name": name, "node-name": node,
            "bitmaps": list(bitmaps), **more})

    def maps(self, export, bitmap):
        """The bitmap as several clients see it"""
        context = f"qemu:dirty-bitmap:{bitmap}"
        options = (f"driver=nbd,export={export},server.type=unix,"
                   f"server.path={self.socket},x-dirty-bitmap={context}")
        with nbd.NBD(self.socket, export, contexts=[context]) as client:
            whole = client.map(context)
        return (iotests.nbdinfo_map(self.uri(export), context),
                iotests.qemu_img_map("--image-opts", options), whole)

    def contexts(self, export):
        """All that are offered"""
        info = json.loads(
            iotests.run("nbdinfo", "--json", self.uri(export)).stdout)
        return info["exports"][0]["contexts"]


def command(verb, node, name):
    return (f"block-dirty-bitmap-{verb}", {"node": node, "name": name})


def export(name, node="r", **more):
    return ("block-export-add", {"type": "nbd", "id": name, "name": name,
                                 "node-name": node, **more})


class ExportedBitmaps(unittest.TestCase):

    @contextlib.contextmanager
    def both(self):
        with Disks("ours") as ours, \
                Disks("stock", program=iotests.STOCK_DAEMON) as stock:
            yield ours, stock

    def write_at_random(self, disks, export_name, seed, count=12):
        rand = random.Random(seed)
        ranges = [(rand.randrange(SIZE // 512) * 512,
                   rand.choice((512, 5 * 512, 30000 // 512 * 512)))
                  for _ in range(count)]
        for disk in disks:
            with nbd.NBD(disk.socket, export_name) as guest:
                for offset, length in ranges:
                    guest.pwrite(offset, b"x" * min(length, SIZE - offset))

    def same_maps(self, disks, export_name, *bitmaps):
        for bitmap in bitmaps:
            with self.subTest(bitmap):
                ours, stock = (disk.maps(export_name, bitmap)
                               for disk in disks)
                self.assertEqual(ours, stock)
                self.assertGreater(len(ours[0]), 1)

    def test_maps(self):
        """Of a disk that is written to, and of one that is not any more"""
        with self.both() as disks:
            for disk in disks:
                disk.add_bitmap("r", "fine", granularity=512)
                disk.add_bitmap("r", "usual")
                disk.add_bitmap("r", "coarse", granularity=MiB)
            self.write_at_random(disks, "r", 1)
            for disk in disks:
                disk.cmd(*command("disable", "r", "fine"))
                disk.export("live", "r", "fine", "usual", "coarse",
                            writable=True)
            self.same_maps(disks, "live", "fine", "usual", "coarse")
            self.write_at_random(disks, "live", 2)
            self.same_maps(disks, "live", "fine", "usual", "coarse")
            for disk in disks:
                disk.daemon.cmd("block-export-del", id="live", mode="hard")
                disk.cmd(*command("disable", "r", "usual"))
                disk.export("old", "r", "usual", "fine")
            self.write_at_random(disks, "r", 3)
            self.same_maps(disks, "old", "fine", "usual")
            ours, stock = (disk.contexts("old") for disk in disks)
            self.assertEqual(ours, stock)

    def test_extended_headers(self):
        """Only ours has them: the answers are those without."""
        with Disks("ours") as disk:
            disk.add_bitmap("r", "b0", granularity=4096)
            self.write_at_random([disk], "r", 1)
            disk.export("live", "r", "b0", writable=True)
            context = "qemu:dirty-bitmap:b0"
            maps = []
            for extended in (False, True):
                with nbd.NBD(disk.socket, "live", extended=extended,
                             contexts=["base:allocation", context]) as client:
                    maps.append(client.map(context))
            self.assertEqual(*maps)
            self.assertGreater(len(maps[0]), 10)

    def test_chains(self):
        """Bitmaps below the exported node, and elsewhere"""
        with self.both() as disks:
            for disk in disks:
                disk.add_bitmap("b", "base")
                disk.add_bitmap("b", "both")
                disk.add_bitmap("o", "both", granularity=MiB)
                disk.add_bitmap("t", "top", granularity=4096)
                disk.add_bitmap("r", "other", granularity=512)
            self.write_at_random(disks, "o", 4)
            self.write_at_random(disks, "r", 5)
            for disk in disks:
                for node, name in (("o", "both"), ("t", "top"),
                                   ("r", "other"), ("b", "base"),
                                   ("b", "both")):
                    disk.cmd(*command("disable", node, name))
                disk.export("e", "t", "both", "top",
                            {"node": "r", "name": "other"})
            self.same_maps(disks, "e", "both", "top", "other")
            for disk in disks:
                disk.export("below", "t", "base",
                            {"node": "b", "name": "both"})
            ours, stock = (disk.contexts("below") for disk in disks)
            self.assertEqual(ours, stock)
            for bitmap in ("base", "both"):
                ours, stock = (disk.maps("below", bitmap) for disk in disks)
                self.assertEqual(ours, stock)

    def test_refusals(self):
        steps = [
            export("e", bitmaps=["b0"]),
            export("e", bitmaps=["b1"], writable=True),
            export("e", bitmaps=["off"]),
            export("e", bitmaps=["none"]),
            export("e", bitmaps=["off", "none"]),
            export("e", "rf", bitmaps=["off"]),
            export("e", bitmaps=["of-file"]),
            export("e", bitmaps=[{"node": "r", "name": "none"}]),
            export("e", bitmaps=[{"node": "none", "name": "off"}]),
            export("e", bitmaps=[{"node": "r"}]),
            export("e", bitmaps=[{"node": "r", "name": "b0"}]),
            export("ex", bitmaps=[{"node": "o", "name": "b0"}]),
            export("e", bitmaps="off"),
            export("e", bitmaps=[]),
            export("e2", "ro", bitmaps=["b0"]),
            export("e3", bitmaps=["off", "off", {"node": "r",
                                                 "name": "off"}]),
            command("remove", "r", "off"),
            command("clear", "r", "off"),
            command("enable", "r", "off"),
            command("disable", "r", "b1"),
            ("block-dirty-bitmap-merge",
             {"node": "r", "target": "off", "bitmaps": ["b1"]}),
            ("block-dirty-bitmap-merge",
             {"node": "r", "target": "off", "bitmaps": ["none"]}),
            ("block-dirty-bitmap-merge",
             {"node": "r", "target": "off", "bitmaps": ["b2", "none"]}),
            ("block-dirty-bitmap-merge",
             {"node": "r", "target": "b2", "bitmaps": ["off"]}),
            ("transaction", {"actions": [
                {"type": "block-dirty-bitmap-clear",
                 "data": {"node": "r", "name": "off"}}]}),
            ("block-export-del", {"id": "e3"}),
            command("clear", "r", "off"),
            ("block-export-del", {"id": "ex"}),
            ("block-export-del", {"id": "e"}),
            command("remove", "r", "off"),
            ("block-export-del", {"id": "e2"}),
        ]
        with self.both() as disks:
            for disk in disks:
                disk.add_bitmap("r", "b0")
                disk.add_bitmap("r", "b1")
                disk.add_bitmap("r", "b2")
                disk.add_bitmap("r", "off", disabled=True)
                disk.add_bitmap("o", "b0")
                disk.add_bitmap("rf", "of-file", disabled=True)
                disk.add_bitmap("ro", "b0")
            for step in steps:
                with self.subTest(str(step)):
                    ours, stock = (
                        (disk.cmd(*step), self.seen(disk)) for disk in disks)
                    self.assertEqual(ours, stock)

    @staticmethod
    def seen(disk):
        return {info["node-name"]: info.get("dirty-bitmaps") for info in
                disk.daemon.cmd("query-named-block-nodes", flat=True)}

    def test_node_stays(self):
        """As long as one of its bitmaps is exported"""
        with Disks("ours") as disk:
            disk.daemon.cmd("blockdev-add", {
                "driver": "null-co", "node-name": "n", "size": SIZE})
            disk.add_bitmap("n", "b", disabled=True)
            disk.export("e", "r", {"node": "n", "name": "b"})
            with self.assertRaisesRegex(QMPError, "Bitmap 'b' is currently in "
                                        "use by another operation"):
                disk.daemon.cmd("blockdev-del", node_name="n")
            self.assertEqual(len(disk.maps("e", "b")[2]), 1)
            disk.daemon.cmd("block-export-del", id="e", mode="hard")
            disk.daemon.cmd("blockdev-del", node_name="n")

    def test_node_goes_out_of_the_chain(self):
        """A commit takes a node out whose bitmap is exported: it is shown
        until the export goes, and then nothing is left of the node."""
        with Disks("ours") as disk:
            for name in ("mid", "top"):
                iotests.qemu_img("create", "-q", "-f", "qcow2", path(name),
                                 str(SIZE))
                self.addCleanup(remove, path(name))
            disk.daemon.cmd("block-export-del", id="o", mode="hard")
            for node in "to":
                disk.daemon.cmd("blockdev-del", node_name=node)
            disk.daemon.cmd("blockdev-add", {
                "driver": "qcow2", "node-name": "top",
                "file": {"driver": "file", "filename": path("top")},
                "backing": {
                    "driver": "qcow2", "node-name": "mid", "backing": "b",
                    "file": {"driver": "file", "filename": path("mid")}}})
            disk.add_bitmap("mid", "bitmap", granularity=4 * MiB)
            disk.export("e", "top", "bitmap")
            disk.daemon.cmd("block-commit", {
                "job-id": "c", "device": "top", "top-node": "mid"})
            disk.daemon.qmp.wait_job("c", "null")
            self.assertEqual(len(disk.maps("e", "bitmap")[2]), 1)
            disk.daemon.cmd("block-export-del", id="e", mode="hard")
            self.assertNotIn("mid", self.seen(disk))

    def test_resize(self):
        """A disk whose bitmap is shown, which stock 7.2 does not survive"""
        with Disks("ours") as disk:
            disk.add_bitmap("r", "b", granularity=512)
            with nbd.NBD(disk.socket, "r") as guest:
                guest.pwrite(SIZE - 512, b"x" * 512)
                guest.pwrite(MiB, b"x" * 512)
            disk.export("e", "r", "b", writable=True)
            for size, ends in ((2 * SIZE, [MiB, MiB + 512, SIZE - 512, SIZE,
                                           2 * SIZE]),
                               (MiB + 512, [MiB, MiB + 512]),
                               (2 * MiB, [MiB, MiB + 512, 2 * MiB])):
                disk.daemon.cmd("block_resize", node_name="r", size=size)
                shown = disk.maps("e", "b")[2]
                self.assertEqual([extent.offset + extent.length
                                  for extent in shown], ends)

    def test_command_line(self):
        """Bitmaps of an image that has some"""
        image = path("image.qcow2")
        iotests.qemu_img("create", "-q", "-f", "qcow2", image, str(MiB))
        self.addCleanup(remove, image)
        words = ["--blockdev", f"file,node-name=f,filename={image}",
                 "--blockdev", "qcow2,node-name=q,file=f",
                 "--nbd-server", f"addr.type=unix,addr.path={path('c.nbd')}"]
        self.addCleanup(remove, path("c.nbd"))
        for option in ("bitmaps.0=none", "bitmaps.0.node=q,bitmaps.0.name=x",
                       "bitmaps.0.node=none,bitmaps.0.name=x", "bitmaps=b",
                       "bitmap=b", "bitmaps.0.node=q"):
            said = []
            for program in (iotests.DAEMON, iotests.STOCK_DAEMON):
                result = iotests.run(
                    program, *words, "--export",
                    f"nbd,id=e,node-name=q,writable=on,{option}", status=1)
                said.append(result.stderr.split(": ", 1)[1])
            with self.subTest(option):
                self.assertEqual(*said)


if __name__ == "__main__":
    iotests.main()
