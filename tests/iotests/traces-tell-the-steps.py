#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Trace points tell what happens, to those who ask for it."""

import os
import re
import shutil
import unittest

import disk
import iotests
from iotests import DAEMON, Daemon, MiB, path, run

NAMES = ["gate_wait", "job_status", "range_lock_wait", "status_evict",
         "status_mismatch",
         "status_probe", "status_taint"]


class Traces(unittest.TestCase):
    def setUp(self):
        self.log = path("log")
        self.image = disk.alternating(path("image"), 4 * MiB)

    def tearDown(self):
        if os.path.exists(self.log):
            os.unlink(self.log)

    def traced(self, name):
        """What was logged for that trace point"""
        found = []
        with open(self.log, encoding="utf-8") as log:
            for line in log:
                match = re.fullmatch(r"\d+@\d+\.\d{6}:(\w+) (.*)\n", line)
                self.assertIsNotNone(match, line)
                if match[1] == name:
                    words = match[2].split()
                    found.append(dict(zip(words[::2], words[1::2])))
        return found

    def test_help_and_refusals(self):
        for option in "-T", "--trace":
            self.assertEqual(run(DAEMON, option, "help").stdout.split(), NAMES)
        for value, text in {
                "wrong": "trace event 'wrong' does not exist",
                "enable=wrong_*": "trace event 'wrong_*' does not exist",
                "status_*,wrong=1": "'wrong'",
                f"status_*,file={path('no', 'file')}": "No such file",
                }.items():
            result = run(DAEMON, "--trace", value, status=1)
            self.assertIn(text, result.stderr)
            self.assertEqual(len(result.stderr.splitlines()), 1)

    def test_probes(self):
        """One line for each that the statistics count"""
        options = ("--trace", f"status_probe,file={self.log}",
                   "--blockdev", f"file,node-name=disk,filename={self.image}")
        with Daemon(*options) as daemon:
            daemon.cmd("x-query-block-map", node_name="disk")
            stats = daemon.cache("disk")
        lines = self.traced("status_probe")
        self.assertGreater(len(lines), 0)
        self.assertEqual(len(lines), stats["probes"])
        self.assertEqual(lines[0]["offset"], "0")
        self.assertEqual(lines[0]["result"], "data")
        self.assertEqual(sum(int(line["ns"]) for line in lines),
                         stats["probe-wall-ns"], stats)

    def job(self, *trace):
        options = [word for value in trace for word in ("--trace", value)]
        target = disk.sparse(path("target"), 4 * MiB)
        with Daemon(*options, "--blockdev",
                    f"file,node-name=disk,filename={self.image}",
                    "--blockdev",
                    f"file,node-name=target,filename={target}") as daemon:
            daemon.cmd("blockdev-mirror", job_id="job", device="disk",
                       target="target", sync="full")
            daemon.qmp.wait_event("BLOCK_JOB_READY")
            daemon.cmd("job-complete", id="job")
            daemon.qmp.wait_job("job", "null")

    def test_steps_of_a_job(self):
        self.job(f"job_*,file={self.log}")
        lines = self.traced("job_status")
        self.assertEqual(lines[0]["from"], "created")
        self.assertEqual([line["to"] for line in lines],
                         ["running", "ready", "waiting", "pending",
                          "concluded", "null"])
        for before, after in zip(lines, lines[1:]):
            self.assertEqual(before["to"], after["from"])
        self.assertEqual(self.traced("status_probe"), [])

    def test_patterns(self):
        """All but some"""
        self.job(f"*,file={self.log}", "-job_status")
        self.assertEqual(self.traced("job_status"), [])
        self.assertGreater(len(self.traced("status_probe")), 0)

    def test_evictions(self):
        disk.alternating(self.image, 64 * MiB, 4096, 4096)
        options = ("--trace", f"status_evict,file={self.log}", "--blockdev",
                   "file,node-name=disk,status-cache-size=1024,"
                   f"filename={self.image}")
        with Daemon(*options) as daemon:
            daemon.cmd("x-query-block-map", node_name="disk")
            evictions = daemon.cache("disk")["evictions"]
        self.assertGreater(evictions, 0)
        self.assertEqual(len(self.traced("status_evict")), evictions)

    def test_stderr(self):
        with Daemon("--trace", "status_probe", "--blockdev",
                    f"file,node-name=disk,filename={self.image}") as daemon:
            daemon.cmd("x-query-block-map", node_name="disk")
            self.assertIn(":status_probe fd ", daemon.stderr())
            daemon.kill()

    def test_static_probes(self):
        """They are in the program if sys/sdt.h was there"""
        notes = run("readelf", "-n", DAEMON).stdout if shutil.which("readelf") \
            else ""
        iotests.require("Provider: seekless" in notes, "built without them")
        self.assertEqual(
            sorted(set(re.findall(r"Provider: seekless\s+Name: (\w+)", notes))),
            NAMES)


if __name__ == "__main__":
    iotests.main()
