# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens in a round: the same for the same seed and number."""

import dataclasses
import random

from iotests import KiB, MiB

# What is under way, and at which moments the daemon is killed: some answers to
# clients after that
MIRROR = ("begun", "ready", "completing", "completed", "pending", "finalizing")
BACKUP = ("begun", "pending", "finalizing", "completed")
ACTIVITIES = {
    "load": ("begun",),
    "mirror": MIRROR,
    "backup": BACKUP,
    "incremental": ("begun", "completed"),
    "fleecing": ("begun",),
    "commit": ("begun", "ready", "completing", "completed"),
    "snapshot": ("asked", "done"),
    "bitmaps": ("asked", "done"),
    "resize": ("asked", "done"),
    "transaction": ("asked", "begun", "completed"),
    "end": ("asked", "writing"),
}
# A file; a block device; an image; one that stands on another
KINDS = ("raw", "device", "qcow2", "chain")
IMAGES = ("qcow2", "chain")

LAYOUTS = ("sparse", "preallocated", "written", "fragmented")
# "here" is where scratch folders are, and where rounds are for whose file system
# there is no leave to mount it
FILE_SYSTEMS = ("here", "tmpfs", "ext4", "xfs", "btrfs")
POWER_FILE_SYSTEMS = ("ext4", "xfs")
# A command's reply is pending, and comes soon
SOON = ("asked", "completing", "finalizing")


def all_cases(power):
    for activity, moments in ACTIVITIES.items():
        for moment in moments:
            for kind in KINDS:
                if activity == "commit" and kind != "chain":
                    continue
                if activity == "bitmaps" and kind not in IMAGES:
                    continue
                if activity == "resize" and kind == "device":
                    continue
                if activity == "end" and (kind not in IMAGES or power):
                    continue  # there is no power to cut in the middle
                yield kind, activity, moment


@dataclasses.dataclass
class Plan:
    seed: int
    number: int
    power: bool
    kind: str = ""
    activity: str = ""
    moment: str = ""
    answers: int = 0  # to clients from that moment to the kill
    before: int = 0  # to clients before the activity begins
    where: str = ""  # the file system
    below: str = ""  # that on which that one's disk is; power cuts are there
    size: int = 0  # bytes
    direct: bool = False
    layout: str = ""
    sector: int = 512  # of the device
    image: tuple = ()  # words of qemu-img create
    backing: str = ""  # format
    compressed: bool = False
    bitmaps: int = 0
    target: str = ""
    target_image: tuple = ()
    blocking: bool = False
    beside: str = ""  # another job
    options: tuple = ()  # of the file's node
    clients: int = 0
    depth: int = 0
    hot: float = 0
    calls: int = 0  # that write, until the daemon is killed while it ends

    @property
    def format(self):
        return "qcow2" if self.kind in IMAGES else "raw"

    def __str__(self):
        words = [f"{field.name}={getattr(self, field.name)}"
                 for field in dataclasses.fields(self)
                 if getattr(self, field.name) not in ("", (), 0, False)]
        return " ".join(words)


def _image_options(rand):
    words = [rand.choice(("compat=1.1", "compat=1.1", "compat=0.10"))]
    cluster = rand.choice((512, 4 * KiB, 64 * KiB, 64 * KiB, 256 * KiB,
                           2 * MiB))
    words.append(f"cluster_size={cluster}")
    if words[0] == "compat=1.1":
        if rand.random() < 0.3:
            words.append(f"refcount_bits={rand.choice((1, 8, 32, 64))}")
        if rand.random() < 0.15:
            words.append("lazy_refcounts=on")
        if rand.random() < 0.2 and "refcount_bits=1" not in words:
            words.append("compression_type=zstd")
    return tuple(words)


def make(seed, number, power=False):
    """The plan of a round; no two of a short run show the same"""
    cases = list(all_cases(power))
    random.Random(f"cases {seed}").shuffle(cases)
    rand = random.Random(f"{seed}/{number}/{power}")
    plan = Plan(seed, number, power)
    plan.kind, plan.activity, plan.moment = cases[number % len(cases)]
    plan.answers = rand.randrange(6) if plan.moment in SOON \
        else rand.choice((0, rand.randrange(20), rand.randrange(200),
                          rand.randrange(200)))
    plan.before = rand.choice((0, rand.randrange(50), rand.randrange(400)))
    if plan.moment == "writing":
        # Clients wait then.
        plan.before, plan.answers = 20 + rand.randrange(300), 0
    plan.where = rand.choice(FILE_SYSTEMS)
    if power:
        plan.where = rand.choice(POWER_FILE_SYSTEMS + ("btrfs",))
        # Either that file system loses what it has not written, or its disk
        # does; btrfs cannot be told to do so.
        if plan.where == "btrfs" or rand.random() < 0.5:
            plan.below = rand.choice(POWER_FILE_SYSTEMS)
    plan.size = rand.choice((4, 8, 8, 12, 16)) * MiB
    if plan.kind != "device" and rand.random() < 0.3:
        plan.size += rand.randrange(1, 200) * 512
    plan.direct = rand.random() < 0.4
    if plan.direct or power:
        plan.size -= plan.size % (4 * KiB)
    plan.layout = rand.choice(LAYOUTS)
    plan.sector = rand.choice((512, 4096))
    if plan.kind in IMAGES:
        plan.image = _image_options(rand)
        plan.bitmaps = rand.choice((0, 1, 3)) \
            if plan.image[0] == "compat=1.1" else 0
        if plan.activity in ("bitmaps", "end"):
            plan.image = ("compat=1.1", *plan.image[1:])
            plan.bitmaps = plan.bitmaps or 2
        plan.compressed = rand.random() < 0.4
    if plan.kind == "chain":
        plan.backing = rand.choice(("raw", "qcow2"))
    plan.target = rand.choice(("raw", "qcow2"))
    if plan.target == "qcow2":
        plan.target_image = _image_options(rand)
    plan.blocking = rand.random() < 0.5
    if plan.activity in ("load", "mirror", "backup", "bitmaps") and \
            rand.random() < 0.5:
        plan.beside = "backup" if plan.activity != "backup" else "mirror"
    options = []
    if rand.random() < 0.2:
        options.append(("detect-zeroes", "unmap"))
    if rand.random() < 0.2:
        options.append(("status-cache-learn-reads", True))
    if rand.random() < 0.2 and plan.kind != "device":
        options.append(("status-probe", rand.choice(("seek", "fiemap"))))
    if rand.random() < 0.1:
        options.append(("status-cache", rand.choice(("data-only", "off"))))
    plan.options = tuple(options)
    plan.clients = rand.choice((1, 2, 3, 4))
    plan.depth = rand.choice((1, 4, 16))
    plan.hot = rand.choice((0.2, 0.7))
    plan.calls = rand.randrange(1, 20)
    return plan
