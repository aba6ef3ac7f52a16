#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""When an NBD server goes away, requests wait for it as long as they are told;
and where it hangs or stays away, nobody waits for good."""

import errno
import os
import threading
import time
import unittest

import iotests
import nbd
from iotests import IMPATIENT_DAEMON, KiB, MiB, QMPError, path
from nbd_server import NbdDaemon, Nbdkit, QemuNbd

SIZE = 8 * MiB
# What is not for ever ends long before this: seconds
SOON = 20


def make_image(name="image", size=SIZE):
    with open(path(name), "wb") as file:
        file.truncate(size)
    return path(name)


class InTime:
    """What is done within took less than @seconds"""

    def __init__(self, seconds=SOON):
        self.seconds = seconds

    def __enter__(self):
        self.begin = time.monotonic()
        return self

    def __exit__(self, *_):
        self.took = time.monotonic() - self.begin
        if self.took > self.seconds:
            raise AssertionError(f"it took {self.took} seconds")


class LostServersComeBack(unittest.TestCase):

    def setUp(self):
        self.server = QemuNbd(make_image())
        self.addCleanup(self.server.kill)

    def send(self, client, offset, fill=b"x", length=64 * KiB):
        return client.send_request(nbd.CMD_WRITE, offset, length,
                                   fill * length)

    def assert_fails(self, client, code=errno.EIO):
        with self.assertRaises(OSError) as raised:
            client.pwrite(0, b"x" * 512)
        self.assertEqual(raised.exception.errno, code)

    def until_back(self, client):
        """There is a connection again"""
        end = time.monotonic() + iotests.TIMEOUT
        while True:
            try:
                return client.pread(0, 512)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def test_requests_wait(self):
        with NbdDaemon(self.server, reconnect_delay=600) as daemon, \
                daemon.connect() as client:
            client.pwrite(0, b"a" * MiB)
            self.server.kill()
            cookies = [self.send(client, number * 64 * KiB)
                       for number in range(16, 28)]
            read = client.send_request(nbd.CMD_READ, 0, 512)
            self.server.start()
            for cookie in cookies:
                client.reply(cookie)
            client.reply(read)
            self.assertEqual(client.pread(MiB - 1, 2), b"ax")
            client.flush()
            with self.server.connect() as other:
                self.assertEqual(other.pread(27 * 64 * KiB, 64 * KiB),
                                 b"x" * 64 * KiB)

    def test_sent_again(self):
        """What a server had and did not answer, the next one gets"""
        with NbdDaemon(self.server, reconnect_delay=600) as daemon, \
                daemon.connect() as client:
            for number in range(3):
                self.server.hang()
                cookies = [self.send(client, offset, b"%d" % number)
                           for offset in range(0, MiB, 64 * KiB)]
                self.assertFalse(any(map(client.replied, cookies)))
                self.server.kill()
                self.server.start()
                for cookie in cookies:
                    client.reply(cookie)
                self.assertEqual(client.pread(0, MiB), b"%d" % number * MiB)

    def test_no_delay(self):
        """Requests fail at once, and work again when there is a server"""
        with NbdDaemon(self.server) as daemon, daemon.connect() as client:
            client.pwrite(0, b"a" * 512)
            client.flush()
            self.server.hang()
            cookie = self.send(client, MiB)
            self.server.kill()
            with InTime():
                with self.assertRaises(OSError) as raised:
                    client.reply(cookie)
                self.assertEqual(raised.exception.errno, errno.EIO)
                self.assert_fails(client)
            self.server.start()
            self.assertEqual(self.until_back(client), b"a" * 512)
            client.pwrite(0, b"b" * 512)
            self.assertEqual(client.pread(0, 512), b"b" * 512)

    def test_delay_passes(self):
        with NbdDaemon(self.server, reconnect_delay=2) as daemon, \
                daemon.connect() as client:
            client.pwrite(0, b"a" * 512)
            client.flush()
            self.server.kill()
            with InTime() as waited:
                self.assert_fails(client)
            self.assertGreater(waited.took, 1)
            with InTime(1):
                self.assert_fails(client)
            self.server.start()
            self.assertEqual(self.until_back(client), b"a" * 512)

    def test_drain(self):
        """Who drains waits until the delay has passed"""
        with NbdDaemon(self.server, reconnect_delay=2) as daemon, \
                daemon.connect() as client:
            self.server.kill()
            cookie = self.send(client, 0)
            with InTime():
                daemon.cmd("blockdev-reopen", options=[{
                    "driver": "nbd", "node-name": "n", "discard": "ignore",
                    "server": self.server.address, "export": "",
                    "reconnect-delay": 2}])
            with self.assertRaises(OSError):
                client.reply(cookie)
            self.server.start()
            self.until_back(client)

    def test_another_disk(self):
        """The node fails for good"""
        daemon = NbdDaemon(self.server, reconnect_delay=600)
        try:
            with daemon.connect() as client:
                self.server.kill()
                cookie = self.send(client, 0)
                make_image(size=SIZE + MiB)
                self.server.start()
                with self.assertRaises(OSError):
                    client.reply(cookie)
                self.assertIn(f"the disk had {SIZE} bytes and now has "
                              f"{SIZE + MiB}", daemon.stderr())
                self.server.kill()
                make_image()
                self.server.start()
                self.assert_fails(client)
            with self.server.connect() as other:
                self.assertEqual(other.pread(0, 512), bytes(512))
        finally:
            daemon.kill()
            os.unlink(daemon.nbd_path)

    def test_knowledge_is_lost(self):
        """Zeroes that were written, and lost with the server, are no zeroes"""
        with NbdDaemon(self.server, reconnect_delay=600,
                       status_cache="on") as daemon, \
                daemon.connect() as client:
            client.pwrite(0, b"a" * MiB)
            client.write_zeroes(0, MiB)
            self.assertEqual(daemon.cache("n")["bytes-zero"], MiB)
            client.map()
            self.assertEqual(daemon.cache("n")["bytes-zero"], SIZE)
            self.server.kill()
            with open(path("image"), "r+b") as image:
                image.write(b"a" * MiB)
            self.server.start()
            # Reads of zeroes that are known do not show that it was lost.
            client.pwrite(2 * MiB, b"b" * 4 * KiB)
            self.assertEqual(daemon.cache("n")["bytes-zero"], 0)
            self.assertEqual(client.pread(0, MiB), b"a" * MiB)
            self.assertEqual(daemon.cache("n")["mode"], "on")

    def test_open_timeout(self):
        self.server.kill()
        with iotests.Daemon() as daemon:
            options = {"driver": "nbd", "node_name": "n",
                       "server": self.server.address}
            with self.assertRaisesRegex(QMPError, "Failed to connect"):
                daemon.cmd("blockdev-add", **options)
            with InTime() as waited, \
                    self.assertRaisesRegex(QMPError, "Failed to connect"):
                daemon.cmd("blockdev-add", open_timeout=2, **options)
            self.assertGreater(waited.took, 1)
            adder = threading.Thread(target=daemon.cmd, args=("blockdev-add",),
                                     kwargs={"open_timeout": 600, **options})
            adder.start()
            self.server.start()
            adder.join()
            self.assertEqual(
                len(daemon.cmd("query-named-block-nodes")), 1)


class HungServersHoldUpNobody(unittest.TestCase):

    def setUp(self):
        self.server = QemuNbd(make_image())
        self.addCleanup(self.server.kill)

    def test_removal(self):
        """Of an export whose request waits, and of the node"""
        with NbdDaemon(self.server) as daemon, daemon.connect() as client:
            self.server.hang()
            client.send_request(nbd.CMD_READ, 0, 512)
            with InTime():
                daemon.cmd("block-export-del", id="out", mode="hard")
                daemon.qmp.wait_event("BLOCK_EXPORT_DELETED")
                daemon.cmd("blockdev-del", node_name="n")

    def test_goodbye(self):
        """A server that does not hang is told the end"""
        server = Nbdkit("-v memory 1M")
        with server:
            with NbdDaemon(server):
                pass
            server.kill()
            with open(server.socket + ".stderr", encoding="utf-8") as log:
                self.assertIn("client sent NBD_CMD_DISC", log.read())

    def test_end(self):
        daemon = NbdDaemon(self.server)
        with daemon, daemon.connect() as client:
            client.pwrite(0, b"a" * 512)
            client.flush()
            self.server.hang()
            client.send_request(nbd.CMD_WRITE_ZEROES, 0, 512)
            # The write may have been done, so there is a flush; it fails soon.
            with InTime():
                daemon.process.terminate()
                daemon.process.wait(iotests.TIMEOUT)
        self.assertIn("flush", daemon.stderr())

    def test_end_in_time(self):
        """The last flush does not come to an end"""
        daemon = NbdDaemon(self.server, program=IMPATIENT_DAEMON)
        try:
            with daemon.connect() as client:
                client.pwrite(0, b"a" * 512)
            self.server.hang()
            with InTime():
                daemon.process.terminate()
                self.assertEqual(daemon.process.wait(iotests.TIMEOUT), 1)
        finally:
            daemon.kill()

    def test_job(self):
        """A mirror whose target hangs is cancelled"""
        make_image("source")
        with NbdDaemon(self.server, "--blockdev",
                       f"file,node-name=source,filename={path('source')}",
                       ) as daemon:
            daemon.cmd("block-export-del", id="out")
            with open(path("source"), "r+b") as file:
                file.write(b"s" * SIZE)
            self.server.hang()
            daemon.cmd("blockdev-mirror", job_id="m", device="source",
                       target="n", sync="full")
            with InTime():
                daemon.cmd("block-job-cancel", device="m", force=True)
                daemon.qmp.wait_event("BLOCK_JOB_CANCELLED")
            self.server.kill()
            self.server.start()


if __name__ == "__main__":
    iotests.main()
