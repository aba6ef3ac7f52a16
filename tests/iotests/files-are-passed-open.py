#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever manages the daemon may open its files, and pass them: /dev/fdset/N."""

import contextlib
import json
import os
import socket
import unittest

import disk
import iotests
from iotests import Daemon, KiB, MiB, QMP, QMPError, path, run

NOBODY = 65534
SIZE = 4 * MiB


@contextlib.contextmanager
def opened(name, flags=os.O_RDWR):
    fd = os.open(name, flags)
    try:
        yield fd
    finally:
        os.close(fd)


class Monitored(Daemon):
    """A daemon with a second monitor that comes and goes"""

    def __init__(self, *arguments, **options):
        self.monitor_path = path(f"monitor{self.count()}")
        super().__init__("--chardev", "socket,id=m,server=on,wait=off,"
                         f"path={self.monitor_path}", "--monitor", "m",
                         *arguments, **options)

    def connect(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.monitor_path)
        return QMP(sock, iotests.TIMEOUT)

    def open_files(self):
        """What the daemon's descriptors stand for, without sockets and such"""
        folder = f"/proc/{self.pid}/fd"
        names = []
        for number in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                names.append(os.readlink(os.path.join(folder, number)))
        return sorted(name for name in names
                      if name.startswith(iotests.scratch.path)
                      and not name.endswith(".stderr"))

    def flags(self, fd):
        """How that descriptor was opened"""
        with open(f"/proc/{self.pid}/fdinfo/{fd}", encoding="ascii") as info:
            return int(info.read().split("flags:")[1].split()[0], 8)

    def add(self, set_id, name, flags=os.O_RDWR):
        with opened(name, flags) as fd:
            return self.cmd("add-fd", fdset_id=set_id, fds=[fd])["fd"]

    def node(self, name, set_id, **options):
        return self.cmd("blockdev-add", {
            "driver": "file", "node-name": name,
            "filename": f"/dev/fdset/{set_id}", **options})


class Sets(unittest.TestCase):
    def setUp(self):
        self.image = disk.sparse(path("image"), SIZE)

    def refused(self, daemon, text, command, **more):
        with self.assertRaises(QMPError) as caught:
            daemon.cmd(command, **more)
        self.assertEqual(caught.exception.error_class, "GenericError")
        self.assertEqual(caught.exception.desc, text)

    def test_sets_are_listed(self):
        with Monitored() as daemon, opened(self.image) as fd:
            self.assertEqual(daemon.cmd("query-fdsets"), [])
            first = daemon.cmd("add-fd", fds=[fd])
            self.assertEqual(first["fdset-id"], 0)
            other = daemon.cmd("add-fd", fdset_id=7, opaque="text", fds=[fd])
            more = daemon.cmd("add-fd", fdset_id=7, fds=[fd])
            lowest = daemon.cmd("add-fd", fds=[fd])
            self.assertEqual(lowest["fdset-id"], 1)
            self.assertEqual(daemon.cmd("query-fdsets"), [
                {"fdset-id": 0, "fds": [{"fd": first["fd"]}]},
                {"fdset-id": 1, "fds": [{"fd": lowest["fd"]}]},
                {"fdset-id": 7, "fds": [{"fd": other["fd"], "opaque": "text"},
                                        {"fd": more["fd"]}]}])
            self.assertEqual(daemon.open_files(), [self.image] * 4)
            self.assertTrue(daemon.flags(more["fd"]) & os.O_CLOEXEC)
            daemon.cmd("remove-fd", fdset_id=7, fd=other["fd"])
            daemon.cmd("remove-fd", fdset_id=0)
            self.assertEqual(daemon.open_files(), [self.image] * 2)
            self.assertEqual([row["fdset-id"] for row
                              in daemon.cmd("query-fdsets")], [1, 7])

    def test_what_is_wrong_is_named(self):
        with Monitored() as daemon, opened(self.image) as fd:
            self.refused(daemon, "No file descriptor supplied via SCM_RIGHTS",
                         "add-fd")
            self.refused(daemon, "No file descriptor supplied via SCM_RIGHTS",
                         "getfd", fdname="x")
            self.refused(daemon, "Parameter 'fdset-id' expects a non-negative "
                         "value, not -1", "add-fd", fdset_id=-1, fds=[fd])
            self.refused(daemon, "Parameter 'fdname' expects a name not "
                         "starting with a digit, not '1'", "getfd",
                         fdname="1", fds=[fd])
            self.refused(daemon, "File descriptor named 'x' not found",
                         "closefd", fdname="x")
            self.refused(daemon, "File descriptor named 'fdset-id:5' not "
                         "found", "remove-fd", fdset_id=5)
            self.refused(daemon, "File descriptor named 'fdset-id:5, fd:9' "
                         "not found", "remove-fd", fdset_id=5, fd=9)
            for name, text in {
                    "/dev/fdset/5": "Could not dup FD for /dev/fdset/5 flags "
                                    "2: No such file or directory",
                    "/dev/fdset/x": "Could not parse fdset /dev/fdset/x",
                    "/dev/fdset/": "Could not parse fdset /dev/fdset/",
                    }.items():
                self.refused(daemon, text, "blockdev-add", driver="file",
                             node_name="n", filename=name)
            self.assertEqual(daemon.open_files(), [])

    def test_the_access_mode_is_what_counts(self):
        with Monitored() as daemon:
            daemon.add(0, self.image, os.O_RDONLY)
            with self.assertRaisesRegex(QMPError, "flags 2: Permission denied"):
                daemon.node("n", 0)
            daemon.node("auto", 0, **{"auto-read-only": True})
            daemon.node("reads", 0, **{"read-only": True})
            rows = {row["node-name"]: row for row in
                    daemon.cmd("query-named-block-nodes", flat=True)}
            self.assertFalse(rows["auto"]["ro"])
            self.assertEqual(rows["reads"]["file"], "/dev/fdset/0")
            daemon.add(1, self.image)
            with self.assertRaisesRegex(QMPError, "flags 0: Permission denied"):
                daemon.node("n", 1, **{"read-only": True})
            daemon.cmd("blockdev-del", node_name="reads")
            daemon.node("disk", 1, **{"auto-read-only": True})
            iotests.qemu_io(export(daemon), "write -P 3 8k 512")

    def test_the_descriptor_for_writing_may_come_later(self):
        """Opened again or not: with auto-read-only it is asked for when somebody
        is going to write"""
        os.chmod(iotests.scratch.path, 0o777)
        os.chmod(self.image, 0o600)
        for user in None, NOBODY:
            more = {} if user is None else {
                "user": user, "group": NOBODY, "extra_groups": []}
            with self.subTest(user=user), Monitored(**more) as daemon:
                daemon.add(0, self.image, os.O_RDONLY)
                daemon.node("disk", 0, **{"auto-read-only": True})
                with self.assertRaisesRegex(QMPError, "flags 2: Permission "
                                            "denied"):
                    export(daemon)
                daemon.cmd("nbd-server-stop")
                daemon.add(0, self.image)
                iotests.qemu_io(export(daemon), "write -P 3 8k 512",
                                "read -P 3 8k 512", "flush")
                stock = run("qemu-img", "resize", "-f", "raw", self.image,
                            "8M", status=1)
                self.assertRegex(stock.stderr,
                                 'Failed to get "(write|resize)" lock')
                self.assertEqual(daemon.cache("disk")["mode"],
                                 "on" if user is None else "data-only")

    def test_strays_are_closed(self):
        """A descriptor is for the command it came with, and for no other"""
        other = disk.sparse(path("other"), SIZE)
        with Monitored() as daemon, opened(self.image) as fd, \
                opened(other) as other_fd:
            daemon.cmd("query-version", fds=[fd] * 40)
            with self.assertRaises(QMPError):
                daemon.cmd("add-fd")
            daemon.cmd("query-version", fds=[fd])
            daemon.cmd("add-fd", fdset_id=1, fds=[other_fd, fd, fd])
            # In three pieces, and the descriptor with the second; then two
            # commands at once, each with its own
            sock = daemon.qmp.sock
            sock.sendall(b'{"execute": "add-fd", ')
            socket.send_fds(sock, [b'"arguments": {"fdset-id":'], [other_fd])
            socket.send_fds(sock, [b' 1}}\n{"execute": "add-fd"}\n'], [fd])
            self.assertEqual(daemon.qmp.receive()["return"]["fdset-id"], 1)
            self.assertEqual(daemon.qmp.receive()["return"]["fdset-id"], 0)
            # White space may carry it, too
            socket.send_fds(sock, [b" "], [other_fd])
            daemon.cmd("add-fd", fdset_id=1)
            # Strays are closed by a thread of their own: so are these
            daemon.cmd("remove-fd", fdset_id=0)
            for _ in range(100):
                files = daemon.open_files()
                if files == [other] * 3:
                    break
                daemon.cmd("query-fdsets")
            self.assertEqual(files, [other] * 3)

    def test_sets_go_with_the_last_client(self):
        """But what a node uses stays, and can be used again"""
        with Monitored() as daemon, opened(self.image) as fd:
            daemon.qmp.close()
            qmp = daemon.connect()
            qmp.cmd("add-fd", fdset_id=1, fds=[fd])
            qmp.cmd("add-fd", fdset_id=2, fds=[fd])
            qmp.cmd("getfd", fdname="x", fds=[fd])
            qmp.cmd("blockdev-add", driver="file", node_name="n",
                    filename="/dev/fdset/2")
            qmp.close()
            # The next one is served after the first one's end was dealt with
            qmp = daemon.connect()
            with self.assertRaisesRegex(QMPError, "'x' not found"):
                qmp.cmd("closefd", fdname="x")
            self.assertEqual([row["fdset-id"] for row
                              in qmp.cmd("query-fdsets")], [2])
            qmp.cmd("blockdev-del", node_name="n")
            qmp.cmd("blockdev-add", driver="file", node_name="n",
                    filename="/dev/fdset/2")
            qmp.cmd("remove-fd", fdset_id=2)
            self.assertEqual(qmp.cmd("query-fdsets"),
                             [{"fdset-id": 2, "fds": []}])
            qmp.cmd("blockdev-del", node_name="n")
            self.assertEqual(qmp.cmd("query-fdsets"), [])
            self.assertEqual(daemon.open_files(), [])
            qmp.close()
            daemon.stop()


class Nodes(unittest.TestCase):
    """On what is passed, a node is like any other"""

    def setUp(self):
        self.image = disk.sparse(path("image"), SIZE)
        os.chmod(self.image, 0o600)

    def test_opened_again(self):
        """Where that is permitted, with locks, flags and all"""
        with Monitored() as daemon:
            daemon.add(0, self.image, os.O_RDWR | os.O_APPEND)
            daemon.node("disk", 0, cache={"direct": True})
            self.assertEqual(daemon.cache("disk")["mode"], "on")
            iotests.qemu_io(export(daemon), "write -P 3 8k 512",
                            "read -P 3 8k 512")
            stock = run("qemu-io", "-f", "raw", "-c", "write 0 4k", self.image,
                        status=None)
            self.assertIn('Failed to get "write" lock', stock.stderr)

    def test_unlinked(self):
        with Monitored() as daemon, opened(self.image) as fd:
            os.unlink(self.image)
            daemon.cmd("add-fd", fds=[fd])
            daemon.node("disk", 0)
            self.assertEqual(daemon.cache("disk")["mode"], "on")


def export(daemon, **more):
    """Over NBD; its URI"""
    nbd = path(f"nbd{Daemon.count()}")
    daemon.cmd("nbd-server-start",
               addr={"type": "unix", "data": {"path": nbd}})
    daemon.cmd("block-export-add", {"type": "nbd", "id": "e",
                                    "node-name": "disk", "writable": True,
                                    **more})
    return f"nbd+unix:///disk?socket={nbd}"


class Unprivileged(unittest.TestCase):
    """The daemon may not open what it is passed"""

    def setUp(self):
        iotests.require_root()
        os.chmod(iotests.scratch.path, 0o777)
        self.image = disk.sparse(path("image"), SIZE + 512)
        os.chmod(self.image, 0o600)

    @staticmethod
    def daemon():
        return Monitored(user=NOBODY, group=NOBODY, extra_groups=[])

    def test_works(self):
        """Data, block status, locks; but no zero that somebody else could
        take back"""
        with self.daemon() as daemon:
            with self.assertRaisesRegex(QMPError, "Permission denied"):
                daemon.cmd("blockdev-add", driver="file", node_name="n",
                           filename=self.image)
            daemon.add(0, self.image)
            daemon.node("disk", 0, discard="unmap")
            uri = export(daemon)
            iotests.qemu_io(uri, "write -P 3 -f 64k 64k", "write -z 1M 64k",
                            "write -P 5 4194304 512", "read -P 3 64k 64k",
                            "flush")
            self.assertEqual(daemon.cache("disk")["mode"], "data-only")
            rows = [(row["start"], row["length"]) for row
                    in iotests.qemu_img_map("-f", "raw", uri) if row["data"]]
            self.assertEqual(rows[0], (64 * KiB, 64 * KiB))
            stock = run("qemu-img", "resize", "-f", "raw", self.image, "8M",
                        status=1)
            self.assertIn('Failed to get "resize" lock', stock.stderr)
            daemon.cmd("block-export-del", id="e", mode="hard")
            daemon.cmd("blockdev-del", node_name="disk")
            # Its locks are gone with it, though we have the description, too
            iotests.qemu_io(self.image, "read -P 3 64k 64k",
                            "read -P 5 4194304 512")
            run("qemu-img", "resize", "-f", "raw", self.image, "8M")

    def test_locks_of_one_description_are_not_shared(self):
        """The second node would let go of the first one's"""
        with self.daemon() as daemon, opened(self.image) as fd:
            daemon.cmd("add-fd", fdset_id=0, fds=[fd])
            daemon.cmd("add-fd", fdset_id=1, fds=[fd])
            daemon.node("disk", 0)
            for set_id in 0, 1:
                with self.assertRaisesRegex(QMPError, "in use by another node"):
                    daemon.node("again", set_id)
            # Another description of the same file is as good as another opener
            daemon.add(2, self.image)
            daemon.node("other", 2)
            daemon.cmd("blockdev-del", node_name="disk")
            daemon.node("disk", 1)

    def test_flags_that_do_not_fit_are_refused(self):
        """They are those of all who have the description"""
        with self.daemon() as daemon:
            daemon.add(0, self.image, os.O_RDWR | os.O_APPEND)
            with self.assertRaisesRegex(QMPError, "O_APPEND.*opened again"):
                daemon.node("disk", 0)
            direct = daemon.add(1, self.image, os.O_RDWR | os.O_DIRECT)
            with self.assertRaisesRegex(QMPError, "without O_DIRECT"):
                daemon.node("disk", 1)
            daemon.add(2, self.image)
            with self.assertRaisesRegex(QMPError, "open with O_DIRECT"):
                daemon.node("disk", 2, cache={"direct": True})
            # The end of the file is no whole block, so it takes both
            with self.assertRaisesRegex(QMPError, "without O_DIRECT"):
                daemon.node("disk", 1, cache={"direct": True})
            daemon.add(1, self.image)
            daemon.node("disk", 1, cache={"direct": True})
            iotests.qemu_io(export(daemon), "write -P 7 4193792 1k",
                            "read -P 7 4193792 1k", "flush")
            self.assertTrue(daemon.flags(direct) & os.O_DIRECT)
        with open(self.image, "rb") as file:
            file.seek(SIZE - 512)
            self.assertEqual(file.read(), b"\7" * 1024)

    def test_flush_reports_what_failed(self):
        """FUA goes by fdatasync(): one report is all there is"""
        with self.daemon() as daemon:
            daemon.add(0, self.image)
            daemon.node("disk", 0)
            uri = export(daemon)
            with daemon.strace("fdatasync,pwritev2") as strace:
                iotests.qemu_io(uri, "write -f 0 4k")
            self.assertEqual(strace.count("RWF_DSYNC"), 0)
            self.assertGreater(strace.count("fdatasync"), 0)

    def test_devices(self):
        with open(self.image, "rb+") as file:
            file.truncate(SIZE)
        device = run("losetup", "-f", "--show", self.image).stdout.strip()
        try:
            with self.daemon() as daemon:
                daemon.add(0, device)
                daemon.cmd("blockdev-add", driver="host_device",
                           node_name="disk", filename="/dev/fdset/0")
                iotests.qemu_io(export(daemon), "write -P 9 0 64k",
                                "write -z 64k 64k", "read -P 0 64k 64k")
                self.assertEqual(daemon.cache("disk")["mode"], "data-only")
        finally:
            run("losetup", "-d", device)

    def test_created(self):
        """blockdev-create writes into what is passed"""
        with self.daemon() as daemon:
            daemon.add(0, self.image)
            daemon.cmd("blockdev-create", job_id="c", options={
                "driver": "file", "filename": "/dev/fdset/0", "size": MiB})
            daemon.qmp.wait_job("c", "concluded")
            (job,) = daemon.cmd("query-jobs")
            self.assertNotIn("error", job, json.dumps(job))
            daemon.cmd("job-dismiss", id="c")
        self.assertEqual(os.stat(self.image).st_size, MiB)


if __name__ == "__main__":
    iotests.main()
