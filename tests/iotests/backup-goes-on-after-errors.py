#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup that stopped because its target could not be written goes on when it is
resumed, whatever was written there before, and is right in the end."""

import unittest

import disk
import iotests
from iotests import MiB, path

SIZE = 4 * MiB
PATTERN = bytes(range(256)) * 16


class BackupGoesOnAfterErrors(unittest.TestCase):
    def run_backup(self, *create, **options):
        """With writes that fail, from the fifth of a worker on, until it is resumed"""
        target = path("target.qcow2")
        iotests.qemu_img("create", "-q", "-f", "qcow2", *create, target, SIZE)
        source = disk.written(path("source"), SIZE, PATTERN)
        with iotests.Daemon(
                "--blockdev", f"driver=file,node-name=disk,filename={source}",
                "--blockdev", "driver=qcow2,node-name=copy,file.driver=file,"
                f"file.filename={target}") as daemon:
            with daemon.strace("pwrite64,pwritev,pwritev2",
                               "pwrite64,pwritev,pwritev2:error=ENOSPC:when=5+",
                               filenames=[target]):
                daemon.cmd("blockdev-backup", {
                    "job-id": "b", "device": "disk", "target": "copy",
                    "sync": "full", "on-target-error": "stop",
                    "x-perf": {"max-workers": 1}, **options})
                event = daemon.qmp.wait_event("BLOCK_JOB_ERROR", device="b")
                self.assertEqual(event["data"]["action"], "stop")
                daemon.qmp.wait_job("b", "paused")
            daemon.cmd("block-job-resume", device="b")
            event = daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device="b")
            self.assertNotIn("error", event["data"])
            daemon.qmp.wait_job("b", "null")
        # What it could not write at first is not written to its end again.
        self.assertFalse([event for event in daemon.qmp.events
                          if event["event"] == "BLOCK_JOB_ERROR"])
        iotests.qemu_img("check", "-q", target)
        iotests.qemu_img("compare", "-f", "raw", "-F", "qcow2", source, target)

    def test_compressed(self):
        self.run_backup(compress=True)

    def test_compressed_in_small_clusters(self):
        """Of which many make one of the job's"""
        self.run_backup("-o", "cluster_size=4k", compress=True)

    def test_plain(self):
        self.run_backup()


if __name__ == "__main__":
    iotests.main()
