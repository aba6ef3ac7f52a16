# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts, and a link between them that loses packets and can be cut.

Each host is a network namespace with a TUN device; a process carries the packets
from one to the other. So it needs root, and nothing of the kernel but TUN: not
every kernel has netem.
"""

import contextlib
import ctypes
import fcntl
import multiprocessing
import os
import random
import select
import signal
import struct
import threading

import iotests

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000
_DEVICE, _MTU = "tun0", 1500


class Host:
    """One end: its IPv4 address, and what to put before a command so that it
    runs there"""

    def __init__(self, address):
        self.address = address
        self._error = None
        # A thread can be in a namespace of its own, and leaves it by its end.
        thread = threading.Thread(target=self._make)
        thread.start()
        thread.join()
        if self._error:
            raise self._error
        self.prefix = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{self._net}",
                       "--")
        iotests.run(*self.prefix, "ip", "link", "set", "lo", "up")
        iotests.run(*self.prefix, "ip", "address", "add", f"{address}/24",
                    "dev", _DEVICE)
        iotests.run(*self.prefix, "ip", "link", "set", "dev", _DEVICE,
                    "mtu", _MTU, "up")

    def _make(self):
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            self._net = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self.tun, _TUNSETIFF, struct.pack(
                "16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
        except OSError as error:
            self._error = error

    def close(self):
        os.close(self.tun)
        os.close(self._net)


class Network:
    """`hosts`, two of them, and the link. loss: the share of packets that do
    not arrive; the same @seed loses the same ones of the same traffic."""

    def __init__(self, loss=0.0, seed=0):
        self.hosts = (Host("10.99.0.1"), Host("10.99.0.2"))
        self._orders, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(
            target=_carry, daemon=True,
            args=([host.tun for host in self.hosts], theirs, loss, seed))
        self._process.start()
        theirs.close()

    def cut(self):
        """Nothing arrives from now on."""
        self._order("cut")

    def mend(self):
        self._order("mend")

    def counts(self):
        """Packets that arrived, and that were lost, so far"""
        return self._order("count")

    def _order(self, word):
        self._orders.send(word)
        return self._orders.recv()

    def close(self):
        self._orders.send("end")
        self._orders.close()
        self._process.join()
        for host in self.hosts:
            host.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _carry(tuns, orders, loss, seed):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    chance = random.Random(seed)
    other = {tuns[0]: tuns[1], tuns[1]: tuns[0]}
    poll = select.poll()
    for source in (*tuns, orders.fileno()):
        poll.register(source, select.POLLIN)
    arrived = lost = 0
    down = False
    while True:
        for ready, _ in poll.poll():
            if ready == orders.fileno():
                word = orders.recv()
                if word == "end":
                    return
                down = {"cut": True, "mend": False}.get(word, down)
                orders.send((arrived, lost))
                continue
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet = os.read(ready, _MTU + 100)
                    if down or chance.random() < loss:
                        lost += 1
                        continue
                    arrived += 1
                    # A full queue loses packets, too, as real ones do.
                    with contextlib.suppress(BlockingIOError):
                        os.write(other[ready], packet)
