# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of all makings, and a daemon that serves one of them."""

import os

import iotests
import nbd
from iotests import KiB, MiB

MAKE_FRAGMENTED = os.path.join(iotests.SOURCE_DIR, "scripts",
                               "make-fragmented-disk")


def sparse(name, size):
    """A file that is one hole"""
    with open(name, "wb") as file:
        file.truncate(size)
    return name


def written(name, size, pattern=b"\x5a"):
    """A file full of data, on disk"""
    block = pattern * (MiB // len(pattern))
    with open(name, "wb") as file:
        for _ in range(size // MiB):
            file.write(block)
        file.write(block[:size % MiB])
        os.fsync(file.fileno())
    return name


def alternating(name, size, data=64 * KiB, hole=64 * KiB):
    """Data, hole, data, hole, ..., on disk"""
    with open(name, "wb") as file:
        for offset in range(0, size, data + hole):
            file.seek(offset)
            file.write(b"\xa5" * data)
        file.truncate(size)
        os.fsync(file.fileno())
    return name


def fragmented(name, extents, size=64 * KiB, preallocated=False):
    """A file of so many extents of @size bytes"""
    words = ["--preallocated"] if preallocated else []
    iotests.run(MAKE_FRAGMENTED, "--extents", extents, "--extent-size", size,
                *words, name, timeout=240)
    return name


class DiskDaemon(iotests.Daemon):
    """A daemon with the node `disk` and an NBD export of that name

    @options: of the node, as in --blockdev, beginning with a comma.
    @driver: "host_device" for a block device. @extra: more of the command
    line.
    """

    def __init__(self, filename, options="", writable="on", driver="file",
                 extra=(), **more):
        self.filename = filename
        self.nbd_path = iotests.path(f"nbd{self.count()}")
        self.uri = f"nbd+unix:///disk?socket={self.nbd_path}"
        super().__init__(
            "--blockdev", f"driver={driver},node-name=disk,filename={filename},"
            f"discard=unmap{options}",
            "--nbd-server", f"addr.type=unix,addr.path={self.nbd_path}",
            "--export", "nbd,id=export,node-name=disk,name=disk,"
            f"writable={writable}",
            *extra, **more)

    def client(self, **options):
        return nbd.NBD(self.nbd_path, "disk", **options)

    def add_node(self, node_name, filename, **options):
        self.cmd("blockdev-add", {"driver": "file", "node-name": node_name,
                                  "filename": filename, "discard": "unmap",
                                  **options})

    def start_mirror(self, target, job_id="mirror", device="disk",
                     target_options=None, **options):
        """Mirror @device to a new sparse file, which becomes the node
        @job_id-target; @options are the job's"""
        with open(self.filename, "rb") as source:
            sparse(target, source.seek(0, os.SEEK_END))
        os.chmod(target, 0o666)  # the daemon may be somebody else
        node_name = job_id + "-target"
        self.add_node(node_name, target, **(target_options or {}))
        self.cmd("blockdev-mirror", {
            "job-id": job_id, "device": device, "target": node_name,
            "sync": "full", **options})

    def wait_ready(self, job_id="mirror"):
        return self.qmp.wait_event("BLOCK_JOB_READY", device=job_id)

    def complete(self, job_id="mirror"):
        """Pivot, and wait until the job is gone"""
        self.cmd("job-complete", id=job_id)
        return self._end(job_id, "BLOCK_JOB_COMPLETED")

    def finish(self, job_id="mirror"):
        """End a ready mirror without a pivot; the copy is good"""
        self.cmd("block-job-cancel", device=job_id)
        return self._end(job_id, "BLOCK_JOB_COMPLETED")

    def _end(self, job_id, name):
        event = self.qmp.wait_event(name, device=job_id)
        self.qmp.wait_job(job_id, "null")
        if "error" in event["data"]:
            raise AssertionError(f"{job_id}: {event['data']['error']}")
        return event

    def mirror(self, target, job_id="mirror", **options):
        """A whole mirror, without pivot; the target node is gone afterwards"""
        self.start_mirror(target, job_id, **options)
        self.wait_ready(job_id)
        self.finish(job_id)
        self.cmd("blockdev-del", node_name=job_id + "-target")

    def map(self, node_name="disk"):
        """All rows of x-query-block-map"""
        rows, offset = [], 0
        while offset is not None:
            answer = self.cmd("x-query-block-map", node_name=node_name,
                              offset=offset)
            rows += answer["entries"]
            offset = answer.get("next-offset")
        return rows
