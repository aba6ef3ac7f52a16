#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""All that the daemon is for is done within what its systemd unit allows: as an
unprivileged user with no capabilities, no network, no files to write to but its
own, and none but the unit's system calls: any other would kill it. The unit is
one that systemd accepts, and that keeps out what is not needed."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import unittest

import disk
import iotests
import nbd
import sandbox
from iotests import KiB, MiB, path, qemu_img
from nbd_server import QemuNbd

UNITS = os.path.join(iotests.BUILD_DIR, "scripts", "systemd")
NAME = "seekless-storage-daemon@"
NOBODY = 65534
SIZE = 16 * MiB


def is_emulated():
    """Valgrind and sanitizers need calls of their own"""
    with open(iotests.DAEMON, "rb") as program:
        code = program.read()
    return "SEEKLESS_VALGRIND" in os.environ or b"__asan_init" in code or \
        b"__tsan_init" in code


class TheUnit(unittest.TestCase):
    """As systemd sees it, without a systemd that runs"""

    @classmethod
    def setUpClass(cls):
        cls.unit = sandbox.Unit(os.path.join(UNITS, NAME + ".service"))

    def installed(self):
        """A folder with the units, whose program is the one that was built"""
        folder = path("units")
        os.mkdir(folder)
        self.addCleanup(shutil.rmtree, folder)
        for kind in "service", "socket":
            with open(os.path.join(UNITS, f"{NAME}.{kind}"),
                      encoding="utf-8") as file:
                text = re.sub(r"(?m)^ExecStart=\S+",
                              f"ExecStart={iotests.DAEMON}", file.read())
            with open(os.path.join(folder, f"{NAME}.{kind}"), "w",
                      encoding="utf-8") as file:
                file.write(text)
        return folder

    def drop_ins(self, folder):
        """Those that docs/service.md shows, a folder each"""
        with open(os.path.join(iotests.SOURCE_DIR, "docs", "service.md"),
                  encoding="utf-8") as file:
            blocks = re.findall(r"^```ini\n(\[(\w+)\]\n.*?)^```",
                                file.read(), re.M | re.S)
        self.assertGreater(len(blocks), 3)
        for number, (text, kind) in enumerate(blocks):
            where = os.path.join(folder, f"{NAME}.{kind.lower()}.d")
            os.makedirs(where, exist_ok=True)
            with open(os.path.join(where, f"{number}.conf"), "w",
                      encoding="utf-8") as file:
                file.write(text)

    def test_systemd_accepts_it(self):
        self.verify(self.installed())

    def test_systemd_accepts_drop_ins(self):
        folder = self.installed()
        self.drop_ins(folder)
        self.verify(folder)
        with open(os.path.join(folder, f"{NAME}.service.d", "0.conf"), "a",
                  encoding="utf-8") as file:
            file.write("[Service]\nNonsense=yes\n")
        with self.assertRaisesRegex(AssertionError, "Nonsense"):
            self.verify(folder)

    def verify(self, folder):
        result = iotests.run(
            "systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
            *(os.path.join(folder, f"{NAME}.{kind}")
              for kind in ("service", "socket")), status=None,
            env={**os.environ, "SYSTEMD_UNIT_PATH": folder + ":"})
        # Of our units only; and libseccomp may be older than this call
        ours = [line for line in result.stderr.splitlines()
                if folder in line and "cachestat" not in line]
        self.assertEqual(ours, [], result.stderr)

    def test_exposure(self):
        """In tenths of systemd's 0 to 10: 0 is nothing at all"""
        folder = self.installed()
        result = iotests.run(
            "systemd-analyze", "security", "--offline=true", "--threshold=4",
            "--no-pager", os.path.join(folder, NAME + ".service"), status=None)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertIn("Overall exposure level", result.stdout)

    def test_no_dangerous_calls(self):
        allowed = self.unit.calls()
        for group in ("@clock", "@cpu-emulation", "@debug", "@keyring",
                      "@module", "@mount", "@raw-io", "@reboot", "@setuid",
                      "@swap", "@chown", "@obsolete", "@ipc", "@pkey"):
            with self.subTest(group):
                self.assertEqual(allowed & sandbox.calls_of(group) -
                                 sandbox.calls_of("@default"), set())
        self.assertFalse(allowed & {"execveat", "unshare", "setns", "fork",
                                    "ptrace", "bpf", "io_uring_setup"})

    def test_the_filter_is_one(self):
        """What is not allowed kills, what is does not"""
        sync, getpid = (sandbox.numbers()[name] for name in
                        ("sync", "getpid"))
        for call, status in (getpid, 0), (sync, -signal.SIGSYS):
            result = subprocess.run(
                [sys.executable, "-c",
                 "import ctypes, sys\n"
                 "sys.path.insert(0, sys.argv[1])\n"
                 "import sandbox\n"
                 "libc = ctypes.CDLL(None)\n"
                 "filter = sandbox.Filter(set(sys.argv[3].split(',')))\n"
                 "filter.apply()\n"
                 "libc.syscall(int(sys.argv[2]))\n"
                 "libc._exit(0)\n",
                 os.path.dirname(os.path.abspath(__file__)), str(call),
                 ",".join(self.unit.calls())], check=False,
                stderr=subprocess.PIPE)
            self.assertEqual(result.returncode, status, result.stderr)


class AllOfIt(unittest.TestCase):

    def setUp(self):
        iotests.require(not is_emulated(), "needs calls of its own")
        unit = sandbox.Unit(os.path.join(UNITS, NAME + ".service"))
        allowed = unit.calls()
        trace = os.environ.get("SEEKLESS_SANDBOX_TRACE")
        if trace:
            # To see which calls there are: strace's summary is printed
            allowed = set(sandbox.numbers())
        self.filter = sandbox.Filter(allowed)
        self.unit = unit
        # The one folder that may be written to
        self.folder = path("state")
        os.mkdir(self.folder)
        self.addCleanup(shutil.rmtree, self.folder)
        os.chmod(iotests.scratch.path, 0o755)
        if os.geteuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
        self.prefix = ("strace", "-f", "-c", "-U", "name,calls", "-o",
                       self.file("trace")) if trace else ()

    def confined(self):
        os.umask(int(self.unit["UMask"], 8))
        if os.geteuid() == 0:
            sandbox.confine(self.unit, self.folder)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        self.filter.apply()

    def own(self, *names):
        for name in names:
            os.chmod(self.file(name), 0o600)
            if os.geteuid() == 0:
                os.chown(self.file(name), NOBODY, NOBODY)

    def file(self, name):
        return os.path.join(self.folder, name)

    def start(self):
        """As the unit does: passed sockets, told when it is ready"""
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(self.file("nbd"))
        sock.listen()
        self.addCleanup(sock.close)
        ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ready.settimeout(iotests.TIMEOUT)
        ready.bind(self.file("notify"))
        self.own("nbd", "notify")
        self.addCleanup(ready.close)
        launcher = ("import os, sys; os.dup2(int(sys.argv[1]), 3); "
                    "os.environ.update(LISTEN_PID=str(os.getpid()), "
                    "LISTEN_FDS='1', LISTEN_FDNAMES='nbd'); "
                    "os.execvp(sys.argv[2], sys.argv[2:])")
        # The socket that iotests listens at is not in the folder.
        daemon = iotests.Daemon(
            "--chardev", f"socket,id=qmp,path={self.file('qmp')},server=on,"
            "wait=off", "--monitor", "qmp",
            "--nbd-server", "addr.type=fd,addr.str=nbd",
            "--blockdev", "file,node-name=disk,discard=unmap,filename="
            + self.file("disk.raw"),
            "--export", "nbd,id=e,node-name=disk,name=disk,writable=on",
            prefix=(*self.prefix, sys.executable, "-c", launcher,
                    str(sock.fileno())), pass_fds=[sock.fileno()],
            preexec_fn=self.confined,
            env={**os.environ, "NOTIFY_SOCKET": self.file("notify")})
        self.addCleanup(daemon.kill)
        self.assertEqual(ready.recv(100), b"READY=1")
        self.ready = ready
        return daemon

    def status(self, daemon):
        with open(f"/proc/{daemon.pid}/status", encoding="ascii") as file:
            return dict(re.findall(r"^(\w+):\s*(.*)$", file.read(), re.M))

    def writes(self, stop, uri):
        """A client that writes, zeroes, discards, reads and asks"""
        with nbd.NBD(self.file("nbd"), uri) as client:
            i = 0
            while not stop.is_set():
                offset = i * 64 * KiB % (SIZE - 64 * KiB)
                client.pwrite(offset, b"w" * 4 * KiB)
                client.write_zeroes(offset + 8 * KiB, 8 * KiB)
                client.trim(offset + 16 * KiB, 8 * KiB)
                client.pread(offset, 64 * KiB)
                client.flush()
                i += 1
            client.map()

    def job(self, daemon, command, job_id, done="BLOCK_JOB_COMPLETED",
            **arguments):
        daemon.cmd(command, {"job-id": job_id, **{
            key.replace("_", "-"): value
            for key, value in arguments.items()}})
        if command == "blockdev-create":
            daemon.qmp.wait_job(job_id, "concluded")
            job, = (job for job in daemon.cmd("query-jobs")
                    if job["id"] == job_id)
            self.assertNotIn("error", job)
            daemon.cmd("job-dismiss", id=job_id)
            return
        event = daemon.qmp.wait_event(done, device=job_id)
        self.assertNotIn("error", event["data"])

    def add(self, daemon, driver, node_name, **options):
        daemon.cmd("blockdev-add", {"driver": driver, "node-name": node_name,
                                    **{key.replace("_", "-"): value
                                       for key, value in options.items()}})

    def create(self, daemon, name, size=SIZE, **options):
        """A qcow2 image, made by the daemon; nodes NAME-file and NAME"""
        self.job(daemon, "blockdev-create", "create", options={
            "driver": "file", "filename": self.file(name), "size": 0})
        self.add(daemon, "file", name + "-file", filename=self.file(name))
        self.job(daemon, "blockdev-create", "create", options={
            "driver": "qcow2", "file": name + "-file", "size": size,
            **options})
        self.add(daemon, "qcow2", name, file=name + "-file", discard="unmap")

    def test_all_of_it(self):
        disk.alternating(self.file("disk.raw"), SIZE)
        disk.sparse(self.file("remote.raw"), SIZE)
        self.own("disk.raw", "remote.raw")
        daemon = self.start()
        if os.geteuid() == 0 and not self.prefix:
            status = self.status(daemon)
            for name, value in (("Seccomp", "2"), ("NoNewPrivs", "1"),
                                ("CapEff", "0" * 16), ("CapBnd", "0" * 16),
                                ("Uid", "\t".join(["65534"] * 4))):
                self.assertEqual(status[name], value)
        self.assertEqual(os.stat(self.file("qmp")).st_mode & 0o777, 0o600)
        with iotests.connect_monitor(self.file("qmp")) as second:
            second.cmd("query-version")
        stop = threading.Event()
        writer = threading.Thread(target=self.writes, args=(stop, "disk"))
        writer.start()
        try:
            self.jobs(daemon)
            self.bitmaps_and_snapshots(daemon)
            self.other_commands(daemon)
        finally:
            stop.set()
            writer.join()
        with QemuNbd(self.file("remote.raw")) as server:
            os.chmod(server.socket, 0o777)
            self.remote(daemon, server)
        if self.prefix:
            daemon.cmd("quit")
            daemon.wait()
        daemon.stop()
        self.assertEqual(self.ready.recv(100), b"STOPPING=1")
        self.assertIn("No errors", qemu_img("check", self.file("copy.qcow2")))
        self.assertIn("No errors",
                      qemu_img("check", self.file("backup.qcow2")))
        if self.prefix:
            with open(self.file("trace"), encoding="ascii") as summary:
                print("".join(f"# {line}" for line in summary))

    def jobs(self, daemon):
        self.create(daemon, "copy.qcow2")
        daemon.cmd("blockdev-mirror", {
            "job-id": "mirror", "device": "disk", "target": "copy.qcow2",
            "sync": "full", "copy-mode": "write-blocking"})
        daemon.qmp.wait_event("BLOCK_JOB_READY", device="mirror")
        daemon.cmd("job-complete", id="mirror")
        daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device="mirror")
        self.create(daemon, "backup.qcow2")
        self.job(daemon, "blockdev-backup", "backup", device="copy.qcow2",
                 target="backup.qcow2", sync="full", compress=True)
        self.create(daemon, "overlay.qcow2")
        daemon.cmd("blockdev-del", node_name="overlay.qcow2")
        self.add(daemon, "qcow2", "overlay.qcow2", file="overlay.qcow2-file",
                 backing=None)
        daemon.cmd("blockdev-snapshot", node="copy.qcow2",
                   overlay="overlay.qcow2")
        daemon.cmd("block-commit", {"job-id": "commit",
                                    "device": "overlay.qcow2"})
        daemon.qmp.wait_event("BLOCK_JOB_READY", device="commit")
        daemon.cmd("job-complete", id="commit")
        daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device="commit")
        daemon.cmd("blockdev-del", node_name="overlay.qcow2")

    def bitmaps_and_snapshots(self, daemon):
        daemon.cmd("block-dirty-bitmap-add", node="copy.qcow2", name="b",
                   persistent=True)
        daemon.cmd("block_resize", node_name="backup.qcow2", size=2 * SIZE)
        self.add(daemon, "file", "space", filename=self.file("disk.raw"),
                 read_only=True, force_share=True)
        daemon.cmd("x-query-block-map", node_name="space")
        daemon.cmd("blockdev-del", node_name="space")
        daemon.cmd("block-status-cache-flush", node_name="disk")
        daemon.cmd("query-block-status-cache")
        daemon.cmd("query-named-block-nodes")
        daemon.cmd("query-blockstats", query_nodes=True)

    def other_commands(self, daemon):
        daemon.cmd("object-add", {"qom-type": "throttle-group", "id": "g",
                                  "limits": {"iops-total": 10000}})
        self.add(daemon, "throttle", "slow", throttle_group="g",
                 file="backup.qcow2")
        daemon.cmd("block-export-add", type="nbd", id="slow",
                   node_name="slow", name="slow", writable=True)
        with nbd.NBD(self.file("nbd"), "slow") as client:
            client.pwrite(0, b"slow" * KiB)
        daemon.cmd("block-export-del", id="slow", mode="hard")
        daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="slow")
        daemon.cmd("blockdev-del", node_name="slow")
        with open(self.file("disk.raw"), "rb") as image:
            daemon.cmd("add-fd", {"fdset-id": 1}, fds=[image.fileno()])
        self.add(daemon, "file", "passed", filename="/dev/fdset/1",
                 read_only=True, force_share=True)
        daemon.cmd("x-query-block-map", node_name="passed")
        daemon.cmd("blockdev-del", node_name="passed")
        daemon.cmd("remove-fd", {"fdset-id": 1})
        for direct in False, True:
            self.add(daemon, "file", "again", filename=self.file("disk.raw"),
                     cache={"direct": direct}, read_only=True,
                     force_share=True)
            daemon.cmd("blockdev-reopen", options=[{
                "driver": "file", "node-name": "again",
                "filename": self.file("disk.raw"), "read-only": True,
                "force-share": True, "cache": {"direct": not direct}}])
            daemon.cmd("blockdev-del", node_name="again")

    def remote(self, daemon, server):
        """Driver nbd: the target of a mirror; over a unix socket, as there is
        no network"""
        self.add(daemon, "nbd", "remote", server=server.address,
                 reconnect_delay=5)
        daemon.cmd("blockdev-mirror", {
            "job-id": "away", "device": "copy.qcow2", "target": "remote",
            "sync": "full"})
        daemon.qmp.wait_event("BLOCK_JOB_READY", device="away")
        daemon.cmd("job-cancel", id="away")
        daemon.qmp.wait_job("away", "null")
        daemon.cmd("blockdev-del", node_name="remote")


if __name__ == "__main__":
    iotests.main()
