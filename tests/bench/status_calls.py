# SPDX-License-Identifier: GPL-2.0-or-later
"""Count what a process asks the file system about the status of blocks.

lseek(SEEK_DATA), lseek(SEEK_HOLE) and ioctl(FS_IOC_FIEMAP) of all threads of a
process, with the time each took. As root by the kernel's tracepoints, which
cost a microsecond a call; otherwise by strace, which slows every call that it
counts by some 50 us and is no companion for a measurement of time.
"""

import array
import atexit
import bisect
import collections
import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import tempfile

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_EXTENT_UNWRITTEN = 0x800
SEEK_DATA, SEEK_HOLE = 3, 4

Call = collections.namedtuple("Call", "kind offset result seconds")
Call.__doc__ = """One call. kind: 'SEEK_DATA', 'SEEK_HOLE' or 'FIEMAP'; result:
where it led, None for failure (no more data); of a FIEMAP the number of
extents if it could be seen."""


class Extents:
    """The extents of a file, as the file system maps it at this moment"""

    def __init__(self, name):
        self.starts, self.ends, self.unwritten = [], [], []
        self.size = os.stat(name).st_size
        with open(name, "rb") as file:
            os.fsync(file.fileno())
            for start, length, flags in _fiemap(file.fileno(), self.size):
                self.starts.append(start)
                self.ends.append(start + length)
                self.unwritten.append(bool(flags & FIEMAP_EXTENT_UNWRITTEN))

    def __len__(self):
        return len(self.starts)

    def walked(self, call):
        """How many extents the kernel had to look at to answer a seek: all
        between the offset and the answer"""
        end = self.size if call.result is None else call.result
        first = bisect.bisect_right(self.ends, call.offset)
        last = bisect.bisect_left(self.starts, end)
        return max(last - first, 0)


def _fiemap(fd, size, batch=1000):
    start = 0
    while start < size:
        request = array.array("B", struct.pack(
            "=QQIIII", start, size - start, 0, 0, batch, 0))
        request.frombytes(bytes(56 * batch))
        fcntl.ioctl(fd, FS_IOC_FIEMAP, request)
        (count,) = struct.unpack_from("=I", request, 20)
        for i in range(count):
            logical, _, length, _, _, flags = struct.unpack_from(
                "=QQQQQI", request, 32 + 56 * i)
            yield logical, length, flags
            start = logical + length
        if count < batch:
            break


class TracepointCounter:
    """Needs root and tracefs"""

    method = "kernel tracepoints, in the run that is timed"
    slows = False

    _LINE = re.compile(r"^\s*.{1,16}-(\d+)\s+\[\d+\].*?\s([\d.]+): (.*)$")
    _SEEK = re.compile(r"sys_lseek\(fd: \w+, offset: (\w+), whence: (\w+)\)")
    _EXIT = re.compile(r"sys_(lseek|ioctl) -> (\w+)")

    @staticmethod
    def usable():
        return os.geteuid() == 0 and any(
            line.split()[-1] == "tracefs" for line in open("/proc/filesystems",
                                                         encoding="ascii"))

    def __init__(self, pid):
        self._stack = contextlib.ExitStack()
        # An instance that is left slows each system call of the machine.
        atexit.register(self._stack.close)
        self._mount = tempfile.mkdtemp(prefix="tracefs-")
        self._stack.callback(os.rmdir, self._mount)
        subprocess.run(["mount", "-t", "tracefs", "nodev", self._mount],
                       check=True)
        self._stack.callback(subprocess.run, ["umount", self._mount],
                             check=True)
        self._remove_stale()
        self._dir = f"{self._mount}/instances/seekless-{os.getpid()}-{pid}"
        os.mkdir(self._dir)
        self._stack.callback(os.rmdir, self._dir)
        self._write("buffer_size_kb", "32768")
        self._write("trace_clock", "mono")
        self._write("options/event-fork", "1")
        self._write("set_event_pid", " ".join(os.listdir(f"/proc/{pid}/task")))
        for name, only in (("sys_enter_lseek", f"whence >= {SEEK_DATA}"),
                           ("sys_exit_lseek", None),
                           ("sys_enter_ioctl", f"cmd == {FS_IOC_FIEMAP}"),
                           ("sys_exit_ioctl", None)):
            if only:
                self._write(f"events/syscalls/{name}/filter", only)
            self._write(f"events/syscalls/{name}/enable", "1")

    def _remove_stale(self):
        """Remove what was left by those that were killed"""
        for name in os.listdir(f"{self._mount}/instances"):
            match = re.fullmatch(r"seekless-(\d+)-\d+", name)
            if match and not os.path.exists(f"/proc/{match[1]}"):
                os.rmdir(f"{self._mount}/instances/{name}")

    def _write(self, name, text):
        with open(f"{self._dir}/{name}", "w", encoding="ascii") as file:
            file.write(text)

    def stop(self):
        """End counting; returns the list of calls"""
        calls = []
        self._write("tracing_on", "0")
        with open(f"{self._dir}/trace", encoding="ascii") as lines:
            begun = {}
            for line in lines:
                match = self._LINE.match(line)
                if match:
                    self._event(match[1], float(match[2]), match[3], begun,
                                calls)
        self._stack.close()
        return calls

    def _event(self, thread, time, text, begun, calls):
        seek = self._SEEK.match(text)
        if seek:
            whence = int(seek[2], 0)
            kind = "SEEK_DATA" if whence == SEEK_DATA else "SEEK_HOLE"
            begun[thread] = (kind, int(seek[1], 0), time)
        elif text.startswith("sys_ioctl("):
            begun[thread] = ("FIEMAP", 0, time)
        elif thread in begun and self._EXIT.match(text):
            kind, offset, start = begun.pop(thread)
            result = int(self._EXIT.match(text)[2], 0)
            if kind == "FIEMAP" or result >= 1 << 63:
                result = None
            calls.append(Call(kind, offset, result, time - start))


class StraceCounter:
    """Needs nothing but strace; slows down what it counts"""

    method = "strace, in a second run that is not timed"
    slows = True

    _SEEK = re.compile(r"lseek\(\d+, (\d+), (SEEK_DATA|SEEK_HOLE)\)"
                       r"\s+= (-?\d+).*<([\d.]+)>")
    _FIEMAP = re.compile(r"ioctl\(\d+, FS_IOC_FIEMAP, {fm_start=(\d+).*"
                         r"fm_mapped_extents=(\d+).*<([\d.]+)>", re.DOTALL)

    def __init__(self, pid):
        file, self._output = tempfile.mkstemp(prefix="strace-")
        os.close(file)
        self._process = subprocess.Popen(
            ["strace", "-f", "-T", "-p", str(pid), "-o", self._output,
             "-e", "trace=lseek,ioctl", "-e", "signal=none"],
            stderr=subprocess.PIPE, text=True)
        line = self._process.stderr.readline()
        if "attached" not in line:
            raise OSError(line.strip())

    def stop(self):
        """End counting; returns the list of calls"""
        self._process.send_signal(signal.SIGINT)
        self._process.stderr.read()
        self._process.stderr.close()
        self._process.wait()
        calls, begun = [], {}
        with open(self._output, encoding="ascii") as lines:
            for line in lines:
                thread, _, text = line.partition(" ")
                if "<unfinished ...>" in text:
                    begun[thread] = text.partition("<unfinished")[0]
                    continue
                if "resumed>" in text:
                    text = begun.pop(thread, "") + text.partition("resumed>")[2]
                self._call(text, calls)
        os.unlink(self._output)
        return calls

    def _call(self, text, calls):
        seek = self._SEEK.search(text)
        fiemap = self._FIEMAP.search(text)
        if seek:
            result = int(seek[3])
            calls.append(Call(seek[2], int(seek[1]),
                              None if result < 0 else result, float(seek[4])))
        elif fiemap:
            calls.append(Call("FIEMAP", int(fiemap[1]), int(fiemap[2]),
                              float(fiemap[3])))


def counter():
    """The better of the two that can be used here"""
    return TracepointCounter if TracepointCounter.usable() else StraceCounter
