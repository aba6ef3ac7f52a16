# SPDX-License-Identifier: GPL-2.0-or-later
"""What is under way when the daemon is killed, and what has to be true of it
then."""

import json
import os
import signal

import crash_disk
from crash_truth import DISCARD, FOREVER, SECTOR, Request, Wrong, now
from iotests import MiB, Strace, qemu_img, run

# Answers to clients while something is waited for: more writes than that would
# only keep a job from becoming ready.
MEANWHILE = 1500


class Activity:
    """Nothing but clients"""

    id = None

    def __init__(self, plan, disk):
        self.plan, self.disk = plan, disk
        self.daemon = self.load = None
        self.sent = self.replied = FOREVER
        self.asked = FOREVER  # for the end
        self.extra = []  # what happened to the disk, as requests
        self.prepare()

    # Files it needs, besides the disk's
    files = ()
    # Of the files, those that are qcow2 images
    images = ()

    def prepare(self):
        """Make images"""

    def attach(self, daemon, load):
        """Add nodes, before there is load"""
        self.daemon, self.load = daemon, load

    def begin(self):
        """What leads to the moment "begun" or "asked" """

    def reach(self, moment):
        """Bring it to that moment, under load"""
        self.begin()

    def pending(self, command, **arguments):
        """Send a command and do not wait for the reply"""
        self.asked = now()
        self.daemon.qmp.send_raw(json.dumps({
            "execute": command, "id": "pending",
            "arguments": {key.replace("_", "-"): value
                          for key, value in arguments.items()}}).encode()
            + b"\n")

    def wait(self, name, **data):
        """Wait for an event, the clients going on meanwhile"""
        self.load.allow(MEANWHILE)
        event = self.daemon.qmp.wait_event(name, **data)
        self.daemon.qmp.events.append(event)  # completed() looks for it

    def kill(self):
        """The end of the daemon"""
        self.daemon.process.send_signal(signal.SIGKILL)

    def finish(self):
        """The daemon is dead"""

    def ended(self):
        """Whether it was told that the job succeeded, after the kill"""
        return self.daemon.completed(self.id)

    def disks(self):
        """Images of which at least one has to be the disk: (file, format)"""
        return [(self.disk.image, self.disk.format)]

    def served(self):
        """The node that a manager would now start the daemon with, if that is
        another one"""
        return None

    def verify(self, check):
        """Look at its own images"""


class Job(Activity):
    """With a target of its own"""

    device = "disk"

    def prepare(self):
        self.target = os.path.join(self.disk.folder, f"{self.id}.target")
        self.files = [self.target]
        self.kind = self.plan.target
        self.images = self.files if self.kind == "qcow2" else ()
        self.make_target()
        self.at_first = bytes(len(self.disk.initial))

    def make_target(self):
        crash_disk.make_image(self.target, self.kind, self.plan.size,
                              self.plan.target_image)

    def target_options(self):
        return {}

    def attach(self, daemon, load):
        super().attach(daemon, load)
        daemon.cmd("blockdev-add", crash_disk.node(
            self.id + "-target", self.target, self.kind,
            direct=self.plan.direct, **self.target_options()))

    def start(self, command, **options):
        finalize = self.plan.moment not in ("pending", "finalizing")
        self.sent = now()
        self.daemon.cmd(command, {
            "job-id": self.id, "device": self.device,
            "auto-finalize": finalize,
            **{key.replace("_", "-"): value for key, value in
               options.items()}})
        self.replied = now()

    def finalize(self, moment):
        self.wait("BLOCK_JOB_PENDING", id=self.id)
        if moment == "finalizing":
            self.pending("job-finalize", id=self.id)

    def target_content(self):
        return crash_disk.content(self.target, self.kind)


class Mirror(Job):
    id = "mirror"

    def prepare(self):
        super().prepare()
        self.device = self.disk.top()
        self.ready = False

    def begin(self):
        self.start("blockdev-mirror", target="mirror-target", sync="full",
                   copy_mode="write-blocking" if self.plan.blocking
                   else "background")

    def reach(self, moment):
        self.begin()
        if moment == "begun":
            return
        self.wait("BLOCK_JOB_READY", device=self.id)
        self.ready = True
        if moment == "ready":
            return
        self.pending("job-complete", id=self.id)
        if moment == "completing":
            return
        self.daemon.reply()
        if moment == "completed":
            self.wait("BLOCK_JOB_COMPLETED", device=self.id)
        else:
            asked = self.asked
            self.finalize(moment)
            self.asked = asked

    def disks(self):
        target = (self.target, self.kind)
        if self.ended():
            return [target]
        return super().disks() + ([target] if self.asked < FOREVER else [])

    def served(self):
        if self.ended():
            return crash_disk.node("disk", self.target, self.kind)
        return None

    def verify(self, check):
        if self.ended():
            return  # it is the disk
        # From the moment when it was ready on what is acknowledged is on both.
        both = (self.ready and self.plan.blocking and self.kind == "raw" and
                not self.plan.power)
        check.truth.check("the mirror's target", self.target_content(),
                          after=FOREVER if both else self.sent,
                          also=None if both else self.at_first)
        check.statistics["targets equal to the disk"] += both


class Backup(Job):
    id = "backup"
    sync = {"sync": "full"}

    def begin(self):
        self.start("blockdev-backup", target="backup-target", **self.sync)

    def reach(self, moment):
        self.begin()
        if moment == "completed":
            self.wait("BLOCK_JOB_COMPLETED", device=self.id)
        elif moment in ("pending", "finalizing"):
            self.finalize(moment)

    def verify(self, check):
        done = self.ended()
        check.truth.check("the backup", self.target_content(),
                          after=self.sent, before=self.replied,
                          also=None if done else self.at_first)
        check.statistics["backups complete"] += done


class Incremental(Backup):
    """To what was a copy of the disk when its bitmap was made"""

    sync = {"sync": "incremental", "bitmap": "since"}

    def make_target(self):
        copy = os.path.join(self.disk.folder, "copy")
        with open(copy, "wb") as file:
            file.write(self.disk.initial)
        qemu_img("convert", "-f", "raw", "-O", self.kind, copy, self.target)
        os.unlink(copy)

    def prepare(self):
        super().prepare()
        self.at_first = self.disk.initial

    def attach(self, daemon, load):
        super().attach(daemon, load)
        daemon.cmd("block-dirty-bitmap-add", node="disk", name="since")


class Fleecing(Job):
    """An overlay that gets what is about to be overwritten"""

    id = "fleecing"

    def prepare(self):
        super().prepare()
        self.kind = "qcow2"
        self.images = self.files

    def make_target(self):
        crash_disk.make_image(self.target, "qcow2", self.plan.size,
                              backing=(self.disk.image, self.disk.format))

    def target_options(self):
        return {"backing": "disk"}

    def begin(self):
        self.start("blockdev-backup", target="fleecing-target", sync="none")

    def verify(self, check):
        """What it has is of that moment. That it has all that was overwritten
        nobody can ask for: its tables were in memory."""
        qemu_img("rebase", "-u", "-b", "", "-f", "qcow2", self.target)
        check.truth.check("what was fleeced", self.target_content(),
                          after=self.sent, before=self.replied,
                          also=self.at_first)


class Commit(Mirror):
    id = "commit"

    def prepare(self):
        self.device = self.disk.top()
        self.target, self.kind = self.disk.backing, self.plan.backing
        self.files = ()
        self.ready = False

    def attach(self, daemon, load):
        self.daemon, self.load = daemon, load

    def begin(self):
        self.start("block-commit")

    def verify(self, check):
        pass  # The chain reads as ever.


class Snapshot(Activity):
    def prepare(self):
        self.overlay = os.path.join(self.disk.folder, "overlay")
        self.files = self.images = [self.overlay]
        crash_disk.make_image(self.overlay, "qcow2", self.plan.size,
                              self.plan.target_image,
                              (self.disk.image, self.disk.format))

    def attach(self, daemon, load):
        super().attach(daemon, load)
        daemon.cmd("blockdev-add", crash_disk.node(
            "overlay", self.overlay, "qcow2", direct=self.plan.direct,
            backing=None))

    def begin(self):
        self.pending("blockdev-snapshot", node="disk", overlay="overlay")

    def reach(self, moment):
        self.begin()
        if moment == "done":
            self.daemon.reply()

    def disks(self):
        # As long as nothing was written to the overlay it reads as the disk.
        return [(self.overlay, "qcow2")]

    def served(self):
        driver = {"driver": "host_device"} if self.disk.device else {}
        return crash_disk.node(
            "disk", self.overlay, "qcow2",
            backing=crash_disk.node("below", self.disk.image,
                                    self.disk.format, **driver))


class Bitmaps(Activity):
    """Those in the image come and go"""

    def begin(self):
        number = self.plan.number // 2 % 4
        if number == 0:
            self.pending("block-dirty-bitmap-add", node="disk", name="new",
                         persistent=True)
        elif number == 1:
            self.pending("block-dirty-bitmap-remove", node="disk",
                         name="stored0")
        elif number == 2:
            self.pending("block-dirty-bitmap-clear", node="disk",
                         name="stored0")
        else:
            self.pending("block-dirty-bitmap-merge", node="disk",
                         target="stored1" if self.plan.bitmaps > 1
                         else "stored0", bitmaps=["stored0"])

    def reach(self, moment):
        self.begin()
        if moment == "done":
            self.daemon.reply()


class Resize(Activity):
    """Longer, or as much shorter as clients leave alone"""

    def prepare(self):
        self.sizes = {self.plan.size}

    def begin(self):
        step = (1 if self.plan.number % 3 else -1) * MiB
        self.new = self.plan.size + step
        if step < 0:
            gone = Request(99, 1, DISCARD, self.new // SECTOR, MiB // SECTOR)
            self.extra.append(gone)
        self.pending("block_resize", node_name="disk", size=self.new)
        self.sizes.add(self.new)

    def reach(self, moment):
        self.begin()
        if moment == "done":
            self.daemon.reply()

    def verify(self, check):
        if self.daemon.replied() and not self.plan.power:
            self.sizes = {self.new}
        info = json.loads(run("qemu-img", "info", "--output=json", "-f",
                              self.disk.format, self.disk.image).stdout)
        size = info["virtual-size"]
        if size not in self.sizes:
            raise Wrong(f"the disk is {size} bytes, not one of {self.sizes}")


class Transaction(Backup):
    """A backup, and a new bitmap, which the image stores if there is one"""

    def arguments(self):
        return {"actions": [
            {"type": "block-dirty-bitmap-add", "data": {
                "node": "disk", "name": "new",
                "persistent": self.disk.format == "qcow2" and
                "compat=0.10" not in self.plan.image}},
            {"type": "blockdev-backup", "data": {
                "job-id": self.id, "device": "disk", "sync": "full",
                "target": "backup-target"}}]}

    def reach(self, moment):
        self.sent = now()
        self.pending("transaction", **self.arguments())
        if moment == "asked":
            return
        self.daemon.reply()
        self.replied = now()
        if moment == "completed":
            self.wait("BLOCK_JOB_COMPLETED", device=self.id)


class End(Activity):
    """It is told to end, and killed on the way, at one of the calls that write to
    the image: tables, bitmaps. If it is through by then, all is there."""

    CALLS = "pwrite64,pwritev,pwritev2,fdatasync,fallocate,ftruncate"
    trace = None

    def reach(self, moment):
        self.load.errors_matter = False  # it hangs up
        if moment == "writing":
            self.trace = Strace(
                self.daemon.pid, self.CALLS,
                [f"{self.CALLS}:signal=KILL:when={self.plan.calls}"],
                [self.disk.image])

    def kill(self):
        self.daemon.process.send_signal(signal.SIGTERM)
        if not self.trace:
            super().kill()

    def finish(self):
        if self.trace:
            self.trace.__exit__()


KINDS = {"load": Activity, "mirror": Mirror, "backup": Backup, "end": End,
         "incremental": Incremental, "fleecing": Fleecing, "commit": Commit,
         "snapshot": Snapshot, "bitmaps": Bitmaps, "resize": Resize,
         "transaction": Transaction}
