#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups as QEMU's storage daemon makes them: the same commands to both, and the
same refusals, events, progress, bitmaps and copies."""

import contextlib
import os
import unittest

import iotests
import nbd
from iotests import KiB, MiB, QMPError, path

SIZE = 8 * MiB
FILE_IMAGES = {"src": SIZE, "dst": SIZE, "dst2": SIZE, "short": SIZE // 2,
               "nothing": 0, "nothing2": 0}
QCOW2_IMAGES = ("base", "top", "qdst")


def node(driver, name, filename, **more):
    return ["--blockdev", f"driver={driver},node-name={name}," + (
        f"filename={filename}" if driver == "file"
        else f"file.driver=file,file.filename={filename},"
        f"file.node-name={name}-file") + "".join(
            f",{key}={value}" for key, value in more.items())]


class Disks:
    """One of the daemons, with disks of the same making: raw ones, of which src
    has data, and top, a qcow2 image over base; qdst is an empty one"""

    def __init__(self, name, **options):
        self.name = name
        words = []
        for image, size in FILE_IMAGES.items():
            with open(self.file(image), "wb") as file:
                file.truncate(size)
            words += node("file", image, self.file(image))
        with open(self.file("src"), "r+b") as file:
            for offset in range(0, SIZE, 3 * 64 * KiB):
                file.seek(offset)
                file.write(b"\x5a" * 100 * KiB)
        below = ()
        for image in QCOW2_IMAGES:
            file = self.file(image)
            iotests.qemu_img("create", "-q", "-f", "qcow2", *below, file, SIZE)
            below = ("-b", self.file("base"), "-F", "qcow2") \
                if image == "base" else ()
        iotests.run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 4M",
                    self.file("base"))
        iotests.run("qemu-io", "-f", "qcow2", "-c", "write -P 2 1M 128k",
                    "-c", "write -z 2M 192k", self.file("top"))
        words += node("qcow2", "top", self.file("top"))
        words += node("qcow2", "qdst", self.file("qdst"))
        socket_path = path(f"{name}.nbd")
        self.daemon = iotests.Daemon(
            *words, "--nbd-server", f"addr.type=unix,addr.path={socket_path}",
            "--export", "nbd,id=src,node-name=src,writable=on", **options)
        self.guest = nbd.NBD(socket_path, "src")

    def stop(self):
        self.guest.close()
        self.daemon.stop()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path(f"{self.name}.nbd"))  # QEMU leaves it behind

    def file(self, image):
        return path(f"{self.name}-{image}")

    def do(self, command, arguments):
        """What it returns, or how it fails"""
        try:
            return self.daemon.cmd(command, arguments)
        except QMPError as error:
            return {"class": error.error_class, "desc": error.desc}

    def end(self, job_id):
        """Events until the job is gone. A drained job counts as paused in QEMU."""
        seen = []
        while True:
            event = (self.daemon.qmp.events.popleft() if self.daemon.qmp.events
                     else self.daemon.qmp.receive())
            data = event["data"]
            if data.get("status") in ("paused", "running"):
                continue
            seen.append((event["event"], data))
            if data == {"id": job_id, "status": "null"}:
                return seen

    def bitmaps(self, name):
        """By name: QEMU lists one that a backup was given anew"""
        (found,) = [row.get("dirty-bitmaps", ()) for row in self.daemon.cmd(
            "query-named-block-nodes", flat=True) if row["node-name"] == name]
        return {row["name"]: row for row in found if "name" in row}


def backup(**options):
    return ("blockdev-backup", {
        "job-id": "b", "device": "src", "target": "dst", "sync": "full",
        **{key.replace("_", "-"): value for key, value in options.items()}})


def bitmap(what, name="marks", at="src", **options):
    return (f"block-dirty-bitmap-{what}", {"node": at, "name": name, **options})


class BackupAsStock(unittest.TestCase):
    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.disks = [Disks("ours"),
                      Disks("stock", program=iotests.STOCK_DAEMON)]
        for disks in self.disks:
            self.stack.callback(disks.stop)

    def same(self, what, ask):
        ours, stock = (ask(disks) for disks in self.disks)
        with self.subTest(f"{what}"):
            self.assertEqual(ours, stock)
        return ours

    def do(self, *commands):
        for command in commands:
            self.same(command, lambda disks, c=command: disks.do(*c))

    def end(self, job_id="b"):
        return self.same(f"end of {job_id}", lambda disks: disks.end(job_id))

    def refused(self, **options):
        answer = self.same(options, lambda disks: disks.do(*backup(**options)))
        self.assertIn("desc", answer)

    def marked(self, at="src"):
        return self.same("bitmaps", lambda disks: disks.bitmaps(at))

    def write(self):
        """Guests write to three places, of which two are in one cluster"""
        for disks in self.disks:
            for offset in (0, 20 * KiB, 5 * MiB):
                disks.guest.pwrite(offset, b"\x77" * 512)

    def content(self, image, driver="raw"):
        """The copies are the same, which nobody uses any more"""
        self.do(("blockdev-del", {"node-name": image}))

        def digest(disks):
            iotests.qemu_img("convert", "-U", "-f", driver, "-O", "raw",
                             disks.file(image), path("raw"))
            return iotests.run("sha256sum", path("raw")).stdout
        self.same(f"content of {image}", digest)

    def test_refusals(self):
        self.do(bitmap("add"), bitmap("add", "other", disabled=True))
        self.refused(target="src")
        self.refused(target="short")
        self.refused(job_id="")
        self.refused(job_id="a b")
        self.refused(device="none")
        self.refused(target="none")
        self.refused(speed=-1)
        for workers in (0, -1, 1 << 31):
            self.refused(x_perf={"max-workers": workers})
        for chunk in (-1, 1, 65535):
            self.refused(x_perf={"max-chunk": chunk})
        for sync in ("incremental", "bitmap"):
            self.refused(sync=sync)
            self.refused(sync=sync, bitmap="none")
            for mode in ("never", "always", "on-success"):
                self.refused(sync=sync, bitmap_mode=mode)
        self.refused(sync="bitmap", bitmap="marks")
        for sync in ("full", "top", "none"):
            self.refused(sync=sync, bitmap="marks")
            self.refused(sync=sync, bitmap_mode="always")
            self.refused(sync=sync, bitmap="marks", bitmap_mode="never")
        for mode in ("always", "on-success"):
            self.refused(sync="none", bitmap="marks", bitmap_mode=mode)
        for mode in ("always", "never"):
            self.refused(sync="incremental", bitmap="marks", bitmap_mode=mode)
        self.refused(filter_node_name="dst")
        self.refused(filter_node_name="a b")
        self.marked()

    def test_who_is_busy(self):
        """Several backups of one disk; what they use nobody else may"""
        self.do(bitmap("add"))
        self.write()
        self.do(backup(sync="none", filter_node_name="filter"),
                backup(job_id="c", target="dst2", sync="bitmap", speed=1,
                       bitmap="marks", bitmap_mode="on-success",
                       auto_finalize=False))
        self.refused(job_id="b", target="qdst")
        self.refused(job_id="d")
        self.refused(job_id="d", device="filter", target="qdst")
        self.refused(job_id="d", device="dst", target="qdst")
        self.refused(job_id="d", target="qdst", sync="bitmap", bitmap="marks",
                     bitmap_mode="never")
        self.do(bitmap("clear"), bitmap("remove"),
                ("blockdev-mirror", {"job-id": "m", "device": "dst",
                                     "target": "qdst", "sync": "full"}),
                ("job-complete", {"id": "b"}),
                ("job-finalize", {"id": "c"}))
        self.marked()
        self.do(("job-cancel", {"id": "b"}))
        self.end("b")
        self.do(("job-cancel", {"id": "c"}))
        for disks in self.disks:
            disks.end("c")  # how much it has copied may differ
        self.marked()
        self.do(bitmap("clear"), bitmap("remove"))

    def test_full(self):
        self.do(backup())
        self.end()
        for disks in self.disks:
            self.assertTrue(iotests.identical(disks.file("src"),
                                              disks.file("dst")))
        self.content("dst")

    def test_file_of_an_image(self):
        """Below a format, which makes it longer when it has to; with stock that
        ends the daemon"""
        for disks in self.disks:
            with open(disks.file("new"), "wb") as file:
                file.truncate(os.stat(disks.file("qdst")).st_size)
            disks.daemon.cmd("blockdev-add", {
                "driver": "file", "node-name": "new",
                "filename": disks.file("new")})
        self.do(backup(device="qdst-file", target="new", sync="none"))
        ours = self.disks[0]
        ours.do(*backup(job_id="c", target="qdst"))
        self.assertNotIn("error", ours.end("c")[-3][1])
        self.do(("job-cancel", {"id": "b"}))
        for disks in self.disks:
            disks.end("b")
        ours.do("blockdev-del", {"node-name": "qdst"})
        iotests.qemu_img("compare", "-U", "-f", "raw", "-F", "qcow2",
                         ours.file("src"), ours.file("qdst"))

    def test_until_told(self):
        self.do(backup(auto_finalize=False, auto_dismiss=False))
        for disks in self.disks:
            disks.daemon.qmp.wait_event("BLOCK_JOB_PENDING")
        self.do(("query-jobs", {}), ("query-block-jobs", {}),
                ("job-finalize", {"id": "b"}))
        for disks in self.disks:
            disks.daemon.qmp.wait_job("b", "concluded")
        self.do(("query-jobs", {}), ("job-dismiss", {"id": "b"}))

    def test_none(self):
        self.do(backup(sync="none"), ("query-jobs", {}))
        self.write()
        self.do(("query-jobs", {}), ("block-job-cancel", {"device": "b"}))
        self.end()
        self.content("dst")

    def test_disk_of_no_bytes(self):
        self.do(bitmap("add", at="nothing"))
        for sync in ("full", "top", "incremental", "bitmap"):
            marks = {"bitmap": "marks"}
            if sync != "incremental":
                marks["bitmap_mode"] = "on-success"
            self.do(backup(device="nothing", target="nothing2", sync=sync,
                           **marks))
            self.end()
        self.marked("nothing")
        self.do(("blockdev-add", {
            "driver": "copy-before-write", "node-name": "cbw",
            "file": "nothing", "target": "nothing2",
            "bitmap": {"node": "nothing", "name": "marks"}}))

    def test_top(self):
        """What is not in the backing file, zeroes too"""
        self.do(backup(device="top", target="qdst", sync="top"))
        self.end()
        self.content("qdst", "qcow2")
        self.same("map", lambda disks: [
            {key: row[key] for key in ("start", "length", "data", "zero",
                                       "present")}
            for row in iotests.qemu_img_map("-U", "-f", "qcow2",
                                            disks.file("qdst"))])

    def test_compressed(self):
        self.do(backup(device="top", target="qdst", compress=True))
        self.end()
        self.content("qdst", "qcow2")
        self.same("compressed", lambda disks: sum(
            row["length"] for row in iotests.qemu_img_map(
                "-U", "-f", "qcow2", disks.file("qdst"))
            if row["data"] and "offset" not in row))

    def test_bitmaps(self):
        """What they mark after each kind of backup; nobody writes meanwhile"""
        for mode in ("on-success", "never", "always"):
            for sync in ("incremental", "bitmap", "full", "top"):
                if sync == "incremental" and mode != "on-success":
                    continue
                if sync != "bitmap" and mode == "never":
                    continue
                self.do(bitmap("add", "all", granularity=512),
                        bitmap("add", "some"))
                self.write()
                self.do(bitmap("disable", "some"))
                self.do(backup(sync=sync, bitmap="some", bitmap_mode=mode))
                self.end()
                self.marked()
                self.do(backup(sync=sync, bitmap="all", bitmap_mode=mode,
                               auto_finalize=False))
                for disks in self.disks:
                    disks.daemon.qmp.wait_event("BLOCK_JOB_PENDING")
                self.do(("job-cancel", {"id": "b"}))
                self.end()
                self.marked()
                self.do(bitmap("remove", "all"), bitmap("remove", "some"))


if __name__ == "__main__":
    iotests.main()
