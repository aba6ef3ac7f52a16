#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's disk goes to another host while the guest writes: over a link that
loses packets, that is cut for some time, and to a server that dies meanwhile."""

import contextlib
import os
import threading
import time
import unittest

import disk
import iotests
from iotests import DAEMON, STOCK_DAEMON, MiB, path
from network import Network
from nbd_server import Server
from writer import writing

SIZE = 48 * MiB
PORT = 10809
CUT_SECONDS = 2
# Between two writes: so that they are slower than the link
PAUSE = 0.01


class RemoteServer(Server):
    """A server on @host, with a disk in a file that is empty at first"""

    def __init__(self, host, program):
        self.host = host
        self.program = program
        self.image = disk.sparse(path("target"), SIZE)
        super().__init__("disk")

    def command(self):
        return [*self.host.prefix, self.program,
                "--blockdev", "driver=file,node-name=disk,discard=unmap,"
                              f"filename={self.image}",
                # There, only to see that it listens
                "--chardev", f"socket,id=m,path={self.socket},server=on,"
                             "wait=off",
                "--nbd-server", f"addr.type=inet,addr.host={self.host.address},"
                                f"addr.port={PORT}",
                "--export", "nbd,id=e,node-name=disk,name=disk,writable=on",
                "--monitor", "m"]

    @property
    def address(self):
        return {"type": "inet", "host": self.host.address, "port": str(PORT)}


def halfway(daemon, job="job"):
    """The job has copied some of it, and not all"""
    end = time.monotonic() + iotests.TIMEOUT
    while True:
        (state,) = daemon.cmd("query-block-jobs")
        if state["offset"] > 4 * MiB:
            return
        if time.monotonic() > end:
            raise AssertionError(f"no progress: {state}")
        time.sleep(0.02)


class MigrationBetweenHosts(unittest.TestCase):

    @contextlib.contextmanager
    def hosts(self, program=DAEMON, loss=0.01):
        """A source with a disk full of data and writers, and the other host's
        empty disk, as node "target" of the source"""
        iotests.require_root()
        iotests.require(os.access("/dev/net/tun", os.R_OK | os.W_OK),
                        "needs /dev/net/tun")
        image = disk.written(path("source"), SIZE)
        with Network(loss) as network, \
                RemoteServer(network.hosts[1], program) as server, \
                disk.DiskDaemon(image,
                                prefix=network.hosts[0].prefix) as daemon:
            daemon.cmd("blockdev-add", driver="nbd", node_name="target",
                       server=server.address, export="disk", discard="unmap",
                       reconnect_delay=50)
            # The cut comes in the middle, whatever the machine is doing.
            self.speed = 16 * MiB
            writers = writing(daemon.client, SIZE, 2, PAUSE)
            try:
                yield daemon, server, network, writers
            finally:
                for writer in writers:
                    writer.ending.set()

    def mirror(self, daemon, mode):
        daemon.cmd("blockdev-mirror", job_id="job", device="disk",
                   target="target", sync="full", copy_mode=mode,
                   speed=self.speed)
        halfway(daemon)

    def ready(self, daemon):
        daemon.cmd("block-job-set-speed", device="job", speed=0)
        daemon.wait_ready("job")

    def pivot(self, daemon, writers):
        """The guest goes on there, and not here."""
        daemon.complete("job")
        (export,) = daemon.cmd("query-block-exports")
        self.assertEqual(export["node-name"], "target")
        daemon.cmd("blockdev-del", node_name="disk")
        before = iotests.run("sha256sum", path("source")).stdout
        with daemon.client() as client:
            client.pwrite(0, b"last" * 1024)
        for writer in writers:
            writer.end()
            writer.content.pop(0, None)
        self.assertEqual(before,
                         iotests.run("sha256sum", path("source")).stdout)

    def check(self, server, writers):
        with open(server.image, "rb") as file:
            for writer in writers:
                self.assertGreater(len(writer.content), 0)
                writer.check(file)

    def test_cut(self):
        """The link is cut, for a while: TCP makes good for it"""
        for program in DAEMON, STOCK_DAEMON:
            for mode in "background", "write-blocking":
                with self.subTest(program=os.path.basename(program),
                                  mode=mode), \
                        self.hosts(program) as (daemon, server, network,
                                                writers):
                    self.mirror(daemon, mode)
                    network.cut()
                    time.sleep(CUT_SECONDS)
                    self.assertEqual(
                        daemon.cmd("query-block-jobs")[0]["status"], "running")
                    network.mend()
                    self.ready(daemon)
                    self.pivot(daemon, writers)
                    self.check(server, writers)

    def test_equal(self):
        """Without a pivot both disks are the same"""
        with self.hosts() as (daemon, server, network, writers):
            self.mirror(daemon, "write-blocking")
            network.cut()
            time.sleep(CUT_SECONDS)
            network.mend()
            self.ready(daemon)
            for writer in writers:
                writer.end()
            daemon.finish("job")
            daemon.cmd("blockdev-del", node_name="target")
            self.assertTrue(iotests.identical(path("source"), server.image))
            self.check(server, writers)

    def test_server_dies(self):
        """And comes again: what it had in its page cache is there"""
        for mode in "background", "write-blocking":
            with self.subTest(mode=mode), \
                    self.hosts() as (daemon, server, _, writers):
                self.mirror(daemon, mode)
                for _ in range(2):
                    server.kill()
                    server.start()
                self.ready(daemon)
                server.kill()
                server.start()
                self.pivot(daemon, writers)
                self.check(server, writers)

    def test_backup(self):
        """What the disk held at the beginning, though it is written to"""
        with self.hosts() as (daemon, server, network, writers):
            for writer in writers:
                writer.end()
            iotests.run("cp", path("source"), path("before"))
            writers = writing(daemon.client, SIZE, 2, PAUSE)
            daemon.cmd("blockdev-backup", job_id="job", device="disk",
                       target="target", sync="full", speed=self.speed)
            halfway(daemon)
            network.cut()
            mender = threading.Timer(CUT_SECONDS, network.mend)
            mender.start()
            daemon.cmd("block-job-set-speed", device="job", speed=0)
            daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device="job")
            mender.join()
            for writer in writers:
                writer.end()
            daemon.cmd("blockdev-del", node_name="target")
            self.assertTrue(iotests.identical(path("before"), server.image))
            with open(path("source"), "rb") as file:
                for writer in writers:
                    writer.check(file)


if __name__ == "__main__":
    iotests.main()
