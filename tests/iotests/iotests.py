# SPDX-License-Identifier: GPL-2.0-or-later
"""What the I/O tests share: scratch folders, file systems, daemons, clients.

A test is a script of unittest cases that ends with iotests.main(), which
reports in the Test Anything Protocol and checks that nothing is left behind:
no process, mount, loop device or socket.

    SEEKLESS_BUILD_DIR  where the programs were built (default: ./build)
    SEEKLESS_DAEMON     another daemon to test, say qemu-storage-daemon
    SEEKLESS_TEST_DIR   where scratch folders are made (default: /var/tmp)
    SEEKLESS_VALGRIND   if set, daemons run under valgrind
"""

import contextlib
import ctypes
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import unittest

import qmp

QMP, QMPError, QMPTimeout = qmp.QMP, qmp.QMPError, qmp.QMPTimeout

SOURCE_DIR = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BUILD_DIR = os.path.abspath(
    os.environ.get("SEEKLESS_BUILD_DIR", os.path.join(SOURCE_DIR, "build")))
DAEMON = os.environ.get(
    "SEEKLESS_DAEMON",
    os.path.join(BUILD_DIR, "tools", "seekless-storage-daemon"))
STOCK_DAEMON = "qemu-storage-daemon"
IMG = os.path.join(BUILD_DIR, "tools", "seekless-img")
# Ours, which gives up after a second what does not end
IMPATIENT_DAEMON = os.path.join(BUILD_DIR, "tests", "iotests",
                                "impatient-storage-daemon")

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30

# Commands and answers take this long at most, everything being well. Generous,
# as sanitizers, valgrind and a busy machine all make things slow.
TIMEOUT = 60

_MARK = "SEEKLESS_SCRATCH"


class Scratch:
    """The folder of this test program, and all that is in use in it"""

    def __init__(self):
        parent = os.environ.get("SEEKLESS_TEST_DIR", "/var/tmp")
        self.path = tempfile.mkdtemp(prefix="seekless-", dir=parent)
        # Found in the environment of every process that a test starts.
        os.environ[_MARK] = self.path
        if os.geteuid() == 0:
            _private_mounts()

    def processes(self):
        """Process ids of those that a test started and that still run"""
        mark = f"{_MARK}={self.path}".encode()
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            try:
                with open(f"/proc/{name}/environ", "rb") as environ:
                    if mark in environ.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                pass
        return found

    def mounts(self):
        with open("/proc/self/mountinfo", encoding="utf-8") as lines:
            points = [line.split()[4] for line in lines]
        return [point for point in points if point.startswith(self.path)]

    def loop_devices(self):
        if os.geteuid() != 0:
            return []
        return [line for line in run("losetup", "-l", "-n", "-O", "BACK-FILE")
                .stdout.splitlines() if line.startswith(self.path)]

    def sockets(self):
        return [os.path.join(folder, name)
                for folder, _, names in os.walk(self.path) for name in names
                if stat.S_ISSOCK(os.lstat(os.path.join(folder, name)).st_mode)]

    def remove(self):
        """Undo everything; returns a sentence for each thing left behind"""
        left = []
        for pid in self.processes():
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8") as comm:
                    left.append(f"process {pid} ({comm.read().strip()})")
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        for point in reversed(self.mounts()):
            left.append(f"mount {point}")
            subprocess.run(["umount", "-l", point], check=False)
        left += [f"loop device of {path}" for path in self.loop_devices()]
        left += [f"socket {path}" for path in self.sockets()]
        shutil.rmtree(self.path, ignore_errors=True)
        return left


def _private_mounts():
    """Own mount namespace: whatever happens, no mount outlives the test"""
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns, ms_rec, ms_private = 0x20000, 0x4000, 0x40000
    if (libc.unshare(clone_newns) or
            libc.mount(b"none", b"/", None, ms_rec | ms_private, None)):
        raise OSError(ctypes.get_errno(), "private mounts")


scratch = Scratch()


def path(*names):
    """A path in the scratch folder"""
    return os.path.join(scratch.path, *names)


def run(*command, status=0, timeout=TIMEOUT, **options):
    """Run a program to its end and check its exit status (None: any)"""
    result = subprocess.run(
        [str(word) for word in command], timeout=timeout, check=False,
        stdin=options.pop("stdin", subprocess.DEVNULL), capture_output=True,
        text=True, **options)
    if status is not None and result.returncode != status:
        raise AssertionError(
            f"{' '.join(result.args)}: exit status {result.returncode}, "
            f"not {status}\n{result.stdout}{result.stderr}")
    return result


def qemu_img(*arguments, **options):
    return run("qemu-img", *arguments, **options).stdout


def qemu_img_map(*arguments):
    """The rows of `qemu-img map`"""
    return json.loads(qemu_img("map", "--output=json", *arguments))


def qemu_io(image, *commands, **options):
    """Run qemu-io's commands on a raw image or URI; fails if one of them does"""
    words = [word for command in commands for word in ("-c", command)]
    result = run("qemu-io", "-f", "raw", *words, image, **options)
    if "failed" in result.stdout or "failed" in result.stderr:
        raise AssertionError(f"qemu-io {commands}: {result.stdout}")
    return result.stdout


def nbdinfo_map(uri, context="base:allocation"):
    """The extents as nbdinfo sees them: dictionaries of offset, length, type"""
    return json.loads(run("nbdinfo", "--json", f"--map={context}", uri).stdout)


def identical(one, other):
    """Whether two files (or devices) have the same content"""
    return run("cmp", one, other, status=None).returncode == 0


def require(condition, reason):
    if not condition:
        raise unittest.SkipTest(reason)


def require_root():
    require(os.geteuid() == 0, "needs root for a loop-mounted file system")


FILE_SYSTEMS = ("ext4", "xfs", "btrfs")


@contextlib.contextmanager
def file_system(kind, size=GiB, where=None, direct_io=False, options=()):
    """A fresh file system of that kind, loop-mounted; yields its folder

    It lies in a file in the folder @where, if not among the test's. With
    @direct_io that has no page cache of its own. @options are mkfs's.
    """
    require_root()
    folder = tempfile.mkdtemp(prefix=kind + "-", dir=where or scratch.path)
    image, mount_point = os.path.join(folder, "image"), \
        os.path.join(folder, "mnt")
    os.mkdir(mount_point)
    with open(image, "wb") as file:
        file.truncate(size)
    quiet = {"ext4": ["-q", "-E", "lazy_itable_init=0"], "xfs": ["-q"],
             "btrfs": ["-q"]}[kind]
    run(f"mkfs.{kind}", *quiet, *options, image)
    try:
        with loop_device(image, f"--direct-io={'on' if direct_io else 'off'}"
                         ) as device:
            run("mount", device, mount_point)
            try:
                yield mount_point
            finally:
                run("umount", mount_point)
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def loop_device(filename, *options):
    """A block device on that file; yields its name"""
    require_root()
    name = run("losetup", "--find", "--show", *options, filename).stdout.strip()
    try:
        yield name
    finally:
        run("losetup", "--detach", name)


@contextlib.contextmanager
def memory_file_system():
    """A folder on a tmpfs"""
    require(os.path.ismount("/dev/shm"), "needs a tmpfs at /dev/shm")
    with tempfile.TemporaryDirectory(prefix="seekless-",
                                     dir="/dev/shm") as folder:
        yield folder


def drop_caches():
    """Forget cached pages and metadata of everything that is clean"""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


class Daemon:
    """A storage daemon with a QMP connection, `qmp`, made when it is ready

    @arguments are those of the command line. The daemon connects to us and
    its monitor is the last thing on the command line: its greeting says that
    everything else has been set up. program=STOCK_DAEMON runs QEMU's.
    """

    _count = 0

    def __init__(self, *arguments, program=DAEMON, prefix=(), **options):
        Daemon._count += 1
        self.name = f"daemon{Daemon._count}"
        self.stderr_path = path(self.name + ".stderr")
        self.process = self.qmp = None
        qmp_path = path(self.name + ".qmp")
        command = [*prefix, program, *arguments,
                   "--chardev", f"socket,id=iotests,path={qmp_path}",
                   "--monitor", "chardev=iotests"]
        if os.environ.get("SEEKLESS_VALGRIND") and program == DAEMON:
            command = ["valgrind", "-q", "--error-exitcode=99",
                       "--leak-check=full", "--trace-children=no", *command]
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(qmp_path)
            os.chmod(qmp_path, 0o777)  # the daemon may be somebody else
            listener.listen(1)
            try:
                with open(self.stderr_path, "wb") as stderr:
                    self.process = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stderr=stderr,
                        **options)
                self.qmp = QMP(self._accept(listener), TIMEOUT)
            except BaseException:
                self.kill()
                raise
            finally:
                os.unlink(qmp_path)
        self.pid = self.process.pid

    @classmethod
    def count(cls):
        """How many there have been: makes names that are not taken"""
        return cls._count

    def _accept(self, listener):
        pidfd = os.pidfd_open(self.process.pid)
        try:
            ready, _, _ = select.select([listener, pidfd], [], [], TIMEOUT)
        finally:
            os.close(pidfd)
        if listener in ready:
            return listener.accept()[0]
        if ready:
            raise AssertionError(
                f"exit status {self.process.wait()} at start: {self.stderr()}")
        raise AssertionError(f"not ready in time: {self.stderr()}")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            print(f"# {self.name}: {self.stderr()!r}")
            self.kill()

    def cmd(self, *arguments, **more):
        return self.qmp.cmd(*arguments, **more)

    def stderr(self):
        with open(self.stderr_path, encoding="utf-8",
                  errors="replace") as file:
            return file.read()

    def wait(self, status=0):
        """The daemon ends by itself: check its exit status and its stderr"""
        self.qmp.close()
        returned = self.process.wait(TIMEOUT)
        if returned != status or self.stderr():
            raise AssertionError(f"{self.name}: exit status {returned}, not "
                                 f"{status}; stderr: {self.stderr()}")

    def stop(self):
        """End it as an administrator would"""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            self.wait()

    def kill(self):
        """Nothing of this daemon is worth saving"""
        if self.process:
            self.process.kill()
            self.process.wait()
        if self.qmp:
            self.qmp.close()

    def cache(self, node):
        """Statistics of the status cache of that node"""
        (entry,) = self.cmd("query-block-status-cache", node_name=node)
        return entry

    def strace(self, calls, *inject, filenames=()):
        return Strace(self.pid, calls, inject, filenames)

    def hang(self, calls, *filenames, watch=()):
        """Calls of these kinds that concern those files hang in the kernel,
        until let_go(); those of the kinds to @watch are only traced"""
        return Strace(self.pid, ",".join((calls, *watch)),
                      [f"{calls}:delay_enter={3600 * 10**6}"], filenames)


def second_monitor(filename):
    """Command line words for one more monitor, on a socket of that name"""
    return ("--chardev", f"socket,id=second,path={filename},server=on,wait=off",
            "--monitor", "second")


def connect_monitor(filename):
    """QMP with the monitor that listens there"""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(filename)
    return QMP(sock, TIMEOUT)


class Strace:
    """Trace system calls of a running process until the end of a `with`

    inject: strace's own expressions, like 'lseek:delay_enter=100000'. After
    the end, `lines` has what was called, one line a call.
    """

    def __init__(self, pid, calls, inject=(), filenames=()):
        self.lines = []
        self._text = ""
        self._more = threading.Condition()
        output, theirs = os.pipe()
        words = ["strace", "-f", "-y", "-p", str(pid),
                 "-o", f"/dev/fd/{theirs}",
                 "-e", f"trace={calls}", "-e", "signal=none"]
        for expression in inject:
            words += ["-e", f"inject={expression}"]
        for filename in filenames:
            words += ["-P", filename]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE,
                                        text=True, pass_fds=[theirs])
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(output,))
        self._reader.start()
        # It says so when it has attached to all threads.
        line = self.process.stderr.readline()
        if "attached" not in line:
            line += self.process.stderr.read()
            self._finish()
            raise AssertionError(line)

    def _read(self, output):
        while data := os.read(output, 1 << 16):
            with self._more:
                self._text += data.decode()
                self._more.notify_all()
        os.close(output)

    def _finish(self):
        self.process.wait(TIMEOUT)
        self.process.stderr.close()
        self._reader.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.stderr.read()
        self._finish()
        self.lines = [line for line in self._text.splitlines()
                      if "resumed>" not in line]

    def let_go(self):
        """Calls that are held go on, and nothing is traced any more. A traced
        process that has ended is not gone before this."""
        self.process.kill()

    def wait_for(self, pattern):
        """Wait until such a call has begun"""
        with self._more:
            if not self._more.wait_for(
                    lambda: re.search(pattern, self._text), TIMEOUT):
                raise AssertionError(f"no call of {pattern}: {self._text}")

    def count(self, pattern):
        """How many calls fit the regular expression"""
        return sum(1 for line in self.lines if re.search(pattern, line))

    def asked(self, filename, kinds="SEEK_DATA|SEEK_HOLE|FIEMAP"):
        """How often the file system was asked about the blocks of a file"""
        return self.count(rf"<{re.escape(filename)}>, .*({kinds})")


class TapResult(unittest.TestResult):
    """Reports each test as soon as it is done"""

    def __init__(self):
        super().__init__()
        self.number = 0

    def line(self, word, test, remark=""):
        self.number += 1
        print(f"{word} {self.number} - {test.id().partition('.')[2]}{remark}",
              flush=True)

    def problem(self, test, error):
        text = self._exc_info_to_string(error, test)
        print("".join(f"# {line}\n" for line in text.splitlines()), end="")
        self.line("not ok", test)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.line("ok", test)

    def addError(self, test, err):
        super().addError(test, err)
        self.problem(test, err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.problem(test, err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.problem(subtest, err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.line("ok", test, f" # SKIP {reason}")

    def addExpectedFailure(self, test, err):
        self.addError(test, err)

    def addUnexpectedSuccess(self, test):
        self.addFailure(test, (AssertionError, AssertionError(), None))


def _terminated(*_):
    """meson has waited long enough: still leave nothing behind"""
    scratch.remove()
    os._exit(1)


def main():
    """Run the test cases of the calling script, those named on its command
    line if any, and exit"""
    signal.signal(signal.SIGTERM, _terminated)
    loader = unittest.defaultTestLoader
    module = sys.modules["__main__"]
    if len(sys.argv) > 1:
        suite = loader.loadTestsFromNames(sys.argv[1:], module)
    else:
        suite = loader.loadTestsFromModule(module)
    result = TapResult()
    suite.run(result)
    left = scratch.remove()
    result.number += 1
    print(f"{'not ok' if left else 'ok'} {result.number} - "
          f"nothing is left behind")
    for thing in left:
        print(f"# left behind: {thing}")
    print(f"1..{result.number}")
    sys.exit(0 if result.wasSuccessful() and not left else 1)
