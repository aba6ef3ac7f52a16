# SPDX-License-Identifier: GPL-2.0-or-later
"""One round: a daemon under load, its end, and what is left."""

import os
import shutil
import signal

import crash_disk
import crash_jobs
import crash_power
import iotests
from crash_check import Check, CrashDaemon, stock_restarts
from crash_load import Load
from crash_truth import FOREVER, SECTOR, Wrong
from iotests import MiB, path


class Round:
    """The round of @plan on the file system that @folders has for it"""

    def __init__(self, plan, folders, statistics):
        self.plan = plan
        self.statistics = statistics
        self.power = self.disk = self.daemon = self.load = None
        if plan.power:
            self.power = crash_power.PowerFileSystem(plan)
            parent = self.power.folder
        else:
            if plan.where not in folders:
                plan.where = "here"
            parent = folders[plan.where]
        self.folder = os.path.join(parent, "round")
        self.socket = path("nbd")

    def run(self):
        try:
            self._run()
        finally:
            if self.load:
                self.daemon.kill()
                self.load.end()
            elif self.daemon:
                self.daemon.kill()
            if self.disk:
                self.disk.detach()
            shutil.rmtree(self.folder, ignore_errors=True)
            if self.power:
                self.power.remove()
            for name in (self.socket, path("monitor"), path("pid"),
                         path("copy"), path("content")):
                if os.path.lexists(name):
                    os.unlink(name)

    def _run(self):
        plan, statistics = self.plan, self.statistics
        os.mkdir(self.folder)
        self.disk = disk = crash_disk.Disk(plan, self.folder)
        disk.attach()
        activities = [crash_jobs.KINDS[plan.activity](plan, disk)]
        if plan.beside:
            activities.append(crash_jobs.KINDS[plan.beside](plan, disk))
        files = set(os.listdir(self.folder))
        if self.power:
            self.power.sync()
        words = disk.words(path("monitor"), self.socket, path("pid"))
        if plan.number % 50 == 1 and not plan.options and not plan.bitmaps:
            stock_restarts(disk, words)
            statistics["restarts of stock"] += 1
        self.daemon = CrashDaemon(words, self.socket)
        requests = self._crash(activities)
        check = Check(plan, disk, activities, requests, words, statistics,
                      self.daemon.process.returncode != 0)
        check.locks()
        check.offline()
        if set(os.listdir(self.folder)) - files:
            raise Wrong(f"{sorted(files)} have become "
                        f"{sorted(os.listdir(self.folder))}")
        check.restart(self.socket)
        check.serve(self.socket)
        check.repair(self.socket)
        statistics[f"kind {plan.kind}"] += 1
        statistics[f"activity {plan.activity}"] += 1
        statistics[f"moment {plan.moment}"] += 1
        statistics["on " + (f"{plan.where} on {plan.below}" if plan.below
                            else plan.where)] += 1

    def _crash(self, activities):
        """All requests that there were"""
        plan, daemon = self.plan, self.daemon
        # Clients do not touch the end of a disk that may become shorter.
        size = self.disk.plan.size - (MiB if plan.activity == "resize" else 0)
        self.load = load = Load(daemon.client, plan, size // SECTOR)
        for activity in activities:
            activity.attach(daemon, load)
        disturber = self.power and self.power.disturb(load)
        if plan.before:
            load.wait_for(plan.before)
        for activity in activities[1:]:
            activity.reach("ready" if plan.blocking and
                           plan.beside == "mirror" else "begun")
        activities[0].reach(plan.moment)
        load.raise_errors()
        if self.power:
            load.call_after(plan.answers, self.power.cut)
            if not self.power.cut_off.wait(iotests.TIMEOUT):
                load.raise_errors()
                raise AssertionError("the power was not cut")
            load.wait_until_dead(20)
            daemon.process.send_signal(signal.SIGKILL)
        else:
            load.call_after(plan.answers, activities[0].kill)
        daemon.process.wait(iotests.TIMEOUT)
        activities[0].finish()
        daemon.last_words()
        requests = load.end()
        if self.power:
            disturber.join()
            self._forget_late(requests)
        else:
            load.raise_errors()
            if daemon.failures() or daemon.stderr():
                raise Wrong(f"{daemon.failures()} {daemon.stderr()}")
        self._count(requests)
        self.load = None
        daemon.kill()
        if self.power:
            self.disk.detach()
            self.power.recover()
            self.disk.attach()
        return requests + [r for a in activities for r in a.extra]

    def _forget_late(self, requests):
        """What came after the power was gone did not come. XFS may say for a
        moment that data is stable that it has just dropped."""
        self.daemon.end_clock = self.power.cut_at_clock
        for request in requests:
            if request.end >= self.power.cut_at:
                self.statistics["late answers"] += request.end < FOREVER
                request.end = FOREVER

    def _count(self, requests):
        statistics = self.statistics
        statistics["power cuts" if self.power else
                   "kills" if self.daemon.process.returncode else "ends"] += 1
        statistics["requests acknowledged"] += sum(
            r.end < crash_jobs.FOREVER for r in requests)
        statistics["requests in flight"] += sum(
            r.end == crash_jobs.FOREVER for r in requests)
