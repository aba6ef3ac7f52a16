#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Mirrors and commits of qcow2 images that stand on others: what is copied, what
the file system is asked, and that clients lose nothing."""

import os
import unittest

import disk
import iotests
import nbd
from iotests import KiB, MiB, path, qemu_img
from writer import writing

SIZE = 32 * MiB


def overlay(name, backing, kind, size=None, *options):
    words = [size] if size else []
    qemu_img("create", "-q", "-f", "qcow2", "-b", backing, "-F", kind,
             *options, name, *words)
    return name


def write(image, *commands, kind="qcow2"):
    words = [word for command in commands for word in ("-c", command)]
    iotests.run("qemu-io", "-f", kind, *words, image)


def node(name, filename, driver="qcow2", **options):
    """What blockdev-add takes"""
    return {"driver": driver, "node-name": name, "discard": "unmap",
            "file": {"driver": "file", "node-name": name + "-file",
                     "filename": filename, "discard": "unmap"},
            **{key.replace("_", "-"): value for key, value in options.items()}}


class ChainDaemon(iotests.Daemon):
    """A daemon with an export, once there is a node for it"""

    def __init__(self, **options):
        self.nbd_path = path(f"nbd{self.count()}")
        super().__init__("--nbd-server",
                         f"addr.type=unix,addr.path={self.nbd_path}",
                         **options)

    def stop(self):
        super().stop()
        if os.path.exists(self.nbd_path):
            os.unlink(self.nbd_path)  # stock's

    def add(self, *arguments, **options):
        self.cmd("blockdev-add", node(*arguments, **options))

    def export(self, node_name):
        self.cmd("block-export-add", {
            "type": "nbd", "id": "export", "node-name": node_name,
            "name": "disk", "writable": True})

    def client(self):
        return nbd.NBD(self.nbd_path, "disk")

    def exported(self):
        (export,) = self.cmd("query-block-exports")
        return export["node-name"]

    def nodes(self):
        return {n["node-name"]: n for n in
                self.cmd("query-named-block-nodes", {"flat": True})}

    def start(self, command, **options):
        self.cmd(command, {key.replace("_", "-"): value
                           for key, value in options.items()})
        return self.qmp.wait_event("BLOCK_JOB_READY",
                                   device=options["job_id"])["data"]

    def end(self, job_id, command="job-complete", **options):
        self.cmd(command, options or {"id": job_id})
        self.end_by_itself(job_id)

    def end_by_itself(self, job_id):
        event = self.qmp.wait_event("BLOCK_JOB_COMPLETED", device=job_id)
        self.qmp.wait_job(job_id, "null")
        if "error" in event["data"]:
            raise AssertionError(event["data"]["error"])


class FourDisks(unittest.TestCase):
    """Those of QEMU's bug 1912224: raw; qcow2; qcow2 with a small raw backing
    file; qcow2 with everything in a raw backing file, in many extents"""

    EXTENTS = 2000
    EXTENT_SIZE = 16 * KiB

    def setUp(self):
        mount = iotests.file_system("ext4", 512 * MiB)
        self.folder = mount.__enter__()
        self.addCleanup(mount.__exit__, None, None, None)
        self.image = os.path.join(self.folder, "image")

    def raw(self, extents):
        return disk.fragmented(os.path.join(self.folder, "raw"), extents,
                               self.EXTENT_SIZE)

    def mirror(self, daemon):
        """To a new raw file; what the file system was asked meanwhile"""
        copy = os.path.join(self.folder, "copy")
        disk.sparse(copy, daemon.nodes()["disk"]["image"]["virtual-size"])
        daemon.cmd("blockdev-add", {"driver": "file", "node-name": "copy",
                                    "filename": copy, "discard": "unmap"})
        with daemon.strace("lseek,ioctl") as trace:
            daemon.start("blockdev-mirror", job_id="mirror", device="disk",
                         target="copy", sync="full")
        daemon.end("mirror", "block-job-cancel", device="mirror")
        daemon.cmd("blockdev-del", node_name="copy")
        return copy, trace

    def mirror_twice(self, options, kind, base=None):
        """@base: the raw file that may be asked about, once"""
        iotests.drop_caches()
        with ChainDaemon() as daemon:
            daemon.cmd("blockdev-add", options)
            before = None
            for turn in range(2):
                copy, trace = self.mirror(daemon)
                qemu_img("compare", "-U", "-f", kind, "-F", "raw", self.image,
                         copy)
                os.unlink(copy)
                if self.image != base:
                    self.assertEqual(trace.asked(self.image), 0, trace.lines)
                if base:
                    self.assertEqual(
                        trace.asked(base, "SEEK_DATA|SEEK_HOLE"), 0,
                        trace.lines)
                    asked = trace.asked(base, "FIEMAP")
                    (self.assertEqual if turn else self.assertNotEqual)(
                        asked, 0)
                nodes = daemon.nodes()
                probes = {nodes[s["node-name"]]["file"]: s["probes"]
                          for s in daemon.cmd("query-block-status-cache")}
                if turn:
                    self.assertEqual(probes, before)
                before = probes
            for filename, count in before.items():
                self.assertEqual(count > 0, filename == base, before)
            daemon.cmd("blockdev-del", node_name="disk")
        if kind == "qcow2":
            qemu_img("check", "-q", self.image)

    def test_raw(self):
        self.image = self.raw(self.EXTENTS)
        self.mirror_twice(node("disk", self.image, "raw"), "raw", self.image)

    def test_qcow2(self):
        qemu_img("convert", "-f", "raw", "-O", "qcow2", self.raw(self.EXTENTS),
                 self.image)
        self.mirror_twice(node("disk", self.image), "qcow2")

    def test_small_backing_file(self):
        base = self.raw(self.EXTENTS // 8)
        overlay(self.image, base, "raw", SIZE)
        write(self.image, "write -P 7 2M 20M", "write -z 1M 64k",
              "write -P 8 23M 5k")
        self.mirror_twice(node("disk", self.image), "qcow2", base)

    def test_big_backing_file(self):
        base = self.raw(self.EXTENTS)
        overlay(self.image, base, "raw")
        write(self.image, "write -P 7 3M 200k", "write -z 5M 1M")
        options = node("disk", self.image,
                       backing=node("base", base, "raw", read_only=True))
        self.mirror_twice(options, "qcow2", base)


class Flow(unittest.TestCase):
    """With clients that write all the time"""

    def setUp(self):
        self.base = disk.written(path("base"), SIZE)
        self.addCleanup(self.remove)

    def remove(self):
        for name in ("base", "mid", "over", "other", "top", "copy", "raw"):
            if os.path.exists(path(name)):
                os.unlink(path(name))

    def check(self, *images):
        for image in images:
            qemu_img("check", "-q", image)

    def check_content(self, image, kind, writers):
        qemu_img("convert", "-f", kind, "-O", "raw", image, path("raw"))
        with open(path("raw"), "rb") as file:
            for writer in writers:
                writer.check(file)
            # What nobody has written
            written = {block for writer in writers for block in writer.content}
            for block in range(1, SIZE // (4 * KiB)):
                if block not in written:
                    file.seek(block * 4 * KiB)
                    self.assertEqual(file.read(16), b"\x5a" * 16, block)
                    break

    def test_snapshot_and_copy(self):
        """As for a live snapshot: a new overlay takes the writes and is moved
        elsewhere, only itself, with sync=top"""
        overlay(path("mid"), self.base, "raw")
        overlay(path("top"), path("mid"), "qcow2")
        overlay(path("copy"), path("mid"), "qcow2", None, "-o",
                "cluster_size=8k")
        with ChainDaemon() as daemon:
            daemon.add("base", self.base, "raw", read_only=True)
            daemon.add("mid", path("mid"), backing="base")
            daemon.export("mid")
            first = writing(daemon.client, SIZE, 2)
            daemon.add("top", path("top"), backing=None)
            daemon.cmd("blockdev-snapshot", {"node": "mid", "overlay": "top"})
            self.assertEqual(daemon.exported(), "top")
            for writer in first:
                writer.end()
            writers = writing(daemon.client, SIZE)
            daemon.add("copy", path("copy"), backing="mid")
            daemon.start("blockdev-mirror", job_id="m", device="top",
                         target="copy", sync="top")
            (bitmap,) = daemon.nodes()["top"]["dirty-bitmaps"]
            self.assertEqual(bitmap["granularity"], 8 * KiB)
            daemon.end("m")
            self.assertEqual(daemon.exported(), "copy")
            daemon.cmd("blockdev-del", node_name="top")
            for writer in writers:
                writer.end()
        self.check(path("mid"), path("top"), path("copy"))
        later = {block for writer in writers for block in writer.content}
        for writer in first:
            for block in later:
                writer.content.pop(block, None)
        self.check_content(path("copy"), "qcow2", first + writers)

    def chain(self, daemon, **options):
        overlay(path("mid"), self.base, "raw")
        write(path("mid"), "write -P 90 8M 1M")
        overlay(path("top"), path("mid"), "qcow2", SIZE + 8 * MiB)
        write(path("top"), "write -P 90 9M 1M")
        daemon.add("base", self.base, "raw", read_only=True, **options)
        daemon.add("mid", path("mid"), backing="base", read_only=True)
        daemon.add("top", path("top"), backing="mid")
        daemon.export("top")

    def test_commit(self):
        with ChainDaemon() as daemon:
            self.chain(daemon)
            writers = writing(daemon.client, SIZE + 8 * MiB)
            data = daemon.start("block-commit", job_id="c", device="top",
                                base_node="base")
            self.assertEqual(data["type"], "commit")
            (job,) = daemon.cmd("query-block-jobs")
            self.assertEqual(job["type"], "commit")
            nodes = daemon.nodes()
            self.assertFalse(nodes["base"]["ro"])
            self.assertEqual(nodes["base"]["image"]["virtual-size"],
                             SIZE + 8 * MiB)
            with self.assertRaisesRegex(iotests.QMPError, "consistent read"):
                daemon.cmd("block-export-add", {
                    "type": "nbd", "id": "mid", "node-name": "mid"})
            daemon.end("c")
            self.assertEqual(daemon.exported(), "base")
            daemon.cmd("blockdev-del", node_name="top")
            daemon.cmd("blockdev-del", node_name="mid")
            before = iotests.run("sha256sum", path("top"), path("mid")).stdout
            with daemon.client() as client:
                client.pwrite(0, b"last" * KiB)
            for writer in writers:
                writer.end()
                writer.content.pop(0, None)
            after = iotests.run("sha256sum", path("top"), path("mid")).stdout
            self.assertEqual(before, after, "written to what was left behind")
        self.check(path("mid"), path("top"))
        self.assertEqual(os.stat(self.base).st_size, SIZE + 8 * MiB)
        with open(self.base, "rb") as file:
            self.assertEqual(file.read(4), b"last")
        self.check_content(self.base, "raw", writers)

    def test_cancelled_commit(self):
        """The users stay where they are, and so does everything else"""
        for how in ({"command": "job-cancel", "id": "c"},
                    {"command": "block-job-cancel", "device": "c"}):
            with self.subTest(how["command"]), ChainDaemon() as daemon:
                self.chain(daemon)
                writers = writing(daemon.client, SIZE)
                daemon.start("block-commit", job_id="c", device="top")
                command = how.pop("command")
                daemon.cmd(command, how)
                daemon.qmp.wait_job("c", "null")
                self.assertEqual(daemon.exported(), "top")
                nodes = daemon.nodes()
                self.assertTrue(nodes["base"]["ro"])
                self.assertEqual(sorted(nodes), [
                    "base", "base-file", "mid", "mid-file", "top", "top-file"])
                daemon.cmd("block-export-add", {
                    "type": "nbd", "id": "mid", "node-name": "mid"})
                for writer in writers:
                    writer.end()
                daemon.stop()
                self.check(path("mid"), path("top"))
                self.check_content(path("top"), "qcow2", writers)
            self.remove()
            disk.written(self.base, SIZE)

    def test_commit_to_the_middle(self):
        """A read-only base keeps what it stands on itself, which its options
        do not tell: it is in its header, or was put below it later"""
        overlay(path("mid"), self.base, "raw")
        write(path("mid"), "write -P 90 8M 1M")
        overlay(path("top"), path("mid"), "qcow2")
        write(path("top"), "write -P 91 9M 1M")
        expected = path("raw")
        qemu_img("convert", "-O", "raw", path("top"), expected)
        for backing in ({}, {"backing": None}):
            with ChainDaemon() as daemon:
                daemon.add("mid", path("mid"), read_only=True, **backing)
                if backing:
                    daemon.add("base", self.base, "raw", read_only=True)
                    daemon.cmd("blockdev-snapshot",
                               {"node": "base", "overlay": "mid"})
                daemon.add("top", path("top"), backing="mid")
                daemon.export("top")
                for command in ("job-cancel", "job-complete"):
                    daemon.start("block-commit", job_id="c", device="top",
                                 base_node="mid")
                    daemon.cmd(command, {"id": "c"})
                    daemon.qmp.wait_job("c", "null")
                    self.assertEqual(daemon.nodes()["mid"]["ro"],
                                     command == "job-cancel")
                    qemu_img("compare", "-f", "raw", "-F", "raw",
                             f"nbd+unix:///disk?socket={daemon.nbd_path}",
                             expected)
                self.assertEqual(daemon.exported(), "mid")
            self.check(path("mid"))
            qemu_img("compare", path("mid"), expected)

    def long_chain(self, daemon, by_header):
        """base, mid, over, top"""
        overlay(path("mid"), self.base, "raw")
        write(path("mid"), "write -P 90 8M 1M", "write -z 12M 64k")
        overlay(path("over"), path("mid"), "qcow2")
        overlay(path("top"), path("over"), "qcow2")
        qemu_img("convert", "-O", "raw", path("over"), path("raw"))
        if by_header:
            daemon.add("top", path("top"))
        else:
            daemon.add("base", self.base, "raw", read_only=True)
            daemon.add("mid", path("mid"), backing="base", read_only=True)
            daemon.add("over", path("over"), backing="mid", read_only=True)
            daemon.add("top", path("top"), backing="over")
        daemon.export("top")

    def test_commit_below(self):
        """It ends by itself, and what stood on the top stands on the base, by
        its header, too"""
        for by_header in (False, True):
            with self.subTest(by_header=by_header), ChainDaemon() as daemon:
                self.long_chain(daemon, by_header)
                writers = writing(daemon.client, SIZE)
                names = {n["file"]: n["node-name"]
                         for n in daemon.nodes().values()
                         if n["drv"] in ("raw", "qcow2")}
                daemon.cmd("block-commit", {
                    "job-id": "c", "device": "top",
                    "top-node": names[path("mid")],
                    "base-node": names[self.base]})
                event = daemon.qmp.wait_event("BLOCK_JOB_COMPLETED",
                                              device="c")
                self.assertEqual(event["data"]["type"], "commit")
                self.assertNotIn("error", event["data"])
                daemon.qmp.wait_job("c", "null")
                self.assertFalse([e for e in daemon.qmp.events
                                  if e["event"] == "BLOCK_JOB_READY"])
                self.assertEqual(daemon.exported(), "top")
                nodes = daemon.nodes()
                over = nodes[names[path("over")]]
                self.assertTrue(over["ro"])
                self.assertTrue(nodes[names[self.base]]["ro"])
                self.assertEqual(over["image"]["backing-filename"], self.base)
                if by_header:
                    self.assertNotIn(names[path("mid")], nodes)
                else:
                    daemon.cmd("blockdev-del", node_name="mid")
                for writer in writers:
                    writer.end()
                daemon.stop()
                os.unlink(path("mid"))
                self.check(path("over"), path("top"))
                qemu_img("compare", path("over"), path("raw"))
                self.check_content(path("top"), "qcow2", writers)
            self.remove()
            disk.written(self.base, SIZE)

    def test_commit_below_cancelled(self):
        with ChainDaemon() as daemon:
            self.long_chain(daemon, False)
            daemon.cmd("block-commit", {
                "job-id": "c", "device": "top", "top-node": "over", "speed": 1})
            with self.assertRaisesRegex(iotests.QMPError, "consistent read"):
                daemon.cmd("block-export-add", {
                    "type": "nbd", "id": "mid", "node-name": "mid"})
            daemon.cmd("job-cancel", id="c")
            daemon.qmp.wait_job("c", "null")
            nodes = daemon.nodes()
            self.assertTrue(nodes["base"]["ro"])
            self.assertEqual(nodes["top"]["image"]["backing-filename"],
                             path("over"))
            daemon.add("other", overlay(path("other"), path("mid"), "qcow2"),
                       backing="mid", read_only=True)
            with self.assertRaisesRegex(
                    iotests.QMPError, "node 'other' stands on it, too"):
                daemon.cmd("block-commit", {
                    "job-id": "c", "device": "top", "top-node": "mid"})
            daemon.cmd("blockdev-del", node_name="other")
            daemon.cmd("block-commit", {
                "job-id": "c", "device": "top", "top-node": "over",
                "base-node": "mid", "backing-file": "mid"})
            daemon.end_by_itself("c")
            self.assertEqual(
                daemon.nodes()["top"]["image"]["backing-filename"], "mid")
        self.check(path("mid"), path("top"))
        qemu_img("compare", path("top"), path("raw"))

    def test_commit_below_to_a_window(self):
        """No header can name that: it would be the whole file."""
        overlay(path("mid"), self.base, "raw", SIZE // 2)
        overlay(path("top"), path("mid"), "qcow2")
        with ChainDaemon() as daemon:
            daemon.add("base", self.base, "raw", read_only=True,
                       offset=SIZE // 2)
            daemon.add("mid", path("mid"), backing="base", read_only=True)
            daemon.add("top", path("top"), backing="mid")
            with self.assertRaisesRegex(iotests.QMPError,
                                        "Node 'base' has no file name"):
                daemon.cmd("block-commit", {
                    "job-id": "c", "device": "top", "top-node": "mid"})
            self.assertTrue(daemon.nodes()["base"]["ro"])

    def test_commit_by_file_name(self):
        """The chain comes from the images' headers."""
        overlay(path("mid"), self.base, "raw")
        overlay(path("top"), path("mid"), "qcow2")
        write(path("top"), "write -P 90 9M 1M", "write -z 10M 1M")
        with ChainDaemon() as daemon:
            daemon.add("top", path("top"))
            daemon.export("top")
            daemon.start("block-commit", job_id="c", device="top",
                         base=self.base)
            daemon.end("c")
        self.check(path("mid"), path("top"))
        qemu_img("compare", "-f", "qcow2", "-F", "raw", path("top"), self.base)


class LaterOverlays(unittest.TestCase):
    """A target whose header names a backing file, which is not open meanwhile: the
    copy is right when it is"""

    def copy(self, run):
        disk.written(path("old"), MiB)
        overlay(path("copy"), path("old"), "raw")
        disk.alternating(path("source"), MiB, 128 * KiB, 128 * KiB)
        with ChainDaemon() as daemon:
            daemon.add("source", path("source"), "raw")
            daemon.add("copy", path("copy"), backing=None)
            run(daemon, {"job-id": "j", "device": "source", "target": "copy",
                         "sync": "full"})
        qemu_img("compare", "-f", "raw", "-F", "qcow2", path("source"),
                 path("copy"))

    def test_mirror(self):
        def run(daemon, options):
            daemon.start("blockdev-mirror", **{
                key.replace("-", "_"): value
                for key, value in options.items()})
            daemon.end("j", "block-job-cancel", device="j")
        self.copy(run)

    def test_backup(self):
        def run(daemon, options):
            daemon.cmd("blockdev-backup", options)
            daemon.end_by_itself("j")
        self.copy(run)


class Refusals(unittest.TestCase):
    """With the words of stock"""

    COMMANDS = [
        {"device": "nope"},
        {"device": "base"},
        {"device": "mid"},
        {"device": "top", "base-node": "other"},
        {"device": "top", "base-node": "nope"},
        {"device": "top", "top-node": "other"},
        {"device": "top", "base-node": "top"},
        {"device": "top", "top-node": "base"},
        {"device": "top", "base-node": "mid", "base": "x"},
        {"device": "top", "top-node": "mid", "top": "x"},
        {"device": "top", "top": "x"},
        {"device": "top", "base": "x"},
        {"device": "top", "backing-file": "x"},
        {"device": "top", "speed": -1},
    ]

    def answers(self, program):
        with ChainDaemon(program=program) as daemon:
            daemon.add("base", path("rbase"), "raw", read_only=True)
            daemon.add("mid", path("rmid"), backing="base", read_only=True)
            daemon.add("top", path("rtop"), backing="mid")
            daemon.add("other", path("rother"), backing=None)
            for options in self.COMMANDS:
                with self.assertRaises(iotests.QMPError) as caught:
                    daemon.cmd("block-commit", {"job-id": "c", **options})
                yield caught.exception.error_class, caught.exception.desc
            for device, target in (("top", "mid"), ("top", "base"),
                                   ("mid", "top")):
                with self.assertRaises(iotests.QMPError) as caught:
                    daemon.cmd("blockdev-mirror", {
                        "job-id": "m", "device": device, "target": target,
                        "sync": "full"})
                yield caught.exception.error_class, caught.exception.desc

    def test_refusals(self):
        disk.sparse(path("rbase"), MiB)
        overlay(path("rmid"), path("rbase"), "raw")
        overlay(path("rtop"), path("rmid"), "qcow2")
        qemu_img("create", "-q", "-f", "qcow2", path("rother"), MiB)
        self.assertEqual(list(self.answers(iotests.DAEMON)),
                         list(self.answers(iotests.STOCK_DAEMON)))


if __name__ == "__main__":
    iotests.main()
