#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs live as in QEMU's storage daemon: the same commands to both, and the
same answers and events, these in the same order."""

import contextlib
import os
import unittest

import iotests
from iotests import MiB, QMPError, path

SIZE = 4 * MiB
# So slow that the job is still running when it has been looked at from all sides
SLOW = 65536


@contextlib.contextmanager
def both():
    """Our daemon and the stock one, each with nodes of the same making"""
    with contextlib.ExitStack() as stack:
        daemons = []
        for name, program in (("ours", iotests.DAEMON),
                              ("stock", iotests.STOCK_DAEMON)):
            image, copy, short = (path(f"{name}-{what}")
                                  for what in ("image", "copy", "short"))
            with open(image, "wb") as file:
                file.write(b"\x5a" * SIZE)
            for file, size in ((copy, SIZE), (short, SIZE // 2)):
                with open(file, "wb") as empty:
                    empty.truncate(size)
            daemon = stack.enter_context(iotests.Daemon(
                "--blockdev", f"file,node-name=src,filename={image}",
                "--blockdev", f"file,node-name=dst,filename={copy}",
                "--blockdev", f"file,node-name=short,filename={short}",
                "--blockdev", f"null-co,node-name=null0,size={SIZE}",
                "--blockdev", f"null-co,node-name=lowest,size={SIZE}",
                "--blockdev", f"null-co,node-name=below,size={SIZE}",
                "--blockdev", "raw,node-name=above,file=below",
                "--object", "throttle-group,id=group",
                "--blockdev", "throttle,node-name=upper,throttle-group=group,"
                "file.driver=throttle,file.node-name=lower,"
                "file.throttle-group=group,file.file=lowest",
                program=program))
            daemons.append(daemon)
        yield daemons


def mirror(job_id="m", **options):
    return ("blockdev-mirror", {
        "job-id": job_id, "device": "src", "target": "dst", "sync": "full",
        **{key.replace("_", "-"): value for key, value in options.items()}})


def verb(name, job_id="m", **more):
    key = "id" if not name.startswith("block-job") or name in (
        "block-job-finalize", "block-job-dismiss") else "device"
    return (name, {key: job_id, **more})


QUERIES = [("query-jobs", {}), ("query-block-jobs", {})]


class JobsAsStockRunsThem(unittest.TestCase):

    # How much of a slow job is done depends on how much it starts at once.
    PROGRESS = ("len", "offset", "current-progress", "total-progress", "busy")

    def neutral(self, value):
        """@value without what may differ"""
        if isinstance(value, list):
            return [self.neutral(row) for row in value]
        if isinstance(value, dict):
            # A drained job counts as paused there.
            drop = [*self.PROGRESS] if self.slow else ["busy"]
            if value.get("status") == "pending":
                drop.append("paused")
            return {key: self.neutral(member) for key, member in value.items()
                    if key not in drop}
        return value

    def step(self, daemon, step):
        """Run a command, wait for an event, or a list of both; what came of
        it"""
        if isinstance(step, list):
            return [self.step(daemon, one) for one in step]
        if isinstance(step, str):
            seen = []
            while True:
                event = (daemon.qmp.events.popleft() if daemon.qmp.events
                         else daemon.qmp.receive())
                data = event["data"]
                seen.append((event["event"], self.neutral(data)))
                if step in (event["event"], data.get("status")):
                    return seen
        try:
            return self.neutral(daemon.cmd(*step))
        except QMPError as error:
            if step[0] == "blockdev-del":
                return error.error_class  # ours says who uses the node
            return {"class": error.error_class, "desc": error.desc}

    def run_both(self, *steps, slow=False):
        self.slow = slow
        with both() as daemons:
            for step in steps:
                ours, stock = (self.step(daemon, step) for daemon in daemons)
                with self.subTest(f"{step}"):
                    self.assertEqual(ours, stock)

    def test_pivot(self):
        self.run_both(
            mirror(), "BLOCK_JOB_READY", *QUERIES,
            verb("job-finalize"), verb("job-dismiss"), verb("job-resume"),
            verb("block-job-resume"), verb("block-job-finalize"),
            verb("block-job-dismiss"), verb("block-job-set-speed", speed=-1),
            verb("job-complete"), "null", *QUERIES, verb("job-complete"),
            verb("block-job-complete"))

    def test_sync(self):
        for sync in ("top", "none"):
            self.run_both(
                mirror(sync=sync), "BLOCK_JOB_READY", *QUERIES,
                verb("block-job-cancel"), "null")

    def test_soft_cancel(self):
        self.run_both(
            mirror(auto_dismiss=False), "BLOCK_JOB_READY",
            verb("block-job-cancel"), "concluded", *QUERIES,
            verb("job-cancel"), verb("block-job-cancel"),
            verb("block-job-cancel", force=True), verb("job-pause"),
            verb("job-finalize"), verb("job-complete"),
            verb("job-dismiss"), "null", verb("job-dismiss"))

    def test_by_hand(self):
        self.run_both(
            mirror(auto_finalize=False, auto_dismiss=False),
            "BLOCK_JOB_READY", verb("job-complete"), "BLOCK_JOB_PENDING",
            *QUERIES, verb("job-pause"), verb("job-complete"),
            verb("job-dismiss"), verb("job-resume"),
            verb("block-job-set-speed", speed=5),
            verb("job-finalize"), "concluded", *QUERIES,
            verb("block-job-dismiss"), "null")

    def test_soft_cancel_by_hand(self):
        self.run_both(
            mirror(auto_finalize=False), "BLOCK_JOB_READY",
            verb("block-job-cancel"), "BLOCK_JOB_PENDING",
            verb("block-job-finalize"), "null")

    def test_cancel_pending(self):
        self.run_both(
            mirror(auto_finalize=False), "BLOCK_JOB_READY",
            verb("job-complete"), "BLOCK_JOB_PENDING",
            verb("block-job-cancel"), "null", *QUERIES)

    def test_cancel_ready(self):
        self.run_both(mirror(), "BLOCK_JOB_READY", verb("job-cancel"), "null",
                      mirror(), "BLOCK_JOB_READY",
                      verb("block-job-cancel", force=True), "null")

    def test_standby(self):
        self.run_both(
            mirror(), "BLOCK_JOB_READY", verb("job-pause"), "standby",
            *QUERIES, verb("block-job-pause"), verb("block-job-cancel"),
            verb("job-complete"), verb("job-complete"), verb("job-resume"),
            "null")

    def test_cancel_standby(self):
        self.run_both(
            mirror(), "BLOCK_JOB_READY", verb("block-job-pause"), "standby",
            verb("block-job-resume"), "ready", verb("job-pause"), "standby",
            verb("job-cancel"), "null")

    def test_running(self):
        self.run_both(
            mirror(speed=SLOW, auto_dismiss=False), "running", *QUERIES,
            verb("job-complete"), verb("block-job-complete"),
            verb("job-pause"), "paused", *QUERIES, verb("job-pause"),
            verb("block-job-cancel"), verb("job-complete"),
            verb("block-job-set-speed", speed=2 * SLOW), *QUERIES,
            verb("job-cancel"), "concluded", *QUERIES, verb("job-dismiss"),
            "null", slow=True)

    def test_faster(self):
        self.run_both(
            mirror(speed=SLOW), "running",
            verb("block-job-set-speed", speed=0), "BLOCK_JOB_READY",
            verb("job-cancel"), "null", slow=True)

    def test_cancel_paused(self):
        for cancel in (verb("job-cancel"),
                       verb("block-job-cancel", force=True)):
            self.run_both(mirror(speed=SLOW), "running", verb("job-pause"),
                          "paused", cancel, "null", slow=True)

    def test_unknown(self):
        self.run_both(*(
            verb(name, "nope", **more) for name, more in (
                ("job-cancel", {}), ("job-complete", {}), ("job-pause", {}),
                ("job-resume", {}), ("job-finalize", {}), ("job-dismiss", {}),
                ("block-job-cancel", {}), ("block-job-complete", {}),
                ("block-job-pause", {}), ("block-job-resume", {}),
                ("block-job-finalize", {}), ("block-job-dismiss", {}),
                ("block-job-set-speed", {"speed": 0}))))

    def test_refused(self):
        self.run_both(
            mirror(""), mirror("m m"), mirror("1"),
            mirror(device="nope"), mirror(target="nope"),
            mirror(target="src"), mirror(granularity=100),
            mirror(granularity=128 * MiB), mirror(granularity=513),
            mirror(buf_size=-1), mirror(device="below"),
            mirror(sync="bogus"),
            mirror(bogus=1), ("blockdev-mirror", {"job-id": "m"}),
            mirror(filter_node_name="f0"), "BLOCK_JOB_READY", mirror(),
            mirror("m2"), mirror("m2", device="null0"),
            mirror("m2", device="null0", target="above",
                   filter_node_name="f0"),
            verb("job-cancel"), "null")

    def test_replaces(self):
        for replaces in ("upper", "lower", "lowest"):
            self.run_both(
                mirror(device="upper", target="null0", replaces=replaces),
                "BLOCK_JOB_READY", ("blockdev-del", {"node-name": "null0"}),
                verb("job-complete"), "null",
                *(("blockdev-del", {"node-name": name})
                  for name in ("lowest", "null0", "upper", "null0")))
        self.run_both(
            mirror(replaces="src"), "BLOCK_JOB_READY", verb("job-cancel"),
            "null", *(mirror(device="upper", replaces=replaces)
                      for replaces in ("nope", "", "src", "dst", "above")),
            mirror(device="above", target="null0", replaces="below"))

    def test_chains(self):
        """What stands above or below another node"""
        self.run_both(
            mirror(device="above", target="null0"), "BLOCK_JOB_READY",
            verb("block-job-cancel"), "null",
            mirror(target="above"), "BLOCK_JOB_READY",
            verb("block-job-cancel"), "null",
            mirror(target="below"), "BLOCK_JOB_READY",
            verb("block-job-cancel"), "null")

    def test_create(self):
        def steps(daemon_path):
            options = {"driver": "file", "filename": daemon_path,
                       "size": MiB}
            # One daemon after the other, for the file is locked meanwhile.
            return ([("blockdev-create", {"job-id": "c", "options": options}),
                     "concluded"], *QUERIES, verb("block-job-dismiss", "c"),
                    verb("block-job-cancel", "c"), verb("job-cancel", "c"),
                    verb("job-complete", "c"),
                    ("blockdev-create", {"job-id": "c", "options": options}),
                    verb("job-dismiss", "c"), "null", *QUERIES)

        self.run_both(*steps(path("new")))
        os.unlink(path("new"))
        self.run_both(*steps("/nonexistent/new"))


if __name__ == "__main__":
    iotests.main()
