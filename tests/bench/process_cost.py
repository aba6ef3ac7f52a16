# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process costs: CPU time, system calls, context switches."""

import contextlib
import os
import signal
import subprocess
import time

EVENTS = {"raw_syscalls:sys_enter": "system calls",
          "context-switches": "context switches"}


def cpu_seconds(pid):
    """CPU time of all threads, those that have ended included"""
    cpuclock_sched = 2
    return time.clock_gettime(~pid << 3 | cpuclock_sched)


class Counter:
    """Counts by perf what a running process does, until stop()"""

    @staticmethod
    def usable():
        with contextlib.suppress(OSError):
            return subprocess.run(
                ["perf", "stat", "-e", ",".join(EVENTS), "true"], check=False,
                capture_output=True).returncode == 0
        return False

    def __init__(self, pid):
        commands, self._commands = os.pipe()
        answers, theirs = os.pipe()
        self._process = subprocess.Popen(
            ["perf", "stat", "-x", ";", "-e", ",".join(EVENTS), "-p", str(pid),
             "-D", "-1", "--control", f"fd:{commands},{theirs}"],
            pass_fds=(commands, theirs), stderr=subprocess.PIPE, text=True)
        os.close(commands)
        os.close(theirs)
        # It answers when it counts.
        os.write(self._commands, b"enable\n")
        answer = os.read(answers, 16)
        os.close(answers)
        if not answer.startswith(b"ack"):
            raise OSError(self._process.communicate()[1])

    def stop(self):
        """{what: how many}"""
        self._process.send_signal(signal.SIGINT)
        os.close(self._commands)
        counts = {}
        for line in self._process.communicate()[1].splitlines():
            fields = line.split(";")
            if len(fields) > 2 and fields[2] in EVENTS:
                counts[EVENTS[fields[2]]] = int(fields[0])
        return counts
