# SPDX-License-Identifier: GPL-2.0-or-later
"""What has to be true after a crash: of the images as they lie there, and of a
daemon that is started with the same command line again."""

import os

import crash_disk
import iotests
import nbd
from crash_truth import SECTOR, FOREVER, Truth, Wrong, difference, stamped
from iotests import MiB, path

PIECE = MiB
STATE_ZERO = nbd.STATE_ZERO


class CrashDaemon(iotests.Daemon):
    """With the export "disk", and all that it was ever told by QMP"""

    def __init__(self, words, socket):
        self.socket = socket
        self.end_clock = float("inf")  # what came after that does not count
        self._replied = None
        super().__init__(*words)

    def client(self, name="disk"):
        return nbd.NBD(self.socket, name)

    def reply(self):
        """Wait for the reply to the command that is pending"""
        while self._replied is None:
            message = self.qmp.receive()
            if message is None:
                raise EOFError("the daemon closed the connection")
            self._take(message)
        if "error" in self._replied:
            raise Wrong(f"a command failed: {self._replied['error']}")

    def _take(self, message):
        if "event" in message:
            self.qmp.events.append(message)
        elif message.get("id") == "pending":
            self._replied = message

    def last_words(self):
        """It is dead: read what it had sent"""
        try:
            while message := self.qmp.receive():
                self._take(message)
        except ConnectionError:
            pass

    def replied(self):
        return bool(self._replied and "return" in self._replied)

    def completed(self, job_id):
        return any(event["event"] == "BLOCK_JOB_COMPLETED" and
                   event["data"]["device"] == job_id and
                   "error" not in event["data"] and
                   event["timestamp"]["seconds"] +
                   event["timestamp"]["microseconds"] / 1e6 < self.end_clock
                   for event in self.qmp.events)

    def failures(self):
        """What it said went wrong"""
        failed = [event for event in self.qmp.events
                  if event["event"] in ("BLOCK_JOB_ERROR",
                                        "BLOCK_IMAGE_CORRUPTED") or
                  "error" in event.get("data", {})]
        if self._replied and "error" in self._replied:
            failed.append(self._replied)
        return failed


def stock_restarts(disk, words):
    """Stock, too, starts over the sockets and the pid file that it left when it
    was killed; the image is not changed"""
    for _ in range(2):
        daemon = iotests.Daemon(*words, program=iotests.STOCK_DAEMON)
        daemon.kill()
    sector = difference(crash_disk.content(disk.image, disk.format),
                        disk.initial)
    if sector is not None:
        raise Wrong(f"stock changed sector {sector}")


def read_all(client):
    return b"".join(client.pread(offset, min(PIECE, client.size - offset))
                    for offset in range(0, client.size, PIECE))


def zero_is_zero(what, extents, data):
    """@extents: (offset, bytes) that are said to read as zeroes"""
    for offset, length in extents:
        if data[offset:offset + length].strip(b"\0"):
            raise Wrong(f"{what} says zero where there is data, somewhere in "
                        f"{length} bytes at {offset}")


class Check:
    """After the crash of a round"""

    def __init__(self, plan, disk, activities, requests, words, statistics,
                 was_killed):
        self.plan, self.disk = plan, disk
        self.activities = activities  # the first is that which was killed
        self.words = words
        self.statistics = statistics
        self.was_killed = was_killed  # or it was through
        self.writes = 0
        self.truth = Truth(disk.initial, requests)

    # ---- images ---------------------------------------------------------

    def files(self):
        names = [self.disk.image, *(self.disk.backing and [self.disk.backing]
                                    or [])]
        for activity in self.activities:
            names += activity.files
        return names

    def images(self):
        names = []
        if self.disk.format == "qcow2":
            names.append(self.disk.image)
        if self.plan.backing == "qcow2":
            names.append(self.disk.backing)
        for activity in self.activities:
            names += activity.images
        return names

    def locks(self):
        for name in self.files():
            crash_disk.free_of_locks(name)

    def offline(self):
        for name in self.images():
            leaks = crash_disk.check_image(name, self.statistics)
            if leaks and not self.was_killed:
                raise Wrong(f"{name}: {leaks} clusters leaked without a kill")
        self._bitmaps()
        self._contents()
        for activity in self.activities:
            activity.verify(self)
        self.content = crash_disk.content(self.disk.image, self.disk.format)
        # Targets that do not stand on the disk
        self.targets = [(activity.kind, name, activity.target_content())
                        for activity in self.activities
                        for name in activity.files
                        if activity.id not in (None, "fleecing")]

    def _contents(self):
        """The disk, wherever that is now, and the former one"""
        main = self.activities[0]
        places = main.disks()
        problems = []
        for filename, kind in places:
            try:
                self._check_disk(f"the disk, {filename},", filename, kind)
                break
            except Wrong as wrong:
                problems.append(str(wrong))
        if len(problems) == len(places):
            raise Wrong("; and ".join(problems))
        if places[0][0] != self.disk.image:
            self._check_disk("what was the disk", self.disk.image,
                             self.disk.format, main.asked)

    def _check_disk(self, what, filename, kind, after=FOREVER):
        data = crash_disk.content(filename, kind)
        certain = self.truth.check(
            what, data, after=after,
            durable=self.plan.power or kind == "qcow2" and self.was_killed,
            drops=filename == self.disk.image and self.plan.kind == "device"
            and not self.plan.direct,
            torn=self.plan.power and not self.plan.direct)
        self.statistics["sectors certain"] += certain

    def _bitmaps(self):
        """Stored bitmaps say that they are in use, or are gone; or they have been
        stored, if the daemon got so far"""
        self.bitmaps, self.inconsistent = {}, set()
        if self.disk.format != "qcow2":
            return
        self.bitmaps = crash_disk.stored_bitmaps(self.disk.image)
        for name, flags in self.bitmaps.items():
            if "in-use" in flags:
                self.inconsistent.add(name)
            elif self.plan.activity != "end":
                raise Wrong(f"bitmap {name} is as if nothing had been written "
                            f"since it was stored: {flags}")
        expected = {f"stored{i}" for i in range(self.plan.bitmaps)}
        if self.plan.activity == "bitmaps":
            expected.discard("stored0")
        if not expected <= set(self.bitmaps):
            raise Wrong(f"of the bitmaps {sorted(expected)} only "
                        f"{sorted(self.bitmaps)} are there")
        if self.inconsistent and not self.was_killed:
            raise Wrong(f"bitmaps in use when it ended: {self.bitmaps}")
        self.statistics["bitmaps inconsistent"] += len(self.inconsistent)
        self.statistics["bitmaps stored"] += \
            len(self.bitmaps) - len(self.inconsistent)

    # ---- the next daemon ------------------------------------------------

    def restart(self, socket):
        daemon = CrashDaemon(self.words, socket)
        self.socket = socket
        with daemon:
            self._forgot(daemon)
            with daemon.client() as client:
                self._same(client, "the daemon started again serves")
                self._map(daemon, client)
                self._other_images(daemon)
                self._jobs(daemon)
                self._bitmaps_removed(daemon)
                self._write(client)
        self._ended(socket)

    def _forgot(self, daemon):
        """The status cache knows only what was learned since"""
        for cache in daemon.cmd("query-block-status-cache"):
            if cache["bytes-zero"] > cache["learned-reads"] or \
                    cache["bytes-data"] and not cache["learned-writes"]:
                raise Wrong(f"something is known already: {cache}")

    def _same(self, client, what, expected=None):
        sector = difference(read_all(client), expected or self.content)
        if sector is not None:
            raise Wrong(f"{what} something else in sector {sector}")

    def _map(self, daemon, client):
        offset, zeroes = 0, []
        while offset is not None:
            answer = daemon.cmd("x-query-block-map", node_name="disk",
                                offset=offset)
            zeroes += [(row["start"], row["length"])
                       for row in answer["entries"] if row["zero"]]
            offset = answer.get("next-offset")
        zero_is_zero("x-query-block-map", zeroes, self.content)
        extents = client.map()
        zero_is_zero("base:allocation",
                     [(e.offset, e.length) for e in extents
                      if e.flags & STATE_ZERO], self.content)
        self.statistics["extents compared"] += len(zeroes) + len(extents)

    def _other_images(self, daemon):
        """Targets are opened and served as well"""
        for kind, name, content in self.targets:
            daemon.cmd("blockdev-add", crash_disk.node("again", name, kind))
            daemon.cmd("block-export-add", {
                "type": "nbd", "id": "again", "node-name": "again"})
            with daemon.client("again") as client:
                self._same(client, f"{name} is served with", content)
            daemon.cmd("block-export-del", id="again", mode="hard")
            daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="again")
            daemon.cmd("blockdev-del", node_name="again")

    def _jobs(self, daemon):
        """A new mirror and a new backup are the disk"""
        size = len(self.content)
        for command in ("blockdev-backup", "blockdev-mirror"):
            copy = path("copy")
            crash_disk.make_image(copy, "raw", size)
            daemon.cmd("blockdev-add", crash_disk.node("copy", copy, "raw"))
            daemon.cmd(command, {
                "job-id": "copy", "target": "copy", "sync": "full",
                "device": self.disk.top()})
            if command == "blockdev-mirror":
                daemon.qmp.wait_event("BLOCK_JOB_READY", device="copy")
                daemon.cmd("block-job-cancel", device="copy")
            end = daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device="copy")
            daemon.qmp.wait_job("copy", "null")
            daemon.cmd("blockdev-del", node_name="copy")
            sector = difference(crash_disk.read(copy), self.content)
            if "error" in end["data"] or sector is not None:
                raise Wrong(f"{command} of the disk: {end['data']}, first "
                            f"difference in sector {sector}")
            os.unlink(copy)

    def _bitmaps_removed(self, daemon):
        (node,) = (node for node in daemon.cmd("query-named-block-nodes")
                   if node["node-name"] == "disk")
        rows = {row["name"]: row for row in node.get("dirty-bitmaps", [])}
        if set(rows) != set(self.bitmaps) or \
                self.inconsistent != {name for name, row in rows.items()
                                      if row.get("inconsistent")}:
            raise Wrong(f"bitmaps {self.bitmaps} are {rows}")
        for name in rows:
            if name not in self.inconsistent:
                self._marked(daemon, name)
            daemon.cmd("block-dirty-bitmap-remove", node="disk", name=name)

    def _marked(self, daemon, name):
        """What is stored has all that is not as at first"""
        daemon.cmd("block-dirty-bitmap-disable", node="disk", name=name)
        daemon.cmd("block-export-add", {
            "type": "nbd", "id": "marks", "name": "marks",
            "node-name": "disk", "bitmaps": [name]})
        context = f"qemu:dirty-bitmap:{name}"
        with nbd.NBD(self.socket, "marks", contexts=(context,)) as client:
            clear = [e for e in client.map(context) if not e.flags]
        for extent in clear:
            end = extent.offset + extent.length
            sector = difference(self.content[extent.offset:end],
                                self.disk.initial[extent.offset:end])
            if sector is not None:
                raise Wrong(f"bitmap {name} does not mark sector "
                            f"{extent.offset // SECTOR + sector}")
        daemon.cmd("block-export-del", id="marks", mode="hard")
        daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="marks")

    def _write(self, client):
        """It takes writes, too"""
        self.writes += 1
        first = self.plan.number * self.writes * 8 % (client.size // SECTOR - 8)
        data = stamped(98, self.writes, first, 8)
        client.pwrite(first * SECTOR, data)
        client.flush()
        self.content = (self.content[:first * SECTOR] + data +
                        self.content[(first + 8) * SECTOR:])
        self._same(client, "after a write it serves")

    def _ended(self, socket):
        for name in (socket, path("monitor"), path("pid")):
            if os.path.lexists(name):
                raise Wrong(f"{name} is left behind by a daemon that ended")

    def serve(self, socket):
        """The disk is another image now: start the daemon with that"""
        node = self.activities[0].served()
        if not node:
            return
        filename = (node.get("file") or node)["filename"]
        content = crash_disk.content(filename, "qcow2"
                                     if node["driver"] == "qcow2" else "raw")
        words = ["--blockdev", crash_disk.json.dumps(node)]
        daemon = CrashDaemon(words + crash_disk.export_words(
            "disk", path("monitor"), socket, path("pid")), socket)
        with daemon:
            with daemon.client() as client:
                self._same(client, "the daemon with the new disk serves",
                           content)
        self._ended(socket)

    def repair(self, socket):
        """What has leaked can be mended, and from then on nothing leaks"""
        for name in self.images():
            crash_disk.check_image(name)
            crash_disk.repair_image(name)
            if crash_disk.stored_bitmaps(name):
                raise Wrong(f"{name} still has bitmaps")
        if self.images():
            with CrashDaemon(self.words, socket) as daemon:
                with daemon.client() as client:
                    self._same(client, "repaired, the disk has")
                    self._write(client)
        for name in self.images():
            leaks = crash_disk.check_image(name)
            if leaks:
                raise Wrong(f"{name}: {leaks} clusters leaked after a repair")
        sector = difference(self.content, crash_disk.content(
            self.disk.image, self.disk.format))
        if sector is not None:
            raise Wrong(f"at last, the disk differs in sector {sector}")
